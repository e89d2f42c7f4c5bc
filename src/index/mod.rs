//! The index seam: volatile, rebuilt from the log at open, chosen at open and never in the format. An index knows keys
//! and addresses; what a key is compared with lies in the log and is reached through the closures and traits here.
//!
//! A new kind is one file, one arm in the registry and one line in `conformance.rs`.

pub mod arena;
#[cfg(test)]
mod conformance;
pub mod hash;

use crate::media::durable::{Durable, Publishable};
use crate::types::Addr;

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

/// Gives the hash of the key whose entry lies at an address; growth needs it once an index slot's own bits are used up.
pub trait KeyHashes: Send + Sync {
    /// The hash, or `None` if the entry cannot be read any more (damage): it then stays where it is found today.
    fn key_hash(&self, at: Addr) -> Option<u64>;
    /// Asks for the bytes at `at` before they are needed.
    fn prefetch(&self, at: Addr);
}

/// A concurrent map from keys to the address of their newest entry.
///
/// Thread-safe; `get` writes no shared memory. Callers hold an epoch guard during every call, so that no address they
/// are shown is reused. Tombstones are entries like others: the index keeps them until [`Index::remove`].
pub trait Index: Send + Sync {
    /// Shows `probe` each entry that may be the key's until it answers `Some`, and returns that.
    fn get<R>(&self, key: Key<'_>, probe: impl FnMut(Addr) -> Option<R>) -> Option<R>;

    /// Publishes `new` unless `judge` finds a newer entry of the key. Racing publications of one key may come in any
    /// order: the newest stays.
    fn upsert_if_newer(
        &self,
        key: Key<'_>,
        new: Publishable<Addr>,
        judge: impl FnMut(Addr) -> Candidate,
    ) -> Upsert;

    /// The cleaner's compare-and-swap: `from` becomes `to` if the key still points at `from`.
    fn relocate(&self, key: Key<'_>, from: Addr, to: Durable<Addr>) -> bool;

    /// Forgets the key if it still points at `at`. Only for tombstones that the log may forget, too.
    fn remove(&self, key: Key<'_>, at: Addr) -> bool;

    /// Asks for the memory that a call with this hash will read first. A hint.
    fn prefetch(&self, hash: u64);

    /// Shows every entry, in no order; entries published or moved meanwhile may be shown twice or not at all.
    fn for_each(&self, visit: impl FnMut(Addr));

    /// Entries, tombstones included. Exact when no call is in progress.
    fn len(&self) -> u64;

    /// Bytes of DRAM it holds.
    fn memory_bytes(&self) -> u64;

    /// Merges some of its memory to a huge page; false if there is none to merge. For the background: one thread at a time.
    fn merge_huge_page(&self) -> bool {
        false
    }

    /// Bytes of its memory that were merged to huge pages.
    fn huge_page_bytes(&self) -> u64 {
        0
    }
}
