//! Node storage of the indexes: reserved address ranges that become memory page by page as they are touched, given out
//! as references to atomics, so that the algorithms on top of them are safe Rust. Nodes are named by number.
//!
//! Invariants:
//!   - every byte of a reservation is mapped readable and writable from [`Reserved::new`] until it is dropped, and zero
//!     until somebody stores to it
//!   - a node type is made of atomics only ([`Node`]), so any number of threads may share a reference to any node
//!   - node 0 of a [`Pool`] is never handed out: 0 can mean "none"
#![allow(unsafe_code, reason = "maps memory and gives it out as references to atomics")]

use crate::constants::{CACHE_LINE_BYTES, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
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
/// Reservations shrink to this before they fail, where the address space is limited (`ulimit -v`).
const RESERVED_BYTES_MIN: usize = 1 << 20;

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

/// A counter that shares no cache line, nor the line that the CPU prefetches beside it.
#[repr(C, align(128))]
pub struct Counter {
    /// The count.
    pub value: AtomicU64,
}

const _: () =
    assert!(size_of::<Bucket>() as u64 == CACHE_LINE_BYTES && size_of::<Line>() as u64 == CACHE_LINE_BYTES);
const _: () = assert!(size_of::<Page>() as u64 == PAGE_BYTES);
const _: () = assert!(size_of::<usize>() == 8, "reservations are larger than a 32-bit address space");

/// What a reservation may hold.
///
/// # Safety
/// The type consists of integer atomics and padding only: zero bytes are a value, shared references may be used by any
/// thread, there is nothing to drop. Its alignment is at most that of a huge page.
pub unsafe trait Node: Sync {
    /// Sets all of it to zero. The caller is the only one who uses the node.
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

// SAFETY: an integer atomic and padding.
unsafe impl Node for Counter {
    fn clear(&self) {
        self.value.store(0, Ordering::Relaxed);
    }
}

/// An array of zeroes that costs address space, and memory only where it is touched.
pub struct Reserved<T: Node> {
    nodes: NonNull<T>,
    count: usize,
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its mapping, and all access to the nodes goes through shared references to `T: Node`, which are `Sync`.
unsafe impl<T: Node> Send for Reserved<T> {}
// SAFETY: as for `Send`; no method changes the struct itself.
unsafe impl<T: Node> Sync for Reserved<T> {}

impl<T: Node> Reserved<T> {
    /// Reserves room for `count` nodes, or for fewer (halved until it fits) where the address space is limited.
    ///
    /// # Errors
    /// `Io` if even a small reservation is refused.
    pub fn new(mut count: usize) -> Result<Reserved<T>> {
        loop {
            let bytes = (count * size_of::<T>()).next_multiple_of(PAGE_BYTES as usize);
            // Ranges that huge pages can serve start where one would.
            let spare = if bytes < HUGE_PAGE_BYTES { 0 } else { HUGE_PAGE_BYTES };
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new anonymous mapping at an address that the kernel chooses replaces nothing.
            let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes + spare, protection, flags, -1, 0) };
            if mapped == libc::MAP_FAILED {
                let error = Error::last_os("mmap index");
                if bytes / 2 < RESERVED_BYTES_MIN {
                    return Err(error);
                }
                count /= 2;
                continue;
            }
            let mapping = NonNull::new(mapped.cast::<u8>()).expect("the kernel maps nothing at address 0");
            let skipped = if spare == 0 { 0 } else { mapping.align_offset(HUGE_PAGE_BYTES) };
            assert!(skipped <= spare && count * size_of::<T>() <= bytes);
            // SAFETY: `skipped + bytes <= spare + bytes`, the length of the mapping (assert above).
            let nodes = unsafe { mapping.add(skipped) }.cast::<T>();
            assert!(nodes.is_aligned(), "pages are aligned to 4 KiB, larger arrays to 2 MiB");
            let reserved =
                Reserved { nodes, count, mapping, mapping_bytes: bytes + spare, owns: PhantomData };
            if spare != 0 {
                // Where huge pages are the default, a small index would otherwise cost 2 MiB per array.
                reserved.advise(count, libc::MADV_NOHUGEPAGE);
            }
            return Ok(reserved);
        }
    }

    /// Nodes there is room for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The node `number`. Panics if there is no such node.
    #[inline]
    pub fn get(&self, number: usize) -> &T {
        assert!(number < self.count, "node {number} of {}", self.count);
        // SAFETY: `number < count` (assert above), and `new` asserted that `count` nodes fit behind `nodes`, aligned, in a
        // mapping that lives as long as `self`. `T: Node`: whatever the bytes are, they are a value, changed by atomics.
        unsafe { self.nodes.add(number).as_ref() }
    }

    /// Lets the kernel merge the first `count` nodes to huge pages at leisure. Only for nodes that were touched: a fault
    /// that takes 2 MiB at once was measured at up to 6 ms.
    pub fn merge_to_huge_pages(&self, count: usize) {
        self.advise(count, libc::MADV_HUGEPAGE);
    }

    fn advise(&self, count: usize, advice: libc::c_int) {
        assert!(count <= self.count);
        let bytes = (count * size_of::<T>()).next_multiple_of(PAGE_BYTES as usize);
        // SAFETY: `count` is at most what was reserved (assert above), so the range lies in our mapping (see `new`) and neither advice changes what the memory contains. That the
        // kernel may not know it is no error: it is a hint.
        unsafe { libc::madvise(self.nodes.as_ptr().cast(), bytes, advice) };
    }
}

impl<T: Node> Drop for Reserved<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; references into it borrow `self`, so none is left.
        let unmapped = unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
        debug_assert_eq!(unmapped, 0);
    }
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

/// Nodes that are handed out and come back.
pub struct Pool<T: Node> {
    nodes: Reserved<T>,
    free: Mutex<FreeNodes>,
}

struct FreeNodes {
    /// Nodes from here on were never handed out and are zero.
    fresh_from: u32,
    returned: Vec<u32>,
}

impl<T: Node> Pool<T> {
    /// Room for `count` nodes or, where the address space is limited, for fewer.
    ///
    /// # Errors
    /// `Io` if the address space cannot be reserved.
    pub fn new(count: u32) -> Result<Pool<T>> {
        let free = Mutex::new(FreeNodes { fresh_from: 1, returned: Vec::new() });
        Ok(Pool { nodes: Reserved::new(count as usize)?, free })
    }

    /// A node of zeroes that nobody else has. Panics if none is left.
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
            return (number, false);
        }
        let number = free.fresh_from;
        assert!((number as usize) < self.nodes.count(), "all {} index nodes are in use", self.nodes.count());
        free.fresh_from += 1;
        if (number as usize * size_of::<T>()).is_multiple_of(HUGE_PAGE_BYTES) {
            self.nodes.merge_to_huge_pages(number as usize);
        }
        (number, true)
    }

    /// Takes nodes back that nobody can see any more.
    pub fn give_back(&self, numbers: impl IntoIterator<Item = u32>) {
        let mut free = self.free.lock();
        free.returned.extend(numbers);
        debug_assert!(free.returned.len() < free.fresh_from as usize, "a node came back twice");
    }

    /// The node `number`. Panics if there is no such node.
    #[inline]
    pub fn get(&self, number: u32) -> &T {
        self.nodes.get(number as usize)
    }

    /// Bytes of all nodes that were ever handed out, which is what they cost in memory.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.free.lock().fresh_from - 1) * size_of::<T>() as u64
    }
}
