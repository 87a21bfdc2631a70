//! Looks at a component before it is compiled: what it is, what it wants, and
//! whether it is small enough to be worth a compiler's while.

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentExternalKind, Encoding, Instance, Parser, Payload, Validator, WasmFeatures};

use super::Problem;
use super::externs::{self, GUEST};
use crate::bounds;

/// What a component is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Size in bytes.
    pub size: u64,
    /// Names it imports.
    pub imports: Vec<String>,
    /// Names it exports.
    pub exports: Vec<String>,
    /// Core modules in it.
    pub modules: u32,
    /// Core instances made when it is instantiated.
    pub core_instances: u32,
    /// Memories in its modules.
    pub memories: u32,
    /// Tables in its modules.
    pub tables: u32,
    /// Functions in its modules.
    pub functions: u32,
    /// Size of the largest function body, in bytes.
    pub largest_function: u32,
    /// Why it can't be a tool, if it can't.
    pub problem: Option<Problem>,
}

/// Looks at bytes. Never fails: what is wrong with them is in the answer.
pub fn inspect_component(bytes: &[u8]) -> Inspection {
    let mut inspection = Inspection { size: bytes.len() as u64, ..Inspection::default() };
    inspection.problem = inspection.read(bytes).err();
    inspection
}

fn invalid(error: &wasmparser::BinaryReaderError) -> Problem {
    Problem::new("invalid_wasm", format!("the component is not valid: {error}"))
}

/// The proposals that the engine has switched on.
fn features() -> WasmFeatures {
    let off = crate::engine::switched_off!(WasmFeatures) | WasmFeatures::CM_ASYNC;
    WasmFeatures::default().difference(off)
}

impl Inspection {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        if bytes.len() > bounds::MAX_COMPONENT {
            let text =
                format!("the component has {} bytes; at most {} are allowed", bytes.len(), bounds::MAX_COMPONENT);
            return Err(Problem::new("too_large", text));
        }
        check_head(bytes)?;
        self.count(bytes)?;
        self.check_counts()?;
        Validator::new_with_features(features()).validate_all(bytes).map_err(|error| invalid(&error))?;
        self.check_externs()
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        // Depth of what is being read: 1 is the component itself.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| invalid(&error))?;
            match &payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                _ => {}
            }
            if depth > bounds::MAX_NESTING {
                return Err(too_complex("it is nested more deeply", "levels", bounds::MAX_NESTING));
            }
            self.count_payload(payload, depth).map_err(|error| invalid(&error))?;
            // Before the whole is read: a list of a million costs nothing to write.
            self.check_counts()?;
        }
        Ok(())
    }

    fn count_payload(&mut self, payload: Payload<'_>, depth: u32) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => self.modules += 1,
            Payload::FunctionSection(section) => self.functions = self.functions.saturating_add(section.count()),
            Payload::MemorySection(section) => self.memories = self.memories.saturating_add(section.count()),
            Payload::TableSection(section) => self.tables = self.tables.saturating_add(section.count()),
            Payload::CodeSectionEntry(body) => {
                let size = u32::try_from(body.range().len()).unwrap_or(u32::MAX);
                self.largest_function = self.largest_function.max(size);
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance? {
                        self.core_instances = self.core_instances.saturating_add(1);
                    }
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.into_iter().take(bounds::MAX_EXTERNS as usize + 1) {
                    self.imports.push(kept(import?.name.name));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.into_iter().take(bounds::MAX_EXTERNS as usize + 1) {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Instance {
                        self.exports.push(kept(export.name.name));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Problem> {
        if self.imports.iter().chain(&self.exports).any(|name| name.len() > bounds::MAX_EXTERN_NAME) {
            let most = u32::try_from(bounds::MAX_EXTERN_NAME).unwrap_or(u32::MAX);
            return Err(too_complex("one of its imports or exports has a longer name", "bytes", most));
        }
        let externs = |names: &[String]| u32::try_from(names.len()).unwrap_or(u32::MAX);
        let counts = [
            ("it has more functions", "functions", self.functions, bounds::MAX_FUNCTIONS),
            ("one of its functions is larger", "bytes", self.largest_function, bounds::MAX_FUNCTION_BODY),
            ("it makes more core instances", "core instances", self.core_instances, bounds::MAX_CORE_INSTANCES),
            ("it has more memories", "memories", self.memories, bounds::MAX_MEMORIES),
            ("it has more tables", "tables", self.tables, bounds::MAX_TABLES),
            ("it has more imports", "imports", externs(&self.imports), bounds::MAX_EXTERNS),
            ("it has more exports", "exports", externs(&self.exports), bounds::MAX_EXTERNS),
        ];
        match counts.into_iter().find(|(_, _, count, max)| count > max) {
            Some((what, unit, _, max)) => Err(too_complex(what, unit, max)),
            None => Ok(()),
        }
    }

    fn check_externs(&self) -> Result<(), Problem> {
        let unknown: Vec<String> = self.imports.iter().filter(|name| !externs::may_import(name)).cloned().collect();
        if !unknown.is_empty() {
            return Err(Problem::new("unknown_import", externs::unknown(&unknown)));
        }
        if !self.exports.iter().any(|name| name == GUEST) {
            let text = format!("the component does not export `{GUEST}`; a tool exports that interface (wit/tool.wit)");
            return Err(Problem::new("missing_export", text));
        }
        Ok(())
    }
}

/// A name, or as much of it as shows that it is too long.
fn kept(name: &str) -> String {
    name[..name.ceil_char_boundary(bounds::MAX_EXTERN_NAME + 1)].to_owned()
}

fn too_complex(what: &str, unit: &str, max: u32) -> Problem {
    Problem::new("too_complex", format!("the component is too complex: {what} than the {max} {unit} allowed"))
}

/// Tells what is no WebAssembly, or the wrong kind of it.
fn check_head(bytes: &[u8]) -> Result<(), Problem> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Problem::new("not_wasm", "this is not WebAssembly: it does not begin with the bytes `\\0asm`"));
    }
    if Parser::is_component(bytes) {
        return Ok(());
    }
    if Parser::is_core_wasm(bytes) {
        let text = "this is a core WebAssembly module; a tool is a component. Build for wasm32-wasip2, or make a component of it \
                    with `wasm-tools component new`";
        return Err(Problem::new("core_module", text));
    }
    Err(Problem::new("invalid_wasm", "the header is cut off or of an unknown version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        inspect_component(bytes).problem.map(|problem| problem.code).unwrap_or_default()
    }

    fn wat(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("the test's WAT is valid")
    }

    #[test]
    fn every_wrong_thing_has_its_name() {
        assert_eq!(problem(b"MZ"), "not_wasm");
        assert_eq!(problem(b""), "not_wasm");
        assert_eq!(problem(b"\0asm"), "invalid_wasm");
        assert_eq!(problem(&wat("(module)")), "core_module");
        assert_eq!(problem(&wat("(component)")), "missing_export");
        let component = wat("(component (core module (func) (func)))");
        assert_eq!(problem(&component[..component.len() - 1]), "invalid_wasm");
        let import = wat("(component (import \"wasi:http/types@0.3.0\" (instance)))");
        let inspection = inspect_component(&import);
        let problem = inspection.problem.expect("an unknown import");
        assert_eq!(problem.code, "unknown_import");
        assert!(problem.reason.contains("`wasi:http/types@0.3.0` (WASI 0.3 is not supported"), "{}", problem.reason);
    }

    #[test]
    fn what_is_too_much_is_named() {
        let memories = "(core module (memory 1))".repeat(5);
        assert_eq!(problem(&wat(&format!("(component {memories})"))), "too_complex");
        let nested = (0..20).fold(String::new(), |inner, _| format!("(component {inner})"));
        assert_eq!(problem(&wat(&nested)), "too_complex");
    }
}
