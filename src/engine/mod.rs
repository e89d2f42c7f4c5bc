//! Where the floors meet: the only code that knows both log and index.
//!
//! Lock order, outermost first: a stripe of deletes -> a log's state -> a lane's stage -> the list of extents that wait to be
//! freed -> extents -> growth -> free slots. The roll lock (`Space::identities`) is taken under a log's state, or under
//! extents, which open segments; whoever holds it takes none of these: it neither allocates extents nor takes or returns
//! slots. The list of points (`versions.rs`) is taken around nothing but the
//! shards of older versions, and those are innermost.
//! No lock is held while an epoch guard is held across a drain on a disk: guards are taken for lookups and publications.
//!
//! Start order: medium, superblock, space, log, index (recovery), then the housekeeper. Stop order is the reverse.

mod blob;
mod cleaner;
pub(crate) mod commit;
mod damage;
mod housekeeper;
mod iter;
mod judge;
mod keyspace;
mod look;
mod pins;
mod publish;
mod read;
mod recovery;
mod snapshot;
mod stats;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod tickets;
mod verify;
mod versions;
mod write;

#[cfg(feature = "sim")]
pub use cleaner::Aim;
pub use iter::{Iter, RangeEstimate};
pub use keyspace::{Named, WholeStore};
#[cfg(feature = "capi")]
pub use look::{FETCH_GROUP, Look, NoValue};
pub use pins::ValueRef;
#[cfg(feature = "capi")]
pub use read::copy_value;
pub use snapshot::Snapshot;
pub use verify::{Finding, Verification};

use crate::epoch;
use crate::error::{Error, Result};
use crate::format::closed_ends;
use crate::index::Index;
use crate::media::Media;
use crate::oplog::OpLog;
use crate::oplog::read::EntryReader;
use crate::options::Options;
use crate::space::Space;
use crate::space::extent::Extents;
use crate::space::superblock::SuperblockStore;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use blob::Limbo;
use cleaner::{Cleaner, CleanerThread, Noted};
use commit::Committer;
use crossbeam_utils::CachePadded;
use damage::DamageList;
use housekeeper::Housekeeper;
use keyspace::{Keyspace, Keyspaces};
use stats::{Counters, OpenFacts};
use versions::Versions;

/// Deletes of different keys meet in one stripe so rarely that it does not matter that they then follow each other.
const DELETE_STRIPES: usize = 128;

/// Keys that other calls may be putting at the same time, and their bytes, for which the index keeps room. Opening leaves less
/// than half: a pool that was filled up to here can be opened.
const INDEX_ROOM_FOR_OTHERS: u64 = 128;
const INDEX_ROOM_KEY_BYTES: u64 = 256;
const OPEN_INDEX_ROOM_KEYS: u64 = 32;

#[cold]
fn no_index_room() -> Error {
    Error::from_errno("make room in the index: its address space is limited (ulimit -v)", libc::ENOMEM)
}

/// An open store with one kind of index.
pub struct Engine<I: Index> {
    media: Arc<dyn Media>,
    space: Arc<Space>,
    oplog: Arc<OpLog>,
    /// Before the default one, whose nodes theirs go back to.
    keyspaces: Keyspaces<I>,
    default: Keyspace<I>,
    reader: EntryReader,
    extents: Arc<Extents>,
    committer: Committer,
    /// Held by a delete from its look at the key to its publication, by the key's hash.
    deletes: Box<[CachePadded<Mutex<()>>]>,
    damage: DamageList,
    limbo: Arc<Limbo>,
    cleaner: Cleaner,
    cleaner_thread: CleanerThread,
    /// Tombstones that the cleaner has not looked at.
    noted: Noted,
    /// Entries that were replaced and that snapshots show.
    versions: Versions,
    superblock: Mutex<SuperblockStore>,
    options: Options,
    inline_value_bytes_max: usize,
    counters: Counters,
    facts: OpenFacts,
    housekeeper: Housekeeper,
    pinned: AtomicU64,
    closed: AtomicBool,
    fork_generation: u64,
}

impl<I: Index + 'static> Engine<I> {
    /// Refuses calls on a closed store and in a forked child.
    #[inline]
    fn check_open(&self) -> Result<()> {
        if crate::media::fork_generation() != self.fork_generation {
            return Err(Error::Forked);
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Refuses writes that cannot succeed, before anything is changed.
    #[inline]
    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        self.oplog.check_poison()
    }

    /// Refuses puts of keys with these lengths if the index may have no nodes for them. Before they are in the log: there
    /// they could not be taken back.
    #[inline]
    fn check_index_room(&self, index: &I, key_lens: impl Iterator<Item = usize>) -> Result<()> {
        let (keys, bytes) = key_lens.fold((0, 0), |(keys, bytes), len| (keys + 1, bytes + len as u64));
        let others = INDEX_ROOM_FOR_OTHERS;
        if keys == 0 || index.has_room_for(keys + others, bytes + others * INDEX_ROOM_KEY_BYTES) {
            return Ok(());
        }
        Err(no_index_room())
    }

    /// Ok, or the state that refuses writes and why.
    pub fn health(&self) -> Result<()> {
        self.check_open()?;
        self.oplog.check_poison()
    }

    /// Refuses writes from now on; what is on the medium is for the next open to judge.
    pub fn poison(&self, why: &str) {
        self.oplog.poison(why);
    }

    /// Makes every earlier write durable, `os` ones too.
    pub fn sync(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only {
            return Ok(());
        }
        self.committer.sync_all(self)?;
        self.limbo.settle(&self.oplog, &self.extents, &self.space);
        Ok(())
    }

    /// Ends the store: drains, closes every log, sets the clean mark. Afterwards every call answers `Closed`.
    ///
    /// # Errors
    /// `Busy` while values are pinned: nothing is closed. `Io`: the store is closed uncleanly, the next open recovers.
    pub fn close(&self) -> Result<()> {
        self.check_open()?;
        if self.closed.swap(true, Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        // In this order: a pin that is being taken either sees the store closed or is seen here.
        let pinned = self.pinned.load(Ordering::SeqCst);
        if pinned > 0 {
            self.closed.store(false, Ordering::SeqCst);
            return Err(Error::Busy(format!("{pinned} values are pinned")));
        }
        self.stop_threads();
        if self.options.read_only {
            return Ok(());
        }
        self.close_cleanly()
    }

    fn stop_threads(&self) {
        self.cleaner_thread.stop();
        self.housekeeper.stop();
        // What this store retired is freed now, not when another store helps.
        epoch::help_grace_period();
    }

    fn close_cleanly(&self) -> Result<()> {
        self.committer.lead_all(self);
        let mut ends = Vec::new();
        for log in 0..self.oplog.log_count() {
            ends.extend(self.oplog.close_log(&mut self.oplog.lock(log))?);
        }
        let next_id = self.space.identities().next_id;
        self.superblock.lock().update(&*self.media, |superblock| {
            superblock.clean = true;
            superblock.closed_ends = closed_ends(ends);
            superblock.segment_id_high_water = next_id.0;
        })
    }

    /// The last handle goes: ends the background thread, and writes out what was accepted asynchronously. Not in a forked
    /// child, which has neither the thread nor a say.
    pub fn let_go(&self) {
        if crate::media::fork_generation() != self.fork_generation {
            return;
        }
        self.stop_threads();
        if !self.closed.load(Ordering::Acquire)
            && !self.options.read_only
            && self.oplog.check_poison().is_ok()
        {
            self.committer.lead_all(self);
        }
    }

    /// What the housekeeper does for logs that are idle, at once.
    #[cfg(feature = "sim")]
    pub fn mark_idle_logs(&self) -> Result<()> {
        self.check_open()?;
        (0..self.oplog.log_count()).try_for_each(|log| self.oplog.mark_idle(&mut self.oplog.lock(log)))
    }

    /// Ends the store as a killed process would: nothing more is written.
    #[cfg(feature = "sim")]
    pub fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        self.stop_threads();
        for log in 0..self.oplog.log_count() {
            self.oplog.abandon(&mut self.oplog.lock(log));
        }
    }
}
