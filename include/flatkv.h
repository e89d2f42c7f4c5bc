/*
 * FlatKV: an embedded key-value store. Generated from src/capi by `make header`; do not edit.
 *
 * Conventions, for every function below unless its comment says otherwise:
 *
 *   Status     flatkv_status_t is FLATKV_OK (0) or a positive code; FLATKV_NOT_FOUND is an answer, not an error. On an
 *              error flatkv_last_error() tells the calling thread what failed, where, what was expected and found.
 *   Null       A pointer must not be NULL where the comment does not allow it; NULL is then FLATKV_E_INVALID_ARGUMENT.
 *              Bytes are a `const void *` and a length; NULL is legal with length 0 where an empty value is.
 *   Handles    flatkv_t * and the other opaque pointers are numbers, not addresses. A handle that was closed or freed
 *              gives FLATKV_E_CLOSED, one that never was or is of another kind FLATKV_E_INVALID_ARGUMENT; both are
 *              safe at any time. Functions without a status answer NULL or 0 then and record the error; the free
 *              functions do nothing.
 *   Out        Out-parameters come last and are set to empty (NULL, 0) before anything else happens. They need no
 *              alignment. The library never keeps a pointer that it was given.
 *   Ownership  What the library allocates is freed by its own free function, never by free().
 *   Threads    Every function may be called from any thread, and a store from all of them at once. Options, write
 *              options, batches and iterators may be read by several calls at once (const pointers) but changed by
 *              one alone: a call that would have to wait for another answers FLATKV_E_BUSY and does nothing.
 *   Panics     A bug inside the library is FLATKV_E_PANIC; the store in use refuses writes from then on.
 *   Fork       After fork() the child's handles answer FLATKV_E_FORKED; the parent's go on.
 *
 * The library writes nothing to stdout or stderr and registers no atexit handler.
 */

#ifndef FLATKV_H
#define FLATKV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version of this header. flatkv_version() and flatkv_version_number() tell the library's. */
#define FLATKV_VERSION "0.1.0"
#define FLATKV_VERSION_MAJOR 0
#define FLATKV_VERSION_MINOR 1
#define FLATKV_VERSION_PATCH 0
/* major * 1000000 + minor * 1000 + patch */
#define FLATKV_VERSION_NUMBER 1000

/**
 * Counts up when a compiled program would no longer work with a newer library. Part of the shared library's name.
 */
#define FLATKV_ABI_VERSION 0

/**
 * What a call answers. The numbers never change and are never reused.
 */
enum flatkv_status {
    /**
     * Done.
     */
    FLATKV_OK = 0,
    /**
     * There is no such key. An answer, not an error.
     */
    FLATKV_NOT_FOUND = 1,
    /**
     * An argument is outside what the call accepts; nothing was changed.
     */
    FLATKV_E_INVALID_ARGUMENT = 2,
    /**
     * The operating system refused an operation; flatkv_last_error names it and its errno. If it was a persist the
     * store is poisoned, which flatkv_health tells; else (opening, growing, memory, reading) nothing was changed.
     */
    FLATKV_E_IO = 3,
    /**
     * The data does not fit into the quota or onto the device; nothing was changed.
     */
    FLATKV_E_NO_SPACE = 4,
    /**
     * Stored bytes failed a check; they are never served.
     */
    FLATKV_E_CORRUPTED = 5,
    /**
     * Parts of the pool that must be there are missing; no data was changed.
     */
    FLATKV_E_INCOMPLETE = 6,
    /**
     * Another process, or another handle of this one, holds the pool.
     */
    FLATKV_E_LOCKED = 7,
    /**
     * The store was opened for reading only.
     */
    FLATKV_E_READ_ONLY = 8,
    /**
     * The condition of a conditional write does not hold.
     */
    FLATKV_E_CONFLICT = 9,
    /**
     * The pool or the call needs something that this version or medium does not have.
     */
    FLATKV_E_UNSUPPORTED = 10,
    /**
     * A persist failed earlier, so writes are refused. Reads go on; close and reopen to recover.
     */
    FLATKV_E_POISONED = 11,
    /**
     * The handle was valid once and is closed or freed.
     */
    FLATKV_E_CLOSED = 12,
    /**
     * The handle belongs to the parent of this forked process.
     */
    FLATKV_E_FORKED = 13,
    /**
     * A key, value or batch exceeds its limit; nothing was written.
     */
    FLATKV_E_TOO_LARGE = 14,
    /**
     * The object is in use: values are pinned, or another call changes it at this moment. Nothing was changed.
     */
    FLATKV_E_BUSY = 15,
    /**
     * The caller's buffer cannot hold the value; the length it needs was set.
     */
    FLATKV_E_BUFFER_TOO_SMALL = 16,
    /**
     * A wait for space or for a lock ended without it.
     */
    FLATKV_E_TIMED_OUT = 17,
    /**
     * A bug in the library was stopped before it could unwind into the caller. The store in use refuses writes.
     */
    FLATKV_E_PANIC = 99,
};

struct flatkv;

struct flatkv_batch;

struct flatkv_iter;

struct flatkv_options;

struct flatkv_pin;

struct flatkv_snapshot;

struct flatkv_write_options;

/**
 * One of enum flatkv_status.
 */
typedef int32_t flatkv_status_t;

/**
 * Options of flatkv_open, see flatkv_options_set.
 */
typedef struct flatkv_options flatkv_options_t;

/**
 * Options of one write, see flatkv_write_options_set.
 */
typedef struct flatkv_write_options flatkv_write_options_t;

/**
 * An open store: what flatkv_open gives and flatkv_close takes.
 */
typedef struct flatkv flatkv_t;

/**
 * Bytes that belong to the caller until flatkv_buffer_free. `data` is NULL only if there is no value: an empty value
 * has a `data` that is not NULL and a `len` of 0. Leave both fields alone until the buffer is freed.
 */
struct flatkv_buffer {
    /**
     * The first byte. Not terminated by a NUL.
     */
    uint8_t *data;
    /**
     * How many there are.
     */
    size_t len;
};

/**
 * Bytes that belong to the caller until flatkv_buffer_free.
 */
typedef struct flatkv_buffer flatkv_buffer_t;

/**
 * Bytes that belong to somebody else. `data` may be NULL if `len` is 0.
 */
struct flatkv_slice {
    /**
     * The first byte.
     */
    const uint8_t *data;
    /**
     * How many there are.
     */
    size_t len;
};

/**
 * Bytes that belong to somebody else.
 */
typedef struct flatkv_slice flatkv_slice_t;

/**
 * The store as it was at one moment, see flatkv_snapshot_new.
 */
typedef struct flatkv_snapshot flatkv_snapshot_t;

/**
 * Puts and deletes that are applied wholly or not at all, see flatkv_write.
 */
typedef struct flatkv_batch flatkv_batch_t;

/**
 * A value that is kept in place while it is read, see flatkv_get_pinned.
 */
typedef struct flatkv_pin flatkv_pin_t;

/**
 * What goes from entry to entry in the order of keys, see flatkv_iter_new.
 */
typedef struct flatkv_iter flatkv_iter_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Says what a status means, as a short lower-case fact in English, e.g. "not found".
 *
 * Accepts any number; one that is no status gives "unknown status". The text is never NULL, static and never freed.
 * Safe from any thread, needs no store. Cost: a lookup.
 */
const char *flatkv_status_str(flatkv_status_t status);

/**
 * Describes this thread's last failed call: which function, what failed, where, what was expected and what was
 * found.
 *
 * Never NULL; "" if no call of this thread failed yet. Calls that succeed or answer FLATKV_NOT_FOUND leave it alone.
 * The text belongs to the library and is valid until this thread's next failing call or its end. Of a long text the
 * first 8 KiB are kept. Each thread sees its own failures only. Cost: a lookup.
 */
const char *flatkv_last_error(void);

/**
 * The library's version, e.g. "0.1.0"; compare with FLATKV_VERSION, the header's.
 *
 * Never NULL, static, never freed. Safe from any thread, needs no store. Cost: none.
 */
const char *flatkv_version(void);

/**
 * The library's version as a number: major * 1000000 + minor * 1000 + patch; compare with FLATKV_VERSION_NUMBER.
 *
 * Safe from any thread, needs no store. Cost: none.
 */
uint32_t flatkv_version_number(void);

/**
 * The version of the binary interface; compare with FLATKV_ABI_VERSION.
 *
 * Safe from any thread, needs no store. Cost: none.
 */
uint32_t flatkv_abi_version(void);

/**
 * Makes options for flatkv_open that hold the defaults.
 *
 * The caller frees them with flatkv_options_free; they may be used for several stores, and a store does not need
 * them after flatkv_open. NULL only if 268 million options exist already. Safe from any thread. Cost: under a
 * microsecond.
 */
flatkv_options_t *flatkv_options_new(void);

/**
 * Sets one option. Values are text: sizes take a suffix KiB, MiB, GiB or TiB, switches are "true" or "false".
 *
 * | name                   | values (first is the default)                          | what                              |
 * |------------------------|--------------------------------------------------------|-----------------------------------|
 * | media                  | auto, dax, file, emulated-pm                           | what the pool lies on             |
 * | durability             | sync, os                                               | what a write waits for            |
 * | index                  | ordered, hash                                          | how keys are found                |
 * | create                 | true, false                                            | make the pool if there is none    |
 * | read_only              | false, true                                            | share with readers, refuse writes |
 * | max_bytes              | none, or bytes                                         | quota of the pool                 |
 * | target_utilization     | share from 0.1 to 0.95, 0.80                           | above it the pool grows           |
 * | segment_size_bytes     | power of two from 4 KiB to 256 MiB                     | unit of space, at creation        |
 * | head_size_bytes        | multiple of 4 KiB                                      | bytes before it, at creation      |
 * | inline_value_bytes_max | bytes                                                  | longer values leave the log       |
 * | commit                 | auto, lone, grouped                                    | who shares a drain                |
 * | commit_wait_us_max     | microseconds                                           | delay of asynchronous writes      |
 * | async_bytes_max        | bytes                                                  | asynchronous writes in flight     |
 * | write_stall_ms_max     | milliseconds, 1000                                     | wait for room in a full store     |
 * | verify_reads           | true, false                                            | check sums on every read          |
 * | sigbus                 | default, guard                                         | guard: unreadable is FLATKV_E_IO  |
 * | file_mode              | octal, 0600                                            | permissions at creation           |
 * | lock_wait_ms           | milliseconds, 0                                        | wait for another process's lock   |
 *
 * With durability "os" and sigbus "default" a pool on an ordinary file of ext4, or one of up to 64 MiB on tmpfs, is mapped for
 * writing, and writes of durability "os" are stored there: a medium that fails under such a store is a SIGBUS, as under a
 * read; a full device is not.
 *
 * `options`, `name` and `value` must not be NULL; texts are NUL-terminated UTF-8 and are copied. An error changes
 * nothing.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT for an unknown name or a value that is not accepted
 * (flatkv_last_error lists what is) or a bad handle; FLATKV_E_CLOSED after flatkv_options_free; FLATKV_E_BUSY while
 * another call uses the options. Combinations are checked by flatkv_open. Safe from any thread, one at a time. Cost:
 * under a microsecond.
 */
flatkv_status_t flatkv_options_set(flatkv_options_t *options,
                                   const char *name,
                                   const char *value);

/**
 * Frees options. Does nothing if they are NULL or freed already.
 *
 * Safe from any thread, also while another call uses the options: they go when it returns. Cost: under a
 * microsecond.
 */
void flatkv_options_free(flatkv_options_t *options);

/**
 * Makes options of a write that change nothing: the store's own settings hold.
 *
 * The caller frees them with flatkv_write_options_free; they may be used for any number of writes on any store. NULL
 * only if 268 million exist already. Safe from any thread. Cost: under a microsecond.
 */
flatkv_write_options_t *flatkv_write_options_new(void);

/**
 * Sets one option of a write: "durability" is "sync" (returns when the write survives a power cut) or "os" (returns
 * when it survives a killed process).
 *
 * `options`, `name` and `value` must not be NULL; texts are NUL-terminated UTF-8 and are copied. An error changes
 * nothing. Returns FLATKV_OK, FLATKV_E_INVALID_ARGUMENT for an unknown name, a value that is not accepted
 * (flatkv_last_error lists what is) or a bad handle, FLATKV_E_CLOSED after flatkv_write_options_free, FLATKV_E_BUSY
 * while another call uses the options. Safe from any thread, one at a time. Cost: under a microsecond.
 */
flatkv_status_t flatkv_write_options_set(flatkv_write_options_t *options,
                                         const char *name,
                                         const char *value);

/**
 * Frees options of a write. Does nothing if they are NULL or freed already.
 *
 * Safe from any thread, also while another call uses the options: they go when it returns. Cost: under a
 * microsecond.
 */
void flatkv_write_options_free(flatkv_write_options_t *options);

/**
 * Opens the pool at `path`, and makes it first if there is none and the option "create" is on.
 *
 * `path` (NUL-terminated, any bytes) and `out_store` must not be NULL; `options` may be NULL for the defaults and
 * are not needed afterwards. On FLATKV_OK the caller closes *out_store with flatkv_close; otherwise *out_store is
 * NULL and the data in the pool is unchanged.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT for options that do not go together, or a directory or symbolic link;
 * FLATKV_E_LOCKED if the pool is open elsewhere, with the holder's process number; FLATKV_E_IO with the errno (no
 * such directory, permissions); FLATKV_E_NO_SPACE; FLATKV_E_CORRUPTED for a file that is no pool, or whose damage
 * makes data unreadable; FLATKV_E_INCOMPLETE if parts are missing; FLATKV_E_UNSUPPORTED for a pool of a newer
 * version or a medium that cannot do what "media" asks for. Safe from any thread. Cost: reads the pool's log to
 * rebuild the index, so it grows with the pool.
 */
flatkv_status_t flatkv_open(const char *path,
                            const flatkv_options_t *options,
                            flatkv_t **out_store);

/**
 * Closes a store: waits for calls in progress, makes everything durable and frees the handle.
 *
 * NULL is FLATKV_OK. The handle of a keyspace is freed, and nothing else happens. New calls answer FLATKV_E_CLOSED from the start of this one. Batches, options and buffers are
 * independent of the store and stay valid.
 * Returns FLATKV_OK; FLATKV_E_BUSY with their number while values are pinned: the store is then open as before, so
 * free the pins and call again (until it answers, calls on other threads may have answered FLATKV_E_CLOSED, too, and
 * did nothing: repeat them); FLATKV_E_CLOSED if it is closed already or another thread is closing it;
 * FLATKV_E_INVALID_ARGUMENT if the handle never was a store's; FLATKV_E_FORKED in a child process, where nothing is
 * closed. Any other code (FLATKV_E_IO, FLATKV_E_POISONED) says that not everything is known to be durable; the store
 * is closed nevertheless. Safe from any thread, but never returns if called by a call in progress on the same store.
 * Cost: one drain.
 */
flatkv_status_t flatkv_close(flatkv_t *store);

/**
 * Stores `value` under `key` and replaces any older value. With the default durability, "sync", the write survives a
 * power cut when this returns FLATKV_OK.
 *
 * `store` and `key` must not be NULL; `value` may be if `value_len` is 0. Both are copied. A key has 1 to 65,536
 * bytes, a value 0 to 4 GiB - 1.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle); FLATKV_E_TOO_LARGE, found before any
 * byte is read; FLATKV_E_NO_SPACE when no room could be made; FLATKV_E_READ_ONLY; FLATKV_E_CLOSED; FLATKV_E_FORKED;
 * FLATKV_E_POISONED after an earlier failed persist. With all of these the old value stays. FLATKV_E_IO if the system
 * refused something: as long as flatkv_health answers FLATKV_OK the pool could not grow, and the old value stays; else
 * a persist failed, the store is poisoned, and which of the two values survived shows when it is opened again. Safe from any thread. Cost: one drain, shared where writers meet; two for a value above
 * "inline_value_bytes_max".
 */
flatkv_status_t flatkv_put(flatkv_t *store,
                           const void *key,
                           size_t key_len,
                           const void *value,
                           size_t value_len);

/**
 * As flatkv_put, with options for this one write.
 *
 * `options` must not be NULL; several calls may use them at once. Beside the codes of flatkv_put: FLATKV_E_CLOSED if
 * the options were freed, FLATKV_E_BUSY while flatkv_write_options_set changes them. Null, ownership, threads and
 * cost as flatkv_put, but no drain with durability "os".
 */
flatkv_status_t flatkv_put_with(flatkv_t *store,
                                const flatkv_write_options_t *options,
                                const void *key,
                                size_t key_len,
                                const void *value,
                                size_t value_len);

/**
 * Deletes `key`. Durable as a put is, and possible when the store is full.
 *
 * `store` and `key` must not be NULL. Returns FLATKV_OK if there was a value, FLATKV_NOT_FOUND if there was none
 * (nothing is written then), or an error code of flatkv_put. Safe from any thread. Cost: one drain, shared where
 * writers meet.
 */
flatkv_status_t flatkv_delete(flatkv_t *store,
                              const void *key,
                              size_t key_len);

/**
 * Tells whether `key` has a value, without reading it.
 *
 * `store` and `key` must not be NULL. Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key,
 * NULL, bad handle), FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread.
 * Cost: one look into the index and one at the entry.
 */
flatkv_status_t flatkv_exists(flatkv_t *store,
                              const void *key,
                              size_t key_len);

/**
 * Copies the value of `key` into a new buffer.
 *
 * `store`, `key` and `out_value` must not be NULL. On FLATKV_OK the caller frees *out_value with flatkv_buffer_free;
 * an empty value has a `data` that is not NULL. On any other code *out_value is {NULL, 0}. What *out_value held
 * before is overwritten, not freed.
 * Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle),
 * FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread; no
 * call waits for a writer. Cost: a lookup, an allocation and a copy; flatkv_get_into saves the allocation,
 * flatkv_get_pinned both.
 */
flatkv_status_t flatkv_get(flatkv_t *store,
                           const void *key,
                           size_t key_len,
                           flatkv_buffer_t *out_value);

/**
 * Copies the value of `key` into the caller's `buf` of `cap` bytes and its length into *out_len.
 *
 * `store`, `key` and `out_len` must not be NULL; `buf` may be if `cap` is 0, which asks for the length only. `key`
 * must not lie inside `buf`. Returns FLATKV_OK or FLATKV_NOT_FOUND (*out_len is 0); FLATKV_E_BUFFER_TOO_SMALL with
 * the value's length in *out_len; FLATKV_E_INVALID_ARGUMENT (empty key, key inside buf, NULL, bad handle),
 * FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Unless it is FLATKV_OK,
 * `buf` holds nothing of use. Safe from any thread; no call waits for a writer. Cost: a lookup and a copy.
 */
flatkv_status_t flatkv_get_into(flatkv_t *store,
                                const void *key,
                                size_t key_len,
                                void *buf,
                                size_t cap,
                                size_t *out_len);

/**
 * Makes everything durable that was written before this call, writes with durability "os" and asynchronous ones too.
 *
 * `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_IO (the store is poisoned), FLATKV_E_POISONED,
 * FLATKV_E_CLOSED, FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: at most
 * one drain per log.
 */
flatkv_status_t flatkv_sync(flatkv_t *store);

/**
 * Ends cleaning in the background until flatkv_maintenance_resume: for a stretch of time in which nothing but the
 * caller's own work shall use the medium. Calls do not add up: one resume ends any number of pauses.
 *
 * `store` must not be NULL. Waits for a pass that is at work. Writes that find no room meanwhile wait for
 * "write_stall_ms_max" and are refused with FLATKV_E_TIMED_OUT. Returns FLATKV_OK; FLATKV_E_NO_SPACE while free space is
 * so scarce that writes would soon stop (nothing is paused); FLATKV_E_READ_ONLY, FLATKV_E_POISONED, FLATKV_E_CLOSED,
 * FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: at most a pass of the
 * cleaner, tens of milliseconds.
 */
flatkv_status_t flatkv_maintenance_pause(flatkv_t *store);

/**
 * Lets the store clean again after flatkv_maintenance_pause. Does nothing if it was not paused.
 *
 * `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_READ_ONLY, FLATKV_E_POISONED, FLATKV_E_CLOSED,
 * FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: under a microsecond, and what the
 * cleaner then finds to do.
 */
flatkv_status_t flatkv_maintenance_resume(flatkv_t *store);

/**
 * Gives the store's counters, sizes and choices as a JSON object. Names in it are stable; new ones are added. "keys"
 * counts what the index holds: keys that have a value, and deleted keys whose tombstones have to be kept.
 *
 * `store` and `out_json` must not be NULL. On FLATKV_OK the caller frees *out_json with flatkv_buffer_free; it is
 * UTF-8 and not NUL-terminated. On any other code it is {NULL, 0}. Returns FLATKV_OK, FLATKV_E_CLOSED,
 * FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (NULL, bad handle). Safe from any thread. Cost: tens of microseconds;
 * not for hot paths.
 */
flatkv_status_t flatkv_stats_json(flatkv_t *store,
                                  flatkv_buffer_t *out_json);

/**
 * Reads the whole pool: checks every checksum, that every entry of the index leads to its operation, and that the sizes which
 * the store keeps account of are those of the pool. Gives a report as a JSON object with stable names: "ok", what was
 * read, and "findings", each with "what", "segment", "offset", "expected" and "found".
 *
 * `store` and `out_report_json` must not be NULL. Returns FLATKV_OK if there are no findings and FLATKV_E_CORRUPTED if
 * there are, the first of which flatkv_last_error tells; *out_report_json holds the report in both cases and the caller
 * frees it with flatkv_buffer_free; it is UTF-8 and not NUL-terminated. On any other code it is {NULL, 0}: FLATKV_E_CLOSED,
 * FLATKV_E_FORKED, FLATKV_E_INVALID_ARGUMENT (NULL, bad handle). Safe from any thread. Other calls go on meanwhile; cleaning
 * waits for one segment at a time. Totals are compared only if nothing is written until it ends ("is_quiet"). Cost: the
 * time to read the pool.
 */
flatkv_status_t flatkv_verify(flatkv_t *store,
                              flatkv_buffer_t *out_report_json);

/**
 * Tells whether the store takes writes: FLATKV_OK, or the code that writes are refused with; flatkv_last_error says
 * why.
 *
 * `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_POISONED, FLATKV_E_CLOSED, FLATKV_E_FORKED or
 * FLATKV_E_INVALID_ARGUMENT (bad handle). Reads go on in every such state but the last three. Safe from any thread.
 * Cost: a few loads.
 */
flatkv_status_t flatkv_health(flatkv_t *store);

/**
 * Frees the bytes of a buffer that this library filled and sets it to {NULL, 0}, so that a second call does nothing.
 *
 * NULL, and a buffer that is {NULL, 0}, are fine. A copy of the struct must not be freed as well. Any thread may
 * free a buffer, also after its store was closed; two must not free the same one at once. Cost: one deallocation.
 */
void flatkv_buffer_free(flatkv_buffer_t *buffer);

/**
 * Reads `n` keys, each value into a buffer of its own.
 *
 * `store` must not be NULL; `keys`, `out_values` and `out_statuses` have `n` elements each, do not overlap, and may
 * be NULL only if `n` is 0. Element i of the outputs is about key i: FLATKV_OK and a buffer that the caller frees
 * with flatkv_buffer_free; or FLATKV_NOT_FOUND, or an error code of flatkv_get, and {NULL, 0}.
 * Returns FLATKV_OK whatever the single keys got, and flatkv_last_error is about the last key with an error; else
 * FLATKV_E_INVALID_ARGUMENT (NULL, n that no array can have, bad handle), FLATKV_E_CLOSED or FLATKV_E_PANIC: every
 * element is then {NULL, 0} and that code. Safe from any thread. The values are not a snapshot: writes may come
 * between two of them. Cost: less than n calls of flatkv_get, because memory is fetched ahead; an allocation and a
 * copy each.
 */
flatkv_status_t flatkv_multi_get(flatkv_t *store,
                                 size_t n,
                                 const flatkv_slice_t *keys,
                                 flatkv_buffer_t *out_values,
                                 flatkv_status_t *out_statuses);

/**
 * Reads `n` keys in a snapshot, each value into a buffer of its own.
 *
 * As flatkv_multi_get, but the values are those of one moment; the keys are those of the keyspace that the snapshot was made
 * with. `snapshot` must not be NULL; FLATKV_E_INVALID_ARGUMENT may be about it, FLATKV_E_CLOSED too, as the status of each
 * key if it is the store that was closed. Safe from any thread, from several at once. Cost: less than n calls of
 * flatkv_snapshot_get, because memory is fetched ahead; an allocation and a copy each.
 */
flatkv_status_t flatkv_snapshot_multi_get(const flatkv_snapshot_t *snapshot,
                                          size_t n,
                                          const flatkv_slice_t *keys,
                                          flatkv_buffer_t *out_values,
                                          flatkv_status_t *out_statuses);

/**
 * Reads `n` keys of `keyspace` as they were at the moment of a snapshot, whichever handle of the store that was made with.
 *
 * As flatkv_snapshot_multi_get; what flatkv_snapshot_get_in says of `keyspace` is true here, too.
 */
flatkv_status_t flatkv_snapshot_multi_get_in(const flatkv_snapshot_t *snapshot,
                                             flatkv_t *keyspace,
                                             size_t n,
                                             const flatkv_slice_t *keys,
                                             flatkv_buffer_t *out_values,
                                             flatkv_status_t *out_statuses);

/**
 * Reads `n` keys into one buffer of the caller: the fast form.
 *
 * As flatkv_multi_get, but values are packed into `buf` (which may be NULL if `cap` is 0) in the order of their
 * keys, and out_values[i] points into it. *out_needed is the sum of the lengths of all values that were found;
 * `out_needed` must not be NULL, and neither the arrays nor the keys may lie inside `buf`.
 * Returns FLATKV_E_BUFFER_TOO_SMALL if `cap` is less than *out_needed. Every value that still fitted when its turn
 * came is there with FLATKV_OK; the others have the status FLATKV_E_BUFFER_TOO_SMALL and {NULL, their length}, so
 * they can be read again with a larger buffer. The `data` of an empty value is not NULL. Other codes, threads and
 * consistency as flatkv_multi_get. Cost: a lookup and a copy per key, less than n calls of
 * flatkv_get_into because memory is fetched ahead; no allocation.
 */
flatkv_status_t flatkv_multi_get_into(flatkv_t *store,
                                      size_t n,
                                      const flatkv_slice_t *keys,
                                      void *buf,
                                      size_t cap,
                                      flatkv_slice_t *out_values,
                                      flatkv_status_t *out_statuses,
                                      size_t *out_needed);

/**
 * Makes an empty batch.
 *
 * The caller frees it with flatkv_batch_free. It belongs to no store, and may be written several times and to
 * several stores. NULL only if 268 million batches exist already. Safe from any thread. Cost: under a microsecond.
 */
flatkv_batch_t *flatkv_batch_new(void);

/**
 * Adds a put to a batch. Of several operations on one key the last counts.
 *
 * `batch` and `key` must not be NULL; `value` may be if `value_len` is 0. Both are copied. Limits as flatkv_put. An
 * error changes nothing. Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle);
 * FLATKV_E_TOO_LARGE, found before any byte is read; FLATKV_E_IO with ENOMEM if the batch outgrows memory;
 * FLATKV_E_CLOSED after flatkv_batch_free; FLATKV_E_BUSY while another call uses the batch. Safe from any thread, one at a time. Cost: a copy of key and value.
 */
flatkv_status_t flatkv_batch_put(flatkv_batch_t *batch,
                                 const void *key,
                                 size_t key_len,
                                 const void *value,
                                 size_t value_len);

/**
 * Adds a delete to a batch. A key that has no value when the batch is written is no error.
 *
 * `batch` and `key` must not be NULL; the key is copied. An error changes nothing. Return codes and threads as
 * flatkv_batch_put. Cost: a copy of the key.
 */
flatkv_status_t flatkv_batch_delete(flatkv_batch_t *batch,
                                    const void *key,
                                    size_t key_len);

/**
 * Adds a put to `keyspace`, which may also be the handle of a store. What flatkv_batch_put adds goes to the keyspace of the
 * handle that the batch is written with; with this one a batch goes across several, wholly or not at all.
 *
 * As flatkv_batch_put; `keyspace` must not be NULL. The batch keeps no store open. It can be written only to the store of all its
 * keyspaces, FLATKV_E_INVALID_ARGUMENT else, and while none of them was dropped, FLATKV_E_CLOSED else.
 */
flatkv_status_t flatkv_batch_put_in(flatkv_batch_t *batch,
                                    flatkv_t *keyspace,
                                    const void *key,
                                    size_t key_len,
                                    const void *value,
                                    size_t value_len);

/**
 * Adds a delete from `keyspace`. As flatkv_batch_delete and flatkv_batch_put_in.
 */
flatkv_status_t flatkv_batch_delete_in(flatkv_batch_t *batch,
                                       flatkv_t *keyspace,
                                       const void *key,
                                       size_t key_len);

/**
 * Takes all operations out of a batch and keeps its memory for the next ones.
 *
 * Does nothing (but record an error) if `batch` is NULL, freed, or in use by another call. Safe from any thread, one
 * at a time. Cost: independent of the batch's size.
 */
void flatkv_batch_clear(flatkv_batch_t *batch);

/**
 * Frees a batch. Does nothing if it is NULL or freed already.
 *
 * Safe from any thread, after the stores that it was written to were closed, and while another call uses the batch:
 * it goes when that returns. Cost: one deallocation.
 */
void flatkv_batch_free(flatkv_batch_t *batch);

/**
 * Counts the operations that were added to a batch, repeated keys included.
 *
 * 0 (and an error is recorded) if `batch` is NULL, freed, or being changed by another call. Safe from any thread.
 * Cost: none to speak of.
 */
size_t flatkv_batch_count(const flatkv_batch_t *batch);

/**
 * Applies all operations of a batch, or none: after any crash all of it is there, or nothing. Durable as a put is. A
 * reader that goes from key to key may see a part of it while it is being applied.
 *
 * `store` and `batch` must not be NULL. The batch is unchanged and remains the caller's; an empty one is FLATKV_OK.
 * Returns the codes of flatkv_put, where FLATKV_E_CLOSED and FLATKV_E_INVALID_ARGUMENT may be about either handle,
 * and FLATKV_E_BUSY while another call changes the batch. Safe from any thread. Cost: one drain for the whole batch,
 * shared where writers meet.
 */
flatkv_status_t flatkv_write(flatkv_t *store,
                             const flatkv_batch_t *batch);

/**
 * As flatkv_write, with options for this one write.
 *
 * `options` must not be NULL; several calls may use them at once. Null, ownership, codes, threads and cost as
 * flatkv_write, but no drain with durability "os".
 */
flatkv_status_t flatkv_write_with(flatkv_t *store,
                                  const flatkv_write_options_t *options,
                                  const flatkv_batch_t *batch);

/**
 * Starts to store `value` under `key` and returns at once, with a ticket for flatkv_wait. It is visible and durable
 * when that returns, and within "commit_wait_us_max" without it. Tickets of one store complete in their order.
 *
 * `store`, `key` and `out_ticket` must not be NULL; `value` may be if `value_len` is 0. Both are copied before this
 * returns. On any other code than FLATKV_OK *out_ticket is 0 and nothing will be written. Returns the codes of
 * flatkv_put. Waits while "async_bytes_max" bytes are in flight. Safe from any thread. Cost: a copy; the drain is
 * shared with all writes that are in flight.
 */
flatkv_status_t flatkv_put_async(flatkv_t *store,
                                 const void *key,
                                 size_t key_len,
                                 const void *value,
                                 size_t value_len,
                                 uint64_t *out_ticket);

/**
 * Starts to apply all operations of a batch, or none, and returns at once with a ticket for flatkv_wait.
 *
 * `store`, `batch` and `out_ticket` must not be NULL. The batch is copied: it may be changed or freed as soon as
 * this returns. On any other code than FLATKV_OK *out_ticket is 0 and nothing will be written. Returns the codes of
 * flatkv_write. Visibility, order, waiting, threads and cost as flatkv_put_async.
 */
flatkv_status_t flatkv_write_async(flatkv_t *store,
                                   const flatkv_batch_t *batch,
                                   uint64_t *out_ticket);

/**
 * Waits until the write of `ticket`, and with it every earlier asynchronous write, is durable or has failed.
 *
 * `store` must not be NULL. Returns FLATKV_OK when all of them are durable and visible, or the code that the first of
 * them failed with, which later writes then report, too, and the store is poisoned; FLATKV_E_INVALID_ARGUMENT for a ticket that the store did not give out, or a bad handle; FLATKV_E_CLOSED,
 * FLATKV_E_FORKED. May be called several times for one ticket, from any thread. Cost: a load if it is done, else the
 * rest of a drain.
 */
flatkv_status_t flatkv_wait(flatkv_t *store,
                            uint64_t ticket);

/**
 * Gives the newest ticket whose write, with all earlier ones, has completed; 0 if there is none yet.
 *
 * Grows only. 0 also (and an error is recorded) if `store` is NULL or closed. Safe from any thread. Cost: a few
 * loads.
 */
uint64_t flatkv_durable_ticket(const flatkv_t *store);

/**
 * Gives access to the value of `key` where it lies, without a copy where it lies in one piece.
 *
 * `store`, `key` and `out_pin` must not be NULL. On FLATKV_OK the caller frees *out_pin with flatkv_pin_free; on any
 * other code it is NULL. While it is pinned, the value's bytes stay as they are whatever is written to the store,
 * the space they take is not reused, and flatkv_close answers FLATKV_E_BUSY: so pin shortly.
 * Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle),
 * FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread; no
 * call waits for a writer. Cost: a lookup.
 */
flatkv_status_t flatkv_get_pinned(flatkv_t *store,
                                  const void *key,
                                  size_t key_len,
                                  flatkv_pin_t **out_pin);

/**
 * Gives the address of a pinned value's first byte. The bytes must not be written to and are valid until
 * flatkv_pin_free.
 *
 * Not NULL for a live pin, even if the value is empty. NULL (and an error is recorded) if `pin` is NULL or freed.
 * Safe from any thread, from several at once. Cost: none to speak of.
 */
const uint8_t *flatkv_pin_data(const flatkv_pin_t *pin);

/**
 * Gives the length of a pinned value in bytes.
 *
 * 0 (and an error is recorded) if `pin` is NULL or freed. Safe from any thread, from several at once. Cost: none to
 * speak of.
 */
size_t flatkv_pin_len(const flatkv_pin_t *pin);

/**
 * Ends a pin. Does nothing if it is NULL or freed already.
 *
 * The pointer that flatkv_pin_data gave must not be used any more. Safe from any thread. Cost: none to speak of.
 */
void flatkv_pin_free(flatkv_pin_t *pin);

/**
 * Makes a snapshot: the store as it is now, for reading, whatever is written later.
 *
 * `store` and `out_snapshot` must not be NULL. On FLATKV_OK the caller frees *out_snapshot with flatkv_snapshot_free;
 * on any other code it is NULL. Every write that returned before is visible in it, also with durability "os", none that
 * begins later, and of a batch all or nothing; an asynchronous write for sure if its ticket was done before. As long as it is there, what it shows keeps its space, overwritten and deleted values too: see
 * flatkv_snapshot_kept_bytes. flatkv_snapshot_get reads the keyspace of the handle that it is made with; it serves all others,
 * too (flatkv_snapshot_get_in, flatkv_iter_new). It does not keep the store from being closed; calls on it answer FLATKV_E_CLOSED then,
 * but the pool stays locked until the last snapshot and iterator is freed.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (NULL, bad handle); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any
 * thread. Cost: about a microsecond, and a wait for writes of this process that are being drained just now, for all of
 * them side by side; no write waits for it.
 */
flatkv_status_t flatkv_snapshot_new(flatkv_t *store,
                                    flatkv_snapshot_t **out_snapshot);

/**
 * Copies the value that `key` had in a snapshot into a new buffer.
 *
 * `snapshot`, `key` and `out_value` must not be NULL. On FLATKV_OK the caller frees the buffer with
 * flatkv_buffer_free; on any other code it is {NULL, 0}.
 * Returns the codes of flatkv_get, where FLATKV_E_CLOSED and FLATKV_E_INVALID_ARGUMENT may be about the snapshot. Safe
 * from any thread, from several at once. Cost: as flatkv_get.
 */
flatkv_status_t flatkv_snapshot_get(const flatkv_snapshot_t *snapshot,
                                    const void *key,
                                    size_t key_len,
                                    flatkv_buffer_t *out_value);

/**
 * Copies the value that `key` had in `keyspace` at the moment of a snapshot, whichever handle of the store that was made with.
 * A keyspace that was not there then, or a later one of its name, has no keys.
 *
 * As flatkv_snapshot_get; `keyspace` must not be NULL, and may also be the handle of the store. FLATKV_E_INVALID_ARGUMENT if it
 * is one of another store. A handle shows what its keyspace held even if that was dropped or cleared since.
 */
flatkv_status_t flatkv_snapshot_get_in(const flatkv_snapshot_t *snapshot,
                                       flatkv_t *keyspace,
                                       const void *key,
                                       size_t key_len,
                                       flatkv_buffer_t *out_value);

/**
 * Makes a snapshot of the same moment that reads the keyspace which was called `name` then, also if that was dropped or cleared
 * since, or if another one has the name now. It counts as one with `snapshot`: nothing is kept twice, and no write is waited for.
 *
 * `snapshot`, `name` and `out_snapshot` must not be NULL. On FLATKV_OK the caller frees *out_snapshot with flatkv_snapshot_free,
 * before or after `snapshot`; on any other code it is NULL. It goes with flatkv_snapshot_get, flatkv_snapshot_multi_get and
 * flatkv_snapshot_iter_new.
 * Returns FLATKV_OK; FLATKV_NOT_FOUND if there was none; FLATKV_E_CORRUPTED if damage may hide whether there was;
 * FLATKV_E_INVALID_ARGUMENT (empty name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name); FLATKV_E_CLOSED;
 * FLATKV_E_FORKED. Safe from any thread, from several at once. Cost: two gets for each
 * keyspace that was made, dropped or cleared since the store was opened, or was there then.
 */
flatkv_status_t flatkv_snapshot_keyspace(const flatkv_snapshot_t *snapshot,
                                         const char *name,
                                         flatkv_snapshot_t **out_snapshot);

/**
 * Gives the names that keyspaces had at the moment of a snapshot, as flatkv_keyspace_list gives those of now.
 *
 * `snapshot` and `out_names` must not be NULL. Everything else as flatkv_keyspace_list. Cost: as
 * flatkv_snapshot_keyspace.
 */
flatkv_status_t flatkv_snapshot_keyspace_list(const flatkv_snapshot_t *snapshot, flatkv_buffer_t *out_names);

/**
 * Gives the bytes of overwritten and deleted entries that are kept because of a snapshot. Those that a newer one needs,
 * too, are counted there alone. Whole segments, which hold more, wait with them.
 *
 * 0 (and an error is recorded) if `snapshot` is NULL or freed. Safe from any thread, from several at once. Cost: a few
 * locks that nobody holds for long.
 */
uint64_t flatkv_snapshot_kept_bytes(const flatkv_snapshot_t *snapshot);

/**
 * Frees a snapshot, in any order with others. Does nothing if it is NULL or freed already.
 *
 * Iterators that were made from it go on. Safe from any thread, and after the store was closed. Cost: grows with the
 * number of values that were overwritten since.
 */
void flatkv_snapshot_free(flatkv_snapshot_t *snapshot);

/**
 * Gives a handle for the keyspace called `name`, and makes the keyspace first if there is none. Every function that takes a
 * store takes the handle as well: its keys are then those of the keyspace. What is about the store as a whole, such as
 * flatkv_sync, flatkv_stats_json or this function, is about its store.
 *
 * `store` (or the handle of another keyspace of it), `name` and `out_keyspace` must not be NULL. A name is UTF-8 and has 1 to 255
 * bytes. On FLATKV_OK the caller gives the handle back with flatkv_close, which closes nothing else; on any other code it is
 * NULL. Close the handles of keyspaces before their store: otherwise they answer FLATKV_E_CLOSED, and the pool stays locked
 * until the last one is closed.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name);
 * FLATKV_E_CORRUPTED if damage may hide whether there is one; the codes of flatkv_put if it has to be made. Safe from any
 * thread. Cost: a lookup; if it is made, a put.
 */
flatkv_status_t flatkv_keyspace_open(flatkv_t *store,
                                     const char *name,
                                     flatkv_t **out_keyspace);

/**
 * Gives a handle for the keyspace called `name`, as flatkv_keyspace_open does, but makes none: FLATKV_NOT_FOUND, and NULL, if
 * there is none. It works on a store that refuses writes, too.
 *
 * Null, ownership and threads as flatkv_keyspace_open. Returns FLATKV_OK; FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty
 * name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name); FLATKV_E_CORRUPTED if damage may hide whether there is one;
 * FLATKV_E_CLOSED; FLATKV_E_FORKED. Cost: a lookup.
 */
flatkv_status_t flatkv_keyspace_find(flatkv_t *store,
                                     const char *name,
                                     flatkv_t **out_keyspace);

/**
 * Drops the keyspace called `name` with all that is in it, wholly or, after a crash, not at all. Its space comes back in the
 * background. Snapshots and iterators from before still show it, and keep its space. Its handles answer FLATKV_E_CLOSED from
 * then on, also if another keyspace gets the name; each has to be closed all the same.
 *
 * `store` and `name` must not be NULL. Returns FLATKV_OK; FLATKV_NOT_FOUND if there is none; the codes of flatkv_keyspace_open
 * and of flatkv_delete. Possible when the store is full. Safe from any thread. Cost: one drain, and a wait for writes to the
 * keyspace that are under way, however much is in it.
 */
flatkv_status_t flatkv_keyspace_drop(flatkv_t *store,
                                     const char *name);

/**
 * Removes all that is in a keyspace, wholly or, after a crash, not at all. Its handles stay as they are.
 *
 * `keyspace` must not be NULL, and not the handle of a store: FLATKV_E_INVALID_ARGUMENT then. Everything else as
 * flatkv_keyspace_drop.
 */
flatkv_status_t flatkv_keyspace_clear(flatkv_t *keyspace);

/**
 * Gives the names of all keyspaces in the order of their bytes, each with a NUL behind it. The one without a name, which every
 * store has, is not among them.
 *
 * `store` and `out_names` must not be NULL. On FLATKV_OK the caller frees *out_names with flatkv_buffer_free; its `len` is 0 if
 * there are none. On any other code it is {NULL, 0}. Returns FLATKV_OK; FLATKV_E_CORRUPTED if damage may hide some;
 * FLATKV_E_INVALID_ARGUMENT (NULL, bad handle), FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread. Cost: grows with the
 * number of keyspaces.
 */
flatkv_status_t flatkv_keyspace_list(flatkv_t *store,
                                     flatkv_buffer_t *out_names);

/**
 * Makes an iterator over the entries of a snapshot in the order of their keys, bytes compared as unsigned numbers.
 *
 * `store` and `out_iter` must not be NULL; `snapshot_or_null` is a snapshot of that store, or NULL for the store as it
 * is now. On FLATKV_OK the caller frees *out_iter with flatkv_iter_free; on any other code it is NULL. It is on no
 * entry at first: flatkv_iter_next leads to the first one, flatkv_iter_prev to the last. What is said of
 * flatkv_snapshot_new is true of it, too; the snapshot may be freed before.
 * Returns FLATKV_OK; FLATKV_E_UNSUPPORTED if the store was opened with "index" "hash"; FLATKV_E_INVALID_ARGUMENT
 * (NULL, bad handle, snapshot of another store); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any thread; the iterator
 * from any thread, one at a time. Cost: a snapshot and a lookup.
 */
flatkv_status_t flatkv_iter_new(flatkv_t *store,
                                const flatkv_snapshot_t *snapshot_or_null,
                                flatkv_iter_t **out_iter);

/**
 * Makes an iterator over the entries that a snapshot shows itself, of the keyspace that it was made with: so over those of a
 * keyspace that is not there any more, by what flatkv_snapshot_keyspace gives.
 *
 * `snapshot` and `out_iter` must not be NULL. Everything else as flatkv_iter_new.
 */
flatkv_status_t flatkv_snapshot_iter_new(const flatkv_snapshot_t *snapshot,
                                         flatkv_iter_t **out_iter);

/**
 * Frees an iterator. Does nothing if it is NULL or freed already.
 *
 * Slices that flatkv_iter_key and flatkv_iter_value gave must not be used any more. Safe from any thread, and after the
 * store was closed. Cost: as flatkv_snapshot_free.
 */
void flatkv_iter_free(flatkv_iter_t *iter);

/**
 * Shows only keys from `lower` on and below `upper`. The iterator is on no entry then.
 *
 * `iter` must not be NULL; a bound is NULL, with length 0, where there is none. One that is not NULL has
 * length 0 if it is the empty key, and as `upper` leaves nothing. Both are copied, and replace earlier bounds and prefixes.
 * Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (bad handle, NULL with a length); FLATKV_E_TOO_LARGE (longer than a key);
 * FLATKV_E_CLOSED after flatkv_iter_free; FLATKV_E_BUSY while another call uses the iterator. An error changes nothing.
 * Safe from any thread, one at a time. Cost: two copies.
 */
flatkv_status_t flatkv_iter_set_bounds(flatkv_iter_t *iter,
                                       const void *lower,
                                       size_t lower_len,
                                       const void *upper,
                                       size_t upper_len);

/**
 * Shows only keys that start with `prefix`, whatever the bounds were, which it replaces. The iterator is on no entry then.
 *
 * `iter` must not be NULL; `prefix` may be if `prefix_len` is 0. It is copied. Codes, threads and cost as
 * flatkv_iter_set_bounds.
 */
flatkv_status_t flatkv_iter_set_prefix(flatkv_iter_t *iter,
                                       const void *prefix,
                                       size_t prefix_len);

/**
 * Goes to the first entry inside the bounds.
 *
 * Afterwards flatkv_iter_valid tells whether there is one, and if not, flatkv_iter_status why: FLATKV_OK at the end of
 * what there is, else FLATKV_E_CORRUPTED or FLATKV_E_IO (an entry that cannot be read: the next step goes on behind it),
 * FLATKV_E_CLOSED (store), FLATKV_E_FORKED, FLATKV_E_PANIC (a bug; the store is poisoned).
 *
 * If damage may hide entries, no answer is sure, not even which entry is the first: then the iterator is on no entry after a
 * seek, nor after the first step of a new one, flatkv_iter_status is FLATKV_E_CORRUPTED until the next seek, bounds or prefix, and
 * the next step in the same direction leads to the first entry of what is left. Which keys damage hides may be known, but not
 * where they lie: of damage that was found when the pool was opened that is so of every range that is not empty, but of no
 * keyspace that was made or cleared since. An entry that lost its key later is told of in the same way, once, where it is met.
 *
 * Does nothing (but record an error) if `iter` is NULL, freed, or in use by another call. Safe from any thread, one at a time. Cost: a lookup, and a copy of some entries and their short values;
 * most steps that follow are free of both.
 */
void flatkv_iter_seek_first(flatkv_iter_t *iter);

/**
 * Goes to the last entry inside the bounds. As flatkv_iter_seek_first.
 */
void flatkv_iter_seek_last(flatkv_iter_t *iter);

/**
 * Goes to the first entry whose key is not below `key`. As flatkv_iter_seek_first; `key` may be NULL if `key_len` is 0,
 * and one that is longer than a key can be changes nothing but flatkv_iter_status.
 */
void flatkv_iter_seek(flatkv_iter_t *iter,
                      const void *key,
                      size_t key_len);

/**
 * Goes to the last entry whose key is not above `key`. As flatkv_iter_seek.
 */
void flatkv_iter_seek_for_prev(flatkv_iter_t *iter, const void *key, size_t key_len);

/**
 * Goes to the next entry; from the last one the iterator comes to its end, and stays there until the next seek. As
 * flatkv_iter_seek_first.
 */
void flatkv_iter_next(flatkv_iter_t *iter);

/**
 * Goes to the entry before; from the first one the iterator comes to its end, and stays there until the next seek. As
 * flatkv_iter_seek_first.
 */
void flatkv_iter_prev(flatkv_iter_t *iter);

/**
 * Tells whether the iterator is on an entry.
 *
 * False (and an error is recorded) if `iter` is NULL, freed, or being moved by another call. Safe from any thread.
 * Cost: none to speak of.
 */
bool flatkv_iter_valid(const flatkv_iter_t *iter);

/**
 * Tells what the last step came to, and every flatkv_iter_value since the iterator was placed.
 *
 * FLATKV_OK on an entry, at the end of what there is, and before the first step; else why there is no entry, see
 * flatkv_iter_seek_first, or else the first error of a value, or else that damage may hide entries. An error of a step is
 * forgotten by the next one. One of a value stays through all steps, and so does what damage may hide, so that a loop may look
 * once, behind its end; a seek, bounds or a prefix end it.
 * FLATKV_E_INVALID_ARGUMENT or FLATKV_E_CLOSED if `iter` is NULL, bad or freed, FLATKV_E_BUSY while another call moves it. Safe from any thread. Cost: none to speak of.
 */
flatkv_status_t flatkv_iter_status(const flatkv_iter_t *iter);

/**
 * Gives the key of the entry that the iterator is on. The bytes belong to the iterator and are valid until its next call
 * that moves, bounds or frees it.
 *
 * {NULL, 0} if it is on no entry, and (with an error recorded) if `iter` is NULL, freed, or being moved by another call.
 * Safe from any thread. Cost: none to speak of.
 */
flatkv_slice_t flatkv_iter_key(const flatkv_iter_t *iter);

/**
 * Gives the value of the entry that the iterator is on. The bytes are valid as long as those of its key; the `data` of an
 * empty value is not NULL.
 *
 * {NULL, 0} if it is on no entry, and (with an error recorded, and flatkv_iter_status saying which until the next seek) if
 * the value cannot be read, as flatkv_get; or if `iter` is NULL, freed, or in use by another call. Safe from any thread,
 * one at a time. Cost: none for values up to 1 KiB; longer ones are read when they are asked for.
 */
flatkv_slice_t flatkv_iter_value(flatkv_iter_t *iter);

/**
 * Gives keys and values of several entries: of the one that the iterator is on and of those with the next larger keys,
 * up to `n`, as many as are at hand; and goes to the last of them. So whoever scans many entries calls it and
 * flatkv_iter_next in turn, until it returns 0: two calls for tens of entries.
 *
 * `out_keys` and `out_values` must not be NULL if `n` is not 0; each has `n` elements, and those that are not filled are
 * {NULL, 0}. Returns how many are filled: at least 1 if the iterator is on an entry whose value can be read, else 0, and
 * flatkv_iter_status says why until the next seek. The bytes are valid until the next call that moves, bounds or frees the iterator, this
 * one included. 0 as well (with an error recorded) if `iter` is NULL, freed, or in use by another call, or an
 * array is NULL. Safe from any thread, one at a time. Cost: a fraction of that of single calls.
 */
size_t flatkv_iter_entries(flatkv_iter_t *iter,
                           size_t n,
                           flatkv_slice_t *out_keys,
                           flatkv_slice_t *out_values);

/**
 * As flatkv_snapshot_kept_bytes, of what the iterator shows.
 */
uint64_t flatkv_iter_kept_bytes(const flatkv_iter_t *iter);

/**
 * Estimates how many keys lie from `from` on and below `to`, and how many bytes their entries and values have if they
 * are as long as all others on average. Deleted keys whose tombstones have to be kept count, too.
 *
 * `store`, `out_keys` and `out_bytes` must not be NULL; an end is NULL, with length 0, where there is none (not NULL with
 * length 0 is the empty key).
 * Returns FLATKV_OK; FLATKV_E_UNSUPPORTED if the store was opened with "index" "hash"; FLATKV_E_INVALID_ARGUMENT (NULL,
 * bad handle); FLATKV_E_TOO_LARGE (longer than a key); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any thread. Cost: a
 * few lookups.
 */
flatkv_status_t flatkv_estimate_range(flatkv_t *store,
                                      const void *from,
                                      size_t from_len,
                                      const void *to,
                                      size_t to_len,
                                      uint64_t *out_keys,
                                      uint64_t *out_bytes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLATKV_H */
