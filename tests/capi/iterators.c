/* Snapshots and iterators do what their comments say. */
#include "check.h"

static void check_on(flatkv_iter_t *iter, const char *key, const char *value)
{
    flatkv_slice_t found = flatkv_iter_key(iter);
    CHECK(flatkv_iter_valid(iter));
    OK(flatkv_iter_status(iter));
    if (!holds(found.data, found.len, key))
        FAIL("expected key %s, found %.*s", key, (int)found.len, (const char *)found.data);
    found = flatkv_iter_value(iter);
    if (!holds(found.data, found.len, value))
        FAIL("%s: expected %s, found %.*s", key, value, (int)found.len, (const char *)found.data);
}

static void check_ended(flatkv_iter_t *iter)
{
    CHECK(!flatkv_iter_valid(iter));
    OK(flatkv_iter_status(iter));
    CHECK(flatkv_iter_key(iter).data == NULL && flatkv_iter_key(iter).len == 0);
    CHECK(flatkv_iter_value(iter).data == NULL);
}

static flatkv_t *store_of_fruit(const char *name)
{
    flatkv_t *store = open_ordered(name);
    put_text(store, "pear", "green");
    put_text(store, "apple", "red");
    put_text(store, "plum", "blue");
    put_text(store, "apricot", "orange");
    put_text(store, "fig", "");
    return store;
}

static void entries_come_in_the_order_of_their_keys_both_ways(void)
{
    static const char *const keys[] = { "apple", "apricot", "fig", "pear", "plum" };
    static const char *const values[] = { "red", "orange", "", "green", "blue" };
    flatkv_t *store = store_of_fruit("order");
    flatkv_iter_t *iter = NULL;
    OK(flatkv_iter_new(store, NULL, &iter));
    check_ended(iter);
    for (int i = 0; i < 5; i++) {
        flatkv_iter_next(iter);
        check_on(iter, keys[i], values[i]);
    }
    CHECK(flatkv_iter_value(iter).data != NULL);
    flatkv_iter_next(iter);
    check_ended(iter);
    flatkv_iter_prev(iter);
    check_ended(iter);
    flatkv_iter_seek_last(iter);
    for (int i = 4; i >= 0; i--) {
        check_on(iter, keys[i], values[i]);
        flatkv_iter_prev(iter);
    }
    check_ended(iter);
    flatkv_iter_seek_first(iter);
    flatkv_iter_next(iter);
    flatkv_iter_next(iter);
    check_on(iter, "fig", "");
    CHECK(flatkv_iter_value(iter).data != NULL);
    flatkv_iter_prev(iter);
    check_on(iter, "apricot", "orange");
    flatkv_iter_free(iter);
    OK(flatkv_close(store));
}

static void seeks_bounds_and_prefixes_lead_where_they_should(void)
{
    flatkv_t *store = store_of_fruit("seek");
    flatkv_iter_t *iter = NULL;
    OK(flatkv_iter_new(store, NULL, &iter));
    flatkv_iter_seek(iter, "b", 1);
    check_on(iter, "fig", "");
    flatkv_iter_seek(iter, "fig", 3);
    check_on(iter, "fig", "");
    flatkv_iter_seek_for_prev(iter, "b", 1);
    check_on(iter, "apricot", "orange");
    flatkv_iter_seek_for_prev(iter, "fig", 3);
    check_on(iter, "fig", "");
    flatkv_iter_seek(iter, NULL, 0);
    check_on(iter, "apple", "red");
    flatkv_iter_seek_for_prev(iter, NULL, 0);
    check_ended(iter);
    flatkv_iter_seek(iter, "z", 1);
    check_ended(iter);
    OK(flatkv_iter_set_prefix(iter, "ap", 2));
    check_ended(iter);
    flatkv_iter_next(iter);
    check_on(iter, "apple", "red");
    flatkv_iter_next(iter);
    flatkv_iter_next(iter);
    check_ended(iter);
    OK(flatkv_iter_set_bounds(iter, "apricot", 7, "pear", 4));
    flatkv_iter_seek(iter, "a", 1);
    check_on(iter, "apricot", "orange");
    flatkv_iter_seek_for_prev(iter, "z", 1);
    check_on(iter, "fig", "");
    OK(flatkv_iter_set_bounds(iter, NULL, 0, NULL, 0));
    flatkv_iter_seek_last(iter);
    check_on(iter, "plum", "blue");
    flatkv_iter_free(iter);
    OK(flatkv_close(store));
}

static void a_snapshot_shows_what_there_was(void)
{
    flatkv_t *store = store_of_fruit("snapshot");
    flatkv_snapshot_t *snapshot = NULL;
    flatkv_iter_t *iter = NULL, *later = NULL;
    flatkv_buffer_t value;
    char *large = malloc(100000);
    flatkv_slice_t found;
    CHECK(large != NULL);
    memset(large, 'l', 100000);
    OK(flatkv_put(store, "large", 5, large, 100000));
    OK(flatkv_snapshot_new(store, &snapshot));
    CHECK(flatkv_snapshot_kept_bytes(snapshot) == 0);
    put_text(store, "apple", "brown");
    put_text(store, "quince", "yellow");
    put_text(store, "large", "small");
    OK(flatkv_delete(store, "plum", 4));
    CHECK(flatkv_snapshot_kept_bytes(snapshot) > 100000);
    OK(flatkv_snapshot_get(snapshot, "apple", 5, &value));
    CHECK(holds(value.data, value.len, "red"));
    flatkv_buffer_free(&value);
    OK(flatkv_snapshot_get(snapshot, "plum", 4, &value));
    flatkv_buffer_free(&value);
    GIVES(FLATKV_NOT_FOUND, flatkv_snapshot_get(snapshot, "quince", 6, &value));
    CHECK(value.data == NULL && value.len == 0);
    OK(flatkv_iter_new(store, snapshot, &iter));
    OK(flatkv_iter_new(store, NULL, &later));
    flatkv_snapshot_free(snapshot);
    GIVES(FLATKV_E_CLOSED, flatkv_snapshot_get(snapshot, "apple", 5, &value));
    flatkv_iter_seek_first(iter);
    check_on(iter, "apple", "red");
    flatkv_iter_seek(iter, "large", 5);
    found = flatkv_iter_value(iter);
    CHECK(found.len == 100000 && memcmp(found.data, large, found.len) == 0);
    flatkv_iter_seek_last(iter);
    check_on(iter, "plum", "blue");
    CHECK(flatkv_iter_kept_bytes(iter) > 100000);
    flatkv_iter_seek_last(later);
    check_on(later, "quince", "yellow");
    CHECK(flatkv_iter_kept_bytes(later) == 0);
    flatkv_iter_free(iter);
    flatkv_iter_free(later);
    free(large);
    OK(flatkv_close(store));
}

static void a_hash_index_has_snapshots_and_refuses_iterators(void)
{
    flatkv_t *store = open_store("hash");
    flatkv_snapshot_t *snapshot = NULL;
    flatkv_iter_t *iter;
    flatkv_buffer_t value;
    uint64_t keys = 7, bytes = 7;
    put_text(store, "k", "old");
    OK(flatkv_snapshot_new(store, &snapshot));
    put_text(store, "k", "new");
    OK(flatkv_snapshot_get(snapshot, "k", 1, &value));
    CHECK(holds(value.data, value.len, "old"));
    flatkv_buffer_free(&value);
    GIVES(FLATKV_E_UNSUPPORTED, flatkv_iter_new(store, snapshot, &iter));
    SAYS("index=ordered");
    CHECK(iter == NULL);
    GIVES(FLATKV_E_UNSUPPORTED, flatkv_estimate_range(store, NULL, 0, NULL, 0, &keys, &bytes));
    CHECK(keys == 0 && bytes == 0);
    flatkv_snapshot_free(snapshot);
    OK(flatkv_close(store));
}

static void ranges_are_estimated(void)
{
    flatkv_t *store = open_ordered("estimate");
    uint64_t keys, bytes;
    for (int i = 0; i < 300; i++) {
        char key[8];
        snprintf(key, sizeof key, "%03d", i);
        put_text(store, key, "a value");
    }
    OK(flatkv_estimate_range(store, NULL, 0, NULL, 0, &keys, &bytes));
    CHECK(keys > 200 && keys < 400 && bytes > keys * 10);
    OK(flatkv_estimate_range(store, "100", 3, "110", 3, &keys, &bytes));
    CHECK(keys > 6 && keys < 14);
    OK(flatkv_estimate_range(store, "2", 1, "1", 1, &keys, &bytes));
    CHECK(keys == 0 && bytes == 0);
    OK(flatkv_close(store));
}

static void a_store_closes_and_what_it_made_says_so_and_is_freed(void)
{
    flatkv_t *store = store_of_fruit("close"), *other = open_ordered("other"), *again = NULL;
    flatkv_snapshot_t *snapshot;
    flatkv_iter_t *iter, *none;
    flatkv_buffer_t value;
    OK(flatkv_snapshot_new(store, &snapshot));
    OK(flatkv_iter_new(store, snapshot, &iter));
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_iter_new(other, snapshot, &none));
    SAYS("another store");
    flatkv_iter_seek_first(iter);
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_snapshot_get(snapshot, "fig", 3, &value));
    flatkv_iter_seek_last(iter);
    GIVES(FLATKV_E_CLOSED, flatkv_iter_status(iter));
    CHECK(!flatkv_iter_valid(iter));
    GIVES(FLATKV_E_LOCKED, flatkv_open(path_of("close"), NULL, &again));
    flatkv_snapshot_free(snapshot);
    flatkv_iter_free(iter);
    flatkv_iter_free(iter);
    OK(flatkv_open(path_of("close"), NULL, &again));
    OK(flatkv_close(again));
    OK(flatkv_close(other));
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(entries_come_in_the_order_of_their_keys_both_ways);
    RUN(seeks_bounds_and_prefixes_lead_where_they_should);
    RUN(a_snapshot_shows_what_there_was);
    RUN(a_hash_index_has_snapshots_and_refuses_iterators);
    RUN(ranges_are_estimated);
    RUN(a_store_closes_and_what_it_made_says_so_and_is_freed);
    return 0;
}
