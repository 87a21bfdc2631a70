//! Core modules that hurt whoever adapts them. What they are for is said in `main.rs`.

use std::fmt::Write;

use anyhow::{Context, Result};
use wasm_encoder::{ComponentSection as _, CustomSection};

use crate::component::{Guest, Wit};

const FD_WRITE: &str =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))"#;

pub fn modules(wit: &Wit) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let command = format!(r#"(module {FD_WRITE} (memory (export "memory") 1) (func (export "_start")))"#);
    let env = format!(
        r#"(module {FD_WRITE} (import "env" "system" (func (param i32) (result i32))) (memory (export "memory") 1))"#
    );
    let honest = Guest { imports: FD_WRITE.into(), ..Guest::named("raw_core_broken_world") }.core(wit)?;
    Ok(vec![
        ("raw_core_large", large().core(wit)?),
        ("raw_core_broken_world", with_world(honest.clone(), &world_of(&honest)?[..40])),
        ("raw_core_large_world", with_world(honest, &vec![0; 16 << 20])),
        ("raw_core_types", types()?),
        ("raw_core_command", wat::parse_str(command)?),
        ("raw_core_env", wat::parse_str(env)?),
    ])
}

/// Looks like an adapter: it exports what preview 1 has, and what adapters import of it.
fn large() -> Guest {
    let mut guest = Guest::named("raw_core_large");
    guest.imports = FD_WRITE.into();
    for name in
        ["fd_read", "fd_write", "path_open", "proc_exit", "cabi_import_realloc", "cabi_export_realloc", "_initialize"]
    {
        let _ = write!(guest.declarations, r#"(func (export "{name}") unreachable)"#);
    }
    let function = "(func (drop (call $fd_write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))";
    guest.declarations += &function.repeat(40_000);
    guest
}

/// The section that holds a module's world is its last one.
fn world_of(module: &[u8]) -> Result<&[u8]> {
    let name = b"component-type";
    let at = module.windows(name.len()).rposition(|window| window == name).context("no world")?;
    Ok(&module[at + name.len()..])
}

fn with_world(mut module: Vec<u8>, world: &[u8]) -> Vec<u8> {
    CustomSection { name: "component-type:second".into(), data: world.into() }.append_to_component(&mut module);
    module
}

/// Each type is two of the one before.
fn types() -> Result<Vec<u8>> {
    let types = (1..=40).fold("type t0 = tuple<u8, u8>;".to_string(), |mut text, n| {
        let _ = write!(text, "type t{n} = tuple<t{0}, t{0}>;", n - 1);
        text
    });
    let world = format!(
        "package evil:types; interface i {{ {types} f: func(p: t40) -> t40; }} world w {{ import i; export i; }}"
    );
    let mut module = wat::parse_str(
        r#"(module (import "evil:types/i" "f" (func (param i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
            (func (export "evil:types/i#f") (param i32) (result i32) (i32.const 0)))"#,
    )?;
    Wit::parse(&world, "w")?.embed(&mut module)?;
    Ok(module)
}
