//! The root of the pool: two copies that are written in turn; the newer one that verifies counts.

use super::{FORMAT_VERSION, NUMBERS_END, SUPERBLOCK_BYTES, SUPERBLOCK_MAGIC_BYTES, put, u32_at, u64_at};
use crate::checksum::{self, CheckSite};
use crate::constants::*;
use crate::error::{Error, Result};
use crate::types::SegmentId;

const MAGIC: u64 = u64::from_le_bytes(*b"FlatKV\x01\n");
/// Two constants that differ in 48 of their 64 bits: no few flips turn one into the other.
const CLEAN: u64 = 0x5AC3_9D0F_66A5_3C71;
const UNCLEAN: u64 = 0xA53C_9DF0_995A_3C8E;
/// Later versions that are recognized as such even if their superblock is laid out otherwise.
const VERSIONS_AHEAD: u32 = 0xFFFF;
const CHECKSUM_SEED: u64 = 0x666C_6174_6B76_7362;
const ENDS_SEED: u64 = 0x666C_6174_6B76_656E;
/// A feature of a pool that a library has to know: operations may name a keyspace. Set before the first one does.
pub const FEATURE_KEYSPACES: u64 = 1;
/// What a newer library may set that this one can ignore, read only, or not open at all.
const INCOMPATIBLE_KNOWN: u64 = FEATURE_KEYSPACES;
const READ_ONLY_COMPATIBLE_KNOWN: u64 = 0;

mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const LENGTH: usize = 12;
    pub const COMPATIBLE: usize = 16;
    pub const READ_ONLY_COMPATIBLE: usize = 24;
    pub const INCOMPATIBLE: usize = 32;
    pub const UUID: usize = 40;
    pub const HASH_SEED: usize = 56;
    pub const SEQUENCE: usize = 64;
    pub const HEAD_SIZE: usize = 72;
    pub const SEGMENT_SIZE: usize = 80;
    pub const LOG_COUNT: usize = 88;
    pub const SEGMENT_ID_HIGH_WATER: usize = 96;
    // 104..152: two checkpoint references of 24 bytes, zero in this version
    pub const UNSAFE_SHUTDOWNS: usize = 152;
    pub const CLEAN_MARK: usize = 160;
    pub const CLOSED_ENDS: usize = 168;
    // 176..504: reserved, zero
    pub const CHECKSUM: usize = 504;
}
const _: () = assert!(at::CHECKSUM + 8 == SUPERBLOCK_BYTES);

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Features that any library may ignore; kept as they are.
    pub compatible: u64,
    /// Features that a library which does not know them may read past, but not write past; kept as they are.
    pub read_only_compatible: u64,
    /// Features that a library has to know to open the pool; kept as they are.
    pub incompatible: u64,
    /// Identity of the pool; part of every checksum seed.
    pub uuid: [u8; 16],
    /// Seeds the hash of keys, so that nobody can prepare colliding ones.
    pub hash_seed: u64,
    /// Increases with every write of a copy.
    pub sequence: u64,
    /// Bytes before slot 0.
    pub head_size_bytes: u64,
    /// Bytes of a slot, a power of two.
    pub segment_size_bytes: u64,
    /// Logs that the creator meant to use; heads of more may exist.
    pub log_count: u32,
    /// No segment id at or above this was given when the copy was written.
    pub segment_id_high_water: u64,
    /// Opens that found no clean mark.
    pub unsafe_shutdowns: u64,
    /// Set by close, after everything else is durable.
    pub clean: bool,
    /// Where the logs ended when they were closed: see [`closed_ends`]. 0 if that was not recorded.
    pub closed_ends: u64,
}

/// The checksum of where the data of each active head ended at a close, that is, where its two close marks begin. Never 0.
pub fn closed_ends(mut heads: Vec<(SegmentId, u32)>) -> u64 {
    heads.sort_unstable();
    let pairs = heads.into_iter().flat_map(|(id, end)| [id.0, u64::from(end)]);
    let bytes: Vec<u8> = pairs.flat_map(u64::to_le_bytes).collect();
    checksum::hash64(ENDS_SEED, &bytes).max(1)
}

impl Superblock {
    /// The bytes of one copy.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        put(&mut bytes, at::MAGIC, &MAGIC.to_le_bytes());
        put(&mut bytes, at::VERSION, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, at::LENGTH, &(SUPERBLOCK_BYTES as u32).to_le_bytes());
        put(&mut bytes, at::COMPATIBLE, &self.compatible.to_le_bytes());
        put(&mut bytes, at::READ_ONLY_COMPATIBLE, &self.read_only_compatible.to_le_bytes());
        put(&mut bytes, at::INCOMPATIBLE, &self.incompatible.to_le_bytes());
        put(&mut bytes, at::UUID, &self.uuid);
        put(&mut bytes, at::HASH_SEED, &self.hash_seed.to_le_bytes());
        put(&mut bytes, at::SEQUENCE, &self.sequence.to_le_bytes());
        put(&mut bytes, at::HEAD_SIZE, &self.head_size_bytes.to_le_bytes());
        put(&mut bytes, at::SEGMENT_SIZE, &self.segment_size_bytes.to_le_bytes());
        put(&mut bytes, at::LOG_COUNT, &self.log_count.to_le_bytes());
        put(&mut bytes, at::SEGMENT_ID_HIGH_WATER, &self.segment_id_high_water.to_le_bytes());
        put(&mut bytes, at::UNSAFE_SHUTDOWNS, &self.unsafe_shutdowns.to_le_bytes());
        put(&mut bytes, at::CLEAN_MARK, &(if self.clean { CLEAN } else { UNCLEAN }).to_le_bytes());
        put(&mut bytes, at::CLOSED_ENDS, &self.closed_ends.to_le_bytes());
        let sum = checksum::hash64(CHECKSUM_SEED, &bytes[..at::CHECKSUM]);
        put(&mut bytes, at::CHECKSUM, &sum.to_le_bytes());
        bytes
    }

    /// The same without its magic, and the word that completes it at the copy's own offset.
    pub fn encode_without_magic(&self) -> ([u8; SUPERBLOCK_BYTES], u64) {
        let mut bytes = self.encode();
        put(&mut bytes, at::MAGIC, &[0; SUPERBLOCK_MAGIC_BYTES]);
        (bytes, MAGIC)
    }

    /// Reads the copy that lies at pool offset `offset`.
    ///
    /// # Errors
    /// `Corrupted` (magic, checksum, a field out of range), `Unsupported` (a future version or feature).
    pub fn decode(bytes: &[u8; SUPERBLOCK_BYTES], offset: u64) -> Result<Superblock> {
        let corrupted = |what, expected, found| Error::Corrupted { what, offset, expected, found };
        let magic = u64_at(bytes, at::MAGIC);
        if magic != MAGIC {
            return Err(corrupted("superblock magic", MAGIC, magic));
        }
        let stored = u64_at(bytes, at::CHECKSUM);
        let computed = checksum::hash64(CHECKSUM_SEED, &bytes[..at::CHECKSUM]);
        let is_whole = checksum::verify(CheckSite::Superblock, stored, computed);
        // A later format may put its checksum elsewhere: a version from here to there is taken at its word, where one
        // flipped bit of ours would not lead.
        let version = u32_at(bytes, at::VERSION);
        let is_later = (FORMAT_VERSION + 1..=FORMAT_VERSION + VERSIONS_AHEAD).contains(&version);
        if version != FORMAT_VERSION
            && (is_whole || is_later && u32_at(bytes, at::LENGTH) != SUPERBLOCK_BYTES as u32)
        {
            return Err(Error::Unsupported(format!(
                "pool format version {version}: this library reads version {FORMAT_VERSION}"
            )));
        }
        if !is_whole {
            return Err(corrupted("superblock checksum", computed, stored));
        }
        let incompatible = u64_at(bytes, at::INCOMPATIBLE) & !INCOMPATIBLE_KNOWN;
        if incompatible != 0 {
            return Err(Error::Unsupported(format!(
                "pool feature bits {incompatible:#x} are unknown to this library"
            )));
        }
        let mark = u64_at(bytes, at::CLEAN_MARK);
        if mark != CLEAN && mark != UNCLEAN {
            return Err(corrupted("superblock clean mark", UNCLEAN, mark));
        }
        let superblock = Superblock {
            compatible: u64_at(bytes, at::COMPATIBLE),
            read_only_compatible: u64_at(bytes, at::READ_ONLY_COMPATIBLE),
            incompatible: u64_at(bytes, at::INCOMPATIBLE),
            uuid: bytes[at::UUID..at::UUID + 16].try_into().expect("sixteen bytes"),
            hash_seed: u64_at(bytes, at::HASH_SEED),
            sequence: u64_at(bytes, at::SEQUENCE),
            head_size_bytes: u64_at(bytes, at::HEAD_SIZE),
            segment_size_bytes: u64_at(bytes, at::SEGMENT_SIZE),
            log_count: u32_at(bytes, at::LOG_COUNT),
            segment_id_high_water: u64_at(bytes, at::SEGMENT_ID_HIGH_WATER),
            unsafe_shutdowns: u64_at(bytes, at::UNSAFE_SHUTDOWNS),
            clean: mark == CLEAN,
            closed_ends: u64_at(bytes, at::CLOSED_ENDS),
        };
        superblock.check_fields().map_err(|(what, expected, found)| corrupted(what, expected, found))?;
        Ok(superblock)
    }

    /// Refuses to write to a pool with features that this library would not keep up.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check_may_write(&self) -> Result<()> {
        match self.read_only_compatible & !READ_ONLY_COMPATIBLE_KNOWN {
            0 => Ok(()),
            unknown => Err(Error::Unsupported(format!(
                "pool feature bits {unknown:#x} are unknown to this library: it may be opened with read_only = true"
            ))),
        }
    }

    fn check_fields(&self) -> Result<(), (&'static str, u64, u64)> {
        let size = self.segment_size_bytes;
        if !size.is_power_of_two() || !(SEGMENT_SIZE_BYTES_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&size) {
            return Err(("superblock segment size", SEGMENT_SIZE_BYTES_MIN, size));
        }
        let head = self.head_size_bytes;
        if !head.is_multiple_of(PAGE_BYTES) || !(HEAD_SIZE_BYTES_MIN..=1 << 30).contains(&head) {
            return Err(("superblock head size", HEAD_SIZE_BYTES_MIN, head));
        }
        for (what, number) in [
            ("superblock sequence", self.sequence),
            ("superblock segment id high water", self.segment_id_high_water),
            ("superblock unsafe shutdowns", self.unsafe_shutdowns),
        ] {
            if number >= NUMBERS_END {
                return Err((what, NUMBERS_END, number));
            }
        }
        if self.log_count == 0 || self.log_count as usize > LOGS_MAX {
            return Err(("superblock log count", LOGS_MAX as u64, u64::from(self.log_count)));
        }
        Ok(())
    }
}

/// Who has the pool open: written without a checksum and never relied on, it only names the holder in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderRecord {
    /// Process id.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub start_ticks: u64,
    /// Start of the open, seconds since 1970.
    pub opened_unix_s: u64,
    /// Identity of the boot.
    pub boot_id: [u8; 16],
}

const HOLDER_MAGIC: u64 = u64::from_le_bytes(*b"FkvHoldr");

impl HolderRecord {
    /// The bytes of the record's sector.
    pub fn encode(&self) -> [u8; HOLDER_RECORD_BYTES] {
        let mut bytes = [0; HOLDER_RECORD_BYTES];
        put(&mut bytes, 0, &HOLDER_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.pid.to_le_bytes());
        put(&mut bytes, 16, &self.start_ticks.to_le_bytes());
        put(&mut bytes, 24, &self.opened_unix_s.to_le_bytes());
        put(&mut bytes, 32, &self.boot_id);
        bytes
    }

    /// Reads the record, if there is one.
    pub fn decode(bytes: &[u8; HOLDER_RECORD_BYTES]) -> Option<HolderRecord> {
        (u64_at(bytes, 0) == HOLDER_MAGIC).then(|| HolderRecord {
            pid: u32_at(bytes, 8),
            start_ticks: u64_at(bytes, 16),
            opened_unix_s: u64_at(bytes, 24),
            boot_id: bytes[32..48].try_into().expect("sixteen bytes"),
        })
    }
}
