//! The log digest (RAMCloud): the list of every segment of the store, at the start of each log head. The highest-numbered
//! digest among active heads rules: what it lists must be there, or the store is incomplete.

use super::{NUMBERS_END, put, u16_at, u32_at, u64_at};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::{CACHE_LINE_BYTES, SECTOR_BYTES};
use crate::types::{LogId, SegmentId, SegmentSlot};

const MAGIC: u32 = u32::from_le_bytes(*b"Dgst");
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;
/// A whole list; room for deltas (kind 2, against `base number`) is in the header.
const KIND_FULL: u16 = 1;
const FLAG_SEALED: u8 = 1;

mod at {
    pub const CHECKSUM: usize = 0;
    pub const MAGIC: usize = 8;
    pub const KIND: usize = 12;
    pub const NUMBER: usize = 16;
    pub const BASE_NUMBER: usize = 24;
    pub const NEXT_ID: usize = 32;
    pub const COUNT: usize = 40;
    pub const LENGTH: usize = 44;
    pub const LIVE_ENTRIES: usize = 48;
    // 56..64 reserved, zero
}

/// One listed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestEntry {
    /// Where it is.
    pub slot: SegmentSlot,
    /// Which it is.
    pub id: SegmentId,
    /// Its seal was durable when the digest was formed: recovery need not make its bytes durable again.
    pub sealed: bool,
    /// Its log.
    pub log: LogId,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Increases by one with every digest of the store.
    pub number: u64,
    /// Lowest id not given when it was formed.
    pub next_id: SegmentId,
    /// About how many keys the store had: lets recovery make the index large enough at once. Never relied on.
    pub live_entries: u64,
    /// All segments in use, the head that holds this digest included.
    pub entries: Vec<DigestEntry>,
}

impl Digest {
    /// Bytes on the medium of a digest with `count` entries.
    pub fn encoded_len(count: usize) -> u64 {
        super::align_up((HEADER_BYTES + count * ENTRY_BYTES) as u64, CACHE_LINE_BYTES)
    }

    /// Most bytes that a digest may take of a segment: what a frame may count on is the rest.
    pub fn bytes_max(segment_size_bytes: u64) -> u64 {
        (segment_size_bytes / 4).max(SECTOR_BYTES)
    }

    /// The bytes, for the pool offset they will be written to.
    pub fn encode(&self, seed: SegmentSeed, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; Self::encoded_len(self.entries.len()) as usize];
        let length = bytes.len() as u32;
        put(&mut bytes, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut bytes, at::KIND, &KIND_FULL.to_le_bytes());
        put(&mut bytes, at::NUMBER, &self.number.to_le_bytes());
        put(&mut bytes, at::BASE_NUMBER, &self.number.to_le_bytes());
        put(&mut bytes, at::NEXT_ID, &self.next_id.0.to_le_bytes());
        put(&mut bytes, at::COUNT, &(self.entries.len() as u32).to_le_bytes());
        put(&mut bytes, at::LENGTH, &length.to_le_bytes());
        put(&mut bytes, at::LIVE_ENTRIES, &self.live_entries.to_le_bytes());
        for (i, entry) in self.entries.iter().enumerate() {
            let start = HEADER_BYTES + i * ENTRY_BYTES;
            put(&mut bytes, start, &entry.slot.0.to_le_bytes());
            bytes[start + 4] = if entry.sealed { FLAG_SEALED } else { 0 };
            bytes[start + 5] = entry.log.0;
            put(&mut bytes, start + 8, &entry.id.0.to_le_bytes());
        }
        let sum = checksum::hash64(seed.mask64(offset), &bytes[at::MAGIC..]);
        put(&mut bytes, at::CHECKSUM, &sum.to_le_bytes());
        bytes
    }

    /// Reads the digest at the start of `bytes`, which lies at pool offset `offset`; also returns its length.
    pub fn decode(bytes: &[u8], seed: SegmentSeed, offset: u64) -> Option<(Digest, u64)> {
        let header = bytes.get(..HEADER_BYTES)?;
        let count = u32_at(header, at::COUNT) as usize;
        let length = u32_at(header, at::LENGTH) as usize;
        if u32_at(header, at::MAGIC) != MAGIC
            || u16_at(header, at::KIND) != KIND_FULL
            || count > bytes.len() / ENTRY_BYTES
            || length as u64 != Self::encoded_len(count)
            || u64_at(header, at::NUMBER) >= NUMBERS_END
            || u64_at(header, at::NEXT_ID) >= NUMBERS_END
        {
            return None;
        }
        let whole = bytes.get(..length)?;
        let computed = checksum::hash64(seed.mask64(offset), &whole[at::MAGIC..]);
        if !checksum::verify(CheckSite::Digest, u64_at(whole, at::CHECKSUM), computed) {
            return None;
        }
        let entries = (0..count)
            .map(|i| {
                let entry = &whole[HEADER_BYTES + i * ENTRY_BYTES..][..ENTRY_BYTES];
                DigestEntry {
                    slot: SegmentSlot(u32_at(entry, 0)),
                    sealed: entry[4] & FLAG_SEALED != 0,
                    log: LogId(entry[5]),
                    id: SegmentId(u64_at(entry, 8)),
                }
            })
            .collect();
        let digest = Digest {
            number: u64_at(whole, at::NUMBER),
            next_id: SegmentId(u64_at(whole, at::NEXT_ID)),
            live_entries: u64_at(whole, at::LIVE_ENTRIES),
            entries,
        };
        Some((digest, length as u64))
    }
}
