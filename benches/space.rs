//! What space costs: how full a pool can be kept, what cleaning adds to every byte written, and how long a write waits.
//!
//! `cargo bench --bench space -- [--mib N] [--dir DIR] [--only ROWS] [--index ordered|hash]`: pools of N MiB on emulated
//! persistent memory, 64-byte values under 8-byte keys, one writer. Live is live log bytes of max_bytes, and in the rows of
//! `full`, which fill a pool as far as it goes, of (max_bytes - pool head); write amplification is log bytes appended,
//! survivors included, of those appended for the writer, padding included. What a segment has beside its frames (header,
//! digest, filter, footer) is in neither.

#[path = "space/blobs.rs"]
mod blobs;
#[path = "space/delete.rs"]
mod delete;
#[path = "space/latency.rs"]
mod latency;

use flatkv::{Error, MediaChoice, Options, Store};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 64;
/// A pool's head is a segment, at most this.
const HEAD_BYTES_MAX: u64 = 2 << 20;
/// What `--only` takes, or a part of one.
const ROWS: [&str; 10] =
    ["uniform", "throughput", "zipf", "greed", "full", "churn", "delete", "latency", "allocators", "large"];
/// What an entry of 8 and 64 bytes takes in a survivor segment: 8 more than in a head.
const MOVED_BYTES: u64 = 88;
/// What a put alone takes.
const PUT_BYTES: u64 = 128;
/// Times that a run is looked at.
const LOOKS: u64 = 200;

struct Arguments {
    mib: u64,
    dir: PathBuf,
    only: String,
    index: String,
}

impl Arguments {
    /// The store's own, but for the index.
    fn options(&self) -> Options {
        let mut options = Options::new();
        options.set("index", &self.index).expect("--index ordered|hash");
        options
    }
}

fn arguments() -> Arguments {
    let mut arguments =
        Arguments { mib: 64, dir: PathBuf::from("/dev/shm"), only: String::new(), index: "ordered".into() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--mib" => arguments.mib = words.next().and_then(|n| n.parse().ok()).expect("--mib NUMBER"),
            "--dir" => arguments.dir = words.next().expect("--dir DIR").into(),
            "--only" => arguments.only = words.next().expect("--only ROWS"),
            "--index" => arguments.index = words.next().expect("--index ordered|hash"),
            "--bench" => {}
            "--malloc" => {
                blobs::with_malloc(words.next().expect("--malloc FILE").as_ref());
                std::process::exit(0);
            }
            other => {
                panic!("unknown argument {other}: accepted are --mib N, --dir DIR, --only ROWS, --index KIND")
            }
        }
    }
    let is_known = ROWS.iter().any(|row| row.contains(&arguments.only));
    assert!(is_known, "--only {}: no such rows; there are {}", arguments.only, ROWS.join(", "));
    arguments
}

/// Small numbers that depend on nothing but their seed (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks by Zipf's law (Gray et al., "Quickly generating billion-record synthetic databases").
struct Zipf {
    n: f64,
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(n: u64, theta: f64) -> Zipf {
        let zeta_of = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let zeta = zeta_of(n);
        let eta = (1.0 - (2.0 / n as f64).powf(1.0 - theta)) / (1.0 - zeta_of(2) / zeta);
        Zipf { n: n as f64, theta, zeta, eta }
    }

    fn rank(&self, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        (self.n * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - self.theta))) as u64
    }
}

fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

fn stat(store: &Store, name: &str) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).expect("JSON");
    name.split('.').fold(&stats, |value, part| &value[part]).as_u64().unwrap_or_else(|| panic!("no {name}"))
}

struct Pool {
    store: Store,
    bytes: u64,
    /// What shares are of.
    whole: u64,
    keys: u64,
    /// Bytes for users and for survivors when measuring began.
    began: (u64, u64),
    slowest: Duration,
    _dir: tempfile::TempDir,
}

impl Pool {
    fn open(arguments: &Arguments) -> Pool {
        Pool::with(arguments, arguments.options().max_bytes(arguments.mib << 20))
    }

    /// Shares are of what is behind the head.
    fn behind_head(arguments: &Arguments) -> Pool {
        let mut pool = Pool::open(arguments);
        pool.whole -= stat(&pool.store, "segment_size_bytes").min(HEAD_BYTES_MAX);
        pool
    }

    /// A pool whose size for shares and overwrites is what was asked for, whatever its quota is.
    fn with(arguments: &Arguments, options: Options) -> Pool {
        let dir = tempfile::tempdir_in(&arguments.dir).expect("a folder");
        let bytes = arguments.mib << 20;
        let options = options.media(MediaChoice::EmulatedPm).write_stall_ms_max(10_000);
        let store = options.open(dir.path().join("pool.fkv")).expect("a pool");
        Pool { store, bytes, whole: bytes, keys: 0, began: (0, 0), slowest: Duration::ZERO, _dir: dir }
    }

    fn live(&self) -> f64 {
        stat(&self.store, "live_bytes") as f64 / self.whole as f64
    }

    /// The share of tombstones in the entries of the log, in bytes: a verification compares both with a scan.
    fn tombstones(&self) -> f64 {
        stat(&self.store, "tombstone_bytes") as f64 / stat(&self.store, "log_bytes") as f64
    }

    fn put(&mut self, i: u64) -> Result<(), Error> {
        let began = Instant::now();
        let result = self.store.put(&key(i), &[i as u8; VALUE_BYTES]);
        self.slowest = self.slowest.max(began.elapsed());
        result
    }

    fn put_new(&mut self) -> Result<(), String> {
        let result = self.put(self.keys);
        result.map_err(|error| format!("refused at {:.2} % live: {error}", self.live() * 100.0))?;
        self.keys += 1;
        Ok(())
    }

    /// Puts new keys until so much will be live once all was moved: a little less is live until then.
    fn fill(&mut self, share: f64) -> Result<(), String> {
        let keys = (share * self.whole as f64) as u64 / MOVED_BYTES;
        while self.keys < keys {
            self.put_new()?;
        }
        Ok(())
    }

    /// Puts new keys until so much is live now, as the store counts it.
    fn top_up(&mut self, share: f64) -> Result<(), String> {
        loop {
            let missing = (share - self.live()) * self.whole as f64;
            if missing <= 0.0 {
                return Ok(());
            }
            // In a head they take less: the rest is asked for again.
            for _ in 0..(missing / MOVED_BYTES as f64).ceil() as u64 {
                self.put_new()?;
            }
        }
    }

    fn begin(&mut self) {
        self.began = self.written();
    }

    fn written(&self) -> (u64, u64) {
        (stat(&self.store, "appended_bytes"), stat(&self.store, "cleaner.bytes_written"))
    }

    fn write_amplification(&self) -> f64 {
        let (user, moved) = self.written();
        let (user, moved) = (user - self.began.0, moved - self.began.1);
        (user + moved) as f64 / user as f64
    }

    /// Overwrites so many keys and returns how long it took, or what refused how many of them.
    fn overwrite(
        &mut self,
        count: u64,
        rng: &mut Rng,
        pick: impl Fn(&mut Rng) -> u64,
    ) -> Result<Duration, String> {
        let began = Instant::now();
        for number in 0..count {
            let i = pick(rng);
            self.put(i).map_err(|error| format!("overwrite {number} of {count}: {error}"))?;
        }
        Ok(began.elapsed())
    }

    /// Overwrites `bytes` of frames, and tops up whenever less than `share` is live. Puts per second, and what was live on
    /// average before it was topped up.
    fn overwrite_at(
        &mut self,
        share: f64,
        bytes: u64,
        rng: &mut Rng,
        pick: impl Fn(&mut Rng) -> u64,
    ) -> Result<(f64, f64), String> {
        let count = bytes / PUT_BYTES / LOOKS;
        let (mut took, mut live) = (Duration::ZERO, 0.0);
        for look in 1..=LOOKS {
            let refused = |refusal| format!("part {look} of {LOOKS}: {refusal}");
            took += self.overwrite(count, rng, &pick).map_err(refused)?;
            live += self.live();
            self.top_up(share).map_err(refused)?;
        }
        Ok(((count * LOOKS) as f64 / took.as_secs_f64(), live / LOOKS as f64))
    }
}

/// Which keys are overwritten.
#[derive(Clone, Copy)]
enum Law {
    Uniform,
    Zipf,
    /// 90 % of the writes to 10 % of the keys.
    HotCold,
}

impl Law {
    /// Picks among so many keys. Hot ones lie anywhere among the `first`; those that came later are cold, so that the others
    /// stay as hot as they were.
    fn picker(self, first: u64, keys: u64) -> impl Fn(&mut Rng) -> u64 {
        let zipf = matches!(self, Law::Zipf).then(|| Zipf::new(keys, 0.99));
        let place = move |rank: u64| if rank < first { rank.wrapping_mul(0x9E37_79B1) % first } else { rank };
        move |rng| match (&zipf, self) {
            (Some(zipf), _) => place(zipf.rank(rng).min(keys - 1)),
            (None, Law::HotCold) if rng.next() % 10 > 0 => place(rng.next() % (keys / 10)),
            (None, _) => rng.next() % keys,
        }
    }
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn row(what: &str, goal: &str, found: &str) {
    println!("{what:<44} | {goal:<28} | {found}");
}

/// Fills a pool, overwrites half of `times` its size, measures the other half. How much is live depends on how much of it was
/// moved, so it is made what it shall be when half of the first half is over, and kept there.
fn steady(mut pool: Pool, share: f64, law: Law, times: u64) -> Result<(f64, f64, String), String> {
    let (mut rng, quarter) = (Rng(1), times * pool.bytes / 4);
    pool.fill(share)?;
    let filled = pool.keys;
    pool.begin();
    pool.overwrite(quarter / PUT_BYTES, &mut rng, law.picker(filled, filled))?;
    pool.top_up(share)?;
    pool.overwrite_at(share, quarter, &mut rng, law.picker(filled, pool.keys))?;
    let warm = pool.write_amplification();
    pool.begin();
    let began = pool.live();
    let (rate, live) = pool.overwrite_at(share, 2 * quarter, &mut rng, law.picker(filled, pool.keys))?;
    let amplification = pool.write_amplification();
    let found = format!(
        "live {:.2} % at the begin, {:.2} % on average, {:.2} % at the end, write amplification {amplification:.3} (first half {warm:.2}), {:.0} k puts/s, slowest {:.1} ms, stalls {}",
        began * 100.0,
        live * 100.0,
        pool.live() * 100.0,
        rate / 1000.0,
        pool.slowest.as_secs_f64() * 1000.0,
        stat(&pool.store, "cleaner.stalls"),
    );
    let as_printed = |share: f64| (share * 1e4).round();
    if as_printed(live) < as_printed(share) {
        return Err(format!("less live than it shall be: {found}"));
    }
    Ok((amplification, rate, found))
}

fn overwrites(pool: Pool, share: f64, law: Law, times: u64, what: &str, goal: &str) {
    let found = steady(pool, share, law, times);
    row(what, goal, &found.map_or_else(|refusal| refusal, |(_, _, found)| found));
}

/// The rate of the steady state, of two others: of as full a pool whose cleaner rests for as long as there is room, and of one
/// with 14 times the room, which runs as long, but cleans a little to stay small. How little is told.
fn throughput(arguments: &Arguments) {
    let rate =
        |options: Options| steady(Pool::with(arguments, options), 0.80, Law::Uniform, 10).expect("room");
    let (amplification, roomy, _) = rate(arguments.options().max_bytes((14 * arguments.mib) << 20));
    let (_, cleaned, _) = rate(arguments.options().max_bytes(arguments.mib << 20));
    let paused = latency::rate_of_paused_puts(arguments);
    let of = |base: f64| format!("{:.0} % of {:.0} k puts/s", 100.0 * cleaned / base, base / 1000.0);
    let found = format!(
        "{} while the cleaner rests, {} with room (write amplification {amplification:.2})",
        of(paused),
        of(roomy)
    );
    row("uniform, of what it is without cleaning", ">= 50 %", &found);
}

fn against_greed(arguments: &Arguments) {
    let quota = || arguments.options().max_bytes(arguments.mib << 20);
    let run = |options| steady(Pool::with(arguments, options), 0.80, Law::HotCold, 20).expect("room").0;
    let (sorted, greedy) = (run(quota()), run(quota().with_greedy_cleaner()));
    let less = 100.0 * (1.0 - sorted / greedy);
    let found = format!("write amplification {sorted:.2}, greedy and unsorted {greedy:.2}: {less:.0} % less");
    row("90/10 hot-cold overwrites at 80 % live", ">= 25 % less than greedy", &found);
}

/// Deletes a key that is there and puts one that is not, in turn, out of twice as many as are there. Every `stride`-th of the
/// loaded keys is among them; those between are never touched again, and lie in the same segments.
fn churn(arguments: &Arguments, stride: usize, what: &str, goal: &str) {
    let mut pool = Pool::open(arguments);
    if let Err(refusal) = pool.fill(0.80) {
        return row(what, goal, &refusal);
    }
    let mut there: Vec<u64> = (0..pool.keys).step_by(stride).collect();
    let mut absent: Vec<u64> = (pool.keys..).take(there.len()).collect();
    let mut rng = Rng(3);
    let (count, mut most, mut live) = (4 * pool.bytes / PUT_BYTES, 0.0_f64, 0.0);
    for number in 0..count {
        let is_delete = number % 2 == 0;
        let (from, to) = if is_delete { (&mut there, &mut absent) } else { (&mut absent, &mut there) };
        let i = from.swap_remove((rng.next() % from.len() as u64) as usize);
        to.push(i);
        let result = if is_delete {
            pool.store.delete(&key(i)).map(|was_there| assert!(was_there, "key {i} was there"))
        } else {
            pool.put(i)
        };
        if let Err(error) = result {
            return row(what, goal, &format!("churn {number}: {error}"));
        }
        if (number + 1) % (count / LOOKS) == 0 {
            most = most.max(pool.tombstones());
            live += pool.live() / LOOKS as f64;
        }
    }
    let found = format!(
        "at most {:.1} %, at the end {:.1} %, live {:.2} % on average, {:.2} % at the end",
        most * 100.0,
        pool.tombstones() * 100.0,
        live * 100.0,
        pool.live() * 100.0,
    );
    row(what, goal, &found);
}

fn main() {
    let arguments = arguments();
    let wants = |rows: &str| {
        assert!(ROWS.contains(&rows), "{rows} is not listed");
        rows.contains(&arguments.only)
    };
    row("figure", "goal", "found");
    let steady_state = |law, what, goal| overwrites(Pool::open(&arguments), 0.80, law, 20, what, goal);
    if wants("uniform") {
        steady_state(Law::Uniform, "uniform overwrites at 80 % live", "write amplification <= 3.2");
    }
    if wants("throughput") {
        throughput(&arguments);
    }
    if wants("zipf") {
        steady_state(Law::Zipf, "zipf 0.99 overwrites at 80 % live", "write amplification <= 2.2");
    }
    if wants("greed") {
        against_greed(&arguments);
    }
    if wants("full") {
        for share in [0.85, 0.90, 0.95] {
            let what = format!("overwrites at {:.0} % live behind the head", share * 100.0);
            overwrites(
                Pool::behind_head(&arguments),
                share,
                Law::Uniform,
                10,
                &what,
                "finishes, nothing above 1 s",
            );
        }
    }
    if wants("churn") {
        churn(&arguments, 1, "50/50 put/delete churn", "tombstones <= 10 % of the log");
        churn(&arguments, 2, "the same beside as much that is cold", "tombstones <= 12 % of the log");
    }
    if wants("delete") {
        delete::delete_everything(&arguments);
    }
    if wants("latency") {
        latency::latency(&arguments);
    }
    if wants("allocators") {
        blobs::allocators(&arguments);
    }
    if wants("large") {
        blobs::overwrites(&arguments, 100);
    }
}
