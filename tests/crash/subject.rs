//! What is tested: FlatKV, or a toy with planted bugs that proves that the tests would notice.

use crate::common;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Durability, IndexKind, Options, Result, Store, WriteBatch, WriteOptions};
use std::sync::Arc;

/// A store as the sweep sees it.
pub trait Subject: Send + Sync + Sized + 'static {
    /// Opens the store on `media`, and creates it if the medium is empty.
    fn open(media: Arc<SimMedia>, index: IndexKind) -> Result<Self>;
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()>;
    fn delete(&self, key: &[u8]) -> Result<bool>;
    /// Puts and deletes, wholly or not at all.
    fn write(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()>;
    fn sync(&self) -> Result<()>;
    /// Lets the store do what it does when it was idle for a while.
    fn idle(&self) -> Result<()>;
    /// Empties segments, as many as the store does at once.
    fn clean(&self) -> Result<()>;
    /// Lets go of what holds next to nothing, as the store does while nobody writes. Answers how many segments it freed.
    fn tidy_up(&self) -> Result<u64>;
    /// Gives all free slots back to the file system.
    fn give_back(&self) -> Result<()>;
    fn close(&self) -> Result<()>;
    /// Compares what the store believes with all that lies on the medium, if the store can.
    fn verify(&self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// Options of a pool with the smallest segments that hold several frames: on files a frame takes whole sectors, and
/// segments of 4 KiB hardly ever roll.
pub fn options(media: &SimMedia, index: IndexKind) -> Options {
    let options = match media.sim_kind() {
        SimKind::Pm => flatkv::testing::with_survivor_streams(flatkv::testing::options(), 2),
        SimKind::File => flatkv::testing::options().segment_size_bytes(8192),
    };
    options.index(index)
}

impl Subject for Store {
    fn open(media: Arc<SimMedia>, index: IndexKind) -> Result<Self> {
        let options = options(&media, index);
        flatkv::testing::open_on(media, options)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Store::get(self, key)
    }

    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        self.put_with(&WriteOptions::new().durability(durability), key, value)
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        Store::delete(self, key)
    }

    fn write(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key, value)?,
                None => batch.delete(key)?,
            }
        }
        Store::write(self, &batch)
    }

    fn sync(&self) -> Result<()> {
        Store::sync(self)
    }

    fn idle(&self) -> Result<()> {
        flatkv::testing::mark_idle(self)
    }

    fn clean(&self) -> Result<()> {
        flatkv::testing::clean(self).map(drop)
    }

    fn tidy_up(&self) -> Result<u64> {
        let freed = || common::stat(self, "cleaner.segments_freed");
        let before = freed();
        flatkv::testing::tidy_up(self);
        // What fails poisons the store, and whoever asks next is told.
        self.health()?;
        Ok(freed() - before)
    }

    fn give_back(&self) -> Result<()> {
        flatkv::testing::give_back(self).map(drop)
    }

    fn close(&self) -> Result<()> {
        Store::close(self)
    }

    fn verify(&self) -> std::result::Result<(), String> {
        let report = Store::verify(self).map_err(|error| error.to_string())?;
        match report.findings.first() {
            None if report.is_quiet => Ok(()),
            None => Err("something happened in a store that nobody uses".into()),
            Some(finding) => Err(format!("verification: {finding:?}")),
        }
    }
}

/// A store in which each key of a history is a keyspace of its own, and its value the one entry of that: puts create, deletes
/// drop or clear, and batches go across.
pub struct KeyspacePerKey(Store);

const ONLY: &[u8] = b"value";

impl KeyspacePerKey {
    fn name(key: &[u8]) -> String {
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn existing(&self, key: &[u8]) -> Result<Option<Store>> {
        let name = Self::name(key);
        if !self.0.keyspace_names()?.contains(&name) {
            return Ok(None);
        }
        self.0.keyspace(&name).map(Some)
    }
}

impl Subject for KeyspacePerKey {
    fn open(media: Arc<SimMedia>, index: IndexKind) -> Result<Self> {
        <Store as Subject>::open(media, index).map(KeyspacePerKey)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let keyspace = self.existing(key)?;
        keyspace.map_or(Ok(None), |keyspace| keyspace.get(ONLY))
    }

    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        self.0.keyspace(&Self::name(key))?.put_with(&WriteOptions::new().durability(durability), ONLY, value)
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        let Some(keyspace) = self.existing(key)? else { return Ok(false) };
        let was_there = keyspace.exists(ONLY)?;
        if was_there && key.iter().map(|byte| u32::from(*byte)).sum::<u32>().is_multiple_of(2) {
            keyspace.clear()?;
        } else if was_there {
            self.0.drop_keyspace(&Self::name(key))?;
        }
        Ok(was_there)
    }

    fn write(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in changes {
            let keyspace = self.0.keyspace(&Self::name(key))?;
            match value {
                Some(value) => batch.put_in(&keyspace, ONLY, value)?,
                None => batch.delete_in(&keyspace, ONLY)?,
            }
        }
        self.0.write(&batch)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn idle(&self) -> Result<()> {
        Subject::idle(&self.0)
    }

    fn clean(&self) -> Result<()> {
        Subject::clean(&self.0)
    }

    fn tidy_up(&self) -> Result<u64> {
        Subject::tidy_up(&self.0)
    }

    fn give_back(&self) -> Result<()> {
        Subject::give_back(&self.0)
    }

    fn close(&self) -> Result<()> {
        self.0.close()
    }

    fn verify(&self) -> std::result::Result<(), String> {
        Subject::verify(&self.0)
    }
}
