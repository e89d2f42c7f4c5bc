//! The versions of an eighth of all keys, by the points that need them.
//!
//! Writers only append them, each to the part of its hash. Whoever looks for one first takes in its part, and whoever closes a
//! point while others are open takes in all, a few under each hold of the lock: only then they are found by their hash, and
//! noted with a point. When the last point closes all go together, and none of this is done for those that nobody asked for.
//!
//! Each version is noted with one point, the newest at which it is visible. When that one closes, versions that the next
//! older point does not show go, and the others are noted with it all together: as heaps, the newest version first, they
//! join in little more time than the smaller one takes. So each version is looked at a few times, however many points open
//! and close, and in whatever order.
//!
//! Invariants:
//!   - where there is a point there is a newest one, and `older` has those below it
//!   - a version that is taken in is noted with the newest point `p` with `seq <= p < by`; one that was kept while a point was
//!     being opened may be noted with an older one, and goes on to the newest when that closes
//!   - a version is in `fresh` or in `versions`; to each of these one lead is in `lone` or in `more`, to those of a key that
//!     is overwritten over and over one in `lone` at most
//!   - what is noted with a point that is being closed is in `versions`, unless all went since (`cleared`)
//!   - there are `FRESH_MAX` in each part of `fresh` at most, which is what who looks for one may have to take in
//!   - all pieces of such a part but the last are full, and none is empty

use super::{Held, Replaced};
use crate::index::arena::prefetch;
use crate::types::{Addr, Seq};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::{BTreeMap, BinaryHeap, btree_map};

/// Versions that a point lets go of, or that are taken in, under one hold of the lock: writers wait for it.
const AT_ONCE: usize = 64;
/// Parts of those that nobody has asked for yet, by their hash: who looks for one takes in its part.
const PARTS: usize = 8;
/// Versions of such a part. With more of them writers take in what they add.
const FRESH_MAX: usize = 8 << 10;
/// Versions that a writer takes in together: each needs memory that is in no cache, and all of it is asked for at a time.
const OF_A_WRITER: usize = 32;
/// Versions of one piece of memory: none of them is copied when there are more, while writers wait.
const OF_A_PIECE: usize = 128;
/// How far ahead memory is asked for that the next ones are written to: else the next locked instruction waits for it.
const AHEAD: usize = 3;
/// A table with room for so many times what is in it gives room back.
const SPARE_ROOM: usize = 8;

struct Version {
    replaced: Replaced,
    held: Held,
}

impl Version {
    fn note(&self) -> Note {
        let Replaced { hash, addr, seq, .. } = self.replaced;
        Note { seq, hash, addr }
    }

    fn is(&self, note: Note) -> bool {
        (self.replaced.hash, self.replaced.addr) == (note.hash, note.addr)
    }
}

/// Where a version is among all, found by its hash. Short: the first overwrite of a key comes to any place of the table.
#[derive(Clone, Copy)]
struct Lead {
    hash: u32,
    at: u32,
}

impl Lead {
    fn new(hash: u64, at: usize) -> Lead {
        Lead { hash: hash as u32, at: u32::try_from(at).expect("memory runs out first") }
    }

    /// What the table goes by: lower bits for places, upper ones for tags.
    fn spread(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn at(self) -> usize {
        self.at as usize
    }
}

/// Other bits than those that tell the shard.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

/// Versions in the order in which they were kept.
#[derive(Default)]
struct Fresh {
    pieces: Vec<Vec<Version>>,
}

impl Fresh {
    fn len(&self) -> usize {
        self.pieces.split_last().map_or(0, |(last, full)| full.len() * OF_A_PIECE + last.len())
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[inline]
    fn push(&mut self, version: Version) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < OF_A_PIECE => {
                last.push(version);
                if let Some(ahead) = last.spare_capacity_mut().get(AHEAD) {
                    prefetch(ahead);
                }
            }
            _ => {
                let mut piece = Vec::with_capacity(OF_A_PIECE);
                piece.push(version);
                self.pieces.push(piece);
            }
        }
    }

    /// The newest one.
    fn pop(&mut self) -> Option<Version> {
        let last = self.pieces.last_mut()?;
        let version = last.pop();
        assert!(version.is_some(), "no piece is empty");
        if last.is_empty() {
            self.pieces.pop();
        }
        version
    }
}

/// What says of a version whose it is. Sorted by the stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    seq: Seq,
    hash: u64,
    addr: Addr,
}

/// The versions that are noted with one point.
#[derive(Default)]
pub(super) struct Noted {
    /// In no order: writers only append.
    fresh: Vec<Note>,
    /// Those that a newer point had.
    sorted: BinaryHeap<Note>,
    bytes: u64,
    /// Of a point that closes: how often all of the shard had gone until then.
    cleared: u64,
}

impl Noted {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.sorted.is_empty()
    }

    fn push(&mut self, note: Note, bytes: u64) {
        self.fresh.push(note);
        self.bytes += bytes;
    }

    /// Ready to hand over those that the next older point needs. Takes the time of what writers appended.
    pub(super) fn sort(&mut self) {
        self.sorted.append(&mut BinaryHeap::from(std::mem::take(&mut self.fresh)));
    }

    /// The next one that is not visible at `older`.
    fn pop_hidden(&mut self, older: Option<Seq>) -> Option<Note> {
        match older {
            None => self.fresh.pop().or_else(|| self.sorted.pop()),
            Some(older) => {
                let is_hidden = self.sorted.peek().is_some_and(|note| note.seq > older);
                is_hidden.then(|| self.sorted.pop()).flatten()
            }
        }
    }
}

/// What is left to do for a point that closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// The same again.
    More,
    /// An older point wants some: they have to be sorted.
    Sorting,
}

#[derive(Default)]
pub(super) struct Shard {
    /// By itself, for nearly all is noted with it, and one alone takes no memory.
    newest: Option<(Seq, Noted)>,
    /// The points below it.
    older: BTreeMap<Seq, Noted>,
    /// The newest opening that came here.
    opened: u64,
    /// Kept, and not taken in yet.
    fresh: [Fresh; PARTS],
    /// Held for nothing. The version was there already: two writers met, or one tried twice. Or the point that was being opened
    /// did not need it.
    surplus: Vec<Held>,
    /// Those that the point that is being opened may need.
    unsettled: Vec<Note>,
    /// Those that are taken in, without a gap.
    versions: Vec<Version>,
    /// To one version of each key, by its hash.
    lone: HashTable<Lead>,
    /// To the others, by hash, stamp and place.
    more: BTreeMap<(u64, Seq, Addr), Lead>,
    bytes: u64,
    /// How often all that was here went, with the last point: what a point had that closed before, and whose closer is still at
    /// it, is gone with it.
    cleared: u64,
}

impl Shard {
    /// The newest point below a stamp.
    #[inline]
    fn point_below(&self, stamp: Seq) -> Option<Seq> {
        let (newest, _) = self.newest.as_ref()?;
        if *newest < stamp {
            return Some(*newest);
        }
        self.older.range(..stamp).next_back().map(|(point, _)| *point)
    }

    /// What is noted with a point.
    #[inline]
    fn noted(&mut self, point: Seq) -> Option<&mut Noted> {
        match &mut self.newest {
            Some((newest, noted)) if *newest == point => Some(noted),
            _ => self.older.get_mut(&point),
        }
    }

    /// The newest point at which the entry is visible.
    fn point_of(&self, replaced: &Replaced) -> Option<Seq> {
        self.point_below(replaced.by).filter(|point| *point >= replaced.seq)
    }

    /// Whether the newest opening came here.
    #[inline]
    pub(super) fn knows(&self, opening: u64) -> bool {
        self.opened == opening
    }

    pub(super) fn has_points(&self) -> bool {
        self.newest.is_some()
    }

    /// Keeps an entry if a point needs it, or the one that `opening` numbers may; `hold` pins it. Writers come here at each
    /// first overwrite, so it only writes to memory that is near.
    pub(super) fn keep(&mut self, replaced: Replaced, opening: u64, hold: impl FnOnce() -> Held) {
        if self.point_of(&replaced).is_none() && self.knows(opening) {
            return;
        }
        let held = hold();
        self.bytes += held.bytes();
        let part = part_of(replaced.hash);
        self.fresh[part].push(Version { replaced, held });
        if self.fresh[part].len() == FRESH_MAX {
            self.take_in(opening, part, OF_A_WRITER);
        }
    }

    fn has_fresh(&self) -> bool {
        self.fresh.iter().any(|part| !part.is_empty())
    }

    /// Takes in some of those that were kept, and says whether that was all.
    fn take_in_any(&mut self, opening: u64, most: usize) -> bool {
        let mut left = most;
        (0..PARTS).all(|part| {
            let len = self.fresh[part].len();
            self.take_in(opening, part, left) && {
                left -= len;
                true
            }
        })
    }

    /// The same of one part.
    fn take_in(&mut self, opening: u64, part: usize, most: usize) -> bool {
        for _ in 0..most {
            let Some(version) = self.fresh[part].pop() else { break };
            let (replaced, note, bytes) = (version.replaced, version.note(), version.held.bytes());
            let point = self.point_of(&replaced);
            let spare =
                if point.is_some() || self.opened != opening { self.insert(version) } else { Some(version) };
            match spare {
                None => self.note(point, note, bytes),
                Some(spare) => {
                    self.bytes -= bytes;
                    self.surplus.push(spare.held);
                }
            }
        }
        self.fresh[part].is_empty()
    }

    /// Some of those that somebody asks for, who may want one hash only, are taken in. False if he has to come again.
    pub(super) fn is_ready(&mut self, opening: u64, hash: Option<u64>) -> bool {
        match hash {
            Some(hash) => self.take_in(opening, part_of(hash), AT_ONCE),
            None => self.take_in_any(opening, AT_ONCE),
        }
    }

    /// Gives the version back if it is there already.
    fn insert(&mut self, version: Version) -> Option<Version> {
        let Replaced { hash, addr, seq, .. } = version.replaced;
        let lead = Lead::new(hash, self.versions.len());
        let known = |lead: &Lead| self.versions[lead.at()].replaced;
        match self.lone.entry(lead.spread(), |other| known(other).hash == hash, |other| other.spread()) {
            Entry::Vacant(place) => {
                place.insert(lead);
            }
            Entry::Occupied(other) if known(other.get()).addr == addr => return Some(version),
            Entry::Occupied(_) => match self.more.entry((hash, seq, addr)) {
                btree_map::Entry::Occupied(_) => return Some(version),
                btree_map::Entry::Vacant(place) => {
                    place.insert(lead);
                }
            },
        }
        self.versions.push(version);
        None
    }

    fn note(&mut self, point: Option<Seq>, note: Note, bytes: u64) {
        let Some(point) = point else { return self.unsettled.push(note) };
        self.noted(point).expect("it was just found").push(note, bytes);
    }

    /// Nobody opens a point any more: the one that wanted to could not.
    pub(super) fn give_up(&mut self, opening: u64) {
        self.opened = opening;
    }

    /// A point is there. Versions that were kept for it and that it does not need are `gone`.
    pub(super) fn open(&mut self, point: Seq, opening: u64, gone: &mut Vec<Held>) {
        gone.append(&mut self.surplus);
        self.opened = opening;
        // Who opened it before may not have come to all shards.
        if self.newest.as_ref().is_none_or(|(newest, _)| *newest < point) {
            let before = self.newest.replace((point, Noted::default()));
            self.older.extend(before);
        }
        for note in std::mem::take(&mut self.unsettled) {
            self.settle(note, opening, gone);
        }
    }

    /// The only point is there, and nobody has come here since it was opened. What it does not need goes with some point.
    pub(super) fn open_alone(&mut self, point: Seq, opening: u64) {
        let mut gone = Vec::new();
        self.open(point, opening, &mut gone);
        self.surplus = gone;
    }

    /// A point is not there any more: what was noted with it, unless there is nothing to do for it.
    pub(super) fn close(&mut self, point: Seq) -> Option<Noted> {
        let noted = Noted { cleared: self.cleared, ..self.take_noted(point) };
        let is_done = noted.is_empty() && !self.has_fresh() && self.surplus.is_empty();
        (!is_done).then_some(noted)
    }

    /// The last point is not there any more, and none is being opened: so nothing is needed.
    pub(super) fn close_last(&mut self) -> Option<Shard> {
        if !self.has_fresh() && self.versions.is_empty() && self.surplus.is_empty() {
            // As most are if a snapshot was short: nothing is moved then.
            self.newest = None;
            self.older.clear();
            return None;
        }
        let emptied = Shard { opened: self.opened, cleared: self.cleared + 1, ..Shard::default() };
        Some(std::mem::replace(self, emptied))
    }

    /// All that is held.
    pub(super) fn into_held(self) -> impl Iterator<Item = Held> {
        let fresh = self.fresh.into_iter().flat_map(|part| part.pieces).flatten();
        fresh.chain(self.versions).map(|version| version.held).chain(self.surplus)
    }

    fn take_noted(&mut self, point: Seq) -> Noted {
        match &self.newest {
            Some((newest, _)) if *newest == point => {
                let closed = std::mem::replace(&mut self.newest, self.older.pop_last());
                closed.map(|(_, noted)| noted).unwrap_or_default()
            }
            _ => self.older.remove(&point).unwrap_or_default(),
        }
    }

    /// Lets go of some of the versions that were noted with `point`, and hands the others on when none of these is left.
    pub(super) fn let_go(
        &mut self,
        point: Seq,
        noted: &mut Noted,
        opening: u64,
        gone: &mut Vec<Held>,
    ) -> Left {
        if noted.cleared != self.cleared {
            return Left::Nothing;
        }
        let is_all = self.take_in_any(opening, AT_ONCE);
        gone.append(&mut self.surplus);
        if !is_all {
            return Left::More;
        }
        let older = self.point_below(point);
        if older.is_some() && !noted.fresh.is_empty() {
            return Left::Sorting;
        }
        for _ in 0..AT_ONCE {
            let Some(note) = noted.pop_hidden(older) else {
                self.hand_on(older, noted);
                return Left::Nothing;
            };
            noted.bytes -= self.settle(note, opening, gone);
        }
        Left::More
    }

    fn hand_on(&mut self, older: Option<Seq>, noted: &mut Noted) {
        if let Some(to) = older.and_then(|older| self.noted(older)) {
            to.sorted.append(&mut noted.sorted);
            to.bytes += noted.bytes;
        }
        let len = self.versions.len();
        if self.versions.capacity() > SPARE_ROOM * len {
            self.versions.shrink_to(2 * len);
            self.lone.shrink_to(2 * len, |lead| lead.spread());
        }
    }

    /// Notes a version with the newest point that needs it, or lets it go if none does. Its bytes.
    fn settle(&mut self, note: Note, opening: u64, gone: &mut Vec<Held>) -> u64 {
        let at = self.place_of(note);
        let Version { replaced, held } = &self.versions[at];
        let (point, bytes) = (self.point_of(replaced), held.bytes());
        if point.is_some() || self.opened != opening {
            self.note(point, note, bytes);
            return bytes;
        }
        gone.push(self.remove(note, at));
        self.bytes -= bytes;
        bytes
    }

    fn place_of(&self, note: Note) -> usize {
        let is_it = |lead: &Lead| self.versions[lead.at()].is(note);
        let lone = self.lone.find(Lead::new(note.hash, 0).spread(), is_it);
        let lead = lone.or_else(|| self.more.get(&(note.hash, note.seq, note.addr)));
        lead.expect("a version is noted once").at()
    }

    /// Takes a version out; the last one gets its place.
    fn remove(&mut self, note: Note, at: usize) -> Held {
        self.lead(note, at, None);
        let Version { held, .. } = self.versions.swap_remove(at);
        if let Some(moved) = self.versions.get(at).map(Version::note) {
            self.lead(moved, self.versions.len(), Some(at));
        }
        held
    }

    /// What leads to a version leads from one place to another, or goes.
    fn lead(&mut self, note: Note, from: usize, to: Option<usize>) {
        let key = (note.hash, note.seq, note.addr);
        let lone = self.lone.find_entry(Lead::new(note.hash, 0).spread(), |lead| lead.at() == from);
        match (lone, to.map(|to| Lead::new(note.hash, to))) {
            (Ok(mut lone), Some(lead)) => *lone.get_mut() = lead,
            (Ok(lone), None) => drop(lone.remove()),
            (Err(_), Some(lead)) => drop(self.more.insert(key, lead)),
            (Err(_), None) => drop(self.more.remove(&key)),
        }
    }

    /// The newest version of the keys with this hash that is visible at a point, of those before `before` in stamp and place.
    /// Only when it [`Shard::is_ready`].
    pub(super) fn visible_at(
        &self,
        hash: u64,
        point: Seq,
        before: Option<(Seq, Addr)>,
    ) -> Option<(Seq, Addr)> {
        let is_visible = |version: &Version| {
            let Replaced { hash: known, addr, seq, by } = version.replaced;
            let is_next = before.is_none_or(|before| (seq, addr) < before);
            known == hash && seq <= point && point < by && is_next
        };
        let at = |lead: &Lead| &self.versions[lead.at()];
        let lone = self.lone.find(Lead::new(hash, 0).spread(), |lead| is_visible(at(lead)));
        let first = Addr::from_bits(0);
        let end = before.map_or((hash, Seq(point.0 + 1), first), |(seq, addr)| (hash, seq, addr));
        let mut older = self.more.range((hash, Seq::ZERO, first)..end).rev();
        let more = older.find(|(_, lead)| is_visible(at(lead))).map(|(_, lead)| lead);
        lone.into_iter()
            .chain(more)
            .map(at)
            .map(|version| (version.replaced.seq, version.replaced.addr))
            .max()
    }

    /// Bytes of the versions that are noted with a point. Only when it [`Shard::is_ready`].
    pub(super) fn bytes_at(&mut self, point: Seq) -> u64 {
        self.noted(point).map_or(0, |noted| noted.bytes)
    }

    #[cfg(test)]
    pub(super) fn taken_in(&self) -> usize {
        self.versions.len()
    }

    /// Versions, and their bytes.
    pub(super) fn kept(&self) -> (u64, u64) {
        let fresh: usize = self.fresh.iter().map(Fresh::len).sum();
        ((fresh + self.versions.len()) as u64, self.bytes)
    }
}
