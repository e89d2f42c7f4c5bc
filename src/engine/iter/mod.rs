//! Cursors over the entries of a snapshot in the order of their keys.
//!
//! A cursor holds a chunk: keys, and short values, copied under one epoch guard. Nothing of the index and no guard is held
//! between two calls, so splits, moves and growth do not matter to it, and it holds up nobody. As a snapshot does not
//! change, neither does what a chunk was copied from: steps in both directions stay inside of it, and the next chunk begins
//! exactly where it ends.

pub(super) mod cached;
mod chunk;
mod plain;

pub(super) use chunk::Chunk;

use super::Engine;
use super::keyspace::Scope;
use super::snapshot::View;
use crate::epoch;
use crate::error::{Error, Result};
use crate::index::{Direction, Edge, Index};
use crate::space::table::SlotState;
use crate::sync::Arc;
use crate::types::SegmentSlot;
use std::cell::Cell;
use std::ops::Bound;

/// Entries of the smallest chunk and of the largest. The first one behind a seek is about as large as the last scan of the
/// thread was long, each later one as large as all before it: a short scan copies little that nobody asks for.
const CHUNK_ENTRIES_MIN: usize = 16;
const CHUNK_ENTRIES_MAX: usize = 128;

thread_local! {
    /// About how many entries this thread's scans show.
    static EXPECTED: Cell<usize> = const { Cell::new(CHUNK_ENTRIES_MIN) };
}

fn expected() -> usize {
    EXPECTED.try_with(Cell::get).unwrap_or(CHUNK_ENTRIES_MIN)
}

/// A scan showed so many entries. One short scan among long ones does not change much.
fn note_length(entries: usize) {
    let _ = EXPECTED.try_with(|expected| {
        expected.set(entries.max(expected.get() / 2).clamp(CHUNK_ENTRIES_MIN, CHUNK_ENTRIES_MAX));
    });
}

/// The keys that a cursor shows: from `lower` on and below `upper`.
#[derive(Debug, Default)]
pub(super) struct Limits {
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
}

impl Limits {
    /// True if no key lies inside.
    fn leave_nothing(&self) -> bool {
        let upper = self.upper.as_deref();
        upper.is_some_and(|upper| self.lower.as_deref().unwrap_or_default() >= upper)
    }

    /// True if nothing in this direction lies inside, from this key on.
    fn end_before(&self, key: &[u8], direction: Direction) -> bool {
        match direction {
            Direction::Forward => self.upper.as_deref().is_some_and(|upper| key >= upper),
            Direction::Backward => self.lower.as_deref().is_some_and(|lower| key < lower),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first entry and behind the last.
    Unplaced,
    /// Before the first entry of the chunk: it was said there that keys may be missing.
    Warned,
    /// On an entry of the chunk.
    At(usize),
    /// It ran out of entries.
    Ended,
}

/// A cursor over the entries of a [`Snapshot`](crate::Snapshot), or of the store as it was when the cursor was made, in the
/// order of their keys. Writers never wait for it, and neither cleaning nor growth disturbs it. Like a snapshot it keeps
/// what it shows in its place: see [`Iter::kept_bytes`].
///
/// New, or with new bounds, it is on no entry: the first step forward leads to the first one, the first step backward to the
/// last. A step from the last entry in either direction ends it, until the next seek.
///
/// An entry that is damaged is an error of the step that leads to it; the next step goes on behind. If damage may hide
/// entries altogether, no answer is sure, not even where the first entry is: so the seek, or the first step, is the error then, and the
/// next step leads to the first entry of what is left. It is said once for each seek, and [`Iter::missing`] keeps it. Damage tells
/// which keys it may hide but not where they lie, so any range of a keyspace is concerned that damage found at open may
/// concern; not an empty range, nor a keyspace that was made or cleared since.
///
/// As an [`Iterator`] it goes forward and copies; what may be missing is an error before the first entry.
pub struct Iter {
    view: Arc<View>,
    limits: Limits,
    chunk: Chunk,
    place: Place,
    /// A value that is too long for a chunk.
    value: Option<Vec<u8>>,
    /// Steps since it was placed.
    steps: usize,
    /// Why keys may be missing since it was placed. Said once.
    missing: Option<Error>,
}

impl Iter {
    /// # Errors
    /// `Unsupported` if the index has no order, `Closed`, `Forked`.
    pub(super) fn new(view: Arc<View>) -> Result<Iter> {
        let (limits, chunk) = (Limits::default(), Chunk::default());
        let mut iter =
            Iter { view, limits, chunk, place: Place::Unplaced, value: None, steps: 0, missing: None };
        // Whoever cannot iterate is told now, not at the first step.
        iter.chunk.restart(Direction::Forward, Bound::Unbounded, 0);
        iter.view.keys.fill(&mut iter.chunk, &iter.limits, iter.view.point)?;
        Ok(iter)
    }

    /// Shows only keys from `lower` on and below `upper`; `None` is no bound. The cursor is on no entry then.
    pub fn set_bounds(&mut self, lower: Option<&[u8]>, upper: Option<&[u8]>) {
        self.limits = Limits { lower: lower.map(<[u8]>::to_vec), upper: upper.map(<[u8]>::to_vec) };
        (self.place, self.missing) = (Place::Unplaced, None);
    }

    /// Shows only keys that start with `prefix`. The cursor is on no entry then.
    pub fn set_prefix(&mut self, prefix: &[u8]) {
        let end = behind_all(prefix);
        self.set_bounds(Some(prefix), end.as_deref());
    }

    /// Goes to the first entry; false if there is none.
    ///
    /// # Errors
    /// `Corrupted`, `Io` (an entry that cannot be read, or damage that may hide entries: see [`Iter`]), `Closed`, `Forked`.
    pub fn seek_first(&mut self) -> Result<bool> {
        let start = self.limits.lower.clone().map_or(Bound::Unbounded, Bound::Included);
        self.restart(Direction::Forward, start)
    }

    /// Goes to the last entry; false if there is none.
    ///
    /// # Errors
    /// As [`Iter::seek_first`].
    pub fn seek_last(&mut self) -> Result<bool> {
        let start = self.limits.upper.clone().map_or(Bound::Unbounded, Bound::Excluded);
        self.restart(Direction::Backward, start)
    }

    /// Goes to the first entry whose key is not below `key`; false if there is none.
    ///
    /// # Errors
    /// As [`Iter::seek_first`].
    pub fn seek(&mut self, key: &[u8]) -> Result<bool> {
        if self.limits.lower.as_deref().is_some_and(|lower| key < lower) {
            return self.seek_first();
        }
        // Clamped, since a step back from where nothing was found must not show what lies outside.
        let upper = self.limits.upper.as_deref().filter(|upper| key >= *upper);
        self.restart(Direction::Forward, Bound::Included(upper.unwrap_or(key).to_vec()))
    }

    /// Goes to the last entry whose key is not above `key`; false if there is none.
    ///
    /// # Errors
    /// As [`Iter::seek_first`].
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        if self.limits.upper.as_deref().is_some_and(|upper| key >= upper) {
            return self.seek_last();
        }
        match self.limits.lower.clone().filter(|lower| key < lower.as_slice()) {
            Some(lower) => self.restart(Direction::Backward, Bound::Excluded(lower)),
            None => self.restart(Direction::Backward, Bound::Included(key.to_vec())),
        }
    }

    /// Goes to the next entry; false if there is none.
    ///
    /// # Errors
    /// As [`Iter::seek_first`].
    pub fn move_next(&mut self) -> Result<bool> {
        self.step(Direction::Forward)
    }

    /// Goes to the entry before; false if there is none.
    ///
    /// # Errors
    /// As [`Iter::seek_first`].
    pub fn move_prev(&mut self) -> Result<bool> {
        self.step(Direction::Backward)
    }

    /// The key of the entry that the cursor is on.
    pub fn key(&self) -> Option<&[u8]> {
        let Place::At(at) = self.place else { return None };
        self.chunk.key(at)
    }

    /// The value of the entry that the cursor is on. Long ones are read when they are asked for.
    ///
    /// # Errors
    /// As [`Store::get`](crate::Store::get).
    pub fn value(&mut self) -> Result<Option<&[u8]>> {
        let Place::At(at) = self.place else { return Ok(None) };
        let Some(key) = self.chunk.key(at) else { return Ok(None) };
        if self.value.is_none() && self.chunk.value(at).is_none() {
            let read = self.view.keys.get_at(key, self.view.point)?;
            // What is shown at a point stays there: only a key that rotted, and is not verified, leads nowhere.
            self.value = Some(read.ok_or_else(|| self.chunk.lost(at))?);
        }
        Ok(self.chunk.value(at).or(self.value.as_deref()))
    }

    /// Goes on to entries with larger keys, as long as they are at hand with their values, and shows up to `most`; how many it
    /// were. Keys and values that were shown since the last call of another function stay where they are.
    #[cfg(feature = "capi")]
    pub(crate) fn move_on_at_hand(&mut self, most: usize, show: impl FnMut(usize, &[u8], &[u8])) -> usize {
        let Place::At(at) = self.place else { return 0 };
        // A value that is too long for the chunk goes with the entry that it was read for.
        if self.value.is_some() {
            return 0;
        }
        let (shown, last) = match self.chunk.direction() {
            Direction::Forward => {
                let most = most.min(self.chunk.len() - 1 - at);
                let shown = show_all(self.chunk.pairs(at + 1..at + 1 + most), show);
                (shown, at + shown)
            }
            Direction::Backward => {
                let most = most.min(at);
                let shown = show_all(self.chunk.pairs(at - most..at).rev(), show);
                (shown, at - shown)
            }
        };
        self.steps += shown;
        self.place = Place::At(last);
        shown
    }

    /// Why entries may be missing from what was shown since the last seek, if damage may hide some. A step was that error.
    pub fn missing(&self) -> Option<&Error> {
        self.missing.as_ref()
    }

    /// As [`Snapshot::kept_bytes`](crate::Snapshot::kept_bytes).
    pub fn kept_bytes(&self) -> u64 {
        self.view.kept_bytes()
    }

    /// As [`Store::poison`](crate::Store).
    #[cfg(feature = "capi")]
    pub(crate) fn poison_store(&self, why: &str) {
        self.view.poison_store(why);
    }

    fn restart(&mut self, direction: Direction, start: Bound<Vec<u8>>) -> Result<bool> {
        self.note_end();
        self.missing = None;
        self.chunk.restart(direction, start, expected());
        self.fill()
    }

    fn note_end(&mut self) {
        if self.steps > 0 {
            note_length(std::mem::take(&mut self.steps));
        }
    }

    fn fill(&mut self) -> Result<bool> {
        self.place = Place::Ended;
        self.value = None;
        self.view.keys.fill(&mut self.chunk, &self.limits, self.view.point)?;
        // After each chunk: writers may have found an entry unreadable that its place was lost with.
        if self.missing.is_none()
            && let Some(hidden) = self.view.keys.hidden(&self.limits)
        {
            self.place = Place::Warned;
            self.missing = Some(hidden.clone());
            return Err(hidden);
        }
        self.arrive(0)
    }

    fn arrive(&mut self, at: usize) -> Result<bool> {
        self.value = None;
        self.steps += 1;
        self.place = if at < self.chunk.len() { Place::At(at) } else { Place::Ended };
        self.chunk.check(at).map(|()| self.place != Place::Ended)
    }

    fn step(&mut self, direction: Direction) -> Result<bool> {
        let at = match self.place {
            Place::Ended => return Ok(false),
            Place::Unplaced if direction == Direction::Forward => return self.seek_first(),
            Place::Unplaced => return self.seek_last(),
            Place::Warned => None,
            Place::At(at) => Some(at),
        };
        if direction == self.chunk.direction() {
            let next = at.map_or(0, |at| at + 1);
            if next < self.chunk.len() {
                return self.arrive(next);
            }
            if self.chunk.go_on(CHUNK_ENTRIES_MAX) {
                return self.fill();
            }
        } else {
            if let Some(before) = at.and_then(|at| at.checked_sub(1)) {
                return self.arrive(before);
            }
            if self.chunk.turn_around(CHUNK_ENTRIES_MIN) {
                return self.fill();
            }
        }
        self.place = Place::Ended;
        self.value = None;
        Ok(false)
    }
}

impl Drop for Iter {
    fn drop(&mut self) {
        self.note_end();
    }
}

impl Iterator for Iter {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.move_next() {
            Err(error) => Some(Err(error)),
            Ok(false) => None,
            Ok(true) => {
                let key = self.key().map(<[u8]>::to_vec).unwrap_or_default();
                Some(self.value().map(|value| (key, value.map(<[u8]>::to_vec).unwrap_or_default())))
            }
        }
    }
}

impl std::fmt::Debug for Iter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").field("key", &self.key()).finish_non_exhaustive()
    }
}

/// About what lies in a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEstimate {
    /// Keys. Deleted ones whose tombstones have to be kept count, too.
    pub keys: u64,
    /// Bytes of their entries and values, if they are as long as all others on average.
    pub bytes: u64,
}

impl<I: Index + 'static> Engine<I> {
    /// About what lies between two keys.
    ///
    /// # Errors
    /// `Unsupported` if the index has no order, `Closed`, `Forked`.
    pub fn estimate_range(
        &self,
        scope: impl Scope<I>,
        from: Edge<'_>,
        to: Edge<'_>,
    ) -> Result<RangeEstimate> {
        self.check_open()?;
        let guard = epoch::pin();
        let keys = scope.look(self)?.index.estimate(&guard, from, to).ok_or_else(has_no_order)?;
        let bytes = self.live_bytes() as f64 / self.indexed_entries().max(1) as f64 * keys as f64;
        Ok(RangeEstimate { keys, bytes: bytes as u64 })
    }

    fn live_bytes(&self) -> u64 {
        let table = self.space.table();
        let slots = (0..self.space.slot_count()).map(|slot| table.slot(SegmentSlot(slot)));
        let in_use = slots.filter(|info| info.state() != SlotState::Free);
        let entries: u64 = in_use.map(|info| info.op_bytes().saturating_sub(info.dead_bytes())).sum();
        entries + self.extents.usage().live_bytes()
    }
}

#[cold]
fn has_no_order() -> Error {
    Error::Unsupported("the index has no order: open the store with index=ordered".into())
}

/// Shows keys and values up to one that is not at hand; how many it were.
#[cfg(feature = "capi")]
#[inline(always)]
fn show_all<'a>(
    pairs: impl Iterator<Item = Option<(&'a [u8], &'a [u8])>>,
    mut show: impl FnMut(usize, &[u8], &[u8]),
) -> usize {
    let at_hand = pairs.map_while(|pair| pair).enumerate();
    at_hand.map(|(at, (key, value))| show(at, key, value)).count()
}

/// The least key above all that start with `prefix`; `None` if there is none.
fn behind_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
