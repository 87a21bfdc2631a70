//! The JSON to run the filter on.

use std::borrow::Cow;
use std::fs;

use bulkhead_files::{Workspace, io_fault, size};
use bulkhead_tool::ToolError;
use jaq_json::{Val, read};

use crate::Args;

/// The largest file; its values take some ten times its size in memory.
const MAX_SIZE: u64 = 16 << 20;

/// The deepest nesting: the parser and the filters recurse.
const MAX_DEPTH: usize = 200;

/// The text, from wherever it comes.
pub fn text<'a>(workspace: &Workspace, args: &'a Args) -> Result<Cow<'a, [u8]>, ToolError> {
    match (&args.path, &args.input) {
        (None, Some(input)) => Ok(input.as_bytes().into()),
        (Some(path), None) => {
            let place = workspace.place("path", path)?;
            let length = workspace.file(&place)?.len();
            if length > MAX_SIZE {
                let message = format!("`{place}` has {}; JSON of at most 16 MiB can be queried.", size(length));
                return Err(ToolError::new("too_large", message));
            }
            fs::read(place.real()).map(Cow::from).map_err(|error| io_fault(workspace, &place, error))
        }
        _ => Err(ToolError::invalid("path", "give either `path` or `input`, not both and not none")),
    }
}

/// The values in it, one after the other or all in an array.
pub fn values(text: &[u8], slurp: bool) -> Result<Vec<Val>, ToolError> {
    check_depth(text)?;
    let values: Vec<Val> = read::parse_many(text).collect::<Result<_, _>>().map_err(|fault| {
        let why = fault.to_string();
        invalid(&format!("{}{why}", line_of(text, &why)))
    })?;
    Ok(if slurp { vec![values.into_iter().collect()] } else { values })
}

/// Brackets outside of texts are counted, whatever else is wrong.
fn check_depth(text: &[u8]) -> Result<(), ToolError> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(invalid("it is nested more than 200 deep"));
        }
    }
    Ok(())
}

/// The parser says `byte offset N: ...`; people and models count lines.
fn line_of(text: &[u8], why: &str) -> String {
    let offset = why.strip_prefix("byte offset ").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
    offset
        .and_then(|offset| text.get(..offset))
        .map_or(String::new(), |before| format!("line {}, ", before.iter().filter(|byte| **byte == b'\n').count() + 1))
}

fn invalid(why: &str) -> ToolError {
    ToolError::new("invalid_json", format!("The input is not valid JSON: {why}."))
}
