//! What recovery found damaged. A key whose newest entry may have been lost must not be answered from an older one, nor
//! with "absent": a get whose key may be in a damaged segment, and whose answer is older than the damage, is CORRUPTED.
//! A later put or delete of the key cures it, because its stamp exceeds the damage's bound. An empty list costs one
//! predictable branch.

use crate::error::Error;
use crate::format::Filter;
use crate::sync::{AtomicBool, Ordering, RwLock};
use crate::types::{MediaRange, SegmentId, Seq};

/// One damaged range.
pub struct Damage {
    /// The segment.
    pub segment: SegmentId,
    /// The bytes.
    pub range: MediaRange,
    /// No lost entry has a stamp above this.
    pub bound: Seq,
    /// Keys of the segment; `None` if that is not known: then any key may be meant.
    pub filter: Option<Filter>,
}

impl Damage {
    fn concerns(&self, hash: u32, answer: Seq) -> bool {
        answer < self.bound && self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    fn error(&self) -> Error {
        Error::Corrupted {
            what: "damaged log range that may hold the newest entry of the key: segment",
            offset: self.range.offset,
            expected: self.segment.0,
            found: self.segment.0,
        }
    }
}

/// All damage found at open.
#[derive(Default)]
pub struct DamageList {
    any: AtomicBool,
    list: RwLock<Vec<Damage>>,
}

impl DamageList {
    /// Adds a range.
    pub fn add(&self, damage: Damage) {
        self.list.write().push(damage);
        self.any.store(true, Ordering::Release);
    }

    /// True if some of the segment is damaged.
    pub fn concerns_segment(&self, segment: SegmentId) -> bool {
        !self.is_empty() && self.list.read().iter().any(|damage| damage.segment == segment)
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Number of damaged ranges.
    pub fn len(&self) -> usize {
        self.list.read().len()
    }

    /// What says that keys may be missing, if there is any.
    pub fn first(&self) -> Option<Error> {
        if self.is_empty() {
            return None;
        }
        self.list.read().first().map(Damage::error)
    }

    /// Refuses an answer with stamp `answer` (`Seq::ZERO`: absent) for a key with this short hash if it may be stale.
    #[cold]
    pub fn check(&self, hash: u32, answer: Seq) -> Result<(), Error> {
        match self.list.read().iter().find(|damage| damage.concerns(hash, answer)) {
            None => Ok(()),
            Some(damage) => Err(damage.error()),
        }
    }
}
