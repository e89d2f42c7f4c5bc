//! papaya, a concurrent map in DRAM: nothing survives, which makes it a mark for gets only. Values lie in its nodes and the
//! hash is one multiplication, so that it is as fast as it can be.

use crate::engine::{Engine, Session};
use papaya::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Values it is measured with.
pub const VALUE_BYTES: usize = 64;

#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Map = HashMap<u64, [u8; VALUE_BYTES], BuildHasherDefault<Multiply>>;

pub struct Papaya {
    map: Map,
}

impl Papaya {
    pub fn new(keys: u64) -> Papaya {
        Papaya { map: Map::with_capacity_and_hasher(keys as usize, BuildHasherDefault::default()) }
    }
}

impl Engine for Papaya {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Calls { map: &self.map })
    }
}

struct Calls<'a> {
    map: &'a Map,
}

fn number_of(key: &[u8]) -> u64 {
    u64::from_ne_bytes(key.try_into().expect("keys of 8 bytes"))
}

impl Session for Calls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.map.pin().insert(number_of(key), value.try_into().expect("values of 64 bytes"));
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let map = self.map.pin();
        let value = map.get(&number_of(key))?;
        into[..value.len()].copy_from_slice(value);
        Some(value.len())
    }
}
