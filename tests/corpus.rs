//! Replays every kept input of the fuzz targets, without libFuzzer: seeds, and what once failed.
//! `make fuzz` looks for more; see fuzz/README.md.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::testing::{Media, kill, open_on, options, with_logs};
use flatkv::{Durability, Store, WriteBatch, WriteOptions};
use std::path::PathBuf;
use std::sync::Arc;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// Runs a target on every file of its corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder("corpus").join(target))
        .expect("a corpus")
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "a target has seeds");
    for file in &files {
        let data = std::fs::read(file).expect("readable");
        let ran = std::panic::catch_unwind(|| run(&data));
        assert!(ran.is_ok(), "the input that failed: {}", file.display());
    }
}

#[test]
fn images() {
    replay("open_image", targets::open_image::run);
}

#[test]
fn decoders() {
    replay("decoders", targets::decoders::run);
}

#[test]
fn operations() {
    replay("ops", targets::ops::run);
}

#[test]
fn c_calls() {
    replay("capi", targets::capi::run);
}

/// The images that inputs start from still open, and sealing an intact image again changes nothing.
#[test]
fn base_images_are_pools() {
    for (number, image) in targets::image::BASES.iter().enumerate() {
        let kind = if number >= 3 { SimKind::File } else { SimKind::Pm };
        let media: Arc<dyn Media> = Arc::new(SimMedia::from_image(kind, image, 1 << 20));
        let store = open_on(media, options()).unwrap_or_else(|error| panic!("image {number}: {error}"));
        if number % 5 != 0 {
            assert_eq!(store.get(b"k\x02").unwrap().unwrap(), [2; 102], "image {number}");
            assert_eq!(store.get(b"k\x00").unwrap().unwrap(), [8; 5000], "image {number}");
            assert_eq!(store.get(b"k\x05").unwrap(), None, "image {number}");
            assert_eq!(store.get(b"b\x13").unwrap().unwrap(), [9; 300], "image {number}");
        }
        let mut again = image.to_vec();
        targets::image::reseal(&mut again, targets::image::Parts::ALL);
        let differing: Vec<usize> = (0..image.len()).filter(|&at| again[at] != image[at]).collect();
        assert!(differing.is_empty(), "image {number}: sealing changed the bytes at {differing:?}");
    }
}

/// Not an input of CI: wrote fuzz/images once. A new format gets new images, and the old ones stay.
#[test]
#[ignore = "writes fuzz/images"]
fn write_base_images() {
    let write = |name: &str, media: &SimMedia| {
        let mut image = media.view();
        image.truncate(media.len_bytes() as usize);
        std::fs::write(folder("images").join(name), image).unwrap();
    };
    for (name, kind) in [("empty.img", SimKind::Pm), ("file_empty.img", SimKind::File)] {
        let media = Arc::new(SimMedia::new(kind, 1 << 20));
        open_on(media.clone(), options_for(kind)).unwrap().close().unwrap();
        write(name, &media);
    }
    for (name, kind, closes) in [
        ("closed.img", SimKind::Pm, true),
        ("killed.img", SimKind::Pm, false),
        ("file_closed.img", SimKind::File, true),
        ("file_killed.img", SimKind::File, false),
    ] {
        let media = Arc::new(SimMedia::new(kind, 1 << 20));
        let store = open_on(media.clone(), with_logs(options_for(kind), 2)).unwrap();
        fill(&store);
        if closes {
            store.close().unwrap();
        } else {
            kill(&store);
        }
        write(name, &media);
    }
}

/// On files four sectors of a segment are spoken for, so the smallest ones hold no operation.
fn options_for(kind: SimKind) -> flatkv::Options {
    options().segment_size_bytes(if kind == SimKind::File { 8192 } else { 4096 })
}

/// Every kind of frame and of segment, live and dead entries, several rolls, both logs.
fn fill(store: &Store) {
    let os = WriteOptions::new().durability(Durability::Os);
    for round in 0..2_u8 {
        for i in 0..8_u8 {
            store.put(&[b'k', i], &vec![i; usize::from(round) + 101]).unwrap();
        }
    }
    store.put(b"k\x00", &[8; 5000]).unwrap();
    store.put(b"k\x06", &[6; 3000]).unwrap();
    store.put(b"k\x06", &[7; 2500]).unwrap();
    store.delete(b"k\x05").unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..20_u8 {
        batch.put(&[b'b', i], &[9; 300]).unwrap();
    }
    store.write(&batch).unwrap();
    // Two threads that follow each other have different home logs.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let work = || {
                let mut batch = WriteBatch::new();
                batch.put(b"k\x09", b"batch").unwrap();
                batch.delete(b"k\x07").unwrap();
                store.write(&batch).unwrap();
                store.put_with(&os, b"k\x0a", b"left in caches").unwrap();
                store.put(b"k\x0b", b"last").unwrap();
            };
            scope.spawn(work).join().unwrap();
        }
    });
    let ticket = store.put_async(b"k\x0c", b"asynchronous").unwrap();
    store.wait(ticket).unwrap();
}
