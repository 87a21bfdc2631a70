//! How a call ends. The guest's fault is an outcome; the host's is
//! `interrupted`, never a made-up result.

use std::borrow::Cow;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits::{Limits, Usage};
use crate::reached::{unit, words};

/// One part of a result (`content` in `wit/tool.wit`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// One JSON value.
    Json {
        /// The value.
        json: Value,
    },
    /// Bytes with a media type.
    Blob {
        /// For example `image/png`.
        media_type: String,
        /// The bytes, in standard base 64 with padding.
        data: String,
    },
}

/// The limit that ended a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitHit {
    /// The limit's name, as in the table of limits.
    pub name: Cow<'static, str>,
    /// Its value for this call.
    pub value: u64,
    /// The unit of the value.
    pub unit: Cow<'static, str>,
}

/// Why a call did not succeed: for a model or a person to act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable, machine readable. Codes of the host are in [`code`]; those of
    /// a tool are prefixed `tool.`.
    pub code: Cow<'static, str>,
    /// What went wrong and what to do about it.
    pub message: String,
    /// Whether the same call may succeed later without a change.
    pub retryable: bool,
    /// The limit that was reached, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitHit>,
    /// Further details of the tool's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Codes of faults that the host decides.
pub mod code {
    /// Prefix of a code that the tool chose itself.
    pub const TOOL_PREFIX: &str = "tool.";
    /// Wall time ran out.
    pub const WALL_TIME: &str = "limit.wall_time";
    /// Processor time ran out.
    pub const CPU_TIME: &str = "limit.cpu_time";
    /// The guest failed after its memory was refused to grow.
    pub const MEMORY: &str = "limit.memory";
    /// The guest failed after a table was refused to grow.
    pub const TABLE: &str = "limit.table";
    /// The guest's call stack ran out.
    pub const STACK: &str = "limit.stack";
    /// The result is too large.
    pub const RESULT: &str = "limit.result_bytes";
    /// Too many resource handles.
    pub const HANDLES: &str = "limit.handles";
    /// Too many streams at once.
    pub const STREAMS: &str = "limit.streams";
    /// Too many things waited for in one poll.
    pub const POLL_LIST: &str = "limit.poll_list";
    /// One host function would have had to allocate too much.
    pub const HOST_MEMORY: &str = "limit.host_memory";
    /// Too many random bytes asked at once.
    pub const RANDOM: &str = "limit.random_bytes";
    /// The guest trapped: unreachable code, a panic, an access out of bounds.
    pub const TRAP: &str = "trap";
    /// The guest ended itself through `wasi:cli/exit`.
    pub const EXIT: &str = "exit";
    /// The result has a part that is not what it says.
    pub const INVALID_RESULT: &str = "invalid_result";
    /// A client cancelled the call.
    pub const CANCELLED: &str = "cancelled";
    /// What the call stood on is granted no longer: a grant was taken back, or
    /// the policy changed.
    pub const GRANT_REVOKED: &str = "grant_revoked";
    /// A sub-path of the workspace that is granted is no directory, or there is
    /// no room to make it.
    pub const WORKSPACE_PATH: &str = "workspace_path";
    /// The worker process died.
    pub const WORKER_DIED: &str = "worker_died";
    /// The host was stopped while the call ran.
    pub const HOST_STOPPED: &str = "host_stopped";
    /// The host was cut off from the others, or is gone with its workspaces.
    pub const HOST_LOST: &str = "host_lost";
    /// The host failed; the log has the reason.
    pub const HOST_ERROR: &str = "host_error";
}

impl Fault {
    /// A fault with a code and a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into(), retryable: false, limit: None, details: None }
    }

    /// The same fault, marked as worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// A fault about a limit of the table, with what was used and how to raise it.
    pub fn limit(code: &'static str, name: &'static str, limits: &Limits, used: impl Display) -> Self {
        Self::over(code, name, limits.value_of(name), used)
    }

    /// The same about a limit that is none of the call's own.
    pub fn over(code: &'static str, name: &'static str, value: u64, used: impl Display) -> Self {
        let mut fault = Self::new(code, words(name, value, used));
        fault.limit = Some(LimitHit { name: Cow::Borrowed(name), value, unit: Cow::Borrowed(unit(name)) });
        fault
    }
}

/// The five ways a call can end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Ending {
    /// The tool returned a result.
    Succeeded {
        /// Its parts.
        content: Vec<Content>,
    },
    /// The tool returned an error, trapped, or reached a limit.
    Failed {
        /// Why.
        fault: Fault,
    },
    /// Wall or processor time ran out.
    TimedOut {
        /// Which.
        fault: Fault,
    },
    /// A client cancelled the call.
    Cancelled {
        /// By whom or why.
        fault: Fault,
    },
    /// The host lost the guest: a worker died or the host was stopped.
    Interrupted {
        /// How.
        fault: Fault,
    },
}

impl Ending {
    /// The name of the terminal state.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Cancelled { .. } => "cancelled",
            Self::Interrupted { .. } => "interrupted",
        }
    }

    /// The fault, unless the call succeeded.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Succeeded { .. } => None,
            Self::Failed { fault }
            | Self::TimedOut { fault }
            | Self::Cancelled { fault }
            | Self::Interrupted { fault } => Some(fault),
        }
    }
}

/// How a call ended, with its measured use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which way.
    #[serde(flatten)]
    pub ending: Ending,
    /// What was used.
    pub usage: Usage,
}

impl Outcome {
    /// An outcome of a call whose guest never ran, or was lost with its numbers.
    pub fn without_use(ending: Ending) -> Self {
        Self { ending, usage: Usage::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_itself_its_value_and_the_remedy() {
        let fault = Fault::limit(code::WALL_TIME, "wall_time_ms", &Limits::default(), 60_001);
        assert_eq!(fault.limit.as_ref().map(|limit| limit.value), Some(60_000));
        for word in ["wall_time_ms", "60000 milliseconds", "60001 ms", "bulkhead.toml"] {
            assert!(fault.message.contains(word), "{}", fault.message);
        }
    }

    #[test]
    fn outcomes_round_trip_through_json() {
        let outcome = Outcome::without_use(Ending::Failed { fault: Fault::new(code::TRAP, "x") });
        let json = serde_json::to_string(&outcome).expect("outcomes serialize");
        assert!(json.starts_with(r#"{"state":"failed","fault":{"code":"trap""#), "{json}");
        assert_eq!(serde_json::from_str::<Outcome>(&json).expect("and parse"), outcome);
    }
}
