//! Makes the hostile components that Rust cannot express: instructions it has
//! no name for, and modules that hurt whoever compiles them. A program for the
//! building machine, run by `tools/build-guests`: `raw FOLDER`.
//!
//! | component | attack | wanted |
//! | --- | --- | --- |
//! | `raw_table` | grows a table until that is refused | `failed`, `limit.table` |
//! | `raw_recursion` | recursion that uses no memory | `failed`, `limit.stack` |
//! | `raw_multi_memory` | 90 memories in one module | refused at registration |
//! | `raw_instances` | 900 instances with a memory each | refused at registration |
//! | `raw_initial_memory` | asks for 4 GiB to begin with | refused at registration, or `failed`, `limit.memory` |
//! | `raw_initial_table` | asks for 10,000,000 table entries to begin with | refused at registration, or `failed`, `limit.table` |
//! | `raw_start` | its start function never ends | refused at registration, in bounded time |
//! | `raw_functions` | 200,000 functions | refused at registration, in bounded time and memory |
//! | `raw_large_function` | one function of 4 MB | the same |
//! | `raw_branches` | nested blocks with very large branch tables | the same |
//! | `raw_bad_pointer` | returns strings that lie outside of its memory | `failed`, `trap` |
//! | `raw_wrong_import` | a tool that imports what no host has, beside | refused at registration |
//! | `raw_wrong_export` | exports something else | refused at registration |
//! | `raw_realloc_traps`, `raw_realloc_outside` | memory for what the host passes is not given, or lies outside | `failed`, `trap` |
//! | `raw_realloc_spins`, `raw_post_return_spins` | code that the host calls by itself, before and after the call, never ends | `timed_out`, `limit.cpu_time` |
//! | `raw_realloc_calls_out` | calls the host while the host calls it | `failed`, `trap` |
//! | `raw_long_name`, `raw_name_not_text` | describes itself by what lies outside of its memory, or is no text | refused at registration |
//! | `raw_locals` | functions with as many variables as they can have | refused at registration, or it runs |
//! | `raw_blocks`, `raw_loops` | 100,000 blocks in each other, or 20,000 loops | refused at registration |
//! | `raw_many_imports` | 200 imports with names of 30,000 bytes | refused at registration, in a few words |
//! | `raw_types` | a type that doubles forty times | refused at registration |
//! | `raw_schema_*` | arguments that would take hours, or all of the stack, to check | not called |
//! | `raw_core_large` | a core module with preview 1's functions under other names, and 40,000 more that call them | refused at registration, or it runs |
//! | `raw_core_broken_world` | a core module whose world is cut off | refused at registration |
//! | `raw_core_large_world` | the same, and its world is 16 MB of nothing | refused at registration |
//! | `raw_core_types` | a core module whose world has a type that doubles forty times | refused at registration |
//! | `raw_core_command` | an old command | refused at registration: it exports no tool |
//! | `raw_core_env` | a core module that imports what no adapter has | refused at registration |
//! | `raw_truncated` | half a component | refused at registration |

mod abi;
mod bombs;
mod component;
mod core;
mod schemas;
#[cfg(test)]
mod table;

use std::path::Path;

use anyhow::{Context, Result};
use component::Guest;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("usage: raw FOLDER")?;
    std::fs::create_dir_all(&folder)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let wit = &component::Wit::read(&path)?;
    let put = |name: &str, bytes: Vec<u8>| std::fs::write(format!("{folder}/{name}.wasm"), bytes);

    for guest in [table(), recursion(), multi_memory(), initial_memory(), initial_table(), start(), bad_pointer()] {
        put(guest.name, guest.encode(wit)?)?;
    }
    for guest in abi::guests().into_iter().chain(schemas::guests()) {
        put(guest.name, guest.encode(wit)?)?;
    }
    put("raw_many_imports", wat::parse_str(bombs::imports())?)?;
    put("raw_types", wat::parse_str(bombs::types())?)?;
    for bomb in [
        bombs::functions(),
        bombs::large_function(),
        bombs::branches(),
        bombs::locals(),
        bombs::blocks(),
        bombs::loops(),
    ] {
        put(bomb.name, bomb.encode(wit)?)?;
    }
    let honest = |name| Guest::named(name).encode(wit);
    put("raw_instances", bombs::add_instances(honest("raw_instances")?, 900))?;
    let mut half = honest("raw_truncated")?;
    half.truncate(half.len() / 2);
    put("raw_truncated", half)?;
    for (name, module) in core::modules(wit)? {
        put(name, module)?;
    }
    put("raw_wrong_import", bombs::add_import(honest("raw_wrong_import")?, "door"))?;
    put("raw_wrong_export", wat::parse_str(component::WRONG_EXPORT)?)?;
    Ok(())
}

fn table() -> Guest {
    let mut guest = Guest::named("raw_table");
    guest.declarations = "(table $grown 0 funcref)".into();
    guest.call = "(loop $again
        (br_if $again (i32.ne (i32.const -1) (table.grow $grown (ref.null func) (i32.const 1000)))))
        (unreachable)"
        .into();
    guest
}

fn recursion() -> Guest {
    let mut guest = Guest::named("raw_recursion");
    guest.declarations =
        "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))".into();
    guest.call = "(drop (call $deep (i32.const 0)))".into();
    guest
}

fn multi_memory() -> Guest {
    let mut guest = Guest::named("raw_multi_memory");
    guest.declarations = "(memory 1)".repeat(90);
    guest
}

fn initial_memory() -> Guest {
    let mut guest = Guest::named("raw_initial_memory");
    guest.pages = 65_536;
    guest
}

fn initial_table() -> Guest {
    let mut guest = Guest::named("raw_initial_table");
    guest.declarations = "(table 10000000 funcref)".into();
    guest
}

fn start() -> Guest {
    let mut guest = Guest::named("raw_start");
    guest.declarations = "(func $start (loop $again (br $again))) (start $start)".into();
    guest
}

/// The address is that of the result, whose list begins near the memory's end.
fn bad_pointer() -> Guest {
    let mut guest = Guest::named("raw_bad_pointer");
    guest.call = "(i32.store (i32.const 4) (i32.const -16)) (i32.store (i32.const 8) (i32.const 1000000))".into();
    guest
}
