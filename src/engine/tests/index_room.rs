//! An index whose address space is limited.

use super::*;
use crate::engine::WholeStore;
use crate::index::Index;
use crate::index::ordered::OrderedIndex;
use crate::write_batch::WriteBatch;

const IDS: u64 = 4_000;
const ITEMS: u64 = 40;

fn key(number: u64) -> Vec<u8> {
    let item = (number % ITEMS).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [(number / ITEMS).to_be_bytes(), item.to_be_bytes()].concat()
}

fn opened<I: Index + 'static>(
    media: &Arc<SimMedia>,
    is_new: bool,
    make: impl FnOnce(Arc<dyn crate::index::LogKeys>, u64, u64) -> crate::error::Result<I>,
) -> crate::error::Result<Arc<Engine<I>>> {
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let options = testing::options().segment_size_bytes(64 << 10);
    Engine::open(Arc::clone(media) as Arc<dyn crate::media::Media>, is_new, options, &holder, make)
}

fn batch(numbers: std::ops::Range<u64>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    numbers.for_each(|number| batch.put(&key(number), b"").expect("a short key"));
    batch
}

fn is_refused<T>(result: crate::error::Result<T>) -> bool {
    matches!(result, Err(Error::Io { errno: libc::ENOMEM, .. }))
}

/// A put that found no node left panicked when its entry was in the log, and so did every later open.
#[test]
fn puts_and_opens_that_the_index_has_no_nodes_for_are_refused() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 32 << 20));
    let limited = |log, expected, _| OrderedIndex::with_expected(log, expected, 0);
    let engine = opened(&media, true, limited).expect("a fresh pool");
    let options = WriteOptions::default();
    let step = 10;
    let put = (0..IDS * ITEMS)
        .step_by(step)
        .find(|&number| {
            let written = engine.write(WholeStore, &options, &batch(number..number + step as u64));
            assert!(written.is_ok() || is_refused(written));
            engine.get(WholeStore, &key(number)).expect("sound").is_none()
        })
        .expect("nodes run out");
    // A single one may still have been accepted where a batch was not.
    let put = (put..IDS * ITEMS)
        .find(|&number| is_refused(engine.put(WholeStore, &options, &key(number), b"")))
        .expect("nodes run out");
    assert!(is_refused(engine.put_async(WholeStore, &key(put), b"")));
    assert_eq!(engine.get(WholeStore, &key(put)).expect("sound"), None);
    assert!(engine.delete(WholeStore, &options, &key(0)).expect("deletes always work"));
    assert!((1..put).all(|number| engine.get(WholeStore, &key(number)).expect("sound").is_some()));
    engine.close().expect("the medium works");
    drop(engine);
    // What was accepted can be opened.
    let engine = opened(&media, false, limited).expect("as many nodes as before");
    assert!((1..put).all(|number| engine.get(WholeStore, &key(number)).expect("sound").is_some()));
    engine.close().expect("the medium works");
    drop(engine);
    // With more nodes more is accepted, and then it can not.
    let engine = opened(&media, false, HashIndex::with_expected).expect("sound");
    for number in (put..IDS * ITEMS).step_by(step) {
        engine
            .write(WholeStore, &options, &batch(number..(number + step as u64).min(IDS * ITEMS)))
            .expect("room");
    }
    engine.close().expect("the medium works");
    drop(engine);
    assert!(is_refused(opened(&media, false, limited)));
    let engine = opened(&media, false, OrderedIndex::with_expected).expect("sound, and unchanged");
    assert!((1..IDS * ITEMS).all(|number| engine.get(WholeStore, &key(number)).expect("sound").is_some()));
    engine.let_go();
}
