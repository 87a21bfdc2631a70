//! The tool `move`: another name for a file or directory.

use std::fs;

use bulkhead_files::{Place, Workspace, io_fault};
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    from: String,
    to: String,
    #[serde(default)]
    overwrite: bool,
}

/// The tool.
pub struct Move;

impl Tool for Move {
    type Args = Args;

    /// Not idempotent: a second run does not find what the first has moved.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("move", env!("CARGO_PKG_VERSION"), about, schema).writes_workspace()
    }

    fn run(args: Args) -> Outcome {
        rename(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Move);

fn rename(workspace: &Workspace, args: &Args) -> Outcome {
    let from = workspace.place_below("from", &args.from)?;
    let to = workspace.place_below("to", &args.to)?;
    let moved = fs::symlink_metadata(from.real()).map_err(|error| io_fault(workspace, &from, error))?;
    if from == to {
        return Err(ToolError::invalid("to", "the same as `from`, so there is nothing to do"));
    }
    if to.is_within(&from) {
        return Err(ToolError::invalid(
            "to",
            format!("`{to}` lies in `{from}`; a directory cannot be moved into itself"),
        ));
    }
    if workspace.exists(&to)? {
        check_target(workspace, &to, moved.is_dir(), args.overwrite)?;
    }
    workspace.make_parents(&to)?;
    fs::rename(from.real(), to.real()).map_err(|error| io_fault(workspace, &to, error))?;
    Ok(text(format!("`{from}` is now `{to}`.")))
}

fn check_target(workspace: &Workspace, to: &Place, moves_directory: bool, overwrite: bool) -> Result<(), ToolError> {
    let found = fs::symlink_metadata(to.real()).map_err(|error| io_fault(workspace, to, error))?;
    if found.is_dir() {
        let message = format!(
            "`{to}` is a directory that exists. To move something into it, give its new path in it; to replace it, delete it first."
        );
        return Err(ToolError::new("already_exists", message));
    }
    if moves_directory {
        return Err(ToolError::new(
            "already_exists",
            format!("`{to}` is a file; a directory cannot replace it. Delete it first."),
        ));
    }
    if !overwrite {
        return Err(ToolError::new("already_exists", format!("`{to}` exists already. Set `overwrite` to replace it.")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::serde_json::{Value, from_value, json};

    use super::*;

    fn run(ws: &Workspace, args: Value) -> Result<(), String> {
        rename(ws, &from_value(args).expect("arguments")).map(drop).map_err(|error| error.code)
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Move>(json!({ "from": "a", "to": "b" }));
    }

    #[test]
    fn files_and_directories() {
        let ws = TempWorkspace::with(&[("a", "1"), ("d/e/f", "2")]);
        run(&ws, json!({ "from": "a", "to": "new/b" })).expect("a file");
        run(&ws, json!({ "from": "d/e", "to": "g" })).expect("a directory");
        assert_eq!(ws.tree(), ["g/f", "new/b"]);
    }

    #[test]
    fn what_is_there_stays() {
        let ws = TempWorkspace::with(&[("a", "1"), ("b", "2"), ("d/x", ""), ("e/x", "")]);
        let exists = Err("already_exists".to_string());
        assert_eq!(run(&ws, json!({ "from": "a", "to": "b" })), exists);
        assert_eq!(run(&ws, json!({ "from": "a", "to": "d", "overwrite": true })), exists);
        assert_eq!(run(&ws, json!({ "from": "d", "to": "b", "overwrite": true })), exists);
        assert_eq!(run(&ws, json!({ "from": "d", "to": "e", "overwrite": true })), exists);
        assert_eq!(run(&ws, json!({ "from": "d", "to": "d/y/z" })), Err("invalid_arguments".into()));
        assert_eq!(run(&ws, json!({ "from": "none", "to": "x" })), Err("not_found".into()));
        run(&ws, json!({ "from": "a", "to": "b", "overwrite": true })).expect("replaced");
        assert_eq!(ws.read("b"), "1");
    }
}
