//! The one path to atomics, locks and threads; a model checker is put in here and nowhere else, and so is virtual time. Not those
//! of `std::sync`, because ThreadSanitizer does not see through the uninstrumented standard library, and locks that are words on
//! which the kernel waits, because a child of `fork` may use its own: a table of all that wait, as parking_lot has, names threads
//! that the child does not have.

#[cfg(not(feature = "virtual-time"))]
mod latch;
#[cfg(feature = "virtual-time")]
pub mod virtual_time;

#[cfg(not(feature = "virtual-time"))]
pub use latch::Latch;

pub use once_cell::race::OnceBox;
pub use once_cell::sync::OnceCell as OnceLock;
/// One that stays as it is where time is virtual: what the whole process shares is no part of a model.
pub use rustix_futex_sync::Mutex as PlainMutex;
#[cfg(not(feature = "virtual-time"))]
pub use rustix_futex_sync::{Condvar, Mutex, MutexGuard};
pub use rustix_futex_sync::{RwLock, RwLockReadGuard};
pub use std::sync::Arc;
pub use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};
#[cfg(feature = "virtual-time")]
pub use virtual_time::{Condvar, Latch, Mutex, MutexGuard};

use std::cell::Cell;

static FORK_GENERATION: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between the start of the program and this process, since it opened its first pool: handlers of
/// `media/descriptor.rs` count them. What belongs to a process, not to its memory, remembers it.
#[inline]
pub fn fork_generation() -> u64 {
    FORK_GENERATION.load(Ordering::Relaxed)
}

/// For the handler in the child: stores an atomic, nothing else.
pub fn count_fork() {
    FORK_GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// A piece of work that a model of many cores charges for; see [`work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A call: what is neither of the others nor the medium's.
    Call,
    /// The look at the index before a write is stamped.
    Look,
    /// An operation is encoded.
    Entry,
    /// A frame of so many lines is finished.
    Frame {
        /// Its length.
        lines: u64,
    },
    /// An entry is published.
    Publish,
}

/// Says that the calling thread does a piece of work: nothing but where time is virtual.
#[cfg(not(feature = "virtual-time"))]
#[inline(always)]
pub fn work(_: Work) {}

#[cfg(feature = "virtual-time")]
pub(crate) use virtual_time::work;

#[cfg(not(feature = "virtual-time"))]
pub use std::thread::yield_now;
#[cfg(feature = "virtual-time")]
pub use virtual_time::yield_now;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Numbers the calling thread as an actor of a model is.
#[cfg(feature = "virtual-time")]
fn number_thread(number: usize) {
    NUMBER.set(number);
}

/// A small number for the calling thread, given at its first call and kept: picks its home log and its counters.
#[inline]
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Threads of tests.
#[cfg(test)]
pub mod threads {
    use std::cell::RefCell;
    use std::thread::ScopedJoinHandle;

    /// What [`scope`] gives its body.
    pub struct Scope<'scope, 'env: 'scope> {
        inner: &'scope std::thread::Scope<'scope, 'env>,
        spawned: RefCell<Vec<ScopedJoinHandle<'scope, ()>>>,
    }

    impl<'scope> Scope<'scope, '_> {
        /// Runs `body` on a thread of its own.
        pub fn spawn(&self, body: impl FnOnce() + Send + 'scope) {
            self.spawned.borrow_mut().push(self.inner.spawn(body));
        }

        /// The same, for the caller to join.
        pub fn spawn_to_join(&self, body: impl FnOnce() + Send + 'scope) -> ScopedJoinHandle<'scope, ()> {
            self.inner.spawn(body)
        }
    }

    /// `std::thread::scope` that joins each thread: ThreadSanitizer sees a join, and does not see the end of a scope. Nor
    /// does it see how the first pin makes its clock, so that is done before.
    pub fn scope<'env>(body: impl for<'scope> FnOnce(&Scope<'scope, 'env>)) {
        drop(crate::epoch::pin());
        std::thread::scope(|inner| {
            let scope = Scope { inner, spawned: RefCell::default() };
            body(&scope);
            for thread in scope.spawned.take() {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}
