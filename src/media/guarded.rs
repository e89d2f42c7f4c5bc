//! Guarded reads (option `sigbus=guard`): an unreadable page is an error and not a signal.
//!
//! A load from a mapping has no way to fail but SIGBUS, which ends the process. The kernel's own copies can fail: `pread`
//! answers `EIO` for a bad block, a page that a machine check took away, or a file that somebody cut. So with the guard on
//! nothing is loaded from the mapping: bytes are copied by [`Media::read`] into a buffer of the call's own and used there.
//! No signal handler is installed: signals stay the application's. Why not a handler: `docs/decisions/`.
//!
//! **A page that failed once fails until the store is opened again.** An index entry whose bytes cannot be read is passed
//! over when a newer write of its key is published, and so stays behind; if its page were readable again later, it would
//! answer with the old value.

use super::Media;
use crate::constants::PAGE_BYTES;
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::MediaRange;
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// Readability is checked in pieces of this size.
const PROBE_BYTES: u64 = 1 << 20;

/// The copies that one call works on, and why one could not be made. One word where reads are not guarded.
#[derive(Default)]
pub struct Scratch {
    kept: OnceCell<Box<Kept>>,
}

#[derive(Default)]
struct Kept {
    copy: OnceCell<Vec<u8>>,
    more: OnceCell<Box<Kept>>,
    failure: OnceCell<Error>,
}

impl Scratch {
    /// Without copies.
    #[inline]
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Why a copy could not be made, the first time that happened.
    pub fn failure(&self) -> Option<Error> {
        self.kept.get().and_then(|kept| kept.failure.get().cloned())
    }

    fn fail(&self, error: Error) {
        self.kept.get_or_init(Box::default).failure.get_or_init(|| error);
    }

    fn keep(&self, bytes: Vec<u8>) -> &[u8] {
        let mut place = self.kept.get_or_init(Box::default);
        while place.copy.get().is_some() {
            place = place.more.get_or_init(Box::default);
        }
        place.copy.get_or_init(|| bytes)
    }
}

impl Drop for Kept {
    /// One by one: the chain is as long as the entries that one call looked at.
    fn drop(&mut self) {
        let mut next = self.more.take();
        while let Some(mut kept) = next {
            next = kept.more.take();
        }
    }
}

/// Reads of one store through [`Media::read`], and the pages that could not be read.
pub struct GuardedReads {
    media: Arc<dyn Media>,
    any_unreadable: AtomicBool,
    unreadable: Mutex<Unreadable>,
}

#[derive(Default)]
struct Unreadable {
    pages: BTreeSet<u64>,
    first: Option<Error>,
}

impl GuardedReads {
    /// Guards reads of `media`.
    ///
    /// # Errors
    /// `Unsupported` on a medium that only its mapping can read.
    pub fn new(media: Arc<dyn Media>) -> Result<GuardedReads> {
        if !media.reads_without_mapping() {
            let message = "sigbus = guard on a device-dax device: it can only be read through a mapping, where an \
                           unreadable line is a signal; a file on a DAX file system can be guarded";
            return Err(Error::Unsupported(message.into()));
        }
        Ok(GuardedReads { media, any_unreadable: AtomicBool::new(false), unreadable: Mutex::default() })
    }

    /// A copy of `range`. `None` if it lies outside the medium, or cannot be read: `scratch` then has the failure.
    pub fn copy<'a>(&self, range: MediaRange, scratch: &'a Scratch) -> Option<&'a [u8]> {
        if range.offset.checked_add(range.len)? > self.media.len_bytes() {
            return None;
        }
        match self.read(range) {
            Ok(bytes) => Some(scratch.keep(bytes)),
            Err(error) => {
                scratch.fail(error);
                None
            }
        }
    }

    fn read(&self, range: MediaRange) -> Result<Vec<u8>> {
        self.check_known(range)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(range.len as usize).map_err(|_| Error::Io {
            what: format!("allocate {} bytes to read pool offset {}", range.len, range.offset),
            errno: libc::ENOMEM,
        })?;
        bytes.resize(range.len as usize, 0);
        match self.media.read(range.offset, &mut bytes) {
            Err(Error::Io { .. }) => self.read_by_pages(range.offset, &mut bytes)?,
            answer => answer?,
        }
        Ok(bytes)
    }

    /// Finds which pages cannot be read, so that their neighbours are still served.
    #[cold]
    fn read_by_pages(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut failure = None;
        let mut at = 0;
        while at < into.len() {
            let place = offset + at as u64;
            let page = place - place % PAGE_BYTES;
            let end = into.len().min((page + PAGE_BYTES - offset) as usize);
            if let Err(error) = self.media.read(place, &mut into[at..end]) {
                self.note(page, &error);
                failure.get_or_insert(error);
            }
            at = end;
        }
        failure.map_or(Ok(()), Err)
    }

    fn note(&self, page: u64, error: &Error) {
        let mut unreadable = self.unreadable.lock();
        unreadable.pages.insert(page);
        unreadable.first.get_or_insert_with(|| error.clone());
        self.any_unreadable.store(true, Ordering::Release);
    }

    #[inline]
    fn check_known(&self, range: MediaRange) -> Result<()> {
        if self.has_unreadable() { self.check_listed(range) } else { Ok(()) }
    }

    #[cold]
    fn check_listed(&self, range: MediaRange) -> Result<()> {
        let from = range.offset - range.offset % PAGE_BYTES;
        match self.unreadable.lock().pages.range(from..range.end().max(from + 1)).next() {
            None => Ok(()),
            Some(page) => Err(Error::Io {
                what: format!("read of the page at pool offset {page}, which could not be read before"),
                errno: libc::EIO,
            }),
        }
    }

    /// True once a page could not be read.
    #[inline]
    pub fn has_unreadable(&self) -> bool {
        self.any_unreadable.load(Ordering::Acquire)
    }

    /// How many pages could not be read.
    pub fn unreadable_pages(&self) -> u64 {
        self.unreadable.lock().pages.len() as u64
    }

    /// The first failure, if there was one.
    pub fn first_failure(&self) -> Option<Error> {
        self.unreadable.lock().first.clone()
    }

    /// Whether all of `range` can be read now. Nothing is remembered.
    pub fn is_readable(&self, range: MediaRange) -> bool {
        let mut piece = vec![0; range.len.min(PROBE_BYTES) as usize];
        let mut at = range.offset;
        while at < range.end() {
            let len = (range.end() - at).min(PROBE_BYTES) as usize;
            if self.media.read(at, &mut piece[..len]).is_err() {
                return false;
            }
            at += len as u64;
        }
        true
    }
}
