//! How large a pool is: it grows for what is live, is cleaned otherwise, and gives back what it does not need any more.

mod common;

use common::{MEDIA, Rng, memory_dir, small, stat};
use flatkv::{Error, MediaChoice, Options, Store, WriteBatch};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 64 << 10;
const HEAD_BYTES: u64 = 8192;
const KEYS: u64 = 20_000;

fn value(round: u64) -> [u8; 100] {
    [round as u8; 100]
}

fn load(store: &Store, keys: u64) {
    (0..keys).for_each(|key| store.put(&key.to_le_bytes(), &value(key)).unwrap());
}

/// Segments that a pool may have which holds `live` segments of live bytes: reserve, room to clean, and slack.
fn segments_allowed(store: &Store, live: u64, utilization: f64) -> u64 {
    let logs = stat(store, "logs");
    let (reserve, low) = (8 + logs, 3 + logs);
    // The pool is told what is dead segment by segment: a few more may be there when it grows.
    (live as f64 / utilization) as u64 + reserve + 2 * low + 4 * logs + 8
}

#[test]
fn a_pool_that_is_overwritten_for_ever_does_not_grow_for_ever() {
    for media in MEDIA {
        for utilization in [0.5, 0.8] {
            let dir = memory_dir();
            let options = small(media, SEGMENT).target_utilization(utilization).write_stall_ms_max(20_000);
            let store = options.open(dir.path().join("pool.fkv")).unwrap();
            load(&store, KEYS);
            let loaded = (stat(&store, "pool_bytes") - HEAD_BYTES) / SEGMENT;
            let mut rng = Rng(5);
            let mut newest = vec![0_u64; KEYS as usize];
            (0..KEYS).for_each(|key| newest[key as usize] = key);
            for round in 0..8 * KEYS {
                let key = rng.below(KEYS as usize) as u64;
                store.put(&key.to_le_bytes(), &value(round)).unwrap();
                newest[key as usize] = round;
            }
            let grown = (stat(&store, "pool_bytes") - HEAD_BYTES) / SEGMENT;
            let allowed = segments_allowed(&store, loaded, utilization);
            assert!(grown <= allowed, "{media:?}: {loaded} segments, then {grown}: {}", store.stats_json());
            assert!(stat(&store, "cleaner.segments_freed") > loaded);
            for key in 0..KEYS {
                let found = store.get(&key.to_le_bytes()).unwrap().unwrap();
                assert_eq!(found, value(newest[key as usize]), "{media:?}: key {key}");
            }
        }
    }
}

#[test]
fn a_load_of_new_keys_is_not_cleaned() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = small(media, SEGMENT).open(dir.path().join("pool.fkv")).unwrap();
        load(&store, KEYS);
        assert_eq!(stat(&store, "cleaner.passes"), 0, "{media:?}: {}", store.stats_json());
        assert_eq!(stat(&store, "cleaner.stalls"), 0, "{media:?}: {}", store.stats_json());
    }
}

/// What a snapshot keeps counted as something that cleaning would gain. So whenever the pool was to grow beside one, the write
/// that needed the room first waited for passes that gained nothing.
#[test]
fn a_write_beside_a_snapshot_does_not_wait_for_cleaning_in_vain() {
    const STRIDE: u64 = 50;
    for media in MEDIA {
        let dir = memory_dir();
        let store = small(media, SEGMENT).open(dir.path().join("pool.fkv")).unwrap();
        load(&store, KEYS);
        let snapshot = store.snapshot().unwrap();
        // The first of these come to each segment, so that soon all are pinned.
        for first in 0..STRIDE {
            let keys = (first..KEYS).step_by(STRIDE as usize);
            keys.for_each(|key| store.put(&key.to_le_bytes(), &value(key + 1)).unwrap());
        }
        assert_eq!(stat(&store, "cleaner.stalls"), 0, "{media:?}: {}", store.stats_json());
        for key in 0..KEYS {
            assert_eq!(
                snapshot.get(&key.to_le_bytes()).unwrap().unwrap(),
                value(key),
                "{media:?}: key {key}"
            );
        }
    }
}

/// Large values count like small ones.
#[test]
fn blobs_that_are_replaced_do_not_make_the_pool_grow_for_ever() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = small(media, SEGMENT).open(dir.path().join("pool.fkv")).unwrap();
        let blob = |round: u32| vec![round as u8; 40_000];
        for round in 0..1500_u32 {
            store.put(&(round % 40).to_le_bytes(), &blob(round)).unwrap();
        }
        // 27 segments are live, and 800 were written.
        assert!(stat(&store, "pool_bytes") < 120 * SEGMENT, "{media:?}: {}", store.stats_json());
        (1460..1500_u32).for_each(|round| {
            assert!(store.get(&(round % 40).to_le_bytes()).unwrap().unwrap() == blob(round), "{media:?}");
        });
    }
}

fn on_device(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn wait_until(what: &str, store: &Store, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: {}", store.stats_json());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_deleted_goes_back_to_the_file_system_and_can_be_had_again() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = || small(media, SEGMENT).open(&path).unwrap();
        let mut store = open();
        for round in 0..3 {
            load(&store, KEYS);
            let full = (on_device(&path), std::fs::metadata(&path).unwrap().len());
            (0..KEYS).filter(|key| key % 1000 != 7).for_each(|key| {
                assert!(store.delete(&key.to_le_bytes()).unwrap());
            });
            wait_until("bytes on the device", &store, || on_device(&path) < full.0 / 2);
            wait_until("the counter", &store, || stat(&store, "segments_given_back") > 0);
            if round == 1 {
                store.close().unwrap();
                drop(store);
                store = open();
            }
            for key in 0..KEYS {
                let found = store.get(&key.to_le_bytes()).unwrap();
                assert_eq!(found.is_some(), key % 1000 == 7, "{media:?}, round {round}: key {key}");
            }
        }
        assert_eq!(stat(&store, "give_back_failures"), 0);
        store.health().unwrap();
    }
}

/// While nothing changes in what is live, nothing goes to and fro.
#[test]
fn a_busy_pool_does_not_give_back_what_it_takes_again() {
    let dir = memory_dir();
    let store = small(MediaChoice::EmulatedPm, SEGMENT).open(dir.path().join("pool.fkv")).unwrap();
    load(&store, KEYS);
    let mut rng = Rng(9);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let key = rng.below(KEYS as usize) as u64;
        store.put(&key.to_le_bytes(), &value(key + 1)).unwrap();
    }
    assert_eq!(stat(&store, "segments_given_back"), 0, "{}", store.stats_json());
}

/// Reserves fit the smallest pool and the large one: both take data, are full, delete, are cleaned, and take data again.
#[test]
fn a_full_pool_of_any_size_deletes_and_takes_data_again() {
    for (mib, least) in [(16_u64, 0.80), (256, 0.90)] {
        for media in MEDIA {
            let dir = memory_dir();
            let path = dir.path().join("pool.fkv");
            let store = Options::new().media(media).max_bytes(mib << 20).open(&path).unwrap();
            let (value, mut keys) = (vec![7; 2000], 0_u64);
            let mut batch = WriteBatch::new();
            let full = loop {
                batch.clear();
                (keys..keys + 20).for_each(|key| batch.put(&key.to_le_bytes(), &value).unwrap());
                match store.write(&batch) {
                    Ok(()) => keys += 20,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, Error::NoSpace { .. }), "{media:?}, {mib} MiB: {full}");
            let share = (keys * 2008) as f64 / ((mib << 20) - stat(&store, "segment_size_bytes")) as f64;
            assert!(share > least, "{media:?}, {mib} MiB: {share:.3} full");
            // One by one they take more than in batches, and when they were moved a little more.
            let mut kept: BTreeSet<u64> = (0..keys).collect();
            for round in 0..2_u64 {
                for key in (0..keys).filter(|key| key % 2 == round) {
                    assert_eq!(store.delete(&key.to_le_bytes()).unwrap(), kept.remove(&key));
                }
                for key in (0..keys).filter(|key| key % 2 == round && key % 8 > 1) {
                    let put = store.put(&key.to_le_bytes(), &value);
                    put.unwrap_or_else(|error| {
                        panic!("{media:?}, {mib} MiB: {error} {}", store.stats_json())
                    });
                    kept.insert(key);
                }
            }
            (0..keys)
                .for_each(|key| assert_eq!(store.exists(&key.to_le_bytes()).unwrap(), kept.contains(&key)));
            assert!(std::fs::metadata(&path).unwrap().len() <= mib << 20);
        }
    }
}

/// Thousands of slots, nearly all of them hollow: what counts is opened, written and cleaned, and the rest is given back.
#[test]
fn a_pool_of_tens_of_gigabytes_that_holds_little_is_opened_and_becomes_small() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = || Options::new().media(media).max_bytes(32 << 30).open(&path).unwrap();
        let store = open();
        assert_eq!(stat(&store, "segment_size_bytes"), 8 << 20);
        load(&store, 1000);
        store.close().unwrap();
        drop(store);
        let small_bytes = on_device(&path);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(32 << 30).unwrap();
        let store = open();
        (0..1000_u64).for_each(|key| {
            assert_eq!(store.get(&key.to_le_bytes()).unwrap().unwrap(), value(key), "{media:?}");
        });
        load(&store, 100);
        wait_until("a file as long as it needs to be", &store, || {
            std::fs::metadata(&path).unwrap().len() < 1 << 30
        });
        assert!(on_device(&path) <= small_bytes + (64 << 20), "{media:?}: {}", on_device(&path));
        (100..1000_u64).for_each(|key| assert!(store.exists(&key.to_le_bytes()).unwrap()));
    }
}
