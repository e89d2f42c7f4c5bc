//! What a bug inside the library may cost: the call that meets it, and all later writes. Never a thread that waits for
//! ever, nor a word on the host's stderr from a thread that is not the host's.

use flatkv::testing::sim::{Fault, SimKind, SimMedia};
use flatkv::{Durability, Error, Options, Store, WriteOptions, testing};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const CAPACITY_BYTES: u64 = 8 << 20;
const LONG: Duration = Duration::from_secs(20);

/// Names of the threads whose panics reached the host's hook. Tests give their threads names of their own.
static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The host's hook is there before the library's.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // What a test itself has to say.
            if !info.to_string().contains("a simulated bug") {
                previous(info);
            }
            HEARD.lock().unwrap().push(thread::current().name().unwrap_or("unnamed").to_owned());
        }));
    });
}

fn heard(name: &str) -> bool {
    HEARD.lock().unwrap().iter().any(|heard| heard == name)
}

/// With a background thread.
fn options() -> Options {
    let mut options = Options::new().segment_size_bytes(16 << 10).head_size_bytes(8192);
    options = testing::with_logs(options, 1);
    testing::with_seed(options, 1)
}

fn open(media: &Arc<SimMedia>, options: Options) -> Store {
    testing::open_on(media.clone(), options).expect("a fresh pool")
}

/// Runs `body` on a thread that is given up, not waited for, if it hangs.
fn ends<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(body()));
    receive.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} hangs"))
}

#[test]
fn a_panic_of_a_leader_lets_its_followers_go() {
    listen();
    let mut options = testing::options();
    options.set("commit", "grouped").expect("an option");
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media, options);
    media.pause_before_events();
    store.put(b"before", b"value").expect("room");
    let (mut panicked, mut refused) = (0, 0);
    media.inject(Fault::PanicInDrain { nth: 40 });
    let (send, receive) = mpsc::channel();
    for number in 0..8_u8 {
        let (store, send) = (store.clone(), send.clone());
        let writer = move || {
            let put = |round: u32| store.put(&[number], &round.to_le_bytes());
            let ended = catch_unwind(AssertUnwindSafe(|| (0..).find_map(|round| put(round).err())));
            let _ = send.send(ended.map_err(|_| ()));
        };
        thread::Builder::new().name("a leader".into()).spawn(writer).expect("a thread");
    }
    for _ in 0..8 {
        match receive.recv_timeout(LONG).expect("nobody hangs") {
            Err(()) => panicked += 1,
            Ok(Some(Error::Poisoned(_))) => refused += 1,
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((panicked, refused), (1, 7));
    assert!(heard("a leader"), "panics of the host's threads reach its hook");
    assert_eq!(store.get(b"before").expect("reads go on"), Some(b"value".to_vec()));
    let closed = ends("close", move || store.close());
    assert!(matches!(closed, Err(Error::Poisoned(_))), "{closed:?}");
}

#[test]
fn a_panic_in_the_background_poisons_and_fails_what_was_accepted() {
    listen();
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media, options());
    media.inject(Fault::PanicInDrain { nth: 1 });
    let ticket = store.put_async(b"key", b"value").expect("accepted");
    let end = Instant::now() + LONG;
    while store.health().is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(store.health(), Err(Error::Poisoned(_))), "the background thread met the bug");
    let waiter = store.clone();
    let waited = ends("wait", move || waiter.wait(ticket));
    assert!(matches!(waited, Err(Error::Poisoned(_))), "{waited:?}");
    assert!(matches!(store.put_async(b"key", b"later"), Err(Error::Poisoned(_))));
    assert!(matches!(ends("close", move || store.close()), Err(Error::Poisoned(_))));
    assert!(!heard("flatkv-housekeeper"), "the host hears of a thread that is not its own");
}

/// Not in a group: the thread that marks idle logs ended, and asynchronous writes were accepted that nobody wrote out.
#[test]
fn a_panic_in_the_background_between_writes_is_not_overlooked() {
    listen();
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media, options());
    let os = WriteOptions::new().durability(Durability::Os);
    store.put_with(&os, b"key", b"value").expect("room");
    media.inject(Fault::PanicInDrain { nth: 1 });
    let end = Instant::now() + LONG;
    while store.health().is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    let health = store.health();
    assert!(matches!(&health, Err(Error::Poisoned(why)) if why.contains("a simulated bug")), "{health:?}");
    assert!(matches!(store.put_async(b"key", b"later"), Err(Error::Poisoned(_))));
    assert!(!heard("flatkv-housekeeper"), "the host hears of a thread that is not its own");
}

/// Whoever waits for room would wait in vain, and the next write that needs some, too.
#[test]
fn a_panic_of_the_cleaner_poisons_and_says_nothing() {
    listen();
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media, options());
    testing::stop_cleaning(&store);
    (0..200_u32).for_each(|round| store.put(b"key", &[round as u8; 1000]).expect("room"));
    // The other thread has nothing left to drain.
    thread::sleep(Duration::from_millis(400));
    media.inject(Fault::PanicInDrain { nth: 1 });
    store.maintenance_resume().expect("an open store");
    let end = Instant::now() + LONG;
    while store.health().is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    let health = store.health();
    assert!(matches!(&health, Err(Error::Poisoned(why)) if why.contains("a simulated bug")), "{health:?}");
    assert!(matches!(store.put(b"key", b"later"), Err(Error::Poisoned(_))));
    assert_eq!(store.get(b"key").expect("reads go on"), Some(vec![199; 1000]));
    assert!(matches!(ends("close", move || store.close()), Err(Error::Poisoned(_))));
    assert!(!heard("flatkv-cleaner"), "the host hears of a thread that is not its own");
}

#[test]
fn a_panic_of_a_recovery_thread_refuses_the_open_and_says_nothing() {
    listen();
    let media = Arc::new(SimMedia::new(SimKind::File, CAPACITY_BYTES));
    let store = open(&media, options());
    (0..60_u8).for_each(|number| store.put(&[number], &[number; 200]).expect("room"));
    store.close().expect("closes");
    let image = media.view();
    let mut in_threads = 0;
    for nth in 1.. {
        let media = Arc::new(SimMedia::from_image(SimKind::File, &image, CAPACITY_BYTES));
        media.inject(Fault::PanicInRead { nth });
        // Reads of the survey are made by the caller, whose panic is its own.
        match catch_unwind(AssertUnwindSafe(|| testing::open_on(media, options()))) {
            Err(_) => {}
            Ok(Err(Error::Panic(why))) => {
                assert!(why.contains("a simulated bug in read"), "{why}");
                in_threads += 1;
            }
            Ok(Err(error)) => panic!("read {nth}: {error}"),
            Ok(Ok(_)) => break,
        }
    }
    let has_threads = thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    assert!(in_threads > 0 || !has_threads, "no read was made by a thread of the recovery");
    assert!(!heard("unnamed"), "the host hears of a thread that is not its own");
}
