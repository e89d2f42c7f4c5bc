//! What the cleaner costs those who wait: the same operations, sent at the same times, to a store that is cleaned all the
//! time and to one whose maintenance is paused.
//!
//! One client sends gets and puts in turn at half of the rate that it reaches with cleaning (an open loop: an operation
//! that cannot be sent in time has waited since it was due). Beside it the jitter of the machine: a loop that does nothing.

use super::{Arguments, HEAD_BYTES, Pool, Rng, VALUE_BYTES, key, row, stat};
use flatkv::WriteBatch;
use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};

const LIVE: f64 = 0.80;
/// What an entry takes in a batch, and moved: with a little for headers.
const ENTRY_BYTES: u64 = 90;
const BATCH: u64 = 64;
/// What a put alone takes.
const PUT_BYTES: u64 = 128;
/// Of the slots that are free in the beginning a paused run uses so much.
const FREE_SHARE: f64 = 0.4;
/// Times that both are measured, in turn; the median of the ratios counts.
const ROUNDS: usize = 5;
/// For the cleaner to catch up with a client at full speed.
const REST: Duration = Duration::from_millis(500);

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

    fn line(&self) -> String {
        format!("{:.1}/{:.1}/{:.0}/{:.0}", self.at(0.5), self.at(0.99), self.at(0.999), self.at(1.0))
    }
}

struct Run {
    gets: Latencies,
    puts: Latencies,
}

/// Filled to `LIVE` in batches, so that nothing had to be cleaned yet.
fn filled(arguments: &Arguments) -> Pool {
    let mut pool = Pool::open(arguments);
    pool.keys = (LIVE * (pool.bytes - HEAD_BYTES) as f64) as u64 / ENTRY_BYTES;
    for first in (0..pool.keys).step_by(BATCH as usize) {
        let mut batch = WriteBatch::new();
        for i in first..(first + BATCH).min(pool.keys) {
            batch.put(&key(i), &[i as u8; VALUE_BYTES]).expect("short");
        }
        pool.store.write(&batch).unwrap_or_else(|error| panic!("{error}\n{}", pool.store.stats_json()));
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
    let [puts, gets] = open_loop(rate, operations, |number| {
        let i = rng.next() % pool.keys;
        if number % 2 == 0 { put(pool, i) } else { get(pool, i) }
    });
    Run { gets, puts }
}

pub fn latency(arguments: &Arguments) {
    let free_slots = |pool: &Pool| (FREE_SHARE * (1.0 - LIVE) * pool.bytes as f64) as u64;
    let mut cleaned = filled(arguments);
    let operations = 2 * free_slots(&cleaned) / PUT_BYTES;
    // Until as much was overwritten as the pool has.
    let warm = 2 * cleaned.bytes / PUT_BYTES;
    closed_loop(&mut cleaned, warm);
    let rate = closed_loop(&mut cleaned, warm / 2) / 2.0;
    let count = |pool: &Pool, name: &str| stat(&pool.store, name);
    let at_full_speed = (count(&cleaned, "cleaner.stalls"), count(&cleaned, "cleaner.longest_stall_us"));
    let delays_before = count(&cleaned, "cleaner.delays");
    let freed_before = count(&cleaned, "cleaner.segments_freed");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        std::thread::sleep(REST);
        let with = measure(&mut cleaned, rate, operations);
        let mut paused = filled(arguments);
        paused.store.maintenance_pause().expect("slots are plenty");
        std::thread::sleep(REST);
        let without = measure(&mut paused, rate, operations);
        assert_eq!(count(&paused, "cleaner.passes"), 0, "the cleaner rested");
        rounds.push((with, without));
    }
    let [jitter, _] = open_loop(rate, operations, |_| {});
    let judge = |what: &str, goal: &str, of: fn(&Run) -> &Latencies| {
        let ratio = |round: &(Run, Run)| of(&round.0).at(0.999) / of(&round.1).at(0.999);
        let mut by_ratio: Vec<&(Run, Run)> = rounds.iter().collect();
        by_ratio.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let all: Vec<String> = by_ratio.iter().map(|round| format!("{:.2}", ratio(round))).collect();
        let median = by_ratio[ROUNDS / 2];
        let found = format!(
            "{:.2} times (of {}): {} us (p50/99/99.9/max), without {}",
            ratio(median),
            all.join(" "),
            of(&median.0).line(),
            of(&median.1).line()
        );
        row(what, goal, &found);
    };
    judge("get p99.9 with the cleaner", "<= 1.5 times that without", |run| &run.gets);
    judge("put p99.9 with the cleaner", "<= 2 times that without", |run| &run.puts);
    let found = format!(
        "{:.0} k operations/s, {} segments freed, {} delays, {} stalls, longest ever {:.1} ms; at full speed {} stalls, longest {:.1} ms; machine alone {} us",
        rate / 1000.0,
        count(&cleaned, "cleaner.segments_freed") - freed_before,
        count(&cleaned, "cleaner.delays") - delays_before,
        count(&cleaned, "cleaner.stalls") - at_full_speed.0,
        count(&cleaned, "cleaner.longest_stall_us") as f64 / 1000.0,
        at_full_speed.0,
        at_full_speed.1 as f64 / 1000.0,
        jitter.line()
    );
    row("stalls of our own making", "longest <= 5 ms", &found);
}
