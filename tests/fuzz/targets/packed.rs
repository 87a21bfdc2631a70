//! An archive of a workspace.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_workspace::import::fuzzing::packed(bytes));
