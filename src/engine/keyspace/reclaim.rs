//! What lay in a dropped keyspace: its entries are counted as dead, one by one, so that the cleaner sees which segments are
//! worth emptying, and extents of its values come free.
//!
//! It begins when no open point shows the keyspace any more. Then it is taken from the register: nobody finds its index but
//! this, which nobody changes any more. To the cleaner its entries are dead from then on, and it would free their segments
//! and forget the extents that they name, so it waits until all are counted. After a crash the next open counts them.

use super::super::Engine;
use super::Keyspace;
use crate::checksum::CheckSite;
use crate::epoch;
use crate::format::OpKind;
use crate::index::Index;
use crate::media::guarded::Scratch;
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::{Addr, KeyspaceId};

/// Entries whose lines are asked for together.
const COUNTED_AT_ONCE: usize = 64;

impl<I: Index + 'static> Engine<I> {
    /// A keyspace was dropped.
    pub(super) fn reclaim_later(&self, keyspace: Arc<Keyspace<I>>) {
        let mut dropped = self.keyspaces.dropped.lock();
        dropped.push(keyspace);
        self.keyspaces.dropped_count.store(dropped.len(), Ordering::Release);
        drop(dropped);
        self.cleaner_thread.kick();
    }

    /// Counts what lies in dropped keyspaces that no snapshot shows, until `is_over`: then the next open does. True if there
    /// were any.
    pub(in crate::engine) fn reclaim_dropped(&self, is_over: impl Fn() -> bool) -> bool {
        if self.keyspaces.dropped_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        // A verification goes on for long, and whoever cleans has others waiting.
        let Some(_alone) = self.keyspaces.reclaiming.try_lock() else { return false };
        let mut has_any = false;
        while let Some(keyspace) = self.take_invisible() {
            has_any = true;
            self.reclaim(&keyspace, &is_over);
        }
        has_any
    }

    /// No keyspace's entries are half counted while this is held.
    pub(in crate::engine) fn hold_reclaiming(&self) -> MutexGuard<'_, ()> {
        self.keyspaces.reclaiming.lock()
    }

    /// The next one that no point shows. Points that are opened from now on do not show it either.
    fn take_invisible(&self) -> Option<Arc<Keyspace<I>>> {
        let mut dropped = self.keyspaces.dropped.lock();
        // Behind the lock: a point that was opened before one of these was dropped is open by now, or closed again.
        let oldest = self.versions.oldest_point();
        let at = dropped.iter().position(|one| oldest.is_none_or(|oldest| !one.is_visible_at(oldest)))?;
        let taken = dropped.swap_remove(at);
        self.keyspaces.dropped_count.store(dropped.len(), Ordering::Release);
        Some(taken)
    }

    fn reclaim(&self, keyspace: &Keyspace<I>, is_over: &impl Fn() -> bool) {
        let _cleaning_waits = self.cleaner.hold();
        self.keyspaces.unregister(keyspace.id);
        let mut addrs = Vec::with_capacity(COUNTED_AT_ONCE);
        let mut is_ended = false;
        keyspace.index.for_each(|addr| {
            if is_ended {
                return;
            }
            addrs.push(addr);
            if addrs.len() == COUNTED_AT_ONCE {
                self.count_dead(&mut addrs);
                is_ended = is_over();
            }
        });
        self.count_dead(&mut addrs);
    }

    fn count_dead(&self, addrs: &mut Vec<Addr>) {
        let guard = epoch::pin();
        self.reader.prefetch(addrs);
        addrs.drain(..).for_each(|addr| self.count_dead_entry(addr, &guard));
    }

    fn count_dead_entry(&self, addr: Addr, guard: &epoch::Guard) {
        let scratch = Scratch::new();
        let Some(op) = self.reader.op(addr, &scratch) else { return };
        self.note_dead(addr, op.kind(), op.footprint_bytes());
        // A descriptor that rotted names anybody's extents: those of the real one stay in use until the next open.
        if op.kind() == OpKind::PutBlob
            && self.reader.verify(addr, &op, CheckSite::EntryOnGet)
            && let Some(ranges) = self.ranges_owned(addr, op.value())
        {
            self.retire_dead(ranges, guard);
        }
    }

    /// Recovery: what lies in a keyspace that the catalogue says was dropped is dead. No extent of it is in use yet.
    pub(super) fn bury_keyspace(&self, id: KeyspaceId) {
        let Some(keyspace) = self.keyspaces.get(id) else { return };
        self.keyspaces.unregister(id);
        let _guard = epoch::pin();
        keyspace.index.for_each(|addr| {
            let scratch = Scratch::new();
            if let Some(op) = self.reader.op(addr, &scratch) {
                self.note_dead(addr, op.kind(), op.footprint_bytes());
            }
        });
    }
}

#[cfg(feature = "sim")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::WholeStore;
    use crate::format::HolderRecord;
    use crate::index::hash::HashIndex;
    use crate::media::sim::{SimKind, SimMedia};
    use crate::options::WriteOptions;
    use crate::testing;
    use crate::types::Seq;
    use std::time::Duration;

    /// The oldest point was asked for before the list of dropped keyspaces was locked: one that was dropped in between, behind a
    /// snapshot that was made in between, was taken from under it, and the snapshot showed it empty.
    #[test]
    fn a_keyspace_dropped_while_others_are_reclaimed_stays_for_a_snapshot_from_before() {
        let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
        let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
        let engine = Engine::open(media, true, testing::options(), &holder, HashIndex::with_expected)
            .expect("a fresh pool");
        let named = engine.open_keyspace("kept").expect("room");
        engine.put(&*named, &WriteOptions::default(), b"key", b"value").expect("room");
        std::thread::scope(|scope| {
            let keyspace = named.current().expect("it is there");
            let mut dropped = engine.keyspaces.dropped.lock();
            engine.keyspaces.dropped_count.store(1, Ordering::Release);
            let reclaimer = scope.spawn(|| engine.reclaim_dropped(|| false));
            // Until it waits for the lock; where it did not come so far it cannot be wrong.
            std::thread::sleep(Duration::from_millis(50));
            let snapshot = engine.snapshot(WholeStore).expect("it is open");
            keyspace.ended.store(Seq::END.0 - 1, Ordering::Release);
            dropped.push(Arc::clone(&keyspace));
            drop(dropped);
            assert!(!reclaimer.join().expect("no panic"), "a snapshot shows it");
            assert!(engine.keyspaces.get(keyspace.id()).is_some());
            drop(snapshot);
            assert!(engine.reclaim_dropped(|| false), "nobody shows it any more");
        });
        engine.let_go();
    }
}
