//! Reading: index -> entry -> value. No lock, no write to the medium, no call upwards. An entry is verified before any
//! byte of it is returned.

use super::keyspace::{Keyspace, Scope};
use super::{Engine, ValueRef};
use crate::checksum::CheckSite;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{BlobDescriptor, Op, OpKind};
use crate::index::{Index, Key};
use crate::media::guarded::Scratch;
use crate::sync::Arc;
use crate::types::{Addr, MediaRange};
use crate::write_batch::check_key;

impl<I: Index + 'static> Engine<I> {
    /// Finds the newest entry of a key, a tombstone included. The caller holds an epoch guard as long as it uses the entry.
    ///
    /// # Errors
    /// `Corrupted` if an entry that may be the key's does not verify; with guarded reads `Io` if it cannot be read.
    #[inline(always)]
    pub(super) fn find<'a>(
        &'a self,
        space: &Keyspace<I>,
        key: Key<'_>,
        scratch: &'a Scratch,
    ) -> Result<Option<(Addr, Op<'a>)>> {
        let mut damaged = None;
        let found = space.index.get(key, |addr| {
            let op = self.reader.op(addr, scratch);
            let is_the_keys = op.as_ref().is_some_and(|op| op.key() == key.bytes);
            // Another key with the same fingerprint, or this key with rotten bytes: only the checksum can tell.
            let is_checked = self.options.verify_reads || !is_the_keys;
            let is_sound = |op: &Op<'_>| !is_checked || self.reader.verify(addr, op, CheckSite::EntryOnGet);
            if !op.as_ref().is_some_and(is_sound) {
                damaged = Some(addr);
                return None;
            }
            op.filter(|_| is_the_keys).map(|op| (addr, op))
        });
        match (found, damaged) {
            (Some(found), _) => Ok(Some(found)),
            (None, None) => Ok(None),
            (None, Some(addr)) => Err(scratch.failure().unwrap_or_else(|| self.reader.corrupted(addr))),
        }
    }

    /// Finds the newest entry of a key that has a value, and refuses an answer that damage may have made stale.
    #[inline(always)]
    pub(super) fn find_live<'a>(
        &'a self,
        space: &Keyspace<I>,
        key: Key<'_>,
        scratch: &'a Scratch,
    ) -> Result<Option<(Addr, Op<'a>)>> {
        let found = self.find(space, key, scratch)?;
        self.check_damage(space, key, found.as_ref().map(|(addr, op)| (*addr, op)))?;
        Ok(found.filter(|(_, op)| op.kind() != OpKind::Delete))
    }

    /// Copies a value.
    pub fn get(&self, scope: impl Scope<I>, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let copy = |value: Option<&[u8]>| Some(value.map(<[u8]>::to_vec));
        match epoch::here().and_then(|here| self.show_plain(here, scope, key, copy)) {
            Some(value) => Ok(value),
            None => self.get_any(scope, key),
        }
    }

    /// The same of a value of any kind.
    #[inline(never)]
    fn get_any(&self, scope: impl Scope<I>, key: &[u8]) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        self.check_open()?;
        self.counters.get();
        let _guard = epoch::pin();
        let scratch = Scratch::new();
        let space = scope.look(self)?;
        let Some((addr, op)) = self.find_live(&space, space.key(key), &scratch)? else { return Ok(None) };
        self.whole_value(addr, &op).map(Some)
    }

    /// The value of an entry, all of it.
    #[inline]
    pub(super) fn whole_value(&self, addr: Addr, op: &Op<'_>) -> Result<Vec<u8>> {
        if op.kind() == OpKind::Put {
            return Ok(op.value().to_vec());
        }
        let descriptor = self.descriptor(op.value(), addr.offset())?;
        let mut value = Vec::new();
        value.try_reserve_exact(descriptor.len as usize).map_err(|_| out_of_memory(descriptor.len))?;
        for chunk in &descriptor.chunks {
            value.extend_from_slice(self.chunk(chunk, &Scratch::new())?);
        }
        Ok(value)
    }

    /// Copies a value into `buf` and returns its length.
    pub fn get_into(&self, scope: impl Scope<I>, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        match epoch::here().and_then(|here| self.copy_plain(here, scope, key, buf)) {
            Some(len) => Ok(len),
            None => self.get_any_into(scope, key, buf),
        }
    }

    /// The same of a value of any kind.
    #[inline(never)]
    fn get_any_into(&self, scope: impl Scope<I>, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        check_key(key)?;
        self.check_open()?;
        self.counters.get();
        let _guard = epoch::pin();
        let scratch = Scratch::new();
        let space = scope.look(self)?;
        let Some((addr, op)) = self.find_live(&space, space.key(key), &scratch)? else { return Ok(None) };
        if op.kind() == OpKind::Put {
            return copy_value(op.value(), buf).map(Some);
        }
        let descriptor = self.descriptor(op.value(), addr.offset())?;
        self.copy_blob(&descriptor, buf)
    }

    fn copy_blob(&self, descriptor: &BlobDescriptor, buf: &mut [u8]) -> Result<Option<usize>> {
        let needed = descriptor.len as usize;
        if needed > buf.len() {
            return Err(Error::BufferTooSmall { needed, capacity: buf.len() });
        }
        let mut at = 0;
        for chunk in &descriptor.chunks {
            let scratch = Scratch::new();
            let bytes = self.chunk(chunk, &scratch)?;
            buf[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        Ok(Some(needed))
    }

    /// Pins a value; without a copy where it lies in one piece and reads are not guarded.
    pub fn get_pinned(self: &Arc<Self>, scope: impl Scope<I>, key: &[u8]) -> Result<Option<ValueRef>> {
        if self.reader.is_guarded() {
            return self.get(scope, key)?.map(|value| self.pin_copy(value)).transpose();
        }
        check_key(key)?;
        self.check_open()?;
        self.counters.get();
        let _guard = epoch::pin();
        let scratch = Scratch::new();
        let space = scope.look(self)?;
        let Some((addr, op)) = self.find_live(&space, space.key(key), &scratch)? else { return Ok(None) };
        if op.kind() == OpKind::Put {
            let start = addr.offset() + op.footprint_before_value();
            return self.pin(MediaRange::new(start, op.value().len() as u64)).map(Some);
        }
        let descriptor = self.descriptor(op.value(), addr.offset())?;
        for chunk in &descriptor.chunks {
            self.chunk(chunk, &scratch)?;
        }
        if let Some(range) = one_piece(&descriptor) {
            return self.pin(range).map(Some);
        }
        self.pin_copy(self.whole_value(addr, &op)?).map(Some)
    }

    /// True if the key has a value; reads no value bytes beyond the entry.
    pub fn exists(&self, scope: impl Scope<I>, key: &[u8]) -> Result<bool> {
        let is_there = |value: Option<&[u8]>| Some(value.is_some());
        match epoch::here().and_then(|here| self.show_plain(here, scope, key, is_there)) {
            Some(is_there) => Ok(is_there),
            None => self.any_exists(scope, key),
        }
    }

    /// The same of a value of any kind.
    #[inline(never)]
    fn any_exists(&self, scope: impl Scope<I>, key: &[u8]) -> Result<bool> {
        check_key(key)?;
        self.check_open()?;
        self.counters.get();
        let _guard = epoch::pin();
        let space = scope.look(self)?;
        Ok(self.find_live(&space, space.key(key), &Scratch::new())?.is_some())
    }
}

/// Copies a value to the front of `buf` and returns its length.
#[inline(always)]
pub fn copy_value(value: &[u8], buf: &mut [u8]) -> Result<usize> {
    let capacity = buf.len();
    let target = buf.get_mut(..value.len()).ok_or(Error::BufferTooSmall { needed: value.len(), capacity })?;
    target.copy_from_slice(value);
    Ok(value.len())
}

/// The range of a blob whose chunks follow each other without a gap in one segment.
fn one_piece(descriptor: &BlobDescriptor) -> Option<MediaRange> {
    let [chunk] = descriptor.chunks.as_slice() else { return None };
    Some(MediaRange::new(chunk.offset, u64::from(chunk.len)))
}

#[cold]
fn out_of_memory(len: u64) -> Error {
    Error::from_errno(format!("allocate {len} bytes for a value"), libc::ENOMEM)
}
