/* Every function that takes a handle or a pointer answers every wrong one with a status, and nothing else happens. */
#include "check.h"

enum kind { STORE, OPTIONS, WRITE_OPTIONS, BATCH, PIN, SNAPSHOT, ITER, KINDS };
static const char *const kind_names[KINDS] = { "store", "options", "write options", "batch", "pin", "snapshot", "iterator" };

/* Live handles, one of each kind, and closed ones. */
static void *live[KINDS], *closed[KINDS];

static flatkv_buffer_t out_buffer;
static flatkv_pin_t *out_pin;
static flatkv_t *out_store;
static flatkv_snapshot_t *out_snapshot;
static flatkv_iter_t *out_iter;
static uint64_t out_keys, out_bytes;
static size_t out_len;
static uint64_t out_ticket;
static flatkv_slice_t one_key = { (const uint8_t *)"k", 1 }, out_slice;
static flatkv_status_t out_status;
static char buf[64];

/* Calls without a status answer 1 for "nothing", which is what they must say about a bad handle. */
#define NOTHING(condition) ((condition) ? -1 : 0)

static int open_with(void *h) { return flatkv_open(path_of("abuse-open"), h, &out_store); }
static int close_it(void *h) { return flatkv_close(h); }
static int put(void *h) { return flatkv_put(h, "k", 1, "v", 1); }
static int put_with(void *h) { return flatkv_put_with(h, live[WRITE_OPTIONS], "k", 1, "v", 1); }
static int put_with_options(void *h) { return flatkv_put_with(live[STORE], h, "k", 1, "v", 1); }
static int delete_it(void *h) { return flatkv_delete(h, "k", 1); }
static int exists(void *h) { return flatkv_exists(h, "k", 1); }
static int get(void *h) { return flatkv_get(h, "k", 1, &out_buffer); }
static int get_into(void *h) { return flatkv_get_into(h, "k", 1, buf, sizeof buf, &out_len); }
static int get_pinned(void *h) { return flatkv_get_pinned(h, "k", 1, &out_pin); }
static int multi_get(void *h) { return flatkv_multi_get(h, 1, &one_key, &out_buffer, &out_status); }
static int multi_get_into(void *h)
{
    return flatkv_multi_get_into(h, 1, &one_key, buf, sizeof buf, &out_slice, &out_status, &out_len);
}
static int write_to(void *h) { return flatkv_write(h, live[BATCH]); }
static int write_batch(void *h) { return flatkv_write(live[STORE], h); }
static int write_with_to(void *h) { return flatkv_write_with(h, live[WRITE_OPTIONS], live[BATCH]); }
static int write_with_options(void *h) { return flatkv_write_with(live[STORE], h, live[BATCH]); }
static int write_with_batch(void *h) { return flatkv_write_with(live[STORE], live[WRITE_OPTIONS], h); }
static int put_async(void *h) { return flatkv_put_async(h, "k", 1, "v", 1, &out_ticket); }
static int write_async_to(void *h) { return flatkv_write_async(h, live[BATCH], &out_ticket); }
static int write_async_batch(void *h) { return flatkv_write_async(live[STORE], h, &out_ticket); }
static int wait_for(void *h) { return flatkv_wait(h, 1); }
static int sync_it(void *h) { return flatkv_sync(h); }
static int pause_it(void *h) { return flatkv_maintenance_pause(h); }
static int resume_it(void *h) { return flatkv_maintenance_resume(h); }
static int stats(void *h) { return flatkv_stats_json(h, &out_buffer); }
static int verify_it(void *h) { return flatkv_verify(h, &out_buffer); }
static int health(void *h) { return flatkv_health(h); }
static int batch_put(void *h) { return flatkv_batch_put(h, "k", 1, "v", 1); }
static int batch_delete(void *h) { return flatkv_batch_delete(h, "k", 1); }
static int batch_put_in(void *h) { return flatkv_batch_put_in(h, live[STORE], "k", 1, "v", 1); }
static int batch_put_in_store(void *h) { return flatkv_batch_put_in(live[BATCH], h, "k", 1, "v", 1); }
static int batch_delete_in(void *h) { return flatkv_batch_delete_in(h, live[STORE], "k", 1); }
static int batch_delete_in_store(void *h) { return flatkv_batch_delete_in(live[BATCH], h, "k", 1); }
static int keyspace_open(void *h) { return flatkv_keyspace_open(h, "keyspace", &out_store); }
static int keyspace_find(void *h) { return flatkv_keyspace_find(h, "keyspace", &out_store); }
static int keyspace_drop(void *h) { return flatkv_keyspace_drop(h, "keyspace"); }
static int keyspace_clear(void *h) { return flatkv_keyspace_clear(h); }
static int keyspace_list(void *h) { return flatkv_keyspace_list(h, &out_buffer); }
static int options_set(void *h) { return flatkv_options_set(h, "create", "true"); }
static int write_options_set(void *h) { return flatkv_write_options_set(h, "durability", "os"); }
static int durable_ticket(void *h) { return NOTHING(flatkv_durable_ticket(h) == 0); }
static int batch_count(void *h) { return NOTHING(flatkv_batch_count(h) == 0); }
static int batch_clear(void *h) { return flatkv_batch_clear(h), -1; }
static int pin_data(void *h) { return NOTHING(flatkv_pin_data(h) == NULL); }
static int pin_len(void *h) { return NOTHING(flatkv_pin_len(h) == 0); }
static int snapshot_new(void *h) { return flatkv_snapshot_new(h, &out_snapshot); }
static int snapshot_get(void *h) { return flatkv_snapshot_get(h, "k", 1, &out_buffer); }
static int snapshot_get_in(void *h) { return flatkv_snapshot_get_in(h, live[STORE], "k", 1, &out_buffer); }
static int snapshot_get_in_store(void *h) { return flatkv_snapshot_get_in(live[SNAPSHOT], h, "k", 1, &out_buffer); }
static int snapshot_multi_get(void *h) { return flatkv_snapshot_multi_get(h, 1, &one_key, &out_buffer, &out_status); }
static int snapshot_multi_get_in(void *h) { return flatkv_snapshot_multi_get_in(h, live[STORE], 1, &one_key, &out_buffer, &out_status); }
static int snapshot_multi_get_in_store(void *h) { return flatkv_snapshot_multi_get_in(live[SNAPSHOT], h, 1, &one_key, &out_buffer, &out_status); }
static int snapshot_keyspace(void *h) { return flatkv_snapshot_keyspace(h, "keyspace", &out_snapshot); }
static int snapshot_keyspace_list(void *h) { return flatkv_snapshot_keyspace_list(h, &out_buffer); }
static int snapshot_iter_new(void *h) { return flatkv_snapshot_iter_new(h, &out_iter); }
static int snapshot_kept_bytes(void *h) { return NOTHING(flatkv_snapshot_kept_bytes(h) == 0); }
static int snapshot_free(void *h) { return flatkv_snapshot_free(h), -1; }
static int iter_new(void *h) { return flatkv_iter_new(h, NULL, &out_iter); }
static int iter_new_of(void *h) { return flatkv_iter_new(live[STORE], h, &out_iter); }
static int iter_free(void *h) { return flatkv_iter_free(h), -1; }
static int iter_set_bounds(void *h) { return flatkv_iter_set_bounds(h, "a", 1, "z", 1); }
static int iter_set_prefix(void *h) { return flatkv_iter_set_prefix(h, "k", 1); }
static int iter_seek_first(void *h) { return flatkv_iter_seek_first(h), -1; }
static int iter_seek_last(void *h) { return flatkv_iter_seek_last(h), -1; }
static int iter_seek(void *h) { return flatkv_iter_seek(h, "k", 1), -1; }
static int iter_seek_for_prev(void *h) { return flatkv_iter_seek_for_prev(h, "k", 1), -1; }
static int iter_next(void *h) { return flatkv_iter_next(h), -1; }
static int iter_prev(void *h) { return flatkv_iter_prev(h), -1; }
static int iter_valid(void *h) { return NOTHING(!flatkv_iter_valid(h)); }
static int iter_status(void *h) { return flatkv_iter_status(h); }
static int iter_key(void *h) { return NOTHING(flatkv_iter_key(h).data == NULL); }
static int iter_value(void *h) { return NOTHING(flatkv_iter_value(h).data == NULL); }
static int iter_entries(void *h)
{
    flatkv_slice_t value;
    return NOTHING(flatkv_iter_entries(h, 1, &out_slice, &value) == 0 && out_slice.data == NULL && value.data == NULL);
}
static int iter_kept_bytes(void *h) { return NOTHING(flatkv_iter_kept_bytes(h) == 0); }
static int estimate_range(void *h) { return flatkv_estimate_range(h, "a", 1, "z", 1, &out_keys, &out_bytes); }
static int batch_free(void *h) { return flatkv_batch_free(h), -1; }
static int options_free(void *h) { return flatkv_options_free(h), -1; }
static int write_options_free(void *h) { return flatkv_write_options_free(h), -1; }
static int pin_free(void *h) { return flatkv_pin_free(h), -1; }

/* NULL is legal for some handles. */
static const struct call {
    const char *name;
    enum kind kind;
    int null_is_legal;
    int (*call)(void *handle);
} calls[] = {
    { "flatkv_open", OPTIONS, 1, open_with },
    { "flatkv_close", STORE, 1, close_it },
    { "flatkv_put", STORE, 0, put },
    { "flatkv_put_with", STORE, 0, put_with },
    { "flatkv_put_with", WRITE_OPTIONS, 0, put_with_options },
    { "flatkv_delete", STORE, 0, delete_it },
    { "flatkv_exists", STORE, 0, exists },
    { "flatkv_get", STORE, 0, get },
    { "flatkv_get_into", STORE, 0, get_into },
    { "flatkv_get_pinned", STORE, 0, get_pinned },
    { "flatkv_multi_get", STORE, 0, multi_get },
    { "flatkv_multi_get_into", STORE, 0, multi_get_into },
    { "flatkv_write", STORE, 0, write_to },
    { "flatkv_write", BATCH, 0, write_batch },
    { "flatkv_write_with", STORE, 0, write_with_to },
    { "flatkv_write_with", WRITE_OPTIONS, 0, write_with_options },
    { "flatkv_write_with", BATCH, 0, write_with_batch },
    { "flatkv_put_async", STORE, 0, put_async },
    { "flatkv_write_async", STORE, 0, write_async_to },
    { "flatkv_write_async", BATCH, 0, write_async_batch },
    { "flatkv_wait", STORE, 0, wait_for },
    { "flatkv_sync", STORE, 0, sync_it },
    { "flatkv_maintenance_pause", STORE, 0, pause_it },
    { "flatkv_maintenance_resume", STORE, 0, resume_it },
    { "flatkv_stats_json", STORE, 0, stats },
    { "flatkv_verify", STORE, 0, verify_it },
    { "flatkv_health", STORE, 0, health },
    { "flatkv_durable_ticket", STORE, 0, durable_ticket },
    { "flatkv_batch_put", BATCH, 0, batch_put },
    { "flatkv_batch_delete", BATCH, 0, batch_delete },
    { "flatkv_batch_put_in", BATCH, 0, batch_put_in },
    { "flatkv_batch_put_in", STORE, 0, batch_put_in_store },
    { "flatkv_batch_delete_in", BATCH, 0, batch_delete_in },
    { "flatkv_batch_delete_in", STORE, 0, batch_delete_in_store },
    { "flatkv_keyspace_open", STORE, 0, keyspace_open },
    { "flatkv_keyspace_find", STORE, 0, keyspace_find },
    { "flatkv_keyspace_drop", STORE, 0, keyspace_drop },
    { "flatkv_keyspace_clear", STORE, 0, keyspace_clear },
    { "flatkv_keyspace_list", STORE, 0, keyspace_list },
    { "flatkv_batch_count", BATCH, 0, batch_count },
    { "flatkv_batch_clear", BATCH, 0, batch_clear },
    { "flatkv_batch_free", BATCH, 1, batch_free },
    { "flatkv_options_set", OPTIONS, 0, options_set },
    { "flatkv_options_free", OPTIONS, 1, options_free },
    { "flatkv_write_options_set", WRITE_OPTIONS, 0, write_options_set },
    { "flatkv_write_options_free", WRITE_OPTIONS, 1, write_options_free },
    { "flatkv_pin_data", PIN, 0, pin_data },
    { "flatkv_pin_len", PIN, 0, pin_len },
    { "flatkv_pin_free", PIN, 1, pin_free },
    { "flatkv_snapshot_new", STORE, 0, snapshot_new },
    { "flatkv_snapshot_get", SNAPSHOT, 0, snapshot_get },
    { "flatkv_snapshot_get_in", SNAPSHOT, 0, snapshot_get_in },
    { "flatkv_snapshot_get_in", STORE, 0, snapshot_get_in_store },
    { "flatkv_snapshot_multi_get", SNAPSHOT, 0, snapshot_multi_get },
    { "flatkv_snapshot_multi_get_in", SNAPSHOT, 0, snapshot_multi_get_in },
    { "flatkv_snapshot_multi_get_in", STORE, 0, snapshot_multi_get_in_store },
    { "flatkv_snapshot_keyspace", SNAPSHOT, 0, snapshot_keyspace },
    { "flatkv_snapshot_keyspace_list", SNAPSHOT, 0, snapshot_keyspace_list },
    { "flatkv_snapshot_iter_new", SNAPSHOT, 0, snapshot_iter_new },
    { "flatkv_snapshot_kept_bytes", SNAPSHOT, 0, snapshot_kept_bytes },
    { "flatkv_snapshot_free", SNAPSHOT, 1, snapshot_free },
    { "flatkv_iter_new", STORE, 0, iter_new },
    { "flatkv_iter_new", SNAPSHOT, 1, iter_new_of },
    { "flatkv_iter_free", ITER, 1, iter_free },
    { "flatkv_iter_set_bounds", ITER, 0, iter_set_bounds },
    { "flatkv_iter_set_prefix", ITER, 0, iter_set_prefix },
    { "flatkv_iter_seek_first", ITER, 0, iter_seek_first },
    { "flatkv_iter_seek_last", ITER, 0, iter_seek_last },
    { "flatkv_iter_seek", ITER, 0, iter_seek },
    { "flatkv_iter_seek_for_prev", ITER, 0, iter_seek_for_prev },
    { "flatkv_iter_next", ITER, 0, iter_next },
    { "flatkv_iter_prev", ITER, 0, iter_prev },
    { "flatkv_iter_valid", ITER, 0, iter_valid },
    { "flatkv_iter_status", ITER, 0, iter_status },
    { "flatkv_iter_key", ITER, 0, iter_key },
    { "flatkv_iter_value", ITER, 0, iter_value },
    { "flatkv_iter_entries", ITER, 0, iter_entries },
    { "flatkv_iter_kept_bytes", ITER, 0, iter_kept_bytes },
    { "flatkv_estimate_range", STORE, 0, estimate_range },
};
#define CALLS (sizeof calls / sizeof calls[0])

/* Functions that take no handle: whatever they are given, they answer. run.sh checks that each exported function is in one
 * of the two tables. */
static int library_version(void) { return flatkv_version() != NULL; }
static int version_number(void) { return flatkv_version_number() > 0; }
static int abi_version(void) { return flatkv_abi_version() == flatkv_abi_version(); }
static int last_error(void) { return flatkv_last_error() != NULL; }
static int status_str(void)
{
    int known = 1;
    for (int status = -4096; status <= 4096; status++)
        known = known && flatkv_status_str(status) != NULL;
    return known && flatkv_status_str(INT32_MIN) != NULL && flatkv_status_str(INT32_MAX) != NULL;
}
static int buffer_free(void)
{
    flatkv_buffer_t empty;
    memset(&empty, 0, sizeof empty);
    flatkv_buffer_free(&empty);
    flatkv_buffer_free(&empty);
    flatkv_buffer_free(NULL);
    return empty.data == NULL && empty.len == 0;
}
static int batch_new(void)
{
    flatkv_batch_t *batch = flatkv_batch_new();
    return flatkv_batch_free(batch), batch != NULL;
}
static int options_new(void)
{
    flatkv_options_t *options = flatkv_options_new();
    return flatkv_options_free(options), options != NULL;
}
static int write_options_new(void)
{
    flatkv_write_options_t *options = flatkv_write_options_new();
    return flatkv_write_options_free(options), options != NULL;
}

static const struct {
    const char *name;
    int (*call)(void);
} without_handle[] = {
    { "flatkv_version", library_version },
    { "flatkv_version_number", version_number },
    { "flatkv_abi_version", abi_version },
    { "flatkv_last_error", last_error },
    { "flatkv_status_str", status_str },
    { "flatkv_buffer_free", buffer_free },
    { "flatkv_batch_new", batch_new },
    { "flatkv_options_new", options_new },
    { "flatkv_write_options_new", write_options_new },
};

static void functions_without_a_handle_answer(void)
{
    for (size_t i = 0; i < sizeof without_handle / sizeof without_handle[0]; i++)
        if (!without_handle[i].call())
            FAIL("%s", without_handle[i].name);
}

static void fill_outputs(void)
{
    memset(&out_buffer, 0x5a, sizeof out_buffer);
    memset(&out_pin, 0x5a, sizeof out_pin);
    memset(&out_store, 0x5a, sizeof out_store);
    memset(&out_slice, 0x5a, sizeof out_slice);
    memset(&out_snapshot, 0x5a, sizeof out_snapshot);
    memset(&out_iter, 0x5a, sizeof out_iter);
    out_len = out_ticket = out_keys = out_bytes = 0x5a5a;
    out_status = 0x5a5a;
}

/* Outputs were not touched, or were set to empty: never left with something that looks like an answer. */
static void check_outputs(const char *name, flatkv_status_t expected)
{
    flatkv_buffer_t untouched;
    memset(&untouched, 0x5a, sizeof untouched);
    if (out_buffer.data != untouched.data && (out_buffer.data != NULL || out_buffer.len != 0))
        FAIL("%s left a buffer", name);
    if ((void *)out_pin != (void *)untouched.data && out_pin != NULL)
        FAIL("%s left a pin", name);
    if ((void *)out_store != (void *)untouched.data && out_store != NULL)
        FAIL("%s left a store", name);
    if ((void *)out_snapshot != (void *)untouched.data && out_snapshot != NULL)
        FAIL("%s left a snapshot", name);
    if ((void *)out_iter != (void *)untouched.data && out_iter != NULL)
        FAIL("%s left an iterator", name);
    if ((out_keys != 0x5a5a && out_keys != 0) || (out_bytes != 0x5a5a && out_bytes != 0))
        FAIL("%s left an estimate", name);
    if ((out_len != 0x5a5a && out_len != 0) || (out_ticket != 0x5a5a && out_ticket != 0))
        FAIL("%s left a number", name);
    if (out_status != 0x5a5a && out_status != expected)
        FAIL("%s left the status %d for its only key", name, (int)out_status);
}

static void refuses(const struct call *call, void *handle, flatkv_status_t expected, const char *text)
{
    int found;
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_batch_put(live[BATCH], "", 0, NULL, 0)); /* another message */
    fill_outputs();
    found = call->call(handle);
    if (found != expected && found != -1)
        FAIL("%s(%p) as %s: expected %d, found %d", call->name, handle, kind_names[call->kind], (int)expected, found);
    if (strncmp(flatkv_last_error(), call->name, strlen(call->name)) != 0 || strstr(flatkv_last_error(), text) == NULL)
        FAIL("%s(%p): expected a message with \"%s\"", call->name, handle, text);
    check_outputs(call->name, expected);
}

static void open_one_of_each(void)
{
    flatkv_t *store = open_ordered("abuse");
    flatkv_pin_t *pin;
    flatkv_snapshot_t *snapshot;
    flatkv_iter_t *iter;
    put_text(store, "k", "v");
    OK(flatkv_get_pinned(store, "k", 1, &pin));
    live[STORE] = store;
    live[PIN] = pin;
    live[OPTIONS] = flatkv_options_new();
    live[WRITE_OPTIONS] = flatkv_write_options_new();
    live[BATCH] = flatkv_batch_new();
    OK(flatkv_snapshot_new(store, &snapshot));
    live[SNAPSHOT] = snapshot;
    OK(flatkv_iter_new(store, NULL, &iter));
    live[ITER] = iter;

    OK(flatkv_snapshot_new(store, &snapshot));
    closed[SNAPSHOT] = snapshot;
    OK(flatkv_iter_new(store, snapshot, &iter));
    closed[ITER] = iter;
    flatkv_snapshot_free(closed[SNAPSHOT]);
    flatkv_iter_free(closed[ITER]);
    OK(flatkv_get_pinned(store, "k", 1, &pin));
    closed[STORE] = open_store("abuse-closed");
    closed[PIN] = pin;
    closed[OPTIONS] = flatkv_options_new();
    closed[WRITE_OPTIONS] = flatkv_write_options_new();
    closed[BATCH] = flatkv_batch_new();
    OK(flatkv_close(closed[STORE]));
    flatkv_pin_free(closed[PIN]);
    flatkv_options_free(closed[OPTIONS]);
    flatkv_write_options_free(closed[WRITE_OPTIONS]);
    flatkv_batch_free(closed[BATCH]);
}

static void null_is_refused_or_does_nothing(void)
{
    for (size_t i = 0; i < CALLS; i++)
        if (!calls[i].null_is_legal)
            refuses(&calls[i], NULL, FLATKV_E_INVALID_ARGUMENT, "handle is NULL");
    OK(flatkv_close(NULL));
    flatkv_batch_free(NULL);
    flatkv_options_free(NULL);
    flatkv_write_options_free(NULL);
    flatkv_pin_free(NULL);
    flatkv_snapshot_free(NULL);
    flatkv_iter_free(NULL);
    flatkv_buffer_free(NULL);
}

static void closed_handles_say_so(void)
{
    for (size_t i = 0; i < CALLS; i++)
        refuses(&calls[i], closed[calls[i].kind], FLATKV_E_CLOSED, "closed");
}

static void handles_of_another_kind_are_named(void)
{
    for (size_t i = 0; i < CALLS; i++)
        for (int kind = 0; kind < KINDS; kind++)
            if (kind != (int)calls[i].kind) {
                char text[64];
                snprintf(text, sizeof text, "expected a %s handle, found a %s handle", kind_names[calls[i].kind],
                         kind_names[kind]);
                refuses(&calls[i], live[kind], FLATKV_E_INVALID_ARGUMENT, text);
                refuses(&calls[i], closed[kind], FLATKV_E_INVALID_ARGUMENT, text);
            }
}

static void numbers_that_never_were_handles_are_refused(void)
{
    static char somewhere[64];
    for (size_t i = 0; i < CALLS; i++) {
        uintptr_t handle = (uintptr_t)live[calls[i].kind], kind = handle & 15;
        const uintptr_t garbage[] = {
            1, 15, kind, kind | 16, UINTPTR_MAX, (uintptr_t)somewhere, (uintptr_t)&handle,
            handle ^ ((uintptr_t)1 << 63),       /* a generation far away */
            handle + ((uintptr_t)1 << 32),       /* the next generation */
            handle | (uintptr_t)0xfffffff0,      /* the last slot */
            (handle & 0xffffffff) | ((uintptr_t)0xffffffff << 32), handle & 0xffffffff, /* generation 0 */
            (handle & ~(uintptr_t)15), handle | 15, handle & ~(uintptr_t)0xfffffff0 & ~(uintptr_t)15,
        };
        for (size_t j = 0; j < sizeof garbage / sizeof garbage[0]; j++)
            refuses(&calls[i], (void *)garbage[j], FLATKV_E_INVALID_ARGUMENT, "expected a");
    }
}

static void the_next_generation_of_a_free_slot_is_no_handle_either(void)
{
    for (size_t i = 0; i < CALLS; i++) {
        uintptr_t next = (uintptr_t)closed[calls[i].kind] + ((uintptr_t)1 << 32);
        refuses(&calls[i], (void *)next, FLATKV_E_INVALID_ARGUMENT, "no handle");
    }
}

static void a_reused_slot_does_not_revive_old_handles(void)
{
    for (int round = 0; round < 1000; round++) {
        flatkv_batch_t *batch = flatkv_batch_new();
        CHECK((void *)batch != closed[BATCH]);
        GIVES(FLATKV_E_CLOSED, flatkv_batch_put(closed[BATCH], "k", 1, "v", 1));
        flatkv_batch_free(closed[BATCH]);
        OK(flatkv_batch_put(batch, "k", 1, "v", 1));
        CHECK(flatkv_batch_count(batch) == 1);
        flatkv_batch_free(batch);
        flatkv_batch_free(batch);
    }
}

#define INVALID(call) GIVES(FLATKV_E_INVALID_ARGUMENT, call)
#define TOO_LARGE(call) GIVES(FLATKV_E_TOO_LARGE, call)

static void missing_pointers_are_refused_before_anything_happens(void)
{
    flatkv_t *store = live[STORE];
    flatkv_batch_t *batch = live[BATCH];
    INVALID(flatkv_open(NULL, NULL, &out_store));
    SAYS("path is NULL");
    INVALID(flatkv_open(path_of("never"), NULL, NULL));
    SAYS("out_store is NULL");
    INVALID(flatkv_open("", NULL, &out_store));
    SAYS("path is empty");
    INVALID(flatkv_options_set(live[OPTIONS], NULL, "x"));
    SAYS("name is NULL");
    INVALID(flatkv_options_set(live[OPTIONS], "media", NULL));
    SAYS("value is NULL");
    INVALID(flatkv_options_set(live[OPTIONS], "media", "\xff"));
    SAYS("value is not UTF-8");
    INVALID(flatkv_write_options_set(live[WRITE_OPTIONS], NULL, "x"));
    INVALID(flatkv_write_options_set(live[WRITE_OPTIONS], "durability", NULL));
    INVALID(flatkv_keyspace_open(store, NULL, &out_store));
    SAYS("name is NULL");
    INVALID(flatkv_keyspace_open(store, "never", NULL));
    SAYS("out_keyspace is NULL");
    INVALID(flatkv_keyspace_find(store, NULL, &out_store));
    SAYS("name is NULL");
    INVALID(flatkv_keyspace_find(store, "never", NULL));
    SAYS("out_keyspace is NULL");
    INVALID(flatkv_keyspace_drop(store, NULL));
    SAYS("name is NULL");
    INVALID(flatkv_keyspace_list(store, NULL));
    SAYS("out_names is NULL");
    INVALID(flatkv_batch_put_in(batch, store, NULL, 1, "v", 1));
    INVALID(flatkv_batch_put_in(batch, store, "n", 1, NULL, 1));
    INVALID(flatkv_batch_delete_in(batch, store, NULL, 1));
    CHECK(flatkv_batch_count(batch) == 0);
    INVALID(flatkv_snapshot_get_in(live[SNAPSHOT], store, NULL, 1, &out_buffer));
    INVALID(flatkv_snapshot_get_in(live[SNAPSHOT], store, "k", 1, NULL));
    SAYS("out_value is NULL");
    INVALID(flatkv_put(store, NULL, 1, "v", 1));
    SAYS("key is NULL with a length of 1");
    INVALID(flatkv_put(store, "n", 1, NULL, 1));
    SAYS("value is NULL with a length of 1");
    INVALID(flatkv_put_with(store, live[WRITE_OPTIONS], NULL, 1, "v", 1));
    INVALID(flatkv_put_with(store, live[WRITE_OPTIONS], "n", 1, NULL, 1));
    INVALID(flatkv_put_async(store, NULL, 1, "v", 1, &out_ticket));
    INVALID(flatkv_put_async(store, "n", 1, NULL, 1, &out_ticket));
    INVALID(flatkv_put_async(store, "n", 1, "v", 1, NULL));
    SAYS("out_ticket is NULL");
    OK(flatkv_batch_put(batch, "n", 1, "v", 1));
    INVALID(flatkv_write_async(store, batch, NULL));
    flatkv_batch_clear(batch);
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "n", 1));
    INVALID(flatkv_delete(store, NULL, 1));
    INVALID(flatkv_exists(store, NULL, 1));
    INVALID(flatkv_get(store, NULL, 1, &out_buffer));
    INVALID(flatkv_get(store, "k", 1, NULL));
    SAYS("out_value is NULL");
    INVALID(flatkv_get_into(store, NULL, 1, buf, sizeof buf, &out_len));
    INVALID(flatkv_get_into(store, "k", 1, NULL, 1, &out_len));
    SAYS("buf is NULL with a length of 1");
    INVALID(flatkv_get_into(store, "k", 1, buf, sizeof buf, NULL));
    INVALID(flatkv_get_pinned(store, NULL, 1, &out_pin));
    INVALID(flatkv_get_pinned(store, "k", 1, NULL));
    INVALID(flatkv_multi_get(store, 1, NULL, &out_buffer, &out_status));
    SAYS("keys is NULL");
    INVALID(flatkv_multi_get(store, 1, &one_key, NULL, &out_status));
    CHECK(out_status == FLATKV_E_INVALID_ARGUMENT);
    INVALID(flatkv_multi_get(store, 1, &one_key, &out_buffer, NULL));
    CHECK(out_buffer.data == NULL);
    INVALID(flatkv_snapshot_multi_get(live[SNAPSHOT], 1, NULL, &out_buffer, &out_status));
    SAYS("keys is NULL");
    INVALID(flatkv_snapshot_multi_get(live[SNAPSHOT], 1, &one_key, NULL, &out_status));
    INVALID(flatkv_snapshot_multi_get(live[SNAPSHOT], 1, &one_key, &out_buffer, NULL));
    INVALID(flatkv_snapshot_multi_get_in(live[SNAPSHOT], store, 1, NULL, &out_buffer, &out_status));
    SAYS("keys is NULL");
    INVALID(flatkv_snapshot_multi_get_in(live[SNAPSHOT], store, 1, &one_key, NULL, &out_status));
    INVALID(flatkv_snapshot_multi_get_in(live[SNAPSHOT], store, 1, &one_key, &out_buffer, NULL));
    INVALID(flatkv_snapshot_keyspace(live[SNAPSHOT], NULL, &out_snapshot));
    SAYS("name is NULL");
    INVALID(flatkv_snapshot_keyspace(live[SNAPSHOT], "n", NULL));
    SAYS("out_snapshot is NULL");
    INVALID(flatkv_snapshot_keyspace_list(live[SNAPSHOT], NULL));
    SAYS("out_names is NULL");
    INVALID(flatkv_snapshot_iter_new(live[SNAPSHOT], NULL));
    SAYS("out_iter is NULL");
    INVALID(flatkv_multi_get_into(store, 1, NULL, buf, sizeof buf, &out_slice, &out_status, &out_len));
    INVALID(flatkv_multi_get_into(store, 1, &one_key, NULL, 1, &out_slice, &out_status, &out_len));
    INVALID(flatkv_multi_get_into(store, 1, &one_key, buf, sizeof buf, NULL, &out_status, &out_len));
    INVALID(flatkv_multi_get_into(store, 1, &one_key, buf, sizeof buf, &out_slice, NULL, &out_len));
    INVALID(flatkv_multi_get_into(store, 1, &one_key, buf, sizeof buf, &out_slice, &out_status, NULL));
    INVALID(flatkv_snapshot_new(store, NULL));
    SAYS("out_snapshot is NULL");
    CHECK(flatkv_iter_entries(live[ITER], 1, NULL, &out_slice) == 0);
    SAYS("out_keys is NULL");
    CHECK(flatkv_iter_entries(live[ITER], 1, &out_slice, NULL) == 0);
    SAYS("out_values is NULL");
    INVALID(flatkv_snapshot_get(live[SNAPSHOT], NULL, 1, &out_buffer));
    INVALID(flatkv_snapshot_get(live[SNAPSHOT], "k", 1, NULL));
    INVALID(flatkv_iter_new(store, NULL, NULL));
    SAYS("out_iter is NULL");
    INVALID(flatkv_iter_set_bounds(live[ITER], NULL, 1, NULL, 0));
    SAYS("lower is NULL with a length of 1");
    INVALID(flatkv_iter_set_bounds(live[ITER], NULL, 0, NULL, 1));
    INVALID(flatkv_iter_set_prefix(live[ITER], NULL, 1));
    flatkv_iter_seek(live[ITER], NULL, 1);
    INVALID(flatkv_iter_status(live[ITER]));
    flatkv_iter_seek_for_prev(live[ITER], NULL, 1);
    INVALID(flatkv_iter_status(live[ITER]));
    INVALID(flatkv_estimate_range(store, NULL, 1, NULL, 0, &out_keys, &out_bytes));
    INVALID(flatkv_estimate_range(store, NULL, 0, NULL, 1, &out_keys, &out_bytes));
    INVALID(flatkv_estimate_range(store, NULL, 0, NULL, 0, NULL, &out_bytes));
    CHECK(out_bytes == 0);
    INVALID(flatkv_estimate_range(store, NULL, 0, NULL, 0, &out_keys, NULL));
    INVALID(flatkv_stats_json(store, NULL));
    INVALID(flatkv_verify(store, NULL));
    INVALID(flatkv_batch_put(batch, NULL, 1, "v", 1));
    INVALID(flatkv_batch_put(batch, "n", 1, NULL, 1));
    INVALID(flatkv_batch_delete(batch, NULL, 1));
    CHECK(flatkv_batch_count(batch) == 0);
}

static void impossible_lengths_are_refused_before_a_byte_is_read(void)
{
    static const size_t lengths[] = { 65537, (size_t)1 << 31, (size_t)1 << 32, SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX };
    flatkv_t *store = live[STORE];
    flatkv_batch_t *batch = live[BATCH];
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t n = lengths[i];
        /* NULL, so that a byte that is read after all ends the test */
        TOO_LARGE(flatkv_put(store, NULL, n, "v", 1));
        TOO_LARGE(flatkv_put_with(store, live[WRITE_OPTIONS], NULL, n, "v", 1));
        TOO_LARGE(flatkv_put_async(store, NULL, n, "v", 1, &out_ticket));
        TOO_LARGE(flatkv_delete(store, NULL, n));
        TOO_LARGE(flatkv_exists(store, NULL, n));
        TOO_LARGE(flatkv_get(store, NULL, n, &out_buffer));
        TOO_LARGE(flatkv_get_into(store, NULL, n, buf, sizeof buf, &out_len));
        TOO_LARGE(flatkv_get_pinned(store, NULL, n, &out_pin));
        TOO_LARGE(flatkv_snapshot_get(live[SNAPSHOT], NULL, n, &out_buffer));
        TOO_LARGE(flatkv_iter_set_bounds(live[ITER], NULL, n, NULL, 0));
        TOO_LARGE(flatkv_iter_set_bounds(live[ITER], NULL, 0, NULL, n));
        TOO_LARGE(flatkv_iter_set_prefix(live[ITER], NULL, n));
        flatkv_iter_seek(live[ITER], NULL, n);
        TOO_LARGE(flatkv_iter_status(live[ITER]));
        flatkv_iter_seek_for_prev(live[ITER], NULL, n);
        TOO_LARGE(flatkv_iter_status(live[ITER]));
        TOO_LARGE(flatkv_estimate_range(store, NULL, n, NULL, 0, &out_keys, &out_bytes));
        TOO_LARGE(flatkv_batch_put(batch, NULL, n, "v", 1));
        TOO_LARGE(flatkv_batch_delete(batch, NULL, n));
        SAYS("exceeds the limit of 65536 bytes");
        if (n >= (size_t)1 << 32) {
            TOO_LARGE(flatkv_put(store, "n", 1, buf, n));
            SAYS("exceeds the limit of 4294967295 bytes");
            TOO_LARGE(flatkv_put_with(store, live[WRITE_OPTIONS], "n", 1, buf, n));
            TOO_LARGE(flatkv_put_async(store, "n", 1, buf, n, &out_ticket));
            TOO_LARGE(flatkv_batch_put(batch, "n", 1, buf, n));
        }
        if (n > SIZE_MAX / 2) {
            INVALID(flatkv_get_into(store, "k", 1, buf, n, &out_len));
            INVALID(flatkv_multi_get(store, n, &one_key, &out_buffer, &out_status));
            SAYS("no array in memory has as many");
            INVALID(flatkv_snapshot_multi_get(live[SNAPSHOT], n, &one_key, &out_buffer, &out_status));
            INVALID(flatkv_multi_get_into(store, n, &one_key, buf, sizeof buf, &out_slice, &out_status, &out_len));
            CHECK(flatkv_iter_entries(live[ITER], n, &out_slice, &out_slice) == 0);
            SAYS("no array in memory has as many");
            INVALID(flatkv_multi_get_into(store, 1, &one_key, buf, n, &out_slice, &out_status, &out_len));
        }
    }
    CHECK(flatkv_batch_count(batch) == 0);
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "n", 1));
    expect_text(store, "k", "v");
}

static void a_key_inside_the_output_buffer_is_refused(void)
{
    flatkv_slice_t key = { (const uint8_t *)buf + 3, 1 };
    buf[3] = 'k';
    INVALID(flatkv_get_into(live[STORE], buf + 3, 1, buf, sizeof buf, &out_len));
    SAYS("inside buf");
    INVALID(flatkv_multi_get_into(live[STORE], 1, &key, buf, sizeof buf, &out_slice, &out_status, &out_len));
    CHECK(buf[3] == 'k' && out_status == FLATKV_E_INVALID_ARGUMENT);
    OK(flatkv_get_into(live[STORE], buf + 3, 1, buf, 3, &out_len));
    OK(flatkv_get_into(live[STORE], buf + 3, 1, buf + 4, sizeof buf - 4, &out_len));
}

static void unaligned_arguments_work(void)
{
    static char bytes[512];
    char *at = bytes + 1;
    flatkv_buffer_t value;
    flatkv_slice_t slice;
    flatkv_status_t status;
    flatkv_pin_t *pin;
    flatkv_t *store;
    uint64_t ticket;
    size_t len;
    OK(flatkv_get(live[STORE], "k", 1, (flatkv_buffer_t *)(void *)at));
    memcpy(&value, at, sizeof value);
    CHECK(holds(value.data, value.len, "v"));
    flatkv_buffer_free((flatkv_buffer_t *)(void *)at);
    memcpy(&value, at, sizeof value);
    CHECK(value.data == NULL && value.len == 0);
    OK(flatkv_get_into(live[STORE], "k", 1, buf + 1, 5, (size_t *)(void *)at));
    memcpy(&len, at, sizeof len);
    CHECK(holds(buf + 1, len, "v"));
    OK(flatkv_get_pinned(live[STORE], "k", 1, (flatkv_pin_t **)(void *)at));
    memcpy(&pin, at, sizeof pin);
    CHECK(flatkv_pin_len(pin) == 1);
    flatkv_pin_free(pin);
    OK(flatkv_put_async(live[STORE], "u", 1, "v", 1, (uint64_t *)(void *)at));
    memcpy(&ticket, at, sizeof ticket);
    OK(flatkv_wait(live[STORE], ticket));
    memcpy(at + 64, &one_key, sizeof one_key);
    OK(flatkv_multi_get(live[STORE], 1, (flatkv_slice_t *)(void *)(at + 64), (flatkv_buffer_t *)(void *)at,
                        (flatkv_status_t *)(void *)(at + 128)));
    memcpy(&value, at, sizeof value);
    memcpy(&status, at + 128, sizeof status);
    CHECK(status == FLATKV_OK && holds(value.data, value.len, "v"));
    flatkv_buffer_free(&value);
    OK(flatkv_multi_get_into(live[STORE], 1, (flatkv_slice_t *)(void *)(at + 64), buf, sizeof buf,
                             (flatkv_slice_t *)(void *)at, (flatkv_status_t *)(void *)(at + 128),
                             (size_t *)(void *)(at + 256)));
    memcpy(&slice, at, sizeof slice);
    CHECK(holds(slice.data, slice.len, "v"));
    OK(flatkv_open(path_of("unaligned"), NULL, (flatkv_t **)(void *)at));
    memcpy(&store, at, sizeof store);
    OK(flatkv_close(store));
}

static void the_live_handles_are_as_good_as_before(void)
{
    expect_text(live[STORE], "k", "v");
    CHECK(holds(flatkv_pin_data(live[PIN]), flatkv_pin_len(live[PIN]), "v"));
    OK(flatkv_options_set(live[OPTIONS], "media", "auto"));
    OK(flatkv_write_options_set(live[WRITE_OPTIONS], "durability", "sync"));
    OK(flatkv_batch_put(live[BATCH], "k", 1, "w", 1));
    OK(flatkv_write(live[STORE], live[BATCH]));
    OK(flatkv_health(live[STORE]));
    OK(flatkv_snapshot_get(live[SNAPSHOT], "k", 1, &out_buffer));
    CHECK(holds(out_buffer.data, out_buffer.len, "v"));
    flatkv_buffer_free(&out_buffer);
    flatkv_iter_seek_first(live[ITER]);
    CHECK(holds(flatkv_iter_value(live[ITER]).data, flatkv_iter_value(live[ITER]).len, "v"));
    flatkv_snapshot_free(live[SNAPSHOT]);
    flatkv_iter_free(live[ITER]);
    flatkv_pin_free(live[PIN]);
    OK(flatkv_close(live[STORE]));
    flatkv_batch_free(live[BATCH]);
    flatkv_options_free(live[OPTIONS]);
    flatkv_write_options_free(live[WRITE_OPTIONS]);
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(functions_without_a_handle_answer);
    RUN(open_one_of_each);
    RUN(null_is_refused_or_does_nothing);
    RUN(closed_handles_say_so);
    RUN(handles_of_another_kind_are_named);
    RUN(numbers_that_never_were_handles_are_refused);
    RUN(the_next_generation_of_a_free_slot_is_no_handle_either);
    RUN(a_reused_slot_does_not_revive_old_handles);
    RUN(missing_pointers_are_refused_before_anything_happens);
    RUN(impossible_lengths_are_refused_before_a_byte_is_read);
    RUN(a_key_inside_the_output_buffer_is_refused);
    RUN(unaligned_arguments_work);
    RUN(the_live_handles_are_as_good_as_before);
    return 0;
}
