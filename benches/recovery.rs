//! How fast a store is rebuilt from its log, and what a key costs in DRAM.
//!
//! `cargo bench --bench recovery -- [--keys N] [--steps] [--rounds N] [--dir DIR] [--pool PATH]`: writes N keys of 8 bytes with
//! 64-byte values one put at a time into a pool on emulated persistent memory (tmpfs: survives no power cut), samples RssAnon
//! over the number of keys while the index grows from 1 M keys in steps of 10 %, and all the time between the steps, where
//! it is largest; dies without close, reopens and prints the rate. Says which goals are met; nothing is asserted on time.

use flatkv::{IndexKind, MediaChoice, Options, Store};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 64;
const FIRST_SAMPLE: u64 = 1_000_000;
/// A part of the index is doubled within far more than this.
const SAMPLE_EVERY: Duration = Duration::from_millis(1);

// The goals, for 10 M keys and for 1 to 16 M.
const ENTRIES_PER_SECOND_MIN: f64 = 12e6;
const AVERAGE_BYTES_PER_KEY_MAX: f64 = 12.0;
const WORST_BYTES_PER_KEY_MAX: f64 = 16.0;

struct Arguments {
    keys: u64,
    dir: PathBuf,
    /// Print every step, not only average and worst.
    steps: bool,
    /// Recoveries; 0 if only growth is asked for.
    rounds: usize,
    /// A pool that is kept: written if it is not there, else only recovered.
    pool: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut arguments =
        Arguments { keys: 10_000_000, dir: PathBuf::from("/dev/shm"), steps: false, rounds: 5, pool: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keys" => arguments.keys = words.next().and_then(|n| n.parse().ok()).expect("--keys NUMBER"),
            "--dir" => arguments.dir = words.next().expect("--dir DIR").into(),
            "--pool" => arguments.pool = Some(words.next().expect("--pool PATH").into()),
            "--rounds" => {
                arguments.rounds = words.next().and_then(|n| n.parse().ok()).expect("--rounds NUMBER");
            }
            "--steps" => arguments.steps = true,
            "--bench" => {}
            other => {
                panic!(
                    "unknown argument {other}: accepted are --keys N, --rounds N, --dir DIR, --pool PATH, --steps"
                )
            }
        }
    }
    arguments
}

fn rss_anon_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5 or later");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
}

/// Spreads counters over the key space, so that keys come in random order.
fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn load(options: &Options, path: &Path, arguments: &Arguments) {
    let store = options.clone().open(path).expect("a pool on tmpfs");
    let (written, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (samples, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| watch_peak(&written, &is_over));
        let samples = write_keys(&store, arguments, &written);
        is_over.store(true, Ordering::Relaxed);
        (samples, sampler.join().expect("the sampler only reads"))
    });
    let average = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
    let worst = samples.iter().copied().fold(peak.per_key, f64::max);
    println!(
        "DRAM per key (RssAnon / keys): average {average:.2} bytes over {} steps, peak {:.2} at {} keys in {} samples",
        samples.len(),
        peak.per_key,
        peak.keys,
        peak.samples
    );
    if samples.is_empty() {
        println!("goals for DRAM: not run because there are fewer than {FIRST_SAMPLE} keys");
        return;
    }
    goal(
        "bytes of DRAM per key, average",
        average,
        average <= AVERAGE_BYTES_PER_KEY_MAX,
        "<=",
        AVERAGE_BYTES_PER_KEY_MAX,
    );
    goal(
        "bytes of DRAM per key, worst",
        worst,
        worst <= WORST_BYTES_PER_KEY_MAX,
        "<=",
        WORST_BYTES_PER_KEY_MAX,
    );
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn goal(what: &str, found: f64, is_met: bool, relation: &str, bound: f64) {
    println!("goal: {what} {relation} {bound}: {found:.2}, {}", if is_met { "met" } else { "NOT met" });
}

#[derive(Default)]
struct Peak {
    per_key: f64,
    keys: u64,
    samples: u64,
}

/// The most that a key ever cost, also while the index grows between two steps.
fn watch_peak(written: &AtomicU64, is_over: &AtomicBool) -> Peak {
    let mut peak = Peak::default();
    while !is_over.load(Ordering::Relaxed) {
        // The keys first: what is written meanwhile makes the figure worse, never better.
        let keys = written.load(Ordering::Relaxed);
        if keys >= FIRST_SAMPLE {
            let per_key = rss_anon_bytes() as f64 / keys as f64;
            peak.samples += 1;
            if per_key > peak.per_key {
                (peak.per_key, peak.keys) = (per_key, keys);
            }
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    peak
}

/// Writes the keys; RssAnon per key at each step.
#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn write_keys(store: &Store, arguments: &Arguments, written: &AtomicU64) -> Vec<f64> {
    let (mut next, mut samples) = (FIRST_SAMPLE, Vec::new());
    let started = Instant::now();
    let mut slowest_us = 0;
    for i in 0..arguments.keys {
        let before = Instant::now();
        store.put(&key(i), &[i as u8; VALUE_BYTES]).expect("room on tmpfs");
        slowest_us = slowest_us.max(before.elapsed().as_micros());
        written.store(i + 1, Ordering::Relaxed);
        if i + 1 == next {
            let per_key = rss_anon_bytes() as f64 / next as f64;
            if arguments.steps {
                println!("{next:>12} keys: {per_key:.2} bytes of DRAM per key");
            }
            samples.push(per_key);
            next += next / 10;
        }
    }
    let rate = arguments.keys as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!(
        "load: {} keys of 8 bytes, values of {VALUE_BYTES} bytes, {rate:.2} M durable puts/s, slowest put {slowest_us} us",
        arguments.keys
    );
    samples
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn main() {
    let arguments = arguments();
    // The goals are those of the hash index.
    let options = Options::new().media(MediaChoice::EmulatedPm).index(IndexKind::Hash);
    let own = arguments.dir.join(format!("flatkv-bench-{}.fkv", std::process::id()));
    let path = arguments.pool.as_ref().unwrap_or(&own);
    if !path.exists() {
        load(&options, path, &arguments);
    }
    let mut rates = Vec::new();
    for round in 1..=arguments.rounds {
        // Dropped without close: every round recovers what an unclean end leaves.
        let store = options.clone().open(path).expect("the pool just written");
        let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).expect("stats are JSON");
        let number = |name: &str| stats[name].as_u64().expect("a number in the statistics");
        let (entries, us) = (number("recovered_entries"), number("open_us"));
        println!(
            "recovery {round}: {entries} entries in {:.1} ms = {:.2} M entries/s, {:.2} bytes of DRAM per key",
            us as f64 / 1000.0,
            entries as f64 / us as f64,
            rss_anon_bytes() as f64 / entries as f64
        );
        rates.push(entries as f64 * 1e6 / us.max(1) as f64);
        assert_eq!(number("keys"), entries, "every key was written once and is there again");
    }
    rates.sort_by(f64::total_cmp);
    if let Some(&median) = rates.get(rates.len() / 2) {
        let (found, bound) = (median / 1e6, ENTRIES_PER_SECOND_MIN / 1e6);
        goal("M entries/s recovered, median", found, median >= ENTRIES_PER_SECOND_MIN, ">=", bound);
    }
    if arguments.pool.is_none() {
        std::fs::remove_file(path).expect("remove the pool");
    }
}
