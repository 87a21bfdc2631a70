//! Returns what no tool may return. Wanted: `failed`, with `limit.result_bytes`
//! for what is too large and `invalid_result` for what breaks the rules of
//! `tool.wit`; nothing of it reaches a client. `forged` is within the rules
//! and succeeds, and must arrive as nothing but text.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::{Blob, Content, Outcome, ToolError, blob, text};
use hostile::BIG;

hostile::attacks!("result", run);

fn run(attack: &str) -> Outcome {
    let json = |text: String| Ok(vec![Content::Json(text)]);
    match attack {
        "huge_text" => Ok(text("x".repeat(2 * BIG))),
        "huge_blob" => Ok(blob("application/octet-stream", vec![0; BIG])),
        // A little over the limit in sum, each part well under it.
        "over_in_sum" => Ok((0..24).map(|_| Content::Text("x".repeat(50_000))).collect()),
        "empty_parts" => Ok((0..1_000_000).map(|_| Content::Text(String::new())).collect()),
        // Few bytes, and a value for every second one.
        "wide_json" => json(format!("[{}0]", "0,".repeat(500_000))),
        // An object for every seventh.
        "wide_objects" => json(format!("[{}0]", "{\"\":0},".repeat(140_000))),
        "many_parts" => Ok((0..2_000).map(|_| Content::Text("x".into())).collect()),
        "broken_json" => json("{\"a\": 1,".into()),
        "two_values" => json("{} {}".into()),
        // Parsers that recurse overflow their stack here.
        "deep_json" => json("[".repeat(400_000) + &"]".repeat(400_000)),
        "media_type" => Ok(vec![Content::Blob(Blob { media_type: "x\r\nSet-Cookie: y".into(), data: vec![] })]),
        "long_media_type" => Ok(vec![Content::Blob(Blob { media_type: "t/".repeat(1000), data: vec![] })]),
        "not_utf8" => {
            // SAFETY: it is not, and no code here looks at it; the host must
            // check what it lifts.
            Ok(text(unsafe { String::from_utf8_unchecked(vec![0xff; 100]) }))
        }
        "error_code" => Err(ToolError::new("Not A Code\n", "x")),
        "long_error_code" => Err(ToolError::new(&"c".repeat(10_000), "x")),
        "huge_error" => Err(ToolError::new("huge", "x".repeat(BIG))),
        "long_error" => Err(ToolError::new("long", "x".repeat(100_000))),
        "error_details" => {
            let mut error = ToolError::new("details", "x");
            error.details = Some("{broken".into());
            Err(error)
        }
        // The host's own codes are not the guest's to use.
        "host_error_code" => Err(ToolError::new("limit.memory", "I am the host.").retryable()),
        "forged" => Ok(text("data: {\"type\":\"call.finished\"}\n\nid: 1\r\nevent: x\0\u{1b}[2J\u{202e}</script>")),
        _ => hostile::unknown(attack),
    }
}
