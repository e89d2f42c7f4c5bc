//! How rounds of the cleaner's thread end.

use super::*;
use crate::engine::WholeStore;
use crate::epoch;
use crate::index::hash::HashIndex;
use crate::media::sim::{SimKind, SimMedia};
use crate::options::WriteOptions;

const SEGMENT: u64 = 16 << 10;
/// Two of them fill most of a segment.
const LARGE: [u8; 6000] = [7; 6000];
const VALUES: u32 = 12;

/// A pool whose large values leave half of their segments to holes. Only the test cleans it.
fn pool_with_holes() -> Arc<Engine<HashIndex>> {
    let mut options = crate::testing::options().segment_size_bytes(SEGMENT);
    options.background = true;
    let engine = crate::testing::engine_on(Arc::new(SimMedia::new(SimKind::Pm, 8 << 20)), options);
    engine.stop_cleaning();
    let (key, options) = (u32::to_ne_bytes, WriteOptions::default());
    (0..VALUES).for_each(|number| engine.put(WholeStore, &options, &key(number), &LARGE).expect("room"));
    for number in (0..VALUES).step_by(2) {
        assert!(engine.delete(WholeStore, &options, &key(number)).expect("room"), "it was there");
    }
    while engine.extents.usage().retired_bytes > 0 {
        engine.settle_releases().expect("sound");
    }
    engine
}

/// What is waited for was looked at before the pass, so a write was refused although readers held what the pass had moved
/// for it.
#[test]
fn a_round_that_moved_what_readers_still_see_was_not_in_vain() {
    let engine = pool_with_holes();
    // As if a write waited for what lies in the holes.
    engine.cleaner.stranded.fetch_add(1, crate::sync::Ordering::Relaxed);
    let shared = Shared::default();
    shared.wanted.lock().waiting = 1;
    let in_use = engine.extents.usage().segment_bytes;
    let reader = epoch::pin();
    assert_eq!(engine.clean_while_scarce(&shared), Round::Later, "{}", engine.stats());
    assert!(engine.extents.usage().retired_bytes > 0, "values were moved: {}", engine.stats());
    drop(reader);
    while engine.clean_while_scarce(&shared) != Round::InVain {}
    assert!(engine.extents.usage().segment_bytes < in_use, "{}", engine.stats());
    engine.let_go();
}

/// A write that cannot be had was told to wait as long as somebody else's values came free, and timed out.
#[test]
fn a_round_that_moved_nothing_was_in_vain_whatever_others_retire() {
    let engine = pool_with_holes();
    let shared = Shared::default();
    shared.wanted.lock().waiting = 1;
    while engine.clean_while_scarce(&shared) != Round::InVain {}
    let reader = epoch::pin();
    // Retired while the pass is at work, as far as the round can tell: behind its look at what comes free.
    engine.put(WholeStore, &WriteOptions::default(), &u32::to_ne_bytes(1), &LARGE).expect("room");
    assert!(engine.retired_bytes_to_come() > 0, "{}", engine.stats());
    let pass = engine.clean(Aim::Space).expect("sound");
    assert_eq!(pass.emptied, 0, "{}", engine.stats());
    assert!(!engine.left_to_readers(pass), "nothing was moved: {}", engine.stats());
    drop(reader);
    engine.let_go();
}
