//! What is tested: FlatKV, or a toy with planted bugs that proves that the tests would notice.

use flatkv::testing::sim::SimMedia;
use flatkv::{Durability, Result, Store, WriteBatch, WriteOptions};
use std::sync::Arc;

/// A store as the sweep sees it.
pub trait Subject: Send + Sync + Sized + 'static {
    /// Opens the store on `media`, and creates it if the medium is empty.
    fn open(media: Arc<SimMedia>) -> Result<Self>;
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()>;
    fn delete(&self, key: &[u8]) -> Result<bool>;
    /// Puts and deletes, wholly or not at all.
    fn write(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()>;
    fn sync(&self) -> Result<()>;
    /// Lets the store do what it does when it was idle for a while.
    fn idle(&self) -> Result<()>;
    fn close(&self) -> Result<()>;
}

impl Subject for Store {
    fn open(media: Arc<SimMedia>) -> Result<Self> {
        flatkv::testing::open_on(media, flatkv::testing::options())
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

    fn close(&self) -> Result<()> {
        Store::close(self)
    }
}
