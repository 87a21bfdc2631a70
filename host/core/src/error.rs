//! Errors of the use cases. They know no HTTP; each edge maps them by one
//! exhaustive match. Public text and internal text are apart: `Display` is
//! what a client may read, the source is for the log.

use std::borrow::Cow;
use std::time::Duration;

use thiserror::Error;

use crate::digest::Digest;
use crate::id::TaskId;
use crate::limits::LimitTooLarge;
use crate::ports::rates::Standing;
use crate::ports::sandbox::SandboxError;
use crate::ports::store::StoreError;
use crate::ports::workspace::WorkspaceError;
use crate::principal::Scope;
use crate::quota::Extent;
use crate::reached::{Bound, SERVER, words};
use crate::schema::Mismatch;

/// Why a use case was refused or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The key or token lacks a scope.
    #[error("this needs the scope `{0}`, which the key or token does not have")]
    MissingScope(Scope),
    /// There is no such thing, or it is not yours: nobody is told which.
    #[error("there is no {kind} `{id}` here")]
    NotFound {
        /// `task`, `call`, …
        kind: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// A field of the request is not valid.
    #[error("`{field}`: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// The arguments don't fit the tool's schema.
    #[error("the arguments do not fit the input schema of `{tool}`")]
    ArgumentsMismatch {
        /// The tool.
        tool: String,
        /// Where and why.
        mismatches: Vec<Mismatch>,
    },
    /// Something is larger than allowed.
    #[error("{}", too_large(.what, .key, *.limit))]
    TooLarge {
        /// What.
        what: &'static str,
        /// The key of the configuration that sets the limit.
        key: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The task has no tool of this name.
    #[error("the task has no tool `{name}`{}", .hint.as_deref().unwrap_or(""))]
    UnknownTool {
        /// The name.
        name: String,
        /// What else there is.
        hint: Option<String>,
    },
    /// The state of the thing does not allow this.
    #[error("{what} is {state}: {remedy}")]
    WrongState {
        /// What.
        what: String,
        /// Its state.
        state: String,
        /// What would help.
        remedy: Cow<'static, str>,
    },
    /// The task's workspace is as large as its limits allow, or all of the
    /// user's together.
    #[error("the workspace is full: {}{}", bound.in_words(), beside(*aside))]
    WorkspaceFull {
        /// The limit, and what is used of it.
        bound: Bound,
        /// What of it deleted files that are kept, and uploads, take.
        aside: Extent,
    },
    /// No file of this owner is known to have this content.
    #[error("no file of yours that was sent before has the content `{0}`; send it")]
    UnknownContent(Digest),
    /// Another host has what is needed, and it is no file or directory.
    #[error(
        "the workspace of the task `{0}` is held by another host, from where files and directories are transferred and nothing else"
    )]
    HeldElsewhere(TaskId),
    /// What is added to an upload does not begin where that ends.
    #[error("the upload has {offset} bytes; send the rest from there")]
    WrongOffset {
        /// Where it ends.
        offset: u64,
    },
    /// Something there may only be so many of.
    #[error("{}", words(.0.name, .0.value, .0.used.unwrap_or(.0.value)))]
    OverQuota(Bound),
    /// The idempotency key was used with another body.
    #[error("this Idempotency-Key was used with another request body in the last 24 hours")]
    IdempotencyKeyReused,
    /// Too much is going on; later it may work.
    #[error("{what}")]
    Busy {
        /// Which limit is reached.
        what: String,
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// More often than is allowed; later it works.
    #[error("{}", words(standing.key(), standing.rate.per_minute.into(), standing.rate.burst))]
    RateLimited {
        /// The rate, and where the principal stands.
        standing: Standing,
        /// When one more will be allowed.
        retry_after: Duration,
    },
    /// The asked-for events are older than what is kept.
    #[error("events after {after} are no longer kept; the oldest kept is {first}")]
    EventsExpired {
        /// The cursor.
        after: u64,
        /// The oldest event that is kept.
        first: u64,
    },
    /// The cursor is beyond the end of the log: it is another task's, or from before the
    /// database was restored from a copy.
    #[error(
        "there is no event {after} in this log, which ends with {last}: the number is of another task, or of events that were lost since; read the task and its calls, then follow after {last}"
    )]
    EventsAhead {
        /// The cursor.
        after: u64,
        /// The newest event.
        last: u64,
    },
    /// A file operation was refused.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The store failed.
    #[error("the store failed; nothing was lost that had been acknowledged")]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error("the sandbox failed")]
    Sandbox(#[from] SandboxError),
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl Error {
    /// Shorthand for a thing that is not there, or not yours.
    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    /// A limit that is asked for beyond its ceiling: whose that is, and how to get more.
    pub(crate) fn over_ceiling(error: &LimitTooLarge, remedy: &str) -> Self {
        Self::invalid(format!("limits.{}", error.name), format!("{error}, {remedy}"))
    }

    /// Shorthand for a field that is not valid.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }
}

/// What is said of something that is too large: nobody read how large.
fn too_large(what: &str, key: &'static str, limit: u64) -> String {
    match SERVER.iter().any(|known| known.name == key) {
        true => words(key, limit, format_args!("more than {limit}")),
        false => format!("{what} is larger than {limit} bytes; send less, or raise it: `{key}` in bulkhead.toml"),
    }
}

/// What a full workspace has beside it, in words.
fn beside(aside: Extent) -> String {
    match aside.entries {
        0 => String::new(),
        entries => format!(
            "; {} bytes in {entries} entries are deleted files that are kept, and unfinished uploads: purging them makes \
             room at once",
            aside.bytes
        ),
    }
}
