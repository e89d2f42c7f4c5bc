//! Showing entries that are in the log to readers: the index leads to the newest one of each key, what loses is dead. Racing
//! writers of a key may publish in any order: the higher stamp stays, in memory as at recovery.
//!
//! Invariants:
//!   - before an entry is shown a stamp that is not below its own was settled (`oplog/order.rs`), and behind that the bound of
//!     versions read, and behind that the index; where what a look has seen before is exchanged (`write/plain.rs`), the bound that
//!     counts is one of before that look

use super::Engine;
use super::commit::{Publisher, Written};
use super::keyspace::Keyspace;
use super::look::{FETCH_GROUP, NO_KEY};
use super::write::BatchEntry;
use crate::checksum::CheckSite;
use crate::epoch;
use crate::format::{FrameBuilder, FrameKind, Op, OpKind, encoded_len_max};
use crate::index::{Candidate, Index, Key, Upsert};
use crate::media::durable::Publishable;
use crate::media::guarded::Scratch;
use crate::oplog::append::Placed;
use crate::sync::{Work, work};
use crate::types::{Addr, Seq};

impl<I: Index + 'static> Engine<I> {
    /// Shows an entry to readers, unless a newer one of its key is there. The key may have been looked at.
    #[inline]
    pub(super) fn publish_at(
        &self,
        space: &Keyspace<I>,
        spot: I::Spot,
        (new_kind, key): (OpKind, Key<'_>),
        written: Publishable<Written>,
    ) {
        let guard = epoch::pin();
        self.oplog.settle_stamp(written.get().seq);
        // Before the index is read: what is found there is the newest entry up to this stamp, or has a later one.
        let settled = self.versions.settled_bound();
        self.show(space, spot, (new_kind, key), written, settled, &guard);
    }

    /// The same for entries of one keyspace that were written together, at most [`FETCH_GROUP`]: the misses of their looks
    /// overlap. None of them has a stamp above `newest`; `written` tells of each key what was written.
    pub(super) fn publish_group(
        &self,
        space: &Keyspace<I>,
        keys: &[Key<'_>],
        newest: Seq,
        written: impl Fn(usize) -> (OpKind, Publishable<Written>),
    ) {
        if let [key] = keys {
            let (kind, written) = written(0);
            return self.publish_at(space, I::Spot::default(), (kind, *key), written);
        }
        let guard = epoch::pin();
        self.oplog.settle_stamp(newest);
        let settled = self.versions.settled_bound();
        let mut spots = [I::Spot::default(); FETCH_GROUP];
        self.find_spots(&space.index, keys, &mut spots);
        for (at, (key, spot)) in keys.iter().zip(spots).enumerate() {
            let (kind, written) = written(at);
            self.show(space, spot, (kind, *key), written, settled, &guard);
        }
    }

    /// Shows the entries of a batch, which share their stamp.
    pub(super) fn publish_entries(
        &self,
        entries: &[BatchEntry<'_, I>],
        seq: Seq,
        written: impl Fn(usize) -> Publishable<Written>,
    ) {
        let runs = entries.chunk_by(|one, other| std::ptr::eq(one.space, other.space));
        let mut done = 0;
        for group in runs.flat_map(|run| run.chunks(FETCH_GROUP)) {
            let mut keys = [NO_KEY; FETCH_GROUP];
            keys.iter_mut().zip(group).for_each(|(key, entry)| *key = entry.key);
            let written = |at: usize| (group[at].kind, written(done + at));
            self.publish_group(group[0].space, &keys[..group.len()], seq, written);
            done += group.len();
        }
    }

    /// Shows operations of one keyspace, at most [`FETCH_GROUP`], each with its place in the frame.
    fn publish_ops(&self, ops: &[(u32, Op<'_>)], kind: FrameKind, newest: Seq, placed: &Publishable<Placed>) {
        let Some((_, first)) = ops.first() else { return };
        // Who drops a keyspace waits for what was accepted before.
        let space = self.keyspace(first.keyspace()).expect("it is registered as long as entries of it come");
        let mut keys = [NO_KEY; FETCH_GROUP];
        keys.iter_mut().zip(ops).for_each(|(key, (_, op))| *key = space.key(op.key()));
        self.publish_group(&space, &keys[..ops.len()], newest, |at| {
            let (op_at, op) = &ops[at];
            let written = placed.as_ref().map(|placed| Written::at(placed, *op_at, kind.shares_seq()));
            (op.kind(), written)
        });
    }

    /// Shows an entry whose stamp is settled; `settled` is the bound of versions before the key was looked at.
    #[inline(never)]
    pub(super) fn show(
        &self,
        space: &Keyspace<I>,
        spot: I::Spot,
        (new_kind, key): (OpKind, Key<'_>),
        written: Publishable<Written>,
        settled: Seq,
        guard: &epoch::Guard,
    ) {
        work(Work::Publish);
        let new = *written.get();
        if new_kind == OpKind::Delete {
            // The cleaner has to know of tombstones, to let go of them; and scans, once they see the mark.
            self.noted.add(key.hash, new.seq, encoded_len_max(key.bytes.len(), 0));
        }
        let mut older = None;
        let upsert = space.index.upsert_at(spot, key, written.map(|written| written.addr), |known| {
            let scratch = Scratch::new();
            let Some(op) = self.reader.op(known, &scratch).filter(|op| op.key() == key.bytes) else {
                return Candidate::OtherKey;
            };
            older = Some((op.kind(), op.footprint_bytes()));
            self.judge_and_keep(key.hash, (known, &op), new, settled)
        });
        match upsert {
            Upsert::Inserted => {}
            Upsert::Replaced(dead) => {
                let (kind, bytes) = older.expect("what is replaced was judged");
                self.bury(dead, kind, bytes, new.addr, guard);
            }
            Upsert::Lost(winner) => return self.bury_unseen(new.addr, winner, guard),
        }
        if new_kind == OpKind::Delete {
            space.index.mark_tombstone(key, new.addr);
        }
    }

    /// The entry of `bytes` at `addr` does not count any more.
    #[inline]
    pub(super) fn note_dead(&self, addr: Addr, kind: OpKind, bytes: u64) {
        let info = self.space.table().slot(self.space.geometry().slot_of_addr(addr));
        info.add_dead(bytes);
        if kind == OpKind::Delete {
            info.remove_tombstone(bytes);
        }
    }

    /// Accounts for an entry of `bytes` that no key points at any more, because of the entry at `by`.
    #[inline]
    fn bury(&self, dead: Addr, kind: OpKind, bytes: u64, by: Addr, guard: &epoch::Guard) {
        self.note_dead(dead, kind, bytes);
        if kind == OpKind::PutBlob {
            self.bury_blob(dead, by, guard);
        }
    }

    /// A new entry that is older than what is known already.
    #[cold]
    fn bury_unseen(&self, dead: Addr, by: Addr, guard: &epoch::Guard) {
        let scratch = Scratch::new();
        let Some(op) = self.reader.op(dead, &scratch) else { return };
        self.bury(dead, op.kind(), op.footprint_bytes(), by, guard);
    }

    #[inline(never)]
    fn bury_blob(&self, dead: Addr, by: Addr, guard: &epoch::Guard) {
        let scratch = Scratch::new();
        let Some(op) = self.reader.op(dead, &scratch) else { return };
        // A descriptor that rotted since names anybody's extents: those of the real one stay in use until the next open.
        if op.kind() == OpKind::PutBlob && self.reader.verify(dead, &op, CheckSite::EntryOnGet) {
            self.retire_blob(dead, op.value(), by, guard);
        }
    }
}

impl<I: Index + 'static> Publisher for Engine<I> {
    fn publish_frame(&self, frame: &FrameBuilder, op_ats: &[u32], placed: Publishable<Placed>) {
        let (kind, newest) = (frame.kind(), frame.last_seq(placed.get().base_seq));
        let mut group: Vec<(u32, Op<'_>)> = Vec::with_capacity(FETCH_GROUP.min(op_ats.len()));
        for op_at in op_ats {
            // As it lies in memory: what went past the caches would have to come back.
            let op = frame.op(*op_at);
            let is_of_group = |(_, first): &(u32, Op<'_>)| first.keyspace() == op.keyspace();
            if group.len() == FETCH_GROUP || !group.first().is_none_or(is_of_group) {
                self.publish_ops(&group, kind, newest, &placed);
                group.clear();
            }
            group.push((*op_at, op));
        }
        self.publish_ops(&group, kind, newest, &placed);
    }
}
