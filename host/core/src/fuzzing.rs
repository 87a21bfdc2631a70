//! What is fuzzed here (feature `fuzz`). Each target is a function of bytes that
//! panics if something does not hold; the same functions are fuzzed by
//! `tests/fuzz/run` and replayed on the corpus by the tests.

mod policy;
mod seeds;

use serde_json::Value;

use crate::path::{MAX_DEPTH, MAX_NAME, MAX_PATH, WorkspacePath};
use crate::schema::Schema;
use crate::tool::{MAX_CAPABILITIES, MAX_DESCRIPTION, MAX_SCHEMA, MAX_VERSION, Manifest};

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Panics if `bytes` break something.
    pub run: fn(&[u8]),
    /// Inputs to begin with, by name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// The targets of this package.
pub const TARGETS: [Target; 4] = [
    Target { name: "policy", run: policy, seeds: policy::seeds },
    Target { name: "schema", run: schema, seeds: seeds::schema_seeds },
    Target { name: "manifest", run: manifest, seeds: seeds::manifest_seeds },
    Target { name: "path", run: path, seeds: seeds::path_seeds },
];

/// A policy and, behind a NUL, a request that it decides.
pub fn policy(bytes: &[u8]) {
    policy::policy(bytes);
}

/// A schema and, behind a NUL, arguments: what a guest says it takes, and what
/// a client gives it.
pub fn schema(bytes: &[u8]) {
    let (schema, value) = split(bytes);
    let Ok(schema) = serde_json::from_slice::<Value>(schema) else { return };
    let Ok(compiled) = Schema::compile(&schema) else { return };
    let Ok(value) = serde_json::from_slice::<Value>(value) else { return };
    let checked = compiled.check(&value);
    assert_eq!(checked, compiled.check(&value), "twice the same");
    if schema == Value::Bool(true) || schema == serde_json::json!({}) {
        assert_eq!(checked, Ok(()), "everything fits an empty schema");
    }
    let Err(mismatches) = checked else { return };
    assert!((1..=8).contains(&mismatches.len()), "{} mismatches", mismatches.len());
    for mismatch in mismatches {
        assert!(mismatch.message.len() <= 310, "a long message: {mismatch:?}");
        assert!(value.pointer(&mismatch.pointer).is_some(), "a mismatch nowhere: {mismatch:?}");
    }
}

/// What a tool says of itself. What is accepted is within its bounds, has
/// schemas that work, and is the same after it was stored.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return };
    let stored = serde_json::to_string(&manifest).expect("a manifest is plain data");
    let again: Manifest = serde_json::from_str(&stored).expect("what was stored is read");
    assert_eq!(again, manifest);
    assert_eq!(again.check(), manifest.check());
    if let Err(error) = manifest.check() {
        assert!(error.0.len() < 1_000, "a long reason: {error}");
        return;
    }
    assert!(WorkspacePath::parse(manifest.name.as_bytes()).is_ok_and(|path| path.name() == manifest.name.as_bytes()));
    assert!((1..=MAX_VERSION).contains(&manifest.version.len()));
    assert!((1..=MAX_DESCRIPTION).contains(&manifest.description.len()));
    assert!(manifest.capabilities.len() <= MAX_CAPABILITIES);
    for schema in std::iter::once(&manifest.input_schema).chain(&manifest.output_schema) {
        assert!(schema.to_string().len() <= MAX_SCHEMA);
        assert!(Schema::compile(schema).is_ok());
    }
    let input = Schema::compile(&manifest.input_schema).expect("it was accepted");
    assert!(input.check(&Value::Null).is_err(), "arguments are an object");
}

/// A path and, behind a NUL, a name in it. What is accepted is normal, leads
/// nowhere but down, and is said exactly.
pub fn path(bytes: &[u8]) {
    let (first, second) = split(bytes);
    // Also with its NUL, which no path has.
    assert!(!bytes.contains(&0) || WorkspacePath::parse(bytes).is_err());
    let Ok(path) = WorkspacePath::parse(first) else { return };
    normal(&path);
    if let Ok(joined) = path.join(second) {
        normal(&joined);
        assert!(joined.as_bytes().starts_with(path.as_bytes()), "a name leads down");
    }
}

fn normal(path: &WorkspacePath) {
    let bytes = path.as_bytes();
    assert!(WorkspacePath::parse(bytes).is_ok_and(|again| again == *path), "it is normal");
    let names: Vec<&[u8]> = if path.is_root() { vec![] } else { bytes.split(|byte| *byte == b'/').collect() };
    assert!(bytes.len() <= MAX_PATH && names.len() <= MAX_DEPTH);
    for name in &names {
        assert!(!name.is_empty() && name.len() <= MAX_NAME && ![&b"."[..], b".."].contains(name) && !name.contains(&0));
    }
    let text = path.to_text();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(decoded(&text), bytes, "a text that names another file");
    match path.parent() {
        Some(parent) => assert_eq!(parent.join(path.name()).map_err(|error| error.to_string()).as_ref(), Ok(path)),
        None => assert!(path.is_root()),
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).expect("two digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
