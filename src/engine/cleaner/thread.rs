//! The cleaner's thread: cleans while slots for new data are scarce or a write waits for room, and frees what waits for
//! readers. It sleeps otherwise, and while maintenance is paused.

use super::super::Engine;
use super::room::Gains;
use super::{Aim, Pass, WaitsFor};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::sync::{Arc, Condvar, Mutex};
use std::sync::Weak;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it looks while a write waits and readers keep what would be free.
const POLL: Duration = Duration::from_micros(200);

/// How long the pool must have been too large before it gives back.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    /// There is something to do.
    wake: Condvar,
    /// There is room, or there will be none.
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    stop: bool,
    /// The thread panicked.
    is_gone: bool,
    kicked: bool,
    paused: bool,
    /// The thread is between two rests.
    at_work: bool,
    /// Writes that wait for room.
    waiting: u32,
    /// Rounds that ended because nothing more was gained.
    rounds_in_vain: u64,
}

/// A handle on the thread; without one (simulations) those who need room clean by themselves.
#[derive(Default)]
pub struct CleanerThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl CleanerThread {
    /// Starts the thread. It holds the engine weakly and ends with it.
    pub fn start<I: Index + 'static>(&self, engine: &Arc<Engine<I>>) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let weak = Arc::downgrade(engine);
        crate::panics::keep_quiet();
        let run = move || {
            let ended = crate::panics::stop(|| {
                run(&shared, &weak);
                Ok(())
            });
            // From now on nobody makes room: whoever waits for it, or is about to, must not do so in vain.
            if let (Err(error), Some(engine)) = (ended, weak.upgrade()) {
                engine.poison(&error.to_string());
                shared.give_up();
            }
        };
        let thread = crate::media::spawn_without_signals("flatkv-cleaner", run)?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits for it, unless it is the caller.
    pub fn stop(&self) {
        self.shared.wanted.lock().stop = true;
        self.shared.wake.notify_all();
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    /// Slots may be scarce.
    pub fn kick(&self) {
        self.shared.wanted.lock().kicked = true;
        self.shared.wake.notify_all();
    }

    /// True if a write waits for room.
    pub(super) fn is_awaited(&self) -> bool {
        self.shared.is_awaited()
    }

    /// As if a write waited from now on.
    #[cfg(all(test, feature = "sim"))]
    pub(super) fn pretend_waiter(&self) {
        self.shared.wanted.lock().waiting += 1;
    }

    /// There may be room now.
    pub(super) fn tell_waiters(&self) {
        // Under the lock: a writer between its look and its wait would miss it.
        let _wanted = self.shared.wanted.lock();
        self.shared.changed.notify_all();
    }

    /// True if it does not clean, now or ever.
    pub fn rests(&self) -> bool {
        let wanted = self.shared.wanted.lock();
        wanted.paused || wanted.stop || wanted.is_gone
    }

    /// Stops or resumes cleaning. A pass that is at work is finished and waited for.
    pub fn pause(&self, paused: bool) {
        let mut wanted = self.shared.wanted.lock();
        wanted.paused = paused;
        self.shared.wake.notify_all();
        while wanted.paused && wanted.at_work && !wanted.is_gone && !wanted.stop {
            wanted = self.shared.changed.wait(wanted);
        }
    }

    /// Waits until there may be room for a write that met `full`.
    ///
    /// # Errors
    /// `full` once a round that began after the call gained nothing; `TimedOut` after `most`.
    pub fn wait_for_progress(
        &self,
        has_room: impl Fn() -> bool,
        since: Instant,
        most: Duration,
        full: Error,
    ) -> Result<()> {
        let shared = &*self.shared;
        let mut wanted = shared.wanted.lock();
        wanted.waiting += 1;
        wanted.kicked = true;
        let vain = wanted.rounds_in_vain;
        shared.wake.notify_all();
        let result = loop {
            if wanted.stop {
                break Err(Error::Closed);
            }
            if has_room() {
                break Ok(());
            }
            if wanted.is_gone {
                // The store is poisoned, as the last try will say.
                break Err(full);
            }
            // Of two rounds the second began when this write was waiting.
            if wanted.rounds_in_vain >= vain + 2 {
                break Err(full);
            }
            let left = most.saturating_sub(since.elapsed());
            if left.is_zero() {
                let ms = since.elapsed().as_millis();
                break Err(Error::TimedOut(format!("no room after {ms} ms of cleaning: {full}")));
            }
            wanted = shared.changed.wait_timeout(wanted, left).0;
        };
        wanted.waiting -= 1;
        result
    }
}

impl Shared {
    /// The thread is gone: nobody waits for it any more.
    fn give_up(&self) {
        self.wanted.lock().is_gone = true;
        self.changed.notify_all();
    }

    fn is_awaited(&self) -> bool {
        self.wanted.lock().waiting > 0
    }

    fn is_over(&self) -> bool {
        let wanted = self.wanted.lock();
        wanted.stop || wanted.paused
    }
}

fn run<I: Index + 'static>(shared: &Shared, engine: &Weak<Engine<I>>) {
    let mut rest = LOOK_EVERY;
    // Bytes that had been appended at the last look, and when nothing was left to tidy up.
    let (mut last_look_at, mut tidy_at) = (u64::MAX, None);
    // There was nothing to gain: until so many bytes are appended, there is nothing still.
    let mut in_vain_until = 0;
    loop {
        {
            let mut wanted = shared.wanted.lock();
            wanted.at_work = false;
            shared.changed.notify_all();
            if !wanted.stop && !wanted.kicked {
                wanted = shared.wake.wait_timeout(wanted, rest).0;
            }
            if wanted.stop {
                return;
            }
            wanted.kicked = false;
            rest = LOOK_EVERY;
            if wanted.paused {
                continue;
            }
            wanted.at_work = true;
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.reclaim_dropped(|| shared.wanted.lock().stop);
        let appended = engine.oplog.appended_bytes();
        let is_idle = std::mem::replace(&mut last_look_at, appended) == appended;
        if is_idle && tidy_at != Some(engine.tidy_moment()) {
            tidy_at = engine.tidy_up(|| shared.is_over() || shared.is_awaited()).or(tidy_at);
        }
        engine.give_back(GIVE_BACK_AFTER);
        if !shared.is_awaited() && appended < in_vain_until {
            continue;
        }
        let round = engine.clean_while_scarce(shared);
        let step = engine.space.geometry().segment_size_bytes / 2;
        in_vain_until = if round == Round::InVain { appended + step } else { 0 };
        let mut wanted = shared.wanted.lock();
        if wanted.waiting > 0 {
            wanted.rounds_in_vain += u64::from(round == Round::InVain);
            // Who still waits wants another round; readers need a moment to let go.
            wanted.kicked |= round == Round::InVain;
            rest = POLL;
        }
        shared.changed.notify_all();
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nobody waits, and slots for new data are plenty.
    Done,
    /// Nothing more is gained.
    InVain,
    /// Nothing more is gained before readers let go of what they see.
    Later,
}

impl<I: Index + 'static> Engine<I> {
    /// Cleans while writes wait for room or slots are scarce, as long as that gains anything.
    fn clean_while_scarce(&self, shared: &Shared) -> Round {
        let free_before = self.space.free_slots();
        let mut gains = Gains::default();
        loop {
            // Errors poison the store, or say that it is closed: writers are told by their own calls.
            let Ok(waits) = self.settle_releases() else { return Round::InVain };
            shared.changed.notify_all();
            let is_awaited = shared.is_awaited();
            let has_gained = self.space.free_slots() > free_before;
            if shared.is_over() || (!is_awaited && !self.is_scarce(has_gained)) {
                return Round::Done;
            }
            // A roll for the digest leaves a head half empty: only for a write that would wait for the next one.
            match self.clean(if is_awaited { Aim::Space } else { Aim::Tidy }) {
                Ok(pass) if pass.is_walking || gains.go_on(pass, self.worthwhile_bytes()) => {}
                // Or for a drain: of an `os` write that made extents dead.
                Ok(pass)
                    if (waits == WaitsFor::Readers || self.left_to_readers(pass))
                        && (!is_awaited || self.drain_logs().is_ok()) =>
                {
                    return Round::Later;
                }
                Ok(_) | Err(_) => return Round::InVain,
            }
        }
    }

    /// True if all that the pass did was to move large values whose old places readers still see. (Victims do not count: passes
    /// that fill as many segments as they empty would follow each other for ever.)
    fn left_to_readers(&self, pass: Pass) -> bool {
        pass.has_moved_extents && pass.emptied == 0 && self.retired_bytes_to_come() > 0
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/rounds.rs"]
mod tests;
