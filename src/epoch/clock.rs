//! The clock of reclamation. A reader's pin is two stores into a record of its thread; all other work is done by those
//! who retire something.
//!
//! What is retired since the clock last moved is a lot. When it is large enough, or somebody helps, the lot is closed:
//!   1. the clock moves on; pins from then on say the new time
//!   2. a barrier on all threads (`barrier.rs`)
//!   3. the lot is free once every record that is pinned says a time after the lot's
//!
//! Why nobody can look at what is free. A pin stores into its record and then reads what it protects. If the barrier
//! hit its thread before that store, what it reads afterwards is what the barrier's caller has unlinked already,
//! whatever time the record says: it may be an old one, which only keeps more from being free. If the barrier hit it
//! after the store, step 3 sees the pin. That says a time up to the lot's, and is waited for, unless the thread had
//! read the new time: then it sees what was unlinked before the clock moved. And the clock need not wait for a moment
//! in which nobody is pinned: pins that begin later say a later time.
//!
//! Where barriers are refused pins are *fenced*: each passes a fence of its own between its store and its reads, and in
//! step 2 a fence is enough. The clock's word says so, and is read by every pin anyway. Barriers may be refused only
//! once the process runs (it may give itself a filter of system calls any time). Pins are fenced from then on; one that
//! read the word before that and was held up may still be without, so lots are kept for as long as no store waits to be
//! seen.
//!
//! Visits are known in the same way: a thread says where it is and then looks whether it may be there; who shuts the
//! place does so, passes the barrier, and waits for those that say they are in. They may be long, as pins must not be.
//!
//! Invariants:
//!   - a record is one thread's from `take` until it is given back; that thread alone changes `seen`, `nested` and
//!     `visited`
//!   - `seen` is 0 if and only if no pin of the thread is open, else what the clock's word was at the first of them or
//!     before
//!   - the word changes under the lock of `waiting` alone, and its time only grows
//!   - lots are closed in the order of their times; nothing that was retired runs under the lock
//!   - records and clocks are linked without a lock, and never freed: a child of `fork` must not find a lock that a
//!     vanished thread holds

use super::barrier;
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, OnceBox, Ordering, PlainMutex, compiler_fence, fence,
    thread_number,
};
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// Bits of the clock's word below the time.
const PINNED: u64 = 1;
const FENCED: u64 = 2;
const TIME_SHIFT: u32 = 2;

/// So many things, or bytes that wait to be free for another use, close a lot: few enough that what waits does not
/// count, and enough that a barrier (a microsecond) does not, either.
const LOT_LEN: usize = 64;
const LOT_BYTES: u64 = 512 << 10;
/// Who retires runs at most so much of what is free, because he is busy, and pinned: more than one, so that it gets
/// less.
const RUN_PER_RETIRE: usize = 4;
/// No processor keeps a store to itself for a thousandth of this.
const STORES_ARE_SEEN: Duration = Duration::from_millis(10);

/// In `thread_number` of a record whose thread was not asked for it.
const UNKNOWN: usize = usize::MAX;
/// In `nested` of a record that its last pin gives back.
const FOR_ONCE: u32 = 1 << 31;

type Free = Box<dyn FnOnce() + Send>;

/// The clock of one process, behind those of the processes it descends from.
pub(super) struct Clock {
    generation: u64,
    /// What the record of a thread says that is pinned from now on: the time, and how to pin.
    word: CachePadded<AtomicU64>,
    waiting: PlainMutex<Waiting>,
    first: OnceBox<Reader>,
    next: OnceBox<Clock>,
    barrier: fn() -> bool,
}

/// What is retired. Its lock is not one of those that a model puts into virtual time: threads that are no actors share
/// it.
#[derive(Default)]
struct Waiting {
    /// The lot that is open.
    open: Vec<Free>,
    open_bytes: u64,
    /// Lots that wait for pins.
    closed: VecDeque<Lot>,
    /// What nobody can see any more.
    free: VecDeque<Free>,
    /// Barriers were to be had once.
    is_refused: bool,
}

struct Lot {
    time: u64,
    retired: Vec<Free>,
    /// Not before it is free, whatever the records say.
    not_before: Option<Instant>,
}

/// What a thread pins with.
#[repr(align(64))]
pub(super) struct Reader {
    clock: &'static Clock,
    /// That of the clock, for every pin.
    generation: u64,
    seen: AtomicU64,
    /// Open pins of the thread.
    nested: AtomicU32,
    /// The place that its thread is at, see the module; 0: none.
    visited: AtomicU64,
    /// That of its thread, if it was asked for. Not before: numbers choose logs, and most threads that only pin need none.
    thread_number: AtomicUsize,
    is_taken: AtomicBool,
    next: OnceBox<Reader>,
}

static FIRST: OnceBox<Clock> = OnceBox::new();

impl Clock {
    fn new(generation: u64, barrier: fn() -> bool, has_barrier: bool) -> Box<Clock> {
        let how = if has_barrier { PINNED } else { PINNED | FENCED };
        Box::new(Clock {
            generation,
            word: CachePadded::new(AtomicU64::new(1 << TIME_SHIFT | how)),
            waiting: PlainMutex::default(),
            first: OnceBox::new(),
            next: OnceBox::new(),
            barrier,
        })
    }

    /// The clock of a process.
    #[cold]
    pub(super) fn of(generation: u64) -> &'static Clock {
        let new = || Clock::new(generation, barrier::on_all_threads, barrier::register());
        let mut clock = FIRST.get_or_init(new);
        while clock.generation != generation {
            clock = clock.next.get_or_init(new);
        }
        clock
    }

    /// A record for the calling thread.
    #[cold]
    pub(super) fn take(&'static self) -> &'static Reader {
        let mut link = &self.first;
        loop {
            let reader = link.get_or_init(|| Reader::new(self));
            if !reader.is_taken.swap(true, Ordering::AcqRel) {
                reader.thread_number.store(UNKNOWN, Ordering::Relaxed);
                return reader;
            }
            link = &reader.next;
        }
    }

    fn readers(&self) -> impl Iterator<Item = &Reader> {
        std::iter::successors(self.first.get(), |reader| reader.next.get())
    }

    /// Runs `free` once nobody can see what was unlinked before; `bytes` can be used again then.
    fn retire(&self, bytes: u64, free: Free) {
        let has_free = {
            let mut waiting = self.waiting.lock();
            waiting.open.push(free);
            waiting.open_bytes += bytes;
            if waiting.open.len() >= LOT_LEN || waiting.open_bytes >= LOT_BYTES {
                self.turn(&mut waiting);
            }
            !waiting.free.is_empty()
        };
        if has_free {
            self.run(RUN_PER_RETIRE);
        }
    }

    /// Frees all that nobody can see any more: at once, if nobody is pinned.
    pub(super) fn help(&self) {
        self.turn(&mut self.waiting.lock());
        self.run(usize::MAX);
    }

    /// One at a time, so that one that panics takes no others with it. Its panic is the caller's, who may hold locks of the
    /// index or of a log: what is retired takes none but those that nobody holds for longer than a few stores, and retires
    /// nothing.
    fn run(&self, most: usize) {
        for _ in 0..most {
            let Some(free) = self.waiting.lock().free.pop_front() else { return };
            free();
        }
    }

    /// Closes the lot that is open, and finds lots that are free.
    fn turn(&self, waiting: &mut Waiting) {
        if !waiting.open.is_empty() {
            self.close(waiting);
        }
        if waiting.closed.is_empty() {
            return;
        }
        // The time before the look: a thread may be held up between the two, and the look has to be the later one.
        let now = waiting.is_refused.then(Instant::now);
        let oldest = self.oldest_pin();
        let is_free = |lot: &Lot| {
            let is_due = lot.not_before.is_none_or(|not_before| now.is_some_and(|now| not_before <= now));
            lot.time < oldest && is_due
        };
        while waiting.closed.front().is_some_and(is_free) {
            let lot = waiting.closed.pop_front();
            waiting.free.extend(lot.into_iter().flat_map(|lot| lot.retired));
        }
    }

    fn close(&self, waiting: &mut Waiting) {
        let word = self.word.load(Ordering::Relaxed);
        // Behind what was unlinked, so that who reads this time sees that.
        self.word.store(word + (1 << TIME_SHIFT), Ordering::Release);
        let not_before = self.order_all(waiting);
        let retired = std::mem::take(&mut waiting.open);
        waiting.open_bytes = 0;
        waiting.closed.push_back(Lot { time: word >> TIME_SHIFT, retired, not_before });
    }

    /// What other threads wrote into their records before they read what the caller has changed can be seen after this,
    /// or, where barriers came to be refused, at the time that is returned.
    fn order_all(&self, waiting: &mut Waiting) -> Option<Instant> {
        fence(Ordering::SeqCst);
        if self.word.load(Ordering::Relaxed) & FENCED == 0 && !(self.barrier)() {
            waiting.is_refused = true;
            self.word.fetch_or(FENCED, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
        waiting.is_refused.then(|| Instant::now() + STORES_ARE_SEEN)
    }

    /// Returns when no thread is where the caller has just forbidden to go: `pause` is called between looks.
    pub(super) fn wait_for_visits(&self, place: u64, mut pause: impl FnMut()) {
        let not_before = self.order_all(&mut self.waiting.lock());
        if let Some(not_before) = not_before {
            std::thread::sleep(not_before.saturating_duration_since(Instant::now()));
        }
        for reader in self.readers() {
            while reader.visited.load(Ordering::Acquire) == place {
                pause();
            }
        }
    }

    /// The oldest time that a pin says. Synchronizes with pins that ended.
    fn oldest_pin(&self) -> u64 {
        let seen = self.readers().map(|reader| reader.seen.load(Ordering::Acquire));
        seen.filter(|seen| *seen != 0).map(|seen| seen >> TIME_SHIFT).min().unwrap_or(u64::MAX)
    }
}

impl Reader {
    fn new(clock: &'static Clock) -> Box<Reader> {
        Box::new(Reader {
            clock,
            generation: clock.generation,
            seen: AtomicU64::new(0),
            nested: AtomicU32::new(0),
            visited: AtomicU64::new(0),
            thread_number: AtomicUsize::new(UNKNOWN),
            is_taken: AtomicBool::new(false),
            next: OnceBox::new(),
        })
    }

    /// False in a child of its process.
    #[inline]
    pub(super) fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    #[inline]
    pub(super) fn here(&'static self) -> Here {
        Here { reader: self, _stays: PhantomData }
    }

    #[cold]
    fn ask_thread_number(&self) -> usize {
        let number = thread_number();
        self.thread_number.store(number, Ordering::Relaxed);
        number
    }

    pub(super) fn is_visiting(&self) -> bool {
        self.visited.load(Ordering::Relaxed) != 0
    }

    #[inline]
    fn pin(&'static self) -> Guard {
        let nested = self.nested.load(Ordering::Relaxed);
        self.nested.store(nested + 1, Ordering::Relaxed);
        if nested & !FOR_ONCE == 0 {
            let word = self.clock.word.load(Ordering::Acquire);
            // Releases what earlier pins read, for who sees this one in their place.
            self.seen.store(word, Ordering::Release);
            order_own(word);
        }
        Guard { reader: self, _stays: PhantomData }
    }

    /// `None` if the thread is somewhere already.
    #[inline]
    fn visit(&'static self, place: u64) -> Option<Visit> {
        if self.visited.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.visited.store(place, Ordering::Release);
        order_own(self.clock.word.load(Ordering::Acquire));
        Some(Visit { reader: self, _stays: PhantomData })
    }

    /// As [`Reader::pin`]; the record is given back with the pin.
    #[cold]
    pub(super) fn pin_for_once(&'static self) -> Guard {
        self.nested.store(FOR_ONCE, Ordering::Relaxed);
        self.pin()
    }

    /// The thread ends, or its last pin for once did.
    #[cold]
    pub(super) fn give_back(&self) {
        debug_assert_eq!(self.seen.load(Ordering::Relaxed), 0, "a thread ends with a pin");
        debug_assert_eq!(self.visited.load(Ordering::Relaxed), 0, "a thread ends in a call");
        if self.seen.load(Ordering::Relaxed) != 0 {
            // Never another thread's: what this one still looks at would come free under it.
            return;
        }
        self.nested.store(0, Ordering::Relaxed);
        self.is_taken.store(false, Ordering::Release);
    }
}

/// Between what a thread stored into its record and what it reads next.
#[inline]
fn order_own(word: u64) {
    if word & FENCED == 0 {
        // The barrier of who waits makes of it a fence of the processor.
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The calling thread, found. Stays on it.
#[derive(Clone, Copy)]
pub struct Here {
    reader: &'static Reader,
    _stays: PhantomData<*const ()>,
}

impl Here {
    /// As [`pin`](super::pin).
    #[inline]
    pub fn pin(self) -> Guard {
        self.reader.pin()
    }

    /// As [`visit`](super::visit).
    #[inline]
    pub fn visit(self, place: u64) -> Option<Visit> {
        self.reader.visit(place)
    }

    /// As [`thread_number`].
    #[inline]
    pub fn thread_number(self) -> usize {
        match self.reader.thread_number.load(Ordering::Relaxed) {
            UNKNOWN => self.reader.ask_thread_number(),
            number => number,
        }
    }
}

/// The calling thread is somewhere until this ends. Stays on its thread.
pub struct Visit {
    reader: &'static Reader,
    _stays: PhantomData<*const ()>,
}

impl Visit {
    /// The thread that is there.
    #[inline]
    pub fn here(&self) -> Here {
        self.reader.here()
    }
}

impl Drop for Visit {
    #[inline]
    fn drop(&mut self) {
        self.reader.visited.store(0, Ordering::Release);
    }
}

/// A pin; ends with this. Stays on its thread.
pub struct Guard {
    reader: &'static Reader,
    _stays: PhantomData<*const ()>,
}

impl Guard {
    pub(super) fn retire(&self, bytes: u64, free: Free) {
        self.reader.clock.retire(bytes, free);
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        let left = self.reader.nested.load(Ordering::Relaxed) - 1;
        self.reader.nested.store(left, Ordering::Relaxed);
        if left & !FOR_ONCE == 0 {
            self.reader.seen.store(0, Ordering::Release);
            if left != 0 {
                self.reader.give_back();
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/clock.rs"]
mod tests;
