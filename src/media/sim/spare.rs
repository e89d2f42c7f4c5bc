//! Regions that are used again: a crash image then costs only the lines in which it differs from the last one.

use super::events::{Base, Log};
use crate::constants::{CACHE_LINE_BYTES, PAGE_BYTES};
use crate::media::Region;
use crate::sync::Arc;
use crate::types::MediaRange;
use std::cell::RefCell;

/// Regions kept per thread: the medium under test, and one more while a second crash is tried.
const SPARES_MAX: usize = 4;
/// Larger media are not kept.
const SPARE_BYTES_MAX: u64 = 16 << 20;

thread_local! {
    static SPARES: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
}

/// A region and the buffers of the medium that used it. It holds the base `base_id` except in the `touched` lines.
pub(super) struct Spare {
    pub(super) region: Arc<Region>,
    pub(super) capacity: u64,
    pub(super) base_id: u64,
    pub(super) base_len: usize,
    pub(super) touched: Vec<u64>,
    pub(super) log: Log,
}

impl Spare {
    /// A region of `capacity` bytes that holds `base` and zeroes behind it; nothing is touched, the log is empty.
    pub(super) fn take(capacity: u64, base: &Base) -> Spare {
        let found = SPARES.with(|spares| {
            let mut spares = spares.borrow_mut();
            let fits = |spare: &Spare| spare.capacity == capacity;
            let same = spares.iter().position(|spare| fits(spare) && spare.base_id == base.id);
            same.or_else(|| spares.iter().position(fits)).map(|index| spares.swap_remove(index))
        });
        let mut spare = found.unwrap_or_else(|| Spare {
            region: Arc::new(Region::anonymous(capacity).expect("memory for a simulated medium")),
            capacity,
            base_id: 0,
            base_len: 0,
            touched: vec![0; capacity.div_ceil(CACHE_LINE_BYTES * 64) as usize],
            log: Log::default(),
        });
        spare.restore(base);
        spare
    }

    /// Keeps it for the next medium of this thread.
    pub(super) fn give_back(mut spare: Spare) {
        debug_assert_eq!(
            Arc::strong_count(&spare.region),
            1,
            "whoever still reads it would see the next one's bytes"
        );
        if spare.capacity > SPARE_BYTES_MAX {
            return;
        }
        spare.log.clear();
        // Fails while the thread ends; the region is then simply freed.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() == SPARES_MAX {
                spares.remove(0);
            }
            spares.push(spare);
        });
    }

    fn restore(&mut self, base: &Base) {
        let same = self.base_id == base.id;
        if !same {
            self.region.copy_in(0, &base.bytes);
            zero(
                &self.region,
                base.bytes.len() as u64,
                (self.base_len as u64).saturating_sub(base.bytes.len() as u64),
            );
        }
        for index in 0..self.touched.len() {
            let mut word = std::mem::take(&mut self.touched[index]);
            while word != 0 {
                let first = word.trailing_zeros();
                let count = (word >> first).trailing_ones();
                word &= !(u64::MAX >> (64 - count) << first);
                let at = (index as u64 * 64 + u64::from(first)) * CACHE_LINE_BYTES;
                let len = (u64::from(count) * CACHE_LINE_BYTES).min(self.capacity - at);
                self.restore_range(base, MediaRange::new(at, len), same);
            }
        }
        self.base_id = base.id;
        self.base_len = base.bytes.len();
    }

    fn restore_range(&self, base: &Base, range: MediaRange, copy: bool) {
        let base_len = base.bytes.len() as u64;
        let copied_end = range.end().min(base_len).max(range.offset);
        if copy {
            self.region.copy_in(
                range.offset,
                &base.bytes[range.offset.min(base_len) as usize..copied_end.min(base_len) as usize],
            );
        }
        zero(&self.region, copied_end, range.end() - copied_end);
    }
}

pub(super) fn zero(region: &Region, at: u64, len: u64) {
    const ZEROES: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(PAGE_BYTES);
        region.copy_in(at + done, &ZEROES[..part as usize]);
        done += part;
    }
}

/// Notes that the lines of `len` bytes at `at` differ from the base.
pub(super) fn touch(touched: &mut [u64], at: u64, len: u64) {
    if len != 0 {
        for line in at / CACHE_LINE_BYTES..=(at + len - 1) / CACHE_LINE_BYTES {
            touched[(line / 64) as usize] |= 1 << (line % 64);
        }
    }
}
