//! Space of large values: it is used again without copies, and what lies scattered is moved together when nothing else makes
//! room. Nothing is lost by that, whoever overwrites, pins or reads meanwhile.

#![cfg(feature = "sim")]

mod common;

use common::{MEDIA, Rng, assert_exact, assert_sound, memory_dir, small, stat};
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{self, Media};
use flatkv::{Error, MediaChoice, Store};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SEGMENT_BYTES: u64 = 64 << 10;
const QUOTA: u64 = 8 << 20;

fn open(media: MediaChoice, path: &Path) -> Store {
    let options = small(media, SEGMENT_BYTES).inline_value_bytes_max(1 << 10).max_bytes(QUOTA);
    options.write_stall_ms_max(20_000).open(path).unwrap_or_else(|error| panic!("{media:?}: {error}"))
}

fn value(number: u32, len: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().repeat(len.div_ceil(4));
    value.truncate(len);
    value
}

/// Puts values of `len` bytes from key `first` on, `total` bytes in all.
fn put_many(store: &Store, first: u32, len: usize, total: u64) -> u32 {
    let end = first + (total / len as u64) as u32;
    for number in first..end {
        store.put(&number.to_le_bytes(), &value(number, len)).unwrap_or_else(|error| {
            panic!(
                "value {} of {} with {len} bytes: {error}\n{}",
                number - first,
                end - first,
                store.stats_json()
            )
        });
    }
    end
}

fn check(store: &Store, numbers: impl Iterator<Item = u32>, len: usize) {
    for number in numbers {
        assert!(store.get(&number.to_le_bytes()).unwrap() == Some(value(number, len)), "key {number}");
    }
}

#[test]
fn a_change_of_sizes_strands_no_space() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path);
        // Large values, four to a segment or so, of which one in five stays; then small ones.
        let end = put_many(&store, 0, 15_000, QUOTA * 7 / 10);
        let kept = || (0..end).filter(|number| number % 5 == 0);
        for number in (0..end).filter(|number| number % 5 != 0) {
            assert!(store.delete(&number.to_le_bytes()).unwrap());
        }
        let first = end;
        let last = put_many(&store, first, 100, QUOTA / 3);
        let moved = stat(&store, "cleaner.blob_bytes_moved");
        assert!(moved > 0 && stat(&store, "cleaner.extent_segments_evacuated") > 4, "{}", store.stats_json());
        check(&store, kept(), 15_000);
        check(&store, first..last, 100);
        assert_sound(&store, "after the sizes changed");
        drop(store);
        let store = open(media, &path);
        check(&store, kept(), 15_000);
        check(&store, first..last, 100);
        assert_sound(&store, "opened again");
    }
}

/// A simulated pool with sparse extent segments: values of 1,500 bytes, of which one in `kept` stays.
fn sparse(kind: SimKind, kept: u32) -> (Arc<SimMedia>, Store, Vec<u32>) {
    let media = Arc::new(SimMedia::new(kind, 1 << 20));
    let options = testing::options().segment_size_bytes(8192).inline_value_bytes_max(512);
    let store = testing::open_on(media.clone(), options).unwrap();
    (0..60).for_each(|number: u32| store.put(&number.to_le_bytes(), &value(number, 1_500)).unwrap());
    for number in (0..60).filter(|number| number % kept != 0) {
        assert!(store.delete(&number.to_le_bytes()).unwrap());
    }
    (media, store, (0..60).filter(|number| number % kept == 0).collect())
}

#[test]
fn sparse_segments_are_emptied_and_free() {
    for kind in [SimKind::Pm, SimKind::File] {
        let (_media, store, kept) = sparse(kind, 4);
        let before = stat(&store, "segments.extent");
        for _ in 0..20 {
            testing::clean(&store).unwrap();
            check(&store, kept.iter().copied(), 1_500);
            assert_exact(&store, "after a pass");
        }
        let after = stat(&store, "segments.extent");
        assert!(after * 2 < before, "{kind:?}: {before} -> {after} extent segments");
    }
}

#[test]
fn a_piece_that_rotted_stays_where_it_is_and_others_are_moved() {
    for kind in [SimKind::Pm, SimKind::File] {
        let (media, store, kept) = sparse(kind, 6);
        let image = media.view();
        let rotten = kept[kept.len() / 2];
        let bytes = value(rotten, 1_000);
        let at = image.windows(bytes.len()).position(|window| window == bytes).expect("it is there");
        Media::write(&*media, at as u64 + 100, &[image[at + 100] ^ 4]).unwrap();
        for _ in 0..20 {
            testing::clean(&store).unwrap();
        }
        assert!(stat(&store, "cleaner.blob_bytes_moved") > 0);
        let got = store.get(&rotten.to_le_bytes());
        assert!(matches!(got, Err(Error::Corrupted { .. })), "never served: {got:?}");
        check(&store, kept.iter().copied().filter(|number| *number != rotten), 1_500);
        let report = store.verify().unwrap();
        assert!(report.findings.iter().all(|finding| finding.what == "blob chunk checksum"), "{report:?}");
    }
}

#[test]
fn a_pinned_value_stays_what_it_was_while_its_neighbours_are_moved() {
    let (_media, store, kept) = sparse(SimKind::Pm, 4);
    let pin = store.get_pinned(&kept[3].to_le_bytes()).unwrap().expect("it is there");
    assert!(pin.is_zero_copy());
    for round in 0..30 {
        testing::clean(&store).unwrap();
        store.put(&(1_000_u32 + round).to_le_bytes(), &value(round, 1_500)).unwrap();
        assert!(*pin == value(kept[3], 1_500)[..]);
    }
    assert!(stat(&store, "cleaner.blob_bytes_moved") > 0);
    check(&store, kept.iter().copied(), 1_500);
    drop(pin);
    assert_exact(&store, "when the pin is gone");
}

/// Writers overwrite, delete and read large and small values of ever changing sizes in a pool that is nearly full.
#[test]
fn values_are_moved_while_others_write_and_read_them() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path);
        let is_over = AtomicBool::new(false);
        let filled = |rng: &mut Rng, number: u32, round: u32| {
            // By turns mostly large and mostly small ones.
            let is_large = rng.one_in(if round % 4_000 < 2_000 { 2 } else { 40 });
            value(number, if is_large { 1_500 + rng.below(30_000) } else { 4 + rng.below(400) })
        };
        std::thread::scope(|scope| {
            for writer in 0..2_u32 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || {
                    let mut rng = Rng(u64::from(writer));
                    for round in 0..16_000 {
                        let number = 2 * rng.below(1_200) as u32 + writer;
                        let full = stat(store, "live_bytes") > QUOTA * 6 / 10;
                        let result = if full || rng.one_in(5) {
                            store.delete(&number.to_le_bytes()).map(drop)
                        } else {
                            store.put(&number.to_le_bytes(), &filled(&mut rng, number, round))
                        };
                        let is_full = matches!(result, Err(Error::NoSpace { .. } | Error::TimedOut(_)));
                        assert!(result.is_ok() || is_full, "{media:?}: {result:?}");
                    }
                    is_over.store(true, Ordering::Relaxed);
                });
            }
            let mut rng = Rng(77);
            while !is_over.load(Ordering::Relaxed) {
                let number = rng.below(2_400) as u32;
                if let Some(found) = store.get(&number.to_le_bytes()).unwrap() {
                    assert!(found == value(number, found.len()), "{media:?}: key {number}");
                }
            }
        });
        let found = |store: &Store| -> Vec<_> {
            (0..2_400_u32).map(|number| store.get(&number.to_le_bytes()).unwrap()).collect()
        };
        let before = found(&store);
        assert_sound(&store, "at the end");
        drop(store);
        let store = open(media, &path);
        assert!(found(&store) == before, "{media:?}");
        assert_sound(&store, "opened again");
    }
}
