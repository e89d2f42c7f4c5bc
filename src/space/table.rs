//! Segment table: what every slot holds, in DRAM. Rebuilt at open; what changes after sealing (dead bytes) lives only
//! here. Invariants:
//!   - the seed of a slot changes only while no reader can hold an address in it (grace period)
//!   - dead_bytes <= op_bytes, both in whole entries; tombstone_bytes are those of tombstones that count
//!   - no entry that was appended to a slot's segment since open has a later stamp than newest_seq; what open found has
//!     none above the floor of stamps (`OpLog::raise_floor`)
//!   - slots are entered once per life: Free -> Open | Active -> Sealed -> Releasable -> Free, where an open segment may be
//!     left as it is, and one that is releasable is in no later digest and holds nothing that counts

use crate::checksum::SegmentSeed;
use crate::format::{SegmentClass, SegmentHeader};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, OnceLock, Ordering, thread_number};
use crate::types::{LogId, SegmentId, SegmentSlot, Seq};
use std::ops::Range;

/// What the table knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Not in use.
    Free = 0,
    /// Extents or survivors in use.
    Open = 1,
    /// A log head.
    Active = 2,
    /// Complete, its seal durable.
    Sealed = 3,
    /// Holds nothing that counts: later digests leave it out, and once one of them is durable the slot is freed.
    Releasable = 4,
}

impl SlotState {
    fn from_u8(value: u8) -> SlotState {
        match value {
            1 => SlotState::Open,
            2 => SlotState::Active,
            3 => SlotState::Sealed,
            4 => SlotState::Releasable,
            _ => SlotState::Free,
        }
    }
}

/// Threads that kill entries of one segment at one time and do not share a cache line for it, with luck.
const DEAD_STRIPES: usize = 3;

/// Bytes of dead entries as some of the threads count them.
#[repr(align(64))]
struct DeadStripe {
    bytes: AtomicU64,
}

/// One slot. A cache line of its own: writers of different logs touch different segments. Which entries die, and so where
/// that is counted, is a matter of keys: those counters have lines of their own, so that what is in the first line, which
/// every look at an entry of the segment reads, stays in every core's cache.
#[repr(align(64))]
pub struct SlotInfo {
    seed: AtomicU64,
    id: AtomicU64,
    op_bytes: AtomicU64,
    newest_seq: AtomicU64,
    entries: AtomicU32,
    data_end: AtomicU32,
    pins: AtomicU32,
    tombstone_bytes: AtomicU32,
    state: AtomicU8,
    class: AtomicU8,
    log: AtomicU8,
    prefaulted: AtomicBool,
    quarantined: AtomicBool,
    dead: [DeadStripe; DEAD_STRIPES],
}

const _: () = assert!(size_of::<SlotInfo>() == 64 * (1 + DEAD_STRIPES), "one line, and one for each stripe");

impl SlotInfo {
    fn new() -> Self {
        SlotInfo {
            seed: AtomicU64::new(0),
            id: AtomicU64::new(0),
            op_bytes: AtomicU64::new(0),
            newest_seq: AtomicU64::new(0),
            entries: AtomicU32::new(0),
            data_end: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            tombstone_bytes: AtomicU32::new(0),
            state: AtomicU8::new(SlotState::Free as u8),
            class: AtomicU8::new(0),
            log: AtomicU8::new(0),
            prefaulted: AtomicBool::new(false),
            quarantined: AtomicBool::new(false),
            dead: [const { DeadStripe { bytes: AtomicU64::new(0) } }; DEAD_STRIPES],
        }
    }

    pub(super) fn enter(&self, header: &SegmentHeader, state: SlotState, seed: SegmentSeed) {
        assert_eq!(self.state(), SlotState::Free, "slot {} is entered twice", header.slot.0);
        self.seed.store(seed.0, Ordering::Relaxed);
        self.id.store(header.id.0, Ordering::Relaxed);
        self.class.store(header.class as u8, Ordering::Relaxed);
        self.log.store(header.log.0, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        assert_eq!(self.pins.load(Ordering::Acquire), 0, "a pinned segment is never freed");
        self.op_bytes.store(0, Ordering::Relaxed);
        self.dead.iter().for_each(|stripe| stripe.bytes.store(0, Ordering::Relaxed));
        self.newest_seq.store(0, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
        self.data_end.store(0, Ordering::Relaxed);
        self.tombstone_bytes.store(0, Ordering::Relaxed);
        self.quarantined.store(false, Ordering::Relaxed);
        self.state.store(SlotState::Free as u8, Ordering::Release);
    }

    pub(super) fn mark_prefaulted(&self) -> bool {
        !self.prefaulted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn forget_prefault(&self) {
        self.prefaulted.store(false, Ordering::Relaxed);
    }

    /// Seed of the checksums in the segment.
    #[inline]
    pub fn seed(&self) -> SegmentSeed {
        SegmentSeed(self.seed.load(Ordering::Relaxed))
    }

    /// The segment in it.
    pub fn id(&self) -> SegmentId {
        SegmentId(self.id.load(Ordering::Relaxed))
    }

    /// Its state.
    #[inline]
    pub fn state(&self) -> SlotState {
        SlotState::from_u8(self.state.load(Ordering::Acquire))
    }

    /// The segment's seal is durable.
    pub fn set_sealed(&self) {
        self.state.store(SlotState::Sealed as u8, Ordering::Release);
    }

    /// Nothing in the segment counts any more. Under the roll lock, so that no digest is half way through the table.
    pub(super) fn set_releasable(&self) {
        self.state.store(SlotState::Releasable as u8, Ordering::Release);
    }

    /// Bytes in the segment are not what was written: it is kept as it is, for nobody knows what was lost.
    pub fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// True if it must never be emptied.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// What the segment is for.
    pub fn class(&self) -> Option<SegmentClass> {
        SegmentClass::from_u8(self.class.load(Ordering::Relaxed))
    }

    /// Its log.
    pub fn log(&self) -> LogId {
        LogId(self.log.load(Ordering::Relaxed))
    }

    /// Records what an append or a scan found: `ops` more entries of `bytes` in all, data now up to `data_end`, none with a
    /// later stamp than `newest`. Before anybody can see the entries.
    #[inline]
    pub fn add_entries(&self, ops: u32, bytes: u64, data_end: u32, newest: Seq) {
        // Only the holder of the log's lock (or the one recovery worker of this segment) writes these.
        self.newest_seq.store(newest.max(self.newest_seq()).0, Ordering::Relaxed);
        self.entries.store(self.entries.load(Ordering::Relaxed) + ops, Ordering::Relaxed);
        self.op_bytes.store(self.op_bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.data_end.store(data_end, Ordering::Relaxed);
    }

    /// An entry of `bytes` in this segment is dead.
    #[inline]
    pub fn add_dead(&self, bytes: u64) {
        self.dead[thread_number() % DEAD_STRIPES].bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes of the entries added are tombstones; before anybody can see them.
    #[inline]
    pub fn add_tombstones(&self, bytes: u64) {
        if bytes > 0 {
            self.tombstone_bytes.fetch_add(bytes as u32, Ordering::Relaxed);
        }
    }

    /// A tombstone of `bytes` is dead.
    pub fn remove_tombstone(&self, bytes: u64) {
        // Recovery may find out that it is dead before it has counted its segment: then this wraps, and back again.
        self.tombstone_bytes.fetch_sub(bytes as u32, Ordering::Relaxed);
    }

    /// Bytes of tombstones that count.
    pub fn tombstone_bytes(&self) -> u64 {
        u64::from(self.tombstone_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of all entries.
    pub fn op_bytes(&self) -> u64 {
        self.op_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of dead entries.
    pub fn dead_bytes(&self) -> u64 {
        self.dead.iter().map(|stripe| stripe.bytes.load(Ordering::Relaxed)).sum()
    }

    /// No entry that was appended since open has a later stamp.
    #[inline]
    pub fn newest_seq(&self) -> Seq {
        Seq(self.newest_seq.load(Ordering::Relaxed))
    }

    /// Entries, dead ones included.
    pub fn entries(&self) -> u32 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Where the data ends.
    pub fn data_end(&self) -> u32 {
        self.data_end.load(Ordering::Relaxed)
    }

    /// A value in the segment was handed out without a copy.
    pub fn pin(&self) {
        self.pins.fetch_add(1, Ordering::AcqRel);
    }

    /// Such a value was given back.
    pub fn unpin(&self) {
        let before = self.pins.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "unpinned more often than pinned");
    }

    /// Values handed out.
    pub fn pins(&self) -> u32 {
        self.pins.load(Ordering::Acquire)
    }
}

const CHUNK_SLOTS: usize = 1024;
const CHUNKS_MAX: usize = 4096;

/// All slots, in chunks that are allocated when first touched and never move, so that readers need no lock.
pub struct SegmentTable {
    chunks: Box<[OnceLock<Box<[SlotInfo]>>]>,
    small: Box<[SlotInfo]>,
}

const SMALL_SLOTS: usize = 64;

impl SegmentTable {
    /// A table of `slots` free slots.
    pub(super) fn new(slots: u32) -> Self {
        let chunks = (slots as usize).div_ceil(CHUNK_SLOTS);
        assert!(chunks <= CHUNKS_MAX, "{slots} slots are more than a pool can have");
        SegmentTable {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            small: (0..SMALL_SLOTS).map(|_| SlotInfo::new()).collect(),
        }
    }

    /// The slot's entry.
    #[inline(always)]
    pub fn slot(&self, slot: SegmentSlot) -> &SlotInfo {
        let index = slot.0 as usize;
        if index < SMALL_SLOTS {
            return &self.small[index];
        }
        let chunk = &self.chunks[index / CHUNK_SLOTS];
        let slots: &[SlotInfo] = match chunk.get() {
            Some(slots) => slots,
            None => new_chunk(chunk),
        };
        &slots[index % CHUNK_SLOTS]
    }

    /// Makes the memory for these slots, which the first look at one of them does otherwise.
    pub(super) fn make_memory(&self, slots: Range<u32>) {
        if slots.end as usize > SMALL_SLOTS {
            let chunks = slots.start as usize / CHUNK_SLOTS..(slots.end as usize).div_ceil(CHUNK_SLOTS);
            self.chunks.iter().take(chunks.end).skip(chunks.start).for_each(|chunk| _ = new_chunk(chunk));
        }
    }
}

#[cold]
fn new_chunk(chunk: &OnceLock<Box<[SlotInfo]>>) -> &[SlotInfo] {
    chunk.get_or_init(|| (0..CHUNK_SLOTS).map(|_| SlotInfo::new()).collect())
}

/// Most slots a pool can have.
pub const SLOTS_MAX: u32 = (CHUNK_SLOTS * CHUNKS_MAX) as u32;
