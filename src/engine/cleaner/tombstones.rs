//! When a tombstone may go: once no segment holds an older value of its key, or that value would return after a crash.
//!
//! Nothing is counted while keys are overwritten. Deletes are noted by the hash of their key, and from time to time they
//! are *examined*: all segments are walked for older values of the keys noted, and what is found is counted per key and
//! segment. A key without any loses its tombstone in the index at once, a key with some when the last of their segments
//! has been freed. A tombstone that the index does not know is dead like any entry, and goes with its segment.
//!
//! The walk goes on with each pass by a few segments, and nothing is held between passes: no write waits for all of it unless
//! nothing else is left, and whoever stops or pauses the cleaner never does. It reads the whole log, so even then there must
//! be enough noted to gain by it, or a full pool would be read once for each write that it refuses.
//!
//! Why that is exact:
//!   - an examination takes the deletes noted so far, raises the floor of stamps, and waits for all writes that were stamped
//!     before: no value that is older than an examined tombstone is written or published later
//!   - such values are dead, and the cleaner copies only what is live: they never turn up in another segment, so what is
//!     opened while the walk is on its way need not be walked, and what is freed takes what was counted in it along
//!   - a segment is gone only when no digest that can ever rule lists it
//!   - after a restart all tombstones in the log count as noted and none as examined
//!   - equal hashes of different keys only keep a tombstone longer
//!   - the walk meets the tombstones, too, and moves are followed: so one is found again by its place, with whatever index,
//!     and no key is kept in memory. What lies at a place is believed only if it is in the segment that was there, has the
//!     stamp of the tombstone that was examined, and the index leads there: a later tombstone of the key has older values
//!     of its own, which nobody counted
//!   - with damage in the pool nobody knows what lies there: no tombstone goes

use super::super::Engine;
use super::super::keyspace::Keyspace;
use super::Work;
use crate::epoch;
use crate::error::Result;
use crate::format::{FrameKind, OpKind, Ops, SEGMENT_BODY_OFFSET};
use crate::index::{Index, Key};
use crate::media::guarded::Scratch;
use crate::oplog::scan::{Piece, SegmentBytes};
use crate::space::table::SlotState;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::types::{Addr, SegmentId, SegmentSlot, Seq};
use std::collections::HashMap;

/// About the bytes of a tombstone in the log.
const TOMBSTONE_BYTES: u64 = 32;
/// Deletes that are noted before their examination is worth its walk: this share of the bytes in use.
const EXAMINE_SHARE: u64 = 32;
/// And what a write must be able to gain that waits for its walk: this share of a segment.
const URGENT_SHARE: u64 = 2;
/// Bytes of the log that are walked in a pass that is for something else.
const WALK_BYTES_MAX: u64 = 2 << 20;
/// And so many segments at most, of whatever size.
const WALK_SEGMENTS_MAX: u64 = 16;

/// How far an examination goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// By a few segments; while a write waits, by one. If none is on its way and enough is noted, one begins.
    AFew,
    /// By a few segments, for a write that nothing else makes room for. If none is on its way, one begins if its tombstones
    /// are worth that.
    Urgent,
    /// To its end. If none is on its way and anything is noted, one begins.
    All,
}

/// Tombstones that nobody has examined yet: hash of the key, and stamp.
#[derive(Default)]
pub struct Noted {
    list: Mutex<Vec<(u64, Seq)>>,
    count: AtomicU64,
    /// Their bytes in the log, about.
    bytes: AtomicU64,
    /// The newest stamp there ever was.
    newest: AtomicU64,
}

impl Noted {
    /// A tombstone of about so many bytes is in the log. Before its write section ends.
    pub fn add(&self, hash: u64, seq: Seq, bytes: u64) {
        let mut list = self.list.lock();
        list.push((hash, seq));
        // Seen by whoever sees that the index holds it.
        self.newest.store(self.newest.load(Ordering::Relaxed).max(seq.0), Ordering::Relaxed);
        self.count.store(list.len() as u64, Ordering::Relaxed);
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// No tombstone that was written since open has a later stamp.
    pub fn newest(&self) -> Seq {
        Seq(self.newest.load(Ordering::Relaxed))
    }

    fn take(&self) -> Vec<(u64, Seq)> {
        let mut list = self.list.lock();
        self.count.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut list)
    }
}

/// What is known of a deleted key.
#[derive(Clone, Copy)]
struct Deleted {
    /// Older values.
    values: u32,
    /// Stamp of the tombstone.
    seq: Seq,
    /// Where it lies, once it was met.
    at: Option<Place>,
}

/// A place in the log, for as long as its segment is there.
#[derive(Clone, Copy)]
struct Place {
    addr: Addr,
    segment: SegmentId,
}

impl Deleted {
    /// Of two notes of one key the newer counts.
    fn note(keys: &mut HashMap<u64, Deleted>, hash: u64, seq: Seq, at: Option<Place>) {
        let new = Deleted { values: 0, seq, at };
        let known = keys.entry(hash).or_insert(new);
        if known.seq < seq {
            *known = new;
        }
    }
}

/// What is known of deleted keys.
#[derive(Default)]
pub(super) struct Tombstones {
    /// Those with older values, by hash of the key.
    kept: HashMap<u64, Deleted>,
    /// The hashes of the values that were counted, by segment.
    by_segment: HashMap<SegmentId, Vec<u64>>,
    running: Option<Examination>,
    /// Bytes that do not verify were met: what lies there may be an older value.
    is_blind: bool,
}

/// Keys that are looked for, and segments that were not walked yet.
struct Examination {
    keys: HashMap<u64, Deleted>,
    by_segment: HashMap<SegmentId, Vec<u64>>,
    segments: Vec<Part>,
}

/// The frames of a segment that were there when an examination began.
struct Part {
    slot: SegmentSlot,
    id: SegmentId,
    /// Where they lie if the segment was not sealed.
    range: Option<(u32, u32)>,
}

impl Tombstones {
    /// Tombstones that older values keep, or may keep: those that are being examined.
    pub(super) fn kept(&self) -> usize {
        self.kept.len() + self.running.as_ref().map_or(0, |running| running.keys.len())
    }

    /// True if an examination is on its way: what is kept by what is not known.
    pub(super) fn are_examined(&self) -> bool {
        self.running.is_some()
    }

    /// The tombstone with this stamp was moved.
    pub(super) fn note_move(&mut self, hash: u64, seq: Seq, addr: Addr, segment: SegmentId) {
        let examined = self.running.as_mut().and_then(|running| running.keys.get_mut(&hash));
        for deleted in examined.into_iter().chain(self.kept.get_mut(&hash)) {
            if deleted.seq == seq {
                deleted.at = Some(Place { addr, segment });
            }
        }
    }

    /// True if a value in this segment keeps a tombstone.
    pub(super) fn are_kept_by(&self, segment: SegmentId) -> bool {
        self.by_segment.contains_key(&segment)
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Goes on with an examination, or begins one. False if there was nothing to examine.
    pub(super) fn examine_tombstones(&self, work: &mut Work, walk: Walk) -> Result<bool> {
        if work.tombstones.is_blind || !self.damage.is_empty() {
            return Ok(false);
        }
        if work.tombstones.running.is_none() {
            if self.noted.count() == 0 || !self.is_worth_examining(walk) {
                return Ok(false);
            }
            work.tombstones.running = Some(self.begin_examination(work));
            self.cleaner.note_kept(&work.tombstones);
        }
        let Some(mut running) = work.tombstones.running.take() else { return Ok(false) };
        let few = (WALK_BYTES_MAX / self.space.geometry().segment_size_bytes).clamp(1, WALK_SEGMENTS_MAX);
        let mut walked = 0;
        let most = match walk {
            Walk::AFew if self.cleaner_thread.is_awaited() => 1,
            Walk::AFew | Walk::Urgent => few,
            Walk::All => u64::MAX,
        };
        while walked < most {
            let Some(part) = running.segments.pop() else { break };
            match self.look_for_values(&part, &mut running) {
                Ok(true) => {}
                Ok(false) => {
                    work.tombstones.is_blind = true;
                    return Ok(true);
                }
                Err(error) => {
                    running.segments.push(part);
                    work.tombstones.running = Some(running);
                    return Err(error);
                }
            }
            walked += 1;
        }
        if running.segments.is_empty() {
            self.end_examination(work, running);
        } else {
            work.tombstones.running = Some(running);
        }
        Ok(true)
    }

    fn is_worth_examining(&self, walk: Walk) -> bool {
        let segment_size = self.space.geometry().segment_size_bytes;
        match walk {
            Walk::AFew => {
                let used_slots = self.space.allocated_slots().saturating_sub(self.space.free_slots());
                let all = u64::from(used_slots) * segment_size;
                let of_log = all.saturating_sub(self.extents.usage().segment_bytes);
                self.noted.count() * TOMBSTONE_BYTES >= of_log / EXAMINE_SHARE
            }
            Walk::Urgent => self.noted.bytes.load(Ordering::Relaxed) >= segment_size / URGENT_SHARE,
            Walk::All => true,
        }
    }

    fn begin_examination(&self, work: &mut Work) -> Examination {
        // First: a delete that is noted later may have a stamp above the floor.
        let noted = self.noted.take();
        self.oplog.raise_floor(self.oplog.newest_seq());
        self.wait_for_publications();
        let mut keys = HashMap::new();
        for (hash, seq) in noted {
            Deleted::note(&mut keys, hash, seq, None);
        }
        // Those that are kept are counted anew: a key may have been put and deleted again since.
        for (hash, Deleted { seq, at, .. }) in std::mem::take(&mut work.tombstones.kept) {
            Deleted::note(&mut keys, hash, seq, at);
        }
        work.tombstones.by_segment.clear();
        Examination { keys, by_segment: HashMap::new(), segments: self.parts_of_the_log(work) }
    }

    /// All frames of the log: what is written later is newer than what is examined.
    fn parts_of_the_log(&self, work: &Work) -> Vec<Part> {
        let table = self.space.table();
        let mut open: HashMap<SegmentSlot, (u32, u32)> = HashMap::new();
        for log in 0..self.oplog.log_count() {
            open.extend(self.oplog.lock(log).head_range());
        }
        let filled = work.survivors.iter().flatten();
        open.extend(filled.map(|head| (head.slot(), (SEGMENT_BODY_OFFSET as u32, head.tail()))));
        let part = |slot| {
            let info = table.slot(slot);
            let range = open.get(&slot).copied();
            let is_whole = matches!(info.state(), SlotState::Sealed | SlotState::Releasable);
            (range.is_some() || is_whole).then(|| Part { slot, id: info.id(), range })
        };
        (0..self.space.slot_count()).map(SegmentSlot).filter_map(part).collect()
    }

    /// Counts older values of the keys that are examined; false if not all of the segment can be read.
    fn look_for_values(&self, part: &Part, running: &mut Examination) -> Result<bool> {
        let info = self.space.table().slot(part.slot);
        if info.id() != part.id || info.state() == SlotState::Free {
            return Ok(true);
        }
        let Some(bytes) = self.read_segment(part.slot)? else { return Ok(false) };
        let bytes = self.slot_bytes(part.slot, &bytes);
        let Some((start, end)) = part.range.or_else(|| self.sealed_range(part.slot, bytes)) else {
            return Ok(false);
        };
        let mut is_whole = true;
        let base = self.space.geometry().offset_of(part.slot);
        SegmentBytes::new(bytes, base, info.seed()).walk(start, end, |piece| match piece {
            Piece::Frame { at, header, frame } => {
                if matches!(header.kind, FrameKind::BatchCommit | FrameKind::Mark | FrameKind::Close) {
                    return;
                }
                let mut seen = 0;
                for (op_at, op) in Ops::new(frame, &header) {
                    let Some(seq) = op.seq(&header) else { break };
                    seen += 1;
                    let key = self.key_of(&op);
                    let Some(deleted) = running.keys.get_mut(&key.hash) else { continue };
                    if op.kind() != OpKind::Delete && seq < deleted.seq {
                        deleted.values += 1;
                        running.by_segment.entry(part.id).or_default().push(key.hash);
                    } else if op.kind() == OpKind::Delete && seq == deleted.seq {
                        let here = Addr::from_offset(base + u64::from(at + op_at));
                        // There are more copies than one as long as a victim is not freed.
                        if deleted.at.is_none() || self.leads_to(op.keyspace(), key, here, &epoch::pin()) {
                            deleted.at = Some(Place { addr: here, segment: part.id });
                        }
                    }
                }
                is_whole &= seen == header.op_count;
            }
            Piece::Repaired { .. } | Piece::Damage { .. } => is_whole = false,
        });
        Ok(is_whole)
    }

    fn end_examination(&self, work: &mut Work, running: Examination) {
        let (kept, free): (HashMap<_, _>, HashMap<_, _>) =
            running.keys.into_iter().partition(|(_, deleted)| deleted.values > 0);
        work.tombstones.kept = kept;
        work.tombstones.by_segment = running.by_segment;
        self.cleaner.note_kept(&work.tombstones);
        free.into_iter().for_each(|(hash, deleted)| self.forget_tombstone(hash, deleted));
    }

    /// A segment was freed, and with it the values that were counted in it.
    pub(super) fn values_are_gone(&self, tombstones: &mut Tombstones, segment: SegmentId) {
        if let Some(running) = &mut tombstones.running {
            for hash in running.by_segment.remove(&segment).into_iter().flatten() {
                running.keys.get_mut(&hash).expect("counted there").values -= 1;
            }
        }
        for hash in tombstones.by_segment.remove(&segment).into_iter().flatten() {
            let kept = tombstones.kept.get_mut(&hash).expect("counted there");
            kept.values -= 1;
            if kept.values == 0 {
                let deleted = *kept;
                tombstones.kept.remove(&hash);
                self.forget_tombstone(hash, deleted);
            }
        }
    }

    /// Lets the index forget the tombstone of a key of which no older value is left, unless the key was written since.
    fn forget_tombstone(&self, hash: u64, deleted: Deleted) {
        self.with_tombstone(hash, deleted, |space, key, addr, bytes| {
            if space.index.remove(key, addr) {
                self.note_dead(addr, OpKind::Delete, bytes);
            }
        });
    }

    /// Shows the key of a tombstone, its place and its bytes, unless the key was written since.
    fn with_tombstone<R>(
        &self,
        hash: u64,
        deleted: Deleted,
        show: impl FnOnce(&Keyspace<I>, Key<'_>, Addr, u64) -> R,
    ) -> Option<R> {
        let Place { addr, segment } = deleted.at?;
        let slot = self.space.geometry().slot_of_addr(addr);
        // If the key was written since, the slot may be free by now, and hollow, or hold another segment. Only we free slots:
        // it stays as it is.
        if slot.0 >= self.space.slot_count() {
            return None;
        }
        let info = self.space.table().slot(slot);
        if info.state() == SlotState::Free || info.id() != segment {
            return None;
        }
        let guard = epoch::pin();
        let scratch = Scratch::new();
        let op = self.reader.op(addr, &scratch)?;
        let (seq, _) = self.reader.order(addr, &op)?;
        let (space, key) = (self.keyspace(op.keyspace())?, self.key_of(&op));
        let is_it = seq == deleted.seq && key.hash == hash && op.kind() == OpKind::Delete;
        let is_it = is_it && self.leads_to(op.keyspace(), key, addr, &guard);
        is_it.then(|| show(&space, key, addr, op.footprint_bytes()))
    }

    /// Bytes, by segment, of the tombstones that no value outside of these segments keeps.
    pub(super) fn tombstones_kept_only_by(
        &self,
        tombstones: &Tombstones,
        is_one: impl Fn(SegmentId) -> bool,
    ) -> HashMap<SegmentSlot, u64> {
        let mut values: HashMap<u64, u32> = HashMap::new();
        for (_, hashes) in tombstones.by_segment.iter().filter(|(id, _)| is_one(**id)) {
            hashes.iter().for_each(|hash| *values.entry(*hash).or_default() += 1);
        }
        let mut bytes_of = HashMap::new();
        for (hash, count) in values {
            let Some(deleted) = tombstones.kept.get(&hash).filter(|deleted| deleted.values == count) else {
                continue;
            };
            self.with_tombstone(hash, *deleted, |_, _, addr, bytes| {
                *bytes_of.entry(self.space.geometry().slot_of_addr(addr)).or_default() += bytes;
            });
        }
        bytes_of
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/tombstones.rs"]
mod tests;
