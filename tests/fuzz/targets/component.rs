//! Components that are registered.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_sandbox::fuzzing::component(bytes));
