//! The tool `glob`: files by name.

use std::ops::ControlFlow;

use bulkhead_files::{Bounded, MAX_TEXT, Workspace, plural};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};
use bulkhead_walk::{Found, Walk, Walked};
use globset::{GlobBuilder, GlobMatcher};

/// How many matches are counted at most.
const MAX_COUNTED: usize = 100_000;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    pattern: String,
    path: Option<String>,
    #[serde(default)]
    r#type: Type,
    #[serde(default)]
    hidden: bool,
    ignore_rules: Option<bool>,
    case_sensitive: Option<bool>,
    max_results: Option<usize>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    #[default]
    File,
    Directory,
    Any,
}

/// The tool.
pub struct Glob;

impl Tool for Glob {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("glob", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        glob(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Glob);

fn glob(workspace: &Workspace, args: &Args) -> Outcome {
    let from = workspace.place("path", args.path.as_deref().unwrap_or("."))?;
    workspace.directory(&from)?;
    let (pattern, by_name) = matcher(args)?;
    let most = args.max_results.unwrap_or(1000);
    let (mut text, mut paths, mut total) = (Bounded::new(MAX_TEXT), Vec::new(), 0);

    let ignore_rules = args.ignore_rules.unwrap_or(true);
    let walk = Walk { workspace, from: from.clone(), hidden: args.hidden, ignore_rules, globs: &[], types: &[] };
    let walked = walk.visit(|found| {
        let shown = found.place.shown();
        let below = if from.is_root() { shown } else { &shown[from.shown().len() + 1..] };
        let matched = pattern.is_match(if by_name { found.place.name() } else { below });
        if matched && args.r#type.takes(&found) {
            total += 1;
            if paths.len() < most && text.push(&format!("{shown}{}\n", if found.is_directory { "/" } else { "" })) {
                paths.push(shown.to_string());
            }
        }
        if total < MAX_COUNTED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;

    let remark = remark(args, &walked, paths.len(), total);
    let facts = json!({ "paths": paths, "total": total, "truncated": paths.len() < total });
    Ok(text_and_json(text.finish(&remark), &facts))
}

/// The pattern, and whether it is one of names rather than of paths.
fn matcher(args: &Args) -> Result<(GlobMatcher, bool), ToolError> {
    let pattern = args.pattern.trim_start_matches("./").trim_start_matches('/');
    let glob = GlobBuilder::new(pattern)
        .literal_separator(true)
        .case_insensitive(args.case_sensitive == Some(false))
        .build()
        .map_err(|fault| ToolError::invalid("pattern", fault))?;
    Ok((glob.compile_matcher(), !args.pattern.contains('/')))
}

impl Type {
    fn takes(&self, found: &Found) -> bool {
        match self {
            Type::File => !found.is_directory,
            Type::Directory => found.is_directory,
            Type::Any => true,
        }
    }
}

fn remark(args: &Args, walked: &Walked, shown: usize, total: usize) -> String {
    let at_least = if total >= MAX_COUNTED { "more than " } else { "" };
    let mut remark = match (shown < total, total) {
        (true, _) => format!("{shown} of {at_least}{total}; narrow the pattern or `path`, or raise `max_results`"),
        (false, 0) => {
            let tried = match (args.hidden, args.ignore_rules) {
                (true, Some(false)) => "",
                _ => "; hidden and ignored files were left out (`hidden`, `ignore_rules`)",
            };
            format!("nothing matches `{}`{tried}", args.pattern)
        }
        (false, n) => format!("{n} found"),
    };
    if walked.was_ignored {
        remark.push_str("; the directory itself is ignored, and was searched because you named it");
    }
    if walked.unreadable > 0 {
        remark.push_str(&format!("; {} could not be read", plural(walked.unreadable, "place")));
    }
    remark
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::Content;
    use bulkhead_tool::serde_json::{Value, from_value};

    use super::*;

    fn run(ws: &Workspace, args: Value) -> String {
        match &glob(ws, &from_value(args).expect("arguments")).expect("success")[0] {
            Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn project() -> TempWorkspace {
        TempWorkspace::with(&[
            ("a.rs", ""),
            ("src/b.rs", ""),
            ("src/deep/c.rs", ""),
            ("src/deep/D.RS", ""),
            ("src/x.txt", ""),
            (".h/e.rs", ""),
            (".gitignore", "out"),
            ("out/f.rs", ""),
        ])
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Glob>(json!({ "pattern": "*" }));
    }

    #[test]
    fn names_and_paths() {
        let ws = project();
        assert_eq!(run(&ws, json!({ "pattern": "*.rs" })), "a.rs\nsrc/b.rs\nsrc/deep/c.rs\n[3 found]");
        assert_eq!(run(&ws, json!({ "pattern": "./*.rs" })), "a.rs\n[1 found]");
        assert_eq!(run(&ws, json!({ "pattern": "src/**/*.rs" })), "src/b.rs\nsrc/deep/c.rs\n[2 found]");
        assert_eq!(
            run(&ws, json!({ "pattern": "deep/*", "path": "src", "case_sensitive": false })),
            "src/deep/D.RS\nsrc/deep/c.rs\n[2 found]"
        );
        assert_eq!(run(&ws, json!({ "pattern": "*.{txt,md}" })), "src/x.txt\n[1 found]");
        assert_eq!(run(&ws, json!({ "pattern": "d*", "type": "directory" })), "src/deep/\n[1 found]");
    }

    #[test]
    fn what_is_left_out() {
        let ws = project();
        assert!(run(&ws, json!({ "pattern": "e.rs" })).contains("hidden and ignored files were left out"));
        assert_eq!(run(&ws, json!({ "pattern": "e.rs", "hidden": true })), ".h/e.rs\n[1 found]");
        assert_eq!(run(&ws, json!({ "pattern": "f.rs", "ignore_rules": false })), "out/f.rs\n[1 found]");
        assert!(run(&ws, json!({ "pattern": "f.rs", "path": "out" })).contains("because you named it"));
        assert!(run(&ws, json!({ "pattern": "*.rs", "max_results": 1 })).starts_with("a.rs\n[1 of 3;"));
        let bad: Args = from_value(json!({ "pattern": "{a" })).expect("arguments");
        assert_eq!(glob(&ws, &bad).expect_err("unclosed").code, "invalid_arguments");
    }
}
