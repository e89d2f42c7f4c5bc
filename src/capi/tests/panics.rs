//! A panic under a snapshot or an iterator poisons the store, as under a call that names it, and is told.

use super::super::iter::{flatkv_iter_free, flatkv_iter_new, flatkv_iter_seek_first, flatkv_iter_status};
use super::super::last_error;
use super::super::multi_get::flatkv_snapshot_multi_get;
use super::super::types::flatkv_slice_t;
use super::*;
use crate::capi::store_calls::{flatkv_health, flatkv_put};
use crate::error::status;
use crate::media::sim::{Fault, SimKind, SimMedia};
use crate::options::IndexKind;
use crate::sync::Arc;
use crate::testing;

/// A store whose reads can be made to panic, with an entry.
fn store() -> (*mut flatkv_t, Arc<SimMedia>) {
    let mut options = testing::options().index(IndexKind::Ordered);
    options.set("sigbus", "guard").expect("an option");
    let media = Arc::new(SimMedia::new(SimKind::Pm, 1 << 20));
    let store = testing::open_on(media.clone(), options).expect("a fresh pool");
    let store = handle::new_store(store).expect("a slot");
    assert_eq!(flatkv_put(store, c"key".as_ptr().cast(), 3, ptr::null(), 0), status::OK);
    (store, media)
}

/// The short way of a call is not inside of what tells the panic hook whose panic it is.
#[test]
fn a_panic_on_the_short_way_of_a_call_is_told_and_poisons_the_store() {
    let (store, _media) = store();
    let status = guard::short("flatkv_test", store, |_, _| panic!("a simulated bug in read"));
    assert_eq!(status, Some(status::E_PANIC));
    assert_poisoned(store);
    let message = handle::text(last_error::as_ptr(), "message").expect("a message is text");
    assert!(message.contains("src/capi/tests/panics.rs:"), "the hook has seen whose it is: {message}");
    assert_eq!(guard::short("flatkv_test", store, |_, _| Some(guard::Presence::Found)), Some(status::OK));
}

fn assert_poisoned(store: *mut flatkv_t) {
    let message = handle::text(last_error::as_ptr(), "message").expect("a message is text");
    assert!(message.contains("a simulated bug in read"), "{message}");
    assert_eq!(flatkv_health(store), status::E_POISONED);
}

#[test]
fn a_panic_of_a_get_from_a_snapshot_poisons_the_store() {
    let (store, media) = store();
    let mut snapshot = ptr::null_mut();
    assert_eq!(flatkv_snapshot_new(store, &mut snapshot), status::OK);
    media.inject(Fault::PanicInRead { nth: 1 });
    let mut value = NO_BUFFER;
    let found = flatkv_snapshot_get(snapshot, c"key".as_ptr().cast(), 3, &mut value);
    assert_eq!(found, status::E_PANIC);
    assert_poisoned(store);
    flatkv_snapshot_free(snapshot);
}

#[test]
fn a_panic_of_a_multi_get_from_a_snapshot_poisons_the_store() {
    let (store, media) = store();
    let mut snapshot = ptr::null_mut();
    assert_eq!(flatkv_snapshot_new(store, &mut snapshot), status::OK);
    media.inject(Fault::PanicInRead { nth: 1 });
    let key = flatkv_slice_t { data: c"key".as_ptr().cast(), len: 3 };
    let (mut value, mut found) = (NO_BUFFER, status::OK);
    let all = flatkv_snapshot_multi_get(snapshot, 1, &key, &mut value, &mut found);
    assert_eq!((all, found), (status::E_PANIC, status::E_PANIC));
    assert_poisoned(store);
    flatkv_snapshot_free(snapshot);
}

/// The status stayed FLATKV_OK, as at the end of what there is.
#[test]
fn a_panic_of_an_iterator_is_its_status_and_poisons_the_store() {
    let (store, media) = store();
    let mut iter = ptr::null_mut();
    assert_eq!(flatkv_iter_new(store, ptr::null(), &mut iter), status::OK);
    media.inject(Fault::PanicInRead { nth: 1 });
    flatkv_iter_seek_first(iter);
    assert_poisoned(store);
    assert_eq!(flatkv_iter_status(iter), status::E_PANIC);
    flatkv_iter_free(iter);
}
