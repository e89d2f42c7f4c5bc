//! What FlatKV reaches, beside what the machine allows and what other stores reach. See docs/performance/README.md.

mod engine;
mod flatkv;
mod goals;
mod ideal;
mod keys;
mod library;
mod lmdb;
mod machine;
mod measure;
mod order;
mod own;
mod papaya_map;
#[cfg(feature = "peers")]
mod peers;
mod pmem;
mod report;

use crate::flatkv::Flatkv;
use crate::own::{Build, Plan};
use lexopt::prelude::*;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "\
usage: flatkv-bench own [options]     FlatKV beside the machine's limits, an idealised log+hash and papaya
       flatkv-bench order [options]   the ordered index, snapshots and keyspaces, beside the hash index and LMDB
       flatkv-bench peers [options]   FlatKV beside other stores (needs the feature `peers`)

  --library PATH     libflatkv.so to measure (target/release/libflatkv.so)
  --base PATH        another build, measured beside it as `base`
  --keys N           keys (2000000)         --value N     bytes of a value (64)
  --ops N            calls per phase (as many as keys)
  --rounds N         rounds (3)             --fast        a few seconds, to see that it runs
  --growth-keys N    keys the index grows to (5 times keys)
  --dram-keys N      keys up to which DRAM per key is sampled (8 times keys, 0: not)
  --dir DIR          a folder on a disk, for what is measured on files (target/bench)
  --memory-dir DIR   a folder in memory that stands in for persistent memory (/dev/shm)
  --only PART,..     own: limits, memory, growth, file, dram; peers: names of engines;
                     order: points, scans, growth, dram, snapshots, deleted, cold, keyspaces
  --time-ms N        longest time of a phase that is measured for a time (1000)
  --rate N           calls per second of the open loop (50000)
  --sync-rate N      the same where a put waits for a disk (500)
  --plots DIR        peers: where plots go
  --cpu-time         divide by the time on a core: for a machine that others use meanwhile
  --json FILE        where the results go as JSON
";

struct Arguments {
    library: PathBuf,
    base: Option<PathBuf>,
    keys: Option<u64>,
    ops: Option<u64>,
    value_bytes: usize,
    rounds: Option<usize>,
    growth_keys: Option<u64>,
    dram_keys: Option<u64>,
    dir: PathBuf,
    memory_dir: PathBuf,
    only: Vec<String>,
    json: Option<PathBuf>,
    time_ms: Option<u64>,
    rate: u64,
    sync_rate: u64,
    plots: Option<PathBuf>,
    is_fast: bool,
    by_cpu_time: bool,
}

fn arguments() -> Result<(String, Arguments), lexopt::Error> {
    let mut command = None;
    let mut arguments = Arguments {
        library: "target/release/libflatkv.so".into(),
        base: None,
        keys: None,
        ops: None,
        value_bytes: 64,
        rounds: None,
        growth_keys: None,
        dram_keys: None,
        dir: "target/bench".into(),
        memory_dir: "/dev/shm".into(),
        only: Vec::new(),
        json: None,
        time_ms: None,
        rate: 50_000,
        sync_rate: 500,
        plots: None,
        is_fast: false,
        by_cpu_time: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("library") => arguments.library = parser.value()?.into(),
            Long("base") => arguments.base = Some(parser.value()?.into()),
            Long("keys") => arguments.keys = Some(parser.value()?.parse()?),
            Long("ops") => arguments.ops = Some(parser.value()?.parse()?),
            Long("value") => arguments.value_bytes = parser.value()?.parse()?,
            Long("rounds") => arguments.rounds = Some(parser.value()?.parse()?),
            Long("growth-keys") => arguments.growth_keys = Some(parser.value()?.parse()?),
            Long("dram-keys") => arguments.dram_keys = Some(parser.value()?.parse()?),
            Long("dir") => arguments.dir = parser.value()?.into(),
            Long("memory-dir") => arguments.memory_dir = parser.value()?.into(),
            Long("only") => {
                arguments.only = parser.value()?.string()?.split(',').map(str::to_string).collect();
            }
            Long("time-ms") => arguments.time_ms = Some(parser.value()?.parse()?),
            Long("rate") => arguments.rate = parser.value()?.parse()?,
            Long("sync-rate") => arguments.sync_rate = parser.value()?.parse()?,
            Long("plots") => arguments.plots = Some(parser.value()?.into()),
            Long("json") => arguments.json = Some(parser.value()?.into()),
            Long("cpu-time") => arguments.by_cpu_time = true,
            Long("fast") => arguments.is_fast = true,
            Short('h') | Long("help") => {
                print!("{USAGE}");
                std::process::exit(0);
            }
            Value(word) if command.is_none() => command = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok((command.ok_or("a command is missing: own")?, arguments))
}

impl Arguments {
    fn time(&self) -> Duration {
        Duration::from_millis(self.time_ms.unwrap_or(if self.is_fast { 50 } else { 1000 }))
    }
}

fn builds(arguments: &Arguments) -> Result<Vec<Build>, String> {
    let mut builds = vec![("flatkv".to_string(), Flatkv::load(&arguments.library)?)];
    if let Some(base) = &arguments.base {
        builds.push(("base".into(), Flatkv::load(base)?));
    }
    Ok(builds)
}

fn own_plan(arguments: &Arguments) -> Plan {
    let is_fast = arguments.is_fast;
    let keys = arguments.keys.unwrap_or(if is_fast { 20_000 } else { 2_000_000 });
    Plan {
        keys,
        ops: arguments.ops.unwrap_or(keys),
        value_bytes: arguments.value_bytes,
        rounds: arguments.rounds.unwrap_or(if is_fast { 1 } else { 3 }),
        growth_keys: arguments.growth_keys.unwrap_or(5 * keys),
        // Below a million keys the program itself is what is sampled.
        dram_keys: arguments.dram_keys.unwrap_or(if is_fast { 0 } else { 8 * keys }),
        time: arguments.time(),
        chase_bytes: if is_fast { 16 << 20 } else { 1 << 30 },
        library: arguments.library.clone(),
        memory_dir: arguments.memory_dir.clone(),
        file_dir: arguments.dir.clone(),
        only: arguments.only.clone(),
    }
}

fn own(arguments: &Arguments) -> Result<(), String> {
    let plan = own_plan(arguments);
    measure::BY_CPU_TIME.get_or_init(|| arguments.by_cpu_time);
    let builds = builds(arguments)?;
    let machine = machine::description();
    let file_system = {
        let probe = own::folder(&plan.file_dir);
        machine::file_system(probe.path())
    };
    let figures = own::run(&plan, &builds);

    println!(
        "FlatKV {}, {} keys of {} bytes, values of {} bytes, {} calls per phase, medians of {} rounds",
        builds[0].1.version(),
        plan.keys,
        keys::KEY_BYTES,
        plan.value_bytes,
        plan.ops,
        plan.rounds
    );
    println!("machine: {machine}");
    println!(
        "persistent memory is emulated: a mapping of tmpfs, flushed and fenced; it survives no power cut"
    );
    println!("files are on {file_system}");
    if arguments.by_cpu_time {
        println!("phases with a number of calls are per second ON A CORE: what is waited for is left out");
    }
    if plan.dram_keys == 0 {
        println!("not run: DRAM per key, because no number of keys was given for it");
    }
    if file_system == "tmpfs" {
        println!("not run: files, because their folder is in memory: name one on a disk with DIR=");
    }
    if plan.value_bytes != papaya_map::VALUE_BYTES {
        println!("not run: papaya, because it is measured with values of {} bytes", papaya_map::VALUE_BYTES);
    }
    println!();
    report::figures(&figures);
    println!();
    let goals = goals::judge(&figures, "flatkv");
    report::goals(&goals);
    println!(
        "\nnot run: the medium model in virtual time: make bench-model; goals against other stores: make bench-peers"
    );
    if arguments.is_fast {
        println!("figures of a fast run show that it runs, and nothing else");
    }
    if arguments.base.is_some() {
        println!();
        compare(&figures);
    }
    if let Some(path) = &arguments.json {
        let goals: Vec<_> = goals.iter().map(goals::Goal::json).collect();
        report::write_json(
            path,
            &json!({
                "command": "make bench",
                "by_cpu_time": arguments.by_cpu_time,
                "machine": machine,
                "file_system": file_system,
                "keys": plan.keys, "key_bytes": keys::KEY_BYTES, "value_bytes": plan.value_bytes,
                "calls_per_phase": plan.ops, "rounds": plan.rounds,
                "figures": report::figures_json(&figures),
                "goals": goals,
            }),
        );
    }
    Ok(())
}

#[cfg(feature = "peers")]
fn peers_plan(arguments: &Arguments) -> peers::Plan {
    let keys = arguments.keys.unwrap_or(if arguments.is_fast { 10_000 } else { 2_000_000 });
    peers::Plan {
        keys,
        ops: arguments.ops.unwrap_or(keys / 2),
        value_bytes: arguments.value_bytes,
        rounds: arguments.rounds.unwrap_or(if arguments.is_fast { 1 } else { 3 }),
        time: arguments.time(),
        library: arguments.library.clone(),
        memory_dir: arguments.memory_dir.clone(),
        file_dir: arguments.dir.clone(),
        only: arguments.only.clone(),
        rate: arguments.rate,
        sync_rate: arguments.sync_rate,
        latency_time: if arguments.is_fast { Duration::from_millis(100) } else { Duration::from_secs(5) },
        plots: arguments.plots.clone(),
    }
}

#[cfg(feature = "peers")]
fn with_peers(command: &str, arguments: &Arguments) -> Result<(), String> {
    let plan = peers_plan(arguments);
    match command {
        "peers" => peers::run(&plan, arguments.json.as_deref()),
        "peer-load" => peers::load_and_wait(&plan),
        "peer-open" => peers::open_again(&plan),
        other => Err(format!("unknown command {other}\n{USAGE}")),
    }
}

#[cfg(not(feature = "peers"))]
fn with_peers(command: &str, _: &Arguments) -> Result<(), String> {
    Err(format!("unknown command {command}, or one that needs the feature `peers`\n{USAGE}"))
}

/// What `own` starts for one of its figures.
fn sample_dram(arguments: &Arguments) -> Result<(), String> {
    let library = Flatkv::load(&arguments.library)?;
    let keys = arguments.dram_keys.ok_or("--dram-keys is missing")?;
    let sample =
        own::Sample::ALL.into_iter().find(|sample| arguments.only.iter().any(|word| word == sample.name()));
    let sample = sample.ok_or("--only is missing: points, order or order-in-common")?;
    let (average, worst) =
        own::sample_dram(&library, &arguments.memory_dir, keys, arguments.value_bytes, sample);
    println!("{average} {worst}");
    Ok(())
}

/// Makes calls of one kind into a store of `keys` keys, for who counts their instructions.
fn calls(arguments: &Arguments) -> Result<(), String> {
    let library = Flatkv::load(&arguments.library)?;
    let keys = arguments.keys.unwrap_or(20_000);
    let kind = arguments.only.first().ok_or("--only is missing: insert, overwrite, get, multi-get, ..")?;
    own::make_calls(&library, &arguments.memory_dir, keys, arguments.value_bytes, kind)
}

/// The two builds beside each other.
fn compare(figures: &measure::Figures) {
    let rows: Vec<Vec<String>> = figures
        .iter()
        .filter_map(|(name, unit, _)| {
            let (_, phase) = name.split_once("flatkv: ")?;
            let base = format!("base: {phase}");
            let ratio = figures.ratio(name, &base)?;
            Some(vec![
                phase.to_string(),
                unit.to_string(),
                report::maybe(figures.median(&base)),
                report::maybe(figures.median(name)),
                report::digits(ratio),
            ])
        })
        .collect();
    report::table(&["phase", "unit", "base", "flatkv", "ratio"], &rows);
}

fn main() {
    let result =
        arguments().map_err(|error| format!("{error}\n{USAGE}")).and_then(
            |(command, arguments)| match command.as_str() {
                "own" => own(&arguments),
                "order" => {
                    measure::BY_CPU_TIME.get_or_init(|| arguments.by_cpu_time);
                    let plan = own_plan(&arguments);
                    Flatkv::load(&plan.library)
                        .and_then(|library| order::run(&plan, &library, arguments.json.as_deref()))
                }
                "sample-dram" => sample_dram(&arguments),
                "calls" => calls(&arguments),
                other => with_peers(other, &arguments),
            },
        );
    if let Err(error) = result {
        eprintln!("flatkv-bench: {error}");
        std::process::exit(2);
    }
}
