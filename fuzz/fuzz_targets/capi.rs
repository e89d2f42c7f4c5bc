#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flatkv_fuzz::capi::run(data));
