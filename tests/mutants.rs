//! Mutants: every flush and drain of the engine, every check of a checksum, and every rule of what readers are shown that has a
//! name, is left out in turn, and one of the suites must notice. What can be left out unnoticed is not needed, and is removed.
//!
//! Flushes and drains are left out of the crash suite's histories; so are checks, and those that only rot can fool are left
//! out of the bit-rot pool. The list that is printed says what noticed, after how many states.

mod common;
#[allow(dead_code, reason = "shared with the crash suite")]
mod crash {
    pub mod history;
    pub mod model;
    pub mod run;
    pub mod subject;
    pub mod sweep;
    pub mod tally;
}
#[allow(dead_code, reason = "shared with the bit-rot suite")]
mod rot {
    pub mod check;
    pub mod ends;
    pub mod pool;
}

use crash::history::History;
use crash::subject::{KeyspacePerKey, Subject, options};
use crash::sweep::{LIMITS_CI, LIMITS_LONG, LIMITS_WIDE, Sweep};
use flatkv::testing::format::{
    Digest, SEGMENT_BODY_OFFSET, STATE_WORD_OFFSET, SUPERBLOCK_BYTES, SegmentHeader, SegmentSeed,
    SegmentSlot, SegmentState, StateWord, Superblock,
};
use flatkv::testing::sim::{Level, SimKind, SimMedia};
use flatkv::testing::{self, CheckSite, Rule, Site};
use flatkv::{CommitPolicy, Durability, Error, IndexKind, Result, Store, WriteBatch, WriteOptions};
use rot::check::{self, Tally, Terms};
use rot::ends::Resumed;
use rot::pool::{CAPACITY_BYTES, End, HEAD_BYTES, Pool, SEGMENT_BYTES};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEED: u64 = 0x5eed;
const EACH_MAX: Duration = Duration::from_secs(60);
const ALL_MAX: Duration = Duration::from_secs(300);

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    Site(Site),
    /// Bytes written past the caches are not flushed.
    WriteThrough,
    Check(CheckSite),
    Rule(Rule),
}

thread_local! {
    static MUTANT: Cell<Mutant> = const { Cell::new(Mutant::None) };
}

/// FlatKV without what [`MUTANT`] names.
struct Mutated(Store);

impl Subject for Mutated {
    fn open(media: Arc<SimMedia>, index: IndexKind) -> Result<Self> {
        let mut options = options(&media, index);
        testing::skip_check(None);
        match MUTANT.get() {
            Mutant::None => {}
            Mutant::Site(site) => {
                if site == Site::GroupDrain {
                    options = options.commit(CommitPolicy::Grouped);
                }
                media.skip_site(Some(site));
            }
            Mutant::WriteThrough => media.skip_write_through(true),
            Mutant::Check(check) => testing::skip_check(Some(check)),
            Mutant::Rule(_) => unreachable!("rules are left out by those who look"),
        }
        testing::open_on(media, options).map(Mutated)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        Subject::put(&self.0, key, value, durability)
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        self.0.delete(key)
    }

    fn write(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        Subject::write(&self.0, changes)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn idle(&self) -> Result<()> {
        testing::mark_idle(&self.0)
    }

    fn clean(&self) -> Result<()> {
        testing::clean(&self.0).map(drop)
    }

    fn tidy_up(&self) -> Result<u64> {
        Subject::tidy_up(&self.0)
    }

    fn give_back(&self) -> Result<()> {
        testing::give_back(&self.0).map(drop)
    }

    fn close(&self) -> Result<()> {
        self.0.close()
    }
}

fn mutated(media: Arc<SimMedia>) -> Result<Mutated> {
    Mutated::open(media, IndexKind::Ordered)
}

/// One writer rolls a head whose data nobody drained, and another one, whose drains do not cover the first one's, goes on.
fn rolls_without_drains(os_puts_of_another: usize) -> String {
    let puts = [vec!["os"; 48], vec!["os@2"; os_puts_of_another]].concat();
    format!("pm:{}", puts.join(","))
}

/// The histories that are tried, the likely ones first.
fn histories(mutant: Mutant) -> Vec<String> {
    let first: &[&str] = match mutant {
        Mutant::Site(Site::UndrainedFlush | Site::SyncDrain) => &["pm:os,os@2,sync"],
        Mutant::Site(Site::SealDrain) => return vec![rolls_without_drains(96)],
        Mutant::Site(Site::FooterDrain) => return vec![rolls_without_drains(0)],
        Mutant::Site(Site::BatchDrain) => &["pm:bigbatch"],
        Mutant::Site(Site::BlobFlush | Site::BlobDrain) => &["pm:blob"],
        Mutant::Site(Site::OpenHeaderDrain | Site::OpenSegmentFlush | Site::OpenSegmentDrain) => {
            &["pm:blob", "pm:blob,blob"]
        }
        Mutant::Site(Site::HeadDrain | Site::ActiveFlush | Site::SealFlush) => &["pm:roll"],
        Mutant::Site(Site::ActiveDrain) => &["pm:kill,kill", "pm:kill,kill,kill"],
        Mutant::Site(Site::IdleDrain | Site::MarkDrain) => &["pm:os,idle"],
        Mutant::Site(Site::CloseDrain | Site::CloseMarkDrain) => &["pm:os,reopen", "file:os,reopen"],
        Mutant::Site(Site::FreeFlush | Site::FreeDrain | Site::UnlistedFlush | Site::UnlistedDrain) => {
            &["pm:kill,kill,roll@2", "pm:kill,kill,kill,roll@2"]
        }
        Mutant::Site(
            Site::HolderFlush
            | Site::HolderDrain
            | Site::FirstSuperblockDrain
            | Site::MagicFlush
            | Site::MagicDrain,
        ) => &["pm-new-device:"],
        Mutant::Site(Site::AdoptFlush | Site::AdoptDrain) => &["pm:put", "pm:os,kill,put"],
        Mutant::Site(Site::SurvivorDrain) => &["pm:roll,clean", "pm:roll,clean,put,clean@2"],
        Mutant::Site(Site::MovedChunkFlush | Site::MovedChunkDrain | Site::MovedOwnerDrain) => {
            &["pm:blob,clean", "pm:roll,clean,blob,clean", "pm:blob,clean,put,clean"]
        }
        Mutant::Site(Site::SuperblockDrain) => &["pm:put"],
        _ => &["pm:put"],
    };
    let then = [
        "pm:put",
        "file:put",
        "pm:os,kill,put,kill,delete",
        "pm:roll,roll",
        "file-hash:roll,delete,roll,reopen",
        "pm:blob,kill,larger,batch",
    ];
    first.iter().copied().chain(then).map(String::from).collect()
}

/// What noticed, and after how many states.
struct Kill {
    by: String,
    states: u64,
}

fn killed_by_crashes(mutant: Mutant, end: Instant) -> Option<Kill> {
    let mut states = 0;
    let wide = |history: &History| if history.acts.len() < 2 { LIMITS_WIDE } else { LIMITS_CI };
    let all: Vec<(String, History)> = histories(mutant)
        .into_iter()
        .map(|line| (line.clone(), line.parse().expect("well-formed")))
        .collect();
    // A few images of each crash kill most of them.
    let few = all.iter().map(|(line, history)| (line, history, LIMITS_LONG));
    let many = all.iter().map(|(line, history)| (line, history, wide(history)));
    for (line, history, limits) in few.chain(many) {
        let mut sweep = Sweep::<Mutated>::new(SEED);
        let failure = sweep.history(history, limits).err();
        states += sweep.tally.states;
        if let Some(failure) = failure {
            let place = failure
                .place
                .map_or(String::new(), |at| format!(" POINT={}.{} IMAGE={}", at.session, at.point, at.image));
            let what = failure.what.lines().next().unwrap_or_default().to_string();
            return Some(Kill { by: format!("{line}{place}: {what}"), states });
        }
        if Instant::now() > end {
            break;
        }
    }
    None
}

/// A creation in place was cut off; the next one is told to make a smaller pool head, so that what the first one left
/// lies in a slot of its own.
fn killed_by_other_geometry() -> Option<Kill> {
    let media = SimMedia::new_in_place(SimKind::Pm, CAPACITY_BYTES);
    let media = Arc::new(media);
    drop(testing::open_on(media.clone(), testing::options().head_size_bytes(16 << 10)).expect("creates"));
    let recording = media.power_off();
    let (mut replay, mut states) = (recording.replay(), 0);
    for point in recording.points() {
        replay.advance_to(point);
        for image in replay.images(Level::A, 16, SEED) {
            let second = Arc::new(SimMedia::from_crash(&image));
            let Ok(store) = mutated(second.clone()) else { continue };
            drop(store);
            let recording = second.power_off();
            let mut replay = recording.replay();
            replay.advance_to(recording.last_point());
            for image in replay.images(Level::A, 16, SEED) {
                states += 1;
                if let Err(error) =
                    testing::open_on(Arc::new(SimMedia::from_crash(&image)), testing::options())
                {
                    return Some(Kill {
                        by: format!("a second creation with a smaller head: {error}"),
                        states,
                    });
                }
            }
        }
    }
    None
}

/// Power cuts in the recovery of a killed store, then a second writer that needs the slot which that recovery freed.
fn killed_by_second_writer() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = testing::open_on(media.clone(), testing::options()).expect("creates");
    store.put(b"key", b"value").expect("room");
    for _ in 0..2 {
        testing::kill(&testing::open_on(media.clone(), testing::options()).expect("opens"));
    }
    let image = media.view();
    let first = Arc::new(SimMedia::from_image(SimKind::Pm, &image, CAPACITY_BYTES));
    drop(testing::open_on(first.clone(), testing::options()).expect("opens"));
    let recording = first.power_off();
    let (mut replay, mut states) = (recording.replay(), 0);
    for point in recording.points() {
        replay.advance_to(point);
        for image in replay.images(Level::A, 8, SEED) {
            let second = Arc::new(SimMedia::from_crash(&image));
            let store = mutated(second.clone()).expect("the image is sound").0;
            let writer = store.clone();
            let write =
                move || (0..8_u32).for_each(|n| writer.put(&n.to_le_bytes(), &[7; 600]).expect("room"));
            std::thread::spawn(write).join().expect("the writer ends");
            let recording = second.power_off();
            let mut replay = recording.replay();
            for point in recording.points() {
                replay.advance_to(point);
                for image in replay.images(Level::A, 8, SEED) {
                    states += 1;
                    let third = Arc::new(SimMedia::from_crash(&image));
                    let shown =
                        testing::open_on(third, testing::options()).and_then(|store| store.get(b"key"));
                    if !matches!(&shown, Ok(Some(value)) if value == b"value") {
                        let by = format!(
                            "a second writer in a slot that recovery freed, event {point}: {shown:?}"
                        );
                        return Some(Kill { by, states });
                    }
                }
            }
        }
    }
    None
}

/// A writer opens extent segments for a batch that does not fit after all; another one uses them, whose drain does not
/// cover what the first one flushed.
fn killed_by_refused_blob() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = mutated(media.clone()).expect("creates").0;
    let mut batch = WriteBatch::new();
    batch.put(b"opens a segment", &[1; 1500]).expect("short");
    batch.put(b"does not fit", &vec![1; 200_000]).expect("short");
    assert!(matches!(store.write(&batch), Err(Error::NoSpace { .. })));
    let writer = store.clone();
    let put = move || writer.put(b"key", &[2; 1500]).expect("room");
    std::thread::spawn(put).join().expect("the writer ends");
    let recording = media.power_off();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    for (states, image) in (1..).zip(replay.images(Level::A, 64, SEED)) {
        let found = testing::open_on(Arc::new(SimMedia::from_crash(&image)), testing::options())
            .and_then(|store| store.get(b"key"));
        if !matches!(&found, Ok(Some(value)) if value[..] == [2; 1500]) {
            let found = found.map(|value| value.map(|bytes| bytes.len()));
            return Some(Kill {
                by: format!("a blob in a segment that another writer opened: {found:?}"),
                states,
            });
        }
    }
    None
}

/// An idle log has marked its last frame as durable, the power fails, and then the frame rots.
fn killed_by_rot_behind_a_mark() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = mutated(media.clone()).expect("creates");
    store.0.put(b"key", b"old").expect("room");
    store.0.put(b"key", b"a new value").expect("room");
    store.idle().expect("marks");
    let recording = media.power_off();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    let image = replay.images(Level::A, 1, SEED).nth_image(0);
    let mut bytes = SimMedia::from_crash(&image).view();
    let at = bytes.windows(11).position(|window| window == b"a new value").expect("it is there");
    bytes[at / 64 * 64..at / 64 * 64 + 64].fill(0xFF);
    let media = Arc::new(SimMedia::from_image(SimKind::Pm, &bytes, CAPACITY_BYTES));
    match mutated(media).expect("opens").get(b"key") {
        Err(Error::Corrupted { .. }) => None,
        shown => {
            Some(Kill { by: format!("rot of a frame that an idle log had marked: {shown:?}"), states: 1 })
        }
    }
}

/// A page shows what it held when its log was closed before.
fn killed_by_an_earlier_close(check: CheckSite) -> Option<Kill> {
    let mut tally = Tally::new();
    for sessions in rot::ends::SESSIONS {
        testing::skip_check(None);
        let resumed = Resumed::build(SimKind::Pm, sessions);
        testing::skip_check(Some(check));
        resumed.judge(&mut tally);
    }
    let what = tally.violations.first()?;
    Some(Kill { by: format!("an earlier close: {what}"), states: tally.opens })
}

/// A batch at durability `os` that is larger than a frame: its first parts lie in a sealed segment, its commit in caches.
/// The cleaner moves what is in that segment, and the power fails before the copies are drained.
fn killed_by_half_a_batch() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = mutated(media.clone()).expect("creates");
    // There is a survivor segment already: the drain that opens one would cover the commit.
    store.0.put(b"moves before", b"value").expect("room");
    (0..12_u8).for_each(|round| store.0.put(b"other", &[round; 500]).expect("room"));
    store.0.put(b"other", b"short").expect("room");
    assert!(testing::clean(&store.0).expect("the medium works") > 0, "a survivor segment is opened");
    let keys: Vec<[u8; 4]> = (0..12_u32).map(u32::to_le_bytes).collect();
    let mut batch = WriteBatch::new();
    // Of the segments with parts only the first key counts when they are cleaned: its copy is a line or two, so that many
    // images have all of it and not the commit.
    batch.put(&keys[0], b"moved").expect("short");
    keys[1..].iter().for_each(|key| batch.put(key, &[3; 500]).expect("short"));
    let written_at = media.event_count();
    let os = WriteOptions::new().durability(Durability::Os);
    store.0.write_with(&os, &batch).expect("room");
    keys[1..].iter().for_each(|key| store.0.put_with(&os, key, b"newer").expect("room"));
    let emptied = testing::clean(&store.0).expect("the medium works");
    assert!(emptied > 0, "parts lie in a sealed segment");
    let recording = media.power_off();
    let (mut replay, mut states) = (recording.replay(), 0);
    for point in recording.points().filter(|point| *point >= written_at) {
        replay.advance_to(point);
        for image in replay.images(Level::A, 64, SEED) {
            states += 1;
            let media = Arc::new(SimMedia::from_crash(&image));
            let found = testing::open_on(media, testing::options())
                .and_then(|store| keys.iter().map(|key| store.get(key)).collect::<Result<Vec<_>>>());
            let is_whole = |values: &Vec<Option<Vec<u8>>>| {
                values.iter().all(Option::is_some) || values.iter().all(Option::is_none)
            };
            if !found.as_ref().is_ok_and(is_whole) {
                let found = found.map(|values| values.iter().flatten().count());
                let by = format!("a moved part of a batch, event {point}: of {} keys {found:?}", keys.len());
                return Some(Kill { by, states });
            }
        }
    }
    None
}

/// The cleaner moved an entry; the digest that lets go of its segment came with the roll of another writer, whose drains do
/// not cover what the cleaner flushed. The power fails, and then the copy rots.
fn killed_by_rot_of_a_survivor() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = mutated(media.clone()).expect("creates");
    store.0.put(b"moved", b"a moved value").expect("room");
    for round in 0..40_u8 {
        store.0.put(b"overwritten", &[round; 500]).expect("room");
    }
    // The segment with what counts comes last.
    while testing::clean_without_roll(&store.0).expect("the medium works") > 0 {}
    assert!(!store.0.stats_json().contains("\"entries_moved\":0,"), "an entry lies among dead ones");
    let writer = store.0.clone();
    let rolls = move || (0..8_u8).for_each(|round| writer.put(b"other", &[round; 500]).expect("room"));
    std::thread::spawn(rolls).join().expect("the writer ends");
    let recording = media.power_off();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    for (states, image) in (1..).zip(replay.images(Level::A, 64, SEED)) {
        let mut bytes = SimMedia::from_crash(&image).view();
        let places: Vec<usize> =
            (0..bytes.len() - 13).filter(|at| &bytes[*at..*at + 13] == b"a moved value").collect();
        // The copy is the one behind the header of a survivor frame; the original's slot may be used again.
        places.iter().for_each(|at| bytes[at / 64 * 64..at / 64 * 64 + 64].fill(0xFF));
        let media = Arc::new(SimMedia::from_image(SimKind::Pm, &bytes, CAPACITY_BYTES));
        match testing::open_on(media, testing::options()).and_then(|store| store.get(b"moved")) {
            Err(Error::Corrupted { .. }) => {}
            shown => {
                return Some(Kill { by: format!("rot of what the cleaner moved: {shown:?}"), states });
            }
        }
    }
    None
}

/// The list of segments in the head was replaced by one that lacks a segment, and has the checksum of nothing.
fn killed_by_a_shorter_list() -> Option<Kill> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = mutated(media.clone()).expect("creates");
    store.0.put(b"kept", b"a value that is kept").expect("room");
    (0..16_u8).for_each(|round| store.0.put(b"other", &[round; 500]).expect("room"));
    store.0.close().expect("the medium works");
    let mut image = media.view();
    let at = image.windows(20).position(|bytes| bytes == b"a value that is kept").expect("it was written");
    let slot_of = |at: usize| SegmentSlot(((at as u64 - HEAD_BYTES) / SEGMENT_BYTES) as u32);
    let first: &[u8; SUPERBLOCK_BYTES] = image[..SUPERBLOCK_BYTES].try_into().expect("its length");
    let uuid = Superblock::decode(first, 0).expect("whole").uuid;
    let heads = (HEAD_BYTES as usize..image.len()).step_by(SEGMENT_BYTES as usize).filter(|start| {
        let at = start + STATE_WORD_OFFSET as usize;
        let word = u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
        StateWord::decode(word).is_some_and(|word| word.state == SegmentState::Active)
    });
    for start in heads.collect::<Vec<_>>() {
        let header = SegmentHeader::decode(&image[start..], &uuid, slot_of(start)).expect("a head");
        let body = start + SEGMENT_BODY_OFFSET as usize;
        let seed = SegmentSeed::new(&uuid, header.id);
        let (mut digest, _) = Digest::decode(&image[body..], seed, body as u64).expect("a list");
        digest.entries.retain(|entry| entry.slot != slot_of(at));
        let mut bytes = digest.encode(seed, body as u64);
        bytes[0] ^= 1;
        image[body..body + bytes.len()].copy_from_slice(&bytes);
    }
    let media = Arc::new(SimMedia::from_image(SimKind::Pm, &image, CAPACITY_BYTES));
    match mutated(media).and_then(|store| store.get(b"kept")) {
        Err(Error::Corrupted { .. }) => None,
        shown => Some(Kill { by: format!("a list of segments that lacks one: {shown:?}"), states: 1 }),
    }
}

fn killed_by_rot(check: CheckSite, end: Instant) -> Option<Kill> {
    testing::skip_check(None);
    let pool = Pool::build(SimKind::Pm, End::Closed);
    testing::skip_check(Some(check));
    let mut tally = Tally::new();
    let by = |suite: &str, tally: &Tally| {
        tally.violations.first().map(|what| Kill { by: format!("{suite}: {what}"), states: tally.opens })
    };
    let killed = check::rot_under_an_open_store(&pool, end, &mut tally);
    if let Some(kill) = killed.then(|| by("rot under an open store", &tally)).flatten() {
        return Some(kill);
    }
    check::lost_sectors(&pool, false, &mut tally);
    if let Some(kill) = by("a lost sector", &tally) {
        return Some(kill);
    }
    check::two_flips_in_keys(&pool, &mut tally);
    if let Some(kill) = by("two flipped bits", &tally) {
        return Some(kill);
    }
    check::forged_parts(&pool, &mut tally);
    if let Some(kill) = by("a forged part", &tally) {
        return Some(kill);
    }
    // First where the check has its bytes, in each segment: of all flips those are a small part.
    let likely = match check {
        CheckSite::SegmentHeader => 0..STATE_WORD_OFFSET,
        CheckSite::StateWord => STATE_WORD_OFFSET..STATE_WORD_OFFSET + 8,
        _ => 0..0,
    };
    let is_likely =
        |at: &u64| at.checked_sub(HEAD_BYTES).is_some_and(|at| likely.contains(&(at % SEGMENT_BYTES)));
    let (first, rest): (Vec<u64>, Vec<u64>) = (0..pool.image.len() as u64).partition(is_likely);
    for at in first.into_iter().chain(rest) {
        for bit in 0..8 {
            let flipped = [pool.image[at as usize] ^ 1 << bit];
            let hit = at..at + 1;
            let terms = Terms { refusal: false, single: true, blind_spot: false };
            check::try_image(&pool, pool.media.rotten(&[(at, &flipped)]), &hit, terms, &mut tally);
            if let Some(kill) = by("a flipped bit", &tally) {
                return Some(kill);
            }
        }
        if Instant::now() > end {
            break;
        }
    }
    None
}

/// Keyspaces that are dropped or cleared, and then looked for in a store that was opened again.
fn killed_by_dropped_keyspaces() -> Option<Kill> {
    let mut states = 0;
    for line in
        ["pm:delete,reopen", "pm:put,delete,kill,put,delete,reopen", "file:put,delete,put,delete,kill"]
    {
        let mut sweep = Sweep::<KeyspacePerKey>::new(SEED);
        let failure = sweep.history(&line.parse().expect("well-formed"), LIMITS_LONG).err();
        states += sweep.tally.states;
        if let Some(failure) = failure {
            return Some(Kill { by: format!("{line} of keyspaces: {}", failure.what), states });
        }
    }
    None
}

/// A snapshot of a few keys, some of which are written again, deleted or new since, shown by gets and by scans of a part of them.
fn killed_by_views() -> Option<Kill> {
    let store = testing::open_on(Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES)), testing::options());
    let store = store.expect("creates");
    let put = |keys: std::ops::Range<u8>, value: &[u8]| {
        keys.for_each(|key| store.put(&[key], value).expect("room"));
    };
    put(10..30, b"of then");
    let snapshot = store.snapshot().expect("it is open");
    put(25..40, b"of now");
    store.delete(&[12]).expect("room");
    let gets = (0..50).filter(|key| snapshot.get(&[*key]).expect("sound").as_deref() == Some(b"of then"));
    let gets: Vec<u8> = gets.collect();
    let new =
        (0..50).find(|key| snapshot.get(&[*key]).expect("sound").is_some_and(|value| value == b"of now"));
    if new.is_some() || gets != (10..30).collect::<Vec<_>>() {
        return Some(Kill { by: format!("gets at a snapshot: {gets:?}, new {new:?}"), states: 1 });
    }
    let mut iter = snapshot.iter().expect("ordered");
    iter.set_bounds(Some(&[11]), Some(&[28]));
    let shown: Vec<_> = iter.map(|entry| entry.expect("sound")).collect();
    let expected: Vec<_> = (11..28).map(|key| (vec![key], b"of then".to_vec())).collect();
    let by =
        || format!("a scan at a snapshot: {} entries instead of {}, or others", shown.len(), expected.len());
    (shown != expected).then(|| Kill { by: by(), states: 1 })
}

fn kill(mutant: Mutant) -> Option<Kill> {
    MUTANT.set(mutant);
    let end = Instant::now() + EACH_MAX;
    let killed = match mutant {
        Mutant::None => None,
        Mutant::Site(Site::MarkDrain) => killed_by_rot_behind_a_mark(),
        Mutant::Site(Site::OpenSegmentDrain) => killed_by_refused_blob(),
        Mutant::Site(Site::ClearFlush) => killed_by_other_geometry(),
        Mutant::Site(Site::UnlistedFlush | Site::UnlistedDrain) => killed_by_second_writer(),
        Mutant::Site(Site::VictimFlush | Site::VictimDrain) => killed_by_half_a_batch(),
        Mutant::Site(Site::SurvivorMarkDrain) => killed_by_rot_of_a_survivor(),
        Mutant::Site(_) | Mutant::WriteThrough => killed_by_crashes(mutant, end),
        Mutant::Check(check @ (CheckSite::Frame | CheckSite::Superblock)) => {
            killed_by_crashes(mutant, end).or_else(|| killed_by_rot(check, end))
        }
        Mutant::Check(CheckSite::Digest) => killed_by_a_shorter_list(),
        Mutant::Check(check @ CheckSite::ClosedEnds) => killed_by_an_earlier_close(check),
        Mutant::Check(check) => killed_by_rot(check, end),
        Mutant::Rule(rule) => {
            testing::leave_out(Some(rule));
            killed_by_dropped_keyspaces().or_else(killed_by_views)
        }
    };
    MUTANT.set(Mutant::None);
    testing::leave_out(None);
    testing::skip_check(None);
    killed
}

#[test]
fn every_flush_drain_check_and_rule_that_is_left_out_is_noticed() {
    let sites = Site::ALL.iter().map(|site| Mutant::Site(*site));
    let checks = CheckSite::ALL.iter().map(|check| Mutant::Check(*check));
    let rules = Rule::ALL.iter().map(|rule| Mutant::Rule(*rule));
    let mutants: Vec<_> = sites.chain([Mutant::WriteThrough]).chain(checks).chain(rules).collect();
    let wanted = std::env::var("MUTANT").unwrap_or_default();
    let (started, mut survivors) = (Instant::now(), Vec::new());
    let report = |line: String| {
        let _ = writeln!(std::io::stderr(), "{line}");
    };
    let chosen: Vec<_> = mutants.iter().filter(|mutant| format!("{mutant:?}").contains(&wanted)).collect();
    for mutant in &chosen {
        let begun = Instant::now();
        let killed = kill(**mutant);
        let seconds = begun.elapsed().as_secs_f64();
        match &killed {
            Some(kill) => {
                report(format!("{mutant:?} -> {} -> {} states, {seconds:.1} s", kill.by, kill.states))
            }
            None => report(format!("{mutant:?} -> SURVIVED, {seconds:.1} s")),
        }
        if killed.is_none() || begun.elapsed() > EACH_MAX {
            survivors.push(format!("{mutant:?}"));
        }
    }
    let (killed, seconds) = (chosen.len() - survivors.len(), started.elapsed().as_secs_f64());
    report(format!("mutants: {killed} of {} killed in {seconds:.1} s", chosen.len()));
    assert!(survivors.is_empty(), "not noticed within {EACH_MAX:?}: {survivors:?}");
    assert!(started.elapsed() < ALL_MAX, "all mutants together took {seconds:.1} s");
}

/// The special cases find nothing where nothing is left out.
#[test]
fn nothing_is_noticed_where_nothing_is_left_out() {
    assert!(killed_by_other_geometry().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_refused_blob().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_second_writer().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_half_a_batch().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_a_shorter_list().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_rot_of_a_survivor().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_dropped_keyspaces().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_views().is_none_or(|kill| panic!("{}", kill.by)));
    assert!(killed_by_rot_behind_a_mark().is_none_or(|kill| panic!("{}", kill.by)));
    let lines = ["pm:kill,kill,roll@2", "pm:os,idle", "pm-new-device:"].map(String::from);
    for line in lines.into_iter().chain([rolls_without_drains(0), rolls_without_drains(96)]) {
        if let Err(failure) =
            Sweep::<Mutated>::new(SEED).history(&line.parse().expect("well-formed"), LIMITS_CI)
        {
            panic!("{failure}");
        }
    }
}
