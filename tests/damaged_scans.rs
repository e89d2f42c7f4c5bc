//! Scans of pools that were found damaged at open. Where keys may be missing no answer of a scan is sure, so it says so before it
//! gives one, in either direction, inside any bounds and at any snapshot; and where nothing can be missing it says nothing.

#![cfg(feature = "sim")]

mod common;

use common::{memory_dir, small, stat, with_logs};
use flatkv::{Error, IndexKind, Iter, MediaChoice, Result, Store};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const KEYS: u32 = 2_000;
const LOST: u32 = 500;

fn key(number: u32) -> Vec<u8> {
    format!("key {number:06}").into_bytes()
}

fn value(number: u32) -> Vec<u8> {
    format!("a value of {number:06}, found by nothing but itself").into_bytes()
}

fn open(path: &PathBuf) -> Store {
    let options = with_logs(small(MediaChoice::EmulatedPm, 64 << 10), 1);
    options.index(IndexKind::Ordered).open(path).expect("damage of entries does not keep a pool closed")
}

/// A pool in which the entry of one key was lost, and so was its frame, in a segment that has a filter. There are a keyspace
/// from before, "old", and another one without keys.
fn damaged() -> (TempDir, PathBuf) {
    let dir = memory_dir();
    let path = dir.path().join("pool.fkv");
    let store = open(&path);
    store.keyspace("empty").expect("room");
    let old = store.keyspace("old").expect("room");
    for number in 0..KEYS {
        store.put(&key(number), &value(number)).expect("room");
        old.put(&key(number), b"of the old one").expect("room");
    }
    store.close().expect("nothing is pinned");
    drop((old, store));
    let mut bytes = fs::read(&path).expect("readable");
    let lost = value(LOST);
    let at = bytes.windows(lost.len()).position(|window| window == lost).expect("it was written");
    // The line it lies in, the header of its frame included: more than one bit, which would be undone.
    bytes[(at & !63)..at + lost.len()].fill(0x33);
    fs::write(&path, bytes).expect("writable");
    (dir, path)
}

/// Like [`damaged`], with a filter that tells the names of keyspaces from the keys of its segment. Filters mistake a few names
/// in a hundred, others in each pool, and their keyspaces are refused then: that is rehearsed on a copy of the pool.
fn damaged_aside_from_names() -> (TempDir, PathBuf) {
    for _ in 0..10 {
        let (dir, path) = damaged();
        let copy = dir.path().join("copy.fkv");
        fs::copy(&path, &copy).expect("room");
        let store = open(&copy);
        let cleared = store.keyspace("empty").and_then(|keyspace| keyspace.clear());
        match cleared.and_then(|()| store.keyspace("old")).and_then(|_| store.keyspace("new")) {
            Ok(_) => return (dir, path),
            Err(error) => assert!(matches!(error, Error::Corrupted { .. }), "{error}"),
        }
    }
    panic!("names are refused in each of ten pools: more than a filter's mistakes");
}

fn assert_warned(stepped: Result<bool>, iter: &Iter, what: &str) {
    assert!(matches!(stepped, Err(Error::Corrupted { .. })), "{what}: {stepped:?}");
    assert!(iter.key().is_none(), "{what}: on an entry");
    assert!(matches!(iter.missing(), Some(Error::Corrupted { .. })), "{what}: forgotten");
}

/// A first step, and where those behind lead: entries that gets refuse, too, are passed.
fn after_warning(
    iter: &mut Iter,
    what: &str,
    seek: impl Fn(&mut Iter) -> Result<bool>,
    step: impl Fn(&mut Iter) -> Result<bool>,
) -> Option<Vec<u8>> {
    let sought = seek(iter);
    assert_warned(sought, iter, what);
    while step(iter).is_err() {}
    assert!(iter.missing().is_some(), "{what}: forgotten by a step");
    iter.key().map(<[u8]>::to_vec)
}

/// Keys that gets answer for. Damage refuses some that may have been replaced by what was lost.
fn left(store: &Store) -> Vec<Vec<u8>> {
    let left: Vec<Vec<u8>> = (0..KEYS).map(key).filter(|key| store.get(key).is_ok()).collect();
    assert!(left.len() > KEYS as usize / 2 && !left.contains(&key(LOST)));
    left
}

/// Steps to the end: keys, and how many steps were errors.
fn walk(iter: &mut Iter, step: impl Fn(&mut Iter) -> Result<bool>) -> (Vec<Vec<u8>>, usize) {
    let (mut shown, mut refused) = (Vec::new(), 0);
    loop {
        match step(iter) {
            Ok(false) => return (shown, refused),
            Ok(true) => shown.push(iter.key().expect("on one").to_vec()),
            Err(_) => refused += 1,
        }
    }
}

/// The answer of a seek came from what was left, and only the end of a direction said that there was damage.
#[test]
fn every_way_to_place_an_iterator_over_damage_says_first_that_keys_may_be_missing() {
    let (_dir, path) = damaged();
    let store = open(&path);
    assert_eq!(stat(&store, "damaged_ranges"), 1);
    assert!(matches!(store.get(&key(LOST)), Err(Error::Corrupted { .. })));
    let (snapshot, left) = (store.snapshot().expect("it is open"), left(&store));
    store.put(b"a later key", b"value").expect("room");
    for (what, iter) in [("store", store.iter()), ("snapshot", snapshot.iter())] {
        let iter = &mut iter.expect("ordered");
        let before_lost = || left.iter().rfind(|one| **one < key(LOST)).cloned();
        let behind_lost = || left.iter().find(|one| **one > key(LOST)).cloned();
        let first = if what == "store" { Some(b"a later key".to_vec()) } else { left.first().cloned() };
        let last = left.last().cloned();
        assert_eq!(after_warning(iter, what, Iter::move_next, Iter::move_next), first, "{what}");
        assert_eq!(after_warning(iter, what, Iter::seek_first, Iter::move_next), first, "{what}");
        assert_eq!(after_warning(iter, what, Iter::seek_last, Iter::move_prev), last, "{what}");
        let seek = |iter: &mut Iter| iter.seek(&key(LOST));
        assert_eq!(after_warning(iter, what, seek, Iter::move_next), behind_lost(), "{what}");
        assert_eq!(after_warning(iter, what, seek, Iter::move_prev), before_lost(), "{what}");
        let seek = |iter: &mut Iter| iter.seek_for_prev(&key(LOST));
        assert_eq!(after_warning(iter, what, seek, Iter::move_prev), before_lost(), "{what}");
        assert_eq!(after_warning(iter, what, seek, Iter::move_next), behind_lost(), "{what}");
        assert_eq!(after_warning(iter, what, Iter::seek_first, Iter::move_prev), None, "{what}");
        // Outside of the bounds: a step back led to keys outside, too.
        iter.set_bounds(None, Some(&key(LOST)));
        let seek = |iter: &mut Iter| iter.seek(&key(KEYS - 1));
        assert_eq!(after_warning(iter, what, seek, Iter::move_prev), before_lost(), "{what}");
        iter.set_bounds(Some(&key(LOST)), None);
        let seek = |iter: &mut Iter| iter.seek_for_prev(&key(0));
        assert_eq!(after_warning(iter, what, seek, Iter::move_next), behind_lost(), "{what}");
        iter.set_prefix(b"no key has this");
        assert_eq!(after_warning(iter, what, Iter::move_prev, Iter::move_prev), None, "{what}");
        iter.set_bounds(Some(&key(LOST)), Some(&key(LOST + 1)));
        assert!(iter.missing().is_none(), "{what}: kept by other bounds");
        assert_eq!(after_warning(iter, what, Iter::move_next, Iter::move_next), None, "{what}");
        assert!(!iter.move_next().expect("warned already"), "{what}: behind the end");
    }
}

#[test]
fn what_is_left_is_shown_behind_the_warning_in_both_directions_and_by_items() {
    let (_dir, path) = damaged();
    let store = open(&path);
    let mut iter = store.iter().expect("ordered");
    let mut left = left(&store);
    let refused = KEYS as usize - 1 - left.len();
    let sought = iter.seek_first();
    assert_warned(sought, &iter, "forward");
    assert_eq!(walk(&mut iter, Iter::move_next), (left.clone(), refused));
    let items: Vec<_> = store.iter().expect("ordered").collect();
    assert!(matches!(items[0], Err(Error::Corrupted { .. })));
    assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1 + refused);
    let values = left.iter().map(|key| store.get(key).expect("as before").expect("it is there"));
    let expected: Vec<_> = left.iter().cloned().zip(values).collect();
    assert_eq!(items.into_iter().flatten().collect::<Vec<_>>(), expected);
    let sought = iter.seek_last();
    assert_warned(sought, &iter, "backward");
    left.reverse();
    assert_eq!(walk(&mut iter, Iter::move_prev), (left, refused));
}

#[test]
fn keyspaces_from_before_the_damage_are_warned_of_and_newer_ones_are_not() {
    let (_dir, path) = damaged_aside_from_names();
    let store = open(&path);
    let snapshot = store.snapshot().expect("it is open");
    for name in ["old", "empty"] {
        let mut iter = store.keyspace(name).expect("there").iter().expect("ordered");
        let sought = iter.seek_first();
        assert_warned(sought, &iter, name);
    }
    let (new, cleared) = (store.keyspace("new").expect("room"), store.keyspace("empty").expect("there"));
    cleared.clear().expect("room");
    for (what, keyspace) in [("new", &new), ("cleared", &cleared)] {
        keyspace.put(b"key", b"value").expect("room");
        let mut iter = keyspace.iter().expect("ordered");
        assert!(iter.seek_last().expect("nothing can be missing"), "{what}");
        assert!(!iter.move_next().expect("nothing can be missing") && iter.missing().is_none(), "{what}");
        let absent = (0..KEYS).find(|number| keyspace.get(&key(*number)).ok() != Some(None));
        assert_eq!(absent, None, "{what}: a key that it never had");
    }
    let mut before = cleared.snapshot_at(&snapshot).expect("of this store").iter().expect("ordered");
    let sought = before.seek_first();
    assert_warned(sought, &before, "what was cleared since");
    let mut before = new.snapshot_at(&snapshot).expect("of this store").iter().expect("ordered");
    assert!(!before.seek_first().expect("it was not there"));
}

#[test]
fn ranges_without_room_and_pools_without_damage_are_not_warned_of() {
    let (_dir, path) = damaged();
    let store = open(&path);
    let mut iter = store.iter().expect("ordered");
    for (lower, upper) in [(key(7), key(7)), (key(8), key(7)), (Vec::new(), Vec::new())] {
        iter.set_bounds(Some(&lower), Some(&upper));
        assert!(!iter.seek_first().expect("no key fits in") && !iter.seek_last().expect("no key fits in"));
    }
    iter.set_bounds(None, Some(b""));
    assert!(!iter.seek_first().expect("no key fits in") && iter.missing().is_none());
    let dir = memory_dir();
    let sound = open(&dir.path().join("sound.fkv"));
    sound.put(b"key", b"value").expect("room");
    let mut iter = sound.iter().expect("ordered");
    assert!(iter.seek(b"key").expect("sound") && !iter.move_next().expect("sound"));
    assert!(iter.missing().is_none());
}
