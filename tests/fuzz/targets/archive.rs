//! Archives that are unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_workspace::import::fuzzing::archive(bytes));
