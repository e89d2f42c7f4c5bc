//! The index seam: volatile, rebuilt from the log at open, chosen at open and never in the format. An index knows keys
//! and addresses; what a key is compared with lies in the log and is reached through the closures and traits here.
//!
//! A new kind is one file or folder, its arms in `store.rs` and one line in `conformance.rs`.

pub mod arena;
#[cfg(test)]
mod conformance;
mod count;
#[cfg(test)]
mod figures;
pub mod hash;
pub mod ordered;

use crate::epoch::Guard;
use crate::error::Result;
use crate::media::durable::{Durable, Publishable};
use crate::types::Addr;
use std::ops::ControlFlow;

/// One end of a range of keys; `Unbounded` is the end of all keys.
pub type Edge<'a> = std::ops::Bound<&'a [u8]>;

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To greater keys.
    Forward,
    /// To smaller keys.
    Backward,
}

/// A key and its seeded 64-bit hash, computed once per operation.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their hash, seeded per pool.
    pub hash: u64,
}

/// What an entry that the index knows is to a new entry of some key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// An entry of another key: the index only saw equal fingerprints.
    OtherKey,
    /// The same key, written before the new one.
    Older,
    /// The same key, written after the new one, which therefore loses.
    Newer,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// The key was not there.
    Inserted,
    /// The entry at this address was replaced and is dead now.
    Replaced(Addr),
    /// The entry at this address is newer: the one to be published is dead.
    Lost(Addr),
}

/// What the look of a put found.
#[derive(Clone, Copy, Debug)]
pub struct Seen<S, P> {
    /// For a publication that does not succeed where it was looked.
    pub spot: S,
    /// Where a publication may succeed.
    pub place: Option<P>,
    /// The first entry that may be the key's; without one the place is where the key would be inserted.
    pub known: Option<Addr>,
}

/// The keys that the index does not hold, in the log: growth and order need them where an index slot's own bits end.
pub trait LogKeys: Send + Sync {
    /// The hash of the key whose entry lies at `at`, or `None` if the entry cannot be read any more (damage): it then
    /// stays where it is found today.
    fn key_hash(&self, at: Addr) -> Option<u64>;
    /// Shows the key whose entry lies at `at`; false if the entry cannot be read.
    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool;
    /// Asks for the bytes of all these entries before they are needed: one behind the other, so that the walks of the page
    /// tables overlap, too.
    fn prefetch(&self, at: &[Addr]);
}

/// The addresses of a range in the order of their keys: see [`Index::scan`].
pub trait InOrder: Iterator<Item = Addr> {
    /// Where a new scan shows what this one would show next, if that is known without an entry: for those who cannot
    /// read the one they were shown last. It is, after every few entries.
    fn resume(&self) -> Option<Edge<'_>>;
}

/// Which tombstones do not matter to the reader of a scan, so that emptied ranges cost it little. Asked only about entries
/// that were marked ([`Index::mark_tombstone`]), after their marks were seen. All matter to who says nothing else.
pub trait PassOver {
    /// True if none of those that were marked so far does.
    fn all(&self) -> bool {
        false
    }
    /// True if the one at this address does not.
    fn one(&self, _at: Addr) -> bool {
        false
    }
    /// True if nothing from this key on matters.
    fn is_beyond(&self, _key: &[u8]) -> bool {
        false
    }
    /// These are shown next: time to ask a device for them.
    fn are_next(&self, _entries: &[Addr]) {}
}

/// For a reader to whom all entries matter.
pub struct PassNothing;

impl PassOver for PassNothing {}

/// That of a kind without order.
impl InOrder for std::iter::Empty<Addr> {
    fn resume(&self) -> Option<Edge<'_>> {
        None
    }
}

/// A concurrent map from keys to the address of their newest entry.
///
/// Thread-safe; `get` writes no shared memory. Callers hold an epoch guard during every call, so that no address they
/// are shown is reused. Tombstones are entries like others: the index keeps them until [`Index::remove`].
pub trait Index: Send + Sync {
    /// Shows `probe` each entry that may be the key's until it answers `Some`, and returns that.
    fn get<R>(&self, key: Key<'_>, probe: impl FnMut(Addr) -> Option<R>) -> Option<R>;

    /// An entry that [`Index::get`] would show, mostly the first; `None` only if it would show none.
    fn first(&self, key: Key<'_>) -> Option<Addr>;

    /// Publishes `new` unless `judge` finds a newer entry of the key. Racing publications of one key may come in any
    /// order: the newest stays.
    fn upsert_if_newer(
        &self,
        key: Key<'_>,
        new: Publishable<Addr>,
        judge: impl FnMut(Addr) -> Candidate,
    ) -> Upsert {
        self.upsert_at(Self::Spot::default(), key, new, judge)
    }

    /// Where a key is, or would be: a hint, true or not for as long as it is kept. By default it says nothing.
    type Spot: Copy + Default;

    /// Shows `visit` each entry that may be the key's, of all that were published before the call, or some of them, if it
    /// breaks off.
    fn look(&self, key: Key<'_>, visit: impl FnMut(Addr) -> ControlFlow<()>) -> Self::Spot;

    /// One place of the index, and what it held when it was looked at.
    type Place<'i>
    where
        Self: 'i;

    /// As [`Index::look`] at all that may be the key's, for [`Index::publish_seen`] under the same guard.
    fn look_to_put<'i>(
        &'i self,
        key: Key<'_>,
        guard: &'i Guard,
        visit: impl FnMut(Addr),
    ) -> Seen<Self::Spot, Self::Place<'i>>;

    /// Publishes `new` in the place of what a look knew, which the caller found to be the key's and older, or of nothing.
    /// Refused if that is not what the place holds now, or this kind needs to look again.
    ///
    /// # Errors
    /// What was to be published: nothing was changed.
    fn publish_seen(
        &self,
        seen: &Seen<Self::Spot, Self::Place<'_>>,
        new: Publishable<Addr>,
    ) -> std::result::Result<(), Publishable<Addr>>;

    /// Asks for the memory that the look of a put will read. A hint.
    fn prefetch_to_put(&self, _key: Key<'_>) {}

    /// [`Index::upsert_if_newer`] of a key that was looked at.
    fn upsert_at(
        &self,
        spot: Self::Spot,
        key: Key<'_>,
        new: Publishable<Addr>,
        judge: impl FnMut(Addr) -> Candidate,
    ) -> Upsert;

    /// Tells where the keys are that point at the addresses beside them, and `None` of the others: as many calls of
    /// [`Index::get`], in less time.
    fn find(&self, keys: &[Key<'_>], at: &[Addr], found: &mut [Option<Self::Spot>]);

    /// The cleaner's compare-and-swap of a key that was found: `from` becomes `to` if the key still points at `from`.
    fn relocate(&self, spot: Self::Spot, key: Key<'_>, from: Addr, to: Durable<Addr>) -> bool;

    /// Forgets the key if it still points at `at`. Only for tombstones that the log may forget, too.
    fn remove(&self, key: Key<'_>, at: Addr) -> bool;

    /// The entry at `at` is a tombstone: scans may pass over it unseen as long as the key points at it. A hint, and under the
    /// guard under which it was published.
    fn mark_tombstone(&self, _key: Key<'_>, _at: Addr) {}

    /// Asks for the memory that calls with these keys will read, for all of them at a time so that the misses overlap.
    /// A hint, worth it for several keys. With [`Index::PREFETCHES_BY_HASH`] the bytes of the keys are not looked at.
    fn prefetch(&self, keys: &[Key<'_>]);

    /// Asks for the memory that the relocation of a key with this spot and hash will read. A hint.
    fn prefetch_spot(&self, spot: Self::Spot, hash: u64);

    /// Whether hashes are all that [`Index::prefetch`] needs.
    const PREFETCHES_BY_HASH: bool;

    /// The entries from an edge on, in the order of their keys; `None` if this kind has none.
    ///
    /// Each key that is there all the time is shown exactly once, whatever happens around it; others once or not at all.
    /// An address stays readable while the guard is held. Who goes on under a new guard starts a new scan behind the
    /// last key it was shown. What a reader may not see (a tombstone, a later `Seq`) it passes over itself: keys do not
    /// leave the index while anybody may need an entry of theirs. `wanted` is about how many will be asked for; tombstones
    /// that `passing` names are not shown.
    fn scan<'a>(
        &'a self,
        guard: &'a Guard,
        from: Edge<'_>,
        direction: Direction,
        wanted: usize,
        passing: impl PassOver + 'a,
    ) -> Option<impl InOrder + 'a>;

    /// About how many entries lie between two edges, in the time of a few lookups; `None` if this kind has no order.
    fn estimate(&self, guard: &Guard, from: Edge<'_>, to: Edge<'_>) -> Option<u64>;

    /// Shows entries that no scan shows: their place in the order was not known when it was needed, because they could
    /// not be read. Damage, so nearly always none.
    fn unplaced(&self, _visit: impl FnMut(Addr)) {}

    /// Shows every entry, in no order; entries published or moved meanwhile may be shown twice or not at all.
    fn for_each(&self, visit: impl FnMut(Addr));

    /// Entries, tombstones included. Exact when no call is in progress.
    fn len(&self) -> u64;

    /// Whether it can take so many more keys, of so many bytes in all, whatever they are like. Other calls that are in
    /// progress may take the same nodes: who depends on the answer asks for more than it needs.
    fn has_room_for(&self, _keys: u64, _bytes: u64) -> bool {
        true
    }

    /// An empty one of the same kind that shares its nodes, so that it takes little memory, and as much as it needs later.
    /// What it took comes back to the others when it is dropped.
    ///
    /// # Errors
    /// `Io` if address space cannot be reserved.
    fn sibling(&self) -> Result<Self>
    where
        Self: Sized;

    /// Bytes of DRAM of what it shares with its siblings.
    fn shared_bytes(&self) -> u64;

    /// Bytes of DRAM of what it alone holds.
    fn own_bytes(&self) -> u64;

    /// Bytes of DRAM that it holds, and that its siblings share with it.
    #[cfg(test)]
    fn memory_bytes(&self) -> u64 {
        self.shared_bytes() + self.own_bytes()
    }

    /// Makes a huge page of its memory, in use or soon to be; false if there is none to make. For the background: one thread at a time.
    fn make_huge_page(&self) -> bool {
        false
    }

    /// Bytes of its memory that have huge pages.
    fn huge_page_bytes(&self) -> u64 {
        0
    }
}
