//! The ordered index: a trie of concurrent B+-trees over eight-byte slices of the keys, about 25 bytes of DRAM per key, and
//! more where keys need many small trees.
//!
//! After Masstree (Mao, Kohler, Morris, EuroSys 2012): a tree orders keys by one slice of eight bytes, and a slice that
//! too many longer keys share leads to a tree of its own, a *layer*, which goes on behind it. Unlike there, up to
//! `RUN_MAX` longer keys with one slice stay side by side, a *run*: their order lies in the log, and bits of their
//! hashes tell a lookup which of them to read. Bytes that all keys of a layer share behind the slice are its *prefix*,
//! kept once. So no key lies in a node, lookups compare machine words until they reach the log entry, and only a new
//! place inside a run, or a new layer, reads keys from the log.
//!
//! Nodes are locked and validated as in optimistic lock coupling, see `node.rs`: readers store nothing.
//!
//! Invariants:
//!   - the slots of a leaf are sorted by slice and rank; keys of a run, equal in both, by their bytes
//!   - a link covers every key that starts with its bytes of the slice: no other slot of its tree holds such a key, and no
//!     separator lies among them
//!   - slices that are not in use, in nodes of trees, are the greatest there is: searches look at them, too
//!   - slots with one slice lie in one leaf: separators are slices. So `RUN_MAX` leaves a leaf that can be split
//!   - no leaf has a version twice, not even when it was given back and handed out again: see `look.rs`
//!   - what a node says of places changes only together with its version. A word alone changes under the lock and the old
//!     version, for the same key or, for a link, to a layer with the same keys; whoever stores to it compares it first
//!   - a locked thread waits for nothing but the list of free nodes, and reads no log; parents are locked before children,
//!     and only by trying
//!   - prefixes never change; a layer, or a node, that leaves the tree is marked and comes back after the grace period
//!   - a marked slot holds a tombstone, never a link: who stores another word takes the mark away, a move of the same entry
//!     does not. A mark is no place: it changes without the version. It may be missing
//!   - a leaf with nothing but marked slots may be named by its parent: see `passed.rs`
//!   - entries whose bytes could not be read when a layer was made for their run are `unplaced`: found by lookups, not by
//!     scans
//!   - the tree of the first layer is never replaced. Siblings share the nodes, and have a first layer each

mod beside;
mod dispose;
mod estimate;
mod group;
mod look;
mod node;
mod passed;
mod scan;
mod shrink;
mod split;
#[cfg(test)]
mod tests;
mod walk;

use super::arena::{AddressSpace, Inner, LEAF_SLOTS, Layer, Leaf, Pool, memory_bytes};
use super::count::EntryCount;
use super::{Candidate, Direction, Edge, InOrder, Index, Key, LogKeys, PassNothing, PassOver, Seen, Upsert};
use crate::epoch::{self, Guard};
use crate::error::Result;
use crate::media::durable::{Durable, Publishable};
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::types::Addr;
use crossbeam_utils::Backoff;
use look::{Known, Slots};
use node::{Attempt, INNER, LAYER_BYTES, Locked, RANK_LONGER, Restart, SLICE_BYTES, Word, check, slice_at};
use std::cell::Cell;
use std::ops::ControlFlow;
use walk::{Place, Spot};

/// Longer keys with one slice that stay in a leaf.
const RUN_MAX: usize = 16;
// A leaf that is full has two slices: all ranks of one slice and a run do not fill it.
const _: () = assert!(SLICE_BYTES + 1 + RUN_MAX < LEAF_SLOTS);
/// Below this a leaf takes from a neighbour or joins it.
const LEAF_MIN: usize = LEAF_SLOTS / 4;
/// A layer of one leaf with no more entries than this goes back to where its link is.
const COLLAPSE_MAX: usize = RUN_MAX / 2;

/// Of the largest reservation that a limited address space grants, this part is taken.
const SCARCE_SHARE: usize = 4;
/// While leaves grow, inner nodes have memory ahead of use for this part of theirs. A huge page of them leads to forty of leaves
/// and is in use for as long, and all looks would wait while it is merged.
const INNERS_AHEAD_OF: usize = 8;
/// Leaves that numbers are left for. A machine with memory for as many is not asked for more.
const LEAVES_MAX: usize = 1 << 30;
const _: () = assert!(LEAVES_MAX < INNER as usize);
/// Least reservation, for pools of a few segments and where the address space is limited.
const LEAVES_MIN: usize = 1 << 12;
/// Leaves reserved for an entry that a pool has room for, if each took one unit of its space; the shortest takes two. So a
/// batch that fits the pool finds [`KEY_LEAVES_MAX`] for each of its keys. Most leaves hold twenty entries: the rest is never
/// touched.
const ENTRY_LEAVES_RESERVED: u64 = 2;
const _: () = assert!(ENTRY_LEAVES_RESERVED * 2 >= KEY_LEAVES_MAX);
/// Layer nodes for each leaf: so many take the same memory. There is no layer without a leaf, but long prefixes take many.
const LEAF_LAYERS_RESERVED: usize = size_of::<Leaf>() / size_of::<Layer>();
/// Leaves, inner nodes and layers that a key takes at most, splits on its way included; and prefixes, which may be cut in two.
const KEY_LEAVES_MAX: u64 = 4;
const KEY_INNERS_MAX: u64 = 12;
const KEY_LAYERS_MAX: u64 = 8;
/// Keys that are walked down together by a prefetch.
const PREFETCH_GROUP: usize = 32;

/// See the module.
pub struct OrderedIndex {
    nodes: Arc<Nodes>,
    /// See the module.
    first: u32,
    log: Arc<dyn LogKeys>,
    entries: EntryCount,
    unplaced: Unplaced,
}

struct Nodes {
    layers: Pool<Layer>,
    inners: Pool<Inner>,
    leaves: Pool<Leaf>,
}

/// Entries without a place in the order. Nearly always none, which costs lookups of absent keys one load.
#[derive(Default)]
struct Unplaced {
    count: AtomicUsize,
    words: Mutex<Vec<Word>>,
}

impl Unplaced {
    fn add(&self, word: Word) {
        let mut words = self.words.lock();
        words.push(word);
        self.count.store(words.len(), Ordering::Release);
    }

    /// Those that may be the key's.
    #[inline]
    fn candidates(&self, hash: u64) -> Vec<Word> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.words.lock().iter().copied().filter(|word| word.has_hash(hash)).collect()
    }

    /// Lets go of `word`, or puts another in its place; false if it is not there any more.
    fn exchange(&self, word: Word, by: Option<Word>) -> bool {
        let mut words = self.words.lock();
        let Some(at) = words.iter().position(|known| *known == word) else { return false };
        match by {
            Some(by) => words[at] = by,
            None => drop(words.swap_remove(at)),
        }
        self.count.store(words.len(), Ordering::Release);
        true
    }
}

/// Repeats an attempt until it succeeds.
#[inline]
fn retry<T>(mut attempt: impl FnMut() -> Attempt<T>) -> T {
    if let Ok(done) = attempt() {
        return done;
    }
    let backoff = Backoff::new();
    loop {
        if let Ok(done) = attempt() {
            return done;
        }
        backoff.snooze();
    }
}

impl OrderedIndex {
    /// An empty index that never gets more than `most` entries. It grows leaf by leaf, so how many are expected makes no
    /// difference.
    ///
    /// Nodes are reserved for all entries that there may be, or, if that is less, for all that the memory of this machine can
    /// hold, of each kind: so memory runs out before nodes do. There is an inner node for each leaf, though most have dozens:
    /// keys that differ in two places have a tree of two leaves for each value of the first. Only where the address space is
    /// limited there may be fewer: see [`Index::has_room_for`].
    ///
    /// # Errors
    /// `Io` if address space cannot be reserved.
    pub fn with_expected(log: Arc<dyn LogKeys>, _expected: u64, most: u64) -> Result<OrderedIndex> {
        let in_memory = memory_bytes() / size_of::<Leaf>() as u64;
        let wanted = most.saturating_mul(ENTRY_LEAVES_RESERVED).min(in_memory);
        let mut leaves = wanted.clamp(LEAVES_MIN as u64, LEAVES_MAX as u64) as usize;
        let layers = |leaves: usize| (leaves * LEAF_LAYERS_RESERVED).min(u32::MAX as usize);
        let reserve = |leaves: usize| {
            let bytes = EntryCount::needed_bytes()
                + AddressSpace::needed_bytes::<Layer>(layers(leaves))
                + AddressSpace::needed_bytes::<Inner>(leaves)
                + AddressSpace::needed_bytes::<Leaf>(leaves);
            AddressSpace::reserve(bytes)
        };
        let mut reserved = reserve(leaves);
        if reserved.is_err() {
            while leaves > LEAVES_MIN && reserved.is_err() {
                leaves = (leaves / 2).max(LEAVES_MIN);
                reserved = reserve(leaves);
            }
            // That is most of what is left. Others in the process need some, too.
            drop(reserved);
            leaves = (leaves / SCARCE_SHARE).max(LEAVES_MIN);
            reserved = reserve(leaves);
        }
        let mut space = reserved?;
        let entries = EntryCount::new(&mut space);
        let nodes = Nodes {
            layers: Pool::new(space.take(layers(leaves))),
            inners: Pool::new(space.take(leaves)),
            leaves: Pool::made_ahead(space.take(leaves)),
        };
        let first = nodes.new_tree();
        Ok(OrderedIndex { nodes: Arc::new(nodes), first, log, entries, unplaced: Unplaced::default() })
    }

    /// Frees nodes, by a closure, once nobody can see them.
    fn retire(&self, free: impl FnOnce(&Nodes) + Send + 'static) {
        // Weak: a dropped index gives its memory back at once, not after the last grace period.
        let nodes = Arc::downgrade(&self.nodes);
        epoch::retire(&epoch::pin(), size_of::<Leaf>() as u64, move || {
            if let Some(nodes) = nodes.upgrade() {
                free(&nodes);
            }
        });
    }

    #[inline]
    fn try_get<R>(&self, key: Key<'_>, probe: &mut impl FnMut(Addr) -> Option<R>) -> Attempt<Option<R>> {
        let Place::Here(spot) = self.nodes.locate(self.first, key.bytes)? else { return Ok(None) };
        let wanted = Word::entry(Addr::from_bits(0), spot.rank, key.hash);
        for word in spot.candidates() {
            if word.may_be(wanted) {
                // Before the log is read at an address that may be none.
                spot.check()?;
                if let Some(found) = probe(word.addr()) {
                    return Ok(Some(found));
                }
            }
        }
        spot.check()?;
        Ok(None)
    }

    /// The first candidate for a key of one slice. Also gives up where there may be a link, which such keys seldom meet.
    #[inline(always)]
    fn try_first(&self, key: Key<'_>) -> Attempt<Option<Addr>> {
        let (slice, rank) = slice_at(key.bytes, 0);
        let (number, version) = self.nodes.walk(self.first, slice, |_, _, _, _| {})?;
        let leaf = self.nodes.leaves.get(number);
        let count = leaf.len();
        let at = leaf.lower_bound(count, slice, rank);
        let has_slice = at < count && leaf.slice(at) == slice;
        if has_slice {
            let word = leaf.word(at);
            check(&leaf.version, version)?;
            // A key has no link beside it that covers it.
            let is_found = word.may_be(Word::entry(Addr::from_bits(0), rank, key.hash));
            return if is_found { Ok(Some(word.addr())) } else { Err(Restart) };
        }
        let is_link = |at: usize| at < count && leaf.word(at).is_link();
        if is_link(at) || at > 0 && is_link(at - 1) {
            return Err(Restart);
        }
        check(&leaf.version, version)?;
        Ok(None)
    }

    fn try_upsert(
        &self,
        key: Key<'_>,
        new: Addr,
        judge: &mut impl FnMut(Addr) -> Candidate,
    ) -> Attempt<Upsert> {
        let spot = match self.nodes.locate(self.first, key.bytes)? {
            Place::Here(spot) => spot,
            Place::Apart(spot, apart) => {
                self.split_prefix(&spot, &apart)?;
                return Err(Restart);
            }
        };
        if spot.leaf.is_passed() {
            self.nodes.rouse_leaf_of(&spot)?;
            return Err(Restart);
        }
        let word = Word::entry(new, spot.rank, key.hash);
        for (at, known) in (spot.at..).zip(spot.candidates()) {
            if known.may_be(word) {
                spot.check()?;
                match judge(known.addr()) {
                    Candidate::OtherKey => {}
                    Candidate::Newer => return Ok(Upsert::Lost(known.addr())),
                    Candidate::Older => {
                        spot.leaf.exchange(spot.version, at, known, word)?;
                        return Ok(Upsert::Replaced(known.addr()));
                    }
                }
            }
        }
        self.insert(key, &spot, word)?;
        Ok(Upsert::Inserted)
    }

    /// Gives a key that is not there its slot, or makes room for it and starts again.
    fn insert(&self, key: Key<'_>, spot: &Spot<'_>, word: Word) -> Attempt<()> {
        if spot.count == LEAF_SLOTS {
            self.make_room(spot.layer, spot.slice)?;
            return Err(Restart);
        }
        let mut at = spot.at;
        if spot.rank == RANK_LONGER {
            let run = spot.candidates().count();
            if run >= RUN_MAX {
                self.make_layer(key.bytes, spot, run)?;
                return Err(Restart);
            }
            at = self.place_in_run(key.bytes, spot, run)?;
        }
        let mut leaf = Locked::new(&spot.leaf.version, spot.version)?;
        if spot.leaf.is_passed() {
            return Err(Restart);
        }
        leaf.changed();
        spot.leaf.insert(at, spot.slice, word);
        Ok(())
    }

    /// The slot in a run before which a key belongs: behind the last one that is read and is less.
    fn place_in_run(&self, key: &[u8], spot: &Spot<'_>, run: usize) -> Attempt<usize> {
        let (mut low, mut high) = (spot.at, spot.at + run);
        while low < high {
            let middle = low + (high - low) / 2;
            let (mut at, mut is_less) = (middle, None);
            while at < high && is_less.is_none() {
                let known = spot.leaf.word(at);
                spot.check()?;
                is_less = self.with_key_of(known, |other| other < key);
                at += 1;
            }
            // What cannot be read, or has rotted, is passed over: the others are sorted all the same.
            if is_less == Some(true) { low = at } else { high = middle }
        }
        Ok(low)
    }

    /// Shows the key of an entry; `None` if it cannot be read, or is not the key that the word was made for.
    fn with_key_of<R>(&self, word: Word, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if !word.has_hash(self.log.key_hash(word.addr())?) {
            return None;
        }
        let (mut look, mut seen) = (Some(look), None);
        self.log.with_key(word.addr(), &mut |key| seen = look.take().map(|look| look(key)));
        seen
    }

    /// The cleaner's and the forgetter's half: changes the slot of the key, if it holds `from`, with its leaf locked.
    fn change(
        &self,
        key: Key<'_>,
        from: Addr,
        change: impl Fn(&mut Locked<'_>, &Spot<'_>, usize, Word),
    ) -> bool {
        retry(|| {
            let Place::Here(spot) = self.nodes.locate(self.first, key.bytes)? else { return Ok(false) };
            let found = (spot.at..).zip(spot.candidates()).find(|(_, word)| word.addr() == from);
            spot.check()?;
            let Some((at, word)) = found else { return Ok(false) };
            let mut locked = Locked::new(&spot.leaf.version, spot.version)?;
            if spot.leaf.word(at) != word {
                return Err(Restart);
            }
            change(&mut locked, &spot, at, word);
            Ok(true)
        })
    }

    /// The first entry that may be the key's, if the first attempt has not found it.
    #[inline(never)]
    fn first_of_any(&self, bytes: &[u8], hash: u64) -> Option<Addr> {
        self.get(Key { bytes, hash }, Some)
    }

    #[inline]
    fn has_unplaced(&self) -> bool {
        self.unplaced.count.load(Ordering::Acquire) != 0
    }

    fn unplaced_at(&self, key: Key<'_>, at: Addr) -> Option<Word> {
        self.unplaced.candidates(key.hash).into_iter().find(|word| word.addr() == at)
    }

    /// An upsert of a key that the tree did not have: it may be one of the unplaced.
    #[cold]
    fn replace_unplaced(&self, key: Key<'_>, judge: &mut impl FnMut(Addr) -> Candidate) -> Option<Addr> {
        loop {
            let mut candidates = self.unplaced.candidates(key.hash).into_iter();
            let older = candidates.find(|word| judge(word.addr()) == Candidate::Older)?;
            // Else the cleaner has moved the entry meanwhile: it must not stay beside the new one.
            if self.unplaced.exchange(older, None) {
                return Some(older.addr());
            }
        }
    }
}

impl Index for OrderedIndex {
    const PREFETCHES_BY_HASH: bool = false;
    type Spot = Slots;
    type Place<'i> = Known;

    #[inline]
    fn get<R>(&self, key: Key<'_>, mut probe: impl FnMut(Addr) -> Option<R>) -> Option<R> {
        let found = retry(|| self.try_get(key, &mut probe));
        found.or_else(|| self.unplaced.candidates(key.hash).into_iter().find_map(|word| probe(word.addr())))
    }

    #[inline(always)]
    fn first(&self, key: Key<'_>) -> Option<Addr> {
        let attempt = match key.bytes.len() {
            ..=SLICE_BYTES => self.try_first(key),
            _ => self.try_get(key, &mut Some),
        };
        match attempt {
            Ok(Some(found)) => Some(found),
            Ok(None) if !self.has_unplaced() => None,
            _ => self.first_of_any(key.bytes, key.hash),
        }
    }

    #[inline]
    fn look(&self, key: Key<'_>, mut visit: impl FnMut(Addr) -> ControlFlow<()>) -> Slots {
        let (slots, _) = retry(|| self.try_look(key, &mut visit));
        let _ = self.unplaced.candidates(key.hash).into_iter().try_for_each(|word| visit(word.addr()));
        slots
    }

    #[inline(always)]
    fn look_to_put<'i>(
        &'i self,
        key: Key<'_>,
        _guard: &'i Guard,
        mut visit: impl FnMut(Addr),
    ) -> Seen<Slots, Known> {
        let mut visit = |addr| {
            visit(addr);
            ControlFlow::Continue(())
        };
        let (spot, place) = retry(|| self.try_look(key, &mut visit));
        let _ = self.unplaced.candidates(key.hash).into_iter().try_for_each(|word| visit(word.addr()));
        Seen { spot, place, known: place.map(Known::addr) }
    }

    #[inline(always)]
    fn publish_seen(
        &self,
        seen: &Seen<Slots, Known>,
        new: Publishable<Addr>,
    ) -> std::result::Result<(), Publishable<Addr>> {
        let exchange = |known: &Known| self.nodes.exchange_known(known, *new.get());
        let is_done = !self.has_unplaced() && seen.place.as_ref().is_some_and(exchange);
        if is_done { Ok(()) } else { Err(new) }
    }

    #[inline]
    fn upsert_at(
        &self,
        slots: Slots,
        key: Key<'_>,
        new: Publishable<Addr>,
        mut judge: impl FnMut(Addr) -> Candidate,
    ) -> Upsert {
        let new = new.into_inner();
        assert!(new.to_bits() != 0, "the pool head lies at address 0");
        if !self.has_unplaced()
            && let Some(done) = self.nodes.upsert_in(slots, key, new, &mut judge)
        {
            return done;
        }
        let done = retry(|| {
            if self.has_unplaced()
                && let Some(newer) = self
                    .unplaced
                    .candidates(key.hash)
                    .into_iter()
                    .find(|word| judge(word.addr()) == Candidate::Newer)
            {
                return Ok(Upsert::Lost(newer.addr()));
            }
            self.try_upsert(key, new, &mut judge)
        });
        if done != Upsert::Inserted {
            return done;
        }
        if self.has_unplaced()
            && let Some(older) = self.replace_unplaced(key, &mut judge)
        {
            return Upsert::Replaced(older);
        }
        self.entries.add(1);
        Upsert::Inserted
    }

    fn find(&self, keys: &[Key<'_>], at: &[Addr], found: &mut [Option<Slots>]) {
        let groups = keys.chunks(PREFETCH_GROUP).zip(at.chunks(PREFETCH_GROUP));
        for ((keys, at), found) in groups.zip(found.chunks_mut(PREFETCH_GROUP)) {
            self.find_group(keys, at, found);
        }
    }

    #[inline]
    fn relocate(&self, slots: Slots, key: Key<'_>, from: Addr, to: Durable<Addr>) -> bool {
        let to = to.into_inner();
        assert!(to.to_bits() != 0, "the pool head lies at address 0");
        self.nodes.relocate_in(slots, from, to)
            || self.change(key, from, |_, spot, at, word| spot.leaf.move_word(at, word.moved(to)))
            || self
                .unplaced_at(key, from)
                .is_some_and(|word| self.unplaced.exchange(word, Some(word.moved(to))))
    }

    fn remove(&self, key: Key<'_>, at: Addr) -> bool {
        let is_removed = self.change(key, at, |locked, spot, at, _| {
            locked.changed();
            spot.leaf.cut(at, at + 1);
        });
        if is_removed {
            self.shrink(key.bytes);
        } else if !self.unplaced_at(key, at).is_some_and(|word| self.unplaced.exchange(word, None)) {
            return false;
        }
        self.entries.add(-1);
        true
    }

    #[inline]
    fn mark_tombstone(&self, key: Key<'_>, at: Addr) {
        let is_last = Cell::new(false);
        self.change(key, at, |_, spot, at, _| {
            spot.leaf.mark(at);
            is_last.set(spot.leaf.holds_marks_alone() && !spot.leaf.is_passed());
        });
        if is_last.get() {
            self.pass_over_leaf_of(key.bytes);
        }
    }

    fn prefetch(&self, keys: &[Key<'_>]) {
        // For one key it would only be the walk that follows anyway.
        if keys.len() > 1 {
            keys.chunks(PREFETCH_GROUP).for_each(|group| self.nodes.prefetch(self.first, group));
        }
    }

    #[inline]
    fn prefetch_spot(&self, slots: Slots, _hash: u64) {
        self.nodes.prefetch_slots(slots);
    }

    fn scan<'a>(
        &'a self,
        guard: &'a Guard,
        from: Edge<'_>,
        direction: Direction,
        wanted: usize,
        passing: impl PassOver + 'a,
    ) -> Option<impl InOrder + 'a> {
        Some(scan::Scan::new(self, guard, (from, direction), wanted, passing))
    }

    fn estimate(&self, _guard: &Guard, from: Edge<'_>, to: Edge<'_>) -> Option<u64> {
        Some(self.nodes.estimate(self.first, from, to))
    }

    fn unplaced(&self, visit: impl FnMut(Addr)) {
        if self.has_unplaced() {
            let words = self.unplaced.words.lock().clone();
            words.into_iter().map(Word::addr).for_each(visit);
        }
    }

    fn for_each(&self, mut visit: impl FnMut(Addr)) {
        let guard = epoch::pin();
        let all = (Edge::Unbounded, Direction::Forward);
        scan::Scan::new(self, &guard, all, usize::MAX, PassNothing).for_each(&mut visit);
        self.unplaced(visit);
    }

    fn len(&self) -> u64 {
        self.entries.sum()
    }

    fn sibling(&self) -> Result<OrderedIndex> {
        let mut space = AddressSpace::reserve(EntryCount::needed_bytes())?;
        let entries = EntryCount::new(&mut space);
        let nodes = Arc::clone(&self.nodes);
        let first = nodes.new_tree();
        Ok(OrderedIndex { nodes, first, log: Arc::clone(&self.log), entries, unplaced: Unplaced::default() })
    }

    #[inline]
    fn has_room_for(&self, keys: u64, bytes: u64) -> bool {
        let prefixes = 2 * bytes / LAYER_BYTES as u64;
        // Each inner node that is there splits once at most before it takes many more separators, so many keys together
        // need fewer than each alone might.
        let inners = (keys * KEY_INNERS_MAX).min(self.nodes.inners.in_use() + 2 * keys);
        self.nodes.leaves.left() >= keys * KEY_LEAVES_MAX
            && self.nodes.inners.left() >= inners
            && self.nodes.layers.left() >= keys * KEY_LAYERS_MAX + prefixes
    }

    fn shared_bytes(&self) -> u64 {
        let nodes = &*self.nodes;
        nodes.layers.memory_bytes() + nodes.inners.memory_bytes() + nodes.leaves.memory_bytes()
    }

    fn own_bytes(&self) -> u64 {
        self.entries.memory_bytes()
    }

    fn make_huge_page(&self) -> bool {
        let nodes = &*self.nodes;
        nodes.leaves.make_huge_page(0)
            || nodes.inners.make_huge_page(nodes.leaves.growing_bytes() / INNERS_AHEAD_OF)
            || nodes.layers.make_huge_page(0)
    }

    fn huge_page_bytes(&self) -> u64 {
        let nodes = &*self.nodes;
        nodes.leaves.merged_bytes() + nodes.inners.merged_bytes() + nodes.layers.merged_bytes()
    }
}
