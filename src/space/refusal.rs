//! What the device refused. While that is remembered the pool counts as being as large as it can get: it is cleaned, and
//! writers are slowed, before one of them has to stop, and new data asks the device for nothing. Invariants:
//!   - only growth writes it, under its lock: a pool that has grown since has no refusal
//!   - it is forgotten before a write is refused on its account, once the pool gave something back, and after a while: who
//!     shares the device may have made room

use crate::sync::Mutex;
use std::time::{Duration, Instant};

/// The newest refusal: when, and by what.
#[derive(Default)]
pub(super) struct Refusal(Mutex<Option<(Instant, String)>>);

impl Refusal {
    pub(super) fn note(&self, limit: &str) {
        *self.0.lock() = Some((Instant::now(), limit.to_string()));
    }

    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Forgets one that is older than `age`. True if there was such a one.
    pub(super) fn forget_older(&self, age: Duration) -> bool {
        self.0.lock().take_if(|(noted, _)| noted.elapsed() >= age).is_some()
    }

    pub(super) fn stands(&self) -> bool {
        self.0.lock().is_some()
    }

    /// What refused.
    pub(super) fn limit(&self) -> Option<String> {
        self.0.lock().as_ref().map(|(_, limit)| limit.clone())
    }
}
