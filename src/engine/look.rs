//! Looking at many keys side by side: the misses of a step overlap, and what the looks share is looked up once.
//!
//! Invariants:
//!   - an entry is plain only if a get of its key would answer with its value, whatever it is like: a put with a short value in
//!     the mapping, of this key, sound, and no damage anywhere
//!   - of what is not plain nothing is decided here, and nothing counted: a get of that key looks at it from the beginning

use super::Engine;
use super::keyspace::{Keyspace, Scope};
use crate::checksum::CheckSite;
use crate::epoch;
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

/// What was seen of a key.
pub enum Look<'a> {
    /// It has this value.
    Value(&'a [u8]),
    /// It has none.
    Missing,
    /// A get of the key tells.
    Unknown,
}

impl<I: Index + 'static> Engine<I> {
    /// Copies many values; asks for the memory of a group of keys before it works on them.
    pub fn multi_get(&self, scope: impl Scope<I>, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        for group in keys.chunks(FETCH_GROUP) {
            self.look_group(scope, group, |at, look| {
                values.push(match look {
                    Look::Value(value) => Ok(Some(value.to_vec())),
                    Look::Missing => Ok(None),
                    Look::Unknown => self.get(scope, group[at]),
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
        (seen..keys.len()).for_each(|at| show(at, Look::Unknown));
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
        let entries = self.reader.mapped().filter(|_| self.check_open().is_ok() && self.damage.is_empty());
        let (Some(entries), Ok(space)) = (entries, scope.look(self)) else { return 0 };
        let mut group = [NO_KEY; FETCH_GROUP];
        let group = space.key_group(keys, &mut group);
        let mut found = [None; FETCH_GROUP];
        self.find_first(&space.index, &entries, group, &mut found);
        let mut seen = 0;
        for (key, found) in group.iter().zip(found) {
            let look = self.look_at(&entries, key, found);
            if matches!(look, Look::Unknown) {
                break;
            }
            show(seen, look);
            seen += 1;
        }
        self.counters.gets(seen as u64);
        seen
    }

    /// What is seen of a key whose first candidate in the index is this one.
    #[inline(always)]
    fn look_at<'a>(&self, entries: &MappedEntries<'a>, key: &Key<'_>, found: Option<Addr>) -> Look<'a> {
        let Some(addr) = found else {
            return if check_key(key.bytes).is_ok() { Look::Missing } else { Look::Unknown };
        };
        match entries.put(addr) {
            Some((put, segment))
                if put.key() == key.bytes
                    && put.value_len() as u64 <= BRING_BYTES_MIN
                    && (!self.options.verify_reads
                        || put.verify(CheckSite::EntryOnGet, segment.seed(), addr.offset())) =>
            {
                Look::Value(put.value())
            }
            _ => Look::Unknown,
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
