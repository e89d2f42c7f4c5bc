//! How far the walk for older values goes at a time.

use crate::engine::cleaner::Aim;
use crate::options::WriteOptions;

/// It walked the whole log within a pass, and a write that waited for room waited for that.
#[test]
fn a_pass_walks_a_few_segments_and_the_next_one_goes_on() {
    let engine = crate::testing::engine(512 << 10, false);
    // The pool grows as it likes, and nobody cleans yet.
    engine.stop_cleaning();
    let options = WriteOptions::default();
    let key = |number: u32| format!("{number:04}").into_bytes();
    (0..250).for_each(|number| engine.put(&options, &key(number), &[7; 200]).expect("room"));
    for number in 0..250 {
        assert!(engine.delete(&options, &key(number)).expect("room"), "it was there");
    }
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
    assert!((0..250).all(|number| engine.get(&key(number)).expect("sound").is_none()));
    engine.let_go();
}

/// They were in no counter until the walk was over, so whoever sampled it then found next to no tombstones.
#[test]
fn tombstones_that_are_being_examined_are_counted() {
    let engine = crate::testing::engine(512 << 10, false);
    engine.stop_cleaning();
    let options = WriteOptions::default();
    let key = |number: u32| format!("{number:04}").into_bytes();
    (0..250).for_each(|number| engine.put(&options, &key(number), &[7; 200]).expect("room"));
    for number in 0..250 {
        assert!(engine.delete(&options, &key(number)).expect("room"), "it was there");
    }
    engine.clean(Aim::Tidy).expect("sound");
    assert!(engine.cleaner.are_tombstones_examined(), "more is left to walk: {}", engine.stats());
    assert_eq!(engine.noted.count() + engine.cleaner.tombstones_kept(), 250, "{}", engine.stats());
    engine.let_go();
}
