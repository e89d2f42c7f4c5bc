//! Opening and closing over and over, on the same medium and from one to another: nothing is lost, and nothing grows.

mod common;

use flatkv::{Error, MediaChoice, Options, Store};
use std::path::Path;

const SEGMENT_BYTES: u64 = 8192;

fn open(path: &Path, media: MediaChoice) -> Store {
    Options::new().media(media).segment_size_bytes(SEGMENT_BYTES).head_size_bytes(8192).open(path).unwrap()
}

/// The file may grow ahead of need while a store is open for long; what is in use may not.
fn segments_in_use(store: &Store) -> u64 {
    ["segments.open", "segments.active", "segments.sealed"].map(|name| common::stat(store, name)).iter().sum()
}

/// A head has room for a bounded number of close marks: an open must not resume one that has none left.
#[test]
fn closing_more_often_than_a_head_has_room_for_marks_loses_nothing() {
    for media in [MediaChoice::File, MediaChoice::EmulatedPm] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.fkv");
        let store = open(&path, media);
        store.put(b"key", b"value").unwrap();
        // Extents in the slot behind the head, which the marks would run into.
        let blob = vec![7; 9000];
        store.put(b"blob", &blob).unwrap();
        let in_use = segments_in_use(&store);
        store.close().unwrap();
        drop(store);
        for round in 0..100 {
            let store = open(&path, media);
            assert_eq!(
                store.get(b"key").unwrap().as_deref(),
                Some(&b"value"[..]),
                "{media:?}, round {round}"
            );
            assert!(store.get(b"blob").unwrap() == Some(blob.clone()), "{media:?}, round {round}");
            // The head with the entries, and the one that the marks go to.
            assert!(
                segments_in_use(&store) <= in_use + 1,
                "{media:?}, round {round}: {}",
                store.stats_json()
            );
            store.close().unwrap();
        }
    }
}

/// Files reserve whole sectors behind a tail, persistent memory only lines.
#[test]
fn a_full_head_of_persistent_memory_is_closed_and_written_on_files() {
    for puts in 1..80_u32 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.fkv");
        let store = open(&path, MediaChoice::EmulatedPm);
        for i in 0..puts {
            store.put(&i.to_le_bytes(), &[i as u8; 100]).unwrap();
        }
        store.close().unwrap();
        drop(store);
        for round in 0..3 {
            let store = open(&path, MediaChoice::File);
            for i in 0..puts {
                assert!(store.exists(&i.to_le_bytes()).unwrap(), "{puts} puts, round {round}, key {i}");
            }
            store.close().unwrap();
        }
        let store = open(&path, MediaChoice::File);
        store.put(b"after", b"all").unwrap();
        for i in 0..puts {
            assert!(store.exists(&i.to_le_bytes()).unwrap(), "{puts} puts, key {i}");
        }
    }
}

/// A later library may set features that this one can read past but must not write past.
#[test]
fn a_pool_with_unknown_read_only_features_opens_for_reading_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.fkv");
    let store = open(&path, MediaChoice::File);
    store.put(b"key", b"value").unwrap();
    store.close().unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    for copy in [0, 4096] {
        let superblock = &mut bytes[copy..copy + 512];
        superblock[24] = 1;
        let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&superblock[..504], 0x666C_6174_6B76_7362);
        superblock[504..].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Options::new().media(MediaChoice::File).open(&path), Err(Error::Unsupported(_))));
    let store = Options::new().media(MediaChoice::File).read_only(true).open(&path).unwrap();
    assert_eq!(store.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
}

/// The statistic was taken for the number of keys that have a value.
#[test]
fn the_number_of_keys_includes_deleted_ones_before_and_after_an_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.fkv");
    let keys = |store: &Store| {
        let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).unwrap();
        stats["keys"].as_u64().unwrap()
    };
    let store = open(&path, MediaChoice::File);
    for i in 0..10_u32 {
        store.put(&i.to_le_bytes(), b"value").unwrap();
    }
    for i in 0..4_u32 {
        assert!(store.delete(&i.to_le_bytes()).unwrap());
    }
    assert_eq!(keys(&store), 10);
    store.close().unwrap();
    drop(store);
    assert_eq!(keys(&open(&path, MediaChoice::File)), 10);
}
