//! What a change of sizes costs, beside glibc's malloc doing the same, and what overwriting large values costs.
//!
//! The eight workloads are those of the evaluation of RAMCloud's log-structured memory, scaled to the pool: values of one
//! distribution, twice the pool's bytes; a share of them deleted at random; then as many of a second
//! distribution. Live is what the store counts as live but tombstones, which keep nothing, of the whole pool: entries with
//! their keys and headers, and the extents of large values in whole blocks. Payload is the bytes of values alone, of the whole
//! pool, at the same looks. malloc's share is live bytes of peak RSS: of values alone, too.

use crate::{Arguments, Rng, row, stat};
use flatkv::{Error, MediaChoice, Store};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// First sizes, share deleted in percent, second sizes.
type Workload = (&'static str, (u64, u64), u64, Option<(u64, u64)>);

const WORKLOADS: [Workload; 8] = [
    ("W1", (100, 100), 0, None),
    ("W2", (100, 100), 0, Some((130, 130))),
    ("W3", (100, 100), 90, Some((130, 130))),
    ("W4", (100, 150), 0, Some((200, 250))),
    ("W5", (100, 150), 90, Some((200, 250))),
    ("W6", (100, 200), 50, Some((1_000, 2_000))),
    ("W7", (1_000, 2_000), 90, Some((1_500, 2_500))),
    ("W8", (50, 150), 90, Some((5_000, 15_000))),
];
/// Of the pool that is kept live: the first of these that is taken without a refusal is sustained.
const SHARES: [f64; 8] = [0.86, 0.855, 0.85, 0.80, 0.75, 0.70, 0.60, 0.50];
/// Bytes written of each distribution, in pools.
const TIMES: u64 = 2;
const LOOK_EVERY: u64 = 64;
/// A share at which a trace takes longer is not sustained: the store does little but look for room.
const LONGEST: Duration = Duration::from_secs(60);
/// A trace ends after so many refusals.
const REFUSED_MAX: u64 = 20;

/// A put of so many bytes, or a delete.
type Step = (u32, Option<u32>);

/// A store that is kept at its share of live bytes, and what was done to it.
struct Trace {
    store: Store,
    pool_bytes: u64,
    share: f64,
    rng: Rng,
    began: Instant,
    /// Keys that have a value, and its length.
    live: Vec<(u32, u32)>,
    payload: u64,
    /// What may be live of it, by what the store makes of it now.
    payload_max: u64,
    next: u32,
    steps: Vec<Step>,
    lowest: f64,
    /// The least share of payload that was seen since the pool was full.
    lowest_payload: f64,
    refused: u64,
    refused_deletes: u64,
    count: u64,
    was_full: bool,
}

impl Trace {
    fn look(&mut self) {
        let live = stat(&self.store, "live_bytes") - stat(&self.store, "tombstone_bytes");
        let share = live as f64 / self.pool_bytes as f64;
        if share > self.share / 4.0 {
            // A little more than the goal, for what is estimated between two looks.
            self.payload_max = (self.payload as f64 * (self.share + 0.002) / share) as u64;
        }
        self.was_full |= share >= self.share;
        if self.was_full {
            self.lowest = self.lowest.min(share);
            self.lowest_payload = self.lowest_payload.min(self.payload as f64 / self.pool_bytes as f64);
        }
    }

    /// False if the pool is too full for a tombstone.
    fn delete_any(&mut self) -> bool {
        let at = self.rng.next() as usize % self.live.len();
        let (number, len) = self.live[at];
        match self.store.delete(&number.to_le_bytes()) {
            Ok(_) => {
                self.live.swap_remove(at);
                self.payload -= u64::from(len);
                self.steps.push((number, None));
                true
            }
            Err(Error::NoSpace { .. } | Error::TimedOut(_)) => {
                self.refused_deletes += 1;
                false
            }
            Err(error) => panic!("delete: {error}"),
        }
    }

    /// Puts values of these sizes, and deletes others while the pool holds its share.
    fn fill(&mut self, (least, most): (u64, u64)) {
        let mut left = (TIMES * self.pool_bytes) as i64;
        self.was_full = false;
        while left > 0 && self.is_well() {
            if self.count.is_multiple_of(LOOK_EVERY) {
                self.look();
            }
            self.count += 1;
            let len = least + self.rng.next() % (most - least + 1);
            while self.payload + len > self.payload_max && self.live.len() > 1 && self.delete_any() {}
            let number = self.next;
            self.next += 1;
            left -= len as i64;
            match self.store.put(&number.to_le_bytes(), &vec![number as u8; len as usize]) {
                Ok(()) => {
                    self.live.push((number, len as u32));
                    self.payload += len;
                    self.steps.push((number, Some(len as u32)));
                }
                Err(Error::NoSpace { .. } | Error::TimedOut(_)) => {
                    self.refused += 1;
                    self.delete_any();
                }
                Err(error) => panic!("put {}: {error}", self.count),
            }
        }
    }

    fn is_well(&self) -> bool {
        self.refused + self.refused_deletes < REFUSED_MAX && self.began.elapsed() < LONGEST
    }

    fn delete_share(&mut self, percent: u64) {
        let left = self.live.len() as u64 * (100 - percent) / 100;
        while self.live.len() as u64 > left && self.delete_any() {}
    }
}

/// True if nothing was refused; else the next smaller share is tried.
fn run(arguments: &Arguments, (name, first, deleted, second): Workload, share: f64) -> bool {
    let dir = tempfile::tempdir_in(&arguments.dir).expect("a folder");
    let pool_bytes = arguments.mib << 20;
    let options = arguments.options().media(MediaChoice::EmulatedPm).max_bytes(pool_bytes);
    let store = options.open(dir.path().join("pool.fkv")).expect("a pool");
    let mut trace = Trace {
        store,
        pool_bytes,
        share,
        rng: Rng(8),
        began: Instant::now(),
        live: Vec::new(),
        payload: 0,
        payload_max: u64::MAX,
        next: 0,
        steps: Vec::new(),
        lowest: 1.0,
        lowest_payload: 1.0,
        refused: 0,
        refused_deletes: 0,
        count: 0,
        was_full: false,
    };
    trace.fill(first);
    if let Some(second) = second {
        trace.delete_share(deleted);
        trace.fill(second);
    }
    let is_sustained = trace.refused + trace.refused_deletes == 0 && trace.is_well();
    if !is_sustained && share > SHARES[SHARES.len() - 1] {
        return false;
    }
    let took = trace.began.elapsed().as_secs_f64();
    let moved = stat(&trace.store, "cleaner.blob_bytes_moved");
    let steps: Vec<u8> = trace
        .steps
        .iter()
        .flat_map(|(number, len)| [*number, len.unwrap_or(u32::MAX)])
        .flat_map(u32::to_le_bytes)
        .collect();
    let file = dir.path().join("steps");
    fs::write(&file, steps).expect("room");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .arg("--malloc")
        .arg(&file)
        .output()
        .expect("it starts");
    let malloc = String::from_utf8_lossy(&child.stdout).trim().to_string();
    let found = format!(
        "live {:.1} % at the least (of {:.1} % aimed at), payload {:.1} %, {} of {} puts and {} deletes refused, {:.0} k steps/s, longest stall {:.0} ms, {moved} bytes of large values moved; glibc malloc: {malloc}",
        trace.lowest * 100.0,
        share * 100.0,
        trace.lowest_payload * 100.0,
        trace.refused,
        trace.next,
        trace.refused_deletes,
        trace.steps.len() as f64 / took / 1000.0,
        stat(&trace.store, "cleaner.longest_stall_us") as f64 / 1000.0,
    );
    row(&format!("allocator workload {name}"), "live >= 85 % sustained", &found);
    true
}

pub fn allocators(arguments: &Arguments) {
    for workload in WORKLOADS {
        SHARES.into_iter().any(|share| run(arguments, workload, share));
    }
}

fn peak_rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// The same with malloc, in a process of its own: the largest live bytes, of what its peak grew by.
#[allow(clippy::print_stdout, reason = "the parent reads it")]
pub fn with_malloc(file: &Path) {
    let steps = fs::read(file).expect("the steps");
    let word = |at: usize| u32::from_le_bytes(steps[at..at + 4].try_into().expect("four bytes"));
    let count = steps.len() / 8;
    let mut values: Vec<Option<Box<[u8]>>> = Vec::new();
    values.resize_with(count, || None);
    let before = peak_rss_bytes();
    let (mut live, mut most) = (0_u64, 0);
    for at in (0..steps.len()).step_by(8) {
        let (number, len) = (word(at) as usize, word(at + 4));
        if len == u32::MAX {
            live -= values[number].take().map_or(0, |value| value.len() as u64);
        } else {
            // Written to, so that its pages are there.
            values[number] = Some(vec![1 + number as u8 % 200; len as usize].into_boxed_slice());
            live += u64::from(len);
        }
        most = most.max(live);
    }
    let grown = (peak_rss_bytes() - before).max(1);
    println!(
        "{} MiB live, {} MiB peak, {:.0} %",
        most >> 20,
        grown >> 20,
        most as f64 * 100.0 / grown as f64
    );
}

/// Large values overwritten at random in a pool of 256 MiB: `times` its size in all.
pub fn overwrites(arguments: &Arguments, times: u64) {
    const POOL_BYTES: u64 = 256 << 20;
    const VALUE_BYTES: usize = 1 << 20;
    let dir = tempfile::tempdir_in(&arguments.dir).expect("a folder");
    let options = arguments.options().media(MediaChoice::EmulatedPm).max_bytes(POOL_BYTES);
    let store = options.open(dir.path().join("pool.fkv")).expect("a pool");
    let keys = POOL_BYTES * 7 / 10 / VALUE_BYTES as u64;
    let (mut rng, mut refused) = (Rng(5), 0_u64);
    let puts = times * POOL_BYTES / VALUE_BYTES as u64;
    for round in 0..puts {
        let number = if round < keys { round } else { rng.next() % keys };
        refused += u64::from(store.put(&number.to_le_bytes(), &vec![round as u8; VALUE_BYTES]).is_err());
    }
    let found = format!(
        "{puts} puts, {refused} refused, {} bytes moved, {:.1} % live, write amplification of the log {}",
        stat(&store, "cleaner.blob_bytes_moved"),
        stat(&store, "live_bytes") as f64 * 100.0 / POOL_BYTES as f64,
        (stat(&store, "appended_bytes") + stat(&store, "cleaner.bytes_written")) as f64
            / stat(&store, "appended_bytes") as f64,
    );
    row(&format!("1 MiB values, {times} times the pool"), "0 refused, 0 bytes moved", &found);
}
