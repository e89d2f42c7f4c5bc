//! Shared libraries that are looked for when the program runs: so it builds without them, and says which it did not find.

use std::ffi::{CStr, CString, c_void};

/// An open shared library. Never closed: its threads may outlive whoever uses it.
pub struct Library {
    handle: *mut c_void,
    name: String,
}

// SAFETY: the loader's handle may be used from every thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

fn loader_error() -> String {
    // SAFETY: the loader's last message, or NULL; it is copied before another call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader does not say why".into();
    }
    // SAFETY: not NULL, so a text that ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Library {
    /// The first of `names` that the loader finds.
    pub fn open(names: &[&str]) -> Result<Library, String> {
        let mut reasons = Vec::new();
        for name in names {
            let text = CString::new(*name).map_err(|error| error.to_string())?;
            // SAFETY: the text ends in NUL. Initialisers of the library run; it was named by the caller.
            let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                return Ok(Library { handle, name: (*name).into() });
            }
            reasons.push(loader_error());
        }
        Err(reasons.join("; "))
    }

    /// The address of a function.
    pub fn symbol(&self, name: &str) -> Result<*mut c_void, String> {
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the handle is open and the text ends in NUL.
        let address = unsafe { libc::dlsym(self.handle, text.as_ptr()) };
        if address.is_null() { Err(format!("{} has no {name}", self.name)) } else { Ok(address) }
    }
}

/// A struct of C functions, each found by its field's name.
macro_rules! functions {
    ($(#[$doc:meta])* $visible:vis struct $name:ident { $($field:ident: fn($($argument:ty),* $(,)?) $(-> $result:ty)?,)* }) => {
        $(#[$doc])*
        $visible struct $name {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $name {
            /// The functions that are called as the fields are, with `prefix` before their names.
            $visible fn from(library: &$crate::library::Library, prefix: &str) -> Result<Self, String> {
                Ok($name {
                    $($field: {
                        let address = library.symbol(&format!("{prefix}{}", stringify!($field)))?;
                        // SAFETY: the library's header declares this function of this name with these types.
                        unsafe {
                            std::mem::transmute::<
                                *mut std::ffi::c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

pub(crate) use functions;
