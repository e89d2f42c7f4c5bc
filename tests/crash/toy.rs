//! A store of 200 lines whose bugs are planted, because a crash suite that never failed has proved nothing. Its log
//! lies in one half of the pool; opening copies what is live into the other half and then switches over.

use crate::crash::subject::Subject;
use flatkv::testing::sim::SimMedia;
use flatkv::testing::{Media, MediaRange, Site};
use flatkv::{Durability, Error, IndexKind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The planted bugs: `Toy<BUG>`.
pub mod bug {
    pub const NONE: u8 = 0;
    /// A put returns without waiting for its write-back.
    pub const NO_DRAIN: u8 = 1;
    /// A put does not start its write-back.
    pub const NO_FLUSH: u8 = 2;
    /// Opening goes on behind the tail that it found, without making it durable.
    pub const NO_ADOPTION: u8 = 3;
    /// Opening copies what it found, but does not make durable from where.
    pub const HALF_ADOPTION: u8 = 13;
    /// A torn frame is as good as a whole one.
    pub const NO_CHECKSUM: u8 = 4;
    /// A batch is written as one frame per key.
    pub const SPLIT_BATCH: u8 = 5;
    /// Opening switches over before the copy is durable.
    pub const EARLY_SWITCH: u8 = 6;
    /// A put makes only itself durable, not the `os` put before it.
    pub const HOLE: u8 = 7;
    /// Deletes are not logged.
    pub const FORGOTTEN_DELETE: u8 = 8;
    /// A failed drain is taken for a success.
    pub const IGNORED_ERROR: u8 = 9;
    /// A failed drain is reported, and later writes are accepted.
    pub const NO_POISON: u8 = 10;
    /// A put is shown as the one before it.
    pub const WRONG_VALUE: u8 = 11;
    /// `sync` does nothing.
    pub const NO_SYNC: u8 = 12;
}

const PAGE_BYTES: u64 = 4096;
const HALF_BYTES: u64 = 96 << 10;
const HEAD_BYTES: u64 = 2 * PAGE_BYTES;
const FRAME_HEAD_BYTES: usize = 16;
const DELETED: u32 = u32::MAX;

pub struct Toy<const BUG: u8> {
    media: Arc<dyn Media>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    generation: u64,
    tail: u64,
    undrained: Vec<MediaRange>,
    poisoned: bool,
}

type Change = (Vec<u8>, Option<Vec<u8>>);

/// Good enough for a toy: every bit of the input reaches every bit of the result.
fn hash64(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed ^ 0x9E37_79B9_7F4A_7C15, |hash, byte| {
        let hash = (hash ^ u64::from(*byte)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        hash ^ (hash >> 32)
    })
}

fn half(generation: u64) -> u64 {
    HEAD_BYTES + generation % 2 * HALF_BYTES
}

fn encode(changes: &[Change]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEAD_BYTES];
    for (key, value) in changes {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let len = value.as_ref().map_or(DELETED, |value| value.len() as u32);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let len = bytes.len() as u32;
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes
}

fn decode(mut bytes: &[u8], live: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Option<()> {
    while !bytes.is_empty() {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (key_len, value_len) = (word(0)? as usize, word(4)?);
        let key = bytes.get(8..8 + key_len)?.to_vec();
        let len = if value_len == DELETED { 0 } else { value_len as usize };
        let value = bytes.get(8 + key_len..8 + key_len + len)?.to_vec();
        bytes = &bytes[8 + key_len + len..];
        if value_len == DELETED {
            live.remove(&key)
        } else {
            live.insert(key, value)
        };
    }
    Some(())
}

impl<const BUG: u8> Toy<BUG> {
    fn append(&self, log: &mut Log, changes: &[Change], durability: Durability) -> Result<()> {
        if log.poisoned {
            return Err(Error::Poisoned("an earlier drain failed".into()));
        }
        let mut frame = encode(changes);
        if log.tail + frame.len() as u64 + PAGE_BYTES > half(log.generation) + HALF_BYTES {
            return Err(Error::NoSpace {
                needed_bytes: frame.len() as u64,
                free_bytes: 0,
                limit: "half a toy".into(),
            });
        }
        let checksum = hash64(log.generation ^ log.tail, &frame[8..]);
        frame[..8].copy_from_slice(&checksum.to_le_bytes());
        let range = MediaRange::new(log.tail, frame.len() as u64);
        self.media.write(range.offset, &frame)?;
        log.tail = range.end().next_multiple_of(self.media.granularity().append_align_bytes());
        log.undrained.push(range);
        if durability == Durability::Sync {
            let all = std::mem::take(&mut log.undrained);
            let covered = if BUG == bug::HOLE { &all[all.len() - 1..] } else { &all[..] };
            self.persist(log, covered)?;
        }
        Ok(())
    }

    fn persist(&self, log: &mut Log, ranges: &[MediaRange]) -> Result<()> {
        if BUG != bug::NO_FLUSH {
            ranges.iter().for_each(|range| self.media.flush(Site::BlobFlush, *range));
        }
        if BUG == bug::NO_DRAIN {
            return Ok(());
        }
        let drained = self.media.drain(Site::FrameDrain);
        log.poisoned = drained.is_err() && BUG != bug::NO_POISON;
        if BUG == bug::IGNORED_ERROR { Ok(()) } else { drained }
    }

    fn change(&self, changes: &[Change], durability: Durability) -> Result<()> {
        let mut log = self.log.lock().expect("no panic under the lock");
        let log = &mut *log;
        match changes {
            [(_, None)] if BUG == bug::FORGOTTEN_DELETE => {}
            _ if BUG == bug::SPLIT_BATCH => {
                for change in changes {
                    self.append(log, std::slice::from_ref(change), durability)?;
                }
            }
            _ => self.append(log, changes, durability)?,
        }
        for (key, value) in changes.iter().cloned() {
            match value {
                Some(value) => log.live.insert(key, value),
                None => log.live.remove(&key),
            };
        }
        Ok(())
    }

    fn recover(&self, log: &mut Log) -> Result<()> {
        let region = self.media.region();
        let generation = |copy: u64| {
            let (number, check) =
                (region.load_word(copy * PAGE_BYTES), region.load_word(copy * PAGE_BYTES + 8));
            (check == hash64(copy, &number.to_le_bytes())).then_some(number)
        };
        let found = generation(0).max(generation(1));
        log.generation = found.ok_or_else(|| Error::Incomplete("no superblock verifies".into()))?;
        log.tail = half(log.generation);
        while let Some(len) = self.read_frame(log) {
            log.tail = (log.tail + len).next_multiple_of(self.media.granularity().append_align_bytes());
        }
        if BUG == bug::NO_ADOPTION {
            return Ok(());
        }
        // What was found may be in caches only, and the other half is what counts without it.
        if BUG != bug::HALF_ADOPTION {
            self.write_superblock(log.generation)?;
        }
        log.generation += 1;
        log.tail = half(log.generation);
        let live: Vec<Change> =
            log.live.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let durability = if BUG == bug::EARLY_SWITCH { Durability::Os } else { Durability::Sync };
        self.append(log, &live, durability)?;
        self.write_superblock(log.generation)
    }

    fn read_frame(&self, log: &mut Log) -> Option<u64> {
        let region = self.media.region();
        let head = region.bytes(MediaRange::new(log.tail, FRAME_HEAD_BYTES as u64))?;
        let len = u64::from(u32::from_le_bytes(head[8..12].try_into().ok()?));
        if len < FRAME_HEAD_BYTES as u64 || log.tail + len > half(log.generation) + HALF_BYTES {
            return None;
        }
        let frame = region.bytes(MediaRange::new(log.tail, len))?;
        let verified = frame[..8] == hash64(log.generation ^ log.tail, &frame[8..]).to_le_bytes();
        if !verified && BUG != bug::NO_CHECKSUM {
            return None;
        }
        decode(&frame[FRAME_HEAD_BYTES..], &mut log.live)?;
        Some(len)
    }

    fn write_superblock(&self, generation: u64) -> Result<()> {
        let copy = generation % 2;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&generation.to_le_bytes());
        bytes[8..].copy_from_slice(&hash64(copy, &generation.to_le_bytes()).to_le_bytes());
        self.media.write(copy * PAGE_BYTES, &bytes)?;
        self.media.flush(Site::ActiveFlush, MediaRange::new(copy * PAGE_BYTES, 16));
        self.media.drain(Site::SuperblockDrain)
    }
}

impl<const BUG: u8> Subject for Toy<BUG> {
    fn open(media: Arc<SimMedia>, _: IndexKind) -> Result<Self> {
        let toy = Toy { media, log: Mutex::default() };
        if toy.media.len_bytes() == 0 {
            toy.media.grow(HEAD_BYTES + 2 * HALF_BYTES)?;
            toy.write_superblock(1)?;
            toy.media.publish()?;
        }
        toy.recover(&mut toy.log.lock().expect("no panic under the lock"))?;
        Ok(toy)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let log = self.log.lock().expect("no panic under the lock");
        let found = if BUG == bug::WRONG_VALUE {
            log.live.range(..=key.to_vec()).next_back().map(|(_, value)| value)
        } else {
            log.live.get(key)
        };
        Ok(found.cloned())
    }

    fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        self.change(&[(key.to_vec(), Some(value.to_vec()))], durability)
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        let found = self.log.lock().expect("no panic under the lock").live.contains_key(key);
        self.change(&[(key.to_vec(), None)], Durability::Sync)?;
        Ok(found)
    }

    fn write(&self, changes: &[Change]) -> Result<()> {
        self.change(changes, Durability::Sync)
    }

    fn sync(&self) -> Result<()> {
        let mut log = self.log.lock().expect("no panic under the lock");
        if log.poisoned {
            return Err(Error::Poisoned("an earlier drain failed".into()));
        }
        let ranges = std::mem::take(&mut log.undrained);
        if BUG == bug::NO_SYNC { Ok(()) } else { self.persist(&mut log, &ranges) }
    }

    fn idle(&self) -> Result<()> {
        Ok(())
    }

    fn clean(&self) -> Result<()> {
        Ok(())
    }

    fn tidy_up(&self) -> Result<u64> {
        Ok(0)
    }

    fn give_back(&self) -> Result<()> {
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.sync()
    }
}
