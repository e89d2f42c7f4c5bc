//! The stores that are Rust crates: redb, fjall, sled.

use crate::engine::{Engine, Session};
use crate::keys::Key;
use redb::{ReadableDatabase, TableDefinition};
use std::path::Path;

const CACHE_BYTES: u64 = 256 << 20;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");

/// redb, each put a transaction of its own with durability `Immediate`. Its other durability, `None`, loses everything when
/// the process is killed, so it is in no class.
pub struct Redb(redb::Database);

impl Redb {
    pub fn open(path: &Path) -> Result<Redb, String> {
        let database =
            redb::Builder::new().set_cache_size(CACHE_BYTES as usize).create(path).map_err(text)?;
        let txn = database.begin_write().map_err(text)?;
        drop(txn.open_table(TABLE).map_err(text)?);
        txn.commit().map_err(text)?;
        Ok(Redb(database))
    }

    fn write(&self, keys: &[&[u8]], value: &[u8]) {
        let txn = self.0.begin_write().expect("redb: begin_write");
        let mut table = txn.open_table(TABLE).expect("redb: open_table");
        for key in keys {
            table.insert(*key, value).expect("redb: insert");
        }
        drop(table);
        txn.commit().expect("redb: commit");
    }
}

impl Engine for Redb {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(RedbCalls(self))
    }
}

struct RedbCalls<'a>(&'a Redb);

impl Session for RedbCalls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.write(&[key], value);
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        self.0.write(&keys.iter().map(|key| &key[..]).collect::<Vec<_>>(), value);
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let table =
            self.0.0.begin_read().expect("redb: begin_read").open_table(TABLE).expect("redb: open_table");
        let value = table.get(key).expect("redb: get")?;
        let value = value.value();
        into[..value.len()].copy_from_slice(value);
        Some(value.len())
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let table =
            self.0.0.begin_read().expect("redb: begin_read").open_table(TABLE).expect("redb: open_table");
        let range = table.range(from..).expect("redb: range");
        Some(
            range
                .take(count)
                .map(|row| row.expect("redb: row").1.value()[0])
                .map(std::hint::black_box)
                .count(),
        )
    }
}

/// fjall. A put is in the page cache when it returns, with `sync` on the disk.
pub struct Fjall {
    database: fjall::Database,
    keyspace: fjall::Keyspace,
    sync: bool,
}

impl Fjall {
    pub fn open(path: &Path, sync: bool) -> Result<Fjall, String> {
        let database = fjall::Database::builder(path).cache_size(CACHE_BYTES).open().map_err(text)?;
        let keyspace = database.keyspace("kv", fjall::KeyspaceCreateOptions::default).map_err(text)?;
        Ok(Fjall { database, keyspace, sync })
    }

    fn persist(&self) {
        if self.sync {
            self.database.persist(fjall::PersistMode::SyncData).expect("fjall: persist");
        }
    }
}

impl Engine for Fjall {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(FjallCalls(self))
    }
}

struct FjallCalls<'a>(&'a Fjall);

impl Session for FjallCalls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.keyspace.insert(key, value).expect("fjall: insert");
        self.0.persist();
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        let mut batch = self.0.database.batch();
        keys.iter().for_each(|key| batch.insert(&self.0.keyspace, &key[..], value));
        batch.commit().expect("fjall: commit");
        self.0.persist();
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let value = self.0.keyspace.get(key).expect("fjall: get")?;
        into[..value.len()].copy_from_slice(&value);
        Some(value.len())
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let rows = self.0.keyspace.range(from.to_vec()..).take(count);
        Some(rows.map(|row| row.value().expect("fjall: row")[0]).map(std::hint::black_box).count())
    }
}

/// sled. A put reaches the page cache within half a second. Its `flush` is `sync_file_range`, which does not make a disk
/// write its cache out, so there is no power-safe sled.
pub struct Sled(sled::Db);

impl Sled {
    pub fn open(path: &Path) -> Result<Sled, String> {
        sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open().map_err(text).map(Sled)
    }
}

impl Engine for Sled {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(SledCalls(self))
    }
}

struct SledCalls<'a>(&'a Sled);

impl Session for SledCalls<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.0.insert(key, value).expect("sled: insert");
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        let mut batch = sled::Batch::default();
        keys.iter().for_each(|key| batch.insert(&key[..], value));
        self.0.0.apply_batch(batch).expect("sled: apply_batch");
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let value = self.0.0.get(key).expect("sled: get")?;
        into[..value.len()].copy_from_slice(&value);
        Some(value.len())
    }

    fn scan(&mut self, from: &[u8], count: usize) -> Option<usize> {
        let rows = self.0.0.range(from..).take(count);
        Some(rows.map(|row| row.expect("sled: row").1[0]).map(std::hint::black_box).count())
    }
}
