//! The built-in tools, embedded: one file is a complete host. They are
//! components like any other and get no rights that others don't.

/// A built-in tool.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// The name it is called by.
    pub name: &'static str,
    /// Its component.
    pub wasm: &'static [u8],
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
        for builtin in all() {
            // Magic number, version of the component encoding, layer "component".
            assert_eq!(builtin.wasm.get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]), "{}", builtin.name);
            assert_eq!(find(builtin.name).map(|found| found.wasm.len()), Some(builtin.wasm.len()));
        }
    }
}
