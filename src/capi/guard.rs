//! The only place of the C interface that stops panics, and the only one that turns results into statuses.
//!
//! A panic inside a call would otherwise unwind into C. It becomes `FLATKV_E_PANIC`, its message and place go to
//! `flatkv_last_error`, and the store in use is poisoned: what the bug left half done must not be made durable.

use super::handle;
use super::last_error;
use super::types::{flatkv_status_t, flatkv_t};
use crate::epoch::Here;
use crate::error::{Error, Result, status};
use crate::panics;
use crate::store::Store;

/// What a successful call answers.
pub(super) trait Answer {
    fn status(self) -> flatkv_status_t;
}

impl Answer for () {
    fn status(self) -> flatkv_status_t {
        status::OK
    }
}

/// Whether the key of a read or delete was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Found,
    Missing,
}

impl From<bool> for Presence {
    fn from(found: bool) -> Self {
        if found { Presence::Found } else { Presence::Missing }
    }
}

impl Answer for Presence {
    fn status(self) -> flatkv_status_t {
        match self {
            Presence::Found => status::OK,
            Presence::Missing => status::NOT_FOUND,
        }
    }
}

/// Runs a call on a store: the store stays open until `body` has returned, and is poisoned if `body` panics.
#[inline]
pub(super) fn with_store<A: Answer>(
    function: &'static str,
    store: *const flatkv_t,
    body: impl FnOnce(&Store) -> Result<A>,
) -> flatkv_status_t {
    answer(function, on_store(store, body))
}

/// Runs the short way of a call on a store; `None` if it leaves the call to [`with_store`], or cannot be tried. It has no errors,
/// and recorded none: so what it answers fits a register, where a result is written to memory and read again.
#[inline(always)]
pub(super) fn short(
    function: &'static str,
    store: *const flatkv_t,
    body: impl FnOnce(&Store, Here) -> Option<Presence>,
) -> Option<flatkv_status_t> {
    let store = handle::visited_store(store)?;
    match panics::stop_in_visit(store.visit(), || body(&store, store.visit().here())) {
        Ok(answer) => answer.map(Answer::status),
        Err(error) => Some(panicked(function, &store, error)),
    }
}

#[cold]
fn panicked(function: &'static str, store: &Store, error: Error) -> flatkv_status_t {
    let result: Result<()> = Err(error);
    poison_after_panic(&result, |why| store.poison(why));
    answer(function, result)
}

/// As [`with_store`], for a function that has no status to return: `default` stands for every failure.
#[inline]
pub(super) fn value_of_store<T>(
    function: &'static str,
    store: *const flatkv_t,
    default: T,
    body: impl FnOnce(&Store) -> Result<T>,
) -> T {
    value_or(function, default, on_store(store, body))
}

/// Runs a call that uses no store.
#[inline]
pub(super) fn status_of<A: Answer>(
    function: &'static str,
    body: impl FnOnce() -> Result<A>,
) -> flatkv_status_t {
    answer(function, panics::stop(body))
}

/// As [`status_of`], for a call on a path: the message names it, too, unless the error does.
pub(super) fn status_of_path<A: Answer>(
    function: &'static str,
    path: impl Fn() -> Option<String>,
    body: impl FnOnce() -> Result<A>,
) -> flatkv_status_t {
    match panics::stop(body) {
        Ok(answer) => answer.status(),
        Err(error) => {
            let why = error.to_string();
            match path().filter(|path| !why.contains(path.as_str())) {
                Some(path) => last_error::set(function, &format_args!("{path}: {why}")),
                None => last_error::set(function, &why),
            }
            error.status()
        }
    }
}

/// Runs a call that uses no store and has no status to return: `default` stands for every failure.
#[inline]
pub(super) fn value_of<T>(function: &'static str, default: T, body: impl FnOnce() -> Result<T>) -> T {
    value_or(function, default, panics::stop(body))
}

#[inline]
fn on_store<T>(store: *const flatkv_t, body: impl FnOnce(&Store) -> Result<T>) -> Result<T> {
    let store = handle::store(store)?;
    let result = panics::stop(|| body(&store));
    poison_after_panic(&result, |why| store.poison(why));
    result
}

/// Runs a call on what belongs to a store and names it no more: `poison` poisons that store if `body` panics.
pub(super) fn on_part_of_store<P, T>(
    part: &mut P,
    body: impl FnOnce(&mut P) -> Result<T>,
    poison: impl FnOnce(&P, &str),
) -> Result<T> {
    let result = panics::stop(|| body(part));
    poison_after_panic(&result, |why| poison(part, why));
    result
}

/// A store that panics may panic again while it is poisoned; there is nobody left to tell.
#[inline]
fn poison_after_panic<T>(result: &Result<T>, poison: impl FnOnce(&str)) {
    if let Err(Error::Panic(why)) = result {
        let _ = panics::stop(|| {
            poison(why);
            Ok(())
        });
    }
}

#[inline]
fn answer<A: Answer>(function: &'static str, result: Result<A>) -> flatkv_status_t {
    match result {
        Ok(answer) => answer.status(),
        Err(error) => failure(function, &error),
    }
}

#[inline]
fn value_or<T>(function: &'static str, default: T, result: Result<T>) -> T {
    result.unwrap_or_else(|error| {
        failure(function, &error);
        default
    })
}

/// Records a failure for `flatkv_last_error` and gives its status.
#[cold]
fn failure(function: &'static str, error: &Error) -> flatkv_status_t {
    last_error::set(function, error);
    error.status()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_message() -> &'static str {
        handle::text(last_error::as_ptr(), "message").expect("a message is text")
    }

    #[test]
    fn a_panic_becomes_a_status_and_tells_its_message_and_place() {
        let status = status_of("flatkv_test", || -> Result<()> { panic!("slot {} is gone", 7) });
        assert_eq!(status, status::E_PANIC);
        let message = last_message();
        assert!(
            message.starts_with("flatkv_test: internal panic: slot 7 is gone at src/capi/guard.rs:"),
            "{message}"
        );
    }

    #[test]
    fn a_panic_payload_that_panics_when_dropped_does_not_unwind() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let status = status_of("flatkv_test", || -> Result<()> { std::panic::panic_any(Bomb) });
        assert_eq!(status, status::E_PANIC);
    }

    #[test]
    fn a_message_is_cut_and_has_no_nul_inside() {
        let why = format!("a\0b{}", "\u{e4}".repeat(10_000));
        assert_eq!(failure("f", &Error::InvalidArgument(why)), status::E_INVALID_ARGUMENT);
        let message = last_message();
        assert!(message.starts_with("f: invalid argument: a?b\u{e4}"), "{message}");
        assert!(message.len() <= 8 * 1024);
    }

    #[test]
    fn success_and_not_found_leave_the_last_failure_alone() {
        failure("f", &Error::ReadOnly);
        assert_eq!(status_of("g", || Ok(())), status::OK);
        assert_eq!(status_of("g", || Ok(Presence::Missing)), status::NOT_FOUND);
        assert_eq!(last_message(), "f: the store was opened read-only");
    }
}
