//! Reads of many keys at once.

use super::guard;
use super::handle::{self, Keys, NO_BUFFER, NO_SLICE, Out, OutArray};
use super::last_error;
use super::snapshot::on_snapshot;
use super::types::{flatkv_buffer_t, flatkv_slice_t, flatkv_snapshot_t, flatkv_status_t, flatkv_t};
use crate::error::{Error, Result, status};
use crate::store::{FETCH_GROUP, NoValue, Snapshot, Store, copy_value};
use std::ffi::c_void;

/// Reads `n` keys, each value into a buffer of its own.
///
/// `store` must not be NULL; `keys`, `out_values` and `out_statuses` have `n` elements each, do not overlap, and may
/// be NULL only if `n` is 0. Element i of the outputs is about key i: FLATKV_OK and a buffer that the caller frees
/// with flatkv_buffer_free; or FLATKV_NOT_FOUND, or an error code of flatkv_get, and {NULL, 0}.
/// Returns FLATKV_OK whatever the single keys got, and flatkv_last_error is about the last key with an error; else
/// FLATKV_E_INVALID_ARGUMENT (NULL, n that no array can have, bad handle), FLATKV_E_CLOSED or FLATKV_E_PANIC: every
/// element is then {NULL, 0} and that code. Safe from any thread. The values are not a snapshot: writes may come
/// between two of them. Cost: less than n calls of flatkv_get, because memory is fetched ahead; an allocation and a
/// copy each.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_multi_get(
    store: *mut flatkv_t,
    n: usize,
    keys: *const flatkv_slice_t,
    out_values: *mut flatkv_buffer_t,
    out_statuses: *mut flatkv_status_t,
) -> flatkv_status_t {
    let values = handle::out_array(out_values, n, NO_BUFFER, "out_values");
    let statuses = handle::out_array(out_statuses, n, status::OK, "out_statuses");
    let status = guard::with_store(EACH, store, |store| {
        let outputs = Each { function: EACH, values: values.clone()?, statuses: statuses.clone()? };
        read_each(handle::keys(keys, n)?, n, outputs, |keys| store.multi_get(keys))
    });
    refuse_all(status, values, NO_BUFFER, statuses)
}

/// Reads `n` keys in a snapshot, each value into a buffer of its own.
///
/// As flatkv_multi_get, but the values are those of one moment; the keys are those of the keyspace that the snapshot was made
/// with. `snapshot` must not be NULL; FLATKV_E_INVALID_ARGUMENT may be about it, FLATKV_E_CLOSED too, as the status of each
/// key if it is the store that was closed. Safe from any thread, from several at once. Cost: less than n calls of
/// flatkv_snapshot_get, because memory is fetched ahead; an allocation and a copy each.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_multi_get(
    snapshot: *const flatkv_snapshot_t,
    n: usize,
    keys: *const flatkv_slice_t,
    out_values: *mut flatkv_buffer_t,
    out_statuses: *mut flatkv_status_t,
) -> flatkv_status_t {
    let values = handle::out_array(out_values, n, NO_BUFFER, "out_values");
    let statuses = handle::out_array(out_statuses, n, status::OK, "out_statuses");
    let status = guard::status_of(AT_SNAPSHOT, || {
        let outputs = Each { function: AT_SNAPSHOT, values: values.clone()?, statuses: statuses.clone()? };
        let keys = handle::keys(keys, n)?;
        on_snapshot(snapshot, |snapshot| read_each(keys, n, outputs, |keys| snapshot.multi_get(keys)))
    });
    refuse_all(status, values, NO_BUFFER, statuses)
}

/// Reads `n` keys of `keyspace` as they were at the moment of a snapshot, whichever handle of the store that was made with.
///
/// As flatkv_snapshot_multi_get; what flatkv_snapshot_get_in says of `keyspace` is true here, too.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_snapshot_multi_get_in(
    snapshot: *const flatkv_snapshot_t,
    keyspace: *mut flatkv_t,
    n: usize,
    keys: *const flatkv_slice_t,
    out_values: *mut flatkv_buffer_t,
    out_statuses: *mut flatkv_status_t,
) -> flatkv_status_t {
    let values = handle::out_array(out_values, n, NO_BUFFER, "out_values");
    let statuses = handle::out_array(out_statuses, n, status::OK, "out_statuses");
    let status = guard::with_store(AT_SNAPSHOT_IN, keyspace, |keyspace| {
        let snapshot = handle::shared::<Snapshot>(snapshot)?;
        let outputs = Each { function: AT_SNAPSHOT_IN, values: values.clone()?, statuses: statuses.clone()? };
        let keys = handle::keys(keys, n)?;
        let then = keyspace.snapshot_at(&snapshot)?;
        read_each(keys, n, outputs, |keys| then.multi_get(keys))
    });
    refuse_all(status, values, NO_BUFFER, statuses)
}

/// Reads `n` keys into one buffer of the caller: the fast form.
///
/// As flatkv_multi_get, but values are packed into `buf` (which may be NULL if `cap` is 0) in the order of their
/// keys, and out_values[i] points into it. *out_needed is the sum of the lengths of all values that were found;
/// `out_needed` must not be NULL, and neither the arrays nor the keys may lie inside `buf`.
/// Returns FLATKV_E_BUFFER_TOO_SMALL if `cap` is less than *out_needed. Every value that still fitted when its turn
/// came is there with FLATKV_OK; the others have the status FLATKV_E_BUFFER_TOO_SMALL and {NULL, their length}, so
/// they can be read again with a larger buffer. The `data` of an empty value is not NULL. Other codes, threads and
/// consistency as flatkv_multi_get. Cost: a lookup and a copy per key, less than n calls of
/// flatkv_get_into because memory is fetched ahead; no allocation.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_multi_get_into(
    store: *mut flatkv_t,
    n: usize,
    keys: *const flatkv_slice_t,
    buf: *mut c_void,
    cap: usize,
    out_values: *mut flatkv_slice_t,
    out_statuses: *mut flatkv_status_t,
    out_needed: *mut usize,
) -> flatkv_status_t {
    let values = handle::out_array(out_values, n, NO_SLICE, "out_values");
    let statuses = handle::out_array(out_statuses, n, status::OK, "out_statuses");
    let needed = handle::out(out_needed, 0, "out_needed");
    let status = guard::with_store(INTO, store, |store| {
        let outputs = Packed { values: values.clone()?, statuses: statuses.clone()?, needed: needed? };
        read_packed(store, handle::keys(keys, n)?, n, handle::buffer(buf, cap)?, outputs)
    });
    if status == status::E_BUFFER_TOO_SMALL { status } else { refuse_all(status, values, NO_SLICE, statuses) }
}

const INTO: &str = "flatkv_multi_get_into";
const EACH: &str = "flatkv_multi_get";
const AT_SNAPSHOT: &str = "flatkv_snapshot_multi_get";
const AT_SNAPSHOT_IN: &str = "flatkv_snapshot_multi_get_in";

fn key_of(keys: &Keys, i: usize) -> Result<&[u8]> {
    let key = keys.get(i);
    handle::key(key.data.cast(), key.len)
}

/// The outputs of the form with a buffer for each key.
struct Each {
    function: &'static str,
    values: OutArray<flatkv_buffer_t>,
    statuses: OutArray<flatkv_status_t>,
}

fn read_each(
    keys: Keys,
    n: usize,
    outputs: Each,
    read: impl FnOnce(&[&[u8]]) -> Vec<Result<Option<Vec<u8>>>>,
) -> Result<()> {
    let Each { function, values, statuses } = outputs;
    let mut asked = Vec::with_capacity(n);
    let mut bytes = Vec::with_capacity(n);
    for i in 0..n {
        match key_of(&keys, i) {
            Ok(key) => {
                asked.push(i);
                bytes.push(key);
            }
            Err(error) => statuses.set(i, failed_key(function, i, &error)),
        }
    }
    let results = read(&bytes);
    assert_eq!(results.len(), asked.len(), "one result per key");
    for (i, result) in asked.into_iter().zip(results) {
        let status = match result {
            Ok(Some(value)) => {
                values.set(i, handle::new_buffer(value));
                status::OK
            }
            Ok(None) => status::NOT_FOUND,
            Err(error) => failed_key(function, i, &error),
        };
        statuses.set(i, status);
    }
    Ok(())
}

/// The outputs of the packed form.
struct Packed {
    values: OutArray<flatkv_slice_t>,
    statuses: OutArray<flatkv_status_t>,
    needed: Out<usize>,
}

fn read_packed(store: &Store, keys: Keys, n: usize, buf: &mut [u8], outputs: Packed) -> Result<()> {
    for i in 0..n {
        let key = keys.get(i);
        handle::check_apart(key.data.cast(), key.len, buf.as_ptr().cast(), buf.len())?;
    }
    let (mut used, mut needed) = (0_usize, 0_usize);
    for first in (0..n).step_by(FETCH_GROUP) {
        let mut group: [&[u8]; FETCH_GROUP] = [&[]; FETCH_GROUP];
        let group = &mut group[..FETCH_GROUP.min(n - first)];
        // A key that will be refused stays empty: of that nothing is seen, and a get tells what is wrong.
        (first..).zip(group.iter_mut()).for_each(|(i, key)| *key = key_of(&keys, i).unwrap_or_default());
        store.look_group(group, |at, look| {
            let (i, room) = (first + at, &mut buf[used..]);
            let read = match look {
                Ok(value) => copy_value(value, room).map(Some),
                Err(NoValue::Missing) => Ok(None),
                Err(NoValue::Unknown) => key_of(&keys, i).and_then(|key| store.get_into(key, room)),
            };
            let (status, value, len) = match read {
                Ok(Some(len)) => (status::OK, handle::borrowed(&room[..len]), len),
                Ok(None) => (status::NOT_FOUND, NO_SLICE, 0),
                Err(Error::BufferTooSmall { needed: len, .. }) => {
                    (status::E_BUFFER_TOO_SMALL, flatkv_slice_t { len, ..NO_SLICE }, len)
                }
                Err(error) => (failed_key(INTO, i, &error), NO_SLICE, 0),
            };
            outputs.statuses.set(i, status);
            outputs.values.set(i, value);
            needed = needed.saturating_add(len);
            used += if status == status::OK { len } else { 0 };
        });
    }
    outputs.needed.set(needed);
    if needed > used { Err(Error::BufferTooSmall { needed, capacity: buf.len() }) } else { Ok(()) }
}

/// Records what was wrong with one key, which does not make the call fail.
#[cold]
fn failed_key(function: &'static str, i: usize, error: &Error) -> flatkv_status_t {
    last_error::set(function, &format_args!("key {i}: {error}"));
    error.status()
}

/// Makes every element say what the call says if the call failed, for callers that look at the elements only.
fn refuse_all<T: Copy>(
    status: flatkv_status_t,
    values: Result<OutArray<T>>,
    empty: T,
    statuses: Result<OutArray<flatkv_status_t>>,
) -> flatkv_status_t {
    if status != status::OK {
        let _ = values.map(|values| values.fill(empty));
        let _ = statuses.map(|statuses| statuses.fill(status));
    }
    status
}
