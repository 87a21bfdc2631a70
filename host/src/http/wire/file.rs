//! Files of a workspace.

use bulkhead_core::ports::workspace::{Entry, EntryKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An entry of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryBody {
    /// Path in the workspace. Bytes that are not UTF-8, control characters and `%` stand as `%XX`.
    pub path: String,
    /// `file`, `directory`, `symlink` (never followed) or `other` (never opened).
    #[schema(value_type = String)]
    pub kind: EntryKind,
    /// Size, in bytes; 0 for a directory.
    pub size: u64,
    /// RFC 3339, UTC; when its content last changed.
    pub modified_at: String,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Where a symbolic link points, as it stands in the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The URL path of its content (a file) or of its entries (a directory).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
}

/// A directory with a page of its entries, or another entry alone.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryPage {
    /// What the path names.
    pub entry: EntryBody,
    /// The entries of a directory, sorted by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<EntryBody>>,
    /// Pass it as `after` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

impl EntryBody {
    /// The wire form of an entry of `task`.
    pub fn of(task: &str, entry: &Entry) -> Self {
        let place = match entry.kind {
            EntryKind::File => Some("files"),
            EntryKind::Directory => Some("entries"),
            EntryKind::Symlink | EntryKind::Other => None,
        };
        let encoded = url_path(entry.path.as_bytes());
        Self {
            path: entry.path.to_text(),
            kind: entry.kind,
            size: entry.size,
            modified_at: entry.modified_at.to_string(),
            executable: entry.executable,
            target: entry.target.as_deref().map(bulkhead_core::path::display),
            href: place.map(|place| format!("/v1/tasks/{task}/{place}/{encoded}")),
        }
    }
}

/// A path as it stands in a URL.
pub fn url_path(path: &[u8]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encode(path, KEPT).to_string()
}

/// What moves an entry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// Its path; `%XX` for bytes that are not text.
    pub from: String,
    /// Its new path.
    pub to: String,
    /// Whether something that is there may be replaced.
    #[serde(default)]
    pub replace: bool,
}

/// What makes a directory.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryBody {
    /// Its path; `%XX` for bytes that are not text. Parents are made.
    pub path: String,
}
