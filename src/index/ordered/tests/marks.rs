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
    fn all(&self) -> bool {
        false
    }

    fn one(&self, at: Addr) -> bool {
        at == self.at
    }

    fn is_beyond(&self, _key: &[u8]) -> bool {
        false
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
