#![no_main]

#[allow(dead_code, reason = "the other targets are in the same module")]
#[path = "../../tests/robustness/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::eject(input));
