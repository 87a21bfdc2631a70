//! Waits and never ends, without using the processor. Wanted: `timed_out`,
//! `limit.wall_time`, and no thread of the host held meanwhile; `stdin` finds
//! no input and succeeds.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;
use wasip2::clocks::monotonic_clock;

hostile::attacks!("wait", run);

const HOUR: u64 = 3_600_000_000_000;

fn run(attack: &str) -> Outcome {
    match attack {
        "hour" => monotonic_clock::subscribe_duration(HOUR).block(),
        "for_ever" => monotonic_clock::subscribe_duration(u64::MAX).block(),
        "poll_many" => {
            let hours: Vec<_> = (0..100).map(|_| monotonic_clock::subscribe_duration(HOUR)).collect();
            wasip2::io::poll::poll(&hours.iter().collect::<Vec<_>>());
        }
        // Each sleep is short, so that only the sum of them is over the limit.
        "naps" => loop {
            monotonic_clock::subscribe_duration(20_000_000).block();
        },
        "stdin" => {
            let read = wasip2::cli::stdin::get_stdin().blocking_read(100);
            return hostile::survived(&json!({ "read": format!("{read:?}") }));
        }
        _ => return hostile::unknown(attack),
    }
    hostile::survived(&json!({ "woke": true }))
}
