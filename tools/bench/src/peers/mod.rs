//! `flatkv-bench peers`: FlatKV beside the stores that people would pick instead, by class of durability. Every round makes
//! each store anew and asks it the same calls with the same keys and values.

mod child;
mod crates;
mod lsm;
mod plot;
mod sqlite;
mod ycsb;

use crate::engine::{Engine, Session, get_known};
use crate::flatkv::Flatkv;
use crate::goals::{Goal, at_least, at_most};
use crate::ideal::Ideal;
use crate::keys::{self, Key, Spread};
use crate::lmdb;
use crate::machine;
use crate::measure::{Figures, bounded};
use crate::own::{GROUP, folder, put, with_buffer};
use crate::report;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use child::{load_and_wait, open_again};

/// What a write survives when its call has returned. Classes are never mixed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Flushed and fenced; on tmpfs that is emulated.
    Pm,
    /// Given to the operating system: survives a killed process.
    PageCache,
    /// On the medium: survives a power cut if `fdatasync` keeps its promise.
    PowerSafe,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Pm, Class::PageCache, Class::PowerSafe];

    pub fn name(self) -> &'static str {
        match self {
            Class::Pm => "pm",
            Class::PageCache => "page-cache",
            Class::PowerSafe => "power-safe",
        }
    }

    fn says(self) -> &'static str {
        match self {
            Class::Pm => "flushed and fenced per put; EMULATED on tmpfs, survives no power cut here",
            Class::PageCache => "in the page cache after each put: survives a killed process",
            Class::PowerSafe => "on the disk after each put, by fdatasync: survives a power cut",
        }
    }
}

type Open = Box<dyn Fn(&Path) -> Result<Box<dyn Engine>, String>>;

/// A store in one class.
pub struct Peer {
    pub name: String,
    pub class: Class,
    /// What is set beside its defaults.
    options: String,
    open: Open,
    /// False for a mark that keeps nothing and cannot be opened again.
    persists: bool,
}

/// How much is measured.
pub struct Plan {
    pub keys: u64,
    pub ops: u64,
    pub value_bytes: usize,
    pub rounds: usize,
    /// A phase ends after this long even if not all calls were made.
    pub time: Duration,
    pub library: PathBuf,
    pub memory_dir: PathBuf,
    pub file_dir: PathBuf,
    /// Engines by name, all if empty.
    pub only: Vec<String>,
    /// Calls per second of the open loop; of power-safe puts.
    pub rate: u64,
    pub sync_rate: u64,
    pub latency_time: Duration,
    pub plots: Option<PathBuf>,
}

/// The names of FlatKV with either index.
const POINTS: &str = "flatkv";
const ORDERED: &str = "flatkv ordered";
/// Threads of the power-safe class, where writers may share what a write costs.
const SYNC_THREADS: [usize; 3] = [1, 8, 16];
/// Keys of one batch when a store is loaded whose single puts are too slow for that.
const LOAD_BATCH: u64 = 1000;

fn peer(
    name: &str,
    class: Class,
    options: impl Into<String>,
    open: impl Fn(&Path) -> Result<Box<dyn Engine>, String> + 'static,
) -> Peer {
    Peer { name: name.into(), class, options: options.into(), open: Box::new(open), persists: true }
}

fn boxed<E: Engine + 'static>(engine: E) -> Box<dyn Engine> {
    Box::new(engine)
}

/// All stores in all their classes, and why some are not there.
pub fn field(plan: &Plan) -> (Vec<Peer>, Vec<String>) {
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    match Flatkv::load(&plan.library) {
        Err(error) => missing.push(format!("flatkv because {error}")),
        Ok(library) => {
            let mut add = |name, class, options: &'static [(&'static str, &'static str)]| {
                let library = library.clone();
                let words: Vec<String> =
                    options.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let words = format!("{} {}", library.version(), words.join(" "));
                peers.push(peer(name, class, words, move |path| {
                    Ok(boxed(library.open(&path.join("pool.fkv"), options)))
                }));
            };
            // Whoever has no scans takes the hash index, and whoever has them the default.
            add(POINTS, Class::Pm, &[("media", "emulated-pm"), ("index", "hash")]);
            add(POINTS, Class::PageCache, &[("media", "file"), ("durability", "os"), ("index", "hash")]);
            add(POINTS, Class::PowerSafe, &[("media", "file"), ("index", "hash")]);
            add(ORDERED, Class::Pm, &[("media", "emulated-pm")]);
            add(ORDERED, Class::PageCache, &[("media", "file"), ("durability", "os")]);
        }
    }
    let (keys, ops, value_bytes) = (plan.keys, plan.ops, plan.value_bytes);
    let mut ideal = peer("ideal", Class::Pm, "log+hash without checks, a bound", move |path| {
        Ok(boxed(Ideal::new(path, 2 * keys, keys + 16 * ops, 64, value_bytes)))
    });
    ideal.persists = false;
    peers.push(ideal);
    match lmdb::Lmdb::load() {
        Err(error) => missing.push(format!("LMDB because {error}")),
        Ok(library) => {
            for (class, sync, words) in
                [(Class::PageCache, false, "NOSYNC|WRITEMAP"), (Class::PowerSafe, true, "defaults")]
            {
                let library = library.clone();
                peers.push(peer("lmdb", class, words, move |path| {
                    library.open(&path.join("lmdb"), sync).map(boxed)
                }));
            }
        }
    }
    for (name, library) in [("rocksdb", lsm::Lsm::rocksdb()), ("leveldb", lsm::Lsm::leveldb())] {
        match library {
            Err(error) => missing.push(format!("{name} because {error}")),
            Ok(library) => {
                for (class, sync) in [(Class::PageCache, false), (Class::PowerSafe, true)] {
                    let library: Arc<lsm::Lsm> = library.clone();
                    let words = format!("sync={sync}, {}", lsm::Lsm::options());
                    peers.push(peer(name, class, words, move |path| library.open(path, sync).map(boxed)));
                }
            }
        }
    }
    match sqlite::Sqlite::load() {
        Err(error) => missing.push(format!("SQLite because {error}")),
        Ok(library) => {
            for (class, sync, words) in [
                (Class::PageCache, false, "WAL, synchronous=OFF, cache 256 MiB"),
                (Class::PowerSafe, true, "WAL, synchronous=FULL, cache 256 MiB"),
            ] {
                let library = library.clone();
                peers.push(peer("sqlite", class, words, move |path| {
                    library.open(&path.join("kv.sqlite"), sync).map(boxed)
                }));
            }
        }
    }
    peers.push(peer("redb", Class::PowerSafe, "durability Immediate, cache 256 MiB", |path| {
        crates::Redb::open(&path.join("kv.redb")).map(boxed)
    }));
    for (class, sync) in [(Class::PageCache, false), (Class::PowerSafe, true)] {
        let words = if sync { "persist(SyncData) per put" } else { "defaults" };
        peers.push(peer("fjall", class, format!("{words}, cache 256 MiB"), move |path| {
            crates::Fjall::open(path, sync).map(boxed)
        }));
    }
    let words = "0.34, defaults: puts may be in its own memory for 0.5 s, cache 256 MiB";
    peers.push(peer("sled", Class::PageCache, words, |path| crates::Sled::open(path).map(boxed)));
    if !plan.only.is_empty() {
        peers.retain(|peer| plan.only.contains(&peer.name));
    }
    (peers, missing)
}

impl Peer {
    fn dir<'a>(&self, plan: &'a Plan) -> &'a Path {
        if self.class == Class::Pm { &plan.memory_dir } else { &plan.file_dir }
    }

    fn figure(&self, phase: &str) -> String {
        format!("{} {}: {phase}", self.class.name(), self.name)
    }

    /// Loads all keys, in batches where a single put waits for a disk.
    fn load(&self, engine: &dyn Engine, plan: &Plan) -> f64 {
        let value_bytes = plan.value_bytes;
        if self.class != Class::PowerSafe {
            let put = |session: &mut dyn Session, _, i| put(session, keys::key(i), value_bytes);
            return crate::measure::counted(engine, 1, plan.keys, &put);
        }
        let batch = |session: &mut dyn Session, _, i| {
            let first = i * LOAD_BATCH;
            let keys: Vec<Key> = (first..plan.keys.min(first + LOAD_BATCH)).map(keys::key).collect();
            with_buffer(value_bytes, |value| {
                // All values of a batch name its first key; gets of this class only look whether something is there.
                session.put_many(&keys, value);
            });
        };
        let batches = plan.keys.div_ceil(LOAD_BATCH);
        crate::measure::counted(engine, 1, batches, &batch) * plan.keys as f64 / batches as f64
    }
}

/// A phase of one engine, up to as many calls and as long as the plan says.
struct Phases<'a> {
    peer: &'a Peer,
    engine: &'a dyn Engine,
    plan: &'a Plan,
}

impl Phases<'_> {
    fn run(
        &self,
        phase: &str,
        threads: usize,
        per_call: f64,
        figures: &mut Figures,
        call: &(dyn Fn(&mut dyn Session, usize, u64) + Sync),
    ) {
        let calls = (self.plan.ops as f64 / per_call) as u64;
        let rate = bounded(self.engine, threads, calls, self.plan.time, call);
        let phase = if threads == 1 { phase.to_string() } else { format!("{phase}, {threads} threads") };
        // Thousands: a synced put and a get from memory stand in one table.
        figures.add(self.peer.figure(&phase), "k/s", rate * per_call * 1e3);
    }
}

fn round_of(peer: &Peer, engine: &dyn Engine, plan: &Plan, figures: &mut Figures) {
    let (keys, value_bytes) = (plan.keys, plan.value_bytes);
    let uniform = keys::stream(Spread::Uniform, keys, plan.ops, 11);
    let zipf = keys::stream(Spread::Zipf, keys, plan.ops, 12);
    let at = |numbers: &[u32], thread: usize, i: u64| {
        keys::key(numbers[(i as usize + thread * 7919) % numbers.len()].into())
    };
    figures.add(peer.figure("load"), "k/s", peer.load(engine, plan) * 1e3);
    let phases = Phases { peer, engine, plan };
    if peer.class == Class::PowerSafe {
        for threads in SYNC_THREADS {
            phases.run("overwrite uniform", threads, 1.0, figures, &|session, thread, i| {
                put(session, at(&uniform, thread, i), value_bytes);
            });
        }
        let get = |session: &mut dyn Session, thread, i| {
            with_buffer(value_bytes, |value| assert!(session.get(&at(&uniform, thread, i), value).is_some()));
        };
        phases.run("get uniform", 1, 1.0, figures, &get);
        return;
    }
    for (name, numbers) in [("uniform", &uniform), ("zipf", &zipf)] {
        phases.run(&format!("get {name}"), 1, 1.0, figures, &|session, thread, i| {
            with_buffer(value_bytes, |value| get_known(session, at(numbers, thread, i), value));
        });
    }
    phases.run("get missing", 1, 1.0, figures, &|session, _, i| {
        with_buffer(value_bytes, |value| assert!(session.get(&keys::missing(i), value).is_none()));
    });
    for (name, numbers) in [("uniform", &uniform), ("zipf", &zipf)] {
        phases.run(&format!("overwrite {name}"), 1, 1.0, figures, &|session, thread, i| {
            put(session, at(numbers, thread, i), value_bytes);
        });
    }
    ycsb::run(&phases, figures);
    // Last: the values of a batch are one, which a checked get would notice.
    phases.run("batch of 64", 1, GROUP as f64, figures, &|session, thread, i| {
        let keys: [Key; GROUP] = std::array::from_fn(|k| at(&uniform, thread, i * GROUP as u64 + k as u64));
        with_buffer(value_bytes, |value| session.put_many(&keys, value));
    });
    if [POINTS, ORDERED].contains(&&*peer.name) {
        phases.run("put_async", 1, 1.0, figures, &|session, thread, i| {
            with_buffer(value_bytes, |value| session.put_async(&at(&uniform, thread, i), value));
        });
    }
}

/// Latencies of gets and puts, half and half, at a rate that does not wait for the store: what is late because an earlier
/// call took long is late, and counts as that.
struct OpenLoop {
    gets: Histogram<u64>,
    puts: Histogram<u64>,
}

fn open_loop(engine: Option<&dyn Engine>, plan: &Plan, rate: u64) -> OpenLoop {
    let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("up to a minute, 3 digits");
    let mut latencies = OpenLoop { gets: histogram(), puts: histogram() };
    let numbers = keys::stream(Spread::Uniform, plan.keys, rate * plan.latency_time.as_secs().max(1), 21);
    let mut session = engine.map(Engine::session);
    let started = Instant::now();
    let mut i = 0_u64;
    while started.elapsed() < plan.latency_time {
        let due = started + Duration::from_nanos(i * 1_000_000_000 / rate);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let key = keys::key(numbers[i as usize % numbers.len()].into());
        let is_get = i.is_multiple_of(2);
        if let Some(session) = &mut session {
            if is_get {
                with_buffer(plan.value_bytes, |value| assert!(session.get(&key, value).is_some()));
            } else {
                put(session.as_mut(), key, plan.value_bytes);
            }
        }
        let ns = due.elapsed().as_nanos() as u64;
        if is_get { &mut latencies.gets } else { &mut latencies.puts }.saturating_record(ns);
        i += 1;
    }
    latencies
}

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

fn latency_figures(name: &str, latencies: &OpenLoop, figures: &mut Figures) {
    for (kind, histogram) in [("get", &latencies.gets), ("put", &latencies.puts)] {
        for (quantile, at) in QUANTILES {
            let us = histogram.value_at_quantile(at) as f64 / 1e3;
            figures.add(format!("{name}: {kind} {quantile}"), "us", us);
        }
    }
}

/// Runs everything and prints it.
pub fn run(plan: &Plan, json_path: Option<&Path>) -> Result<(), String> {
    let (peers, missing) = field(plan);
    let (mut rates, mut latencies, mut costs) = (Figures::default(), Figures::default(), Figures::default());
    for round in 0..plan.rounds {
        for i in 0..peers.len() {
            let peer = &peers[(i + round) % peers.len()];
            eprintln!("round {} of {}: {} {}", round + 1, plan.rounds, peer.class.name(), peer.name);
            let dir = folder(peer.dir(plan));
            let engine = (peer.open)(dir.path())?;
            round_of(peer, engine.as_ref(), plan, &mut rates);
            let rate = if peer.class == Class::PowerSafe { plan.sync_rate } else { plan.rate };
            latency_figures(
                &format!("{} {}", peer.class.name(), peer.name),
                &open_loop(Some(engine.as_ref()), plan, rate),
                &mut latencies,
            );
            drop(engine);
        }
        latency_figures("the machine itself, no store", &open_loop(None, plan, plan.rate), &mut latencies);
        for peer in peers.iter().filter(|peer| peer.persists) {
            child::measure(peer, plan, &mut costs);
        }
    }
    let machine = machine::description();
    let file_system = machine::file_system(folder(&plan.file_dir).path());
    println!(
        "{} keys of {} bytes, values of {} bytes, up to {} calls or {:?} per phase, medians of {} rounds",
        plan.keys,
        keys::KEY_BYTES,
        plan.value_bytes,
        plan.ops,
        plan.time,
        plan.rounds
    );
    println!("machine: {machine}\nfiles are on {file_system}");
    missing.iter().for_each(|line| println!("not run: {line}"));
    println!(
        "not run: sled in the power-safe class, because its flush is sync_file_range, which leaves the disk's cache alone; \
         redb in the page-cache class, because what it has not synced is lost with the process"
    );
    println!("not run: scans of the ideal and of flatkv with the hash index, because they have no order");
    for class in Class::ALL {
        println!("\n{}: {}", class.name(), class.says());
        for peer in peers.iter().filter(|peer| peer.class == class) {
            println!("  {}: {}", peer.name, peer.options);
        }
        print_class(class, &peers, "thousand calls per second (of keys, of scans)", &rates);
        let rate = if class == Class::PowerSafe { plan.sync_rate } else { plan.rate };
        print_class(class, &peers, &format!("latency in us, {rate} calls/s, half gets"), &latencies);
        print_class(
            class,
            &peers,
            "DRAM and space in bytes per key after the load, open after kill -9 in ms",
            &costs,
        );
    }
    println!("\nthe machine itself, the same open loop without a store, us:");
    for (name, _, numbers) in latencies.iter().filter(|(name, ..)| name.starts_with("the machine")) {
        println!(
            "  {}: {}",
            name.rsplit(": ").next().unwrap_or(name),
            report::digits(crate::measure::median(numbers))
        );
    }
    println!();
    let goals = judge(&rates, &latencies);
    report::goals(&goals);
    let results = json!({
        "command": "make bench-peers",
        "machine": machine,
        "file_system": file_system,
        "keys": plan.keys, "key_bytes": keys::KEY_BYTES, "value_bytes": plan.value_bytes,
        "calls_per_phase": plan.ops, "seconds_per_phase": plan.time.as_secs_f64(), "rounds": plan.rounds,
        "not_run": missing,
        "engines": peers.iter().map(|peer| json!({
            "name": peer.name, "class": peer.class.name(), "options": peer.options,
        })).collect::<Vec<_>>(),
        "classes": Class::ALL.iter().map(|class| (class.name().to_string(), json!(class.says()))).collect::<Map<_, _>>(),
        "rates": report::figures_json(&rates),
        "latencies": report::figures_json(&latencies),
        "costs": report::figures_json(&costs),
        "goals": goals.iter().map(Goal::json).collect::<Vec<Value>>(),
    });
    if let Some(path) = json_path {
        report::write_json(path, &results);
    }
    if let Some(dir) = &plan.plots {
        plot::all(dir, &peers, &rates, &latencies).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Phases of one class, by phase, then by engine.
fn by_phase(
    class: Class,
    peers: &[Peer],
    figures: &Figures,
) -> (Vec<String>, BTreeMap<(String, String), f64>) {
    let (mut phases, mut medians) = (Vec::new(), BTreeMap::new());
    for peer in peers.iter().filter(|peer| peer.class == class) {
        let start = format!("{} {}: ", class.name(), peer.name);
        for (name, _, numbers) in figures.iter() {
            if let Some(phase) = name.strip_prefix(&start) {
                if !phases.contains(&phase.to_string()) {
                    phases.push(phase.to_string());
                }
                medians.insert((phase.to_string(), peer.name.clone()), crate::measure::median(numbers));
            }
        }
    }
    (phases, medians)
}

fn print_class(class: Class, peers: &[Peer], what: &str, figures: &Figures) {
    let (phases, medians) = by_phase(class, peers, figures);
    if phases.is_empty() {
        return;
    }
    println!();
    let engines: Vec<&str> =
        peers.iter().filter(|peer| peer.class == class).map(|peer| peer.name.as_str()).collect();
    let rows: Vec<Vec<String>> = phases
        .iter()
        .map(|phase| {
            let cell =
                |engine: &&str| report::maybe(medians.get(&(phase.clone(), (*engine).to_string())).copied());
            [phase.clone()].into_iter().chain(engines.iter().map(cell)).collect()
        })
        .collect();
    let headings: Vec<&str> = [what].into_iter().chain(engines.iter().copied()).collect();
    report::table(&headings, &rows);
}

/// The names of the other persistent stores.
const OTHERS: [&str; 7] = ["lmdb", "rocksdb", "leveldb", "sqlite", "redb", "fjall", "sled"];
/// Phases that only read: sled, whose puts may be lost with the process, counts in these.
const READS: [&str; 2] = ["get uniform", "YCSB C"];

/// FlatKV's `phase` in `class` against the best of the others in `other_class`: the ratio, and who that is.
fn against_best(
    rates: &Figures,
    class: Class,
    phase: &str,
    other: (Class, &str),
) -> Option<(f64, &'static str)> {
    let figure = |class: Class, engine: &str, phase: &str| format!("{} {engine}: {phase}", class.name());
    let best = OTHERS
        .into_iter()
        .filter(|engine| *engine != "sled" || READS.contains(&phase))
        .filter_map(|engine| Some((rates.median(&figure(other.0, engine, other.1))?, engine)))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    let ours = if phase == "YCSB E" { ORDERED } else { POINTS };
    let ratio = rates.ratio(&figure(class, ours, phase), &figure(other.0, best.1, other.1))?;
    Some((ratio, best.1))
}

fn judge(rates: &Figures, latencies: &Figures) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut against = |figure: &str, goal: f64, class: Class, phase: &str, other: (Class, &str)| {
        let found = against_best(rates, class, phase, other);
        let of = found.map_or("of the best".into(), |(_, engine)| format!("of {engine}"));
        goals.push(at_least(figure, &of, goal, found.map(|(ratio, _)| ratio)));
    };
    let cache = Class::PageCache;
    against(
        "os put, one at a time, against one at a time",
        2.0,
        cache,
        "overwrite uniform",
        (cache, "overwrite uniform"),
    );
    against("os put_async against one at a time", 4.0, cache, "put_async", (cache, "overwrite uniform"));
    against("os batch of 64 against one at a time", 4.0, cache, "batch of 64", (cache, "overwrite uniform"));
    against("os batch of 64 against batches of 64", 1.0, cache, "batch of 64", (cache, "batch of 64"));
    against("os get uniform", 2.0, cache, "get uniform", (cache, "get uniform"));
    for mix in ["A", "B", "C", "D", "E", "F"] {
        let phase = format!("YCSB {mix}");
        against(&format!("YCSB {mix}, page cache"), 1.0, cache, &phase, (cache, &phase));
    }
    let pm = "overwrite uniform on emulated PM against the page-cache class, which survives less";
    against(pm, 2.0, Class::Pm, "overwrite uniform", (cache, "overwrite uniform"));
    let many = "overwrite uniform, 16 threads";
    against("sync put, 16 threads", 1.5, Class::PowerSafe, many, (Class::PowerSafe, many));
    let best = OTHERS
        .into_iter()
        .filter_map(|engine| Some((latencies.median(&format!("page-cache {engine}: get p99.9"))?, engine)))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    for class in [Class::Pm, cache] {
        let figure = format!("get p99.9, {} class, against the page-cache class", class.name());
        let ours = format!("{} flatkv: get p99.9", class.name());
        let of = best.map_or("of the best".into(), |(_, engine)| format!("of {engine}"));
        let theirs = best.map(|(_, engine)| format!("page-cache {engine}: get p99.9"));
        goals.push(at_most(figure, &of, 1.0, theirs.and_then(|theirs| latencies.ratio(&ours, &theirs))));
    }
    goals
}
