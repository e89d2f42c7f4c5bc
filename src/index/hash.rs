//! The hash index: a concurrent extendible hash table of 8-byte slots, about eleven bytes of DRAM per key.
//!
//! The low bits of a key's hash choose a *cell* through the directory. A cell is one to eight pages of buckets; a bucket
//! is a cache line of eight slots; the high bits of the hash are the *position*, which scales to the home bucket. A full
//! cell is rebuilt with more pages, and a large one is split in two by the next directory bit. Only the one cell stops
//! for that, and only for its writers.
//!
//! A slot is an address (41 bits), the frozen mark, the position (16 bits), growth bits (5 bits: those of the hash that
//! the directory will need next) and the unread mark. So most splits do without the keys: their hashes are read from
//! the log once in `GROWTH_BITS` splits.
//!
//! Invariants:
//!   - probe order: the buckets of a cell from the home bucket around, slot by slot, then likewise in the next part of an
//!     oversized cell. A slot never becomes `EMPTY` again and never changes its key, and inserts take only the first `EMPTY`
//!     in probe order. So a key is not behind the first `EMPTY`, and two inserts of one key meet in one slot
//!   - a frozen slot never changes again, and a cell is replaced only when all its slots are frozen: no write is lost.
//!     Writers that meet the mark wait for the new cell; readers ignore it, since what they see was true when they looked
//!   - a descriptor is immutable but for its claim, which the one thread that replaces the cell takes. It is retired with
//!     its pages after the directory forgot it, so a caller's epoch guard keeps both readable
//!   - a descriptor serves the hashes whose low `depth` bits equal its prefix, whatever way led to it
//!   - an entry whose hash cannot be read carries the unread mark: its growth bits match every hash, and splits put it on
//!     both sides. Damage keeps its segment from being reused, so the copy on the wrong side never names another entry
//!   - `len` counts keys: a copy on the wrong side is not counted
//!
//! Pages come back after a grace period, so a caller that inserts in bulk renews its guard at least every few thousand
//! keys; under one long guard a growing index keeps every page it ever had.

mod look;

use super::arena::{
    AddressSpace, BUCKET_SLOTS, Bucket, Line, PAGE_BUCKETS, PAGE_SLOTS, Page, Pool, Reserved, prefetch,
    prefetch_to_write,
};
use super::count::EntryCount;
use super::{Candidate, Direction, Edge, InOrder, Index, Key, LogKeys, PassOver, Seen, Upsert};
use crate::constants::{ADDR_BITS, PAGE_BYTES};
use crate::epoch::{self, Guard};
use crate::error::Result;
use crate::media::durable::{Durable, Publishable};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use crate::types::Addr;
use crossbeam_utils::{Backoff, CachePadded};
use look::{Place, Spot};
use std::hint::select_unpredictable;
use std::ops::ControlFlow;

const ADDR_MASK: u64 = (1 << ADDR_BITS) - 1;
const FROZEN: u64 = 1 << ADDR_BITS;
const POSITION_BITS: u32 = 16;
const POSITION_SHIFT: u32 = ADDR_BITS + 1;
const POSITION_MASK: u64 = ((1 << POSITION_BITS) - 1) << POSITION_SHIFT;
const GROWTH_BITS: u32 = 5;
const GROWTH_SHIFT: u32 = POSITION_SHIFT + POSITION_BITS;
const GROWTH_MASK: u64 = ((1 << GROWTH_BITS) - 1) << GROWTH_SHIFT;
const UNREAD: u64 = 1 << (GROWTH_SHIFT + GROWTH_BITS);
const _: () = assert!(UNREAD == 1 << 63, "the fields fill the word");

/// A slot that no key has taken yet.
const EMPTY: u64 = 0;
/// A slot whose key was forgotten. Like `EMPTY` it has address 0, where the pool head lies and no entry can.
const REMOVED: u64 = 1 << POSITION_SHIFT;

/// Depth at which cells are no longer split; they become oversized instead.
const DEPTH_MAX: u32 = 24;
/// Address space for pages of buckets: 64 GiB, enough for five billion keys. A cell has at least one page, so this is also
/// how many descriptors there can be.
const PAGES_MAX: usize = 1 << 24;
/// Least reservation, for pools of a few segments and where the address space is limited.
const PAGES_MIN: usize = 1 << 10;
/// Entries per page for which a small pool reserves. Growth keeps above 180, and never has more than nine times the pages
/// it needs waiting for a grace period; the rest is for the cells that hashes of no randomness make.
const PAGE_ENTRIES_RESERVED: u64 = 4;

/// Pages a descriptor names.
const PART_PAGES_MAX: usize = 8;
/// Pages a cell of so many pages gets next; from the last on it is split, in two of `SPLIT_PAGES_MIN`. Larger steps copy
/// and freeze less, smaller ones hold memory closer to what is needed: with these an insert pays for copying three and a
/// half entries, and a key for 9.1 to 13.6 bytes, 10.8 on average over sizes.
const PAGES_NEXT: [usize; PART_PAGES_MAX] = [1, 2, 3, 4, 6, 6, 8, 8];
const SPLIT_PAGES_MIN: usize = 6;
/// A split that leaves one side less than this share is not worth a deeper directory: hashes that bad are not random.
const SPLIT_SHARE_MIN: usize = 16;
/// An insert that finds its slot more buckets than this from home makes the cell grow, at a load of about 0.88.
const DISTANCE_MAX: u32 = 24;
/// No distance at all makes an oversized cell grow, only being full.
const DISTANCE_ANY: u32 = u32::MAX;
/// Below this load a crowded cell is not given pages: many equal positions crowd it, or removed keys.
const GROWTH_LOAD_MIN: f64 = 0.7;
/// Load up to which a rebuilt cell is filled.
const REBUILT_LOAD_MAX: f64 = 0.75;
/// Load to which the cells of an index made for so many keys are filled by them: few then have to grow.
const EXPECTED_LOAD: f64 = 0.80;
/// Entries whose hashes are read together.
const REFILL_GROUP: usize = 16;

// Numbers in a descriptor; the first are its pages.
const PAGE_COUNT: usize = 8;
const DEPTH: usize = 9;
const PREFIX: usize = 10;
const DISTANCE: usize = 11;
const NEXT_PART: usize = 12;
const CLAIM: usize = 13;
const GENERATION: usize = 14;
const _: () = assert!(PAGE_COUNT == PART_PAGES_MAX);

/// See the module.
pub struct HashIndex {
    storage: Arc<Storage>,
    log: Arc<dyn LogKeys>,
    /// Bits of the hash that the directory uses now.
    depth: AtomicU32,
    depth_max: u32,
    /// A growth panicked half-way: its cell stays frozen.
    is_broken: AtomicBool,
    /// Held for changes of the directory.
    directory_lock: CachePadded<Mutex<()>>,
}

/// What belongs to one index, and the nodes, which it shares with its siblings.
struct Storage {
    directory: Reserved<AtomicU32>,
    descriptors: Reserved<Line>,
    pages: Reserved<Page>,
    nodes: Arc<Nodes>,
    entries: EntryCount,
}

/// Who hands out nodes.
struct Nodes {
    descriptors: Pool<Line>,
    pages: Pool<Page>,
    /// Cells that were built: tells those with the same number apart.
    generations: AtomicU32,
}

/// The low `depth` bits.
#[inline]
fn low_bits(depth: u32) -> u64 {
    (1 << depth) - 1
}

/// What a slot of a key with this hash holds beside the address, in a cell of this depth.
#[inline]
fn tag(hash: u64, depth: u32) -> u64 {
    let growth = hash >> (depth / GROWTH_BITS * GROWTH_BITS);
    (hash >> (64 - POSITION_BITS) << POSITION_SHIFT) | ((growth << GROWTH_SHIFT) & GROWTH_MASK)
}

/// Whether a slot may hold an entry of a key with this tag.
#[inline]
fn may_be(word: u64, tag: u64) -> bool {
    let differing = word ^ tag;
    differing & POSITION_MASK == 0
        && (differing & (GROWTH_MASK | UNREAD) == 0 || word & UNREAD != 0)
        && word & ADDR_MASK != 0
}

/// The slots of a bucket that may hold an entry of a key with this tag, and perhaps more: a bit for each. Without branches: at
/// which slot a key is found cannot be predicted, and a wrong guess is noticed only when the bucket has come from memory.
/// What a CPU has begun of the next get until then would be for nothing.
#[inline]
fn candidates(bucket: &Bucket, tag: u64) -> u64 {
    let mut all = 0;
    let found = bucket.slots.iter().rev().fold(0, |found, slot| {
        let word = slot.load(Ordering::Acquire);
        all |= word;
        2 * found + u64::from((word ^ tag) & (POSITION_MASK | GROWTH_MASK) == 0)
    });
    if all & UNREAD == 0 { found } else { (1 << BUCKET_SLOTS) - 1 }
}

/// The first slot of a bucket with this tag, or none. Without branches, too, and without a look at the mark of unread ones: those
/// with other growth bits are left for a closer look.
#[inline(always)]
fn word_with(bucket: &Bucket, tag: u64) -> u64 {
    /// What is left of the bits that differ without the mark, if position and growth bits are the same.
    const SAME_END: u64 = (FROZEN << 1) << 1;
    bucket.slots.iter().rev().fold(EMPTY, |found, slot| {
        let word = slot.load(Ordering::Acquire);
        select_unpredictable((word ^ tag) << 1 < SAME_END, word, found)
    })
}

/// Slots are taken in order, so a bucket has an empty one if the last is.
#[inline]
fn is_full(bucket: &Bucket) -> bool {
    bucket.slots[BUCKET_SLOTS - 1].load(Ordering::Acquire) & !FROZEN != EMPTY
}

#[inline]
fn addr(word: u64) -> Addr {
    Addr::from_bits(word & ADDR_MASK)
}

#[inline]
fn position(word: u64) -> u64 {
    (word & POSITION_MASK) >> POSITION_SHIFT
}

#[inline]
fn home(position: u64, buckets: usize) -> usize {
    ((position * buckets as u64) >> POSITION_BITS) as usize
}

#[inline]
fn number(line: &Line, at: usize) -> u32 {
    line.numbers[at].load(Ordering::Relaxed)
}

/// A cell as the directory named it.
#[derive(Clone, Copy)]
struct Cell<'a> {
    number: u32,
    first_part: &'a Line,
}

impl Cell<'_> {
    #[inline]
    fn depth(&self) -> u32 {
        number(self.first_part, DEPTH)
    }

    #[inline]
    fn prefix(&self) -> u64 {
        u64::from(number(self.first_part, PREFIX))
    }
}

/// Whether so many entries in a cell are reason to give it more room.
fn needs_room(entries: usize, pages: usize) -> bool {
    entries as f64 >= GROWTH_LOAD_MIN * (pages * PAGE_SLOTS) as f64
}

/// Whether a split of a cell of this depth has to read the hashes of its entries.
fn is_refill(depth: u32) -> bool {
    (depth + 1).is_multiple_of(GROWTH_BITS)
}

/// The first bucket of a cell in the probe order of a hash.
#[inline(always)]
fn home_bucket<'a>(storage: &'a Storage, cell: Cell<'a>, hash: u64) -> &'a Bucket {
    let buckets = number(cell.first_part, PAGE_COUNT) as usize * PAGE_BUCKETS;
    let at = home(hash >> (64 - POSITION_BITS), buckets);
    let page = number(cell.first_part, (at / PAGE_BUCKETS) % PART_PAGES_MAX);
    &storage.pages.get(page as usize).buckets[at % PAGE_BUCKETS]
}

/// The buckets of a cell in probe order.
struct Probe<'a> {
    storage: &'a Storage,
    part: &'a Line,
    position: u64,
    buckets: usize,
    at: usize,
    left: usize,
}

impl<'a> Probe<'a> {
    #[inline]
    fn new(storage: &'a Storage, cell: Cell<'a>, hash: u64) -> Self {
        let position = hash >> (64 - POSITION_BITS);
        let mut probe = Probe { storage, part: cell.first_part, position, buckets: 0, at: 0, left: 0 };
        probe.enter(cell.first_part);
        probe
    }

    /// Without the first `buckets` buckets of the first part, which has more than those.
    #[inline]
    fn behind(mut self, buckets: u32) -> Self {
        self.left -= buckets as usize;
        self.at += buckets as usize;
        if self.at >= self.buckets {
            self.at -= self.buckets;
        }
        self
    }

    #[inline]
    fn enter(&mut self, part: &'a Line) {
        self.part = part;
        self.buckets = number(part, PAGE_COUNT) as usize * PAGE_BUCKETS;
        self.at = home(self.position, self.buckets);
        self.left = self.buckets;
    }
}

impl<'a> Iterator for Probe<'a> {
    type Item = &'a Bucket;

    #[inline]
    fn next(&mut self) -> Option<&'a Bucket> {
        if self.left == 0 {
            let next_part = number(self.part, NEXT_PART);
            if next_part == 0 {
                return None;
            }
            self.enter(self.storage.descriptors.get(next_part as usize));
        }
        let page = number(self.part, (self.at / PAGE_BUCKETS) % PART_PAGES_MAX);
        let bucket = &self.storage.pages.get(page as usize).buckets[self.at % PAGE_BUCKETS];
        self.left -= 1;
        self.at = if self.at + 1 == self.buckets { 0 } else { self.at + 1 };
        Some(bucket)
    }
}

/// What an upsert found in one slot.
enum Visit {
    /// Another key.
    Next,
    /// The upsert is over.
    Done(Upsert),
    /// The first empty slot, which the distance forbids to take.
    TooFar,
    /// The cell is being replaced.
    Frozen,
}

/// What a frozen cell held.
struct Contents {
    words: Vec<u64>,
    pages: usize,
    removed: usize,
}

/// Marks the index broken if growth unwinds: whoever waits for the new cell then panics, too, instead of for ever.
struct BreaksIndex<'a>(&'a AtomicBool);

impl Drop for BreaksIndex<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl HashIndex {
    /// An empty index that takes about `expected` entries before it grows, and never gets more than `most`.
    ///
    /// # Errors
    /// `Io` if address space cannot be reserved.
    pub fn with_expected(log: Arc<dyn LogKeys>, expected: u64, most: u64) -> Result<HashIndex> {
        Ok(HashIndex::on(Storage::reserve(most)?, log, expected))
    }

    fn on(storage: Storage, log: Arc<dyn LogKeys>, expected: u64) -> HashIndex {
        let depth_max = storage.directory.count().ilog2().min(DEPTH_MAX);
        let (depth, pages) = shape_for(expected, depth_max);
        for prefix in 0..1 << depth {
            let cell = storage.build(&[], pages, DISTANCE_MAX, depth, prefix);
            storage.directory.get(prefix as usize).store(cell, Ordering::Release);
        }
        HashIndex {
            storage: Arc::new(storage),
            log,
            depth: AtomicU32::new(depth),
            depth_max,
            is_broken: AtomicBool::new(false),
            directory_lock: CachePadded::new(Mutex::new(())),
        }
    }

    /// The cell that serves this hash now.
    #[inline(always)]
    fn cell(&self, hash: u64) -> Cell<'_> {
        loop {
            let depth = self.depth.load(Ordering::Acquire);
            let number =
                self.storage.directory.get((hash & low_bits(depth)) as usize).load(Ordering::Acquire);
            let cell = Cell { number, first_part: self.storage.descriptors.get(number as usize) };
            // Fails only if the directory doubled between the two loads.
            if hash & low_bits(cell.depth()) == cell.prefix() {
                return cell;
            }
        }
    }

    /// Shows `probe` what may be the key's in these buckets of a cell, or else in the cells that replace it.
    #[inline(always)]
    fn get_from<'a, R>(
        &'a self,
        mut cell: Cell<'a>,
        mut buckets: Probe<'a>,
        hash: u64,
        mut probe: impl FnMut(Addr) -> Option<R>,
    ) -> Option<R> {
        loop {
            let tag = tag(hash, cell.depth());
            for bucket in buckets {
                let mut candidates = candidates(bucket, tag);
                while candidates != 0 {
                    let slot = &bucket.slots[candidates.trailing_zeros() as usize % BUCKET_SLOTS];
                    let word = slot.load(Ordering::Acquire);
                    if may_be(word, tag)
                        && let Some(found) = probe(addr(word))
                    {
                        return Some(found);
                    }
                    candidates &= candidates - 1;
                }
                if !is_full(bucket) {
                    break;
                }
            }
            // A cell that was replaced meanwhile knows nothing of keys that were inserted since.
            let now = self.cell(hash);
            if now.number == cell.number {
                return None;
            }
            (cell, buckets) = (now, Probe::new(&self.storage, now, hash));
        }
    }

    /// The first entry that may be the key's, of whose home bucket the first slot with its tag has none. Whether there is one is
    /// decided by looking at each slot once: what was marked as unread may have been read since that look.
    #[inline(never)]
    fn first_elsewhere(&self, cell: Cell<'_>, hash: u64, tag: u64) -> Option<Addr> {
        let buckets = Probe::new(&self.storage, cell, hash);
        let home = home_bucket(&self.storage, cell, hash);
        if candidates(home, tag) != 0 {
            return self.get_from(cell, buckets, hash, Some);
        }
        if !is_full(home) && self.is_current(cell, hash) {
            return None;
        }
        self.get_from(cell, buckets.behind(1), hash, Some)
    }

    /// The cells of one moment: an entry that nobody touches is in one of them, however they grow meanwhile.
    fn heads(&self) -> Vec<u32> {
        let _unchanging = self.directory_lock.lock();
        let entries = 1_usize << self.depth.load(Ordering::Relaxed);
        let heads = (0..entries).map(|at| (at, self.storage.directory.get(at).load(Ordering::Acquire)));
        let is_first = |&(at, head): &(usize, u32)| {
            number(self.storage.descriptors.get(head as usize), PREFIX) as usize == at
        };
        heads.filter(is_first).map(|(_, head)| head).collect()
    }

    #[inline]
    fn is_current(&self, cell: Cell<'_>, hash: u64) -> bool {
        self.cell(hash).number == cell.number
    }

    /// Settles one slot of an upsert, however often other threads change it meanwhile.
    #[inline]
    fn visit(
        &self,
        slot: &AtomicU64,
        new: u64,
        may_insert: bool,
        judge: &mut impl FnMut(Addr) -> Candidate,
    ) -> Visit {
        let mut word = slot.load(Ordering::Acquire);
        loop {
            if word & FROZEN != 0 {
                return Visit::Frozen;
            }
            let done = if word == EMPTY {
                if !may_insert {
                    return Visit::TooFar;
                }
                Upsert::Inserted
            } else if may_be(word, new) {
                match judge(addr(word)) {
                    Candidate::OtherKey => return Visit::Next,
                    Candidate::Newer => return Visit::Done(Upsert::Lost(addr(word))),
                    Candidate::Older => Upsert::Replaced(addr(word)),
                }
            } else {
                return Visit::Next;
            };
            match slot.compare_exchange(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Visit::Done(done),
                Err(changed) => word = changed,
            }
        }
    }

    /// One attempt at an upsert; `None` if the cell is replaced, or has to be, and the directory must be asked again.
    #[inline]
    fn try_upsert(
        &self,
        spot: Spot,
        hash: u64,
        new: Addr,
        judge: &mut impl FnMut(Addr) -> Candidate,
    ) -> Option<Upsert> {
        let cell = self.cell(hash);
        let new = tag(hash, cell.depth()) | new.to_bits();
        let distance_max = number(cell.first_part, DISTANCE);
        let (passed, mut slots_passed) = spot.passed_in(cell);
        for (bucket, distance) in Probe::new(&self.storage, cell, hash).behind(passed).zip(passed..) {
            for slot in &bucket.slots[std::mem::take(&mut slots_passed)..] {
                match self.visit(slot, new, distance <= distance_max, judge) {
                    Visit::Next => {}
                    Visit::Done(done) => return Some(done),
                    Visit::Frozen => {
                        self.wait_for_growth(cell, hash);
                        return None;
                    }
                    Visit::TooFar => {
                        self.grow(cell, hash);
                        return None;
                    }
                }
            }
        }
        self.grow(cell, hash);
        None
    }

    /// The cleaner's and the forgetter's half: exchanges the slot that holds `from`, whatever its mark says.
    fn exchange(&self, hash: u64, from: Addr, to: impl Fn(u32) -> u64) -> bool {
        'cell: loop {
            let cell = self.cell(hash);
            let to = to(cell.depth());
            for slot in Probe::new(&self.storage, cell, hash).flat_map(|bucket| &bucket.slots) {
                let mut word = slot.load(Ordering::Acquire);
                while word & ADDR_MASK == from.to_bits() || word & !FROZEN == EMPTY {
                    if word & FROZEN != 0 {
                        self.wait_for_growth(cell, hash);
                        continue 'cell;
                    }
                    if word == EMPTY {
                        return false;
                    }
                    match slot.compare_exchange(word, to, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => return true,
                        Err(changed) => word = changed,
                    }
                }
            }
            if self.is_current(cell, hash) {
                return false;
            }
        }
    }

    /// Returns when another thread has replaced `cell`.
    #[cold]
    fn wait_for_growth(&self, cell: Cell<'_>, hash: u64) {
        let backoff = Backoff::new();
        while self.is_current(cell, hash) {
            assert!(!self.is_broken.load(Ordering::Acquire), "an earlier growth of the index panicked");
            backoff.snooze();
        }
    }

    /// Replaces a crowded cell by a larger one, by two, or by one that is told to bear it.
    #[cold]
    fn grow(&self, cell: Cell<'_>, hash: u64) {
        let claim = &cell.first_part.numbers[CLAIM];
        if claim.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return self.wait_for_growth(cell, hash);
        }
        let unless_it_ends = BreaksIndex(&self.is_broken);
        let (depth, prefix) = (cell.depth(), cell.prefix());
        if is_refill(depth) {
            self.fetch_entries(cell.first_part, depth);
        }
        let contents = self.storage.freeze(cell.first_part);
        match self.split(&contents, depth, prefix) {
            Some(halves) => self.publish(depth, prefix, &halves),
            None => {
                let (pages, distance) = rebuilt_shape(&contents, number(cell.first_part, DISTANCE));
                let rebuilt = self.storage.build(&contents.words, pages, distance, depth, prefix);
                self.publish(depth, prefix, &[rebuilt]);
            }
        }
        std::mem::forget(unless_it_ends);
        let guard = epoch::pin();
        // Weak: a dropped index gives its memory back at once, not after the last grace period.
        let nodes = Arc::downgrade(&self.storage.nodes);
        let (retired, bytes) = (cell.number, contents.pages as u64 * PAGE_BYTES);
        epoch::retire(&guard, bytes, move || {
            if let Some(nodes) = nodes.upgrade() {
                nodes.release(retired);
            }
        });
    }

    /// Brings the entries of a cell that will probably be split into the caches while writers need not wait for it yet.
    fn fetch_entries(&self, first: &Line, depth: u32) {
        let pages = self.storage.pages_of(first);
        if pages < PART_PAGES_MAX {
            return;
        }
        let mut entries = Vec::with_capacity(pages * PAGE_SLOTS);
        self.storage.addrs(first, prefetch_to_write, |entry| entries.push(entry));
        if self.is_to_split(entries.len(), pages, depth) {
            self.log.prefetch(&entries);
        }
    }

    /// Whether a cell is large and full, and may be split.
    fn is_to_split(&self, entries: usize, pages: usize, depth: u32) -> bool {
        pages >= PART_PAGES_MAX && needs_room(entries, pages) && depth < self.depth_max
    }

    /// Two cells for the entries of a large one, or `None` if it is not large, not full, or its keys do not part.
    fn split(&self, contents: &Contents, depth: u32, prefix: u64) -> Option<[u32; 2]> {
        if !self.is_to_split(contents.words.len(), contents.pages, depth) {
            return None;
        }
        let halves = self.divide(&contents.words, depth, prefix);
        let smaller = halves.iter().map(Vec::len).min().unwrap_or(0);
        if smaller < contents.words.len() / SPLIT_SHARE_MIN {
            return None;
        }
        let bits: [u64; 2] = [0, 1 << depth];
        Some(std::array::from_fn(|side| {
            let words = &halves[side];
            let pages = pages_for(words.len()).max(SPLIT_PAGES_MIN);
            self.storage.build(words, pages, distance_for(pages), depth + 1, prefix | bits[side])
        }))
    }

    /// Parts entries by bit `depth` of their hashes and gives them the tags of cells one deeper.
    fn divide(&self, words: &[u64], depth: u32, prefix: u64) -> [Vec<u64>; 2] {
        let mut halves: [Vec<u64>; 2] = std::array::from_fn(|_| Vec::with_capacity(words.len() * 5 / 8));
        let is_refill = is_refill(depth);
        for group in words.chunks(REFILL_GROUP) {
            if is_refill {
                group.iter().for_each(|&word| self.log.prefetch(&[addr(word)]));
            }
            for &word in group {
                let (word, sides) =
                    if is_refill { self.refill(word, depth, prefix) } else { (word, sides(word, depth)) };
                for (half, belongs) in halves.iter_mut().zip(sides) {
                    if belongs {
                        half.push(word);
                    }
                }
            }
        }
        halves
    }

    /// A word with the growth bits of depth `depth + 1`, read from the log, and the sides of the split it belongs to.
    fn refill(&self, word: u64, depth: u32, prefix: u64) -> (u64, [bool; 2]) {
        let read = self.log.key_hash(addr(word));
        // A hash that contradicts the slot was not read from the entry that the slot meant.
        if let Some(hash) = read.filter(|&hash| may_be(word, tag(hash, depth))) {
            let belongs = hash & low_bits(depth) == prefix;
            if belongs || word & UNREAD != 0 {
                let is_upper = hash >> depth & 1 == 1;
                return (
                    tag(hash, depth + 1) | word & ADDR_MASK,
                    [belongs && !is_upper, belongs && is_upper],
                );
            }
        }
        (word & (ADDR_MASK | POSITION_MASK) | UNREAD, sides(word, depth))
    }

    /// Lets the directory name `heads` instead of the cell of this depth and prefix: one, or the two halves.
    fn publish(&self, depth: u32, prefix: u64, heads: &[u32]) {
        let directory = &self.storage.directory;
        let _changing = self.directory_lock.lock();
        let mut directory_depth = self.depth.load(Ordering::Relaxed);
        if heads.len() > 1 && depth == directory_depth {
            let entries = 1 << directory_depth;
            for at in 0..entries {
                directory
                    .get(entries + at)
                    .store(directory.get(at).load(Ordering::Relaxed), Ordering::Relaxed);
            }
            directory_depth += 1;
            // Before the entries below change: who sees a half and finds it wrong then sees the depth that leads right.
            self.depth.store(directory_depth, Ordering::Release);
        }
        for at in (prefix as usize..1 << directory_depth).step_by(1 << depth) {
            directory.get(at).store(heads[(at >> depth) & (heads.len() - 1)], Ordering::Release);
        }
    }
}

/// Sides of a split that an entry belongs to by its growth bits: one, or both if they are not known.
fn sides(word: u64, depth: u32) -> [bool; 2] {
    if word & UNREAD != 0 {
        return [true, true];
    }
    let is_upper = word >> (GROWTH_SHIFT + depth % GROWTH_BITS) & 1 == 1;
    [!is_upper, is_upper]
}

/// Depth and pages per cell of an index that has room for `expected` keys: cells as growth would have left them.
fn shape_for(expected: u64, depth_max: u32) -> (u32, usize) {
    let pages = (expected as f64 / (EXPECTED_LOAD * PAGE_SLOTS as f64)).ceil() as u64;
    let depth =
        (0..depth_max).find(|depth| pages.div_ceil(1 << depth) <= PART_PAGES_MAX as u64).unwrap_or(depth_max);
    (depth, (pages.div_ceil(1 << depth) as usize).clamp(1, PART_PAGES_MAX))
}

/// Pages that hold so many entries with room for more.
fn pages_for(entries: usize) -> usize {
    ((entries as f64 / (REBUILT_LOAD_MAX * PAGE_SLOTS as f64)).ceil() as usize).max(1)
}

fn distance_for(pages: usize) -> u32 {
    if pages > PART_PAGES_MAX { DISTANCE_ANY } else { DISTANCE_MAX }
}

/// Pages and distance limit of the one cell that replaces a crowded one.
fn rebuilt_shape(contents: &Contents, distance: u32) -> (usize, u32) {
    let slots = contents.pages * PAGE_SLOTS;
    if needs_room(contents.words.len(), contents.pages) {
        let pages = match PAGES_NEXT.get(contents.pages) {
            Some(&next) => next,
            // Keys that no bit parts: each step a quarter more, so that copying stays in proportion.
            None => contents.pages + contents.pages / 4,
        };
        return (pages, distance_for(pages));
    }
    if contents.removed >= slots / 8 {
        let pages = pages_for(contents.words.len()).min(contents.pages);
        return (pages, distance_for(pages));
    }
    // Few keys, but close together. Doubling ends where a cell grows only when it is full.
    (contents.pages, distance.saturating_mul(2))
}

impl Storage {
    /// Reserves what `most` entries may ever need, or less where the address space is limited: then the index may run out
    /// of nodes before the pool is full, which is a panic in whoever grows it. A put cannot be refused for it: how many
    /// nodes it needs is known only when its entry is in the log, and growth has claimed its cell.
    fn reserve(most: u64) -> Result<Storage> {
        let wanted = (most / PAGE_ENTRIES_RESERVED).clamp(PAGES_MIN as u64, PAGES_MAX as u64) as usize;
        let mut pages = wanted.next_power_of_two();
        let mut space = loop {
            let bytes = EntryCount::needed_bytes()
                + AddressSpace::needed_bytes::<AtomicU32>(pages)
                + AddressSpace::needed_bytes::<Line>(pages)
                + AddressSpace::needed_bytes::<Page>(pages);
            match AddressSpace::reserve(bytes) {
                Ok(space) => break space,
                Err(error) if pages == PAGES_MIN => return Err(error),
                Err(_) => pages /= 2,
            }
        };
        let (entries, directory) = (EntryCount::new(&mut space), space.take(pages));
        let nodes = Nodes {
            descriptors: Pool::new(space.take(pages)),
            pages: Pool::new(space.take(pages)),
            generations: AtomicU32::new(0),
        };
        Ok(Storage::of(Arc::new(nodes), entries, directory))
    }

    fn of(nodes: Arc<Nodes>, entries: EntryCount, directory: Reserved<AtomicU32>) -> Storage {
        let (descriptors, pages) = (nodes.descriptors.nodes(), nodes.pages.nodes());
        Storage { directory, descriptors, pages, nodes, entries }
    }

    /// A directory and a count of its own, and the same nodes.
    fn sibling(&self) -> Result<Storage> {
        let heads = self.directory.count();
        let bytes = EntryCount::needed_bytes() + AddressSpace::needed_bytes::<AtomicU32>(heads);
        let mut space = AddressSpace::reserve(bytes)?;
        Ok(Storage::of(Arc::clone(&self.nodes), EntryCount::new(&mut space), space.take(heads)))
    }

    /// Visits the parts of a cell.
    fn parts(&self, first: &Line, mut visit: impl FnMut(&Line)) {
        let mut part = first;
        loop {
            visit(part);
            match number(part, NEXT_PART) {
                0 => return,
                next => part = self.descriptors.get(next as usize),
            }
        }
    }

    /// Visits the buckets of a cell from the first to the last.
    fn buckets(&self, first: &Line, ask_for: fn(&Bucket), mut visit: impl FnMut(&Bucket)) {
        self.parts(first, |part| {
            for page in 0..number(part, PAGE_COUNT) as usize {
                let buckets = &self.pages.get(number(part, page) as usize).buckets;
                buckets.iter().for_each(ask_for);
                buckets.iter().for_each(&mut visit);
            }
        });
    }

    /// Visits the addresses in a cell.
    fn addrs(&self, first: &Line, ask_for: fn(&Bucket), mut visit: impl FnMut(Addr)) {
        self.buckets(first, ask_for, |bucket| {
            let words = bucket.slots.iter().map(|slot| slot.load(Ordering::Acquire));
            words.filter(|word| word & ADDR_MASK != 0).for_each(|word| visit(addr(word)));
        });
    }

    fn pages_of(&self, first: &Line) -> usize {
        let mut pages = 0;
        self.parts(first, |part| pages += number(part, PAGE_COUNT) as usize);
        pages
    }

    /// Ends all changes of a cell and returns what it held.
    fn freeze(&self, first: &Line) -> Contents {
        let pages = self.pages_of(first);
        let mut contents = Contents { words: Vec::with_capacity(pages * PAGE_SLOTS), pages, removed: 0 };
        self.buckets(first, prefetch_to_write, |bucket| {
            for slot in &bucket.slots {
                let word = slot.fetch_or(FROZEN, Ordering::AcqRel);
                debug_assert_eq!(word & FROZEN, 0, "only the claimant freezes");
                match word {
                    EMPTY => {}
                    REMOVED => contents.removed += 1,
                    word => contents.words.push(word),
                }
            }
        });
        contents
    }

    /// Builds a cell that nobody can see yet and returns its first descriptor.
    fn build(&self, words: &[u64], pages: usize, distance: u32, depth: u32, prefix: u64) -> u32 {
        assert!(
            words.len() < pages * PAGE_SLOTS,
            "{} entries do not leave room in {pages} pages",
            words.len()
        );
        let (mut head, mut last) = (0, 0);
        let mut pages_left = pages;
        let mut spilled;
        let mut words = words;
        while pages_left > 0 {
            let part_pages = pages_left.min(PART_PAGES_MAX);
            pages_left -= part_pages;
            let descriptor = self.nodes.descriptors.allocate();
            let line = self.descriptors.get(descriptor as usize);
            let set = |at: usize, value: u32| line.numbers[at].store(value, Ordering::Relaxed);
            (0..part_pages).for_each(|page| set(page, self.nodes.pages.allocate()));
            set(PAGE_COUNT, part_pages as u32);
            set(DEPTH, depth);
            set(PREFIX, prefix as u32);
            set(DISTANCE, distance);
            set(GENERATION, self.nodes.generations.fetch_add(1, Ordering::Relaxed));
            spilled = self.fill(line, words);
            words = &spilled;
            if last == 0 {
                head = descriptor;
            } else {
                self.descriptors.get(last as usize).numbers[NEXT_PART].store(descriptor, Ordering::Relaxed);
            }
            last = descriptor;
        }
        assert!(words.is_empty(), "each part takes entries until it is full");
        head
    }

    /// Stores words in the pages of a new part in probe order; returns those that find it full.
    fn fill(&self, part: &Line, words: &[u64]) -> Vec<u64> {
        let buckets = number(part, PAGE_COUNT) as usize * PAGE_BUCKETS;
        let mut used = [0_u8; PART_PAGES_MAX * PAGE_BUCKETS];
        let fitting = words.len().min(buckets * BUCKET_SLOTS);
        for &word in &words[..fitting] {
            let mut at = home(position(word), buckets);
            while usize::from(used[at]) == BUCKET_SLOTS {
                at = if at + 1 == buckets { 0 } else { at + 1 };
            }
            let page = self.pages.get(number(part, at / PAGE_BUCKETS) as usize);
            let slot = &page.buckets[at % PAGE_BUCKETS].slots[usize::from(used[at])];
            slot.store(word, Ordering::Relaxed);
            used[at] += 1;
        }
        words[fitting..].to_vec()
    }
}

impl Nodes {
    /// Takes back the descriptors and pages of a cell that nobody can see any more.
    fn release(&self, first: u32) {
        let (mut pages, mut descriptors) = (Vec::new(), Vec::new());
        let mut descriptor = first;
        while descriptor != 0 {
            let part = self.descriptors.get(descriptor);
            pages.extend((0..number(part, PAGE_COUNT) as usize).map(|page| number(part, page)));
            descriptors.push(descriptor);
            descriptor = number(part, NEXT_PART);
        }
        self.pages.give_back(pages);
        self.descriptors.give_back(descriptors);
    }
}

impl Drop for HashIndex {
    fn drop(&mut self) {
        // Nobody can look any more: who looks holds the index. The last one of all gives back the memory itself.
        if Arc::strong_count(&self.storage.nodes) > 1 {
            self.heads().into_iter().for_each(|head| self.storage.nodes.release(head));
        }
    }
}

impl Index for HashIndex {
    const PREFETCHES_BY_HASH: bool = true;
    type Spot = Spot;
    type Place<'i> = Place<'i>;

    #[inline(always)]
    fn first(&self, key: Key<'_>) -> Option<Addr> {
        let cell = self.cell(key.hash);
        let tag = tag(key.hash, cell.depth());
        let bucket = home_bucket(&self.storage, cell, key.hash);
        let word = word_with(bucket, tag);
        if word & ADDR_MASK != 0 {
            return Some(addr(word));
        }
        self.first_elsewhere(cell, key.hash, tag)
    }

    #[inline(always)]
    fn get<R>(&self, key: Key<'_>, probe: impl FnMut(Addr) -> Option<R>) -> Option<R> {
        let cell = self.cell(key.hash);
        self.get_from(cell, Probe::new(&self.storage, cell, key.hash), key.hash, probe)
    }

    #[inline]
    fn look(&self, key: Key<'_>, visit: impl FnMut(Addr) -> ControlFlow<()>) -> Spot {
        self.look_at(key.hash, visit).0
    }

    #[inline(always)]
    fn prefetch_to_put(&self, key: Key<'_>) {
        self.prefetch_to_put(key.hash);
    }

    #[inline(always)]
    fn look_to_put<'i>(
        &'i self,
        key: Key<'_>,
        _guard: &'i Guard,
        mut visit: impl FnMut(Addr),
    ) -> Seen<Spot, Place<'i>> {
        let visit = |addr| {
            visit(addr);
            ControlFlow::Continue(())
        };
        let (spot, place) = self.look_at(key.hash, visit);
        Seen { spot, place, known: place.and_then(|place| place.known()) }
    }

    #[inline(always)]
    fn publish_seen(
        &self,
        seen: &Seen<Spot, Place<'_>>,
        new: Publishable<Addr>,
    ) -> std::result::Result<(), Publishable<Addr>> {
        let is_done = seen.place.is_some_and(|place| place.exchange(*new.get()));
        if is_done && seen.known.is_none() {
            self.storage.entries.add(1);
        }
        if is_done { Ok(()) } else { Err(new) }
    }

    #[inline]
    fn upsert_at(
        &self,
        spot: Spot,
        key: Key<'_>,
        new: Publishable<Addr>,
        mut judge: impl FnMut(Addr) -> Candidate,
    ) -> Upsert {
        let new = new.into_inner();
        assert!(new.to_bits() != 0, "the pool head lies at address 0");
        loop {
            if let Some(done) = self.try_upsert(spot, key.hash, new, &mut judge) {
                if done == Upsert::Inserted {
                    self.storage.entries.add(1);
                }
                return done;
            }
        }
    }

    fn find(&self, keys: &[Key<'_>], at: &[Addr], found: &mut [Option<Spot>]) {
        self.prefetch(keys);
        for ((key, at), found) in keys.iter().zip(at).zip(found) {
            *found = self.get(*key, |addr| (addr == *at).then_some(Spot::default()));
        }
    }

    fn relocate(&self, _spot: Spot, key: Key<'_>, from: Addr, to: Durable<Addr>) -> bool {
        let to = to.into_inner().to_bits();
        assert!(to != 0, "the pool head lies at address 0");
        self.exchange(key.hash, from, |depth| tag(key.hash, depth) | to)
    }

    fn remove(&self, key: Key<'_>, at: Addr) -> bool {
        let is_removed = self.exchange(key.hash, at, |_| REMOVED);
        if is_removed {
            self.storage.entries.add(-1);
        }
        is_removed
    }

    #[inline]
    fn prefetch(&self, keys: &[Key<'_>]) {
        keys.iter().for_each(|key| self.prefetch_spot(Spot::default(), key.hash));
    }

    #[inline]
    fn prefetch_spot(&self, _spot: Spot, hash: u64) {
        if let Some(bucket) = Probe::new(&self.storage, self.cell(hash), hash).next() {
            prefetch(bucket);
        }
    }

    fn scan<'a>(
        &'a self,
        _: &'a Guard,
        _: Edge<'_>,
        _: Direction,
        _: usize,
        _: impl PassOver + 'a,
    ) -> Option<impl InOrder + 'a> {
        None::<std::iter::Empty<Addr>>
    }

    fn estimate(&self, _: &Guard, _: Edge<'_>, _: Edge<'_>) -> Option<u64> {
        None
    }

    fn for_each(&self, mut visit: impl FnMut(Addr)) {
        for cell in self.heads() {
            self.storage.addrs(self.storage.descriptors.get(cell as usize), prefetch, &mut visit);
        }
    }

    fn len(&self) -> u64 {
        self.storage.entries.sum()
    }

    fn sibling(&self) -> Result<HashIndex> {
        Ok(HashIndex::on(self.storage.sibling()?, Arc::clone(&self.log), 0))
    }

    fn shared_bytes(&self) -> u64 {
        self.storage.nodes.descriptors.memory_bytes().next_multiple_of(PAGE_BYTES)
            + self.storage.nodes.pages.memory_bytes()
    }

    fn own_bytes(&self) -> u64 {
        let directory = (size_of::<AtomicU32>() as u64) << self.depth.load(Ordering::Relaxed);
        directory.next_multiple_of(PAGE_BYTES) + self.storage.entries.memory_bytes()
    }

    fn make_huge_page(&self) -> bool {
        self.storage.nodes.pages.make_huge_page(0)
    }

    fn huge_page_bytes(&self) -> u64 {
        self.storage.nodes.pages.merged_bytes()
    }
}
