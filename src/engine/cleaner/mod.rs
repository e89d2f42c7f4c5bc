//! The cleaner: empties segments that hold little that counts, so that their slots can be used again. One pass:
//!
//! 1. victims are chosen (`policy.rs`), and the writes that were between log and index are waited for (`victims.rs`)
//! 2. victims are read and verified; an entry is live if the index points at it (`copy.rs`)
//! 3. every log is drained: what made the other entries dead, and the commits of what is live, is durable (rule 12)
//! 4. live entries are appended to survivor segments with their own stamps, and drained, before the index is told
//! 5. the victims are releasable: later digests leave them out; once one of those rules and no reader or pin is left,
//!    their state words are made FREE, and their slots are reused (`release.rs`)
//!
//! Invariants:
//!   - one pass at a time; nobody else appends to survivor segments or frees segments of the log
//!   - extents are moved (`evacuate.rs`) only for writes that wait and that nothing else makes room for
//!   - a victim is sealed, not pinned, and holds no byte that does not verify: else it is quarantined and kept
//!   - an entry that was not copied is dead by a write that is durable, or was copied before it died
//!   - a pass is cut so that its survivors fit the slots that are kept for it
//!   - no lock of a reader or a writer is held across a drain, but a log's while it is rolled, and the roll lock
//!     (`Space::identities`) over the two drains in which a roll's head or a survivor segment is opened: a writer's roll may
//!     wait for the cleaner's
//!
//! Steps 2 to 5 are taken for a few victims at a time (a *slice*), so that a pass never holds many slots for survivors
//! before its first victims are free, and a write that waits is let go in the middle of it.

mod copy;
mod evacuate;
mod pace;
mod policy;
mod release;
mod room;
mod thread;
mod tidy;
mod tombstones;
mod victims;

use super::Engine;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::oplog::append::Head;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::types::{SegmentSlot, Seq};
use policy::Decay;
pub(super) use policy::STREAMS_MAX;
use release::Released;
pub(super) use release::WaitsFor;
use std::time::Instant;
pub use thread::CleanerThread;
pub use tombstones::Noted;
use tombstones::{Tombstones, Walk};
pub use victims::Aim;
use victims::Victim;

/// Bytes of the victims that are moved together: a write that waits has to wait for them.
const SLICE_BYTES_MAX: u64 = 256 << 10;
/// And so many at most, of whatever size.
const SLICE_VICTIMS_MAX: u64 = 4;

/// What the one pass at a time works with.
#[derive(Default)]
struct Work {
    /// The survivor segments that are being filled, by stream.
    survivors: [Option<Head>; STREAMS_MAX],
    /// Stamp of the newest survivor frame.
    stamp: Seq,
    /// Survivor segments opened since the store was.
    opened: u64,
    /// What rolls for the sake of the digest cost since the last pass ended.
    rolled_bytes: u64,
    /// Victims on their way to be free.
    releasing: Vec<Released>,
    tombstones: Tombstones,
    decay: Decay,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Segments that nothing counts in any more.
    pub emptied: usize,
    /// It emptied none, but looked at some of what may keep space: the next one goes on.
    is_walking: bool,
    /// Large values were moved.
    has_moved_extents: bool,
    /// Their bytes, less those of survivors and what forced rolls cost: how well the choice of victims guessed.
    gained_bytes: i64,
}

/// The cleaner of a store.
#[derive(Default)]
pub struct Cleaner {
    work: Mutex<Work>,
    pub(super) counters: CleanerCounters,
    /// Writes that wait for room although there are enough holes between extents.
    stranded: AtomicU32,
    pace: pace::Pace,
    /// Passes that ended, whatever they gained.
    ended: AtomicU64,
}

/// What the cleaner did since open.
#[derive(Default)]
pub(super) struct CleanerCounters {
    /// Passes that emptied a segment.
    pub(super) passes: AtomicU64,
    /// Segments emptied.
    pub(super) victims: AtomicU64,
    /// Bytes of victims that were read.
    pub(super) bytes_read: AtomicU64,
    /// Bytes of survivor frames.
    pub(super) bytes_written: AtomicU64,
    /// Entries moved.
    pub(super) entries_moved: AtomicU64,
    /// Bytes of large values that were moved.
    pub(super) blob_bytes_moved: AtomicU64,
    /// Extent segments that were emptied by moving what was in them.
    pub(super) extent_segments_evacuated: AtomicU64,
    /// Segments freed.
    pub(super) segments_freed: AtomicU64,
    tombstones_kept: AtomicU64,
    /// Writes that waited for room.
    pub(super) stalls: AtomicU64,
    /// The longest of these waits.
    pub(super) longest_stall_us: AtomicU64,
}

impl Cleaner {
    fn is_anybody_stranded(&self) -> bool {
        self.stranded.load(Ordering::Relaxed) > 0
    }

    fn passes_ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    fn are_tombstones_examined(&self) -> bool {
        self.work.lock().tombstones.are_examined()
    }

    /// Nothing is cleaned or freed while this is held.
    pub(super) fn hold(&self) -> impl Drop + '_ {
        self.work.lock()
    }

    /// The same, unless something is being cleaned or freed.
    pub(super) fn try_hold(&self) -> Option<impl Drop + '_> {
        self.work.try_lock()
    }

    /// Writes that were slowed, and by how many microseconds in all.
    pub(super) fn delays(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.pace.delays), count(&self.pace.delayed_us))
    }

    /// Tombstones that were examined and that older values keep, and those that are being examined.
    pub(super) fn tombstones_kept(&self) -> u64 {
        self.counters.tombstones_kept.load(Ordering::Relaxed)
    }

    fn note_kept(&self, tombstones: &Tombstones) {
        self.counters.tombstones_kept.store(tombstones.kept() as u64, Ordering::Relaxed);
    }
}

impl CleanerCounters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl<I: Index + 'static> Engine<I> {
    /// One pass. Empties nothing if that would gain nothing.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`, `Closed`, `ReadOnly`.
    pub fn clean(&self, aim: Aim) -> Result<Pass> {
        self.check_writable()?;
        let since = Instant::now();
        self.reclaim_dropped(|| false);
        let mut work = self.cleaner.work.lock();
        // Whatever was closed meanwhile must stay as it was closed.
        self.check_writable()?;
        self.release_settled(&mut work)?;
        let walk = if aim.is_thorough() { Walk::All } else { Walk::AFew };
        if self.examine_tombstones(&mut work, walk)? && aim.is_thorough() {
            // What was noted after the one that was on its way had begun.
            self.examine_tombstones(&mut work, walk)?;
        }
        let extent_segments = self.let_go_of_empty_extents(&mut work, aim);
        let before = self.taken_bytes(&work);
        let mut emptied = self.empty_victims(&mut work, aim)?;
        emptied += extent_segments;
        // What keeps space may be tombstones that nobody looked at.
        let is_walking =
            emptied == 0 && aim == Aim::Space && self.examine_tombstones(&mut work, Walk::Urgent)?;
        let mut has_moved_extents = false;
        if (emptied == 0 && !is_walking) || aim.is_thorough() {
            let evacuation = self.evacuate_extents(&mut work, aim)?;
            has_moved_extents = evacuation.has_moved;
            emptied += self.let_go_of_empty_extents(&mut work, aim);
            emptied = emptied.saturating_sub(evacuation.filled);
        }
        let mut gained_bytes = emptied as i64 * self.space.geometry().segment_size_bytes as i64;
        gained_bytes -= self.taken_bytes(&work) - before;
        if aim.ends_with_roll() && !work.releasing.is_empty() {
            self.roll_for_release(&mut work)?;
        }
        self.release_what_waits(&mut work)?;
        gained_bytes -= std::mem::take(&mut work.rolled_bytes) as i64;
        if gained_bytes >= self.worthwhile_bytes() as i64 {
            self.space.end_waiver();
        }
        self.cleaner.ended.fetch_add(1, Ordering::Relaxed);
        self.cleaner.pace.note_pass(since, gained_bytes, self.space.geometry().segment_size_bytes);
        Ok(Pass { emptied, is_walking, has_moved_extents, gained_bytes })
    }

    /// What survivors have taken of the pool since it was opened.
    fn taken_bytes(&self, work: &Work) -> i64 {
        let room = self.room_in_survivors(work);
        (work.opened * self.space.geometry().segment_size_bytes) as i64 - room as i64
    }

    /// Bytes that open survivor segments still take, about.
    fn room_in_survivors(&self, work: &Work) -> u64 {
        work.survivors.iter().flatten().map(|head| self.oplog.room_in_survivor(head)).sum()
    }

    /// Steps 1 to 4, and the start of 5. How many segments were emptied.
    fn empty_victims(&self, work: &mut Work, aim: Aim) -> Result<usize> {
        let chosen = self.choose_victims(work, aim);
        if chosen.is_empty() {
            return Ok(0);
        }
        self.wait_for_publications();
        let per_slice = SLICE_BYTES_MAX / self.space.geometry().segment_size_bytes;
        let mut emptied = 0;
        for slice in chosen.chunks(per_slice.clamp(1, SLICE_VICTIMS_MAX) as usize) {
            emptied += self.empty_slice(work, slice, aim)?;
            self.release_what_waits(work)?;
        }
        CleanerCounters::add(&self.cleaner.counters.passes, u64::from(emptied > 0));
        Ok(emptied)
    }

    /// What was sealed when writes in flight had been waited for needs no other wait.
    fn empty_slice(&self, work: &mut Work, slots: &[SegmentSlot], aim: Aim) -> Result<usize> {
        let mut victims = Vec::with_capacity(slots.len());
        for slot in slots {
            let stream = self.stream_of(&work.decay, *slot, aim);
            victims.extend(self.read_victim(*slot, stream)?);
        }
        victims.sort_by_key(|victim| victim.stream);
        self.drain_logs()?;
        let emptied = self.move_live_entries(work, &victims)?;
        let count = emptied.len();
        CleanerCounters::add(&self.cleaner.counters.victims, count as u64);
        self.set_releasable(work, emptied);
        Ok(count)
    }

    /// Entries of writers that appended and did not publish yet would be taken for dead.
    pub(super) fn wait_for_publications(&self) {
        // Asynchronous writes are published by whoever holds their log. And whoever held it before is seen below.
        for log in 0..self.oplog.log_count() {
            drop(self.oplog.lock(log));
        }
        // A simulation does one thing at a time.
        if self.options.background {
            crate::epoch::wait_for_writes(self.fork_generation);
        }
    }

    fn drain_logs(&self) -> Result<()> {
        (0..self.oplog.log_count()).try_for_each(|log| self.oplog.drain_beside_writers(log))
    }

    fn poisoned_cleaning(&self, error: Error) -> Error {
        self.oplog.poison(&error.to_string());
        error
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/drains.rs"]
mod tests;
