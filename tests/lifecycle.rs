//! Who may open what: locks, forks, readers, refusals that change no byte, pins and tickets.

mod common;

use common::{MEDIA, memory_dir, small};
use flatkv::{Error, MediaChoice, Options, Result, Store, Ticket, WriteBatch};
use std::path::{Path, PathBuf};
use std::process::Command;

const SEGMENT: u64 = 16 << 10;
const HEAD: usize = 8192;
const SUPERBLOCK_B: usize = 4096;

fn open(media: MediaChoice, path: &Path) -> Result<Store> {
    small(media, SEGMENT).open(path)
}

fn read_only(media: MediaChoice, path: &Path) -> Result<Store> {
    Options::new().media(media).read_only(true).open(path)
}

/// A pool with small values, a large batch and blobs; closed cleanly, or left as a killed process leaves it.
fn make(media: MediaChoice, path: &Path, clean: bool) {
    let store = open(media, path).unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..400_u32 {
        store.put(&i.to_ne_bytes(), format!("value {i}").as_bytes()).unwrap();
        batch.put(format!("batch {i}").as_bytes(), &[4; 70]).unwrap();
    }
    store.write(&batch).unwrap();
    store.put(b"blob", &[5; 30_000]).unwrap();
    store.delete(&0_u32.to_ne_bytes()).unwrap();
    if clean {
        store.close().unwrap();
    }
}

fn check(store: &Store) {
    assert_eq!(store.get(&0_u32.to_ne_bytes()).unwrap(), None);
    for i in 1..400_u32 {
        assert_eq!(store.get(&i.to_ne_bytes()).unwrap().unwrap(), format!("value {i}").into_bytes());
        assert_eq!(store.get(format!("batch {i}").as_bytes()).unwrap().unwrap(), [4; 70]);
    }
    assert_eq!(store.get(b"blob").unwrap().unwrap(), [5; 30_000]);
}

/// The bytes of a pool without the record of who had it open, which is outside of its state.
fn state(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    if let Some(record) = bytes.get_mut(2048..2560) {
        record.fill(0);
    }
    bytes
}

/// Opens what must not open, whatever the options, and sees that no byte of it changed.
fn refuse(path: &Path, what: &str, is_expected: impl Fn(&Error) -> bool) {
    let before = std::fs::read(path).unwrap();
    for media in MEDIA {
        for options in [
            small(media, SEGMENT),
            small(media, SEGMENT).create(false),
            Options::new().media(media).max_bytes(10 << 20),
            Options::new().media(media).read_only(true),
        ] {
            let error = match options.clone().open(path) {
                Ok(_) => panic!("{what}: opened with {options:?}"),
                Err(error) => error,
            };
            assert!(is_expected(&error), "{what}: {error}");
            let after = std::fs::read(path).unwrap();
            assert_eq!(before.len(), after.len(), "{what}: {error}");
            let is_record = |at: usize| (2048..2560).contains(&at) && before.starts_with(b"FlatKV");
            let changed = (0..before.len()).find(|&at| before[at] != after[at] && !is_record(at));
            assert_eq!(changed, None, "{what}: a byte changed though open was refused: {error}");
        }
    }
}

#[test]
fn a_second_open_in_this_process_is_refused_and_names_us() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path).unwrap();
        for attempt in [open(media, &path), open(MediaChoice::Auto, &path), read_only(media, &path)] {
            let Err(Error::Locked(message)) = attempt else { panic!("{media:?}: {attempt:?}") };
            assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        }
        // A refused open takes nothing from the first.
        store.put(b"k", b"v").unwrap();
        let clone = store.clone();
        drop(store);
        assert!(matches!(open(media, &path), Err(Error::Locked(_))), "a clone keeps the pool");
        clone.close().unwrap();
        drop(clone);
        assert_eq!(open(media, &path).unwrap().get(b"k").unwrap().unwrap(), b"v");
    }
}

/// The child of the next test; does nothing on its own.
#[test]
fn child_that_opens_a_pool() {
    let Some(path) = std::env::var_os("FLATKV_LIFECYCLE_CHILD") else { return };
    let answer = match open(MediaChoice::Auto, &PathBuf::from(path)) {
        Ok(_) => "opened".to_string(),
        Err(error) => error.to_string(),
    };
    println!("child says: {answer}");
}

#[test]
fn a_child_process_is_refused_and_told_our_pid() {
    let dir = memory_dir();
    let path = dir.path().join("pool.fkv");
    let store = open(MediaChoice::File, &path).unwrap();
    let ask = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_opens_a_pool", "--nocapture"])
            .env("FLATKV_LIFECYCLE_CHILD", &path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = ask();
    assert!(
        said.contains("child says: locked") && said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
    store.put(b"k", b"v").unwrap();
    drop(store);
    assert!(ask().contains("child says: opened"));
    assert_eq!(open(MediaChoice::File, &path).unwrap().get(b"k").unwrap().unwrap(), b"v");
}

#[allow(unsafe_code, reason = "fork has no safe form")]
fn in_forked_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls `child`, which takes no lock that another thread of this process could hold at the fork
    // (the store answers from its fork generation alone), and leaves by `_exit`, so it runs no destructor of the parent's.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            libc::_exit(i32::from(!child()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}

#[test]
fn a_forked_child_is_refused_and_the_parent_goes_on() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        let store = open(media, &path).unwrap();
        store.put(b"k", b"v").unwrap();
        let was_refused = in_forked_child(|| {
            matches!(store.put(b"k", b"child"), Err(Error::Forked))
                && matches!(store.get(b"k"), Err(Error::Forked))
                && matches!(store.delete(b"k"), Err(Error::Forked))
                && matches!(store.put_async(b"k", b"child"), Err(Error::Forked))
                && matches!(store.sync(), Err(Error::Forked))
                && matches!(store.close(), Err(Error::Forked))
                && matches!(store.health(), Err(Error::Forked))
                && matches!(store.snapshot(), Err(Error::Forked))
        });
        assert!(was_refused, "{media:?}");
        assert_eq!(store.get(b"k").unwrap().unwrap(), b"v");
        store.put(b"k", b"parent").unwrap();
        store.close().unwrap();
        drop(store);
        assert_eq!(open(media, &path).unwrap().get(b"k").unwrap().unwrap(), b"parent");
    }
}

/// It took locks that a thread may hold which the child does not have.
#[test]
fn a_forked_child_is_not_told_what_a_snapshot_of_its_parent_keeps() {
    let dir = memory_dir();
    let store = open(MediaChoice::EmulatedPm, &dir.path().join("pool.fkv")).unwrap();
    store.put(b"k", b"v").unwrap();
    let snapshot = store.snapshot().unwrap();
    store.put(b"k", b"w").unwrap();
    assert!(snapshot.kept_bytes() > 0);
    let was_told_nothing = in_forked_child(|| {
        let is_refused = matches!(snapshot.get(b"k"), Err(Error::Forked));
        drop(snapshot.clone());
        is_refused && snapshot.kept_bytes() == 0
    });
    assert!(was_told_nothing);
    assert_eq!(snapshot.get(b"k").unwrap().unwrap(), b"v");
}

#[test]
fn readers_share_a_pool_refuse_writes_and_change_no_byte() {
    for media in MEDIA {
        for clean in [true, false] {
            let dir = memory_dir();
            let path = dir.path().join("pool.fkv");
            make(media, &path, clean);
            let before = std::fs::read(&path).unwrap();
            let readers = [read_only(media, &path).unwrap(), read_only(media, &path).unwrap()];
            for reader in &readers {
                check(reader);
                assert!(matches!(reader.put(b"k", b"v"), Err(Error::ReadOnly)));
                assert!(matches!(reader.put(b"k", &[1; 100_000]), Err(Error::ReadOnly)));
                assert!(matches!(reader.delete(b"blob"), Err(Error::ReadOnly)));
                assert!(matches!(reader.put_async(b"k", b"v"), Err(Error::ReadOnly)));
                let mut batch = WriteBatch::new();
                batch.put(b"k", b"v").unwrap();
                assert!(matches!(reader.write(&batch), Err(Error::ReadOnly)));
                assert!(matches!(reader.write_async(&batch), Err(Error::ReadOnly)));
                assert_eq!(reader.get(b"k").unwrap(), None);
                reader.sync().unwrap();
            }
            let Err(Error::Locked(message)) = open(media, &path) else { panic!("a writer among readers") };
            assert!(message.contains("read-only"), "{message}");
            for reader in readers {
                reader.close().unwrap();
            }
            assert!(
                std::fs::read(&path).unwrap() == before,
                "{media:?}, clean {clean}: readers changed the pool"
            );
            check(&open(media, &path).unwrap());
        }
    }
}

#[test]
fn what_is_not_there_is_not_created_unless_asked() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        assert!(small(media, SEGMENT).create(false).open(&path).is_err());
        assert!(read_only(media, &path).is_err());
        assert!(open(media, &dir.path().join("no/such/folder/pool.fkv")).is_err());
        for options in [
            small(media, 5000),
            small(media, 1 << 30),
            small(media, SEGMENT).head_size_bytes(100),
            small(media, SEGMENT).max_bytes(1000),
            small(media, SEGMENT).async_bytes_max(0),
        ] {
            assert!(matches!(options.open(&path), Err(Error::InvalidArgument(_))));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a refused open leaves nothing behind");
    }
}

#[test]
fn foreign_files_are_refused_and_stay_as_they_are() {
    let dir = memory_dir();
    assert!(matches!(open(MediaChoice::File, dir.path()), Err(Error::InvalidArgument(_))), "a directory");
    let link = dir.path().join("link");
    let path = dir.path().join("notes.txt");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for len in [1, 100, 511, 4095, 4096, 8191, 8192, 70_000] {
        let text: Vec<u8> = b"Dear diary, today was a day. ".iter().copied().cycle().take(len).collect();
        std::fs::write(&path, text).unwrap();
        refuse(&path, &format!("a text of {len} bytes"), |error| {
            matches!(error, Error::Corrupted { .. } | Error::Incomplete(_) | Error::InvalidArgument(_))
        });
    }
    for byte in [0x00, 0xFF] {
        std::fs::write(&path, vec![byte; 200_000]).unwrap();
        refuse(&path, &format!("200,000 bytes of {byte:#x}"), |error| {
            matches!(error, Error::Corrupted { .. } | Error::Incomplete(_) | Error::InvalidArgument(_))
        });
    }
    assert!(matches!(open(MediaChoice::File, &link), Err(Error::InvalidArgument(_))), "a symbolic link");
}

/// The one thing that a list of segments cannot miss are extents opened since the newest list: the blob in them is then
/// damaged, and everything else is there.
#[test]
fn a_truncated_pool_is_refused_or_has_lost_the_last_blob_alone() {
    for clean in [true, false] {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        make(MediaChoice::File, &path, clean);
        let whole = std::fs::read(&path).unwrap();
        let used = HEAD + (used_slots(&whole).last().unwrap() + 1) * SEGMENT as usize;
        let lengths = (1..64).chain((512..HEAD).step_by(512)).chain((HEAD..used).step_by(1024)).chain([
            HEAD - 1,
            HEAD + 1,
            used - 1,
            used - 512,
            used - 4096,
        ]);
        let mut refused = 0;
        for len in lengths {
            std::fs::write(&path, &whole[..len]).unwrap();
            if let Ok(store) = read_only(MediaChoice::File, &path) {
                for i in 1..400_u32 {
                    assert_eq!(
                        store.get(&i.to_ne_bytes()).unwrap().unwrap(),
                        format!("value {i}").into_bytes()
                    );
                    assert_eq!(store.get(format!("batch {i}").as_bytes()).unwrap().unwrap(), [4; 70]);
                }
                assert!(
                    !matches!(store.get(b"blob"), Ok(None)),
                    "{len} bytes: the blob is gone without a word"
                );
                continue;
            }
            refused += 1;
            refuse(&path, &format!("{len} of {} bytes", whole.len()), |error| {
                matches!(error, Error::Incomplete(_) | Error::Corrupted { .. })
            });
        }
        assert!(refused > 300, "only {refused} lengths were refused");
        std::fs::write(&path, &whole).unwrap();
        check(&open(MediaChoice::File, &path).unwrap());
    }
}

/// Slots that hold segments in use: their header is not blank.
fn used_slots(pool: &[u8]) -> Vec<usize> {
    let is_used = |segment: &[u8]| segment[..512].iter().any(|&byte| byte != 0);
    let segments = pool[HEAD..].chunks(SEGMENT as usize).enumerate();
    segments.filter(|(_, segment)| is_used(segment)).map(|(slot, _)| slot).collect()
}

#[test]
fn a_missing_segment_is_named_and_nothing_is_changed() {
    for clean in [true, false] {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        make(MediaChoice::EmulatedPm, &path, clean);
        let whole = std::fs::read(&path).unwrap();
        let mut named = 0;
        for slot in used_slots(&whole) {
            let mut bytes = whole.clone();
            let at = HEAD + slot * SEGMENT as usize;
            bytes[at..at + SEGMENT as usize].fill(0);
            std::fs::write(&path, bytes).unwrap();
            if let Ok(store) = read_only(MediaChoice::File, &path) {
                // A slot that was freed, or opened after the newest digest and never used.
                drop(store);
                continue;
            }
            refuse(&path, &format!("slot {slot} zeroed"), |error| match error {
                Error::Incomplete(message) => message.contains(&format!("in slot {slot}")),
                Error::Corrupted { .. } => true,
                _ => false,
            });
            if let Err(Error::Incomplete(_)) = open(MediaChoice::File, &path) {
                named += 1;
            }
        }
        assert!(named > 3, "only {named} segments were missed by name");
    }
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_refused() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        make(media, &path, true);
        let whole = std::fs::read(&path).unwrap();
        for byte in (0..512).step_by(7) {
            for copy in [0, SUPERBLOCK_B] {
                let mut bytes = whole.clone();
                bytes[copy + byte] ^= 0x10;
                std::fs::write(&path, bytes).unwrap();
                let store =
                    open(media, &path).unwrap_or_else(|error| panic!("copy at {copy}, byte {byte}: {error}"));
                check(&store);
                drop(store);
                check(&open(media, &path).unwrap());
            }
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x10;
            bytes[SUPERBLOCK_B + byte] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            refuse(&path, &format!("byte {byte} of both superblocks"), |error| {
                matches!(error, Error::Corrupted { .. } | Error::Unsupported(_))
            });
        }
    }
}

/// Rewrites both superblock copies with `change`, and with checksums that are right. Asks the library's own words: the
/// checksum is XXH3 with the seed `flatkvsb` over all but its own eight bytes.
fn reseal(pool: &mut [u8], change: impl Fn(&mut [u8])) {
    for copy in [0, SUPERBLOCK_B] {
        let superblock = &mut pool[copy..copy + 512];
        change(superblock);
        let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&superblock[..504], 0x666C_6174_6B76_7362);
        superblock[504..].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn pools_of_the_future_are_refused_as_unsupported() {
    let dir = memory_dir();
    let path = dir.path().join("pool.fkv");
    make(MediaChoice::File, &path, true);
    let whole = std::fs::read(&path).unwrap();
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = whole.clone();
        reseal(&mut bytes, change);
        std::fs::write(&path, bytes).unwrap();
    };
    changed(&|_| ());
    check(&open(MediaChoice::File, &path).unwrap());
    changed(&|superblock| superblock[8] = 2);
    refuse(
        &path,
        "format version 2",
        |error| matches!(error, Error::Unsupported(why) if why.contains("version 2")),
    );
    // Bit 0 says that operations may name keyspaces.
    changed(&|superblock| superblock[32] = 1);
    check(&open(MediaChoice::File, &path).unwrap());
    for bit in [1, 7] {
        changed(&|superblock| superblock[32] = 1 << bit);
        refuse(&path, "an unknown incompatible feature", |error| matches!(error, Error::Unsupported(_)));
    }
    changed(&|superblock| superblock[24] = 1);
    assert!(matches!(open(MediaChoice::File, &path), Err(Error::Unsupported(_) | Error::ReadOnly)));
    check(&read_only(MediaChoice::File, &path).unwrap());
    changed(&|superblock| superblock[16] = 1);
    check(&open(MediaChoice::File, &path).unwrap());
}

#[test]
fn an_empty_file_becomes_a_pool_only_if_asked() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(small(media, SEGMENT).create(false).open(&path), Err(Error::InvalidArgument(_))));
        assert!(matches!(read_only(media, &path), Err(Error::InvalidArgument(_))));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        make(media, &path, true);
        check(&open(media, &path).unwrap());
    }
}

#[test]
fn a_pool_opens_on_the_other_medium() {
    for clean in [true, false] {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        make(MediaChoice::EmulatedPm, &path, clean);
        for media in [MediaChoice::File, MediaChoice::EmulatedPm, MediaChoice::File] {
            let store = open(media, &path).unwrap();
            check(&store);
            store.put(b"more", b"1").unwrap();
            if clean {
                store.close().unwrap();
            }
        }
    }
}

#[test]
fn pins_keep_the_store_open_and_their_bytes() {
    for media in MEDIA {
        let dir = memory_dir();
        let path = dir.path().join("pool.fkv");
        make(media, &path, true);
        let store = open(media, &path).unwrap();
        let pin = store.get_pinned(&7_u32.to_ne_bytes()).unwrap().unwrap();
        let other = store.get_pinned(&8_u32.to_ne_bytes()).unwrap().unwrap();
        let Err(Error::Busy(message)) = store.close() else { panic!("closed under two pins") };
        assert!(message.contains('2'), "{message}");
        store.put(b"still", b"open").unwrap();
        drop(other);
        assert!(matches!(store.close(), Err(Error::Busy(_))));
        store.delete(&7_u32.to_ne_bytes()).unwrap();
        assert_eq!(&*pin, b"value 7");
        std::thread::spawn(move || drop(pin)).join().unwrap();
        store.close().unwrap();
        assert!(matches!(store.close(), Err(Error::Closed)));
        for call in [store.put(b"k", b"v"), store.sync(), store.health(), store.get(b"k").map(drop)] {
            assert!(matches!(call, Err(Error::Closed)));
        }
        drop(store);
        // A pin outlives its store, and keeps the pool.
        let store = open(media, &path).unwrap();
        let pin = store.get_pinned(&9_u32.to_ne_bytes()).unwrap().unwrap();
        drop(store);
        assert_eq!(&*pin, b"value 9");
        assert!(matches!(open(media, &path), Err(Error::Locked(_))));
        drop(pin);
        open(media, &path).unwrap();
    }
}

#[test]
fn tickets_count_up_and_unknown_ones_are_refused() {
    for media in MEDIA {
        let dir = memory_dir();
        let store = open(media, &dir.path().join("pool.fkv")).unwrap();
        assert_eq!(store.durable_ticket(), Ticket(0));
        assert!(matches!(store.wait(Ticket(0)), Err(Error::InvalidArgument(_))));
        assert!(matches!(store.wait(Ticket(1)), Err(Error::InvalidArgument(_))));
        let mut durable = Ticket(0);
        for i in 1..300_u64 {
            let ticket = match i % 3 {
                0 => store.write_async(&WriteBatch::new()).unwrap(),
                _ => store.put_async(&i.to_ne_bytes(), b"v").unwrap(),
            };
            assert_eq!(ticket, Ticket(i));
            assert!(matches!(store.wait(Ticket(i + 1)), Err(Error::InvalidArgument(_))));
            let now = store.durable_ticket();
            assert!(durable <= now && now <= ticket, "{durable:?} {now:?} {ticket:?}");
            durable = now;
            if i % 50 == 0 {
                store.wait(ticket).unwrap();
                assert_eq!(store.durable_ticket(), ticket);
                store.wait(Ticket(1)).unwrap();
            }
        }
        store.sync().unwrap();
        assert_eq!(store.durable_ticket(), Ticket(299));
        let last = store.put_async(b"last", b"v").unwrap();
        store.close().unwrap();
        assert!(matches!(store.wait(last), Err(Error::Closed)));
    }
}

#[test]
fn what_a_refusal_leaves_opens_afterwards() {
    let dir = memory_dir();
    let path = dir.path().join("pool.fkv");
    make(MediaChoice::File, &path, true);
    let before = state(&path);
    assert!(
        matches!(Options::new().media(MediaChoice::Dax).open(&path), Err(Error::Unsupported(_)))
            || dax_works(&path)
    );
    assert!(state(&path) == before);
    check(&open(MediaChoice::File, &path).unwrap());
}

fn dax_works(path: &Path) -> bool {
    Options::new().media(MediaChoice::Dax).open(path).is_ok()
}
