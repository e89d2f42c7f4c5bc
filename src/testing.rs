//! Stores on simulated media, for crash tests (feature `sim`). Not part of the stable interface.

#[cfg(all(test, feature = "sim"))]
use crate::engine::Engine;
use crate::error::Result;
use crate::format::HolderRecord;
#[cfg(all(test, feature = "sim"))]
use crate::index::hash::HashIndex;
use crate::options::Options;
use crate::store::Store;
use crate::sync::Arc;

pub use crate::checksum::CheckSite;
#[cfg(feature = "virtual-time")]
pub use crate::media::model;
#[cfg(feature = "sim")]
pub use crate::media::sim;
pub use crate::media::{CallFault, CallSite, FlushGranularity, Media, Site, set_call_fault_hook};
pub use crate::rules::Rule;
#[cfg(feature = "virtual-time")]
pub use crate::sync::virtual_time;
pub use crate::types::MediaRange;

/// The decoders and encoders of every structure on the medium, for fuzzing and for images made from the outside.
pub mod format {
    pub use crate::checksum::{SegmentSeed, crc32c, hash64};
    pub use crate::format::*;
    pub use crate::types::{LogId, SegmentId, SegmentSlot, Seq};
}

/// Options of a small pool with the same code: 4 KiB segments, 8 KiB head, one log, nothing in the background, and the same
/// uuid and hash seed in every run: what a simulation leaves depends on nothing but what is done to it.
pub fn options() -> Options {
    let mut options = Options::new().segment_size_bytes(4096).head_size_bytes(8192);
    options.background = false;
    options.logs = Some(1);
    with_seed(options, 0)
}

/// The same, for a new pool whose uuid and hash seed follow from `seed`.
pub fn with_seed(mut options: Options, seed: u64) -> Options {
    options.pool_seed = Some(seed);
    options
}

/// The same with `logs` logs.
pub fn with_logs(mut options: Options, logs: usize) -> Options {
    options.logs = Some(logs);
    options
}

/// The same with `streams` streams of survivors, one or two; a pool as small as this has one by itself.
pub fn with_survivor_streams(mut options: Options, streams: usize) -> Options {
    options.survivor_streams = Some(streams);
    options
}

/// The engine of a new pool of `bytes` that grows as it needs to, with its threads or without.
#[cfg(all(test, feature = "sim"))]
pub(crate) fn engine(bytes: u64, background: bool) -> Arc<Engine<HashIndex>> {
    let mut options = options();
    options.background = background;
    engine_on(Arc::new(sim::SimMedia::new(sim::SimKind::Pm, bytes)), options)
}

/// The engine of a new pool on `media`.
#[cfg(all(test, feature = "sim"))]
pub(crate) fn engine_on(media: Arc<sim::SimMedia>, options: Options) -> Arc<Engine<HashIndex>> {
    Engine::open(media, true, options, &holder(), HashIndex::with_expected).expect("a fresh pool")
}

/// The same in every run: a simulation depends on nothing but its seed.
fn holder() -> HolderRecord {
    HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] }
}

/// Opens the pool on `media`, formatting it if the medium is empty.
///
/// # Errors
/// As [`Store::open`].
pub fn open_on(media: Arc<dyn Media>, options: Options) -> Result<Store> {
    options.validate()?;
    let is_new = media.len_bytes() == 0;
    Store::open_on(media, is_new, options, &holder())
}

/// Proves the newest frames of all logs durable, as happens when they are idle.
///
/// # Errors
/// `Io`: the store is poisoned. `Closed`.
#[cfg(feature = "sim")]
pub fn mark_idle(store: &Store) -> Result<()> {
    store.mark_idle()
}

/// One pass of the cleaner, over segments that nobody would clean yet, too. Returns how many it emptied.
///
/// # Errors
/// `Io`: the store is poisoned. `Closed`, `Poisoned`, `ReadOnly`.
#[cfg(feature = "sim")]
pub fn clean(store: &Store) -> Result<usize> {
    store.clean(crate::engine::Aim::Anything)
}

/// One pass over segments that are worth it, which leaves the digest that lets go of them to whoever rolls next.
///
/// # Errors
/// As [`clean`].
#[cfg(feature = "sim")]
pub fn clean_without_roll(store: &Store) -> Result<usize> {
    store.clean(crate::engine::Aim::Tidy)
}

/// What the cleaner does when nobody has written for a while: lets go of segments that hold next to nothing. True if nothing
/// is left to do.
#[cfg(feature = "sim")]
pub fn tidy_up(store: &Store) -> bool {
    store.tidy_up()
}

/// All free slots go back to the file system, the reserve too, though the pool will need some again. True if there were any.
///
/// # Errors
/// `Closed`, `Poisoned`, `ReadOnly`.
#[cfg(feature = "sim")]
pub fn give_back(store: &Store) -> Result<bool> {
    store.give_back()
}

/// Ends cleaning in the background, so that a copy of the pool's file is an image that a kill could leave.
#[cfg(feature = "sim")]
pub fn stop_cleaning(store: &Store) {
    store.stop_cleaning();
}

/// Puts a whole mark in the place of the frame at `at`, if that is a part of a large batch: what nobody would do by
/// accident. `head_size_bytes` and `segment_size_bytes` are those of the pool.
#[cfg(feature = "sim")]
pub fn forge_mark(image: &mut [u8], at: u64, head_size_bytes: u64, segment_size_bytes: u64) -> bool {
    use crate::checksum::SegmentSeed;
    use crate::format::{FrameBuilder, FrameHeader, FrameKind};
    let base = ((at - head_size_bytes) / segment_size_bytes * segment_size_bytes + head_size_bytes) as usize;
    let uuid: &[u8; 16] = image[base + 8..base + 24].try_into().expect("sixteen bytes");
    let id = u64::from_le_bytes(image[base + 24..base + 32].try_into().expect("eight bytes"));
    let seed = SegmentSeed::new(uuid, crate::types::SegmentId(id));
    let found = FrameHeader::decode(&image[at as usize..], seed, at);
    let Some(header) = found.filter(|header| header.kind == FrameKind::BatchPart) else { return false };
    let mut mark = FrameBuilder::new(FrameKind::Mark);
    mark.pad(u64::from(header.len) - mark.len_bytes());
    let mark = mark.finish(seed, at, header.base_seq, header.durable_end);
    image[at as usize..][..mark.len()].copy_from_slice(mark);
    true
}

/// Skips a check of a checksum on this thread, or none: to prove that a suite notices.
#[cfg(feature = "sim")]
pub fn skip_check(site: Option<CheckSite>) {
    crate::checksum::mutants::skip(site);
}

/// Leaves out a rule of what readers are shown on this thread, or none: to prove that a suite notices.
pub fn leave_out(rule: Option<Rule>) {
    crate::rules::mutants::leave_out(rule);
}

/// Ends a store as a killed process would: nothing more is written.
pub fn kill(store: &Store) {
    store.abandon();
}
