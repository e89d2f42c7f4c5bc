//! What a verification says.

use crate::constants::FINDINGS_MAX;
use serde_json::{Value, json};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// The segment it concerns; 0 for what lies in none.
    pub segment: u64,
    /// Where in the pool, in bytes; 0 for what the store counts in memory.
    pub offset: u64,
    /// What there should be, if that is a number.
    pub expected: u64,
    /// What there is.
    pub found: u64,
}

/// What [`Store::verify`](crate::Store::verify) read and found. Bytes and entries are those of the scan, not the store's own
/// counts; where the two differ there is a finding.
#[derive(Clone, Debug, Default)]
#[must_use = "it says whether the store is sound"]
#[non_exhaustive]
pub struct Verification {
    /// Segments of the log that were read, and extent segments whose headers were.
    pub segments: u64,
    /// Slots in which the store has nothing, those included that were given back.
    pub free_segments: u64,
    /// Whole frames.
    pub frames: u64,
    /// Entries in them, dead ones included.
    pub entries: u64,
    /// Entries that the index leads to, tombstones included.
    pub live_entries: u64,
    /// Bytes of all entries.
    pub log_bytes: u64,
    /// Bytes of those that the index does not lead to.
    pub dead_bytes: u64,
    /// Bytes of tombstones that it does lead to.
    pub tombstone_bytes: u64,
    /// Bytes of the extents of live values, in whole blocks.
    pub extent_bytes: u64,
    /// Pieces of large values that were read.
    pub chunks: u64,
    /// Nothing was written and nothing was cleaned meanwhile, so the totals of the store's accounts and of its index were
    /// compared with the scan, too.
    pub is_quiet: bool,
    /// What is not as it should be; at most the first thousand.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
}

impl Verification {
    /// True if there are no findings.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Forgets what was found in a segment: it is scanned anew, or gone.
    pub(super) fn forget(&mut self, segment: u64) {
        self.findings.retain(|finding| finding.segment != segment);
    }

    /// Adds a finding if what is found is not what is expected.
    pub(super) fn compare(&mut self, what: &'static str, segment: u64, expected: u64, found: u64) {
        if expected != found {
            self.add(Finding { what, segment, offset: 0, expected, found });
        }
    }

    /// The same as JSON, with stable names.
    pub fn to_json(&self) -> String {
        let findings: Vec<Value> = self.findings.iter().map(Finding::to_json).collect();
        json!({
            "ok": self.is_ok(),
            "is_quiet": self.is_quiet,
            "segments": self.segments,
            "free_segments": self.free_segments,
            "frames": self.frames,
            "entries": self.entries,
            "live_entries": self.live_entries,
            "log_bytes": self.log_bytes,
            "dead_bytes": self.dead_bytes,
            "tombstone_bytes": self.tombstone_bytes,
            "extent_bytes": self.extent_bytes,
            "chunks": self.chunks,
            "findings": findings,
            "findings_left_out": self.findings_left_out,
        })
        .to_string()
    }
}

impl Finding {
    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "segment": self.segment,
            "offset": self.offset,
            "expected": self.expected,
            "found": self.found,
        })
    }
}
