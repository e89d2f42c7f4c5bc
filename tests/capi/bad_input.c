/* Wrong input gets the status that fits and a message that names what, where, expected and found. */
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_file(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(bytes, 1, len, file) == len);
    CHECK(fclose(file) == 0);
}

/* The whole file; the caller frees it. */
static char *read_file(const char *path, size_t *out_len)
{
    struct stat info;
    char *bytes;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &info) == 0);
    bytes = malloc((size_t)info.st_size + 1);
    for (off_t at = 0; at < info.st_size;) {
        ssize_t n = pread(fd, bytes + at, (size_t)(info.st_size - at), at);
        CHECK(n > 0);
        at += n;
    }
    close(fd);
    *out_len = (size_t)info.st_size;
    return bytes;
}

/* Where a pool says who holds it: whoever opens a pool writes there. */
enum { HOLDER_AT = 2048, HOLDER_LEN = 512 };

static int same_bytes(const char *before, const char *after, size_t len, int is_pool)
{
    for (size_t i = 0; i < len; i++)
        if (before[i] != after[i] && !(is_pool && i >= HOLDER_AT && i < HOLDER_AT + HOLDER_LEN))
            return 0;
    return 1;
}

/* Opening `path` fails with this status, names the path, and leaves the bytes that lie there, all of them unless it begins
   as a pool. */
static void refuses(const char *path, int is_pool, flatkv_status_t expected)
{
    flatkv_t *store = (flatkv_t *)&store;
    size_t before_len, after_len;
    char *before = read_file(path, &before_len), *after;
    flatkv_status_t found = flatkv_open(path, NULL, &store);
    if (found != expected)
        FAIL("%s: expected %s, found %s", path, flatkv_status_str(expected), flatkv_status_str(found));
    CHECK(store == NULL);
    SAYS(path);
    after = read_file(path, &after_len);
    CHECK(after_len == before_len && same_bytes(before, after, after_len, is_pool));
    free(before);
    free(after);
}

/* A closed pool with `n` keys; its path. */
static const char *pool(const char *name, int n)
{
    flatkv_t *store = open_store(name);
    static const char value[1000];
    for (int i = 0; i < n; i++)
        OK(flatkv_put(store, &i, sizeof i, value, sizeof value));
    OK(flatkv_close(store));
    return path_of(name);
}

static void keys_and_values_out_of_range(void)
{
    flatkv_t *store = open_store("range");
    static char key[65537];
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_put(store, "k", 0, "v", 1));
    SAYS("flatkv_put: invalid argument: key of 0 bytes: a key has 1 to 65536 bytes");
    GIVES(FLATKV_E_TOO_LARGE, flatkv_put(store, key, sizeof key, "v", 1));
    SAYS("flatkv_put: key of 65537 bytes exceeds the limit of 65536 bytes");
    GIVES(FLATKV_E_TOO_LARGE, flatkv_put(store, "k", 1, key, (size_t)1 << 32));
    SAYS("flatkv_put: value of 4294967296 bytes exceeds the limit of 4294967295 bytes");
    OK(flatkv_put(store, key, sizeof key - 1, "v", 1));
    OK(flatkv_close(store));
}

static void options_list_what_they_accept(void)
{
    flatkv_options_t *options = flatkv_options_new();
    flatkv_write_options_t *write_options = flatkv_write_options_new();
    static const char *const values[][3] = {
        { "media", "floppy", "auto or dax or file or emulated-pm" },
        { "durability", "maybe", "sync or os" },
        { "index", "tree", "hash or ordered" },
        { "create", "yes", "true or false" },
        { "read_only", "", "true or false" },
        { "max_bytes", "-1", "a number of bytes" },
        { "max_bytes", "99999999999 TiB", "a number of bytes" },
        { "segment_size_bytes", "4 kB", "a number of bytes" },
        { "commit", "pipelined", "auto or lone or grouped" },
        { "commit_wait_us_max", "1ms", "a whole number" },
        { "verify_reads", "1", "true or false" },
        { "sigbus", "ignore", "default or guard" },
        { "file_mode", "0999", "octal permissions" },
        { "lock_wait_ms", "soon", "a whole number" },
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_options_set(options, values[i][0], values[i][1]));
        SAYS(values[i][0]);
        SAYS(values[i][1]);
        SAYS(values[i][2]);
    }
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_options_set(options, "colour", "blue"));
    SAYS("unknown option \"colour\": accepted are media, ");
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_write_options_set(write_options, "colour", "blue"));
    SAYS("unknown write option \"colour\": accepted are durability");
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_write_options_set(write_options, "durability", "blue"));
    SAYS("sync or os");
    flatkv_write_options_free(write_options);
    flatkv_options_free(options);
}

static void a_long_value_is_cut_in_the_message(void)
{
    flatkv_options_t *options = flatkv_options_new();
    const size_t len = (size_t)1 << 24;
    char *value = malloc(len + 1);
    memset(value, 'x', len);
    value[len] = 0;
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_options_set(options, "media", value));
    CHECK(strlen(flatkv_last_error()) <= 8192);
    free(value);
    flatkv_options_free(options);
}

static void options_that_make_no_pool(void)
{
    flatkv_options_t *options = flatkv_options_new();
    flatkv_t *store;
    OK(flatkv_options_set(options, "segment_size_bytes", "100000"));
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_open(path_of("odd"), options, &store));
    SAYS("segment_size_bytes = 100000: expected a power of two");
    CHECK(store == NULL && access(path_of("odd"), F_OK) != 0);
    OK(flatkv_options_set(options, "segment_size_bytes", "128KiB"));
    OK(flatkv_options_set(options, "create", "false"));
    GIVES(FLATKV_E_IO, flatkv_open(path_of("none"), options, &store));
    SAYS("(os error 2)");
    CHECK(store == NULL && access(path_of("none"), F_OK) != 0);
    flatkv_options_free(options);
}

static void paths_that_cannot_be_a_pool(void)
{
    flatkv_t *store;
    GIVES(FLATKV_E_IO, flatkv_open(path_of("no/such/directory/pool"), NULL, &store));
    SAYS("no/such/directory");
    SAYS("(os error 2)");
    CHECK(store == NULL);
    CHECK(mkdir(path_of("directory"), 0700) == 0);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_open(path_of("directory"), NULL, &store));
    SAYS("is a directory, not a pool");
    CHECK(store == NULL);
    CHECK(symlink(pool("target", 1), path_of("link")) == 0);
    GIVES(FLATKV_E_INVALID_ARGUMENT, flatkv_open(path_of("link"), NULL, &store));
    SAYS("symbolic link");
    CHECK(store == NULL);
}

static void says_what_the_magic_should_be(void)
{
    SAYS("superblock magic mismatch at pool offset 0: expected 0x");
    SAYS(", found 0x");
}

/* The most expensive typing error: the path of somebody else's file. */
static void a_file_that_is_no_pool_is_left_alone(void)
{
    size_t len = (size_t)8 << 20;
    char *bytes = malloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + i / 251);
    write_file(path_of("photo"), bytes, len);
    refuses(path_of("photo"), 0, FLATKV_E_CORRUPTED);
    says_what_the_magic_should_be();
    write_file(path_of("note"), bytes, 3000);
    refuses(path_of("note"), 0, FLATKV_E_INCOMPLETE);
    SAYS("has 3000 bytes: no pool, or the rest of one, whose head has at least 8192");
    memset(bytes, 0, len);
    write_file(path_of("zeros"), bytes, len);
    refuses(path_of("zeros"), 0, FLATKV_E_CORRUPTED);
    says_what_the_magic_should_be();
    free(bytes);
}

static void a_short_text_file_is_refused_with_its_length(void)
{
    write_file(path_of("text"), "dear diary\n", 11);
    refuses(path_of("text"), 0, FLATKV_E_INCOMPLETE);
    SAYS("has 11 bytes: no pool, or the rest of one, whose head has at least 8192");
}

static void a_file_without_permission(void)
{
    flatkv_t *store;
    const char *path = pool("secret", 1);
    uid_t user = geteuid();
    CHECK(chmod(path, 0) == 0);
    if (user == 0)
        CHECK(seteuid(65534) == 0); /* root may read everything, so become nobody */
    GIVES(FLATKV_E_IO, flatkv_open(path, NULL, &store));
    SAYS("(os error 13)");
    CHECK(store == NULL);
    if (user == 0)
        CHECK(seteuid(0) == 0);
    CHECK(chmod(path, 0600) == 0);
    OK(flatkv_open(path, NULL, &store));
    OK(flatkv_close(store));
}

static void a_truncated_pool_is_not_served(void)
{
    const char *path = pool("truncated", 1000);
    size_t len;
    char *bytes = read_file(path, &len);
    /* Shorter than any head; then a head, or a part of one, without a log. */
    const size_t short_of_a_head[] = { 1, 511, 512, 4096, 8191 }, without_a_log[] = { 8192, 65536, len / 16, len / 8 };
    char says[64];
    for (size_t i = 0; i < sizeof short_of_a_head / sizeof short_of_a_head[0]; i++) {
        write_file(path_of("cut"), bytes, short_of_a_head[i]);
        refuses(path_of("cut"), 1, FLATKV_E_INCOMPLETE);
        snprintf(says, sizeof says, "has %zu bytes: no pool, or the rest of one", short_of_a_head[i]);
        SAYS(says);
    }
    for (size_t i = 0; i < sizeof without_a_log / sizeof without_a_log[0]; i++) {
        CHECK(without_a_log[i] < len);
        write_file(path_of("cut"), bytes, without_a_log[i]);
        refuses(path_of("cut"), 1, FLATKV_E_CORRUPTED);
        SAYS("number of active log heads mismatch at pool offset ");
        SAYS(": expected 0x1, found 0x0");
    }
    free(bytes);
}

/* A pool that opens, until both superblocks name version 2, checksum and all: tests/fixtures.rs makes such a one. */
static void a_pool_of_a_future_version_is_not_served(void)
{
    flatkv_t *store;
    const char *path = path_of("future");
    size_t len, superblock_len;
    char *bytes = read_file("tests/fixtures/v1/clean.fkv", &len);
    char *superblock = read_file("tests/fixtures/v2/superblock", &superblock_len);
    write_file(path, bytes, len);
    OK(flatkv_open(path, NULL, &store));
    OK(flatkv_close(store));
    CHECK(superblock_len == 512);
    memcpy(bytes, superblock, superblock_len);
    memcpy(bytes + 4096, superblock, superblock_len);
    write_file(path, bytes, len);
    refuses(path, 1, FLATKV_E_UNSUPPORTED);
    SAYS("pool format version 2: this library reads version 1");
    free(bytes);
    free(superblock);
}

static void a_damaged_value_is_never_served(void)
{
    flatkv_t *store = open_store("damaged");
    flatkv_buffer_t value;
    char found[64];
    const char *path = path_of("damaged");
    size_t len, hits = 0;
    char *bytes;
    put_text(store, "key", "a value that is easy to find in the file");
    OK(flatkv_close(store));
    bytes = read_file(path, &len);
    for (size_t i = 0; i + 40 < len; i++)
        if (memcmp(bytes + i, "a value that is easy", 20) == 0) {
            bytes[i + 3] ^= 3; /* one flipped bit would be repaired at open */
            hits++;
        }
    CHECK(hits > 0);
    write_file(path, bytes, len);
    free(bytes);
    OK(flatkv_open(path, NULL, &store));
    GIVES(FLATKV_E_CORRUPTED, flatkv_get(store, "key", 3, &value));
    SAYS("mismatch at pool offset ");
    SAYS(": expected 0x");
    SAYS(", found 0x");
    CHECK(value.data == NULL && value.len == 0);
    GIVES(FLATKV_E_CORRUPTED, flatkv_get_into(store, "key", 3, found, sizeof found, &len));
    CHECK(len == 0);
    OK(flatkv_close(store));
}

static void a_scan_where_keys_may_be_missing_says_so_before_any_key(void)
{
    flatkv_t *store = open_ordered("damaged-scan");
    const char *path = path_of("damaged-scan");
    flatkv_slice_t key, value;
    flatkv_iter_t *iter;
    size_t len, at = 0;
    char *bytes;
    put_text(store, "key", "a value that is easy to find in the file");
    OK(flatkv_close(store));
    bytes = read_file(path, &len);
    while (memcmp(bytes + at, "a value that is easy", 20) != 0)
        at++;
    memset(bytes + at - at % 64, 3, 64); /* the frame as a whole */
    write_file(path, bytes, len);
    free(bytes);
    store = open_ordered("damaged-scan");
    put_text(store, "later", "value");
    OK(flatkv_iter_new(store, NULL, &iter));
    OK(flatkv_iter_status(iter));
    for (int way = 0; way < 6; way++) {
        if (way == 0) flatkv_iter_next(iter);
        if (way == 1) flatkv_iter_seek_first(iter);
        if (way == 2) flatkv_iter_seek(iter, "a", 1);
        if (way == 3) flatkv_iter_seek_last(iter);
        if (way == 4) flatkv_iter_seek_for_prev(iter, "z", 1);
        if (way == 5) {
            OK(flatkv_iter_set_prefix(iter, "la", 2));
            OK(flatkv_iter_status(iter));
            flatkv_iter_next(iter);
        }
        CHECK(!flatkv_iter_valid(iter) && flatkv_iter_key(iter).data == NULL);
        GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
        CHECK(flatkv_iter_entries(iter, 1, &key, &value) == 0);
        if (way == 3 || way == 4)
            flatkv_iter_prev(iter);
        else
            flatkv_iter_next(iter);
        CHECK(flatkv_iter_valid(iter) && holds(flatkv_iter_key(iter).data, flatkv_iter_key(iter).len, "later"));
        GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
        CHECK(flatkv_iter_entries(iter, 1, &key, &value) == 1 && holds(value.data, value.len, "value"));
        flatkv_iter_next(iter);
        CHECK(!flatkv_iter_valid(iter));
        GIVES(FLATKV_E_CORRUPTED, flatkv_iter_status(iter));
    }
    OK(flatkv_iter_set_bounds(iter, "k", 1, "k", 1));
    flatkv_iter_seek_first(iter);
    OK(flatkv_iter_status(iter));
    flatkv_iter_free(iter);
    OK(flatkv_close(store));
}

static void a_store_that_is_open_is_not_opened_again(void)
{
    flatkv_t *store = open_store("locked"), *second;
    char holder[64];
    GIVES(FLATKV_E_LOCKED, flatkv_open(path_of("locked"), NULL, &second));
    snprintf(holder, sizeof holder, "process %ld", (long)getpid());
    SAYS(path_of("locked"));
    SAYS(holder);
    CHECK(second == NULL);
    put_text(store, "k", "v");
    OK(flatkv_close(store));
    OK(flatkv_open(path_of("locked"), NULL, &second));
    expect_text(second, "k", "v");
    OK(flatkv_close(second));
}

static void a_full_quota_refuses_the_write_and_keeps_the_rest(void)
{
    flatkv_options_t *options = flatkv_options_new();
    flatkv_t *store;
    static char value[20000];
    flatkv_status_t status = FLATKV_OK;
    int written = 0;
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_options_set(options, "max_bytes", "16MiB"));
    OK(flatkv_options_set(options, "segment_size_bytes", "128KiB"));
    OK(flatkv_open(path_of("full"), options, &store));
    while (written < 2000 && (status = flatkv_put(store, &written, sizeof written, value, sizeof value)) == FLATKV_OK)
        written++;
    CHECK(status == FLATKV_E_NO_SPACE);
    SAYS("flatkv_put: no space: ");
    SAYS("limited by the quota max_bytes = 16777216");
    CHECK(written > 100);
    GIVES(FLATKV_NOT_FOUND, flatkv_exists(store, &written, sizeof written));
    for (int i = 0; i < written; i++)
        OK(flatkv_exists(store, &i, sizeof i));
    (void)flatkv_close(store);
    flatkv_options_free(options);
}

int main(int argc, char **argv)
{
    test_dir = argc > 1 ? argv[1] : ".";
    RUN(keys_and_values_out_of_range);
    RUN(options_list_what_they_accept);
    RUN(a_long_value_is_cut_in_the_message);
    RUN(options_that_make_no_pool);
    RUN(paths_that_cannot_be_a_pool);
    RUN(a_file_without_permission);
    RUN(a_truncated_pool_is_not_served);
    RUN(a_pool_of_a_future_version_is_not_served);
    RUN(a_damaged_value_is_never_served);
    RUN(a_scan_where_keys_may_be_missing_says_so_before_any_key);
    RUN(a_store_that_is_open_is_not_opened_again);
    RUN(a_full_quota_refuses_the_write_and_keeps_the_rest);
    RUN(a_file_that_is_no_pool_is_left_alone);
    RUN(a_short_text_file_is_refused_with_its_length);
    return 0;
}
