//! Pools of nodes, and the memory that is made for them.

use super::*;

/// Else a place in it that was remembered long ago could fit while it is filled, before it is in the tree.
#[test]
fn a_leaf_that_is_handed_out_again_has_a_version_that_it_never_had() {
    let mut space = AddressSpace::reserve(AddressSpace::needed_bytes::<Leaf>(8)).unwrap();
    let pool: Pool<Leaf> = Pool::new(space.take(8));
    let (number, mut newest) = (pool.allocate(), 0);
    for flags in [0, 1, 2, VERSION_FLAGS, 0, 0] {
        pool.get(number).version.store(newest + 4 * (VERSION_FLAGS + 1) + flags, Ordering::Relaxed);
        newest = pool.get(number).version.load(Ordering::Relaxed);
        pool.get(number).words[3].store(7, Ordering::Relaxed);
        pool.give_back([number]);
        assert_eq!(pool.allocate(), number, "the one that came back last");
        let version = pool.get(number).version.load(Ordering::Relaxed);
        assert!(version > newest && version & VERSION_FLAGS == 0, "{version} after {newest}");
        assert_eq!(pool.get(number).words[3].load(Ordering::Relaxed), 0);
        newest = version;
    }
}

#[test]
fn as_many_nodes_are_left_as_is_told_and_hardly_more() {
    let count = 3 * (LEFT_STEP * LEFT_STEP) as usize;
    let mut before = u64::MAX;
    for fresh_from in 1..=count as u32 {
        for returned in [0, 1, 100] {
            let left = count as u64 - u64::from(fresh_from) + returned;
            let free = FreeNodes { fresh_from, returned: vec![1; returned as usize] };
            let told = free.left_of(count);
            assert!(told <= left && left - told < LEFT_STEP, "{told} of {left}");
            assert!(left >= LEFT_STEP * LEFT_STEP || told == left, "{told} of {left}: few are counted");
        }
        let told = FreeNodes { fresh_from, returned: Vec::new() }.left_of(count);
        assert!(told <= before, "more are left after one was taken");
        before = told;
    }
}

#[test]
fn huge_pages_are_asked_for_once_each_and_only_where_all_nodes_are_in_use() {
    let mut space = AddressSpace::reserve(AddressSpace::needed_bytes::<Page>(3000)).unwrap();
    let pool: Pool<Page> = Pool::new(space.take(3000));
    let mut asked = 0;
    for number in 1..2900 {
        assert_eq!(pool.allocate(), number);
        pool.get(number).buckets[7].slots[3].store(u64::from(number), Ordering::Relaxed);
        while pool.make_huge_page(0) {
            asked += 1;
            let behind = pool.asked_to.load(Ordering::Relaxed);
            assert!(behind <= number + 1, "node {number} is the last one in use, not {behind}");
        }
    }
    // 11 MiB; they need not begin where a huge page does.
    assert!((4..=5).contains(&asked), "{asked} huge pages");
    assert!(pool.merged_bytes() <= asked * HUGE_PAGE_BYTES as u64);
    for number in 1..2900 {
        let slot = &pool.get(number).buckets[7].slots[3];
        assert_eq!(slot.load(Ordering::Relaxed), u64::from(number));
    }
}

/// A pool of so many huge pages that they begin where it does, and a call that brings it to some nodes in use and makes what
/// is wanted then: it says how many nodes ahead of them memory was made.
fn pool_and_growth(huge_pages: usize) -> (Pool<Page>, impl Fn(&Pool<Page>, usize) -> usize) {
    assert!(huge_pages >= HUGE_PAGES_MIN);
    let count = huge_pages * HUGE_PAGE_BYTES / size_of::<Page>();
    let mut space = AddressSpace::reserve(AddressSpace::needed_bytes::<Page>(count)).unwrap();
    let grow = |pool: &Pool<Page>, in_use: usize| {
        while (pool.free.lock().fresh_from as usize) < in_use {
            let number = pool.allocate();
            pool.get(number).buckets[0].slots[0].store(u64::from(number), Ordering::Relaxed);
        }
        while pool.make_huge_page(0) {}
        for number in 1..in_use as u32 {
            let slot = &pool.get(number).buckets[0].slots[0];
            assert_eq!(slot.load(Ordering::Relaxed), u64::from(number));
        }
        pool.memory_bytes() as usize / size_of::<Page>() + 1 - in_use
    };
    (Pool::made_ahead(space.take(count)), grow)
}

#[test]
fn memory_made_ahead_is_at_most_a_quarter_of_what_is_in_use_and_lies_within_the_array() {
    let in_huge_page = HUGE_PAGE_BYTES / size_of::<Page>();
    let (pool, grow) = pool_and_growth(HUGE_PAGES_MIN);
    for (huge_pages, most) in [(0, 0), (1, 0), (2, 0), (4, 1), (9, 2), (16, 4), (40, 5), (62, 2)] {
        let ahead = grow(&pool, huge_pages * in_huge_page + 7);
        assert!(ahead <= most * in_huge_page, "{ahead} nodes ahead of {huge_pages} huge pages");
        // Where the kernel cannot make it, there is none.
        let is_made = !pool.is_refused.load(Ordering::Relaxed);
        assert!(!is_made || ahead + in_huge_page > most * in_huge_page, "{ahead} ahead of {huge_pages}");
    }
}

#[test]
fn memory_is_made_ahead_only_of_what_grows_and_not_where_nodes_came_back() {
    let in_huge_page = HUGE_PAGE_BYTES / size_of::<Page>();
    let (pool, grow) = pool_and_growth(HUGE_PAGES_MIN);
    for _ in 1..20 * in_huge_page {
        pool.allocate();
    }
    pool.ahead_from.store(0, Ordering::Relaxed);
    while pool.make_huge_page(0) {}
    assert_eq!(pool.memory_bytes(), (20 * in_huge_page as u64 - 1) * PAGE_BYTES, "as it was opened");
    let returned = 1..(6 * in_huge_page) as u32;
    pool.give_back(returned.clone());
    while pool.make_huge_page(0) {}
    assert_eq!(pool.memory_bytes(), (20 * in_huge_page as u64 - 1) * PAGE_BYTES, "those come first");
    assert_eq!(returned.map(|_| pool.allocate()).max(), Some(6 * in_huge_page as u32 - 1));
    for number in 1..20 * in_huge_page as u32 {
        pool.get(number).buckets[0].slots[0].store(u64::from(number), Ordering::Relaxed);
    }
    assert!(grow(&pool, 22 * in_huge_page) <= 5 * in_huge_page);
}

/// All looks go through the inner nodes, and wait while one of their huge pages is merged: it has to be there before they are.
#[test]
fn memory_is_made_as_far_ahead_as_it_is_asked_for_and_no_further() {
    let in_huge_page = HUGE_PAGE_BYTES / size_of::<Page>();
    let count = HUGE_PAGES_MIN * in_huge_page;
    let mut space = AddressSpace::reserve(AddressSpace::needed_bytes::<Page>(count)).unwrap();
    let pool: Pool<Page> = Pool::new(space.take(count));
    let made = || pool.made_to.load(Ordering::Relaxed) as usize;
    assert_eq!(pool.allocate(), 1);
    assert!(!pool.make_huge_page(HUGE_PAGE_BYTES / 2), "half of one is no huge page");
    assert_eq!((made(), pool.growing_bytes()), (0, 0));
    // Where the kernel cannot make it, there is none.
    if pool.make_huge_page(2 * HUGE_PAGE_BYTES) && made() > 0 {
        assert_eq!(made(), in_huge_page);
        assert!(pool.make_huge_page(2 * HUGE_PAGE_BYTES));
        assert!(!pool.make_huge_page(2 * HUGE_PAGE_BYTES), "it was made");
        assert_eq!(made(), 2 * in_huge_page);
        assert_eq!(pool.memory_bytes(), (2 * in_huge_page as u64 - 1) * PAGE_BYTES);
    }
    assert_eq!(pool.get(1).buckets[0].slots[0].load(Ordering::Relaxed), 0);
    pool.is_refused.store(true, Ordering::Relaxed);
    assert!(!pool.make_huge_page(5 * HUGE_PAGE_BYTES), "what the kernel refused it is not asked for again");
}
