//! Gives a valid schema of 48 MiB. Wanted: refused at registration, before it is parsed.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    let mut about = hostile::honest("liar_huge_schema");
    about.input_schema = alloc::format!("{{\"type\": \"object\", \"title\": \"{}\"}}", "x".repeat(hostile::BIG));
    about
}
