//! Limits and sizes, and compile-time assertions that relate them. Nothing here is on the medium: see `format.rs`.

/// What a flush writes back, what a frame is aligned to, what two cores must not share.
pub const CACHE_LINE_BYTES: u64 = 64;
/// What a disk writes wholly or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// A page of the page cache and of a mapping.
pub const PAGE_BYTES: u64 = 4096;
/// Entries start at multiples of this, so that 41 bits address 16 TiB.
pub const ENTRY_ALIGN_BYTES: u64 = 8;
/// Bits of an [`Addr`](crate::types::Addr) inside an index slot.
pub const ADDR_BITS: u32 = 41;
/// The largest pool that an address reaches.
pub const POOL_BYTES_MAX: u64 = (1 << ADDR_BITS) * ENTRY_ALIGN_BYTES;
/// Low bits of a [`Seq`](crate::types::Seq) that name the log.
pub const LOG_ID_BITS: u32 = 6;
/// Operation logs a pool can have.
pub const LOGS_MAX: usize = 1 << LOG_ID_BITS;

/// Shortest key.
pub const KEY_BYTES_MIN: usize = 1;
/// Longest key.
pub const KEY_BYTES_MAX: usize = 65_536;
/// Longest name of a keyspace.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 255;
/// Longest value.
pub const VALUE_BYTES_MAX: u64 = u32::MAX as u64;
/// Values above this go out of the log on persistent memory unless `inline_value_bytes_max` says otherwise.
pub const INLINE_VALUE_BYTES_PM: usize = 4 * 1024;
/// Values above this go out of the log on files unless `inline_value_bytes_max` says otherwise.
pub const INLINE_VALUE_BYTES_FILE: usize = 32 * 1024;
/// Most operations one frame holds (its count is a u16 on the medium).
pub const FRAME_OPS_MAX: usize = 65_535;
/// Most bytes that writers who share a drain stage before one of them persists.
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// Longest piece of a blob with a checksum of its own.
pub const BLOB_CHUNK_BYTES_MAX: u64 = 1 << 20;

/// Pool head (superblocks, holder record) unless `head_size_bytes` says otherwise: this, or a segment if that is less, so
/// that segments lie at multiples of their size and large pools are mapped with large pages.
pub const HEAD_SIZE_BYTES_DEFAULT: u64 = 2 << 20;
/// Smallest pool head.
pub const HEAD_SIZE_BYTES_MIN: u64 = 8 * 1024;
/// Smallest segment; used by tests, with the same code.
pub const SEGMENT_SIZE_BYTES_MIN: u64 = 4 * 1024;
/// Largest segment.
pub const SEGMENT_SIZE_BYTES_MAX: u64 = 256 << 20;
/// Segment size on persistent memory without a quota.
pub const SEGMENT_SIZE_BYTES_PM: u64 = 4 << 20;
/// Segment size on files without a quota.
pub const SEGMENT_SIZE_BYTES_FILE: u64 = 16 << 20;
/// With a quota a segment is a 1024th of it, within these bounds.
pub const SEGMENT_SIZE_BYTES_QUOTA_MIN: u64 = 128 << 10;
/// See [`SEGMENT_SIZE_BYTES_QUOTA_MIN`].
pub const SEGMENT_SIZE_BYTES_QUOTA_MAX: u64 = 8 << 20;
/// Blocks that blob extents are made of: this, or an eighth of a segment if that is less.
pub const EXTENT_BLOCK_BYTES_MAX: u64 = 4 * 1024;

/// Most bytes of asynchronous writes in flight unless `async_bytes_max` says otherwise.
pub const ASYNC_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Findings that a verification names; more are counted.
pub const FINDINGS_MAX: usize = 1_000;
/// Longest time a write waits for room unless `write_stall_ms_max` says otherwise.
pub const WRITE_STALL_MS_MAX_DEFAULT: u64 = 1_000;
/// Bytes of the holder record, the one sector outside all checksums that names who has the pool open.
pub const HOLDER_RECORD_BYTES: usize = 512;
/// Longest time an asynchronous write waits for company unless `commit_wait_us_max` says otherwise.
pub const COMMIT_WAIT_US_MAX_DEFAULT: u64 = 1_000;
/// An idle log proves its last frame durable by a mark after this long.
pub const IDLE_MARK_MS: u64 = 100;

const _: () = assert!(HEAD_SIZE_BYTES_MIN >= 2 * PAGE_BYTES, "two superblock copies on pages of their own");
const _: () =
    assert!(SEGMENT_SIZE_BYTES_MIN.is_multiple_of(PAGE_BYTES), "segments are mapped and punched by page");
const _: () = assert!(SEGMENT_SIZE_BYTES_MAX <= 1 << 30, "offsets in a segment are u32 on the medium");
const _: () =
    assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES) && SECTOR_BYTES.is_multiple_of(CACHE_LINE_BYTES));
const _: () = assert!(KEY_BYTES_MAX < BLOB_CHUNK_BYTES_MAX as usize);
