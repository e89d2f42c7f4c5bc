//! Pool images to start from, and [`reseal`]: what makes every checksum of a changed image right again, so that what
//! is fuzzed lies behind the checks and not before them.
//!
//! The offsets are those of `docs/FORMAT.md`, written down once more on purpose: an image is made from the outside.

use flatkv::testing::format::{
    BlobDescriptor, FRAME_HEADER_BYTES, FrameHeader, FrameKind, OpKind, Ops, SegmentId, SegmentSeed, crc32c,
    hash64,
};

/// Images that inputs name by number; `tests/corpus.rs` has the test that wrote them.
pub const BASES: &[&[u8]] = &[
    include_bytes!("../images/empty.img"),
    include_bytes!("../images/closed.img"),
    include_bytes!("../images/killed.img"),
    include_bytes!("../images/file_closed.img"),
    include_bytes!("../images/file_killed.img"),
    include_bytes!("../images/file_empty.img"),
];

pub const PAGE: usize = 4096;
pub const HEADER: usize = 256;
pub const BODY: usize = 512;
const SUPERBLOCKS: [usize; 2] = [0, 4096];
const SUPERBLOCK_SEED: u64 = 0x666C_6174_6B76_7362;
const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"FlatKV\x01\n");
const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"FkvSegm\x01");

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
}

pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(to) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        to.copy_from_slice(field);
    }
}

/// Bytes of the pool head and of a segment, as the image says if that can be, else as the base images have them.
pub fn geometry(image: &[u8]) -> (usize, usize) {
    let (head, segment) = (u64_at(image, 72) as usize, u64_at(image, 80) as usize);
    if segment.is_power_of_two()
        && (PAGE..=1 << 20).contains(&segment)
        && head.is_multiple_of(PAGE)
        && (2 * PAGE..=1 << 20).contains(&head)
    {
        return (head, segment);
    }
    (2 * PAGE, PAGE)
}

/// Which checksums are made right.
#[derive(Clone, Copy)]
pub struct Parts(pub u8);

impl Parts {
    pub const ALL: Parts = Parts(0xFF);

    fn has(self, bit: u8) -> bool {
        self.0 & 1 << bit != 0
    }
}

/// Makes the checksums of `parts` right.
pub fn reseal(image: &mut [u8], parts: Parts) {
    if parts.has(0) {
        for at in SUPERBLOCKS {
            if u64_at(image, at) == SUPERBLOCK_MAGIC
                && let Some(copy) = image.get_mut(at..at + 512)
            {
                let sum = hash64(SUPERBLOCK_SEED, &copy[..504]);
                put(copy, 504, &sum.to_le_bytes());
            }
        }
    }
    let mut uuid = [0; 16];
    let newer = usize::from(u64_at(image, 4096 + 64) > u64_at(image, 64));
    if let Some(bytes) = image.get(SUPERBLOCKS[newer] + 40..SUPERBLOCKS[newer] + 56) {
        uuid.copy_from_slice(bytes);
    }
    let (head, segment) = geometry(image);
    let slots = image.len().saturating_sub(head) / segment;
    for slot in 0..slots {
        reseal_segment(image, head + slot * segment, segment, &uuid, parts);
    }
    if parts.has(7) && image.len() > head {
        reseal_batches(image, head, segment, slots);
    }
}

fn seed_of(image: &[u8], base: usize, uuid: &[u8; 16]) -> SegmentSeed {
    SegmentSeed::new(uuid, SegmentId(u64_at(image, base + 24)))
}

fn reseal_segment(image: &mut [u8], base: usize, len: usize, uuid: &[u8; 16], parts: Parts) {
    if u64_at(image, base) != SEGMENT_MAGIC {
        return;
    }
    if parts.has(1) {
        put(image, base + 8, uuid);
        let sum = hash64(SEGMENT_MAGIC, &image[base..base + 248]);
        put(image, base + 248, &sum.to_le_bytes());
    }
    if parts.has(2) {
        let payload = u64_at(image, base + HEADER) & !0xFF;
        let check = u64::from(crc32c(&payload.to_le_bytes())) & 0xFF;
        if payload != 0 {
            put(image, base + HEADER, &(payload | check).to_le_bytes());
        }
    }
    let seed = seed_of(image, base, uuid);
    let mut at = BODY;
    if image[base + 49] == 1 {
        let digest_len = u32_at(image, base + BODY + 44) as usize;
        let is_digest = u32_at(image, base + BODY + 8) == u32::from_le_bytes(*b"Dgst");
        if is_digest && digest_len >= 64 && BODY + digest_len <= len {
            if parts.has(3) {
                let offset = base + BODY;
                let sum = hash64(seed.mask64(offset as u64), &image[offset + 8..offset + digest_len]);
                put(image, offset, &sum.to_le_bytes());
            }
            at = (BODY + digest_len).next_multiple_of(512);
        }
    }
    if image[base + 49] != 3 {
        reseal_frames(image, base, at, len, seed, uuid, parts);
    }
    let footer = base + len - 512;
    if parts.has(6) && u32_at(image, footer + 8) == u32::from_le_bytes(*b"Foot") {
        let (from, filter_len) =
            (base + u32_at(image, footer + 52) as usize, u32_at(image, footer + 56) as usize);
        if let Some(filter) = image.get(from..from.saturating_add(filter_len)) {
            let sum = hash64(seed.mask64(from as u64), filter);
            put(image, footer + 64, &sum.to_le_bytes());
        }
        let sum = hash64(seed.mask64(footer as u64), &image[footer + 8..footer + 128]);
        put(image, footer, &sum.to_le_bytes());
    }
}

/// Frames are where their lengths lead, and behind a line that is none.
fn reseal_frames(
    image: &mut [u8],
    base: usize,
    mut at: usize,
    len: usize,
    seed: SegmentSeed,
    uuid: &[u8; 16],
    parts: Parts,
) {
    while at + FRAME_HEADER_BYTES <= len - 512 {
        let offset = base + at;
        let Some(header) = FrameHeader::parse(&image[offset..base + len]) else {
            at += 64;
            continue;
        };
        if at + header.len as usize > len {
            at += 64;
            continue;
        }
        let frame = image[offset..offset + header.len as usize].to_vec();
        if parts.has(4) {
            for (op_at, op) in Ops::new(&frame, &header) {
                let op_offset = offset + op_at as usize;
                if op.kind() == OpKind::PutBlob {
                    reseal_chunks(image, op.value(), op_offset + op.footprint_before_value() as usize, uuid);
                }
                let before_value = op.footprint_before_value() as usize;
                let crc_at = before_value - op.key().len() - 4;
                let bytes = &image[op_offset..op_offset + before_value + op.value().len()];
                let whole = [&bytes[..crc_at], &bytes[crc_at + 4..]].concat();
                let crc = crc32c(&whole) ^ seed.mask32(op_offset as u64);
                put(image, op_offset + crc_at, &crc.to_le_bytes());
            }
        }
        if parts.has(5) {
            let crc = crc32c(&image[offset + 8..offset + 28]) ^ seed.mask32(offset as u64);
            put(image, offset + 28, &crc.to_le_bytes());
            let sum = hash64(seed.mask64(offset as u64), &image[offset + 8..offset + frame.len()]);
            put(image, offset, &sum.to_le_bytes());
        }
        at += frame.len();
    }
}

/// The crcs of a blob's pieces, in its descriptor.
fn reseal_chunks(image: &mut [u8], descriptor: &[u8], descriptor_at: usize, uuid: &[u8; 16]) {
    let Some(blob) = BlobDescriptor::decode(descriptor) else { return };
    let (head, segment) = geometry(image);
    for (i, chunk) in blob.chunks.iter().enumerate() {
        let (from, len) = (chunk.offset as usize, chunk.len as usize);
        let Some(bytes) = from.checked_add(len).and_then(|end| image.get(from..end)) else { continue };
        if from < head {
            continue;
        }
        let base = head + (from - head) / segment * segment;
        let crc = crc32c(bytes) ^ seed_of(image, base, uuid).mask32(chunk.offset);
        put(image, descriptor_at + 16 + i * 16 + 12, &crc.to_le_bytes());
    }
}

/// Frames of all segments: offset and header.
pub fn frames(image: &[u8], head: usize, segment: usize, slots: usize) -> Vec<(usize, FrameHeader)> {
    let mut found = Vec::new();
    for base in (0..slots).map(|slot| head + slot * segment) {
        let mut at = BODY;
        while at + FRAME_HEADER_BYTES <= segment - 512 {
            match FrameHeader::parse(&image[base + at..base + segment]) {
                Some(header) if at + header.len as usize <= segment => {
                    found.push((base + at, header));
                    at += header.len as usize;
                }
                _ => at += 64,
            }
        }
    }
    found
}

/// Commits of large batches name sums of the checksums of their parts, which have just been changed.
fn reseal_batches(image: &mut [u8], head: usize, segment: usize, slots: usize) {
    let all = frames(image, head, segment, slots);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&image[40..56]);
    for &(commit_at, commit) in all.iter().filter(|(_, header)| header.kind == FrameKind::BatchCommit) {
        let record = commit_at + FRAME_HEADER_BYTES;
        let batch = u64_at(image, record);
        let count = (u32_at(image, record + 8) as usize).min(commit.len as usize / 24);
        for entry in (0..count).map(|i| record + 16 + i * 24) {
            let id = u64_at(image, entry);
            let (mut bytes, mut sum) = (0_u64, 0_u64);
            for (at, part) in &all {
                let base = head + (at - head) / segment * segment;
                if part.kind == FrameKind::BatchPart
                    && part.base_seq.0 == batch
                    && u64_at(image, base + 24) == id
                {
                    bytes += u64::from(part.len);
                    sum ^= u64_at(image, *at);
                }
            }
            put(image, entry + 8, &bytes.to_le_bytes());
            put(image, entry + 16, &sum.to_le_bytes());
        }
        let base = head + (commit_at - head) / segment * segment;
        let seed = seed_of(image, base, &uuid);
        let end = commit_at + commit.len as usize;
        let sum = hash64(seed.mask64(commit_at as u64), &image[commit_at + 8..end]);
        put(image, commit_at, &sum.to_le_bytes());
    }
}
