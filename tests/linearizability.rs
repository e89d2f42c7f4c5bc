//! Real threads on a real store: what they observe must be explained by some order in which each call takes effect at
//! one moment between its start and its return.
//!
//! Threads work on a few keys for a few calls, with the times of each call recorded; that is one history. The histories
//! of different keys are checked apart (linearizability is local), by the search of Wing and Gong with Lowe's memory of
//! visited states. A call that has not returned at the end (an asynchronous put that nobody waited for) may have taken
//! effect at any time, or never. Other tests show that the checker rejects what it should, planted bugs included.

mod common;

use common::report;
use flatkv::{CommitPolicy, MediaChoice, Options, Store, WriteBatch};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

// ---- the checker

/// What a call did and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Put(u32),
    /// Whether there was something to delete.
    Delete(bool),
    Get(Option<u32>),
    Exists(bool),
}

/// A call on one key. `end` is `PENDING` if it had not returned when the history ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    start: u64,
    end: u64,
    seen: Seen,
}

const PENDING: u64 = u64::MAX;

/// What the key holds after the call, if the call can have been answered so when it held `value`.
fn apply(value: Option<u32>, seen: Seen) -> Option<Option<u32>> {
    match seen {
        Seen::Put(new) => Some(Some(new)),
        Seen::Delete(was_there) => (was_there == value.is_some()).then_some(None),
        Seen::Get(found) => (found == value).then_some(value),
        Seen::Exists(found) => (found == value.is_some()).then_some(value),
    }
}

/// Whether some order explains the calls on a key that held nothing before.
fn is_linearizable(calls: &[Call]) -> bool {
    assert!(calls.len() <= 128, "a bit for each call");
    let must: u128 = bits(calls, |call| call.end != PENDING);
    let mut visited = HashSet::new();
    let mut to_visit = vec![(0_u128, None)];
    while let Some((done, value)) = to_visit.pop() {
        if done & must == must {
            return true;
        }
        // A call may come next unless another one that has not taken effect had returned before it started.
        let left = |at: &usize| done & 1 << *at == 0;
        let first_end = (0..calls.len()).filter(left).map(|at| calls[at].end).min().unwrap_or(PENDING);
        for at in (0..calls.len()).filter(left).filter(|&at| calls[at].start <= first_end) {
            if let Some(next) = apply(value, calls[at].seen)
                && visited.insert((done | 1 << at, next))
            {
                to_visit.push((done | 1 << at, next));
            }
        }
    }
    false
}

fn bits(calls: &[Call], is_set: impl Fn(&Call) -> bool) -> u128 {
    calls.iter().enumerate().filter(|(_, call)| is_set(call)).fold(0, |bits, (at, _)| bits | 1 << at)
}

fn call(start: u64, end: u64, seen: Seen) -> Call {
    Call { start, end, seen }
}

#[test]
fn the_checker_accepts_what_can_be_and_rejects_what_cannot() {
    use Seen::*;
    let good: &[&[Call]] = &[
        &[],
        &[call(0, 1, Put(1)), call(2, 3, Get(Some(1))), call(4, 5, Delete(true)), call(6, 7, Get(None))],
        // Of two puts at a time either may be the last, and a reader beside them may see each.
        &[call(0, 9, Put(1)), call(0, 9, Put(2)), call(1, 2, Get(Some(2))), call(10, 11, Get(Some(1)))],
        &[call(0, 9, Put(1)), call(0, 9, Put(2)), call(1, 2, Get(Some(1))), call(10, 11, Get(Some(2)))],
        // What has not returned may have happened, late, or not at all.
        &[call(0, PENDING, Put(1)), call(5, 6, Get(None)), call(7, 8, Get(Some(1)))],
        &[call(0, PENDING, Put(1)), call(5, 6, Get(None))],
        &[call(0, 1, Put(1)), call(2, 9, Delete(true)), call(3, 4, Exists(true)), call(5, 6, Exists(false))],
    ];
    let bad: &[&[Call]] = &[
        &[call(0, 1, Get(Some(1)))],
        // A stale read, a lost write, a value that comes back, two deletes of one value.
        &[call(0, 1, Put(1)), call(2, 3, Put(2)), call(4, 5, Get(Some(1)))],
        &[call(0, 1, Put(1)), call(2, 3, Get(None))],
        &[
            call(0, 9, Put(1)),
            call(0, 9, Put(2)),
            call(1, 2, Get(Some(1))),
            call(3, 4, Get(Some(2))),
            call(5, 6, Get(Some(1))),
        ],
        &[call(0, 1, Put(1)), call(2, 9, Delete(true)), call(2, 9, Delete(true))],
        &[call(0, PENDING, Put(1)), call(5, 6, Get(Some(1))), call(7, 8, Get(None))],
        &[call(0, 9, Put(1)), call(1, 2, Exists(true)), call(3, 4, Get(None))],
        &[call(5, PENDING, Put(1)), call(0, 1, Get(Some(1)))],
    ];
    for calls in good {
        assert!(is_linearizable(calls), "{calls:?}");
    }
    for calls in bad {
        assert!(!is_linearizable(calls), "{calls:?}");
    }
}

// ---- histories

/// What is tested: FlatKV, or a map with a planted bug.
trait Subject: Sync {
    fn put(&self, key: u64, value: u32);
    fn get(&self, key: u64) -> Option<u32>;
    fn delete(&self, key: u64) -> bool;
    fn exists(&self, key: u64) -> bool;
    /// A put in two steps: accepted now, done when `wait` returns.
    fn put_async(&self, key: u64, value: u32) -> u64;
    fn wait(&self, ticket: u64);
    /// Puts under both keys or neither.
    fn put_both(&self, keys: [u64; 2], value: u32);
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % bound
    }
}

const THREADS: usize = 3;
const CALLS: usize = 8;
const KEYS: u64 = 2;

/// One thread's part of one history: the calls it made, with their keys.
fn play(
    subject: &impl Subject,
    clock: &Instant,
    first_key: u64,
    random: &mut Random,
    value: &mut u32,
) -> Vec<(u64, Call)> {
    let now = || clock.elapsed().as_nanos() as u64;
    let mut calls = Vec::with_capacity(CALLS + 2);
    for _ in 0..CALLS {
        let key = first_key + random.below(KEYS);
        let start = now();
        let seen = match random.below(16) {
            0..=3 => {
                *value += 1;
                subject.put(key, *value);
                Seen::Put(*value)
            }
            4..=7 => Seen::Get(subject.get(key)),
            8..=10 => Seen::Delete(subject.delete(key)),
            11 | 12 => Seen::Exists(subject.exists(key)),
            13 => {
                *value += 1;
                let ticket = subject.put_async(key, *value);
                if random.below(2) == 0 {
                    subject.wait(ticket);
                    Seen::Put(*value)
                } else {
                    calls.push((key, Call { start, end: PENDING, seen: Seen::Put(*value) }));
                    continue;
                }
            }
            14 => {
                *value += 1;
                subject.put_both([first_key, first_key + 1], *value);
                let both = Call { start, end: now(), seen: Seen::Put(*value) };
                calls.extend([(first_key, both), (first_key + 1, both)]);
                continue;
            }
            _ => {
                std::thread::yield_now();
                continue;
            }
        };
        calls.push((key, Call { start, end: now(), seen }));
    }
    calls
}

/// Plays histories and returns how many calls they had and the calls of each key that no order explains.
fn play_histories(subject: &impl Subject, histories: usize, seed: u64) -> (usize, Vec<Vec<Call>>) {
    let clock = Instant::now();
    let arrived = AtomicUsize::new(0);
    let by_key: Mutex<HashMap<u64, Vec<Call>>> = Mutex::default();
    std::thread::scope(|scope| {
        let (clock, arrived, by_key) = (&clock, &arrived, &by_key);
        let play_all = |thread: usize| {
            move || {
                let mut random = Random(seed ^ (thread as u64) << 32);
                let mut value = (thread as u32) << 24;
                let mut all = Vec::new();
                for history in 0..histories {
                    // All start together; who waits gives way, since there may be fewer cores than threads.
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < (history + 1) * THREADS {
                        std::thread::yield_now();
                    }
                    all.extend(play(subject, clock, history as u64 * KEYS, &mut random, &mut value));
                }
                let mut by_key = by_key.lock();
                all.into_iter().for_each(|(key, call)| by_key.entry(key).or_default().push(call));
            }
        };
        // Joined one by one, which ThreadSanitizer sees; it does not see the end of a scope.
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(play_all(thread))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let by_key = by_key.into_inner();
    let calls = by_key.values().map(Vec::len).sum();
    let mut bad: Vec<Vec<Call>> = by_key.into_values().filter(|calls| !is_linearizable(calls)).collect();
    bad.iter_mut().for_each(|calls| calls.sort_by_key(|call| call.start));
    (calls, bad)
}

// ---- FlatKV

impl Subject for Store {
    fn put(&self, key: u64, value: u32) {
        Store::put(self, &key.to_le_bytes(), &value.to_le_bytes()).unwrap();
    }

    fn get(&self, key: u64) -> Option<u32> {
        let value = Store::get(self, &key.to_le_bytes()).unwrap()?;
        Some(u32::from_le_bytes(value.try_into().expect("four bytes were put")))
    }

    fn delete(&self, key: u64) -> bool {
        Store::delete(self, &key.to_le_bytes()).unwrap()
    }

    fn exists(&self, key: u64) -> bool {
        Store::exists(self, &key.to_le_bytes()).unwrap()
    }

    fn put_async(&self, key: u64, value: u32) -> u64 {
        Store::put_async(self, &key.to_le_bytes(), &value.to_le_bytes()).unwrap().0
    }

    fn wait(&self, ticket: u64) {
        Store::wait(self, flatkv::Ticket(ticket)).unwrap();
    }

    fn put_both(&self, keys: [u64; 2], value: u32) {
        let mut batch = WriteBatch::new();
        keys.iter().for_each(|key| batch.put(&key.to_le_bytes(), &value.to_le_bytes()).unwrap());
        self.write(&batch).unwrap();
    }
}

/// Slow builds (sanitizers) play a share of the histories: `FLATKV_HISTORIES_SHARE=100` is one in 100.
fn share() -> usize {
    std::env::var("FLATKV_HISTORIES_SHARE").map_or(1, |share| share.parse().expect("a number"))
}

fn check_store(media: MediaChoice, commit: CommitPolicy, histories: usize, dir: &Path) {
    let histories = histories / share();
    // ThreadSanitizer does not see how the first pin of all makes the clock, so that is done before there are threads.
    drop(crossbeam_epoch::pin());
    let path = dir.join("pool.fkv");
    let options = Options::new().media(media).commit(commit).segment_size_bytes(256 << 10);
    let store = options.open(&path).unwrap();
    let started = Instant::now();
    let (calls, bad) = play_histories(&store, histories, 7);
    let took = started.elapsed().as_secs_f64();
    report(&format!(
        "linearizability, {media:?}, {commit:?}: {histories} histories, {calls} calls, {} violations, {took:.1} s",
        bad.len()
    ));
    if let Some(calls) = bad.first() {
        calls
            .iter()
            .for_each(|call| report(&format!("{:>10} to {:>20}: {:?}", call.start, call.end, call.seen)));
        panic!("{} histories of a key that no order explains, the first above", bad.len());
    }
}

#[test]
fn histories_on_emulated_pm_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Auto, 80_000, dir.path());
}

#[test]
fn histories_of_writers_in_groups_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Grouped, 80_000, dir.path());
}

#[test]
fn histories_of_writers_on_their_own_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Lone, 40_000, dir.path());
}

#[test]
fn histories_on_a_file_are_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    check_store(MediaChoice::File, CommitPolicy::Auto, 300, dir.path());
}

// ---- planted bugs

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A get now and then answers what the key held before its last change.
    StaleRead,
    /// A put removes and then inserts, in two steps.
    GapInPut,
    /// A delete looks and then removes, in two steps.
    DoubleDelete,
    /// A put now and then returns before it has taken effect.
    EarlyReturn,
    /// One of two puts at a time undoes the other and then itself: what a reader saw is gone.
    LostWrite,
}

/// What a key holds, and what it held before.
type Known = (Option<u32>, Option<u32>);

/// A map behind a lock, right but for one planted bug.
struct Toy {
    bug: Bug,
    values: Mutex<HashMap<u64, Known>>,
    calls: AtomicU64,
}

impl Toy {
    fn new(bug: Bug) -> Toy {
        Toy { bug, values: Mutex::default(), calls: AtomicU64::new(0) }
    }

    fn set(&self, key: u64, value: Option<u32>) -> Option<u32> {
        let mut values = self.values.lock();
        let known = values.entry(key).or_default();
        *known = (value, known.0);
        known.1
    }

    fn now_and_then(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(64)
    }
}

impl Subject for Toy {
    fn put(&self, key: u64, value: u32) {
        match self.bug {
            Bug::GapInPut => {
                self.set(key, None);
                std::thread::yield_now();
            }
            Bug::EarlyReturn if self.now_and_then() => return,
            Bug::LostWrite if self.now_and_then() => {
                let before = self.set(key, Some(value));
                std::thread::yield_now();
                self.set(key, before);
                return;
            }
            _ => {}
        }
        self.set(key, Some(value));
    }

    fn get(&self, key: u64) -> Option<u32> {
        let known = self.values.lock().get(&key).copied().unwrap_or_default();
        if self.bug == Bug::StaleRead && self.now_and_then() { known.1 } else { known.0 }
    }

    fn delete(&self, key: u64) -> bool {
        if self.bug != Bug::DoubleDelete {
            return self.set(key, None).is_some();
        }
        let is_there = self.exists(key);
        std::thread::yield_now();
        self.set(key, None);
        is_there
    }

    fn exists(&self, key: u64) -> bool {
        self.values.lock().get(&key).is_some_and(|known| known.0.is_some())
    }

    fn put_async(&self, key: u64, value: u32) -> u64 {
        self.set(key, Some(value));
        0
    }

    fn wait(&self, _ticket: u64) {}

    fn put_both(&self, keys: [u64; 2], value: u32) {
        keys.iter().for_each(|key| {
            self.set(*key, Some(value));
        });
    }
}

#[test]
fn planted_bugs_are_found_and_a_right_map_is_not_blamed() {
    const HISTORIES: usize = 2_000;
    let (_, bad) = play_histories(&Toy::new(Bug::None), HISTORIES, 3);
    assert!(bad.is_empty(), "{bad:?}");
    for bug in [Bug::StaleRead, Bug::GapInPut, Bug::DoubleDelete, Bug::EarlyReturn, Bug::LostWrite] {
        let (_, bad) = play_histories(&Toy::new(bug), HISTORIES, 3);
        report(&format!("linearizability, planted {bug:?}: {} of {HISTORIES} histories refuted", bad.len()));
        assert!(!bad.is_empty(), "{bug:?} was not noticed");
    }
}
