//! A set of puts and deletes that is applied wholly or not at all.

use crate::constants::{KEY_BYTES_MAX, KEY_BYTES_MIN, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::sync::Arc;
use std::any::Any;

/// One operation of a batch, as ranges of the batch's own buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchOp {
    pub(crate) key_start: usize,
    pub(crate) key_len: u32,
    pub(crate) value_len: u32,
    pub(crate) is_delete: bool,
    /// 0: the keyspace of the handle that the batch is written with; else one of the batch's own, counted from 1.
    pub(crate) scope: u32,
}

/// A keyspace that a batch names. What it is only the engine knows.
#[derive(Clone)]
pub(crate) struct BatchScope(pub(crate) Arc<dyn Any + Send + Sync>);

impl std::fmt::Debug for BatchScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchScope")
    }
}

/// Puts and deletes to be applied atomically by [`Store::write`](crate::Store::write). Keys and values are copied in.
///
/// Of several operations on one key the last counts. Not shared between threads while it is being filled; may be
/// written several times. Its size is bounded by memory and by the free space of the store that it is written to.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    ops: Vec<BatchOp>,
    scopes: Vec<BatchScope>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    ///
    /// # Errors
    /// `InvalidArgument` (empty key), `TooLarge` (key above 64 KiB, value of 4 GiB or more), `Io` with `ENOMEM` if the batch
    /// outgrows the memory there is; the batch is unchanged.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        check_value_len(value.len())?;
        self.push(0, key, value, false)
    }

    /// Adds a delete. Deleting a key that is not there is no error.
    ///
    /// # Errors
    /// As [`WriteBatch::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        check_key(key)?;
        self.push(0, key, &[], true)
    }

    /// As [`WriteBatch::put`] and, without a value, [`WriteBatch::delete`], with a keyspace of its own.
    pub(crate) fn push_in(&mut self, scope: BatchScope, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        check_key(key)?;
        check_value_len(value.map_or(0, <[u8]>::len))?;
        let known = self.scopes.iter().rposition(|known| Arc::ptr_eq(&known.0, &scope.0));
        let number = known.unwrap_or(self.scopes.len()) as u32 + 1;
        self.push(number, key, value.unwrap_or_default(), value.is_none())?;
        if known.is_none() {
            self.scopes.push(scope);
        }
        Ok(())
    }

    /// Forgets all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ops.clear();
        self.scopes.clear();
    }

    /// Operations added so far, repeated keys included.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The keyspaces that its operations name.
    pub(crate) fn scopes(&self) -> &[BatchScope] {
        &self.scopes
    }

    pub(crate) fn ops(&self) -> &[BatchOp] {
        &self.ops
    }

    pub(crate) fn key(&self, op: &BatchOp) -> &[u8] {
        &self.bytes[op.key_start..op.key_start + op.key_len as usize]
    }

    pub(crate) fn value(&self, op: &BatchOp) -> &[u8] {
        let start = op.key_start + op.key_len as usize;
        &self.bytes[start..start + op.value_len as usize]
    }

    /// Room for one more operation of `len` bytes. A batch is as large as its caller likes: that must not end the process.
    fn reserve(&mut self, len: usize) -> Result<()> {
        let bytes = self.bytes.try_reserve(len);
        bytes.and_then(|()| self.ops.try_reserve(1)).map_err(|_| {
            let have = self.bytes.len();
            Error::from_errno(format!("allocate {len} bytes for a batch of {have} bytes"), libc::ENOMEM)
        })
    }

    fn push(&mut self, scope: u32, key: &[u8], value: &[u8], is_delete: bool) -> Result<()> {
        self.reserve(key.len() + value.len())?;
        let key_start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.ops.push(BatchOp {
            key_start,
            key_len: key.len() as u32,
            value_len: value.len() as u32,
            is_delete,
            scope,
        });
        Ok(())
    }
}

/// Refuses keys outside 1..=64 KiB.
#[inline]
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() < KEY_BYTES_MIN {
        return Err(Error::InvalidArgument("key of 0 bytes: a key has 1 to 65536 bytes".into()));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::TooLarge { what: "key", len: key.len() as u64, max: KEY_BYTES_MAX as u64 });
    }
    Ok(())
}

/// Refuses values of 4 GiB or more.
#[inline]
pub(crate) fn check_value_len(len: usize) -> Result<()> {
    if len as u64 > VALUE_BYTES_MAX {
        return Err(Error::TooLarge { what: "value", len: len as u64, max: VALUE_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_outgrows_memory_is_an_error_and_stays_as_it_was() {
        let mut batch = WriteBatch::new();
        batch.put(b"key", b"value").expect("small");
        for len in [usize::MAX, isize::MAX as usize] {
            let refused = batch.reserve(len);
            assert!(matches!(refused, Err(Error::Io { errno: libc::ENOMEM, .. })), "{refused:?}");
        }
        assert_eq!((batch.len(), batch.value(&batch.ops()[0])), (1, &b"value"[..]));
        batch.delete(b"key").expect("small");
    }
}
