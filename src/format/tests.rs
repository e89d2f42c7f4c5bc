//! What the bytes are (`golden`), and what is refused (`refusals`). A golden test that fails means that pools of earlier
//! releases no longer open: it is changed only together with the format version, `docs/FORMAT.md` and the fixtures.

mod golden;
mod refusals;

use super::*;
use crate::checksum::SegmentSeed;
use crate::types::{KeyspaceId, LogId, SegmentId, SegmentSlot, Seq};
use std::fmt::Write;

const UUID: [u8; 16] = *b"0123456789abcdef";
const ID: SegmentId = SegmentId(0x0102_0304);
/// Pool offset that frames and digests are encoded for.
const OFFSET: u64 = 0x0001_2340;
const BASE: Seq = Seq(0x0011_2233_4455_6600 | 5);

fn seed() -> SegmentSeed {
    SegmentSeed::new(&UUID, ID)
}

/// Sixteen bytes a row, rows of zeros left out, the length last.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0))
    {
        write!(text, "{:04x}:", row * 16).unwrap();
        for (i, byte) in chunk.iter().enumerate() {
            write!(text, "{}{byte:02x}", if i % 8 == 0 { " " } else { "" }).unwrap();
        }
        text.push('\n');
    }
    write!(text, "{} bytes", bytes.len()).unwrap();
    text
}

#[track_caller]
fn assert_golden(bytes: &[u8], expected: &str) {
    let found = dump(bytes);
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(found, expected.join("\n"), "the bytes on the medium changed; found:\n{found}\n");
}

fn superblock() -> Superblock {
    Superblock {
        compatible: 0,
        read_only_compatible: 0,
        incompatible: 0,
        uuid: UUID,
        hash_seed: 0x1122_3344_5566_7788,
        sequence: 7,
        head_size_bytes: 8192,
        segment_size_bytes: 4096,
        log_count: 3,
        segment_id_high_water: 0x0102_0305,
        unsafe_shutdowns: 2,
        clean: true,
        closed_ends: 0,
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        id: ID,
        slot: SegmentSlot(9),
        log: LogId(5),
        class: SegmentClass::LogHead,
        creation_seq: BASE,
    }
}

fn digest() -> Digest {
    let entry = |slot, id, sealed| DigestEntry { slot: SegmentSlot(slot), id: SegmentId(id), sealed };
    Digest {
        number: 12,
        next_id: SegmentId(0x0102_0305),
        live_entries: 0,
        entries: vec![entry(0, 1, true), entry(9, 0x0102_0304, false), entry(0xA1A2_A3A4, 0xB1B2, true)],
    }
}

fn footer() -> Footer {
    Footer {
        segment: ID,
        entry_count: 6,
        min_seq: Seq(0x45),
        max_seq: BASE,
        data_start: 0,
        data_end: 0x640,
        filter_at: 0x680,
        filter_len: 64,
        filter_checksum: 0xF1F2_F3F4_F5F6_F7F8,
    }
}

fn descriptor() -> BlobDescriptor {
    BlobDescriptor {
        len: 0x0010_0200,
        chunks: vec![
            Chunk { offset: 0x2200, len: 0x0010_0000, crc: 0xC1C2_C3C4 },
            Chunk { offset: 0x0321_0200, len: 0x200, crc: 0xD1D2_D3D4 },
        ],
    }
}

fn record() -> CommitRecord {
    CommitRecord {
        batch: BASE,
        parts: vec![
            PartsInSegment { segment: SegmentId(7), bytes: 0xE00, checksum: 0x0102_0304_0506_0708 },
            PartsInSegment { segment: ID, bytes: 0x40, checksum: u64::MAX },
        ],
    }
}

fn put_op<'a>(key: &'a [u8], value: &'a [u8]) -> OpSpec<'a> {
    OpSpec { kind: OpKind::Put, key, value, moved: None, keyspace: KeyspaceId::DEFAULT }
}

/// A finished frame of these operations, for `OFFSET`.
fn frame(kind: FrameKind, ops: &[OpSpec<'_>]) -> Vec<u8> {
    let mut builder = FrameBuilder::new(kind);
    ops.iter().for_each(|op| {
        builder.push(op);
    });
    builder.finish(seed(), OFFSET, BASE, 0x600).to_vec()
}

/// One frame of each kind, each kind of operation in them.
fn frames() -> Vec<Vec<u8>> {
    let blob = descriptor().encode();
    let ops = [
        put_op(b"key", b"value"),
        OpSpec { kind: OpKind::Delete, key: b"gone", value: b"", moved: None, keyspace: KeyspaceId::DEFAULT },
        OpSpec {
            kind: OpKind::PutBlob,
            key: b"blob",
            value: &blob,
            moved: None,
            keyspace: KeyspaceId::DEFAULT,
        },
    ];
    let moved = [
        OpSpec { moved: Some(BASE.distance_to(Seq(0x0000_1234_5678_9A85))), ..ops[0] },
        OpSpec { moved: Some(0), ..ops[1] },
        OpSpec { moved: Some(0x4081), ..ops[2] },
    ];
    let mut commit = FrameBuilder::new(FrameKind::BatchCommit);
    commit.push_raw(&record().encode());
    vec![
        frame(FrameKind::Ops, &ops),
        frame(FrameKind::Batch, &ops[..2]),
        frame(FrameKind::BatchPart, &ops[..1]),
        commit.finish(seed(), OFFSET, BASE, 0x600).to_vec(),
        frame(FrameKind::Mark, &[]),
        frame(FrameKind::Close, &[]),
        frame(FrameKind::Survivor, &moved),
    ]
}

/// True if these are the bytes of one whole frame at this place.
fn is_whole(frame: &[u8], seed: SegmentSeed, offset: u64) -> bool {
    FrameHeader::decode(frame, seed, offset).is_some_and(|header| {
        header.len as usize == frame.len() && verify_frame(frame, &header, seed, offset)
    })
}

/// A key's hash as filters use it, without a seed.
fn short_hash(number: u64) -> u32 {
    Filter::short_hash(crate::checksum::hash64(0, &number.to_le_bytes()))
}
