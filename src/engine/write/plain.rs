//! The short way of a put, for what most are: *plain* ones.
//!
//! Invariants:
//!   - a put is plain only if the general way would do the same with it, whatever it is like: a short value of the default
//!     keyspace, durable at once on a medium whose drain is a fence, no damage anywhere, its log free, with nothing staged and
//!     room in its head
//!   - of what is not plain nothing is decided here, and nothing changed: the general way looks at it from the beginning. The
//!     same goes for the publication: it is plain if it replaces a short put, or nothing; and while a point is open, if what it
//!     replaces has no stamp above the bound that versions had before the look
//!   - one guard is held from the look to the publication, around nothing that waits but for a page that is not there

use super::Engine;
use crate::engine::commit::Written;
use crate::engine::keyspace::Keyspace;
use crate::epoch;
use crate::error::Result;
use crate::format::{Filter, OpKind, PlainPut};
use crate::index::{Index, Key};
use crate::media::durable::Publishable;
use crate::oplog::append::WriteMode;
use crate::oplog::read::MappedEntries;
use crate::space::table::SlotInfo;
use crate::sync::{Work, work};
use crate::types::{Addr, KeyspaceId, Seq};

/// What the look of a put found in an index.
type Seen<'i, I> = crate::index::Seen<<I as Index>::Spot, <I as Index>::Place<'i>>;

/// A look of a put.
pub(in crate::engine) struct Looked<'i, I: Index + 'static> {
    /// What the put's stamp must exceed.
    pub above: Seq,
    /// That of versions, from before the look: what was found then, with a stamp up to this one, may be kept with it whatever was
    /// published since. With a later bound it would be taken for newer than what replaced it.
    bound: Seq,
    seen: Seen<'i, I>,
}

/// An entry that a plain publication replaces: where it is counted, and its bytes there.
type Older<'e> = (&'e SlotInfo, u64);

/// Why a put does not go the short way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPlain {
    /// Somebody writes to its log. To try that twice takes longer than to join those who wait.
    LogBusy,
    /// Something else.
    Other,
}

impl<I: Index + 'static> Engine<I> {
    /// Writes a put if it is plain.
    #[inline(always)]
    pub(super) fn put_plain(
        &self,
        space: &Keyspace<I>,
        key: Key<'_>,
        value: &[u8],
        mode: WriteMode,
    ) -> std::result::Result<Result<()>, NotPlain> {
        let is_short =
            PlainPut::takes(key.bytes.len(), value.len()) && value.len() <= self.inline_value_bytes_max;
        if !is_short || mode != WriteMode::Sync || space.id() != KeyspaceId::DEFAULT || self.has_damage() {
            return Err(NotPlain::Other);
        }
        let entries = self.reader.mapped().ok_or(NotPlain::Other)?;
        let lane = self.committer.plain_lane().ok_or(NotPlain::Other)?;
        let guard = epoch::pin();
        // As early as can be: all that follows, up to the look, is done while the memory comes.
        space.index.prefetch_to_put(key);
        let mut state = self.committer.lock_plain(lane).ok_or(NotPlain::LogBusy)?;
        // Before the floor of stamps is read, and over when what is written is shown.
        let _section = epoch::write_section(self.fork_generation);
        let mut frame = PlainPut::blank();
        frame.encode(key.bytes, value);
        let looked = self.look_to_put(space, key, &entries, &guard);
        let hash = Filter::short_hash(key.hash);
        let placed = self.oplog.append_plain(&mut state, &mut frame, hash, looked.above);
        let placed = match placed.ok_or(NotPlain::Other)? {
            Ok(placed) => placed,
            Err(error) => return Ok(Err(error)),
        };
        drop(state);
        let written = placed.map(|placed| Written::at(&placed, PlainPut::OP_AT, false));
        self.publish_plain((space, key), (&looked, &entries), written.into(), &guard);
        Ok(Ok(()))
    }

    /// As [`Engine::above`].
    #[inline(always)]
    pub(in crate::engine) fn look_to_put<'i>(
        &self,
        space: &'i Keyspace<I>,
        key: Key<'_>,
        entries: &MappedEntries<'_>,
        guard: &'i epoch::Guard,
    ) -> Looked<'i, I> {
        work(Work::Look);
        let bound = self.versions.settled_bound();
        let mut above = Seq::ZERO;
        let seen = space.index.look_to_put(key, guard, |addr| {
            entries.prefetch(addr);
            above = above.max(self.newest_beside(addr));
        });
        Looked { above, bound, seen }
    }

    /// The entry at `known`, if it is a put of this key, and older than `seq` for what its segment says.
    #[inline(always)]
    fn plain_older<'e>(
        &self,
        entries: &MappedEntries<'e>,
        key: Key<'_>,
        known: Addr,
        seq: Seq,
    ) -> Option<Older<'e>> {
        let (put, segment) = entries.put(known)?;
        let is_older = put.key() == key.bytes && self.oplog.newest_seq_of(segment) <= seq;
        is_older.then(|| (segment, put.footprint_bytes()))
    }

    /// Shows the entry to readers in the place that was seen, in the general way if that is not plain.
    #[inline(always)]
    pub(in crate::engine) fn publish_plain(
        &self,
        (space, key): (&Keyspace<I>, Key<'_>),
        (looked, entries): (&Looked<'_, I>, &MappedEntries<'_>),
        written: Publishable<Written>,
        guard: &epoch::Guard,
    ) {
        let (new, seen) = (*written.get(), &looked.seen);
        self.oplog.settle_stamp(new.seq);
        // Before the index is read again, if it has to be.
        let settled = self.versions.settled_bound();
        // Behind the lock's end and the fence: these wait for the lines to leave the CPU, and this for memory.
        let older = seen.known.and_then(|known| self.plain_older(entries, key, known, new.seq));
        let is_kept = || match (seen.known, &older) {
            (Some(known), Some((_, bytes))) if self.versions.are_needed() => {
                self.keep_put_if_needed(key.hash, (known, *bytes), new.seq, looked.bound)
            }
            _ => true,
        };
        let is_plain = seen.known.is_some() == older.is_some() && is_kept();
        let at = written.as_ref().map(|written| written.addr);
        if !is_plain || space.index.publish_seen(seen, at).is_err() {
            return self.show(space, seen.spot, (OpKind::Put, key), written, settled, guard);
        }
        work(Work::Publish);
        if let Some((segment, bytes)) = older {
            segment.add_dead(bytes);
        }
    }
}
