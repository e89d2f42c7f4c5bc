//! Pools that no store wrote, with checksums that fit: an error or a correct open, never a panic, and nothing is written
//! that the next open would refuse.

use crate::checksum::SegmentSeed;
use crate::error::Error;
use crate::format::{
    BlobDescriptor, Chunk, FOOTER_BYTES, Footer, FrameBuilder, FrameHeader, FrameKind, OpKind, OpSpec,
    SEGMENT_BODY_OFFSET, STATE_WORD_OFFSET, SegmentHeader, SegmentState, StateWord,
};
use crate::media::Media;
use crate::media::sim::{SimKind, SimMedia};
use crate::store::Store;
use crate::sync::Arc;
use crate::testing;
use crate::types::{KeyspaceId, SegmentSlot, Seq};
use crate::write_batch::WriteBatch;

const HEAD_BYTES: u64 = 8192;
const SEGMENT_BYTES: u64 = 4096;
const CAPACITY_BYTES: u64 = 1 << 20;

/// The bytes of a pool, to be changed.
struct Forgery {
    image: Vec<u8>,
}

/// A segment of it.
#[derive(Clone, Copy)]
struct Segment {
    base: u64,
    seed: SegmentSeed,
    state: SegmentState,
}

fn open(media: &Arc<SimMedia>) -> crate::error::Result<Store> {
    testing::open_on(Arc::clone(media) as Arc<dyn Media>, testing::options())
}

impl Forgery {
    /// A pool with several sealed segments, in which every key `0..60` has its number as its value.
    fn of_a_pool() -> Forgery {
        let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
        let store = open(&media).expect("a fresh pool");
        for number in 0..60_u8 {
            store.put(&[number], &[number; 100]).expect("room");
        }
        testing::kill(&store);
        Forgery { image: media.view() }
    }

    fn segments(&self) -> Vec<Segment> {
        let starts = (HEAD_BYTES..self.image.len() as u64).step_by(SEGMENT_BYTES as usize);
        let segment = |(slot, base): (usize, u64)| {
            let bytes = &self.image[base as usize..];
            let uuid = bytes[8..24].try_into().expect("sixteen bytes");
            let header = SegmentHeader::decode(bytes, uuid, SegmentSlot(slot as u32))?;
            let at = STATE_WORD_OFFSET as usize;
            let word = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let state = StateWord::decode(word)?.state;
            Some(Segment { base, seed: SegmentSeed::new(uuid, header.id), state })
        };
        starts.enumerate().filter_map(segment).collect()
    }

    fn in_state(&self, state: SegmentState) -> Segment {
        self.segments().into_iter().find(|segment| segment.state == state).expect("the pool has one")
    }

    /// Where the frames of a segment end.
    fn tail_of(&self, segment: Segment) -> u64 {
        let frame = |at: &u64| FrameHeader::decode(&self.image[*at as usize..], segment.seed, *at);
        let places = (segment.base + SEGMENT_BODY_OFFSET..segment.base + SEGMENT_BYTES).step_by(64);
        places
            .filter_map(|at| frame(&at).map(|frame| at + u64::from(frame.len)))
            .last()
            .expect("it has frames")
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.image[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// A frame of one put; returns where it ends.
    fn put_frame(&mut self, segment: Segment, at: u64, base_seq: Seq, key: &[u8], value: &[u8]) -> u64 {
        self.put_op(
            segment,
            at,
            base_seq,
            &OpSpec { kind: OpKind::Put, key, value, moved: None, keyspace: KeyspaceId::DEFAULT },
        )
    }

    fn put_op(&mut self, segment: Segment, at: u64, base_seq: Seq, op: &OpSpec<'_>) -> u64 {
        let mut frame = FrameBuilder::new(FrameKind::Ops);
        frame.push(op);
        let durable_end = (at - segment.base) as u32;
        let bytes = frame.finish(segment.seed, at, base_seq, durable_end).to_vec();
        self.put(at, &bytes);
        at + bytes.len() as u64
    }

    fn media(&self) -> Arc<SimMedia> {
        Arc::new(SimMedia::from_image(SimKind::Pm, &self.image, CAPACITY_BYTES))
    }
}

fn check_all(store: &Store) {
    for number in 0..60_u8 {
        assert_eq!(store.get(&[number]).expect("intact"), Some(vec![number; 100]), "key {number}");
    }
}

/// The bound of what a damaged segment may have held was computed from its footer without a look at the number.
#[test]
fn a_footer_with_the_last_of_all_stamps_opens_without_a_panic() {
    for max_seq in [Seq(u64::MAX), Seq::END, Seq::LAST] {
        let mut forged = Forgery::of_a_pool();
        let sealed = forged.in_state(SegmentState::Sealed);
        let at = sealed.base + SEGMENT_BYTES - FOOTER_BYTES;
        let footer = Footer::decode(&forged.image[at as usize..], sealed.seed, at).expect("it is sealed");
        let footer = Footer { max_seq, ..footer };
        forged.put(at, &footer.encode(sealed.seed, at));
        let media = forged.media();
        for _ in 0..3 {
            let store = open(&media).expect("a footer is not needed");
            check_all(&store);
            store.put(b"more", b"value").expect("room");
            testing::kill(&store);
        }
    }
}

/// With damage the floor of stamps rises. Beyond the last stamp it wrapped around, or a footer was written that the next
/// open refused; a large batch that was refused left a stamp behind that the marks of `close` then carried.
#[test]
fn a_pool_whose_stamps_are_used_up_serves_reads_refuses_writes_and_closes() {
    for is_damaged in [false, true] {
        let mut forged = Forgery::of_a_pool();
        let head = forged.in_state(SegmentState::Active);
        let mut at = forged.tail_of(head);
        if is_damaged {
            let hole = at;
            at = forged.put_frame(head, at, Seq(Seq::LAST.0 - (1 << 20)), b"lost", &[1; 50]);
            forged.image[hole as usize + 40..at as usize].fill(0xEE);
        }
        forged.put_frame(head, at, Seq::LAST, b"last", b"value");
        let media = forged.media();
        for round in 0..4 {
            let store = open(&media).expect("a whole frame");
            assert_eq!(store.get(b"last").expect("intact"), Some(b"value".to_vec()), "round {round}");
            if !is_damaged {
                check_all(&store);
            }
            let mut large = WriteBatch::new();
            (0..60_u8).for_each(|number| large.put(&[number], &[1; 100]).expect("a small value"));
            for refused in [store.put(b"key", b"value"), store.write(&large)] {
                assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
            }
            store.health().expect("nothing was changed");
            if round % 2 == 0 { store.close().expect("close") } else { testing::kill(&store) }
        }
    }
}

/// Appending keeps room for the filter over all keys. Sealing a head in which somebody else had not was a failed assertion
/// in `open`.
#[test]
fn a_head_that_is_full_to_its_footer_is_sealed_without_a_filter() {
    let mut forged = Forgery::of_a_pool();
    let head = forged.in_state(SegmentState::Active);
    let (mut at, mut seq) = (forged.tail_of(head), Seq(1 << 30));
    while at + 64 <= head.base + SEGMENT_BYTES - FOOTER_BYTES {
        at = forged.put_frame(head, at, seq, &seq.0.to_le_bytes(), b"");
        seq = seq.step(8);
    }
    let media = forged.media();
    for _ in 0..3 {
        let store = open(&media).expect("whole frames");
        check_all(&store);
        assert_eq!(store.get(&(1_u64 << 30).to_le_bytes()).expect("intact"), Some(vec![]));
        testing::kill(&store);
    }
}

/// Overwriting an entry freed the extents that it names, whoever's they were: a failed assertion, or the extents of a live
/// value were given to the next one.
#[test]
fn extents_that_an_entry_names_but_does_not_own_are_not_freed_with_it() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media).expect("a fresh pool");
    store.put(b"owner", &[5; 2000]).expect("room");
    testing::kill(&store);
    let mut forged = Forgery { image: media.view() };
    let at = forged.image.windows(5).position(|bytes| bytes == b"owner").expect("it was written") + 5;
    let owned =
        BlobDescriptor::decode(&forged.image[at..at + BlobDescriptor::encoded_len(1)]).expect("one chunk");
    let chunk = owned.chunks[0];
    let head = forged.in_state(SegmentState::Active);
    let (mut at, mut seq) = (forged.tail_of(head), Seq(1 << 30));
    let elsewhere =
        [0, HEAD_BYTES + 512, chunk.offset - 512, chunk.offset + 512, CAPACITY_BYTES * 2, 1 << 43];
    let mut keys = Vec::new();
    for offset in std::iter::once(chunk.offset).chain(elsewhere) {
        let descriptor = BlobDescriptor { len: owned.len, chunks: vec![Chunk { offset, ..chunk }] }.encode();
        let key = format!("named {offset}").into_bytes();
        let op = OpSpec {
            kind: OpKind::PutBlob,
            key: &key,
            value: &descriptor,
            moved: None,
            keyspace: KeyspaceId::DEFAULT,
        };
        at = forged.put_op(head, at, seq, &op);
        seq = seq.step(8);
        keys.push(key);
    }
    let media = forged.media();
    let store = open(&media).expect("whole frames");
    for key in &keys {
        let found = store.get(key);
        assert!(matches!(&found, Ok(Some(_)) | Err(Error::Corrupted { .. })), "{found:?}");
        store.put(key, &[6; 1500]).expect("room");
        store.sync().expect("the medium works");
        let owner = store.get(b"owner");
        assert!(
            matches!(&owner, Ok(Some(value)) if *value == [5; 2000]) || is_corrupted(&owner),
            "{owner:?}"
        );
        assert_eq!(store.get(key).expect("just written"), Some(vec![6; 1500]));
    }
    store.put(b"owner", &[7; 2000]).expect("room");
    store.sync().expect("the medium works");
    for key in &keys {
        assert_eq!(store.get(key).expect("intact"), Some(vec![6; 1500]));
    }
    assert_eq!(store.get(b"owner").expect("cured"), Some(vec![7; 2000]));
    store.close().expect("close");
}

fn is_corrupted<T>(found: &Result<T, Error>) -> bool {
    matches!(found, Err(Error::Corrupted { .. }))
}

/// The descriptor may rot between open and the write that replaces it.
#[test]
fn extents_that_a_rotten_descriptor_names_are_not_freed() {
    let media = Arc::new(SimMedia::new(SimKind::Pm, CAPACITY_BYTES));
    let store = open(&media).expect("a fresh pool");
    store.put(b"rotten", &[5; 2000]).expect("room");
    store.put(b"intact", &[6; 2000]).expect("room");
    let image = media.view();
    let at = image.windows(6).position(|bytes| bytes == b"rotten").expect("it was written") + 6;
    let other = image.windows(6).position(|bytes| bytes == b"intact").expect("it was written") + 6;
    let len = BlobDescriptor::encoded_len(1);
    media.write(at as u64, &image[other..other + len]).expect("simulated");
    assert!(is_corrupted(&store.get(b"rotten")));
    for round in 0..4 {
        store.put(b"rotten", &[round; 1500]).expect("room");
        store.sync().expect("the medium works");
        assert_eq!(store.get(b"intact").expect("intact"), Some(vec![6; 2000]));
    }
    store.put(b"intact", &[1; 2000]).expect("room");
    store.sync().expect("the medium works");
    store.close().expect("close");
}
