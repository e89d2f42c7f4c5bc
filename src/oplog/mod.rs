//! The operation log: what was written, in order, in self-checking frames inside segments. One log per core on persistent
//! memory, one on files; every log has exactly one head that is appended to (two during a roll).

pub mod append;
mod digest;
mod order;
pub mod read;
pub mod scan;
pub mod survivor;

use crate::constants::LOGS_MAX;
use crate::error::{Error, Result};
use crate::format::{Digest, FOOTER_BYTES, SEGMENT_BODY_OFFSET};
use crate::media::Media;
use crate::space::Space;
use crate::space::table::SlotInfo;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};
use crate::types::{LogId, SegmentSlot, Seq};
use append::LogState;
use crossbeam_utils::CachePadded;
use order::Order;

/// One log: its state behind its lock, and how far it is durable.
pub struct Log {
    state: Mutex<LogState>,
    /// Bytes of this log, over all its segments since open, that are durable.
    durable_position: AtomicU64,
    /// Bytes appended in all.
    appended_position: AtomicU64,
    /// The newest stamp it gave, for who does not have its lock.
    newest_seq: AtomicU64,
}

/// Why appends are refused. An allocation of its own, which is written once: every append reads it.
#[derive(Default)]
struct Poison {
    is_set: AtomicBool,
    reason: Mutex<String>,
}

impl Poison {
    /// The first reason counts.
    fn set(&self, reason: &str) {
        let mut stored = self.reason.lock();
        if !self.is_set.load(Ordering::Acquire) {
            *stored = reason.to_string();
            self.is_set.store(true, Ordering::Release);
        }
    }

    #[inline]
    fn check(&self) -> Result<()> {
        if self.is_set.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    #[cold]
    fn error(&self) -> Error {
        Error::Poisoned(self.reason.lock().clone())
    }
}

/// All logs of a store.
pub struct OpLog {
    media: Arc<dyn Media>,
    space: Arc<Space>,
    logs: Box<[CachePadded<Log>]>,
    order: CachePadded<Order>,
    poison: Arc<Poison>,
    align_bytes: u64,
    rolls: AtomicU64,
    /// Number of the newest digest whose roll is complete: no older one can rule any more.
    ruling_digest: AtomicU64,
    /// About how many keys the store has; goes into the next digest.
    live_entries: AtomicU64,
    /// Called after every roll: the next one needs a slot that is ready.
    on_roll: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl OpLog {
    /// The logs of a store; none has a head yet.
    pub fn new(media: Arc<dyn Media>, space: Arc<Space>, logs: usize) -> Self {
        assert!((1..=LOGS_MAX).contains(&logs), "log ids have 6 bits");
        let align_bytes = media.granularity().append_align_bytes();
        let logs = (0..logs)
            .map(|id| {
                let id = LogId(id as u8);
                let state = Mutex::new(LogState::new(id));
                CachePadded::new(Log {
                    state,
                    durable_position: AtomicU64::new(0),
                    appended_position: AtomicU64::new(0),
                    newest_seq: AtomicU64::new(0),
                })
            })
            .collect();
        let poison = Arc::new(Poison::default());
        let by_growth = Arc::clone(&poison);
        space.call_on_failed_sync(move |error| by_growth.set(&error.to_string()));
        OpLog {
            media,
            space,
            logs,
            order: CachePadded::default(),
            poison,
            align_bytes,
            rolls: AtomicU64::new(0),
            ruling_digest: AtomicU64::new(0),
            live_entries: AtomicU64::new(0),
            on_roll: OnceLock::new(),
        }
    }

    /// Number of logs.
    pub fn log_count(&self) -> usize {
        self.logs.len()
    }

    /// The medium.
    pub fn media(&self) -> &dyn Media {
        &*self.media
    }

    /// The space.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Locks a log for appending.
    pub fn lock(&self, log: usize) -> MutexGuard<'_, LogState> {
        self.logs[log].state.lock()
    }

    /// Locks a log if nobody else has.
    #[inline]
    pub fn try_lock(&self, log: usize) -> Option<MutexGuard<'_, LogState>> {
        self.logs[log].state.try_lock()
    }

    /// Bytes of the log that are durable, counted since open over all its segments.
    pub fn durable_position(&self, log: usize) -> u64 {
        self.logs[log].durable_position.load(Ordering::Acquire)
    }

    /// Bytes appended to the log since open, as of the last time its lock was given back.
    pub fn appended_position(&self, log: usize) -> u64 {
        self.logs[log].appended_position.load(Ordering::Acquire)
    }

    /// Bytes appended to all logs since open.
    pub fn appended_bytes(&self) -> u64 {
        (0..self.logs.len()).map(|log| self.appended_position(log)).sum()
    }

    /// Makes every later stamp exceed `seq`.
    pub fn raise_floor(&self, seq: Seq) {
        self.order.raise_floor(seq);
    }

    /// What every later stamp exceeds.
    pub(crate) fn floor(&self) -> Seq {
        self.order.floor()
    }

    /// No entry of the segment in `slot` has a later stamp. For a slot that nobody can free meanwhile.
    #[inline]
    pub fn newest_seq_in(&self, slot: SegmentSlot) -> Seq {
        self.newest_seq_of(self.space.table().slot(slot))
    }

    /// The same of a slot that was looked up.
    #[inline(always)]
    pub fn newest_seq_of(&self, slot: &SlotInfo) -> Seq {
        slot.newest_seq().max(self.floor())
    }

    /// A stamp above every one that was given so far.
    pub fn newest_seq(&self) -> Seq {
        let floor = self.floor();
        let newest = self.logs.iter().map(|log| log.state.lock().last_seq()).max().unwrap_or(Seq::ZERO);
        newest.max(floor).last_of_unit()
    }

    /// The same without the locks of the logs: a point that divides all writes, see `order.rs`.
    pub fn take_point(&self) -> Seq {
        self.order.divide(|| self.newest_seq_seen().last_of_unit())
    }

    /// The next stamp of a log for what counts for many keys: it divides all writes, too. Where there is one log, each does.
    fn next_seq_of_many(&self, state: &LogState, above: Seq) -> Seq {
        if self.logs.len() == 1 {
            return self.next_seq(state, above);
        }
        self.order.divide(|| self.next_seq(state, above.max(self.newest_seq_seen())))
    }

    /// No entry that is visible now has a later stamp.
    pub fn newest_seq_seen(&self) -> Seq {
        let newest = self.logs.iter().map(|log| log.newest_seq.load(Ordering::SeqCst)).max();
        Seq(newest.unwrap_or(0)).max(self.floor())
    }

    /// A write with this stamp is about to be seen. Passes a sequentially consistent fence.
    #[inline]
    pub fn settle_stamp(&self, seq: Seq) {
        self.order.settle(seq);
    }

    /// Notes about how many keys the store has.
    pub fn note_live_entries(&self, count: u64) {
        self.live_entries.store(count, Ordering::Relaxed);
    }

    /// Has `call` called after every roll, with the log locked: it must only take notice.
    pub fn call_on_roll(&self, call: impl Fn() + Send + Sync + 'static) {
        assert!(self.on_roll.set(Box::new(call)).is_ok(), "one listener");
    }

    /// Heads that will need a new segment soon.
    pub fn heads_past_half(&self) -> u32 {
        let half = self.space.geometry().segment_size_bytes / 2;
        let is_past = |log: &&CachePadded<Log>| {
            log.state
                .try_lock()
                .is_none_or(|state| state.head().is_some_and(|head| u64::from(head.tail()) > half))
        };
        self.logs.iter().filter(is_past).count() as u32
    }

    /// Heads that rolled since open.
    pub fn rolls(&self) -> u64 {
        self.rolls.load(Ordering::Relaxed)
    }

    /// What digests up to this number list, and no later one, is forgotten for good.
    pub fn ruling_digest(&self) -> u64 {
        self.ruling_digest.load(Ordering::Acquire)
    }

    /// Refuses every later append: a persist failed or a bug was caught, and what is on the medium is unknown.
    pub fn poison(&self, reason: &str) {
        self.poison.set(reason);
    }

    /// `Poisoned` if an earlier persist failed.
    #[inline]
    pub fn check_poison(&self) -> Result<()> {
        self.poison.check()
    }

    /// Most bytes of one frame, wherever it is put: what an empty head of this pool takes with `entries` entries, with
    /// a digest that has grown to a quarter of it.
    pub fn frame_bytes_max(&self, entries: u64) -> u64 {
        let segment = self.space.geometry().segment_size_bytes;
        let digest = Digest::bytes_max(segment);
        let fixed = SEGMENT_BODY_OFFSET + digest + FOOTER_BYTES + 3 * self.align_bytes;
        segment.saturating_sub(fixed + crate::format::filter_len(entries)) & !(self.align_bytes - 1)
    }
}
