//! What scans of a file ask a device: whether something is in memory, and for what is not.

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Answers, and counts what it was asked.
#[derive(Default)]
pub struct Device {
    is_cold: AtomicBool,
    asked: AtomicU64,
    ahead: AtomicU64,
}

impl Device {
    /// Whether it says that nothing is in memory.
    pub fn set_cold(&self, is_cold: bool) {
        self.is_cold.store(is_cold, Ordering::Relaxed);
    }

    /// How often it was asked whether something is in memory, and how often for what is not.
    pub fn questions(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.ahead.load(Ordering::Relaxed))
    }

    pub(super) fn is_cached(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        !self.is_cold.load(Ordering::Relaxed)
    }

    pub(super) fn read_ahead(&self) {
        self.ahead.fetch_add(1, Ordering::Relaxed);
    }
}
