//! The two index kinds beside each other, through the store: `cargo bench --bench index_kinds -- [--keys N] [--dir DIR]`.
//!
//! Keys of 8 bytes in no order, values of 64 bytes, a pool on emulated persistent memory (tmpfs: survives no power cut).
//! Times are those that threads were on a core; the kinds take turns, and the ratio of the medians counts.

mod common;

use common::{key, on_core_ns, scatter};
use flatkv::{IndexKind, MediaChoice, Options, Store};
use std::path::{Path, PathBuf};

const ROUNDS: usize = 3;
const NAMES: [&str; 5] = ["put, 1 thread", "put, 2", "get, 1", "get, 2", "multi_get of 64"];

/// Calls per microsecond of `threads` that share `0..calls`.
fn rate(threads: u64, calls: u64, work: impl Fn(std::ops::Range<u64>) + Sync) -> f64 {
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || {
                    let share = thread * calls / threads..(thread + 1) * calls / threads;
                    let began = on_core_ns();
                    work(share);
                    (calls / threads) as f64 / (on_core_ns() - began) * 1e3
                })
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join().expect("a measurement")).sum()
    })
}

/// The rates in the order of `NAMES`, and bytes of the index per key.
fn measure(dir: &Path, keys: u64, kind: IndexKind) -> ([f64; 5], f64) {
    let put = |threads: u64| -> (tempfile::TempDir, Store, f64) {
        let folder = tempfile::tempdir_in(dir).expect("a folder for the pool");
        let options = Options::new().media(MediaChoice::EmulatedPm).index(kind);
        let store = options.open(folder.path().join("kinds.fkv")).expect("a pool on tmpfs");
        let rate = rate(threads, keys, |share| {
            share.for_each(|i| store.put(&key(i), &[7; 64]).expect("room on tmpfs"));
        });
        (folder, store, rate)
    };
    let (_, _, put_1) = put(1);
    let (_folder, store, put_2) = put(2);
    let pick = |i: u64| key(scatter(i + 1) % keys);
    let get = |threads| {
        rate(threads, keys, |share| {
            let mut value = [0; 64];
            share.for_each(|i| {
                assert_eq!(store.get_into(&pick(i), &mut value).expect("sound"), Some(64));
            });
        })
    };
    let grouped = rate(1, keys / 64 * 64, |share| {
        for group in share.step_by(64) {
            let group: Vec<[u8; 8]> = (group..group + 64).map(pick).collect();
            let group: Vec<&[u8]> = group.iter().map(|key| &key[..]).collect();
            assert!(store.multi_get(&group).iter().all(|value| matches!(value, Ok(Some(_)))));
        }
    });
    let rates = [put_1, put_2, get(1), get(2), grouped];
    let stats = store.stats_json();
    let bytes = stats.split("\"index_bytes\":").nth(1).expect("a figure");
    let bytes: f64 = bytes.split([',', '}']).next().and_then(|n| n.parse().ok()).expect("a number");
    (rates, bytes / keys as f64)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn main() {
    let mut keys = 2_000_000;
    let mut dir = PathBuf::from("/dev/shm");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--keys" => keys = arguments.next().and_then(|n| n.parse().ok()).expect("--keys N"),
            "--dir" => dir = arguments.next().expect("--dir DIR").into(),
            _ => {}
        }
    }
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let hash = measure(&dir, keys, IndexKind::Hash);
        let ordered = measure(&dir, keys, IndexKind::Ordered);
        println!("round {round}, per us and bytes per key: hash {hash:.2?}, ordered {ordered:.2?}");
        rounds.push((hash.0, ordered.0));
    }
    for (at, name) in NAMES.iter().enumerate() {
        let ratio = median(rounds.iter().map(|(hash, ordered)| ordered[at] / hash[at]).collect());
        println!("ordered to hash, {name}: {ratio:.2}");
    }
    for at in [0, 2] {
        let ratio = median(rounds.iter().map(|(_, ordered)| ordered[at + 1] / ordered[at]).collect());
        println!("ordered, two threads to one, {}: {ratio:.2}", &NAMES[at][..3]);
    }
}
