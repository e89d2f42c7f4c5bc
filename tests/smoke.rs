//! One pass through everything a store does, on both kinds of medium.

use flatkv::{MediaChoice, Options, Store, WriteBatch};
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

fn exercise(media: MediaChoice, puts: u32, dir: &Path) {
    let path = dir.join("pool.fkv");
    let open = || Options::new().media(media).segment_size_bytes(64 << 10).open(&path).unwrap();
    let store = open();
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

    let store = open();
    check(&store, &big);
    drop(store);

    let store = open();
    check(&store, &big);
    store.put(b"after", b"no close").unwrap();
}

#[test]
fn a_store_on_a_file_keeps_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    exercise(MediaChoice::File, 300, dir.path());
}

#[test]
fn a_store_on_emulated_pm_keeps_what_it_was_given() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    exercise(MediaChoice::EmulatedPm, 20_000, dir.path());
}
