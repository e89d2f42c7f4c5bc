//! Blob descriptors: where the pieces of a large value lie. `length u64 | chunk count u32 | zero u32`, then per chunk
//! `pool offset u64 | length u32 | crc32c u32`, the crc bound to segment and offset.

use super::{u32_at, u64_at};
use crate::checksum::{self, SegmentSeed};
use crate::constants::{BLOB_CHUNK_BYTES_MAX, POOL_BYTES_MAX, VALUE_BYTES_MAX};

const HEADER_BYTES: usize = 16;
const CHUNK_BYTES: usize = 16;

/// A contiguous piece of a blob, inside one extent segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Pool offset.
    pub offset: u64,
    /// Bytes of the value in it.
    pub len: u32,
    /// Bound to its place; see [`Chunk::crc`].
    pub crc: u32,
}

impl Chunk {
    /// The crc of `bytes` at pool offset `offset`.
    pub fn crc(bytes: &[u8], seed: SegmentSeed, offset: u64) -> u32 {
        checksum::crc32c(bytes) ^ seed.mask32(offset)
    }
}

/// Where a blob lies.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlobDescriptor {
    /// Bytes of the value.
    pub len: u64,
    /// Its pieces in order.
    pub chunks: Vec<Chunk>,
}

impl BlobDescriptor {
    /// Bytes of a descriptor with `chunks` pieces.
    pub fn encoded_len(chunks: usize) -> usize {
        HEADER_BYTES + chunks * CHUNK_BYTES
    }

    /// The bytes that take the value's place in the log.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::encoded_len(self.chunks.len()));
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
            bytes.extend_from_slice(&chunk.crc.to_le_bytes());
        }
        bytes
    }

    /// Reads a descriptor; `None` if its lengths do not add up or a piece lies where no pool reaches.
    pub fn decode(bytes: &[u8]) -> Option<BlobDescriptor> {
        let header = bytes.get(..HEADER_BYTES)?;
        let len = u64_at(header, 0);
        let count = u32_at(header, 8) as usize;
        if bytes.len() != HEADER_BYTES.checked_add(count.checked_mul(CHUNK_BYTES)?)? || len > VALUE_BYTES_MAX
        {
            return None;
        }
        let chunks: Vec<Chunk> = bytes[HEADER_BYTES..]
            .chunks_exact(CHUNK_BYTES)
            .map(|c| Chunk { offset: u64_at(c, 0), len: u32_at(c, 8), crc: u32_at(c, 12) })
            .collect();
        let is_possible = |c: &Chunk| {
            let len = u64::from(c.len);
            (1..=BLOB_CHUNK_BYTES_MAX).contains(&len) && c.offset <= POOL_BYTES_MAX - len
        };
        let chunks_fit = chunks.iter().all(is_possible);
        let total: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
        (chunks_fit && total == len).then_some(BlobDescriptor { len, chunks })
    }
}
