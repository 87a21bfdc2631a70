//! Takes memory without end. Wanted: `failed`, `limit.memory`; a guest that
//! takes the refusal well (`polite`) succeeds, with fewer pages than 4 GiB.
//! `fill` also shows that memory which is only touched is counted.
#![cfg(target_arch = "wasm32")]

use std::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;

hostile::attacks!("memory", run);

/// Small enough that a slot keeps some of it mapped between calls, large enough
/// that it gives some of it back.
const RESIDUE_PAGES: usize = 64;

fn run(attack: &str) -> Outcome {
    match attack {
        "fill" => {
            let mut all = Vec::new();
            loop {
                all.push(black_box(vec![1u8; 1 << 20]));
            }
        }
        "double" => {
            let mut all = vec![1u8; 1 << 20];
            loop {
                all.extend_from_within(..);
                black_box(&all);
            }
        }
        "polite" => {
            while memory_grow::<0>(16) != usize::MAX {}
            hostile::survived(&json!({ "pages": memory_size::<0>(), "gib4": 65536 }))
        }
        // Refused again and again: refusals must be cheap, and not be logged
        // one by one. No more than a memory can have, so that it is the host's
        // limit which refuses. Ends by itself.
        "insist" => {
            let refused = (0..200_000).filter(|_| memory_grow::<0>(30_000) == usize::MAX).count();
            hostile::survived(&json!({ "refused": refused }))
        }
        // What an earlier guest left in this slot; leaves a pattern for the next.
        // Wanted: nothing seen, however often it is run.
        "residue" => {
            let at = memory_grow::<0>(RESIDUE_PAGES);
            if at == usize::MAX {
                return hostile::survived(&json!({ "seen": null }));
            }
            // SAFETY: these pages were made a moment ago and belong to nobody else.
            let pages = unsafe { std::slice::from_raw_parts_mut((at << 16) as *mut u8, RESIDUE_PAGES << 16) };
            let seen = pages.iter().filter(|byte| **byte != 0).count();
            pages.fill(0xA5);
            black_box(&pages);
            hostile::survived(&json!({ "seen": seen }))
        }
        _ => hostile::unknown(attack),
    }
}
