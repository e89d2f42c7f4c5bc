//! Whom a snapshot waits for, and who waits for it.

use super::super::Engine;
use super::super::commit::{Terms, Written};
use super::{on_log, on_the_other_log, opened_with_logs};
use crate::engine::WholeStore;
use crate::epoch;
use crate::format::{Filter, FrameBuilder, FrameKind, HolderRecord, OpKind, OpSpec};
use crate::index::hash::HashIndex;
use crate::media::durable::Publishable;
use crate::media::guarded::Scratch;
use crate::media::sim::{SimKind, SimMedia};
use crate::oplog::append::WriteMode;
use crate::options::WriteOptions;
use crate::space::Purpose;
use crate::sync::{Arc, Mutex};
use crate::testing;
use crate::types::KeyspaceId;
use crate::write_batch::WriteBatch;
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn engine() -> Arc<Engine<HashIndex>> {
    engine_with_logs(1)
}

/// With threads, so that a snapshot waits for writes.
fn engine_with_logs(logs: usize) -> Arc<Engine<HashIndex>> {
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let mut options = testing::with_logs(testing::options(), logs);
    options.background = true;
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = Engine::open(media, true, options, &holder, HashIndex::with_expected).expect("a fresh pool");
    put(&engine, b"key", b"before");
    engine
}

fn put(engine: &Engine<HashIndex>, key: &[u8], value: &[u8]) {
    engine.put(WholeStore, &WriteOptions::default(), key, value).expect("room");
}

fn put_of<'a>(key: &'a [u8], value: &'a [u8]) -> OpSpec<'a> {
    OpSpec { kind: OpKind::Put, key, value, moved: None, keyspace: KeyspaceId::DEFAULT }
}

fn terms(engine: &Engine<HashIndex>) -> Terms {
    Terms {
        above: engine.oplog.newest_seq(),
        purpose: Purpose::Put,
        mode: WriteMode::Sync,
        is_log_busy: false,
    }
}

/// A put that has its stamp and is not published. In a write section.
fn stamped(engine: &Engine<HashIndex>, key: &[u8], value: &[u8]) -> Publishable<Written> {
    let hash = Filter::short_hash(engine.default.key(key).hash);
    let above = || || engine.above(&engine.default, engine.default.key(key), &epoch::pin()).0;
    engine.committer.submit_op(engine, &put_of(key, value), hash, &terms(engine), above).expect("room")
}

/// The same of a batch, which gives each of the keys this value.
fn stamped_batch(engine: &Engine<HashIndex>, keys: &[&[u8]], value: &[u8]) -> Vec<Publishable<Written>> {
    let mut frame = FrameBuilder::new(FrameKind::Batch);
    for key in keys {
        frame.push(&put_of(key, value));
    }
    let offsets: Vec<u32> = frame.op_offsets().collect();
    let hashes = keys.iter().map(|key| Filter::short_hash(engine.default.key(key).hash)).collect();
    let placed =
        engine.committer.submit_frame(engine, frame, hashes, &terms(engine)).expect("room").into_inner();
    offsets.iter().map(|op_at| Publishable::from_batch(Written::at(&placed, *op_at, true))).collect()
}

fn publish(engine: &Engine<HashIndex>, key: &[u8], written: Publishable<Written>) {
    engine.publish_at(&engine.default, Default::default(), (OpKind::Put, engine.default.key(key)), written);
}

/// Returns when so many snapshots have their points, whether or not they wait for writes.
fn wait_for_points(engine: &Engine<HashIndex>, open: u64) {
    while engine.versions.kept().open < open {
        std::thread::yield_now();
    }
}

/// It took the lock of each log, twice, one behind the other, and so waited for a drain each time; puts with an open snapshot
/// waited for it in turn.
#[test]
fn a_snapshot_waits_for_no_lock_of_a_log_and_not_for_writes_that_have_no_stamp() {
    let engine = engine();
    std::thread::scope(|scope| {
        // As if somebody drained the log.
        let log = engine.oplog.lock(0);
        let put =
            scope.spawn(|| engine.put(WholeStore, &WriteOptions::default(), b"key", b"after").expect("room"));
        while engine.committer.staged_sections().is_empty() {
            std::thread::yield_now();
        }
        let (made, is_made) = mpsc::channel();
        let engine = &engine;
        let snapshot = scope.spawn(move || {
            let snapshot = engine.snapshot(WholeStore).expect("it is open");
            made.send(()).expect("somebody listens");
            snapshot
        });
        let came = is_made.recv_timeout(LONG);
        drop(log);
        came.expect("the snapshot waits for who holds the log");
        put.join().expect("the put ends");
        let snapshot = snapshot.join().expect("it was made");
        assert_eq!(snapshot.get(b"key").expect("sound"), Some(b"before".to_vec()));
        assert_eq!(engine.get(WholeStore, b"key").expect("sound"), Some(b"after".to_vec()));
    });
    engine.let_go();
}

#[test]
fn a_snapshot_waits_for_a_write_that_has_its_stamp_and_shows_it() {
    let engine = engine();
    std::thread::scope(|scope| {
        let (has_stamp, is_stamped) = mpsc::channel();
        let (let_it, may_publish) = mpsc::channel::<()>();
        let writer = &engine;
        scope.spawn(move || {
            let _section = epoch::write_section(writer.fork_generation);
            let written = stamped(writer, b"key", b"stamped");
            has_stamp.send(()).expect("somebody listens");
            may_publish.recv_timeout(LONG).expect("somebody lets it");
            publish(writer, b"key", written);
        });
        is_stamped.recv_timeout(LONG).expect("the write has its stamp");
        let snapshot = scope.spawn(|| engine.snapshot(WholeStore).expect("it is open"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!snapshot.is_finished(), "the write is not published yet");
        let_it.send(()).expect("it waits");
        let snapshot = snapshot.join().expect("it was made");
        assert_eq!(snapshot.get(b"key").expect("sound"), Some(b"stamped".to_vec()));
    });
    engine.let_go();
}

/// Of the entries that a put replaced while a snapshot waited, the older one was kept with the stamp of the snapshot's point,
/// above that of the batch: one key showed the batch and the other one did not.
#[test]
fn a_snapshot_shows_all_of_a_batch_it_waits_for_though_a_put_of_another_log_came_between_its_keys() {
    for is_beside_older in [false, true] {
        let engine = engine_with_logs(2);
        let keys: [&[u8]; 2] = [b"first", b"second"];
        keys.iter().for_each(|key| put(&engine, key, b"before"));
        let older = is_beside_older.then(|| engine.snapshot(WholeStore).expect("it is open"));
        std::thread::scope(|scope| {
            let section = epoch::write_section(engine.fork_generation);
            let batch = stamped_batch(&engine, &keys, b"batch");
            let mut rest = keys.into_iter().zip(batch);
            let mut publish_next = || rest.next().map(|(key, written)| publish(&engine, key, written));
            publish_next().expect("the first key");
            let snapshot = scope.spawn(|| engine.snapshot(WholeStore).expect("it is open"));
            wait_for_points(&engine, 1 + u64::from(is_beside_older));
            drop(older);
            on_the_other_log(|| put(&engine, b"second", b"later"));
            publish_next().expect("the second key");
            drop(section);
            let snapshot = snapshot.join().expect("it was made");
            let shown = keys.map(|key| snapshot.get(key).expect("sound").expect("it was put"));
            assert_eq!(shown, [b"batch", b"batch"], "beside an older one: {is_beside_older}");
            assert_eq!(engine.get(WholeStore, b"second").expect("sound"), Some(b"later".to_vec()));
        });
        engine.let_go();
    }
}

/// A put lost the entry that it had judged to another put, and judged that one. Both were kept with the stamp of a snapshot's
/// point, so the one that lay farther behind in the pool was shown.
#[test]
fn a_put_that_judges_two_entries_while_a_snapshot_waits_keeps_both_in_their_order() {
    // In logs of their own: the one of `later` has a stamp above the point. Of the others either may lie behind the other one.
    for (log_of_replaced, log_of_shown) in [(0, 1), (1, 0)] {
        let engine = engine_with_logs(3);
        on_log(log_of_replaced, 3, || put(&engine, b"key", b"replaced"));
        on_log(log_of_shown, 3, || put_while_a_snapshot_waits_for_another_one(&engine));
        engine.let_go();
    }
}

fn put_while_a_snapshot_waits_for_another_one(engine: &Arc<Engine<HashIndex>>) {
    std::thread::scope(|scope| {
        let section = epoch::write_section(engine.fork_generation);
        let shown = Mutex::new(Some(stamped(engine, b"key", b"shown")));
        let snapshot = scope.spawn(|| engine.snapshot(WholeStore).expect("it is open"));
        wait_for_points(engine, 1);
        on_log(2, 3, || {
            let _section = epoch::write_section(engine.fork_generation);
            let (guard, scratch) = (epoch::pin(), Scratch::new());
            let (later, key) = (stamped(engine, b"key", b"later"), engine.default.key(b"key"));
            let bound = engine.versions.settled_bound();
            let known = engine.find(&engine.default, key, &scratch).expect("sound").expect("it was put");
            engine.judge_and_keep(key.hash, (known.0, &known.1), *later.get(), bound);
            drop(guard);
            publish(engine, b"key", shown.lock().take().expect("this runs once"));
            publish(engine, b"key", later);
        });
        drop(section);
        let snapshot = snapshot.join().expect("it was made");
        assert_eq!(snapshot.get(b"key").expect("sound"), Some(b"shown".to_vec()));
        assert_eq!(engine.get(WholeStore, b"key").expect("sound"), Some(b"later".to_vec()));
    });
}

/// Logs count for themselves: a batch that had looked at its keys and waited for its log got a stamp below that of a put which
/// had come and gone meanwhile, and above that of a later put to another log. No order explains what was left then.
#[test]
fn a_batch_does_not_lie_before_an_earlier_put_and_behind_a_later_one() {
    let engine = opened_with_logs(Arc::new(SimMedia::new(SimKind::Pm, 1 << 20)), true, 3);
    let put = |key: &[u8], value: &[u8]| {
        engine.put(WholeStore, &WriteOptions::default(), key, value).expect("room");
    };
    // The stamps of log 1 are ahead of those of log 0, and these of those of log 2.
    on_log(1, 3, || (0..40).for_each(|_| put(b"of log 1", b"")));
    on_log(0, 3, || (0..20).for_each(|_| put(b"of log 0", b"")));
    let mut batch = WriteBatch::new();
    batch.put(b"put earlier", b"batch").expect("small");
    batch.put(b"put later", b"batch").expect("small");
    std::thread::scope(|scope| {
        // As if somebody drained the log.
        let log = engine.oplog.lock(0);
        let writer = scope.spawn(|| {
            on_log(0, 3, || engine.write(WholeStore, &WriteOptions::default(), &batch).expect("room"));
        });
        while engine.committer.staged_sections().is_empty() {
            std::thread::yield_now();
        }
        on_log(1, 3, || put(b"put earlier", b"put"));
        on_log(2, 3, || put(b"put later", b"put"));
        drop(log);
        writer.join().expect("the batch is written");
    });
    let get = |key: &[u8]| engine.get(WholeStore, key).expect("sound").expect("it was put");
    assert_eq!((get(b"put earlier"), get(b"put later")), (b"batch".to_vec(), b"batch".to_vec()));
    engine.let_go();
}
