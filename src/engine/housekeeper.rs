//! The one background thread: writes out asynchronous writes in time, writes back what `os` writes left, marks idle logs,
//! grows and prefaults ahead of the heads, makes huge pages for the index, frees extents. While nothing is written
//! it only looks around every few seconds (for values that are no longer pinned); a writer that finds it asleep wakes it.
//!
//! A writer appends and then looks whether the thread is asleep, without a fence between, which each put would pay for.
//! So one that meets the thread on its way to sleep may see it awake and not be seen itself. The thread therefore says that
//! it is asleep one round before it is: by the end of that round it sees what such a writer appended.

use super::Engine;
use crate::constants::IDLE_MARK_MS;
use crate::index::Index;
use crate::sync::{Arc, AtomicU8, Condvar, Mutex, Ordering};
use std::sync::Weak;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rounds without a write after which the thread sleeps until it is woken.
const IDLE_ROUNDS: u32 = 3;
/// How long it sleeps if nobody wakes it.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// One round: a log is marked when it was idle for one, at the latest after two.
const ROUND: Duration = Duration::from_millis(IDLE_MARK_MS / 2);

/// Whether the thread says that it is asleep after so many rounds without a write, and how long it waits.
fn rest_after(quiet_rounds: u32) -> (bool, Duration) {
    match quiet_rounds {
        0..IDLE_ROUNDS => (false, ROUND),
        IDLE_ROUNDS => (true, ROUND),
        _ => (true, SLEEP_MAX),
    }
}
/// Huge pages that the index gets in a round: each takes about a millisecond, and who touches it meanwhile waits.
const HUGE_PAGES_A_ROUND: usize = 4;
/// What `os` writes may leave in caches before it is written back: the rest is drained by the put that rolls the head.
const LEFT_BEHIND_BYTES: u64 = 1 << 20;
/// Slots kept ready for each log that will soon need one, beyond the reserve.
const SLOTS_AHEAD: u32 = 3;

/// Bits of `Shared::calls`: the thread sleeps; a head was rolled; writers owe a delay.
const ASLEEP: u8 = 1;
const ROLLED: u8 = 2;
const IN_DEBT: u8 = 4;

#[derive(Default)]
struct Shared {
    /// What writers are called for: read by every write, written twice per sleep and at each roll.
    calls: AtomicU8,
    wanted: Mutex<Wanted>,
    wake: Condvar,
}

#[derive(Default)]
struct Wanted {
    stop: bool,
    activity: bool,
    rolled: bool,
    async_since: Option<Instant>,
}

/// A handle on the thread; without one (simulations) nothing happens in the background.
#[derive(Default)]
pub struct Housekeeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Housekeeper {
    /// Starts the thread. It holds the engine weakly and ends with it.
    pub fn start<I: Index + 'static>(&self, engine: &Arc<Engine<I>>) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let weak = Arc::downgrade(engine);
        let roll_noticed = Arc::clone(&self.shared);
        engine.oplog.call_on_roll(move || {
            roll_noticed.calls.fetch_or(ROLLED, Ordering::Relaxed);
            roll_noticed.wanted.lock().rolled = true;
            roll_noticed.wake.notify_all();
        });
        let wait = Duration::from_micros(engine.options.commit_wait_us_max);
        crate::panics::keep_quiet();
        let run = move || {
            let ended = crate::panics::stop(|| {
                run(&shared, &weak, wait);
                Ok(())
            });
            // From now on nobody writes out what is accepted: nothing more must be.
            if let (Err(error), Some(engine)) = (ended, weak.upgrade()) {
                engine.poison(&error.to_string());
            }
        };
        // Signals are the application's: none may be delivered here.
        let thread = crate::media::spawn_without_signals("flatkv-housekeeper", run)?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits for it, unless it is the caller.
    pub fn stop(&self) {
        self.shared.wanted.lock().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    /// True if whoever has written something has to [`Housekeeper::answer`].
    #[inline]
    pub fn calls_writers(&self) -> bool {
        self.shared.calls.load(Ordering::Relaxed) != 0
    }

    /// Wakes the thread if it sleeps. Says whether a head was rolled, if one was or a debt of writers is left.
    #[cold]
    pub fn answer(&self) -> Option<bool> {
        let calls = self.shared.calls.fetch_and(ASLEEP, Ordering::Relaxed);
        if calls & ASLEEP != 0 {
            self.shared.wanted.lock().activity = true;
            self.shared.wake.notify_all();
        }
        (calls & (ROLLED | IN_DEBT) != 0).then_some(calls & ROLLED != 0)
    }

    /// The next writer pays for the last roll, too.
    pub fn ask_writers_to_pay(&self) {
        self.shared.calls.fetch_or(IN_DEBT, Ordering::Relaxed);
    }

    /// An asynchronous write waits for company: write it out in time.
    pub fn expect_async(&self) {
        let mut wanted = self.shared.wanted.lock();
        wanted.activity = true;
        wanted.async_since.get_or_insert_with(Instant::now);
        drop(wanted);
        self.shared.wake.notify_all();
    }
}

fn run<I: Index + 'static>(shared: &Shared, engine: &Weak<Engine<I>>, commit_wait: Duration) {
    let mut positions = Vec::new();
    let mut quiet_rounds = 0;
    let mut rolled;
    loop {
        {
            let mut wanted = shared.wanted.lock();
            if wanted.stop {
                return;
            }
            if wanted.activity || wanted.rolled {
                quiet_rounds = 0;
            }
            let (asleep, rest) = rest_after(quiet_rounds);
            if asleep {
                shared.calls.fetch_or(ASLEEP, Ordering::Relaxed);
            } else {
                shared.calls.fetch_and(!ASLEEP, Ordering::Relaxed);
            }
            if let Some(since) = wanted.async_since {
                let left = commit_wait.saturating_sub(since.elapsed());
                if !left.is_zero() {
                    wanted = shared.wake.wait_timeout(wanted, left).0;
                }
                if since.elapsed() < commit_wait && !wanted.stop {
                    continue;
                }
                wanted.async_since = None;
            } else if !wanted.rolled {
                wanted = shared.wake.wait_timeout(wanted, rest).0;
            }
            if std::mem::take(&mut wanted.activity) {
                quiet_rounds = 0;
            }
            rolled = std::mem::take(&mut wanted.rolled);
            if wanted.stop {
                return;
            }
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.committer.lead_all(&*engine);
        let soon = engine.oplog.heads_past_half() + u32::from(std::mem::take(&mut rolled));
        if soon > 0 {
            engine.oplog.note_live_entries(engine.indexed_entries());
            engine.space.prepare(SLOTS_AHEAD * soon);
        }
        if engine.is_scarce(false) {
            engine.cleaner_thread.kick();
        }
        // A drain takes milliseconds, a huge page one: not while asynchronous writes are to be durable by then.
        let is_awaited = || shared.wanted.lock().async_since.is_some();
        if !is_awaited() {
            engine.write_back_os_writes();
        }
        for _ in 0..HUGE_PAGES_A_ROUND {
            if is_awaited() || !engine.default.index.make_huge_page() {
                break;
            }
        }
        if engine.keep_house(&mut positions) { quiet_rounds = 0 } else { quiet_rounds += 1 }
    }
}

impl<I: Index + 'static> Engine<I> {
    /// Drains logs of which much was left in caches, while their writers go on. A failure poisons the store.
    fn write_back_os_writes(&self) {
        let position = |log: usize| self.oplog.appended_position(log);
        let left = |log: &usize| position(*log).saturating_sub(self.oplog.durable_position(*log));
        for log in (0..self.oplog.log_count()).filter(|log| left(log) >= LEFT_BEHIND_BYTES) {
            // The cleaner drains for itself; and what is written back must not be freed meanwhile.
            let Some(_nothing_is_freed) = self.cleaner.try_hold() else { return };
            let _ = self.oplog.drain_beside_writers(log);
        }
    }

    /// One round: marks logs that were idle since the last round. True if anything was written meanwhile.
    fn keep_house(&self, positions: &mut Vec<u64>) -> bool {
        let logs = self.oplog.log_count();
        positions.resize(logs, u64::MAX);
        let mut busy = false;
        for (log, seen) in positions.iter_mut().enumerate() {
            let position = self.oplog.appended_position(log);
            if position != *seen {
                *seen = position;
                busy = true;
            } else if let Some(mut state) = self.oplog.try_lock(log) {
                // A failure poisons the store; the next writer reports it.
                let _ = self.oplog.mark_idle(&mut state);
                *seen = state.position();
            } else {
                // Whoever holds it is at work.
                busy = true;
            }
        }
        // Of what is retired, the last is left to this thread.
        self.help_grace_period();
        self.limbo.settle(&self.oplog, &self.extents, &self.space);
        busy
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "tests/housekeeper.rs"]
mod tests;
