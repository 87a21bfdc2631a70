//! Components that hurt whoever compiles or instantiates them. What they are
//! for is said in `main.rs`; the sizes are those that took a stock Wasmtime
//! seconds and a gigabyte.

use std::fmt::Write;

use wasm_encoder::{
    ComponentImportSection, ComponentSection, ComponentTypeRef, InstanceSection, MemorySection, MemoryType, Module,
    ModuleSection, TypeBounds,
};

use crate::component::Guest;

/// Every function costs the compiler a fixed amount, however small.
pub fn functions() -> Guest {
    let mut guest = Guest::named("raw_functions");
    guest.declarations = "(func (param i32) (result i32) (i32.const 1))".repeat(200_000);
    guest
}

/// The work for one function grows faster than its size.
pub fn large_function() -> Guest {
    let mut guest = Guest::named("raw_large_function");
    let mut body = String::from("(func $large (param i32) (result i32)");
    for n in 0..400_000 {
        let _ = write!(body, "(local.set 0 (i32.xor (i32.mul (local.get 0) (i32.const {n})) (i32.const 77)))");
    }
    guest.declarations = body + "(local.get 0))";
    guest.call = "(drop (call $large (i32.const 1)))".into();
    guest
}

/// Every branch leads to each of the blocks around it.
pub fn branches() -> Guest {
    const DEPTH: usize = 5_000;
    let mut guest = Guest::named("raw_branches");
    let targets: String = (0..DEPTH).fold(String::new(), |mut text, n| {
        let _ = write!(text, "{n} ");
        text
    });
    let tables = format!("(block (br_table {targets} (local.get 0)))").repeat(40);
    for n in 0..10 {
        let (open, close) = ("(block ".repeat(DEPTH), ")".repeat(DEPTH));
        let _ = write!(guest.declarations, "(func $branches{n} (param i32) {open}{tables}{close})");
    }
    guest
}

/// As many variables as a function can have, in many functions: each is a
/// value at the start of each block, to the compiler.
pub fn locals() -> Guest {
    let mut guest = Guest::named("raw_locals");
    let (locals, blocks) = ("i64 ".repeat(49_000), "(loop (br_if 0 (local.get 0)))".repeat(200));
    for n in 0..50 {
        let _ = write!(guest.declarations, "(func $locals{n} (param i32) (local {locals}) {blocks})");
    }
    guest
}

/// Blocks in each other, deeper than any stack that is gone down for each.
pub fn blocks() -> Guest {
    nested("raw_blocks", "block ", 100_000)
}

/// Loops in each other, which cost the compiler forty times as much.
pub fn loops() -> Guest {
    nested("raw_loops", "loop ", 20_000)
}

fn nested(name: &'static str, open: &str, depth: usize) -> Guest {
    let mut guest = Guest::named(name);
    guest.declarations = format!("(func $nested {} {})", open.repeat(depth), "end ".repeat(depth));
    guest
}

/// Nothing but names.
pub fn imports() -> String {
    let name = "n".repeat(30_000);
    let imports = (0..200).fold(String::new(), |mut text, n| {
        let _ = write!(text, r#"(import "{name}{n}" (func))"#);
        text
    });
    format!("(component {imports})")
}

/// Each type is two of the one before.
pub fn types() -> String {
    let types = (1..=40).fold("(type $t0 (tuple u8 u8))".to_string(), |mut text, n| {
        let _ = write!(text, "(type $t{n} (tuple $t{0} $t{0}))", n - 1);
        text
    });
    format!(r#"(component {types} (import "f" (func (param "p" $t40))))"#)
}

/// A tool that also wants a kind of thing which no host has.
pub fn add_import(mut component: Vec<u8>, name: &str) -> Vec<u8> {
    let mut imports = ComponentImportSection::new();
    imports.import(name, ComponentTypeRef::Type(TypeBounds::SubResource));
    imports.append_to_component(&mut component);
    component
}

/// A component's sections may be followed by more of them: here a module with
/// a memory, and many instances of it. `component` has one module so far.
pub fn add_instances(mut component: Vec<u8>, count: usize) -> Vec<u8> {
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut module = Module::new();
    module.section(&memories);
    ModuleSection(&module).append_to_component(&mut component);
    let mut instances = InstanceSection::new();
    for _ in 0..count {
        instances.instantiate::<[(&str, wasm_encoder::ModuleArg); 0], &str>(1, []);
    }
    instances.append_to_component(&mut component);
    component
}
