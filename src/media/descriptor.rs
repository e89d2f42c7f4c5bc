//! Descriptors of pools, and what `fork` does to them.
//!
//! An OFD lock belongs to the open file, so a forked child that kept the descriptor would keep the lock after its parent
//! died. A handler therefore closes all pool descriptors in the child. A *mapping* keeps its open file as well, and the
//! child keeps the mappings, so that memory views in it stay readable: the lock lies on an open file of its own, which is
//! never mapped. Invariants:
//!   - a descriptor is in the registry from the call that opens it to the call that closes it: both happen behind the
//!     gate, which `fork` passes too, so no child is made in between with a descriptor that nobody closes, or with an
//!     entry for a number that was closed and given to somebody else
//!   - the fork generation of a process is fixed from its birth. A [`Descriptor`] remembers the one it was opened in: in
//!     a child it differs, and the number, closed there, is never used again
//!
//! The handlers run where only async-signal-safe calls are allowed: they spin, close and store atomics. A process made
//! by `vfork`, `posix_spawn` or `clone` without handlers is covered by `O_CLOEXEC` once it executes a program.

use super::sys::{self, Errno, Sys};
use crate::error::{Error, Result};
use crate::sync::{AtomicBool, AtomicU64, OnceLock, Ordering, count_fork, fork_generation};
use std::os::fd::RawFd;

/// Pools that one process may have open.
const OPEN_POOLS_MAX: usize = 4096;
/// One to read, write and map, one to lock.
const DESCRIPTORS_MAX: usize = 2 * OPEN_POOLS_MAX;
/// Marks an entry that holds no descriptor; descriptors are never negative, so none is cast to this.
const FREE: u64 = u64::MAX;

static REGISTRY: [AtomicU64; DESCRIPTORS_MAX] = [const { AtomicU64::new(FREE) }; DESCRIPTORS_MAX];
static GATE: AtomicBool = AtomicBool::new(false);

/// A pool's descriptor: closed on drop, and in every forked child.
pub(super) struct Descriptor {
    fd: RawFd,
    slot: usize,
    generation: u64,
}

impl Descriptor {
    /// Registers what `open` opens. The inner error is that of `open`.
    pub(super) fn open(open: impl FnOnce() -> Sys<RawFd>) -> Result<Sys<Descriptor>> {
        register_handlers()?;
        let _gate = Gate::enter();
        let slot =
            REGISTRY.iter().position(|entry| entry.load(Ordering::Relaxed) == FREE).ok_or_else(|| {
                Error::Unsupported(format!(
                    "this process has {OPEN_POOLS_MAX} pools open, more are not supported"
                ))
            })?;
        Ok(open().map(|fd| {
            REGISTRY[slot].store(fd as u64, Ordering::Relaxed);
            Descriptor { fd, slot, generation: fork_generation() }
        }))
    }

    /// The descriptor's number.
    ///
    /// # Errors
    /// `Forked` in a child of the process that opened it: the number is closed there, or somebody else's.
    #[inline]
    pub(super) fn get(&self) -> Result<RawFd> {
        if self.generation == fork_generation() { Ok(self.fd) } else { Err(Error::Forked) }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let _gate = Gate::enter();
        if self.generation == fork_generation() {
            REGISTRY[self.slot].store(FREE, Ordering::Relaxed);
            sys::close(self.fd);
        }
    }
}

/// Held while a descriptor is opened or closed, and across a fork. Spins: a lock with a queue may not be used in the
/// handlers, and it is held for one system call.
struct Gate;

impl Gate {
    fn enter() -> Gate {
        while GATE.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        Gate
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        GATE.store(false, Ordering::Release);
    }
}

fn register_handlers() -> Result<()> {
    static REGISTERED: OnceLock<std::result::Result<(), Errno>> = OnceLock::new();
    REGISTERED
        .get_or_init(|| sys::at_fork(before_fork, after_fork_in_parent, after_fork_in_child))
        .map_err(|errno| Error::from_errno("pthread_atfork", errno))
}

extern "C" fn before_fork() {
    std::mem::forget(Gate::enter());
}

extern "C" fn after_fork_in_parent() {
    drop(Gate);
}

extern "C" fn after_fork_in_child() {
    count_fork();
    for entry in &REGISTRY {
        let fd = entry.swap(FREE, Ordering::Relaxed);
        if fd != FREE {
            sys::close(fd as RawFd);
        }
    }
    drop(Gate);
}
