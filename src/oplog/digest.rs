//! What a new head says about the store: the digest, and the roll that makes it count.

use super::OpLog;
use super::append::{Head, LogState};
use crate::constants::SECTOR_BYTES;
use crate::error::{Error, Result};
use crate::format::{
    Digest, DigestEntry, FOOTER_BYTES, Filter, Footer, SEGMENT_BODY_OFFSET, SegmentClass, SegmentHeader,
    SegmentState, align_up, filter_len,
};
use crate::media::Site;
use crate::media::durable::InFlight;
use crate::space::Purpose;
use crate::space::table::SlotState;
use crate::sync::Ordering;
use crate::types::{LogId, SegmentId, SegmentSlot};

impl OpLog {
    /// Every segment of the store that a digest has to list, the `new` head included: not those that are releasable, nor
    /// those in `leave_out`.
    fn listing(&self, new: DigestEntry, leave_out: &[SegmentSlot]) -> Vec<DigestEntry> {
        let table = self.space.table();
        debug_assert!(new.slot.0 < self.space.slot_count(), "slots are known before they can be taken");
        (0..self.space.slot_count())
            .map(SegmentSlot)
            .filter(|slot| !leave_out.contains(slot))
            .filter_map(|slot| {
                if slot == new.slot {
                    return Some(new);
                }
                let info = table.slot(slot);
                let state = info.state();
                (!matches!(state, SlotState::Free | SlotState::Releasable)).then(|| DigestEntry {
                    slot,
                    id: info.id(),
                    sealed: state == SlotState::Sealed,
                })
            })
            .collect()
    }

    /// Opens a new head for a log in a free `slot`: steps (a) and (b) of rule 6, under the roll lock. The log then has two
    /// active heads until the caller seals the old one. Also the number of the digest in it.
    ///
    /// # Errors
    /// `Unsupported`: the digest no longer fits, nothing was changed. Others leave the medium unknown.
    fn open_head(
        &self,
        state: &LogState,
        slot: SegmentSlot,
        leave_out: &[SegmentSlot],
    ) -> Result<(Head, u64)> {
        let mut identities = self.space.identities();
        let (id, number) = match identities.next_numbers() {
            Ok(next) => next,
            Err(error) => {
                drop(identities);
                self.space.return_slot(slot);
                return Err(error);
            }
        };
        let digest = Digest {
            number,
            next_id: SegmentId(id.0 + 1),
            live_entries: self.live_entries.load(Ordering::Relaxed),
            entries: self.listing(DigestEntry { slot, id, sealed: false }, leave_out),
        };
        let seed = crate::checksum::SegmentSeed::new(self.space.uuid(), id);
        let geometry = self.space.geometry();
        let body = digest.encode(seed, geometry.offset_of(slot) + SEGMENT_BODY_OFFSET);
        if body.len() as u64 > Digest::bytes_max(geometry.segment_size_bytes) {
            drop(identities);
            self.space.return_slot(slot);
            return Err(Error::Unsupported(format!(
                "{} segments of {} bytes: their list no longer fits a log head; use larger segments",
                digest.entries.len(),
                geometry.segment_size_bytes
            )));
        }
        // Nothing in an earlier head of the log is newer, also if recovery found it there.
        let creation_seq = state.last_seq().max(self.floor());
        let header = SegmentHeader { id, slot, log: state.id(), class: SegmentClass::LogHead, creation_seq };
        identities.give(id, number);
        let durable = self.space.write_header(&header, &body)?.drain(self.media(), Site::HeadDrain)?;
        self.space
            .activate(durable, SegmentState::Active, Site::ActiveFlush, Site::ActiveDrain)?
            .into_inner();
        self.space.enter(&header, SlotState::Active);
        let start = align_up(SEGMENT_BODY_OFFSET + body.len() as u64, SECTOR_BYTES) as u32;
        Ok((Head::empty(self, slot, id, start), number))
    }

    /// Seals a head at its tail: filter and footer durable, then state SEALED durable. Its data must be durable, or in flight on this thread.
    ///
    /// # Errors
    /// `Io`: the caller poisons.
    pub(super) fn seal(&self, head: &Head) -> Result<()> {
        let (slot, id) = (head.slot(), head.id());
        let seed = self.space.table().slot(slot).seed();
        let base = self.space.geometry().offset_of(slot);
        let segment_size = self.space.geometry().segment_size_bytes;
        let footer_at = segment_size - FOOTER_BYTES;
        // The appender keeps room for the filter; a head that somebody forged need not have it.
        let fits = u64::from(head.tail()) + filter_len(head.hashes().len() as u64) <= footer_at;
        // A filter that lacks the keys of damaged entries would let older values of theirs pass for the newest.
        let has_filter = fits && !head.is_damaged();
        let filter = Filter::build(if has_filter { head.hashes() } else { &[] });
        let filter_at = if has_filter { u64::from(head.tail()) } else { 0 };
        let footer = Footer {
            segment: id,
            entry_count: head.hashes().len() as u64,
            min_seq: head.min_seq(),
            max_seq: head.max_seq(),
            data_start: head.start(),
            data_end: head.tail(),
            filter_at: filter_at as u32,
            filter_len: filter.bytes().len() as u32,
            filter_checksum: Filter::checksum(filter.bytes(), seed, base + filter_at),
        };
        let media = self.media();
        let footer_bytes = footer.encode(seed, base + footer_at);
        let mut written = InFlight::write_through(media, base + footer_at, &footer_bytes, ())?;
        if !filter.bytes().is_empty() {
            let filter = InFlight::write_through(media, base + filter_at, filter.bytes(), ())?;
            written = written.and(filter).map(|_| ());
        }
        written.drain(media, Site::FooterDrain)?.into_inner();
        self.space
            .set_state(slot, id, SegmentState::Sealed, Site::SealFlush)?
            .drain(media, Site::SealDrain)?
            .into_inner();
        self.space.table().slot(slot).set_sealed();
        Ok(())
    }

    /// Rolls a log: new head active, old head drained and sealed. On return the log has one active head again.
    ///
    /// # Errors
    /// `NoSpace`, `Unsupported`, `Io` from a growth that failed: nothing was changed. Any other error poisons the log.
    pub(super) fn roll(&self, state: &mut LogState, purpose: Purpose) -> Result<()> {
        let slot = match state.spare.take() {
            Some(slot) => slot,
            None => self.space.take_slot(purpose)?,
        };
        let (mut new, digest) = match self.open_head(state, slot, &[]) {
            Ok(opened) => opened,
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => return Err(self.poison_with(error)),
        };
        // One drain for the data and the footer behind it: neither counts before the state word does.
        let result = self.flush_all(state).and_then(|()| match state.head() {
            Some(old) => self.seal(old),
            None => Ok(()),
        });
        if let Err(error) = result {
            return Err(self.poison_with(error));
        }
        self.all_durable(state);
        if !state.has_backed_head() {
            new.mark_unbacked();
        }
        state.replace_head(new);
        self.ruling_digest.fetch_max(digest, Ordering::AcqRel);
        self.rolls.fetch_add(1, Ordering::Relaxed);
        if let Some(notify) = self.on_roll.get() {
            notify();
        }
        Ok(())
    }

    /// The log whose head is fullest.
    fn fullest_log(&self) -> usize {
        let tail = |log: &usize| self.lock(*log).head().map_or(0, Head::tail);
        (0..self.log_count()).max_by_key(tail).expect("a store has a log")
    }

    /// What a roll for the sake of the digest takes, about: a segment, but for what the old head holds.
    pub fn cost_of_roll(&self) -> u64 {
        let filled =
            self.lock(self.fullest_log()).head().map_or(0, |head| u64::from(head.tail() - head.start()));
        self.space.geometry().segment_size_bytes - filled
    }

    /// Rolls the log whose head is fullest, for the sake of the digest: what is releasable is then left out. Nothing is
    /// done, and the answer is false, if the digest of another roll did that since `listed_by`.
    ///
    /// # Errors
    /// As [`OpLog::place`].
    pub fn roll_for_digest(&self, listed_by: u64) -> Result<bool> {
        self.check_poison()?;
        let mut state = self.lock(self.fullest_log());
        if self.ruling_digest() > listed_by || state.is_closed() {
            return Ok(false);
        }
        self.roll(&mut state, Purpose::Roll)?;
        // The slot came out of the reserve: it is not for puts that the pool has no room for.
        state.back_before_use(&self.space);
        Ok(true)
    }

    /// Ends the head of a log that nobody writes to: it keeps what is wanted elsewhere. False if there is no slot for another.
    ///
    /// # Errors
    /// As [`OpLog::place`].
    pub fn roll_idle(&self, state: &mut LogState) -> Result<bool> {
        self.check_poison()?;
        if state.is_closed() {
            return Ok(false);
        }
        match self.roll(state, Purpose::Roll) {
            Ok(()) => state.back_before_use(&self.space),
            Err(Error::NoSpace { .. } | Error::Unsupported(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Recovery: gives log `log` a new head and ends its old one at its cut. An old head without entries or commits is left out of
    /// the digest and freed, so that opening and dying over and over uses no space.
    ///
    /// # Errors
    /// `NoSpace`: the pool has no slot for the new head. `Io`.
    pub fn roll_recovered(&self, log: LogId, old: Option<Head>) -> Result<()> {
        let mut state = self.lock(log.0 as usize);
        let empty: Vec<SegmentSlot> = old
            .iter()
            .filter(|head| head.hashes().is_empty() && !head.is_indispensable())
            .map(Head::slot)
            .collect();
        let slot = self.space.take_slot(Purpose::Internal)?;
        let (mut new, digest) = self.open_head(&state, slot, &empty)?;
        if let Some(old) = old {
            new.mark_unbacked();
            if empty.is_empty() {
                self.seal(&old)?;
            } else {
                self.space
                    .set_state(old.slot(), old.id(), SegmentState::Free, Site::FreeFlush)?
                    .drain(self.media(), Site::FreeDrain)?
                    .into_inner();
                self.space.return_slot(old.slot());
            }
        }
        state.replace_head(new);
        self.ruling_digest.fetch_max(digest, Ordering::AcqRel);
        Ok(())
    }

    /// Recovery: ends a head that holds nothing that counts, so that its log has one active head again.
    ///
    /// # Errors
    /// `Io`.
    pub fn seal_recovered(&self, head: &Head) -> Result<()> {
        self.seal(head)
    }
}
