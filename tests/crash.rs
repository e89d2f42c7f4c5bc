//! Crash consistency: histories are crashed at every event, and what each crash leaves is opened, compared with what
//! was promised, worked on and crashed again. See `docs/CRASH_MODEL.md`.
//!
//! A failure prints one line that makes it happen again, `make crash SEED=.. HISTORY=.. POINT=.. IMAGE=..`, and the
//! keys that differ. The four words are environment variables; with `HISTORY` alone that history is swept.
//! `CRASH_LENGTH` is the length of the histories that are swept exhaustively (default 3; 2 in a build that is not
//! optimised), `CRASH_SECONDS` the time of `a_campaign_finds_nothing`.

mod common;
mod crash {
    pub mod history;
    pub mod model;
    pub mod run;
    pub mod subject;
    pub mod sweep;
    pub mod tally;
    pub mod threads;
    pub mod toy;
    pub mod unreadable;
}

use crash::history::{History, Op};
use crash::subject::{KeyspacePerKey, Subject};
use crash::sweep::{
    Failure, ImageName, LIMITS_CI, LIMITS_LONG, LIMITS_SHORT, LIMITS_WIDE, Limits, Place, Sweep,
};
use crash::tally::Tally;
use crash::threads::{self, Threads};
use crash::toy::{Toy, bug};
use crash::unreadable;
use flatkv::testing::sim::SimKind;
use flatkv::{IndexKind, Store};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const SEED: u64 = 0x5eed;
const KINDS: [SimKind; 2] = [SimKind::Pm, SimKind::File];
/// Distinct durable images that the short histories have to leave.
const IMAGES_MIN: u64 = 1_000_000;
/// A test gives up after so many histories that failed.
const FAILURES_MAX: u64 = 20;
/// Histories for what exhaustive enumeration of short ones does not reach.
const PICKED: &[&str] = &[
    "put,os@2,put",
    "os,os@2,sync",
    "os@2,larger,os,delete@2,sync@2",
    "os,batch@2",
    "put,kill,put",
    "os,kill,put,kill,delete",
    "faildrain,put,sync",
    "faildrain,kill,put",
    "put,faildrain@2,reopen,put,kill,same",
    "os,faildrain,kill,sync,os",
    "failwrite,kill,put",
    "roll,roll,roll",
    "roll,kill,roll,reopen,put",
    "roll,delete,roll,reopen",
    "bigbatch,bigbatch,kill,delete",
    "roll,bigbatch,reopen,batch",
    "blob,blob,delete,reopen",
    "blob,kill,larger,batch",
    "reopen,reopen,put",
    "reopen,reopen,reopen,reopen,reopen,put,reopen",
    "kill,kill,kill,put",
    "put,kill,kill,put,roll",
    "blob,kill,kill,delete,kill,roll,kill",
    "roll,kill,kill,roll,kill,kill,batch",
    "faildrain,kill,kill,os,kill,sync",
    "os,idle,put,idle",
    "kill,kill,roll@2",
    "roll,clean,put,clean,kill",
    "roll,roll,clean,kill,clean,delete,clean",
    "roll,larger,larger,delete,clean,roll,clean,reopen,clean",
    "roll,os,os@2,clean,kill,put,clean",
    "bigbatch,clean,bigbatch,clean,kill,clean",
    "bigbatch,roll,clean,clean,kill,delete,clean,reopen",
    "blob,roll,clean,delete,clean,blob,kill",
    "roll,delete,roll,delete,roll,clean,kill,clean,kill,clean",
    "roll,clean,clean@2,put,clean",
    "roll,delete,put,clean,roll,clean,delete,roll,clean,kill",
    "giveback,put,roll,kill,put",
    "roll,clean,giveback,put,kill,roll",
    "roll,roll,clean,clean,giveback,roll,clean,kill,giveback,roll",
    "blob,delete,clean,clean,giveback,blob,kill,larger",
    "roll,giveback,kill,put,roll,giveback,reopen,roll,roll",
    "roll,os,clean,giveback,faildrain,kill,put,roll",
    "bigbatch,clean,giveback,bigbatch,clean,giveback,kill,clean,roll",
    "blob,clean,clean,kill,clean,blob,clean",
    "blob,blob,clean,larger,clean,blob,delete,clean,reopen,clean",
    "roll,blob,clean,os,blob@2,clean,kill,clean,put",
    "blob,clean,blob,clean,same,blob,clean,kill,kill,clean",
    "roll,tidy,reopen,put",
    "roll,delete,roll,tidy,kill,put,tidy,reopen",
    "put,larger,delete,roll,delete,delete,roll,tidy,reopen,roll,tidy",
    "roll,delete,delete,clean,put,delete,roll,tidy,tidy,kill,roll,tidy",
    "roll,roll,clean,delete,delete,roll,tidy,reopen,put,delete,clean,tidy",
    "roll,os,os@2,tidy,kill,roll,tidy@2,put",
    "bigbatch,bigbatch,tidy,delete,roll,tidy,giveback,kill,batch",
    "roll,roll,faildrain,tidy,kill,tidy,roll,tidy",
];

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    let parsed =
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    Some(parsed.unwrap_or_else(|| panic!("{name}={text}: expected a number")))
}

fn seed() -> u64 {
    number("SEED").unwrap_or(SEED)
}

/// True if the environment names one history: the other tests then have nothing to do.
fn replaying() -> bool {
    variable("HISTORY").is_some()
}

/// Not captured, so that figures are seen in every log.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Shares the histories among the cores.
fn sweep<S: Subject>(name: &str, histories: impl Iterator<Item = History> + Send, limits: &Limits) -> Tally {
    let mut total = Tally::default();
    if replaying() {
        return total;
    }
    let queue = Mutex::new((histories, 0));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let work = || {
            let mut sweep = Sweep::<S>::new(seed());
            loop {
                let next = {
                    let mut queue = queue.lock().expect("nobody panics in here");
                    if queue.1 < FAILURES_MAX { queue.0.next() } else { None }
                };
                let Some(history) = next else { return sweep.tally };
                if let Err(failure) = sweep.history(&history, limits) {
                    report(&failure.to_string());
                    queue.lock().expect("nobody panics in here").1 += 1;
                }
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            total.merge(&thread.join().expect("failures are no panics"));
        }
    });
    let failures = queue.lock().expect("all threads ended").1;
    report(&format!("{name}: {total}, {failures} violations"));
    assert_eq!(failures, 0, "histories that failed; each printed the line that replays it");
    total
}

/// Tombstones beside the values that keep them, so many that tidying examines them by itself, at least where a frame takes no
/// whole sector: it then ends the head that they are in.
fn a_head_of_tombstones() -> String {
    format!("{},tidy,put,kill,roll,tidy,reopen,put", ["put,delete"; 16].join(","))
}

fn picked(kind: SimKind) -> impl Iterator<Item = History> {
    let prefix = if kind == SimKind::Pm { "pm:" } else { "file:" };
    PICKED.iter().copied().map(String::from).chain([a_head_of_tombstones()]).flat_map(move |words| {
        let picked: History = format!("{prefix}{words}").parse().expect("picked histories are well-formed");
        [0, 1].map(|number| History { index: History::nth_index(kind, number), ..picked.clone() })
    })
}

/// Every history of up to three operations, on either medium.
#[test]
fn short_histories_survive_every_crash() {
    if replaying() {
        return;
    }
    let length = number("CRASH_LENGTH").unwrap_or(if cfg!(debug_assertions) { 2 } else { 3 }) as u32;
    let mut total = Tally::default();
    for kind in KINDS {
        for len in 1..=length {
            let name = format!("all histories of length {len}, {kind:?}");
            total.merge(&sweep::<Store>(&name, History::all(kind, len), LIMITS_SHORT));
        }
    }
    report(&format!("all short histories: {total}, 0 violations"));
    assert!(
        length < 3 || total.images >= IMAGES_MIN,
        "{} distinct images are fewer than {IMAGES_MIN}",
        total.images
    );
}

/// Keyspaces are made, dropped and cleared wholly or not at all. The lines that this prints are replayed with `KEYSPACES=1`.
#[test]
fn keyspaces_that_come_and_go_survive_every_crash() {
    if replaying() {
        return;
    }
    let mut total = Tally::default();
    for kind in KINDS {
        let singles = History::singles(kind);
        total.merge(&sweep::<KeyspacePerKey>(&format!("keyspaces, single, {kind:?}"), singles, LIMITS_CI));
        let random = (0..2).map(|number| History::random(kind, 40, seed() + number));
        let histories = picked(kind).chain(random);
        total.merge(&sweep::<KeyspacePerKey>(&format!("keyspaces, {kind:?}"), histories, LIMITS_LONG));
    }
    report(&format!("keyspaces: {total}, 0 violations"));
}

/// With nearly every image that one operation can leave, and every second crash.
#[test]
fn single_operations_survive_every_crash() {
    for kind in KINDS {
        sweep::<Store>(&format!("single operations, {kind:?}"), History::singles(kind), LIMITS_WIDE);
    }
}

#[test]
fn picked_histories_survive_every_crash() {
    for kind in KINDS {
        let tally = sweep::<Store>(&format!("picked histories, {kind:?}"), picked(kind), LIMITS_CI);
        let is_tidied = |history: &History| history.acts.iter().any(|act| act.op == Op::Tidy);
        let tidied = picked(kind).filter(is_tidied).count() as u64;
        assert!(replaying() || tally.tidied >= tidied, "{kind:?}: {} segments were tidied up", tally.tidied);
    }
}

/// Writers that run at once. The order of their events is what the machine made of it, so only the calls repeat with a
/// seed; a failure prints the order.
#[test]
fn writers_that_run_at_once_survive_every_crash() {
    if replaying() {
        return;
    }
    let (mut tally, started, mut histories) = (threads::Tally::default(), Instant::now(), 0);
    for kind in KINDS {
        for (writers, logs, grouped) in
            [(2, 1, false), (2, 2, false), (3, 1, true), (3, 2, false), (4, 2, true), (4, 3, false)]
        {
            let at_once = tally.at_once;
            for number in 0..2 {
                let run = Threads { kind, writers, logs, grouped, seed: seed() + number };
                run.sweep(&mut tally).unwrap_or_else(|failure| panic!("{failure}"));
                histories += 1;
            }
            assert!(
                tally.at_once > at_once,
                "{kind:?}, {writers} writers, {logs} logs, grouped {grouped}: no two were ever at work at once"
            );
        }
    }
    report(&format!(
        "writers at once: {histories} histories, {} crash points ({} within calls of two writers), {} distinct images, \
         {} states in {:.1} s, 0 violations",
        tally.points,
        tally.at_once,
        tally.images,
        tally.states,
        started.elapsed().as_secs_f64()
    ));
}

#[test]
fn lines_that_nobody_can_read_after_a_crash_cost_only_what_they_hold() {
    if replaying() {
        return;
    }
    let (mut tally, started) = (unreadable::Tally::default(), Instant::now());
    for kind in KINDS {
        let random = (0..4).map(|number| History::random(kind, 24, seed() + number));
        for history in picked(kind).chain(random) {
            unreadable::sweep(&history, seed(), &mut tally).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    let unreadable::Tally { opens, refused, served, failed } = tally;
    report(&format!(
        "unreadable lines after a crash: {opens} opens, {refused} refused, {served} keys served, {failed} keys refused, \
         0 wrong values in {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    assert!(refused > 0 && failed > 0 && served > failed);
}

#[test]
fn a_crash_while_a_pool_is_created_leaves_no_pool_or_an_empty_one() {
    for kind in KINDS {
        // Files are created under no name; what is there already is a device.
        let ways = [false, kind == SimKind::Pm];
        let histories = ways.into_iter().flat_map(|in_place| {
            [0, 1].map(|number| {
                let index = History::nth_index(kind, number);
                History { kind, index, creates: true, in_place, random_keys: false, acts: Vec::new() }
            })
        });
        sweep::<Store>(&format!("creation, {kind:?}"), histories, LIMITS_WIDE);
    }
}

#[test]
fn long_random_histories_survive_every_crash() {
    for kind in KINDS {
        let histories = (0..4).map(move |number| History::random(kind, 60, seed() + number));
        sweep::<Store>(&format!("random histories, {kind:?}"), histories, LIMITS_LONG);
    }
}

/// Every line that ever failed, for good.
#[test]
fn crashes_that_failed_once_do_not_fail_again() {
    if !replaying() {
        for line in include_str!("crash_seeds.txt").lines().filter(|line| line.starts_with("make crash ")) {
            let word =
                |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            replay(word("SEED"), word("HISTORY"), word("POINT"), word("IMAGE"));
        }
    }
}

#[test]
fn the_crash_that_the_environment_names() {
    let words = ["SEED", "HISTORY", "POINT", "IMAGE"].map(variable);
    let [seed, history, point, image] = words.each_ref().map(Option::as_deref);
    if history.is_some() {
        replay(seed, history, point, image);
    }
}

fn replay(seed: Option<&str>, history: Option<&str>, point: Option<&str>, image: Option<&str>) {
    let seed = seed.map_or(SEED, |text| {
        let hex = text.trim_start_matches("0x");
        u64::from_str_radix(hex, if hex.len() < text.len() { 16 } else { 10 }).expect("SEED is a number")
    });
    let history: History =
        history.expect("HISTORY is given").parse().unwrap_or_else(|error| panic!("{error}"));
    if variable("KEYSPACES").is_some() {
        return replay_with::<KeyspacePerKey>(seed, &history, point, image);
    }
    replay_with::<Store>(seed, &history, point, image);
}

fn replay_with<S: Subject>(seed: u64, history: &History, point: Option<&str>, image: Option<&str>) {
    let mut sweep = Sweep::<S>::new(seed);
    let result = match (point, image) {
        (Some(point), Some(image)) => {
            let (session, point) = point.split_once('.').unwrap_or(("0", point));
            let place = Place {
                session: session.parse().expect("POINT is SESSION.EVENT"),
                point: point.parse().expect("POINT is SESSION.EVENT"),
                image: image.parse::<ImageName>().unwrap_or_else(|error| panic!("{error}")),
            };
            sweep.replay(history, place)
        }
        _ => sweep.history(history, LIMITS_CI),
    };
    result.unwrap_or_else(|failure| panic!("{failure}"));
    report(&format!("{history}: {}", sweep.tally));
}

/// For hours: random histories of growing length from ever new seeds, until `CRASH_SECONDS` are over.
#[test]
#[ignore = "a campaign: make crash-campaign"]
fn a_campaign_finds_nothing() {
    let end = Instant::now() + Duration::from_secs(number("CRASH_SECONDS").unwrap_or(600));
    let (mut current, mut lines) = (seed(), Instant::now());
    let mut total = Sweep::<Store>::new(current);
    while Instant::now() < end && !replaying() {
        for kind in KINDS {
            let len = 1 << (current % 7);
            let limits = if len <= 4 { LIMITS_WIDE } else { LIMITS_LONG };
            total.seed = current;
            total
                .history(&History::random(kind, len, current), limits)
                .unwrap_or_else(|failure| panic!("{failure}"));
        }
        current += 1;
        if lines.elapsed() > Duration::from_secs(60) {
            lines = Instant::now();
            report(&format!("campaign up to SEED={current:#x}: {}", total.tally));
        }
    }
    report(&format!("campaign from SEED={:#x} up to {current:#x}: {}, 0 violations", seed(), total.tally));
}

fn toy_failure<const BUG: u8>() -> Option<Failure> {
    for kind in KINDS {
        let mut sweep = Sweep::<Toy<BUG>>::new(SEED);
        let index = IndexKind::Ordered;
        let creation =
            History { kind, index, creates: true, in_place: false, random_keys: false, acts: Vec::new() };
        let random = (0..2).map(|number| History::random(kind, 30, number));
        for history in
            std::iter::once(creation).chain(History::singles(kind)).chain(picked(kind)).chain(random)
        {
            if let Err(failure) = sweep.history(&history, LIMITS_CI) {
                // What cannot be replayed cannot be repaired.
                if let Some(place) = failure.place {
                    let again = Sweep::<Toy<BUG>>::new(SEED).replay(&history, place).expect_err("replays");
                    assert_eq!(again.to_string(), failure.to_string());
                }
                return Some(failure);
            }
        }
        report(&format!("toy {BUG}, {kind:?}: {}", sweep.tally));
    }
    None
}

#[test]
fn a_toy_without_bugs_passes() {
    if let Some(failure) = toy_failure::<{ bug::NONE }>() {
        panic!("{failure}");
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    let found = [
        ("no drain", toy_failure::<{ bug::NO_DRAIN }>()),
        ("no flush", toy_failure::<{ bug::NO_FLUSH }>()),
        ("no adoption", toy_failure::<{ bug::NO_ADOPTION }>()),
        ("half an adoption", toy_failure::<{ bug::HALF_ADOPTION }>()),
        ("no checksum", toy_failure::<{ bug::NO_CHECKSUM }>()),
        ("split batch", toy_failure::<{ bug::SPLIT_BATCH }>()),
        ("early switch", toy_failure::<{ bug::EARLY_SWITCH }>()),
        ("hole", toy_failure::<{ bug::HOLE }>()),
        ("forgotten delete", toy_failure::<{ bug::FORGOTTEN_DELETE }>()),
        ("ignored error", toy_failure::<{ bug::IGNORED_ERROR }>()),
        ("no poison", toy_failure::<{ bug::NO_POISON }>()),
        ("wrong value", toy_failure::<{ bug::WRONG_VALUE }>()),
        ("no sync", toy_failure::<{ bug::NO_SYNC }>()),
    ];
    for (name, failure) in found {
        let failure = failure.unwrap_or_else(|| panic!("the bug \"{name}\" was not noticed"));
        report(&format!("{name}: {failure}"));
    }
}

#[test]
fn a_history_survives_being_written_down() {
    for kind in KINDS {
        for history in History::all(kind, 2).chain(picked(kind)).chain([History::random(kind, 200, 1)]) {
            assert_eq!(history.to_string().parse::<History>().unwrap(), history);
        }
    }
    assert!("pm:putt".parse::<History>().unwrap_err().contains("putt"));
}
