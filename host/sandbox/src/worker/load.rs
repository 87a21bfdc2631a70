//! Loads compiled components into the worker's engine.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::{Component, ComponentExportIndex, Linker};

use super::run::Loaded;
use super::state::State;
use super::{fs, http, imports, io, wasi_03};
use crate::compile::{ASYNC_GUEST, GUEST};
use crate::engine::Flavour;

/// A linker with everything a tool of this flavour may import.
pub(super) fn linker(engine: &Engine, flavour: Flavour) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    io::link(&mut linker)?;
    fs::link(&mut linker)?;
    http::link(&mut linker)?;
    linker.allow_shadowing(false);
    imports::link(&mut linker)?;
    if flavour == Flavour::Wasi03 {
        wasi_03::link(&mut linker)?;
    }
    Ok(linker)
}

/// Loads the artefact behind a descriptor that the host passed. `descriptors`
/// is where those of this process are found by number.
pub(super) fn load(linker: &Linker<State>, descriptors: &Path, artifact: &OwnedFd) -> wasmtime::Result<Loaded> {
    let component = deserialize(linker.engine(), descriptors, artifact)?;
    let exported = |name: &'static str| Some((name, component.get_export_index(None, name)?));
    let (interface, guest) = exported(GUEST)
        .or_else(|| exported(ASYNC_GUEST))
        .ok_or_else(|| wasmtime::format_err!("the component does not export `{GUEST}`"))?;
    let function = |name: &str| -> wasmtime::Result<ComponentExportIndex> {
        let index = component.get_export_index(Some(&guest), name);
        index.ok_or_else(|| wasmtime::format_err!("the component does not export `{interface}` `{name}`"))
    };
    let (call, describe) = (function("call")?, function("describe")?);
    Ok(Loaded { pre: linker.instantiate_pre(&component)?, call, describe })
}

#[expect(unsafe_code, reason = "loading code that our own compiler made; the proof is beside it")]
fn deserialize(engine: &Engine, descriptors: &Path, artifact: &OwnedFd) -> wasmtime::Result<Component> {
    // Through the descriptor, not by name: what is loaded is the file that the
    // host has checked, whatever its name points to by now.
    let path = descriptors.join(artifact.as_raw_fd().to_string());
    // SAFETY: the file must be what this version of the engine's compiler
    // wrote. The descriptor came over the socket that only the host holds. The
    // host opened it in a directory that only it can write, without following
    // links, and before it sent it compared the SHA-256 of the whole file with
    // the digest it recorded when its own compile child made it. Version and
    // settings are in the file's name and are checked again by the engine. The
    // file is never written after it was made, so the mapping can't change.
    unsafe { Component::deserialize_file(engine, path) }
}
