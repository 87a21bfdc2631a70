//! Wants a million capabilities. Wanted: refused at registration.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Capability;
use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    let mut about = hostile::honest("liar_capabilities");
    about.capabilities = alloc::vec![Capability::Secret("s".into()); 1_000_000];
    about
}
