//! From an address to a verified entry. No locks, no writes: an address is only read under an epoch guard or a pin, and
//! the bytes behind it are write-once until the segment is freed after the grace period.

use crate::checksum::{CheckSite, SegmentSeed, hash64};
use crate::constants::{CACHE_LINE_BYTES, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::format::{FRAME_HEADER_BYTES, FrameHeader, OP_FIELDS_BYTES_MAX, Op, Put, keyspace_hash_seed};
use crate::index::LogKeys;
use crate::media::guarded::{GuardedReads, Scratch};
use crate::media::{Media, Region};
use crate::space::table::{SegmentTable, SlotInfo};
use crate::space::{Geometry, Space};
use crate::sync::Arc;
use crate::types::{Addr, KeyspaceId, MediaRange, Seq};

/// What a guarded read of an entry asks for before it knows the entry's length.
const FIRST_COPY_BYTES: u64 = 1024;

/// An entry whose first so many bytes are asked for ahead lies within them, or is long enough to be waited for.
const READ_AHEAD_BYTES: u64 = 255;

/// Longer ranges are asked for before they are read: else each page of them is waited for by itself.
pub const BRING_BYTES_MIN: u64 = 2 * PAGE_BYTES;

/// Entries of which it is asked whether they are cached, for all that are read ahead together: each is a system call.
const READ_AHEAD_LOOKS: usize = 2;

/// Reads entries of the log.
#[derive(Clone)]
pub struct EntryReader {
    /// That of the medium, which goes after it.
    region: Arc<Region>,
    media: Arc<dyn Media>,
    space: Arc<Space>,
    hash_seed: u64,
    /// Copies instead of loads from the mapping, where the store asks for it.
    guarded: Option<Arc<GuardedReads>>,
}

/// Entries in the mapping, with what their reads share looked up once.
pub struct MappedEntries<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
    table: &'a SegmentTable,
}

impl<'a> MappedEntries<'a> {
    /// The entry at `addr`, not verified, and the segment it lies in; `None` if it is no put with its value inside.
    #[inline(always)]
    pub fn put(&self, addr: Addr) -> Option<(Put<'a>, &'a SlotInfo)> {
        let (bytes, segment) = self.bytes(addr)?;
        Some((Put::decode(bytes)?, segment))
    }

    /// The bytes from `addr` to the end of the segment it lies in, and that segment.
    #[inline(always)]
    pub fn bytes(&self, addr: Addr) -> Option<(&'a [u8], &'a SlotInfo)> {
        let offset = addr.offset();
        let slot = self.geometry.slot_of(offset);
        let end = self.geometry.offset_of(slot) + self.geometry.segment_size_bytes;
        // Before the entry is waited for.
        let segment = self.table.slot(slot);
        Some((self.region.bytes(MediaRange::new(offset, end - offset))?, segment))
    }

    /// As [`EntryReader::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, addr: Addr) {
        prefetch_entry(self.region, addr);
    }
}

impl EntryReader {
    /// A reader for a pool whose keys are hashed with `hash_seed`.
    pub fn new(
        media: Arc<dyn Media>,
        space: Arc<Space>,
        hash_seed: u64,
        guarded: Option<Arc<GuardedReads>>,
    ) -> Self {
        EntryReader { region: Arc::clone(media.region()), media, space, hash_seed, guarded }
    }

    /// What the keys of a keyspace are hashed with.
    #[inline]
    pub fn hash_seed(&self, keyspace: KeyspaceId) -> u64 {
        keyspace_hash_seed(self.hash_seed, keyspace)
    }

    /// The seeded hash of an entry's key.
    #[inline]
    pub fn hash_of(&self, op: &Op<'_>) -> u64 {
        hash64(self.hash_seed(op.keyspace()), op.key())
    }

    /// The entry at `addr`, not verified; `None` if its fields are impossible, or, with guarded reads, if it cannot be
    /// read, which `scratch` then knows.
    #[inline]
    pub fn op<'a>(&'a self, addr: Addr, scratch: &'a Scratch) -> Option<Op<'a>> {
        let offset = addr.offset();
        let end = self.space.geometry().segment_end(offset);
        match &self.guarded {
            None => Op::decode(self.region.bytes(MediaRange::new(offset, end - offset))?),
            Some(guarded) => copied_op(guarded, offset, end, scratch),
        }
    }

    /// For reads of many entries; `None` if nothing may be loaded from the mapping.
    #[inline]
    pub fn mapped(&self) -> Option<MappedEntries<'_>> {
        let space = &*self.space;
        let entries =
            MappedEntries { region: &self.region, geometry: space.geometry(), table: space.table() };
        self.guarded.is_none().then_some(entries)
    }

    /// The bytes of `range`, of the mapping or copied into `scratch`; `None` if there are none or they cannot be read.
    #[inline]
    pub fn bytes<'a>(&'a self, range: MediaRange, scratch: &'a Scratch) -> Option<&'a [u8]> {
        match &self.guarded {
            None => {
                let bytes = self.region.bytes(range)?;
                self.bring(range);
                Some(bytes)
            }
            Some(guarded) => guarded.copy(range, scratch),
        }
    }

    /// True if nothing is loaded from the mapping.
    #[inline]
    pub fn is_guarded(&self) -> bool {
        self.guarded.is_some()
    }

    /// True if an entry that is passed over may be one that could not be read.
    #[inline]
    pub fn has_unreadable(&self) -> bool {
        self.guarded.as_ref().is_some_and(|guarded| guarded.has_unreadable())
    }

    /// Pages that could not be read since open.
    pub fn unreadable_pages(&self) -> u64 {
        self.guarded.as_ref().map_or(0, |guarded| guarded.unreadable_pages())
    }

    /// Refuses to go on after an entry could not be read.
    ///
    /// # Errors
    /// The `Io` of the first one.
    pub fn check_all_readable(&self) -> Result<()> {
        self.guarded.as_ref().and_then(|guarded| guarded.first_failure()).map_or(Ok(()), Err)
    }

    /// Whether a touch of `range` may be tried: false only if reads are guarded and one of it fails.
    pub fn is_readable(&self, range: MediaRange) -> bool {
        self.guarded.as_ref().is_none_or(|guarded| guarded.is_readable(range))
    }

    /// The seed of the checksums at `addr`.
    #[inline]
    pub fn seed(&self, addr: Addr) -> SegmentSeed {
        self.space.table().slot(self.space.geometry().slot_of_addr(addr)).seed()
    }

    /// True if the entry's bytes are what was written there.
    #[inline(always)]
    pub fn verify(&self, addr: Addr, op: &Op<'_>, site: CheckSite) -> bool {
        self.bring(MediaRange::new(addr.offset(), op.value().len() as u64));
        op.verify(site, self.seed(addr), addr.offset())
    }

    /// The header of the frame that holds the entry, if it verifies.
    #[inline]
    pub fn header(&self, addr: Addr, op: &Op<'_>) -> Option<FrameHeader> {
        let scratch = Scratch::new();
        let offset = addr.offset().checked_sub(op.distance_bytes())?;
        if offset < self.space.geometry().head_size_bytes {
            return None;
        }
        let bytes = self.bytes(MediaRange::new(offset, FRAME_HEADER_BYTES as u64), &scratch)?;
        FrameHeader::decode(bytes, self.seed(addr), offset)
    }

    /// The stamp of the entry and of the frame it lies in; the second decides between two copies with one stamp.
    #[inline]
    pub fn order(&self, addr: Addr, op: &Op<'_>) -> Option<(Seq, Seq)> {
        let header = self.header(addr, op)?;
        Some((op.seq(&header)?, header.base_seq))
    }

    /// Asks for the bytes of these entries: two lines each, since a small entry behind its frame's header ends in the second.
    #[inline]
    pub fn prefetch(&self, entries: &[Addr]) {
        // A prefetch never faults; guarded reads do not use the mapping.
        entries.iter().for_each(|addr| prefetch_entry(&self.region, *addr));
    }

    /// Asks the device for all of a range that will be read, if it is longer than what comes with one page, and begins or ends
    /// with a page that is not cached.
    #[inline]
    fn bring(&self, range: MediaRange) {
        if range.len > BRING_BYTES_MIN {
            self.bring_long(range);
        }
    }

    #[cold]
    fn bring_long(&self, range: MediaRange) {
        if !(self.media.is_cached(range.offset) && self.media.is_cached(range.end() - 1)) {
            self.media.read_ahead(range);
        }
    }

    /// Asks the device for all of these entries at once, in windows of so many bytes that hold one; not if those that are
    /// looked at are cached, which it tells.
    pub fn read_ahead(&self, entries: &[Addr], window_bytes: u64) -> bool {
        let mut looks = entries.iter().step_by((entries.len() / READ_AHEAD_LOOKS).max(1));
        let are_cached = looks.all(|addr| self.media.is_cached(addr.offset()));
        if !are_cached {
            windows_of(entries, window_bytes).into_iter().for_each(|range| self.media.read_ahead(range));
        }
        are_cached
    }

    /// The error for an entry that does not verify.
    #[cold]
    pub fn corrupted(&self, addr: Addr) -> Error {
        Error::Corrupted { what: "entry checksum", offset: addr.offset(), expected: 0, found: 0 }
    }
}

#[inline(always)]
fn prefetch_entry(region: &Region, addr: Addr) {
    region.prefetch(addr.offset());
    region.prefetch(addr.offset() + CACHE_LINE_BYTES);
}

/// First a piece within one page, which is all of most entries; then exactly the entry, so that an unreadable page behind
/// it does no harm.
#[inline(never)]
fn copied_op<'a>(
    guarded: &GuardedReads,
    offset: u64,
    segment_end: u64,
    scratch: &'a Scratch,
) -> Option<Op<'a>> {
    let page_end = (offset / PAGE_BYTES + 1) * PAGE_BYTES;
    let first_end = page_end.min(segment_end).min(offset + FIRST_COPY_BYTES);
    let mut start = guarded.copy(MediaRange::new(offset, first_end - offset), scratch)?;
    if let Some(op) = Op::decode(start) {
        return Some(op);
    }
    if Op::len_from_fields(start).is_none() && (start.len() as u64) < OP_FIELDS_BYTES_MAX {
        let len = OP_FIELDS_BYTES_MAX.min(segment_end - offset);
        start = guarded.copy(MediaRange::new(offset, len), scratch)?;
    }
    let len = Op::len_from_fields(start)?;
    if len > segment_end - offset {
        return None;
    }
    Op::decode(guarded.copy(MediaRange::new(offset, len), scratch)?)
}

/// The windows that hold the first bytes of these entries, those beside each other as one.
fn windows_of(entries: &[Addr], window_bytes: u64) -> Vec<MediaRange> {
    let window = |offset: u64| offset - offset % window_bytes;
    let ends = entries.iter().flat_map(|addr| [addr.offset(), addr.offset() + READ_AHEAD_BYTES]);
    let mut windows: Vec<u64> = ends.map(window).collect();
    windows.sort_unstable();
    windows.dedup();
    let runs = windows.chunk_by(|window, next| window + window_bytes == *next);
    runs.map(|run| MediaRange::new(run[0], run.len() as u64 * window_bytes)).collect()
}

impl LogKeys for EntryReader {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        self.op(at, &Scratch::new()).map(|op| self.hash_of(&op))
    }

    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool {
        let scratch = Scratch::new();
        let Some(op) = self.op(at, &scratch) else { return false };
        look(op.key());
        true
    }

    fn prefetch(&self, at: &[Addr]) {
        EntryReader::prefetch(self, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_ahead_is_each_window_once_and_neighbours_together() {
        let ranges = |offsets: &[u64], window_bytes| {
            let entries: Vec<Addr> = offsets.iter().copied().map(Addr::from_offset).collect();
            let ranges = windows_of(&entries, window_bytes);
            ranges.into_iter().map(|range| (range.offset / 4096, range.len / 4096)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(&[9 * 4096, 4096, 4096 + 80], PAGE_BYTES), [(1, 1), (9, 1)]);
        assert_eq!(ranges(&[5 * 4096, 4 * 4096], PAGE_BYTES), [(4, 2)]);
        assert_eq!(ranges(&[2 * 4096 - 8], PAGE_BYTES), [(1, 2)], "it ends in the next page");
        assert_eq!(ranges(&[33 * 4096, 4096], 32 * PAGE_BYTES), [(0, 64)]);
    }
}
