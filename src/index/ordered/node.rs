//! What lies in the nodes, and the version lock on each of them.
//!
//! The lock is that of optimistic lock coupling (Leis, Scheibner, Kemper, Neumann, "The ART of Practical
//! Synchronization", DaMoN 2016): a reader remembers the version, reads, and asks whether the version is still the same;
//! only writers store to it. The memory order needs no fence: what a locked node holds is stored with `Release` and loaded
//! with `Acquire`, so whoever sees a new value also sees that the version was locked before it.

use super::super::arena::{
    GROUP_CHILDREN, INNER_SLICES, Inner, LAYER_WORDS, LEAF_SLOTS, Layer, Leaf, VERSION_FLAGS, prefetch,
};
use crate::constants::ADDR_BITS;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::types::Addr;
use crossbeam_utils::Backoff;
use std::hint::select_unpredictable;
use std::ops::Range;

/// Bytes of a key in one slice.
pub const SLICE_BYTES: usize = 8;
/// The rank of a key that goes on behind its slice.
pub const RANK_LONGER: u64 = SLICE_BYTES as u64 + 1;
/// Set in the number of a child that is an inner node.
pub const INNER: u32 = 1 << 31;

const LOCKED: u64 = 1;
const OBSOLETE: u64 = 2;
const CHANGE: u64 = 4;
const _: () = assert!(VERSION_FLAGS == LOCKED | OBSOLETE && CHANGE == VERSION_FLAGS + 1);

/// What was read may be no state that the index ever had, or the node has left the tree: look again from the top.
#[derive(Debug)]
pub struct Restart;

/// The outcome of one attempt.
pub type Attempt<T> = Result<T, Restart>;

/// Waits until the node is not locked and gives its version.
#[inline]
pub fn version(lock: &AtomicU64) -> Attempt<u64> {
    let version = lock.load(Ordering::Acquire);
    if version & (LOCKED | OBSOLETE) == 0 { Ok(version) } else { wait_for_version(lock) }
}

#[cold]
fn wait_for_version(lock: &AtomicU64) -> Attempt<u64> {
    let backoff = Backoff::new();
    loop {
        let version = lock.load(Ordering::Acquire);
        if version & OBSOLETE != 0 {
            return Err(Restart);
        }
        if version & LOCKED == 0 {
            return Ok(version);
        }
        backoff.snooze();
    }
}

/// What was loaded since `seen` was the version is one state of the node.
#[inline]
pub fn check(lock: &AtomicU64, seen: u64) -> Attempt<()> {
    if lock.load(Ordering::Acquire) == seen { Ok(()) } else { Err(Restart) }
}

/// A locked node. Readers see a change of version afterwards only if [`Locked::changed`] or [`Locked::obsolete`] was said.
pub struct Locked<'a> {
    lock: &'a AtomicU64,
    seen: u64,
    after: u64,
}

impl<'a> Locked<'a> {
    /// Locks a node that is as it was when its version was `seen`.
    #[inline]
    pub fn new(lock: &'a AtomicU64, seen: u64) -> Attempt<Locked<'a>> {
        match lock.compare_exchange(seen, seen | LOCKED, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Locked { lock, seen, after: seen }),
            Err(_) => Err(Restart),
        }
    }

    /// What is being changed is more than a word for the same key.
    #[inline]
    pub fn changed(&mut self) {
        self.after = self.seen + CHANGE;
    }

    /// The node leaves the tree.
    #[inline]
    pub fn obsolete(&mut self) {
        self.after = (self.seen + CHANGE) | OBSOLETE;
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.store(self.after, Ordering::Release);
    }
}

/// The word of a slot. For a key: its address (41 bits), its rank (4 bits), bits of its hash (18). For a link: the number
/// of a layer (32 bits), how many bytes of the slice all keys in there start with (the rank's bits), the link mark.
///
/// The rank of a key is how many bytes of it the slice holds, or `RANK_LONGER`. Slices are padded with zeroes, so slice
/// and rank together order any two keys that differ within the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

const RANK_SHIFT: u32 = ADDR_BITS;
const RANK_MASK: u64 = 0xF << RANK_SHIFT;
const HASH_SHIFT: u32 = RANK_SHIFT + 4;
const HASH_BITS: u32 = 63 - HASH_SHIFT;
const LINK: u64 = 1 << 63;
const ADDR_MASK: u64 = (1 << ADDR_BITS) - 1;

impl Word {
    /// The word of an entry.
    #[inline]
    pub fn entry(at: Addr, rank: u64, hash: u64) -> Word {
        Word(at.to_bits() | rank << RANK_SHIFT | hash >> (64 - HASH_BITS) << HASH_SHIFT)
    }

    /// The word of a link.
    #[inline]
    pub fn link(layer: u32, slice_bytes: usize) -> Word {
        debug_assert!((1..=SLICE_BYTES).contains(&slice_bytes));
        Word(LINK | u64::from(layer) | (slice_bytes as u64) << RANK_SHIFT)
    }

    #[inline]
    pub fn is_link(self) -> bool {
        self.0 & LINK != 0
    }

    /// The layer of a link.
    #[inline]
    pub fn layer(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub fn rank(self) -> u64 {
        (self.0 & RANK_MASK) >> RANK_SHIFT
    }

    #[inline]
    pub fn addr(self) -> Addr {
        Addr::from_bits(self.0 & ADDR_MASK)
    }

    /// The word of the same key at another address.
    #[inline]
    pub fn moved(self, to: Addr) -> Word {
        Word(self.0 & !ADDR_MASK | to.to_bits())
    }

    /// The word of the same key in another place.
    #[inline]
    pub fn ranked(self, rank: u64) -> Word {
        Word(self.0 & !RANK_MASK | rank << RANK_SHIFT)
    }

    /// Whether both may be words of one key that ends in one slice, or of one key that does not.
    #[inline]
    pub fn may_be(self, other: Word) -> bool {
        (self.0 ^ other.0) & !ADDR_MASK == 0
    }

    /// Whether a key with this hash may be its.
    #[inline]
    pub fn has_hash(self, hash: u64) -> bool {
        (self.0 ^ Word::entry(Addr::from_bits(0), 0, hash).0) & !(ADDR_MASK | RANK_MASK) == 0
    }

    /// Whether a link in a slot with slice `of` leads to keys that start with `slice`, of which `rank` says the length.
    #[inline]
    pub fn covers(self, of: u64, slice: u64, rank: u64) -> bool {
        self.is_link() && rank >= self.rank() && (of ^ slice) >> (64 - 8 * self.rank()) == 0
    }
}

/// The first eight bytes, most significant first, padded with zeroes.
#[inline]
pub fn padded(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<SLICE_BYTES>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => bytes
            .iter()
            .fold(0, |slice, &byte| slice << 8 | u64::from(byte))
            .unbounded_shl(8 * (SLICE_BYTES - bytes.len()) as u32),
    }
}

/// The slice of a key at `offset`, and its rank.
#[inline]
pub fn slice_at(key: &[u8], offset: usize) -> (u64, u64) {
    let rest = &key[offset..];
    (padded(rest), (rest.len() as u64).min(RANK_LONGER))
}

/// Puts the first `count` bytes of a slice behind `key`.
pub fn push_bytes(key: &mut Vec<u8>, slice: u64, count: usize) {
    key.extend_from_slice(&slice.to_be_bytes()[..count]);
}

/// The rank of the shortest key with this slice.
pub fn least_rank(slice: u64) -> u64 {
    SLICE_BYTES as u64 - u64::from(slice.trailing_zeros()) / 8
}

/// The shortest bytes whose slice is `slice`: of all keys they part those with lower slices from the others.
pub fn push_separator(key: &mut Vec<u8>, slice: u64) {
    push_bytes(key, slice, least_rank(slice) as usize);
}

/// Makes `key` the least one above all that start with it; false if there is none.
pub fn step_over(key: &mut Vec<u8>) -> bool {
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            return true;
        }
    }
    false
}

/// How many of `slices`, which are sorted, hold `is_before`. All are compared, and no branch depends on what is loaded:
/// the comparisons wait neither for each other nor for what cannot be predicted.
#[inline(always)]
fn partition<const N: usize>(slices: [&AtomicU64; N], is_before: impl Fn(u64) -> bool) -> usize {
    slices.iter().enumerate().fold(0, |found, (at, slice)| {
        select_unpredictable(is_before(slice.load(Ordering::Acquire)), at + 1, found)
    })
}

/// In slots that are not in use: searches look at them, too, and none is behind it. A node that was just handed out has zeros.
const UNUSED: u64 = u64::MAX;

/// Slices of a leaf that share a cache line, and those beside version and count.
const LINE_SLICES: usize = 8;
const HEAD_SLICES: usize = 6;
/// The lines of slices, but for the last one.
const LEAF_LINES: usize = (LEAF_SLOTS - HEAD_SLICES).div_ceil(LINE_SLICES);

/// Where a leaf's marks begin in the word that counts its slots: bit `i` of them says that slot `i` holds a tombstone. A slot
/// without may hold one, too.
const MARKS_SHIFT: u32 = 32;
/// Set behind them in a leaf that its parent may name as one to be passed over.
const PASSED: u64 = 1 << 63;
const _: () = assert!(LEAF_SLOTS as u32 <= MARKS_SHIFT && LEAF_SLOTS as u32 + MARKS_SHIFT <= PASSED.ilog2());

impl Leaf {
    #[inline]
    pub fn len(&self) -> usize {
        (self.count.load(Ordering::Acquire) as u32 as usize).min(LEAF_SLOTS)
    }

    /// The slots that were marked.
    #[inline]
    pub fn marks(&self) -> u64 {
        (self.count.load(Ordering::Acquire) & !PASSED) >> MARKS_SHIFT
    }

    /// True if the parent may name it as one to be passed over: then nothing but tombstones may be put in.
    #[inline]
    pub fn is_passed(&self) -> bool {
        self.count.load(Ordering::Acquire) & PASSED != 0
    }

    /// True if all slots are marked, and there are some.
    #[inline]
    pub fn holds_marks_alone(&self) -> bool {
        let count = self.len();
        count > 0 && self.marks() == (1 << count) - 1
    }

    /// See `passed.rs`.
    pub fn set_passed(&self, is_passed: bool) {
        assert!(!is_passed || self.holds_marks_alone());
        let count = self.count.load(Ordering::Acquire) & !PASSED;
        self.count.store(if is_passed { count | PASSED } else { count }, Ordering::Release);
    }

    /// What is passed over stays so: slots go, and marks come.
    #[inline]
    fn set_count(&self, count: usize, marks: u64) {
        let passed = self.count.load(Ordering::Acquire) & PASSED;
        let marks = marks & ((1 << count) - 1);
        debug_assert!(passed == 0 || marks == (1 << count) - 1);
        self.count.store(count as u64 | marks << MARKS_SHIFT | passed, Ordering::Release);
    }

    #[inline]
    pub fn slice(&self, at: usize) -> u64 {
        self.slices[at].load(Ordering::Acquire)
    }

    #[inline]
    pub fn word(&self, at: usize) -> Word {
        Word(self.words[at].load(Ordering::Acquire))
    }

    /// The first slot that is not below a slice and rank.
    #[inline]
    pub fn lower_bound(&self, count: usize, slice: u64, rank: u64) -> usize {
        self.skip_lower_ranks(self.first_of(count, slice), count, slice, rank)
    }

    /// The first slot that is not below a slice.
    #[inline]
    pub fn first_of(&self, count: usize, slice: u64) -> usize {
        let is_before = |other| other < slice;
        let lasts = std::array::from_fn(|line| &self.slices[HEAD_SLICES - 1 + line * LINE_SLICES]);
        let lines = partition::<LEAF_LINES>(lasts, is_before);
        let from =
            (HEAD_SLICES + lines * LINE_SLICES).saturating_sub(LINE_SLICES).min(LEAF_SLOTS - LINE_SLICES);
        let line = std::array::from_fn(|at| &self.slices[from + at]);
        // More than there are only while the leaf changes.
        (from + partition::<LINE_SLICES>(line, is_before)).min(count)
    }

    /// The first slot from `at` on that is not below a slice and rank, if `at` is the first that is not below the slice.
    #[inline]
    pub fn skip_lower_ranks(&self, mut at: usize, count: usize, slice: u64, rank: u64) -> usize {
        while at < count && self.slice(at) == slice && self.word(at).rank() < rank {
            at += 1;
        }
        at
    }

    /// Asks for all of it.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.version);
        (6..LEAF_SLOTS).step_by(8).for_each(|at| prefetch(&self.slices[at]));
        (7..LEAF_SLOTS).step_by(8).for_each(|at| prefetch(&self.words[at]));
    }

    /// Asks for what the search for a slice reads, in most leaves.
    #[inline]
    pub fn prefetch_slices(&self) {
        prefetch(&self.version);
        (6..LEAF_SLOTS - 1).step_by(8).for_each(|at| prefetch(&self.slices[at]));
    }

    /// Asks for the word of a slot, and the one before it.
    #[inline]
    pub fn prefetch_word(&self, at: usize) {
        prefetch(&self.words[at.saturating_sub(1)]);
        prefetch(&self.words[at.min(LEAF_SLOTS - 1)]);
    }

    /// Asks for what a scan reads that passes through.
    #[inline]
    pub fn prefetch_words(&self) {
        prefetch(&self.version);
        prefetch(&self.words[0]);
        (7..LEAF_SLOTS).step_by(8).for_each(|at| prefetch(&self.words[at]));
    }

    /// It is in no tree any more: who remembers slots of it finds another version. Nobody else can see it.
    pub fn leave(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store((version + CHANGE) | OBSOLETE, Ordering::Release);
    }

    /// Asks for its version, count and marks.
    #[inline]
    pub fn prefetch_head(&self) {
        prefetch(&self.version);
    }

    /// Puts the word of another entry of the same key in a slot, in the leaf as it was when it had this version.
    #[inline]
    pub fn exchange(&self, version: u64, at: usize, from: Word, to: Word) -> Attempt<()> {
        let _locked = self.lock_word(version, at, from)?;
        if self.is_passed() {
            return Err(Restart);
        }
        self.set_word(at, to);
        Ok(())
    }

    /// The same where the entry was moved to.
    #[inline]
    pub fn exchange_moved(&self, version: u64, at: usize, from: Word, to: Word) -> Attempt<()> {
        let _locked = self.lock_word(version, at, from)?;
        self.move_word(at, to);
        Ok(())
    }

    #[inline]
    fn lock_word(&self, version: u64, at: usize, word: Word) -> Attempt<Locked<'_>> {
        let locked = Locked::new(&self.version, version)?;
        if self.word(at) == word { Ok(locked) } else { Err(Restart) }
    }

    /// Another entry or a link. The caller holds the lock, or nobody else can see the leaf; so below.
    #[inline]
    pub fn set_word(&self, at: usize, word: Word) {
        self.words[at].store(word.0, Ordering::Release);
        let marks = self.marks();
        if marks >> at & 1 == 1 {
            self.set_count(self.len(), marks & !(1 << at));
        }
    }

    /// The same entry, at another address.
    #[inline]
    pub fn move_word(&self, at: usize, word: Word) {
        self.words[at].store(word.0, Ordering::Release);
    }

    /// What a slot holds is a tombstone.
    #[inline]
    pub fn mark(&self, at: usize) {
        debug_assert!(!self.word(at).is_link());
        self.set_count(self.len(), self.marks() | 1 << at);
    }

    #[inline]
    fn set(&self, at: usize, slice: u64, word: u64) {
        self.slices[at].store(slice, Ordering::Release);
        self.words[at].store(word, Ordering::Release);
    }

    /// These slots are not in use any more.
    fn clear(&self, slots: Range<usize>) {
        self.slices[slots].iter().for_each(|slice| slice.store(UNUSED, Ordering::Release));
    }

    #[inline]
    pub fn insert(&self, at: usize, slice: u64, word: Word) {
        let (count, marks) = (self.len(), self.marks());
        assert!(at <= count && count < LEAF_SLOTS);
        for from in (at..count).rev() {
            self.set(from + 1, self.slice(from), self.word(from).0);
        }
        self.set(at, slice, word.0);
        self.set_count(count + 1, marks >> at << (at + 1) | marks & ((1 << at) - 1));
    }

    /// Takes the slots `from..to` out.
    pub fn cut(&self, from: usize, to: usize) {
        let (count, marks) = (self.len(), self.marks());
        assert!(from <= to && to <= count);
        for at in to..count {
            self.set(at - (to - from), self.slice(at), self.word(at).0);
        }
        self.clear(count - (to - from)..count);
        self.set_count(count - (to - from), marks >> to << from | marks & ((1 << from) - 1));
    }

    /// All slots.
    pub fn entries(&self) -> Vec<(u64, Word)> {
        (0..self.len()).map(|at| (self.slice(at), self.word(at))).collect()
    }

    /// Replaces all slots, and their marks. A leaf that is new has to be filled, if only with nothing: see [`UNUSED`].
    pub fn fill(&self, entries: &[(u64, Word)], marks: u64) {
        assert!(entries.len() <= LEAF_SLOTS);
        debug_assert!(
            entries.is_sorted_by(|a, b| (a.0, a.1.rank()) <= (b.0, b.1.rank())),
            "a leaf is sorted by slice and rank"
        );
        entries.iter().enumerate().for_each(|(at, &(slice, word))| self.set(at, slice, word.0));
        self.clear(entries.len()..LEAF_SLOTS);
        self.set_count(entries.len(), marks);
    }
}

impl Inner {
    /// Separators.
    #[inline]
    pub fn len(&self) -> usize {
        (self.count.load(Ordering::Acquire) as usize).min(INNER_SLICES)
    }

    /// Where separator `at` lies: behind child `at`, in its group, or among those between groups if the child is the last of one.
    #[inline]
    fn slice_slot(&self, at: usize) -> &AtomicU64 {
        let (group, at) = (at / GROUP_CHILDREN, at % GROUP_CHILDREN);
        self.groups[group].slices.get(at).unwrap_or_else(|| &self.pivots[group])
    }

    #[inline]
    fn child_slot(&self, at: usize) -> &AtomicU32 {
        &self.groups[at / GROUP_CHILDREN].children[at % GROUP_CHILDREN]
    }

    #[inline]
    pub fn slice(&self, at: usize) -> u64 {
        self.slice_slot(at).load(Ordering::Acquire)
    }

    #[inline]
    pub fn child(&self, at: usize) -> u32 {
        self.child_slot(at).load(Ordering::Acquire)
    }

    /// Which of the children holds `slice`, and that child.
    #[inline]
    pub fn child_of(&self, count: usize, slice: u64) -> (usize, u32) {
        let is_before = |separator| separator <= slice;
        let number = partition(self.pivots.each_ref(), is_before);
        let group = &self.groups[number];
        let at = partition(group.slices.each_ref(), is_before);
        let child = number * GROUP_CHILDREN + at;
        // What is behind the last separator counts only for the greatest of all slices, or while the node changes.
        if child <= count {
            (child, group.children[at].load(Ordering::Acquire))
        } else {
            (count, self.child(count))
        }
    }

    /// Asks for all that a search may read: who asks for the line of children once it is known waits twice.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.version);
        prefetch(&self.passed);
        self.groups.iter().for_each(prefetch);
    }

    /// Bit `i` says that a scan may pass over child `i`, a leaf with nothing but marked slots. It changes without the version.
    #[inline]
    pub fn passed(&self) -> u128 {
        let [low, high] = &self.passed;
        u128::from(low.load(Ordering::Acquire)) | u128::from(high.load(Ordering::Acquire)) << 64
    }

    /// The caller holds the lock, or nobody else can see the node; so below.
    pub fn set_passed(&self, passed: u128) {
        self.passed[0].store(passed as u64, Ordering::Release);
        self.passed[1].store((passed >> 64) as u64, Ordering::Release);
    }

    /// Says of one child that it may be passed over, or that it may not.
    pub fn name(&self, child: usize, is_passed: bool) {
        let others = self.passed() & !(1 << child);
        self.set_passed(others | u128::from(is_passed) << child);
    }

    fn set_child(&self, at: usize, child: u32) {
        self.child_slot(at).store(child, Ordering::Release);
    }

    pub fn set_slice(&self, at: usize, slice: u64) {
        self.slice_slot(at).store(slice, Ordering::Release);
    }

    /// Leaves the first `count` separators.
    pub fn truncate(&self, count: usize) {
        (count..INNER_SLICES).for_each(|at| self.set_slice(at, UNUSED));
        self.count.store(count as u64, Ordering::Release);
    }

    /// Puts separator `at` and the child to its right in place. Neither half may be passed over.
    pub fn insert(&self, at: usize, separator: u64, right: u32) {
        let count = self.len();
        assert!(at <= count && count < INNER_SLICES);
        for from in (at..count).rev() {
            self.set_slice(from + 1, self.slice(from));
            self.set_child(from + 2, self.child(from + 1));
        }
        self.set_slice(at, separator);
        self.set_child(at + 1, right);
        let (lower, upper) = halves(self.passed(), at + 1);
        self.set_passed(lower | upper << (at + 2));
        self.count.store(count as u64 + 1, Ordering::Release);
    }

    /// Takes separator `at` and the child to its right out.
    pub fn remove(&self, at: usize) {
        let count = self.len();
        assert!(at < count);
        let (lower, upper) = halves(self.passed(), at + 1);
        self.set_passed(lower | upper >> 1 << (at + 1));
        for from in at + 1..count {
            self.set_slice(from - 1, self.slice(from));
            self.set_child(from, self.child(from + 1));
        }
        self.set_slice(count - 1, UNUSED);
        self.count.store(count as u64 - 1, Ordering::Release);
    }

    /// Separators, and children, of which there is one more; and which of them may be passed over.
    pub fn contents(&self) -> (Vec<u64>, Vec<u32>, u128) {
        let count = self.len();
        let children = (0..=count).map(|at| self.child(at)).collect();
        ((0..count).map(|at| self.slice(at)).collect(), children, self.passed())
    }

    /// Replaces all.
    pub fn fill(&self, slices: &[u64], children: &[u32], passed: u128) {
        assert!(slices.len() <= INNER_SLICES && children.len() == slices.len() + 1);
        debug_assert!(slices.is_sorted());
        slices.iter().enumerate().for_each(|(at, &slice)| self.set_slice(at, slice));
        children.iter().enumerate().for_each(|(at, &child)| self.set_child(at, child));
        self.set_passed(halves(passed, children.len()).0);
        self.truncate(slices.len());
    }
}

const _: () = assert!(INNER_SLICES + 2 < 128, "a bit for each child, and no shift by all of them");

/// The lowest `count` bits, and those above, moved down.
pub fn halves(bits: u128, count: usize) -> (u128, u128) {
    (bits & ((1 << count) - 1), bits >> count)
}

/// Bytes of a prefix that one node of a layer holds.
pub const LAYER_BYTES: usize = LAYER_WORDS * SLICE_BYTES;

impl Layer {
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.version);
    }

    /// Word `at` of this node's part of the prefix.
    #[inline]
    pub fn prefix_word(&self, at: usize) -> u64 {
        self.prefix[at].load(Ordering::Acquire)
    }

    /// Length of the whole prefix; only the first node of a layer knows it.
    #[inline]
    pub fn prefix_len(&self) -> usize {
        self.prefix_bytes.load(Ordering::Acquire) as usize
    }
}
