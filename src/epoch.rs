//! Reclamation clock: a reader pins, an unlinker retires, and what was retired is freed after every pin that could
//! still see it has gone (grace period). How that is known: `epoch/clock.rs`. Beside it the write sections, which are
//! waited for in other ways: `epoch/sections.rs`.
//!
//! Every process has a clock of its own. In that of its parent a child of `fork` would find pins of threads that it does
//! not have, so that nothing ever came free, and would run what its parent retired.

mod barrier;
mod clock;
mod sections;

pub use clock::{Guard, Here, Visit};
pub use sections::{
    OpenSection, open_sections, own_section, wait_for_writes, write_section, write_section_around,
};

use crate::sync::fork_generation;
use clock::{Clock, Reader};
use std::cell::Cell;

thread_local! {
    /// What this thread pins with. Has no destructor, so that a look at it is one load.
    static READER: Cell<Option<&'static Reader>> = const { Cell::new(None) };
    static REGISTRATION: Registration = const { Registration };
}

/// Gives the thread's record back when it ends.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        // In a child of `fork` the record is the parent's, and stays as it is.
        if let Some(reader) = READER.take()
            && reader.is_of(fork_generation())
        {
            reader.give_back();
        }
    }
}

/// Keeps what this thread can see from being freed. Never hold one across a wait or a drain on a disk.
///
/// No fence: what a thread wrote before need not be seen by others when it reads. Writers, who rely on that, fence
/// themselves ([`write_section`], `oplog/order.rs`). A get needs none. It answers with what the index leads to while it
/// looks, and what was acknowledged before it began is in there: who acknowledged it has fenced since ([`WriteSection`]
/// ends with one).
#[inline]
pub fn pin() -> Guard {
    match here() {
        Some(here) => here.pin(),
        None => pin_for_once(),
    }
}

#[cold]
fn pin_for_once() -> Guard {
    Clock::of(fork_generation()).take().pin_for_once()
}

/// The calling thread, for calls that pin or visit more than once: to find it takes longer than either. `None` in a thread that
/// is about to end.
#[inline]
pub fn here() -> Option<Here> {
    match READER.get() {
        Some(reader) if reader.is_of(fork_generation()) => Some(reader.here()),
        _ => register().map(Reader::here),
    }
}

/// Whether the calling thread is somewhere.
pub fn is_visiting() -> bool {
    READER.get().is_some_and(Reader::is_visiting)
}

/// A record for this thread; `None` in destructors of thread-locals behind the registration's end.
#[cold]
fn register() -> Option<&'static Reader> {
    REGISTRATION.try_with(|_| ()).ok()?;
    let reader = Clock::of(fork_generation()).take();
    READER.set(Some(reader));
    Some(reader)
}

/// Says that this thread is at a place, any number but 0, and then may look whether it is allowed there; no fence is
/// passed. `None`, and nothing is said, if the thread is somewhere already or is about to end.
#[inline]
pub fn visit(place: u64) -> Option<Visit> {
    here()?.visit(place)
}

/// Returns when no thread of this process is at a place which the caller has just forbidden; calls `pause` between
/// looks.
pub fn wait_for_visits(place: u64, pause: impl FnMut()) {
    Clock::of(fork_generation()).wait_for_visits(place, pause);
}

/// Runs `free` after the grace period of everything unlinked before this call; `bytes` of the medium or of memory come
/// free then. In whatever thread retires or helps then; a panic in it is that thread's, and does no harm to what else
/// is retired.
pub fn retire(guard: &Guard, bytes: u64, free: impl FnOnce() + Send + 'static) {
    guard.retire(bytes, Box::new(free));
}

/// Frees what was retired and can be seen by nobody any more. All of it, if nobody is pinned now: nobody but those who
/// retire and help moves the clock, and the former do so seldom.
pub fn help_grace_period() {
    Clock::of(fork_generation()).help();
}
