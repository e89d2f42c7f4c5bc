//! Undoing one flipped bit of a frame. The crc of an operation, or of the frame header, says which bit it must have been;
//! the frame is repaired only if its 64-bit checksum then verifies over all its bytes, so nothing is guessed: what
//! comes out is what was written there. Two flipped bits in a frame are damage.

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, verify_frame};
use super::op::{AGE_BYTES_MAX, KEYSPACE_BYTES_MAX, Op, Ops};
use super::{put, u32_at};
use crate::checksum::{self, SegmentSeed, SingleFlip};
use std::cell::Cell;

/// Most bytes of an operation before its crc.
const OP_HEAD_BYTES_MAX: usize = 1 + KEYSPACE_BYTES_MAX + 5 + AGE_BYTES_MAX + 3 + 5;
/// A commit record has no crc of its own: all of its bits are tried if it is no longer than this.
const COMMIT_RECORD_BYTES_MAX: usize = 256;

/// Bytes that may still be hashed in search of whole frames: a bound for files that were made to be slow.
#[derive(Debug)]
pub struct Work(Cell<u64>);

impl Work {
    /// So many bytes.
    pub fn of_bytes(bytes: u64) -> Work {
        Work(Cell::new(bytes))
    }

    /// Takes `bytes` of it; false if there are no more, from then on always.
    pub fn take(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes as u64);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// True if it was used up.
    pub fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// A frame in which a bit was flipped.
struct Damaged {
    bytes: Vec<u8>,
    header: FrameHeader,
    seed: SegmentSeed,
    offset: u64,
}

/// The frame that begins `bytes`, which lie at pool offset `offset`, as it was before one of its bits was flipped.
/// `None` if it is not that.
pub fn repair_frame(
    bytes: &[u8],
    seed: SegmentSeed,
    offset: u64,
    work: &Work,
) -> Option<(FrameHeader, Vec<u8>)> {
    let head = bytes.get(..FRAME_HEADER_BYTES)?;
    if let Some(header) = FrameHeader::decode(head, seed, offset) {
        let bytes = bytes.get(..header.len as usize)?.to_vec();
        let damaged = Damaged { bytes, header, seed, offset };
        return damaged.repair(work);
    }
    let mut head = head.to_vec();
    FrameHeader::correct(&mut head, seed, offset)?;
    let header = FrameHeader::decode(&head, seed, offset)?;
    let mut whole = bytes.get(..header.len as usize)?.to_vec();
    whole[..FRAME_HEADER_BYTES].copy_from_slice(&head);
    (work.take(whole.len()) && verify_frame(&whole, &header, seed, offset)).then_some((header, whole))
}

impl Damaged {
    fn is_whole(&self, work: &Work) -> bool {
        work.take(self.bytes.len()) && verify_frame(&self.bytes, &self.header, self.seed, self.offset)
    }

    fn repair(mut self, work: &Work) -> Option<(FrameHeader, Vec<u8>)> {
        if !work.take(self.bytes.len()) {
            return None;
        }
        let computed = FrameHeader::checksum_of(&self.bytes, self.seed, self.offset);
        if (computed ^ self.header.checksum).is_power_of_two() {
            self.header.checksum = computed;
            put(&mut self.bytes, 0, &computed.to_le_bytes());
            return Some((self.header, self.bytes));
        }
        let is_repaired = match self.header.kind {
            FrameKind::BatchCommit => self.repair_record(work),
            _ => self.repair_ops(work),
        };
        is_repaired.then_some((self.header, self.bytes))
    }

    fn repair_record(&mut self, work: &Work) -> bool {
        let end = self.bytes.len();
        if end > FRAME_HEADER_BYTES + COMMIT_RECORD_BYTES_MAX {
            return false;
        }
        (FRAME_HEADER_BYTES * 8..end * 8).any(|bit| {
            self.bytes[bit / 8] ^= 1 << (bit % 8);
            let is_whole = self.is_whole(work);
            if !is_whole {
                self.bytes[bit / 8] ^= 1 << (bit % 8);
            }
            is_whole
        })
    }

    fn repair_ops(&mut self, work: &Work) -> bool {
        // Everything between the operations is zero.
        let mut cleared = vec![0; self.bytes.len()];
        cleared[..FRAME_HEADER_BYTES].copy_from_slice(&self.bytes[..FRAME_HEADER_BYTES]);
        let (mut intact, mut next) = (0, FRAME_HEADER_BYTES);
        for (at, op) in Ops::new(&self.bytes, &self.header) {
            let len = op.len_bytes();
            if !work.take(len) || op.flip(self.seed, self.offset + u64::from(at)) != SingleFlip::None {
                break;
            }
            let at = at as usize;
            cleared[at..at + len].copy_from_slice(&self.bytes[at..at + len]);
            intact += 1;
            next = at + op.footprint_bytes() as usize;
        }
        if intact == self.header.op_count {
            self.bytes = cleared;
            return self.is_whole(work);
        }
        self.repair_op(next, work)
    }

    /// The operation at `start` does not verify: its crc names the bit, unless its lengths are what was hit.
    fn repair_op(&mut self, start: usize, work: &Work) -> bool {
        let offset = self.offset + start as u64;
        let Some(bytes) = self.bytes.get(start..) else { return false };
        let decoded = Op::decode(bytes).filter(|op| op.distance_bytes() == start as u64);
        if let Some(op) = decoded
            && work.take(op.len_bytes())
            && let SingleFlip::At(byte, bit) = op.flip(self.seed, offset)
        {
            self.bytes[start + byte] ^= 1 << bit;
            if self.is_whole(work) {
                return true;
            }
            self.bytes[start + byte] ^= 1 << bit;
        }
        let head = OP_HEAD_BYTES_MAX.min(self.bytes.len() - start);
        for at in 0..head * 8 {
            self.bytes[start + at / 8] ^= 1 << (at % 8);
            // A flip in or behind the crc was found by the crc.
            let is_candidate = |op: &Op<'_>| op.distance_bytes() == start as u64 && at / 8 < op.crc_at();
            let op = Op::decode(&self.bytes[start..]).filter(is_candidate);
            let is_right = op.is_some_and(|op| {
                work.take(op.len_bytes()) && op.flip(self.seed, offset) == SingleFlip::None
            });
            if is_right && self.is_whole(work) {
                return true;
            }
            self.bytes[start + at / 8] ^= 1 << (at % 8);
        }
        false
    }
}

impl FrameHeader {
    /// Flips the one bit of a header's bytes that makes its crc right; `None` if there is none.
    fn correct(head: &mut [u8], seed: SegmentSeed, offset: u64) -> Option<()> {
        let (stored, computed) = FrameHeader::crcs(head, seed, offset);
        let (first, len, crc_at) = FrameHeader::CRC_COVERS;
        match checksum::single_flip(stored ^ computed, len) {
            SingleFlip::At(byte, bit) if byte < len => head[first + byte] ^= 1 << bit,
            SingleFlip::At(byte, bit) => head[crc_at + byte - len] ^= 1 << bit,
            SingleFlip::None | SingleFlip::Unknown => return None,
        }
        Some(())
    }
}

impl Op<'_> {
    /// Which bit of the operation, counted from its start, makes its crc right.
    fn flip(&self, seed: SegmentSeed, offset: u64) -> SingleFlip {
        let crc_at = self.crc_at();
        let stored = u32_at(self.raw(), crc_at);
        match checksum::single_flip(stored ^ self.computed_crc(seed, offset), self.len_bytes() - 4) {
            SingleFlip::At(byte, bit) if byte >= self.len_bytes() - 4 => {
                SingleFlip::At(crc_at + byte - (self.len_bytes() - 4), bit)
            }
            SingleFlip::At(byte, bit) if byte >= crc_at => SingleFlip::At(byte + 4, bit),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FrameBuilder, OpKind, OpSpec};
    use crate::types::{SegmentId, Seq};

    fn frames() -> Vec<Vec<u8>> {
        let seed = seed();
        let op = |key, value| OpSpec {
            kind: OpKind::Put,
            key,
            value,
            moved: None,
            keyspace: crate::types::KeyspaceId::DEFAULT,
        };
        let mut small = FrameBuilder::new(FrameKind::Ops);
        small.push(&op(b"k", b""));
        let mut many = FrameBuilder::new(FrameKind::Batch);
        many.push(&op(b"a longer key", &[7; 200]));
        many.push(&OpSpec {
            kind: OpKind::Delete,
            key: b"gone",
            value: b"",
            moved: None,
            keyspace: crate::types::KeyspaceId::DEFAULT,
        });
        many.push(&OpSpec { moved: Some(77), ..op(b"moved", &[1; 31]) });
        many.pad(192);
        let mut commit = FrameBuilder::new(FrameKind::BatchCommit);
        commit.push_raw(&[3; 64]);
        let mut mark = FrameBuilder::new(FrameKind::Close);
        [&mut small, &mut many, &mut commit, &mut mark]
            .map(|frame| frame.finish(seed, 4096, Seq(640), 512).to_vec())
            .into()
    }

    fn seed() -> SegmentSeed {
        SegmentSeed::new(&[9; 16], SegmentId(3))
    }

    fn repaired(bytes: &[u8]) -> Option<Vec<u8>> {
        repair_frame(bytes, seed(), 4096, &Work::of_bytes(1 << 30)).map(|(_, frame)| frame)
    }

    #[test]
    fn every_single_flip_of_every_kind_of_frame_is_undone() {
        for frame in frames() {
            let followed = [&frame[..], &[0x5A; 64]].concat();
            for bit in 0..frame.len() * 8 {
                let mut rotten = followed.clone();
                rotten[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(repaired(&rotten).as_ref(), Some(&frame), "bit {bit} of {} bytes", frame.len());
            }
        }
    }

    #[test]
    fn two_flips_are_never_repaired_into_something_else() {
        for frame in frames() {
            for bit in (0..frame.len() * 8).step_by(3) {
                let other = (bit * 31 + 17) % (frame.len() * 8);
                let mut rotten = frame.clone();
                rotten[bit / 8] ^= 1 << (bit % 8);
                rotten[other / 8] ^= 1 << (other % 8);
                let found = repaired(&rotten);
                assert!(found.is_none() || found.as_ref() == Some(&frame), "bits {bit} and {other}");
            }
        }
    }

    #[test]
    fn a_repair_stops_when_its_work_is_used_up() {
        let mut rotten = frames()[1].clone();
        rotten[80] ^= 1;
        let work = Work::of_bytes(rotten.len() as u64 / 2);
        assert!(repair_frame(&rotten, seed(), 4096, &work).is_none());
        assert!(work.is_exhausted());
    }
}
