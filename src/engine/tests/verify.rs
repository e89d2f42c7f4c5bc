//! What only the store can get wrong: who owns a slot, and what is reserved.

use crate::engine::WholeStore;
use crate::space::Purpose;

fn findings(engine: &crate::engine::Engine<crate::index::hash::HashIndex>) -> Vec<&'static str> {
    let report = engine.verify().expect("open");
    assert!(report.is_quiet, "nobody else is here: {}", engine.stats());
    report.findings.iter().map(|finding| finding.what).collect()
}

/// Free slots were counted by the table alone, and the test of that compared the count with itself: a slot that nobody gave
/// back was free for ever, and nobody could take it.
#[test]
fn a_slot_that_was_taken_and_never_used_is_found() {
    let engine = crate::testing::engine(512 << 10, false);
    engine.put(WholeStore, &Default::default(), b"key", &[7; 200]).expect("room");
    assert_eq!(findings(&engine), [""; 0]);
    let free_bytes = || engine.stats()["free_bytes"].as_u64().expect("a number");
    let before = free_bytes();
    let slot = engine.space.take_slot(Purpose::Internal).expect("room");
    assert_eq!(findings(&engine), ["slot that is either free or in use"]);
    assert_ne!(free_bytes(), before, "nobody can take it");
    engine.space.return_slot(slot);
    assert_eq!(findings(&engine), [""; 0]);
    assert_eq!(free_bytes(), before);
}

/// What is reserved was only ever compared with what is free.
#[test]
fn a_reserve_for_heads_that_are_not_there_is_found() {
    let engine = crate::testing::engine(512 << 10, false);
    engine.put(WholeStore, &Default::default(), b"key", &[7; 200]).expect("room");
    engine.space.add_backed_heads(1);
    assert_eq!(findings(&engine), ["heads that slots are reserved for"]);
    engine.space.remove_backed_head();
    assert_eq!(findings(&engine), [""; 0]);
}
