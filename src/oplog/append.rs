//! Appending. Invariants of a head:
//!   - durable_end <= tail; everything below durable_end is on the medium
//!   - the tail is a multiple of 64, and of the append alignment whenever everything is durable, so that no flush
//!     rewrites a sector that holds acknowledged bytes
//!   - behind the tail there is always room for a close mark, the filter and the footer
//!   - stamps of a log increase with its offsets

mod plain;

use super::OpLog;
use crate::constants::CACHE_LINE_BYTES;
use crate::error::{Error, Result};
use crate::format::{FOOTER_BYTES, FrameBuilder, FrameKind, filter_len};
use crate::media::Site;
use crate::media::durable::{Dirty, Durable, InFlight};
use crate::space::{Purpose, Space};
use crate::sync::Ordering;
use crate::types::{LogId, MediaRange, SegmentId, SegmentSlot, Seq};

/// The segment a log is appended to.
#[derive(Debug)]
pub struct Head {
    pub(super) slot: SegmentSlot,
    pub(super) id: SegmentId,
    /// Pool offset of the segment.
    pub(super) base: u64,
    /// Where the frames begin.
    start: u32,
    pub(super) tail: u32,
    pub(super) durable_end: u32,
    /// Written past the caches or not at all below here; dirty from here to the tail.
    dirty_from: Option<u32>,
    /// Short hashes of the keys of all entries, for the filter.
    pub(super) hashes: Vec<u32>,
    pub(super) min_seq: Seq,
    pub(super) max_seq: Seq,
    /// The newest frame is a mark: nothing that an idle log would have to prove.
    marked: bool,
    /// Counts although it may hold no entry: damage, or the commit of a batch whose parts lie elsewhere.
    indispensable: bool,
    /// Empty, and no slot is kept for the head that recovery would replace it by: that one would be empty, too. Its first
    /// entry must find one free.
    unbacked: bool,
    /// Not all of its keys are known.
    damaged: bool,
}

impl Head {
    pub(super) fn empty(log: &OpLog, slot: SegmentSlot, id: SegmentId, body_start: u32) -> Head {
        Head {
            slot,
            id,
            base: log.space.geometry().offset_of(slot),
            start: body_start,
            tail: body_start,
            durable_end: body_start,
            dirty_from: None,
            hashes: Vec::new(),
            min_seq: Seq(u64::MAX),
            max_seq: Seq::ZERO,
            marked: true,
            indispensable: false,
            unbacked: false,
            damaged: false,
        }
    }

    /// A head as recovery found it, its bytes up to `tail` durable.
    #[allow(clippy::too_many_arguments, reason = "what a scan found, in one place")]
    pub fn recovered(
        log: &OpLog,
        slot: SegmentSlot,
        id: SegmentId,
        start: u32,
        tail: u32,
        hashes: Vec<u32>,
        min_seq: Seq,
        max_seq: Seq,
        indispensable: bool,
        damaged: bool,
    ) -> Head {
        let mut head = Head::empty(log, slot, id, tail);
        head.start = start;
        head.hashes = hashes;
        head.min_seq = min_seq;
        head.max_seq = max_seq.min(Seq::LAST);
        head.indispensable = indispensable;
        head.unbacked = head.hashes.is_empty() && !indispensable;
        head.damaged = damaged;
        head
    }

    pub(super) fn mark_unbacked(&mut self) {
        self.unbacked = true;
    }

    /// Its slot.
    pub fn slot(&self) -> SegmentSlot {
        self.slot
    }

    /// Its identity.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    pub(super) fn start(&self) -> u32 {
        self.start
    }

    /// Where the next frame goes.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    pub(super) fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    pub(super) fn min_seq(&self) -> Seq {
        self.min_seq
    }

    pub(super) fn max_seq(&self) -> Seq {
        self.max_seq
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    pub(super) fn is_indispensable(&self) -> bool {
        self.indispensable
    }

    /// True if an open may go on appending to the head. Not if it was closed so often that it has no room for another
    /// pair of marks, nor if a medium with smaller units left its tail where this one must not append.
    pub fn can_be_resumed(&self, log: &OpLog) -> bool {
        u64::from(self.tail).is_multiple_of(log.align_bytes) && self.fits(log, 0, 0)
    }

    /// True if `bytes` more with `entries` more still leave room for a close mark, filter and footer.
    #[inline]
    fn fits(&self, log: &OpLog, bytes: u64, entries: usize) -> bool {
        let needed = u64::from(self.tail)
            + bytes
            + 3 * log.align_bytes
            + filter_len((self.hashes.len() + entries) as u64)
            + FOOTER_BYTES;
        needed <= log.space.geometry().segment_size_bytes
    }
}

/// What the lock of a log protects.
#[derive(Debug)]
pub struct LogState {
    id: LogId,
    head: Option<Head>,
    last_seq: Seq,
    /// Bytes appended since open, over all segments.
    position: u64,
    closed: bool,
    /// A slot claimed beforehand for the next roll: what was accepted asynchronously must not meet a full pool.
    pub(crate) spare: Option<SegmentSlot>,
    /// For writers that frame alone: taken and given back.
    pub(crate) scratch: Option<Box<FrameBuilder>>,
}

/// Where a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Pool offset of the frame.
    pub offset: u64,
    /// Stamp of its first operation.
    pub base_seq: Seq,
    /// Segment it lies in.
    pub segment: SegmentId,
    /// The frame's 64-bit checksum.
    pub checksum: u64,
    /// Its length.
    pub len: u64,
}

/// How a frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// To be drained before it is acknowledged.
    Sync,
    /// Left in caches: an `os` write.
    Os,
}

/// What a frame needs besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameTerms<'a> {
    /// Short hashes of its keys.
    pub hashes: &'a [u32],
    /// The newest stamp that it must exceed: of the entries it replaces.
    pub above: Seq,
    /// How deep into the reserve a roll may reach.
    pub purpose: Purpose,
    /// How it is written.
    pub mode: WriteMode,
    /// The last frame before a drain: padded so that the next one starts in a sector of its own.
    pub last: bool,
    /// Stamp given beforehand: the parts and the commit of a large batch share it.
    pub seq: Option<Seq>,
}

impl LogState {
    pub(super) fn new(id: LogId) -> Self {
        LogState {
            id,
            head: None,
            last_seq: Seq::ZERO,
            position: 0,
            closed: false,
            spare: None,
            scratch: None,
        }
    }

    /// The log's id.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The newest stamp the log gave.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Bytes appended since open.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(super) fn replace_head(&mut self, head: Head) {
        self.head = Some(head);
    }

    /// Recovery: continue with a head that was closed cleanly.
    pub fn resume(&mut self, head: Head) {
        assert!(self.head.is_none(), "a log is resumed once");
        self.head = Some(head);
    }

    /// The head's slot, and where its frames lie now.
    pub fn head_range(&self) -> Option<(SegmentSlot, (u32, u32))> {
        self.head.as_ref().map(|head| (head.slot, (head.start, head.tail)))
    }

    /// The first entry of the head, which was just rolled, has to find the reserve refilled.
    pub(super) fn back_before_use(&mut self, space: &Space) {
        let head = self.head.as_mut().expect("it was just rolled");
        if !std::mem::replace(&mut head.unbacked, true) {
            space.remove_backed_head();
        }
    }

    /// True if recovery would have to replace the head by one that stays.
    pub fn has_backed_head(&self) -> bool {
        self.head.as_ref().is_some_and(|head| !head.unbacked)
    }

    /// Slots that a group of writes may take: a roll's, and one that backs a head if none is backed. A head without a frame
    /// takes the whole group.
    pub fn slots_for_a_group(&self) -> usize {
        let is_enough = |head: &Head| !head.unbacked || head.tail == head.start;
        if self.head.as_ref().is_some_and(is_enough) { 1 } else { 2 }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// True if bytes were appended that no later mark proves durable.
    pub fn needs_mark(&self) -> bool {
        self.head.as_ref().is_some_and(|head| !head.marked)
    }

    /// True if there are bytes that no drain covered yet.
    pub fn is_dirty(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.durable_end < head.tail)
    }
}

/// Bytes of a log that are drained while others append behind them.
#[derive(Debug)]
pub struct BegunDrain {
    range: MediaRange,
    head: SegmentId,
    /// Where they end in the head, and in the log.
    tail: u32,
    position: u64,
}

/// Refuses stamps that no decoder accepts.
#[inline]
fn check_stamp(last: Seq) -> Result<()> {
    if last < Seq::END {
        return Ok(());
    }
    // Only a forged pool comes to that.
    Err(Error::Unsupported("the log has used up its stamps".into()))
}

impl OpLog {
    /// Reserves the next stamp of the log for a batch whose parts share it.
    ///
    /// # Errors
    /// `Unsupported`: the log has used up its stamps.
    pub fn take_seq(&self, state: &mut LogState, above: Seq) -> Result<Seq> {
        let seq = self.next_seq_of_many(state, above);
        check_stamp(seq)?;
        self.note_stamp(state, seq);
        Ok(seq)
    }

    #[inline]
    fn note_stamp(&self, state: &mut LogState, newest: Seq) {
        state.last_seq = newest;
        self.logs[state.id.0 as usize].newest_seq.store(newest.0, Ordering::Release);
    }

    #[inline]
    pub(super) fn next_seq(&self, state: &LogState, above: Seq) -> Seq {
        state.last_seq.max(self.floor()).max(above).next_in(state.id)
    }

    /// Appends a frame behind everything the log holds, rolling the head if it does not fit. The frame is written, not
    /// drained: see [`OpLog::commit`].
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `Poisoned`, `Closed`, `Unsupported` (no stamps left), `Io` from a growth that failed: nothing
    /// was changed. Any other `Io` poisons the store.
    #[inline]
    pub fn place(
        &self,
        state: &mut LogState,
        frame: &mut FrameBuilder,
        terms: &FrameTerms<'_>,
    ) -> Result<InFlight<Placed>> {
        self.check_poison()?;
        if state.closed {
            return Err(Error::Closed);
        }
        // What was accepted when there was room is not refused now.
        let is_promised = state.spare.is_some();
        let base_seq = terms.seq.unwrap_or_else(|| match frame.kind() {
            FrameKind::Batch if frame.op_count() > 1 => self.next_seq_of_many(state, terms.above),
            _ => self.next_seq(state, terms.above),
        });
        check_stamp(frame.last_seq(base_seq))?;
        let align =
            if terms.last && terms.mode == WriteMode::Sync { self.align_bytes } else { CACHE_LINE_BYTES };
        let tail = state.head.as_ref().map_or(0, |head| head.tail);
        let mut pad = self.padding(tail, frame.len_bytes(), align);
        if !state
            .head
            .as_ref()
            .is_some_and(|head| head.fits(self, frame.len_bytes() + pad, terms.hashes.len()))
        {
            self.make_room(state, frame, terms)?;
            let tail = state.head.as_ref().map_or(0, |head| head.tail);
            pad = self.padding(tail, frame.len_bytes(), align);
        }
        if let Some(head) = state.head.as_mut().filter(|head| head.unbacked) {
            // One of the slots that were claimed beforehand backs the head: it is given back when the write is done.
            if is_promised {
                self.space.add_backed_heads(1);
            } else {
                self.space.back_head(terms.purpose)?;
            }
            head.unbacked = false;
        }
        self.write_frame(state, frame, terms, base_seq, pad).map_err(|error| self.poison_with(error))
    }

    #[inline]
    fn padding(&self, tail: u32, len: u64, align: u64) -> u64 {
        let end = u64::from(tail) + len;
        crate::format::align_up(end, align) - end
    }

    #[cold]
    fn make_room(&self, state: &mut LogState, frame: &FrameBuilder, terms: &FrameTerms<'_>) -> Result<()> {
        let entries = terms.hashes.len() as u64;
        let max = self.frame_bytes_max(entries);
        if frame.len_bytes() > max {
            return Err(Error::TooLarge { what: "operation", len: frame.len_bytes(), max });
        }
        self.roll(state, terms.purpose)
    }

    #[inline]
    fn write_frame(
        &self,
        state: &mut LogState,
        frame: &mut FrameBuilder,
        terms: &FrameTerms<'_>,
        base_seq: Seq,
        pad: u64,
    ) -> Result<InFlight<Placed>> {
        let last_seq = frame.last_seq(base_seq);
        let head = state.head.as_mut().expect("place made room");
        let info = self.space.table().slot(head.slot);
        let offset = head.base + u64::from(head.tail);
        let (ops, op_bytes) = (frame.op_count(), frame.op_bytes());
        frame.pad(pad);
        let bytes = frame.finish(info.seed(), offset, base_seq, head.durable_end);
        let placed = Placed {
            offset,
            base_seq,
            segment: head.id,
            checksum: crate::format::frame_checksum(bytes),
            len: bytes.len() as u64,
        };
        let written = match terms.mode {
            WriteMode::Sync => InFlight::write_through(&*self.media, offset, bytes, placed)?,
            WriteMode::Os => {
                let (_, placed) = Dirty::write_undrained(&*self.media, offset, bytes, placed)?.leave_dirty();
                head.dirty_from.get_or_insert(head.tail);
                InFlight::nothing(placed)
            }
        };
        info.add_tombstones(frame.tombstone_bytes());
        self.note_frame(state, &placed, (ops, op_bytes), last_seq, terms.hashes);
        Ok(written)
    }

    /// What is known of the log and its head behind a frame that was just written, with so many operations of so many bytes.
    #[inline(always)]
    fn note_frame(
        &self,
        state: &mut LogState,
        placed: &Placed,
        (ops, op_bytes): (usize, u64),
        last_seq: Seq,
        hashes: &[u32],
    ) {
        let head = state.head.as_mut().expect("it was just written to");
        head.tail += placed.len as u32;
        head.marked = false;
        head.hashes.extend_from_slice(hashes);
        if ops > 0 {
            head.min_seq = head.min_seq.min(placed.base_seq);
            head.max_seq = head.max_seq.max(last_seq);
        }
        self.space.table().slot(head.slot).add_entries(ops as u32, op_bytes, head.tail, last_seq);
        self.note_stamp(state, state.last_seq.max(last_seq));
        state.position += placed.len;
        self.logs[state.id.0 as usize].appended_position.store(state.position, Ordering::Release);
    }

    /// Makes everything that the log holds durable, what others left in caches included.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    #[inline]
    pub fn commit<T>(&self, state: &mut LogState, written: InFlight<T>, site: Site) -> Result<Durable<T>> {
        self.close_sector(state)?;
        self.flush_left_behind(state);
        let durable = written.drain(&*self.media, site).map_err(|error| self.poison_with(error))?;
        self.all_durable(state);
        Ok(durable)
    }

    #[inline]
    fn flush_left_behind(&self, state: &mut LogState) {
        if let Some(head) = &mut state.head
            && let Some(from) = head.dirty_from.take()
        {
            // A fence covers only what its own thread wrote back: so do that for whoever left bytes in the caches.
            let range = MediaRange::new(head.base + u64::from(from), u64::from(head.tail - from));
            let _in_flight = Dirty::adopt(range, ()).flush(&*self.media, Site::UndrainedFlush);
        }
    }

    /// Starts write-back of everything in the log: for the drain of this thread that follows.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`.
    pub(super) fn flush_all(&self, state: &mut LogState) -> Result<()> {
        self.check_poison()?;
        if state.is_dirty() {
            self.close_sector(state)?;
            self.flush_left_behind(state);
        }
        Ok(())
    }

    #[inline]
    pub(super) fn all_durable(&self, state: &mut LogState) {
        if let Some(head) = &mut state.head {
            head.durable_end = head.tail;
        }
        self.logs[state.id.0 as usize].durable_position.store(state.position, Ordering::Release);
    }

    /// Makes everything in the log durable; no drain if it is already. Ends a sector that `os` writes left open.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`.
    pub fn drain(&self, state: &mut LogState, site: Site) -> Result<()> {
        self.check_poison()?;
        if !state.is_dirty() {
            return Ok(());
        }
        self.commit(state, InFlight::nothing(()), site)?.into_inner();
        Ok(())
    }

    /// As [`OpLog::drain`] with the log's lock let go of while the medium works. The caller keeps others from freeing
    /// segments, so what is drained stays where it is.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`.
    pub fn drain_beside_writers(&self, log: usize) -> Result<()> {
        let begun = self.begin_drain(&mut self.lock(log))?;
        let Some(begun) = begun else { return Ok(()) };
        self.write_back(&begun)?;
        self.end_drain(&mut self.lock(log), &begun);
        Ok(())
    }

    /// Makes durable what was begun.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub fn write_back(&self, begun: &BegunDrain) -> Result<()> {
        let in_flight = Dirty::adopt(begun.range, ()).flush(&*self.media, Site::VictimFlush);
        let drained = in_flight.drain(&*self.media, Site::VictimDrain);
        drained.map_err(|error| self.poison_with(error))?.into_inner();
        Ok(())
    }

    /// What has to be drained, if anything. Until that is done all of it counts as left in caches: whoever drains meanwhile
    /// says that everything is durable, and so writes it back, too.
    pub fn begin_drain(&self, state: &mut LogState) -> Result<Option<BegunDrain>> {
        self.check_poison()?;
        if !state.is_dirty() {
            return Ok(None);
        }
        self.close_sector(state)?;
        let position = state.position;
        let head = state.head.as_mut().expect("something in it is dirty");
        let (from, tail) = (head.durable_end, head.tail);
        head.dirty_from = Some(from);
        let range = MediaRange::new(head.base + u64::from(from), u64::from(tail - from));
        Ok(Some(BegunDrain { range, head: head.id, tail, position }))
    }

    /// What a drain covered is durable. Others may have drained and rolled meanwhile, or left something behind it.
    pub fn end_drain(&self, state: &mut LogState, begun: &BegunDrain) {
        if let Some(head) = state.head.as_mut().filter(|head| head.id == begun.head) {
            head.durable_end = head.durable_end.max(begun.tail);
            let is_left = begun.tail < head.tail;
            head.dirty_from = head.dirty_from.map(|from| from.max(begun.tail)).filter(|_| is_left);
        }
        self.logs[state.id.0 as usize].durable_position.fetch_max(begun.position, Ordering::Release);
    }

    #[inline]
    fn close_sector(&self, state: &mut LogState) -> Result<()> {
        let Some(head) = &state.head else { return Ok(()) };
        if self.padding(head.tail, 0, self.align_bytes) == 0 {
            return Ok(());
        }
        self.append_mark(state, FrameKind::Mark)
    }

    /// Writes a mark to the end of the sector; there is always room for one.
    fn append_mark(&self, state: &mut LogState, kind: FrameKind) -> Result<()> {
        let mut frame = FrameBuilder::new(kind);
        let tail = state.head.as_ref().expect("only logs with a head are marked").tail;
        let pad = self.padding(tail, frame.len_bytes(), self.align_bytes);
        let terms = FrameTerms {
            hashes: &[],
            above: Seq::ZERO,
            purpose: Purpose::Internal,
            mode: WriteMode::Sync,
            last: true,
            seq: Some(state.last_seq),
        };
        let written = self.write_frame(state, &mut frame, &terms, state.last_seq, pad);
        written.map(|_in_flight| ()).map_err(|error| self.poison_with(error))
    }

    /// An idle log proves its newest frames durable, so that damage to them is told from a torn tail. Nothing is
    /// written if that was done, or if the head has no room to spare.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    pub fn mark_idle(&self, state: &mut LogState) -> Result<()> {
        if !state.needs_mark() || state.closed || self.check_poison().is_err() {
            return Ok(());
        }
        self.drain(state, Site::IdleDrain)?;
        let has_room = state.head.as_ref().is_some_and(|head| head.fits(self, self.align_bytes, 0));
        if has_room {
            self.append_mark(state, FrameKind::Mark)?;
            self.commit(state, InFlight::nothing(()), Site::MarkDrain)?.into_inner();
        }
        state.head.as_mut().expect("needs_mark").marked = true;
        Ok(())
    }

    /// Ends the log for this open: drains, and closes its head with two marks (of which one may rot). Later appends are
    /// refused. Says which head that is, and where the marks begin.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`.
    pub fn close_log(&self, state: &mut LogState) -> Result<Option<(SegmentId, u32)>> {
        self.check_poison()?;
        state.closed = true;
        if state.head.is_none() {
            return Ok(None);
        }
        self.drain(state, Site::CloseDrain)?;
        let end = state.head.as_ref().map(|head| (head.id, head.tail));
        for _ in 0..2 {
            self.append_mark(state, FrameKind::Close)?;
        }
        self.commit(state, InFlight::nothing(()), Site::CloseMarkDrain)?.into_inner();
        Ok(end)
    }

    /// Refuses appends without touching the medium: the store dies as if the process had.
    #[cfg(feature = "sim")]
    pub fn abandon(&self, state: &mut LogState) {
        state.closed = true;
    }

    #[cold]
    pub(super) fn poison_with(&self, error: Error) -> Error {
        self.poison(&error.to_string());
        error
    }
}
