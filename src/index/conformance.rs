//! One suite that every index kind runs: add a line to `every_kind!` at the end.
//!
//! The log is faked: entry `n` of it lies at address `n`, its key is a number, and its `Seq` is its own number unless a
//! test says otherwise. What the tests demand is what `Index` says; sizes are chosen so that a table grows, splits
//! and reads hashes again many times.

use super::hash::HashIndex;
use super::ordered::OrderedIndex;
use super::{Candidate, Index, Key, LogKeys, Upsert};
use crate::epoch;
use crate::media::durable::{Durable, Publishable};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, threads};
use crate::types::Addr;
use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

/// SplitMix64: a good hash of a number, and a generator when called on a counter.
pub(super) fn mix(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A pseudo-random sequence; a failure names its seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 += 1;
        mix(self.0) % bound
    }
}

/// How many threads race. More than the two cores of a small machine, so that holders of a claim are preempted.
const THREADS: u64 = 4;

/// A log without bytes: its entries are a key and a `Seq` each, by address.
struct FakeLog {
    keys: Vec<AtomicU64>,
    seqs: Vec<AtomicU64>,
    next: AtomicU64,
    hash: fn(u64) -> u64,
    /// Hashes of entries at multiples of this cannot be read; 0 for none.
    unreadable: AtomicU64,
    hashes_read: AtomicU64,
}

impl FakeLog {
    fn new(entries: u64, hash: fn(u64) -> u64) -> Arc<FakeLog> {
        let zeroes = || (0..=entries).map(|_| AtomicU64::new(0)).collect();
        Arc::new(FakeLog {
            keys: zeroes(),
            seqs: zeroes(),
            next: AtomicU64::new(1),
            hash,
            unreadable: AtomicU64::new(0),
            hashes_read: AtomicU64::new(0),
        })
    }

    fn append(&self, key: u64, seq: u64) -> Addr {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.keys[at as usize].store(key, Ordering::Relaxed);
        self.seqs[at as usize].store(seq, Ordering::Relaxed);
        Addr::from_bits(at)
    }

    fn entry(&self, at: Addr) -> (u64, u64) {
        let at = at.to_bits() as usize;
        (self.keys[at].load(Ordering::Relaxed), self.seqs[at].load(Ordering::Relaxed))
    }
}

impl LogKeys for FakeLog {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        self.hashes_read.fetch_add(1, Ordering::Relaxed);
        let unreadable = self.unreadable.load(Ordering::Relaxed);
        (unreadable == 0 || !at.to_bits().is_multiple_of(unreadable)).then(|| (self.hash)(self.entry(at).0))
    }

    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool {
        let can_be_read = self.key_hash(at).is_some();
        if can_be_read {
            look(&self.entry(at).0.to_le_bytes());
        }
        can_be_read
    }

    fn prefetch(&self, _at: &[Addr]) {}
}

/// An index over a fake log, called as the engine would.
struct Subject<I> {
    index: I,
    log: Arc<FakeLog>,
}

impl<I: Index> Subject<I> {
    fn key<'a>(&self, key: u64, bytes: &'a [u8; 8]) -> Key<'a> {
        Key { bytes, hash: (self.log.hash)(key) }
    }

    fn put(&self, key: u64, seq: u64) -> Upsert {
        self.publish(key, seq, self.log.append(key, seq))
    }

    /// Three of four after a look: one that breaks off, and one that tells the place.
    fn publish(&self, key: u64, seq: u64, at: Addr) -> Upsert {
        // Not by the stamp alone: of threads that race each would go one way only.
        let spot = match mix(seq ^ key) % 4 {
            0 => self.look(key).0,
            1 => self.look_for_one(key),
            2 => return self.publish_where_seen(key, seq, at),
            _ => I::Spot::default(),
        };
        self.publish_at(spot, key, seq, at)
    }

    /// In the place that a look told, if what is known there is of the key and older, and stays.
    fn publish_where_seen(&self, key: u64, seq: u64, at: Addr) -> Upsert {
        let guard = epoch::pin();
        let bytes = key.to_le_bytes();
        let seen = self.index.look_to_put(self.key(key, &bytes), &guard, |_| {});
        let is_older = |known| {
            let (other, older) = self.log.entry(known);
            other == key && older < seq
        };
        let is_plain = seen.known.is_none_or(is_older);
        if is_plain && self.index.publish_seen(&seen, Durable::recovered(at).into()).is_ok() {
            return seen.known.map_or(Upsert::Inserted, Upsert::Replaced);
        }
        self.publish_at(seen.spot, key, seq, at)
    }

    /// The key's spot, by a look that breaks off where something is shown that may be the key's.
    fn look_for_one(&self, key: u64) -> I::Spot {
        let _guard = epoch::pin();
        self.index.look(self.key(key, &key.to_le_bytes()), |_| ControlFlow::Break(()))
    }

    /// The key's spot, and whether its entry was shown.
    fn look(&self, key: u64) -> (I::Spot, bool) {
        let _guard = epoch::pin();
        let mut is_shown = false;
        let spot = self.index.look(self.key(key, &key.to_le_bytes()), |at| {
            is_shown |= self.log.entry(at).0 == key;
            ControlFlow::Continue(())
        });
        (spot, is_shown)
    }

    fn publish_at(&self, spot: I::Spot, key: u64, seq: u64, at: Addr) -> Upsert {
        let _guard = epoch::pin();
        self.index.upsert_at(
            spot,
            self.key(key, &key.to_le_bytes()),
            Durable::recovered(at).into(),
            |candidate| match self.log.entry(candidate) {
                (other, _) if other != key => Candidate::OtherKey,
                (_, older) if older < seq => Candidate::Older,
                _ => Candidate::Newer,
            },
        )
    }

    fn get(&self, key: u64) -> Option<Addr> {
        let _guard = epoch::pin();
        self.index.get(self.key(key, &key.to_le_bytes()), |at| (self.log.entry(at).0 == key).then_some(at))
    }

    /// As [`Subject::get`], where nobody else changes anything; the look for the first entry must agree with it.
    fn get_alone(&self, key: u64) -> Option<Addr> {
        let _guard = epoch::pin();
        let (bytes, mut shown) = (key.to_le_bytes(), Vec::new());
        self.index.get(self.key(key, &bytes), |at| {
            shown.push(at);
            None::<()>
        });
        let first = self.index.first(self.key(key, &bytes));
        assert_eq!(first.is_some(), !shown.is_empty(), "the first of key {key}");
        assert!(first.is_none_or(|first| shown.contains(&first)), "the first of key {key} is one of them");
        self.get(key)
    }

    fn seq(&self, key: u64) -> Option<u64> {
        self.get(key).map(|at| self.log.entry(at).1)
    }

    /// Where the index finds the key, if it points at `from`.
    fn find(&self, key: u64, from: Addr) -> Option<I::Spot> {
        let _guard = epoch::pin();
        let mut found = [None];
        self.index.find(&[self.key(key, &key.to_le_bytes())], &[from], &mut found);
        found[0]
    }

    fn relocate(&self, key: u64, from: Addr) -> bool {
        self.relocate_at(self.find(key, from).unwrap_or_default(), key, from)
    }

    fn relocate_at(&self, spot: I::Spot, key: u64, from: Addr) -> bool {
        let _guard = epoch::pin();
        let to = Durable::recovered(self.log.append(key, self.log.entry(from).1));
        self.index.relocate(spot, self.key(key, &key.to_le_bytes()), from, to)
    }

    fn remove(&self, key: u64, at: Addr) -> bool {
        let _guard = epoch::pin();
        self.index.remove(self.key(key, &key.to_le_bytes()), at)
    }

    /// Every entry by key. Panics if a key is there twice.
    fn entries(&self) -> HashMap<u64, u64> {
        let _guard = epoch::pin();
        let mut entries = HashMap::new();
        self.index.for_each(|at| {
            let (key, seq) = self.log.entry(at);
            assert_eq!(entries.insert(key, seq), None, "key {key} is there twice");
        });
        entries
    }
}

/// Keys parted by nothing: every probe meets all of them.
fn no_bits(_key: u64) -> u64 {
    0x0123_4567_89AB_CDEF
}

/// Equal low bits up to where directories end: keys that no split can part.
fn high_bits_only(key: u64) -> u64 {
    mix(key) & !0xFFFF_FFFF
}

/// One position: all keys of a cell share their home bucket and are told apart by growth bits at most.
fn low_bits_only(key: u64) -> u64 {
    mix(key) & 0xFFFF_FFFF
}

/// Half of the keys share their low bits: some cells get deeper than others.
fn lopsided(key: u64) -> u64 {
    let hash = mix(key);
    if key.is_multiple_of(2) { hash } else { hash & !7 | 5 }
}

fn behaves_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I, hash: fn(u64) -> u64, keys: u64, steps: u64) {
    let log = FakeLog::new(2 * steps, hash);
    let subject = Subject { index: make(log.clone()), log };
    let mut model: HashMap<u64, (Addr, u64)> = HashMap::new();
    // Looks are never forgotten, however old: of cells that are gone, and whose numbers others have now.
    let mut spots: HashMap<u64, I::Spot> = HashMap::new();
    let mut rng = Rng(keys ^ steps);
    for step in 1..=steps {
        let key = rng.below(keys);
        let known = model.get(&key).copied();
        match (rng.below(10), known) {
            (0, Some((at, _))) => {
                assert!(subject.remove(key, at), "step {step}: remove {key}");
                assert!(!subject.remove(key, at), "step {step}: remove {key} again");
                model.remove(&key);
            }
            (1, Some((at, seq))) => {
                let spot = subject.find(key, at).unwrap_or_else(|| panic!("step {step}: find {key}"));
                let spot = *spots.entry(key).or_insert(spot);
                assert!(subject.relocate_at(spot, key, at), "step {step}: relocate {key}");
                assert!(subject.find(key, at).is_none(), "step {step}: find {key} where it was");
                assert!(!subject.relocate_at(spot, key, at), "step {step}: relocate {key} from where it was");
                let moved = subject.get(key).expect("a relocated key is there");
                assert_eq!(subject.log.entry(moved), (key, seq));
                model.insert(key, (moved, seq));
            }
            (2, Some((at, seq))) => {
                assert_eq!(subject.put(key, seq - 1), Upsert::Lost(at), "step {step}: older {key}");
            }
            (3, _) => {
                let (spot, is_shown) = subject.look(key);
                assert_eq!(is_shown, known.is_some(), "step {step}: look at {key}");
                let spot = if step.is_multiple_of(2) { spot } else { subject.look_for_one(key) };
                spots.entry(key).or_insert(spot);
                epoch::help_grace_period();
            }
            (4, _) => {}
            (_, known) => {
                let at = subject.log.append(key, step + 1);
                let expected = known.map_or(Upsert::Inserted, |(old, _)| Upsert::Replaced(old));
                let spot = spots.get(&key).copied().unwrap_or_default();
                assert_eq!(subject.publish_at(spot, key, step + 1, at), expected, "step {step}: put {key}");
                model.insert(key, (at, step + 1));
            }
        }
        assert_eq!(subject.get_alone(key), model.get(&key).map(|&(at, _)| at), "step {step}: get {key}");
        assert_eq!(subject.index.len(), model.len() as u64, "step {step}");
    }
    let expected: HashMap<u64, u64> = model.iter().map(|(&key, &(_, seq))| (key, seq)).collect();
    assert_eq!(subject.entries(), expected);
    for key in keys..keys + 1_000 {
        assert_eq!(subject.get_alone(key), None, "key {key} was never put");
    }
}

fn an_empty_index_finds_nothing<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    let log = FakeLog::new(1, mix);
    let subject = Subject { index: make(log.clone()), log };
    assert_eq!(subject.index.len(), 0);
    assert_eq!(subject.get(7), None);
    assert!(!subject.remove(7, Addr::from_bits(1)));
    assert_eq!(subject.entries(), HashMap::new());
}

fn a_place_that_changed_since_it_was_seen_is_refused<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const OTHERS: u64 = 20_000;
    let log = FakeLog::new(OTHERS + 5, mix);
    let subject = Subject { index: make(log.clone()), log };
    let guard = epoch::pin();
    let (bytes, late) = (0_u64.to_le_bytes(), (OTHERS + 1).to_le_bytes());
    let before_growth = subject.index.look_to_put(subject.key(OTHERS + 1, &late), &guard, |_| {});
    let see = || subject.index.look_to_put(subject.key(0, &bytes), &guard, |_| {});
    let publish = |seen: &_, at| subject.index.publish_seen(seen, Durable::recovered(at).into()).is_ok();
    let (absent, first) = (see(), subject.log.append(0, 1));
    assert_eq!(absent.known, None);
    assert_eq!(subject.publish_at(absent.spot, 0, 1, first), Upsert::Inserted);
    let second = subject.log.append(0, 2);
    assert!(!publish(&absent, second), "it is there now");
    let seen = see();
    assert_eq!(seen.known, Some(first));
    (1..=OTHERS).for_each(|other| assert_eq!(subject.put(other, 1), Upsert::Inserted));
    assert!(!publish(&seen, second), "what was seen has grown since");
    assert!(!publish(&before_growth, subject.log.append(OTHERS + 1, 1)), "and so has where nothing was");
    assert_eq!(subject.get(OTHERS + 1), None);
    assert_eq!((subject.get(0), subject.index.len()), (Some(first), OTHERS + 1));
    let seen = see();
    assert!(publish(&seen, second));
    assert!(!publish(&seen, subject.log.append(0, 3)), "it was replaced");
    assert_eq!((subject.get(0), subject.index.len()), (Some(second), OTHERS + 1));
}

fn random_calls_behave_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    behaves_like_a_map(make, mix, 20_000, 200_000);
    behaves_like_a_map(make, mix, 50, 20_000);
}

fn equal_hashes_behave_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    behaves_like_a_map(make, no_bits, 900, 20_000);
}

fn keys_that_no_split_parts_behave_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    behaves_like_a_map(make, high_bits_only, 20_000, 100_000);
}

fn keys_with_one_position_behave_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    behaves_like_a_map(make, low_bits_only, 6_000, 40_000);
}

fn a_lopsided_directory_behaves_like_a_map<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    behaves_like_a_map(make, lopsided, 60_000, 200_000);
}

fn more_equal_hashes_than_a_cell_holds_are_all_found<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 6_000;
    let log = FakeLog::new(KEYS, no_bits);
    let subject = Subject { index: make(log.clone()), log };
    (0..KEYS).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
    (0..KEYS).step_by(17).for_each(|key| assert_eq!(subject.seq(key), Some(1)));
    assert_eq!(subject.entries().len() as u64, KEYS);
    assert!(subject.index.memory_bytes() < 64 * KEYS, "{} bytes", subject.index.memory_bytes());
}

fn a_key_rewritten_and_removed_for_ever_takes_no_more_memory<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const ROUNDS: u64 = 200_000;
    let log = FakeLog::new(ROUNDS, mix);
    let subject = Subject { index: make(log.clone()), log };
    for round in 0..ROUNDS {
        assert_eq!(subject.put(round, 1), Upsert::Inserted);
        let at = subject.get(round).expect("just put");
        assert!(subject.remove(round, at));
    }
    assert_eq!(subject.index.len(), 0);
    assert!(subject.index.memory_bytes() < 1 << 20, "{} bytes", subject.index.memory_bytes());
}

fn entries_that_cannot_be_read_stay_findable<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 300_000;
    let log = FakeLog::new(2 * KEYS, mix);
    log.unreadable.store(1_000, Ordering::Relaxed);
    let subject = Subject { index: make(log.clone()), log };
    (0..KEYS).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
    (0..KEYS).for_each(|key| {
        let at = subject.get_alone(key).unwrap_or_else(|| panic!("key {key} is there"));
        assert_eq!(subject.log.entry(at), (key, 1));
    });
    assert_eq!(subject.index.len(), KEYS, "copies are not keys");
    // They can be replaced, moved and forgotten like others.
    for key in (0..KEYS).filter(|key| (key + 1) % 1_000 == 0) {
        let at = subject.get(key).expect("checked above");
        match key % 3 {
            0 => assert_eq!(subject.put(key, 2), Upsert::Replaced(at)),
            1 => assert!(subject.relocate(key, at)),
            _ => assert!(subject.remove(key, at)),
        }
        assert_eq!(subject.seq(key), [Some(2), Some(1), None][key as usize % 3]);
    }
}

/// The premise of the test above for this kind.
#[test]
fn the_hash_index_reads_hashes_when_it_grows() {
    const KEYS: u64 = 300_000;
    let log = FakeLog::new(KEYS, mix);
    let subject =
        Subject { index: HashIndex::with_expected(log.clone(), 0, u64::MAX).expect("address space"), log };
    (0..KEYS).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
    assert!(subject.log.hashes_read.load(Ordering::Relaxed) > KEYS / 8, "growth needed hashes");
}

/// Every thread publishes every `Seq` that it drew for keys that all share; whatever the order, the newest stays.
fn racing_puts_of_one_key_leave_the_newest<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 3_000;
    const ROUNDS: u64 = 20;
    let log = FakeLog::new(THREADS * KEYS * ROUNDS, mix);
    let subject = &Subject { index: make(log.clone()), log };
    let inserted = AtomicU64::new(0);
    threads::scope(|scope| {
        for thread in 0..THREADS {
            let inserted = &inserted;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    for key in 0..KEYS {
                        // Every second thread runs downwards: its Seqs come in the wrong order.
                        let turn = if thread % 2 == 0 { round } else { ROUNDS - 1 - round };
                        if subject.put(key, 1 + turn * THREADS + thread) == Upsert::Inserted {
                            inserted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(inserted.into_inner(), KEYS, "each key was inserted once");
    assert_eq!(subject.entries(), (0..KEYS).map(|key| (key, ROUNDS * THREADS)).collect());
    assert_eq!(subject.index.len(), KEYS);
}

/// Each address that was published is dead exactly once or live at the end: nothing is counted twice or lost.
fn every_displaced_address_is_reported_once<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 200;
    const PUTS: u64 = 60_000;
    let log = FakeLog::new(THREADS * PUTS, mix);
    let subject = &Subject { index: make(log.clone()), log };
    let dead: Vec<AtomicU64> = (0..=THREADS * PUTS).map(|_| AtomicU64::new(0)).collect();
    threads::scope(|scope| {
        for thread in 0..THREADS {
            let dead = &dead;
            scope.spawn(move || {
                let mut rng = Rng(thread << 32);
                for seq in 1..=PUTS {
                    let (key, seq) = (rng.below(KEYS), seq * THREADS + thread);
                    let at = subject.log.append(key, seq);
                    let displaced = match subject.publish(key, seq, at) {
                        Upsert::Inserted => continue,
                        Upsert::Replaced(old) => old,
                        Upsert::Lost(_) => at,
                    };
                    dead[displaced.to_bits() as usize].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let _guard = epoch::pin();
    subject.index.for_each(|at| assert_eq!(dead[at.to_bits() as usize].swap(1, Ordering::Relaxed), 0));
    assert!(dead[1..].iter().all(|dead| dead.load(Ordering::Relaxed) == 1));
}

/// Writers own keys and know their state; readers and a cleaner share all of them, and the table grows all the time.
fn no_key_is_lost_while_the_table_grows<I: Index>(
    make: fn(Arc<FakeLog>) -> I,
    hash: fn(u64) -> u64,
    keys: u64,
) {
    let log = FakeLog::new(24 * keys, hash);
    let subject = &Subject { index: make(log.clone()), log };
    let settled: &Vec<AtomicU64> = &(0..THREADS).map(|_| AtomicU64::new(0)).collect();
    let is_over = &AtomicBool::new(false);
    // Writers append three entries per key; the cleaner may use the rest.
    let has_room = move || subject.log.next.load(Ordering::Relaxed) < 20 * keys;
    threads::scope(|scope| {
        for reader in 0..2 {
            scope.spawn(move || {
                let mut rng = Rng(reader << 32);
                while !is_over.load(Ordering::Relaxed) {
                    let writer = rng.below(THREADS);
                    let known = settled[writer as usize].load(Ordering::Acquire);
                    if known > 0 {
                        let key = rng.below(known) * THREADS + writer;
                        let at = subject.get(key).unwrap_or_else(|| panic!("key {key} was lost"));
                        if reader == 0 && has_room() {
                            subject.relocate(key, at);
                        }
                    }
                }
            });
        }
        let writers: Vec<_> = (0..THREADS)
            .map(|writer| {
                scope.spawn_to_join(move || {
                    let mut rng = Rng(writer << 40);
                    for turn in 0..keys / THREADS {
                        let key = turn * THREADS + writer;
                        assert_eq!(subject.put(key, 1), Upsert::Inserted, "key {key} is new");
                        settled[writer as usize].store(turn + 1, Ordering::Release);
                        let old = rng.below(turn + 1) * THREADS + writer;
                        let seq = subject.seq(old).expect("own keys are not lost");
                        assert!(
                            matches!(subject.put(old, seq + 1), Upsert::Replaced(_)),
                            "key {old} is known"
                        );
                        // A key of nobody else comes and goes, so that probe orders hold removed slots.
                        let passing = (1 << 40) + key;
                        assert_eq!(subject.put(passing, 1), Upsert::Inserted);
                        let at = subject.get(passing).expect("just put");
                        assert!(subject.remove(passing, at));
                        assert_eq!(subject.get(passing), None);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // First of all, or the readers of a failed run would never end.
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|ended| ended.is_ok()), "a writer failed");
    });
    let mut found: Vec<u64> = subject.entries().into_keys().collect();
    found.sort_unstable();
    assert!(found.into_iter().eq(0..keys / THREADS * THREADS));
    assert_eq!(subject.index.len(), keys / THREADS * THREADS);
}

fn no_key_is_lost_under_concurrent_growth<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    no_key_is_lost_while_the_table_grows(make, mix, 200_000);
    no_key_is_lost_while_the_table_grows(make, lopsided, 100_000);
}

fn no_key_is_lost_among_equal_hashes<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    no_key_is_lost_while_the_table_grows(make, no_bits, 600);
    no_key_is_lost_while_the_table_grows(make, high_bits_only, 20_000);
}

/// Growth there was taken for one that panicked: the next thread that waited for growth did.
fn an_index_that_grew_while_a_thread_unwound_is_sound<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 50_000;
    const IN_DESTRUCTOR: u64 = 2_000;
    struct PutsAtEnd<'a, I: Index>(&'a Subject<I>);
    impl<I: Index> Drop for PutsAtEnd<'_, I> {
        fn drop(&mut self) {
            (0..IN_DESTRUCTOR).for_each(|key| _ = self.0.put(key, 1));
        }
    }
    let log = FakeLog::new(KEYS, mix);
    let subject = &Subject { index: make(log.clone()), log };
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _puts = PutsAtEnd(subject);
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(unwound.is_err());
    thread::scope(|scope| {
        for thread in 0..4 {
            let keys = (IN_DESTRUCTOR + thread..KEYS).step_by(4);
            scope.spawn(move || keys.for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted)));
        }
    });
    (0..KEYS).for_each(|key| assert!(subject.get(key).is_some(), "key {key}"));
}

fn for_each_shows_what_nobody_touches_while_the_table_grows<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const OLD: u64 = 5_000;
    const NEW: u64 = 100_000;
    let log = FakeLog::new(OLD + NEW, mix);
    let subject = &Subject { index: make(log.clone()), log };
    (0..OLD).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
    thread::scope(|scope| {
        drop(epoch::pin());
        let writer = scope.spawn(move || {
            (OLD..OLD + NEW).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
        });
        while !writer.is_finished() {
            let mut shown = vec![false; OLD as usize];
            let _guard = epoch::pin();
            subject.index.for_each(|at| {
                if let Some(shown) = shown.get_mut(subject.log.entry(at).0 as usize) {
                    *shown = true;
                }
            });
            assert!(shown.into_iter().all(|shown| shown));
        }
        writer.join().expect("it asserts");
    });
}

fn a_new_index_is_cheap<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    let log = FakeLog::new(1, mix);
    let began = Instant::now();
    for _ in 0..1_000 {
        assert!(make(log.clone()).memory_bytes() < 32 << 10);
    }
    // A bound that a busy machine keeps, too; `figures` prints the figure.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?} for a thousand", began.elapsed());
}

/// Returns when what was retired before is free, whatever the other tests of this process look at.
fn wait_for_grace() {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    epoch::retire(&epoch::pin(), 0, move || over.store(true, Ordering::Release));
    while !is_over.load(Ordering::Acquire) {
        epoch::help_grace_period();
    }
}

/// Keyspaces have an index each, and thousands of them must not cost what one large one does.
fn siblings_do_not_see_each_other_and_give_their_nodes_back<I: Index>(make: fn(Arc<FakeLog>) -> I) {
    const KEYS: u64 = 5_000;
    const ROUNDS: u64 = 16;
    let log = FakeLog::new((ROUNDS + 2) * KEYS, mix);
    let first = make(log.clone());
    let fill = |index: I, from: u64| {
        let subject = Subject { index, log: log.clone() };
        (from..from + KEYS).for_each(|key| assert_eq!(subject.put(key, 1), Upsert::Inserted));
        (from..from + KEYS).for_each(|key| assert!(subject.get(key).is_some()));
        assert!(subject.get(from + KEYS).is_none(), "a key of a sibling");
        assert_eq!(subject.index.len(), KEYS);
        subject.index
    };
    let second = fill(first.sibling().expect("address space"), KEYS);
    let first = fill(first, 0);
    let after_two = first.memory_bytes();
    drop(second);
    wait_for_grace();
    // What one of them gives back the next one takes. While it grows it may take as much again, because what it
    // outgrew waits for whoever is pinned, and the other tests of this process are.
    for _ in 0..ROUNDS {
        drop(fill(first.sibling().expect("address space"), 3 * KEYS / 2));
        wait_for_grace();
    }
    let (taken, of_all_rounds) = (first.memory_bytes().saturating_sub(after_two), ROUNDS * after_two / 2);
    assert!(taken < of_all_rounds / 4, "{taken} bytes above {after_two}: nodes leaked");
    let began = Instant::now();
    let empty: Vec<I> = (0..1_000).map(|_| first.sibling().expect("address space")).collect();
    assert!(first.memory_bytes() < after_two + (5 << 20) + (1 << 19), "an empty one takes a page of nodes");
    assert!(empty.iter().all(|index| index.len() == 0));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?} for a thousand", began.elapsed());
    let survivor = Subject { index: first, log };
    drop(empty);
    (0..KEYS).for_each(|key| assert!(survivor.get(key).is_some()));
}

/// A log for figures: the entry of `key` lies at `key + 1`, so that comparing keys touches no memory.
struct NumberLog;

impl LogKeys for NumberLog {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        Some(mix(at.to_bits() - 1))
    }

    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool {
        look(&number_key(at.to_bits() - 1));
        true
    }

    fn prefetch(&self, _at: &[Addr]) {}
}

/// Sixteen bytes in no order.
fn number_key(key: u64) -> [u8; 16] {
    (u128::from(mix(key)) << 64 | u128::from(key)).to_be_bytes()
}

fn insert_numbers(index: &impl Index, keys: impl Iterator<Item = u64>) {
    const GROUP: usize = 32;
    let mut group = Vec::with_capacity(GROUP);
    let mut keys = keys.fuse();
    loop {
        group.clear();
        group.extend(keys.by_ref().take(GROUP).map(|key| (key, number_key(key))));
        if group.is_empty() {
            return;
        }
        let _guard = epoch::pin();
        let keys: Vec<Key<'_>> = group.iter().map(|(key, bytes)| Key { bytes, hash: mix(*key) }).collect();
        index.prefetch(&keys);
        for (&(key, _), &asked) in group.iter().zip(&keys) {
            let new: Publishable<Addr> = Durable::recovered(Addr::from_bits(key + 1)).into();
            let done = index.upsert_if_newer(asked, new, |at| {
                if at.to_bits() == key + 1 { Candidate::Older } else { Candidate::OtherKey }
            });
            assert_eq!(done, Upsert::Inserted);
        }
    }
}

fn get_numbers(index: &impl Index, keys: impl Iterator<Item = u64>, group: usize) {
    let keys: Vec<u64> = keys.collect();
    for group in keys.chunks(group) {
        let _guard = epoch::pin();
        let bytes: Vec<_> = group.iter().map(|&key| number_key(key)).collect();
        let asked: Vec<Key<'_>> =
            group.iter().zip(&bytes).map(|(&key, bytes)| Key { bytes, hash: mix(key) }).collect();
        if group.len() > 1 {
            index.prefetch(&asked);
        }
        for (&key, &asked) in group.iter().zip(&asked) {
            let found = index.get(asked, |at| (at.to_bits() == key + 1).then_some(()));
            assert!(found.is_some());
        }
    }
}

fn rss_anon_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number of KiB") * 1024.0
}

/// Nanoseconds per call when each of `threads` runs its share of `calls`.
fn ns_per_call(threads: u64, calls: u64, work: impl Fn(u64) + Sync) -> f64 {
    let began = Instant::now();
    threads::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
    began.elapsed().as_nanos() as f64 * threads as f64 / calls as f64
}

fn print_speed<I: Index>(make: fn(Arc<dyn LogKeys>) -> I, out: &mut impl Write) -> std::io::Result<()> {
    const KEYS: u64 = 2_000_000;
    for threads in [1, 2] {
        let index = make(Arc::new(NumberLog));
        let share = KEYS / threads;
        let insert =
            ns_per_call(threads, KEYS, |thread| insert_numbers(&index, thread * share..(thread + 1) * share));
        write!(out, "{KEYS} keys, {threads} threads: insert {insert:.0} ns")?;
        for group in [1, 8, 32] {
            let numbers = |thread: u64| (0..share).map(move |call| mix(call ^ thread << 40) % KEYS);
            let get = ns_per_call(threads, KEYS, |thread| get_numbers(&index, numbers(thread), group));
            write!(out, ", get in groups of {group} {get:.0} ns")?;
        }
        writeln!(out)?;
    }
    let began = Instant::now();
    let indexes: Vec<I> = (0..1_000).map(|_| make(Arc::new(NumberLog))).collect();
    let created = began.elapsed();
    drop(indexes);
    writeln!(
        out,
        "create {} ns, drop {} ns",
        created.as_nanos() / 1_000,
        (began.elapsed() - created).as_nanos() / 1_000
    )
}

/// Prints, and returns as average over sizes in steps of a tenth and as maximum, the bytes of memory per key.
fn print_memory<I: Index>(
    make: fn(Arc<dyn LogKeys>) -> I,
    keys: u64,
    out: &mut impl Write,
) -> std::io::Result<(f64, f64)> {
    let before = rss_anon_bytes();
    let index = make(Arc::new(NumberLog));
    let (mut next, mut key) = (1_000_000.0, 0);
    let (mut sum, mut samples, mut most) = (0.0, 0.0, 0.0_f64);
    let mut pauses = Vec::new();
    while key < keys {
        let began = Instant::now();
        insert_numbers(&index, key..key + 1);
        let pause = began.elapsed();
        if pause > Duration::from_micros(200) {
            pauses.push((pause, key));
        }
        key += 1;
        if key >= 1_000_000 && key % 10_000 == 0 {
            let per_key = (rss_anon_bytes() - before) / key as f64;
            most = most.max(per_key);
            if key as f64 >= next {
                let says = index.memory_bytes() as f64 / key as f64;
                writeln!(out, "{key} keys: {per_key:.2} bytes per key, by its own count {says:.2}")?;
                (sum, samples, next) = (sum + per_key, samples + 1.0, next * 1.1);
            }
        }
    }
    let average = sum / samples;
    writeln!(out, "bytes per key: average {average:.2}, most {most:.2}")?;
    // Those that a busy machine interrupts are among them; run it twice to tell.
    pauses.sort_unstable();
    let longest: Vec<_> = pauses.iter().rev().take(8).collect();
    writeln!(out, "{} inserts took more than 200 us, the longest: {longest:?}", pauses.len())?;
    Ok((average, most))
}

/// In a process of its own: retired pages wait for every pinned thread, those of other tests too, and the kernel counts
/// the memory of the whole process.
#[test]
fn memory_per_key_stays_within_bounds() {
    let tests = std::env::current_exe().expect("this program");
    let bounds = "index::conformance::memory_per_key_in_this_process";
    let ran =
        std::process::Command::new(tests).args(["--exact", bounds, "--ignored"]).output().expect("starts");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by memory_per_key_stays_within_bounds"]
fn memory_per_key_in_this_process() {
    let make = |hashes| HashIndex::with_expected(hashes, 0, u64::MAX).expect("address space");
    let (average, most) = print_memory(make, 2_500_000, &mut std::io::sink()).expect("a sink");
    assert!(average <= 12.0, "{average:.2} bytes per key on average");
    assert!(most <= 16.0, "{most:.2} bytes per key at most");
    let make = |log| OrderedIndex::with_expected(log, 0, u64::MAX).expect("address space");
    let (_, most) = print_memory(make, 2_500_000, &mut std::io::sink()).expect("a sink");
    assert!(most <= 40.0, "{most:.2} bytes per 16-byte key at most, ordered");
}

#[test]
#[ignore = "prints figures: run alone, in release"]
fn figures_of_hash_memory() {
    let make = |hashes| HashIndex::with_expected(hashes, 0, u64::MAX).expect("address space");
    print_memory(make, 16_000_000, &mut std::io::stderr()).expect("stderr");
}

#[test]
#[ignore = "prints figures: run alone, in release"]
fn figures_of_ordered_memory() {
    let make = |log| OrderedIndex::with_expected(log, 0, u64::MAX).expect("address space");
    print_memory(make, 16_000_000, &mut std::io::stderr()).expect("stderr");
}

#[test]
#[ignore = "prints figures: run alone, in release"]
fn figures_of_ordered_speed() {
    print_speed(
        |log| OrderedIndex::with_expected(log, 0, u64::MAX).expect("address space"),
        &mut std::io::stderr(),
    )
    .expect("stderr");
}

#[test]
#[ignore = "prints figures: run alone, in release"]
fn figures_of_hash_speed() {
    print_speed(
        |hashes| HashIndex::with_expected(hashes, 0, u64::MAX).expect("address space"),
        &mut std::io::stderr(),
    )
    .expect("stderr");
}

macro_rules! every_kind {
    ($($kind:ident: $make:expr => $tests:tt)*) => {
        $(mod $kind {
            use super::*;
            every_kind!(@tests $make, $tests);
        })*
    };
    (@tests $make:expr, [$($test:ident)*]) => {
        $(#[test]
        fn $test() {
            super::$test($make);
        })*
    };
    ($($kind:ident = $make:expr;)*) => {
        every_kind! { $($kind: $make => [
            an_empty_index_finds_nothing
            a_place_that_changed_since_it_was_seen_is_refused
            random_calls_behave_like_a_map
            equal_hashes_behave_like_a_map
            keys_that_no_split_parts_behave_like_a_map
            keys_with_one_position_behave_like_a_map
            a_lopsided_directory_behaves_like_a_map
            more_equal_hashes_than_a_cell_holds_are_all_found
            a_key_rewritten_and_removed_for_ever_takes_no_more_memory
            entries_that_cannot_be_read_stay_findable
            racing_puts_of_one_key_leave_the_newest
            every_displaced_address_is_reported_once
            no_key_is_lost_under_concurrent_growth
            no_key_is_lost_among_equal_hashes
            an_index_that_grew_while_a_thread_unwound_is_sound
            for_each_shows_what_nobody_touches_while_the_table_grows
            a_new_index_is_cheap
            siblings_do_not_see_each_other_and_give_their_nodes_back
        ])* }
    };
}

every_kind! {
    hash = |log| HashIndex::with_expected(log, 0, u64::MAX).expect("address space");
    hash_of_a_bounded_pool = |log| HashIndex::with_expected(log, 0, 1 << 18).expect("address space");
    ordered = |log| OrderedIndex::with_expected(log, 0, u64::MAX).expect("address space");
    ordered_of_a_bounded_pool = |log| OrderedIndex::with_expected(log, 0, 1 << 18).expect("address space");
}
