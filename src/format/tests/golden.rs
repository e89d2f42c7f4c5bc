//! Exact bytes of every structure for fixed inputs. The two checksum functions are pinned by published test values, so
//! that a golden checksum here cannot have been wrong from the start.

use super::*;
use crate::checksum::{crc32c, hash64};

#[test]
fn checksums_are_the_published_functions() {
    // RFC 3720, appendix B.4, and the check value of CRC-32C.
    assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    // XXH3_64bits of the empty input, from the reference implementation's tests.
    assert_eq!(hash64(0, b""), 0x2D06_8005_38D3_94C2);
}

#[test]
fn checksums_are_bound_to_their_place_by_these_masks() {
    assert_eq!(seed().0, 0x7CCE_85BF_03C9_E5D9);
    assert_eq!(seed().mask64(OFFSET), 0xDB19_0B20_EF9F_1FDB);
    assert_eq!(u64::from(seed().mask32(OFFSET)), seed().mask64(OFFSET) >> 32);
}

#[test]
fn superblock_bytes() {
    assert_golden(
        &superblock().encode(),
        "
        0000: 466c61744b56010a 0100000000020000
        0020: 0000000000000000 3031323334353637
        0030: 3839616263646566 8877665544332211
        0040: 0700000000000000 0020000000000000
        0050: 0010000000000000 0300000000000000
        0060: 0503020100000000 0000000000000000
        0090: 0000000000000000 0200000000000000
        00a0: 713ca5660f9dc35a 0000000000000000
        01f0: 0000000000000000 446ce40c7de45c55
        512 bytes",
    );
    let unclean = Superblock { clean: false, ..superblock() };
    assert_golden(
        &unclean.encode(),
        "
        0000: 466c61744b56010a 0100000000020000
        0020: 0000000000000000 3031323334353637
        0030: 3839616263646566 8877665544332211
        0040: 0700000000000000 0020000000000000
        0050: 0010000000000000 0300000000000000
        0060: 0503020100000000 0000000000000000
        0090: 0000000000000000 0200000000000000
        00a0: 8e3c5a99f09d3ca5 0000000000000000
        01f0: 0000000000000000 f2f26db05c7c3709
        512 bytes",
    );
}

/// Pools that were closed before this was recorded have 0 there.
#[test]
fn ends_of_closed_logs() {
    let heads = vec![(SegmentId(0x0102_0304_0506), 0x1000), (SegmentId(7), 0x0A40)];
    let mut sorted = heads.clone();
    sorted.reverse();
    assert_eq!(closed_ends(heads.clone()), closed_ends(sorted));
    assert_eq!(closed_ends(heads.clone()), 0xA757_93E7_DB0B_B2FF);
    assert_ne!(closed_ends(Vec::new()), 0);
    let closed = Superblock { closed_ends: closed_ends(heads), ..superblock() };
    assert_golden(
        &closed.encode(),
        "
        0000: 466c61744b56010a 0100000000020000
        0020: 0000000000000000 3031323334353637
        0030: 3839616263646566 8877665544332211
        0040: 0700000000000000 0020000000000000
        0050: 0010000000000000 0300000000000000
        0060: 0503020100000000 0000000000000000
        0090: 0000000000000000 0200000000000000
        00a0: 713ca5660f9dc35a ffb20bdbe79357a7
        01f0: 0000000000000000 29ed390743d092f3
        512 bytes",
    );
}

#[test]
fn holder_record_bytes() {
    let holder = HolderRecord {
        pid: 0x0102_0304,
        start_ticks: 0x1112_1314_1516_1718,
        opened_unix_s: 0x2122_2324_2526_2728,
        boot_id: *b"ABCDEFGHIJKLMNOP",
    };
    assert_golden(
        &holder.encode(),
        "
        0000: 466b76486f6c6472 0403020100000000
        0010: 1817161514131211 2827262524232221
        0020: 4142434445464748 494a4b4c4d4e4f50
        512 bytes",
    );
    assert_eq!(HolderRecord::decode(&holder.encode()), Some(holder));
}

#[test]
fn segment_header_bytes() {
    assert_golden(
        &header().encode(&UUID),
        "
        0000: 466b765365676d01 3031323334353637
        0010: 3839616263646566 0403020100000000
        0020: 0566554433221100 0000000000000000
        0030: 0501000000000000 0900000000000000
        00f0: 0000000000000000 fd629e75caf45283
        256 bytes",
    );
    let classes = [
        (SegmentClass::LogHead, 1),
        (SegmentClass::Survivor, 2),
        (SegmentClass::Extent, 3),
        (SegmentClass::Checkpoint, 4),
    ];
    for (class, number) in classes {
        let bytes = SegmentHeader { class, ..header() }.encode(&UUID);
        assert_eq!(bytes[49], number);
        assert_eq!(SegmentHeader::decode(&bytes, &UUID, SegmentSlot(9)).unwrap().class, class);
    }
}

#[test]
fn state_words() {
    let words = [
        (SegmentState::Free, 0x0F0F_0001_0203_04B8),
        (SegmentState::Open, 0x33CC_0001_0203_04BD),
        (SegmentState::Active, 0x5A69_0001_0203_0443),
        (SegmentState::Sealed, 0x9696_0001_0203_04D4),
        (SegmentState::Retired, 0xC3F0_0001_0203_042F),
    ];
    for (state, word) in words {
        let found = StateWord::new(state, ID).encode();
        assert_eq!(found, word, "{state:?}: found {found:#018x}");
        assert_eq!(StateWord::decode(found), Some(StateWord { state, id_bits: ID.0 }));
    }
    // The id counts modulo 2^40.
    assert_eq!(StateWord::new(SegmentState::Free, SegmentId(ID.0 | 1 << 40)).encode(), words[0].1);
}

#[test]
fn digest_bytes() {
    assert_golden(
        &digest().encode(seed(), OFFSET),
        "
        0000: f546ffb500b580eb 4467737401000000
        0010: 0c00000000000000 0c00000000000000
        0020: 0503020100000000 0300000080000000
        0040: 01838688081000b5 8e959a14d2a28508
        128 bytes",
    );
}

#[test]
fn a_digest_takes_no_more_than_its_slots_may_whatever_their_ids() {
    for slots in [0, 1, 106, 5_000] {
        let next_id = SegmentId(NUMBERS_END - 1);
        let entry =
            |slot| DigestEntry { slot: SegmentSlot(slot), id: SegmentId(u64::from(slot)), sealed: true };
        let listed = |step: u32| (0..slots).step_by(step as usize).map(entry).collect();
        for step in [1, 2, 64, 65, 1_000] {
            let digest = Digest { number: 1, next_id, live_entries: 0, entries: listed(step) };
            let bytes = digest.encode(seed(), OFFSET);
            // The last line of a digest may be filled up with zeros.
            let filled = bytes.len() as u64 - 64;
            assert!(Digest::slots_max(filled) <= u64::from(slots), "{slots} slots, one in {step} listed");
            assert_eq!(Digest::decode(&bytes, seed(), OFFSET), Some((digest, bytes.len() as u64)));
        }
    }
}

#[test]
fn frame_bytes() {
    let expected = [
        "
            0000: 0398e49493020067 0566554433221100
            0010: 8000000000060000 03000100c958e585
            0020: 110305baf5ea536b 657976616c756500
            0030: 03060400c46646ce 676f6e6500000000
            0040: 0208043084fa761d 626c6f6200021000
            0050: 0000000002000000 0000000000220000
            0060: 0000000000001000 c4c3c2c100022103
            0070: 0000000000020000 d4d3d2d100000000
            128 bytes",
        "
            0000: 363221a7d82aee21 0566554433221100
            0010: 4000000000060000 020002003cfaaec1
            0020: 110305baf5ea536b 657976616c756500
            0030: 03060400c46646ce 676f6e6500000000
            64 bytes",
        "
            0000: c77b30b3153e48b1 0566554433221100
            0010: 4000000000060000 0100030072eb2eb0
            0020: 110305baf5ea536b 657976616c756500
            64 bytes",
        "
            0000: cecae555e6d41ca7 0566554433221100
            0010: 8000000000060000 000004005b28efba
            0020: 0566554433221100 0200000000000000
            0030: 0700000000000000 000e000000000000
            0040: 0807060504030201 0403020100000000
            0050: 4000000000000000 ffffffffffffffff
            128 bytes",
        "
            0000: e47e0968f4e509ed 0566554433221100
            0010: 4000000000060000 00000500f810a404
            64 bytes",
        "
            0000: 521d310d4d6749b5 0566554433221100
            0010: 4000000000060000 0000060061b84330
            64 bytes",
        "
            0000: 7398907ffe8ffadc 0566554433221100
            0010: c000000000060000 03000700b7698d88
            0020: 318097f3eeeeffc3 08030528cbf6ea6b
            0030: 657976616c756500 2307000400ce0dc1
            0040: f7676f6e65000000 2209818101043012
            0050: 53bceb626c6f6200 0210000000000002
            0060: 0000000000000000 2200000000000000
            0070: 001000c4c3c2c100 0221030000000000
            0080: 020000d4d3d2d100 0000000000000000
            192 bytes",
    ];
    for (frame, expected) in frames().iter().zip(expected) {
        assert_golden(frame, expected);
    }
}

#[test]
fn an_operation_leads_back_to_its_frame_by_one_to_three_bytes() {
    let cases = [
        (
            0x48,
            "
            0000: 010903051544d118 6b657976616c7565
            24 bytes",
        ),
        (
            0x3F8,
            "
            0000: 017f030538da777e 6b657976616c7565
            24 bytes",
        ),
        (
            0x400,
            "
            0000: 01800103050a6219 bc6b657976616c75
            0010: 6500000000000000
            24 bytes",
        ),
        (
            0x1_FFF8,
            "
            0000: 01ff7f0305aece54 e76b657976616c75
            0010: 6500000000000000
            24 bytes",
        ),
        (
            0x2_0000,
            "
            0000: 01808001030557e8 ffa96b657976616c
            0010: 7565000000000000
            24 bytes",
        ),
    ];
    for (start, expected) in cases {
        // The longest first operation that lets the next one begin there.
        let filler = vec![0; start];
        let mut builder = FrameBuilder::new(FrameKind::Ops);
        for len in (0..start - FRAME_HEADER_BYTES).rev() {
            builder.reset(FrameKind::Ops);
            builder.push(&put_op(b"k", &filler[..len]));
            if builder.next_op_at() as usize <= start {
                break;
            }
        }
        let at = builder.push(&put_op(b"key", b"value"));
        assert_eq!(at as usize, start);
        let bytes = builder.finish(seed(), OFFSET, BASE, 0x600).to_vec();
        assert_golden(&bytes[start..][..24], expected);
        let (_, op) = Ops::new(&bytes, &FrameHeader::decode(&bytes, seed(), OFFSET).unwrap()).nth(1).unwrap();
        assert_eq!(op.distance_bytes(), start as u64);
        assert_eq!((op.key(), op.value()), (&b"key"[..], &b"value"[..]));
    }
}

#[test]
fn blob_descriptor_bytes() {
    assert_golden(
        &descriptor().encode(),
        "
        0000: 0002100000000000 0200000000000000
        0010: 0022000000000000 00001000c4c3c2c1
        0020: 0002210300000000 00020000d4d3d2d1
        48 bytes",
    );
    assert_eq!(Chunk::crc(b"123456789", seed(), OFFSET), 0xE306_9283 ^ seed().mask32(OFFSET));
}

#[test]
fn commit_record_bytes() {
    assert_golden(
        &record().encode(),
        "
        0000: 0566554433221100 0200000000000000
        0010: 0700000000000000 000e000000000000
        0020: 0807060504030201 0403020100000000
        0030: 4000000000000000 ffffffffffffffff
        64 bytes",
    );
}

#[test]
fn footer_bytes() {
    assert_golden(
        &footer().encode(seed(), OFFSET),
        "
        0000: 55c39b0690a5bf45 466f6f7400000000
        0010: 0403020100000000 0600000000000000
        0020: 4500000000000000 0566554433221100
        0030: 4006000080060000 4000000000000000
        0040: f8f7f6f5f4f3f2f1 0000000000000000
        128 bytes",
    );
}

#[test]
fn filter_bytes() {
    let hashes: Vec<u32> = (0..6).map(short_hash).collect();
    let filter = Filter::build(&hashes);
    assert_golden(
        filter.bytes(),
        "
        0000: 0401000000000008 0000008000500000
        0010: 0200000802000000 0400000000500000
        0020: 8000010000008000 0080040000000080
        0030: 0000100008000010 0000082000800000
        64 bytes",
    );
    assert_eq!(Filter::checksum(filter.bytes(), seed(), OFFSET), 0xE0F2_CA2E_7E80_8DA0);
    assert_eq!(Filter::short_hash(0x0123_4567_89AB_CDEF), 0x4567_89AB);
    let lens = [(0, 0), (1, 64), (64, 64), (65, 128), (1000, 1024)];
    lens.iter().for_each(|(entries, len)| assert_eq!(filter_len(*entries), *len, "{entries} entries"));
}

#[test]
fn numbers_of_kinds_are_never_reused() {
    let kinds = [
        (FrameKind::Ops, 1),
        (FrameKind::Batch, 2),
        (FrameKind::BatchPart, 3),
        (FrameKind::BatchCommit, 4),
        (FrameKind::Mark, 5),
        (FrameKind::Close, 6),
        (FrameKind::Survivor, 7),
    ];
    kinds.iter().for_each(|(kind, number)| assert_eq!(*kind as u8, *number));
    let ops = [(OpKind::Put, 1), (OpKind::PutBlob, 2), (OpKind::Delete, 3)];
    ops.iter().for_each(|(kind, number)| assert_eq!(*kind as u8, *number));
    assert_eq!(FORMAT_VERSION, 1);
}
