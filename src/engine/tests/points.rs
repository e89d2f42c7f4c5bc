//! Whom a snapshot waits for, and who waits for it.

use super::super::Engine;
use super::super::commit::Terms;
use super::{on_log, opened_with_logs};
use crate::engine::WholeStore;
use crate::epoch;
use crate::format::{Filter, HolderRecord, OpKind, OpSpec};
use crate::index::hash::HashIndex;
use crate::media::sim::{SimKind, SimMedia};
use crate::oplog::append::WriteMode;
use crate::options::WriteOptions;
use crate::space::Purpose;
use crate::sync::Arc;
use crate::testing;
use crate::types::KeyspaceId;
use crate::write_batch::WriteBatch;
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// With threads, so that a snapshot waits for writes.
fn engine() -> Arc<Engine<HashIndex>> {
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let mut options = testing::options();
    options.background = true;
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = Engine::open(media, true, options, &holder, HashIndex::with_expected).expect("a fresh pool");
    engine.put(WholeStore, &WriteOptions::default(), b"key", b"before").expect("room");
    engine
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
        let (stamped, is_stamped) = mpsc::channel();
        let (publish, may_publish) = mpsc::channel::<()>();
        let writer = &engine;
        scope.spawn(move || {
            let _section = epoch::write_section(writer.fork_generation);
            let (key, value) = (writer.default.key(b"key"), b"stamped");
            let op = OpSpec {
                kind: OpKind::Put,
                key: key.bytes,
                value,
                moved: None,
                keyspace: KeyspaceId::DEFAULT,
            };
            let terms =
                Terms { above: writer.oplog.newest_seq(), purpose: Purpose::Put, mode: WriteMode::Sync };
            let hash = Filter::short_hash(key.hash);
            let above = || || writer.above(&writer.default, key, &epoch::pin()).0;
            let written = writer.committer.submit_op(&**writer, &op, hash, &terms, above).expect("room");
            stamped.send(()).expect("somebody listens");
            may_publish.recv_timeout(LONG).expect("somebody lets it");
            writer.publish(&writer.default, OpKind::Put, key, written);
        });
        is_stamped.recv_timeout(LONG).expect("the write has its stamp");
        let snapshot = scope.spawn(|| engine.snapshot(WholeStore).expect("it is open"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!snapshot.is_finished(), "the write is not published yet");
        publish.send(()).expect("it waits");
        let snapshot = snapshot.join().expect("it was made");
        assert_eq!(snapshot.get(b"key").expect("sound"), Some(b"stamped".to_vec()));
    });
    engine.let_go();
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
