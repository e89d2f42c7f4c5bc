//! Writing: look up where what is replaced lies -> blob -> log -> publish (`publish.rs`). What is written together needs no
//! look: its stamp exceeds all that were given before.

mod plain;

use plain::NotPlain;

use super::Engine;
use super::blob::StagedBlob;
use super::commit::{Terms, Written};
use super::keyspace::{Keyspace, OfBatch, Scope};
use crate::constants::FRAME_OPS_MAX;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{
    CommitRecord, FRAME_HEADER_BYTES, Filter, FrameBuilder, FrameKind, OpKind, OpSpec, PartsInSegment,
    encoded_len_max,
};
use crate::index::{Index, Key};
use crate::media::Site;
use crate::media::durable::{InFlight, Publishable};
use crate::media::guarded::Scratch;
use crate::oplog::OpLog;
use crate::oplog::append::{FrameTerms, LogState, Placed, WriteMode};
use crate::options::{Durability, WriteOptions};
use crate::space::Purpose;
use crate::sync::{Work, work};
use crate::types::{KeyspaceId, SegmentSlot, Seq};
use crate::write_batch::{WriteBatch, check_key, check_value_len};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::ops::ControlFlow;

/// An operation of a batch, ready for the log.
pub(super) struct BatchEntry<'a, I: Index> {
    pub(super) space: &'a Keyspace<I>,
    pub(super) key: Key<'a>,
    pub(super) kind: OpKind,
    value: &'a [u8],
    blob: Option<StagedBlob>,
}

impl<I: Index> BatchEntry<'_, I> {
    fn spec(&self) -> OpSpec<'_> {
        let value = self.blob.as_ref().map_or(self.value, |blob| &blob.descriptor);
        OpSpec { kind: self.kind, key: self.key.bytes, value, moved: None, keyspace: self.space.id() }
    }
}

impl<I: Index + 'static> Engine<I> {
    fn mode(&self, options: &WriteOptions) -> WriteMode {
        match options.durability.unwrap_or(self.options.durability) {
            Durability::Sync => WriteMode::Sync,
            Durability::Os => WriteMode::Os,
        }
    }

    /// Stores a value.
    pub fn put(&self, scope: impl Scope<I>, options: &WriteOptions, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        check_value_len(value.len())?;
        self.check_writable()?;
        work(Work::Call);
        self.counters.put(key.len() + value.len());
        let result = self.with_room(|| self.put_once(scope, options, key, value));
        self.after_write();
        result
    }

    /// A write is over, and nothing of it is held any more.
    #[inline]
    fn after_write(&self) {
        if self.housekeeper.calls_writers()
            && let Some(has_rolled) = self.housekeeper.answer()
        {
            self.pace(has_rolled);
        }
    }

    #[inline]
    fn put_once(&self, scope: impl Scope<I>, options: &WriteOptions, key: &[u8], value: &[u8]) -> Result<()> {
        let space = &*scope.enter(self)?;
        let key = space.key(key);
        self.check_index_room(&space.index, std::iter::once(key.bytes.len()))?;
        let mode = self.mode(options);
        let is_log_busy = match self.put_plain(space, key, value, mode) {
            Ok(done) => return done,
            Err(why) => why == NotPlain::LogBusy,
        };
        let _section = epoch::write_section(self.fork_generation);
        let terms = Terms { above: self.damage_bound(), purpose: Purpose::Put, mode, is_log_busy };
        if value.len() <= self.inline_value_bytes_max {
            let op = OpSpec { kind: OpKind::Put, key: key.bytes, value, moved: None, keyspace: space.id() };
            return self.write_op(space, key, &op, &terms);
        }
        let blob = self.drain_blobs(self.write_blob(space.id(), key.bytes, value)?)?;
        let op = OpSpec {
            kind: OpKind::PutBlob,
            key: key.bytes,
            value: &blob.descriptor,
            moved: None,
            keyspace: space.id(),
        };
        self.write_op(space, key, &op, &terms)?;
        blob.keep();
        Ok(())
    }

    #[inline]
    fn write_op(&self, space: &Keyspace<I>, key: Key<'_>, op: &OpSpec<'_>, terms: &Terms) -> Result<()> {
        let hash = Filter::short_hash(key.hash);
        let mut spot = I::Spot::default();
        let found = &mut spot;
        let ask = move || {
            let guard = epoch::pin();
            space.index.prefetch(&[key]);
            move || {
                let above;
                (above, *found) = self.above(space, key, &guard);
                above
            }
        };
        let written = self.committer.submit_op(self, op, hash, terms, ask)?;
        self.publish_at(space, spot, (op.kind, key), written);
        Ok(())
    }

    /// Deletes a key; false if there was none.
    pub fn delete(&self, scope: impl Scope<I>, options: &WriteOptions, key: &[u8]) -> Result<bool> {
        check_key(key)?;
        self.check_writable()?;
        self.counters.delete();
        let lane = self.committer.home_lane();
        if self.committer.tickets.is_pending(lane) {
            // The caller may have put the key asynchronously: the answer depends on it.
            self.committer.lead(lane, self);
        }
        if !self.has_value_in(scope, key)? && !self.has_damage() {
            return Ok(false);
        }
        let result = self.with_room(|| self.delete_once(scope, options, key));
        self.after_write();
        result
    }

    fn delete_once(&self, scope: impl Scope<I>, options: &WriteOptions, key: &[u8]) -> Result<bool> {
        let space = &*scope.enter(self)?;
        let key = space.key(key);
        // Of two deletes at one time only one may find the value. And only that one may write a tombstone: a second one
        // would end a put that came between them, though nobody was told that it deleted anything.
        let _alone = self.deletes[key.hash as usize % self.deletes.len()].lock();
        if !self.has_value(space, key) && !self.has_damage() {
            return Ok(false);
        }
        let terms = Terms {
            above: self.damage_bound(),
            purpose: Purpose::Delete,
            mode: self.mode(options),
            is_log_busy: false,
        };
        let _section = epoch::write_section(self.fork_generation);
        self.write_op(
            space,
            key,
            &OpSpec { kind: OpKind::Delete, key: key.bytes, value: &[], moved: None, keyspace: space.id() },
            &terms,
        )?;
        Ok(true)
    }

    /// Applies a batch atomically.
    pub fn write(&self, scope: impl Scope<I>, options: &WriteOptions, batch: &WriteBatch) -> Result<()> {
        self.check_writable()?;
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.with_room(|| self.write_once(scope, options, batch));
        self.after_write();
        result
    }

    fn write_once(&self, scope: impl Scope<I>, options: &WriteOptions, batch: &WriteBatch) -> Result<()> {
        let others = self.named_in_batch(batch)?;
        let spaces = OfBatch::enter(self, scope, &others)?;
        let _section = epoch::write_section(self.fork_generation);
        let (entries, terms) =
            self.stage_batch(&spaces, scope.purpose_of_put(), batch, self.mode(options))?;
        match self.batch_frame(&entries) {
            Some((frame, hashes)) => {
                let offsets: Vec<u32> = frame.op_offsets().collect();
                let placed = self.committer.submit_frame(self, frame, hashes, &terms)?;
                let written =
                    |at: usize| placed.as_ref().map(|placed| Written::at(placed, offsets[at], true));
                self.publish_entries(&entries, placed.get().base_seq, written);
            }
            None => self.write_large(&entries, &terms)?,
        }
        self.settle_entries(entries);
        Ok(())
    }

    /// Accepts a put and returns its ticket. Large values are made durable at once, their entry later.
    pub fn put_async(&self, scope: impl Scope<I>, key: &[u8], value: &[u8]) -> Result<u64> {
        check_key(key)?;
        check_value_len(value.len())?;
        self.check_writable()?;
        work(Work::Call);
        self.counters.put(key.len() + value.len());
        let result = self.with_room(|| self.accept_put(scope, key, value));
        self.after_write();
        result
    }

    fn accept_put(&self, scope: impl Scope<I>, key: &[u8], value: &[u8]) -> Result<u64> {
        let space = &*scope.enter(self)?;
        let key = space.key(key);
        self.check_index_room(&space.index, std::iter::once(key.bytes.len()))?;
        let terms = Terms {
            above: self.damage_bound(),
            purpose: Purpose::Put,
            mode: WriteMode::Sync,
            is_log_busy: false,
        };
        let blob = if value.len() <= self.inline_value_bytes_max {
            None
        } else {
            Some(self.drain_blobs(self.write_blob(space.id(), key.bytes, value)?)?)
        };
        let (kind, value) = match &blob {
            Some(blob) => (OpKind::PutBlob, &blob.descriptor[..]),
            None => (OpKind::Put, value),
        };
        let op = OpSpec { kind, key: key.bytes, value, moved: None, keyspace: space.id() };
        let (ticket, is_first) =
            self.committer.submit_op_async(self, &op, Filter::short_hash(key.hash), &terms)?;
        if let Some(blob) = blob {
            blob.keep();
        }
        if is_first {
            self.housekeeper.expect_async();
        }
        Ok(ticket)
    }

    /// Accepts a batch and returns its ticket; one that exceeds a frame is written before it returns.
    pub fn write_async(&self, scope: impl Scope<I>, batch: &WriteBatch) -> Result<u64> {
        self.check_writable()?;
        if batch.is_empty() {
            return Ok(self.committer.tickets.issue_finished());
        }
        let result = self.with_room(|| self.accept_batch(scope, batch));
        self.after_write();
        result
    }

    fn accept_batch(&self, scope: impl Scope<I>, batch: &WriteBatch) -> Result<u64> {
        let others = self.named_in_batch(batch)?;
        let spaces = OfBatch::enter(self, scope, &others)?;
        let (entries, terms) = self.stage_batch(&spaces, Purpose::Put, batch, WriteMode::Sync)?;
        let ticket = match self.batch_frame(&entries) {
            Some((frame, hashes)) => {
                let (ticket, is_first) = self.committer.submit_frame_async(self, frame, hashes, &terms)?;
                if is_first {
                    self.housekeeper.expect_async();
                }
                ticket
            }
            None => {
                let _section = epoch::write_section_around(self.fork_generation);
                self.write_large(&entries, &terms)?;
                self.committer.tickets.issue_finished()
            }
        };
        self.settle_entries(entries);
        Ok(ticket)
    }

    /// Waits until an asynchronous write is durable.
    pub fn wait(&self, ticket: u64) -> Result<()> {
        self.check_open()?;
        self.committer.wait(ticket, self)
    }

    /// Every ticket up to this one is durable.
    pub fn durable_ticket(&self) -> u64 {
        self.committer.tickets.durable()
    }

    /// One entry per key of the batch, the last; blobs written and durable.
    fn stage_batch<'a, 's: 'a, S: Scope<I> + 's>(
        &self,
        spaces: &'a OfBatch<'s, I, S>,
        purpose_of_put: Purpose,
        batch: &'a WriteBatch,
        mode: WriteMode,
    ) -> Result<(Vec<BatchEntry<'a, I>>, Terms)> {
        let puts = batch.ops().iter().filter(|op| !op.is_delete);
        // Of all indexes: they share their nodes.
        self.check_index_room(&self.default.index, puts.map(|op| batch.key(op).len()))?;
        let keys: Vec<Key<'a>> =
            batch.ops().iter().map(|op| spaces.keyspace(op.scope).key(batch.key(op))).collect();
        let keyspace_of = |i: usize| spaces.keyspace(batch.ops()[i].scope).id();
        let is_last = may_repeat(&keys).then(|| last_of_each(&keys, keyspace_of));
        let mut entries = Vec::with_capacity(keys.len());
        let mut in_flight = InFlight::nothing(());
        let mut terms =
            Terms { above: self.damage_bound(), purpose: Purpose::Delete, mode, is_log_busy: false };
        for (i, (op, key)) in batch.ops().iter().zip(&keys).enumerate() {
            if is_last.as_ref().is_some_and(|is_last| !is_last[i]) {
                continue;
            }
            let (key, bytes, space) = (*key, key.bytes, spaces.keyspace(op.scope));
            let value = batch.value(op);
            let mut entry = BatchEntry { space, key, kind: OpKind::Delete, value, blob: None };
            if !op.is_delete {
                terms.purpose = purpose_of_put;
                entry.kind = OpKind::Put;
                if value.len() > self.inline_value_bytes_max {
                    entry.kind = OpKind::PutBlob;
                    let (rest, blob) = in_flight.and(self.write_blob(space.id(), bytes, value)?).split();
                    in_flight = rest;
                    entry.blob = Some(blob);
                }
            }
            entries.push(entry);
        }
        if entries.iter().any(|entry| entry.blob.is_some()) {
            self.drain_blobs(in_flight)?;
        }
        if entries.len() == 1 {
            // The stamp of several exceeds all others as it is.
            terms.above = terms.above.max(self.oplog.newest_seq_seen());
        }
        Ok((entries, terms))
    }

    /// The batch is in the log: its blobs are kept, and its operations counted, once however often it had to wait for room.
    fn settle_entries(&self, entries: Vec<BatchEntry<'_, I>>) {
        for entry in entries {
            match entry.kind {
                OpKind::Delete => self.counters.delete(),
                OpKind::Put | OpKind::PutBlob => self.counters.put(entry.key.bytes.len() + entry.value.len()),
            }
            if let Some(blob) = entry.blob {
                blob.keep();
            }
        }
    }

    /// The batch as one frame, if it fits one.
    fn batch_frame(&self, entries: &[BatchEntry<'_, I>]) -> Option<(FrameBuilder, Vec<u32>)> {
        let bytes: u64 = entries.iter().map(entry_bytes_max).sum::<u64>() + FRAME_HEADER_BYTES as u64 + 64;
        if entries.len() > FRAME_OPS_MAX || bytes > self.oplog.frame_bytes_max(entries.len() as u64) {
            return None;
        }
        let mut frame = FrameBuilder::with_room(FrameKind::Batch, entries.len(), bytes);
        entries.iter().for_each(|entry| {
            frame.push(&entry.spec());
        });
        Some((frame, short_hashes(entries)))
    }

    /// Writes a batch that exceeds a frame: parts, then the commit that makes them count, all in one log.
    fn write_large(&self, entries: &[BatchEntry<'_, I>], terms: &Terms) -> Result<()> {
        let written =
            self.committer.with_log(self, |oplog, state| self.write_parts(oplog, state, entries, terms))?;
        let seq = written.first().map_or(Seq::ZERO, |written| written.seq);
        self.publish_entries(entries, seq, |at| Publishable::from_batch(written[at]));
        Ok(())
    }

    /// Writes parts and commit into slots that are taken beforehand: a batch that stopped half way would change nothing that
    /// anybody sees, but its parts would fill the pool.
    fn write_parts(
        &self,
        oplog: &OpLog,
        state: &mut LogState,
        entries: &[BatchEntry<'_, I>],
        terms: &Terms,
    ) -> Result<Vec<Written>> {
        let counts = self.split_into_parts(entries)?;
        // Each part may need a head of its own, and so may the commit; and the log's first head a slot that backs it.
        let needed = counts.len() + 1 + usize::from(!state.has_backed_head());
        let mut slots = self.space.take_slots(needed, terms.purpose)?;
        let written = self.place_parts(oplog, state, entries, &counts, terms, &mut slots);
        slots.into_iter().chain(state.spare.take()).for_each(|slot| self.space.return_slot(slot));
        written
    }

    fn place_parts(
        &self,
        oplog: &OpLog,
        state: &mut LogState,
        entries: &[BatchEntry<'_, I>],
        counts: &[usize],
        terms: &Terms,
        slots: &mut Vec<SegmentSlot>,
    ) -> Result<Vec<Written>> {
        let seq = oplog.take_seq(state, terms.above)?;
        let mut written = Vec::with_capacity(entries.len());
        let mut record = CommitRecord { batch: seq, parts: Vec::new() };
        let mut rest = entries;
        for count in counts {
            let (part, behind) = rest.split_at(*count);
            rest = behind;
            state.spare = state.spare.take().or_else(|| slots.pop());
            let mut frame = FrameBuilder::new(FrameKind::BatchPart);
            let offsets: Vec<u32> = part.iter().map(|entry| frame.push(&entry.spec())).collect();
            let placed = self.place_part(oplog, state, &mut frame, &short_hashes(part), terms, seq, false)?;
            written.extend(offsets.into_iter().map(|op_at| Written::at(&placed, op_at, true)));
            note_part(&mut record, &placed);
        }
        let mut frame = FrameBuilder::new(FrameKind::BatchCommit);
        frame.push_raw(&record.encode());
        state.spare = state.spare.take().or_else(|| slots.pop());
        let commit = self.place_part(oplog, state, &mut frame, &[], terms, seq, true)?;
        if terms.mode == WriteMode::Sync {
            oplog.commit(state, InFlight::nothing(commit), Site::BatchDrain)?.into_inner();
        }
        Ok(written)
    }

    #[allow(clippy::too_many_arguments, reason = "a part differs from its siblings in each of these")]
    fn place_part(
        &self,
        oplog: &OpLog,
        state: &mut LogState,
        frame: &mut FrameBuilder,
        hashes: &[u32],
        terms: &Terms,
        seq: Seq,
        last: bool,
    ) -> Result<Placed> {
        let purpose = terms.purpose;
        let terms = FrameTerms { hashes, above: Seq::ZERO, purpose, mode: terms.mode, last, seq: Some(seq) };
        oplog.place(state, frame, &terms).map(InFlight::left_undrained)
    }

    /// How many entries go into each part.
    fn split_into_parts(&self, entries: &[BatchEntry<'_, I>]) -> Result<Vec<usize>> {
        let mut counts = Vec::new();
        let mut rest = entries;
        while !rest.is_empty() {
            let count = self.entries_in_part(rest)?;
            counts.push(count);
            rest = &rest[count..];
        }
        Ok(counts)
    }

    /// How many of the entries fit the next part.
    fn entries_in_part(&self, entries: &[BatchEntry<'_, I>]) -> Result<usize> {
        let mut bytes = FRAME_HEADER_BYTES as u64 + 64;
        for (count, entry) in entries.iter().enumerate() {
            bytes += entry_bytes_max(entry);
            let max = self.oplog.frame_bytes_max(count as u64 + 1);
            if bytes > max || count == FRAME_OPS_MAX {
                if count == 0 {
                    return Err(Error::TooLarge { what: "operation", len: bytes, max });
                }
                return Ok(count);
            }
        }
        Ok(entries.len())
    }

    /// What the stamp of a new entry of the key must exceed, told by the segments that hold older ones: no entry is read.
    /// Their lines are asked for, so that they are there when the new one is in the log and [`Engine::publish_at`] reads
    /// them. With it the key's place in the index, for that.
    #[inline]
    pub(super) fn above(&self, space: &Keyspace<I>, key: Key<'_>, _guard: &epoch::Guard) -> (Seq, I::Spot) {
        work(Work::Look);
        let mut above = Seq::ZERO;
        // All that may be the key's: which one it is would have to be read.
        let spot = space.index.look(key, |addr| {
            self.reader.prefetch(&[addr]);
            above = above.max(self.newest_beside(addr));
            ControlFlow::Continue(())
        });
        (above, spot)
    }

    /// Whether the key's newest entry has a value.
    #[inline]
    fn has_value(&self, space: &Keyspace<I>, key: Key<'_>) -> bool {
        let _guard = epoch::pin();
        let kind = space.index.get(key, |addr| {
            let scratch = Scratch::new();
            let op = self.reader.op(addr, &scratch)?;
            (op.key() == key.bytes).then(|| op.kind())
        });
        kind.is_some_and(|kind| kind != OpKind::Delete)
    }

    /// The same before the keyspace is entered.
    #[inline]
    fn has_value_in(&self, scope: impl Scope<I>, key: &[u8]) -> Result<bool> {
        let _guard = epoch::pin();
        let space = scope.look(self)?;
        Ok(self.has_value(&space, space.key(key)))
    }

    /// True if an entry may be there that cannot be seen: damage found at open, or a page that cannot be read.
    #[inline]
    fn has_damage(&self) -> bool {
        !self.damage.is_empty() || self.reader.has_unreadable()
    }

    /// What a write must exceed so that it cures damage. Not under the lock of a log: asks all of them.
    #[inline]
    fn damage_bound(&self) -> Seq {
        if self.has_damage() { self.oplog.newest_seq() } else { Seq::ZERO }
    }
}

/// False if all keys are different; for few keys that takes little. Says nothing of many.
fn may_repeat(keys: &[Key<'_>]) -> bool {
    const SLOTS: usize = 256;
    if keys.len() > SLOTS / 2 {
        return true;
    }
    // Numbers of keys, from one on, by their hashes.
    let mut slots = [0_u8; SLOTS];
    for (number, key) in (1..).zip(keys) {
        let mut at = key.hash as usize % SLOTS;
        while slots[at] != 0 {
            if keys[usize::from(slots[at]) - 1].hash == key.hash {
                return true;
            }
            at = (at + 1) % SLOTS;
        }
        slots[at] = number;
    }
    false
}

/// Whether each key is the last of those that are equal, in the keyspace that `keyspace_of` tells.
fn last_of_each(keys: &[Key<'_>], keyspace_of: impl Fn(usize) -> KeyspaceId) -> Vec<bool> {
    let mut is_last = vec![true; keys.len()];
    let mut last: HashTable<usize> = HashTable::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let is_same =
            |other: &usize| keys[*other].bytes == key.bytes && keyspace_of(*other) == keyspace_of(i);
        match last.entry(key.hash, is_same, |other| keys[*other].hash) {
            Entry::Occupied(mut entry) => is_last[std::mem::replace(entry.get_mut(), i)] = false,
            Entry::Vacant(entry) => {
                entry.insert(i);
            }
        }
    }
    is_last
}

fn entry_bytes_max<I: Index>(entry: &BatchEntry<'_, I>) -> u64 {
    let value = entry.blob.as_ref().map_or(entry.value.len(), |blob| blob.descriptor.len());
    encoded_len_max(entry.key.bytes.len(), value)
}

fn short_hashes<I: Index>(entries: &[BatchEntry<'_, I>]) -> Vec<u32> {
    entries.iter().map(|entry| Filter::short_hash(entry.key.hash)).collect()
}

fn note_part(record: &mut CommitRecord, placed: &Placed) {
    match record.parts.last_mut() {
        Some(parts) if parts.segment == placed.segment => {
            parts.bytes += placed.len;
            parts.checksum ^= placed.checksum;
        }
        _ => record.parts.push(PartsInSegment {
            segment: placed.segment,
            bytes: placed.len,
            checksum: placed.checksum,
        }),
    }
}
