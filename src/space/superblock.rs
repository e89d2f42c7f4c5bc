//! The two superblock copies: the newest valid one counts, the other one is overwritten next.

use crate::error::{Error, Result};
use crate::format::{NUMBERS_END, SUPERBLOCK_A_OFFSET, SUPERBLOCK_B_OFFSET, SUPERBLOCK_BYTES, Superblock};
use crate::media::durable::{Dirty, InFlight};
use crate::media::{Media, Site};
use crate::types::MediaRange;

/// The superblock and where its newest copy lies.
#[derive(Debug)]
pub struct SuperblockStore {
    current: Superblock,
    /// Pool offset of the copy that is written next.
    next_offset: u64,
}

impl SuperblockStore {
    /// A superblock that is not on the medium yet.
    pub fn create(superblock: Superblock) -> Self {
        SuperblockStore { current: superblock, next_offset: SUPERBLOCK_A_OFFSET }
    }

    /// Reads both copies and takes the newest valid one.
    ///
    /// # Errors
    /// `Corrupted` if no copy verifies, `Unsupported` for pools of a later format, `Incomplete` for a file shorter than
    /// a pool head.
    pub fn read(media: &dyn Media) -> Result<Self> {
        let needed = SUPERBLOCK_B_OFFSET + SUPERBLOCK_BYTES as u64;
        if media.len_bytes() < needed {
            return Err(Error::Incomplete(format!(
                "the file is shorter than a pool head, which has at least {needed} bytes"
            )));
        }
        let a = Self::read_copy(media, SUPERBLOCK_A_OFFSET);
        let b = Self::read_copy(media, SUPERBLOCK_B_OFFSET);
        let (current, next_offset) = match (a, b) {
            (Ok(a), Ok(b)) if a.sequence >= b.sequence => (a, SUPERBLOCK_B_OFFSET),
            (Ok(_), Ok(b)) => (b, SUPERBLOCK_A_OFFSET),
            (Ok(a), Err(Error::Corrupted { .. })) => (a, SUPERBLOCK_B_OFFSET),
            (Err(Error::Corrupted { .. }), Ok(b)) => (b, SUPERBLOCK_A_OFFSET),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        Ok(SuperblockStore { current, next_offset })
    }

    fn read_copy(media: &dyn Media, offset: u64) -> Result<Superblock> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        media.read(offset, &mut bytes)?;
        Superblock::decode(&bytes, offset)
    }

    /// Reads both copies.
    ///
    /// # Errors
    /// Why the first one that does not verify does not; `Io`.
    pub fn verify_copies(&self, media: &dyn Media) -> Result<()> {
        Self::read_copy(media, SUPERBLOCK_A_OFFSET)?;
        Self::read_copy(media, SUPERBLOCK_B_OFFSET).map(drop)
    }

    /// The newest superblock.
    pub fn current(&self) -> &Superblock {
        &self.current
    }

    /// Where the newest copy lies. Whoever was killed may have left it in caches only: it has to be durable before the
    /// other copy is overwritten.
    pub fn current_range(&self) -> MediaRange {
        let offset = SUPERBLOCK_A_OFFSET + SUPERBLOCK_B_OFFSET - self.next_offset;
        MediaRange::new(offset, SUPERBLOCK_BYTES as u64)
    }

    /// Writes both copies of a new pool. The magic of the first comes last and in one store: a creation in place that was
    /// cut off has none, whatever else of the copy is there.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_first(&mut self, media: &dyn Media) -> Result<()> {
        self.current.sequence += 1;
        let (bytes, magic) = self.current.encode_without_magic();
        let offset = std::mem::replace(&mut self.next_offset, SUPERBLOCK_B_OFFSET);
        InFlight::write_through(media, offset, &bytes, ())?
            .drain(media, Site::FirstSuperblockDrain)?
            .into_inner();
        Dirty::write_word(media, offset, magic, ())?
            .flush(media, Site::MagicFlush)
            .drain(media, Site::MagicDrain)?
            .into_inner();
        self.update(media, |_| ())
    }

    /// Changes the superblock by writing the older copy; durable when it returns.
    ///
    /// # Errors
    /// `Io`.
    pub fn update(&mut self, media: &dyn Media, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut next = self.current.clone();
        change(&mut next);
        next.sequence += 1;
        if next.sequence >= NUMBERS_END {
            return Err(Error::Unsupported("the pool has used up the numbers of its superblocks".into()));
        }
        let bytes = next.encode();
        InFlight::write_through(media, self.next_offset, &bytes, ())?
            .drain(media, Site::SuperblockDrain)?
            .into_inner();
        self.current = next;
        self.next_offset =
            if self.next_offset == SUPERBLOCK_A_OFFSET { SUPERBLOCK_B_OFFSET } else { SUPERBLOCK_A_OFFSET };
        Ok(())
    }

    /// Changes both copies, one after the other.
    ///
    /// # Errors
    /// `Io`.
    pub fn update_both(&mut self, media: &dyn Media, change: impl Fn(&mut Superblock)) -> Result<()> {
        self.update(media, &change)?;
        self.update(media, |_| ())
    }
}
