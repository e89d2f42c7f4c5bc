//! Keyspaces: sets of keys that know nothing of each other, in one log.
//!
//! Each has an index of its own, so lookups and scans never meet keys of another one, and dropping one is a matter of its
//! index as a whole. The default one lies in the engine itself; who uses no other passes nothing of this. Others are found
//! by the number that their entries name, or held by those who use them.
//!
//! Invariants:
//!   - numbers only grow; the entries of a number are in the index of its keyspace and in no other
//!   - a number that the log names is registered, unless it was dropped: then its entries are dead, or on their way to be
//!     counted so (`reclaim.rs`)
//!   - an entry is written, and published, only while the gate of its keyspace is passed; who drops or clears it holds the
//!     gate alone, and has waited for what was accepted before
//!   - a keyspace that was dropped stays registered as long as a point shows it

mod catalogue;
mod past;
mod reclaim;
mod scope;

pub(super) use scope::OfBatch;
pub use scope::{Fixed, Named, Scope, WholeStore};

use super::Engine;
use crate::checksum::hash64;
use crate::error::{Error, Result};
use crate::format::Op;
use crate::index::{Index, Key};
use crate::oplog::read::EntryReader;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, RwLock};
use crate::types::{Addr, KeyspaceId, Seq};
use catalogue::Names;
use std::collections::HashMap;
use std::ops::Deref;

/// The keys of one number.
pub struct Keyspace<I> {
    id: KeyspaceId,
    /// Keys of several keyspaces are noted together by their hashes (filters, versions, tombstones): these differ.
    hash_seed: u64,
    pub(super) index: I,
    /// It was made since the store was opened, so nothing that open found damaged was of it.
    is_newer_than_damage: bool,
    /// Stamp of the record that dropped it.
    ended: AtomicU64,
}

impl<I: Index> Keyspace<I> {
    pub(super) fn new(id: KeyspaceId, index: I, reader: &EntryReader) -> Self {
        let (hash_seed, ended) = (reader.hash_seed(id), AtomicU64::new(Seq::END.0));
        Keyspace { id, hash_seed, index, is_newer_than_damage: false, ended }
    }

    /// One that did not exist when the store was opened.
    fn brand_new(id: KeyspaceId, index: I, reader: &EntryReader) -> Self {
        Keyspace { is_newer_than_damage: true, ..Self::new(id, index, reader) }
    }

    pub(super) fn id(&self) -> KeyspaceId {
        self.id
    }

    /// The key with its hash.
    #[inline]
    pub(super) fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key { bytes, hash: hash64(self.hash_seed, bytes) }
    }

    /// The keys with their hashes, in `group`, which is as long or longer.
    #[inline]
    pub(super) fn key_group<'k, 'g>(&self, keys: &[&'k [u8]], group: &'g mut [Key<'k>]) -> &'g [Key<'k>] {
        let group = &mut group[..keys.len()];
        group.iter_mut().zip(keys).for_each(|(key, bytes)| *key = self.key(bytes));
        group
    }

    /// True if what open found damaged hides nothing of it.
    pub(super) fn is_newer_than_damage(&self) -> bool {
        self.is_newer_than_damage
    }

    /// Whether a point shows it: one that is open since before it was dropped.
    fn is_visible_at(&self, point: Seq) -> bool {
        point < self.ended()
    }

    fn ended(&self) -> Seq {
        Seq(self.ended.load(Ordering::Acquire))
    }
}

/// A keyspace that somebody looked up.
pub(super) enum Found<'e, I> {
    Default(&'e Keyspace<I>),
    Registered(Arc<Keyspace<I>>),
}

impl<I> Deref for Found<'_, I> {
    type Target = Keyspace<I>;

    #[inline]
    fn deref(&self) -> &Keyspace<I> {
        match self {
            Found::Default(keyspace) => keyspace,
            Found::Registered(keyspace) => keyspace,
        }
    }
}

/// All keyspaces but the default one.
pub(super) struct Keyspaces<I> {
    by_id: RwLock<HashMap<KeyspaceId, Arc<Keyspace<I>>>>,
    /// What callers can ask for.
    names: RwLock<Names<I>>,
    /// Held by who changes the catalogue, around all other locks.
    changing: Mutex<()>,
    /// Dropped, and not reclaimed yet.
    dropped: Mutex<Vec<Arc<Keyspace<I>>>>,
    dropped_count: AtomicUsize,
    /// Held by who takes entries of dropped ones out of the accounts, and by who compares these.
    reclaiming: Mutex<()>,
    /// Tells the handles of this store from those of others.
    store: Arc<()>,
}

impl<I> Default for Keyspaces<I> {
    fn default() -> Self {
        Keyspaces {
            by_id: RwLock::default(),
            names: RwLock::default(),
            changing: Mutex::default(),
            dropped: Mutex::default(),
            dropped_count: AtomicUsize::new(0),
            reclaiming: Mutex::default(),
            store: Arc::default(),
        }
    }
}

/// How many keyspaces there are, for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyspaceCounts {
    /// Those with a name.
    pub(super) live: u64,
    /// Those that were dropped and whose entries still count.
    pub(super) dropped: u64,
}

impl<I: Index> Keyspaces<I> {
    fn get(&self, id: KeyspaceId) -> Option<Arc<Keyspace<I>>> {
        self.by_id.read().get(&id).cloned()
    }

    fn register(&self, keyspace: &Arc<Keyspace<I>>) {
        self.by_id.write().insert(keyspace.id, Arc::clone(keyspace));
    }

    fn unregister(&self, id: KeyspaceId) {
        self.by_id.write().remove(&id);
    }

    fn all(&self) -> Vec<Arc<Keyspace<I>>> {
        self.by_id.read().values().cloned().collect()
    }

    pub(super) fn counts(&self) -> KeyspaceCounts {
        let live = self.names.read().by_name.len() as u64;
        KeyspaceCounts { live, dropped: self.dropped_count.load(Ordering::Relaxed) as u64 }
    }
}

impl<I: Index + 'static> Engine<I> {
    /// The keyspace that entries with this number belong to; `None` if they are dead.
    #[inline]
    pub(super) fn keyspace(&self, id: KeyspaceId) -> Option<Found<'_, I>> {
        if id == KeyspaceId::DEFAULT {
            return Some(Found::Default(&self.default));
        }
        self.keyspaces.get(id).map(Found::Registered)
    }

    /// The key of an entry with its hash.
    #[inline]
    pub(super) fn key_of<'a>(&self, op: &Op<'a>) -> Key<'a> {
        Key { bytes: op.key(), hash: self.reader.hash_of(op) }
    }

    /// Asks for the memory that lookups of these keys read, each of the keyspace beside it.
    pub(super) fn prefetch_keys(&self, keyspaces: &[KeyspaceId], keys: &[Key<'_>]) {
        let mut keys = keys;
        for run in keyspaces.chunk_by(|one, other| one == other) {
            let (of_run, behind) = keys.split_at(run.len());
            keys = behind;
            if let Some(space) = self.keyspace(run[0]) {
                space.index.prefetch(of_run);
            }
        }
    }

    /// Tells which of the keys, each of the keyspace beside it, point at the addresses beside them, and where they are.
    pub(super) fn find_keys(
        &self,
        keyspaces: &[KeyspaceId],
        keys: &[Key<'_>],
        at: &[Addr],
        found: &mut [Option<I::Spot>],
    ) {
        let mut from = 0;
        for run in keyspaces.chunk_by(|one, other| one == other) {
            let range = from..from + run.len();
            from = range.end;
            if let Some(space) = self.keyspace(run[0]) {
                space.index.find(&keys[range.clone()], &at[range.clone()], &mut found[range]);
            }
        }
    }

    /// Shows every index with its keyspace's number, the default one first.
    pub(super) fn for_each_index(&self, mut visit: impl FnMut(KeyspaceId, &I)) {
        visit(KeyspaceId::DEFAULT, &self.default.index);
        self.keyspaces.all().iter().for_each(|keyspace| visit(keyspace.id, &keyspace.index));
    }

    /// Entries of all indexes, tombstones included.
    pub(super) fn indexed_entries(&self) -> u64 {
        let mut entries = 0;
        self.for_each_index(|_, index| entries += index.len());
        entries
    }

    /// Bytes of DRAM of all indexes.
    pub(super) fn index_bytes(&self) -> u64 {
        let mut bytes = self.default.index.shared_bytes();
        self.for_each_index(|_, index| bytes += index.own_bytes());
        bytes
    }

    /// Keys of callers: not those of the catalogue.
    pub(super) fn key_count(&self) -> u64 {
        let mut keys = 0;
        self.for_each_index(|id, index| keys += if id == KeyspaceId::CATALOGUE { 0 } else { index.len() });
        keys
    }

    /// The keyspace of this number, made if it is met for the first time.
    pub(super) fn keyspace_or_new(&self, id: KeyspaceId) -> Result<Found<'_, I>> {
        if let Some(found) = self.keyspace(id) {
            return Ok(found);
        }
        let mut by_id = self.keyspaces.by_id.write();
        if let Some(found) = by_id.get(&id) {
            return Ok(Found::Registered(Arc::clone(found)));
        }
        let new = Arc::new(Keyspace::new(id, self.default.index.sibling()?, &self.reader));
        by_id.insert(id, Arc::clone(&new));
        Ok(Found::Registered(new))
    }
}

#[cold]
fn was_dropped() -> Error {
    Error::Dropped
}
