//! Extents: where the bytes of large values lie. FlatStore's lazily persisted allocator: the bitmaps are only in DRAM and
//! are rebuilt from the descriptors that won at recovery, so allocating and freeing persist nothing. Invariants:
//!   - a block belongs to at most one extent that is live or awaits its grace period
//!   - block 0 of an extent segment holds its header and is never given out
//!   - an extent lies within one segment
//!   - nothing is allocated in a closed segment: the cleaner empties it
//!   - the lock of the segments is held across no growth and no drain: whoever overwrites a large value needs it

use super::{Purpose, Space};
use crate::constants::{BLOB_CHUNK_BYTES_MAX, EXTENT_BLOCK_BYTES_MAX};
use crate::error::{Error, Result};
use crate::format::SegmentClass;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::types::{MediaRange, SegmentSlot};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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

    /// The free runs, each cut off at `wanted` blocks.
    fn runs(&self, wanted: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (start, count) = self.find_run(from, wanted)?;
            from = start + count;
            Some((start, count))
        })
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

/// Free blocks that lie side by side.
struct Piece {
    slot: u32,
    first: u32,
    count: u32,
}

#[derive(Default)]
struct Segments {
    bitmaps: BTreeMap<u32, Bitmap>,
    closed: BTreeSet<u32>,
    used_blocks: u64,
    /// Bytes of extents that are dead and not free yet, those in their grace period included.
    retired_bytes: u64,
}

/// How much of extent segments is in use.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of all extents, in whole blocks.
    pub extent_bytes: u64,
    /// Those of extents that are dead and wait to be free.
    pub retired_bytes: u64,
    /// Bytes of the segments.
    pub segment_bytes: u64,
}

impl Usage {
    /// Bytes of extents that are not dead.
    pub fn live_bytes(&self) -> u64 {
        self.extent_bytes.saturating_sub(self.retired_bytes)
    }
}

impl Segments {
    /// Those in which room may be taken, with at least so many free blocks.
    fn open_with(&self, least: u32) -> impl Iterator<Item = (&u32, &Bitmap)> {
        self.bitmaps
            .iter()
            .filter(move |(slot, bitmap)| bitmap.free_blocks >= least && !self.closed.contains(slot))
    }

    fn free_blocks(&self) -> u64 {
        self.bitmaps.values().map(|bitmap| u64::from(bitmap.free_blocks)).sum()
    }
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
    /// Values on their way: their extents are taken and no entry names them yet.
    pub staged: AtomicU64,
    /// A value was refused for want of free blocks, wherever they lie.
    lacks_blocks: AtomicBool,
}

impl Extents {
    /// An allocator without segments; recovery adopts those it finds.
    pub fn new(space: Arc<Space>) -> Self {
        let block_bytes = Self::block_bytes_for(space.geometry().segment_size_bytes);
        let segments = Mutex::new(Segments::default());
        Extents {
            space,
            block_bytes,
            segments,
            staged: AtomicU64::new(0),
            lacks_blocks: AtomicBool::new(false),
        }
    }

    /// Bytes of a block for a segment size.
    pub fn block_bytes_for(segment_size_bytes: u64) -> u64 {
        EXTENT_BLOCK_BYTES_MAX.min(segment_size_bytes / 8)
    }

    fn blocks_per_segment(&self) -> u32 {
        (self.space.geometry().segment_size_bytes / self.block_bytes) as u32
    }

    /// Blocks of the longest piece: a chunk, or all of a segment but its header.
    fn piece_blocks_max(&self) -> u32 {
        ((BLOB_CHUNK_BYTES_MAX / self.block_bytes) as u32).min(self.blocks_per_segment() - 1)
    }

    /// Finds room for `len` bytes as at most `pieces_max` ranges of at most a chunk each, opening extent segments as needed.
    /// One range if there is a free run that is long enough; else the longest ones, and of a value that would need too many
    /// of the short ones, new segments instead, as far as `purpose` may take slots for them.
    ///
    /// # Errors
    /// See [`NoRoom`]; `TooLarge` if not even whole segments were enough. Nothing was changed by either.
    pub fn allocate(&self, len: u64, pieces_max: usize, purpose: Purpose) -> Result<Vec<MediaRange>, NoRoom> {
        let blocks = len.div_ceil(self.block_bytes);
        let most = pieces_max as u64 * u64::from(self.piece_blocks_max());
        if blocks > most {
            let max = most * self.block_bytes;
            return Err(NoRoom::Refused(Error::TooLarge { what: "value in this pool", len, max }));
        }
        // Every piece but the last has so many blocks, so there are at most `pieces_max`.
        let shortest = blocks.div_ceil(pieces_max as u64) as u32;
        // For this value alone, until it is placed: nobody waits while they are opened.
        let mut opened = Vec::new();
        loop {
            let mut segments = self.segments.lock();
            let (pieces, missing) = match self.one_run(&segments, blocks) {
                Some(piece) => (vec![piece], 0),
                None => self.several_runs(&segments, &opened, blocks, shortest),
            };
            if missing == 0 {
                self.insert(&mut segments, &opened);
                return Ok(self.take(&mut segments, len, pieces));
            }
            let free: u64 = segments.open_with(1).map(|(_, bitmap)| u64::from(bitmap.free_blocks)).sum();
            drop(segments);
            if let Err(error) = self.open_segments(missing, purpose, &mut opened) {
                self.lacks_blocks.store(free < blocks, Ordering::Relaxed);
                let mut segments = self.segments.lock();
                self.insert(&mut segments, &opened);
                self.note_usage(&segments);
                return Err(error);
            }
        }
    }

    /// Opens so many segments.
    fn open_segments(&self, count: usize, purpose: Purpose, opened: &mut Vec<u32>) -> Result<(), NoRoom> {
        // Slots for all of it before any is opened: a value that is refused must not leave segments behind it.
        let mut slots = self.space.take_slots(count, purpose).map_err(NoRoom::Refused)?;
        while let Some(slot) = slots.pop() {
            if let Err(error) = self.space.open_segment(SegmentClass::Extent, slot) {
                slots.into_iter().for_each(|slot| self.space.return_slot(slot));
                return Err(NoRoom::Unknown(error));
            }
            opened.push(slot.0);
        }
        Ok(())
    }

    /// Segments in which nothing is are for everybody.
    fn insert(&self, segments: &mut Segments, opened: &[u32]) {
        segments.bitmaps.extend(opened.iter().map(|slot| (*slot, Bitmap::new(self.blocks_per_segment()))));
    }

    /// The first free run that holds all `blocks`.
    fn one_run(&self, segments: &Segments, blocks: u64) -> Option<Piece> {
        let wanted = u32::try_from(blocks).ok().filter(|blocks| *blocks <= self.piece_blocks_max())?;
        segments.open_with(wanted).find_map(|(slot, bitmap)| {
            let (first, count) = bitmap.runs(wanted).find(|(_, count)| *count == wanted)?;
            Some(Piece { slot: *slot, first, count })
        })
    }

    /// The longest pieces of free runs and of empty segments, none shorter than `shortest`, that together have `blocks` or
    /// more; and how many segments are missing for that.
    fn several_runs(
        &self,
        segments: &Segments,
        empty: &[u32],
        blocks: u64,
        shortest: u32,
    ) -> (Vec<Piece>, usize) {
        let mut pieces = Vec::new();
        for (slot, bitmap) in segments.open_with(1) {
            pieces.extend(bitmap.runs(u32::MAX).flat_map(|run| self.pieces_of(*slot, run, shortest)));
        }
        let whole = (1, self.blocks_per_segment() - 1);
        pieces.extend(empty.iter().flat_map(|slot| self.pieces_of(*slot, whole, shortest)));
        let found: u64 = pieces.iter().map(|piece| u64::from(piece.count)).sum();
        let per_segment: u64 = self.pieces_of(0, whole, shortest).map(|piece| u64::from(piece.count)).sum();
        let missing = blocks.saturating_sub(found).div_ceil(per_segment) as usize;
        pieces.sort_unstable_by_key(|piece| (Reverse(piece.count), piece.slot, piece.first));
        (pieces, missing)
    }

    /// A run cut into pieces of at most a chunk; what remains and is shorter than `shortest` is left out.
    fn pieces_of(&self, slot: u32, run: (u32, u32), shortest: u32) -> impl Iterator<Item = Piece> + use<> {
        let (longest, (first, count)) = (self.piece_blocks_max(), run);
        (0..count)
            .step_by(longest as usize)
            .map(move |at| Piece { slot, first: first + at, count: longest.min(count - at) })
            .filter(move |piece| piece.count >= shortest)
    }

    /// Takes as much of the pieces, in their order, as `len` bytes need.
    fn take(&self, segments: &mut Segments, len: u64, pieces: Vec<Piece>) -> Vec<MediaRange> {
        let (mut missing, mut ranges) = (len, Vec::new());
        for piece in pieces {
            if missing == 0 {
                break;
            }
            let bytes = missing.min(u64::from(piece.count) * self.block_bytes);
            let count = bytes.div_ceil(self.block_bytes) as u32;
            segments.bitmaps.get_mut(&piece.slot).expect("found there").set(piece.first, count, true);
            segments.used_blocks += u64::from(count);
            let start = self.space.geometry().offset_of(SegmentSlot(piece.slot));
            ranges.push(MediaRange::new(start + u64::from(piece.first) * self.block_bytes, bytes));
            missing -= bytes;
        }
        assert_eq!(missing, 0, "blocks were counted before");
        self.note_usage(segments);
        ranges
    }

    /// Frees ranges that were allocated here and that nobody can see any more.
    pub fn release(&self, ranges: &[MediaRange]) {
        self.give_back(&mut self.segments.lock(), ranges);
    }

    /// Takes out the segments in which no extent is, if there are `least` of them or more: nothing is allocated there any
    /// more.
    pub fn take_empty(&self, least: usize) -> Vec<SegmentSlot> {
        // The first block is the header's.
        let free = self.blocks_per_segment() - 1;
        let mut segments = self.segments.lock();
        let is_empty = |(_, bitmap): &(&u32, &Bitmap)| bitmap.free_blocks == free;
        let empty: Vec<u32> = segments.bitmaps.iter().filter(is_empty).map(|(slot, _)| *slot).collect();
        if empty.len() < least {
            return Vec::new();
        }
        segments.bitmaps.retain(|_, bitmap| bitmap.free_blocks != free);
        empty.iter().for_each(|slot| {
            segments.closed.remove(slot);
        });
        self.note_usage(&segments);
        empty.into_iter().map(SegmentSlot).collect()
    }

    /// True if the last value that was refused lacked free blocks: had they only lain together, or in a slot of their own,
    /// that would not have helped.
    pub fn take_lack_of_blocks(&self) -> bool {
        self.lacks_blocks.swap(false, Ordering::Relaxed)
    }

    /// Closes those segments with the fewest blocks in use whose blocks together fit a segment, if moving them frees more
    /// segments than it fills, or if `must`. Which they are, and their bytes in use.
    pub fn close_sparse(
        &self,
        must: bool,
        may_close: impl Fn(SegmentSlot) -> bool,
    ) -> Vec<(SegmentSlot, u64)> {
        let capacity = self.blocks_per_segment() - 1;
        let mut segments = self.segments.lock();
        let is_closed = |slot: &u32| segments.closed.contains(slot);
        let mut sparse: Vec<(u32, u32)> = segments
            .bitmaps
            .iter()
            .map(|(slot, bitmap)| (capacity - bitmap.free_blocks, *slot))
            .filter(|(used, slot)| {
                *used > 0 && *used < capacity && !is_closed(slot) && may_close(SegmentSlot(*slot))
            })
            .collect();
        sparse.sort_unstable();
        let mut room = capacity;
        sparse.retain(|(used, _)| {
            let fits = *used <= room;
            room = if fits { room - used } else { 0 };
            fits
        });
        let free_in_them: u64 = sparse.iter().map(|(used, _)| u64::from(capacity - used)).sum();
        let used: u64 = sparse.iter().map(|(used, _)| u64::from(*used)).sum();
        let elsewhere = segments.free_blocks() - free_in_them;
        let filled = usize::from(used > elsewhere);
        if sparse.len() <= filled && !must {
            return Vec::new();
        }
        segments.closed.extend(sparse.iter().map(|(_, slot)| *slot));
        sparse
            .into_iter()
            .map(|(used, slot)| (SegmentSlot(slot), u64::from(used) * self.block_bytes))
            .collect()
    }

    /// Room may be taken in a closed segment again.
    pub fn reopen(&self, slot: SegmentSlot) {
        self.segments.lock().closed.remove(&slot.0);
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
        self.note_usage(segments);
    }

    /// These extents are dead, and wait until nobody can see them: the pool need not grow for their sake.
    pub fn note_retired(&self, ranges: &[MediaRange]) {
        self.segments.lock().retired_bytes += self.bytes_taken(ranges);
    }

    /// Frees ranges that were noted as retired.
    pub fn release_retired(&self, ranges: &[MediaRange]) {
        let mut segments = self.segments.lock();
        segments.retired_bytes -= self.bytes_taken(ranges);
        self.give_back(&mut segments, ranges);
    }

    /// Has the space know how much of extent segments is in use: it grows or is cleaned by that.
    fn note_usage(&self, segments: &Segments) {
        let usage = self.usage_of(segments);
        self.space.note_extent_bytes(usage.segment_bytes, usage.live_bytes());
    }

    fn usage_of(&self, segments: &Segments) -> Usage {
        Usage {
            extent_bytes: segments.used_blocks * self.block_bytes,
            retired_bytes: segments.retired_bytes,
            segment_bytes: segments.bitmaps.len() as u64 * self.space.geometry().segment_size_bytes,
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

    /// Bytes that ranges take, in whole blocks.
    pub fn bytes_taken(&self, ranges: &[MediaRange]) -> u64 {
        ranges.iter().map(|range| range.len.next_multiple_of(self.block_bytes)).sum()
    }

    /// True if all of a range lies in blocks that are taken.
    pub fn is_taken(&self, range: MediaRange) -> bool {
        let Some((slot, start, count)) = self.blocks_named(range) else { return false };
        let segments = self.segments.lock();
        let Some(bitmap) = segments.bitmaps.get(&slot.0) else { return false };
        (start..start + count).all(|block| bitmap.is_used(block))
    }

    /// How much is in use, all of it at one moment.
    pub fn usage(&self) -> Usage {
        self.usage_of(&self.segments.lock())
    }
}
