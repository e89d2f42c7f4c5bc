//! Real threads on a real store: what they observe must be explained by some order in which each call takes effect at
//! one moment between its start and its return.
//!
//! Threads work on a few keys for a few calls, with the times of each call recorded; that is one history. The histories
//! of different keys are checked apart (linearizability is local), by the search of Wing and Gong with Lowe's memory of
//! visited states. Snapshots and batches of both keys of a history are checked beside its writes as calls on the two
//! keys together: a snapshot shows what there was at one moment, and a batch wholly or not at all. What a snapshot shows of
//! a key also has to fit the reads of that key alone. Reads without a snapshot, and so what a delete says of its key, promise
//! nothing across keys: beside writes that are under way they may be ahead of a snapshot for one key, and behind it for
//! another. A call that has not returned at the end (an asynchronous put that nobody waited for) may have taken effect at
//! any time, or never. Other tests show that the checker rejects what it should, planted bugs included.

mod common;

use common::report;
use flatkv::{CommitPolicy, IndexKind, MediaChoice, Options, Store, WriteBatch};
use rustix_futex_sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
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

/// The same for a call on both keys of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeenOfBoth {
    Write(usize, Option<u32>),
    PutBoth(u32),
    Snapshot(Values),
}

/// What the keys of a history hold.
type Values = [Option<u32>; KEYS as usize];

/// `end` is `PENDING` if the call had not returned when the history ended.
#[derive(Clone, Copy, Debug)]
struct Call<S> {
    start: u64,
    end: u64,
    seen: S,
}

const PENDING: u64 = u64::MAX;

/// Answers that can be judged.
trait Answer: Copy {
    type State: Copy + Default + Eq + Hash;
    /// What there is after the call, if the call can have been answered so when there was `state`.
    fn apply(self, state: Self::State) -> Option<Self::State>;
}

impl Answer for Seen {
    type State = Option<u32>;

    fn apply(self, value: Option<u32>) -> Option<Option<u32>> {
        match self {
            Seen::Put(new) => Some(Some(new)),
            Seen::Delete(was_there) => (was_there == value.is_some()).then_some(None),
            Seen::Get(found) => (found == value).then_some(value),
            Seen::Exists(found) => (found == value.is_some()).then_some(value),
        }
    }
}

impl Answer for SeenOfBoth {
    type State = Values;

    fn apply(self, mut values: Values) -> Option<Values> {
        match self {
            SeenOfBoth::Write(at, value) => values[at] = value,
            SeenOfBoth::PutBoth(new) => values = [Some(new); KEYS as usize],
            SeenOfBoth::Snapshot(found) if found != values => return None,
            SeenOfBoth::Snapshot(_) => {}
        }
        Some(values)
    }
}

/// Whether some order explains the calls on what held nothing before.
fn is_linearizable<S: Answer>(calls: &[Call<S>]) -> bool {
    assert!(calls.len() <= 128, "a bit for each call");
    let must: u128 = bits(calls, |call| call.end != PENDING);
    let mut visited = HashSet::new();
    let mut to_visit = vec![(0_u128, S::State::default())];
    while let Some((done, state)) = to_visit.pop() {
        if done & must == must {
            return true;
        }
        // A call may come next unless another one that has not taken effect had returned before it started.
        let left = |at: &usize| done & 1 << *at == 0;
        let first_end = (0..calls.len()).filter(left).map(|at| calls[at].end).min().unwrap_or(PENDING);
        for at in (0..calls.len()).filter(left).filter(|&at| calls[at].start <= first_end) {
            if let Some(next) = calls[at].seen.apply(state)
                && visited.insert((done | 1 << at, next))
            {
                to_visit.push((done | 1 << at, next));
            }
        }
    }
    false
}

fn bits<S>(calls: &[Call<S>], is_set: impl Fn(&Call<S>) -> bool) -> u128 {
    calls.iter().enumerate().filter(|(_, call)| is_set(call)).fold(0, |bits, (at, _)| bits | 1 << at)
}

fn call<S>(start: u64, end: u64, seen: S) -> Call<S> {
    Call { start, end, seen }
}

#[test]
fn the_checker_accepts_what_can_be_and_rejects_what_cannot() {
    use Seen::*;
    let good: &[&[Call<Seen>]] = &[
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
    let bad: &[&[Call<Seen>]] = &[
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

#[test]
fn the_checker_wants_snapshots_of_one_moment() {
    use SeenOfBoth::*;
    let good: &[&[Call<SeenOfBoth>]] = &[
        &[call(0, 1, PutBoth(1)), call(2, 3, Snapshot([Some(1); 2]))],
        &[call(0, 9, PutBoth(1)), call(2, 3, Snapshot([None; 2])), call(4, 5, Snapshot([Some(1); 2]))],
        &[call(0, PENDING, PutBoth(1)), call(2, 3, Snapshot([None; 2]))],
        &[call(0, 9, Write(0, Some(1))), call(0, 9, PutBoth(2)), call(10, 11, Snapshot([Some(1), Some(2)]))],
    ];
    let bad: &[&[Call<SeenOfBoth>]] = &[
        // A half of a batch, what was there before a write that had returned, and two moments in one.
        &[call(0, 9, PutBoth(1)), call(2, 3, Snapshot([Some(1), None]))],
        &[call(0, 1, PutBoth(1)), call(2, 3, Snapshot([None; 2]))],
        &[
            call(0, 1, Write(0, Some(1))),
            call(2, 3, Write(1, Some(1))),
            call(0, 9, Snapshot([None, Some(1)])),
        ],
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
    /// A snapshot, and a way to read the keys in it later.
    fn snapshot(&self, keys: [u64; 2]) -> Box<dyn FnOnce() -> Values + '_>;
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

/// The calls of one history, by one thread or by all.
#[derive(Default)]
struct History {
    /// Of each key, apart from the other.
    by_key: [Vec<Call<Seen>>; KEYS as usize],
    /// Writes and snapshots, which are of both keys.
    of_both: Vec<Call<SeenOfBoth>>,
}

impl History {
    fn add(&mut self, at: usize, start: u64, end: u64, seen: Seen) {
        self.by_key[at].push(call(start, end, seen));
        let written = match seen {
            Seen::Put(value) => Some(value),
            Seen::Delete(true) => None,
            Seen::Delete(false) | Seen::Get(_) | Seen::Exists(_) => return,
        };
        self.of_both.push(call(start, end, SeenOfBoth::Write(at, written)));
    }

    fn add_both(&mut self, start: u64, end: u64, seen: SeenOfBoth, seen_of: impl Fn(usize) -> Seen) {
        self.of_both.push(call(start, end, seen));
        for (at, calls) in self.by_key.iter_mut().enumerate() {
            calls.push(call(start, end, seen_of(at)));
        }
    }

    fn append(&mut self, other: History) {
        self.of_both.extend(other.of_both);
        for (calls, others) in self.by_key.iter_mut().zip(other.by_key) {
            calls.extend(others);
        }
    }

    fn is_linearizable(&self) -> bool {
        self.by_key.iter().all(|calls| is_linearizable(calls)) && is_linearizable(&self.of_both)
    }
}

/// One thread's part of one history.
fn play(
    subject: &impl Subject,
    clock: &Instant,
    first_key: u64,
    random: &mut Random,
    value: &mut u32,
) -> History {
    let now = || clock.elapsed().as_nanos() as u64;
    let mut history = History::default();
    for _ in 0..CALLS {
        let at = random.below(KEYS);
        let key = first_key + at;
        let keys = [first_key, first_key + 1];
        let start = now();
        let seen = match random.below(18) {
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
                    history.add(at as usize, start, PENDING, Seen::Put(*value));
                    continue;
                }
            }
            14 => {
                *value += 1;
                subject.put_both(keys, *value);
                history.add_both(start, now(), SeenOfBoth::PutBoth(*value), |_| Seen::Put(*value));
                continue;
            }
            15 | 16 => {
                let read = subject.snapshot(keys);
                let end = now();
                std::thread::yield_now();
                let values = read();
                history.add_both(start, end, SeenOfBoth::Snapshot(values), |at| Seen::Get(values[at]));
                continue;
            }
            _ => {
                std::thread::yield_now();
                continue;
            }
        };
        history.add(at as usize, start, now(), seen);
    }
    history
}

/// Lets all go on when a thread panics, which otherwise wait for it for ever.
struct LetsGo<'a>(&'a AtomicUsize);

impl Drop for LetsGo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(usize::MAX / 2, Ordering::SeqCst);
        }
    }
}

/// Plays histories and returns how many calls they had and those that no order explains.
fn play_histories(subject: &impl Subject, histories: usize, seed: u64) -> (usize, Vec<History>) {
    let clock = Instant::now();
    let arrived = AtomicUsize::new(0);
    let played: Mutex<Vec<History>> = Mutex::new((0..histories).map(|_| History::default()).collect());
    std::thread::scope(|scope| {
        let (clock, arrived, played) = (&clock, &arrived, &played);
        let play_all = |thread: usize| {
            move || {
                let _lets_go = LetsGo(arrived);
                let mut random = Random(seed ^ (thread as u64) << 32);
                let mut value = (thread as u32) << 24;
                let mut all = Vec::new();
                for history in 0..histories {
                    // All start together; who waits gives way, since there may be fewer cores than threads.
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < (history + 1) * THREADS {
                        std::thread::yield_now();
                    }
                    all.push(play(subject, clock, history as u64 * KEYS, &mut random, &mut value));
                }
                played.lock().iter_mut().zip(all).for_each(|(history, part)| history.append(part));
            }
        };
        // Joined one by one, which ThreadSanitizer sees; it does not see the end of a scope.
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(play_all(thread))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let played = played.into_inner();
    let calls = played.iter().flat_map(|history| &history.by_key).map(Vec::len).sum();
    (calls, played.into_iter().filter(|history| !history.is_linearizable()).collect())
}

fn report_calls<S: std::fmt::Debug>(of: &str, calls: &[Call<S>]) {
    report(of);
    let mut calls: Vec<&Call<S>> = calls.iter().collect();
    calls.sort_by_key(|call| call.start);
    calls.iter().for_each(|call| report(&format!("{:>10} to {:>20}: {:?}", call.start, call.end, call.seen)));
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

    fn snapshot(&self, keys: [u64; 2]) -> Box<dyn FnOnce() -> Values + '_> {
        let snapshot = Store::snapshot(self).unwrap();
        Box::new(move || {
            keys.map(|key| {
                let value = snapshot.get(&key.to_le_bytes()).unwrap()?;
                Some(u32::from_le_bytes(value.try_into().expect("four bytes were put")))
            })
        })
    }
}

/// Slow builds (sanitizers) play a share of the histories: `FLATKV_HISTORIES_SHARE=100` is one in 100.
fn share() -> usize {
    std::env::var("FLATKV_HISTORIES_SHARE").map_or(1, |share| share.parse().expect("a number"))
}

fn check_store(media: MediaChoice, commit: CommitPolicy, index: IndexKind, histories: usize, dir: &Path) {
    let histories = histories / share();
    let path = dir.join("pool.fkv");
    let options = Options::new().media(media).commit(commit).index(index).segment_size_bytes(256 << 10);
    let store = options.open(&path).unwrap();
    let started = Instant::now();
    let (calls, bad) = play_histories(&store, histories, 7);
    let took = started.elapsed().as_secs_f64();
    report(&format!(
        "linearizability, {media:?}, {commit:?}, {index:?}: {histories} histories, {calls} calls, {} violations, {took:.1} s",
        bad.len()
    ));
    if let Some(history) = bad.first() {
        history.by_key.iter().for_each(|calls| report_calls("of one key:", calls));
        report_calls("of both:", &history.of_both);
        panic!("{} histories that no order explains, the first above", bad.len());
    }
}

#[test]
fn histories_on_emulated_pm_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Auto, IndexKind::Hash, 80_000, dir.path());
}

#[test]
fn histories_of_writers_in_groups_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Grouped, IndexKind::Ordered, 80_000, dir.path());
}

#[test]
fn histories_of_writers_on_their_own_are_linearizable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    check_store(MediaChoice::EmulatedPm, CommitPolicy::Lone, IndexKind::Ordered, 40_000, dir.path());
}

#[test]
fn histories_on_a_file_are_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    check_store(MediaChoice::File, CommitPolicy::Auto, IndexKind::Ordered, 300, dir.path());
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
    /// A batch takes effect key by key.
    SplitBatch,
    /// A snapshot is read later than it is made.
    LateSnapshot,
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
        if self.bug == Bug::SplitBatch {
            self.set(keys[0], Some(value));
            std::thread::yield_now();
            self.set(keys[1], Some(value));
            return;
        }
        let mut values = self.values.lock();
        for key in keys {
            let known = values.entry(key).or_default();
            *known = (Some(value), known.0);
        }
    }

    fn snapshot(&self, keys: [u64; 2]) -> Box<dyn FnOnce() -> Values + '_> {
        let read = move || {
            let values = self.values.lock();
            keys.map(|key| values.get(&key).copied().unwrap_or_default().0)
        };
        if self.bug == Bug::LateSnapshot {
            return Box::new(read);
        }
        let values = read();
        Box::new(move || values)
    }
}

#[test]
fn planted_bugs_are_found_and_a_right_map_is_not_blamed() {
    const HISTORIES: usize = 2_000;
    let (_, bad) = play_histories(&Toy::new(Bug::None), HISTORIES, 3);
    assert!(bad.is_empty(), "{} histories of a right map", bad.len());
    for bug in [
        Bug::StaleRead,
        Bug::GapInPut,
        Bug::DoubleDelete,
        Bug::EarlyReturn,
        Bug::LostWrite,
        Bug::SplitBatch,
        Bug::LateSnapshot,
    ] {
        let (_, bad) = play_histories(&Toy::new(bug), HISTORIES, 3);
        report(&format!("linearizability, planted {bug:?}: {} of {HISTORIES} histories refuted", bad.len()));
        assert!(!bad.is_empty(), "{bug:?} was not noticed");
    }
}
