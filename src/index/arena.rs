//! Node storage of the indexes: reserved address ranges that become memory page by page as they are touched, given out
//! as references to atomics, so that the algorithms on top of them are safe Rust. Nodes are named by number.
//!
//! Invariants:
//!   - every byte of a reservation is mapped readable and writable from [`AddressSpace::reserve`] until the last array in it
//!     is dropped, and zero until somebody stores to it
//!   - arrays of one reservation share no page
//!   - a node type is made of atomics only ([`Node`]), so any number of threads may share a reference to any node
//!   - node 0 of a [`Pool`] is never handed out: 0 can mean "none"
#![allow(unsafe_code, reason = "maps memory and gives it out as references to atomics")]

use crate::constants::{CACHE_LINE_BYTES, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use crossbeam_utils::CachePadded;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Slots of a bucket.
pub const BUCKET_SLOTS: usize = 8;
/// Buckets of a page.
pub const PAGE_BUCKETS: usize = 64;
/// Slots of a page.
pub const PAGE_SLOTS: usize = PAGE_BUCKETS * BUCKET_SLOTS;
/// Numbers a [`Line`] holds.
pub const LINE_NUMBERS: usize = 16;

const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Arrays of fewer huge pages are not aligned for them.
const HUGE_PAGES_MIN: usize = 64;
/// The most that is made ahead of the nodes in use, in huge pages; else a quarter of what is in use, or what is asked for.
const HUGE_PAGES_AHEAD_MAX: usize = 5;

/// A cache line of eight slots.
#[repr(C, align(64))]
pub struct Bucket {
    /// The slots.
    pub slots: [AtomicU64; BUCKET_SLOTS],
}

/// Buckets that fill one page of memory.
#[repr(C, align(4096))]
pub struct Page {
    /// The buckets.
    pub buckets: [Bucket; PAGE_BUCKETS],
}

/// A cache line of numbers.
#[repr(C, align(64))]
pub struct Line {
    /// The numbers.
    pub numbers: [AtomicU32; LINE_NUMBERS],
}

/// Entries of a leaf of the ordered index: what fills eight cache lines, so that no leaf lies on two pages.
pub const LEAF_SLOTS: usize = 31;
/// Children in one line of an inner node of the ordered index, beside the separators between them.
pub const GROUP_CHILDREN: usize = 6;
/// Such lines in an inner node.
pub const INNER_GROUPS: usize = 13;
/// Separators of an inner node.
pub const INNER_SLICES: usize = INNER_GROUPS * GROUP_CHILDREN - 1;
/// Words of key bytes in a [`Layer`].
pub const LAYER_WORDS: usize = 5;

/// Bits of a version that say what is being done with its node; the others count.
pub const VERSION_FLAGS: u64 = 3;

/// A leaf of the ordered index: sorted slices of keys, and beside each a word that says what it stands for.
#[repr(C, align(512))]
pub struct Leaf {
    /// Its version lock.
    pub version: AtomicU64,
    /// Slots in use.
    pub count: AtomicU64,
    /// Eight bytes of each key.
    pub slices: [AtomicU64; LEAF_SLOTS],
    /// What they lead to.
    pub words: [AtomicU64; LEAF_SLOTS],
}

/// An inner node of the ordered index: child `i` holds the slices from separator `i - 1` up to separator `i`. Each line
/// of children is full before the next one has any. A search reads three lines: the two before the groups, and one of
/// those.
#[repr(C, align(1024))]
pub struct Inner {
    /// Its version lock.
    pub version: AtomicU64,
    /// Separators in use; there is one child more.
    pub count: AtomicU64,
    /// The separators between groups.
    pub pivots: [AtomicU64; INNER_GROUPS - 1],
    /// A bit for each child that a scan may pass over.
    pub passed: [AtomicU64; 2],
    /// The children, and the other separators.
    pub groups: [Group; INNER_GROUPS],
}

/// A cache line of an inner node: some of its children, and the separators between them.
#[repr(C, align(64))]
pub struct Group {
    /// The separators.
    pub slices: [AtomicU64; GROUP_CHILDREN - 1],
    /// The children.
    pub children: [AtomicU32; GROUP_CHILDREN],
}

/// The head of one tree of the ordered index, or more bytes of its prefix.
#[repr(C, align(64))]
pub struct Layer {
    /// Its version lock: guards `root`.
    pub version: AtomicU64,
    /// The root node.
    pub root: AtomicU32,
    /// Bytes that all keys have before the slices of this tree.
    pub prefix_bytes: AtomicU32,
    /// The node with more bytes of the prefix; 0 for none.
    pub more: AtomicU32,
    /// The prefix, most significant byte first.
    pub prefix: [AtomicU64; LAYER_WORDS],
}

/// A counter that shares no cache line, nor the line that the CPU prefetches beside it.
#[repr(C, align(128))]
pub struct Counter {
    /// The count.
    pub value: AtomicU64,
}

const _: () =
    assert!(size_of::<Bucket>() as u64 == CACHE_LINE_BYTES && size_of::<Line>() as u64 == CACHE_LINE_BYTES);
const _: () = assert!(size_of::<Page>() as u64 == PAGE_BYTES);
const _: () = assert!(size_of::<Leaf>() == 512 && size_of::<Inner>() == 1024);
const _: () = assert!(size_of::<Layer>() as u64 == CACHE_LINE_BYTES);
const _: () = assert!(size_of::<Group>() as u64 == CACHE_LINE_BYTES);
const _: () = assert!(std::mem::offset_of!(Inner, groups) as u64 == 2 * CACHE_LINE_BYTES);
const _: () = assert!(size_of::<usize>() == 8, "reservations are larger than a 32-bit address space");

/// What a reservation may hold.
///
/// # Safety
/// The type consists of integer atomics and padding only: zero bytes are a value, shared references may be used by any
/// thread, there is nothing to drop. Its alignment is at most that of a page.
pub unsafe trait Node: Sync {
    /// Sets all of it to zero, but for a version that somebody may still know. The caller is the only one who uses the node.
    fn clear(&self);
}

// SAFETY: an integer atomic.
unsafe impl Node for AtomicU32 {
    fn clear(&self) {
        self.store(0, Ordering::Relaxed);
    }
}

// SAFETY: an array of integer atomics in an aligned struct.
unsafe impl Node for Line {
    fn clear(&self) {
        self.numbers.iter().for_each(|number| number.store(0, Ordering::Relaxed));
    }
}

// SAFETY: arrays of integer atomics in aligned structs.
unsafe impl Node for Page {
    fn clear(&self) {
        self.buckets
            .iter()
            .flat_map(|bucket| &bucket.slots)
            .for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
}

// SAFETY: integer atomics and arrays of them, aligned to less than a page.
unsafe impl Node for Leaf {
    fn clear(&self) {
        // Places in leaves are remembered without a guard, with the version: it never comes again.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store((version | VERSION_FLAGS) + 1, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.slices.iter().chain(&self.words).for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

// SAFETY: integer atomics, arrays of them, and arrays of lines of them without a gap; aligned to less than a page.
unsafe impl Node for Inner {
    fn clear(&self) {
        self.version.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        let slices = self.groups.iter().flat_map(|group| &group.slices);
        let words = self.pivots.iter().chain(&self.passed).chain(slices);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
        let children = self.groups.iter().flat_map(|group| &group.children);
        children.for_each(|child| child.store(0, Ordering::Relaxed));
    }
}

// SAFETY: integer atomics, an array of them and padding.
unsafe impl Node for Layer {
    fn clear(&self) {
        self.version.store(0, Ordering::Relaxed);
        [&self.root, &self.prefix_bytes, &self.more]
            .iter()
            .for_each(|number| number.store(0, Ordering::Relaxed));
        self.prefix.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

// SAFETY: an integer atomic and padding.
unsafe impl Node for Counter {
    fn clear(&self) {
        self.value.store(0, Ordering::Relaxed);
    }
}

/// Address space for the arrays of one index, laid out one behind the other: a small index then needs one mapping and
/// one or two page tables, however many arrays it has.
pub struct AddressSpace {
    mapping: Arc<Mapping>,
    /// Bytes given out.
    taken: usize,
}

/// A range of zeroes that costs memory only where it is touched.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns the range and never touches it but to unmap it.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `AddressSpace::reserve` mapped; every array in it holds this `Mapping`, so none is left.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(unmapped, 0);
    }
}

/// Bytes of memory that this machine has, swap space included: more nodes than that can be named, but never used.
pub fn memory_bytes() -> u64 {
    // SAFETY: plain numbers and padding: zeroes are a value.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to `info` only, which is ours and as large as it expects.
    if unsafe { libc::sysinfo(&raw mut info) } != 0 {
        return u64::MAX;
    }
    (info.totalram + info.totalswap).saturating_mul(u64::from(info.mem_unit))
}

/// What an array is aligned to: where huge pages can serve most of it, to where one would start.
fn align_of_array(bytes: usize) -> usize {
    if bytes < HUGE_PAGES_MIN * HUGE_PAGE_BYTES { PAGE_BYTES as usize } else { HUGE_PAGE_BYTES }
}

impl AddressSpace {
    /// Bytes that an array of so many nodes takes at most, its alignment included.
    pub fn needed_bytes<T: Node>(count: usize) -> usize {
        let bytes = count * size_of::<T>();
        bytes.next_multiple_of(PAGE_BYTES as usize) + align_of_array(bytes) - PAGE_BYTES as usize
    }

    /// Reserves a range.
    ///
    /// # Errors
    /// `Io` where the address space is limited (`ulimit -v`).
    pub fn reserve(bytes: usize) -> Result<AddressSpace> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses replaces nothing.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(Error::last_os("mmap index"));
        }
        let start = NonNull::new(mapped.cast::<u8>()).expect("the kernel maps nothing at address 0");
        // SAFETY: the range just mapped; the advice changes nothing that it contains, and being unknown is no error. Where
        // huge pages are the default, a small index would otherwise cost 2 MiB per array.
        unsafe { libc::madvise(mapped, bytes, libc::MADV_NOHUGEPAGE) };
        Ok(AddressSpace { mapping: Arc::new(Mapping { start, bytes }), taken: 0 })
    }

    /// Makes an array of the next bytes. Panics if they are used up: see [`AddressSpace::needed_bytes`].
    pub fn take<T: Node>(&mut self, count: usize) -> Reserved<T> {
        let bytes = count * size_of::<T>();
        let free = self.mapping.start.as_ptr().wrapping_add(self.taken);
        let at = self.taken + free.align_offset(align_of_array(bytes));
        assert!(
            at + bytes <= self.mapping.bytes,
            "an array of {bytes} bytes at {at} is past the reservation"
        );
        // SAFETY: `at + bytes` is at most the length of the mapping (assert above).
        let nodes = unsafe { self.mapping.start.add(at) }.cast::<T>();
        assert!(nodes.is_aligned(), "arrays start at pages, and no node needs more");
        self.taken = (at + bytes).next_multiple_of(PAGE_BYTES as usize);
        Reserved { nodes, count, mapping: Arc::clone(&self.mapping), owns: PhantomData }
    }
}

/// An array of zeroes that costs address space, and memory only where it is touched.
pub struct Reserved<T: Node> {
    nodes: NonNull<T>,
    count: usize,
    /// Keeps the nodes mapped. No other array but a clone has a byte of them.
    mapping: Arc<Mapping>,
    owns: PhantomData<T>,
}

// SAFETY: its nodes are its own and its clones', and all access to them goes through shared references to `T: Node`, which are
// `Sync`.
unsafe impl<T: Node> Send for Reserved<T> {}
// SAFETY: as for `Send`; no method changes the struct itself.
unsafe impl<T: Node> Sync for Reserved<T> {}

impl<T: Node> Clone for Reserved<T> {
    /// The same nodes.
    fn clone(&self) -> Self {
        Reserved {
            nodes: self.nodes,
            count: self.count,
            mapping: Arc::clone(&self.mapping),
            owns: PhantomData,
        }
    }
}

/// Apart, and with what it tells in registers: what stands for it in every look must be short.
#[cold]
#[inline(never)]
fn no_such_node(number: usize, count: usize) -> ! {
    panic!("node {number} of {count}");
}

impl<T: Node> Reserved<T> {
    /// Nodes there is room for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The node `number`. Panics if there is no such node.
    #[inline]
    pub fn get(&self, number: usize) -> &T {
        if number >= self.count {
            no_such_node(number, self.count);
        }
        // SAFETY: `number < count` (above), and `take` asserted that `count` nodes fit behind `nodes`, aligned, in a
        // mapping that lives as long as `self`. `T: Node`: whatever the bytes are, they are a value, changed by atomics.
        unsafe { self.nodes.add(number).as_ref() }
    }

    /// Makes the first whole huge page between nodes `from` and `to`: where not all nodes are in use, which those before `in_use`
    /// are, memory is made ahead of who will touch it, for a fault that takes 2 MiB at once was measured at up to 6 ms; what lies
    /// there in small pages is merged, and who touches it meanwhile waits, about a millisecond. `None` if there is no such page.
    fn make_huge_page(&self, from: usize, in_use: usize, to: usize) -> Option<Made> {
        assert!(from <= to && to <= self.count);
        let begin = self.nodes.as_ptr().addr() + from * size_of::<T>();
        let start = begin.next_multiple_of(HUGE_PAGE_BYTES) - self.nodes.as_ptr().addr();
        let end = start + HUGE_PAGE_BYTES;
        if end > to * size_of::<T>() {
            return None;
        }
        let at = self.nodes.as_ptr().cast::<u8>().wrapping_add(start);
        let ask = |advice| {
            // SAFETY: `[start, end)` lies within the first `to` nodes (above), which are ours. None of these advices changes
            // what the memory contains; that the kernel may not know one is no error: they are hints.
            unsafe { libc::madvise(at.cast(), HUGE_PAGE_BYTES, advice) == 0 }
        };
        let is_huge = ask(libc::MADV_HUGEPAGE);
        let has_memory = end <= in_use * size_of::<T>() || ask(libc::MADV_POPULATE_WRITE);
        if !has_memory {
            // Else who touches it first would wait for all of it.
            ask(libc::MADV_NOHUGEPAGE);
        }
        let is_merged = is_huge && has_memory && ask(libc::MADV_COLLAPSE);
        Some(Made { behind: end / size_of::<T>(), has_memory, is_merged })
    }
}

/// A huge page that was asked for.
struct Made {
    /// The first node behind it.
    behind: usize,
    /// All of it has memory, of pages of any size.
    has_memory: bool,
    /// It is one page.
    is_merged: bool,
}

/// Asks the CPU for the cache line in which `at` begins. A hint.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn prefetch<T: ?Sized>(at: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE, which has the instruction, is part of x86-64; a prefetch reads nothing that the program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
}

/// Asks the CPU for the cache line in which `at` begins. A hint; does nothing on this CPU.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn prefetch<T: ?Sized>(_at: &T) {}

/// The same of a line that is going to be written, which other CPUs give up for it. A hint.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn prefetch_to_write<T: ?Sized>(at: &T) {
    // SAFETY: x86-64 CPUs have the instruction, some as one that does nothing; it changes nothing that the program could see.
    // (The intrinsic becomes a prefetch to read unless a newer CPU is compiled for.)
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) std::ptr::from_ref(at).cast::<u8>(),
            options(nostack, preserves_flags, readonly));
    }
}

/// The same of a line that is going to be written. A hint; does nothing on this CPU.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn prefetch_to_write<T: ?Sized>(_at: &T) {}

/// Nodes that are handed out and come back. What changes with each of them lies apart from what every look reads, and what
/// every write reads changes seldom: else each node that one thread takes costs all others a miss.
pub struct Pool<T: Node> {
    nodes: Reserved<T>,
    free: CachePadded<Mutex<FreeNodes>>,
    /// At least so many nodes can still be handed out: see [`FreeNodes::left_of`].
    left: AtomicU64,
    /// Up to here the kernel was asked for huge pages, once for each.
    asked_to: AtomicU32,
    merged_bytes: AtomicU64,
    /// Nodes before this one have memory even if they were never handed out, or a few of them less.
    made_to: AtomicU32,
    /// Once so many nodes were handed out, memory is made ahead of the next ones, a quarter as much.
    ahead_from: AtomicU32,
    /// The kernel could not make memory ahead: it is not asked again.
    is_refused: AtomicBool,
}

struct FreeNodes {
    /// Nodes from here on were never handed out and are zero.
    fresh_from: u32,
    returned: Vec<u32>,
}

/// Where many nodes are left, as many as this make no difference.
const LEFT_STEP: u64 = 64;

impl FreeNodes {
    /// How many are left of `count`, and hardly less where they are many: so that it changes seldom.
    fn left_of(&self, count: usize) -> u64 {
        let left = (count - (self.fresh_from as usize).min(count) + self.returned.len()) as u64;
        if left < LEFT_STEP * LEFT_STEP { left } else { left - left % LEFT_STEP }
    }
}

impl<T: Node> Pool<T> {
    /// Hands out these nodes, all zero.
    pub fn new(nodes: Reserved<T>) -> Pool<T> {
        let free = FreeNodes { fresh_from: 1, returned: Vec::new() };
        let left = AtomicU64::new(free.left_of(nodes.count()));
        Pool {
            nodes,
            free: CachePadded::new(Mutex::new(free)),
            left,
            asked_to: AtomicU32::new(0),
            merged_bytes: AtomicU64::new(0),
            made_to: AtomicU32::new(0),
            ahead_from: AtomicU32::new(u32::MAX),
            is_refused: AtomicBool::new(false),
        }
    }

    /// The same, but once it grew by a huge page since [`Pool::make_huge_page`] was called first, that makes memory ahead of the
    /// nodes in use: who gets one then waits neither for a fault nor for a merge.
    pub fn made_ahead(nodes: Reserved<T>) -> Pool<T> {
        Pool { ahead_from: AtomicU32::new(0), ..Pool::new(nodes) }
    }

    /// A node that nobody else has, as [`Node::clear`] leaves it. Panics if none is left.
    pub fn allocate(&self) -> u32 {
        let (number, is_fresh) = self.take();
        if !is_fresh {
            self.get(number).clear();
        }
        number
    }

    fn take(&self) -> (u32, bool) {
        let mut free = self.free.lock();
        if let Some(number) = free.returned.pop() {
            self.tell_left(&free);
            return (number, false);
        }
        let number = free.fresh_from;
        assert!(
            (number as usize) < self.nodes.count(),
            "all {} index nodes are in use: where address space is limited (ulimit -v) the index is, too",
            self.nodes.count()
        );
        free.fresh_from += 1;
        self.tell_left(&free);
        (number, true)
    }

    /// Takes nodes back that nobody can see any more.
    pub fn give_back(&self, numbers: impl IntoIterator<Item = u32>) {
        let mut free = self.free.lock();
        free.returned.extend(numbers);
        debug_assert!(free.returned.len() < free.fresh_from as usize, "a node came back twice");
        self.tell_left(&free);
    }

    fn tell_left(&self, free: &FreeNodes) {
        let left = free.left_of(self.nodes.count());
        if left != self.left.load(Ordering::Relaxed) {
            self.left.store(left, Ordering::Relaxed);
        }
    }

    /// Nodes that were handed out, or a few more.
    pub fn in_use(&self) -> u64 {
        self.nodes.count() as u64 - self.left()
    }

    /// All nodes, to be looked at.
    pub fn nodes(&self) -> Reserved<T> {
        self.nodes.clone()
    }

    /// Nodes that can still be handed out, or a few less.
    #[inline]
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// The node `number`. Panics if there is no such node.
    #[inline]
    pub fn get(&self, number: u32) -> &T {
        self.nodes.get(number as usize)
    }

    /// Makes the next huge page of nodes that were handed out, or soon will be, in as many bytes ahead of those at least; false
    /// if there is none. One thread at a time.
    pub fn make_huge_page(&self, ahead_bytes: usize) -> bool {
        let from = self.asked_to.load(Ordering::Relaxed) as usize;
        let (in_use, to) = self.in_use_and_wanted(ahead_bytes / size_of::<T>());
        let Some(made) = self.nodes.make_huge_page(from, in_use, to.max(from)) else { return false };
        self.asked_to.store(made.behind as u32, Ordering::Relaxed);
        if made.has_memory {
            self.made_to.store(made.behind as u32, Ordering::Relaxed);
        } else {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        if made.is_merged {
            self.merged_bytes.fetch_add(HUGE_PAGE_BYTES as u64, Ordering::Relaxed);
        }
        true
    }

    /// Nodes before the first one were handed out; those before the second one shall have memory, in huge pages.
    fn in_use_and_wanted(&self, ahead_min: usize) -> (usize, usize) {
        let (in_use, returned) = {
            let free = self.free.lock();
            (free.fresh_from as usize, free.returned.len())
        };
        let in_huge_page = HUGE_PAGE_BYTES / size_of::<T>();
        if self.ahead_from.load(Ordering::Relaxed) == 0 {
            // What was there at open is not growth.
            self.ahead_from.store((in_use + in_huge_page) as u32, Ordering::Relaxed);
        }
        if self.is_refused.load(Ordering::Relaxed) {
            return (in_use, in_use);
        }
        let is_growing = in_use >= self.ahead_from.load(Ordering::Relaxed) as usize;
        let quarter = if is_growing { in_use / 4 } else { 0 };
        let ahead = quarter.max(ahead_min).min(HUGE_PAGES_AHEAD_MAX * in_huge_page).saturating_sub(returned);
        (in_use, (in_use + ahead).min(self.nodes.count()))
    }

    /// Bytes of all nodes that were ever handed out, if more are wanted ahead of them; else 0.
    pub fn growing_bytes(&self) -> usize {
        let (in_use, wanted) = self.in_use_and_wanted(0);
        if wanted > in_use { in_use * size_of::<T>() } else { 0 }
    }

    /// Bytes that were merged to huge pages.
    pub fn merged_bytes(&self) -> u64 {
        self.merged_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all nodes that were ever handed out or have memory, which is what they cost.
    pub fn memory_bytes(&self) -> u64 {
        let fresh_from = self.free.lock().fresh_from;
        u64::from(fresh_from.max(self.made_to.load(Ordering::Relaxed)) - 1) * size_of::<T>() as u64
    }
}

#[cfg(test)]
mod tests;
