//! From an address to a verified entry. No locks, no writes: an address is only read under an epoch guard or a pin, and
//! the bytes behind it are write-once until the segment is freed after the grace period.

use crate::checksum::{CheckSite, SegmentSeed, hash64};
use crate::error::Error;
use crate::format::{FRAME_HEADER_BYTES, FrameHeader, Op};
use crate::index::KeyHashes;
use crate::media::Media;
use crate::space::Space;
use crate::sync::Arc;
use crate::types::{Addr, MediaRange, Seq};

/// Reads entries of the log.
#[derive(Clone)]
pub struct EntryReader {
    media: Arc<dyn Media>,
    space: Arc<Space>,
    hash_seed: u64,
}

impl EntryReader {
    /// A reader for a pool whose keys are hashed with `hash_seed`.
    pub fn new(media: Arc<dyn Media>, space: Arc<Space>, hash_seed: u64) -> Self {
        EntryReader { media, space, hash_seed }
    }

    /// The seeded hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash64(self.hash_seed, key)
    }

    /// The entry at `addr`, not verified; `None` if its fields are impossible.
    #[inline]
    pub fn op(&self, addr: Addr) -> Option<Op<'_>> {
        let offset = addr.offset();
        let end = self.space.geometry().segment_end(offset);
        Op::decode(self.media.region().bytes(MediaRange::new(offset, end - offset))?)
    }

    /// The seed of the checksums at `addr`.
    #[inline]
    pub fn seed(&self, addr: Addr) -> SegmentSeed {
        self.space.table().slot(self.space.geometry().slot_of_addr(addr)).seed()
    }

    /// True if the entry's bytes are what was written there.
    #[inline]
    pub fn verify(&self, addr: Addr, op: &Op<'_>, site: CheckSite) -> bool {
        op.verify(site, self.seed(addr), addr.offset())
    }

    /// The header of the frame that holds the entry, if it verifies.
    #[inline]
    pub fn header(&self, addr: Addr, op: &Op<'_>) -> Option<FrameHeader> {
        let offset = addr.offset().checked_sub(op.distance_bytes())?;
        if offset < self.space.geometry().head_size_bytes {
            return None;
        }
        let bytes = self.media.region().bytes(MediaRange::new(offset, FRAME_HEADER_BYTES as u64))?;
        FrameHeader::decode(bytes, self.seed(addr), offset)
    }

    /// The stamp of the entry and of the frame it lies in; the second decides between two copies with one stamp.
    #[inline]
    pub fn order(&self, addr: Addr, op: &Op<'_>) -> Option<(Seq, Seq)> {
        let header = self.header(addr, op)?;
        Some((op.seq(&header), header.base_seq))
    }

    /// Asks for the bytes at `addr`.
    #[inline]
    pub fn prefetch(&self, addr: Addr) {
        self.media.region().prefetch(addr.offset());
    }

    /// The error for an entry that does not verify.
    #[cold]
    pub fn corrupted(&self, addr: Addr) -> Error {
        Error::Corrupted { what: "entry checksum", offset: addr.offset(), expected: 0, found: 0 }
    }
}

impl KeyHashes for EntryReader {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        self.op(at).map(|op| self.hash(op.key()))
    }

    fn prefetch(&self, at: Addr) {
        EntryReader::prefetch(self, at);
    }
}
