//! Durability as a type: [`Dirty`] -> [`InFlight`] -> [`Durable`], and the only caller of write, flush and drain.
//! The index takes a [`Publishable`], which exists only for durable bytes, or for `os` writes that say what they are, so
//! publishing a `sync` write before its drain does not compile. Three states and no more (SquirrelFS, simplified).

use super::{Media, Site};
use crate::error::Result;
use crate::types::MediaRange;

/// Written, but in caches only. The value says what the bytes mean.
#[must_use = "dirty bytes are lost in a power cut"]
#[derive(Debug)]
pub struct Dirty<T> {
    value: T,
    range: MediaRange,
}

/// Write-back started.
#[must_use = "bytes in flight are lost in a power cut"]
#[derive(Debug)]
pub struct InFlight<T> {
    value: T,
}

/// On the medium: survives a power cut.
#[must_use]
#[derive(Debug)]
pub struct Durable<T> {
    value: T,
}

/// May be shown to readers.
#[must_use]
#[derive(Debug)]
pub struct Publishable<T> {
    value: T,
}

impl<T> Dirty<T> {
    /// Stores `bytes` at `at`.
    ///
    /// # Errors
    /// `Io`; bytes may be partly written.
    pub fn write(media: &dyn Media, at: u64, bytes: &[u8], value: T) -> Result<Dirty<T>> {
        media.write(at, bytes)?;
        Ok(Dirty { value, range: MediaRange::new(at, bytes.len() as u64) })
    }

    /// As [`Dirty::write`], for bytes of `os` writes.
    ///
    /// # Errors
    /// As [`Dirty::write`].
    #[inline]
    pub fn write_undrained(media: &dyn Media, at: u64, bytes: &[u8], value: T) -> Result<Dirty<T>> {
        media.write_undrained(at, bytes)?;
        Ok(Dirty { value, range: MediaRange::new(at, bytes.len() as u64) })
    }

    /// Stores one aligned word, on persistent memory in one atomic store.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_word(media: &dyn Media, at: u64, word: u64, value: T) -> Result<Dirty<T>> {
        media.write_word(at, word)?;
        Ok(Dirty { value, range: MediaRange::new(at, 8) })
    }

    /// Bytes that somebody else wrote and nobody drained.
    pub fn adopt(range: MediaRange, value: T) -> Dirty<T> {
        Dirty { value, range }
    }

    /// Starts write-back.
    #[inline]
    pub fn flush(self, media: &dyn Media, site: Site) -> InFlight<T> {
        media.flush(site, self.range);
        InFlight { value: self.value }
    }

    /// Gives up durability for now: the bytes of an `os` write. A later drain must flush the range first.
    pub fn leave_dirty(self) -> (MediaRange, T) {
        (self.range, self.value)
    }
}

impl<T> InFlight<T> {
    /// Stores `bytes` past the caches: written and flushed in one.
    ///
    /// # Errors
    /// `Io`; bytes may be partly written.
    #[inline]
    pub fn write_through(media: &dyn Media, at: u64, bytes: &[u8], value: T) -> Result<InFlight<T>> {
        media.write_through(at, bytes)?;
        Ok(InFlight { value })
    }

    /// No bytes of its own: what the next drain covers was written elsewhere.
    #[inline]
    pub fn nothing(value: T) -> InFlight<T> {
        InFlight { value }
    }

    /// Gives up the token: bytes of an `os` write, or of a frame whose group is drained as a whole.
    #[inline]
    pub(crate) fn left_undrained(self) -> T {
        self.value
    }

    /// Two things in flight that one drain covers.
    pub fn and<U>(self, other: InFlight<U>) -> InFlight<(T, U)> {
        InFlight { value: (self.value, other.value) }
    }

    /// A part or a consequence of what is in flight.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> InFlight<U> {
        InFlight { value: f(self.value) }
    }

    /// Waits until the bytes are durable.
    ///
    /// # Errors
    /// `Io`: durability is unknown; the caller poisons the store.
    #[inline]
    pub fn drain(self, media: &dyn Media, site: Site) -> Result<Durable<T>> {
        media.drain(site)?;
        Ok(Durable { value: self.value })
    }
}

impl<T, U> InFlight<(T, U)> {
    /// The inverse of [`InFlight::and`] for values that are bookkeeping only: the first stays the token of both.
    pub(crate) fn split(self) -> (InFlight<T>, U) {
        (InFlight { value: self.value.0 }, self.value.1)
    }
}

impl<T> Durable<T> {
    /// Bytes that recovery read, verified and made durable again.
    pub(crate) fn recovered(value: T) -> Durable<T> {
        Durable { value }
    }

    /// What is durable.
    #[inline]
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The same, borrowed: every follower of a group gets its part of what the leader made durable.
    #[inline]
    pub fn as_ref(&self) -> Durable<&T> {
        Durable { value: &self.value }
    }

    /// What is durable, by value.
    #[inline]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// A part or a consequence of what is durable.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Durable<U> {
        Durable { value: f(self.value) }
    }
}

impl<T> Publishable<T> {
    /// Part of a batch whose frames were written as a whole and committed as its caller asked.
    pub(crate) fn from_batch(value: T) -> Publishable<T> {
        Publishable { value }
    }

    /// An `os` write: shown to readers though a power cut may take it back, as its caller asked.
    pub(crate) fn from_os_write(value: T) -> Publishable<T> {
        Publishable { value }
    }

    /// The same, borrowed: each entry of a frame gets its part of it.
    #[inline]
    pub fn as_ref(&self) -> Publishable<&T> {
        Publishable { value: &self.value }
    }

    /// What may be shown.
    #[inline]
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What may be shown, by value.
    #[inline]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// A part or a consequence of what may be shown.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Publishable<U> {
        Publishable { value: f(self.value) }
    }
}

impl<T> From<Durable<T>> for Publishable<T> {
    #[inline]
    fn from(durable: Durable<T>) -> Self {
        Publishable { value: durable.value }
    }
}
