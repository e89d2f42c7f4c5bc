//! What the fuzz targets do with an input. Also compiled into `tests/corpus.rs`, which replays every kept input.
//!
//! Every target panics where a promise is broken. Each is deterministic: one thread, nothing random, no clock.

pub mod capi;
pub mod decoders;
pub mod image;
pub mod input;
pub mod open_image;
pub mod ops;
pub mod spaces;
