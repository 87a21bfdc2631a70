//! Policies and the requests that they decide.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_core::fuzzing::policy(bytes));
