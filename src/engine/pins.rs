//! Pins: values handed out without a copy. A pin counts on its segment, not on the reclamation clock: only that segment (or
//! extent) waits, and the pin may be given back on any thread. While a store has pins it cannot be closed.

use super::Engine;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::sync::{Arc, Ordering};
use crate::types::{MediaRange, SegmentSlot};
use std::ops::Deref;

/// What a pin needs of its store, whatever its index.
pub(crate) trait PinHost: Send + Sync {
    fn bytes(&self, range: MediaRange) -> &[u8];
    fn unpin(&self, slot: SegmentSlot);
}

impl<I: Index + 'static> PinHost for Engine<I> {
    fn bytes(&self, range: MediaRange) -> &[u8] {
        self.media.region().bytes(range).expect("a pinned range was read when it was pinned")
    }

    fn unpin(&self, slot: SegmentSlot) {
        self.space.table().slot(slot).unpin();
        self.pinned.fetch_sub(1, Ordering::AcqRel);
    }
}

enum Bytes {
    Pinned { host: Arc<dyn PinHost>, slot: SegmentSlot, range: MediaRange },
    Owned(Vec<u8>),
}

/// A value that stays readable until it is dropped, whatever becomes of its key: zero copy where the value lies in one
/// piece, else a copy of its own. Verified once, when it was pinned. May be dropped on any thread.
pub struct ValueRef {
    bytes: Bytes,
}

impl ValueRef {
    pub(super) fn owned(bytes: Vec<u8>) -> ValueRef {
        ValueRef { bytes: Bytes::Owned(bytes) }
    }

    /// True if the value was not copied.
    pub fn is_zero_copy(&self) -> bool {
        matches!(self.bytes, Bytes::Pinned { .. })
    }
}

impl Deref for ValueRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Pinned { host, range, .. } => host.bytes(*range),
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Drop for ValueRef {
    fn drop(&mut self) {
        if let Bytes::Pinned { host, slot, .. } = &self.bytes {
            host.unpin(*slot);
        }
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
        self.pinned.fetch_add(1, Ordering::SeqCst);
        self.space.table().slot(slot).pin();
        let host: Arc<dyn PinHost> = Arc::clone(self) as Arc<dyn PinHost>;
        let pinned = ValueRef { bytes: Bytes::Pinned { host, slot, range } };
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        Ok(pinned)
    }
}
