//! The short way of a scan, for what most entries are: *plain* ones. What their looks share is looked up once.
//!
//! Invariants:
//!   - an entry is plain only if the general way would copy it, whatever it is like: a put with a short value in the mapping,
//!     sound, inside the limits, directly beyond one that is shown, in a segment without anything newer than the point, and no
//!     damage anywhere
//!   - of what is not plain nothing is decided here, and nothing changed: the general way looks at it from the beginning

use super::super::Engine;
use super::Limits;
use super::chunk::{Chunk, VALUE_BYTES_MAX};
use crate::checksum::CheckSite;
use crate::index::{Direction, Index};
use crate::oplog::read::MappedEntries;
use crate::types::{Addr, Seq};

/// What ended a run of plain entries.
pub(super) enum Stop {
    /// The chunk is full.
    Full,
    /// Nothing is left of the scan.
    Ended,
    /// An entry that is not plain.
    At(Addr),
}

/// What the looks at plain entries share.
pub(super) struct Plain<'a> {
    entries: MappedEntries<'a>,
    limits: &'a Limits,
    point: Seq,
}

impl<'a> Plain<'a> {
    /// `None` if there are no plain entries.
    pub(super) fn new<I: Index>(engine: &'a Engine<I>, limits: &'a Limits, point: Seq) -> Option<Plain<'a>> {
        let entries = engine.reader.mapped().filter(|_| engine.damage.is_empty())?;
        Some(Plain { entries, limits, point })
    }

    /// Copies entries of a scan behind those of a chunk, as long as they are plain.
    #[inline(never)]
    pub(super) fn copy(&self, chunk: &mut Chunk, scan: &mut impl Iterator<Item = Addr>) -> Stop {
        for addr in scan.by_ref() {
            if !self.copy_one(chunk, addr) {
                return Stop::At(addr);
            }
            if chunk.is_full() {
                return Stop::Full;
            }
        }
        Stop::Ended
    }

    /// False if it is not plain. All are verified, asked for or not: an unsound one is the general way's.
    #[inline(always)]
    fn copy_one(&self, chunk: &mut Chunk, addr: Addr) -> bool {
        let Some((put, segment)) = self.entries.put(addr) else { return false };
        let (key, direction) = (put.key(), chunk.direction());
        let is_plain = put.value_len() <= VALUE_BYTES_MAX
            && segment.newest_seq() <= self.point
            && !self.limits.end_before(key, direction)
            && chunk.last_key().is_some_and(|last| is_beyond(last, key, direction))
            && put.verify(CheckSite::EntryOnGet, segment.seed(), addr.offset());
        if is_plain {
            chunk.push_pair(put.key_and_value(), key.len());
        }
        is_plain
    }
}

/// Whether a key comes behind another one. Most differ in their first words.
#[inline(always)]
fn is_beyond(last: &[u8], key: &[u8], direction: Direction) -> bool {
    let is_greater = match (key.first_chunk(), last.first_chunk()) {
        (Some(key), Some(last)) if key != last => u64::from_be_bytes(*key) > u64::from_be_bytes(*last),
        _ if key == last => return false,
        _ => key > last,
    };
    is_greater == (direction == Direction::Forward)
}
