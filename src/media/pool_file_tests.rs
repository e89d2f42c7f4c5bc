//! Opening, locking, creating, publishing and forking, with real files and processes.

use super::super::conformance::{HOLDER_MARK, HOLDER_OFFSET, request};
use super::super::{Media, Region, fork_generation, sys::testing};
use super::*;
use crate::types::MediaRange;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::Barrier;

const POOL_BYTES: u64 = 4 * PAGE_BYTES;
/// Names the pool to the helper process of the fork test.
const HELPER_ENV: &str = "FLATKV_FORK_TEST_POOL";

fn created(path: &Path) -> Arc<dyn Media> {
    let media = super::open(&request(path, MediaChoice::File)).unwrap().media;
    media.grow(POOL_BYTES).unwrap();
    media.write(HOLDER_OFFSET, &[HOLDER_MARK; HOLDER_RECORD_BYTES]).unwrap();
    media.publish().unwrap();
    media
}

fn open_error(request: &OpenRequest<'_>) -> Error {
    match super::open(request) {
        Ok(_) => panic!("{} must not open", request.path.display()),
        Err(error) => error,
    }
}

fn is_locked(path: &Path) -> bool {
    match super::open(&request(path, MediaChoice::File)) {
        Ok(_) => false,
        Err(Error::Locked(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_no_pool_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    testing::make_fifo(&at("fifo")).unwrap();
    std::fs::write(at("real"), [0; 8192]).unwrap();
    symlink(at("real"), at("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let cases = [
        (at(""), "a directory"),
        (at("fifo"), "a FIFO"),
        (at("link"), "a symbolic link"),
        (at("socket"), "a socket"),
        (PathBuf::from("/dev/null"), "a character device that is not device-dax"),
    ];
    for (path, what) in cases {
        for read_only in [false, true] {
            let error = open_error(&OpenRequest { read_only, ..request(&path, MediaChoice::Auto) });
            assert!(matches!(&error, Error::InvalidArgument(message) if message.contains(what)), "{error}");
        }
    }
}

#[test]
fn a_missing_pool_is_created_only_if_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    for (create, read_only) in [(false, false), (false, true), (true, true)] {
        let error = open_error(&OpenRequest { create, read_only, ..request(&path, MediaChoice::File) });
        assert!(
            matches!(&error, Error::Io { what, errno: libc::ENOENT } if what.contains("pool.fkv")),
            "{error}"
        );
    }
    let nowhere = directory.path().join("missing/pool.fkv");
    assert!(matches!(
        open_error(&request(&nowhere, MediaChoice::File)),
        Error::Io { errno: libc::ENOENT, .. }
    ));
    std::fs::write(&path, b"").unwrap();
    for (create, read_only) in [(false, false), (true, true)] {
        let error = open_error(&OpenRequest { create, read_only, ..request(&path, MediaChoice::File) });
        assert!(matches!(&error, Error::InvalidArgument(message) if message.contains("is empty")), "{error}");
    }
}

#[test]
fn an_empty_file_is_a_new_pool_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    std::fs::write(&path, b"").unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    let opened = super::open(&request(&path, MediaChoice::File)).unwrap();
    assert!(opened.is_new);
    opened.media.grow(POOL_BYTES).unwrap();
    opened.media.publish().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    drop(opened);
    assert!(!super::open(&request(&path, MediaChoice::File)).unwrap().is_new);
}

#[test]
fn a_second_open_is_refused_and_names_the_holder_and_the_lock_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let first = created(&path);
    for _ in 0..2 {
        let error = open_error(&request(&path, MediaChoice::File));
        assert!(matches!(&error, Error::Locked(message) if message.contains("held by 0xab")), "{error}");
    }
    // Opening and closing the file by other means takes classic locks away, not this one.
    drop(std::fs::File::open(&path).unwrap());
    assert!(is_locked(&path));
    drop(first);
    assert!(!is_locked(&path));
}

#[test]
fn a_closed_pool_opens_at_once_while_other_threads_spawn_processes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    drop(created(&path));
    let is_done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while is_done.load(Ordering::Relaxed) == 0 {
                assert!(testing::exited_cleanly(testing::fork(|| {}).unwrap()));
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        let opens = (0..200).map(|_| super::open(&request(&path, MediaChoice::File)).map(drop));
        let failed = opens.filter_map(Result::err).next();
        is_done.store(1, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

#[test]
fn readers_share_the_lock_and_keep_writers_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let writer = created(&path);
    let read_only = OpenRequest { read_only: true, ..request(&path, MediaChoice::File) };
    assert!(matches!(open_error(&read_only), Error::Locked(_)));
    drop(writer);
    let before = std::fs::read(&path).unwrap();
    let readers = [super::open(&read_only).unwrap(), super::open(&read_only).unwrap()];
    let error = open_error(&request(&path, MediaChoice::File));
    assert!(
        matches!(&error, Error::Locked(message) if message.contains("open read-only elsewhere")),
        "{error}"
    );
    drop(readers);
    assert_eq!(std::fs::read(&path).unwrap(), before, "readers change no byte");
    assert!(!is_locked(&path));
}

#[test]
fn a_waiting_open_gets_the_lock_when_it_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let first = created(&path);
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            start.wait();
            super::open(&OpenRequest { lock_wait_ms: 60_000, ..request(&path, MediaChoice::File) }).map(drop)
        });
        start.wait();
        std::thread::sleep(Duration::from_millis(30));
        drop(first);
        waiter.join().unwrap().unwrap();
    });
    let _first = super::open(&request(&path, MediaChoice::File)).unwrap();
    let began = Instant::now();
    let waited = OpenRequest { lock_wait_ms: 50, ..request(&path, MediaChoice::File) };
    assert!(matches!(open_error(&waited), Error::Locked(_)));
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_pool_replaced_while_its_lock_was_awaited_is_opened_under_its_new_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let old = created(&path);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            super::open(&OpenRequest { lock_wait_ms: 60_000, ..request(&path, MediaChoice::File) }).unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        let new = created(&path);
        new.write(PAGE_BYTES, b"new").unwrap();
        drop(new);
        drop(old);
        let opened = waiter.join().unwrap();
        let bytes = opened.media.region().bytes(MediaRange::new(PAGE_BYTES, 3)).unwrap();
        assert_eq!(bytes, b"new");
    });
}

#[test]
fn of_two_creators_the_second_to_publish_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let first = super::open(&request(&path, MediaChoice::File)).unwrap();
    let second = super::open(&request(&path, MediaChoice::File)).unwrap();
    assert!(first.is_new && second.is_new);
    first.media.publish().unwrap();
    let error = second.media.publish().unwrap_err();
    assert!(matches!(&error, Error::Locked(message) if message.contains("somebody else")), "{error}");
}

#[test]
fn the_mode_is_as_asked_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let old = testing::set_umask(0o077);
    for mode in [0o600, 0o640, 0o666] {
        let path = directory.path().join(format!("{mode:o}"));
        let opened =
            super::open(&OpenRequest { file_mode: mode, ..request(&path, MediaChoice::File) }).unwrap();
        opened.media.publish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
    testing::set_umask(old);
}

/// A pool made without `O_TMPFILE`, as on file systems that have none.
fn temporary_pool(path: &Path) -> PoolFile {
    let (directory, name) = parent_of(path).unwrap();
    let request = request(path, MediaChoice::File);
    let (descriptor, name) = create_temporary(directory, name, &request).unwrap();
    PoolFile::of_created(descriptor, &request, name).unwrap()
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn without_unnamed_files_a_temporary_name_stands_in_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let dropped = temporary_pool(&path);
    assert_eq!(files_in(directory.path()).len(), 1);
    assert!(!path.exists());
    drop(dropped);
    assert_eq!(files_in(directory.path()).len(), 0, "never published: removed");

    let pool = temporary_pool(&path);
    let late = temporary_pool(&path);
    pool.publish(|_| Ok(())).unwrap();
    assert_eq!(pool.stat().unwrap().links, 1);
    assert!(matches!(late.publish(|_| Ok(())), Err(Error::Locked(_))));
    drop(late);
    assert_eq!(files_in(directory.path()), ["pool.fkv"]);
    drop(pool);
    assert_eq!(files_in(directory.path()), ["pool.fkv"], "published: stays");
}

#[test]
fn a_failed_sync_leaves_the_name_unmade() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let pool = temporary_pool(&path);
    assert!(matches!(pool.publish(|_| Err(libc::EIO)), Err(Error::Io { errno: libc::EIO, .. })));
    assert!(!path.exists());
}

#[test]
fn auto_says_what_it_chose_and_dax_is_refused_where_it_is_none() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool.fkv");
    let opened = super::open(&request(&path, MediaChoice::Auto)).unwrap();
    assert_eq!(opened.media.kind(), MediaKind::File);
    assert_eq!(opened.media.why(), "auto: MAP_SYNC refused with EOPNOTSUPP, using file");
    let error = open_error(&request(&directory.path().join("dax.fkv"), MediaChoice::Dax));
    assert!(matches!(&error, Error::Unsupported(message) if message.contains("EOPNOTSUPP")), "{error}");
    let emulated = super::open(&request(&directory.path().join("pm.fkv"), MediaChoice::EmulatedPm)).unwrap();
    assert!(emulated.media.why().contains("does NOT survive a power cut"), "{}", emulated.media.why());
}

#[test]
fn a_file_with_part_of_a_page_is_opened_without_it_and_growth_zeroes_it() {
    let media = [MediaChoice::File, MediaChoice::EmulatedPm];
    // To some pages, and to so many that large ones are allocated.
    for (media, to) in media.into_iter().flat_map(|media| [(media, 3 * PAGE_BYTES), (media, 9 << 20)]) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("pool.fkv");
        std::fs::write(&path, vec![7; 2 * PAGE_BYTES as usize + 100]).unwrap();
        let opened = super::open(&request(&path, media)).unwrap();
        assert!(!opened.is_new);
        assert_eq!(opened.media.len_bytes(), 2 * PAGE_BYTES);
        opened.media.grow(to).unwrap();
        let grown = MediaRange::new(2 * PAGE_BYTES, to - 2 * PAGE_BYTES);
        assert!(opened.media.region().bytes(grown).unwrap().iter().all(|&byte| byte == 0), "{media:?}, {to}");
    }
}

#[test]
fn a_device_is_read_through_a_mapping_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    drop(created(&path));
    let pool = PoolFile::open_existing(&request(&path, MediaChoice::File)).unwrap().unwrap();
    let mut record = [0; HOLDER_RECORD_BYTES];
    dax::read_device(&pool, POOL_BYTES, HOLDER_OFFSET, &mut record).unwrap();
    assert_eq!(record, [HOLDER_MARK; HOLDER_RECORD_BYTES]);
    assert!(dax::read_device(&pool, POOL_BYTES, POOL_BYTES - 1, &mut record).is_err());
}

#[test]
fn a_forked_child_is_refused_and_the_parent_goes_on() {
    for choice in [MediaChoice::File, MediaChoice::EmulatedPm] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.fkv");
        let media = super::open(&request(&path, choice)).unwrap().media;
        media.grow(POOL_BYTES).unwrap();
        media.publish().unwrap();
        media.write(PAGE_BYTES, b"before").unwrap();
        let generation = fork_generation();
        let region: &Region = media.region();
        let child = testing::fork(|| {
            let is_refused = matches!(media.write(PAGE_BYTES, b"child!"), Err(Error::Forked))
                && matches!(media.write_word(PAGE_BYTES, 0), Err(Error::Forked))
                && matches!(media.grow(2 * POOL_BYTES), Err(Error::Forked))
                && matches!(media.read(0, &mut [0]), Err(Error::Forked));
            let still_reads = region.bytes(MediaRange::new(PAGE_BYTES, 6)) == Some(b"before");
            testing::exit(i32::from(!(is_refused && still_reads && fork_generation() == generation + 1)));
        });
        assert!(testing::exited_cleanly(child.unwrap()), "{choice:?}");
        assert_eq!(fork_generation(), generation);
        assert_eq!(media.region().bytes(MediaRange::new(PAGE_BYTES, 6)).unwrap(), b"before");
        media.write(PAGE_BYTES, b"parent").unwrap();
        media.drain(super::super::Site::FrameDrain).unwrap();
        assert!(is_locked(&path), "the child's end did not take the lock away");
    }
}

#[test]
fn a_dropped_handle_in_a_child_closes_no_number_that_was_reused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    let mut media = Some(created(&path));
    let reused = c_string(b"/dev/null", &path).unwrap();
    let child = testing::fork(|| {
        let first_free = sys::open_at(CallSite::OpenPool, None, &reused, libc::O_RDONLY, 0).unwrap();
        drop(media.take());
        testing::exit(i32::from(sys::stat(first_free).is_err()));
    });
    assert!(testing::exited_cleanly(child.unwrap()));
}

/// The process that the next test kills: opens the pool, forks, says so, and waits. Does nothing on its own.
#[test]
fn fork_helper() {
    let Some(path) = std::env::var_os(HELPER_ENV) else { return };
    let _media = super::open(&request(Path::new(&path), MediaChoice::File)).unwrap().media;
    // The child lives until the test closes the pipe that is everybody's standard input.
    testing::fork(|| {
        testing::say(2, b"forked\n");
        testing::wait_for_end(0);
    })
    .unwrap();
    testing::wait_for_end(0);
}

#[test]
fn a_pool_whose_holder_died_opens_although_its_forked_child_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.fkv");
    drop(created(&path));
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "media::pool_file::tests::fork_helper", "--nocapture"])
        .env(HELPER_ENV, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let keeps_child_alive = helper.stdin.take().unwrap();
    let mut said = BufReader::new(helper.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("forked") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the helper ended early");
    }
    assert!(is_locked(&path), "the helper holds it");
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert!(!is_locked(&path), "a forked child that lives on does not hold it");
    // The child holds the other end of this pipe, so it was alive until here.
    drop(keeps_child_alive);
    line.clear();
    assert_eq!(said.read_line(&mut line).unwrap(), 0, "and ends with its standard input");
}
