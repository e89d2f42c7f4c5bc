//! Every byte on the medium, and nowhere else: `docs/FORMAT.md` draws the same. Little-endian throughout; all padding and
//! all reserved fields are zero. Decoders are safe Rust over untrusted bytes: they return `None` or an [`Error`], never
//! panic, never allocate by a length they have not checked.
//!
//! ```text
//! pool     = head (superblock A | holder record | superblock B) , segment slot 0 , slot 1 , ...
//! segment  = header 256 | state word 8 | zero | at 512: [digest] | frames ... | filter | footer in the last 128 bytes
//! frame    = header 32 | op | op | ... | zero to a multiple of 64
//! op       = kind+flags 1 | [keyspace] | [distance] | [age] | key length | value length | crc32c 4 | key | value | zero to 8
//! ```
//!
//! Invariants:
//!   - frames start at multiples of 64 bytes, entries at multiples of 8
//!   - every checksum is bound to pool uuid, segment id and offset, so stale or misplaced bytes never verify
//!   - an entry leads back to its frame header, which carries the Seq

mod batch;
mod blob;
mod catalogue;
mod digest;
mod footer;
mod frame;
mod op;
mod plain;
mod put;
mod repair;
mod segment;
mod superblock;
#[cfg(test)]
mod tests;

pub use batch::{CommitRecord, PartsInSegment};
pub use blob::{BlobDescriptor, Chunk};
pub use catalogue::{KeyspaceRecord, catalogue_id, catalogue_key, keyspace_hash_seed};
pub use digest::{Digest, DigestEntry};
pub use footer::{Filter, Footer, filter_len};
pub use frame::{FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, FrameKind, frame_checksum, verify_frame};
pub use op::{
    OP_FIELDS_BYTES_MAX, Op, OpKind, OpSpec, Ops, SHORT_DISTANCE_END, encoded_len_max, keyspace_len_max,
};
pub use plain::PlainPut;
pub use put::Put;
pub use repair::{Work, repair_frame};
pub use segment::{SegmentClass, SegmentHeader, SegmentState, StateWord};
pub use superblock::{FEATURE_KEYSPACES, HolderRecord, Superblock, closed_ends};

/// Pool offset of superblock copy A.
pub const SUPERBLOCK_A_OFFSET: u64 = 0;
/// Pool offset of the holder record: a sector of its own, outside everything that is checksummed.
pub const HOLDER_OFFSET: u64 = 2048;
/// Pool offset of superblock copy B.
pub const SUPERBLOCK_B_OFFSET: u64 = 4096;
/// Bytes of one superblock copy: one sector, so that a disk writes it wholly or not at all.
pub const SUPERBLOCK_BYTES: usize = 512;
/// Bytes of a segment header, checksum included.
pub const SEGMENT_HEADER_BYTES: usize = 256;
/// Offset in the segment of its state word, on a cache line of its own in the header's sector.
pub const STATE_WORD_OFFSET: u64 = 256;
/// Offset in the segment where the digest, or else the first frame or block, begins.
pub const SEGMENT_BODY_OFFSET: u64 = 512;
/// Bytes of a superblock's magic, which comes first.
pub const SUPERBLOCK_MAGIC_BYTES: usize = 8;
/// Bytes of the footer, the last ones of every segment: two cache lines of their own. The filter may share its sector,
/// on files frames do not.
pub const FOOTER_BYTES: u64 = 128;
/// Ids and other numbers that count upwards never reach this; decoders refuse it, so that nothing that is computed from
/// them overflows.
pub const NUMBERS_END: u64 = 1 << 63;
/// The version this library writes.
pub const FORMAT_VERSION: u32 = 1;

const _: () = assert!(HOLDER_OFFSET >= SUPERBLOCK_A_OFFSET + SUPERBLOCK_BYTES as u64);
const _: () = assert!(SUPERBLOCK_B_OFFSET >= HOLDER_OFFSET + 512);
const _: () = assert!(STATE_WORD_OFFSET.is_multiple_of(64), "the state word has a cache line of its own");
const _: () = assert!(STATE_WORD_OFFSET + 8 <= SEGMENT_BODY_OFFSET);

/// Most bytes of a long varint: a tenth would not fit a `u64`.
const LONG_VARINT_BYTES_MAX: usize = 9;

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[inline]
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Appends `value` as a varint: seven bits a byte, least significant first.
#[inline]
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Reads a varint of at most five bytes (32 bits) in its shortest form; returns it and where it ends.
#[inline]
fn varint_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for i in 1..5 {
        let byte = *bytes.get(at + i)?;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return (byte != 0 && value <= u64::from(u32::MAX)).then_some((value, at + i + 1));
        }
    }
    None
}

/// Reads a varint of at most nine bytes (63 bits). Out of line: few operations have one.
#[inline(never)]
fn long_varint_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for i in 0..LONG_VARINT_BYTES_MAX {
        let byte = *bytes.get(at + i)?;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return (byte != 0 || i == 0).then_some((value, at + i + 1));
        }
    }
    None
}

/// Rounds up to a multiple of `align`, a power of two.
#[inline]
pub fn align_up(value: u64, align: u64) -> u64 {
    (value + align - 1) & !(align - 1)
}
