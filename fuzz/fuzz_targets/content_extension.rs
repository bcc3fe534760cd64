#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sparewire_sim::fuzz::content_extension(data));
