//! What the cleaner costs those who wait: the same operations, sent at the same times, to a store that is cleaned all the
//! time and to one whose maintenance is paused.
//!
//! One client sends gets and puts in turn at half of the rate that it reaches with cleaning (an open loop: an operation
//! that cannot be sent in time has waited since it was due). Client and cleaner are two threads, so two cores do.
//!
//! Each round measures both, and beside them the machine: a loop that does nothing at the same times. What the machine does
//! to any of the three is in that one's figures, so medians over the rounds count. What the engine itself did to the client,
//! stalls and delays, it counts; that is told for the open loop and for full speed apart. The longest stall it counts since
//! open only, so the open loop is judged by its longest put, from call to return, which has all that the engine and the
//! machine did to it; beside it are that of a paused store and the longest wait of the loop that does nothing.

use super::{Arguments, MOVED_BYTES, PUT_BYTES, Pool, Rng, VALUE_BYTES, key, row, stat};
use flatkv::WriteBatch;
use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};

const LIVE: f64 = 0.80;
/// What an entry takes in a batch, and moved: with a little for headers.
const ENTRY_BYTES: u64 = 90;
const BATCH: u64 = 64;
/// Of the slots that are free in the beginning a paused run uses so much.
const FREE_SHARE: f64 = 0.4;
/// Of the pool so much is written that is dead at once.
const FILLER_SHARE: f64 = 0.14;
/// Times that both are measured, in turn; the median of the ratios counts.
const ROUNDS: usize = 7;
/// For the cleaner to catch up with a client at full speed.
const REST: Duration = Duration::from_millis(300);

/// Latencies in nanoseconds, in order.
struct Latencies(Vec<u64>);

impl Latencies {
    fn new(mut all: Vec<u64>) -> Latencies {
        all.sort_unstable();
        Latencies(all)
    }

    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize] as f64 / 1000.0
    }
}

struct Run {
    gets: Latencies,
    puts: Latencies,
    /// From call to return.
    longest_put: Duration,
}

/// What the store made its writers wait.
#[derive(Clone, Copy)]
struct Waits {
    stalls: u64,
    delays: u64,
    delayed_us: u64,
}

impl Waits {
    fn of(pool: &Pool) -> Waits {
        let count = |name: &str| stat(&pool.store, &format!("cleaner.{name}"));
        Waits { stalls: count("stalls"), delays: count("delays"), delayed_us: count("delayed_us") }
    }

    fn since(self, before: Waits) -> String {
        let (stalls, delays) = (self.stalls - before.stalls, self.delays - before.delays);
        let delayed_ms = (self.delayed_us - before.delayed_us) as f64 / 1000.0;
        format!("{stalls} stalls, {delays} delays of {delayed_ms:.1} ms in all")
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn put_batch(pool: &Pool, keys: std::ops::Range<u64>) {
    let mut batch = WriteBatch::new();
    keys.for_each(|i| batch.put(&key(i), &[i as u8; VALUE_BYTES]).expect("short"));
    pool.store.write(&batch).unwrap_or_else(|error| panic!("{error}\n{}", pool.store.stats_json()));
}

/// Filled to `LIVE` in batches. The other slots were in use before and are free again: a slot that nobody ever wrote to
/// costs page faults, which are not what is measured.
fn filled(arguments: &Arguments) -> Pool {
    let mut pool = Pool::open(arguments);
    pool.keys = (LIVE * pool.bytes as f64) as u64 / MOVED_BYTES;
    for first in (0..pool.keys).step_by(BATCH as usize) {
        put_batch(&pool, first..(first + BATCH).min(pool.keys));
    }
    for _ in 0..(FILLER_SHARE * pool.bytes as f64) as u64 / (BATCH * ENTRY_BYTES) {
        put_batch(&pool, pool.keys..pool.keys + BATCH);
    }
    let began = Instant::now();
    let slots = pool.bytes / stat(&pool.store, "segment_size_bytes");
    let free = || stat(&pool.store, "segments.free") as f64 / slots as f64;
    while free() < 1.6 * FREE_SHARE * (1.0 - LIVE) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "dead segments are freed: {}",
            pool.store.stats_json()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    pool
}

fn get(pool: &Pool, i: u64) {
    black_box(pool.store.get(&key(i)).expect("sound"));
}

fn put(pool: &mut Pool, i: u64) {
    if let Err(error) = pool.put(i) {
        panic!("{error}\n{}", pool.store.stats_json());
    }
}

/// Gets and puts as fast as they go; per second.
fn closed_loop(pool: &mut Pool, operations: u64) -> f64 {
    let (mut rng, began) = (Rng(2), Instant::now());
    for number in 0..operations {
        let i = rng.next() % pool.keys;
        if number % 2 == 0 { put(pool, i) } else { get(pool, i) }
    }
    operations as f64 / began.elapsed().as_secs_f64()
}

/// Calls `send` when each operation is due; how long after that each was over, by the parity of its number.
fn open_loop(rate: f64, operations: u64, mut send: impl FnMut(u64)) -> [Latencies; 2] {
    let mut all = [Vec::new(), Vec::new()];
    let began = Instant::now();
    for number in 0..operations {
        let due = Duration::from_secs_f64(number as f64 / rate);
        while began.elapsed() < due {
            spin_loop();
        }
        send(number);
        all[number as usize % 2].push((began.elapsed() - due).as_nanos() as u64);
    }
    all.map(Latencies::new)
}

fn measure(pool: &mut Pool, rate: f64, operations: u64) -> Run {
    let mut rng = Rng(3);
    pool.slowest = Duration::ZERO;
    let [puts, gets] = open_loop(rate, operations, |number| {
        let i = rng.next() % pool.keys;
        if number % 2 == 0 { put(pool, i) } else { get(pool, i) }
    });
    Run { gets, puts, longest_put: pool.slowest }
}

/// What a round found: with the cleaner, without, and of a loop that does nothing.
type Round = (Run, Run, Latencies);

fn judge(rounds: &[Round], what: &str, goal: &str, of: fn(&Run) -> &Latencies) {
    let mut ratios: Vec<f64> =
        rounds.iter().map(|(with, without, _)| of(with).at(0.999) / of(without).at(0.999)).collect();
    ratios.sort_by(f64::total_cmp);
    let medians = |of: &dyn Fn(&Round) -> &Latencies| {
        let at = |share: f64| median(rounds.iter().map(|round| of(round).at(share)).collect());
        format!("{:.1}/{:.1}/{:.0}/{:.0}", at(0.5), at(0.99), at(0.999), at(1.0))
    };
    let found = format!(
        "{:.2} times ({:.2} to {:.2}): {} us (p50/99/99.9/max, medians of {ROUNDS}), without {}, machine alone {}",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
        medians(&|round| of(&round.0)),
        medians(&|round| of(&round.1)),
        medians(&|round| &round.2),
    );
    row(what, goal, &found);
}

/// What a run writes that must not need the cleaner.
fn free_bytes(pool: &Pool) -> u64 {
    (FREE_SHARE * (1.0 - LIVE) * pool.bytes as f64) as u64
}

/// Measures a pool of its own while the cleaner rests.
fn while_paused<R>(arguments: &Arguments, measure: impl FnOnce(&mut Pool) -> R) -> R {
    let mut pool = filled(arguments);
    pool.store.maintenance_pause().expect("slots are plenty");
    std::thread::sleep(REST);
    let passes = stat(&pool.store, "cleaner.passes");
    let measured = measure(&mut pool);
    assert_eq!(stat(&pool.store, "cleaner.passes"), passes, "the cleaner rested");
    measured
}

/// Puts per second while the cleaner rests, in as many rounds as latencies have: the median.
pub fn rate_of_paused_puts(arguments: &Arguments) -> f64 {
    let overwrite = |pool: &mut Pool| {
        let (keys, count) = (pool.keys, free_bytes(pool) / PUT_BYTES);
        let took = pool.overwrite(count, &mut Rng(1), |rng| rng.next() % keys).expect("slots are plenty");
        count as f64 / took.as_secs_f64()
    };
    median((0..ROUNDS).map(|_| while_paused(arguments, overwrite)).collect())
}

pub fn latency(arguments: &Arguments) {
    let mut cleaned = filled(arguments);
    let operations = 2 * free_bytes(&cleaned) / PUT_BYTES;
    // Until as much was overwritten as the pool has.
    let warm = 2 * cleaned.bytes / PUT_BYTES;
    closed_loop(&mut cleaned, warm);
    let warmed_up = Waits::of(&cleaned);
    let rate = closed_loop(&mut cleaned, warm / 2) / 2.0;
    let at_full_speed = Waits::of(&cleaned);
    let longest_stall_ms = stat(&cleaned.store, "cleaner.longest_stall_us") as f64 / 1000.0;
    let freed = |pool: &Pool| stat(&pool.store, "cleaner.segments_freed");
    let freed_before = freed(&cleaned);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        std::thread::sleep(REST);
        let with = measure(&mut cleaned, rate, operations);
        let without = while_paused(arguments, |paused| measure(paused, rate, operations));
        let [machine, _] = open_loop(rate, operations, |_| {});
        rounds.push((with, without, machine));
    }
    judge(&rounds, "get p99.9 with the cleaner", "<= 1.5 times that without", |run| &run.gets);
    judge(&rounds, "put p99.9 with the cleaner", "<= 2 times that without", |run| &run.puts);
    let longest_ms = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).fold(0.0, f64::max);
    let found = format!(
        "longest put {:.1} ms from call to return, {:.1} ms without the cleaner, machine alone {:.1} ms; {:.0} k operations/s: {}, {} segments freed; before that, at full speed: {}; longest stall from open until then {longest_stall_ms:.1} ms",
        longest_ms(&|round| round.0.longest_put.as_secs_f64() * 1000.0),
        longest_ms(&|round| round.1.longest_put.as_secs_f64() * 1000.0),
        longest_ms(&|round| round.2.at(1.0) / 1000.0),
        rate / 1000.0,
        Waits::of(&cleaned).since(at_full_speed),
        freed(&cleaned) - freed_before,
        at_full_speed.since(warmed_up),
    );
    row("waits in the open loop", "longest <= 5 ms", &found);
}
