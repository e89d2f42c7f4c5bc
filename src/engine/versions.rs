//! Older versions of keys, for as long as a read point needs them.
//!
//! The index leads to the newest entry of a key. While a read point is open, whoever replaces an entry that is visible there
//! notes the entry here *before* the index changes, and pins the segments it lies in: so its bytes stay where they are and
//! as they are, whatever the cleaner does, and nothing has to be copied or moved. A reader at a point that meets a newer
//! entry in the index looks here.
//!
//! A point is opened without the lock of a log:
//!   1. versions are kept whatever they are (`opening`, `visible_below`)
//!   2. the newest stamp of each log is read; the highest is the point, and becomes the floor of stamps to come. It divides
//!      all writes, see `oplog/order.rs`
//!   3. the shards know the point, and what no point needs goes; of one that is open alone they learn later, and what it does
//!      not need goes with some point
//!   4. the opener, holding nothing, waits for the writes that were under way and may have a stamp up to the point
//!
//! Why nothing is missed. A writer passes two fences: one between the begin of its write section and its look at the
//! floor, which is part of that begin (`epoch::write_section`), one between its stamp and its look at `visible_below`,
//! in `oplog::Order::settle`. What the opener does and then looks at is sequentially consistent on the other side: the
//! floor and the sections, `visible_below` and the stamps. Either a writer saw the floor, and its stamp is above the
//! point, or the opener sees its section, and waits. And either it sees that versions are kept, or the opener sees its
//! stamp, which then is not above the point: nobody needs what it replaces.
//!
//! The order of a key's versions is that of their stamps. Mostly no stamp is read: an entry whose segment has no stamp above
//! `bound`, a point that is settled (step 4 is over) and the oldest, is kept with `bound` for its stamp. That keeps the order.
//! Who does so loaded `bound` before it read the index, where by then each entry with a stamp up to `bound` was, or a newer one
//! of its key: what it found is the newest of its key with a stamp up to `bound`, so the others have earlier stamps, or stamps
//! above `bound`. If the next older one is kept with a bound too, that is an earlier one, below the stamp of this one, for the
//! same reason. A point that is not settled is no bound: an entry with a stamp up to it may still come, and would tie with the
//! one that it replaces, or lie below it.
//!
//! Reads need no fence. One at a point comes after its opening. One at no point takes what the index leads to: no
//! floor, no point and no stamp that somebody else has just written changes what it may answer.
//!
//! Invariants:
//!   - a version is kept if there is a point `p` with `seq <= p < by`, and for no other reason; what was kept for a point that
//!     was being opened, in vain, goes when some point closes, if not before
//!   - when no point is open, and none is being opened, nothing is kept
//!   - all shards have the same points, but for the one that is being opened or closed, under the lock of `points`, and but
//!     for one that is open alone: of that a shard learns from who comes to it first (`know_alone`)
//!   - a shard has a point or a version only while `used` is set; it is cleared before they are, by the close of the last point
//!   - shards are locked last: under a log's lock, never around one; `points` is not held around a wait
//!   - the slots of a version are pinned from before it is in a shard until after it has left it

mod shard;

use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::types::{Addr, SegmentSlot, Seq};
use crossbeam_utils::CachePadded;
use shard::{Left, Noted, Shard};
use std::collections::BTreeMap;
use std::time::Instant;

/// Writers of different keys meet in one shard so rarely that it does not matter; opening a point beside others visits all.
const SHARDS: usize = 8;

/// An entry that another one replaces.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// Of its key.
    pub hash: u64,
    /// Where it lies.
    pub addr: Addr,
    /// Its stamp.
    pub seq: Seq,
    /// That of the newer entry.
    pub by: Seq,
}

/// What keeping a version takes. Short: there may be very many.
#[derive(Debug)]
pub struct Held {
    /// Pinned for its entry.
    pub slot: SegmentSlot,
    /// Of its entry.
    pub entry_bytes: u32,
    /// For its value, if that is a large one. Few are.
    pub blob: Option<Box<HeldBlob>>,
}

/// What keeping a large value takes.
#[derive(Debug)]
pub struct HeldBlob {
    /// Pinned.
    pub extents: Vec<SegmentSlot>,
    /// Of the value.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Replaced>() + size_of::<Held>() <= 48, "each first overwrite writes so much");

impl Held {
    /// All that is pinned.
    pub fn slots(&self) -> impl Iterator<Item = SegmentSlot> + '_ {
        std::iter::once(self.slot).chain(self.blob.iter().flat_map(|blob| blob.extents.iter().copied()))
    }

    /// Of the entry and its value.
    #[inline]
    pub fn bytes(&self) -> u64 {
        u64::from(self.entry_bytes) + self.blob.as_ref().map_or(0, |blob| blob.bytes)
    }
}

struct Point {
    users: u64,
    since: Instant,
    /// All that has a stamp up to it is in the index: somebody who opened it has waited for that.
    is_settled: bool,
}

/// What is kept, for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    /// Users of points.
    pub open: u64,
    /// Age of the oldest point in milliseconds.
    pub oldest_ms: u64,
    /// Older versions.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What each writer looks at.
#[derive(Default)]
struct Bounds {
    /// One above the newest point; 0 if there is none, `u64::MAX` while one is being opened.
    visible_below: AtomicU64,
    /// A point that was settled, and than which none is older, of those that are open or will be; 0 before there was one.
    /// Changes with `points`, and only grows.
    settled: AtomicU64,
}

/// What is left to do when a user of a point has gone.
enum Closed<'a> {
    /// The point has others.
    Nothing,
    /// No point is left: what the shards had goes.
    Last(Vec<Shard>),
    /// What was noted with it in the shards that have anything to look at.
    OneOfSome(Vec<(&'a Mutex<Shard>, Noted)>),
}

/// See the module.
#[derive(Default)]
pub struct Versions {
    bounds: CachePadded<Bounds>,
    /// Number of the newest opening. Shards that it did not come to yet keep everything, but for that of a point alone.
    opening: AtomicU64,
    /// Whether a shard was used since all were emptied: else who opens and closes a point has no need to visit them.
    used: AtomicBool,
    points: Mutex<BTreeMap<Seq, Point>>,
    /// Points that were closed, and have let go of what only they needed.
    closed: AtomicU64,
    shards: [CachePadded<Mutex<Shard>>; SHARDS],
}

/// From the first step of an opening to the last, also if it unwinds in between.
struct Opening<'a> {
    versions: &'a Versions,
    number: u64,
    /// What `visible_below` is when it is over.
    visible_below: u64,
    /// There is a point. (Not whether the thread panics: who opens one may be a destructor.)
    has_point: bool,
}

impl<'a> Opening<'a> {
    /// With the list of points locked.
    fn begin(versions: &'a Versions) -> Opening<'a> {
        let number = versions.opening.load(Ordering::Relaxed) + 1;
        versions.opening.store(number, Ordering::SeqCst);
        let visible_below = versions.bounds.visible_below.swap(u64::MAX, Ordering::SeqCst);
        Opening { versions, number, visible_below, has_point: false }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.has_point {
            self.versions.shards.iter().for_each(|shard| shard.lock().give_up(self.number));
        }
        self.versions.bounds.visible_below.store(self.visible_below, Ordering::Release);
    }
}

impl Versions {
    /// True if an entry with this stamp, which is being replaced, may be visible at a point.
    #[inline]
    pub fn may_need(&self, seq: Seq) -> bool {
        seq.0 < self.bounds.visible_below.load(Ordering::Acquire)
    }

    /// True if there is a point, or one is being opened.
    #[inline]
    pub fn are_needed(&self) -> bool {
        self.may_need(Seq::ZERO)
    }

    /// What has a stamp up to this one is visible at every point that is open, or will be, and is in the index. So who asks
    /// *before* it reads the index may keep an entry of such a stamp with this one instead: see the module.
    #[inline]
    pub fn settled_bound(&self) -> Seq {
        Seq(self.bounds.settled.load(Ordering::Acquire))
    }

    /// Somebody who opened a point has waited until all that has a stamp up to it is in the index.
    pub fn settle(&self, point: Seq) {
        let mut points = self.points.lock();
        points.get_mut(&point).expect("who waited has it open").is_settled = true;
        self.raise_settled(&points);
    }

    /// With the points locked, after they changed. If the oldest one is not settled, the bound stays at one that was.
    fn raise_settled(&self, points: &BTreeMap<Seq, Point>) {
        if let Some((oldest, point)) = points.first_key_value() {
            assert!(*oldest >= self.settled_bound(), "points are opened above all that were open");
            if point.is_settled {
                self.bounds.settled.store(oldest.0, Ordering::Release);
            }
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The newest opening. Under the lock of a shard: what that says of earlier openings is true then.
    fn opening(&self) -> u64 {
        self.opening.load(Ordering::Acquire)
    }

    /// Keeps an entry if a point needs it; `hold` pins it. Before the index changes.
    pub fn keep(&self, replaced: Replaced, hold: impl FnOnce() -> Held) {
        let mut shard = self.shard(replaced.hash).lock();
        // One look at the number: between two an opening could begin, and its close not learn that something is kept here.
        let opening = self.opening();
        if shard.knows(opening) || self.know_alone(&mut shard) {
            shard.keep(replaced, opening, hold);
        }
    }

    /// Tells a shard that the newest opening did not come to of the point, if that is open alone. False if there is none, nor one
    /// being opened.
    ///
    /// Who closes it stores the bound and then looks whether a shard was used; here it is the other way round. Either the
    /// bound says here that nothing is needed any more, or the shard is emptied there, under its lock. A shard that has a point
    /// waits for who opens another one: the bound may still be that of the first. A shard that has none was not come to by who
    /// opens a second point, who does that before he takes a number: so the number is the point's.
    #[cold]
    fn know_alone(&self, shard: &mut Shard) -> bool {
        self.used.store(true, Ordering::SeqCst);
        let visible_below = self.bounds.visible_below.load(Ordering::SeqCst);
        if !shard.has_points() && visible_below != u64::MAX && visible_below > 0 {
            shard.open_alone(Seq(visible_below - 1), self.opening());
        }
        visible_below > 0
    }

    /// Opens a point, or an open one once more: `take` gives a stamp, above all that were given, and makes it the floor.
    /// Versions that it turns out not to need go to `let_go`.
    pub fn open(&self, take: impl Fn() -> Seq, let_go: impl Fn(Held)) -> Seq {
        let mut gone = Vec::new();
        let mut points = self.points.lock();
        if let Some(mut newest) = points.last_entry()
            && take() == *newest.key()
        {
            newest.get_mut().users += 1;
            return *newest.key();
        }
        let is_alone = points.is_empty();
        if points.len() == 1 {
            // Before this opening has a number: it is another one that they keep everything for then.
            self.shards.iter().for_each(|shard| drop(self.lock(shard)));
        }
        let mut opening = Opening::begin(self);
        let point = take();
        if !is_alone {
            self.shards.iter().for_each(|shard| shard.lock().open(point, opening.number, &mut gone));
        }
        points.insert(point, Point { users: 1, since: Instant::now(), is_settled: false });
        (opening.visible_below, opening.has_point) = (point.0 + 1, true);
        drop(opening);
        drop(points);
        gone.into_iter().for_each(let_go);
        point
    }

    /// A user of a point has gone.
    pub fn close(&self, point: Seq, let_go: impl Fn(Held)) {
        match self.close_for_one(point) {
            Closed::Nothing => return,
            Closed::Last(shards) => shards.into_iter().flat_map(Shard::into_held).for_each(let_go),
            Closed::OneOfSome(noted) => {
                noted.into_iter().for_each(|(shard, noted)| self.let_go_in(shard, point, noted, &let_go));
            }
        }
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets go of what only a closed point needed.
    fn let_go_in(&self, shard: &Mutex<Shard>, point: Seq, mut noted: Noted, let_go: impl Fn(Held)) {
        let mut gone = Vec::new();
        loop {
            let left = {
                let mut shard = shard.lock();
                shard.let_go(point, &mut noted, self.opening(), &mut gone)
            };
            gone.drain(..).for_each(&let_go);
            match left {
                Left::Nothing => return,
                Left::More => {}
                Left::Sorting => noted.sort(),
            }
        }
    }

    /// The oldest point that is open.
    pub fn oldest_point(&self) -> Option<Seq> {
        self.points.lock().keys().next().copied()
    }

    /// How many points were closed.
    pub fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }

    /// Takes a user from a point, and the point from the shards if it was the last one.
    fn close_for_one(&self, point: Seq) -> Closed<'_> {
        let mut points = self.points.lock();
        let users = &mut points.get_mut(&point).expect("it was opened").users;
        *users -= 1;
        if *users > 0 {
            return Closed::Nothing;
        }
        points.remove(&point);
        self.raise_settled(&points);
        let newest = points.last_key_value().map_or(0, |(newest, _)| newest.0 + 1);
        self.bounds.visible_below.store(newest, Ordering::SeqCst);
        // Still under the lock: the same point may be opened again, and none is being opened now.
        if points.is_empty() {
            if !self.used.load(Ordering::SeqCst) {
                return Closed::Last(Vec::new());
            }
            // Whoever uses one behind this visit sets it again.
            self.used.store(false, Ordering::SeqCst);
            return Closed::Last(self.shards.iter().filter_map(|shard| shard.lock().close_last()).collect());
        }
        let noted = self.shards.iter().map(|shard| (&**shard, shard.lock().close(point)));
        Closed::OneOfSome(noted.filter_map(|(shard, noted)| Some((shard, noted?))).collect())
    }

    /// A shard that knows of a point which is open alone.
    fn lock<'a>(&self, shard: &'a Mutex<Shard>) -> MutexGuard<'a, Shard> {
        let mut shard = shard.lock();
        if !shard.knows(self.opening()) {
            self.know_alone(&mut shard);
        }
        shard
    }

    /// A shard in which all that was kept of a hash can be found, or all. A few are taken in at a time, so that writers get in.
    fn when_ready<'a>(&self, shard: &'a Mutex<Shard>, hash: Option<u64>) -> MutexGuard<'a, Shard> {
        loop {
            let mut shard = self.lock(shard);
            if shard.is_ready(self.opening(), hash) {
                return shard;
            }
        }
    }

    /// Stamp and place of the newest version of the keys with this hash that is visible at a point; of those behind `before`
    /// in that order, if it is given. Keys with one hash are rare: the first one is nearly always the key's. The stamp is what
    /// the version was kept with.
    pub fn visible_at(&self, hash: u64, point: Seq, before: Option<(Seq, Addr)>) -> Option<(Seq, Addr)> {
        self.when_ready(self.shard(hash), Some(hash)).visible_at(hash, point, before)
    }

    /// Bytes of the versions that are noted with a point.
    pub fn bytes_at(&self, point: Seq) -> u64 {
        self.shards.iter().map(|shard| self.when_ready(shard, None).bytes_at(point)).sum()
    }

    /// What is kept now.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        {
            let points = self.points.lock();
            kept.open = points.values().map(|point| point.users).sum();
            let oldest = points.first_key_value();
            kept.oldest_ms = oldest.map_or(0, |(_, point)| point.since.elapsed().as_millis() as u64);
        }
        for shard in &self.shards {
            let (versions, bytes) = shard.lock().kept();
            kept.versions += versions;
            kept.bytes += bytes;
        }
        kept
    }
}

#[cfg(test)]
#[path = "tests/versions.rs"]
mod tests;
