//! Keyspaces and a held snapshot beside the keys of `ops`: maps by name, and the maps of the moment that is held.

use super::input::Input;
use super::ops::{Model, done, key, value};
use flatkv::{Error, Iter, Snapshot, Store, WriteBatch};
use std::collections::BTreeMap;

type Maps = BTreeMap<String, Model>;

/// What the named keyspaces hold, and all of them at one moment.
#[derive(Default)]
pub struct Spaces {
    maps: Maps,
    held: Option<(Snapshot, Model, Maps)>,
}

impl Spaces {
    /// A few names, so that they are made again.
    fn name(input: &mut Input<'_>) -> String {
        format!("space {}", input.byte() % 3)
    }

    /// One change of the keyspaces; `None` of a full store changes nothing, but that an empty one may have been made.
    pub fn step(&mut self, store: &Store, default: &mut Model, input: &mut Input<'_>, number: u8) {
        let name = Self::name(input);
        match input.byte() % 8 {
            0..=2 => {
                let (key, value) = (key(input), value(input, number));
                let Some(keyspace) = self.open(store, &name) else { return };
                if done(keyspace.put(&key, &value), "put in a keyspace").is_some() {
                    self.maps.entry(name).or_default().insert(key, value);
                }
            }
            3 => {
                let key = key(input);
                let found = store.find_keyspace(&name).expect("nothing is damaged");
                assert_eq!(found.is_some(), self.maps.contains_key(&name), "{name}");
                let Some(keyspace) = found else { return };
                if let Some(was_there) = done(keyspace.delete(&key), "delete in a keyspace") {
                    let map = self.maps.get_mut(&name).expect("it is there");
                    assert_eq!(was_there, map.remove(&key).is_some());
                }
            }
            4 => {
                if let Some(was_there) = done(store.drop_keyspace(&name), "drop") {
                    assert_eq!(was_there, self.maps.remove(&name).is_some(), "{name}");
                }
            }
            5 => {
                let Some(keyspace) = self.open(store, &name) else { return };
                if done(keyspace.clear(), "clear").is_some() {
                    self.maps.insert(name, Model::new());
                }
            }
            _ => self.batch(store, default, &name, input, number),
        }
    }

    fn open(&mut self, store: &Store, name: &str) -> Option<Store> {
        let keyspace = done(store.keyspace(name), "keyspace")?;
        self.maps.entry(name.to_owned()).or_default();
        Some(keyspace)
    }

    /// Moves a key between the default keyspace and another one.
    fn batch(&mut self, store: &Store, default: &mut Model, name: &str, input: &mut Input<'_>, number: u8) {
        let (key, value) = (key(input), value(input, number));
        let Some(keyspace) = self.open(store, name) else { return };
        let mut batch = WriteBatch::new();
        batch.put_in(&keyspace, &key, &value).expect("a key and a value that may be");
        batch.delete(&key).expect("a key that may be");
        if done(store.write(&batch), "batch across").is_some() {
            default.remove(&key);
            self.maps.get_mut(name).expect("it was opened").insert(key, value);
        }
    }

    /// Holds the moment, or compares the one that is held and lets go of it.
    pub fn hold_or_let_go(&mut self, store: &Store, default: &Model) {
        match self.held.take() {
            None => {
                let snapshot = store.snapshot().expect("it is open");
                self.held = Some((snapshot, default.clone(), self.maps.clone()));
            }
            Some((snapshot, default, maps)) => {
                assert_shows(&snapshot, &default);
                assert_eq!(
                    snapshot.keyspace_names().expect("readable"),
                    maps.keys().cloned().collect::<Vec<_>>()
                );
                for (name, map) in &maps {
                    let then = snapshot.keyspace(name).expect("readable").expect("it was there");
                    assert_shows(&then, map);
                }
            }
        }
    }

    /// The process ends: nothing is held any more.
    pub fn forget_held(&mut self) {
        self.held = None;
    }

    /// Everything that is there now.
    pub fn compare_all(&self, store: &Store, default: &Model) {
        assert_eq!(store.keyspace_names().expect("readable"), self.maps.keys().cloned().collect::<Vec<_>>());
        assert_shows(&store.snapshot().expect("it is open"), default);
        for (name, map) in &self.maps {
            let keyspace = store.find_keyspace(name).expect("readable").expect("it is listed");
            assert_shows(&keyspace.snapshot().expect("it is open"), map);
        }
    }
}

/// By gets, and by scans in both directions.
fn assert_shows(snapshot: &Snapshot, map: &Model) {
    for (key, value) in map {
        assert_eq!(snapshot.get(key).expect("readable").as_ref(), Some(value), "{key:?}");
    }
    let entries = |iter: &mut Iter, step: fn(&mut Iter) -> Result<bool, Error>| {
        let mut entries = Vec::new();
        while step(iter).expect("readable") {
            let key = iter.key().expect("on an entry").to_vec();
            entries.push((key, iter.value().expect("readable").expect("on an entry").to_vec()));
        }
        entries
    };
    let mut iter = snapshot.iter().expect("the index has an order");
    let expected: Vec<_> = map.clone().into_iter().collect();
    assert_eq!(entries(&mut iter, Iter::move_next), expected);
    iter.set_bounds(None, None);
    let mut backward = entries(&mut iter, Iter::move_prev);
    backward.reverse();
    assert_eq!(backward, expected);
}
