//! What a compile child printed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_sandbox::fuzzing::compile_report(bytes));
