//! Write sections: from before a write is stamped until it is published. Who has to wait for the writes that are under
//! way finds them here; the floor above says whom that concerns.
//!
//! Invariants:
//!   - a record is one thread's from `take` until it is given back; that thread alone changes its state
//!   - sections of a thread do not nest
//!   - a section begins and ends with a sequentially consistent fence, see [`write_section`]

use crate::sync::{AtomicBool, AtomicU64, OnceBox, Ordering, fence};
use std::marker::PhantomData;
use std::time::Duration;

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

    /// A record for the calling thread. Without a lock: a child of `fork` must not find one that a vanished thread
    /// holds.
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
/// Whoever has to wait for a write has seen the lock of its log, or the seal of its segment, be let go by it, and so
/// sees that its section had begun. Who opens the point of a snapshot has not, so a fence lies between the begin of a
/// section and what its thread does next (`engine/versions.rs`). The one at the end lies between what was published and
/// what the thread reads next: reads pass none. Without it two threads that each put one key and then get the other's
/// might both miss what the other thread had put.
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
    fence(Ordering::SeqCst);
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
        fence(Ordering::SeqCst);
    }
}

/// As [`write_section`], unless the thread is in one already: for who writes what others staged.
pub fn write_section_around(process: u64) -> Option<WriteSection> {
    own_section().is_none().then(|| write_section(process))
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

/// Every write section of this process that is open now, as far as the caller has synchronized with it, or what the
/// caller did last is a sequentially consistent access to what its thread looks at next: see [`write_section`].
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
