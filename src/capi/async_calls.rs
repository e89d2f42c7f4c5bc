//! Writes that return before they are durable, and the tickets that tell when they are.

use super::guard;
use super::handle;
use super::types::{flatkv_batch_t, flatkv_status_t, flatkv_t};
use crate::store::Ticket;
use crate::write_batch::WriteBatch;
use std::ffi::c_void;

/// Starts to store `value` under `key` and returns at once, with a ticket for flatkv_wait. It is visible and durable
/// when that returns, and within "commit_wait_us_max" without it. Tickets of one store complete in their order.
///
/// `store`, `key` and `out_ticket` must not be NULL; `value` may be if `value_len` is 0. Both are copied before this
/// returns. On any other code than FLATKV_OK *out_ticket is 0 and nothing will be written. Returns the codes of
/// flatkv_put. Waits while "async_bytes_max" bytes are in flight. Safe from any thread. Cost: a copy; the drain is
/// shared with all writes that are in flight.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_put_async(
    store: *mut flatkv_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    out_ticket: *mut u64,
) -> flatkv_status_t {
    handle::empty(out_ticket, 0);
    guard::with_store("flatkv_put_async", store, |store| {
        let out = handle::out(out_ticket, 0, "out_ticket")?;
        let (key, value) = (handle::key(key, key_len)?, handle::value(value, value_len)?);
        out.set(store.put_async(key, value)?.0);
        Ok(())
    })
}

/// Starts to apply all operations of a batch, or none, and returns at once with a ticket for flatkv_wait.
///
/// `store`, `batch` and `out_ticket` must not be NULL. The batch is copied: it may be changed or freed as soon as
/// this returns. On any other code than FLATKV_OK *out_ticket is 0 and nothing will be written. Returns the codes of
/// flatkv_write. Visibility, order, waiting, threads and cost as flatkv_put_async.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write_async(
    store: *mut flatkv_t,
    batch: *const flatkv_batch_t,
    out_ticket: *mut u64,
) -> flatkv_status_t {
    let out = handle::out(out_ticket, 0, "out_ticket");
    guard::with_store("flatkv_write_async", store, |store| {
        let (out, batch) = (out?, handle::shared::<WriteBatch>(batch)?);
        out.set(store.write_async(&batch)?.0);
        Ok(())
    })
}

/// Waits until the write of `ticket`, and with it every earlier asynchronous write, is durable or has failed.
///
/// `store` must not be NULL. Returns FLATKV_OK when all of them are durable and visible, or the code that the first of
/// them failed with, which later writes then report, too, and the store is poisoned; FLATKV_E_INVALID_ARGUMENT for a ticket that the store did not give out, or a bad handle; FLATKV_E_CLOSED,
/// FLATKV_E_FORKED. May be called several times for one ticket, from any thread. Cost: a load if it is done, else the
/// rest of a drain.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_wait(store: *mut flatkv_t, ticket: u64) -> flatkv_status_t {
    guard::with_store("flatkv_wait", store, |store| store.wait(Ticket(ticket)))
}

/// Gives the newest ticket whose write, with all earlier ones, has completed; 0 if there is none yet.
///
/// Grows only. 0 also (and an error is recorded) if `store` is NULL or closed. Safe from any thread. Cost: a few
/// loads.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_durable_ticket(store: *const flatkv_t) -> u64 {
    guard::value_of_store("flatkv_durable_ticket", store, 0, |store| Ok(store.durable_ticket().0))
}
