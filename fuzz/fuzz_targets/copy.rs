//! One target of `tests/fuzz` under libFuzzer.
#![no_main]

#[path = "../../tests/fuzz/targets/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the others have files of their own")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("copy", data));
