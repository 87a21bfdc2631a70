//! The built-in tools, embedded: one file is a complete host. They are
//! components like any other and get no rights that others don't.
//!
//! They lie packed in the executable, their digests beside them: a host that has them
//! in its store touches none of their pages.

use std::io;

use bulkhead_core::digest::Digest;
use bytes::Bytes;
use flate2::Decompress;
use flate2::FlushDecompress;

/// A built-in tool.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// The name it is called by.
    pub name: &'static str,
    /// The size of its component, in bytes.
    pub size: usize,
    /// The digest of its component.
    pub digest: Digest,
    /// Its component as zlib (RFC 1950).
    packed: &'static [u8],
}

impl Builtin {
    /// Its component.
    ///
    /// # Errors
    /// If the executable is damaged: what is in it can't be unpacked.
    pub fn component(&self) -> io::Result<Bytes> {
        let mut wasm = Vec::with_capacity(self.size);
        Decompress::new(true).decompress_vec(self.packed, &mut wasm, FlushDecompress::Finish)?;
        if Digest::of(&wasm) != self.digest {
            let text = format!("the built-in tool `{}` is damaged in this executable; install it anew", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(wasm.into())
    }
}

static ALL: &[Builtin] = &include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// Every built-in tool, by name.
pub fn all() -> &'static [Builtin] {
    ALL
}

/// The built-in tool called `name`.
pub fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_tools_are_components() {
        assert!(!all().is_empty());
        for builtin in all() {
            let wasm = builtin.component().expect("what was packed");
            // Magic number, version of the component encoding, layer "component".
            assert_eq!(wasm.get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]), "{}", builtin.name);
            assert_eq!(wasm.len(), builtin.size, "{}", builtin.name);
            assert_eq!(find(builtin.name).map(|found| found.digest), Some(builtin.digest));
        }
    }

    #[test]
    fn a_damaged_one_is_no_component() {
        let whole = all().first().expect("a built-in tool");
        let cut = Builtin { packed: &whole.packed[..whole.packed.len() / 2], ..*whole };
        assert_eq!(cut.component().expect_err("half of it").kind(), io::ErrorKind::InvalidData);
        assert!(Builtin { packed: b"not zlib", ..*whole }.component().is_err());
    }
}
