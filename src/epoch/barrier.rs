//! A memory barrier on all threads of the process, paid for by the one that asks for it: `membarrier(2)`. Where the
//! system has it not, or a filter of system calls refuses it, who would have relied on it has to fence instead.
#![allow(unsafe_code, reason = "a system call that the standard library does not have")]

/// Announces to the kernel that this process will ask for barriers; again costs little. False if there are none to be
/// had.
#[cold]
pub(super) fn register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && on_all_threads()
}

/// Every thread of this process passes a full barrier between the begin and the end of this call. False if it was
/// refused: then none was passed.
#[cold]
pub(super) fn on_all_threads() -> bool {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: takes numbers only (command, flags, processor), and changes nothing in the memory of the process.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::c_long::from(command), 0_usize, 0_usize) == 0 }
}
