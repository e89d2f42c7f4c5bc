//! Snapshots: the store as it was at one moment.

use super::guard::{self, Presence};
use super::handle::{self, NO_BUFFER};
use super::keyspace::names_buffer;
use super::types::{flatkv_buffer_t, flatkv_snapshot_t, flatkv_status_t, flatkv_t};
use crate::error::Result;
use crate::store::Snapshot;
use std::ffi::{c_char, c_void};
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
        let (out, key) = (out?, handle::key(key, key_len)?);
        let value = on_snapshot(snapshot, |snapshot| snapshot.get(key))?;
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

/// Makes a snapshot of the same moment that reads the keyspace which was called `name` then, also if that was dropped or cleared
/// since, or if another one has the name now. It counts as one with `snapshot`: nothing is kept twice, and no write is waited for.
///
/// `snapshot`, `name` and `out_snapshot` must not be NULL. On FLATKV_OK the caller frees *out_snapshot with flatkv_snapshot_free,
/// before or after `snapshot`; on any other code it is NULL. It goes with flatkv_snapshot_get, flatkv_snapshot_multi_get and
/// flatkv_snapshot_iter_new.
/// Returns FLATKV_OK; FLATKV_NOT_FOUND if there was none; FLATKV_E_CORRUPTED if damage may hide whether there was;
/// FLATKV_E_INVALID_ARGUMENT (empty name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name); FLATKV_E_CLOSED;
/// FLATKV_E_FORKED. Safe from any thread, from several at once. Cost: two gets for each
/// keyspace that was made, dropped or cleared since the store was opened, or was there then.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_keyspace(
    snapshot: *const flatkv_snapshot_t,
    name: *const c_char,
    out_snapshot: *mut *mut flatkv_snapshot_t,
) -> flatkv_status_t {
    let out = handle::out(out_snapshot, ptr::null_mut(), "out_snapshot");
    guard::status_of("flatkv_snapshot_keyspace", || {
        let (out, name) = (out?, handle::text(name, "name")?);
        let found = on_snapshot(snapshot, |snapshot| snapshot.keyspace(name))?;
        let presence = Presence::from(found.is_some());
        if let Some(found) = found {
            out.set(handle::new(found)?);
        }
        Ok(presence)
    })
}

/// Gives the names that keyspaces had at the moment of a snapshot, as flatkv_keyspace_list gives those of now.
///
/// `snapshot` and `out_names` must not be NULL. Everything else as flatkv_keyspace_list. Cost: as
/// flatkv_snapshot_keyspace.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_keyspace_list(
    snapshot: *const flatkv_snapshot_t,
    out_names: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    let out = handle::out(out_names, NO_BUFFER, "out_names");
    guard::status_of("flatkv_snapshot_keyspace_list", || {
        let out = out?;
        let names = on_snapshot(snapshot, |snapshot| snapshot.keyspace_names())?;
        out.set(names_buffer(names));
        Ok(())
    })
}

/// Runs a call on a snapshot. A panic in it poisons the store.
pub(super) fn on_snapshot<T>(
    snapshot: *const flatkv_snapshot_t,
    call: impl FnOnce(&Snapshot) -> Result<T>,
) -> Result<T> {
    let mut snapshot = handle::shared::<Snapshot>(snapshot)?;
    guard::on_part_of_store(
        &mut snapshot,
        |snapshot| call(snapshot),
        |snapshot, why| snapshot.poison_store(why),
    )
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
