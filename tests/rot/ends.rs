//! A log that was closed and resumed several times, and a page of it that shows what it held at an earlier close, or
//! nothing: the close mark that is seen then is not the last one.

use super::check::Tally;
use super::pool::HEAD_BYTES;
use flatkv::testing;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Error, Options, Store};
use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: usize = 4 << 10;
const SEGMENT_BYTES: u64 = 16 << 10;
const CAPACITY_BYTES: u64 = 1 << 20;
/// A page holds several sessions: with some of these numbers the last one does.
pub const SESSIONS: std::ops::Range<usize> = 30..40;

fn options() -> Options {
    testing::options().segment_size_bytes(SEGMENT_BYTES)
}

fn open(media: &Arc<SimMedia>) -> flatkv::Result<Store> {
    testing::open_on(media.clone(), options())
}

/// A pool and what it must show.
pub struct Resumed {
    media: SimMedia,
    /// Its image after each close.
    images: Vec<Vec<u8>>,
    shown: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Resumed {
    pub fn build(kind: SimKind, sessions: usize) -> Resumed {
        let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
        let (mut images, mut shown) = (Vec::new(), BTreeMap::new());
        for session in 0..sessions {
            let store = open(&media).expect("a sound pool");
            for number in 0..1 + session % 2 {
                let key = format!("key-{}", (session + number) % 7).into_bytes();
                let value = format!("{number} in {session}: ").into_bytes();
                let value: Vec<u8> = value.into_iter().cycle().take(20 + session * 29 % 100).collect();
                store.put(&key, &value).expect("room");
                shown.insert(key, Some(value));
            }
            let key = format!("key-{}", session * 5 % 7).into_bytes();
            if session % 4 == 3 && store.delete(&key).expect("room") {
                shown.insert(key, None);
            }
            store.close().expect("closes");
            images.push(media.view());
        }
        let media = SimMedia::from_image(kind, &media.view(), CAPACITY_BYTES);
        Resumed { media, images, shown }
    }

    fn is_in_active_head(&self, at: usize) -> bool {
        let Some(within) = at.checked_sub(HEAD_BYTES as usize) else { return false };
        let start = at - within % SEGMENT_BYTES as usize;
        let image = self.images.last().expect("sessions");
        image[start + 262..][..2] == 0x5A69_u16.to_le_bytes()
    }

    fn judge_page(&self, at: usize, page: &[u8], what: &str, tally: &mut Tally) -> usize {
        let lost = Arc::new(self.media.rotten(&[(at as u64, page)]));
        let mut refused = 0;
        for round in 0..3 {
            let what = format!("page at {at}, {what}, open {round}");
            tally.opens += 1;
            let store = match open(&lost) {
                Ok(store) => store,
                // Header and digest lie in the first page.
                Err(Error::Corrupted { .. } | Error::Incomplete(_)) if round == 0 => return 0,
                Err(error) => {
                    tally.violations.push(format!("{what}: {error}"));
                    return refused;
                }
            };
            for (key, shown) in &self.shown {
                match store.get(key) {
                    Ok(found) if found == *shown => {}
                    Err(Error::Corrupted { .. }) => refused += 1,
                    found => tally
                        .violations
                        .push(format!("{what}: {} shows {found:?}", String::from_utf8_lossy(key))),
                }
            }
            if round == 1 { store.close().expect("closes") } else { testing::kill(&store) }
        }
        refused
    }

    /// Loses each page of the log in every way. Nothing may be stale, and if nothing is lost nothing is refused. Says how
    /// many answers were refused.
    pub fn judge(&self, tally: &mut Tally) -> usize {
        let last = self.images.last().expect("sessions");
        assert_eq!(self.judge_page(0, &last[..PAGE_BYTES], "unchanged", tally), 0, "nothing is lost");
        let mut refused = 0;
        for at in (0..last.len()).step_by(PAGE_BYTES).filter(|at| self.is_in_active_head(*at)) {
            let now = &last[at..at + PAGE_BYTES];
            let zeros = vec![0; PAGE_BYTES];
            let older = self.images.iter().filter_map(|image| image.get(at..at + PAGE_BYTES));
            for (number, page) in older.chain([&zeros[..]]).enumerate().filter(|(_, page)| *page != now) {
                refused += self.judge_page(at, page, &format!("as in image {number}"), tally);
            }
        }
        refused
    }
}
