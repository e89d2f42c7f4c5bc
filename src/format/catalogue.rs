//! The catalogue of keyspaces: ordinary entries of a keyspace of its own, `KeyspaceId::CATALOGUE`.
//!
//! key: the id, 4 bytes, most significant first. Value: `state u8 | name`. So the entries are in the order of their ids.

use crate::constants::KEYSPACE_NAME_BYTES_MAX;
use crate::types::KeyspaceId;

const LIVE: u8 = 0x5A;
/// Differs from `LIVE` in all bits.
const DROPPED: u8 = !LIVE;

/// Odd, with bits all over: numbers that follow each other lead to seeds that have nothing in common.
const HASH_SEED_SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What keys of a keyspace are hashed with, in a pool with this seed: equal keys of different ones have different hashes.
#[inline]
pub fn keyspace_hash_seed(pool_seed: u64, id: KeyspaceId) -> u64 {
    pool_seed ^ u64::from(id.0).wrapping_mul(HASH_SEED_SPREAD)
}

/// Bytes of a key of the catalogue.
const CATALOGUE_KEY_BYTES: usize = 4;

/// The key of a keyspace's record.
pub fn catalogue_key(id: KeyspaceId) -> [u8; CATALOGUE_KEY_BYTES] {
    id.0.to_be_bytes()
}

/// The keyspace that a key of the catalogue stands for; `None` if it is none.
pub fn catalogue_id(key: &[u8]) -> Option<KeyspaceId> {
    let id = KeyspaceId(u32::from_be_bytes(key.try_into().ok()?));
    (id >= KeyspaceId::FIRST_NAMED).then_some(id)
}

/// What the catalogue says of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceRecord {
    /// It was dropped: none of its entries counts any more.
    pub is_dropped: bool,
    /// Its name, of a dropped one the last.
    pub name: String,
}

impl KeyspaceRecord {
    /// The bytes of a record.
    pub fn encode(&self) -> Vec<u8> {
        let state = if self.is_dropped { DROPPED } else { LIVE };
        [&[state], self.name.as_bytes()].concat()
    }

    /// Reads a record; `None` if it cannot be one.
    pub fn decode(bytes: &[u8]) -> Option<KeyspaceRecord> {
        let (state, name) = bytes.split_first()?;
        let is_dropped = match *state {
            LIVE => false,
            DROPPED => true,
            _ => return None,
        };
        let is_name = (1..=KEYSPACE_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0);
        let name = std::str::from_utf8(name).ok().filter(|_| is_name)?;
        Some(KeyspaceRecord { is_dropped, name: name.to_owned() })
    }
}
