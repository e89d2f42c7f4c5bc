//! Bugs that were found, each by the sequence that showed it.

mod common;

use common::{memory_dir, small, stat, with_logs};
use flatkv::{Error, MediaChoice, Store, WriteBatch};

/// The commit of a batch that is larger than a frame may be alone in its head. Recovery took such a head for an empty one
/// and gave it back: the batch was there after the first open and gone after the second.
#[test]
fn a_large_batch_whose_commit_is_alone_in_its_head_survives_two_opens() {
    for entries in 20..60_u32 {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = || small(MediaChoice::EmulatedPm, 4096).open(&path).unwrap();
        let store = open();
        // As many segments as make the list of them in each head about as long as it may be: then a frame fills a head.
        for i in 0..36_u32 {
            store.put(format!("blob {i}").as_bytes(), &[1; 3000]).unwrap();
        }
        let mut batch = WriteBatch::new();
        for i in 0..entries {
            batch.put(format!("batch {i:02}").as_bytes(), &[7; 80]).unwrap();
        }
        store.write(&batch).unwrap();
        drop(store);
        for opened in 1..=3 {
            let store = open();
            for i in 0..entries {
                let found = store.get(format!("batch {i:02}").as_bytes()).unwrap();
                assert_eq!(
                    found.as_deref(),
                    Some(&[7; 80][..]),
                    "{entries} entries, open {opened}, batch {i}"
                );
            }
        }
    }
}

/// The list of segments in a head has a limit. Blobs opened segments beyond it, and then nothing could roll any more: every
/// write was refused as unsupported, and after an unclean end the pool could not even be opened.
#[test]
fn a_pool_with_as_many_segments_as_a_head_can_list_is_full_and_opens_again() {
    for media in common::MEDIA {
        for value_len in [50, 3000] {
            let dir = memory_dir();
            let path = dir.path().join("pool.fkv");
            let open = || small(media, 8192).open(&path).unwrap_or_else(|error| panic!("{media:?}: {error}"));
            let store = open();
            let value = vec![3; value_len];
            let mut count = 0_u32;
            let refused = loop {
                match store.put(&count.to_ne_bytes(), &value) {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, Error::NoSpace { .. }), "{media:?}, {value_len}: {refused}");
            assert!(store.delete(&0_u32.to_ne_bytes()).unwrap());
            drop(store);
            let store = open();
            assert_eq!(store.get(&0_u32.to_ne_bytes()).unwrap(), None);
            for i in 1..count {
                assert_eq!(store.get(&i.to_ne_bytes()).unwrap().as_ref(), Some(&value));
            }
        }
    }
}

/// After an unclean end every log gets a new head out of the reserve. A full pool that was written to after each such open
/// used the reserve up, one or two segments at a time, and then did not open any more.
#[test]
fn a_full_pool_that_dies_after_every_write_still_opens() {
    for (media, logs) in [(MediaChoice::File, 1), (MediaChoice::EmulatedPm, 1), (MediaChoice::EmulatedPm, 2)]
    {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let open = |round: usize| {
            let options = with_logs(small(media, 16 << 10).max_bytes(400 << 10), logs);
            options
                .open(&path)
                .unwrap_or_else(|error| panic!("{media:?}, {logs} logs, round {round}: {error}"))
        };
        let store = open(0);
        let count = (0..).find(|i: &u32| store.put(&i.to_ne_bytes(), &[5; 200]).is_err()).unwrap();
        drop(store);
        let mut deleted = 0;
        for round in 1..50 {
            let store = open(round);
            for i in deleted..count {
                assert_eq!(store.get(&i.to_ne_bytes()).unwrap().as_deref(), Some(&[5; 200][..]));
            }
            // From a thread of its own, so that every log gets its turn.
            let put = std::thread::scope(|scope| scope.spawn(|| store.put(b"more", b"")).join().unwrap());
            assert!(matches!(put, Ok(()) | Err(Error::NoSpace { .. })), "{put:?}");
            match store.delete(&deleted.to_ne_bytes()) {
                Ok(found) => {
                    assert!(found);
                    deleted += 1;
                }
                Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
            }
            if round % 7 == 0 {
                store.close().unwrap();
            }
        }
        assert!(deleted > 0, "a full pool deletes");
    }
}

/// What open survivor segments still took was lent to deletes, too. A full pool whose deletes had used that up and that was
/// killed had no slot left to clean with, so nothing could be deleted any more.
#[test]
fn a_pool_that_dies_when_deletes_have_used_their_share_still_deletes() {
    for (media, logs) in [(MediaChoice::File, 1), (MediaChoice::EmulatedPm, 1), (MediaChoice::EmulatedPm, 2)]
    {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let options =
            || with_logs(small(media, 16 << 10).max_bytes(1 << 20), logs).write_stall_ms_max(10_000);
        let mut store = options().open(&path).unwrap();
        // From threads of their own, so that every log gets its turn.
        let put = |store: &Store, i: u32| {
            std::thread::scope(|scope| scope.spawn(|| store.put(&i.to_ne_bytes(), &[5; 200])).join().unwrap())
        };
        let mut left: Vec<u32> = (0..).take_while(|i| put(&store, *i).is_ok()).collect();
        let count = left.len();
        // A tombstone frees nothing until a segment is cleaned: those of far keys cost the most.
        for round in 0.. {
            let here: Vec<u32> = left.iter().copied().skip(round % 7).step_by(11).take(40).collect();
            for i in &here {
                let deleted = store.delete(&i.to_ne_bytes());
                assert!(matches!(deleted, Ok(true)), "{media:?}, {logs} logs, round {round}: {deleted:?}");
            }
            left.retain(|i| !here.contains(i));
            if left.len() < count / 4 {
                break;
            }
            drop(store);
            store = options().open(&path).unwrap();
        }
        assert!(left.iter().all(|i| store.exists(&i.to_ne_bytes()).unwrap()), "{media:?}, {logs} logs");
        put(&store, u32::MAX).unwrap();
    }
}

/// A large batch was refused only when the pool was full, with most of its parts written: nobody saw them, but they had used
/// the space up, and a small put was refused after it.
#[test]
fn a_large_batch_that_is_refused_leaves_the_space_to_others() {
    for media in common::MEDIA {
        let dir = memory_dir();
        let store = small(media, 16 << 10).max_bytes(600 << 10).open(dir.path().join("pool.fkv")).unwrap();
        store.put(b"before", b"1").unwrap();
        let mut batch = WriteBatch::new();
        for i in 0..4000_u32 {
            batch.put(&i.to_ne_bytes(), &[7; 80]).unwrap();
        }
        let used = common::stat(&store, "segments.sealed");
        for _ in 0..5 {
            let refused = store.write(&batch).unwrap_err();
            assert!(matches!(refused, Error::NoSpace { .. }), "{media:?}: {refused}");
            assert_eq!(store.get(&1_u32.to_ne_bytes()).unwrap(), None);
        }
        assert_eq!(common::stat(&store, "segments.sealed"), used, "{media:?}: nothing was written");
        for i in 0..200_u32 {
            store.put(&i.to_ne_bytes(), &[1; 80]).unwrap();
        }
    }
}

/// A pinned value that lies in several pieces is a copy, and did not count as pinned: whether `close` answered `Busy`
/// depended on how fragmented the pool was.
#[test]
fn a_pinned_copy_keeps_the_store_open_like_any_pin() {
    for media in common::MEDIA {
        let dir = memory_dir();
        let store = small(media, 8192).open(dir.path().join("pool.fkv")).unwrap();
        store.put(b"large", &[5; 20_000]).unwrap();
        let pin = store.get_pinned(b"large").unwrap().unwrap();
        assert!(!pin.is_zero_copy(), "it exceeds a segment");
        assert!(matches!(store.close(), Err(Error::Busy(_))), "{media:?}");
        drop(pin);
        store.close().unwrap();
    }
}

/// Two deletes at one time were both told that they had deleted the one value.
#[test]
fn of_two_deletes_of_one_value_one_finds_it() {
    let dir = memory_dir();
    let store = small(MediaChoice::EmulatedPm, 64 << 10).open(dir.path().join("pool.fkv")).unwrap();
    for round in 0..2_000_u32 {
        let key = round.to_ne_bytes();
        store.put(&key, b"value").unwrap();
        let together = std::sync::Barrier::new(2);
        let delete = || {
            together.wait();
            store.delete(&key).unwrap()
        };
        let (mine, other) = std::thread::scope(|scope| {
            let other = scope.spawn(delete);
            (delete(), other.join().unwrap())
        });
        assert!(mine ^ other, "round {round}: {mine} and {other}");
    }
}

/// Frames begin on lines of their own, and a group of asynchronous writes was measured without the padding between its
/// frames. It could need two heads where one had been set aside: at the end of a quota an accepted write then failed.
#[test]
fn a_group_of_many_small_batches_fits_the_head_that_was_set_aside_for_it() {
    for fill in 0..40_u32 {
        let dir = memory_dir();
        let options =
            small(MediaChoice::EmulatedPm, 4096).max_bytes(100 << 10).commit_wait_us_max(60_000_000);
        let store = with_logs(options, 1).open(dir.path().join("pool.fkv")).unwrap();
        for i in 0..fill {
            store.put(&i.to_ne_bytes(), b"fill").unwrap();
        }
        let mut last = None;
        for i in 0_u32.. {
            let mut batch = WriteBatch::new();
            batch.put(&i.to_ne_bytes(), b"").unwrap();
            batch.put(&(!i).to_ne_bytes(), b"").unwrap();
            batch.put(&(i ^ 0x5555_5555).to_ne_bytes(), b"").unwrap();
            match store.write_async(&batch) {
                Ok(ticket) => last = Some(ticket),
                Err(error) => {
                    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
                    break;
                }
            }
        }
        store.wait(last.unwrap()).unwrap_or_else(|error| panic!("fill {fill}: accepted, and then: {error}"));
    }
}

/// Slots were counted by the length of the file: a pool that somebody had made long with `truncate` took more memory than
/// the machine has to open, and with small segments its last slots lay beyond the table of segments.
#[test]
fn a_pool_that_was_made_terabytes_long_opens_at_once_and_lacks_nothing() {
    for media in common::MEDIA {
        for segment_size_bytes in [8192, 64 << 10, 16 << 20] {
            let dir = memory_dir();
            let path = dir.path().join("pool.fkv");
            let open = || {
                let started = std::time::Instant::now();
                let store = small(media, segment_size_bytes).open(&path).unwrap();
                assert!(started.elapsed().as_secs() < 10, "{media:?}, segments of {segment_size_bytes}");
                store
            };
            let store = open();
            store.put(b"key", b"value").unwrap();
            store.put(b"blob", &[7; 20_000]).unwrap();
            drop(store);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(8 << 40).unwrap();
            for round in 0..3_u32 {
                let store = open();
                assert_eq!(store.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
                assert_eq!(store.get(b"blob").unwrap().as_deref(), Some(&[7; 20_000][..]));
                store.put(&round.to_ne_bytes(), b"more").unwrap();
                if round == 1 {
                    store.close().unwrap();
                }
            }
        }
    }
}

/// Holes were filled whatever their size, so the list of a large value's pieces outgrew a frame: it was refused as too large,
/// after all of it had been written.
#[test]
fn a_large_value_does_not_go_into_more_holes_than_an_entry_can_name() {
    for media in common::MEDIA {
        let dir = memory_dir();
        let options = small(media, 64 << 10).inline_value_bytes_max(1024);
        let store = with_logs(options, 1).open(dir.path().join("pool.fkv")).unwrap();
        for i in 0..8000_u32 {
            store.put(&i.to_ne_bytes(), &[i as u8; 3000]).unwrap();
        }
        for i in (0..8000_u32).step_by(2) {
            store.delete(&i.to_ne_bytes()).unwrap();
        }
        store.sync().unwrap();
        let large: Vec<u8> = (0..14_500_000_u32).map(|i| (i >> 5) as u8).collect();
        store.put(b"large", &large).unwrap();
        assert!(store.get(b"large").unwrap().unwrap() == large, "{media:?}");
        let before = std::fs::metadata(dir.path().join("pool.fkv")).unwrap().len();
        let refusal = store.put(b"too large", &vec![0; 250 << 20]).unwrap_err();
        assert!(matches!(refusal, Error::TooLarge { .. }), "{refusal}");
        assert_eq!(
            std::fs::metadata(dir.path().join("pool.fkv")).unwrap().len(),
            before,
            "refused, so not written"
        );
        for i in (1..8000_u32).step_by(2) {
            assert_eq!(store.get(&i.to_ne_bytes()).unwrap().unwrap(), [i as u8; 3000]);
        }
    }
}

/// A batch was counted each time it was staged: one that had to wait for room counted twice or more.
#[test]
fn a_batch_that_waits_for_room_is_counted_once() {
    let dir = memory_dir();
    let options = small(MediaChoice::EmulatedPm, 16 << 10).max_bytes(600 << 10);
    let store = with_logs(options, 1).open(dir.path().join("pool.fkv")).unwrap();
    let mut accepted = 0_u64;
    for round in 0..4000_u64 {
        let mut batch = WriteBatch::new();
        (0..10_u64)
            .for_each(|i| batch.put(&(round * 7 + i).rem_euclid(500).to_ne_bytes(), &[1; 100]).unwrap());
        store.write(&batch).unwrap_or_else(|error| panic!("{error}\n{}", store.stats_json()));
        accepted += 10;
    }
    assert!(stat(&store, "cleaner.stalls") > 0, "no batch had to wait: {}", store.stats_json());
    assert_eq!(stat(&store, "puts"), accepted);
}
