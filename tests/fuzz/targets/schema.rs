//! Arguments against a schema.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bulkhead_core::fuzzing::schema(bytes));
