//! Pins: values handed out without a copy. A pin counts on its segment, not on the reclamation clock: only that segment (or
//! extent) waits, and the pin may be given back on any thread. While a store has pins it cannot be closed.

use super::Engine;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::space::table::SlotState;
use crate::sync::{Arc, Ordering};
use crate::types::{MediaRange, SegmentSlot};
use std::ops::Deref;

/// What a pin needs of its store, whatever its index.
pub(crate) trait PinHost: Send + Sync {
    fn bytes(&self, range: MediaRange) -> &[u8];
    /// Gives a pin back; a copied value has no slot.
    fn unpin(&self, slot: Option<SegmentSlot>);
}

impl<I: Index + 'static> PinHost for Engine<I> {
    fn bytes(&self, range: MediaRange) -> &[u8] {
        self.media.region().bytes(range).expect("a pinned range was read when it was pinned")
    }

    fn unpin(&self, slot: Option<SegmentSlot>) {
        if let Some(slot) = slot {
            self.space.table().slot(slot).unpin();
        }
        self.pinned.fetch_sub(1, Ordering::AcqRel);
    }
}

enum Bytes {
    Pinned { slot: SegmentSlot, range: MediaRange },
    Copied(Vec<u8>),
}

/// A value that stays readable until it is dropped, whatever becomes of its key: zero copy where the value lies in one
/// piece, else a copy of its own. Verified once, when it was pinned. May be dropped on any thread.
pub struct ValueRef {
    host: Arc<dyn PinHost>,
    bytes: Bytes,
}

impl ValueRef {
    /// True if the value was not copied.
    pub fn is_zero_copy(&self) -> bool {
        matches!(self.bytes, Bytes::Pinned { .. })
    }
}

impl Deref for ValueRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Pinned { range, .. } => self.host.bytes(*range),
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl Drop for ValueRef {
    fn drop(&mut self) {
        self.host.unpin(match &self.bytes {
            Bytes::Pinned { slot, .. } => Some(*slot),
            Bytes::Copied(_) => None,
        });
    }
}

impl std::fmt::Debug for ValueRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ValueRef({} bytes)", self.len())
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Pins a range that the caller reads under an epoch guard: the guard keeps the segment until the pin counts.
    ///
    /// # Errors
    /// `Closed` if the store is being closed.
    pub(super) fn pin(self: &Arc<Self>, range: MediaRange) -> Result<ValueRef> {
        let slot = self.space.geometry().slot_of(range.offset);
        self.space.table().slot(slot).pin();
        self.count_pin(Bytes::Pinned { slot, range })
    }

    /// Pins a copy. It counts like any pin: whether a value had to be copied depends on where it lies, and whether the
    /// store can be closed must not.
    ///
    /// # Errors
    /// As [`Engine::pin`].
    pub(super) fn pin_copy(self: &Arc<Self>, value: Vec<u8>) -> Result<ValueRef> {
        self.count_pin(Bytes::Copied(value))
    }

    /// A refusal for want of room says what pins hold.
    pub(super) fn name_pins(&self, refusal: Error) -> Error {
        let Error::NoSpace { needed_bytes, free_bytes, limit } = refusal else { return refusal };
        let (pins, bytes) = self.dead_bytes_under_pins();
        if pins == 0 {
            return Error::NoSpace { needed_bytes, free_bytes, limit };
        }
        let limit = format!("{limit}; {bytes} dead bytes are held by pins ({pins})");
        Error::NoSpace { needed_bytes, free_bytes, limit }
    }

    /// How many pins keep dead bytes from being free, and how many bytes.
    fn dead_bytes_under_pins(&self) -> (u64, u64) {
        let table = self.space.table();
        let (mut slots, mut bytes) = self.limbo.held_by_pins();
        for slot in (0..self.space.slot_count()).map(SegmentSlot) {
            let info = table.slot(slot);
            let dead = match info.state() {
                SlotState::Releasable => self.space.geometry().segment_size_bytes,
                // A pinned segment is no victim.
                SlotState::Sealed => info.dead_bytes(),
                SlotState::Free | SlotState::Open | SlotState::Active => 0,
            };
            if info.pins() > 0 && dead > 0 {
                bytes += dead;
                slots.insert(slot);
            }
        }
        (slots.iter().map(|slot| u64::from(table.slot(*slot).pins())).sum(), bytes)
    }

    fn count_pin(self: &Arc<Self>, bytes: Bytes) -> Result<ValueRef> {
        self.pinned.fetch_add(1, Ordering::SeqCst);
        let pinned = ValueRef { host: Arc::clone(self) as Arc<dyn PinHost>, bytes };
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        Ok(pinned)
    }
}
