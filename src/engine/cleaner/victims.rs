//! Which segments are emptied, and what in them counts.

use super::super::Engine;
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
use crate::types::{Addr, SegmentId, SegmentSlot, Seq};

/// What an entry of a log head grows by when it is moved, about: distance, age, and what alignment makes of them.
const MOVED_GROWTH_BYTES: u64 = 8;
/// Victims of a pass: their bytes are held while it runs.
pub(super) const VICTIMS_MAX: usize = 16;

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

    /// Looks at tombstones that nobody looked at before it gives up, whatever that costs.
    pub(super) fn is_urgent(self) -> bool {
        matches!(self, Aim::Space | Aim::Anything)
    }
}

/// An entry that counts.
pub(super) struct Live {
    /// Where in the segment.
    pub(super) at: u32,
    pub(super) hash: u64,
    pub(super) seq: Seq,
}

/// A segment whose bytes verified, and what in it counts.
pub(super) struct Victim {
    pub(super) slot: SegmentSlot,
    pub(super) id: SegmentId,
    /// Its bytes where they do not lie in memory.
    read: Option<Vec<u8>>,
    pub(super) live: Vec<Live>,
    pub(super) commits: Vec<CommitRecord>,
}

/// A segment is worth emptying if this share of a survivor segment is gained.
const WORTH_SHARE: u64 = 64;
/// Bytes that an empty survivor segment takes, about: what is left of it goes to frame headers and ends.
pub(super) fn survivor_capacity(segment_size: u64, align_bytes: u64) -> u64 {
    segment_size - SEGMENT_BODY_OFFSET - FOOTER_BYTES - 2 * align_bytes - segment_size / 256
}

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

    /// The segments with the least that counts, as many as the slots for survivors allow; none if emptying them gains
    /// nothing.
    pub(super) fn choose_victims(&self, work: &Work, aim: Aim) -> Vec<SegmentSlot> {
        if aim == Aim::Dead {
            return self.choose_idle_victims(work);
        }
        let table = self.space.table();
        let align = self.media.granularity().append_align_bytes();
        let capacity = survivor_capacity(self.space.geometry().segment_size_bytes, align);
        let worth = match aim {
            Aim::Anything => u64::MAX,
            Aim::Tidy | Aim::Space | Aim::Dead => capacity - capacity / WORTH_SHARE,
        };
        let mut candidates: Vec<(u64, SegmentSlot)> = (0..self.space.slot_count())
            .map(SegmentSlot)
            .filter(|slot| self.may_be_victim(table.slot(*slot)))
            .map(|slot| (moved_bytes(table.slot(slot), align), slot))
            .filter(|(moved, _)| *moved <= worth)
            .collect();
        candidates.sort();
        let slots = u64::from(self.space.available(Purpose::Survivor)).min(VICTIMS_MAX as u64);
        let mut room = slots * capacity;
        room += work.survivor.as_ref().map_or(0, |head| self.oplog.room_in_survivor(head));
        let fits = |(moved, _): &(u64, SegmentSlot)| {
            let fits = *moved <= room;
            room = room.saturating_sub(*moved);
            fits
        };
        let chosen: Vec<_> = candidates.into_iter().take_while(fits).take(VICTIMS_MAX).collect();
        let moved: u64 = chosen.iter().map(|(moved, _)| *moved).sum();
        // A mark, and the head of the roll that lets go of them.
        let cost = 2 * align + if aim == Aim::Tidy { 0 } else { self.oplog.cost_of_roll() };
        let is_worth_it = chosen.len() as u64 * capacity >= moved + cost + self.worthwhile_bytes();
        if aim != Aim::Anything && !is_worth_it {
            return Vec::new();
        }
        chosen.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Reads a segment and finds what in it counts. `None` if its bytes are not what was written: it is kept.
    ///
    /// # Errors
    /// Of the medium, but `Io`: what cannot be read is kept, too.
    pub(super) fn read_victim(&self, slot: SegmentSlot) -> Result<Option<Victim>> {
        let info = self.space.table().slot(slot);
        let read = self.read_segment(slot)?;
        let mut victim =
            read.map(|read| Victim { slot, id: info.id(), read, live: Vec::new(), commits: Vec::new() });
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
    pub(super) fn bytes_of<'a>(&'a self, victim: &'a Victim) -> &'a [u8] {
        self.slot_bytes(victim.slot, &victim.read)
    }

    /// Walks the segment; false if any of it does not verify.
    fn sort_out(&self, victim: &mut Victim) -> bool {
        let (mut live, mut commits) = (Vec::new(), Vec::new());
        let base = self.space.geometry().offset_of(victim.slot);
        let seed = self.space.table().slot(victim.slot).seed();
        let bytes = self.bytes_of(victim);
        let Some((start, end)) = self.sealed_range(victim.slot, bytes) else { return false };
        let mut is_whole = true;
        SegmentBytes::new(bytes, base, seed).walk(start, end, |piece| match piece {
            Piece::Frame { at, header, frame } => match header.kind {
                FrameKind::Ops | FrameKind::Batch | FrameKind::BatchPart | FrameKind::Survivor => {
                    is_whole &= self.find_live_in(base, at, &header, frame, &mut live);
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
        victim.live = live;
        victim.commits = commits;
        is_whole
    }

    fn find_live_in(
        &self,
        base: u64,
        at: u32,
        header: &FrameHeader,
        frame: &[u8],
        live: &mut Vec<Live>,
    ) -> bool {
        let _guard = crate::epoch::pin();
        let mut seen = 0;
        for (op_at, op) in Ops::new(frame, header) {
            let Some(seq) = op.seq(header) else { return false };
            seen += 1;
            let key: Key<'_> = self.key(op.key());
            let at = at + op_at;
            let here = Addr::from_offset(base + u64::from(at));
            if self.index.get(key, |addr| (addr == here).then_some(())).is_some() {
                live.push(Live { at, hash: key.hash, seq });
            }
        }
        seen == header.op_count
    }
}
