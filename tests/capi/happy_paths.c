/* Every function does what its comment says when it is used as it should be. */
#include "check.h"

static void version_of_header_and_library_are_the_same(void)
{
    CHECK(strcmp(flatkv_version(), FLATKV_VERSION) == 0);
    CHECK(flatkv_version_number() == FLATKV_VERSION_NUMBER);
    CHECK(FLATKV_VERSION_NUMBER
          == FLATKV_VERSION_MAJOR * 1000000 + FLATKV_VERSION_MINOR * 1000 + FLATKV_VERSION_PATCH);
    CHECK(flatkv_abi_version() == FLATKV_ABI_VERSION);
}

static void every_status_has_its_number_and_a_text_of_its_own(void)
{
    static const struct { int found, expected; } codes[] = {
        { FLATKV_OK, 0 }, { FLATKV_NOT_FOUND, 1 }, { FLATKV_E_INVALID_ARGUMENT, 2 }, { FLATKV_E_IO, 3 },
        { FLATKV_E_NO_SPACE, 4 }, { FLATKV_E_CORRUPTED, 5 }, { FLATKV_E_INCOMPLETE, 6 }, { FLATKV_E_LOCKED, 7 },
        { FLATKV_E_READ_ONLY, 8 }, { FLATKV_E_CONFLICT, 9 }, { FLATKV_E_UNSUPPORTED, 10 }, { FLATKV_E_POISONED, 11 },
        { FLATKV_E_CLOSED, 12 }, { FLATKV_E_FORKED, 13 }, { FLATKV_E_TOO_LARGE, 14 }, { FLATKV_E_BUSY, 15 },
        { FLATKV_E_BUFFER_TOO_SMALL, 16 }, { FLATKV_E_TIMED_OUT, 17 }, { FLATKV_E_PANIC, 99 },
    };
    const size_t n = sizeof codes / sizeof codes[0];
    const char *unknown = flatkv_status_str(18);
    CHECK(strcmp(unknown, "unknown status") == 0);
    CHECK(flatkv_status_str(-1) == unknown && flatkv_status_str(INT32_MAX) == unknown);
    for (size_t i = 0; i < n; i++) {
        CHECK(codes[i].found == codes[i].expected);
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(flatkv_status_str(codes[i].found), flatkv_status_str(codes[j].found)) != 0);
        CHECK(strcmp(flatkv_status_str(codes[i].found), unknown) != 0);
    }
}

static void a_new_thread_has_no_last_error(void)
{
    CHECK(strcmp(flatkv_last_error(), "") == 0);
}

static void a_value_is_read_in_three_forms_until_it_is_deleted(void)
{
    flatkv_t *store = open_store("forms");
    flatkv_pin_t *pin = NULL;
    char buf[16];
    size_t len = 99;
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "k", 1));
    put_text(store, "k", "first");
    put_text(store, "k", "second");
    OK(flatkv_exists(store, "k", 1));
    expect_text(store, "k", "second");
    OK(flatkv_get_into(store, "k", 1, buf, sizeof buf, &len));
    CHECK(holds(buf, len, "second"));
    OK(flatkv_get_pinned(store, "k", 1, &pin));
    CHECK(holds(flatkv_pin_data(pin), flatkv_pin_len(pin), "second"));
    OK(flatkv_delete(store, "k", 1));
    CHECK(holds(flatkv_pin_data(pin), flatkv_pin_len(pin), "second"));
    flatkv_pin_free(pin);
    GIVES(FLATKV_NOT_FOUND, flatkv_delete(store, "k", 1));
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "k", 1));
    OK(flatkv_close(store));
}

static void out_parameters_are_empty_when_there_is_no_value(void)
{
    flatkv_t *store = open_store("empty-out");
    flatkv_buffer_t buffer = { (uint8_t *)"x", 1 };
    flatkv_pin_t *pin = (flatkv_pin_t *)&store;
    size_t len = 7;
    GIVES(FLATKV_NOT_FOUND, flatkv_get(store, "k", 1, &buffer));
    CHECK(buffer.data == NULL && buffer.len == 0);
    GIVES(FLATKV_NOT_FOUND, flatkv_get_into(store, "k", 1, NULL, 0, &len));
    CHECK(len == 0);
    GIVES(FLATKV_NOT_FOUND, flatkv_get_pinned(store, "k", 1, &pin));
    CHECK(pin == NULL);
    OK(flatkv_close(store));
}

static void an_empty_value_is_a_value(void)
{
    flatkv_t *store = open_store("empty-value");
    flatkv_buffer_t buffer;
    flatkv_pin_t *pin;
    size_t len = 7;
    OK(flatkv_put(store, "k", 1, NULL, 0));
    OK(flatkv_get(store, "k", 1, &buffer));
    CHECK(buffer.data != NULL && buffer.len == 0);
    flatkv_buffer_free(&buffer);
    CHECK(buffer.data == NULL && buffer.len == 0);
    OK(flatkv_get_into(store, "k", 1, NULL, 0, &len));
    CHECK(len == 0);
    OK(flatkv_get_pinned(store, "k", 1, &pin));
    CHECK(flatkv_pin_data(pin) != NULL && flatkv_pin_len(pin) == 0);
    flatkv_pin_free(pin);
    OK(flatkv_close(store));
}

static void keys_and_values_may_hold_any_bytes_and_have_their_largest_size(void)
{
    flatkv_t *store = open_store("bytes");
    static unsigned char key[65536];
    const size_t large = (size_t)3 << 20;
    unsigned char *value = malloc(large), *back = malloc(large);
    size_t len;
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (unsigned char)(i * 7);
    for (size_t i = 0; i < large; i++)
        value[i] = (unsigned char)(i * 13 + i / 257);
    OK(flatkv_put(store, key, sizeof key, value, large));
    OK(flatkv_put(store, "\0", 1, "\0\0", 2));
    OK(flatkv_put(store, "\0\0", 2, "\xff", 1));
    OK(flatkv_get_into(store, key, sizeof key, back, large, &len));
    CHECK(len == large && memcmp(back, value, large) == 0);
    OK(flatkv_get_into(store, "\0", 1, back, 8, &len));
    CHECK(len == 2 && memcmp(back, "\0\0", 2) == 0);
    OK(flatkv_close(store));
    free(value);
    free(back);
}

static void a_small_buffer_is_told_the_length_it_needs(void)
{
    flatkv_t *store = open_store("small");
    char buf[4] = "abc";
    size_t len = 0;
    put_text(store, "k", "0123456789");
    GIVES(FLATKV_E_BUFFER_TOO_SMALL, flatkv_get_into(store, "k", 1, buf, sizeof buf, &len));
    CHECK(len == 10);
    SAYS("the buffer holds 4 bytes, the value has 10");
    GIVES(FLATKV_E_BUFFER_TOO_SMALL, flatkv_get_into(store, "k", 1, NULL, 0, &len));
    CHECK(len == 10);
    OK(flatkv_close(store));
}

static void a_batch_is_applied_in_order_and_may_be_written_again(void)
{
    flatkv_t *store = open_store("batch");
    flatkv_batch_t *batch = flatkv_batch_new();
    flatkv_write_options_t *options = flatkv_write_options_new();
    put_text(store, "old", "1");
    CHECK(flatkv_batch_count(batch) == 0);
    OK(flatkv_write(store, batch));
    OK(flatkv_batch_put(batch, "a", 1, "1", 1));
    OK(flatkv_batch_put(batch, "a", 1, "2", 1));
    OK(flatkv_batch_delete(batch, "old", 3));
    OK(flatkv_batch_delete(batch, "never", 5));
    OK(flatkv_batch_put(batch, "e", 1, NULL, 0));
    CHECK(flatkv_batch_count(batch) == 5);
    OK(flatkv_write(store, batch));
    CHECK(flatkv_batch_count(batch) == 5);
    expect_text(store, "a", "2");
    expect_text(store, "e", "");
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "old", 3));
    OK(flatkv_delete(store, "a", 1));
    OK(flatkv_write_options_set(options, "durability", "os"));
    OK(flatkv_write_with(store, options, batch));
    expect_text(store, "a", "2");
    flatkv_batch_clear(batch);
    CHECK(flatkv_batch_count(batch) == 0);
    OK(flatkv_batch_put(batch, "b", 1, "3", 1));
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_write(store, batch));
    CHECK(flatkv_batch_count(batch) == 1);
    flatkv_batch_free(batch);
    flatkv_write_options_free(options);
}

static void write_options_and_sync(void)
{
    flatkv_t *store = open_store("options");
    flatkv_write_options_t *options = flatkv_write_options_new();
    OK(flatkv_put_with(store, options, "a", 1, "1", 1));
    OK(flatkv_write_options_set(options, "durability", "os"));
    OK(flatkv_put_with(store, options, "b", 1, "2", 1));
    OK(flatkv_write_options_set(options, "durability", "sync"));
    OK(flatkv_put_with(store, options, "c", 1, "3", 1));
    flatkv_write_options_free(options);
    OK(flatkv_sync(store));
    expect_text(store, "b", "2");
    OK(flatkv_close(store));
}

static void many_keys_are_read_at_once(void)
{
    flatkv_t *store = open_store("multi");
    static char long_key[65537];
    flatkv_slice_t keys[5] = { { (const uint8_t *)"a", 1 }, { (const uint8_t *)"none", 4 }, { (const uint8_t *)"e", 1 },
                               { NULL, 0 }, { (const uint8_t *)long_key, sizeof long_key } };
    flatkv_buffer_t values[5];
    flatkv_status_t statuses[5];
    put_text(store, "a", "apple");
    put_text(store, "e", "");
    OK(flatkv_multi_get(store, 5, keys, values, statuses));
    CHECK(statuses[0] == FLATKV_OK && holds(values[0].data, values[0].len, "apple"));
    CHECK(statuses[1] == FLATKV_NOT_FOUND && values[1].data == NULL);
    CHECK(statuses[2] == FLATKV_OK && values[2].data != NULL && values[2].len == 0);
    CHECK(statuses[3] == FLATKV_E_INVALID_ARGUMENT && values[3].data == NULL);
    CHECK(statuses[4] == FLATKV_E_TOO_LARGE && values[4].data == NULL);
    SAYS("flatkv_multi_get: key 4: key of 65537 bytes");
    for (int i = 0; i < 5; i++)
        flatkv_buffer_free(&values[i]);
    OK(flatkv_multi_get(store, 0, NULL, NULL, NULL));
    OK(flatkv_close(store));
}

static void many_values_are_packed_into_one_buffer(void)
{
    flatkv_t *store = open_store("packed");
    flatkv_slice_t keys[5] = { { (const uint8_t *)"a", 1 }, { (const uint8_t *)"none", 4 }, { (const uint8_t *)"e", 1 },
                               { NULL, 0 }, { (const uint8_t *)"b", 1 } };
    flatkv_slice_t values[5];
    flatkv_status_t statuses[5];
    char buf[12];
    size_t needed = 0;
    put_text(store, "a", "apple");
    put_text(store, "b", "banana!");
    put_text(store, "e", "");
    OK(flatkv_multi_get_into(store, 5, keys, buf, sizeof buf, values, statuses, &needed));
    CHECK(needed == 12);
    CHECK(statuses[0] == FLATKV_OK && holds(values[0].data, values[0].len, "apple"));
    CHECK((const char *)values[0].data == buf && (const char *)values[4].data == buf + 5);
    CHECK(statuses[1] == FLATKV_NOT_FOUND && values[1].data == NULL);
    CHECK(statuses[2] == FLATKV_OK && values[2].data != NULL && values[2].len == 0);
    CHECK(statuses[3] == FLATKV_E_INVALID_ARGUMENT && values[3].data == NULL);
    CHECK(statuses[4] == FLATKV_OK && holds(values[4].data, values[4].len, "banana!"));

    GIVES(FLATKV_E_BUFFER_TOO_SMALL, flatkv_multi_get_into(store, 5, keys, buf, 11, values, statuses, &needed));
    CHECK(needed == 12);
    CHECK(statuses[0] == FLATKV_OK && holds(values[0].data, values[0].len, "apple"));
    CHECK(statuses[1] == FLATKV_NOT_FOUND && statuses[3] == FLATKV_E_INVALID_ARGUMENT);
    CHECK(statuses[4] == FLATKV_E_BUFFER_TOO_SMALL && values[4].data == NULL && values[4].len == 7);

    GIVES(FLATKV_E_BUFFER_TOO_SMALL, flatkv_multi_get_into(store, 5, keys, NULL, 0, values, statuses, &needed));
    CHECK(needed == 12 && statuses[2] == FLATKV_OK && values[2].data != NULL);
    OK(flatkv_multi_get_into(store, 0, NULL, NULL, 0, NULL, NULL, &needed));
    CHECK(needed == 0);
    OK(flatkv_close(store));
}

static void asynchronous_writes_are_there_once_their_ticket_was_waited_for(void)
{
    flatkv_t *store = open_store("async");
    flatkv_batch_t *batch = flatkv_batch_new();
    uint64_t first = 0, second = 0, last = 0;
    OK(flatkv_put_async(store, "a", 1, "1", 1, &first));
    OK(flatkv_batch_put(batch, "b", 1, "2", 1));
    OK(flatkv_batch_put(batch, "c", 1, "3", 1));
    OK(flatkv_write_async(store, batch, &second));
    flatkv_batch_clear(batch);
    flatkv_batch_free(batch);
    CHECK(first != 0 && second > first);
    OK(flatkv_wait(store, second));
    OK(flatkv_wait(store, first));
    CHECK(flatkv_durable_ticket(store) >= second);
    expect_text(store, "a", "1");
    expect_text(store, "c", "3");
    for (int i = 0; i < 1000; i++)
        OK(flatkv_put_async(store, &i, sizeof i, "v", 1, &last));
    OK(flatkv_sync(store));
    CHECK(flatkv_durable_ticket(store) >= last);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_wait(store, last + 1000));
    OK(flatkv_close(store));
}

static void health_and_stats(void)
{
    flatkv_t *store = open_store("health");
    flatkv_buffer_t json;
    OK(flatkv_health(store));
    OK(flatkv_maintenance_resume(store));
    OK(flatkv_maintenance_pause(store));
    OK(flatkv_maintenance_pause(store));
    OK(flatkv_put(store, "k", 1, "while paused", 12));
    OK(flatkv_maintenance_resume(store));
    OK(flatkv_stats_json(store, &json));
    CHECK(json.len >= 2 && json.data[0] == '{' && json.data[json.len - 1] == '}');
    flatkv_buffer_free(&json);
    OK(flatkv_verify(store, &json));
    CHECK(json.len >= 2 && json.data[0] == '{' && json.data[json.len - 1] == '}');
    flatkv_buffer_free(&json);
    flatkv_buffer_free(&json);
    flatkv_buffer_free(NULL);
    OK(flatkv_close(store));
}

static void close_is_refused_while_values_are_pinned_and_closes_nothing(void)
{
    flatkv_t *store = open_store("pinned");
    flatkv_pin_t *pins[2];
    put_text(store, "k", "v");
    OK(flatkv_get_pinned(store, "k", 1, &pins[0]));
    OK(flatkv_get_pinned(store, "k", 1, &pins[1]));
    GIVES(FLATKV_E_BUSY, flatkv_close(store));
    SAYS("2");
    put_text(store, "k", "w");
    expect_text(store, "k", "w");
    CHECK(holds(flatkv_pin_data(pins[0]), flatkv_pin_len(pins[0]), "v"));
    flatkv_pin_free(pins[0]);
    GIVES(FLATKV_E_BUSY, flatkv_close(store));
    flatkv_pin_free(pins[1]);
    OK(flatkv_close(store));
    GIVES(FLATKV_E_CLOSED, flatkv_close(store));
}

static void what_was_written_is_there_when_the_store_is_opened_again(void)
{
    flatkv_t *store = open_store("again");
    put_text(store, "a", "1");
    put_text(store, "b", "2");
    OK(flatkv_delete(store, "a", 1));
    OK(flatkv_close(store));
    store = open_store("again");
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "a", 1));
    expect_text(store, "b", "2");
    OK(flatkv_close(store));
}

static void a_read_only_store_refuses_writes(void)
{
    flatkv_t *store = open_store("read-only");
    flatkv_options_t *options = flatkv_options_new();
    put_text(store, "a", "1");
    OK(flatkv_close(store));
    OK(flatkv_options_set(options, "read_only", "true"));
    OK(flatkv_open(path_of("read-only"), options, &store));
    expect_text(store, "a", "1");
    GIVES(FLATKV_E_READ_ONLY, flatkv_put(store, "a", 1, "2", 1));
    GIVES(FLATKV_E_READ_ONLY, flatkv_delete(store, "a", 1));
    expect_text(store, "a", "1");
    OK(flatkv_close(store));
    flatkv_options_free(options);
}

static void success_and_not_found_leave_the_last_error_alone(void)
{
    flatkv_t *store = open_store("last-error");
    char before[256];
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_put(store, "", 0, "v", 1));
    snprintf(before, sizeof before, "%s", flatkv_last_error());
    put_text(store, "k", "v");
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, "x", 1));
    CHECK(strcmp(before, flatkv_last_error()) == 0);
    OK(flatkv_close(store));
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(a_new_thread_has_no_last_error);
    RUN(version_of_header_and_library_are_the_same);
    RUN(every_status_has_its_number_and_a_text_of_its_own);
    RUN(a_value_is_read_in_three_forms_until_it_is_deleted);
    RUN(out_parameters_are_empty_when_there_is_no_value);
    RUN(an_empty_value_is_a_value);
    RUN(keys_and_values_may_hold_any_bytes_and_have_their_largest_size);
    RUN(a_small_buffer_is_told_the_length_it_needs);
    RUN(a_batch_is_applied_in_order_and_may_be_written_again);
    RUN(write_options_and_sync);
    RUN(many_keys_are_read_at_once);
    RUN(many_values_are_packed_into_one_buffer);
    RUN(asynchronous_writes_are_there_once_their_ticket_was_waited_for);
    RUN(health_and_stats);
    RUN(close_is_refused_while_values_are_pinned_and_closes_nothing);
    RUN(what_was_written_is_there_when_the_store_is_opened_again);
    RUN(a_read_only_store_refuses_writes);
    RUN(success_and_not_found_leave_the_last_error_alone);
    return 0;
}
