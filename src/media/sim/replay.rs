//! A walk over a recording: what is durable at each point, and what is pending.
//!
//! Invariants of [`Replay`]:
//!   - `durable` plus all pending changes is what the running process saw at the point
//!   - a change is dropped from its block exactly when it has become durable
//!   - only a file has `lost` changes: they were in a page when its `fdatasync` failed, so they are in the page cache,
//!     perhaps on the medium, and no later drain writes them unless their sector is stored to again

use super::events::{ATOMS_PER_BLOCK, Base, Event, Recording, SimKind, Span, atom_hash, len_hash};
use crate::sync::Arc;
use crate::types::MediaRange;
use std::collections::BTreeMap;

pub(super) const NONE: u32 = u32::MAX;

/// One atom got a new value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) atom: u8,
    /// Index of the value in `Replay::values`.
    pub(super) value: u32,
}

/// The part of one store that lies in one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// One past its last change.
    pub(super) end: u32,
    /// The atoms that it changed.
    pub(super) mask: u8,
    pub(super) through: bool,
    pub(super) event: u32,
}

/// Changes of one block that are not durable, in order.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) pieces: Vec<Piece>,
    pub(super) changes: Vec<Change>,
    /// Newest value of each atom, or `NONE`.
    pub(super) newest: [u32; ATOMS_PER_BLOCK],
}

impl Default for Pending {
    fn default() -> Self {
        Pending { pieces: Vec::new(), changes: Vec::new(), newest: [NONE; ATOMS_PER_BLOCK] }
    }
}

impl Pending {
    fn clear(&mut self) {
        self.pieces.clear();
        self.changes.clear();
        self.newest = [NONE; ATOMS_PER_BLOCK];
    }

    fn changes_before(&self, pieces: usize) -> &[Change] {
        let end = pieces.checked_sub(1).map_or(0, |last| self.pieces[last].end as usize);
        &self.changes[..end]
    }

    /// Forgets the first `count` pieces.
    fn drop_front(&mut self, count: usize) {
        let changes = self.changes_before(count).len();
        self.changes.drain(..changes);
        self.pieces.drain(..count);
        for piece in &mut self.pieces {
            piece.end -= changes as u32;
        }
        self.find_newest();
    }

    /// Forgets every change of the atoms in `mask`.
    fn drop_atoms(&mut self, mask: u8) {
        let mut kept = Vec::with_capacity(self.changes.len());
        let mut start = 0;
        for piece in &mut self.pieces {
            let changes = &self.changes[start..piece.end as usize];
            start = piece.end as usize;
            kept.extend(changes.iter().copied().filter(|change| mask & (1 << change.atom) == 0));
            piece.end = kept.len() as u32;
            piece.mask &= !mask;
        }
        self.pieces.retain(|piece| piece.mask != 0);
        self.changes = kept;
        self.find_newest();
    }

    fn find_newest(&mut self) {
        self.newest = [NONE; ATOMS_PER_BLOCK];
        for change in &self.changes {
            self.newest[change.atom as usize] = change.value;
        }
    }

    fn append(&mut self, later: &Pending) {
        let offset = self.changes.len() as u32;
        self.changes.extend_from_slice(&later.changes);
        self.pieces.extend(later.pieces.iter().map(|piece| Piece { end: piece.end + offset, ..*piece }));
        self.find_newest();
    }

    /// States at level A (`floor` 0) or D.
    pub(super) fn prefixes(&self, floor: usize) -> u64 {
        (self.pieces.len() - floor + 1) as u64
    }

    /// States at level B.
    pub(super) fn torn_prefixes(&self) -> u64 {
        1 + self.pieces.iter().map(|piece| (1 << piece.mask.count_ones()) - 1).sum::<u64>()
    }

    /// The `number`-th state of level B: so many whole pieces, and these atoms of the next.
    pub(super) fn torn_prefix(&self, mut number: u64) -> (usize, u8) {
        for (index, piece) in self.pieces.iter().enumerate() {
            let states = (1 << piece.mask.count_ones()) - 1;
            if number < states {
                return (index, spread(number as u8, piece.mask));
            }
            number -= states;
        }
        (self.pieces.len(), 0)
    }

    pub(super) fn apply(&self, pieces: usize, torn: u8, atoms: &mut [u32; ATOMS_PER_BLOCK]) {
        let whole = self.changes_before(pieces);
        for change in whole {
            atoms[change.atom as usize] = change.value;
        }
        if torn != 0 {
            for change in &self.changes[whole.len()..self.pieces[pieces].end as usize] {
                if torn & (1 << change.atom) != 0 {
                    atoms[change.atom as usize] = change.value;
                }
            }
        }
    }
}

/// The lowest bits of `bits` at the places where `mask` has ones.
fn spread(mut bits: u8, mask: u8) -> u8 {
    let mut spread = 0;
    for place in 0..8 {
        if mask & (1 << place) != 0 {
            spread |= (bits & 1) << place;
            bits >>= 1;
        }
    }
    spread
}

#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) live: Pending,
    /// See the invariants of the module.
    pub(super) lost: Pending,
    /// Atoms stored to since the last drain (files).
    pub(super) dirty: u8,
}

impl Block {
    pub(super) fn newest(&self, atom: usize) -> u32 {
        if self.live.newest[atom] != NONE { self.live.newest[atom] } else { self.lost.newest[atom] }
    }

    fn is_durable(&self) -> bool {
        self.live.pieces.is_empty() && self.lost.pieces.is_empty()
    }
}

/// Which of two views a process finds that starts after another was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// Everything the killed process wrote.
    Kept,
    /// Pages whose `fdatasync` failed were dropped and read again: they show what is on the medium.
    FailedPagesDropped,
}

/// A walk over the crash points of a recording.
#[derive(Debug)]
pub struct Replay<'r> {
    pub(super) recording: &'r Recording,
    pub(super) point: usize,
    pub(super) durable: Arc<Base>,
    pub(super) blocks: BTreeMap<u32, Block>,
    /// Values of changed atoms, and their hashes.
    pub(super) values: Vec<u8>,
    pub(super) hashes: Vec<u64>,
    /// By thread: a block, and the first event whose store to it the thread's next drain does not cover.
    pub(super) flushed: Vec<Vec<(u32, u32)>>,
    pub(super) growing_to: Option<u64>,
    pub(super) published: bool,
}

impl Recording {
    /// Starts at the first crash point.
    pub fn replay(&self) -> Replay<'_> {
        let mut replay = Replay {
            recording: self,
            point: 0,
            durable: Arc::clone(&self.base),
            blocks: BTreeMap::new(),
            values: Vec::new(),
            hashes: Vec::new(),
            flushed: Vec::new(),
            growing_to: None,
            published: self.published,
        };
        replay.advance_to(self.prelude);
        replay
    }
}

impl<'r> Replay<'r> {
    /// The point reached.
    pub fn point(&self) -> usize {
        self.point
    }

    pub(super) fn recording(&self) -> &'r Recording {
        self.recording
    }

    pub(super) fn durable(&self) -> &Arc<Base> {
        &self.durable
    }

    /// True unless the pool has no name yet, so that a crash leaves none.
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// Goes on to `point`.
    ///
    /// # Panics
    /// If `point` lies before the point reached or behind the end of the recording.
    pub fn advance_to(&mut self, point: usize) {
        assert!(point >= self.point, "a replay does not go back from {} to {point}", self.point);
        while self.point < point {
            self.step(self.recording.log.events[self.point]);
            self.point += 1;
        }
        if self.blocks.is_empty() {
            self.values.clear();
            self.hashes.clear();
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Origin { at, bytes } => self.origin(at, bytes),
            Event::Store { at, bytes, thread, through } => self.store(at, bytes, thread, through),
            Event::Flush { range, thread, .. } => self.flush(range, thread),
            Event::Drain { thread, failed, .. } => self.drain(thread, failed),
            Event::GrowBegin { to } => self.growing_to = Some(to),
            Event::GrowEnd { len } => {
                self.growing_to = None;
                if len != self.durable.bytes.len() as u64 {
                    self.set_len(len);
                }
            }
            Event::Given { range } => self.persist_all(range),
            Event::Publish => self.published = true,
            Event::Kill => self.flushed.iter_mut().for_each(Vec::clear),
        }
    }

    fn set_len(&mut self, len: u64) {
        let (size, kind) = (self.kind().block_bytes() as u64, self.kind());
        self.blocks.retain(|number, _| u64::from(*number) * size < len);
        let base = change(&mut self.durable);
        let old = base.bytes.len() as u64;
        if len < old {
            let gone = &base.bytes[len as usize..];
            let atoms = gone.chunks(kind.atom_bytes()).enumerate();
            let hash = atoms.map(|(i, atom)| atom_hash(len as usize + i * kind.atom_bytes(), atom));
            base.hash = base.hash.wrapping_sub(hash.fold(0, u64::wrapping_add));
        }
        base.bytes.resize(len as usize, 0);
        base.hash = base.hash.wrapping_sub(len_hash(old)).wrapping_add(len_hash(len));
    }

    /// Everything that is pending in whole blocks becomes durable, whoever flushed it.
    fn persist_all(&mut self, range: MediaRange) {
        let size = self.kind().block_bytes() as u64;
        let atom_bytes = self.kind().atom_bytes();
        let numbers = (range.offset / size) as u32..(range.end() / size) as u32;
        for number in numbers {
            let Some(block) = self.blocks.remove(&number) else { continue };
            for atom in (0..ATOMS_PER_BLOCK).filter(|atom| block.newest(*atom) != NONE) {
                let at = (number as usize * ATOMS_PER_BLOCK + atom) * atom_bytes;
                let value = block.newest(atom) as usize * atom_bytes;
                write_atom(change(&mut self.durable), at, &self.values[value..][..atom_bytes]);
            }
        }
    }

    pub(super) fn kind(&self) -> SimKind {
        self.recording.kind
    }

    fn origin(&mut self, at: u64, bytes: Span) {
        let bytes = self.recording.log.get(bytes);
        let size = self.kind().atom_bytes();
        let base = change(&mut self.durable);
        for (index, atom) in bytes.chunks(size).enumerate() {
            write_atom(base, at as usize + index * size, atom);
        }
    }

    fn store(&mut self, at: u64, bytes: Span, thread: u16, through: bool) {
        let recording = self.recording;
        let bytes = recording.log.get(bytes);
        let (size, block_size) = (self.kind().atom_bytes(), self.kind().block_bytes());
        let (start, end) = (at as usize, at as usize + bytes.len());
        let mut pos = start;
        while pos < end {
            let number = (pos / block_size) as u32;
            let block = self.blocks.entry(number).or_default();
            let block_end = end.min((number as usize + 1) * block_size);
            let mut mask = 0;
            while pos < block_end {
                let atom_at = pos - pos % size;
                let atom_end = block_end.min(atom_at + size);
                let atom = atom_at % block_size / size;
                let new = &bytes[pos - start..atom_end - start];
                let newest = block.newest(atom);
                let known = match newest {
                    NONE => &self.durable.bytes[atom_at..][..size],
                    value => &self.values[value as usize * size..][..size],
                };
                block.dirty |= 1 << atom;
                if known[pos - atom_at..][..new.len()] != *new {
                    let value = (self.values.len() / size) as u32;
                    match newest {
                        NONE => self.values.extend_from_slice(&self.durable.bytes[atom_at..][..size]),
                        old => self.values.extend_from_within(old as usize * size..(old as usize + 1) * size),
                    }
                    let content = &mut self.values[value as usize * size..];
                    content[pos - atom_at..][..new.len()].copy_from_slice(new);
                    self.hashes.push(atom_hash(atom_at, content));
                    block.live.changes.push(Change { atom: atom as u8, value });
                    block.live.newest[atom] = value;
                    mask |= 1 << atom;
                }
                pos = atom_end;
            }
            if mask != 0 {
                let end = block.live.changes.len() as u32;
                block.live.pieces.push(Piece { end, mask, through, event: self.point as u32 });
            }
            if block.is_durable() {
                self.blocks.remove(&number);
            } else if through {
                mark(&mut self.flushed, thread, number, self.point + 1);
            }
        }
    }

    fn flush(&mut self, range: MediaRange, thread: u16) {
        if self.kind() == SimKind::File || range.len == 0 {
            return;
        }
        let size = self.kind().block_bytes() as u64;
        let lines = (range.offset / size) as u32..=((range.end() - 1) / size) as u32;
        for (number, _) in self.blocks.range(lines) {
            mark(&mut self.flushed, thread, *number, self.point);
        }
    }

    fn drain(&mut self, thread: u16, failed: bool) {
        match self.kind() {
            SimKind::Pm => {
                let Some(flushed) = self.flushed.get_mut(thread as usize) else { return };
                for (number, before_event) in std::mem::take(flushed) {
                    if !failed {
                        self.persist_line(number, before_event);
                    }
                }
            }
            SimKind::File if failed => {
                for block in self.blocks.values_mut() {
                    block.lost.append(&block.live);
                    block.live.clear();
                    block.dirty = 0;
                }
            }
            SimKind::File => {
                let size = self.kind().atom_bytes();
                for (number, block) in &mut self.blocks {
                    for atom in (0..ATOMS_PER_BLOCK).filter(|atom| block.dirty & (1 << atom) != 0) {
                        let value = block.newest(atom) as usize;
                        if value != NONE as usize {
                            let at = (*number as usize * ATOMS_PER_BLOCK + atom) * size;
                            write_atom(change(&mut self.durable), at, &self.values[value * size..][..size]);
                        }
                    }
                    block.live.clear();
                    block.lost.drop_atoms(block.dirty);
                    block.dirty = 0;
                }
                self.blocks.retain(|_, block| !block.is_durable());
            }
        }
    }

    fn persist_line(&mut self, number: u32, before_event: u32) {
        let size = self.kind().atom_bytes();
        let Some(block) = self.blocks.get_mut(&number) else { return };
        let count = block.live.pieces.partition_point(|piece| piece.event < before_event);
        if count == 0 {
            return;
        }
        let mut atoms = [NONE; ATOMS_PER_BLOCK];
        block.live.apply(count, 0, &mut atoms);
        let base = change(&mut self.durable);
        for (atom, value) in atoms.iter().enumerate().filter(|(_, value)| **value != NONE) {
            let at = (number as usize * ATOMS_PER_BLOCK + atom) * size;
            write_atom(base, at, &self.values[*value as usize * size..][..size]);
        }
        block.live.drop_front(count);
        if block.is_durable() {
            self.blocks.remove(&number);
        }
    }

    /// The stores that are pending, as events that bring a new log into this state, ordered as they were made.
    pub(super) fn pending_stores(&self, cache: PageCache) -> PendingStores {
        let mut result = PendingStores::default();
        for (number, block) in &self.blocks {
            let mut known = [NONE; ATOMS_PER_BLOCK];
            if cache == PageCache::Kept || block.dirty != 0 {
                self.push_pieces(*number, &block.lost, &mut known, &mut result.lost);
            }
            self.push_pieces(*number, &block.live, &mut known, &mut result.live);
            for atom in (0..ATOMS_PER_BLOCK).filter(|atom| block.dirty & (1 << atom) != 0) {
                if block.live.newest[atom] == NONE && known[atom] != NONE {
                    result.live.push((NONE, self.slice(*number, atom, atom, &known, false)));
                }
            }
        }
        result.lost.sort_by_key(|(event, _)| *event);
        result.live.sort_by_key(|(event, _)| *event);
        result
    }

    fn push_pieces(
        &self,
        number: u32,
        pending: &Pending,
        known: &mut [u32; ATOMS_PER_BLOCK],
        into: &mut Vec<(u32, PendingStore)>,
    ) {
        let mut start = 0;
        for piece in &pending.pieces {
            for change in &pending.changes[start..piece.end as usize] {
                known[change.atom as usize] = change.value;
            }
            start = piece.end as usize;
            let (first, last) =
                (piece.mask.trailing_zeros() as usize, 7 - piece.mask.leading_zeros() as usize);
            into.push((piece.event, self.slice(number, first, last, known, piece.through)));
        }
    }

    fn slice(
        &self,
        number: u32,
        first: usize,
        last: usize,
        known: &[u32; ATOMS_PER_BLOCK],
        through: bool,
    ) -> PendingStore {
        let size = self.kind().atom_bytes();
        let at = (number as usize * ATOMS_PER_BLOCK + first) * size;
        let mut bytes = self.durable.bytes[at..][..(last - first + 1) * size].to_vec();
        for atom in first..=last {
            if known[atom] != NONE {
                bytes[(atom - first) * size..][..size].copy_from_slice(self.value(known[atom]));
            }
        }
        PendingStore { at: at as u64, bytes, through }
    }

    pub(super) fn value(&self, value: u32) -> &[u8] {
        let size = self.kind().atom_bytes();
        &self.values[value as usize * size..][..size]
    }
}

/// Stores that a kill leaves pending, each with the event it was made by.
#[derive(Debug, Default)]
pub(super) struct PendingStores {
    pub(super) lost: Vec<(u32, PendingStore)>,
    pub(super) live: Vec<(u32, PendingStore)>,
}

#[derive(Debug)]
pub(super) struct PendingStore {
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) through: bool,
}

fn mark(flushed: &mut Vec<Vec<(u32, u32)>>, thread: u16, block: u32, before_event: usize) {
    if flushed.len() <= thread as usize {
        flushed.resize(thread as usize + 1, Vec::new());
    }
    flushed[thread as usize].push((block, before_event as u32));
}

/// The base for a change: images made before keep the old one.
fn change(durable: &mut Arc<Base>) -> &mut Base {
    let base = Arc::make_mut(durable);
    base.id = Base::fresh_id();
    base
}

fn write_atom(base: &mut Base, at: usize, atom: &[u8]) {
    let old = &mut base.bytes[at..][..atom.len()];
    base.hash = base.hash.wrapping_sub(atom_hash(at, old)).wrapping_add(atom_hash(at, atom));
    old.copy_from_slice(atom);
}
