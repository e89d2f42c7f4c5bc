//! Reading what can be read: a page that the medium cannot deliver is damage, like one that holds something else.

use crate::constants::PAGE_BYTES;
use crate::error::{Error, Result};
use crate::media::Media;
use crate::types::MediaRange;

/// Pages that could not be read.
#[derive(Default)]
pub struct Unreadable {
    /// In the order of their offsets, as far as they were asked for.
    pages: Vec<MediaRange>,
    /// The first failure.
    pub error: Option<Error>,
}

impl Unreadable {
    /// True if one of them lies in `range`.
    pub fn touches(&self, range: MediaRange) -> bool {
        self.pages.iter().any(|page| page.offset < range.end() && range.offset < page.end())
    }

    /// True if all of it was read.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// What of `range` was read.
    pub fn readable_parts(&self, range: MediaRange) -> Vec<MediaRange> {
        let (mut parts, mut at) = (Vec::new(), range.offset);
        for page in self.pages.iter().filter(|page| page.offset < range.end() && range.offset < page.end()) {
            if page.offset > at {
                parts.push(MediaRange::new(at, page.offset - at));
            }
            at = page.end().min(range.end());
        }
        if at < range.end() {
            parts.push(MediaRange::new(at, range.end() - at));
        }
        parts
    }
}

/// Reads `into.len()` bytes at `at`; pages that cannot be read become zeros, which no checksum verifies.
///
/// # Errors
/// Any but `EIO`: those are not about single pages.
pub fn read_what_can_be_read(media: &dyn Media, at: u64, into: &mut [u8]) -> Result<Unreadable> {
    let mut unreadable = Unreadable::default();
    match media.read(at, into) {
        Err(Error::Io { errno: libc::EIO, .. }) => {}
        answer => return answer.map(|()| unreadable),
    }
    let end = at + into.len() as u64;
    let mut start = at;
    while start < end {
        let next = ((start / PAGE_BYTES + 1) * PAGE_BYTES).min(end);
        let piece = &mut into[(start - at) as usize..(next - at) as usize];
        match media.read(start, piece) {
            Err(error @ Error::Io { errno: libc::EIO, .. }) => {
                piece.fill(0);
                unreadable.pages.push(MediaRange::new(start, next - start));
                unreadable.error.get_or_insert(error);
            }
            answer => answer?,
        }
        start = next;
    }
    Ok(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_without_its_unreadable_pages() {
        let range = MediaRange::new;
        let pages = vec![range(4096, 4096), range(8192, 4096), range(20_480, 4096)];
        let unreadable = Unreadable { pages, error: None };
        assert_eq!(unreadable.readable_parts(range(0, 4096)), [range(0, 4096)]);
        assert_eq!(unreadable.readable_parts(range(512, 24_064)), [range(512, 3584), range(12_288, 8192)]);
        assert_eq!(unreadable.readable_parts(range(5000, 1000)), []);
        assert!(unreadable.touches(range(0, 4097)) && !unreadable.touches(range(0, 4096)));
    }
}
