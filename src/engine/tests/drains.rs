//! The cleaner drains a log while its writers go on.

use super::*;
use crate::engine::WholeStore;
use crate::index::hash::HashIndex;
use crate::media::sim::{Level, SimKind, SimMedia};
use crate::options::{Durability, WriteOptions};
use crate::sync::Arc;

const CAPACITY_BYTES: u64 = 1 << 20;
const IMAGES: u64 = 64;
/// What fills a head.
const ROLL: u32 = 40;

/// What a writer does while the cleaner drains its log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    Os,
    Sync,
    SyncThenOs,
    Roll,
    AnotherDrain,
}

fn put(engine: &Engine<HashIndex>, key: u32, durability: Durability) {
    let options = WriteOptions::new().durability(durability);
    engine.put(WholeStore, &options, &key.to_ne_bytes(), &[key as u8; 300]).expect("room");
}

/// A power cut now leaves the first keys, whatever else it loses.
fn assert_durable(media: &SimMedia, keys: u32, when: &str) {
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    for image in replay.images(Level::A, IMAGES, 1) {
        let store =
            crate::testing::open_on(Arc::new(SimMedia::from_crash(&image)), crate::testing::options())
                .unwrap_or_else(|error| panic!("{when}: {error}"));
        for key in 0..keys {
            let found = store.get(&key.to_ne_bytes()).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(found, Some(vec![key as u8; 300]), "{when}: key {key}");
        }
        crate::testing::kill(&store);
    }
}

#[test]
fn what_writers_do_while_the_cleaner_drains_is_as_durable_as_they_were_told() {
    use Meanwhile::*;
    for kind in [SimKind::Pm, SimKind::File] {
        for meanwhile in [Nothing, Os, Sync, SyncThenOs, Roll, AnotherDrain] {
            let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
            let options = crate::testing::options().segment_size_bytes(8192);
            let engine = crate::testing::engine_on(Arc::clone(&media), options);
            let (log, when) = (&engine.oplog, format!("{kind:?}, {meanwhile:?}"));
            put(&engine, 0, Durability::Os);
            let begun = log.begin_drain(&mut log.lock(0)).expect("sound").expect("it was left in caches");
            let mut keys = 1;
            let mut write = |durability| {
                put(&engine, keys, durability);
                keys += 1;
            };
            match meanwhile {
                Nothing => {}
                Os => write(Durability::Os),
                Sync => write(Durability::Sync),
                SyncThenOs => [Durability::Sync, Durability::Os].into_iter().for_each(write),
                Roll => (0..ROLL).for_each(|_| write(Durability::Os)),
                AnotherDrain => {
                    write(Durability::Os);
                    log.drain_beside_writers(0).expect("the medium works");
                }
            }
            if matches!(meanwhile, Sync | SyncThenOs | AnotherDrain) {
                assert_durable(&media, 2, &format!("{when}, before the drain"));
            }
            log.write_back(&begun).expect("the medium works");
            log.end_drain(&mut log.lock(0), &begun);
            assert_durable(&media, 1, &format!("{when}, after the drain"));
            let is_left = matches!(meanwhile, Os | SyncThenOs | Roll);
            assert_eq!(log.lock(0).is_dirty(), is_left, "{when}");
            engine.sync().expect("the medium works");
            assert_durable(&media, keys, &format!("{when}, after a sync"));
            engine.let_go();
        }
    }
}
