//! Keys in no order, and the time that a thread was on a core.

/// A bijection: keys that never meet.
pub fn scatter(key: u64) -> u64 {
    let key = (key ^ key >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (key ^ key >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

pub fn key(i: u64) -> [u8; 8] {
    scatter(i).to_be_bytes()
}

/// Nanoseconds that the calling thread ran so far.
pub fn on_core_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstat");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
}
