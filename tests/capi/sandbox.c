/* A process may have given up the system call with which the library spares reads a fence, before a store is opened or
 * while it is used: nothing else changes. */
#include "check.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VALUE_BYTES = 100000, READERS = 2, NOT_RUN = 77 };

/* Memory barriers on all threads are refused from now on, to every thread. */
static void refuse_barriers(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        _exit(NOT_RUN);
    errno = 0;
    CHECK(syscall(__NR_membarrier, 0, 0, 0) == -1 && errno == EPERM);
}

static flatkv_t *store;
static int stop;

/* A value has one letter: one whose space was given away too early has others. */
static void *keep_reading(void *unused)
{
    static const char keys[] = "ab";
    char *value = malloc(VALUE_BYTES);
    (void)unused;
    for (int i = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); i++) {
        size_t len;
        OK(flatkv_get_into(store, &keys[i % 2], 1, value, VALUE_BYTES, &len));
        CHECK(len == VALUE_BYTES && memcmp(value, value + 1, VALUE_BYTES - 1) == 0);
    }
    free(value);
    return NULL;
}

static void overwrite(int times)
{
    static char value[VALUE_BYTES];
    for (int i = 0; i < times; i++) {
        memset(value, 'A' + i % 26, sizeof value);
        OK(flatkv_put(store, i % 2 == 0 ? "a" : "b", 1, value, sizeof value));
    }
}

/* Writes the pool many times over, beside readers. */
static void use_a_full_store(const char *name, int refused_from_the_start)
{
    pthread_t readers[READERS];
    flatkv_options_t *options = flatkv_options_new();
    if (refused_from_the_start)
        refuse_barriers();
    OK(flatkv_options_set(options, "media", "emulated-pm"));
    OK(flatkv_options_set(options, "segment_size_bytes", "128KiB"));
    OK(flatkv_options_set(options, "max_bytes", "8MiB"));
    OK(flatkv_open(path_of(name), options, &store));
    flatkv_options_free(options);
    overwrite(2);
    for (int i = 0; i < READERS; i++)
        CHECK(pthread_create(&readers[i], NULL, keep_reading, NULL) == 0);
    overwrite(500);
    if (!refused_from_the_start)
        refuse_barriers();
    overwrite(500);
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < READERS; i++)
        CHECK(pthread_join(readers[i], NULL) == 0);
    OK(flatkv_close(store));
}

/* A filter is for ever, so each has a process of its own. */
static void in_a_process_of_its_own(const char *name, int refused_from_the_start)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* a child that hangs must not hang the test */
        use_a_full_store(name, refused_from_the_start);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_RUN)
        printf("    not run: this system has no filters of system calls\n");
    else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("the child ended with status %#x", (unsigned)status);
}

static void space_comes_free_where_barriers_are_refused(void)
{
    in_a_process_of_its_own("refused", 1);
}

static void space_comes_free_when_barriers_are_refused_later(void)
{
    in_a_process_of_its_own("refused-later", 0);
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(space_comes_free_where_barriers_are_refused);
    RUN(space_comes_free_when_barriers_are_refused_later);
    return 0;
}
