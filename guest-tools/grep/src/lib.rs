//! The tool `grep`: a regular expression in the workspace's files, with the
//! libraries that ripgrep is made of.

mod pattern;
mod search;

use std::ops::ControlFlow;

use bulkhead_files::{MAX_TEXT, Workspace, plural};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, host, text_and_json};
use bulkhead_walk::{Walk, Walked};
use search::Search;

/// How often the caller is asked whether it still wants the answer, in files.
const ASK_EVERY: usize = 64;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    pattern: String,
    path: Option<String>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    literal: bool,
    #[serde(default)]
    case: Case,
    #[serde(default)]
    word: bool,
    #[serde(default)]
    multiline: bool,
    #[serde(default)]
    context: usize,
    context_before: Option<usize>,
    context_after: Option<usize>,
    #[serde(default)]
    globs: Vec<String>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    hidden: bool,
    ignore_rules: Option<bool>,
    max_matches: Option<usize>,
}

#[derive(Clone, Copy, Default, serde::Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Lines,
    Files,
    Count,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Case {
    #[default]
    Sensitive,
    Insensitive,
    Smart,
}

/// The tool.
pub struct Grep;

impl Tool for Grep {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("grep", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        grep(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Grep);

fn grep(workspace: &Workspace, args: &Args) -> Outcome {
    let from = workspace.place("path", args.path.as_deref().unwrap_or("."))?;
    let matcher = pattern::matcher(args)?;
    let walk = Walk {
        workspace,
        from,
        hidden: args.hidden,
        ignore_rules: args.ignore_rules.unwrap_or(true),
        globs: &args.globs,
        types: &args.types,
    };
    let mut search = Search::new(args, &matcher, MAX_TEXT);
    let mut cancelled = false;
    let walked = walk.visit(|found| {
        if found.is_file {
            search.file(&found.place);
            cancelled = search.searched.is_multiple_of(ASK_EVERY) && host::is_cancelled();
        }
        if search.is_full() || cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if cancelled {
        return Err(host::cancelled());
    }
    let facts = json!({ "files": search.files, "searched": search.searched, "truncated": search.is_full() });
    let remark = remark(args, &search, &walked);
    Ok(text_and_json(search.text.finish(&remark), &facts))
}

fn remark(args: &Args, search: &Search, walked: &Walked) -> String {
    let (lines, files) = (search.matched, search.files.len());
    let searched = plural(search.searched, "file");
    let mut remark = match (files, args.mode) {
        (0, _) => format!("no match in {searched}"),
        (_, Mode::Files) => format!("{} with a match, of {searched} searched", plural(files, "file")),
        _ => format!("{} in {}, of {searched} searched", plural(lines, "matching line"), plural(files, "file")),
    };
    if files == 0 && search.searched == 0 {
        remark.push_str(
            "; hidden and ignored files were left out (`hidden`, `ignore_rules`), check `path`, `globs` and `types`",
        );
    }
    if search.is_full() {
        remark.push_str("; stopped at the limit, there may be more: narrow the search or raise `max_matches`");
    }
    if search.skipped > 0 {
        remark.push_str(&format!("; {} not searched, not text or not readable", plural(search.skipped, "file")));
    }
    if walked.was_ignored {
        remark.push_str("; the directory itself is ignored, and was searched because you named it");
    }
    if walked.unreadable > 0 {
        remark.push_str(&format!("; {} could not be read", plural(walked.unreadable, "place")));
    }
    remark
}

#[cfg(test)]
mod tests;
