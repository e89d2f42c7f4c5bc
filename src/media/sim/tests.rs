//! The simulator is checked before anything is checked with it: by counting the images of tiny histories, and against a
//! second, naive description of the same rules.

use super::events::{image_hash, mix64};
use super::*;
use crate::types::MediaRange;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: usize = PAGE_BYTES as usize;
const FLUSH: Site = Site::BlobFlush;
const DRAIN: Site = Site::FrameDrain;

fn pm() -> SimMedia {
    SimMedia::from_image(SimKind::Pm, &[0; PAGE], 16 * PAGE_BYTES)
}

fn file() -> SimMedia {
    SimMedia::from_image(SimKind::File, &[0; 3 * PAGE], 16 * PAGE_BYTES)
}

fn word(byte: u8) -> [u8; 8] {
    [byte; 8]
}

/// The first word of each image at the end of the run.
fn firsts(media: &SimMedia, level: Level) -> BTreeSet<u8> {
    bytes_at(media, level, 0)
}

fn bytes_at(media: &SimMedia, level: Level, at: usize) -> BTreeSet<u8> {
    images(media, level).iter().map(|image| image[at]).collect()
}

/// Every image at the end of the run.
fn images(media: &SimMedia, level: Level) -> BTreeSet<Vec<u8>> {
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    all_images(&replay, level)
}

fn all_images(replay: &Replay<'_>, level: Level) -> BTreeSet<Vec<u8>> {
    let images = replay.images(level, u64::MAX, 0);
    assert!(images.is_exhaustive());
    images.map(|image| image.to_vec()).collect()
}

fn possible(media: &SimMedia, level: Level) -> u64 {
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    replay.images(level, u64::MAX, 0).possible()
}

fn on_another_thread(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

#[test]
fn a_store_is_seen_at_once_and_is_durable_after_flush_and_drain() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    assert_eq!(media.region().load_word(0), u64::from_le_bytes(word(1)));
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
    media.flush(FLUSH, MediaRange::new(0, 8));
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
    media.drain(DRAIN).unwrap();
    for level in [Level::A, Level::B, Level::C, Level::D] {
        assert_eq!(firsts(&media, level), [1].into(), "{level:?}");
    }
}

#[test]
fn a_drain_without_a_flush_persists_nothing_on_persistent_memory() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
}

#[test]
fn a_fence_does_not_persist_what_another_thread_flushed() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.write_through(64, &[2; 64]).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 8));
    on_another_thread(|| media.drain(DRAIN).unwrap());
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
    assert_eq!(bytes_at(&media, Level::A, 64), [0, 2].into());
    media.drain(DRAIN).unwrap();
    assert_eq!(images(&media, Level::C).len(), 1);
}

#[test]
fn a_flush_covers_what_another_thread_wrote() {
    let media = pm();
    on_another_thread(|| media.write(0, &word(1)).unwrap());
    media.flush(FLUSH, MediaRange::new(0, 8));
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [1].into());
}

#[test]
fn a_flush_does_not_cover_a_later_store_to_its_line() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 8));
    media.write(0, &word(2)).unwrap();
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [1, 2].into());
}

#[test]
fn a_stale_flush_does_not_cover_a_store_made_after_another_thread_drained_the_line() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 8));
    on_another_thread(|| {
        media.flush(FLUSH, MediaRange::new(0, 8));
        media.drain(DRAIN).unwrap();
    });
    media.write(0, &word(2)).unwrap();
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [1, 2].into());
}

#[test]
fn a_flush_covers_every_line_that_its_range_touches() {
    let media = pm();
    media.write(60, &[1; 72]).unwrap();
    media.flush(FLUSH, MediaRange::new(63, 66));
    media.drain(DRAIN).unwrap();
    assert_eq!(images(&media, Level::C).len(), 1);
}

#[test]
fn level_a_keeps_the_order_of_stores_within_a_line_only() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.write(8, &word(2)).unwrap();
    media.write(64, &word(3)).unwrap();
    assert_eq!(possible(&media, Level::A), 3 * 2);
    let found = images(&media, Level::A);
    assert_eq!(found.len(), 6);
    assert!(!found.iter().any(|image| image[0] == 0 && image[8] == 2), "the second store without the first");
    assert!(found.iter().any(|image| image[0] == 0 && image[64] == 3), "another line without the first");
}

#[test]
fn level_b_tears_only_the_boundary_store() {
    let media = pm();
    media.write(0, &[1; 16]).unwrap();
    media.write(0, &[2; 16]).unwrap();
    let states: BTreeSet<_> = images(&media, Level::B).iter().map(|image| (image[0], image[8])).collect();
    assert_eq!(states, [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 2)].into());
    assert_eq!(possible(&media, Level::B), 7);
}

#[test]
fn level_b_tears_each_of_several_lines() {
    let media = pm();
    media.write(0, &[1; 128]).unwrap();
    assert_eq!(possible(&media, Level::A), 4);
    assert_eq!(possible(&media, Level::B), 256 * 256);
    assert_eq!(images(&media, Level::B).len(), 256 * 256);
}

#[test]
fn level_c_mixes_every_value_a_word_had() {
    let media = pm();
    media.write(0, &[1; 16]).unwrap();
    media.write(0, &[2; 16]).unwrap();
    let states: BTreeSet<_> = images(&media, Level::C).iter().map(|image| (image[0], image[8])).collect();
    assert_eq!(states.len(), 9);
    assert!(states.contains(&(2, 0)));
    assert_eq!(possible(&media, Level::C), 9);
}

#[test]
fn level_d_loses_nothing_but_unfenced_stores_past_the_caches() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    media.write(8, &word(2)).unwrap();
    media.write(64, &word(3)).unwrap();
    assert_eq!(images(&media, Level::D), [media.view()].into());
    media.write_through(128, &[4; 64]).unwrap();
    assert_eq!(bytes_at(&media, Level::D, 128), [0, 4].into());
    media.write(128, &word(5)).unwrap();
    assert_eq!(images(&media, Level::D), [media.view()].into());
}

#[test]
fn a_word_is_never_torn() {
    let media = pm();
    media.write_word(0, 0x1111_1111_1111_1111).unwrap();
    media.write(3, &[2; 2]).unwrap();
    let words: BTreeSet<_> = images(&media, Level::C).iter().map(|image| image[..8].to_vec()).collect();
    assert_eq!(words, [vec![0; 8], vec![0x11; 8], vec![0x11, 0x11, 0x11, 2, 2, 0x11, 0x11, 0x11]].into());
}

#[test]
fn stores_that_change_nothing_add_no_images() {
    let media = pm();
    media.write(0, &[0; 64]).unwrap();
    media.write(64, &word(1)).unwrap();
    media.write(64, &word(1)).unwrap();
    assert_eq!(possible(&media, Level::B), 2);
}

#[test]
fn a_file_loses_any_subset_of_its_dirty_pages() {
    let media = file();
    media.write(0, &[1; 64]).unwrap();
    media.write_through(PAGE_BYTES, &[2; 64]).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 2 * PAGE_BYTES));
    assert_eq!(possible(&media, Level::A), 4);
    assert_eq!(images(&media, Level::A).len(), 4);
    assert_eq!(images(&media, Level::D), [media.view()].into());
}

#[test]
fn a_file_tears_pages_at_sectors_and_never_within_one() {
    let media = file();
    media.write(100, &[1; 1024]).unwrap();
    media.write(100, &[2; 8]).unwrap();
    assert_eq!(possible(&media, Level::A), 3);
    assert_eq!(possible(&media, Level::B), 1 + 7 + 1, "three sectors, then one");
    assert_eq!(possible(&media, Level::C), 3 * 2 * 2);
    for image in images(&media, Level::C) {
        assert!(image[108] == 0 && image[100] == 0 || image[108] == 1 && image[100] != 0);
        assert_eq!(image[511], image[108]);
        assert_eq!(image[512], image[1023]);
    }
}

#[test]
fn one_fdatasync_persists_what_every_thread_wrote() {
    let media = file();
    media.write(0, &[1; 64]).unwrap();
    on_another_thread(|| {
        media.write(PAGE_BYTES, &[2; 64]).unwrap();
        media.drain(DRAIN).unwrap();
    });
    assert_eq!(images(&media, Level::C), [media.view()].into());
}

#[test]
fn a_failed_fdatasync_leaves_pages_clean_but_not_on_disk() {
    let media = file();
    media.inject(Fault::Drain { nth: 1, times: 1 });
    media.write(0, &[1; 64]).unwrap();
    assert_eq!(media.drain(DRAIN).unwrap_err().status(), crate::error::status::E_IO);
    assert_eq!(media.view()[0], 1);
    media.write(PAGE_BYTES, &[2; 64]).unwrap();
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [0, 1].into(), "a later fdatasync writes no clean page");
    assert_eq!(bytes_at(&media, Level::C, PAGE), [2].into());
}

#[test]
fn rewriting_the_same_bytes_after_a_failed_fdatasync_makes_them_durable() {
    let media = file();
    media.inject(Fault::Drain { nth: 1, times: 1 });
    media.write(0, &[1; 1024]).unwrap();
    media.drain(DRAIN).unwrap_err();
    media.write(10, &[1; 20]).unwrap();
    assert_eq!(firsts(&media, Level::C), [0, 1].into());
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::C), [1].into());
    assert_eq!(bytes_at(&media, Level::C, 512), [0, 1].into(), "a sector that nobody rewrote");
}

#[test]
fn a_failed_drain_on_persistent_memory_persists_nothing() {
    let media = pm();
    media.inject(Fault::Drain { nth: 2, times: 1 });
    media.drain(DRAIN).unwrap();
    media.write_through(0, &[1; 64]).unwrap();
    media.drain(DRAIN).unwrap_err();
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
}

#[test]
fn a_crash_while_growing_leaves_the_old_length_the_new_or_pages_between() {
    for (kind, lens) in [(SimKind::Pm, vec![1, 4]), (SimKind::File, vec![1, 2, 3, 4])] {
        let media = SimMedia::from_image(kind, &[7; PAGE], 16 * PAGE_BYTES);
        media.grow(4 * PAGE_BYTES).unwrap();
        assert_eq!(media.len_bytes(), 4 * PAGE_BYTES);
        let recording = media.recording();
        let mut replay = recording.replay();
        let mut found = Vec::new();
        for point in recording.points() {
            replay.advance_to(point);
            let images = replay.images(Level::A, 100, 0).map(|image| image.to_vec());
            found.push(
                images
                    .map(|image| {
                        assert!(
                            image[..PAGE].iter().all(|byte| *byte == 7)
                                && image[PAGE..].iter().all(|byte| *byte == 0)
                        );
                        image.len() / PAGE
                    })
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(found, [vec![1], lens, vec![4]]);
    }
}

#[test]
fn a_full_device_refuses_to_grow_and_keeps_its_length() {
    let media = pm();
    assert!(matches!(media.grow(17 * PAGE_BYTES), Err(Error::NoSpace { .. })));
    media.inject(Fault::Grow { nth: 1, times: 1 });
    assert!(matches!(media.grow(2 * PAGE_BYTES), Err(Error::NoSpace { .. })));
    assert_eq!(media.len_bytes(), PAGE_BYTES);
    assert_eq!(images(&media, Level::A), [media.view()].into());
    media.grow(2 * PAGE_BYTES).unwrap();
    assert_eq!(images(&media, Level::A), [vec![0; 2 * PAGE]].into());
}

#[test]
fn a_pool_without_a_name_is_gone_after_a_power_cut() {
    let media = SimMedia::new(SimKind::File, 16 * PAGE_BYTES);
    media.grow(PAGE_BYTES).unwrap();
    media.write(0, &[1; 64]).unwrap();
    media.drain(DRAIN).unwrap();
    assert_eq!(images(&media, Level::C), [vec![]].into());
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    let next = SimMedia::from_crash(&replay.images(Level::C, 1, 0).next().unwrap());
    assert_eq!(next.len_bytes(), 0);
    assert_eq!(SimMedia::after_kill(&replay, PageCache::Kept).len_bytes(), 0);
    media.publish().unwrap();
    assert_eq!(images(&media, Level::C), [media.view()].into());
    let device = SimMedia::new_in_place(SimKind::Pm, 16 * PAGE_BYTES);
    device.grow(PAGE_BYTES).unwrap();
    assert_eq!(images(&device, Level::C), [vec![0; PAGE]].into());
}

#[test]
fn a_killed_process_leaves_its_stores_seen_and_pending() {
    let media = pm();
    media.write(0, &[1; 16]).unwrap();
    media.write(8, &[2; 8]).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 16));
    media.write_through(64, &[3; 64]).unwrap();
    let before = images(&media, Level::B);
    let recording = media.power_off();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    let next = SimMedia::after_kill(&replay, PageCache::Kept);
    assert_eq!(next.view(), media.view());
    assert_eq!(images(&next, Level::B), before);
    next.drain(DRAIN).unwrap();
    assert_eq!(images(&next, Level::B), before, "a fence does not cover what a dead process flushed");
    next.flush(FLUSH, MediaRange::new(0, 128));
    next.drain(DRAIN).unwrap();
    assert_eq!(images(&next, Level::B), [media.view()].into());
}

#[test]
fn a_kill_after_a_failed_fdatasync_keeps_the_pages_or_drops_them() {
    let media = file();
    media.inject(Fault::Drain { nth: 1, times: 1 });
    media.write(0, &[1; 1024]).unwrap();
    media.write(PAGE_BYTES, &[1; 8]).unwrap();
    media.drain(DRAIN).unwrap_err();
    media.write(0, &[1; 8]).unwrap();
    media.write(1024, &[2; 8]).unwrap();
    let before = images(&media, Level::C);
    let recording = media.power_off();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    let kept = SimMedia::after_kill(&replay, PageCache::Kept);
    assert_eq!(kept.view(), media.view());
    assert_eq!(images(&kept, Level::C), before);
    let dropped = SimMedia::after_kill(&replay, PageCache::FailedPagesDropped);
    let view = dropped.view();
    assert_eq!((view[0], view[512], view[1024], view[PAGE]), (1, 1, 2, 0), "a dirty page is not dropped");
    dropped.drain(DRAIN).unwrap();
    let found = images(&dropped, Level::C);
    let states: BTreeSet<_> =
        found.iter().map(|image| (image[0], image[512], image[1024], image[PAGE])).collect();
    assert_eq!(states, [(1, 0, 2, 0), (1, 1, 2, 0)].into(), "the unwritten sector stays in doubt");
}

#[test]
fn a_crash_image_starts_a_run_that_can_crash_again() {
    for kind in [SimKind::Pm, SimKind::File] {
        let media = SimMedia::from_image(kind, &[0; 2 * PAGE], 16 * PAGE_BYTES);
        media.write(0, &[1; 700]).unwrap();
        media.grow(3 * PAGE_BYTES).unwrap();
        media.write(2 * PAGE_BYTES, &[2; 700]).unwrap();
        let recording = media.power_off();
        let mut replay = recording.replay();
        for point in recording.points() {
            replay.advance_to(point);
            for image in replay.images(Level::C, 50, 1) {
                let next = SimMedia::from_crash(&image);
                assert_eq!(next.view(), image.to_vec());
                assert_eq!(image_hash(kind, &next.view()), image.hash());
                next.write(512, &[3; 512]).unwrap();
                let again = next.power_off();
                let mut replay = again.replay();
                let start = replay.images(Level::A, 1, 0).next().unwrap().hash();
                assert_eq!(start, image.hash(), "nothing is open at the start");
                replay.advance_to(again.last_point());
                for second in replay.images(Level::B, 20, 2) {
                    let last = SimMedia::from_crash(&second);
                    assert_eq!(last.view(), second.to_vec());
                    assert_eq!(image_hash(kind, &last.view()), second.hash());
                }
            }
        }
    }
}

#[test]
fn a_reused_region_shows_nothing_of_its_last_use() {
    let large = SimMedia::from_image(SimKind::Pm, &[9; 4 * PAGE], 8 * PAGE_BYTES);
    large.grow(8 * PAGE_BYTES).unwrap();
    large.write(7 * PAGE_BYTES, &[8; PAGE]).unwrap();
    drop(large);
    let small = SimMedia::from_image(SimKind::Pm, &[1; PAGE], 8 * PAGE_BYTES);
    small.grow(8 * PAGE_BYTES).unwrap();
    assert!(small.view()[PAGE..].iter().all(|byte| *byte == 0));
    assert!(small.view()[..PAGE].iter().all(|byte| *byte == 1));
}

#[test]
fn samples_are_the_same_again_and_begin_with_the_extremes() {
    let media = pm();
    for line in 0..20 {
        media.write(line * 64, &[1 + line as u8; 64]).unwrap();
    }
    let recording = media.recording();
    let mut replay = recording.replay();
    replay.advance_to(recording.last_point());
    let first: Vec<_> = replay.images(Level::C, 100, 7).map(|image| image.hash()).collect();
    let images = replay.images(Level::C, 100, 7);
    assert!(!images.is_exhaustive() && images.possible() == u64::MAX);
    let again: Vec<_> = (0..100).map(|number| images.nth_image(number).hash()).collect();
    assert_eq!(first, again);
    assert_ne!(first, replay.images(Level::C, 100, 8).map(|image| image.hash()).collect::<Vec<_>>());
    assert_eq!(images.nth_image(0).to_vec(), vec![0; PAGE]);
    assert_eq!(images.nth_image(1).to_vec(), media.view());
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 80);
}

#[test]
fn the_same_bytes_are_new_again_when_something_else_is_expected() {
    let media = pm();
    let recording = media.recording();
    let replay = recording.replay();
    let image = replay.images(Level::A, 1, 0).next().unwrap();
    let mut seen = Seen::default();
    assert!(seen.is_new(&image, 0));
    assert!(!seen.is_new(&image, 0));
    assert!(seen.is_new(&image, 1));
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_skipped_site_is_counted_and_does_nothing() {
    let media = pm();
    media.skip_site(Some(FLUSH));
    media.write(0, &word(1)).unwrap();
    media.flush(FLUSH, MediaRange::new(0, 8));
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
    media.skip_site(Some(DRAIN));
    media.flush(FLUSH, MediaRange::new(0, 8));
    media.drain(DRAIN).unwrap();
    assert_eq!(firsts(&media, Level::A), [0, 1].into());
    media.skip_write_through(true);
    media.write_through(64, &[1; 64]).unwrap();
    media.skip_site(None);
    media.drain(DRAIN).unwrap();
    assert_eq!(bytes_at(&media, Level::A, 64), [0, 1].into());
    assert_eq!(firsts(&media, Level::A), [1].into());
    let counters = media.take_counters();
    assert_eq!((counters.flushes_at(FLUSH), counters.drains_at(DRAIN), counters.drains), (2, 3, 3));
    assert_eq!((counters.writes, counters.write_throughs, counters.bytes_written), (1, 1, 72));
    assert_eq!(media.counters(), SimCounters::default());
}

#[test]
fn a_failed_write_leaves_the_bytes_it_was_told_to_keep() {
    let media = file();
    media.inject(Fault::Write { nth: 2, times: u64::MAX, errno: libc::ENOSPC, kept_bytes: 3 });
    media.write(0, &[1; 8]).unwrap();
    let error = media.write(100, &[2; 8]).unwrap_err();
    assert!(matches!(error, Error::Io { errno: libc::ENOSPC, .. }));
    assert_eq!(media.view()[98..106], [0, 0, 2, 2, 2, 0, 0, 0]);
    media.write_word(200, 1).unwrap_err();
    assert_eq!(media.view()[200..208], [0; 8]);
}

#[test]
fn an_unreadable_range_fails_to_be_read_and_the_rest_is_readable() {
    let media = file();
    media.write(512, &[1; 512]).unwrap();
    media.make_unreadable(MediaRange::new(0, 512));
    let mut buffer = [0; 512];
    media.read(512, &mut buffer).unwrap();
    assert_eq!(buffer, [1; 512]);
    assert!(matches!(media.read(511, &mut buffer), Err(Error::Io { errno: libc::EIO, .. })));
    media.read(media.len_bytes() - 511, &mut buffer).unwrap_err();
}

#[test]
fn nothing_changes_after_the_power_is_off() {
    let media = pm();
    media.write(0, &word(1)).unwrap();
    let recording = media.power_off();
    let view = media.view();
    media.write(0, &word(2)).unwrap_err();
    media.drain(DRAIN).unwrap_err();
    media.grow(4 * PAGE_BYTES).unwrap_err();
    media.publish().unwrap_err();
    media.flush(FLUSH, MediaRange::new(0, 8));
    assert_eq!(media.view(), view);
    assert_eq!(media.event_count(), 0);
    assert_eq!(recording.last_point(), 1);
    assert_eq!(recording.describe(0), "store of 8 bytes at 0x0 by thread 0");
}

/// The rules once more, for levels A and C, by lists of whole contents.
struct Naive {
    kind: SimKind,
    durable: Vec<u8>,
    view: Vec<u8>,
    /// By block: its contents since it was durable, the durable one first, and when each came.
    contents: BTreeMap<usize, Vec<(usize, Vec<u8>)>>,
    /// By thread and block: the event of its last flush that it has not drained.
    flushed: BTreeMap<(u16, usize), usize>,
}

impl Naive {
    fn store(&mut self, event: usize, at: usize, bytes: &[u8]) {
        let size = self.kind.block_bytes();
        for block in at / size..=(at + bytes.len() - 1) / size {
            let place = block * size..(block + 1) * size;
            self.contents.entry(block).or_insert_with(|| vec![(0, self.view[place.clone()].to_vec())]);
            let touched = place.start.max(at)..place.end.min(at + bytes.len());
            self.view[touched.clone()].copy_from_slice(&bytes[touched.start - at..touched.end - at]);
            self.contents.get_mut(&block).unwrap().push((event, self.view[place].to_vec()));
        }
    }

    fn persist(&mut self, block: usize, before_event: usize) {
        let size = self.kind.block_bytes();
        let Some(contents) = self.contents.get_mut(&block) else { return };
        let kept = contents.iter().rposition(|(event, _)| *event < before_event).unwrap();
        contents.drain(..kept);
        contents[0].0 = 0;
        self.durable[block * size..(block + 1) * size].copy_from_slice(&contents[0].1);
        if contents.len() == 1 {
            self.contents.remove(&block);
        }
    }

    fn images(&self, level: Level) -> BTreeSet<Vec<u8>> {
        let (block_size, atom) = (self.kind.block_bytes(), self.kind.atom_bytes());
        let unit = if level == Level::A { block_size } else { atom };
        let mut found: BTreeSet<Vec<u8>> = [self.durable.clone()].into();
        for (block, contents) in &self.contents {
            for offset in (0..block_size).step_by(unit) {
                let choices: BTreeSet<&[u8]> =
                    contents.iter().map(|(_, bytes)| &bytes[offset..offset + unit]).collect();
                let place = block * block_size + offset;
                found = found
                    .iter()
                    .flat_map(|image| {
                        choices.iter().map(move |choice| {
                            let mut image = image.clone();
                            image[place..place + unit].copy_from_slice(choice);
                            image
                        })
                    })
                    .collect();
            }
        }
        found
    }
}

#[test]
fn random_histories_leave_the_images_that_a_naive_model_leaves() {
    let mut compared = 0;
    for seed in 0..300u64 {
        let kind = if seed % 2 == 0 { SimKind::Pm } else { SimKind::File };
        let len = 2 * PAGE;
        let mut naive = Naive {
            kind,
            durable: vec![0; len],
            view: vec![0; len],
            contents: BTreeMap::new(),
            flushed: BTreeMap::new(),
        };
        let mut random = mix64(seed + 1);
        let mut below = |bound: u64| {
            random = mix64(random.wrapping_add(0x9E37_79B9_7F4A_7C15));
            random % bound
        };
        let mut log = Log::default();
        for event in 1..=10usize {
            let thread = below(2) as u16;
            let (at, len) = match kind {
                SimKind::Pm => (below(100), 1 + below(24)),
                SimKind::File => (PAGE_BYTES - 700 + below(1000), 1 + below(400)),
            };
            match below(6) {
                0..3 => {
                    let bytes = vec![below(3) as u8; len as usize];
                    let span = log.keep(&bytes);
                    let through = kind == SimKind::Pm && below(4) == 0;
                    log.events.push(Event::Store { at, bytes: span, thread, through });
                    naive.store(event, at as usize, &bytes);
                    let size = kind.block_bytes() as u64;
                    for block in (at / size..=(at + len - 1) / size).filter(|_| through) {
                        naive.flushed.insert((thread, block as usize), event + 1);
                    }
                }
                3 => {
                    log.events.push(Event::Flush { range: MediaRange::new(at, len), thread, site: FLUSH });
                    for block in at / 64..=(at + len - 1) / 64 {
                        naive.flushed.insert((thread, block as usize), event);
                    }
                }
                _ => {
                    log.events.push(Event::Drain { thread, site: DRAIN, failed: false });
                    match kind {
                        SimKind::File => (0..2).for_each(|page| naive.persist(page, usize::MAX)),
                        SimKind::Pm => {
                            for ((owner, block), before) in std::mem::take(&mut naive.flushed) {
                                if owner == thread {
                                    naive.persist(block, before);
                                } else {
                                    naive.flushed.insert((owner, block), before);
                                }
                            }
                        }
                    }
                }
            }
            let recording = Recording {
                kind,
                capacity: 2 * PAGE_BYTES,
                base: Arc::new(Base::new(kind, vec![0; len_of(&naive)])),
                log: log.clone(),
                prelude: 0,
                published: true,
            };
            let mut replay = recording.replay();
            replay.advance_to(recording.last_point());
            for level in [Level::A, Level::C] {
                if replay.images(level, 0, 0).possible() <= 500 {
                    assert_eq!(
                        all_images(&replay, level),
                        naive.images(level),
                        "seed {seed}, event {event}, {level:?}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 4000, "only {compared} points were small enough to compare");
}

fn len_of(naive: &Naive) -> usize {
    naive.durable.len()
}
