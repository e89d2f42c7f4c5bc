//! Option `sigbus`: a pool that is cut while it is open stands for a medium that cannot deliver some of its pages. The
//! default is the system's signal; with `guard` it is `Io` for the keys on those pages, and everything else goes on.

use flatkv::{Error, MediaChoice, Options, SigbusPolicy, Store};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const KEYS: u32 = 600;
const BLOB_BYTES: usize = 9_000;
const POOL_VARIABLE: &str = "FLATKV_SIGBUS_TEST_POOL";

fn options(media: MediaChoice, sigbus: SigbusPolicy) -> Options {
    Options::new()
        .media(media)
        .sigbus(sigbus)
        .segment_size_bytes(64 << 10)
        .head_size_bytes(64 << 10)
        .inline_value_bytes_max(2_048)
}

fn key(i: u32) -> Vec<u8> {
    format!("key{i:05}").into_bytes()
}

/// Every tenth value is a blob of its own extent, the others cross pages now and then.
fn value(i: u32) -> Vec<u8> {
    let len = if i.is_multiple_of(10) { BLOB_BYTES } else { 700 + (i as usize % 7) * 100 };
    (0..len).map(|at| (at as u32).wrapping_mul(31).wrapping_add(i) as u8).collect()
}

fn fill(store: &Store) {
    for i in 0..KEYS {
        store.put(&key(i), &value(i)).unwrap();
    }
}

/// Cuts the pool to a third of what it holds, on a page boundary. The logs are idle and marked by then: a mark that came
/// later would make the file long again.
fn cut(path: &Path, store: &Store) -> u64 {
    std::thread::sleep(Duration::from_millis(500));
    let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).unwrap();
    let len = stats["live_bytes"].as_u64().unwrap() / 3 / 4096 * 4096;
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
    len
}

fn is_io<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Io { .. }))
}

/// `Io`, or `Corrupted` where a write behind the cut has made the file long again, with zeros.
fn is_refused<T>(result: &Result<T, Error>) -> bool {
    is_io(result) || matches!(result, Err(Error::Corrupted { .. }))
}

/// Checks every way to read, and answers how many keys are served and how many are refused.
fn read_all(store: &Store) -> (u32, u32) {
    let (mut served, mut refused) = (0, 0);
    let mut buf = vec![0; BLOB_BYTES];
    for i in 0..KEYS {
        let (key, value) = (key(i), value(i));
        let found = store.get(&key);
        let into = store.get_into(&key, &mut buf);
        let pinned = store.get_pinned(&key);
        let many = store.multi_get(&[&key]).remove(0);
        let exists = store.exists(&key);
        match found {
            Ok(found) => {
                served += 1;
                assert_eq!(found.as_ref(), Some(&value), "key {i}");
                assert_eq!(into.unwrap(), Some(value.len()), "key {i}");
                assert_eq!(buf[..value.len()], value);
                let pinned = pinned.unwrap().unwrap();
                assert_eq!(*pinned, value[..]);
                assert!(!pinned.is_zero_copy(), "a guarded read never hands the mapping out");
                assert_eq!(many.unwrap(), Some(value));
                assert!(exists.unwrap());
            }
            Err(error) => {
                refused += 1;
                let what = error.to_string();
                assert!(what.contains(" at ") || what.contains("pool offset"), "no offset in: {what}");
                assert!(is_refused::<()>(&Err(error)), "key {i}: {what}");
                assert!(is_refused(&into) && is_refused(&pinned) && is_refused(&many), "key {i}");
                // The entry of a blob may be readable though its extents are not.
                assert!(
                    is_refused(&exists) || value.len() == BLOB_BYTES && matches!(exists, Ok(true)),
                    "key {i}"
                );
            }
        }
    }
    (served, refused)
}

#[test]
fn guarded_reads_of_a_cut_pool_are_errors_and_the_rest_is_served() {
    for media in [MediaChoice::File, MediaChoice::EmulatedPm] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.fkv");
        let store = options(media, SigbusPolicy::Guard).open(&path).unwrap();
        fill(&store);
        assert_eq!(read_all(&store), (KEYS, 0));
        cut(&path, &store);
        let (served, refused) = read_all(&store);
        assert!(served > KEYS / 10 && refused > KEYS / 10, "{served} served, {refused} refused");
        let stats: serde_json::Value = serde_json::from_str(&store.stats_json()).unwrap();
        assert!(stats["unreadable_pages"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_put_or_delete_cures_an_unreadable_key_and_the_old_value_never_returns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cure.fkv");
    let store = options(MediaChoice::File, SigbusPolicy::Guard).open(&path).unwrap();
    fill(&store);
    let whole = std::fs::read(&path).unwrap();
    cut(&path, &store);
    let refused: Vec<u32> = (0..KEYS).filter(|i| is_io(&store.get(&key(*i)))).collect();
    let (cured, rest) = refused.split_at(refused.len() / 2);
    let (put, deleted) = cured.split_at(cured.len() / 2);
    for i in put {
        store.put(&key(*i), b"new").unwrap();
    }
    for i in deleted {
        assert!(
            store.delete(&key(*i)).unwrap(),
            "key {i}: an entry that cannot be read is not \"not found\""
        );
    }
    // The pages are readable again, with their old content where nothing new was written.
    let now = std::fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for page in 0..whole.len() / 4096 {
        let bytes = &whole[page * 4096..][..4096];
        let current = std::fs::read(&path).unwrap();
        if (page * 4096) as u64 >= now || current[page * 4096..].iter().take(4096).all(|byte| *byte == 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, (page * 4096) as u64).unwrap();
        }
    }
    for i in put {
        assert_eq!(store.get(&key(*i)).unwrap().as_deref(), Some(&b"new"[..]), "key {i}");
    }
    for i in deleted {
        assert_eq!(store.get(&key(*i)).unwrap(), None, "key {i}");
    }
    assert!(rest.iter().all(|i| is_io(&store.get(&key(*i)))), "what failed once fails until the next open");
}

#[test]
fn a_guarded_store_works_like_another_and_recovers() {
    for media in [MediaChoice::File, MediaChoice::EmulatedPm] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain.fkv");
        let store = options(media, SigbusPolicy::Guard).open(&path).unwrap();
        fill(&store);
        for i in (0..KEYS).step_by(3) {
            assert!(store.delete(&key(i)).unwrap());
        }
        let ticket = store.put_async(b"async", b"written back").unwrap();
        store.wait(ticket).unwrap();
        // Not closed: the next open recovers.
        drop(store);
        let store = options(media, SigbusPolicy::Guard).open(&path).unwrap();
        for i in 0..KEYS {
            let expected = (i % 3 != 0).then(|| value(i));
            assert_eq!(store.get(&key(i)).unwrap(), expected, "key {i}");
        }
        assert_eq!(store.get(b"async").unwrap().as_deref(), Some(&b"written back"[..]));
        store.close().unwrap();
    }
}

#[test]
fn without_the_option_the_signal_ends_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("default.fkv");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_reads_a_cut_pool"])
        .env(POOL_VARIABLE, &path)
        .output()
        .unwrap()
        .status;
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

#[test]
#[ignore = "the child of without_the_option_the_signal_ends_the_process"]
fn child_that_reads_a_cut_pool() {
    let Some(path) = std::env::var_os(POOL_VARIABLE) else { return };
    let path = Path::new(&path);
    let store = options(MediaChoice::File, SigbusPolicy::Default).open(path).unwrap();
    fill(&store);
    cut(path, &store);
    (0..KEYS).for_each(|i| drop(store.get(&key(i))));
}
