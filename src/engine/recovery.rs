//! Opening. A new pool is formatted; an existing one is read wholly before a byte of it is changed, but for the holder record,
//! which is no part of the store's state and has to be there while the reading takes its time:
//!
//! 1. superblock, headers and state words of all slots
//! 2. the highest-numbered digest among active heads rules; every segment it lists must be there
//! 3. heads are scanned to their cut, then all segments in parallel into the index: the highest stamp of a key wins, so
//!    the order of segments does not matter
//! 4. what is adopted from segments whose seal no digest vouches for is made durable again, before anything is served
//! 5. the clean mark is cleared, heads that did not end with a close mark, or have no room for another, are sealed at
//!    their cut and replaced
//!
//! Running it twice gives the same store; it may die anywhere.

mod collect;
mod ends;
mod pages;
mod survey;

use super::Engine;
use super::cleaner::STREAMS_MAX;
use super::commit::Committer;
use super::damage::DamageList;
use super::housekeeper::Housekeeper;
use super::iter::cached;
use super::keyspace::{Keyspace, Keyspaces};
use super::stats::{Counters, OpenFacts};
use crate::checksum::hash64;
use crate::constants::*;
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::{
    HOLDER_OFFSET, HolderRecord, NUMBERS_END, STATE_WORD_OFFSET, SUPERBLOCK_A_OFFSET, SUPERBLOCK_BYTES,
    SUPERBLOCK_MAGIC_BYTES, SegmentState, Superblock,
};
use crate::index::{Index, LogKeys};
use crate::media::durable::{Dirty, InFlight};
use crate::media::guarded::GuardedReads;
use crate::media::{FlushGranularity, Media, Site};
use crate::oplog::OpLog;
use crate::oplog::append::Head;
use crate::oplog::read::EntryReader;
use crate::options::{Options, SigbusPolicy};
use crate::space::extent::Extents;
use crate::space::superblock::SuperblockStore;
use crate::space::{Geometry, Identities, RESERVE_SLOTS, Space};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex};
use crate::types::{KeyspaceId, LogId, MediaRange, SegmentId, SegmentSlot};
use collect::{Collected, HeadFacts};
use std::time::Instant;
use survey::Survey;

/// The first head, and slots for the rolls and deletes of a store that stays small. The reserve grows with the first roll.
const SLOTS_AT_CREATION: u32 = 3;

/// Most slots, in hundredths, that heads, open survivor segments and the reserve may take of a pool of any size.
const OVERHEAD_PERCENT: u32 = 3;

/// Logs that a pool of so many slots can have: each takes a head, and a slot of the reserve.
fn affordable_logs(slots: u32) -> usize {
    let overhead = (u64::from(slots) * u64::from(OVERHEAD_PERCENT) / 100) as usize;
    overhead.saturating_sub(RESERVE_SLOTS as usize + STREAMS_MAX) / 2
}

/// Logs that writers use on this medium.
fn log_count(media: &dyn Media, options: &Options, geometry: &Geometry) -> usize {
    let affordable = options.max_bytes.map_or(LOGS_MAX, |quota| affordable_logs(geometry.slots_in(quota)));
    options.logs.unwrap_or_else(|| match media.granularity() {
        FlushGranularity::File => 1,
        FlushGranularity::CacheLine => {
            std::thread::available_parallelism().map_or(1, |n| n.get()).min(affordable).clamp(1, LOGS_MAX)
        }
    })
}

fn segment_size(media: &dyn Media, options: &Options) -> u64 {
    if let Some(bytes) = options.segment_size_bytes {
        return bytes;
    }
    match (options.max_bytes, media.granularity()) {
        (Some(quota), _) => (quota / 1024)
            .clamp(SEGMENT_SIZE_BYTES_QUOTA_MIN, SEGMENT_SIZE_BYTES_QUOTA_MAX)
            .next_power_of_two()
            .min(SEGMENT_SIZE_BYTES_QUOTA_MAX),
        (None, FlushGranularity::CacheLine) => SEGMENT_SIZE_BYTES_PM,
        (None, FlushGranularity::File) => SEGMENT_SIZE_BYTES_FILE,
    }
}

fn geometry_at_creation(media: &dyn Media, options: &Options) -> Geometry {
    let segment_bytes = segment_size(media, options);
    let head_bytes = HEAD_SIZE_BYTES_DEFAULT.min(segment_bytes).max(HEAD_SIZE_BYTES_MIN);
    Geometry::new(options.head_size_bytes.unwrap_or(head_bytes), segment_bytes)
}

fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        what: "getrandom".into(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    })?;
    Ok(bytes)
}

/// Uuid and hash seed of a new pool.
fn new_identity(seed: Option<u64>) -> Result<([u8; 16], u64)> {
    let Some(seed) = seed else {
        return Ok((random_bytes()?, u64::from_le_bytes(random_bytes()?)));
    };
    let [low, high, hash_seed] = [0_u8, 1, 2].map(|which| hash64(seed, &[which]));
    Ok(((u128::from(high) << 64 | u128::from(low)).to_le_bytes(), hash_seed))
}

/// Says who has the pool open.
fn write_holder(media: &dyn Media, holder: &HolderRecord) -> Result<Dirty<()>> {
    Dirty::write(media, HOLDER_OFFSET, &holder.encode(), ())
}

/// True for a pool whose creation in place died before its superblock was written: no superblock in either place, at most one
/// without its magic in the first, and a holder record, or nothing at all in a file that has grown by its first step only.
fn is_half_created(media: &dyn Media) -> Result<bool> {
    let mut head = [0; HEAD_SIZE_BYTES_MIN as usize];
    let len = media.len_bytes().min(HEAD_SIZE_BYTES_MIN) as usize;
    media.read(0, &mut head[..len])?;
    let at = HOLDER_OFFSET as usize;
    let record: &[u8; HOLDER_RECORD_BYTES] =
        head[at..at + HOLDER_RECORD_BYTES].try_into().expect("its length");
    let is_ours = HolderRecord::decode(record).is_some() || media.len_bytes() <= HEAD_SIZE_BYTES_MIN;
    head[at..at + HOLDER_RECORD_BYTES].fill(0);
    if is_ours && head[..SUPERBLOCK_MAGIC_BYTES] == [0; SUPERBLOCK_MAGIC_BYTES] {
        // The first copy gets its magic when all else of it is durable, and before the second is begun.
        head[..SUPERBLOCK_BYTES].fill(0);
    }
    Ok(is_ours && head.iter().all(|byte| *byte == 0))
}

/// A creation that was cut off may have left a state word in a slot.
fn clear_states(media: &dyn Media, geometry: &Geometry) -> Result<()> {
    for slot in (0..geometry.usable_slots_in(media.len_bytes())).map(SegmentSlot) {
        let at = geometry.offset_of(slot) + STATE_WORD_OFFSET;
        let mut word = [0; 8];
        media.read(at, &mut word)?;
        if word != [0; 8] {
            let _in_flight = Dirty::write_word(media, at, 0, ())?.flush(media, Site::ClearFlush);
        }
    }
    Ok(())
}

/// What a store is assembled from.
struct Parts {
    media: Arc<dyn Media>,
    space: Arc<Space>,
    oplog: Arc<OpLog>,
    extents: Arc<Extents>,
    superblock: SuperblockStore,
    facts: OpenFacts,
    lanes: usize,
}

/// Makes an index that can ask for the hash of a key in the log, with room for about so many entries at once and for so
/// many at most.
pub trait MakeIndex<I>: FnOnce(Arc<dyn LogKeys>, u64, u64) -> Result<I> {}
impl<I, F: FnOnce(Arc<dyn LogKeys>, u64, u64) -> Result<I>> MakeIndex<I> for F {}

impl<I: Index + 'static> Engine<I> {
    /// Opens the pool on a locked medium, formatting it if it is new.
    ///
    /// # Errors
    /// `Corrupted`, `Incomplete`, `Unsupported`: nothing was changed but the holder record. `NoSpace`, `Io`.
    pub fn open(
        media: Arc<dyn Media>,
        is_new: bool,
        options: Options,
        holder: &HolderRecord,
        make_index: impl MakeIndex<I>,
    ) -> Result<Arc<Engine<I>>> {
        let started = Instant::now();
        // Before this store has threads: the system registers a process that has one thread at once. With more it takes 10 ms,
        // for which the first call of all would wait, and so does open if the program has threads of its own.
        epoch::here();
        let mut engine = if is_new || is_half_created(&*media)? {
            Self::create(media, options, holder, make_index)?
        } else {
            Self::recover(media, options, holder, make_index)?
        };
        cached::forget();
        engine.facts.open_us = started.elapsed().as_micros() as u64;
        let engine = Arc::new(engine);
        if engine.options.background && !engine.options.read_only {
            let started =
                engine.housekeeper.start(&engine).and_then(|()| engine.cleaner_thread.start(&engine));
            started.map_err(|error| {
                Error::from_errno("start a background thread", error.raw_os_error().unwrap_or(libc::EAGAIN))
            })?;
        }
        Ok(engine)
    }

    fn create(
        media: Arc<dyn Media>,
        options: Options,
        holder: &HolderRecord,
        make_index: impl MakeIndex<I>,
    ) -> Result<Self> {
        if options.read_only {
            return Err(Error::InvalidArgument("read_only = true: there is no pool to read".into()));
        }
        let geometry = geometry_at_creation(&*media, &options);
        let len = geometry.pool_len(SLOTS_AT_CREATION);
        let lanes = log_count(&*media, &options, &geometry);
        // The first head, and the reserve that lets a full pool still delete, clean, roll and recover.
        let needed = geometry.pool_len(1 + RESERVE_SLOTS + lanes as u32);
        if let Some(quota) = options.max_bytes
            && quota < needed
        {
            return Err(Error::InvalidArgument(format!(
                "max_bytes = {quota}: a pool with segments of {} bytes needs at least {needed}",
                geometry.segment_size_bytes
            )));
        }
        // The holder record first: it tells a creation that was cut off from a file that is none of ours.
        media.grow(HEAD_SIZE_BYTES_MIN)?;
        write_holder(&*media, holder)?
            .flush(&*media, Site::HolderFlush)
            .drain(&*media, Site::HolderDrain)?
            .into_inner();
        media.grow(len)?;
        clear_states(&*media, &geometry)?;
        // Before the first header: beside an old state word it would be a head that does not verify.
        InFlight::nothing(()).drain(&*media, Site::SuperblockDrain)?.into_inner();
        let (uuid, hash_seed) = new_identity(options.pool_seed)?;
        let superblock = SuperblockStore::create(Superblock {
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            uuid,
            hash_seed,
            sequence: 0,
            head_size_bytes: geometry.head_size_bytes,
            segment_size_bytes: geometry.segment_size_bytes,
            log_count: lanes as u32,
            segment_id_high_water: 1,
            unsafe_shutdowns: 0,
            clean: false,
            closed_ends: 0,
        });
        let identities = Identities { next_id: SegmentId(1), digest_number: 0 };
        let mut parts = Self::parts(media, geometry, superblock, identities, lanes, lanes, &options);
        parts.oplog.roll_recovered(LogId(0), None)?;
        // Backed by what the pool will grow by with its first roll.
        parts.space.add_backed_heads(1);
        parts.superblock.write_first(&*parts.media)?;
        parts.media.publish()?;
        parts.facts.was_clean = true;
        Ok(Self::assemble(parts, options, make_index, 0, |_, _| Ok(()))?.0)
    }

    fn parts(
        media: Arc<dyn Media>,
        geometry: Geometry,
        superblock: SuperblockStore,
        identities: Identities,
        logs: usize,
        lanes: usize,
        options: &Options,
    ) -> Parts {
        let uuid = superblock.current().uuid;
        let space = Space::new(
            Arc::clone(&media),
            uuid,
            geometry,
            options.max_bytes,
            options.target_utilization,
            identities,
        );
        let space = Arc::new(space);
        let oplog = Arc::new(OpLog::new(Arc::clone(&media), Arc::clone(&space), logs));
        let extents = Arc::new(Extents::new(Arc::clone(&space)));
        Parts { media, space, oplog, extents, superblock, facts: OpenFacts::default(), lanes }
    }

    /// Puts the floors together; `fill` fills the index before anybody sees it.
    fn assemble<R>(
        parts: Parts,
        options: Options,
        make_index: impl MakeIndex<I>,
        expected_keys: u64,
        fill: impl FnOnce(&mut Self, &EntryReader) -> Result<R>,
    ) -> Result<(Self, R)> {
        let hash_seed = parts.superblock.current().hash_seed;
        let guarded = match options.sigbus {
            SigbusPolicy::Default => None,
            SigbusPolicy::Guard => Some(Arc::new(GuardedReads::new(Arc::clone(&parts.media))?)),
        };
        let reader = EntryReader::new(Arc::clone(&parts.media), Arc::clone(&parts.space), hash_seed, guarded);
        let inline_default = match parts.media.granularity() {
            FlushGranularity::CacheLine => INLINE_VALUE_BYTES_PM,
            FlushGranularity::File => INLINE_VALUE_BYTES_FILE,
        };
        // An inline value has to fit a frame with the longest key.
        let frame_max = parts.oplog.frame_bytes_max(1) as usize;
        let entries_max = parts.space.len_bytes_max() / ENTRY_ALIGN_BYTES;
        let inline_fits = (frame_max / 2).max(64);
        let mut engine = Engine {
            keyspaces: Keyspaces::default(),
            default: Keyspace::new(
                KeyspaceId::DEFAULT,
                make_index(Arc::new(reader.clone()), expected_keys, entries_max)?,
                &reader,
            ),
            committer: Committer::new(
                Arc::clone(&parts.oplog),
                parts.lanes,
                options.commit,
                parts.media.granularity(),
                options.async_bytes_max,
            ),
            inline_value_bytes_max: options.inline_value_bytes_max.unwrap_or(inline_default).min(inline_fits),
            deletes: (0..super::DELETE_STRIPES).map(|_| crossbeam_utils::CachePadded::default()).collect(),
            damage: DamageList::default(),
            limbo: Arc::default(),
            cleaner: super::cleaner::Cleaner::default(),
            cleaner_thread: super::cleaner::CleanerThread::default(),
            noted: super::cleaner::Noted::default(),
            versions: super::Versions::default(),
            superblock: Mutex::new(parts.superblock),
            counters: Counters::default(),
            facts: parts.facts,
            housekeeper: Housekeeper::default(),
            pinned: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            fork_generation: crate::media::fork_generation(),
            media: parts.media,
            space: parts.space,
            oplog: parts.oplog,
            extents: parts.extents,
            reader: reader.clone(),
            options,
        };
        let result = fill(&mut engine, &reader)?;
        Ok((engine, result))
    }

    fn recover(
        media: Arc<dyn Media>,
        options: Options,
        holder: &HolderRecord,
        make_index: impl MakeIndex<I>,
    ) -> Result<Self> {
        let superblock = SuperblockStore::read(&*media)?;
        if !options.read_only {
            superblock.current().check_may_write()?;
            // Not part of the store's state: so that who comes meanwhile learns whom to wait for.
            let (_, ()) = write_holder(&*media, holder)?.leave_dirty();
        }
        let survey = Survey::take(&*media, superblock.current())?;
        let geometry = survey.geometry;
        let lanes = log_count(&*media, &options, &geometry);
        let logs = lanes.max(survey.heads.keys().map(|log| usize::from(log.0) + 1).max().unwrap_or(1));
        let identities = Identities {
            next_id: survey.next_id.max(SegmentId(superblock.current().segment_id_high_water)),
            digest_number: survey.digest_number,
        };
        let was_clean = superblock.current().clean;
        let mut parts = Self::parts(media, geometry, superblock, identities, logs, lanes, &options);
        parts.facts.was_clean = was_clean;
        let shutdowns = parts.superblock.current().unsafe_shutdowns + u64::from(!was_clean);
        parts.facts.unsafe_shutdowns = shutdowns.min(NUMBERS_END - 1);
        survey.enter_into(&parts.space, &parts.extents);
        if !options.read_only {
            parts.space.find_hollow_slots();
        }
        // By the segments that are there: the pool's length may be anything, its tail a hole.
        let segment_bytes = survey.members.len() as u64 * geometry.segment_size_bytes;
        let expected_keys = survey.live_entries.min(segment_bytes / CACHE_LINE_BYTES);
        let (mut engine, collected) =
            Self::assemble(parts, options, make_index, expected_keys, |engine, _| {
                let last_close = engine.last_close(&survey, was_clean)?;
                engine.collect(&survey, last_close)
            })?;
        engine.oplog.note_live_entries(engine.indexed_entries());
        engine.facts.recovered_entries = collected.entries;
        engine.facts.repaired_frames = collected.repaired;
        engine.facts.torn_heads = collected.heads.values().filter(|head| !head.closed).count() as u64;
        engine.oplog.raise_floor(collected.max_seq);
        engine.make_durable_again(&survey, &collected)?;
        if !engine.options.read_only {
            engine.start_writing(&survey, collected)?;
        }
        Ok(engine)
    }

    /// Rule 9: whatever was adopted and is not vouched for is made durable again, before anything is served.
    fn make_durable_again(&self, survey: &Survey, collected: &Collected) -> Result<()> {
        let superblock = self.superblock.lock().current_range();
        for range in collected.unvouched.iter().chain(survey.unvouched_headers.iter()).chain([&superblock]) {
            match self.adopt(*range) {
                // A reader without permission to write: it serves what is there, and the next writer makes it durable.
                Err(Error::ReadOnly) if self.options.read_only => return Ok(()),
                result => result?,
            }
        }
        InFlight::nothing(()).drain(&*self.media, Site::AdoptDrain)?.into_inner();
        Ok(())
    }

    /// Makes one range durable: written back on persistent memory; on files *rewritten*, because after a failed
    /// fdatasync its pages may be clean and yet not on the disk.
    fn adopt(&self, range: MediaRange) -> Result<()> {
        if self.media.granularity() == FlushGranularity::CacheLine {
            let _in_flight = Dirty::adopt(range, ()).flush(&*self.media, Site::AdoptFlush);
            return Ok(());
        }
        const PIECE_BYTES: u64 = 1 << 20;
        let mut buffer = Vec::new();
        let mut at = range.offset;
        while at < range.end() {
            let len = PIECE_BYTES.min(range.end() - at);
            buffer.resize(len as usize, 0);
            self.media.read(at, &mut buffer)?;
            let _in_flight =
                Dirty::write(&*self.media, at, &buffer, ())?.flush(&*self.media, Site::AdoptFlush);
            at += len;
        }
        Ok(())
    }

    /// Everything was read: from here on the pool is changed.
    fn start_writing(&mut self, survey: &Survey, collected: Collected) -> Result<()> {
        self.superblock.lock().update_both(&*self.media, |superblock| {
            superblock.clean = false;
            superblock.closed_ends = 0;
            superblock.unsafe_shutdowns = superblock.unsafe_shutdowns.max(self.facts.unsafe_shutdowns);
        })?;
        // The cleaner never appends behind a cut either.
        for survivor in collected.survivors {
            self.oplog.seal_recovered(&self.head_from(survivor))?;
        }
        for (log, heads) in group_by_log(collected.heads) {
            self.restart_log(log, heads)?;
        }
        let is_backed = |log: &usize| self.oplog.lock(*log).has_backed_head();
        self.space.add_backed_heads((0..self.oplog.log_count()).filter(is_backed).count() as u32);
        // Only now: until each log has one head an older digest, which lists them, may come to rule.
        self.free_unlisted(survey)
    }

    fn free_unlisted(&self, survey: &Survey) -> Result<()> {
        if survey.to_free.is_empty() {
            return Ok(());
        }
        for (slot, id) in &survey.to_free {
            let _in_flight = self.space.set_state(*slot, *id, SegmentState::Free, Site::UnlistedFlush)?;
        }
        InFlight::nothing(()).drain(&*self.media, Site::UnlistedDrain)?.into_inner();
        survey.to_free.iter().for_each(|(slot, _)| self.space.return_slot(*slot));
        // What a crash left of a slot that was being given back.
        self.space.find_hollow_slots();
        Ok(())
    }

    /// Gives a log one head to append to. Of two active heads the smaller holds everything that counts.
    fn restart_log(&self, log: LogId, mut heads: Vec<HeadFacts>) -> Result<()> {
        heads.sort_by_key(|head| head.id);
        let larger = if heads.len() == 2 { heads.pop() } else { None };
        let head = heads.pop().expect("a log in use has an active head");
        let closed = head.closed && larger.is_none();
        let old = self.head_from(head);
        if closed && old.can_be_resumed(&self.oplog) {
            self.oplog.lock(usize::from(log.0)).resume(old);
            return Ok(());
        }
        match larger {
            Some(larger) if larger.is_empty => {
                // The roll had come to (b): complete it.
                self.oplog.seal_recovered(&old)?;
                let new = self.head_from(larger);
                self.oplog.lock(usize::from(log.0)).resume(new);
                Ok(())
            }
            Some(larger) if !larger.is_void => {
                // The smaller one was sealed but for its state word: the larger one is the head.
                self.oplog.seal_recovered(&old)?;
                self.restart_log(log, vec![larger])
            }
            Some(larger) => {
                self.oplog.seal_recovered(&self.head_from(larger))?;
                self.oplog.roll_recovered(log, Some(old))
            }
            None => self.oplog.roll_recovered(log, Some(old)),
        }
    }

    fn head_from(&self, facts: HeadFacts) -> Head {
        Head::recovered(
            &self.oplog,
            facts.slot,
            facts.id,
            facts.start,
            facts.cut,
            facts.hashes,
            facts.min_seq,
            facts.max_seq,
            facts.has_damage || facts.has_commit,
            facts.has_damage,
        )
    }
}

fn group_by_log(
    heads: std::collections::BTreeMap<crate::types::SegmentSlot, HeadFacts>,
) -> std::collections::BTreeMap<LogId, Vec<HeadFacts>> {
    let mut logs = std::collections::BTreeMap::<LogId, Vec<HeadFacts>>::new();
    for head in heads.into_values() {
        logs.entry(head.log).or_default().push(head);
    }
    logs
}

const _: () = assert!(SUPERBLOCK_A_OFFSET == 0, "a pool is recognized by its first bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_reserve_take_little_of_a_pool_whatever_the_machine_has() {
        let [of_64_mib, of_128_mib] =
            [64, 128].map(|mib| Geometry::new(128 << 10, 128 << 10).slots_in(mib << 20));
        for slots in [of_64_mib, of_128_mib, 10_000] {
            let logs = affordable_logs(slots);
            let taken = 2 * logs as u32 + RESERVE_SLOTS + STREAMS_MAX as u32;
            assert!(logs >= 2 && taken * 100 <= slots * OVERHEAD_PERCENT, "{slots} slots: {logs} logs");
        }
        assert_eq!(
            (affordable_logs(of_64_mib), affordable_logs(of_128_mib), affordable_logs(20)),
            (3, 11, 0)
        );
    }
}
