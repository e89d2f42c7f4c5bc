//! Segment header and state word.

use super::{NUMBERS_END, SEGMENT_HEADER_BYTES, STATE_WORD_OFFSET, put, u16_at, u32_at, u64_at};
use crate::checksum::{self, CheckSite};
use crate::constants::LOGS_MAX;
use crate::types::{LogId, SegmentId, SegmentSlot, Seq};

const MAGIC: u64 = u64::from_le_bytes(*b"FkvSegm\x01");

mod at {
    pub const MAGIC: usize = 0;
    pub const UUID: usize = 8;
    pub const ID: usize = 24;
    pub const CREATION_SEQ: usize = 32;
    pub const TERM: usize = 40; // reserved for replication
    pub const LOG: usize = 48;
    pub const CLASS: usize = 49;
    pub const COPY: usize = 50; // reserved for mirrors
    pub const DEVICE_GROUP: usize = 52; // reserved for mirrors
    pub const SLOT: usize = 56;
    pub const CHECKSUM: usize = 248;
}
const _: () = assert!(at::CHECKSUM + 8 == SEGMENT_HEADER_BYTES);

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentClass {
    /// Appended to by writers; begins with a digest.
    LogHead = 1,
    /// Filled by the cleaner.
    Survivor = 2,
    /// Blocks of blobs.
    Extent = 3,
    /// A persisted index image.
    Checkpoint = 4,
}

impl SegmentClass {
    /// The class with this number.
    pub fn from_u8(value: u8) -> Option<SegmentClass> {
        match value {
            1 => Some(SegmentClass::LogHead),
            2 => Some(SegmentClass::Survivor),
            3 => Some(SegmentClass::Extent),
            4 => Some(SegmentClass::Checkpoint),
            _ => None,
        }
    }
}

/// Identity and purpose of a segment: written once, before the segment is named by anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its identity.
    pub id: SegmentId,
    /// Where it was put; a header found elsewhere is a misplaced copy.
    pub slot: SegmentSlot,
    /// The log that it belongs to (heads).
    pub log: LogId,
    /// What it is for.
    pub class: SegmentClass,
    /// Newest stamp of its log when it was created.
    pub creation_seq: Seq,
}

impl SegmentHeader {
    /// The bytes on the medium.
    pub fn encode(&self, uuid: &[u8; 16]) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        put(&mut bytes, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut bytes, at::UUID, uuid);
        put(&mut bytes, at::ID, &self.id.0.to_le_bytes());
        put(&mut bytes, at::CREATION_SEQ, &self.creation_seq.0.to_le_bytes());
        bytes[at::LOG] = self.log.0;
        bytes[at::CLASS] = self.class as u8;
        put(&mut bytes, at::SLOT, &self.slot.0.to_le_bytes());
        let sum = checksum::hash64(MAGIC, &bytes[..at::CHECKSUM]);
        put(&mut bytes, at::CHECKSUM, &sum.to_le_bytes());
        bytes
    }

    /// Reads the header of the segment in `slot`; `None` if it is not a whole header of this pool and place.
    pub fn decode(bytes: &[u8], uuid: &[u8; 16], slot: SegmentSlot) -> Option<SegmentHeader> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let computed = checksum::hash64(MAGIC, &bytes[..at::CHECKSUM]);
        let whole = u64_at(bytes, at::MAGIC) == MAGIC
            && checksum::verify(CheckSite::SegmentHeader, u64_at(bytes, at::CHECKSUM), computed)
            && bytes[at::UUID..at::UUID + 16] == uuid[..]
            && u32_at(bytes, at::SLOT) == slot.0;
        let is_reserved_zero =
            u64_at(bytes, at::TERM) == 0 && bytes[at::COPY] == 0 && u16_at(bytes, at::DEVICE_GROUP) == 0;
        let is_possible = u64_at(bytes, at::ID) < NUMBERS_END && usize::from(bytes[at::LOG]) < LOGS_MAX;
        if !(whole && is_reserved_zero && is_possible) {
            return None;
        }
        Some(SegmentHeader {
            id: SegmentId(u64_at(bytes, at::ID)),
            slot,
            log: LogId(bytes[at::LOG]),
            class: SegmentClass::from_u8(bytes[at::CLASS])?,
            creation_seq: Seq(u64_at(bytes, at::CREATION_SEQ)),
        })
    }
}

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SegmentState {
    /// The slot may be reused.
    Free = 0x0F0F,
    /// A survivor, extent or checkpoint segment in use.
    Open = 0x33CC,
    /// A log head.
    Active = 0x5A69,
    /// Complete: footer durable, never appended to again.
    Sealed = 0x9696,
    /// Left out by a durable digest, waiting for readers.
    Retired = 0xC3F0,
}

impl SegmentState {
    fn from_u16(value: u16) -> Option<SegmentState> {
        [
            SegmentState::Free,
            SegmentState::Open,
            SegmentState::Active,
            SegmentState::Sealed,
            SegmentState::Retired,
        ]
        .into_iter()
        .find(|state| *state as u16 == value)
    }
}

/// State and identity in eight bytes, so that a change of state is one atomic store on persistent memory.
/// Codes lie at Hamming distance 4 or more from each other; 40 bits of the id and 8 check bits complete the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord {
    /// The state.
    pub state: SegmentState,
    /// The low 40 bits of the segment's id.
    pub id_bits: u64,
}

const ID_BITS: u32 = 40;

impl StateWord {
    /// The word for segment `id`.
    pub fn new(state: SegmentState, id: SegmentId) -> Self {
        StateWord { state, id_bits: id.0 & ((1 << ID_BITS) - 1) }
    }

    /// True if the word belongs to segment `id`.
    pub fn belongs_to(self, id: SegmentId) -> bool {
        self.id_bits == id.0 & ((1 << ID_BITS) - 1)
    }

    /// The word on the medium.
    pub fn encode(self) -> u64 {
        let payload = (self.state as u64) << 48 | self.id_bits << 8;
        payload | Self::check(payload)
    }

    /// Reads the word; `None` if it is damaged. A slot that was never used holds zero, see [`StateWord::is_blank`].
    pub fn decode(word: u64) -> Option<StateWord> {
        let payload = word & !0xFF;
        if !checksum::verify(CheckSite::StateWord, word & 0xFF, Self::check(payload)) {
            return None;
        }
        Some(StateWord {
            state: SegmentState::from_u16((word >> 48) as u16)?,
            id_bits: (word >> 8) & ((1 << ID_BITS) - 1),
        })
    }

    /// The word in the header sector of a segment.
    pub fn in_segment(bytes: &[u8]) -> u64 {
        u64_at(bytes, STATE_WORD_OFFSET as usize)
    }

    /// True for the word of a slot that was never used.
    pub fn is_blank(word: u64) -> bool {
        word == 0
    }

    fn check(payload: u64) -> u64 {
        u64::from(checksum::crc32c(&payload.to_le_bytes())) & 0xFF
    }
}
