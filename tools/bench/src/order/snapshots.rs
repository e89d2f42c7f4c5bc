//! What a snapshot costs, and what puts cost beside iterators and snapshots.

use super::{ORDERED, Run, SNAPSHOTS, overwrite};
use crate::engine::{Engine, Session};
use crate::keys::{self, Spread};
use crate::measure::{Figures, ns_of};
use crate::own::{folder, name, put};

/// Times that puts are measured beside each.
const TURNS: u64 = 5;
/// Puts of one turn: a share of all.
const PUTS: u64 = 10;
const MADE_AND_DROPPED: usize = 100_000;

pub fn measure(run: &Run<'_>, round: usize, figures: &mut Figures) {
    let plan = run.plan;
    let dir = folder(&plan.memory_dir);
    let store = run.open_loaded(dir.path());
    let ns = ns_of(|| (0..MADE_AND_DROPPED).for_each(|_| drop(store.snapshot())));
    figures.add(name(ORDERED, "snapshot made and dropped", 1), "ns", ns / MADE_AND_DROPPED as f64);

    let mut session = store.session();
    let puts = (plan.ops / PUTS) as usize;
    let numbers = keys::stream(Spread::Uniform, plan.keys, plan.ops, 31 + round as u64);
    let mut turns = numbers.chunks(puts).cycle();
    let mut rate = |session: &mut dyn Session| {
        let numbers = turns.next().expect("it goes round");
        puts as f64 / ns_of(|| overwrite(session, numbers, plan.value_bytes)) * 1e3
    };
    for turn in 0..TURNS {
        let mut beside = |what: &str, rate: f64| {
            figures.add(format!("ordered: overwrite uniform, {what}"), "M/s", rate);
        };
        beside("no snapshot", rate(session.as_mut()));
        let iter = store.iter().expect("it has an order");
        beside("one iterator", rate(session.as_mut()));
        drop(iter);
        let many: Vec<_> = (0..SNAPSHOTS as u64)
            .map(|i| {
                // Snapshots with nothing written between them are one.
                put(session.as_mut(), keys::key((turn + i) % plan.keys), plan.value_bytes);
                store.snapshot()
            })
            .collect();
        beside("10,000 snapshots", rate(session.as_mut()));
        drop(many);
    }
}
