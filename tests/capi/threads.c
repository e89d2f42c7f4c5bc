/* What threads may do at once, and what they are refused. */
#include "check.h"
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 8 };

/* Runs `body` on THREADS threads at once; each gets its number. */
static void on_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static flatkv_t *store;
static flatkv_batch_t *batch;
static flatkv_options_t *options;
static flatkv_write_options_t *write_options;
static flatkv_pin_t *pins[THREADS];
static int counts[THREADS];

static void *fill_the_one_batch(void *me)
{
    int *added = &counts[(intptr_t)me];
    for (int i = 0; i < 20000; i++) {
        int key[2] = { (int)(intptr_t)me, i };
        flatkv_status_t status = flatkv_batch_put(batch, key, sizeof key, "value", 5);
        if (status == FLATKV_OK)
            (*added)++;
        else
            GIVES(FLATKV_E_BUSY, status);
    }
    return NULL;
}

static void one_batch_on_many_threads_is_busy_and_loses_nothing_it_accepted(void)
{
    size_t added = 0;
    batch = flatkv_batch_new();
    memset(counts, 0, sizeof counts);
    on_threads(fill_the_one_batch);
    for (int i = 0; i < THREADS; i++)
        added += (size_t)counts[i];
    CHECK(added > 0 && flatkv_batch_count(batch) == added);
    flatkv_batch_free(batch);
}

static void *fill_clear_and_free_the_one_batch(void *me)
{
    for (int i = 0; i < 2000; i++) {
        flatkv_status_t status = flatkv_batch_put(batch, "key", 3, "value", 5);
        CHECK(status == FLATKV_OK || status == FLATKV_E_BUSY || status == FLATKV_E_CLOSED);
        (void)flatkv_batch_count(batch);
        if (i % 100 == 0)
            flatkv_batch_clear(batch);
        if (i == 1000 && (intptr_t)me % 2 == 0)
            flatkv_batch_free(batch);
    }
    return NULL;
}

static void a_batch_freed_while_others_use_it_ends_once(void)
{
    for (int round = 0; round < 20; round++) {
        batch = flatkv_batch_new();
        on_threads(fill_clear_and_free_the_one_batch);
        GIVES(FLATKV_E_CLOSED, flatkv_batch_put(batch, "key", 3, "value", 5));
    }
}

static void *write_with_the_shared_options(void *me)
{
    for (int i = 0; i < 500; i++)
        OK(flatkv_put_with(store, write_options, &me, sizeof me, &i, sizeof i));
    return NULL;
}

static void write_options_and_a_batch_may_be_read_by_all_threads_at_once(void)
{
    store = open_store("shared-options");
    write_options = flatkv_write_options_new();
    OK(flatkv_write_options_set(write_options, "durability", "os"));
    on_threads(write_with_the_shared_options);
    flatkv_write_options_free(write_options);
    OK(flatkv_close(store));
}

static void *open_with_the_shared_options(void *me)
{
    char name[32];
    flatkv_t *mine;
    snprintf(name, sizeof name, "%s/own-%d", test_dir, (int)(intptr_t)me);
    for (int i = 0; i < 5; i++) {
        OK(flatkv_open(name, options, &mine));
        OK(flatkv_put(mine, &i, sizeof i, "v", 1));
        OK(flatkv_close(mine));
    }
    return NULL;
}

static void options_may_be_used_to_open_many_stores_at_once(void)
{
    const char *dir = test_dir;
    CHECK(chdir(dir) == 0);
    test_dir = ".";
    options = flatkv_options_new();
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_options_set(options, "segment_size_bytes", "128KiB"));
    on_threads(open_with_the_shared_options);
    flatkv_options_free(options);
}

static void *read_and_free_the_pins(void *me)
{
    for (int i = 0; i < THREADS; i++) {
        const uint8_t *data = flatkv_pin_data(pins[i]);
        CHECK(data == NULL || (intptr_t)me >= 0);
        (void)flatkv_pin_len(pins[i]);
    }
    flatkv_pin_free(pins[((intptr_t)me + 1) % THREADS]);
    return NULL;
}

static void pins_are_freed_by_other_threads_after_close_was_refused(void)
{
    store = open_store("pins");
    put_text(store, "k", "v");
    for (int i = 0; i < THREADS; i++)
        OK(flatkv_get_pinned(store, "k", 1, &pins[i]));
    GIVES(FLATKV_E_BUSY, flatkv_close(store));
    SAYS("8");
    on_threads(read_and_free_the_pins);
    OK(flatkv_close(store));
}

static void *call_until_closed(void *me)
{
    flatkv_buffer_t value;
    flatkv_pin_t *pin;
    uint64_t ticket;
    for (unsigned i = 0;; i++) {
        flatkv_status_t status;
        switch (((uintptr_t)me + i) % 6) {
        case 0: status = flatkv_put(store, &me, sizeof me, &i, sizeof i); break;
        case 1: status = flatkv_get(store, &me, sizeof me, &value); flatkv_buffer_free(&value); break;
        case 2: status = flatkv_get_pinned(store, &me, sizeof me, &pin); flatkv_pin_free(pin); break;
        case 3: status = flatkv_put_async(store, &me, sizeof me, &i, sizeof i, &ticket); break;
        case 4: status = flatkv_sync(store); break;
        default: status = flatkv_stats_json(store, &value); flatkv_buffer_free(&value); break;
        }
        if (status == FLATKV_E_CLOSED)
            return NULL;
        CHECK(status == FLATKV_OK || status == FLATKV_NOT_FOUND);
    }
}

static void *close_soon(void *nothing)
{
    flatkv_status_t status;
    (void)nothing;
    usleep(20000);
    while ((status = flatkv_close(store)) == FLATKV_E_BUSY) /* another thread holds a pin at this moment */
        usleep(100);
    if (status == FLATKV_OK)
        __atomic_fetch_add(&counts[0], 1, __ATOMIC_SEQ_CST);
    else
        GIVES(FLATKV_E_CLOSED, status);
    return NULL;
}

/* While close is refused because of pins, calls in between may see FLATKV_E_CLOSED and end: that is what it says. */
static void close_waits_for_calls_and_one_closer_wins(void)
{
    pthread_t closers[2];
    for (int round = 0; round < 5; round++) {
        char name[32];
        snprintf(name, sizeof name, "closing-%d", round);
        store = open_store(name);
        counts[0] = 0;
        for (int i = 0; i < 2; i++)
            CHECK(pthread_create(&closers[i], NULL, close_soon, NULL) == 0);
        on_threads(call_until_closed);
        for (int i = 0; i < 2; i++)
            CHECK(pthread_join(closers[i], NULL) == 0);
        CHECK(counts[0] == 1);
        OK(flatkv_close(open_store(name)));
    }
}

static void *fail_with_my_number(void *me)
{
    char name[16], expected[64];
    flatkv_options_t *mine = flatkv_options_new();
    snprintf(name, sizeof name, "wrong-%d", (int)(intptr_t)me);
    snprintf(expected, sizeof expected, "unknown option \"%s\"", name);
    for (int i = 0; i < 1000; i++) {
        GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_options_set(mine, name, "x"));
        SAYS(expected);
    }
    flatkv_options_free(mine);
    return NULL;
}

static void each_thread_has_its_own_last_error(void)
{
    on_threads(fail_with_my_number);
}

static pthread_key_t at_thread_end;

static void call_at_thread_end(void *nothing)
{
    (void)nothing;
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_sync(NULL));
    (void)flatkv_last_error();
    flatkv_batch_free(flatkv_batch_new());
}

static void *fail_and_end(void *me)
{
    CHECK(pthread_setspecific(at_thread_end, &at_thread_end) == 0);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_sync(NULL));
    return me;
}

static void calls_work_while_a_thread_ends(void)
{
    CHECK(pthread_key_create(&at_thread_end, call_at_thread_end) == 0);
    on_threads(fail_and_end);
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(one_batch_on_many_threads_is_busy_and_loses_nothing_it_accepted);
    RUN(a_batch_freed_while_others_use_it_ends_once);
    RUN(write_options_and_a_batch_may_be_read_by_all_threads_at_once);
    RUN(pins_are_freed_by_other_threads_after_close_was_refused);
    RUN(close_waits_for_calls_and_one_closer_wins);
    RUN(each_thread_has_its_own_last_error);
    RUN(calls_work_while_a_thread_ends);
    RUN(options_may_be_used_to_open_many_stores_at_once);
    return 0;
}
