//! Keyspaces by number, beside what they should hold: 0 is the default one, the others come and go. Between steps a name has a
//! handle if, and only if, it has a map.

use crate::{Change, Key, Map};
use flatkv::{Error, Result, Store, WriteBatch};
use std::rc::Rc;

/// Few, so that they have the same keys, and often come and go.
pub const SPACES: usize = 4;

/// What each keyspace holds; nothing where there is none. Views share the maps until they change.
#[derive(Clone)]
pub struct Maps([Option<Rc<Map>>; SPACES]);

impl Maps {
    pub fn new() -> Maps {
        let mut maps = Maps([const { None }; SPACES]);
        maps.make(0);
        maps
    }

    pub fn make(&mut self, space: usize) {
        self.0[space] = Some(Rc::default());
    }

    pub fn of(&self, space: usize) -> Option<&Rc<Map>> {
        self.0[space].as_ref()
    }

    /// The keyspaces that there are.
    pub fn spaces(&self) -> Vec<usize> {
        (0..SPACES).filter(|space| self.0[*space].is_some()).collect()
    }

    pub fn get(&self, (space, key): &Key) -> Option<&Vec<u8>> {
        self.0[*space].as_ref()?.get(key)
    }

    pub fn apply(&mut self, changes: &[Change]) {
        for ((space, key), value) in changes {
            let map = Rc::make_mut(self.0[*space].as_mut().expect("changes go to keyspaces that there are"));
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
    }
}

/// The handles of now, and how often each name lost its keyspace.
#[derive(Clone)]
pub struct Handles {
    handles: [Option<Store>; SPACES],
    drops: [usize; SPACES],
}

pub fn name(space: usize) -> String {
    // One is as long as a name may be.
    "n".repeat(if space == 1 { 255 } else { space })
}

impl Handles {
    /// Of a store that was just opened, which has to have the keyspaces that are expected, and no other.
    pub fn of_opened(store: &Store, maps: &Maps) -> Handles {
        assert_names(store, maps);
        let mut handles = Handles { handles: [const { None }; SPACES], drops: [0; SPACES] };
        handles.handles[0] = Some(store.clone());
        for space in maps.spaces().into_iter().skip(1) {
            handles.open(space).expect("no space is needed for one that is there");
        }
        handles
    }

    pub fn of(&self, space: usize) -> Store {
        self.handles[space].clone().expect("the keyspace is there")
    }

    /// Whether the name has the keyspace that it had for `then`.
    pub fn is_same(&self, then: &Handles, space: usize) -> bool {
        self.drops[space] == then.drops[space]
    }

    /// Makes the keyspace if there is none, else one more handle for it.
    pub fn open(&mut self, space: usize) -> Result<()> {
        self.handles[space] = Some(self.of(0).keyspace(&name(space))?);
        Ok(())
    }

    pub fn drop_one(&mut self, space: usize, maps: &mut Maps) {
        let was_there = self.of(0).drop_keyspace(&name(space)).expect("works on a full store, too");
        assert_eq!(was_there, maps.0[space].take().is_some(), "a drop says whether there was a keyspace");
        if let Some(handle) = self.handles[space].take() {
            self.drops[space] += 1;
            assert!(matches!(handle.get(b"k"), Err(Error::Dropped)));
            assert!(matches!(handle.put(b"k", b""), Err(Error::Dropped)));
        }
    }

    pub fn clear(&self, space: usize, maps: &mut Maps) {
        self.of(space).clear().expect("works on a full store, too");
        maps.make(space);
    }

    /// For the handle of the default keyspace.
    pub fn as_batch(&self, changes: &[Change]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for ((space, key), value) in changes {
            match (space, value) {
                (0, Some(value)) => batch.put(key, value).unwrap(),
                (0, None) => batch.delete(key).unwrap(),
                (_, Some(value)) => batch.put_in(&self.of(*space), key, value).unwrap(),
                (_, None) => batch.delete_in(&self.of(*space), key).unwrap(),
            }
        }
        batch
    }
}

pub fn assert_names(store: &Store, maps: &Maps) {
    let mut names: Vec<String> = maps.spaces().into_iter().skip(1).map(name).collect();
    names.sort();
    assert_eq!(store.keyspace_names().expect("nothing is damaged"), names);
}
