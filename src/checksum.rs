//! The two checksums: 64 bits over a frame (XXH3, a torn frame is accepted once in 2^64), 32 bits over one entry
//! (CRC-32C in hardware, every flip of up to three bits is found), both bound to the place they were written for.

mod crc;

use crate::types::{SegmentId, numbered_sites};

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
    crc::append_two(0, bytes, &[])
}

/// CRC-32C of two pieces as if one followed the other.
#[inline(always)]
pub fn crc32c_of_two(first: &[u8], second: &[u8]) -> u32 {
    crc::append_two(0, first, second)
}

/// What a wrong CRC-32C says about the bytes it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SingleFlip {
    /// It is right.
    None,
    /// One flipped bit would explain it: of this byte of the covered ones, or behind them of the crc itself.
    At(usize, u32),
    /// More than one bit is wrong.
    Unknown,
}

/// CRC-32C of one byte, without the inversions.
const CRC_OF_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The byte whose entry in [`CRC_OF_BYTE`] has this top byte: the table's top bytes are all different.
const BYTE_OF_TOP: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[(CRC_OF_BYTE[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    table
};

/// Which single bit of `len` bytes, or of their crc, makes stored and computed CRC-32C differ by `difference`. The crc is
/// linear: a flipped bit adds what that bit and the zeroes behind it have as their crc, so it is run backwards from
/// the last byte to the first.
pub fn single_flip(difference: u32, len: usize) -> SingleFlip {
    if difference == 0 {
        return SingleFlip::None;
    }
    if difference.is_power_of_two() {
        let bit = difference.trailing_zeros();
        return SingleFlip::At(len + bit as usize / 8, bit % 8);
    }
    let mut state = difference;
    for byte in (0..len).rev() {
        let last = BYTE_OF_TOP[(state >> 24) as usize];
        if state == CRC_OF_BYTE[last as usize] && last.is_power_of_two() {
            return SingleFlip::At(byte, last.trailing_zeros());
        }
        state = ((state ^ CRC_OF_BYTE[last as usize]) << 8) | u32::from(last);
    }
    SingleFlip::Unknown
}

/// XXH3 with 64 bits.
#[inline]
pub fn hash64(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

numbered_sites! {
    /// Checks that a crash or bit-rot suite can switch off one by one, to prove that each is needed.
    CheckSite {
        /// A superblock copy.
        Superblock,
        /// The header of a segment.
        SegmentHeader,
        /// The state word of a segment.
        StateWord,
        /// The list of segments.
        Digest,
        /// The header of a frame, by itself.
        FrameHeader,
        /// A whole frame.
        Frame,
        /// An entry that is read.
        EntryOnGet,
        /// An entry of a damaged frame.
        EntryOnScan,
        /// A piece of a blob.
        BlobChunk,
        /// The footer of a sealed segment.
        Footer,
        /// The keys of a sealed segment.
        Filter,
        /// The parts of a large batch.
        BatchCommit,
        /// Where the logs of a closed pool end.
        ClosedEnds,
    }
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
    mutants::skipped() == Some(site)
}

/// Test switches (feature `sim`).
#[cfg(feature = "sim")]
pub mod mutants {
    use super::CheckSite;
    use std::cell::Cell;

    thread_local! {
        static SKIPPED: Cell<Option<CheckSite>> = const { Cell::new(None) };
    }

    /// From now on this thread skips the check.
    pub fn skip(site: Option<CheckSite>) {
        SKIPPED.set(site);
    }

    /// The check that this thread skips.
    pub fn skipped() -> Option<CheckSite> {
        SKIPPED.get()
    }
}
