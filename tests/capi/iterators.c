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

/* Where the iterator is after it gave so many entries, and what they are. */
static void check_gives(flatkv_iter_t *iter, size_t n, const char *all)
{
    flatkv_slice_t keys[8], values[8];
    char found[256] = "";
    size_t given = flatkv_iter_entries(iter, n, keys, values);
    CHECK(given <= n && n <= 8);
    OK(flatkv_iter_status(iter));
    for (size_t i = 0; i < n; i++) {
        CHECK((keys[i].data != NULL) == (i < given) && (values[i].data != NULL) == (i < given));
        if (i < given)
            sprintf(found + strlen(found), "%.*s=%.*s ", (int)keys[i].len, (const char *)keys[i].data,
                    (int)values[i].len, (const char *)values[i].data);
    }
    if (strcmp(found, all) != 0)
        FAIL("expected %s, found %s", all, found);
}

static void several_entries_come_with_one_call_and_the_iterator_is_on_the_last(void)
{
    flatkv_t *store = store_of_fruit("several");
    flatkv_iter_t *iter = NULL;
    OK(flatkv_iter_new(store, NULL, &iter));
    check_gives(iter, 8, "");
    flatkv_iter_seek_first(iter);
    check_gives(iter, 0, "");
    check_gives(iter, 2, "apple=red apricot=orange ");
    check_on(iter, "apricot", "orange");
    check_gives(iter, 1, "apricot=orange ");
    flatkv_iter_next(iter);
    check_gives(iter, 8, "fig= pear=green plum=blue ");
    check_on(iter, "plum", "blue");
    flatkv_iter_next(iter);
    check_ended(iter);
    check_gives(iter, 8, "");
    /* The order is that of the keys, whichever way the iterator came. */
    flatkv_iter_seek_last(iter);
    flatkv_iter_prev(iter);
    flatkv_iter_prev(iter);
    check_gives(iter, 8, "fig= pear=green plum=blue ");
    check_on(iter, "plum", "blue");
    flatkv_iter_prev(iter);
    check_on(iter, "pear", "green");
    OK(flatkv_iter_set_bounds(iter, "apricot", 7, "pear", 4));
    flatkv_iter_seek_first(iter);
    check_gives(iter, 8, "apricot=orange fig= ");
    flatkv_iter_free(iter);
    OK(flatkv_close(store));
}

/* Some values are too long to be at hand. */
static void calls_that_give_several_entries_give_all_of_them_in_the_end(void)
{
    enum { KEYS = 1000, LONG = 5000 };
    flatkv_t *store = open_ordered("all");
    flatkv_iter_t *iter = NULL;
    flatkv_slice_t keys[50], values[50];
    char key[16], *value = malloc(LONG);
    int seen = 0, calls = 0;
    size_t given;
    CHECK(value != NULL);
    for (int i = 0; i < KEYS; i++) {
        sprintf(key, "%06d", i);
        memset(value, 'a' + i % 26, LONG);
        OK(flatkv_put(store, key, 6, value, i % 97 == 0 ? LONG : i % 30));
    }
    OK(flatkv_iter_new(store, NULL, &iter));
    flatkv_iter_seek_first(iter);
    while ((given = flatkv_iter_entries(iter, 50, keys, values)) > 0) {
        for (size_t i = 0; i < given; i++, seen++) {
            sprintf(key, "%06d", seen);
            memset(value, 'a' + seen % 26, LONG);
            CHECK(holds(keys[i].data, keys[i].len, key));
            CHECK(values[i].len == (size_t)(seen % 97 == 0 ? LONG : seen % 30));
            CHECK(memcmp(values[i].data, value, values[i].len) == 0);
        }
        calls++;
        flatkv_iter_next(iter);
    }
    OK(flatkv_iter_status(iter));
    CHECK(seen == KEYS && calls < KEYS / 5);
    free(value);
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

static void many_keys_are_read_at_once_in_a_snapshot(void)
{
    enum { KEYS = 40 }; /* more than are fetched ahead at a time */
    static char texts[KEYS][8], long_key[65537];
    for (int hash = 0; hash < 2; hash++) {
        flatkv_t *store = open_with_index(hash ? "many_hash" : "many_ordered", hash ? "hash" : "ordered");
        flatkv_snapshot_t *snapshot = NULL;
        flatkv_slice_t keys[KEYS + 2];
        flatkv_buffer_t values[KEYS + 2];
        flatkv_status_t statuses[KEYS + 2];
        for (int i = 0; i < KEYS; i++) {
            snprintf(texts[i], sizeof texts[i], "key %d", i);
            keys[i] = (flatkv_slice_t){ (const uint8_t *)texts[i], strlen(texts[i]) };
            put_text(store, texts[i], texts[i]);
        }
        OK(flatkv_snapshot_new(store, &snapshot));
        for (int i = 0; i < KEYS; i += 2)
            put_text(store, texts[i], "later");
        OK(flatkv_delete(store, texts[1], strlen(texts[1])));
        put_text(store, "new", "later");
        keys[KEYS] = (flatkv_slice_t){ (const uint8_t *)"new", 3 };
        keys[KEYS + 1] = (flatkv_slice_t){ (const uint8_t *)long_key, sizeof long_key };
        OK(flatkv_snapshot_multi_get(snapshot, KEYS + 2, keys, values, statuses));
        for (int i = 0; i < KEYS; i++) {
            CHECK(statuses[i] == FLATKV_OK && holds(values[i].data, values[i].len, texts[i]));
            flatkv_buffer_free(&values[i]);
        }
        CHECK(statuses[KEYS] == FLATKV_NOT_FOUND && values[KEYS].data == NULL);
        CHECK(statuses[KEYS + 1] == FLATKV_E_TOO_LARGE && values[KEYS + 1].data == NULL);
        SAYS("flatkv_snapshot_multi_get: key 41: key of 65537 bytes");
        OK(flatkv_snapshot_multi_get(snapshot, 0, NULL, NULL, NULL));
        OK(flatkv_close(store));
        OK(flatkv_snapshot_multi_get(snapshot, 2, keys, values, statuses));
        CHECK(statuses[1] == FLATKV_E_CLOSED && values[1].data == NULL);
        flatkv_snapshot_free(snapshot);
        GIVES(FLATKV_E_CLOSED, flatkv_snapshot_multi_get(snapshot, 1, keys, values, statuses));
        CHECK(statuses[0] == FLATKV_E_CLOSED);
    }
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

#define MARK "here it rots"

/* Changes a byte of a pool, where this text lies. */
static void rot(const char *path, const char *text)
{
    static char pool[4 << 20];
    FILE *file = fopen(path, "r+b");
    CHECK(file != NULL);
    size_t len = fread(pool, 1, sizeof pool, file);
    char *at = memmem(pool, len, text, strlen(text));
    CHECK(at != NULL);
    CHECK(fseek(file, at - pool, SEEK_SET) == 0 && fputc(*at ^ 1, file) != EOF && fclose(file) == 0);
}

/* The next step forgot it, and a loop that looked at the status behind its end took the value for empty. */
static void an_error_of_a_value_is_the_status_until_the_iterator_is_placed_anew(void)
{
    static char large[300000];
    flatkv_t *store = store_of_fruit("rot");
    flatkv_iter_t *iter = NULL;
    int unread = 0;
    memset(large, 'w', sizeof large);
    memcpy(large + sizeof large / 2, MARK, strlen(MARK));
    OK(flatkv_put(store, "kiwi", 4, large, sizeof large));
    rot(path_of("rot"), MARK);
    OK(flatkv_iter_new(store, NULL, &iter));
    for (flatkv_iter_seek_first(iter); flatkv_iter_valid(iter); flatkv_iter_next(iter))
        unread += flatkv_iter_value(iter).data == NULL;
    CHECK(unread == 1);
    GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
    flatkv_iter_seek(iter, "pear", 4);
    check_on(iter, "pear", "green");
    flatkv_iter_prev(iter);
    CHECK(flatkv_iter_value(iter).data == NULL);
    flatkv_iter_prev(iter);
    CHECK(flatkv_iter_valid(iter));
    GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
    flatkv_iter_seek(iter, "kiwi", 4);
    OK(flatkv_iter_status(iter));
    flatkv_slice_t keys[8], values[8];
    CHECK(flatkv_iter_entries(iter, 8, keys, values) == 0 && values[0].data == NULL);
    flatkv_iter_next(iter);
    CHECK(flatkv_iter_entries(iter, 8, keys, values) > 0);
    GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
    OK(flatkv_iter_set_prefix(iter, "p", 1));
    OK(flatkv_iter_status(iter));
    flatkv_iter_free(iter);
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
    RUN(several_entries_come_with_one_call_and_the_iterator_is_on_the_last);
    RUN(calls_that_give_several_entries_give_all_of_them_in_the_end);
    RUN(a_snapshot_shows_what_there_was);
    RUN(many_keys_are_read_at_once_in_a_snapshot);
    RUN(a_hash_index_has_snapshots_and_refuses_iterators);
    RUN(ranges_are_estimated);
    RUN(an_error_of_a_value_is_the_status_until_the_iterator_is_placed_anew);
    RUN(a_store_closes_and_what_it_made_says_so_and_is_freed);
    return 0;
}
