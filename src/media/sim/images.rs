//! The crash images of one point: every choice among what is pending, all of them or a sample.

use super::events::{ATOMS_PER_BLOCK, SimKind, atom_hash, len_hash, mix64};
use super::replay::{Block, NONE, Pending, Piece, Replay};
use crate::constants::PAGE_BYTES;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// How much of what was not yet durable may be lost, torn and reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Of each line (or page) any prefix of its stores, stores whole.
    A,
    /// `A`, and the first store that is not wholly there has any subset of its 8-byte words (or sectors).
    B,
    /// Each 8-byte word (or sector) has any value it had since it was last made durable, whatever the others have.
    C,
    /// Persistent caches (eADR): everything is there in the order of the stores. Only stores past the caches that no
    /// fence followed may be missing.
    D,
}

/// Names one crash image of a recording; with level, limit and seed it can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId {
    /// The crash point.
    pub point: usize,
    /// The number of the image at that point.
    pub number: u64,
}

impl<'r> Replay<'r> {
    /// The images that a power cut at this point may leave: all of them if they are at most `limit`, else `limit` that
    /// `seed` picks, the two extremes first. Some of them may be equal: see [`Seen`].
    pub fn images(&self, level: Level, limit: u64, seed: u64) -> Images<'_> {
        let choices = Choices::new(self, level);
        let end = choices.total.min(limit);
        Images { replay: self, exhaustive: choices.total <= limit, choices, seed, next: 0, end }
    }
}

/// One independent choice.
#[derive(Clone, Copy, Debug)]
enum Digit {
    /// A prefix of the pieces of a block, at least `floor` of them.
    Prefix { block: u32, lost: bool, floor: u32 },
    /// The same, torn.
    Torn { block: u32, lost: bool },
    /// A value of one atom, `Choices::values[first..]`.
    Atom { number: u32, first: u32 },
    /// A length, in pages for a file, else old or new.
    Len,
}

impl Digit {
    fn block(&self) -> u32 {
        match *self {
            Digit::Prefix { block, .. } | Digit::Torn { block, .. } => block,
            Digit::Atom { number, .. } => number / ATOMS_PER_BLOCK as u32,
            Digit::Len => u32::MAX,
        }
    }
}

/// Everything that is open at a point. The product of the digits is the set of images.
#[derive(Debug)]
struct Choices {
    digits: Vec<(Digit, u64)>,
    values: Vec<u32>,
    total: u64,
}

impl Choices {
    fn new(replay: &Replay<'_>, level: Level) -> Choices {
        let mut choices = Choices { digits: Vec::new(), values: Vec::new(), total: 1 };
        if !replay.published {
            return choices;
        }
        for (number, block) in &replay.blocks {
            let number = *number;
            for (lost, pending) in [(true, &block.lost), (false, &block.live)] {
                match level {
                    Level::A => {
                        choices.push(Digit::Prefix { block: number, lost, floor: 0 }, pending.prefixes(0))
                    }
                    Level::B => choices.push(Digit::Torn { block: number, lost }, pending.torn_prefixes()),
                    Level::C => {}
                    Level::D if pending.pieces.is_empty() => {}
                    Level::D => {
                        let cached = |piece: &Piece| replay.kind() == SimKind::File || !piece.through;
                        let floor = pending.pieces.iter().rposition(cached).map_or(0, |last| last + 1);
                        let digit = Digit::Prefix { block: number, lost, floor: floor as u32 };
                        choices.digits.push((digit, pending.prefixes(floor)));
                        choices.total = choices.total.saturating_mul(pending.prefixes(floor));
                    }
                }
            }
            if level == Level::C {
                choices.push_atoms(replay, number, block);
            }
        }
        if let Some(to) = replay.growing_to {
            let old = replay.durable.bytes.len() as u64;
            let lens = match replay.kind() {
                _ if to < old => 2,
                SimKind::Pm => 1 + u64::from(to > old),
                SimKind::File => 1 + to.saturating_sub(old).div_ceil(PAGE_BYTES),
            };
            choices.push(Digit::Len, lens);
        }
        choices
    }

    fn push(&mut self, digit: Digit, states: u64) {
        if states > 1 {
            self.digits.push((digit, states));
            self.total = self.total.saturating_mul(states);
        }
    }

    fn push_atoms(&mut self, replay: &Replay<'_>, number: u32, block: &Block) {
        for atom in 0..ATOMS_PER_BLOCK {
            if block.newest(atom) == NONE {
                continue;
            }
            let first = self.values.len();
            let place = number * ATOMS_PER_BLOCK as u32 + atom as u32;
            let newest = block.newest(atom);
            let hash = |value: u32| match value {
                NONE => replay.durable_hash(place),
                value => replay.hashes[value as usize],
            };
            // What the process saw comes last, even if it equals the first, which is durable.
            self.values.push(NONE);
            for change in block.lost.changes.iter().chain(&block.live.changes) {
                let known = |value: &u32| hash(*value) == hash(change.value);
                if change.atom as usize == atom && !known(&newest) && !self.values[first..].iter().any(known)
                {
                    self.values.push(change.value);
                }
            }
            self.values.push(newest);
            let states = (self.values.len() - first) as u64;
            self.push(Digit::Atom { number: place, first: first as u32 }, states);
        }
    }
}

impl Replay<'_> {
    fn durable_hash(&self, atom: u32) -> u64 {
        let size = self.kind().atom_bytes();
        let at = atom as usize * size;
        atom_hash(at, &self.durable.bytes[at..][..size])
    }

    /// The image with the given choices.
    fn image(
        &self,
        id: ImageId,
        choices: &Choices,
        mut pick: impl FnMut(usize, &Digit, u64) -> u64,
    ) -> CrashImage<'_> {
        let base = &self.durable;
        if !self.published {
            return CrashImage { replay: self, id, len: 0, hash: len_hash(0), patches: Vec::new() };
        }
        let old_len = base.bytes.len() as u64;
        let mut image =
            CrashImage { replay: self, id, len: old_len, hash: base.hash, patches: Vec::with_capacity(32) };
        let mut open = (u32::MAX, [NONE; ATOMS_PER_BLOCK]);
        for (index, (digit, states)) in choices.digits.iter().enumerate() {
            let state = pick(index, digit, *states);
            let (block, lost, pieces, torn) = match *digit {
                Digit::Atom { number, first } => {
                    image.patch(number, choices.values[first as usize + state as usize]);
                    continue;
                }
                Digit::Len => {
                    image.close(&mut open);
                    open.0 = u32::MAX;
                    image.len = match (self.kind(), self.growing_to) {
                        (_, Some(to)) if to < old_len => {
                            if state == 1 {
                                image.cut_off(to);
                            }
                            [old_len, to][state as usize]
                        }
                        (SimKind::File, Some(to)) => to.min(old_len + state * PAGE_BYTES),
                        (SimKind::Pm, Some(to)) if state == 1 => to,
                        _ => old_len,
                    };
                    image.hash = image.hash.wrapping_sub(len_hash(old_len)).wrapping_add(len_hash(image.len));
                    continue;
                }
                Digit::Prefix { block, lost, floor } => (block, lost, floor as usize + state as usize, 0),
                Digit::Torn { block, lost } => {
                    let (pieces, torn) = self.pending(block, lost).torn_prefix(state);
                    (block, lost, pieces, torn)
                }
            };
            if open.0 != block {
                image.close(&mut open);
                open.0 = block;
            }
            self.pending(block, lost).apply(pieces, torn, &mut open.1);
        }
        image.close(&mut open);
        image
    }

    fn pending(&self, block: u32, lost: bool) -> &Pending {
        let block = &self.blocks[&block];
        if lost { &block.lost } else { &block.live }
    }
}

/// The images of one point, in the order of their numbers.
#[derive(Debug)]
pub struct Images<'a> {
    replay: &'a Replay<'a>,
    choices: Choices,
    exhaustive: bool,
    seed: u64,
    next: u64,
    end: u64,
}

impl<'a> Images<'a> {
    /// Images there are, equal ones counted once per way to get them; saturates.
    pub fn possible(&self) -> u64 {
        self.choices.total
    }

    /// True if every possible image comes.
    pub fn is_exhaustive(&self) -> bool {
        self.exhaustive
    }

    /// The image with this number: what a replay line names.
    pub fn nth_image(&self, number: u64) -> CrashImage<'a> {
        let id = ImageId { point: self.replay.point, number };
        if self.exhaustive {
            let mut rest = number;
            return self.replay.image(id, &self.choices, |_, _, states| {
                let state = rest % states;
                rest /= states;
                state
            });
        }
        let mut random = Random(mix64(self.seed ^ mix64(id.point as u64 ^ mix64(number))));
        let digits = self.choices.digits.len() as u64;
        let style = match number {
            0 => Style::Oldest,
            1 => Style::Newest,
            _ => match random.below(6) {
                0 => Style::OneIsOlder { which: random.below(digits) },
                1 => Style::OneIsNewer { which: random.below(digits) },
                2 => Style::WholeBlocks { key: random.below(u64::MAX) },
                3 => Style::Mixed { between_percent: 0 },
                4 => Style::Mixed { between_percent: 20 },
                _ => Style::Mixed { between_percent: 100 },
            },
        };
        self.replay
            .image(id, &self.choices, |index, digit, states| style.pick(index, digit, states, &mut random))
    }
}

impl<'a> Iterator for Images<'a> {
    type Item = CrashImage<'a>;

    fn next(&mut self) -> Option<CrashImage<'a>> {
        if self.next == self.end {
            return None;
        }
        self.next += 1;
        Some(self.nth_image(self.next - 1))
    }
}

/// How a sampled image chooses. Uniform choice alone would nearly never leave a line wholly old or wholly new.
enum Style {
    Oldest,
    Newest,
    OneIsOlder { which: u64 },
    OneIsNewer { which: u64 },
    WholeBlocks { key: u64 },
    Mixed { between_percent: u64 },
}

impl Style {
    fn pick(&self, index: usize, digit: &Digit, states: u64, random: &mut Random) -> u64 {
        let newest = states - 1;
        match *self {
            _ if newest == 0 => 0,
            Style::OneIsOlder { which } if which == index as u64 => random.below(newest),
            Style::OneIsNewer { which } if which == index as u64 => 1 + random.below(newest),
            Style::Oldest | Style::OneIsNewer { .. } => 0,
            Style::Newest | Style::OneIsOlder { .. } => newest,
            Style::WholeBlocks { key } => newest * (mix64(key ^ u64::from(digit.block())) & 1),
            Style::Mixed { between_percent } if random.below(100) < between_percent => random.below(states),
            Style::Mixed { .. } => newest * random.below(2),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mix64(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// What a power cut left: a durable base and the atoms in which it differs. Cheap to make, and to start from with
/// [`SimMedia::from_crash`](super::SimMedia::from_crash).
#[derive(Clone, Debug)]
pub struct CrashImage<'a> {
    pub(super) replay: &'a Replay<'a>,
    id: ImageId,
    pub(super) len: u64,
    hash: u64,
    /// Numbers of atoms in increasing order, and their values.
    patches: Vec<(u32, u32)>,
}

impl CrashImage<'_> {
    /// Its name.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Bytes it has; 0 if there is no pool, because it had no name yet.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// 64-bit hash of its bytes and length.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Puts its bytes into `buffer`, whatever that held.
    pub fn fill(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let base = &self.replay.durable.bytes;
        buffer.extend_from_slice(&base[..base.len().min(self.len as usize)]);
        buffer.resize(self.len as usize, 0);
        for (at, atom) in self.atoms() {
            buffer[at as usize..][..atom.len()].copy_from_slice(atom);
        }
    }

    /// Its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fill(&mut bytes);
        bytes
    }

    /// Places and contents in which it differs from the base.
    pub(super) fn atoms(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let size = self.replay.kind().atom_bytes() as u64;
        self.patches.iter().map(move |(number, value)| (u64::from(*number) * size, self.replay.value(*value)))
    }

    /// Forgets what lies behind `len`.
    fn cut_off(&mut self, len: u64) {
        let size = self.replay.kind().atom_bytes();
        let first = (len as usize / size) as u32;
        let (replay, hash) = (self.replay, &mut self.hash);
        self.patches.retain(|(atom, value)| {
            if *atom >= first {
                let (old, new) = (replay.durable_hash(*atom), replay.hashes[*value as usize]);
                *hash = hash.wrapping_sub(new).wrapping_add(old);
            }
            *atom < first
        });
        for atom in first..(replay.durable.bytes.len() / size) as u32 {
            *hash = hash.wrapping_sub(replay.durable_hash(atom));
        }
    }

    fn close(&mut self, open: &mut (u32, [u32; ATOMS_PER_BLOCK])) {
        for (atom, value) in open.1.iter_mut().enumerate() {
            self.patch(open.0.wrapping_mul(ATOMS_PER_BLOCK as u32).wrapping_add(atom as u32), *value);
            *value = NONE;
        }
    }

    fn patch(&mut self, atom: u32, value: u32) {
        if value == NONE {
            return;
        }
        let (old, new) = (self.replay.durable_hash(atom), self.replay.hashes[value as usize]);
        if old != new {
            self.hash = self.hash.wrapping_sub(old).wrapping_add(new);
            self.patches.push((atom, value));
        }
    }
}

/// The images that a history has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    hashes: HashSet<u64, BuildHasherDefault<Hashed>>,
}

impl Seen {
    /// True the first time. `expectation` must differ whenever other things must hold of the recovered store (what was
    /// acknowledged, what was begun): the same bytes may be right before an acknowledgement and wrong after it.
    pub fn is_new(&mut self, image: &CrashImage<'_>, expectation: u64) -> bool {
        self.hashes.insert(image.hash ^ mix64(expectation.wrapping_add(1)))
    }

    /// Images seen.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// True if there were none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), 8, "only u64 is hashed");
        self.0 = bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}
