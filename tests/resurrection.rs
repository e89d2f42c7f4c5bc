//! Nothing that was deleted or overwritten returns: random puts, overwrites, deletes and batches in a small pool that is
//! cleaned all the time, crashed and recovered over and over; after each recovery every key there ever was is compared.
//!
//! `RESURRECTION_SEED=n` runs that history alone, `RESURRECTION_SEEDS` and `RESURRECTION_OPERATIONS` make it longer, and
//! `RESURRECTION_FIRST` is the first of the seeds.

mod common;

use common::{Rng, report};
use flatkv::testing::sim::{Level, PageCache, SimKind, SimMedia};
use flatkv::{Durability, Error, IndexKind, Options, Store, WriteBatch, WriteOptions, testing};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 100;
const OPERATIONS: u64 = 100_000;
/// Most of them have no value at any time: tombstones have to go.
const KEYS: usize = 1_500;
const CAPACITY_BYTES: u64 = 512 << 10;
/// A power cut comes during one of the last operations of a session, so many at most before its end.
const CUT_OPERATIONS_MAX: usize = 40;

/// A value's number: which bytes it has follows from it. 0 is no value.
type Version = u32;

fn key(number: usize) -> Vec<u8> {
    let mut key = format!("{number}").into_bytes();
    key.resize(4 + number % 21, b'-');
    key
}

fn value(version: Version) -> Vec<u8> {
    let mut rng = Rng(u64::from(version));
    let len = match rng.below(48) {
        0 => 1_500 + rng.below(3_500),
        1..4 => 0,
        4..12 => rng.below(700),
        _ => rng.below(90),
    };
    let mut value = version.to_le_bytes().repeat(len.div_ceil(4).max(1));
    value.truncate(len.max(4));
    value
}

fn version_of(bytes: &[u8]) -> Version {
    bytes.get(..4).map_or(0, |head| Version::from_le_bytes(head.try_into().expect("four bytes")))
}

/// What an operation changed, and when.
struct Done {
    begin: usize,
    end: usize,
    /// Key and what it was before.
    before: Vec<(usize, Version)>,
}

#[derive(Default)]
struct Tally {
    operations: u64,
    power_cuts: u64,
    kills: u64,
    closes: u64,
    uncertain: u64,
    compared: u64,
    deletes: u64,
    freed: u64,
    /// Of these by tidying.
    tidied: u64,
    moved: u64,
    /// Keys that lost their tombstone, by index kind.
    forgotten: [u64; 2],
}

/// The even ones of two seeds of a medium, and the odd ones.
const INDEXES: [IndexKind; 2] = [IndexKind::Hash, IndexKind::Ordered];

struct Case {
    kind: SimKind,
    index: usize,
    rng: Rng,
    media: Arc<SimMedia>,
    store: Store,
    shown: Vec<Version>,
    written: Vec<bool>,
    live: usize,
    next_version: Version,
    tally: Tally,
}

fn options(kind: SimKind, index: usize) -> Options {
    let segment = if kind == SimKind::Pm { 4 << 10 } else { 8 << 10 };
    let quota = if kind == SimKind::Pm { 200 << 10 } else { 420 << 10 };
    testing::options().segment_size_bytes(segment).max_bytes(quota).index(INDEXES[index])
}

impl Case {
    fn new(seed: u64) -> Case {
        let kind = if seed.is_multiple_of(2) { SimKind::Pm } else { SimKind::File };
        let index = (seed / 2 % 2) as usize;
        let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
        let store = testing::open_on(media.clone(), options(kind, index)).expect("a fresh pool");
        Case {
            kind,
            index,
            rng: Rng(seed),
            media,
            store,
            shown: vec![0; KEYS],
            written: vec![false; KEYS],
            live: 0,
            next_version: 1,
            tally: Tally::default(),
        }
    }

    /// A key to write: mostly one of a few that are always written, else any.
    fn key(&mut self) -> usize {
        if self.rng.one_in(3) { self.rng.below(60) } else { self.rng.below(KEYS) }
    }

    /// A new value, or a delete where there are many values.
    fn change(&mut self) -> (usize, Version) {
        let number = self.key();
        let deletes = if self.live > 300 { 3 } else { 1 };
        if self.rng.below(4) < deletes {
            return (number, 0);
        }
        self.next_version += 1;
        (number, self.next_version - 1)
    }

    /// One operation; what is refused for want of space changes nothing.
    fn operation(&mut self, durability: Durability) -> Done {
        let begin = self.media.event_count();
        let options = WriteOptions::new().durability(durability);
        let mut changes = Vec::new();
        let result = match self.rng.below(400) {
            0..5 => {
                changes.extend((0..2 + self.rng.below(30)).map(|_| self.change()));
                let mut batch = WriteBatch::new();
                for (number, version) in &changes {
                    match version {
                        0 => batch.delete(&key(*number)),
                        version => batch.put(&key(*number), &value(*version)),
                    }
                    .expect("short");
                }
                self.store.write_with(&options, &batch)
            }
            5..8 => testing::clean(&self.store).map(drop),
            8..12 => testing::clean_without_roll(&self.store).map(drop),
            12 => testing::mark_idle(&self.store),
            13 if self.rng.one_in(8) => {
                self.tidy_up();
                Ok(())
            }
            _ => {
                let change = self.change();
                changes.push(change);
                match change {
                    (number, 0) => self.store.delete_with(&options, &key(number)).map(|found| {
                        assert_eq!(found, self.shown[number] != 0, "delete of key {number}");
                    }),
                    (number, version) => self.store.put_with(&options, &key(number), &value(version)),
                }
            }
        };
        self.tally.operations += 1;
        let mut done = Done { begin, end: self.media.event_count(), before: Vec::new() };
        match result {
            Ok(()) => {
                for (number, version) in changes {
                    done.before.push((number, self.shown[number]));
                    self.tally.deletes += u64::from(version == 0 && self.shown[number] != 0);
                    self.show(number, version);
                }
            }
            Err(Error::NoSpace { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        done
    }

    /// What the cleaner does while nobody writes.
    fn tidy_up(&mut self) {
        let freed = |case: &Case| common::stat(&case.store, "cleaner.segments_freed");
        let before = freed(self);
        testing::tidy_up(&self.store);
        self.store.health().expect("nothing fails");
        self.tally.tidied += freed(self) - before;
    }

    fn show(&mut self, number: usize, version: Version) {
        self.live += usize::from(version != 0);
        self.live -= usize::from(self.shown[number] != 0);
        self.shown[number] = version;
        self.written[number] |= version != 0;
    }

    fn undo(&mut self, done: &Done) {
        done.before.iter().rev().for_each(|(number, version)| self.show(*number, *version));
    }

    /// Works for a while, ends in one of the ways a process can end, and opens what that left.
    fn session(&mut self, operations: u64) {
        let end = self.rng.below(8);
        let mut history = Vec::new();
        for _ in 0..operations {
            // What `os` writes leave after a power cut depends on more than their order.
            let is_os = end < 2 && self.rng.one_in(4);
            history.push(self.operation(if is_os { Durability::Os } else { Durability::Sync }));
        }
        let stat = |name: &str| common::stat(&self.store, name);
        self.tally.freed += stat("cleaner.segments_freed");
        self.tally.moved += stat("cleaner.entries_moved");
        let mut uncertain = None;
        match end {
            0 | 1 => {
                testing::kill(&self.store);
                let recording = self.media.power_off();
                let mut replay = recording.replay();
                replay.advance_to(recording.last_point());
                self.media = Arc::new(SimMedia::after_kill(&replay, PageCache::Kept));
                self.tally.kills += 1;
            }
            2 => {
                self.store.close().expect("nothing is pinned");
                let image = self.media.view();
                self.media = Arc::new(SimMedia::from_image(self.kind, &image, CAPACITY_BYTES));
                self.tally.closes += 1;
            }
            _ => uncertain = self.cut_power(&mut history),
        }
        self.store = testing::open_on(self.media.clone(), options(self.kind, self.index))
            .unwrap_or_else(|error| panic!("open failed: {error}"));
        self.compare(uncertain);
    }

    /// Cuts the power during one of the last operations. The one of which nobody knows whether it happened.
    fn cut_power(&mut self, history: &mut Vec<Done>) -> Option<Done> {
        testing::kill(&self.store);
        let recording = self.media.power_off();
        for _ in 0..self.rng.below(CUT_OPERATIONS_MAX.min(history.len())) {
            let last = history.pop().expect("counted");
            self.undo(&last);
        }
        let last = history.pop().expect("one is left");
        let point = last.begin + self.rng.below(last.end - last.begin + 1);
        let point = point.max(recording.first_point());
        let mut replay = recording.replay();
        replay.advance_to(point);
        let level = [Level::A, Level::B, Level::C, Level::D][self.rng.below(4)];
        let images = replay.images(level, 64, self.rng.next());
        let number = self.rng.below(images.possible().min(64) as usize) as u64;
        self.media = Arc::new(SimMedia::from_crash(&images.nth_image(number)));
        self.tally.power_cuts += 1;
        if point >= last.end || last.before.is_empty() {
            return None;
        }
        self.tally.uncertain += 1;
        Some(last)
    }

    /// Every key shows what it has to, wholly or not at all with the operation in which the power failed.
    fn compare(&mut self, uncertain: Option<Done>) {
        let found: Vec<Version> = (0..KEYS).map(|number| self.found(number)).collect();
        self.tally.compared += KEYS as u64;
        if found != self.shown
            && let Some(last) = uncertain
        {
            self.undo(&last);
        }
        for (number, version) in found.into_iter().enumerate() {
            let expected = self.shown[number];
            assert_eq!(version, expected, "key {number} shows version {version} instead of {expected}");
        }
        let verification = self.store.verify().expect("it is open");
        assert!(verification.is_ok() && verification.is_quiet, "{:#?}", verification.findings);
        // Of a key that was written and is in no index any more, the tombstone is gone, too.
        let written = self.written.iter().filter(|written| **written).count() as u64;
        self.tally.forgotten[self.index] += written.saturating_sub(common::stat(&self.store, "keys"));
    }

    fn found(&self, number: usize) -> Version {
        let Some(bytes) = self.store.get(&key(number)).expect("nothing is damaged") else { return 0 };
        let version = version_of(&bytes);
        assert_eq!(bytes, value(version), "the value of key {number}");
        version
    }

    fn run(mut self, operations: u64) -> Tally {
        while self.tally.operations < operations {
            let most = operations - self.tally.operations;
            let longest = if self.rng.one_in(4) { 3_000 } else { 600 };
            let session = 1 + self.rng.below(longest) as u64;
            self.session(session.min(most));
        }
        self.tally
    }
}

impl Tally {
    fn merge(&mut self, other: &Tally) {
        self.operations += other.operations;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.closes += other.closes;
        self.uncertain += other.uncertain;
        self.compared += other.compared;
        self.deletes += other.deletes;
        self.freed += other.freed;
        self.tidied += other.tidied;
        self.moved += other.moved;
        self.forgotten.iter_mut().zip(other.forgotten).for_each(|(all, more)| *all += more);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

fn run_seed(seed: u64, operations: u64) -> Tally {
    let run = std::panic::AssertUnwindSafe(|| Case::new(seed).run(operations));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        report(&format!("replay: RESURRECTION_SEED={seed} RESURRECTION_OPERATIONS={operations}"));
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn nothing_that_was_deleted_or_overwritten_ever_returns() {
    let operations = number("RESURRECTION_OPERATIONS").unwrap_or(OPERATIONS);
    let (first, count) = match number("RESURRECTION_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("RESURRECTION_FIRST").unwrap_or(0),
            number("RESURRECTION_SEEDS").unwrap_or(if cfg!(debug_assertions) { 4 } else { SEEDS }),
        ),
    };
    let next = AtomicU64::new(first);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(count as usize);
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return tally;
                }
                tally.merge(&run_seed(seed, operations));
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            total.merge(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    let [by_hash, by_order] = total.forgotten;
    let Tally { power_cuts, kills, closes, uncertain, compared, deletes, freed, tidied, moved, .. } = total;
    report(&format!(
        "resurrection: {count} seeds, {} operations, {deletes} deletes, {power_cuts} power cuts ({uncertain} in a write), \
         {kills} kills, {closes} closes, {freed} segments freed ({tidied} by tidying), {moved} entries moved, \
         {compared} keys compared, {by_hash} of them without a tombstone (ordered: {by_order}), 0 returned",
        total.operations
    ));
    assert!(total.operations >= count * operations);
    let enough = total.operations / 400;
    assert!(freed > enough && moved > enough && deletes > enough, "the pools are cleaned all the time");
    assert!(tidied >= total.operations / 100_000, "the pools are tidied up now and then");
    let has_both = count > 3;
    assert!(by_hash + by_order > enough, "tombstones go");
    assert!(!has_both || by_hash.min(by_order) > enough / 3, "with both kinds of index");
}
