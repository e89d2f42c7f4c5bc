//! FlatKV as a C program uses it: through the functions that its shared library exports.

mod views;

use crate::engine::{Engine, Session};
use crate::keys::Key;
use crate::library::{Library, functions};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

#[repr(C)]
#[derive(Clone, Copy)]
struct Slice {
    data: *const u8,
    len: usize,
}

/// Bytes that the library gave.
#[repr(C)]
struct Buffer {
    data: *mut u8,
    len: usize,
}

const NONE: Slice = Slice { data: ptr::null(), len: 0 };
const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
/// Keys that one multi-get, and entries that one call of an iterator, takes from the harness.
const GROUP: usize = 64;

type Handle = *mut c_void;

functions! {
    /// The part of `flatkv.h` that is measured.
    pub struct Functions {
        flatkv_version: fn() -> *const c_char,
        flatkv_last_error: fn() -> *const c_char,
        flatkv_options_new: fn() -> Handle,
        flatkv_options_set: fn(Handle, *const c_char, *const c_char) -> i32,
        flatkv_options_free: fn(Handle),
        flatkv_open: fn(*const c_char, Handle, *mut Handle) -> i32,
        flatkv_close: fn(Handle) -> i32,
        flatkv_put: fn(Handle, *const u8, usize, *const u8, usize) -> i32,
        flatkv_get_into: fn(Handle, *const u8, usize, *mut u8, usize, *mut usize) -> i32,
        flatkv_multi_get_into: fn(Handle, usize, *const Slice, *mut u8, usize, *mut Slice, *mut i32, *mut usize) -> i32,
        flatkv_batch_new: fn() -> Handle,
        flatkv_batch_put: fn(Handle, *const u8, usize, *const u8, usize) -> i32,
        flatkv_batch_clear: fn(Handle),
        flatkv_batch_free: fn(Handle),
        flatkv_write: fn(Handle, Handle) -> i32,
        flatkv_put_async: fn(Handle, *const u8, usize, *const u8, usize, *mut u64) -> i32,
        flatkv_wait: fn(Handle, u64) -> i32,
        flatkv_stats_json: fn(Handle, *mut Buffer) -> i32,
        flatkv_buffer_free: fn(*mut Buffer),
        flatkv_delete: fn(Handle, *const u8, usize) -> i32,
        flatkv_snapshot_new: fn(Handle, *mut Handle) -> i32,
        flatkv_snapshot_free: fn(Handle),
        flatkv_keyspace_open: fn(Handle, *const c_char, *mut Handle) -> i32,
        flatkv_keyspace_drop: fn(Handle, *const c_char) -> i32,
        flatkv_iter_new: fn(Handle, Handle, *mut Handle) -> i32,
        flatkv_iter_free: fn(Handle),
        flatkv_iter_set_bounds: fn(Handle, *const u8, usize, *const u8, usize) -> i32,
        flatkv_iter_seek_first: fn(Handle),
        flatkv_iter_seek: fn(Handle, *const u8, usize),
        flatkv_iter_next: fn(Handle),
        flatkv_iter_status: fn(Handle) -> i32,
        flatkv_iter_entries: fn(Handle, usize, *mut Slice, *mut Slice) -> usize,
    }
}

/// A build of libflatkv.so. Several can be used in one run: each has its own functions and its own state.
pub struct Flatkv {
    functions: Functions,
    _library: Library,
}

impl Flatkv {
    pub fn load(path: &Path) -> Result<Arc<Flatkv>, String> {
        let name = path.to_str().ok_or("the library's path is not text")?;
        // Opened by its path: two builds with the same soname stay two libraries.
        let library = Library::open(&[name])?;
        Ok(Arc::new(Flatkv { functions: Functions::from(&library, "")?, _library: library }))
    }

    pub fn version(&self) -> String {
        // SAFETY: returns a static text.
        unsafe { CStr::from_ptr((self.functions.flatkv_version)()) }.to_string_lossy().into_owned()
    }

    fn check(&self, call: &str, status: i32) {
        if status != OK {
            // SAFETY: a text of this thread's, valid until its next call.
            let text = unsafe { CStr::from_ptr((self.functions.flatkv_last_error)()) };
            panic!("{call}: status {status}: {}", text.to_string_lossy());
        }
    }

    /// Opens the pool at `path` with options by name.
    pub fn open(self: &Arc<Self>, path: &Path, options: &[(&str, &str)]) -> Store {
        let f = &self.functions;
        let text = |text: &str| CString::new(text).expect("no NUL in a name");
        let path = text(path.to_str().expect("a path that is text"));
        let mut handle = ptr::null_mut();
        // SAFETY: texts end in NUL and live through the calls; the options are freed once.
        unsafe {
            let set = (f.flatkv_options_new)();
            // Rows of speed are measured where the cleaner has nothing to do; a library that does not know the option grows
            // anyway.
            let (name, value) = (text("target_utilization"), text("0.1"));
            let _ = (f.flatkv_options_set)(set, name.as_ptr(), value.as_ptr());
            for (name, value) in options {
                let (name, value) = (text(name), text(value));
                self.check("options_set", (f.flatkv_options_set)(set, name.as_ptr(), value.as_ptr()));
            }
            self.check("open", (f.flatkv_open)(path.as_ptr(), set, &mut handle));
            (f.flatkv_options_free)(set);
        }
        Store { library: self.clone(), handle }
    }
}

/// An open pool; closed when it is dropped.
pub struct Store {
    library: Arc<Flatkv>,
    handle: Handle,
}

// SAFETY: a handle is a number that every thread may use (conventions in flatkv.h).
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle is the store's alone; sessions borrow it and are gone.
        self.library.check("close", unsafe { (self.library.functions.flatkv_close)(self.handle) });
    }
}

impl Engine for Store {
    fn session(&self) -> Box<dyn Session + '_> {
        // SAFETY: no arguments.
        let batch = unsafe { (self.library.functions.flatkv_batch_new)() };
        Box::new(Calls { store: self, batch, ticket: 0 })
    }
}

struct Calls<'a> {
    store: &'a Store,
    batch: Handle,
    ticket: u64,
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        // SAFETY: the batch is this session's and is freed once.
        unsafe { (self.store.library.functions.flatkv_batch_free)(self.batch) };
    }
}

impl Session for Calls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let library = &self.store.library;
        // SAFETY: both slices are readable for their lengths.
        let status = unsafe {
            let put = library.functions.flatkv_put;
            put(self.store.handle, key.as_ptr(), key.len(), value.as_ptr(), value.len())
        };
        if status != OK {
            library.check("put", status);
        }
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let library = &self.store.library;
        let mut len = 0;
        // SAFETY: the key is readable and `into` writable for their lengths, and they are apart.
        let status = unsafe {
            let get_into = library.functions.flatkv_get_into;
            get_into(self.store.handle, key.as_ptr(), key.len(), into.as_mut_ptr(), into.len(), &mut len)
        };
        match status {
            OK => Some(len),
            NOT_FOUND => None,
            _ => {
                library.check("get_into", status);
                None
            }
        }
    }

    fn multi_get(&mut self, keys: &[Key], into: &mut [u8]) {
        let library = &self.store.library;
        let (mut slices, mut values, mut statuses) = ([NONE; GROUP], [NONE; GROUP], [0; GROUP]);
        let mut used = 0;
        for group in keys.chunks(GROUP) {
            for (slice, key) in slices.iter_mut().zip(group) {
                *slice = Slice { data: key.as_ptr(), len: key.len() };
            }
            let room = &mut into[used..];
            let mut needed = 0;
            // SAFETY: the arrays have as many elements as the group has keys, which are readable; `room` is writable.
            let status = unsafe {
                (library.functions.flatkv_multi_get_into)(
                    self.store.handle,
                    group.len(),
                    slices.as_ptr(),
                    room.as_mut_ptr(),
                    room.len(),
                    values.as_mut_ptr(),
                    statuses.as_mut_ptr(),
                    &mut needed,
                )
            };
            library.check("multi_get_into", status);
            assert!(statuses[..group.len()].iter().all(|status| *status == OK), "the keys were loaded");
            used += needed;
        }
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        let library = &self.store.library;
        let f = &library.functions;
        // SAFETY: the batch is this session's, the slices are readable.
        unsafe {
            (f.flatkv_batch_clear)(self.batch);
            for key in keys {
                let status =
                    (f.flatkv_batch_put)(self.batch, key.as_ptr(), key.len(), value.as_ptr(), value.len());
                library.check("batch_put", status);
            }
            library.check("write", (f.flatkv_write)(self.store.handle, self.batch));
        }
    }

    fn put_async(&mut self, key: &[u8], value: &[u8]) {
        let library = &self.store.library;
        // SAFETY: both slices are readable for their lengths.
        let status = unsafe {
            let put_async = library.functions.flatkv_put_async;
            put_async(
                self.store.handle,
                key.as_ptr(),
                key.len(),
                value.as_ptr(),
                value.len(),
                &mut self.ticket,
            )
        };
        if status != OK {
            library.check("put_async", status);
        }
    }

    fn wait(&mut self) {
        if self.ticket != 0 {
            // SAFETY: a ticket of this store.
            let status =
                unsafe { (self.store.library.functions.flatkv_wait)(self.store.handle, self.ticket) };
            self.store.library.check("wait", status);
        }
    }

    /// With an iterator of its own, which sees what was written before.
    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let mut iter = self.store.iter()?;
        iter.seek(from);
        Some(iter.walk(count, true))
    }
}
