//! Embeds the built-in tools: packs `guest-tools/dist/*.wasm` and lists them. It builds
//! and downloads nothing; the components are made by `tools/build-guests`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::{Digest as _, Sha256};

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
    let out = variable("OUT_DIR")?;
    let mut list = String::from("[\n");
    for component in components {
        println!("cargo::rerun-if-changed={}", component.display());
        let name = component.file_stem().and_then(|name| name.to_str()).ok_or("a component's name is not UTF-8")?;
        let wasm = std::fs::read(&component).map_err(|error| format!("{}: {error}", component.display()))?;
        let packed = out.join(name).with_extension("wasm.zlib");
        std::fs::write(&packed, pack(&wasm)?).map_err(|error| format!("{}: {error}", packed.display()))?;
        let (size, digest): (_, [u8; 32]) = (wasm.len(), Sha256::digest(&wasm).into());
        // The debug form of a path is a valid literal for every path that is UTF-8.
        writeln!(
            list,
            "    Builtin {{ name: {name:?}, size: {size}, digest: Digest::from_bytes({digest:?}), \
             packed: include_bytes!({packed:?}) }},"
        )
        .map_err(|error| error.to_string())?;
    }
    list.push(']');
    let out = out.join("builtin.rs");
    std::fs::write(&out, list).map_err(|error| format!("{}: {error}", out.display()))?;
    if packs_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// A component as it is embedded: a quarter of its size.
fn pack(wasm: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(wasm).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

/// Whether the executable's table of relocations may be packed (`DT_RELR`), which the
/// loader reads whole when the host or a worker starts: 2 MiB otherwise, in each of
/// them. It takes glibc 2.36; an executable for this machine is linked with its own.
fn packs_relocations() -> bool {
    let is = |variable: &str, value: &str| std::env::var(variable).is_ok_and(|found| found == value);
    let here = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    if !here || !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return false;
    }
    let said = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = said.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let version = said.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let number = |text: &str| text.split('.').next().and_then(|text| text.parse::<u32>().ok());
    let version = version.and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    version.is_some_and(|version| version >= (2, 36))
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
