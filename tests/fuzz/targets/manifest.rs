//! What a tool says of itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_core::fuzzing::manifest(bytes));
