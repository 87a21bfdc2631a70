//! Describes itself in 48 MiB. Wanted: refused at registration.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    let mut about = hostile::honest("liar_huge_description");
    about.description = "x".repeat(hostile::BIG);
    about
}
