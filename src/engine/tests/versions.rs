//! Which versions are kept, and how long, whatever points open and close.

use super::*;
use crate::sync::Arc;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

/// Entries of a few keys that replace each other, points, and what has to be kept for them.
#[derive(Default)]
struct Kept {
    versions: Versions,
    stamp: u64,
    /// Replaced entries whose slots are pinned: the address is the number of the slot.
    pinned: RefCell<Vec<u32>>,
    replaced: Vec<Replaced>,
    open: Vec<Seq>,
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

impl Kept {
    fn let_go(&self, held: &Held) {
        let mut pinned = self.pinned.borrow_mut();
        let at = pinned.iter().position(|slot| *slot == held.slot.0).expect("what is let go of was held");
        pinned.swap_remove(at);
    }

    fn replace(&mut self, hash: u64, seq: Seq) -> Seq {
        self.stamp += 1;
        let slot = SegmentSlot(self.stamp as u32);
        let addr = Addr::from_bits(u64::from(slot.0));
        let replaced = Replaced { hash, addr, seq, by: Seq(self.stamp) };
        if self.versions.may_need(seq) {
            self.versions.keep(replaced, || {
                self.pinned.borrow_mut().push(slot.0);
                Held { slot, extents: None, bytes: 10 }
            });
        }
        self.replaced.push(replaced);
        Seq(self.stamp)
    }

    fn open(&mut self) {
        let point = self.versions.open(|| Seq(self.stamp), |held| self.let_go(&held));
        self.open.push(point);
    }

    fn close(&mut self, at: usize) {
        let point = self.open.swap_remove(at);
        self.versions.close(point, |held| self.let_go(&held));
    }

    fn is_visible(&self, replaced: &Replaced) -> bool {
        self.open.iter().any(|point| replaced.seq <= *point && *point < replaced.by)
    }

    /// Exactly what some point shows is kept, and found.
    fn check(&self) {
        let mut needed: Vec<u32> =
            self.replaced.iter().filter(|one| self.is_visible(one)).map(|one| one.by.0 as u32).collect();
        let mut pinned = self.pinned.borrow().clone();
        needed.sort_unstable();
        pinned.sort_unstable();
        assert_eq!(pinned, needed, "open: {:?}", self.open);
        let kept = self.versions.kept();
        assert_eq!((kept.versions, kept.bytes), (needed.len() as u64, 10 * needed.len() as u64));
        let points: BTreeSet<_> = self.open.iter().copied().collect();
        assert_eq!(points.iter().map(|point| self.versions.bytes_at(*point)).sum::<u64>(), kept.bytes);
        for replaced in self.replaced.iter().filter(|one| self.is_visible(one)) {
            let point = self.open.iter().find(|point| replaced.seq <= **point && **point < replaced.by);
            let found = self.versions.visible_at(replaced.hash, *point.expect("visible"), None);
            assert_eq!(found, Some((replaced.seq, replaced.addr)));
        }
    }
}

#[test]
fn what_a_point_shows_is_kept_and_nothing_else_in_whatever_order_points_close() {
    for seed in 0..40 {
        let mut random_state = seed;
        let mut random = |below| random(&mut random_state, below);
        let mut kept = Kept::default();
        let mut newest = [Seq::ZERO; 5];
        for _ in 0..300 {
            match random(8) {
                0 => kept.open(),
                1 if !kept.open.is_empty() => {
                    let at = match seed % 3 {
                        0 => kept.open.len() - 1,
                        1 => 0,
                        _ => random(kept.open.len() as u64) as usize,
                    };
                    kept.close(at);
                    kept.check();
                }
                _ => {
                    let key = random(5);
                    // Hashes of one shard and of several; one key is overwritten nearly all the time.
                    let key = if random(2) == 0 { 0 } else { key };
                    newest[key as usize] = kept.replace(key << 31, newest[key as usize]);
                }
            }
        }
        kept.check();
        while !kept.open.is_empty() {
            kept.close(0);
        }
        kept.check();
        assert!(!kept.versions.are_needed());
    }
}

/// Each close went through all that was kept, and so did each overwrite of a key with many versions.
#[test]
fn a_hundred_thousand_versions_of_one_key_are_kept_read_and_let_go_of_one_by_one() {
    const POINTS: usize = 100_000;
    let versions = Versions::default();
    let hold = || Held { slot: SegmentSlot(0), extents: None, bytes: 1 };
    let mut points = VecDeque::new();
    for stamp in 1..=POINTS as u64 {
        points.push_back(versions.open(|| Seq(stamp * 2), |_| ()));
        let (seq, by) = (Seq(stamp * 2 - 1), Seq(stamp * 2 + 1));
        versions.keep(Replaced { hash: 7, addr: Addr::from_bits(stamp), seq, by }, hold);
    }
    // And one version each that all of them show.
    for key in 1..=POINTS as u64 {
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let addr = Addr::from_bits(POINTS as u64 + key);
        versions.keep(Replaced { hash, addr, seq: Seq(1), by: Seq(u64::MAX >> 2) }, hold);
    }
    for (stamp, point) in (1..).zip(&points) {
        let found = versions.visible_at(7, *point, None);
        assert_eq!(found, Some((Seq(stamp * 2 - 1), Addr::from_bits(stamp))));
    }
    // From both ends.
    while let Some(point) =
        if points.len().is_multiple_of(2) { points.pop_back() } else { points.pop_front() }
    {
        versions.close(point, |_| ());
    }
    assert_eq!(versions.kept().versions, 0);
}

/// A panic left the store keeping every version that was replaced from then on, for ever.
#[test]
fn an_opening_that_panics_keeps_nothing() {
    let versions = Arc::new(Versions::default());
    let panicking = Arc::clone(&versions);
    let open = move || panicking.open(|| panic!("while a stamp is taken"), |_| ());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).expect_err("it panics");
    assert!(!versions.are_needed());
    let hold = || Held { slot: SegmentSlot(0), extents: None, bytes: 1 };
    versions.keep(Replaced { hash: 7, addr: Addr::from_bits(1), seq: Seq(1), by: Seq(2) }, hold);
    assert_eq!(versions.kept().versions, 0);
    let point = versions.open(|| Seq(9), |_| ());
    versions.keep(Replaced { hash: 7, addr: Addr::from_bits(1), seq: Seq(1), by: Seq(12) }, hold);
    assert_eq!(versions.kept().versions, 1);
    versions.close(point, |_| ());
    assert_eq!(versions.kept().versions, 0);
}
