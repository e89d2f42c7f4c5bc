//! Keyspaces against maps of maps: what is put into one is in no other, batches go across all of them wholly or not at all,
//! what is dropped or cleared is gone at once and stays gone, and its space comes back.

mod common;

use common::{MEDIA, Rng, assert_sound, memory_dir, report, small, stat};
use flatkv::{Error, IndexKind, Iter, MediaChoice, Options, Snapshot, Store, WriteBatch};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const INDEXES: [IndexKind; 2] = [IndexKind::Hash, IndexKind::Ordered];
const SEEDS: u64 = 8;
const STEPS: usize = 1_500;
const NAMES: usize = 6;
const KEYS: u8 = 40;
const LONG: Duration = Duration::from_secs(20);

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// The maps of the keyspaces that there are, by name.
type Maps = BTreeMap<String, Map>;
/// How often each name was dropped: its generation.
type Drops = BTreeMap<String, u64>;

fn name(number: usize) -> String {
    // Every third one is as long as a name may be.
    let length = if number.is_multiple_of(3) { 255 } else { 4 };
    format!("{number:0>length$}")
}

fn key(rng: &mut Rng) -> Vec<u8> {
    // Few, so that keyspaces have the same ones.
    [&b"key/"[..], &[rng.below(KEYS.into()) as u8]].concat()
}

/// All that random work uses.
fn keys() -> impl Iterator<Item = Vec<u8>> {
    (0..KEYS).map(|number| [&b"key/"[..], &[number]].concat())
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(20) {
        0 => 6_000 + rng.below(9_000),
        1..4 => 0,
        _ => rng.below(120),
    };
    rng.bytes(len)
}

fn options(media: MediaChoice, index: IndexKind) -> Options {
    small(media, 32 << 10).index(index).inline_value_bytes_max(4_000)
}

/// Every keyspace, and the default one, which is named "" here.
fn assert_shows(store: &Store, maps: &Maps, when: &str) {
    let names: Vec<String> = maps.keys().filter(|name| !name.is_empty()).cloned().collect();
    assert_eq!(store.keyspace_names().unwrap(), names, "{when}");
    for (name, map) in maps {
        let keyspace = if name.is_empty() { store.clone() } else { store.keyspace(name).unwrap() };
        for key in keys() {
            assert_eq!(keyspace.get(&key).unwrap().as_ref(), map.get(&key), "{when}: {key:?} in {name:?}");
        }
        assert_snapshot_shows(&keyspace.snapshot().unwrap(), map, when);
    }
}

fn assert_snapshot_shows(snapshot: &Snapshot, map: &Map, when: &str) {
    match snapshot.iter() {
        Ok(iter) => assert_eq!(iter.map(Result::unwrap).collect::<Map>(), *map, "{when}"),
        Err(Error::Unsupported(_)) => {
            map.iter().for_each(|(key, value)| {
                assert_eq!(snapshot.get(key).unwrap().as_ref(), Some(value), "{when}")
            });
        }
        Err(error) => panic!("{when}: {error}"),
    }
}

/// The keyspaces at one moment: a snapshot of the store, and beside what each of them held its handle of then, which tells
/// generations of a name apart, and an iterator where the index has an order.
struct Moment {
    snapshot: Snapshot,
    maps: Maps,
    drops: Drops,
    handles: BTreeMap<String, (Store, Option<Iter>)>,
}

impl Moment {
    fn now(store: &Store, maps: &Maps, drops: &Drops) -> Moment {
        let held = |name: &String| {
            let handle = if name.is_empty() { store.clone() } else { store.keyspace(name).unwrap() };
            let iter = match handle.iter() {
                Ok(iter) => Some(iter),
                Err(Error::Unsupported(_)) => None,
                Err(error) => panic!("no iterator: {error}"),
            };
            (name.clone(), (handle, iter))
        };
        let handles = maps.keys().map(held).collect();
        Moment { snapshot: store.snapshot().unwrap(), maps: maps.clone(), drops: drops.clone(), handles }
    }

    /// Through the handles of then, dropped or not, and through those that the names have now.
    fn assert_is_still_shown(self, store: &Store, now: &Maps, drops: &Drops, when: &str) {
        for (name, (handle, iter)) in self.handles {
            let (then, when) = (&self.maps[&name], format!("{when}: {name:?} as it was"));
            assert_all_shown(&handle.snapshot_at(&self.snapshot).unwrap(), then, &when);
            if let Some(iter) = iter {
                assert_eq!(
                    iter.map(Result::unwrap).collect::<Map>(),
                    *then,
                    "{when}, by an iterator of then"
                );
            }
        }
        let names: Vec<&String> = self.maps.keys().filter(|name| !name.is_empty()).collect();
        assert_eq!(self.snapshot.keyspace_names().unwrap().iter().collect::<Vec<_>>(), names, "{when}");
        for name in names {
            let then = self.snapshot.keyspace(name).unwrap().expect("it was there");
            assert_all_shown(&then, &self.maps[name], &format!("{when}: {name:?} by its name of then"));
        }
        for name in now.keys().filter(|name| !name.is_empty()) {
            let was_there = self.snapshot.keyspace(name).unwrap().is_some();
            assert_eq!(was_there, self.maps.contains_key(name), "{when}: {name:?}");
            let is_same = drops.get(name) == self.drops.get(name);
            let then = self.maps.get(name).filter(|_| is_same).cloned().unwrap_or_default();
            let shown = store.keyspace(name).unwrap().snapshot_at(&self.snapshot).unwrap();
            assert_all_shown(&shown, &then, &format!("{when}: {name:?} of now, as it was"));
        }
    }
}

fn assert_all_shown(snapshot: &Snapshot, map: &Map, when: &str) {
    for key in keys() {
        assert_eq!(snapshot.get(&key).unwrap().as_ref(), map.get(&key), "{when}: {key:?}");
    }
    assert_snapshot_shows(snapshot, map, when);
}

/// One random step, on the store and on the maps.
fn step(store: &Store, maps: &mut Maps, drops: &mut Drops, rng: &mut Rng) {
    let name = if rng.one_in(7) { String::new() } else { name(rng.below(NAMES)) };
    let is_named = !name.is_empty();
    if rng.one_in(40) && is_named {
        let was_there = maps.remove(&name).is_some();
        assert_eq!(store.drop_keyspace(&name).unwrap(), was_there);
        *drops.entry(name).or_default() += u64::from(was_there);
        return;
    }
    let keyspace = if is_named { store.keyspace(&name).unwrap() } else { store.clone() };
    let map = maps.entry(name.clone()).or_default();
    match rng.below(12) {
        0 if is_named => {
            keyspace.clear().unwrap();
            map.clear();
        }
        1..4 => {
            let key = key(rng);
            assert_eq!(keyspace.delete(&key).unwrap(), map.remove(&key).is_some());
        }
        4 => {
            let mut batch = WriteBatch::new();
            for _ in 0..1 + rng.below(60) {
                let key = key(rng);
                let other = maps.keys().nth(rng.below(maps.len())).unwrap().clone();
                let target = if other.is_empty() { store.clone() } else { store.keyspace(&other).unwrap() };
                if rng.one_in(4) {
                    batch.delete_in(&target, &key).unwrap();
                    maps.get_mut(&other).unwrap().remove(&key);
                } else {
                    let value = value(rng);
                    batch.put_in(&target, &key, &value).unwrap();
                    maps.get_mut(&other).unwrap().insert(key, value);
                }
            }
            if rng.one_in(2) {
                let (key, value) = (key(rng), value(rng));
                batch.put(&key, &value).unwrap();
                maps.get_mut(&name).unwrap().insert(key, value);
            }
            if rng.one_in(3) {
                let ticket = keyspace.write_async(&batch).unwrap();
                keyspace.wait(ticket).unwrap();
            } else {
                keyspace.write(&batch).unwrap();
            }
        }
        5 => {
            let (key, value) = (key(rng), value(rng));
            let ticket = keyspace.put_async(&key, &value).unwrap();
            store.wait(ticket).unwrap();
            map.insert(key, value);
        }
        _ => {
            let (key, value) = (key(rng), value(rng));
            keyspace.put(&key, &value).unwrap();
            map.insert(key, value);
        }
    }
}

#[test]
fn random_work_in_many_keyspaces_is_what_maps_of_maps_do_across_reopening_with_either_index() {
    let dir = memory_dir();
    let mut dropped_since = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng(seed);
        let media = MEDIA[seed as usize % 2];
        let path = dir.path().join(format!("random-{seed}.fkv"));
        let mut maps = Maps::from([(String::new(), Map::new())]);
        let mut store = options(media, INDEXES[seed as usize / 2 % 2]).open(&path).unwrap();
        let (mut drops, mut held) = (Drops::new(), Vec::<Moment>::new());
        for number in 0..STEPS {
            step(&store, &mut maps, &mut drops, &mut rng);
            if rng.one_in(100) {
                held.push(Moment::now(&store, &maps, &drops));
            }
            if rng.one_in(60) && !held.is_empty() {
                let moment = held.swap_remove(rng.below(held.len()));
                let when = format!("seed {seed}, after {number} steps");
                let is_gone = |name: &&String| drops.get(*name) != moment.drops.get(*name);
                dropped_since += moment.maps.keys().filter(is_gone).count();
                moment.assert_is_still_shown(&store, &maps, &drops, &when);
            }
            if number % (STEPS / 3) == STEPS / 3 - 1 {
                held.clear();
                let when = format!("seed {seed}, after {number} steps");
                assert_shows(&store, &maps, &when);
                assert_sound(&store, &when);
                store.close().unwrap();
                drop(store);
                store = options(media, INDEXES[rng.below(2)]).open(&path).unwrap();
                assert_shows(&store, &maps, &format!("{when}, reopened"));
                assert_sound(&store, &format!("{when}, reopened"));
            }
        }
    }
    assert!(dropped_since > 100, "only {dropped_since} maps of keyspaces that were dropped since");
}

#[test]
fn a_snapshot_shows_what_was_dropped_and_cleared_since_and_an_iterator_goes_on() {
    let dir = memory_dir();
    for (number, media) in MEDIA.into_iter().enumerate() {
        let store =
            options(media, IndexKind::Ordered).open(dir.path().join(format!("{number}.fkv"))).unwrap();
        let [dropped, cleared] = ["dropped", "cleared"].map(|name| store.keyspace(name).unwrap());
        let mut map = Map::new();
        for number in 0..2_000_u32 {
            let (key, value) = (
                number.to_be_bytes().to_vec(),
                vec![number as u8; 50 + 20_000 * usize::from(number % 500 == 0)],
            );
            dropped.put(&key, &value).unwrap();
            cleared.put(&key, &value).unwrap();
            map.insert(key, value);
        }
        let before = store.snapshot().unwrap();
        let own = dropped.snapshot().unwrap();
        let mut iter = cleared.iter().unwrap();
        (0..100).for_each(|_| assert!(iter.move_next().unwrap()));
        assert!(store.drop_keyspace("dropped").unwrap());
        cleared.clear().unwrap();
        assert!(matches!(dropped.get(b"key"), Err(Error::Dropped)));
        assert!(matches!(dropped.put(b"key", b""), Err(Error::Dropped)));
        assert!(matches!(dropped.snapshot(), Err(Error::Dropped)));
        assert_eq!(cleared.get(&7_u32.to_be_bytes()).unwrap(), None);
        cleared.put(b"new", b"value").unwrap();
        let again = store.keyspace("dropped").unwrap();
        again.put(b"again", b"value").unwrap();
        for pass in 0..3 {
            // The cleaner has work, and does not take what snapshots show.
            (0..3_000_u32).for_each(|key| store.put(&key.to_be_bytes(), &[pass; 100]).unwrap());
            for shown in
                [own.clone(), dropped.snapshot_at(&before).unwrap(), cleared.snapshot_at(&before).unwrap()]
            {
                assert_snapshot_shows(&shown, &map, "from before");
            }
            assert_snapshot_shows(&again.snapshot_at(&before).unwrap(), &Map::new(), "it was not there");
        }
        let mut seen = 100;
        while iter.move_next().unwrap() {
            seen += 1;
        }
        assert_eq!(seen, map.len(), "the iterator goes on");
        let now = cleared.snapshot_at(&store.snapshot().unwrap()).unwrap();
        assert_snapshot_shows(&now, &Map::from([(b"new".to_vec(), b"value".to_vec())]), "as it is now");
        assert_eq!(stat(&store, "keyspaces.dropped"), 2, "a point shows both");
        drop((before, own, iter, now));
        let since = Instant::now();
        while stat(&store, "keyspaces.dropped") > 0 {
            assert!(since.elapsed() < LONG, "they are never reclaimed: {}", store.stats_json());
            thread::sleep(Duration::from_millis(5));
        }
        assert_sound(&store, "reclaimed");
        assert_eq!(again.get(b"again").unwrap(), Some(b"value".to_vec()));
    }
}

#[test]
fn thousands_of_keyspaces_are_found_listed_and_reopened() {
    const COUNT: usize = 4_000;
    let dir = memory_dir();
    let path = dir.path().join("many.fkv");
    let open = |index| {
        Options::new().media(MediaChoice::EmulatedPm).index(index).max_bytes(256 << 20).open(&path).unwrap()
    };
    let names: Vec<String> = (0..COUNT).map(|number| format!("keyspace {number:05}")).collect();
    let mut store = open(IndexKind::Ordered);
    for name in &names {
        store.keyspace(name).unwrap().put(b"name", name.as_bytes()).unwrap();
    }
    for index in INDEXES {
        assert_eq!(store.keyspace_names().unwrap(), names);
        for name in &names {
            assert_eq!(store.keyspace(name).unwrap().get(b"name").unwrap(), Some(name.clone().into_bytes()));
        }
        assert_eq!(stat(&store, "keys"), COUNT as u64);
        assert_eq!(store.get(b"name").unwrap(), None);
        store.close().unwrap();
        drop(store);
        store = open(index);
    }
    for name in &names[1..] {
        assert!(store.drop_keyspace(name).unwrap());
    }
    assert_eq!(store.keyspace_names().unwrap(), names[..1]);
    assert_sound(&store, "nearly all dropped");
    store.close().unwrap();
    drop(store);
    // Nothing in the log names some of them any more, or all of them still: either way they stay dropped.
    for _ in 0..2 {
        store = open(IndexKind::Hash);
        assert_eq!(store.keyspace_names().unwrap(), names[..1]);
        store.keyspace("another").unwrap();
        assert!(store.drop_keyspace("another").unwrap());
        assert_sound(&store, "reopened");
        store.close().unwrap();
        drop(store);
    }
}

#[test]
fn names_have_limits_and_the_default_keyspace_is_no_named_one() {
    let dir = memory_dir();
    let store = options(MediaChoice::EmulatedPm, IndexKind::Hash).open(dir.path().join("names.fkv")).unwrap();
    for bad in ["", "with\0nul", "\0"] {
        assert!(matches!(store.keyspace(bad), Err(Error::InvalidArgument(_))), "{bad:?}");
        assert!(matches!(store.drop_keyspace(bad), Err(Error::InvalidArgument(_))), "{bad:?}");
    }
    let long = "n".repeat(256);
    assert!(matches!(store.keyspace(&long), Err(Error::TooLarge { len: 256, max: 255, .. })));
    assert!(store.keyspace_names().unwrap().is_empty(), "nothing was made");
    assert!(!store.drop_keyspace("absent").unwrap());
    let wide = "\u{20ac}".repeat(85);
    store.keyspace(&long[..255]).unwrap().put(b"key", b"long").unwrap();
    store.keyspace(&wide).unwrap().put(b"key", b"wide").unwrap();
    assert_eq!(store.keyspace_names().unwrap(), [&long[..255], &wide]);
    assert!(matches!(store.clear(), Err(Error::InvalidArgument(_))), "the default keyspace stays");
    // A handle leads to the same keyspaces as its store does.
    let handle = store.keyspace(&wide).unwrap();
    assert_eq!(handle.keyspace(&long[..255]).unwrap().get(b"key").unwrap(), Some(b"long".to_vec()));
    handle.close().unwrap();
    assert_eq!(handle.get(b"key").unwrap(), Some(b"wide".to_vec()), "closing it closes nothing");
    store.close().unwrap();
    assert!(matches!(handle.get(b"key"), Err(Error::Closed)));
    assert!(matches!(handle.keyspace("other"), Err(Error::Closed)));
}

#[test]
fn a_snapshot_lists_and_opens_keyspaces_by_the_names_of_then() {
    let dir = memory_dir();
    for index in INDEXES {
        let store =
            options(MediaChoice::File, index).open(dir.path().join(format!("{index:?}.fkv"))).unwrap();
        let nothing = store.snapshot().unwrap();
        let put = |name: &str, value: &[u8]| {
            let keyspace = store.keyspace(name).unwrap();
            keyspace.put(b"key", value).unwrap();
            keyspace
        };
        let (kept, _) = (put("kept", b"of then"), put("gone", b"of then"));
        drop(put("again", b"of then"));
        let then = store.snapshot().unwrap();
        store.drop_keyspace("gone").unwrap();
        store.drop_keyspace("again").unwrap();
        kept.clear().unwrap();
        put("kept", b"of now");
        put("again", b"of now");
        put("new", b"of now");
        assert_eq!(nothing.keyspace_names().unwrap(), Vec::<String>::new());
        assert!(nothing.keyspace("gone").unwrap().is_none());
        // By a snapshot of the store, and by one that shows a keyspace itself.
        for then in [then.clone(), then.keyspace("kept").unwrap().expect("it was there")] {
            assert_eq!(then.keyspace_names().unwrap(), ["again", "gone", "kept"]);
            assert!(then.keyspace("new").unwrap().is_none());
            for name in ["again", "gone", "kept"] {
                let shown = then.keyspace(name).unwrap().expect("it was there");
                assert_eq!(shown.get(b"key").unwrap(), Some(b"of then".to_vec()), "{name}");
                let values: Vec<_> =
                    shown.multi_get(&[b"key", b"other"]).into_iter().map(Result::unwrap).collect();
                assert_eq!(values, [Some(b"of then".to_vec()), None], "{name}");
                assert_snapshot_shows(&shown, &Map::from([(b"key".to_vec(), b"of then".to_vec())]), name);
            }
        }
        assert!(matches!(then.keyspace(""), Err(Error::InvalidArgument(_))));
        assert!(matches!(then.keyspace(&"n".repeat(256)), Err(Error::TooLarge { .. })));
        // What it gave keeps the moment.
        let gone = then.keyspace("gone").unwrap().expect("it was there");
        drop((nothing, then));
        (0..3_000_u32).for_each(|key| store.put(&key.to_be_bytes(), &[7; 100]).unwrap());
        assert_eq!(gone.get(b"key").unwrap(), Some(b"of then".to_vec()));
        assert_eq!(store.snapshot().unwrap().keyspace_names().unwrap(), ["again", "kept", "new"]);
        store.close().unwrap();
        assert!(matches!(gone.keyspace("gone"), Err(Error::Closed)));
        assert!(matches!(gone.keyspace_names(), Err(Error::Closed)));
    }
}

#[test]
fn snapshots_beside_changes_of_the_catalogue_list_what_they_can_open() {
    let dir = memory_dir();
    let store = options(MediaChoice::File, IndexKind::Ordered).open(dir.path().join("beside.fkv")).unwrap();
    let (is_over, is_enough) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut shown_any, mut snapshots) = (0, 0);
    store.keyspace("always").unwrap().put(b"key", b"there").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // On a busy machine either thread may do most of its work while the other one waits for a core.
            let is_done = |round: &u32| *round >= 150 && is_enough.load(Ordering::Acquire);
            for round in (0..1_000_000_u32).take_while(|round| !is_done(round)) {
                let keyspace = store.keyspace(&format!("name {}", round % 5)).unwrap();
                keyspace.put(b"key", &round.to_be_bytes()).unwrap();
                match round % 3 {
                    0 => keyspace.clear().unwrap(),
                    1 => drop(store.drop_keyspace(&format!("name {}", round % 5)).unwrap()),
                    _ => {}
                }
            }
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            let then = store.snapshot().unwrap();
            let names = then.keyspace_names().unwrap();
            let shown =
                |name: &String| then.keyspace(name).unwrap().expect("it is listed").get(b"key").unwrap();
            let first: Vec<_> = names.iter().map(shown).collect();
            assert_eq!(names.first().map(String::as_str), Some("always"));
            assert_eq!(first[0].as_deref(), Some(&b"there"[..]));
            // A round's value belongs to the name of its round.
            for (name, value) in names.iter().zip(&first).skip(1) {
                let Some(value) = value else { continue };
                let round = u32::from_be_bytes(value.as_slice().try_into().unwrap());
                assert_eq!(*name, format!("name {}", round % 5));
                shown_any += 1;
            }
            snapshots += 1;
            is_enough.store(snapshots >= 10 && shown_any >= 10, Ordering::Release);
            assert_eq!(names.iter().map(shown).collect::<Vec<_>>(), first, "a moment does not change");
            assert_eq!(then.keyspace_names().unwrap(), names);
        }
    });
    assert!(snapshots >= 10 && shown_any >= 10, "{snapshots} snapshots, {shown_any} values");
}

#[test]
fn finding_a_keyspace_makes_none_and_works_where_writes_are_refused() {
    let dir = memory_dir();
    let path = dir.path().join("find.fkv");
    for index in [IndexKind::Hash, IndexKind::Ordered] {
        let store = options(MediaChoice::File, index).open(&path).unwrap();
        assert!(store.find_keyspace("there").unwrap().is_none());
        assert_eq!(store.keyspace_names().unwrap(), Vec::<String>::new());
        let made = store.keyspace("there").unwrap();
        made.put(b"key", b"value").unwrap();
        let found = store.find_keyspace("there").unwrap().expect("it was made");
        assert_eq!(found.get(b"key").unwrap(), Some(b"value".to_vec()));
        assert!(found.find_keyspace("absent").unwrap().is_none(), "by the handle of another one");
        assert!(matches!(store.find_keyspace(""), Err(Error::InvalidArgument(_))));
        assert!(matches!(store.find_keyspace(&"n".repeat(256)), Err(Error::TooLarge { .. })));
        drop((made, found));
        store.close().unwrap();
        drop(store);
        let reader = options(MediaChoice::File, index).read_only(true).open(&path).unwrap();
        assert!(reader.find_keyspace("there").unwrap().is_some());
        assert!(reader.find_keyspace("absent").unwrap().is_none());
        reader.close().unwrap();
        assert!(matches!(reader.find_keyspace("there"), Err(Error::Closed)));
        drop(reader);
        let store = options(MediaChoice::File, index).open(&path).unwrap();
        assert!(store.drop_keyspace("there").unwrap());
        assert!(store.find_keyspace("there").unwrap().is_none());
        store.close().unwrap();
    }
}

#[test]
fn a_batch_with_keyspaces_of_another_store_or_a_dropped_one_changes_nothing() {
    let dir = memory_dir();
    let [one, other] = ["one", "other"]
        .map(|name| options(MediaChoice::EmulatedPm, IndexKind::Hash).open(dir.path().join(name)).unwrap());
    let foreign = other.keyspace("keyspace").unwrap();
    let (own, gone) = (one.keyspace("keyspace").unwrap(), one.keyspace("gone").unwrap());
    assert!(one.drop_keyspace("gone").unwrap());
    one.keyspace("gone").unwrap();
    for (bad, why) in [(&foreign, "of another store"), (&other, "of another store"), (&gone, "dropped")] {
        let mut batch = WriteBatch::new();
        batch.put_in(&own, b"key", b"value").unwrap();
        batch.put_in(bad, b"key", b"value").unwrap();
        batch.put(b"key", b"value").unwrap();
        let refused = one.write(&batch).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
        let refused = one.write_async(&batch).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    assert_eq!((own.get(b"key").unwrap(), one.get(b"key").unwrap()), (None, None));
    assert!(matches!(one.snapshot_at(&other.snapshot().unwrap()), Err(Error::InvalidArgument(_))));
}

/// Writers put pairs into two keyspaces by batches while one of them is cleared, dropped and made again: whoever looks at a
/// snapshot sees no half of a batch that came after, and nothing that came before.
#[test]
fn clearing_and_dropping_beside_writers_leaves_whole_batches_only() {
    const ROUNDS: u64 = 60;
    let dir = memory_dir();
    for index in INDEXES {
        let options = options(MediaChoice::EmulatedPm, index).max_bytes(64 << 20);
        let store =
            options.open(dir.path().join(format!("beside-{}.fkv", index == IndexKind::Hash))).unwrap();
        let (kept, cleared) = (store.keyspace("kept").unwrap(), store.keyspace("cleared").unwrap());
        store.keyspace("churned").unwrap();
        let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let spawn = |writer: u8| {
                let (store, kept, cleared, is_over, written) = (&store, &kept, &cleared, &is_over, &written);
                scope.spawn(move || {
                    let mut rng = Rng(writer.into());
                    for round in 0_u64.. {
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                        let stamp = [&[writer][..], &round.to_be_bytes()].concat();
                        let mut batch = WriteBatch::new();
                        batch.put_in(kept, &[writer], &stamp).unwrap();
                        batch.put_in(cleared, &[writer], &stamp).unwrap();
                        let ticket =
                            if rng.one_in(3) { Some(store.write_async(&batch).unwrap()) } else { None };
                        match ticket {
                            Some(ticket) if rng.one_in(2) => store.wait(ticket).unwrap(),
                            Some(_) => {}
                            None => store.write(&batch).unwrap(),
                        }
                        // Another one comes and goes all the time.
                        match store.keyspace("churned").and_then(|churned| churned.put(&stamp, b"value")) {
                            Ok(()) | Err(Error::Dropped) => {}
                            Err(error) => panic!("{error}"),
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };
            let writers: Vec<_> = (0..3).map(spawn).collect();
            for round in 0..ROUNDS {
                let before = written.load(Ordering::Relaxed);
                let since = Instant::now();
                while written.load(Ordering::Relaxed) < before + 9 && since.elapsed() < LONG {
                    thread::yield_now();
                }
                if round % 3 == 2 {
                    store.drop_keyspace("churned").unwrap();
                } else {
                    cleared.clear().unwrap();
                }
                let snapshot = store.snapshot().unwrap();
                let [kept, cleared] =
                    [&kept, &cleared].map(|keyspace| keyspace.snapshot_at(&snapshot).unwrap());
                for writer in 0..3_u8 {
                    let found = cleared.get(&[writer]).unwrap();
                    assert!(found.is_none() || found == kept.get(&[writer]).unwrap(), "half a batch");
                }
            }
            is_over.store(true, Ordering::Relaxed);
            // ThreadSanitizer sees a join, and not the end of a scope.
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        assert!(written.load(Ordering::Relaxed) >= 9 * ROUNDS / 2, "the writers wrote");
        store.sync().unwrap();
        assert_sound(&store, "after all");
    }
}

#[test]
fn space_of_dropped_keyspaces_comes_back_and_a_full_store_can_drop() {
    let dir = memory_dir();
    for (number, media) in MEDIA.into_iter().enumerate() {
        let options = options(media, IndexKind::Hash).max_bytes(4 << 20);
        let store = options.open(dir.path().join(format!("space-{number}.fkv"))).unwrap();
        store.put(b"stays", b"value").unwrap();
        for round in 0..6_u8 {
            let keyspace = store.keyspace("full").unwrap();
            let mut count = 0_u32;
            let full = loop {
                let len = if count.is_multiple_of(8) { 10_000 } else { 300 };
                match keyspace.put(&count.to_be_bytes(), &vec![round; len]) {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, Error::NoSpace { .. } | Error::TimedOut(_)), "round {round}: {full}");
            assert!(count > 800, "round {round}: only {count} fit, the space did not come back");
            if round % 2 == 0 {
                assert!(store.drop_keyspace("full").unwrap());
            } else {
                keyspace.clear().unwrap();
            }
        }
        assert_sound(&store, "emptied six times");
        assert_eq!(store.get(b"stays").unwrap(), Some(b"value".to_vec()));
    }
}

/// The eight bytes of the superblock that a library which knows of no keyspaces refuses, of both copies.
fn incompatible_features(path: &std::path::Path) -> [u64; 2] {
    let bytes = std::fs::read(path).unwrap();
    [32, 4096 + 32].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

#[test]
fn older_libraries_are_told_by_the_first_keyspace_and_not_before() {
    let dir = memory_dir();
    let path = dir.path().join("features.fkv");
    let open = || options(MediaChoice::File, IndexKind::Hash).open(&path).unwrap();
    let store = open();
    store.put(b"key", b"value").unwrap();
    assert!(store.keyspace_names().unwrap().is_empty());
    assert!(!store.drop_keyspace("absent").unwrap());
    store.close().unwrap();
    drop(store);
    assert_eq!(incompatible_features(&path), [0, 0]);
    let store = open();
    store.keyspace("first").unwrap();
    assert_eq!(incompatible_features(&path), [1, 1], "before anything names a keyspace");
    store.close().unwrap();
    drop(store);
    open().close().unwrap();
    assert_eq!(incompatible_features(&path), [1, 1]);
}

#[test]
fn a_reader_sees_all_keyspaces_and_makes_none() {
    let dir = memory_dir();
    let path = dir.path().join("reader.fkv");
    let store = options(MediaChoice::File, IndexKind::Hash).open(&path).unwrap();
    store.keyspace("there").unwrap().put(b"key", b"value").unwrap();
    store.keyspace("gone").unwrap().put(b"key", b"value").unwrap();
    assert!(store.drop_keyspace("gone").unwrap());
    store.close().unwrap();
    drop(store);
    let reader = options(MediaChoice::File, IndexKind::Ordered).read_only(true).open(&path).unwrap();
    assert_eq!(reader.keyspace_names().unwrap(), ["there"]);
    assert_eq!(reader.keyspace("there").unwrap().get(b"key").unwrap(), Some(b"value".to_vec()));
    assert!(matches!(reader.keyspace("gone"), Err(Error::ReadOnly)));
    assert!(matches!(reader.drop_keyspace("there"), Err(Error::ReadOnly)));
    assert!(matches!(reader.keyspace("there").unwrap().clear(), Err(Error::ReadOnly)));
}

/// Damages every copy of the record with this state and name.
fn rot_record(path: &std::path::Path, state: u8, name: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let record = [&[state], name.as_bytes()].concat();
    let places: Vec<usize> =
        (0..bytes.len() - record.len()).filter(|at| bytes[*at..].starts_with(&record)).collect();
    assert!(!places.is_empty(), "no record of {name}");
    for at in places {
        // More than one bit: it is not undone.
        bytes[at + 1] ^= 0x55;
        bytes[at + 2] ^= 0x55;
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_rotted_record_of_the_catalogue_is_told_and_neither_loses_nor_revives_a_keyspace() {
    let dir = memory_dir();
    for (state, rotted) in [(0x5A, "live one"), (0xA5, "dropped")] {
        let path = dir.path().join(format!("rot-{state}.fkv"));
        let store = options(MediaChoice::File, IndexKind::Hash).open(&path).unwrap();
        for name in ["live one", "other", "dropped"] {
            store.keyspace(name).unwrap().put(b"key", name.as_bytes()).unwrap();
        }
        store.put(b"key", b"default").unwrap();
        assert!(store.drop_keyspace("dropped").unwrap());
        store.close().unwrap();
        drop(store);
        rot_record(&path, state, rotted);
        let store = options(MediaChoice::File, IndexKind::Hash).open(&path).unwrap();
        for refused in [
            store.keyspace(rotted).map(drop),
            store.keyspace("new").map(drop),
            store.find_keyspace(rotted).map(drop),
            store.find_keyspace("new").map(drop),
            store.keyspace_names().map(drop),
            store.snapshot().unwrap().keyspace_names().map(drop),
            store.snapshot().unwrap().keyspace(rotted).map(drop),
            store.snapshot().unwrap().keyspace("new").map(drop),
            store.drop_keyspace("absent").map(drop),
        ] {
            assert!(matches!(refused, Err(Error::Corrupted { .. })), "{rotted}: {refused:?}");
        }
        assert!(!store.verify().unwrap().is_ok());
        store.close().unwrap();
    }
}

/// One key of one keyspace, which the batch once means by the handle that it is written with and once names, got two
/// operations with one stamp, in different parts. What was deleted in the open store was back behind the next open.
#[test]
fn a_large_batch_that_names_the_keyspace_it_is_written_to_has_one_operation_for_each_key() {
    for media in MEDIA {
        for index in INDEXES {
            let dir = memory_dir();
            let options = || small(media, 16 << 10).index(index);
            let path = dir.path().join("pool.fkv");
            let store = options().open(&path).unwrap();
            let mut batch = WriteBatch::new();
            for i in 0..2_000_u32 {
                batch.put(&i.to_be_bytes(), &[7; 100]).unwrap();
                // In one of the parts that go to fresh segments, the highest of them first.
                if i == 300 {
                    batch.put(b"deleted", b"1").unwrap();
                    batch.put_in(&store, b"kept", b"1").unwrap();
                }
            }
            batch.delete_in(&store, b"deleted").unwrap();
            batch.put(b"kept", b"2").unwrap();
            store.write(&batch).unwrap();
            let check = |store: &Store| {
                assert_eq!(store.get(b"deleted").unwrap(), None, "{media:?}, {index:?}");
                assert_eq!(store.get(b"kept").unwrap().unwrap(), b"2", "{media:?}, {index:?}");
                assert_sound(store, "a large batch of two scopes");
            };
            check(&store);
            store.close().unwrap();
            drop(store);
            check(&options().open(&path).unwrap());
        }
    }
}

/// Printed, not asserted: how long it takes to drop a million keys.
#[test]
#[ignore = "prints figures: run alone, in release"]
fn figures_of_dropping_a_million_keys() {
    let dir = memory_dir();
    for index in INDEXES {
        let path = dir.path().join(format!("million-{}.fkv", index == IndexKind::Hash));
        let store = Options::new().media(MediaChoice::EmulatedPm).index(index).open(path).unwrap();
        let keyspace = store.keyspace("million").unwrap();
        (0..1_000_000_u64).for_each(|key| keyspace.put(&key.to_be_bytes(), &[7; 64]).unwrap());
        let (memory, live) = (stat(&store, "index_bytes"), stat(&store, "live_bytes"));
        // Behind a load the housekeeper merges pages, for milliseconds in which whoever touches new ones waits.
        thread::sleep(Duration::from_secs(1));
        let since = Instant::now();
        assert!(store.drop_keyspace("million").unwrap());
        let dropped = since.elapsed();
        while stat(&store, "keyspaces.dropped") > 0 || stat(&store, "live_bytes") > live / 1_000 {
            thread::sleep(Duration::from_millis(1));
        }
        let counted = since.elapsed();
        while stat(&store, "used_bytes") > live / 4 && since.elapsed() < LONG {
            thread::sleep(Duration::from_millis(1));
        }
        report(&format!(
            "{index:?}: dropped in {dropped:?}, counted dead after {counted:?}, {} of {live} bytes in use after {:?}; index {memory} bytes",
            stat(&store, "used_bytes"),
            since.elapsed(),
        ));
    }
}

/// Of the memory of indexes the statistics had what all keyspaces share, and of what each has for itself only the default
/// one's.
#[test]
fn the_memory_of_indexes_is_that_of_all_keyspaces() {
    const COUNT: u64 = 64;
    /// A hash index has a page of nodes, from what all share, and a directory of its own: a page, too.
    const PAGES: u64 = 2;
    let dir = memory_dir();
    let path = dir.path().join("pool.fkv");
    let store = options(MediaChoice::EmulatedPm, IndexKind::Hash).open(path).unwrap();
    let before = stat(&store, "index_bytes");
    let keyspaces: Vec<Store> = (0..COUNT).map(|n| store.keyspace(&format!("number {n}")).unwrap()).collect();
    let grown = stat(&store, "index_bytes") - before;
    assert!(grown >= COUNT * PAGES * 4096, "{grown} bytes for {} keyspaces", keyspaces.len());
}
