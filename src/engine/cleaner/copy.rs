//! Moving what counts: victim -> survivor segment -> index.

use super::super::Engine;
use super::policy::STREAMS_MAX;
use super::{CleanerCounters, Victim, Work};
use crate::checksum::CheckSite;
use crate::constants::FRAME_OPS_MAX;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{
    CommitRecord, Filter, FrameBuilder, FrameKind, Op, OpKind, OpSpec, encoded_len_max, keyspace_len_max,
};
use crate::index::{Index, Key};
use crate::media::Site;
use crate::media::durable::{Durable, InFlight};
use crate::oplog::survivor::Movers;
use crate::space::Purpose;
use crate::space::table::SlotState;
use crate::types::{Addr, KeyspaceId, SegmentId, SegmentSlot, Seq};
use std::collections::HashSet;

/// Survivor frames end about here: large enough that headers do not count.
pub(super) const FRAME_BYTES_MAX: u64 = 64 << 10;
/// Entries that are moved in the index under one guard.
const RELOCATE_GROUP: usize = 64;

/// An entry on its way.
struct Move<S> {
    /// Which victim, and where in it.
    victim: usize,
    at: u32,
    hash: u64,
    seq: Seq,
    keyspace: KeyspaceId,
    /// Where the index has its key.
    spot: S,
    /// Where it went: first in the frame, then in the pool.
    to: u64,
    to_bytes: u64,
}

/// The frame that is being filled.
struct Copier<'e, I: Index> {
    engine: &'e Engine<I>,
    work: &'e mut Work,
    frame: FrameBuilder,
    movers: Movers,
    moves: Vec<Move<I::Spot>>,
    /// Moves whose frame is placed.
    placed: usize,
    /// Where frames go, as long as there is room.
    stream: usize,
    /// Streams with frames that no mark covers.
    unmarked: [bool; STREAMS_MAX],
}

impl<I: Index + 'static> Engine<I> {
    /// Moves what counts in the victims. Returns those that nothing counts in any more.
    pub(super) fn move_live_entries(
        &self,
        work: &mut Work,
        victims: &[Victim<I::Spot>],
    ) -> Result<Vec<(SegmentSlot, SegmentId)>> {
        self.stamp_survivors(work);
        let mut copier = Copier {
            engine: self,
            work,
            frame: FrameBuilder::new(FrameKind::Survivor),
            movers: Movers::default(),
            moves: Vec::new(),
            placed: 0,
            stream: 0,
            unmarked: [false; STREAMS_MAX],
        };
        let mut emptied = Vec::with_capacity(victims.len());
        for (number, victim) in victims.iter().enumerate() {
            if copier.copy_victim(number, victim)? {
                emptied.push((victim.slot, victim.id));
            }
        }
        let moves = copier.finish()?;
        self.relocate(work, victims, &moves)?;
        Ok(emptied)
    }

    /// Tells the index; what was overwritten meanwhile stays as it is.
    fn relocate(
        &self,
        work: &mut Work,
        victims: &[Victim<I::Spot>],
        moves: &Durable<Vec<Move<I::Spot>>>,
    ) -> Result<()> {
        let count = moves.get().len();
        for group in (0..count).step_by(RELOCATE_GROUP) {
            let _guard = epoch::pin();
            let group = group..count.min(group + RELOCATE_GROUP);
            for one in &moves.get()[group.clone()] {
                if let Some(space) = self.keyspace(one.keyspace) {
                    space.index.prefetch_spot(one.spot, one.hash);
                }
            }
            for number in group {
                let one = moves.as_ref().map(|moves| &moves[number]);
                self.relocate_one(work, &victims[one.get().victim], one)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn relocate_one(
        &self,
        work: &mut Work,
        victim: &Victim<I::Spot>,
        one: Durable<&Move<I::Spot>>,
    ) -> Result<()> {
        let geometry = self.space.geometry();
        let Move { at, hash, seq, keyspace, spot, to, to_bytes, .. } = **one.get();
        let op = self.moved_op(victim, at)?;
        let from = Addr::from_offset(geometry.offset_of(victim.slot) + u64::from(at));
        let new = Addr::from_offset(to);
        if op.kind() == OpKind::PutBlob {
            self.limbo.entry_moves(from, new);
        }
        let key = Key { bytes: op.key(), hash };
        let space = self.keyspace(keyspace);
        if space.is_some_and(|space| space.index.relocate(spot, key, from, one.map(|_| new))) {
            if op.kind() == OpKind::Delete {
                let segment = self.space.table().slot(geometry.slot_of_addr(new)).id();
                work.tombstones.note_move(hash, seq, new, segment);
            }
            self.note_dead(from, op.kind(), op.footprint_bytes());
        } else {
            self.note_dead(new, op.kind(), to_bytes);
        }
        Ok(())
    }

    fn moved_op<'a, S>(&'a self, victim: &'a Victim<S>, at: u32) -> Result<Op<'a>> {
        Op::decode(&self.bytes_of(victim)[at as usize..]).ok_or_else(|| self.lost(victim, at))
    }

    /// Bytes that verified a moment ago do not any more.
    #[cold]
    fn lost<S>(&self, victim: &Victim<S>, at: u32) -> Error {
        let offset = self.space.geometry().offset_of(victim.slot) + u64::from(at);
        self.poisoned_cleaning(self.reader.corrupted(Addr::from_offset(offset)))
    }

    /// The stamp of the next survivor frame: above every stamp that was given, so above the frames that are copied from.
    pub(super) fn stamp_survivors(&self, work: &mut Work) {
        work.stamp = work.stamp.max(self.oplog.newest_seq()).step(1);
    }

    /// Says of the streams with new frames that these are durable.
    pub(super) fn mark_survivors(&self, work: &mut Work, unmarked: [bool; STREAMS_MAX]) -> Result<()> {
        for (head, _) in work.survivors.iter_mut().zip(unmarked).filter(|(_, unmarked)| *unmarked) {
            let bytes = self.oplog.mark_survivor(head.as_mut().expect("frames went there"), work.stamp)?;
            CleanerCounters::add(&self.cleaner.counters.bytes_written, bytes);
        }
        Ok(())
    }

    /// Seals the stream's survivor segment, if there is one, and opens another one in `slot`.
    pub(super) fn open_survivor(&self, work: &mut Work, stream: usize, slot: SegmentSlot) -> Result<()> {
        if let Some(full) = work.survivors[stream].take() {
            self.oplog.seal_survivor(&full)?;
        }
        let opened = self.oplog.open_survivor(slot);
        let head = opened.map_err(|error| self.poisoned_cleaning(error))?;
        work.decay.note_stream(slot, head.id(), stream);
        work.survivors[stream] = Some(head);
        work.opened += 1;
        Ok(())
    }

    /// Segments that are still there for a digest to list, but this one.
    fn segments_besides(&self, own: SegmentId) -> HashSet<SegmentId> {
        let table = self.space.table();
        let all = (0..self.space.slot_count()).map(|slot| table.slot(SegmentSlot(slot)));
        all.filter(|info| info.state() != SlotState::Free)
            .map(|info| info.id())
            .filter(|id| *id != own)
            .collect()
    }
}

impl<I: Index + 'static> Copier<'_, I> {
    /// Copies what counts in one victim; false if it has to stay, because a byte of it changed or there is no room.
    fn copy_victim(&mut self, number: usize, victim: &Victim<I::Spot>) -> Result<bool> {
        let engine = self.engine;
        let bytes = engine.bytes_of(victim);
        let base = engine.space.geometry().offset_of(victim.slot);
        let info = engine.space.table().slot(victim.slot);
        let stream = self.stream_for(victim.stream);
        if stream != self.stream {
            self.write_frame()?;
            self.stream = stream;
        }
        if !self.copy_commits(victim)? {
            return Ok(false);
        }
        for live in &victim.live {
            let op = Op::decode(&bytes[live.at as usize..]);
            // Frames were verified when they were read; this is what is copied.
            let verifies =
                |op: &Op<'_>| op.verify(CheckSite::EntryOnScan, info.seed(), base + u64::from(live.at));
            let Some(op) = op.filter(verifies) else {
                info.quarantine();
                return Ok(false);
            };
            let needed = encoded_len_max(op.key().len(), op.value().len()) + keyspace_len_max(op.keyspace());
            if !self.make_room(needed, 1)? {
                return Ok(false);
            }
            let age = self.work.stamp.distance_to(live.seq);
            let spec = OpSpec {
                kind: op.kind(),
                key: op.key(),
                value: op.value(),
                moved: Some(age),
                keyspace: op.keyspace(),
            };
            let to = self.frame.push(&spec);
            let to_bytes = u64::from(self.frame.next_op_at() - to);
            self.moves.push(Move {
                victim: number,
                at: live.at,
                hash: live.hash,
                seq: live.seq,
                keyspace: op.keyspace(),
                spot: live.spot,
                to: u64::from(to),
                to_bytes,
            });
            self.movers.hashes.push(Filter::short_hash(live.hash));
            self.movers.seqs.push(live.seq);
        }
        Ok(true)
    }

    /// A commit counts as long as a segment that it lists does: without it the parts there would never have been.
    fn copy_commits(&mut self, victim: &Victim<I::Spot>) -> Result<bool> {
        if victim.commits.is_empty() {
            return Ok(true);
        }
        let others = self.engine.segments_besides(victim.id);
        let counts = |record: &&CommitRecord| record.parts.iter().any(|part| others.contains(&part.segment));
        for record in victim.commits.iter().filter(counts) {
            self.write_frame()?;
            let mut frame = FrameBuilder::new(FrameKind::BatchCommit);
            frame.push_raw(&record.encode());
            if !self.make_room(frame.len_bytes(), 0)? {
                return Ok(false);
            }
            self.append(frame, Movers::default())?;
        }
        Ok(true)
    }

    /// Sees that the survivor segment takes so much more behind the frame that is being filled; false if the pool has no
    /// slot for another one.
    fn make_room(&mut self, bytes: u64, entries: usize) -> Result<bool> {
        loop {
            let filled = self.frame.len_bytes();
            let total = filled + bytes;
            let count = self.frame.op_count() + entries;
            let is_frame = self.frame.op_count() == 0 || (total <= FRAME_BYTES_MAX && count <= FRAME_OPS_MAX);
            if is_frame && self.fits(self.stream, total, count) {
                return Ok(true);
            }
            if self.frame.op_count() > 0 {
                self.write_frame()?;
                continue;
            }
            let slot = match self.engine.space.take_slot(Purpose::Survivor) {
                Ok(slot) => slot,
                // Also if the pool could not grow: nothing was changed, and a sync that failed has poisoned the store.
                Err(_) => match (0..STREAMS_MAX).find(|stream| self.fits(*stream, total, count)) {
                    Some(stream) => {
                        self.stream = stream;
                        return Ok(true);
                    }
                    None => return Ok(false),
                },
            };
            self.open_survivor(slot)?;
        }
    }

    fn fits(&self, stream: usize, bytes: u64, entries: usize) -> bool {
        let head = self.work.survivors[stream].as_ref();
        head.is_some_and(|head| self.engine.oplog.fits_survivor(head, bytes, entries))
    }

    /// The stream itself, or another one that is open if it would have to be opened from the reserve: that is for deletes and
    /// for filling what is open already.
    fn stream_for(&self, stream: usize) -> usize {
        let is_open = |stream: &usize| self.work.survivors[*stream].is_some();
        let space = &self.engine.space;
        if is_open(&stream) || space.available(Purpose::Put) + space.growable_slots() > 0 {
            return stream;
        }
        (0..STREAMS_MAX).find(is_open).unwrap_or(stream)
    }

    /// Seals the stream's segment and opens another one in `slot`.
    fn open_survivor(&mut self, slot: SegmentSlot) -> Result<()> {
        // A seal says what a mark would.
        self.unmarked[self.stream] = false;
        self.engine.open_survivor(self.work, self.stream, slot)
    }

    /// Places the frame that is being filled, if there is anything in it.
    fn write_frame(&mut self) -> Result<()> {
        if self.frame.op_count() == 0 {
            return Ok(());
        }
        let frame = std::mem::replace(&mut self.frame, FrameBuilder::new(FrameKind::Survivor));
        let movers = std::mem::take(&mut self.movers);
        let offset = self.append(frame, movers)?;
        self.moves[self.placed..].iter_mut().for_each(|one| one.to += offset);
        self.placed = self.moves.len();
        Ok(())
    }

    fn append(&mut self, mut frame: FrameBuilder, movers: Movers) -> Result<u64> {
        assert_eq!(self.frame.op_count(), 0, "ages count from the base of the frame that is being filled");
        let counters = &self.engine.cleaner.counters;
        CleanerCounters::add(&counters.entries_moved, movers.hashes.len() as u64);
        let head = self.work.survivors[self.stream].as_mut().expect("room was made");
        let written = self.engine.oplog.append_survivor(head, &mut frame, &movers, self.work.stamp)?;
        self.work.stamp = self.work.stamp.step(1);
        self.unmarked[self.stream] = true;
        let placed = written.left_undrained();
        CleanerCounters::add(&counters.bytes_written, placed.len);
        Ok(placed.offset)
    }

    /// Makes the copies durable.
    fn finish(mut self) -> Result<Durable<Vec<Move<I::Spot>>>> {
        self.write_frame()?;
        let moves = InFlight::nothing(std::mem::take(&mut self.moves));
        let drained = moves.drain(&*self.engine.media, Site::SurvivorDrain);
        let moves = drained.map_err(|error| self.engine.poisoned_cleaning(error))?;
        self.engine.mark_survivors(self.work, self.unmarked)?;
        Ok(moves)
    }
}
