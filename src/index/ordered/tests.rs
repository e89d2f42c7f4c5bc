//! The ordered index against a `BTreeMap`, with the keys that tries and B+-trees get wrong: prefixes of each other, zero
//! bytes, long common parts, one byte to 64 KiB. A failure names the family of keys and the seed.

mod marks;
mod search;

use super::look::Slots;
use super::node::{INNER, RANK_LONGER, SLICE_BYTES, Word, padded, slice_at};
use super::{OrderedIndex, RUN_MAX};
use crate::epoch;
use crate::index::arena::{INNER_SLICES, LEAF_SLOTS};
use crate::index::conformance::{Rng, mix};
use crate::index::{Candidate, Direction, Edge, Index, Key, LogKeys, PassNothing, PassOver, Upsert};
use crate::media::durable::Durable;
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, RwLock, threads};
use crate::types::Addr;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A log of keys: entry `n` lies at address `n + 1`.
#[derive(Default)]
struct Log {
    keys: RwLock<Vec<Arc<[u8]>>>,
    /// Entries at multiples of this cannot be read; 0 for none.
    unreadable: AtomicU64,
    /// What is read where bits of a key were flipped.
    rotted: RwLock<BTreeMap<Addr, Vec<u8>>>,
}

impl Log {
    fn append(&self, key: &[u8]) -> Addr {
        let mut keys = self.keys.write();
        keys.push(key.into());
        Addr::from_bits(keys.len() as u64)
    }

    fn key(&self, at: Addr) -> Arc<[u8]> {
        Arc::clone(&self.keys.read()[at.to_bits() as usize - 1])
    }
}

fn hash(key: &[u8]) -> u64 {
    crate::checksum::hash64(1, key)
}

impl LogKeys for Log {
    fn key_hash(&self, at: Addr) -> Option<u64> {
        let mut found = None;
        self.with_key(at, &mut |key| found = Some(hash(key)));
        found
    }

    fn with_key(&self, at: Addr, look: &mut dyn FnMut(&[u8])) -> bool {
        let unreadable = self.unreadable.load(Ordering::Relaxed);
        if unreadable != 0 && at.to_bits().is_multiple_of(unreadable) {
            return false;
        }
        match self.rotted.read().get(&at) {
            Some(key) => look(key),
            None => look(&self.key(at)),
        }
        true
    }

    fn prefetch(&self, _at: &[Addr]) {}
}

struct Subject {
    index: OrderedIndex,
    log: Arc<Log>,
}

fn key_of(bytes: &[u8]) -> Key<'_> {
    Key { bytes, hash: hash(bytes) }
}

/// What a check has seen, and the layers that it has still to see.
#[derive(Default)]
struct Seen {
    leaves: usize,
    entries: usize,
    layers: Vec<(u32, Vec<u8>)>,
}

impl Subject {
    fn new() -> Subject {
        Subject::with_most(u64::MAX)
    }

    fn with_most(most: u64) -> Subject {
        let log = Arc::<Log>::default();
        let index = OrderedIndex::with_expected(Arc::clone(&log) as Arc<dyn LogKeys>, 0, most)
            .expect("address space");
        Subject { index, log }
    }

    fn put(&self, key: &[u8]) -> (Addr, Upsert) {
        let _guard = epoch::pin();
        let at = self.log.append(key);
        let done = self.index.upsert_if_newer(key_of(key), Durable::recovered(at).into(), |known| {
            if *self.log.key(known) != *key {
                return Candidate::OtherKey;
            }
            if known < at { Candidate::Older } else { Candidate::Newer }
        });
        (at, done)
    }

    fn get(&self, key: &[u8]) -> Option<Addr> {
        let _guard = epoch::pin();
        self.index.get(key_of(key), |at| (*self.log.key(at) == *key).then_some(at))
    }

    /// The same where nobody else changes anything: the first entry that may be the key's must be one of those that a get is
    /// shown.
    fn get_alone(&self, key: &[u8]) -> Option<Addr> {
        let (_guard, mut shown) = (epoch::pin(), Vec::new());
        self.index.get(key_of(key), |at| {
            shown.push(at);
            None::<()>
        });
        let first = self.index.first(key_of(key));
        assert_eq!(first.is_some(), !shown.is_empty(), "the first of {key:?}");
        assert!(first.is_none_or(|first| shown.contains(&first)), "the first of {key:?} is one of them");
        self.get(key)
    }

    fn remove(&self, key: &[u8], at: Addr) -> bool {
        let _guard = epoch::pin();
        self.index.remove(key_of(key), at)
    }

    /// Where the index finds a key, if it points at `from`; beside it others are asked for.
    fn find(&self, key: &[u8], from: Addr) -> Option<Slots> {
        let _guard = epoch::pin();
        let keys = [key_of(&key[..key.len() / 2]), key_of(key), key_of(b"another")];
        let mut found = [None; 3];
        self.index.find(&keys, &[Addr::from_bits(0), from, Addr::from_bits(0)], &mut found);
        assert!(found[0].is_none() && found[2].is_none(), "nothing lies at address 0");
        found[1]
    }

    fn relocate(&self, key: &[u8], from: Addr) -> Option<Addr> {
        let _guard = epoch::pin();
        let to = self.log.append(key);
        let spot = self.find(key, from).unwrap_or_default();
        self.index.relocate(spot, key_of(key), from, Durable::recovered(to)).then_some(to)
    }

    fn scan(&self, from: Edge<'_>, direction: Direction, most: usize) -> Vec<Addr> {
        let guard = epoch::pin();
        let shown = self.index.scan(&guard, from, direction, most, PassNothing);
        shown.expect("an ordered kind").take(most).collect()
    }

    fn keys(&self) -> Vec<Arc<[u8]>> {
        self.scan(Bound::Unbounded, Direction::Forward, usize::MAX)
            .into_iter()
            .map(|at| self.log.key(at))
            .collect()
    }

    /// Checks what the module says of the nodes, when nobody changes them. Returns leaves and their entries.
    fn assert_consistent(&self) -> (usize, usize) {
        let mut seen = Seen::default();
        seen.layers.push((self.index.first, Vec::new()));
        // One after the other: long keys make more layers than calls fit a stack.
        while let Some((layer, mut start)) = seen.layers.pop() {
            self.index.nodes.push_prefix(layer, &mut start);
            let root = self.index.nodes.layers.get(layer).root.load(Ordering::Relaxed);
            self.check_node(root, &start, (0, u64::MAX), &mut seen);
        }
        (seen.leaves, seen.entries)
    }

    fn check_node(&self, number: u32, start: &[u8], (low, high): (u64, u64), seen: &mut Seen) {
        if number & INNER == 0 {
            return self.check_leaf(number, start, (low, high), seen);
        }
        let (slices, children, passed) = self.index.nodes.inners.get(number & !INNER).contents();
        assert_eq!(passed >> 1 >> slices.len(), 0, "nothing but children is named");
        let inner = self.index.nodes.inners.get(number & !INNER);
        let unused = (slices.len()..INNER_SLICES).map(|at| inner.slice(at));
        assert!(unused.into_iter().all(|slice| slice == u64::MAX), "no search stops at what is not in use");
        assert!(slices.is_sorted_by(|a, b| a < b), "separators part children");
        assert!(slices.iter().all(|&slice| slice >= low && slice <= high));
        for (at, &child) in children.iter().enumerate() {
            let low = if at == 0 { low } else { slices[at - 1] };
            let high = slices.get(at).map_or(high, |slice| slice - 1);
            let is_leaf = child & INNER == 0;
            let is_passed = is_leaf && self.index.nodes.leaves.get(child).is_passed();
            assert!(passed >> at & 1 == 0 || is_passed, "who is named is passed");
            self.check_node(child, start, (low, high), seen);
        }
    }

    fn check_leaf(&self, number: u32, start: &[u8], (low, high): (u64, u64), seen: &mut Seen) {
        let leaf = self.index.nodes.leaves.get(number);
        let entries = leaf.entries();
        let unused = (entries.len()..LEAF_SLOTS).map(|at| leaf.slice(at));
        assert!(unused.into_iter().all(|slice| slice == u64::MAX), "no search stops at what is not in use");
        seen.leaves += 1;
        assert!(
            !leaf.is_passed() || entries.is_empty() || leaf.holds_marks_alone(),
            "who is passed holds marks"
        );
        assert!(entries.iter().all(|&(slice, _)| slice >= low && slice <= high), "fences hold");
        for pair in entries.windows(2) {
            let [(slice, word), (next, next_word)] = [pair[0], pair[1]];
            assert!((slice, word.rank()) <= (next, next_word.rank()), "sorted");
            assert!(!word.covers(slice, next, next_word.rank()), "nothing beside what a link covers");
            if (slice, word.rank()) == (next, next_word.rank()) {
                assert_eq!(word.rank(), RANK_LONGER);
                let keys = [word, next_word].map(|word| self.log.key(word.addr()));
                assert!(keys[0] < keys[1], "a run is sorted");
            }
        }
        let runs = entries.chunk_by(|a, b| a.0 == b.0 && b.1.rank() == RANK_LONGER);
        assert!(runs.into_iter().all(|run| run.len() <= RUN_MAX + 1));
        for &(slice, word) in &entries {
            if word.is_link() {
                let mut below = start.to_vec();
                super::node::push_bytes(&mut below, slice, word.rank() as usize);
                seen.layers.push((word.layer(), below));
            } else {
                seen.entries += 1;
                let key = self.log.key(word.addr());
                assert!(key.starts_with(start), "keys start with what leads to them");
                assert_eq!(slice_at(&key, start.len()), (slice, word.rank()));
                assert!(word.has_hash(hash(&key)));
            }
        }
    }
}

type Family = (&'static str, fn(&mut Rng) -> Vec<u8>);

/// Families of keys; each draws from few enough that keys are met again.
const FAMILIES: &[Family] = &[
    ("eight bytes", |rng| mix(rng.below(3_000)).to_be_bytes().to_vec()),
    ("counters", |rng| rng.below(3_000).to_be_bytes().to_vec()),
    ("decimals", |rng| format!("user{:012}", rng.below(4_000) * 37).into_bytes()),
    ("few bytes", |rng| {
        let len = 1 + rng.below(20);
        (0..len).map(|_| [0, 0, 1, 255][rng.below(4) as usize]).collect()
    }),
    ("prefixes of each other", |rng| {
        let len = 1 + rng.below(400) as usize;
        let mut key = vec![[0, 7, 255][rng.below(3) as usize]; len];
        if rng.below(3) == 0 {
            key[len / 2] = rng.below(256) as u8;
        }
        key
    }),
    ("paths", |rng| {
        let mut key = b"/srv/data/a long directory that all of them share/".to_vec();
        for _ in 0..rng.below(4) {
            key.extend_from_slice(format!("part {}/", rng.below(6)).as_bytes());
        }
        key.extend_from_slice(&rng.below(40).to_string().into_bytes());
        key
    }),
    ("long", |rng| {
        let mut key = vec![b'x'; [1, 9, 64, 1_000, 65_536][rng.below(5) as usize]];
        let at = (rng.below(key.len() as u64)) as usize;
        key[at] = [0, b'x', b'y', 255][rng.below(4) as usize];
        key
    }),
    ("pairs", |rng| {
        let mut key = mix(rng.below(200)).to_be_bytes().to_vec();
        key.extend_from_slice(&rng.below(30).to_be_bytes());
        key
    }),
    ("adversarial", adversarial),
];

/// One of 20,000 keys: up to 64 equal bytes, then few different ones, zeroes above all; up to 300 bytes, every other one as
/// long as whole slices, or a byte more or less.
fn adversarial(rng: &mut Rng) -> Vec<u8> {
    let mut own = Rng(rng.below(20_000) << 32);
    let len = match own.below(2) {
        0 => own.below(301),
        _ => (8 * own.below(38) + own.below(3)).saturating_sub(1),
    } as usize;
    let mut key = vec![[0, b'k', 255][own.below(3) as usize]; own.below(65) as usize];
    // What follows each other is often the same, so that keys part late.
    while key.len() < len {
        let byte = [0, 0, 0, 1, b'k', 254, 255][own.below(7) as usize];
        let times = 1 + own.below(2) * own.below(80);
        key.resize(key.len() + times as usize, byte);
    }
    key.truncate(len);
    key
}

fn addrs<'a>(entries: impl Iterator<Item = (&'a Vec<u8>, &'a Addr)>, most: usize) -> Vec<Addr> {
    entries.take(most).map(|(_, &at)| at).collect()
}

/// Scans of the index and of the model from one key, in both directions, with the key and without.
fn compare_scans(subject: &Subject, model: &BTreeMap<Vec<u8>, Addr>, key: &[u8], most: usize) {
    let upwards = [Bound::Included(key), Bound::Excluded(key)];
    for from in upwards {
        let expected = addrs(model.range::<[u8], _>((from, Bound::Unbounded)), most);
        assert_eq!(subject.scan(from, Direction::Forward, most), expected, "up from {from:?}");
        let expected = addrs(model.range::<[u8], _>((Bound::Unbounded, from)).rev(), most);
        assert_eq!(subject.scan(from, Direction::Backward, most), expected, "down from {from:?}");
    }
}

fn behaves_like_a_sorted_map(draw: fn(&mut Rng) -> Vec<u8>, seed: u64, steps: u64, removals: u64) {
    let subject = Subject::new();
    let mut model: BTreeMap<Vec<u8>, Addr> = BTreeMap::new();
    let mut rng = Rng(seed << 32);
    for step in 0..steps {
        let key = draw(&mut rng);
        let known = model.get(&key).copied();
        // Grow, shrink to nearly nothing, grow again.
        let removals = if step / (steps / 4) % 2 == 1 { 14 - removals } else { removals };
        match (rng.below(16), known) {
            (0, Some(at)) => {
                let to = subject.relocate(&key, at).expect("it was there");
                assert_eq!(subject.relocate(&key, at), None);
                model.insert(key.clone(), to);
            }
            (1, _) => compare_scans(&subject, &model, &key, 1 + rng.below(100) as usize),
            (draw, Some(at)) if draw < 2 + removals => {
                assert!(subject.remove(&key, at));
                assert!(!subject.remove(&key, at));
                model.remove(&key);
            }
            (draw, _) if draw < 2 + removals => assert!(known.is_some() || subject.get(&key).is_none()),
            _ => {
                let (at, done) = subject.put(&key);
                assert_eq!(done, known.map_or(Upsert::Inserted, Upsert::Replaced), "step {step}");
                model.insert(key.clone(), at);
            }
        }
        assert_eq!(subject.get_alone(&key), model.get(&key).copied(), "step {step}, key {key:?}");
        assert_eq!(subject.index.len(), model.len() as u64);
        if step % (steps / 20) == 0 {
            assert_eq!(subject.assert_consistent().1, model.len());
            let all = addrs(model.iter(), usize::MAX);
            assert_eq!(subject.scan(Bound::Unbounded, Direction::Forward, usize::MAX), all);
            let reverse = addrs(model.iter().rev(), usize::MAX);
            assert_eq!(subject.scan(Bound::Unbounded, Direction::Backward, usize::MAX), reverse);
        }
    }
    for (key, at) in model {
        assert!(subject.remove(&key, at));
    }
    assert_eq!(subject.assert_consistent(), (1, 0), "an emptied index is one leaf");
}

#[test]
fn every_family_of_keys_behaves_like_a_sorted_map() {
    for (name, draw) in FAMILIES {
        for seed in 0..3 {
            let run = || behaves_like_a_sorted_map(*draw, seed, 8_000, 1 + seed * 2);
            let ran = std::panic::catch_unwind(run);
            assert!(ran.is_ok(), "keys: {name}, seed {seed}");
        }
    }
}

#[test]
fn a_million_operations_on_adversarial_keys_leave_what_a_sorted_map_holds() {
    let steps = if cfg!(debug_assertions) { 20_000 } else { 260_000 };
    (0..4).for_each(|seed| behaves_like_a_sorted_map(adversarial, 100 + seed, steps, 1 + seed * 2));
}

#[test]
fn slices_order_keys_as_their_bytes_do() {
    let mut keys: Vec<Vec<u8>> = vec![vec![]];
    for len in 0..10 {
        for fill in [0, 1, 255] {
            for last in [0, 1, 255] {
                keys.push([vec![fill; len], vec![last]].concat());
            }
        }
    }
    for a in &keys {
        for b in &keys {
            let (slice_a, slice_b) = (slice_at(a, 0), slice_at(b, 0));
            if slice_a != slice_b {
                assert_eq!(slice_a.cmp(&slice_b), a.cmp(b), "{a:?} and {b:?}");
            }
            let mut separator = Vec::new();
            super::node::push_separator(&mut separator, slice_a.0);
            assert_eq!(slice_b.0 >= slice_a.0, *b >= separator, "{a:?} parts {b:?}");
        }
    }
    assert_eq!(padded(&[1]), 1 << 56);
    let word = Word::entry(Addr::from_bits(77), 9, u64::MAX);
    assert!(word.has_hash(u64::MAX) && !word.has_hash(0) && !word.is_link());
    assert_eq!((word.addr().to_bits(), word.rank()), (77, 9));
    assert!(Word::link(u32::MAX, SLICE_BYTES).is_link());
}

#[test]
fn keys_of_64_kib_that_differ_in_one_byte_are_parted() {
    let subject = Subject::new();
    let base = vec![0x55; 65_536];
    let mut model = BTreeMap::new();
    // Ends first, so that every later key leaves the prefix of a layer further up.
    for at in (0..65_536).rev().step_by(997).chain([65_535, 0, 7, 8, 9]) {
        for byte in [0, 0x56, 255] {
            let mut key = base.clone();
            key[at] = byte;
            model.insert(key.clone(), subject.put(&key).0);
            key.truncate(at + 1);
            model.insert(key.clone(), subject.put(&key).0);
        }
    }
    assert_eq!(subject.assert_consistent().1, model.len());
    assert_eq!(
        subject.scan(Bound::Unbounded, Direction::Backward, usize::MAX),
        addrs(model.iter().rev(), usize::MAX)
    );
    model.keys().step_by(5).for_each(|key| compare_scans(&subject, &model, key, 40));
    for (key, at) in model {
        assert_eq!(subject.get(&key), Some(at));
        assert!(subject.remove(&key, at));
    }
    assert_eq!(subject.assert_consistent(), (1, 0));
}

/// Nodes run out where address space is limited. What was put before is found, in its order, in a store that goes on reading.
#[test]
fn running_out_of_nodes_hides_no_key() {
    let long = vec![b'p'; 4_000];
    // Leaves run out first, or layers.
    for (keys_per_start, prefix) in [(40_u64, &[][..]), (4_000, &[]), (40, &long)] {
        let subject = Subject::with_most(0);
        let key_at = |n: u64| {
            let start = (n / keys_per_start).to_be_bytes();
            [&start[..], prefix, &mix(n % keys_per_start).to_be_bytes()].concat()
        };
        let mut put: Vec<(Vec<u8>, Addr)> = Vec::new();
        let panicked = loop {
            let key = key_at(put.len() as u64);
            let had_room = subject.index.has_room_for(1, key.len() as u64);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| subject.put(&key))) {
                Ok((at, done)) => {
                    assert_eq!(done, Upsert::Inserted);
                    put.push((key, at));
                }
                Err(panic) => {
                    assert!(!had_room, "{keys_per_start} keys per start: who asks knows it before");
                    break panic;
                }
            }
        };
        let message = panicked.downcast_ref::<String>().expect("a text");
        assert!(message.contains("index nodes are in use"), "{message}");
        assert!(put.iter().all(|(key, at)| subject.get(key) == Some(*at)), "{keys_per_start} keys per start");
        subject.assert_consistent();
        put.sort();
        let in_order: Vec<Addr> = put.iter().map(|(_, at)| *at).collect();
        assert_eq!(subject.scan(Bound::Unbounded, Direction::Forward, usize::MAX), in_order);
    }
}

#[test]
fn an_emptied_range_leaves_no_leaves_behind() {
    let subject = Subject::new();
    let key = |i: u64| format!("{i:016}").into_bytes();
    const KEYS: u64 = 60_000;
    let places: Vec<Addr> = (0..KEYS).map(|i| subject.put(&key(i)).0).collect();
    let full = subject.assert_consistent().0;
    for i in 100..KEYS - 100 {
        // In no order, so that leaves are thinned out before they are empty.
        let i = 100 + (i - 100) * 7_919 % (KEYS - 200);
        assert!(subject.remove(&key(i), places[i as usize]));
    }
    let (leaves, entries) = subject.assert_consistent();
    assert_eq!(entries, 200);
    assert!(leaves < 40, "{leaves} leaves for 200 keys, of {full}");
    let next = subject.scan(Bound::Excluded(&key(99)), Direction::Forward, 1);
    assert_eq!(next, [places[KEYS as usize - 100]]);
}

/// Deletes joined a neighbour to a leaf of one slice that was too full for two, and looked for a cut in it.
#[test]
fn a_leaf_of_one_slice_takes_its_emptied_neighbour() {
    // Ends of the slice at each of its zeroes, and a run behind it: more than fills three quarters of a leaf.
    let zeroes = |count: usize| [&b"b"[..], &vec![0; count]].concat();
    let one_slice = (0..8).map(zeroes).chain((1..=RUN_MAX as u8).map(|x| [&zeroes(7)[..], &[x]].concat()));
    let one_slice: Vec<Vec<u8>> = one_slice.collect();
    for beside in [b'a', b'c'] {
        let subject = Subject::new();
        let beside: Vec<Vec<u8>> = (b'1'..=b'8').map(|digit| vec![beside, digit]).collect();
        let places: Vec<Addr> = beside.iter().map(|key| subject.put(key).0).collect();
        one_slice.iter().for_each(|key| assert_eq!(subject.put(key).1, Upsert::Inserted));
        assert_eq!(subject.assert_consistent().0, 2);
        for (key, at) in beside.iter().zip(places) {
            assert!(subject.remove(key, at));
        }
        assert_eq!(subject.assert_consistent(), (1, one_slice.len()), "the emptied leaf has gone");
        let shown: Vec<Vec<u8>> = subject.keys().iter().map(|key| key.to_vec()).collect();
        assert_eq!(shown, one_slice);
    }
}

/// A place in a run was looked for by the keys as they were read: behind one that had rotted, in the wrong half.
#[test]
fn a_rotted_key_does_not_misplace_its_neighbours() {
    let key = |digit: u8| [&b"a slice "[..], &[digit]].concat();
    for (rotted, reads_as) in [(7, 0), (7, 255), (1, 255), (13, 0)] {
        let subject = Subject::new();
        for digit in [1, 3, 5, 7, 9, 11, 13] {
            let (at, _) = subject.put(&key(digit));
            if digit == rotted {
                subject.log.rotted.write().insert(at, key(reads_as));
            }
        }
        [2, 4, 6, 8, 10, 12]
            .into_iter()
            .for_each(|digit| assert_eq!(subject.put(&key(digit)).1, Upsert::Inserted));
        // The one that rotted may lie anywhere between its old neighbours.
        let others = |keys: Vec<Arc<[u8]>>| {
            let digits = keys.iter().map(|key| key[8]);
            digits.filter(|digit| *digit != rotted).collect::<Vec<u8>>()
        };
        let expected =
            |digits: std::ops::Range<u8>| digits.filter(|digit| *digit != rotted).collect::<Vec<u8>>();
        assert_eq!(others(subject.keys()), expected(1..14), "{rotted} reads as {reads_as}");
        for digit in expected(1..14) {
            let key = key(digit);
            let found = subject.scan(Bound::Included(&key), Direction::Forward, usize::MAX);
            let found = found.into_iter().map(|at| subject.log.key(at)).collect();
            assert_eq!(others(found), expected(digit..14), "{rotted} reads as {reads_as}");
        }
    }
}

/// There was an inner node for sixteen leaves, and a tree of two leaves needs one: many ids with some items each ran out of
/// them long before anything else.
#[test]
fn trees_of_two_leaves_do_not_run_out_of_inner_nodes() {
    let subject = Subject::with_most(0);
    const ITEMS: u64 = 40;
    let ids = subject.index.nodes.leaves.left() / 3;
    for n in 0..ids * ITEMS {
        let key = [(n / ITEMS).to_be_bytes(), mix(n % ITEMS).to_be_bytes()].concat();
        assert_eq!(subject.put(&key).1, Upsert::Inserted);
    }
    let (leaves, entries) = subject.assert_consistent();
    assert_eq!(entries as u64, ids * ITEMS);
    assert!(leaves as u64 > 2 * ids, "each id has a tree of two leaves at least: {leaves} for {ids}");
    let per_key = subject.index.memory_bytes() / (ids * ITEMS);
    assert!(per_key < 60, "{per_key} bytes per key");
}

#[test]
fn entries_that_cannot_be_read_are_found_and_do_not_stop_scans() {
    let subject = Subject::new();
    let key = |i: u64| format!("all keys share this much, and a number: {i:06}").into_bytes();
    const KEYS: u64 = 5_000;
    subject.log.unreadable.store(7, Ordering::Relaxed);
    let order = |i: u64| i * 1_009 % KEYS;
    let places: BTreeMap<u64, Addr> = (0..KEYS).map(|i| (order(i), subject.put(&key(order(i))).0)).collect();
    (0..KEYS).for_each(|i| assert_eq!(subject.get(&key(i)), Some(places[&i]), "key {i}"));
    let mut unplaced = Vec::new();
    subject.index.unplaced(|at| unplaced.push(at));
    assert!(!unplaced.is_empty() && unplaced.iter().all(|at| at.to_bits().is_multiple_of(7)));
    let shown = subject.scan(Bound::Unbounded, Direction::Forward, usize::MAX);
    assert_eq!(shown.len() + unplaced.len(), KEYS as usize);
    let readable = |at: &&Addr| !at.to_bits().is_multiple_of(7);
    let expected: Vec<&Addr> = places.values().filter(readable).collect();
    assert_eq!(shown.iter().filter(readable).collect::<Vec<_>>(), expected);
    assert_eq!(subject.index.len(), KEYS);
    for at in unplaced {
        let key = subject.log.key(at);
        match at.to_bits() % 3 {
            0 => assert_eq!(subject.put(&key).1, Upsert::Replaced(at)),
            1 => assert!(subject.relocate(&key, at).is_some()),
            _ => assert!(subject.remove(&key, at)),
        }
        assert_eq!(subject.get_alone(&key).is_some(), at.to_bits() % 3 != 2);
    }
}

#[test]
fn estimates_are_near() {
    let families: [fn(u64) -> Vec<u8>; 4] = [
        |i| mix(i).to_be_bytes().to_vec(),
        |i| format!("user{:08}", i * 13 % 1_000_003).into_bytes(),
        |i| format!("tenant {} / {}", mix(i) % 20, mix(i) % 200_003).into_bytes(),
        |i| (i << 20).to_be_bytes().to_vec(),
    ];
    for (family, key) in families.into_iter().enumerate() {
        let subject = Subject::new();
        for i in 0..30_000 {
            subject.put(&key(i));
        }
        estimates_of(&subject, family);
    }
}

fn estimates_of(subject: &Subject, family: usize) {
    let keys = subject.keys();
    let guard = epoch::pin();
    let estimate = |from, to| subject.index.estimate(&guard, from, to).expect("an ordered kind") as f64;
    let mut rng = Rng(5);
    for _ in 0..2_000 {
        let (a, b) = (rng.below(keys.len() as u64) as usize, rng.below(keys.len() as u64) as usize);
        let (low, high) = (a.min(b), a.max(b));
        let found = estimate(Bound::Included(&keys[low]), Bound::Excluded(&keys[high]));
        let exact = (high - low) as f64;
        assert!(
            (found - exact).abs() < 0.35 * exact + 100.0,
            "family {family}: {found} for {exact}, {low}..{high}"
        );
        let near = (low + 10).min(keys.len() - 1);
        let found = estimate(Bound::Included(&keys[low]), Bound::Excluded(&keys[near]));
        // Keys of a run are not told apart without the log.
        assert!(
            (found - (near - low) as f64).abs() <= RUN_MAX as f64,
            "family {family}: {found} for {}",
            near - low
        );
    }
    assert_eq!(estimate(Bound::Included(&keys[9]), Bound::Excluded(&keys[9])), 0.0);
    let all = estimate(Bound::Unbounded, Bound::Unbounded);
    assert!((all / keys.len() as f64 - 1.0).abs() < 0.3, "{all} of {}", keys.len());
}

/// Writers insert, replace, move and remove keys of their own; whoever scans meanwhile is shown the others, which stay,
/// each once and in order.
fn scans_show_what_stays(draw: fn(&mut Rng) -> Vec<u8>, rounds: u64) {
    const WRITERS: u64 = 3;
    let subject = &Subject::new();
    let mut staying: Vec<Vec<u8>> = (0..2_000).map(|seed| draw(&mut Rng(seed << 20))).collect();
    staying.sort();
    staying.dedup();
    staying.iter().for_each(|key| assert_eq!(subject.put(key).1, Upsert::Inserted));
    let (staying, is_over) = (&staying, &AtomicBool::new(false));
    threads::scope(|scope| {
        for direction in [Direction::Forward, Direction::Backward] {
            scope.spawn(move || {
                let mut rng = Rng(77);
                while !is_over.load(Ordering::Relaxed) {
                    let from = rng.below(staying.len() as u64) as usize;
                    let wanted = [1, 60, SHOWN_MAX][rng.below(3) as usize];
                    check_scan(subject, staying, from, direction, wanted);
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn_to_join(move || come_and_go(subject, staying, draw, writer, rounds)))
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|ended| ended.is_ok()), "a writer failed");
    });
    let keys = subject.keys();
    assert!(keys.iter().map(|key| &**key).eq(staying.iter().map(|key| &key[..])));
    assert_eq!(subject.assert_consistent().1, staying.len());
}

/// Entries that a scan beside writers is asked for.
const SHOWN_MAX: usize = 600;

/// A scan that is asked for more than it was told shows each key that stays once, in order, up to where it ends.
fn check_scan(subject: &Subject, staying: &[Vec<u8>], from: usize, direction: Direction, wanted: usize) {
    let guard = epoch::pin();
    let edge = Bound::Included(&staying[from][..]);
    let passing = marks::pass_all(direction);
    let scan = subject.index.scan(&guard, edge, direction, wanted, passing).expect("an ordered kind");
    let mut last: Option<Arc<[u8]>> = None;
    let mut expected = from as i64;
    let step = if direction == Direction::Forward { 1 } else { -1 };
    let mut shown = 0;
    for at in scan.take(SHOWN_MAX) {
        shown += 1;
        let key = subject.log.key(at);
        if let Some(last) = last {
            assert_eq!(key > last, direction == Direction::Forward, "{last:?} then {key:?}");
        }
        if let Some(next) = staying.get(expected as usize) {
            let is_past = if step > 0 { *key > **next } else { *key < **next };
            assert!(!is_past, "{next:?} was not shown");
            expected += step * i64::from(*key == **next);
        }
        last = Some(key);
    }
    let is_over = staying.get(expected as usize).is_none();
    assert!(is_over || shown == SHOWN_MAX, "the scan ended before {:?}", staying[expected as usize]);
}

fn come_and_go(
    subject: &Subject,
    staying: &[Vec<u8>],
    draw: fn(&mut Rng) -> Vec<u8>,
    writer: u64,
    rounds: u64,
) {
    let mut rng = Rng((writer + 1) << 40);
    let mut own: BTreeMap<Vec<u8>, Addr> = BTreeMap::new();
    for round in 0..rounds {
        let grows = round / 800 % 2 == 0;
        let mut key = draw(&mut rng);
        key.push(writer as u8);
        let known = own.get(&key).copied();
        if staying.binary_search(&key).is_ok() {
            continue;
        }
        assert_eq!(subject.get(&key), known, "{key:?}");
        match known {
            Some(at) if !grows || rng.below(4) == 0 => {
                assert!(subject.remove(&key, at));
                own.remove(&key);
            }
            Some(at) if rng.below(2) == 0 => {
                own.insert(key.clone(), subject.relocate(&key, at).expect("nobody else moves it"));
            }
            _ => {
                let (at, _) = subject.put(&key);
                if rng.below(2) == 0 {
                    subject.mark(&key, at);
                }
                own.insert(key.clone(), at);
            }
        }
        let stays = &staying[rng.below(staying.len() as u64) as usize];
        let at = subject.get(stays).unwrap_or_else(|| panic!("{stays:?} was lost"));
        if rng.below(3) == 0 {
            // Another writer may have moved it first.
            subject.relocate(stays, at);
        }
    }
    own.into_iter().for_each(|(key, at)| assert!(subject.remove(&key, at)));
}

#[test]
fn racing_writers_never_hide_a_key_from_a_scan() {
    for (name, draw) in FAMILIES {
        let ran = std::panic::catch_unwind(|| scans_show_what_stays(*draw, 4_000));
        assert!(ran.is_ok(), "keys: {name}");
    }
}
