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
    pub cpu: Duration,
    started: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { histories: 0, points: 0, images: 0, states: 0, cpu: Duration::ZERO, started: Instant::now() }
    }
}

impl Tally {
    /// Adds what another thread did meanwhile.
    pub fn merge(&mut self, other: &Tally) {
        self.histories += other.histories;
        self.points += other.points;
        self.images += other.images;
        self.states += other.states;
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

/// Time that this thread has been running on a core.
pub fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
