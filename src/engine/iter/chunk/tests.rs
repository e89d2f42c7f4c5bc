//! Cursors over entries that rot while the store is open.

use super::*;
use crate::engine::WholeStore;
use crate::format::HolderRecord;
use crate::index::ordered::OrderedIndex;
use crate::media::sim::{SimKind, SimMedia};
use crate::options::WriteOptions;
use crate::sync::Arc;

const KEYS: u32 = 300;

fn key(number: u32) -> Vec<u8> {
    // Runs of the ordered index, whose order lies in the log.
    format!("of ten: {:06}", number).into_bytes()
}

fn filled(verify_reads: bool) -> Arc<Engine<OrderedIndex>> {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 512 << 10));
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let options = crate::testing::options().verify_reads(verify_reads);
    let engine =
        Engine::open(media, true, options, &holder, OrderedIndex::with_expected).expect("a fresh pool");
    for number in 0..KEYS {
        engine.put(WholeStore, &WriteOptions::default(), &key(number), &[7; 20]).expect("room");
    }
    engine
}

/// Puts other bytes where the key of an entry is.
fn rot(engine: &Engine<OrderedIndex>, number: u32, reads_as: &[u8]) {
    rot_key(engine, &key(number), reads_as);
}

fn rot_key(engine: &Engine<OrderedIndex>, bytes: &[u8], reads_as: &[u8]) {
    let scratch = Scratch::new();
    let (addr, op) = engine
        .find(&engine.default, engine.default.key(bytes), &scratch)
        .expect("sound")
        .expect("it is there");
    let at = addr.offset() + op.footprint_before_value() - bytes.len() as u64;
    engine.media.write(at, reads_as).expect("a simulated medium");
}

/// What the steps of a cursor show, from the first to the last in its direction: keys, or `None` for an error.
fn steps(engine: &Arc<Engine<OrderedIndex>>, direction: Direction) -> Vec<Option<Vec<u8>>> {
    let mut iter = engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
    let mut steps = Vec::new();
    loop {
        let stepped = match direction {
            Direction::Forward => iter.move_next(),
            Direction::Backward => iter.move_prev(),
        };
        match stepped {
            Ok(false) => return steps,
            Ok(true) => steps.push(Some(iter.key().expect("it is on one").to_vec())),
            Err(_) => steps.push(None),
        }
        assert!(steps.len() <= KEYS as usize, "{direction:?}: keys are shown again");
    }
}

/// A chunk took all errors in a row, however many: of a damaged pool, one for each of its entries.
#[test]
fn errors_fill_a_chunk_as_entries_do() {
    let engine = filled(true);
    (0..KEYS).filter(|number| number % 100 != 0).for_each(|number| rot(&engine, number, b"x"));
    let mut chunk = Chunk::default();
    chunk.restart(Direction::Forward, Bound::Unbounded, 16);
    engine.fill_chunk(&engine.default, &mut chunk, &Limits::default(), Seq::LAST).expect("it is open");
    assert!((16..16 + 31).contains(&chunk.len()), "{} entries", chunk.len());
    assert!(chunk.go_on(16), "there is more");
    for direction in [Direction::Forward, Direction::Backward] {
        let mut shown = steps(&engine, direction);
        if direction == Direction::Backward {
            shown.reverse();
        }
        let expected = (0..KEYS).map(|number| (number % 100 == 0).then(|| key(number)));
        assert_eq!(shown, expected.collect::<Vec<_>>(), "{direction:?}");
    }
    engine.let_go();
}

/// Without `verify_reads` a key was believed whatever it had become: a scan went on behind it, and showed or skipped others.
#[test]
fn a_rotted_key_neither_hides_keys_nor_shows_them_again() {
    for (is_verified, number, reads_as) in
        [(false, 150, &[0_u8; 4]), (false, 150, &[255; 4]), (false, 15, &[255; 4]), (true, 150, &[255; 4])]
    {
        let engine = filled(is_verified);
        rot(&engine, number, reads_as);
        for direction in [Direction::Forward, Direction::Backward] {
            let shown = steps(&engine, direction);
            // One step for each key, if only to say that it cannot be told.
            assert_eq!(shown.len(), KEYS as usize, "{number} reads as {reads_as:?}, {direction:?}");
            // What is not verified is shown as it reads.
            let keys: Vec<_> =
                shown.into_iter().flatten().filter(|shown| !shown.starts_with(reads_as)).collect();
            let in_order = |a: &Vec<u8>, b: &Vec<u8>| (a < b) == (direction == Direction::Forward);
            assert!(keys.is_sorted_by(in_order), "{number} reads as {reads_as:?}, {direction:?}");
        }
        // A bound that what rotted seems to lie beyond ends no scan.
        let mut iter = engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
        iter.set_bounds(None, Some(&key(KEYS - 1)));
        let mut count = 0;
        while iter.move_next().unwrap_or(true) {
            count += 1;
            assert!(count < KEYS, "{number} reads as {reads_as:?}");
        }
        assert_eq!(count, KEYS - 1, "{number} reads as {reads_as:?}");
        engine.let_go();
    }
}

/// Only the end of a direction told of entries that cannot be read and have no place in the order: a seek may lead past them.
#[test]
fn an_entry_that_lost_its_place_is_told_of_before_any_other() {
    let engine = filled(true);
    let put = |number: u32| {
        let name = format!("a run that grows: {number:06}");
        engine.put(WholeStore, &WriteOptions::default(), name.as_bytes(), &[7; 20]).expect("room");
        name
    };
    let first: Vec<String> = (0..8).map(put).collect();
    rot_key(&engine, first[7].as_bytes(), b"x");
    (8..200).for_each(|number| drop(put(number)));
    let mut unplaced = 0;
    engine.default.index.unplaced(|_| unplaced += 1);
    assert_eq!(unplaced, 1, "the run became a layer without it");
    let mut iter = engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
    for sought in [iter.seek(b"z"), iter.seek_for_prev(b"z"), iter.seek_first(), iter.seek_last()] {
        assert!(matches!(sought, Err(Error::Corrupted { .. })), "{sought:?}");
    }
    assert!(iter.missing().is_some() && iter.move_prev().expect("said already"));
    engine.let_go();
}

/// A value too long for a chunk is read by its key. Where that had rotted, unverified, nothing was found, and the entry was
/// shown with an empty value.
#[test]
fn a_long_value_whose_key_rotted_is_not_shown_as_empty() {
    let engine = filled(false);
    engine.put(WholeStore, &WriteOptions::default(), &key(0), &[8; 2 * VALUE_BYTES_MAX]).expect("room");
    rot(&engine, 0, &[0; 4]);
    let mut iter = engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
    let first = iter.next().expect("there are entries");
    assert!(matches!(first, Err(Error::Corrupted { what: "key of an entry", offset: 1.., .. })), "{first:?}");
    assert!(iter.key().is_some_and(|key| key.starts_with(&[0; 4])), "it is shown as it reads");
    assert_eq!(iter.filter(|entry| entry.is_ok()).count(), KEYS as usize - 1);
    engine.let_go();
}

#[test]
fn a_delete_behind_a_point_hides_its_key_from_later_cursors_only() {
    let engine = filled(true);
    let delete = |number: u32| {
        let done = engine.delete(WholeStore, &WriteOptions::default(), &key(number));
        assert!(done.expect("room"));
    };
    let shown = |cursor: &mut crate::engine::iter::Iter| {
        let mut keys = Vec::new();
        while cursor.move_next().expect("sound") {
            keys.push(cursor.key().expect("it is on one").to_vec());
        }
        keys
    };
    let iter = || engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
    (0..100).for_each(delete);
    let mut before = iter();
    (100..200).for_each(delete);
    let mut between = iter();
    engine.put(WholeStore, &WriteOptions::default(), &key(50), &[8; 20]).expect("room");
    let mut after = iter();
    let keys = |numbers: std::ops::Range<u32>| numbers.map(key).collect::<Vec<_>>();
    assert_eq!(shown(&mut before), keys(100..KEYS));
    assert_eq!(shown(&mut between), keys(200..KEYS));
    assert_eq!(shown(&mut after), [keys(50..51), keys(200..KEYS)].concat());
}

#[test]
fn a_chunk_that_is_gone_leaves_its_memory_to_the_next_one_but_not_what_was_in_it_nor_very_much() {
    let engine = filled(true);
    rot(&engine, 3, b"x");
    let mut chunk = Chunk::default();
    chunk.restart(Direction::Forward, Bound::Unbounded, 16);
    engine.fill_chunk(&engine.default, &mut chunk, &Limits::default(), Seq::LAST).expect("it is open");
    let memory = chunk.bytes.as_ptr();
    assert!(chunk.len() >= 16 && !chunk.bytes.is_empty());
    drop(chunk);
    let mut next = Chunk::default();
    assert_eq!(next.bytes.as_ptr(), memory);
    assert!(next.len() == 0 && next.bytes.is_empty() && next.check(3).is_ok() && next.key(0).is_none());
    next.restart(Direction::Forward, Bound::Unbounded, 1000);
    drop(next);
    assert_eq!(Chunk::default().bytes.capacity(), 0, "a thread that once scanned far holds little");
}
