//! Frames: what is wholly on the medium or not at all.
//!
//! Header, 32 bytes: checksum u64 over all later bytes of the frame | base Seq u64 | length u32 | durable end u32 |
//! op count u16 | kind u8 | flags u8 | crc32c u32 of the header's bytes 8..28. The header's own crc makes its Seq and
//! length trustworthy even where the rest of the frame is damaged, and makes looking for frames behind a hole cheap.

use super::op::{self, Op, OpKind, OpSpec};
use super::{align_up, put, u16_at, u32_at, u64_at};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::{CACHE_LINE_BYTES, ENTRY_ALIGN_BYTES};
use crate::sync::{Work, work};
use crate::types::Seq;

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// A lone put of an 8-byte key and value is one cache line.
const _: () = assert!(FRAME_HEADER_BYTES + 7 + 16 <= CACHE_LINE_BYTES as usize);

/// The last fields are stored as two words.
const _: () = assert!(at::DURABLE_END == at::LENGTH + 4 && at::KIND == at::OP_COUNT + 2);
const _: () = assert!(at::FLAGS == at::KIND + 1 && at::HEADER_CRC == at::OP_COUNT + 4);

mod at {
    pub const CHECKSUM: usize = 0;
    pub const BASE_SEQ: usize = 8;
    pub const LENGTH: usize = 16;
    pub const DURABLE_END: usize = 20;
    pub const OP_COUNT: usize = 24;
    pub const KIND: usize = 26;
    pub const FLAGS: usize = 27;
    pub const HEADER_CRC: usize = 28;
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Independent operations; each has a Seq of its own, by its place in the frame.
    Ops = 1,
    /// One write batch: all operations share the base Seq.
    Batch = 2,
    /// A part of a write batch larger than a frame; counts only with its commit. The base Seq names the batch.
    BatchPart = 3,
    /// Completes such a batch: a [`CommitRecord`](super::CommitRecord).
    BatchCommit = 4,
    /// Nothing but the proof that everything before it is durable.
    Mark = 5,
    /// A mark written by close: nothing follows before the next open.
    Close = 6,
    /// A cleaner's copies: operations carry their original Seq, the base is the stamp of the move.
    Survivor = 7,
}

impl FrameKind {
    fn from_u8(value: u8) -> Option<FrameKind> {
        match value {
            1 => Some(FrameKind::Ops),
            2 => Some(FrameKind::Batch),
            3 => Some(FrameKind::BatchPart),
            4 => Some(FrameKind::BatchCommit),
            5 => Some(FrameKind::Mark),
            6 => Some(FrameKind::Close),
            7 => Some(FrameKind::Survivor),
            _ => None,
        }
    }

    /// True if all operations of the frame share its base Seq.
    #[inline]
    pub fn shares_seq(self) -> bool {
        matches!(self, FrameKind::Batch | FrameKind::BatchPart)
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Of the whole frame; see [`verify_frame`].
    pub checksum: u64,
    /// Stamp of the first operation.
    pub base_seq: Seq,
    /// Bytes of the frame, padding included.
    pub len: u32,
    /// Offset in the segment up to which the log was durable when the frame was formed.
    pub durable_end: u32,
    /// Operations in the frame.
    pub op_count: u16,
    /// What it holds.
    pub kind: FrameKind,
}

impl FrameHeader {
    /// Reads the header at pool offset `offset`; `None` unless its own crc and its fields are right. Says nothing about
    /// the rest of the frame.
    #[inline]
    pub fn decode(bytes: &[u8], seed: SegmentSeed, offset: u64) -> Option<FrameHeader> {
        let header = FrameHeader::parse(bytes)?;
        let (stored, computed) = FrameHeader::crcs(bytes, seed, offset);
        checksum::verify(CheckSite::FrameHeader, stored, computed).then_some(header)
    }

    /// Reads the header's fields; `None` if they are impossible. Only for frames that are verified as a whole next.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let len = u32_at(bytes, at::LENGTH);
        // Cheap plausibility first: a scan behind a hole tries every line.
        if len == 0 || !u64::from(len).is_multiple_of(CACHE_LINE_BYTES) {
            return None;
        }
        // No flag is defined: what one would mean is not known, so the frame is not taken for one without it.
        if bytes[at::FLAGS] != 0 {
            return None;
        }
        let kind = FrameKind::from_u8(bytes[at::KIND])?;
        if u64_at(bytes, at::BASE_SEQ) >= Seq::END.0 {
            return None;
        }
        Some(FrameHeader {
            checksum: u64_at(bytes, at::CHECKSUM),
            base_seq: Seq(u64_at(bytes, at::BASE_SEQ)),
            len,
            durable_end: u32_at(bytes, at::DURABLE_END),
            op_count: u16_at(bytes, at::OP_COUNT),
            kind,
        })
    }

    /// First byte that the header's crc covers, how many, and where the crc lies.
    pub(super) const CRC_COVERS: (usize, usize, usize) =
        (at::BASE_SEQ, at::HEADER_CRC - at::BASE_SEQ, at::HEADER_CRC);

    /// The header's crc as it is stored and as it should be.
    pub(super) fn crcs(head: &[u8], seed: SegmentSeed, offset: u64) -> (u32, u32) {
        let computed = checksum::crc32c(&head[at::BASE_SEQ..at::HEADER_CRC]) ^ seed.mask32(offset);
        (u32_at(head, at::HEADER_CRC), computed)
    }

    /// What the checksum of a frame should be.
    pub(super) fn checksum_of(frame: &[u8], seed: SegmentSeed, offset: u64) -> u64 {
        checksum::hash64(seed.mask64(offset), &frame[at::BASE_SEQ..])
    }

    /// The stamp of the operation that begins `distance_bytes` behind the start of the frame.
    #[inline]
    pub fn seq_at(&self, distance_bytes: u64) -> Seq {
        if self.kind.shares_seq() {
            self.base_seq
        } else {
            self.base_seq.step((distance_bytes - FRAME_HEADER_BYTES as u64) / ENTRY_ALIGN_BYTES)
        }
    }
}

/// True if `frame`, exactly the bytes of the frame at pool offset `offset`, is whole.
pub fn verify_frame(frame: &[u8], header: &FrameHeader, seed: SegmentSeed, offset: u64) -> bool {
    debug_assert_eq!(frame.len(), header.len as usize);
    checksum::verify(CheckSite::Frame, header.checksum, FrameHeader::checksum_of(frame, seed, offset))
}

/// The checksum that a finished frame carries.
pub fn frame_checksum(frame: &[u8]) -> u64 {
    u64_at(frame, at::CHECKSUM)
}

/// Builds a frame before its place is known: operations are encoded and their crcs computed as writers bring them; the
/// place is bound in at the end, by [`FrameBuilder::finish`].
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    /// Start of each operation and of its crc.
    ops: Vec<(u32, u32)>,
    /// Of `ops` those that delete.
    tombstone_bytes: u64,
    kind: FrameKind,
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new(kind: FrameKind) -> Self {
        FrameBuilder { bytes: vec![0; FRAME_HEADER_BYTES], ops: Vec::new(), tombstone_bytes: 0, kind }
    }

    /// An empty frame with room for so many operations of so many bytes in all.
    pub fn with_room(kind: FrameKind, ops: usize, bytes: u64) -> Self {
        let mut frame =
            FrameBuilder { bytes: Vec::new(), ops: Vec::with_capacity(ops), tombstone_bytes: 0, kind };
        frame.bytes.reserve(FRAME_HEADER_BYTES + bytes as usize);
        frame.bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        frame
    }

    /// False if it owns more memory than small frames need.
    #[inline]
    pub fn is_worth_keeping(&self) -> bool {
        const KEEP_BYTES: usize = 64 * 1024;
        self.bytes.capacity() <= KEEP_BYTES
    }

    /// Where the next operation will begin.
    pub fn next_op_at(&self) -> u32 {
        align_up(self.bytes.len() as u64, ENTRY_ALIGN_BYTES) as u32
    }

    /// Empties it for another frame and keeps its memory.
    #[inline]
    pub fn reset(&mut self, kind: FrameKind) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        self.ops.clear();
        self.tombstone_bytes = 0;
        self.kind = kind;
    }

    /// Appends an operation; returns where it begins in the frame.
    #[inline]
    pub fn push(&mut self, spec: &OpSpec<'_>) -> u32 {
        work(Work::Entry);
        let start = align_up(self.bytes.len() as u64, ENTRY_ALIGN_BYTES) as usize;
        if start > self.bytes.len() {
            // A whole word: how many bytes are missing differs from one operation to the next.
            self.bytes.extend_from_slice(&[0; ENTRY_ALIGN_BYTES as usize]);
            self.bytes.truncate(start);
        }
        let crc_at = op::encode(&mut self.bytes, start, spec);
        self.ops.push((start as u32, crc_at as u32));
        if spec.kind == OpKind::Delete {
            self.tombstone_bytes += u64::from(self.next_op_at()) - start as u64;
        }
        start as u32
    }

    /// Appends bytes that are no operation: the record of a commit frame.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Operations so far.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// What it holds.
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Bytes the frame will have.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        align_up(self.bytes.len() as u64, CACHE_LINE_BYTES)
    }

    /// The stamp after the frame's last operation, for a frame that starts with `base`.
    pub fn last_seq(&self, base: Seq) -> Seq {
        match self.ops.last() {
            Some((start, _)) if !self.kind.shares_seq() => {
                base.step((u64::from(*start) - FRAME_HEADER_BYTES as u64) / ENTRY_ALIGN_BYTES)
            }
            _ => base,
        }
    }

    /// Bytes of all operations, alignment included.
    #[inline]
    pub fn op_bytes(&self) -> u64 {
        if self.ops.is_empty() {
            return 0;
        }
        align_up(self.bytes.len() as u64, ENTRY_ALIGN_BYTES) - FRAME_HEADER_BYTES as u64
    }

    /// Bytes of those operations that are tombstones.
    #[inline]
    pub fn tombstone_bytes(&self) -> u64 {
        self.tombstone_bytes
    }

    /// Lengthens the frame by `bytes` of padding.
    #[inline]
    pub fn pad(&mut self, bytes: u64) {
        if bytes > 0 {
            let len = self.len_bytes() + bytes;
            self.bytes.resize(len as usize, 0);
        }
    }

    /// The operation that begins there.
    #[inline]
    pub fn op(&self, op_at: u32) -> Op<'_> {
        Op::decode(&self.bytes[op_at as usize..]).expect("it was pushed")
    }

    /// Where each operation begins in the frame.
    pub fn op_offsets(&self) -> impl Iterator<Item = u32> + '_ {
        self.ops.iter().map(|(start, _)| *start)
    }

    /// Binds the frame to its place and order and returns its bytes. A frame is finished once.
    pub fn finish(&mut self, seed: SegmentSeed, offset: u64, base_seq: Seq, durable_end: u32) -> &[u8] {
        let len = self.len_bytes();
        work(Work::Frame { lines: len / CACHE_LINE_BYTES });
        self.bytes.resize(len as usize, 0);
        for (start, crc_at) in &self.ops {
            let mask = seed.mask32(offset + u64::from(*start));
            let crc = u32_at(&self.bytes, *crc_at as usize) ^ mask;
            put(&mut self.bytes, *crc_at as usize, &crc.to_le_bytes());
        }
        let count = self.ops.len() as u16;
        finish_header(&mut self.bytes, (self.kind, count), (seed, offset), base_seq, durable_end);
        &self.bytes
    }
}

/// Stores the header of a frame whose other bytes are complete: what it holds, where it lies, and its checksums.
#[inline(always)]
pub(super) fn finish_header(
    frame: &mut [u8],
    (kind, op_count): (FrameKind, u16),
    (seed, offset): (SegmentSeed, u64),
    base_seq: Seq,
    durable_end: u32,
) {
    let len = frame.len() as u64;
    let head = frame.first_chunk_mut::<FRAME_HEADER_BYTES>().expect("a frame begins with its header");
    // Whole words: the checksums read words next, and would wait for what was stored in pieces.
    let kind_flags_count = (kind as u32) << (8 * (at::KIND - at::OP_COUNT)) | u32::from(op_count);
    put(head, at::BASE_SEQ, &base_seq.0.to_le_bytes());
    put(head, at::LENGTH, &(u64::from(durable_end) << 32 | len).to_le_bytes());
    put(head, at::OP_COUNT, &u64::from(kind_flags_count).to_le_bytes());
    let crc = checksum::crc32c(&head[at::BASE_SEQ..at::HEADER_CRC]) ^ seed.mask32(offset);
    put(head, at::OP_COUNT, &(u64::from(crc) << 32 | u64::from(kind_flags_count)).to_le_bytes());
    let sum = checksum::hash64(seed.mask64(offset), &frame[at::BASE_SEQ..]);
    put(frame, at::CHECKSUM, &sum.to_le_bytes());
}
