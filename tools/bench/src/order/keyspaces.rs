//! Keys that went many at a time: a deleted range, a dropped keyspace.

use super::{ORDERED, Run};
use crate::keys::{self, KEY_BYTES};
use crate::measure::{Figures, ns_of};
use crate::own::{folder, name};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// The longest wait for the cleaner: as often the time of a phase, which is short in a fast run.
const REST_PHASES_MAX: u32 = 30;
/// The share of a dropped keyspace's space that is waited for: the last segments are as full as any.
const ENOUGH_BACK: f64 = 0.95;

/// All keys below a middle one are deleted, then scanned.
pub fn scan_what_was_deleted(run: &Run<'_>, figures: &mut Figures) {
    let dir = folder(&run.plan.memory_dir);
    let store = run.open_loaded(dir.path());
    let middle = [0x80, 0, 0, 0, 0, 0, 0, 0];
    const { assert!(KEY_BYTES == 8, "half of the keys are below the middle") };
    let deleted = (0..run.plan.keys).map(keys::key).filter(|key| *key < middle);
    let deleted = deleted.filter(|key| store.delete(key)).count();
    figures.add(name(ORDERED, "keys deleted", 1), "M", deleted as f64 / 1e6);
    let mut iter = store.iter().expect("it has an order");
    iter.set_upper(&middle);
    for phase in ["scan of what was just deleted", "the same scan again"] {
        let ns = ns_of(|| {
            iter.seek_first();
            assert_eq!(iter.walk(1, true), 0, "all below the middle was deleted");
        });
        figures.add(name(ORDERED, phase, 1), "ms", ns / 1e6);
    }
}

/// A keyspace with half of the keys is dropped beside one that keeps a few; the cleaner works as it does by default.
pub fn drop_one(run: &Run<'_>, figures: &mut Figures) {
    let dir = folder(&run.plan.memory_dir);
    let store = run.open(dir.path(), ORDERED, &[("target_utilization", "0.8")]);
    let path = dir.path().join(format!("{ORDERED}.fkv"));
    let bytes = || std::fs::metadata(&path).expect("the pool is there").blocks() as f64 * 512.0;
    run.load(&store, run.plan.keys / 100);
    let (used_before, before) = (store.stat("used_bytes"), bytes());
    let keyspace = store.keyspace("dropped");
    run.load(&keyspace, run.plan.keys / 2);
    let (used_full, full) = (store.stat("used_bytes"), bytes());
    drop(keyspace);
    let started = Instant::now();
    store.drop_keyspace("dropped");
    // Never by the time on a core: others may have to be waited for.
    figures.add(name(ORDERED, "drop of a keyspace", 1), "ms", started.elapsed().as_secs_f64() * 1e3);
    let back = || (used_full - store.stat("used_bytes")) / (used_full - used_before).max(1.0);
    while back() < ENOUGH_BACK && started.elapsed() < run.plan.time * REST_PHASES_MAX {
        std::thread::sleep(Duration::from_millis(10));
    }
    figures.add(name(ORDERED, "space back after the drop", 1), "of it", back());
    figures.add(name(ORDERED, "wait for it", 1), "s", started.elapsed().as_secs_f64());
    // Less: a pool keeps some free segments at hand.
    let given = (full - bytes()) / (full - before).max(1.0);
    figures.add(name(ORDERED, "of that, back to the file system", 1), "of it", given);
}
