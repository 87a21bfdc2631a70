//! The tool `list_dir`: what is in a directory, and in those below.

use std::fs::{self, FileType};

use bulkhead_files::{Bounded, MAX_TEXT, Place, Workspace, io_fault};
use bulkhead_tool::serde_json::{Value, json};
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};

/// How many entries are counted at most; a directory may hold millions.
const MAX_COUNTED: usize = 100_000;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: Option<String>,
    depth: Option<usize>,
    #[serde(default)]
    hidden: bool,
    max_entries: Option<usize>,
}

/// The tool.
pub struct ListDir;

impl Tool for ListDir {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("list_dir", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        list(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(ListDir);

fn list(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place("path", args.path.as_deref().unwrap_or("."))?;
    workspace.directory(&place)?;
    let most = args.max_entries.unwrap_or(500);
    let mut listing = Listing { workspace, args, most, entries: Vec::new(), text: Bounded::new(MAX_TEXT), total: 0 };
    listing.directory(&place, 1)?;

    let Listing { entries, text, total, .. } = listing;
    let truncated = entries.len() < total;
    let at_least = if total >= MAX_COUNTED { "more than " } else { "" };
    let remark = match (truncated, total) {
        (true, _) => format!(
            "{} of {at_least}{total} entries; list a directory further down, lower `depth`, or raise `max_entries`",
            entries.len()
        ),
        (false, 0) => format!("`{place}` is empty{}", if args.hidden { "" } else { ", hidden names aside" }),
        (false, n) => n.to_string() + if n == 1 { " entry" } else { " entries" },
    };
    let facts = json!({ "path": place.shown(), "entries": entries, "total": total, "truncated": truncated });
    Ok(text_and_json(text.finish(&remark), &facts))
}

struct Listing<'a> {
    workspace: &'a Workspace,
    args: &'a Args,
    most: usize,
    entries: Vec<Value>,
    text: Bounded,
    total: usize,
}

impl Listing<'_> {
    /// `level` is at most `depth`, so this does not recurse deeply.
    fn directory(&mut self, place: &Place, level: usize) -> Result<(), ToolError> {
        for (name, kind) in self.names(place)? {
            self.total += 1;
            if self.total >= MAX_COUNTED {
                return Ok(());
            }
            let prefix = if place.is_root() { String::new() } else { format!("{place}/") };
            let entry = self.workspace.of_shown(&format!("{prefix}{name}"));
            if self.entries.len() < self.most && !self.text.is_full() {
                self.show(&entry, kind);
            }
            if kind.is_dir() && level < self.args.depth.unwrap_or(1) {
                // One that cannot be read is listed, and no reason to fail.
                let _ = self.directory(&entry, level + 1);
            }
        }
        Ok(())
    }

    fn names(&self, place: &Place) -> Result<Vec<(String, FileType)>, ToolError> {
        let fault = |error| io_fault(self.workspace, place, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(place.real()).map_err(fault)?.take(MAX_COUNTED) {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.args.hidden || !name.starts_with('.') {
                names.push((name, entry.file_type().map_err(fault)?));
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn show(&mut self, entry: &Place, kind: FileType) {
        let path = entry.shown();
        let (line, fact) = if kind.is_dir() {
            (format!("{path}/\n"), json!({ "path": path, "type": "directory" }))
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.real()).map_or("?".into(), |t| t.to_string_lossy().into_owned());
            (format!("{path} -> {target}\n"), json!({ "path": path, "type": "symlink", "target": target }))
        } else if kind.is_file() {
            let size = fs::symlink_metadata(entry.real()).map_or(0, |found| found.len());
            (format!("{path}  {size}\n"), json!({ "path": path, "type": "file", "size": size }))
        } else {
            (format!("{path}  (special)\n"), json!({ "path": path, "type": "other" }))
        };
        if self.text.push(&line) {
            self.entries.push(fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::Content;
    use bulkhead_tool::serde_json::from_value;

    use super::*;

    fn run(ws: &Workspace, args: Value) -> Result<String, String> {
        match list(ws, &from_value(args).expect("arguments")) {
            Ok(parts) => match &parts[0] {
                Content::Text(text) => Ok(text.clone()),
                other => panic!("{other:?}"),
            },
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<ListDir>(json!({}));
    }

    #[test]
    fn sorted_with_kinds_and_sizes() {
        let ws = TempWorkspace::with(&[("b", "12345"), ("a/c/d", ""), (".git/config", ""), ("a/b", "")]);
        std::os::unix::fs::symlink("b", ws.root().real().join("link")).expect("symlink");
        assert_eq!(run(&ws, json!({})), Ok("a/\nb  5\nlink -> b\n[3 entries]".into()));
        assert_eq!(run(&ws, json!({ "path": "a", "depth": 2 })), Ok("a/b  0\na/c/\na/c/d  0\n[3 entries]".into()));
        assert!(run(&ws, json!({ "hidden": true })).expect("success").starts_with(".git/\na/\n"));
        assert!(run(&ws, json!({ "max_entries": 1 })).expect("success").starts_with("a/\n[1 of 3 entries;"));
    }

    #[test]
    fn what_is_no_directory() {
        let ws = TempWorkspace::with(&[("b", "")]);
        assert_eq!(run(&ws, json!({ "path": "b" })), Err("not_a_directory".into()));
        assert_eq!(run(&ws, json!({ "path": "c" })), Err("not_found".into()));
        let empty = TempWorkspace::with(&[]);
        assert_eq!(run(&empty, json!({})), Ok("[`.` is empty, hidden names aside]".into()));
    }
}
