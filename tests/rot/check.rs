//! Opens damaged images and judges what they show.

use super::pool::{End, HEAD_BYTES, Known, POOL_BYTES, Pool, SEGMENT_BYTES, slot_of};
use flatkv::testing::sim::SimMedia;
use flatkv::testing::{self, Media};
use flatkv::{Error, Store};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Of the keys outside the hit segment, so many are served in the worst case.
const SERVED_PERCENT_MIN: usize = 90;
pub const VIOLATIONS_MAX: usize = 20;
const VIOLATIONS_PRINTED: usize = 8;
pub const SECTOR_BYTES: u64 = 512;

/// Not captured, so that figures are seen in every log.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What became of one damaged image.
#[derive(Default, Clone)]
pub struct Tally {
    pub opens: u64,
    refused: u64,
    untouched: u64,
    repaired: u64,
    with_corrupted_keys: u64,
    in_blind_spot: u64,
    worst_served_percent: usize,
    pub violations: Vec<String>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally { worst_served_percent: 100, ..Tally::default() }
    }

    pub fn merge(&mut self, other: Tally) {
        self.opens += other.opens;
        self.refused += other.refused;
        self.untouched += other.untouched;
        self.repaired += other.repaired;
        self.with_corrupted_keys += other.with_corrupted_keys;
        self.in_blind_spot += other.in_blind_spot;
        self.worst_served_percent = self.worst_served_percent.min(other.worst_served_percent);
        self.violations.extend(other.violations);
    }

    pub fn finish(&self, name: &str, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        report(&format!(
            "{name}: {} opens in {seconds:.1} s ({:.0}/s): {} refused, {} repaired, {} with CORRUPTED keys, {} untouched, \
             {} in the blind spot; worst share served outside the hit segment {} %; {} violations",
            self.opens,
            self.opens as f64 / seconds,
            self.refused,
            self.repaired,
            self.with_corrupted_keys,
            self.untouched,
            self.in_blind_spot,
            self.worst_served_percent,
            self.violations.len(),
        ));
        self.violations.iter().take(VIOLATIONS_PRINTED).for_each(|line| report(&format!("  {line}")));
        assert!(self.violations.is_empty(), "{name}: {} violations", self.violations.len());
    }
}

/// What a kind of damage may do.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Opening may be refused wherever it strikes, else only as [`Pool::may_be_refused`] says.
    pub refusal: bool,
    /// One bit: it must not cost keys outside its segment, nor any that a repair can save.
    pub single: bool,
    /// The last acknowledged group may be taken for a torn tail.
    pub blind_spot: bool,
}

fn stat(store: &Store, name: &str) -> u64 {
    let json = store.stats_json();
    let (_, rest) = json.split_once(&format!("\"{name}\":")).expect("the statistic exists");
    rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

fn is_hit(known: &Known, hit: &Range<u64>) -> bool {
    let meets = |range: &Range<u64>| range.start < hit.end && hit.start < range.end;
    meets(&known.entry) || known.blob.iter().any(meets)
}

/// Reads every key of a store whose pool is damaged in `hit`.
pub fn read_all(pool: &Pool, store: &Store, hit: &Range<u64>, terms: Terms, tally: &mut Tally) {
    let slots = (slot_of(hit.start), slot_of(hit.end - 1));
    let (mut corrupted, mut outside, mut served, mut stale) = (0, 0, 0, 0);
    for known in &pool.keys {
        let places = std::iter::once(&known.entry).chain(&known.blob);
        let is_outside =
            places.into_iter().all(|at| slot_of(at.start) < slots.0 || slot_of(at.start) > slots.1);
        outside += usize::from(is_outside);
        let name = String::from_utf8_lossy(&known.key);
        match store.get(&known.key) {
            Ok(found) if found == known.shown => {
                served += usize::from(is_outside);
                // The very bytes that are hit cannot be right unless they were repaired, and that is counted.
            }
            Ok(found) if terms.blind_spot && found == known.before => stale += 1,
            Ok(found) => tally.violations.push(format!(
                "{hit:?}: {name} shows {:?} bytes instead of {:?}",
                found.map(|bytes| bytes.len()),
                known.shown.as_ref().map(Vec::len)
            )),
            Err(Error::Corrupted { .. }) => corrupted += 1,
            Err(error) => tally.violations.push(format!("{hit:?}: {name}: {error}")),
        }
    }
    if stale > 0 {
        tally.in_blind_spot += 1;
        let in_group = hit.start < pool.last_group.end && pool.last_group.start < hit.end;
        if !in_group || stale > 1 {
            tally.violations.push(format!("{hit:?}: {stale} keys are older than the last group"));
        }
    }
    let percent = (100 * served).checked_div(outside).unwrap_or(100);
    tally.worst_served_percent = tally.worst_served_percent.min(percent);
    if terms.single && percent < SERVED_PERCENT_MIN {
        tally.violations.push(format!("{hit:?}: {served} of {outside} keys outside its segment are served"));
    }
    let is_table = terms.single && (hit.start < HEAD_BYTES || pool.may_be_refused(hit.start));
    if is_table && corrupted > 0 {
        tally.violations.push(format!("{hit:?}: no entry is damaged, and {corrupted} keys are refused"));
    }
    tally.with_corrupted_keys += u64::from(corrupted > 0);
    if corrupted == 0 && stale == 0 {
        let hits_live = pool.keys.iter().any(|known| is_hit(known, hit));
        if hits_live {
            // Right though its bytes are not: that must have been noticed.
            let noticed = stat(store, "repaired_frames");
            tally.repaired += u64::from(noticed > 0);
            if terms.single && noticed == 0 {
                tally.violations.push(format!("{hit:?}: a live entry is damaged and nobody noticed"));
            }
        } else {
            tally.untouched += 1;
        }
    }
}

pub fn open(media: &Arc<SimMedia>) -> flatkv::Result<Store> {
    testing::open_on(media.clone(), testing::options())
}

/// Opens one damaged image and reads every key.
pub fn try_image(pool: &Pool, media: SimMedia, hit: &Range<u64>, terms: Terms, tally: &mut Tally) {
    tally.opens += 1;
    let media = Arc::new(media);
    match open(&media) {
        Ok(store) => {
            read_all(pool, &store, hit, terms, tally);
            media.power_off();
        }
        Err(Error::Corrupted { .. } | Error::Incomplete(_))
            if terms.refusal || pool.may_be_refused(hit.start) =>
        {
            tally.refused += 1;
        }
        Err(error) => tally.violations.push(format!("{hit:?}: open failed: {error}")),
    }
}

/// As [`try_image`], and goes on: a second open after a kill, a clean close, a third open, writes that cure, and a fourth one.
pub fn try_image_on(pool: &Pool, media: SimMedia, hit: &Range<u64>, terms: Terms, tally: &mut Tally) {
    tally.opens += 1;
    let media = Arc::new(media);
    for round in 0..4 {
        let store = match open(&media) {
            Ok(store) => store,
            Err(Error::Corrupted { .. } | Error::Incomplete(_))
                if round == 0 && (terms.refusal || pool.may_be_refused(hit.start)) =>
            {
                tally.refused += 1;
                return;
            }
            Err(error) => return tally.violations.push(format!("{hit:?}: open {round} failed: {error}")),
        };
        let before = tally.violations.len();
        if round == 3 {
            for known in &pool.keys {
                let cured = store.get(&known.key);
                if !matches!(&cured, Ok(Some(value)) if value == b"cured") {
                    tally.violations.push(format!("{hit:?}: what was cured is not: {cured:?}"));
                }
            }
        } else {
            read_all(pool, &store, hit, terms, tally);
        }
        if round == 2 {
            for known in &pool.keys {
                let cured = store.put(&known.key, b"cured").and_then(|()| store.get(&known.key));
                if !matches!(&cured, Ok(Some(value)) if value == b"cured") {
                    tally.violations.push(format!("{hit:?}: a put does not cure: {cured:?}"));
                }
            }
        }
        tally.violations[before..].iter_mut().for_each(|line| line.push_str(&format!(" (open {round})")));
        if round == 1 { store.close().expect("close") } else { testing::kill(&store) }
    }
}

/// Loses, or with `stale` reverts, each sector of the pool in turn, and goes on with what is left.
pub fn lost_sectors(pool: &Pool, stale: bool, tally: &mut Tally) {
    let terms = Terms { refusal: true, single: false, blind_spot: false };
    for at in (0..POOL_BYTES).step_by(SECTOR_BYTES as usize) {
        let hit = at..at + SECTOR_BYTES;
        let in_group = hit.start < pool.last_group.end && pool.last_group.start < hit.end;
        if pool.end == End::Killed && in_group {
            // Rule 7: nothing proves what lay in the last sector of a log that did not end cleanly.
            continue;
        }
        let older = pool.older.get(at as usize..(at + SECTOR_BYTES) as usize);
        let contents = match older {
            Some(older) if stale => vec![older.to_vec()],
            _ if stale => vec![],
            _ => [0, 0xFF].map(|byte| vec![byte; SECTOR_BYTES as usize]).into(),
        };
        for bytes in contents {
            try_image_on(pool, pool.media.rotten(&[(at, &bytes)]), &hit, terms, tally);
        }
    }
}

/// Flips every bit of the live entries while the store is open, between two reads. True if that was noticed too late.
pub fn rot_under_an_open_store(pool: &Pool, end: Instant, tally: &mut Tally) -> bool {
    const OP_HEAD_BYTES: u64 = 7;
    let media = Arc::new(pool.media.rotten(&[]));
    let store = open(&media).expect("an undamaged pool opens");
    for known in pool.keys.iter().filter(|known| known.shown.is_some()) {
        let range = known.entry.start - OP_HEAD_BYTES..known.entry.end;
        for at in range.chain(known.blob.iter().flat_map(|piece| piece.clone())) {
            let old = pool.image[at as usize];
            for bit in 0..8 {
                media.write(at, &[old ^ 1 << bit]).expect("simulated");
                tally.opens += 1;
                let found = store.get(&known.key);
                if !matches!(&found, Ok(found) if *found == known.shown)
                    && !matches!(found, Err(Error::Corrupted { .. }))
                {
                    tally.violations.push(format!(
                        "bit {bit} of {at} under an open store: {} shows {:?}",
                        String::from_utf8_lossy(&known.key),
                        found.map(|value| value.map(|bytes| bytes.len()))
                    ));
                    return true;
                }
            }
            media.write(at, &[old]).expect("simulated");
        }
        if Instant::now() > end {
            break;
        }
    }
    false
}

/// Parts of a large batch whose place is taken by something else that verifies.
pub fn forged_parts(pool: &Pool, tally: &mut Tally) {
    let terms = Terms { refusal: true, single: false, blind_spot: false };
    for at in (HEAD_BYTES..POOL_BYTES).step_by(64) {
        let mut forged = pool.image.clone();
        if testing::forge_mark(&mut forged, at, HEAD_BYTES, SEGMENT_BYTES) {
            let mut bytes = forged[at as usize..].iter().zip(&pool.image[at as usize..]);
            let len = bytes.rposition(|(new, old)| new != old).expect("a change") as u64 + 1;
            let end = (at + len) as usize;
            try_image(
                pool,
                pool.media.rotten(&[(at, &forged[at as usize..end])]),
                &(at..at + len),
                terms,
                tally,
            );
        }
    }
    assert!(tally.opens > 1, "the pool has parts");
}

/// Two flipped bits in each key: the entry is beyond repair, and would be filed under another key.
pub fn two_flips_in_keys(pool: &Pool, tally: &mut Tally) {
    let terms = Terms { refusal: false, single: false, blind_spot: pool.end == End::Killed };
    for known in &pool.keys {
        let at = known.entry.start;
        let old = &pool.image[at as usize..at as usize + 2];
        let flipped = [old[0] ^ 1, old[1] ^ 1];
        try_image(pool, pool.media.rotten(&[(at, &flipped)]), &(at..at + 2), terms, tally);
    }
}

/// Every segment in turn replaced by a copy of another one, and by nothing.
pub fn lost_segments(pool: &Pool, tally: &mut Tally) {
    let terms = Terms { refusal: true, single: false, blind_spot: false };
    let slots = (POOL_BYTES - HEAD_BYTES) / SEGMENT_BYTES;
    let bytes_of = |slot: u64| {
        let at = (HEAD_BYTES + slot * SEGMENT_BYTES) as usize;
        &pool.image[at..at + SEGMENT_BYTES as usize]
    };
    for slot in 0..slots {
        let at = HEAD_BYTES + slot * SEGMENT_BYTES;
        let hit = at..at + SEGMENT_BYTES;
        for other in (0..slots).filter(|other| *other != slot) {
            try_image(pool, pool.media.rotten(&[(at, bytes_of(other))]), &hit, terms, tally);
        }
        let zeroes = [0; SEGMENT_BYTES as usize];
        try_image(pool, pool.media.rotten(&[(at, &zeroes)]), &hit, terms, tally);
        let id = u64::from_le_bytes(bytes_of(slot)[24..32].try_into().unwrap());
        let is_sealed = bytes_of(slot)[262..264] == 0x9696_u16.to_le_bytes();
        if is_sealed {
            let error = open(&Arc::new(pool.media.rotten(&[(at, &zeroes)]))).err();
            let name = format!("segment {id} in slot {slot}");
            if !matches!(&error, Some(Error::Incomplete(what)) if what.contains(&name)) {
                tally.violations.push(format!("{name} is missing, and that is reported as {error:?}"));
            }
        }
    }
}
