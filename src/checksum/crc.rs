//! CRC-32C by the instruction that x86-64 has for it (SSE 4.2), word by word and in line. The crate `crc32c` does the same
//! faster from a few hundred bytes on, by three sums side by side, and prepares for that whatever the length: for an entry of
//! a hundred bytes that took as long as all the rest of its verification.
//!
//! Invariant: whatever way is taken, the answer is that of the crate.
#![allow(unsafe_code, reason = "calls a function that is compiled for an instruction that not every CPU has")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};

/// More bytes than this are for the crate.
const SHORT_BYTES_MAX: usize = 256;

/// Continues `crc` over two pieces.
#[inline(always)]
pub(super) fn append_two(crc: u32, first: &[u8], second: &[u8]) -> u32 {
    if second.len() <= SHORT_BYTES_MAX
        && first.len() <= SHORT_BYTES_MAX
        && let Some(crc) = by_instruction(crc, first, second)
    {
        return crc;
    }
    by_crate(crc, first, second)
}

#[cold]
#[inline(never)]
fn by_crate(crc: u32, first: &[u8], second: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc, first), second)
}

/// `None` if this CPU has no such instruction.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn by_instruction(crc: u32, first: &[u8], second: &[u8]) -> Option<u32> {
    if !std::arch::is_x86_feature_detected!("sse4.2") {
        return None;
    }
    // SAFETY: all that `sum` asks for is a CPU with SSE 4.2, which this one has (above).
    Some(!unsafe { sum(!crc, first, second) })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn by_instruction(_: u32, _: &[u8], _: &[u8]) -> Option<u32> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn sum(crc: u32, first: &[u8], second: &[u8]) -> u32 {
    // What comes first is the few bytes before the crc of an entry.
    let crc = match first.len() {
        4..8 => sum_of_some(crc, first),
        0..4 => sum_of_rest(crc, first),
        8.. => sum_of(crc, first),
    };
    sum_of(crc, second)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[inline]
fn sum_of(crc: u32, bytes: &[u8]) -> u32 {
    let next = |crc, word: &[u8; 8]| _mm_crc32_u64(crc, u64::from_le_bytes(*word));
    let (fours, rest) = bytes.as_chunks::<32>();
    let mut crc = u64::from(crc);
    for four in fours {
        crc = four.as_chunks().0.iter().fold(crc, next);
    }
    let (words, rest) = rest.as_chunks();
    sum_of_rest(words.iter().fold(crc, next) as u32, rest)
}

/// Of four to seven bytes, whose number cannot be predicted: no branch depends on it. The crc is linear, so it may be added to the
/// bytes instead of being continued, and zeroes before all of them change nothing.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[inline]
fn sum_of_some(crc: u32, bytes: &[u8]) -> u32 {
    let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return sum_of_rest(crc, bytes);
    };
    let (head, tail) = (u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail)));
    let word = head | tail << (8 * (bytes.len() - 4));
    _mm_crc32_u64(0, (word ^ u64::from(crc)) << (64 - 8 * bytes.len())) as u32
}

/// Of fewer than eight bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[inline]
fn sum_of_rest(mut crc: u32, mut bytes: &[u8]) -> u32 {
    if let Some((half, rest)) = bytes.split_first_chunk::<4>() {
        (crc, bytes) = (_mm_crc32_u32(crc, u32::from_le_bytes(*half)), rest);
    }
    if let Some((pair, rest)) = bytes.split_first_chunk::<2>() {
        (crc, bytes) = (_mm_crc32_u16(crc, u16::from_le_bytes(*pair)), rest);
    }
    if let [last] = bytes { _mm_crc32_u8(crc, *last) } else { crc }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_inputs_and_long_ones_have_the_crc_of_the_crate() {
        let bytes: Vec<u8> = (0..2 * SHORT_BYTES_MAX as u32).map(|i| (i * i + 7 * i) as u8).collect();
        for first in 0..24 {
            for end in first..bytes.len() {
                let (head, rest) = bytes[..end].split_at(first);
                let crc = append_two(0x1234_5678, head, rest);
                assert_eq!(crc, crc32c::crc32c_append(0x1234_5678, &bytes[..end]), "{first} of {end} bytes");
            }
        }
        assert_eq!(append_two(0, b"1234", b"56789"), 0xE306_9283);
    }
}
