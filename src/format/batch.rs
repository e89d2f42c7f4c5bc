//! The record in a commit frame: which parts a batch larger than a frame has. `batch id u64 | count u32 | zero u32`, then
//! per segment `segment id u64 | bytes of parts u64 | xor of their frame checksums u64`.

use super::{u32_at, u64_at};
use crate::types::{SegmentId, Seq};

const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 24;

/// The parts of a batch in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsInSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes of its part frames.
    pub bytes: u64,
    /// All their frame checksums, xor'ed.
    pub checksum: u64,
}

/// What a commit frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// Names the batch: the base Seq of its parts.
    pub batch: Seq,
    /// The parts, by segment.
    pub parts: Vec<PartsInSegment>,
}

impl CommitRecord {
    /// Bytes of a record that names `segments` segments.
    pub fn encoded_len(segments: usize) -> usize {
        HEADER_BYTES + segments * ENTRY_BYTES
    }

    /// The bytes that follow the frame header.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::encoded_len(self.parts.len()));
        bytes.extend_from_slice(&self.batch.0.to_le_bytes());
        bytes.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for part in &self.parts {
            bytes.extend_from_slice(&part.segment.0.to_le_bytes());
            bytes.extend_from_slice(&part.bytes.to_le_bytes());
            bytes.extend_from_slice(&part.checksum.to_le_bytes());
        }
        bytes
    }

    /// Reads the record at the start of `bytes`, what follows the frame header.
    pub fn decode(bytes: &[u8]) -> Option<CommitRecord> {
        let header = bytes.get(..HEADER_BYTES)?;
        let count = u32_at(header, 8) as usize;
        let entries = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(count.checked_mul(ENTRY_BYTES)?)?)?;
        let parts = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|e| PartsInSegment {
                segment: SegmentId(u64_at(e, 0)),
                bytes: u64_at(e, 8),
                checksum: u64_at(e, 16),
            })
            .collect();
        let batch = Seq(u64_at(header, 0));
        (batch < Seq::END).then_some(CommitRecord { batch, parts })
    }
}
