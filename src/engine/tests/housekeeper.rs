//! When the background thread sleeps, and what it must not sleep through.

use super::*;
use crate::engine::WholeStore;
use crate::engine::commit::Terms;
use crate::format::{Filter, OpKind, OpSpec};
use crate::media::sim::{SimKind, SimMedia};
use crate::oplog::append::WriteMode;
use crate::options::{Durability, WriteOptions};
use crate::space::Purpose;
use crate::types::{KeyspaceId, Seq};

fn wait_until(is_so: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() && started.elapsed() < 4 * SLEEP_MAX {
        std::thread::sleep(Duration::from_millis(1));
    }
    started.elapsed()
}

#[test]
fn the_thread_says_that_it_sleeps_a_round_before_it_does() {
    assert_eq!(rest_after(IDLE_ROUNDS - 1), (false, ROUND));
    assert_eq!(rest_after(IDLE_ROUNDS), (true, ROUND));
    assert_eq!(rest_after(IDLE_ROUNDS + 1), (true, SLEEP_MAX));
}

/// A write that did not see the thread asleep, though it was on its way there, had its mark only after the sleep.
#[test]
fn a_write_that_meets_the_thread_on_its_way_to_sleep_is_marked_in_time() {
    let engine = crate::testing::engine(1 << 20, true);
    let is_asleep = || engine.housekeeper.shared.calls.load(Ordering::Relaxed) & ASLEEP != 0;
    // A busy machine may let this thread miss the round: once in a few is enough, and without it there is none.
    let was_in_time = (0..5).any(|_| {
        engine.put(WholeStore, &WriteOptions::default(), b"key", b"value").expect("room");
        wait_until(|| !is_asleep());
        wait_until(is_asleep);
        // As a writer does that looked just before: without a word to the thread.
        let key = engine.default.key(b"key");
        let op = OpSpec {
            kind: OpKind::Put,
            key: key.bytes,
            value: b"value",
            moved: None,
            keyspace: KeyspaceId::DEFAULT,
        };
        let terms =
            Terms { above: Seq::ZERO, purpose: Purpose::Put, mode: WriteMode::Sync, is_log_busy: false };
        let hash = Filter::short_hash(key.hash);
        let written = engine.committer.submit_op(&*engine, &op, hash, &terms, || || Seq::ZERO).expect("room");
        engine.publish_at(&engine.default, Default::default(), (OpKind::Put, key), written);
        wait_until(|| !engine.oplog.lock(0).needs_mark()) < SLEEP_MAX / 5
    });
    engine.let_go();
    assert!(was_in_time);
}

/// The put that rolled a head drained all that `os` writes had left in it, up to a segment: it took milliseconds, and so did
/// the calls behind it.
#[test]
fn what_os_writes_leave_is_written_back_before_a_roll_has_to() {
    let media = Arc::new(SimMedia::new(SimKind::File, 64 << 20));
    let options = crate::testing::options().segment_size_bytes(4 << 20);
    let engine = crate::testing::engine_on(media, options);
    let os = WriteOptions::new().durability(Durability::Os);
    let put = |key: u64| engine.put(WholeStore, &os, &key.to_le_bytes(), &[7; 4000]).expect("room");
    let is_dirty = || engine.oplog.lock(0).is_dirty();
    put(0);
    engine.write_back_os_writes();
    assert!(is_dirty(), "a little waits for more");
    (0..2 * LEFT_BEHIND_BYTES / 4000).for_each(put);
    let nothing_is_freed = engine.cleaner.hold();
    engine.write_back_os_writes();
    assert!(is_dirty(), "the cleaner drains for itself");
    drop(nothing_is_freed);
    engine.write_back_os_writes();
    assert!(!is_dirty());
    assert_eq!(engine.oplog.rolls(), 0);
    engine.let_go();
}
