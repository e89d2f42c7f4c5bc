//! Runs a history on a simulated medium and writes down what was begun and acknowledged at which event.

use crate::crash::history::{Act, History, Op, Random};
use crate::crash::model::{self, Allowed, End, HISTORY_KEYS, KEYS, State, Step, ValueId, World};
use crate::crash::subject::Subject;
use flatkv::testing::Site;
use flatkv::testing::sim::{Fault, PageCache, Recording, SimKind, SimMedia};
use flatkv::{Durability, Error, Result};
use std::sync::{Arc, mpsc};

/// Room for a pool of the test geometry.
pub const CAPACITY_BYTES: u64 = 512 << 10;
/// Puts after which a roll is given up; a head has 4 KiB, on files 8 KiB.
const ROLL_PUTS_MAX: usize = 12;
const ROLL_VALUE_BYTES: usize = 600;
/// Twelve such values fit neither a frame nor a segment.
const LARGE_BATCH_VALUE_BYTES: usize = 500;
const LARGE_BATCH_VALUE_BYTES_FILE: usize = 1000;
const BLOB_BYTES: usize = 6000;
const EIO: i32 = 5;

/// One life of a process: from opening the store to a crash or the end.
pub struct Session {
    pub recording: Recording,
    /// What may be recovered while the store is still being opened.
    pub initial: Allowed,
    /// Events when the store had been opened and read.
    pub observed: usize,
    /// What was read.
    pub base: State,
    pub steps: Vec<Step>,
    /// A drain failed, so pages may be clean that are not on the medium.
    pub drain_failed: bool,
    /// Segments that tidying freed.
    pub tidied: u64,
}

impl Session {
    /// What may be recovered after a crash behind `point` events.
    pub fn allowed(&self, point: usize) -> Allowed {
        if point < self.observed {
            return self.initial.clone();
        }
        let allowed = |end| model::allowed(&self.base, &self.steps, point, end);
        Allowed { power_cut: allowed(End::PowerCut), kill: allowed(End::Kill) }
    }
}

/// Reads every key, and all of them by scans. `Err` names the key that failed, or bytes that nobody wrote.
pub fn observe<S: Subject>(store: &S, world: &World) -> Result<State, String> {
    let mut state = vec![0; KEYS];
    for (number, key) in world.keys.iter().enumerate() {
        match store.get(key) {
            Err(error) => return Err(format!("get of key {number} failed: {error}")),
            Ok(None) => {}
            Ok(Some(bytes)) => {
                let head = &bytes[..bytes.len().min(16)];
                let known = world.identify(&bytes);
                state[number] = known.ok_or_else(|| {
                    format!("key {number} has {} bytes that nobody wrote, beginning {head:02x?}", bytes.len())
                })?;
            }
        }
    }
    check_scan(store, world, &state)?;
    Ok(state)
}

/// Scans, where the store has them, show what gets do.
fn check_scan<S: Subject>(store: &S, world: &World, state: &State) -> Result<(), String> {
    let Some(scanned) = store.scan()? else { return Ok(()) };
    let numbered = world.keys.iter().zip(state).filter(|(_, value)| **value != 0);
    let mut expected: Vec<_> = numbered.map(|(key, value)| (key.as_slice(), world.value(*value))).collect();
    expected.sort_unstable();
    let is_same = scanned.iter().map(|(key, value)| (&key[..], &value[..])).eq(expected.iter().copied());
    if is_same {
        return Ok(());
    }
    Err(format!("a scan shows {} entries where gets show {}, or others", scanned.len(), expected.len()))
}

/// A thread that does what it is sent, so that a history has two writers and yet one order.
struct SecondWriter {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl SecondWriter {
    fn start() -> SecondWriter {
        let (jobs, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || inbox.iter().for_each(|job| job()));
        SecondWriter { jobs }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || {
            let _ = answer.send(job());
        });
        self.jobs.send(job).expect("the second writer runs as long as there is a driver");
        result.recv().expect("the second writer did not panic")
    }
}

/// An open store, the model beside it, and the session so far.
pub struct Driver<'w, S> {
    world: &'w mut World,
    media: Arc<SimMedia>,
    store: Arc<S>,
    second: Option<SecondWriter>,
    initial: Allowed,
    observed: usize,
    base: State,
    steps: Vec<Step>,
    /// What the store shows now.
    view: State,
    last_key: usize,
    /// Picks keys, if the last one shall not be used.
    random: Option<Random>,
    poisoned: bool,
    drain_failed: bool,
    tidied: u64,
}

impl<'w, S: Subject> Driver<'w, S> {
    /// Opens the store; it must then show one of the states that `initial` allows after a kill.
    pub fn open(world: &'w mut World, media: SimMedia, initial: Allowed) -> Result<Self, String> {
        let media = Arc::new(media);
        let store = S::open(media.clone(), world.index).map_err(|error| format!("open failed: {error}"))?;
        let view = observe(&store, world)?;
        if !initial.kill.contains(&view) {
            return Err(model::difference(&view, &initial.kill));
        }
        Ok(Driver {
            world,
            store: Arc::new(store),
            second: None,
            initial,
            observed: media.event_count(),
            media,
            base: view.clone(),
            steps: Vec::new(),
            view,
            last_key: 0,
            random: None,
            poisoned: false,
            drain_failed: false,
            tidied: 0,
        })
    }

    /// Does one word of a history. `Kill` is not for here: it ends the session.
    pub fn act(&mut self, act: Act) -> Result<(), String> {
        let writer = act.writer;
        match act.op {
            Op::PutNew => {
                let key = self.absent_key();
                self.put(writer, key, 8 + 5 * (key % 3), Durability::Sync)
            }
            Op::OverwriteSame => {
                let key = self.present_key();
                let len = self.world.value(self.view[key]).len();
                self.put(writer, key, len, Durability::Sync)
            }
            Op::OverwriteLarger => {
                let key = self.present_key();
                let len = (2 * self.world.value(self.view[key]).len() + 40) % 1500;
                self.put(writer, key, len, Durability::Sync)
            }
            Op::PutBlob => {
                let key = self.absent_key();
                self.put(writer, key, BLOB_BYTES, Durability::Sync)
            }
            Op::OsPut => {
                let key = self.any_key();
                self.put(writer, key, 24, Durability::Os)
            }
            Op::Delete => {
                let key = self.present_key();
                let bytes = self.world.keys[key].clone();
                let was_there = self.view[key] != 0;
                let found = self.step(writer, vec![(key, 0)], move |store| store.delete(&bytes))?;
                match found {
                    Some(found) if found != was_there => Err(format!("delete of key {key} said {found}")),
                    _ => Ok(()),
                }
            }
            Op::Batch => {
                let (new, old) = (self.absent_key(), self.present_key());
                let gone = (0..HISTORY_KEYS).find(|key| self.view[*key] != 0 && *key != new && *key != old);
                let mut changes = vec![(new, self.world.add_value(20))];
                if old != new {
                    changes.push((old, self.world.add_value(33)));
                }
                changes.extend(gone.map(|gone| (gone, 0)));
                self.last_key = new;
                self.batch(writer, changes)
            }
            Op::BatchLarge => {
                let len = match self.media.sim_kind() {
                    SimKind::Pm => LARGE_BATCH_VALUE_BYTES,
                    SimKind::File => LARGE_BATCH_VALUE_BYTES_FILE,
                };
                let changes = (0..12).map(|key| (key, self.world.add_value(len + key))).collect();
                self.batch(writer, changes)
            }
            Op::Roll => self.roll(writer),
            Op::Sync => self.covering(writer, S::sync),
            Op::Idle => {
                let steps = self.steps.len();
                self.step(writer, Vec::new(), S::idle)?;
                self.steps.truncate(steps);
                Ok(())
            }
            Op::Clean => {
                let steps = self.steps.len();
                self.step(writer, Vec::new(), S::clean)?;
                self.steps.truncate(steps);
                Ok(())
            }
            Op::Tidy => {
                let steps = self.steps.len();
                self.tidied += self.step(writer, Vec::new(), S::tidy_up)?.unwrap_or(0);
                self.steps.truncate(steps);
                Ok(())
            }
            Op::GiveBack => {
                let steps = self.steps.len();
                self.step(writer, Vec::new(), S::give_back)?;
                self.steps.truncate(steps);
                Ok(())
            }
            Op::Reopen => self.reopen(),
            Op::FailDrain => {
                self.media.inject(Fault::Drain { nth: 1, times: 1 });
                let (key, before) = (self.any_key(), self.steps.len());
                self.put(writer, key, 24, Durability::Sync)?;
                self.media.inject(Fault::Drain { nth: 0, times: 0 });
                if self.steps.len() == before {
                    return Ok(()); // Refused before it came to the drain.
                }
                if self.steps[before].ack.is_some() {
                    return Err("a put was acknowledged although its drain failed".into());
                }
                self.poisoned = true;
                self.drain_failed = true;
                Ok(())
            }
            Op::FailWrite => {
                self.media.inject(Fault::Write { nth: 1, times: 1, errno: EIO, kept_bytes: 40 });
                let key = self.any_key();
                let result = self.put(writer, key, 90, Durability::Sync);
                self.media.inject(Fault::Write { nth: 0, times: 0, errno: EIO, kept_bytes: 0 });
                result
            }
            Op::Kill => unreachable!("a kill ends the session"),
        }
    }

    /// A put of any history or of the work after a recovery.
    pub fn put_value(
        &mut self,
        writer: usize,
        key: usize,
        value: ValueId,
        durability: Durability,
    ) -> Result<(), String> {
        let (bytes, value_bytes) = (self.world.keys[key].clone(), self.world.value(value).to_vec());
        let done =
            self.step(writer, vec![(key, value)], move |store| store.put(&bytes, &value_bytes, durability))?;
        if done.is_some() && durability == Durability::Os {
            self.steps.last_mut().expect("the step just made").is_sync = false;
        }
        Ok(())
    }

    pub fn delete_key(&mut self, key: usize) -> Result<(), String> {
        let bytes = self.world.keys[key].clone();
        self.step(0, vec![(key, 0)], move |store| store.delete(&bytes)).map(drop)
    }

    pub fn view(&self) -> &State {
        &self.view
    }

    fn put(&mut self, writer: usize, key: usize, len: usize, durability: Durability) -> Result<(), String> {
        let value = self.world.add_value(len);
        self.last_key = key;
        self.put_value(writer, key, value, durability)
    }

    fn batch(&mut self, writer: usize, changes: Vec<(usize, ValueId)>) -> Result<(), String> {
        let bytes = |value: ValueId| (value != 0).then(|| self.world.value(value).to_vec());
        let batch: Vec<_> =
            changes.iter().map(|(key, value)| (self.world.keys[*key].clone(), bytes(*value))).collect();
        self.step(writer, changes, move |store| store.write(&batch)).map(drop)
    }

    fn roll(&mut self, writer: usize) -> Result<(), String> {
        let rolls = |media: &SimMedia| {
            let counters = media.counters();
            counters.drains_at(Site::SealDrain) + counters.drains_at(Site::ActiveDrain)
        };
        let before = rolls(&self.media);
        for _ in 0..ROLL_PUTS_MAX {
            let key = self.any_key();
            self.put(writer, key, ROLL_VALUE_BYTES, Durability::Sync)?;
            if self.poisoned || rolls(&self.media) != before {
                break;
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.covering(0, S::close)?;
        self.store = Arc::new(
            S::open(self.media.clone(), self.world.index)
                .map_err(|error| format!("open after close failed: {error}"))?,
        );
        self.check_view("after close and open")
    }

    /// A call that makes durable what was acknowledged before.
    fn covering(
        &mut self,
        writer: usize,
        call: impl FnOnce(&S) -> Result<()> + Send + 'static,
    ) -> Result<(), String> {
        if self.step(writer, Vec::new(), call)?.is_some() {
            self.steps.last_mut().expect("the step just made").covers_all = true;
        }
        Ok(())
    }

    /// Makes a change and writes it down. `None`: it was refused or failed.
    fn step<T: Send + 'static>(
        &mut self,
        writer: usize,
        changes: Vec<(usize, ValueId)>,
        call: impl FnOnce(&S) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>, String> {
        let begin = self.media.event_count();
        let result = if writer == 0 {
            call(&self.store)
        } else {
            let store = Arc::clone(&self.store);
            self.second.get_or_insert_with(SecondWriter::start).run(move || call(&store))
        };
        let mut step = Step { writer, changes, begin, ack: None, is_sync: true, covers_all: false };
        match result {
            Ok(answer) if self.poisoned && !step.changes.is_empty() => {
                drop(answer);
                Err("a write was acknowledged after a failed persist".into())
            }
            Ok(answer) => {
                step.ack = Some(self.media.event_count());
                model::apply(&mut self.view, &step);
                let changed: Vec<_> = step.changes.iter().map(|(key, _)| *key).collect();
                self.steps.push(step);
                self.check_keys(&changed, "after a write")?;
                Ok(Some(answer))
            }
            Err(Error::NoSpace { .. } | Error::TooLarge { .. }) => Ok(None),
            Err(Error::Poisoned(_)) if self.has_failed() => {
                self.poisoned = true;
                Ok(None)
            }
            Err(Error::Io { .. }) => {
                self.steps.push(step);
                Ok(None)
            }
            Err(error) => Err(format!("step {} failed: {error}", self.steps.len())),
        }
    }

    fn has_failed(&self) -> bool {
        self.steps.iter().any(|step| step.ack.is_none())
    }

    fn check_keys(&self, keys: &[usize], when: &str) -> Result<(), String> {
        for key in keys {
            let found = self
                .store
                .get(&self.world.keys[*key])
                .map_err(|error| format!("get failed {when}: {error}"))?;
            let expected = (self.view[*key] != 0).then(|| self.world.value(self.view[*key]));
            if found.as_deref() != expected {
                let found = found.map(|bytes| self.world.identify(&bytes));
                return Err(format!(
                    "{when}, key {key} shows {found:?} instead of value {}",
                    self.view[*key]
                ));
            }
        }
        Ok(())
    }

    /// Accounts are exact whenever nothing happens; a poisoned store has lost count of what failed.
    pub fn verify(&self) -> Result<(), String> {
        if self.poisoned || self.has_failed() { Ok(()) } else { self.store.verify() }
    }

    fn check_view(&self, when: &str) -> Result<(), String> {
        self.check_keys(&(0..KEYS).collect::<Vec<_>>(), when)
    }

    fn absent_key(&mut self) -> usize {
        let absent: Vec<_> = (0..HISTORY_KEYS).filter(|key| self.view[*key] == 0).collect();
        match &mut self.random {
            _ if absent.is_empty() => self.any_key(),
            Some(random) => absent[random.below(absent.len() as u64) as usize],
            None => absent[0],
        }
    }

    fn present_key(&mut self) -> usize {
        let present: Vec<_> = (0..HISTORY_KEYS).filter(|key| self.view[*key] != 0).collect();
        match &mut self.random {
            _ if present.is_empty() => self.any_key(),
            Some(random) => present[random.below(present.len() as u64) as usize],
            None if self.view[self.last_key] != 0 => self.last_key,
            None => present[0],
        }
    }

    fn any_key(&mut self) -> usize {
        match &mut self.random {
            Some(random) => random.below(HISTORY_KEYS as u64) as usize,
            None => self.last_key,
        }
    }

    /// Switches the power off and returns what happened.
    pub fn finish(self) -> Session {
        Session {
            recording: self.media.power_off(),
            initial: self.initial,
            observed: self.observed,
            base: self.base,
            steps: self.steps,
            drain_failed: self.drain_failed,
            tidied: self.tidied,
        }
    }
}

/// A pool with a few keys that was closed, and what is in it.
pub fn closed_pool<S: Subject>(world: &mut World, kind: SimKind) -> Result<(Vec<u8>, State), String> {
    let mut driver =
        Driver::<S>::open(world, SimMedia::new(kind, CAPACITY_BYTES), Allowed::only(vec![0; KEYS]))?;
    for op in [Op::PutNew, Op::PutNew, Op::PutNew, Op::PutNew, Op::OverwriteLarger] {
        driver.act(Act { op, writer: 0 })?;
    }
    driver.covering(0, S::close)?;
    let state = driver.view.clone();
    let media = Arc::clone(&driver.media);
    drop(driver);
    Ok((media.view(), state))
}

/// Runs a history: one session, and one more after each kill.
pub fn run<S: Subject>(world: &mut World, history: &History, seed: u64) -> Result<Vec<Session>, String> {
    let (mut media, mut initial) = if history.creates {
        let media = if history.in_place { SimMedia::new_in_place } else { SimMedia::new };
        (media(history.kind, CAPACITY_BYTES), Allowed::only(vec![0; KEYS]))
    } else {
        let (image, state) = closed_pool::<S>(world, history.kind)?;
        (SimMedia::from_image(history.kind, &image, CAPACITY_BYTES), Allowed::only(state))
    };
    let mut sessions = Vec::new();
    let mut acts = history.acts.iter();
    loop {
        let mut driver = Driver::<S>::open(world, media, initial)?;
        driver.random = history.random_keys.then(|| Random::new(seed ^ sessions.len() as u64));
        driver.last_key = (0..HISTORY_KEYS).rfind(|key| driver.view[*key] != 0).unwrap_or(0);
        let mut killed = false;
        for act in acts.by_ref() {
            // Whether a failed step happened is settled by the next process, not by closing.
            killed = act.op == Op::Kill || (act.op == Op::Reopen && driver.has_failed());
            if killed {
                break;
            }
            driver.act(*act)?;
        }
        driver.check_view("at the end of the history")?;
        driver.verify()?;
        let session = driver.finish();
        if !killed {
            sessions.push(session);
            return Ok(sessions);
        }
        let point = session.recording.last_point();
        let mut replay = session.recording.replay();
        replay.advance_to(point);
        media = SimMedia::after_kill(&replay, PageCache::Kept);
        initial = session.allowed(point);
        drop(replay);
        sessions.push(session);
    }
}
