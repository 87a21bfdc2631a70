//! The tool `read_file`: text with line numbers, ranges, or bytes.

mod bytes;
mod lines;

use bulkhead_files::{Workspace, looks_binary};
use bulkhead_tool::{Description, Outcome, Tool, ToolError};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
    start_line: Option<u64>,
    end_line: Option<u64>,
    start_byte: Option<u64>,
    byte_count: Option<u64>,
    line_numbers: Option<bool>,
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Default, serde::Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Text,
    Base64,
}

/// The tool.
pub struct ReadFile;

impl Tool for ReadFile {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("read_file", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        read(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(ReadFile);

fn read(workspace: &Workspace, args: &Args) -> Outcome {
    let by_bytes = args.start_byte.is_some() || args.byte_count.is_some();
    if by_bytes && (args.start_line.is_some() || args.end_line.is_some()) {
        return Err(ToolError::invalid("start_byte", "give either a range of lines or a range of bytes, not both"));
    }
    let place = workspace.place("path", &args.path)?;
    let size = workspace.file(&place)?.len();
    match by_bytes || args.encoding == Encoding::Base64 {
        true => bytes::read(workspace, &place, size, args),
        false => lines::read(workspace, &place, size, args),
    }
}

/// Refuses what no model can read, before it is returned as text.
fn refuse_binary(path: &str, size: u64, beginning: &[u8]) -> Result<(), ToolError> {
    if !looks_binary(beginning) {
        return Ok(());
    }
    let size = bulkhead_files::size(size);
    let message = format!("`{path}` is not a text file ({size}). Set `encoding` to `base64` to get its bytes.");
    Err(ToolError::new("binary_file", message))
}

#[cfg(test)]
mod tests;
