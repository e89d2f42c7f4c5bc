//! The entries that a cursor holds, and where they come from.
//!
//! What the index says of their order is not believed where bytes may have rotted: an entry whose key is not beyond the one
//! before is as good as one that cannot be read, and a scan goes on, or ends, only behind what was verified.

use super::super::Engine;
use super::super::keyspace::Keyspace;
use super::cached;
use super::plain::{Plain, Stop};
use super::{Limits, has_no_order};
use crate::checksum::CheckSite;
use crate::constants::PAGE_BYTES;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{Op, OpKind};
use crate::index::{Direction, Edge, InOrder, Index, PassOver};
use crate::media::guarded::Scratch;
use crate::rules::{self, Rule};
use crate::space::table::SlotInfo;
use crate::types::{Addr, Seq};
use std::cell::Cell;
use std::ops::{Bound, Range};

/// Longer values are read when they are asked for.
pub(super) const VALUE_BYTES_MAX: usize = 1024;
/// Room that a chunk has for each entry before it has seen any.
const ENTRY_BYTES_EXPECTED: usize = 96;
/// A chunk with as many bytes is full.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Entries of the index that are looked at under one guard, tombstones and newer ones included.
const LOOKS_MAX: usize = 512;

/// Of a chunk that is gone no more is kept for the next one of its thread.
const SPARE_BYTES_MAX: usize = 16 << 10;

/// An iterator that has shown more entries than this share of the pool's pages meets most of them: what lies around an
/// entry is read with it then.
const SPARSE_SHARE: u64 = 16;
const SPARSE_BYTES: u64 = PAGE_BYTES;
const DENSE_BYTES: u64 = 128 << 10;

/// Where key and value lie among the bytes, one behind the other.
#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    key_len: u32,
    /// `None` if it has to be read.
    value_len: Option<u32>,
}

impl Entry {
    fn key(self) -> Range<usize> {
        self.at as usize..(self.at + self.key_len) as usize
    }

    fn value(self) -> Option<Range<usize>> {
        let start = self.key().end;
        self.value_len.map(|len| start..start + len as usize)
    }
}

type EntryOrError = std::result::Result<Entry, Box<Error>>;

thread_local! {
    /// The memory of a chunk that is gone: to get some and give it back would take a short scan a good part of its time.
    static SPARE: Cell<(Vec<EntryOrError>, Vec<u8>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// What became of an entry.
enum Shown {
    /// It is in the chunk.
    Copied,
    /// Nothing of its key is visible.
    PassedOver,
    /// It lies beyond the limits, and so do all that follow.
    Beyond,
}

/// Entries that follow each other in one direction. Invariants:
///   - nothing lies between `start` and the first, between two of them, or between the last and `end`
///   - `end` is behind the last entry, also if that cannot be read: whoever goes on meets no damaged one a second time
///   - keys go in one direction; there are no more entries than wanted, but for those of one step of the index
pub struct Chunk {
    direction: Direction,
    start: Bound<Vec<u8>>,
    /// Where the next chunk starts; `None` if there is nothing more.
    end: Option<Bound<Vec<u8>>>,
    wanted: usize,
    /// Entries of the chunks before, back to where the cursor was placed.
    before: usize,
    entries: Vec<EntryOrError>,
    /// Keys and values.
    bytes: Vec<u8>,
    /// Where the entries lie whose values have to be read, by their numbers: few are asked for.
    unread: Vec<(usize, Addr)>,
}

impl Default for Chunk {
    fn default() -> Self {
        let (entries, bytes) = SPARE.try_with(Cell::take).unwrap_or_default();
        Chunk {
            direction: Direction::Forward,
            start: Bound::Unbounded,
            end: None,
            wanted: 0,
            before: 0,
            entries,
            bytes,
            unread: Vec::new(),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let (mut entries, mut bytes) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.bytes));
        let memory = entries.capacity() * size_of::<EntryOrError>() + bytes.capacity();
        if (1..=SPARE_BYTES_MAX).contains(&memory) {
            entries.clear();
            bytes.clear();
            // At the end of a thread there may be nowhere to keep it.
            let _ = SPARE.try_with(|spare| spare.set((entries, bytes)));
        }
    }
}

impl Chunk {
    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Why the entry cannot be shown, if it cannot.
    pub(super) fn check(&self, at: usize) -> Result<()> {
        match self.entries.get(at) {
            Some(Err(error)) => Err(Error::clone(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn key(&self, at: usize) -> Option<&[u8]> {
        let entry = self.entries.get(at)?.as_ref().ok()?;
        Some(&self.bytes[entry.key()])
    }

    /// `None` if it has to be read.
    pub(super) fn value(&self, at: usize) -> Option<&[u8]> {
        let entry = self.entries.get(at)?.as_ref().ok()?;
        entry.value().map(|value| &self.bytes[value])
    }

    /// Keys and values, but for those values that have to be read and for what cannot be shown.
    #[cfg(feature = "capi")]
    #[inline]
    pub(super) fn pairs(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Option<(&[u8], &[u8])>> {
        self.entries[range].iter().map(|entry| {
            let entry = entry.as_ref().ok()?;
            let (start, key_len) = (entry.at as usize, entry.key_len as usize);
            Some(self.bytes[start..][..key_len + entry.value_len? as usize].split_at(key_len))
        })
    }

    /// What to say of an entry with a value that has to be read, if its key leads to none: the key is not what it was.
    #[cold]
    pub(super) fn lost(&self, at: usize) -> Error {
        let found = self.unread.iter().find(|(number, _)| *number == at);
        let offset = found.map_or(0, |(_, addr)| addr.offset());
        Error::Corrupted { what: "key of an entry", offset, expected: 0, found: 0 }
    }

    /// Empties it, for about so many entries from `start` on.
    pub(super) fn restart(&mut self, direction: Direction, start: Bound<Vec<u8>>, wanted: usize) {
        self.direction = direction;
        self.start = start;
        self.end = None;
        self.wanted = wanted;
        self.before = 0;
        self.entries.clear();
        self.bytes.clear();
        self.unread.clear();
        self.entries.reserve(wanted);
        self.bytes.reserve(wanted * ENTRY_BYTES_EXPECTED);
    }

    /// Empties it for as many of the entries that follow as there were before, but no more than `most`; false if there are
    /// none. So no more is copied than twice what is asked for.
    pub(super) fn go_on(&mut self, most: usize) -> bool {
        let Some(start) = self.end.take() else { return false };
        let before = self.before + self.entries.len();
        self.restart(self.direction, start, before.clamp(1, most));
        self.before = before;
        true
    }

    /// Empties it for those before its first one, in the other direction; false if there are none.
    pub(super) fn turn_around(&mut self, wanted: usize) -> bool {
        let start = match std::mem::replace(&mut self.start, Bound::Unbounded) {
            Bound::Unbounded => return false,
            Bound::Included(key) => Bound::Excluded(key),
            Bound::Excluded(key) => Bound::Included(key),
        };
        let direction = match self.direction {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        };
        self.restart(direction, start, wanted);
        true
    }

    /// Whether a key lies beyond the entries that are here, and beyond an edge: of two chunks, and within one behind a key that
    /// is not shown.
    #[inline]
    fn is_beyond(&self, from: Edge<'_>, key: &[u8]) -> bool {
        let last = self.entries.iter().rev().find_map(|entry| entry.as_ref().ok());
        let is_beyond_last = last.is_none_or(|last| match self.direction {
            Direction::Forward => key > &self.bytes[last.key()],
            Direction::Backward => key < &self.bytes[last.key()],
        });
        is_beyond_last
            && match (self.direction, from) {
                (_, Bound::Unbounded) => true,
                (Direction::Forward, Bound::Included(edge)) => key >= edge,
                (Direction::Forward, Bound::Excluded(edge)) => key > edge,
                (Direction::Backward, Bound::Included(edge)) => key <= edge,
                (Direction::Backward, Bound::Excluded(edge)) => key < edge,
            }
    }

    /// Copies an entry, unless it deletes.
    #[inline]
    fn push_value(&mut self, addr: Addr, op: &Op<'_>) -> Shown {
        if op.kind() == OpKind::Delete {
            return Shown::PassedOver;
        }
        self.push(addr, op);
        Shown::Copied
    }

    #[inline]
    fn push(&mut self, addr: Addr, op: &Op<'_>) {
        let (key_len, value_len) = (op.key().len(), op.value().len());
        if op.kind() == OpKind::Put && value_len <= VALUE_BYTES_MAX {
            return self.push_pair(op.key_and_value(), key_len);
        }
        self.unread.push((self.entries.len(), addr));
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(op.key());
        self.entries.push(Ok(Entry { at, key_len: key_len as u32, value_len: None }));
    }

    /// The key of the last entry, if that can be shown.
    #[inline(always)]
    pub(super) fn last_key(&self) -> Option<&[u8]> {
        let last = self.entries.last()?.as_ref().ok()?;
        Some(&self.bytes[last.key()])
    }

    /// Puts an entry's key, of that length, and its value behind the others.
    #[inline(always)]
    pub(super) fn push_pair(&mut self, both: &[u8], key_len: usize) {
        let (at, value_len) = (self.bytes.len() as u32, (both.len() - key_len) as u32);
        self.bytes.extend_from_slice(both);
        self.entries.push(Ok(Entry { at, key_len: key_len as u32, value_len: Some(value_len) }));
    }

    /// Where the next chunk starts if the last entry is the last that was looked at.
    fn end_behind_last(&self) -> Option<Bound<Vec<u8>>> {
        self.last_key().map(|key| Bound::Excluded(key.to_vec()))
    }

    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= self.wanted || self.bytes.len() >= CHUNK_BYTES_MAX
    }
}

/// The tombstones that were there at a point: nothing of their keys is visible. Not so where damage may hide an entry that
/// was written after them.
struct Unseen<'a, I: Index> {
    engine: &'a Engine<I>,
    direction: Direction,
    limits: &'a Limits,
    point: Seq,
    /// Entries that the iterator has shown.
    before: usize,
}

impl<I: Index + 'static> PassOver for Unseen<'_, I> {
    #[inline]
    fn all(&self) -> bool {
        self.engine.noted.newest() <= self.point && self.engine.damage.is_empty()
    }

    #[inline]
    fn one(&self, at: Addr) -> bool {
        self.engine.was_there(at, self.point) && self.engine.damage.is_empty()
    }

    fn is_beyond(&self, key: &[u8]) -> bool {
        self.limits.end_before(key, self.direction)
    }

    fn are_next(&self, entries: &[Addr]) {
        if entries.len() < 2 || !cached::is_asked(entries[0]) {
            return;
        }
        let pages = self.engine.media.len_bytes() / PAGE_BYTES;
        let is_sparse = (self.before as u64) < pages / SPARSE_SHARE;
        let window_bytes = if is_sparse { SPARSE_BYTES } else { DENSE_BYTES };
        cached::note(self.engine.reader.read_ahead(entries, window_bytes));
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Fills an empty chunk from its start on.
    ///
    /// # Errors
    /// `Unsupported` if the index has no order, `Closed`, `Forked`. Entries that cannot be read are in the chunk.
    pub(in crate::engine) fn fill_chunk(
        &self,
        space: &Keyspace<I>,
        chunk: &mut Chunk,
        limits: &Limits,
        point: Seq,
    ) -> Result<()> {
        self.check_open()?;
        let mut from = chunk.start.clone();
        loop {
            let next = self.fill_under_guard(space, chunk, &from, limits, point)?;
            match next {
                Some(end) if chunk.is_full() => chunk.end = Some(end),
                Some(end) => {
                    from = end;
                    continue;
                }
                None => {}
            }
            return Ok(());
        }
    }

    /// Where it stopped; `None` at the end of what there is.
    fn fill_under_guard(
        &self,
        space: &Keyspace<I>,
        chunk: &mut Chunk,
        from: &Bound<Vec<u8>>,
        limits: &Limits,
        point: Seq,
    ) -> Result<Option<Bound<Vec<u8>>>> {
        let guard = epoch::pin();
        let mut from = from.as_ref().map(Vec::as_slice);
        let wanted = chunk.wanted.saturating_sub(chunk.entries.len());
        let before = chunk.before + chunk.entries.len();
        let passing = Unseen { engine: self, direction: chunk.direction, limits, point, before };
        let scan = space.index.scan(&guard, from, chunk.direction, wanted, passing);
        let mut scan = scan.ok_or_else(has_no_order)?;
        if chunk.wanted == 0 {
            return Ok(None);
        }
        let plain = Plain::new(self, limits, point);
        let mut looks = 0;
        loop {
            let stop = match &plain {
                Some(plain) if from == Bound::Unbounded => plain.copy(chunk, &mut scan),
                _ => scan.next().map_or(Stop::Ended, Stop::At),
            };
            let addr = match stop {
                Stop::Full => return Ok(chunk.end_behind_last()),
                Stop::Ended => return Ok(None),
                Stop::At(addr) => addr,
            };
            looks += 1;
            let scratch = Scratch::new();
            let op = self.reader.op(addr, &scratch);
            let shown = match &op {
                Some(op) => self.show_entry(space, chunk, (from, addr, op), limits, point),
                None => Err(self.unreadable(addr, &scratch)),
            };
            let is_readable = shown.is_ok();
            match shown {
                Ok(Shown::Copied) => from = Bound::Unbounded,
                Ok(Shown::PassedOver) => {}
                Ok(Shown::Beyond) => return Ok(None),
                Err(error) => chunk.entries.push(Err(Box::new(error))),
            }
            if !chunk.is_full() && looks < LOOKS_MAX {
                continue;
            }
            if let Some(op) =
                op.filter(|op| is_readable && (self.options.verify_reads || self.is_sound(addr, op)))
            {
                return Ok(Some(Bound::Excluded(op.key().to_vec())));
            }
            if let Some(edge) = scan.resume() {
                return Ok(Some(edge.map(<[u8]>::to_vec)));
            }
        }
    }

    /// Copies what is visible of the key whose newest entry this is, at an address that a scan from an edge showed.
    fn show_entry(
        &self,
        space: &Keyspace<I>,
        chunk: &mut Chunk,
        (from, addr, op): (Edge<'_>, Addr, &Op<'_>),
        limits: &Limits,
        point: Seq,
    ) -> Result<Shown> {
        let segment = self.segment_of(addr);
        let is_last = limits.end_before(op.key(), chunk.direction) && rules::keep(Rule::ScansEndAtLimits);
        let has_to_be_sound = self.options.verify_reads || is_last;
        let is_sound = || op.verify(CheckSite::EntryOnGet, segment.seed(), addr.offset());
        if !chunk.is_beyond(from, op.key()) || (has_to_be_sound && !is_sound()) {
            return Err(self.reader.corrupted(addr));
        }
        if is_last {
            return Ok(Shown::Beyond);
        }
        // Mostly no frame has to be looked at.
        if segment.newest_seq() > point && self.stamp(addr, op)? > point && rules::keep(Rule::ScansHideNewer)
        {
            return self.show_older(space, chunk, op.key(), point);
        }
        if !self.damage.is_empty() {
            self.check_damage(space, space.key(op.key()), Some((addr, op)))?;
        }
        Ok(chunk.push_value(addr, op))
    }

    /// The same for a key whose newest entry is too new.
    #[cold]
    fn show_older(&self, space: &Keyspace<I>, chunk: &mut Chunk, key: &[u8], point: Seq) -> Result<Shown> {
        let key = space.key(key);
        let scratch = Scratch::new();
        let found = self.find_older(space, key, point, &scratch)?;
        self.check_damage(space, key, found.as_ref().map(|(addr, op)| (*addr, op)))?;
        Ok(found.map_or(Shown::PassedOver, |(addr, op)| chunk.push_value(addr, &op)))
    }

    #[inline]
    fn segment_of(&self, addr: Addr) -> &SlotInfo {
        self.space.table().slot(self.space.geometry().slot_of_addr(addr))
    }

    /// Whether an entry was there at a point for sure: what open found was, and so was all of a segment without later stamps.
    #[inline]
    pub(in crate::engine) fn was_there(&self, addr: Addr, point: Seq) -> bool {
        self.segment_of(addr).newest_seq() <= point
    }

    fn stamp(&self, addr: Addr, op: &Op<'_>) -> Result<Seq> {
        let (seq, _) = self.reader.order(addr, op).ok_or_else(|| self.reader.corrupted(addr))?;
        Ok(seq)
    }

    fn is_sound(&self, addr: Addr, op: &Op<'_>) -> bool {
        self.reader.verify(addr, op, CheckSite::EntryOnGet)
    }

    /// What says that keys of a keyspace may be missing between the limits. What was lost is known by the hashes of its keys at
    /// best, so any place in their order may lack some; but nothing lies between limits that leave no room, and nothing that
    /// open lost was of a keyspace made since.
    pub(in crate::engine) fn hidden_by_damage(&self, space: &Keyspace<I>, limits: &Limits) -> Option<Error> {
        if limits.leave_nothing() {
            return None;
        }
        let mut unplaced = None;
        space.index.unplaced(|addr| unplaced = unplaced.or(Some(addr)));
        let lost = if space.is_newer_than_damage() { None } else { self.damage.first() };
        lost.or_else(|| unplaced.map(|addr| self.reader.corrupted(addr)))
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
