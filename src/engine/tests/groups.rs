//! What is read and written together: groups of keys, one after the other and as a whole.

use super::{engine_with_two_logs, on_the_other_log, opened_on, opened_with};
use crate::engine::look::NoValue;
use crate::engine::{Engine, WholeStore};
use crate::epoch;
use crate::error::{Error, Result};
use crate::index::hash::HashIndex;
use crate::media::Media;
use crate::media::sim::{SimKind, SimMedia};
use crate::options::{CommitPolicy, WriteOptions};
use crate::space::Purpose;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::testing;
use crate::write_batch::WriteBatch;
use std::time::{Duration, Instant};

fn put(engine: &Engine<HashIndex>, key: &[u8], value: &[u8]) {
    engine.put(WholeStore, &WriteOptions::default(), key, value).expect("room");
}

fn get(engine: &Engine<HashIndex>, key: &[u8]) -> Option<Vec<u8>> {
    engine.get(WholeStore, key).expect("intact")
}

fn batch_of(puts: &[(&[u8], &[u8])]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    puts.iter().for_each(|(key, value)| batch.put(key, value).expect("sound"));
    batch
}

fn write(engine: &Engine<HashIndex>, batch: &WriteBatch) {
    engine.write(WholeStore, &WriteOptions::default(), batch).expect("room");
}

/// The gets of large values among many keys were made under the pin of the group: nothing came free while they were copied.
#[test]
fn nothing_is_pinned_while_a_large_value_is_read_among_many() {
    let engine = engine_with_two_logs();
    put(&engine, b"small", &[1; 40]);
    put(&engine, b"large", &[7; 20_000]);
    let mut left_to_gets = Vec::new();
    engine.look_group(WholeStore, &[b"small", b"large", b"small"], |at, look| {
        if look == Err(NoValue::Unknown) {
            left_to_gets.push(at);
            let freed = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&freed);
            epoch::retire(&epoch::pin(), 0, move || told.store(true, Ordering::Release));
            // Other tests pin for a moment.
            let begin = Instant::now();
            while !freed.load(Ordering::Acquire) {
                assert!(begin.elapsed() < Duration::from_secs(60), "key {at} is got under a pin");
                epoch::help_grace_period();
            }
        }
    });
    assert_eq!(left_to_gets, [1, 2]);
}

/// With `commit=lone` the delete went to a log that had a head, past the put, which came later then.
#[test]
fn a_batch_of_one_delete_from_a_full_pool_comes_behind_the_asynchronous_put_before_it() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = opened_on(Arc::clone(&media), true);
    put(&engine, b"before", b"value");
    on_the_other_log(|| put(&engine, b"before", b"value"));
    engine.abandon();
    let options = testing::with_logs(testing::options(), 2).commit(CommitPolicy::Lone);
    let engine = opened_with(media, false, options);
    on_the_other_log(|| put(&engine, b"other", b"value"));
    let ticket = engine.put_async(WholeStore, b"key", b"value").expect("room");
    let mut taken = Vec::new();
    while engine.space.available(Purpose::Delete) >= 2 {
        taken.push(engine.space.take_slot(Purpose::Delete).expect("it is available"));
    }
    let mut batch = WriteBatch::new();
    batch.delete(b"key").expect("sound");
    write(&engine, &batch);
    engine.wait(ticket).expect("durable");
    assert_eq!(get(&engine, b"key"), None);
    taken.into_iter().for_each(|slot| engine.space.return_slot(slot));
}

/// Neither looks for the stamps of what it replaces: they ask the logs.
#[test]
fn what_is_written_together_replaces_what_a_log_with_later_stamps_wrote_before() {
    type Write = fn(&Engine<HashIndex>);
    let large = |engine: &Engine<HashIndex>| {
        let value = [3; 400];
        let keys: Vec<[u8; 2]> = (0..40_u16).map(u16::to_be_bytes).collect();
        let mut puts: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &value[..])).collect();
        puts.push((b"key", b"after"));
        write(engine, &batch_of(&puts));
    };
    let writes: [(&str, Write); 5] = [
        ("a batch", |engine| write(engine, &batch_of(&[(b"key", b"after"), (b"other", b"")]))),
        ("a batch of one", |engine| write(engine, &batch_of(&[(b"key", b"after")]))),
        ("a batch of parts", large),
        ("an asynchronous put", |engine| {
            let ticket = engine.put_async(WholeStore, b"key", b"after").expect("room");
            engine.wait(ticket).expect("durable");
        }),
        ("an asynchronous batch", |engine| {
            let ticket = engine.write_async(WholeStore, &batch_of(&[(b"key", b"after")])).expect("room");
            engine.wait(ticket).expect("durable");
        }),
    ];
    for (what, write) in writes {
        let media = Arc::new(SimMedia::new(SimKind::Pm, 4 << 20));
        let engine = opened_on(Arc::clone(&media), true);
        on_the_other_log(|| (0..100_u8).for_each(|i| put(&engine, b"key", &[i])));
        write(&engine);
        assert_eq!(get(&engine, b"key").as_deref(), Some(&b"after"[..]), "{what}");
        engine.close().expect("nothing is pinned");
        drop(engine);
        let engine = opened_on(media, false);
        assert_eq!(get(&engine, b"key").as_deref(), Some(&b"after"[..]), "{what}, after an open");
    }
}

#[test]
fn of_asynchronous_puts_of_one_key_in_one_group_the_last_counts() {
    let engine = engine_with_two_logs();
    let spaces = ["one", "two"].map(|name| engine.open_keyspace(name).expect("room"));
    let mut last = 0;
    for i in 0..100_u8 {
        engine.put_async(WholeStore, b"old and new", &[i]).expect("room");
        // Runs of one keyspace end in the middle of groups.
        let space = &spaces[usize::from(i / 7 % 2)];
        last = engine.put_async(&**space, &[i % 5], &[i]).expect("room");
    }
    engine.wait(last).expect("durable");
    assert_eq!(get(&engine, b"old and new"), Some(vec![99]));
    for (number, space) in spaces.iter().enumerate() {
        for key in 0..5_u8 {
            let of_space = |i: &u8| usize::from(i / 7 % 2) == number && i % 5 == key;
            let newest = (0..100_u8).rfind(of_space).map(|i| vec![i]);
            assert_eq!(engine.get(&**space, &[key]).expect("intact"), newest, "{key} of {number}");
        }
    }
}

#[test]
fn of_operations_of_one_key_in_a_batch_of_any_length_the_last_counts() {
    for len in [2, 3, 31, 32, 33, 127, 128, 129, 300_u16] {
        for (first, again) in [(0, 1), (0, len - 1), (len - 2, len - 1)] {
            let engine = engine_with_two_logs();
            let mut batch = WriteBatch::new();
            for i in 0..len {
                let key = if i == again { first } else { i };
                batch.put(&key.to_be_bytes(), &i.to_be_bytes()).expect("sound");
            }
            write(&engine, &batch);
            for i in (0..len).filter(|i| *i != again) {
                let newest = if i == first { again } else { i };
                let expected = Some(newest.to_be_bytes().to_vec());
                assert_eq!(
                    get(&engine, &i.to_be_bytes()),
                    expected,
                    "{i} of {len}, {first} again as {again}"
                );
            }
            assert_eq!(engine.key_count(), u64::from(len - 1));
        }
    }
}

#[test]
fn of_many_keys_each_has_an_answer_of_its_own() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = opened_on(Arc::clone(&media), true);
    for i in 0..70_u8 {
        put(&engine, &[b'k', i], &[i; 40]);
    }
    put(&engine, b"large", &[7; 20_000]);
    put(&engine, b"gone", b"value");
    engine.delete(WholeStore, &WriteOptions::default(), b"gone").expect("room");
    let at = media.view().windows(40).position(|bytes| bytes == [50; 40]).expect("it was written");
    media.write(at as u64, &[51]).expect("simulated");
    let small: Vec<[u8; 2]> = (0..70).map(|i| [b'k', i]).collect();
    let mut keys: Vec<&[u8]> = small.iter().map(|key| &key[..]).collect();
    keys.splice(40..40, [&b"absent"[..], b"", b"large", b"gone", &[1; 70_000]]);
    let found: Vec<Result<Option<Vec<u8>>>> = engine.multi_get(WholeStore, &keys);
    assert_eq!(found.len(), keys.len());
    for (key, found) in keys.iter().zip(found) {
        match (*key, found) {
            (b"absent" | b"gone", Ok(None)) => {}
            (b"", Err(Error::InvalidArgument(_))) => {}
            (b"large", Ok(Some(value))) => assert_eq!(value, [7; 20_000]),
            ([b'k', 50], Err(Error::Corrupted { .. })) => {}
            ([b'k', i], Ok(Some(value))) => assert_eq!(value, [*i; 40]),
            (key, Err(Error::TooLarge { .. })) => assert_eq!(key.len(), 70_000),
            (key, found) => panic!("{key:?}: {found:?}"),
        }
    }
}
