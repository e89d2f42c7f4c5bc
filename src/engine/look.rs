//! Looking at keys: a plain one by itself on a short way, and many side by side, where the misses of a step overlap and what the
//! looks share is looked up once.
//!
//! Invariants:
//!   - an entry is plain only if a get of its key would answer with its value, whatever it is like: a put with a short value in
//!     the mapping, of this key, sound, and no damage anywhere
//!   - of what is not plain nothing is decided here, and nothing counted: a get of that key looks at it from the beginning

use super::Engine;
use super::keyspace::{Keyspace, Scope};
use crate::checksum::CheckSite;
use crate::epoch::{self, Here};
use crate::error::Result;
use crate::index::{Index, Key};
use crate::oplog::read::{BRING_BYTES_MIN, MappedEntries};
use crate::sync::{Work, work};
use crate::types::Addr;
use crate::write_batch::check_key;
use std::ops::ControlFlow;

/// Keys whose memory is asked for together. Enough to hide the latency of both steps; more would push each other's lines
/// out of the first-level cache.
pub const FETCH_GROUP: usize = 32;

/// For groups that are not full.
pub(super) const NO_KEY: Key<'static> = Key { bytes: &[], hash: 0 };

/// What was seen of a key: its value, or none.
pub type Look<'a> = Result<&'a [u8], NoValue>;
const _: () = assert!(size_of::<Look<'_>>() == 16);

/// Why no value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoValue {
    /// The key has none.
    Missing,
    /// A get of the key tells.
    Unknown,
}

/// Whether two keys are the same. A call takes longer than to compare the first and the last word of what has no others.
#[inline(always)]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match (one.first_chunk::<8>(), one.last_chunk::<8>(), other.first_chunk(), other.last_chunk()) {
        (Some(first), Some(last), Some(other_first), Some(other_last)) if one.len() <= 16 => {
            (first == other_first) & (last == other_last)
        }
        _ => one == other,
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Copies many values; asks for the memory of a group of keys before it works on them.
    pub fn multi_get(&self, scope: impl Scope<I>, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        for group in keys.chunks(FETCH_GROUP) {
            self.look_group(scope, group, |at, look| {
                values.push(match look {
                    Ok(value) => Ok(Some(value.to_vec())),
                    Err(NoValue::Missing) => Ok(None),
                    Err(NoValue::Unknown) => self.get(scope, group[at]),
                });
            });
        }
        values
    }

    /// Shows what is seen of each of at most [`FETCH_GROUP`] keys, in their order. From the first on of which a get has to tell,
    /// gets have to tell of all: each for itself, so that nothing is pinned as long as they take together.
    #[inline]
    pub fn look_group(&self, scope: impl Scope<I>, keys: &[&[u8]], mut show: impl FnMut(usize, Look<'_>)) {
        let seen = self.look_at_plain(scope, keys, &mut show);
        (seen..keys.len()).for_each(|at| show(at, Err(NoValue::Unknown)));
    }

    /// Shows keys up to one of which a get has to tell; how many it were.
    #[inline]
    fn look_at_plain(
        &self,
        scope: impl Scope<I>,
        keys: &[&[u8]],
        show: &mut impl FnMut(usize, Look<'_>),
    ) -> usize {
        let _guard = epoch::pin();
        // In this order, as in `look_at_one`.
        let Some(entries) = self.plain_entries() else { return 0 };
        let Ok(space) = scope.look(self) else { return 0 };
        let mut group = [NO_KEY; FETCH_GROUP];
        let group = space.key_group(keys, &mut group);
        let mut found = [None; FETCH_GROUP];
        self.find_first(&space.index, &entries, group, &mut found);
        let mut seen = 0;
        for (key, found) in group.iter().zip(found) {
            let look = self.look_at(&entries, key, found);
            if look == Err(NoValue::Unknown) {
                break;
            }
            show(seen, look);
            seen += 1;
        }
        self.counters.gets(seen as u64);
        seen
    }

    /// Copies the value of a key and tells its length, as most gets do; `None` if one has to tell that looks closer.
    #[inline(always)]
    pub fn copy_plain(
        &self,
        here: Here,
        scope: impl Scope<I>,
        key: &[u8],
        buf: &mut [u8],
    ) -> Option<Option<usize>> {
        self.show_plain(here, scope, key, |value| {
            let Some(value) = value else { return Some(None) };
            buf.get_mut(..value.len())?.copy_from_slice(value);
            Some(Some(value.len()))
        })
    }

    /// Shows the value of a key, or that it has none; `None` if a get has to tell, which it also has if `show` says so.
    #[inline(always)]
    pub(super) fn show_plain<R>(
        &self,
        here: Here,
        scope: impl Scope<I>,
        key: &[u8],
        show: impl FnOnce(Option<&[u8]>) -> Option<R>,
    ) -> Option<R> {
        let _guard = here.pin();
        let shown = match self.look_at_one(scope, key) {
            Ok(value) => show(Some(value)),
            Err(NoValue::Missing) => show(None),
            Err(NoValue::Unknown) => None,
        };
        if shown.is_some() {
            self.counters.get_of(here);
        }
        shown
    }

    /// What is seen of one key, under an epoch guard. All of it is one piece of code, of what most gets need and nothing else, with
    /// few branches that cannot be predicted: the shorter it is, the more of the next get the CPU begins while this one waits
    /// for its entry.
    #[inline(never)]
    fn look_at_one(&self, scope: impl Scope<I>, key: &[u8]) -> Look<'_> {
        // Before anything is looked at that others lock: in a forked child they hold it for ever.
        let Some(entries) = self.plain_entries() else { return Err(NoValue::Unknown) };
        let Ok(space) = scope.look(self) else { return Err(NoValue::Unknown) };
        let key = space.key(key);
        self.look_at(&entries, &key, space.index.first(key))
    }

    /// `None` if no entry is plain.
    #[inline(always)]
    fn plain_entries(&self) -> Option<MappedEntries<'_>> {
        self.reader.mapped().filter(|_| self.check_open().is_ok() && self.damage.is_empty())
    }

    /// What is seen of a key whose first candidate in the index is this one.
    #[inline(always)]
    fn look_at<'a>(&self, entries: &MappedEntries<'a>, key: &Key<'_>, found: Option<Addr>) -> Look<'a> {
        let Some(addr) = found else {
            let is_key = check_key(key.bytes).is_ok();
            return Err(if is_key { NoValue::Missing } else { NoValue::Unknown });
        };
        match entries.put(addr) {
            Some((put, segment))
                if is_same(put.key(), key.bytes)
                    && put.value_len() as u64 <= BRING_BYTES_MIN
                    && (!self.options.verify_reads
                        || put.verify(CheckSite::EntryOnGet, segment.seed(), addr.offset())) =>
            {
                Ok(put.value())
            }
            _ => Err(NoValue::Unknown),
        }
    }

    /// Asks for the memory that a get of each of these at most [`FETCH_GROUP`] keys reads, in a keyspace that may have been
    /// dropped since. A hint.
    pub(super) fn fetch_ahead(&self, space: &Keyspace<I>, keys: &[&[u8]]) {
        let _guard = epoch::pin();
        if let Some(entries) = self.reader.mapped().filter(|_| self.check_open().is_ok()) {
            let mut group = [NO_KEY; FETCH_GROUP];
            let group = space.key_group(keys, &mut group);
            self.find_first(&space.index, &entries, group, &mut [None; FETCH_GROUP]);
        }
    }

    /// The first entry of each key, as far as the index knows, and asks for their memory. All keys in step: first for where the
    /// index may have them, then, from there, for their entries. The misses of one step overlap, where those of one look
    /// follow each other. Under an epoch guard.
    #[inline]
    fn find_first(
        &self,
        index: &I,
        entries: &MappedEntries<'_>,
        keys: &[Key<'_>],
        found: &mut [Option<Addr>; FETCH_GROUP],
    ) {
        index.prefetch(keys);
        for (key, found) in keys.iter().zip(found) {
            *found = index.get(*key, |addr| {
                entries.prefetch(addr);
                Some(addr)
            });
        }
    }

    /// The same for keys that are written: where each is, or would be.
    #[inline]
    pub(super) fn find_spots(&self, index: &I, keys: &[Key<'_>], spots: &mut [I::Spot; FETCH_GROUP]) {
        index.prefetch(keys);
        for (key, spot) in keys.iter().zip(spots) {
            work(Work::Look);
            *spot = index.look(*key, |addr| {
                self.reader.prefetch(&[addr]);
                ControlFlow::Break(())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn keys_that_differ_in_one_byte_are_not_the_same() {
        for len in 0..40 {
            let key: Vec<u8> = (0..len).collect();
            assert!(is_same(&key, &key.clone()));
            for at in 0..key.len() {
                let mut other = key.clone();
                other[at] ^= 0x10;
                assert!(!is_same(&key, &other), "byte {at} of {len}");
                assert!(!is_same(&key, &key[..at]) && !is_same(&key[..at], &key), "{at} of {len} bytes");
            }
        }
    }
}
