//! SQLite: a table of keys and values without a rowid, a connection per session.

use crate::engine::{Engine, Session};
use crate::keys::Key;
use crate::library::{Library, functions};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

type Handle = *mut c_void;

const OK: c_int = 0;
const ROW: c_int = 100;
const DONE: c_int = 101;
/// The bytes stay as they are until the statement is reset.
const STATIC: *mut c_void = ptr::null_mut();
const BUSY_MS: c_int = 60_000;

functions! {
    struct Functions {
        sqlite3_open: fn(*const c_char, *mut Handle) -> c_int,
        sqlite3_close: fn(Handle) -> c_int,
        sqlite3_errmsg: fn(Handle) -> *const c_char,
        sqlite3_exec: fn(Handle, *const c_char, *mut c_void, *mut c_void, *mut *mut c_char) -> c_int,
        sqlite3_busy_timeout: fn(Handle, c_int) -> c_int,
        sqlite3_prepare_v2: fn(Handle, *const c_char, c_int, *mut Handle, *mut *const c_char) -> c_int,
        sqlite3_bind_blob: fn(Handle, c_int, *const u8, c_int, *mut c_void) -> c_int,
        sqlite3_bind_int: fn(Handle, c_int, c_int) -> c_int,
        sqlite3_step: fn(Handle) -> c_int,
        sqlite3_reset: fn(Handle) -> c_int,
        sqlite3_finalize: fn(Handle) -> c_int,
        sqlite3_column_blob: fn(Handle, c_int) -> *const u8,
        sqlite3_column_bytes: fn(Handle, c_int) -> c_int,
    }
}

pub struct Sqlite {
    f: Functions,
    _library: Library,
}

impl Sqlite {
    pub fn load() -> Result<Arc<Sqlite>, String> {
        let library = Library::open(&["libsqlite3.so", "libsqlite3.so.0"])?;
        Ok(Arc::new(Sqlite { f: Functions::from(&library, "")?, _library: library }))
    }

    pub fn open(self: &Arc<Self>, path: &Path, sync: bool) -> Result<Store, String> {
        let store = Store { sqlite: self.clone(), path: path.into(), sync };
        let connection = store.connect();
        connection.execute("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID");
        drop(connection);
        Ok(store)
    }
}

pub struct Store {
    sqlite: Arc<Sqlite>,
    path: PathBuf,
    sync: bool,
}

impl Store {
    fn connect(&self) -> Connection<'_> {
        let f = &self.sqlite.f;
        let path = CString::new(self.path.as_os_str().as_encoded_bytes()).expect("a path without NUL");
        let mut db = ptr::null_mut();
        // SAFETY: the path ends in NUL.
        let code = unsafe { (f.sqlite3_open)(path.as_ptr(), &mut db) };
        let connection = Connection { f, db };
        connection.check("sqlite3_open", code, OK);
        // SAFETY: an open connection.
        unsafe { (f.sqlite3_busy_timeout)(db, BUSY_MS) };
        connection.execute("PRAGMA journal_mode = WAL");
        connection.execute(if self.sync { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = OFF" });
        connection.execute("PRAGMA cache_size = -262144");
        connection
    }
}

impl Engine for Store {
    fn session(&self) -> Box<dyn Session + '_> {
        let connection = self.connect();
        let put = connection.prepare("INSERT INTO kv VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = ?2");
        let get = connection.prepare("SELECT v FROM kv WHERE k = ?1");
        let scan = connection.prepare("SELECT k, v FROM kv WHERE k >= ?1 ORDER BY k LIMIT ?2");
        Box::new(Calls { connection, put, get, scan })
    }
}

struct Connection<'a> {
    f: &'a Functions,
    db: Handle,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, after its statements were finalized.
        unsafe { (self.f.sqlite3_close)(self.db) };
    }
}

impl Connection<'_> {
    #[track_caller]
    fn check(&self, call: &str, code: c_int, expected: c_int) {
        if code != expected {
            // SAFETY: an open connection's last message.
            let text = unsafe { CStr::from_ptr((self.f.sqlite3_errmsg)(self.db)) };
            panic!("{call}: {code}: {}", text.to_string_lossy());
        }
    }

    fn execute(&self, sql: &str) {
        let text = CString::new(sql).expect("SQL without NUL");
        // SAFETY: an open connection and a text that ends in NUL; no callback.
        let code = unsafe {
            (self.f.sqlite3_exec)(self.db, text.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut())
        };
        self.check(sql, code, OK);
    }

    fn prepare(&self, sql: &str) -> Handle {
        let text = CString::new(sql).expect("SQL without NUL");
        let mut statement = ptr::null_mut();
        // SAFETY: as `execute`.
        let code = unsafe {
            (self.f.sqlite3_prepare_v2)(self.db, text.as_ptr(), -1, &mut statement, ptr::null_mut())
        };
        self.check(sql, code, OK);
        statement
    }
}

struct Calls<'a> {
    connection: Connection<'a>,
    put: Handle,
    get: Handle,
    scan: Handle,
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        for statement in [self.put, self.get, self.scan] {
            // SAFETY: prepared once, finalized once, before the connection is closed.
            unsafe { (self.connection.f.sqlite3_finalize)(statement) };
        }
    }
}

impl Session for Calls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let f = self.connection.f;
        // SAFETY: the blobs live until the reset.
        let code = unsafe {
            (f.sqlite3_bind_blob)(self.put, 1, key.as_ptr(), key.len() as c_int, STATIC);
            (f.sqlite3_bind_blob)(self.put, 2, value.as_ptr(), value.len() as c_int, STATIC);
            let code = (f.sqlite3_step)(self.put);
            (f.sqlite3_reset)(self.put);
            code
        };
        self.connection.check("put", code, DONE);
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        self.connection.execute("BEGIN IMMEDIATE");
        keys.iter().for_each(|key| self.put(key, value));
        self.connection.execute("COMMIT");
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let f = self.connection.f;
        // SAFETY: the key lives until the reset, and so does the row's blob.
        unsafe {
            (f.sqlite3_bind_blob)(self.get, 1, key.as_ptr(), key.len() as c_int, STATIC);
            let code = (f.sqlite3_step)(self.get);
            let len = (code == ROW).then(|| {
                let len = (f.sqlite3_column_bytes)(self.get, 0) as usize;
                let value = (f.sqlite3_column_blob)(self.get, 0);
                into[..len].copy_from_slice(std::slice::from_raw_parts(value, len));
                len
            });
            (f.sqlite3_reset)(self.get);
            if len.is_none() {
                self.connection.check("get", code, DONE);
            }
            len
        }
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let f = self.connection.f;
        let mut found = 0;
        // SAFETY: the key lives until the reset, and each row's blob until the next step.
        unsafe {
            (f.sqlite3_bind_blob)(self.scan, 1, from.as_ptr(), from.len() as c_int, STATIC);
            (f.sqlite3_bind_int)(self.scan, 2, count as c_int);
            while (f.sqlite3_step)(self.scan) == ROW {
                std::hint::black_box((f.sqlite3_column_blob)(self.scan, 1).read());
                found += 1;
            }
            (f.sqlite3_reset)(self.scan);
        }
        Some(found)
    }
}
