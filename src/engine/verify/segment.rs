//! One segment: its header, state word, digest or footer, filter, frames and entries, and what its account says.

use super::super::Engine;
use super::report::{Finding, Verification};
use crate::checksum::CheckSite;
use crate::constants::SECTOR_BYTES;
use crate::epoch;
use crate::error::Result;
use crate::format::{
    CommitRecord, Digest, FOOTER_BYTES, FRAME_HEADER_BYTES, Filter, Footer, FrameHeader, FrameKind, Op,
    OpKind, Ops, SEGMENT_BODY_OFFSET, STATE_WORD_OFFSET, SegmentClass, SegmentHeader, SegmentState,
    StateWord, align_up,
};
use crate::index::Index;
use crate::oplog::scan::{Piece, SegmentBytes};
use crate::space::table::{SlotInfo, SlotState};
use crate::types::{Addr, MediaRange, SegmentId, SegmentSlot};

/// What a segment held when it was scanned.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) id: u64,
    pub(super) frames: u64,
    pub(super) entries: u64,
    pub(super) live_entries: u64,
    pub(super) log_bytes: u64,
    pub(super) live_bytes: u64,
    pub(super) tombstone_bytes: u64,
    pub(super) chunks: u64,
    /// Where the values of its live entries lie.
    pub(super) extents: Vec<MediaRange>,
    /// Where the scan ended.
    pub(super) end: u32,
    /// Not all of it verifies: what it holds is not known.
    pub(super) is_damaged: bool,
}

/// A segment at one moment, and its account then.
#[derive(Clone, Copy)]
struct Account {
    slot: SegmentSlot,
    id: SegmentId,
    class: SegmentClass,
    state: SlotState,
    entries: u32,
    op_bytes: u64,
    dead_bytes: u64,
    end: u32,
}

/// A segment under scan.
struct Scan<'a> {
    account: Account,
    bytes: SegmentBytes<'a>,
    filter: Option<Filter>,
    tally: Tally,
    report: &'a mut Verification,
}

impl Account {
    fn of(slot: SegmentSlot, info: &SlotInfo) -> Option<Account> {
        Some(Account {
            slot,
            id: info.id(),
            class: info.class()?,
            state: info.state(),
            entries: info.entries(),
            op_bytes: info.op_bytes(),
            dead_bytes: info.dead_bytes(),
            end: info.data_end(),
        })
    }
}

impl Scan<'_> {
    fn find(&mut self, what: &'static str, at: u64, expected: u64, found: u64) {
        self.tally.is_damaged = true;
        let (segment, offset) = (self.account.id.0, self.bytes.base + at);
        self.report.add(Finding { what, segment, offset, expected, found });
    }
}

impl<I: Index + 'static> Engine<I> {
    /// The slot's account, at a moment when nothing is half appended.
    fn account(&self, slot: SegmentSlot) -> Option<Account> {
        let info = self.space.table().slot(slot);
        let is_head = info.class() == Some(SegmentClass::LogHead) && info.state() == SlotState::Active;
        let log = usize::from(info.log().0);
        let _appending = (is_head && log < self.oplog.log_count()).then(|| self.oplog.lock(log));
        // A releasable segment holds nothing that counts.
        let is_in_use = !matches!(info.state(), SlotState::Free | SlotState::Releasable);
        is_in_use.then(|| Account::of(slot, info)).flatten()
    }

    /// True if the slot holds no more and no less than when it was scanned.
    pub(super) fn is_as_seen(&self, slot: SegmentSlot, seen: &Tally) -> bool {
        self.account(slot).is_some_and(|now| seen.id == now.id.0 && seen.end == now.end)
    }

    /// Scans a segment, with cleaning held up. `None` if there is nothing in use.
    ///
    /// # Errors
    /// Of the medium, but `Io`: what cannot be read is a finding.
    pub(super) fn verify_segment(
        &self,
        slot: SegmentSlot,
        report: &mut Verification,
    ) -> Result<Option<Tally>> {
        let Some(account) = self.account(slot) else { return Ok(None) };
        // What was appended is in the index now.
        self.wait_for_publications();
        let base = self.space.geometry().offset_of(slot);
        let seed = self.space.table().slot(slot).seed();
        let tally = Tally { id: account.id.0, end: account.end, ..Tally::default() };
        let read = match account.class {
            SegmentClass::Extent => self.read_header(base)?.map(Some),
            _ => self.read_segment(slot)?,
        };
        let Some(read) = read else {
            report.add(Finding {
                what: "segment that can be read",
                segment: account.id.0,
                offset: base,
                expected: 0,
                found: 0,
            });
            return Ok(Some(Tally { is_damaged: true, ..tally }));
        };
        let bytes = SegmentBytes::new(self.slot_bytes(slot, &read), base, seed);
        let mut scan = Scan { account, bytes, filter: None, tally, report };
        self.check_header(&mut scan);
        if account.class != SegmentClass::Extent {
            if let Some((start, end)) = self.check_ends(&mut scan) {
                self.check_frames(&mut scan, start, end)?;
            }
            self.check_account(&mut scan);
        }
        Ok(Some(scan.tally))
    }

    /// The start of an extent segment: all of it that is no value.
    fn read_header(&self, base: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; SEGMENT_BODY_OFFSET as usize];
        match self.media.read(base, &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(crate::error::Error::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn check_header(&self, scan: &mut Scan<'_>) {
        let Account { slot, id, class, state, .. } = scan.account;
        let header = SegmentHeader::decode(scan.bytes.bytes, self.space.uuid(), slot);
        match header {
            None => scan.find("segment header checksum", 0, 0, 0),
            Some(header) if header.id != id => scan.find("segment id", 0, id.0, header.id.0),
            Some(header) if header.class != class => {
                scan.find("segment class", 0, class as u64, header.class as u64);
            }
            Some(_) => {}
        }
        let found = StateWord::in_segment(scan.bytes.bytes);
        let expected = match state {
            SlotState::Active => SegmentState::Active,
            SlotState::Sealed => SegmentState::Sealed,
            _ => SegmentState::Open,
        };
        // A head may have been sealed since its account was read.
        let is_right = |word: StateWord| word.state == expected || word.state == SegmentState::Sealed;
        if !StateWord::decode(found).is_some_and(|word| word.belongs_to(id) && is_right(word)) {
            let expected = StateWord::new(expected, id).encode();
            scan.find("segment state word", STATE_WORD_OFFSET, expected, found);
        }
    }

    /// Where the frames lie; the digest before them, and the footer and the filter behind them.
    fn check_ends(&self, scan: &mut Scan<'_>) -> Option<(u32, u32)> {
        let mut start = SEGMENT_BODY_OFFSET as u32;
        if scan.account.class == SegmentClass::LogHead {
            let body = &scan.bytes.bytes[SEGMENT_BODY_OFFSET as usize..];
            match Digest::decode(body, scan.bytes.seed, scan.bytes.base + SEGMENT_BODY_OFFSET) {
                Some((_, len)) => start = align_up(SEGMENT_BODY_OFFSET + len, SECTOR_BYTES) as u32,
                None => {
                    scan.find("digest checksum", SEGMENT_BODY_OFFSET, 0, 0);
                    start = self.sealed_range(scan.account.slot, scan.bytes.bytes)?.0;
                }
            }
        }
        if scan.account.state != SlotState::Sealed {
            return Some((start, scan.account.end.max(start)));
        }
        let at = scan.bytes.bytes.len() - FOOTER_BYTES as usize;
        let footer = Footer::decode(&scan.bytes.bytes[at..], scan.bytes.seed, scan.bytes.base + at as u64);
        let Some(footer) = footer.filter(|footer| footer.segment == scan.account.id) else {
            scan.find("footer checksum", at as u64, 0, 0);
            return Some((start, scan.account.end.max(start)));
        };
        self.check_filter(scan, &footer);
        let end = footer.data_end;
        if footer.data_start != start || end as usize > at || end != scan.account.end.max(start) {
            scan.find("range of frames in the footer", at as u64, scan.account.end.into(), end.into());
            return None;
        }
        Some((start, end))
    }

    fn check_filter(&self, scan: &mut Scan<'_>, footer: &Footer) {
        if footer.filter_at == 0 {
            return;
        }
        let (at, len) = (footer.filter_at as usize, footer.filter_len as usize);
        let bytes = at.checked_add(len).and_then(|end| scan.bytes.bytes.get(at..end));
        let offset = scan.bytes.base + at as u64;
        match bytes.filter(|bytes| Filter::verify(bytes, footer, scan.bytes.seed, offset)) {
            Some(bytes) => scan.filter = Some(Filter::from_bytes(bytes.to_vec())),
            None => scan.find("filter checksum", at as u64, 0, 0),
        }
    }

    fn check_frames(&self, scan: &mut Scan<'_>, start: u32, end: u32) -> Result<()> {
        let mut result = Ok(());
        let bytes = SegmentBytes::new(scan.bytes.bytes, scan.bytes.base, scan.bytes.seed);
        bytes.walk(start, end, |piece| match piece {
            Piece::Frame { at, header, frame } => {
                scan.tally.frames += 1;
                if result.is_ok() {
                    result = self.check_frame(scan, at, &header, frame);
                }
            }
            Piece::Repaired { at, .. } => scan.find("frame checksum, one bit flipped", at.into(), 0, 0),
            // A crash may leave half a mark, and the other of a pair: no data, and no proof that is missed.
            Piece::Damage { header: Some(header), .. }
                if matches!(header.kind, FrameKind::Mark | FrameKind::Close) => {}
            Piece::Damage { at, end, .. } => {
                scan.find("frame checksum, bytes lost", at.into(), 0, (end - at).into());
            }
        });
        result
    }

    fn check_frame(&self, scan: &mut Scan<'_>, at: u32, header: &FrameHeader, frame: &[u8]) -> Result<()> {
        match header.kind {
            FrameKind::Mark | FrameKind::Close => return Ok(()),
            FrameKind::BatchCommit => {
                if CommitRecord::decode(&frame[FRAME_HEADER_BYTES..]).is_none() {
                    scan.find("commit record of a batch", at.into(), 0, 0);
                }
                return Ok(());
            }
            FrameKind::Ops | FrameKind::Batch | FrameKind::BatchPart | FrameKind::Survivor => {}
        }
        let mut seen = 0;
        for (op_at, op) in Ops::new(frame, header) {
            seen += 1;
            self.check_entry(scan, at + op_at, &op)?;
        }
        if seen != header.op_count {
            scan.find("entries in a frame", at.into(), header.op_count.into(), seen.into());
        }
        Ok(())
    }

    fn check_entry(&self, scan: &mut Scan<'_>, at: u32, op: &Op<'_>) -> Result<()> {
        let offset = scan.bytes.base + u64::from(at);
        if !op.verify(CheckSite::EntryOnScan, scan.bytes.seed, offset) {
            scan.find("entry checksum", at.into(), 0, 0);
        }
        let (keyspace, key) = (op.keyspace(), self.key_of(op));
        if scan.filter.as_ref().is_some_and(|filter| !filter.may_contain(Filter::short_hash(key.hash))) {
            scan.find("key in the segment's filter", at.into(), 0, 0);
        }
        let here = Addr::from_offset(offset);
        let bytes = op.footprint_bytes();
        scan.tally.entries += 1;
        scan.tally.log_bytes += bytes;
        if !self.leads_to(keyspace, key, here, &epoch::pin()) {
            return Ok(());
        }
        scan.tally.live_entries += 1;
        scan.tally.live_bytes += bytes;
        match op.kind() {
            OpKind::Put => Ok(()),
            OpKind::Delete => {
                scan.tally.tombstone_bytes += bytes;
                Ok(())
            }
            OpKind::PutBlob => {
                self.verify_blob((keyspace, key), here, op.value(), &mut scan.tally, scan.report)
            }
        }
    }

    /// The account that was read before the scan, and what changed since: entries only ever die.
    fn check_account(&self, scan: &mut Scan<'_>) {
        if scan.tally.is_damaged || self.oplog.check_poison().is_err() {
            return;
        }
        let (account, tally) = (scan.account, &scan.tally);
        let id = account.id.0;
        scan.report.compare("entries of a segment", id, tally.entries, account.entries.into());
        scan.report.compare("log bytes of a segment", id, tally.log_bytes, account.op_bytes);
        let dead = tally.log_bytes - tally.live_bytes;
        // Whoever took an entry out of the index counts it before its write ends.
        self.wait_for_publications();
        let dead_now = self.space.table().slot(account.slot).dead_bytes();
        if dead < account.dead_bytes || dead > dead_now {
            scan.report.compare("dead bytes of a segment", id, dead, dead_now);
        }
    }
}
