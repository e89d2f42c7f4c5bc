//! Waiting for space. A write that finds no room changes nothing and holds nothing; it asks the cleaner and tries again,
//! until it fits, until the cleaner gains nothing any more (the pool is full of what counts), or for
//! `write_stall_ms_max`.

use super::super::Engine;
use super::{Aim, CleanerCounters, Pass};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::space::{Purpose, Space};
use crate::sync::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Passes in a row that gain next to nothing though they should have, after which cleaning is given up: entries that fit
/// badly into segments.
const FUTILE_PASSES_MAX: u32 = 4;

/// Passes after which a write is refused though they gain something, if never more slots are free than it had found before: a
/// large value that finds room gives it back if its entry finds none, and each time that is gained. So many passes that each
/// gain the least that counts make a segment.
const VAIN_PASSES_MAX: u64 = 128;

/// Passes that follow each other.
#[derive(Default)]
pub(super) struct Gains {
    futile: u32,
}

impl Gains {
    /// Notes a pass; false once passes gain nothing.
    pub(super) fn go_on(&mut self, pass: Pass, enough: u64) -> bool {
        let is_futile = pass.gained_bytes < enough as i64;
        self.futile = if is_futile { self.futile + 1 } else { 0 };
        pass.emptied > 0 && self.futile < FUTILE_PASSES_MAX
    }
}

/// A write waits for room that is there, but in holes between extents.
struct Stranded<'a>(&'a AtomicU32);

impl<'a> Stranded<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Stranded(count)
    }
}

impl Drop for Stranded<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Does `write`, and does it again when there is room if there was none.
    ///
    /// # Errors
    /// Those of `write`. `NoSpace`: what is live and the request do not fit. `TimedOut`: there may be room later.
    pub(in crate::engine) fn with_room<R>(&self, mut write: impl FnMut() -> Result<R>) -> Result<R> {
        match write() {
            // Not moved with what an error would have: a result of nothing is one word.
            Ok(done) => Ok(done),
            Err(full @ Error::NoSpace { .. }) => self.write_when_there_is_room(full, write),
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn write_when_there_is_room<R>(
        &self,
        mut full: Error,
        mut write: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let since = Instant::now();
        let mut gains = Gains::default();
        let mut tried_with = self.space.free_slots();
        let mut stranded = None;
        let mut passes_before = self.cleaner.passes_ended();
        let result = loop {
            if !self.extents.take_lack_of_blocks() {
                stranded.get_or_insert_with(|| Stranded::new(&self.cleaner.stranded));
            }
            let mut refusal = self.wait_for_room(&mut gains, since, tried_with, full.clone()).err();
            let free = self.space.free_slots();
            let passes = self.cleaner.passes_ended();
            if free > tried_with {
                (tried_with, passes_before) = (free, passes);
            } else if passes - passes_before > VAIN_PASSES_MAX {
                refusal = Some(full);
            }
            // Also after a refusal: others may have made room meanwhile, in the pool or on the device.
            let result = if refusal.is_some() { self.grow_and(&mut write) } else { write() };
            match (result, refusal) {
                (Err(last @ Error::NoSpace { .. }), Some(Error::NoSpace { .. })) => break Err(last),
                (Err(Error::NoSpace { .. }), Some(refusal)) => break Err(refusal),
                (Err(still_full @ Error::NoSpace { .. }), None) => full = still_full,
                (result, _) => break result,
            }
        };
        let counters = &self.cleaner.counters;
        CleanerCounters::add(&counters.stalls, 1);
        counters.longest_stall_us.fetch_max(since.elapsed().as_micros() as u64, Ordering::Relaxed);
        result.map_err(|refusal| self.name_snapshots(self.name_pins(refusal)))
    }

    /// A refusal says who keeps space that nobody can clean.
    fn name_snapshots(&self, refusal: Error) -> Error {
        let kept = self.versions.kept();
        if kept.open == 0 {
            return refusal;
        }
        let holders = format!(
            "open snapshots and iterators: {}, with {} bytes of older values; the segments that these lie in are kept",
            kept.open, kept.bytes
        );
        match refusal {
            Error::NoSpace { needed_bytes, free_bytes, limit } => {
                Error::NoSpace { needed_bytes, free_bytes, limit: format!("{limit}; {holders}") }
            }
            Error::TimedOut(why) => Error::TimedOut(format!("{why}; {holders}")),
            other => other,
        }
    }

    /// Cleaning gained nothing, or not in time: asks the device again if it refused, does `write`, and has the pool grow for it
    /// as long as it is only held back. Others may take what it grew by, so it may take several times, but no pool grows for
    /// ever.
    fn grow_and<R>(&self, write: &mut impl FnMut() -> Result<R>) -> Result<R> {
        self.space.forget_refusal();
        loop {
            match write() {
                Err(Error::NoSpace { needed_bytes, limit, .. }) if Space::is_held_back(&limit) => {
                    self.space.allow_growth(needed_bytes);
                }
                result => return result,
            }
        }
    }

    /// Returns when it is worth trying again: there are more free slots than there ever were for this write, or extents of dead
    /// values came free. The latter may go on for ever and never be enough, so it does not count once the time is over.
    fn wait_for_room(&self, gains: &mut Gains, since: Instant, tried_with: u32, full: Error) -> Result<()> {
        if self.options.background {
            let most = Duration::from_millis(self.options.write_stall_ms_max);
            let retired = self.extents.usage().retired_bytes;
            let has_room = || {
                let has_settled = || self.extents.usage().retired_bytes < retired;
                self.space.free_slots() > tried_with || (since.elapsed() < most && has_settled())
            };
            return self.cleaner_thread.wait_for_progress(has_room, since, most, full);
        }
        let mut pass = self.clean(Aim::Space)?;
        while pass.is_walking {
            pass = self.clean(Aim::Space)?;
        }
        if gains.go_on(pass, self.worthwhile_bytes()) { Ok(()) } else { Err(full) }
    }

    /// Ends cleaning until [`Engine::resume_maintenance`].
    ///
    /// # Errors
    /// `NoSpace`: slots are scarce and cannot be had, and without cleaning writes would soon stop. `Io` from growth.
    pub fn pause_maintenance(&self) -> Result<()> {
        self.check_writable()?;
        let low = self.space.low_mark();
        if self.space.make_available(low)? < low {
            return Err(Error::NoSpace {
                needed_bytes: self.space.geometry().segment_size_bytes,
                free_bytes: u64::from(self.space.free_slots()) * self.space.geometry().segment_size_bytes,
                limit: "what the cleaner keeps free: maintenance cannot be paused now".into(),
            });
        }
        self.stop_cleaning();
        Ok(())
    }

    /// The cleaner rests, also if writes have no room.
    pub fn stop_cleaning(&self) {
        self.cleaner_thread.pause(true);
        self.space.suspend_target(true);
        // A pass that is at work is finished.
        drop(self.cleaner.work.lock());
    }

    /// Cleans again when it is needed.
    pub fn resume_maintenance(&self) -> Result<()> {
        self.check_writable()?;
        self.space.suspend_target(false);
        self.cleaner_thread.pause(false);
        Ok(())
    }

    /// The pool gives back what it has had too much of for as long as `patience`. True if there was any.
    pub fn give_back(&self, patience: Duration) -> bool {
        // A store that was poisoned stays as it is.
        self.check_writable().is_ok() && self.space.give_back(patience)
    }

    /// Every free slot goes back to the file system.
    ///
    /// # Errors
    /// `Closed`, `Poisoned`, `ReadOnly`.
    #[cfg(feature = "sim")]
    pub fn give_back_all(&self) -> Result<bool> {
        self.check_writable()?;
        Ok(self.space.give_back_all())
    }

    /// What a pass has to gain: else there is nothing to gain any more.
    pub(super) fn worthwhile_bytes(&self) -> u64 {
        self.space.geometry().segment_size_bytes / 128
    }

    /// True if slots for new data are getting scarce; `plenty` asks whether the cleaner may rest.
    pub(in crate::engine) fn is_scarce(&self, plenty: bool) -> bool {
        let low = self.space.low_mark();
        let enough = if plenty { low + low / 2 } else { low };
        let free = self.space.available(Purpose::Put);
        // How far the pool may grow is only worked out when it matters.
        free < enough && free + self.space.growable_slots() < enough
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/room.rs"]
mod tests;
