//! Ends in every way but returning. Wanted: `failed`, `trap` for what no guest
//! recovers from and `exit` where it left on purpose; what it has shown before
//! stays shown, and the next call finds nothing of this one.
#![cfg(target_arch = "wasm32")]

use std::hint::black_box;

use bulkhead_tool::{Content, Outcome, host};

hostile::attacks!("crash", run);

fn run(attack: &str) -> Outcome {
    match attack {
        "unreachable" => std::arch::wasm32::unreachable(),
        "panic" => panic!("a guest's panic, \u{1b}[31mred\u{1b}[0m"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "exit_failure" => std::process::exit(7),
        "null" => {
            // SAFETY: none; the address is outside of the memory.
            let byte = unsafe { black_box(usize::MAX as *const u8).read_volatile() };
            Ok(bulkhead_tool::text(format!("{byte}")))
        }
        "wrong_call" => {
            // SAFETY: none; the function has another type.
            let call: fn(u64, u64) -> u64 = unsafe { std::mem::transmute(black_box(run as fn(&str) -> Outcome)) };
            Ok(bulkhead_tool::text(format!("{}", call(1, 2))))
        }
        "after_output" => {
            for part in 1..=3 {
                let _ = host::emit(&Content::Text(format!("part {part}")));
            }
            println!("a line, and one without an end");
            print!("half a li");
            std::arch::wasm32::unreachable()
        }
        _ => hostile::unknown(attack),
    }
}
