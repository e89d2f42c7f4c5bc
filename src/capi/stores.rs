//! Open stores behind their handles. A call says where it is, and close waits until nobody is there.
//!
//! It says so in its thread's record (`epoch::visit`), by plain stores. A call inside of another one's, or in a thread
//! that ends, is counted instead. The counters are sharded by thread, so that (up to [`SHARDS`] threads) no two write
//! one line.
//!
//! Why a call never sees a store that is gone: a call says where it is and then reads the word; close changes the word
//! and then looks who is there. With counters all of that is sequentially consistent, with records it is ordered by the
//! barrier of who closes. So either the call reads `CLOSING` and leaves without touching the store, or close sees the
//! call and waits.

use super::table::{self, CLOSING, Place, RETIRED, Refusal, Slot, Table, WORD_NEW};
use crate::epoch::{self, Visit};
use crate::error::Error;
use crate::store::Store;
use crate::sync::{AtomicU32, AtomicU64, Ordering, thread_number};
use crossbeam_utils::CachePadded;
use std::cell::UnsafeCell;
use std::hint;
use std::ops::Deref;
use std::ptr;
use std::thread;
use std::time::Duration;

/// Threads share a counter when there are more of them than this.
const SHARDS: usize = 64;
/// Looks at a shard before the closing thread gives way between looks.
const SPINS: u32 = 100;
/// Looks at a shard before the closing thread sleeps between looks.
const YIELDS: u32 = 200;
/// How long the closing thread sleeps between looks: long beside a call, short beside a close.
const NAP: Duration = Duration::from_micros(100);

static STORES: Table<StoreSlot> = Table::new();

/// A place for one store.
pub(super) struct StoreSlot {
    word: AtomicU64,
    next_free: AtomicU32,
    /// The process that opened the store. A child of `fork` inherits counts of threads that it does not have.
    process: AtomicU32,
    store: UnsafeCell<Option<Store>>,
    calls: [CachePadded<AtomicU64>; SHARDS],
}

// SAFETY: `store` is written only by the slot's taker before its word lets a handle in, and by the one closer after
// every call has left; calls in between share `&Store`, and `Store` is `Send + Sync` (asserted below).
unsafe impl Sync for StoreSlot {}

const _: () = {
    const fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Store>();
};

impl Default for StoreSlot {
    fn default() -> Self {
        StoreSlot {
            word: AtomicU64::new(WORD_NEW),
            next_free: AtomicU32::new(0),
            process: AtomicU32::new(0),
            store: UnsafeCell::new(None),
            calls: std::array::from_fn(|_| CachePadded::default()),
        }
    }
}

impl Slot for StoreSlot {
    /// Slots are large and stores are few.
    const FRESH_AT_ONCE: u32 = 1;

    fn next_free(&self) -> &AtomicU32 {
        &self.next_free
    }
}

/// Gives a store a slot. `None` if there are no more.
pub(super) fn create(store: Store) -> Option<Place> {
    let (slot, at) = STORES.take()?;
    // SAFETY: a taken slot is this thread's alone: its word lets no handle in until the store below, and a call with
    // a made-up handle only says that it is here.
    unsafe { *at.store.get() = Some(store) };
    at.process.store(std::process::id(), Ordering::Relaxed);
    let generation = table::generation(at.word.load(Ordering::Relaxed));
    at.word.store(u64::from(generation) << 32, Ordering::SeqCst);
    Some(Place { slot, generation })
}

/// A store that stays open while this exists.
pub(super) struct Entered {
    at: &'static StoreSlot,
    _call: Call,
}

/// How close knows of a call.
enum Call {
    Visits { _until: Visit },
    Counts { calls: &'static AtomicU64 },
}

impl Call {
    #[inline]
    fn begin(at: &'static StoreSlot) -> Call {
        match epoch::visit(at.place()) {
            Some(visit) => Call::Visits { _until: visit },
            None => Call::count(at),
        }
    }

    #[cold]
    fn count(at: &'static StoreSlot) -> Call {
        let calls: &'static AtomicU64 = &at.calls[thread_number() % SHARDS];
        calls.fetch_add(1, Ordering::SeqCst);
        Call::Counts { calls }
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        if let Call::Counts { calls } = self {
            calls.fetch_sub(1, Ordering::Release);
        }
    }
}

impl StoreSlot {
    /// For a call that was let in, until it ends.
    #[inline]
    fn opened(&self) -> &Store {
        // SAFETY: the call said that it is here and then saw the word let it in, so close waits for its end before it takes the
        // store out (module comment); the word's value was stored after the store was put in.
        let store = unsafe { &*self.store.get() };
        store.as_ref().expect("an open slot holds a store")
    }

    /// What calls say that they visit.
    #[inline]
    fn place(&self) -> u64 {
        ptr::from_ref(self).addr() as u64
    }
}

/// Lets a call in.
#[inline(always)]
pub(super) fn enter(place: Place) -> Result<Entered, Refusal> {
    let at = STORES.get(place.slot).ok_or(Refusal::Never)?;
    let entered = Entered { at, _call: Call::begin(at) };
    table::check(place.generation, at.word.load(Ordering::SeqCst))?;
    Ok(entered)
}

impl Deref for Entered {
    type Target = Store;

    #[inline]
    fn deref(&self) -> &Store {
        self.at.opened()
    }
}

/// The same for a call that says where it is in its thread's record, as most do.
pub(super) struct Visited {
    at: &'static StoreSlot,
    visit: Visit,
}

/// Lets such a call in; `None` for all others, and for those that are refused.
#[inline(always)]
pub(super) fn visit(place: Place) -> Option<Visited> {
    let at = STORES.get(place.slot)?;
    let visited = Visited { at, visit: epoch::visit(at.place())? };
    table::check(place.generation, at.word.load(Ordering::SeqCst)).ok()?;
    Some(visited)
}

impl Visited {
    /// What it said.
    #[inline]
    pub(super) fn visit(&self) -> &Visit {
        &self.visit
    }
}

impl Deref for Visited {
    type Target = Store;

    #[inline]
    fn deref(&self) -> &Store {
        self.at.opened()
    }
}

/// Closes a store after the calls in progress. `Ok` holds what the store itself answered: with `Busy` it is open
/// again, with anything else the handle is gone.
pub(super) fn close(place: Place) -> Result<Result<(), Error>, Refusal> {
    let at = STORES.get(place.slot).ok_or(Refusal::Never)?;
    let open = u64::from(place.generation) << 32;
    table::check(place.generation, at.word.load(Ordering::SeqCst))?;
    if at.process.load(Ordering::Relaxed) != std::process::id() {
        return Err(Refusal::Forked);
    }
    at.word
        .compare_exchange(open, open | CLOSING, Ordering::SeqCst, Ordering::SeqCst)
        .map_err(|_| Refusal::Closed)?;
    wait_for_calls(at);
    // SAFETY: the word is CLOSING, set by this thread, and every call that it let in has left. Nobody writes the
    // cell.
    let store = unsafe { &*at.store.get() };
    let answer = store.as_ref().expect("an open slot holds a store").close();
    if matches!(answer, Err(Error::Busy(_))) {
        at.word.store(open, Ordering::SeqCst);
    } else {
        dispose(place, at);
    }
    Ok(answer)
}

/// Waits until nobody was seen at any place. One look at each is enough: a call that comes later reads CLOSING.
fn wait_for_calls(at: &StoreSlot) {
    let mut looks = 0;
    let mut pause = || {
        looks += 1;
        match looks {
            0..SPINS => hint::spin_loop(),
            SPINS..YIELDS => thread::yield_now(),
            _ => thread::sleep(NAP),
        }
    };
    epoch::wait_for_visits(at.place(), &mut pause);
    for calls in &at.calls {
        while calls.load(Ordering::SeqCst) != 0 {
            pause();
        }
    }
}

/// Takes the store out of a slot that is CLOSING with nobody inside and makes the slot available.
fn dispose(place: Place, at: &'static StoreSlot) {
    // SAFETY: as in `close`: CLOSING lets nobody in, and this thread is the one that closes.
    let store = unsafe { (*at.store.get()).take() };
    let after = table::word_after(place.generation);
    at.word.store(after, Ordering::SeqCst);
    if after & RETIRED == 0 {
        STORES.give_back(place.slot, at);
    }
    drop(store);
}
