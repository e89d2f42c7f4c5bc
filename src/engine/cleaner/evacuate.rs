//! Emptying sparse extent segments: large values are moved together so that whole slots become free. Freeing them needs no
//! copies, and holes are used again; so this is for writes that were refused although there are holes: of small values, or
//! of large ones that would lie in too many pieces.
//!
//! 1. the segments with the least in use are closed: nothing more is allocated there
//! 2. the log is walked for live entries that name extents in them; every log is drained, so what is moved is durable
//! 3. pieces are read, verified, written elsewhere and drained: a bad piece quarantines its segment, which is kept
//! 4. entries that name the new places, with their own stamps, are appended to a survivor segment, drained and marked; then
//!    the index is told. Who overwrote a value meanwhile wins: then the new extents are the dead ones
//! 5. dead extents are free after the grace period and pins, as those of any value; then their segments hold nothing, and
//!    stay closed until that is so
//!
//! Invariants:
//!   - an entry is moved by one mover: the pass holds the cleaner's work
//!   - the pieces of a value that stay where they are belong to the entry that wins, old or new

use super::super::Engine;
use super::super::blob::StagedBlob;
use super::copy::FRAME_BYTES_MAX;
use super::policy::STREAMS_MAX;
use super::{Aim, CleanerCounters, Work};
use crate::checksum::{CheckSite, verify};
use crate::constants::SECTOR_BYTES;
use crate::epoch;
use crate::error::Result;
use crate::format::{
    BlobDescriptor, Chunk, Digest, FRAME_HEADER_BYTES, Filter, FrameBuilder, FrameHeader, FrameKind, OpKind,
    OpSpec, Ops, SEGMENT_BODY_OFFSET, SegmentClass, align_up, encoded_len_max, keyspace_len_max,
};
use crate::index::{Index, Key};
use crate::media::durable::{Dirty, Durable, InFlight};
use crate::media::guarded::Scratch;
use crate::media::{FlushGranularity, Site};
use crate::oplog::append::Head;
use crate::oplog::scan::{Piece, SegmentBytes};
use crate::oplog::survivor::Movers;
use crate::space::Purpose;
use crate::space::extent::NoRoom;
use crate::space::table::SlotState;
use crate::types::{Addr, KeyspaceId, MediaRange, SegmentSlot, Seq};
use std::collections::BTreeMap;

/// Stream of survivors for entries that find no room in any that is open.
const OWNERS_STREAM: usize = 0;

/// Closed segments, and their bytes in use.
type Closed = BTreeMap<SegmentSlot, u64>;

/// A value whose pieces were copied out of closed segments.
struct Moved {
    keyspace: KeyspaceId,
    key: Vec<u8>,
    hash: u64,
    seq: Seq,
    from: Addr,
    from_bytes: u64,
    /// The new pieces, and the descriptor that names them.
    blob: StagedBlob,
    /// The places they were copied from, and those they were copied to.
    old: Vec<MediaRange>,
    new: Vec<MediaRange>,
    /// Where the entry went: first in its frame, then in the pool.
    to: u64,
    to_bytes: u64,
}

/// What moving large values together came to.
#[derive(Clone, Copy, Default)]
pub(super) struct Evacuation {
    /// Segments that it filled.
    pub filled: usize,
    /// Values were moved, so readers may still see their old places.
    pub has_moved: bool,
}

impl<I: Index + 'static> Engine<I> {
    /// Empties sparse extent segments if a write waits for what they keep.
    pub(super) fn evacuate_extents(&self, work: &mut Work, aim: Aim) -> Result<Evacuation> {
        // What only waits for readers comes free without a copy.
        let comes_free = self.retired_bytes_to_come() >= self.space.geometry().segment_size_bytes;
        let is_wanted = aim.is_urgent() && self.cleaner.is_anybody_stranded() && !comes_free;
        if !aim.is_thorough() && !is_wanted {
            return Ok(Evacuation::default());
        }
        let sparse = self.extents.close_sparse(aim.is_thorough(), |slot| self.may_be_evacuated(slot));
        if sparse.is_empty() {
            return Ok(Evacuation::default());
        }
        let before = self.extents.usage().segment_bytes;
        let has_moved = self.evacuate(work, sparse.into_iter().collect())?;
        self.help_grace_period();
        let now = self.extents.usage().segment_bytes;
        let filled = (now.saturating_sub(before) / self.space.geometry().segment_size_bytes) as usize;
        Ok(Evacuation { filled, has_moved })
    }

    fn may_be_evacuated(&self, slot: SegmentSlot) -> bool {
        let info = self.space.table().slot(slot);
        info.state() == SlotState::Open && info.pins() == 0 && !info.is_quarantined()
    }

    /// Segments in which something is left are open again; the others are until nobody sees what was in them. True if any
    /// value was moved.
    fn evacuate(&self, work: &mut Work, closed: Closed) -> Result<bool> {
        self.wait_for_publications();
        let owners = self.owners_of(&closed)?;
        self.drain_logs()?;
        let copied = self.copy_pieces(&owners, &closed)?;
        let placed = self.place_entries(work, copied)?;
        let mut left = closed;
        let moved = self.relocate_owners(placed);
        let has_moved = !moved.is_empty();
        for range in moved {
            let slot = self.space.geometry().slot_of(range.offset);
            let left = left.get_mut(&slot).expect("it was copied out of there");
            *left = left.saturating_sub(self.extents.bytes_taken(&[range]));
        }
        let (kept, emptied): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, left)| *left > 0);
        kept.into_iter().for_each(|(slot, _)| self.extents.reopen(slot));
        CleanerCounters::add(&self.cleaner.counters.extent_segments_evacuated, emptied.len() as u64);
        Ok(has_moved)
    }

    /// Live entries that name extents in closed segments. The walk ends early when all of these have been found.
    fn owners_of(&self, closed: &Closed) -> Result<Vec<Addr>> {
        let mut owners = Vec::new();
        let mut missing: u64 = closed.values().sum();
        for slot in (0..self.space.slot_count()).map(SegmentSlot) {
            if missing == 0 {
                break;
            }
            let info = self.space.table().slot(slot);
            let is_log = matches!(info.class(), Some(SegmentClass::LogHead | SegmentClass::Survivor));
            if !is_log || matches!(info.state(), SlotState::Free | SlotState::Releasable) {
                continue;
            }
            let Some(read) = self.read_segment(slot)? else { continue };
            let bytes = self.slot_bytes(slot, &read);
            let Some((start, end)) = self.frames_range(slot, bytes) else { continue };
            let base = self.space.geometry().offset_of(slot);
            SegmentBytes::new(bytes, base, info.seed()).walk(start, end, |piece| {
                // What is damaged stays where it is, and what it names does, too.
                if let Piece::Frame { at, header, frame } = piece
                    && !matches!(header.kind, FrameKind::BatchCommit | FrameKind::Mark | FrameKind::Close)
                {
                    let found = self.owners_in(base + u64::from(at), &header, frame, closed, &mut owners);
                    missing = missing.saturating_sub(found);
                }
            });
        }
        Ok(owners)
    }

    /// Where the frames of a segment of the log lie now.
    fn frames_range(&self, slot: SegmentSlot, bytes: &[u8]) -> Option<(u32, u32)> {
        let info = self.space.table().slot(slot);
        let mut start = SEGMENT_BODY_OFFSET as u32;
        if info.state() == SlotState::Sealed {
            return self.sealed_range(slot, bytes);
        }
        if info.class() == Some(SegmentClass::LogHead) {
            let at = self.space.geometry().offset_of(slot) + SEGMENT_BODY_OFFSET;
            let (_, len) = Digest::decode(&bytes[SEGMENT_BODY_OFFSET as usize..], info.seed(), at)?;
            start = align_up(SEGMENT_BODY_OFFSET + len, SECTOR_BYTES) as u32;
        }
        // Nobody is appending below that.
        let _appended = self.oplog.lock(usize::from(info.log().0));
        Some((start, info.data_end().max(start)))
    }

    /// Adds the owners in one frame; the bytes in closed segments that they name.
    fn owners_in(
        &self,
        frame_at: u64,
        header: &FrameHeader,
        frame: &[u8],
        closed: &Closed,
        owners: &mut Vec<Addr>,
    ) -> u64 {
        let mut found = 0;
        for (op_at, op) in Ops::new(frame, header).filter(|(_, op)| op.kind() == OpKind::PutBlob) {
            let Some(descriptor) = BlobDescriptor::decode(op.value()) else { continue };
            let inside: Vec<MediaRange> =
                descriptor.chunks.iter().map(range_of).filter(|range| self.is_in(range, closed)).collect();
            let here = Addr::from_offset(frame_at + u64::from(op_at));
            if !inside.is_empty() && self.leads_to(op.keyspace(), self.key_of(&op), here, &epoch::pin()) {
                found += self.extents.bytes_taken(&inside);
                owners.push(here);
            }
        }
        found
    }

    fn is_in(&self, range: &MediaRange, closed: &Closed) -> bool {
        let geometry = self.space.geometry();
        range.offset >= geometry.head_size_bytes && closed.contains_key(&geometry.slot_of(range.offset))
    }

    /// Copies what lies in closed segments, and drains. Ends where the pool has no more room.
    fn copy_pieces(&self, owners: &[Addr], closed: &Closed) -> Result<Durable<Vec<Moved>>> {
        let mut copied = InFlight::nothing(Vec::new());
        for owner in owners {
            let Some(moved) = self.copy_value(*owner, closed)? else { continue };
            copied = copied.and(moved).map(|(mut all, moved)| {
                all.push(moved);
                all
            });
        }
        copied.drain(&*self.media, Site::MovedChunkDrain).map_err(|error| self.poisoned_cleaning(error))
    }

    /// `None`: the value is dead, cannot be read, or there is no room for it.
    fn copy_value(&self, from: Addr, closed: &Closed) -> Result<Option<InFlight<Moved>>> {
        let scratch = Scratch::new();
        let Some(op) = self.reader.op(from, &scratch) else { return Ok(None) };
        let is_sound = self.reader.verify(from, &op, CheckSite::EntryOnScan);
        let order = self.reader.order(from, &op);
        let (Some((seq, _)), Some(mut descriptor)) = (order, BlobDescriptor::decode(op.value())) else {
            return Ok(None);
        };
        if !is_sound || self.limbo.is_disowned(from) {
            return Ok(None);
        }
        let (keyspace, key) = (op.keyspace(), self.key_of(&op));
        let (mut old, mut blob) = (Vec::new(), StagedBlob::new(&self.extents, Vec::new()));
        let mut written = InFlight::nothing(());
        let spare_pieces = self.blob_pieces_max(keyspace, key.bytes).saturating_sub(descriptor.chunks.len());
        for chunk in std::mem::take(&mut descriptor.chunks) {
            if !self.is_in(&range_of(&chunk), closed) {
                descriptor.chunks.push(chunk);
                continue;
            }
            old.push(range_of(&chunk));
            let used_pieces = blob.ranges().len() + 1 - old.len();
            let to = self.room_for_piece(&chunk, 1 + spare_pieces.saturating_sub(used_pieces), &mut blob)?;
            let Some(copied) = self.copy_piece((keyspace, key), from, &chunk, &to, &mut descriptor.chunks)?
            else {
                return Ok(None);
            };
            written = written.and(copied).map(|_| ());
        }
        blob.descriptor = descriptor.encode();
        let new = blob.ranges().to_vec();
        let moved = Moved {
            keyspace,
            key: key.bytes.to_vec(),
            hash: key.hash,
            seq,
            from,
            from_bytes: op.footprint_bytes(),
            blob,
            old,
            new,
            to: 0,
            to_bytes: 0,
        };
        Ok(Some(written.map(|()| moved)))
    }

    /// Room for a piece, in as few as there is room for; none if there is no room.
    fn room_for_piece(
        &self,
        chunk: &Chunk,
        pieces_max: usize,
        blob: &mut StagedBlob,
    ) -> Result<Vec<MediaRange>> {
        match self.extents.allocate(u64::from(chunk.len), pieces_max, Purpose::Survivor) {
            Ok(ranges) => {
                ranges.iter().for_each(|range| blob.take(*range));
                Ok(ranges)
            }
            Err(NoRoom::Refused(_)) => Ok(Vec::new()),
            Err(NoRoom::Unknown(error)) => Err(self.poisoned_cleaning(error)),
        }
    }

    /// Copies one piece; `None` if its value was overwritten or the piece is not what was written: then its segment is kept.
    fn copy_piece(
        &self,
        (keyspace, key): (KeyspaceId, Key<'_>),
        owner: Addr,
        chunk: &Chunk,
        to: &[MediaRange],
        copies: &mut Vec<Chunk>,
    ) -> Result<Option<InFlight<()>>> {
        if to.is_empty() {
            return Ok(None);
        }
        let geometry = self.space.geometry();
        let table = self.space.table();
        let from = table.slot(geometry.slot_of(chunk.offset));
        // As long as the value counts, or a guard is held, its extents are not reused. A file is read into a buffer.
        let guard = (self.media.granularity() == FlushGranularity::CacheLine).then(epoch::pin);
        let mut buffer = Vec::new();
        let bytes = self.bytes_for_verify(range_of(chunk), &mut buffer)?;
        CleanerCounters::add(&self.cleaner.counters.bytes_read, u64::from(chunk.len));
        let is_right = |bytes: &&[u8]| {
            verify(CheckSite::BlobChunk, chunk.crc, Chunk::crc(bytes, from.seed(), chunk.offset))
        };
        let is_live = self.leads_to(keyspace, key, owner, guard.as_ref().unwrap_or(&epoch::pin()));
        let Some(mut bytes) = bytes.filter(is_right).filter(|_| is_live) else {
            if is_live {
                from.quarantine();
            }
            return Ok(None);
        };
        let mut written = InFlight::nothing(());
        for range in to {
            let (piece, behind) = bytes.split_at(range.len as usize);
            bytes = behind;
            let seed = table.slot(geometry.slot_of(range.offset)).seed();
            let crc = Chunk::crc(piece, seed, range.offset);
            copies.push(Chunk { offset: range.offset, len: range.len as u32, crc });
            let copy = Dirty::write(&*self.media, range.offset, piece, ())
                .map_err(|error| self.poisoned_cleaning(error))?
                .flush(&*self.media, Site::MovedChunkFlush);
            written = written.and(copy).map(|_| ());
        }
        CleanerCounters::add(&self.cleaner.counters.blob_bytes_moved, u64::from(chunk.len));
        Ok(Some(written))
    }

    /// Appends the entries that name the copies to survivor segments, drains and marks them. Those that find no room are
    /// left out, and their copies dropped.
    fn place_entries(&self, work: &mut Work, copied: Durable<Vec<Moved>>) -> Result<Durable<Vec<Moved>>> {
        if copied.get().is_empty() {
            return Ok(copied);
        }
        let mut rest = copied.into_inner();
        self.stamp_survivors(work);
        let mut placed = Vec::with_capacity(rest.len());
        rest.reverse();
        let mut unmarked = [false; STREAMS_MAX];
        while let Some(first) = rest.last() {
            let Some(stream) = self.stream_that_takes(work, entry_bytes_max(first))? else { break };
            self.place_frame(work, stream, &mut rest, &mut placed)?;
            unmarked[stream] = true;
        }
        let drained = InFlight::nothing(placed).drain(&*self.media, Site::MovedOwnerDrain);
        let placed = drained.map_err(|error| self.poisoned_cleaning(error))?;
        self.mark_survivors(work, unmarked)?;
        Ok(placed)
    }

    /// A stream whose segment takes an entry of so many bytes; `None` if the pool has no slot for another segment.
    fn stream_that_takes(&self, work: &mut Work, bytes: u64) -> Result<Option<usize>> {
        let frame_bytes = FRAME_HEADER_BYTES as u64 + bytes;
        let fits = |head: &Option<Head>| {
            head.as_ref().is_some_and(|head| self.oplog.fits_survivor(head, frame_bytes, 1))
        };
        if let Some(stream) = work.survivors.iter().position(fits) {
            return Ok(Some(stream));
        }
        let Ok(slot) = self.space.take_slot(Purpose::Survivor) else { return Ok(None) };
        self.open_survivor(work, OWNERS_STREAM, slot)?;
        Ok(fits(&work.survivors[OWNERS_STREAM]).then_some(OWNERS_STREAM))
    }

    /// Appends one frame of as many entries as fit it; at least the first does.
    fn place_frame(
        &self,
        work: &mut Work,
        stream: usize,
        rest: &mut Vec<Moved>,
        placed: &mut Vec<Moved>,
    ) -> Result<()> {
        let head = work.survivors[stream].as_mut().expect("room was made");
        let mut frame = FrameBuilder::new(FrameKind::Survivor);
        let mut movers = Movers::default();
        let first = placed.len();
        while let Some(mut moved) = rest.pop() {
            let total = frame.len_bytes() + entry_bytes_max(&moved);
            let fits =
                total <= FRAME_BYTES_MAX && self.oplog.fits_survivor(head, total, frame.op_count() + 1);
            if frame.op_count() > 0 && !fits {
                rest.push(moved);
                break;
            }
            let value = &moved.blob.descriptor;
            let age = work.stamp.distance_to(moved.seq);
            let spec = OpSpec {
                kind: OpKind::PutBlob,
                key: &moved.key,
                value,
                moved: Some(age),
                keyspace: moved.keyspace,
            };
            moved.to = u64::from(frame.push(&spec));
            moved.to_bytes = u64::from(frame.next_op_at()) - moved.to;
            movers.hashes.push(Filter::short_hash(moved.hash));
            movers.seqs.push(moved.seq);
            placed.push(moved);
        }
        let written = self.oplog.append_survivor(head, &mut frame, &movers, work.stamp)?.left_undrained();
        work.stamp = work.stamp.step(1);
        placed[first..].iter_mut().for_each(|moved| moved.to += written.offset);
        let counters = &self.cleaner.counters;
        CleanerCounters::add(&counters.entries_moved, movers.hashes.len() as u64);
        CleanerCounters::add(&counters.bytes_written, written.len);
        Ok(())
    }

    /// Tells the index. What will be free of closed segments.
    fn relocate_owners(&self, placed: Durable<Vec<Moved>>) -> Vec<MediaRange> {
        let addrs: Vec<_> = (0..placed.get().len())
            .map(|at| placed.as_ref().map(|all| Addr::from_offset(all[at].to)))
            .collect();
        let mut freed = Vec::new();
        for (moved, new) in placed.into_inner().into_iter().zip(addrs) {
            let guard = epoch::pin();
            let key = Key { bytes: &moved.key, hash: moved.hash };
            let to = *new.get();
            // The entry that names them is in the log.
            moved.blob.keep();
            let space = self.keyspace(moved.keyspace);
            if space
                .as_ref()
                .is_some_and(|space| space.index.relocate(I::Spot::default(), key, moved.from, new))
            {
                self.note_dead(moved.from, OpKind::PutBlob, moved.from_bytes);
                self.retire_extents(moved.old.clone(), to, &guard);
                freed.extend(moved.old);
                continue;
            }
            // If the winner is lost in a power cut, the copy counts: its extents wait for it.
            self.note_dead(to, OpKind::PutBlob, moved.to_bytes);
            let is_same = |addr: &Addr| {
                let scratch = Scratch::new();
                self.reader.op(*addr, &scratch).is_some_and(|op| op.key() == key.bytes)
            };
            match space.and_then(|space| space.index.get(key, |addr| Some(addr).filter(is_same))) {
                Some(winner) => self.retire_extents(moved.new, winner, &guard),
                // Its tombstone is forgotten, or its keyspace reclaimed: that is durable.
                None => self.retire_extents(moved.new, to, &guard),
            }
            freed.extend(moved.old);
        }
        freed
    }
}

fn range_of(chunk: &Chunk) -> MediaRange {
    MediaRange::new(chunk.offset, u64::from(chunk.len))
}

fn entry_bytes_max(moved: &Moved) -> u64 {
    encoded_len_max(moved.key.len(), moved.blob.descriptor.len()) + keyspace_len_max(moved.keyspace)
}
