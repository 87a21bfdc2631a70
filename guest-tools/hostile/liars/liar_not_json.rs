//! Gives a schema that is no JSON. Wanted: refused at registration.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    let mut about = hostile::honest("liar_not_json");
    about.input_schema = "{\"type\": \"object\"".into();
    about
}
