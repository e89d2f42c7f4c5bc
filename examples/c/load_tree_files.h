/* What is to be loaded: regular files below one or several directories, as records that can be written to a file and
 * read again. The list of files and the acknowledgements have the same form:
 *
 *     <content bytes> SP <put nanoseconds> SP <content hash, 16 hex digits> SP <key> NUL
 *
 * In a list the nanoseconds and the hash are 0: nothing was read yet. A record without its NUL was cut off by the end
 * of the process that wrote it and does not count. */
#ifndef LOAD_TREE_FILES_H
#define LOAD_TREE_FILES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct record {
    char *key; /* the path relative to the base directory */
    uint64_t len;
    uint64_t put_ns;
    uint64_t hash;
};

struct records {
    struct record *items;
    size_t count;
    size_t capacity;
    uint64_t bytes; /* the sum of all len */
};

/* What a walk passed over, and why. */
struct skipped {
    size_t symlinks;
    size_t unreadable; /* files and directories without permission, or gone */
    size_t special;    /* sockets, pipes, devices */
    size_t too_large;  /* 4 GiB or more: above the limit of a value */
    size_t over_limit; /* left out by the limit on the sum of bytes */
};

/* The longest content that a value can hold. */
#define CONTENT_BYTES_MAX UINT64_C(0xffffffff)

/* Content of a file. `data` grows and is reused from file to file; free it with free(). */
struct content {
    uint8_t *data;
    size_t len;
    size_t capacity;
};

/* Appends the regular files below `dir`, in order of their names, until `bytes_max` more bytes are taken; files that do
 * not fit are counted and passed over. Keys are relative to `base`, which is `dir` or a directory above it. Symlinks
 * are not followed. Returns 0, or -1 with a message on stderr. */
int files_walk(const char *base, const char *dir, uint64_t bytes_max, struct records *out, struct skipped *skipped);

/* Reads the whole of base/key. Returns 0, or -1 with errno. */
int files_read(const char *base, const char *key, struct content *out);

/* Appends a copy. Exits with a message if there is no memory, as everything in this example does. */
void records_add(struct records *records, const char *key, uint64_t len, uint64_t put_ns, uint64_t hash);
/* Reads records from `path`. Returns 0, or -1 with a message on stderr. */
int records_load(const char *path, struct records *out);
/* Writes all records to `path`. Returns 0, or -1 with a message on stderr. */
int records_save(const char *path, const struct records *records);
void records_sort(struct records *records);
/* A record with this key, or NULL. `records` must be sorted. */
const struct record *records_find(const struct records *records, const char *key);
/* Puts the records into an order that depends on nothing but `seed`. */
void records_shuffle(struct records *records, uint64_t seed);
void records_free(struct records *records);

/* One record as bytes, its NUL included: written to `buffer`, which must hold strlen(key) + RECORD_HEAD_MAX bytes. */
#define RECORD_HEAD_MAX 64
size_t record_format(char *buffer, const char *key, uint64_t len, uint64_t put_ns, uint64_t hash);

/* FNV-1a, 64 bits: tells a file that changed during the job from a store that lost bytes. */
uint64_t content_hash(const uint8_t *data, size_t len);

void *must_alloc(void *old, size_t bytes);

#endif
