//! The tool `write_file`: a whole file at once.

use std::borrow::Cow;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bulkhead_files::{Place, Workspace, size, write_atomically};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
    content: String,
    #[serde(default)]
    encoding: Encoding,
    overwrite: Option<bool>,
    create_parents: Option<bool>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Text,
    Base64,
}

/// The tool.
pub struct WriteFile;

impl Tool for WriteFile {
    type Args = Args;

    /// Idempotent: a second run finds the content that the first has written.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("write_file", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .writes_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        write(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(WriteFile);

fn write(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place_below("path", &args.path)?;
    let content = content(args)?;
    let outcome = outcome(workspace, &place, &content)?;
    if outcome == "replaced" && args.overwrite == Some(false) {
        let message =
            format!("`{place}` exists and has other content. Set `overwrite` to replace it, or use edit_file.");
        return Err(ToolError::new("already_exists", message));
    }
    if outcome != "unchanged" {
        if args.create_parents != Some(false) {
            workspace.make_parents(&place)?;
        }
        write_atomically(workspace, &place, &content)?;
    }
    let text = format!("`{place}` {outcome}, {}.", size(content.len() as u64));
    Ok(text_and_json(text, &json!({ "path": place.shown(), "size": content.len(), "outcome": outcome })))
}

fn content(args: &Args) -> Result<Cow<'_, [u8]>, ToolError> {
    match args.encoding {
        Encoding::Text => Ok(args.content.as_bytes().into()),
        Encoding::Base64 => match STANDARD.decode(&args.content) {
            Ok(bytes) => Ok(bytes.into()),
            Err(fault) => Err(ToolError::invalid("content", format!("not base64: {fault}"))),
        },
    }
}

/// What writing will do, or has done before.
fn outcome(workspace: &Workspace, place: &Place, content: &[u8]) -> Result<&'static str, ToolError> {
    if !workspace.exists(place)? {
        return Ok("created");
    }
    let Ok(found) = fs::metadata(place.real()) else { return Ok("created") };
    if found.is_dir() {
        let message = format!("`{place}` is a directory; a file cannot take its place. Delete or move it first.");
        return Err(ToolError::new("is_a_directory", message));
    }
    let same = found.len() == content.len() as u64 && fs::read(place.real()).is_ok_and(|old| old == content);
    Ok(if same { "unchanged" } else { "replaced" })
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::serde_json::{Value, from_value};

    use super::*;

    fn run(ws: &Workspace, args: Value) -> Result<String, String> {
        match write(ws, &from_value(args).expect("arguments")) {
            Ok(parts) => match &parts[0] {
                bulkhead_tool::Content::Text(text) => Ok(text.clone()),
                other => panic!("{other:?}"),
            },
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<WriteFile>(json!({ "path": "a", "content": "" }));
    }

    #[test]
    fn creates_replaces_and_leaves_alone() {
        let ws = TempWorkspace::with(&[]);
        assert_eq!(run(&ws, json!({"path": "a/b/c", "content": "one"})), Ok("`a/b/c` created, 3 bytes.".into()));
        assert_eq!(run(&ws, json!({"path": "a/b/c", "content": "one"})), Ok("`a/b/c` unchanged, 3 bytes.".into()));
        assert_eq!(run(&ws, json!({"path": "/a/b/c", "content": "two!"})), Ok("`a/b/c` replaced, 4 bytes.".into()));
        let keep = |content| json!({"path": "a/b/c", "content": content, "overwrite": false});
        assert_eq!(run(&ws, keep("three")), Err("already_exists".into()));
        assert_eq!(run(&ws, keep("two!")), Ok("`a/b/c` unchanged, 4 bytes.".into()));
        assert_eq!((ws.read("a/b/c"), ws.tree()), ("two!".into(), vec!["a/b/c".to_string()]));
    }

    #[test]
    fn bytes() {
        let ws = TempWorkspace::with(&[]);
        let args = |content| json!({"path": "a", "content": content, "encoding": "base64"});
        assert!(run(&ws, args("aGk=")).is_ok());
        assert_eq!(ws.read("a"), "hi");
        assert_eq!(run(&ws, args("???")), Err("invalid_arguments".into()));
    }

    #[test]
    fn what_cannot_be_written() {
        let ws = TempWorkspace::with(&[("dir/file", "")]);
        let code = |path: &str| run(&ws, json!({"path": path, "content": ""})).expect_err("a failure");
        assert_eq!(code("dir"), "is_a_directory");
        assert_eq!(code("dir/file/x"), "not_a_directory");
        assert_eq!(code("../x"), "path_outside_workspace");
        assert_eq!(code("."), "invalid_arguments");
        let args = json!({"path": "new/x", "content": "", "create_parents": false});
        assert_eq!(run(&ws, args), Err("not_found".into()));
    }
}
