/* Writes to a store until it is killed, and says on stdout what it begins and what was acknowledged:
 *
 *   writer POOL MEDIA THREADS SESSION OPERATIONS [MAX_BYTES]
 *
 *   O              open begins            o           it succeeded        X STATUS TEXT   it failed
 *   S KEY ID|-     what a key holds       s           that was all
 *   V              verification begins    v           all that lies in the pool is sound
 *   B ID KEY...    a write begins ("-KEY" is deleted)  K ID        acknowledged  F ID STATUS  it failed
 *   E KEY ID|-     what a key holds before the close   e           that was all
 *   C              close begins           c STATUS    it ended
 *
 * Each line is one write to a pipe, so lines of threads do not mix and their order is that of the writes. ID is
 * SESSION.THREAD.NUMBER. A value says which write it is of and for which key, and its other bytes follow from that: one
 * that nobody wrote gives exit status 4. Links against the shipped library alone.
 */
#define _POSIX_C_SOURCE 200809L
#include "flatkv.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 8, OWN_KEYS = 6, SHARED_KEYS = 5, TOGETHER_KEYS = 4, LARGE_KEYS = 14, VALUE_MAX = 20000 };
/* Of so many sessions one verifies the pool; odd, so that each of two pools that take turns has its share. */
enum { VERIFY_EVERY = 5 };
enum { EXIT_OPEN_FAILED = 3, EXIT_WRONG_VALUE = 4, EXIT_HARNESS = 5 };

static flatkv_t *store;
static unsigned session;
static unsigned operations;

static void say(const char *format, ...) {
    char line[2048];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (len < 0 || (size_t)len >= sizeof line || write(1, line, (size_t)len) != len) {
        _exit(EXIT_HARNESS);
    }
}

static unsigned char filler(unsigned seed, size_t at) {
    return (unsigned char)(seed * 131 + at * 7 + at / 251);
}

/* The value that a write gives to a key. */
static size_t fill(unsigned char *value, const char *id, const char *key, size_t len) {
    int head = snprintf((char *)value, VALUE_MAX, "%s|%s|%zu|", id, key, len);
    unsigned seed = 0;
    for (int i = 0; i < head; i++) {
        seed = seed * 31 + value[i];
    }
    for (size_t at = (size_t)head; at < len; at++) {
        value[at] = filler(seed, at);
    }
    return len > (size_t)head ? len : (size_t)head;
}

static void show(char mark, const char *key) {
    flatkv_buffer_t found;
    flatkv_status_t status = flatkv_get(store, key, strlen(key), &found);
    if (status == FLATKV_NOT_FOUND) {
        say("%c %s -\n", mark, key);
        return;
    }
    char id[64], of[64];
    size_t len;
    static unsigned char expected[VALUE_MAX + 256];
    char head[160] = {0};
    if (status != FLATKV_OK) {
        say("W %s status %d: %s\n", key, status, flatkv_last_error());
        _exit(EXIT_WRONG_VALUE);
    }
    memcpy(head, found.data, found.len < sizeof head - 1 ? found.len : sizeof head - 1);
    if (sscanf(head, "%63[^|]|%63[^|]|%zu|", id, of, &len) != 3 || strcmp(of, key) != 0 || len > VALUE_MAX
        || fill(expected, id, key, len) != found.len || memcmp(expected, found.data, found.len) != 0) {
        say("W %s holds %zu bytes that nobody wrote\n", key, found.len);
        _exit(EXIT_WRONG_VALUE);
    }
    say("%c %s %s\n", mark, key, id);
    flatkv_buffer_free(&found);
}

static void show_all(char mark) {
    char key[32];
    for (int t = 0; t < THREADS_MAX; t++) {
        for (int k = 0; k < OWN_KEYS; k++) {
            snprintf(key, sizeof key, "own%d.%d", t, k);
            show(mark, key);
        }
        for (int k = 0; k < TOGETHER_KEYS; k++) {
            snprintf(key, sizeof key, "together%d.%d", t, k);
            show(mark, key);
        }
    }
    for (int k = 0; k < SHARED_KEYS; k++) {
        snprintf(key, sizeof key, "shared.%d", k);
        show(mark, key);
    }
    for (int k = 0; k < LARGE_KEYS; k++) {
        snprintf(key, sizeof key, "large.%d", k);
        show(mark, key);
    }
    say("%c\n", mark + ('a' - 'A'));
}

/* Reads the whole pool: damage also where no key leads to, and accounts that are not those of what is there. */
static void verify_all(void) {
    flatkv_buffer_t report;
    say("V\n");
    flatkv_status_t status = flatkv_verify(store, &report);
    if (status != FLATKV_OK) {
        say("W verification: status %d: %.*s\n", status, (int)(report.len < 1500 ? report.len : 1500), (const char *)report.data);
        _exit(EXIT_WRONG_VALUE);
    }
    flatkv_buffer_free(&report);
    say("v\n");
}

static void answer(const char *id, flatkv_status_t status) {
    if (status == FLATKV_OK || status == FLATKV_NOT_FOUND) {
        say("K %s\n", id);
    } else {
        say("F %s %d\n", id, status);
    }
}

static unsigned next(unsigned *random) {
    *random = *random * 1664525u + 1013904223u;
    return *random >> 8;
}

static void write_batch(const char *id, const char *prefix, int keys, size_t len, unsigned char *value, int async) {
    flatkv_batch_t *batch = flatkv_batch_new();
    char line[1024], key[32];
    int at = snprintf(line, sizeof line, "B %s", id);
    for (int k = 0; k < keys; k++) {
        snprintf(key, sizeof key, "%s.%d", prefix, k);
        at += snprintf(line + at, sizeof line - (size_t)at, " %s", key);
        if (flatkv_batch_put(batch, key, strlen(key), value, fill(value, id, key, len)) != FLATKV_OK) {
            _exit(EXIT_HARNESS);
        }
    }
    say("%s\n", line);
    uint64_t ticket;
    flatkv_status_t status;
    if (async) {
        status = flatkv_write_async(store, batch, &ticket);
        if (status == FLATKV_OK) {
            status = flatkv_wait(store, ticket);
        }
    } else {
        status = flatkv_write(store, batch);
    }
    answer(id, status);
    flatkv_batch_free(batch);
}

struct accepted {
    char id[64];
    uint64_t ticket;
};

static void *write_thread(void *argument) {
    int thread = (int)(size_t)argument;
    unsigned random = session * 977 + (unsigned)thread * 31 + 7;
    unsigned char *value = malloc(VALUE_MAX + 256);
    struct accepted waiting[4];
    int waits = 0;
    char id[64], key[32], prefix[32];
    flatkv_write_options_t *os = flatkv_write_options_new();
    if (value == NULL || flatkv_write_options_set(os, "durability", "os") != FLATKV_OK) {
        _exit(EXIT_HARNESS);
    }
    for (unsigned number = 0; number < operations; number++) {
        snprintf(id, sizeof id, "%u.%d.%u", session, thread, number);
        unsigned what = next(&random) % 32, which = next(&random);
        if (what < 22) {
            if (which % 3 == 0) {
                snprintf(key, sizeof key, "shared.%u", which / 3 % SHARED_KEYS);
            } else {
                snprintf(key, sizeof key, "own%d.%u", thread, which / 3 % OWN_KEYS);
            }
        }
        if (what < 4) {
            say("B %s -%s\n", id, key);
            answer(id, flatkv_delete(store, key, strlen(key)));
        } else if (what < 22) {
            size_t len = what < 14 ? 60 + which % 200 : what < 16 ? 5000 + which % 9000 : 900;
            size_t filled = fill(value, id, key, len);
            say("B %s %s\n", id, key);
            if (what < 16) {
                answer(id, flatkv_put(store, key, strlen(key), value, filled));
            } else if (what < 19) {
                answer(id, flatkv_put_with(store, os, key, strlen(key), value, filled));
            } else {
                uint64_t ticket;
                flatkv_status_t status = flatkv_put_async(store, key, strlen(key), value, filled, &ticket);
                if (status != FLATKV_OK) {
                    answer(id, status);
                } else {
                    strcpy(waiting[waits].id, id);
                    waiting[waits++].ticket = ticket;
                }
            }
        } else if (what < 27) {
            snprintf(prefix, sizeof prefix, "together%d", thread);
            write_batch(id, prefix, TOGETHER_KEYS, 50 + which % 300, value, what == 26);
        } else if (what < 29) {
            write_batch(id, "large", LARGE_KEYS, which % 2 ? 900 : 70, value, 0);
        } else if (what < 30) {
            write_batch(id, "large", LARGE_KEYS, 2500, value, 0);
        } else {
            flatkv_sync(store);
        }
        if (waits == 4 || (waits > 0 && what % 4 == 0) || number + 1 == operations) {
            for (int i = 0; i < waits; i++) {
                answer(waiting[i].id, flatkv_wait(store, waiting[i].ticket));
            }
            waits = 0;
        }
    }
    flatkv_write_options_free(os);
    free(value);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) {
        fprintf(stderr, "usage: writer POOL MEDIA THREADS SESSION OPERATIONS [MAX_BYTES]\n");
        return 2;
    }
    int threads = atoi(argv[3]);
    session = (unsigned)strtoul(argv[4], NULL, 10);
    operations = (unsigned)strtoul(argv[5], NULL, 10);
    flatkv_options_t *options = flatkv_options_new();
    if (threads < 1 || threads > THREADS_MAX || flatkv_options_set(options, "media", argv[2]) != FLATKV_OK
        || flatkv_options_set(options, "segment_size_bytes", "32KiB") != FLATKV_OK
        || flatkv_options_set(options, "head_size_bytes", "8KiB") != FLATKV_OK
        || (argc == 7 && flatkv_options_set(options, "max_bytes", argv[6]) != FLATKV_OK)) {
        fprintf(stderr, "writer: %s\n", flatkv_last_error());
        return 2;
    }
    /* Half of the sessions of each pool leave their writes to the operating system. */
    if (session / 2 % 2 == 1 && flatkv_options_set(options, "durability", "os") != FLATKV_OK) {
        return EXIT_HARNESS;
    }
    say("O\n");
    flatkv_status_t status = flatkv_open(argv[1], options, &store);
    flatkv_options_free(options);
    if (status != FLATKV_OK) {
        say("X %d %s\n", status, flatkv_last_error());
        return EXIT_OPEN_FAILED;
    }
    say("o\n");
    show_all('S');
    if (session % VERIFY_EVERY == 0) {
        verify_all();
    }
    pthread_t handles[THREADS_MAX];
    for (int t = 1; t < threads; t++) {
        if (pthread_create(&handles[t], NULL, write_thread, (void *)(size_t)t) != 0) {
            return EXIT_HARNESS;
        }
    }
    write_thread((void *)0);
    for (int t = 1; t < threads; t++) {
        pthread_join(handles[t], NULL);
    }
    show_all('E');
    say("C\n");
    say("c %d\n", flatkv_close(store));
    return 0;
}
