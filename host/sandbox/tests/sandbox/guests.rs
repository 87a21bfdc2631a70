//! Guests made of WAT, so that most of these tests need no guest toolchain: a core
//! module with the body of `call` filled in, made a component with `wit/`.

use bytes::Bytes;

/// A guest that `tools/build-guests` has built.
pub(crate) fn built(path: &str) -> Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-tools/dist").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run tools/build-guests", path.display())).into()
}

/// A tool whose `call` is `body`: locals `$ptr` and `$len` are the arguments,
/// the stack must hold the address of the result. `imports` come first.
pub(crate) fn tool(imports: &str, body: &str) -> Bytes {
    component(&core(imports, "", body))
}

/// The same, with further functions, tables and the like.
pub(crate) fn tool_with(items: &str, body: &str) -> Bytes {
    component(&core("", items, body))
}

/// Returns its arguments as text.
pub(crate) fn echo() -> Bytes {
    tool("", RETURN_ARGUMENTS)
}

/// Never ends.
pub(crate) fn spin() -> Bytes {
    tool("", "(loop (br 0)) unreachable")
}

/// Result: one part, the text of the arguments.
pub(crate) const RETURN_ARGUMENTS: &str = "
    (i32.store (i32.const 1040) (i32.const 0))
    (i32.store (i32.const 1044) (local.get $ptr))
    (i32.store (i32.const 1048) (local.get $len))
    (i32.store (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1028) (i32.const 1040))
    (i32.store (i32.const 1032) (i32.const 1))
    (i32.const 1024)";

/// Sends parts of 64 KiB for ever; waits where the host makes it wait.
pub(crate) fn emits_for_ever() -> Bytes {
    let import = "(import \"bulkhead:tool/output@0.1.0\" \"emit\"
        (func $emit (param i32 i32 i32 i32 i32 i32)))";
    let body = "(loop (call $emit (i32.const 0) (i32.const 4096) (i32.const 60000) (i32.const 0) (i32.const 0) (i32.const 512))
        (br 0)) unreachable";
    tool(import, body)
}

/// Takes 250 MiB, or traps, and keeps them while nobody takes what it sends.
pub(crate) fn hoards() -> Bytes {
    let import = "(import \"bulkhead:tool/output@0.1.0\" \"emit\"
        (func $emit (param i32 i32 i32 i32 i32 i32)))";
    let body = "(if (i32.lt_s (memory.grow (i32.const 4000)) (i32.const 0)) (then unreachable))
        (loop (call $emit (i32.const 0) (i32.const 4096) (i32.const 60000) (i32.const 0) (i32.const 0) (i32.const 512))
        (br 0)) unreachable";
    tool(import, body)
}

/// Spins until it is cancelled, and returns then.
pub(crate) fn until_cancelled() -> Bytes {
    let import = "(import \"bulkhead:tool/cancellation@0.1.0\" \"requested\" (func $requested (result i32)))";
    tool(import, &format!("(loop (br_if 0 (i32.eqz (call $requested)))) {RETURN_ARGUMENTS}"))
}

/// Spins until it is cancelled, and then on.
pub(crate) fn looks_and_spins_on() -> Bytes {
    let import = "(import \"bulkhead:tool/cancellation@0.1.0\" \"requested\" (func $requested (result i32)))";
    tool(import, "(drop (call $requested)) (loop (br 0)) unreachable")
}

/// Never ends, and has nearly as many tables as it may.
pub(crate) fn full_of_tables() -> Bytes {
    tool_with(&"(table 0 funcref) ".repeat(15), "(loop (br 0)) unreachable")
}

fn core(imports: &str, items: &str, body: &str) -> String {
    let schema = "{\\\"type\\\":\\\"object\\\"}";
    format!(
        "(module {imports}
        (memory (export \"memory\") 2)
        (global $heap (mut i32) (i32.const 65536))
        (data (i32.const 100) \"wat\") (data (i32.const 110) \"1.0.0\") (data (i32.const 120) \"{schema}\")
        {items}
        (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
            (global.set $heap (i32.add (local.get $at) (local.get 3)))
            (block (br_if 0 (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1)))))
            (local.get $at))
        (func (export \"bulkhead:tool/guest@0.1.0#describe\") (result i32)
            (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 3))
            (i32.store (i32.const 8) (i32.const 110)) (i32.store (i32.const 12) (i32.const 5))
            (i32.store (i32.const 16) (i32.const 100)) (i32.store (i32.const 20) (i32.const 3))
            (i32.store (i32.const 24) (i32.const 120)) (i32.store (i32.const 28) (i32.const 17))
            (i32.const 0))
        (func $call (export \"bulkhead:tool/guest@0.1.0#call\") (param $ptr i32) (param $len i32) (result i32)
            {body}))"
    )
}

/// The same as a core module, with its world in a section, as a linker for WASI
/// preview 1 leaves it.
pub(crate) fn core_tool(imports: &str, body: &str) -> Bytes {
    module(&core(imports, "", body)).into()
}

fn component(core: &str) -> Bytes {
    let mut encoder = wit_component::ComponentEncoder::default().module(&module(core)).expect("a module");
    encoder.encode().expect("a component").into()
}

fn module(core: &str) -> Vec<u8> {
    let mut module = wat::parse_str(core).unwrap_or_else(|error| panic!("{error}\n{core}"));
    let mut resolve = wit_parser::Resolve::new();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
    let (package, _) = resolve.push_path(wit).expect("the WIT parses");
    let world = resolve.select_world(&[package], Some("tool")).expect("the world is there");
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8)
        .expect("embedded");
    module
}
