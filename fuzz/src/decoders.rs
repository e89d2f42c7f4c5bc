//! Every decoder of the format, on any bytes, and on bytes whose checksum was made right.

use super::input::Input;
use flatkv::testing::CheckSite;
use flatkv::testing::format::{
    BlobDescriptor, CommitRecord, Digest, FRAME_HEADER_BYTES, Filter, Footer, FrameHeader, HolderRecord, Op,
    Ops, SegmentHeader, SegmentId, SegmentSeed, SegmentSlot, StateWord, Superblock, crc32c, hash64,
    verify_frame,
};

const SEED: SegmentSeed = SegmentSeed(0x1234_5678_9ABC_DEF0);
const OFFSET: u64 = 8192 + 512;
const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"FkvSegm\x01");

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.byte();
    let sealed = which & 0x80 != 0;
    let bytes = input.rest();
    match which & 0x7F {
        0 => superblock(bytes, sealed),
        1 => segment_header(bytes, sealed),
        2 => state_word(bytes, sealed),
        3 => digest(bytes, sealed),
        4 => footer(bytes, sealed),
        5 => frame(bytes, sealed),
        6 => op(bytes),
        7 => blob(bytes),
        8 => commit(bytes),
        9 => holder(bytes),
        _ => filter(bytes),
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    let len = N.min(bytes.len());
    whole[..len].copy_from_slice(&bytes[..len]);
    whole
}

fn superblock(bytes: &[u8], sealed: bool) {
    let mut copy = padded::<512>(bytes);
    if sealed {
        copy[..8].copy_from_slice(b"FlatKV\x01\n");
        let sum = hash64(0x666C_6174_6B76_7362, &copy[..504]);
        copy[504..].copy_from_slice(&sum.to_le_bytes());
    }
    if let Ok(superblock) = Superblock::decode(&copy, 0) {
        let again = Superblock::decode(&superblock.encode(), 0).expect("what was read can be written");
        assert_eq!(again, superblock);
    }
}

fn segment_header(bytes: &[u8], sealed: bool) {
    let mut header = padded::<256>(bytes);
    let uuid = [7; 16];
    if sealed {
        header[..8].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        header[8..24].copy_from_slice(&uuid);
        header[56..60].copy_from_slice(&3_u32.to_le_bytes());
        let sum = hash64(SEGMENT_MAGIC, &header[..248]);
        header[248..].copy_from_slice(&sum.to_le_bytes());
    }
    let _ = SegmentHeader::decode(bytes, &uuid, SegmentSlot(3));
    if let Some(found) = SegmentHeader::decode(&header, &uuid, SegmentSlot(3)) {
        assert_eq!(SegmentHeader::decode(&found.encode(&uuid), &uuid, SegmentSlot(3)), Some(found));
    }
}

fn state_word(bytes: &[u8], sealed: bool) {
    let mut word = u64::from_le_bytes(padded(bytes));
    if sealed {
        word &= !0xFF;
        word |= u64::from(crc32c(&word.to_le_bytes())) & 0xFF;
    }
    if let Some(state) = StateWord::decode(word) {
        assert_eq!(state.encode(), word);
    }
    let _ = StateWord::is_blank(word);
}

fn digest(bytes: &[u8], sealed: bool) {
    let mut bytes = bytes.to_vec();
    if sealed && bytes.len() >= 64 {
        bytes[8..12].copy_from_slice(b"Dgst");
        bytes[12..14].copy_from_slice(&1_u16.to_le_bytes());
        let count = u64::from(u16::from_le_bytes([bytes[40], bytes[41]])) % 64;
        bytes[40..44].copy_from_slice(&(count as u32).to_le_bytes());
        // As long as its entries, two varints each.
        let last = |(_, byte): &(usize, &u8)| **byte < 0x80;
        let end = match count {
            0 => 64,
            count => bytes
                .iter()
                .enumerate()
                .skip(64)
                .filter(last)
                .nth(2 * count as usize - 1)
                .map_or(bytes.len(), |(at, _)| at + 1),
        };
        bytes.truncate(end);
        let len = end.next_multiple_of(64);
        bytes.resize(len, 0);
        bytes[44..48].copy_from_slice(&(len as u32).to_le_bytes());
        let sum = hash64(SEED.mask64(OFFSET), &bytes[8..len]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
    }
    if let Some((found, len)) = Digest::decode(&bytes, SEED, OFFSET) {
        assert!(len as usize <= bytes.len());
        let again = Digest::decode(&found.encode(SEED, OFFSET), SEED, OFFSET);
        assert_eq!(again.map(|(digest, _)| digest), Some(found));
    }
}

fn footer(bytes: &[u8], sealed: bool) {
    let mut bytes = bytes.to_vec();
    if sealed {
        bytes.resize(128, 0);
        bytes[8..12].copy_from_slice(b"Foot");
        let sum = hash64(SEED.mask64(OFFSET), &bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
    }
    if let Some(found) = Footer::decode(&bytes, SEED, OFFSET) {
        assert_eq!(Footer::decode(&found.encode(SEED, OFFSET), SEED, OFFSET), Some(found));
    }
}

fn frame(bytes: &[u8], sealed: bool) {
    let mut bytes = bytes.to_vec();
    if sealed && bytes.len() >= FRAME_HEADER_BYTES {
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        let len = bytes.len() as u32;
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c(&bytes[8..28]) ^ SEED.mask32(OFFSET);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        let sum = hash64(SEED.mask64(OFFSET), &bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
    }
    let Some(header) = FrameHeader::parse(&bytes) else { return };
    let whole = FrameHeader::decode(&bytes, SEED, OFFSET);
    assert!(!sealed || bytes.len() < FRAME_HEADER_BYTES || whole == Some(header));
    let Some(frame) = bytes.get(..header.len as usize) else { return };
    assert!(!sealed || verify_frame(frame, &header, SEED, OFFSET));
    let mut end = FRAME_HEADER_BYTES;
    let mut count = 0;
    for (at, op) in Ops::new(frame, &header) {
        assert_eq!(at as usize, end);
        end = at as usize + op.footprint_bytes() as usize;
        count += 1;
        let _ = op.seq(&header);
        let _ = op.verify(CheckSite::EntryOnScan, SEED, OFFSET + u64::from(at));
    }
    assert!(count <= header.op_count && end <= frame.len() + 8);
    let _ = header.seq_at(u64::from(header.len));
}

fn op(bytes: &[u8]) {
    let Some(op) = Op::decode(bytes) else { return };
    assert!(!op.key().is_empty());
    let used = op.footprint_before_value() as usize + op.value().len();
    assert!(used <= bytes.len() && op.footprint_bytes() as usize >= used);
    assert!(op.distance_bytes() >= FRAME_HEADER_BYTES as u64);
    let _ = op.verify(CheckSite::EntryOnGet, SEED, OFFSET);
}

fn blob(bytes: &[u8]) {
    if let Some(blob) = BlobDescriptor::decode(bytes) {
        assert_eq!(BlobDescriptor::decode(&blob.encode()), Some(blob));
    }
}

fn commit(bytes: &[u8]) {
    if let Some(record) = CommitRecord::decode(bytes) {
        assert_eq!(CommitRecord::decode(&record.encode()), Some(record));
    }
}

fn holder(bytes: &[u8]) {
    if let Some(record) = HolderRecord::decode(&padded(bytes)) {
        assert_eq!(HolderRecord::decode(&record.encode()), Some(record));
    }
}

fn filter(bytes: &[u8]) {
    let (hashes, rest) = bytes.split_at(bytes.len() / 2);
    let hashes: Vec<u32> =
        hashes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
    let built = Filter::build(&hashes);
    assert!(hashes.iter().all(|hash| built.may_contain(*hash)));
    let forged = Filter::from_bytes(rest.to_vec());
    let _ = hashes.iter().filter(|hash| forged.may_contain(**hash)).count();
    let footer = Footer {
        segment: SegmentId(1),
        entry_count: 0,
        min_seq: flatkv::testing::format::Seq(0),
        max_seq: flatkv::testing::format::Seq(0),
        data_start: 0,
        data_end: 0,
        filter_at: 0,
        filter_len: rest.len() as u32,
        filter_checksum: Filter::checksum(rest, SEED, OFFSET),
    };
    assert!(Filter::verify(rest, &footer, SEED, OFFSET));
}
