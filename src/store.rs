//! The public store: argument checks, the poison state, and one erasure of the engine's index type.
use crate::error::Result;
use crate::options::{Options, WriteOptions};
use crate::write_batch::WriteBatch;
use std::path::Path;

/// An open store. Cheap to clone; `Send` and `Sync`.
#[derive(Clone)]
pub struct Store {}

/// The number of an asynchronous write; tickets of one store complete in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A pinned value, zero copy where it lies in one piece.
pub struct ValueRef {}
impl std::ops::Deref for ValueRef { type Target = [u8]; fn deref(&self) -> &[u8] { &[] } }

#[allow(clippy::todo, unused_variables, missing_docs)]
impl Store {
    pub fn open(path: impl AsRef<Path>) -> Result<Store> { Options::new().open(path) }
    pub(crate) fn open_with(path: &Path, options: Options) -> Result<Store> { todo!() }
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> { todo!() }
    pub fn put_with(&self, options: &WriteOptions, key: &[u8], value: &[u8]) -> Result<()> { todo!() }
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    /// Copies the value into `buf` and returns its length; `BufferTooSmall{needed,..}` if it does not fit.
    pub fn get_into(&self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> { todo!() }
    pub fn get_pinned(&self, key: &[u8]) -> Result<Option<ValueRef>> { todo!() }
    /// True if there was one.
    pub fn delete(&self, key: &[u8]) -> Result<bool> { todo!() }
    pub fn exists(&self, key: &[u8]) -> Result<bool> { todo!() }
    pub fn write(&self, batch: &WriteBatch) -> Result<()> { todo!() }
    pub fn write_with(&self, options: &WriteOptions, batch: &WriteBatch) -> Result<()> { todo!() }
    pub fn multi_get(&self, keys: &[&[u8]]) -> Vec<Result<Option<Vec<u8>>>> { todo!() }
    pub fn put_async(&self, key: &[u8], value: &[u8]) -> Result<Ticket> { todo!() }
    pub fn write_async(&self, batch: &WriteBatch) -> Result<Ticket> { todo!() }
    /// Waits for the ticket; reports that write's failure.
    pub fn wait(&self, ticket: Ticket) -> Result<()> { todo!() }
    pub fn durable_ticket(&self) -> Ticket { todo!() }
    pub fn sync(&self) -> Result<()> { todo!() }
    pub fn stats_json(&self) -> String { todo!() }
    /// Ok, or the state that refuses writes and why.
    pub fn health(&self) -> Result<()> { todo!() }
    /// `Busy` with the number of pinned values while there are any, and closes nothing. Later calls get `Closed`.
    pub fn close(&self) -> Result<()> { todo!() }
    /// A bug was caught: refuse writes from now on.
    pub fn poison(&self, why: &str) { todo!() }
}
