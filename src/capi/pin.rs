//! Pins: values that are read where they lie.

use super::guard::{self, Presence};
use super::handle;
use super::types::{flatkv_pin_t, flatkv_status_t, flatkv_t};
use crate::store::ValueRef;
use std::ffi::c_void;
use std::ptr;

/// Gives access to the value of `key` where it lies, without a copy where it lies in one piece.
///
/// `store`, `key` and `out_pin` must not be NULL. On FLATKV_OK the caller frees *out_pin with flatkv_pin_free; on any
/// other code it is NULL. While it is pinned, the value's bytes stay as they are whatever is written to the store,
/// the space they take is not reused, and flatkv_close answers FLATKV_E_BUSY: so pin shortly.
/// Returns FLATKV_OK or FLATKV_NOT_FOUND; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle),
/// FLATKV_E_TOO_LARGE, FLATKV_E_CORRUPTED, FLATKV_E_IO, FLATKV_E_CLOSED, FLATKV_E_FORKED. Safe from any thread; no
/// call waits for a writer. Cost: a lookup.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_get_pinned(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    out_pin: *mut *mut flatkv_pin_t,
) -> flatkv_status_t {
    let out = handle::out(out_pin, ptr::null_mut(), "out_pin");
    guard::with_store("flatkv_get_pinned", store, |store| {
        let (out, key) = (out?, handle::key(key, key_len)?);
        let pinned = store.get_pinned(key)?.map(handle::new).transpose()?;
        out.set(pinned.unwrap_or(ptr::null_mut()));
        Ok(Presence::from(pinned.is_some()))
    })
}

/// Gives the address of a pinned value's first byte. The bytes must not be written to and are valid until
/// flatkv_pin_free.
///
/// Not NULL for a live pin, even if the value is empty. NULL (and an error is recorded) if `pin` is NULL or freed.
/// Safe from any thread, from several at once. Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_pin_data(pin: *const flatkv_pin_t) -> *const u8 {
    guard::value_of("flatkv_pin_data", ptr::null(), || Ok(handle::shared::<ValueRef>(pin)?.as_ptr()))
}

/// Gives the length of a pinned value in bytes.
///
/// 0 (and an error is recorded) if `pin` is NULL or freed. Safe from any thread, from several at once. Cost: none to
/// speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_pin_len(pin: *const flatkv_pin_t) -> usize {
    guard::value_of("flatkv_pin_len", 0, || Ok(handle::shared::<ValueRef>(pin)?.len()))
}

/// Ends a pin. Does nothing if it is NULL or freed already.
///
/// The pointer that flatkv_pin_data gave must not be used any more. Safe from any thread. Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_pin_free(pin: *mut flatkv_pin_t) {
    guard::value_of("flatkv_pin_free", (), || handle::free::<ValueRef>(pin))
}
