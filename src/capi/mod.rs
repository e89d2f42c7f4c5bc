//! The C ABI: `flatkv_*` as `include/flatkv.h` declares them. The header is generated from the doc comments here, so
//! they are written for C programmers; its preamble (in `cbindgen.toml`) holds the conventions that all functions
//! share.
//!
//! Rules of this folder, checked by the tests below:
//!   - An exported function is three lines: handle, guard, call. It never sees a raw pointer's target.
//!   - Pointers from C are dereferenced in `handle.rs` and nowhere else. `table.rs`, `stores.rs` and `objects.rs` are
//!     the other files with `unsafe`: they own the memory behind the handles and know nothing of C.
//!   - Panics are stopped in `guard.rs` and nowhere else.
//!   - Out-parameters are emptied before the handle is looked at, and checked before the store is called, so that a
//!     refused call has no effect.
//!   - Lengths are checked before pointers: a length that no call accepts never makes a slice.
//!
//! Handles are numbers (see `handle.rs`), so nothing that C does with one is undefined behaviour on our side. What C
//! can still do wrong is to pass a pointer to bytes, text or an out-parameter that does not have the extent it
//! claims.
#![allow(
    unsafe_code,
    reason = "the C boundary: exported symbols, pointers from C, and the slots behind the handles"
)]

mod async_calls;
mod batch;
mod guard;
mod handle;
mod iter;
mod keyspace;
mod last_error;
mod multi_get;
mod objects;
mod open_close;
mod options;
mod pin;
mod snapshot;
mod status;
mod store_calls;
mod stores;
mod table;
mod types;
mod version;

#[cfg(test)]
mod rules {
    const UNSAFE_FILES: &[(&str, &str)] = &[
        ("handle.rs", include_str!("handle.rs")),
        ("objects.rs", include_str!("objects.rs")),
        ("stores.rs", include_str!("stores.rs")),
        ("table.rs", include_str!("table.rs")),
    ];
    const SAFE_FILES: &[(&str, &str)] = &[
        ("async_calls.rs", include_str!("async_calls.rs")),
        ("batch.rs", include_str!("batch.rs")),
        ("guard.rs", include_str!("guard.rs")),
        ("iter.rs", include_str!("iter.rs")),
        ("keyspace.rs", include_str!("keyspace.rs")),
        ("last_error.rs", include_str!("last_error.rs")),
        ("multi_get.rs", include_str!("multi_get.rs")),
        ("open_close.rs", include_str!("open_close.rs")),
        ("options.rs", include_str!("options.rs")),
        ("pin.rs", include_str!("pin.rs")),
        ("snapshot.rs", include_str!("snapshot.rs")),
        ("status.rs", include_str!("status.rs")),
        ("store_calls.rs", include_str!("store_calls.rs")),
        ("types.rs", include_str!("types.rs")),
        ("version.rs", include_str!("version.rs")),
    ];

    #[test]
    fn unsafe_blocks_stay_in_the_files_that_may_have_them() {
        for (name, text) in SAFE_FILES {
            assert!(!text.contains("unsafe {"), "{name}: unsafe belongs in handle.rs or below");
        }
    }

    #[test]
    fn panics_are_stopped_in_the_guard_only() {
        for (name, text) in SAFE_FILES.iter().chain(UNSAFE_FILES) {
            assert!(*name == "guard.rs" || !text.contains("catch_unwind"), "{name}: use guard.rs");
        }
    }
}
