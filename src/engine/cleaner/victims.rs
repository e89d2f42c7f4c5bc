//! Which segments are emptied, and what in them counts.

use super::super::Engine;
use super::policy::{self, Decay};
use super::{CleanerCounters, Work};
use crate::error::{Error, Result};
use crate::format::{
    CommitRecord, FOOTER_BYTES, FRAME_HEADER_BYTES, Footer, FrameHeader, FrameKind, Ops, SEGMENT_BODY_OFFSET,
    SegmentClass, filter_len,
};
use crate::index::{Index, Key};
use crate::media::FlushGranularity;
use crate::oplog::scan::{Piece, SegmentBytes};
use crate::space::Purpose;
use crate::space::table::{SlotInfo, SlotState};
use crate::types::{Addr, KeyspaceId, SegmentId, SegmentSlot, Seq};

/// Entries that are looked up together: their lines are on their way at the same time.
const LOOKUP_GROUP: usize = 64;
/// What an entry of a log head grows by when it is moved, about: distance, age, and what alignment makes of them.
const MOVED_GROWTH_BYTES: u64 = 8;
/// Victims of a pass in a small pool; in a large one a share of its slots.
pub(super) const VICTIMS_MIN: u32 = 16;
/// See [`VICTIMS_MIN`].
const VICTIMS_SHARE: u32 = 64;
/// Bytes of all victims of a pass.
const VICTIM_BYTES_MAX: u64 = 64 << 20;
/// What a pass is to gain is this share of the pool, and [`GAIN_SEGMENTS_MIN`] at least: the fewer, the more time other
/// segments have to decay.
const GAIN_SHARE: u32 = 256;
/// See [`GAIN_SHARE`].
const GAIN_SEGMENTS_MIN: u32 = 2;

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Segments that are worth it; whoever rolls next lets go of them.
    Tidy,
    /// The same, and the digest that lets go of them at once.
    Space,
    /// Only segments that hold next to nothing that counts, and that digest: nobody needs the space.
    Dead,
    /// Any segments, worth it or not.
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "tests clean what nobody would"))]
    Anything,
}

impl Aim {
    /// Looks at whatever might give space.
    pub(super) fn is_thorough(self) -> bool {
        self == Aim::Anything
    }

    pub(super) fn ends_with_roll(self) -> bool {
        self != Aim::Tidy
    }

    /// For somebody who would be refused otherwise: extents may be moved for it.
    pub(super) fn is_urgent(self) -> bool {
        matches!(self, Aim::Space | Aim::Anything)
    }
}

/// An entry that counts.
pub(super) struct Live<S> {
    /// Where in the segment.
    pub(super) at: u32,
    pub(super) hash: u64,
    pub(super) seq: Seq,
    /// Where the index has its key.
    pub(super) spot: S,
}

/// Entries of a segment.
struct Entries<'a, S> {
    live: Vec<Live<S>>,
    unsure: Unsure<'a>,
}

/// What the indexes were not asked about yet.
#[derive(Default)]
struct Unsure<'a> {
    entries: Vec<(u32, Seq)>,
    at: Vec<Addr>,
    keys: Vec<Key<'a>>,
    keyspaces: Vec<KeyspaceId>,
}

/// A segment whose bytes verified, and what in it counts.
pub(super) struct Victim<S> {
    pub(super) slot: SegmentSlot,
    pub(super) id: SegmentId,
    /// Where what counts in it goes.
    pub(super) stream: usize,
    /// Its bytes where they do not lie in memory.
    read: Option<Vec<u8>>,
    pub(super) live: Vec<Live<S>>,
    pub(super) commits: Vec<CommitRecord>,
}

/// A segment that may be emptied.
struct Candidate {
    slot: SegmentSlot,
    /// What its entries take once they are moved.
    moved: u64,
    /// How soon it is its turn; `None` if it is seen for the first time.
    score: Option<f64>,
}

/// A segment is worth emptying if this share of a survivor segment is gained.
const WORTH_SHARE: u64 = 256;

/// Most bytes that what counts in a segment takes once it is moved: its share of the filter included, and that the last
/// entry may not fit the survivor segment that the others went to.
pub(super) fn moved_bytes(info: &SlotInfo, align_bytes: u64) -> u64 {
    let (all, live) = (info.op_bytes(), info.op_bytes().saturating_sub(info.dead_bytes()));
    if live == 0 {
        return 0;
    }
    let entries = (u64::from(info.entries()) * live).div_ceil(all);
    let growth = if info.class() == Some(SegmentClass::Survivor) { 0 } else { MOVED_GROWTH_BYTES };
    live + growth * entries + filter_len(entries) + live / entries + align_bytes
}

impl<I: Index + 'static> Engine<I> {
    pub(super) fn may_be_victim(&self, info: &SlotInfo) -> bool {
        info.state() == SlotState::Sealed
            && matches!(info.class(), Some(SegmentClass::LogHead | SegmentClass::Survivor))
            && info.pins() == 0
            && !info.is_quarantined()
            && !self.damage.concerns_segment(info.id())
    }

    /// The segments whose emptying gains most for what it costs, as many as the slots for survivors allow; none if emptying
    /// them gains nothing.
    pub(super) fn choose_victims(&self, work: &mut Work, aim: Aim) -> Vec<SegmentSlot> {
        if aim == Aim::Dead {
            return self.choose_idle_victims(work);
        }
        let mut candidates = self.candidates(&mut work.decay, aim);
        let by_gain =
            |one: &Candidate, other: &Candidate| (one.moved, one.slot).cmp(&(other.moved, other.slot));
        if matches!(aim, Aim::Tidy | Aim::Space) && !self.options.greedy_cleaner {
            // Those without a score, which nobody saw before, come last.
            let score = |candidate: &Candidate| candidate.score.unwrap_or(-1.0);
            candidates.sort_by(|one, other| score(other).total_cmp(&score(one)).then(by_gain(one, other)));
            let chosen = self.choose_among(&candidates, work, aim);
            if !chosen.is_empty() {
                return chosen;
            }
        }
        candidates.sort_by(by_gain);
        self.choose_among(&candidates, work, aim)
    }

    /// Bytes that an empty survivor segment takes, about: what is left of it goes to frame headers and ends.
    pub(super) fn survivor_capacity(&self) -> u64 {
        let segment_size = self.space.geometry().segment_size_bytes;
        let align = self.media.granularity().append_align_bytes();
        segment_size - SEGMENT_BODY_OFFSET - FOOTER_BYTES - 2 * align - segment_size / 256
    }

    /// Segments that may be worth it.
    fn candidates(&self, decay: &mut Decay, aim: Aim) -> Vec<Candidate> {
        let table = self.space.table();
        let align = self.media.granularity().append_align_bytes();
        let capacity = self.survivor_capacity();
        let worth = match aim {
            Aim::Anything => u64::MAX,
            Aim::Tidy | Aim::Space | Aim::Dead => capacity - capacity / WORTH_SHARE,
        };
        let slots = self.space.slot_count();
        decay.begin_look(self.oplog.appended_bytes(), u64::from(slots) * capacity);
        (0..slots)
            .map(SegmentSlot)
            .filter(|slot| self.may_be_victim(table.slot(*slot)))
            .map(|slot| {
                let info = table.slot(slot);
                let moved = moved_bytes(info, align);
                let score = decay.score(slot, info, 1.0 - moved as f64 / capacity as f64);
                let score = if moved == 0 { Some(f64::INFINITY) } else { score };
                Candidate { slot, moved, score }
            })
            .filter(|candidate| candidate.moved <= worth)
            .collect()
    }

    /// The first candidates, until the pass gains enough or its survivors would not fit.
    fn choose_among(&self, candidates: &[Candidate], work: &Work, aim: Aim) -> Vec<SegmentSlot> {
        let capacity = self.survivor_capacity();
        let slots = self.space.slot_count();
        let most = u64::from((slots / VICTIMS_SHARE).max(VICTIMS_MIN))
            .min(VICTIM_BYTES_MAX / self.space.geometry().segment_size_bytes)
            .max(u64::from(VICTIMS_MIN));
        let enough = match aim {
            Aim::Tidy | Aim::Space => capacity * u64::from((slots / GAIN_SHARE).max(GAIN_SEGMENTS_MIN)),
            Aim::Dead | Aim::Anything => u64::MAX,
        };
        let survivors = u64::from(self.space.available(Purpose::Survivor)).min(most);
        let mut room = survivors * capacity + self.room_in_survivors(work);
        let (mut chosen, mut moved) = (Vec::new(), 0);
        for candidate in candidates.iter().take(most as usize) {
            let gained = (chosen.len() as u64 * capacity).saturating_sub(moved);
            if candidate.moved > room || gained >= enough {
                break;
            }
            room -= candidate.moved;
            moved += candidate.moved;
            chosen.push(candidate.slot);
        }
        // Marks, and the head of the roll that lets go of them.
        let marks = (1 + self.streams() as u64) * self.media.granularity().append_align_bytes();
        let has_dead = candidates.iter().take(chosen.len()).any(|candidate| candidate.moved == 0);
        let cost = marks + self.cost_of_release(aim, has_dead);
        let is_worth_it = chosen.len() as u64 * capacity >= moved + cost + self.worthwhile_bytes();
        if aim != Aim::Anything && !is_worth_it {
            return Vec::new();
        }
        chosen
    }

    /// What the roll that ends a pass takes. One of an empty head takes a slot until the next pass frees the old head: that
    /// is lent, not spent, unless the pass itself counts on such a head.
    fn cost_of_release(&self, aim: Aim, has_dead: bool) -> u64 {
        let cost = self.oplog.cost_of_roll();
        let is_lent = cost == self.space.geometry().segment_size_bytes && !has_dead;
        match aim {
            Aim::Tidy => 0,
            Aim::Space if is_lent => 0,
            _ => cost,
        }
    }

    fn streams(&self) -> usize {
        let chosen = self.options.survivor_streams.map(|streams| streams.clamp(1, policy::STREAMS_MAX));
        chosen.unwrap_or_else(|| policy::streams(self.space.slot_count()))
    }

    /// The stream that what counts in a segment goes to: of a store that nobody writes to there is one.
    pub(super) fn stream_of(&self, decay: &Decay, slot: SegmentSlot, aim: Aim) -> usize {
        if aim == Aim::Dead {
            return 0;
        }
        let info = self.space.table().slot(slot);
        match info.class() {
            Some(SegmentClass::Survivor) => decay.next_stream(slot, info.id()).min(self.streams() - 1),
            _ => 0,
        }
    }

    /// Reads a segment and finds what in it counts. `None` if its bytes are not what was written: it is kept.
    ///
    /// # Errors
    /// Of the medium, but `Io`: what cannot be read is kept, too.
    pub(super) fn read_victim(&self, slot: SegmentSlot, stream: usize) -> Result<Option<Victim<I::Spot>>> {
        let info = self.space.table().slot(slot);
        let id = info.id();
        let read = self.read_segment(slot)?;
        let mut victim =
            read.map(|read| Victim { slot, id, stream, read, live: Vec::new(), commits: Vec::new() });
        CleanerCounters::add(&self.cleaner.counters.bytes_read, self.space.geometry().segment_size_bytes);
        if !victim.as_mut().is_some_and(|victim| self.sort_out(victim)) {
            info.quarantine();
            return Ok(None);
        }
        Ok(victim)
    }

    /// Bytes of a segment, where they do not lie in memory; `None` if they cannot be read.
    ///
    /// # Errors
    /// Of the medium, but `Io`.
    pub(in crate::engine) fn read_segment(&self, slot: SegmentSlot) -> Result<Option<Option<Vec<u8>>>> {
        if self.media.granularity() != FlushGranularity::File && !self.reader.is_guarded() {
            return Ok(Some(None));
        }
        let range = self.space.geometry().range_of(slot);
        let mut bytes = vec![0; range.len as usize];
        match self.media.read(range.offset, &mut bytes) {
            Ok(()) => Ok(Some(Some(bytes))),
            Err(Error::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All bytes of a segment: those that were read, or memory itself.
    pub(in crate::engine) fn slot_bytes<'a>(
        &'a self,
        slot: SegmentSlot,
        read: &'a Option<Vec<u8>>,
    ) -> &'a [u8] {
        let range = self.space.geometry().range_of(slot);
        match read {
            Some(bytes) => bytes,
            None => self.media.region().bytes(range).expect("slots lie in the pool"),
        }
    }

    /// Where the frames of a sealed segment lie, if its footer verifies.
    pub(in crate::engine) fn sealed_range(&self, slot: SegmentSlot, bytes: &[u8]) -> Option<(u32, u32)> {
        let info = self.space.table().slot(slot);
        let at = bytes.len() - FOOTER_BYTES as usize;
        let footer =
            Footer::decode(&bytes[at..], info.seed(), self.space.geometry().offset_of(slot) + at as u64)?;
        let is_right = footer.segment == info.id() && footer.data_end as usize <= at;
        (is_right && footer.data_start <= footer.data_end).then_some((footer.data_start, footer.data_end))
    }

    /// All bytes of the victim's segment.
    pub(super) fn bytes_of<'a, S>(&'a self, victim: &'a Victim<S>) -> &'a [u8] {
        self.slot_bytes(victim.slot, &victim.read)
    }

    /// Walks the segment; false if any of it does not verify.
    fn sort_out(&self, victim: &mut Victim<I::Spot>) -> bool {
        let mut entries = Entries { live: Vec::new(), unsure: Unsure::default() };
        let mut commits = Vec::new();
        let base = self.space.geometry().offset_of(victim.slot);
        let seed = self.space.table().slot(victim.slot).seed();
        let bytes = self.bytes_of(victim);
        let Some((start, end)) = self.sealed_range(victim.slot, bytes) else { return false };
        let mut is_whole = true;
        SegmentBytes::new(bytes, base, seed).walk(start, end, |piece| match piece {
            Piece::Frame { at, header, frame } => match header.kind {
                FrameKind::Ops | FrameKind::Batch | FrameKind::BatchPart | FrameKind::Survivor => {
                    is_whole &= self.find_live_in(base, at, &header, frame, &mut entries);
                }
                FrameKind::BatchCommit => {
                    let record = CommitRecord::decode(&frame[FRAME_HEADER_BYTES..]);
                    is_whole &= record.is_some();
                    commits.extend(record);
                }
                FrameKind::Mark | FrameKind::Close => {}
            },
            Piece::Repaired { .. } | Piece::Damage { .. } => is_whole = false,
        });
        self.sort_out_unsure(&mut entries);
        victim.live = entries.live;
        victim.commits = commits;
        is_whole
    }

    /// False if the frame does not hold what its header says.
    fn find_live_in<'a>(
        &self,
        base: u64,
        at: u32,
        header: &FrameHeader,
        frame: &'a [u8],
        entries: &mut Entries<'a, I::Spot>,
    ) -> bool {
        let mut seen = 0;
        for (op_at, op) in Ops::new(frame, header) {
            let Some(seq) = op.seq(header) else { return false };
            seen += 1;
            let key = self.key_of(&op);
            let unsure = &mut entries.unsure;
            unsure.entries.push((at + op_at, seq));
            unsure.at.push(Addr::from_offset(base + u64::from(at + op_at)));
            unsure.keys.push(key);
            unsure.keyspaces.push(op.keyspace());
            if unsure.keys.len() == LOOKUP_GROUP {
                self.sort_out_unsure(entries);
            }
        }
        seen == header.op_count
    }

    /// Asks the index which entries count.
    fn sort_out_unsure(&self, entries: &mut Entries<'_, I::Spot>) {
        let Unsure { entries: unsure, at, keys, keyspaces } = &mut entries.unsure;
        let mut found = [None; LOOKUP_GROUP];
        let guard = crate::epoch::pin();
        self.find_keys(keyspaces, keys, at, &mut found[..keys.len()]);
        drop(guard);
        for (((at, seq), key), spot) in unsure.drain(..).zip(keys.drain(..)).zip(found) {
            if let Some(spot) = spot {
                entries.live.push(Live { at, hash: key.hash, seq, spot });
            }
        }
        at.clear();
        keyspaces.clear();
    }
}
