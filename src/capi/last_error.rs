//! The detailed message of each thread's last failure.

use std::cell::RefCell;
use std::ffi::c_char;
use std::fmt::{Display, Write};

/// Longer messages are cut, so that a hostile argument that is quoted in one cannot take memory for ever.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    /// The message and its NUL; empty until something fails. Kept for its memory: a failure allocates once per
    /// thread.
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Records that `function` failed because of `why`. Does nothing while the thread's locals are being destroyed.
#[cold]
pub(super) fn set(function: &str, why: &dyn Display) {
    // Formatting into a String fails only if `why` does, and then leaves a shorter message.
    let _ = MESSAGE.try_with(|message| {
        let mut message = message.borrow_mut();
        message.clear();
        let _ = write!(message, "{function}: {why}");
        cut(&mut message);
        message.shrink_to(MESSAGE_BYTES_MAX + 1);
        if message.contains('\0') {
            *message = message.replace('\0', "?");
        }
        message.push('\0');
    });
}

/// The message as C reads it: valid until this thread's next [`set`].
pub(super) fn as_ptr() -> *const c_char {
    let message = MESSAGE.try_with(|message| {
        let message = message.borrow();
        if message.is_empty() { c"".as_ptr() } else { message.as_ptr().cast() }
    });
    message.unwrap_or(c"".as_ptr())
}

fn cut(message: &mut String) {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
}
