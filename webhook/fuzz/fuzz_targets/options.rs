#![no_main]

// The other targets are in the same module.
#[allow(dead_code)]
#[path = "../../tests/robustness/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::options(input));
