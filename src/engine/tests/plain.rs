//! Which puts go the short way, and that the others find the general one.

use super::*;
use crate::engine::commit::Written;
use crate::epoch;
use crate::format::PlainPut;
use crate::index::Index;
use crate::media::sim::Level;

const SHORT: &[u8] = &[7; 64];

/// True if what was written since the last call used the memory of the general way.
fn went_the_general_way(engine: &Engine<HashIndex>) -> bool {
    (0..2).any(|log| engine.oplog.lock(log).scratch.take().is_some())
}

fn put(engine: &Engine<HashIndex>, options: &WriteOptions, key: &[u8], value: &[u8]) -> bool {
    engine.put(WholeStore, options, key, value).expect("room");
    assert_eq!(engine.get(WholeStore, key).expect("it is sound"), Some(value.to_vec()));
    went_the_general_way(engine)
}

fn dead_bytes(engine: &Engine<HashIndex>) -> u64 {
    engine.stats()["dead_bytes"].as_u64().expect("a number")
}

#[test]
fn short_durable_puts_of_the_default_keyspace_go_the_short_way_and_no_others() {
    let engine = engine_with_two_logs();
    let sync = WriteOptions::new();
    put(&engine, &sync, b"key", SHORT);
    assert!(!put(&engine, &sync, b"key", SHORT), "an overwrite");
    assert!(!put(&engine, &sync, b"other", b""), "an insert, of nothing");
    assert!(!put(&engine, &sync, &[1; 127], &[1; 127]));
    assert!(put(&engine, &sync, &[1; 128], SHORT), "a long key");
    assert!(put(&engine, &sync, b"key", &[1; 128]), "a long value");
    let left = WriteOptions::new().durability(Durability::Os);
    assert!(put(&engine, &left, b"key", SHORT), "left in caches");
    assert!(put(&engine, &sync, b"key", SHORT), "behind what was left in caches");
    assert!(!put(&engine, &sync, b"key", SHORT));
    let ticket = engine.put_async(WholeStore, b"key", SHORT).expect("room");
    put(&engine, &sync, b"other", SHORT);
    assert!(engine.durable_ticket() >= ticket, "what was staged before goes with it");
    assert!(!put(&engine, &sync, b"other", SHORT));
}

#[test]
fn a_short_put_makes_durable_what_os_writes_left_before_it() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = engine_on(Arc::clone(&media));
    put(&engine, &WriteOptions::new(), b"first", SHORT);
    put(&engine, &WriteOptions::new().durability(Durability::Os), b"left", SHORT);
    put(&engine, &WriteOptions::new(), b"last", SHORT);
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    for image in replay.images(Level::A, 64, 1) {
        let store =
            testing::open_on(Arc::new(SimMedia::from_crash(&image)), testing::options()).expect("a pool");
        for key in [&b"first"[..], b"left", b"last"] {
            assert_eq!(store.get(key).expect("it is sound"), Some(SHORT.to_vec()), "{key:?}");
        }
        testing::kill(&store);
    }
}

#[test]
fn each_short_overwrite_counts_the_entry_that_it_replaced_as_dead() {
    let engine = engine_with_two_logs();
    let (sync, entry) = (WriteOptions::new(), 80);
    put(&engine, &sync, b"key", SHORT);
    for overwrites in 1..5 {
        assert!(!put(&engine, &sync, b"key", SHORT));
        assert_eq!(dead_bytes(&engine), overwrites * entry);
    }
    assert!(engine.delete(WholeStore, &sync, b"key").expect("room"));
    let before = (dead_bytes(&engine), engine.stats()["tombstone_bytes"].as_u64());
    assert!(before.1 > Some(0));
    put(&engine, &sync, b"key", SHORT);
    assert_eq!(engine.stats()["tombstone_bytes"].as_u64(), Some(0), "it replaced the tombstone");
    assert!(dead_bytes(&engine) > before.0);
}

/// Two keys that the index cannot tell apart without the log.
fn keys_with_one_tag(engine: &Engine<HashIndex>) -> ([u8; 4], [u8; 4]) {
    let mut seen = std::collections::HashMap::new();
    for number in 0_u32.. {
        let bytes = number.to_le_bytes();
        let hash = engine.default.key(&bytes).hash;
        if let Some(other) = seen.insert((hash >> 48, hash % 32), bytes) {
            return (other, bytes);
        }
    }
    unreachable!("there are fewer tags than keys")
}

#[test]
fn a_short_put_that_sees_an_entry_of_another_key_replaces_its_own() {
    let engine = engine_with_two_logs();
    let sync = WriteOptions::new();
    let (one, other) = keys_with_one_tag(&engine);
    put(&engine, &sync, &one, b"one");
    for round in 0..4_u8 {
        put(&engine, &sync, &other, &[round; 9]);
        assert_eq!(engine.get(WholeStore, &one).expect("it is sound"), Some(b"one".to_vec()));
        assert_eq!(engine.default.index.len(), 2);
    }
    assert!(engine.verify().expect("it can be read").is_ok());
}

#[test]
fn a_short_put_beside_a_snapshot_keeps_the_entry_that_the_snapshot_shows() {
    let engine = engine_with_two_logs();
    let sync = WriteOptions::new();
    put(&engine, &sync, b"key", b"before");
    let snapshot = engine.snapshot(WholeStore).expect("it is open");
    assert!(!put(&engine, &sync, b"key", b"behind"), "nothing about it takes another way");
    assert_eq!(engine.kept_versions().versions, 1);
    assert!(!put(&engine, &sync, b"key", b"again"), "only its publication is the general one");
    assert!(!put(&engine, &sync, b"new", b"behind"), "there is nothing to keep");
    assert_eq!(engine.kept_versions().versions, 1);
    assert_eq!(snapshot.get(b"key").expect("it is sound"), Some(b"before".to_vec()));
    assert_eq!(snapshot.get(b"new").expect("it is sound"), None);
    drop(snapshot);
    assert_eq!(engine.kept_versions().versions, 0);
}

/// Between the look of a short put and its publication another one may come, and a point above that: what the look found is no
/// version of that point.
#[test]
fn an_entry_that_was_replaced_since_it_was_seen_is_not_kept_as_the_newest_at_a_point() {
    for is_followed in [false, true] {
        let engine = engine_with_two_logs();
        let sync = WriteOptions::new();
        put(&engine, &sync, b"first", b"of its log");
        // In a segment to which nothing comes any more.
        on_the_other_log(|| {
            put(&engine, &sync, b"key", b"seen");
            (0..100).for_each(|_| _ = put(&engine, &sync, b"filler", SHORT));
        });
        let (guard, entries) = (epoch::pin(), engine.reader.mapped().expect("a mapping"));
        let (space, key) = (&engine.default, engine.default.key(b"key"));
        let looked = engine.look_to_put(space, key, &entries, &guard);
        on_the_other_log(|| _ = put(&engine, &sync, b"key", b"between"));
        let snapshot = engine.snapshot(WholeStore).expect("it is open");
        if is_followed {
            // Now the stamp of what came between has to be looked for.
            on_the_other_log(|| _ = put(&engine, &sync, b"other", b"behind"));
        }
        let _section = epoch::write_section(engine.fork_generation);
        let (mut frame, hash) = (PlainPut::blank(), Filter::short_hash(key.hash));
        frame.encode(key.bytes, b"behind");
        let lane = engine.committer.plain_lane().expect("nothing is staged");
        let mut log = engine.committer.lock_plain(lane).expect("nobody writes");
        let placed = engine.oplog.append_plain(&mut log, &mut frame, hash, looked.above);
        let placed = placed.expect("it is plain").expect("the medium is sound");
        drop(log);
        let written = placed.map(|placed| Written::at(&placed, PlainPut::OP_AT, false));
        engine.publish_plain((space, key), (&looked, &entries), written.into(), &guard);
        assert_eq!(engine.get(WholeStore, b"key").expect("it is sound"), Some(b"behind".to_vec()));
        assert_eq!(snapshot.get(b"key").expect("it is sound"), Some(b"between".to_vec()));
    }
}

#[test]
fn short_puts_in_two_logs_replace_each_other_whatever_their_logs_count() {
    let engine = engine_with_two_logs();
    let sync = WriteOptions::new();
    let value = |round: u8, turn: u8| vec![round * 2 + turn; 40];
    for round in 0..20 {
        // The log of this thread gets ahead.
        (0..5).for_each(|_| {
            put(&engine, &sync, b"mine", SHORT);
        });
        put(&engine, &sync, b"key", &value(round, 0));
        on_the_other_log(|| {
            put(&engine, &sync, b"key", &value(round, 1));
        });
        assert_eq!(engine.get(WholeStore, b"key").expect("it is sound"), Some(value(round, 1)));
    }
}
