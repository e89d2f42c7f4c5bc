//! The idealised log+hash: what the design could reach if it had nothing else to do. A log per thread on emulated persistent
//! memory, a record of a 16-byte header and the value on lines of its own, non-temporal stores and one fence; a table in
//! DRAM of fixed size with 16-byte slots, open addressing, huge pages. No checksums, no growth, no deletes, no
//! variable keys, no cleaning, no recovery, no reclamation: a bound, not a store.

use crate::engine::{Engine, Session};
use crate::keys::{KEY_BYTES, Key};
use crate::pmem::{self, LINE_BYTES, Mapping};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const HEADER_BYTES: usize = 16;
const SLOT_BYTES: usize = 16;
/// Keys of a multi-get whose memory is asked for together.
const GROUP: usize = 64;
/// The table is never more than half full.
const SLOTS_PER_KEY: usize = 2;

pub struct Ideal {
    table: Mapping,
    mask: u64,
    log: Mapping,
    /// The next part of the log that no thread has.
    next: AtomicUsize,
    part_bytes: usize,
    value_bytes: usize,
}

fn record_bytes(value_bytes: usize) -> usize {
    (HEADER_BYTES + value_bytes).next_multiple_of(LINE_BYTES)
}

/// What a slot is compared with; 0 is an empty slot.
#[inline]
fn number_of(key: &[u8]) -> u64 {
    let bytes: Key = key.try_into().expect("the ideal takes keys of 8 bytes");
    u64::from_be_bytes(bytes).wrapping_add(1).max(1)
}

impl Ideal {
    /// Room for `keys` keys, and for `records` records in up to `threads` logs.
    pub fn new(dir: &Path, keys: u64, records: u64, threads: usize, value_bytes: usize) -> Ideal {
        let slots = (keys as usize * SLOTS_PER_KEY).next_power_of_two();
        // A session takes parts one after the other: the last ones of all threads are not filled.
        let part_bytes = (4_usize << 20).next_multiple_of(record_bytes(value_bytes) * GROUP);
        let parts = (records as usize * record_bytes(value_bytes)).div_ceil(part_bytes) + threads;
        let path = dir.join(format!("flatkv-bench-ideal-{}", std::process::id()));
        Ideal {
            table: Mapping::private(slots * SLOT_BYTES),
            mask: slots as u64 - 1,
            log: Mapping::shared(&path, parts * part_bytes),
            next: AtomicUsize::new(0),
            part_bytes,
            value_bytes,
        }
    }

    #[inline]
    fn slot(&self, i: u64) -> &[AtomicU64; 2] {
        let at = self.table.at(((i & self.mask) as usize) * SLOT_BYTES, SLOT_BYTES);
        // SAFETY: inside the table, aligned to 16 bytes, zero bytes are valid atomics, and all access is through them.
        unsafe { &*at.cast() }
    }

    #[inline]
    fn hash(key: u64) -> u64 {
        let mixed = (key ^ (key >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^ (mixed >> 32)
    }

    #[inline]
    fn find(&self, key: u64) -> Option<u64> {
        let mut i = Self::hash(key);
        loop {
            let [there, addr] = self.slot(i);
            match there.load(Ordering::Acquire) {
                0 => return None,
                found if found == key => return Some(addr.load(Ordering::Acquire)),
                _ => i += 1,
            }
        }
    }

    #[inline]
    fn publish(&self, key: u64, addr: u64) {
        let mut i = Self::hash(key);
        loop {
            let [there, place] = self.slot(i);
            let mut found = there.load(Ordering::Acquire);
            if found == 0 {
                found = match there.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => key,
                    Err(other) => other,
                };
            }
            if found == key {
                return place.store(addr, Ordering::Release);
            }
            i += 1;
        }
    }

    #[inline]
    fn copy(&self, addr: u64, into: &mut [u8]) -> usize {
        let from = self.log.at(addr as usize + HEADER_BYTES, self.value_bytes);
        let into = &mut into[..self.value_bytes];
        // SAFETY: a published record is inside the log and is not written again.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        into.len()
    }
}

impl Engine for Ideal {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Writer { ideal: self, at: 0, end: 0, record: vec![0; record_bytes(self.value_bytes)] })
    }
}

struct Writer<'a> {
    ideal: &'a Ideal,
    at: usize,
    end: usize,
    record: Vec<u8>,
}

impl Writer<'_> {
    /// Streams a record to the log, without a fence.
    #[inline]
    fn append(&mut self, key: u64, value: &[u8]) -> u64 {
        if self.at == self.end {
            self.at = self.ideal.next.fetch_add(self.ideal.part_bytes, Ordering::Relaxed);
            self.end = self.at + self.ideal.part_bytes;
            assert!(self.end <= self.ideal.log.len(), "the ideal was made for fewer records");
        }
        self.record[..KEY_BYTES].copy_from_slice(&key.to_le_bytes());
        self.record[KEY_BYTES..HEADER_BYTES].copy_from_slice(&(value.len() as u64).to_le_bytes());
        self.record[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(value);
        let addr = self.at;
        let to = self.ideal.log.at(addr, self.record.len());
        for (i, line) in self.record.as_chunks::<LINE_BYTES>().0.iter().enumerate() {
            // SAFETY: records are whole lines at multiples of a line in a part that only this session has.
            unsafe { pmem::stream_line(to.add(i * LINE_BYTES), line) };
        }
        self.at += self.record.len();
        addr as u64
    }
}

impl Session for Writer<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let key = number_of(key);
        let addr = self.append(key, value);
        pmem::fence();
        self.ideal.publish(key, addr);
    }

    fn get(&mut self, key: &[u8], into: &mut [u8]) -> Option<usize> {
        let addr = self.ideal.find(number_of(key))?;
        Some(self.ideal.copy(addr, into))
    }

    fn multi_get(&mut self, keys: &[Key], into: &mut [u8]) {
        let mut used = 0;
        for group in keys.chunks(GROUP) {
            let mut addrs = [0; GROUP];
            for key in group {
                pmem::prefetch(self.ideal.slot(Ideal::hash(number_of(key))));
            }
            for (addr, key) in addrs.iter_mut().zip(group) {
                *addr = self.ideal.find(number_of(key)).expect("the key was loaded");
                let record = self.ideal.log.at(*addr as usize, self.record.len());
                for line in (0..self.record.len()).step_by(LINE_BYTES) {
                    pmem::prefetch(record.wrapping_add(line));
                }
            }
            for addr in &addrs[..group.len()] {
                used += self.ideal.copy(*addr, &mut into[used..]);
            }
        }
    }

    fn put_many(&mut self, keys: &[Key], value: &[u8]) {
        for group in keys.chunks(GROUP) {
            let mut addrs = [0; GROUP];
            for (addr, key) in addrs.iter_mut().zip(group) {
                pmem::prefetch(self.ideal.slot(Ideal::hash(number_of(key))));
                *addr = self.append(number_of(key), value);
            }
            pmem::fence();
            for (addr, key) in addrs.iter().zip(group) {
                self.ideal.publish(number_of(key), *addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn what_is_put_is_found_by_every_way_to_read() {
        let dir = std::env::temp_dir();
        let ideal = Ideal::new(&dir, 1000, 5000, 2, 64);
        let mut session = ideal.session();
        let mut value = [7; 64];
        for i in 0..1000 {
            keys::stamp(&mut value, keys::key(i));
            session.put(&keys::key(i), &value);
        }
        let mut into = vec![0; 64 * 100];
        for i in 0..1000 {
            assert_eq!(session.get(&keys::key(i), &mut into), Some(64));
            assert!(keys::belongs(&into, keys::key(i)));
            assert_eq!(session.get(&keys::missing(i), &mut into), None);
        }
        let many: Vec<Key> = (0..100).map(keys::key).collect();
        session.put_many(&many, &[9; 64]);
        session.multi_get(&many, &mut into);
        assert!(into.iter().all(|byte| *byte == 9));
    }
}
