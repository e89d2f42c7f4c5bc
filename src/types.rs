//! The vocabulary of places and order: which slot, which segment, which byte, which write came first.
//!
//! Invariants:
//!   - a `SegmentSlot` is a place in the pool and is reused; a `SegmentId` is an identity and never is
//!   - an `Addr` is a pool offset in units of `ENTRY_ALIGN_BYTES`, so 41 bits reach 16 TiB
//!   - `Seq` is one order for log, index and recovery; its low bits name the log that gave it, so two logs
//!     never give the same one

use crate::constants::{ADDR_BITS, ENTRY_ALIGN_BYTES, LOG_ID_BITS};

/// A place for one segment in the pool. Reused after the segment in it was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSlot(pub u32);

/// The identity of one segment. Increases, is never reused, and seeds every checksum inside the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// The number of an operation log. One per core on persistent memory, one on files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u8);

/// The number of a keyspace. Given upwards and never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

impl KeyspaceId {
    /// The keyspace that every store has, and that operations belong to which name none.
    pub const DEFAULT: KeyspaceId = KeyspaceId(0);
    /// The one that lists the others.
    pub const CATALOGUE: KeyspaceId = KeyspaceId(1);
    /// The first that a caller can have made.
    pub const FIRST_NAMED: KeyspaceId = KeyspaceId(2);

    /// The one that is made after it; `None` if there are no more numbers.
    pub fn next(self) -> Option<KeyspaceId> {
        self.0.checked_add(1).map(KeyspaceId)
    }
}

/// Where a log entry lies: the pool offset of its first byte divided by [`ENTRY_ALIGN_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(u64);

impl Addr {
    /// The address of the entry at pool offset `offset_bytes`.
    #[inline]
    pub fn from_offset(offset_bytes: u64) -> Self {
        debug_assert_eq!(offset_bytes % ENTRY_ALIGN_BYTES, 0, "entries are aligned");
        debug_assert!(
            offset_bytes / ENTRY_ALIGN_BYTES < 1 << ADDR_BITS,
            "beyond the 16 TiB an address reaches"
        );
        Addr(offset_bytes / ENTRY_ALIGN_BYTES)
    }

    /// The pool offset in bytes.
    #[inline]
    pub fn offset(self) -> u64 {
        self.0 * ENTRY_ALIGN_BYTES
    }

    /// The address as it is packed into an index slot (41 bits).
    #[inline]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`Addr::to_bits`].
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        debug_assert!(bits < 1 << ADDR_BITS, "an address has 41 bits");
        Addr(bits)
    }
}

/// The order of writes: of two entries with one key the higher `Seq` is the newer.
///
/// A Lamport stamp: `units << 6 | log`, where a log's units exceed its own last ones, the store-wide floor and those
/// of the entry replaced. So stamps of one log increase, stamps of one key increase in every order that a caller could
/// observe, and no counter is shared between cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Below every stamp that was ever given.
    pub const ZERO: Seq = Seq(0);
    /// Above every stamp that is ever given. Decoders refuse it and all beyond, so that arithmetic with stamps cannot
    /// overflow.
    pub const END: Seq = Seq(1 << 63);

    /// The highest stamp there can be.
    pub const LAST: Seq = Seq(Seq::END.0 - 1);

    /// The first stamp of `log` that lies above every stamp, of any log, up to `self`.
    #[inline]
    pub fn next_in(self, log: LogId) -> Seq {
        Seq((((self.0 >> LOG_ID_BITS) + 1) << LOG_ID_BITS) | u64::from(log.0))
    }

    /// The highest stamp, of any log, with the same units.
    #[inline]
    pub fn last_of_unit(self) -> Seq {
        Seq(self.0 | ((1 << LOG_ID_BITS) - 1))
    }

    /// The stamp `steps` units later in the same log.
    #[inline]
    pub fn step(self, steps: u64) -> Seq {
        Seq(self.0 + (steps << LOG_ID_BITS))
    }

    /// How far the older stamp `older` lies below.
    #[inline]
    pub fn distance_to(self, older: Seq) -> u64 {
        self.0.checked_sub(older.0).expect("a frame of moves has a stamp above all that it holds")
    }

    /// The stamp that lies so far below; `None` if there is none.
    #[inline]
    pub fn back(self, distance: u64) -> Option<Seq> {
        self.0.checked_sub(distance).map(Seq)
    }
}

/// A range of bytes on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MediaRange {
    /// First byte, from the start of the pool.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl MediaRange {
    /// The range of `len` bytes at `offset`.
    #[inline]
    pub fn new(offset: u64, len: u64) -> Self {
        MediaRange { offset, len }
    }

    /// One past the last byte.
    #[inline]
    pub fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// Declares places in the code that suites go through one by one: an enum with a list of all of it.
macro_rules! numbered_sites {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $site:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum $name {
            $($(#[$doc])* $site,)*
        }

        impl $name {
            /// All of them.
            #[cfg(feature = "sim")]
            pub const ALL: &'static [$name] = &[$($name::$site,)*];
        }
    };
}
pub(crate) use numbered_sites;
