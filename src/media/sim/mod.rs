//! The simulated medium of the crash tests (feature `sim`): it looks like persistent memory or like a file, writes down
//! everything that is done to it, and so can say which bytes any crash may leave.
//!
//! What it makes, and an engine must survive:
//!   - power cuts at every event, at the levels of [`Level`]; a fence covers only what *its* thread flushed before it
//!   - a killed process: the next one sees everything, and nothing more of it is durable ([`SimMedia::after_kill`])
//!   - a failed drain; on a file its pages are clean though not written, so that later drains do not write them
//!   - a failed write, partly done or not; a device that is full; unreadable ranges; a power cut while it grows
//!   - a power cut before a created pool has its name: there is no pool
//!
//! Flushes and drains can be skipped by [`Site`], so that a suite can prove that it notices each of them.
//! Deterministic when one thread uses it: nothing depends on time or addresses, and a new pool's uuid and hash seed come from
//! the options (`testing::with_seed`).

mod device;
mod events;
mod images;
mod replay;
mod spare;
#[cfg(test)]
mod tests;

pub use events::{Recording, SimKind};
pub use images::{CrashImage, ImageId, Images, Level, Seen};
pub use replay::{PageCache, Replay};

use crate::constants::{CACHE_LINE_BYTES, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::media::{FlushGranularity, Media, MediaKind, Region, Site};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, thread_number};
use crate::types::MediaRange;
use device::Device;
use events::{Base, Event, Log};
use spare::Spare;

/// A fault to be made later. `nth` counts from the call of [`SimMedia::inject`], 1 being the next; `times` it fails from
/// there on, `u64::MAX` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A drain fails with `EIO`.
    Drain {
        /// Which drain.
        nth: u64,
        /// How many fail.
        times: u64,
    },
    /// A write, write through or word store fails.
    Write {
        /// Which write.
        nth: u64,
        /// How many fail.
        times: u64,
        /// How, e.g. `EIO` or `ENOSPC`.
        errno: i32,
        /// Bytes that are written nevertheless (none of a word).
        kept_bytes: usize,
    },
    /// The code that drains panics, as a bug would. Once.
    PanicInDrain {
        /// Which drain.
        nth: u64,
    },
    /// The code that reads panics. Once.
    PanicInRead {
        /// Which call of read.
        nth: u64,
    },
    /// Growing fails with `NoSpace`.
    Grow {
        /// Which call.
        nth: u64,
        /// How many fail.
        times: u64,
    },
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, Default)]
struct Countdown {
    calls: u64,
    times: u64,
}

impl Countdown {
    fn strikes(&mut self) -> bool {
        if self.times == 0 {
            return false;
        }
        self.calls = self.calls.saturating_sub(1);
        if self.calls > 0 {
            return false;
        }
        if self.times != u64::MAX {
            self.times -= 1;
        }
        true
    }
}

const SITES_MAX: usize = 64;
/// See [`SimMedia::pause_before_events`].
const PAUSE: std::time::Duration = std::time::Duration::from_micros(20);

/// What was asked of the medium, failed and skipped calls included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimCounters {
    /// Plain stores.
    pub writes: u64,
    /// Stores past the caches.
    pub write_throughs: u64,
    /// Stores of one word.
    pub word_stores: u64,
    /// Bytes of all of them.
    pub bytes_written: u64,
    /// Calls of flush.
    pub flushes: u64,
    /// Calls of drain.
    pub drains: u64,
    /// Calls of grow and allocate.
    pub grows: u64,
    /// Ranges given back.
    pub punches: u64,
    /// Calls of shrink.
    pub shrinks: u64,
    flushes_by_site: [u64; SITES_MAX],
    drains_by_site: [u64; SITES_MAX],
}

impl Default for SimCounters {
    fn default() -> Self {
        SimCounters {
            writes: 0,
            write_throughs: 0,
            word_stores: 0,
            bytes_written: 0,
            flushes: 0,
            drains: 0,
            grows: 0,
            punches: 0,
            shrinks: 0,
            flushes_by_site: [0; SITES_MAX],
            drains_by_site: [0; SITES_MAX],
        }
    }
}

impl SimCounters {
    /// Flushes at one site.
    pub fn flushes_at(&self, site: Site) -> u64 {
        self.flushes_by_site[site as usize]
    }

    /// Drains at one site.
    pub fn drains_at(&self, site: Site) -> u64 {
        self.drains_by_site[site as usize]
    }
}

#[derive(Debug, Default)]
struct Faults {
    drain: Countdown,
    write: Countdown,
    write_errno: i32,
    write_kept_bytes: usize,
    grow: Countdown,
    panic_in_drain: Countdown,
    panic_in_read: Countdown,
    unreadable: Vec<MediaRange>,
    skipped: Option<Site>,
    write_through_is_write: bool,
}

#[derive(Debug)]
struct State {
    log: Log,
    prelude: usize,
    /// Lines in which the region differs from `base`, one bit each.
    touched: Vec<u64>,
    /// Numbers of threads in the order in which they came.
    threads: Vec<usize>,
    counters: SimCounters,
    faults: Faults,
    power: bool,
}

/// A simulated medium. See the module.
pub struct SimMedia {
    kind: SimKind,
    capacity: u64,
    len: AtomicU64,
    base: Arc<Base>,
    published: bool,
    /// Present until drop gives it back for reuse.
    region: Option<Arc<Region>>,
    state: Mutex<State>,
    pauses: AtomicBool,
    /// Asked by scans.
    pub device: Device,
}

impl SimMedia {
    /// An empty medium that can grow to `capacity_bytes`, under no name: until [`Media::publish`] a power cut leaves
    /// nothing at all.
    pub fn new(kind: SimKind, capacity_bytes: u64) -> SimMedia {
        let mut media = SimMedia::from_image(kind, &[], capacity_bytes);
        media.published = false;
        media
    }

    /// An empty medium that is where it is, as a device is: a power cut during creation leaves half a pool.
    pub fn new_in_place(kind: SimKind, capacity_bytes: u64) -> SimMedia {
        SimMedia::from_image(kind, &[], capacity_bytes)
    }

    /// A medium that durably holds `image`.
    ///
    /// # Panics
    /// If `image` is no whole number of pages or exceeds the capacity.
    pub fn from_image(kind: SimKind, image: &[u8], capacity_bytes: u64) -> SimMedia {
        SimMedia::start(kind, capacity_bytes, Arc::new(Base::new(kind, image.to_vec())), image.len() as u64)
    }

    /// The image that this medium started from, with `rot` in place of its bytes: durable, as a decaying cell leaves it.
    /// Costs what the image differs from the last one on this thread.
    pub fn rotten(&self, rot: &[(u64, &[u8])]) -> SimMedia {
        let len = self.base.bytes.len() as u64;
        let media = SimMedia::start(self.kind, self.capacity, Arc::clone(&self.base), len);
        {
            let mut state = media.state.lock();
            for (at, bytes) in rot {
                let bytes = state.log.keep(bytes);
                state.log.events.push(Event::Origin { at: *at, bytes });
            }
            media.play_prelude(&mut state);
        }
        media
    }

    /// The medium that a power cut left. Costs what the image differs from the last one on this thread.
    pub fn from_crash(image: &CrashImage<'_>) -> SimMedia {
        let recording = image.replay.recording();
        if !image.replay.is_published() {
            return SimMedia::new(recording.kind, recording.capacity);
        }
        let media = SimMedia::start(
            recording.kind,
            recording.capacity,
            Arc::clone(image.replay.durable()),
            image.len,
        );
        {
            let mut state = media.state.lock();
            media.forget_behind(&mut state, image.len);
            if image.len != media.base.bytes.len() as u64 {
                state.log.events.push(Event::GrowEnd { len: image.len });
            }
            let mut end = u64::MAX;
            for (at, atom) in image.atoms() {
                let span = state.log.keep(atom);
                match state.log.events.last_mut() {
                    Some(Event::Origin { bytes, .. }) if at == end => bytes.len += span.len,
                    _ => state.log.events.push(Event::Origin { at, bytes: span }),
                }
                end = at + atom.len() as u64;
            }
            media.play_prelude(&mut state);
        }
        media
    }

    /// The medium as the next process finds it if this one is killed at the point that `replay` has reached: it sees
    /// what was written, and what is pending stays pending.
    pub fn after_kill(replay: &Replay<'_>, cache: PageCache) -> SimMedia {
        let recording = replay.recording();
        if !replay.is_published() {
            return SimMedia::new(recording.kind, recording.capacity);
        }
        let len = replay.durable().bytes.len() as u64;
        let media = SimMedia::start(recording.kind, recording.capacity, Arc::clone(replay.durable()), len);
        {
            let mut state = media.state.lock();
            let stores = replay.pending_stores(cache);
            let failed_drain = Event::Drain { thread: 0, site: Site::SyncDrain, failed: true };
            let lost = stores.lost.iter().map(Some).chain((!stores.lost.is_empty()).then_some(None));
            for store in lost.chain(stores.live.iter().map(Some)) {
                let event = match store {
                    None => failed_drain,
                    Some((_, store)) => {
                        let bytes = state.log.keep(&store.bytes);
                        Event::Store { at: store.at, bytes, thread: 0, through: store.through }
                    }
                };
                state.log.events.push(event);
            }
            state.log.events.push(Event::Kill);
            media.play_prelude(&mut state);
        }
        media
    }

    fn start(kind: SimKind, capacity: u64, base: Arc<Base>, len: u64) -> SimMedia {
        assert!(len.is_multiple_of(PAGE_BYTES), "an image has whole pages, not {len} bytes");
        assert!(
            len <= capacity && base.bytes.len() as u64 <= capacity,
            "an image of {len} bytes exceeds {capacity}"
        );
        let spare = Spare::take(capacity, &base);
        let state = State {
            log: spare.log,
            prelude: 0,
            touched: spare.touched,
            threads: Vec::new(),
            counters: SimCounters::default(),
            faults: Faults::default(),
            power: true,
        };
        SimMedia {
            kind,
            capacity,
            len: AtomicU64::new(len),
            base,
            published: true,
            region: Some(spare.region),
            state: Mutex::new(state),
            pauses: AtomicBool::new(false),
            device: Device::default(),
        }
    }

    /// The region is zero from `len` on, as whatever is added there is.
    fn forget_behind(&self, state: &mut State, len: u64) {
        let end = self.len_bytes().max(self.base.bytes.len() as u64);
        spare::touch(&mut state.touched, len, end.saturating_sub(len));
        spare::zero(self.region(), len, end.saturating_sub(len));
    }

    /// Makes the region what the events so far say.
    fn play_prelude(&self, state: &mut State) {
        let State { log, touched, .. } = state;
        for event in &log.events {
            if let Event::Origin { at, bytes } | Event::Store { at, bytes, .. } = *event {
                spare::touch(touched, at, u64::from(bytes.len));
                self.region().copy_in(at, log.get(bytes));
            }
        }
        state.prelude = state.log.events.len();
    }

    /// Which medium it is.
    pub fn sim_kind(&self) -> SimKind {
        self.kind
    }

    /// Events so far: the crash point "now".
    pub fn event_count(&self) -> usize {
        self.state.lock().log.events.len()
    }

    /// What was asked of it since it was made or last told to forget.
    pub fn counters(&self) -> SimCounters {
        self.state.lock().counters.clone()
    }

    /// Sets the counters to zero and returns what they were.
    pub fn take_counters(&self) -> SimCounters {
        std::mem::take(&mut self.state.lock().counters)
    }

    /// A copy of everything so far.
    pub fn recording(&self) -> Recording {
        let state = self.state.lock();
        self.recorded(state.log.clone(), state.prelude)
    }

    /// Ends the run: takes the recording, and from now on every write, drain and growth fails, so that a store that is
    /// dropped later changes nothing.
    pub fn power_off(&self) -> Recording {
        let mut state = self.state.lock();
        state.power = false;
        let log = std::mem::take(&mut state.log);
        self.recorded(log, state.prelude)
    }

    fn recorded(&self, log: Log, prelude: usize) -> Recording {
        Recording {
            kind: self.kind,
            capacity: self.capacity,
            base: Arc::clone(&self.base),
            log,
            prelude,
            published: self.published,
        }
    }

    /// Everything the process sees, durable or not.
    pub fn view(&self) -> Vec<u8> {
        let all = MediaRange::new(0, self.len_bytes());
        self.region().bytes(all).expect("the region holds the whole medium").to_vec()
    }

    /// Makes a fault happen later; replaces an earlier one of its kind.
    pub fn inject(&self, fault: Fault) {
        let faults = &mut self.state.lock().faults;
        match fault {
            Fault::Drain { nth, times } => faults.drain = Countdown { calls: nth, times },
            Fault::PanicInDrain { nth } => faults.panic_in_drain = Countdown { calls: nth, times: 1 },
            Fault::PanicInRead { nth } => faults.panic_in_read = Countdown { calls: nth, times: 1 },
            Fault::Grow { nth, times } => faults.grow = Countdown { calls: nth, times },
            Fault::Write { nth, times, errno, kept_bytes } => {
                faults.write = Countdown { calls: nth, times };
                faults.write_errno = errno;
                faults.write_kept_bytes = kept_bytes;
            }
        }
    }

    /// [`Media::read`] fails with `EIO` on every range that touches `range`. The region goes on showing the bytes.
    pub fn make_unreadable(&self, range: MediaRange) {
        self.state.lock().faults.unreadable.push(range);
    }

    /// From now on flushes and drains at `site` do nothing.
    pub fn skip_site(&self, site: Option<Site>) {
        self.state.lock().faults.skipped = site;
    }

    /// From now on bytes written through stay in the caches: the mutant of a missing flush where there is no flush.
    pub fn skip_write_through(&self, skip: bool) {
        self.state.lock().faults.write_through_is_write = skip;
    }

    /// From now on each event waits a moment first, so that calls of several threads overlap as they do on a slow device.
    pub fn pause_before_events(&self) {
        self.pauses.store(true, Ordering::Relaxed);
    }

    fn pause(&self) {
        if self.pauses.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
    }

    fn store(&self, at: u64, bytes: &[u8], how: How) -> Result<()> {
        self.pause();
        let mut state = self.state.lock();
        let state = &mut *state;
        match how {
            How::Plain => state.counters.writes += 1,
            How::Through => state.counters.write_throughs += 1,
            How::Word => state.counters.word_stores += 1,
        }
        assert!(
            at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.len_bytes()),
            "a write of {} bytes at {at} is past the {} bytes of the medium",
            bytes.len(),
            self.len_bytes()
        );
        state.counters.bytes_written += bytes.len() as u64;
        state.check_power("write")?;
        let mut written = bytes;
        let failed = state.faults.write.strikes();
        if failed {
            let kept = if how == How::Word { 0 } else { state.faults.write_kept_bytes };
            written = &bytes[..bytes.len().min(kept)];
        }
        if !written.is_empty() {
            let thread = state.thread();
            let through =
                how == How::Through && self.kind == SimKind::Pm && !state.faults.write_through_is_write;
            let bytes = state.log.keep(written);
            state.log.events.push(Event::Store { at, bytes, thread, through });
            spare::touch(&mut state.touched, at, written.len() as u64);
            match <[u8; 8]>::try_from(written) {
                Ok(word) if how == How::Word => self.region().store_word(at, u64::from_le_bytes(word)),
                _ => self.region().copy_in(at, written),
            }
        }
        if failed { Err(Error::from_errno("simulated write", state.faults.write_errno)) } else { Ok(()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Plain,
    Through,
    Word,
}

impl State {
    fn thread(&mut self) -> u16 {
        let number = thread_number();
        let known = self.threads.iter().position(|thread| *thread == number);
        known.unwrap_or_else(|| {
            self.threads.push(number);
            self.threads.len() - 1
        }) as u16
    }

    fn check_power(&self, what: &str) -> Result<()> {
        if self.power {
            Ok(())
        } else {
            Err(Error::from_errno(format!("simulated {what} without power"), libc::EIO))
        }
    }
}

impl Drop for SimMedia {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(region) = self.region.take() {
            Spare::give_back(Spare {
                region,
                capacity: self.capacity,
                base_id: self.base.id,
                base_len: self.base.bytes.len(),
                touched: std::mem::take(&mut state.touched),
                log: std::mem::take(&mut state.log),
            });
        }
    }
}

impl Media for SimMedia {
    fn is_cached(&self, _offset: u64) -> bool {
        self.device.is_cached()
    }

    fn read_ahead(&self, _range: MediaRange) {
        self.device.read_ahead();
    }

    fn kind(&self) -> MediaKind {
        MediaKind::Sim
    }

    fn why(&self) -> &str {
        match self.kind {
            SimKind::Pm => "a test asked for simulated persistent memory",
            SimKind::File => "a test asked for a simulated file",
        }
    }

    fn region(&self) -> &Arc<Region> {
        self.region.as_ref().expect("taken only by drop")
    }

    fn granularity(&self) -> FlushGranularity {
        match self.kind {
            SimKind::Pm => FlushGranularity::CacheLine,
            SimKind::File => FlushGranularity::File,
        }
    }

    fn len_bytes(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn len_bytes_max(&self) -> u64 {
        self.capacity
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.store(at, bytes, How::Plain)
    }

    fn write_through(&self, at: u64, bytes: &[u8]) -> Result<()> {
        assert!(
            at.is_multiple_of(CACHE_LINE_BYTES) && (bytes.len() as u64).is_multiple_of(CACHE_LINE_BYTES),
            "{} bytes at {at} are not whole lines",
            bytes.len()
        );
        self.store(at, bytes, How::Through)
    }

    fn write_word(&self, at: u64, word: u64) -> Result<()> {
        assert!(at.is_multiple_of(8), "a word at {at} is not aligned");
        self.store(at, &word.to_le_bytes(), How::Word)
    }

    fn flush(&self, site: Site, range: MediaRange) {
        assert!(range.end() <= self.len_bytes(), "a flush of {range:?} is past the medium");
        self.pause();
        let mut state = self.state.lock();
        state.counters.flushes += 1;
        state.counters.flushes_by_site[site as usize] += 1;
        if state.power && state.faults.skipped != Some(site) {
            let thread = state.thread();
            state.log.events.push(Event::Flush { range, thread, site });
        }
    }

    fn drain(&self, site: Site) -> Result<()> {
        self.pause();
        let mut state = self.state.lock();
        state.counters.drains += 1;
        state.counters.drains_by_site[site as usize] += 1;
        state.check_power("drain")?;
        if state.faults.skipped == Some(site) {
            return Ok(());
        }
        assert!(!state.faults.panic_in_drain.strikes(), "a simulated bug in drain");
        let thread = state.thread();
        let failed = state.faults.drain.strikes();
        state.log.events.push(Event::Drain { thread, site, failed });
        if failed { Err(Error::from_errno("simulated drain", libc::EIO)) } else { Ok(()) }
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let range = MediaRange::new(at, into.len() as u64);
        let bad = {
            let mut state = self.state.lock();
            assert!(!state.faults.panic_in_read.strikes(), "a simulated bug in read");
            state.faults.unreadable.iter().any(|bad| bad.offset < range.end() && at < bad.end())
        };
        let readable = at.checked_add(range.len).is_some_and(|end| end <= self.len_bytes()) && !bad;
        match self.region().bytes(range).filter(|_| readable) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(Error::from_errno(format!("simulated read of {range:?}"), libc::EIO)),
        }
        Ok(())
    }

    fn grow(&self, len_bytes: u64) -> Result<()> {
        assert!(len_bytes.is_multiple_of(PAGE_BYTES), "a medium has whole pages, not {len_bytes} bytes");
        let mut state = self.state.lock();
        state.counters.grows += 1;
        state.check_power("growth")?;
        let old = self.len_bytes();
        if len_bytes <= old {
            return Ok(());
        }
        let fails = state.faults.grow.strikes() || len_bytes > self.capacity;
        state.log.events.push(Event::GrowBegin { to: len_bytes });
        state.log.events.push(Event::GrowEnd { len: if fails { old } else { len_bytes } });
        if fails {
            return Err(Error::NoSpace {
                needed_bytes: len_bytes - old,
                free_bytes: self.capacity - old.min(self.capacity),
                limit: "the simulated device".into(),
            });
        }
        self.len.store(len_bytes, Ordering::Release);
        Ok(())
    }

    fn punch(&self, ranges: &[MediaRange]) -> Result<()> {
        self.pause();
        let mut state = self.state.lock();
        let state = &mut *state;
        state.check_power("hole")?;
        for range in ranges {
            assert!(range.end() <= self.len_bytes(), "a hole at {range:?} is past the medium");
            state.counters.punches += 1;
            let bytes = state.log.keep(&vec![0; range.len as usize]);
            let thread = state.thread();
            state.log.events.push(Event::Store { at: range.offset, bytes, thread, through: false });
            spare::touch(&mut state.touched, range.offset, range.len);
            spare::zero(self.region(), range.offset, range.len);
            state.log.events.push(Event::Given { range: *range });
        }
        Ok(())
    }

    /// Nothing changes: the bytes are zero already, durably. But the device may be full.
    fn allocate(&self, _: &[MediaRange]) -> Result<()> {
        let mut state = self.state.lock();
        state.counters.grows += 1;
        state.check_power("growth")?;
        if !state.faults.grow.strikes() {
            return Ok(());
        }
        Err(Error::NoSpace { needed_bytes: PAGE_BYTES, free_bytes: 0, limit: "the simulated device".into() })
    }

    fn shrink(&self, len_bytes: u64) -> Result<()> {
        assert!(len_bytes.is_multiple_of(PAGE_BYTES), "a medium has whole pages, not {len_bytes} bytes");
        let mut state = self.state.lock();
        state.check_power("cut")?;
        assert!(len_bytes <= self.len_bytes(), "a cut to {len_bytes} bytes lengthens");
        state.counters.shrinks += 1;
        state.log.events.push(Event::GrowBegin { to: len_bytes });
        self.forget_behind(&mut state, len_bytes);
        self.len.store(len_bytes, Ordering::Release);
        state.log.events.push(Event::GrowEnd { len: len_bytes });
        Ok(())
    }

    fn prefault(&self, _: MediaRange) {}

    fn publish(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.check_power("publication")?;
        if !self.published && !state.log.events.contains(&Event::Publish) {
            state.log.events.push(Event::Publish);
        }
        Ok(())
    }
}
