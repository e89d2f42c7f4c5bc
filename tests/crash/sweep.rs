//! Crashes a history at every event, opens what each crash leaves, and goes on from there.

use crate::crash::history::{History, Random};
use crate::crash::model::{self, Allowed, HISTORY_KEYS, State, World};
use crate::crash::run::{self, Driver, Session, observe};
use crate::crash::subject::Subject;
use crate::crash::tally::{Tally, cpu_time};
use flatkv::Durability;
use flatkv::testing::sim::{CrashImage, Level, PageCache, Replay, Seen, SimMedia};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;

/// What is tried of one history.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Images per point at each level: all there are, or so many of them.
    pub levels: &'static [(Level, u64)],
    /// Distinct images of the whole history, shared fairly among its points.
    pub images_max: u64,
    pub again: Again,
}

/// How each recovered store is crashed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// In the recovery, behind it, in the work and after it; after a kill at every event of the recovery.
    Everywhere,
    /// After the work, and at one other place. For so many histories that each place is chosen thousands of times.
    Somewhere,
}

/// For a history by itself.
pub const LIMITS_CI: &Limits = &Limits {
    levels: &[(Level::A, 64), (Level::B, 32), (Level::C, 32), (Level::D, 4)],
    images_max: u64::MAX,
    again: Again::Everywhere,
};
/// For histories that are so short that nearly everything can be tried.
pub const LIMITS_WIDE: &Limits = &Limits {
    levels: &[(Level::A, 1024), (Level::B, 512), (Level::C, 1024), (Level::D, 64)],
    images_max: u64::MAX,
    again: Again::Everywhere,
};
/// For all short histories together.
pub const LIMITS_SHORT: &Limits = &Limits {
    levels: &[(Level::A, 44), (Level::B, 22), (Level::C, 28), (Level::D, 4)],
    images_max: 4096,
    again: Again::Somewhere,
};
/// For long histories.
pub const LIMITS_LONG: &Limits = &Limits {
    levels: &[(Level::A, 3), (Level::B, 3), (Level::C, 3), (Level::D, 1)],
    images_max: u64::MAX,
    again: Again::Everywhere,
};

/// Of so many images of a crash in a recovery, one is opened, crashed in *its* recovery and opened again.
const TWICE_IN: u64 = 4;
/// Images that are picked, besides the one that lost most, at each second crash after a kill.
const KILL_PICKS: u64 = 2;
/// Points of a recovery after a kill that are crashed where not all of them are.
const KILL_POINTS: usize = 4;
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

/// Images of one history that need no second look.
#[derive(Default)]
struct Known {
    /// With what was expected of them.
    images: Seen,
    bytes: Seen,
    /// Those of second crashes.
    again: Seen,
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
        let before = cpu_time();
        let result = self.every_crash(history, limits);
        self.tally.histories += 1;
        self.tally.cpu += cpu_time() - before;
        result
    }

    fn every_crash(&mut self, history: &History, limits: &Limits) -> Result<(), Failure> {
        let (mut world, sessions) = self.run(history)?;
        self.tally.tidied += sessions.iter().map(|session| session.tidied).sum::<u64>();
        let mut known = Known::default();
        let mut points_left: u64 =
            sessions.iter().map(|session| session.recording.points().count() as u64).sum();
        for (number, session) in sessions.iter().enumerate() {
            let mut replay = session.recording.replay();
            for point in session.recording.points() {
                replay.advance_to(point);
                self.tally.points += 1;
                let images_left = limits.images_max.saturating_sub(known.bytes.len() as u64);
                // Points differ much in how many images they have; what the last ones leave is lost.
                let images_max =
                    (images_left / points_left).saturating_mul(4).saturating_add(16).min(images_left);
                points_left -= 1;
                let limits = Limits { images_max, ..*limits };
                self.point(&mut world, session, &replay, &limits, &mut known).map_err(|(image, what)| {
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
        let seed = self.seed;
        let failure = |what: String, event: String| Failure {
            seed,
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
        // Which of them a sweep had made the later crashes by is not in its line.
        for again in [Again::Everywhere, Again::Somewhere] {
            let allowed = session.allowed(place.point);
            let (media, allowed) = match place.image {
                ImageName::Kill(cache) => (SimMedia::after_kill(&replay, cache), after_kill(allowed, cache)),
                ImageName::PowerCut { level, limit, number } => {
                    let image = replay.images(level, limit, self.seed).nth_image(number);
                    (SimMedia::from_crash(&image), allowed.after_power_cut())
                }
            };
            let choice = self.choice(place.point, place.image);
            self.crashed(&mut world, media, allowed, (place.image, again), choice, &mut Seen::default())
                .map_err(|what| failure(what, session.recording.describe(place.point)))?;
        }
        Ok(())
    }

    fn run(&self, history: &History) -> Result<(World, Vec<Session>), Failure> {
        let mut world = World::new(history.index);
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
        known: &mut Known,
    ) -> Result<(), (ImageName, String)> {
        let point = replay.point();
        let allowed = session.allowed(point);
        let expectation = model::expectation(&allowed.power_cut);
        let sum: u64 = limits.levels.iter().map(|(_, limit)| limit).sum();
        for (level, limit) in limits.levels {
            let mut left = limits.images_max.saturating_mul(*limit).div_ceil(sum);
            for image in replay.images(*level, *limit, self.seed) {
                if left == 0 {
                    break;
                }
                if known.images.is_new(&image, expectation) {
                    let name =
                        ImageName::PowerCut { level: *level, limit: *limit, number: image.id().number };
                    if known.bytes.is_new(&image, 0) {
                        self.tally.images += 1;
                        left -= 1;
                    }
                    let media = SimMedia::from_crash(&image);
                    let choice = self.choice(point, name);
                    let allowed = allowed.clone().after_power_cut();
                    self.crashed(world, media, allowed, (name, limits.again), choice, &mut known.again)
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
            let allowed = after_kill(allowed.clone(), cache);
            self.crashed(world, media, allowed, (name, limits.again), choice, &mut known.again)
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
        (crash, again): (ImageName, Again),
        mut choice: Random,
        seen: &mut Seen,
    ) -> Result<(), String> {
        self.tally.states += 1;
        let start = media.event_count();
        let session = guarded(|| {
            let mut driver = Driver::<S>::open(world, media, allowed)?;
            work(&mut driver).map_err(|what| format!("at work after the recovery: {what}"))?;
            if again == Again::Everywhere {
                driver.verify().map_err(|what| format!("after the work: {what}"))?;
            }
            Ok(driver.finish())
        })?;
        let (observed, last) = (session.observed, session.recording.last_point());
        let mut replay = session.recording.replay();
        for point in again_at(start, observed, last, (crash, again), &mut choice) {
            replay.advance_to(point);
            let allowed = session.allowed(point).power_cut;
            let expectation = model::expectation(&allowed);
            let images = replay.images(Level::C, 64, self.seed);
            let possible = images.possible().min(64);
            // Number 0 has lost everything that could be lost; others are picked.
            let picks = match (crash, again) {
                (ImageName::Kill(_), Again::Everywhere) => KILL_PICKS,
                (_, Again::Somewhere) if point == last => 0,
                _ => 1,
            };
            let picked = (0..picks.min(possible - 1)).map(|_| 1 + choice.below(possible - 1));
            for number in std::iter::once(0).chain(picked.collect::<Vec<_>>()) {
                let image = images.nth_image(number);
                let choice = Random::new(choice.next());
                if !seen.is_new(&image, expectation) {
                    continue;
                }
                self.crashed_again(world, &image, &allowed, point < observed, choice).map_err(|what| {
                    let place = match point {
                        _ if point < observed => "in the recovery",
                        _ if point == observed => "behind the recovery",
                        _ if point < last => "at work",
                        _ => "after work",
                    };
                    format!("second crash {place} (event {point}, image C.64.{number}): {what}")
                })?;
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
        mut choice: Random,
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

/// Where a store is crashed again that began to recover at `start`, had recovered at `observed` and worked until `last`.
fn again_at(
    start: usize,
    observed: usize,
    last: usize,
    (crash, again): (ImageName, Again),
    choice: &mut Random,
) -> Vec<usize> {
    let recovery = (observed - start).max(1);
    let in_recovery = start + choice.below(recovery as u64) as usize;
    let in_work = observed + choice.below((last - observed).max(1) as u64) as usize;
    match (crash, again) {
        (ImageName::PowerCut { .. }, Again::Everywhere) => vec![in_recovery, observed, in_work, last],
        (ImageName::PowerCut { .. }, Again::Somewhere) => {
            vec![[in_recovery, observed, in_work][choice.below(3) as usize], last]
        }
        // A recovery that forgets to make durable what it found shows itself only between two of its own writes.
        (ImageName::Kill(_), Again::Everywhere) => {
            (start..start + recovery).chain([observed, in_work, last]).collect()
        }
        (ImageName::Kill(_), Again::Somewhere) => {
            let mut points: Vec<_> =
                (0..KILL_POINTS).map(|_| start + choice.below(recovery as u64) as usize).collect();
            points.sort_unstable();
            points.dedup();
            points.extend([in_work, last]);
            points
        }
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
        let store = S::open(media.clone(), world.index).map_err(|error| format!("open failed: {error}"))?;
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
