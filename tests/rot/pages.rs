//! Whole pages that are lost, in a pool whose segments have several of them: the last page of a segment holds its last
//! frames, their filter and the footer, which go together.

use super::check::Tally;
use super::pool::{End, HEAD_BYTES};
use flatkv::testing::format::FOOTER_BYTES;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{self, MediaRange};
use flatkv::{Error, Options, Store, WriteBatch};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const PAGE_BYTES: u64 = 4 << 10;
const SEGMENT_BYTES: u64 = 16 << 10;
const CAPACITY_BYTES: u64 = 2 << 20;

type Shown = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn options() -> Options {
    testing::options().segment_size_bytes(SEGMENT_BYTES)
}

fn open(media: &Arc<SimMedia>) -> flatkv::Result<Store> {
    testing::open_on(media.clone(), options())
}

fn key(number: u32) -> Vec<u8> {
    format!("key-{number:03}").into_bytes()
}

fn value(number: u32, round: u32, len: usize) -> Vec<u8> {
    format!("{number} in round {round}: ").into_bytes().into_iter().cycle().take(len).collect()
}

/// A pool of several sealed segments and what it must show.
fn build(kind: SimKind, end: End) -> (SimMedia, Shown) {
    let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
    let (store, mut shown) = (open(&media).expect("a fresh pool"), Shown::new());
    for round in 0..6 {
        for number in (0..90).filter(|number| round == 0 || number % (round + 1) == 1) {
            let value = value(number, round, 20 + (number as usize * 37 + round as usize * 91) % 400);
            store.put(&key(number), &value).expect("room");
            shown.insert(key(number), Some(value));
        }
        for number in (0..90).filter(|number| number % 17 == round) {
            store.delete(&key(number)).expect("room");
            shown.insert(key(number), None);
        }
        let mut batch = WriteBatch::new();
        for number in 100..100 + 30 * (round % 3) {
            let value = value(number, round, 300);
            batch.put(&key(number), &value).expect("a small value");
            shown.insert(key(number), Some(value));
        }
        store.write(&batch).expect("room");
        let large = value(200 + round, round, 9000);
        store.put(&key(200 + round), &large).expect("room");
        shown.insert(key(200 + round), Some(large));
    }
    match end {
        End::Closed => store.close().expect("close"),
        End::Killed => {
            testing::mark_idle(&store).expect("mark");
            testing::kill(&store);
        }
    }
    (SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES), shown)
}

fn slot_start(at: u64) -> Option<u64> {
    at.checked_sub(HEAD_BYTES).map(|within| HEAD_BYTES + within / SEGMENT_BYTES * SEGMENT_BYTES)
}

/// The page with the newest frames of a log that did not end cleanly: nothing proves what lay in it.
fn is_last_of_head(image: &[u8], at: u64) -> bool {
    let Some(start) = slot_start(at) else { return false };
    let is_active = image[start as usize + 262..][..2] == 0x5A69_u16.to_le_bytes();
    is_active
        && image[(at + PAGE_BYTES) as usize..(start + SEGMENT_BYTES) as usize].iter().all(|byte| *byte == 0)
}

fn check(shown: &Shown, store: &Store, what: &str, tally: &mut Tally) -> (usize, usize) {
    let (mut served, mut refused) = (0, 0);
    for (key, shown) in shown {
        match store.get(key) {
            Ok(found) if found == *shown => served += 1,
            Err(Error::Corrupted { .. }) => refused += 1,
            found => tally.violations.push(format!(
                "{what}: {} is {:?} instead of {:?} bytes",
                String::from_utf8_lossy(key),
                found.map(|found| found.map(|value| value.len())),
                shown.as_ref().map(Vec::len)
            )),
        }
    }
    (served, refused)
}

/// How a page is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It holds zeros.
    Zeroed,
    /// Reading it is an error.
    Unreadable,
}

/// Loses each page of the pool in turn, opens what is left, and opens it again.
pub fn lost_pages(kind: SimKind, end: End, loss: Loss, tally: &mut Tally) {
    let (media, shown) = build(kind, end);
    let image = media.view();
    let (mut refused_pools, mut with_refused_keys) = (0, 0);
    for at in (0..image.len() as u64).step_by(PAGE_BYTES as usize) {
        if end == End::Killed && loss == Loss::Zeroed && is_last_of_head(&image, at) {
            continue;
        }
        tally.opens += 1;
        let lost = Arc::new(match loss {
            Loss::Zeroed => media.rotten(&[(at, &[0; PAGE_BYTES as usize])]),
            Loss::Unreadable => media.rotten(&[]),
        });
        if loss == Loss::Unreadable {
            lost.make_unreadable(MediaRange::new(at, PAGE_BYTES));
        }
        for round in 0..3 {
            let what = format!("page at {at}, {loss:?}, {end:?}, open {round}");
            let store = match open(&lost) {
                Ok(store) => store,
                Err(Error::Corrupted { .. } | Error::Incomplete(_) | Error::Io { errno: libc::EIO, .. })
                    if round == 0 && slot_start(at).is_none_or(|start| start == at) =>
                {
                    refused_pools += 1;
                    break;
                }
                Err(error) => {
                    tally.violations.push(format!("{what}: {error}"));
                    break;
                }
            };
            let (served, refused) = check(&shown, &store, &what, tally);
            with_refused_keys += usize::from(round == 0 && refused > 0);
            if served + refused < shown.len() {
                break;
            }
            if round == 1 { store.close().expect("close") } else { testing::kill(&store) }
        }
    }
    assert!(
        refused_pools > 0 && with_refused_keys > 0,
        "{refused_pools} pools, {with_refused_keys} with keys"
    );
}

/// The end of each sealed segment is lost: the footer alone costs nothing; from each sector on, what lies there, but
/// nothing wrong is served.
pub fn lost_ends(tally: &mut Tally) {
    const SECTOR_BYTES: u64 = 512;
    let (media, shown) = build(SimKind::Pm, End::Closed);
    let image = media.view();
    let is_sealed = |start: &u64| image[*start as usize + 262..][..2] == 0x9696_u16.to_le_bytes();
    let mut sealed = 0;
    for start in (HEAD_BYTES..image.len() as u64).step_by(SEGMENT_BYTES as usize).filter(is_sealed) {
        sealed += 1;
        let sectors = (1..SEGMENT_BYTES / SECTOR_BYTES).map(|sectors| sectors * SECTOR_BYTES);
        for len in std::iter::once(FOOTER_BYTES).chain(sectors) {
            tally.opens += 1;
            let zeros = vec![0; len as usize];
            let lost = Arc::new(media.rotten(&[(start + SEGMENT_BYTES - len, &zeros)]));
            let what = format!("{len} bytes at the end of the segment at {start} are lost");
            match open(&lost) {
                Ok(store) => {
                    let (_, refused) = check(&shown, &store, &what, tally);
                    if len == FOOTER_BYTES && refused > 0 {
                        tally.violations.push(format!("{what}: {refused} keys are refused for a footer"));
                    }
                    testing::kill(&store);
                }
                Err(error) => tally.violations.push(format!("{what}: {error}")),
            }
        }
    }
    assert!(sealed > 2, "{sealed} sealed segments");
}
