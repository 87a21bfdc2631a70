//! Burns processor time and never ends. Wanted: `timed_out`,
//! `limit.cpu_time`, whether or not the guest ever calls the host; a
//! neighbour's calls stay quick meanwhile.
#![cfg(target_arch = "wasm32")]

use std::hint::black_box;

use bulkhead_tool::Outcome;
use wasip2::clocks::monotonic_clock;

hostile::attacks!("cpu", run);

fn run(attack: &str) -> Outcome {
    match attack {
        "spin" => loop {
            black_box(0);
        },
        "spin_ready" => {
            let never = monotonic_clock::subscribe_duration(u64::MAX);
            loop {
                black_box(never.ready());
            }
        }
        "spin_clock" => loop {
            black_box(monotonic_clock::now());
        },
        "spin_cancelled" => loop {
            black_box(bulkhead_tool::host::is_cancelled());
        },
        // One instruction that works for long: an interruption comes between
        // two of them only.
        "spin_copy" => {
            let mut memory = vec![1u8; 16 << 20];
            loop {
                let half = memory.len() / 2;
                memory.copy_within(..half, half);
                black_box(&memory);
            }
        }
        // The host does all the work: one handle, listed as often as there
        // one list may, and ready at once.
        "poll_lists" => {
            let ready = monotonic_clock::subscribe_duration(0);
            let list = vec![&ready; 256];
            loop {
                black_box(wasip2::io::poll::poll(&list));
            }
        }
        _ => hostile::unknown(attack),
    }
}
