//! Puts with their values inside, as who reads many of them sees them: only what is needed to check and to copy one.

use super::align_up;
use super::op::{Op, OpKind, short};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::ENTRY_ALIGN_BYTES;

/// A put as it lies on the medium: lengths checked, bytes not yet verified.
pub struct Put<'a> {
    /// What comes before its crc.
    fields: &'a [u8],
    crc: u32,
    key_and_value: &'a [u8],
    key_len: usize,
}

impl<'a> Put<'a> {
    /// Reads the put at the start of `bytes`; `None` if that is another operation, or as [`Op::decode`].
    #[inline(always)]
    pub fn decode(bytes: &'a [u8]) -> Option<Put<'a>> {
        match short(bytes) {
            Some(fields) => {
                Put::of_lengths(bytes, fields.key_at as usize, fields.key_len as usize, fields.end())
            }
            None => {
                let (key_at, key_len, end) = other_lengths(bytes)?;
                Put::of_lengths(bytes, key_at, key_len, end)
            }
        }
    }

    #[inline(always)]
    fn of_lengths(bytes: &'a [u8], key_at: usize, key_len: usize, end: usize) -> Option<Put<'a>> {
        let (fields, key_and_value) = bytes.get(..end)?.split_at_checked(key_at)?;
        let (fields, crc) = fields.split_last_chunk()?;
        (key_len <= key_and_value.len()).then_some(Put {
            fields,
            crc: u32::from_le_bytes(*crc),
            key_and_value,
            key_len,
        })
    }

    /// As [`Op::verify`].
    #[inline(always)]
    pub fn verify(&self, site: CheckSite, seed: SegmentSeed, offset: u64) -> bool {
        let crc = checksum::crc32c_of_two(self.fields, self.key_and_value);
        checksum::verify(site, self.crc, crc ^ seed.mask32(offset))
    }

    /// The key.
    #[inline(always)]
    pub fn key(&self) -> &'a [u8] {
        &self.key_and_value[..self.key_len]
    }

    /// The value.
    #[inline(always)]
    pub fn value(&self) -> &'a [u8] {
        &self.key_and_value[self.key_len..]
    }

    /// Bytes of the value.
    #[inline(always)]
    pub fn value_len(&self) -> usize {
        self.key_and_value.len() - self.key_len
    }

    /// As [`Op::footprint_bytes`].
    #[inline(always)]
    pub fn footprint_bytes(&self) -> u64 {
        let len = self.fields.len() + size_of::<u32>() + self.key_and_value.len();
        align_up(len as u64, ENTRY_ALIGN_BYTES)
    }

    /// One behind the other.
    #[inline(always)]
    pub fn key_and_value(&self) -> &'a [u8] {
        self.key_and_value
    }
}

/// Where the key begins, its length, and where the value ends.
#[inline(never)]
fn other_lengths(bytes: &[u8]) -> Option<(usize, usize, usize)> {
    let op = Op::decode(bytes).filter(|op| op.kind() == OpKind::Put)?;
    Some((op.crc_at() + 4, op.key().len(), op.len_bytes()))
}
