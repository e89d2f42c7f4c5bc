//! Histories of writers that really run at once. The medium records the order in which their events happened; every crash
//! of that order is then tried as for histories of one order.
//!
//! The oracle is durable linearizability, which is local: it holds if it holds for each writer's own keys together and for
//! each shared key. Of its own keys a writer leaves what a prefix of its steps made, not shorter than what was
//! acknowledged. A shared key holds a value that no acknowledged later write replaced.

use crate::crash::history::{History, Random};
use crate::crash::model::End;
use flatkv::testing;
use flatkv::testing::sim::{Level, PageCache, Recording, Seen, SimKind, SimMedia};
use flatkv::{CommitPolicy, Durability, Error, Store, WriteBatch, WriteOptions};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Barrier};

const CAPACITY_BYTES: u64 = 1 << 20;
const OWN_KEYS: usize = 3;
const SHARED_KEYS: usize = 2;
const STEPS: usize = 14;
const LEVELS: [(Level, u64); 4] = [(Level::A, 6), (Level::B, 6), (Level::C, 6), (Level::D, 2)];

type Value = Option<Vec<u8>>;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    pub kind: SimKind,
    pub writers: usize,
    pub logs: usize,
    pub grouped: bool,
    pub seed: u64,
}

/// One call of a writer: events before it began, and after it returned.
#[derive(Clone, Debug)]
struct Step {
    changes: Vec<(Vec<u8>, Value)>,
    begin: usize,
    ack: usize,
    is_sync: bool,
    covers_all: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub points: u64,
    pub images: u64,
    pub states: u64,
    /// Points at which two writers had begun and not returned.
    pub at_once: u64,
}

fn own_key(writer: usize, number: usize) -> Vec<u8> {
    format!("own-{writer}-{number}").into_bytes()
}

fn shared_key(number: usize) -> Vec<u8> {
    format!("shared-{number}").into_bytes()
}

impl Threads {
    fn open(&self, media: &Arc<SimMedia>) -> Result<Store, Error> {
        let mut options = testing::with_logs(testing::options(), self.logs);
        options = options.index(History::nth_index(self.kind, self.seed));
        if self.kind == SimKind::File {
            options = options.segment_size_bytes(8192);
        }
        if self.grouped {
            options = options.commit(CommitPolicy::Grouped);
        }
        testing::open_on(media.clone(), options)
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        let own =
            (0..self.writers).flat_map(|writer| (0..OWN_KEYS).map(move |number| own_key(writer, number)));
        own.chain((0..SHARED_KEYS).map(shared_key)).collect()
    }

    /// Runs the writers and returns what each did, and what the medium saw.
    fn run(&self) -> (Vec<Vec<Step>>, Recording) {
        let media = Arc::new(SimMedia::new(self.kind, CAPACITY_BYTES));
        let store = self.open(&media).expect("creates");
        media.pause_before_events();
        let start = Barrier::new(self.writers);
        let lanes = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.writers)
                .map(|writer| {
                    let (store, media, start) = (&store, &*media, &start);
                    scope.spawn(move || {
                        start.wait();
                        write(store, media, writer, self.seed)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no writer panics")).collect()
        });
        let recording = media.power_off();
        drop(store);
        (lanes, recording)
    }

    /// Runs the writers, and crashes them at every event.
    pub fn sweep(&self, tally: &mut Tally) -> Result<(), String> {
        let (lanes, recording) = self.run();
        let mut replay = recording.replay();
        let (mut known, mut bytes) = (Seen::default(), Seen::default());
        // Creation is swept by itself.
        let first = lanes.iter().flatten().map(|step| step.begin).min().unwrap_or(0);
        for point in first..=recording.last_point() {
            replay.advance_to(point);
            tally.points += 1;
            tally.at_once +=
                u64::from(lanes.iter().filter(|lane| lane.iter().any(|s| is_running(s, point))).count() > 1);
            let fail = |image: String, what: String| {
                let event = recording.describe(point);
                format!(
                    "{self:?}, event {point} of {}, {image}: {what}\n  next event: {event}\n  steps: {lanes:#?}",
                    recording.last_point()
                )
            };
            for (level, limit) in LEVELS {
                for image in replay.images(level, limit, self.seed) {
                    if known.is_new(&image, expectation(&lanes, point)) {
                        tally.images += u64::from(bytes.is_new(&image, 0));
                        let name = format!("{level:?}.{limit}.{}", image.id().number);
                        self.crashed(SimMedia::from_crash(&image), &lanes, point, End::PowerCut, tally)
                            .map_err(|what| fail(name, what))?;
                    }
                }
            }
            let media = SimMedia::after_kill(&replay, PageCache::Kept);
            self.crashed(media, &lanes, point, End::Kill, tally).map_err(|what| fail("kill".into(), what))?;
        }
        Ok(())
    }

    /// Opens what a crash left, compares, works, cuts the power and opens again.
    fn crashed(
        &self,
        media: SimMedia,
        lanes: &[Vec<Step>],
        point: usize,
        end: End,
        tally: &mut Tally,
    ) -> Result<(), String> {
        tally.states += 2;
        let media = Arc::new(media);
        let store = self.open(&media).map_err(|error| format!("open failed: {error}"))?;
        let mut found = self.read(&store)?;
        check(&found, lanes, point, end)?;
        for (number, key) in [b"new".to_vec(), shared_key(0)].into_iter().enumerate() {
            let value = vec![number as u8; 40];
            store.put(&key, &value).map_err(|error| format!("a put after recovery: {error}"))?;
            found.retain(|(known, _)| *known != key);
            found.push((key, Some(value)));
        }
        let recording = media.power_off();
        drop(store);
        let mut replay = recording.replay();
        replay.advance_to(recording.last_point());
        let image = replay.images(Level::C, 64, self.seed).nth_image(0);
        let media = Arc::new(SimMedia::from_crash(&image));
        let store = self.open(&media).map_err(|error| format!("second open failed: {error}"))?;
        for (key, value) in &found {
            let now = store.get(key).map_err(|error| error.to_string())?;
            if now != *value {
                return Err(format!("the second recovery differs in {}", String::from_utf8_lossy(key)));
            }
        }
        media.power_off();
        Ok(())
    }

    fn read(&self, store: &Store) -> Result<Vec<(Vec<u8>, Value)>, String> {
        let get = |key: Vec<u8>| match store.get(&key) {
            Ok(value) => Ok((key, value)),
            Err(error) => Err(format!("get of {} failed: {error}", String::from_utf8_lossy(&key))),
        };
        self.keys().into_iter().map(get).collect()
    }
}

fn is_running(step: &Step, point: usize) -> bool {
    step.begin < point && step.ack > point
}

/// What one writer does: calls that `seed` picks, each written down.
fn write(store: &Store, media: &SimMedia, writer: usize, seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed ^ (writer as u64) << 32);
    let mut steps = Vec::new();
    for number in 0..STEPS {
        let value = |len: usize| {
            let mut bytes = format!("{writer}.{number}|").into_bytes();
            bytes.resize(len.max(bytes.len()), writer as u8);
            Some(bytes)
        };
        let own = own_key(writer, random.below(OWN_KEYS as u64) as usize);
        let shared = shared_key(random.below(SHARED_KEYS as u64) as usize);
        let (changes, durability) = match random.below(16) {
            0..4 => (vec![(own, value(30))], Durability::Sync),
            4..6 => (vec![(own, value(700))], Durability::Sync),
            6..8 => (vec![(own, value(24))], Durability::Os),
            8..9 => (vec![(own, None)], Durability::Sync),
            9..10 => (vec![(own, value(6000))], Durability::Sync),
            10..12 => {
                let mut changes: Vec<_> = (1..OWN_KEYS).map(|n| (own_key(writer, n), value(50))).collect();
                changes.push((own_key(writer, 0), None));
                (changes, Durability::Sync)
            }
            12..15 => (vec![(shared, value(60))], Durability::Sync),
            _ => (vec![], Durability::Sync),
        };
        let begin = media.event_count();
        let result = match &changes[..] {
            [] => store.sync(),
            [(key, None)] => store.delete(key).map(drop),
            [(key, Some(value))] => store.put_with(&WriteOptions::new().durability(durability), key, value),
            several => {
                let mut batch = WriteBatch::new();
                for (key, value) in several {
                    let added = match value {
                        Some(value) => batch.put(key, value),
                        None => batch.delete(key),
                    };
                    added.expect("short");
                }
                store.write(&batch)
            }
        };
        result.expect("there is room and nothing fails");
        let (is_sync, covers_all) = (durability == Durability::Sync, changes.is_empty());
        steps.push(Step { changes, begin, ack: media.event_count(), is_sync, covers_all });
    }
    steps
}

/// How many steps of a writer must be there, and may be there, after a crash at `point`.
fn bounds(lane: &[Step], lanes: &[Vec<Step>], point: usize, end: End) -> (usize, usize) {
    let last = |is: &dyn Fn(&Step) -> bool| lane.iter().rposition(is).map_or(0, |at| at + 1);
    let own = last(&|step| step.ack <= point && (step.is_sync || end == End::Kill));
    let syncs = lanes.iter().flatten().filter(|step| step.covers_all && step.ack <= point);
    // At equal numbers of events nobody knows which call was first.
    let covered = syncs.map(|sync| last(&|step| step.ack < sync.begin)).max().unwrap_or(0);
    (own.max(covered), last(&|step| step.begin < point || step.ack <= point))
}

fn expectation(lanes: &[Vec<Step>], point: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    lanes.iter().for_each(|lane| bounds(lane, lanes, point, End::PowerCut).hash(&mut hasher));
    hasher.finish()
}

fn check(found: &[(Vec<u8>, Value)], lanes: &[Vec<Step>], point: usize, end: End) -> Result<(), String> {
    let shown = |key: &[u8]| &found.iter().find(|(known, _)| known == key).expect("all keys were read").1;
    for (writer, lane) in lanes.iter().enumerate() {
        let (must, may) = bounds(lane, lanes, point, end);
        let keys: Vec<_> = (0..OWN_KEYS).map(|number| own_key(writer, number)).collect();
        let fits = |cut: usize| {
            keys.iter().all(|key| {
                let newest = lane[..cut].iter().rev().flat_map(|step| &step.changes).find(|(k, _)| k == key);
                *shown(key) == newest.and_then(|(_, value)| value.clone())
            })
        };
        if !(must..=may).any(fits) {
            let found: Vec<_> = keys.iter().map(|key| (shown(key).as_ref()).map(|v| name(v))).collect();
            return Err(format!(
                "keys of writer {writer} show {found:?}: no state after {must} to {may} steps"
            ));
        }
    }
    for key in (0..SHARED_KEYS).map(shared_key) {
        let begun = |step: &&Step| step.begin < point || step.ack <= point;
        let writes: Vec<_> = lanes
            .iter()
            .flatten()
            .filter(begun)
            .filter(|step| step.changes.iter().any(|(k, _)| *k == key))
            .collect();
        let replaced = |old: &Step| writes.iter().any(|new| new.ack <= point && old.ack < new.begin);
        let is_right = match shown(&key) {
            None => writes.iter().all(|step| step.ack > point),
            shown => writes.iter().any(|step| step.changes[0].1 == *shown && !replaced(step)),
        };
        if !is_right {
            let found = shown(&key).as_ref().map(|value| name(value));
            return Err(format!("{} shows {found:?}", String::from_utf8_lossy(&key)));
        }
    }
    Ok(())
}

fn name(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == b'|').next().unwrap_or_default()).into_owned()
}
