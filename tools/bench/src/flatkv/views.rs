//! What a store shows beside single keys: iterators, snapshots and keyspaces.

use super::{Buffer, GROUP, Handle, NONE, NOT_FOUND, OK, Store};
use std::ffi::CString;
use std::ptr;

const UNSUPPORTED: i32 = 10;

fn text(name: &str) -> CString {
    CString::new(name).expect("no NUL in a name")
}

/// A cursor; gone when it is dropped.
pub struct Iter<'a> {
    store: &'a Store,
    handle: Handle,
}

impl Drop for Iter<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `iter` and freed once.
        unsafe { (self.store.library.functions.flatkv_iter_free)(self.handle) };
    }
}

impl Iter<'_> {
    pub fn set_upper(&mut self, upper: &[u8]) {
        let set_bounds = self.store.library.functions.flatkv_iter_set_bounds;
        // SAFETY: the iterator is there; the bound is readable, the other one is none.
        let status = unsafe { set_bounds(self.handle, ptr::null(), 0, upper.as_ptr(), upper.len()) };
        self.store.library.check("iter_set_bounds", status);
    }

    pub fn seek_first(&mut self) {
        // SAFETY: the iterator is there.
        unsafe { (self.store.library.functions.flatkv_iter_seek_first)(self.handle) };
    }

    pub fn seek(&mut self, key: &[u8]) {
        // SAFETY: the iterator is there, the key is readable.
        unsafe { (self.store.library.functions.flatkv_iter_seek)(self.handle, key.as_ptr(), key.len()) };
    }

    /// Goes over up to `count` entries from the one that it is on, and looks at their keys, and at their values if asked to.
    pub fn walk(&mut self, count: usize, has_values: bool) -> usize {
        let f = &self.store.library.functions;
        let (mut keys, mut values) = ([NONE; GROUP], [NONE; GROUP]);
        let mut seen = 0;
        // SAFETY: the iterator is there, the arrays have as many elements; what it shows is readable until it moves.
        unsafe {
            while seen < count {
                let wanted = GROUP.min(count - seen);
                let entries = f.flatkv_iter_entries;
                let given = entries(self.handle, wanted, keys.as_mut_ptr(), values.as_mut_ptr());
                if given == 0 {
                    break;
                }
                for (key, value) in keys[..given].iter().zip(&values) {
                    std::hint::black_box(*key.data);
                    if has_values {
                        std::hint::black_box(*value.data);
                    }
                }
                seen += given;
                (f.flatkv_iter_next)(self.handle);
            }
            self.store.library.check("iter_status", (f.flatkv_iter_status)(self.handle));
        }
        seen
    }
}

/// An open snapshot; gone when it is dropped.
pub struct Snapshot<'a> {
    store: &'a Store,
    handle: Handle,
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `snapshot` and freed once.
        unsafe { (self.store.library.functions.flatkv_snapshot_free)(self.handle) };
    }
}

impl Store {
    /// `None` if the index has no order.
    pub fn iter(&self) -> Option<Iter<'_>> {
        let mut handle = ptr::null_mut();
        let iter_new = self.library.functions.flatkv_iter_new;
        // SAFETY: the store is open, and the target ours.
        match unsafe { iter_new(self.handle, ptr::null_mut(), &mut handle) } {
            UNSUPPORTED => return None,
            status => self.library.check("iter_new", status),
        }
        Some(Iter { store: self, handle })
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        let mut handle = ptr::null_mut();
        // SAFETY: the store is open, and the target ours.
        let status = unsafe { (self.library.functions.flatkv_snapshot_new)(self.handle, &mut handle) };
        self.library.check("snapshot_new", status);
        Snapshot { store: self, handle }
    }

    /// A number among the statistics.
    pub fn stat(&self, name: &str) -> f64 {
        let f = &self.library.functions;
        let mut buffer = Buffer { data: ptr::null_mut(), len: 0 };
        // SAFETY: the store is open; what it filled is readable until it is freed, once.
        let stats: serde_json::Value = unsafe {
            self.library.check("stats_json", (f.flatkv_stats_json)(self.handle, &mut buffer));
            let stats = serde_json::from_slice(std::slice::from_raw_parts(buffer.data, buffer.len));
            (f.flatkv_buffer_free)(&mut buffer);
            stats.expect("statistics are JSON")
        };
        stats[name].as_f64().unwrap_or_else(|| panic!("no number {name} in the statistics"))
    }

    /// False if there was nothing to delete.
    pub fn delete(&self, key: &[u8]) -> bool {
        // SAFETY: the key is readable for its length.
        let status = unsafe { (self.library.functions.flatkv_delete)(self.handle, key.as_ptr(), key.len()) };
        if ![OK, NOT_FOUND].contains(&status) {
            self.library.check("delete", status);
        }
        status == OK
    }

    /// A keyspace, which is used as a store is.
    pub fn keyspace(&self, name: &str) -> Store {
        let (name, mut handle) = (text(name), ptr::null_mut());
        // SAFETY: the name ends in NUL, and the target is ours.
        let status =
            unsafe { (self.library.functions.flatkv_keyspace_open)(self.handle, name.as_ptr(), &mut handle) };
        self.library.check("keyspace_open", status);
        Store { library: self.library.clone(), handle }
    }

    pub fn drop_keyspace(&self, name: &str) {
        let name = text(name);
        // SAFETY: the name ends in NUL.
        let status = unsafe { (self.library.functions.flatkv_keyspace_drop)(self.handle, name.as_ptr()) };
        self.library.check("keyspace_drop", status);
    }
}
