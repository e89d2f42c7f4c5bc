//! What needs a process of its own: DRAM that nothing else has used, and a kill.

use super::{Class, Peer, Plan, field};
use crate::engine::Session;
use crate::keys;
use crate::measure::Figures;
use crate::own::{folder, rss_anon_bytes, with_buffer};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

fn start(command: &str, peer: &Peer, path: &Path, plan: &Plan) -> Child {
    Command::new(std::env::current_exe().expect("the path of this program"))
        .arg(command)
        .args(["--only", &format!("{},{}", peer.name, peer.class.name())])
        .args(["--keys", &plan.keys.to_string(), "--value", &plan.value_bytes.to_string()])
        .arg("--library")
        .arg(&plan.library)
        .arg("--dir")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started")
}

fn numbers(child: &mut Child) -> Vec<f64> {
    let mut line = String::new();
    let output = child.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("numbers from the child");
    line.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

/// Loads a store in a child, kills it, and opens what it left in another.
pub(super) fn measure(peer: &Peer, plan: &Plan, figures: &mut Figures) {
    let dir = folder(peer.dir(plan));
    let mut child = start("peer-load", peer, dir.path(), plan);
    let dram = numbers(&mut child);
    let space = space_bytes(dir.path());
    child.kill().expect("the child runs until it is killed");
    child.wait().expect("the child was killed");
    let [dram] = dram[..] else { panic!("{} did not load", peer.name) };
    figures.add(peer.figure("DRAM per key"), "B", dram / plan.keys as f64);
    figures.add(peer.figure("space per key"), "B", space as f64 / plan.keys as f64);
    let mut child = start("peer-open", peer, dir.path(), plan);
    let opened = numbers(&mut child);
    child.wait().expect("the child ends by itself");
    let [ms, found] = opened[..] else { panic!("{} did not open after the kill", peer.name) };
    figures.add(peer.figure("open after kill -9"), "ms", ms);
    figures.add(peer.figure("keys found of 1000 after kill -9"), "keys", found);
}

fn space_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("the store's folder");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry of the store's folder");
            // A file that the store removed meanwhile takes no space.
            let Ok(facts) = entry.metadata() else { return 0 };
            if facts.is_dir() { space_bytes(&entry.path()) } else { facts.blocks() * 512 }
        })
        .sum()
}

fn find(plan: &Plan) -> Result<Peer, String> {
    let [name, class] = &plan.only[..] else { return Err("--only NAME,CLASS is missing".into()) };
    let class = Class::ALL.into_iter().find(|other| other.name() == class).ok_or("no such class")?;
    let all = Plan { only: vec![name.clone()], ..*plan_of(plan) };
    let (peers, missing) = field(&all);
    peers.into_iter().find(|peer| peer.class == class).ok_or_else(|| missing.join("; "))
}

/// A copy, but for what is not measured in a child.
fn plan_of(plan: &Plan) -> Box<Plan> {
    Box::new(Plan {
        library: plan.library.clone(),
        memory_dir: plan.memory_dir.clone(),
        file_dir: plan.file_dir.clone(),
        only: Vec::new(),
        plots: None,
        ..*plan
    })
}

/// The first child: loads, says what DRAM that took, and waits to be killed.
pub fn load_and_wait(plan: &Plan) -> Result<(), String> {
    let peer = find(plan)?;
    let before = rss_anon_bytes();
    let engine = (peer.open)(&plan.file_dir)?;
    peer.load(engine.as_ref(), plan);
    println!("{}", rss_anon_bytes().saturating_sub(before));
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    loop {
        std::thread::park();
    }
}

/// The second child: opens what the first left, and looks for some of the keys.
pub fn open_again(plan: &Plan) -> Result<(), String> {
    let peer = find(plan)?;
    let started = Instant::now();
    let engine = (peer.open)(&plan.file_dir)?;
    let mut session: Box<dyn Session> = engine.session();
    let get = |session: &mut dyn Session, i| {
        with_buffer(plan.value_bytes, |value| session.get(&keys::key(i), value).is_some())
    };
    // Opened is what answers.
    get(session.as_mut(), 0);
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let step = (plan.keys / 1000).max(1);
    let found =
        (0..plan.keys).step_by(step as usize).take(1000).filter(|i| get(session.as_mut(), *i)).count();
    println!("{ms} {found}");
    Ok(())
}
