//! Which versions are kept, and how long, whatever points open and close.

use super::*;
use crate::sync::Arc;
use std::cell::{Cell, RefCell};
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
                Held { slot, entry_bytes: 10, blob: None }
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

    /// Exactly what some point shows is kept. Looks for none of it.
    fn check_what_is_held(&self) -> Vec<u32> {
        let mut needed: Vec<u32> =
            self.replaced.iter().filter(|one| self.is_visible(one)).map(|one| one.by.0 as u32).collect();
        let mut pinned = self.pinned.borrow().clone();
        needed.sort_unstable();
        pinned.sort_unstable();
        assert_eq!(pinned, needed, "open: {:?}", self.open);
        let kept = self.versions.kept();
        assert_eq!((kept.versions, kept.bytes), (needed.len() as u64, 10 * needed.len() as u64));
        needed
    }

    /// And it is found.
    fn check(&self) {
        let needed = self.check_what_is_held();
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
                    // Who looks has all taken in: what closes have to do should differ.
                    if random(2) == 0 {
                        kept.check();
                    } else {
                        kept.check_what_is_held();
                    }
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
    let hold = || Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None };
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

#[test]
fn what_nobody_looked_for_goes_with_the_last_point() {
    let mut kept = Kept::default();
    kept.open();
    kept.open();
    for key in 0..2000 {
        kept.replace(key << 31, Seq::ZERO);
    }
    assert_eq!(kept.check_what_is_held().len(), 2000);
    kept.close(0);
    assert_eq!(kept.check_what_is_held().len(), 2000, "it was opened twice");
    kept.close(0);
    assert_eq!(kept.check_what_is_held().len(), 0);
    kept.open();
    kept.replace(0, Seq::ZERO);
    kept.check();
}

/// With more of them than a reader should have to wait for, writers take in what they add.
#[test]
fn a_reader_finds_each_of_more_versions_than_are_left_to_readers() {
    const KEYS: u64 = 200_000;
    let versions = Versions::default();
    let point = versions.open(|| Seq(1), |_| ());
    let hash = |key: u64| key.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF;
    for key in 1..=KEYS {
        let replaced =
            Replaced { hash: hash(key), addr: Addr::from_bits(key), seq: Seq(1), by: Seq(key + 1) };
        versions.keep(replaced, || Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None });
    }
    assert_eq!(versions.kept().versions, KEYS);
    for key in 1..=KEYS {
        assert_eq!(versions.visible_at(hash(key), point, None), Some((Seq(1), Addr::from_bits(key))));
    }
    assert_eq!(versions.bytes_at(point), KEYS);
    let let_go = RefCell::new(0);
    versions.close(point, |_| *let_go.borrow_mut() += 1);
    assert_eq!((let_go.into_inner(), versions.kept().versions), (KEYS, 0));
}

/// While a point is opened versions are kept whatever they are. Which of them it needs is known later.
#[test]
fn what_was_kept_for_an_opening_in_vain_is_let_go_of_when_some_point_closes() {
    let versions = Versions::default();
    let old = versions.open(|| Seq(10), |_| ());
    let let_go = RefCell::new(Vec::new());
    let keep = |seq: u64, by: u64| {
        let replaced = Replaced { hash: 7, addr: Addr::from_bits(by), seq: Seq(seq), by: Seq(by) };
        versions.keep(replaced, || Held { slot: SegmentSlot(by as u32), entry_bytes: 1, blob: None });
    };
    let is_first = std::cell::Cell::new(true);
    let take = || {
        // Asked once whether the newest point will do, and once for a new one.
        if is_first.replace(false) {
            return Seq(15);
        }
        keep(11, 12);
        keep(12, 30);
        Seq(20)
    };
    let new = versions.open(take, |held| let_go.borrow_mut().push(held.slot.0));
    assert_eq!(versions.visible_at(7, new, None), Some((Seq(12), Addr::from_bits(30))));
    assert_eq!(versions.visible_at(7, old, None), None);
    versions.close(old, |held| let_go.borrow_mut().push(held.slot.0));
    assert_eq!(*let_go.borrow(), [12], "no point shows it");
    assert_eq!(versions.kept().versions, 1);
    versions.close(new, |held| let_go.borrow_mut().push(held.slot.0));
    assert_eq!(*let_go.borrow(), [12, 30]);
}

/// A panic left the store keeping every version that was replaced from then on, for ever.
#[test]
fn an_opening_that_panics_keeps_nothing() {
    let versions = Arc::new(Versions::default());
    let panicking = Arc::clone(&versions);
    let open = move || panicking.open(|| panic!("while a stamp is taken"), |_| ());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).expect_err("it panics");
    assert!(!versions.are_needed());
    let hold = || Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None };
    versions.keep(Replaced { hash: 7, addr: Addr::from_bits(1), seq: Seq(1), by: Seq(2) }, hold);
    assert_eq!(versions.kept().versions, 0);
    let point = versions.open(|| Seq(9), |_| ());
    versions.keep(Replaced { hash: 7, addr: Addr::from_bits(1), seq: Seq(1), by: Seq(12) }, hold);
    assert_eq!(versions.kept().versions, 1);
    versions.close(point, |_| ());
    assert_eq!(versions.kept().versions, 0);
}

/// Who closed the earlier one then looked for versions that were gone, and panicked.
#[test]
fn the_last_point_may_close_while_what_another_one_had_is_let_go_of() {
    for is_opened_again in [false, true] {
        let versions = Versions::default();
        let held = RefCell::new(0);
        let keep = |addr: u64, by: u64| {
            let replaced = Replaced { hash: 7, addr: Addr::from_bits(addr), seq: Seq(addr), by: Seq(by) };
            versions.keep(replaced, || {
                *held.borrow_mut() += 1;
                Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None }
            });
        };
        let let_go = |_: Held| *held.borrow_mut() -= 1;
        let first = versions.open(|| Seq(1), let_go);
        keep(1, 2);
        let second = versions.open(|| Seq(3), let_go);
        keep(2, 4);
        assert_eq!((versions.bytes_at(first), versions.bytes_at(second)), (1, 1), "both are taken in");
        let Closed::OneOfSome(noted) = versions.close_for_one(second) else { panic!("another one is open") };
        versions.close(first, let_go);
        assert_eq!(*held.borrow(), 0, "all went with the last");
        if is_opened_again {
            versions.open(|| Seq(5), let_go);
            keep(2, 6);
            assert_eq!(versions.bytes_at(Seq(5)), 1);
        }
        for (shard, noted) in noted {
            versions.let_go_in(shard, second, noted, |_| panic!("nothing of the second one is left"));
        }
        assert_eq!(*held.borrow(), i32::from(is_opened_again));
        assert_eq!(versions.kept().versions, u64::from(is_opened_again));
    }
}

/// Who closes the only point visits no shard if none was used, and a writer that is about to keep something uses one.
#[test]
fn nothing_is_kept_behind_the_close_of_a_point_that_was_alone_beside_writers() {
    const ROUNDS: u64 = 20_000;
    let (versions, held) = (Versions::default(), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let write = |first: u64| {
        let mut hash = first;
        while !is_over.load(Ordering::Relaxed) {
            hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            if versions.may_need(Seq(1)) {
                let addr = Addr::from_bits(hash >> 24);
                versions.keep(Replaced { hash, addr, seq: Seq(1), by: Seq(u64::MAX >> 2) }, || {
                    held.fetch_add(1, Ordering::Relaxed);
                    Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None }
                });
            }
        }
    };
    let let_go = |_| _ = held.fetch_sub(1, Ordering::Relaxed);
    crate::sync::threads::scope(|scope| {
        scope.spawn(|| write(1));
        scope.spawn(|| write(2));
        // Counted, and told when the writers have ended: they would write for ever.
        let mut left = 0;
        for round in 1..=ROUNDS {
            let point = versions.open(|| Seq(round * 2), let_go);
            // Some others are opened beside it.
            let other = round.is_multiple_of(4).then(|| versions.open(|| Seq(round * 2 + 1), let_go));
            versions.close(point, let_go);
            other.into_iter().for_each(|other| versions.close(other, let_go));
            left += versions.kept().versions;
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(left, 0, "no point is open");
    });
    assert_eq!(held.into_inner(), 0);
}

/// It was taken for an opening that fails: nothing was kept for it.
#[test]
fn a_point_that_a_destructor_opens_while_its_thread_unwinds_keeps_what_it_shows() {
    struct OpensAtEnd<'a>(&'a Versions);
    impl Drop for OpensAtEnd<'_> {
        fn drop(&mut self) {
            self.0.open(|| Seq(5), |_| panic!("nothing is kept yet"));
        }
    }
    let versions = Versions::default();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _opens = OpensAtEnd(&versions);
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(unwound.is_err());
    assert!(versions.may_need(Seq(5)));
    let replaced = Replaced { hash: 7, addr: Addr::from_bits(1), seq: Seq(4), by: Seq(6) };
    versions.keep(replaced, || Held { slot: SegmentSlot(0), entry_bytes: 1, blob: None });
    assert_eq!(versions.visible_at(7, Seq(5), None), Some((Seq(4), Addr::from_bits(1))));
    let gone = Cell::new(0);
    versions.close(Seq(5), |_| gone.set(gone.get() + 1));
    assert_eq!((gone.get(), versions.kept().versions), (1, 0));
}

/// Who keeps something may have looked before the point closed.
#[test]
fn a_shard_that_was_not_told_of_a_point_keeps_nothing_behind_its_close() {
    let mut kept = Kept::default();
    kept.open();
    let addr = Addr::from_bits(1);
    kept.close(0);
    kept.versions.keep(Replaced { hash: 7, addr, seq: Seq::ZERO, by: Seq(2) }, || panic!("nobody needs it"));
    kept.check();
}

/// Between the number of a second opening and the bound that says that everything is kept the bound is the first one's.
#[test]
fn a_shard_does_not_take_the_first_point_for_the_second_that_is_being_opened() {
    let mut kept = Kept::default();
    kept.open();
    kept.replace(7, Seq::ZERO);
    let number = kept.versions.opening();
    kept.versions.opening.store(number + 1, Ordering::SeqCst);
    kept.versions.keep(Replaced { hash: 7, addr: Addr::from_bits(90), seq: Seq(5), by: Seq(6) }, || Held {
        slot: SegmentSlot(90),
        entry_bytes: 1,
        blob: None,
    });
    kept.versions.bounds.visible_below.swap(u64::MAX, Ordering::SeqCst);
    let is_kept = RefCell::new(false);
    kept.versions.keep(Replaced { hash: 7, addr: Addr::from_bits(91), seq: Seq(1), by: Seq(3) }, || {
        is_kept.replace(true);
        Held { slot: SegmentSlot(91), entry_bytes: 1, blob: None }
    });
    assert!(is_kept.into_inner(), "the second point may turn out to show it");
}

/// Who opens a second point tells the shards of the first one before: else they have its own only.
#[test]
fn what_a_second_point_shows_is_kept_by_shards_that_were_not_told_of_the_first() {
    for are_used_before in [false, true] {
        let mut kept = Kept::default();
        kept.open();
        let seq = if are_used_before { kept.replace(0, Seq::ZERO) } else { Seq(kept.stamp) };
        kept.stamp += 1;
        kept.open();
        for key in 0..64 {
            let newest = kept.replace(key << 31, if key == 0 { seq } else { Seq::ZERO });
            kept.replace(key << 31, newest);
        }
        kept.check();
        kept.close(0);
        kept.check();
        kept.close(0);
        kept.check();
    }
}

/// Who looks for one version takes in those that may be it, not all of its shard.
#[test]
fn who_looks_for_a_version_takes_in_a_part_of_its_shard() {
    let mut kept = Kept::default();
    kept.open();
    let hash = |key: u64| key << 40;
    (0..1000).for_each(|key| _ = kept.replace(hash(key), Seq::ZERO));
    assert!(kept.versions.visible_at(hash(7), kept.open[0], None).is_some());
    let taken_in = kept.versions.shard(hash(7)).lock().taken_in();
    assert!(taken_in > 0 && taken_in <= 125, "{taken_in}");
    kept.check();
}
