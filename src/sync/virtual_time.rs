//! Locks and threads in virtual time (feature `virtual-time`): a simulation of many cores on any machine, for models of how
//! writers share a medium. Nothing of it is in a library that is shipped.
//!
//! Actors are real threads that run the real code, one at a time: whoever has the baton. Each has a clock of its own, which is moved by
//! what its work costs ([`Costs`]). Before an actor does what others can see (takes or lets go of a lock, signals, drains) the
//! baton goes to the actor whose clock is lowest, so all that is visible happens in the order of virtual time. Who waits for a
//! lock has no turn until it is let go, and pays for the hand-over.
//!
//! Invariants:
//!   - one actor runs at a time; of those that can run its clock was the lowest when it last did what others see
//!   - equal clocks run in the order of their numbers: a run depends on nothing but what it is given
//!   - a thread that is no actor meets plain locks and pays nothing; it must not share them with actors that run

use rustix_futex_sync::{Condvar as Turn, Mutex as Plain, MutexGuard as PlainGuard, WaitTimeoutResult};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{OnceLock, Work};

/// What is not the medium's, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// A lock, a signal or a flag whose cache line is in the own core's cache.
    pub own_line_ns: u64,
    /// A cache line comes over from another core.
    pub hand_over_ns: u64,
    /// Who waits for a lock looks for so long, and then sleeps. Who waits at a [`Condvar`] sleeps at once.
    pub spin_ns: u64,
    /// A sleeper runs so long after it was woken.
    pub wake_ns: u64,
    /// What waking takes of the one who does it.
    pub wake_call_ns: u64,
    /// A call: its checks, the key's hash, the way down and up.
    pub call_ns: u64,
    /// The look at the index before a write is stamped.
    pub look_ns: u64,
    /// An operation is encoded, with its crc.
    pub entry_ns: u64,
    /// A frame is finished, its checksum included.
    pub frame_ns: u64,
    /// A line of the frame is summed.
    pub frame_line_ns: u64,
    /// An entry is published in the index.
    pub publish_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ready,
    Waiting,
    Ended,
}

struct Actor {
    clock_ns: u64,
    standing: Standing,
}

struct Waiter {
    actor: usize,
    since_ns: u64,
    looks_for_ns: u64,
}

struct State {
    actors: Vec<Actor>,
    running: usize,
    /// By the address of what is waited for; looked up, never walked.
    queues: HashMap<usize, VecDeque<Waiter>>,
    has_failed: bool,
}

impl State {
    fn earliest(&self) -> Option<usize> {
        let ready = self.actors.iter().enumerate().filter(|(_, actor)| actor.standing == Standing::Ready);
        ready.min_by_key(|(number, actor)| (actor.clock_ns, *number)).map(|(number, _)| number)
    }
}

struct World {
    costs: Costs,
    state: Plain<State>,
    turns: Vec<Turn>,
}

impl World {
    /// Gives the baton to whoever is next.
    fn pass_on(&self, state: &mut State) {
        match state.earliest() {
            Some(next) => {
                state.running = next;
                self.turns[next].notify_one();
            }
            None if state.actors.iter().all(|actor| actor.standing == Standing::Ended) => {}
            None => {
                // Each waits for another: nobody is left to notice.
                state.has_failed = true;
                self.turns.iter().for_each(|turn| {
                    turn.notify_all();
                });
            }
        }
    }
}

/// The calling thread's part in a simulation.
#[derive(Clone)]
struct Own {
    world: Arc<World>,
    number: usize,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

fn own() -> Option<Own> {
    OWN.try_with(|own| own.borrow().clone()).ok().flatten()
}

impl Own {
    fn costs(&self) -> &Costs {
        &self.world.costs
    }

    fn clock_ns(&self) -> u64 {
        self.world.state.lock().actors[self.number].clock_ns
    }

    fn spend(&self, ns: u64) {
        self.world.state.lock().actors[self.number].clock_ns += ns;
    }

    fn wait_until(&self, ns: u64) {
        let clock = &mut self.world.state.lock().actors[self.number].clock_ns;
        *clock = (*clock).max(ns);
    }

    /// Lets all who are behind catch up.
    fn turn(&self) {
        let mut state = self.world.state.lock();
        if state.earliest() != Some(self.number) {
            self.world.pass_on(&mut state);
            self.await_turn(state);
        }
    }

    fn await_turn(&self, mut state: PlainGuard<'_, State>) {
        while state.running != self.number && !state.has_failed {
            state = self.world.turns[self.number].wait(state);
        }
        assert!(!state.has_failed, "every actor waits for another one, or one panicked");
    }

    /// Waits for whoever wakes `address`; looks for so long before it sleeps.
    fn wait_for(&self, address: usize, looks_for_ns: u64) {
        let mut state = self.world.state.lock();
        let actor = &mut state.actors[self.number];
        actor.standing = Standing::Waiting;
        let waiter = Waiter { actor: self.number, since_ns: actor.clock_ns, looks_for_ns };
        state.queues.entry(address).or_default().push_back(waiter);
        self.world.pass_on(&mut state);
        self.await_turn(state);
    }

    /// Lets `count` of those go who wait for `address`.
    fn wake(&self, address: usize, count: usize) {
        let costs = self.world.costs;
        let mut state = self.world.state.lock();
        let state = &mut *state;
        let Some(queue) = state.queues.get_mut(&address) else { return };
        for waiter in queue.drain(..count.min(queue.len())) {
            let now_ns = state.actors[self.number].clock_ns;
            let sleeps = now_ns > waiter.since_ns + waiter.looks_for_ns;
            let delay_ns = if sleeps { costs.wake_ns } else { costs.hand_over_ns };
            if sleeps {
                state.actors[self.number].clock_ns += costs.wake_call_ns;
            }
            let woken = &mut state.actors[waiter.actor];
            woken.clock_ns = woken.clock_ns.max(now_ns + delay_ns);
            woken.standing = Standing::Ready;
        }
    }
}

/// Ends an actor's part, also if it panics.
struct Part(Own);

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.0.world.state.lock();
        state.actors[self.0.number].standing = Standing::Ended;
        if std::thread::panicking() {
            state.has_failed = true;
            self.0.world.turns.iter().for_each(|turn| {
                turn.notify_all();
            });
            return;
        }
        self.0.world.pass_on(&mut state);
    }
}

/// Runs `body` on so many actors, numbered from 0, and returns when all have ended.
///
/// # Panics
/// If an actor does, or each waits for another one.
pub fn run(costs: Costs, actors: usize, body: impl Fn(usize) + Sync) {
    let standing = |_| Actor { clock_ns: 0, standing: Standing::Ready };
    let state = State {
        actors: (0..actors).map(standing).collect(),
        running: 0,
        queues: HashMap::new(),
        has_failed: false,
    };
    let turns = (0..actors).map(|_| Turn::new()).collect();
    let world = Arc::new(World { costs, state: Plain::new(state), turns });
    std::thread::scope(|scope| {
        for number in 0..actors {
            let (world, body) = (Arc::clone(&world), &body);
            scope.spawn(move || {
                let own = Own { world, number };
                OWN.set(Some(own.clone()));
                super::number_thread(number);
                own.await_turn(own.world.state.lock());
                let _part = Part(own);
                body(number);
            });
        }
    });
}

/// The number of the calling actor.
pub fn actor() -> Option<usize> {
    own().map(|own| own.number)
}

/// The calling actor's clock; 0 for others.
pub fn now_ns() -> u64 {
    own().map_or(0, |own| own.clock_ns())
}

/// The calling actor was at work for so long.
pub fn spend(ns: u64) {
    if let Some(own) = own() {
        own.spend(ns);
    }
}

/// Moves the calling actor's clock to `ns`, unless it is past that.
pub fn wait_until(ns: u64) {
    if let Some(own) = own() {
        own.wait_until(ns);
    }
}

/// Before the calling actor does what others can see.
pub fn turn() {
    if let Some(own) = own() {
        own.turn();
    }
}

/// Looks again at what others may have changed.
pub fn yield_now() {
    match own() {
        Some(own) => {
            own.spend(own.costs().hand_over_ns);
            own.turn();
        }
        None => std::thread::yield_now(),
    }
}

/// What a piece of work costs the calling actor.
pub(crate) fn work(work: Work) {
    let Some(own) = own() else { return };
    let costs = own.costs();
    own.spend(match work {
        Work::Call => costs.call_ns,
        Work::Look => costs.look_ns,
        Work::Entry => costs.entry_ns,
        Work::Frame { lines } => costs.frame_ns + lines * costs.frame_line_ns,
        Work::Publish => costs.publish_ns,
    });
}

/// No actor had the lock yet.
const NOBODY: usize = usize::MAX;

/// The real one's face, in virtual time for actors.
pub struct Mutex<T> {
    last_holder: AtomicUsize,
    inner: Plain<T>,
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Mutex { last_holder: AtomicUsize::new(NOBODY), inner: Plain::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let Some(own) = own().filter(|_| !std::thread::panicking()) else {
            return MutexGuard { mutex: self, inner: Some(self.inner.lock()) };
        };
        let mut was_handed_over = false;
        loop {
            own.turn();
            if let Some(inner) = self.inner.try_lock() {
                self.note_holder(&own, was_handed_over);
                return MutexGuard { mutex: self, inner: Some(inner) };
            }
            own.wait_for(self.address(), own.costs().spin_ns);
            was_handed_over = true;
        }
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let own = own();
        if let Some(own) = &own {
            own.turn();
        }
        let inner = self.inner.try_lock();
        if let Some(own) = own {
            match &inner {
                Some(_) => self.note_holder(&own, false),
                None => own.spend(own.costs().hand_over_ns),
            }
        }
        Some(MutexGuard { mutex: self, inner: Some(inner?) })
    }

    /// The value of a lock that nobody else knows.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    fn note_holder(&self, own: &Own, was_handed_over: bool) {
        let last = self.last_holder.swap(own.number, Ordering::Relaxed);
        let is_near = was_handed_over || last == own.number || last == NOBODY;
        own.spend(if is_near { own.costs().own_line_ns } else { own.costs().hand_over_ns });
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// None only while a [`Condvar`] waits.
    inner: Option<PlainGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_deref().expect("held but in a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_deref_mut().expect("held but in a wait")
    }
}

impl<T> MutexGuard<'_, T> {
    fn let_go(&mut self) {
        let own = own().filter(|_| !std::thread::panicking());
        if let Some(own) = &own {
            own.turn();
        }
        self.inner = None;
        if let Some(own) = own {
            own.wake(self.mutex.address(), 1);
        }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.inner.is_some() {
            self.let_go();
        }
    }
}

/// The real one's face, in virtual time for actors.
#[derive(Default)]
pub struct Condvar {
    inner: Turn,
}

impl Condvar {
    /// Nobody waits yet.
    pub const fn new() -> Self {
        Condvar { inner: Turn::new() }
    }

    /// Lets the lock go, waits to be woken, and takes it again.
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match own() {
            Some(own) => self.wait_as(&own, guard),
            None => {
                guard.inner = guard.inner.take().map(|inner| self.inner.wait(inner));
                guard
            }
        }
    }

    fn wait_as<'a, T>(&self, own: &Own, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let mutex = guard.mutex;
        drop(guard);
        own.wait_for(self.address(), 0);
        mutex.lock()
    }

    /// The same with an end.
    ///
    /// # Panics
    /// If an actor asks for it: what waits with an end is in the background, where no actor is.
    pub fn wait_timeout<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        most: Duration,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        assert!(own().is_none(), "actors wait without an end");
        let (inner, result) = self.inner.wait_timeout(guard.inner.take().expect("held"), most);
        guard.inner = Some(inner);
        (guard, result)
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        if let Some(own) = own().filter(|_| !std::thread::panicking()) {
            own.turn();
            own.wake(self.address(), usize::MAX);
        }
        self.inner.notify_all();
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// The real one's face, in virtual time for actors.
pub struct Latch<T> {
    value: OnceLock<T>,
    changed: Condvar,
    real: Plain<()>,
}

impl<T> Latch<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        Latch { value: OnceLock::new(), changed: Condvar::new(), real: Plain::new(()) }
    }

    /// Sets the value and lets those go who wait for it. A second value is dropped.
    pub fn set(&self, value: T) {
        if let Some(own) = own().filter(|_| !std::thread::panicking()) {
            own.spend(own.costs().own_line_ns);
            own.turn();
        }
        {
            let _real = self.real.lock();
            let _ = self.value.set(value);
        }
        self.changed.notify_all();
    }

    /// The value, once it is set; with any looks at all who waits looks as long as at a lock.
    pub fn wait(&self, looks: u32) -> &T {
        let Some(own) = own().filter(|_| !std::thread::panicking()) else {
            let mut real = self.real.lock();
            while self.value.get().is_none() {
                real = self.changed.inner.wait(real);
            }
            return self.value.get().expect("just seen");
        };
        own.turn();
        match self.value.get() {
            Some(_) => own.spend(own.costs().hand_over_ns),
            None => own.wait_for(self.changed.address(), if looks > 0 { own.costs().spin_ns } else { 0 }),
        }
        self.value.get().expect("who is woken finds it")
    }
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Latch::new()
    }
}
