//! A pool of 96 KiB with everything in it: live, overwritten and deleted entries, blobs, batches of both kinds, freed
//! segments, and the record of what it must show.

use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{self, Media};
use flatkv::{Store, WriteBatch};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub const POOL_BYTES: u64 = 96 << 10;
pub const HEAD_BYTES: u64 = 8 << 10;
pub const SEGMENT_BYTES: u64 = 4 << 10;
/// Recovery may need a new head.
pub const CAPACITY_BYTES: u64 = 160 << 10;

type Shown = Option<Vec<u8>>;

/// How the pool was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Killed,
}

/// A key, what it must show, and where that is written.
pub struct Known {
    pub key: Vec<u8>,
    pub shown: Shown,
    /// What it showed before the last acknowledged group.
    pub before: Shown,
    /// Bytes of its newest entry.
    pub entry: Range<u64>,
    /// Bytes of its blob.
    pub blob: Vec<Range<u64>>,
}

pub struct Pool {
    pub image: Vec<u8>,
    pub media: SimMedia,
    pub keys: Vec<Known>,
    /// Frames of the last acknowledged group.
    pub last_group: Range<u64>,
    pub end: End,
    /// An earlier image of the same pool.
    pub older: Vec<u8>,
}

struct Builder {
    media: Arc<SimMedia>,
    store: Store,
    shown: BTreeMap<Vec<u8>, Shown>,
    count: u64,
}

impl Builder {
    fn open(media: &Arc<SimMedia>) -> Store {
        testing::open_on(media.clone(), testing::options()).expect("an undamaged pool opens")
    }

    /// Bytes that are nowhere else in the pool.
    fn value(&mut self, len: usize) -> Vec<u8> {
        self.count += 1;
        let mut state = self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let byte = |_| {
            state = state.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(23);
            state as u8
        };
        (0..len).map(byte).collect()
    }

    fn put(&mut self, number: u32, len: usize) {
        let (key, value) = (key(number), self.value(len));
        self.store.put(&key, &value).expect("room");
        self.shown.insert(key, Some(value));
    }

    fn delete(&mut self, number: u32) {
        assert!(self.store.delete(&key(number)).expect("room"));
        self.shown.insert(key(number), None);
    }

    fn batch(&mut self, puts: impl Iterator<Item = u32>, len: usize, delete: u32) {
        let mut batch = WriteBatch::new();
        for number in puts {
            let (key, value) = (key(number), self.value(len));
            batch.put(&key, &value).unwrap();
            self.shown.insert(key, Some(value));
        }
        batch.delete(&key(delete)).unwrap();
        self.shown.insert(key(delete), None);
        self.store.write(&batch).expect("room");
    }

    fn reopen(&mut self, end: End) {
        match end {
            End::Closed => self.store.close().unwrap(),
            End::Killed => testing::kill(&self.store),
        }
        self.store = Builder::open(&self.media);
    }
}

pub fn key(number: u32) -> Vec<u8> {
    format!("key-{number:03}").into_bytes()
}

pub fn slot_of(offset: u64) -> Option<u64> {
    offset.checked_sub(HEAD_BYTES).map(|offset| offset / SEGMENT_BYTES)
}

fn find(image: &[u8], needle: &[u8]) -> Vec<u64> {
    let starts = image.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    starts.map(|(at, _)| at as u64).collect()
}

/// The newest of several copies of a key: frames have increasing stamps, and segments increasing ids.
fn newest(image: &[u8], places: &[u64]) -> u64 {
    let id = |at: &u64| {
        let base = (HEAD_BYTES + slot_of(*at).expect("no keys in the pool head") * SEGMENT_BYTES) as usize;
        u64::from_le_bytes(image[base + 24..base + 32].try_into().unwrap())
    };
    *places.iter().max_by_key(|at| (id(at), **at)).expect("the key was written")
}

impl Pool {
    pub fn build(kind: SimKind, end: End) -> Pool {
        let media = Arc::new(SimMedia::new(kind, POOL_BYTES));
        let mut builder = Builder { store: Builder::open(&media), media, shown: BTreeMap::new(), count: 0 };
        (0..16).for_each(|number| builder.put(number, 10 + 7 * number as usize % 60));
        builder.put(100, 2500);
        (0..4).for_each(|number| builder.put(number, 30));
        builder.batch(16..20, 40, 4);
        // Killed twice without a write between: an empty head is freed.
        builder.reopen(End::Killed);
        builder.reopen(End::Killed);
        builder.delete(5);
        builder.put(101, 1500);
        builder.batch(20..28, 330, 6);
        builder.put(102, 1200);
        builder.delete(102);
        builder.reopen(End::Closed);
        let older = builder.media.view();
        let rounds = 0..;
        for round in rounds {
            if builder.media.len_bytes() == POOL_BYTES - SEGMENT_BYTES {
                break;
            }
            builder.put(28 + round % 20, 60 + 90 * (round as usize % 4));
        }
        // An extent that is newer than every list of segments.
        builder.put(103, 4000);
        // The last head has a little of everything, too.
        builder.put(60, 20);
        builder.delete(28);
        builder.put(7, 80);
        let (before, tail) = (builder.shown.clone(), builder.media.view());
        builder.put(61, 24);
        let after = builder.media.view();
        let changed = |(at, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(at as u64);
        let changes: Vec<u64> = tail.iter().zip(&after).enumerate().filter_map(changed).collect();
        let first = changes[0] / 64 * 64;
        let last_group = first..changes[changes.len() - 1] / 64 * 64 + 64;
        match end {
            End::Closed => builder.store.close().unwrap(),
            End::Killed => testing::kill(&builder.store),
        }
        let image = builder.media.view();
        assert_eq!(image.len() as u64, POOL_BYTES);
        let known = builder.shown.iter().map(|(key, shown)| {
            let at = newest(&image, &find(&image, key));
            let inline =
                shown.as_ref().filter(|value| value.len() < 900).map_or(0, |value| value.len() as u64);
            let large = shown.iter().filter(|value| value.len() >= 900);
            let place = |piece: &[u8]| {
                let at = find(&image, piece)[0];
                at..at + piece.len() as u64
            };
            let blob = large.flat_map(|value| value.chunks(64)).map(place).collect();
            let before = before.get(key).cloned().unwrap_or(None);
            Known {
                key: key.clone(),
                shown: shown.clone(),
                before,
                entry: at..at + key.len() as u64 + inline,
                blob,
            }
        });
        let keys = known.collect();
        let media = SimMedia::from_image(kind, &image, CAPACITY_BYTES);
        Pool { keys, media, image, last_group, end, older }
    }

    /// True if opening may be refused because of a change at `offset`: in the header or state word of a segment, or in
    /// the digest of the active head.
    pub fn may_be_refused(&self, offset: u64) -> bool {
        let Some(slot) = slot_of(offset) else { return false };
        let base = HEAD_BYTES + slot * SEGMENT_BYTES;
        let segment = &self.image[base as usize..][..SEGMENT_BYTES as usize];
        let is_active = segment[262..264] == 0x5A69_u16.to_le_bytes();
        let digest_len = u32::from_le_bytes(segment[512 + 44..][..4].try_into().unwrap());
        match offset - base {
            0..264 => true,
            within => is_active && (512..512 + u64::from(digest_len)).contains(&within),
        }
    }
}
