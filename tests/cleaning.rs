//! What the cleaner promises: nothing is lost, nothing returns, and space that holds nothing comes back.

#![cfg(feature = "sim")]

mod common;

use common::{Rng, assert_exact, stat};
use flatkv::testing;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Durability, Error, Store, WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

const CAPACITY_BYTES: u64 = 512 << 10;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn check(store: &Store, map: &Map, keys: u64, when: &str) {
    for number in 0..keys {
        let key = number.to_le_bytes();
        let found = store.get(&key).unwrap_or_else(|error| panic!("{when}: key {number}: {error}"));
        assert_eq!(found.as_ref(), map.get(&key[..]), "{when}: key {number}");
    }
    assert_exact(store, when);
}

fn bytes_up_to(rng: &mut Rng, max: usize) -> Vec<u8> {
    let len = rng.below(max);
    rng.bytes(len)
}

fn refused(error: &Error) -> bool {
    matches!(error, Error::NoSpace { .. })
}

/// One random step; writes that are refused for want of space change nothing.
fn step(store: &Store, map: &mut Map, rng: &mut Rng, keys: u64) {
    let key = rng.below(keys as usize) as u64;
    let bytes = key.to_le_bytes();
    match rng.below(16) {
        0..8 => {
            let value = bytes_up_to(rng, if key.is_multiple_of(7) { 900 } else { 120 });
            let durability = if rng.below(6) == 0 { Durability::Os } else { Durability::Sync };
            match store.put_with(&WriteOptions::new().durability(durability), &bytes, &value) {
                Ok(()) => drop(map.insert(bytes.to_vec(), value)),
                Err(error) => assert!(refused(&error), "{error}"),
            }
        }
        8..12 => match store.delete(&bytes) {
            Ok(found) => assert_eq!(found, map.remove(&bytes[..]).is_some(), "key {key}"),
            Err(error) => assert!(refused(&error), "{error}"),
        },
        12 => {
            let mut batch = WriteBatch::new();
            let mut after = map.clone();
            for _ in 0..1 + rng.below(12) {
                let key = (rng.below(keys as usize) as u64).to_le_bytes();
                if rng.below(4) == 0 {
                    batch.delete(&key).unwrap();
                    after.remove(&key[..]);
                } else {
                    let value = bytes_up_to(rng, 700);
                    batch.put(&key, &value).unwrap();
                    after.insert(key.to_vec(), value);
                }
            }
            match store.write(&batch) {
                Ok(()) => *map = after,
                Err(error) => assert!(refused(&error), "{error}"),
            }
        }
        _ => drop(testing::clean(store).expect("the medium works")),
    }
}

/// Random work on a small pool, cleaned all the time, closed, killed and opened again: it shows what a map shows.
#[test]
fn a_store_that_is_cleaned_all_the_time_shows_what_a_map_shows() {
    for kind in [SimKind::Pm, SimKind::File] {
        let (mut freed, mut moved) = (0, 0);
        for seed in 0..20 {
            let mut rng = Rng(seed);
            let keys = 10 + rng.below(60) as u64;
            let mut media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
            let mut map = Map::new();
            let options = || {
                testing::with_survivor_streams(testing::options(), 1 + seed as usize % 2)
                    .segment_size_bytes(if kind == SimKind::Pm { 4096 } else { 8192 })
            };
            let mut store = testing::open_on(media.clone(), options()).expect("a fresh pool");
            for round in 0..12 {
                for _ in 0..200 {
                    step(&store, &mut map, &mut rng, keys);
                }
                check(&store, &map, keys, &format!("{kind:?} seed {seed} round {round}"));
                freed += stat(&store, "cleaner.segments_freed");
                moved += stat(&store, "cleaner.entries_moved");
                if rng.below(3) == 0 {
                    store.close().expect("nothing is pinned");
                } else {
                    testing::kill(&store);
                }
                drop(store);
                media = Arc::new(SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES));
                store = testing::open_on(media.clone(), options())
                    .unwrap_or_else(|error| panic!("{kind:?} seed {seed} round {round}: {error}"));
                check(&store, &map, keys, &format!("{kind:?} seed {seed} after round {round}"));
            }
        }
        assert!(freed > 1000 && moved > 10_000, "{kind:?}: {freed} segments freed, {moved} entries moved");
    }
}

fn keys_of(store: &Store) -> u64 {
    stat(store, "keys")
}

/// Tombstones go when no older value is left in any segment, and not before: also after a restart, and never so that a
/// value returns.
#[test]
fn when_everything_is_deleted_and_cleaned_tombstones_and_space_are_gone() {
    for kind in [SimKind::Pm, SimKind::File] {
        for reopens in [false, true] {
            let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
            let options = || testing::options().segment_size_bytes(8192);
            let mut store = testing::open_on(media.clone(), options()).expect("a fresh pool");
            let keys = 100_u64;
            for round in 0..3_u8 {
                for key in 0..keys {
                    store.put(&key.to_le_bytes(), &[round; 100]).expect("room");
                }
            }
            for key in 0..keys {
                assert!(store.delete(&key.to_le_bytes()).expect("room"));
            }
            let mut media = media;
            for pass in 0..60 {
                testing::clean(&store).expect("the medium works");
                if reopens && pass % 7 == 3 {
                    testing::kill(&store);
                    drop(store);
                    media = Arc::new(SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES));
                    store = testing::open_on(media.clone(), options()).expect("a pool");
                }
                check(&store, &Map::new(), keys, "after deleting everything");
            }
            // A head holds what was written last: roll it out of the way.
            assert!(keys_of(&store) < keys / 2, "{kind:?}: {} keys are left", keys_of(&store));
            let used = stat(&store, "segments.sealed") + stat(&store, "segments.open");
            assert!(
                used <= 4,
                "{kind:?}, reopens {reopens}: {used} segments are in use: {}",
                store.stats_json()
            );
        }
    }
}

/// Bytes appended, by the cleaner too, of those appended for 90 % of overwrites of 10 % of the keys, at 75 % live.
fn write_amplification_of_hot_and_cold(options: flatkv::Options) -> f64 {
    let (segment, slots) = (16_384, 240);
    let media = Arc::new(SimMedia::new(SimKind::Pm, slots * segment + 8192));
    let store = testing::open_on(media, options.segment_size_bytes(segment)).expect("a fresh pool");
    let keys = slots * segment * 3 / 4 / 88;
    let mut rng = Rng(9);
    let mut put = |key: u64| store.put(&key.to_le_bytes(), &[key as u8; 64]).expect("room");
    (0..keys).for_each(&mut put);
    let written = || (stat(&store, "appended_bytes"), stat(&store, "cleaner.bytes_written"));
    let mut began = written();
    for number in 0..12 * keys {
        if number == 6 * keys {
            began = written();
        }
        let key = rng.below(keys as usize) as u64;
        put(if rng.below(10) == 0 { key } else { key % (keys / 10) });
    }
    let (user, moved) = written();
    1.0 + (moved - began.1) as f64 / (user - began.0) as f64
}

#[test]
fn hot_and_cold_entries_are_cleaned_for_a_quarter_less_than_by_greed() {
    let greedy = write_amplification_of_hot_and_cold(testing::options().with_greedy_cleaner());
    let sorted = write_amplification_of_hot_and_cold(testing::with_survivor_streams(testing::options(), 2));
    assert!(sorted <= 0.75 * greedy, "write amplification {sorted:.2}, by greed {greedy:.2}");
}

/// It was kept, and no statistic told.
#[test]
fn a_victim_whose_bytes_rotted_is_kept_and_counted_and_writes_go_on() {
    for kind in [SimKind::Pm, SimKind::File] {
        let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
        let options = || testing::options().segment_size_bytes(8192);
        let store = testing::open_on(media.clone(), options()).expect("a fresh pool");
        let key = |number: u32| format!("key {number:02}").into_bytes();
        (0..60)
            .for_each(|number| store.put(&key(number), &[number as u8 + 100; 300]).expect("there is room"));
        assert_eq!(stat(&store, "segments.quarantined"), 0);
        // In the first segment, below the store, and more than the one bit that could be undone.
        let at = media.view().windows(300).position(|bytes| bytes == [105; 300]).expect("it was put") as u64;
        testing::Media::write(&*media, at + 40, &[0; 30]).expect("the medium works");
        testing::clean(&store).expect("the medium works");
        assert_eq!(stat(&store, "segments.quarantined"), 1, "{kind:?}: {}", store.stats_json());
        assert!(stat(&store, "cleaner.victims") > 0, "{kind:?}: the other segments are emptied");
        for number in (0..60).filter(|number| *number != 5) {
            assert_eq!(store.get(&key(number)).unwrap(), Some(vec![number as u8 + 100; 300]), "{kind:?}");
        }
        assert!(matches!(store.get(&key(5)), Err(Error::Corrupted { .. })), "{kind:?}");
        assert!(!store.verify().expect("it answers").is_ok(), "{kind:?}: a verification names it");
        store.health().expect("writes go on");
        store.put(&key(5), b"cured").expect("writes go on");
        testing::clean(&store).expect("the medium works");
        assert_eq!(stat(&store, "segments.quarantined"), 1, "{kind:?}: it is never emptied");
        testing::kill(&store);
        drop(store);
        let media = Arc::new(SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES));
        let store = testing::open_on(media, options()).expect("the rest is sound");
        assert!(stat(&store, "damaged_ranges") > 0, "{kind:?}: the next open finds it itself");
        assert_eq!(store.get(&key(5)).unwrap().as_deref(), Some(&b"cured"[..]), "{kind:?}");
    }
}
