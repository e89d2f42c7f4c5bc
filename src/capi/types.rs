//! The types of the header: opaque handles, borrowed slices, owned buffers. Names are C names, and a tag `flatkv_x`
//! has the typedef `flatkv_x_t`, which carries the comment.
#![allow(non_camel_case_types, reason = "C names")]

pub struct flatkv {
    _opaque: [u8; 0],
}
/// An open store: what flatkv_open gives and flatkv_close takes.
pub type flatkv_t = flatkv;

pub struct flatkv_options {
    _opaque: [u8; 0],
}
/// Options of flatkv_open, see flatkv_options_set.
pub type flatkv_options_t = flatkv_options;

pub struct flatkv_write_options {
    _opaque: [u8; 0],
}
/// Options of one write, see flatkv_write_options_set.
pub type flatkv_write_options_t = flatkv_write_options;

pub struct flatkv_batch {
    _opaque: [u8; 0],
}
/// Puts and deletes that are applied wholly or not at all, see flatkv_write.
pub type flatkv_batch_t = flatkv_batch;

pub struct flatkv_pin {
    _opaque: [u8; 0],
}
/// A value that is kept in place while it is read, see flatkv_get_pinned.
pub type flatkv_pin_t = flatkv_pin;

pub struct flatkv_snapshot {
    _opaque: [u8; 0],
}
/// The store as it was at one moment, see flatkv_snapshot_new.
pub type flatkv_snapshot_t = flatkv_snapshot;

pub struct flatkv_iter {
    _opaque: [u8; 0],
}
/// What goes from entry to entry in the order of keys, see flatkv_iter_new.
pub type flatkv_iter_t = flatkv_iter;

/// Bytes that belong to somebody else. `data` may be NULL if `len` is 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flatkv_slice {
    /// The first byte.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}
/// Bytes that belong to somebody else.
pub type flatkv_slice_t = flatkv_slice;

/// Bytes that belong to the caller until flatkv_buffer_free. `data` is NULL only if there is no value: an empty value
/// has a `data` that is not NULL and a `len` of 0. Leave both fields alone until the buffer is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flatkv_buffer {
    /// The first byte. Not terminated by a NUL.
    pub data: *mut u8,
    /// How many there are.
    pub len: usize,
}
/// Bytes that belong to the caller until flatkv_buffer_free.
pub type flatkv_buffer_t = flatkv_buffer;

/// One of enum flatkv_status.
pub type flatkv_status_t = i32;
