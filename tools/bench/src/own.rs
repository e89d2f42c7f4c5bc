//! `flatkv-bench own`: FlatKV beside the machine's limits, the ideal and papaya. Every round makes all stores anew and asks
//! them in turn, phase by phase, so that the two sides of a ratio meet the same machine.

use crate::engine::{Engine, Session, get_known};
use crate::flatkv::Flatkv;
use crate::ideal::Ideal;
use crate::keys::{self, Key, Spread};
use crate::machine::{self, Chase};
use crate::measure::{Figures, counted, ns_of, timed};
use crate::papaya_map::{self, Papaya};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Keys of one multi-get or one batch.
pub const GROUP: usize = 64;
/// What is measured here are point operations: nobody who has only those takes the ordered index.
const POINTS_ONLY: (&str, &str) = ("index", "hash");
/// Threads on one hot key.
pub const HOT_THREADS: [usize; 4] = [2, 4, 8, 16];
/// Threads that write to a file at once.
pub const FILE_THREADS: usize = 16;
/// The number of keys from which on the slowest put counts: before it, the store's own first pages are what is slow.
const GROWTH_FROM: u64 = 10;

/// How much is measured.
pub struct Plan {
    pub keys: u64,
    pub ops: u64,
    pub value_bytes: usize,
    pub rounds: usize,
    /// Keys that the index grows to.
    pub growth_keys: u64,
    /// Keys up to which DRAM per key is sampled; 0 leaves it out.
    pub dram_keys: u64,
    /// For what is measured for a time.
    pub time: Duration,
    /// Bytes of the random reads.
    pub chase_bytes: usize,
    /// The library that DRAM is sampled of.
    pub library: PathBuf,
    /// Emulated persistent memory.
    pub memory_dir: PathBuf,
    /// Files.
    pub file_dir: PathBuf,
    /// Parts to run, all if empty: limits, memory, growth, file, dram.
    pub only: Vec<String>,
}

impl Plan {
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| word == part)
    }
}

/// A build of FlatKV with the name its figures get.
pub type Build = (String, Arc<Flatkv>);

pub fn run(plan: &Plan, builds: &[Build]) -> Figures {
    let mut figures = Figures::default();
    let chase = plan.wants("limits").then(|| Chase::new(plan.chase_bytes));
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        if let Some(chase) = &chase {
            chase.measure(plan.ops.min(1 << 20), &mut figures);
            machine::appends(&plan.memory_dir, (plan.ops as usize * 64).min(256 << 20), &mut figures);
            machine::memcpy(64 << 20, &mut figures);
            let gaps = machine::jitter(plan.time);
            figures.add(
                "jitter of a spinning thread, p99.9",
                "us",
                gaps.value_at_quantile(0.999) as f64 / 1e3,
            );
            figures.add("jitter of a spinning thread, max", "us", gaps.max() as f64 / 1e3);
        }
        if plan.wants("memory") {
            in_memory(plan, builds, round, &mut figures);
        }
        if plan.wants("growth") {
            growth(plan, builds, &mut figures);
        }
        if plan.wants("file") {
            on_files(plan, builds, &mut figures);
        }
    }
    if plan.dram_keys > 0 && plan.wants("dram") {
        dram(plan, &mut figures);
    }
    figures
}

/// Name of a figure.
pub fn name(engine: &str, phase: &str, threads: usize) -> String {
    match threads {
        1 => format!("{engine}: {phase}"),
        _ => format!("{engine}: {phase}, {threads} threads"),
    }
}

/// A folder that goes with its stores.
pub fn folder(dir: &Path) -> tempfile::TempDir {
    std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
    tempfile::Builder::new().prefix("flatkv-bench-").tempdir_in(dir).expect("a folder for the stores")
}

/// Streams of one round: per thread, drawn beforehand.
struct Streams {
    uniform: [Vec<u32>; 2],
    zipf: [Vec<u32>; 2],
}

impl Streams {
    fn new(plan: &Plan, round: usize) -> Streams {
        let draw = |spread, thread: u64| {
            keys::stream(spread, plan.keys, plan.ops, 100 * round as u64 + 10 * thread + 1)
        };
        Streams {
            uniform: [0, 1].map(|thread| draw(Spread::Uniform, thread)),
            zipf: [0, 1].map(|thread| draw(Spread::Zipf, thread)),
        }
    }
}

/// The phase of inserts that compares one thread with two.
pub const SIDE_BY_SIDE: &str = "insert, a store of its own";

pub type Call<'a> = &'a (dyn Fn(&mut dyn Session, usize, u64) + Sync);

/// The engines of a round, in the order in which they are asked.
pub struct Field<'a> {
    pub engines: Vec<(&'a str, &'a dyn Engine)>,
    pub turn: usize,
}

impl Field<'_> {
    /// Measures one phase of every engine that has it, another one first each time.
    pub fn phase(
        &mut self,
        phase: &str,
        threads: usize,
        calls: u64,
        except: &[&str],
        call: Call<'_>,
        figures: &mut Figures,
    ) {
        self.turn += 1;
        for i in 0..self.engines.len() {
            let (engine, store) = self.engines[(i + self.turn) % self.engines.len()];
            if !except.contains(&engine) {
                figures.add(name(engine, phase, threads), "M/s", counted(store, threads, calls, call));
            }
        }
    }
}

thread_local! {
    /// What values are read into: a page-aligned buffer per thread, allocated before it is timed.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs `body` with this thread's buffer of `len` bytes.
pub fn with_buffer<T>(len: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 7);
        }
        body(&mut buffer[..len])
    })
}

pub fn put(session: &mut dyn Session, key: Key, value_bytes: usize) {
    with_buffer(value_bytes, |value| {
        keys::stamp(value, key);
        session.put(&key, value);
    });
}

pub fn get(session: &mut dyn Session, key: Key, value_bytes: usize) {
    with_buffer(value_bytes, |value| get_known(session, key, value));
}

/// Everything on emulated persistent memory.
fn in_memory(plan: &Plan, builds: &[Build], round: usize, figures: &mut Figures) {
    let (keys, ops, value_bytes) = (plan.keys, plan.ops, plan.value_bytes);
    let streams = Streams::new(plan, round);
    let dir = folder(&plan.memory_dir);
    let open = |build: &Build, file: &str| {
        let path = dir.path().join(format!("{}-{file}.fkv", build.0));
        (path.clone(), build.1.open(&path, &[("media", "emulated-pm"), POINTS_ONLY]))
    };
    // Loads, overwrites on one and two threads, batches; a hot key is not measured on the ideal.
    let ideal = Ideal::new(&plan.memory_dir, keys, keys + 6 * ops, 8, value_bytes);
    let papaya = (value_bytes == papaya_map::VALUE_BYTES).then(|| Papaya::new(keys));
    let stores: Vec<_> = builds.iter().map(|build| open(build, "one")).collect();
    let mut field = Field { engines: vec![("ideal", &ideal)], turn: round };
    field
        .engines
        .extend(builds.iter().zip(&stores).map(|(build, (_, store))| (build.0.as_str(), store as _)));
    if let Some(papaya) = &papaya {
        field.engines.push(("papaya", papaya));
    }

    let load: Call<'_> = &|session, _, i| put(session, keys::key(i), value_bytes);
    field.phase("insert", 1, keys, &[], load, figures);
    for (build, (path, _)) in builds.iter().zip(&stores) {
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(path).expect("the pool is there").blocks();
        let bytes = blocks as f64 * 512.0 / keys as f64;
        figures.add(name(&build.0, "space per key after inserts one by one", 1), "B", bytes);
    }
    for threads in [1, 2] {
        for (spread, numbers) in [("uniform", &streams.uniform), ("zipf", &streams.zipf)] {
            let call: Call<'_> = &|session, thread, i| {
                get(session, keys::key(numbers[thread][i as usize].into()), value_bytes)
            };
            field.phase(&format!("get {spread}"), threads, ops, &[], call, figures);
        }
        let miss: Call<'_> = &|session, thread, i| {
            let key = keys::missing(streams.uniform[thread][i as usize].into());
            with_buffer(value_bytes, |value| assert!(session.get(&key, value).is_none()));
        };
        field.phase("get of a missing key", threads, ops, &[], miss, figures);
    }
    let group = |thread: usize, i: u64| -> [Key; GROUP] {
        let numbers = &streams.uniform[thread];
        let first = i as usize * GROUP;
        std::array::from_fn(|k| keys::key(numbers[(first + k) % numbers.len()].into()))
    };
    let groups = (ops / GROUP as u64).max(1);
    let per_key = |phase: &str, field: &mut Field<'_>, call: Call<'_>, figures: &mut Figures| {
        let mut calls = Figures::default();
        field.phase(phase, 1, groups, &["papaya"], call, &mut calls);
        calls.iter().for_each(|(name, unit, rates)| figures.add(name, unit, rates[0] * GROUP as f64));
    };
    let multi_get: Call<'_> = &|session, thread, i| {
        with_buffer(GROUP * value_bytes, |values| {
            let keys = group(thread, i);
            session.multi_get(&keys, values);
            assert!(keys::belongs(&values[(GROUP - 1) * value_bytes..], keys[GROUP - 1]));
        });
    };
    per_key("multi-get of 64", &mut field, multi_get, figures);
    for threads in [1, 2] {
        for (spread, numbers) in [("uniform", &streams.uniform), ("zipf", &streams.zipf)] {
            let call: Call<'_> = &|session, thread, i| {
                put(session, keys::key(numbers[thread][i as usize].into()), value_bytes)
            };
            field.phase(&format!("overwrite {spread}"), threads, ops, &[], call, figures);
        }
    }
    let write_batch: Call<'_> = &|session, thread, i| {
        // Values of a batch are the same: a batch of one value for many keys costs what one of many values does.
        with_buffer(value_bytes, |value| session.put_many(&group(thread, i), value));
    };
    per_key("write batch of 64, overwrite", &mut field, write_batch, figures);
    let put_async: Call<'_> = &|session, thread, i| {
        let key = keys::key(streams.uniform[thread][i as usize].into());
        with_buffer(value_bytes, |value| session.put_async(&key, value));
    };
    field.phase("put_async, overwrite", 1, ops, &["ideal", "papaya"], put_async, figures);

    for threads in [1].into_iter().chain(HOT_THREADS) {
        for (engine, store) in &field.engines {
            if !["ideal", "papaya"].contains(engine) {
                let call: Call<'_> = &|session, _, _| put(session, keys::key(0), value_bytes);
                figures.add(
                    name(engine, "put of one hot key", threads),
                    "M/s",
                    timed(*store, threads, plan.time, call),
                );
            }
        }
    }
    let space: Vec<_> = stores.iter().map(|(path, _)| path.clone()).collect();
    drop(field);
    drop((ideal, papaya, stores));
    space.iter().for_each(|path| std::fs::remove_file(path).expect("the pool was there"));

    let mut engines: Vec<_> = std::iter::once(None).chain(builds.iter().map(Some)).collect();
    let first = round % engines.len();
    engines.rotate_left(first);
    for build in engines {
        let with_store: WithStore<'_> = &|insert| {
            let Some(build) = build else {
                return insert(&Ideal::new(&plan.memory_dir, keys, keys, 8, value_bytes));
            };
            let (path, store) = open(build, "inserts");
            insert(&store);
            drop(store);
            std::fs::remove_file(path).expect("the pool was there");
        };
        insert_side_by_side(build.map_or("ideal", |build| &build.0), plan, round, with_store, figures);
    }
}

/// Makes an empty store, hands it on and removes it.
pub type WithStore<'a> = &'a dyn Fn(&mut dyn FnMut(&dyn Engine));

/// One thread and two, each into a store of its own, right behind each other and in turn first: beside the phases before, other
/// stores hold memory by now, and what the machine's memory is like changes within seconds.
pub fn insert_side_by_side(
    engine: &str,
    plan: &Plan,
    round: usize,
    with_store: WithStore<'_>,
    figures: &mut Figures,
) {
    let load: Call<'_> = &|session, _, i| put(session, keys::key(i), plan.value_bytes);
    for threads in if round.is_multiple_of(2) { [1, 2] } else { [2, 1] } {
        with_store(&mut |store| {
            figures.add(name(engine, SIDE_BY_SIDE, threads), "M/s", counted(store, threads, plan.keys, load));
        });
    }
}

/// Microseconds of the slowest put while an index grows tenfold, and how many take more than a millisecond.
pub fn slowest_put(plan: &Plan, engine: &dyn Engine) -> (f64, f64) {
    let mut session = engine.session();
    let (mut slowest, mut slow) = (0.0_f64, 0_u32);
    for i in 0..plan.growth_keys {
        let took = ns_of(|| put(session.as_mut(), keys::key(i), plan.value_bytes));
        if i >= plan.growth_keys / GROWTH_FROM {
            slowest = slowest.max(took);
            slow += u32::from(took > 1e6);
        }
    }
    (slowest / 1e3, f64::from(slow))
}

/// The slowest put while the index grows tenfold, beside the slowest of the ideal, whose table does not grow.
fn growth(plan: &Plan, builds: &[Build], figures: &mut Figures) {
    let dir = folder(&plan.memory_dir);
    let slowest = |engine: &dyn Engine| slowest_put(plan, engine);
    for build in builds {
        let path = dir.path().join(format!("{}-growth.fkv", build.0));
        let store = build.1.open(&path, &[("media", "emulated-pm"), POINTS_ONLY]);
        let (us, slow) = slowest(&store);
        figures.add(name(&build.0, "slowest put while the index grows", 1), "us", us);
        figures.add(name(&build.0, "puts above 1 ms while the index grows", 1), "puts", slow);
        drop(store);
        std::fs::remove_file(path).expect("the pool was there");
    }
    let ideal = Ideal::new(&plan.memory_dir, plan.growth_keys, plan.growth_keys, 1, plan.value_bytes);
    let (us, slow) = slowest(&ideal);
    figures.add(name("ideal", "slowest put, table fixed", 1), "us", us);
    figures.add(name("ideal", "puts above 1 ms, table fixed", 1), "puts", slow);
}

/// Everything on files.
fn on_files(plan: &Plan, builds: &[Build], figures: &mut Figures) {
    let dir = folder(&plan.file_dir);
    if machine::file_system(dir.path()) == "tmpfs" {
        return;
    }
    machine::file_writes(dir.path(), plan.time, figures);
    for build in builds {
        let path = dir.path().join(format!("{}.fkv", build.0));
        let store = build.1.open(&path, &[("media", "file"), POINTS_ONLY]);
        let fresh = |session: &mut dyn Session, thread: usize, i: u64| {
            put(session, keys::key(((thread as u64 + 1) << 32) + i), plan.value_bytes)
        };
        // Blocks are there and written, as the raw figure's are: what is measured is not the growth of a file.
        let _ = timed(&store, 1, plan.time / 4, &fresh);
        let one = timed(&store, 1, plan.time, &fresh);
        figures.add(name(&build.0, "put on a file, sync", 1), "k/s", one * 1e3);
        let many = timed(&store, FILE_THREADS, plan.time, &fresh);
        figures.add(name(&build.0, "put on a file, sync", FILE_THREADS), "k/s", many * 1e3);
        let start: Call<'_> = &|session, _, i| {
            with_buffer(plan.value_bytes, |value| session.put_async(&keys::key((99 << 32) + i), value));
        };
        let durable = counted(&store, 1, plan.ops, start);
        figures.add(name(&build.0, "put_async on a file, durable", 1), "k/s", durable * 1e3);
        drop(store);
        std::fs::remove_file(&path).expect("the pool was there");

        let store = build.1.open(&path, &[("media", "file"), ("durability", "os"), POINTS_ONLY]);
        let load: Call<'_> = &|session, _, i| put(session, keys::key(i), plan.value_bytes);
        let keys = plan.keys.min(1_000_000);
        figures.add(name(&build.0, "insert on a file, os", 1), "M/s", counted(&store, 1, keys, load));
        let stream = keys::stream(Spread::Uniform, keys, keys, 5);
        let overwrite: Call<'_> =
            &|session, _, i| put(session, keys::key(stream[i as usize].into()), plan.value_bytes);
        figures.add(
            name(&build.0, "overwrite uniform on a file, os", 1),
            "M/s",
            counted(&store, 1, keys, overwrite),
        );
        let batch: Call<'_> = &|session, _, i| {
            let first = i as usize * GROUP;
            let keys = std::array::from_fn(|k| keys::key(stream[(first + k) % stream.len()].into()));
            with_buffer(plan.value_bytes, |value| session.put_many(&keys as &[Key; GROUP], value));
        };
        let batches = counted(&store, 1, keys / GROUP as u64, batch);
        figures.add(name(&build.0, "write batch of 64 on a file, os", 1), "M/s", batches * GROUP as f64);
        let read: Call<'_> = &|session, _, i| {
            let key = keys::key(stream[i as usize].into());
            with_buffer(plan.value_bytes, |value| assert!(session.get(&key, value).is_some()));
        };
        figures.add(name(&build.0, "get uniform on a file, os", 1), "M/s", counted(&store, 1, keys, read));
        drop(store);
        std::fs::remove_file(&path).expect("the pool was there");
    }
}

/// The index and the keys of which DRAM is sampled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// The hash index, keys of 8 bytes.
    Points,
    /// The ordered index, keys of 16 bytes.
    Order,
    /// The same, and all keys begin with the same 8 bytes.
    OrderInCommon,
}

impl Sample {
    pub const ALL: [Sample; 3] = [Sample::Points, Sample::Order, Sample::OrderInCommon];

    pub fn name(self) -> &'static str {
        match self {
            Sample::Points => "points",
            Sample::Order => "order",
            Sample::OrderInCommon => "order-in-common",
        }
    }

    fn index(self) -> &'static str {
        if self == Sample::Points { "hash" } else { "ordered" }
    }

    fn put(self, session: &mut dyn Session, i: u64, value_bytes: usize) {
        let key = keys::key(i);
        match self {
            Sample::Points => put(session, key, value_bytes),
            Sample::Order | Sample::OrderInCommon => {
                let start = if self == Sample::Order { key } else { *b"in comm:" };
                let key = [start, key].concat();
                with_buffer(value_bytes, |value| session.put(&key, value));
            }
        }
    }
}

fn dram(plan: &Plan, figures: &mut Figures) {
    let (average, worst) = dram_of(plan, Sample::Points);
    figures.add(name("flatkv", "DRAM per key, average", 1), "B", average);
    figures.add(name("flatkv", "DRAM per key, worst", 1), "B", worst);
}

/// DRAM per key of the first build, average and worst, sampled in a process of its own, whose memory nothing else has used.
pub fn dram_of(plan: &Plan, sample: Sample) -> (f64, f64) {
    let this = std::env::current_exe().expect("the path of this program");
    let output = std::process::Command::new(this)
        .arg("sample-dram")
        .arg("--library")
        .arg(&plan.library)
        .arg("--memory-dir")
        .arg(&plan.memory_dir)
        .args(["--only", sample.name()])
        .args(["--dram-keys", &plan.dram_keys.to_string(), "--value", &plan.value_bytes.to_string()])
        .output()
        .expect("this program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("numbers");
    let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    (numbers[0], numbers[1])
}

/// Average and worst DRAM per key while the store grows from a 16th of `dram_keys` in steps of 10 %.
pub fn sample_dram(
    library: &Arc<Flatkv>,
    memory_dir: &Path,
    dram_keys: u64,
    value_bytes: usize,
    sample: Sample,
) -> (f64, f64) {
    let dir = folder(memory_dir);
    let options = [("media", "emulated-pm"), ("index", sample.index())];
    let store = library.open(&dir.path().join("dram.fkv"), &options);
    let mut session = store.session();
    let (mut next, mut samples) = ((dram_keys / 16).max(1000), Vec::new());
    for i in 0..dram_keys {
        sample.put(session.as_mut(), i, value_bytes);
        if i + 1 == next {
            // All of the process is counted, the program itself, too.
            samples.push(rss_anon_bytes() as f64 / next as f64);
            next += next / 10;
        }
    }
    let average = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
    (average, samples.iter().copied().fold(0.0, f64::max))
}

/// Loads `keys` keys and then makes as many calls of one kind (groups count as their keys). The load uses another function
/// of the library than the calls do, so that a profiler can tell them apart by name.
pub fn make_calls(
    library: &Arc<Flatkv>,
    memory_dir: &Path,
    keys: u64,
    value_bytes: usize,
    kind: &str,
) -> Result<(), String> {
    let dir = folder(memory_dir);
    let (index, kind) = match kind.strip_prefix("ordered-") {
        Some(kind) => (("index", "ordered"), kind),
        None => (POINTS_ONLY, kind),
    };
    let store = library.open(&dir.path().join("calls.fkv"), &[("media", "emulated-pm"), index]);
    let mut session = store.session();
    let session = session.as_mut();
    let numbers = keys::stream(Spread::Uniform, keys, keys, 3);
    let mut values = vec![7; GROUP * value_bytes];
    let order = || numbers.iter().map(|number| keys::key((*number).into()));
    let groups: Vec<Vec<Key>> = order().collect::<Vec<_>>().chunks(GROUP).map(<[Key]>::to_vec).collect();
    let load = |session: &mut dyn Session, by_put: bool| {
        let value = vec![7; value_bytes];
        for first in (0..keys).step_by(GROUP) {
            let group: Vec<Key> = (first..keys.min(first + GROUP as u64)).map(keys::key).collect();
            if by_put {
                group.iter().for_each(|key| session.put(key, &value));
            } else {
                session.put_many(&group, &value);
            }
        }
    };
    load(session, ["insert", "batch"].contains(&kind));
    match kind {
        "insert" => {}
        "overwrite" => order().for_each(|key| session.put(&key, &values[..value_bytes])),
        "async" => {
            order().for_each(|key| session.put_async(&key, &values[..value_bytes]));
            session.wait();
        }
        "batch" => groups.iter().for_each(|group| session.put_many(group, &values[..value_bytes])),
        "get" => order().for_each(|key| assert!(session.get(&key, &mut values).is_some())),
        "miss" => (0..keys).for_each(|i| assert!(session.get(&keys::missing(i), &mut values).is_none())),
        "multi-get" => groups.iter().for_each(|group| session.multi_get(group, &mut values)),
        _ => return Err(format!("unknown kind of call {kind}")),
    }
    Ok(())
}

pub fn rss_anon_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5 or later");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
}
