//! Files as the record knows them: what is known of contents that clients sent,
//! what happened to each path, what was deleted and is kept.
//!
//! The history of paths is made of the events that tell changes, by the store and in
//! the transaction that appends them: so no change has an entry without an event, or
//! an event without its entries, whoever made it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::event::{ChangeKind, ChangedBy, EventBody, FileChange, NewEvent, Seq};
use crate::id::{AccessId, CallId, DeletedId, TaskId, UploadId, UserId};
use crate::ports::workspace::EntryKind;
use crate::principal::Owner;
use crate::quota::Extent;

/// Longest media type that is kept, in bytes.
pub const MAX_MEDIA_TYPE: usize = 127;
/// What a file is if nobody says: bytes.
pub const OCTETS: &str = "application/octet-stream";

/// What is known of the content of a file that a client sent. True of the file as
/// long as that has the same `etag`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its size, in bytes.
    pub size: u64,
    /// Its SHA-256, computed by the host as it came in.
    pub digest: Digest,
    /// Its media type: as the client said, else guessed by its name; its bytes are
    /// not looked at.
    pub media_type: String,
    /// The entity tag that the file had when it was in its place.
    pub etag: String,
}

/// Where an entry of a task's history stands: the event, and which of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The event's number.
    pub seq: Seq,
    /// The change within it, from 1.
    pub number: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seq, self.number)
    }
}

/// A text that is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a place in a history: expected two numbers with a dot between them")]
pub struct BadPlace;

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let (seq, number) = text.split_once('.').ok_or(BadPlace)?;
        Ok(Self { seq: seq.parse().map_err(|_| BadPlace)?, number: number.parse().map_err(|_| BadPlace)? })
    }
}

/// One change of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Where it stands.
    pub place: Place,
    /// When it was told.
    pub at: Timestamp,
    /// Who made it.
    pub by: ChangedBy,
    /// Which user, if a client made it.
    pub user: Option<UserId>,
    /// Which call, if one made it.
    pub call: Option<CallId>,
    /// The path, as text that names it exactly.
    pub path: String,
    /// What happened.
    pub change: ChangeKind,
    /// What is known of the content, if a client sent it.
    pub facts: Option<FileFacts>,
}

/// The kind of the events that tell changes of files.
pub const CHANGED: &str = "files.changed";

/// The entries that an event makes, once it has its number.
pub fn entries_of(event: &NewEvent, seq: Seq) -> Vec<HistoryEntry> {
    #[derive(Deserialize)]
    struct Told {
        by: ChangedBy,
        user: Option<UserId>,
        content: Option<FileFacts>,
        changes: Vec<FileChange>,
    }
    if event.kind != CHANGED {
        return Vec::new();
    }
    // The host wrote it in this very form.
    let Ok(Told { by, user, mut content, changes }) = serde_json::from_str(&event.data) else { return Vec::new() };
    let last = changes.len();
    let entry = |(number, FileChange { path, change }): (usize, FileChange)| HistoryEntry {
        place: Place { seq, number: u32::try_from(number).unwrap_or(u32::MAX) },
        at: event.at,
        by,
        user,
        call: event.call,
        path,
        change,
        facts: if number == last { content.take() } else { None },
    };
    (1..).zip(changes).map(entry).collect()
}

/// The body of an event about what a client did.
pub fn changed_by_client(
    user: UserId,
    changes: Vec<FileChange>,
    counts: crate::event::ChangeCounts,
    incomplete: bool,
    content: Option<FileFacts>,
) -> EventBody {
    EventBody::FilesChanged {
        by: ChangedBy::Http,
        changes,
        counts,
        incomplete,
        user: Some(user),
        content,
        reached: None,
    }
}

/// How far the deletion of an entry, or what undoes it, has come. Everything but
/// `Kept` lasts for moments, and is finished by a later look if the host dies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletedState {
    /// It is on its way out of the workspace.
    Leaving,
    /// It is kept.
    Kept,
    /// It is on its way back.
    Returning,
    /// It is being removed for good.
    Purging,
}

impl DeletedState {
    /// The text form, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Kept => "kept",
            Self::Returning => "returning",
            Self::Purging => "purging",
        }
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown state `{0}`")]
pub struct UnknownState(pub String);

impl FromStr for DeletedState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Leaving, Self::Kept, Self::Returning, Self::Purging]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// An entry of a workspace that a client deleted, and that is kept for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedFile {
    /// Its id, by which it lies beside the workspaces.
    pub id: DeletedId,
    /// Its task.
    pub task: TaskId,
    /// Whose that is, and who deleted it: nobody deletes another's.
    pub owner: Owner,
    /// How far it has come.
    pub state: DeletedState,
    /// Where it was, as text that names it exactly.
    pub path: String,
    /// Where it is going, while it returns.
    pub target: Option<String>,
    /// What it is.
    pub kind: EntryKind,
    /// What it takes, with all that is in it.
    pub extent: Extent,
    /// When it was deleted.
    pub at: Timestamp,
}

/// An upload that goes on over several requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its id, by which its bytes lie beside the workspaces.
    pub id: UploadId,
    /// Its task.
    pub task: TaskId,
    /// Whose that is.
    pub owner: Owner,
    /// Where the file goes, as text that names it exactly.
    pub path: String,
    /// How large it will be.
    pub length: u64,
    /// Whether it may take the place of another file.
    pub replace: bool,
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
    /// Its media type.
    pub media_type: String,
    /// What its content must be, if the client said so.
    pub digest: Option<Digest>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    /// When its file was put in its place, if it was.
    pub completed_at: Option<Timestamp>,
}

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// It was read, or a part of it.
    Read,
    /// It was written.
    Write,
    /// It was deleted, or purged after that.
    Delete,
    /// It was brought back after that.
    Restore,
    /// It was moved within its workspace, or to another.
    Move,
    /// It was copied to another workspace.
    Copy,
}

impl AccessKind {
    /// The text form, as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Restore => "restore",
            Self::Move => "move",
            Self::Copy => "copy",
        }
    }
}

impl FromStr for AccessKind {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Read, Self::Write, Self::Delete, Self::Restore, Self::Move, Self::Copy]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// An entry of a task's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its id.
    pub id: AccessId,
    /// The task.
    pub task: TaskId,
    /// Whose that is.
    pub owner: Owner,
    /// Who did it: the owner, or an administrator.
    pub by: Owner,
    /// When it ended.
    pub at: Timestamp,
    /// What was done.
    pub kind: AccessKind,
    /// To which path, as text that names it exactly.
    pub path: String,
    /// How many bytes were sent or taken.
    pub bytes: u64,
    /// How it ended: `ok`, or the code of the problem.
    pub status: String,
    /// Through which edge: `http`.
    pub edge: String,
}

/// The media type to keep: what was said, if that is one; else by the name.
pub fn media_type(said: Option<&str>, name: &[u8]) -> String {
    let said = said.map(str::trim).filter(|said| is_media_type(said));
    said.map_or_else(|| by_name(name).to_owned(), str::to_owned)
}

/// Whether it is a media type (RFC 9110, section 8.3.1), of a bounded length and of
/// signs that a header field may have.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    text.len() <= MAX_MEDIA_TYPE
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && essence.split_once('/').is_some_and(|(kind, rest)| token(kind) && token(rest))
}

/// What files of such a name mostly are.
fn by_name(name: &[u8]) -> &'static str {
    const KNOWN: &[(&str, &str)] = &[
        ("css", "text/css"),
        ("csv", "text/csv"),
        ("gif", "image/gif"),
        ("gz", "application/gzip"),
        ("htm", "text/html"),
        ("html", "text/html"),
        ("jpeg", "image/jpeg"),
        ("jpg", "image/jpeg"),
        ("js", "text/javascript"),
        ("json", "application/json"),
        ("md", "text/markdown"),
        ("pdf", "application/pdf"),
        ("png", "image/png"),
        ("svg", "image/svg+xml"),
        ("tar", "application/x-tar"),
        ("toml", "application/toml"),
        ("txt", "text/plain"),
        ("wasm", "application/wasm"),
        ("webp", "image/webp"),
        ("xml", "application/xml"),
        ("yaml", "application/yaml"),
        ("yml", "application/yaml"),
        ("zip", "application/zip"),
    ];
    let extension = name.rsplit(|byte| *byte == b'.').next().filter(|extension| extension.len() < name.len());
    let extension = extension.unwrap_or_default().to_ascii_lowercase();
    KNOWN.iter().find(|(known, _)| known.as_bytes() == extension).map_or(OCTETS, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ChangeCounts;

    #[test]
    fn an_event_becomes_an_entry_for_each_change() {
        let facts =
            FileFacts { size: 3, digest: Digest::of(b"abc"), media_type: "text/plain".into(), etag: "\"x\"".into() };
        let user = UserId::from_parts(1, 2);
        let change = |path: &str, change| FileChange { path: path.into(), change };
        let changes = vec![change("a", ChangeKind::Deleted), change("b", ChangeKind::Created)];
        let body = changed_by_client(user, changes, ChangeCounts::default(), false, Some(facts.clone()));
        let event = NewEvent::new(Timestamp::from_millis(7), None, &body);
        let entries = entries_of(&event, 5);
        let told: Vec<_> = entries.iter().map(|entry| (entry.place.to_string(), &*entry.path, entry.change)).collect();
        assert_eq!(told, [("5.1".into(), "a", ChangeKind::Deleted), ("5.2".into(), "b", ChangeKind::Created)]);
        assert_eq!((&entries[0].facts, &entries[1].facts), (&None, &Some(facts)));
        assert_eq!((entries[1].user, entries[1].by), (Some(user), ChangedBy::Http));
        let other = NewEvent::new(Timestamp::from_millis(7), None, &EventBody::TaskReady {});
        assert_eq!(entries_of(&other, 6), []);
        assert_eq!("5.2".parse(), Ok(entries[1].place));
        assert!("5".parse::<Place>().is_err() && "5.x".parse::<Place>().is_err());
    }

    #[test]
    fn media_types_are_said_or_guessed_by_name() {
        assert_eq!(media_type(Some("text/html; charset=utf-8"), b"a.png"), "text/html; charset=utf-8");
        for bad in ["", "text", "a/b\nc: d", "te xt/html", &"a/".repeat(99)] {
            assert_eq!(media_type(Some(bad), b"a.PNG"), "image/png", "{bad}");
        }
        for name in [&b"png"[..], b".png.", b"", b"a.\xff", b"Makefile"] {
            assert_eq!(media_type(None, name), OCTETS, "{name:?}");
        }
    }
}
