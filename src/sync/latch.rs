//! A value that one thread sets, once, and others wait for. Who waits looks for a while before it sleeps: a sleeper is back after
//! microseconds, which is longer than persistent memory takes for what is usually waited for.

use super::{Condvar, Mutex, OnceLock};

/// See the module.
pub struct Latch<T> {
    value: OnceLock<T>,
    /// True if somebody sleeps; changed before the sleep, looked at after the value is set.
    is_slept_at: Mutex<bool>,
    changed: Condvar,
}

impl<T> Latch<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        Latch { value: OnceLock::new(), is_slept_at: Mutex::new(false), changed: Condvar::new() }
    }

    /// Sets the value and lets those go who wait for it. A second value is dropped.
    pub fn set(&self, value: T) {
        let _ = self.value.set(value);
        // Who sleeps said so before it looked for the last time, under this lock: it has seen the value, or is seen here.
        if *self.is_slept_at.lock() {
            self.changed.notify_all();
        }
    }

    /// The value, once it is set; sleeps after so many looks.
    pub fn wait(&self, looks: u32) -> &T {
        for _ in 0..looks {
            if let Some(value) = self.value.get() {
                return value;
            }
            std::hint::spin_loop();
        }
        let mut is_slept_at = self.is_slept_at.lock();
        loop {
            if let Some(value) = self.value.get() {
                return value;
            }
            *is_slept_at = true;
            is_slept_at = self.changed.wait(is_slept_at);
        }
    }
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Latch::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, threads};
    use std::time::Duration;

    #[test]
    fn a_value_reaches_those_who_look_and_those_who_sleep() {
        for looks in [0, 1 << 20] {
            let latch = Arc::new(Latch::new());
            threads::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(*latch.wait(looks), 7));
                }
                // Long enough for most to sleep, and right whether or not they do.
                std::thread::sleep(Duration::from_millis(5));
                latch.set(7);
            });
            assert_eq!(*latch.wait(looks), 7, "behind it, too");
        }
    }

    #[test]
    fn the_first_value_stays() {
        let latch = Latch::new();
        latch.set(1);
        latch.set(2);
        assert_eq!(*latch.wait(0), 1);
    }
}
