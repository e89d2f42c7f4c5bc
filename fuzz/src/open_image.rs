//! Opens a damaged or forged pool, as a medium of either kind, and works on whatever opens.
//!
//! An input is: a byte that chooses a base image (or that the rest is the image), a byte of switches, a byte that says
//! which checksums are made right at the end, and changes. P9: any content gives an error or a correct open.

use super::image::{self, BASES, BODY, HEADER, PAGE, Parts};
use super::input::Input;
use flatkv::testing::Media;
use flatkv::testing::sim::{SimKind, SimMedia};
use flatkv::{Error, Options, Result, Store, WriteBatch};
use std::sync::Arc;

/// No input makes a larger image.
const IMAGE_BYTES_MAX: usize = 256 << 10;
/// What a pool may grow to while it is worked on.
const CAPACITY_BYTES: u64 = 1 << 20;

const STATES: [u16; 6] = [0x0F0F, 0x33CC, 0x5A69, 0x9696, 0xC3F0, 0];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let base = input.byte();
    let switches = input.byte();
    let sealed = Parts(input.byte());
    let bytes = match BASES.get(usize::from(base)) {
        Some(bytes) => changed(bytes, sealed, &mut input),
        None => whole_pages(input.rest()),
    };
    check(bytes, switches);
}

fn whole_pages(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len().min(IMAGE_BYTES_MAX)].to_vec();
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    bytes
}

/// The base image with the input's changes.
pub fn changed(base: &[u8], sealed: Parts, input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        change(&mut bytes, image::geometry(base), input);
    }
    image::reseal(&mut bytes, sealed);
    bytes
}

fn change(bytes: &mut Vec<u8>, (head, segment): (usize, usize), input: &mut Input<'_>) {
    let slots = bytes.len().saturating_sub(head) / segment;
    let slot = |number: u8| head + usize::from(number) % slots.max(1) * segment;
    match input.byte() % 12 {
        0 => {
            let at = usize::from(input.u16());
            image::put(bytes, at, &[input.byte()]);
        }
        1 => {
            let at = usize::from(input.u16()) / 4 * 4;
            image::put(bytes, at, &(input.number() as u32).to_le_bytes());
        }
        2 => {
            let at = usize::from(input.u16()) / 8 * 8;
            image::put(bytes, at, &input.number().to_le_bytes());
        }
        3 => superblock_field(bytes, input),
        4 => {
            let base = slot(input.byte());
            segment_field(bytes, base, input);
        }
        5 => {
            let base = slot(input.byte());
            digest_field(bytes, base, input);
        }
        6 | 7 => {
            let all = image::frames(bytes, head, segment, slots);
            let number = usize::from(input.byte());
            if !all.is_empty() {
                frame_field(bytes, all[number % all.len()].0, input);
            }
        }
        8 => {
            let base = slot(input.byte());
            let fields = [(16, 8), (24, 8), (32, 8), (40, 8), (48, 4), (52, 4), (56, 4), (64, 8)];
            let (at, len) = fields[usize::from(input.byte()) % fields.len()];
            image::put(bytes, base + segment - 512 + at, &input.number().to_le_bytes()[..len]);
        }
        9 => {
            // Bytes of one place in another: lines, or whole segments.
            let (from, to, lines) = (
                usize::from(input.u16()) * 8 / 64 * 64,
                usize::from(input.u16()) * 8 / 64 * 64,
                input.byte(),
            );
            let len = if lines == 0xFF { segment } else { usize::from(lines) * 64 };
            if let Some(copied) = bytes.get(from..from.saturating_add(len)).map(<[u8]>::to_vec) {
                image::put(bytes, to, &copied);
            }
        }
        10 => {
            let pages = usize::from(input.byte()) % 32;
            bytes.resize(pages * PAGE, 0);
        }
        _ => {
            // Lines of one byte: zeroes, 0xFF, or an endless row of small frames, digests, whatever it makes.
            let (at, lines, value) = (usize::from(input.u16()), usize::from(input.byte()), input.byte());
            image::put(bytes, at / 64 * 64, &vec![value; lines * 64]);
        }
    }
    bytes.truncate(IMAGE_BYTES_MAX);
}

fn superblock_field(bytes: &mut [u8], input: &mut Input<'_>) {
    let fields =
        [(8, 4), (12, 4), (16, 8), (24, 8), (32, 8), (64, 8), (72, 8), (80, 8), (88, 4), (96, 8), (152, 8)];
    let choice = usize::from(input.byte());
    let value = input.number().to_le_bytes();
    let (at, len) = fields[choice % fields.len()];
    for copy in [0, 4096] {
        if choice & 0x80 == 0 || copy == 0 {
            image::put(bytes, copy + at, &value[..len]);
        }
    }
}

fn segment_field(bytes: &mut [u8], base: usize, input: &mut Input<'_>) {
    match input.byte() % 8 {
        0 => image::put(bytes, base + 24, &input.number().to_le_bytes()),
        1 => image::put(bytes, base + 32, &input.number().to_le_bytes()),
        2 => image::put(bytes, base + 48, &[input.byte()]),
        3 => image::put(bytes, base + 49, &[input.byte() % 6]),
        4 => image::put(bytes, base + 56, &(input.number() as u32).to_le_bytes()),
        5 => {
            let state = STATES[usize::from(input.byte()) % STATES.len()];
            image::put(bytes, base + HEADER + 6, &state.to_le_bytes());
        }
        6 => {
            let id = input.number();
            image::put(bytes, base + HEADER + 1, &id.to_le_bytes()[..5]);
            // Mostly with the header, which has to agree.
            image::put(bytes, base + 24, &id.to_le_bytes());
        }
        // Reserved bytes.
        _ => image::put(bytes, base + 40 + usize::from(input.byte() % 24), &[input.byte()]),
    }
}

fn digest_field(bytes: &mut [u8], base: usize, input: &mut Input<'_>) {
    let digest = base + BODY;
    match input.byte() % 8 {
        0 => image::put(bytes, digest + 16, &input.number().to_le_bytes()),
        1 => image::put(bytes, digest + 32, &input.number().to_le_bytes()),
        2 => image::put(bytes, digest + 48, &input.number().to_le_bytes()),
        3 => {
            let count = input.number() as u32;
            image::put(bytes, digest + 40, &count.to_le_bytes());
            let len = (64 + u64::from(count) * 16).next_multiple_of(64) as u32;
            image::put(bytes, digest + 44, &len.to_le_bytes());
        }
        4 => {
            let (entry, value) = (usize::from(input.byte() % 32), input.number() as u32);
            image::put(bytes, digest + 64 + entry * 16, &value.to_le_bytes());
        }
        5 => {
            let (entry, value) = (usize::from(input.byte() % 32), input.number());
            image::put(bytes, digest + 64 + entry * 16 + 8, &value.to_le_bytes());
        }
        _ => {
            let (entry, which) = (usize::from(input.byte() % 32), usize::from(input.byte() % 2));
            image::put(bytes, digest + 64 + entry * 16 + 4 + which, &[input.byte()]);
        }
    }
}

fn frame_field(bytes: &mut [u8], frame: usize, input: &mut Input<'_>) {
    match input.byte() % 8 {
        0 => image::put(bytes, frame + 8, &input.number().to_le_bytes()),
        1 => image::put(bytes, frame + 16, &((input.number() as u32) & !63).to_le_bytes()),
        2 => image::put(bytes, frame + 20, &(input.number() as u32).to_le_bytes()),
        3 => image::put(bytes, frame + 24, &(input.number() as u16).to_le_bytes()),
        4 => image::put(bytes, frame + 26, &[input.byte() % 9]),
        5 => image::put(bytes, frame + 32, &[input.byte()]),
        6 => {
            let (at, value) = (usize::from(input.byte()), input.byte());
            image::put(bytes, frame + 32 + at, &[value]);
        }
        // Fields of a commit record or a blob descriptor, or eight bytes of an operation.
        _ => {
            let (at, value) = (usize::from(input.byte()), input.number());
            image::put(bytes, frame + 32 + at, &value.to_le_bytes());
        }
    }
}

/// How a store is opened.
fn options(switches: u8) -> Options {
    let mut options = flatkv::testing::options();
    if switches & 2 != 0 {
        options = options.read_only(true);
    }
    if switches & 4 != 0 {
        options.set("verify_reads", "false").expect("an option");
    }
    flatkv::testing::with_logs(options, if switches & 8 != 0 { 3 } else { 1 })
}

fn check(bytes: Vec<u8>, switches: u8) {
    let kind = if switches & 1 != 0 { SimKind::File } else { SimKind::Pm };
    let capacity = CAPACITY_BYTES.max(bytes.len() as u64);
    let media = Arc::new(SimMedia::from_image(kind, &bytes, capacity));
    let Ok(store) = open(&media, switches) else { return };
    read(&store);
    if switches & 2 != 0 {
        assert!(store.put(b"k", b"v").is_err(), "a read-only store takes no writes");
        return;
    }
    let worked = work(&store);
    if switches & 16 != 0 {
        flatkv::testing::kill(&store);
    } else if store.close().is_err() {
        return;
    }
    drop(store);
    let again = Arc::new(SimMedia::from_image(kind, &media.view(), capacity));
    let store = match open(&again, switches) {
        Ok(store) => store,
        // A forged pool may be as full as it can get.
        Err(Error::NoSpace { .. } | Error::Unsupported(_)) => return,
        Err(error) => panic!("opened, worked and ended well, and then: {error}"),
    };
    if worked.is_ok() {
        for (key, value) in MARKS {
            check_value(&store, key, Some(*value));
        }
        check_value(&store, b"gone", None);
    }
    read(&store);
}

/// What was acknowledged, or the answer that damage found at open does not allow to tell.
fn check_value(store: &Store, key: &[u8], expected: Option<&[u8]>) {
    match store.get(key) {
        Err(Error::Corrupted { .. }) => {}
        answer => assert_eq!(answer.expect("readable").as_deref(), expected, "{key:?}"),
    }
}

fn open(media: &Arc<SimMedia>, switches: u8) -> Result<Store> {
    let media: Arc<dyn Media> = media.clone();
    flatkv::testing::open_on(media, options(switches))
}

/// Keys of the base images, see `tests/corpus.rs`.
fn read(store: &Store) {
    let mut buffer = [0; 64];
    for i in 0..24_u8 {
        let key = [b'k', i];
        let got = store.get(&key);
        let exists = store.exists(&key);
        if let Ok(value) = &got {
            assert_eq!(exists.expect("what can be read exists or not"), value.is_some());
        }
        let _ = store.get_into(&key, &mut buffer);
        let _ = store.get_pinned(&key);
    }
    let _ = store.multi_get(&[b"k\x01", b"nowhere", b""]);
    assert!(serde_free(&store.stats_json()), "statistics are JSON");
}

fn serde_free(json: &str) -> bool {
    json.starts_with('{') && json.ends_with('}')
}

const MARKS: &[(&[u8], &[u8])] =
    &[(b"mark", b"one"), (b"k\x03", b"replaced"), (b"large", &[7; 5000]), (b"in batch", b"x")];

/// Everything that changes a store. Any call may be refused; none may panic.
fn work(store: &Store) -> Result<()> {
    store.put(b"gone", b"soon")?;
    for (key, value) in &MARKS[..3] {
        store.put(key, value)?;
    }
    store.delete(b"gone")?;
    let mut batch = WriteBatch::new();
    batch.put(b"in batch", b"x")?;
    batch.delete(b"k\x01")?;
    store.write(&batch)?;
    for i in 0..40_u8 {
        store.put(&[b'r', i], &[i; 200])?;
    }
    let ticket = store.put_async(b"later", b"now")?;
    store.wait(ticket)?;
    store.sync()
}
