//! When what was emptied becomes free.

use super::*;
use crate::format::HolderRecord;
use crate::index::hash::HashIndex;
use crate::media::sim::{SimKind, SimMedia};
use crate::options::WriteOptions;

/// Digests that a pass over many victims writes.
fn digests_of_a_pass(engine: &Engine<HashIndex>) -> u64 {
    for number in 0..160_u32 {
        let key = (number % 8).to_ne_bytes();
        engine.put(&WriteOptions::default(), &key, &[7; 200]).expect("room");
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
    let media = Arc::new(SimMedia::new(SimKind::Pm, 4 << 20));
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let mut options = crate::testing::options();
    options.background = true;
    let engine = Engine::open(media, true, options, &holder, HashIndex::with_expected).expect("a fresh pool");
    // Only this test cleans.
    engine.stop_cleaning();
    assert_eq!(digests_of_a_pass(&engine), 1, "nobody waits: one at the end");
    engine.cleaner_thread.pretend_waiter();
    assert!(digests_of_a_pass(&engine) > 1, "more than the one at the end");
    engine.let_go();
}
