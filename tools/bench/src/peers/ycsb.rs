//! YCSB's six mixes. Each call is drawn beforehand.

use super::Phases;
use crate::engine::{Session, get_known};
use crate::keys::{self, Key, Spread};
use crate::measure::Figures;
use crate::own::with_buffer;
use rand::SeedableRng;
use rand_distr::{Distribution, Uniform};
use rand_pcg::Pcg64Mcg;

/// Longest scan of mix E; lengths are uniform.
const SCAN_KEYS_MAX: u32 = 100;
/// Numbers from here on are inserted by D and E.
const FIRST_INSERTED: u64 = 1 << 33;

/// Mix, percent of reads (scans in E); the rest are updates, inserts or read-modify-writes.
const MIXES: [(&str, u32); 6] = [("A", 50), ("B", 95), ("C", 100), ("D", 95), ("E", 95), ("F", 50)];

fn put(session: &mut dyn Session, key: Key, value_bytes: usize) {
    with_buffer(value_bytes, |value| {
        keys::stamp(value, key);
        session.put(&key, value);
    });
}

pub(super) fn run(phases: &Phases<'_>, figures: &mut Figures) {
    let plan = phases.plan;
    let value_bytes = plan.value_bytes;
    let zipf = keys::stream(Spread::Zipf, plan.keys, plan.ops, 31);
    let dice = Uniform::new(0, 100_u32).expect("not empty");
    for (mix, reads) in MIXES {
        let mut random = Pcg64Mcg::seed_from_u64(reads.into());
        let is_read: Vec<bool> = (0..plan.ops).map(|_| dice.sample(&mut random) < reads).collect();
        // How many keys had been inserted before the call, if it is the only thread's: what "latest" counts from.
        let inserted: Vec<u32> = is_read
            .iter()
            .scan(0, |count, is_read| {
                let before = *count;
                *count += u32::from(!is_read);
                Some(before)
            })
            .collect();
        let base = FIRST_INSERTED + u64::from(mix.as_bytes()[0]) * (1 << 32);
        let known = |i: usize| keys::key(zipf[i].into());
        let get = |session: &mut dyn Session, key: Key| {
            with_buffer(value_bytes, |value| get_known(session, key, value));
        };
        if mix == "E" && phases.engine.session().scan(&keys::key(0), 1).is_none() {
            continue;
        }
        phases.run(&format!("YCSB {mix}"), 1, 1.0, figures, &|session, _, i| {
            let i = i as usize;
            let insert = |session: &mut dyn Session| {
                put(session, keys::key(base + u64::from(inserted[i])), value_bytes);
            };
            match (mix, is_read[i]) {
                ("D", true) => get(session, latest(zipf[i], inserted[i], base, plan.keys)),
                ("E", true) => {
                    let count = (i as u32 * 37) % SCAN_KEYS_MAX + 1;
                    session.scan(&known(i), count as usize).expect("asked above");
                }
                ("D" | "E", false) => insert(session),
                ("F", false) => {
                    get(session, known(i));
                    put(session, known(i), value_bytes);
                }
                (_, true) => get(session, known(i)),
                (_, false) => put(session, known(i), value_bytes),
            }
        });
    }
}

/// A key that is the more likely the later it was inserted; those loaded come before those inserted by the mix.
fn latest(rank: u32, inserted: u32, base: u64, loaded: u64) -> Key {
    if rank < inserted {
        keys::key(base + u64::from(inserted - 1 - rank))
    } else {
        keys::key((loaded - 1).saturating_sub(u64::from(rank - inserted)))
    }
}
