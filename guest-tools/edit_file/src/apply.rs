//! One edit on one text.

use std::borrow::Cow;

use bulkhead_files::Place;
use bulkhead_tool::ToolError;
use bulkhead_tool::serde_json::json;

use crate::nearest;

/// How many lines an error names.
const MAX_NAMED: usize = 20;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub old_text: String,
    pub new_text: String,
    #[serde(default)]
    pub replace_all: bool,
}

/// Why an edit cannot be applied.
pub enum Fault {
    Empty,
    Same,
    NoMatch,
    /// The lines where it matches.
    NotUnique(Vec<usize>),
}

/// The text after the edit, and the lines on which it replaced something.
pub fn apply(content: &str, edit: &Edit) -> Result<(String, Vec<usize>), Fault> {
    if edit.old_text.is_empty() {
        return Err(Fault::Empty);
    }
    if edit.old_text == edit.new_text {
        return Err(Fault::Same);
    }
    let (old, new) = as_in_file(content, edit);
    let at: Vec<usize> = content.match_indices(&*old).map(|(at, _)| at).collect();
    let lines = line_numbers(content, &at);
    match at.len() {
        0 => Err(Fault::NoMatch),
        n if n > 1 && !edit.replace_all => Err(Fault::NotUnique(lines)),
        _ => Ok((content.replace(&*old, &new), lines)),
    }
}

/// Models write plain line ends whatever the file has.
fn as_in_file<'a>(content: &str, edit: &'a Edit) -> (Cow<'a, str>, Cow<'a, str>) {
    let (old, new) = (Cow::from(&edit.old_text), Cow::from(&edit.new_text));
    let windows = content.contains("\r\n") && !edit.old_text.contains('\r');
    match windows && !content.contains(&*old) {
        true => (old.replace('\n', "\r\n").into(), new.replace("\r\n", "\n").replace('\n', "\r\n").into()),
        // One line of such a file, replaced by several.
        false if windows && !content.replace("\r\n", "").contains('\n') => {
            (old, new.replace("\r\n", "\n").replace('\n', "\r\n").into())
        }
        false => (old, new),
    }
}

/// The lines of ascending offsets.
fn line_numbers(content: &str, at: &[usize]) -> Vec<usize> {
    let (mut line, mut from) = (1, 0);
    at.iter()
        .map(|&at| {
            line += content[from..at].bytes().filter(|byte| *byte == b'\n').count();
            from = at;
            line
        })
        .collect()
}

impl Fault {
    /// What the caller sees. `which` names the edit, if there are several.
    pub fn into_error(self, place: &Place, which: &str, content: &str, edit: &Edit, n: usize) -> ToolError {
        let field = |name| format!("edits[{n}].{name}");
        match self {
            Fault::Empty => ToolError::invalid(&field("old_text"), "empty; to make a file use write_file"),
            Fault::Same => ToolError::invalid(&field("new_text"), "the same as `old_text`, so there is nothing to do"),
            Fault::NotUnique(lines) => {
                let named: Vec<String> = lines.iter().take(MAX_NAMED).map(usize::to_string).collect();
                let more = if lines.len() > named.len() { ", ..." } else { "" };
                let message = format!(
                    "`{place}`, {which}`old_text` occurs {} times, on lines {}{more}. Add lines before or after it until it is \
                     unique, or set `replace_all`. Nothing was changed.",
                    lines.len(),
                    named.join(", ")
                );
                let details = json!({ "edit": n, "matches": lines.len(), "lines": lines[..named.len()] });
                ToolError::new("not_unique", message).details(&details)
            }
            Fault::NoMatch => {
                let hint = nearest::hint(content, &edit.old_text);
                let message =
                    format!("`{place}`, {which}`old_text` does not occur in the file. {hint} Nothing was changed.");
                ToolError::new("no_match", message).details(&json!({ "edit": n, "matches": 0 }))
            }
        }
    }
}
