//! Walking a segment, and the one place that tells a torn tail from corruption.
//!
//! A frame that does not verify ends a head only if nothing acknowledged can lie behind it. Every frame carries how far
//! its log was durable when it was formed, so a whole frame behind a bad one that claims the bad one's place as durable
//! proves corruption; otherwise the bad frame, and whatever was in flight behind it, is a torn tail that nobody was
//! promised. Blind spot: the newest frames that no later frame, mark or seal speaks of.
//!
//! A frame in which one bit was flipped is a whole frame, as it was before: see `format/repair.rs`.

use crate::checksum::SegmentSeed;
use crate::constants::CACHE_LINE_BYTES;
use crate::format::{FOOTER_BYTES, FrameHeader, FrameKind, Work, repair_frame, verify_frame};
use crate::types::Seq;

/// A scan hashes at most so many times the bytes of its segment in search of frames behind holes and of flipped bits,
/// whatever the frames in it claim to be. What it has not seen by then is damage.
const WORK_FACTOR: u64 = 32;
/// Small segments may take this much.
const WORK_BYTES_MIN: u64 = 1 << 20;

/// A whole segment's bytes, as they lie on the medium.
pub struct SegmentBytes<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// Pool offset of the segment.
    pub base: u64,
    /// Seed of its checksums.
    pub seed: SegmentSeed,
    work: Work,
}

/// What lies at one place.
pub enum Piece<'a> {
    /// A whole frame.
    Frame {
        /// Offset in the segment.
        at: u32,
        /// Its header.
        header: FrameHeader,
        /// All its bytes.
        frame: &'a [u8],
    },
    /// A frame in which one bit is wrong on the medium.
    Repaired {
        /// Offset in the segment.
        at: u32,
        /// Its header.
        header: FrameHeader,
        /// All its bytes as they were written.
        frame: Vec<u8>,
    },
    /// Bytes that should be a frame and do not verify.
    Damage {
        /// Offset in the segment.
        at: u32,
        /// Where the next frame begins.
        end: u32,
        /// The frame's header, if that verifies by itself.
        header: Option<FrameHeader>,
    },
}

/// Where a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Offset behind the last frame that counts.
    pub cut: u32,
    /// The last frame is a close mark.
    pub closed: bool,
    /// Where its two close marks begin, whichever of them was found.
    pub closed_at: u32,
    /// Bad frames lie before the cut.
    pub has_damage: bool,
    /// Newest stamp of the whole frames behind the cut, which do not count.
    pub dropped_seq: Seq,
}

/// True for the second of two close marks whose first should lie at `hole`: that one rotted, or never reached the
/// medium, and held no data.
fn is_second_close_mark(header: &FrameHeader, hole: u32) -> bool {
    header.kind == FrameKind::Close && header.durable_end == hole
}

impl Tail {
    /// A head without frames.
    pub fn at(start: u32) -> Tail {
        Tail { cut: start, closed: false, closed_at: 0, has_damage: false, dropped_seq: Seq::ZERO }
    }
}

impl<'a> SegmentBytes<'a> {
    /// The bytes of the segment at pool offset `base`.
    pub fn new(bytes: &'a [u8], base: u64, seed: SegmentSeed) -> Self {
        SegmentBytes {
            bytes,
            base,
            seed,
            work: Work::of_bytes((WORK_FACTOR * bytes.len() as u64).max(WORK_BYTES_MIN)),
        }
    }

    /// The frame at `at` that one flipped bit keeps from being whole, if it ends at or before `end`.
    #[cold]
    fn repaired_at(&self, at: u32, end: u32) -> Option<(FrameHeader, Vec<u8>)> {
        repair_frame(
            self.bytes.get(at as usize..end as usize)?,
            self.seed,
            self.base + u64::from(at),
            &self.work,
        )
    }

    fn header_at(&self, at: u32) -> Option<FrameHeader> {
        FrameHeader::decode(self.bytes.get(at as usize..)?, self.seed, self.base + u64::from(at))
    }

    /// Where the frame whose header lies at `at` ends within the segment, whether it is whole or not.
    pub fn end_of_header_at(&self, at: u32) -> Option<u32> {
        let header = self.header_at(at)?;
        at.checked_add(header.len).filter(|end| *end as usize <= self.bytes.len())
    }

    /// The whole frame at `at`, if there is one that ends at or before `end`.
    #[inline]
    fn frame_at(&self, at: u32, end: u32) -> Option<(FrameHeader, &'a [u8])> {
        self.whole_frame(at, end, FrameHeader::parse(self.bytes.get(at as usize..)?)?)
    }

    #[inline]
    fn whole_frame(&self, at: u32, end: u32, header: FrameHeader) -> Option<(FrameHeader, &'a [u8])> {
        if u64::from(at) + u64::from(header.len) > u64::from(end) {
            return None;
        }
        let frame = self.bytes.get(at as usize..(at + header.len) as usize)?;
        verify_frame(frame, &header, self.seed, self.base + u64::from(at)).then_some((header, frame))
    }

    fn next_frame_behind(&self, at: u32, end: u32) -> Option<(u32, FrameHeader)> {
        let step = CACHE_LINE_BYTES as usize;
        (at as usize + step..end as usize).step_by(step).find_map(|place| {
            // The header's own crc first: most places hold none, and the whole frame is dear to check.
            let header = self.header_at(place as u32)?;
            let is_affordable = self.work.take((header.len as usize).min(self.bytes.len()));
            if !is_affordable {
                return None;
            }
            self.whole_frame(place as u32, end, header).map(|(header, _)| (place as u32, header))
        })
    }

    /// Shows everything between `start` and `end`, where frames are known to be.
    pub fn walk(&self, start: u32, end: u32, mut visit: impl FnMut(Piece<'a>)) {
        let mut at = start;
        while at < end {
            if let Some((header, frame)) = self.frame_at(at, end) {
                visit(Piece::Frame { at, header, frame });
                at += header.len;
                continue;
            }
            if let Some((header, frame)) = self.repaired_at(at, end) {
                at += header.len;
                visit(Piece::Repaired { at: at - header.len, header, frame });
                continue;
            }
            let fits = |header: &FrameHeader| u64::from(at) + u64::from(header.len) <= u64::from(end);
            let header = self.header_at(at).filter(fits);
            let behind = if header.is_none() { self.next_frame_behind(at, end) } else { None };
            let next = match header {
                Some(header) => at + header.len,
                None => behind.map_or(end, |(place, _)| place),
            };
            if !behind.is_some_and(|(_, behind)| is_second_close_mark(&behind, at)) {
                visit(Piece::Damage { at, end: next, header });
            }
            at = next;
        }
    }

    /// Finds where the frames of an unsealed head that start at `start` end.
    pub fn find_tail(&self, start: u32) -> Tail {
        let limit = self.bytes.len() as u32 - FOOTER_BYTES as u32;
        let mut tail = Tail::at(start);
        loop {
            while let Some(header) = self.counts_at(tail.cut, limit) {
                tail.cut += header.len;
                tail.closed = header.kind == FrameKind::Close;
                // Both were formed when everything before them was durable, and neither when the other was.
                tail.closed_at = header.durable_end;
            }
            let Some(next) = self.proven_behind(tail.cut, limit, &mut tail) else { return tail };
            tail.cut = next;
        }
    }

    fn counts_at(&self, at: u32, limit: u32) -> Option<FrameHeader> {
        match self.frame_at(at, limit) {
            Some((header, _)) => Some(header),
            None => self.repaired_at(at, limit).map(|(header, _)| header),
        }
    }

    /// Looks behind a place that holds no whole frame for proof that it once held a durable one, or for the second of
    /// two close marks. Returns where to go on, or `None` if the head ends here.
    fn proven_behind(&self, hole: u32, limit: u32, tail: &mut Tail) -> Option<u32> {
        let mut first = None;
        let mut place = hole;
        let mut proven = false;
        while let Some((at, header)) = self.next_frame_behind(place, limit) {
            if first.is_none() && is_second_close_mark(&header, hole) {
                return Some(at);
            }
            first.get_or_insert(at);
            tail.dropped_seq = tail.dropped_seq.max(header.seq_at(u64::from(header.len)));
            proven |= header.durable_end > hole;
            if proven {
                break;
            }
            place = at + header.len - CACHE_LINE_BYTES as u32;
        }
        if !proven && self.work.is_exhausted() {
            // Nobody knows what lies there: all of it is damage.
            tail.has_damage = true;
            tail.closed = false;
            tail.cut = limit;
            return None;
        }
        if !proven {
            return None;
        }
        tail.has_damage = true;
        tail.closed = false;
        let intact_header = self.header_at(hole).map(|header| u64::from(hole) + u64::from(header.len));
        match intact_header {
            Some(end) if end <= u64::from(limit) => Some(end as u32),
            _ => first,
        }
    }

    /// True if no whole frame lies anywhere at or behind `start`.
    pub fn is_empty_from(&self, start: u32) -> bool {
        let limit = self.bytes.len() as u32 - FOOTER_BYTES as u32;
        self.frame_at(start, limit).is_none() && self.next_frame_behind(start, limit).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FrameBuilder;
    use crate::format::{OpKind, OpSpec};
    use crate::types::SegmentId;

    /// A header with a right crc at every place, each of a frame that reaches to the end and is not there.
    #[test]
    fn a_segment_full_of_headers_without_frames_is_damage_after_bounded_work() {
        const SEGMENT_BYTES: usize = 128 << 10;
        const BASE: u64 = 8192;
        let seed = SegmentSeed::new(&[1; 16], SegmentId(1));
        let limit = SEGMENT_BYTES - FOOTER_BYTES as usize;
        let mut bytes = vec![0xA5; SEGMENT_BYTES];
        for at in (512..limit).step_by(CACHE_LINE_BYTES as usize) {
            let mut frame = FrameBuilder::new(FrameKind::Ops);
            // With an operation: a frame of nothing but padding is known by its header alone.
            frame.push(&OpSpec {
                kind: OpKind::Delete,
                key: b"k",
                value: &[],
                moved: None,
                keyspace: crate::types::KeyspaceId::DEFAULT,
            });
            frame.pad((limit - at) as u64 - frame.len_bytes());
            let frame = frame.finish(seed, BASE + at as u64, Seq(640), 0);
            bytes[at..at + 32].copy_from_slice(&frame[..32]);
        }
        let segment = SegmentBytes::new(&bytes, BASE, seed);
        let tail = segment.find_tail(512);
        assert!(segment.work.is_exhausted(), "or the bound was not what ended it");
        assert!(tail.has_damage && !tail.closed);
        assert_eq!(tail.cut as usize, limit);
        let mut damaged = 0;
        segment.walk(512, tail.cut, |piece| match piece {
            Piece::Damage { at, end, .. } => damaged += end - at,
            Piece::Frame { .. } | Piece::Repaired { .. } => panic!("there is no whole frame"),
        });
        assert_eq!(damaged as usize, limit - 512);
    }
}
