//! The tool `edit_file`: exact pieces of a file replaced, all or none.

mod apply;
mod nearest;

use std::fs;

use apply::Edit;
use bulkhead_files::{Place, Workspace, io_fault, looks_binary, plural, write_atomically};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};

/// The largest file that is edited; it is in memory a few times over.
const MAX_SIZE: u64 = 8 << 20;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
    edits: Vec<Edit>,
}

/// The tool.
pub struct EditFile;

impl Tool for EditFile {
    type Args = Args;

    /// Not idempotent: a second run does not find what the first has replaced.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("edit_file", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .writes_workspace()
    }

    fn run(args: Args) -> Outcome {
        edit(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(EditFile);

fn edit(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place("path", &args.path)?;
    let old = read(workspace, &place)?;
    let mut content = old.clone();
    let mut lines = Vec::new();
    for (n, edit) in args.edits.iter().enumerate() {
        let (next, at) = apply::apply(&content, edit).map_err(|fault| {
            let which =
                if args.edits.len() == 1 { String::new() } else { format!("edit {} of {}: ", n + 1, args.edits.len()) };
            fault.into_error(&place, &which, &content, edit, n)
        })?;
        content = next;
        lines.push(at);
    }
    write_atomically(workspace, &place, content.as_bytes())?;

    let replacements = lines.iter().map(Vec::len).sum::<usize>();
    let shown: Vec<String> = lines.iter().flatten().take(20).map(|line| line.to_string()).collect();
    let more = if replacements > shown.len() { ", ..." } else { "" };
    let text = format!("`{place}`: {}, at line {}{more}.", plural(replacements, "replacement"), shown.join(", "));
    let edits: Vec<_> = lines.iter().map(|lines| json!({ "lines": lines[..lines.len().min(50)] })).collect();
    let facts = json!({ "path": place.shown(), "replacements": replacements, "size": content.len(), "edits": edits });
    Ok(text_and_json(text, &facts))
}

fn read(workspace: &Workspace, place: &Place) -> Result<String, ToolError> {
    let size = workspace.file(place)?.len();
    if size > MAX_SIZE {
        let message = format!("`{place}` has {}; files of at most 8 MiB can be edited.", bulkhead_files::size(size));
        return Err(ToolError::new("too_large", message));
    }
    let bytes = fs::read(place.real()).map_err(|error| io_fault(workspace, place, error))?;
    let binary = looks_binary(&bytes);
    match String::from_utf8(bytes) {
        Ok(text) if !binary => Ok(text),
        _ => {
            let message = format!("`{place}` is not UTF-8 text, so it cannot be edited. Use write_file to replace it.");
            Err(ToolError::new("binary_file", message))
        }
    }
}

#[cfg(test)]
mod tests;
