//! Batches: puts and deletes that are applied wholly or not at all.

use super::guard;
use super::handle;
use super::types::{flatkv_batch_t, flatkv_status_t, flatkv_t, flatkv_write_options_t};
use crate::options::WriteOptions;
use crate::write_batch::WriteBatch;
use std::ffi::c_void;
use std::ptr;

/// Makes an empty batch.
///
/// The caller frees it with flatkv_batch_free. It belongs to no store, and may be written several times and to
/// several stores. NULL only if 268 million batches exist already. Safe from any thread. Cost: under a microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_new() -> *mut flatkv_batch_t {
    guard::value_of("flatkv_batch_new", ptr::null_mut(), || handle::new(WriteBatch::new()))
}

/// Adds a put to a batch. Of several operations on one key the last counts.
///
/// `batch` and `key` must not be NULL; `value` may be if `value_len` is 0. Both are copied. Limits as flatkv_put. An
/// error changes nothing. Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (empty key, NULL, bad handle);
/// FLATKV_E_TOO_LARGE, found before any byte is read; FLATKV_E_IO with ENOMEM if the batch outgrows memory;
/// FLATKV_E_CLOSED after flatkv_batch_free; FLATKV_E_BUSY while another call uses the batch. Safe from any thread, one at a time. Cost: a copy of key and value.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_put(
    batch: *mut flatkv_batch_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
) -> flatkv_status_t {
    guard::status_of("flatkv_batch_put", || {
        let mut batch = handle::exclusive::<WriteBatch>(batch)?;
        batch.put(handle::key(key, key_len)?, handle::value(value, value_len)?)
    })
}

/// Adds a delete to a batch. A key that has no value when the batch is written is no error.
///
/// `batch` and `key` must not be NULL; the key is copied. An error changes nothing. Return codes and threads as
/// flatkv_batch_put. Cost: a copy of the key.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_delete(
    batch: *mut flatkv_batch_t,
    key: *const c_void,
    key_len: usize,
) -> flatkv_status_t {
    guard::status_of("flatkv_batch_delete", || {
        handle::exclusive::<WriteBatch>(batch)?.delete(handle::key(key, key_len)?)
    })
}

/// Adds a put to `keyspace`, which may also be the handle of a store. What flatkv_batch_put adds goes to the keyspace of the
/// handle that the batch is written with; with this one a batch goes across several, wholly or not at all.
///
/// As flatkv_batch_put; `keyspace` must not be NULL. The batch keeps no store open. It can be written only to the store of all its
/// keyspaces, FLATKV_E_INVALID_ARGUMENT else, and while none of them was dropped, FLATKV_E_CLOSED else.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_put_in(
    batch: *mut flatkv_batch_t,
    keyspace: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
) -> flatkv_status_t {
    guard::with_store("flatkv_batch_put_in", keyspace, |keyspace| {
        let mut batch = handle::exclusive::<WriteBatch>(batch)?;
        batch.put_in(keyspace, handle::key(key, key_len)?, handle::value(value, value_len)?)
    })
}

/// Adds a delete from `keyspace`. As flatkv_batch_delete and flatkv_batch_put_in.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_delete_in(
    batch: *mut flatkv_batch_t,
    keyspace: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
) -> flatkv_status_t {
    guard::with_store("flatkv_batch_delete_in", keyspace, |keyspace| {
        handle::exclusive::<WriteBatch>(batch)?.delete_in(keyspace, handle::key(key, key_len)?)
    })
}

/// Takes all operations out of a batch and keeps its memory for the next ones.
///
/// Does nothing (but record an error) if `batch` is NULL, freed, or in use by another call. Safe from any thread, one
/// at a time. Cost: independent of the batch's size.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_clear(batch: *mut flatkv_batch_t) {
    guard::value_of("flatkv_batch_clear", (), || {
        handle::exclusive::<WriteBatch>(batch)?.clear();
        Ok(())
    })
}

/// Frees a batch. Does nothing if it is NULL or freed already.
///
/// Safe from any thread, after the stores that it was written to were closed, and while another call uses the batch:
/// it goes when that returns. Cost: one deallocation.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_free(batch: *mut flatkv_batch_t) {
    guard::value_of("flatkv_batch_free", (), || handle::free::<WriteBatch>(batch))
}

/// Counts the operations that were added to a batch, repeated keys included.
///
/// 0 (and an error is recorded) if `batch` is NULL, freed, or being changed by another call. Safe from any thread.
/// Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_batch_count(batch: *const flatkv_batch_t) -> usize {
    guard::value_of("flatkv_batch_count", 0, || Ok(handle::shared::<WriteBatch>(batch)?.len()))
}

/// Applies all operations of a batch, or none: after any crash all of it is there, or nothing. Durable as a put is. A
/// reader that goes from key to key may see a part of it while it is being applied.
///
/// `store` and `batch` must not be NULL. The batch is unchanged and remains the caller's; an empty one is FLATKV_OK.
/// Returns the codes of flatkv_put, where FLATKV_E_CLOSED and FLATKV_E_INVALID_ARGUMENT may be about either handle,
/// and FLATKV_E_BUSY while another call changes the batch. Safe from any thread. Cost: one drain for the whole batch,
/// shared where writers meet.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write(store: *mut flatkv_t, batch: *const flatkv_batch_t) -> flatkv_status_t {
    guard::with_store("flatkv_write", store, |store| store.write(&*handle::shared::<WriteBatch>(batch)?))
}

/// As flatkv_write, with options for this one write.
///
/// `options` must not be NULL; several calls may use them at once. Null, ownership, codes, threads and cost as
/// flatkv_write, but no drain with durability "os".
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write_with(
    store: *mut flatkv_t,
    options: *const flatkv_write_options_t,
    batch: *const flatkv_batch_t,
) -> flatkv_status_t {
    guard::with_store("flatkv_write_with", store, |store| {
        let options = handle::shared::<WriteOptions>(options)?;
        store.write_with(&options, &*handle::shared::<WriteBatch>(batch)?)
    })
}
