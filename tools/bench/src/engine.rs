//! What every store looks like to the harness.

use crate::keys::{self, KEY_BYTES, Key};

/// An open store.
pub trait Engine: Sync {
    /// What one thread uses; made by that thread.
    fn session(&self) -> Box<dyn Session + '_>;
}

/// A thread's way to a store. A failure ends the program: a figure of calls that failed is worth nothing.
pub trait Session {
    /// Stores a value. On return it is as durable as the engine's class says.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Copies the value into `into`, which is long enough, and returns its length.
    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize>;

    /// Copies the values of many keys into `into`, one after the other; all of them are there.
    fn multi_get(&mut self, keys: &[Key], into: &mut [u8]) {
        let mut used = 0;
        for key in keys {
            used += self.get(key, &mut into[used..]).expect("the key was loaded");
        }
    }

    /// Stores one value under many keys with one call.
    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        keys.iter().for_each(|key| self.put(key, value));
    }

    /// Starts to store a value.
    fn put_async(&mut self, key: &[u8], value: &[u8]) {
        self.put(key, value);
    }

    /// Waits until everything that was started is durable.
    fn wait(&mut self) {}

    /// Reads up to `count` keys with their values from `from` on, in order; `None` if the engine has no order.
    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let _ = (from, count);
        None
    }
}

/// Reads a key that must be there and checks whose value came back.
#[inline]
pub fn get_known(session: &mut dyn Session, key: Key, into: &mut [u8]) {
    let len = session.get(&key, into).expect("the key was loaded");
    assert!(len < KEY_BYTES || keys::belongs(&into[..len], key), "a value of another key was returned");
}
