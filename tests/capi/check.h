/* The few words that the C tests are written in. A test file defines tests with TEST and runs them with RUN in main. */
#ifndef FLATKV_TESTS_CHECK_H
#define FLATKV_TESTS_CHECK_H

#define _GNU_SOURCE
#include "flatkv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The directory that the runner gives a test for its files. */
static const char *test_dir;
static const char *test_name;

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        fprintf(stderr, "%s:%d: in %s: ", __FILE__, __LINE__, test_name);                                              \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fprintf(stderr, "\n    last error: %s\n", flatkv_last_error());                                               \
        exit(1);                                                                                                       \
    } while (0)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            FAIL("not true: %s", #condition);                                                                          \
    } while (0)

/* The call answers this status. */
#define GIVES(expected, call)                                                                                          \
    do {                                                                                                               \
        flatkv_status_t expected_ = (expected), found_ = (call);                                                       \
        if (found_ != expected_)                                                                                       \
            FAIL("%s: expected %d (%s), found %d (%s)", #call, (int)expected_, flatkv_status_str(expected_),           \
                 (int)found_, flatkv_status_str(found_));                                                              \
    } while (0)

#define OK(call) GIVES(FLATKV_OK, call)

/* The last failure's message contains this text. */
#define SAYS(text)                                                                                                     \
    do {                                                                                                               \
        if (strstr(flatkv_last_error(), (text)) == NULL)                                                               \
            FAIL("expected a message with \"%s\"", (text));                                                            \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        test_name = #test;                                                                                             \
        test();                                                                                                        \
        printf("    ok  %s\n", #test);                                                                                 \
        fflush(stdout);                                                                                                \
    } while (0)

/* A path in the test's directory; valid until the fourth call from now. */
static inline const char *path_of(const char *name)
{
    static char paths[4][4096];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_dir, name);
    return path;
}

/* Opens a pool that lies on a file and is small. */
static inline flatkv_t *open_with_index(const char *name, const char *index)
{
    flatkv_t *store = NULL;
    flatkv_options_t *options = flatkv_options_new();
    OK(flatkv_options_set(options, "media", "file"));
    OK(flatkv_options_set(options, "segment_size_bytes", "128KiB"));
    OK(flatkv_options_set(options, "index", index));
    OK(flatkv_open(path_of(name), options, &store));
    flatkv_options_free(options);
    CHECK(store != NULL);
    return store;
}

static inline flatkv_t *open_store(const char *name)
{
    return open_with_index(name, "hash");
}

static inline flatkv_t *open_ordered(const char *name)
{
    return open_with_index(name, "ordered");
}

static inline int holds(const void *data, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(data, text, len) == 0;
}

static inline void put_text(flatkv_t *store, const char *key, const char *value)
{
    OK(flatkv_put(store, key, strlen(key), value, strlen(value)));
}

static inline void expect_text(flatkv_t *store, const char *key, const char *value)
{
    flatkv_buffer_t found = { NULL, 0 };
    OK(flatkv_get(store, key, strlen(key), &found));
    if (!holds(found.data, found.len, value))
        FAIL("%s: expected %s, found %.*s", key, value, (int)found.len, (const char *)found.data);
    flatkv_buffer_free(&found);
}

#endif
