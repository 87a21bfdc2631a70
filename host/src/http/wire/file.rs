//! Files of a workspace.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::{ChangeKind, ChangedBy};
use bulkhead_core::files::{Access, DeletedFile, FileFacts, HistoryEntry};
use bulkhead_core::ports::workspace::{Entry, EntryKind};
use bulkhead_core::service::files::{Preview, Shown, UploadState};
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
    /// Entity tag of a file's content: another one when that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// What is known of the content: there if a client sent it and it has not changed since, and only if one entry is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentBody>,
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
    /// How many entries of this page are not shown, because their paths would be too long or too deep; absent if none.
    #[serde(skip_serializing_if = "is_none")]
    pub unnamed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none(count: &u64) -> bool {
    *count == 0
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
            etag: entry.etag.clone(),
            content: None,
            target: entry.target.as_deref().map(bulkhead_core::path::display),
            href: place.map(|place| format!("/v1/tasks/{task}/{place}/{encoded}")),
        }
    }
}

impl EntryBody {
    /// The same with what is known of its content.
    pub fn known(task: &str, entry: &Entry, facts: Option<FileFacts>) -> Self {
        Self { content: facts.as_ref().map(ContentBody::from), ..Self::of(task, entry) }
    }
}

/// What is known of a content that a client sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct ContentBody {
    /// Its size, in bytes.
    pub size: u64,
    /// Its SHA-256: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Its media type: as the client said, else guessed by its name; its bytes were not looked at.
    pub media_type: String,
}

impl From<&FileFacts> for ContentBody {
    fn from(facts: &FileFacts) -> Self {
        Self { size: facts.size, digest: facts.digest.to_string(), media_type: facts.media_type.clone() }
    }
}

/// One change of one path.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    /// Where it stands: the event's number, and which of its changes.
    pub place: String,
    /// The number of the event that told it; events go sooner.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who made it: `http`, `call` or `import`.
    #[schema(value_type = String)]
    pub by: ChangedBy,
    /// Which user, if a client made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Which call, if one made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The path.
    pub path: String,
    /// `created`, `modified` or `deleted`.
    #[schema(value_type = String)]
    pub change: ChangeKind,
    /// What is known of the content, if a client sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentBody>,
}

impl From<&HistoryEntry> for HistoryBody {
    fn from(entry: &HistoryEntry) -> Self {
        Self {
            place: entry.place.to_string(),
            seq: entry.place.seq,
            at: entry.at.to_string(),
            by: entry.by,
            user: entry.user.map(|user| user.to_string()),
            call: entry.call.map(|call| call.to_string()),
            path: entry.path.clone(),
            change: entry.change,
            content: entry.facts.as_ref().map(ContentBody::from),
        }
    }
}

/// An entry of a task's access log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessBody {
    /// Its id.
    pub id: String,
    /// RFC 3339, UTC; when it ended.
    pub at: String,
    /// `read`, `write`, `delete`, `restore`, `move` or `copy`.
    pub kind: &'static str,
    /// The path.
    pub path: String,
    /// Which user: the owner, or an administrator.
    pub user: String,
    /// That user's tenant.
    pub tenant: String,
    /// How many bytes of content were sent or taken.
    pub bytes: u64,
    /// `ok`, the code of the problem, `broken_off` if not all of a file was sent, or `cancelled` if the client went away first.
    pub status: String,
    /// Through which edge: `http`.
    pub edge: String,
}

impl From<&Access> for AccessBody {
    fn from(access: &Access) -> Self {
        Self {
            id: access.id.to_string(),
            at: access.at.to_string(),
            kind: access.kind.as_str(),
            path: access.path.clone(),
            user: access.by.user.to_string(),
            tenant: access.by.tenant.to_string(),
            bytes: access.bytes,
            status: access.status.clone(),
            edge: access.edge.clone(),
        }
    }
}

/// An entry that was deleted and is kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedBody {
    /// Its id.
    pub id: String,
    /// Where it was.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: &'static str,
    /// Bytes that it takes in the quota, with all that is in it.
    pub bytes: u64,
    /// Entries that it takes in the quota, itself included.
    pub entries: u64,
    /// Which user deleted it.
    pub user: String,
    /// RFC 3339, UTC; when.
    pub deleted_at: String,
    /// RFC 3339, UTC; when it is purged.
    pub purged_at: String,
}

impl DeletedBody {
    /// The wire form of an entry that is purged at this time.
    pub fn of(file: &DeletedFile, purged_at: Timestamp) -> Self {
        Self {
            id: file.id.to_string(),
            path: file.path.clone(),
            kind: file.kind.as_str(),
            bytes: file.extent.bytes,
            entries: file.extent.entries,
            user: file.owner.user.to_string(),
            deleted_at: file.at.to_string(),
            purged_at: purged_at.to_string(),
        }
    }
}

/// How a deleted entry comes back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreFileBody {
    /// Where it comes; where it was, if absent.
    pub path: Option<String>,
    /// Whether a file that is in the way may be replaced.
    pub replace: bool,
}

/// How many entries were purged.
#[derive(Debug, Serialize, ToSchema)]
pub struct PurgedBody {
    /// So many.
    pub purged: u64,
}

/// What is transferred from another task of the same owner.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferBody {
    /// The task that it comes from.
    pub from_task: String,
    /// Its path there; `%XX` for bytes that are not text.
    pub from: String,
    /// Its path here. Parents are made.
    pub to: String,
    /// Whether it is removed there: moved instead of copied.
    #[serde(default)]
    pub remove: bool,
    /// Whether a file that is in its place may be replaced.
    #[serde(default)]
    pub replace: bool,
}

/// What was transferred.
#[derive(Debug, Serialize, ToSchema)]
pub struct TransferredBody {
    /// What is here now.
    pub entry: EntryBody,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Files, directories and links, itself included.
    pub entries: u64,
    /// Devices, pipes and sockets that were left out.
    pub left_out: u64,
}

/// A content that the owner's clients have sent before, for a file here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutContentBody {
    /// Its SHA-256: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The file's path; `%XX` for bytes that are not text. Parents are made.
    pub path: String,
    /// Whether a file that is there may be replaced.
    #[serde(default)]
    pub replace: bool,
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
    /// Its media type; as it was sent before, if absent.
    pub media_type: Option<String>,
}

/// An upload that goes on over several requests.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUploadBody {
    /// The file's path; `%XX` for bytes that are not text. Parents are made.
    pub path: String,
    /// How large it will be, in bytes.
    pub length: u64,
    /// Whether a file that is there may be replaced.
    #[serde(default)]
    pub replace: bool,
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
    /// Its media type; guessed by its name, if absent.
    pub media_type: Option<String>,
    /// What its content must be: `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

/// How far an upload is.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadBody {
    /// Its id.
    pub id: String,
    /// Where the file goes.
    pub path: String,
    /// How many bytes are there: the next request begins here.
    pub offset: u64,
    /// How large it will be.
    pub length: u64,
    /// Whether all of it is there and the file in its place.
    pub complete: bool,
    /// RFC 3339, UTC; when it is forgotten.
    pub expires_at: String,
}

impl From<&UploadState> for UploadBody {
    fn from(state: &UploadState) -> Self {
        let UploadState { upload, offset } = state;
        Self {
            id: upload.id.to_string(),
            path: upload.path.clone(),
            offset: *offset,
            length: upload.length,
            complete: upload.completed_at.is_some(),
            expires_at: upload.expires_at.to_string(),
        }
    }
}

/// The beginning of a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewBody {
    /// What it is.
    pub entry: EntryBody,
    /// Its media type: as a client said, else guessed by its name; its bytes were not looked at for it.
    pub media_type: String,
    /// What is shown: `text`, `bytes`, or `nothing` of what is no file.
    pub shown: &'static str,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How its bytes were read: `utf-8`, `utf-16le` or `utf-16be`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// Whether the bytes can be had back from the text: nothing was replaced by U+FFFD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lossless: Option<bool>,
    /// Bytes that are no text, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// Whether there is more than is shown.
    pub truncated: bool,
}

impl PreviewBody {
    /// The wire form of a preview in `task`.
    pub fn of(task: &str, preview: Preview) -> Self {
        let Preview { entry, facts, media_type, shown, truncated } = preview;
        let entry = EntryBody::known(task, &entry, facts);
        let none = Self {
            entry,
            media_type,
            shown: "nothing",
            text: None,
            encoding: None,
            lossless: None,
            hex: None,
            truncated,
        };
        match shown {
            Shown::Text { text, encoding, lossless } => {
                Self { shown: "text", text: Some(text), encoding: Some(encoding), lossless: Some(lossless), ..none }
            }
            Shown::Bytes(bytes) => Self { shown: "bytes", hex: Some(hex::encode(bytes)), ..none },
            Shown::Nothing => none,
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
