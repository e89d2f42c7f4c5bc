//! The status codes as C sees them, and their texts. The numbers are those of [`crate::error::status`]; an assertion
//! per code keeps the two lists equal.
#![allow(non_camel_case_types, reason = "C names")]

use super::last_error;
use super::types::flatkv_status_t;
use crate::error::status;
use std::ffi::{CStr, c_char};

/// What a call answers. The numbers never change and are never reused.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum flatkv_status {
    /// Done.
    FLATKV_OK = 0,
    /// There is no such key. An answer, not an error.
    FLATKV_NOT_FOUND = 1,
    /// An argument is outside what the call accepts; nothing was changed.
    FLATKV_E_INVALID_ARGUMENT = 2,
    /// The operating system refused an operation; flatkv_last_error names it and its errno. If it was a persist the
    /// store is poisoned, which flatkv_health tells; else (opening, growing, memory, reading) nothing was changed.
    FLATKV_E_IO = 3,
    /// The data does not fit into the quota or onto the device; nothing was changed.
    FLATKV_E_NO_SPACE = 4,
    /// Stored bytes failed a check; they are never served.
    FLATKV_E_CORRUPTED = 5,
    /// Parts of the pool that must be there are missing; no data was changed.
    FLATKV_E_INCOMPLETE = 6,
    /// Another process, or another handle of this one, holds the pool.
    FLATKV_E_LOCKED = 7,
    /// The store was opened for reading only.
    FLATKV_E_READ_ONLY = 8,
    /// The condition of a conditional write does not hold.
    FLATKV_E_CONFLICT = 9,
    /// The pool or the call needs something that this version or medium does not have.
    FLATKV_E_UNSUPPORTED = 10,
    /// A persist failed earlier, so writes are refused. Reads go on; close and reopen to recover.
    FLATKV_E_POISONED = 11,
    /// The handle was valid once and is closed or freed.
    FLATKV_E_CLOSED = 12,
    /// The handle belongs to the parent of this forked process.
    FLATKV_E_FORKED = 13,
    /// A key, value or batch exceeds its limit; nothing was written.
    FLATKV_E_TOO_LARGE = 14,
    /// The object is in use: values are pinned, or another call changes it at this moment. Nothing was changed.
    FLATKV_E_BUSY = 15,
    /// The caller's buffer cannot hold the value; the length it needs was set.
    FLATKV_E_BUFFER_TOO_SMALL = 16,
    /// A wait for space or for a lock ended without it.
    FLATKV_E_TIMED_OUT = 17,
    /// A bug in the library was stopped before it could unwind into the caller. The store in use refuses writes.
    FLATKV_E_PANIC = 99,
}

const _: () = {
    use flatkv_status::*;
    let pairs = [
        (FLATKV_OK, status::OK),
        (FLATKV_NOT_FOUND, status::NOT_FOUND),
        (FLATKV_E_INVALID_ARGUMENT, status::E_INVALID_ARGUMENT),
        (FLATKV_E_IO, status::E_IO),
        (FLATKV_E_NO_SPACE, status::E_NO_SPACE),
        (FLATKV_E_CORRUPTED, status::E_CORRUPTED),
        (FLATKV_E_INCOMPLETE, status::E_INCOMPLETE),
        (FLATKV_E_LOCKED, status::E_LOCKED),
        (FLATKV_E_READ_ONLY, status::E_READ_ONLY),
        (FLATKV_E_CONFLICT, status::E_CONFLICT),
        (FLATKV_E_UNSUPPORTED, status::E_UNSUPPORTED),
        (FLATKV_E_POISONED, status::E_POISONED),
        (FLATKV_E_CLOSED, status::E_CLOSED),
        (FLATKV_E_FORKED, status::E_FORKED),
        (FLATKV_E_TOO_LARGE, status::E_TOO_LARGE),
        (FLATKV_E_BUSY, status::E_BUSY),
        (FLATKV_E_BUFFER_TOO_SMALL, status::E_BUFFER_TOO_SMALL),
        (FLATKV_E_TIMED_OUT, status::E_TIMED_OUT),
        (FLATKV_E_PANIC, status::E_PANIC),
    ];
    let mut i = 0;
    while i < pairs.len() {
        assert!(pairs[i].0 as i32 == pairs[i].1, "the header and the crate disagree about a status");
        i += 1;
    }
};

/// Says what a status means, as a short lower-case fact in English, e.g. "not found".
///
/// Accepts any number; one that is no status gives "unknown status". The text is never NULL, static and never freed.
/// Safe from any thread, needs no store. Cost: a lookup.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_status_str(status: flatkv_status_t) -> *const c_char {
    text(status).as_ptr()
}

/// Describes this thread's last failed call: which function, what failed, where, what was expected and what was
/// found.
///
/// Never NULL; "" if no call of this thread failed yet. Calls that succeed or answer FLATKV_NOT_FOUND leave it alone.
/// The text belongs to the library and is valid until this thread's next failing call or its end. Of a long text the
/// first 8 KiB are kept. Each thread sees its own failures only. Cost: a lookup.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_last_error() -> *const c_char {
    last_error::as_ptr()
}

fn text(status: flatkv_status_t) -> &'static CStr {
    match status {
        status::OK => c"ok",
        status::NOT_FOUND => c"not found",
        status::E_INVALID_ARGUMENT => c"invalid argument",
        status::E_IO => c"input or output failed",
        status::E_NO_SPACE => c"no space left for the data",
        status::E_CORRUPTED => c"stored bytes are damaged",
        status::E_INCOMPLETE => c"parts of the pool are missing",
        status::E_LOCKED => c"the pool is held by another process or handle",
        status::E_READ_ONLY => c"the store was opened read-only",
        status::E_CONFLICT => c"the condition does not hold",
        status::E_UNSUPPORTED => c"not supported by this version or medium",
        status::E_POISONED => c"writes are refused after a failed persist",
        status::E_CLOSED => c"the handle is closed",
        status::E_FORKED => c"the handle belongs to the parent process",
        status::E_TOO_LARGE => c"a key, value or batch exceeds its limit",
        status::E_BUSY => c"the object is in use",
        status::E_BUFFER_TOO_SMALL => c"the buffer is too small for the value",
        status::E_TIMED_OUT => c"timed out",
        status::E_PANIC => c"a bug in the library was stopped",
        _ => c"unknown status",
    }
}
