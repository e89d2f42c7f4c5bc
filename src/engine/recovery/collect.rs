//! Reading the log into the index: heads to their cut, sealed segments to their end, in parallel.

use super::super::damage::Damage;
use super::super::{Engine, INDEX_ROOM_KEY_BYTES, OPEN_INDEX_ROOM_KEYS, no_index_room};
use super::ends::LastClose;
use super::pages::{Unreadable, read_what_can_be_read};
use super::survey::{Member, Survey};
use crate::checksum::CheckSite;
use crate::constants::{CACHE_LINE_BYTES, ENTRY_ALIGN_BYTES, LOG_ID_BITS, SECTOR_BYTES};
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{
    BlobDescriptor, CommitRecord, Digest, FOOTER_BYTES, FRAME_HEADER_BYTES, Filter, Footer, FrameHeader,
    FrameKind, Op, OpKind, Ops, SEGMENT_BODY_OFFSET, SegmentClass, SegmentHeader, SegmentState, align_up,
};
use crate::index::{Index, Key, Upsert};
use crate::media::FlushGranularity;
use crate::media::durable::{Dirty, Durable, Publishable};
use crate::media::guarded::Scratch;
use crate::oplog::scan::{Piece, SegmentBytes, Tail};
use crate::panics;
use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::types::{Addr, KeyspaceId, LogId, MediaRange, SegmentId, SegmentSlot, Seq};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Entries whose index memory is asked for together, so that the misses of the index's upper levels overlap, too; they
/// are inserted when the next group has been asked for.
const GROUP: usize = 32;

/// An active head as found.
pub struct HeadFacts {
    pub slot: SegmentSlot,
    pub id: SegmentId,
    pub log: LogId,
    pub start: u32,
    pub cut: u32,
    pub closed: bool,
    pub has_damage: bool,
    /// A batch that is larger than a frame ends here: without this head it never was.
    pub has_commit: bool,
    /// No frame lies anywhere in it.
    pub is_empty: bool,
    /// It is the larger of two and what lies in it does not count.
    pub is_void: bool,
    pub hashes: Vec<u32>,
    pub min_seq: Seq,
    pub max_seq: Seq,
}

/// What the scan found, besides the index.
#[derive(Default)]
pub struct Collected {
    pub entries: u64,
    pub max_seq: Seq,
    pub heads: BTreeMap<SegmentSlot, HeadFacts>,
    /// Survivor segments that were being filled.
    pub survivors: Vec<HeadFacts>,
    /// Bytes that have to be made durable again.
    pub unvouched: Vec<MediaRange>,
    /// Frames in which a flipped bit was undone.
    pub repaired: u64,
    /// What has to be written so that the medium shows them.
    repairs: Vec<(u64, Vec<u8>)>,
    /// Entries of such frames: they can be read once that is done.
    deferred: Vec<Pending>,
    damage: Vec<Lost>,
    /// Why an entry is not in the index.
    failure: Option<Error>,
    blobs: Vec<BlobSeen>,
    /// By batch: its stamp names its log, too, so it is the same in a survivor segment.
    parts: HashMap<Seq, Vec<PartSeen>>,
    /// A commit that was moved may be there twice.
    commits: BTreeMap<Seq, (CommitRecord, MediaRange)>,
    /// Those that any entry names, dead ones included.
    keyspaces: BTreeSet<KeyspaceId>,
}

/// A damaged range; no bound if nothing tells how new its entries may have been.
struct Lost {
    segment: SegmentId,
    range: MediaRange,
    bound: Option<Seq>,
    filter: Option<Filter>,
}

struct BlobSeen {
    addr: Addr,
    unvouched: bool,
}

struct PartSeen {
    segment: SegmentId,
    offset: u64,
    header: FrameHeader,
    unvouched: bool,
}

/// An entry on its way into the index.
struct Pending {
    keyspace: KeyspaceId,
    hash: u64,
    addr: Addr,
    seq: Seq,
    frame_seq: Seq,
    bytes: u32,
}

/// Where the frames of one segment lie.
struct Extent {
    member: Member,
    start: u32,
    end: u32,
    head: Option<Tail>,
    filter: Option<Filter>,
    /// No entry has a stamp above this; sealed segments only.
    max_seq: Option<Seq>,
    /// The segment was sealed and its footer is gone: frames may have been lost from `end` up to here.
    sealed_to: Option<u32>,
    is_empty: bool,
    is_void: bool,
}

/// One worker's share.
#[derive(Default)]
struct Share {
    found: Collected,
    pending: VecDeque<Pending>,
    /// Entries, bytes and order of the segment at work.
    entries: u32,
    op_bytes: u64,
    tombstone_bytes: u64,
    hashes: Vec<u32>,
    min_seq: Option<Seq>,
    segment_max_seq: Seq,
    has_commit: bool,
    keep_hashes: bool,
    /// The frame at work is not on the medium as it should be.
    is_repaired: bool,
}

impl<I: Index + 'static> Engine<I> {
    /// Reads all log segments into the index and everything else into the answer.
    pub(super) fn collect(&self, survey: &Survey, last_close: LastClose) -> Result<Collected> {
        let members: Vec<&Member> =
            survey.members.values().filter(|m| m.header.class != SegmentClass::Extent).collect();
        let workers = if self.options.background {
            std::thread::available_parallelism().map_or(1, |n| n.get()).min(members.len()).max(1)
        } else {
            1
        };
        let next = AtomicUsize::new(0);
        let shares = Mutex::new(Vec::new());
        let work = || -> Result<()> {
            let mut share = Share::default();
            let mut buffer = Vec::new();
            while let Some(member) = members.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.collect_segment(survey, member, last_close, &mut share, &mut buffer)?;
            }
            self.insert_pending(&mut share);
            shares.lock().push(share.found);
            Ok(())
        };
        if workers == 1 {
            work()?;
        } else {
            panics::keep_quiet();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| panics::stop(work))).collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })?;
        }
        let mut all = Collected::default();
        shares.into_inner().into_iter().for_each(|share| all.merge(share));
        if let Some(failure) = all.failure.take() {
            return Err(failure);
        }
        self.write_repairs(&mut all)?;
        self.apply_batches(survey, &mut all);
        self.apply_catalogue(&all.keyspaces, all.damage.is_empty())?;
        self.note_damage(&mut all);
        self.adopt_blobs(&mut all);
        // An entry that could not be read a second time was passed over: its key would be missing.
        self.reader.check_all_readable()?;
        Ok(all)
    }

    /// Everything was read. Frames in which a bit was flipped are written as they were: bytes are still write-once, for
    /// nobody has read them yet. Not flushed: until the line reaches the medium, the next recovery does the same again.
    fn write_repairs(&self, all: &mut Collected) -> Result<()> {
        if self.options.read_only {
            // Changes no byte: what could be repaired is damage to this open.
            for (offset, bytes) in std::mem::take(&mut all.repairs) {
                let range = MediaRange::new(offset, bytes.len() as u64);
                let segment = self.space.table().slot(self.space.geometry().slot_of(offset)).id();
                all.damage.push(Lost { segment, range, bound: None, filter: None });
            }
            all.deferred.clear();
            return Ok(());
        }
        for (offset, bytes) in std::mem::take(&mut all.repairs) {
            let (_, ()) = Dirty::write(&*self.media, offset, &bytes, ())?.leave_dirty();
        }
        let _guard = epoch::pin();
        all.deferred.drain(..).try_for_each(|pending| self.insert(&pending))
    }

    /// Lost entries of unknown age may be as new as anything that was found, and what their segment held besides.
    fn note_damage(&self, all: &mut Collected) {
        if all.damage.is_empty() {
            return;
        }
        let ops_max = self.space.geometry().segment_size_bytes / ENTRY_ALIGN_BYTES;
        let bound = all.damage.iter().filter_map(|lost| lost.bound).max().unwrap_or(Seq::ZERO);
        let newest = Seq(all.max_seq.max(bound).0.saturating_add(ops_max << LOG_ID_BITS)).min(Seq::LAST);
        for Lost { segment, range, bound, filter } in std::mem::take(&mut all.damage) {
            self.damage.add(Damage { segment, range, bound: bound.unwrap_or(newest), filter });
        }
        // So that every later write is newer than what was lost, and that later opens know.
        all.max_seq = newest;
        for head in all.heads.values_mut().chain(&mut all.survivors).filter(|head| head.has_damage) {
            head.max_seq = newest;
        }
    }

    fn collect_segment(
        &self,
        survey: &Survey,
        member: &Member,
        last_close: LastClose,
        share: &mut Share,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let range = survey.geometry.range_of(member.header.slot);
        let (bytes, unreadable) = self.segment_bytes(range, buffer)?;
        let seed = self.space.table().slot(member.header.slot).seed();
        let segment = SegmentBytes::new(bytes, range.offset, seed);
        let is_void = self.is_void(survey, member)?;
        let mut extent = self.extent_of(survey, &segment, member, is_void, last_close);
        extent.note_unreadable_tail(&segment, &unreadable);
        share.begin_segment(member.state != SegmentState::Sealed || extent.sealed_to.is_some());
        let known = share.found.damage.len();
        segment.walk(extent.start, extent.end, |piece| match piece {
            Piece::Frame { at, header, frame } => {
                share.bound_damage(known, &header);
                self.collect_frame(share, member, &segment, at, &header, frame)
            }
            Piece::Repaired { at, header, frame } => {
                share.bound_damage(known, &header);
                share.is_repaired = true;
                self.collect_frame(share, member, &segment, at, &header, &frame);
                share.is_repaired = false;
                share.note_repair(&segment, at, &frame);
            }
            Piece::Damage { at, end, header } => {
                self.collect_damage(share, &extent, &segment, at, end, header)
            }
        });
        share.note_lost_end(known, &extent, &segment);
        self.finish_segment(share, extent, range, last_close.was_clean, &unreadable);
        Ok(())
    }

    /// All bytes of a segment, in the mapping or read into `buffer`.
    pub(super) fn segment_bytes<'a>(
        &'a self,
        range: MediaRange,
        buffer: &'a mut Vec<u8>,
    ) -> Result<(&'a [u8], Unreadable)> {
        if self.media.granularity() == FlushGranularity::CacheLine && !self.reader.is_guarded() {
            let bytes = self.media.region().bytes(range).expect("the survey read its header");
            return Ok((bytes, Unreadable::default()));
        }
        buffer.resize(range.len as usize, 0);
        let unreadable = read_what_can_be_read(&*self.media, range.offset, buffer)?;
        Ok((&buffer[..], unreadable))
    }

    /// Of two active heads the larger counts for nothing: its log acknowledges there only once the smaller is sealed. A
    /// smaller one whose footer verifies is sealed, whatever its state word says: that is written after the footer, so
    /// it may be missing, or have reverted to what it was.
    pub(super) fn is_void(&self, survey: &Survey, member: &Member) -> Result<bool> {
        let Some(heads) = survey.heads.get(&member.header.log) else { return Ok(false) };
        if member.state != SegmentState::Active {
            return Ok(false);
        }
        for slot in heads.iter().filter(|slot| survey.members[*slot].header.id < member.header.id) {
            let at = survey.geometry.offset_of(*slot) + survey.geometry.segment_size_bytes - FOOTER_BYTES;
            let mut bytes = [0; FOOTER_BYTES as usize];
            read_what_can_be_read(&*self.media, at, &mut bytes)?;
            let footer = Footer::decode_or_repair(&bytes, self.space.table().slot(*slot).seed(), at);
            if footer.is_none_or(|footer| footer.segment != survey.members[slot].header.id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds where frames begin and end.
    fn extent_of(
        &self,
        survey: &Survey,
        segment: &SegmentBytes<'_>,
        member: &Member,
        is_void: bool,
        last_close: LastClose,
    ) -> Extent {
        let mut start = SEGMENT_BODY_OFFSET as u32;
        let footer_at = segment.bytes.len() - FOOTER_BYTES as usize;
        let is_sealed = member.state == SegmentState::Sealed;
        let footer = is_sealed
            .then(|| &segment.bytes[footer_at..])
            .and_then(|bytes| Footer::decode_or_repair(bytes, segment.seed, segment.base + footer_at as u64))
            .filter(|footer| footer.segment == member.header.id)
            .filter(|footer| footer.data_start <= footer.data_end && footer.data_end as usize <= footer_at);
        if member.header.class == SegmentClass::LogHead {
            let body = &segment.bytes[SEGMENT_BODY_OFFSET as usize..];
            let digest = Digest::decode(body, segment.seed, segment.base + SEGMENT_BODY_OFFSET);
            match digest {
                Some((_, len)) => start = align_up(SEGMENT_BODY_OFFSET + len, SECTOR_BYTES) as u32,
                // Only a sealed segment's digest may be unreadable here, and its footer knows, too.
                None => start = footer.map_or(start, |footer| footer.data_start.max(start)),
            }
        }
        let mut extent = Extent {
            member: *member,
            start,
            end: start,
            head: None,
            filter: None,
            max_seq: None,
            sealed_to: None,
            is_empty: false,
            is_void,
        };
        if member.state == SegmentState::Active {
            let mut tail = if is_void {
                extent.is_empty = segment.is_empty_from(start);
                Tail::at(start)
            } else {
                segment.find_tail(start)
            };
            if last_close.was_clean && !is_void && (!tail.closed || last_close.has_lost_ends) {
                // Close marks were durable before the clean mark was: what is gone, and whatever lay before it, rotted.
                tail.has_damage = true;
                tail.closed = false;
                tail.cut = footer_at as u32;
            }
            extent.end = tail.cut;
            extent.head = Some(tail);
            return extent;
        }
        match footer {
            Some(footer) => {
                extent.end = footer.data_end.max(start);
                extent.filter = read_filter(segment, &footer);
                extent.max_seq = Some(footer.max_seq.step(1));
            }
            None => {
                // A survivor segment that was being filled ends as a head does.
                let tail = segment.find_tail(start);
                extent.end = tail.cut;
                if member.state == SegmentState::Open {
                    extent.head = Some(tail);
                    return extent;
                }
                // The footer was durable before the state word said so: it rotted, and what lay before it may have, too.
                extent.max_seq = newest_before_next_head(survey, member);
                extent.sealed_to = Some(footer_at as u32);
            }
        }
        extent
    }

    fn collect_frame(
        &self,
        share: &mut Share,
        member: &Member,
        segment: &SegmentBytes<'_>,
        at: u32,
        header: &FrameHeader,
        frame: &[u8],
    ) {
        let offset = segment.base + u64::from(at);
        share.note_seq(header.base_seq);
        match header.kind {
            FrameKind::Ops | FrameKind::Batch | FrameKind::Survivor => {
                for (op_at, op) in Ops::new(frame, header) {
                    let addr = Addr::from_offset(offset + u64::from(op_at));
                    let Some(seq) = op.seq(header) else { break };
                    self.collect_op(share, addr, &op, seq, header.base_seq, !member.vouched);
                }
            }
            FrameKind::BatchPart => {
                let part = PartSeen {
                    segment: member.header.id,
                    offset,
                    header: *header,
                    unvouched: !member.vouched,
                };
                share.found.parts.entry(header.base_seq).or_default().push(part);
                for (_, op) in Ops::new(frame, header) {
                    share.note_op(&op, header.base_seq, self.reader.hash_of(&op));
                }
            }
            FrameKind::BatchCommit => {
                if let Some(record) = CommitRecord::decode(&frame[FRAME_HEADER_BYTES..]) {
                    let range = MediaRange::new(offset, u64::from(header.len));
                    share.has_commit = true;
                    share.found.commits.insert(record.batch, (record, range));
                }
            }
            FrameKind::Mark | FrameKind::Close => {}
        }
    }

    fn collect_op(
        &self,
        share: &mut Share,
        addr: Addr,
        op: &Op<'_>,
        seq: Seq,
        frame_seq: Seq,
        unvouched: bool,
    ) {
        let hash = self.reader.hash_of(op);
        let bytes = op.footprint_bytes();
        share.note_op(op, seq, hash);
        if op.kind() == OpKind::Delete {
            self.noted.add(hash, seq, bytes);
        }
        if op.kind() == OpKind::PutBlob {
            share.found.blobs.push(BlobSeen { addr, unvouched });
        }
        let pending = Pending { keyspace: op.keyspace(), hash, addr, seq, frame_seq, bytes: bytes as u32 };
        if share.is_repaired {
            share.found.deferred.push(pending);
            return;
        }
        share.pending.push_back(pending);
        if share.pending.len() == 2 * GROUP {
            self.prefetch_newest(share);
            self.insert_oldest(share, GROUP);
        }
    }

    /// Asks for what the newest group needs of the index. An index that wants the keys themselves finds them in bytes that
    /// were just scanned; guarded reads would copy them once more, which costs more than it saves.
    fn prefetch_newest(&self, share: &Share) {
        let scratch = Scratch::new();
        let mut keys: [Key<'_>; GROUP] = [Key { bytes: &[], hash: 0 }; GROUP];
        if !I::PREFETCHES_BY_HASH && self.reader.is_guarded() {
            return;
        }
        let mut keyspaces = [KeyspaceId::DEFAULT; GROUP];
        for ((key, keyspace), pending) in
            keys.iter_mut().zip(&mut keyspaces).zip(share.pending.range(GROUP..))
        {
            *keyspace = pending.keyspace;
            key.hash = pending.hash;
            if !I::PREFETCHES_BY_HASH {
                key.bytes = self.reader.op(pending.addr, &scratch).map_or(&[], |op| op.key());
            }
        }
        let _guard = epoch::pin();
        self.prefetch_keys(&keyspaces, &keys);
    }

    fn insert_pending(&self, share: &mut Share) {
        self.insert_oldest(share, share.pending.len());
    }

    fn insert_oldest(&self, share: &mut Share, count: usize) {
        // A guard for a few entries at a time: pages that a growing index retires come back only between guards.
        let _guard = epoch::pin();
        for pending in share.pending.drain(..count) {
            if let Err(error) = self.insert(&pending) {
                share.found.failure.get_or_insert(error);
            }
        }
    }

    fn insert(&self, pending: &Pending) -> Result<()> {
        let scratch = Scratch::new();
        let Some(op) = self.reader.op(pending.addr, &scratch) else { return Ok(()) };
        let key_bytes = op.key().len().max(INDEX_ROOM_KEY_BYTES as usize) as u64;
        let space = self.keyspace_or_new(pending.keyspace)?;
        if !space.index.has_room_for(OPEN_INDEX_ROOM_KEYS, OPEN_INDEX_ROOM_KEYS * key_bytes) {
            return Err(no_index_room());
        }
        let key = Key { bytes: op.key(), hash: pending.hash };
        let new: Publishable<Addr> = Durable::recovered(pending.addr).into();
        let order = (pending.seq, pending.frame_seq, pending.addr);
        match space.index.upsert_if_newer(key, new, |known| self.judge(key, known, order)) {
            Upsert::Inserted => {}
            Upsert::Replaced(dead) => {
                if let Some(op) = self.reader.op(dead, &Scratch::new()) {
                    self.note_dead(dead, op.kind(), op.footprint_bytes());
                }
            }
            Upsert::Lost(_) => self.note_dead(pending.addr, op.kind(), u64::from(pending.bytes)),
        }
        Ok(())
    }

    /// A frame that does not verify: its operations count one by one if their own crcs verify, the rest is damage.
    fn collect_damage(
        &self,
        share: &mut Share,
        extent: &Extent,
        segment: &SegmentBytes<'_>,
        at: u32,
        end: u32,
        header: Option<FrameHeader>,
    ) {
        let mut intact = 0;
        let mut bound = None;
        if let Some(header) = &header {
            share.note_seq(header.base_seq);
            let frame = &segment.bytes[at as usize..(at + header.len) as usize];
            let offset = segment.base + u64::from(at);
            if matches!(header.kind, FrameKind::Mark | FrameKind::Close) {
                return;
            }
            let counts = matches!(header.kind, FrameKind::Ops | FrameKind::Batch | FrameKind::Survivor);
            for (op_at, op) in Ops::new(frame, header) {
                let op_offset = offset + u64::from(op_at);
                if counts
                    && op.verify(CheckSite::EntryOnScan, segment.seed, op_offset)
                    && let Some(seq) = op.seq(header)
                {
                    intact += 1;
                    let addr = Addr::from_offset(op_offset);
                    self.collect_op(share, addr, &op, seq, header.base_seq, !extent.member.vouched);
                }
            }
            if counts && intact == header.op_count {
                return;
            }
            bound = Some(header.seq_at(u64::from(header.len)));
        }
        share.found.damage.push(Lost {
            segment: extent.member.header.id,
            range: MediaRange::new(segment.base + u64::from(at), u64::from(end - at)),
            bound: bound.or(extent.max_seq),
            filter: extent.filter.clone(),
        });
    }

    fn finish_segment(
        &self,
        share: &mut Share,
        extent: Extent,
        range: MediaRange,
        was_clean: bool,
        unreadable: &Unreadable,
    ) {
        let member = extent.member;
        let slot = member.header.slot;
        let info = self.space.table().slot(slot);
        // The floor, which is raised to the newest stamp of all, says it of what open finds.
        info.add_entries(share.entries, share.op_bytes, extent.end, Seq::ZERO);
        info.add_tombstones(share.tombstone_bytes);
        share.found.entries += u64::from(share.entries);
        if !member.vouched {
            let end = if member.state == SegmentState::Sealed { range.len } else { u64::from(extent.end) };
            let start = u64::from(extent.start);
            let body = MediaRange::new(range.offset + start, end - start);
            share.found.unvouched.extend(unreadable.readable_parts(body));
        }
        if let Some(tail) = extent.head {
            share.note_seq(tail.dropped_seq);
            let facts = HeadFacts {
                slot,
                id: member.header.id,
                log: member.header.log,
                start: extent.start,
                cut: tail.cut,
                closed: tail.closed && was_clean,
                has_damage: tail.has_damage,
                has_commit: share.has_commit,
                is_empty: extent.is_empty,
                is_void: extent.is_void,
                hashes: std::mem::take(&mut share.hashes),
                min_seq: share.min_seq.unwrap_or(Seq(u64::MAX)),
                max_seq: share.segment_max_seq,
            };
            if member.state == SegmentState::Active {
                share.found.heads.insert(slot, facts);
            } else {
                share.found.survivors.push(facts);
            }
        }
    }

    /// A part counts only with its commit; a commit whose parts are not all there is corruption.
    fn apply_batches(&self, survey: &Survey, all: &mut Collected) {
        let mut share = Share::default();
        for (batch, (record, range)) in std::mem::take(&mut all.commits) {
            let parts = all.parts.remove(&batch).unwrap_or_default();
            if !self.parts_are_whole(survey, &record, &parts) {
                all.damage.push(Lost {
                    segment: self.space.table().slot(self.space.geometry().slot_of(range.offset)).id(),
                    range,
                    bound: Some(record.batch.step(1)),
                    filter: None,
                });
            }
            for part in parts {
                self.apply_part(&mut share, &part);
            }
        }
        self.insert_pending(&mut share);
        all.blobs.append(&mut share.found.blobs);
        for part in std::mem::take(&mut all.parts).into_values().flatten() {
            self.bury_part(&part, &mut all.damage);
        }
    }

    fn parts_are_whole(&self, survey: &Survey, record: &CommitRecord, parts: &[PartSeen]) -> bool {
        record.parts.iter().all(|owed| {
            let (mut bytes, mut checksum) = (0, 0);
            for part in parts.iter().filter(|part| part.segment == owed.segment) {
                bytes += u64::from(part.header.len);
                checksum ^= part.header.checksum;
            }
            // A segment that is no longer listed was emptied by the cleaner, which moved what was live.
            let is_listed = survey.members.values().any(|member| member.header.id == owed.segment);
            !is_listed
                || crate::checksum::verify(
                    CheckSite::BatchCommit,
                    (owed.bytes, owed.checksum),
                    (bytes, checksum),
                )
        })
    }

    fn apply_part(&self, share: &mut Share, part: &PartSeen) {
        let range = MediaRange::new(part.offset, u64::from(part.header.len));
        let scratch = Scratch::new();
        let Some(frame) = self.reader.bytes(range, &scratch) else { return };
        for (op_at, op) in Ops::new(frame, &part.header) {
            let addr = Addr::from_offset(part.offset + u64::from(op_at));
            self.collect_op(share, addr, &op, part.header.base_seq, part.header.base_seq, part.unvouched);
        }
    }

    /// A part without a commit is dead, unless the commit may be among what is damaged: then nobody knows.
    fn bury_part(&self, part: &PartSeen, damage: &mut Vec<Lost>) {
        let range = MediaRange::new(part.offset, u64::from(part.header.len));
        let scratch = Scratch::new();
        let Some(frame) = self.reader.bytes(range, &scratch) else { return };
        let batch = part.header.base_seq;
        if damage.iter().any(|lost| lost.bound.is_none_or(|bound| bound >= batch)) {
            let short_hash = |op: Op<'_>| Filter::short_hash(self.reader.hash_of(&op));
            let hashes: Vec<u32> = Ops::new(frame, &part.header).map(|(_, op)| short_hash(op)).collect();
            damage.push(Lost {
                segment: part.segment,
                range,
                bound: Some(batch.step(1)),
                filter: Some(Filter::build(&hashes)),
            });
        }
        for (op_at, op) in Ops::new(frame, &part.header) {
            let addr = Addr::from_offset(part.offset + u64::from(op_at));
            self.note_dead(addr, op.kind(), op.footprint_bytes());
        }
    }

    /// Whether an extent can be made durable again, for which files read it.
    fn can_be_adopted(&self, range: MediaRange) -> bool {
        if self.reader.is_guarded() || self.media.granularity() == FlushGranularity::CacheLine {
            return self.reader.is_readable(range);
        }
        self.media.read(range.offset, &mut vec![0; range.len as usize]).is_ok()
    }

    /// Rebuilds the extent bitmaps from the descriptors that won, and only those.
    fn adopt_blobs(&self, all: &mut Collected) {
        let guard = epoch::pin();
        for blob in std::mem::take(&mut all.blobs) {
            let scratch = Scratch::new();
            let Some(op) = self.reader.op(blob.addr, &scratch) else { continue };
            if !self.leads_to(op.keyspace(), self.key_of(&op), blob.addr, &guard) {
                continue;
            }
            let Some(descriptor) = BlobDescriptor::decode(op.value()) else { continue };
            for chunk in &descriptor.chunks {
                let range = MediaRange::new(chunk.offset, u64::from(chunk.len));
                if !self.extents.adopt_extent(range) {
                    // Noticed by the chunk's checksum when the value is read. Freeing it would free somebody else's.
                    self.limbo.disown(blob.addr);
                } else if blob.unvouched && self.can_be_adopted(range) {
                    // What cannot be read is not made durable again.
                    all.unvouched.push(range);
                }
            }
        }
    }
}

impl Extent {
    /// A head that seems to end where a page cannot be read may go on there: nobody knows, so the rest of it is damage.
    fn note_unreadable_tail(&mut self, segment: &SegmentBytes<'_>, unreadable: &Unreadable) {
        if unreadable.is_empty() {
            return;
        }
        // That no whole frame was found says nothing then.
        self.is_empty = false;
        // Neither does a close mark: the log may have been resumed behind it.
        let Some(tail) = self.head.as_mut().filter(|_| !self.is_void) else { return };
        let end = segment.end_of_header_at(tail.cut).unwrap_or(tail.cut + CACHE_LINE_BYTES as u32);
        let next = MediaRange::new(segment.base + u64::from(tail.cut), u64::from(end - tail.cut));
        if unreadable.touches(next) {
            tail.has_damage = true;
            tail.cut = segment.bytes.len() as u32 - FOOTER_BYTES as u32;
            self.end = tail.cut;
        }
    }
}

/// A bound of the stamps in a segment: what its log had given when it opened its next head. Older pools do not always say.
fn newest_before_next_head(survey: &Survey, member: &Member) -> Option<Seq> {
    let is_head = |header: &SegmentHeader| header.class == SegmentClass::LogHead;
    let headers = survey.members.values().map(|member| &member.header);
    headers
        .filter(|other| is_head(&member.header) && is_head(other) && other.log == member.header.log)
        .filter(|other| other.id > member.header.id && other.creation_seq > Seq::ZERO)
        .map(|other| other.creation_seq)
        .min()
}

fn read_filter(segment: &SegmentBytes<'_>, footer: &Footer) -> Option<Filter> {
    if footer.filter_at == 0 {
        return None;
    }
    let start = footer.filter_at as usize;
    let bytes = segment.bytes.get(start..start.checked_add(footer.filter_len as usize)?)?;
    Filter::verify(bytes, footer, segment.seed, segment.base + start as u64)
        .then(|| Filter::from_bytes(bytes.to_vec()))
}

impl Share {
    fn begin_segment(&mut self, keep_hashes: bool) {
        self.entries = 0;
        self.op_bytes = 0;
        self.tombstone_bytes = 0;
        self.hashes.clear();
        self.min_seq = None;
        self.segment_max_seq = Seq::ZERO;
        self.has_commit = false;
        self.keep_hashes = keep_hashes;
    }

    /// The end of a sealed segment whose footer is gone is proven if the filter follows, over just the keys that were found:
    /// then nothing but the footer is lost. Else frames may be, and nobody knows of which keys.
    fn note_lost_end(&mut self, known: usize, extent: &Extent, segment: &SegmentBytes<'_>) {
        let Some(limit) = extent.sealed_to.filter(|limit| *limit > extent.end) else { return };
        let filter = Filter::build(&self.hashes);
        let behind = &segment.bytes[extent.end as usize..limit as usize];
        let all_known = !self.hashes.is_empty() && self.found.damage.len() == known;
        if all_known && behind.starts_with(filter.bytes()) {
            return;
        }
        self.found.damage.push(Lost {
            segment: extent.member.header.id,
            range: MediaRange::new(segment.base + u64::from(extent.end), u64::from(limit - extent.end)),
            bound: extent.max_seq,
            filter: None,
        });
    }

    /// Stamps increase with offsets: what was lost since `known` is older than the frame that was found behind it. A mark
    /// has no stamp of its own, and in a log that was resumed not even that of the entry before it.
    fn bound_damage(&mut self, known: usize, header: &FrameHeader) {
        if matches!(header.kind, FrameKind::Mark | FrameKind::Close) {
            return;
        }
        let behind = header.base_seq;
        for lost in &mut self.found.damage[known..] {
            lost.bound = Some(lost.bound.map_or(behind, |bound| bound.min(behind)));
        }
    }

    /// Remembers the lines of a repaired frame that differ from the medium's.
    fn note_repair(&mut self, segment: &SegmentBytes<'_>, at: u32, frame: &[u8]) {
        self.found.repaired += 1;
        let line = CACHE_LINE_BYTES as usize;
        let found = segment.bytes[at as usize..].chunks(line);
        for (number, (new, old)) in frame.chunks(line).zip(found).enumerate() {
            if new != old {
                let offset = segment.base + u64::from(at) + (number * line) as u64;
                self.found.repairs.push((offset, new.to_vec()));
            }
        }
    }

    fn note_seq(&mut self, seq: Seq) {
        self.found.max_seq = self.found.max_seq.max(seq);
    }

    #[inline]
    fn note_op(&mut self, op: &Op<'_>, seq: Seq, hash: u64) {
        if op.keyspace() != KeyspaceId::DEFAULT {
            self.found.keyspaces.insert(op.keyspace());
        }
        self.entries += 1;
        self.op_bytes += op.footprint_bytes();
        if op.kind() == OpKind::Delete {
            self.tombstone_bytes += op.footprint_bytes();
        }
        self.min_seq = Some(self.min_seq.map_or(seq, |min| min.min(seq)));
        self.segment_max_seq = self.segment_max_seq.max(seq);
        self.found.max_seq = self.found.max_seq.max(seq);
        if self.keep_hashes {
            self.hashes.push(Filter::short_hash(hash));
        }
    }
}

impl Collected {
    fn merge(&mut self, mut other: Collected) {
        self.entries += other.entries;
        self.max_seq = self.max_seq.max(other.max_seq);
        self.heads.append(&mut other.heads);
        self.survivors.append(&mut other.survivors);
        self.unvouched.append(&mut other.unvouched);
        self.repaired += other.repaired;
        self.repairs.append(&mut other.repairs);
        self.deferred.append(&mut other.deferred);
        self.damage.append(&mut other.damage);
        self.failure = self.failure.take().or(other.failure);
        self.blobs.append(&mut other.blobs);
        self.commits.append(&mut other.commits);
        self.keyspaces.append(&mut other.keyspaces);
        for (batch, mut parts) in other.parts {
            self.parts.entry(batch).or_default().append(&mut parts);
        }
    }
}
