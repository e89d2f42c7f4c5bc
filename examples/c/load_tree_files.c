#define _POSIX_C_SOURCE 200809L
#include "load_tree_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void *must_alloc(void *old, size_t bytes) {
    void *memory = realloc(old, bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "load_tree: out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

uint64_t content_hash(const uint8_t *data, size_t len) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++) hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* ---- the walk ---- */

struct walk {
    const char *base;
    uint64_t bytes_left;
    struct records *out;
    struct skipped *skipped;
    char **pending; /* directories still to be read, the next one last */
    size_t pending_count, pending_capacity;
};

static char *join(const char *dir, const char *name) {
    size_t dir_len = strlen(dir), name_len = strlen(name);
    int slash = dir_len > 0 && dir[dir_len - 1] != '/';
    char *path = must_alloc(NULL, dir_len + name_len + 2);
    memcpy(path, dir, dir_len);
    if (slash) path[dir_len] = '/';
    memcpy(path + dir_len + slash, name, name_len + 1);
    return path;
}

static const char *relative(const char *base, const char *path) {
    path += strlen(base);
    while (*path == '/') path++;
    return path;
}

static void push_dir(struct walk *walk, char *path) {
    if (walk->pending_count == walk->pending_capacity) {
        walk->pending_capacity = walk->pending_capacity ? walk->pending_capacity * 2 : 64;
        walk->pending = must_alloc(walk->pending, walk->pending_capacity * sizeof *walk->pending);
    }
    walk->pending[walk->pending_count++] = path;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void visit(struct walk *walk, char *path) {
    struct stat st;
    if (lstat(path, &st) != 0) {
        walk->skipped->unreadable++;
    } else if (S_ISDIR(st.st_mode)) {
        push_dir(walk, path);
        return;
    } else if (S_ISLNK(st.st_mode)) {
        walk->skipped->symlinks++;
    } else if (!S_ISREG(st.st_mode)) {
        walk->skipped->special++;
    } else if ((uint64_t)st.st_size > CONTENT_BYTES_MAX) {
        walk->skipped->too_large++;
    } else if ((uint64_t)st.st_size > walk->bytes_left) {
        walk->skipped->over_limit++;
    } else if (access(path, R_OK) != 0) {
        walk->skipped->unreadable++;
    } else {
        walk->bytes_left -= (uint64_t)st.st_size;
        records_add(walk->out, relative(walk->base, path), (uint64_t)st.st_size, 0, 0);
    }
    free(path);
}

static void read_dir(struct walk *walk, const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        walk->skipped->unreadable++;
        return;
    }
    char **names = NULL;
    size_t count = 0, capacity = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            names = must_alloc(names, capacity * sizeof *names);
        }
        names[count++] = join(path, entry->d_name);
    }
    closedir(dir);
    if (count) qsort(names, count, sizeof *names, by_name); /* the same order on every machine: a seed repeats a run */
    for (size_t i = 0; i < count; i++) visit(walk, names[i]);
    free(names);
}

int files_walk(const char *base, const char *dir, uint64_t bytes_max, struct records *out, struct skipped *skipped) {
    struct stat st;
    errno = ENOTDIR;
    if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode)) {
        fprintf(stderr, "load_tree: %s: %s\n", dir, strerror(errno));
        return -1;
    }
    struct walk walk = {base, bytes_max, out, skipped, NULL, 0, 0};
    push_dir(&walk, join(dir, ""));
    while (walk.pending_count) {
        char *path = walk.pending[--walk.pending_count];
        read_dir(&walk, path);
        free(path);
    }
    free(walk.pending);
    return 0;
}

int files_read(const char *base, const char *key, struct content *out) {
    char *path = join(base, key);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (fd < 0) return -1;
    struct stat st;
    if (fstat(fd, &st) != 0) goto fail;
    out->len = 0;
    size_t wanted = (size_t)st.st_size + 1; /* one more, so that the end is seen without growing */
    for (;;) {                              /* to the end, whatever fstat said: the file may be growing */
        if (out->capacity < wanted) {
            out->data = must_alloc(out->data, wanted);
            out->capacity = wanted;
        }
        ssize_t n = read(fd, out->data + out->len, out->capacity - out->len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) goto fail;
        if (n == 0) break;
        out->len += (size_t)n;
        if (out->len == out->capacity) wanted = out->capacity * 2;
        if (out->len > CONTENT_BYTES_MAX) {
            errno = EFBIG;
            goto fail;
        }
    }
    close(fd);
    return 0;
fail:;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* ---- records ---- */

void records_add(struct records *records, const char *key, uint64_t len, uint64_t put_ns, uint64_t hash) {
    if (records->count == records->capacity) {
        records->capacity = records->capacity ? records->capacity * 2 : 1024;
        records->items = must_alloc(records->items, records->capacity * sizeof *records->items);
    }
    size_t key_bytes = strlen(key) + 1;
    char *copy = memcpy(must_alloc(NULL, key_bytes), key, key_bytes);
    records->items[records->count++] = (struct record){copy, len, put_ns, hash};
    records->bytes += len;
}

size_t record_format(char *buffer, const char *key, uint64_t len, uint64_t put_ns, uint64_t hash) {
    int n = sprintf(buffer, "%" PRIu64 " %" PRIu64 " %016" PRIx64 " ", len, put_ns, hash);
    size_t key_bytes = strlen(key) + 1;
    memcpy(buffer + n, key, key_bytes);
    return (size_t)n + key_bytes;
}

/* Takes one record apart. Returns 0, or -1 if the text has another form. */
static int record_parse(const char *text, struct records *out) {
    uint64_t len, put_ns, hash;
    int head = 0;
    if (sscanf(text, "%" SCNu64 " %" SCNu64 " %16" SCNx64 "%n", &len, &put_ns, &hash, &head) != 3) return -1;
    if (text[head] != ' ' || text[head + 1] == '\0') return -1;
    records_add(out, text + head + 1, len, put_ns, hash);
    return 0;
}

int records_load(const char *path, struct records *out) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "load_tree: %s: %s\n", path, strerror(errno));
        return -1;
    }
    char *text = NULL;
    size_t capacity = 0;
    int result = 0;
    ssize_t n;
    while (result == 0 && (n = getdelim(&text, &capacity, '\0', file)) > 0) {
        if (text[n - 1] != '\0') break; /* cut off */
        if (record_parse(text, out) != 0) {
            fprintf(stderr, "load_tree: %s: record %zu has an unknown form: \"%.80s\"\n", path, out->count, text);
            result = -1;
        }
    }
    if (ferror(file)) {
        fprintf(stderr, "load_tree: %s: %s\n", path, strerror(errno));
        result = -1;
    }
    free(text);
    fclose(file);
    return result;
}

int records_save(const char *path, const struct records *records) {
    FILE *file = fopen(path, "wb");
    int failed = !file;
    for (size_t i = 0; !failed && i < records->count; i++) {
        const struct record *record = &records->items[i];
        char *line = must_alloc(NULL, strlen(record->key) + RECORD_HEAD_MAX);
        size_t bytes = record_format(line, record->key, record->len, record->put_ns, record->hash);
        failed = fwrite(line, 1, bytes, file) != bytes;
        free(line);
    }
    if (file && fclose(file) != 0) failed = 1;
    if (failed) fprintf(stderr, "load_tree: %s: %s\n", path, strerror(errno));
    return failed ? -1 : 0;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const struct record *)a)->key, ((const struct record *)b)->key);
}

void records_sort(struct records *records) {
    if (records->count) qsort(records->items, records->count, sizeof *records->items, by_key);
}

const struct record *records_find(const struct records *records, const char *key) {
    struct record wanted = {(char *)key, 0, 0, 0};
    if (!records->count) return NULL;
    return bsearch(&wanted, records->items, records->count, sizeof wanted, by_key);
}

void records_shuffle(struct records *records, uint64_t seed) {
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = records->count; i > 1; i--) {
        state ^= state << 13; /* xorshift */
        state ^= state >> 7;
        state ^= state << 17;
        size_t j = (size_t)(state % i);
        struct record moved = records->items[i - 1];
        records->items[i - 1] = records->items[j];
        records->items[j] = moved;
    }
}

void records_free(struct records *records) {
    for (size_t i = 0; i < records->count; i++) free(records->items[i].key);
    free(records->items);
    *records = (struct records){NULL, 0, 0, 0};
}
