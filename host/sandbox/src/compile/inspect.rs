//! Looks at a component before it is compiled: what it is, what it wants, and
//! whether it is small enough to be worth a compiler's while. A core module is
//! looked at, made a component, and looked at again as such.

use serde::{Deserialize, Serialize};
use wasmparser::{BinaryReaderError, Parser, Validator, WasmFeatures};

use super::externs::{self, ASYNC_GUEST, GUEST};
use super::{Problem, adapt};
use crate::bounds;
use crate::engine::Flavour;

/// What a component is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Size in bytes, of what was given.
    pub size: u64,
    /// Whether it was a core module: then all that follows is of the component
    /// that was made of it, if one could be.
    pub adapted: bool,
    /// Whether it needs WASI 0.3 or asynchronous functions of components.
    #[serde(default)]
    pub wasi_03: bool,
    /// Names it imports.
    pub imports: Vec<String>,
    /// Names it exports.
    pub exports: Vec<String>,
    /// Core modules in it.
    pub modules: u32,
    /// Core instances made when it is instantiated.
    pub core_instances: u32,
    /// Those of them that are made by components within it.
    #[serde(default)]
    pub inner_core_instances: u32,
    /// Memories in its modules.
    pub memories: u32,
    /// Tables in its modules.
    pub tables: u32,
    /// Functions in its modules.
    pub functions: u32,
    /// Size of the largest function body, in bytes.
    pub largest_function: u32,
    /// Depth of blocks within each other, in the function with most of it.
    pub deepest_blocks: u32,
    /// The same of loops alone.
    pub deepest_loops: u32,
    /// Why it can't be a tool, if it can't.
    pub problem: Option<Problem>,
}

/// Looks at bytes, `wasi_03` being whether WASI 0.3 is switched on. Never fails:
/// what is wrong with them is in the answer.
pub fn inspect_component(bytes: &[u8], wasi_03: bool) -> Inspection {
    look(bytes, wasi_03).0
}

/// Looks at bytes; gives the component too if one was made of a core module.
pub(super) fn look(bytes: &[u8], wasi_03: bool) -> (Inspection, Option<Vec<u8>>) {
    let mut inspection = Inspection { size: bytes.len() as u64, ..Inspection::default() };
    match inspection.read(bytes, wasi_03) {
        Ok(made) => (inspection, made),
        Err(problem) => (Inspection { problem: Some(problem), ..inspection }, None),
    }
}

pub(super) fn invalid(error: &BinaryReaderError) -> Problem {
    let hint = if is_async(error) { externs::BUILD_FOR_02 } else { "" };
    Problem::new("invalid_wasm", format!("the component is not valid: {error}{hint}"))
}

/// Whether it is valid but for what is switched off with `CM_ASYNC`: so the
/// validator calls that.
fn is_async(error: &BinaryReaderError) -> bool {
    error.message().contains("component model async")
}

/// The proposals that the engine has switched on.
fn features(flavour: Flavour) -> WasmFeatures {
    let off = crate::engine::switched_off!(WasmFeatures);
    match flavour {
        Flavour::Wasi02 => WasmFeatures::default().difference(off | WasmFeatures::CM_ASYNC),
        Flavour::Wasi03 => WasmFeatures::default().difference(off).union(WasmFeatures::CM_ASYNC),
    }
}

impl Inspection {
    /// The engine that it needs.
    pub(super) fn flavour(&self) -> Flavour {
        if self.wasi_03 { Flavour::Wasi03 } else { Flavour::Wasi02 }
    }

    /// Reads what was given; gives the component that was made of it.
    fn read(&mut self, bytes: &[u8], wasi_03: bool) -> Result<Option<Vec<u8>>, Problem> {
        if bytes.len() > bounds::MAX_COMPONENT {
            let text =
                format!("the component has {} bytes; at most {} are allowed", bytes.len(), bounds::MAX_COMPONENT);
            return Err(Problem::new("too_large", text));
        }
        let is_module = is_module(bytes)?;
        self.weigh(bytes, wasi_03)?;
        if !is_module {
            return self.check_externs(wasi_03).map(|()| None);
        }
        let component = adapt::adapt(bytes)?;
        *self = Self { size: self.size, adapted: true, ..Self::default() };
        self.weigh(&component, wasi_03)?;
        self.check_externs(wasi_03).map(|()| Some(component))
    }

    /// Counts what there is, then sees that it is valid.
    fn weigh(&mut self, bytes: &[u8], wasi_03: bool) -> Result<(), Problem> {
        self.count(bytes)?;
        self.check_counts()?;
        // Before it is valid: what is of 0.3 is not valid where it is switched
        // off, and this says why.
        let later: Vec<String> = self.imports.iter().filter(|name| externs::is_wasi_03(name)).cloned().collect();
        if !later.is_empty() && !wasi_03 {
            return Err(Problem::new("unknown_import", externs::unknown(&later, wasi_03)));
        }
        self.wasi_03 = !later.is_empty();
        self.validate(bytes, wasi_03)?;
        if self.wasi_03 && self.inner_core_instances > 0 {
            let text = "the component is too complex: for WASI 0.3 it may be made of one component alone, and components \
                within it make core instances of their own; link what it is made of into one";
            return Err(Problem::new("too_complex", text));
        }
        Ok(())
    }

    /// Sees that it is valid, and whether it is asynchronous although it imports
    /// nothing of 0.3.
    fn validate(&mut self, bytes: &[u8], wasi_03: bool) -> Result<(), Problem> {
        let validated = |flavour| Validator::new_with_features(features(flavour)).validate_all(bytes).map(drop);
        let result = match validated(self.flavour()) {
            Err(error) if wasi_03 && !self.wasi_03 && is_async(&error) => {
                self.wasi_03 = true;
                validated(Flavour::Wasi03)
            }
            result => result,
        };
        result.map_err(|error| invalid(&error))
    }

    fn check_externs(&self, wasi_03: bool) -> Result<(), Problem> {
        let unknown: Vec<String> =
            self.imports.iter().filter(|name| !externs::may_import(name, wasi_03)).cloned().collect();
        if !unknown.is_empty() {
            return Err(Problem::new("unknown_import", externs::unknown(&unknown, wasi_03)));
        }
        let is_guest = |name: &String| name == GUEST || (self.wasi_03 && name == ASYNC_GUEST);
        if !self.exports.iter().any(is_guest) {
            return Err(Problem::new("missing_export", externs::missing(&self.exports)));
        }
        Ok(())
    }
}

/// Whether it is a core module; tells what is neither that nor a component.
fn is_module(bytes: &[u8]) -> Result<bool, Problem> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Problem::new("not_wasm", "this is not WebAssembly: it does not begin with the bytes `\\0asm`"));
    }
    if !Parser::is_component(bytes) && !Parser::is_core_wasm(bytes) {
        return Err(Problem::new("invalid_wasm", "the header is cut off or of an unknown version"));
    }
    Ok(Parser::is_core_wasm(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        inspect_component(bytes, false).problem.map(|problem| problem.code).unwrap_or_default()
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
        let inspection = inspect_component(&import, false);
        let problem = inspection.problem.expect("an unknown import");
        assert_eq!(problem.code, "unknown_import");
        assert!(problem.reason.contains("`wasi:http/types@0.3.0` (this host runs WASI 0.2"), "{}", problem.reason);
    }

    #[test]
    fn what_is_of_wasi_03_is_told_so_before_it_is_found_invalid() {
        let text = r#"(component
            (import "wasi:cli/environment@0.2.0" (instance))
            (import "wasi:clocks/monotonic-clock@0.3.0" (instance (export "wait-for" (func async (param "how-long" u64)))))
            (import "wasi:cli/stdout@0.3.0-rc-2026-01-06" (instance)))"#;
        let problem = inspect_component(&wat(text), false).problem.expect("a problem");
        assert_eq!(problem.code, "unknown_import");
        let named =
            "`wasi:clocks/monotonic-clock@0.3.0`, `wasi:cli/stdout@0.3.0-rc-2026-01-06` (this host runs WASI 0.2";
        assert!(problem.reason.contains(named) && problem.reason.contains("wasm32-wasip2"), "{}", problem.reason);
        // The same without such an import.
        let text = r#"(component (import "bulkhead:tool/log@0.1.0" (instance (export "f" (func async)))))"#;
        let problem = inspect_component(&wat(text), false).problem.expect("a problem");
        assert!(problem.code == "invalid_wasm" && problem.reason.contains("WASI 0.2"), "{}", problem.reason);
        assert!(problem.reason.contains("`experimental.wasi_03`"), "{}", problem.reason);
    }

    #[test]
    fn where_it_is_switched_on_wasi_03_is_a_flavour_and_not_all_of_it_is_there() {
        let look = |text: &str| inspect_component(&wat(text), true);
        let code = |inspection: &Inspection| inspection.problem.clone().map(|problem| problem.code).unwrap_or_default();
        let wait = r#"(import "wasi:clocks/monotonic-clock@0.3.0" (instance (export "wait-for" (func async (param "how-long" u64)))))"#;
        let found = look(&format!("(component {wait})"));
        assert_eq!((found.wasi_03, code(&found)), (true, "missing_export".into()));
        let found = look(r#"(component (import "bulkhead:tool/log@0.1.0" (instance (export "f" (func async)))))"#);
        assert_eq!((found.wasi_03, code(&found)), (true, "missing_export".into()));
        // What does without it is as it was.
        let found = look(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
        assert_eq!((found.wasi_03, code(&found)), (false, "missing_export".into()));
        for missing in ["wasi:sockets/types@0.3.0", "wasi:http/client@0.3.0", "wasi:cli/stdout@0.3.0-rc-2026-01-06"] {
            let problem = look(&format!("(component (import \"{missing}\" (instance)))")).problem.expect("a problem");
            let named = format!("`{missing}` (of WASI 0.3 this host has");
            assert!(problem.code == "unknown_import" && problem.reason.contains(&named), "{}", problem.reason);
        }
        // What is asynchronous in name alone is no tool of either kind.
        let named = r#"(component (instance $i) (export "bulkhead:async-tool/guest@0.1.0" (instance $i)))"#;
        assert_eq!(code(&look(named)), "missing_export");
        let parts = "(component (core module $m) (core instance (instantiate $m)))";
        let found = look(&format!("(component {wait} {parts})"));
        assert_eq!(code(&found), "too_complex");
        let found = look(&format!("(component (core module $m) (core instance (instantiate $m)) {parts})"));
        assert_eq!(code(&found), "missing_export");
    }

    /// A module or component for each proposal that is switched off, valid by that one
    /// (and others that it stands on) and by none that is on.
    const SWITCHED_OFF: &[(WasmFeatures, WasmFeatures, &str)] = &[
        (WasmFeatures::GC, WasmFeatures::FUNCTION_REFERENCES, "(module (type (struct)))"),
        (WasmFeatures::FUNCTION_REFERENCES, NONE, "(module (type $f (func)) (func (param (ref $f))))"),
        (WasmFeatures::EXCEPTIONS, NONE, "(module (tag))"),
        (WasmFeatures::LEGACY_EXCEPTIONS, WasmFeatures::EXCEPTIONS, "(module (func try catch_all end))"),
        (WasmFeatures::THREADS, NONE, "(module (memory 1 1 shared))"),
        (
            WasmFeatures::SHARED_EVERYTHING_THREADS,
            WasmFeatures::THREADS,
            "(module (global (shared i32) (i32.const 0)))",
        ),
        (WasmFeatures::MEMORY64, NONE, "(module (memory i64 1))"),
        (WasmFeatures::MULTI_MEMORY, NONE, "(module (memory 1) (memory 1))"),
        (WasmFeatures::CUSTOM_PAGE_SIZES, NONE, "(module (memory 1 (pagesize 1)))"),
        (
            WasmFeatures::WIDE_ARITHMETIC,
            NONE,
            "(module (func (param i64 i64) (result i64 i64) local.get 0 local.get 1 i64.mul_wide_u))",
        ),
        (
            WasmFeatures::RELAXED_SIMD,
            NONE,
            "(module (func (param v128 v128) (result v128) local.get 0 local.get 1 i8x16.relaxed_swizzle))",
        ),
        (
            WasmFeatures::STACK_SWITCHING,
            WasmFeatures::FUNCTION_REFERENCES.union(WasmFeatures::EXCEPTIONS),
            "(module (type $f (func)) (type (cont $f)))",
        ),
        (
            WasmFeatures::CM_ASYNC_STACKFUL,
            NONE,
            "(component (core module $m (func (export \"f\")))
                (core instance $i (instantiate $m))
                (func async (canon lift (core func $i \"f\") async)))",
        ),
        (WasmFeatures::CM_MORE_ASYNC_BUILTINS, NONE, "(component (core func (canon subtask.cancel async)))"),
        (WasmFeatures::CM_THREADING, NONE, "(component (core func (canon thread.index)))"),
        (WasmFeatures::CM_ERROR_CONTEXT, NONE, "(component (core func (canon error-context.drop)))"),
    ];

    const NONE: WasmFeatures = WasmFeatures::empty();

    #[test]
    fn no_proposal_that_is_switched_off_is_taken() {
        let all = SWITCHED_OFF.iter().fold(NONE, |all, (proposal, ..)| all.union(*proposal));
        assert_eq!(all, crate::engine::switched_off!(WasmFeatures), "each has its text");
        for (proposal, stands_on, text) in SWITCHED_OFF {
            let bytes = wat(text);
            for flavour in [Flavour::Wasi02, Flavour::Wasi03] {
                let inspection = inspect_component(&bytes, flavour == Flavour::Wasi03);
                let code = inspection.problem.map(|problem| problem.code).unwrap_or_default();
                assert_eq!(code, "invalid_wasm", "{text}");
            }
            // It is that proposal which is missing, and no slip of the text.
            let on = features(Flavour::Wasi03).union(*proposal).union(*stands_on);
            let valid = Validator::new_with_features(on).validate_all(&bytes).map(drop);
            assert!(valid.is_ok(), "{text}: {valid:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_named() {
        let memories = "(core module (memory 1))".repeat(5);
        assert_eq!(problem(&wat(&format!("(component {memories})"))), "too_complex");
        let nested = (0..20).fold(String::new(), |inner, _| format!("(component {inner})"));
        assert_eq!(problem(&wat(&nested)), "too_complex");
        for (what, most) in [("block", bounds::MAX_BLOCKS), ("loop", bounds::MAX_LOOPS), ("i32.const 1 if", 10_000)] {
            let nested = |depth: u32| {
                let (open, close) = (format!("{what} ").repeat(depth as usize), "end ".repeat(depth as usize));
                // Beside each other they are not in each other.
                wat(&format!("(component (core module (func loop end {open} {close}) (func {open} {close})))"))
            };
            assert_eq!(problem(&nested(most)), "missing_export");
            let reason =
                inspect_component(&nested(100_000), false).problem.map(|problem| problem.reason).unwrap_or_default();
            let (said, counted) = (format!("the {most} "), format!("at least {}", most + 1));
            assert!(reason.contains(&said) && reason.contains(&counted) && reason.contains("split"), "{reason}");
        }
    }
}
