//! Which of two entries of a key is the newer one: the one with the later stamp, whoever publishes first.

use super::Engine;
use super::commit::Written;
use crate::format::Op;
use crate::index::{Candidate, Index, Key};
use crate::media::guarded::Scratch;
use crate::types::{Addr, Seq};

impl<I: Index + 'static> Engine<I> {
    /// No entry of the segment that holds `addr` has a later stamp.
    #[inline]
    pub(super) fn newest_beside(&self, addr: Addr) -> Seq {
        self.oplog.newest_seq_in(self.space.geometry().slot_of_addr(addr))
    }

    /// Whether a known entry of a key is older than a new one. The older one of them is kept if a point shows it. `settled` is
    /// the bound of before the known one was found.
    #[inline]
    pub(super) fn judge_and_keep(
        &self,
        hash: u64,
        (known, op): (Addr, &Op<'_>),
        new: Written,
        settled: Seq,
    ) -> Candidate {
        let is_asked = self.versions.are_needed();
        // Most are in a segment of which the new entry has the newest stamp: then the frame's header is not looked at.
        // The one other entry with its stamp could be a move of it, which nobody can make before it is published.
        let is_older = self.newest_beside(known) <= new.seq;
        if is_older && !is_asked {
            return Candidate::Older;
        }
        let (candidate, seq) = if is_older && self.was_there(known, settled) {
            // Visible at every point, and so it is with this stamp, which no other version of the key has.
            (Candidate::Older, settled)
        } else {
            self.compare(known, op, (new.seq, new.frame_seq, new.addr))
        };
        if is_asked {
            self.keep_if_needed(hash, candidate, (known, op, seq), (new.addr, new.seq));
        }
        candidate
    }

    #[inline]
    pub(super) fn judge(&self, key: Key<'_>, known: Addr, new: (Seq, Seq, Addr)) -> Candidate {
        let scratch = Scratch::new();
        match self.reader.op(known, &scratch).filter(|op| op.key() == key.bytes) {
            Some(op) => self.compare(known, &op, new).0,
            None => Candidate::OtherKey,
        }
    }

    /// Which of two entries of a key is the newer one, and the stamp of the known one.
    #[inline]
    fn compare(&self, known: Addr, op: &Op<'_>, new: (Seq, Seq, Addr)) -> (Candidate, Seq) {
        match self.reader.order(known, op) {
            Some((seq, frame_seq)) if (seq, frame_seq, known) > new => (Candidate::Newer, seq),
            order => (Candidate::Older, order.map_or(Seq::ZERO, |(seq, _)| seq)),
        }
    }
}
