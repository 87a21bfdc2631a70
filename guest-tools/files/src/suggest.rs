//! "Did you mean": what a caller that named a missing file sees.

use std::fs;

use bulkhead_tool::ToolError;

use crate::path::{Place, Workspace};

/// How many names of a directory are compared, and how many are suggested.
const MAX_COMPARED: usize = 2000;
const MAX_SUGGESTED: usize = 5;

/// The error for a missing path: names the first part that is missing, and
/// what is there that looks like it.
pub fn not_found(workspace: &Workspace, place: &Place) -> ToolError {
    let missing = first_missing(workspace, place);
    let directory = workspace.of_shown(missing.parent_shown());
    let similar = similar_names(&directory, missing.name());
    let mut message = match missing == *place {
        true => format!("`{place}` does not exist."),
        false => format!("`{place}` does not exist: there is no directory `{missing}`."),
    };
    let paths: Vec<String> = similar
        .into_iter()
        .map(|name| match directory.is_root() {
            true => name,
            false => format!("{directory}/{name}"),
        })
        .collect();
    match paths.is_empty() {
        true => {
            message.push_str(&format!(" Nothing in `{directory}` has a similar name; list_dir shows what is there."))
        }
        false => message.push_str(&format!(" Did you mean `{}`?", paths.join("`, `"))),
    }
    ToolError::new("not_found", message)
        .details(&bulkhead_tool::serde_json::json!({ "path": place.shown(), "similar": paths }))
}

fn first_missing(workspace: &Workspace, place: &Place) -> Place {
    let mut missing = place.clone();
    while !missing.is_root() {
        let parent = workspace.of_shown(missing.parent_shown());
        if fs::metadata(parent.real()).is_ok() {
            break;
        }
        missing = parent;
    }
    missing
}

fn similar_names(directory: &Place, wanted: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.real()) else { return Vec::new() };
    let mut scored: Vec<(usize, String)> = entries
        .take(MAX_COMPARED)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((distance(wanted, &name)?, name)))
        .collect();
    scored.sort();
    scored.into_iter().take(MAX_SUGGESTED).map(|(_, name)| name).collect()
}

/// How unlike two names are; none if too unlike to mention.
fn distance(wanted: &str, name: &str) -> Option<usize> {
    let (wanted, name) = (wanted.to_lowercase(), name.to_lowercase());
    if wanted == name {
        return Some(0);
    }
    let stem = |text: &str| text.rsplit_once('.').map_or(text.len(), |(stem, _)| stem.len());
    let same_stem = wanted[..stem(&wanted)] == name[..stem(&name)];
    if same_stem || (wanted.len() >= 3 && (name.contains(&wanted) || wanted.contains(&name) && name.len() >= 3)) {
        return Some(1);
    }
    let steps = edit_steps(&wanted, &name);
    let length = wanted.chars().count();
    (steps <= length / 3 + 1 && steps < length).then_some(steps + 1)
}

/// The Levenshtein distance.
fn edit_steps(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempWorkspace;

    #[test]
    fn names_like_it_come_first() {
        let ws = TempWorkspace::with(&[("src/main.rs", ""), ("src/Main.txt", ""), ("src/other.rs", "")]);
        let error = not_found(&ws, &ws.of_shown("src/mian.rs"));
        assert_eq!(error.code, "not_found");
        assert_eq!(error.message, "`src/mian.rs` does not exist. Did you mean `src/main.rs`?");
        let error = not_found(&ws, &ws.of_shown("scr/main.rs"));
        assert!(error.message.contains("no directory `scr`. Did you mean `src`?"), "{}", error.message);
    }

    #[test]
    fn steps() {
        assert_eq!(edit_steps("kitten", "sitting"), 3);
        assert_eq!(edit_steps("", "ab"), 2);
    }
}
