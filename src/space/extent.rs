//! Extents: where the bytes of large values lie. FlatStore's lazily persisted allocator: the bitmaps are only in DRAM and
//! are rebuilt from the descriptors that won at recovery, so allocating and freeing persist nothing. Invariants:
//!   - a block belongs to at most one extent that is live or awaits its grace period
//!   - block 0 of an extent segment holds its header and is never given out
//!   - an extent lies within one segment

use super::{Purpose, Space};
use crate::constants::{BLOB_CHUNK_BYTES_MAX, EXTENT_BLOCK_BYTES_MAX};
use crate::error::{Error, Result};
use crate::format::SegmentClass;
use crate::sync::{Arc, Mutex};
use crate::types::{MediaRange, SegmentSlot};
use std::collections::BTreeMap;

/// Free blocks of one extent segment; a set bit is a block in use.
struct Bitmap {
    used: Vec<u64>,
    free_blocks: u32,
}

impl Bitmap {
    fn new(blocks: u32) -> Self {
        let mut bitmap = Bitmap { used: vec![0; blocks.div_ceil(64) as usize], free_blocks: blocks };
        bitmap.set(0, 1, true);
        for beyond in blocks..bitmap.used.len() as u32 * 64 {
            bitmap.used[beyond as usize / 64] |= 1 << (beyond % 64);
        }
        bitmap
    }

    fn is_used(&self, block: u32) -> bool {
        self.used[block as usize / 64] & (1 << (block % 64)) != 0
    }

    fn set(&mut self, first: u32, count: u32, used: bool) {
        for block in first..first + count {
            assert_ne!(self.is_used(block), used, "block {block} is taken or freed twice");
            self.used[block as usize / 64] ^= 1 << (block % 64);
        }
        if used { self.free_blocks -= count } else { self.free_blocks += count }
    }

    /// The first free run, at most `wanted` blocks of it, at or behind `from`.
    fn find_run(&self, from: u32, wanted: u32) -> Option<(u32, u32)> {
        let blocks = self.used.len() as u32 * 64;
        let mut start = from;
        while start < blocks {
            let word = !self.used[start as usize / 64] >> (start % 64);
            if word == 0 {
                start = (start / 64 + 1) * 64;
                continue;
            }
            start += word.trailing_zeros();
            let mut end = start;
            while end < blocks && end - start < wanted && !self.is_used(end) {
                end += 1;
            }
            return Some((start, end - start));
        }
        None
    }
}

struct Segments {
    bitmaps: BTreeMap<u32, Bitmap>,
    used_blocks: u64,
}

/// Why no room was found. Nothing stays allocated.
#[derive(Debug)]
pub enum NoRoom {
    /// The pool is full or could not grow.
    Refused(Error),
    /// A segment that was being opened: what of it is on the medium is unknown.
    Unknown(Error),
}

/// The allocator of extents.
pub struct Extents {
    space: Arc<Space>,
    block_bytes: u64,
    segments: Mutex<Segments>,
}

impl Extents {
    /// An allocator without segments; recovery adopts those it finds.
    pub fn new(space: Arc<Space>) -> Self {
        let block_bytes = Self::block_bytes_for(space.geometry().segment_size_bytes);
        let segments = Mutex::new(Segments { bitmaps: BTreeMap::new(), used_blocks: 0 });
        Extents { space, block_bytes, segments }
    }

    /// Bytes of a block for a segment size.
    pub fn block_bytes_for(segment_size_bytes: u64) -> u64 {
        EXTENT_BLOCK_BYTES_MAX.min(segment_size_bytes / 8)
    }

    fn blocks_per_segment(&self) -> u32 {
        (self.space.geometry().segment_size_bytes / self.block_bytes) as u32
    }

    /// Finds room for `len` bytes as ranges of at most a chunk each, opening extent segments as needed.
    ///
    /// # Errors
    /// See [`NoRoom`].
    pub fn allocate(&self, len: u64) -> Result<Vec<MediaRange>, NoRoom> {
        let mut segments = self.segments.lock();
        // Slots for all of it before any is opened: a value that is refused must not leave segments behind it.
        let block = self.block_bytes;
        let free = segments.bitmaps.values().map(|bitmap| u64::from(bitmap.free_blocks) * block).sum::<u64>();
        let missing = len.div_ceil(block).saturating_mul(block).saturating_sub(free);
        let per_segment = u64::from(self.blocks_per_segment() - 1) * block;
        let needed = missing.div_ceil(per_segment) as usize;
        let mut slots = self.space.take_slots(needed, Purpose::Put).map_err(NoRoom::Refused)?;
        let result = self.allocate_in(&mut segments, len, &mut slots);
        slots.into_iter().for_each(|slot| self.space.return_slot(slot));
        result
    }

    fn allocate_in(
        &self,
        segments: &mut Segments,
        len: u64,
        slots: &mut Vec<SegmentSlot>,
    ) -> Result<Vec<MediaRange>, NoRoom> {
        let mut ranges = Vec::new();
        let mut missing = len;
        while missing > 0 {
            if let Some(range) = self.take_from_existing(segments, missing) {
                missing -= range.len;
                ranges.push(range);
                continue;
            }
            let slot = slots.pop().expect("blocks were counted before");
            if let Err(error) = self.space.open_segment(SegmentClass::Extent, slot) {
                self.give_back(segments, &ranges);
                return Err(NoRoom::Unknown(error));
            }
            segments.bitmaps.insert(slot.0, Bitmap::new(self.blocks_per_segment()));
        }
        Ok(ranges)
    }

    fn take_from_existing(&self, segments: &mut Segments, missing: u64) -> Option<MediaRange> {
        let wanted = missing.min(BLOB_CHUNK_BYTES_MAX).div_ceil(self.block_bytes) as u32;
        // The longest of the first runs wins only where no run is long enough: whole chunks keep reads in one piece.
        let mut best: Option<(u32, u32, u32)> = None;
        for (slot, bitmap) in segments.bitmaps.iter().filter(|(_, bitmap)| bitmap.free_blocks > 0) {
            let mut from = 0;
            while let Some((start, count)) = bitmap.find_run(from, wanted) {
                if best.is_none_or(|(_, _, longest)| count > longest) {
                    best = Some((*slot, start, count));
                }
                if count == wanted {
                    break;
                }
                from = start + count;
            }
            if best.is_some_and(|(_, _, count)| count == wanted) {
                break;
            }
        }
        let (slot, start, count) = best?;
        segments.bitmaps.get_mut(&slot).expect("found above").set(start, count, true);
        segments.used_blocks += u64::from(count);
        let offset = self.space.geometry().offset_of(SegmentSlot(slot)) + u64::from(start) * self.block_bytes;
        Some(MediaRange::new(offset, missing.min(u64::from(count) * self.block_bytes)))
    }

    /// Frees ranges that were allocated here and that nobody can see any more.
    pub fn release(&self, ranges: &[MediaRange]) {
        self.give_back(&mut self.segments.lock(), ranges);
    }

    /// The blocks of a range that may lie anywhere; `None` if it is no extent: in the pool head, or not within the blocks
    /// of one segment.
    fn blocks_named(&self, range: MediaRange) -> Option<(SegmentSlot, u32, u32)> {
        if range.offset < self.space.geometry().head_size_bytes {
            return None;
        }
        let (slot, start, count) = self.blocks_of(range);
        let is_inside = start.checked_add(count).is_some_and(|end| end <= self.blocks_per_segment());
        (start > 0 && count > 0 && is_inside).then_some((slot, start, count))
    }

    fn give_back(&self, segments: &mut Segments, ranges: &[MediaRange]) {
        for range in ranges {
            let (slot, start, count) = self.blocks_of(*range);
            segments
                .bitmaps
                .get_mut(&slot.0)
                .expect("an extent lies in an extent segment")
                .set(start, count, false);
            segments.used_blocks -= u64::from(count);
        }
    }

    fn blocks_of(&self, range: MediaRange) -> (SegmentSlot, u32, u32) {
        let geometry = self.space.geometry();
        let slot = geometry.slot_of(range.offset);
        let start = (range.offset - geometry.offset_of(slot)) / self.block_bytes;
        (slot, start as u32, range.len.div_ceil(self.block_bytes) as u32)
    }

    /// Recovery: an extent segment that is in use.
    pub fn adopt_segment(&self, slot: SegmentSlot) {
        self.segments.lock().bitmaps.insert(slot.0, Bitmap::new(self.blocks_per_segment()));
    }

    /// Recovery: an extent that a winning descriptor names. False if it does not lie in free blocks of an extent
    /// segment: the descriptor is damaged.
    pub fn adopt_extent(&self, range: MediaRange) -> bool {
        let Some((slot, start, count)) = self.blocks_named(range) else { return false };
        let mut segments = self.segments.lock();
        let Some(bitmap) = segments.bitmaps.get_mut(&slot.0) else { return false };
        if (start..start + count).any(|block| bitmap.is_used(block)) {
            return false;
        }
        bitmap.set(start, count, true);
        segments.used_blocks += u64::from(count);
        true
    }

    /// Bytes in use by extents, and bytes of all extent segments.
    pub fn usage_bytes(&self) -> (u64, u64) {
        let segments = self.segments.lock();
        let total = segments.bitmaps.len() as u64 * self.space.geometry().segment_size_bytes;
        (segments.used_blocks * self.block_bytes, total)
    }
}
