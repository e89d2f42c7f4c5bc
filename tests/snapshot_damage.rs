//! Rot under a snapshot: what it can no longer show is `Corrupted`, never absent and never another value.

#![cfg(feature = "sim")]

mod common;

use common::{memory_dir, small, stat, with_logs};
use flatkv::{Error, IndexKind, MediaChoice, Snapshot, Store};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const INDEXES: [IndexKind; 2] = [IndexKind::Hash, IndexKind::Ordered];

/// An open store, and its pool from outside.
struct Rotting {
    dir: TempDir,
    store: Store,
}

impl Rotting {
    fn new(index: IndexKind) -> Rotting {
        let dir = memory_dir();
        let options = with_logs(small(MediaChoice::EmulatedPm, 64 << 10), 1).index(index);
        let store = options.open(dir.path().join("pool.fkv")).expect("a fresh pool");
        Rotting { dir, store }
    }

    /// Where these bytes lie, which are there once.
    fn find(&self, bytes: &[u8]) -> u64 {
        let pool = fs::read(self.dir.path().join("pool.fkv")).expect("readable");
        let mut found = pool.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        let (at, _) = found.next().expect("it was written");
        assert!(found.next().is_none(), "written once");
        at as u64
    }

    fn change(&self, at: u64, change: impl Fn(&mut [u8; 8])) {
        let pool =
            File::options().read(true).write(true).open(self.dir.path().join("pool.fkv")).expect("a file");
        let mut bytes = [0; 8];
        pool.read_exact_at(&mut bytes, at).expect("inside");
        change(&mut bytes);
        pool.write_all_at(&bytes, at).expect("inside");
    }

    fn put(&self, value: &[u8]) {
        self.store.put(b"a key", value).expect("room");
    }
}

fn assert_corrupted(snapshot: &Snapshot, what: &str) {
    let found = snapshot.get(b"a key");
    assert!(matches!(found, Err(Error::Corrupted { .. })), "{what}: {found:?}");
}

/// The writer that replaced it took it for an entry of another key and kept no version: the key was absent in the snapshot.
#[test]
fn an_entry_whose_key_rotted_before_it_was_replaced_is_corrupted_in_the_snapshot() {
    for index in INDEXES {
        let rotting = Rotting::new(index);
        rotting.put(b"the first value");
        let snapshot = rotting.store.snapshot().expect("it is open");
        rotting.change(rotting.find(b"a keythe first value"), |bytes| bytes[0] ^= 4);
        rotting.put(b"the second value");
        assert_corrupted(&snapshot, &format!("{index:?}"));
        assert_eq!(rotting.store.get(b"a key").expect("sound"), Some(b"the second value".to_vec()));
        let later = rotting.store.snapshot().expect("it is open");
        assert_eq!(later.get(b"a key").expect("sound"), Some(b"the second value".to_vec()));
    }
}

/// A version whose stamp could not be read counted as the oldest of all, and was shown by snapshots made before it was written.
#[test]
fn a_version_whose_stamp_rotted_is_not_shown_by_a_snapshot_that_is_older() {
    for index in INDEXES {
        let rotting = Rotting::new(index);
        rotting.store.put(b"another key", b"value").expect("room");
        let snapshot = rotting.store.snapshot().expect("it is open");
        rotting.put(b"the first value");
        // A put that is alone is one line: the header of its frame, with the stamp, and the entry.
        let frame = rotting.find(b"a keythe first value") & !63;
        rotting.change(frame + 8, |stamp| stamp[0] ^= 4);
        rotting.put(b"the second value");
        assert_corrupted(&snapshot, &format!("{index:?}"));
    }
}

/// Where the pieces of a large value lie was believed before it was verified, and segments of others were pinned for it.
#[test]
fn a_descriptor_that_rotted_before_it_was_replaced_keeps_nothing_but_itself() {
    for index in INDEXES {
        let rotting = Rotting::new(index);
        rotting.put(&[7; 40_000]);
        let snapshot = rotting.store.snapshot().expect("it is open");
        let at = rotting.find(&[&b"a key"[..], &40_000_u64.to_le_bytes(), &[1, 0, 0, 0]].concat()) + 5;
        // The length of the value and that of its one piece, so that they still agree.
        [0, 24].iter().for_each(|field| rotting.change(at + field, |bytes| bytes[0] ^= 1));
        rotting.put(b"short");
        assert_corrupted(&snapshot, &format!("{index:?}"));
        assert!(snapshot.kept_bytes() < 1_000, "{index:?}: {} bytes are kept", snapshot.kept_bytes());
        drop(snapshot);
        assert_eq!(stat(&rotting.store, "snapshots.versions"), 0);
    }
}
