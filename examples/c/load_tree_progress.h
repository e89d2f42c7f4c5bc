/* Progress of a long piece of work on stderr: a bar that is redrawn on a terminal, a line per second in a log. */
#ifndef LOAD_TREE_PROGRESS_H
#define LOAD_TREE_PROGRESS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    const char *what; /* "load", "verify" ... */
    size_t files_total;
    uint64_t bytes_total;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake;
    size_t files;
    uint64_t bytes;
    uint64_t started_ns;
    int stopping;
    int is_terminal;
    pthread_t thread;
};

void progress_start(struct progress *progress, const char *what, size_t files_total, uint64_t bytes_total);
/* From any thread: one more file of so many bytes is done. */
void progress_add(struct progress *progress, uint64_t bytes);
/* Draws the last state and ends the thread that draws. */
void progress_stop(struct progress *progress);

/* Nanoseconds of the monotonic clock. */
uint64_t now_ns(void);

#endif
