//! Hands the host so much in one call that taking it would cost it memory.
//! Wanted: `failed`, `limit.host_memory` before anything is copied, and
//! `limit.random_bytes` for randomness without end, `limit.poll_list` for a list
//! that takes long to look at.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::host::{self, Level};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Blob, Content, Outcome};
use hostile::BIG;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};

hostile::attacks!("hostmem", run);

fn run(attack: &str) -> Outcome {
    let result = match attack {
        "log" => {
            host::log(Level::Info, &"x".repeat(BIG), &[]);
            "taken".into()
        }
        "log_fields" => {
            host::log(Level::Info, "x", &vec![("k", "v"); 1_000_000]);
            "taken".into()
        }
        "emit_text" => format!("{:?}", host::emit(&Content::Text("x".repeat(BIG)))),
        "emit_blob" => {
            let part = Content::Blob(Blob { media_type: "a/b".into(), data: vec![0; BIG] });
            format!("{:?}", host::emit(&part))
        }
        "progress" => {
            host::progress(1, None, Some(&"x".repeat(BIG)));
            "taken".into()
        }
        "random" => format!("{}", wasip2::random::random::get_random_bytes(1 << 30).len()),
        "insecure_random" => format!("{}", wasip2::random::insecure::get_insecure_random_bytes(1 << 30).len()),
        "random_in_pieces" => loop {
            std::hint::black_box(wasip2::random::random::get_random_bytes(4096));
        },
        // One handle, listed very often: no limit on handles helps.
        "poll" => {
            let soon = monotonic_clock::subscribe_duration(1);
            format!("{}", wasip2::io::poll::poll(&vec![&soon; 10_000_000]).len())
        }
        // As long as the limit on handles lets a list be: each of it is lent.
        "poll_list" => {
            let soon = monotonic_clock::subscribe_duration(1);
            format!("{}", wasip2::io::poll::poll(&vec![&soon; 900]).len())
        }
        "path" => {
            let root = get_directories().pop().expect("the workspace").0;
            let path = "p/".repeat(BIG / 2);
            format!("{:?}", root.open_at(PathFlags::empty(), &path, OpenFlags::CREATE, DescriptorFlags::READ).err())
        }
        "write" => format!("{:?}", wasip2::cli::stdout::get_stdout().write(&vec![b'x'; BIG])),
        _ => return hostile::unknown(attack),
    };
    hostile::survived(&json!({ "result": result }))
}
