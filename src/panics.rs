//! Where the library's panics end: in a call of the C interface, which must not unwind into C, and in its own threads,
//! where nobody else would notice. The panic hook stays silent for them, because a library does not write to its host's
//! stderr; panics of the host (when it is a Rust program) still reach the hook that was installed before.

use crate::epoch::{self, Visit};
use crate::error::{Error, Result};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;

thread_local! {
    /// True while this thread is inside [`stop`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// What the hook was told about the last panic inside of it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `body`; a panic in it becomes [`Error::Panic`] with its message and place. The state that it leaves behind is for
/// the caller to give up (`AssertUnwindSafe`): a store is poisoned, an open is refused, and the objects of the C
/// interface are plain memory whose methods keep them consistent at every step.
#[inline]
pub fn stop<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    keep_quiet();
    let result = GUARDED.with(|guarded| {
        let outer = guarded.replace(true);
        let result = panic::catch_unwind(AssertUnwindSafe(body));
        guarded.set(outer);
        result
    });
    result.unwrap_or_else(|payload| Err(panic_error(payload)))
}

/// As [`stop`], of a body that answers with what fits registers, in a thread that visits something: there nothing panics but
/// the library, so the hook need not be told.
#[inline(always)]
pub fn stop_in_visit<T>(_visit: &Visit, body: impl FnOnce() -> T) -> Result<T> {
    keep_quiet();
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(panic_error)
}

/// Installs the hook. Before a thread is started rather than in it: a host that sets its own hook meanwhile would lose it.
#[inline]
pub fn keep_quiet() {
    static HOOK: Once = Once::new();
    // A thread that is unwinding already (a Rust host's destructor) may not change hooks; the next call will.
    if !HOOK.is_completed() && !thread::panicking() {
        HOOK.call_once(install_hook);
    }
}

#[cold]
fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let told = PANIC.try_with(|told| told.borrow_mut().take()).ok().flatten();
    // Dropping a payload can panic again, and nothing would stop that one. Texts, which ours are, cannot.
    if !payload.is::<&str>() && !payload.is::<String>() {
        std::mem::forget(payload);
    }
    Error::Panic(told.unwrap_or_else(|| "no message".into()))
}

fn install_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if GUARDED.try_with(Cell::get).unwrap_or(false) || epoch::is_visiting() {
            let _ = PANIC.try_with(|told| *told.borrow_mut() = Some(describe(info)));
        } else {
            previous(info);
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    match info.location() {
        Some(place) => format!("{message} at {place}"),
        None => message.to_owned(),
    }
}
