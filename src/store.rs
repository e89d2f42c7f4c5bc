//! The public store: one erasure of the engine's index type, and the documentation of what callers can rely on.

#[cfg(feature = "sim")]
use crate::engine::Aim;
use crate::engine::{Engine, Named, WholeStore};
#[cfg(feature = "capi")]
pub(crate) use crate::engine::{FETCH_GROUP, Look, NoValue, copy_value};
#[cfg(feature = "capi")]
use crate::epoch::Here;
use crate::error::{Error, Result};
use crate::format::{HOLDER_OFFSET, HolderRecord};
use crate::holder;
use crate::index::hash::HashIndex;
use crate::index::ordered::OrderedIndex;
use crate::media::{self, Media, OpenRequest};
use crate::options::{IndexKind, Options, WriteOptions};
use crate::sync::Arc;
use crate::write_batch::{BatchScope, WriteBatch};
use std::ops::Bound;
use std::path::Path;

pub use crate::engine::{Finding, Iter, RangeEstimate, Snapshot, ValueRef, Verification};

/// An open store. `Send`, `Sync` and cheap to clone; all clones are the same store, and the pool stays locked until the last
/// one, and the last [`ValueRef`], is dropped. Dropping without [`Store::close`] is safe: every acknowledged write is on
/// the medium already, the next open just has to scan the log's tail.
///
/// A store is also what [`Store::keyspace`] gives: the same store, but the keys of its calls are those of one keyspace.
#[derive(Clone)]
pub struct Store {
    target: Target,
    handle: Arc<Handle>,
}

/// What the handles of a store share: the last one to go ends the housekeeper, which must not be what releases the pool.
struct Handle {
    whole: Target,
}

/// The engine with the index that the store was opened with, and a keyspace if it is not the default one. A branch that
/// always goes the same way costs a call less than a table of functions, and values stay generic below.
#[derive(Clone)]
enum Target {
    Hash(Arc<Engine<HashIndex>>),
    Ordered(Arc<Engine<OrderedIndex>>),
    InHash(Arc<Engine<HashIndex>>, Arc<Named<HashIndex>>),
    InOrdered(Arc<Engine<OrderedIndex>>, Arc<Named<OrderedIndex>>),
}

/// Calls an engine, whatever its index and the keyspace.
macro_rules! with_engine {
    ($target:expr, $engine:ident => $call:expr) => {
        match &$target {
            Target::Hash($engine) | Target::InHash($engine, _) => $call,
            Target::Ordered($engine) | Target::InOrdered($engine, _) => $call,
        }
    };
}

/// Keeps calls on a keyspace apart, so that those on the default one stay as short as they were.
#[inline(never)]
fn apart<R>(call: impl FnOnce() -> R) -> R {
    call()
}

/// Calls an engine for a keyspace.
macro_rules! with_keyspace {
    ($target:expr, ($engine:ident, $scope:ident) => $call:expr) => {
        match &$target {
            Target::Hash($engine) => {
                let $scope = WholeStore;
                $call
            }
            Target::Ordered($engine) => {
                let $scope = WholeStore;
                $call
            }
            Target::InHash($engine, named) => apart(|| {
                let $scope = &**named;
                $call
            }),
            Target::InOrdered($engine, named) => apart(|| {
                let $scope = &**named;
                $call
            }),
        }
    };
}

impl Drop for Handle {
    fn drop(&mut self) {
        with_engine!(self.whole, engine => engine.let_go());
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
            os_by_mapping: options.stores_by_mapping(),
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
        let whole = match options.index {
            IndexKind::Hash => {
                Target::Hash(Engine::open(media, is_new, options, holder, HashIndex::with_expected)?)
            }
            IndexKind::Ordered => {
                Target::Ordered(Engine::open(media, is_new, options, holder, OrderedIndex::with_expected)?)
            }
        };
        Ok(Store { target: whole.clone(), handle: Arc::new(Handle { whole }) })
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
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        with_keyspace!(self.target, (engine, scope) => engine.put(scope, &WriteOptions::default(), key, value))
    }

    /// [`Store::put`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_with(&self, options: &WriteOptions, key: &[u8], value: &[u8]) -> Result<()> {
        with_keyspace!(self.target, (engine, scope) => engine.put(scope, options, key, value))
    }

    /// Copies the value of `key`; `None` if it has none.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (key), `Corrupted` (the value, or what would prove its absence, is damaged), `Closed`,
    /// `Forked`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        with_keyspace!(self.target, (engine, scope) => engine.get(scope, key))
    }

    /// [`Store::get_into`], if a short look tells. Not of a keyspace, whose gets have more to look at.
    #[cfg(feature = "capi")]
    #[inline(always)]
    pub(crate) fn copy_plain(&self, here: Here, key: &[u8], buf: &mut [u8]) -> Option<Option<usize>> {
        match &self.target {
            Target::Hash(engine) => engine.copy_plain(here, WholeStore, key, buf),
            Target::Ordered(engine) => engine.copy_plain(here, WholeStore, key, buf),
            Target::InHash(..) | Target::InOrdered(..) => None,
        }
    }

    /// Copies the value of `key` into `buf` and returns its length; allocates nothing for inline values.
    ///
    /// # Errors
    /// As [`Store::get`]; `BufferTooSmall` with the length needed.
    pub fn get_into(&self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        with_keyspace!(self.target, (engine, scope) => engine.get_into(scope, key, buf))
    }

    /// Pins the value of `key`: it stays readable and unchanged until the [`ValueRef`] is dropped, without a copy where it
    /// lies in one piece. The space it lies in cannot be reused meanwhile, and the store cannot be closed.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_pinned(&self, key: &[u8]) -> Result<Option<ValueRef>> {
        with_keyspace!(self.target, (engine, scope) => engine.get_pinned(scope, key))
    }

    /// Deletes `key`; `false` if it had no value. Works on a full store.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        with_keyspace!(self.target, (engine, scope) => engine.delete(scope, &WriteOptions::default(), key))
    }

    /// [`Store::delete`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete_with(&self, options: &WriteOptions, key: &[u8]) -> Result<bool> {
        with_keyspace!(self.target, (engine, scope) => engine.delete(scope, options, key))
    }

    /// True if `key` has a value. Reads no blob.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn exists(&self, key: &[u8]) -> Result<bool> {
        with_keyspace!(self.target, (engine, scope) => engine.exists(scope, key))
    }

    /// Applies a batch: after any crash all of it is there, or nothing. Of several operations on one key the last counts.
    /// One drain, two if it has values longer than `inline_value_bytes_max`. A reader that gets key by key may see a part
    /// of it while it is being applied.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn write(&self, batch: &WriteBatch) -> Result<()> {
        with_keyspace!(self.target, (engine, scope) => engine.write(scope, &WriteOptions::default(), batch))
    }

    /// [`Store::write`] with options of its own.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn write_with(&self, options: &WriteOptions, batch: &WriteBatch) -> Result<()> {
        with_keyspace!(self.target, (engine, scope) => engine.write(scope, options, batch))
    }

    /// Copies many values, in the order of `keys`, with the memory accesses of several keys overlapped. Each key has a
    /// result of its own.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> {
        with_keyspace!(self.target, (engine, scope) => engine.multi_get(scope, keys))
    }

    /// Shows what is seen of each of at most [`FETCH_GROUP`] keys, in their order.
    #[cfg(feature = "capi")]
    pub(crate) fn look_group(&self, keys: &[&[u8]], show: impl FnMut(usize, Look<'_>)) {
        with_keyspace!(self.target, (engine, scope) => engine.look_group(scope, keys, show));
    }

    /// Accepts a put and returns at once. It is visible and durable within `commit_wait_us_max` without further calls, or
    /// when [`Store::wait`] for its ticket returns. Writes of one thread keep their order. Accepts at most
    /// `async_bytes_max` at a time, then waits.
    ///
    /// # Errors
    /// As [`Store::put`]; whatever can be refused is refused now. A later failure poisons the store and is reported for
    /// every ticket from the failed one on.
    pub fn put_async(&self, key: &[u8], value: &[u8]) -> Result<Ticket> {
        with_keyspace!(self.target, (engine, scope) => engine.put_async(scope, key, value).map(Ticket))
    }

    /// [`Store::put_async`] for a batch.
    ///
    /// # Errors
    /// As [`Store::put_async`].
    pub fn write_async(&self, batch: &WriteBatch) -> Result<Ticket> {
        with_keyspace!(self.target, (engine, scope) => engine.write_async(scope, batch).map(Ticket))
    }

    /// Waits until the write of `ticket`, and every one before it, is durable.
    ///
    /// # Errors
    /// The failure of that write or of an earlier one, after which the store is poisoned; `InvalidArgument` for a ticket that
    /// was never given; `Closed`, `Forked`.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        with_engine!(self.target, engine => engine.wait(ticket.0))
    }

    /// Every ticket up to this one is durable; 0 before the first.
    pub fn durable_ticket(&self) -> Ticket {
        Ticket(with_engine!(self.target, engine => engine.durable_ticket()))
    }

    /// The store as it is now, for reading. Waits for writes of this process that are being drained just now, for all of them
    /// side by side: for a drain at most, unless one of them rolls its log. No write waits for it.
    ///
    /// # Errors
    /// `Closed`, `Forked`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        with_keyspace!(self.target, (engine, scope) => engine.snapshot(scope))
    }

    /// The keyspace of this handle as it was at the moment of a snapshot, whichever handle of the store that was made with; empty
    /// if it was not there. The same moment: no write is waited for, and nothing kept twice. While another thread drops or clears
    /// the keyspace, that is waited for.
    ///
    /// # Errors
    /// `InvalidArgument` for a snapshot of another store.
    pub fn snapshot_at(&self, snapshot: &Snapshot) -> Result<Snapshot> {
        with_keyspace!(self.target, (engine, scope) => engine.snapshot_of(scope, snapshot))
    }

    /// A handle for the keyspace with this name, which is made if there is none. Keys of different keyspaces know nothing of
    /// each other; batches and snapshots go across them. All calls work on it, those about the store as a whole as on any handle.
    ///
    /// A name has 1 to 255 bytes, without NUL. Costs a put if the keyspace has to be made, else a lookup. An empty keyspace takes
    /// about 10 KiB of memory.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (the name), `Corrupted` if damage may hide whether there is one; those of [`Store::put`] if it
    /// has to be made.
    pub fn keyspace(&self, name: &str) -> Result<Store> {
        let target = match &self.target {
            Target::Hash(engine) | Target::InHash(engine, _) => {
                Target::InHash(Arc::clone(engine), engine.open_keyspace(name)?)
            }
            Target::Ordered(engine) | Target::InOrdered(engine, _) => {
                Target::InOrdered(Arc::clone(engine), engine.open_keyspace(name)?)
            }
        };
        Ok(Store { target, handle: Arc::clone(&self.handle) })
    }

    /// A handle for the keyspace with this name, as [`Store::keyspace`] gives one, or `None` if there is none: nothing is made,
    /// so it works on a store that refuses writes, too. Costs a lookup.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (the name), `Corrupted` if damage may hide whether there is one, `Closed`, `Forked`.
    pub fn find_keyspace(&self, name: &str) -> Result<Option<Store>> {
        let target = match &self.target {
            Target::Hash(engine) | Target::InHash(engine, _) => {
                engine.find_keyspace(name)?.map(|named| Target::InHash(Arc::clone(engine), named))
            }
            Target::Ordered(engine) | Target::InOrdered(engine, _) => {
                engine.find_keyspace(name)?.map(|named| Target::InOrdered(Arc::clone(engine), named))
            }
        };
        Ok(target.map(|target| Store { target, handle: Arc::clone(&self.handle) }))
    }

    /// Drops the keyspace with this name and all keys in it; `false` if there is none. Durable when it returns, in the time of a
    /// put however many keys there are, plus that of the writes to it that are under way, which it waits for. The space comes
    /// back in the background. Works on a full store. Handles of the keyspace answer `Dropped` from then on, also if another one
    /// gets its name; snapshots from before still show it.
    ///
    /// # Errors
    /// As [`Store::keyspace`], and those of [`Store::put`].
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        with_engine!(self.target, engine => engine.drop_keyspace(name))
    }

    /// Removes all keys of this handle's keyspace at once, as dropping and making it again would; its handles stay as they are.
    ///
    /// # Errors
    /// `InvalidArgument` for the default keyspace, `Dropped`, those of [`Store::drop_keyspace`].
    pub fn clear(&self) -> Result<()> {
        match &self.target {
            Target::Hash(_) | Target::Ordered(_) => {
                Err(Error::InvalidArgument("the default keyspace cannot be cleared".into()))
            }
            Target::InHash(engine, named) => engine.clear_keyspace(named),
            Target::InOrdered(engine, named) => engine.clear_keyspace(named),
        }
    }

    /// The names of all keyspaces but the default one, in the order of their bytes.
    ///
    /// # Errors
    /// `Corrupted` if damage may hide some, `Closed`, `Forked`.
    pub fn keyspace_names(&self) -> Result<Vec<String>> {
        with_engine!(self.target, engine => engine.keyspace_names())
    }

    /// What a batch calls this handle's keyspace.
    pub(crate) fn batch_scope(&self) -> BatchScope {
        match &self.target {
            Target::Hash(engine) => BatchScope(engine.default_scope()),
            Target::Ordered(engine) => BatchScope(engine.default_scope()),
            Target::InHash(_, named) => BatchScope(named.scope()),
            Target::InOrdered(_, named) => BatchScope(named.scope()),
        }
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
        with_keyspace!(self.target, (engine, scope) => engine.estimate_range(scope, from, to))
    }

    /// Makes every earlier write durable, asynchronous ones and those at durability `os` too. At most one drain per log.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`, `Closed`, `Forked`.
    pub fn sync(&self) -> Result<()> {
        with_engine!(self.target, engine => engine.sync())
    }

    /// Ends cleaning in the background until [`Store::maintenance_resume`]: for a stretch of time in which nothing but the
    /// caller's own work shall use the medium. A pass that is at work is finished. Writes that find no room meanwhile wait
    /// for `write_stall_ms_max` and are refused.
    ///
    /// # Errors
    /// `NoSpace` while free space is so scarce that writes would soon stop. `ReadOnly`, `Poisoned`, `Closed`, `Forked`.
    pub fn maintenance_pause(&self) -> Result<()> {
        with_engine!(self.target, engine => engine.pause_maintenance())
    }

    /// Lets the store clean again.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`, `Closed`, `Forked`.
    pub fn maintenance_resume(&self) -> Result<()> {
        with_engine!(self.target, engine => engine.resume_maintenance())
    }

    /// Counters, sizes and what open found, as JSON with stable names. `keys` counts what the index holds: keys that have a
    /// value, and deleted keys whose tombstones have to be kept.
    pub fn stats_json(&self) -> String {
        with_engine!(self.target, engine => engine.stats().to_string())
    }

    /// Reads the whole pool: checks every checksum, that every entry of the index leads to its operation, and that the sizes
    /// which the store keeps account of are those of the pool. Other calls go on meanwhile, cleaning waits for one segment at
    /// a time; totals are compared if nothing is written until it ends (see [`Verification::is_quiet`]). Takes the time of
    /// reading the pool.
    ///
    /// # Errors
    /// `Closed`, `Forked`. What is wrong with the pool is no error but a [`Finding`].
    pub fn verify(&self) -> Result<Verification> {
        with_engine!(self.target, engine => engine.verify())
    }

    /// Ok, or the state that refuses writes and why. Reads go on in every such state.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    pub fn health(&self) -> Result<()> {
        with_engine!(self.target, engine => engine.health())
    }

    /// Ends the store cleanly: the next open need not look for a torn tail. Calls on any handle answer `Closed` afterwards. On the
    /// handle of a keyspace it does nothing: that is closed with its store.
    ///
    /// # Errors
    /// `Busy` with the number of pinned values while there are any: nothing is closed, but calls that other threads made
    /// meanwhile may have answered `Closed`. `Io`: the store is closed, the next
    /// open recovers it. `Closed`, `Forked`, `Poisoned`.
    pub fn close(&self) -> Result<()> {
        match &self.target {
            Target::Hash(engine) => engine.close(),
            Target::Ordered(engine) => engine.close(),
            Target::InHash(..) | Target::InOrdered(..) => Ok(()),
        }
    }

    /// Refuses writes from now on: a bug was caught, and what it did is for the next open to judge.
    #[cfg_attr(not(feature = "capi"), allow(dead_code, reason = "the C boundary catches panics"))]
    pub(crate) fn poison(&self, why: &str) {
        with_engine!(self.target, engine => engine.poison(why));
    }

    #[cfg(feature = "sim")]
    pub(crate) fn mark_idle(&self) -> Result<()> {
        with_engine!(self.target, engine => engine.mark_idle_logs())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn clean(&self, aim: Aim) -> Result<usize> {
        with_engine!(self.target, engine => engine.clean(aim).map(|pass| pass.emptied))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn give_back(&self) -> Result<bool> {
        with_engine!(self.target, engine => engine.give_back_all())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn tidy_up(&self) -> bool {
        with_engine!(self.target, engine => engine.tidy_up(|| false).is_some())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn stop_cleaning(&self) {
        with_engine!(self.target, engine => engine.stop_cleaning());
    }

    /// Ends the store as a killed process would: nothing more is written.
    #[cfg(feature = "sim")]
    pub(crate) fn abandon(&self) {
        with_engine!(self.target, engine => engine.abandon());
    }
}

impl WriteBatch {
    /// Adds a put to `keyspace`, of the store that the batch is to be written to; [`WriteBatch::put`] adds one to the keyspace of
    /// the handle that it is written with.
    ///
    /// # Errors
    /// As [`WriteBatch::put`].
    pub fn put_in(&mut self, keyspace: &Store, key: &[u8], value: &[u8]) -> Result<()> {
        self.push_in(keyspace.batch_scope(), key, Some(value))
    }

    /// Adds a delete from `keyspace`, as [`WriteBatch::put_in`].
    ///
    /// # Errors
    /// As [`WriteBatch::put`].
    pub fn delete_in(&mut self, keyspace: &Store, key: &[u8]) -> Result<()> {
        self.push_in(keyspace.batch_scope(), key, None)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("health", &self.health()).finish_non_exhaustive()
    }
}
