//! Orders of events that no caller can force from outside.

mod forged;
mod groups;
mod index_room;
mod plain;
mod points;

use super::Engine;
use super::commit::Terms;
use crate::engine::WholeStore;
use crate::error::Error;
use crate::format::{Filter, HolderRecord, OpKind, OpSpec, SegmentClass};
use crate::index::hash::HashIndex;
use crate::media::sim::{Fault, SimKind, SimMedia};
use crate::oplog::append::WriteMode;
use crate::options::{Durability, Options, WriteOptions};
use crate::space::Purpose;
use crate::sync::{Arc, thread_number};
use crate::testing;
use crate::types::{KeyspaceId, LogId, Seq};

fn engine_with_two_logs() -> Arc<Engine<HashIndex>> {
    engine_on(Arc::new(SimMedia::new(SimKind::Pm, 1 << 20)))
}

fn engine_on(media: Arc<SimMedia>) -> Arc<Engine<HashIndex>> {
    opened_on(media, true)
}

fn opened_on(media: Arc<SimMedia>, is_new: bool) -> Arc<Engine<HashIndex>> {
    opened_with_logs(media, is_new, 2)
}

fn opened_with_logs(media: Arc<SimMedia>, is_new: bool, logs: usize) -> Arc<Engine<HashIndex>> {
    opened_with(media, is_new, testing::with_logs(testing::options(), logs))
}

fn opened_with(media: Arc<SimMedia>, is_new: bool, options: Options) -> Arc<Engine<HashIndex>> {
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    Engine::open(media, is_new, options, &holder, HashIndex::with_expected).expect("a sound simulated pool")
}

/// Runs `f` on a thread whose home is the other log.
fn on_the_other_log(f: impl Fn() + Sync) {
    on_log(1 - thread_number() % 2, 2, f);
}

/// Runs `f` on a thread whose home is this one of `logs` logs.
fn on_log(log: usize, logs: usize, f: impl Fn() + Sync) {
    let mut done = false;
    while !done {
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| {
                let is_home = thread_number() % logs == log;
                if is_home {
                    f();
                }
                is_home
            });
            done = ran.join().expect("the other thread ends");
        });
    }
}

/// v1 was acknowledged in one log and loses, in memory, to an `os` write of the other log that came first. If the power
/// fails now v1 counts again: its extents must wait for the log of the winner, not for its own.
#[test]
fn a_blob_that_lost_to_an_os_write_of_another_log_waits_for_that_log() {
    let engine = engine_with_two_logs();
    let key = engine.default.key(b"key");
    let staged = engine.write_blob(KeyspaceId::DEFAULT, b"key", &[7; 1500]).expect("room for a blob");
    let blob = engine.drain_blobs(staged).expect("the medium works");
    let op = OpSpec {
        kind: OpKind::PutBlob,
        key: key.bytes,
        value: &blob.descriptor,
        moved: None,
        keyspace: KeyspaceId::DEFAULT,
    };
    let terms = Terms { above: Seq::ZERO, purpose: Purpose::Put, mode: WriteMode::Sync, is_log_busy: false };
    let written = engine
        .committer
        .submit_op(&*engine, &op, Filter::short_hash(key.hash), &terms, || || Seq::ZERO)
        .expect("room");
    on_the_other_log(|| {
        let os = WriteOptions::new().durability(Durability::Os);
        for i in 0..10_u8 {
            engine.put(WholeStore, &os, b"key", &[i]).expect("room");
        }
    });
    engine.publish_at(&engine.default, Default::default(), (OpKind::Put, key), written);
    blob.keep();
    assert_eq!(
        engine.get(WholeStore, b"key").expect("intact"),
        Some(vec![9]),
        "the os write is the newer one"
    );

    engine.limbo.settle(&engine.oplog, &engine.extents, &engine.space);
    assert!(
        engine.extents.usage().extent_bytes > 0,
        "the winner is not durable: the extents may count again"
    );
    engine.sync().expect("the medium works");
    assert_eq!(engine.extents.usage().extent_bytes, 0, "the winner is durable");
}

/// A put asks the segment of the entry that it replaces, not the entry, what its stamp must exceed.
#[test]
fn a_put_and_a_batch_win_over_what_a_log_far_ahead_holds() {
    let engine = engine_with_two_logs();
    let options = WriteOptions::new();
    on_the_other_log(|| {
        (0..50_u8).for_each(|i| engine.put(WholeStore, &options, &[i % 5], &[i]).expect("room"))
    });
    engine.put(WholeStore, &options, &[3], b"put").expect("room");
    assert_eq!(engine.get(WholeStore, &[3]).expect("intact"), Some(b"put".to_vec()));
    let mut batch = crate::write_batch::WriteBatch::new();
    batch.put(&[4], b"batch").expect("a key");
    engine.write(WholeStore, &options, &batch).expect("room");
    assert_eq!(engine.get(WholeStore, &[4]).expect("intact"), Some(b"batch".to_vec()));
    let ticket = engine.put_async(WholeStore, &[2], b"async").expect("room");
    engine.wait(ticket).expect("the medium works");
    assert_eq!(engine.get(WholeStore, &[2]).expect("intact"), Some(b"async".to_vec()));
}

/// A ticket that is drawn and not staged yet is invisible to whoever writes out what is staged.
#[test]
fn a_wait_returns_only_when_every_earlier_ticket_of_any_lane_is_done() {
    let engine = engine_with_two_logs();
    let other = 1 - thread_number() % 2;
    let drawn = engine.committer.tickets.issue(other, 8);
    let ticket = engine.put_async(WholeStore, b"key", b"value").expect("room");
    assert!(drawn < ticket);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| engine.wait(ticket));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiter.is_finished(), "ticket {drawn} is not durable");
        engine.committer.tickets.finish(other, 8, None);
        waiter.join().expect("no panic").expect("both are durable");
    });
    assert_eq!(engine.durable_ticket(), ticket);
}

/// Whatever keeps an accepted write from the log is a failure that nobody may write past.
#[test]
fn an_accepted_write_that_fails_without_an_io_error_poisons_the_store() {
    let engine = engine_with_two_logs();
    let durable = engine.put_async(WholeStore, b"before", b"value").expect("room");
    engine.wait(durable).expect("the medium works");
    // Nothing that can be checked when a write is accepted: the last stamp is given meanwhile.
    let failed = engine.put_async(WholeStore, b"key", b"value").expect("accepted");
    engine.oplog.raise_floor(Seq::LAST);
    for _ in 0..2 {
        let error = engine.wait(failed).expect_err("no stamp is left");
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
    engine.wait(durable).expect("it was durable before");
    assert_eq!(engine.durable_ticket(), durable);
    assert!(matches!(engine.health(), Err(Error::Poisoned(_))));
    assert!(matches!(engine.put_async(WholeStore, b"later", b"value"), Err(Error::Poisoned(_))));
    assert!(matches!(
        engine.put(WholeStore, &WriteOptions::default(), b"later", b"value"),
        Err(Error::Poisoned(_))
    ));
    assert_eq!(engine.get(WholeStore, b"before").expect("reads go on"), Some(b"value".to_vec()));
}

/// The last slot beyond the reserve was claimed when the write was accepted; a delete of another log then took one out of
/// the reserve, and the head that recovery had opened wanted both.
#[test]
fn an_accepted_write_goes_into_a_recovered_head_whatever_a_delete_took_since() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = engine_on(Arc::clone(&media));
    engine.put(WholeStore, &WriteOptions::default(), b"before", b"value").expect("room");
    engine.abandon();
    let engine = opened_on(media, false);
    let mut taken = Vec::new();
    while let Ok(slot) = engine.space.take_slot(Purpose::Put) {
        taken.push(slot);
    }
    engine.space.return_slot(taken.pop().expect("a slot beyond the reserve"));
    let free = engine.space.free_slots();
    let ticket = engine.put_async(WholeStore, b"key", b"value").expect("one slot is left");
    let reserved = engine.space.take_slot(Purpose::Delete).expect("a full pool deletes");
    engine.wait(ticket).expect("it was accepted");
    engine.health().expect("nothing failed");
    assert_eq!(engine.get(WholeStore, b"key").expect("intact"), Some(b"value".to_vec()));
    engine.space.return_slot(reserved);
    assert_eq!(engine.space.free_slots(), free, "the slot that was claimed came back");
    assert!(engine.space.take_slot(Purpose::Put).is_err(), "it backs the head now");
}

/// Until the store was poisoned another log could be given the numbers of a head or segment whose drain had failed, and
/// which might be on the medium all the same.
#[test]
fn numbers_of_a_head_or_segment_that_failed_half_way_are_not_given_again() {
    for nth in [1, 2] {
        let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
        let engine = engine_on(Arc::clone(&media));
        let numbers = || {
            let identities = engine.space.identities();
            (identities.next_id, identities.digest_number)
        };
        let before = numbers();
        media.inject(Fault::Drain { nth, times: 1 });
        let slot = engine.space.take_slot(Purpose::Internal).expect("room");
        engine.space.open_segment(SegmentClass::Extent, slot).expect_err("a drain fails");
        let between = numbers();
        assert!(between.0 > before.0, "drain {nth}");
        media.inject(Fault::Drain { nth, times: 1 });
        engine.oplog.roll_recovered(LogId(1), None).expect_err("a drain fails");
        let after = numbers();
        assert!(after.0 > between.0 && after.1 > between.1, "drain {nth}");
    }
}

/// Uuid and hash seed of simulated pools were random, so no image of one run was one of the next.
#[test]
fn a_simulated_pool_is_the_same_in_every_run_of_one_seed() {
    let image = |seed| {
        let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
        let options = testing::with_seed(testing::options(), seed);
        let store = testing::open_on(media.clone(), options).expect("a fresh pool");
        for number in 0..60_u8 {
            store.put(&[number], &[number; 100]).expect("room");
        }
        store.put(b"large", &[1; 5000]).expect("room");
        testing::kill(&store);
        media.view()
    };
    assert!(image(1) == image(1), "two runs differ");
    assert!(image(1) != image(2), "the seed is not used");
}

/// A pool of a few segments with these logs. Only the one that was opened with the pool was written to, until no more than
/// `left` slots are there for new data; what was written.
fn almost_full_engine(logs: usize, left: u32) -> (Arc<Engine<HashIndex>>, Vec<u32>) {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let slots = 40;
    let quota = 8192 + u64::from(slots) * 4096;
    let options = testing::with_logs(testing::options(), logs).max_bytes(quota);
    let engine = testing::engine_on(media, options);
    let room = || engine.space.available(Purpose::Put) + slots - engine.space.allocated_slots();
    let written = std::sync::Mutex::new(Vec::new());
    on_log(0, logs, || {
        for i in 0_u32.. {
            let is_enough = left > 0 && room() <= left;
            if is_enough || engine.put(WholeStore, &WriteOptions::new(), &i.to_ne_bytes(), &[7; 200]).is_err()
            {
                break;
            }
            written.lock().expect("no panic").push(i);
        }
    });
    assert!(room() <= left);
    (engine, written.into_inner().expect("no panic"))
}

/// The slot that was claimed when the write was accepted became the head, and nothing was left that backs it: the store was
/// poisoned.
#[test]
fn an_accepted_write_to_a_log_without_a_head_finds_the_slots_that_it_takes() {
    let accepted = std::sync::Mutex::new(0);
    for left in 0..4 {
        let (engine, _) = almost_full_engine(2, left);
        on_log(1, 2, || {
            let ticket = match engine.put_async(WholeStore, b"key", b"value") {
                Ok(ticket) => ticket,
                Err(error) => return assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
            };
            *accepted.lock().expect("no panic") += 1;
            // Others take what is left.
            on_log(0, 2, || {
                while engine.put(WholeStore, &WriteOptions::new(), &[left as u8; 9], &[7; 200]).is_ok()
                    && engine.space.available(Purpose::Put) > 0
                {}
            });
            engine.wait(ticket).unwrap_or_else(|error| panic!("{left} slots were left: {error}"));
            assert_eq!(engine.get(WholeStore, b"key").expect("sound"), Some(b"value".to_vec()));
        });
        engine.sync().unwrap_or_else(|error| panic!("{left} slots were left: {error}"));
    }
    assert!(*accepted.lock().expect("no panic") > 0, "with more than one slot left it is accepted");
}

/// A log without a head takes two slots for its first entry, and deletes had no more than that between them.
#[test]
fn a_full_pool_takes_deletes_from_a_thread_whose_log_has_no_head() {
    let (engine, written) = almost_full_engine(4, 0);
    for (i, key) in written.iter().enumerate() {
        on_log(3 - i % 4, 4, || {
            let was_there = engine.delete(WholeStore, &WriteOptions::new(), &key.to_ne_bytes());
            assert!(was_there.unwrap_or_else(|error| panic!("delete {i}: {error}")));
        });
    }
    engine.put(WholeStore, &WriteOptions::new(), b"key", b"value").expect("room again");
}

/// What the short way leaves to the general one is not counted before it gets there.
#[test]
fn every_get_is_counted_once_whichever_way_it_goes() {
    let engine = engine_with_two_logs();
    for (key, len) in [(&b"short"[..], 40), (b"long", 20_000), (b"deleted", 1)] {
        engine.put(WholeStore, &WriteOptions::new(), key, &vec![7; len]).expect("room");
    }
    engine.delete(WholeStore, &WriteOptions::new(), b"deleted").expect("room");
    let get = |key: &[u8], capacity: usize| engine.get_into(WholeStore, key, &mut vec![0; capacity]);
    assert!(matches!(get(b"short", 64), Ok(Some(40))));
    assert!(matches!(get(b"long", 32_000), Ok(Some(20_000))));
    assert!(matches!(get(b"short", 39), Err(Error::BufferTooSmall { needed: 40, capacity: 39 })));
    assert!(matches!(get(b"deleted", 64), Ok(None)));
    assert!(matches!(get(b"absent", 64), Ok(None)));
    assert!(matches!(get(b"", 64), Err(Error::InvalidArgument(_))));
    assert_eq!(engine.get(WholeStore, b"short").expect("sound"), Some(vec![7; 40]));
    assert!(engine.exists(WholeStore, b"long").expect("sound"));
    assert_eq!(engine.stats()["gets"], 7);
}
