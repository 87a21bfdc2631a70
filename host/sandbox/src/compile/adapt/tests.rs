use wit_component::StringEncoding;
use wit_parser::Resolve;

use super::super::inspect::look;
use super::*;

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A module that was built against `wit/`, with `items` in it.
fn tool(items: &str) -> Vec<u8> {
    let mut module = wat(&format!(
        r#"(module {items} (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
            (func (export "bulkhead:tool/guest@0.1.0#describe") (result i32) (i32.const 0))
            (func (export "bulkhead:tool/guest@0.1.0#call") (param i32 i32) (result i32) (i32.const 0)))"#
    ));
    let mut resolve = Resolve::new();
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit")).expect("the WIT");
    let world = resolve.select_world(&[package], Some("tool")).expect("the world");
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("embedded");
    module
}

const FD_WRITE: &str = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;

fn problem(bytes: &[u8]) -> (String, String) {
    let problem = look(bytes, false).0.problem.expect("a problem");
    (problem.code, problem.reason)
}

/// A custom section at the end of a module.
fn with_section(mut module: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let number = |mut value: usize| {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let body = [&number(name.len()), name.as_bytes(), data].concat();
    module.extend([&[0], &*number(body.len()), &*body].concat());
    module
}

#[test]
fn a_module_of_our_world_becomes_a_tool() {
    for imports in ["", FD_WRITE, r#"(import "bulkhead:tool/cancellation@0.1.0" "requested" (func (result i32)))"#] {
        let module = tool(imports);
        let (inspection, made) = look(&module, false);
        assert_eq!(inspection.problem, None);
        assert!(inspection.adapted && inspection.exports.iter().any(|name| name == GUEST), "{inspection:?}");
        assert_eq!(inspection.size, module.len() as u64);
        assert!(Parser::is_component(&made.expect("a component")));
        assert_eq!(inspection.imports.iter().any(|name| name.starts_with("wasi:io/streams@")), imports == FD_WRITE);
    }
}

#[test]
fn a_command_is_adapted_and_told_what_it_lacks() {
    let (inspection, _) = look(SAMPLE, false);
    assert!(inspection.exports.iter().any(|name| name.starts_with("wasi:cli/run@")), "{inspection:?}");
    let (code, reason) = problem(SAMPLE);
    assert_eq!(code, "missing_export");
    assert!(reason.contains(GUEST) && reason.contains("wasi:cli/run@") && reason.contains("a command"), "{reason}");
}

#[test]
fn what_a_module_imports_beside_is_named() {
    let imports = format!(
        r#"{FD_WRITE} (import "env" "abort" (func)) (import "wasi_unstable" "fd_read" (func)) (import "gl" "m" (memory 1))"#
    );
    for module in [wat(&format!(r#"(module {imports} (func (export "_start")))"#)), wat(&format!("(module {imports})"))]
    {
        let (code, reason) = problem(&module);
        assert_eq!(code, "unknown_import");
        assert!(reason.contains("`env abort`, `wasi_unstable fd_read`, `gl m`."), "{reason}");
    }
    // Of the right module and not in it; not in the world; and without one.
    let none = r#"(import "wasi_snapshot_preview1" "fd_teleport" (func))"#;
    for module in [
        tool(none),
        tool(r#"(import "evil:host/door@1.0.0" "open" (func))"#),
        wat(&format!(r#"(module {none} (memory (export "memory") 1) (func (export "_start")))"#)),
    ] {
        let (code, reason) = problem(&module);
        assert_eq!(code, "core_module");
        assert!(reason.contains("fd_teleport") || reason.contains("evil:host/door@1.0.0"), "{reason}");
    }
    let (code, reason) = problem(&wat("(module)"));
    assert!(code == "core_module" && reason.contains("`component-type`") && reason.contains("`_start`"), "{reason}");
}

#[test]
fn hostile_worlds_end_in_a_reason() {
    let module = tool(FD_WRITE);
    for data in [&b""[..], b"\0asm", &[0xff; 64], SAMPLE] {
        let (code, reason) = problem(&with_section(module.clone(), "component-type:x", data));
        assert_eq!(code, "core_module");
        assert!(reason.len() <= MAX_WHY + 100, "{reason}");
    }
    let (code, reason) = problem(&with_section(module.clone(), "component-type:x", &vec![0; 70_000]));
    assert!(code == "too_complex" && reason.contains("65536 bytes"), "{reason}");
    // Bytes all over the world changed: whatever it says then, there is an answer.
    let section = module.windows(WORLD.len()).position(|window| window == WORLD.as_bytes()).expect("a world");
    for at in (section..module.len()).step_by(19) {
        let mut changed = module.clone();
        changed[at] ^= 0x15;
        let (inspection, made) = look(&changed, false);
        assert_eq!(made.is_some(), inspection.problem.is_none());
    }
}

#[test]
fn a_panic_of_the_encoder_is_the_module_s_fault() {
    let reason = caught::<()>(|| panic!("at what no compiler writes")).expect_err("a reason");
    assert!(reason.contains("no toolchain"), "{reason}");
}

#[test]
fn another_adapter_makes_other_artefacts() {
    let now = fingerprint().expect("the sample is adapted");
    assert!(now.windows(REACTOR.len()).any(|part| part == REACTOR));
    assert!(now.windows(COMMAND.len()).any(|part| part == COMMAND));
    let version = b"wit-component";
    assert!(now.windows(version.len()).any(|part| part == version), "the encoder names itself");
    assert_eq!(now, fingerprint().expect("again"), "the same is the same");
}
