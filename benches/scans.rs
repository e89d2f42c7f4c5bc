//! Iterators and snapshots through the store: `cargo bench --bench scans -- [--keys N] [--dir DIR] [--short] [--writes]
//! [--deletes]`.
//!
//! Keys of 8 bytes put in no order, values of 64 bytes, a pool on emulated persistent memory (tmpfs: survives no power
//! cut), one thread. `--short` stops behind the short scans, for a profile; `--writes`: only puts beside snapshots; `--deletes`:
//! only scans of what was deleted. Times are those that the thread was on a core; of what is compared the sides take turns.

mod common;

use common::{key, on_core_ns, scatter};
use flatkv::{IndexKind, MediaChoice, Options, Store};
use std::path::{Path, PathBuf};
use std::time::Instant;

const ROUNDS: usize = 3;
const SHORT_SCAN: usize = 50;
const SNAPSHOTS: usize = 10_000;

/// Nanoseconds for each of `calls`.
fn ns_each(calls: usize, work: impl FnOnce()) -> f64 {
    let began = on_core_ns();
    work();
    (on_core_ns() - began) / calls as f64
}

fn filled(dir: &Path, keys: u64) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir_in(dir).expect("a folder for the pool");
    let options = Options::new().media(MediaChoice::EmulatedPm).index(IndexKind::Ordered);
    let store = options.open(folder.path().join("scans.fkv")).expect("a pool on tmpfs");
    (0..keys).for_each(|i| store.put(&key(i), &[7; 64]).expect("room on tmpfs"));
    (folder, store)
}

/// Nanoseconds per entry of a scan of all.
fn scan(store: &Store, keys: u64, has_values: bool) -> f64 {
    let mut iter = store.iter().expect("ordered");
    let (mut entries, mut bytes) = (0, 0);
    let ns = ns_each(keys as usize, || {
        while iter.move_next().expect("sound") {
            entries += 1;
            bytes += iter.key().expect("it is on one").len();
            if has_values {
                bytes += iter.value().expect("sound").expect("it is on one").len();
            }
        }
    });
    assert_eq!((entries, bytes as u64), (keys, keys * if has_values { 72 } else { 8 }));
    ns
}

/// Nanoseconds per scan of a few entries from any key on, each with an iterator of its own or all with one.
fn short_scans(store: &Store, keys: u64, has_own: bool) -> f64 {
    const SCANS: usize = 20_000;
    let open = || store.iter().expect("ordered");
    let mut shared = (!has_own).then(open);
    ns_each(SCANS, || {
        for scan in 0..SCANS as u64 {
            let mut own = has_own.then(open);
            let iter = own.as_mut().or(shared.as_mut()).expect("one of them is there");
            let mut is_there = iter.seek(&key(scatter(scan) % keys)).expect("sound");
            for _ in 0..SHORT_SCAN {
                if !is_there {
                    break;
                }
                assert_eq!(iter.value().expect("sound").map(<[u8]>::len), Some(64));
                is_there = iter.move_next().expect("sound");
            }
        }
    })
}

/// Nanoseconds per put of a key that is there.
fn overwrites(store: &Store, keys: u64, puts: usize, from: u64) -> f64 {
    ns_each(puts, || {
        for i in 0..puts as u64 {
            store.put(&key(scatter(from + i) % keys), &[9; 64]).expect("room on tmpfs");
        }
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn show_writes_beside_snapshots(store: &Store, keys: u64) {
    let puts = (keys / 10) as usize;
    let (mut with_iter, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let alone = overwrites(store, keys, puts, round * 1_000_003);
        let iter = store.iter().expect("ordered");
        let beside = overwrites(store, keys, puts, round * 1_000_003 + 500_009);
        with_iter.push(alone / beside);
        drop(iter);
        let many: Vec<_> = (0..SNAPSHOTS as u64)
            .map(|i| {
                store.put(&key(i % keys), &[8; 64]).expect("room on tmpfs");
                store.snapshot().expect("it is open")
            })
            .collect();
        with_many.push(alone / overwrites(store, keys, puts, round * 1_000_003 + 700_001));
        drop(many);
    }
    println!("put of a key that is there, with one open iterator to none: {:.2}", median(with_iter));
    println!("the same with {SNAPSHOTS} open snapshots to none: {:.2}", median(with_many));
}

/// Half of the keys, all those below a middle one, are deleted, and then scanned.
#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn show_scans_of_deleted(store: &Store, keys: u64) {
    let middle = (u64::MAX / 2).to_be_bytes();
    let lower = (0..keys).map(key).filter(|key| *key < middle);
    let deleted = lower.filter(|key| store.delete(key).expect("room on tmpfs")).count();
    let mut iter = store.iter().expect("ordered");
    iter.set_bounds(None, Some(&middle));
    let emptied = || {
        // Too short for the other clock, which goes by ticks.
        let began = Instant::now();
        assert!(!iter.seek_first().expect("sound"));
        began.elapsed().as_nanos() as f64
    };
    let figures: Vec<f64> = std::iter::repeat_with(emptied).take(ROUNDS).collect();
    println!("scan of {deleted} keys that were just deleted, first: {:.2} ms", figures[0] / 1e6);
    println!("the same again: {:.2} ms", median(figures) / 1e6);
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn main() {
    let mut keys = 1_000_000;
    let mut is_short = false;
    let mut dir = PathBuf::from("/dev/shm");
    let mut has_scans = true;
    let mut is_deleting = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--keys" => keys = arguments.next().and_then(|n| n.parse().ok()).expect("--keys N"),
            "--writes" => has_scans = false,
            "--deletes" => is_deleting = true,
            "--short" => is_short = true,
            "--dir" => dir = arguments.next().expect("--dir DIR").into(),
            _ => {}
        }
    }
    let (_folder, store) = filled(&dir, keys);
    if is_deleting {
        return show_scans_of_deleted(&store, keys);
    }
    if !has_scans {
        return show_writes_beside_snapshots(&store, keys);
    }
    let each = |figure: &dyn Fn() -> f64| median((0..ROUNDS).map(|_| figure()).collect());
    let shared = each(&|| short_scans(&store, keys, false));
    println!("{SHORT_SCAN} entries from any key on, with values: {:.2} us", shared / 1e3);
    let own = each(&|| short_scans(&store, keys, true));
    println!("the same with an iterator of its own each: {:.2} us", own / 1e3);
    if is_short {
        return;
    }
    println!("scan of all, keys: {:.0} ns per entry", each(&|| scan(&store, keys, false)));
    println!("scan of all, with values: {:.0} ns per entry", each(&|| scan(&store, keys, true)));
    let snapshots =
        || ns_each(100_000, || (0..100_000).for_each(|_| drop(store.snapshot().expect("it is open"))));
    println!("a snapshot made and dropped: {:.0} ns", each(&snapshots));
    show_writes_beside_snapshots(&store, keys);
    show_scans_of_deleted(&store, keys);
}
