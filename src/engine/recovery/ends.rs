//! Whether the logs of a pool that was closed still end where they did.
//!
//! A head seems to end at the last close mark that is seen. But a log may have been resumed behind a close mark: if the page
//! that held what came then is lost, or shows what it held before, an earlier mark is seen. So the superblock, which lies
//! elsewhere, records the ends at each close.

use super::super::Engine;
use super::survey::{Member, Survey};
use crate::checksum::{CheckSite, verify};
use crate::constants::SECTOR_BYTES;
use crate::error::Result;
use crate::format::{SEGMENT_BODY_OFFSET, align_up, closed_ends};
use crate::index::Index;
use crate::oplog::scan::SegmentBytes;

/// How the pool was left.
#[derive(Clone, Copy)]
pub struct LastClose {
    /// With the clean mark.
    pub was_clean: bool,
    /// And yet the heads do not end where they did then: any of them may have gone on behind what is seen.
    pub has_lost_ends: bool,
}

impl<I: Index + 'static> Engine<I> {
    /// Compares what the superblock says of the last close with what the heads look like.
    pub(super) fn last_close(&self, survey: &Survey, was_clean: bool) -> Result<LastClose> {
        let recorded = self.superblock.lock().current().closed_ends;
        if !was_clean || recorded == 0 {
            return Ok(LastClose { was_clean, has_lost_ends: false });
        }
        let mut ends = Vec::new();
        for slots in survey.heads.values() {
            let mut heads: Vec<&Member> = slots.iter().map(|slot| &survey.members[slot]).collect();
            heads.sort_by_key(|head| std::cmp::Reverse(head.header.id));
            for head in heads {
                // Of two the smaller is sealed and its state word has reverted, if the larger counts.
                if !self.is_void(survey, head)? {
                    ends.push((head.header.id, self.closed_at(survey, head)?));
                    break;
                }
            }
        }
        let has_lost_ends = !verify(CheckSite::ClosedEnds, recorded, closed_ends(ends));
        Ok(LastClose { was_clean, has_lost_ends })
    }

    /// Where the close marks of a head begin; 0 if none is seen.
    fn closed_at(&self, survey: &Survey, head: &Member) -> Result<u32> {
        let slot = head.header.slot;
        let range = survey.geometry.range_of(slot);
        let mut buffer = Vec::new();
        let (bytes, _) = self.segment_bytes(range, &mut buffer)?;
        let segment = SegmentBytes::new(bytes, range.offset, self.space.table().slot(slot).seed());
        let digest_len = survey.digest_lens.get(&slot).copied().unwrap_or(0);
        let tail = segment.find_tail(align_up(SEGMENT_BODY_OFFSET + digest_len, SECTOR_BYTES) as u32);
        Ok(if tail.closed { tail.closed_at } else { 0 })
    }
}
