//! Making the parts of a result.

use alloc::{string::String, vec, vec::Vec};

use crate::{Blob, Content};

/// A result of one text.
pub fn text(text: impl Into<String>) -> Vec<Content> {
    vec![Content::Text(text.into())]
}

/// A result of one JSON value.
pub fn json(value: &impl serde::Serialize) -> Vec<Content> {
    vec![json_part(value)]
}

/// A result for people and models, and the same for programs.
pub fn text_and_json(text: impl Into<String>, value: &impl serde::Serialize) -> Vec<Content> {
    vec![Content::Text(text.into()), json_part(value)]
}

/// A result of bytes with a media type.
pub fn blob(media_type: impl Into<String>, data: Vec<u8>) -> Vec<Content> {
    vec![Content::Blob(Blob { media_type: media_type.into(), data })]
}

/// Serialising into memory fails only for maps whose keys are no strings: a
/// mistake in the tool, shown as what it is rather than as a trap.
fn json_part(value: &impl serde::Serialize) -> Content {
    match serde_json::to_string(value) {
        Ok(json) => Content::Json(json),
        Err(error) => Content::Text(alloc::format!("(the tool made no valid JSON: {error})")),
    }
}
