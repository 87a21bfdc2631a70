use bulkhead_files::testing::TempWorkspace;
use bulkhead_tool::serde_json::{Value, from_str, from_value, json};
use bulkhead_tool::{Content, Outcome};

use super::*;

fn run(ws: &Workspace, args: Value) -> Outcome {
    read(ws, &from_value(args).expect("arguments"))
}

fn parts(outcome: Outcome) -> (String, Value) {
    match &outcome.expect("success")[..] {
        [Content::Text(text), Content::Json(json), ..] => (text.clone(), from_str(json).expect("JSON")),
        other => panic!("{other:?}"),
    }
}

fn code(outcome: Outcome) -> String {
    outcome.expect_err("a failure").code
}

#[test]
fn schema_and_arguments_agree() {
    bulkhead_tool::schema::check::<ReadFile>(json!({ "path": "a" }));
}

#[test]
fn a_short_file_whole() {
    let ws = TempWorkspace::with(&[("a", "one\ntwo"), ("empty", "")]);
    let (text, facts) = parts(run(&ws, json!({ "path": "/a" })));
    assert_eq!(text, "     1\tone\n     2\ttwo\n");
    assert_eq!(
        facts,
        json!({"path": "a", "size": 7, "total_lines": 2, "start_line": 1, "end_line": 2, "truncated": false})
    );
    let (text, _) = parts(run(&ws, json!({ "path": "a", "line_numbers": false })));
    assert_eq!(text, "one\ntwo\n");
    let (text, facts) = parts(run(&ws, json!({ "path": "empty" })));
    assert_eq!((text.as_str(), &facts["end_line"]), ("[the file is empty]", &json!(0)));
}

#[test]
fn ranges_of_lines() {
    let content: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
    let ws = TempWorkspace::with(&[("a", &content)]);
    let (text, facts) = parts(run(&ws, json!({ "path": "a" })));
    assert!(text.ends_with("  2000\tline 2000\n[lines 1 to 2000 of 5000; read on with \"start_line\": 2001]"));
    assert_eq!((&facts["truncated"], &facts["next"]), (&json!(true), &json!(2001)));
    let (text, facts) = parts(run(&ws, json!({ "path": "a", "start_line": 4999, "end_line": 9999 })));
    assert_eq!(text, "  4999\tline 4999\n  5000\tline 5000\n[lines 4999 to 5000 of 5000]");
    assert_eq!(facts["truncated"], json!(false));
    let (text, facts) = parts(run(&ws, json!({ "path": "a", "start_line": 2, "end_line": 2 })));
    assert_eq!(text, "     2\tline 2\n[lines 2 to 2 of 5000]");
    assert_eq!(facts["truncated"], json!(false), "all that was asked for");
    assert_eq!(code(run(&ws, json!({ "path": "a", "start_line": 5001 }))), "out_of_range");
    assert_eq!(code(run(&ws, json!({ "path": "a", "start_line": 3, "end_line": 2 }))), "invalid_arguments");
}

#[test]
fn long_lines_are_cut_and_bytes_read_on() {
    let ws = TempWorkspace::with(&[("a", &format!("{}\nend\n", "x".repeat(100_000)))]);
    let (text, _) = parts(run(&ws, json!({ "path": "a" })));
    assert!(text.contains("xx [91809 more bytes in this line]\n     2\tend\n[lines were cut"), "{}", &text[8000..]);
    let (text, facts) = parts(run(&ws, json!({ "path": "a", "start_byte": 99_999, "byte_count": 3 })));
    assert_eq!(text, "x\ne\n[bytes 99999 to 100002 of 100005]");
    assert_eq!(facts["truncated"], json!(false));
    assert_eq!(code(run(&ws, json!({ "path": "a", "start_byte": 1, "start_line": 1 }))), "invalid_arguments");
    assert_eq!(code(run(&ws, json!({ "path": "a", "start_byte": 200_000 }))), "out_of_range");
}

#[test]
fn the_text_is_bounded() {
    let ws = TempWorkspace::with(&[("a", &format!("{}\n", "y".repeat(8000)).repeat(100))]);
    let (text, facts) = parts(run(&ws, json!({ "path": "a" })));
    assert!(text.len() < 257 * 1024);
    assert_eq!(facts["next"], json!(facts["end_line"].as_u64().expect("number") + 1));
}

#[test]
fn other_content_only_as_bytes() {
    let ws = TempWorkspace::with(&[("a.png", "\u{0}PNG"), ("latin", "")]);
    assert_eq!(code(run(&ws, json!({ "path": "a.png" }))), "binary_file");
    let outcome = run(&ws, json!({ "path": "a.png", "encoding": "base64" })).expect("success");
    let Content::Blob(blob) = &outcome[2] else { panic!("{outcome:?}") };
    assert_eq!((blob.media_type.as_str(), &blob.data[..]), ("image/png", &b"\0PNG"[..]));
    ws.write("latin", b"caf\xe9\n");
    assert!(parts(run(&ws, json!({ "path": "latin" }))).0.contains("not UTF-8"));
}

#[test]
fn what_is_no_file() {
    let ws = TempWorkspace::with(&[("src/main.rs", "")]);
    assert_eq!(code(run(&ws, json!({ "path": "src" }))), "is_a_directory");
    assert_eq!(code(run(&ws, json!({ "path": "src/mian.rs" }))), "not_found");
    assert_eq!(code(run(&ws, json!({ "path": "../secret" }))), "path_outside_workspace");
}
