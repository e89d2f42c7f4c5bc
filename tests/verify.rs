//! What a verification sees: accounts that equal a full scan after any history, every kind of damage, and nothing wrong while
//! others write.

#![cfg(feature = "sim")]

mod common;

use common::{MEDIA, Rng, assert_exact, memory_dir, small, stat, with_logs};
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{self, format::FOOTER_BYTES};
use flatkv::{Durability, Error, Store, WriteBatch, WriteOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CAPACITY_BYTES: u64 = 512 << 10;
const KEYS: usize = 40;
const SEGMENT_BYTES: u64 = 8192;

fn key(number: usize) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

fn settled(result: Result<(), Error>) {
    if let Err(error) = result {
        assert!(matches!(error, Error::NoSpace { .. } | Error::TooLarge { .. }), "{error}");
    }
}

fn step(store: &Store, rng: &mut Rng) {
    let key = key(rng.below(KEYS));
    match rng.below(20) {
        0..9 => {
            let len = if rng.one_in(8) { rng.below(9000) } else { rng.below(300) };
            let durability = if rng.one_in(5) { Durability::Os } else { Durability::Sync };
            let options = WriteOptions::new().durability(durability);
            settled(store.put_with(&options, &key, &rng.bytes(len)));
        }
        9..13 => settled(store.delete(&key).map(drop)),
        13 | 14 => {
            let mut batch = WriteBatch::new();
            let len = if rng.one_in(3) { 900 } else { 40 };
            for _ in 0..1 + rng.below(14) {
                let key = self::key(rng.below(KEYS));
                if rng.one_in(4) { batch.delete(&key) } else { batch.put(&key, &rng.bytes(len)) }.unwrap();
            }
            settled(store.write(&batch));
        }
        15 => settled(store.put_async(&key, b"later").and_then(|ticket| store.wait(ticket))),
        16 => store.sync().expect("the medium works"),
        _ => drop(testing::clean(store).expect("the medium works")),
    }
}

#[test]
fn after_any_history_the_accounts_are_those_of_a_full_scan() {
    for kind in [SimKind::Pm, SimKind::File] {
        for seed in 0..12 {
            let mut rng = Rng(seed);
            let options = || testing::with_logs(testing::options(), 1 + seed as usize % 3);
            let options = || options().segment_size_bytes(SEGMENT_BYTES);
            let mut media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
            let mut store = testing::open_on(media.clone(), options()).expect("a fresh pool");
            for round in 0..30 {
                for _ in 0..60 {
                    step(&store, &mut rng);
                }
                assert_exact(&store, &format!("{kind:?} seed {seed} round {round}"));
                if rng.one_in(3) {
                    store.close().expect("nothing is pinned");
                } else {
                    testing::kill(&store);
                }
                drop(store);
                media = Arc::new(SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES));
                store = testing::open_on(media.clone(), options()).expect("a sound pool");
                assert_exact(&store, &format!("{kind:?} seed {seed} opened after round {round}"));
            }
        }
    }
}

/// A pool with entries, a tombstone, a blob, and segments that are sealed, the first of them; nothing in it is damaged.
fn sound_pool() -> Vec<u8> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store =
        testing::open_on(media.clone(), testing::options().segment_size_bytes(SEGMENT_BYTES)).unwrap();
    for round in 0..4_u8 {
        (0..KEYS).for_each(|number| store.put(&key(number), &[round; 200]).unwrap());
    }
    store.put(b"blob", &[9; 5000]).unwrap();
    assert!(store.delete(&key(7)).unwrap());
    assert_exact(&store, "a sound pool");
    media.view()
}

/// The first bytes of `image` that are `bytes`.
fn place_of(image: &[u8], bytes: &[u8]) -> usize {
    image.windows(bytes.len()).position(|window| window == bytes).expect("it is there")
}

#[test]
fn bytes_that_rot_under_an_open_store_are_found_and_named() {
    let image = sound_pool();
    let segment_of = |at: usize| 8192 + (at - 8192) / SEGMENT_BYTES as usize * SEGMENT_BYTES as usize;
    let blob = place_of(&image, &[9; 1000]);
    let entry = place_of(&image, b"key 3");
    // The first segment is sealed: its footer ends it.
    let footer = 8192 + SEGMENT_BYTES as usize - FOOTER_BYTES as usize;
    for (at, what) in [
        (blob + 100, "blob chunk checksum"),
        (entry + 1, "frame checksum"),
        (segment_of(entry) + 30, "segment header checksum"),
        (segment_of(blob) + 30, "segment header checksum"),
        (segment_of(entry) + 257, "segment state word"),
        (footer + 20, "footer checksum"),
        (4096 + 100, "superblock"),
    ] {
        let media = Arc::new(SimMedia::from_image(SimKind::File, &image, CAPACITY_BYTES));
        let options = testing::options().segment_size_bytes(SEGMENT_BYTES);
        let store = testing::open_on(media.clone(), options).unwrap();
        assert_exact(&store, what);
        // As a decaying cell does it: below the store.
        let mut now = [0];
        flatkv::testing::Media::read(&*media, at as u64, &mut now).unwrap();
        flatkv::testing::Media::write(&*media, at as u64, &[now[0] ^ 0x10]).unwrap();
        let report = store.verify().unwrap();
        assert!(!report.is_ok(), "{what} at {at}");
        let is_named = |finding: &flatkv::Finding| finding.what.contains(what);
        assert!(report.findings.iter().any(is_named), "{what} at {at}: {:#?}", report.findings);
        assert!(report.to_json().contains(what) && report.to_json().contains("\"ok\":false"));
    }
}

#[test]
fn a_page_that_cannot_be_read_is_a_finding_and_no_end() {
    let image = sound_pool();
    let media = Arc::new(SimMedia::from_image(SimKind::File, &image, CAPACITY_BYTES));
    let store =
        testing::open_on(media.clone(), testing::options().segment_size_bytes(SEGMENT_BYTES)).unwrap();
    let blob = place_of(&image, &[9; 1000]) as u64;
    media.make_unreadable(testing::MediaRange::new(blob, 64));
    let report = store.verify().unwrap();
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    assert_eq!(report.findings[0].what, "blob chunk that can be read");
}

/// Tells others to stop when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nothing that is sound is called damaged, and when all is quiet again the accounts are exact.
#[test]
fn a_verification_beside_writers_and_the_cleaner_finds_nothing() {
    for media in MEDIA {
        let dir = memory_dir();
        let options = with_logs(small(media, 16 << 10), 2).max_bytes(900 << 10);
        let store = options.open(dir.path().join("pool.fkv")).unwrap();
        let is_over = AtomicBool::new(false);
        let mut verifications = 0;
        std::thread::scope(|scope| {
            for writer in 0..3_u64 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || {
                    let mut rng = Rng(writer);
                    while !is_over.load(Ordering::Relaxed) {
                        let key = key(rng.below(200));
                        match rng.below(10) {
                            0..6 => settled(store.put(&key, &rng.bytes(100))),
                            6 => settled(store.put(&key, &rng.bytes(20_000))),
                            7 => settled(store.put_async(&key, &rng.bytes(30)).map(drop)),
                            _ => settled(store.delete(&key).map(drop)),
                        }
                    }
                });
            }
            // Also if an assertion fails: the writers would go on for ever.
            let _stop = Stop(&is_over);
            while stat(&store, "cleaner.segments_freed") < 300 || verifications < 50 {
                let report = store.verify().unwrap();
                assert!(report.is_ok(), "{media:?}: {:#?}\n{}", report.findings, store.stats_json());
                verifications += 1;
            }
        });
        store.sync().unwrap();
        common::stop_cleaning(&store);
        // The housekeeper may still have marks to write.
        common::assert_sound(&store, "when the writers are gone");
        assert_exact(&store, "when all is quiet");
    }
}

/// Names of all numbers in `stats`, those within an object behind its own name.
fn names(stats: &serde_json::Value) -> Vec<(String, String)> {
    let fields = stats.as_object().expect("an object");
    let nested = |(name, value): (&String, &serde_json::Value)| match value.as_object() {
        Some(inner) => inner.keys().map(|field| (name.clone(), field.clone())).collect(),
        None => vec![(String::new(), name.clone())],
    };
    fields.iter().flat_map(nested).collect()
}

#[test]
fn every_statistic_is_explained() {
    let doc = include_str!("../docs/STATISTICS.md");
    let store =
        testing::open_on(Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES)), testing::options()).unwrap();
    let stats = serde_json::from_str(&store.stats_json()).unwrap();
    for (group, name) in names(&stats) {
        let is_explained = match group.as_str() {
            "" => doc.contains(&format!("`{name}`")),
            group => doc
                .lines()
                .any(|line| line.contains(&format!("`{group}.")) && (line.contains(&format!(".{name}`")))),
        };
        assert!(is_explained, "docs/STATISTICS.md does not explain {group} {name}");
    }
    let report = store.verify().unwrap().to_json();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    names(&report).iter().for_each(|(_, name)| assert!(doc.contains(&format!("`{name}`")), "{name}"));
}
