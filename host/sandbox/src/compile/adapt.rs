//! Core modules on their way in: one that imports WASI preview 1 is made a
//! component around the adapter of the engine's own release. This runs in the
//! compile child, like all that reads what a guest's author wrote.
//!
//! A module that was built against `wit/` carries that world in a custom
//! section and becomes a tool. An old command becomes a component that exports
//! `wasi:cli/run`: nothing in it says what it is called or takes, so it is no tool.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as COMMAND,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::Problem;
use super::count::{kept, too_complex};
use super::externs::{self, GUEST};
use super::inspect::invalid;
use crate::bounds;

/// Begins the names of the custom sections that hold a world.
const WORLD: &str = "component-type";

/// What a command begins with.
const START: &str = "_start";

/// Longest word of the encoder's that is passed on, in bytes: it has hostile names in it.
const MAX_WHY: usize = 1_000;

/// What of a core module decides whether it can be adapted.
#[derive(Default)]
struct Module {
    /// Names of what it imports that no adapter and no world can give it, each once.
    unknown: Vec<String>,
    imports: u32,
    /// Bytes of the sections that hold its world; none: it was built for no world.
    world: Option<usize>,
    is_command: bool,
}

/// Makes a component of a core module that is valid and small enough.
pub(super) fn adapt(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let module = Module::read(bytes)?;
    module.check()?;
    let adapter = if module.world.is_none() { COMMAND } else { REACTOR };
    caught(|| encode(bytes, adapter)).map_err(|why| {
        let why = &why[..why.floor_char_boundary(MAX_WHY)];
        Problem::new("core_module", format!("the core module can't be made a component: {why}"))
    })
}

/// Makes a reason of a panic: the encoder is meant for what compilers write, and
/// may panic at what they don't. This process has nothing left to break.
fn caught<T>(encode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|_| Err("it is of a form that no toolchain writes".into()))
}

/// What artefacts of core modules depend on beside them: the adapters, and what
/// the encoder makes of a module, which has its version in it.
pub(super) fn fingerprint() -> Result<Vec<u8>, String> {
    let sample = encode(SAMPLE, COMMAND)?;
    Ok([COMMAND, REACTOR, &sample].concat())
}

/// The smallest command that writes: `_start`, a memory, and `fd_write` imported.
const SAMPLE: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x0c\x02\x60\0\0\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\
    \x02\x23\x01\x16wasi_snapshot_preview1\x08fd_write\0\x01\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\x01\
    \x0a\x04\x01\x02\0\x0b";

fn encode(module: &[u8], adapter: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.adapter(PREVIEW1, adapter))
        // What comes of it is validated like any component, with the engine's features.
        .and_then(|encoder| encoder.validate(false).encode());
    encoded.map_err(|error| format!("{error:#}"))
}

impl Module {
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            module.take(payload).map_err(|error| invalid(&error))?;
        }
        Ok(module)
    }

    fn take(&mut self, payload: wasmparser::Result<Payload<'_>>) -> wasmparser::Result<()> {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    self.imports = self.imports.saturating_add(1);
                    if !is_known(import.module) && self.imports <= bounds::MAX_EXTERNS {
                        let named = format!("{} {}", kept(import.module), kept(import.name));
                        self.unknown.push(kept(&named));
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.is_command |= export?.name == START;
                }
            }
            Payload::CustomSection(section) if section.name().starts_with(WORLD) => {
                *self.world.get_or_insert(0) += section.data().len();
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Problem> {
        if self.imports > bounds::MAX_EXTERNS {
            return Err(too_complex("it has more imports", "imports", self.imports, bounds::MAX_EXTERNS));
        }
        if let Some(size) =
            self.world.and_then(|size| u32::try_from(size).ok()).filter(|size| *size > bounds::MAX_WORLD)
        {
            return Err(too_complex("the description of its world is larger", "bytes", size, bounds::MAX_WORLD));
        }
        if !self.unknown.is_empty() {
            let text = format!(
                "the core module imports what the host does not have: {}. Of core modules `{PREVIEW1}` is adapted, and what \
                 `wit/tool.wit` offers if the module was built against it; build for wasm32-wasip1 or wasm32-wasip2",
                externs::listed(&self.unknown)
            );
            return Err(Problem::new("unknown_import", text));
        }
        if self.world.is_none() && !self.is_command {
            let text = format!(
                "this is a core WebAssembly module that no world was given to: it has no section `{WORLD}` and no export \
                 `{START}`. A tool exports `{GUEST}`: build it against wit/tool.wit (wit-bindgen writes that section) for \
                 wasm32-wasip1 or wasm32-wasip2"
            );
            return Err(Problem::new("core_module", text));
        }
        Ok(())
    }
}

/// Whether an adapter or a world can give what is imported from `module`: names
/// of interfaces have a colon, and what the encoder itself gives a bracket or `$`.
fn is_known(module: &str) -> bool {
    module == PREVIEW1 || module.contains(':') || module.starts_with(['[', '$'])
}

#[cfg(test)]
mod tests;
