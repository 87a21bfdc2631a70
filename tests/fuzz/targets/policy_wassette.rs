//! Policy files of Wassette.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead::policy::fuzzing::policy_wassette(bytes));
