//! Keys, values and the order in which they are used: the same for every engine, on every run.

use rand::SeedableRng;
use rand_distr::{Distribution, Uniform, Zipf};
use rand_pcg::Pcg64Mcg;

/// Bytes of a key.
pub const KEY_BYTES: usize = 8;
/// Skew of the zipf streams, as in YCSB.
pub const ZIPF_EXPONENT: f64 = 0.99;
/// Numbers from here on are never loaded.
const FIRST_MISSING: u64 = 1 << 40;
/// Odd, so that the multiplication is a permutation: keys come in random order and never twice.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

pub type Key = [u8; KEY_BYTES];

/// The `i`-th key to be loaded. Big endian, so that engines with an order meet it as a random one, too.
#[inline]
pub fn key(i: u64) -> Key {
    i.wrapping_mul(SPREAD).to_be_bytes()
}

/// A key that is in no store.
#[inline]
pub fn missing(i: u64) -> Key {
    key(FIRST_MISSING + i)
}

/// Makes `value` tell whose it is, so that a wrong answer is noticed.
#[inline]
pub fn stamp(value: &mut [u8], key: Key) {
    let n = KEY_BYTES.min(value.len());
    value[..n].copy_from_slice(&key[..n]);
}

/// Whether a value that was found is one of `key`'s.
#[inline]
pub fn belongs(value: &[u8], key: Key) -> bool {
    let n = KEY_BYTES.min(value.len());
    value[..n] == key[..n]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    Uniform,
    Zipf,
}

/// `count` numbers below `keys`, drawn before anything is timed.
pub fn stream(spread: Spread, keys: u64, count: u64, seed: u64) -> Vec<u32> {
    assert!(keys > 0 && keys <= u64::from(u32::MAX), "{keys} keys do not fit a stream");
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    match spread {
        Spread::Uniform => {
            let numbers = Uniform::new(0, keys as u32).expect("keys > 0, asserted above");
            (0..count).map(|_| numbers.sample(&mut random)).collect()
        }
        Spread::Zipf => {
            let ranks = Zipf::new(keys as f64, ZIPF_EXPONENT).expect("keys > 0, asserted above");
            // Ranks are scattered as YCSB does it: neighbours in popularity must not be neighbours in the log.
            let scatter = |rank: f64| ((rank as u64).wrapping_mul(SPREAD) >> 16) % keys;
            (0..count).map(|_| scatter(ranks.sample(&mut random)) as u32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_the_same_on_every_run_and_stay_below_the_number_of_keys() {
        for spread in [Spread::Uniform, Spread::Zipf] {
            let numbers = stream(spread, 1000, 5000, 1);
            assert_eq!(numbers, stream(spread, 1000, 5000, 1));
            assert!(numbers.iter().all(|number| *number < 1000));
        }
    }

    #[test]
    fn zipf_prefers_few_keys_and_uniform_none() {
        let hottest = |spread| {
            let mut counts = vec![0_u32; 1000];
            stream(spread, 1000, 100_000, 7).iter().for_each(|number| counts[*number as usize] += 1);
            counts.into_iter().max().expect("not empty")
        };
        assert!(hottest(Spread::Uniform) < 200);
        assert!(hottest(Spread::Zipf) > 5000);
    }

    #[test]
    fn a_key_that_is_missing_is_none_that_is_loaded() {
        let loaded: std::collections::HashSet<Key> = (0..10_000).map(key).collect();
        assert_eq!(loaded.len(), 10_000);
        assert!((0..10_000).all(|i| !loaded.contains(&missing(i))));
    }
}
