//! LMDB.

use crate::engine::{Engine, Session};
use crate::keys::Key;
use crate::library::{Library, functions};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

type Handle = *mut c_void;

#[repr(C)]
struct Val {
    len: usize,
    data: *const u8,
}

impl Val {
    fn of(bytes: &[u8]) -> Val {
        Val { len: bytes.len(), data: bytes.as_ptr() }
    }
}

const NOSUBDIR: c_uint = 0x4000;
const NOSYNC: c_uint = 0x1_0000;
const RDONLY: c_uint = 0x2_0000;
const WRITEMAP: c_uint = 0x8_0000;
const NOTFOUND: c_int = -30798;
const NEXT: c_int = 8;
const SET_RANGE: c_int = 17;
/// The map's size has to be chosen up front; the file is sparse.
const MAP_BYTES: usize = 16 << 30;
const MODE: c_int = 0o600;

functions! {
    struct Functions {
        mdb_strerror: fn(c_int) -> *const c_char,
        mdb_env_create: fn(*mut Handle) -> c_int,
        mdb_env_set_mapsize: fn(Handle, usize) -> c_int,
        mdb_env_open: fn(Handle, *const c_char, c_uint, c_int) -> c_int,
        mdb_env_close: fn(Handle),
        mdb_txn_begin: fn(Handle, Handle, c_uint, *mut Handle) -> c_int,
        mdb_txn_commit: fn(Handle) -> c_int,
        mdb_txn_abort: fn(Handle),
        mdb_txn_reset: fn(Handle),
        mdb_txn_renew: fn(Handle) -> c_int,
        mdb_dbi_open: fn(Handle, *const c_char, c_uint, *mut c_uint) -> c_int,
        mdb_put: fn(Handle, c_uint, *mut Val, *mut Val, c_uint) -> c_int,
        mdb_get: fn(Handle, c_uint, *mut Val, *mut Val) -> c_int,
        mdb_cursor_open: fn(Handle, c_uint, *mut Handle) -> c_int,
        mdb_cursor_get: fn(Handle, *mut Val, *mut Val, c_int) -> c_int,
        mdb_cursor_close: fn(Handle),
    }
}

pub struct Lmdb {
    f: Functions,
    _library: Library,
}

impl Lmdb {
    pub fn load() -> Result<Arc<Lmdb>, String> {
        let library = Library::open(&["liblmdb.so", "liblmdb.so.0"])?;
        Ok(Arc::new(Lmdb { f: Functions::from(&library, "")?, _library: library }))
    }

    fn check(&self, call: &str, code: c_int) {
        if code != 0 {
            // SAFETY: a static text for each code.
            let text = unsafe { CStr::from_ptr((self.f.mdb_strerror)(code)) };
            panic!("{call}: {}", text.to_string_lossy());
        }
    }

    pub fn open(self: &Arc<Self>, path: &Path, sync: bool) -> Result<Store, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        let f = &self.f;
        let flags = NOSUBDIR | if sync { 0 } else { NOSYNC | WRITEMAP };
        let (mut env, mut txn, mut dbi) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: used in the order that lmdb.h asks for.
        unsafe {
            self.check("mdb_env_create", (f.mdb_env_create)(&mut env));
            self.check("mdb_env_set_mapsize", (f.mdb_env_set_mapsize)(env, MAP_BYTES));
            self.check("mdb_env_open", (f.mdb_env_open)(env, name.as_ptr(), flags, MODE));
            self.check("mdb_txn_begin", (f.mdb_txn_begin)(env, ptr::null_mut(), 0, &mut txn));
            self.check("mdb_dbi_open", (f.mdb_dbi_open)(txn, ptr::null(), 0, &mut dbi));
            self.check("mdb_txn_commit", (f.mdb_txn_commit)(txn));
        }
        Ok(Store { lmdb: self.clone(), env, dbi })
    }
}

pub struct Store {
    lmdb: Arc<Lmdb>,
    env: Handle,
    dbi: c_uint,
}

// SAFETY: an environment may be used by all threads; transactions are a session's own.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: sessions, with their transactions, borrow the store and are gone.
        unsafe { (self.lmdb.f.mdb_env_close)(self.env) };
    }
}

impl Engine for Store {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Calls { store: self, reader: ptr::null_mut() })
    }
}

struct Calls<'a> {
    store: &'a Store,
    /// A transaction for reads that is made once and renewed for each.
    reader: Handle,
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        if !self.reader.is_null() {
            // SAFETY: this session's, ended once.
            unsafe { (self.store.lmdb.f.mdb_txn_abort)(self.reader) };
        }
    }
}

impl Calls<'_> {
    fn write(&mut self, keys: &[&[u8]], value: &[u8]) {
        let Store { lmdb, env, dbi } = self.store;
        let mut txn = ptr::null_mut();
        // SAFETY: a transaction of this thread's, committed before it returns; keys and value are readable.
        unsafe {
            lmdb.check("mdb_txn_begin", (lmdb.f.mdb_txn_begin)(*env, ptr::null_mut(), 0, &mut txn));
            for key in keys {
                let (mut key, mut value) = (Val::of(key), Val::of(value));
                lmdb.check("mdb_put", (lmdb.f.mdb_put)(txn, *dbi, &mut key, &mut value, 0));
            }
            lmdb.check("mdb_txn_commit", (lmdb.f.mdb_txn_commit)(txn));
        }
    }

    fn read<T>(&mut self, body: impl FnOnce(&Functions, Handle, c_uint) -> T) -> T {
        let Store { lmdb, env, dbi } = self.store;
        // SAFETY: a reader of this session's, renewed before and reset after each use.
        unsafe {
            if self.reader.is_null() {
                let begin = lmdb.f.mdb_txn_begin;
                lmdb.check("mdb_txn_begin", begin(*env, ptr::null_mut(), RDONLY, &mut self.reader));
            } else {
                lmdb.check("mdb_txn_renew", (lmdb.f.mdb_txn_renew)(self.reader));
            }
            let answer = body(&lmdb.f, self.reader, *dbi);
            (lmdb.f.mdb_txn_reset)(self.reader);
            answer
        }
    }
}

impl Session for Calls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.write(&[key], value);
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        self.write(&keys, value);
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        self.read(|f, txn, dbi| {
            let (mut key, mut value) = (Val::of(key), Val { len: 0, data: ptr::null() });
            // SAFETY: an open transaction; what it found is readable until it is reset.
            unsafe {
                match (f.mdb_get)(txn, dbi, &mut key, &mut value) {
                    0 => {
                        let found = std::slice::from_raw_parts(value.data, value.len);
                        into[..value.len].copy_from_slice(found);
                        Some(value.len)
                    }
                    NOTFOUND => None,
                    code => panic!("mdb_get: {code}"),
                }
            }
        })
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        Some(self.read(|f, txn, dbi| {
            let (mut cursor, mut found) = (ptr::null_mut(), 0);
            let (mut key, mut value) = (Val::of(from), Val { len: 0, data: ptr::null() });
            // SAFETY: a cursor of an open transaction, closed before that is reset.
            unsafe {
                assert_eq!((f.mdb_cursor_open)(txn, dbi, &mut cursor), 0, "mdb_cursor_open");
                let mut code = (f.mdb_cursor_get)(cursor, &mut key, &mut value, SET_RANGE);
                while code == 0 && found < count {
                    std::hint::black_box(value.data.read());
                    found += 1;
                    code = (f.mdb_cursor_get)(cursor, &mut key, &mut value, NEXT);
                }
                (f.mdb_cursor_close)(cursor);
            }
            found
        }))
    }
}
