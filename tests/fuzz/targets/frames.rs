//! Frames of the worker protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_sandbox::fuzzing::frames(bytes));
