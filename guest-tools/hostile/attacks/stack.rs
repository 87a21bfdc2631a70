//! Calls itself without end. Wanted: `failed`, `limit.stack`; with large frames
//! the guest's own stack in its memory is the first to go, which the host sees
//! as a `trap`.
#![cfg(target_arch = "wasm32")]

use std::hint::black_box;

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;

hostile::attacks!("stack", run);

fn run(attack: &str) -> Outcome {
    match attack {
        "frames" => hostile::survived(&json!({ "depth": deep(black_box(1)) })),
        "large_frames" => hostile::survived(&json!({ "depth": large(black_box(1)) })),
        _ => hostile::unknown(attack),
    }
}

/// Keeps nothing in memory, so that it is the host's stack that grows.
#[inline(never)]
fn deep(n: u64) -> u64 {
    if n == 0 { 0 } else { deep(n.wrapping_add(1)).wrapping_mul(n) ^ deep(n.wrapping_add(2)) }
}

#[inline(never)]
fn large(n: u64) -> u64 {
    let frame = black_box([n; 512]);
    frame[(n % 512) as usize].wrapping_add(if n == 0 { 0 } else { large(n + 1) })
}
