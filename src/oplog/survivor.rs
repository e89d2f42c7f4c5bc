//! Survivor segments: where the cleaner puts what it moves. Invariants:
//!   - a segment is OPEN durably before a byte in it is named, and only the cleaner appends to it
//!   - the base stamp of a survivor frame is the stamp of the move: above that of every frame it copies from
//!   - the frames of a slice of a pass are drained together, then a mark says so: what victims are freed for is no torn tail

use super::OpLog;
use super::append::{Head, Placed};
use crate::error::Result;
use crate::format::{
    FOOTER_BYTES, FrameBuilder, FrameKind, SEGMENT_BODY_OFFSET, SegmentClass, align_up, filter_len,
    frame_checksum,
};
use crate::media::Site;
use crate::media::durable::InFlight;
use crate::types::{SegmentSlot, Seq};

/// What the operations of a survivor frame add to their segment.
#[derive(Debug, Default)]
pub struct Movers {
    /// Short hashes of the keys.
    pub hashes: Vec<u32>,
    /// Original stamps.
    pub seqs: Vec<Seq>,
}

impl OpLog {
    /// Opens a survivor segment in a free `slot`.
    ///
    /// # Errors
    /// `Unsupported`: nothing was changed. `Io`: what of it is on the medium is unknown.
    pub fn open_survivor(&self, slot: SegmentSlot) -> Result<Head> {
        let id = self.space.open_segment(SegmentClass::Survivor, slot)?;
        Ok(Head::empty(self, slot, id, SEGMENT_BODY_OFFSET as u32))
    }

    /// True if a frame of `bytes` with `entries` entries fits behind what the segment holds, and a mark behind it.
    pub fn fits_survivor(&self, head: &Head, bytes: u64, entries: usize) -> bool {
        let end = align_up(u64::from(head.tail) + bytes, self.align_bytes) + self.align_bytes;
        let filter = filter_len((head.hashes.len() + entries) as u64);
        end + filter + FOOTER_BYTES <= self.space.geometry().segment_size_bytes
    }

    /// Bytes that the segment can still take, about.
    pub fn room_in_survivor(&self, head: &Head) -> u64 {
        let used = u64::from(head.tail) + filter_len(head.hashes.len() as u64) + FOOTER_BYTES;
        self.space.geometry().segment_size_bytes.saturating_sub(used + 2 * self.align_bytes)
    }

    /// Appends moved operations, or with none of them something else that must not be lost. Not drained.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub fn append_survivor(
        &self,
        head: &mut Head,
        frame: &mut FrameBuilder,
        movers: &Movers,
        stamp: Seq,
    ) -> Result<InFlight<Placed>> {
        self.check_poison()?;
        let end = u64::from(head.tail) + frame.len_bytes();
        let (ops, op_bytes) = (frame.op_count(), frame.op_bytes());
        frame.pad(align_up(end, self.align_bytes) - end);
        let info = self.space.table().slot(head.slot);
        let offset = head.base + u64::from(head.tail);
        let bytes = frame.finish(info.seed(), offset, stamp, head.durable_end);
        let placed = Placed {
            offset,
            base_seq: stamp,
            segment: head.id,
            checksum: frame_checksum(bytes),
            len: bytes.len() as u64,
        };
        let written = InFlight::write_through(&*self.media, offset, bytes, placed);
        let written = written.map_err(|error| self.poison_with(error))?;
        head.tail += placed.len as u32;
        head.hashes.extend_from_slice(&movers.hashes);
        head.min_seq = movers.seqs.iter().copied().fold(head.min_seq, Seq::min);
        head.max_seq = movers.seqs.iter().copied().fold(head.max_seq, Seq::max);
        info.add_entries(ops as u32, op_bytes, head.tail, stamp);
        info.add_tombstones(frame.tombstone_bytes());
        Ok(written)
    }

    /// The segment's frames are durable: a mark behind them proves it, so that damage to them is told from a torn tail. How many
    /// bytes it took.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub fn mark_survivor(&self, head: &mut Head, stamp: Seq) -> Result<u64> {
        head.durable_end = head.tail;
        debug_assert!(self.fits_survivor(head, 0, 0), "a frame leaves room for the mark");
        let mut mark = FrameBuilder::new(FrameKind::Mark);
        let mark = self.append_survivor(head, &mut mark, &Movers::default(), stamp)?;
        let drained = mark.drain(&*self.media, Site::SurvivorMarkDrain);
        let placed = drained.map_err(|error| self.poison_with(error))?.into_inner();
        head.durable_end = head.tail;
        Ok(placed.len)
    }

    /// Seals a full segment. Its data is durable, or in flight on this thread.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub fn seal_survivor(&self, head: &Head) -> Result<()> {
        self.seal(head).map_err(|error| self.poison_with(error))
    }
}
