//! Figures of the index kinds beside each other in one run: `cargo test --release --lib index::figures -- --ignored
//! --nocapture`. Ratios count. Times are those that a thread was on a core, so that a machine which has
//! other work to do does not count as slow; what that work does to caches is in every figure.

use super::hash::HashIndex;
use super::ordered::OrderedIndex;
use super::{Candidate, Direction, Edge, Index, Key, LogKeys, PassNothing, Upsert};
use crate::epoch;
use crate::media::durable::Durable;
use crate::sync::{Arc, Mutex, threads};
use crate::types::Addr;
use std::io::Write;
use std::time::Instant;

const KEYS: u64 = 2_000_000;
const ROUNDS: usize = 3;
const GROUP: usize = 32;

/// A bijection: keys in no order that never meet.
fn scatter(key: u64) -> u64 {
    let key = (key ^ key >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (key ^ key >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// The key of entry `n` at address `n + 1`: eight bytes.
fn bytes_of(n: u64) -> [u8; 8] {
    scatter(n).to_be_bytes()
}

fn hash_of(n: u64) -> u64 {
    scatter(scatter(n) ^ 0x55)
}

struct Numbers;

impl LogKeys for Numbers {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        Some(hash_of(at.to_bits() - 1))
    }

    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool {
        look(&bytes_of(at.to_bits() - 1));
        true
    }

    fn prefetch(&self, _at: &[Addr]) {}
}

fn insert(index: &impl Index, n: u64) {
    let _guard = epoch::pin();
    let key = Key { bytes: &bytes_of(n), hash: hash_of(n) };
    let new = Durable::recovered(Addr::from_bits(n + 1));
    let done = index.upsert_if_newer(key, new.into(), |at| {
        if at.to_bits() == n + 1 { Candidate::Older } else { Candidate::OtherKey }
    });
    assert_eq!(done, Upsert::Inserted);
}

fn get(index: &impl Index, n: u64) {
    let _guard = epoch::pin();
    let key = Key { bytes: &bytes_of(n), hash: hash_of(n) };
    assert!(index.get(key, |at| (at.to_bits() == n + 1).then_some(())).is_some());
}

fn get_group(index: &impl Index, numbers: &[u64]) {
    let _guard = epoch::pin();
    let bytes: Vec<[u8; 8]> = numbers.iter().map(|&n| bytes_of(n)).collect();
    let keys: Vec<Key<'_>> =
        numbers.iter().zip(&bytes).map(|(&n, bytes)| Key { bytes, hash: hash_of(n) }).collect();
    index.prefetch(&keys);
    for (&n, &key) in numbers.iter().zip(&keys) {
        assert!(index.get(key, |at| (at.to_bits() == n + 1).then_some(())).is_some());
    }
}

/// Nanoseconds that the calling thread has been on a core.
fn on_core_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstat");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
}

/// Calls per microsecond of one thread.
fn rate_of(calls: u64, work: impl FnOnce()) -> f64 {
    let began = on_core_ns();
    work();
    calls as f64 / (on_core_ns() - began) * 1e3
}

/// Calls per microsecond of all `threads`, which share all numbers.
fn rate(threads: u64, work: impl Fn(u64) + Sync) -> f64 {
    let sum = Mutex::new(0.0);
    threads::scope(|scope| {
        for thread in 0..threads {
            let (work, sum) = (&work, &sum);
            scope.spawn(move || {
                let share = thread * KEYS / threads..(thread + 1) * KEYS / threads;
                let rate = rate_of(KEYS / threads, || share.for_each(work));
                *sum.lock() += rate;
            });
        }
    });
    sum.into_inner()
}

/// Inserts and gets with one thread and two, then gets in groups.
fn measure<I: Index>(make: impl Fn() -> I) -> ([f64; 5], I) {
    let index = make();
    let insert_1 = rate(1, |n| insert(&index, n));
    drop(index);
    let index = make();
    let insert_2 = rate(2, |n| insert(&index, n));
    let pick = |n: u64| scatter(n + 1) % KEYS;
    let get_1 = rate(1, |n| get(&index, pick(n)));
    let get_2 = rate(2, |n| get(&index, pick(n)));
    let numbers: Vec<u64> = (0..KEYS).map(pick).collect();
    let grouped = rate_of(KEYS, || numbers.chunks(GROUP).for_each(|group| get_group(&index, group)));
    ([insert_1, insert_2, get_1, get_2, grouped], index)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[test]
#[ignore = "prints figures: run alone, in release"]
fn hash_beside_ordered() {
    let mut out = std::io::stderr();
    let log: Arc<dyn LogKeys> = Arc::new(Numbers);
    let mut rounds = Vec::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        let hash = || HashIndex::with_expected(Arc::clone(&log), 0, u64::MAX).expect("address space");
        let ordered = || OrderedIndex::with_expected(Arc::clone(&log), 0, u64::MAX).expect("address space");
        let (hash, _) = measure(hash);
        let (ordered, index) = measure(ordered);
        writeln!(
            out,
            "per us (insert 1, 2 threads, get 1, 2, grouped): hash {hash:.2?}, ordered {ordered:.2?}"
        )
        .expect("stderr");
        rounds.push((hash, ordered));
        last = Some(index);
    }
    for (at, name) in
        ["insert, 1 thread", "insert, 2", "get, 1", "get, 2", "get in groups"].iter().enumerate()
    {
        let ratio = median(rounds.iter().map(|(hash, ordered)| ordered[at] / hash[at]).collect());
        writeln!(out, "ordered to hash, {name}: {ratio:.2}").expect("stderr");
    }
    for (at, name) in [(0, "insert"), (2, "get")] {
        let hash = median(rounds.iter().map(|(hash, _)| hash[at + 1] / hash[at]).collect());
        let ordered = median(rounds.iter().map(|(_, ordered)| ordered[at + 1] / ordered[at]).collect());
        writeln!(out, "two threads to one, {name}: hash {hash:.2}, ordered {ordered:.2}").expect("stderr");
    }
    print_scans(&last.expect("a round"), &mut out).expect("stderr");
}

fn print_scans(index: &OrderedIndex, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "DRAM per key: {:.1}", index.memory_bytes() as f64 / KEYS as f64)?;
    let guard = epoch::pin();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut shown = 0;
        let rate = rate_of(KEYS, || {
            shown = index
                .scan(&guard, Edge::Unbounded, direction, usize::MAX, PassNothing)
                .expect("an ordered kind")
                .count();
        });
        writeln!(out, "{direction:?} scan of {shown}: {rate:.1} addresses per us")?;
    }
    let scans = 200_000;
    let rate = rate_of(scans, || {
        for n in 0..scans {
            let from = bytes_of(scatter(n) % KEYS);
            let scan = index
                .scan(&guard, Edge::Included(&from), Direction::Forward, 50, PassNothing)
                .expect("an ordered kind");
            assert!(scan.take(50).count() > 0);
        }
    });
    writeln!(out, "scans of 50: {rate:.2} per us")?;
    drop(guard);
    // The half of the keys with a high first bit goes, in no order.
    let gone: Vec<u64> = (0..KEYS).filter(|&n| scatter(n) >> 63 == 1).collect();
    let removals = rate_of(gone.len() as u64, || {
        for &n in &gone {
            let _guard = epoch::pin();
            assert!(index.remove(Key { bytes: &bytes_of(n), hash: hash_of(n) }, Addr::from_bits(n + 1)));
        }
    });
    let per_remove = 1e3 / removals;
    let guard = epoch::pin();
    let began = Instant::now();
    let middle = (1_u64 << 63).to_be_bytes();
    let left = index
        .scan(&guard, Edge::Included(&middle), Direction::Forward, usize::MAX, PassNothing)
        .expect("an ordered kind");
    assert_eq!(left.count(), 0);
    let took = began.elapsed();
    writeln!(
        out,
        "{} keys removed, {per_remove:.0} ns each; then a scan of their range: {took:?}",
        gone.len()
    )
}

/// Pauses of single inserts while the index grows.
#[test]
#[ignore = "prints figures: run alone, in release"]
fn pauses_of_growth() {
    let mut out = std::io::stderr();
    let index = OrderedIndex::with_expected(Arc::new(Numbers), 0, u64::MAX).expect("address space");
    let mut pauses = Vec::new();
    for n in 0..10_000_000 {
        let began = Instant::now();
        insert(&index, n);
        pauses.push(began.elapsed());
    }
    pauses.sort_unstable();
    let longest: Vec<_> = pauses.iter().rev().take(8).collect();
    let p = |share: f64| pauses[(pauses.len() as f64 * share) as usize];
    writeln!(out, "p50 {:?}, p99.99 {:?}, p99.999 {:?}, longest {longest:?}", p(0.5), p(0.9999), p(0.99999))
        .expect("stderr");
}
