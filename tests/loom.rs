//! Models of the lock-free pieces, every interleaving of which loom tries: `make loom`
//! (`RUSTFLAGS="--cfg loom" cargo test --release --test loom`). Without `--cfg loom` this file is empty.
//!
//! `src/engine/tickets.rs` and `src/oplog/order.rs` themselves are compiled here, with loom's atomics for `crate::sync`. The
//! other pieces cannot be: the index lays its atomics over mapped memory, and the handle tables are `static`s made by `const fn`, where loom's
//! atomics are neither. Their protocols are written down again, step by step and with the same orderings; each model
//! names the lines it stands for, and has a twin with one step wrong, which loom must refute.
#![cfg(loom)]

#[path = "../src/engine/tickets.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of the library, used in part")]
mod tickets;

#[path = "../src/oplog/order.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of the library, used in part")]
mod order;

#[path = "../src/types.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_macros,
    unused_imports,
    reason = "a part of the library, used in part"
)]
mod types;

#[path = "../src/constants.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of the library, used in part")]
mod constants;

/// What `tickets.rs` finds under `crate::error`.
mod error {
    pub use flatkv::{Error, Result};
}

/// What they find under `crate::sync`.
mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

    /// loom's lock with the face of ours.
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("no model panics with a lock")
        }
    }
}

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

/// Runs `model` and expects loom to find an interleaving in which it fails.
fn refuted(model: impl Fn() + Send + Sync + 'static) {
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loom::model(model)));
    assert!(found.is_err(), "a wrong protocol was not noticed");
}

mod async_tickets {
    use super::*;
    use tickets::Tickets;

    /// Writers accept a write in a lane of their own and finish it; whoever asks is never told that a ticket is durable
    /// which is not. `done[i]` is set just before ticket `i + 1` is reported.
    #[test]
    fn the_durable_ticket_never_runs_ahead() {
        loom::model(|| {
            let tickets = Arc::new(Tickets::new(2));
            let done = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
            let writers: Vec<_> = (0..2)
                .map(|lane| {
                    let (tickets, done) = (Arc::clone(&tickets), Arc::clone(&done));
                    thread::spawn(move || {
                        let ticket = tickets.issue(lane, 8);
                        done[ticket as usize - 1].store(1, Ordering::Release);
                        tickets.finish(lane, 8, None);
                    })
                })
                .collect();
            let durable = tickets.durable();
            for ticket in 1..=durable {
                assert_eq!(
                    done[ticket as usize - 1].load(Ordering::Acquire),
                    1,
                    "ticket {ticket} of {durable}"
                );
            }
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            assert_eq!((tickets.durable(), tickets.bytes_in_flight()), (2, 0));
        });
    }

    /// One lane: a second write is accepted while the first is being finished, both under the lock of the lane's stage,
    /// as `Committer::finish_async` and `submit_op_async` have it.
    #[test]
    fn a_write_accepted_while_the_lane_finishes_stays_pending() {
        loom::model(|| {
            let tickets = Arc::new(Tickets::new(1));
            let stage = Arc::new(sync::Mutex::new(None));
            *stage.lock() = Some(tickets.issue(0, 8));
            let leader = {
                let (tickets, stage) = (Arc::clone(&tickets), Arc::clone(&stage));
                thread::spawn(move || {
                    stage.lock().take();
                    let next = stage.lock();
                    tickets.finish(0, 8, *next);
                })
            };
            {
                let mut staged = stage.lock();
                let was_taken = staged.is_none();
                let ticket = tickets.issue(0, 8);
                staged.get_or_insert(ticket);
                drop(staged);
                if was_taken {
                    assert_eq!(ticket, 2);
                    assert!(tickets.durable() < 2, "nobody has written ticket 2");
                    assert!(tickets.is_pending(0));
                }
            }
            leader.join().unwrap();
        });
    }

    /// A ticket from the first failed one on never counts as durable, and reports the failure to whoever asks later.
    #[test]
    fn a_failure_is_seen_by_who_sees_its_ticket_finished() {
        loom::model(|| {
            let tickets = Arc::new(Tickets::new(1));
            let ticket = tickets.issue(0, 8);
            let leader = {
                let tickets = Arc::clone(&tickets);
                thread::spawn(move || {
                    tickets.fail(ticket, &flatkv::Error::ReadOnly);
                    tickets.finish(0, 8, None);
                })
            };
            assert!(tickets.durable() < ticket, "a failed ticket is never durable");
            if !tickets.is_pending(0) {
                assert!(tickets.failure(ticket).is_err());
            }
            leader.join().unwrap();
            assert!(tickets.failure(ticket).is_err() && tickets.durable() < ticket);
        });
    }
}

/// Two writes to different logs, one after the other, beside something that counts for many keys (`src/oplog/order.rs`).
mod dividers {
    use super::*;
    use order::Order;
    use types::{LogId, Seq};

    #[derive(Default)]
    struct Logs {
        order: Order,
        /// The newest stamp of each, as `OpLog` has it.
        newest: [AtomicU64; 2],
        has_returned: AtomicU32,
    }

    impl Logs {
        /// As a put of the last entry of a frame, some units behind its start: `OpLog::next_seq`, `note_stamp`,
        /// `OpLog::settle_stamp`.
        fn put(&self, log: usize, is_settled: bool) -> Seq {
            let last = Seq(self.newest[log].load(Ordering::Relaxed));
            let seq = last.max(self.order.floor()).next_in(LogId(log as u8)).step(2);
            self.newest[log].store(seq.0, Ordering::Release);
            if is_settled {
                self.order.settle(seq);
            }
            seq
        }

        fn next_above_all(&self) -> Seq {
            // loom takes accesses that are `SeqCst` for `AcqRel`; this stands for what they are.
            fence(Ordering::SeqCst);
            let newest = self.newest.iter().map(|log| Seq(log.load(Ordering::SeqCst))).max();
            newest.max(Some(self.order.floor())).expect("there are two").next_in(LogId(2))
        }

        /// As `OpLog::next_seq_of_many` of a third log.
        fn divide(&self) -> Seq {
            self.order.divide(|| self.next_above_all())
        }

        fn divide_unannounced(&self) -> Seq {
            let divider = self.next_above_all();
            self.order.raise_floor(divider);
            divider
        }
    }

    /// The log of the earlier write is `units` ahead of the other one.
    fn put_one_after_the_other(units: u64, is_settled: bool, divide: fn(&Logs) -> Seq) {
        let logs = Arc::new(Logs::default());
        logs.newest[0].store(Seq::ZERO.step(units).0, Ordering::Relaxed);
        let earlier = {
            let logs = Arc::clone(&logs);
            thread::spawn(move || {
                let seq = logs.put(0, is_settled);
                logs.has_returned.store(1, Ordering::Release);
                seq
            })
        };
        let later = {
            let logs = Arc::clone(&logs);
            thread::spawn(move || {
                (logs.has_returned.load(Ordering::Acquire) == 1).then(|| logs.put(1, is_settled))
            })
        };
        let divider = divide(&logs);
        let (earlier, later) = (earlier.join().unwrap(), later.join().unwrap());
        let lies_between = later.is_some_and(|later| later < divider && divider < earlier);
        assert!(!lies_between, "{later:?} < {divider:?} < {earlier:?}");
    }

    #[test]
    fn never_lie_above_a_later_write_and_below_an_earlier_one() {
        (0..3).for_each(|units| loom::model(move || put_one_after_the_other(units, true, Logs::divide)));
    }

    #[test]
    fn do_if_writers_do_not_look_for_them() {
        refuted(|| put_one_after_the_other(2, false, Logs::divide));
    }

    #[test]
    fn do_if_they_are_not_announced() {
        refuted(|| put_one_after_the_other(2, true, Logs::divide_unannounced));
    }
}

/// The clock of reclamation: `Reader::pin`, `Guard::drop`, `Clock::close` and `Clock::oldest_pin` of
/// `src/epoch/clock.rs`, for one reader and one place that is replaced. A barrier on all threads stands as a fence on
/// both sides, which is also what pins do where there is none.
mod reclamation_clock {
    use super::*;
    use Ordering::{Acquire, Relaxed, Release, SeqCst};

    /// What is as it is there, and what a twin gets wrong.
    #[derive(Clone, Copy)]
    struct Steps {
        pin_is_ordered: bool,
        turn_is_ordered: bool,
        /// A pin releases what the one before it read.
        pin: Ordering,
        unpin: Ordering,
        time_moves_behind_the_unlinking: bool,
    }

    const RIGHT: Steps = Steps {
        pin_is_ordered: true,
        turn_is_ordered: true,
        pin: Release,
        unpin: Release,
        time_moves_behind_the_unlinking: true,
    };

    struct Clock {
        time: AtomicU64,
        /// The record: 0, or the time of the pin.
        seen: AtomicU64,
        now: AtomicUsize,
        /// True until it is free; a race on it is a look at what is free.
        places: [UnsafeCell<bool>; 2],
        steps: Steps,
    }

    impl Clock {
        fn look(&self) {
            self.seen.store(self.time.load(Acquire), self.steps.pin);
            if self.steps.pin_is_ordered {
                fence(SeqCst);
            }
            let place = &self.places[self.now.load(Acquire)];
            // SAFETY: what the model proves.
            assert!(place.with(|place| unsafe { *place }), "a look at what is free");
        }

        fn unpin(&self) {
            self.seen.store(0, self.steps.unpin);
        }

        /// Replaces the place, and frees the old one if no pin may see it.
        fn replace(&self) {
            let lot = self.time.load(Relaxed);
            if self.steps.time_moves_behind_the_unlinking {
                self.now.store(1, Release);
                self.time.store(lot + 1, Release);
            } else {
                self.time.store(lot + 1, Release);
                self.now.store(1, Release);
            }
            if self.steps.turn_is_ordered {
                fence(SeqCst);
            }
            let seen = self.seen.load(Acquire);
            if seen == 0 || seen > lot {
                // SAFETY: what the model proves.
                self.places[0].with_mut(|place| unsafe { *place = false });
            }
        }
    }

    fn read_beside_a_replacement(steps: Steps) {
        let clock = Arc::new(Clock {
            time: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            now: AtomicUsize::new(0),
            places: [UnsafeCell::new(true), UnsafeCell::new(true)],
            steps,
        });
        let reader = {
            let clock = Arc::clone(&clock);
            thread::spawn(move || {
                for _ in 0..2 {
                    clock.look();
                    clock.unpin();
                }
            })
        };
        clock.replace();
        reader.join().unwrap();
    }

    #[test]
    fn nobody_looks_at_what_is_free() {
        loom::model(|| read_beside_a_replacement(RIGHT));
    }

    #[test]
    fn a_pin_that_no_barrier_orders_is_overlooked() {
        refuted(|| read_beside_a_replacement(Steps { pin_is_ordered: false, ..RIGHT }));
        refuted(|| read_beside_a_replacement(Steps { turn_is_ordered: false, ..RIGHT }));
    }

    #[test]
    fn a_pin_that_ends_without_release_still_reads_what_is_free() {
        refuted(|| read_beside_a_replacement(Steps { unpin: Relaxed, ..RIGHT }));
    }

    #[test]
    fn a_pin_that_begins_without_release_hides_the_end_of_the_one_before() {
        refuted(|| read_beside_a_replacement(Steps { pin: Relaxed, ..RIGHT }));
    }

    #[test]
    fn a_new_time_that_is_seen_before_the_unlinking_frees_too_early() {
        refuted(|| {
            read_beside_a_replacement(Steps { time_moves_behind_the_unlinking: false, ..RIGHT });
        });
    }
}

/// Two threads that each put a key and then get the other's: the fence at the end of `src/epoch/sections.rs`'s write
/// sections. Gets have none.
mod puts_and_gets {
    use super::*;

    fn put_one_and_get_the_other(is_fenced: bool) {
        let slots = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let call = move |slots: &[AtomicU64; 2], own: usize| {
            slots[own].store(1, Ordering::Release);
            if is_fenced {
                fence(Ordering::SeqCst);
            }
            slots[1 - own].load(Ordering::Acquire)
        };
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || call(&slots, 1))
        };
        let found = (call(&slots, 0), other.join().unwrap());
        assert_ne!(found, (0, 0), "whichever put was first, the other thread's get came after it");
    }

    #[test]
    fn one_of_two_sees_what_the_other_put() {
        loom::model(|| put_one_and_get_the_other(true));
    }

    #[test]
    fn none_may_if_puts_end_without_a_fence() {
        refuted(|| put_one_and_get_the_other(false));
    }
}

/// A read point that is open alone: `open`, `know_alone`, `keep` and `close_for_one` of `src/engine/versions.rs`, with one
/// shard, and `keep` of that. Each point shows what the writer replaces, so stamps play no part. What
/// is sequentially consistent there is a fence here, behind the first access of each pair.
mod lone_points {
    use super::*;
    use loom::sync::Mutex;

    /// Steps of the protocol that a variant leaves out or turns round.
    #[derive(Clone, Copy, PartialEq)]
    enum Wrong {
        Nothing,
        WriterWithoutFence,
        CloserWithoutFence,
        BoundBeforeMark,
        MarkClearedBehindVisit,
        NumberReadTwice,
    }

    /// What the bound is while a point is being opened.
    const ALL: u64 = u64::MAX;

    /// There are versions and a point only while one is open.
    #[derive(Default)]
    struct Shard {
        /// The newest opening that it was told of.
        opened: u64,
        has_point: bool,
        versions: u64,
    }

    struct Points {
        opening: AtomicU64,
        used: AtomicU64,
        bound: AtomicU64,
        shard: Mutex<Shard>,
        wrong: Wrong,
    }

    impl Points {
        fn number(&self) -> u64 {
            self.opening.load(Ordering::Acquire)
        }

        /// A writer's.
        fn keep(&self) {
            let mut shard = self.shard.lock().expect("nobody panics");
            let mut opening = self.number();
            if shard.opened != opening && !self.know_alone(&mut shard) {
                return;
            }
            if self.wrong == Wrong::NumberReadTwice {
                opening = self.number();
            }
            shard.versions += u64::from(shard.has_point || shard.opened != opening);
        }

        fn know_alone(&self, shard: &mut Shard) -> bool {
            let mark = || self.used.store(1, Ordering::Relaxed);
            if self.wrong != Wrong::BoundBeforeMark {
                mark();
            }
            if self.wrong != Wrong::WriterWithoutFence {
                fence(Ordering::SeqCst);
            }
            let bound = self.bound.load(Ordering::Relaxed);
            if self.wrong == Wrong::BoundBeforeMark {
                mark();
            }
            if !shard.has_point && bound != ALL && bound > 0 {
                (shard.opened, shard.has_point) = (self.number(), true);
            }
            bound > 0
        }

        fn open(&self, number: u64) {
            self.opening.store(number, Ordering::Relaxed);
            self.bound.store(ALL, Ordering::Release);
            self.bound.store(number, Ordering::Release);
        }

        fn close(&self) {
            self.bound.store(0, Ordering::Relaxed);
            if self.wrong != Wrong::CloserWithoutFence {
                fence(Ordering::SeqCst);
            }
            if self.used.load(Ordering::Relaxed) == 0 {
                return;
            }
            let clear = || self.used.store(0, Ordering::Relaxed);
            if self.wrong != Wrong::MarkClearedBehindVisit {
                clear();
            }
            {
                let mut shard = self.shard.lock().expect("nobody panics");
                *shard = Shard { opened: shard.opened, ..Shard::default() };
            }
            if self.wrong == Wrong::MarkClearedBehindVisit {
                clear();
            }
        }
    }

    /// A point is closed, opened again and closed beside a writer.
    fn model(wrong: Wrong) -> impl Fn() + Send + Sync + 'static {
        move || {
            let points = Arc::new(Points {
                opening: AtomicU64::new(1),
                used: AtomicU64::new(0),
                bound: AtomicU64::new(1),
                shard: Mutex::default(),
                wrong,
            });
            let writer = {
                let points = Arc::clone(&points);
                thread::spawn(move || (0..2).for_each(|_| points.keep()))
            };
            points.close();
            points.open(2);
            points.close();
            writer.join().expect("the writer ends");
            let kept = points.shard.lock().expect("nobody panics").versions;
            assert_eq!(kept, 0, "kept behind the close of the last point");
        }
    }

    #[test]
    fn nothing_is_kept_behind_the_close_of_a_point_that_was_alone() {
        loom::model(model(Wrong::Nothing));
    }

    #[test]
    fn without_one_of_its_steps_something_may_be_kept() {
        refuted(model(Wrong::WriterWithoutFence));
        refuted(model(Wrong::CloserWithoutFence));
        refuted(model(Wrong::BoundBeforeMark));
        refuted(model(Wrong::MarkClearedBehindVisit));
    }

    /// A writer met the number of an opening that had begun since it looked whether the shard knew of all.
    #[test]
    fn with_two_looks_at_the_number_something_is_kept_behind_a_close_that_nobody_told() {
        refuted(model(Wrong::NumberReadTwice));
    }
}

/// The slot of a store: `enter`, the end of `Entered`, `close`, `wait_for_calls` and `dispose` of `src/capi/stores.rs`,
/// with a record for each of two threads. A barrier on all threads stands as a fence on both sides: of a call that says
/// where it is and then reads the word, and a close that changes the word and then looks who is there, at least one
/// sees the other.
mod store_handles {
    use super::*;

    const CLOSING: u64 = 1 << 29;
    const FREE: u64 = 1 << 31;
    const GENERATION: u64 = 1 << 32;

    struct Slot {
        word: AtomicU64,
        calls: [AtomicU64; 2],
        /// True while there is a store; a race on it is a call on a store that is gone.
        store: UnsafeCell<bool>,
    }

    impl Slot {
        fn open() -> Arc<Slot> {
            Arc::new(Slot {
                word: AtomicU64::new(GENERATION),
                calls: [AtomicU64::new(0), AtomicU64::new(0)],
                store: UnsafeCell::new(true),
            })
        }

        /// `enter`, a use of the store, and the drop of `Entered`.
        fn call(&self, shard: usize, ordered: bool) {
            self.calls[shard].store(1, Ordering::Release);
            if ordered {
                fence(Ordering::SeqCst);
            }
            if self.word.load(Ordering::SeqCst) == GENERATION {
                // SAFETY: what the model proves.
                assert!(self.store.with(|store| unsafe { *store }), "a call on a store that is gone");
            }
            self.calls[shard].store(0, Ordering::Release);
        }

        /// `close`; `busy` is the answer of a store that has pins and stays open.
        fn close(&self, busy: bool) -> bool {
            let closing = GENERATION | CLOSING;
            if self.word.compare_exchange(GENERATION, closing, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return false;
            }
            fence(Ordering::SeqCst);
            for calls in &self.calls {
                while calls.load(Ordering::Acquire) != 0 {
                    thread::yield_now();
                }
            }
            if busy {
                self.word.store(GENERATION, Ordering::SeqCst);
                return false;
            }
            // SAFETY: what the model proves.
            self.store.with_mut(|store| unsafe { *store = false });
            self.word.store((2 * GENERATION) | FREE, Ordering::SeqCst);
            true
        }
    }

    #[test]
    fn a_call_never_meets_a_store_that_is_gone() {
        loom::model(|| {
            let slot = Slot::open();
            let calls: Vec<_> = (0..2)
                .map(|shard| {
                    let slot = Arc::clone(&slot);
                    thread::spawn(move || slot.call(shard, true))
                })
                .collect();
            assert!(slot.close(false));
            calls.into_iter().for_each(|call| call.join().unwrap());
        });
    }

    #[test]
    fn of_two_closes_one_wins() {
        loom::model(|| {
            let slot = Slot::open();
            let other = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || slot.close(false))
            };
            let mine = slot.close(false);
            assert!(mine ^ other.join().unwrap());
        });
    }

    #[test]
    fn a_refused_close_leaves_the_store_open() {
        loom::model(|| {
            let slot = Slot::open();
            let call = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || slot.call(0, true))
            };
            assert!(!slot.close(true));
            slot.call(1, true);
            call.join().unwrap();
            assert!(slot.close(false));
        });
    }

    #[test]
    fn without_the_order_a_call_meets_a_store_that_is_gone() {
        refuted(|| {
            let slot = Slot::open();
            let call = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || slot.call(0, false))
            };
            slot.close(false);
            call.join().unwrap();
        });
    }
}

/// The slot of an object: `create`, `enter`, `share`, `claim`, `free`, `leave` and `dispose` of `src/capi/objects.rs`.
mod object_handles {
    use super::*;

    const CLOSING: u64 = 1 << 29;
    const EXCLUSIVE: u64 = 1 << 28;
    const STATE: u64 = u32::MAX as u64;
    const FREE: u64 = 1 << 31;
    const GENERATION: u64 = 1 << 32;

    struct Slot {
        word: AtomicU64,
        object: UnsafeCell<Option<u32>>,
        disposed: AtomicUsize,
        leave_with: Ordering,
    }

    impl Slot {
        fn new(leave_with: Ordering) -> Arc<Slot> {
            let slot = Slot {
                word: AtomicU64::new(GENERATION | FREE),
                object: UnsafeCell::new(None),
                disposed: AtomicUsize::new(0),
                leave_with,
            };
            // SAFETY: nobody else has the slot yet.
            slot.object.with_mut(|object| unsafe { *object = Some(0) });
            slot.word.store(GENERATION, Ordering::Release);
            Arc::new(slot)
        }

        fn enter(&self, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
            let mut word = self.word.load(Ordering::Relaxed);
            loop {
                // `table::check`.
                if word & !STATE != GENERATION || word & (FREE | CLOSING) != 0 {
                    return None;
                }
                let new = change(word)?;
                match self.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Some(word),
                    Err(now) => word = now,
                }
            }
        }

        fn leave(&self, added: u64) {
            let word = self.word.fetch_sub(added, self.leave_with) - added;
            if word & STATE == CLOSING {
                self.dispose();
            }
        }

        fn dispose(&self) {
            // SAFETY: what the model proves.
            let object = self.object.with_mut(|object| unsafe { (*object).take() });
            assert!(object.is_some(), "disposed of twice");
            self.disposed.fetch_add(1, Ordering::Relaxed);
            self.word.store((2 * GENERATION) | FREE, Ordering::Release);
        }

        fn read(&self) -> Option<u32> {
            self.enter(|word| (word & EXCLUSIVE == 0).then_some(word + 1))?;
            // SAFETY: what the model proves.
            let value = self.object.with(|object| unsafe { (*object).expect("a live slot holds an object") });
            self.leave(1);
            Some(value)
        }

        fn change(&self) -> bool {
            if self.enter(|word| (word & STATE == 0).then_some(word | EXCLUSIVE)).is_none() {
                return false;
            }
            // SAFETY: what the model proves.
            self.object
                .with_mut(|object| unsafe { *(*object).as_mut().expect("a live slot holds an object") += 1 });
            self.leave(EXCLUSIVE);
            true
        }

        fn free(&self) -> bool {
            match self.enter(|word| Some(word | CLOSING)) {
                None => false,
                Some(word) => {
                    if word & STATE == 0 {
                        self.dispose();
                    }
                    true
                }
            }
        }
    }

    fn share_change_and_free(leave_with: Ordering) {
        let slot = Slot::new(leave_with);
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.read().is_none_or(|value| value <= 1))
        };
        let writer = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.change())
        };
        let freed = slot.free();
        assert!(reader.join().unwrap());
        writer.join().unwrap();
        assert!(freed && slot.disposed.load(Ordering::Relaxed) == 1, "freed once, by whoever left last");
        assert!(slot.read().is_none());
    }

    #[test]
    fn readers_a_writer_and_a_free_never_meet_in_the_object() {
        loom::model(|| share_change_and_free(Ordering::AcqRel));
    }

    #[test]
    fn of_two_frees_one_wins() {
        loom::model(|| {
            let slot = Slot::new(Ordering::AcqRel);
            let other = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || slot.free())
            };
            let mine = slot.free();
            assert!(mine ^ other.join().unwrap());
            assert_eq!(slot.disposed.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn without_the_order_of_leaving_the_object_is_freed_under_a_user() {
        refuted(|| share_change_and_free(Ordering::Relaxed));
    }
}

/// The free lists of handle slots: `pop`, `push_chain`, `steal` and `keep_rest` of `src/capi/table.rs`, with two lists.
mod free_lists {
    use super::*;

    const END: u32 = 0;

    struct Table {
        heads: [AtomicU64; 2],
        next: [AtomicU32; 3],
        owned: [AtomicU32; 3],
        counts_changes: bool,
    }

    impl Table {
        /// All slots are in list 0, the first in front.
        fn new(counts_changes: bool) -> Arc<Table> {
            Arc::new(Table {
                heads: [AtomicU64::new(1), AtomicU64::new(u64::from(END))],
                next: [AtomicU32::new(2), AtomicU32::new(3), AtomicU32::new(END)],
                owned: [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)],
                counts_changes,
            })
        }

        fn changed(&self, head: u64, first: u32) -> u64 {
            let count = if self.counts_changes { (head >> 32) + 1 } else { 0 };
            count << 32 | u64::from(first)
        }

        fn pop(&self, list: usize) -> Option<u32> {
            let head = &self.heads[list];
            let mut seen = head.load(Ordering::Acquire);
            loop {
                let slot = (seen as u32).checked_sub(1)?;
                let next = self.next[slot as usize].load(Ordering::Relaxed);
                let new = self.changed(seen, next);
                match head.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Acquire) {
                    Ok(_) => return Some(slot),
                    Err(now) => seen = now,
                }
            }
        }

        fn push_chain(&self, list: usize, first: u32, last: u32) {
            let head = &self.heads[list];
            let mut seen = head.load(Ordering::Relaxed);
            loop {
                self.next[last as usize].store(seen as u32, Ordering::Relaxed);
                let new = self.changed(seen, first + 1);
                match head.compare_exchange_weak(seen, new, Ordering::Release, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(now) => seen = now,
                }
            }
        }

        fn steal(&self, own: usize) -> Option<u32> {
            let head = &self.heads[1 - own];
            let mut seen = head.load(Ordering::Relaxed);
            while let Some(first) = (seen as u32).checked_sub(1) {
                let new = self.changed(seen, END);
                match head.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => {
                        self.keep_rest(own, first);
                        return Some(first);
                    }
                    Err(now) => seen = now,
                }
            }
            None
        }

        fn keep_rest(&self, own: usize, first: u32) {
            let next_of = |slot: u32| self.next[slot as usize].load(Ordering::Relaxed).checked_sub(1);
            let Some(second) = next_of(first) else { return };
            let mut last = second;
            while let Some(next) = next_of(last) {
                last = next;
            }
            self.push_chain(own, second, last);
        }

        fn take(&self, own: usize) -> Option<u32> {
            let slot = self.pop(own).or_else(|| self.steal(own))?;
            assert_eq!(
                self.owned[slot as usize].swap(1, Ordering::Relaxed),
                0,
                "slot {slot} was given twice"
            );
            Some(slot)
        }

        fn give_back(&self, own: usize, slot: u32) {
            assert_eq!(self.owned[slot as usize].swap(0, Ordering::Relaxed), 1);
            self.push_chain(own, slot, slot);
        }
    }

    fn model(bound: usize, run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(bound);
        builder.check(run);
    }

    /// Another thread takes two slots and gives back the first: a head that looks as it did, over a list that changed.
    fn take_while_the_head_comes_back(counts_changes: bool) {
        let table = Table::new(counts_changes);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let (first, second) = (table.take(0), table.take(0));
                if let Some(first) = first {
                    table.give_back(0, first);
                }
                second
            })
        };
        let mine = [table.take(0), table.take(0)];
        other.join().unwrap();
        assert!(mine.iter().any(Option::is_some));
    }

    #[test]
    fn a_slot_is_given_once_though_the_head_comes_back() {
        model(4, || take_while_the_head_comes_back(true));
    }

    #[test]
    fn a_stolen_list_and_its_owner_never_share_a_slot() {
        model(4, || {
            let table = Table::new(true);
            let thief = {
                let table = Arc::clone(&table);
                thread::spawn(move || [table.take(1), table.take(1)])
            };
            let mine = table.take(0);
            if let Some(slot) = mine {
                table.give_back(0, slot);
            }
            table.take(0);
            thief.join().unwrap();
        });
    }

    #[test]
    fn without_the_count_a_slot_is_given_twice() {
        refuted(|| take_while_the_head_comes_back(false));
    }
}

/// Slots of the index: `visit`, `try_upsert`, `exchange`, `get`, `grow` with `freeze`, `build` and `publish`, and
/// `wait_for_growth` of `src/index/hash.rs`, for a directory of one entry and cells of two slots. A word is
/// `frozen << 16 | key << 8 | version`; the newer version of a key wins.
mod index_slots {
    use super::*;

    const FROZEN: u64 = 1 << 16;
    const EMPTY: u64 = 0;
    const SLOTS: usize = 2;

    fn word(key: u64, version: u64) -> u64 {
        key << 8 | version
    }

    fn same_key(a: u64, b: u64) -> bool {
        a >> 8 & 0xFF == b >> 8 & 0xFF
    }

    struct Cell {
        slots: [AtomicU64; SLOTS + 2],
        len: usize,
        claim: AtomicU32,
    }

    impl Cell {
        fn new(words: &[u64], len: usize) -> Cell {
            let at = |at: usize| AtomicU64::new(words.get(at).copied().unwrap_or(EMPTY));
            Cell { slots: [at(0), at(1), at(2), at(3)], len, claim: AtomicU32::new(0) }
        }

        fn slots(&self) -> &[AtomicU64] {
            &self.slots[..self.len]
        }
    }

    struct Index {
        /// Cells by number; a replaced one stays, as the epoch of whoever looks at it demands.
        cells: [Cell; 2],
        directory: AtomicU32,
        freezes: bool,
    }

    impl Index {
        fn new(words: &[u64], freezes: bool) -> Arc<Index> {
            let cells = [Cell::new(words, SLOTS), Cell::new(&[], SLOTS + 2)];
            Arc::new(Index { cells, directory: AtomicU32::new(0), freezes })
        }

        fn cell(&self) -> &Cell {
            &self.cells[self.directory.load(Ordering::Acquire) as usize]
        }

        fn is_current(&self, cell: &Cell) -> bool {
            std::ptr::eq(self.cell(), cell)
        }

        fn wait_for_growth(&self, cell: &Cell) {
            while self.is_current(cell) {
                thread::yield_now();
            }
        }

        fn get(&self, key: u64) -> Option<u64> {
            loop {
                let cell = self.cell();
                for slot in cell.slots() {
                    let word = slot.load(Ordering::Acquire) & !FROZEN;
                    if word == EMPTY {
                        break;
                    }
                    if same_key(word, key << 8) {
                        return Some(word & 0xFF);
                    }
                }
                if self.is_current(cell) {
                    return None;
                }
            }
        }

        fn put(&self, key: u64, version: u64) {
            let new = word(key, version);
            'again: loop {
                let cell = self.cell();
                for slot in cell.slots() {
                    let mut word = slot.load(Ordering::Acquire);
                    loop {
                        if word & FROZEN != 0 {
                            self.wait_for_growth(cell);
                            continue 'again;
                        }
                        if word != EMPTY && !same_key(word, new) {
                            break;
                        }
                        if word != EMPTY && word & 0xFF > version {
                            return;
                        }
                        match slot.compare_exchange(word, new, Ordering::AcqRel, Ordering::Acquire) {
                            Ok(_) => return,
                            Err(changed) => word = changed,
                        }
                    }
                }
                self.grow(cell);
            }
        }

        /// `relocate`: `from` becomes `to` if the slot still holds it.
        fn relocate(&self, key: u64, from: u64, to: u64) -> bool {
            'again: loop {
                let cell = self.cell();
                for slot in cell.slots() {
                    let mut seen = slot.load(Ordering::Acquire);
                    while seen & !FROZEN == word(key, from) || seen & !FROZEN == EMPTY {
                        if seen & FROZEN != 0 {
                            self.wait_for_growth(cell);
                            continue 'again;
                        }
                        if seen == EMPTY {
                            return false;
                        }
                        match slot.compare_exchange(seen, word(key, to), Ordering::AcqRel, Ordering::Acquire)
                        {
                            Ok(_) => return true,
                            Err(changed) => seen = changed,
                        }
                    }
                }
                if self.is_current(cell) {
                    return false;
                }
            }
        }

        fn grow(&self, cell: &Cell) {
            if cell.claim.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
                return self.wait_for_growth(cell);
            }
            // The model's directory has a second cell and no third.
            assert!(std::ptr::eq(cell, &self.cells[0]), "the second cell is large enough");
            let mut words = Vec::new();
            for slot in cell.slots() {
                let mark = if self.freezes { FROZEN } else { 0 };
                match slot.fetch_or(mark, Ordering::AcqRel) {
                    EMPTY => {}
                    word => words.push(word),
                }
            }
            for (slot, word) in self.cells[1].slots().iter().zip(words) {
                slot.store(word, Ordering::Relaxed);
            }
            self.directory.store(1, Ordering::Release);
        }
    }

    #[test]
    fn racing_puts_of_one_key_share_a_slot_and_the_newest_stays() {
        loom::model(|| {
            let index = Index::new(&[], true);
            let other = {
                let index = Arc::clone(&index);
                thread::spawn(move || index.put(1, 2))
            };
            index.put(1, 1);
            other.join().unwrap();
            assert_eq!(index.get(1), Some(2));
            assert_eq!(index.cell().slots()[1].load(Ordering::Acquire), EMPTY, "one key has one slot");
        });
    }

    #[test]
    fn racing_inserts_of_two_keys_are_both_found() {
        loom::model(|| {
            let index = Index::new(&[], true);
            let other = {
                let index = Arc::clone(&index);
                thread::spawn(move || index.put(1, 1))
            };
            index.put(2, 1);
            other.join().unwrap();
            assert_eq!((index.get(1), index.get(2)), (Some(1), Some(1)));
        });
    }

    /// A full cell: one thread inserts, which makes it grow, while another replaces.
    fn replace_while_the_cell_grows(freezes: bool) {
        let index = Index::new(&[word(1, 1), word(2, 1)], freezes);
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                index.put(1, 2);
                assert_eq!(index.get(1), Some(2), "who wrote it sees it");
            })
        };
        index.put(3, 1);
        assert_eq!(index.get(2), Some(1), "nobody touches it, so it is always there");
        other.join().unwrap();
        assert_eq!((index.get(1), index.get(2), index.get(3)), (Some(2), Some(1), Some(1)));
    }

    #[test]
    fn no_write_is_lost_while_the_cell_grows() {
        loom::model(|| replace_while_the_cell_grows(true));
    }

    #[test]
    fn without_the_frozen_mark_a_write_is_lost() {
        refuted(|| replace_while_the_cell_grows(false));
    }

    #[test]
    fn two_threads_that_find_the_cell_full_let_one_grow_it() {
        loom::model(|| {
            let index = Index::new(&[word(1, 1), word(2, 1)], true);
            let other = {
                let index = Arc::clone(&index);
                thread::spawn(move || index.put(3, 1))
            };
            index.put(4, 1);
            other.join().unwrap();
            assert!((1..=4).all(|key| index.get(key) == Some(1)));
        });
    }

    #[test]
    fn a_relocation_never_undoes_a_newer_put_even_while_the_cell_grows() {
        loom::model(|| {
            let index = Index::new(&[word(1, 1), word(2, 1)], true);
            let cleaner = {
                let index = Arc::clone(&index);
                // The copy at another address: version 2 stands for it, and is older than what is put.
                thread::spawn(move || index.relocate(1, 1, 2))
            };
            index.put(1, 9);
            index.put(3, 1);
            cleaner.join().unwrap();
            assert_eq!((index.get(1), index.get(3)), (Some(9), Some(1)));
        });
    }
}

/// The version lock of leaves: `version`, `check` and `Locked` of `src/index/ordered/node.rs`, `try_get` and `insert` of
/// `src/index/ordered/mod.rs`, for a leaf of three slots. A slot is `key << 8 | address`.
mod leaf_versions {
    use super::*;

    const LOCKED: u64 = 1;
    const CHANGE: u64 = 4;

    struct Leaf {
        version: AtomicU64,
        count: AtomicU64,
        slots: [AtomicU64; 3],
        /// What a move of slots adds to the version.
        change: u64,
    }

    impl Leaf {
        fn new(change: u64) -> Arc<Leaf> {
            let slots = [AtomicU64::new(2 << 8 | 1), AtomicU64::new(4 << 8 | 1), AtomicU64::new(0)];
            Arc::new(Leaf { version: AtomicU64::new(0), count: AtomicU64::new(2), slots, change })
        }

        fn seen(&self) -> u64 {
            loop {
                let version = self.version.load(Ordering::Acquire);
                if version & LOCKED == 0 {
                    return version;
                }
                thread::yield_now();
            }
        }

        fn slot(&self, at: usize) -> u64 {
            self.slots[at].load(Ordering::Acquire)
        }

        /// `None` if what was read may be no state of the leaf.
        fn find(&self, key: u64) -> Option<(u64, Option<(usize, u64)>)> {
            let seen = self.seen();
            let count = self.count.load(Ordering::Acquire) as usize;
            let found = (0..count).map(|at| (at, self.slot(at))).find(|(_, slot)| slot >> 8 == key);
            (self.version.load(Ordering::Acquire) == seen).then_some((seen, found))
        }

        fn get(&self, key: u64) -> Option<u64> {
            loop {
                if let Some((_, found)) = self.find(key) {
                    return found.map(|(_, slot)| slot & 0xFF);
                }
                thread::yield_now();
            }
        }

        fn lock(&self, seen: u64) -> bool {
            let locked = seen | LOCKED;
            self.version.compare_exchange(seen, locked, Ordering::Acquire, Ordering::Relaxed).is_ok()
        }

        /// Inserts in front, so that all slots move.
        fn insert_first(&self, slot: u64) {
            loop {
                let seen = self.seen();
                if self.lock(seen) {
                    let count = self.count.load(Ordering::Acquire) as usize;
                    for from in (0..count).rev() {
                        self.slots[from + 1].store(self.slot(from), Ordering::Release);
                    }
                    self.slots[0].store(slot, Ordering::Release);
                    self.count.store(count as u64 + 1, Ordering::Release);
                    self.version.store(seen + self.change, Ordering::Release);
                    return;
                }
                thread::yield_now();
            }
        }

        /// Puts another address, if it is greater, under the lock and the old version.
        fn replace(&self, key: u64, address: u64) {
            loop {
                if let Some((seen, Some((at, slot)))) = self.find(key) {
                    if slot & 0xFF > address {
                        return;
                    }
                    if self.lock(seen) {
                        let is_same = self.slot(at) == slot;
                        if is_same {
                            self.slots[at].store(key << 8 | address, Ordering::Release);
                        }
                        self.version.store(seen, Ordering::Release);
                        if is_same {
                            return;
                        }
                    }
                }
                thread::yield_now();
            }
        }
    }

    fn read_while_slots_move(change: u64) {
        let leaf = Leaf::new(change);
        let reader = {
            let leaf = Arc::clone(&leaf);
            // It is there before, while and after the slots move; key 3 never is.
            thread::spawn(move || leaf.get(4))
        };
        leaf.insert_first(1 << 8 | 1);
        assert_eq!(reader.join().unwrap(), Some(1));
        assert_eq!((leaf.get(1), leaf.get(2), leaf.get(4), leaf.get(3)), (Some(1), Some(1), Some(1), None));
    }

    fn model(run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(run);
    }

    #[test]
    fn a_key_that_stays_is_found_while_slots_move() {
        model(|| read_while_slots_move(CHANGE));
    }

    #[test]
    fn a_replacement_is_not_lost_while_slots_move() {
        model(|| {
            let leaf = Leaf::new(CHANGE);
            let writer = {
                let leaf = Arc::clone(&leaf);
                thread::spawn(move || leaf.insert_first(1 << 8 | 1))
            };
            leaf.replace(4, 9);
            writer.join().unwrap();
            assert_eq!((leaf.get(4), leaf.get(2), leaf.get(1)), (Some(9), Some(1), Some(1)));
        });
    }

    #[test]
    fn of_two_replacements_the_greater_stays() {
        model(|| {
            let leaf = Leaf::new(CHANGE);
            let other = {
                let leaf = Arc::clone(&leaf);
                thread::spawn(move || leaf.replace(4, 8))
            };
            leaf.replace(4, 9);
            other.join().unwrap();
            assert_eq!(leaf.get(4), Some(9));
        });
    }

    #[test]
    fn without_a_new_version_a_reader_misses_a_key() {
        refuted(|| read_while_slots_move(0));
    }
}
