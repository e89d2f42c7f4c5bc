//! Which segments are emptied first, and which survivors go together. Nothing here is needed for safety: it is forgotten
//! when the store is closed, and measured anew.
//!
//! A segment whose entries still die fast is worth waiting for; one that hardly decays any more gives its space only to
//! who takes it, though much of it counts. So the rate at which live bytes of a segment die is measured, in bytes per byte
//! appended, and the segment with the highest share³ / rate is emptied first, share being what emptying it gains. Where
//! all entries die alike that is the order of plain greed; where some are hot it leaves their segments alone until they
//! have decayed. (The square is what the cost of waiting suggests; the cube measured better. See decision 0014.)
//!
//! Survivors of log heads go to the first stream, those of a stream to the next: what was moved twice is colder than what
//! was moved once.

use crate::space::table::SlotInfo;
use crate::types::{SegmentId, SegmentSlot};

/// Streams of survivors that a pool with slots enough has.
pub(in crate::engine) const STREAMS_MAX: usize = 2;
/// A pool has a stream for each of so many slots: open survivor segments must not take much of it.
const SLOTS_PER_STREAM: u32 = 128;
/// Rates are measured over a pool's size of appends, divided by this.
const PERIODS_PER_POOL: u64 = 16;

/// How many streams there are.
pub(super) fn streams(slots: u32) -> usize {
    ((slots / SLOTS_PER_STREAM) as usize).clamp(1, STREAMS_MAX)
}

/// What was seen of the segment in a slot.
#[derive(Clone, Copy)]
struct Seen {
    id: SegmentId,
    /// Stream of a survivor segment.
    stream: usize,
    /// Bytes appended, and what of the segment was live, when the period began; `None` before the first look.
    since: Option<(u64, u64)>,
    /// Of earlier periods.
    rate: Option<f64>,
}

/// How fast segments decay.
#[derive(Default)]
pub(super) struct Decay {
    seen: Vec<Option<Seen>>,
    /// Bytes appended to all logs at the last look.
    now: u64,
    period_bytes: u64,
}

impl Decay {
    /// A survivor segment of this stream was opened.
    pub(super) fn note_stream(&mut self, slot: SegmentSlot, id: SegmentId, stream: usize) {
        *self.entry(slot) = Some(Seen { id, stream, since: None, rate: None });
    }

    /// Stream of the survivors of the segment in `slot`, which is one of survivors itself; those of earlier opens count
    /// as the first stream.
    pub(super) fn next_stream(&self, slot: SegmentSlot, id: SegmentId) -> usize {
        self.known(slot, id).map_or(0, |seen| seen.stream) + 1
    }

    /// Begins a look at all sealed segments of a pool of this size, after so many bytes were appended.
    pub(super) fn begin_look(&mut self, appended: u64, pool_bytes: u64) {
        self.now = appended;
        self.period_bytes = (pool_bytes / PERIODS_PER_POOL).max(1);
    }

    /// How soon a segment is to be emptied whose emptying gains `share` of a segment: higher is sooner. `None` if it is
    /// seen for the first time.
    pub(super) fn score(&mut self, slot: SegmentSlot, info: &SlotInfo, share: f64) -> Option<f64> {
        let (now, period) = (self.now, self.period_bytes);
        let live = info.op_bytes().saturating_sub(info.dead_bytes());
        let entry = info.op_bytes() / u64::from(info.entries().max(1)) + 1;
        let id = info.id();
        let seen = self.entry(slot).get_or_insert(Seen { id, stream: 0, since: None, rate: None });
        if seen.id != id {
            *seen = Seen { id, stream: 0, since: None, rate: None };
        }
        let Some((began, live_then)) = seen.since else {
            seen.since = Some((now, live));
            return None;
        };
        let (died, appended) = (live_then.saturating_sub(live) as f64, now.saturating_sub(began) as f64);
        // Nothing died yet is no proof that nothing will: as if one more entry had.
        let entry = entry as f64;
        let rate = match seen.rate {
            None => (died + entry) / (appended + entry),
            Some(rate) => (rate * period as f64 + died + entry) / (period as f64 + appended + entry),
        };
        if appended >= period as f64 {
            let latest = died / appended;
            seen.rate = Some(seen.rate.map_or(latest, |rate| (rate + latest) / 2.0));
            seen.since = Some((now, live));
        }
        Some(share.max(0.0).powi(3) / rate)
    }

    fn known(&self, slot: SegmentSlot, id: SegmentId) -> Option<&Seen> {
        self.seen.get(slot.0 as usize)?.as_ref().filter(|seen| seen.id == id)
    }

    fn entry(&mut self, slot: SegmentSlot) -> &mut Option<Seen> {
        let at = slot.0 as usize;
        if self.seen.len() <= at {
            self.seen.resize(at + 1, None);
        }
        &mut self.seen[at]
    }
}
