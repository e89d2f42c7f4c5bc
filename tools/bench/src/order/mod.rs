//! `flatkv-bench order`: the ordered index beside the hash index and LMDB, snapshots, keyspaces. Each round makes all stores
//! anew and asks them in turn; ratios are made within a round.

mod cold;
mod keyspaces;
mod loaded;
mod snapshots;

use crate::engine::Session;
use crate::flatkv::{Flatkv, Store};
use crate::goals::{Goal, at_least, at_most};
use crate::keys;
use crate::lmdb::Lmdb;
use crate::measure::Figures;
use crate::own::{self, Plan, Sample, dram_of, folder, name, put};
use crate::{machine, report};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

pub const SHORT_SCAN: usize = 50;
pub const SNAPSHOTS: usize = 10_000;

/// The names of the two indexes, and of whom they are compared with.
pub const ORDERED: &str = "ordered";
pub const HASH: &str = "hash";
pub const LMDB: &str = "lmdb";

/// What the parts of a run share.
pub struct Run<'a> {
    pub plan: &'a Plan,
    pub library: &'a Arc<Flatkv>,
    /// Or why it is not there.
    pub lmdb: Result<Arc<Lmdb>, String>,
}

impl Run<'_> {
    /// An empty store on emulated persistent memory.
    pub fn open(&self, dir: &Path, index: &str, options: &[(&str, &str)]) -> Store {
        let options = [&[("media", "emulated-pm"), ("index", index)], options].concat();
        self.library.open(&dir.join(format!("{index}.fkv")), &options)
    }

    /// The ordered index with all keys.
    pub fn open_loaded(&self, dir: &Path) -> Store {
        let store = self.open(dir, ORDERED, &[]);
        self.load(&store, self.plan.keys);
        store
    }

    pub fn load(&self, store: &Store, keys: u64) {
        use crate::engine::Engine;
        let mut session = store.session();
        (0..keys).for_each(|i| put(session.as_mut(), keys::key(i), self.plan.value_bytes));
    }
}

/// Puts of keys that are there.
pub fn overwrite(session: &mut dyn Session, keys: &[u32], value_bytes: usize) {
    keys.iter().for_each(|key| put(session, keys::key((*key).into()), value_bytes));
}

fn growth(run: &Run<'_>, figures: &mut Figures) {
    let dir = folder(&run.plan.memory_dir);
    let store = run.open(dir.path(), ORDERED, &[]);
    let (us, slow) = own::slowest_put(run.plan, &store);
    figures.add(name(ORDERED, "slowest insert while the tree grows", 1), "us", us);
    figures.add(name(ORDERED, "inserts above 1 ms while it grows", 1), "puts", slow);
    let gaps = machine::jitter(run.plan.time);
    figures.add("jitter of a spinning thread, max", "us", gaps.max() as f64 / 1e3);
}

fn dram(run: &Run<'_>, figures: &mut Figures) {
    for sample in [Sample::Order, Sample::OrderInCommon] {
        let (_, worst) = dram_of(run.plan, sample);
        figures.add(format!("DRAM per key of 16 bytes, worst, {}", sample.name()), "B", worst);
    }
}

fn measure(run: &Run<'_>) -> Figures {
    let plan = run.plan;
    let mut figures = Figures::default();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        if plan.wants("points") || plan.wants("scans") {
            loaded::measure(run, round, &mut figures);
        }
        if plan.wants("growth") {
            growth(run, &mut figures);
        }
        if plan.wants("snapshots") {
            snapshots::measure(run, round, &mut figures);
        }
        if plan.wants("deleted") {
            keyspaces::scan_what_was_deleted(run, &mut figures);
        }
        if plan.wants("cold") {
            cold::measure(run, round, &mut figures);
        }
        if plan.wants("keyspaces") {
            keyspaces::drop_one(run, &mut figures);
        }
    }
    if plan.dram_keys > 0 && plan.wants("dram") {
        dram(run, &mut figures);
    }
    figures
}

fn judge(figures: &Figures) -> Vec<Goal> {
    let ordered = |phase: &str| name(ORDERED, phase, 1);
    let of = |phase: &str, other: &str| figures.ratio(&ordered(phase), &name(other, phase, 1));
    let two = |phase: &str| figures.ratio(&name(ORDERED, phase, 2), &ordered(phase));
    // A pause that is due to growth comes again in every round; one that is due to the machine does not.
    let slowest = figures.rounds(&ordered("slowest insert while the tree grows"));
    let slowest = slowest.iter().copied().reduce(f64::min);
    let beside = |what: &str| {
        let puts = |what: &str| format!("ordered: overwrite uniform, {what}");
        figures.combine(&puts(what), &puts("no snapshot"), |beside, alone| beside / alone)
    };
    let dram =
        |sample: Sample| figures.median(&format!("DRAM per key of 16 bytes, worst, {}", sample.name()));
    let all = name(LMDB, "entries of a full scan, with values", 1);
    let full = figures.ratio(&ordered("entries of a full scan, with values"), &all);
    let full_keys = figures.ratio(&ordered("entries of a full scan, keys only"), &all);
    let many = beside("10,000 snapshots").map(|rate| 1.0 / rate);
    let emptied = figures.median(&ordered("scan of what was just deleted"));
    let drop = figures.median(&ordered("drop of a keyspace"));
    let back = figures.median(&ordered("space back after the drop"));
    let snapshot = figures.median(&ordered("snapshot made and dropped"));
    vec![
        at_least("get, 1 thread", "of hash", 0.5, of("get uniform", HASH)),
        at_least("get, 1 thread", "of LMDB", 2.0, of("get uniform", LMDB)),
        at_least("insert, 1 thread", "of hash", 0.5, of("insert", HASH)),
        at_least("insert, 1 thread", "of LMDB without sync", 3.0, of("insert", LMDB)),
        at_least("get, 2 threads against 1", "", 1.8, two("get uniform")),
        at_least("insert, 2 threads against 1", "", 1.8, two(own::SIDE_BY_SIDE)),
        at_least("scans of 50 from any key on, with values", "of LMDB", 1.0, of("scan of 50", LMDB)),
        at_least("full scan, with values", "of LMDB", 0.4, full),
        at_least("full scan, keys only (reported)", "of LMDB with values", 0.4, full_keys),
        at_most("DRAM per key of 16 bytes", "B", 40.0, dram(Sample::Order)),
        at_most("the same, the first 8 bytes in common", "B", 40.0, dram(Sample::OrderInCommon)),
        at_most("slowest insert while the tree grows tenfold, best round", "us", 1000.0, slowest),
        at_most("snapshot made and dropped, nothing written", "ns", 1000.0, snapshot),
        at_least("put beside one open iterator", "of one beside none", 0.9, beside("one iterator")),
        at_most("latency of a put beside 10,000 snapshots", "of one beside none", 1.2, many),
        at_most("scan of half of the keys, just deleted", "ms", 1.0, emptied),
        at_most("drop of a keyspace with half of the keys", "ms", 1.0, drop),
        at_least("space back after the drop", "of what the keyspace took", 0.9, back),
    ]
}

/// Runs what the plan wants, and prints it.
pub fn run(plan: &Plan, library: &Arc<Flatkv>, json_path: Option<&Path>) -> Result<(), String> {
    let run = Run { plan, library, lmdb: Lmdb::load() };
    let figures = measure(&run);
    let machine = machine::description();
    println!(
        "FlatKV {} through its C interface, {} keys of {} bytes in no order, values of {} bytes, medians of {} rounds",
        library.version(),
        plan.keys,
        keys::KEY_BYTES,
        plan.value_bytes,
        plan.rounds
    );
    println!("machine: {machine}");
    println!(
        "persistent memory is emulated: a mapping of tmpfs, flushed and fenced; LMDB's file is there, too, NOSYNC|WRITEMAP"
    );
    if let Err(why) = &run.lmdb {
        println!("not run: what is compared with LMDB, because {why}");
    }
    if plan.dram_keys == 0 {
        println!("not run: DRAM per key, because no number of keys was given for it");
    }
    println!();
    report::figures(&figures);
    println!();
    let mut goals = judge(&figures);
    if !plan.only.is_empty() {
        goals.retain(|goal| goal.measured.is_some());
    }
    report::goals(&goals);
    if let Some(path) = json_path {
        let goals: Vec<_> = goals.iter().map(Goal::json).collect();
        let figures = report::figures_json(&figures);
        let facts = json!({
            "command": "make bench-order", "machine": machine, "keys": plan.keys, "rounds": plan.rounds,
            "figures": figures, "goals": goals,
        });
        report::write_json(path, &facts);
    }
    Ok(())
}
