//! Never ends describing itself. Wanted: refused at registration, in bounded time.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    loop {
        core::hint::black_box(0);
    }
}
