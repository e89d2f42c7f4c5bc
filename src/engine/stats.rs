//! Statistics: counters that two threads never share a line for, sizes, and what open found. Stable names.

use super::Engine;
use crate::epoch::Here;
use crate::format::SegmentClass;
use crate::index::Index;
use crate::space::table::SlotState;
use crate::sync::{AtomicU64, Ordering, thread_number};
use crate::types::SegmentSlot;
use crossbeam_utils::CachePadded;
use serde_json::{Value, json};

const SHARDS: usize = 16;

#[derive(Default)]
struct Shard {
    puts: AtomicU64,
    put_bytes: AtomicU64,
    deletes: AtomicU64,
    gets: AtomicU64,
}

/// Operations since open.
pub struct Counters {
    shards: Box<[CachePadded<Shard>]>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { shards: (0..SHARDS).map(|_| CachePadded::new(Shard::default())).collect() }
    }
}

impl Counters {
    #[inline]
    fn shard(&self) -> &Shard {
        self.shard_of(thread_number())
    }

    #[inline(always)]
    fn shard_of(&self, thread_number: usize) -> &Shard {
        &self.shards[thread_number % SHARDS]
    }

    /// Counts a put.
    #[inline]
    pub fn put(&self, bytes: usize) {
        let shard = self.shard();
        add(&shard.puts, 1);
        add(&shard.put_bytes, bytes as u64);
    }

    /// Counts a delete.
    #[inline]
    pub fn delete(&self) {
        add(&self.shard().deletes, 1);
    }

    /// Counts a get.
    #[inline]
    pub fn get(&self) {
        self.gets(1);
    }

    /// Counts a get of this thread.
    #[inline(always)]
    pub fn get_of(&self, thread: Here) {
        add(&self.shard_of(thread.thread_number()).gets, 1);
    }

    /// Counts so many.
    #[inline]
    pub fn gets(&self, count: u64) {
        add(&self.shard().gets, count);
    }

    fn sum(&self, field: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| field(shard).load(Ordering::Relaxed)).sum()
    }
}

/// Threads of one shard may race and lose a count; a counter is a statistic, and a locked addition costs as much as a crc.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// What open found and did.
#[derive(Clone, Debug, Default)]
pub struct OpenFacts {
    /// Microseconds that open took.
    pub open_us: u64,
    /// Entries that recovery read.
    pub recovered_entries: u64,
    /// The last close was clean.
    pub was_clean: bool,
    /// Opens that were not, ever.
    pub unsafe_shutdowns: u64,
    /// Bytes behind the cuts of torn heads.
    pub torn_heads: u64,
    /// Frames in which a flipped bit was undone.
    pub repaired_frames: u64,
}

impl<I: Index + 'static> Engine<I> {
    /// Counters, sizes and facts as JSON.
    pub fn stats(&self) -> Value {
        let table = self.space.table();
        let (mut op_bytes, mut dead_bytes, mut tombstone_bytes, mut entries) = (0, 0, 0, 0);
        let mut by_state = [0_u64; 5];
        let (mut used_bytes, mut quarantined) = (0, 0_u64);
        let mut by_class = [0_u64; 5];
        for slot in (0..self.space.slot_count()).map(SegmentSlot) {
            let info = table.slot(slot);
            by_state[info.state() as usize] += 1;
            if info.state() != SlotState::Free {
                op_bytes += info.op_bytes();
                dead_bytes += info.dead_bytes();
                tombstone_bytes += info.tombstone_bytes();
                entries += u64::from(info.entries());
                quarantined += u64::from(info.is_quarantined());
                used_bytes += u64::from(info.data_end());
                if let Some(class) = info.class() {
                    by_class[class as usize] += 1;
                }
            }
        }
        let extents = self.extents.usage();
        let live_bytes = op_bytes.saturating_sub(dead_bytes) + extents.live_bytes();
        let segment_bytes = self.space.geometry().segment_size_bytes;
        let given_back = self.space.given_back();
        // As those see it who take them, not as the table does: a slot that nobody gave back is not free.
        let ready = u64::from(self.space.free_slots());
        let free = ready + u64::from(given_back.hollow_slots);
        let reserved = free.min(u64::from(self.space.reserved_slots()));
        let slots_bytes = (u64::from(self.space.slot_count()) * segment_bytes).max(1);
        // Tombstones included: to tell them apart each would have to be read.
        let index_entries = self.key_count();
        let keyspaces = self.keyspaces.counts();
        let cleaner = &self.cleaner.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (appended, moved) = (self.oplog.appended_bytes(), count(&cleaner.bytes_written));
        let (delays, delayed_us) = self.cleaner.delays();
        let (huge_page_bytes, huge_page_refusals) = self.media.region().merged_large_pages();
        let kept = self.kept_versions();
        json!({
            "media": self.media.kind().name(),
            "media_why": self.media.why(),
            "health": self.health().err().map_or("ok".to_string(), |error| error.to_string()),
            "pool_bytes": self.media.len_bytes(),
            "segment_size_bytes": segment_bytes,
            "used_bytes": used_bytes + extents.segment_bytes,
            "log_bytes": op_bytes,
            "dead_bytes": dead_bytes,
            "live_bytes": live_bytes,
            "tombstone_bytes": tombstone_bytes,
            "free_bytes": free * segment_bytes,
            "reserved_bytes": reserved * segment_bytes,
            "utilization": live_bytes as f64 / slots_bytes as f64,
            "extent_bytes": extents.extent_bytes,
            "extent_retired_bytes": extents.retired_bytes,
            "extent_segment_bytes": extents.segment_bytes,
            "log_entries": entries,
            "keys": index_entries,
            "index": self.options.index.name(),
            "index_bytes": self.index_bytes(),
            "index_huge_page_bytes": self.default.index.huge_page_bytes(),
            "huge_page_bytes": huge_page_bytes,
            "huge_page_refusals": huge_page_refusals,
            "segments": {
                "free": ready,
                "hollow": given_back.hollow_slots,
                "open": by_state[SlotState::Open as usize],
                "active": by_state[SlotState::Active as usize],
                "sealed": by_state[SlotState::Sealed as usize],
                "releasable": by_state[SlotState::Releasable as usize],
                "log": by_class[SegmentClass::LogHead as usize],
                "survivor": by_class[SegmentClass::Survivor as usize],
                "extent": by_class[SegmentClass::Extent as usize],
                "quarantined": quarantined,
            },
            "cleaner": {
                "passes": count(&cleaner.passes),
                "victims": count(&cleaner.victims),
                "bytes_read": count(&cleaner.bytes_read),
                "bytes_written": count(&cleaner.bytes_written),
                "entries_moved": count(&cleaner.entries_moved),
                "write_amplification": (appended + moved) as f64 / appended.max(1) as f64,
                "blob_bytes_moved": count(&cleaner.blob_bytes_moved),
                "extent_segments_evacuated": count(&cleaner.extent_segments_evacuated),
                "segments_freed": count(&cleaner.segments_freed),
                "stalls": count(&cleaner.stalls),
                "longest_stall_us": count(&cleaner.longest_stall_us),
                "delays": delays,
                "delayed_us": delayed_us,
                "tombstones_noted": self.noted.count(),
                "tombstones_kept": self.cleaner.tombstones_kept(),
            },
            "logs": self.oplog.log_count(),
            "rolls": self.oplog.rolls(),
            "appended_bytes": appended,
            "foreground_growths": self.space.foreground_growths(),
            "segments_given_back": given_back.slots,
            "give_back_failures": given_back.failures,
            "puts": self.counters.sum(|shard| &shard.puts),
            "put_bytes": self.counters.sum(|shard| &shard.put_bytes),
            "deletes": self.counters.sum(|shard| &shard.deletes),
            "gets": self.counters.sum(|shard| &shard.gets),
            "keyspaces": {
                "live": keyspaces.live,
                "dropped": keyspaces.dropped,
            },
            "snapshots": {
                "open": kept.open,
                "oldest_ms": kept.oldest_ms,
                "versions": kept.versions,
                "kept_bytes": kept.bytes,
            },
            "pinned_values": self.pinned.load(Ordering::Relaxed),
            "async_bytes_in_flight": self.committer.tickets.bytes_in_flight(),
            "damaged_ranges": self.damage.len(),
            "unreadable_pages": self.reader.unreadable_pages(),
            "repaired_frames": self.facts.repaired_frames,
            "open_us": self.facts.open_us,
            "open_ms": self.facts.open_us as f64 / 1000.0,
            "recovered_entries": self.facts.recovered_entries,
            "was_clean": self.facts.was_clean,
            "unsafe_shutdowns": self.facts.unsafe_shutdowns,
            "torn_heads": self.facts.torn_heads,
        })
    }
}
