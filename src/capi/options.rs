//! Options and write options: objects that are filled by name.

use super::guard;
use super::handle;
use super::types::{flatkv_options_t, flatkv_status_t, flatkv_write_options_t};
use crate::options::{Options, WriteOptions};
use std::ffi::c_char;
use std::ptr;

/// Makes options for flatkv_open that hold the defaults.
///
/// The caller frees them with flatkv_options_free; they may be used for several stores, and a store does not need
/// them after flatkv_open. NULL only if 268 million options exist already. Safe from any thread. Cost: under a
/// microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_options_new() -> *mut flatkv_options_t {
    guard::value_of("flatkv_options_new", ptr::null_mut(), || handle::new(Options::new()))
}

/// Sets one option. Values are text: sizes take a suffix KiB, MiB, GiB or TiB, switches are "true" or "false".
///
/// | name                   | values (first is the default)                          | what                              |
/// |------------------------|--------------------------------------------------------|-----------------------------------|
/// | media                  | auto, dax, file, emulated-pm                           | what the pool lies on             |
/// | durability             | sync, os                                               | what a write waits for            |
/// | index                  | ordered, hash                                          | how keys are found                |
/// | create                 | true, false                                            | make the pool if there is none    |
/// | read_only              | false, true                                            | share with readers, refuse writes |
/// | max_bytes              | none, or bytes                                         | quota of the pool                 |
/// | target_utilization     | share from 0.1 to 0.95, 0.80                           | above it the pool grows           |
/// | segment_size_bytes     | power of two from 4 KiB to 256 MiB                     | unit of space, at creation        |
/// | head_size_bytes        | multiple of 4 KiB                                      | bytes before it, at creation      |
/// | inline_value_bytes_max | bytes                                                  | longer values leave the log       |
/// | commit                 | auto, lone, grouped                                    | who shares a drain                |
/// | commit_wait_us_max     | microseconds                                           | delay of asynchronous writes      |
/// | async_bytes_max        | bytes                                                  | asynchronous writes in flight     |
/// | write_stall_ms_max     | milliseconds, 1000                                     | wait for room in a full store     |
/// | verify_reads           | true, false                                            | check sums on every read          |
/// | sigbus                 | default, guard                                         | guard: unreadable is FLATKV_E_IO  |
/// | file_mode              | octal, 0600                                            | permissions at creation           |
/// | lock_wait_ms           | milliseconds, 0                                        | wait for another process's lock   |
///
/// With durability "os" and sigbus "default" a pool on an ordinary file of ext4, or one of up to 64 MiB on tmpfs, is mapped for
/// writing, and writes of durability "os" are stored there: a medium that fails under such a store is a SIGBUS, as under a
/// read; a full device is not.
///
/// `options`, `name` and `value` must not be NULL; texts are NUL-terminated UTF-8 and are copied. An error changes
/// nothing.
/// Returns FLATKV_OK; FLATKV_E_INVALID_ARGUMENT for an unknown name or a value that is not accepted
/// (flatkv_last_error lists what is) or a bad handle; FLATKV_E_CLOSED after flatkv_options_free; FLATKV_E_BUSY while
/// another call uses the options. Combinations are checked by flatkv_open. Safe from any thread, one at a time. Cost:
/// under a microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_options_set(
    options: *mut flatkv_options_t,
    name: *const c_char,
    value: *const c_char,
) -> flatkv_status_t {
    guard::status_of("flatkv_options_set", || {
        handle::exclusive::<Options>(options)?.set(handle::text(name, "name")?, handle::text(value, "value")?)
    })
}

/// Frees options. Does nothing if they are NULL or freed already.
///
/// Safe from any thread, also while another call uses the options: they go when it returns. Cost: under a
/// microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_options_free(options: *mut flatkv_options_t) {
    guard::value_of("flatkv_options_free", (), || handle::free::<Options>(options))
}

/// Makes options of a write that change nothing: the store's own settings hold.
///
/// The caller frees them with flatkv_write_options_free; they may be used for any number of writes on any store. NULL
/// only if 268 million exist already. Safe from any thread. Cost: under a microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write_options_new() -> *mut flatkv_write_options_t {
    guard::value_of("flatkv_write_options_new", ptr::null_mut(), || handle::new(WriteOptions::new()))
}

/// Sets one option of a write: "durability" is "sync" (returns when the write survives a power cut) or "os" (returns
/// when it survives a killed process).
///
/// `options`, `name` and `value` must not be NULL; texts are NUL-terminated UTF-8 and are copied. An error changes
/// nothing. Returns FLATKV_OK, FLATKV_E_INVALID_ARGUMENT for an unknown name, a value that is not accepted
/// (flatkv_last_error lists what is) or a bad handle, FLATKV_E_CLOSED after flatkv_write_options_free, FLATKV_E_BUSY
/// while another call uses the options. Safe from any thread, one at a time. Cost: under a microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write_options_set(
    options: *mut flatkv_write_options_t,
    name: *const c_char,
    value: *const c_char,
) -> flatkv_status_t {
    guard::status_of("flatkv_write_options_set", || {
        handle::exclusive::<WriteOptions>(options)?
            .set(handle::text(name, "name")?, handle::text(value, "value")?)
    })
}

/// Frees options of a write. Does nothing if they are NULL or freed already.
///
/// Safe from any thread, also while another call uses the options: they go when it returns. Cost: under a
/// microsecond.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_write_options_free(options: *mut flatkv_write_options_t) {
    guard::value_of("flatkv_write_options_free", (), || handle::free::<WriteOptions>(options))
}
