//! Operations, the log's entries.
//!
//! `kind+flags u8 | [further flags u8, keyspace varint] | [distance varint] | [age varint] | key length varint |
//! value length varint | crc32c u32 | key | value`.
//! The distance, in units of 8 bytes, leads back to the frame header; it is left out (flag `FIRST`) where the header lies
//! directly before. A cleaner's copy has an age: how far its own stamp lies below the frame's base. What names no keyspace
//! belongs to the default one. The crc covers the whole operation but itself.

use super::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::{LONG_VARINT_BYTES_MAX, long_varint_at, push_varint, put, u32_at, varint_at};
use crate::checksum::{self, CheckSite, SegmentSeed};
use crate::constants::{ENTRY_ALIGN_BYTES, KEY_BYTES_MAX};
use crate::types::{KeyspaceId, Seq};

const KIND_MASK: u8 = 0x0F;
/// The frame header lies directly before: no distance.
const FLAG_FIRST: u8 = 0x10;
/// A cleaner's copy: its age follows.
const FLAG_MOVED: u8 = 0x20;
/// A byte of further flags follows, and what they announce.
const FLAG_EXTENDED: u8 = 0x40;
/// Reserved; must be zero.
const FLAG_RESERVED: u8 = 0x80;

/// The one further flag: the keyspace follows. The others are reserved (expiry, codec, key id) and must be zero.
const FURTHER_KEYSPACE: u8 = 0x01;
/// Most bytes of further flags and a keyspace. What does not move has no age instead.
pub(super) const KEYSPACE_BYTES_MAX: usize = 1 + 5;

/// How a put begins that is the first of its frame and nobody's copy, and one that is not the first.
pub(super) const FIRST_PUT: u8 = OpKind::Put as u8 | FLAG_FIRST;
const LATER_PUT: u8 = OpKind::Put as u8;
/// The least distance of an operation that is not the first.
const LATER_UNITS_MIN: u8 = (FRAME_HEADER_BYTES as u64 / ENTRY_ALIGN_BYTES) as u8 + 1;

/// What an operation does. Numbers 4 to 8 are reserved for RANGE_DELETE, MERGE, TRUNCATE, PAD and one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpKind {
    /// The value follows the key.
    Put = 1,
    /// A [`BlobDescriptor`](super::BlobDescriptor) follows the key; the value lies in extents.
    PutBlob = 2,
    /// A tombstone.
    Delete = 3,
}

impl OpKind {
    #[inline]
    fn from_u8(value: u8) -> Option<OpKind> {
        match value {
            1 => Some(OpKind::Put),
            2 => Some(OpKind::PutBlob),
            3 => Some(OpKind::Delete),
            _ => None,
        }
    }
}

/// An operation to be written.
#[derive(Clone, Copy, Debug)]
pub struct OpSpec<'a> {
    /// What it does.
    pub kind: OpKind,
    /// Its key.
    pub key: &'a [u8],
    /// Its value or descriptor; empty for a tombstone.
    pub value: &'a [u8],
    /// A move: its age, how far its own stamp lies below the base of the frame that it is put into.
    pub moved: Option<u64>,
    /// Where its key belongs.
    pub keyspace: KeyspaceId,
}

/// Most bytes of an age: stamps have 63 bits.
pub(super) const AGE_BYTES_MAX: usize = LONG_VARINT_BYTES_MAX;

const _: () =
    assert!(KEYSPACE_BYTES_MAX <= AGE_BYTES_MAX, "a bound for moves is one for what names a keyspace");

/// Upper bound of the bytes before the key.
pub const OP_FIELDS_BYTES_MAX: u64 = (1 + KEYSPACE_BYTES_MAX + 5 + AGE_BYTES_MAX + 5 + 5 + 4) as u64;

/// Upper bound of the bytes that an operation takes in a frame, alignment included, unless it both moves and names a keyspace:
/// see [`keyspace_len_max`].
#[inline]
pub fn encoded_len_max(key_len: usize, value_len: usize) -> u64 {
    const FIXED_MAX: usize = 1 + 5 + AGE_BYTES_MAX + 3 + 5 + 4 + ENTRY_ALIGN_BYTES as usize;
    (FIXED_MAX + key_len + value_len) as u64
}

/// Upper bound of the bytes that a keyspace adds to a move.
#[inline]
pub fn keyspace_len_max(keyspace: KeyspaceId) -> u64 {
    if keyspace == KeyspaceId::DEFAULT { 0 } else { KEYSPACE_BYTES_MAX as u64 }
}

/// Appends the operation at `start`, the end of `frame`; returns where its (still unbound) crc lies.
#[inline]
pub(super) fn encode(frame: &mut Vec<u8>, start: usize, spec: &OpSpec<'_>) -> usize {
    debug_assert!(!spec.key.is_empty() && spec.key.len() <= KEY_BYTES_MAX, "checked at the interface");
    let first = start == FRAME_HEADER_BYTES;
    let mut flags = spec.kind as u8;
    if first {
        flags |= FLAG_FIRST;
    }
    if spec.moved.is_some() {
        flags |= FLAG_MOVED;
    }
    frame.reserve(encoded_len_max(spec.key.len(), spec.value.len()) as usize);
    let lengths = [spec.key.len(), spec.value.len()];
    let is_plain = spec.moved.is_none() && spec.keyspace == KeyspaceId::DEFAULT;
    let units = start / ENTRY_ALIGN_BYTES as usize;
    if let (true, [key_len @ ..0x80, value_len @ ..0x80], ..SHORT_UNITS_END) = (is_plain, lengths, units) {
        // Most operations. All at once: what a byte at a time costs is a third of the encoding.
        let (key_len, value_len) = (key_len as u8, value_len as u8);
        match units {
            _ if first => frame.extend_from_slice(&[flags, key_len, value_len, 0, 0, 0, 0]),
            ..0x80 => frame.extend_from_slice(&[flags, units as u8, key_len, value_len, 0, 0, 0, 0]),
            _ => {
                let (low, high) = (units as u8 | 0x80, (units >> 7) as u8);
                frame.extend_from_slice(&[flags, low, high, key_len, value_len, 0, 0, 0, 0]);
            }
        }
    } else {
        frame.push(flags);
        if spec.keyspace != KeyspaceId::DEFAULT {
            frame[start] |= FLAG_EXTENDED;
            frame.push(FURTHER_KEYSPACE);
            push_varint(frame, u64::from(spec.keyspace.0));
        }
        if !first {
            push_varint(frame, start as u64 / ENTRY_ALIGN_BYTES);
        }
        if let Some(age) = spec.moved {
            push_varint(frame, age);
        }
        lengths.iter().for_each(|&len| push_varint(frame, len as u64));
        frame.extend_from_slice(&[0; 4]);
    }
    let crc_at = frame.len() - 4;
    frame.extend_from_slice(spec.key);
    frame.extend_from_slice(spec.value);
    let crc = crc_around(&frame[start..], crc_at - start);
    put(frame, crc_at, &crc.to_le_bytes());
    crc_at
}

#[inline(always)]
fn crc_around(op: &[u8], crc_at: usize) -> u32 {
    checksum::crc32c_of_two(&op[..crc_at], &op[crc_at + 4..])
}

/// What the further flags announce, and where it ends; `None` if they are not those of this version.
#[cold]
fn decode_keyspace(bytes: &[u8]) -> Option<(KeyspaceId, usize)> {
    if *bytes.get(1)? != FURTHER_KEYSPACE {
        return None;
    }
    let (keyspace, end) = varint_at(bytes, 2)?;
    let keyspace = KeyspaceId(u32::try_from(keyspace).ok()?);
    (keyspace != KeyspaceId::DEFAULT).then_some((keyspace, end))
}

/// The first distance that takes more than two bytes.
const SHORT_UNITS_END: usize = 1 << 14;

/// Operations that begin below here in their frame are encoded and decoded quickly.
pub const SHORT_DISTANCE_END: u32 = SHORT_UNITS_END as u32 * ENTRY_ALIGN_BYTES as u32;

/// Bytes of a distance that a byte or two tell.
#[inline]
fn distance_of(units: u32) -> u32 {
    units * ENTRY_ALIGN_BYTES as u32
}

/// Fields of what most operations are: a put near its frame's header, and each length one byte.
#[derive(Clone, Copy)]
pub(super) struct ShortFields {
    distance: u32,
    pub(super) key_at: u32,
    pub(super) key_len: u32,
    value_len: u32,
}

impl ShortFields {
    #[inline(always)]
    pub(super) fn end(self) -> usize {
        (self.key_at + self.key_len + self.value_len) as usize
    }
}

/// The fields of such an operation; whether the bytes go as far as it does is not looked at. One branch for all conditions:
/// how many bytes a distance takes cannot be predicted, and a wrong guess is noticed only when the operation has come from memory.
#[inline(always)]
pub(super) fn short(bytes: &[u8]) -> Option<ShortFields> {
    // The shortest has as many: a kind, two lengths, a crc, a byte of a key.
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let [kind, low, high, ..] = word.to_le_bytes();
    let is_first = kind == FIRST_PUT;
    let is_long = !is_first & (low >= 0x80);
    let units_len = u32::from(!is_first) + u32::from(is_long);
    let [key_len, value_len, ..] = (word >> (8 + 8 * units_len)).to_le_bytes();
    let is_distance = (low >= LATER_UNITS_MIN) & (!is_long | (1..0x80).contains(&high));
    let is_short =
        (is_first | ((kind == LATER_PUT) & is_distance)) & (1..0x80).contains(&key_len) & (value_len < 0x80);
    if !is_short {
        return None;
    }
    let units = u32::from(low & 0x7f) | if is_long { u32::from(high) << 7 } else { 0 };
    Some(ShortFields {
        distance: if is_first { FRAME_HEADER_BYTES as u32 } else { distance_of(units) },
        key_at: 1 + units_len + 2 + 4,
        key_len: key_len.into(),
        value_len: value_len.into(),
    })
}

/// An operation as it lies on the medium: lengths checked, bytes not yet verified.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    bytes: &'a [u8],
    kind: OpKind,
    /// Bytes back to the frame header.
    distance: u32,
    key_at: u32,
    key_len: u32,
    /// Age of a move.
    moved: Option<u64>,
}

impl<'a> Op<'a> {
    /// Reads the operation at the start of `bytes`; `None` if its fields are impossible or it does not fit.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<Op<'a>> {
        match short(bytes) {
            Some(fields) => Some(Op {
                bytes: bytes.get(..fields.end())?,
                kind: OpKind::Put,
                distance: fields.distance,
                key_at: fields.key_at,
                key_len: fields.key_len,
                moved: None,
            }),
            None => Op::decode_any(bytes),
        }
    }

    #[inline(never)]
    fn decode_any(bytes: &'a [u8]) -> Option<Op<'a>> {
        let (mut op, len) = Op::decode_fields(bytes)?;
        op.bytes = bytes.get(..usize::try_from(len).ok()?)?;
        Some(op)
    }

    /// Bytes of the operation whose first [`OP_FIELDS_BYTES_MAX`] bytes these are; `None` if its fields are impossible.
    pub fn len_from_fields(bytes: &[u8]) -> Option<u64> {
        Op::decode_fields(bytes).map(|(_, len)| len)
    }

    #[inline]
    fn decode_fields(bytes: &'a [u8]) -> Option<(Op<'a>, u64)> {
        let flags = *bytes.first()?;
        let kind = OpKind::from_u8(flags & KIND_MASK)?;
        let mut at = 1;
        if flags & (FLAG_EXTENDED | FLAG_RESERVED) != 0 {
            if flags & FLAG_RESERVED != 0 {
                return None;
            }
            at = decode_keyspace(bytes)?.1;
        }
        let mut distance = FRAME_HEADER_BYTES as u64;
        if flags & FLAG_FIRST == 0 {
            let (units, next) = varint_at(bytes, at)?;
            distance = units * ENTRY_ALIGN_BYTES;
            at = next;
            if distance <= FRAME_HEADER_BYTES as u64 || distance > u64::from(u32::MAX) {
                return None;
            }
        }
        let mut moved = None;
        if flags & FLAG_MOVED != 0 {
            let (age, next) = long_varint_at(bytes, at)?;
            moved = Some(age);
            at = next;
        }
        let (key_len, at) = varint_at(bytes, at)?;
        let (value_len, at) = varint_at(bytes, at)?;
        let key_at = at + 4;
        let end = (key_at as u64 + key_len).checked_add(value_len)?;
        if key_len == 0 || key_len > KEY_BYTES_MAX as u64 {
            return None;
        }
        let op = Op {
            bytes,
            kind,
            distance: distance as u32,
            key_at: key_at as u32,
            key_len: key_len as u32,
            moved,
        };
        Some((op, end))
    }

    /// True if the bytes are what was written at pool offset `offset`.
    #[inline(always)]
    pub fn verify(&self, site: CheckSite, seed: SegmentSeed, offset: u64) -> bool {
        let computed = self.computed_crc(seed, offset);
        checksum::verify(site, u32_at(self.bytes, self.crc_at()), computed)
    }

    #[inline(always)]
    pub(super) fn computed_crc(&self, seed: SegmentSeed, offset: u64) -> u32 {
        crc_around(self.bytes, self.crc_at()) ^ seed.mask32(offset)
    }

    #[inline]
    pub(super) fn crc_at(&self) -> usize {
        self.key_at as usize - 4
    }

    pub(super) fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the operation itself.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What it does.
    #[inline]
    pub fn kind(&self) -> OpKind {
        self.kind
    }

    /// Where its key belongs.
    #[inline]
    pub fn keyspace(&self) -> KeyspaceId {
        if self.bytes[0] & FLAG_EXTENDED == 0 {
            return KeyspaceId::DEFAULT;
        }
        decode_keyspace(self.bytes).map_or(KeyspaceId::DEFAULT, |(keyspace, _)| keyspace)
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        &self.bytes[self.key_at as usize..(self.key_at + self.key_len) as usize]
    }

    /// The inline value, or the descriptor.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        &self.bytes[(self.key_at + self.key_len) as usize..]
    }

    /// One behind the other.
    #[inline]
    pub fn key_and_value(&self) -> &'a [u8] {
        &self.bytes[self.key_at as usize..]
    }

    /// Bytes from the start of the operation to its value.
    #[inline]
    pub fn footprint_before_value(&self) -> u64 {
        u64::from(self.key_at + self.key_len)
    }

    /// Bytes from the frame header to this operation.
    #[inline]
    pub fn distance_bytes(&self) -> u64 {
        u64::from(self.distance)
    }

    /// Its stamp, given its frame's header; `None` if it claims to be older than anything can be.
    #[inline]
    pub fn seq(&self, header: &FrameHeader) -> Option<Seq> {
        match self.moved {
            None => Some(header.seq_at(self.distance_bytes())),
            Some(age) => header.base_seq.back(age),
        }
    }

    /// Bytes it takes in the log, alignment included: what becomes dead with it.
    #[inline]
    pub fn footprint_bytes(&self) -> u64 {
        super::align_up(self.bytes.len() as u64, ENTRY_ALIGN_BYTES)
    }
}

/// Walks the operations of a whole frame; stops early at one that cannot be decoded.
pub struct Ops<'a> {
    frame: &'a [u8],
    next: usize,
    left: u16,
}

impl<'a> Ops<'a> {
    /// The operations of `frame`, which has this header.
    pub fn new(frame: &'a [u8], header: &FrameHeader) -> Self {
        Ops { frame, next: FRAME_HEADER_BYTES, left: header.op_count }
    }
}

impl<'a> Iterator for Ops<'a> {
    /// Offset in the frame, and the operation.
    type Item = (u32, Op<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let start = self.next;
        let op = Op::decode(self.frame.get(start..)?)?;
        if op.distance_bytes() != start as u64 {
            return None;
        }
        self.left -= 1;
        self.next = start + op.footprint_bytes() as usize;
        Some((start as u32, op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of puts that are decoded at once, and of some that may not be: each with all lengths behind.
    const BEGINNINGS: [&[u8]; 14] = [
        &[FIRST_PUT],
        &[LATER_PUT, 0],
        &[LATER_PUT, LATER_UNITS_MIN - 1],
        &[LATER_PUT, LATER_UNITS_MIN],
        &[LATER_PUT, 0x7f],
        &[LATER_PUT, 0x80, 0],
        &[LATER_PUT, 0x80, 1],
        &[LATER_PUT, 0xff, 0x7f],
        &[LATER_PUT, 0x80, 0x80],
        &[LATER_PUT, 0xff, 0xff, 1],
        &[LATER_PUT | FLAG_MOVED, 5, 1],
        &[OpKind::Delete as u8, 5],
        &[OpKind::PutBlob as u8 | FLAG_FIRST],
        &[LATER_PUT | FLAG_EXTENDED, FURTHER_KEYSPACE, 1, 5],
    ];

    #[test]
    fn the_short_way_reads_what_the_general_one_does() {
        let fields = |op: Op<'_>| {
            (op.bytes.len(), op.kind, op.distance, op.key_at, op.key_len, op.moved, op.value().len())
        };
        for len in [0, 1, 2, 3, 5, 8, 40, 261, 300] {
            for beginning in BEGINNINGS {
                let mut bytes = vec![9; len];
                for lengths in 0..=u16::MAX {
                    let first = beginning.iter().copied().chain(lengths.to_le_bytes());
                    bytes.iter_mut().zip(first).for_each(|(to, byte)| *to = byte);
                    let (short, general) =
                        (Op::decode(&bytes).map(fields), Op::decode_any(&bytes).map(fields));
                    assert_eq!(short, general, "{len} bytes, {beginning:x?}, lengths {lengths:#x}");
                }
            }
        }
    }
}
