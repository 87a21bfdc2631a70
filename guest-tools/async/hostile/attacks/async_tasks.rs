//! Tasks that don't end, or are too many. Wanted: `timed_out`, `limit.cpu_time`;
//! `failed`, `limit.handles`; and that what is given up is given back.
#![cfg(target_arch = "wasm32")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use async_hostile::{MANY, survived, unknown};
use bulkhead_async_tool::Outcome;
use bulkhead_async_tool::serde_json::json;
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::wit_bindgen::yield_async;

async_hostile::attacks!("async_tasks", run);

async fn run(attack: &str) -> Outcome {
    match attack {
        "spin" => loop {
            std::hint::spin_loop();
        },
        // Gives its turn back each time, to the engine alone.
        "spin_yielding" => loop {
            yield_async().await;
        },
        // Calls that are done at once.
        "spin_calling" => loop {
            wait_for(0).await;
        },
        "subtasks" => {
            let mut waiting: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
            for _ in 0..MANY {
                let mut wait = Box::pin(wait_for(3_600_000_000_000));
                let begun = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await;
                assert!(begun.is_pending());
                waiting.push(wait);
            }
            survived(&json!({ "kept": waiting.len(), "refused": false }))
        }
        // Begun and given up at once: what was kept of each must go.
        "subtasks_given_up" => {
            for _ in 0..20_000 {
                let mut wait = Box::pin(wait_for(3_600_000_000_000));
                let begun = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await;
                assert!(begun.is_pending());
            }
            survived(&json!({ "refused": true }))
        }
        "large_result" => Ok(bulkhead_async_tool::text("x".repeat(40 << 20))),
        _ => unknown(attack),
    }
}
