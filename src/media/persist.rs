//! Making bytes survive: cache-line write-back, non-temporal copies, fences, `fdatasync`. The only fences and the only
//! syncs of the project are here.
//!
//!   - the write-back instruction is chosen once, at run time, from what the CPU says it has: clwb keeps the line in
//!     the cache, clflushopt evicts it, clflush also waits. It is written as `asm!`, so that no target feature is
//!     assumed and tools that hide the instructions from CPUID (valgrind) never meet them
//!   - a write-back covers whole lines: the start is aligned down, the last touched line is included, none twice
//!   - a fence waits for the write-backs and non-temporal stores of *this thread* and for no other's
//!   - bytes of a non-temporal copy may be shown to other threads only after this thread's fence: such stores are not
//!     ordered with the ones behind them. The tokens give that order: published means drained
#![allow(unsafe_code, reason = "cache-line instructions and fences; each block proves its range")]

use super::Region;
use super::sys::{self, CallSite, Sys};
use crate::constants::CACHE_LINE_BYTES;
use crate::sync::OnceLock;
use crate::types::MediaRange;
use std::os::fd::RawFd;

pub(super) use arch::WriteBack;

/// The instruction of this CPU, detected at the first call.
pub(super) fn write_back() -> WriteBack {
    static CHOSEN: OnceLock<WriteBack> = OnceLock::new();
    *CHOSEN.get_or_init(WriteBack::detect)
}

impl WriteBack {
    /// Starts write-back of every cache line that `range` touches.
    #[inline]
    pub(super) fn flush(self, region: &Region, range: MediaRange) {
        if range.len == 0 {
            return;
        }
        let start = region.address(range.offset, range.len) as usize;
        // SAFETY: every line touches `range`, which is mapped (`address` asserts it); lines never straddle a page, and
        // the region is mapped by whole pages.
        lines(start, range.len as usize).for_each(|line| unsafe { self.line(line as *const u8) });
    }
}

/// The addresses of the cache lines that `len` bytes at `start` touch, `len` not 0.
#[inline]
fn lines(start: usize, len: usize) -> impl Iterator<Item = usize> {
    const LINE: usize = CACHE_LINE_BYTES as usize;
    let first = start - start % LINE;
    let last = start + (len - 1);
    (0..=(last - first) / LINE).map(move |i| first + i * LINE)
}

/// Stores whole lines past the caches; durable after the next [`fence`] of this thread.
///
/// # Panics
/// If offset or length is not a multiple of the cache line, or the range is not writable.
#[inline]
pub(super) fn copy_non_temporal(region: &Region, offset: u64, bytes: &[u8]) {
    let len = bytes.len() as u64;
    assert!(
        offset.is_multiple_of(CACHE_LINE_BYTES) && len.is_multiple_of(CACHE_LINE_BYTES),
        "{len} bytes at pool offset {offset}: a non-temporal copy takes whole lines of {CACHE_LINE_BYTES} bytes"
    );
    let to = region.writable_at(offset, len);
    // SAFETY: `to` is valid for writing `len` bytes and aligned to a line (the base is aligned to a page); `bytes` is
    // not in the destination, which nobody reads yet by the write-once rule.
    unsafe { arch::stream(to, bytes) };
}

/// Waits until the write-backs and non-temporal stores of this thread have reached the persistence domain.
#[inline]
pub(super) fn fence() {
    arch::fence();
}

/// `fdatasync`: all written bytes of the file. Never retried, not even after an interrupt: a second call may answer
/// success for pages that the first failed to write.
pub(super) fn sync_data(site: CallSite, fd: RawFd) -> Sys<()> {
    sys::fdatasync(site, fd)
}

/// `fsync`: all written bytes and metadata. Never retried.
pub(super) fn sync_all(site: CallSite, fd: RawFd) -> Sys<()> {
    sys::fsync(site, fd)
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, __m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const CPUID_LEAF_FEATURES: u32 = 7;
    const EBX_CLFLUSHOPT: u32 = 1 << 23;
    const EBX_CLWB: u32 = 1 << 24;
    const VECTOR_BYTES: usize = size_of::<__m128i>();
    const LINE_BYTES: usize = super::CACHE_LINE_BYTES as usize;

    /// How a cache line is written back.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::media) enum WriteBack {
        Clwb,
        Clflushopt,
        Clflush,
    }

    impl WriteBack {
        #[allow(unused_unsafe, reason = "newer compilers know that cpuid is safe on x86_64")]
        pub(super) fn detect() -> WriteBack {
            // SAFETY: every x86_64 has cpuid, and it touches no memory; the leaf exists (leaf 0 names the highest).
            let ebx = unsafe {
                match __cpuid(0).eax {
                    0..CPUID_LEAF_FEATURES => 0,
                    _ => __cpuid_count(CPUID_LEAF_FEATURES, 0).ebx,
                }
            };
            match ebx {
                _ if ebx & EBX_CLWB != 0 => WriteBack::Clwb,
                _ if ebx & EBX_CLFLUSHOPT != 0 => WriteBack::Clflushopt,
                _ => WriteBack::Clflush,
            }
        }

        /// The instruction's name, for statistics.
        pub(in crate::media) fn name(self) -> &'static str {
            match self {
                WriteBack::Clwb => "clwb",
                WriteBack::Clflushopt => "clflushopt",
                WriteBack::Clflush => "clflush",
            }
        }

        /// Whether what it writes back reaches persistent memory.
        pub(in crate::media) fn reaches_memory(self) -> bool {
            true
        }

        /// # Safety
        /// `line` points into mapped memory.
        #[inline]
        pub(super) unsafe fn line(self, line: *const u8) {
            // No `nomem`: the compiler must have stored what is to be written back.
            match self {
                // SAFETY: mapped memory, by the caller; the CPU has the instruction, by `detect`.
                WriteBack::Clwb => unsafe {
                    asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags))
                },
                // SAFETY: as above.
                WriteBack::Clflushopt => unsafe {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                },
                // SAFETY: as above; every x86_64 has it.
                WriteBack::Clflush => unsafe {
                    asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags))
                },
            }
        }
    }

    /// # Safety
    /// `to` is aligned to a line and valid for writing `bytes.len()` bytes, whole lines, and does not overlap `bytes`.
    #[inline]
    pub(super) unsafe fn stream(to: *mut u8, bytes: &[u8]) {
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        debug_assert!(rest.is_empty());
        for (i, line) in lines.iter().enumerate() {
            for (j, vector) in line.as_chunks::<VECTOR_BYTES>().0.iter().enumerate() {
                // SAFETY: the load reads the 16 bytes of `vector`, at any alignment; the store writes 16 bytes of the
                // destination from byte `i * 64 + j * 16`, inside it because `i < len / 64` and `j < 4`, aligned because
                // `to` is.
                unsafe {
                    let vector = _mm_loadu_si128(vector.as_ptr().cast());
                    _mm_stream_si128(to.add(i * LINE_BYTES + j * VECTOR_BYTES).cast(), vector);
                }
            }
        }
    }

    #[inline]
    pub(super) fn fence() {
        // SAFETY: a fence touches no memory, and every x86_64 has the instruction.
        unsafe { _mm_sfence() };
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use super::CACHE_LINE_BYTES;
    use std::arch::asm;

    /// `HWCAP_DCPOP`: the CPU cleans to the point of persistence.
    const HWCAP_DCPOP: u64 = 1 << 16;
    const CTR_DMINLINE_SHIFT: u64 = 16;
    const CTR_DMINLINE_MASK: u64 = 0xf;
    const CTR_WORD_BYTES: u64 = 4;

    /// How a cache line is written back.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::media) enum WriteBack {
        /// To the point of persistence.
        DcCvap,
        /// To the point of coherency: on systems whose memory controllers are in the persistence domain.
        DcCvac,
        /// Lines shorter than ours: a walk in our steps would leave some out.
        None,
    }

    impl WriteBack {
        pub(super) fn detect() -> WriteBack {
            let ctr: u64;
            // SAFETY: CTR_EL0 is readable from user space on Linux (the kernel emulates it where it is trapped).
            unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
            let line_bytes = CTR_WORD_BYTES << ((ctr >> CTR_DMINLINE_SHIFT) & CTR_DMINLINE_MASK);
            // SAFETY: getauxval reads the process's own auxiliary vector.
            let hwcap = unsafe { libc::getauxval(libc::AT_HWCAP) };
            match hwcap & HWCAP_DCPOP {
                _ if line_bytes < CACHE_LINE_BYTES => WriteBack::None,
                0 => WriteBack::DcCvac,
                _ => WriteBack::DcCvap,
            }
        }

        /// The instruction's name, for statistics.
        pub(in crate::media) fn name(self) -> &'static str {
            match self {
                WriteBack::DcCvap => "dc cvap",
                WriteBack::DcCvac => "dc cvac",
                WriteBack::None => "none",
            }
        }

        /// Whether what it writes back reaches persistent memory.
        pub(in crate::media) fn reaches_memory(self) -> bool {
            self != WriteBack::None
        }

        /// # Safety
        /// `line` points into mapped memory.
        #[inline]
        pub(super) unsafe fn line(self, line: *const u8) {
            match self {
                // SAFETY: mapped memory, by the caller; the CPU has it, by `detect`. The encoding of `dc cvap, x`
                // is spelled as `sys`, which assemblers without the feature accept.
                WriteBack::DcCvap => unsafe {
                    asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack, preserves_flags));
                },
                // SAFETY: mapped memory, by the caller.
                WriteBack::DcCvac => unsafe {
                    asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags))
                },
                WriteBack::None => {}
            }
        }
    }

    /// # Safety
    /// `to` is valid for writing `bytes.len()` bytes and does not overlap `bytes`.
    #[inline]
    pub(super) unsafe fn stream(to: *mut u8, bytes: &[u8]) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        let write_back = super::write_back();
        if !bytes.is_empty() {
            // SAFETY: the lines of the bytes just written.
            super::lines(to as usize, bytes.len())
                .for_each(|line| unsafe { write_back.line(line as *const u8) });
        }
    }

    #[inline]
    pub(super) fn fence() {
        // SAFETY: a barrier; touches no memory. No `nomem`: nothing may be moved across it.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    use crate::sync::{Ordering, fence as memory_fence};

    /// No way to write back a line: `dax` is refused, `emulated-pm` survives a killed process as everywhere.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::media) struct WriteBack;

    impl WriteBack {
        pub(super) fn detect() -> WriteBack {
            WriteBack
        }

        /// The instruction's name, for statistics.
        pub(in crate::media) fn name(self) -> &'static str {
            "none"
        }

        /// Whether what it writes back reaches persistent memory.
        pub(in crate::media) fn reaches_memory(self) -> bool {
            false
        }

        /// # Safety
        /// None is needed; the signature is that of the other CPUs.
        #[inline]
        pub(super) unsafe fn line(self, _line: *const u8) {}
    }

    /// # Safety
    /// `to` is valid for writing `bytes.len()` bytes and does not overlap `bytes`.
    #[inline]
    pub(super) unsafe fn stream(to: *mut u8, bytes: &[u8]) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    #[inline]
    pub(super) fn fence() {
        memory_fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::PAGE_BYTES;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn every_touched_line_is_written_back_exactly_once(start in 0_usize..1 << 20, len in 1_usize..2000) {
            let mut flushed = BTreeMap::new();
            for line in lines(start, len) {
                *flushed.entry(line).or_insert(0) += 1;
            }
            let touched: BTreeMap<usize, i32> = (start..start + len).map(|byte| (byte / 64 * 64, 1)).collect();
            prop_assert_eq!(flushed, touched);
        }

        #[test]
        fn a_non_temporal_copy_writes_its_bytes_and_no_others(line in 0_u64..8, lines in 0_u64..8, shift in 0_usize..16) {
            let region = Region::anonymous(PAGE_BYTES).unwrap();
            let source: Vec<u8> = (0..shift + 8 * 64).map(|i| i as u8 | 1).collect();
            let bytes = &source[shift..][..lines as usize * 64];
            copy_non_temporal(&region, line * 64, bytes);
            fence();
            let mut found = vec![0; PAGE_BYTES as usize];
            region.copy_out(0, &mut found);
            let start = line as usize * 64;
            prop_assert_eq!(&found[start..start + bytes.len()], bytes);
            prop_assert!(found[..start].iter().chain(&found[start + bytes.len()..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn write_back_of_any_range_of_a_region_runs() {
        let region = Region::anonymous(2 * PAGE_BYTES).unwrap();
        for (offset, len) in
            [(0, 0), (2 * PAGE_BYTES, 0), (1, 1), (63, 2), (0, 2 * PAGE_BYTES), (2 * PAGE_BYTES - 1, 1)]
        {
            write_back().flush(&region, MediaRange::new(offset, len));
        }
        fence();
        assert!(!write_back().name().is_empty());
    }

    #[test]
    #[should_panic(expected = "whole lines")]
    fn a_non_temporal_copy_of_part_of_a_line_is_refused() {
        copy_non_temporal(&Region::anonymous(PAGE_BYTES).unwrap(), 64, &[0; 65]);
    }

    #[test]
    #[should_panic(expected = "the region has")]
    fn write_back_behind_the_end_is_refused() {
        write_back().flush(&Region::anonymous(PAGE_BYTES).unwrap(), MediaRange::new(PAGE_BYTES - 1, 2));
    }
}
