//! Scans of a pool in a file of which nothing is in memory.

use super::{ORDERED, Run, SHORT_SCAN};
use crate::engine::{Engine, Session};
use crate::flatkv::Store;
use crate::keys::{self, Spread};
use crate::machine;
use crate::measure::{Figures, ns_of};
use crate::own::{folder, get, name};
use std::path::Path;

/// Few: what they bring into memory must not matter to the next ones.
const SCANS: u64 = 50;
/// Scans of a scan's length as a share of the pool that is still sparse.
const LONG_SCAN_SHARE: u64 = 500;

pub fn measure(run: &Run<'_>, round: usize, figures: &mut Figures) {
    let (keys, dir) = (run.plan.keys, folder(&run.plan.file_dir));
    if machine::file_system(dir.path()) == "tmpfs" {
        return;
    }
    let path = dir.path().join("cold.fkv");
    let open = || run.library.open(&path, &[("media", "file"), ("index", ORDERED), ("durability", "os")]);
    run.load(&open(), keys);
    let starts = keys::stream(Spread::Uniform, keys, SCANS, 11 + round as u64);
    let start = |i: usize| keys::key(starts[i].into());
    let mut phase = |what: &str, unit: &'static str, divisor: f64, scan: &dyn Fn(&mut dyn Session)| {
        let store = open_cold(&open, &path);
        let ns = ns_of(|| scan(store.session().as_mut()));
        figures.add(name(ORDERED, what, 1), unit, ns / divisor);
    };
    phase("get of a cold file", "us", SCANS as f64 * 1e3, &|session| {
        (0..starts.len()).for_each(|i| get(session, start(i), run.plan.value_bytes));
    });
    phase("scan of 50 of a cold file", "us", SCANS as f64 * 1e3, &|session| {
        (0..starts.len()).for_each(|i| {
            session.scan(&start(i), SHORT_SCAN);
        });
    });
    let many = (keys / LONG_SCAN_SHARE).max(1) as usize;
    phase("entry of a longer scan of a cold file", "us", many as f64 * 1e3, &|session| {
        session.scan(&[0], many);
    });
    phase("entry of a full scan of a cold file", "us", keys as f64 * 1e3, &|session| {
        session.scan(&[0], keys as usize);
    });
    let store = open();
    let scan_all = || assert!(store.session().scan(&[0], keys as usize).is_some());
    scan_all();
    let ns = ns_of(scan_all);
    figures.add(name(ORDERED, "entry of a full scan of a cached file", 1), "us", ns / keys as f64 / 1e3);
}

/// Opening reads all of the file, so its pages are dropped behind it: as they are when other files needed the memory.
fn open_cold(open: &dyn Fn() -> Store, path: &Path) -> Store {
    let store = open();
    machine::drop_from_memory(path);
    store
}
