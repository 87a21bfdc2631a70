use bulkhead_files::testing::TempWorkspace;
use bulkhead_tool::Content;
use bulkhead_tool::serde_json::{Value, from_str, from_value};

use super::*;

fn parts(ws: &Workspace, args: Value) -> (String, Value) {
    match &grep(ws, &from_value(args).expect("arguments")).expect("success")[..] {
        [Content::Text(text), Content::Json(facts)] => (text.clone(), from_str(facts).expect("JSON")),
        other => panic!("{other:?}"),
    }
}

fn run(ws: &Workspace, args: Value) -> String {
    parts(ws, args).0
}

fn project() -> TempWorkspace {
    TempWorkspace::with(&[
        ("src/a.rs", "fn one() {}\n// one\nfn two() {}\n"),
        ("src/b.rs", "fn One() {}\n"),
        ("notes.md", "one more\nand one\n"),
        (".gitignore", "out\n"),
        ("out/x", "one"),
        ("data.bin", "one\u{0}one"),
    ])
}

#[test]
fn schema_and_arguments_agree() {
    bulkhead_tool::schema::check::<Grep>(json!({ "pattern": "x" }));
}

#[test]
fn lines_by_file() {
    let (text, facts) = parts(&project(), json!({ "pattern": "one" }));
    assert_eq!(
        text,
        "notes.md\n1:one more\n2:and one\n\nsrc/a.rs\n1:fn one() {}\n2:// one\n\
         [4 matching lines in 2 files, of 4 files searched; 1 file not searched, not text or not readable]"
    );
    assert_eq!(facts["files"][1], json!({ "path": "src/a.rs", "count": 2, "lines": [1, 2] }));
    assert_eq!((&facts["searched"], &facts["truncated"]), (&json!(4), &json!(false)));
}

#[test]
fn modes_types_and_globs() {
    let ws = project();
    assert!(run(&ws, json!({ "pattern": "one", "mode": "files" })).starts_with("notes.md\nsrc/a.rs\n[2 files with"));
    assert!(run(&ws, json!({ "pattern": "one", "mode": "count", "types": ["rust"] })).starts_with("src/a.rs:2\n["));
    assert!(
        run(&ws, json!({ "pattern": "one", "mode": "files", "globs": ["!src", "!*.bin"] }))
            .starts_with("notes.md\n[1 file with")
    );
    assert!(run(&ws, json!({ "pattern": "one", "path": "notes.md" })).starts_with("notes.md\n1:"));
    assert!(run(&ws, json!({ "pattern": "one", "path": "out" })).contains("because you named it"));
    assert!(run(&ws, json!({ "pattern": "one", "ignore_rules": false, "mode": "files" })).contains("out/x\n"));
}

#[test]
fn patterns() {
    let ws = project();
    let files = |mut args: Value| {
        args["mode"] = "files".into();
        run(&ws, args)
    };
    assert!(files(json!({ "pattern": "ONE", "case": "insensitive" })).contains("src/b.rs"));
    assert!(files(json!({ "pattern": "One", "case": "smart" })).starts_with("src/b.rs\n[1 file"));
    assert!(files(json!({ "pattern": "one()", "literal": true })).starts_with("src/a.rs\n[1 file"));
    assert!(files(json!({ "pattern": "on", "word": true })).starts_with("[no match in 4 files"));
    assert!(files(json!({ "pattern": "\\{\\}\n// one", "multiline": true })).starts_with("src/a.rs\n"));
    let bad: Args = from_value(json!({ "pattern": "one(" })).expect("arguments");
    let error = grep(&ws, &bad).expect_err("unclosed");
    assert!(error.code == "invalid_arguments" && error.message.contains("set `literal`"), "{error:?}");
    let bomb: Args = from_value(json!({ "pattern": "((a{100}){100}){100}" })).expect("arguments");
    assert_eq!(grep(&ws, &bomb).expect_err("too large").code, "invalid_arguments");
}

#[test]
fn context_and_limits() {
    let content: String = (1..=3000).map(|n| format!("line {n} {}\n", "x".repeat(500))).collect();
    let ws = TempWorkspace::with(&[("a", &content)]);
    let text = run(&ws, json!({ "pattern": "line (10|12|20) ", "context": 1 }));
    let marks: Vec<&str> = text.lines().map(|line| line.split_once("line").map_or(line, |(mark, _)| mark)).collect();
    assert_eq!(marks[..10], ["a", "9-", "10:", "11-", "12:", "13-", "--", "19-", "20:", "21-"]);
    assert!(text.contains(" [cut]\n"));
    let (text, facts) = parts(&ws, json!({ "pattern": "line", "max_matches": 2 }));
    assert!(text.contains("2 matching lines in 1 file") && text.contains("stopped at the limit"), "{text}");
    assert_eq!((&facts["truncated"], &facts["files"][0]["count"]), (&json!(true), &json!(2)));
    let (text, facts) = parts(&ws, json!({ "pattern": "line", "max_matches": 2000 }));
    assert!((250_000..264_000).contains(&text.len()) && text.contains("stopped at the limit"));
    assert!(facts["files"][0]["count"].as_u64().expect("a number") > 500);
}
