//! Has a name that breaks the rules. Wanted: refused at registration.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    hostile::honest("../Not a name\n")
}
