/* A pool that is full: what is refused changes nothing, and everything but new data goes on. */
#include "check.h"

enum { VALUE_LEN = 2000, KEYS_MAX = 100000, TRIES_MAX = 1000 };

static unsigned char value[VALUE_LEN];

/* Opens a pool of 4 MiB at most whose writes wait so long for room. */
static flatkv_t *open_small(const char *name, const char *write_stall_ms_max)
{
    flatkv_t *store = NULL;
    flatkv_options_t *options = flatkv_options_new();
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_options_set(options, "max_bytes", "4MiB"));
    OK(flatkv_options_set(options, "write_stall_ms_max", write_stall_ms_max));
    OK(flatkv_open(path_of(name), options, &store));
    flatkv_options_free(options);
    return store;
}

static flatkv_status_t put_number(flatkv_t *store, unsigned number)
{
    memset(value, (int)(number & 0xff), sizeof value);
    return flatkv_put(store, &number, sizeof number, value, sizeof value);
}

static void expect_number(flatkv_t *store, unsigned number)
{
    flatkv_buffer_t found = { NULL, 0 };
    memset(value, (int)(number & 0xff), sizeof value);
    OK(flatkv_get(store, &number, sizeof number, &found));
    CHECK(found.len == sizeof value && memcmp(found.data, value, sizeof value) == 0);
    flatkv_buffer_free(&found);
}

/* Puts new keys until one is refused for want of space; how many were taken. */
static unsigned fill(flatkv_t *store)
{
    for (unsigned number = 0; number < KEYS_MAX; number++) {
        flatkv_status_t status = put_number(store, number);
        if (status != FLATKV_OK) {
            GIVES(FLATKV_E_NO_SPACE, status);
            SAYS("max_bytes");
            GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, &number, sizeof number));
            return number;
        }
    }
    FAIL("the pool takes more than its quota");
}

static void a_full_pool_deletes_and_then_takes_puts_again_without_reopening(void)
{
    /* Longer than anybody would wait for this test. */
    flatkv_t *store = open_small("full", "600000");
    unsigned first = 0;
    for (unsigned round = 0; round < 3; round++) {
        unsigned taken = fill(store);
        if (round == 0)
            first = taken;
        CHECK(taken >= first - first / 4);
        GIVES(FLATKV_E_NO_SPACE, flatkv_maintenance_pause(store));
        SAYS("maintenance cannot be paused now");
        OK(flatkv_health(store));
        for (unsigned number = 0; number < taken; number++) {
            expect_number(store, number);
            OK(flatkv_delete(store, &number, sizeof number));
        }
        GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "\0\0\0", 4));
    }
    OK(put_number(store, 7));
    expect_number(store, 7);
    OK(flatkv_close(store));
}

static void what_waits_for_a_paused_cleaner_times_out_and_changes_nothing(void)
{
    flatkv_t *store = open_small("paused", "30");
    unsigned round = 0, tries = 0;
    flatkv_status_t status;
    OK(flatkv_maintenance_pause(store));
    /* All that fills the pool are dead values of one key. */
    do {
        memset(value, (int)(round & 0xff), sizeof value);
        status = flatkv_put(store, "key", 3, value, sizeof value);
        round++;
    } while (status == FLATKV_OK && round < KEYS_MAX);
    GIVES(FLATKV_E_TIMED_OUT, status);
    SAYS("no room after");
    GIVES(FLATKV_E_TIMED_OUT, put_number(store, 1));
    unsigned number = 1;
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, &number, sizeof number));
    flatkv_buffer_t found = { NULL, 0 };
    OK(flatkv_get(store, "key", 3, &found));
    CHECK(found.len == sizeof value && found.data[0] == (unsigned char)(round - 2));
    flatkv_buffer_free(&found);
    OK(flatkv_health(store));
    OK(flatkv_maintenance_resume(store));
    /* On a busy machine the cleaner may need more than one wait. */
    do
        status = put_number(store, 1);
    while (status == FLATKV_E_TIMED_OUT && ++tries < TRIES_MAX);
    OK(status);
    expect_number(store, 1);
    OK(flatkv_close(store));
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    test_dir = argv[1];
    RUN(a_full_pool_deletes_and_then_takes_puts_again_without_reopening);
    RUN(what_waits_for_a_paused_cleaner_times_out_and_changes_nothing);
    return 0;
}
