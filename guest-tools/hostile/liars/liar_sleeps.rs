//! Sleeps for an hour over its description. Wanted: refused at registration, in bounded time.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    wasip2::clocks::monotonic_clock::subscribe_duration(3_600_000_000_000).block();
    hostile::honest("liar_sleeps")
}
