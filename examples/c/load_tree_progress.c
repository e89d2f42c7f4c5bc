#define _POSIX_C_SOURCE 200809L
#include "load_tree_progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_CELLS 24
#define MIB (1024.0 * 1024.0)

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static double fraction(double part, double whole) { return whole > 0 ? part / whole : 1.0; }

static void format_eta(char *text, size_t size, double done, double elapsed_s) {
    if (done <= 0 || elapsed_s < 0.2) {
        snprintf(text, size, "--:--");
        return;
    }
    long left = (long)(elapsed_s * (1 - done) / done + 0.5);
    snprintf(text, size, "%02ld:%02ld", left / 60, left % 60);
}

/* With the lock held. */
static void draw(const struct progress *p, int last) {
    double elapsed_s = (double)(now_ns() - p->started_ns) / 1e9;
    /* Work costs a part per file and a part per byte, so what is done is the mean of both. */
    double done = (fraction((double)p->files, (double)p->files_total) + fraction((double)p->bytes, (double)p->bytes_total)) / 2;
    if (done > 1) done = 1; /* files may have grown */
    double files_per_s = elapsed_s > 0 ? (double)p->files / elapsed_s : 0;
    double mib_per_s = elapsed_s > 0 ? (double)p->bytes / MIB / elapsed_s : 0;
    char eta[32], bar[BAR_CELLS + 1];
    format_eta(eta, sizeof eta, done, elapsed_s);
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', (size_t)(done * BAR_CELLS));
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "%s  %-9s [%s] %3.0f %%  %zu/%zu files  %.1f/%.1f MiB  %.0f files/s  %.1f MiB/s  ",
            p->is_terminal ? "\r" : "", p->what, bar, done * 100, p->files, p->files_total, (double)p->bytes / MIB,
            (double)p->bytes_total / MIB, files_per_s, mib_per_s);
    if (last) fprintf(stderr, "took %.1f s", elapsed_s);
    else fprintf(stderr, "ETA %s", eta);
    fputs(p->is_terminal ? "\033[K" : "", stderr);
    if (last || !p->is_terminal) fputc('\n', stderr);
    fflush(stderr);
}

static void *draw_until_stopped(void *context) {
    struct progress *p = context;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += p->is_terminal ? 100000000 : 999999999;
        if (until.tv_nsec > 999999999) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        if (pthread_cond_timedwait(&p->wake, &p->lock, &until) != 0 && !p->stopping) draw(p, 0);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void progress_start(struct progress *p, const char *what, size_t files_total, uint64_t bytes_total) {
    memset(p, 0, sizeof *p);
    p->what = what;
    p->files_total = files_total;
    p->bytes_total = bytes_total;
    p->started_ns = now_ns();
    p->is_terminal = isatty(STDERR_FILENO);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (pthread_create(&p->thread, NULL, draw_until_stopped, p) != 0) {
        fprintf(stderr, "load_tree: cannot start a thread\n");
        exit(1);
    }
}

void progress_add(struct progress *p, uint64_t bytes) {
    pthread_mutex_lock(&p->lock);
    p->files++;
    p->bytes += bytes;
    pthread_mutex_unlock(&p->lock);
}

void progress_stop(struct progress *p) {
    pthread_mutex_lock(&p->lock);
    p->stopping = 1;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    draw(p, 1);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}
