//! Opening and closing a store.

use super::guard;
use super::handle;
use super::types::{flatkv_options_t, flatkv_status_t, flatkv_t};
use crate::options::Options;
use std::ffi::c_char;
use std::ptr;

/// Opens the pool at `path`, and makes it first if there is none and the option "create" is on.
///
/// `path` (NUL-terminated, any bytes) and `out_store` must not be NULL; `options` may be NULL for the defaults and
/// are not needed afterwards. On FLATKV_OK the caller closes *out_store with flatkv_close; otherwise *out_store is
/// NULL and the data in the pool is unchanged.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT for options that do not go together, or a directory or symbolic link;
/// FLATKV_E_LOCKED if the pool is open elsewhere, with the holder's process number; FLATKV_E_IO with the errno (no
/// such directory, permissions); FLATKV_E_NO_SPACE; FLATKV_E_CORRUPTED for a file that is no pool, or whose damage
/// makes data unreadable; FLATKV_E_INCOMPLETE if parts are missing; FLATKV_E_UNSUPPORTED for a pool of a newer
/// version or a medium that cannot do what "media" asks for. Safe from any thread. Cost: reads the pool's log to
/// rebuild the index, so it grows with the pool.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_open(
    path: *const c_char,
    options: *const flatkv_options_t,
    out_store: *mut *mut flatkv_t,
) -> flatkv_status_t {
    let out = handle::out(out_store, ptr::null_mut(), "out_store");
    let name = || handle::path(path).ok().map(|path| path.display().to_string());
    guard::status_of_path("flatkv_open", name, || {
        let (out, path) = (out?, handle::path(path)?);
        let options =
            if options.is_null() { Options::new() } else { handle::shared::<Options>(options)?.clone() };
        out.set(handle::new_store(options.open(path)?)?);
        Ok(())
    })
}

/// Closes a store: waits for calls in progress, makes everything durable and frees the handle.
///
/// NULL is FLATKV_OK. The handle of a keyspace is freed, and nothing else happens. New calls answer FLATKV_E_CLOSED from the start of this one. Batches, options and buffers are
/// independent of the store and stay valid.
/// Returns FLATKV_OK; FLATKV_E_BUSY with their number while values are pinned: the store is then open as before, so
/// free the pins and call again (until it answers, calls on other threads may have answered FLATKV_E_CLOSED, too, and
/// did nothing: repeat them); FLATKV_E_CLOSED if it is closed already or another thread is closing it;
/// FLATKV_E_INVALID_ARGUMENT if the handle never was a store's; FLATKV_E_FORKED in a child process, where nothing is
/// closed. Any other code (FLATKV_E_IO, FLATKV_E_POISONED) says that not everything is known to be durable; the store
/// is closed nevertheless. Safe from any thread, but never returns if called by a call in progress on the same store.
/// Cost: one drain.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_close(store: *mut flatkv_t) -> flatkv_status_t {
    guard::status_of("flatkv_close", || if store.is_null() { Ok(()) } else { handle::close_store(store) })
}
