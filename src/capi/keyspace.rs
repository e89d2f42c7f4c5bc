//! Keyspaces: sets of keys that know nothing of each other. Their handles are those of stores.

use super::guard::{self, Presence};
use super::handle::{self, NO_BUFFER};
use super::types::{flatkv_buffer_t, flatkv_status_t, flatkv_t};
use std::ffi::c_char;
use std::ptr;

/// Gives a handle for the keyspace called `name`, and makes the keyspace first if there is none. Every function that takes a
/// store takes the handle as well: its keys are then those of the keyspace. What is about the store as a whole, such as
/// flatkv_sync, flatkv_stats_json or this function, is about its store.
///
/// `store` (or the handle of another keyspace of it), `name` and `out_keyspace` must not be NULL. A name is UTF-8 and has 1 to 255
/// bytes. On FLATKV_OK the caller gives the handle back with flatkv_close, which closes nothing else; on any other code it is
/// NULL. Close the handles of keyspaces before their store: otherwise they answer FLATKV_E_CLOSED, and the pool stays locked
/// until the last one is closed.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name);
/// FLATKV_E_CORRUPTED if damage may hide whether there is one; the codes of flatkv_put if it has to be made. Safe from any
/// thread. Cost: a lookup; if it is made, a put.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_keyspace_open(
    store: *mut flatkv_t,
    name: *const c_char,
    out_keyspace: *mut *mut flatkv_t,
) -> flatkv_status_t {
    let out = handle::out(out_keyspace, ptr::null_mut(), "out_keyspace");
    guard::with_store("flatkv_keyspace_open", store, |store| {
        let (out, name) = (out?, handle::text(name, "name")?);
        out.set(handle::new_store(store.keyspace(name)?)?);
        Ok(())
    })
}

/// Gives a handle for the keyspace called `name`, as flatkv_keyspace_open does, but makes none: FLATKV_NOT_FOUND, and NULL, if
/// there is none. It works on a store that refuses writes, too.
///
/// Null, ownership and threads as flatkv_keyspace_open. Returns FLATKV_OK; FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty
/// name, not UTF-8, NULL, bad handle); FLATKV_E_TOO_LARGE (name); FLATKV_E_CORRUPTED if damage may hide whether there is one;
/// FLATKV_E_CLOSED; FLATKV_E_FORKED. Cost: a lookup.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_keyspace_find(
    store: *mut flatkv_t,
    name: *const c_char,
    out_keyspace: *mut *mut flatkv_t,
) -> flatkv_status_t {
    let out = handle::out(out_keyspace, ptr::null_mut(), "out_keyspace");
    guard::with_store("flatkv_keyspace_find", store, |store| {
        let (out, name) = (out?, handle::text(name, "name")?);
        let Some(keyspace) = store.find_keyspace(name)? else { return Ok(Presence::from(false)) };
        out.set(handle::new_store(keyspace)?);
        Ok(Presence::from(true))
    })
}

/// Drops the keyspace called `name` with all that is in it, wholly or, after a crash, not at all. Its space comes back in the
/// background. Snapshots and iterators from before still show it, and keep its space. Its handles answer FLATKV_E_CLOSED from
/// then on, also if another keyspace gets the name; each has to be closed all the same.
///
/// `store` and `name` must not be NULL. Returns FLATKV_OK; FLATKV_NOT_FOUND if there is none; the codes of flatkv_keyspace_open
/// and of flatkv_delete. Possible when the store is full. Safe from any thread. Cost: one drain, and a wait for writes to the
/// keyspace that are under way, however much is in it.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_keyspace_drop(store: *mut flatkv_t, name: *const c_char) -> flatkv_status_t {
    guard::with_store("flatkv_keyspace_drop", store, |store| {
        store.drop_keyspace(handle::text(name, "name")?).map(Presence::from)
    })
}

/// Removes all that is in a keyspace, wholly or, after a crash, not at all. Its handles stay as they are.
///
/// `keyspace` must not be NULL, and not the handle of a store: FLATKV_E_INVALID_ARGUMENT then. Everything else as
/// flatkv_keyspace_drop.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_keyspace_clear(keyspace: *mut flatkv_t) -> flatkv_status_t {
    guard::with_store("flatkv_keyspace_clear", keyspace, |keyspace| keyspace.clear())
}

/// Gives the names of all keyspaces in the order of their bytes, each with a NUL behind it. The one without a name, which every
/// store has, is not among them.
///
/// `store` and `out_names` must not be NULL. On FLATKV_OK the caller frees *out_names with flatkv_buffer_free; its `len` is 0 if
/// there are none. On any other code it is {NULL, 0}. Returns FLATKV_OK; FLATKV_E_CORRUPTED if damage may hide some;
/// FLATKV_E_INVALID_ARGUMENT (NULL, bad handle), FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread. Cost: grows with the
/// number of keyspaces.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_keyspace_list(
    store: *mut flatkv_t,
    out_names: *mut flatkv_buffer_t,
) -> flatkv_status_t {
    let out = handle::out(out_names, NO_BUFFER, "out_names");
    guard::with_store("flatkv_keyspace_list", store, |store| {
        let out = out?;
        out.set(names_buffer(store.keyspace_names()?));
        Ok(())
    })
}

/// Names, each with a NUL behind it.
pub(super) fn names_buffer(names: Vec<String>) -> flatkv_buffer_t {
    let bytes: String = names.into_iter().flat_map(|name| [name, "\0".into()]).collect();
    handle::new_buffer(bytes.into_bytes())
}
