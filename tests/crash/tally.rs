//! What a sweep did, and how fast.

use std::fmt;
use std::time::{Duration, Instant};

/// What a sweep did.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    pub histories: u64,
    pub points: u64,
    /// Images of the histories themselves that differ within their history in bytes. Each was opened, checked, written to
    /// and crashed again.
    pub images: u64,
    /// Crash states that were opened and checked: those images, also where the same bytes had to show something else,
    /// kills, and the second and third crashes.
    pub states: u64,
    /// Segments that tidying freed in the histories themselves.
    pub tidied: u64,
    pub cpu: Duration,
    started: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        let started = Instant::now();
        Tally { histories: 0, points: 0, images: 0, states: 0, tidied: 0, cpu: Duration::ZERO, started }
    }
}

impl Tally {
    /// Adds what another thread did meanwhile.
    pub fn merge(&mut self, other: &Tally) {
        self.histories += other.histories;
        self.points += other.points;
        self.images += other.images;
        self.states += other.states;
        self.tidied += other.tidied;
        self.cpu += other.cpu;
        self.started = self.started.min(other.started);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, cpu) = (self.started.elapsed().as_secs_f64(), self.cpu.as_secs_f64());
        let Tally { histories, points, images, states, .. } = self;
        write!(
            f,
            "{histories} histories, {points} crash points, {images} distinct images, {states} states "
        )?;
        write!(f, "in {seconds:.1} s on {:.1} cores: ", cpu / seconds)?;
        write!(f, "{:.0} states/s/core", *states as f64 / cpu)
    }
}

/// Time that this thread has been running on a core. Not from /proc, which lags behind by up to a tick.
#[allow(unsafe_code, reason = "the clock of a thread has no safe form")]
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives until the call returns.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let read = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    // Without it a rate would be infinite, and look like a good one.
    assert!(
        status == 0 && !read.is_zero(),
        "status {status}, {read:?}: a thread that runs has used some time"
    );
    read
}
