//! What decoders refuse: every flipped bit, every other place, everything that was not written. None of it may panic.

use super::*;
use crate::checksum::{CheckSite, crc32c};
use crate::constants::{CACHE_LINE_BYTES, POOL_BYTES_MAX};
use crate::error::Error;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Every bit of `bytes` is flipped, one at a time: `accepts` must refuse each.
#[track_caller]
fn assert_every_flip_is_refused(what: &str, bytes: &[u8], mut accepts: impl FnMut(&[u8]) -> bool) {
    assert!(accepts(bytes), "{what}: whole bytes are accepted");
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepts(&flipped), "{what}: bit {} of byte {} was flipped", bit % 8, bit / 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

fn decode_superblock(bytes: &[u8]) -> Option<Superblock> {
    Superblock::decode(bytes.try_into().ok()?, SUPERBLOCK_A_OFFSET).ok()
}

/// The operations of a frame whose own crcs verify, with their keys and values.
fn intact_ops(frame: &[u8], seed: SegmentSeed, offset: u64) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
    let Some(header) = FrameHeader::decode(frame, seed, offset) else { return Vec::new() };
    Ops::new(frame, &header)
        .filter(|(at, op)| op.verify(CheckSite::EntryOnScan, seed, offset + u64::from(*at)))
        .map(|(at, op)| (at, op.key().to_vec(), op.value().to_vec()))
        .collect()
}

#[test]
fn every_flipped_bit_of_a_frame_is_refused() {
    for frame in frames() {
        assert_every_flip_is_refused("frame", &frame, |bytes| is_whole(bytes, seed(), OFFSET));
    }
}

#[test]
fn every_flipped_bit_of_an_operation_is_refused_by_its_own_crc() {
    let frame = &frames()[6];
    let header = FrameHeader::decode(frame, seed(), OFFSET).unwrap();
    let ops: Vec<_> =
        Ops::new(frame, &header).map(|(at, op)| (at as usize, op.footprint_bytes() as usize)).collect();
    assert_eq!(ops.len(), 3);
    for (at, len) in ops {
        // Padding behind the operation is the frame's to check.
        let len = len - frame[at..at + len].iter().rev().take_while(|byte| **byte == 0).count().min(7);
        let mut bytes = frame.clone();
        for bit in at * 8..(at + len) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted = Op::decode(&bytes[at..])
                .is_some_and(|op| op.verify(CheckSite::EntryOnGet, seed(), OFFSET + at as u64));
            assert!(!accepted, "bit {} of byte {} of the operation at {at}", bit % 8, bit / 8 - at);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_head_structure_is_refused() {
    assert_every_flip_is_refused("superblock", &superblock().encode(), |bytes| {
        decode_superblock(bytes).is_some()
    });
    assert_every_flip_is_refused("header", &header().encode(&UUID), |bytes| {
        SegmentHeader::decode(bytes, &UUID, SegmentSlot(9)).is_some()
    });
    assert_every_flip_is_refused("digest", &digest().encode(seed(), OFFSET), |bytes| {
        Digest::decode(bytes, seed(), OFFSET).is_some()
    });
    assert_every_flip_is_refused("footer", &footer().encode(seed(), OFFSET), |bytes| {
        Footer::decode(bytes, seed(), OFFSET).is_some()
    });
    let filter = Filter::build(&[short_hash(1), short_hash(2)]);
    let sum = Filter::checksum(filter.bytes(), seed(), OFFSET);
    let footer = Footer { filter_checksum: sum, ..footer() };
    assert_every_flip_is_refused("filter", filter.bytes(), |bytes| {
        Filter::verify(bytes, &footer, seed(), OFFSET)
    });
    let blob = b"the bytes of a blob";
    let crc = Chunk::crc(blob, seed(), OFFSET);
    assert_every_flip_is_refused("chunk", blob, |bytes| Chunk::crc(bytes, seed(), OFFSET) == crc);
}

#[test]
fn every_flipped_bit_of_a_state_word_is_refused() {
    for state in STATES {
        for id in [0, 1, ID.0, (1 << 40) - 1] {
            let word = StateWord::new(state, SegmentId(id)).encode();
            assert_every_flip_is_refused("state word", &word.to_le_bytes(), |bytes| {
                StateWord::decode(u64::from_le_bytes(bytes.try_into().unwrap())).is_some()
            });
            assert!(!StateWord::is_blank(word), "a used slot never looks unused");
        }
    }
    for bit in 0..64 {
        assert_eq!(StateWord::decode(1 << bit), None, "an unused slot never looks used");
        assert!(!StateWord::is_blank(1 << bit));
    }
}

const STATES: [SegmentState; 5] = [
    SegmentState::Free,
    SegmentState::Open,
    SegmentState::Active,
    SegmentState::Sealed,
    SegmentState::Retired,
];

#[test]
fn state_codes_lie_four_bits_apart() {
    for (i, a) in STATES.iter().enumerate() {
        for b in &STATES[i + 1..] {
            let distance = (*a as u16 ^ *b as u16).count_ones();
            assert!(distance >= 4, "{a:?} and {b:?} differ in {distance} bits");
        }
        assert!((*a as u16).count_ones() >= 4, "{a:?} is far from an unused slot's zero");
    }
}

#[test]
fn clean_and_unclean_marks_lie_far_apart() {
    let mark = |clean| u64_at(&Superblock { clean, ..superblock() }.encode(), 160);
    assert!((mark(true) ^ mark(false)).count_ones() >= 32);
    assert!(mark(true).count_ones() >= 16 && mark(false).count_ones() >= 16, "neither is near zero");
    assert!(mark(true).count_zeros() >= 16 && mark(false).count_zeros() >= 16, "neither is near all ones");
    assert!(decode_superblock(&Superblock { clean: true, ..superblock() }.encode()).unwrap().clean);
    assert!(!decode_superblock(&Superblock { clean: false, ..superblock() }.encode()).unwrap().clean);
}

#[test]
fn a_lone_small_put_is_one_line_and_sixteen_fit_seven() {
    let pairs: Vec<([u8; 8], [u8; 8])> = (0..16_u64).map(|i| (i.to_be_bytes(), (!i).to_le_bytes())).collect();
    let ops: Vec<OpSpec<'_>> = pairs.iter().map(|(key, value)| put_op(key, value)).collect();
    assert_eq!(frame(FrameKind::Ops, &ops[..1]).len(), 64);
    let mut builder = FrameBuilder::new(FrameKind::Ops);
    ops.iter().for_each(|op| {
        builder.push(op);
    });
    assert!(builder.op_bytes() <= 16 * 26, "{} bytes of operations", builder.op_bytes());
    assert_eq!(builder.len_bytes(), 448);
    // The bound that space is reserved by.
    assert!(builder.op_bytes() <= 16 * encoded_len_max(8, 8));
}

#[test]
fn nothing_verifies_anywhere_else() {
    let elsewhere = [
        (seed(), OFFSET + 64),
        (seed(), OFFSET - 64),
        (seed(), OFFSET + (1 << 30)),
        (SegmentSeed::new(&UUID, SegmentId(ID.0 + 1)), OFFSET),
        (SegmentSeed::new(&UUID, SegmentId(ID.0 + (1 << 40))), OFFSET),
        (SegmentSeed::new(b"another pool uid", ID), OFFSET),
    ];
    let filter = Filter::build(&[short_hash(1)]);
    let footer_of_filter =
        Footer { filter_checksum: Filter::checksum(filter.bytes(), seed(), OFFSET), ..footer() };
    for (seed_there, offset) in elsewhere {
        for frame in frames() {
            assert!(FrameHeader::decode(&frame, seed_there, offset).is_none());
            let header = FrameHeader::decode(&frame, seed(), OFFSET).unwrap();
            assert!(!verify_frame(&frame, &header, seed_there, offset));
            for (at, op) in Ops::new(&frame, &header) {
                assert!(!op.verify(CheckSite::EntryOnScan, seed_there, offset + u64::from(at)));
            }
        }
        assert!(Digest::decode(&digest().encode(seed(), OFFSET), seed_there, offset).is_none());
        assert!(Footer::decode(&footer().encode(seed(), OFFSET), seed_there, offset).is_none());
        assert!(!Filter::verify(filter.bytes(), &footer_of_filter, seed_there, offset));
        assert_ne!(Chunk::crc(b"blob", seed(), OFFSET), Chunk::crc(b"blob", seed_there, offset));
    }
    let bytes = header().encode(&UUID);
    assert!(SegmentHeader::decode(&bytes, &UUID, SegmentSlot(8)).is_none(), "another slot");
    assert!(SegmentHeader::decode(&bytes, b"another pool uid", SegmentSlot(9)).is_none(), "another pool");
    let word = StateWord::decode(StateWord::new(SegmentState::Open, ID).encode()).unwrap();
    assert!(!word.belongs_to(SegmentId(ID.0 + 1)), "another segment");
}

/// The bound of 3 % holds for the mean over sets of keys. One small set may exceed it, because few blocks fill unevenly;
/// only a set's own rate is therefore given more room.
#[test]
fn a_filter_never_forgets_and_seldom_invents() {
    const ASKED: u64 = 10_000;
    for entries in [1, 2, 7, 51, 64, 65, 100, 128, 256, 409, 1000, 20_000] {
        let sets = if entries < 10_000 { 60 } else { 3 };
        let mut invented_in_all = 0;
        for set in 0..sets {
            let hash = |key: u64| Filter::short_hash(crate::checksum::hash64(set, &key.to_le_bytes()));
            let hashes: Vec<u32> = (0..entries).map(hash).collect();
            let filter = Filter::from_bytes(Filter::build(&hashes).bytes().to_vec());
            assert!(filter.bytes().len() as u64 <= align_up(entries, CACHE_LINE_BYTES));
            assert!(hashes.iter().all(|hash| filter.may_contain(*hash)), "{entries} entries: one is denied");
            let invented = (0..ASKED).filter(|key| filter.may_contain(hash(1 << 40 | key))).count() as u64;
            assert!(invented * 100 <= ASKED * 4, "{entries} entries, set {set}: {invented} of {ASKED} pass");
            invented_in_all += invented;
        }
        assert!(
            invented_in_all * 100 <= sets * ASKED * 3,
            "{entries} entries: {invented_in_all} strangers of {} pass",
            sets * ASKED
        );
    }
    assert!(!Filter::build(&[]).may_contain(short_hash(1)));
}

#[test]
fn truncated_bytes_are_refused() {
    for frame in frames() {
        for len in 0..frame.len() {
            assert!(!is_whole(&frame[..len], seed(), OFFSET), "{len} of {} bytes", frame.len());
        }
    }
    let (header, digest, footer) =
        (header().encode(&UUID), digest().encode(seed(), OFFSET), footer().encode(seed(), OFFSET));
    (0..header.len())
        .for_each(|len| assert!(SegmentHeader::decode(&header[..len], &UUID, SegmentSlot(9)).is_none()));
    (0..digest.len()).for_each(|len| assert!(Digest::decode(&digest[..len], seed(), OFFSET).is_none()));
    (0..footer.len()).for_each(|len| assert!(Footer::decode(&footer[..len], seed(), OFFSET).is_none()));
    let (descriptor, record) = (descriptor().encode(), record().encode());
    (0..descriptor.len()).for_each(|len| assert!(BlobDescriptor::decode(&descriptor[..len]).is_none()));
    (0..record.len()).for_each(|len| assert!(CommitRecord::decode(&record[..len]).is_none()));
}

#[test]
fn a_varint_has_one_form() {
    for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX)] {
        let mut bytes = Vec::new();
        push_varint(&mut bytes, value);
        assert_eq!(varint_at(&bytes, 0), Some((value, bytes.len())));
        (0..bytes.len()).for_each(|len| assert_eq!(varint_at(&bytes[..len], 0), None));
    }
    // Longer than needed; above 32 bits; no end within five bytes.
    for bytes in [&[0x80, 0][..], &[0xFF, 0x80, 0], &[0xFF, 0xFF, 0xFF, 0xFF, 0x10], &[0x80; 9]] {
        assert_eq!(varint_at(bytes, 0), None, "{bytes:x?}");
    }
}

#[test]
fn a_long_varint_has_63_bits() {
    for value in [0, 127, 128, u64::from(u32::MAX) + 1, (1 << 56) - 1, 1 << 56, (1 << 63) - 1] {
        let mut bytes = Vec::new();
        push_varint(&mut bytes, value);
        assert_eq!(long_varint_at(&bytes, 0), Some((value, bytes.len())));
        (0..bytes.len()).for_each(|len| assert_eq!(long_varint_at(&bytes[..len], 0), None));
    }
    for bytes in [&[0x80, 0][..], &[0xFF, 0xFF, 0x80, 0], &[0xFF; 10], &[0x80; 12]] {
        assert_eq!(long_varint_at(bytes, 0), None, "{bytes:x?}");
    }
}

/// Runs every decoder over the bytes, and what callers do with what was decoded.
fn decode_everything(bytes: &[u8]) {
    let at = |len: usize| bytes.get(..len).unwrap_or(bytes);
    if let Some(header) = FrameHeader::decode(bytes, seed(), OFFSET) {
        let frame = at(header.len as usize);
        if frame.len() == header.len as usize {
            verify_frame(frame, &header, seed(), OFFSET);
        }
        header.seq_at(u64::from(header.len));
        for (start, op) in Ops::new(frame, &header) {
            op.verify(CheckSite::EntryOnScan, seed(), OFFSET + u64::from(start));
            op.seq(&header);
        }
    }
    if let Some(op) = Op::decode(bytes) {
        op.keyspace();
        op.verify(CheckSite::EntryOnGet, seed(), OFFSET);
        assert!(op.key().len() + op.value().len() <= bytes.len());
        assert_eq!(
            op.footprint_before_value() as usize + op.value().len(),
            op.footprint_bytes() as usize - padding(&op)
        );
    }
    SegmentHeader::decode(bytes, &UUID, SegmentSlot(9));
    Digest::decode(bytes, seed(), OFFSET);
    Footer::decode(bytes, seed(), OFFSET);
    CommitRecord::decode(bytes);
    BlobDescriptor::decode(bytes);
    KeyspaceRecord::decode(bytes);
    catalogue_id(bytes);
    decode_superblock(bytes);
    if let Ok(record) = bytes.try_into() {
        HolderRecord::decode(record);
    }
    if let Some(word) = bytes.get(..8) {
        StateWord::decode(u64_at(word, 0));
    }
    Filter::from_bytes(bytes.to_vec()).may_contain(crc32c(bytes));
}

fn padding(op: &Op<'_>) -> usize {
    (op.footprint_bytes() - op.footprint_before_value()) as usize - op.value().len()
}

/// Whole structures of every kind.
fn structures() -> Vec<Vec<u8>> {
    let mut all = frames();
    all.push(superblock().encode().to_vec());
    all.push(header().encode(&UUID).to_vec());
    all.push(digest().encode(seed(), OFFSET));
    all.push(footer().encode(seed(), OFFSET).to_vec());
    all.push(descriptor().encode());
    all.push(record().encode());
    all
}

/// Kind, key, value, age and keyspace.
type OwnedOp = (OpKind, Vec<u8>, Vec<u8>, Option<u64>, u32);

fn owned_ops() -> impl Strategy<Value = Vec<OwnedOp>> {
    let kind = prop_oneof![Just(OpKind::Put), Just(OpKind::PutBlob), Just(OpKind::Delete)];
    let keyspace = prop_oneof![Just(0), 1_u32..300, any::<u32>()];
    let op = (kind, vec(any::<u8>(), 1..300), vec(any::<u8>(), 0..600), any::<Option<u32>>(), keyspace);
    let op = op.prop_map(|(kind, key, value, age, id)| (kind, key, value, age.map(u64::from), id));
    vec(op, 0..40)
}

fn specs(ops: &[OwnedOp]) -> Vec<OpSpec<'_>> {
    ops.iter()
        .map(|(kind, key, value, moved, id)| OpSpec {
            kind: *kind,
            key,
            value,
            moved: *moved,
            keyspace: KeyspaceId(*id),
        })
        .collect()
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in vec(any::<u8>(), 0..2048)) {
        decode_everything(&bytes);
    }

    #[test]
    fn mutated_bytes_are_never_a_panic(
        which in 0_usize..13,
        edits in vec((any::<u16>(), any::<u8>()), 1..12),
        cut in any::<u16>(),
    ) {
        let mut bytes = structures().swap_remove(which);
        for (at, byte) in edits {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        decode_everything(&bytes);
        bytes.truncate(usize::from(cut) % bytes.len());
        decode_everything(&bytes);
    }

    /// Wrong bytes under a header crc that was made to fit, as a hostile file would.
    #[test]
    fn forged_frames_are_never_a_panic(
        mut bytes in vec(any::<u8>(), 64..512),
        kind in 0_u8..9,
        lines in 0_u32..9,
        ops in 0_u16..6,
        op_flags in 0_u8..128,
    ) {
        bytes[26] = kind;
        put(&mut bytes, 16, &(lines * 64).to_le_bytes());
        put(&mut bytes, 24, &ops.to_le_bytes());
        bytes[32] = op_flags;
        let crc = crc32c(&bytes[8..28]) ^ seed().mask32(OFFSET);
        put(&mut bytes, 28, &crc.to_le_bytes());
        decode_everything(&bytes);
        decode_everything(&bytes[32..]);
    }

    #[test]
    fn frames_come_back_as_they_were_written(
        ops in owned_ops(),
        kind in prop_oneof![Just(FrameKind::Ops), Just(FrameKind::Batch), Just(FrameKind::BatchPart), Just(FrameKind::Survivor)],
        line in 0_u64..1 << 34,
        base in 0_u64..1 << 60,
        durable_end in any::<u32>(),
        pad in 0_u64..4,
    ) {
        let offset = line * 64;
        let specs = specs(&ops);
        let mut builder = FrameBuilder::new(kind);
        let starts: Vec<u32> = specs.iter().map(|op| builder.push(op)).collect();
        let bound = |op: &OpSpec<'_>| {
            let moves = op.moved.map_or(0, |_| keyspace_len_max(op.keyspace));
            encoded_len_max(op.key.len(), op.value.len()) + moves
        };
        let bound: u64 = specs.iter().map(bound).sum();
        prop_assert!(builder.op_bytes() <= bound);
        builder.pad(pad * 64);
        let (len, last) = (builder.len_bytes(), builder.last_seq(Seq(base)));
        let bytes = builder.finish(seed(), offset, Seq(base), durable_end).to_vec();
        prop_assert_eq!(bytes.len() as u64, len);
        let header = FrameHeader::decode(&bytes, seed(), offset).unwrap();
        prop_assert!(verify_frame(&bytes, &header, seed(), offset));
        prop_assert_eq!(
            (header.base_seq, header.len as u64, header.durable_end, usize::from(header.op_count), header.kind),
            (Seq(base), len, durable_end, specs.len(), kind)
        );
        let found: Vec<_> = Ops::new(&bytes, &header).collect();
        prop_assert_eq!(found.len(), specs.len());
        for (((at, op), spec), start) in found.iter().zip(&specs).zip(starts) {
            prop_assert_eq!(*at, start);
            prop_assert_eq!((op.kind(), op.key(), op.value()), (spec.kind, spec.key, spec.value));
            prop_assert_eq!(op.keyspace(), spec.keyspace);
            prop_assert!(op.verify(CheckSite::EntryOnScan, seed(), offset + u64::from(start)));
            let seq = op.seq(&header);
            match spec.moved {
                Some(age) => prop_assert_eq!(seq, Seq(base).back(age)),
                None => prop_assert!(seq.is_some_and(|seq| Seq(base) <= seq && seq <= last)),
            }
        }
        if !kind.shares_seq() {
            let seqs: Vec<Seq> = found.iter().map(|(_, op)| header.seq_at(op.distance_bytes())).collect();
            prop_assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "stamps rise within a frame");
        }
    }

    /// One bad byte anywhere in a frame: the frame is refused, and an operation that still verifies is one that was
    /// written.
    #[test]
    fn a_bad_byte_never_changes_an_operation(ops in owned_ops(), at in any::<u32>(), change in 1_u8..) {
        let mut bytes = frame(FrameKind::Ops, &specs(&ops));
        let written = intact_ops(&bytes, seed(), OFFSET);
        let at = at as usize % bytes.len();
        bytes[at] ^= change;
        prop_assert!(!is_whole(&bytes, seed(), OFFSET));
        for op in intact_ops(&bytes, seed(), OFFSET) {
            prop_assert!(written.contains(&op));
        }
    }

    #[test]
    fn superblocks_come_back_as_they_were_written(
        uuid in any::<[u8; 16]>(),
        numbers in any::<[u32; 4]>(),
        head_pages in 2_u64..1000,
        segment_shift in 12_u32..=28,
        log_count in 1_u32..=64,
        clean in any::<bool>(),
    ) {
        let superblock = Superblock {
            compatible: u64::from(numbers[0]) << 16,
            read_only_compatible: u64::from(numbers[1]) << 8,
            incompatible: u64::from(numbers[2] & 1),
            uuid,
            hash_seed: u64::from(numbers[0]) << 32,
            sequence: u64::from(numbers[1]),
            head_size_bytes: head_pages * 4096,
            segment_size_bytes: 1 << segment_shift,
            log_count,
            segment_id_high_water: u64::from(numbers[2]),
            unsafe_shutdowns: u64::from(numbers[3]),
            clean,
            closed_ends: u64::from(numbers[0]) << 17,
        };
        prop_assert_eq!(decode_superblock(&superblock.encode()), Some(superblock));
    }

    #[test]
    fn segment_headers_and_digests_come_back_as_they_were_written(
        id in 0_u64..1 << 40,
        slot in any::<u32>(),
        log in 0_u8..64,
        class in 1_u8..=4,
        listed in btree_map(0..u32::MAX, (any::<u64>(), any::<bool>()), 0..50),
    ) {
        let class = SegmentClass::from_u8(class).unwrap();
        let slot = SegmentSlot(slot);
        let header =
            SegmentHeader { id: SegmentId(id), slot, log: LogId(log), class, creation_seq: Seq(id << 6) };
        prop_assert_eq!(SegmentHeader::decode(&header.encode(&UUID), &UUID, slot), Some(header));
        let entries = listed
            .into_iter()
            .map(|(slot, (below, sealed))| DigestEntry {
                slot: SegmentSlot(slot),
                id: SegmentId(below % (id + 1)),
                sealed,
            })
            .collect();
        let digest = Digest { number: id, next_id: SegmentId(id + 1), live_entries: id, entries };
        let mut bytes = digest.encode(seed(), OFFSET);
        let len = bytes.len() as u64;
        bytes.extend_from_slice(&[0xAA; 100]);
        prop_assert_eq!(Digest::decode(&bytes, seed(), OFFSET), Some((digest, len)));
    }

    #[test]
    fn footers_descriptors_and_records_come_back_as_they_were_written(
        n in any::<[u32; 8]>(),
        lens in vec((0_u64..1 << 43, 1_u32..=1 << 20, any::<u32>()), 0..40),
        parts in vec(any::<(u64, u64, u64)>(), 0..40),
    ) {
        let footer = Footer {
            segment: SegmentId(u64::from(n[0])),
            entry_count: u64::from(n[1]),
            min_seq: Seq(u64::from(n[2])),
            max_seq: Seq(u64::from(n[3])),
            data_start: n[3] ^ n[5],
            data_end: n[4],
            filter_at: n[5],
            filter_len: n[6],
            filter_checksum: u64::from(n[7]),
        };
        prop_assert_eq!(Footer::decode(&footer.encode(seed(), OFFSET), seed(), OFFSET), Some(footer));
        let chunks: Vec<Chunk> =
            lens.into_iter().map(|(offset, len, crc)| Chunk { offset, len, crc }).collect();
        let descriptor = BlobDescriptor { len: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(), chunks };
        let bytes = descriptor.encode();
        prop_assert_eq!(bytes.len(), BlobDescriptor::encoded_len(descriptor.chunks.len()));
        prop_assert_eq!(BlobDescriptor::decode(&bytes), Some(descriptor));
        let parts = parts
            .into_iter()
            .map(|(id, bytes, checksum)| PartsInSegment { segment: SegmentId(id), bytes, checksum })
            .collect();
        let record = CommitRecord { batch: BASE, parts };
        let mut bytes = record.encode();
        prop_assert_eq!(bytes.len(), CommitRecord::encoded_len(record.parts.len()));
        bytes.resize(bytes.len() + 40, 0);
        prop_assert_eq!(CommitRecord::decode(&bytes), Some(record));
    }
}

/// Checksums can be made to fit by whoever writes a hostile file; callers do arithmetic with what decoders let through.
#[test]
fn fields_that_no_store_can_have_written_are_refused() {
    let end = Seq::END;
    for (log, id) in [(64, ID.0), (255, ID.0), (0, 1 << 63), (0, u64::MAX)] {
        let forged = SegmentHeader { log: LogId(log), id: SegmentId(id), ..header() };
        assert_eq!(SegmentHeader::decode(&forged.encode(&UUID), &UUID, SegmentSlot(9)), None, "{forged:?}");
    }
    // Term, copy and device group are reserved.
    for reserved in [40, 50, 52] {
        let mut bytes = header().encode(&UUID);
        bytes[reserved] = 1;
        let sum = crate::checksum::hash64(u64_at(&bytes, 0), &bytes[..248]);
        put(&mut bytes, 248, &sum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes, &UUID, SegmentSlot(9)), None, "reserved byte {reserved}");
    }
    let next_id = digest().next_id.0;
    for (number, next_id) in [(u64::MAX, next_id), (1 << 63, next_id), (5, u64::MAX)] {
        let forged = Digest { number, next_id: SegmentId(next_id), ..digest() };
        assert_eq!(Digest::decode(&forged.encode(seed(), OFFSET), seed(), OFFSET), None, "{forged:?}");
    }
    for base in [end, Seq(u64::MAX)] {
        let mut builder = FrameBuilder::new(FrameKind::Ops);
        let bytes = builder.finish(seed(), OFFSET, base, 0);
        assert_eq!(FrameHeader::decode(bytes, seed(), OFFSET), None, "{base:?}");
        let moved = [OpSpec { moved: Some(base.0), ..put_op(b"key", b"value") }];
        let bytes = frame(FrameKind::Survivor, &moved);
        assert!(Op::decode(&bytes[FRAME_HEADER_BYTES..]).is_none(), "{base:?}");
        let forged = CommitRecord { batch: base, ..record() };
        assert_eq!(CommitRecord::decode(&forged.encode()), None, "{base:?}");
    }
    // A copy may be as old as the first stamp, and no older.
    for (age, stamp) in [(BASE.0, Some(Seq::ZERO)), (BASE.0 + 1, None), (end.0 - 1, None)] {
        let bytes = frame(FrameKind::Survivor, &[OpSpec { moved: Some(age), ..put_op(b"key", b"value") }]);
        let header = FrameHeader::decode(&bytes, seed(), OFFSET).unwrap();
        let op = Op::decode(&bytes[FRAME_HEADER_BYTES..]).unwrap();
        assert_eq!(op.seq(&header), stamp, "age {age:#x}");
    }
    // Flags of frames are reserved, too.
    for flags in [1, 0x80] {
        let mut bytes = frame(FrameKind::Ops, &[put_op(b"key", b"value")]);
        bytes[27] = flags;
        let crc = crate::checksum::crc32c(&bytes[8..28]) ^ seed().mask32(OFFSET);
        put(&mut bytes, 28, &crc.to_le_bytes());
        let sum = crate::checksum::hash64(seed().mask64(OFFSET), &bytes[8..]);
        put(&mut bytes, 0, &sum.to_le_bytes());
        assert_eq!(FrameHeader::decode(&bytes, seed(), OFFSET), None, "flags {flags:#x}");
        assert_eq!(FrameHeader::parse(&bytes), None, "flags {flags:#x}");
    }
    for max_seq in [end, Seq(u64::MAX)] {
        let footer = Footer {
            segment: ID,
            entry_count: 1,
            min_seq: Seq(64),
            max_seq,
            data_start: 512,
            data_end: 1024,
            filter_at: 1024,
            filter_len: 64,
            filter_checksum: 0,
        };
        assert_eq!(Footer::decode(&footer.encode(seed(), OFFSET), seed(), OFFSET), None, "{max_seq:?}");
    }
    for offset in [u64::MAX, u64::MAX - 100, POOL_BYTES_MAX, POOL_BYTES_MAX - 1] {
        let chunks = vec![Chunk { offset, len: 2, crc: 0 }];
        assert_eq!(BlobDescriptor::decode(&BlobDescriptor { len: 2, chunks }.encode()), None, "{offset}");
    }
    for field in 0..3 {
        let mut forged = superblock();
        *[&mut forged.sequence, &mut forged.segment_id_high_water, &mut forged.unsafe_shutdowns][field] =
            1 << 63;
        assert_eq!(decode_superblock(&forged.encode()), None, "{forged:?}");
    }
}

#[test]
fn feature_bits_of_later_formats_are_kept_or_refused() {
    let later = Superblock { compatible: 0x8000_0000_0000_0001, ..superblock() };
    assert_eq!(
        decode_superblock(&later.encode()),
        Some(later.clone()),
        "any library may ignore them, none drops them"
    );
    assert!(later.check_may_write().is_ok());
    let later = Superblock { incompatible: FEATURE_KEYSPACES, ..superblock() };
    assert_eq!(decode_superblock(&later.encode()), Some(later.clone()));
    assert!(later.check_may_write().is_ok());
    let later = Superblock { read_only_compatible: 1 << 40, ..superblock() };
    assert_eq!(decode_superblock(&later.encode()), Some(later.clone()));
    assert!(matches!(later.check_may_write(), Err(Error::Unsupported(_))));
    // Incompatible bits and other versions, under a checksum that fits.
    for (at, what) in [(32, "feature bits"), (8, "version")] {
        let mut bytes = superblock().encode();
        bytes[at] ^= 2;
        let sum = crate::checksum::hash64(0x666C_6174_6B76_7362, &bytes[..504]);
        put(&mut bytes, 504, &sum.to_le_bytes());
        match Superblock::decode(&bytes, 0) {
            Err(Error::Unsupported(message)) => assert!(message.contains(what), "{message}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn further_flags_and_keyspaces_that_nobody_writes_are_refused() {
    let keyspace = KeyspaceId(300);
    let bytes = frame(FrameKind::Ops, &[OpSpec { keyspace, ..put_op(b"key", b"value") }]);
    let op = &bytes[FRAME_HEADER_BYTES..];
    assert_eq!(op[..4], [0x51, 0x01, 0xAC, 0x02], "flags, further flags, keyspace");
    assert_eq!(Op::decode(op).map(|op| op.keyspace()), Some(keyspace));
    let refused = |at: usize, byte: u8, why: &str| {
        let mut changed = op.to_vec();
        changed[at] = byte;
        assert!(Op::decode(&changed).is_none(), "{why}");
    };
    refused(0, 0xD1, "a reserved flag");
    refused(1, 0x00, "no further flag");
    refused(1, 0x03, "a further flag of another version");
    refused(3, 0x00, "a keyspace that takes more bytes than it has to");
    refused(2, 0x00, "the default keyspace is never named");
    (1..4).for_each(|len| assert!(Op::decode(&op[..len]).is_none(), "cut after {len} bytes"));
}

#[test]
fn records_of_the_catalogue_come_back_and_nothing_else_is_one() {
    for is_dropped in [false, true] {
        for name in ["a".to_owned(), "\u{e4}".repeat(127), "n".repeat(255)] {
            let record = KeyspaceRecord { is_dropped, name };
            assert_eq!(KeyspaceRecord::decode(&record.encode()), Some(record));
        }
    }
    let record = KeyspaceRecord { is_dropped: false, name: "name".into() }.encode();
    for bit in 0..8 {
        let mut changed = record.clone();
        changed[0] ^= 1 << bit;
        assert_eq!(KeyspaceRecord::decode(&changed), None);
    }
    let long = [&record[..1], &[b'n'; 256]].concat();
    let not_text = [&record[..1], &[0xFF]].concat();
    let with_nul = [&record[..1], b"na\0me"].concat();
    for bytes in [&b""[..], &record[..1], &long, &not_text, &with_nul] {
        assert_eq!(KeyspaceRecord::decode(bytes), None);
    }
    assert_eq!(catalogue_id(&catalogue_key(KeyspaceId(2))), Some(KeyspaceId(2)));
    assert!(catalogue_key(KeyspaceId(2)) < catalogue_key(KeyspaceId(256)));
    for key in [
        &b""[..],
        b"abc",
        b"abcde",
        &catalogue_key(KeyspaceId::CATALOGUE),
        &catalogue_key(KeyspaceId::DEFAULT),
    ] {
        assert_eq!(catalogue_id(key), None);
    }
}
