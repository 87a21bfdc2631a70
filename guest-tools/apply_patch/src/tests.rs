use bulkhead_files::testing::TempWorkspace;
use bulkhead_tool::serde_json::Value;
use bulkhead_tool::{Content, ToolError};

use super::*;

fn run(ws: &Workspace, patch: &str) -> Result<String, ToolError> {
    let args = Args { patch: patch.into(), fuzz: None, strip: None, dry_run: false };
    match &apply(ws, &args)?[..] {
        [Content::Text(text), Content::Json(facts)] => {
            bulkhead_tool::serde_json::from_str::<Value>(facts).expect("JSON");
            Ok(text.clone())
        }
        other => panic!("{other:?}"),
    }
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

#[test]
fn schema_and_arguments_agree() {
    bulkhead_tool::schema::check::<ApplyPatch>(json!({ "patch": "x" }));
}

#[test]
fn a_patch_of_git_with_every_kind_of_change() {
    let ws = TempWorkspace::with(&[
        ("src/a.rs", "one\ntwo\nthree\n"),
        ("gone", "x\n"),
        ("old", "keep\nchange\n"),
        ("moved", "m"),
    ]);
    let patch = "\
From: somebody\n\ndiff --git a/src/a.rs b/src/a.rs\nindex 1..2 100644\n--- a/src/a.rs\n+++ b/src/a.rs\n@@ -1,3 +1,4 @@ fn\n one\n-two\n+2\n+2.5\n three\n\
diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
diff --git a/new/file b/new/file\nnew file mode 100644\n--- /dev/null\n+++ b/new/file\n@@ -0,0 +1,2 @@\n+hello\n+world\n\\ No newline at end of file\n\
diff --git a/old b/new/name\nsimilarity index 50%\nrename from old\nrename to new/name\n--- a/old\n+++ b/new/name\n@@ -1,2 +1,2 @@\n keep\n-change\n+changed\n\
diff --git a/moved b/elsewhere\nsimilarity index 100%\nrename from moved\nrename to elsewhere\n\
diff --git a/empty b/empty\nnew file mode 100644\nindex 0..0\n-- \n2.50\n";
    let text = run(&ws, patch).expect("success");
    assert!(text.starts_with("6 files patched:\nchanged src/a.rs, 1 hunk\ndeleted gone, 1 hunk\n"), "{text}");
    assert!(text.contains("renamed new/name from old, 1 hunk\nrenamed elsewhere from moved\n"), "{text}");
    assert_eq!(ws.tree(), ["elsewhere", "empty", "new/file", "new/name", "src/a.rs"]);
    assert_eq!(ws.read("src/a.rs"), "one\n2\n2.5\nthree\n");
    assert_eq!((ws.read("new/file"), ws.read("new/name")), ("hello\nworld".into(), "keep\nchanged\n".into()));
}

#[test]
fn hunks_that_have_moved_or_count_wrongly() {
    let ws = TempWorkspace::with(&[("a", &numbers(1..=50))]);
    let patch = "--- a/a\n+++ b/a\n@@ -5,99 +5,1 @@\n line 10\n-line 11\n+LINE 11\n line 12\n@@ -35,3 +35,3 @@\n line 40\n-line 41\n+LINE 41\n line 42\n";
    let text = run(&ws, patch).expect("success");
    assert_eq!(text, "1 file patched:\nchanged a, 2 hunks, 1 of them not where the patch says\n");
    assert_eq!(ws.read("a"), numbers(1..=50).replace("line 11", "LINE 11").replace("line 41", "LINE 41"));
}

#[test]
fn bare_headers_fit_where_they_are_unique() {
    let ws = TempWorkspace::with(&[("a", "x\ny\nx\nz\n")]);
    run(&ws, "--- a\n+++ a\n@@\n x\n-z\n+Z\n").expect("unique");
    assert_eq!(ws.read("a"), "x\ny\nx\nZ\n");
    assert_eq!(run(&ws, "--- a\n+++ a\n@@ @@\n-x\n+X\n").expect_err("twice").code, "not_unique");
}

#[test]
fn context_may_differ_a_little() {
    let ws = TempWorkspace::with(&[("a", "a\nb\nc\nd\ne\n")]);
    let patch = "--- a/a\n+++ b/a\n@@ -1,5 +1,5 @@\n A\n b\n-c\n+C\n d\n e\n";
    let strict = Args { patch: patch.into(), fuzz: Some(0), strip: None, dry_run: false };
    assert_eq!(apply(&ws, &strict).expect_err("strict").code, "no_match");
    run(&ws, patch).expect("with fuzz");
    assert_eq!(ws.read("a"), "a\nb\nC\nd\ne\n", "the file's own context stays");
}

#[test]
fn all_or_nothing_and_the_error_shows_both_sides() {
    let ws = TempWorkspace::with(&[("a", "one\n"), ("b", "fn f() {\n    body();\n}\n")]);
    let patch = "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+1\n--- a/b\n+++ b/b\n@@ -1,3 +1,3 @@\n fn f() {\n-    other();\n+    third();\n }\n";
    let error = run(&ws, patch).expect_err("b");
    assert_eq!(error.code, "no_match");
    for part in ["`b`, hunk 1 of 1", "    other();", "     2\t    body();", "Nothing was changed"] {
        assert!(error.message.contains(part), "{part} in {}", error.message);
    }
    assert_eq!((ws.read("a"), ws.tree()), ("one\n".into(), vec!["a".to_string(), "b".into()]));
}

#[test]
fn what_cannot_be_written_is_taken_back() {
    let ws = TempWorkspace::with(&[("a", "one\n"), ("file", "")]);
    let patch = "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+1\n--- /dev/null\n+++ b/file/below\n@@ -0,0 +1 @@\n+x\n";
    assert_eq!(run(&ws, patch).expect_err("file/below").code, "not_a_directory");
    assert_eq!((ws.read("a"), ws.tree()), ("one\n".into(), vec!["a".to_string(), "file".into()]));
}

#[test]
fn line_ends_and_missing_newlines() {
    let ws = TempWorkspace::with(&[("dos", "a\r\nb\r\n"), ("none", "a\nb")]);
    run(&ws, "--- a/dos\n+++ b/dos\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n").expect("dos");
    assert_eq!(ws.read("dos"), "a\r\nc\r\n");
    run(&ws, "--- a/none\n+++ b/none\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n").expect("none");
    assert_eq!(ws.read("none"), "a\nc\n");
}

#[test]
fn removed_lines_that_look_like_headers() {
    let ws = TempWorkspace::with(&[("a.sql", "-- old\n++ x\nselect 1;\n")]);
    run(&ws, "--- a/a.sql\n+++ b/a.sql\n@@ -1,3 +1,2 @@\n--- old\n ++ x\n-select 1;\n+select 2;\n").expect("success");
    assert_eq!(ws.read("a.sql"), "++ x\nselect 2;\n");
}

#[test]
fn faults_of_the_patch() {
    let ws = TempWorkspace::with(&[("a", "one\n")]);
    let code = |patch: &str| run(&ws, patch).expect_err("a failure").code;
    assert_eq!(code("hello"), "invalid_patch");
    assert_eq!(code("@@ -1 +1 @@\n-one\n+two\n"), "invalid_patch");
    assert_eq!(code("--- a/a\n+++ b/a\n@@ -1,x +1 @@\n-one\n"), "invalid_patch");
    assert_eq!(code("diff --git a/a b/a\nGIT binary patch\nliteral 0\n"), "invalid_patch");
    assert_eq!(code("--- /dev/null\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n"), "path_outside_workspace");
    assert_eq!(code("--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n"), "already_exists");
    assert_eq!(code("--- a/b\n+++ b/b\n@@ -1 +1 @@\n-x\n+y\n"), "not_found");
    assert_eq!(code("--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-two\n"), "no_match");
}

#[test]
fn a_dry_run_changes_nothing() {
    let ws = TempWorkspace::with(&[("x/a", "one\n")]);
    let patch = "--- p/q/a\n+++ p/q/a\n@@ -1 +1 @@\n-one\n+two\n".replace("p/q", "p/x");
    let args = Args { patch, fuzz: None, strip: Some(1), dry_run: true };
    apply(&ws, &args).expect("it fits");
    assert_eq!(ws.read("x/a"), "one\n");
}
