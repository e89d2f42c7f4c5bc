//! The log digest (RAMCloud): the list of every segment of the store, at the start of each log head. The highest-numbered
//! digest among active heads rules: what it lists must be there, or the store is incomplete.
//!
//! An entry is two varints, three bytes as a rule: how many slots lie between it and the entry before it, with the sealed
//! bit below, and how far its id lies below the highest one given. A head holds every segment of the store, so what a
//! list takes is taken from each of them (decision 0005).

use super::{LONG_VARINT_BYTES_MAX, NUMBERS_END, long_varint_at, push_varint, put, u16_at, u32_at, u64_at};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::{CACHE_LINE_BYTES, SECTOR_BYTES};
use crate::types::{SegmentId, SegmentSlot};

const MAGIC: u32 = u32::from_le_bytes(*b"Dgst");
const HEADER_BYTES: usize = 64;
/// Fewest bytes of an entry.
const ENTRY_BYTES_MIN: usize = 2;
/// A whole list; room for deltas (kind 2, against `base number`) is in the header.
const KIND_FULL: u16 = 1;

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
    /// All segments in use, the head that holds this digest included, by slot.
    pub entries: Vec<DigestEntry>,
}

impl Digest {
    /// Slots that a store can have if all of them are to be listed within `bytes`, whatever their ids. (Where some are not
    /// listed the varint behind the gap is longer, but there are fewer entries, too.)
    pub fn slots_max(bytes: u64) -> u64 {
        bytes.saturating_sub(HEADER_BYTES as u64) / (1 + LONG_VARINT_BYTES_MAX) as u64
    }

    /// Most bytes that a digest may take of a segment: what a frame may count on is the rest.
    pub fn bytes_max(segment_size_bytes: u64) -> u64 {
        (segment_size_bytes / 4).max(SECTOR_BYTES)
    }

    /// The bytes, for the pool offset they will be written to.
    pub fn encode(&self, seed: SegmentSeed, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut next_slot = 0;
        for entry in &self.entries {
            debug_assert!(entry.slot.0 >= next_slot && entry.id < self.next_id, "{entry:?}");
            push_varint(&mut bytes, u64::from(entry.slot.0 - next_slot) << 1 | u64::from(entry.sealed));
            push_varint(&mut bytes, self.next_id.0 - 1 - entry.id.0);
            next_slot = entry.slot.0 + 1;
        }
        bytes.resize(super::align_up(bytes.len() as u64, CACHE_LINE_BYTES) as usize, 0);
        let length = bytes.len() as u32;
        put(&mut bytes, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut bytes, at::KIND, &KIND_FULL.to_le_bytes());
        put(&mut bytes, at::NUMBER, &self.number.to_le_bytes());
        put(&mut bytes, at::BASE_NUMBER, &self.number.to_le_bytes());
        put(&mut bytes, at::NEXT_ID, &self.next_id.0.to_le_bytes());
        put(&mut bytes, at::COUNT, &(self.entries.len() as u32).to_le_bytes());
        put(&mut bytes, at::LENGTH, &length.to_le_bytes());
        put(&mut bytes, at::LIVE_ENTRIES, &self.live_entries.to_le_bytes());
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
            || length < HEADER_BYTES
            || count > (length - HEADER_BYTES) / ENTRY_BYTES_MIN
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
        let next_id = SegmentId(u64_at(whole, at::NEXT_ID));
        let (entries, end) = decode_entries(whole, count, next_id)?;
        if length as u64 != super::align_up(end as u64, CACHE_LINE_BYTES) {
            return None;
        }
        let digest = Digest {
            number: u64_at(whole, at::NUMBER),
            next_id,
            live_entries: u64_at(whole, at::LIVE_ENTRIES),
            entries,
        };
        Some((digest, length as u64))
    }
}

/// The entries, and where they end.
fn decode_entries(whole: &[u8], count: usize, next_id: SegmentId) -> Option<(Vec<DigestEntry>, usize)> {
    let mut entries = Vec::with_capacity(count);
    let (mut at, mut next_slot) = (HEADER_BYTES, 0_u32);
    for _ in 0..count {
        let (gap_and_sealed, id_at) = long_varint_at(whole, at)?;
        let (below, end) = long_varint_at(whole, id_at)?;
        let slot = next_slot.checked_add(u32::try_from(gap_and_sealed >> 1).ok()?)?;
        let id = next_id.0.checked_sub(below)?.checked_sub(1)?;
        entries.push(DigestEntry {
            slot: SegmentSlot(slot),
            id: SegmentId(id),
            sealed: gap_and_sealed & 1 != 0,
        });
        next_slot = slot.checked_add(1)?;
        at = end;
    }
    Some((entries, at))
}
