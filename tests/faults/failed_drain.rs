//! Every drain of a workload fails once on the simulated medium, where a failed `fdatasync` marks pages clean that are not
//! on the disk. The process is killed, the next one opens, puts one key, and the power fails: whatever the second process
//! showed or acknowledged is there, because recovery writes again what it adopts.

use crate::faults::work::{Change, Model};
use flatkv::testing::sim::{Fault, Level, PageCache, SimKind, SimMedia};
use flatkv::testing::{open_on, options};
use flatkv::{Durability, Error, Result, Store, WriteBatch, WriteOptions};
use std::sync::Arc;

const CAPACITY_BYTES: u64 = 512 << 10;
const SEGMENT_BYTES: u64 = 8192;
const KEYS: usize = 10;
const IMAGES: u64 = 24;

/// What a sweep did.
#[derive(Default)]
pub struct Figures {
    pub drains: u64,
    pub power_cuts: u64,
}

struct Life {
    media: Arc<SimMedia>,
    /// What reads show.
    visible: Vec<Option<Vec<u8>>>,
    /// What was made durable, and which writes came after that.
    model: Model,
    written: u8,
}

fn key(number: usize) -> [u8; 1] {
    [b'a' + number as u8]
}

fn open(media: &Arc<SimMedia>) -> Result<Store> {
    open_on(media.clone(), options().segment_size_bytes(SEGMENT_BYTES))
}

fn read_all(store: &Store) -> Vec<Option<Vec<u8>>> {
    (0..KEYS).map(|number| store.get(&key(number)).unwrap()).collect()
}

impl Life {
    /// True if the write was acknowledged; false if the drain failed, and then the store is seen to be poisoned.
    fn write(&mut self, store: &Store, changes: Vec<Change>, durability: Durability) -> bool {
        let with = WriteOptions::new().durability(durability);
        let mut batch = WriteBatch::new();
        for (number, value) in &changes {
            match value {
                Some(value) => batch.put(&key(*number), value).unwrap(),
                None => batch.delete(&key(*number)).unwrap(),
            }
        }
        let result = match &changes[..] {
            [(number, Some(value))] => store.put_with(&with, &key(*number), value),
            _ => store.write_with(&with, &batch),
        };
        self.model.open_questions.push(changes.clone());
        if let Err(error) = result {
            self.see_poisoned(store, &error);
            return false;
        }
        changes.iter().for_each(|(number, value)| self.visible[*number].clone_from(value));
        if durability == Durability::Sync {
            self.covered();
        }
        true
    }

    /// Everything before is durable: the store has one log.
    fn covered(&mut self) {
        self.model.values.clone_from(&self.visible);
        self.model.open_questions.clear();
    }

    fn see_poisoned(&self, store: &Store, error: &Error) {
        assert!(matches!(error, Error::Io { errno: libc::EIO, .. }), "{error}");
        assert!(matches!(store.health(), Err(Error::Poisoned(why)) if !why.is_empty()));
        assert!(matches!(store.put(b"x", b"refused"), Err(Error::Poisoned(_))));
        assert!(matches!(store.sync(), Err(Error::Poisoned(_))));
        assert!(read_all(store) == self.visible, "reads go on after a failed drain");
        assert!(matches!(store.close(), Err(Error::Poisoned(_))));
    }

    fn value(&mut self, len: usize) -> Option<Vec<u8>> {
        self.written += 1;
        Some(vec![self.written; len])
    }

    fn put(&mut self, store: &Store, number: usize, len: usize, durability: Durability) -> bool {
        let value = self.value(len);
        self.write(store, vec![(number, value)], durability)
    }

    /// False if a drain failed.
    fn work(&mut self) -> bool {
        use Durability::{Os, Sync};
        for _session in 0..2 {
            let Ok(store) = open(&self.media) else { return false };
            for (number, len, durability) in [(0, 20, Sync), (1, 20, Os), (2, 5000, Sync), (3, 30, Os)] {
                if !self.put(&store, number, len, durability) {
                    return false;
                }
            }
            match store.sync() {
                Ok(()) => self.covered(),
                Err(error) => {
                    self.see_poisoned(&store, &error);
                    return false;
                }
            }
            let (small, large) = (self.value(40), self.value(3000));
            if !self.write(&store, vec![(4, small), (0, None), (5, large)], Sync) {
                return false;
            }
            for round in 0..8 {
                let durability = if round % 3 == 1 { Os } else { Sync };
                if !self.put(&store, 6 + round % 4, 900, durability) {
                    return false;
                }
            }
            if store.close().is_err() {
                return false;
            }
            self.covered();
        }
        true
    }
}

/// Fails one drain after the other until none is left.
pub fn sweep(kind: SimKind, cache: PageCache) -> Figures {
    let mut figures = Figures::default();
    for nth in 1.. {
        let media = Arc::new(SimMedia::new(kind, CAPACITY_BYTES));
        media.inject(Fault::Drain { nth, times: 1 });
        let model = Model::new(KEYS);
        let mut life = Life { media: media.clone(), visible: vec![None; KEYS], model, written: 0 };
        if life.work() {
            return figures;
        }
        figures.drains += 1;
        let first = media.power_off();
        let mut replay = first.replay();
        replay.advance_to(first.last_point());
        let media = Arc::new(SimMedia::after_kill(&replay, cache));
        let store = open(&media).unwrap_or_else(|error| panic!("drain {nth}, {cache:?}: open: {error}"));
        let mut found = read_all(&store);
        life.model.settle(found.clone()).unwrap_or_else(|what| panic!("drain {nth}, {cache:?}: {what}"));
        store.put(&key(1), b"acknowledged").unwrap();
        found[1] = Some(b"acknowledged".to_vec());
        drop(store);
        let second = media.power_off();
        let mut replay = second.replay();
        replay.advance_to(second.last_point());
        for image in replay.images(Level::C, IMAGES, nth) {
            figures.power_cuts += 1;
            let media = Arc::new(SimMedia::from_crash(&image));
            let store = open(&media).unwrap_or_else(|error| panic!("drain {nth}, {:?}: {error}", image.id()));
            assert!(read_all(&store) == found, "drain {nth}, {cache:?}, {:?}: lost", image.id());
        }
    }
    figures
}
