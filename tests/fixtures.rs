//! Pools of every released format, kept as bytes, open in every later release, on every medium. Their generator is here
//! too (`make fixtures`): it never replaces a pool that exists, because bytes that an old release wrote are the point.

use flatkv::{Error, MediaChoice, Options, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CLEAN: &str = "tests/fixtures/v1/clean.fkv";
const KILLED: &str = "tests/fixtures/v1/killed.fkv";
/// One superblock as version 2 might write it: that of `CLEAN` but for version and checksum. The C tests put it into a pool.
const FUTURE_SUPERBLOCK: &str = "tests/fixtures/v2/superblock";
const MEDIA: [MediaChoice; 2] = [MediaChoice::File, MediaChoice::EmulatedPm];
/// All fixtures together, so that the repository stays small.
const BYTES_MAX: u64 = 300 << 10;

/// Every key that a fixture ever held, and its value at the end.
type Content = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn value(name: &str, len: usize) -> Vec<u8> {
    name.bytes().cycle().take(len).collect()
}

fn content() -> Content {
    let mut content = Content::new();
    let mut set = |key: String, value| content.insert(key.into_bytes(), value);
    for i in 0..30 {
        // Inline values, enough of them to roll the head.
        set(format!("inline {i}"), Some(value(&format!("first {i} "), 200 + i)));
    }
    for i in 0..10 {
        set(format!("inline {i}"), Some(value(&format!("second {i} "), 10 * i)));
        set(format!("inline {}", i + 10), None);
    }
    set("blob".into(), Some(value("a blob in several segments ", 9_000)));
    set("blob overwritten".into(), Some(b"small now".to_vec()));
    set("blob deleted".into(), None);
    set("batch put".into(), Some(b"from a batch".to_vec()));
    set("batch deleted".into(), None);
    for i in 0..40 {
        set(format!("large batch {i}"), Some(value(&format!("part {i} "), 90 + i)));
    }
    set("large batch deleted".into(), None);
    content
}

fn copy_to(dir: &Path, fixture: &str) -> PathBuf {
    let path = dir.join("pool.fkv");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture), &path).unwrap();
    path
}

fn check(store: &Store, context: &str) {
    for (key, value) in content() {
        let name = String::from_utf8_lossy(&key).into_owned();
        let found = store.get(&key).unwrap_or_else(|error| panic!("{context}, key {name}: {error}"));
        assert!(found == value, "{context}, key {name}: wrong value");
    }
    assert_eq!(store.get(b"torn").unwrap(), None, "{context}: a torn put is no put");
    assert_eq!(store.get(b"never written").unwrap(), None, "{context}");
}

/// What open found, without what depends on time or medium.
fn found_at_open(store: &Store) -> Vec<String> {
    let stats = store.stats_json();
    let field = |name: &str| {
        let start = stats.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {stats}"));
        stats[start..].split([',', '}']).next().unwrap().to_string()
    };
    ["was_clean", "recovered_entries", "torn_heads", "damaged_ranges"].map(field).to_vec()
}

#[test]
fn fixtures_open_on_every_medium_and_hold_what_was_written() {
    for fixture in [CLEAN, KILLED] {
        let mut found = Vec::new();
        for media in MEDIA {
            let dir = tempfile::tempdir().unwrap();
            let path = copy_to(dir.path(), fixture);
            let context = format!("{fixture} on {media:?}");
            let store = Options::new().media(media).open(&path).unwrap();
            check(&store, &context);
            found.push(found_at_open(&store));
            store.close().unwrap();
            drop(store);
            for other in MEDIA {
                let store = Options::new().media(other).open(&path).unwrap();
                check(&store, &format!("{context}, then {other:?}"));
                store.close().unwrap();
            }
        }
        assert_eq!(found[0], found[1], "{fixture}: what open finds does not depend on the medium");
        let is_clean = fixture == CLEAN;
        assert!(found[0].contains(&format!("\"was_clean\":{is_clean}")), "{found:?}");
        assert!(found[0].contains(&format!("\"torn_heads\":{}", u8::from(!is_clean))), "{found:?}");
        assert!(found[0].contains(&"\"damaged_ranges\":0".to_string()), "{found:?}");
    }
}

#[test]
fn reading_a_fixture_changes_no_byte_of_it() {
    for fixture in [CLEAN, KILLED] {
        for media in MEDIA {
            let dir = tempfile::tempdir().unwrap();
            let path = copy_to(dir.path(), fixture);
            let before = std::fs::read(&path).unwrap();
            let store = Options::new().media(media).read_only(true).open(&path).unwrap();
            check(&store, &format!("{fixture} on {media:?}, read-only"));
            assert!(matches!(store.put(b"key", b"value"), Err(Error::ReadOnly)));
            drop(store);
            assert!(std::fs::read(&path).unwrap() == before, "{fixture} on {media:?}");
        }
    }
}

#[test]
fn a_fixture_can_be_written_and_opened_again() {
    for fixture in [CLEAN, KILLED] {
        let dir = tempfile::tempdir().unwrap();
        let path = copy_to(dir.path(), fixture);
        for round in 0..3_u32 {
            let store = Options::new().media(MediaChoice::EmulatedPm).open(&path).unwrap();
            check(&store, &format!("{fixture}, round {round}"));
            for earlier in 0..round {
                assert!(store.exists(format!("later {earlier}").as_bytes()).unwrap());
            }
            for _ in 0..20 {
                store.put(format!("later {round}").as_bytes(), &value("later ", 300)).unwrap();
            }
            if round == 1 {
                store.close().unwrap();
            }
        }
    }
}

fn future_superblock() -> Vec<u8> {
    const SUM_AT: usize = 504;
    let clean = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(CLEAN)).unwrap();
    let mut superblock = clean[..SUM_AT].to_vec();
    superblock[8] = 2;
    let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&superblock, 0x666C_6174_6B76_7362);
    superblock.extend(sum.to_le_bytes());
    superblock
}

#[test]
fn the_superblock_of_the_future_differs_in_nothing_but_its_version() {
    let found = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(FUTURE_SUPERBLOCK)).unwrap();
    assert!(found == future_superblock(), "see write_the_superblock_of_the_future");
}

#[test]
fn fixtures_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let total: u64 =
        [CLEAN, KILLED].iter().map(|fixture| std::fs::metadata(root.join(fixture)).unwrap().len()).sum();
    assert!(total <= BYTES_MAX, "{total} bytes of fixtures");
}

#[cfg(feature = "sim")]
mod generator {
    use super::*;
    use flatkv::{Durability, WriteBatch, WriteOptions};
    use std::os::unix::fs::FileExt;

    /// The history that ends in `content`.
    fn write_history(store: &Store) {
        for i in 0..30 {
            let text = value(&format!("first {i} "), 200 + i);
            store.put(format!("inline {i}").as_bytes(), &text).unwrap();
        }
        store.put(b"blob", &value("an older blob ", 2_000)).unwrap();
        store.put(b"blob", &value("a blob in several segments ", 9_000)).unwrap();
        store.put(b"blob overwritten", &value("large ", 3_000)).unwrap();
        store.put(b"blob overwritten", b"small now").unwrap();
        store.put(b"blob deleted", &value("gone ", 1_500)).unwrap();
        store.delete(b"blob deleted").unwrap();
        for i in 0..10 {
            let text = value(&format!("second {i} "), 10 * i);
            store.put(format!("inline {i}").as_bytes(), &text).unwrap();
            store.delete(format!("inline {}", i + 10).as_bytes()).unwrap();
        }
        store.put(b"batch deleted", b"soon").unwrap();
        let mut batch = WriteBatch::new();
        batch.put(b"batch put", b"from a batch").unwrap();
        batch.delete(b"batch deleted").unwrap();
        store.write(&batch).unwrap();
        store.put(b"large batch deleted", b"soon").unwrap();
        batch.clear();
        for i in 0..40 {
            batch.put(format!("large batch {i}").as_bytes(), &value(&format!("part {i} "), 90 + i)).unwrap();
        }
        batch.delete(b"large batch deleted").unwrap();
        store.write(&batch).unwrap();
    }

    fn create(path: &Path) -> Store {
        assert!(!path.exists(), "{} exists: fixtures are never replaced", path.display());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let store = flatkv::testing::options().media(MediaChoice::EmulatedPm).open(path).unwrap();
        write_history(&store);
        store
    }

    /// Nobody's process and boot belong into the repository; the record is outside all checksums.
    fn forget_holder(path: &Path) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0; 512], 2048).unwrap();
    }

    #[test]
    #[ignore = "once: the test above looks at what it wrote"]
    fn write_the_superblock_of_the_future() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FUTURE_SUPERBLOCK);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, future_superblock()).unwrap();
    }

    /// Writes the fixtures of the present format. Their bytes differ from run to run (uuid and hash seed).
    #[test]
    #[ignore = "make fixtures"]
    fn write_the_fixtures() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let store = create(&root.join(CLEAN));
        store.close().unwrap();
        drop(store);
        forget_holder(&root.join(CLEAN));
        let path = root.join(KILLED);
        let store = create(&path);
        let torn = value("torn ", 200);
        store.put_with(&WriteOptions::new().durability(Durability::Os), b"torn", &torn).unwrap();
        flatkv::testing::kill(&store);
        drop(store);
        // Of the last put, which nobody was promised, only a part had reached the medium.
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(torn.len()).position(|window| window == torn).unwrap();
        let lost = vec![0; torn.len() / 2];
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&lost, (at + torn.len() - lost.len()) as u64).unwrap();
        forget_holder(&path);
    }
}
