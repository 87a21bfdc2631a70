//! Says far too much on every channel. Wanted: `succeeded`, with what is over
//! the limit left out and the cut shown as an event; the host's memory does
//! not grow. The `_for_ever` ones ignore every refusal: `timed_out`,
//! `limit.cpu_time` or, where the host slows them, `limit.wall_time`.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::bindings::bulkhead::tool::progress::{Step, report};
use bulkhead_tool::host::{self, Level};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Blob, Content, Outcome};
use wasip2::cli::{stderr, stdout};
use wasip2::io::streams::OutputStream;

hostile::attacks!("flood", run);

/// Bytes written, unless the host closes the stream before.
const FLOOD: usize = 64 << 20;

fn run(attack: &str) -> Outcome {
    let line = format!("{}\n", "x".repeat(4095));
    let taken = match attack {
        "stdout" => print(&stdout::get_stdout(), line.as_bytes()),
        "stderr" => print(&stderr::get_stderr(), line.as_bytes()),
        // Many small pieces, so that it is their number that hurts.
        "stdout_bytes" => {
            let out = stdout::get_stdout();
            (0..1_000_000).take_while(|_| out.blocking_write_and_flush(b"y").is_ok()).count()
        }
        // Not text, and half characters: must not break an event.
        "stdout_garbage" => print(&stdout::get_stdout(), &[0xff, 0xc3, 0x00, 0x1b, b'[', b'2', b'J', 0x0a].repeat(512)),
        "emit" => (0..100_000).take_while(|_| host::emit(&Content::Text(line.clone())).is_ok()).count(),
        "emit_small" => (0..1_000_000).filter(|_| host::emit(&Content::Text("z".into())).is_ok()).count(),
        // Nothing, a million times: it is not their bytes that must be counted.
        "emit_empty" => (0..1_000_000).take_while(|_| host::emit(&Content::Text(String::new())).is_ok()).count(),
        // Costs no byte, so that only the time of it can be counted.
        "empty_writes" => {
            let out = stdout::get_stdout();
            loop {
                let _ = out.blocking_write_and_flush(b"");
            }
        }
        "log_empty" => {
            (0..200_000).for_each(|_| host::log(Level::Debug, "", &[("", ""); 16]));
            200_000
        }
        // Parsers that recurse overflow their stack here.
        "emit_deep_json" => {
            let deep = "[".repeat(100_000) + &"]".repeat(100_000);
            usize::from(host::emit(&Content::Json(deep)).is_ok())
        }
        "emit_invalid" => {
            let bad = [
                Content::Json("{".into()),
                Content::Json(String::new()),
                Content::Blob(Blob { media_type: "no type\r\nX: y".into(), data: vec![1] }),
                Content::Blob(Blob { media_type: "a/".repeat(200), data: vec![] }),
            ];
            bad.iter().filter(|part| host::emit(part).is_ok()).count()
        }
        "log" => {
            (0..200_000).for_each(|_| host::log(Level::Error, &line, &[("field", "value")]));
            200_000
        }
        "log_fields" => {
            let field = "f".repeat(4096);
            let fields = vec![(field.as_str(), field.as_str()); 64];
            (0..1000).for_each(|_| host::log(Level::Info, "\r\n{\"event\": \"forged\"}", &fields));
            1000
        }
        "progress" => wrong_progress(),
        "progress_often" => progress_often(),
        "stdout_for_ever" => loop {
            let _ = stdout::get_stdout().blocking_write_and_flush(line.as_bytes());
        },
        "emit_for_ever" => loop {
            let _ = host::emit(&Content::Text(line.clone()));
        },
        _ => return hostile::unknown(attack),
    };
    hostile::survived(&json!({ "taken": taken }))
}

fn print(stream: &OutputStream, piece: &[u8]) -> usize {
    let pieces = FLOOD / piece.len();
    (0..pieces).take_while(|_| stream.blocking_write_and_flush(piece).is_ok()).count()
}

fn step(done: u64, total: Option<u64>, message: Option<String>) -> bool {
    report(&Step { done, total, message }).is_ok()
}

/// Backwards, beyond the total, with a changing total and a long message. How many
/// were taken: must be 0.
fn wrong_progress() -> usize {
    let mut wrong = 0;
    step(50, Some(100), None);
    wrong += usize::from(step(10, Some(100), None));
    wrong += usize::from(step(101, Some(100), None));
    wrong += usize::from(step(60, Some(1000), None));
    wrong += usize::from(step(u64::MAX, Some(100), None));
    wrong += usize::from(step(60, Some(100), Some("m".repeat(1 << 20))));
    wrong
}

/// Very often. Each may be taken: what counts is how many are told.
fn progress_often() -> usize {
    (0..1_000_000).for_each(|_| {
        step(70, Some(100), Some("often".into()));
    });
    0
}
