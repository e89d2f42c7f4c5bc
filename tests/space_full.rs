//! Full is an error, not an end: what is refused changes nothing, and everything but new data goes on.

mod common;

use common::{MEDIA, assert_sound, memory_dir, report, small, stat, with_logs};
use flatkv::{Durability, Error, MediaChoice, Store, WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 16 << 10;
const QUOTA: u64 = 600 << 10;

fn open(media: MediaChoice, path: &Path) -> Store {
    small(media, SEGMENT).max_bytes(QUOTA).open(path).unwrap_or_else(|error| panic!("{media:?}: {error}"))
}

/// Puts until the store refuses; what it took, and the refusal.
fn fill(store: &Store, value_len: usize) -> (BTreeMap<Vec<u8>, Vec<u8>>, Error) {
    let mut taken = BTreeMap::new();
    for i in 0_u32.. {
        let (key, value) = (format!("key {i}").into_bytes(), vec![i as u8; value_len]);
        match store.put(&key, &value) {
            Ok(()) => taken.insert(key, value),
            Err(error) => {
                assert_eq!(store.get(&key).unwrap(), None, "a refused put changes nothing");
                return (taken, error);
            }
        };
    }
    unreachable!("the quota ends it")
}

fn check(store: &Store, expected: &BTreeMap<Vec<u8>, Vec<u8>>) {
    for (key, value) in expected {
        assert!(store.get(key).unwrap().as_ref() == Some(value), "{}", String::from_utf8_lossy(key));
    }
    // Tombstones count as keys until the space they lie in is cleaned.
    assert!(stat(store, "keys") >= expected.len() as u64);
    assert_sound(store, "when all keys were read");
}

#[test]
fn a_full_pool_refuses_puts_with_the_numbers_and_keeps_what_it_has() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path);
        let (mut taken, refusal) = fill(&store, 100);
        let Error::NoSpace { needed_bytes, free_bytes, ref limit } = refusal else {
            panic!("{media:?}: {refusal}");
        };
        assert!(needed_bytes > 0 && free_bytes < QUOTA && limit.contains(&QUOTA.to_string()), "{refusal}");
        let text = refusal.to_string();
        assert!(text.contains(&needed_bytes.to_string()) && text.contains(&free_bytes.to_string()), "{text}");
        check(&store, &taken);
        // An overwrite that is refused leaves the old value.
        let first = taken.keys().next().unwrap().clone();
        assert!(matches!(store.put(&first, &[9; 5000]), Err(Error::NoSpace { .. })));
        assert!(matches!(store.put_async(&first, &[9; 5000]), Err(Error::NoSpace { .. })));
        check(&store, &taken);
        assert!(
            store
                .delete(&first)
                .unwrap_or_else(|error| panic!("a full pool deletes: {error} {}", store.stats_json()))
        );
        taken.remove(&first);
        assert!(!store.delete(&first).unwrap());
        check(&store, &taken);
        store.health().unwrap();
        store.close().unwrap();
        drop(store);
        assert!(std::fs::metadata(&path).unwrap().len() <= QUOTA);
        let store = open(media, &path);
        check(&store, &taken);
        drop(store);
        check(&open(media, &path), &taken);
    }
}

#[test]
fn opening_a_full_pool_and_dying_fifty_times_uses_no_space() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let (taken, _) = fill(&open(media, &path), 100);
        let mut free = None;
        for _ in 0..50 {
            let store = open(media, &path);
            let now = stat(&store, "segments.free");
            assert_eq!(*free.get_or_insert(now), now, "{media:?}");
            drop(store);
        }
        check(&open(media, &path), &taken);
    }
}

#[test]
fn a_batch_that_cannot_fit_is_refused_wholly() {
    for media in MEDIA {
        for entries in [500_u32, 2000, 4000, 20_000] {
            let dir = memory_dir();
            let path = dir.path().join("pool.fkv");
            let store = open(media, &path);
            let (mut expected, _) = fill(&store, 3000);
            let mut batch = WriteBatch::new();
            for i in 0..entries {
                batch.put(format!("batch {i}").as_bytes(), &[1; 60]).unwrap();
            }
            batch.delete(b"key 0").unwrap();
            batch.put(b"key 1", b"changed").unwrap();
            for _ in 0..3 {
                assert!(matches!(store.write(&batch), Err(Error::NoSpace { .. })));
                let os = WriteOptions::new().durability(Durability::Os);
                assert!(matches!(store.write_with(&os, &batch), Err(Error::NoSpace { .. })));
                assert!(matches!(store.write_async(&batch), Err(Error::NoSpace { .. })));
            }
            check(&store, &expected);
            assert!(store.delete(b"key 0").unwrap());
            expected.remove(&b"key 0"[..]);
            drop(store);
            check(&open(media, &path), &expected);
        }
    }
}

#[test]
fn a_blob_that_cannot_fit_is_refused_and_its_space_is_free_again() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path);
        store.put(b"small", b"1").unwrap();
        let before = (stat(&store, "extent_bytes"), stat(&store, "segments.open"));
        for _ in 0..10 {
            assert!(matches!(store.put(b"blob", &vec![7; QUOTA as usize]), Err(Error::NoSpace { .. })));
            assert_eq!(store.get(b"blob").unwrap(), None);
        }
        assert_eq!((stat(&store, "extent_bytes"), stat(&store, "segments.open")), before, "{media:?}");
        // All of the pool is still there for small values and for a blob that fits.
        store.put(b"blob", &vec![8; QUOTA as usize / 4]).unwrap();
        let (taken, _) = fill(&store, 100);
        // A put alone takes two lines on persistent memory, a sector on a file.
        let least = if media == MediaChoice::File { 400 } else { 1000 };
        assert!(taken.len() > least, "{media:?}: {} entries", taken.len());
    }
}

/// It was taken for what comes free in a moment: each put waited for as long as it may and timed out.
#[test]
fn what_a_pin_holds_is_refused_at_once_and_the_refusal_names_it() {
    for media in MEDIA {
        let dir = memory_dir();
        // Longer than anybody would wait for this test.
        let options = small(media, SEGMENT).max_bytes(QUOTA).write_stall_ms_max(600_000);
        let store = options.open(dir.path().join("pool.fkv")).unwrap();
        store.put(b"blob", &vec![7; SEGMENT as usize / 2]).unwrap();
        let pin = store.get_pinned(b"blob").unwrap().expect("it was put");
        assert!(pin.is_zero_copy(), "{media:?}");
        assert!(store.delete(b"blob").unwrap());
        let (taken, refusal) = fill(&store, 100);
        // More than the cleaner may have gained since the refusal.
        for refusal in [refusal, store.put(b"large", &vec![1; QUOTA as usize / 4]).unwrap_err()] {
            let text = refusal.to_string();
            assert!(matches!(refusal, Error::NoSpace { .. }), "{media:?}: {text}");
            assert!(text.contains("dead bytes are held by pins (1)"), "{media:?}: {text}");
        }
        check(&store, &taken);
        assert_eq!(*pin, vec![7; SEGMENT as usize / 2], "{media:?}: what was pinned is as it was");
    }
}

/// Deleted blobs make room for others, within the same open and after the next.
#[test]
fn the_extents_of_deleted_blobs_are_used_again() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = small(media, SEGMENT).max_bytes(QUOTA).open(&path).unwrap();
        for round in 0..20_u8 {
            store.put(b"blob", &vec![round; QUOTA as usize / 3]).unwrap_or_else(|error| {
                panic!("{media:?}, round {round}: {error}");
            });
            assert!(store.delete(b"blob").unwrap());
            settle(&store);
        }
        drop(store);
        let store = open(media, &path);
        store.put(b"blob", &vec![9; QUOTA as usize / 3]).unwrap();
        assert_eq!(store.get(b"blob").unwrap(), Some(vec![9; QUOTA as usize / 3]));
    }
}

/// Extents are free after a grace period that a few epochs end.
fn settle(store: &Store) {
    for _ in 0..100_000 {
        if stat(store, "extent_bytes") == 0 {
            return;
        }
        let _ = store.get(b"blob").unwrap();
        store.sync().unwrap();
        std::thread::yield_now();
    }
    panic!("the extents of a deleted blob are never free");
}

/// What was accepted must not meet a full pool later.
#[test]
fn asynchronous_writes_are_refused_at_once_or_not_at_all() {
    for (media, logs) in [(MediaChoice::File, 1), (MediaChoice::EmulatedPm, 1), (MediaChoice::EmulatedPm, 2)]
    {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        // Nothing is written out before somebody waits or a group is full.
        let options = || {
            let options = small(media, SEGMENT).max_bytes(QUOTA).commit_wait_us_max(60_000_000);
            with_logs(options, logs)
        };
        let store = options().open(&path).unwrap();
        let mut accepted = Vec::new();
        for i in 0_u32.. {
            let key = |j: u32| format!("{i}.{j}");
            let mut batch = WriteBatch::new();
            for j in 0..2 {
                batch.put(key(j).as_bytes(), b"v").unwrap();
            }
            match if i % 3 == 0 {
                store.put_async(key(0).as_bytes(), b"v")
            } else {
                store.write_async(&batch)
            } {
                Ok(ticket) => accepted.push((ticket, i)),
                Err(error) => {
                    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
                    break;
                }
            }
        }
        for (ticket, i) in &accepted {
            store.wait(*ticket).unwrap_or_else(|error| panic!("{media:?}: write {i} was accepted: {error}"));
        }
        drop(store);
        let store = options().open(&path).unwrap();
        for (_, i) in &accepted {
            assert_eq!(store.get(format!("{i}.0").as_bytes()).unwrap().as_deref(), Some(&b"v"[..]));
        }
    }
}

/// A device that is full, and no quota: a file system of 4 MiB in memory.
#[test]
fn a_full_device_refuses_and_goes_on() {
    let Some(device) = SmallDevice::mount() else {
        report("not run: a_full_device_refuses_and_goes_on because a tmpfs cannot be mounted here");
        return;
    };
    for media in MEDIA {
        let path = device.dir.path().join("pool.fkv");
        let open = || small(media, 64 << 10).open(&path).unwrap_or_else(|error| panic!("{media:?}: {error}"));
        let store = open();
        assert!(matches!(store.put(b"blob", &vec![1; 8 << 20]), Err(Error::NoSpace { .. })));
        let (mut taken, refusal) = fill(&store, 500);
        assert!(matches!(refusal, Error::NoSpace { .. }), "{refusal}");
        assert!(taken.len() > 2000, "{media:?}: {} entries", taken.len());
        check(&store, &taken);
        assert!(store.delete(b"key 0").unwrap());
        taken.remove(&b"key 0"[..]);
        drop(store);
        for _ in 0..5 {
            check(&open(), &taken);
        }
        let store = open();
        store.close().unwrap();
        drop(store);
        check(&open(), &taken);
        std::fs::remove_file(&path).unwrap();
    }
}

/// What was given back may be somebody else's by the time it is needed again: an error, not a signal, also after an open.
#[test]
fn space_that_somebody_took_meanwhile_is_refused_and_used_once_it_is_there_again() {
    let Some(device) = SmallDevice::mount() else {
        report("not run: space_that_somebody_took_meanwhile because a tmpfs cannot be mounted here");
        return;
    };
    for media in MEDIA {
        let path = device.dir.path().join("pool.fkv");
        let open = || small(media, 32 << 10).open(&path).unwrap_or_else(|error| panic!("{media:?}: {error}"));
        let mut store = open();
        let value = |key: u32| vec![key as u8; 400];
        (0..4000_u32).for_each(|key| store.put(&key.to_le_bytes(), &value(key)).unwrap());
        let is_kept = |key: u32| key.is_multiple_of(100);
        (0..4000)
            .filter(|key| !is_kept(*key))
            .for_each(|key| assert!(store.delete(&key.to_le_bytes()).unwrap()));
        let end = Instant::now() + Duration::from_secs(30);
        while stat(&store, "segments_given_back") < 20 {
            assert!(Instant::now() < end, "{media:?}: {}", store.stats_json());
            std::thread::sleep(Duration::from_millis(50));
        }
        let other = device.dir.path().join("other");
        let (mut file, piece) = (std::fs::File::create(&other).unwrap(), vec![1; 4096]);
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        drop(file);
        for round in 0..3 {
            let (taken, refusal) = fill(&store, 400);
            assert!(matches!(refusal, Error::NoSpace { .. }), "{media:?}: {refusal}");
            (0..4000_u32).for_each(|key| {
                let found = store.get(&key.to_le_bytes()).unwrap();
                assert_eq!(found, is_kept(key).then(|| value(key)), "{media:?}: key {key}");
            });
            taken
                .keys()
                .for_each(|key| assert!(store.delete(key).unwrap(), "{media:?}: a full device deletes"));
            if round == 1 {
                store.close().unwrap();
            }
            drop(store);
            store = open();
        }
        std::fs::remove_file(&other).unwrap();
        (5000..7000_u32).for_each(|key| {
            let put = store.put(&key.to_le_bytes(), &value(key));
            put.unwrap_or_else(|error| panic!("{media:?}: {error} {}", store.stats_json()));
        });
        drop(store);
        std::fs::remove_file(&path).unwrap();
    }
}

struct SmallDevice {
    dir: tempfile::TempDir,
}

impl SmallDevice {
    fn mount() -> Option<SmallDevice> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDevice { dir })
    }
}

impl Drop for SmallDevice {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).output();
    }
}

/// Many times the pool's size of overwrites, at a pool that is half full: the cleaner makes the room.
#[test]
fn a_pool_that_is_overwritten_for_ever_takes_it() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = || small(media, SEGMENT).max_bytes(4 << 20).open(&path).unwrap();
        let mut store = open();
        let keys = 16_000_u64;
        let mut expected = vec![0_u32; keys as usize];
        let value = |round: u32| [&round.to_le_bytes()[..], &[7; 60]].concat();
        let mut batch = WriteBatch::new();
        for key in 0..keys {
            batch.put(&key.to_le_bytes(), &value(0)).unwrap();
            if key % 32 == 31 {
                store.write(&batch).unwrap();
                batch = WriteBatch::new();
            }
        }
        let mut rng = common::Rng(7);
        for round in 1..100_000_u32 {
            let key = rng.below(keys as usize);
            store.put(&(key as u64).to_le_bytes(), &value(round)).unwrap_or_else(|error| {
                panic!("{media:?}, overwrite {round}: {error}\n{}", store.stats_json())
            });
            expected[key] = round;
            if round == 50_000 {
                drop(store);
                store = open();
            }
        }
        let check = |store: &Store| {
            for (key, round) in expected.iter().enumerate() {
                let found = store.get(&(key as u64).to_le_bytes()).unwrap();
                assert_eq!(found, Some(value(*round)), "{media:?}: key {key}");
            }
        };
        check(&store);
        assert!(stat(&store, "cleaner.segments_freed") > 100);
        store.close().unwrap();
        drop(store);
        check(&open());
    }
}

#[test]
fn after_deletes_a_full_pool_takes_puts_again_without_reopening() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = open(media, &dir.path().join("pool.fkv"));
        for round in 0..5 {
            let (taken, refusal) = fill(&store, 100);
            assert!(matches!(refusal, Error::NoSpace { .. }), "{media:?}, round {round}: {refusal}");
            assert!(taken.len() > 300, "{media:?}, round {round}: {} entries", taken.len());
            check(&store, &taken);
            for key in taken.keys() {
                let found = store.delete(key);
                let found = found
                    .unwrap_or_else(|error| panic!("a full pool deletes: {error} {}", store.stats_json()));
                assert!(found, "{media:?}, round {round}");
            }
        }
    }
}

/// Deleting the check broke nothing: no test had met it.
#[test]
fn maintenance_is_not_paused_while_a_pool_is_full() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = open(media, &dir.path().join("pool.fkv"));
        let mut taken = BTreeMap::new();
        // What the cleaner finds right behind a refusal makes room, and a pause is in order: the pool is filled again then.
        let refusal = (0..10).find_map(|_| {
            taken.extend(fill(&store, 100).0);
            let paused = store.maintenance_pause();
            if paused.is_ok() {
                store.maintenance_resume().unwrap();
            }
            paused.err()
        });
        let refusal = refusal.expect("the next write needs the cleaner");
        assert!(matches!(refusal, Error::NoSpace { .. }), "{media:?}: {refusal}");
        taken.keys().for_each(|key| assert!(store.delete(key).unwrap(), "{media:?}: it goes on"));
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(refusal) = store.maintenance_pause() {
            assert!(Instant::now() < end, "{media:?}: {refusal}: {}", store.stats_json());
            std::thread::sleep(Duration::from_millis(20));
        }
        store.put(b"key", b"while paused").unwrap();
        store.maintenance_resume().unwrap();
    }
}

/// No test had met it: what would fit if somebody cleaned is not called full.
#[test]
fn a_write_that_lacks_nothing_but_cleaning_times_out_and_works_once_that_goes_on() {
    for media in MEDIA {
        let dir = memory_dir();
        let options = small(media, SEGMENT).max_bytes(QUOTA).write_stall_ms_max(30);
        let store = options.open(dir.path().join("pool.fkv")).unwrap();
        store.put(b"other", b"1").unwrap();
        store.maintenance_pause().unwrap();
        // All that fills the pool are dead values of one key.
        let value = |round: u32| vec![round as u8; 1000];
        let (newest, refusal) = (0..)
            .find_map(|round| store.put(b"key", &value(round)).err().map(|refusal| (round - 1, refusal)))
            .expect("the quota ends it");
        let is_timed_out =
            |refusal: &Error| matches!(refusal, Error::TimedOut(why) if why.contains("no room"));
        assert!(is_timed_out(&refusal), "{media:?}: {refusal}");
        let mut batch = WriteBatch::new();
        batch.put(b"new", &value(0)).unwrap();
        batch.delete(b"other").unwrap();
        for (what, result) in [
            ("put", store.put(b"new", &value(0))),
            ("large put", store.put(b"key", &vec![0; 5000])),
            ("batch", store.write(&batch)),
        ] {
            let refusal = result.expect_err(what);
            assert!(is_timed_out(&refusal), "{media:?}, {what}: {refusal}");
        }
        let is_unchanged = || {
            assert_eq!(store.get(b"key").unwrap(), Some(value(newest)), "{media:?}");
            assert_eq!(store.get(b"new").unwrap(), None, "{media:?}");
            assert_eq!(store.get(b"other").unwrap().as_deref(), Some(&b"1"[..]), "{media:?}");
            store.health().unwrap();
        };
        is_unchanged();
        assert_sound(&store, "after writes that timed out");
        assert!(stat(&store, "cleaner.stalls") >= 4, "{media:?}: {}", store.stats_json());
        store.maintenance_resume().unwrap();
        // On a busy machine the cleaner may need more than one wait.
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(refusal) = store.write(&batch) {
            assert!(is_timed_out(&refusal) && Instant::now() < end, "{media:?}: {refusal}");
            is_unchanged();
        }
        assert_eq!(store.get(b"new").unwrap(), Some(value(0)), "{media:?}");
        assert_eq!(store.get(b"other").unwrap(), None, "{media:?}");
    }
}

/// Segments of the log and of extents, but for log heads.
fn segments_in_use(store: &Store) -> u64 {
    ["sealed", "open", "releasable"].iter().map(|state| stat(store, &format!("segments.{state}"))).sum()
}

#[test]
fn what_was_deleted_takes_no_space_once_nobody_writes() {
    const KEYS: u32 = 6000;
    const BLOBS: u32 = 20;
    for media in MEDIA {
        let dir = memory_dir();
        let store = small(media, SEGMENT).max_bytes(16 << 20).open(dir.path().join("pool.fkv")).unwrap();
        let value = |number: u32| vec![number as u8; if number < BLOBS { 60_000 } else { 100 }];
        (0..KEYS).for_each(|number| store.put(&number.to_le_bytes(), &value(number)).unwrap());
        assert!(segments_in_use(&store) > 100, "{media:?}: {}", store.stats_json());
        (0..KEYS).for_each(|number| assert!(store.delete(&number.to_le_bytes()).unwrap()));
        let allowed = 2 * stat(&store, "logs");
        let end = Instant::now() + Duration::from_secs(20);
        while segments_in_use(&store) > allowed && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(segments_in_use(&store) <= allowed, "{media:?}: {}", store.stats_json());
        (0..KEYS).for_each(|number| assert_eq!(store.get(&number.to_le_bytes()).unwrap(), None));
        // And that comes to an end.
        loop {
            let rolls = stat(&store, "rolls");
            std::thread::sleep(Duration::from_millis(400));
            if stat(&store, "rolls") == rolls {
                break;
            }
            assert!(Instant::now() < end, "{media:?}: {}", store.stats_json());
        }
    }
}
