//! Large values: written to extents and durable before the entry that names them; their extents are free again once the
//! entry that replaced them is durable and nobody can still read them.

use super::Engine;
use crate::checksum::{CheckSite, verify};
use crate::constants::CACHE_LINE_BYTES;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{
    BlobDescriptor, Chunk, FRAME_HEADER_BYTES, SegmentClass, encoded_len_max, keyspace_len_max,
};
use crate::index::Index;
use crate::media::Site;
use crate::media::durable::{Dirty, InFlight};
use crate::media::guarded::Scratch;
use crate::oplog::OpLog;
use crate::space::extent::{Extents, NoRoom};
use crate::space::{Purpose, Space};
use crate::sync::{Arc, Mutex, Ordering};
use crate::types::{Addr, KeyspaceId, MediaRange, SegmentSlot};
use std::collections::{BTreeSet, HashMap};

/// Extents that are dead but may not be reused yet.
#[derive(Default)]
pub struct Limbo {
    waiting: Mutex<Waiting>,
    /// Entries that name extents which recovery did not find free, so which are not theirs alone.
    disowned: Mutex<BTreeSet<Addr>>,
}

/// What they wait for.
#[derive(Default)]
struct Waiting {
    /// A drain.
    undrained: Vec<Dead>,
    /// The pins of a slot, by slot: a snapshot may keep very many, and they are looked at again only when it lets go.
    pinned: HashMap<SegmentSlot, Vec<Dead>>,
    pinned_bytes: u64,
}

struct Dead {
    /// Lane and position that must be durable: the entry that made the extents dead.
    lane: usize,
    position: u64,
    ranges: Vec<MediaRange>,
}

impl Limbo {
    /// Takes extents whose superseding entry lies in `lane` at or before `position`, after their grace period.
    fn add(&self, lane: usize, position: u64, ranges: Vec<MediaRange>) {
        self.waiting.lock().undrained.push(Dead { lane, position, ranges });
    }

    /// Recovery: the extents of the entry at `addr` are never freed on its account.
    pub fn disown(&self, addr: Addr) {
        self.disowned.lock().insert(addr);
    }

    /// True if not all extents that the entry at `addr` names are its own.
    pub(super) fn is_disowned(&self, addr: Addr) -> bool {
        self.disowned.lock().contains(&addr)
    }

    /// The cleaner copies an entry: the copy owns no more than the entry does.
    pub(super) fn entry_moves(&self, from: Addr, to: Addr) {
        let mut disowned = self.disowned.lock();
        if disowned.contains(&from) {
            disowned.insert(to);
        }
    }

    /// The entries of a segment are gone, and others will have their addresses.
    pub(super) fn segment_is_gone(&self, range: MediaRange) {
        self.disowned.lock().retain(|addr| !(range.offset..range.end()).contains(&addr.offset()));
    }

    /// Slots of extents that wait for nothing but pins there, and the bytes of these extents, as of the last look.
    pub(super) fn held_by_pins(&self) -> (BTreeSet<SegmentSlot>, u64) {
        let waiting = self.waiting.lock();
        (waiting.pinned.keys().copied().collect(), waiting.pinned_bytes)
    }

    /// Frees what may be freed: superseding entry durable, no pin on the segment.
    pub fn settle(&self, oplog: &OpLog, extents: &Extents, space: &Space) {
        let mut waiting = self.waiting.lock();
        let Waiting { undrained, pinned, pinned_bytes } = &mut *waiting;
        let is_pinned = |slot: &SegmentSlot| space.table().slot(*slot).pins() > 0;
        let mut dead = std::mem::take(undrained);
        pinned.retain(|slot, of_slot| {
            let is_pinned = is_pinned(slot);
            if !is_pinned {
                *pinned_bytes -= of_slot.iter().map(|dead| extents.bytes_taken(&dead.ranges)).sum::<u64>();
                dead.append(of_slot);
            }
            is_pinned
        });
        for dead in dead {
            let mut slots = dead.ranges.iter().map(|range| space.geometry().slot_of(range.offset));
            if oplog.durable_position(dead.lane) < dead.position {
                undrained.push(dead);
            } else if let Some(slot) = slots.find(is_pinned) {
                *pinned_bytes += extents.bytes_taken(&dead.ranges);
                pinned.entry(slot).or_default().push(dead);
            } else {
                extents.release_retired(&dead.ranges);
            }
        }
    }
}

/// A blob that is on its way into extents; gives them back if it is dropped before it was named by an entry.
pub struct StagedBlob {
    extents: Arc<Extents>,
    ranges: Vec<MediaRange>,
    /// What takes the value's place in the log.
    pub descriptor: Vec<u8>,
}

impl StagedBlob {
    pub(super) fn new(extents: &Arc<Extents>, ranges: Vec<MediaRange>) -> Self {
        extents.staged.fetch_add(1, Ordering::Relaxed);
        StagedBlob { extents: Arc::clone(extents), ranges, descriptor: Vec::new() }
    }

    /// Another extent of it.
    pub(super) fn take(&mut self, range: MediaRange) {
        self.ranges.push(range);
    }

    /// Where its extents lie.
    pub(super) fn ranges(&self) -> &[MediaRange] {
        &self.ranges
    }

    /// The entry that names the blob is in the log: its extents belong to that entry now.
    pub fn keep(mut self) {
        self.ranges.clear();
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        self.extents.release(&self.ranges);
        self.extents.staged.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Writes a large value into extents; one drain makes several of them durable.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `Io` from a growth that failed: nothing stays allocated. Any other `Io` poisons the store.
    pub(super) fn write_blob(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        value: &[u8],
    ) -> Result<InFlight<StagedBlob>> {
        self.limbo.settle(&self.oplog, &self.extents, &self.space);
        let pieces_max = self.blob_pieces_max(keyspace, key);
        // Known before its extents are taken, so that nobody takes them for lost.
        let mut staged = StagedBlob::new(&self.extents, Vec::new());
        let allocate = || self.extents.allocate(value.len() as u64, pieces_max, Purpose::Put);
        let ranges = allocate().or_else(|error| self.retry_with_retired_extents(error, allocate));
        let ranges = ranges.map_err(|error| match error {
            NoRoom::Refused(error) => error,
            NoRoom::Unknown(error) => self.poisoned_by(error),
        })?;
        staged.ranges.clone_from(&ranges);
        let mut descriptor =
            BlobDescriptor { len: value.len() as u64, chunks: Vec::with_capacity(ranges.len()) };
        let mut rest = value;
        let mut written = InFlight::nothing(());
        for range in ranges {
            let (piece, behind) = rest.split_at(range.len as usize);
            rest = behind;
            let seed = self.space.table().slot(self.space.geometry().slot_of(range.offset)).seed();
            let crc = Chunk::crc(piece, seed, range.offset);
            descriptor.chunks.push(Chunk { offset: range.offset, len: range.len as u32, crc });
            let chunk = Dirty::write(&*self.media, range.offset, piece, ())
                .map_err(|error| self.poisoned_by(error))?;
            written = written.and(chunk.flush(&*self.media, Site::BlobFlush)).map(|_| ());
        }
        staged.descriptor = descriptor.encode();
        Ok(written.map(|()| staged))
    }

    /// Pieces whose descriptor fits a frame beside the key.
    pub(super) fn blob_pieces_max(&self, keyspace: KeyspaceId, key: &[u8]) -> usize {
        let entry = encoded_len_max(key.len(), BlobDescriptor::encoded_len(0)) + keyspace_len_max(keyspace);
        let fixed = FRAME_HEADER_BYTES as u64 + entry + CACHE_LINE_BYTES;
        let room = self.oplog.frame_bytes_max(1).saturating_sub(fixed) as usize;
        let one = BlobDescriptor::encoded_len(1) - BlobDescriptor::encoded_len(0);
        (room / one).max(1)
    }

    /// Full but for extents that only wait for their grace period: gives that a chance before the write is refused.
    #[cold]
    fn retry_with_retired_extents<T>(
        &self,
        full: NoRoom,
        allocate: impl Fn() -> Result<T, NoRoom>,
    ) -> Result<T, NoRoom> {
        if !matches!(full, NoRoom::Refused(Error::NoSpace { .. })) {
            return Err(full);
        }
        self.help_grace_period();
        self.limbo.settle(&self.oplog, &self.extents, &self.space);
        allocate()
    }

    /// What was retired is free at once if nobody reads. A simulation has no readers, and retires nothing.
    pub(super) fn help_grace_period(&self) {
        if self.options.background {
            epoch::help_grace_period();
        }
    }

    /// Makes staged blobs durable.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub(super) fn drain_blobs<T>(&self, staged: InFlight<T>) -> Result<T> {
        let durable = staged.drain(&*self.media, Site::BlobDrain).map_err(|error| self.poisoned_by(error))?;
        Ok(durable.into_inner())
    }

    fn poisoned_by(&self, error: Error) -> Error {
        self.oplog.poison(&error.to_string());
        error
    }

    /// The chunks of a descriptor, or why it cannot be one.
    pub(super) fn descriptor(&self, bytes: &[u8], offset: u64) -> Result<BlobDescriptor> {
        BlobDescriptor::decode(bytes).ok_or(Error::Corrupted {
            what: "blob descriptor length",
            offset,
            expected: 0,
            found: bytes.len() as u64,
        })
    }

    /// The bytes of a chunk, verified if the store verifies reads.
    pub(super) fn chunk<'a>(&'a self, chunk: &Chunk, scratch: &'a Scratch) -> Result<&'a [u8]> {
        let damaged = |expected, found| Error::Corrupted {
            what: "blob chunk checksum",
            offset: chunk.offset,
            expected,
            found,
        };
        let geometry = self.space.geometry();
        if chunk.offset < geometry.head_size_bytes {
            return Err(damaged(geometry.head_size_bytes, chunk.offset));
        }
        let range = MediaRange::new(chunk.offset, u64::from(chunk.len));
        if geometry.slot_of(chunk.offset).0 >= self.space.slot_count() {
            return Err(damaged(u64::from(self.space.slot_count()), range.end()));
        }
        let bytes = self
            .reader
            .bytes(range, scratch)
            .ok_or_else(|| scratch.failure().unwrap_or_else(|| damaged(0, range.end())))?;
        if self.options.verify_reads {
            let seed = self.space.table().slot(geometry.slot_of(chunk.offset)).seed();
            let computed = Chunk::crc(bytes, seed, chunk.offset);
            if !verify(CheckSite::BlobChunk, chunk.crc, computed) {
                return Err(damaged(u64::from(chunk.crc), u64::from(computed)));
            }
        }
        Ok(bytes)
    }

    /// The extents of a blob are dead: they may be reused after the grace period, once the entry that replaced them is
    /// durable.
    pub(super) fn retire_blob(&self, dead: Addr, descriptor: &[u8], by: Addr, guard: &epoch::Guard) {
        if let Some(ranges) = self.ranges_owned(dead, descriptor) {
            self.retire_extents(ranges, by, guard);
        }
    }

    /// The extents that are those of the entry at `addr` alone.
    pub(super) fn ranges_owned(&self, addr: Addr, descriptor: &[u8]) -> Option<Vec<MediaRange>> {
        let descriptor = BlobDescriptor::decode(descriptor).filter(|_| !self.limbo.is_disowned(addr))?;
        let ranges = descriptor.chunks.iter();
        Some(ranges.map(|chunk| MediaRange::new(chunk.offset, u64::from(chunk.len))).collect())
    }

    /// Extents are dead because of the entry at `by`.
    pub(super) fn retire_extents(&self, ranges: Vec<MediaRange>, by: Addr, guard: &epoch::Guard) {
        self.extents.note_retired(&ranges);
        // The log of the entry that made it dead, whoever publishes: if that entry is lost in a power cut, this one counts.
        let winner = self.space.table().slot(self.space.geometry().slot_of_addr(by));
        let lane = usize::from(winner.log().0);
        // What the cleaner moved was durable before.
        let is_moved = winner.class() == Some(SegmentClass::Survivor);
        let position = if is_moved { 0 } else { self.oplog.appended_position(lane) };
        self.retire_behind(ranges, lane, position, guard);
    }

    /// Extents are dead because of something that is durable.
    pub(super) fn retire_dead(&self, ranges: Vec<MediaRange>, guard: &epoch::Guard) {
        self.extents.note_retired(&ranges);
        self.retire_behind(ranges, 0, 0, guard);
    }

    /// They wait for a position in a lane to be durable.
    fn retire_behind(&self, ranges: Vec<MediaRange>, lane: usize, position: u64, guard: &epoch::Guard) {
        let limbo = Arc::clone(&self.limbo);
        if self.options.background {
            let bytes = ranges.iter().map(|range| range.len).sum();
            epoch::retire(guard, bytes, move || limbo.add(lane, position, ranges));
        } else {
            // A simulation is one thread: no reader to wait for, and reuse must not depend on other tests' epochs.
            limbo.add(lane, position, ranges);
        }
    }
}
