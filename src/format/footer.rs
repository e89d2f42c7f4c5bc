//! The footer of a sealed segment, at its end, and the key filter before it.

use super::{FOOTER_BYTES, align_up, put, u32_at, u64_at};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::CACHE_LINE_BYTES;
use crate::types::{SegmentId, Seq};

const MAGIC: u32 = u32::from_le_bytes(*b"Foot");
const BYTES: usize = FOOTER_BYTES as usize;

mod at {
    pub const CHECKSUM: usize = 0;
    pub const MAGIC: usize = 8;
    pub const SEGMENT_ID: usize = 16;
    pub const ENTRY_COUNT: usize = 24;
    pub const MIN_SEQ: usize = 32;
    pub const MAX_SEQ: usize = 40;
    pub const DATA_END: usize = 48;
    pub const FILTER_AT: usize = 52;
    pub const FILTER_LEN: usize = 56;
    pub const DATA_START: usize = 60;
    pub const FILTER_CHECKSUM: usize = 64;
    // 72..128 reserved, zero
}

/// What a seal says about its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The segment.
    pub segment: SegmentId,
    /// Operations in it.
    pub entry_count: u64,
    /// Oldest stamp in it.
    pub min_seq: Seq,
    /// Newest stamp in it.
    pub max_seq: Seq,
    /// Offset in the segment where the frames begin: known even if the digest before them is damaged.
    pub data_start: u32,
    /// Offset in the segment where the frames end: the tail, or the cut that recovery made.
    pub data_end: u32,
    /// Offset in the segment of the filter; 0 if there is none because not all keys are known.
    pub filter_at: u32,
    /// Bytes of the filter, 0 for none.
    pub filter_len: u32,
    /// Checksum of the filter.
    pub filter_checksum: u64,
}

impl Footer {
    /// The bytes, for the pool offset they will be written to.
    pub fn encode(&self, seed: SegmentSeed, offset: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        put(&mut bytes, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut bytes, at::SEGMENT_ID, &self.segment.0.to_le_bytes());
        put(&mut bytes, at::ENTRY_COUNT, &self.entry_count.to_le_bytes());
        put(&mut bytes, at::MIN_SEQ, &self.min_seq.0.to_le_bytes());
        put(&mut bytes, at::MAX_SEQ, &self.max_seq.0.to_le_bytes());
        put(&mut bytes, at::DATA_END, &self.data_end.to_le_bytes());
        put(&mut bytes, at::FILTER_AT, &self.filter_at.to_le_bytes());
        put(&mut bytes, at::DATA_START, &self.data_start.to_le_bytes());
        put(&mut bytes, at::FILTER_LEN, &self.filter_len.to_le_bytes());
        put(&mut bytes, at::FILTER_CHECKSUM, &self.filter_checksum.to_le_bytes());
        let sum = checksum::hash64(seed.mask64(offset), &bytes[at::MAGIC..]);
        put(&mut bytes, at::CHECKSUM, &sum.to_le_bytes());
        bytes
    }

    /// Reads the footer at pool offset `offset`, after undoing one flipped bit if that makes it whole: 64 bits of checksum
    /// leave no doubt which one it was.
    pub fn decode_or_repair(bytes: &[u8], seed: SegmentSeed, offset: u64) -> Option<Footer> {
        Self::decode(bytes, seed, offset).or_else(|| Self::repair(bytes, seed, offset))
    }

    #[cold]
    fn repair(bytes: &[u8], seed: SegmentSeed, offset: u64) -> Option<Footer> {
        let mut flipped: [u8; BYTES] = bytes.get(..BYTES)?.try_into().ok()?;
        (0..BYTES * 8).find_map(|bit| {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let footer = Self::decode(&flipped, seed, offset);
            flipped[bit / 8] ^= 1 << (bit % 8);
            footer
        })
    }

    /// Reads the footer at pool offset `offset`.
    pub fn decode(bytes: &[u8], seed: SegmentSeed, offset: u64) -> Option<Footer> {
        let bytes = bytes.get(..BYTES)?;
        let computed = checksum::hash64(seed.mask64(offset), &bytes[at::MAGIC..]);
        let whole = u32_at(bytes, at::MAGIC) == MAGIC
            && u64_at(bytes, at::MAX_SEQ) < Seq::END.0
            && checksum::verify(CheckSite::Footer, u64_at(bytes, at::CHECKSUM), computed);
        whole.then(|| Footer {
            segment: SegmentId(u64_at(bytes, at::SEGMENT_ID)),
            entry_count: u64_at(bytes, at::ENTRY_COUNT),
            min_seq: Seq(u64_at(bytes, at::MIN_SEQ)),
            max_seq: Seq(u64_at(bytes, at::MAX_SEQ)),
            data_end: u32_at(bytes, at::DATA_END),
            filter_at: u32_at(bytes, at::FILTER_AT),
            filter_len: u32_at(bytes, at::FILTER_LEN),
            data_start: u32_at(bytes, at::DATA_START),
            filter_checksum: u64_at(bytes, at::FILTER_CHECKSUM),
        })
    }
}

/// Filters start and end at cache lines.
const FILTER_ALIGN_BYTES: u64 = CACHE_LINE_BYTES;
/// Two more would halve the false positives, but take a third of a percent of every pool of small values.
const BITS_PER_ENTRY: u64 = 8;
const BLOCK_BYTES: usize = 32;
/// Bytes of a word of a block.
const WORD_BYTES: usize = 8;
/// Odd constants that spread one 32-bit hash over the four words of a block (a split-block Bloom filter as in Parquet, with
/// words twice as wide: with 8 bits per entry four bits per key meet fewer strangers than eight).
const SALT: [u32; BLOCK_BYTES / WORD_BYTES] = [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d];

/// Bytes of the filter over `entries` keys.
#[inline]
pub fn filter_len(entries: u64) -> u64 {
    align_up((entries * BITS_PER_ENTRY).div_ceil(8), FILTER_ALIGN_BYTES)
}

/// Which keys a sealed segment may hold: false positives about 2.5 %, false negatives never. Asked only when the segment
/// is damaged, to know whose answers can no longer be trusted.
#[derive(Clone, Debug)]
pub struct Filter {
    bytes: Vec<u8>,
}

impl Filter {
    /// Builds the filter over 32-bit key hashes (see [`Filter::short_hash`]).
    pub fn build(hashes: &[u32]) -> Filter {
        let blocks = filter_len(hashes.len() as u64) as usize / BLOCK_BYTES;
        // Whole words: every entry of a log comes through here, in the put that rolls the head.
        let mut words = vec![[0_u64; SALT.len()]; blocks];
        for hash in hashes {
            let block = &mut words[Self::block_of(*hash, blocks)];
            block.iter_mut().zip(Self::bits(*hash)).for_each(|(word, bit)| *word |= 1 << bit);
        }
        let bytes = words.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        Filter { bytes }
    }

    /// A filter read from the medium.
    pub fn from_bytes(bytes: Vec<u8>) -> Filter {
        Filter { bytes }
    }

    /// The bits of a key's hash that filters use.
    #[inline]
    pub fn short_hash(key_hash: u64) -> u32 {
        (key_hash >> 16) as u32
    }

    /// True if a key with this hash may be in the segment.
    pub fn may_contain(&self, hash: u32) -> bool {
        let blocks = self.bytes.len() / BLOCK_BYTES;
        if blocks == 0 {
            return false;
        }
        let block = Self::block_of(hash, blocks);
        Self::bits(hash).enumerate().all(|(i, bit)| {
            self.bytes[block * BLOCK_BYTES + i * WORD_BYTES + bit / 8] & (1 << (bit % 8)) != 0
        })
    }

    /// The bytes on the medium.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The checksum that the footer keeps, for the filter at pool offset `offset`.
    pub fn checksum(bytes: &[u8], seed: SegmentSeed, offset: u64) -> u64 {
        checksum::hash64(seed.mask64(offset), bytes)
    }

    /// Whether the filter's bytes are what the footer says.
    pub fn verify(bytes: &[u8], footer: &Footer, seed: SegmentSeed, offset: u64) -> bool {
        checksum::verify(CheckSite::Filter, footer.filter_checksum, Self::checksum(bytes, seed, offset))
    }

    fn block_of(hash: u32, blocks: usize) -> usize {
        let mixed = hash.wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA77);
        ((u64::from(mixed) * blocks as u64) >> 32) as usize
    }

    fn bits(hash: u32) -> impl Iterator<Item = usize> {
        SALT.iter().map(move |salt| (hash.wrapping_mul(*salt) >> 26) as usize)
    }
}
