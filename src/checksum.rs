//! The two checksums: 64 bits over a frame (XXH3, a torn frame is accepted once in 2^64), 32 bits over one entry
//! (CRC-32C in hardware, every flip of up to three bits is found), both bound to the place they were written for.

use crate::types::SegmentId;

/// Binds checksums to one segment of one pool: stale or misplaced bytes never verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSeed(pub u64);

impl SegmentSeed {
    /// The seed of segment `id` in the pool `pool_uuid`.
    pub fn new(pool_uuid: &[u8; 16], id: SegmentId) -> Self {
        SegmentSeed(xxhash_rust::xxh3::xxh3_64_with_seed(pool_uuid, id.0))
    }

    /// What the 32-bit checksum of the bytes at pool offset `offset` is masked with.
    #[inline]
    pub fn mask32(self, offset: u64) -> u32 {
        (self.mask64(offset) >> 32) as u32
    }

    /// What seeds the 64-bit checksum of the bytes at pool offset `offset`.
    #[inline]
    pub fn mask64(self, offset: u64) -> u64 {
        (self.0 ^ offset.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

/// CRC-32C of `bytes`, not yet bound to a place.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a CRC-32C.
#[inline]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// XXH3 with 64 bits.
#[inline]
pub fn hash64(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

/// Checks that a crash or bit-rot suite can switch off one by one, to prove that each is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names say which check")]
pub enum CheckSite {
    Superblock = 1,
    SegmentHeader = 2,
    StateWord = 3,
    Digest = 4,
    FrameHeader = 5,
    Frame = 6,
    EntryOnGet = 7,
    EntryOnScan = 8,
    BlobChunk = 9,
    Footer = 10,
    Filter = 11,
    BatchCommit = 12,
}

/// Whether a stored check equals the computed one. Every comparison of a checksum goes through here.
#[inline]
pub fn verify<T: PartialEq>(site: CheckSite, stored: T, computed: T) -> bool {
    stored == computed || switched_off(site)
}

#[cfg(not(feature = "sim"))]
#[inline(always)]
fn switched_off(_: CheckSite) -> bool {
    false
}

#[cfg(feature = "sim")]
fn switched_off(site: CheckSite) -> bool {
    mutants::SKIPPED.with(|skipped| skipped.get() == site as u16)
}

/// Test switches (feature `sim`).
#[cfg(feature = "sim")]
pub mod mutants {
    use std::cell::Cell;
    thread_local! {
        /// The check that this thread skips, 0 for none.
        pub static SKIPPED: Cell<u16> = const { Cell::new(0) };
    }
}
