//! Tasks: the unit of isolation. One workspace, one event log, frozen tools,
//! grants and limits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::event::Seq;
use crate::grants::Ceiling;
use crate::id::{SessionId, TaskId};
use crate::limits::Limits;
use crate::principal::Owner;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Its workspace is being filled.
    Initializing,
    /// Takes calls.
    Ready,
    /// Kept, but takes no calls until it is ready again.
    Archived,
    /// Its workspace is gone, or kept for a while; its record and events stay until retention.
    Deleted,
    /// Its workspace could not be filled.
    Failed,
}

impl TaskState {
    /// The text form, as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
        }
    }

    /// The states from which `self` can be reached: the one table of a task's
    /// transitions.
    pub fn reached_from(self) -> &'static [TaskState] {
        match self {
            Self::Initializing => &[],
            Self::Ready => &[Self::Initializing, Self::Archived],
            Self::Archived => &[Self::Ready],
            Self::Deleted => &[Self::Initializing, Self::Ready, Self::Archived, Self::Failed],
            Self::Failed => &[Self::Initializing],
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown state `{0}`")]
pub struct UnknownState(pub String);

impl FromStr for TaskState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Initializing, Self::Ready, Self::Archived, Self::Deleted, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// What a workspace is filled with at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// Nothing.
    Empty,
    /// A shallow clone of a git repository, without its `.git` directory.
    Git {
        /// `https://…`, or a path below a local root that the operator configured.
        url: String,
        /// Branch, tag or full commit id; the remote's default if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// An uploaded tar archive, plain or compressed with gzip.
    Archive,
}

/// How long a task may be without use, and live, in milliseconds. Each narrows what
/// the operator configured; absent, that alone counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetimes {
    /// Without a call, a file operation or an open stream: then it is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_idle_ms: Option<u64>,
    /// Archived: then it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_archived_ms: Option<u64>,
    /// Since it was made: then it is deleted, whatever it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
}

/// What the host itself does to a task whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overdue {
    /// Archived, because nobody used it for so long.
    Idle,
    /// Deleted, because it was archived, or had failed, for so long.
    ArchivedLong,
    /// Deleted, because it is so old.
    Age,
    /// Purged, because it was deleted for so long.
    DeletedLong,
}

impl Overdue {
    /// The text form, as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::ArchivedLong => "archived_long",
            Self::Age => "age",
            Self::DeletedLong => "deleted_long",
        }
    }
}

impl FromStr for Overdue {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Idle, Self::ArchivedLong, Self::Age, Self::DeletedLong]
            .into_iter()
            .find(|why| why.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A step of a task that is deleted and kept for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptStep {
    /// From `ready` or `archived` to `deleted`, kept until then.
    Keep(Timestamp),
    /// Back to `archived`; its age counts from now on.
    Bring,
    /// No longer kept: `deleted` for good.
    Purge,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub owner: Owner,
    /// The session it belongs to, if any.
    pub session: Option<SessionId>,
    /// A name for people; at most 200 bytes.
    pub label: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// What its workspace was filled with.
    pub source: Source,
    /// The frozen set of tools.
    pub tool_set: Digest,
    /// The frozen ceiling of limits.
    pub limits: Limits,
    /// The frozen ceiling of grants.
    pub ceiling: Ceiling,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// How long it may be without use, and live.
    pub lifetimes: Lifetimes,
    /// Until when it can be restored, if it is deleted and kept.
    pub kept_until: Option<Timestamp>,
    /// The number of its last event; 0 if there is none.
    pub last_seq: Seq,
    /// The number of the oldest event that is still kept; `last_seq + 1` if none is.
    pub first_seq: Seq,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip_and_deleted_is_final() {
        use TaskState::*;
        for state in [Initializing, Ready, Archived, Deleted, Failed] {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert!(!state.reached_from().contains(&Deleted));
            assert!(!state.reached_from().contains(&state));
        }
        assert!("gone".parse::<TaskState>().is_err());
    }
}
