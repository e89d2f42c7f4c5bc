//! Iterators over a snapshot, and estimates of ranges.

use super::guard;
use super::handle::{self, NO_SLICE};
use super::types::{flatkv_iter_t, flatkv_slice_t, flatkv_snapshot_t, flatkv_status_t, flatkv_t};
use crate::error::Result;
use crate::store::{Iter, Snapshot};
use std::ffi::c_void;
use std::ops::Bound;
use std::ptr;

/// An iterator, and what its calls came to.
pub(super) struct Cursor {
    iter: Iter,
    /// Of the last step.
    step: Result<()>,
    /// The first error of a value since the iterator was placed. Steps leave it: who looks at the status once, at the end of
    /// a loop, must not take what could not be read for empty.
    values: Result<()>,
}

impl Cursor {
    fn new(iter: Iter) -> Cursor {
        Cursor { iter, step: Ok(()), values: Ok(()) }
    }

    /// Forgets what came before: the iterator is about to be placed anew.
    fn start_over(&mut self) {
        (self.step, self.values) = (Ok(()), Ok(()));
    }

    /// Goes somewhere and notes what that came to, a panic included, which poisons the store.
    fn go(&mut self, to: impl FnOnce(&mut Iter) -> Result<bool>) -> Result<()> {
        self.step = guard::on_part_of_store(&mut self.iter, to, Iter::poison_store).map(drop);
        self.step.clone()
    }

    /// Shows values, with errors and panics noted as well.
    fn show<T>(&mut self, values: impl FnOnce(&mut Iter) -> Result<T>) -> Result<T> {
        let result = guard::on_part_of_store(&mut self.iter, values, Iter::poison_store);
        if let (Ok(()), Err(error)) = (&self.values, &result) {
            self.values = Err(error.clone());
        }
        result
    }

    fn status(&self) -> Result<()> {
        let is_whole = || self.iter.missing().cloned().map_or(Ok(()), Err);
        self.step.clone().and_then(|()| self.values.clone()).and_then(|()| is_whole())
    }
}

/// Makes an iterator over the entries of a snapshot in the order of their keys, bytes compared as unsigned numbers.
///
/// `store` and `out_iter` must not be NULL; `snapshot_or_null` is a snapshot of that store, or NULL for the store as it
/// is now. On FLATKV_OK the caller frees *out_iter with flatkv_iter_free; on any other code it is NULL. It is on no
/// entry at first: flatkv_iter_next leads to the first one, flatkv_iter_prev to the last. What is said of
/// flatkv_snapshot_new is true of it, too; the snapshot may be freed before.
/// Returns FLATKV_OK; FLATKV_E_UNSUPPORTED if the store was opened with "index" "hash"; FLATKV_E_INVALID_ARGUMENT
/// (NULL, bad handle, snapshot of another store); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any thread; the iterator
/// from any thread, one at a time. Cost: a snapshot and a lookup.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_new(
    store: *mut flatkv_t,
    snapshot_or_null: *const flatkv_snapshot_t,
    out_iter: *mut *mut flatkv_iter_t,
) -> flatkv_status_t {
    let out = handle::out(out_iter, ptr::null_mut(), "out_iter");
    guard::with_store("flatkv_iter_new", store, |store| {
        let out = out?;
        let iter = if snapshot_or_null.is_null() {
            store.iter()?
        } else {
            let snapshot = handle::shared::<Snapshot>(snapshot_or_null)?;
            store.snapshot_at(&snapshot)?.iter()?
        };
        out.set(handle::new(Cursor::new(iter))?);
        Ok(())
    })
}

/// Makes an iterator over the entries that a snapshot shows itself, of the keyspace that it was made with: so over those of a
/// keyspace that is not there any more, by what flatkv_snapshot_keyspace gives.
///
/// `snapshot` and `out_iter` must not be NULL. Everything else as flatkv_iter_new.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_iter_new(
    snapshot: *const flatkv_snapshot_t,
    out_iter: *mut *mut flatkv_iter_t,
) -> flatkv_status_t {
    let out = handle::out(out_iter, ptr::null_mut(), "out_iter");
    guard::status_of("flatkv_snapshot_iter_new", || {
        let out = out?;
        let iter = super::snapshot::on_snapshot(snapshot, Snapshot::iter)?;
        out.set(handle::new(Cursor::new(iter))?);
        Ok(())
    })
}

/// Frees an iterator. Does nothing if it is NULL or freed already.
///
/// Slices that flatkv_iter_key and flatkv_iter_value gave must not be used any more. Safe from any thread, and after the
/// store was closed. Cost: as flatkv_snapshot_free.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_free(iter: *mut flatkv_iter_t) {
    guard::value_of("flatkv_iter_free", (), || handle::free::<Cursor>(iter))
}

/// Shows only keys from `lower` on and below `upper`. The iterator is on no entry then.
///
/// `iter` must not be NULL; a bound is NULL, with length 0, where there is none. One that is not NULL has
/// length 0 if it is the empty key, and as `upper` leaves nothing. Both are copied, and replace earlier bounds and prefixes.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT (bad handle, NULL with a length); FLATKV_E_TOO_LARGE (longer than a key);
/// FLATKV_E_CLOSED after flatkv_iter_free; FLATKV_E_BUSY while another call uses the iterator. An error changes nothing.
/// Safe from any thread, one at a time. Cost: two copies.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_set_bounds(
    iter: *mut flatkv_iter_t,
    lower: *const c_void,
    lower_len: usize,
    upper: *const c_void,
    upper_len: usize,
) -> flatkv_status_t {
    guard::status_of("flatkv_iter_set_bounds", || {
        let mut cursor = handle::exclusive::<Cursor>(iter)?;
        let bounds = (handle::edge("lower", lower, lower_len)?, handle::edge("upper", upper, upper_len)?);
        cursor.iter.set_bounds(bounds.0, bounds.1);
        cursor.start_over();
        Ok(())
    })
}

/// Shows only keys that start with `prefix`, whatever the bounds were, which it replaces. The iterator is on no entry then.
///
/// `iter` must not be NULL; `prefix` may be if `prefix_len` is 0. It is copied. Codes, threads and cost as
/// flatkv_iter_set_bounds.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_set_prefix(
    iter: *mut flatkv_iter_t,
    prefix: *const c_void,
    prefix_len: usize,
) -> flatkv_status_t {
    guard::status_of("flatkv_iter_set_prefix", || {
        let mut cursor = handle::exclusive::<Cursor>(iter)?;
        cursor.iter.set_prefix(handle::edge("prefix", prefix, prefix_len)?.unwrap_or_default());
        cursor.start_over();
        Ok(())
    })
}

/// Goes to the first entry inside the bounds.
///
/// Afterwards flatkv_iter_valid tells whether there is one, and if not, flatkv_iter_status why: FLATKV_OK at the end of
/// what there is, else FLATKV_E_CORRUPTED or FLATKV_E_IO (an entry that cannot be read: the next step goes on behind it),
/// FLATKV_E_CLOSED (store), FLATKV_E_FORKED, FLATKV_E_PANIC (a bug; the store is poisoned).
///
/// If damage may hide entries, no answer is sure, not even which entry is the first: then the iterator is on no entry after a
/// seek, nor after the first step of a new one, flatkv_iter_status is FLATKV_E_CORRUPTED until the next seek, bounds or prefix, and
/// the next step in the same direction leads to the first entry of what is left. Which keys damage hides may be known, but not
/// where they lie: of damage that was found when the pool was opened that is so of every range that is not empty, but of no
/// keyspace that was made or cleared since. An entry that lost its key later is told of in the same way, once, where it is met.
///
/// Does nothing (but record an error) if `iter` is NULL, freed, or in use by another call. Safe from any thread, one at a time. Cost: a lookup, and a copy of some entries and their short values;
/// most steps that follow are free of both.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_seek_first(iter: *mut flatkv_iter_t) {
    seek("flatkv_iter_seek_first", iter, Iter::seek_first)
}

/// Goes to the last entry inside the bounds. As flatkv_iter_seek_first.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_seek_last(iter: *mut flatkv_iter_t) {
    seek("flatkv_iter_seek_last", iter, Iter::seek_last)
}

/// Goes to the first entry whose key is not below `key`. As flatkv_iter_seek_first; `key` may be NULL if `key_len` is 0,
/// and one that is longer than a key can be changes nothing but flatkv_iter_status.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_seek(iter: *mut flatkv_iter_t, key: *const c_void, key_len: usize) {
    seek("flatkv_iter_seek", iter, |iter| iter.seek(handle::edge("key", key, key_len)?.unwrap_or_default()))
}

/// Goes to the last entry whose key is not above `key`. As flatkv_iter_seek.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_seek_for_prev(iter: *mut flatkv_iter_t, key: *const c_void, key_len: usize) {
    seek("flatkv_iter_seek_for_prev", iter, |iter| {
        iter.seek_for_prev(handle::edge("key", key, key_len)?.unwrap_or_default())
    })
}

/// Goes to the next entry; from the last one the iterator comes to its end, and stays there until the next seek. As
/// flatkv_iter_seek_first.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_next(iter: *mut flatkv_iter_t) {
    step("flatkv_iter_next", iter, Iter::move_next)
}

/// Goes to the entry before; from the first one the iterator comes to its end, and stays there until the next seek. As
/// flatkv_iter_seek_first.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_prev(iter: *mut flatkv_iter_t) {
    step("flatkv_iter_prev", iter, Iter::move_prev)
}

fn seek(function: &'static str, iter: *mut flatkv_iter_t, to: impl FnOnce(&mut Iter) -> Result<bool>) {
    guard::value_of(function, (), || {
        let mut cursor = handle::exclusive::<Cursor>(iter)?;
        cursor.start_over();
        cursor.go(to)
    })
}

fn step(function: &'static str, iter: *mut flatkv_iter_t, to: impl FnOnce(&mut Iter) -> Result<bool>) {
    guard::value_of(function, (), || handle::exclusive::<Cursor>(iter)?.go(to))
}

/// Tells whether the iterator is on an entry.
///
/// False (and an error is recorded) if `iter` is NULL, freed, or being moved by another call. Safe from any thread.
/// Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_valid(iter: *const flatkv_iter_t) -> bool {
    guard::value_of("flatkv_iter_valid", false, || Ok(handle::shared::<Cursor>(iter)?.iter.key().is_some()))
}

/// Tells what the last step came to, and every flatkv_iter_value since the iterator was placed.
///
/// FLATKV_OK on an entry, at the end of what there is, and before the first step; else why there is no entry, see
/// flatkv_iter_seek_first, or else the first error of a value, or else that damage may hide entries. An error of a step is
/// forgotten by the next one. One of a value stays through all steps, and so does what damage may hide, so that a loop may look
/// once, behind its end; a seek, bounds or a prefix end it.
/// FLATKV_E_INVALID_ARGUMENT or FLATKV_E_CLOSED if `iter` is NULL, bad or freed, FLATKV_E_BUSY while another call moves it. Safe from any thread. Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_status(iter: *const flatkv_iter_t) -> flatkv_status_t {
    guard::status_of("flatkv_iter_status", || handle::shared::<Cursor>(iter)?.status())
}

/// Gives the key of the entry that the iterator is on. The bytes belong to the iterator and are valid until its next call
/// that moves, bounds or frees it.
///
/// {NULL, 0} if it is on no entry, and (with an error recorded) if `iter` is NULL, freed, or being moved by another call.
/// Safe from any thread. Cost: none to speak of.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_key(iter: *const flatkv_iter_t) -> flatkv_slice_t {
    guard::value_of("flatkv_iter_key", NO_SLICE, || {
        Ok(handle::shared::<Cursor>(iter)?.iter.key().map_or(NO_SLICE, handle::borrowed))
    })
}

/// Gives the value of the entry that the iterator is on. The bytes are valid as long as those of its key; the `data` of an
/// empty value is not NULL.
///
/// {NULL, 0} if it is on no entry, and (with an error recorded, and flatkv_iter_status saying which until the next seek) if
/// the value cannot be read, as flatkv_get; or if `iter` is NULL, freed, or in use by another call. Safe from any thread,
/// one at a time. Cost: none for values up to 1 KiB; longer ones are read when they are asked for.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_value(iter: *mut flatkv_iter_t) -> flatkv_slice_t {
    guard::value_of("flatkv_iter_value", NO_SLICE, || {
        let value = |iter: &mut Iter| Ok(iter.value()?.map_or(NO_SLICE, handle::borrowed));
        handle::exclusive::<Cursor>(iter)?.show(value)
    })
}

/// Gives keys and values of several entries: of the one that the iterator is on and of those with the next larger keys,
/// up to `n`, as many as are at hand; and goes to the last of them. So whoever scans many entries calls it and
/// flatkv_iter_next in turn, until it returns 0: two calls for tens of entries.
///
/// `out_keys` and `out_values` must not be NULL if `n` is not 0; each has `n` elements, and those that are not filled are
/// {NULL, 0}. Returns how many are filled: at least 1 if the iterator is on an entry whose value can be read, else 0, and
/// flatkv_iter_status says why until the next seek. The bytes are valid until the next call that moves, bounds or frees the iterator, this
/// one included. 0 as well (with an error recorded) if `iter` is NULL, freed, or in use by another call, or an
/// array is NULL. Safe from any thread, one at a time. Cost: a fraction of that of single calls.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_entries(
    iter: *mut flatkv_iter_t,
    n: usize,
    out_keys: *mut flatkv_slice_t,
    out_values: *mut flatkv_slice_t,
) -> usize {
    let keys = handle::out_array(out_keys, n, NO_SLICE, "out_keys");
    let values = handle::out_array(out_values, n, NO_SLICE, "out_values");
    guard::value_of("flatkv_iter_entries", 0, || {
        let mut cursor = handle::exclusive::<Cursor>(iter)?;
        let (keys, values) = (keys?, values?);
        cursor.show(|iter| {
            if n == 0 {
                return Ok(0);
            }
            let Some(value) = iter.value()?.map(handle::borrowed) else { return Ok(0) };
            keys.set(0, iter.key().map_or(NO_SLICE, handle::borrowed));
            values.set(0, value);
            let more = iter.move_on_at_hand(n - 1, |at, key, value| {
                keys.set(at + 1, handle::borrowed(key));
                values.set(at + 1, handle::borrowed(value));
            });
            Ok(1 + more)
        })
    })
}

/// As flatkv_snapshot_kept_bytes, of what the iterator shows.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_iter_kept_bytes(iter: *const flatkv_iter_t) -> u64 {
    guard::value_of("flatkv_iter_kept_bytes", 0, || Ok(handle::shared::<Cursor>(iter)?.iter.kept_bytes()))
}

/// Estimates how many keys lie from `from` on and below `to`, and how many bytes their entries and values have if they
/// are as long as all others on average. Deleted keys whose tombstones have to be kept count, too.
///
/// `store`, `out_keys` and `out_bytes` must not be NULL; an end is NULL, with length 0, where there is none (not NULL with
/// length 0 is the empty key).
/// Returns FLATKV_OK; FLATKV_E_UNSUPPORTED if the store was opened with "index" "hash"; FLATKV_E_INVALID_ARGUMENT (NULL,
/// bad handle); FLATKV_E_TOO_LARGE (longer than a key); FLATKV_E_CLOSED; FLATKV_E_FORKED. Safe from any thread. Cost: a
/// few lookups.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_estimate_range(
    store: *mut flatkv_t,
    from: *const c_void,
    from_len: usize,
    to: *const c_void,
    to_len: usize,
    out_keys: *mut u64,
    out_bytes: *mut u64,
) -> flatkv_status_t {
    let keys = handle::out(out_keys, 0, "out_keys");
    let bytes = handle::out(out_bytes, 0, "out_bytes");
    guard::with_store("flatkv_estimate_range", store, |store| {
        let (keys, bytes) = (keys?, bytes?);
        let from = handle::edge("from", from, from_len)?.map_or(Bound::Unbounded, Bound::Included);
        let to = handle::edge("to", to, to_len)?.map_or(Bound::Unbounded, Bound::Excluded);
        let estimate = store.estimate_range(from, to)?;
        keys.set(estimate.keys);
        bytes.set(estimate.bytes);
        Ok(())
    })
}
