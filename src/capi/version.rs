//! What the library is, for programs that load it at run time.

use std::ffi::{CStr, c_char};

/// Counts up when a compiled program would no longer work with a newer library. Part of the shared library's name.
pub const FLATKV_ABI_VERSION: u32 = 0;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("the package version has no NUL inside"),
};

/// The library's version, e.g. "0.1.0"; compare with FLATKV_VERSION, the header's.
///
/// Never NULL, static, never freed. Safe from any thread, needs no store. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The library's version as a number: major * 1000000 + minor * 1000 + patch; compare with FLATKV_VERSION_NUMBER.
///
/// Safe from any thread, needs no store. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_version_number() -> u32 {
    const {
        number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
            + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
            + number(env!("CARGO_PKG_VERSION_PATCH"))
    }
}

/// The version of the binary interface; compare with FLATKV_ABI_VERSION.
///
/// Safe from any thread, needs no store. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn flatkv_abi_version() -> u32 {
    FLATKV_ABI_VERSION
}

const fn number(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("Cargo gives each part of a version as a decimal number"),
    }
}
