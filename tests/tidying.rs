//! What becomes of a store that nobody writes to: segments that hold next to nothing go, also those that keep each other.

#![cfg(feature = "sim")]

mod common;

use common::stat;
use flatkv::testing;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{IndexKind, Store};
use std::sync::Arc;

const SEGMENT: u64 = 8192;

/// Kinds of medium, and kinds of index.
fn on_all_kinds(test: impl Fn(&str, &Store)) {
    for index in [IndexKind::Hash, IndexKind::Ordered] {
        [SimKind::Pm, SimKind::File].into_iter().for_each(|kind| on_kind(kind, index, &test));
    }
}

fn on_kind(kind: SimKind, index: IndexKind, test: impl Fn(&str, &Store)) {
    let media = Arc::new(SimMedia::new(kind, 4 << 20));
    // So that it is not cleaned before it is tidied.
    let options = testing::options().index(index).segment_size_bytes(SEGMENT).target_utilization(0.1);
    let store = testing::open_on(media.clone(), options).expect("a fresh pool");
    let name = format!("{kind:?}, {index:?}");
    test(&name, &store);
    testing::kill(&store);
    let image = Arc::new(SimMedia::from_image(kind, &media.view(), 4 << 20));
    let store = testing::open_on(image, testing::options().index(index)).expect("a pool");
    for key in 0..KEYS {
        assert_eq!(store.get(&key.to_le_bytes()).expect("sound"), None, "{name}: a deleted key is back");
    }
}

const KEYS: u64 = 400;

fn put(store: &Store, key: u64) {
    store.put(&key.to_le_bytes(), &[key as u8; 100]).expect("room");
}

fn delete(store: &Store, key: u64) {
    assert!(store.delete(&key.to_le_bytes()).expect("room"), "key {key} was there");
}

fn roll(store: &Store) {
    let before = stat(store, "rolls");
    while stat(store, "rolls") == before {
        store.put(b"filler", &[0; 100]).expect("room");
    }
    assert!(store.delete(b"filler").expect("room"));
}

/// One segment besides the head of the one log.
fn check_empty(kind: &str, store: &Store) {
    assert!(testing::tidy_up(store), "{kind}: nobody waits for a reader");
    let used: u64 =
        ["sealed", "open", "releasable"].iter().map(|s| stat(store, &format!("segments.{s}"))).sum();
    assert!(used <= 1, "{kind}: {used} segments are in use: {}", store.stats_json());
}

#[test]
fn tombstones_beside_the_values_that_keep_them_go() {
    on_all_kinds(|kind, store| {
        for key in 0..KEYS {
            put(store, key);
            delete(store, key);
        }
        assert!(stat(store, "segments.sealed") > 5);
        check_empty(kind, store);
    });
}

#[test]
fn segments_that_keep_each_others_tombstones_go() {
    on_all_kinds(|kind, store| {
        // A queue: each segment holds values, and the tombstones of those in the one before.
        for key in 0..KEYS + 50 {
            if key < KEYS {
                put(store, key);
            }
            if key >= 50 {
                delete(store, key - 50);
            }
        }
        assert!(stat(store, "segments.sealed") > 5);
        check_empty(kind, store);
    });
}

/// It was never sealed, as nothing filled it, so it was never emptied; and its dead values kept tombstones in others.
#[test]
fn values_that_were_moved_and_then_deleted_keep_nothing() {
    on_all_kinds(|kind, store| {
        (0..KEYS).for_each(|key| put(store, key));
        (0..KEYS).filter(|key| key % 16 != 0).for_each(|key| delete(store, key));
        roll(store);
        while testing::clean(store).expect("the medium works") > 0 && stat(store, "segments.survivor") == 0 {}
        assert!(stat(store, "cleaner.entries_moved") > 0, "{kind}: {}", store.stats_json());
        (0..KEYS).filter(|key| key % 16 == 0).for_each(|key| delete(store, key));
        roll(store);
        check_empty(kind, store);
    });
}

/// They were looked for in the index by the hash of their key alone, which an ordered index does not know: each key that
/// ever was stayed in it, and its tombstone in the log.
#[test]
fn no_deleted_key_stays_in_the_index() {
    on_all_kinds(|kind, store| {
        (0..KEYS).for_each(|key| put(store, key));
        (0..KEYS).for_each(|key| delete(store, key));
        assert!(testing::tidy_up(store), "{kind}");
        assert_eq!(stat(store, "keys"), 0, "{kind}: {}", store.stats_json());
    });
}

/// What moves nothing away must not go on for ever, nor begin anew with every look.
#[test]
fn a_store_that_holds_something_is_left_alone_once_it_is_tidy() {
    on_all_kinds(|kind, store| {
        (0..KEYS).for_each(|key| put(store, key));
        (0..KEYS).filter(|key| key % 3 == 0).for_each(|key| delete(store, key));
        assert!(testing::tidy_up(store), "{kind}");
        let cost = |store: &Store| {
            ["cleaner.bytes_written", "rolls", "cleaner.segments_freed"].map(|name| stat(store, name))
        };
        let before = cost(store);
        (0..5).for_each(|_| assert!(testing::tidy_up(store), "{kind}"));
        assert_eq!(cost(store), before, "{kind}");
        (0..KEYS).filter(|key| key % 3 != 0).for_each(|key| delete(store, key));
    });
}
