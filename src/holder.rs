//! Who has a pool open: the record of this process, and the words for another's.

use crate::constants::HOLDER_RECORD_BYTES;
use crate::format::HolderRecord;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The record of this process.
pub fn this_process() -> HolderRecord {
    HolderRecord {
        pid: std::process::id(),
        start_ticks: start_ticks("self").unwrap_or(0),
        opened_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        boot_id: boot_id(),
    }
}

/// Whoever left `record`, in words for the `Locked` error.
pub fn describe(record: &[u8; HOLDER_RECORD_BYTES]) -> String {
    let Some(holder) = HolderRecord::decode(record) else {
        return "the pool is open elsewhere; its holder left no record".into();
    };
    let since = format!("since {} s after 1970", holder.opened_unix_s);
    if holder.boot_id != boot_id() {
        return format!(
            "the pool is open elsewhere; the last writer was process {} {since}, before a reboot or on another machine",
            holder.pid
        );
    }
    match start_ticks(&holder.pid.to_string()) {
        Some(ticks) if ticks == holder.start_ticks => {
            format!("the pool is open in process {} {since}", holder.pid)
        }
        _ => format!(
            "the pool was opened by process {} {since}, which is gone: a forked child of it, or a reader, still holds the pool",
            holder.pid
        ),
    }
}

/// Field 22 of `/proc/<pid>/stat`: counted behind the command name, which may hold anything.
fn start_ticks(pid: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits are ASCII");
        *byte = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
    }
    id
}
