//! Walking a segment, and the one place that tells a torn tail from corruption.
//!
//! A frame that does not verify ends a head only if nothing acknowledged can lie behind it. Every frame carries how far
//! its log was durable when it was formed, so a whole frame behind a bad one that claims the bad one's place as durable
//! proves corruption; otherwise the bad frame, and whatever was in flight behind it, is a torn tail that nobody was
//! promised. Blind spot: the newest frames that no later frame, mark or seal speaks of.

use crate::checksum::SegmentSeed;
use crate::constants::CACHE_LINE_BYTES;
use crate::format::{FOOTER_BYTES, FrameHeader, FrameKind, verify_frame};
use crate::types::Seq;

/// A whole segment's bytes, as they lie on the medium.
#[derive(Clone, Copy)]
pub struct SegmentBytes<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// Pool offset of the segment.
    pub base: u64,
    /// Seed of its checksums.
    pub seed: SegmentSeed,
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
        Tail { cut: start, closed: false, has_damage: false, dropped_seq: Seq::ZERO }
    }
}

impl<'a> SegmentBytes<'a> {
    fn header_at(&self, at: u32) -> Option<FrameHeader> {
        FrameHeader::decode(self.bytes.get(at as usize..)?, self.seed, self.base + u64::from(at))
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
            while let Some((header, _)) = self.frame_at(tail.cut, limit) {
                tail.cut += header.len;
                tail.closed = header.kind == FrameKind::Close;
            }
            let Some(next) = self.proven_behind(tail.cut, limit, &mut tail) else { return tail };
            tail.cut = next;
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
            place = at + header.len - CACHE_LINE_BYTES as u32;
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

    /// Where the first whole frame at or behind `start` begins; `start` if there is none.
    pub fn first_frame_from(&self, start: u32) -> u32 {
        let limit = self.bytes.len() as u32 - FOOTER_BYTES as u32;
        if self.frame_at(start, limit).is_some() {
            return start;
        }
        self.next_frame_behind(start, limit).map_or(start, |(at, _)| at)
    }

    /// True if no whole frame lies anywhere at or behind `start`.
    pub fn is_empty_from(&self, start: u32) -> bool {
        let limit = self.bytes.len() as u32 - FOOTER_BYTES as u32;
        self.frame_at(start, limit).is_none() && self.next_frame_behind(start, limit).is_none()
    }
}
