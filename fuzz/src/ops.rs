//! Random calls of the Rust interface against a map, on a simulated medium that is small enough to become full, with
//! clean closes and kills in between.

use super::image::BASES;
use super::input::Input;
use super::spaces::Spaces;
use flatkv::testing::Media;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Durability, Error, Store, WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

const CALLS_MAX: usize = 400;

pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

struct Subject {
    media: Arc<SimMedia>,
    store: Store,
    kind: SimKind,
    capacity: u64,
    logs: usize,
    spaces: Spaces,
    /// The store can no longer be written to.
    is_over: bool,
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let switches = input.byte();
    let kind = if switches & 1 != 0 { SimKind::File } else { SimKind::Pm };
    let capacity = if switches & 2 != 0 { 64 << 10 } else { 1 << 20 };
    let logs = if switches & 4 != 0 { 3 } else { 1 };
    let media =
        Arc::new(SimMedia::from_image(kind, BASES[if kind == SimKind::File { 5 } else { 0 }], capacity));
    let store = open(&media, logs, false).expect("an empty pool opens");
    let mut subject =
        Subject { media, store, kind, capacity, logs, spaces: Spaces::default(), is_over: false };
    let mut model = Model::new();
    for number in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut subject, &mut model, &mut input, number as u8);
        if subject.is_over {
            break;
        }
    }
    compare_all(&subject, &model);
    if !subject.is_over {
        reopen(&mut subject, true);
        compare_all(&subject, &model);
    }
}

fn open(media: &Arc<SimMedia>, logs: usize, read_only: bool) -> Result<Store, Error> {
    let media: Arc<dyn Media> = media.clone();
    let options = flatkv::testing::with_logs(flatkv::testing::options(), logs).read_only(read_only);
    flatkv::testing::open_on(media, options)
}

/// A full pool whose reserve earlier recoveries used up opens for reading only: that ends the run.
fn reopen(subject: &mut Subject, cleanly: bool) {
    subject.spaces.forget_held();
    if cleanly {
        subject.store.close().expect("nothing is pinned");
    } else {
        flatkv::testing::kill(&subject.store);
    }
    let image = subject.media.view();
    subject.media = Arc::new(SimMedia::from_image(subject.kind, &image, subject.capacity));
    subject.store = match open(&subject.media, subject.logs, false) {
        Err(Error::NoSpace { .. }) => {
            subject.is_over = true;
            let image = subject.media.view();
            subject.media = Arc::new(SimMedia::from_image(subject.kind, &image, subject.capacity));
            open(&subject.media, subject.logs, true)
        }
        answer => answer,
    }
    .expect("a pool that only this test changed opens");
}

/// A few keys, so that they are overwritten: short ones, long ones, and one that is a prefix of others.
pub fn key(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() {
        choice @ 0..200 => vec![b'k', choice % 12],
        choice @ 200..250 => vec![choice; 1 + usize::from(choice % 5) * 61],
        _ => b"k".to_vec(),
    }
}

pub fn value(input: &mut Input<'_>, number: u8) -> Vec<u8> {
    let len = match input.byte() {
        choice @ 0..120 => usize::from(choice),
        choice @ 120..200 => usize::from(choice) * 6,
        choice @ 200..250 => usize::from(choice - 190) * 300,
        choice => usize::from(choice - 248) * 4096,
    };
    vec![number; len]
}

/// What a write may answer besides success: a full store changes nothing.
fn is_full(error: &Error) -> bool {
    matches!(error, Error::NoSpace { .. } | Error::TooLarge { .. })
}

/// True if the write was done.
pub fn done<T>(answer: Result<T, Error>, what: &str) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if is_full(&error) => None,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn step(subject: &mut Subject, model: &mut Model, input: &mut Input<'_>, number: u8) {
    let store = &subject.store;
    let call = match input.byte() {
        240..248 => return subject.spaces.step(store, model, input, number),
        248.. => return subject.spaces.hold_or_let_go(store, model),
        call => call,
    };
    match call % 16 {
        0..=3 => {
            let (key, value) = (key(input), value(input, number));
            if done(store.put(&key, &value), "put").is_some() {
                model.insert(key, value);
            }
        }
        4 => {
            let (key, value) = (key(input), value(input, number));
            let options = WriteOptions::new().durability(Durability::Os);
            if done(store.put_with(&options, &key, &value), "os put").is_some() {
                model.insert(key, value);
            }
        }
        5 | 6 => {
            let key = key(input);
            if let Some(was_there) = done(store.delete(&key), "delete") {
                assert_eq!(was_there, model.remove(&key).is_some());
            }
        }
        7 => batch(store, model, input, number),
        8 => asynchronous(store, model, input, number),
        9 => {
            let key = key(input);
            compare(store, model, &key);
        }
        10 => {
            let keys: Vec<Vec<u8>> = (0..20).map(|_| key(input)).collect();
            let borrowed: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            for (key, got) in keys.iter().zip(store.multi_get(&borrowed)) {
                assert_eq!(got.expect("readable").as_ref(), model.get(key), "{key:?}");
            }
        }
        11 => pinned(store, model, input, number),
        12 => store.sync().expect("nothing fails"),
        13 => {
            let (key, value) = (key(input), value(input, number));
            assert!(store.put(b"", &value).is_err());
            assert!(store.put(&vec![1; 65_537], b"").is_err());
            compare(store, model, &key);
        }
        14 => reopen(subject, true),
        _ => reopen(subject, false),
    }
}

fn batch(store: &Store, model: &mut Model, input: &mut Input<'_>, number: u8) {
    let mut batch = WriteBatch::new();
    let mut changed = model.clone();
    for _ in 0..input.byte() % 24 {
        let key = key(input);
        if input.byte().is_multiple_of(4) {
            batch.delete(&key).expect("a key that may be");
            changed.remove(&key);
        } else {
            let value = value(input, number);
            batch.put(&key, &value).expect("a key and a value that may be");
            changed.insert(key, value);
        }
    }
    if done(store.write(&batch), "batch").is_some() {
        *model = changed;
    }
}

fn asynchronous(store: &Store, model: &mut Model, input: &mut Input<'_>, number: u8) {
    let mut last = None;
    for _ in 0..1 + input.byte() % 8 {
        let (key, value) = (key(input), value(input, number));
        if let Some(ticket) = done(store.put_async(&key, &value), "asynchronous put") {
            assert!(last.is_none_or(|last| ticket > last), "tickets are given in order");
            last = Some(ticket);
            model.insert(key, value);
        }
    }
    if let Some(last) = last {
        store.wait(last).expect("what was accepted is written");
        assert!(store.durable_ticket() >= last);
    }
}

fn pinned(store: &Store, model: &mut Model, input: &mut Input<'_>, number: u8) {
    let key = key(input);
    let before = model.get(&key).cloned();
    let Some(pin) = store.get_pinned(&key).expect("readable") else {
        assert_eq!(before, None);
        return;
    };
    assert!(matches!(store.close(), Err(Error::Busy(_))));
    for _ in 0..4 {
        let value = value(input, number);
        if done(store.put(&key, &value), "put under a pin").is_some() {
            model.insert(key.clone(), value);
        }
    }
    assert_eq!(before.as_deref(), Some(&*pin), "a pinned value does not change");
}

fn compare(store: &Store, model: &Model, key: &[u8]) {
    let expected = model.get(key);
    assert_eq!(store.get(key).expect("readable").as_ref(), expected, "{key:?}");
    assert_eq!(store.exists(key).expect("readable"), expected.is_some());
    let mut buffer = [0; 300];
    match (store.get_into(key, &mut buffer), expected) {
        (Ok(None), None) => {}
        (Ok(Some(len)), Some(value)) => assert_eq!(&buffer[..len], &value[..]),
        (Err(Error::BufferTooSmall { needed, .. }), Some(value)) => {
            assert!(needed == value.len() && needed > buffer.len());
        }
        (answer, _) => panic!("get_into of {key:?}: {answer:?}"),
    }
}

fn compare_all(subject: &Subject, model: &Model) {
    subject.spaces.compare_all(&subject.store, model);
    let keys = (0..12).map(|i| vec![b'k', i]).chain([b"k".to_vec(), b"never".to_vec()]);
    for key in keys.chain(model.keys().cloned()) {
        compare(&subject.store, model, &key);
    }
}
