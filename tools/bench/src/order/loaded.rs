//! Points and scans of stores that hold all keys.

use super::{HASH, LMDB, ORDERED, Run, SHORT_SCAN};
use crate::engine::Engine;
use crate::flatkv::Store;
use crate::keys::{self, Spread};
use crate::measure::{Figures, ns_of};
use crate::own::{Call, Field, WithStore, folder, get, insert_side_by_side, name, put};

/// Short scans for each 16 single gets.
const SCANS_PER_GETS: u64 = 16;

pub fn measure(run: &Run<'_>, round: usize, figures: &mut Figures) {
    let plan = run.plan;
    let (keys, value_bytes) = (plan.keys, plan.value_bytes);
    let dir = folder(&plan.memory_dir);
    let (ordered, hash) = (run.open(dir.path(), ORDERED, &[]), run.open(dir.path(), HASH, &[]));
    let lmdb = run.lmdb.as_ref().ok().map(|library| {
        library.open(&dir.path().join(LMDB), false).unwrap_or_else(|error| panic!("LMDB: {error}"))
    });
    let mut field = Field { engines: vec![(ORDERED, &ordered), (HASH, &hash)], turn: round };
    field.engines.extend(lmdb.as_ref().map(|lmdb| (LMDB, lmdb as &dyn Engine)));
    let load: Call<'_> = &|session, _, i| put(session, keys::key(i), value_bytes);
    field.phase("insert", 1, keys, &[], load, figures);

    if plan.wants("points") {
        let numbers =
            [1, 2].map(|seed| keys::stream(Spread::Uniform, keys, plan.ops, seed + 10 * round as u64));
        let read: Call<'_> = &|session, thread, i| {
            get(session, keys::key(numbers[thread][i as usize].into()), value_bytes);
        };
        for threads in [1, 2] {
            field.phase("get uniform", threads, plan.ops, &[], read, figures);
        }
        let with_store: WithStore<'_> = &|insert| {
            let dir = folder(&plan.memory_dir);
            insert(&run.open(dir.path(), ORDERED, &[]));
        };
        insert_side_by_side(ORDERED, plan, round, with_store, figures);
    }
    if plan.wants("scans") {
        let starts = keys::stream(Spread::Uniform, keys, plan.ops / SCANS_PER_GETS, 7 + round as u64);
        let scan: Call<'_> = &|session, _, i| {
            let found = session.scan(&keys::key(starts[i as usize].into()), SHORT_SCAN);
            assert!(found.is_some_and(|found| found > 0), "it starts at a key that is there");
        };
        field.phase("scan of 50", 1, starts.len() as u64, &[HASH], scan, figures);
        scan_with_one_iterator(&ordered, &starts, figures);
        let all: Call<'_> =
            &|session, _, _| assert_eq!(session.scan(&[0], keys as usize), Some(keys as usize));
        let mut scans = Figures::default();
        field.phase("entries of a full scan, with values", 1, 1, &[HASH], all, &mut scans);
        scans.iter().for_each(|(name, unit, rates)| figures.add(name, unit, rates[0] * keys as f64));
        let ns = ns_of(|| {
            let mut iter = ordered.iter().expect("it has an order");
            iter.seek_first();
            assert_eq!(iter.walk(keys as usize, false), keys as usize);
        });
        figures.add(name(ORDERED, "entries of a full scan, keys only", 1), "M/s", keys as f64 / ns * 1e3);
    }
}

/// Short scans that share an iterator, which is placed anew for each.
fn scan_with_one_iterator(store: &Store, starts: &[u32], figures: &mut Figures) {
    let mut iter = store.iter().expect("it has an order");
    let ns = ns_of(|| {
        for start in starts {
            iter.seek(&keys::key((*start).into()));
            assert!(iter.walk(SHORT_SCAN, true) > 0, "it starts at a key that is there");
        }
    });
    let phase = "scan of 50, one iterator for all";
    figures.add(name(ORDERED, phase, 1), "M/s", starts.len() as f64 / ns * 1e3);
}
