//! What an import child answered.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_workspace::import::fuzzing::import_report(bytes));
