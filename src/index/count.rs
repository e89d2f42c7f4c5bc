//! How many entries an index has, counted without a cache line that two cores write.

use super::arena::{AddressSpace, Counter, Reserved};
use crate::sync::{Ordering, thread_number};

/// Threads with a counter that only they write.
const OWNED_COUNTERS: usize = 96;
/// Counters that later threads share.
const SHARED_COUNTERS: usize = 32;

/// A sum that every thread changes in a place of its own.
pub struct EntryCount {
    counters: Reserved<Counter>,
}

impl EntryCount {
    /// Address space that it needs.
    pub fn needed_bytes() -> usize {
        AddressSpace::needed_bytes::<Counter>(OWNED_COUNTERS + SHARED_COUNTERS)
    }

    /// Zero.
    pub fn new(space: &mut AddressSpace) -> EntryCount {
        EntryCount { counters: space.take(OWNED_COUNTERS + SHARED_COUNTERS) }
    }

    /// Adds `change`.
    #[inline]
    pub fn add(&self, change: i64) {
        let thread = thread_number();
        let change = change as u64;
        if thread < OWNED_COUNTERS {
            // This thread alone writes this counter, so no locked instruction is needed.
            let counter = &self.counters.get(thread).value;
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
        } else {
            let shared = OWNED_COUNTERS + thread % SHARED_COUNTERS;
            self.counters.get(shared).value.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// The sum. Exact when nobody changes it.
    pub fn sum(&self) -> u64 {
        let sum = (0..self.counters.count())
            .fold(0_u64, |sum, at| sum.wrapping_add(self.counters.get(at).value.load(Ordering::Relaxed)));
        // A removal may be seen before the insert that it followed on another thread.
        (sum as i64).max(0) as u64
    }

    /// Bytes of DRAM it holds.
    pub fn memory_bytes(&self) -> u64 {
        (self.counters.count() * size_of::<Counter>()) as u64
    }
}
