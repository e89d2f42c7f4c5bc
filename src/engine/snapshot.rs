//! Reading at a point: a stamp up to which writes are visible, whatever is written later. See `versions.rs` for how older
//! versions stay readable.

use super::Engine;
use super::iter::{Chunk, Iter, Limits};
use super::keyspace::{Keyspace, Scope};
use super::look::FETCH_GROUP;
use super::versions::{Held, HeldBlob, Kept, Replaced};
use crate::checksum::CheckSite;
use crate::epoch::{self, OpenSection};
use crate::error::{Error, Result};
use crate::format::{BlobDescriptor, Filter, Op, OpKind};
use crate::index::{Candidate, Index, Key};
use crate::media::guarded::Scratch;
use crate::rules::{self, Rule};
use crate::sync::Arc;
use crate::types::{Addr, Seq};
use crate::write_batch::check_key;

/// What a snapshot needs of its store, whatever its index.
pub(super) trait SnapshotHost: Send + Sync {
    fn kept_bytes(&self, point: Seq) -> u64;
    fn close_point(&self, point: Seq);
    /// The names of the keyspaces that there were.
    fn names_at(&self, point: Seq) -> Result<Vec<String>>;
    /// The keyspace that had a name, if one had it.
    fn keys_at(self: Arc<Self>, name: &str, point: Seq) -> Result<Option<Arc<dyn ViewHost>>>;
    #[cfg_attr(not(feature = "capi"), allow(dead_code, reason = "the C boundary catches panics"))]
    fn poison(&self, why: &str);
}

/// What it needs of the keyspace that it shows.
pub(super) trait ViewHost: Send + Sync {
    fn get_at(&self, key: &[u8], point: Seq) -> Result<Option<Vec<u8>>>;
    /// Asks for the memory that this is likely to read for each of at most [`FETCH_GROUP`] keys.
    fn fetch_ahead(&self, keys: &[&[u8]]);
    /// Fills a chunk from its start on.
    fn fill(&self, chunk: &mut Chunk, limits: &Limits, point: Seq) -> Result<()>;
    /// Why keys may be missing between the limits, if damage may hide some.
    fn hidden(&self, limits: &Limits) -> Option<Error>;
}

/// An open point; closed by the last who uses it.
struct OpenPoint {
    host: Arc<dyn SnapshotHost>,
    point: Seq,
}

impl Drop for OpenPoint {
    fn drop(&mut self) {
        self.host.close_point(self.point);
    }
}

/// A keyspace at an open point.
pub(super) struct View {
    pub(super) keys: Arc<dyn ViewHost>,
    pub(super) point: Seq,
    open: Arc<OpenPoint>,
}

impl View {
    pub(super) fn kept_bytes(&self) -> u64 {
        self.open.host.kept_bytes(self.point)
    }

    #[cfg(feature = "capi")]
    pub(super) fn poison_store(&self, why: &str) {
        self.open.host.poison(why);
    }
}

/// The store as it was at one moment: every write that had returned by then is visible, at any durability, none that began
/// later, and of a batch all or nothing. An asynchronous write is visible for sure if its ticket was done by then. Writers
/// never wait for it. As long as it is there, the values that it shows keep their space, those that were overwritten or
/// deleted too: see [`Snapshot::kept_bytes`]. Cheap to make and to clone, on any thread; may be dropped on any thread, in any
/// order, which visits the older versions that it alone kept. The pool stays locked until the last one is gone.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

impl Snapshot {
    /// Copies the value that `key` had; `None` if it had none.
    ///
    /// # Errors
    /// As [`Store::get`](crate::Store::get).
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.view.keys.get_at(key, self.view.point)
    }

    /// Copies many values, in the order of `keys`, with the memory accesses of several keys overlapped. Each key has a
    /// result of its own.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        for group in keys.chunks(FETCH_GROUP) {
            self.view.keys.fetch_ahead(group);
            values.extend(group.iter().map(|key| self.get(key)));
        }
        values
    }

    /// The entries of the snapshot in the order of their keys.
    ///
    /// # Errors
    /// `Unsupported` with `index=hash`, `Closed`, `Forked`.
    pub fn iter(&self) -> Result<Iter> {
        Iter::new(Arc::clone(&self.view))
    }

    /// The keyspace that had this name at the moment of the snapshot, as it was then: also if it was dropped or cleared since, or
    /// if another one has the name now. `None` if there was none. The same moment: no write is waited for, and nothing kept
    /// twice. Costs two gets for each keyspace that was made, dropped or cleared since the store was opened, or was there then.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (the name), `Corrupted` if damage may hide whether there was one, `Closed`, `Forked`.
    pub fn keyspace(&self, name: &str) -> Result<Option<Snapshot>> {
        let (open, point) = (&self.view.open, self.view.point);
        let keys = Arc::clone(&open.host).keys_at(name, point)?;
        Ok(keys.map(|keys| Snapshot { view: Arc::new(View { keys, point, open: Arc::clone(open) }) }))
    }

    /// The names that keyspaces had at the moment of the snapshot, in the order of their bytes. Costs as much as
    /// [`Snapshot::keyspace`].
    ///
    /// # Errors
    /// `Corrupted` if damage may hide some, `Closed`, `Forked`.
    pub fn keyspace_names(&self) -> Result<Vec<String>> {
        self.view.open.host.names_at(self.view.point)
    }

    /// Bytes of overwritten and deleted entries that are kept because of this snapshot. Those that a newer snapshot needs,
    /// too, are counted there alone. What they lie in, whole segments, waits with them.
    pub fn kept_bytes(&self) -> u64 {
        self.view.kept_bytes()
    }

    /// As [`Store::poison`](crate::Store).
    #[cfg(feature = "capi")]
    pub(crate) fn poison_store(&self, why: &str) {
        self.view.poison_store(why);
    }

    /// True if it is one of this store.
    pub(crate) fn is_of<I: Index + 'static>(&self, engine: &Arc<Engine<I>>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.view.open.host), Arc::as_ptr(engine))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("kept_bytes", &self.kept_bytes()).finish_non_exhaustive()
    }
}

impl<I: Index + 'static> ViewHost for Engine<I> {
    fn get_at(&self, key: &[u8], point: Seq) -> Result<Option<Vec<u8>>> {
        self.get_in_at(&self.default, key, point)
    }

    fn fetch_ahead(&self, keys: &[&[u8]]) {
        Engine::fetch_ahead(self, &self.default, keys);
    }

    fn fill(&self, chunk: &mut Chunk, limits: &Limits, point: Seq) -> Result<()> {
        self.fill_chunk(&self.default, chunk, limits, point)
    }

    fn hidden(&self, limits: &Limits) -> Option<Error> {
        self.hidden_by_damage(&self.default, limits)
    }
}

/// A keyspace as it was at a point; `None` if it was not there.
struct KeyspaceView<I: Index + 'static> {
    engine: Arc<Engine<I>>,
    space: Option<Arc<Keyspace<I>>>,
}

impl<I: Index + 'static> ViewHost for KeyspaceView<I> {
    fn get_at(&self, key: &[u8], point: Seq) -> Result<Option<Vec<u8>>> {
        match &self.space {
            Some(space) => self.engine.get_in_at(space, key, point),
            None => check_key(key).and_then(|()| self.engine.check_open()).map(|()| None),
        }
    }

    fn fetch_ahead(&self, keys: &[&[u8]]) {
        if let Some(space) = &self.space {
            self.engine.fetch_ahead(space, keys);
        }
    }

    fn fill(&self, chunk: &mut Chunk, limits: &Limits, point: Seq) -> Result<()> {
        match &self.space {
            Some(space) => self.engine.fill_chunk(space, chunk, limits, point),
            None => self.engine.check_open(),
        }
    }

    fn hidden(&self, limits: &Limits) -> Option<Error> {
        self.space.as_ref().and_then(|space| self.engine.hidden_by_damage(space, limits))
    }
}

impl<I: Index + 'static> SnapshotHost for Engine<I> {
    fn kept_bytes(&self, point: Seq) -> u64 {
        if self.is_in_forked_child() { 0 } else { self.versions.bytes_at(point) }
    }

    fn close_point(&self, point: Seq) {
        if !self.is_in_forked_child() {
            self.versions.close(point, |held| self.let_go_of_version(held));
        }
    }

    fn names_at(&self, point: Seq) -> Result<Vec<String>> {
        self.keyspace_names_at(point)
    }

    fn keys_at(self: Arc<Self>, name: &str, point: Seq) -> Result<Option<Arc<dyn ViewHost>>> {
        let found = self.find_keyspace_at(name, point)?;
        Ok(found.map(|space| Arc::new(KeyspaceView { engine: self, space }) as Arc<dyn ViewHost>))
    }

    fn poison(&self, why: &str) {
        Engine::poison(self, why);
    }
}

impl<I: Index + 'static> Engine<I> {
    /// There a thread that the child does not have may hold the locks of what is kept.
    fn is_in_forked_child(&self) -> bool {
        crate::media::fork_generation() != self.fork_generation
    }

    /// What snapshots keep.
    pub(super) fn kept_versions(&self) -> Kept {
        if self.is_in_forked_child() { Kept::default() } else { self.versions.kept() }
    }

    fn get_in_at(&self, space: &Keyspace<I>, key: &[u8], point: Seq) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        self.check_open()?;
        self.counters.get();
        self.value_at(space, key, point)
    }

    /// The value that a key had at a point.
    pub(super) fn value_at(&self, space: &Keyspace<I>, key: &[u8], point: Seq) -> Result<Option<Vec<u8>>> {
        let _guard = epoch::pin();
        let scratch = Scratch::new();
        let key = space.key(key);
        let found = self.find_at(space, key, point, &scratch)?;
        self.check_damage(space, key, found.as_ref().map(|(addr, op)| (*addr, op)))?;
        match found {
            Some((addr, op)) if op.kind() != OpKind::Delete => self.whole_value(addr, &op).map(Some),
            _ => Ok(None),
        }
    }

    /// The store as it is now, shown in one of its keyspaces.
    ///
    /// # Errors
    /// `Closed`, `Dropped`, `Forked`.
    pub fn snapshot(self: &Arc<Self>, scope: impl Scope<I>) -> Result<Snapshot> {
        self.check_open()?;
        scope.look(self)?;
        let point = self.versions.open(|| self.oplog.take_point(), |held| self.let_go_of_version(held));
        let open = Arc::new(OpenPoint { host: Arc::clone(self) as Arc<dyn SnapshotHost>, point });
        self.wait_for_stamped_writes();
        self.versions.settle(point);
        Ok(self.view_at(open, scope))
    }

    /// Another keyspace at the point of a snapshot: empty if it was not there.
    ///
    /// # Errors
    /// `InvalidArgument` for a snapshot of another store.
    pub fn snapshot_of(self: &Arc<Self>, scope: impl Scope<I>, other: &Snapshot) -> Result<Snapshot> {
        // A gate that another thread held at a fork stays closed in the child.
        self.check_open()?;
        if !other.is_of(self) {
            return Err(Error::InvalidArgument("the snapshot is one of another store".into()));
        }
        Ok(self.view_at(Arc::clone(&other.view.open), scope))
    }

    fn view_at(self: &Arc<Self>, open: Arc<OpenPoint>, scope: impl Scope<I>) -> Snapshot {
        let (engine, point) = (Arc::clone(self), open.point);
        let keys: Arc<dyn ViewHost> = match scope.named() {
            Some(named) => Arc::new(KeyspaceView { engine, space: named.at(point) }),
            None => engine,
        };
        Snapshot { view: Arc::new(View { keys, point, open }) }
    }

    /// What was stamped below a new floor is visible at its point, so it has to be in the index before anybody looks. All
    /// that are under way are waited for side by side, so for one drain at most; those that are staged will get a stamp above
    /// the floor.
    fn wait_for_stamped_writes(&self) {
        // A simulation does one thing at a time.
        if !self.options.background {
            return;
        }
        let open = epoch::open_sections(self.fork_generation);
        if !open.is_empty() {
            // After those that are open: who leads a group that is staged now takes it later, and sees the floor.
            let staged = self.committer.staged_sections();
            open.iter().filter(|section| !staged.contains(section)).for_each(OpenSection::wait);
        }
    }

    /// Keeps the older one of two entries of a key, each with its stamp, if a snapshot shows it. Before it is replaced, and under
    /// an epoch guard, so that its segment is there to be pinned.
    #[cold]
    pub(super) fn keep_if_needed(
        &self,
        hash: u64,
        known_is: Candidate,
        (known, op, known_seq): (Addr, &Op<'_>, Seq),
        (new, new_seq): (Addr, Seq),
    ) {
        if known_is == Candidate::Older && self.versions.may_need(known_seq) {
            let replaced = Replaced { hash, addr: known, seq: known_seq, by: new_seq };
            self.versions.keep(replaced, || self.hold_version(known, Some(op)));
        }
        if known_is == Candidate::Newer && self.versions.may_need(new_seq) {
            let scratch = Scratch::new();
            let replaced = Replaced { hash, addr: new, seq: new_seq, by: known_seq };
            self.versions.keep(replaced, || self.hold_version(new, self.reader.op(new, &scratch).as_ref()));
        }
    }

    /// The same for a put of `bytes` with a short value, without a look for its stamp; false if that has to be looked for.
    /// `settled` is the bound of before the index led to it: it may have been replaced since.
    pub(super) fn keep_put_if_needed(
        &self,
        hash: u64,
        (known, bytes): (Addr, u64),
        new_seq: Seq,
        settled: Seq,
    ) -> bool {
        if !self.was_there(known, settled) {
            return false;
        }
        if self.versions.may_need(settled) {
            let replaced = Replaced { hash, addr: known, seq: settled, by: new_seq };
            self.versions.keep(replaced, || self.hold_put(known, bytes));
        }
        true
    }

    /// Pins the segment of an entry of `bytes` that has its value inside.
    fn hold_put(&self, addr: Addr, bytes: u64) -> Held {
        let slot = self.space.geometry().slot_of_addr(addr);
        self.space.table().slot(slot).pin();
        Held { slot, entry_bytes: u32::try_from(bytes).expect("it fits a segment"), blob: None }
    }

    /// Pins the segments of an entry.
    fn hold_version(&self, addr: Addr, op: Option<&Op<'_>>) -> Held {
        let geometry = self.space.geometry();
        let mut held = Held { slot: geometry.slot_of_addr(addr), entry_bytes: 0, blob: None };
        if let Some(op) = op {
            held.entry_bytes = u32::try_from(op.footprint_bytes()).expect("it fits a segment");
            // A descriptor that rotted names anything. Whoever reads the version will find that out.
            if op.kind() == OpKind::PutBlob
                && self.reader.verify(addr, op, CheckSite::EntryOnGet)
                && let Some(descriptor) = BlobDescriptor::decode(op.value())
            {
                let slots = descriptor.chunks.iter().map(|chunk| geometry.slot_of(chunk.offset));
                held.blob = Some(Box::new(HeldBlob { extents: slots.collect(), bytes: descriptor.len }));
            }
        }
        held.slots().for_each(|slot| self.space.table().slot(slot).pin());
        held
    }

    fn let_go_of_version(&self, held: Held) {
        held.slots().for_each(|slot| self.space.table().slot(slot).unpin());
    }

    /// The entry of a key that is visible at a point, a tombstone included. Under an epoch guard.
    ///
    /// # Errors
    /// As [`Engine::find`].
    fn find_at<'a>(
        &'a self,
        space: &Keyspace<I>,
        key: Key<'_>,
        point: Seq,
        scratch: &'a Scratch,
    ) -> Result<Option<(Addr, Op<'a>)>> {
        let Some((addr, op)) = self.find(space, key, scratch)? else { return Ok(None) };
        let (seq, _) = self.reader.order(addr, &op).ok_or_else(|| self.reader.corrupted(addr))?;
        if seq <= point || !rules::keep(Rule::GetsHideNewer) {
            return Ok(Some((addr, op)));
        }
        let older = self.find_older(space, key, point, scratch)?;
        if older.is_none() {
            self.check_no_entry_is_lost(space, key, scratch)?;
        }
        Ok(older)
    }

    /// The older version of a key that is visible at a point, if the newest is not.
    pub(super) fn find_older<'a>(
        &'a self,
        space: &Keyspace<I>,
        key: Key<'_>,
        point: Seq,
        scratch: &'a Scratch,
    ) -> Result<Option<(Addr, Op<'a>)>> {
        let mut before = None;
        while let Some((seq, addr)) = self.versions.visible_at(key.hash, point, before) {
            before = Some((seq, addr));
            let op = self.reader.op(addr, scratch).ok_or_else(|| self.unreadable(addr, scratch))?;
            if self.options.verify_reads && !self.reader.verify(addr, &op, CheckSite::EntryOnGet) {
                return Err(self.reader.corrupted(addr));
            }
            if op.key() == key.bytes && op.keyspace() == space.id() {
                // Without a stamp it was taken for the oldest of all: nobody knows whether the point shows it.
                self.reader.order(addr, &op).ok_or_else(|| self.reader.corrupted(addr))?;
                return Ok(Some((addr, op)));
            }
        }
        Ok(None)
    }

    /// Refuses to say that a key was not there if an entry that may be its own cannot be read: who replaced it took it for
    /// another key's, so it is still in the index, and no version of it was kept.
    #[cold]
    fn check_no_entry_is_lost(&self, space: &Keyspace<I>, key: Key<'_>, scratch: &Scratch) -> Result<()> {
        let lost = space.index.get(key, |addr| {
            let op = self.reader.op(addr, scratch);
            let is_sound = op.is_some_and(|op| self.reader.verify(addr, &op, CheckSite::EntryOnGet));
            (!is_sound).then_some(addr)
        });
        lost.map_or(Ok(()), |addr| Err(self.unreadable(addr, scratch)))
    }

    pub(super) fn unreadable(&self, addr: Addr, scratch: &Scratch) -> Error {
        scratch.failure().unwrap_or_else(|| self.reader.corrupted(addr))
    }

    /// Refuses an answer about a key that damage may have made stale.
    #[inline]
    pub(super) fn check_damage(
        &self,
        space: &Keyspace<I>,
        key: Key<'_>,
        found: Option<(Addr, &Op<'_>)>,
    ) -> Result<()> {
        if self.damage.is_empty() || space.is_newer_than_damage() {
            return Ok(());
        }
        let answer =
            found.and_then(|(addr, op)| self.reader.order(addr, op)).map_or(Seq::ZERO, |(seq, _)| seq);
        self.damage.check(Filter::short_hash(key.hash), answer)
    }
}
