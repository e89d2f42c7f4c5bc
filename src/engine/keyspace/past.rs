//! Which keyspaces there were at a point. The records of the catalogue are entries like others, of which a point keeps the
//! versions that it shows; so what was dropped since is found by them. Its entries are in a keyspace that stays registered as
//! long as a point shows it.

use super::super::Engine;
use super::Keyspace;
use super::catalogue::{check_name, without_record};
use crate::checksum::CheckSite;
use crate::epoch;
use crate::error::Result;
use crate::format::{KeyspaceRecord, catalogue_id, catalogue_key};
use crate::index::Index;
use crate::media::guarded::Scratch;
use crate::sync::Arc;
use crate::types::{KeyspaceId, Seq};

impl<I: Index + 'static> Engine<I> {
    /// The names of all keyspaces that there were at a point, in order.
    ///
    /// # Errors
    /// `Corrupted` if damage may hide some, `Closed`, `Forked`.
    pub(in crate::engine) fn keyspace_names_at(&self, point: Seq) -> Result<Vec<String>> {
        self.check_open()?;
        self.check_catalogue_is_whole()?;
        let mut names = Vec::new();
        self.visit_catalogue_at(point, |_, name| {
            names.push(name.to_owned());
            true
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// The keyspace that had a name at a point; the inner `None` if nothing was written to it yet.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge` (name), `Corrupted` if damage may hide whether there was one, `Closed`, `Forked`.
    pub(in crate::engine) fn find_keyspace_at(
        &self,
        name: &str,
        point: Seq,
    ) -> Result<Option<Option<Arc<Keyspace<I>>>>> {
        check_name(name)?;
        self.check_open()?;
        let mut found = None;
        self.visit_catalogue_at(point, |id, named| {
            found = (named == name).then_some(id);
            found.is_none()
        })?;
        match found {
            // It is registered before anybody gets a handle to write to it.
            Some(id) => Ok(Some(self.keyspaces.get(id))),
            None => self.check_catalogue_is_whole().map(|()| None),
        }
    }

    /// Shows the keyspaces that were there at a point, until `visit` has seen enough.
    fn visit_catalogue_at(&self, point: Seq, mut visit: impl FnMut(KeyspaceId, &str) -> bool) -> Result<()> {
        let Some(catalogue) = self.keyspaces.get(KeyspaceId::CATALOGUE) else { return Ok(()) };
        for id in self.recorded_ids(&catalogue)? {
            let Some(record) = self.value_at(&catalogue, &catalogue_key(id), point)? else { continue };
            let record = KeyspaceRecord::decode(&record).ok_or_else(|| without_record(id))?;
            if !record.is_dropped && !visit(id, &record.name) {
                break;
            }
        }
        Ok(())
    }

    /// The numbers that have a record now, the newest first: where a record of a drop was lost a name has two, and recovery takes
    /// the newest, too. One that a point shows is among them: only those go that nothing in the log named when the store was opened.
    fn recorded_ids(&self, catalogue: &Keyspace<I>) -> Result<Vec<KeyspaceId>> {
        let _guard = epoch::pin();
        let (mut ids, mut unreadable) = (Vec::new(), Ok(()));
        catalogue.index.for_each(|addr| {
            let scratch = Scratch::new();
            let op = self.reader.op(addr, &scratch);
            match op.filter(|op| self.reader.verify(addr, op, CheckSite::EntryOnGet)) {
                Some(op) => ids.extend(catalogue_id(op.key())),
                // Whose record it is nobody knows: it may be of any name.
                None => unreadable = Err(self.unreadable(addr, &scratch)),
            }
        });
        unreadable?;
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.dedup();
        Ok(ids)
    }
}
