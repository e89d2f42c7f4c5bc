//! One suite that every medium runs. A new kind is one line in `KINDS`.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

use super::sys::testing;
use super::*;
use crate::constants::PAGE_BYTES;
use crate::error::Error;
use std::path::PathBuf;

struct Kind {
    name: &'static str,
    /// `None`: the system's temporary directory, usually on a disk.
    directory: Option<&'static str>,
    media: MediaChoice,
    expected: MediaKind,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "emulated-pm on tmpfs",
        directory: Some("/dev/shm"),
        media: MediaChoice::EmulatedPm,
        expected: MediaKind::EmulatedPm,
    },
    Kind {
        name: "emulated-pm on a disk",
        directory: None,
        media: MediaChoice::EmulatedPm,
        expected: MediaKind::EmulatedPm,
    },
    Kind { name: "file on a disk", directory: None, media: MediaChoice::File, expected: MediaKind::File },
    Kind {
        name: "file on tmpfs",
        directory: Some("/dev/shm"),
        media: MediaChoice::File,
        expected: MediaKind::File,
    },
    Kind { name: "dax", directory: None, media: MediaChoice::Dax, expected: MediaKind::Dax },
];

/// Offset of the holder record in these pools.
pub(super) const HOLDER_OFFSET: u64 = PAGE_BYTES - HOLDER_RECORD_BYTES as u64;
/// First byte of every holder record written here.
pub(super) const HOLDER_MARK: u8 = 0xAB;
const POOL_BYTES: u64 = 16 * PAGE_BYTES;

pub(super) fn request(path: &Path, media: MediaChoice) -> OpenRequest<'_> {
    OpenRequest {
        path,
        media,
        create: true,
        read_only: false,
        file_mode: 0o600,
        os_by_mapping: false,
        lock_wait_ms: 0,
        holder_offset: HOLDER_OFFSET,
        describe_holder: |record| format!("held by {:#x}", record[0]),
    }
}

struct Fixture {
    media: Arc<dyn Media>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn fixture(kind: &Kind) -> Option<Fixture> {
    let base = kind.directory.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base).unwrap();
    let path = directory.path().join("pool.fkv");
    match open(&OpenRequest { os_by_mapping: true, ..request(&path, kind.media) }) {
        Ok(opened) => {
            assert!(opened.is_new, "{}", kind.name);
            assert_eq!(opened.media.kind(), kind.expected, "{}", kind.name);
            Some(Fixture { media: opened.media, path, _directory: directory })
        }
        Err(Error::Unsupported(why)) => {
            eprintln!("not run: {}: {why}", kind.name);
            None
        }
        Err(error) => panic!("{}: {error}", kind.name),
    }
}

/// Runs `test` on a pool of `POOL_BYTES` of every kind.
fn on_every_medium(test: impl Fn(&str, &Fixture)) {
    for kind in KINDS {
        if let Some(fixture) = fixture(kind) {
            fixture.media.grow(POOL_BYTES).unwrap();
            test(kind.name, &fixture);
        }
    }
}

fn read(media: &dyn Media, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    media.read(at, &mut bytes).unwrap();
    bytes
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn written_bytes_are_read_back_through_mapping_and_pread() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        for (at, len) in
            [(PAGE_BYTES, 1), (PAGE_BYTES + 63, 2), (2 * PAGE_BYTES - 7, 4099), (POOL_BYTES - 5, 5)]
        {
            let bytes = pattern(len);
            media.write(at, &bytes).unwrap();
            let range = MediaRange::new(at, len as u64);
            assert_eq!(
                media.region().bytes(range).unwrap(),
                bytes,
                "{name}: visible before the drain, {range:?}"
            );
            media.flush(Site::BlobFlush, range);
            media.drain(Site::FrameDrain).unwrap();
            assert_eq!(read(media, at, len), bytes, "{name}: {range:?}");
        }
        let untouched = read(media, 4 * PAGE_BYTES, PAGE_BYTES as usize);
        assert!(untouched.iter().all(|&byte| byte == 0), "{name}: neighbours are untouched");
        media.write(0, &[]).unwrap();
        media.flush(Site::BlobFlush, MediaRange::new(POOL_BYTES, 0));
    });
}

#[test]
fn lines_written_through_are_read_back() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        for (at, len) in [(PAGE_BYTES, 64), (PAGE_BYTES + 192, 640), (POOL_BYTES - 64, 64)] {
            let bytes = pattern(len);
            media.write_through(at, &bytes).unwrap();
            media.drain(Site::FrameDrain).unwrap();
            assert_eq!(
                media.region().bytes(MediaRange::new(at, len as u64)).unwrap(),
                bytes,
                "{name} at {at}"
            );
            assert_eq!(read(media, at, len), bytes, "{name} at {at}");
        }
    });
}

#[test]
fn bytes_that_no_drain_follows_are_read_back_and_drained_later() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        // Small ones, some of them over the ends of pages and windows, behind each other as a log appends, and a long one.
        let lens = [1, 64, 192, 4000, 192, 4097, 12_000, 17_000, 64];
        let mut at = PAGE_BYTES;
        for (i, len) in lens.into_iter().enumerate() {
            let bytes = pattern(len + i)[i..].to_vec();
            media.write_undrained(at, &bytes).unwrap();
            let range = MediaRange::new(at, len as u64);
            assert_eq!(media.region().bytes(range).unwrap(), bytes, "{name}: {range:?}");
            assert_eq!(read(media, at, len), bytes, "{name}: {range:?}");
            if i % 3 == 0 {
                media.flush(Site::UndrainedFlush, range);
                media.drain(Site::SyncDrain).unwrap();
                assert_eq!(read(media, at, len), bytes, "{name}: {range:?} after a drain");
            }
            at += len as u64;
        }
        assert!(
            is_zero(media, MediaRange::new(at, POOL_BYTES - at)),
            "{name}: what lies behind is untouched"
        );
        media.write_undrained(POOL_BYTES, &[]).unwrap();
    });
}

/// In a folder of a file system of 1 MiB that only the thread of the test sees.
fn on_a_small_device(test: impl FnOnce(&Path) + Send) {
    let run = || {
        let directory = tempfile::tempdir().unwrap();
        match testing::mount_private_tmpfs(directory.path(), 1 << 20) {
            Ok(()) => test(directory.path()),
            Err(errno) => eprintln!("not run: a private tmpfs cannot be mounted here (errno {errno})"),
        }
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn an_os_write_into_a_hole_on_a_full_device_is_an_error_and_no_signal() {
    on_a_small_device(|directory| {
        let path = directory.join("pool.fkv");
        let request = OpenRequest { os_by_mapping: true, ..request(&path, MediaChoice::File) };
        let pool = open(&request).unwrap().media;
        assert!(pool.why().contains("through the mapping"), "{}", pool.why());
        pool.grow(POOL_BYTES).unwrap();
        let hole = MediaRange::new(4 * PAGE_BYTES, 4 * PAGE_BYTES);
        pool.write_undrained(hole.offset, b"given back").unwrap();
        // As if somebody had dug it.
        pool.punch(&[hole]).unwrap();
        let fill = std::fs::write(directory.join("fill"), vec![1; 1 << 20]);
        assert!(fill.is_err(), "the device is full");
        for _ in 0..2 {
            let refused = pool.write_undrained(hole.offset, b"no room").unwrap_err();
            assert!(matches!(refused, Error::NoSpace { .. } | Error::Io { .. }), "{refused}");
        }
        pool.write_undrained(8 * PAGE_BYTES, b"room").unwrap();
        assert_eq!(read(&*pool, 8 * PAGE_BYTES, 4), b"room");
    });
}

#[test]
fn words_are_loaded_as_they_were_stored() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        for (at, word) in
            [(PAGE_BYTES, 0x0123_4567_89AB_CDEF), (PAGE_BYTES + 8, u64::MAX), (POOL_BYTES - 8, 1)]
        {
            media.write_word(at, word).unwrap();
            media.flush(Site::SealFlush, MediaRange::new(at, 8));
            media.drain(Site::SealDrain).unwrap();
            assert_eq!(media.region().load_word(at), word, "{name} at {at}");
            assert_eq!(read(media, at, 8), word.to_ne_bytes(), "{name} at {at}");
        }
    });
}

#[test]
fn growth_keeps_base_and_content_and_adds_zeros() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        let bytes = pattern(POOL_BYTES as usize - PAGE_BYTES as usize);
        media.write(PAGE_BYTES, &bytes).unwrap();
        let before = media.region().bytes(MediaRange::new(PAGE_BYTES, bytes.len() as u64)).unwrap();
        for grown in [POOL_BYTES + PAGE_BYTES, 4 << 20, (4 << 20) + 3 * PAGE_BYTES] {
            let old = media.len_bytes();
            media.grow(grown).unwrap();
            assert_eq!((media.len_bytes(), media.region().len()), (grown, grown), "{name}");
            let new = media.region().bytes(MediaRange::new(old, grown - old)).unwrap();
            assert!(new.iter().all(|&byte| byte == 0), "{name}: new bytes are zero");
            assert!(read(media, old, (grown - old) as usize).iter().all(|&byte| byte == 0), "{name}");
        }
        let after = media.region().bytes(MediaRange::new(PAGE_BYTES, bytes.len() as u64)).unwrap();
        assert_eq!((after.as_ptr(), after), (before.as_ptr(), &*bytes), "{name}: same place, same content");
        media.grow(PAGE_BYTES).unwrap();
        assert_eq!(media.len_bytes(), (4 << 20) + 3 * PAGE_BYTES, "{name}: growth never shrinks");
        assert!(media.grow((4 << 20) + 3 * PAGE_BYTES + 1).is_err(), "{name}: whole pages");
    });
}

fn is_zero(media: &dyn Media, range: MediaRange) -> bool {
    let mapped = media.region().bytes(range).unwrap();
    mapped.iter().chain(&read(media, range.offset, range.len as usize)).all(|&byte| byte == 0)
}

#[test]
fn what_was_given_back_is_zero_and_its_neighbours_are_not() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        let bytes = pattern(POOL_BYTES as usize);
        media.write(0, &bytes).unwrap();
        media.flush(Site::BlobFlush, MediaRange::new(0, POOL_BYTES));
        media.drain(Site::FrameDrain).unwrap();
        let holes =
            [MediaRange::new(2 * PAGE_BYTES, PAGE_BYTES), MediaRange::new(5 * PAGE_BYTES, 3 * PAGE_BYTES)];
        media.publish().unwrap();
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&fixture.path).unwrap());
        let before = blocks();
        media.punch(&holes).unwrap();
        assert!(blocks() < before, "{name}: the file system has the bytes back");
        assert_eq!(media.len_bytes(), POOL_BYTES, "{name}");
        // Before they are looked at through the mapping, which takes pages on tmpfs.
        let found = media.holes().unwrap();
        for hole in holes {
            let is_in = |found: &MediaRange| found.offset <= hole.offset && hole.end() <= found.end();
            assert!(found.iter().any(is_in), "{name}: {hole:?} in {found:?}");
        }
        for page in [0, 1, 3, 4, 8, 15] {
            let at = (page * PAGE_BYTES) as usize;
            let expected = &bytes[at..][..PAGE_BYTES as usize];
            assert_eq!(read(media, at as u64, PAGE_BYTES as usize), expected, "{name}: page {page}");
        }
        media.allocate(&holes).unwrap();
        assert!(holes.iter().all(|hole| is_zero(media, *hole)), "{name}");
        media.write(holes[1].offset, &bytes[..100]).unwrap();
        media.flush(Site::BlobFlush, MediaRange::new(holes[1].offset, 100));
        media.drain(Site::FrameDrain).unwrap();
        assert_eq!(read(media, holes[1].offset, 100), &bytes[..100], "{name}");
        assert!(media.punch(&[MediaRange::new(POOL_BYTES, PAGE_BYTES)]).is_err(), "{name}: outside");
    });
}

#[test]
fn a_medium_that_was_cut_grows_again_with_zeros() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        let bytes = pattern(POOL_BYTES as usize);
        let base = media.region().bytes(MediaRange::new(0, PAGE_BYTES)).unwrap().as_ptr();
        media.publish().unwrap();
        for cut in [9 * PAGE_BYTES, 3 * PAGE_BYTES, PAGE_BYTES] {
            media.write(0, &bytes).unwrap();
            media.shrink(cut).unwrap();
            assert_eq!((media.len_bytes(), media.region().len()), (cut, cut), "{name}");
            assert_eq!(std::fs::metadata(&fixture.path).unwrap().len(), cut, "{name}");
            assert!(media.region().bytes(MediaRange::new(cut, 1)).is_none(), "{name}: out of reach");
            assert!(media.write(cut, &[1; 64]).is_err(), "{name}");
            assert_eq!(read(media, 0, cut as usize), &bytes[..cut as usize], "{name}");
            media.grow(POOL_BYTES).unwrap();
            assert!(is_zero(media, MediaRange::new(cut, POOL_BYTES - cut)), "{name}: new bytes are zero");
            let again = media.region().bytes(MediaRange::new(0, cut)).unwrap();
            assert_eq!((again.as_ptr(), again), (base, &bytes[..cut as usize]), "{name}");
        }
    });
}

#[test]
fn ranges_outside_the_medium_are_refused_and_change_nothing() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        for at in [POOL_BYTES - 63, POOL_BYTES, u64::MAX, u64::MAX - 63] {
            assert!(media.write(at, &[1; 64]).is_err(), "{name}: write at {at}");
            assert!(media.read(at, &mut [0; 64]).is_err(), "{name}: read at {at}");
            assert!(
                media.region().bytes(MediaRange { offset: at, len: 64 }).is_none(),
                "{name}: bytes at {at}"
            );
        }
        assert!(media.write_through(POOL_BYTES, &[1; 64]).is_err(), "{name}");
        assert!(media.write_word(POOL_BYTES, 1).is_err(), "{name}");
        media.prefault(MediaRange { offset: u64::MAX, len: u64::MAX });
        media.publish().unwrap();
        assert_eq!(media.len_bytes(), POOL_BYTES, "{name}");
        assert_eq!(
            std::fs::metadata(&fixture.path).unwrap().len(),
            POOL_BYTES,
            "{name}: the file is no longer"
        );
        assert!(read(media, PAGE_BYTES, 15 * PAGE_BYTES as usize).iter().all(|&byte| byte == 0), "{name}");
    });
}

#[test]
fn prefaulting_changes_no_byte() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        let bytes = pattern(POOL_BYTES as usize);
        media.write(0, &bytes).unwrap();
        for (offset, len) in
            [(0, POOL_BYTES), (PAGE_BYTES + 17, 1), (POOL_BYTES - 1, 1), (POOL_BYTES, 1), (0, 0)]
        {
            media.prefault(MediaRange::new(offset, len));
        }
        assert_eq!(read(media, 0, POOL_BYTES as usize), bytes, "{name}");
    });
}

#[test]
fn a_new_pool_appears_under_its_name_when_it_is_published() {
    on_every_medium(|name, fixture| {
        let media = &*fixture.media;
        let directory = fixture.path.parent().unwrap();
        media.write(PAGE_BYTES, b"content").unwrap();
        assert!(!fixture.path.exists(), "{name}: no half-made pool under the name");
        media.publish().unwrap();
        media.publish().unwrap();
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "{name}: once, and nothing beside it");
        let content = std::fs::read(&fixture.path).unwrap();
        assert_eq!(content.len() as u64, POOL_BYTES, "{name}");
        assert_eq!(&content[PAGE_BYTES as usize..][..7], b"content", "{name}");
    });
}

#[test]
fn a_read_only_medium_refuses_growth() {
    for kind in KINDS {
        let Some(fixture) = fixture(kind) else { continue };
        fixture.media.grow(POOL_BYTES).unwrap();
        fixture.media.publish().unwrap();
        let Fixture { media, path, _directory } = fixture;
        drop(media);
        let opened = open(&OpenRequest { read_only: true, ..request(&path, kind.media) }).unwrap();
        assert!(!opened.is_new, "{}", kind.name);
        assert!(matches!(opened.media.grow(2 * POOL_BYTES), Err(Error::ReadOnly)), "{}", kind.name);
        opened.media.flush(Site::AdoptFlush, MediaRange::new(0, POOL_BYTES));
        opened.media.drain(Site::AdoptDrain).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), POOL_BYTES, "{}", kind.name);
    }
}

#[test]
fn growth_on_a_full_device_is_no_space_and_changes_nothing() {
    for media in [MediaChoice::EmulatedPm, MediaChoice::File] {
        on_a_small_device(|directory| {
            let path = directory.join("pool.fkv");
            let pool = open(&request(&path, media)).unwrap().media;
            pool.grow(POOL_BYTES).unwrap();
            pool.write(PAGE_BYTES, b"kept").unwrap();
            // By less than a large page, and by some of them.
            for to in [2 << 20, 9 << 20] {
                let error = pool.grow(to).unwrap_err();
                let needed = to - POOL_BYTES;
                assert!(
                    matches!(error, Error::NoSpace { needed_bytes, .. } if needed_bytes == needed),
                    "{error}"
                );
            }
            assert_eq!(pool.len_bytes(), POOL_BYTES);
            pool.publish().unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), POOL_BYTES, "the length was restored");
            assert_eq!(read(&*pool, PAGE_BYTES, 4), b"kept");
            pool.grow(2 * POOL_BYTES).unwrap();
            pool.write(2 * POOL_BYTES - 4, b"more").unwrap();
            pool.drain(Site::FrameDrain).unwrap();
        });
    }
}
