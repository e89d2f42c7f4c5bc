//! Which keyspaces there are: the entries of the catalogue, and the names that callers ask for.
//!
//! Each change is one operation, or one batch, of the catalogue's own keyspace, so it is there wholly or not at all. A new
//! keyspace has the number behind the highest that the catalogue knows; its record stays after it was dropped, so that its
//! entries are known to be dead and its number is not given again. Once nothing in the log names the number, which only a scan
//! of all of it tells, and so an open, the record goes with the next change; the one of the highest number stays.
//!
//! An entry whose number has no record is damage: it is kept, and who asks for what the catalogue does not know is refused.

use super::super::Engine;
use super::{Fixed, Keyspace, Named};
use crate::constants::KEYSPACE_NAME_BYTES_MAX;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{FEATURE_KEYSPACES, KeyspaceRecord, OpKind, catalogue_id, catalogue_key};
use crate::index::Index;
use crate::media::guarded::Scratch;
use crate::options::{Durability, WriteOptions};
use crate::rules::{self, Rule};
use crate::space::Purpose;
use crate::sync::{Arc, Ordering};
use crate::types::{Addr, KeyspaceId, Seq};
use crate::write_batch::WriteBatch;
use std::collections::{BTreeMap, BTreeSet};

/// Records of numbers that nothing names any more which a change takes along.
const FORGOTTEN_AT_ONCE: usize = 32;

/// What callers can ask for.
pub(super) struct Names<I> {
    pub(super) by_name: BTreeMap<Box<str>, Arc<Named<I>>>,
    /// The highest number that the catalogue, or an entry, names.
    newest: KeyspaceId,
    /// Numbers without a record.
    orphans: Vec<KeyspaceId>,
    /// Dropped, and named by nothing in the log.
    forgettable: Vec<KeyspaceId>,
}

impl<I> Default for Names<I> {
    fn default() -> Self {
        Names {
            by_name: BTreeMap::new(),
            newest: KeyspaceId::CATALOGUE,
            orphans: Vec::new(),
            forgettable: Vec::new(),
        }
    }
}

/// Refuses names outside 1..=255 bytes, and with a NUL.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "name of a keyspace {name:?}: 1 to {KEYSPACE_NAME_BYTES_MAX} bytes without NUL"
        )));
    }
    if name.len() > KEYSPACE_NAME_BYTES_MAX {
        let (len, max) = (name.len() as u64, KEYSPACE_NAME_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "name of a keyspace", len, max });
    }
    Ok(())
}

impl<I: Index + 'static> Engine<I> {
    /// The keyspace with this name, made if there is none.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (name), those of a put if it has to be made, `Corrupted` if damage hides whether it is there.
    pub fn open_keyspace(&self, name: &str) -> Result<Arc<Named<I>>> {
        check_name(name)?;
        self.check_open()?;
        if let Some(named) = self.named(name)? {
            return Ok(named);
        }
        self.check_writable()?;
        let _changing = self.keyspaces.changing.lock();
        if let Some(named) = self.named(name)? {
            return Ok(named);
        }
        self.check_catalogue_is_whole()?;
        self.announce_keyspaces()?;
        let keyspace = self.next_keyspace()?;
        let record = KeyspaceRecord { is_dropped: false, name: name.to_owned() };
        self.write_records(&[(keyspace.id(), record)], Purpose::Put)?;
        self.keyspaces.register(&keyspace);
        let named = Named::new(name, Arc::clone(&keyspace), &self.keyspaces.store);
        let mut names = self.keyspaces.names.write();
        names.newest = keyspace.id();
        names.by_name.insert(name.into(), Arc::clone(&named));
        Ok(named)
    }

    /// The keyspace with this name, if there is one.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (name), `Corrupted` if damage hides whether it is there, `Closed`, `Forked`.
    pub fn find_keyspace(&self, name: &str) -> Result<Option<Arc<Named<I>>>> {
        check_name(name)?;
        self.check_open()?;
        match self.named(name)? {
            Some(named) => Ok(Some(named)),
            None => self.check_catalogue_is_whole().map(|()| None),
        }
    }

    /// Drops the keyspace with this name; false if there is none. Returns when that is durable; what lay in it comes free in
    /// the background. Possible on a full store.
    ///
    /// # Errors
    /// As [`Engine::open_keyspace`].
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        self.check_writable()?;
        let _changing = self.keyspaces.changing.lock();
        let Some(named) = self.named(name)? else {
            return self.check_catalogue_is_whole().map(|()| false);
        };
        self.end_keyspace(&named, None)?;
        self.keyspaces.names.write().by_name.remove(name);
        Ok(true)
    }

    /// Empties a keyspace: from now on its name has another number.
    ///
    /// # Errors
    /// `Dropped`, and as [`Engine::open_keyspace`].
    pub fn clear_keyspace(&self, named: &Named<I>) -> Result<()> {
        self.check_writable()?;
        let _changing = self.keyspaces.changing.lock();
        self.check_record(named.id()?)?;
        self.check_catalogue_is_whole()?;
        let next = self.next_keyspace()?;
        self.end_keyspace(named, Some(&next))?;
        self.keyspaces.names.write().newest = next.id();
        Ok(())
    }

    /// The names of all keyspaces, in order.
    ///
    /// # Errors
    /// `Corrupted` if damage may hide some, `Closed`, `Forked`.
    pub fn keyspace_names(&self) -> Result<Vec<String>> {
        self.check_open()?;
        self.check_catalogue_is_whole()?;
        let names = self.keyspaces.names.read();
        Ok(names.by_name.keys().map(|name| name.to_string()).collect())
    }

    fn named(&self, name: &str) -> Result<Option<Arc<Named<I>>>> {
        let Some(named) = self.keyspaces.names.read().by_name.get(name).cloned() else { return Ok(None) };
        match named.id() {
            Ok(id) => self.check_record(id).map(|()| Some(named)),
            // It is being dropped just now.
            Err(Error::Dropped) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends what has the name, for `next` to have it, or nobody.
    fn end_keyspace(&self, named: &Named<I>, next: Option<&Arc<Keyspace<I>>>) -> Result<()> {
        let _alone = named.gate.write();
        let last = named.current()?;
        // What was accepted asynchronously, and whoever wrote it out.
        self.committer.lead_all(self);
        self.wait_for_publications();
        let record = |is_dropped| KeyspaceRecord { is_dropped, name: named.name.to_string() };
        let mut records = vec![(last.id(), record(true))];
        records.extend(next.map(|next| (next.id(), record(false))));
        let ended = self.write_records(&records, Purpose::Delete)?;
        last.ended.store(ended.0, Ordering::Release);
        if let Some(next) = next {
            self.keyspaces.register(next);
        }
        named.pass_to(next.cloned());
        self.reclaim_later(last);
        Ok(())
    }

    /// A keyspace that nobody knows yet.
    fn next_keyspace(&self) -> Result<Arc<Keyspace<I>>> {
        let newest = self.keyspaces.names.read().newest;
        let no_more = || Error::TooLarge { what: "number of keyspaces", len: 1 << 32, max: (1 << 32) - 1 };
        let id = newest.next().ok_or_else(no_more)?;
        Ok(Arc::new(Keyspace::brand_new(id, self.default.index.sibling()?, &self.reader)))
    }

    /// Libraries that know of no keyspaces refuse the pool from now on: before anything in it names one.
    fn announce_keyspaces(&self) -> Result<()> {
        let mut superblock = self.superblock.lock();
        if superblock.current().incompatible & FEATURE_KEYSPACES != 0 {
            return Ok(());
        }
        let announced =
            superblock.update_both(&*self.media, |superblock| superblock.incompatible |= FEATURE_KEYSPACES);
        announced.inspect_err(|error| self.oplog.poison(&error.to_string()))
    }

    /// Writes records, all or none of them, durably. The stamp that they have.
    fn write_records(&self, records: &[(KeyspaceId, KeyspaceRecord)], purpose: Purpose) -> Result<Seq> {
        let catalogue = self.keyspace_or_new(KeyspaceId::CATALOGUE)?;
        let mut batch = WriteBatch::new();
        for (id, record) in records {
            batch.put(&catalogue_key(*id), &record.encode())?;
        }
        let forgotten = self.forgettable_records();
        for id in &forgotten {
            batch.delete(&catalogue_key(*id))?;
        }
        let options = WriteOptions { durability: Some(Durability::Sync) };
        self.write(Fixed { keyspace: &catalogue, purpose }, &options, &batch)?;
        self.keyspaces.names.write().forgettable.retain(|id| !forgotten.contains(id));
        // Durable, but nobody here can act on it: the next open does.
        let poison = |error: &Error| {
            self.oplog.poison(&format!("a record of the catalogue is written and unreadable: {error}"))
        };
        self.stamp_of_record(&catalogue, records[0].0).inspect_err(poison)
    }

    /// Not the one of the highest number.
    fn forgettable_records(&self) -> Vec<KeyspaceId> {
        self.keyspaces.names.read().forgettable.iter().copied().take(FORGOTTEN_AT_ONCE).collect()
    }

    fn stamp_of_record(&self, catalogue: &Keyspace<I>, id: KeyspaceId) -> Result<Seq> {
        let (_guard, scratch) = (epoch::pin(), Scratch::new());
        let key = catalogue_key(id);
        let found = self.find(catalogue, catalogue.key(&key), &scratch)?;
        let seq = found.and_then(|(addr, op)| self.reader.order(addr, &op)).map(|(seq, _)| seq);
        seq.ok_or_else(|| without_record(id))
    }

    /// Refuses a keyspace that may have been dropped: damage may hide the record that says so.
    fn check_record(&self, id: KeyspaceId) -> Result<()> {
        if self.damage.is_empty() {
            return Ok(());
        }
        let catalogue = self.keyspace_or_new(KeyspaceId::CATALOGUE)?;
        let (_guard, scratch) = (epoch::pin(), Scratch::new());
        self.find_live(&catalogue, catalogue.key(&catalogue_key(id)), &scratch).map(drop)
    }

    /// Refuses to say that there is no keyspace of some name if damage may hide one.
    pub(super) fn check_catalogue_is_whole(&self) -> Result<()> {
        let (newest, orphan) = {
            let names = self.keyspaces.names.read();
            (names.newest, names.orphans.first().copied())
        };
        if let Some(orphan) = orphan {
            return Err(without_record(orphan));
        }
        if self.damage.is_empty() {
            return Ok(());
        }
        // The one behind the newest, too: a record may be all that there was of it.
        (KeyspaceId::FIRST_NAMED.0..=newest.0.saturating_add(1).max(KeyspaceId::FIRST_NAMED.0))
            .try_for_each(|id| self.check_record(KeyspaceId(id)))
    }

    /// Recovery: all entries are in the index of the keyspace that they name. `named` are those that any entry names.
    pub(in crate::engine) fn apply_catalogue(
        &self,
        named: &BTreeSet<KeyspaceId>,
        is_whole: bool,
    ) -> Result<()> {
        let records = self.read_catalogue();
        let mut names = Names::<I>::default();
        let highest = records.keys().chain(named).max();
        names.newest = highest.copied().unwrap_or(KeyspaceId::CATALOGUE).max(KeyspaceId::CATALOGUE);
        // From the highest on: of two that have one name the newer has it.
        for (id, record) in records.iter().rev() {
            if record.is_dropped && rules::keep(Rule::OpenBuriesDropped) {
                self.bury_keyspace(*id);
                if is_whole && !named.contains(id) && *id != names.newest {
                    names.forgettable.push(*id);
                }
            } else if names.by_name.contains_key(&*record.name) {
                names.orphans.push(*id);
            } else if let super::Found::Registered(keyspace) = self.keyspace_or_new(*id)? {
                let named = Named::new(&record.name, keyspace, &self.keyspaces.store);
                names.by_name.insert(record.name.as_str().into(), named);
            }
        }
        let has_record = |id: &&KeyspaceId| **id == KeyspaceId::CATALOGUE || records.contains_key(id);
        names.orphans.extend(named.iter().filter(|id| !has_record(id)));
        *self.keyspaces.names.write() = names;
        Ok(())
    }

    fn read_catalogue(&self) -> BTreeMap<KeyspaceId, KeyspaceRecord> {
        let mut records = BTreeMap::new();
        let Some(catalogue) = self.keyspaces.get(KeyspaceId::CATALOGUE) else { return records };
        let mut addrs: Vec<Addr> = Vec::new();
        {
            let _guard = epoch::pin();
            catalogue.index.for_each(|addr| addrs.push(addr));
        }
        for addr in addrs {
            let scratch = Scratch::new();
            let Some(op) = self.reader.op(addr, &scratch).filter(|op| op.kind() == OpKind::Put) else {
                continue;
            };
            if let (Some(id), Some(record)) = (catalogue_id(op.key()), KeyspaceRecord::decode(op.value())) {
                records.insert(id, record);
            }
        }
        records
    }
}

#[cold]
pub(super) fn without_record(id: KeyspaceId) -> Error {
    let found = u64::from(id.0);
    Error::Corrupted { what: "keyspace of entries in the catalogue", offset: 0, expected: 0, found }
}
