use bulkhead_files::testing::TempWorkspace;

use super::*;

fn found(ws: &Workspace, from: &str, change: impl FnOnce(&mut Walk)) -> (Vec<String>, Walked) {
    let from = ws.place("path", from).expect("a path");
    let mut walk = Walk { workspace: ws, from, hidden: false, ignore_rules: true, globs: &[], types: &[] };
    change(&mut walk);
    let mut files = Vec::new();
    let walked = walk.visit(|found| {
        if !found.is_directory {
            files.push(found.place.shown().to_string());
        }
        ControlFlow::Continue(())
    });
    (files, walked.expect("a walk"))
}

fn project() -> TempWorkspace {
    TempWorkspace::with(&[
        (".gitignore", "/target\n*.log\n"),
        ("src/.gitignore", "made.rs\n"),
        ("src/main.rs", ""),
        ("src/made.rs", ""),
        ("src/deep/x.log", ""),
        ("src/deep/x.rs", ""),
        ("target/out", ""),
        (".git/config", ""),
        (".hidden/x", ""),
    ])
}

#[test]
fn the_rules_hold() {
    let ws = project();
    assert_eq!(found(&ws, ".", |_| ()).0, ["src/deep/x.rs", "src/main.rs"]);
    let all = found(&ws, ".", |walk| walk.ignore_rules = false).0;
    assert_eq!(all, ["src/deep/x.log", "src/deep/x.rs", "src/made.rs", "src/main.rs", "target/out"]);
    let hidden = found(&ws, ".", |walk| walk.hidden = true).0;
    assert_eq!(hidden, [".gitignore", ".hidden/x", "src/.gitignore", "src/deep/x.rs", "src/main.rs"]);
}

#[test]
fn the_rules_above_hold_further_down() {
    let ws = project();
    let (files, walked) = found(&ws, "src/deep", |_| ());
    assert_eq!((files, walked.was_ignored), (vec!["src/deep/x.rs".to_string()], false));
    assert_eq!(found(&ws, ".hidden", |_| ()).0, [".hidden/x"], "asked for by name");
    let (files, walked) = found(&ws, "target", |_| ());
    assert_eq!((files, walked.was_ignored), (vec!["target/out".to_string()], true));
}

#[test]
fn globs_and_types() {
    let ws = project();
    let globs = ["*.log".to_string()];
    assert_eq!(found(&ws, ".", |walk| walk.globs = Box::leak(Box::new(globs.clone()))).0, ["src/deep/x.log"]);
    let not = ["!deep".to_string()];
    assert_eq!(found(&ws, "src", |walk| walk.globs = Box::leak(Box::new(not))).0, ["src/main.rs"]);
    let types = ["md".to_string()];
    assert!(found(&ws, ".", |walk| walk.types = Box::leak(Box::new(types))).0.is_empty());
    let bad = ["cobolt".to_string()];
    let walk = Walk { workspace: &ws, from: ws.root(), hidden: false, ignore_rules: true, globs: &[], types: &bad };
    assert_eq!(walk.visit(|_| ControlFlow::Continue(())).err().expect("no such type").code, "invalid_arguments");
}
