//! When a pool grows instead of being cleaned, and when a write is refused.

use super::*;
use crate::engine::WholeStore;
use crate::index::hash::HashIndex;
use crate::media::sim::{Fault, SimKind, SimMedia};
use crate::options::WriteOptions;
use crate::sync::{Arc, AtomicBool};
use std::sync::mpsc;

/// Large enough that a head can list hundreds.
const SEGMENT: u64 = 16 << 10;

/// A pool on `media` in which writers clean by themselves, or a thread does.
fn pool_on(media: &Arc<SimMedia>, background: bool) -> Arc<Engine<HashIndex>> {
    let mut options = crate::testing::options().segment_size_bytes(SEGMENT).write_stall_ms_max(60_000);
    options.background = background;
    crate::testing::engine_on(Arc::clone(media), options)
}

fn device() -> Arc<SimMedia> {
    Arc::new(SimMedia::new(SimKind::Pm, 8 << 20))
}

fn put(engine: &Engine<HashIndex>, key: u32) -> Result<()> {
    engine.put(WholeStore, &WriteOptions::default(), &key.to_ne_bytes(), &[7; 200])
}

/// Overwrites a few keys until a pool that is cleaned has been written several times.
fn overwrite(engine: &Engine<HashIndex>) {
    (0..15_000).for_each(|round| put(engine, round % 20).expect("room"));
}

/// Bytes for which the pool grew once, because cleaning gained nothing then.
const WAIVED_BYTES: u64 = 128 * SEGMENT;

/// A store that had been large and was emptied was not cleaned before it was as large again, until it was reopened.
#[test]
fn a_pool_that_was_cleaned_in_vain_once_is_held_to_what_is_live_after_it_gave_back() {
    let engine = pool_on(&device(), false);
    engine.space.allow_growth(WAIVED_BYTES);
    let keys = 8_000;
    (0..keys).for_each(|key| put(&engine, key).expect("room"));
    for key in 0..keys {
        assert!(
            engine.delete(WholeStore, &WriteOptions::default(), &key.to_ne_bytes()).expect("room"),
            "it was there"
        );
    }
    assert!(engine.tidy_up(|| false).is_some(), "no reader keeps anything");
    assert!(engine.give_back(Duration::ZERO), "nearly all of it");
    let small = engine.space.allocated_slots();
    assert!(small < 32, "{small} slots hold nothing");
    overwrite(&engine);
    let grown = engine.space.allocated_slots();
    assert!(grown < 32, "{small} slots, then {grown}, for twenty keys");
    engine.let_go();
}

/// The same without a pass in between: what was given back was allowed to come again though nothing was live.
#[test]
fn a_pool_that_gave_back_what_it_had_grown_by_in_vain_does_not_take_it_again() {
    let engine = pool_on(&device(), false);
    put(&engine, 1).expect("room");
    engine.space.allow_growth(WAIVED_BYTES);
    engine.space.prepare((WAIVED_BYTES / SEGMENT) as u32);
    assert!(engine.space.allocated_slots() > 100);
    assert!(engine.give_back(Duration::ZERO), "nearly all of it");
    assert!(engine.space.growable_slots() < 32, "{} slots", engine.space.growable_slots());
    engine.let_go();
}

/// The same if there was nothing to give back: what a moment without gain had allowed stayed allowed.
#[test]
fn a_pool_that_was_cleaned_in_vain_once_is_held_to_what_is_live_once_cleaning_gains_again() {
    let engine = pool_on(&device(), false);
    overwrite(&engine);
    engine.space.allow_growth(WAIVED_BYTES);
    (0..1000).for_each(|round| put(&engine, round % 20).expect("room"));
    assert!(engine.space.growable_slots() > 100, "{} slots", engine.space.growable_slots());
    let pass = engine.clean(Aim::Space).expect("sound");
    assert!(pass.gained_bytes > 0, "{} bytes", pass.gained_bytes);
    assert!(engine.space.growable_slots() < 32, "{} slots", engine.space.growable_slots());
    engine.let_go();
}

/// Keys of a pool before its device is full.
const LOADED: u32 = 4000;

/// A pool on a device that gives nothing more. Everything in it is live, so it may grow as far as its target goes.
fn pool_on_a_full_device() -> (Arc<Engine<HashIndex>>, Arc<SimMedia>) {
    let media = device();
    let engine = pool_on(&media, false);
    (0..LOADED).for_each(|key| put(&engine, key).expect("room"));
    media.inject(Fault::Grow { nth: 1, times: u64::MAX });
    (engine, media)
}

/// What the target allowed counted as there, though the device had just refused it: nobody cleaned and no writer was slowed
/// before one had to stop.
#[test]
fn slots_are_scarce_as_soon_as_the_device_has_refused_some() {
    let (engine, _) = pool_on_a_full_device();
    assert!(engine.space.growable_slots() > 0 && !engine.is_scarce(false), "nobody asked yet");
    // As the housekeeper asks ahead of the writers.
    engine.space.prepare(engine.space.growable_slots() + engine.space.low_mark());
    assert_eq!(engine.space.growable_slots(), 0);
    (LOADED..).find(|key| engine.space.available(Purpose::Put) == 0 || put(&engine, *key).is_err());
    assert!(engine.is_scarce(false));
    engine.let_go();
}

/// Each write that needed a slot made the device refuse once more, with the log locked.
#[test]
fn a_device_that_refused_is_asked_again_only_before_a_write_is_refused() {
    let (engine, media) = pool_on_a_full_device();
    while engine.space.take_slot(Purpose::Put).is_ok() {}
    media.take_counters();
    for _ in 0..10 {
        let refusal = engine.space.take_slot(Purpose::Put).expect_err("the device is full");
        assert!(refusal.to_string().contains("the simulated device"), "{refusal}");
    }
    assert_eq!(media.counters().grows, 0);
    (LOADED..).find(|key| put(&engine, *key).is_err()).expect("the device is full");
    assert!(media.counters().grows > 0, "somebody may have made room");
    engine.let_go();
}

/// Who shares the device may have made room: nobody would have noticed.
#[test]
fn what_the_device_refused_is_forgotten_after_a_while_and_when_a_write_would_be_refused() {
    let (engine, media) = pool_on_a_full_device();
    while engine.space.take_slot(Purpose::Put).is_ok() {}
    media.inject(Fault::Grow { nth: 1, times: 0 });
    engine.space.take_slot(Purpose::Put).expect_err("that is not known yet");
    engine.give_back(Duration::from_secs(3600));
    engine.space.take_slot(Purpose::Put).expect_err("that is not known yet");
    engine.give_back(Duration::ZERO);
    engine.space.take_slot(Purpose::Put).expect("room");

    media.inject(Fault::Grow { nth: 1, times: u64::MAX });
    while engine.space.take_slot(Purpose::Put).is_ok() {}
    media.inject(Fault::Grow { nth: 1, times: 0 });
    let full = engine.space.allocated_slots();
    (LOADED..LOADED + 1000).for_each(|key| put(&engine, key).expect("room"));
    assert!(engine.space.allocated_slots() > full);
    engine.let_go();
}

/// The quota, or none, said that there was room for a pause; the device had none.
#[test]
fn maintenance_is_not_paused_on_a_full_device() {
    let (engine, media) = pool_on_a_full_device();
    while engine.space.take_slot(Purpose::Put).is_ok() {}
    let refusal = engine.pause_maintenance().expect_err("the next write needs the cleaner");
    assert!(matches!(refusal, Error::NoSpace { .. }), "{refusal}");
    media.inject(Fault::Grow { nth: 1, times: 0 });
    engine.pause_maintenance().expect("the device has room again");
    assert!(engine.space.available(Purpose::Put) >= engine.space.low_mark());
    engine.let_go();
}

/// It was refused after 128 wake-ups, with the cleaner in the middle of its first pass: the extents of others had come free.
#[test]
fn a_write_is_not_refused_because_others_wake_it() {
    let engine = pool_on(&device(), true);
    let pass = engine.cleaner.hold();
    let (others, settled) = mpsc::channel::<Vec<crate::types::MediaRange>>();
    let (mut tries, is_over) = (0, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (engine, is_over) = (&engine, &is_over);
        scope.spawn(move || {
            for ranges in settled {
                while !engine.cleaner_thread.is_awaited() && !is_over.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                engine.extents.release_retired(&ranges);
                engine.cleaner_thread.tell_waiters();
            }
        });
        let result = engine.with_room(|| {
            tries += 1;
            if tries > 3 * VAIN_PASSES_MAX {
                return Ok(());
            }
            let ranges = engine.extents.allocate(512, 1, Purpose::Put).expect("room");
            engine.extents.note_retired(&ranges);
            others.send(ranges).expect("it listens");
            Err(Error::NoSpace { needed_bytes: 1, free_bytes: 0, limit: "this test".into() })
        });
        is_over.store(true, Ordering::Relaxed);
        drop(others);
        result.expect("the cleaner may gain something yet");
    });
    drop(pass);
    engine.let_go();
}

/// The lock of the extent segments was held across growth and two drains for each segment that was opened, so whoever
/// overwrote a large value, and readers that ended its grace period, waited for them.
#[test]
fn nobody_waits_for_the_segments_that_a_large_value_opens() {
    let engine = pool_on(&device(), false);
    let free = engine.space.free_slots();
    // No segment can be opened while this is held.
    let roll_lock = engine.space.identities();
    let (answer, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        let engine = &engine;
        let opens = scope.spawn(move || engine.extents.allocate(3 * SEGMENT, 9, Purpose::Put).is_ok());
        while engine.space.free_slots() == free {
            std::thread::yield_now();
        }
        scope.spawn(move || answer.send(engine.extents.usage().segment_bytes));
        let seen = answers.recv_timeout(Duration::from_secs(20));
        drop(roll_lock);
        assert!(opens.join().expect("no panic"), "there is room");
        assert_eq!(seen, Ok(0), "it was answered before any was opened");
    });
    assert!(engine.extents.usage().segment_bytes >= 3 * SEGMENT);
    engine.let_go();
}
