//! Stores on simulated media, for crash tests (feature `sim`). Not part of the stable interface.

use crate::error::Result;
use crate::format::HolderRecord;
use crate::options::Options;
use crate::store::Store;
use crate::sync::Arc;

pub use crate::checksum::CheckSite;
#[cfg(feature = "sim")]
pub use crate::media::sim;
pub use crate::media::{CallFault, CallSite, Media, Site, set_call_fault_hook};
pub use crate::types::MediaRange;

/// Options of a small pool with the same code: 4 KiB segments, 8 KiB head, one log, nothing in the background.
pub fn options() -> Options {
    let mut options = Options::new().segment_size_bytes(4096).head_size_bytes(8192);
    options.background = false;
    options.logs = Some(1);
    options
}

/// The same with `logs` logs.
pub fn with_logs(mut options: Options, logs: usize) -> Options {
    options.logs = Some(logs);
    options
}

/// Opens the pool on `media`, formatting it if the medium is empty.
///
/// # Errors
/// As [`Store::open`].
pub fn open_on(media: Arc<dyn Media>, options: Options) -> Result<Store> {
    options.validate()?;
    let is_new = media.len_bytes() == 0;
    // The same in every run: a simulation depends on nothing but its seed.
    let holder = HolderRecord { pid: 1, start_ticks: 1, opened_unix_s: 1, boot_id: [1; 16] };
    Store::open_on(media, is_new, options, &holder)
}

/// Ends a store as a killed process would: nothing more is written.
pub fn kill(store: &Store) {
    store.abandon();
}
