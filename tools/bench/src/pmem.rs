//! Memory that stands in for persistent memory: a file in /dev/shm, mapped, with huge pages where the system gives them,
//! touched before anything is timed; and the instructions that make a line of it durable if it were one.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Bytes that travel together.
pub const LINE_BYTES: usize = 64;

/// A mapping that is unmapped when it is dropped.
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory; who writes where is settled by its users.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A file of `len` bytes at `path`, mapped and touched. The file is removed at once, its memory goes with the mapping.
    pub fn shared(path: &Path, len: usize) -> Mapping {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        std::fs::remove_file(path).expect("the file was just created");
        file.set_len(len as u64).expect("room in /dev/shm");
        Self::map(len, libc::MAP_SHARED, file.as_raw_fd())
    }

    /// Anonymous memory of `len` zero bytes, touched.
    pub fn private(len: usize) -> Mapping {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn map(len: usize, flags: i32, fd: i32) -> Mapping {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        assert!(base != libc::MAP_FAILED, "map {len} bytes: {}", std::io::Error::last_os_error());
        // SAFETY: advice about the mapping just made; that the system may not follow it is fine.
        unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        // SAFETY: as above. Populating by hand below if the kernel is too old for it.
        unsafe { libc::madvise(base, len, libc::MADV_POPULATE_WRITE) };
        let mapping = Mapping { base: base.cast(), len };
        for at in (0..len).step_by(4096) {
            // SAFETY: inside the mapping, which nobody else has yet.
            unsafe { mapping.base.add(at).write_volatile(0) };
        }
        mapping
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `at`, with `len` bytes behind it inside the mapping.
    #[inline]
    pub fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len, "{len} bytes at {at} in a mapping of {}", self.len);
        // SAFETY: inside the mapping (assert).
        unsafe { self.base.add(at) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `map`, and nobody holds an address: they are used only while the mapping is borrowed.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Copies a line past the caches.
///
/// # Safety
/// `to` is aligned to a line and has a line behind it that nobody else uses.
#[inline]
pub unsafe fn stream_line(to: *mut u8, line: &[u8; LINE_BYTES]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        for part in 0..LINE_BYTES / 16 {
            // SAFETY: a quarter of the line each; the target is aligned and ours (contract).
            unsafe {
                let words = _mm_loadu_si128(line.as_ptr().add(part * 16).cast::<__m128i>());
                _mm_stream_si128(to.add(part * 16).cast::<__m128i>(), words);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the contract.
    unsafe {
        std::ptr::copy_nonoverlapping(line.as_ptr(), to, LINE_BYTES);
        write_back(to);
    }
}

/// Starts to write a line back to memory.
///
/// # Safety
/// `line` is an address inside a mapping.
#[inline]
pub unsafe fn write_back(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: writing a mapped line back changes nothing that a program can see. Callers asked `has_clwb`.
    unsafe {
        std::arch::asm!("clwb [{0}]", in(reg) line, options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; every aarch64 has `dc cvac`.
    unsafe {
        std::arch::asm!("dc cvac, {0}", in(reg) line, options(nostack, preserves_flags));
    }
}

/// Waits until what was streamed or written back has left this core.
#[inline]
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it, and it only orders.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: only orders.
    unsafe {
        std::arch::asm!("dsb ish", options(nostack, preserves_flags));
    }
}

/// Whether this machine can write lines back without throwing them out of its caches.
pub fn has_clwb() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::x86_64::__cpuid_count(7, 0).ebx & (1 << 24) != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        cfg!(target_arch = "aarch64")
    }
}

/// Asks for a line ahead of its use.
#[inline]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it faults on no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
