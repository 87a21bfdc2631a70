//! Events: the entries of a task's append-only log, numbered per task. What
//! clients stream and resume.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::files::FileFacts;
use crate::grants::{Capability, Mode};
use crate::id::{CallId, QuestionId, UserId};
use crate::limits::Usage;
use crate::outcome::{Content, Fault};
use crate::ports::egress::EgressError;
use crate::reached::Reached;
use crate::task::{Overdue, Source};

/// Number of an event in its task, from 1 without gaps.
pub type Seq = u64;

/// A standard stream of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there before.
    Created,
    /// It was there before.
    Modified,
    /// It is no longer there.
    Deleted,
}

/// One changed file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Path in the workspace, without a leading `/`. Bytes that are not UTF-8
    /// are percent-encoded, as is `%` itself.
    pub path: String,
    /// What happened.
    pub change: ChangeKind,
}

/// Who changed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangedBy {
    /// The call that the event names.
    Call,
    /// A client, through the files API.
    Http,
    /// The filling of the new workspace.
    Import,
}

/// Number of changes of each kind, those not named included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Files and directories created.
    pub created: u64,
    /// Files modified.
    pub modified: u64,
    /// Files and directories deleted.
    pub deleted: u64,
}

impl EventBody {
    /// Files changed, by a call or by an import.
    pub fn files_changed(by: ChangedBy, changes: Vec<FileChange>, counts: ChangeCounts, incomplete: bool) -> Self {
        Self::FilesChanged { by, changes, counts, incomplete, user: None, content: None, reached: None }
    }
}

impl ChangeCounts {
    /// Counts one change.
    pub fn add(&mut self, kind: ChangeKind) {
        match kind {
            ChangeKind::Created => self.created += 1,
            ChangeKind::Modified => self.modified += 1,
            ChangeKind::Deleted => self.deleted += 1,
        }
    }
}

/// Something that is done for a task and takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStep {
    /// Its workspace is made.
    Workspace,
    /// Its workspace is filled: cloned, or unpacked from an upload.
    Import,
    /// What was filled in is measured against the quotas.
    Quota,
    /// The workspace of an archived task is packed.
    Pack,
    /// It is unpacked again.
    Unpack,
    /// What runs its calls is there; `detail` names it.
    Backend,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// It begins.
    Started,
    /// It is done.
    Finished,
    /// It failed, as `detail` says.
    Failed,
}

/// What an event says. `type` and `data` on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventBody {
    /// The task was stored; its workspace is being filled.
    #[serde(rename = "task.created")]
    TaskCreated {
        /// What the workspace is filled with.
        source: Source,
    },
    /// The task takes calls.
    #[serde(rename = "task.ready")]
    TaskReady {},
    /// The workspace could not be filled.
    #[serde(rename = "task.failed")]
    TaskFailed {
        /// Why.
        reason: String,
    },
    /// A step that takes time began, or ended.
    #[serde(rename = "task.step")]
    TaskStep {
        /// Which.
        step: TaskStep,
        /// How far it is.
        status: StepStatus,
        /// How long it took, once it has ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        /// Why it failed, or what is to be known besides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Files, directories and links that were moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entries: Option<u64>,
        /// Their bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// The task takes no calls until it is ready again.
    #[serde(rename = "task.archived")]
    TaskArchived {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
    },
    /// The task's workspace is lost with the hosts that reached it: the task takes no calls
    /// and can't be restored.
    #[serde(rename = "task.workspace_lost")]
    TaskWorkspaceLost {},
    /// The task is deleted. The last event of a task that is not restored and was not kept.
    #[serde(rename = "task.deleted")]
    TaskDeleted {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
        /// Until when it can be restored, RFC 3339; absent if it can't be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_until: Option<String>,
    },
    /// The workspace that was kept of a deleted task is gone. The last event of a task.
    #[serde(rename = "task.purged")]
    TaskPurged {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
    },
    /// A call was accepted and waits for a slot.
    #[serde(rename = "call.queued")]
    CallQueued {
        /// The tool's name.
        tool: String,
    },
    /// `running` is stored and the guest starts.
    #[serde(rename = "call.started")]
    CallStarted {
        /// The tool's name.
        tool: String,
    },
    /// The host that ran the call failed or was stopped. The tool is idempotent, so the
    /// call waits for another attempt; what came before is of the one that is over.
    #[serde(rename = "call.requeued")]
    CallRequeued {
        /// What became of the host.
        fault: Fault,
    },
    /// A chunk of standard output or error.
    #[serde(rename = "call.output")]
    CallOutput {
        /// Which stream.
        stream: Stream,
        /// The text; bytes that are not UTF-8 are replaced by U+FFFD.
        text: String,
    },
    /// A part that the tool sent while it runs.
    #[serde(rename = "call.content")]
    CallContent {
        /// The part.
        part: Content,
    },
    /// A stream reached its limit and what follows is dropped, or the guest was
    /// refused what is over another one. Told once for each limit.
    #[serde(rename = "call.truncated")]
    CallTruncated(Reached),
    /// Progress; `done` never decreases and never exceeds `total`.
    #[serde(rename = "call.progress")]
    CallProgress {
        /// Units done.
        done: u64,
        /// Units in all, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// What is being done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A log line of the tool.
    #[serde(rename = "call.log")]
    CallLog {
        /// Its level.
        level: LogLevel,
        /// Its text.
        message: String,
        /// Its fields.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fields: Vec<(String, String)>,
    },
    /// The call waits for its owner's answer to a question.
    #[serde(rename = "call.waiting")]
    CallWaiting {
        /// The question; answered by its id.
        question: QuestionId,
        /// What the call would get.
        capability: Capability,
        /// The rule that wants it asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Arc<str>>,
        /// When the answer will be taken for a no, RFC 3339.
        until: String,
    },
    /// The question was answered, or its time is up; the call goes on.
    #[serde(rename = "call.answered")]
    CallAnswered {
        /// The question.
        question: QuestionId,
        /// The answer.
        allowed: bool,
        /// False if nobody answered in time.
        answered: bool,
        /// The limit that the time was, if it is up.
        #[serde(flatten)]
        reached: Option<Reached>,
    },
    /// An HTTP request of the tool is over: it was refused, or failed, or its
    /// response was read or dropped.
    #[serde(rename = "call.http")]
    CallHttp {
        /// The method.
        method: String,
        /// The URL, without its query.
        url: String,
        /// Whether it was allowed.
        allowed: bool,
        /// The mode that decided.
        mode: Mode,
        /// The rule that decided; none for a default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Arc<str>>,
        /// The response's status code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<EgressError>,
        /// The limit that ended it.
        #[serde(flatten)]
        reached: Option<Reached>,
        /// What is wrong with the request, or why it was not sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Bytes of the response's body that came.
        received_bytes: u64,
        /// From the request to the end, in milliseconds.
        duration_ms: u64,
    },
    /// Files of the workspace changed.
    #[serde(rename = "files.changed")]
    FilesChanged {
        /// By whom.
        by: ChangedBy,
        /// The changes, in order; capped.
        changes: Vec<FileChange>,
        /// How many there were in all.
        counts: ChangeCounts,
        /// True if not every change is named: over the cap, or rebuilt by a
        /// walk after the worker was lost.
        incomplete: bool,
        /// Which user, if a client changed them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// What is known of the content of the last file named, if a client sent it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<FileFacts>,
        /// The limit beyond which changes are counted and not named, if it was reached.
        #[serde(flatten)]
        reached: Option<Reached>,
    },
    /// The call reached its terminal state.
    #[serde(rename = "call.ended")]
    CallEnded {
        /// The state.
        state: String,
        /// The result, if there is one and it is small; else read the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Content>>,
        /// Why it did not succeed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
        /// What was used.
        usage: Usage,
    },
}

/// The type of [`EventBody::TaskPurged`].
pub const PURGED: &str = "task.purged";

impl EventBody {
    /// Name and data, ready to be stored.
    pub fn encode(&self) -> (String, Arc<str>) {
        // Serializing plain strings, numbers and JSON values can't fail, and
        // serde writes an adjacently tagged enum in exactly this form.
        let text = serde_json::to_string(self).unwrap_or_default();
        let split = || text.strip_prefix(r#"{"type":""#)?.strip_suffix('}')?.split_once(r#"","data":"#);
        match split() {
            Some((kind, data)) => (kind.to_owned(), data.into()),
            None => ("internal.error".into(), "{}".into()),
        }
    }
}

/// An event on its way into the log: everything but its number.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When it happened.
    pub at: Timestamp,
    /// The call it belongs to.
    pub call: Option<CallId>,
    /// Its type: `call.output`.
    pub kind: String,
    /// Its data: JSON, as text.
    pub data: Arc<str>,
}

impl NewEvent {
    /// An event that says `body`.
    pub fn new(at: Timestamp, call: Option<CallId>, body: &EventBody) -> Self {
        let (kind, data) = body.encode();
        Self { at, call, kind, data }
    }

    /// Its size for limits, in bytes.
    pub fn size(&self) -> u64 {
        (self.data.len() + self.kind.len() + 64) as u64
    }
}

/// An event of a task's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number.
    pub seq: Seq,
    /// The rest.
    pub body: NewEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_type_and_data() {
        let body = EventBody::CallOutput { stream: Stream::Stdout, text: "a\n".into() };
        let (kind, data) = body.encode();
        assert_eq!(kind, "call.output");
        assert_eq!(&*data, r#"{"stream":"stdout","text":"a\n"}"#);
        assert_eq!(EventBody::TaskReady {}.encode(), ("task.ready".into(), "{}".into()));
    }
}
