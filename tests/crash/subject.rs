//! What is tested: FlatKV, or a toy with planted bugs that proves that the tests would notice.

use crate::common;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Durability, Error, IndexKind, Options, Result, Store, WriteBatch, WriteOptions};
use std::sync::Arc;

/// Keys and values in the order of the keys.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

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
    /// What scans show, if they can: all entries, the same in either direction.
    fn scan(&self) -> std::result::Result<Option<Entries>, String> {
        Ok(None)
    }
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

    fn scan(&self) -> std::result::Result<Option<Entries>, String> {
        let mut iter = match self.iter() {
            Ok(iter) => iter,
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(format!("no iterator: {error}")),
        };
        let mut entries = Entries::new();
        let scanned = |error: Error| format!("a scan: {error}");
        while iter.move_next().map_err(scanned)? {
            let key = iter.key().expect("it is on an entry").to_vec();
            entries.push((key, iter.value().map_err(scanned)?.expect("it is on an entry").to_vec()));
        }
        iter.set_bounds(None, None);
        let mut before = entries.iter().rev();
        while iter.move_prev().map_err(scanned)? {
            let expected = before.next().ok_or("a scan backward shows more than one forward")?;
            if iter.key() != Some(&expected.0) || iter.value().map_err(scanned)? != Some(&expected.1) {
                return Err(format!("a scan backward shows {:?} instead of {:?}", iter.key(), expected.0));
            }
        }
        match before.next() {
            None => Ok(Some(entries)),
            Some(missing) => Err(format!("a scan backward ends before {:?}", missing.0)),
        }
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

/// A store in which each key of a history is a keyspace of its own, and its value what that holds: in half of them one entry, in the
/// others several, which come and go together. Puts create, deletes drop or clear, and batches go across.
pub struct KeyspacePerKey(Store);

const VALUE: &[u8] = b"value";
/// In front of the value and behind it, with its first bytes.
const BESIDE: [&[u8]; 3] = [b"a", b"b", b"z"];
const BESIDE_BYTES: usize = 8;

/// What a keyspace with this value holds beside it.
fn beside(key: &[u8]) -> &'static [&'static [u8]] {
    if (sum(key) / 2).is_multiple_of(2) { &BESIDE } else { &[] }
}

fn sum(key: &[u8]) -> u32 {
    key.iter().map(|byte| u32::from(*byte)).sum()
}

impl KeyspacePerKey {
    fn name(key: &[u8]) -> String {
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn key_of(name: &str) -> Vec<u8> {
        let digits = name.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("digits"));
        digits.map(|two| u8::from_str_radix(two, 16).expect("a name that was given")).collect()
    }

    /// Adds what makes a keyspace hold a value, or nothing.
    fn add(batch: &mut WriteBatch, keyspace: &Store, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let whole = std::iter::once((VALUE, value));
        let parts = beside(key).iter().map(|name| (*name, value.map(|value| &value[..BESIDE_BYTES])));
        whole.chain(parts).try_for_each(|(name, value)| match value {
            Some(value) => batch.put_in(keyspace, name, value),
            None => batch.delete_in(keyspace, name),
        })
    }

    /// The entries of a keyspace that holds a value, or nothing.
    fn expected(key: &[u8], value: Option<&[u8]>) -> Entries {
        let Some(value) = value else { return Entries::new() };
        let parts = beside(key).iter().map(|name| (name.to_vec(), value[..BESIDE_BYTES].to_vec()));
        let mut entries: Entries = parts.chain([(VALUE.to_vec(), value.to_vec())]).collect();
        entries.sort();
        entries
    }
}

impl Subject for KeyspacePerKey {
    fn open(media: Arc<SimMedia>, index: IndexKind) -> Result<Self> {
        <Store as Subject>::open(media, index).map(KeyspacePerKey)
    }

    /// Half of what a keyspace holds is a value that nobody wrote.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(keyspace) = self.0.find_keyspace(&Self::name(key))? else { return Ok(None) };
        let value = keyspace.get(VALUE)?;
        let expected = value.as_ref().map(|value| &value[..BESIDE_BYTES]);
        for name in beside(key) {
            if keyspace.get(name)?.as_deref() != expected {
                return Ok(Some(b"a part of a value".to_vec()));
            }
        }
        Ok(value)
    }

    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        let keyspace = self.0.keyspace(&Self::name(key))?;
        let options = WriteOptions::new().durability(durability);
        if beside(key).is_empty() {
            return keyspace.put_with(&options, VALUE, value);
        }
        let mut batch = WriteBatch::new();
        Self::add(&mut batch, &keyspace, key, Some(value))?;
        keyspace.write_with(&options, &batch)
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        let Some(keyspace) = self.0.find_keyspace(&Self::name(key))? else { return Ok(false) };
        let was_there = keyspace.exists(VALUE)?;
        if was_there && sum(key).is_multiple_of(2) {
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
            Self::add(&mut batch, &keyspace, key, value.as_deref())?;
        }
        self.0.write(&batch)
    }

    fn scan(&self) -> std::result::Result<Option<Entries>, String> {
        match Subject::scan(&self.0)? {
            None => return Ok(None),
            Some(shown) if shown.is_empty() => {}
            Some(shown) => return Err(format!("the default keyspace shows {shown:?}")),
        }
        let names = self.0.keyspace_names().map_err(|error| format!("no names: {error}"))?;
        let mut entries = Entries::new();
        for name in names {
            let keyspace = self.0.find_keyspace(&name).map_err(|error| format!("{name}: {error}"))?;
            let keyspace = keyspace.ok_or_else(|| format!("{name} is listed and not there"))?;
            let Some(shown) = Subject::scan(&keyspace)? else { return Ok(None) };
            let key = Self::key_of(&name);
            let value = shown.iter().find(|(name, _)| name == VALUE).map(|(_, value)| value.clone());
            if shown != Self::expected(&key, value.as_deref()) {
                return Err(format!(
                    "a scan of {name} shows {} entries, and not those of a value",
                    shown.len()
                ));
            }
            entries.extend(value.map(|value| (key, value)));
        }
        Ok(Some(entries))
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
