//! Crashes a history at every event, opens what each crash leaves, and goes on from there.

use crate::crash::history::{History, Random};
use crate::crash::model::{self, Allowed, HISTORY_KEYS, State, World};
use crate::crash::run::{self, Driver, Session, observe};
use crate::crash::subject::Subject;
use flatkv::Durability;
use flatkv::testing::sim::{CrashImage, Level, PageCache, Replay, Seen, SimMedia};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// Images per point at each level: all there are, or so many of them.
pub type Limits = [(Level, u64)];

/// For each history of continuous integration.
pub const LIMITS_CI: &Limits = &[(Level::A, 64), (Level::B, 32), (Level::C, 32), (Level::D, 4)];
/// For histories that are so short that nearly everything can be tried.
pub const LIMITS_WIDE: &Limits = &[(Level::A, 1024), (Level::B, 512), (Level::C, 1024), (Level::D, 64)];
/// For long histories.
pub const LIMITS_LONG: &Limits = &[(Level::A, 3), (Level::B, 3), (Level::C, 3), (Level::D, 1)];

/// Of so many images of a crash in a recovery, one is opened, crashed in *its* recovery and opened again.
const TWICE_IN: u64 = 4;
/// Images that are picked, besides the one that lost most, at each second crash after a kill.
const KILL_PICKS: u64 = 2;
/// Acknowledged events after a recovery: see `work`.
const WORK_PUTS: usize = 2;

/// Which image of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// After a power cut, the `number`-th of at most `limit`.
    PowerCut { level: Level, limit: u64, number: u64 },
    /// After the process was killed.
    Kill(PageCache),
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageName::PowerCut { level, limit, number } => write!(f, "{level:?}.{limit}.{number}"),
            ImageName::Kill(PageCache::Kept) => f.write_str("kill"),
            ImageName::Kill(PageCache::FailedPagesDropped) => f.write_str("kill-dropped"),
        }
    }
}

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<ImageName, String> {
        let expected = || format!("image {text:?}: expected LEVEL.LIMIT.NUMBER, kill or kill-dropped");
        match text {
            "kill" => return Ok(ImageName::Kill(PageCache::Kept)),
            "kill-dropped" => return Ok(ImageName::Kill(PageCache::FailedPagesDropped)),
            _ => {}
        }
        let parts: Vec<_> = text.split('.').collect();
        let [level, limit, number] = parts[..] else { return Err(expected()) };
        let level = match level {
            "A" => Level::A,
            "B" => Level::B,
            "C" => Level::C,
            "D" => Level::D,
            _ => return Err(expected()),
        };
        let parse = |text: &str| text.parse::<u64>().map_err(|_| expected());
        Ok(ImageName::PowerCut { level, limit: parse(limit)?, number: parse(number)? })
    }
}

/// One crash of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub session: usize,
    pub point: usize,
    pub image: ImageName,
}

/// Something that must not happen, and the line that makes it happen again.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub history: String,
    /// `None`: the history failed without any crash.
    pub place: Option<Place>,
    pub event: String,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make crash SEED={:#x} HISTORY={}", self.seed, self.history)?;
        if let Some(place) = self.place {
            write!(f, " POINT={}.{} IMAGE={}", place.session, place.point, place.image)?;
        }
        write!(f, "\n  {}", self.what)?;
        if self.place.is_some() {
            write!(f, "\n  next event: {}", self.event)?;
        }
        Ok(())
    }
}

/// What a sweep did.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    pub histories: u64,
    pub points: u64,
    /// Distinct images of the histories themselves.
    pub images: u64,
    /// Crash states that were opened and checked, those after a second and third crash included.
    pub states: u64,
    started: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { histories: 0, points: 0, images: 0, states: 0, started: Instant::now() }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.started.elapsed().as_secs_f64();
        let Tally { histories, points, images, states, .. } = self;
        let rate = *states as f64 / seconds;
        write!(
            f,
            "{histories} histories, {points} crash points, {images} images, {states} states in {seconds:.1} s: "
        )?;
        write!(f, "{rate:.0} states/s")
    }
}

/// Sweeps histories of one store.
pub struct Sweep<S> {
    pub seed: u64,
    pub tally: Tally,
    subject: PhantomData<S>,
}

impl<S: Subject> Sweep<S> {
    pub fn new(seed: u64) -> Sweep<S> {
        Sweep { seed, tally: Tally::default(), subject: PhantomData }
    }

    /// Runs `history`, crashes it everywhere and checks what is recovered.
    pub fn history(&mut self, history: &History, limits: &Limits) -> Result<(), Failure> {
        self.tally.histories += 1;
        let (mut world, sessions) = self.run(history)?;
        let mut seen = Seen::default();
        for (number, session) in sessions.iter().enumerate() {
            let mut replay = session.recording.replay();
            for point in session.recording.points() {
                replay.advance_to(point);
                self.tally.points += 1;
                self.point(&mut world, session, &replay, limits, &mut seen).map_err(|(image, what)| {
                    let event = session.recording.describe(point);
                    let place = Some(Place { session: number, point, image });
                    Failure { seed: self.seed, history: history.to_string(), place, event, what }
                })?;
            }
        }
        Ok(())
    }

    /// Makes one crash again.
    pub fn replay(&mut self, history: &History, place: Place) -> Result<(), Failure> {
        let (mut world, sessions) = self.run(history)?;
        let failure = |what: String, event: String| Failure {
            seed: self.seed,
            history: history.to_string(),
            place: Some(place),
            event,
            what,
        };
        let session =
            sessions.get(place.session).ok_or_else(|| failure("no such session".into(), String::new()))?;
        if !session.recording.points().contains(&place.point) {
            return Err(failure(format!("no such point: {:?}", session.recording.points()), String::new()));
        }
        let mut replay = session.recording.replay();
        replay.advance_to(place.point);
        let allowed = session.allowed(place.point);
        let (media, allowed) = match place.image {
            ImageName::Kill(cache) => (SimMedia::after_kill(&replay, cache), after_kill(allowed, cache)),
            ImageName::PowerCut { level, limit, number } => {
                let image = replay.images(level, limit, self.seed).nth_image(number);
                (SimMedia::from_crash(&image), allowed.after_power_cut())
            }
        };
        let event = session.recording.describe(place.point);
        let choice = self.choice(place.point, place.image);
        self.crashed(&mut world, media, allowed, place.image, choice).map_err(|what| Failure {
            seed: self.seed,
            history: history.to_string(),
            place: Some(place),
            event,
            what,
        })
    }

    fn run(&self, history: &History) -> Result<(World, Vec<Session>), Failure> {
        let mut world = World::new();
        let sessions = guarded(|| run::run::<S>(&mut world, history, self.seed)).map_err(|what| Failure {
            seed: self.seed,
            history: history.to_string(),
            place: None,
            event: String::new(),
            what,
        })?;
        Ok((world, sessions))
    }

    fn point(
        &mut self,
        world: &mut World,
        session: &Session,
        replay: &Replay<'_>,
        limits: &Limits,
        seen: &mut Seen,
    ) -> Result<(), (ImageName, String)> {
        let point = replay.point();
        let allowed = session.allowed(point);
        let expectation = model::expectation(&allowed.power_cut);
        for (level, limit) in limits {
            for image in replay.images(*level, *limit, self.seed) {
                if seen.is_new(&image, expectation) {
                    let name =
                        ImageName::PowerCut { level: *level, limit: *limit, number: image.id().number };
                    self.tally.images += 1;
                    let media = SimMedia::from_crash(&image);
                    let choice = self.choice(point, name);
                    self.crashed(world, media, allowed.clone().after_power_cut(), name, choice)
                        .map_err(|what| (name, what))?;
                }
            }
        }
        let mut kills = vec![PageCache::Kept];
        if session.drain_failed {
            kills.push(PageCache::FailedPagesDropped);
        }
        for cache in kills {
            let name = ImageName::Kill(cache);
            let choice = self.choice(point, name);
            let media = SimMedia::after_kill(replay, cache);
            self.crashed(world, media, after_kill(allowed.clone(), cache), name, choice)
                .map_err(|what| (name, what))?;
        }
        Ok(())
    }

    /// What later crashes of this one are picked by: the same when it is replayed.
    fn choice(&self, point: usize, image: ImageName) -> Random {
        let number = match image {
            ImageName::PowerCut { level, number, .. } => 4 * number + level as u64,
            ImageName::Kill(cache) => u64::MAX - cache as u64,
        };
        Random::new(self.seed ^ (point as u64) << 40 ^ number.rotate_left(8))
    }

    /// Opens what a crash left, works, and crashes again: in the recovery, behind it, in the work and at its end.
    fn crashed(
        &mut self,
        world: &mut World,
        media: SimMedia,
        allowed: Allowed,
        crash: ImageName,
        mut choice: Random,
    ) -> Result<(), String> {
        self.tally.states += 1;
        let start = media.event_count();
        let session = guarded(|| {
            let mut driver = Driver::<S>::open(world, media, allowed)?;
            work(&mut driver).map_err(|what| format!("at work after the recovery: {what}"))?;
            Ok(driver.finish())
        })?;
        let (observed, last) = (session.observed, session.recording.last_point());
        let recovery = (observed - start).max(1);
        let in_recovery = match crash {
            ImageName::PowerCut { .. } => vec![start + choice.below(recovery as u64) as usize],
            // A recovery that forgets to make durable what it found shows itself only between two of its own writes.
            ImageName::Kill(_) => (start..start + recovery).collect(),
        };
        let in_work = observed + choice.below((last - observed).max(1) as u64) as usize;
        let behind = [(observed, "behind the recovery"), (in_work, "at work"), (last, "after work")];
        let mut replay = session.recording.replay();
        for (point, place) in in_recovery.into_iter().map(|point| (point, "in the recovery")).chain(behind) {
            replay.advance_to(point);
            let allowed = session.allowed(point).power_cut;
            let images = replay.images(Level::C, 64, self.seed);
            let possible = images.possible().min(64);
            // Number 0 has lost everything that could be lost; others are picked.
            let picks = if matches!(crash, ImageName::Kill(_)) { KILL_PICKS } else { 1 };
            let picked = (0..picks.min(possible - 1)).map(|_| 1 + choice.below(possible - 1));
            for number in std::iter::once(0).chain(picked.collect::<Vec<_>>()) {
                let image = images.nth_image(number);
                self.crashed_again(world, &image, &allowed, point < observed, &mut choice).map_err(
                    |what| format!("second crash {place} (event {point}, image C.64.{number}): {what}"),
                )?;
            }
        }
        Ok(())
    }

    fn crashed_again(
        &mut self,
        world: &World,
        image: &CrashImage<'_>,
        allowed: &[State],
        in_recovery: bool,
        choice: &mut Random,
    ) -> Result<(), String> {
        self.tally.states += 1;
        let media = Arc::new(SimMedia::from_crash(image));
        let store = open_and_check::<S>(world, &media, allowed)?;
        if !in_recovery || choice.below(TWICE_IN) != 0 {
            media.power_off();
            return drop_quietly(store);
        }
        let recording = media.power_off();
        drop_quietly(store)?;
        let mut replay = recording.replay();
        let points = recording.last_point() - recording.first_point();
        replay.advance_to(recording.first_point() + choice.below(points as u64 + 1) as usize);
        let number = choice.below(replay.images(Level::C, 64, self.seed).possible().min(64));
        let image = replay.images(Level::C, 64, self.seed).nth_image(number);
        self.tally.states += 1;
        let media = Arc::new(SimMedia::from_crash(&image));
        let store =
            open_and_check::<S>(world, &media, allowed).map_err(|what| format!("third crash: {what}"))?;
        media.power_off();
        drop_quietly(store)
    }
}

/// A kill loses nothing that was written, unless pages are dropped that were thought to be clean.
fn after_kill(allowed: Allowed, cache: PageCache) -> Allowed {
    match cache {
        PageCache::Kept => allowed,
        PageCache::FailedPagesDropped => allowed.after_power_cut(),
    }
}

fn open_and_check<S: Subject>(world: &World, media: &Arc<SimMedia>, allowed: &[State]) -> Result<S, String> {
    guarded(|| {
        let store = S::open(media.clone()).map_err(|error| format!("open failed: {error}"))?;
        let found = observe(&store, world)?;
        if allowed.contains(&found) { Ok(store) } else { Err(model::difference(&found, allowed)) }
    })
}

fn drop_quietly<S>(store: S) -> Result<(), String> {
    guarded(|| {
        drop(store);
        Ok(())
    })
}

/// What every recovered store is asked to do: put a new key, overwrite a key, delete a key, all acknowledged.
fn work<S: Subject>(driver: &mut Driver<'_, S>) -> Result<(), String> {
    let present: Vec<_> = (0..HISTORY_KEYS).filter(|key| driver.view()[*key] != 0).collect();
    driver.put_value(0, HISTORY_KEYS, World::work_value(0), Durability::Sync)?;
    for (index, key) in present.iter().take(WORK_PUTS - 1).enumerate() {
        driver.put_value(0, *key, World::work_value(1 + index), Durability::Sync)?;
    }
    match present.last() {
        Some(key) => driver.delete_key(*key),
        None => Ok(()),
    }
}

/// Turns a panic of the store into a failure that names its crash.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        Err(format!("panic: {}", text.unwrap_or_else(|| "without a message".into())))
    })
}
