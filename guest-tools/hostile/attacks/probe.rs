//! Looks for what it was not given. Wanted: `succeeded`, with no environment
//! variable, no argument, no terminal, no input, and the workspace at `/` as
//! the only directory. `clocks` shows how finely it can measure time.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;
use wasip2::cli::{environment, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens::get_directories;

hostile::attacks!("probe", run);

fn run(attack: &str) -> Outcome {
    match attack {
        "look" => hostile::survived(&json!({
            "environment": environment::get_environment(),
            "arguments": environment::get_arguments(),
            "directory": environment::initial_cwd(),
            "preopens": get_directories().into_iter().map(|(_, path)| path).collect::<Vec<_>>(),
            "terminals": [
                terminal_stdin::get_terminal_stdin().is_some(),
                terminal_stdout::get_terminal_stdout().is_some(),
                terminal_stderr::get_terminal_stderr().is_some(),
            ],
            "stdin": format!("{:?}", wasip2::cli::stdin::get_stdin().blocking_read(10)),
        })),
        "clocks" => {
            let mut steps: Vec<u64> = Vec::new();
            let mut last = monotonic_clock::now();
            for _ in 0..100_000 {
                let now = monotonic_clock::now();
                if now != last {
                    steps.push(now - last);
                }
                last = now;
            }
            let wall = wall_clock::now();
            hostile::survived(&json!({
                "monotonic_ns": last, "resolution_ns": monotonic_clock::resolution(),
                "smallest_step_ns": steps.iter().min(), "wall_seconds": wall.seconds,
            }))
        }
        _ => hostile::unknown(attack),
    }
}
