//! Marked slots: what a scan passes over, and that it never passes over anything else.

use super::*;
use std::cell::Cell;

/// A reader to whom nothing that was marked matters, and nothing from a key on.
struct PassAll<'a> {
    end: &'a [u8],
    direction: Direction,
}

impl PassOver for PassAll<'_> {
    fn all(&self) -> bool {
        true
    }

    fn one(&self, _at: Addr) -> bool {
        unreachable!("all of them are passed over")
    }

    fn is_beyond(&self, key: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => key >= self.end,
            Direction::Backward => key < self.end,
        }
    }
}

/// One to whom one of those that were marked does not matter.
struct PassOne {
    at: Addr,
}

impl PassOver for PassOne {
    fn one(&self, at: Addr) -> bool {
        at == self.at
    }
}

impl Subject {
    pub(super) fn mark(&self, key: &[u8], at: Addr) {
        let _guard = epoch::pin();
        self.index.mark_tombstone(key_of(key), at);
    }

    fn scan_passing(&self, direction: Direction, passing: impl PassOver) -> Vec<Addr> {
        let guard = epoch::pin();
        let shown = self.index.scan(&guard, Bound::Unbounded, direction, usize::MAX, passing);
        shown.expect("an ordered kind").collect()
    }
}

/// What passes over all that is marked.
pub(super) fn pass_all(direction: Direction) -> impl PassOver {
    let end: &[u8] = if direction == Direction::Forward { &[255; 400] } else { &[] };
    PassAll { end, direction }
}

fn number(n: u64) -> [u8; 8] {
    (n << 8).to_be_bytes()
}

/// Numbers up to 5,000, put in no order; those from 1,000 on and below 4,000 are marked.
fn emptied() -> (Subject, Vec<Addr>) {
    let subject = Subject::new();
    let mut at = vec![Addr::from_bits(0); 5_000];
    (0..5_000).map(|i| i * 1_999 % 5_000).for_each(|n| at[n as usize] = subject.put(&number(n)).0);
    (1_000..4_000).for_each(|n| subject.mark(&number(n), at[n as usize]));
    (subject, at)
}

#[test]
fn all_that_was_marked_is_passed_over_and_nothing_else() {
    let (subject, at) = emptied();
    let mut expected = [&at[..1_000], &at[4_000..]].concat();
    assert_eq!(subject.scan_passing(Direction::Forward, pass_all(Direction::Forward)), expected);
    expected.reverse();
    assert_eq!(subject.scan_passing(Direction::Backward, pass_all(Direction::Backward)), expected);
    assert_eq!(subject.scan_passing(Direction::Forward, PassNothing), at);
    let but_one: Vec<Addr> = at.iter().copied().filter(|other| *other != at[2_000]).collect();
    assert_eq!(subject.scan_passing(Direction::Forward, PassOne { at: at[2_000] }), but_one);
    assert_eq!(subject.scan_passing(Direction::Forward, PassOne { at: at[500] }), at, "it was not marked");
}

#[test]
fn a_scan_that_passes_over_much_looks_where_its_reader_ends() {
    struct Asked<'a>(&'a Cell<u32>);
    impl PassOver for Asked<'_> {
        fn all(&self) -> bool {
            true
        }
        fn one(&self, _at: Addr) -> bool {
            true
        }
        fn is_beyond(&self, key: &[u8]) -> bool {
            self.0.set(self.0.get() + 1);
            *key >= number(2_000)[..]
        }
    }
    let (subject, _) = emptied();
    let asked = Cell::new(0);
    let guard = epoch::pin();
    let from = number(1_500);
    let edge = Bound::Included(&from[..]);
    let shown = subject.index.scan(&guard, edge, Direction::Forward, 50, Asked(&asked));
    assert_eq!(shown.expect("an ordered kind").next(), None, "the next entry lies beyond");
    assert!(asked.get() >= 1);
}

#[test]
fn what_is_put_over_a_tombstone_is_shown() {
    let (subject, mut at) = emptied();
    (1_000..4_000).step_by(7).for_each(|n| at[n as usize] = subject.put(&number(n)).0);
    let is_shown = |n: &usize| !(1_000..4_000).contains(n) || (n - 1_000).is_multiple_of(7);
    let expected: Vec<Addr> = (0..5_000).filter(is_shown).map(|n| at[n]).collect();
    assert_eq!(subject.scan_passing(Direction::Forward, pass_all(Direction::Forward)), expected);
}

impl Subject {
    /// Leaves of the first tree, and how many of them are named by their parents as ones to be passed over.
    fn named_leaves(&self) -> (usize, usize) {
        let nodes = &self.index.nodes;
        let mut below = vec![nodes.layers.get(self.index.first).root.load(Ordering::Relaxed)];
        let (mut leaves, mut named) = (0, 0);
        while let Some(number) = below.pop() {
            if number & INNER == 0 {
                leaves += 1;
            } else {
                let (_, children, passed) = nodes.inners.get(number & !INNER).contents();
                named += passed.count_ones() as usize;
                below.extend(children);
            }
        }
        (leaves, named)
    }
}

#[test]
fn leaves_without_anything_but_tombstones_are_passed_over_unseen() {
    let (subject, at) = emptied();
    let (leaves, named) = subject.named_leaves();
    assert!(named * 10 > leaves * 5, "{named} of {leaves} leaves, of whose slots three fifths are marked");
    subject.assert_consistent();
    // One key in each leaf, at most, and one that was not there: whoever puts rouses the leaf.
    let mut expected = [&at[..1_000], &at[4_000..]].concat();
    for n in (1_000..4_000).step_by(500) {
        expected.push(subject.put(&number(n)).0);
        expected.push(subject.put(&(n << 8 | 1).to_be_bytes()).0);
    }
    let mut shown = subject.scan_passing(Direction::Forward, pass_all(Direction::Forward));
    let mut back = subject.scan_passing(Direction::Backward, pass_all(Direction::Backward));
    for addrs in [&mut expected, &mut shown, &mut back] {
        addrs.sort_by_key(|at| at.to_bits());
    }
    assert_eq!(shown, expected);
    assert_eq!(back, expected);
    assert!(subject.named_leaves().1 < named, "those are looked at again");
    subject.assert_consistent();
}

/// Keys that two writers empty, in the middle of those that [`emptied`] marked, in pieces.
const PIECE: u64 = 80;
const WRITTEN: std::ops::Range<u64> = 2_400..2_640;
/// Those on either side that [`move_tombstones`] has; beyond them all is as it was.
const MOVED: [std::ops::Range<u64>; 2] = [1_200..WRITTEN.start, WRITTEN.end..3_800];
const BEYOND: [u64; 2] = [1_100, 3_900];

impl Subject {
    /// The first key that a scan from beyond all that was marked shows at or behind `key`, in its direction.
    fn first_shown(&self, key: &[u8], direction: Direction) -> Option<Addr> {
        let guard = epoch::pin();
        let [below, above] = BEYOND.map(number);
        let from = if direction == Direction::Forward { &below } else { &above };
        let shown = self.index.scan(&guard, Bound::Included(&from[..]), direction, 50, pass_all(direction));
        shown.expect("an ordered kind").find(|&at| match direction {
            Direction::Forward => *self.log.key(at) >= *key,
            Direction::Backward => *self.log.key(at) <= *key,
        })
    }
}

/// Marks all keys of one of two writers in a piece, puts one of them, which may have been removed before, and looks for
/// it.
fn empty_and_put(subject: &Subject, mut at: Vec<Addr>, writer: u64) {
    let mut rng = Rng((writer + 1) << 32);
    let pieces = (WRITTEN.end - WRITTEN.start) / PIECE;
    for round in 0..20_000 {
        let piece = WRITTEN.start + rng.below(pieces) * PIECE;
        let own = |n: u64| piece + n * 2 + writer;
        (0..PIECE / 2).for_each(|n| subject.mark(&number(own(n)), at[own(n) as usize]));
        let n = own(rng.below(PIECE / 2));
        if rng.below(4) == 0 {
            assert!(subject.remove(&number(n), at[n as usize]));
        }
        at[n as usize] = subject.put(&number(n)).0;
        for direction in [Direction::Forward, Direction::Backward] {
            let shown = subject.first_shown(&number(n), direction);
            assert_eq!(shown, Some(at[n as usize]), "number {n}, {direction:?}, round {round}");
        }
    }
}

/// Removes and moves the tombstones on either side, and puts them again: leaves and inner nodes join and split.
fn move_tombstones(subject: &Subject, mut at: Vec<Addr>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for n in MOVED.into_iter().flatten() {
            let (key, at) = (number(n), &mut at[n as usize]);
            *at = subject.relocate(&key, *at).expect("it was there");
            assert!(subject.remove(&key, *at));
        }
        for n in MOVED.into_iter().flatten() {
            at[n as usize] = subject.put(&number(n)).0;
            subject.mark(&number(n), at[n as usize]);
        }
    }
}

/// Two writers empty the same leaves, each of its own keys, and look for what they have just put, from either side.
#[test]
fn what_is_put_is_shown_at_once_whatever_others_empty_beside_it() {
    let (subject, at) = emptied();
    let (subject, at, is_over) = (&subject, &at, &AtomicBool::new(false));
    threads::scope(|scope| {
        let mover = scope.spawn_to_join(move || move_tombstones(subject, at.clone(), is_over));
        let writers =
            [0, 1].map(|writer| scope.spawn_to_join(move || empty_and_put(subject, at.clone(), writer)));
        let have_ended = writers.map(|writer| writer.join().is_ok());
        is_over.store(true, Ordering::Relaxed);
        assert!(mover.join().is_ok(), "who moves tombstones failed");
        assert_eq!(have_ended, [true, true], "a writer failed");
    });
    subject.assert_consistent();
}

/// Keys are put, moved, removed and, many beside each other, marked: what is not marked is shown, in order.
fn marks_stay_with_their_keys(draw: fn(&mut Rng) -> Vec<u8>, seed: u64, steps: u64) {
    let subject = Subject::new();
    let mut model: BTreeMap<Vec<u8>, (Addr, bool)> = BTreeMap::new();
    let mut rng = Rng(seed << 32);
    for step in 0..steps {
        let key = draw(&mut rng);
        let removals = if step / (steps / 4) % 2 == 1 { 9 } else { 2 };
        match (rng.below(16), model.get(&key).copied()) {
            (0, Some((at, is_marked))) => {
                let to = subject.relocate(&key, at).expect("it was there");
                model.insert(key, (to, is_marked));
            }
            (1, _) => {
                let many = rng.below(120) as usize;
                for (key, (at, is_marked)) in model.range_mut(key..).take(many) {
                    subject.mark(key, *at);
                    *is_marked = true;
                }
            }
            (draw, Some((at, _))) if draw < 2 + removals => {
                assert!(subject.remove(&key, at));
                model.remove(&key);
            }
            (draw, None) if draw < 2 + removals => {}
            _ => {
                let (at, _) = subject.put(&key);
                model.insert(key, (at, false));
            }
        }
        if step % (steps / 40) == 0 {
            subject.assert_consistent();
            check_marks(&subject, &model);
        }
    }
}

fn check_marks(subject: &Subject, model: &BTreeMap<Vec<u8>, (Addr, bool)>) {
    let marked: std::collections::HashSet<Addr> =
        model.values().filter(|(_, is_marked)| *is_marked).map(|(at, _)| *at).collect();
    let mut all: Vec<Addr> = model.values().map(|(at, _)| *at).collect();
    let mut expected: Vec<Addr> = all.iter().copied().filter(|at| !marked.contains(at)).collect();
    for direction in [Direction::Forward, Direction::Backward] {
        // Marks may be missing.
        let mut shown = subject.scan_passing(direction, pass_all(direction));
        shown.retain(|at| !marked.contains(at));
        assert_eq!(shown, expected, "{direction:?}");
        assert_eq!(subject.scan_passing(direction, PassNothing), all);
        expected.reverse();
        all.reverse();
    }
}

#[test]
fn whatever_moves_slots_takes_their_marks_along() {
    for (name, draw) in FAMILIES {
        let ran = std::panic::catch_unwind(|| marks_stay_with_their_keys(*draw, 7, 8_000));
        assert!(ran.is_ok(), "keys: {name}");
    }
    marks_stay_with_their_keys(adversarial, 8, 20_000);
}

/// One that remembers what it was told comes next.
struct Told<'a>(&'a std::cell::RefCell<Vec<Addr>>);

impl PassOver for Told<'_> {
    fn are_next(&self, entries: &[Addr]) {
        self.0.borrow_mut().extend(entries);
    }
}

#[test]
fn a_scan_tells_what_comes_next_before_it_shows_it() {
    let subject = Subject::new();
    let keys: Vec<Vec<u8>> = (0..1_000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    for key in &keys {
        subject.put(key);
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let told = std::cell::RefCell::new(Vec::new());
        let guard = epoch::pin();
        let scan = subject.index.scan(&guard, Bound::Unbounded, direction, 100, Told(&told));
        // Leaves are copied as a whole, but no more is asked for than is wanted.
        let shown = scan.expect("an ordered kind").take(100).enumerate().inspect(|(i, at)| {
            assert_eq!(told.borrow().get(*i), Some(at), "told before, and in order");
        });
        assert_eq!((shown.count(), told.borrow().len()), (100, 100));
    }
}
