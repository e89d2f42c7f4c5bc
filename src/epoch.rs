//! Reclamation clock: a reader pins, an unlinker retires, and what was retired is freed after every pin that could
//! still see it has gone (grace period). A thin name over crossbeam-epoch, so that it can be exchanged here.
//!
//! Every process has a clock of its own. In that of its parent a child of `fork` would find pins of threads that it does
//! not have, so that nothing ever came free, and would run what its parent retired.

pub use crossbeam_epoch::Guard;

use crate::sync::{AtomicBool, AtomicU64, OnceBox, Ordering, fork_generation};
use crossbeam_epoch::{Collector, LocalHandle};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::Duration;

/// The clock of one process, behind those of the processes it descends from. Linked without a lock, which a vanished thread
/// could hold.
struct Clock {
    generation: u64,
    collector: Collector,
    next: OnceBox<Clock>,
}

static FIRST_CLOCK: OnceBox<Clock> = OnceBox::new();

impl Clock {
    #[cold]
    fn of(generation: u64) -> &'static Clock {
        let new = || Box::new(Clock { generation, collector: Collector::new(), next: OnceBox::new() });
        let mut clock = FIRST_CLOCK.get_or_init(new);
        while clock.generation != generation {
            clock = clock.next.get_or_init(new);
        }
        clock
    }
}

/// A thread's part in the clock of its process.
struct Participant {
    generation: u64,
    /// Always there; taken to be forgotten.
    handle: Option<LocalHandle>,
}

impl Participant {
    fn new() -> Participant {
        let generation = fork_generation();
        Participant { generation, handle: Some(Clock::of(generation).collector.register()) }
    }

    /// Nothing in a child of its process.
    #[inline]
    fn pin(&self) -> Option<Guard> {
        let handle = self.handle.as_ref()?;
        (self.generation == fork_generation()).then(|| handle.pin())
    }
}

impl Drop for Participant {
    /// In a child of `fork` it is the parent's: to leave that clock could run what is to happen there.
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            std::mem::forget(self.handle.take());
        }
    }
}

thread_local! {
    static OWN: Participant = Participant::new();
    /// Of a thread that came through a `fork` after its first pin.
    static SINCE_FORK: RefCell<Option<Participant>> = const { RefCell::new(None) };
}

/// Keeps what this thread can see from being freed. Never hold one across a wait or a drain on a disk. The first of a thread
/// at a time is a sequentially consistent fence, which the points of snapshots rest on (`engine/versions.rs`).
#[inline]
pub fn pin() -> Guard {
    OWN.try_with(|own| own.pin().unwrap_or_else(pin_since_fork)).unwrap_or_else(|_| pin_once())
}

#[cold]
fn pin_since_fork() -> Guard {
    let pinned = SINCE_FORK.try_with(|own| {
        if let Some(guard) = own.borrow().as_ref().and_then(Participant::pin) {
            return guard;
        }
        own.replace(Some(Participant::new()));
        own.borrow().as_ref().and_then(Participant::pin).expect("it is this process's")
    });
    pinned.unwrap_or_else(|_| pin_once())
}

/// For destructors of thread-locals behind this one's end.
#[cold]
fn pin_once() -> Guard {
    Clock::of(fork_generation()).collector.register().pin()
}

/// Runs `free` after the grace period of everything unlinked before this call.
pub fn retire(guard: &Guard, free: impl FnOnce() + Send + 'static) {
    guard.defer(free);
}

/// Pins after which what was retired before them is free, if nobody else is pinned.
const GRACE_ROUNDS: usize = 8;

/// Brings the end of grace periods about: nobody but those who pin moves the clock, and they do so seldom.
pub fn help_grace_period() {
    (0..GRACE_ROUNDS).for_each(|_| pin().flush());
}

/// A thread that writes, or one that did and whose record the next new thread uses. Never freed: there are as many as
/// threads wrote at once.
#[repr(align(64))]
struct Writer {
    /// Odd while the thread is in a write section; changed by that thread alone, and by every entry and exit. The upper
    /// bits are those of the process, counted by forks.
    state: AtomicU64,
    is_taken: AtomicBool,
    next: OnceBox<Writer>,
}

/// Bits of a state above its count of entries and exits.
const PROCESS_SHIFT: u32 = 48;

static FIRST_WRITER: Writer = Writer::new();

impl Writer {
    const fn new() -> Writer {
        Writer { state: AtomicU64::new(0), is_taken: AtomicBool::new(false), next: OnceBox::new() }
    }

    /// A record for the calling thread. Without a lock: a child of `fork` must not find one that a vanished thread holds.
    #[cold]
    fn take() -> &'static Writer {
        let mut writer = &FIRST_WRITER;
        while writer.is_taken.swap(true, Ordering::AcqRel) {
            writer = writer.next.get_or_init(|| Box::new(Writer::new()));
        }
        writer
    }

    fn all() -> impl Iterator<Item = &'static Writer> {
        std::iter::successors(Some(&FIRST_WRITER), |writer| writer.next.get())
    }
}

/// Gives a record back when its thread ends.
struct Registration(&'static Writer);

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
    }
}

thread_local! {
    static WRITER: Registration = Registration(Writer::take());
}

/// See [`write_section`]; ends with this. Stays on its thread.
pub struct WriteSection {
    writer: &'static Writer,
    /// Of a thread whose own registration is gone already.
    _until: Option<Registration>,
    _stays: PhantomData<*const ()>,
}

/// From before a write is stamped until it is published: the cleaner takes what is in the log and not in the index for
/// dead, so it waits for the writes that were between the two. Unlike [`pin`] it may be held across drains. Sections of
/// a thread do not nest. `process` tells a child of `fork` from its parent.
///
/// Two plain stores: whoever has to wait for a write has seen the lock of its log, or the seal of its segment, be let go
/// by it, and so sees that its section had begun.
#[inline]
pub fn write_section(process: u64) -> WriteSection {
    let (writer, until) = match WRITER.try_with(|registration| registration.0) {
        Ok(writer) => (writer, None),
        Err(_) => registered_for_once(),
    };
    let state = writer.state.load(Ordering::Relaxed);
    debug_assert!(state.is_multiple_of(2), "write sections do not nest");
    let count = (state & ((1 << PROCESS_SHIFT) - 1)) + 1;
    writer.state.store(process << PROCESS_SHIFT | count, Ordering::Relaxed);
    WriteSection { writer, _until: until, _stays: PhantomData }
}

#[cold]
fn registered_for_once() -> (&'static Writer, Option<Registration>) {
    let writer = Writer::take();
    (writer, Some(Registration(writer)))
}

impl Drop for WriteSection {
    #[inline]
    fn drop(&mut self) {
        let state = self.writer.state.load(Ordering::Relaxed);
        self.writer.state.store(state + 1, Ordering::Release);
    }
}

/// As [`write_section`], unless the thread is in one already: for who writes what others staged.
pub fn write_section_around(process: u64) -> Option<WriteSection> {
    let section = own_section().is_none().then(|| write_section(process));
    // Its fence: see `pin`. In a section that is open, too: who began it may lead before the first pin of his own.
    drop(pin());
    section
}

/// A write section that was open when somebody looked.
#[derive(Clone, Copy)]
pub struct OpenSection {
    writer: &'static Writer,
    state: u64,
}

impl PartialEq for OpenSection {
    fn eq(&self, other: &OpenSection) -> bool {
        std::ptr::eq(self.writer, other.writer) && self.state == other.state
    }
}

impl OpenSection {
    /// Returns when it has ended.
    pub fn wait(&self) {
        for look in 0_u32.. {
            if self.writer.state.load(Ordering::Acquire) != self.state {
                return;
            }
            match look {
                0..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                _ => std::thread::sleep(POLL),
            }
        }
    }
}

/// Looks at a section that is waited for, before the thread gives way between looks.
const SPINS: u32 = 200;
/// Looks before it sleeps between them.
const YIELDS: u32 = 240;
/// How long it sleeps: a drain of a disk takes several times as long.
const POLL: Duration = Duration::from_micros(20);

/// The section that this thread is in.
pub fn own_section() -> Option<OpenSection> {
    let writer = WRITER.try_with(|registration| registration.0).ok()?;
    let state = writer.state.load(Ordering::Relaxed);
    (!state.is_multiple_of(2)).then_some(OpenSection { writer, state })
}

/// Every write section of this process that is open now, as far as the caller has synchronized with it (see
/// [`write_section`]), or a fence lies between what the caller did last and what its thread does next (see [`pin`]).
pub fn open_sections(process: u64) -> Vec<OpenSection> {
    let seen = |writer: &'static Writer| OpenSection { writer, state: writer.state.load(Ordering::SeqCst) };
    // Sections that were open when a process forked never end in its child.
    let is_open = |section: &OpenSection| {
        let owner = section.state >> PROCESS_SHIFT;
        !section.state.is_multiple_of(2) && owner == process & (u64::MAX >> PROCESS_SHIFT)
    };
    Writer::all().map(seen).filter(is_open).collect()
}

/// Waits for them.
pub fn wait_for_writes(process: u64) {
    open_sections(process).iter().for_each(OpenSection::wait);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_waiter_waits_for_sections_that_are_open_and_for_no_others() {
        let (entered, begun) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let writer = std::thread::spawn(move || {
            drop(write_section(7));
            let section = write_section(7);
            entered.send(()).expect("somebody listens");
            left.recv_timeout(LONG).expect("somebody lets go");
            over.store(true, Ordering::Relaxed);
            drop(section);
        });
        begun.recv_timeout(LONG).expect("the section begins");
        // That of another process.
        wait_for_writes(8);
        assert!(!is_over.load(Ordering::Relaxed));
        leave.send(()).expect("the writer waits");
        wait_for_writes(7);
        assert!(is_over.load(Ordering::Relaxed), "the section was over");
        writer.join().expect("the writer ends");
        wait_for_writes(7);
    }

    #[test]
    fn records_of_threads_that_ended_are_used_again() {
        for _ in 0..200 {
            std::thread::spawn(|| drop(write_section(7))).join().expect("it ends");
        }
        assert!(Writer::all().count() < 150, "one for each thread that ever wrote");
    }
}
