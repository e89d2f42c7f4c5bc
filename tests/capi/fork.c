/* A child of fork is told that the handles are its parent's; the parent goes on. */
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `body` in a child; it must end there with exit code 0. */
static void in_child(void (*body)(void))
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(20); /* a child that hangs must not hang the test */
        body();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("the child ended with status %#x", (unsigned)status);
}

static flatkv_t *store;
static flatkv_batch_t *batch;
static int stop;

/* Forks `children` that do `in_each` while `count` threads do `body`, each with its number. */
static void fork_beside(int count, void *(*body)(void *), int children, void (*in_each)(void))
{
    pthread_t threads[4];
    CHECK(count <= 4);
    __atomic_store_n(&stop, 0, __ATOMIC_SEQ_CST);
    for (intptr_t i = 0; i < count; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < children; i++)
        in_child(in_each);
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < count; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static void use_the_parents_store(void)
{
    flatkv_buffer_t value;
    GIVES(FLATKV_E_FORKED, flatkv_put(store, "k", 1, "child", 5));
    GIVES(FLATKV_E_FORKED, flatkv_delete(store, "k", 1));
    GIVES(FLATKV_E_FORKED, flatkv_get(store, "k", 1, &value));
    CHECK(value.data == NULL);
    GIVES(FLATKV_E_FORKED, flatkv_write(store, batch));
    GIVES(FLATKV_E_FORKED, flatkv_sync(store));
    GIVES(FLATKV_E_FORKED, flatkv_maintenance_pause(store));
    GIVES(FLATKV_E_FORKED, flatkv_maintenance_resume(store));
    GIVES(FLATKV_E_FORKED, flatkv_health(store));
    GIVES(FLATKV_E_FORKED, flatkv_verify(store, &value));
    CHECK(value.data == NULL);
    GIVES(FLATKV_E_FORKED, flatkv_close(store));
    SAYS("flatkv_close: the handle belongs to the parent of this forked process");
    OK(flatkv_batch_put(batch, "x", 1, "y", 1));
    flatkv_batch_free(batch);
}

static void a_child_is_refused_and_the_parent_goes_on(void)
{
    store = open_store("forked");
    batch = flatkv_batch_new();
    put_text(store, "k", "parent");
    in_child(use_the_parents_store);
    CHECK(flatkv_batch_count(batch) == 0);
    put_text(store, "l", "parent");
    expect_text(store, "k", "parent");
    OK(flatkv_close(store));
    flatkv_batch_free(batch);
}

static void open_a_store_of_its_own(void)
{
    flatkv_t *mine = open_store("childs-own");
    put_text(mine, "k", "child");
    OK(flatkv_close(mine));
}

static void *keep_calling(void *mine)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        flatkv_batch_free(flatkv_batch_new());
        OK(flatkv_put(store, &mine, sizeof mine, "v", 1));
    }
    return NULL;
}

static void close_only(void)
{
    GIVES(FLATKV_E_FORKED, flatkv_close(store));
    for (int i = 0; i < 1000; i++)
        flatkv_batch_free(flatkv_batch_new());
}

/* The child inherits the counts of calls by threads that it does not have: close must not wait for them. */
static void a_child_forked_during_calls_does_not_hang_in_close(void)
{
    store = open_store("forked-in-calls");
    fork_beside(4, keep_calling, 50, close_only);
    OK(flatkv_close(store));
}

#define KEYS 200

static void *keep_writing_keys(void *mine)
{
    uint64_t key = (uint64_t)(intptr_t)mine;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        key = (key * 2862933555777941757u + 3037000493u) >> 1;
        uint64_t one = key % KEYS, fresh = KEYS + key % 100000 * 4 + (uint64_t)(intptr_t)mine;
        OK(flatkv_put(store, &one, sizeof one, "v", 1));
        OK(flatkv_put(store, &fresh, sizeof fresh, "v", 1));
        OK(flatkv_delete(store, &fresh, sizeof fresh));
    }
    return NULL;
}

static void read_all_keys(void)
{
    char value[8];
    size_t len;
    flatkv_buffer_t copy;
    for (uint64_t key = 0; key < KEYS; key++) {
        GIVES(FLATKV_E_FORKED, flatkv_get_into(store, &key, sizeof key, value, sizeof value, &len));
        GIVES(FLATKV_E_FORKED, flatkv_get(store, &key, sizeof key, &copy));
        GIVES(FLATKV_E_FORKED, flatkv_exists(store, &key, sizeof key));
    }
}

/* A thread that the child does not have may hold a lock of the index for ever: reads must not come to it. */
static void a_child_forked_during_writes_does_not_hang_in_reads(void)
{
    flatkv_options_t *options = flatkv_options_new();
    OK(flatkv_options_set(options, "media", "emulated-pm"));
    OK(flatkv_open(path_of("forked-in-writes"), options, &store));
    flatkv_options_free(options);
    fork_beside(4, keep_writing_keys, 300, read_all_keys);
    OK(flatkv_close(store));
}

static void *keep_getting(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        char value[8];
        size_t len;
        OK(flatkv_get_into(store, "k", 1, value, sizeof value, &len));
        CHECK(len == 6);
    }
    return NULL;
}

/* What it overwrites and deletes is retired beside looks of its parent's threads that never end here. */
static void read_and_write_a_store_of_its_own(void)
{
    static char large[100000];
    char value[8];
    size_t len;
    flatkv_t *mine = open_store("childs-own-beside-gets");
    for (int i = 0; i < 50; i++) {
        OK(flatkv_put(mine, "k", 1, "child", 5));
        OK(flatkv_put(mine, "large", 5, large, sizeof large));
        OK(flatkv_get_into(mine, "k", 1, value, sizeof value, &len));
        CHECK(len == 5 && memcmp(value, "child", 5) == 0);
        OK(flatkv_delete(mine, "k", 1));
        GIVES(FLATKV_NOT_FOUND, flatkv_get_into(mine, "k", 1, value, sizeof value, &len));
    }
    OK(flatkv_close(mine));
}

static void a_child_forked_during_gets_has_a_store_of_its_own(void)
{
    store = open_store("forked-in-gets");
    put_text(store, "k", "parent");
    fork_beside(2, keep_getting, 5, read_and_write_a_store_of_its_own);
    OK(flatkv_close(store));
}

static void a_child_may_open_a_store_of_its_own(void)
{
    store = open_store("parents-own");
    in_child(open_a_store_of_its_own);
    OK(flatkv_close(store));
    store = open_store("childs-own");
    expect_text(store, "k", "child");
    OK(flatkv_close(store));
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(a_child_is_refused_and_the_parent_goes_on);
    RUN(a_child_forked_during_calls_does_not_hang_in_close);
    RUN(a_child_forked_during_writes_does_not_hang_in_reads);
    RUN(a_child_forked_during_gets_has_a_store_of_its_own);
    RUN(a_child_may_open_a_store_of_its_own);
    return 0;
}
