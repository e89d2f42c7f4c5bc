//! Random operations against a `BTreeMap`: whatever is done to a store, through whichever thread, closed, dropped or
//! killed in between, it answers as the map does. A failure prints `FLATKV_MODEL_SEED=...`, which replays that case alone.

mod common;
mod model {
    pub mod views;
}

use common::{Rng, assert_sound, memory_dir, report, small, stat, with_logs};
use flatkv::{
    Durability, Error, IndexKind, MediaChoice, Options, Result, Store, Ticket, WriteBatch, WriteOptions,
};
use model::views::{self, Views};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// A put, or a delete if there is no value.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// Threads that take turns: each has a log of its own where the medium has several.
struct Workers {
    jobs: Vec<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(count: usize) -> Workers {
        let mut workers = Workers { jobs: Vec::new(), threads: Vec::new() };
        for _ in 0..count {
            let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
            workers.jobs.push(sender);
            workers.threads.push(std::thread::spawn(move || jobs.into_iter().for_each(|job| job())));
        }
        workers
    }

    /// Runs `f` on one of the threads and waits for it.
    fn on<R: Send + 'static>(&self, worker: usize, f: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = mpsc::channel();
        let job = move || {
            // A panic is the case's to report: the receiver sees that no answer comes.
            let _ = answer.send(f());
        };
        self.jobs[worker].send(Box::new(job)).expect("a worker is gone: see its panic above");
        answered.recv().expect("a worker panicked: see above")
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One fresh pool and what is done to it.
#[derive(Clone, Copy, Debug)]
struct Plan {
    media: MediaChoice,
    segment_bytes: usize,
    logs: usize,
    quota: Option<u64>,
    /// Segments in use after which the case ends, whatever the cleaner may make of them: a bound on its time.
    segments_max: u64,
    steps: usize,
    key_bytes_max: usize,
}

impl Plan {
    /// A quota ends, and so does the list of segments that a small head can hold.
    fn may_be_full(&self) -> bool {
        self.quota.is_some() || self.segment_bytes == 4 << 10
    }
}

struct Case {
    plan: Plan,
    rng: Rng,
    path: PathBuf,
    store: Option<Store>,
    map: Map,
    views: Views,
    keys: Vec<Vec<u8>>,
    workers: Workers,
    operations: usize,
    /// Counted on from the seed.
    opens: u64,
}

fn as_batch(changes: &[Change]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key, value).unwrap(),
            None => batch.delete(key).unwrap(),
        }
    }
    batch
}

/// The file as it was at one moment, though the background thread may write to it: what reads the same twice in a row was
/// all there when the second reading began.
fn snapshot(path: &Path) -> Vec<u8> {
    let mut before = std::fs::read(path).unwrap();
    loop {
        let after = std::fs::read(path).unwrap();
        if before == after {
            return after;
        }
        before = after;
    }
}

fn apply(map: &mut Map, changes: &[Change]) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

impl Case {
    fn new(plan: Plan, seed: u64, dir: &Path) -> Case {
        let mut rng = Rng(seed);
        let mut keys: Vec<Vec<u8>> = (0..24 + rng.below(150))
            .map(|i| {
                let len = match rng.below(20) {
                    0 => 1,
                    1 => 1 + rng.below(plan.key_bytes_max),
                    2..6 => 8,
                    _ => 1 + rng.below(40),
                };
                let mut key = rng.bytes(len);
                key[0] = i as u8;
                key
            })
            .collect();
        if plan.key_bytes_max == flatkv::KEY_BYTES_MAX {
            keys.push(rng.bytes(flatkv::KEY_BYTES_MAX));
        }
        keys.sort();
        keys.dedup();
        let mut case = Case {
            plan,
            rng,
            path: dir.join("pool.fkv"),
            store: None,
            map: Map::new(),
            views: Views::default(),
            keys,
            workers: Workers::start(3),
            operations: 0,
            opens: seed,
        };
        case.open();
        case
    }

    fn options(&mut self) -> Options {
        let mut options = with_logs(small(self.plan.media, self.plan.segment_bytes as u64), self.plan.logs);
        if let Some(quota) = self.plan.quota {
            options = options.max_bytes(quota);
        }
        options.commit_wait_us_max([50, 1_000, 100_000][self.rng.below(3)])
    }

    /// The index is in memory only, so each open may take the other one.
    fn open(&mut self) {
        self.opens += 1;
        let kind = if self.opens.is_multiple_of(2) { IndexKind::Hash } else { IndexKind::Ordered };
        let options = self.options().index(kind);
        self.store =
            Some(options.open(&self.path).unwrap_or_else(|error| panic!("the pool does not open: {error}")));
    }

    fn store(&self) -> Store {
        self.store.clone().expect("a store is open between steps")
    }

    fn worker(&mut self) -> usize {
        self.rng.below(3)
    }

    fn key(&mut self) -> Vec<u8> {
        let at = self.rng.below(self.keys.len());
        self.keys[at].clone()
    }

    fn value(&mut self) -> Vec<u8> {
        let segment = self.plan.segment_bytes;
        let around = |rng: &mut Rng, at: usize| (at + rng.below(130)).saturating_sub(65);
        let len = match self.rng.below(64) {
            0..6 => 0,
            6..9 => around(&mut self.rng, 4096),
            9 => around(&mut self.rng, segment / 4),
            10 => around(&mut self.rng, segment),
            11 => around(&mut self.rng, 32 << 10).min(segment * 3),
            12 => self.rng.below(segment * 3),
            13..20 => self.rng.below(600),
            _ => self.rng.below(40),
        };
        self.rng.bytes(len)
    }

    fn change(&mut self) -> Change {
        let key = self.key();
        let value = if self.rng.one_in(4) { None } else { Some(self.value()) };
        (key, value)
    }

    /// Applies `changes` to the map if the store took them. A refusal has to be one that this pool may give, and changes
    /// nothing.
    fn settle<R>(&mut self, result: Result<R>, changes: &[Change]) -> Option<R> {
        self.operations += changes.len();
        match result {
            Ok(answer) => {
                apply(&mut self.map, changes);
                Some(answer)
            }
            // The second if the cleaner is still at it when the wait is over, on a busy machine.
            Err(Error::NoSpace { .. } | Error::TimedOut(_)) if self.plan.may_be_full() => {
                self.check_keys_of(changes);
                None
            }
            Err(Error::TooLarge { .. })
                if changes.iter().any(|(key, _)| key.len() * 4 > self.plan.segment_bytes) =>
            {
                self.check_keys_of(changes);
                None
            }
            Err(error) => panic!("refused: {error}"),
        }
    }

    fn check_keys_of(&mut self, changes: &[Change]) {
        for (key, _) in changes {
            self.check(key);
        }
    }

    fn check(&mut self, key: &[u8]) {
        self.operations += 1;
        let expected = self.map.get(key).cloned();
        let (store, owned, worker) = (self.store(), key.to_vec(), self.worker());
        let how = self.rng.below(4);
        let len = expected.as_ref().map_or(0, Vec::len);
        let found = self.workers.on(worker, move || -> Result<Option<Vec<u8>>> {
            match how {
                0 => store.get(&owned),
                1 => {
                    let mut buffer = vec![0xEE; len + 3];
                    let found = store.get_into(&owned, &mut buffer)?;
                    if len > 0
                        && let Err(error) = store.get_into(&owned, &mut buffer[..len - 1])
                    {
                        assert!(
                            matches!(error, Error::BufferTooSmall { needed, capacity } if needed == len && capacity == len - 1),
                            "{error}"
                        );
                    }
                    Ok(found.map(|found| buffer[..found].to_vec()))
                }
                2 => Ok(store.get_pinned(&owned)?.map(|pin| pin.to_vec())),
                _ => {
                    let exists = store.exists(&owned)?;
                    let found = store.get(&owned)?;
                    assert_eq!(exists, found.is_some(), "exists and get agree");
                    Ok(found)
                }
            }
        });
        let found = found.expect("reads are never refused");
        assert!(found == expected, "{}", differ(key, expected.as_deref(), found.as_deref()));
    }

    fn check_all(&mut self) {
        for key in self.keys.clone() {
            self.check(&key);
        }
        let keys: Vec<&[u8]> = self.keys.iter().map(Vec::as_slice).collect();
        for (key, found) in keys.iter().zip(self.store().multi_get(&keys)) {
            let found = found.expect("reads are never refused");
            let expected = self.map.get(*key);
            assert!(
                found.as_ref() == expected,
                "{}",
                differ(key, expected.map(Vec::as_slice), found.as_deref())
            );
        }
        self.operations += keys.len();
        let store = self.store();
        self.operations += views::check_order(&store, &self.map, &mut self.rng, &self.keys);
        self.operations += self.views.check_all(&self.keys);
        assert_eq!(stat(&self.store(), "pinned_values"), 0);
        assert_eq!(stat(&self.store(), "damaged_ranges"), 0);
        assert_sound(&self.store(), "when all keys were read");
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..36 => self.put(),
            36..46 => self.delete(),
            46..62 => {
                let key = self.key();
                self.check(&key);
            }
            62..70 => {
                let store = self.store();
                self.operations += self.views.step(&store, &self.map, &self.keys, &mut self.rng);
            }
            70..74 => self.multi_get(),
            74..84 => self.batch(),
            84..94 => {
                let worker = self.worker();
                let burst = self.burst(worker);
                self.finish_burst(worker, burst);
            }
            94..96 => self.store().sync().unwrap(),
            96 => self.close_and_open(),
            97 => self.drop_and_open(),
            98 => self.kill_and_open(),
            _ => self.hold_a_pin(),
        }
    }

    fn write_options(&mut self) -> WriteOptions {
        match self.rng.below(4) {
            0 => WriteOptions::new().durability(Durability::Os),
            1 => WriteOptions::new().durability(Durability::Sync),
            _ => WriteOptions::new(),
        }
    }

    fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let (store, options, worker) = (self.store(), self.write_options(), self.worker());
        let change = (key, Some(value));
        let (key, value) = change.clone();
        let result = self.workers.on(worker, move || store.put_with(&options, &key, &value.expect("a put")));
        self.settle(result, &[change]);
    }

    fn delete(&mut self) {
        let (key, store, options, worker) = (self.key(), self.store(), self.write_options(), self.worker());
        let expected = self.map.contains_key(&key);
        let change = (key.clone(), None);
        let result = self.workers.on(worker, move || store.delete_with(&options, &key));
        if let Some(found) = self.settle(result, &[change]) {
            assert_eq!(found, expected, "delete says whether there was a value");
        }
    }

    fn multi_get(&mut self) {
        let wanted: Vec<Vec<u8>> = (0..1 + self.rng.below(40)).map(|_| self.key()).collect();
        self.operations += wanted.len();
        let keys: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
        for (key, found) in keys.iter().zip(self.store().multi_get(&keys)) {
            assert_eq!(found.expect("reads are never refused").as_ref(), self.map.get(*key));
        }
    }

    /// Mostly small batches; some exceed a frame, all may repeat keys and delete what is not there.
    fn changes(&mut self) -> Vec<Change> {
        let count = if self.rng.one_in(8) { 20 + self.rng.below(60) } else { self.rng.below(8) };
        (0..count).map(|_| self.change()).collect()
    }

    fn batch(&mut self) {
        let changes = self.changes();
        let (store, options, worker) = (self.store(), self.write_options(), self.worker());
        let batch = as_batch(&changes);
        let result = self.workers.on(worker, move || store.write_with(&options, &batch));
        self.settle(result, &changes);
    }

    /// Asynchronous writes of one thread, none waited for. Their tickets, in order.
    fn burst(&mut self, worker: usize) -> Vec<(Ticket, Vec<Change>)> {
        let mut accepted: Vec<(Ticket, Vec<Change>)> = Vec::new();
        for _ in 0..1 + self.rng.below(10) {
            let changes =
                if self.rng.one_in(3) { self.changes() } else { vec![(self.key(), Some(self.value()))] };
            let store = self.store();
            let sent = changes.clone();
            let result = self.workers.on(worker, move || match &sent[..] {
                [(key, Some(value))] => store.put_async(key, value),
                changes => store.write_async(&as_batch(changes)),
            });
            self.operations += changes.len();
            match result {
                Ok(ticket) => {
                    assert!(accepted.last().is_none_or(|(last, _)| *last < ticket), "tickets increase");
                    accepted.push((ticket, changes));
                }
                Err(Error::NoSpace { .. } | Error::TimedOut(_)) if self.plan.may_be_full() => {}
                Err(Error::TooLarge { .. })
                    if changes.iter().any(|(key, _)| key.len() * 4 > self.plan.segment_bytes) => {}
                Err(error) => panic!("refused: {error}"),
            }
        }
        accepted
    }

    fn finish_burst(&mut self, worker: usize, burst: Vec<(Ticket, Vec<Change>)>) {
        let Some((last, _)) = burst.last() else { return };
        let (last, store) = (*last, self.store());
        for (_, changes) in &burst {
            apply(&mut self.map, changes);
        }
        match self.rng.below(4) {
            // A synchronous write of the same thread comes behind all of them.
            0 => {
                let change = self.change();
                let batch = as_batch(std::slice::from_ref(&change));
                let sent = store.clone();
                let result = self.workers.on(worker, move || sent.write(&batch));
                store.wait(last).unwrap();
                self.settle(result, &[change]);
            }
            1 => store.sync().unwrap(),
            2 => burst.iter().rev().for_each(|(ticket, _)| store.wait(*ticket).unwrap()),
            _ => store.wait(last).unwrap(),
        }
        assert!(store.durable_ticket() >= last, "what was waited for is durable");
        for (_, changes) in &burst {
            self.check_keys_of(changes);
        }
    }

    fn close_and_open(&mut self) {
        let worker = self.worker();
        let burst = if self.rng.one_in(2) { self.burst(worker) } else { Vec::new() };
        burst.iter().for_each(|(_, changes)| apply(&mut self.map, changes));
        let store = self.store.take().expect("a store is open between steps");
        store.close().expect("nothing is pinned");
        assert!(matches!(store.get(b"k"), Err(Error::Closed)));
        self.views.end_after_close();
        drop(store);
        self.open();
        assert!(self.store().stats_json().contains("\"was_clean\":true"));
        self.check_all();
    }

    /// The pool is locked as long as anything of its store is there.
    fn let_go(&mut self) {
        self.views.check_all(&self.keys);
        self.views.clear();
        self.store = None;
    }

    /// What was accepted and not waited for is there up to some point, in order.
    fn drop_and_open(&mut self) {
        let worker = self.worker();
        let burst = if self.rng.one_in(2) { self.burst(worker) } else { Vec::new() };
        self.let_go();
        self.open();
        self.adopt_prefix(&burst);
        self.check_all();
    }

    /// What a killed process leaves is what the page cache holds: the file as it is, without another byte.
    fn kill_and_open(&mut self) {
        let worker = self.worker();
        let burst = if self.rng.one_in(2) { self.burst(worker) } else { Vec::new() };
        common::stop_cleaning(&self.store());
        let left = snapshot(&self.path);
        self.let_go();
        std::fs::write(&self.path, left).unwrap();
        self.open();
        self.adopt_prefix(&burst);
        self.check_all();
    }

    fn adopt_prefix(&mut self, burst: &[(Ticket, Vec<Change>)]) {
        let keys: Vec<&[u8]> =
            burst.iter().flat_map(|(_, changes)| changes).map(|(key, _)| key.as_slice()).collect();
        let found: Vec<Option<Vec<u8>>> =
            self.store().multi_get(&keys).into_iter().map(|found| found.unwrap()).collect();
        let mut map = self.map.clone();
        for applied in 0..=burst.len() {
            if keys.iter().zip(&found).all(|(key, found)| map.get(*key) == found.as_ref()) {
                self.map = map;
                return;
            }
            if let Some((_, changes)) = burst.get(applied) {
                apply(&mut map, changes);
            }
        }
        panic!("no prefix of the {} unfinished writes explains what was found", burst.len());
    }

    /// A pinned value stays what it was while its key is overwritten, and keeps the store from being closed.
    fn hold_a_pin(&mut self) {
        let key = self.key();
        let expected = self.map.get(&key).cloned();
        let pin = self.store().get_pinned(&key).unwrap();
        assert_eq!(pin.as_deref(), expected.as_deref());
        for _ in 0..3 {
            let change = (key.clone(), Some(self.value()));
            let result = self.store().put(&key, change.1.as_deref().expect("a put"));
            self.settle(result, &[change]);
        }
        assert_eq!(pin.as_deref(), expected.as_deref());
        if pin.as_ref().is_some_and(|pin| pin.is_zero_copy()) {
            assert!(matches!(self.store().close(), Err(Error::Busy(_))));
        }
        drop(pin);
        self.check(&key);
    }

    fn is_worn(&self) -> bool {
        let store = self.store();
        let used: u64 =
            ["open", "active", "sealed"].iter().map(|state| stat(&store, &format!("segments.{state}"))).sum();
        used > self.plan.segments_max
    }

    fn run(&mut self) {
        for step in 0..self.plan.steps {
            self.step();
            if step % 16 == 0 && self.plan.quota.is_none() && self.is_worn() {
                break;
            }
        }
        self.check_all();
        self.drop_and_open();
        self.close_and_open();
    }
}

fn differ(key: &[u8], expected: Option<&[u8]>, found: Option<&[u8]>) -> String {
    let head = |bytes: &[u8]| format!("{} bytes {:02x?}", bytes.len(), &bytes[..bytes.len().min(8)]);
    format!("key {}: expected {:?}, found {:?}", head(key), expected.map(head), found.map(head))
}

fn run_case(plan: Plan, seed: u64) -> usize {
    let case = std::panic::AssertUnwindSafe(|| {
        let dir = memory_dir();
        let mut case = Case::new(plan, seed, dir.path());
        case.run();
        case.operations
    });
    std::panic::catch_unwind(case).unwrap_or_else(|panic| {
        report(&format!(
            "replay: FLATKV_MODEL_SEED={seed:#x} cargo test --features sim --test model -- --nocapture"
        ));
        report(&format!("{plan:?}"));
        std::panic::resume_unwind(panic)
    })
}

/// The seed of a replay, or the usual one; every case has a seed of its own.
fn seeds(first: u64, count: u64) -> Vec<u64> {
    match std::env::var("FLATKV_MODEL_SEED") {
        Ok(text) => {
            let digits = text.trim_start_matches("0x");
            vec![u64::from_str_radix(digits, 16).expect("FLATKV_MODEL_SEED is a hexadecimal number")]
        }
        Err(_) => (first..first + count).collect(),
    }
}

fn run_plan(plan: Plan, first_seed: u64, cases: u64, operations_min: usize) {
    let seeds = seeds(first_seed, cases);
    let is_replay = seeds.len() == 1;
    let operations: usize = seeds.into_iter().map(|seed| run_case(plan, seed)).sum();
    // A difference ends the test, so whoever gets here has seen none.
    report(&format!("model: {operations} operations, 0 differences, on {plan:?}"));
    assert!(is_replay || operations >= operations_min, "only {operations} operations: the plan is too small");
}

const PLAN: Plan = Plan {
    media: MediaChoice::EmulatedPm,
    segment_bytes: 64 << 10,
    logs: 1,
    quota: None,
    segments_max: 400,
    steps: 3_000,
    key_bytes_max: 4_000,
};

#[test]
fn small_segments_on_pm_with_one_log_answer_as_a_map_does() {
    let plan = Plan { segment_bytes: 4 << 10, segments_max: 34, key_bytes_max: 900, ..PLAN };
    run_plan(plan, 0x1000, 60, 10_000);
}

#[test]
fn small_segments_on_pm_with_two_logs_answer_as_a_map_does() {
    let plan = Plan { segment_bytes: 4 << 10, segments_max: 34, key_bytes_max: 900, logs: 2, ..PLAN };
    run_plan(plan, 0x2000, 60, 10_000);
}

#[test]
fn middle_segments_on_pm_with_two_logs_answer_as_a_map_does() {
    let plan = Plan { segment_bytes: 16 << 10, segments_max: 180, logs: 2, ..PLAN };
    run_plan(plan, 0x3000, 12, 15_000);
}

#[test]
fn large_segments_on_pm_answer_as_a_map_does() {
    run_plan(PLAN, 0x4000, 4, 15_000);
    run_plan(Plan { logs: 2, ..PLAN }, 0x4800, 4, 15_000);
}

#[test]
fn middle_segments_on_files_answer_as_a_map_does() {
    let plan = Plan { media: MediaChoice::File, segment_bytes: 16 << 10, segments_max: 180, ..PLAN };
    run_plan(plan, 0x5000, 16, 15_000);
}

#[test]
fn large_segments_on_files_answer_as_a_map_does() {
    run_plan(Plan { media: MediaChoice::File, ..PLAN }, 0x6000, 4, 15_000);
    run_plan(Plan { media: MediaChoice::File, logs: 2, ..PLAN }, 0x6800, 4, 15_000);
}

#[test]
fn keys_of_any_length_answer_as_a_map_does() {
    for (media, seed) in [(MediaChoice::File, 0x7000), (MediaChoice::EmulatedPm, 0x7100)] {
        let plan = Plan {
            media,
            segment_bytes: 256 << 10,
            key_bytes_max: flatkv::KEY_BYTES_MAX,
            steps: 600,
            logs: 2,
            ..PLAN
        };
        run_plan(plan, seed, 2, 2_000);
    }
}

#[test]
fn a_full_quota_refuses_and_otherwise_answers_as_a_map_does() {
    for (media, logs, seed) in [
        (MediaChoice::File, 1, 0x8000),
        (MediaChoice::EmulatedPm, 1, 0x8100),
        (MediaChoice::EmulatedPm, 2, 0x8200),
    ] {
        let plan = Plan { media, logs, segment_bytes: 16 << 10, quota: Some(600 << 10), steps: 600, ..PLAN };
        run_plan(plan, seed, 6, 4_000);
    }
}
