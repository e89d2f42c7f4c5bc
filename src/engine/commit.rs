//! Who shares a drain: the one seam behind which commit policies live.
//!
//! A writer that finds its log free frames and drains alone (`lone`). Writers that meet stage their operations in one
//! group; the first of them leads: it waits for the log, takes everything that is staged by then, writes it as few frames,
//! drains once, and lets the others go (`grouped`: FlatStore's horizontal batching as leader and followers; while the
//! leader waits for the medium the next group fills). The published variant in which losers of the lock start another
//! round without waiting is claimed in US patent 11,269,772; here followers wait, and asynchronous writers do not race for a lock.
//!
//! Invariants:
//!   - a thread uses the lane of its own number, so its writes are in one log and in order; but for deletes from a full
//!     pool, whose stamps alone say what they delete
//!   - what is staged goes into the log before anything that comes later to the same lane
//!   - a group fits an empty segment, so it needs one roll at most

use super::tickets::Tickets;
use crate::constants::{CACHE_LINE_BYTES, FRAME_OPS_MAX, GROUP_BYTES_MAX};
use crate::epoch::{self, OpenSection};
use crate::error::{Error, Result};
use crate::format::{
    FRAME_HEADER_BYTES, FrameBuilder, FrameKind, OpSpec, SHORT_DISTANCE_END, align_up, encoded_len_max,
};
use crate::media::durable::{Durable, InFlight, Publishable};
use crate::media::{FlushGranularity, Site};
use crate::oplog::OpLog;
use crate::oplog::append::{FrameTerms, LogState, Placed, WriteMode};
use crate::options::CommitPolicy;
use crate::space::Purpose;
use crate::sync::{self, Arc, AtomicBool, Latch, Mutex, MutexGuard, Ordering, fence, thread_number};
use crate::types::{Addr, SegmentSlot, Seq};
use crossbeam_utils::CachePadded;

/// An entry that is in the log and may be published.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Where it is.
    pub addr: Addr,
    /// Its stamp.
    pub seq: Seq,
    /// The stamp of its frame.
    pub frame_seq: Seq,
}

impl Written {
    /// The entry that begins `op_at` bytes behind the start of a placed frame.
    pub fn at(placed: &Placed, op_at: u32, shares_seq: bool) -> Written {
        let steps = (u64::from(op_at) - FRAME_HEADER_BYTES as u64) / crate::constants::ENTRY_ALIGN_BYTES;
        let seq = if shares_seq { placed.base_seq } else { placed.base_seq.step(steps) };
        Written { addr: Addr::from_offset(placed.offset + u64::from(op_at)), seq, frame_seq: placed.base_seq }
    }
}

/// Publishes what nobody waits for: entries of asynchronous writes.
pub trait Publisher {
    /// Publishes the operations of a frame that begin at these places.
    fn publish_frame(&self, frame: &FrameBuilder, op_ats: &[u32], placed: Publishable<Placed>);
}

/// How a submission is made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The newest stamp it must exceed.
    pub above: Seq,
    /// How deep into the reserve it may reach.
    pub purpose: Purpose,
    /// Whether it waits for the medium.
    pub mode: WriteMode,
    /// The caller has just found its log in use.
    pub is_log_busy: bool,
}

struct StagedFrame {
    frame: FrameBuilder,
    hashes: Vec<u32>,
    above: Seq,
    purpose: Purpose,
    /// Where the operations begin that the leader publishes.
    asynchronous: Vec<u32>,
}

/// How often a follower looks before it sleeps, where a drain takes less than a sleeper's way back: about two microseconds,
/// some drains. On a disk it sleeps at once.
const FOLLOWER_LOOKS: u32 = 40;

/// What became of a group; set once, by its leader.
enum Outcome {
    Durable(Durable<Vec<Result<Placed>>>),
    Os(Vec<Result<Placed>>),
}

impl Outcome {
    fn of_frame(&self, frame: usize) -> Result<Publishable<Placed>> {
        match self {
            Outcome::Durable(placed) => match &placed.get()[frame] {
                Ok(_) => Ok(placed.as_ref().map(|placed| *placed[frame].as_ref().expect("just seen")).into()),
                Err(error) => Err(error.clone()),
            },
            Outcome::Os(placed) => placed[frame].clone().map(Publishable::from_os_write),
        }
    }
}

#[derive(Default)]
struct Group {
    frames: Vec<StagedFrame>,
    bytes: u64,
    entries: u64,
    sync: bool,
    /// Somebody is on the way to lead it.
    led: bool,
    done: Arc<Latch<Outcome>>,
    async_bytes: u64,
    first_ticket: Option<u64>,
    /// Claimed when the first write was accepted: for a roll, and to back the log's first head.
    spares: Vec<SegmentSlot>,
    /// Of those who wait for it.
    sections: Vec<OpenSection>,
}

/// A group that its leader took out of the stage: nobody else can finish it. If the leader panics, those who wait for it
/// must not do so for ever.
struct Taken<'a> {
    committer: &'a Committer,
    lane: usize,
    group: Group,
    is_finished: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Not asked of the thread: a host may let its store go while it panics itself.
        if !self.is_finished {
            self.committer.give_up(self.lane, &self.group);
        }
    }
}

struct Lane {
    stage: Mutex<Option<Group>>,
    staged: AtomicBool,
}

/// The commit policies.
pub struct Committer {
    oplog: Arc<OpLog>,
    lanes: Box<[CachePadded<Lane>]>,
    policy: CommitPolicy,
    /// Of a follower, before it sleeps.
    looks: u32,
    /// A drain is a fence, and a writer that finds its log free drains alone.
    takes_plain_puts: bool,
    async_bytes_max: u64,
    /// Tickets of asynchronous writes.
    pub tickets: Tickets,
}

impl Committer {
    /// One lane per log.
    pub fn new(
        oplog: Arc<OpLog>,
        lanes: usize,
        policy: CommitPolicy,
        granularity: FlushGranularity,
        async_bytes_max: u64,
    ) -> Self {
        let looks = match granularity {
            FlushGranularity::CacheLine => FOLLOWER_LOOKS,
            FlushGranularity::File => 0,
        };
        Committer {
            lanes: (0..lanes)
                .map(|_| CachePadded::new(Lane { stage: Mutex::new(None), staged: AtomicBool::new(false) }))
                .collect(),
            tickets: Tickets::new(lanes),
            oplog,
            takes_plain_puts: granularity == FlushGranularity::CacheLine && policy != CommitPolicy::Grouped,
            policy,
            looks,
            async_bytes_max,
        }
    }

    /// The calling thread's lane.
    #[inline]
    pub fn home_lane(&self) -> usize {
        let (thread, lanes) = (thread_number(), self.lanes.len());
        // Seldom more threads than lanes: a division takes as long as looking at a bucket of the index.
        if thread < lanes { thread } else { thread % lanes }
    }

    /// Most bytes of a group, and of a frame that others may join.
    fn group_bytes_max(&self, entries: u64) -> u64 {
        self.oplog.frame_bytes_max(entries).min(GROUP_BYTES_MAX as u64)
    }

    /// Writes one operation and waits as its terms say. Its stamp exceeds what `ask` leads to, too: a writer alone asks before
    /// it encodes the operation, and has the answer worked out afterwards, when the memory for it has had time to come. Both
    /// are called under the log's lock: they take none.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `Closed`, `Poisoned`: nothing was changed. `Io`: the store is poisoned.
    #[inline]
    pub fn submit_op<A: FnOnce() -> Seq>(
        &self,
        sink: &dyn Publisher,
        op: &OpSpec<'_>,
        hash: u32,
        terms: &Terms,
        ask: impl FnOnce() -> A,
    ) -> Result<Publishable<Written>> {
        let lane = self.home_lane();
        let joins = terms.is_log_busy && self.policy == CommitPolicy::Auto;
        if !joins && let Some((lane, mut state)) = self.lock_alone(lane, sink, terms.purpose) {
            self.lead_locked(lane, &mut state, sink);
            return self.submit_alone(&mut state, op, hash, terms, ask);
        }
        let terms = Terms { above: terms.above.max(ask()()), ..*terms };
        self.submit_grouped(lane, sink, op, hash, &terms)
    }

    /// The calling thread's lane, if a plain put may try to go its short way there: a drain is a fence, writers write alone, and
    /// nothing is staged yet.
    #[inline(always)]
    pub fn plain_lane(&self) -> Option<usize> {
        let lane = self.home_lane();
        (self.takes_plain_puts && !self.is_staged(lane)).then_some(lane)
    }

    /// The log of a [`Committer::plain_lane`], for one plain put, which drains alone: if nobody uses it and nothing is staged for
    /// it.
    #[inline(always)]
    pub fn lock_plain(&self, lane: usize) -> Option<MutexGuard<'_, LogState>> {
        let state = self.oplog.try_lock(lane)?;
        if self.is_staged(lane) { None } else { Some(state) }
    }

    /// A log to write to alone, and its lane, if the policy has writers do so: the own one if nobody uses it.
    #[inline(always)]
    fn lock_alone(
        &self,
        lane: usize,
        sink: &dyn Publisher,
        purpose: Purpose,
    ) -> Option<(usize, MutexGuard<'_, LogState>)> {
        let state = match self.policy {
            CommitPolicy::Lone => Some(self.oplog.lock(lane)),
            CommitPolicy::Grouped => None,
            CommitPolicy::Auto => self.try_alone(lane),
        }?;
        if purpose == Purpose::Delete && !state.has_backed_head() {
            return Some(self.lock_with_head(lane, sink, state));
        }
        Some((lane, state))
    }

    /// The first entry of a log takes two slots, its head and one that backs that. A delete from a full pool goes to a log
    /// that has a head instead, if it may not take as many.
    #[cold]
    fn lock_with_head<'a>(
        &'a self,
        lane: usize,
        sink: &dyn Publisher,
        mut own: MutexGuard<'a, LogState>,
    ) -> (usize, MutexGuard<'a, LogState>) {
        if self.oplog.space().available(Purpose::Delete) >= 2 {
            return (lane, own);
        }
        // What this thread staged before comes before: what is in two logs is in the order of their stamps. It gives the log a
        // head, too, with the slots that were claimed for it.
        self.lead_locked(lane, &mut own, sink);
        if own.has_backed_head() {
            return (lane, own);
        }
        // Nobody holds two logs.
        drop(own);
        for other in (0..self.lanes.len()).filter(|other| *other != lane) {
            let state = self.oplog.lock(other);
            if state.has_backed_head() {
                return (other, state);
            }
        }
        (lane, self.oplog.lock(lane))
    }

    /// The log, if nobody uses it and nothing is staged for it. Where something is, a writer joins it: alone it would drain
    /// twice, for them and then for itself, and those whom it let go would come back and do the same.
    #[inline]
    fn try_alone(&self, lane: usize) -> Option<MutexGuard<'_, LogState>> {
        if self.lanes[lane].staged.load(Ordering::Acquire) {
            return None;
        }
        self.oplog.try_lock(lane)
    }

    #[inline]
    fn submit_alone<A: FnOnce() -> Seq>(
        &self,
        state: &mut LogState,
        op: &OpSpec<'_>,
        hash: u32,
        terms: &Terms,
        ask: impl FnOnce() -> A,
    ) -> Result<Publishable<Written>> {
        let above = ask();
        let mut frame = state.scratch.take().unwrap_or_else(|| Box::new(FrameBuilder::new(FrameKind::Ops)));
        frame.reset(FrameKind::Ops);
        let op_at = frame.push(op);
        let terms = Terms { above: terms.above.max(above()), ..*terms };
        let result = self.write_alone(state, &mut frame, &[hash], &terms);
        state.scratch = Some(frame).filter(|frame| frame.is_worth_keeping());
        Ok(result?.map(|placed| Written::at(&placed, op_at, false)))
    }

    #[inline]
    fn write_alone(
        &self,
        state: &mut LogState,
        frame: &mut FrameBuilder,
        hashes: &[u32],
        terms: &Terms,
    ) -> Result<Publishable<Placed>> {
        let terms = FrameTerms {
            hashes,
            above: terms.above,
            purpose: terms.purpose,
            mode: terms.mode,
            last: true,
            seq: None,
        };
        let written = self.oplog.place(state, frame, &terms)?;
        match terms.mode {
            WriteMode::Sync => Ok(self.oplog.commit(state, written, Site::FrameDrain)?.into()),
            WriteMode::Os => Ok(Publishable::from_os_write(written.left_undrained())),
        }
    }

    fn submit_grouped(
        &self,
        lane: usize,
        sink: &dyn Publisher,
        op: &OpSpec<'_>,
        hash: u32,
        terms: &Terms,
    ) -> Result<Publishable<Written>> {
        let (done, frame, op_at, lead) = self.stage_op(lane, sink, op, hash, terms, true, |_| Ok(()))?.0;
        if lead {
            self.lead(lane, sink);
        }
        Ok(done.wait(self.looks).of_frame(frame)?.map(|placed| Written::at(&placed, op_at, false)))
    }

    /// Puts an operation into the lane's group; `waits` tells whether the caller waits and so may have to lead; `also` may
    /// add what belongs to the operation, under the stage's lock, and may refuse it.
    #[allow(
        clippy::type_complexity,
        clippy::too_many_arguments,
        reason = "what a follower needs to wait, once"
    )]
    fn stage_op<R>(
        &self,
        lane: usize,
        sink: &dyn Publisher,
        op: &OpSpec<'_>,
        hash: u32,
        terms: &Terms,
        waits: bool,
        also: impl FnOnce(&mut Group) -> Result<R>,
    ) -> Result<((Arc<Latch<Outcome>>, usize, u32, bool), R)> {
        let need = padded(encoded_len_max(op.key.len(), op.value.len()) + FRAME_HEADER_BYTES as u64);
        let mut stage = self.room_in_group(lane, sink, need, 1)?;
        let group = stage.get_or_insert_with(Group::default);
        let joins = group.frames.last().is_some_and(|last| {
            last.frame.kind() == FrameKind::Ops
                && last.frame.op_count() < FRAME_OPS_MAX
                && last.frame.next_op_at() < SHORT_DISTANCE_END
                && last.purpose == terms.purpose
        });
        let frame = group.frames.len() - usize::from(joins);
        let extra = also(group)?;
        if !joins {
            let frame = FrameBuilder::new(FrameKind::Ops);
            group.frames.push(StagedFrame {
                frame,
                hashes: Vec::new(),
                above: Seq::ZERO,
                purpose: terms.purpose,
                asynchronous: Vec::new(),
            });
        }
        let staged = &mut group.frames[frame];
        let op_at = staged.frame.push(op);
        staged.hashes.push(hash);
        if !waits {
            staged.asynchronous.push(op_at);
        }
        staged.above = staged.above.max(terms.above);
        group.joined(need, 1, terms.mode);
        let lead = waits && group.claim_lead();
        group.sections.extend(waits.then(epoch::own_section).flatten());
        let done = Arc::clone(&group.done);
        self.lanes[lane].staged.store(true, Ordering::Release);
        Ok(((done, frame, op_at, lead), extra))
    }

    /// Waits until the lane's group has room for `need` bytes.
    fn room_in_group(
        &self,
        lane: usize,
        sink: &dyn Publisher,
        need: u64,
        entries: u64,
    ) -> Result<MutexGuard<'_, Option<Group>>> {
        loop {
            let stage = self.lanes[lane].stage.lock();
            let (bytes, staged_entries) = stage.as_ref().map_or((0, 0), |group| (group.bytes, group.entries));
            let max = self.group_bytes_max(staged_entries + entries);
            if bytes + need <= max || bytes == 0 {
                if need > self.oplog.frame_bytes_max(entries) {
                    let max = self.oplog.frame_bytes_max(entries);
                    return Err(Error::TooLarge { what: "operation", len: need, max });
                }
                return Ok(stage);
            }
            drop(stage);
            self.lead(lane, sink);
        }
    }

    /// Writes one frame (a write batch) and waits as its terms say.
    ///
    /// # Errors
    /// As [`Committer::submit_op`].
    pub fn submit_frame(
        &self,
        sink: &dyn Publisher,
        mut frame: FrameBuilder,
        hashes: Vec<u32>,
        terms: &Terms,
    ) -> Result<Publishable<Placed>> {
        let lane = self.home_lane();
        if let Some((lane, mut state)) = self.lock_alone(lane, sink, terms.purpose) {
            self.lead_locked(lane, &mut state, sink);
            return self.write_alone(&mut state, &mut frame, &hashes, terms);
        }
        let (done, frame, lead) = {
            let (need, entries) = (padded(frame.len_bytes()), hashes.len() as u64);
            let mut stage = self.room_in_group(lane, sink, need, entries)?;
            let group = stage.get_or_insert_with(Group::default);
            let (above, purpose) = (terms.above, terms.purpose);
            group.frames.push(StagedFrame { frame, hashes, above, purpose, asynchronous: Vec::new() });
            group.joined(need, entries, terms.mode);
            let lead = group.claim_lead();
            group.sections.extend(epoch::own_section());
            self.lanes[lane].staged.store(true, Ordering::Release);
            (Arc::clone(&group.done), group.frames.len() - 1, lead)
        };
        if lead {
            self.lead(lane, sink);
        }
        done.wait(self.looks).of_frame(frame)
    }

    /// Accepts one operation and returns at once; the leader publishes it. The second answer tells whether the group is
    /// new, so that somebody has to see to it in time.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `Poisoned`: nothing was accepted.
    pub fn submit_op_async(
        &self,
        sink: &dyn Publisher,
        op: &OpSpec<'_>,
        hash: u32,
        terms: &Terms,
    ) -> Result<(u64, bool)> {
        let lane = self.home_lane();
        self.wait_for_async_room(lane, sink);
        self.oplog.check_poison()?;
        let bytes = encoded_len_max(op.key.len(), op.value.len());
        let result = self.stage_op(lane, sink, op, hash, terms, false, |group| {
            let is_first = self.accept_async(lane, group)?;
            Ok((group.note_ticket(self.tickets.issue(lane, bytes), bytes), is_first))
        });
        Ok(result?.1)
    }

    /// As [`Committer::submit_op_async`], for a batch in one frame.
    ///
    /// # Errors
    /// As [`Committer::submit_op_async`].
    pub fn submit_frame_async(
        &self,
        sink: &dyn Publisher,
        frame: FrameBuilder,
        hashes: Vec<u32>,
        terms: &Terms,
    ) -> Result<(u64, bool)> {
        let lane = self.home_lane();
        self.wait_for_async_room(lane, sink);
        self.oplog.check_poison()?;
        let (need, entries) = (padded(frame.len_bytes()), hashes.len() as u64);
        let mut stage = self.room_in_group(lane, sink, need, entries)?;
        let group = stage.get_or_insert_with(Group::default);
        let is_first = self.accept_async(lane, group)?;
        let asynchronous = frame.op_offsets().collect();
        let (above, purpose) = (terms.above, terms.purpose);
        group.frames.push(StagedFrame { frame, hashes, above, purpose, asynchronous });
        let ticket = group.note_ticket(self.tickets.issue(lane, need), need);
        group.joined(need, entries, WriteMode::Sync);
        self.lanes[lane].staged.store(true, Ordering::Release);
        Ok((ticket, is_first))
    }

    /// Claims the slots that a group of accepted writes may need. True if the group had none yet.
    fn accept_async(&self, lane: usize, group: &mut Group) -> Result<bool> {
        if !group.spares.is_empty() {
            return Ok(false);
        }
        // Whoever holds the log is rolling it, perhaps.
        let needed = self.oplog.try_lock(lane).map_or(2, |state| state.slots_for_a_group());
        group.spares = self.oplog.space().take_slots(needed, Purpose::Put)?;
        Ok(true)
    }

    fn wait_for_async_room(&self, lane: usize, sink: &dyn Publisher) {
        if self.tickets.bytes_in_flight() > self.async_bytes_max {
            self.lead(lane, sink);
        }
    }

    /// Writes out what is staged in a lane, if anything, and waits for a leader that is at work.
    pub fn lead(&self, lane: usize, sink: &dyn Publisher) {
        let mut state = self.oplog.lock(lane);
        self.lead_locked(lane, &mut state, sink);
    }

    /// Writes out what is staged anywhere.
    pub fn lead_all(&self, sink: &dyn Publisher) {
        (0..self.lanes.len()).for_each(|lane| self.lead(lane, sink));
    }

    /// True if something is staged in the lane.
    pub fn is_staged(&self, lane: usize) -> bool {
        self.lanes[lane].staged.load(Ordering::Acquire)
    }

    /// The write sections of those whose operations no leader has taken yet: these have no stamp.
    pub fn staged_sections(&self) -> Vec<OpenSection> {
        let staged = |lane: &CachePadded<Lane>| {
            let stage = lane.stage.lock();
            stage.as_ref().map_or(Vec::new(), |group| group.sections.clone())
        };
        self.lanes.iter().flat_map(staged).collect()
    }

    #[inline]
    fn lead_locked(&self, lane: usize, state: &mut LogState, sink: &dyn Publisher) {
        if self.is_staged(lane) {
            self.write_group(lane, state, sink);
        }
    }

    fn write_group(&self, lane: usize, state: &mut LogState, sink: &dyn Publisher) {
        // Whoever leads publishes what nobody waits for.
        let _section = epoch::write_section_around(crate::media::fork_generation());
        let group = {
            let mut stage = self.lanes[lane].stage.lock();
            self.lanes[lane].staged.store(false, Ordering::Release);
            stage.take()
        };
        let Some(group) = group else { return };
        let mut taken = Taken { committer: self, lane, group, is_finished: false };
        let group = &mut taken.group;
        state.spare = group.spares.pop();
        let placed = self.place_group(state, group);
        let unused = state.spare.take().into_iter().chain(group.spares.drain(..));
        unused.for_each(|slot| self.oplog.space().return_slot(slot));
        let outcome = if group.sync { self.commit_group(state, placed) } else { Outcome::Os(placed) };
        self.finish_async(lane, group, &outcome, sink);
        group.done.set(outcome);
        taken.is_finished = true;
    }

    /// Ends a group whose leader panicked. Nobody knows what of it is in the log.
    #[cold]
    fn give_up(&self, lane: usize, group: &Group) {
        self.oplog.poison("a panic while a group was written");
        let error = self.oplog.check_poison().expect_err("just poisoned");
        if let Some(first_ticket) = group.first_ticket {
            self.tickets.fail(first_ticket, &error);
            self.finish_tickets(lane, group);
        }
        group.done.set(Outcome::Os(vec![Err(error); group.frames.len()]));
    }

    fn finish_tickets(&self, lane: usize, group: &Group) {
        let stage = self.lanes[lane].stage.lock();
        self.tickets.finish(lane, group.async_bytes, stage.as_ref().and_then(|group| group.first_ticket));
    }

    fn place_group(&self, state: &mut LogState, group: &mut Group) -> Vec<Result<Placed>> {
        let mode = if group.sync { WriteMode::Sync } else { WriteMode::Os };
        let count = group.frames.len();
        let is_accepted = |staged: &StagedFrame| !staged.asynchronous.is_empty();
        // Nobody looked for what these replace. That has a stamp which was given before.
        let newest =
            if group.frames.iter().any(is_accepted) { self.oplog.newest_seq_seen() } else { Seq::ZERO };
        let place = |(i, staged): (usize, &mut StagedFrame)| {
            let terms = FrameTerms {
                hashes: &staged.hashes,
                above: staged.above.max(newest),
                purpose: staged.purpose,
                mode,
                last: i + 1 == count,
                seq: None,
            };
            self.oplog.place(state, &mut staged.frame, &terms).map(InFlight::left_undrained)
        };
        group.frames.iter_mut().enumerate().map(place).collect()
    }

    fn commit_group(&self, state: &mut LogState, placed: Vec<Result<Placed>>) -> Outcome {
        if placed.iter().all(Result::is_err) {
            return Outcome::Os(placed);
        }
        let frames = placed.len();
        match self.oplog.commit(state, InFlight::nothing(placed), Site::GroupDrain) {
            Ok(durable) => Outcome::Durable(durable),
            Err(error) => Outcome::Os((0..frames).map(|_| Err(error.clone())).collect()),
        }
    }

    /// Publishes asynchronous writes, then reports their tickets. Still under the log's lock: whoever finds the log free
    /// finds them published.
    fn finish_async(&self, lane: usize, group: &Group, outcome: &Outcome, sink: &dyn Publisher) {
        let Some(first_ticket) = group.first_ticket else { return };
        debug_assert!(group.sync, "a ticket promises durability");
        let mut failure = None;
        for (number, staged) in group.frames.iter().enumerate() {
            if !staged.asynchronous.is_empty() {
                match outcome.of_frame(number) {
                    Ok(placed) => sink.publish_frame(&staged.frame, &staged.asynchronous, placed),
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some(error) = failure {
            if !matches!(error, Error::Closed) {
                // It was accepted: whatever kept it from the log, nothing later may be acknowledged. A write that `close`
                // overtook is refused like everything that comes later.
                self.oplog.poison(&error.to_string());
            }
            self.tickets.fail(first_ticket, &error);
        }
        // Who sees the ticket done sees what was published, as behind the end of a write section (`epoch/sections.rs`).
        fence(Ordering::SeqCst);
        self.finish_tickets(lane, group);
    }

    /// Waits until `ticket` and every earlier one is durable.
    ///
    /// # Errors
    /// The failure of that write or an earlier one; `InvalidArgument` for a ticket that was never given.
    pub fn wait(&self, ticket: u64, sink: &dyn Publisher) -> Result<()> {
        let issued = self.tickets.last_issued();
        if ticket == 0 || ticket > issued {
            return Err(Error::InvalidArgument(format!("ticket {ticket}: tickets 1 to {issued} were given")));
        }
        while self.tickets.durable() < ticket {
            self.tickets.failure(ticket)?;
            self.lead_all(sink);
            if self.tickets.durable() < ticket {
                // An earlier ticket was drawn and its write is not staged yet: soon, unless that thread panicked.
                self.tickets.failure(ticket)?;
                self.oplog.check_poison()?;
                sync::yield_now();
            }
        }
        Ok(())
    }

    /// Makes everything in every log durable.
    ///
    /// # Errors
    /// `Io`: the store is poisoned. `Poisoned`.
    pub fn sync_all(&self, sink: &dyn Publisher) -> Result<()> {
        for lane in 0..self.lanes.len() {
            let mut state = self.oplog.lock(lane);
            self.lead_locked(lane, &mut state, sink);
            self.oplog.drain(&mut state, Site::SyncDrain)?;
        }
        Ok(())
    }

    /// Holds a lane's log for a batch that is larger than a frame.
    pub fn with_log<R>(&self, sink: &dyn Publisher, f: impl FnOnce(&OpLog, &mut LogState) -> R) -> R {
        let lane = self.home_lane();
        let mut state = self.oplog.lock(lane);
        self.lead_locked(lane, &mut state, sink);
        f(&self.oplog, &mut state)
    }
}

/// What a frame takes of the log: frames of a group begin on lines of their own.
fn padded(bytes: u64) -> u64 {
    align_up(bytes, CACHE_LINE_BYTES)
}

impl Group {
    fn joined(&mut self, bytes: u64, entries: u64, mode: WriteMode) {
        self.bytes += bytes;
        self.entries += entries;
        self.sync |= mode == WriteMode::Sync;
    }

    /// True for the first who asks: it has to lead.
    fn claim_lead(&mut self) -> bool {
        !std::mem::replace(&mut self.led, true)
    }

    fn note_ticket(&mut self, ticket: u64, bytes: u64) -> u64 {
        self.first_ticket.get_or_insert(ticket);
        self.async_bytes += bytes;
        ticket
    }
}
