//! How far the walk for older values goes at a time, and which tombstones it lets go of.

use super::*;
use crate::engine::Engine;
use crate::engine::WholeStore;
use crate::engine::cleaner::Aim;
use crate::index::hash::HashIndex;
use crate::options::WriteOptions;
use crate::sync::Arc;

fn key(number: u32) -> Vec<u8> {
    format!("{number:04}").into_bytes()
}

fn put(engine: &Engine<HashIndex>, number: u32) {
    engine.put(WholeStore, &WriteOptions::default(), &key(number), &[7; 200]).expect("room");
}

fn delete_all(engine: &Engine<HashIndex>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert!(
            engine.delete(WholeStore, &WriteOptions::default(), &key(number)).expect("room"),
            "it was there"
        );
    }
}

/// A pool that grows as it likes, and that nobody cleans yet.
fn fresh_engine() -> Arc<Engine<HashIndex>> {
    let engine = crate::testing::engine(512 << 10, false);
    engine.stop_cleaning();
    engine
}

/// A pool with nothing but values that were deleted.
fn full_of_deleted_values() -> Arc<Engine<HashIndex>> {
    let engine = fresh_engine();
    (0..250).for_each(|number| put(&engine, number));
    delete_all(&engine, 0..250);
    engine
}

/// It walked the whole log within a pass, and a write that waited for room waited for that.
#[test]
fn a_pass_walks_a_few_segments_and_the_next_one_goes_on() {
    let engine = full_of_deleted_values();
    let is_examining = || engine.cleaner.are_tombstones_examined();
    let tombstones = || engine.noted.count() + engine.cleaner.tombstones_kept();
    assert_eq!(tombstones(), 250);
    engine.clean(Aim::Tidy).expect("sound");
    assert!(is_examining(), "more is left to walk: {}", engine.stats());
    let mut passes = 1;
    while is_examining() {
        engine.clean(Aim::Tidy).expect("sound");
        passes += 1;
        assert!(passes < 10, "each pass walks some");
    }
    assert!(engine.tidy_up(|| false).is_some(), "nothing is left to do");
    assert_eq!(tombstones(), 0, "no value is left that keeps one");
    assert!((0..250).all(|number| engine.get(WholeStore, &key(number)).expect("sound").is_none()));
    engine.let_go();
}

/// They were in no counter until the walk was over, so whoever sampled it then found next to no tombstones.
#[test]
fn tombstones_that_are_being_examined_are_counted() {
    let engine = full_of_deleted_values();
    engine.clean(Aim::Tidy).expect("sound");
    assert!(engine.cleaner.are_tombstones_examined(), "more is left to walk: {}", engine.stats());
    assert_eq!(engine.noted.count() + engine.cleaner.tombstones_kept(), 250, "{}", engine.stats());
    engine.let_go();
}

/// A pool of nothing but what counts and tombstones that nobody looked at, so many of `deletes`.
fn full_of_what_counts(deletes: u32) -> Arc<Engine<HashIndex>> {
    let engine = crate::testing::engine(1 << 20, true);
    // Only this test cleans.
    engine.stop_cleaning();
    let mut puts = 0;
    while engine.oplog.rolls() < 75 {
        put(&engine, puts);
        puts += 1;
    }
    delete_all(&engine, 0..deletes);
    while engine.clean(Aim::Tidy).expect("sound").emptied > 0 {}
    assert_eq!(engine.noted.count(), u64::from(deletes), "too few for a walk beside something else");
    engine
}

/// One tombstone was enough for a walk of the whole log, so a full pool was read once for each put that it refused.
#[test]
fn a_write_that_is_refused_does_not_walk_the_log_for_a_few_tombstones() {
    let engine = full_of_what_counts(20);
    for _ in 0..30 {
        let pass = engine.clean(Aim::Space).expect("sound");
        assert!(!pass.is_walking, "{pass:?}");
    }
    assert!(!engine.cleaner.are_tombstones_examined() && engine.noted.count() == 20, "{}", engine.stats());
    engine.let_go();
}

/// It was one pass, which saw neither a stop nor a pause before it had walked all of the log, and freed nothing meanwhile.
#[test]
fn the_walk_that_a_write_waits_for_is_many_passes() {
    let engine = full_of_what_counts(80);
    let (mut passes, mut walks) = (0, 0);
    while engine.noted.count() > 0 || engine.cleaner.are_tombstones_examined() {
        engine.clean(Aim::Space).expect("sound");
        walks += u32::from(engine.cleaner.are_tombstones_examined());
        passes += 1;
        assert!(passes < 100, "the walk ends: {}", engine.stats());
    }
    assert!(walks > 1, "after {walks} passes there was more to walk");
    engine.let_go();
}

/// The place of a moved tombstone was noted with an older one of the same key, which was being examined. When nothing kept the
/// older one any more the newer one was forgotten, and after a crash the value that it deleted could come back.
#[test]
fn a_tombstone_that_is_moved_while_an_older_one_is_examined_keeps_its_value_dead() {
    let engine = fresh_engine();
    let options = WriteOptions::default();
    let put = |key: &[u8]| engine.put(WholeStore, &options, key, &[7; 200]).expect("room");
    let delete =
        |key: &[u8]| assert!(engine.delete(WholeStore, &options, key).expect("room"), "it was there");
    let fill = |kind: char, count: u32| (0..count).for_each(|i| put(format!("{kind}{i:04}").as_bytes()));
    let slot_of_tombstone = || {
        let (scratch, _guard) = (Scratch::new(), epoch::pin());
        let found = engine.find(&engine.default, engine.default.key(b"key"), &scratch).expect("sound");
        found.map(|(addr, _)| engine.space.geometry().slot_of_addr(addr)).expect("the tombstone is there")
    };
    let examine = || {
        let mut work = engine.cleaner.work.lock();
        engine.examine_tombstones(&mut work, Walk::AFew).expect("sound");
        work.tombstones.are_examined()
    };
    let empty = |slot| {
        let mut work = engine.cleaner.work.lock();
        assert_eq!(engine.empty_slice(&mut work, &[slot], Aim::Space).expect("sound"), 1);
        engine.roll_for_release(&mut work).expect("room");
        engine.release_settled(&mut work).expect("sound");
        assert_eq!(engine.space.table().slot(slot).state(), SlotState::Free);
    };
    // The first segment, which is walked last: the older tombstone and its value.
    put(b"key");
    delete(b"key");
    let first = slot_of_tombstone();
    fill('a', 300);
    (0..280).for_each(|i| delete(format!("a{i:04}").as_bytes()));
    assert!(examine(), "some segments are walked, the first one is not: {}", engine.stats());

    put(b"key");
    fill('b', 30);
    delete(b"key");
    let before = slot_of_tombstone();
    fill('c', 30);
    empty(before);
    assert!(slot_of_tombstone() != before && examine(), "it was moved, and the older one was not met yet");
    while examine() {}

    // The first segment goes, and with it all that kept the older tombstone. The newer one's value is still in the log.
    empty(first);
    slot_of_tombstone();
    engine.let_go();
}
