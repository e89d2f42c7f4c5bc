//! A drain that takes as long as the test likes.

use flatkv::testing::{CallFault, CallSite};
use std::sync::{Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

/// What nobody waits for who is not stuck.
const HELD_MAX: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Held {
    thread: Option<ThreadId>,
    is_draining: bool,
    /// It drained no longer because `HELD_MAX` was over.
    is_over: bool,
}

static HELD: Mutex<Held> = Mutex::new(Held { thread: None, is_draining: false, is_over: false });
static CHANGED: Condvar = Condvar::new();

/// From now on the next drain of this thread lasts until [`let_go`].
pub fn hold_own() {
    *HELD.lock().expect("nobody panics in here") =
        Held { thread: Some(std::thread::current().id()), is_draining: false, is_over: false };
}

/// Waits until the held drain has begun.
pub fn wait_for_it() {
    let held = HELD.lock().expect("nobody panics in here");
    let (held, _) = CHANGED.wait_timeout_while(held, HELD_MAX, |held| !held.is_draining).expect("nor here");
    assert!(held.is_draining, "the thread never drained");
}

/// Lets the held drain end. False if it had to end by itself.
pub fn let_go() -> bool {
    let mut held = HELD.lock().expect("nobody panics in here");
    held.thread = None;
    CHANGED.notify_all();
    !held.is_over
}

/// What the media call before each call of the system.
pub fn hook(site: CallSite) -> Option<CallFault> {
    let own = Some(std::thread::current().id());
    let mut held = HELD.lock().expect("nobody panics in here");
    if site == CallSite::Drain && held.thread == own && !held.is_draining {
        held.is_draining = true;
        CHANGED.notify_all();
        let (mut held, _) =
            CHANGED.wait_timeout_while(held, HELD_MAX, |held| held.thread == own).expect("nor here");
        held.is_over = held.thread == own;
    }
    None
}
