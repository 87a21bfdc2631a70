//! What the host lets a worker say.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_sandbox::fuzzing::guard(bytes));
