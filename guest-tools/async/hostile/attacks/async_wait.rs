//! Waits for ever. Wanted: `timed_out`, `limit.wall_time`.
#![cfg(target_arch = "wasm32")]

use async_hostile::{survived, unknown};
use bulkhead_async_tool::Outcome;
use bulkhead_async_tool::serde_json::json;
use wasip3::clocks::monotonic_clock::{wait_for, wait_until};

async_hostile::attacks!("async_wait", run);

async fn run(attack: &str) -> Outcome {
    match attack {
        "for_ever" => {
            wait_until(u64::MAX).await;
            survived(&json!({ "waited": true }))
        }
        // Woken by the clock each time, and hardly ever running.
        "again_and_again" => loop {
            wait_for(1_000_000).await;
        },
        _ => unknown(attack),
    }
}
