use bulkhead_files::testing::TempWorkspace;
use bulkhead_tool::serde_json::{Value, from_value, json};
use bulkhead_tool::{Content, ToolError};

use super::*;

const SOURCE: &str = "fn one() {\n    let x = 1;\n}\n\nfn two() {\n    let x = 1;\n    let y = 2;\n}\n";

fn run(ws: &Workspace, edits: Value) -> Result<String, ToolError> {
    let args = json!({ "path": "a.rs", "edits": edits });
    let parts = edit(ws, &from_value(args).expect("arguments"))?;
    match &parts[0] {
        Content::Text(text) => Ok(text.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn schema_and_arguments_agree() {
    bulkhead_tool::schema::check::<EditFile>(json!({ "path": "a", "edits": [{ "old_text": "a", "new_text": "b" }] }));
}

#[test]
fn replaces_what_is_unique() {
    let ws = TempWorkspace::with(&[("a.rs", SOURCE)]);
    let done = run(&ws, json!([{ "old_text": "let y = 2;", "new_text": "let y = 3;" }])).expect("success");
    assert_eq!(done, "`a.rs`: 1 replacement, at line 7.");
    assert_eq!(ws.read("a.rs"), SOURCE.replace("y = 2", "y = 3"));
    assert_eq!(ws.tree(), ["a.rs"]);
}

#[test]
fn refuses_what_is_not_unique_and_says_where() {
    let ws = TempWorkspace::with(&[("a.rs", SOURCE)]);
    let error = run(&ws, json!([{ "old_text": "let x = 1;", "new_text": "" }])).expect_err("twice");
    assert_eq!(error.code, "not_unique");
    assert!(error.message.contains("occurs 2 times, on lines 2, 6."), "{}", error.message);
    let done = run(&ws, json!([{ "old_text": "let x = 1;", "new_text": "let z = 1;", "replace_all": true }]));
    assert_eq!(done.expect("success"), "`a.rs`: 2 replacements, at line 2, 6.");
}

#[test]
fn several_edits_are_all_or_nothing() {
    let ws = TempWorkspace::with(&[("a.rs", SOURCE)]);
    let edits = json!([{ "old_text": "one", "new_text": "eins" }, { "old_text": "three", "new_text": "drei" }]);
    let error = run(&ws, edits).expect_err("the second");
    assert_eq!(error.code, "no_match");
    assert!(error.message.contains("edit 2 of 2"), "{}", error.message);
    assert_eq!(ws.read("a.rs"), SOURCE, "nothing was changed");
    let edits = json!([{ "old_text": "one", "new_text": "eins" }, { "old_text": "eins()", "new_text": "uno()" }]);
    run(&ws, edits).expect("the second sees the first");
    assert!(ws.read("a.rs").starts_with("fn uno()"));
}

#[test]
fn shows_the_nearest_place() {
    let ws = TempWorkspace::with(&[("a.rs", SOURCE)]);
    let message = |old: &str| run(&ws, json!([{ "old_text": old, "new_text": "" }])).expect_err("no match").message;
    let white = message("fn two() {\n  let x = 1;\n  let y = 2;\n}");
    assert!(white.contains("line 5:\n     5\tfn two() {") && white.contains("only in white space"), "{white}");
    let other = message("let yy = 2;");
    assert!(other.contains("     7\t    let y = 2;") && other.contains("Copy the text exactly"), "{other}");
    assert!(message("~~~~~~~~").contains("Nothing in it is similar"));
}

#[test]
fn windows_line_ends_stay() {
    let ws = TempWorkspace::with(&[("a.rs", "one\r\ntwo\r\nthree\r\n")]);
    run(&ws, json!([{ "old_text": "one\ntwo", "new_text": "1\n2" }])).expect("success");
    assert_eq!(ws.read("a.rs"), "1\r\n2\r\nthree\r\n");
    run(&ws, json!([{ "old_text": "three", "new_text": "3\n4" }])).expect("success");
    assert_eq!(ws.read("a.rs"), "1\r\n2\r\n3\r\n4\r\n");
}

#[test]
fn faults_of_the_arguments_and_of_the_file() {
    let ws = TempWorkspace::with(&[("a.rs", SOURCE)]);
    let code = |edits| run(&ws, edits).expect_err("a failure").code;
    assert_eq!(code(json!([{ "old_text": "", "new_text": "x" }])), "invalid_arguments");
    assert_eq!(code(json!([{ "old_text": "x", "new_text": "x" }])), "invalid_arguments");
    ws.write("a.rs", b"\xff\xfe");
    assert_eq!(code(json!([{ "old_text": "a", "new_text": "x" }])), "binary_file");
}
