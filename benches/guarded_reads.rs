//! What option `sigbus=guard` costs: reads that are copied by `pread` instead of loaded from the mapping.
//!
//! `cargo bench --bench guarded_reads -- [--keys N] [--dir DIR]`: values of 100 and of 4,000 bytes in a pool on emulated
//! persistent memory (tmpfs: survives no power cut), read and overwritten in random order by one thread.

use flatkv::{MediaChoice, Options, SigbusPolicy, Store};
use std::path::PathBuf;
use std::time::Instant;

fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

/// Nanoseconds per call.
fn time(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(|i| call(i * 7_919 % calls));
    started.elapsed().as_nanos() as f64 / calls as f64
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn measure(dir: &std::path::Path, keys: u64, value_bytes: usize, sigbus: SigbusPolicy) {
    let folder = tempfile::tempdir_in(dir).expect("a folder for the pool");
    let path = folder.path().join("guarded.fkv");
    let open = || -> Store {
        Options::new().media(MediaChoice::EmulatedPm).sigbus(sigbus).open(&path).expect("a pool on tmpfs")
    };
    let store = open();
    let value = vec![7; value_bytes];
    (0..keys).for_each(|i| store.put(&key(i), &value).expect("room on tmpfs"));
    let mut buffer = vec![0; value_bytes];
    let get = time(keys, |i| assert!(store.get_into(&key(i), &mut buffer).expect("readable").is_some()));
    let put = time(keys, |i| store.put(&key(i), &value).expect("room on tmpfs"));
    // Not closed: the next open recovers.
    drop(store);
    let started = Instant::now();
    let store = open();
    let recovery = started.elapsed().as_nanos() as f64 / (2 * keys) as f64;
    println!(
        "{sigbus:?}, {value_bytes} bytes: get {get:.0} ns, overwrite {put:.0} ns, recovery {recovery:.0} ns per entry"
    );
    drop(store);
}

fn main() {
    let (mut keys, mut dir) = (100_000, PathBuf::from("/dev/shm"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keys" => keys = words.next().and_then(|n| n.parse().ok()).expect("--keys NUMBER"),
            "--dir" => dir = words.next().expect("--dir DIR").into(),
            "--bench" => {}
            other => panic!("unknown argument {other}: accepted are --keys N, --dir DIR"),
        }
    }
    for value_bytes in [100, 4_000] {
        for sigbus in [SigbusPolicy::Default, SigbusPolicy::Guard] {
            measure(&dir, keys, value_bytes, sigbus);
        }
    }
}
