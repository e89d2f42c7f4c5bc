/* Runs in the guest of tests/guest/run.py, on ext4 mounted with -o dax=always.
 *
 *   guest load POOL ACKED0,ACKED1   recovers, proves that nothing acknowledged is lost, then writes until it is killed
 *   guest poison POOL               a page of the pool goes bad under an open store: with sigbus=guard, and without
 *
 * Two threads write, each its own keys in an order that both sides can compute: operation n of thread t is a function of
 * (t, n). So what is recovered has to be exactly the state after operation m, for one m that is not below the last
 * operation whose acknowledgement came out of the serial port (rules P1, P2, P3). Lines are parsed by run.py. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <flatkv.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 2, KEYS = 300, TAIL = 64, BATCH_KEYS = 3, VALUE_MAX = 9200, PAGE = 4096 };
#define MARK "FKV#"

static flatkv_t *store;

/* One line in one write, so that lines of two threads do not mix. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (len > (int)sizeof line - 2) len = sizeof line - 2;
    line[len++] = '\n';
    if (write(1, line, (size_t)len) < 0) _exit(3);
}

static void die(const char *what, flatkv_status_t status)
{
    say("FAILED %s: %s: %s", what, flatkv_status_str(status), flatkv_last_error());
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

/* What operation n of thread t does: the first key, how many, and whether it deletes. */
struct op { unsigned first, count; int is_delete; };

static struct op op_of(unsigned t, uint64_t n)
{
    uint64_t r = mix(n * THREADS + t);
    struct op op = { (unsigned)(r % KEYS), n % 32 == 0 ? BATCH_KEYS : 1, n % 32 != 0 && (r >> 40) % 10 == 0 };
    return op;
}

static size_t make_key(char *key, unsigned t, unsigned k) { return (size_t)sprintf(key, "t%u-k%04u", t, k); }

static size_t make_value(uint8_t *value, unsigned t, unsigned k, uint64_t n)
{
    uint64_t r = mix(mix(n * THREADS + t) + k);
    size_t len = r % 16 == 0 ? 5000 + (r >> 8) % 4000 : 40 + (r >> 8) % 400;
    int head = sprintf((char *)value, MARK "%u:%04u:%012llu#", t, k, (unsigned long long)n);
    for (size_t i = (size_t)head; i < len; i++) value[i] = (uint8_t)(r >> i % 57) ^ (uint8_t)i;
    return len;
}

/* ---- verification ---- */

/* The operation that the value found names; 0 if there is no value. Every byte is compared. */
static uint64_t found_op(unsigned t, unsigned k, uint64_t *bad)
{
    char key[32];
    static uint8_t expected[VALUE_MAX];
    flatkv_buffer_t value = { NULL, 0 };
    flatkv_status_t status = flatkv_get(store, key, make_key(key, t, k), &value);
    if (status == FLATKV_NOT_FOUND) return 0;
    if (status != FLATKV_OK) {
        say("LOST %s: %s: %s", key, flatkv_status_str(status), flatkv_last_error());
        ++*bad;
        return 0;
    }
    unsigned long long n = 0;
    unsigned found_t, found_k;
    if (value.len < 24 || sscanf((char *)value.data, MARK "%u:%u:%llu#", &found_t, &found_k, &n) != 3
        || found_t != t || found_k != k || make_value(expected, t, k, n) != value.len
        || memcmp(expected, value.data, value.len) != 0) {
        say("WRONG %s: %zu bytes that were never written for it", key, value.len);
        ++*bad;
    }
    flatkv_buffer_free(&value);
    return n;
}

static void apply(uint64_t *state, unsigned t, uint64_t n)
{
    struct op op = op_of(t, n);
    for (unsigned i = 0; i < op.count; i++) state[(op.first + i) % KEYS] = op.is_delete ? 0 : n;
}

/* The operation after which thread t's keys look as they do; fails if there is none at or behind `acked`. */
static uint64_t recovered_op(unsigned t, uint64_t acked, uint64_t *bad)
{
    uint64_t found[KEYS], state[KEYS] = { 0 }, newest = 0;
    for (unsigned k = 0; k < KEYS; k++) {
        found[k] = found_op(t, k, bad);
        if (found[k] > newest) newest = found[k];
    }
    for (uint64_t n = 0; n <= (newest > acked ? newest : acked) + TAIL; n++) {
        if (n > 0) apply(state, t, n);
        if (n >= acked && n >= newest && memcmp(found, state, sizeof state) == 0) return n;
    }
    memset(state, 0, sizeof state);
    for (uint64_t n = 1; n <= acked; n++) apply(state, t, n);
    for (unsigned k = 0; k < KEYS; k++)
        if (found[k] < state[k]) {
            say("LOST t%u-k%04u: acknowledged operation %llu, found %llu", t, k, (unsigned long long)state[k],
                (unsigned long long)found[k]);
            ++*bad;
        }
    say("LOST thread %u: its keys are no state at or behind operation %llu", t, (unsigned long long)acked);
    ++*bad;
    return acked;
}

/* ---- loading ---- */

static flatkv_status_t write_op(unsigned t, uint64_t n)
{
    char key[32];
    static __thread uint8_t value[VALUE_MAX];
    struct op op = op_of(t, n);
    if (op.is_delete) {
        flatkv_status_t status = flatkv_delete(store, key, make_key(key, t, op.first));
        return status == FLATKV_NOT_FOUND ? FLATKV_OK : status;
    }
    if (op.count == 1) {
        size_t len = make_value(value, t, op.first, n);
        return flatkv_put(store, key, make_key(key, t, op.first), value, len);
    }
    flatkv_batch_t *batch = flatkv_batch_new();
    flatkv_status_t status = FLATKV_OK;
    for (unsigned i = 0; i < op.count && status == FLATKV_OK; i++) {
        unsigned k = (op.first + i) % KEYS;
        size_t len = make_value(value, t, k, n);
        status = flatkv_batch_put(batch, key, make_key(key, t, k), value, len);
    }
    if (status == FLATKV_OK) status = flatkv_write(store, batch);
    flatkv_batch_free(batch);
    return status;
}

struct writer { unsigned t; uint64_t next; };

static void *write_on(void *argument)
{
    struct writer *writer = argument;
    flatkv_status_t status;
    for (uint64_t n = writer->next; (status = write_op(writer->t, n)) == FLATKV_OK; n++)
        say("a%u %llu", writer->t, (unsigned long long)n);
    if (status != FLATKV_E_NO_SPACE) die("write", status);
    say("full");
    for (;;) pause();
    return NULL;
}

static flatkv_t *open_pool(const char *path, const char *sigbus, flatkv_status_t *out_status)
{
    flatkv_t *opened = NULL;
    flatkv_options_t *options = flatkv_options_new();
    flatkv_status_t status = flatkv_options_set(options, "media", "auto");
    if (status == FLATKV_OK) status = flatkv_options_set(options, "segment_size_bytes", "512KiB");
    if (status == FLATKV_OK) status = flatkv_options_set(options, "sigbus", sigbus);
    if (status == FLATKV_OK) status = flatkv_open(path, options, &opened);
    flatkv_options_free(options);
    if (out_status != NULL) *out_status = status;
    else if (status != FLATKV_OK) die("open", status);
    return opened;
}

/* Prints one member of the statistics. */
static void say_stat(const char *name)
{
    char quoted[64];
    flatkv_buffer_t json = { NULL, 0 };
    if (flatkv_stats_json(store, &json) != FLATKV_OK) exit(1);
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *at = memmem(json.data, json.len, quoted, strlen(quoted));
    if (at == NULL) {
        say("FAILED no %s in the statistics", name);
        exit(1);
    }
    at += strlen(quoted);
    size_t len = (size_t)((const char *)json.data + json.len - at);
    size_t end = 0;
    int inside = 0;
    while (end < len && (inside || (at[end] != ',' && at[end] != '}'))) inside ^= at[end++] == '"';
    say("%s %.*s", name, (int)end, at);
    flatkv_buffer_free(&json);
}

static void say_media(const char *path)
{
    struct statx facts;
    memset(&facts, 0, sizeof facts);
    if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &facts) != 0) exit(1);
    say("statx_attr_dax %d", (facts.stx_attributes & STATX_ATTR_DAX) != 0);
    say_stat("media");
    say_stat("media_why");
}

static int load(const char *path, const char *acked_text)
{
    static struct writer writers[THREADS];
    unsigned long long acked[THREADS] = { 0 };
    uint64_t bad = 0, keys = 0;
    if (sscanf(acked_text, "%llu,%llu", &acked[0], &acked[1]) != THREADS) return 2;
    say("opening");
    store = open_pool(path, "default", NULL);
    say_media(path);
    say_stat("recovered_entries");
    say_stat("torn_heads");
    say_stat("open_ms");
    for (unsigned t = 0; t < THREADS; t++) {
        uint64_t n = recovered_op(t, acked[t], &bad);
        keys += KEYS;
        say("recovered %u %llu acked %llu", t, (unsigned long long)n, acked[t]);
        writers[t].t = t;
        writers[t].next = n + 1;
    }
    say("verified %llu bad %llu", (unsigned long long)keys, (unsigned long long)bad);
    if (bad > 0) return 1;
    pthread_t threads[THREADS];
    for (unsigned t = 0; t < THREADS; t++) pthread_create(&threads[t], NULL, write_on, &writers[t]);
    for (unsigned t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    return 0;
}

/* ---- a page goes bad ---- */

/* Where the pool is mapped in this process, and how much of it: from /proc/self/maps, by inode, because a new pool was
 * mapped before it had a name. */
static uint8_t *pool_mapping(const char *path, size_t *out_len)
{
    char line[512];
    unsigned long from, to, offset, inode, base = 0, end = 0;
    unsigned device[2];
    struct stat facts;
    if (stat(path, &facts) != 0) exit(1);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        if (sscanf(line, "%lx-%lx %*s %lx %x:%x %lu", &from, &to, &offset, &device[0], &device[1], &inode) != 6) continue;
        if (inode != facts.st_ino || device[0] != major(facts.st_dev) || device[1] != minor(facts.st_dev)) continue;
        if (offset == 0) base = from;
        if (base != 0 && from - base == offset && to > end) end = to;
    }
    if (maps != NULL) fclose(maps);
    *out_len = end - base;
    return base == 0 ? NULL : (uint8_t *)base;
}

enum { POISON_KEYS = 400 };

/* A value that lies in the log, not in an extent: the entry is all there is of it. */
static size_t log_value(uint8_t *value, unsigned k)
{
    uint64_t n = 1;
    size_t len;
    while ((len = make_value(value, 9, k, n)) > 4096) n++;
    return len;
}

/* The bytes of a key's entry on the medium. */
struct place { size_t from, to; };

/* Finds all entries by their values, in one pass over the mapping. */
static void find_places(const uint8_t *base, size_t len, struct place *places)
{
    static uint8_t value[VALUE_MAX];
    unsigned k;
    const uint8_t *end = base + len, *at = base;
    while ((at = memmem(at, (size_t)(end - at), MARK "9:", strlen(MARK "9:"))) != NULL) {
        if (sscanf((const char *)at, MARK "9:%4u:", &k) == 1 && k < POISON_KEYS) {
            size_t value_len = log_value(value, k);
            if ((size_t)(end - at) >= value_len && memcmp(at, value, value_len) == 0) {
                places[k].to = (size_t)(at - base) + value_len;
                places[k].from = (size_t)(at - base) - 8 - 28 - 64; /* key, fields before it, a frame header */
            }
        }
        at++;
    }
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    say("injector: SIGBUS code %d (BUS_MCEERR_AR is %d)", info->si_code, BUS_MCEERR_AR);
    _exit(0);
}

/* What the kernel does when a machine check tells of a bad line, in a process of its own, because the one that asks gets
 * the signal: the page is poisoned and taken out of every mapping, and its sectors join the device's bad blocks. */
static void poison_page(const char *path, size_t offset)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_sigbus;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGBUS, &action, NULL);
        int fd = open(path, O_RDWR);
        volatile uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
        if (fd < 0 || page == MAP_FAILED) _exit(4);
        (void)page[0];
        if (madvise((void *)page, PAGE, MADV_HWPOISON) != 0) {
            say("FAILED madvise(MADV_HWPOISON): %s", strerror(errno));
            _exit(5);
        }
        say("injector: MADV_HWPOISON without a signal");
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        say("FAILED the injector ended with %d", status);
        exit(1);
    }
    union { struct fiemap map; uint8_t room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)]; } query;
    memset(&query, 0, sizeof query);
    query.map.fm_start = offset;
    query.map.fm_length = PAGE;
    query.map.fm_extent_count = 1;
    int fd = open(path, O_RDONLY);
    if (ioctl(fd, FS_IOC_FIEMAP, &query.map) != 0 || query.map.fm_mapped_extents != 1) {
        say("FAILED FIEMAP: %s", strerror(errno));
        exit(1);
    }
    close(fd);
    const struct fiemap_extent *extent = &query.map.fm_extents[0];
    uint64_t sector = (extent->fe_physical + (offset - extent->fe_logical)) / 512;
    FILE *list = fopen("/sys/block/pmem0/badblocks", "w");
    if (list == NULL || fprintf(list, "%llu 8\n", (unsigned long long)sector) < 0 || fclose(list) != 0) {
        say("FAILED writing /sys/block/pmem0/badblocks: %s", strerror(errno));
        exit(1);
    }
    say("poisoned pool offset %zu, device sector %llu", offset, (unsigned long long)sector);
}

static void fill(const char *path, const char *sigbus)
{
    char key[32];
    static uint8_t value[VALUE_MAX];
    store = open_pool(path, sigbus, NULL);
    for (unsigned k = 0; k < POISON_KEYS; k++) {
        size_t len = log_value(value, k);
        flatkv_status_t status = flatkv_put(store, key, make_key(key, 9, k), value, len);
        if (status != FLATKV_OK) die("put", status);
    }
}

/* The page that holds the middle of one entry, and the keys whose entries touch it. */
static size_t choose_page(const char *path, uint8_t *touches)
{
    size_t len;
    uint8_t *base = pool_mapping(path, &len);
    if (base == NULL) {
        say("FAILED the pool is not in /proc/self/maps");
        exit(1);
    }
    static struct place places[POISON_KEYS];
    find_places(base, len, places);
    size_t page = (places[POISON_KEYS / 2].from + places[POISON_KEYS / 2].to) / 2 / PAGE * PAGE;
    if (page == 0) {
        say("FAILED no entry of key %u in %zu mapped bytes", POISON_KEYS / 2, len);
        exit(1);
    }
    for (unsigned k = 0; k < POISON_KEYS; k++) touches[k] = places[k].from < page + PAGE && places[k].to > page;
    return page;
}

static void with_guard(const char *path)
{
    static uint8_t touches[POISON_KEYS], value[VALUE_MAX], buffer[VALUE_MAX];
    char key[32];
    unsigned io = 0, corrupted = 0, served = 0, wrong = 0, expected = 0, first = POISON_KEYS;
    fill(path, "guard");
    size_t page = choose_page(path, touches);
    poison_page(path, page);
    for (unsigned k = 0; k < POISON_KEYS; k++) {
        size_t key_len = make_key(key, 9, k), len = log_value(value, k), got = 0;
        flatkv_buffer_t copy = { NULL, 0 };
        flatkv_pin_t *pin = NULL;
        flatkv_status_t status = flatkv_get(store, key, key_len, &copy);
        if (status != FLATKV_OK && first == POISON_KEYS)
            say("guard: get of %s: %s: %s", key, flatkv_status_str(status), flatkv_last_error());
        flatkv_status_t into = flatkv_get_into(store, key, key_len, buffer, sizeof buffer, &got);
        flatkv_status_t pinned = flatkv_get_pinned(store, key, key_len, &pin);
        expected += touches[k];
        if (status == FLATKV_OK) {
            served++;
            if (copy.len != len || memcmp(copy.data, value, len) != 0 || into != FLATKV_OK || got != len
                || memcmp(buffer, value, len) != 0 || pinned != FLATKV_OK || flatkv_pin_len(pin) != len
                || memcmp(flatkv_pin_data(pin), value, len) != 0)
                wrong++;
        } else {
            io += status == FLATKV_E_IO;
            corrupted += status == FLATKV_E_CORRUPTED;
            if (first == POISON_KEYS) first = k;
            if (!touches[k] || status == FLATKV_NOT_FOUND || into != status || pinned != status) wrong++;
        }
        flatkv_buffer_free(&copy);
        flatkv_pin_free(pin);
    }
    say("guard keys %u touching %u io %u corrupted %u served %u wrong %u", (unsigned)POISON_KEYS, expected, io, corrupted,
        served, wrong);
    if (io + corrupted == 0 || wrong > 0 || io + corrupted + served != POISON_KEYS) exit(1);
    flatkv_buffer_t copy = { NULL, 0 };
    size_t key_len = make_key(key, 9, first);
    flatkv_status_t status = flatkv_put(store, key, key_len, "cured", 5);
    if (status == FLATKV_OK) status = flatkv_get(store, key, key_len, &copy);
    if (status != FLATKV_OK || copy.len != 5) die("a put that cures", status);
    flatkv_buffer_free(&copy);
    say_stat("unreadable_pages");
    say("guard cured 1, the process lives");
    status = flatkv_close(store);
    store = open_pool(path, "guard", &status);
    say("guard reopen %d %s: %s", status, flatkv_status_str(status), status == FLATKV_OK ? "" : flatkv_last_error());
}

static void without_guard(const char *path)
{
    static uint8_t touches[POISON_KEYS];
    pid_t pid = fork();
    if (pid == 0) {
        char key[32];
        fill(path, "default");
        poison_page(path, choose_page(path, touches));
        for (unsigned k = 0; k < POISON_KEYS; k++) {
            flatkv_buffer_t copy = { NULL, 0 };
            flatkv_get(store, key, make_key(key, 9, k), &copy);
            flatkv_buffer_free(&copy);
        }
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    say("default signal %d (SIGBUS is %d)", WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGBUS);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS) exit(1);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc == 4 && strcmp(argv[1], "load") == 0) return load(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], "poison") == 0) {
        char path[256];
        snprintf(path, sizeof path, "%s.default", argv[2]);
        without_guard(path);
        snprintf(path, sizeof path, "%s.guard", argv[2]);
        with_guard(path);
        say("poison done");
        return 0;
    }
    return 2;
}
