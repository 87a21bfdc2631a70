//! Guests that break the canonical ABI, or abuse what the host calls by itself:
//! what gives memory to it, what frees the result, and the description's texts.

use crate::component::Guest;

const SPIN: &str = "(loop $again (br $again))";

pub fn guests() -> [Guest; 7] {
    let mut spins_after = Guest::named("raw_post_return_spins");
    spins_after.declarations = post_return(SPIN);
    let mut long = Guest::named("raw_long_name");
    long.name_length = Some(u32::MAX);
    let mut not_text = Guest::named("raw_name_not_text");
    // Behind its own texts lies the number of the next free address.
    not_text.name_length = Some(64);
    not_text.declarations = r#"(data (i32.const 260) "\ff\fe\c0\80")"#.into();
    [
        realloc("raw_realloc_traps", "(unreachable)"),
        realloc("raw_realloc_outside", "(return (i32.const -64))"),
        realloc("raw_realloc_spins", SPIN),
        calls_out(),
        spins_after,
        long,
        not_text,
    ]
}

fn realloc(name: &'static str, body: &str) -> Guest {
    let mut guest = Guest::named(name);
    guest.realloc = body.into();
    guest
}

/// Its export is in the middle of being called: it may not leave.
fn calls_out() -> Guest {
    let mut guest = Guest::named("raw_realloc_calls_out");
    guest.imports = r#"(import "bulkhead:tool/cancellation@0.1.0" "requested" (func $requested (result i32)))"#.into();
    guest.realloc = "(drop (call $requested))".into();
    guest
}

fn post_return(body: &str) -> String {
    format!(r#"(func (export "cabi_post_bulkhead:tool/guest@0.1.0#call") (param i32) {body})"#)
}
