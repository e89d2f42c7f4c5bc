/* Keyspaces through the C interface: a handle of one is a store's, with keys of its own. */
#include "check.h"

static flatkv_t *keyspace(flatkv_t *store, const char *name)
{
    flatkv_t *handle = NULL;
    OK(flatkv_keyspace_open(store, name, &handle));
    CHECK(handle != NULL && handle != store);
    return handle;
}

static void expect_names(flatkv_t *store, const char *names, size_t len)
{
    flatkv_buffer_t found;
    OK(flatkv_keyspace_list(store, &found));
    CHECK(found.data != NULL && found.len == len && memcmp(found.data, names, len) == 0);
    flatkv_buffer_free(&found);
}
#define NAMES(store, names) expect_names(store, names, sizeof names - 1)

static void every_call_works_on_the_handle_of_a_keyspace(void)
{
    flatkv_t *store = open_ordered("calls"), *one = keyspace(store, "one");
    flatkv_slice_t keys[2] = { { (const uint8_t *)"k", 1 }, { (const uint8_t *)"absent", 6 } };
    flatkv_buffer_t values[2], json;
    flatkv_status_t statuses[2];
    flatkv_write_options_t *options = flatkv_write_options_new();
    flatkv_batch_t *batch = flatkv_batch_new();
    flatkv_iter_t *iter;
    flatkv_pin_t *pin;
    uint64_t ticket, count, bytes;
    char buf[16];
    size_t len;
    put_text(store, "k", "of the store");
    put_text(one, "k", "of one");
    expect_text(store, "k", "of the store");
    expect_text(one, "k", "of one");
    OK(flatkv_exists(one, "k", 1));
    OK(flatkv_get_into(one, "k", 1, buf, sizeof buf, &len));
    CHECK(holds(buf, len, "of one"));
    OK(flatkv_get_pinned(one, "k", 1, &pin));
    CHECK(holds(flatkv_pin_data(pin), flatkv_pin_len(pin), "of one"));
    flatkv_pin_free(pin);
    OK(flatkv_multi_get(one, 2, keys, values, statuses));
    CHECK(statuses[0] == FLATKV_OK && statuses[1] == FLATKV_NOT_FOUND);
    CHECK(holds(values[0].data, values[0].len, "of one"));
    flatkv_buffer_free(&values[0]);
    OK(flatkv_put_with(one, options, "with", 4, "options", 7));
    OK(flatkv_put_async(one, "async", 5, "value", 5, &ticket));
    OK(flatkv_wait(one, ticket));
    OK(flatkv_wait(store, ticket));
    OK(flatkv_batch_put(batch, "batch", 5, "value", 5));
    OK(flatkv_write(one, batch));
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "batch", 5));
    OK(flatkv_delete(one, "with", 4));
    GIVES(FLATKV_NOT_FOUND, flatkv_delete(one, "with", 4));
    OK(flatkv_iter_new(one, NULL, &iter));
    flatkv_iter_seek_first(iter);
    CHECK(flatkv_iter_valid(iter) && holds(flatkv_iter_key(iter).data, flatkv_iter_key(iter).len, "async"));
    flatkv_iter_seek_last(iter);
    CHECK(holds(flatkv_iter_value(iter).data, flatkv_iter_value(iter).len, "of one"));
    flatkv_iter_free(iter);
    OK(flatkv_estimate_range(one, NULL, 0, NULL, 0, &count, &bytes));
    CHECK(count >= 3);
    OK(flatkv_sync(one));
    OK(flatkv_health(one));
    OK(flatkv_stats_json(one, &json));
    flatkv_buffer_free(&json);
    OK(flatkv_verify(one, &json));
    flatkv_buffer_free(&json);
    flatkv_batch_free(batch);
    flatkv_write_options_free(options);
    OK(flatkv_close(one));
    GIVES(FLATKV_E_CLOSED, flatkv_exists(one, "k", 1));
    expect_text(store, "k", "of the store");
    OK(flatkv_close(store));
}

static void keyspaces_are_listed_dropped_and_cleared_and_stay_so(void)
{
    flatkv_t *store = open_store("names"), *b = keyspace(store, "b"), *a = keyspace(store, "a"), *again;
    NAMES(store, "a\0b\0");
    put_text(a, "k", "value");
    put_text(b, "k", "value");
    OK(flatkv_keyspace_clear(b));
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(b, "k", 1));
    put_text(b, "k", "since");
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_keyspace_clear(store));
    SAYS("default keyspace");
    GIVES(FLATKV_NOT_FOUND, flatkv_keyspace_drop(store, "c"));
    OK(flatkv_keyspace_drop(b, "a"));
    NAMES(a, "b\0");
    GIVES(FLATKV_E_CLOSED, flatkv_exists(a, "k", 1));
    SAYS("the keyspace was dropped");
    GIVES(FLATKV_E_CLOSED, flatkv_put(a, "k", 1, "v", 1));
    GIVES(FLATKV_E_CLOSED, flatkv_keyspace_clear(a));
    again = keyspace(store, "a");
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(again, "k", 1));
    GIVES(FLATKV_E_CLOSED, flatkv_exists(a, "k", 1));
    OK(flatkv_close(a));
    OK(flatkv_close(again));
    OK(flatkv_close(b));
    OK(flatkv_close(store));
    store = open_ordered("names");
    NAMES(store, "a\0b\0");
    b = keyspace(store, "b");
    expect_text(b, "k", "since");
    OK(flatkv_keyspace_drop(store, "a"));
    OK(flatkv_keyspace_drop(store, "b"));
    NAMES(store, "");
    OK(flatkv_close(b));
    OK(flatkv_close(store));
}

static void a_snapshot_lists_and_opens_what_was_dropped_since(void)
{
    flatkv_t *store = open_ordered("then"), *gone = keyspace(store, "gone"), *kept = keyspace(store, "kept");
    flatkv_slice_t keys[2] = { { (const uint8_t *)"k", 1 }, { (const uint8_t *)"absent", 6 } };
    flatkv_buffer_t values[2], found;
    flatkv_status_t statuses[2];
    flatkv_snapshot_t *then, *of_gone, *none = NULL;
    flatkv_iter_t *iter;
    put_text(gone, "k", "of then");
    put_text(kept, "k", "of then");
    put_text(store, "k", "of the store");
    OK(flatkv_snapshot_new(store, &then));
    OK(flatkv_keyspace_drop(store, "gone"));
    OK(flatkv_keyspace_clear(kept));
    OK(flatkv_close(keyspace(store, "new")));
    NAMES(store, "kept\0new\0");
    OK(flatkv_snapshot_keyspace_list(then, &found));
    CHECK(found.len == 10 && memcmp(found.data, "gone\0kept\0", 10) == 0);
    flatkv_buffer_free(&found);
    GIVES(FLATKV_NOT_FOUND, flatkv_snapshot_keyspace(then, "new", &none));
    CHECK(none == NULL);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_snapshot_keyspace(then, "", &none));
    OK(flatkv_snapshot_keyspace(then, "gone", &of_gone));
    OK(flatkv_snapshot_get(of_gone, "k", 1, &found));
    CHECK(holds(found.data, found.len, "of then"));
    flatkv_buffer_free(&found);
    OK(flatkv_snapshot_multi_get(of_gone, 2, keys, values, statuses));
    CHECK(statuses[0] == FLATKV_OK && statuses[1] == FLATKV_NOT_FOUND && holds(values[0].data, values[0].len, "of then"));
    flatkv_buffer_free(&values[0]);
    OK(flatkv_snapshot_multi_get_in(of_gone, kept, 2, keys, values, statuses));
    CHECK(statuses[0] == FLATKV_OK && statuses[1] == FLATKV_NOT_FOUND && holds(values[0].data, values[0].len, "of then"));
    flatkv_buffer_free(&values[0]);
    OK(flatkv_snapshot_multi_get_in(of_gone, store, 1, keys, values, statuses));
    CHECK(statuses[0] == FLATKV_OK && holds(values[0].data, values[0].len, "of the store"));
    flatkv_buffer_free(&values[0]);
    flatkv_snapshot_free(then);
    OK(flatkv_snapshot_iter_new(of_gone, &iter));
    flatkv_iter_seek_first(iter);
    CHECK(flatkv_iter_valid(iter) && holds(flatkv_iter_value(iter).data, flatkv_iter_value(iter).len, "of then"));
    flatkv_iter_next(iter);
    CHECK(!flatkv_iter_valid(iter));
    OK(flatkv_iter_status(iter));
    flatkv_iter_free(iter);
    OK(flatkv_close(gone));
    OK(flatkv_close(kept));
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_snapshot_keyspace(of_gone, "gone", &none));
    GIVES(FLATKV_E_CLOSED, flatkv_snapshot_keyspace_list(of_gone, &found));
    flatkv_snapshot_free(of_gone);
    store = open_store("then");
    OK(flatkv_snapshot_new(store, &then));
    GIVES(FLATKV_E_UNSUPPORTED, flatkv_snapshot_iter_new(then, &iter));
    CHECK(iter == NULL);
    flatkv_snapshot_free(then);
    OK(flatkv_close(store));
}

static void finding_a_keyspace_makes_none(void)
{
    flatkv_t *store = open_store("find"), *made, *found = store;
    flatkv_options_t *options = flatkv_options_new();
    GIVES(FLATKV_NOT_FOUND, flatkv_keyspace_find(store, "a", &found));
    CHECK(found == NULL);
    NAMES(store, "");
    made = keyspace(store, "a");
    put_text(made, "k", "value");
    OK(flatkv_keyspace_find(store, "a", &found));
    CHECK(found != NULL && found != made);
    expect_text(found, "k", "value");
    OK(flatkv_close(made));
    expect_text(found, "k", "value");
    OK(flatkv_close(found));
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_keyspace_find(store, "", &found));
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_keyspace_find(store, "a", &found));
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_options_set(options, "read_only", "true"));
    OK(flatkv_open(path_of("find"), options, &store));
    flatkv_options_free(options);
    GIVES(FLATKV_NOT_FOUND, flatkv_keyspace_find(store, "b", &found));
    OK(flatkv_keyspace_find(store, "a", &found));
    expect_text(found, "k", "value");
    OK(flatkv_close(found));
    OK(flatkv_close(store));
}

static void a_batch_and_a_snapshot_go_across_keyspaces(void)
{
    flatkv_t *store = open_ordered("across"), *other = open_ordered("across-other");
    flatkv_t *from = keyspace(store, "from"), *to = keyspace(store, "to"), *foreign = keyspace(other, "to");
    flatkv_batch_t *batch = flatkv_batch_new();
    flatkv_snapshot_t *before, *after;
    flatkv_buffer_t found;
    flatkv_iter_t *iter;
    put_text(from, "k", "moves");
    OK(flatkv_snapshot_new(store, &before));
    OK(flatkv_batch_delete_in(batch, from, "k", 1));
    OK(flatkv_batch_put_in(batch, to, "k", 1, "moved", 5));
    OK(flatkv_batch_put_in(batch, store, "k", 1, "of the store", 12));
    OK(flatkv_batch_put(batch, "own", 3, "value", 5));
    CHECK(flatkv_batch_count(batch) == 4);
    OK(flatkv_write(to, batch));
    OK(flatkv_snapshot_new(to, &after));
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(from, "k", 1));
    expect_text(to, "k", "moved");
    expect_text(to, "own", "value");
    expect_text(store, "k", "of the store");
    OK(flatkv_keyspace_clear(to));
    OK(flatkv_snapshot_get_in(before, from, "k", 1, &found));
    CHECK(holds(found.data, found.len, "moves"));
    flatkv_buffer_free(&found);
    GIVES(FLATKV_NOT_FOUND, flatkv_snapshot_get_in(before, to, "k", 1, &found));
    GIVES(FLATKV_NOT_FOUND, flatkv_snapshot_get(before, "k", 1, &found));
    OK(flatkv_snapshot_get(after, "k", 1, &found));
    CHECK(holds(found.data, found.len, "moved"));
    flatkv_buffer_free(&found);
    OK(flatkv_snapshot_get_in(after, store, "k", 1, &found));
    CHECK(holds(found.data, found.len, "of the store"));
    flatkv_buffer_free(&found);
    OK(flatkv_iter_new(to, after, &iter));
    flatkv_iter_next(iter);
    CHECK(holds(flatkv_iter_value(iter).data, flatkv_iter_value(iter).len, "moved"));
    flatkv_iter_free(iter);
    OK(flatkv_batch_put_in(batch, foreign, "k", 1, "v", 1));
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_write(store, batch));
    SAYS("another store");
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_snapshot_get_in(before, foreign, "k", 1, &found));
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(to, "k", 1));
    flatkv_batch_clear(batch);
    OK(flatkv_batch_put_in(batch, from, "k", 1, "v", 1));
    OK(flatkv_keyspace_drop(store, "from"));
    GIVES(FLATKV_E_CLOSED, flatkv_write(store, batch));
    flatkv_snapshot_free(before);
    flatkv_snapshot_free(after);
    OK(flatkv_close(from));
    OK(flatkv_close(to));
    OK(flatkv_close(foreign));
    OK(flatkv_close(other));
    OK(flatkv_close(store));
    /* The batch keeps no pool locked. */
    OK(flatkv_close(open_ordered("across")));
    flatkv_batch_free(batch);
}

static void names_are_checked(void)
{
    flatkv_t *store = open_store("bad-names"), *handle = (flatkv_t *)store;
    char name[257];
    memset(name, 'n', 256);
    name[256] = 0;
    GIVES(FLATKV_E_TOO_LARGE, flatkv_keyspace_open(store, name, &handle));
    CHECK(handle == NULL);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_keyspace_open(store, "", &handle));
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_keyspace_open(store, "\xff", &handle));
    SAYS("not UTF-8");
    name[255] = 0;
    handle = keyspace(store, name);
    put_text(handle, "k", "value");
    OK(flatkv_close(handle));
    OK(flatkv_keyspace_drop(store, name));
    OK(flatkv_close(store));
}

static void handles_that_outlive_their_store_say_so(void)
{
    flatkv_t *store = open_store("outlive"), *handle = keyspace(store, "k"), *none;
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_put(handle, "k", 1, "v", 1));
    GIVES(FLATKV_E_CLOSED, flatkv_keyspace_open(handle, "other", &none));
    OK(flatkv_close(handle));
    GIVES(FLATKV_E_CLOSED, flatkv_close(handle));
    OK(flatkv_close(open_store("outlive")));
}

int main(int argc, char **argv)
{
    (void)argc;
    test_dir = argv[1];
    RUN(every_call_works_on_the_handle_of_a_keyspace);
    RUN(keyspaces_are_listed_dropped_and_cleared_and_stay_so);
    RUN(finding_a_keyspace_makes_none);
    RUN(a_snapshot_lists_and_opens_what_was_dropped_since);
    RUN(a_batch_and_a_snapshot_go_across_keyspaces);
    RUN(names_are_checked);
    RUN(handles_that_outlive_their_store_say_so);
    return 0;
}
