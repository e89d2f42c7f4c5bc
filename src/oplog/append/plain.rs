//! The short way of an append, for a frame of one short put that is made durable at once.
//!
//! Invariant: a put is *plain* only if the general way would change nothing of the log but append it; of others nothing is
//! decided here, and nothing changed.

use super::{LogState, OpLog, Placed, check_stamp};
use crate::constants::CACHE_LINE_BYTES;
use crate::error::Result;
use crate::format::{PlainPut, frame_checksum};
use crate::media::Site;
use crate::media::durable::{Durable, InFlight};
use crate::types::Seq;

impl OpLog {
    /// Appends a put and makes it durable; its stamp exceeds `above`. `None` if it is not plain. Only where appends align to
    /// lines of the cache.
    ///
    /// # Errors
    /// `Io`: the store is poisoned.
    #[inline(always)]
    pub fn append_plain(
        &self,
        state: &mut LogState,
        frame: &mut PlainPut,
        hash: u32,
        above: Seq,
    ) -> Option<Result<Durable<Placed>>> {
        debug_assert_eq!(self.align_bytes, CACHE_LINE_BYTES, "a frame ends where the next one may begin");
        let base_seq = self.next_seq(state, above);
        let head = state.head.as_ref().filter(|head| {
            !head.unbacked && head.durable_end == head.tail && head.fits(self, frame.len_bytes(), 1)
        })?;
        if state.closed || check_stamp(base_seq).is_err() || self.check_poison().is_err() {
            return None;
        }
        let info = self.space.table().slot(head.slot);
        let (offset, op_bytes) = (head.base + u64::from(head.tail), frame.op_bytes());
        let bytes = frame.finish(info.seed(), offset, base_seq, head.durable_end);
        let (segment, checksum, len) = (head.id, frame_checksum(bytes), bytes.len() as u64);
        let placed = Placed { offset, base_seq, segment, checksum, len };
        let written = match InFlight::write_through(&*self.media, offset, bytes, placed) {
            Ok(written) => written,
            Err(error) => return Some(Err(self.poison_with(error))),
        };
        self.note_frame(state, &placed, (1, op_bytes), base_seq, &[hash]);
        match written.drain(&*self.media, Site::FrameDrain) {
            Ok(durable) => {
                self.all_durable(state);
                Some(Ok(durable))
            }
            Err(error) => Some(Err(self.poison_with(error))),
        }
    }
}
