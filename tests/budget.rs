//! What an operation costs the medium: drains, and bytes of the log. The numbers are promises of the documentation.
#![cfg(feature = "sim")]

use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{self, Site};
use flatkv::{Durability, Options, Store, WriteBatch, WriteOptions};
use std::sync::Arc;

const KINDS: [SimKind; 2] = [SimKind::Pm, SimKind::File];

fn open(kind: SimKind) -> (Arc<SimMedia>, Store) {
    let media = Arc::new(SimMedia::new(kind, 16 << 20));
    let mut options: Options = testing::options().segment_size_bytes(256 << 10);
    options = options.inline_value_bytes_max(4096);
    let store = testing::open_on(media.clone(), options).unwrap();
    // The first operation finds everything in place.
    store.put(b"first", b"1").unwrap();
    store.put(b"blob", &[1; 5000]).unwrap();
    media.take_counters();
    (media, store)
}

/// Drains that `f` costs, and bytes that it writes.
fn cost(media: &SimMedia, f: impl FnOnce()) -> (u64, u64) {
    media.take_counters();
    f();
    let counters = media.take_counters();
    (counters.drains, counters.bytes_written)
}

#[test]
fn a_small_put_costs_one_drain() {
    for kind in KINDS {
        let (media, store) = open(kind);
        for i in 0..100_u64 {
            let drains = cost(&media, || store.put(&i.to_ne_bytes(), b"01234567").unwrap()).0;
            assert_eq!(drains, 1, "{kind:?}: a new key");
            let drains = cost(&media, || store.put(&i.to_ne_bytes(), b"76543210").unwrap()).0;
            assert_eq!(drains, 1, "{kind:?}: an overwrite");
        }
        assert_eq!(
            cost(&media, || drop(store.put(b"k", &[1; 4096]))).0,
            1,
            "{kind:?}: the longest inline value"
        );
    }
}

#[test]
fn the_drain_of_a_put_is_the_one_of_its_frame() {
    for kind in KINDS {
        let (media, store) = open(kind);
        store.put(b"k", b"v").unwrap();
        assert_eq!(media.counters().drains_at(Site::FrameDrain), 1);
    }
}

#[test]
fn a_blob_put_costs_two_drains() {
    for kind in KINDS {
        let (media, store) = open(kind);
        for len in [4097, 20_000] {
            assert_eq!(
                cost(&media, || store.put(b"blob", &vec![2; len]).unwrap()).0,
                2,
                "{kind:?}: {len} bytes"
            );
        }
    }
}

#[test]
fn a_batch_costs_one_drain_and_one_more_if_it_has_blobs() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let mut batch = WriteBatch::new();
        for i in 0..100_u64 {
            batch.put(&i.to_ne_bytes(), b"value").unwrap();
        }
        batch.delete(b"first").unwrap();
        assert_eq!(cost(&media, || store.write(&batch).unwrap()).0, 1, "{kind:?}");
        for i in 0..5_u8 {
            batch.put(&[b'b', i], &[i; 6000]).unwrap();
        }
        assert_eq!(cost(&media, || store.write(&batch).unwrap()).0, 2, "{kind:?}: with blobs");
        assert_eq!(cost(&media, || store.write(&WriteBatch::new()).unwrap()).0, 0, "{kind:?}: empty");
    }
}

#[test]
fn a_delete_costs_one_drain_and_none_if_there_is_nothing() {
    for kind in KINDS {
        let (media, store) = open(kind);
        assert_eq!(
            cost(&media, || assert!(store.delete(b"first").unwrap())),
            (1, frame_bytes(kind)),
            "{kind:?}"
        );
        assert_eq!(cost(&media, || assert!(!store.delete(b"first").unwrap())), (0, 0), "{kind:?}");
    }
}

#[test]
fn os_writes_cost_no_drain_and_a_sync_one_for_all_of_them() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let os = WriteOptions::new().durability(Durability::Os);
        let drains = cost(&media, || {
            for i in 0..50_u64 {
                store.put_with(&os, &i.to_ne_bytes(), b"value").unwrap();
            }
            store.delete_with(&os, b"first").unwrap();
        });
        assert_eq!(drains.0, 0, "{kind:?}");
        assert_eq!(cost(&media, || store.sync().unwrap()).0, 1, "{kind:?}");
        assert_eq!(cost(&media, || store.sync().unwrap()).0, 0, "{kind:?}: everything is durable already");
    }
}

#[test]
fn asynchronous_writes_share_one_drain() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let drains = cost(&media, || {
            let tickets: Vec<_> =
                (0..100_u64).map(|i| store.put_async(&i.to_ne_bytes(), b"v").unwrap()).collect();
            store.wait(*tickets.last().unwrap()).unwrap();
        });
        assert_eq!(drains.0, 1, "{kind:?}");
    }
}

/// A writer that found its log free drained for those who waited, and then once more for itself.
#[test]
fn a_put_shares_the_drain_of_what_is_staged_before_it() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let mut batch = WriteBatch::new();
        batch.put(b"of a batch", b"v").unwrap();
        let drains = cost(&media, || {
            store.put_async(b"staged", b"v").unwrap();
            store.put(b"behind it", b"v").unwrap();
        });
        assert_eq!(drains.0, 1, "{kind:?}");
        let drains = cost(&media, || {
            store.put_async(b"staged", b"v").unwrap();
            store.write(&batch).unwrap();
        });
        assert_eq!(drains.0, 1, "{kind:?}");
    }
}

#[test]
fn reads_cost_nothing() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let spent = cost(&media, || {
            store.get(b"first").unwrap().unwrap();
            store.get(b"blob").unwrap().unwrap();
            store.get(b"absent").unwrap();
            store.exists(b"first").unwrap();
            store.get_pinned(b"blob").unwrap().unwrap();
            store.get_into(b"first", &mut [0; 8]).unwrap();
            store.multi_get(&[b"first", b"blob", b"absent"]);
            store.stats_json();
            store.health().unwrap();
        });
        assert_eq!(spent, (0, 0), "{kind:?}");
    }
}

/// Bytes of the smallest frame: a cache line, or a sector so that no flush rewrites acknowledged bytes.
fn frame_bytes(kind: SimKind) -> u64 {
    match kind {
        SimKind::Pm => 64,
        SimKind::File => 512,
    }
}

#[test]
fn a_lone_put_of_eight_and_eight_bytes_is_one_line_of_the_log() {
    for kind in KINDS {
        let (media, store) = open(kind);
        for i in 0..100_u64 {
            let bytes = cost(&media, || store.put(&i.to_ne_bytes(), b"01234567").unwrap()).1;
            assert_eq!(bytes, frame_bytes(kind), "{kind:?}");
        }
    }
}

#[test]
fn sixteen_puts_in_one_frame_take_448_bytes() {
    let (media, store) = open(SimKind::Pm);
    let mut batch = WriteBatch::new();
    for i in 0..16_u64 {
        batch.put(&i.to_ne_bytes(), b"01234567").unwrap();
    }
    assert!(cost(&media, || store.write(&batch).unwrap()).1 <= 448);
}

/// A roll costs its fixed number of drains, and happens once per segment.
#[test]
fn rolls_cost_five_drains_at_most() {
    for kind in KINDS {
        let (media, store) = open(kind);
        let mut dear = 0;
        for i in 0..3000_u64 {
            let drains = cost(&media, || store.put(&i.to_ne_bytes(), &[1; 300]).unwrap()).0;
            assert!(drains <= 6, "{kind:?}: {drains} drains");
            dear += u64::from(drains > 1);
        }
        let rolls: serde_json::Value = serde_json::from_str(&store.stats_json()).unwrap();
        assert_eq!(rolls["rolls"], dear, "{kind:?}: only a roll costs more than one drain");
    }
}
