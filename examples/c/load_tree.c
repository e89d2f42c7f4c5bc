/* Loads a directory tree into a FlatKV store (key: path, value: content) and proves that it is there.
 *
 *   load_tree list     --list FILE [--max-mib N] DIR...         write down what is to be loaded
 *   load_tree load     --store POOL [--ack FILE] ... DIR...     put every file; acknowledge each after its put returned
 *   load_tree verify   --store POOL --ack FILE ... DIR...       every acknowledged file is there, byte for byte
 *   load_tree resume   --store POOL [--ack FILE] ... DIR...     put what is not there yet
 *   load_tree readback --store POOL [--ack FILE] ... DIR...     get every file, compare, measure
 *
 * One DIR: keys are relative to it. Several: keys are relative to "/". Progress goes to stderr; at the end stdout gets
 * one `name=value` per line. Exit status: 0 all as it should be, 1 something is wrong, 2 wrong usage.
 * examples/c/run_job.py drives it, kills it in the middle and checks what is left. */
#define _XOPEN_SOURCE 700
#include "flatkv.h"
#include "load_tree_files.h"
#include "load_tree_progress.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 64
#define COMPLAINTS_MAX 10

/* ---- arguments ---- */

struct arguments {
    const char *command, *store, *list, *ack;
    int ack_fd; /* -1: none */
    uint64_t bytes_max, seed;
    int threads;
    flatkv_options_t *options;
    char *base;
    char **dirs;
    int dir_count;
};

static void usage_error(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("load_tree: ", stderr);
    vfprintf(stderr, format, values);
    va_end(values);
    fputs("\n"
          "usage: load_tree list|load|verify|resume|readback [OPTION]... DIR...\n"
          "  --store POOL          the pool file (all but list)\n"
          "  --list FILE           write (list) or use (others) this list of files instead of walking DIR\n"
          "  --ack FILE            append (load, resume) or read (verify, readback) acknowledgements\n"
          "  --ack-fd N            write acknowledgements to this open descriptor, a pipe for instance\n"
          "  --max-mib N           take at most so many MiB, shared by the DIRs\n"
          "  --threads N           1 to 64, default 1\n"
          "  --seed N              work in an order drawn from N instead of the order of names\n"
          "  --option NAME=VALUE   an option of flatkv_open, media=file for instance; may be repeated\n",
          stderr);
    exit(2);
}

static uint64_t parse_number(const char *name, const char *text, uint64_t max) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || number > max)
        usage_error("%s %s: expected a whole number up to %" PRIu64, name, text, max);
    return number;
}

static void set_option(flatkv_options_t *options, const char *name, const char *value) {
    if (flatkv_options_set(options, name, value) != FLATKV_OK) usage_error("%s", flatkv_last_error());
}

static void parse_argument(struct arguments *args, const char *name, char *value) {
    if (!value) usage_error("%s needs a value", name);
    if (strcmp(name, "--store") == 0) args->store = value;
    else if (strcmp(name, "--list") == 0) args->list = value;
    else if (strcmp(name, "--ack") == 0) args->ack = value;
    else if (strcmp(name, "--ack-fd") == 0) args->ack_fd = (int)parse_number(name, value, 1 << 20);
    else if (strcmp(name, "--max-mib") == 0) args->bytes_max = parse_number(name, value, 1 << 30) << 20;
    else if (strcmp(name, "--threads") == 0) args->threads = (int)parse_number(name, value, THREADS_MAX);
    else if (strcmp(name, "--seed") == 0) args->seed = parse_number(name, value, UINT64_MAX);
    else if (strcmp(name, "--option") == 0) {
        char *equals = strchr(value, '=');
        if (!equals) usage_error("--option %s: expected NAME=VALUE", value);
        *equals = '\0';
        set_option(args->options, value, equals + 1);
    } else usage_error("unknown option %s", name);
}

/* What the keys are relative to: the one DIR, or "/" with every DIR made absolute. */
static void choose_base(struct arguments *args) {
    for (int i = 0; i < args->dir_count; i++) {
        char *resolved = realpath(args->dirs[i], NULL);
        if (!resolved) usage_error("%s: %s", args->dirs[i], strerror(errno));
        args->dirs[i] = resolved;
    }
    args->base = args->dir_count == 1 ? args->dirs[0] : "/";
}

static struct arguments parse_arguments(int argc, char **argv) {
    struct arguments args = {0};
    args.ack_fd = -1;
    args.bytes_max = UINT64_MAX;
    args.threads = 1;
    args.options = flatkv_options_new();
    if (argc < 2) usage_error("which command?");
    args.command = argv[1];
    int i = 2;
    for (; i < argc && argv[i][0] == '-'; i += 2) parse_argument(&args, argv[i], argv[i + 1]);
    args.dirs = argv + i;
    args.dir_count = argc - i;
    if (args.dir_count < 1) usage_error("which directory?");
    if (args.threads < 1) usage_error("--threads 0: expected 1 to %d", THREADS_MAX);
    int listing = strcmp(args.command, "list") == 0;
    if (listing && !args.list) usage_error("list needs --list FILE");
    if (!listing && !args.store) usage_error("%s needs --store POOL", args.command);
    if (strcmp(args.command, "verify") == 0 && !args.ack) usage_error("verify needs --ack FILE");
    choose_base(&args);
    return args;
}

/* ---- the work, shared by all commands ---- */

struct tally {
    size_t done;       /* put, or found equal */
    uint64_t bytes;    /* of those */
    size_t present;    /* resume: were there already */
    size_t unreadable; /* files that cannot be read any more */
    size_t changed;    /* the file changed since it was acknowledged; the store holds what was acknowledged */
    size_t missing;    /* not in the store */
    size_t wrong;      /* other bytes in the store */
    uint64_t op_ns;    /* spent inside put or get */
};

struct job {
    flatkv_t *store;
    const char *base;
    struct records files; /* in the order of work */
    struct records acks;  /* sorted */
    int ack_fd;
    uint64_t *op_ns; /* per file; 0: no operation was made */
    struct progress progress;
    struct tally total;
    void (*step)(struct job *, struct tally *, struct content *, struct content *, size_t);

    pthread_mutex_t lock; /* guards the rest */
    size_t next;
    int failed; /* the store refused something: no further work */
    int complaints;
};

/* Says what is wrong, at most COMPLAINTS_MAX times. */
static void complain(struct job *job, const char *key, const char *format, ...) {
    va_list values;
    pthread_mutex_lock(&job->lock);
    if (job->complaints++ < COMPLAINTS_MAX) {
        fprintf(stderr, "\nload_tree: %s: ", key);
        va_start(values, format);
        vfprintf(stderr, format, values);
        va_end(values);
        fputc('\n', stderr);
        if (job->complaints == COMPLAINTS_MAX) fputs("load_tree: further ones are only counted\n", stderr);
    }
    pthread_mutex_unlock(&job->lock);
}

static void store_failed(struct job *job, const char *key, const char *operation, flatkv_status_t status) {
    complain(job, key, "%s: %s: %s", operation, flatkv_status_str(status), flatkv_last_error());
    pthread_mutex_lock(&job->lock);
    job->failed = 1;
    pthread_mutex_unlock(&job->lock);
}

static int take_next(struct job *job, size_t *index) {
    pthread_mutex_lock(&job->lock);
    int more = !job->failed && job->next < job->files.count;
    if (more) *index = job->next++;
    pthread_mutex_unlock(&job->lock);
    return more;
}

static void *work(void *context) {
    struct job *job = context;
    struct tally tally = {0};
    struct content file = {0}, scratch = {0};
    for (size_t i; take_next(job, &i);) {
        job->step(job, &tally, &file, &scratch, i);
        progress_add(&job->progress, job->files.items[i].len);
    }
    free(file.data);
    free(scratch.data);
    pthread_mutex_lock(&job->lock);
    struct tally *total = &job->total;
    total->done += tally.done, total->bytes += tally.bytes, total->present += tally.present;
    total->unreadable += tally.unreadable, total->changed += tally.changed;
    total->missing += tally.missing, total->wrong += tally.wrong, total->op_ns += tally.op_ns;
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

static double run_threads(struct job *job, const char *what, int threads) {
    pthread_t ids[THREADS_MAX];
    progress_start(&job->progress, what, job->files.count, job->files.bytes);
    uint64_t started = now_ns();
    for (int t = 0; t < threads; t++) {
        if (pthread_create(&ids[t], NULL, work, job) != 0) {
            fprintf(stderr, "load_tree: cannot start thread %d\n", t);
            exit(1);
        }
    }
    for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    double seconds = (double)(now_ns() - started) / 1e9;
    progress_stop(&job->progress);
    return seconds;
}

/* ---- load and resume ---- */

/* Only called after the put returned: from here on the file must survive whatever happens to this process. */
static int acknowledge(struct job *job, struct content *scratch, const char *key, uint64_t len, uint64_t ns, uint64_t hash) {
    size_t room = strlen(key) + RECORD_HEAD_MAX;
    if (scratch->capacity < room) {
        scratch->data = must_alloc(scratch->data, room);
        scratch->capacity = room;
    }
    size_t left = record_format((char *)scratch->data, key, len, ns, hash);
    for (uint8_t *from = scratch->data; left;) { /* one write as a rule: appends of several threads do not mix */
        ssize_t n = write(job->ack_fd, from, left);
        if (n < 0 && errno != EINTR) return -1;
        if (n > 0) from += n, left -= (size_t)n;
    }
    return 0;
}

static void put_file(struct job *job, struct tally *tally, struct content *file, struct content *scratch, size_t i) {
    const char *key = job->files.items[i].key;
    if (files_read(job->base, key, file) != 0) {
        tally->unreadable++;
        return;
    }
    uint64_t hash = job->ack_fd >= 0 ? content_hash(file->data, file->len) : 0;
    uint64_t started = now_ns();
    flatkv_status_t status = flatkv_put(job->store, key, strlen(key), file->data, file->len);
    uint64_t ns = now_ns() - started;
    if (status != FLATKV_OK) {
        store_failed(job, key, "put", status);
        return;
    }
    if (job->ack_fd >= 0 && acknowledge(job, scratch, key, file->len, ns, hash) != 0) {
        complain(job, key, "cannot write the acknowledgement: %s", strerror(errno));
        pthread_mutex_lock(&job->lock);
        job->failed = 1;
        pthread_mutex_unlock(&job->lock);
        return;
    }
    job->op_ns[i] = ns;
    tally->op_ns += ns;
    tally->done++;
    tally->bytes += file->len;
}

/* A put is atomic: a key that is there has its whole value. */
static void put_file_if_absent(struct job *job, struct tally *tally, struct content *file, struct content *scratch, size_t i) {
    const char *key = job->files.items[i].key;
    flatkv_status_t status = flatkv_exists(job->store, key, strlen(key));
    if (status == FLATKV_OK) tally->present++;
    else if (status == FLATKV_NOT_FOUND) put_file(job, tally, file, scratch, i);
    else store_failed(job, key, "exists", status);
}

/* ---- verify and readback ---- */

static size_t first_difference(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
    size_t at = 0, shorter = a_len < b_len ? a_len : b_len;
    while (at < shorter && a[at] == b[at]) at++;
    return at;
}

/* Compares the value in the store with the file, and with the acknowledgement where the file is not what it was. */
static void judge(struct job *job, struct tally *tally, size_t i, const struct content *file, const uint8_t *value, size_t len) {
    const char *key = job->files.items[i].key;
    if (file && file->len == len && (len == 0 || memcmp(file->data, value, len) == 0)) {
        tally->done++;
        tally->bytes += len;
        return;
    }
    const struct record *ack = records_find(&job->acks, key);
    if (ack && ack->len == len && ack->hash == content_hash(value, len)) {
        tally->changed++;
    } else if (file) {
        tally->wrong++;
        complain(job, key, "the store holds other bytes: %zu bytes, the file has %zu, first difference at %zu", len, file->len,
                 first_difference(value, len, file->data, file->len));
    } else if (ack) {
        tally->wrong++;
        complain(job, key, "the file is gone and the store does not hold what was acknowledged");
    } else {
        tally->unreadable++;
    }
}

static void get_failed(struct job *job, struct tally *tally, const char *key, flatkv_status_t status) {
    if (status == FLATKV_NOT_FOUND) {
        tally->missing++;
        complain(job, key, "not in the store%s", records_find(&job->acks, key) ? " although it was acknowledged" : "");
    } else {
        tally->wrong++;
        complain(job, key, "get: %s: %s", flatkv_status_str(status), flatkv_last_error());
    }
}

/* Zero copy: the pin keeps the value where it is until it is freed. */
static void verify_file(struct job *job, struct tally *tally, struct content *file, struct content *scratch, size_t i) {
    const char *key = job->files.items[i].key;
    (void)scratch;
    int readable = files_read(job->base, key, file) == 0;
    flatkv_pin_t *pin = NULL;
    uint64_t started = now_ns();
    flatkv_status_t status = flatkv_get_pinned(job->store, key, strlen(key), &pin);
    job->op_ns[i] = now_ns() - started;
    tally->op_ns += job->op_ns[i];
    if (status == FLATKV_OK) judge(job, tally, i, readable ? file : NULL, flatkv_pin_data(pin), flatkv_pin_len(pin));
    else get_failed(job, tally, key, status);
    flatkv_pin_free(pin);
}

/* Into a buffer of ours, which grows when a value is longer than any before. */
static void read_back_file(struct job *job, struct tally *tally, struct content *file, struct content *scratch, size_t i) {
    const char *key = job->files.items[i].key;
    int readable = files_read(job->base, key, file) == 0;
    size_t len = readable ? file->len : 1;
    flatkv_status_t status = FLATKV_E_BUFFER_TOO_SMALL;
    for (int attempt = 0; attempt < 2 && status == FLATKV_E_BUFFER_TOO_SMALL; attempt++) {
        if (scratch->capacity < len || !scratch->data) {
            scratch->data = must_alloc(scratch->data, len);
            scratch->capacity = len;
            memset(scratch->data, 0, len); /* touched here, so that the page faults are not measured */
        }
        uint64_t started = now_ns();
        status = flatkv_get_into(job->store, key, strlen(key), scratch->data, scratch->capacity, &len);
        job->op_ns[i] = now_ns() - started;
    }
    tally->op_ns += job->op_ns[i];
    if (status == FLATKV_OK) judge(job, tally, i, readable ? file : NULL, scratch->data, len);
    else get_failed(job, tally, key, status);
}

/* ---- reports ---- */

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_latency(uint64_t *ns, size_t count) {
    size_t made = 0;
    for (size_t i = 0; i < count; i++) {
        if (ns[i]) ns[made++] = ns[i];
    }
    if (!made) return;
    qsort(ns, made, sizeof *ns, ascending);
    printf("op_p50_ns=%" PRIu64 "\nop_p99_ns=%" PRIu64 "\nop_max_ns=%" PRIu64 "\n", ns[made / 2], ns[made * 99 / 100], ns[made - 1]);
}

/* KiB of this process's private memory, the pool's mapping not among them; 0 where /proc does not say. */
static unsigned long rss_anon_kib(void) {
    unsigned long kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) {
        if (sscanf(line, "RssAnon: %lu", &kib) == 1) break;
    }
    if (status) fclose(status);
    return kib;
}

static void print_stats(flatkv_t *store) {
    flatkv_buffer_t json;
    if (flatkv_stats_json(store, &json) != FLATKV_OK) return;
    printf("stats=");
    for (size_t i = 0; i < json.len; i++) putchar(json.data[i] == '\n' ? ' ' : json.data[i]);
    putchar('\n');
    flatkv_buffer_free(&json);
}

static void print_skipped(const struct skipped *skipped) {
    printf("skipped_symlinks=%zu\nskipped_unreadable=%zu\nskipped_special=%zu\nskipped_too_large=%zu\nskipped_over_limit=%zu\n",
           skipped->symlinks, skipped->unreadable, skipped->special, skipped->too_large, skipped->over_limit);
}

/* ---- commands ---- */

static int walk_all(const struct arguments *args, struct records *files, struct skipped *skipped) {
    for (int i = 0; i < args->dir_count; i++) { /* what one DIR leaves of its share goes to the ones behind it */
        uint64_t left = args->bytes_max - files->bytes;
        if (files_walk(args->base, args->dirs[i], left / (uint64_t)(args->dir_count - i), files, skipped) != 0) return -1;
    }
    return 0;
}

static int list_files(const struct arguments *args) {
    struct records files = {0};
    struct skipped skipped = {0};
    if (walk_all(args, &files, &skipped) != 0 || records_save(args->list, &files) != 0) return 1;
    printf("files=%zu\nbytes=%" PRIu64 "\n", files.count, files.bytes);
    print_skipped(&skipped);
    records_free(&files);
    return 0;
}

/* The files to work on: the acknowledged ones, those of the list, or those that are there. */
static int choose_files(const struct arguments *args, int verifying, struct job *job) {
    struct skipped skipped = {0};
    if (verifying) return records_load(args->ack, &job->files);
    if (args->list) return records_load(args->list, &job->files);
    if (walk_all(args, &job->files, &skipped) != 0) return -1;
    print_skipped(&skipped);
    return 0;
}

static int open_acks(const struct arguments *args, int writing, struct job *job) {
    job->ack_fd = -1;
    if (!writing) {
        if (args->ack && records_load(args->ack, &job->acks) != 0) return -1;
        records_sort(&job->acks);
        return 0;
    }
    job->ack_fd = args->ack_fd;
    if (args->ack) job->ack_fd = open(args->ack, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (args->ack && job->ack_fd < 0) {
        fprintf(stderr, "load_tree: %s: %s\n", args->ack, strerror(errno));
        return -1;
    }
    return 0;
}

static int open_store(const struct arguments *args, flatkv_t **out_store) {
    unsigned long rss_before = rss_anon_kib();
    uint64_t started = now_ns();
    flatkv_status_t status = flatkv_open(args->store, args->options, out_store);
    if (status != FLATKV_OK) {
        fprintf(stderr, "load_tree: open %s: %s: %s\n", args->store, flatkv_status_str(status), flatkv_last_error());
        return -1;
    }
    printf("open_ns=%" PRIu64 "\n", now_ns() - started);
    printf("rss_anon_before_open_kib=%lu\nrss_anon_after_open_kib=%lu\n", rss_before, rss_anon_kib());
    print_stats(*out_store);
    fflush(stdout);
    return 0;
}

/* Prints the result. Returns the exit status. */
static int report(struct job *job, double seconds) {
    const struct tally *t = &job->total;
    printf("done=%zu\nbytes=%" PRIu64 "\npresent=%zu\nunreadable=%zu\nchanged=%zu\nmissing=%zu\nwrong=%zu\n", t->done, t->bytes,
           t->present, t->unreadable, t->changed, t->missing, t->wrong);
    printf("seconds=%.6f\nop_seconds=%.6f\n", seconds, (double)t->op_ns / 1e9);
    print_latency(job->op_ns, job->files.count);
    printf("rss_anon_end_kib=%lu\n", rss_anon_kib());
    print_stats(job->store);
    return job->failed || t->missing || t->wrong;
}

static int run_command(const struct arguments *args) {
    static const struct {
        const char *name;
        int writing, creating;
        void (*step)(struct job *, struct tally *, struct content *, struct content *, size_t);
    } commands[] = {
        {"load", 1, 1, put_file},
        {"resume", 1, 0, put_file_if_absent},
        {"verify", 0, 0, verify_file},
        {"readback", 0, 0, read_back_file},
    };
    size_t c = 0;
    while (c < sizeof commands / sizeof *commands && strcmp(commands[c].name, args->command) != 0) c++;
    if (c == sizeof commands / sizeof *commands) usage_error("unknown command %s", args->command);
    if (!commands[c].creating) set_option(args->options, "create", "false"); /* a wrong path is an error, not a new store */

    struct job job = {0};
    job.base = args->base;
    job.step = commands[c].step;
    pthread_mutex_init(&job.lock, NULL);
    if (open_acks(args, commands[c].writing, &job) != 0) return 1;
    if (choose_files(args, job.step == verify_file, &job) != 0) return 1;
    if (args->seed) records_shuffle(&job.files, args->seed);
    job.op_ns = must_alloc(NULL, job.files.count * sizeof *job.op_ns);
    memset(job.op_ns, 0, job.files.count * sizeof *job.op_ns);
    if (open_store(args, &job.store) != 0) return 1;

    double seconds = run_threads(&job, args->command, args->threads);
    int exit_status = report(&job, seconds);
    flatkv_status_t closed = flatkv_close(job.store);
    if (closed != FLATKV_OK) {
        fprintf(stderr, "load_tree: close: %s: %s\n", flatkv_status_str(closed), flatkv_last_error());
        exit_status = 1;
    }
    records_free(&job.files);
    records_free(&job.acks);
    free(job.op_ns);
    pthread_mutex_destroy(&job.lock);
    return exit_status;
}

int main(int argc, char **argv) {
    struct arguments args = parse_arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* a reader of acknowledgements that goes away is an error with a message */
    int exit_status = strcmp(args.command, "list") == 0 ? list_files(&args) : run_command(&args);
    for (int i = 0; i < args.dir_count; i++) free(args.dirs[i]);
    flatkv_options_free(args.options);
    return exit_status;
}
