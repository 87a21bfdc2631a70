//! The tool `delete`: files, links, and directories if that is meant.

use std::fs;
use std::io;
use std::path::PathBuf;

use bulkhead_files::{Place, Workspace, io_fault, plural};
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
    #[serde(default)]
    recursive: bool,
}

/// The tool.
pub struct Delete;

impl Tool for Delete {
    type Args = Args;

    /// Not idempotent: a second run does not find what the first has deleted.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("delete", env!("CARGO_PKG_VERSION"), about, schema).writes_workspace()
    }

    fn run(args: Args) -> Outcome {
        delete(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Delete);

fn delete(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place_below("path", &args.path)?;
    let fault = |error| io_fault(workspace, &place, error);
    let found = fs::symlink_metadata(place.real()).map_err(fault)?;
    if !found.is_dir() {
        fs::remove_file(place.real()).map_err(fault)?;
        return Ok(text(format!("`{place}` deleted.")));
    }
    let names: Vec<String> = fs::read_dir(place.real())
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect())
        .map_err(fault)?;
    if !names.is_empty() && !args.recursive {
        return Err(not_empty(&place, names));
    }
    let count = remove_tree(&place).map_err(|(path, error)| io_fault(workspace, &workspace.of_real(&path), error))?;
    match count {
        0 => Ok(text(format!("The empty directory `{place}` deleted."))),
        n => Ok(text(format!(
            "`{place}` deleted, with {} in it.",
            if n == 1 { "1 entry".into() } else { format!("{n} entries") }
        ))),
    }
}

fn not_empty(place: &Place, mut names: Vec<String>) -> ToolError {
    names.sort();
    let shown = names[..names.len().min(5)].join("`, `");
    let more = names.len().saturating_sub(5);
    let rest = if more > 0 { format!(" and {}", plural(more, "other")) } else { String::new() };
    let message = format!(
        "`{place}` is not empty: in it are `{shown}`{rest}. Set `recursive` to delete it with all that is in it."
    );
    ToolError::new("directory_not_empty", message)
}

/// A directory of the tree, before and after what is in it.
enum Step {
    Empty(PathBuf),
    Remove(PathBuf),
}

/// Without recursion: a tree may be deeper than this guest's stack. How many
/// entries were in it.
fn remove_tree(place: &Place) -> Result<u64, (PathBuf, io::Error)> {
    let mut count = 0;
    let mut steps = vec![Step::Empty(place.real().to_path_buf())];
    while let Some(step) = steps.pop() {
        let directory = match step {
            Step::Empty(directory) => directory,
            Step::Remove(directory) => {
                fs::remove_dir(&directory).map_err(|error| (directory, error))?;
                continue;
            }
        };
        let fault = |error| (directory.clone(), error);
        steps.push(Step::Remove(directory.clone()));
        for entry in fs::read_dir(&directory).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            count += 1;
            match entry.file_type().map_err(fault)?.is_dir() {
                true => steps.push(Step::Empty(entry.path())),
                false => fs::remove_file(entry.path()).map_err(|error| (entry.path(), error))?,
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::serde_json::{Value, from_value, json};

    use super::*;

    fn run(ws: &Workspace, args: Value) -> Result<(), ToolError> {
        delete(ws, &from_value(args).expect("arguments")).map(drop)
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Delete>(json!({ "path": "a" }));
    }

    #[test]
    fn a_directory_only_if_meant() {
        let ws = TempWorkspace::with(&[("a", ""), ("d/e/f", ""), ("d/g", "")]);
        run(&ws, json!({ "path": "a" })).expect("a file");
        let error = run(&ws, json!({ "path": "d" })).expect_err("not empty");
        assert_eq!(error.code, "directory_not_empty");
        assert!(error.message.contains("`e`, `g`"), "{}", error.message);
        run(&ws, json!({ "path": "d", "recursive": true })).expect("a tree");
        assert!(ws.tree().is_empty() && !ws.root().real().join("d").exists());
    }

    #[test]
    fn a_link_and_not_what_it_leads_to() {
        let ws = TempWorkspace::with(&[("d/f", "")]);
        std::os::unix::fs::symlink("d", ws.root().real().join("link")).expect("symlink");
        std::os::unix::fs::symlink("../d", ws.root().real().join("d/up")).expect("symlink");
        run(&ws, json!({ "path": "link", "recursive": true })).expect("the link");
        assert_eq!(ws.tree(), ["d/f", "d/up"]);
        run(&ws, json!({ "path": "d", "recursive": true })).expect("the tree");
        assert!(ws.tree().is_empty());
    }

    #[test]
    fn never_the_workspace() {
        let ws = TempWorkspace::with(&[("a", "")]);
        for path in [".", "/", "a/.."] {
            assert_eq!(
                run(&ws, json!({ "path": path, "recursive": true })).expect_err("root").code,
                "invalid_arguments"
            );
        }
        assert_eq!(run(&ws, json!({ "path": "b" })).expect_err("none").code, "not_found");
    }
}
