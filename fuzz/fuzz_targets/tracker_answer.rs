#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sparewire_sim::fuzz::tracker_answer(data));
