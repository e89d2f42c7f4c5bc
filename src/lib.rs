//! FlatKV: an embedded key-value store.
#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(feature = "capi")]
mod capi;
pub mod checksum;
pub mod constants;
pub mod epoch;
pub mod error;
pub mod index;
pub mod media;
pub mod options;
mod store;
pub mod sync;
pub mod types;
mod write_batch;

pub use error::{Error, Result};
pub use options::{CommitPolicy, Durability, IndexKind, MediaChoice, Options, WriteOptions};
pub use store::{Store, Ticket, ValueRef};
pub use write_batch::WriteBatch;
