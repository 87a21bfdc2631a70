//! What is fuzzed here (feature `fuzz`). Each target is a function of bytes that
//! panics if something does not hold; the same functions are fuzzed by
//! `tests/fuzz/run` and replayed on the corpus by the tests.

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
pub const TARGETS: [Target; 3] = [
    Target { name: "schema", run: schema, seeds: schema_seeds },
    Target { name: "manifest", run: manifest, seeds: manifest_seeds },
    Target { name: "path", run: path, seeds: path_seeds },
];

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

fn schema_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let chain = (0..60)
        .map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##, n + 1));
    let doubling =
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d60":{{}}}}}}"##, chain.collect::<Vec<_>>().join(","));
    let unevaluated =
        (0..30).fold("true".to_owned(), |inner, _| format!(r#"{{"allOf":[{inner}],"unevaluatedProperties":false}}"#));
    let arrays = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let seed = |schema: &str, value: &str| [schema.as_bytes(), b"\0", value.as_bytes()].concat();
    vec![
        (
            "object",
            seed(
                r#"{"type":"object","properties":{"path":{"type":"string","minLength":1}},"required":["path"],"additionalProperties":false}"#,
                r#"{"path":"a","b":1}"#,
            ),
        ),
        (
            "numbers",
            seed(
                r#"{"properties":{"n":{"minimum":1,"multipleOf":0.1},"m":{"enum":[1,1.0,1e400]}}}"#,
                r#"{"n":1e308,"m":18446744073709551616}"#,
            ),
        ),
        ("tree", seed(r##"{"anyOf":[{"type":"number"},{"items":{"$ref":"#"}}]}"##, "[[1,[]],[[\"x\"]]]")),
        (
            "anchors",
            seed(
                r##"{"$defs":{"a/b":{"$anchor":"x","type":"null"}},"items":{"$ref":"#x"},"contains":{"$ref":"#/$defs/a~1b"}}"##,
                "[null,3]",
            ),
        ),
        (
            "dynamic",
            seed(
                r##"{"$dynamicAnchor":"n","properties":{"c":{"$dynamicRef":"#n"}},"unevaluatedProperties":false}"##,
                r#"{"c":{"c":{"d":1}}}"#,
            ),
        ),
        (
            "conditions",
            seed(
                r#"{"if":{"properties":{"k":{"const":"a"}}},"then":{"required":["x"]},"else":{"not":{"required":["x"]}},"dependentSchemas":{"k":{"maxProperties":1}},"dependentRequired":{"x":["y"]}}"#,
                r#"{"k":"a","x":1}"#,
            ),
        ),
        (
            "patterns",
            seed(
                r#"{"patternProperties":{"^a+$":{"pattern":"^(a+)+$"}},"propertyNames":{"maxLength":3}}"#,
                r#"{"aaaa":"aaaaaaaaaaaaaaaaaaaaaaaa!","b":2}"#,
            ),
        ),
        (
            "lists",
            seed(
                r#"{"prefixItems":[{"type":"string"}],"items":{"oneOf":[{"type":"number"},{"type":"integer"}]},"uniqueItems":true,"unevaluatedItems":false,"minContains":0,"contains":{}}"#,
                r#"["a",1,1.0,[1],[1.0]]"#,
            ),
        ),
        ("outside", seed(r#"{"$ref":"file:///etc/passwd"}"#, "{}")),
        ("own-base", seed(r##"{"$id":"https://example.com/s","items":{"$id":"t","$ref":"#"}}"##, "[[]]")),
        ("circle", seed(r##"{"allOf":[{"$ref":"#"}]}"##, "{}")),
        ("doubling", seed(&doubling, "{}")),
        ("doubling-down", seed(r##"{"type":"array","items":{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}}"##, &arrays)),
        ("unevaluated-down", seed(&unevaluated, r#"{"a":1}"#)),
        (
            "odd-pointers",
            seed(
                r#"{"properties":{"a/b":{"properties":{"~":{"type":"null"},"":{"type":"null"}}}}}"#,
                r#"{"a/b":{"~":1,"":2}}"#,
            ),
        ),
        ("long-message", seed(r#"{"const":"é"}"#, &format!("\"{}\"", "é".repeat(400)))),
        ("false", seed("false", "[]")),
    ]
}

fn manifest_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name: &str, version: &str, schema: &str, capabilities: &str| {
        format!(r#"{{"name":"{name}","version":"{version}","description":"d","input_schema":{schema},"capabilities":{capabilities},"idempotent":true}}"#).into_bytes()
    };
    let plain = r#"{"type":"object"}"#;
    vec![
        ("plain", with("read_file", "0.1.0", plain, "[]")),
        ("all-capabilities", with("t", "1", plain, r#"[{"kind":"workspace","value":"read-write"},{"kind":"http","value":"example.com"},{"kind":"environment","value":"HOME"},{"kind":"secret","value":"s"}]"#)),
        ("output", br#"{"name":"t","version":"1","description":"d","input_schema":{"type":"object"},"output_schema":{"type":"string"},"capabilities":[],"idempotent":false}"#.to_vec()),
        ("name-of-a-path", with("../x", "1", plain, "[]")),
        ("version-with-a-line", with("t", "1\\n2", plain, "[]")),
        ("empty-version", with("t", "", plain, "[]")),
        ("array-schema", with("t", "1", r#"{"type":"array"}"#, "[]")),
        ("either-type", with("t", "1", r#"{"type":["object","null"]}"#, "[]")),
        ("outside", with("t", "1", r#"{"type":"object","$ref":"https://example.com/"}"#, "[]")),
        ("circle", with("t", "1", r##"{"type":"object","$ref":"#"}"##, "[]")),
        ("number-schema", with("t", "1", r#"{"type":"object","minProperties":1e400,"maxLength":-1}"#, "[]")),
        ("pattern-bomb", with("t", "1", r#"{"type":"object","patternProperties":{"((a{1,100}){1,100}){1,100}":true}}"#, "[]")),
        ("many-capabilities", with("t", "1", plain, &format!("[{}]", [r#"{"kind":"secret","value":""}"#; 65].join(",")))),
        ("null-output", br#"{"name":"t","version":"1","description":"d","input_schema":{"type":"object"},"output_schema":null,"capabilities":[],"idempotent":false}"#.to_vec()),
    ]
}

fn path_seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain", b"a/b.txt\0c".to_vec()),
        ("not-normal", b"/./a//b/./\0./c/".to_vec()),
        ("up", b"a/../..\0..".to_vec()),
        ("down-and-up", b"a\0b/../../..".to_vec()),
        ("dots", b".../..a/a..\0...".to_vec()),
        ("root", b"/\0/".to_vec()),
        ("not-text", b"caf\xe9/100%\n/\xc2\x85\xed\xa0\x80\0\xff".to_vec()),
        ("escapes", b"%2e%2e/%2F%00\0%2e%2e".to_vec()),
        ("turned", "\u{202e}gpj.exe\0\u{2028}".into()),
        ("long-name", [b'a'; 256].to_vec()),
        ("longest-name", [b'a'; 255].to_vec()),
        ("deep", b"a/".repeat(129)),
        ("deepest-and-one", [&b"a/".repeat(128)[..], b"\0b"].concat()),
        ("backslashes", b"..\\..\\x\0C:\\".to_vec()),
    ]
}
