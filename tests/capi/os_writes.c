/* Durability "os" for a whole store: what was acknowledged survives a killed process, however the file is written. */
#include "check.h"
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEYS = 3000, PUTS_BEFORE_THE_KILL = 20000 };

static flatkv_t *open_for_os_writes(const char *name, const char *sigbus)
{
    flatkv_t *store = NULL;
    flatkv_options_t *options = flatkv_options_new();
    OK(flatkv_options_set(options, "durability", "os"));
    OK(flatkv_options_set(options, "sigbus", sigbus));
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_open(path_of(name), options, &store));
    flatkv_options_free(options);
    return store;
}

/* A value names its put; every length from a few bytes to more than a page comes up. */
static size_t value_of(uint64_t number, unsigned char *value)
{
    size_t len = 8 + number * 37 % (number % 50 == 0 ? 9000 : 300);
    memset(value, (int)(number % 251), len);
    memcpy(value, &number, sizeof number);
    return len;
}

static void put_until_killed(const char *name, const char *sigbus, volatile uint64_t *acknowledged)
{
    unsigned char value[9100];
    flatkv_t *store = open_for_os_writes(name, sigbus);
    for (uint64_t number = *acknowledged;; number++) {
        uint64_t key = number % KEYS;
        OK(flatkv_put(store, &key, sizeof key, value, value_of(number, value)));
        if (number % 700 == 0)
            OK(flatkv_sync(store));
        *acknowledged = number + 1;
    }
}

/* The newest put of each key that was acknowledged is there, or the one that was under way. */
static void expect_acknowledged(const char *name, const char *sigbus, uint64_t acknowledged)
{
    unsigned char value[9100];
    flatkv_t *store = open_for_os_writes(name, sigbus);
    for (uint64_t number = acknowledged - KEYS; number < acknowledged; number++) {
        flatkv_buffer_t found;
        uint64_t key = number % KEYS, put;
        OK(flatkv_get(store, &key, sizeof key, &found));
        CHECK(found.len >= sizeof put);
        memcpy(&put, found.data, sizeof put);
        CHECK(put == number || put == acknowledged);
        CHECK(found.len == value_of(put, value) && memcmp(found.data, value, found.len) == 0);
        flatkv_buffer_free(&found);
    }
    OK(flatkv_close(store));
}

static void kill_and_look(const char *name, const char *sigbus)
{
    volatile uint64_t *acknowledged =
        mmap(NULL, sizeof *acknowledged, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((const volatile void *)acknowledged != MAP_FAILED);
    *acknowledged = 0;
    for (uint64_t round = 1; round <= 3; round++) {
        int status = 0;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            put_until_killed(name, sigbus, acknowledged);
        while (*acknowledged < round * PUTS_BEFORE_THE_KILL && waitpid(child, &status, WNOHANG) == 0)
            usleep(100);
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        expect_acknowledged(name, sigbus, *acknowledged);
    }
}

static void acknowledged_os_writes_survive_a_kill(void)
{
    kill_and_look("killed", "default");
}

static void acknowledged_os_writes_survive_a_kill_with_guarded_reads(void)
{
    kill_and_look("guarded", "guard");
}

static void a_guarded_store_stores_nothing_through_its_mapping(void)
{
    flatkv_buffer_t stats;
    flatkv_t *store = open_for_os_writes("guarded-stats", "guard");
    OK(flatkv_stats_json(store, &stats));
    CHECK(memmem(stats.data, stats.len, "media_why", 9) != NULL);
    CHECK(memmem(stats.data, stats.len, "through the mapping", 19) == NULL);
    flatkv_buffer_free(&stats);
    OK(flatkv_close(store));
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(acknowledged_os_writes_survive_a_kill);
    RUN(acknowledged_os_writes_survive_a_kill_with_guarded_reads);
    RUN(a_guarded_store_stores_nothing_through_its_mapping);
    return 0;
}
