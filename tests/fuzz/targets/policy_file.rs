//! The text of policies.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead::policy::fuzzing::policy_file(bytes));
