//! Many threads on one store. What they are told is what they find, now and after the next open. No timing is asserted.

mod common;

use common::{MEDIA, Rng, memory_dir, small, with_logs};
use flatkv::{CommitPolicy, Error, MediaChoice, Options, Store, Ticket, WriteBatch};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

const SEGMENT: u64 = 256 << 10;
const POLICIES: [CommitPolicy; 3] = [CommitPolicy::Auto, CommitPolicy::Lone, CommitPolicy::Grouped];

fn options(media: MediaChoice, policy: CommitPolicy) -> Options {
    let logs = if media == MediaChoice::File { 1 } else { 3 };
    with_logs(small(media, SEGMENT).commit(policy), logs)
}

fn open(media: MediaChoice, policy: CommitPolicy, path: &Path) -> Store {
    options(media, policy).open(path).unwrap()
}

/// Every medium with every policy, on a fresh pool.
fn each(f: impl Fn(MediaChoice, CommitPolicy, &Path)) {
    for media in MEDIA {
        for policy in POLICIES {
            let dir = memory_dir();
            f(media, policy, &dir.path().join("pool.fkv"));
        }
    }
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// A value that tells who wrote it and when, with a tail that a mixture of two values would not have.
fn value(thread: u64, count: u64) -> Vec<u8> {
    let mut value = count.to_le_bytes().to_vec();
    value.extend_from_slice(&thread.to_le_bytes());
    value.resize(16 + (count % 90) as usize, (count ^ thread) as u8);
    value
}

fn check_value(found: &[u8]) -> (u64, u64) {
    let (count, thread) = (number(found), number(&found[8..]));
    assert_eq!(found, value(thread, count), "a value that nobody wrote");
    (thread, count)
}

#[test]
fn counters_of_a_thread_never_go_back_and_nothing_acknowledged_is_lost() {
    each(|media, policy, path| {
        for threads in [1_u64, 2, 8] {
            let store = open(media, policy, path);
            let base = store.get(b"rounds").unwrap().map_or(0, |found| number(&found));
            let last: BTreeMap<Vec<u8>, Option<u64>> = thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|me| {
                        let store = store.clone();
                        scope.spawn(move || count_up(&store, me, base))
                    })
                    .collect();
                workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
            });
            store.put(b"rounds", &(base + 1000).to_le_bytes()).unwrap();
            drop(store);
            let store = open(media, policy, path);
            for (key, count) in last {
                let found = store.get(&key).unwrap().map(|found| number(&found));
                assert_eq!(found, count, "{media:?} {policy:?}: {}", String::from_utf8_lossy(&key));
            }
            store.close().unwrap();
        }
    });
}

/// Puts, deletes and gets of keys that only this thread writes: what it reads is what it wrote.
fn count_up(store: &Store, me: u64, base: u64) -> BTreeMap<Vec<u8>, Option<u64>> {
    let mut mine: BTreeMap<Vec<u8>, Option<u64>> = BTreeMap::new();
    let mut rng = Rng(me + base);
    for i in base..base + 400 {
        let key = format!("{me}.{}", rng.below(10)).into_bytes();
        if rng.one_in(6) {
            let expected = mine.get(&key).copied().flatten().is_some();
            // The first delete of a round may find what an earlier round left.
            let found = store.delete(&key).unwrap();
            assert!(found == expected || !mine.contains_key(&key));
            mine.insert(key.clone(), None);
        } else {
            store.put(&key, &value(me, i)).unwrap();
            mine.insert(key.clone(), Some(i));
        }
        let found = store.get(&key).unwrap().map(|found| check_value(&found).1);
        assert_eq!(found, mine[&key], "a get behind an acknowledged write of the same thread");
    }
    mine
}

#[test]
fn shared_keys_end_with_one_of_the_last_values_before_and_after_a_reopen() {
    each(|media, policy, path| {
        let store = open(media, policy, path);
        let threads = 6_u64;
        thread::scope(|scope| {
            for me in 0..threads {
                let store = store.clone();
                scope.spawn(move || {
                    let mut seen: BTreeMap<(u8, u64), u64> = BTreeMap::new();
                    for i in 0..500_u64 {
                        let key = (i % 5) as u8;
                        store.put(&[key], &value(me, i)).unwrap();
                        let (thread, count) = check_value(&store.get(&[key]).unwrap().unwrap());
                        assert!(thread != me || count == i, "an older value of my own");
                        // Of each thread, values of a key are seen in the order in which it wrote them.
                        let last = seen.entry((key, thread)).or_insert(count);
                        assert!(*last <= count, "key {key} of thread {thread} went from {last} to {count}");
                        *last = count;
                    }
                });
            }
        });
        let state: Vec<_> = (0..5_u8).map(|key| store.get(&[key]).unwrap().unwrap()).collect();
        for (key, found) in state.iter().enumerate() {
            let count = check_value(found).1;
            assert_eq!(count, 495 + key as u64, "one of the last values");
        }
        drop(store);
        let store = open(media, policy, path);
        let again: Vec<_> = (0..5_u8).map(|key| store.get(&[key]).unwrap().unwrap()).collect();
        assert_eq!(state, again, "{media:?} {policy:?}: recovery settles races as memory did");
    });
}

#[test]
fn deletes_that_race_puts_are_settled_the_same_way_by_recovery() {
    each(|media, policy, path| {
        let store = open(media, policy, path);
        thread::scope(|scope| {
            for me in 0..4_u64 {
                let store = store.clone();
                scope.spawn(move || {
                    let mut rng = Rng(me);
                    for i in 0..500_u64 {
                        let key = [rng.below(8) as u8];
                        match rng.below(3) {
                            0 => drop(store.delete(&key).unwrap()),
                            1 => store.put(&key, &value(me, i)).unwrap(),
                            _ => drop(store.get(&key).unwrap().map(|found| check_value(&found))),
                        }
                    }
                });
            }
        });
        let state: Vec<_> = (0..8_u8).map(|key| store.get(&[key]).unwrap()).collect();
        drop(store);
        let store = open(media, policy, path);
        let again: Vec<_> = (0..8_u8).map(|key| store.get(&[key]).unwrap()).collect();
        assert_eq!(state, again, "{media:?} {policy:?}");
    });
}

#[test]
fn batches_that_race_single_puts_are_whole_after_a_reopen() {
    each(|media, policy, path| {
        let store = open(media, policy, path);
        let counts: Vec<u64> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4_u64)
                .map(|me| {
                    let store = store.clone();
                    scope.spawn(move || write_batches(&store, me))
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let shared = store.get(b"shared").unwrap();
        check_value(shared.as_ref().unwrap());
        drop(store);
        let store = open(media, policy, path);
        assert_eq!(store.get(b"shared").unwrap(), shared);
        for (me, count) in counts.iter().enumerate() {
            for part in 0..20 {
                let found = store.get(format!("{me}/{part}").as_bytes()).unwrap().unwrap();
                assert_eq!(check_value(&found), (me as u64, *count), "{media:?} {policy:?}: part {part}");
            }
        }
    });
}

fn write_batches(store: &Store, me: u64) -> u64 {
    let mut last = 0;
    for i in 0..120 {
        if i % 3 == 0 {
            store.put(b"shared", &value(me, i)).unwrap();
            continue;
        }
        let mut batch = WriteBatch::new();
        // Every tenth is larger than a frame.
        let filler = if i % 10 == 1 { vec![i as u8; 3000] } else { Vec::new() };
        for part in 0..20 {
            batch.put(format!("{me}/{part}").as_bytes(), &value(me, i)).unwrap();
        }
        if !filler.is_empty() {
            for part in 0..100 {
                batch.put(format!("{me}/filler/{part}").as_bytes(), &filler).unwrap();
            }
        }
        batch.put(b"shared", &value(me, i)).unwrap();
        store.write(&batch).unwrap();
        last = i;
        for part in [0, 19] {
            let found = store.get(format!("{me}/{part}").as_bytes()).unwrap().unwrap();
            assert_eq!(check_value(&found), (me, i));
        }
    }
    last
}

#[test]
fn pinned_values_never_change_while_their_keys_are_overwritten() {
    each(|media, policy, path| {
        let store = open(media, policy, path);
        let long = |i: u64| {
            if i.is_multiple_of(7) { [value(9, i), vec![i as u8; 60_000]].concat() } else { value(9, i) }
        };
        for key in 0..8_u8 {
            store.put(&[key], &long(0)).unwrap();
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                for i in 0..300_u64 {
                    store.put(&[(i % 8) as u8], &long(i)).unwrap();
                    if i % 11 == 0 {
                        store.delete(&[(i % 8) as u8]).unwrap();
                    }
                }
                stop.store(true, Ordering::Release);
            });
            for reader in 0..2_u64 {
                scope.spawn(move || {
                    let mut rng = Rng(reader);
                    let mut held = Vec::new();
                    while !stop.load(Ordering::Acquire) {
                        if let Some(pin) = store.get_pinned(&[rng.below(8) as u8]).unwrap() {
                            assert_eq!(*pin, long(number(&pin)));
                            held.push((pin.to_vec(), pin));
                        }
                        if held.len() > 20 {
                            for (copy, pin) in held.drain(..) {
                                assert_eq!(copy, *pin, "a pinned value changed");
                            }
                        }
                    }
                    for (copy, pin) in held {
                        assert_eq!(copy, *pin, "a pinned value changed");
                    }
                });
            }
        });
        store.close().unwrap();
    });
}

#[test]
fn asynchronous_and_synchronous_writes_of_a_thread_keep_their_order() {
    each(|media, policy, path| {
        let store = open(media, policy, path);
        thread::scope(|scope| {
            for me in 0..4_u64 {
                let store = store.clone();
                scope.spawn(move || {
                    let key = me.to_le_bytes();
                    let mut rng = Rng(me);
                    let mut last = Ticket(0);
                    for i in 0..400_u64 {
                        if rng.one_in(4) {
                            store.put(&key, &value(me, i)).unwrap();
                            let found = check_value(&store.get(&key).unwrap().unwrap());
                            assert_eq!(found, (me, i), "an asynchronous write overtook a synchronous one");
                        } else if rng.one_in(5) {
                            let mut batch = WriteBatch::new();
                            batch.put(&key, &value(me, i)).unwrap();
                            batch.put(&[me as u8, 1], &value(me, i)).unwrap();
                            last = store.write_async(&batch).unwrap();
                        } else {
                            let ticket = store.put_async(&key, &value(me, i)).unwrap();
                            assert!(ticket > last, "tickets of a thread increase");
                            last = ticket;
                        }
                        if rng.one_in(20) && last > Ticket(0) {
                            store.wait(last).unwrap();
                            assert!(store.durable_ticket() >= last);
                            assert!(check_value(&store.get(&key).unwrap().unwrap()).1 <= i);
                        }
                    }
                    store.put(&key, &value(me, 1000)).unwrap();
                });
            }
        });
        store.sync().unwrap();
        drop(store);
        let store = open(media, policy, path);
        for me in 0..4_u64 {
            let found = check_value(&store.get(&me.to_le_bytes()).unwrap().unwrap());
            assert_eq!(found, (me, 1000), "{media:?} {policy:?}");
        }
    });
}

#[test]
fn the_durable_ticket_never_goes_back_and_what_it_names_is_there() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, CommitPolicy::Auto, &path);
        let finished = AtomicU64::new(0);
        thread::scope(|scope| {
            let (store, finished) = (&store, &finished);
            for me in 0..4_u64 {
                scope.spawn(move || {
                    for i in 0..4000_u64 {
                        let ticket = store.put_async(&(me * 100_000 + i).to_le_bytes(), b"v").unwrap();
                        if i % 16 == 0 {
                            store.wait(ticket).unwrap();
                            assert!(store.durable_ticket() >= ticket);
                        }
                    }
                    finished.fetch_add(1, Ordering::Release);
                });
            }
            scope.spawn(move || {
                let mut last = Ticket(0);
                while finished.load(Ordering::Acquire) < 4 {
                    let now = store.durable_ticket();
                    assert!(now >= last, "{media:?}: the durable ticket went from {last:?} back to {now:?}");
                    last = now;
                }
            });
        });
        store.sync().unwrap();
        assert_eq!(store.durable_ticket(), Ticket(16_000));
    }
}

#[test]
fn close_while_others_work_refuses_them_and_loses_nothing_acknowledged() {
    for media in MEDIA {
        for policy in POLICIES {
            for round in 0..8_u64 {
                let dir = memory_dir();
                let path = dir.path().join("pool.fkv");
                let store = open(media, policy, &path);
                let acknowledged = Mutex::new(BTreeMap::new());
                let started = Barrier::new(5);
                thread::scope(|scope| {
                    for me in 0..4_u64 {
                        let (store, acknowledged, started) = (&store, &acknowledged, &started);
                        scope.spawn(move || {
                            started.wait();
                            let (last, error) = work_until_refused(store, me);
                            assert!(matches!(error, Error::Closed), "{media:?} {policy:?}: {error}");
                            acknowledged.lock().unwrap().insert(me, last);
                        });
                    }
                    started.wait();
                    for _ in 0..round * 40 {
                        thread::yield_now();
                    }
                    store.close().unwrap();
                });
                drop(store);
                let store = open(media, policy, &path);
                assert!(store.stats_json().contains("\"was_clean\":true"));
                for (me, last) in acknowledged.into_inner().unwrap() {
                    for i in 0..last {
                        let found = store.get(format!("{me}.{i}").as_bytes()).unwrap();
                        let found =
                            found.unwrap_or_else(|| panic!("{media:?} {policy:?}: {i} of {last} is lost"));
                        assert_eq!(check_value(&found[..16 + (i % 90) as usize]), (me, i));
                    }
                }
            }
        }
    }
}

/// Puts `me.0`, `me.1`, ...; how many were acknowledged.
fn work_until_refused(store: &Store, me: u64) -> (u64, Error) {
    for i in 0.. {
        let key = format!("{me}.{i}");
        let mut value = value(me, i);
        if i % 50 == 7 {
            value.resize(50_000, 0);
        }
        let result = match i % 5 {
            0 => {
                let mut batch = WriteBatch::new();
                batch.put(key.as_bytes(), &value).unwrap();
                batch.put(b"also", b"this").unwrap();
                store.write(&batch)
            }
            1 => store.put_async(key.as_bytes(), &value).and_then(|ticket| store.wait(ticket)),
            _ => store.put(key.as_bytes(), &value),
        };
        if let Err(error) = result {
            return (i, error);
        }
    }
    unreachable!("the store is closed some time")
}

/// Either the close sees the pin and is refused, or the pin is: never both of them served.
#[test]
fn a_store_is_never_closed_under_a_pin() {
    let dir = memory_dir();
    for round in 0..400 {
        let path = dir.path().join(format!("pool{}.fkv", round % 2));
        let store = open(MediaChoice::EmulatedPm, CommitPolicy::Auto, &path);
        store.put(b"k", b"v").unwrap();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let pinner = scope.spawn(|| {
                start.wait();
                for _ in 0..round % 40 {
                    std::hint::spin_loop();
                }
                store.get_pinned(b"k")
            });
            start.wait();
            let closed = store.close();
            let pin = pinner.join().unwrap();
            assert!(
                !(closed.is_ok() && matches!(pin, Ok(Some(_)))),
                "round {round}: closed while a value was pinned"
            );
        });
    }
}

#[test]
fn every_policy_gives_the_same_store() {
    for media in MEDIA {
        let states: Vec<BTreeMap<String, Vec<u8>>> = POLICIES
            .iter()
            .map(|policy| {
                let dir = memory_dir();
                let path = dir.path().join("pool.fkv");
                let store = open(media, *policy, &path);
                thread::scope(|scope| {
                    for me in 0..6_u64 {
                        let store = store.clone();
                        scope.spawn(move || disjoint_work(&store, me));
                    }
                });
                drop(store);
                let store = open(media, *policy, &path);
                let keys: Vec<String> =
                    (0..6).flat_map(|me| (0..40).map(move |i| format!("{me}.{i}"))).collect();
                keys.into_iter()
                    .filter_map(|key| Some((key.clone(), store.get(key.as_bytes()).unwrap()?)))
                    .collect()
            })
            .collect();
        assert!(states[0].len() > 100);
        assert!(states.iter().all(|state| *state == states[0]), "{media:?}");
    }
}

fn disjoint_work(store: &Store, me: u64) {
    let mut rng = Rng(me);
    for i in 0..300 {
        let key = |rng: &mut Rng| format!("{me}.{}", rng.below(40));
        match rng.below(6) {
            0 => drop(store.delete(key(&mut rng).as_bytes()).unwrap()),
            1 => {
                let mut batch = WriteBatch::new();
                for _ in 0..rng.below(6) {
                    batch.put(key(&mut rng).as_bytes(), &value(me, i)).unwrap();
                    batch.delete(key(&mut rng).as_bytes()).unwrap();
                }
                store.write(&batch).unwrap();
            }
            2 => drop(store.put_async(key(&mut rng).as_bytes(), &value(me, i)).unwrap()),
            _ => store.put(key(&mut rng).as_bytes(), &value(me, i)).unwrap(),
        }
    }
    store.sync().unwrap();
}

#[test]
fn asynchronous_writes_become_durable_without_further_calls() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = open(media, CommitPolicy::Auto, &dir.path().join("pool.fkv"));
        let tickets: Vec<_> =
            (0..100_u64).map(|i| store.put_async(&i.to_le_bytes(), b"v").unwrap()).collect();
        let last = *tickets.last().unwrap();
        // Bounded only so that a failure is a failure and not a hang.
        for _ in 0..10_000 {
            if store.durable_ticket() >= last {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(store.durable_ticket(), last);
        assert_eq!(store.get(&99_u64.to_le_bytes()).unwrap().unwrap(), b"v");
    }
}
