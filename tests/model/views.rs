//! Snapshots and cursors that are held while the store goes on, each beside the map as it was when it was made: whatever
//! is written, cleaned or grown meanwhile, they answer as that map does.

use crate::common::Rng;
use crate::model::spaces::{Handles, Maps, SPACES};
use crate::{Map, differ, stat};
use flatkv::{Error, Iter, Result, Snapshot, Store};
use std::ops::Bound;
use std::rc::Rc;

/// More would keep most of a small pool in its place.
const VIEWS_MAX: usize = 4;

type Edge = Bound<Vec<u8>>;

/// What a cursor should be on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Unplaced,
    On(Vec<u8>),
    Ended,
}

struct Cursor {
    iter: Iter,
    map: Rc<Map>,
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
    place: Place,
}

fn as_slice(edge: &Edge) -> Bound<&[u8]> {
    match edge {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// `BTreeMap::range` panics if there is nothing between the edges.
fn keys_between<'a>(map: &'a Map, from: &Edge, to: &Edge) -> Vec<&'a [u8]> {
    let starts = |key: &[u8]| match from {
        Bound::Included(from) => key >= &from[..],
        Bound::Excluded(from) => key > &from[..],
        Bound::Unbounded => true,
    };
    let ends = |key: &[u8]| match to {
        Bound::Included(to) => key <= &to[..],
        Bound::Excluded(to) => key < &to[..],
        Bound::Unbounded => true,
    };
    map.keys().map(Vec::as_slice).filter(|key| starts(key) && ends(key)).collect()
}

impl Cursor {
    fn new(iter: Iter, map: Rc<Map>) -> Cursor {
        Cursor { iter, map, lower: None, upper: None, place: Place::Unplaced }
    }

    fn shown(&self) -> Vec<&[u8]> {
        let lower = self.lower.clone().map_or(Bound::Unbounded, Bound::Included);
        let upper = self.upper.clone().map_or(Bound::Unbounded, Bound::Excluded);
        keys_between(&self.map, &lower, &upper)
    }

    /// The last key of those shown that is below `key`, or not above it.
    fn before(&self, key: &[u8], included: bool) -> Option<Vec<u8>> {
        let is_before = |shown: &&[u8]| *shown < key || included && *shown == key;
        self.shown().into_iter().rfind(is_before).map(<[u8]>::to_vec)
    }

    fn behind(&self, key: &[u8], included: bool) -> Option<Vec<u8>> {
        let is_behind = |shown: &&[u8]| *shown > key || included && *shown == key;
        self.shown().into_iter().find(is_behind).map(<[u8]>::to_vec)
    }

    /// Moves both, the cursor by `step`, and compares what they are on.
    fn go(&mut self, to: Option<Vec<u8>>, step: impl FnOnce(&mut Iter) -> Result<bool>) {
        let found = step(&mut self.iter).expect("reads are never refused");
        assert_eq!(found, to.is_some(), "is there an entry? expected to be on {to:02x?}");
        self.place = to.map_or(Place::Ended, Place::On);
        self.check();
    }

    fn check(&mut self) {
        let expected = match &self.place {
            Place::On(key) => Some((key.clone(), self.map[key].clone())),
            Place::Unplaced | Place::Ended => None,
        };
        let key = self.iter.key().map(<[u8]>::to_vec);
        assert_eq!(key.as_ref(), expected.as_ref().map(|(key, _)| key), "the key of the cursor");
        let value = self.iter.value().expect("reads are never refused").map(<[u8]>::to_vec);
        let wanted = expected.map(|(_, value)| value);
        let on = key.unwrap_or_default();
        assert!(value == wanted, "a cursor: {}", differ(&on, wanted.as_deref(), value.as_deref()));
    }

    fn move_next(&mut self) {
        let to = match &self.place {
            Place::Unplaced => self.shown().first().map(|key| key.to_vec()),
            Place::On(key) => self.behind(key, false),
            Place::Ended => None,
        };
        self.go(to, Iter::move_next);
    }

    fn move_prev(&mut self) {
        let to = match &self.place {
            Place::Unplaced => self.shown().last().map(|key| key.to_vec()),
            Place::On(key) => self.before(key, false),
            Place::Ended => None,
        };
        self.go(to, Iter::move_prev);
    }

    fn set_bounds(&mut self, lower: Option<Vec<u8>>, upper: Option<Vec<u8>>) {
        self.iter.set_bounds(lower.as_deref(), upper.as_deref());
        (self.lower, self.upper, self.place) = (lower, upper, Place::Unplaced);
        self.check();
    }

    /// The prefixes here end below the last one, whose end is no key.
    fn set_prefix(&mut self, first: u8) {
        self.iter.set_prefix(&[first]);
        self.lower = Some(vec![first]);
        self.upper = first.checked_add(1).map(|end| vec![end]);
        self.place = Place::Unplaced;
        self.check();
    }

    /// Steps that a caller would take next; returns how many of them began on an entry or unplaced.
    fn wander(&mut self, rng: &mut Rng, keys: &[Vec<u8>]) -> usize {
        let any = |rng: &mut Rng| keys[rng.below(keys.len())].clone();
        match rng.below(12) {
            0 => self.go(self.shown().first().map(|key| key.to_vec()), Iter::seek_first),
            1 => self.go(self.shown().last().map(|key| key.to_vec()), Iter::seek_last),
            2 | 3 => {
                let key = any(rng);
                self.go(self.behind(&key, true), |iter| iter.seek(&key));
            }
            4 | 5 => {
                let key = any(rng);
                self.go(self.before(&key, true), |iter| iter.seek_for_prev(&key));
            }
            6 => {
                let bound = |rng: &mut Rng| if rng.one_in(3) { None } else { Some(any(rng)) };
                let (lower, upper) = (bound(rng), bound(rng));
                self.set_bounds(lower, upper);
            }
            7 => {
                let first = any(rng)[0];
                self.set_prefix(first);
            }
            8 => self.set_bounds(None, None),
            _ => {}
        }
        let steps_max = if rng.one_in(8) { 300 } else { 24 };
        let forward = rng.below(4);
        let mut moves = 0;
        for _ in 0..1 + rng.below(steps_max) {
            moves += usize::from(self.place != Place::Ended);
            // Mostly one way, with turns.
            if rng.below(4) < forward {
                self.move_next()
            } else {
                self.move_prev()
            }
            if self.place == Place::Ended && rng.one_in(4) {
                break;
            }
        }
        moves
    }
}

/// The store at one moment, all keyspaces of it.
struct Moment {
    snapshot: Snapshot,
    maps: Maps,
    /// Of then: a keyspace that was dropped since has no other.
    handles: Handles,
    /// What the cleaner had moved by then.
    moved: u64,
}

impl Moment {
    /// A keyspace that was there.
    fn of(&self, space: usize) -> (Snapshot, &Rc<Map>) {
        let snapshot = self.handles.of(space).snapshot_at(&self.snapshot).expect("dropped or not");
        (snapshot, self.maps.of(space).expect("it was there"))
    }

    fn any(&self, rng: &mut Rng) -> (Snapshot, &Rc<Map>) {
        let spaces = self.maps.spaces();
        self.of(spaces[rng.below(spaces.len())])
    }

    /// Through the handles of then, and through those that the names have now, maybe for others.
    fn check(&self, now: &Handles, maps_now: &Maps, keys: &[Vec<u8>]) -> usize {
        let mut operations = 0;
        for space in self.maps.spaces() {
            let (snapshot, map) = self.of(space);
            operations += read_all(&snapshot, map, keys);
        }
        let nothing = Rc::default();
        for space in (1..SPACES).filter(|space| maps_now.of(*space).is_some()) {
            let snapshot = now.of(space).snapshot_at(&self.snapshot).expect("of this store");
            let then = self.maps.of(space).filter(|_| now.is_same(&self.handles, space));
            operations += read_all(&snapshot, then.unwrap_or(&nothing), keys);
        }
        operations
    }
}

/// All that is held. Numbers are counts of operations.
#[derive(Default)]
pub struct Views {
    snapshots: Vec<Moment>,
    cursors: Vec<Cursor>,
}

impl Views {
    /// Makes one more, uses one, or lets one go.
    pub fn step(&mut self, handles: &Handles, maps: &Maps, keys: &[Vec<u8>], rng: &mut Rng) -> usize {
        match rng.below(8) {
            0 if self.snapshots.len() < VIEWS_MAX => self.snapshot(handles, maps),
            1 if self.cursors.len() < VIEWS_MAX => self.cursor(handles, maps, rng),
            2 => self.let_one_go(rng),
            3..5 if !self.snapshots.is_empty() => {
                let at = rng.below(self.snapshots.len());
                let (snapshot, map) = self.snapshots[at].any(rng);
                return read_some(&snapshot, map, keys, rng);
            }
            _ if !self.cursors.is_empty() => {
                let at = rng.below(self.cursors.len());
                return self.cursors[at].wander(rng, keys);
            }
            _ => self.snapshot(handles, maps),
        }
        1
    }

    fn snapshot(&mut self, handles: &Handles, maps: &Maps) {
        let store = handles.of(0);
        self.snapshots.push(Moment {
            snapshot: store.snapshot().expect("an open store"),
            maps: maps.clone(),
            handles: handles.clone(),
            moved: stat(&store, "cleaner.entries_moved"),
        });
        // The turn of `step` that makes one although there are enough.
        if self.snapshots.len() > VIEWS_MAX {
            self.snapshots.remove(0);
        }
    }

    /// How many entries the cleaner moved beside the oldest snapshot, if it has moved `moved` by now.
    pub fn moved_since(&self, moved: u64) -> u64 {
        self.snapshots.iter().map(|moment| moved - moment.moved).max().unwrap_or(0)
    }

    /// Of a keyspace, or of a snapshot of one, which may go before it. The hash index has no order.
    fn cursor(&mut self, handles: &Handles, maps: &Maps, rng: &mut Rng) {
        let (iter, map) = match self.snapshots.len() {
            held @ 1.. if rng.one_in(2) => {
                let (snapshot, map) = self.snapshots[rng.below(held)].any(rng);
                (snapshot.iter(), Rc::clone(map))
            }
            _ => {
                let spaces = maps.spaces();
                let space = spaces[rng.below(spaces.len())];
                (handles.of(space).iter(), Rc::clone(maps.of(space).expect("it is there")))
            }
        };
        match iter {
            Ok(iter) => self.cursors.push(Cursor::new(iter, map)),
            Err(Error::Unsupported(_)) => {}
            Err(error) => panic!("no cursor: {error}"),
        }
    }

    fn let_one_go(&mut self, rng: &mut Rng) {
        let held = self.snapshots.len() + self.cursors.len();
        if held == 0 {
            return;
        }
        let at = rng.below(held);
        match at.checked_sub(self.snapshots.len()) {
            None => drop(self.snapshots.swap_remove(at)),
            Some(at) => drop(self.cursors.swap_remove(at)),
        }
    }

    /// Everything that is held, whole. Returns the number of operations.
    pub fn check_all(&mut self, handles: &Handles, maps: &Maps, keys: &[Vec<u8>]) -> usize {
        let mut operations = 0;
        for moment in &self.snapshots {
            operations += moment.check(handles, maps, keys);
        }
        for cursor in &mut self.cursors {
            cursor.check();
            cursor.set_bounds(None, None);
            for _ in 0..=cursor.map.len() {
                cursor.move_next();
            }
            assert_eq!(cursor.place, Place::Ended);
            operations += cursor.map.len();
        }
        operations
    }

    /// They are safe to use and to drop when their store is closed, and say that it is.
    pub fn end_after_close(&mut self) {
        for Moment { snapshot, .. } in self.snapshots.drain(..) {
            assert!(matches!(snapshot.get(b"k"), Err(Error::Closed)));
        }
        for mut cursor in self.cursors.drain(..) {
            assert!(matches!(cursor.iter.seek_first(), Err(Error::Closed)));
        }
    }

    /// The pool stays locked until they are gone.
    pub fn clear(&mut self) {
        *self = Views::default();
    }
}

fn read_some(snapshot: &Snapshot, map: &Map, keys: &[Vec<u8>], rng: &mut Rng) -> usize {
    let wanted: Vec<&[u8]> = (0..1 + rng.below(60)).map(|_| &keys[rng.below(keys.len())][..]).collect();
    if rng.one_in(2) {
        read_these(snapshot.multi_get(&wanted), map, &wanted);
    } else {
        read_these(wanted.iter().map(|key| snapshot.get(key)).collect(), map, &wanted);
    }
    wanted.len()
}

fn read_all(snapshot: &Snapshot, map: &Map, keys: &[Vec<u8>]) -> usize {
    let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    read_these(snapshot.multi_get(&wanted), map, &wanted);
    match snapshot.iter() {
        Ok(iter) => {
            let shown: Vec<(Vec<u8>, Vec<u8>)> =
                iter.map(|entry| entry.expect("reads are never refused")).collect();
            let is_right = shown.iter().map(|(key, value)| (key, value)).eq(map);
            assert!(is_right, "a snapshot shows {} entries instead of {}, or others", shown.len(), map.len());
            wanted.len() + map.len()
        }
        Err(Error::Unsupported(_)) => wanted.len(),
        Err(error) => panic!("no cursor: {error}"),
    }
}

fn read_these(found: Vec<Result<Option<Vec<u8>>>>, map: &Map, wanted: &[&[u8]]) {
    for (key, found) in wanted.iter().zip(found) {
        let found = found.expect("reads are never refused");
        let expected = map.get(*key);
        assert!(
            found.as_ref() == expected,
            "a snapshot: {}",
            differ(key, expected.map(Vec::as_slice), found.as_deref())
        );
    }
}

/// The live entries forward and backward, and an estimate of a range, with an index that has an order.
pub fn check_order(store: &Store, map: &Rc<Map>, rng: &mut Rng, keys: &[Vec<u8>]) -> usize {
    let iter = match store.iter() {
        Ok(iter) => iter,
        Err(Error::Unsupported(_)) => return 0,
        Err(error) => panic!("no cursor: {error}"),
    };
    let shown: Vec<(Vec<u8>, Vec<u8>)> = iter.map(|entry| entry.expect("reads are never refused")).collect();
    let is_right = shown.iter().map(|(key, value)| (key, value)).eq(map.iter());
    assert!(is_right, "a scan shows {} entries instead of {}, or others", shown.len(), map.len());
    let mut cursor = Cursor::new(store.iter().expect("an order"), Rc::clone(map));
    for _ in 0..=map.len() {
        cursor.move_prev();
    }
    let any = |rng: &mut Rng| Bound::Included(keys[rng.below(keys.len())].clone());
    let (from, to) = (any(rng), any(rng));
    let estimate = store.estimate_range(as_slice(&from), as_slice(&to)).expect("an order");
    let inside = keys_between(map, &from, &to).len() as u64;
    // Of leaves that are half empty. Deleted keys count, so there is no upper limit.
    assert!(inside < 50 || estimate.keys >= inside / 4, "{inside} keys estimated as {}", estimate.keys);
    map.len() * 2
}
