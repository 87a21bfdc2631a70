//! Gives JSON that is no JSON Schema. Wanted: refused at registration.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Description;

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    let mut about = hostile::honest("liar_schema");
    about.input_schema = r#"{"type": 12, "properties": [1], "$ref": "file:///etc/passwd"}"#.into();
    about
}
