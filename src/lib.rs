//! FlatKV: an embedded key-value store whose writes go to an append-only operation log and are durable when the call
//! returns. On persistent memory a durable put costs one fence; on a disk one `fdatasync` is shared by all waiting
//! writers. The index lives in DRAM and is rebuilt at open.
//!
//! ```
//! # fn main() -> Result<(), flatkv::Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("orders.fkv");
//! let store = flatkv::Store::open(&path)?;
//! store.put(b"order:1", b"2 apples")?;
//! assert_eq!(store.get(b"order:1")?.as_deref(), Some(&b"2 apples"[..]));
//!
//! let mut batch = flatkv::WriteBatch::new();
//! batch.put(b"order:2", b"1 pear")?;
//! batch.delete(b"order:1")?;
//! store.write(&batch)?; // all of it or nothing, whatever crashes
//! store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! `docs/ARCHITECTURE.md` walks through the code, `docs/FORMAT.md` draws every byte on the medium.

// The statistics are one large `json!`.
#![recursion_limit = "256"]
#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(feature = "capi")]
mod capi;
mod checksum;
mod constants;
mod engine;
mod epoch;
mod error;
mod format;
mod holder;
mod index;
mod media;
mod oplog;
mod options;
mod panics;
mod rules;
mod space;
mod store;
mod sync;
#[cfg(feature = "sim")]
pub mod testing;
mod types;
mod write_batch;

pub use constants::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use error::{Error, Result, status};
pub use options::{
    CommitPolicy, Durability, IndexKind, MediaChoice, OPTION_NAMES, Options, SigbusPolicy, WriteOptions,
};
pub use store::{Finding, Iter, RangeEstimate, Snapshot, Store, Ticket, ValueRef, Verification};
pub use write_batch::WriteBatch;
