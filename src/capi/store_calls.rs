//! Calls on one key, and calls on the store as a whole.

use super::guard::{self, Presence};
use super::handle::{self, NO_BUFFER};
use super::types::{flatkv_buffer_t, flatkv_status_t, flatkv_t, flatkv_write_options_t};
use crate::constants::VALUE_BYTES_MAX;
use crate::error::Error;
use crate::options::WriteOptions;
use crate::store::Finding;
use std::ffi::c_void;

/// Stores `value` under `key` and replaces any older value. With the default durability, "sync", the write survives a
/// power cut when this returns FLATKV_OK.
///
/// `store` and `key` must not be NULL; `value` may be if `value_len` is 0. Both are copied. A key has 1 to 65,536
/// bytes, a value 0 to 4 GiB - 1.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle); FLATKV_E_TOO_LARGE, found before any
/// byte is read; FLATKV_E_NO_SPACE when no room could be made; FLATKV_E_READ_ONLY; FLATKV_E_CLOSED; FLATKV_E_FORKED;
/// FLATKV_E_POISONED after an earlier failed persist. With all of these the old value stays. FLATKV_E_IO if the system
/// refused something: as long as flatkv_health answers FLATKV_OK the pool could not grow, and the old value stays; else
/// a persist failed, the store is poisoned, and which of the two values survived shows when it is opened again. Safe from any thread. Cost: one drain, shared where writers meet; two for a value above
/// "inline_value_bytes_max".
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_put(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
) -> flatkv_status_t {
    guard::with_store("flatkv_put", store, |store| {
        store.put(handle::key(key, key_len)?, handle::value(value, value_len)?)
    })
}

/// As flatkv_put, with options for this one write.
///
/// `options` must not be NULL; several calls may use them at once. Beside the codes of flatkv_put: FLATKV_E_CLOSED if
/// the options were freed, FLATKV_E_BUSY while flatkv_write_options_set changes them. Null, ownership, threads and
/// cost as flatkv_put, but no drain with durability "os".
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_put_with(
    store: *mut flatkv_t,
    options: *const flatkv_write_options_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
) -> flatkv_status_t {
    guard::with_store("flatkv_put_with", store, |store| {
        let options = handle::shared::<WriteOptions>(options)?;
        store.put_with(&options, handle::key(key, key_len)?, handle::value(value, value_len)?)
    })
}

/// Deletes `key`. Durable as a put is, and possible when the store is full.
///
/// `store` and `key` must not be NULL. Returns FLATKV_OK if there was a value, FLATKV_NOT_FOUND if there was none
/// (nothing is written then), or an error code of flatkv_put. Safe from any thread. Cost: one drain, shared where
/// writers meet.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_delete(store: *mut flatkv_t, key: *const c_void, key_len: usize) -> flatkv_status_t {
    guard::with_store("flatkv_delete", store, |store| {
        store.delete(handle::key(key, key_len)?).map(Presence::from)
    })
}

/// Tells whether `key` has a value, without reading it.
///
/// `store` and `key` must not be NULL. Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key,
/// NULL, bad handle), FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread.
/// Cost: one look into the index and one at the entry.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_exists(store: *mut flatkv_t, key: *const c_void, key_len: usize) -> flatkv_status_t {
    guard::with_store("flatkv_exists", store, |store| {
        store.exists(handle::key(key, key_len)?).map(Presence::from)
    })
}

/// Copies the value of `key` into a new buffer.
///
/// `store`, `key` and `out_value` must not be NULL. On FLATKV_OK the caller frees *out_value with flatkv_buffer_free;
/// an empty value has a `data` that is not NULL. On any other code *out_value is {NULL, 0}. What *out_value held
/// before is overwritten, not freed.
/// Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle),
/// FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread; no
/// call waits for a writer. Cost: a lookup, an allocation and a copy; flatkv_get_into saves the allocation,
/// flatkv_get_pinned both.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_get(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    out_value: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    handle::empty(out_value, NO_BUFFER);
    guard::with_store("flatkv_get", store, |store| {
        let (out, key) = (handle::out(out_value, NO_BUFFER, "out_value")?, handle::key(key, key_len)?);
        let value = store.get(key)?.map(|value| out.set(handle::new_buffer(value)));
        Ok(Presence::from(value.is_some()))
    })
}

/// Copies the value of `key` into the caller's `buf` of `cap` bytes and its length into *out_len.
///
/// `store`, `key` and `out_len` must not be NULL; `buf` may be if `cap` is 0, which asks for the length only. `key`
/// must not lie inside `buf`. Returns FLATKV_OK or FLATKV_NOT_FOUND (*out_len is 0); FLATKV_E_BUFFER_TOO_SMALL with
/// the value's length in *out_len; FLATKV_E_INVALID_ARGUMENT (empty key, key inside buf, NULL, bad handle),
/// FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Unless it is FLATKV_OK,
/// `buf` holds nothing of use. Safe from any thread; no call waits for a writer. Cost: a lookup and a copy.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_get_into(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    buf: *mut c_void,
    cap: usize,
    out_len: *mut usize,
) -> flatkv_status_t {
    handle::empty(out_len, 0);
    let plain = guard::short("flatkv_get_into", store, |store, here| {
        let (out, key_bytes) = (handle::out(out_len, 0, "out_len").ok()?, handle::key(key, key_len).ok()?);
        handle::check_apart(key, key_len, buf, cap).ok()?;
        let buf = handle::buffer(buf, cap).ok()?;
        let found = store.copy_plain(here, key_bytes, buf)?;
        out.set(found.unwrap_or(0));
        Some(Presence::from(found.is_some()))
    });
    plain.unwrap_or_else(|| get_any_into(store, key, key_len, buf, cap, out_len))
}

/// The same of a value of any kind, and whatever the arguments are.
#[inline(never)]
fn get_any_into(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    buf: *mut c_void,
    cap: usize,
    out_len: *mut usize,
) -> flatkv_status_t {
    guard::with_store("flatkv_get_into", store, |store| {
        let (out, key_bytes) = (handle::out(out_len, 0, "out_len")?, handle::key(key, key_len)?);
        handle::check_apart(key, key_len, buf, cap)?;
        let found = store.get_into(key_bytes, handle::buffer(buf, cap)?).inspect_err(|error| {
            if let Error::BufferTooSmall { needed, .. } = error {
                out.set(*needed);
            }
        })?;
        out.set(found.unwrap_or(0));
        Ok(Presence::from(found.is_some()))
    })
}

/// Makes everything durable that was written before this call, writes with durability "os" and asynchronous ones too.
///
/// `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_IO (the store is poisoned), FLATKV_E_POISONED,
/// FLATKV_E_CLOSED, FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: at most
/// one drain per log.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_sync(store: *mut flatkv_t) -> flatkv_status_t {
    guard::with_store("flatkv_sync", store, |store| store.sync())
}

/// Ends cleaning in the background until flatkv_maintenance_resume: for a stretch of time in which nothing but the
/// caller's own work shall use the medium. Calls do not add up: one resume ends any number of pauses.
///
/// `store` must not be NULL. Waits for a pass that is at work. Writes that find no room meanwhile wait for
/// "write_stall_ms_max" and are refused with FLATKV_E_TIMED_OUT. Returns FLATKV_OK; FLATKV_E_NO_SPACE while free space is
/// so scarce that writes would soon stop (nothing is paused); FLATKV_E_READ_ONLY, FLATKV_E_POISONED, FLATKV_E_CLOSED,
/// FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: at most a pass of the
/// cleaner, tens of milliseconds.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_maintenance_pause(store: *mut flatkv_t) -> flatkv_status_t {
    guard::with_store("flatkv_maintenance_pause", store, |store| store.maintenance_pause())
}

/// Lets the store clean again after flatkv_maintenance_pause. Does nothing if it was not paused.
///
/// `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_READ_ONLY, FLATKV_E_POISONED, FLATKV_E_CLOSED,
/// FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (bad handle). Safe from any thread. Cost: under a microsecond, and what the
/// cleaner then finds to do.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_maintenance_resume(store: *mut flatkv_t) -> flatkv_status_t {
    guard::with_store("flatkv_maintenance_resume", store, |store| store.maintenance_resume())
}

/// Gives the store's counters, sizes and choices as a JSON object. Names in it are stable; new ones are added. "keys"
/// counts what the index holds: keys that have a value, and deleted keys whose tombstones have to be kept.
///
/// `store` and `out_json` must not be NULL. On FLATKV_OK the caller frees *out_json with flatkv_buffer_free; it is
/// UTF-8 and not NUL-terminated. On any other code it is {NULL, 0}. Returns FLATKV_OK, FLATKV_E_CLOSED,
/// FLATKV_E_FORKED or FLATKV_E_INVALID_ARGUMENT (NULL, bad handle). Safe from any thread. Cost: tens of microseconds;
/// not for hot paths.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_stats_json(store: *mut flatkv_t, out_json: *mut flatkv_buffer_t) -> flatkv_status_t {
    let out = handle::out(out_json, NO_BUFFER, "out_json");
    guard::with_store("flatkv_stats_json", store, |store| {
        out?.set(handle::new_buffer(store.stats_json().into_bytes()));
        Ok(())
    })
}

/// Reads the whole pool: checks every checksum, that every entry of the index leads to its operation, and that the sizes which
/// the store keeps account of are those of the pool. Gives a report as a JSON object with stable names: "ok", what was
/// read, and "findings", each with "what", "segment", "offset", "expected" and "found".
///
/// `store` and `out_report_json` must not be NULL. Returns FLATKV_OK if there are no findings and FLATKV_E_CORRUPTED if
/// there are, the first of which flatkv_last_error tells; *out_report_json holds the report in both cases and the caller
/// frees it with flatkv_buffer_free; it is UTF-8 and not NUL-terminated. On any other code it is {NULL, 0}: FLATKV_E_CLOSED,
/// FLATKV_E_FORKED, FLATKV_E_INVALID_ARGUMENT (NULL, bad handle). Safe from any thread. Other calls go on meanwhile; cleaning
/// waits for one segment at a time. Totals are compared only if nothing is written until it ends ("is_quiet"). Cost: the
/// time to read the pool.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_verify(
    store: *mut flatkv_t,
    out_report_json: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    let out = handle::out(out_report_json, NO_BUFFER, "out_report_json");
    guard::with_store("flatkv_verify", store, |store| {
        let out = out?;
        let report = store.verify()?;
        out.set(handle::new_buffer(report.to_json().into_bytes()));
        report.findings.first().map_or(Ok(()), |finding| {
            let Finding { what, offset, expected, found, .. } = *finding;
            Err(Error::Corrupted { what, offset, expected, found })
        })
    })
}

/// Tells whether the store takes writes: FLATKV_OK, or the code that writes are refused with; flatkv_last_error says
/// why.
///
/// `store` must not be NULL. Returns FLATKV_OK, FLATKV_E_POISONED, FLATKV_E_CLOSED, FLATKV_E_FORKED or
/// FLATKV_E_INVALID_ARGUMENT (bad handle). Reads go on in every such state but the last three. Safe from any thread.
/// Cost: a few loads.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_health(store: *mut flatkv_t) -> flatkv_status_t {
    guard::with_store("flatkv_health", store, |store| store.health())
}

/// Frees the bytes of a buffer that this library filled and sets it to {NULL, 0}, so that a second call does nothing.
///
/// NULL, and a buffer that is {NULL, 0}, are fine. A copy of the struct must not be freed as well. Any thread may
/// free a buffer, also after its store was closed; two must not free the same one at once. Cost: one deallocation.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_buffer_free(buffer: *mut flatkv_buffer_t) {
    guard::value_of("flatkv_buffer_free", (), || {
        handle::free_buffer(buffer);
        Ok(())
    })
}

const _: () = assert!(VALUE_BYTES_MAX == u32::MAX as u64, "flatkv_put's comment says 4 GiB - 1");
