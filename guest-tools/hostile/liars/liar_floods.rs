//! Talks on every channel while it describes itself. Wanted: registered, and all of it
//! dropped; or refused.
#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use bulkhead_tool::Content;
use bulkhead_tool::Description;
use bulkhead_tool::host::{self, Level};

hostile::liar!(describe);
bulkhead_tool::slim!();

fn describe() -> Description {
    for _ in 0..10_000 {
        host::log(Level::Error, "noise", &[]);
        host::progress(1, None, None);
        let _ = host::emit(&Content::Text("noise".into()));
        let _ = wasip2::cli::stdout::get_stdout().blocking_write_and_flush(b"noise\n");
    }
    hostile::honest("liar_floods")
}
