//! Reclamation clock: a reader pins, an unlinker retires, and what was retired is freed after every pin that could
//! still see it has gone (grace period). A thin name over crossbeam-epoch, so that it can be exchanged here.

pub use crossbeam_epoch::Guard;

use crate::sync::{Arc, AtomicBool, OnceLock, Ordering};
use crossbeam_epoch::{Collector, LocalHandle};
use std::time::Duration;

/// Keeps what this thread can see from being freed. Never hold one across a wait or a drain on a disk.
#[inline]
pub fn pin() -> Guard {
    crossbeam_epoch::pin()
}

/// Runs `free` after the grace period of everything unlinked before this call.
pub fn retire(guard: &Guard, free: impl FnOnce() + Send + 'static) {
    guard.defer(free);
}

fn writes() -> &'static Collector {
    static WRITES: OnceLock<Collector> = OnceLock::new();
    WRITES.get_or_init(Collector::new)
}

/// From before a write is stamped until it is published: the cleaner takes what is in the log and not in the index for
/// dead, so it waits for the writes that were between the two. Unlike [`pin`] it may be held across drains.
#[inline]
pub fn write_section() -> Guard {
    thread_local! {
        static WRITER: LocalHandle = writes().register();
    }
    WRITER.try_with(LocalHandle::pin).unwrap_or_else(|_| writes().register().pin())
}

/// Waits for every write section that is open now.
pub fn wait_for_writes() {
    const POLL: Duration = Duration::from_micros(20);
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let section = write_section();
    section.defer(move || seen.store(true, Ordering::Release));
    section.flush();
    drop(section);
    while !over.load(Ordering::Acquire) {
        write_section().flush();
        std::thread::sleep(POLL);
    }
}
