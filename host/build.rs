//! Embeds the built-in tools: lists `guest-tools/dist/*.wasm`. It builds and
//! downloads nothing; the components are made by `tools/build-guests`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Allows a host without built-in tools, for work on the host alone.
const WITHOUT: &str = "BULKHEAD_WITHOUT_GUESTS";

fn main() -> Result<(), String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("cargo sets {name}"));
    let dist = variable("CARGO_MANIFEST_DIR")?.join("../guest-tools/dist");
    println!("cargo::rerun-if-env-changed={WITHOUT}");
    println!("cargo::rerun-if-changed={}", dist.display());
    let components = components(&dist)?;
    if components.is_empty() && std::env::var_os(WITHOUT).is_none_or(|value| value != "1") {
        return Err(format!(
            "the built-in tools are not built: guest-tools/dist has no .wasm file. \
             Run tools/build-guests first, or set {WITHOUT}=1 for a host without them"
        ));
    }
    let mut list = String::from("[\n");
    for component in components {
        println!("cargo::rerun-if-changed={}", component.display());
        let name = component.file_stem().and_then(|name| name.to_str()).ok_or("a component's name is not UTF-8")?;
        // The debug form of a path is a valid literal for every path that is UTF-8.
        writeln!(list, "    Builtin {{ name: {name:?}, wasm: include_bytes!({component:?}) }},")
            .map_err(|e| e.to_string())?;
    }
    list.push(']');
    let out = variable("OUT_DIR")?.join("builtin.rs");
    std::fs::write(&out, list).map_err(|error| format!("{}: {error}", out.display()))
}

/// The components, by name; those in folders below (fixtures, hostile) are not tools.
fn components(dist: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(dist) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", dist.display())),
    };
    let mut components = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "wasm") {
            components.push(path.canonicalize().map_err(|error| error.to_string())?);
        }
    }
    components.sort();
    Ok(components)
}
