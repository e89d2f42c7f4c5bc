//! What handles other than stores name: options, write options, batches and pins. Several calls may read an object at
//! once, one alone may change it; a call that would have to wait is refused as busy. (A `RefCell` for many threads.)
//!
//! Invariants:
//!   - `object` is `Some` exactly while the word is neither `FREE` nor `RETIRED`, except for the slot's taker in `create`
//!     and its last user in `dispose`.
//!   - A `Shared` exists only while it is counted in the word, an `Exclusive` only while `EXCLUSIVE` is set; the two
//!     never at once.
//!   - An object that is freed while calls use it is `CLOSING`: nobody enters any more, and the last to leave disposes.

use super::table::{self, CLOSING, Place, RETIRED, Refusal, Slot, Table, WORD_NEW};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

/// One call changes the object.
const EXCLUSIVE: u64 = 1 << 28;
/// Calls that read the object.
const USERS: u64 = EXCLUSIVE - 1;
/// The lower half of a word.
const STATE: u64 = u32::MAX as u64;

/// A type that C holds handles to.
pub(super) trait Object: Send + Sync + Sized + 'static {
    /// The slots of this kind.
    fn table() -> &'static Table<ObjectSlot<Self>>;
}

/// A place for one object. Padded, so that threads with an object each do not share a cache line.
#[repr(align(128))]
pub(super) struct ObjectSlot<T> {
    word: AtomicU64,
    next_free: AtomicU32,
    object: UnsafeCell<Option<T>>,
}

// SAFETY: `object` is reached only under the counts in `word` (see the invariants): `&T` on several threads at once
// needs `T: Sync`, disposal on a thread other than the creator's needs `T: Send`.
unsafe impl<T: Send + Sync> Sync for ObjectSlot<T> {}

impl<T> Default for ObjectSlot<T> {
    fn default() -> Self {
        ObjectSlot {
            word: AtomicU64::new(WORD_NEW),
            next_free: AtomicU32::new(0),
            object: UnsafeCell::new(None),
        }
    }
}

impl<T: Send + Sync> Slot for ObjectSlot<T> {
    const FRESH_AT_ONCE: u32 = 16;

    fn next_free(&self) -> &AtomicU32 {
        &self.next_free
    }
}

/// Gives an object a slot. `None` if there are no more.
pub(super) fn create<T: Object>(object: T) -> Option<Place> {
    let (slot, at) = T::table().take()?;
    // SAFETY: a taken slot is this thread's alone, and its word lets no handle in until the store below.
    unsafe { *at.object.get() = Some(object) };
    let generation = table::generation(at.word.load(Ordering::Relaxed));
    at.word.store(u64::from(generation) << 32, Ordering::Release);
    Some(Place { slot, generation })
}

/// Reads an object, beside other readers.
pub(super) fn share<T: Object>(place: Place) -> Result<Shared<T>, Refusal> {
    let at = T::table().get(place.slot).ok_or(Refusal::Never)?;
    enter(at, place.generation, |word| {
        let room = word & EXCLUSIVE == 0 && word & USERS != USERS;
        room.then_some(word + 1)
    })?;
    Ok(Shared { slot: place.slot, at })
}

/// Changes an object, alone.
pub(super) fn claim<T: Object>(place: Place) -> Result<Exclusive<T>, Refusal> {
    let at = T::table().get(place.slot).ok_or(Refusal::Never)?;
    enter(at, place.generation, |word| (word & STATE == 0).then_some(word | EXCLUSIVE))?;
    Ok(Exclusive { slot: place.slot, at })
}

/// Frees an object: at once, or when the calls that use it have returned.
pub(super) fn free<T: Object>(place: Place) -> Result<(), Refusal> {
    let at = T::table().get(place.slot).ok_or(Refusal::Never)?;
    let word = enter(at, place.generation, |word| Some(word | CLOSING))?;
    if word & STATE == 0 {
        dispose(place.slot, at);
    }
    Ok(())
}

/// Exchanges the word of a live object as `change` says and gives the old one; `None` from `change` is busy.
#[inline]
fn enter<T>(
    at: &ObjectSlot<T>,
    generation: u32,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Refusal> {
    let mut word = at.word.load(Ordering::Relaxed);
    loop {
        table::check(generation, word)?;
        let new = change(word).ok_or(Refusal::Busy)?;
        match at.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Ok(word),
            Err(now) => word = now,
        }
    }
}

/// Takes back what `enter` added; the last to leave an object that is being freed disposes of it.
#[inline]
fn leave<T: Object>(slot: u32, at: &'static ObjectSlot<T>, added: u64) {
    let word = at.word.fetch_sub(added, Ordering::AcqRel) - added;
    if word & STATE == CLOSING {
        dispose(slot, at);
    }
}

/// Empties a slot that is `CLOSING` with nobody inside and makes it available.
fn dispose<T: Object>(slot: u32, at: &'static ObjectSlot<T>) {
    // SAFETY: the word is CLOSING with no user, which lets nobody in, and exactly one thread saw it become so: the
    // one that set the bit when there was no user, else the one that left last. Its AcqRel exchange orders the users
    // before.
    let object = unsafe { (*at.object.get()).take() };
    let after = table::word_after(table::generation(at.word.load(Ordering::Relaxed)));
    at.word.store(after, Ordering::Release);
    if after & RETIRED == 0 {
        T::table().give_back(slot, at);
    }
    drop(object);
}

/// An object that is being read.
pub(super) struct Shared<T: Object> {
    slot: u32,
    at: &'static ObjectSlot<T>,
}

impl<T: Object> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this user is counted until `drop`, so nobody changes or disposes of the object. The count was added
        // by an Acquire exchange that saw the Release of `create` or of the last change.
        let object = unsafe { &*self.at.object.get() };
        object.as_ref().expect("a live slot holds an object")
    }
}

impl<T: Object> Drop for Shared<T> {
    fn drop(&mut self) {
        leave(self.slot, self.at, 1);
    }
}

/// An object that is being changed.
pub(super) struct Exclusive<T: Object> {
    slot: u32,
    at: &'static ObjectSlot<T>,
}

impl<T: Object> Deref for Exclusive<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: EXCLUSIVE is set until `drop`, so this is the only user; `&self` keeps `deref_mut` away.
        let object = unsafe { &*self.at.object.get() };
        object.as_ref().expect("a live slot holds an object")
    }
}

impl<T: Object> DerefMut for Exclusive<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: EXCLUSIVE is set until `drop`, so this is the only user; `&mut self` makes this its only reference.
        let object = unsafe { &mut *self.at.object.get() };
        object.as_mut().expect("a live slot holds an object")
    }
}

impl<T: Object> Drop for Exclusive<T> {
    fn drop(&mut self) {
        leave(self.slot, self.at, EXCLUSIVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, threads};

    /// What is counted to see whether a probe is alive, and what changes.
    struct Probe(#[expect(dead_code, reason = "held, not read")] Arc<()>, u64);

    impl Object for Probe {
        fn table() -> &'static Table<ObjectSlot<Self>> {
            static TABLE: Table<ObjectSlot<Probe>> = Table::new();
            &TABLE
        }
    }

    fn new(value: u64) -> (Place, Arc<()>) {
        let alive = Arc::new(());
        (create(Probe(alive.clone(), value)).expect("slots are left"), alive)
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let (place, _alive) = new(1);
        let reader = share::<Probe>(place).expect("nobody else");
        assert_eq!(share::<Probe>(place).expect("readers share").1, 1);
        assert_eq!(claim::<Probe>(place).err(), Some(Refusal::Busy));
        drop(reader);
        let mut writer = claim::<Probe>(place).expect("nobody else");
        writer.1 = 2;
        assert_eq!(share::<Probe>(place).err(), Some(Refusal::Busy));
        assert_eq!(claim::<Probe>(place).err(), Some(Refusal::Busy));
        drop(writer);
        assert_eq!(share::<Probe>(place).expect("nobody else").1, 2);
        free::<Probe>(place).expect("live");
    }

    #[test]
    fn a_freed_object_is_gone_and_its_handle_stays_closed_when_the_slot_is_reused() {
        let (place, alive) = new(1);
        free::<Probe>(place).expect("live");
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(free::<Probe>(place), Err(Refusal::Closed));
        let (again, _alive) = new(2);
        assert_eq!(
            (again.slot, again.generation),
            (place.slot, place.generation + 1),
            "the thread's own list is LIFO"
        );
        assert_eq!(share::<Probe>(place).err(), Some(Refusal::Closed));
        free::<Probe>(again).expect("live");
    }

    #[test]
    fn an_object_freed_during_a_call_lives_until_the_call_returns() {
        let (place, alive) = new(1);
        let reader = share::<Probe>(place).expect("live");
        free::<Probe>(place).expect("live");
        assert_eq!(share::<Probe>(place).err(), Some(Refusal::Closed));
        assert_eq!(free::<Probe>(place), Err(Refusal::Closed));
        assert_eq!((reader.1, Arc::strong_count(&alive)), (1, 2));
        drop(reader);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn the_last_generation_is_closed_for_good() {
        let (place, alive) = new(1);
        let at = Probe::table().get(place.slot).expect("it exists");
        at.word.store(u64::from(u32::MAX) << 32, Ordering::Relaxed);
        let last = Place { generation: u32::MAX, ..place };
        free::<Probe>(last).expect("live");
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(share::<Probe>(last).err(), Some(Refusal::Closed));
        assert_eq!(share::<Probe>(place).err(), Some(Refusal::Closed));
    }

    #[test]
    fn threads_that_share_read_change_and_free_leave_no_object_behind() {
        let alive = Arc::new(());
        for _ in 0..2_000 {
            let place = create(Probe(alive.clone(), 0)).expect("slots are left");
            threads::scope(|scope| {
                scope.spawn(|| {
                    let is_sound = |_| share::<Probe>(place).map_or(true, |probe| probe.1 <= 20);
                    assert!((0..20).all(is_sound));
                });
                scope.spawn(|| {
                    for _ in 0..20 {
                        if let Ok(mut probe) = claim::<Probe>(place) {
                            probe.1 += 1;
                        }
                    }
                    let _ = free::<Probe>(place);
                });
            });
            assert_eq!(share::<Probe>(place).err(), Some(Refusal::Closed));
        }
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
