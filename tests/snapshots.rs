//! Snapshots and iterators against maps: whatever is written, deleted, cleaned or moved while they are held, they show what
//! the store held when they were made.

#![cfg(feature = "sim")]

mod common;

use common::{MEDIA, Rng, assert_sound, memory_dir, report, small, stat, with_logs};
use flatkv::testing;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Error, IndexKind, Iter, Options, Snapshot, Store, WriteBatch};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const CAPACITY_BYTES: u64 = 4 << 20;
const SEEDS: u64 = 24;
const STEPS: usize = 6_000;

/// Keys that are prefixes of each other, share long parts, or hold zero bytes.
fn keys(rng: &mut Rng) -> Vec<Vec<u8>> {
    let shape = rng.below(3);
    let mut keys: Vec<Vec<u8>> = (0..300)
        .map(|_| match shape {
            0 => rng.next().to_be_bytes().to_vec(),
            1 => [&b"a long part that all of them share/"[..], &rng.bytes(3)].concat(),
            _ => (0..1 + rng.below(20)).map(|_| [0, b'a', 255][rng.below(3)]).collect(),
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(30) {
        0 => 3_000 + rng.below(6_000),
        1..4 => 900 + rng.below(300),
        4..8 => 0,
        _ => rng.below(80),
    };
    rng.bytes(len)
}

/// A cursor and what it has to show.
struct Walk {
    iter: Iter,
    all: Vec<(Vec<u8>, Vec<u8>)>,
    /// Inside its bounds.
    shown: std::ops::Range<usize>,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Unplaced,
    On(usize),
    Ended,
}

impl Walk {
    fn new(iter: Iter, map: &Map) -> Walk {
        let all: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Walk { iter, shown: 0..all.len(), all, at: At::Unplaced }
    }

    fn set_bounds(&mut self, lower: Option<&[u8]>, upper: Option<&[u8]>) {
        self.iter.set_bounds(lower, upper);
        let below = |end: &[u8]| self.all.partition_point(|(key, _)| key.as_slice() < end);
        let start = lower.map_or(0, below);
        self.shown = start..upper.map_or(self.all.len(), below).max(start);
        self.at = At::Unplaced;
    }

    fn set_prefix(&mut self, prefix: &[u8]) {
        self.iter.set_prefix(prefix);
        let start = self.all.partition_point(|(key, _)| key.as_slice() < prefix);
        let count = self.all[start..].iter().take_while(|(key, _)| key.starts_with(prefix)).count();
        self.shown = start..start + count;
        self.at = At::Unplaced;
    }

    fn go_to(&mut self, at: Option<usize>) {
        self.at = at.filter(|at| self.shown.contains(at)).map_or(At::Ended, At::On);
    }

    fn step(&mut self, rng: &mut Rng, key: &[u8]) {
        let is_there = match rng.below(12) {
            0 => {
                self.go_to(Some(self.shown.start));
                self.iter.seek_first()
            }
            1 => {
                self.go_to(self.shown.end.checked_sub(1));
                self.iter.seek_last()
            }
            2 => {
                let at = self.all.partition_point(|(known, _)| known.as_slice() < key);
                self.go_to(Some(at.max(self.shown.start)));
                self.iter.seek(key)
            }
            3 => {
                let at = self.all.partition_point(|(known, _)| known.as_slice() <= key);
                self.go_to(at.min(self.shown.end).checked_sub(1));
                self.iter.seek_for_prev(key)
            }
            4..8 => {
                match self.at {
                    At::Unplaced => self.go_to(Some(self.shown.start)),
                    At::On(at) => self.go_to(Some(at + 1)),
                    At::Ended => {}
                }
                self.iter.move_next()
            }
            _ => {
                match self.at {
                    At::Unplaced => self.go_to(self.shown.end.checked_sub(1)),
                    At::On(at) => self.go_to(at.checked_sub(1)),
                    At::Ended => {}
                }
                self.iter.move_prev()
            }
        };
        assert_eq!(is_there.expect("nothing is damaged"), matches!(self.at, At::On(_)), "{:?}", self.at);
        self.check();
    }

    fn check(&mut self) {
        let expected = if let At::On(at) = self.at { Some(&self.all[at]) } else { None };
        assert_eq!(self.iter.key(), expected.map(|(key, _)| key.as_slice()));
        let value = self.iter.value().expect("nothing is damaged");
        assert!(
            value == expected.map(|(_, value)| value.as_slice()),
            "the value of {:?}",
            expected.map(|e| &e.0)
        );
    }
}

struct Held {
    snapshot: Snapshot,
    map: Map,
    walk: Option<Walk>,
}

struct Case {
    rng: Rng,
    store: Store,
    keys: Vec<Vec<u8>>,
    map: Map,
    held: Vec<Held>,
    index: IndexKind,
    tally: Tally,
}

/// What happened while snapshots were held.
#[derive(Default)]
struct Tally {
    looks: u64,
    versions: u64,
    moved: u64,
    freed: u64,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut rng = Rng(seed);
        let kind = if seed.is_multiple_of(2) { SimKind::Pm } else { SimKind::File };
        let index = if (seed / 2).is_multiple_of(3) { IndexKind::Hash } else { IndexKind::Ordered };
        let logs = if kind == SimKind::Pm { 1 + rng.below(3) } else { 1 };
        let options = testing::with_logs(testing::options().segment_size_bytes(16 << 10), logs).index(index);
        let store =
            testing::open_on(Arc::new(SimMedia::new(kind, CAPACITY_BYTES)), options).expect("a fresh pool");
        let keys = keys(&mut rng);
        Case { rng, store, keys, map: Map::new(), held: Vec::new(), index, tally: Tally::default() }
    }

    fn key(&mut self) -> Vec<u8> {
        self.keys[self.rng.below(self.keys.len())].clone()
    }

    fn change(&mut self) -> (Vec<u8>, Option<Vec<u8>>) {
        let key = self.key();
        let value = (!self.rng.one_in(3)).then(|| value(&mut self.rng));
        (key, value)
    }

    fn write(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        let result = match changes.as_slice() {
            [(key, Some(value))] => self.store.put(key, value),
            [(key, None)] => self.store.delete(key).map(drop),
            _ => {
                let mut batch = WriteBatch::new();
                for (key, value) in &changes {
                    match value {
                        Some(value) => batch.put(key, value).expect("short"),
                        None => batch.delete(key).expect("short"),
                    }
                }
                self.store.write(&batch)
            }
        };
        match result {
            // What snapshots keep is not free.
            Err(Error::NoSpace { .. }) if !self.held.is_empty() => self.held.clear(),
            result => {
                result.expect("room");
                for (key, value) in changes {
                    match value {
                        Some(value) => self.map.insert(key, value),
                        None => self.map.remove(&key),
                    };
                }
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0 => {
                let changes = (0..2 + self.rng.below(40)).map(|_| self.change()).collect();
                self.write(changes);
            }
            1 => self.clean(),
            2 if self.held.len() < 6 => {
                let snapshot = self.store.snapshot().expect("it is open");
                self.held.push(Held { snapshot, map: self.map.clone(), walk: None });
            }
            3 if self.held.len() > 2 => {
                let at = self.rng.below(self.held.len());
                self.held.swap_remove(at);
            }
            4..14 if !self.held.is_empty() => self.look(),
            _ => {
                let change = self.change();
                self.write(vec![change]);
            }
        }
    }

    fn clean(&mut self) {
        let count = |name| if self.held.is_empty() { 0 } else { stat(&self.store, name) };
        let names = ["cleaner.entries_moved", "cleaner.segments_freed"];
        let before = names.map(count);
        testing::clean(&self.store).expect("the medium works");
        self.tally.moved += count(names[0]) - before[0];
        self.tally.freed += count(names[1]) - before[1];
        self.tally.versions += count("snapshots.versions");
    }

    fn look(&mut self) {
        let key = if self.rng.one_in(4) { self.rng.bytes(2) } else { self.key() };
        let at = self.rng.below(self.held.len());
        let (rng, held) = (&mut self.rng, &mut self.held[at]);
        self.tally.looks += 1;
        assert!(
            held.snapshot.get(&key).expect("nothing is damaged").as_ref() == held.map.get(&key),
            "{key:?}"
        );
        if self.index == IndexKind::Hash {
            assert!(matches!(held.snapshot.iter(), Err(Error::Unsupported(_))));
            return;
        }
        let walk =
            held.walk.get_or_insert_with(|| Walk::new(held.snapshot.iter().expect("ordered"), &held.map));
        match rng.below(30) {
            0 => walk.set_bounds(None, Some(&key)),
            1 => walk.set_bounds(Some(&key), Some(&[&key[..], &[255]].concat())),
            2 => walk.set_bounds(Some(&key), None),
            3 => walk.set_prefix(&key[..key.len() / 2]),
            4 => walk.set_bounds(None, None),
            _ => {}
        }
        (0..1 + rng.below(60)).for_each(|_| walk.step(rng, &key));
    }

    /// All of every snapshot, in both directions.
    fn look_at_all(&mut self) {
        for held in &self.held {
            for key in &self.keys {
                assert!(held.snapshot.get(key).expect("sound").as_ref() == held.map.get(key), "{key:?}");
            }
            if self.index == IndexKind::Ordered {
                let shown: Map =
                    held.snapshot.iter().expect("ordered").map(|entry| entry.expect("sound")).collect();
                assert!(shown == held.map, "a scan shows the snapshot");
            }
        }
    }

    fn run(mut self) -> Tally {
        (0..STEPS).for_each(|_| self.step());
        self.look_at_all();
        self.held.clear();
        assert_eq!(stat(&self.store, "snapshots.versions"), 0, "nobody needs any");
        assert_eq!(stat(&self.store, "snapshots.kept_bytes"), 0);
        testing::clean(&self.store).expect("the medium works");
        assert_sound(&self.store, "at the end");
        self.tally
    }
}

#[test]
fn snapshots_and_cursors_show_what_there_was_whatever_is_written_and_cleaned() {
    let seeds = std::env::var("SNAPSHOT_SEED").map_or(0..SEEDS, |seed| {
        let seed = seed.parse().expect("SNAPSHOT_SEED is a number");
        seed..seed + 1
    });
    let mut total = Tally::default();
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| Case::new(seed).run());
        let tally = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            report(&format!("replay: SNAPSHOT_SEED={seed}"));
            std::panic::resume_unwind(panic)
        });
        total.looks += tally.looks;
        total.versions += tally.versions;
        total.moved += tally.moved;
        total.freed += tally.freed;
    }
    let Tally { looks, versions, moved, freed } = total;
    report(&format!(
        "snapshots: {looks} looks, 0 differences; while some were held {moved} entries were moved, {freed} segments freed, \
         and {versions} older versions kept at passes of the cleaner"
    ));
    assert!(looks > 1_000 && versions > 1_000 && moved > 1_000 && freed > 100);
}

/// Every medium and logs of its own for each writer.
fn each(index: IndexKind, test: impl Fn(Store)) {
    for media in MEDIA {
        let dir = memory_dir();
        let logs = if media == flatkv::MediaChoice::File { 1 } else { 3 };
        let options: Options = with_logs(small(media, 64 << 10), logs).index(index).max_bytes(4 << 20);
        test(options.open(dir.path().join("pool.fkv")).expect("a fresh pool"));
    }
}

const ACCOUNTS: u64 = 200;
const TOTAL: u64 = ACCOUNTS * 1_000;

fn account(number: u64) -> Vec<u8> {
    format!("account {number:05}").into_bytes()
}

fn amount(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// With a tail, so that the pool has to be cleaned.
fn balance(amount: u64) -> Vec<u8> {
    let mut bytes = amount.to_le_bytes().to_vec();
    bytes.resize(8 + (amount % 60) as usize, 7);
    bytes
}

/// Moves money between two accounts of this writer, in one batch.
fn transfer(store: &Store, rng: &mut Rng, writer: u64) {
    let own = ACCOUNTS / 2;
    let from = writer * own + rng.below(own as usize) as u64;
    let to = writer * own + (from + 1 + rng.below(own as usize - 1) as u64) % own;
    let amounts =
        [from, to].map(|number| amount(&store.get(&account(number)).expect("sound").expect("it is there")));
    let moved = rng.below(amounts[0] as usize + 1) as u64;
    let mut batch = WriteBatch::new();
    batch.put(&account(from), &balance(amounts[0] - moved)).expect("short");
    if from != to {
        batch.put(&account(to), &balance(amounts[1] + moved)).expect("short");
        store.write(&batch).expect("room");
    }
}

#[test]
fn a_snapshot_under_writers_and_the_cleaner_shows_batches_wholly() {
    each(IndexKind::Ordered, |store| {
        for number in 0..ACCOUNTS {
            store.put(&account(number), &balance(1_000)).expect("room");
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for writer in 0..2 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || {
                    let mut rng = Rng(writer);
                    while !is_over.load(Ordering::Relaxed) {
                        transfer(store, &mut rng, writer);
                    }
                });
            }
            let end = EndOnDrop(&is_over);
            let mut rng = Rng(7);
            for _ in 0..150 {
                let snapshot = store.snapshot().expect("it is open");
                let mut iter = snapshot.iter().expect("ordered");
                let mut sum = 0;
                while iter.move_next().expect("sound") {
                    sum += amount(iter.value().expect("sound").expect("it is on one"));
                }
                assert_eq!(sum, TOTAL, "by a scan");
                let get =
                    |number| amount(&snapshot.get(&account(number)).expect("sound").expect("it is there"));
                assert_eq!((0..ACCOUNTS).map(get).sum::<u64>(), TOTAL, "by gets");
                if rng.one_in(3) {
                    thread::yield_now();
                }
            }
            drop(end);
        });
        assert_eq!(stat(&store, "snapshots.open"), 0);
        assert_eq!(stat(&store, "snapshots.versions"), 0);
        assert_sound(&store, "when all is over");
    });
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writers say before and after each write how far they are.
#[test]
fn a_snapshot_shows_what_returned_before_it_and_nothing_that_began_after_it() {
    for index in [IndexKind::Hash, IndexKind::Ordered] {
        each(index, |store| {
            let counts: Vec<[AtomicU64; 2]> = (0..2).map(|_| Default::default()).collect();
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                for (writer, [begun, done]) in counts.iter().enumerate() {
                    let (store, is_over) = (&store, &is_over);
                    scope.spawn(move || {
                        let key = [writer as u8];
                        for count in 1_u64.. {
                            if is_over.load(Ordering::Relaxed) {
                                return;
                            }
                            begun.store(count, Ordering::SeqCst);
                            store.put(&key, &count.to_le_bytes()).expect("room");
                            done.store(count, Ordering::SeqCst);
                        }
                    });
                }
                let end = EndOnDrop(&is_over);
                let mut held = Vec::new();
                for round in 0..400 {
                    let before: Vec<u64> =
                        counts.iter().map(|[_, done]| done.load(Ordering::SeqCst)).collect();
                    let snapshot = store.snapshot().expect("it is open");
                    let after: Vec<u64> =
                        counts.iter().map(|[begun, _]| begun.load(Ordering::SeqCst)).collect();
                    let shown = shown_counts(&snapshot);
                    for writer in 0..2 {
                        assert!(
                            before[writer] <= shown[writer],
                            "{index:?}: a write that had returned is missing"
                        );
                        assert!(shown[writer] <= after[writer], "{index:?}: a later write is there");
                    }
                    held.push((snapshot, shown));
                    if round % 10 == 9 {
                        for (snapshot, shown) in held.drain(..) {
                            assert_eq!(shown_counts(&snapshot), shown, "{index:?}: a snapshot changed");
                        }
                    }
                }
                drop(end);
            });
        });
    }
}

fn shown_counts(snapshot: &Snapshot) -> Vec<u64> {
    let get = |writer: u8| snapshot.get(&[writer]).expect("sound").map_or(0, |value| amount(&value));
    (0..2).map(get).collect()
}

/// Each of two deleters goes through keys of its own in order, and puts them again: at every moment its keys from one on are
/// there, and none before, or the other way round.
#[test]
fn deletes_beside_a_scan_hide_nothing_that_was_there() {
    const KEYS: u64 = 600;
    each(IndexKind::Ordered, |store| {
        let is_over = AtomicBool::new(false);
        let key = |deleter: u64, number: u64| [deleter.to_be_bytes(), number.to_be_bytes()].concat();
        for deleter in 0..2 {
            (0..KEYS).for_each(|number| store.put(&key(deleter, number), b"value").expect("room"));
        }
        thread::scope(|scope| {
            for deleter in 0..2 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        (0..KEYS).for_each(|i| assert!(store.delete(&key(deleter, i)).expect("room")));
                        (0..KEYS).for_each(|i| store.put(&key(deleter, i), b"value").expect("room"));
                    }
                });
            }
            let end = EndOnDrop(&is_over);
            for round in 0..600 {
                let mut iter = store.iter().expect("ordered");
                let mut shown = [Vec::new(), Vec::new()];
                let is_forward = round % 2 == 0;
                while if is_forward { iter.move_next() } else { iter.move_prev() }.expect("sound") {
                    let (deleter, number) = iter.key().expect("it is on one").split_at(8);
                    shown[deleter[7] as usize].push(amount(&[number[7], number[6], 0, 0, 0, 0, 0, 0]));
                }
                for mut keys in shown {
                    keys.sort_unstable();
                    let is_one_piece = keys.is_sorted_by(|a, b| a + 1 == *b);
                    let is_at_an_end = keys.is_empty() || keys[0] == 0 || keys[keys.len() - 1] == KEYS - 1;
                    assert!(is_one_piece && is_at_an_end, "round {round}: {keys:?}");
                }
            }
            drop(end);
        });
    });
}

#[test]
fn iterators_of_a_hash_index_are_refused_and_the_option_is_named() {
    each(IndexKind::Hash, |store| {
        let Err(Error::Unsupported(why)) = store.iter() else { panic!("a hash index has no order") };
        assert!(why.contains("index=ordered"), "{why}");
        assert_eq!(stat(&store, "snapshots.open"), 0, "what was refused keeps nothing");
    });
}

#[test]
fn ranges_are_estimated_to_within_a_third() {
    each(IndexKind::Ordered, |store| {
        (0..2_000_u32).for_each(|number| store.put(&number.to_be_bytes(), &[7; 100]).expect("room"));
        for (from, to) in [(0, 2_000_u32), (500, 1_500), (10, 20), (1_000, 1_000), (1_500, 500)] {
            let estimate = store.estimate_range(
                Bound::Included(&u32::to_be_bytes(from)[..]),
                Bound::Excluded(&u32::to_be_bytes(to)[..]),
            );
            let (estimate, keys) = (estimate.expect("ordered"), u64::from(to.saturating_sub(from)));
            assert!(estimate.keys.abs_diff(keys) <= keys / 3, "{from}..{to}: {estimate:?}");
            assert!(estimate.bytes >= estimate.keys * 100, "{from}..{to}: {estimate:?}");
        }
        let all = store.estimate_range(Bound::Unbounded, Bound::Unbounded).expect("ordered");
        assert!(all.keys.abs_diff(2_000) <= 700 && all.bytes < 2_700 * 150, "{all:?}");
    });
    each(IndexKind::Hash, |store| {
        let refused = store.estimate_range(Bound::Unbounded, Bound::Unbounded);
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    });
}

#[test]
fn what_a_snapshot_kept_is_free_again_when_it_is_gone() {
    for kind in [SimKind::Pm, SimKind::File] {
        let options = testing::options().segment_size_bytes(8 << 10).index(IndexKind::Ordered);
        let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
        let store = testing::open_on(media, options.target_utilization(0.1)).expect("a fresh pool");
        // One in seven is a large value.
        let value = |number: u64, byte| vec![byte; if number.is_multiple_of(7) { 6_000 } else { 100 }];
        for number in 0..200_u64 {
            store.put(&number.to_be_bytes(), &value(number, 1)).expect("room");
        }
        let snapshot = store.snapshot().expect("it is open");
        assert_eq!(snapshot.kept_bytes(), 0);
        for number in 0..200_u64 {
            assert!(store.delete(&number.to_be_bytes()).expect("room"));
        }
        let bytes: u64 = (0..200).map(|number| value(number, 1).len() as u64).sum();
        assert!(snapshot.kept_bytes() > bytes, "{} bytes are kept", snapshot.kept_bytes());
        assert!(testing::tidy_up(&store), "{kind:?}: what a snapshot keeps is not waited for");
        for (count, entry) in snapshot.iter().expect("ordered").enumerate() {
            let (key, found) = entry.expect("sound");
            assert_eq!(key, (count as u64).to_be_bytes());
            assert!(found == value(count as u64, 1), "the value of {count}");
        }
        drop(snapshot);
        assert!(testing::tidy_up(&store), "{kind:?}");
        assert_eq!(stat(&store, "keys"), 0, "{kind:?}: {}", store.stats_json());
        let used = stat(&store, "segments.log")
            + stat(&store, "segments.survivor")
            + stat(&store, "segments.extent");
        assert!(used <= 2, "{kind:?}: {used} segments are in use: {}", store.stats_json());
    }
}

#[test]
fn a_store_with_snapshots_closes_and_they_say_so() {
    each(IndexKind::Ordered, |store| {
        store.put(b"key", b"value").expect("room");
        let snapshot = store.snapshot().expect("it is open");
        let mut iter = snapshot.iter().expect("ordered");
        assert!(iter.seek_first().expect("it is open"));
        store.put(b"key", b"other").expect("room");
        store.close().expect("no value is pinned");
        assert!(matches!(snapshot.get(b"key"), Err(Error::Closed)));
        assert!(matches!(iter.seek_last(), Err(Error::Closed)));
        assert!(matches!(store.snapshot(), Err(Error::Closed)));
    });
}

/// Writes waited for it as for a reader, until their time was over, and were not told why.
#[test]
fn a_pool_that_a_snapshot_keeps_full_refuses_at_once_and_names_it() {
    // Values of one or two blocks, which alone fill two thirds of the pool.
    const KEYS: u32 = 400;
    for media in MEDIA {
        let dir = memory_dir();
        let options = with_logs(small(media, 64 << 10), 1).max_bytes(4 << 20).write_stall_ms_max(600_000);
        let store = options.open(dir.path().join("pool.fkv")).expect("a fresh pool");
        let put = |number: u32| {
            let key = number % KEYS;
            store.put(&key.to_be_bytes(), &vec![number as u8; 2_000 + 12 * key as usize])
        };
        (0..KEYS).for_each(|number| put(number).expect("room"));
        let snapshot = store.snapshot().expect("it is open");
        let refusal =
            (KEYS..20_000).find_map(|number| put(number).err()).expect("all that is overwritten is kept");
        assert!(matches!(refusal, Error::NoSpace { .. }), "{media:?}: {refusal}");
        assert!(refusal.to_string().contains("open snapshots and iterators: 1,"), "{media:?}: {refusal}");
        assert_eq!(snapshot.get(&7_u32.to_be_bytes()).expect("sound"), Some(vec![7; 2_084]));
        drop(snapshot);
        (0..2_000).for_each(|number| put(number).expect("room"));
    }
}
