//! What is retired, and when it is free: on clocks of the tests' own, because others pin on that of the process.

use super::*;
use crate::sync::{Arc, AtomicUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

const LONG: Duration = Duration::from_secs(20);

fn refused() -> bool {
    false
}

/// Kept, as that of a process is: what is on it and not free at the end is no leak.
fn clock_with(barrier: fn() -> bool, has_barrier: bool) -> &'static Clock {
    static KEPT: PlainMutex<Vec<&'static Clock>> = PlainMutex::new(Vec::new());
    let clock: &'static Clock = Box::leak(Clock::new(0, barrier, has_barrier));
    KEPT.lock().push(clock);
    clock
}

/// One that asks for barriers, where there are any, and one that fences.
fn clocks() -> [&'static Clock; 2] {
    [clock_with(barrier::on_all_threads, barrier::register()), clock_with(refused, false)]
}

/// Retires, in a pin of a thread, what counts how often it ran.
fn retire_counted(clock: &'static Clock, ran: &Arc<AtomicUsize>) {
    let (reader, ran) = (clock.take(), Arc::clone(ran));
    reader.pin().retire(
        0,
        Box::new(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        }),
    );
    reader.give_back();
}

fn count(ran: &AtomicUsize) -> usize {
    ran.load(Ordering::Relaxed)
}

#[test]
fn what_is_retired_waits_for_pins_from_before_and_for_no_others() {
    for clock in clocks() {
        let ran = Arc::default();
        let (old, new) = (clock.take(), clock.take());
        let before = old.pin();
        retire_counted(clock, &ran);
        (0..10).for_each(|_| clock.help());
        assert_eq!(count(&ran), 0, "a pin from before is open");
        let _since = new.pin();
        drop(before);
        clock.help();
        assert_eq!(count(&ran), 1, "only later pins are open");
    }
}

#[test]
fn what_is_retired_comes_free_beside_readers_of_which_one_is_always_pinned() {
    for clock in clocks() {
        let ran = Arc::default();
        let readers = [clock.take(), clock.take()];
        let mut pinned = readers[0].pin();
        for turn in 1..1_000 {
            retire_counted(clock, &ran);
            // The next one begins before the last one ends.
            let next = readers[turn % 2].pin();
            drop(std::mem::replace(&mut pinned, next));
        }
        assert!(count(&ran) > 1_000 - 3 * LOT_LEN, "{} of 1000 without help", count(&ran));
        drop(pinned);
        clock.help();
        assert_eq!(count(&ran), 999);
    }
}

#[test]
fn many_bytes_close_a_batch_before_many_things_do() {
    let clock = clock_with(refused, false);
    let ran: Arc<AtomicUsize> = Arc::default();
    for _ in 0..10 {
        let (reader, ran) = (clock.take(), Arc::clone(&ran));
        let free = move || {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        reader.pin().retire(LOT_BYTES, Box::new(free));
        reader.give_back();
    }
    assert_eq!(count(&ran), 9, "all but the last, whose pin was its own");
}

/// Each put of a large value paid a barrier.
#[test]
fn a_barrier_is_for_a_whole_batch() {
    static BARRIERS: AtomicUsize = AtomicUsize::new(0);
    fn counted() -> bool {
        BARRIERS.fetch_add(1, Ordering::Relaxed);
        true
    }
    let clock = clock_with(counted, true);
    let ran = Arc::default();
    (0..10 * LOT_LEN).for_each(|_| retire_counted(clock, &ran));
    assert_eq!(count(&BARRIERS), 10);
    (0..10).for_each(|_| clock.help());
    assert_eq!((count(&BARRIERS), count(&ran)), (10, 10 * LOT_LEN), "nothing new was retired");
}

#[test]
fn nested_pins_count_until_the_last_one_ends() {
    for clock in clocks() {
        let ran = Arc::default();
        let reader = clock.take();
        let outer = reader.pin();
        retire_counted(clock, &ran);
        let inner = reader.pin();
        drop(outer);
        clock.help();
        assert_eq!(count(&ran), 0);
        drop(inner);
        clock.help();
        assert_eq!(count(&ran), 1);
    }
}

#[test]
fn one_that_panics_takes_no_others_with_it() {
    crate::panics::keep_quiet();
    let clock = clock_with(refused, false);
    let ran = Arc::default();
    retire_counted(clock, &ran);
    let reader = clock.take();
    reader.pin().retire(0, Box::new(|| std::panic::resume_unwind(Box::new("retired"))));
    retire_counted(clock, &ran);
    assert!(catch_unwind(AssertUnwindSafe(|| clock.help())).is_err(), "its panic is the caller's");
    assert_eq!(count(&ran), 1);
    clock.help();
    assert_eq!(count(&ran), 2);
    retire_counted(clock, &ran);
    clock.help();
    assert_eq!(count(&ran), 3, "the clock goes on");
}

#[test]
fn what_a_thread_retired_comes_free_after_its_end() {
    for clock in clocks() {
        let ran = Arc::default();
        let others = Arc::clone(&ran);
        std::thread::spawn(move || retire_counted(clock, &others)).join().expect("it ends");
        clock.help();
        assert_eq!(count(&ran), 1);
    }
}

#[test]
fn records_of_threads_that_ended_are_taken_again() {
    let clock = clock_with(refused, false);
    for _ in 0..200 {
        std::thread::spawn(|| {
            let reader = clock.take();
            drop(reader.pin());
            reader.give_back();
        })
        .join()
        .expect("it ends");
    }
    assert_eq!(clock.readers().count(), 1);
}

#[test]
fn a_record_for_once_is_given_back_with_its_pin() {
    let clock = clock_with(refused, false);
    let ran = Arc::default();
    let pin = clock.take().pin_for_once();
    retire_counted(clock, &ran);
    clock.help();
    assert_eq!(count(&ran), 0);
    drop(pin);
    clock.help();
    assert_eq!(count(&ran), 1);
    assert_eq!(clock.readers().filter(|reader| reader.is_taken.load(Ordering::Relaxed)).count(), 0);
}

/// A destructor of a thread-local may run behind that of the registration.
#[test]
fn records_of_the_process_are_not_lost_in_destructors_of_threads() {
    struct PinsLate;
    impl Drop for PinsLate {
        fn drop(&mut self) {
            drop((crate::epoch::pin(), crate::epoch::pin()));
        }
    }
    thread_local! {
        static LATE: PinsLate = const { PinsLate };
    }
    let records = || Clock::of(crate::sync::fork_generation()).readers().count();
    for _ in 0..300 {
        std::thread::spawn(|| {
            LATE.with(|_| {});
            drop(crate::epoch::pin());
        })
        .join()
        .expect("it ends");
    }
    assert!(records() < 200, "{} records: one for each thread that ever pinned", records());
}

/// As in a child of `fork`: another clock, in which nobody is pinned and nothing waits.
#[test]
fn a_process_neither_waits_for_pins_of_its_parent_nor_frees_what_that_retired() {
    let (parent, child) = (Clock::of(1 << 40), Clock::of(2 << 40));
    assert!(std::ptr::eq(parent, Clock::of(1 << 40)) && !std::ptr::eq(parent, child));
    let (parents, childs) = (Arc::default(), Arc::default());
    retire_counted(parent, &parents);
    let _pin = parent.take().pin();
    retire_counted(child, &childs);
    child.help();
    assert_eq!((count(&parents), count(&childs)), (0, 1));
}

/// A process that gave itself a filter of system calls, when its store was open already.
#[test]
fn barriers_that_are_refused_later_make_pins_fence() {
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    fn until_refused() -> bool {
        !IS_REFUSED.load(Ordering::Relaxed) && barrier::on_all_threads()
    }
    let clock = clock_with(until_refused, barrier::register());
    let ran = Arc::default();
    retire_counted(clock, &ran);
    clock.help();
    assert_eq!(count(&ran), 1);
    IS_REFUSED.store(true, Ordering::Relaxed);
    let old = clock.take().pin();
    retire_counted(clock, &ran);
    clock.help();
    assert_ne!(clock.word.load(Ordering::Relaxed) & FENCED, 0);
    std::thread::sleep(2 * STORES_ARE_SEEN);
    clock.help();
    assert_eq!(count(&ran), 1, "a pin from before is open");
    drop(old);
    clock.help();
    assert_eq!(count(&ran), 2, "it waited long enough");
    // A pin that fences as little as one did before: it may not be seen yet.
    let began = Instant::now();
    retire_counted(clock, &ran);
    clock.help();
    assert!(count(&ran) == 2 || began.elapsed() >= STORES_ARE_SEEN, "free at once");
    while count(&ran) < 3 {
        assert!(began.elapsed() < LONG, "it never comes free");
        std::thread::yield_now();
        clock.help();
    }
}

/// Readers follow a pointer that a writer replaces; what it replaced is spoilt when it is free.
#[test]
fn readers_never_see_what_is_free() {
    const SPOILT: usize = usize::MAX;
    for clock in clocks() {
        let places: Arc<Vec<AtomicUsize>> = Arc::new((0..64).map(AtomicUsize::new).collect());
        let now = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (has_begun, begun) = mpsc::channel();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (places, now, is_over) = (Arc::clone(&places), Arc::clone(&now), Arc::clone(&is_over));
                let has_begun = has_begun.clone();
                std::thread::spawn(move || {
                    let reader = clock.take();
                    has_begun.send(()).expect("somebody listens");
                    while !is_over.load(Ordering::Relaxed) {
                        let _pin = reader.pin();
                        let at = now.load(Ordering::Acquire);
                        (0..8).for_each(|_| assert_ne!(places[at].load(Ordering::Relaxed), SPOILT));
                    }
                })
            })
            .collect();
        (0..2).for_each(|_| begun.recv_timeout(LONG).expect("it begins"));
        let (give_back, given_back) = mpsc::channel();
        let writer = clock.take();
        let mut unused: VecDeque<usize> = (1..64).collect();
        for step in 0..200_000 {
            unused.extend(given_back.try_iter());
            let Some(next) = unused.pop_front() else {
                clock.help();
                continue;
            };
            places[next].store(step, Ordering::Relaxed);
            let old = now.swap(next, Ordering::AcqRel);
            let (places, give_back) = (Arc::clone(&places), give_back.clone());
            let free = move || {
                places[old].store(SPOILT, Ordering::Relaxed);
                let _ = give_back.send(old);
            };
            writer.pin().retire(LOT_BYTES / 8, Box::new(free));
        }
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("it saw nothing that was free"));
    }
}

#[test]
fn who_shuts_a_place_waits_for_those_who_are_there_and_for_no_others() {
    for clock in clocks() {
        let (here, elsewhere) = (clock.take(), clock.take());
        let _stays = elsewhere.visit(2).expect("it was nowhere");
        let mut visit = here.visit(1);
        assert!(here.visit(1).is_none() && here.visit(2).is_none(), "it is somewhere already");
        let mut looks = 0;
        clock.wait_for_visits(1, || {
            looks += 1;
            if looks == 10 {
                visit = None;
            }
        });
        assert_eq!(looks, 10, "until it was left");
        assert!(here.visit(2).is_some(), "it is nowhere again");
        clock.wait_for_visits(3, || panic!("nobody is there"));
    }
}

/// Numbers choose logs: those of writers would lie as far apart as threads of the background have pinned between them.
#[test]
fn a_thread_that_only_pins_takes_no_number() {
    let pins = || {
        let here = crate::epoch::here().expect("the thread does not end");
        drop(here.pin());
        assert_eq!(here.reader.thread_number.load(Ordering::Relaxed), UNKNOWN);
        assert_eq!(here.thread_number(), thread_number());
    };
    std::thread::spawn(pins).join().expect("no panic");
}
