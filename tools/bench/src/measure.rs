//! Timing: closed loops of a number of calls or for a time, on one or more threads; figures of several rounds.

use crate::engine::{Engine, Session};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// Calls between two looks at whether the time is over.
const CALLS_PER_LOOK: u64 = 16;
/// Calls that a thread of several takes at a time.
const CALLS_PER_TURN: u64 = 1000;

/// Millions of calls per second of `calls` calls made by `threads` threads together: `call(session, thread, i)`, with each
/// `i` below `calls` once. Threads take them in turns as long as any are left: with halves, the time would be that of the
/// slower core, and the other one would have nothing to do at the end. A session that has asynchronous writes is waited for
/// within the time.
pub fn counted(
    engine: &dyn Engine,
    threads: usize,
    calls: u64,
    call: &(dyn Fn(&mut dyn Session, usize, u64) + Sync),
) -> f64 {
    let next = AtomicU64::new(0);
    let spans = on_threads(engine, threads, &|session, thread| {
        let mut made = 0;
        loop {
            let from = next.fetch_add(CALLS_PER_TURN, Ordering::Relaxed);
            if from >= calls {
                return made;
            }
            let to = calls.min(from + CALLS_PER_TURN);
            (from..to).for_each(|i| call(session, thread, i));
            made += to - from;
        }
    });
    rate_of_counted(&spans)
}

/// Millions of calls per second that `threads` threads make together in about `time`.
pub fn timed(
    engine: &dyn Engine,
    threads: usize,
    time: Duration,
    call: &(dyn Fn(&mut dyn Session, usize, u64) + Sync),
) -> f64 {
    let over = AtomicBool::new(false);
    let spans = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(time);
            over.store(true, Ordering::Relaxed);
        });
        on_threads(engine, threads, &|session, thread| {
            let mut i = 0;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..CALLS_PER_LOOK {
                    call(session, thread, i);
                    i += 1;
                }
            }
            i
        })
    });
    rate(&spans)
}

/// Millions of calls per second of up to `calls` calls that `threads` threads make together, for no longer than `time`.
#[cfg(feature = "peers")]
pub fn bounded(
    engine: &dyn Engine,
    threads: usize,
    calls: u64,
    time: Duration,
    call: &(dyn Fn(&mut dyn Session, usize, u64) + Sync),
) -> f64 {
    let each = (calls / threads as u64).max(1);
    let spans = on_threads(engine, threads, &|session, thread| {
        let started = Instant::now();
        let mut i = 0;
        while i < each && (i % CALLS_PER_LOOK != 0 || started.elapsed() < time) {
            call(session, thread, i);
            i += 1;
        }
        i
    });
    rate(&spans)
}

struct Span {
    from: Instant,
    to: Instant,
    /// What of it this thread was on a core.
    on_core: Duration,
    calls: u64,
}

/// Set once, before anything is measured, if [`counted`] is to divide by the time that threads were on a core: for machines
/// that others use at the same time. What a thread waits for is left out then, and what others work for it.
pub static BY_CPU_TIME: OnceLock<bool> = OnceLock::new();

/// The time that this thread has been on a core.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the target is ours, and every Linux has this clock.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn is_by_cpu_time() -> bool {
    BY_CPU_TIME.get().copied().unwrap_or(false)
}

/// Nanoseconds of `body`, on this thread: on a core if [`BY_CPU_TIME`] says so.
pub fn ns_of(body: impl FnOnce()) -> f64 {
    let (started, cpu) = (Instant::now(), is_by_cpu_time().then(cpu_time));
    body();
    let took = cpu.map_or_else(|| started.elapsed(), |cpu| cpu_time() - cpu);
    took.as_nanos() as f64
}

fn rate_of_counted(spans: &[Span]) -> f64 {
    if !is_by_cpu_time() {
        return rate(spans);
    }
    // Each thread by its own time: how many calls it got to make depends on who else was on its core.
    let made = spans.iter().filter(|span| span.calls > 0);
    made.map(|span| span.calls as f64 / span.on_core.as_secs_f64() / 1e6).sum()
}

fn rate(spans: &[Span]) -> f64 {
    let from = spans.iter().map(|span| span.from).min().expect("at least one thread");
    let to = spans.iter().map(|span| span.to).max().expect("at least one thread");
    let calls: u64 = spans.iter().map(|span| span.calls).sum();
    calls as f64 / (to - from).as_secs_f64() / 1e6
}

fn on_threads(
    engine: &dyn Engine,
    threads: usize,
    body: &(dyn Fn(&mut dyn Session, usize) -> u64 + Sync),
) -> Vec<Span> {
    let start = Barrier::new(threads);
    let work = |thread| {
        let mut session = engine.session();
        start.wait();
        let (from, cpu) = (Instant::now(), cpu_time());
        let calls = body(session.as_mut(), thread);
        session.wait();
        Span { from, to: Instant::now(), on_core: cpu_time() - cpu, calls }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a measured thread failed")).collect()
    })
}

/// Nanoseconds per step of `steps` steps.
pub fn ns_per_step(steps: u64, body: impl FnOnce()) -> f64 {
    let started = Instant::now();
    body();
    started.elapsed().as_nanos() as f64 / steps as f64
}

/// The middle of some numbers.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// What was measured, by name, one number per round. Ratios are made within a round, where both sides met the same machine.
#[derive(Default)]
pub struct Figures {
    rounds: BTreeMap<String, (&'static str, Vec<f64>)>,
    order: Vec<String>,
}

impl Figures {
    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, number: f64) {
        let name = name.into();
        if !self.rounds.contains_key(&name) {
            self.order.push(name.clone());
        }
        self.rounds.entry(name).or_insert((unit, Vec::new())).1.push(number);
    }

    pub fn has(&self, name: &str) -> bool {
        self.rounds.contains_key(name)
    }

    pub fn rounds(&self, name: &str) -> &[f64] {
        self.rounds.get(name).map_or(&[], |(_, numbers)| numbers)
    }

    pub fn median(&self, name: &str) -> Option<f64> {
        self.has(name).then(|| median(self.rounds(name)))
    }

    /// The median over the rounds of `over(name, of)` within one round.
    pub fn combine(&self, name: &str, of: &str, over: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let (a, b) = (self.rounds(name), self.rounds(of));
        if a.is_empty() || a.len() != b.len() {
            return None;
        }
        Some(median(&a.iter().zip(b).map(|(a, b)| over(*a, *b)).collect::<Vec<_>>()))
    }

    /// How often `name` is in `of`.
    pub fn ratio(&self, name: &str, of: &str) -> Option<f64> {
        self.combine(name, of, |a, b| a / b)
    }

    /// Name, unit and the numbers of all rounds, in the order of their first measurement.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'static str, &[f64])> {
        self.order.iter().map(|name| {
            let (unit, numbers) = &self.rounds[name];
            (name.as_str(), *unit, numbers.as_slice())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_middle_ones() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        let mut figures = Figures::default();
        for (ours, limit) in [(1.0, 2.0), (10.0, 10.0), (3.0, 6.0)] {
            figures.add("ours", "M/s", ours);
            figures.add("limit", "M/s", limit);
        }
        assert_eq!(figures.ratio("ours", "limit"), Some(0.5));
        assert_eq!(figures.ratio("ours", "nothing"), None);
    }
}
