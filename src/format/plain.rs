//! The frame of one short put of the default keyspace, as most frames are: encoded in one piece, in memory of the caller's, and
//! nothing is allocated.
//!
//! Invariant: its bytes are those that a [`FrameBuilder`](super::FrameBuilder) makes of the same put.

use super::frame::{FRAME_HEADER_BYTES, FrameKind, finish_header};
use super::op::FIRST_PUT;
use super::{align_up, put};
use crate::checksum::{self, SegmentSeed};
use crate::constants::{CACHE_LINE_BYTES, ENTRY_ALIGN_BYTES};
use crate::sync::{Work, work};
use crate::types::Seq;

/// What the operation begins with: its kind and its two lengths, a byte each, then its crc.
const FIELDS_BYTES: usize = 3;
const KEY_AT: usize = FRAME_HEADER_BYTES + FIELDS_BYTES + size_of::<u32>();
/// Longer lengths take two bytes.
const LENGTH_MAX: usize = 0x7f;
/// Whole lines.
const BYTES_MAX: usize = (KEY_AT + 2 * LENGTH_MAX).next_multiple_of(CACHE_LINE_BYTES as usize);
/// Fields, crc and the key's first byte are one word.
const _: () = assert!(KEY_AT + 1 == FRAME_HEADER_BYTES + size_of::<u64>());

/// See the module.
pub struct PlainPut {
    bytes: [u8; BYTES_MAX],
    /// Where the value ends.
    end: usize,
    /// Not bound to a place yet.
    crc: u32,
}

impl PlainPut {
    /// Where the operation begins in the frame.
    pub const OP_AT: u32 = FRAME_HEADER_BYTES as u32;

    /// Memory for one.
    #[inline(always)]
    pub fn blank() -> PlainPut {
        PlainPut { bytes: [0; BYTES_MAX], end: KEY_AT, crc: 0 }
    }

    /// Whether a put of so many bytes is short.
    #[inline(always)]
    pub fn takes(key_len: usize, value_len: usize) -> bool {
        (1..=LENGTH_MAX).contains(&key_len) && value_len <= LENGTH_MAX
    }

    /// Encodes a put that it takes. Once.
    #[inline(always)]
    pub fn encode(&mut self, key: &[u8], value: &[u8]) {
        assert!(Self::takes(key.len(), value.len()), "a short put");
        work(Work::Entry);
        let value_at = KEY_AT + key.len();
        self.end = value_at + value.len();
        self.bytes[KEY_AT..value_at].copy_from_slice(key);
        self.bytes[value_at..self.end].copy_from_slice(value);
        let fields = [FIRST_PUT, key.len() as u8, value.len() as u8];
        put(&mut self.bytes, FRAME_HEADER_BYTES, &fields);
        self.crc = checksum::crc32c_of_two(&fields, &self.bytes[KEY_AT..self.end]);
    }

    /// Bytes the frame will have.
    #[inline(always)]
    pub fn len_bytes(&self) -> u64 {
        align_up(self.end as u64, CACHE_LINE_BYTES)
    }

    /// Bytes of the operation, alignment included.
    #[inline(always)]
    pub fn op_bytes(&self) -> u64 {
        align_up(self.end as u64, ENTRY_ALIGN_BYTES) - FRAME_HEADER_BYTES as u64
    }

    /// Binds the frame to its place and order and returns its bytes. Once.
    #[inline(always)]
    pub fn finish(&mut self, seed: SegmentSeed, offset: u64, base_seq: Seq, durable_end: u32) -> &[u8] {
        work(Work::Frame { lines: self.len_bytes() / CACHE_LINE_BYTES });
        let crc = self.crc ^ seed.mask32(offset + u64::from(Self::OP_AT));
        // A whole word, as in the header.
        let word = super::u64_at(&self.bytes, FRAME_HEADER_BYTES) | u64::from(crc) << (8 * FIELDS_BYTES);
        put(&mut self.bytes, FRAME_HEADER_BYTES, &word.to_le_bytes());
        let len = self.len_bytes() as usize;
        let frame = &mut self.bytes[..len];
        finish_header(frame, (FrameKind::Ops, 1), (seed, offset), base_seq, durable_end);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FrameBuilder, OpKind, OpSpec};
    use crate::types::{KeyspaceId, SegmentId};

    #[test]
    fn a_plain_put_has_the_bytes_that_the_builder_makes_of_it() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let seed = SegmentSeed::new(b"0123456789abcdef", SegmentId(7));
        for key_len in 1..=LENGTH_MAX {
            for value_len in 0..=LENGTH_MAX {
                let (key, value) = (&bytes[..key_len], &bytes[256 - value_len..]);
                let spec =
                    OpSpec { kind: OpKind::Put, key, value, moved: None, keyspace: KeyspaceId::DEFAULT };
                let mut general = FrameBuilder::new(FrameKind::Ops);
                assert_eq!(general.push(&spec), PlainPut::OP_AT);
                let mut plain = PlainPut::blank();
                plain.encode(key, value);
                assert_eq!((plain.len_bytes(), plain.op_bytes()), (general.len_bytes(), general.op_bytes()));
                let (offset, seq) = (0x1234_5640, Seq(0x0011_2233_4455_6605));
                assert_eq!(plain.finish(seed, offset, seq, 832), general.finish(seed, offset, seq, 832));
            }
        }
    }

    #[test]
    fn only_lengths_of_one_byte_are_taken() {
        assert!(PlainPut::takes(1, 0) && PlainPut::takes(LENGTH_MAX, LENGTH_MAX));
        assert!(!PlainPut::takes(0, 5) && !PlainPut::takes(128, 5) && !PlainPut::takes(5, 128));
    }
}
