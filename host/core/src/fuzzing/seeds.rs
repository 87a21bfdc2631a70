//! What fuzzing begins with here.

pub(super) fn schema_seeds() -> Vec<(&'static str, Vec<u8>)> {
    [ordinary_schemas(), schemas_that_are_attacks()].concat()
}

fn schema_and_value(schema: &str, value: &str) -> Vec<u8> {
    [schema.as_bytes(), b"\0", value.as_bytes()].concat()
}

fn ordinary_schemas() -> Vec<(&'static str, Vec<u8>)> {
    let seed = schema_and_value;
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
    ]
}

fn schemas_that_are_attacks() -> Vec<(&'static str, Vec<u8>)> {
    let chain = (0..60)
        .map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##, n + 1));
    let doubling =
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d60":{{}}}}}}"##, chain.collect::<Vec<_>>().join(","));
    let unevaluated =
        (0..30).fold("true".to_owned(), |inner, _| format!(r#"{{"allOf":[{inner}],"unevaluatedProperties":false}}"#));
    let arrays = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let seed = schema_and_value;
    vec![
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

pub(super) fn manifest_seeds() -> Vec<(&'static str, Vec<u8>)> {
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

pub(super) fn path_seeds() -> Vec<(&'static str, Vec<u8>)> {
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
