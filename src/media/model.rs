//! A model of persistent memory in virtual time (feature `virtual-time`): a **simulation** of media that are not here, under
//! the real code above. Bytes lie in ordinary memory; what is modelled is how long writers wait for the medium.
//!
//! The medium takes *units* (Optane: 256 bytes) one after the other, each in the same time: that is its write bandwidth, and
//! all writers share it. A drain sends the units whose lines its thread wrote or flushed since its last drain. It returns when the medium
//! has accepted them: after its latency, or later if more units wait than its buffer takes.
//!
//!   - a unit of which a drain has some lines takes as long as a whole one
//!   - lines of a unit in one drain are one unit. Across drains they are so only if the unit is still open
//!     ([`Model::open_units`]); with none open each drain of a line takes a whole unit
//!   - reads cost nothing here: what the index and the log cost a put is in [`Costs`]

use super::{FlushGranularity, Media, MediaKind, Region, Site};
use crate::constants::CACHE_LINE_BYTES;
use crate::error::{Error, Result};
use crate::sync::Arc;
use crate::sync::virtual_time::{self, Costs};
use crate::types::MediaRange;
use rustix_futex_sync::Mutex;
use std::collections::{BTreeSet, VecDeque};

/// What is the medium's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Bytes that it writes at once.
    pub unit_bytes: u64,
    /// Picoseconds for each: its write bandwidth.
    pub unit_ps: u64,
    /// From a drain to its return where nothing waits.
    pub drain_ns: u64,
    /// Storing a line past the caches, before the drain.
    pub line_ns: u64,
    /// Units that it takes in before drains wait.
    pub buffered_units: u64,
    /// Units, the last written, to which later drains may add lines for nothing.
    pub open_units: usize,
}

/// A medium and the machine around it.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// The medium.
    pub model: Model,
    /// The machine.
    pub costs: Costs,
}

/// Measured where the decision record says so: what a put costs apart from the medium, and a sleeper's way back.
const MACHINE: Costs = Costs {
    own_line_ns: 10,
    hand_over_ns: 60,
    spin_ns: 2_000,
    wake_ns: 5_000,
    wake_call_ns: 1_500,
    call_ns: 45,
    look_ns: 40,
    entry_ns: 25,
    frame_ns: 30,
    frame_line_ns: 5,
    publish_ns: 60,
};

impl Preset {
    /// One DIMM of Optane persistent memory: 2.3 GB/s in units of 256 bytes.
    pub const OPTANE: Preset = Preset {
        name: "optane-like, 1 DIMM",
        model: Model {
            unit_bytes: 256,
            unit_ps: 111_300,
            drain_ns: 90,
            line_ns: 8,
            buffered_units: 64,
            open_units: 0,
        },
        costs: MACHINE,
    };

    /// Six of them, interleaved: 13.9 GB/s.
    pub const OPTANE_6: Preset = Preset {
        name: "optane-like, 6 DIMMs",
        model: Model { unit_ps: 18_400, buffered_units: 6 * 64, ..Preset::OPTANE.model },
        costs: MACHINE,
    };

    /// One DIMM whose buffer puts lines of later drains to the units it holds: what sequential writers see.
    pub const OPTANE_COMBINING: Preset = Preset {
        name: "optane-like, 1 DIMM, combining across drains",
        model: Model { open_units: 64, ..Preset::OPTANE.model },
        costs: MACHINE,
    };

    /// Memory behind CXL with a battery: lines of 64 bytes, 26 GB/s, a long way.
    pub const CXL: Preset = Preset {
        name: "cxl-like",
        model: Model {
            unit_bytes: 64,
            unit_ps: 2_460,
            drain_ns: 250,
            line_ns: 8,
            buffered_units: 64,
            open_units: 0,
        },
        costs: MACHINE,
    };

    /// All of them.
    pub const ALL: [Preset; 4] = [Preset::OPTANE, Preset::OPTANE_6, Preset::OPTANE_COMBINING, Preset::CXL];
}

/// What the medium did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were drained.
    pub lines: u64,
    /// Units that they took.
    pub units: u64,
    /// Drains.
    pub drains: u64,
}

#[derive(Default)]
struct State {
    /// Of each actor: lines on their way since its last drain.
    on_the_way: Vec<BTreeSet<u64>>,
    open: VecDeque<u64>,
    /// When the medium is through with all it was sent, in picoseconds.
    free_ps: u64,
    tally: Tally,
}

/// The medium.
pub struct ModelMedia {
    region: Arc<Region>,
    model: Model,
    capacity: u64,
    why: String,
    state: Mutex<State>,
}

impl ModelMedia {
    /// An empty one.
    ///
    /// # Errors
    /// `Io`: no memory.
    pub fn new(preset: &Preset, capacity_bytes: u64) -> Result<ModelMedia> {
        let why = format!("a simulation in virtual time: {}", preset.name);
        let region = Arc::new(Region::anonymous(0)?);
        Ok(ModelMedia { region, model: preset.model, capacity: capacity_bytes, why, state: Mutex::default() })
    }

    /// What it did since the last call.
    pub fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.state.lock().tally)
    }

    /// Nothing waits, as before the first drain: clocks of new actors begin at 0.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        state.free_ps = 0;
        state.on_the_way.clear();
    }

    fn send(&self, range: MediaRange) {
        let Some(actor) = virtual_time::actor() else { return };
        let lines = range.offset / CACHE_LINE_BYTES..range.end().div_ceil(CACHE_LINE_BYTES);
        virtual_time::spend((lines.end - lines.start) * self.model.line_ns);
        let mut state = self.state.lock();
        if state.on_the_way.len() <= actor {
            state.on_the_way.resize_with(actor + 1, BTreeSet::new);
        }
        state.on_the_way[actor].extend(lines);
    }

    fn check(&self, at: u64, bytes: &[u8]) {
        let end = at.checked_add(bytes.len() as u64);
        assert!(end.is_some_and(|end| end <= self.region.len()), "a write is past the medium");
    }
}

impl State {
    /// The units that so many lines take, those that are open left out.
    fn take_units(&mut self, lines: &BTreeSet<u64>, model: &Model) -> u64 {
        let mut last = None;
        let mut taken = 0;
        for unit in lines.iter().map(|line| line * CACHE_LINE_BYTES / model.unit_bytes) {
            if last.replace(unit) == Some(unit) {
                continue;
            }
            match self.open.iter().position(|open| *open == unit) {
                Some(place) => drop(self.open.remove(place)),
                None => taken += 1,
            }
            self.open.push_back(unit);
            self.open.drain(..self.open.len().saturating_sub(model.open_units));
        }
        taken
    }

    /// When the medium has accepted `units` that are sent at `now_ns`.
    fn accept(&mut self, units: u64, now_ns: u64, model: &Model) -> u64 {
        self.free_ps = self.free_ps.max(now_ns * PS_PER_NS) + units * model.unit_ps;
        let room_ps = self.free_ps.saturating_sub(model.buffered_units * model.unit_ps);
        (now_ns + model.drain_ns).max(room_ps.div_ceil(PS_PER_NS))
    }
}

const PS_PER_NS: u64 = 1000;

impl Media for ModelMedia {
    /// What it models.
    fn kind(&self) -> MediaKind {
        MediaKind::Sim
    }

    fn why(&self) -> &str {
        &self.why
    }

    fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn granularity(&self) -> FlushGranularity {
        FlushGranularity::CacheLine
    }

    fn len_bytes(&self) -> u64 {
        self.region.len()
    }

    fn len_bytes_max(&self) -> u64 {
        self.capacity
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.check(at, bytes);
        self.region.copy_in(at, bytes);
        Ok(())
    }

    fn write_through(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write(at, bytes)?;
        self.send(MediaRange::new(at, bytes.len() as u64));
        Ok(())
    }

    fn write_word(&self, at: u64, word: u64) -> Result<()> {
        self.check(at, &[0; 8]);
        self.region.store_word(at, word);
        Ok(())
    }

    fn flush(&self, _site: Site, range: MediaRange) {
        self.send(range);
    }

    fn drain(&self, _site: Site) -> Result<()> {
        let Some(actor) = virtual_time::actor() else { return Ok(()) };
        virtual_time::turn();
        let mut state = self.state.lock();
        let lines = state.on_the_way.get_mut(actor).map(std::mem::take).unwrap_or_default();
        let units = state.take_units(&lines, &self.model);
        state.tally.lines += lines.len() as u64;
        state.tally.units += units;
        state.tally.drains += 1;
        let accepted_ns = state.accept(units, virtual_time::now_ns(), &self.model);
        drop(state);
        virtual_time::wait_until(accepted_ns);
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let range = MediaRange::new(at, into.len() as u64);
        let bytes = self.region.bytes(range).ok_or_else(|| Error::from_errno("read", libc::EIO))?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn grow(&self, len_bytes: u64) -> Result<()> {
        if len_bytes > self.capacity {
            let limit = "the modelled medium".to_string();
            let (needed_bytes, free_bytes) = (len_bytes - self.len_bytes(), self.capacity - self.len_bytes());
            return Err(Error::NoSpace { needed_bytes, free_bytes, limit });
        }
        self.region.grow_anonymous(len_bytes.max(self.region.len()))
    }

    fn punch(&self, _ranges: &[MediaRange]) -> Result<()> {
        Err(Error::Unsupported("the modelled medium has no holes".into()))
    }

    fn allocate(&self, _ranges: &[MediaRange]) -> Result<()> {
        Ok(())
    }

    fn shrink(&self, _len_bytes: u64) -> Result<()> {
        Err(Error::Unsupported("the modelled medium does not shrink".into()))
    }

    fn prefault(&self, _range: MediaRange) {}

    fn publish(&self) -> Result<()> {
        Ok(())
    }
}
