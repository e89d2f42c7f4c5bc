//! The survey: headers and state words of every slot, and the digest that rules. Decides what belongs to the store;
//! changes nothing.

use super::pages::read_what_can_be_read;
use crate::checksum::SegmentSeed;
use crate::error::{Error, Result};
use crate::format::{
    Digest, SEGMENT_BODY_OFFSET, STATE_WORD_OFFSET, SegmentClass, SegmentHeader, SegmentState, StateWord,
    Superblock,
};
use crate::media::Media;
use crate::space::extent::Extents;
use crate::space::table::SlotState;
use crate::space::{Geometry, Space};
use crate::types::{LogId, MediaRange, SegmentId, SegmentSlot};
use std::collections::{BTreeMap, BTreeSet};

/// A segment that belongs to the store.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its header.
    pub header: SegmentHeader,
    /// Its state on the medium.
    pub state: SegmentState,
    /// The ruling digest vouches that its seal, and so all its bytes, were durable.
    pub vouched: bool,
}

/// What the pool holds.
pub struct Survey {
    /// Where slots lie.
    pub geometry: Geometry,
    /// Segments of the store, by slot.
    pub members: BTreeMap<SegmentSlot, Member>,
    /// Active heads of each log, one or two.
    pub heads: BTreeMap<LogId, Vec<SegmentSlot>>,
    /// Length of the digest of each active head: its frames begin behind it.
    pub digest_lens: BTreeMap<SegmentSlot, u64>,
    /// Slots whose state word does not say free, though nothing lists them.
    pub to_free: Vec<(SegmentSlot, SegmentId)>,
    /// Headers (and digests) that the ruling digest does not vouch for, and those of free slots: a killed process may
    /// have left the word that says so in caches, and the slot must not be used again on the strength of that.
    pub unvouched_headers: Vec<MediaRange>,
    /// Lowest id that was never given.
    pub next_id: SegmentId,
    /// Number of the ruling digest.
    pub digest_number: u64,
    /// About how many keys the index will have.
    pub live_entries: u64,
}

struct SlotView {
    slot: SegmentSlot,
    header: Option<SegmentHeader>,
    word: u64,
    state: Option<StateWord>,
}

impl SlotView {
    /// The state, if the word belongs to the header's segment.
    fn state_of(&self, header: &SegmentHeader) -> Option<SegmentState> {
        self.state.filter(|word| word.belongs_to(header.id)).map(|word| word.state)
    }
}

fn corrupted(what: &'static str, offset: u64, expected: u64, found: u64) -> Error {
    Error::Corrupted { what, offset, expected, found }
}

impl Survey {
    /// Surveys the pool.
    ///
    /// # Errors
    /// `Corrupted`: a header, state word or digest does not verify. `Incomplete`: listed segments are missing.
    pub fn take(media: &dyn Media, superblock: &Superblock) -> Result<Survey> {
        let geometry = Geometry::new(superblock.head_size_bytes, superblock.segment_size_bytes);
        // Slots that were never used are not kept: of a pool that somebody made long these may be nearly all.
        let mut views = Vec::new();
        for slot in (0..geometry.usable_slots_in(media.len_bytes())).map(SegmentSlot) {
            let view = view(media, &geometry, &superblock.uuid, slot)?;
            if view.header.is_some() || !StateWord::is_blank(view.word) {
                views.push(view);
            }
        }
        let (digest, digest_lens) = ruling_digest(media, &geometry, &superblock.uuid, &views)?;
        let mut survey = Survey {
            geometry,
            members: BTreeMap::new(),
            heads: BTreeMap::new(),
            digest_lens,
            to_free: Vec::new(),
            unvouched_headers: Vec::new(),
            next_id: digest.next_id,
            digest_number: digest.number,
            live_entries: digest.live_entries,
        };
        survey.admit_listed(&digest, &views)?;
        survey.judge_unlisted(&digest, &views)?;
        survey.check_heads()?;
        Ok(survey)
    }

    /// Everything that the digest lists has to be there. `views` are in the order of their slots.
    fn admit_listed(&mut self, digest: &Digest, views: &[SlotView]) -> Result<()> {
        let mut missing = Vec::new();
        for entry in &digest.entries {
            let found = views.binary_search_by_key(&entry.slot, |view| view.slot);
            let member = found.ok().and_then(|at| {
                let view = &views[at];
                let header = view.header.filter(|header| header.id == entry.id)?;
                let state = view.state_of(&header)?;
                let in_use =
                    matches!(state, SegmentState::Open | SegmentState::Active | SegmentState::Sealed);
                in_use.then_some(Member { header, state, vouched: entry.sealed })
            });
            match member {
                Some(member) => self.admit(member),
                None => missing.push(format!("segment {} in slot {}", entry.id.0, entry.slot.0)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Incomplete(format!(
            "the log digest {} lists {} segments, of which {} are missing or damaged: {}",
            digest.number,
            digest.entries.len(),
            missing.len(),
            missing.join(", ")
        )))
    }

    fn admit(&mut self, member: Member) {
        let slot = member.header.slot;
        if member.state == SegmentState::Active {
            self.heads.entry(member.header.log).or_default().push(slot);
        }
        if !member.vouched {
            let body = self.digest_lens.get(&slot).copied().unwrap_or(0);
            self.unvouched_headers
                .push(MediaRange::new(self.geometry.offset_of(slot), SEGMENT_BODY_OFFSET + body));
        }
        self.members.insert(slot, member);
    }

    /// What the digest does not list was freed, or never came into use, or was opened since the digest was written.
    fn judge_unlisted(&mut self, digest: &Digest, views: &[SlotView]) -> Result<()> {
        let listed: BTreeSet<SegmentSlot> = digest.entries.iter().map(|entry| entry.slot).collect();
        for view in views.iter().filter(|view| !listed.contains(&view.slot)) {
            let offset = self.geometry.offset_of(view.slot);
            if !StateWord::is_blank(view.word) {
                self.unvouched_headers.push(MediaRange::new(offset, SEGMENT_BODY_OFFSET));
            }
            if let Some(header) = &view.header {
                self.next_id = self.next_id.max(SegmentId(header.id.0 + 1));
            }
            match (view.header, view.state) {
                (Some(header), Some(word)) if word.belongs_to(header.id) => {
                    let adoptable = header.id >= digest.next_id && header.class != SegmentClass::LogHead;
                    match word.state {
                        SegmentState::Free => {}
                        SegmentState::Open | SegmentState::Sealed if adoptable => {
                            self.admit(Member { header, state: word.state, vouched: false });
                        }
                        _ if header.id >= digest.next_id => {
                            return Err(corrupted(
                                "state of a segment newer than the digest",
                                offset,
                                0,
                                view.word,
                            ));
                        }
                        _ => self.to_free.push((view.slot, header.id)),
                    }
                }
                // The header of a segment that was being opened in a reused or fresh slot, and its predecessor's state.
                (Some(_), Some(word)) if word.id_bits < digest.next_id.0 => {
                    self.free_unless_free(view.slot, word);
                }
                (Some(_), None) if StateWord::is_blank(view.word) => {}
                (Some(header), None) if header.id < digest.next_id => {
                    self.to_free.push((view.slot, header.id));
                }
                (None, None) if StateWord::is_blank(view.word) => {}
                (None, Some(word)) if word.id_bits < digest.next_id.0 => {
                    self.free_unless_free(view.slot, word);
                }
                // Neither a header nor a state word: nothing that came into use looks like this.
                (None, None) => self.to_free.push((view.slot, SegmentId(0))),
                _ => return Err(corrupted("segment header or state word", offset, 0, view.word)),
            }
        }
        Ok(())
    }

    fn free_unless_free(&mut self, slot: SegmentSlot, word: StateWord) {
        if word.state != SegmentState::Free {
            self.to_free.push((slot, SegmentId(word.id_bits)));
        }
    }

    /// Every log that was used has one active head, or two during a roll.
    fn check_heads(&self) -> Result<()> {
        let logs =
            self.members.values().filter(|m| m.header.class == SegmentClass::LogHead).map(|m| m.header.log);
        for log in logs.collect::<BTreeSet<_>>() {
            let active = self.heads.get(&log).map_or(0, Vec::len);
            if !(1..=2).contains(&active) {
                return Err(corrupted("number of active heads of a log", u64::from(log.0), 1, active as u64));
            }
        }
        Ok(())
    }

    /// Enters what was found into the space's table.
    pub fn enter_into(&self, space: &Space, extents: &Extents) {
        // Not to be reused before they are free on the medium.
        self.to_free.iter().for_each(|(slot, _)| space.claim_slot(*slot));
        for (slot, member) in &self.members {
            space.claim_slot(*slot);
            let state = match member.state {
                SegmentState::Active => SlotState::Active,
                SegmentState::Sealed => SlotState::Sealed,
                _ => SlotState::Open,
            };
            space.enter(&member.header, state);
            if member.header.class == SegmentClass::Extent {
                extents.adopt_segment(*slot);
            }
        }
    }
}

fn view(media: &dyn Media, geometry: &Geometry, uuid: &[u8; 16], slot: SegmentSlot) -> Result<SlotView> {
    let mut bytes = [0; SEGMENT_BODY_OFFSET as usize];
    media.read(geometry.offset_of(slot), &mut bytes)?;
    let at = STATE_WORD_OFFSET as usize;
    let word = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    Ok(SlotView {
        slot,
        header: SegmentHeader::decode(&bytes, uuid, slot),
        word,
        state: StateWord::decode(word),
    })
}

/// The highest-numbered digest among the active heads. An active head that does not verify is corruption, never a reason
/// to take an older digest.
fn ruling_digest(
    media: &dyn Media,
    geometry: &Geometry,
    uuid: &[u8; 16],
    views: &[SlotView],
) -> Result<(Digest, BTreeMap<SegmentSlot, u64>)> {
    let mut newest: Option<Digest> = None;
    let mut lens = BTreeMap::new();
    for view in views.iter().filter(|view| view.state.is_some_and(|word| word.state == SegmentState::Active))
    {
        let offset = geometry.offset_of(view.slot);
        let word = view.state.expect("filtered");
        let header = view
            .header
            .filter(|header| word.belongs_to(header.id) && header.class == SegmentClass::LogHead)
            .ok_or_else(|| corrupted("header of an active log head", offset, word.id_bits, 0))?;
        let body = offset + SEGMENT_BODY_OFFSET;
        let mut bytes = vec![0; (geometry.segment_size_bytes - SEGMENT_BODY_OFFSET) as usize / 2];
        // Most of it is frames, as a rule: a page of those must not cost the digest.
        let unreadable = read_what_can_be_read(media, body, &mut bytes)?;
        let missing = || corrupted("digest of an active log head", body, header.id.0, 0);
        let (digest, len) = Digest::decode(&bytes, SegmentSeed::new(uuid, header.id), body)
            .ok_or_else(|| unreadable.error.unwrap_or_else(missing))?;
        if !digest.entries.iter().any(|entry| entry.slot == view.slot && entry.id == header.id) {
            // Else the head that rules would be freed as one that nothing lists.
            return Err(corrupted("digest that does not list its own log head", body, header.id.0, 0));
        }
        lens.insert(view.slot, len);
        if newest.as_ref().is_none_or(|newest| digest.number > newest.number) {
            newest = Some(digest);
        }
    }
    let digest =
        newest.ok_or_else(|| corrupted("number of active log heads", geometry.head_size_bytes, 1, 0))?;
    Ok((digest, lens))
}
