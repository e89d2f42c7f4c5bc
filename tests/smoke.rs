//! One pass through everything a store does, on both kinds of medium.

use flatkv::{IndexKind, MediaChoice, Options, Store, WriteBatch};
use std::path::Path;

fn check(store: &Store, big: &[u8]) {
    assert_eq!(store.get(&2u32.to_le_bytes()).unwrap().unwrap(), b"value 2");
    assert_eq!(store.get(&1u32.to_le_bytes()).unwrap(), None);
    assert_eq!(store.get(b"big").unwrap().unwrap(), big);
    assert_eq!(&*store.get_pinned(b"big").unwrap().unwrap(), big);
    assert_eq!(&*store.get_pinned(b"b17").unwrap().unwrap(), &[1u8; 100]);
    assert_eq!(store.get(b"b4999").unwrap().unwrap(), vec![1; 100]);
    assert_eq!(store.get(b"async").unwrap().unwrap(), b"later");
}

/// The pool is opened with each index in turn.
fn exercise(media: MediaChoice, puts: u32, dir: &Path, first: IndexKind, second: IndexKind) {
    let path = dir.join("pool.fkv");
    let open =
        |index| Options::new().media(media).segment_size_bytes(64 << 10).index(index).open(&path).unwrap();
    let store = open(first);
    for i in 0..puts {
        store.put(&i.to_le_bytes(), format!("value {i}").as_bytes()).unwrap();
    }
    let big = vec![7u8; 300_000];
    store.put(b"big", &big).unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..5000u32 {
        batch.put(format!("b{i}").as_bytes(), &[1; 100]).unwrap();
    }
    store.write(&batch).unwrap();
    assert!(store.delete(&1u32.to_le_bytes()).unwrap());
    assert!(!store.delete(&1u32.to_le_bytes()).unwrap());
    let ticket = store.put_async(b"async", b"later").unwrap();
    store.wait(ticket).unwrap();
    check(&store, &big);
    assert!(matches!(Options::new().open(&path), Err(flatkv::Error::Locked(_))));
    store.close().unwrap();
    drop(store);

    let store = open(second);
    check(&store, &big);
    drop(store);

    let store = open(first);
    check(&store, &big);
    store.put(b"after", b"no close").unwrap();
}

const ORDERS: [(IndexKind, IndexKind); 2] =
    [(IndexKind::Hash, IndexKind::Ordered), (IndexKind::Ordered, IndexKind::Hash)];

#[test]
fn a_store_on_a_file_keeps_what_it_was_given() {
    for (first, second) in ORDERS {
        let dir = tempfile::tempdir().unwrap();
        exercise(MediaChoice::File, 300, dir.path(), first, second);
    }
}

#[test]
fn a_store_on_emulated_pm_keeps_what_it_was_given() {
    for (first, second) in ORDERS {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        exercise(MediaChoice::EmulatedPm, 20_000, dir.path(), first, second);
    }
}
