//! Reclamation clock: a reader pins, an unlinker retires, and what was retired is freed after every pin that could
//! still see it has gone (grace period). A thin name over crossbeam-epoch, so that it can be exchanged here.

pub use crossbeam_epoch::Guard;

/// Keeps what this thread can see from being freed. Never hold one across a wait or a drain on a disk.
#[inline]
pub fn pin() -> Guard {
    crossbeam_epoch::pin()
}

/// Runs `free` after the grace period of everything unlinked before this call.
pub fn retire(guard: &Guard, free: impl FnOnce() + Send + 'static) {
    guard.defer(free);
}
