//! The public store: one erasure of the engine's index type, and the documentation of what callers can rely on.

#[cfg(feature = "sim")]
use crate::engine::Aim;
use crate::engine::Engine;
#[cfg(feature = "capi")]
pub(crate) use crate::engine::FETCH_GROUP;
use crate::error::Result;
use crate::format::{HOLDER_OFFSET, HolderRecord};
use crate::holder;
use crate::index::hash::HashIndex;
use crate::index::ordered::OrderedIndex;
use crate::media::{self, Media, OpenRequest};
use crate::options::{IndexKind, Options, WriteOptions};
use crate::sync::Arc;
use crate::write_batch::WriteBatch;
use std::ops::Bound;
use std::path::Path;

pub use crate::engine::{Finding, Iter, RangeEstimate, Snapshot, ValueRef, Verification};

/// An open store. `Send`, `Sync` and cheap to clone; all clones are the same store, and the pool stays locked until the last
/// one, and the last [`ValueRef`], is dropped. Dropping without [`Store::close`] is safe: every acknowledged write is on
/// the medium already, the next open just has to scan the log's tail.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

/// What the clones of a store share: the last one to go ends the housekeeper, which must not be what releases the pool.
struct Handle {
    engine: AnyEngine,
}

/// The engine with the index that the store was opened with. A branch that always goes the same way costs a call less than
/// a table of functions, and values stay generic below.
enum AnyEngine {
    Hash(Arc<Engine<HashIndex>>),
    Ordered(Arc<Engine<OrderedIndex>>),
}

/// Calls the engine of a handle, whatever its index.
macro_rules! with_engine {
    ($handle:expr, $engine:ident => $call:expr) => {
        match &$handle.engine {
            AnyEngine::Hash($engine) => $call,
            AnyEngine::Ordered($engine) => $call,
        }
    };
}

impl Drop for Handle {
    fn drop(&mut self) {
        with_engine!(self, engine => engine.let_go());
    }
}

/// The number of an asynchronous write. Tickets of one store are given, and complete, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Store {
    /// Opens the store at `path` with default options, creating it if it does not exist.
    ///
    /// Takes the time of a scan of the log after an unclean end (see `recovered_entries` and `open_us` in
    /// [`Store::stats_json`]).
    ///
    /// # Errors
    /// `Locked` (another process, or another handle of this one, has it open), `Corrupted` (not a pool, or its head
    /// is damaged), `Incomplete` (segments are missing), `Unsupported` (a later format, a medium that is not there),
    /// `InvalidArgument` (an option, a directory), `NoSpace`, `Io`. Nothing was changed then, but the
    /// record of who had the pool open.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Options::new().open(path)
    }

    pub(crate) fn open_with(path: &Path, options: Options) -> Result<Store> {
        options.validate()?;
        let opened = media::open(&OpenRequest {
            path,
            media: options.media,
            create: options.create,
            read_only: options.read_only,
            file_mode: options.file_mode,
            lock_wait_ms: options.lock_wait_ms,
            holder_offset: HOLDER_OFFSET,
            describe_holder: holder::describe,
        })?;
        Self::open_on(opened.media, opened.is_new, options, &holder::this_process())
    }

    pub(crate) fn open_on(
        media: Arc<dyn Media>,
        is_new: bool,
        options: Options,
        holder: &HolderRecord,
    ) -> Result<Store> {
        let engine = match options.index {
            IndexKind::Hash => {
                AnyEngine::Hash(Engine::open(media, is_new, options, holder, HashIndex::with_expected)?)
            }
            IndexKind::Ordered => {
                AnyEngine::Ordered(Engine::open(media, is_new, options, holder, OrderedIndex::with_expected)?)
            }
        };
        Ok(Store { handle: Arc::new(Handle { engine }) })
    }

    /// Stores `value` under `key`, replacing any older value. Durable when it returns `Ok`, unless the store was opened
    /// with durability `os`.
    ///
    /// Costs one drain, shared when writers meet; two when the value is longer than `inline_value_bytes_max`.
    ///
    /// # Errors
    /// `InvalidArgument` (empty key), `TooLarge` (key above 64 KiB, value of 4 GiB or more), `NoSpace` if it does not fit beside
    /// what is live, `TimedOut` if the cleaner could not make room within `write_stall_ms_max`, `ReadOnly`,
    /// `Closed`, `Forked`, `Poisoned` after an earlier failed drain: the old value stays. `Io`: as long as
    /// [`Store::health`] is well the pool could not grow, and the old value stays; else this drain failed, the store is
    /// poisoned, and recovery decides which value survived.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        with_engine!(self.handle, engine => engine.put(&WriteOptions::default(), key, value))
    }

    /// [`Store::put`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_with(&self, options: &WriteOptions, key: &[u8], value: &[u8]) -> Result<()> {
        with_engine!(self.handle, engine => engine.put(options, key, value))
    }

    /// Copies the value of `key`; `None` if it has none.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (key), `Corrupted` (the value, or what would prove its absence, is damaged), `Closed`,
    /// `Forked`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        with_engine!(self.handle, engine => engine.get(key))
    }

    /// Copies the value of `key` into `buf` and returns its length; allocates nothing for inline values.
    ///
    /// # Errors
    /// As [`Store::get`]; `BufferTooSmall` with the length needed.
    pub fn get_into(&self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        with_engine!(self.handle, engine => engine.get_into(key, buf))
    }

    /// Pins the value of `key`: it stays readable and unchanged until the [`ValueRef`] is dropped, without a copy where it
    /// lies in one piece. The space it lies in cannot be reused meanwhile, and the store cannot be closed.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_pinned(&self, key: &[u8]) -> Result<Option<ValueRef>> {
        with_engine!(self.handle, engine => engine.get_pinned(key))
    }

    /// Deletes `key`; `false` if it had no value. Works on a full store.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        with_engine!(self.handle, engine => engine.delete(&WriteOptions::default(), key))
    }

    /// [`Store::delete`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete_with(&self, options: &WriteOptions, key: &[u8]) -> Result<bool> {
        with_engine!(self.handle, engine => engine.delete(options, key))
    }

    /// True if `key` has a value. Reads no blob.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn exists(&self, key: &[u8]) -> Result<bool> {
        with_engine!(self.handle, engine => engine.exists(key))
    }

    /// Applies a batch: after any crash all of it is there, or nothing. Of several operations on one key the last counts.
    /// One drain, two if it has values longer than `inline_value_bytes_max`. A reader that gets key by key may see a part
    /// of it while it is being applied.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn write(&self, batch: &WriteBatch) -> Result<()> {
        with_engine!(self.handle, engine => engine.write(&WriteOptions::default(), batch))
    }

    /// [`Store::write`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn write_with(&self, options: &WriteOptions, batch: &WriteBatch) -> Result<()> {
        with_engine!(self.handle, engine => engine.write(options, batch))
    }

    /// Copies many values, in the order of `keys`, with the memory accesses of several keys overlapped. Each key has a
    /// result of its own.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> {
        with_engine!(self.handle, engine => engine.multi_get(keys))
    }

    /// Asks for the memory of at most [`FETCH_GROUP`] keys that are read next.
    #[cfg(feature = "capi")]
    pub(crate) fn fetch_ahead(&self, keys: &[&[u8]]) {
        with_engine!(self.handle, engine => engine.fetch_ahead(keys));
    }

    /// Accepts a put and returns at once. It is visible and durable within `commit_wait_us_max` without further calls, or
    /// when [`Store::wait`] for its ticket returns. Writes of one thread keep their order. Accepts at most
    /// `async_bytes_max` at a time, then waits.
    ///
    /// # Errors
    /// As [`Store::put`]; whatever can be refused is refused now. A later failure poisons the store and is reported for
    /// every ticket from the failed one on.
    pub fn put_async(&self, key: &[u8], value: &[u8]) -> Result<Ticket> {
        with_engine!(self.handle, engine => engine.put_async(key, value).map(Ticket))
    }

    /// [`Store::put_async`] for a batch.
    ///
    /// # Errors
    /// As [`Store::put_async`].
    pub fn write_async(&self, batch: &WriteBatch) -> Result<Ticket> {
        with_engine!(self.handle, engine => engine.write_async(batch).map(Ticket))
    }

    /// Waits until the write of `ticket`, and every one before it, is durable.
    ///
    /// # Errors
    /// The failure of that write or of an earlier one, after which the store is poisoned; `InvalidArgument` for a ticket that
    /// was never given; `Closed`, `Forked`.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        with_engine!(self.handle, engine => engine.wait(ticket.0))
    }

    /// Every ticket up to this one is durable; 0 before the first.
    pub fn durable_ticket(&self) -> Ticket {
        Ticket(with_engine!(self.handle, engine => engine.durable_ticket()))
    }

    /// The store as it is now, for reading. Waits for writes of this process that are being drained just now, for all of them
    /// side by side: for a drain at most, unless one of them rolls its log. No write waits for it.
    ///
    /// # Errors
    /// `Closed`, `Forked`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        with_engine!(self.handle, engine => engine.snapshot())
    }

    /// True if the snapshot is one of this store.
    #[cfg(feature = "capi")]
    pub(crate) fn made(&self, snapshot: &Snapshot) -> bool {
        with_engine!(self.handle, engine => snapshot.is_of(engine))
    }

    /// The entries of the store as it is now, in the order of their keys.
    ///
    /// # Errors
    /// `Unsupported` with `index=hash`, `Closed`, `Forked`.
    pub fn iter(&self) -> Result<Iter> {
        self.snapshot()?.iter()
    }

    /// About how many entries lie between two keys, and how many bytes, in the time of a few lookups.
    ///
    /// # Errors
    /// `Unsupported` with `index=hash`, `Closed`, `Forked`.
    pub fn estimate_range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<RangeEstimate> {
        with_engine!(self.handle, engine => engine.estimate_range(from, to))
    }

    /// Makes every earlier write durable, asynchronous ones and those at durability `os` too. At most one drain per log.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`, `Closed`, `Forked`.
    pub fn sync(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.sync())
    }

    /// Ends cleaning in the background until [`Store::maintenance_resume`]: for a stretch of time in which nothing but the
    /// caller's own work shall use the medium. A pass that is at work is finished. Writes that find no room meanwhile wait
    /// for `write_stall_ms_max` and are refused.
    ///
    /// # Errors
    /// `NoSpace` while free space is so scarce that writes would soon stop. `ReadOnly`, `Poisoned`, `Closed`, `Forked`.
    pub fn maintenance_pause(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.pause_maintenance())
    }

    /// Lets the store clean again.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`, `Closed`, `Forked`.
    pub fn maintenance_resume(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.resume_maintenance())
    }

    /// Counters, sizes and what open found, as JSON with stable names. `keys` counts what the index holds: keys that have a
    /// value, and deleted keys whose tombstones have to be kept.
    pub fn stats_json(&self) -> String {
        with_engine!(self.handle, engine => engine.stats().to_string())
    }

    /// Reads the whole pool: checks every checksum, that every entry of the index leads to its operation, and that the sizes
    /// which the store keeps account of are those of the pool. Other calls go on meanwhile, cleaning waits for one segment at
    /// a time; totals are compared if nothing is written until it ends (see [`Verification::is_quiet`]). Takes the time of
    /// reading the pool.
    ///
    /// # Errors
    /// `Closed`, `Forked`. What is wrong with the pool is no error but a [`Finding`].
    pub fn verify(&self) -> Result<Verification> {
        with_engine!(self.handle, engine => engine.verify())
    }

    /// Ok, or the state that refuses writes and why. Reads go on in every such state.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    pub fn health(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.health())
    }

    /// Ends the store cleanly: the next open need not look for a torn tail. Calls on any clone answer `Closed` afterwards.
    ///
    /// # Errors
    /// `Busy` with the number of pinned values while there are any: nothing is closed, but calls that other threads made
    /// meanwhile may have answered `Closed`. `Io`: the store is closed, the next
    /// open recovers it. `Closed`, `Forked`, `Poisoned`.
    pub fn close(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.close())
    }

    /// Refuses writes from now on: a bug was caught, and what it did is for the next open to judge.
    #[cfg_attr(not(feature = "capi"), allow(dead_code, reason = "the C boundary catches panics"))]
    pub(crate) fn poison(&self, why: &str) {
        with_engine!(self.handle, engine => engine.poison(why));
    }

    #[cfg(feature = "sim")]
    pub(crate) fn mark_idle(&self) -> Result<()> {
        with_engine!(self.handle, engine => engine.mark_idle_logs())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn clean(&self, aim: Aim) -> Result<usize> {
        with_engine!(self.handle, engine => engine.clean(aim).map(|pass| pass.emptied))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn give_back(&self) -> Result<bool> {
        with_engine!(self.handle, engine => engine.give_back_all())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn tidy_up(&self) -> bool {
        with_engine!(self.handle, engine => engine.tidy_up(|| false).is_some())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn stop_cleaning(&self) {
        with_engine!(self.handle, engine => engine.stop_cleaning());
    }

    /// Ends the store as a killed process would: nothing more is written.
    #[cfg(feature = "sim")]
    pub(crate) fn abandon(&self) {
        with_engine!(self.handle, engine => engine.abandon());
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("health", &self.health()).finish_non_exhaustive()
    }
}
