//! RocksDB and LevelDB: two libraries whose C interfaces have the same shape.

use crate::engine::{Engine, Session};
use crate::keys::Key;
use crate::library::{Library, functions};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

type Handle = *mut c_void;
type Failure = *mut *mut c_char;

/// Memory tables of this size and a block cache of that one, in both.
const WRITE_BUFFER_BYTES: usize = 64 << 20;
const CACHE_BYTES: usize = 256 << 20;
const BLOOM_BITS_PER_KEY: u8 = 10;
/// In both a compression of 0 is none: blocks are as large as what the other engines write.
const NO_COMPRESSION: c_int = 0;

functions! {
    /// What RocksDB's and LevelDB's `c.h` have in common.
    struct Common {
        options_create: fn() -> Handle,
        options_set_create_if_missing: fn(Handle, u8),
        options_set_write_buffer_size: fn(Handle, usize),
        options_set_compression: fn(Handle, c_int),
        open: fn(Handle, *const c_char, Failure) -> Handle,
        close: fn(Handle),
        put: fn(Handle, Handle, *const u8, usize, *const u8, usize, Failure),
        get: fn(Handle, Handle, *const u8, usize, *mut usize, Failure) -> *mut u8,
        free: fn(*mut c_void),
        writeoptions_create: fn() -> Handle,
        writeoptions_set_sync: fn(Handle, u8),
        readoptions_create: fn() -> Handle,
        writebatch_create: fn() -> Handle,
        writebatch_put: fn(Handle, *const u8, usize, *const u8, usize),
        writebatch_clear: fn(Handle),
        writebatch_destroy: fn(Handle),
        write: fn(Handle, Handle, Handle, Failure),
        create_iterator: fn(Handle, Handle) -> Handle,
        iter_seek: fn(Handle, *const u8, usize),
        iter_valid: fn(Handle) -> u8,
        iter_next: fn(Handle),
        iter_value: fn(Handle, *mut usize) -> *const u8,
        iter_destroy: fn(Handle),
        cache_create_lru: fn(usize) -> Handle,
    }
}

functions! {
    struct RocksOnly {
        filterpolicy_create_bloom_full: fn(f64) -> Handle,
        block_based_options_create: fn() -> Handle,
        block_based_options_set_filter_policy: fn(Handle, Handle),
        block_based_options_set_block_cache: fn(Handle, Handle),
        options_set_block_based_table_factory: fn(Handle, Handle),
    }
}

functions! {
    struct LevelOnly {
        filterpolicy_create_bloom: fn(c_int) -> Handle,
        options_set_filter_policy: fn(Handle, Handle),
        options_set_cache: fn(Handle, Handle),
    }
}

/// One of the two libraries.
pub struct Lsm {
    f: Common,
    library: Library,
    prefix: &'static str,
}

impl Lsm {
    pub fn rocksdb() -> Result<Arc<Lsm>, String> {
        Self::load("rocksdb_", &["librocksdb.so", "librocksdb.so.7.8"])
    }

    pub fn leveldb() -> Result<Arc<Lsm>, String> {
        Self::load("leveldb_", &["libleveldb.so", "libleveldb.so.1d"])
    }

    fn load(prefix: &'static str, names: &[&str]) -> Result<Arc<Lsm>, String> {
        let library = Library::open(names)?;
        Ok(Arc::new(Lsm { f: Common::from(&library, prefix)?, library, prefix }))
    }

    /// What is set beside the defaults, in words.
    pub fn options() -> String {
        format!(
            "no compression, bloom filter of {BLOOM_BITS_PER_KEY} bits, cache {} MiB, write buffer {} MiB",
            CACHE_BYTES >> 20,
            WRITE_BUFFER_BYTES >> 20
        )
    }

    pub fn open(self: &Arc<Self>, path: &Path, sync: bool) -> Result<Store, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        let f = &self.f;
        // SAFETY: objects are used as `c.h` says; what is set stays allocated as long as the process, which is short.
        unsafe {
            let options = (f.options_create)();
            (f.options_set_create_if_missing)(options, 1);
            (f.options_set_write_buffer_size)(options, WRITE_BUFFER_BYTES);
            (f.options_set_compression)(options, NO_COMPRESSION);
            let cache = (f.cache_create_lru)(CACHE_BYTES);
            if self.prefix == "rocksdb_" {
                let f = RocksOnly::from(&self.library, self.prefix)?;
                let table = (f.block_based_options_create)();
                let bloom = (f.filterpolicy_create_bloom_full)(f64::from(BLOOM_BITS_PER_KEY));
                (f.block_based_options_set_filter_policy)(table, bloom);
                (f.block_based_options_set_block_cache)(table, cache);
                (f.options_set_block_based_table_factory)(options, table);
            } else {
                let f = LevelOnly::from(&self.library, self.prefix)?;
                (f.options_set_filter_policy)(
                    options,
                    (f.filterpolicy_create_bloom)(BLOOM_BITS_PER_KEY.into()),
                );
                (f.options_set_cache)(options, cache);
            }
            let mut failure = ptr::null_mut();
            let db = (f.open)(options, name.as_ptr(), &mut failure);
            self.check("open", failure)?;
            let write_options = (f.writeoptions_create)();
            (f.writeoptions_set_sync)(write_options, sync.into());
            Ok(Store { lsm: self.clone(), db, write_options, read_options: (f.readoptions_create)() })
        }
    }

    fn check(&self, call: &str, failure: *mut c_char) -> Result<(), String> {
        if failure.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, so a text that ends in NUL.
        let text = unsafe { CStr::from_ptr(failure) };
        Err(format!("{}{call}: {}", self.prefix, text.to_string_lossy()))
    }
}

pub struct Store {
    lsm: Arc<Lsm>,
    db: Handle,
    write_options: Handle,
    read_options: Handle,
}

// SAFETY: both libraries say that a database, and options that nobody changes, may be used by all threads.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: sessions, with their iterators, borrow the store and are gone.
        unsafe { (self.lsm.f.close)(self.db) };
    }
}

impl Engine for Store {
    fn session(&self) -> Box<dyn Session + '_> {
        // SAFETY: no arguments.
        Box::new(Calls { store: self, batch: unsafe { (self.lsm.f.writebatch_create)() } })
    }
}

struct Calls<'a> {
    store: &'a Store,
    batch: Handle,
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        // SAFETY: this session's, freed once.
        unsafe { (self.store.lsm.f.writebatch_destroy)(self.batch) };
    }
}

impl Calls<'_> {
    fn expect(&self, call: &str, failure: *mut c_char) {
        self.store.lsm.check(call, failure).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Session for Calls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let mut failure = ptr::null_mut();
        let Store { lsm, db, write_options, .. } = self.store;
        // SAFETY: key and value are readable for their lengths.
        unsafe {
            let (key, key_len, value, value_len) = (key.as_ptr(), key.len(), value.as_ptr(), value.len());
            (lsm.f.put)(*db, *write_options, key, key_len, value, value_len, &mut failure);
        }
        self.expect("put", failure);
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let (mut failure, mut len) = (ptr::null_mut(), 0);
        let Store { lsm, db, read_options, .. } = self.store;
        // SAFETY: the key is readable; the answer is NULL or `len` bytes that are ours to free.
        let value =
            unsafe { (lsm.f.get)(*db, *read_options, key.as_ptr(), key.len(), &mut len, &mut failure) };
        self.expect("get", failure);
        if value.is_null() {
            return None;
        }
        // SAFETY: as above; `into` is checked by the slice.
        unsafe {
            into[..len].copy_from_slice(std::slice::from_raw_parts(value, len));
            (lsm.f.free)(value.cast());
        }
        Some(len)
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        let mut failure = ptr::null_mut();
        let Store { lsm, db, write_options, .. } = self.store;
        // SAFETY: the batch is this session's, keys and value are readable.
        unsafe {
            (lsm.f.writebatch_clear)(self.batch);
            for key in keys {
                (lsm.f.writebatch_put)(self.batch, key.as_ptr(), key.len(), value.as_ptr(), value.len());
            }
            (lsm.f.write)(*db, *write_options, self.batch, &mut failure);
        }
        self.expect("write", failure);
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let Store { lsm, db, read_options, .. } = self.store;
        let f = &lsm.f;
        let (mut found, mut len) = (0, 0);
        // SAFETY: the iterator is used while it is valid and destroyed once.
        unsafe {
            let iterator = (f.create_iterator)(*db, *read_options);
            (f.iter_seek)(iterator, from.as_ptr(), from.len());
            while found < count && (f.iter_valid)(iterator) != 0 {
                std::hint::black_box((f.iter_value)(iterator, &mut len).read());
                found += 1;
                (f.iter_next)(iterator);
            }
            (f.iter_destroy)(iterator);
        }
        Some(found)
    }
}
