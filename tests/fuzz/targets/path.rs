//! Paths in a workspace.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_core::fuzzing::path(bytes));
