//! The guests that `tools/build-guests` has built.

use std::path::PathBuf;

fn dist() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest-tools/dist")
}

/// A guest by its place under `guest-tools/dist`, without `.wasm`.
pub fn wasm(name: &str) -> Vec<u8> {
    let path = dist().join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run tools/build-guests", path.display()))
}
