//! Older versions of keys, for as long as a read point needs them.
//!
//! The index leads to the newest entry of a key. While a read point is open, whoever replaces an entry that is visible there
//! notes the entry here *before* the index changes, and pins the segments it lies in: so its bytes stay where they are and
//! as they are, whatever the cleaner does, and nothing has to be copied or moved. A reader at a point that meets a newer
//! entry in the index looks here.
//!
//! A point is opened in three steps: versions are kept whatever they are (`is_opening`); the point's stamp is taken, above
//! every stamp that was given, and becomes the floor of those to come; the point is there, and what no point needs goes. A
//! writer that looked before the first step had its stamp by then, so it is visible at the point, and the opener waits for
//! its publication. One that looked later has its version kept.
//!
//! Invariants:
//!   - a version is kept if there is a point `p` with `seq <= p < by`, and noted with the newest such point
//!   - all shards have the same points, but for the one that is being opened or closed
//!   - shards are locked last: under a log's lock, never around one; `points` never under a log's
//!   - the slots of a version are pinned from before it is in the table until after it has left it

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::types::{Addr, SegmentSlot, Seq};
use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::time::Instant;

/// Writers of different keys meet in one shard so rarely that it does not matter; opening a point visits all.
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

/// What keeping a version takes.
#[derive(Debug)]
pub struct Held {
    /// Pinned for its entry.
    pub slot: SegmentSlot,
    /// Pinned for its value, if that is a large one.
    pub extents: Vec<SegmentSlot>,
    /// Of the entry and its value.
    pub bytes: u64,
}

impl Held {
    /// All that is pinned.
    pub fn slots(&self) -> impl Iterator<Item = SegmentSlot> + '_ {
        std::iter::once(self.slot).chain(self.extents.iter().copied())
    }
}

struct Version {
    replaced: Replaced,
    held: Held,
}

/// The versions that are noted with one point: hash and place.
#[derive(Default)]
struct Noted {
    versions: Vec<(u64, Addr)>,
    bytes: u64,
}

#[derive(Default)]
struct Shard {
    is_opening: bool,
    points: BTreeMap<Seq, Noted>,
    /// Those that the point that is being opened may need.
    unsettled: Vec<(u64, Addr)>,
    table: HashTable<Version>,
}

impl Shard {
    /// The newest point at which the entry is visible.
    fn point_of(&self, replaced: &Replaced) -> Option<Seq> {
        let (point, _) = self.points.range(..replaced.by).next_back()?;
        (*point >= replaced.seq).then_some(*point)
    }

    fn keep(&mut self, replaced: Replaced, hold: impl FnOnce() -> Held) {
        let point = self.point_of(&replaced);
        let is_known = |version: &Version| version.replaced.addr == replaced.addr;
        if (point.is_none() && !self.is_opening) || self.table.find(replaced.hash, is_known).is_some() {
            return;
        }
        let held = hold();
        self.note(replaced, held.bytes, point);
        self.table.insert_unique(replaced.hash, Version { replaced, held }, |version| version.replaced.hash);
    }

    fn note(&mut self, replaced: Replaced, bytes: u64, point: Option<Seq>) {
        let version = (replaced.hash, replaced.addr);
        match point.and_then(|point| self.points.get_mut(&point)) {
            Some(noted) => {
                noted.versions.push(version);
                noted.bytes += bytes;
            }
            None => self.unsettled.push(version),
        }
    }

    /// Notes versions with the points that need them, and lets the others go.
    fn settle(&mut self, versions: Vec<(u64, Addr)>, mut let_go: impl FnMut(Held)) {
        for (hash, addr) in versions {
            let is_it = |version: &Version| version.replaced.addr == addr;
            let Ok(entry) = self.table.find_entry(hash, is_it) else { continue };
            let (replaced, bytes) = (entry.get().replaced, entry.get().held.bytes);
            match self.point_of(&replaced) {
                None if !self.is_opening => {
                    let entry = self.table.find_entry(hash, is_it);
                    let_go(entry.unwrap_or_else(|_| unreachable!("just seen")).remove().0.held);
                }
                point => self.note(replaced, bytes, point),
            }
        }
    }

    fn open(&mut self, point: Seq, let_go: impl FnMut(Held)) {
        self.is_opening = false;
        self.points.entry(point).or_default();
        let unsettled = std::mem::take(&mut self.unsettled);
        self.settle(unsettled, let_go);
    }

    fn close(&mut self, point: Seq, let_go: impl FnMut(Held)) {
        let noted = self.points.remove(&point).unwrap_or_default();
        self.settle(noted.versions, let_go);
        if self.table.is_empty() {
            self.table = HashTable::new();
        }
    }
}

struct Point {
    users: u64,
    since: Instant,
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

/// See the module.
#[derive(Default)]
pub struct Versions {
    /// One above the newest point; 0 if there is none, `u64::MAX` while one is being opened.
    visible_below: CachePadded<AtomicU64>,
    points: Mutex<BTreeMap<Seq, Point>>,
    shards: [CachePadded<Mutex<Shard>>; SHARDS],
}

impl Versions {
    /// True if an entry with this stamp, which is being replaced, may be visible at a point.
    #[inline]
    pub fn may_need(&self, seq: Seq) -> bool {
        seq.0 < self.visible_below.load(Ordering::Acquire)
    }

    /// True if there is a point, or one is being opened.
    #[inline]
    pub fn are_needed(&self) -> bool {
        self.may_need(Seq::ZERO)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Keeps an entry if a point needs it; `hold` pins it. Before the index changes.
    pub fn keep(&self, replaced: Replaced, hold: impl FnOnce() -> Held) {
        self.shard(replaced.hash).lock().keep(replaced, hold);
    }

    /// Opens a point, or an open one once more: `take` gives a stamp, above all that were given, and makes it the floor.
    /// Versions that it turns out not to need go to `let_go`.
    pub fn open(&self, take: impl Fn() -> Seq, let_go: impl Fn(Held)) -> Seq {
        let mut points = self.points.lock();
        if let Some((newest, mut point)) =
            points.last_key_value().map(|(newest, _)| *newest).zip(points.last_entry())
            && take() == newest
        {
            point.get_mut().users += 1;
            return newest;
        }
        self.visible_below.store(u64::MAX, Ordering::SeqCst);
        self.shards.iter().for_each(|shard| shard.lock().is_opening = true);
        let seq = take();
        self.shards.iter().for_each(|shard| shard.lock().open(seq, &let_go));
        points.insert(seq, Point { users: 1, since: Instant::now() });
        self.visible_below.store(seq.0 + 1, Ordering::Release);
        seq
    }

    /// A user of a point has gone.
    pub fn close(&self, seq: Seq, let_go: impl Fn(Held)) {
        let mut points = self.points.lock();
        let point = points.get_mut(&seq).expect("it was opened");
        point.users -= 1;
        if point.users > 0 {
            return;
        }
        points.remove(&seq);
        self.shards.iter().for_each(|shard| shard.lock().close(seq, &let_go));
        let newest = points.last_key_value().map_or(0, |(newest, _)| newest.0 + 1);
        self.visible_below.store(newest, Ordering::Release);
    }

    /// Places of the versions of keys with this hash that are visible at a point, the newest first.
    pub fn visible_at(&self, hash: u64, point: Seq) -> Vec<Addr> {
        let shard = self.shard(hash).lock();
        let is_visible =
            |replaced: &Replaced| replaced.hash == hash && replaced.seq <= point && point < replaced.by;
        let mut found: Vec<Replaced> =
            shard.table.iter_hash(hash).map(|version| version.replaced).filter(is_visible).collect();
        found.sort_unstable_by_key(|replaced| std::cmp::Reverse(replaced.seq));
        found.into_iter().map(|replaced| replaced.addr).collect()
    }

    /// Bytes of the versions that are noted with a point.
    pub fn bytes_at(&self, point: Seq) -> u64 {
        self.shards.iter().map(|shard| shard.lock().points.get(&point).map_or(0, |noted| noted.bytes)).sum()
    }

    /// What is kept now.
    pub fn kept(&self) -> Kept {
        let points = self.points.lock();
        let mut kept = Kept {
            open: points.values().map(|point| point.users).sum(),
            oldest_ms: points
                .values()
                .map(|point| point.since.elapsed().as_millis() as u64)
                .max()
                .unwrap_or(0),
            ..Kept::default()
        };
        for shard in &self.shards {
            let shard = shard.lock();
            kept.versions += shard.table.len() as u64;
            kept.bytes += shard.points.values().map(|noted| noted.bytes).sum::<u64>();
        }
        kept
    }
}
