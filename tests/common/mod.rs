//! What the test files share: seeded numbers, pool folders, options by medium.
#![allow(dead_code, reason = "every test file uses a part of it")]

use flatkv::{MediaChoice, Options, Store};
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

/// Small numbers that depend on nothing but their seed (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_ne_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Not captured, so that it is seen in every log: figures, and what is not run.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A folder in memory where there is one: many small pools, no waiting for a disk.
pub fn memory_dir() -> TempDir {
    if Path::new("/dev/shm").is_dir() {
        return tempfile::tempdir_in("/dev/shm").unwrap();
    }
    tempfile::tempdir().unwrap()
}

/// The media that tests run on.
pub const MEDIA: [MediaChoice; 2] = [MediaChoice::File, MediaChoice::EmulatedPm];

/// Options of a small pool on `media`.
pub fn small(media: MediaChoice, segment_size_bytes: u64) -> Options {
    Options::new().media(media).segment_size_bytes(segment_size_bytes).head_size_bytes(8192)
}

/// One statistic of a store.
pub fn stat(store: &Store, name: &str) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).unwrap();
    let value = name.split('.').fold(&stats, |value, part| &value[part]);
    value.as_u64().unwrap_or_else(|| panic!("statistic {name} is {value}"))
}

/// Options that use `logs` logs instead of the medium's own choice.
#[cfg(feature = "sim")]
pub fn with_logs(options: Options, logs: usize) -> Options {
    flatkv::testing::with_logs(options, logs)
}

/// A file can only be copied as a kill would leave it while nothing changes it in the background.
#[cfg(feature = "sim")]
pub fn stop_cleaning(store: &Store) {
    flatkv::testing::stop_cleaning(store);
}

/// Without the feature `sim` there are no hooks.
#[cfg(not(feature = "sim"))]
pub fn stop_cleaning(_store: &Store) {}

/// Without the feature `sim` a store chooses the number of its logs itself.
#[cfg(not(feature = "sim"))]
pub fn with_logs(options: Options, _logs: usize) -> Options {
    options
}

/// The store is sound, and nobody but its own threads uses it: as soon as they have nothing to do, its accounts are exactly
/// those of a full scan.
pub fn assert_sound(store: &Store, when: &str) {
    for _ in 0..2_000 {
        let report = store.verify().unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(report.is_ok(), "{when}: {:#?}\n{}", report.findings, store.stats_json());
        if report.is_quiet {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{when}: the store never rests: {}", store.stats_json());
}

/// The store is sound, nothing happens in it, and its accounts are exactly those of a full scan.
pub fn assert_exact(store: &Store, when: &str) {
    let report = store.verify().unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(report.is_ok(), "{when}: {:#?}\n{}", report.findings, store.stats_json());
    assert!(report.is_quiet, "{when}: something happened meanwhile\n{}", store.stats_json());
    let counted =
        ["log_entries", "keys", "log_bytes", "dead_bytes", "tombstone_bytes"].map(|name| stat(store, name));
    let scanned =
        [report.entries, report.live_entries, report.log_bytes, report.dead_bytes, report.tombstone_bytes];
    // What is releasable was emptied, is accounted for until it is freed, and is not scanned.
    if stat(store, "segments.releasable") == 0 {
        assert_eq!(counted, scanned, "{when}: entries, keys, log, dead and tombstone bytes");
    }
    let live = report.log_bytes - report.dead_bytes + report.extent_bytes;
    assert_eq!(stat(store, "live_bytes"), live, "{when}: live bytes");
    // Counted as they are taken, and as the table of segments has them.
    let free = stat(store, "segments.free") + stat(store, "segments.hollow");
    assert_eq!(free, report.free_segments, "{when}: free slots\n{}", store.stats_json());
    let free_bytes = free * stat(store, "segment_size_bytes");
    assert_eq!(stat(store, "free_bytes"), free_bytes, "{when}: free bytes");
    assert!(stat(store, "reserved_bytes") <= free_bytes, "{when}: reserved bytes");
    let in_use = ["log", "survivor", "extent"].map(|class| stat(store, &format!("segments.{class}")));
    let by_state =
        ["open", "active", "sealed", "releasable"].map(|state| stat(store, &format!("segments.{state}")));
    assert_eq!(in_use.iter().sum::<u64>(), by_state.iter().sum::<u64>(), "{when}: segments in use");
}
