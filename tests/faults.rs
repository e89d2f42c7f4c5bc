//! Every system call of the media fails in every way: each call site x each errno, and short transfers, once and for ever,
//! at its 1st, 2nd, ... call, until a workload is over before the fault is reached.
//!
//! After every fault: no panic, a documented error, reads of what was acknowledged go on, a poisoned store refuses writes
//! and says why, a refused write changed nothing, and the next open without faults holds every acknowledged write and no
//! half of a batch. Pools of both kinds are on tmpfs where there is one: what the device does plays no part here.
//! A failure prints one line to replay it: `SALT=... FAULT=... cargo test --release --features sim --test faults`.
//! Power cuts after a failed drain are in `tests/crash.rs`, and here drain by drain in `failed_drain`.

mod common;
mod faults {
    pub mod failed_drain;
    pub mod held_drain;
    pub mod plan;
    pub mod work;
}

use common::{MEDIA, Rng, memory_dir};
use faults::plan::{FAILURES, Fault, Terrain, Turn};
use faults::work::{self, Work};
use faults::{failed_drain, held_drain};
use flatkv::testing::CallSite;
use flatkv::testing::sim::{PageCache, SimKind};
use flatkv::{IndexKind, MediaChoice};
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A sweep gives up after so many violations.
const VIOLATIONS_MAX: usize = 10;
/// Each medium with either index.
const POOLS: [(MediaChoice, IndexKind); 4] = [
    (MediaChoice::File, IndexKind::Ordered),
    (MediaChoice::File, IndexKind::Hash),
    (MediaChoice::EmulatedPm, IndexKind::Ordered),
    (MediaChoice::EmulatedPm, IndexKind::Hash),
];
/// The least number of faults that must strike, over both media.
const POINTS_MIN: u64 = 5000;

fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[derive(Default)]
struct Tally {
    points: u64,
    runs: u64,
    acknowledged: u64,
    reads: u64,
    errors: u64,
    poisonings: u64,
    tidied: u64,
    reached: BTreeSet<CallSite>,
    violations: Vec<String>,
}

struct Ground {
    media: MediaChoice,
    terrain: Terrain,
}

impl Ground {
    fn name(&self) -> String {
        format!("{:?}/{:?}", self.media, self.terrain)
    }
}

impl Tally {
    /// Runs the workload under one fault. False if it was over before the fault struck.
    fn run(&mut self, turn: &Turn, ground: &Ground, fault: Option<Fault>, salt: u32) -> bool {
        let directory = memory_dir();
        let path = directory.path().join("pool.fkv");
        turn.arm(ground.terrain, fault);
        let mut work = Work::new(turn, &path, ground.media, ground.terrain, fault, salt);
        let result = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        });
        self.runs += 1;
        self.acknowledged += work.acknowledged;
        self.reads += work.reads;
        self.errors += work.errors;
        self.poisonings += work.poisonings;
        self.tidied += work.tidied;
        let (_, struck) = turn.seen();
        if let Err(what) = result {
            let fault = fault.map_or("none".to_string(), |fault| fault.to_string());
            let line = format!("SALT={salt} FAULT={}/{fault}: {what}", ground.name());
            report(&line);
            self.violations.push(line);
        }
        if struck > 0 {
            self.points += 1;
            self.reached.extend(fault.map(|fault| fault.site));
        }
        struck > 0
    }

    fn sweep(&mut self, turn: &Turn, ground: &Ground, is_wanted: impl Fn(CallSite) -> bool) {
        assert!(!self.run(turn, ground, None, 0), "nothing fails without a fault");
        assert!(ground.terrain != Terrain::Plain || self.tidied > 0, "tidying had nothing to do");
        let (calls, _) = turn.seen();
        for (site, _) in calls.into_iter().filter(|(site, _)| is_wanted(*site)) {
            for failure in FAILURES.into_iter().filter(|failure| Fault::is_possible(site, *failure)) {
                for for_ever in [false, true] {
                    // Two in a row that do not strike: every second run has the other index, which may make fewer calls.
                    let (mut nth, mut missed) = (1, 0);
                    while missed < 2 && self.violations.len() < VIOLATIONS_MAX {
                        let struck = self.run(turn, ground, Some(Fault { site, failure, for_ever, nth }), 0);
                        missed = if struck { 0 } else { missed + 1 };
                        nth += 1;
                    }
                }
            }
        }
    }

    fn absorb(&mut self, other: Tally) {
        self.points += other.points;
        self.runs += other.runs;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.errors += other.errors;
        self.poisonings += other.poisonings;
        self.tidied += other.tidied;
        self.reached.extend(other.reached);
        self.violations.extend(other.violations);
    }

    fn figures(&self) -> String {
        format!(
            "{} fault points in {} runs: {} writes acknowledged, {} lost or wrong, {} reads, {} errors, {} poisonings, \
             {} segments tidied up",
            self.points,
            self.runs,
            self.acknowledged,
            self.violations.len(),
            self.reads,
            self.errors,
            self.poisonings,
            self.tidied
        )
    }
}

/// Where each terrain differs from the plain one; the other sites do there what they do everywhere.
fn is_wanted(terrain: Terrain, site: CallSite) -> bool {
    use CallSite::*;
    match terrain {
        Terrain::Plain => true,
        Terrain::Background => matches!(site, Prefault | GrowAllocate | GrowSync | MapPart | HugePageHint),
        Terrain::NoUnnamedFiles | Terrain::NoLinks => matches!(
            site,
            OpenDirectory
                | CreateUnnamed
                | CreateNamed
                | SetMode
                | OpenLock
                | PublishSync
                | PublishLink
                | PublishRename
                | PublishUnlink
                | PublishSyncDirectory
        ),
        Terrain::NoAllocate => matches!(site, GrowAllocate | GrowZero | GrowSync | GrowUndo),
        Terrain::Full => !matches!(site, Read),
    }
}

/// For `FAULT_SECONDS`: faults that `FAULT_SEED` picks, with other sizes of values than the sweep.
#[test]
#[ignore = "a campaign: make crash-campaign"]
fn random_faults_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(number("FAULT_SECONDS").unwrap_or(60));
    let mut random = Rng(number("FAULT_SEED").unwrap_or(1));
    let turn = Turn::take();
    let mut total = Tally::default();
    while Instant::now() < end && total.violations.len() < VIOLATIONS_MAX {
        let media = MEDIA[random.below(MEDIA.len())];
        let ground = Ground { media, terrain: Terrain::ALL[random.below(Terrain::ALL.len())] };
        let salt = random.next() as u32;
        total.run(&turn, &ground, None, salt);
        let (calls, _) = turn.seen();
        let (site, calls) = calls[random.below(calls.len())];
        let failure = FAILURES[random.below(FAILURES.len())];
        let nth = 1 + random.below(calls as usize) as u32;
        if Fault::is_possible(site, failure) {
            total.run(&turn, &ground, Some(Fault { site, failure, for_ever: random.one_in(2), nth }), salt);
        }
    }
    report(&format!("random faults: {}", total.figures()));
    assert!(total.violations.is_empty(), "{} violations, each printed above", total.violations.len());
}

fn parse(text: &str) -> Option<(Ground, Option<Fault>)> {
    let mut words = text.split('/');
    let media = match words.next()? {
        "File" => MediaChoice::File,
        "EmulatedPm" => MediaChoice::EmulatedPm,
        "Auto" => MediaChoice::Auto,
        _ => return None,
    };
    let word = words.next()?;
    let terrain = Terrain::ALL.into_iter().find(|terrain| format!("{terrain:?}") == word)?;
    let word = words.next()?;
    if word == "none" {
        return Some((Ground { media, terrain }, None));
    }
    let site = CallSite::ALL.iter().copied().find(|site| format!("{site:?}") == word)?;
    let word = words.next()?;
    let failure = FAILURES.into_iter().find(|failure| failure.name == word)?;
    let for_ever = words.next()? == "ever";
    let fault = Fault { site, failure, for_ever, nth: words.next()?.parse().ok()? };
    Some((Ground { media, terrain }, Some(fault)))
}

#[test]
fn every_call_site_fails_in_every_way_and_nothing_is_lost() {
    let turn = Turn::take();
    let mut total = Tally::default();
    if let Ok(line) = std::env::var("FAULT") {
        let (ground, fault) = parse(&line).expect("FAULT is a line that a failed sweep printed");
        let salt = std::env::var("SALT").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        total.run(&turn, &ground, fault, salt);
        assert!(total.violations.is_empty());
        return;
    }
    let mut grounds = Vec::new();
    for media in MEDIA {
        grounds.extend(Terrain::ALL.map(|terrain| Ground { media, terrain }));
    }
    grounds.push(Ground { media: MediaChoice::Auto, terrain: Terrain::Plain });
    for ground in grounds {
        let mut tally = Tally::default();
        // What `Auto` adds is the probe.
        tally.sweep(&turn, &ground, |site| match ground.media {
            MediaChoice::Auto => site == CallSite::SyncProbe,
            _ => is_wanted(ground.terrain, site),
        });
        report(&format!("faults, {}: {}", ground.name(), tally.figures()));
        total.absorb(tally);
    }
    // Read ahead is what is not in memory, which all of so small a pool is; nobody looks at the answer.
    let is_met = |site: &&CallSite| total.reached.contains(site) || **site == CallSite::ReadAhead;
    let missed: Vec<_> = CallSite::ALL.iter().filter(|site| !is_met(site)).collect();
    report(&format!(
        "faults: {} of {} call sites reached; {}",
        total.reached.len(),
        CallSite::ALL.len(),
        total.figures()
    ));
    assert!(total.violations.is_empty(), "{} violations, each printed above", total.violations.len());
    assert!(missed.is_empty(), "call sites that no fault reached: {missed:?}");
    assert!(total.points >= POINTS_MIN, "{} fault points", total.points);
}

/// Puts values of `len` bytes under new keys until one fails, with `EIO`; answers how many are there.
fn put_until_eio(store: &flatkv::Store, len: usize) -> u32 {
    let mut stored = 0_u32;
    let error = loop {
        match store.put(&stored.to_le_bytes(), &vec![7; len]) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, flatkv::Error::Io { errno: libc::EIO, .. }), "{error}");
    stored
}

/// A growth asks the system for space; what it does not get, no write depends on.
#[test]
fn a_growth_that_fails_with_an_io_error_leaves_the_store_usable() {
    let turn = Turn::take();
    for (media, index) in POOLS {
        for len in [2000, 100_000] {
            let directory = memory_dir();
            turn.arm(Terrain::Plain, None);
            let store =
                work::options(media, Terrain::Plain, index).open(directory.path().join("pool.fkv")).unwrap();
            let failure = FAILURES[0];
            let site = CallSite::GrowAllocate;
            turn.arm(Terrain::Plain, Some(Fault { site, failure, for_ever: true, nth: 1 }));
            let stored = put_until_eio(&store, len);
            store.health().unwrap();
            turn.lift();
            store.put(&stored.to_le_bytes(), &vec![8; len]).unwrap();
            for number in 0..=stored {
                let value = store.get(&number.to_le_bytes()).unwrap().unwrap();
                assert_eq!(value, vec![if number < stored { 7 } else { 8 }; len]);
            }
        }
    }
}

/// The fsync of a growth covers the pages of every write that nobody drained yet. On a file the store said that it was well
/// until the next drain; on persistent memory data does not depend on it.
#[test]
fn a_growth_whose_fsync_fails_poisons_a_file_at_once() {
    let turn = Turn::take();
    for (media, index) in POOLS {
        for len in [2000, 100_000] {
            let directory = memory_dir();
            turn.arm(Terrain::Plain, None);
            let store =
                work::options(media, Terrain::Plain, index).open(directory.path().join("pool.fkv")).unwrap();
            let fault = Fault { site: CallSite::GrowSync, failure: FAILURES[0], for_ever: false, nth: 1 };
            turn.arm(Terrain::Plain, Some(fault));
            let stored = put_until_eio(&store, len);
            if media == MediaChoice::File {
                assert!(matches!(store.health(), Err(flatkv::Error::Poisoned(_))));
                let os = flatkv::WriteOptions::new().durability(flatkv::Durability::Os);
                let refused = store.put_with(&os, b"key", b"value");
                assert!(matches!(refused, Err(flatkv::Error::Poisoned(_))), "{refused:?}");
            } else {
                store.health().unwrap();
                store.put(&stored.to_le_bytes(), &vec![7; len]).unwrap();
            }
            (0..stored).for_each(|number| assert!(store.exists(&number.to_le_bytes()).unwrap()));
            turn.lift();
        }
    }
}

/// What can go wrong with a store through the mapping is asked for by calls that answer.
#[test]
fn an_os_write_whose_window_is_refused_is_written_by_a_call() {
    let turn = Turn::take();
    for site in [CallSite::Prefault, CallSite::FindHole] {
        let directory = memory_dir();
        turn.arm(Terrain::Plain, None);
        let path = directory.path().join("pool.fkv");
        let options = || {
            let options = work::options(MediaChoice::File, Terrain::Plain, IndexKind::Ordered);
            options.durability(flatkv::Durability::Os)
        };
        let store = options().open(&path).unwrap();
        turn.arm(Terrain::Plain, Some(Fault { site, failure: FAILURES[0], for_ever: true, nth: 1 }));
        (0..200_u32).for_each(|key| store.put(&key.to_le_bytes(), &[key as u8; 300]).unwrap());
        let (calls, struck) = turn.seen();
        assert!(struck > 0, "{site:?}: no window was asked for");
        let written = calls.iter().find(|(site, _)| *site == CallSite::Write).map_or(0, |(_, calls)| *calls);
        assert!(written >= 200, "{site:?}: {written} calls for 200 puts");
        turn.lift();
        drop(store);
        let store = options().open(&path).unwrap();
        for key in 0..200_u32 {
            assert_eq!(store.get(&key.to_le_bytes()).unwrap(), Some(vec![key as u8; 300]), "{site:?}");
        }
    }
}

/// A store whose free slots cannot be given back, or were and nobody knows how durably, goes on. When only the sync behind
/// a cut failed, the store took the file to be as long as before, and every growth failed from then on.
#[test]
fn what_fails_while_space_is_given_back_leaves_the_store_usable() {
    let turn = Turn::take();
    for (media, index) in POOLS {
        for site in [CallSite::Punch, CallSite::Shrink, CallSite::GiveBackSync] {
            let directory = memory_dir();
            turn.arm(Terrain::Plain, None);
            let store =
                work::options(media, Terrain::Plain, index).open(directory.path().join("pool.fkv")).unwrap();
            let put = |number: u32| store.put(&number.to_le_bytes(), &[7; 2000]);
            (0..40).for_each(|number| put(number).unwrap());
            // A segment in the middle becomes free.
            (0..20_u32).for_each(|number| assert!(store.delete(&number.to_le_bytes()).unwrap()));
            (0..6).for_each(|_| assert!(flatkv::testing::clean(&store).is_ok()));
            let failure = FAILURES[0];
            turn.arm(Terrain::Plain, Some(Fault { site, failure, for_ever: true, nth: 1 }));
            flatkv::testing::give_back(&store).unwrap();
            assert!(turn.seen().1 > 0, "{media:?}: {site:?} was not called");
            assert!(common::stat(&store, "give_back_failures") > 0, "{media:?}, {site:?}");
            if media == MediaChoice::File && site == CallSite::GiveBackSync {
                assert!(
                    matches!(store.health(), Err(flatkv::Error::Poisoned(_))),
                    "as after any failed sync"
                );
            } else {
                let surely =
                    |number| put(number).unwrap_or_else(|error| panic!("{media:?}, {site:?}: {error}"));
                (40..80).for_each(surely);
                (20..80_u32).for_each(|number| assert!(store.exists(&number.to_le_bytes()).unwrap()));
            }
            turn.lift();
        }
    }
}

#[test]
fn every_drain_fails_once_and_a_power_cut_after_the_next_open_loses_nothing() {
    for (kind, cache) in [
        (SimKind::File, PageCache::Kept),
        (SimKind::File, PageCache::FailedPagesDropped),
        (SimKind::Pm, PageCache::Kept),
    ] {
        let figures = failed_drain::sweep(kind, cache);
        let (drains, power_cuts) = (figures.drains, figures.power_cuts);
        report(&format!(
            "failed drains, {kind:?}, {cache:?}: {drains} drains, {power_cuts} power cuts, 0 lost"
        ));
        assert!(drains >= 40, "the workload has {drains} drains");
    }
}

/// The cleaner held the lock of a log while it drained what `os` writes had left there: their writers waited for the disk.
#[test]
fn a_writer_does_not_wait_for_the_cleaners_drain_of_its_log() {
    let _turn = Turn::take();
    let directory = memory_dir();
    let options = work::options(MediaChoice::File, Terrain::Plain, IndexKind::Ordered);
    let store = options.open(directory.path().join("pool.fkv")).unwrap();
    let os = flatkv::WriteOptions::new().durability(flatkv::Durability::Os);
    // The head has room for what is written meanwhile: a roll would wait for the disk.
    let put = |round: u32| store.put(&(round % 8).to_le_bytes(), &[round as u8; 900]).unwrap();
    (0..40).for_each(put);
    let rolls = common::stat(&store, "rolls");
    (40..80).take_while(|_| common::stat(&store, "rolls") == rolls).for_each(put);
    store.put_with(&os, b"before", b"1").unwrap();
    flatkv::testing::set_call_fault_hook(Some(held_drain::hook));
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            held_drain::hold_own();
            flatkv::testing::clean(&store).unwrap()
        });
        held_drain::wait_for_it();
        store.put_with(&os, b"meanwhile", b"2").unwrap();
        assert!(held_drain::let_go(), "the write waited until the drain was over");
        assert!(cleaner.join().unwrap() > 0, "segments were emptied");
    });
    for (key, value) in [(b"before".to_vec(), b"1"), (b"meanwhile".to_vec(), b"2")] {
        assert_eq!(store.get(&key).unwrap().as_deref(), Some(&value[..]));
    }
}
