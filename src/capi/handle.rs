//! Everything that C passes becomes a Rust value here: handles, bytes, text, arrays, out-parameters. The only file
//! that dereferences a pointer from C.
//!
//! A handle is a number in a pointer's clothes and is never dereferenced: generation in bits 32..64, slot in bits
//! 4..32, kind in bits 0..4. Kind 0 and generation 0 do not exist, so NULL is no handle, and neither is a small
//! number.
//!
//! The functions are not marked `unsafe` although they trust C about extents. The module is private to the crate and
//! its callers are exported functions whose pointers come from C, where the header's contract takes the place of
//! `unsafe`. Marking them would put one unsafe block with one and the same sentence into each exported function and
//! hide the blocks that need a proof of their own. The contract is: a pointer that passes the checks here points to
//! as many bytes (elements, or bytes up to a NUL) as the call says, and nobody writes to them, or for out-parameters
//! uses them, until the call returns. Lifetimes that come out of here are the call's: no exported function lets one
//! outlive its body.

use super::iter::Cursor;
use super::objects::{self, Exclusive, Object, ObjectSlot, Shared};
use super::stores::{self, Entered, Visited};
use super::table::{Place, Refusal, SLOT_BITS, Table};
use super::types::{
    flatkv, flatkv_batch, flatkv_buffer_t, flatkv_iter, flatkv_options, flatkv_pin, flatkv_slice_t,
    flatkv_snapshot, flatkv_t, flatkv_write_options,
};
use crate::constants::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::options::{Options, WriteOptions};
use crate::store::{Snapshot, Store, ValueRef};
use crate::write_batch::{WriteBatch, check_key, check_value_len};
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{ptr, slice};

const KIND_BITS: u32 = 4;
const KIND_STORE: u64 = 1;
const KIND_OPTIONS: u64 = 2;
const KIND_WRITE_OPTIONS: u64 = 3;
const KIND_BATCH: u64 = 4;
const KIND_PIN: u64 = 5;
const KIND_SNAPSHOT: u64 = 6;
const KIND_ITER: u64 = 7;
/// What messages call each kind; the first one does not exist.
const KIND_NAMES: [&str; 8] =
    ["", "store", "options", "write options", "batch", "pin", "snapshot", "iterator"];

/// No object, and so no slice of memory, is longer.
const BYTES_MAX: usize = isize::MAX as usize;

const _: () = assert!(usize::BITS == 64, "a handle needs 64 bits");
const _: () = assert!(SLOT_BITS + KIND_BITS == 32, "slot and kind fill the lower half of a handle");

/// A type whose objects C holds as `*mut C`.
pub(super) trait Handled: Object {
    /// The opaque C type.
    type C;
    /// The kind in its handles.
    const KIND: u64;
}

macro_rules! handled {
    ($rust:ty, $c:ty, $kind:expr) => {
        impl Object for $rust {
            fn table() -> &'static Table<ObjectSlot<Self>> {
                static TABLE: Table<ObjectSlot<$rust>> = Table::new();
                &TABLE
            }
        }

        impl Handled for $rust {
            type C = $c;
            const KIND: u64 = $kind;
        }
    };
}

handled!(Options, flatkv_options, KIND_OPTIONS);
handled!(WriteOptions, flatkv_write_options, KIND_WRITE_OPTIONS);
handled!(WriteBatch, flatkv_batch, KIND_BATCH);
handled!(ValueRef, flatkv_pin, KIND_PIN);
handled!(Snapshot, flatkv_snapshot, KIND_SNAPSHOT);
handled!(Cursor, flatkv_iter, KIND_ITER);

// ---- handles

fn to_pointer<C>(kind: u64, place: Place) -> *mut C {
    let number = (u64::from(place.generation) << 32) | (u64::from(place.slot) << KIND_BITS) | kind;
    ptr::without_provenance_mut(number as usize)
}

#[inline]
fn to_place<C>(kind: u64, pointer: *const C) -> Result<Place> {
    let number = pointer.addr() as u64;
    let place = Place { slot: (number as u32) >> KIND_BITS, generation: (number >> 32) as u32 };
    if number & 0xf != kind || place.generation == 0 {
        return Err(not_a_handle(kind, number));
    }
    Ok(place)
}

#[cold]
fn not_a_handle(kind: u64, number: u64) -> Error {
    let expected = KIND_NAMES[kind as usize];
    if number == 0 {
        return Error::InvalidArgument(format!("the {expected} handle is NULL"));
    }
    match KIND_NAMES.get((number & 0xf) as usize) {
        Some(found) if !found.is_empty() && number & 0xf != kind && number >> 32 != 0 => {
            Error::InvalidArgument(format!(
                "expected a {expected} handle, found a {found} handle ({number:#x})"
            ))
        }
        _ => Error::InvalidArgument(format!(
            "expected a {expected} handle, found {number:#x}, which is no handle"
        )),
    }
}

#[cold]
fn refused<C>(kind: u64, pointer: *const C, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Never => not_a_handle(kind, pointer.addr() as u64),
        Refusal::Closed => Error::Closed,
        Refusal::Forked => Error::Forked,
        Refusal::Busy => {
            Error::Busy(format!("another call uses the {} at this moment", KIND_NAMES[kind as usize]))
        }
    }
}

#[cold]
fn no_slots() -> Error {
    Error::TooLarge { what: "number of handles", len: 1 << SLOT_BITS, max: (1 << SLOT_BITS) - 1 }
}

/// The handle of a store that was just opened.
pub(super) fn new_store(store: Store) -> Result<*mut flatkv_t> {
    let place = stores::create(store).ok_or_else(no_slots)?;
    Ok(to_pointer::<flatkv>(KIND_STORE, place))
}

/// The store behind a handle; it stays open while the answer exists.
#[inline(always)]
pub(super) fn store(pointer: *const flatkv_t) -> Result<Entered> {
    let place = to_place(KIND_STORE, pointer)?;
    stores::enter(place).map_err(|refusal| refused(KIND_STORE, pointer, refusal))
}

/// The same for a short way: `None` if it cannot be gone.
#[inline(always)]
pub(super) fn visited_store(pointer: *const flatkv_t) -> Option<Visited> {
    stores::visit(to_place(KIND_STORE, pointer).ok()?)
}

/// Closes the store behind a handle.
pub(super) fn close_store(pointer: *const flatkv_t) -> Result<()> {
    let place = to_place(KIND_STORE, pointer)?;
    stores::close(place).unwrap_or_else(|refusal| Err(refused(KIND_STORE, pointer, refusal)))
}

/// The handle of a new object.
pub(super) fn new<T: Handled>(object: T) -> Result<*mut T::C> {
    let place = objects::create(object).ok_or_else(no_slots)?;
    Ok(to_pointer(T::KIND, place))
}

/// The object behind a handle, to be read.
#[inline]
pub(super) fn shared<T: Handled>(pointer: *const T::C) -> Result<Shared<T>> {
    let place = to_place(T::KIND, pointer)?;
    objects::share(place).map_err(|refusal| refused(T::KIND, pointer, refusal))
}

/// The object behind a handle, to be changed.
#[inline]
pub(super) fn exclusive<T: Handled>(pointer: *mut T::C) -> Result<Exclusive<T>> {
    let place = to_place(T::KIND, pointer)?;
    objects::claim(place).map_err(|refusal| refused(T::KIND, pointer, refusal))
}

/// Frees the object behind a handle. NULL is fine.
pub(super) fn free<T: Handled>(pointer: *mut T::C) -> Result<()> {
    if pointer.is_null() {
        return Ok(());
    }
    let place = to_place(T::KIND, pointer)?;
    objects::free::<T>(place).map_err(|refusal| refused(T::KIND, pointer, refusal))
}

// ---- bytes and text

/// The key that C passes; its length is checked before its pointer.
#[inline]
pub(super) fn key<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    if len == 0 || len > KEY_BYTES_MAX {
        return Err(bad_key_len(len));
    }
    bytes("key", data, len)
}

#[cold]
fn bad_key_len(len: usize) -> Error {
    match check_key(&[]) {
        Err(empty) if len == 0 => empty,
        _ => Error::TooLarge { what: "key", len: len as u64, max: KEY_BYTES_MAX as u64 },
    }
}

/// An end of a range of keys, a prefix, or what is looked for; `None` if it is NULL. Its length is checked before its pointer.
pub(super) fn edge<'a>(what: &'static str, data: *const c_void, len: usize) -> Result<Option<&'a [u8]>> {
    if len > KEY_BYTES_MAX {
        return Err(Error::TooLarge { what, len: len as u64, max: KEY_BYTES_MAX as u64 });
    }
    let bytes = bytes(what, data, len)?;
    Ok((!data.is_null()).then_some(bytes))
}

/// The value that C passes; its length is checked before its pointer.
#[inline]
pub(super) fn value<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    check_value_len(len)?;
    bytes("value", data, len)
}

/// `len` was checked against a limit that is far below `BYTES_MAX`.
#[inline]
fn bytes<'a>(what: &str, data: *const c_void, len: usize) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null_with_len(what, len));
    }
    // SAFETY: not NULL (above), at most 4 GiB (callers), any alignment does for bytes; C promises that `len` bytes
    // are readable and not written to during the call (module comment).
    Ok(unsafe { slice::from_raw_parts(data.cast::<u8>(), len) })
}

#[cold]
fn null_with_len(what: &str, len: usize) -> Error {
    Error::InvalidArgument(format!("{what} is NULL with a length of {len}"))
}

#[cold]
fn null(what: &str) -> Error {
    Error::InvalidArgument(format!("{what} is NULL"))
}

/// The caller's buffer of `capacity` bytes. NULL is fine without capacity.
#[inline]
pub(super) fn buffer<'a>(data: *mut c_void, capacity: usize) -> Result<&'a mut [u8]> {
    if capacity == 0 {
        return Ok(&mut []);
    }
    if capacity > BYTES_MAX {
        return Err(too_long("cap", capacity));
    }
    if data.is_null() {
        return Err(null_with_len("buf", capacity));
    }
    // SAFETY: not NULL, not longer than an object may be (above); C promises that `capacity` bytes are writable and
    // used by nobody else during the call (module comment). Callers see to it that no key lies in them
    // (`check_apart`).
    Ok(unsafe { slice::from_raw_parts_mut(data.cast::<u8>(), capacity) })
}

/// Refuses a key that lies in the buffer that its value is to be written to.
#[inline]
pub(super) fn check_apart(
    key: *const c_void,
    key_len: usize,
    buf: *const c_void,
    capacity: usize,
) -> Result<()> {
    let (key, buf) = (key.addr(), buf.addr());
    let apart = key >= buf.saturating_add(capacity) || buf >= key.saturating_add(key_len);
    if apart || key_len == 0 || capacity == 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument("the key lies inside buf, which the value is written to".into()))
}

#[cold]
fn too_long(what: &str, len: usize) -> Error {
    Error::InvalidArgument(format!("{what} = {len}: no object in memory is larger than {BYTES_MAX} bytes"))
}

/// Text that C passes: NUL-terminated, UTF-8.
pub(super) fn text<'a>(data: *const c_char, what: &str) -> Result<&'a str> {
    let bytes = terminated(data, what)?;
    std::str::from_utf8(bytes).map_err(|error| {
        Error::InvalidArgument(format!("{what} is not UTF-8 from byte {}", error.valid_up_to()))
    })
}

/// A path that C passes: NUL-terminated, any bytes, not empty.
pub(super) fn path<'a>(data: *const c_char) -> Result<&'a Path> {
    let bytes = terminated(data, "path")?;
    if bytes.is_empty() {
        return Err(Error::InvalidArgument("path is empty".into()));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

fn terminated<'a>(data: *const c_char, what: &str) -> Result<&'a [u8]> {
    if data.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL (above); C promises a NUL-terminated text that is not written to during the call (module
    // comment).
    Ok(unsafe { CStr::from_ptr(data) }.to_bytes())
}

// ---- arrays of keys

/// The array of keys that a call on many of them reads. Elements are read one by one, so no alignment is needed.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    first: *const flatkv_slice_t,
    n: usize,
}

/// The `n` keys at `first`. NULL is fine without any.
pub(super) fn keys(first: *const flatkv_slice_t, n: usize) -> Result<Keys> {
    check_array("keys", first, n)?;
    Ok(Keys { first, n })
}

impl Keys {
    /// Key `i` as C describes it: not checked yet.
    pub(super) fn get(&self, i: usize) -> flatkv_slice_t {
        assert!(i < self.n, "key {i} of {}", self.n);
        // SAFETY: inside the array (assert), which is not NULL and not too long (`keys`); C promises that its
        // elements are readable and not written to during the call (module comment).
        unsafe { self.first.add(i).read_unaligned() }
    }
}

fn check_array<T>(what: &str, first: *const T, n: usize) -> Result<()> {
    if n > BYTES_MAX / size_of::<T>() {
        return Err(Error::InvalidArgument(format!("n = {n}: no array in memory has as many {what}")));
    }
    if n != 0 && first.is_null() {
        return Err(null(what));
    }
    Ok(())
}

// ---- out-parameters

/// An out-parameter that was set to empty.
#[derive(Clone, Copy)]
pub(super) struct Out<T>(*mut T);

/// Empties an out-parameter, if there is one, before anything can fail. What calls that have to be quick begin with: an
/// `Out` or an error, which [`out`] gives, would have to be kept until the store is found.
#[inline]
pub(super) fn empty<T: Copy>(pointer: *mut T, empty: T) {
    if !pointer.is_null() {
        Out(pointer).set(empty);
    }
}

/// Empties an out-parameter. An error if there is none: the call must check it before it has any effect.
#[inline]
pub(super) fn out<T: Copy>(pointer: *mut T, empty: T, what: &str) -> Result<Out<T>> {
    if pointer.is_null() {
        return Err(null(what));
    }
    let out = Out(pointer);
    out.set(empty);
    Ok(out)
}

impl<T: Copy> Out<T> {
    /// Tells the caller `value`.
    #[inline]
    pub(super) fn set(&self, value: T) {
        // SAFETY: not NULL (`out`); C promises that a `T` may be written there during the call (module comment). No
        // alignment is asked for.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// An array of out-parameters that were set to empty.
#[derive(Clone, Copy)]
pub(super) struct OutArray<T> {
    first: *mut T,
    n: usize,
}

/// Empties `n` out-parameters. NULL is fine without any.
pub(super) fn out_array<T: Copy>(first: *mut T, n: usize, empty: T, what: &str) -> Result<OutArray<T>> {
    check_array(what, first, n)?;
    let array = OutArray { first, n };
    array.fill(empty);
    Ok(array)
}

impl<T: Copy> OutArray<T> {
    /// Tells the caller `value` as element `i`.
    #[inline(always)]
    pub(super) fn set(&self, i: usize, value: T) {
        assert!(i < self.n, "element {i} of {}", self.n);
        // SAFETY: inside the array (assert), which is not NULL and not too long (`out_array`); C promises that its
        // elements may be written during the call (module comment). No alignment is asked for.
        unsafe { self.first.add(i).write_unaligned(value) }
    }

    /// Tells the caller `value` as every element.
    pub(super) fn fill(&self, value: T) {
        (0..self.n).for_each(|i| self.set(i, value));
    }
}

// ---- buffers that the caller owns

/// What an owned buffer without bytes points to, so that NULL means "no value" and nothing else.
static NO_BYTES: u8 = 0;

/// A buffer that holds no value.
pub(super) const NO_BUFFER: flatkv_buffer_t = flatkv_buffer_t { data: ptr::null_mut(), len: 0 };

/// A slice that shows nothing.
pub(super) const NO_SLICE: flatkv_slice_t = flatkv_slice_t { data: ptr::null(), len: 0 };

/// Gives bytes to the caller until [`free_buffer`].
pub(super) fn new_buffer(bytes: Vec<u8>) -> flatkv_buffer_t {
    if bytes.is_empty() {
        return flatkv_buffer_t { data: (&raw const NO_BYTES).cast_mut(), len: 0 };
    }
    let bytes = Box::leak(bytes.into_boxed_slice());
    flatkv_buffer_t { data: bytes.as_mut_ptr(), len: bytes.len() }
}

/// Tells C where bytes are that it owns.
pub(super) fn borrowed(bytes: &[u8]) -> flatkv_slice_t {
    let data = if bytes.is_empty() { &raw const NO_BYTES } else { bytes.as_ptr() };
    flatkv_slice_t { data, len: bytes.len() }
}

/// Frees what [`new_buffer`] gave and empties the buffer. NULL and an empty buffer are fine.
pub(super) fn free_buffer(buffer: *mut flatkv_buffer_t) {
    if buffer.is_null() {
        return;
    }
    // SAFETY: not NULL (above); C promises that it points to a buffer that this library filled or that is {NULL, 0},
    // and that nobody else uses it during the call (module comment).
    let flatkv_buffer_t { data, len } = unsafe { buffer.read_unaligned() };
    // SAFETY: as above. Emptied first, so that a second call on the same buffer finds nothing to free.
    unsafe { buffer.write_unaligned(NO_BUFFER) };
    if len != 0 && !data.is_null() {
        // SAFETY: with a length, `data` and `len` are what `new_buffer` leaked (the caller changes neither), and
        // freed once: the only place that frees emptied the buffer.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(data, len)) });
    }
}

const _: () = assert!(VALUE_BYTES_MAX <= BYTES_MAX as u64 && KEY_BYTES_MAX <= BYTES_MAX);
