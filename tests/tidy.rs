//! House rules that a compiler does not know: floors, rooms for unsafe code, where fences and layout live, what must not be
//! left behind. Reads the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Guide for a file's length; longer ones are printed, not refused.
const FILE_LINES_GUIDE: usize = 700;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "target" | "corpus" | "artifacts") {
            collect(&path, ending, into);
        } else if name.ends_with(ending) {
            into.push(path);
        }
    }
}

/// Sources below `dir`: path from the root, and text.
fn sources(dir: &str, ending: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    collect(&root().join(dir), ending, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("sources are text"))
    };
    paths.into_iter().map(read).collect()
}

/// The module below `src/` that a file belongs to.
fn module(path: &str) -> &str {
    let rest = path.trim_start_matches("src/");
    rest.split(['/', '.']).next().unwrap_or(rest)
}

fn floor(module: &str) -> Option<u32> {
    Some(match module {
        "types" | "constants" | "error" | "checksum" | "sync" | "epoch" | "panics" | "rules" => 0,
        "media" | "format" => 1,
        "space" => 2,
        "oplog" | "index" => 3,
        "engine" => 4,
        "store" | "write_batch" | "options" | "holder" => 5,
        "capi" | "testing" => 6,
        _ => return None,
    })
}

/// Floors whose modules do not know each other. The words (0) and the public interface (5) do.
const STRANGERS: &[u32] = &[1, 3];

/// Uses that look upwards or sideways, each for a reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("engine", "options", "options are words: the engine reads what callers chose"),
    ("engine", "write_batch", "a batch is words, too: its key and value checks are those of single puts"),
    ("oplog", "index", "the entry reader answers the index's questions about keys (trait LogKeys)"),
    ("index", "media", "durable tokens only, see the_index_knows_only_the_durable_tokens"),
];

/// Code without comments and without a file's unit tests.
fn code_of(text: &str) -> Vec<&str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

fn is_test_file(path: &str) -> bool {
    ["tests", "conformance"].iter().any(|word| path.contains(word))
}

#[test]
fn a_file_uses_only_lower_floors_or_its_own() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src", ".rs") {
        let here = module(&path);
        if here == "lib" || is_test_file(&path) {
            continue;
        }
        let level =
            floor(here).unwrap_or_else(|| panic!("{path}: module {here} has no floor in tests/tidy.rs"));
        for line in code_of(&text) {
            for used in line.split("crate::").skip(1) {
                let there = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                // Names re-exported by lib.rs are the public interface; only capi and testing may use them.
                let Some(other) = floor(there) else { continue };
                let is_excepted = EXCEPTIONS.iter().any(|(from, to, _)| *from == here && *to == there);
                let is_stranger = other == level && STRANGERS.contains(&level);
                if there != here && (other > level || is_stranger) && !is_excepted {
                    wrong.push(format!(
                        "{path} (floor {level}) uses {there} (floor {other}): {}",
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_index_knows_only_the_durable_tokens_of_the_media() {
    for (path, text) in sources("src/index", ".rs") {
        for line in code_of(&text).iter().filter(|line| line.contains("crate::media")) {
            assert!(line.contains("crate::media::durable"), "{path}: {line}");
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_every_block_is_proved() {
    let rooms = [
        "src/media/region.rs",
        "src/media/persist.rs",
        "src/media/sys.rs",
        "src/index/arena.rs",
        "src/capi/",
        "src/checksum/crc.rs",
        "src/epoch/barrier.rs",
    ];
    for (path, text) in sources("src", ".rs") {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let is_code = !line.trim_start().starts_with("//");
            let has_unsafe =
                line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if !is_code || !has_unsafe || line.contains("\"") {
                continue;
            }
            assert!(
                rooms.iter().any(|room| path.starts_with(room)),
                "{path}:{}: unsafe outside its rooms",
                i + 1
            );
            if line.contains("unsafe {") || line.contains("unsafe impl") {
                let before = lines[i.saturating_sub(12)..=i].join("\n");
                assert!(before.contains("SAFETY:"), "{path}:{}: no SAFETY comment", i + 1);
            }
        }
    }
}

#[test]
fn fences_and_flush_instructions_live_in_persist() {
    for (path, text) in sources("src", ".rs") {
        if path == "src/media/persist.rs" {
            continue;
        }
        // A prefetch is a hint, on which nothing depends.
        let is_hint = |line: &&str| path == "src/index/arena.rs" && line.contains("asm!(\"prefetchw ");
        for line in code_of(&text).into_iter().filter(|line| !is_hint(line)) {
            for word in ["_mm_sfence", "_mm_clflush", "_mm_stream", "asm!(", "\"clwb", "dsb "] {
                assert!(!line.contains(word), "{path}: {word} belongs into src/media/persist.rs: {line}");
            }
        }
    }
}

#[test]
fn bytes_on_the_medium_are_laid_out_in_format_only() {
    // Elsewhere these turn a word into bytes for the kernel or a hash, or read the one word that a survey looks at.
    let excepted = ["src/engine/recovery", "src/media/", "src/capi/", "src/testing", "src/checksum/crc.rs"];
    for (path, text) in sources("src", ".rs") {
        if path.starts_with("src/format/")
            || is_test_file(&path)
            || excepted.iter().any(|start| path.starts_with(start))
        {
            continue;
        }
        for line in code_of(&text) {
            assert!(!line.contains("to_le_bytes") && !line.contains("from_le_bytes"), "{path}: {line}");
            assert!(!line.contains("_ne_bytes"), "{path}: byte order of the machine: {line}");
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let places = [
        ("src", ".rs"),
        ("tests", ".rs"),
        ("benches", ".rs"),
        ("examples", ".rs"),
        ("examples", ".c"),
        ("tests", ".c"),
    ];
    for (path, text) in places.iter().flat_map(|(dir, ending)| sources(dir, ending)) {
        if path == "tests/tidy.rs" {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            for word in ["FIXME", "TODO", "XXX", "dbg!(", "todo!(", "unimplemented!("] {
                assert!(!line.contains(word), "{path}:{}: {word}", i + 1);
            }
            for machine in ["/root/", "/home/", "/work/"] {
                assert!(!line.contains(machine), "{path}:{}: a path of one machine", i + 1);
            }
        }
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a guide, not a rule")]
fn long_files_are_named() {
    for (path, text) in sources("src", ".rs") {
        let lines = text.lines().count();
        if lines > FILE_LINES_GUIDE {
            eprintln!("{path} has {lines} lines (guide: {FILE_LINES_GUIDE})");
        }
    }
}

#[test]
fn every_option_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for name in flatkv::OPTION_NAMES {
        assert!(readme.contains(&format!("| `{name}` |")), "README.md has no row for option {name}");
    }
}

/// `sys.rs` wraps the bare calls, `persist.rs` is who calls them, and above the media only the tokens flush and drain.
#[test]
fn syncs_are_called_by_persist_and_drains_by_the_tokens() {
    const RULES: &[(&[&str], &[&str])] = &[
        (&["libc::fdatasync", "libc::fsync", "libc::msync"], &["src/media/sys.rs"]),
        (&["sys::sync_data(", "sys::sync_all("], &["src/media/persist.rs"]),
        (&["media.flush(", "media.drain(", "media().flush(", "media().drain("], &["src/media/"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources("src", ".rs").iter().filter(|(path, _)| !is_test_file(path)) {
        for line in code_of(text) {
            for (words, homes) in RULES {
                let is_home = homes.iter().any(|home| path.starts_with(home));
                if !is_home && words.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{path}: {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
