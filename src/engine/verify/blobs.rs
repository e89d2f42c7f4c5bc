//! Large values: each piece lies in extents of its own, and its bytes are what was written.

use super::super::Engine;
use super::report::{Finding, Verification};
use super::segment::Tally;
use crate::checksum::{CheckSite, verify};
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{BlobDescriptor, Chunk};
use crate::index::{Index, Key};
use crate::media::FlushGranularity;
use crate::types::{Addr, KeyspaceId, MediaRange};

impl<I: Index + 'static> Engine<I> {
    /// True if the keyspace's index leads from the key to this place; as long as `_guard` lives its extents are not reused.
    pub(in crate::engine) fn leads_to(
        &self,
        keyspace: KeyspaceId,
        key: Key<'_>,
        here: Addr,
        _guard: &epoch::Guard,
    ) -> bool {
        let is_here = |addr| (addr == here).then_some(());
        self.keyspace(keyspace).is_some_and(|space| space.index.get(key, is_here).is_some())
    }

    /// Checks the pieces of the value that the live entry at `at` names.
    ///
    /// # Errors
    /// Of the medium, but `Io`: what cannot be read is a finding.
    pub(super) fn verify_blob(
        &self,
        (keyspace, key): (KeyspaceId, Key<'_>),
        at: Addr,
        descriptor: &[u8],
        tally: &mut Tally,
        report: &mut Verification,
    ) -> Result<()> {
        let mut find = |what, offset, expected, found| {
            report.add(Finding { what, segment: tally.id, offset, expected, found });
        };
        let Some(descriptor) = BlobDescriptor::decode(descriptor) else {
            find("blob descriptor", at.offset(), 0, 0);
            return Ok(());
        };
        let mut buffer = Vec::new();
        for chunk in &descriptor.chunks {
            // A guard for each piece: reading a large value may take its time.
            let guard = epoch::pin();
            if !self.leads_to(keyspace, key, at, &guard) {
                return Ok(());
            }
            let range = MediaRange::new(chunk.offset, u64::from(chunk.len));
            tally.extents.push(range);
            tally.chunks += 1;
            if !self.extents.is_taken(range) {
                find("extent in use", chunk.offset, chunk.len.into(), 0);
                continue;
            }
            let seed = self.space.table().slot(self.space.geometry().slot_of(chunk.offset)).seed();
            let Some(bytes) = self.bytes_for_verify(range, &mut buffer)? else {
                find("blob chunk that can be read", chunk.offset, chunk.len.into(), 0);
                continue;
            };
            let computed = Chunk::crc(bytes, seed, chunk.offset);
            if !verify(CheckSite::BlobChunk, chunk.crc, computed) {
                find("blob chunk checksum", chunk.offset, chunk.crc.into(), computed.into());
            }
        }
        Ok(())
    }

    /// Bytes of the mapping, or read where a bad sector under a mapping would be a signal.
    pub(in crate::engine) fn bytes_for_verify<'a>(
        &'a self,
        range: MediaRange,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        if self.media.granularity() == FlushGranularity::CacheLine && !self.reader.is_guarded() {
            return Ok(self.media.region().bytes(range));
        }
        buffer.resize(range.len as usize, 0);
        match self.media.read(range.offset, buffer) {
            Ok(()) => Ok(Some(buffer)),
            Err(Error::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
