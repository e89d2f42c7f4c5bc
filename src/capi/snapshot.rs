//! Snapshots: the store as it was at one moment.

use super::guard::{self, Presence};
use super::handle::{self, NO_BUFFER};
use super::types::{flatkv_buffer_t, flatkv_snapshot_t, flatkv_status_t, flatkv_t};
use crate::store::Snapshot;
use std::ffi::c_void;
use std::ptr;

/// Makes a snapshot: the store as it is now, for reading, whatever is written later.
///
/// `store` and `out_snapshot` must not be NULL. On FLATKV_OK the caller frees *out_snapshot with flatkv_snapshot_free;
/// on any other code it is NULL. Every write that returned before is visible in it, also with durability "os", none that
/// begins later, and of a batch all or nothing; an asynchronous write for sure if its ticket was done before. As long as it is there, what it shows keeps its space, overwritten and deleted values too: see
/// flatkv_snapshot_kept_bytes. flatkv_snapshot_get reads the keyspace of the handle that it is made with; it serves all others,
/// too (flatkv_snapshot_get_in, flatkv_iter_new). It does not keep the store from being closed; calls on it answer FLATKV_E_CLOSED then,
/// but the pool stays locked until the last snapshot and iterator is freed.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (NULL, bad handle); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any
/// thread. Cost: about a microsecond, and a wait for writes of this process that are being drained just now, for all of
/// them side by side; no write waits for it.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_new(
    store: *mut flatkv_t,
    out_snapshot: *mut *mut flatkv_snapshot_t,
) -> flatkv_status_t {
    let out = handle::out(out_snapshot, ptr::null_mut(), "out_snapshot");
    guard::with_store("flatkv_snapshot_new", store, |store| {
        let out = out?;
        out.set(handle::new(store.snapshot()?)?);
        Ok(())
    })
}

/// Copies the value that `key` had in a snapshot into a new buffer.
///
/// `snapshot`, `key` and `out_value` must not be NULL. On FLATKV_OK the caller frees the buffer with
/// flatkv_buffer_free; on any other code it is {NULL, 0}.
/// Returns the codes of flatkv_get, where FLATKV_E_CLOSED and FLATKV_E_INVALID_ARGUMENT may be about the snapshot. Safe
/// from any thread, from several at once. Cost: as flatkv_get.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_get(
    snapshot: *const flatkv_snapshot_t,
    key: *const c_void,
    key_len: usize,
    out_value: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    let out = handle::out(out_value, NO_BUFFER, "out_value");
    guard::status_of("flatkv_snapshot_get", || {
        let mut snapshot = handle::shared::<Snapshot>(snapshot)?;
        let (out, key) = (out?, handle::key(key, key_len)?);
        let value = guard::on_part_of_store(
            &mut snapshot,
            |snapshot| snapshot.get(key),
            |snapshot, why| snapshot.poison_store(why),
        )?;
        let presence = Presence::from(value.is_some());
        out.set(value.map_or(NO_BUFFER, handle::new_buffer));
        Ok(presence)
    })
}

/// Copies the value that `key` had in `keyspace` at the moment of a snapshot, whichever handle of the store that was made with.
/// A keyspace that was not there then, or a later one of its name, has no keys.
///
/// As flatkv_snapshot_get; `keyspace` must not be NULL, and may also be the handle of the store. FLATKV_E_INVALID_ARGUMENT if it
/// is one of another store. A handle shows what its keyspace held even if that was dropped or cleared since.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_get_in(
    snapshot: *const flatkv_snapshot_t,
    keyspace: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    out_value: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    let out = handle::out(out_value, NO_BUFFER, "out_value");
    guard::with_store("flatkv_snapshot_get_in", keyspace, |keyspace| {
        let snapshot = handle::shared::<Snapshot>(snapshot)?;
        let (out, key) = (out?, handle::key(key, key_len)?);
        let value = keyspace.snapshot_at(&snapshot)?.get(key)?;
        let presence = Presence::from(value.is_some());
        out.set(value.map_or(NO_BUFFER, handle::new_buffer));
        Ok(presence)
    })
}

/// Gives the bytes of overwritten and deleted entries that are kept because of a snapshot. Those that a newer one needs,
/// too, are counted there alone. Whole segments, which hold more, wait with them.
///
/// 0 (and an error is recorded) if `snapshot` is NULL or freed. Safe from any thread, from several at once. Cost: a few
/// locks that nobody holds for long.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_kept_bytes(snapshot: *const flatkv_snapshot_t) -> u64 {
    guard::value_of(
        "flatkv_snapshot_kept_bytes",
        0,
        || Ok(handle::shared::<Snapshot>(snapshot)?.kept_bytes()),
    )
}

/// Frees a snapshot, in any order with others. Does nothing if it is NULL or freed already.
///
/// Iterators that were made from it go on. Safe from any thread, and after the store was closed. Cost: grows with the
/// number of values that were overwritten since.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_free(snapshot: *mut flatkv_snapshot_t) {
    guard::value_of("flatkv_snapshot_free", (), || handle::free::<Snapshot>(snapshot))
}

#[cfg(all(test, feature = "sim"))]
#[path = "tests/panics.rs"]
mod tests;
