//! Bit rot: every bit of a small pool is flipped, sectors are lost, replaced and repeated, files are cut off. A store may
//! then refuse to open, with the right error and only where the table of segments itself is hit; it may refuse single
//! keys with `Corrupted`; it never returns a wrong value, forgets a live key or brings a deleted one back.
//!
//! `ROT_STEP=n` flips every n-th bit only.

mod rot {
    pub mod check;
    pub mod ends;
    pub mod pages;
    pub mod pool;
}

use flatkv::testing;
use flatkv::testing::sim::SimKind;
use flatkv::{Error, MediaChoice};
use rot::check::{self, Tally, Terms, VIOLATIONS_MAX, try_image};
use rot::ends::Resumed;
use rot::pages::{self, Loss};
use rot::pool::{End, POOL_BYTES, Pool};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shares `count` numbered cases among the cores.
fn share(count: u64, case: impl Fn(u64, &mut Tally) + Sync) -> Tally {
    let next = AtomicU64::new(0);
    let total = std::sync::Mutex::new(Tally::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                let mut tally = Tally::new();
                loop {
                    let start = next.fetch_add(64, Ordering::Relaxed);
                    if start >= count || tally.violations.len() > VIOLATIONS_MAX {
                        break;
                    }
                    (start..count.min(start + 64)).for_each(|number| case(number, &mut tally));
                }
                total.lock().unwrap().merge(tally);
            });
        }
    });
    total.into_inner().unwrap()
}

fn flip_every_bit(kind: SimKind, end: End) {
    let pool = Pool::build(kind, end);
    let started = Instant::now();
    let step = std::env::var("ROT_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let terms = Terms { refusal: false, single: true, blind_spot: end == End::Killed };
    let tally = share(POOL_BYTES * 8 / step, |number, tally| {
        let (at, bit) = (number * step / 8, (number * step + number * step / 64 % step.min(8)) % 8);
        let flipped = pool.image[at as usize] ^ 1 << bit;
        try_image(&pool, pool.media.rotten(&[(at, &[flipped])]), &(at..at + 1), terms, tally);
    });
    tally.finish(&format!("every flipped bit, {kind:?}, {end:?}"), started);
}

#[test]
fn every_flipped_bit_of_a_closed_pool_is_noticed_and_contained() {
    flip_every_bit(SimKind::Pm, End::Closed);
}

#[test]
fn every_flipped_bit_of_a_killed_pool_is_noticed_and_contained() {
    flip_every_bit(SimKind::Pm, End::Killed);
}

#[test]
fn lost_and_reverted_sectors_are_never_served_and_later_opens_know_it() {
    for (kind, end) in [(SimKind::Pm, End::Closed), (SimKind::Pm, End::Killed)] {
        let (pool, started) = (Pool::build(kind, end), Instant::now());
        let mut tally = Tally::new();
        check::lost_sectors(&pool, false, &mut tally);
        tally.finish(&format!("zeroed and 0xFF sectors, {kind:?}, {end:?}"), started);
        let (started, mut tally) = (Instant::now(), Tally::new());
        check::lost_sectors(&pool, true, &mut tally);
        tally.finish(&format!("sectors from an older image, {kind:?}, {end:?}"), started);
    }
}

#[test]
fn lost_pages_are_damage_and_never_a_shorter_log() {
    // Persistent memory is read through its mapping, where an unreadable page is a signal.
    for (kind, loss) in
        [(SimKind::Pm, Loss::Zeroed), (SimKind::File, Loss::Zeroed), (SimKind::File, Loss::Unreadable)]
    {
        for end in [End::Closed, End::Killed] {
            let (started, mut tally) = (Instant::now(), Tally::new());
            pages::lost_pages(kind, end, loss, &mut tally);
            tally.finish(&format!("lost pages, {loss:?}, {kind:?}, {end:?}"), started);
        }
    }
}

#[test]
fn a_page_that_shows_an_earlier_close_of_its_log_is_damage() {
    for kind in [SimKind::Pm, SimKind::File] {
        let (started, mut tally) = (Instant::now(), Tally::new());
        let refused: usize =
            rot::ends::SESSIONS.map(|sessions| Resumed::build(kind, sessions).judge(&mut tally)).sum();
        assert!(refused > 0, "no page was lost that held anything");
        tally.finish(&format!("pages as they were at an earlier close, {kind:?}"), started);
    }
}

#[test]
fn frames_that_are_lost_together_with_their_footer_are_damage() {
    let (started, mut tally) = (Instant::now(), Tally::new());
    pages::lost_ends(&mut tally);
    tally.finish("zeroed ends of sealed segments", started);
}

#[test]
fn duplicated_and_missing_segments_are_named_or_harmless() {
    for end in [End::Closed, End::Killed] {
        let (pool, started, mut tally) = (Pool::build(SimKind::Pm, end), Instant::now(), Tally::new());
        check::lost_segments(&pool, &mut tally);
        tally.finish(&format!("duplicated and missing segments, {end:?}"), started);
    }
}

#[test]
fn a_large_batch_misses_a_part_that_something_else_replaced() {
    let (pool, started, mut tally) = (Pool::build(SimKind::Pm, End::Closed), Instant::now(), Tally::new());
    check::forged_parts(&pool, &mut tally);
    tally.finish("forged parts of a large batch", started);
}

#[test]
fn rot_under_an_open_store_is_noticed_by_the_next_read() {
    let (pool, started, mut tally) = (Pool::build(SimKind::Pm, End::Closed), Instant::now(), Tally::new());
    check::rot_under_an_open_store(&pool, started + Duration::from_secs(60), &mut tally);
    tally.finish("every flipped bit of live entries under an open store", started);
}

#[test]
fn two_flipped_bits_are_noticed_and_never_repaired_into_something_else() {
    for end in [End::Closed, End::Killed] {
        let (pool, started) = (Pool::build(SimKind::Pm, end), Instant::now());
        let terms = Terms { refusal: true, single: false, blind_spot: end == End::Killed };
        let tally = share(40_000, |number, tally| {
            let mixed = number
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29)
                .wrapping_mul(0xD6E8_FEB8_6659_FD93);
            let first = mixed % (POOL_BYTES * 8);
            // Half of them in one frame, the others anywhere near.
            let second =
                (first + 1 + (mixed >> 32) % if number % 2 == 0 { 400 } else { 8192 }) % (POOL_BYTES * 8);
            let flip = |bit: u64| (bit / 8, [pool.image[bit as usize / 8] ^ 1 << (bit % 8)]);
            let ((a, x), (b, y)) = (flip(first.min(second)), flip(first.max(second)));
            if a != b {
                try_image(&pool, pool.media.rotten(&[(a, &x), (b, &y)]), &(a..b + 1), terms, tally);
            }
        });
        let mut tally = tally;
        check::two_flips_in_keys(&pool, &mut tally);
        tally.finish(&format!("two flipped bits, {end:?}"), started);
    }
}

/// Opens a pool that was cut off at `len` bytes. True if it opens, and then lacks nothing.
fn open_cut_off(pool: &Pool, path: &std::path::Path, len: usize) -> bool {
    std::fs::write(path, &pool.image[..len]).unwrap();
    let store = match testing::options().media(MediaChoice::File).open(path) {
        Ok(store) => store,
        Err(Error::Corrupted { .. } | Error::Incomplete(_)) => return false,
        Err(error) => panic!("cut off at {len}: {error}"),
    };
    for known in &pool.keys {
        let found = store.get(&known.key);
        // An extent that no list names yet is missed by its blob only.
        let is_right = matches!(&found, Ok(found) if *found == known.shown)
            || (!known.blob.is_empty() && matches!(&found, Err(Error::Corrupted { .. })));
        assert!(is_right, "cut off at {len}: {:?} shows {found:?}", String::from_utf8_lossy(&known.key));
    }
    testing::kill(&store);
    true
}

/// At every length but 0, which is a file without a pool.
#[test]
fn a_file_that_was_cut_off_is_refused_or_lacks_nothing() {
    let (pool, started) = (Pool::build(SimKind::Pm, End::Closed), Instant::now());
    // What is shown does not depend on a disk.
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let opened = AtomicU64::new(0);
    share(POOL_BYTES, |number, _| {
        let len = number as usize + 1;
        let path = dir.path().join(format!("{:?}.fkv", std::thread::current().id()));
        opened.fetch_add(u64::from(open_cut_off(&pool, &path, len)), Ordering::Relaxed);
        std::fs::remove_file(&path).unwrap();
    });
    let opened = opened.into_inner();
    let refused = POOL_BYTES - opened;
    check::report(&format!(
        "files cut off at every length: {refused} refused, {opened} lack nothing, in {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    assert!(opened > 0 && refused > 100);
}
