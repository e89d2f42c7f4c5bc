//! Who owns which bytes: the superblock, the table of segments, free slots and growth, extents of blobs.

mod audit;
pub mod extent;
mod growth;
mod refusal;
mod reserve;
mod slots;
pub mod superblock;
pub mod table;

use crate::checksum::SegmentSeed;
use crate::constants::*;
use crate::error::{Error, Result};
use crate::format::{
    Digest, NUMBERS_END, SEGMENT_BODY_OFFSET, STATE_WORD_OFFSET, SegmentClass, SegmentHeader, SegmentState,
    StateWord,
};
use crate::media::durable::{Dirty, Durable, InFlight};
use crate::media::{Media, Site};
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};
use crate::types::{Addr, LogId, MediaRange, SegmentId, SegmentSlot, Seq};
use refusal::Refusal;
use reserve::Reserve;
pub use reserve::{Purpose, RESERVE_SLOTS};
use slots::Slots;
use table::{SegmentTable, SlotState};

/// Where slots lie.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes before slot 0.
    pub head_size_bytes: u64,
    /// Bytes of a slot, a power of two.
    pub segment_size_bytes: u64,
    shift: u32,
}

impl Geometry {
    /// The geometry of a pool.
    pub fn new(head_size_bytes: u64, segment_size_bytes: u64) -> Self {
        assert!(segment_size_bytes.is_power_of_two(), "checked when the superblock was read or made");
        Geometry { head_size_bytes, segment_size_bytes, shift: segment_size_bytes.trailing_zeros() }
    }

    /// Pool offset of a slot.
    #[inline]
    pub fn offset_of(&self, slot: SegmentSlot) -> u64 {
        self.head_size_bytes + (u64::from(slot.0) << self.shift)
    }

    /// The slot that holds pool offset `offset`, which must not lie in the pool head.
    #[inline]
    pub fn slot_of(&self, offset: u64) -> SegmentSlot {
        debug_assert!(offset >= self.head_size_bytes);
        SegmentSlot(((offset - self.head_size_bytes) >> self.shift) as u32)
    }

    /// The slot of an address.
    #[inline]
    pub fn slot_of_addr(&self, addr: Addr) -> SegmentSlot {
        self.slot_of(addr.offset())
    }

    /// Pool offset one past the slot that holds `offset`.
    #[inline]
    pub fn segment_end(&self, offset: u64) -> u64 {
        self.offset_of(self.slot_of(offset)) + self.segment_size_bytes
    }

    /// The bytes of a slot.
    pub fn range_of(&self, slot: SegmentSlot) -> MediaRange {
        MediaRange::new(self.offset_of(slot), self.segment_size_bytes)
    }

    /// Whole slots in a pool of `len` bytes.
    pub fn slots_in(&self, len: u64) -> u32 {
        (len.saturating_sub(self.head_size_bytes) >> self.shift).min(u64::from(u32::MAX)) as u32
    }

    /// Slots that a store uses of a pool of `len` bytes: what lies behind those that a digest can list was put there by
    /// somebody else (`truncate`), is never named, and so need not be looked at.
    pub fn usable_slots_in(&self, len: u64) -> u32 {
        self.slots_in(len.min(POOL_BYTES_MAX)).min(table::SLOTS_MAX).min(listed_slots_max(self))
    }

    /// Length of a pool with `slots` slots.
    pub fn pool_len(&self, slots: u32) -> u64 {
        self.head_size_bytes + (u64::from(slots) << self.shift)
    }
}

/// Numbers given under one lock, so that their order is the order of durability: the roll lock of rule 6. A segment is
/// given its id, made durable and entered into the table without the lock being dropped, so no digest can miss it.
#[derive(Debug)]
pub struct Identities {
    /// Lowest id never given.
    pub next_id: SegmentId,
    /// Number of the newest digest.
    pub digest_number: u64,
}

impl Identities {
    /// The next segment id and digest number; [`Identities::give`] gives them. No store uses them up; a forged pool may
    /// claim so, and numbers that the next open would refuse must not be given.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn next_numbers(&self) -> Result<(SegmentId, u64)> {
        let number = self.digest_number + 1;
        if self.next_id.0 + 1 >= NUMBERS_END || number >= NUMBERS_END {
            return Err(Error::Unsupported("the pool has used up its segment numbers".into()));
        }
        Ok((self.next_id, number))
    }

    /// Gives numbers, before anything that bears them is written: if that fails they may be on the medium, and nobody else
    /// may get them.
    pub fn give(&mut self, id: SegmentId, digest_number: u64) {
        self.next_id = SegmentId(id.0 + 1);
        self.digest_number = digest_number;
    }
}

/// Who is told of a failure.
type FailureListener = Box<dyn Fn(&Error) + Send + Sync>;

/// Segments, free slots and growth. `growth.rs` says how large the pool should be.
pub struct Space {
    media: Arc<dyn Media>,
    uuid: [u8; 16],
    geometry: Geometry,
    table: SegmentTable,
    identities: Mutex<Identities>,
    free: Mutex<Slots>,
    /// Slots in the pool, hollow ones included; changed under `growth` alone.
    slots: AtomicU32,
    growth: Mutex<()>,
    target: growth::Target,
    refusal: Refusal,
    slots_max: u32,
    quota: Option<u64>,
    reserve: Reserve,
    grown_in_foreground: AtomicU64,
    taken: AtomicU64,
    /// Told that a sync of a growth failed, before whoever asked for the growth is.
    on_failed_sync: OnceLock<FailureListener>,
}

impl Space {
    /// The space of an opened pool; every slot starts as free, recovery then enters what it finds.
    pub fn new(
        media: Arc<dyn Media>,
        uuid: [u8; 16],
        geometry: Geometry,
        quota: Option<u64>,
        target_utilization: f64,
        identities: Identities,
    ) -> Self {
        let slots = geometry.usable_slots_in(media.len_bytes());
        let slots_max = geometry.usable_slots_in(quota.unwrap_or(POOL_BYTES_MAX)).max(slots);
        let reachable = geometry.usable_slots_in(media.len_bytes_max()).min(slots_max).max(slots);
        Space {
            media,
            uuid,
            geometry,
            table: SegmentTable::new(reachable),
            identities: Mutex::new(identities),
            free: Mutex::new(Slots::all_ready(slots)),
            slots: AtomicU32::new(slots),
            growth: Mutex::new(()),
            target: growth::Target::new(target_utilization),
            refusal: Refusal::default(),
            slots_max,
            quota,
            reserve: Reserve::default(),
            grown_in_foreground: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            on_failed_sync: OnceLock::new(),
        }
    }

    /// Has `call` called when a sync of a growth fails, after which no drain can succeed.
    pub fn call_on_failed_sync(&self, call: impl Fn(&Error) + Send + Sync + 'static) {
        assert!(self.on_failed_sync.set(Box::new(call)).is_ok(), "one listener");
    }

    /// The geometry.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The segment table.
    #[inline]
    pub fn table(&self) -> &SegmentTable {
        &self.table
    }

    /// Identity of the pool.
    pub fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    /// The roll lock and what is given under it.
    pub fn identities(&self) -> MutexGuard<'_, Identities> {
        self.identities.lock()
    }

    /// Bytes that the pool can have at most while it is open.
    pub fn len_bytes_max(&self) -> u64 {
        self.geometry.pool_len(self.slots_max).min(self.media.len_bytes_max().max(self.media.len_bytes()))
    }

    /// Slots in the pool, those included that were given back within it.
    pub fn slot_count(&self) -> u32 {
        self.slots.load(Ordering::Acquire)
    }

    /// Slots that are free and allocated.
    pub fn free_slots(&self) -> u32 {
        self.free.lock().ready.len() as u32
    }

    /// Slots that puts leave free.
    pub fn reserved_slots(&self) -> u32 {
        self.reserve.kept_from(Purpose::Put)
    }

    /// Slots that puts may take now, or once what is on its way to be free is.
    pub fn soon_available(&self) -> u32 {
        let lent = self.available(Purpose::Put);
        let all = self.free_slots() + self.reserve.releasable();
        lent.max(all.saturating_sub(self.reserve.backed_heads() + RESERVE_SLOTS))
    }

    /// Recovery: so many heads hold something, and the slots that back them are free.
    pub fn add_backed_heads(&self, count: u32) {
        self.reserve.add_heads(count);
    }

    /// A backed head was replaced by an empty one, which took its slot.
    pub fn remove_backed_head(&self) {
        self.reserve.remove_head();
    }

    /// Free slots that this purpose may take without growth.
    pub fn available(&self, purpose: Purpose) -> u32 {
        self.free_slots().saturating_sub(self.reserve.kept_from(purpose))
    }

    /// Times a writer had to grow the pool itself.
    pub fn foreground_growths(&self) -> u64 {
        self.grown_in_foreground.load(Ordering::Relaxed)
    }

    /// Takes a free slot, growing the pool if need be.
    ///
    /// # Errors
    /// `NoSpace`, `Io` from growth: nothing was changed. If it was a sync on a file that failed, the store is poisoned.
    pub fn take_slot(&self, purpose: Purpose) -> Result<SegmentSlot> {
        loop {
            if let Some(slot) = self.take_ready(purpose) {
                return Ok(slot);
            }
            self.grown_in_foreground.fetch_add(1, Ordering::Relaxed);
            self.grow_for(purpose)?;
        }
    }

    /// Takes `count` free slots, or none: for writes that must not stop half way. The caller returns what it does not use.
    ///
    /// # Errors
    /// As [`Space::take_slot`].
    pub fn take_slots(&self, count: usize, purpose: Purpose) -> Result<Vec<SegmentSlot>> {
        let mut slots = Vec::with_capacity(count.min(1024));
        while slots.len() < count {
            match self.take_slot(purpose) {
                Ok(slot) => slots.push(slot),
                Err(error) => {
                    slots.into_iter().for_each(|slot| self.return_slot(slot));
                    return Err(match error {
                        Error::NoSpace { limit, .. } => Error::NoSpace {
                            needed_bytes: count as u64 * self.geometry.segment_size_bytes,
                            free_bytes: u64::from(self.free_slots()) * self.geometry.segment_size_bytes,
                            limit,
                        },
                        other => other,
                    });
                }
            }
        }
        Ok(slots)
    }

    /// Backs a head that is about to get its first entry: the next recovery will need a slot for it beside what is kept from
    /// `purpose`.
    ///
    /// # Errors
    /// `NoSpace`: nothing was changed. `Io` from growth.
    pub fn back_head(&self, purpose: Purpose) -> Result<()> {
        while !self.try_back_head(purpose) {
            self.grow_for(purpose)?;
        }
        Ok(())
    }

    fn try_back_head(&self, purpose: Purpose) -> bool {
        let free = self.free.lock();
        let is_there = free.ready.len() as u32 > self.reserve.kept_from(purpose);
        self.reserve.add_heads(u32::from(is_there));
        is_there
    }

    fn take_ready(&self, purpose: Purpose) -> Option<SegmentSlot> {
        let mut free = self.free.lock();
        if free.ready.len() as u32 <= self.reserve.kept_from(purpose) {
            return None;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        free.ready.pop_first().map(SegmentSlot)
    }

    /// Gives a slot back that was taken and not used, or that is free on the medium.
    pub fn return_slot(&self, slot: SegmentSlot) {
        self.table.slot(slot).clear();
        let inserted = self.free.lock().ready.insert(slot.0);
        assert!(inserted, "slot {} was free already", slot.0);
    }

    /// Recovery: the slot is in use.
    pub fn claim_slot(&self, slot: SegmentSlot) {
        let removed = self.free.lock().ready.remove(&slot.0);
        assert!(removed, "slot {} is listed twice", slot.0);
    }

    /// Writes header and body (digest) of a segment that is about to be opened in `slot`. Its state word still says
    /// free: nothing names the segment until [`Space::activate`].
    ///
    /// # Errors
    /// `Io`.
    pub fn write_header(&self, header: &SegmentHeader, body: &[u8]) -> Result<InFlight<SegmentHeader>> {
        let base = self.geometry.offset_of(header.slot);
        let media = &*self.media;
        let written = InFlight::write_through(media, base, &header.encode(&self.uuid), *header)?;
        if body.is_empty() {
            return Ok(written);
        }
        let body = InFlight::write_through(media, base + SEGMENT_BODY_OFFSET, body, ())?;
        Ok(InFlight::and(written, body).map(|(header, ())| header))
    }

    /// Makes a durable header count: its state word, durable when this returns.
    ///
    /// # Errors
    /// `Io`.
    pub fn activate(
        &self,
        header: Durable<SegmentHeader>,
        state: SegmentState,
        flush: Site,
        drain: Site,
    ) -> Result<Durable<SegmentHeader>> {
        let header = header.into_inner();
        let word = Dirty::write_word(
            &*self.media,
            self.geometry.offset_of(header.slot) + STATE_WORD_OFFSET,
            StateWord::new(state, header.id).encode(),
            header,
        )?;
        word.flush(&*self.media, flush).drain(&*self.media, drain)
    }

    /// Changes the state word of a segment; the caller drains.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_state(
        &self,
        slot: SegmentSlot,
        id: SegmentId,
        state: SegmentState,
        site: Site,
    ) -> Result<InFlight<()>> {
        let at = self.geometry.offset_of(slot) + STATE_WORD_OFFSET;
        let word = Dirty::write_word(&*self.media, at, StateWord::new(state, id).encode(), ())?;
        Ok(word.flush(&*self.media, site))
    }

    /// Opens a segment that is no log head in a free `slot`: header durable, then state OPEN durable, then listed. Under
    /// the roll lock, because a digest formed in between would count its id as given and not list it.
    ///
    /// # Errors
    /// `Io`: what of it is on the medium is unknown.
    pub fn open_segment(&self, class: SegmentClass, slot: SegmentSlot) -> Result<SegmentId> {
        let mut identities = self.identities.lock();
        let (id, _) = match identities.next_numbers() {
            Ok(numbers) => numbers,
            Err(error) => {
                drop(identities);
                self.return_slot(slot);
                return Err(error);
            }
        };
        let digest_number = identities.digest_number;
        identities.give(id, digest_number);
        let header = SegmentHeader { id, slot, log: LogId(0), class, creation_seq: Seq::ZERO };
        let durable = self.write_header(&header, &[])?.drain(&*self.media, Site::OpenHeaderDrain)?;
        self.activate(durable, SegmentState::Open, Site::OpenSegmentFlush, Site::OpenSegmentDrain)?
            .into_inner();
        self.enter(&header, SlotState::Open);
        Ok(id)
    }

    /// Nothing in these segments counts any more, and what made it so is durable: every later digest leaves them out. The
    /// number of the newest digest that does not.
    pub fn set_releasable(&self, slots: impl Iterator<Item = SegmentSlot>) -> u64 {
        let identities = self.identities.lock();
        slots.for_each(|slot| {
            self.table.slot(slot).set_releasable();
            self.reserve.add_releasable(1);
        });
        identities.digest_number
    }

    /// Frees segments that no digest lists and no reader sees: their slots are reusable.
    ///
    /// Their state words say so, but need not be durable: a slot whose word is one of a segment that was not a head any
    /// more and has an id below the ruling digest's next, and which that digest does not list, is free for recovery,
    /// whatever a new header or data have made of the rest. (A stale `Active` would be a head that does not verify: those
    /// that recovery gives up are set free durably.) For the same reason nobody has to drain before the bytes of a slot are
    /// given back to the file system (`growth.rs`).
    ///
    /// # Errors
    /// `Io`: the caller poisons.
    pub fn release(&self, segments: &[(SegmentSlot, SegmentId)]) -> Result<()> {
        for (slot, id) in segments {
            let at = self.geometry.offset_of(*slot) + STATE_WORD_OFFSET;
            let word = StateWord::new(SegmentState::Free, *id).encode();
            let (_, ()) = Dirty::write_word(&*self.media, at, word, ())?.leave_dirty();
        }
        for (slot, _) in segments {
            self.reserve.take_releasable(1);
            self.return_slot(*slot);
        }
        Ok(())
    }

    /// Enters a segment into the table.
    pub fn enter(&self, header: &SegmentHeader, state: SlotState) {
        let seed = SegmentSeed::new(&self.uuid, header.id);
        self.table.slot(header.slot).enter(header, state, seed);
    }
}

/// Segments that the digest in a head can list: every slot may have to be listed, or a roll would fail for want of room
/// in the head when there is room in the pool.
fn listed_slots_max(geometry: &Geometry) -> u32 {
    Digest::slots_max(Digest::bytes_max(geometry.segment_size_bytes)).min(u64::from(u32::MAX)) as u32
}
