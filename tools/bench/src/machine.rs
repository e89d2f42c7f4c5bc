//! What the machine itself can do: the limits that figures are held against.

use crate::measure::{Figures, ns_per_step};
use crate::pmem::{self, LINE_BYTES, Mapping};
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use std::alloc::Layout;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Writes that the pipelined limit keeps in flight; as many threads as the busiest file figure has.
pub const IN_FLIGHT: usize = 16;
const BLOCK_BYTES: usize = 4096;
/// The preallocated file that is written to; its writes go round.
const FILE_BYTES: usize = 16 << 20;

/// A cycle of lines in random order, to be followed.
pub struct Chase {
    memory: Mapping,
}

impl Chase {
    pub fn new(bytes: usize) -> Chase {
        let memory = Mapping::private(bytes);
        let mut order: Vec<u32> = (0..(bytes / LINE_BYTES) as u32).collect();
        order.shuffle(&mut Pcg64Mcg::seed_from_u64(1));
        for (i, line) in order.iter().enumerate() {
            let next = order[(i + 1) % order.len()];
            let at = memory.at(*line as usize * LINE_BYTES, 4);
            // SAFETY: inside the mapping, aligned to a line, nobody else's.
            unsafe { at.cast::<u32>().write(next) };
        }
        Chase { memory }
    }

    #[inline]
    fn next(&self, line: u32) -> u32 {
        let at = self.memory.at(line as usize * LINE_BYTES, 4);
        // SAFETY: inside the mapping, aligned, written by `new` and never since.
        unsafe { at.cast::<u32>().read() }
    }

    /// Nanoseconds per read when `GROUP` chains are followed side by side.
    fn follow<const GROUP: usize>(&self, reads: u64) -> f64 {
        let lines = (self.memory.len() / LINE_BYTES) as u32;
        let mut at: [u32; GROUP] = std::array::from_fn(|i| i as u32 * (lines / GROUP as u32));
        let steps = reads / GROUP as u64;
        let ns = ns_per_step(steps * GROUP as u64, || {
            for _ in 0..steps {
                at.iter_mut().for_each(|line| *line = self.next(*line));
            }
        });
        black_box(at);
        ns
    }

    pub fn measure(&self, reads: u64, figures: &mut Figures) {
        figures.add("random read, one at a time", "ns", self.follow::<1>(reads));
        figures.add("random read, groups of 8", "ns", self.follow::<8>(reads * 4));
        figures.add("random read, groups of 16", "ns", self.follow::<16>(reads * 4));
    }
}

/// Appends records of whole lines, each made durable before the next.
fn append(log: &Mapping, part: usize, parts: usize, lines_per_record: usize, stream: bool) -> f64 {
    let bytes = log.len() / parts;
    let record = lines_per_record * LINE_BYTES;
    let records = bytes / record;
    ns_per_step(records as u64, || {
        for i in 0..records {
            let to = log.at(part * bytes + i * record, record);
            for line in 0..lines_per_record {
                // SAFETY: a line of this thread's part, aligned.
                unsafe {
                    let to = to.add(line * LINE_BYTES);
                    if stream {
                        pmem::stream_line(to, &[i as u8; LINE_BYTES]);
                    } else {
                        to.cast::<[u8; LINE_BYTES]>().write_volatile([i as u8; LINE_BYTES]);
                        pmem::write_back(to);
                    }
                }
            }
            pmem::fence();
        }
    })
}

/// Fenced appends to emulated persistent memory.
pub fn appends(dir: &Path, bytes: usize, figures: &mut Figures) {
    let log = Mapping::shared(&dir.join(format!("flatkv-bench-log-{}", std::process::id())), bytes);
    figures.add("fenced append of 64 B, non-temporal", "ns", append(&log, 0, 1, 1, true));
    if pmem::has_clwb() {
        figures.add("fenced append of 64 B, store+clwb", "ns", append(&log, 0, 1, 1, false));
    }
    figures.add("fenced append of 128 B, non-temporal", "ns", append(&log, 0, 1, 2, true));
    let start = Barrier::new(2);
    let both: Vec<f64> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|part| {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                append(log, part, 2, 1, true)
            })
        });
        threads.into_iter().map(|thread| thread.join().expect("an append")).collect()
    });
    let aggregate = both.iter().copied().fold(0.0, f64::max) / 2.0;
    figures.add("fenced append of 64 B, non-temporal, two threads together", "ns", aggregate);
}

pub fn memcpy(bytes: usize, figures: &mut Figures) {
    let (from, to) = (Mapping::private(bytes), Mapping::private(bytes));
    let ns = ns_per_step(bytes as u64, || {
        // SAFETY: two mappings of as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.at(0, bytes), to.at(0, bytes), bytes) };
        black_box(to.at(0, bytes));
    });
    figures.add("memcpy", "GB/s", 1.0 / ns);
}

/// Gaps that a thread sees which does nothing but read the clock, in nanoseconds.
pub fn jitter(time: Duration) -> Histogram<u64> {
    let mut gaps = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("up to a minute, 3 digits");
    let started = Instant::now();
    let mut last = started;
    while last - started < time {
        let now = Instant::now();
        gaps.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    gaps
}

/// A file whose blocks exist and have been written.
fn written_file(path: &Path, flags: i32) -> File {
    std::fs::write(path, vec![1_u8; FILE_BYTES]).expect("room for a file of 16 MiB");
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
    let file = File::options().read(true).write(true).custom_flags(flags).open(path);
    let file = file.unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    std::fs::remove_file(path).expect("the file was just written");
    file
}

/// The pages of a file that this process has mapped leave its memory and the page cache.
pub fn drop_from_memory(path: &Path) {
    let file = File::open(path).expect("the file is there");
    file.sync_all().expect("sync");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    let path = path.canonicalize().expect("the file is there");
    for line in maps.lines().filter(|line| line.ends_with(&*path.to_string_lossy())) {
        let (range, _) = line.split_once(' ').expect("a range comes first");
        let (start, end) = range.split_once('-').expect("a range has two ends");
        let [start, end] =
            [start, end].map(|address| usize::from_str_radix(address, 16).expect("an address is in hex"));
        let at = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: mapped by this process, and its content stays as it is.
        let answer = unsafe { libc::madvise(at, end - start, libc::MADV_PAGEOUT) };
        assert_eq!(answer, 0, "pages of {}: {}", path.display(), std::io::Error::last_os_error());
    }
}

/// A write of 64 bytes and fdatasync, one after the other; the same into the page cache only; whole blocks past the page
/// cache with several in flight.
pub fn file_writes(dir: &Path, time: Duration, figures: &mut Figures) {
    let path = dir.join(format!("flatkv-bench-raw-{}", std::process::id()));
    let file = written_file(&path, 0);
    let mut times = Vec::new();
    let started = Instant::now();
    let mut at = 0;
    while started.elapsed() < time {
        let before = Instant::now();
        file.write_all_at(&[2; 64], at).expect("write");
        file.sync_data().expect("fdatasync");
        times.push(before.elapsed().as_nanos() as f64 / 1000.0);
        at = (at + 64) % FILE_BYTES as u64;
    }
    let syncs = times.len() as f64 / started.elapsed().as_secs_f64() / 1e3;
    figures.add("64 B preallocated write + fdatasync", "k/s", syncs);
    figures.add("64 B preallocated write + fdatasync, p50", "us", crate::measure::median(&times));

    let mut writes = 0_u64;
    let started = Instant::now();
    while started.elapsed() < time {
        for _ in 0..64 {
            file.write_all_at(&[3; 128], writes * 128 % FILE_BYTES as u64).expect("write");
            writes += 1;
        }
    }
    figures.add(
        "128 B write into the page cache",
        "M/s",
        writes as f64 / started.elapsed().as_secs_f64() / 1e6,
    );
    drop(file);

    let direct = written_file(&path, libc::O_DIRECT | libc::O_DSYNC);
    figures.add("O_DIRECT|O_DSYNC 4 KiB, one at a time", "k/s", direct_writes(&direct, 1, time));
    figures.add("O_DIRECT|O_DSYNC 4 KiB, 16 in flight", "k/s", direct_writes(&direct, IN_FLIGHT, time));
}

fn direct_writes(file: &File, threads: usize, time: Duration) -> f64 {
    let start = Barrier::new(threads);
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    let block = Block::new();
                    start.wait();
                    let (started, mut count) = (Instant::now(), 0);
                    while started.elapsed() < time {
                        let at = (count as usize * threads + thread) * BLOCK_BYTES % FILE_BYTES;
                        file.write_all_at(block.bytes(), at as u64).expect("a direct write of a block");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer")).collect()
    });
    counts.iter().sum::<u64>() as f64 / time.as_secs_f64() / 1e3
}

/// A block at an address that O_DIRECT takes.
struct Block(*mut u8);

const BLOCK: Layout = match Layout::from_size_align(BLOCK_BYTES, BLOCK_BYTES) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

impl Block {
    fn new() -> Block {
        // SAFETY: the layout is not empty.
        let at = unsafe { std::alloc::alloc_zeroed(BLOCK) };
        assert!(!at.is_null(), "out of memory");
        Block(at)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated by `new` with that length, zeroed, and never written since.
        unsafe { std::slice::from_raw_parts(self.0, BLOCK_BYTES) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { std::alloc::dealloc(self.0, BLOCK) };
    }
}

/// What the figures were measured on, in words.
pub fn description() -> serde_json::Value {
    let line_of = |path: &str, start: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        line.split_once(':').map_or(line, |(_, rest)| rest).trim().to_string()
    };
    let whole = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    serde_json::json!({
        "cpu": line_of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": line_of("/proc/meminfo", "MemTotal"),
        "kernel": whole("/proc/sys/kernel/osrelease"),
        "clwb": pmem::has_clwb(),
        "transparent_hugepage": whole("/sys/kernel/mm/transparent_hugepage/enabled"),
        "transparent_hugepage_shmem": whole("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "free_pages_reported_to_host_from_order": whole("/sys/module/page_reporting/parameters/page_reporting_order"),
        "load_average": whole("/proc/loadavg"),
    })
}

/// What kind of file system `dir` is on, as far as it matters here.
pub fn file_system(dir: &Path) -> &'static str {
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()) else { return "unknown" };
    // SAFETY: zero bytes are a valid `statfs`.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL and the target is ours.
    if unsafe { libc::statfs(path.as_ptr(), &mut facts) } != 0 {
        return "unknown";
    }
    match facts.f_type {
        libc::TMPFS_MAGIC => "tmpfs",
        libc::EXT4_SUPER_MAGIC => "ext4",
        libc::XFS_SUPER_MAGIC => "xfs",
        libc::BTRFS_SUPER_MAGIC => "btrfs",
        libc::OVERLAYFS_SUPER_MAGIC => "overlayfs",
        _ => "another file system",
    }
}
