//! What a run did to the medium, in one global order: the redo log that crash images are made from.

use crate::media::Site;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::MediaRange;

/// Which medium is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimKind {
    /// Persistent memory: lines of 64 bytes reach the medium by flush and fence, or by themselves, in words of 8 bytes.
    Pm,
    /// A file: pages of 4 KiB reach the medium by `fdatasync`, or by themselves, in sectors of 512 bytes.
    File,
}

impl SimKind {
    /// The unit that tears: smaller parts of it are on the medium wholly or not at all.
    pub(super) fn atom_bytes(self) -> usize {
        match self {
            SimKind::Pm => 8,
            SimKind::File => crate::constants::SECTOR_BYTES as usize,
        }
    }

    /// The unit in which stores reach the medium in order: a cache line, or a page.
    pub(super) fn block_bytes(self) -> usize {
        self.atom_bytes() * ATOMS_PER_BLOCK
    }
}

/// Words of a line, and as it happens also sectors of a page.
pub(super) const ATOMS_PER_BLOCK: usize = 8;

const _: () = assert!(crate::constants::CACHE_LINE_BYTES == 8 * ATOMS_PER_BLOCK as u64);
const _: () =
    assert!(crate::constants::PAGE_BYTES == crate::constants::SECTOR_BYTES * ATOMS_PER_BLOCK as u64);

/// Bytes in the log's own buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// One thing that happened to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes in which the image that the run started from differs from its base.
    Origin { at: u64, bytes: Span },
    /// A store. `through`: past the caches, and covered by the thread's next drain.
    Store { at: u64, bytes: Span, thread: u16, through: bool },
    /// Write-back of the lines that `range` touches was started.
    Flush { range: MediaRange, thread: u16, site: Site },
    /// The thread waited. `failed`: nothing was made durable, on a file the pages are clean nevertheless.
    Drain { thread: u16, site: Site, failed: bool },
    /// The zeros that were stored to `range` before are what is there, durably: its bytes were given back.
    Given { range: MediaRange },
    /// The medium began to become `to` bytes long.
    GrowBegin { to: u64 },
    /// It is now `len` bytes long, durably; new bytes are zero.
    GrowEnd { len: u64 },
    /// A pool that was created under no name has its name now, durably.
    Publish,
    /// The process died. What was in caches stays there, and no fence of the next process covers it.
    Kill,
}

/// Events and the bytes they stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) events: Vec<Event>,
    pub(super) bytes: Vec<u8>,
}

impl Log {
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = u32::try_from(self.bytes.len()).expect("a simulated run stores less than 4 GiB");
        self.bytes.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    pub(super) fn get(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..][..span.len as usize]
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.bytes.clear();
    }
}

/// A durable image that others are described as differences from.
#[derive(Debug)]
pub(super) struct Base {
    /// Differs whenever the bytes differ. Only compared: nothing a run does depends on its value.
    pub(super) id: u64,
    pub(super) bytes: Vec<u8>,
    /// Sum of `atom_hash` over the bytes, plus a hash of the length.
    pub(super) hash: u64,
}

impl Base {
    pub(super) fn new(kind: SimKind, bytes: Vec<u8>) -> Base {
        let hash = image_hash(kind, &bytes);
        Base { id: Base::fresh_id(), bytes, hash }
    }

    /// Must be called before the bytes are changed.
    pub(super) fn fresh_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

impl Clone for Base {
    fn clone(&self) -> Self {
        Base { id: self.id, bytes: self.bytes.clone(), hash: self.hash }
    }
}

/// Hash of one atom at its place. Zeroes hash to zero, so that growing changes only the hash of the length.
pub(super) fn atom_hash(at: usize, atom: &[u8]) -> u64 {
    if let Ok(word) = <[u8; 8]>::try_from(atom) {
        let word = u64::from_le_bytes(word);
        if word == 0 {
            return 0;
        }
        let product =
            u128::from(word ^ 0x9E37_79B9_7F4A_7C15) * u128::from((at as u64) ^ 0xD6E8_FEB8_6659_FD93);
        return mix64(product as u64 ^ (product >> 64) as u64 ^ word.rotate_left(23));
    }
    if atom.iter().all(|byte| *byte == 0) { 0 } else { crate::checksum::hash64(at as u64, atom) }
}

/// Hash of a whole image: what deduplication compares.
pub(super) fn image_hash(kind: SimKind, bytes: &[u8]) -> u64 {
    let size = kind.atom_bytes();
    let atoms = bytes.chunks(size).enumerate().map(|(index, atom)| atom_hash(index * size, atom));
    atoms.fold(len_hash(bytes.len() as u64), u64::wrapping_add)
}

/// What a length adds to the hash of an image.
pub(super) fn len_hash(len: u64) -> u64 {
    mix64(len ^ 0xA076_1D64_78BD_642F)
}

/// A bijection without visible structure (the finalizer of splitmix64).
pub(super) fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A finished run: the image it started from and everything it did. Crash images come from a
/// [`Replay`](super::Replay) of it.
#[derive(Clone, Debug)]
pub struct Recording {
    pub(super) kind: SimKind,
    pub(super) capacity: u64,
    pub(super) base: Arc<Base>,
    pub(super) log: Log,
    /// Events that only describe the state the run started in.
    pub(super) prelude: usize,
    /// False if a crash at the first point leaves no pool at all.
    pub(super) published: bool,
}

impl Recording {
    /// Which medium it ran on.
    pub fn kind(&self) -> SimKind {
        self.kind
    }

    /// The crash points: point `p` lies behind the first `p` events, as counted by
    /// [`SimMedia::event_count`](super::SimMedia::event_count).
    pub fn points(&self) -> std::ops::RangeInclusive<usize> {
        self.prelude..=self.log.events.len()
    }

    /// The first point is where the run started.
    pub fn first_point(&self) -> usize {
        self.prelude
    }

    /// The last point is where the run ended.
    pub fn last_point(&self) -> usize {
        self.log.events.len()
    }

    /// One line about the event behind `point`, for a failure report.
    pub fn describe(&self, point: usize) -> String {
        match self.log.events.get(point) {
            None => "the end of the run".into(),
            Some(Event::Store { at, bytes, thread, through }) => {
                let how = if *through { "store through" } else { "store" };
                format!("{how} of {} bytes at {at:#x} by thread {thread}", bytes.len)
            }
            Some(Event::Flush { range, thread, site }) => {
                format!("flush {site:?} of {} bytes at {:#x} by thread {thread}", range.len, range.offset)
            }
            Some(event) => format!("{event:?}"),
        }
    }
}
