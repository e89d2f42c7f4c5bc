//! What is done to a store while calls fail, and what has to hold whatever fails.

use crate::common;
use crate::faults::plan::{Fault, Terrain, Turn};
use flatkv::testing::{CallFault, CallSite};
use flatkv::{
    Durability, Error, IndexKind, MediaChoice, Options, Result, Snapshot, Store, WriteBatch, WriteOptions,
};
use std::path::Path;
use std::time::{Duration, Instant};

pub const KEYS: usize = 24;
/// On files a segment of 4 KiB has no room for anything but its own bookkeeping.
const SEGMENT_BYTES: u64 = 8192;
const SMALL_BYTES: usize = 40;
const ROLL_BYTES: usize = 1000;
const BLOB_BYTES: usize = 6000;

/// The keyspace of every fourth key.
const KEYSPACE: &str = "every fourth";

/// What the background thread is given to come to its first prefault.
const BACKGROUND_MAX: Duration = Duration::from_secs(5);

/// A key and its new value, if any.
pub type Change = (usize, Option<Vec<u8>>);
/// `Err` is a violation.
pub type Checked<T> = std::result::Result<T, String>;

/// The keys as they have to be read, and what may have happened besides.
pub struct Model {
    pub values: Vec<Option<Vec<u8>>>,
    /// Writes that failed: each happened wholly or not at all, which the next open decides.
    pub open_questions: Vec<Vec<Change>>,
    written: u32,
}

impl Model {
    pub fn new(keys: usize) -> Model {
        Model { values: vec![None; keys], open_questions: Vec::new(), written: 0 }
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.written += 1;
        (0..len as u32).map(|at| (self.written.wrapping_mul(31).wrapping_add(at / 3)) as u8).collect()
    }

    fn apply(values: &mut [Option<Vec<u8>>], changes: &[Change]) {
        changes.iter().for_each(|(key, value)| values[*key].clone_from(value));
    }

    /// Settles the open questions by what is found.
    pub fn settle(&mut self, found: Vec<Option<Vec<u8>>>) -> Checked<()> {
        for chosen in 0..1_u32 << self.open_questions.len() {
            let mut values = self.values.clone();
            let happened = self.open_questions.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1);
            happened.for_each(|(_, changes)| Model::apply(&mut values, changes));
            if values == found {
                self.values = found;
                self.open_questions.clear();
                return Ok(());
            }
        }
        let wrong: Vec<_> = (0..found.len()).filter(|key| self.values[*key] != found[*key]).collect();
        Err(format!(
            "keys {wrong:?} are not what was acknowledged, nor what {} failed writes explain",
            self.open_questions.len()
        ))
    }
}

/// What a drop of the keyspace changes.
fn without_keyspace() -> Vec<Change> {
    (0..KEYS).filter(|number| is_in_keyspace(*number)).map(|number| (number, None)).collect()
}

fn batch_of(store: &Store, changes: &[Change]) -> Result<WriteBatch> {
    let mut batch = WriteBatch::new();
    for (number, value) in changes {
        let space = space_of(store, *number)?;
        match value {
            Some(value) => batch.put_in(&space, &key(*number), value)?,
            None => batch.delete_in(&space, &key(*number))?,
        }
    }
    Ok(batch)
}

/// One run of the workload. An `Err` of its methods is a violation.
pub struct Work<'a> {
    turn: &'a Turn,
    path: &'a Path,
    media: MediaChoice,
    terrain: Terrain,
    /// Of the session.
    index: IndexKind,
    fault: Option<Fault>,
    model: Model,
    /// Makes other values of it, 0 those of the sweep.
    salt: u32,
    pub acknowledged: u64,
    pub reads: u64,
    pub errors: u64,
    pub poisonings: u64,
    /// Segments that tidying freed.
    pub tidied: u64,
}

fn key(number: usize) -> Vec<u8> {
    format!("key {number:02}").into_bytes()
}

fn is_in_keyspace(number: usize) -> bool {
    number % 4 == 3
}

/// The handle that a key is written with: its keyspace is made if it is not there.
fn space_of(store: &Store, number: usize) -> Result<Store> {
    if is_in_keyspace(number) { store.keyspace(KEYSPACE) } else { Ok(store.clone()) }
}

fn get(store: &Store, number: usize) -> Result<Option<Vec<u8>>> {
    if !is_in_keyspace(number) {
        return store.get(&key(number));
    }
    store.find_keyspace(KEYSPACE)?.map_or(Ok(None), |keyspace| keyspace.get(&key(number)))
}

pub fn options(media: MediaChoice, terrain: Terrain, index: IndexKind) -> Options {
    let options = if terrain == Terrain::Background {
        Options::new().head_size_bytes(8192)
    } else {
        flatkv::testing::options()
    };
    options.media(media).segment_size_bytes(SEGMENT_BYTES).index(index)
}

impl<'a> Work<'a> {
    pub fn new(
        turn: &'a Turn,
        path: &'a Path,
        media: MediaChoice,
        terrain: Terrain,
        fault: Option<Fault>,
        salt: u32,
    ) -> Self {
        let (model, index) = (Model::new(KEYS), IndexKind::Ordered);
        let (acknowledged, reads, errors, poisonings, tidied) = (0, 0, 0, 0, 0);
        Work {
            turn,
            path,
            media,
            terrain,
            index,
            fault,
            model,
            salt,
            acknowledged,
            reads,
            errors,
            poisonings,
            tidied,
        }
    }

    /// The whole life of a pool: created, written, closed, read, opened, dropped without a close, recovered, closed; then
    /// once more without faults.
    pub fn run(&mut self) -> Checked<()> {
        for session in 0..4 {
            if session == 3 && self.terrain == Terrain::Full {
                self.turn.lift();
            }
            self.index = self.nth_index(session);
            if session == 1 {
                self.read_only()?;
            }
            let Some(store) = self.open(&format!("open of session {session}"))? else { break };
            self.check(&store, true, "after open")?;
            if session == 0 {
                self.everything(&store)?;
            } else {
                self.a_little(&store, session)?;
            }
            self.contend(&store)?;
            self.give_background_a_chance();
            // The third is dropped as if the process had ended.
            if session != 2 {
                let closed = store.close();
                self.judge("close", &closed, store.health().is_err())?;
            }
        }
        self.turn.lift();
        for (round, session) in [("without faults", 4), ("after a clean close", 5)] {
            self.index = self.nth_index(session);
            let store = self.open_surely(round)?;
            self.check(&store, true, round)?;
            for number in 0..KEYS {
                let bytes = self.model.value(SMALL_BYTES);
                self.write(&store, "put", vec![(number, Some(bytes))], false)?;
            }
            self.check(&store, false, round)?;
            store.close().map_err(|error| format!("close {round}: {error}"))?;
        }
        Ok(())
    }

    /// On a busy machine the background thread may not get to what only it does before the session is over.
    fn give_background_a_chance(&self) {
        let is_wanted = self.fault.is_none_or(|fault| fault.site == CallSite::Prefault);
        let was_there = || self.turn.seen().0.iter().any(|(site, _)| *site == CallSite::Prefault);
        let until = Instant::now() + BACKGROUND_MAX;
        while self.terrain == Terrain::Background && is_wanted && !was_there() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn everything(&mut self, store: &Store) -> Checked<()> {
        for number in 0..8 {
            self.put(store, number, SMALL_BYTES)?;
        }
        self.put(store, 3, SMALL_BYTES)?;
        self.delete(store, 2)?;
        for number in 8..11 {
            let bytes = self.model.value(SMALL_BYTES);
            self.write(store, "os put", vec![(number, Some(bytes))], true)?;
        }
        self.covering(store, "sync", Store::sync)?;
        self.put(store, 11, BLOB_BYTES)?;
        self.batch(store, &[4, 5, 12], SMALL_BYTES)?;
        self.batch(store, &[6, 7, 13, 14, 15, 16, 17, 18], 500)?;
        self.batch(store, &[0, 19], BLOB_BYTES / 2)?;
        let held =
            (store.snapshot().map_err(|error| format!("snapshot: {error}"))?, self.model.values.clone());
        self.put_async(store)?;
        for round in 0..14 {
            self.put(store, 20 + round % 4, ROLL_BYTES)?;
        }
        self.drop_keyspace(store)?;
        self.put(store, 7, SMALL_BYTES)?;
        self.check_held(held)?;
        self.tidy_up(store)?;
        self.clean(store)?;
        self.give_back(store)?;
        self.delete(store, 11)?;
        self.put(store, 19, BLOB_BYTES)?;
        self.clean(store)?;
        let bytes = self.model.value(SMALL_BYTES);
        self.write(store, "os put", vec![(1, Some(bytes))], true)?;
        self.check(store, false, "before the close")
    }

    fn a_little(&mut self, store: &Store, session: u32) -> Checked<()> {
        let at = session as usize;
        self.put(store, at, SMALL_BYTES)?;
        self.put(store, 4 + at, BLOB_BYTES)?;
        let bytes = self.model.value(SMALL_BYTES);
        self.write(store, "os put", vec![(8 + at, Some(bytes))], true)?;
        self.delete(store, 12 + at)?;
        for round in 0..6 {
            self.put(store, 20 + round % 4, ROLL_BYTES)?;
        }
        self.clean(store)?;
        self.clear_keyspace(store)?;
        self.give_back(store)?;
        self.batch(store, &[1, 15, 16, 17], SMALL_BYTES)?;
        self.check(store, false, "before the end of a session")
    }

    /// Each kind of index has every second session, and the first one of every second fault.
    fn nth_index(&self, session: u32) -> IndexKind {
        let fault = self.fault.map_or(0, |fault| fault.nth + u32::from(fault.for_ever));
        if (fault + session).is_multiple_of(2) { IndexKind::Ordered } else { IndexKind::Hash }
    }

    fn options(&self) -> Options {
        options(self.media, self.terrain, self.index)
    }

    fn open(&mut self, what: &str) -> Checked<Option<Store>> {
        for _ in 0..2 {
            match self.options().open(self.path) {
                Ok(store) => return Ok(Some(store)),
                Err(error) => self.judge(what, &Err(error), false)?,
            }
        }
        // It fails for ever: what is in the pool is seen once it does not.
        Ok(None)
    }

    fn open_surely(&self, what: &str) -> Checked<Store> {
        self.options().open(self.path).map_err(|error| format!("open {what}: {error}"))
    }

    fn read_only(&mut self) -> Checked<()> {
        match self.options().read_only(true).open(self.path) {
            Ok(store) => self.check(&store, true, "read-only"),
            Err(Error::Io { errno: libc::ENOENT, .. }) if self.acknowledged == 0 => Ok(()),
            Err(Error::InvalidArgument(_) | Error::Incomplete(_)) if self.acknowledged == 0 => Ok(()),
            Err(error) => self.judge("read-only open", &Err(error), false),
        }
    }

    /// Somebody else wants the pool meanwhile.
    fn contend(&mut self, _held: &Store) -> Checked<()> {
        match self.options().open(self.path) {
            Err(Error::Locked(_)) => Ok(()),
            Err(error) => self.judge("open of a held pool", &Err(error), false),
            Ok(_) => Err("a pool that is held was opened".into()),
        }
    }

    fn put(&mut self, store: &Store, number: usize, len: usize) -> Checked<()> {
        let other = self.salt.rotate_left(self.model.written) as usize % len;
        let bytes = self.model.value(len - if self.salt == 0 { 0 } else { other });
        self.write(store, "put", vec![(number, Some(bytes))], false)
    }

    fn delete(&mut self, store: &Store, number: usize) -> Checked<()> {
        self.write(store, "delete", vec![(number, None)], false)
    }

    fn batch(&mut self, store: &Store, numbers: &[usize], len: usize) -> Checked<()> {
        let (gone, put) = numbers.split_first().expect("not empty");
        let mut changes = vec![(*gone, None)];
        for number in put {
            let bytes = self.model.value(len);
            changes.push((*number, Some(bytes)));
        }
        self.write(store, "batch", changes, false)
    }

    fn put_async(&mut self, store: &Store) -> Checked<()> {
        let mut accepted = Vec::new();
        for number in [2, 3, 4] {
            let bytes = self.model.value(SMALL_BYTES);
            let ticket = space_of(store, number).and_then(|store| store.put_async(&key(number), &bytes));
            match ticket {
                Ok(ticket) => accepted.push((ticket, vec![(number, Some(bytes))])),
                Err(error) if accepted.is_empty() => self.failed(store, "put_async", error, None)?,
                // What was accepted before may be visible already, or not yet: values are compared later.
                Err(error) => self.judge("put_async", &Err(error), store.health().is_err())?,
            }
        }
        for (ticket, changes) in accepted {
            match store.wait(ticket) {
                Ok(()) => self.acknowledge(&changes),
                Err(error) => self.failed(store, "wait", error, Some(changes))?,
            }
        }
        Ok(())
    }

    fn write(&mut self, store: &Store, what: &str, changes: Vec<Change>, os: bool) -> Checked<()> {
        let with = WriteOptions::new().durability(if os { Durability::Os } else { Durability::Sync });
        let was_poisoned = store.health().is_err();
        let result = match (&changes[..], what) {
            ([(number, Some(value))], _) => {
                space_of(store, *number).and_then(|store| store.put_with(&with, &key(*number), value))
            }
            ([(number, None)], _) => space_of(store, *number)
                .and_then(|store| store.delete_with(&with, &key(*number)))
                .map(|found| {
                    assert_eq!(found, self.model.values[*number].is_some(), "delete of key {number}");
                }),
            (changes, _) => batch_of(store, changes).and_then(|batch| store.write_with(&with, &batch)),
        };
        self.answered(store, what, changes, (was_poisoned, result))
    }

    /// What a write came to.
    fn answered(
        &mut self,
        store: &Store,
        what: &str,
        changes: Vec<Change>,
        (was_poisoned, result): (bool, Result<()>),
    ) -> Checked<()> {
        match result {
            Ok(()) if was_poisoned => Err(format!("{what} was acknowledged by a poisoned store")),
            Ok(()) => {
                self.acknowledge(&changes);
                Ok(())
            }
            Err(error) => self.failed(store, what, error, Some(changes)),
        }
    }

    /// Every fourth key goes at once.
    fn drop_keyspace(&mut self, store: &Store) -> Checked<()> {
        let was_poisoned = store.health().is_err();
        let result = store.drop_keyspace(KEYSPACE).map(drop);
        self.answered(store, "drop", without_keyspace(), (was_poisoned, result))
    }

    fn clear_keyspace(&mut self, store: &Store) -> Checked<()> {
        let was_poisoned = store.health().is_err();
        let result = match store.find_keyspace(KEYSPACE) {
            Ok(None) => return Ok(()),
            found => found.and_then(|keyspace| keyspace.expect("it is there").clear()),
        };
        self.answered(store, "clear", without_keyspace(), (was_poisoned, result))
    }

    /// A snapshot shows what there was, whatever failed since and whatever was dropped.
    fn check_held(&mut self, (snapshot, values): (Snapshot, Vec<Option<Vec<u8>>>)) -> Checked<()> {
        let wrong = |error: Error| format!("a held snapshot: {error}");
        let keyspace = snapshot.keyspace(KEYSPACE).map_err(wrong)?;
        for (number, value) in values.iter().enumerate() {
            self.reads += 1;
            let shown = match &keyspace {
                Some(keyspace) if is_in_keyspace(number) => keyspace.get(&key(number)),
                None if is_in_keyspace(number) => Ok(None),
                _ => snapshot.get(&key(number)),
            };
            if shown.map_err(wrong)? != *value {
                return Err(format!("a held snapshot shows another value of key {number}"));
            }
        }
        if self.index == IndexKind::Ordered {
            let there = values.iter().enumerate().filter(|(number, _)| !is_in_keyspace(*number));
            let expected = there.filter_map(|(number, value)| Some((key(number), value.clone()?)));
            let shown: Result<Vec<_>> = snapshot.iter().map_err(wrong)?.collect();
            if !shown.map_err(wrong)?.into_iter().eq(expected) {
                return Err("a scan of a held snapshot shows something else".into());
            }
        }
        Ok(())
    }

    fn covering(&mut self, store: &Store, what: &str, call: impl Fn(&Store) -> Result<()>) -> Checked<()> {
        match call(store) {
            Ok(()) => Ok(()),
            Err(error) => self.failed(store, what, error, None),
        }
    }

    /// Everything that is sealed is moved, and its segments are freed.
    fn clean(&mut self, store: &Store) -> Checked<()> {
        self.covering(store, "clean", |store| flatkv::testing::clean(store).map(drop))
    }

    /// Segments go that hold next to nothing. Nobody is told what failed meanwhile, but that the store is poisoned.
    fn tidy_up(&mut self, store: &Store) -> Checked<()> {
        let was_poisoned = store.health().is_err();
        let freed = || common::stat(store, "cleaner.segments_freed");
        let before = freed();
        flatkv::testing::tidy_up(store);
        self.tidied += freed() - before;
        let health = store.health();
        self.judge("tidying", &health, health.is_err())?;
        if let (false, Err(Error::Poisoned(why))) = (was_poisoned, &health) {
            self.poisoned(store, "tidying", why)?;
        }
        self.check(store, false, "after tidying")
    }

    /// All free slots are holes, or cut off.
    fn give_back(&mut self, store: &Store) -> Checked<()> {
        self.covering(store, "give back", |store| flatkv::testing::give_back(store).map(drop))
    }

    fn acknowledge(&mut self, changes: &[Change]) {
        self.acknowledged += 1;
        Model::apply(&mut self.model.values, changes);
    }

    /// A write failed: the error is a documented one, reads go on, and the store says what state it is in.
    fn failed(
        &mut self,
        store: &Store,
        what: &str,
        error: Error,
        changes: Option<Vec<Change>>,
    ) -> Checked<()> {
        let health = store.health();
        self.judge(what, &Err(error.clone()), health.is_err())?;
        match (&health, &error) {
            (Err(Error::Poisoned(why)), Error::Io { .. }) => {
                self.model.open_questions.extend(changes);
                self.poisoned(store, what, why)?;
            }
            (Err(Error::Poisoned(_)), Error::Poisoned(_)) => {}
            // Refused, and nothing was changed: the full device lets deletes through.
            (Ok(()), Error::NoSpace { .. } | Error::TimedOut(_) | Error::Io { .. }) => {
                if !matches!(error, Error::Io { .. }) && what != "delete" {
                    let number = (0..KEYS).rfind(|number| self.model.values[*number].is_some());
                    if let Some(number) = number {
                        self.delete(store, number)?;
                    }
                }
            }
            (health, error) => return Err(format!("{what} failed with {error}, health {health:?}")),
        }
        self.check(store, false, &format!("after a failed {what}"))
    }

    /// A call poisoned the store: it may have, the store says why, and refuses writes.
    fn poisoned(&mut self, store: &Store, what: &str, why: &str) -> Checked<()> {
        if why.is_empty() {
            return Err(format!("{what}: poisoned, and health does not say why"));
        }
        if self.fault.is_some_and(|fault| fault.is_of_a_growth()) {
            return Err(format!("{what}: poisoned by a growth that failed: {why}"));
        }
        self.poisonings += 1;
        match store.put(&key(0), b"refused") {
            Err(Error::Poisoned(_)) => Ok(()),
            other => Err(format!("a put on a poisoned store gave {other:?}")),
        }
    }

    /// Whether an error is one that the documentation promises for this fault.
    fn judge(&mut self, what: &str, result: &Result<()>, is_poisoned: bool) -> Checked<()> {
        let Err(error) = result else { return Ok(()) };
        self.errors += 1;
        let injected = match self.fault.map(|fault| fault.failure.fault) {
            Some(CallFault::Errno(errno)) => errno,
            _ => 0,
        };
        let hidden = self.fault.is_none_or(|fault| fault.is_hidden() || fault.is_of_a_hint());
        let is_full = injected == libc::ENOSPC || injected == libc::EDQUOT || self.terrain == Terrain::Full;
        match error {
            Error::NoSpace { .. } if is_full && (!hidden || self.terrain == Terrain::Full) => Ok(()),
            // A failed mapping leaves the address space behind it in doubt: no growth until the next open.
            Error::NoSpace { limit, .. } if limit.contains("reopen") && injected != 0 => Ok(()),
            // The same on a busy machine: the cleaner was still at it when the wait was over.
            Error::TimedOut(why)
                if why.contains("reopen") && injected != 0 && self.terrain == Terrain::Background =>
            {
                Ok(())
            }
            _ if hidden => Err(format!("{what}: {error}, though nobody should notice this fault")),
            Error::Io { errno, .. } if *errno == injected => Ok(()),
            Error::Poisoned(_) if is_poisoned || what == "close" => Ok(()),
            error => Err(format!("{what}: undocumented error {error:?}")),
        }
    }

    /// Every key reads as it must. After an open, failed writes may turn out to have happened.
    fn check(&mut self, store: &Store, is_fresh: bool, when: &str) -> Checked<()> {
        let mut found = Vec::with_capacity(KEYS);
        for number in 0..KEYS {
            self.reads += 1;
            found.push(get(store, number).map_err(|error| format!("{when}: get of key {number}: {error}"))?);
        }
        if is_fresh {
            return self.model.settle(found).map_err(|error| format!("{when}: {error}"));
        }
        match (0..KEYS).find(|number| found[*number] != self.model.values[*number]) {
            None => Ok(()),
            Some(number) => Err(format!("{when}: key {number} is not what was acknowledged last")),
        }
    }
}
