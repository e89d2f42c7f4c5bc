//! Scans of a medium that tells what it was asked.

use super::*;
use crate::engine::{Engine, WholeStore};
use crate::format::HolderRecord;
use crate::index::ordered::OrderedIndex;
use crate::media::sim::{SimKind, SimMedia};
use crate::options::WriteOptions;
use crate::sync::Arc;
use crate::testing;

const KEYS: u32 = 1000;
const SCANS: u32 = 320;

/// Questions, and groups that were asked for, of so many scans of a few entries, which are a group each.
fn of_scans(count: u32, engine: &Arc<Engine<OrderedIndex>>, media: &SimMedia) -> (u64, u64) {
    let (asked, ahead) = media.device.questions();
    for scan in 0..count {
        let mut iter = engine.snapshot(WholeStore).expect("it is open").iter().expect("ordered");
        iter.seek(&(scan * 7 % KEYS).to_be_bytes()).expect("sound");
    }
    let now = media.device.questions();
    (now.0 - asked, now.1 - ahead)
}

fn opened(media: &Arc<SimMedia>) -> Arc<Engine<OrderedIndex>> {
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    let options = testing::with_logs(testing::options(), 1);
    Engine::open(Arc::clone(media) as _, true, options, &holder, OrderedIndex::with_expected)
        .expect("a fresh pool")
}

#[test]
fn what_is_in_memory_is_asked_about_seldom_and_what_is_not_each_time() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let engine = opened(&media);
    for key in 0..KEYS {
        engine.put(WholeStore, &WriteOptions::new(), &key.to_be_bytes(), b"value").expect("room");
    }
    media.device.set_cold(true);
    let (asked, ahead) = of_scans(SCANS, &engine, &media);
    assert!(asked >= u64::from(SCANS) && ahead >= u64::from(SCANS), "{asked} questions, {ahead} answers");
    media.device.set_cold(false);
    let (asked, ahead) = of_scans(SCANS, &engine, &media);
    assert!(asked >= 2 * u64::from(SCANS) && ahead == 0, "{asked} questions, {ahead} answers");
    of_scans(STREAK_ENOUGH, &engine, &media);
    let (asked, _) = of_scans(SCANS, &engine, &media);
    assert!((1..u64::from(SCANS)).contains(&asked), "{asked} questions of {SCANS} scans");
    let other = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    opened(&other);
    let (asked, _) = of_scans(SCANS, &engine, &media);
    assert!(asked >= 2 * u64::from(SCANS), "{asked} questions behind the opening of a store");
    of_scans(STREAK_ENOUGH, &engine, &media);
    media.device.set_cold(true);
    of_scans(SCANS, &engine, &media);
    let (asked, ahead) = of_scans(SCANS, &engine, &media);
    assert!(asked >= u64::from(SCANS) && ahead >= u64::from(SCANS), "{asked} questions, {ahead} answers");
}
