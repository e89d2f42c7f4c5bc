//! When what was emptied becomes free.

use super::*;
use crate::engine::WholeStore;
use crate::index::hash::HashIndex;
use crate::options::WriteOptions;

/// Digests that a pass over many victims writes.
fn digests_of_a_pass(engine: &Engine<HashIndex>) -> u64 {
    for number in 0..160_u32 {
        let key = (number % 8).to_ne_bytes();
        engine.put(WholeStore, &WriteOptions::default(), &key, &[7; 200]).expect("room");
    }
    let before = engine.oplog.ruling_digest();
    let pass = engine.clean(Aim::Anything).expect("sound");
    assert!(pass.emptied > 8, "{} segments emptied", pass.emptied);
    engine.oplog.ruling_digest() - before
}

/// It waited for the end of the pass under way, and if that one let the next roll of a writer free its victims, for
/// another pass: twice as long as need be.
#[test]
fn a_write_that_waits_is_let_go_in_the_middle_of_a_pass() {
    let engine = crate::testing::engine(4 << 20, true);
    // Only this test cleans.
    engine.stop_cleaning();
    assert_eq!(digests_of_a_pass(&engine), 1, "nobody waits: one at the end");
    engine.cleaner_thread.pretend_waiter();
    assert!(digests_of_a_pass(&engine) > 1, "more than the one at the end");
    engine.let_go();
}

/// Nobody helped the grace period of what the waiting thread itself had made dead, so it waited until it timed out.
#[test]
fn extents_that_nobody_reads_come_free_while_a_write_waits() {
    let engine = crate::testing::engine(512 << 10, true);
    let options = WriteOptions::default();
    engine.put(WholeStore, &options, b"large", &[7; 3000]).expect("room");
    assert!(engine.delete(WholeStore, &options, b"large").expect("room"), "it was there");
    assert!(engine.extents.usage().retired_bytes > 0, "the delete is not a grace period ago");
    // As the cleaner's thread looks while a write waits.
    assert_eq!(engine.settle_releases().expect("sound"), WaitsFor::Nothing);
    assert_eq!(engine.extents.usage().retired_bytes, 0);
    engine.let_go();
}

/// What a pin held counted as what comes free in a moment: each write that found no room waited for as long as it may, and
/// extents were not moved together for it.
#[test]
fn what_a_pin_holds_is_not_waited_for() {
    let engine = crate::testing::engine(512 << 10, true);
    engine.stop_cleaning();
    let options = WriteOptions::default();
    for key in [b"one", b"two"] {
        engine.put(WholeStore, &options, key, &[7; 3000]).expect("room");
    }
    let pin = engine.get_pinned(WholeStore, b"one").expect("sound").expect("it was put");
    assert!(pin.is_zero_copy());
    for key in [b"one", b"two"] {
        assert!(engine.delete(WholeStore, &options, key).expect("room"), "it was there");
    }
    // The other value's extent may lie in the pinned segment, too; after a grace period none is to come.
    assert_eq!(engine.settle_releases().expect("sound"), WaitsFor::Pins);
    assert!(engine.extents.usage().retired_bytes >= 3000, "{}", engine.stats());
    assert_eq!(engine.retired_bytes_to_come(), 0);
    drop(pin);
    assert_eq!(engine.settle_releases().expect("sound"), WaitsFor::Nothing);
    assert_eq!(engine.extents.usage().retired_bytes, 0);
    engine.let_go();
}
