//! How a call ends. The guest's fault is an outcome; the host's is
//! `interrupted`, never a made-up result.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::json::{Json, present};
use crate::limits::{Limits, Usage};
use crate::reached::{unit, words};

/// A result up to this size is in the event of its end, and an outcome up to it in
/// lists; a larger one is read from the call.
pub const INLINE_RESULT: usize = 16 * 1024;

/// How much of the message of a fault is left where lists show a longer outcome.
pub const LISTED_MESSAGE: usize = 4 * 1024;

/// One part of a result (`content` in `wit/tool.wit`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "ReadContent")]
pub enum Content {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// One JSON value.
    Json {
        /// The value.
        json: Json,
    },
    /// Bytes with a media type.
    Blob {
        /// For example `image/png`.
        media_type: String,
        /// The bytes, in standard base 64 with padding.
        data: String,
    },
}

impl Content {
    /// How many bytes it has, as it is stored.
    pub fn size(&self) -> usize {
        match self {
            Self::Text { text } => text.len(),
            Self::Json { json } => json.text().len(),
            Self::Blob { data, .. } => data.len(),
        }
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub details: Option<Json>,
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

    fn shorten(&mut self) {
        self.details = None;
        if self.message.len() > LISTED_MESSAGE {
            self.message.truncate(self.message.floor_char_boundary(LISTED_MESSAGE));
            self.message.push_str("… (cut off in lists; read the call)");
        }
    }
}

/// The five ways a call can end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Ending {
    /// The tool returned a result.
    Succeeded {
        /// Its parts; `None` where a list leaves them out ([`Outcome::shortened`]).
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Content>>,
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
#[serde(try_from = "ReadOutcome")]
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

    /// The outcome as lists show it: [`Outcome::shortened`] if its text has more than
    /// [`INLINE_RESULT`] bytes.
    pub fn listed(self: &Arc<Self>) -> Arc<Self> {
        let bytes = serde_json::to_string(self).map_or(usize::MAX, |text| text.len());
        if bytes <= INLINE_RESULT { self.clone() } else { Arc::new(self.shortened()) }
    }

    /// The outcome without what of it may be long: the content of a result, the
    /// details of a fault, and the end of its message.
    #[must_use]
    pub fn shortened(&self) -> Self {
        let mut ending = self.ending.clone();
        match &mut ending {
            Ending::Succeeded { content } => *content = None,
            Ending::Failed { fault }
            | Ending::TimedOut { fault }
            | Ending::Cancelled { fault }
            | Ending::Interrupted { fault } => fault.shorten(),
        }
        Self { ending, usage: self.usage.clone() }
    }
}

// What follows reads the types above. serde would read an enum that is tagged by one of
// its own fields, or flattened, by way of a tree of all that it has; these are as flat as
// their JSON, so that a text stays one.

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    Json,
    Blob,
}

#[derive(Deserialize)]
struct ReadContent {
    #[serde(rename = "type")]
    kind: Kind,
    text: Option<String>,
    #[serde(default, deserialize_with = "present")]
    json: Option<Json>,
    media_type: Option<String>,
    data: Option<String>,
}

impl TryFrom<ReadContent> for Content {
    type Error = &'static str;

    fn try_from(read: ReadContent) -> Result<Self, Self::Error> {
        Ok(match read.kind {
            Kind::Text => Self::Text { text: read.text.ok_or("a text without `text`")? },
            Kind::Json => Self::Json { json: read.json.ok_or("a JSON part without `json`")? },
            Kind::Blob => Self::Blob {
                media_type: read.media_type.ok_or("a blob without `media_type`")?,
                data: read.data.ok_or("a blob without `data`")?,
            },
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Interrupted,
}

#[derive(Deserialize)]
struct ReadOutcome {
    state: State,
    content: Option<Vec<Content>>,
    fault: Option<Fault>,
    usage: Usage,
}

impl TryFrom<ReadOutcome> for Outcome {
    type Error = &'static str;

    fn try_from(read: ReadOutcome) -> Result<Self, Self::Error> {
        let fault = read.fault.ok_or("no `fault`");
        let ending = match read.state {
            State::Succeeded => Ending::Succeeded { content: Some(read.content.ok_or("no `content`")?) },
            State::Failed => Ending::Failed { fault: fault? },
            State::TimedOut => Ending::TimedOut { fault: fault? },
            State::Cancelled => Ending::Cancelled { fault: fault? },
            State::Interrupted => Ending::Interrupted { fault: fault? },
        };
        Ok(Self { ending, usage: read.usage })
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

    /// As they are in databases, made by versions that held trees.
    #[test]
    fn what_is_stored_is_read_and_written_as_it_is() {
        let usage = r#""usage":{"wall_us":1,"cpu_us":2,"peak_memory_bytes":3,"read_bytes":4,"written_bytes":5,"output_bytes":6}"#;
        let parts = [
            r#"{"type":"text","text":"a\"}]"}"#,
            r#"{"type":"json","json":{"usage":{"wall_us":9},"z":[1.0,-2,1e300],"é":"\u0000"}}"#,
            r#"{"type":"json","json":null}"#,
            r#"{"type":"blob","media_type":"a/b","data":"AAAA"}"#,
        ];
        let fault = r#"{"code":"tool.x","message":"m","retryable":true"#;
        let limit = r#","limit":{"name":"wall_time_ms","value":5,"unit":"ms"}"#;
        for text in [
            format!(r#"{{"state":"succeeded","content":[{}],{usage}}}"#, parts.join(",")),
            format!(r#"{{"state":"succeeded","content":[],{usage}}}"#),
            format!(r#"{{"state":"failed","fault":{fault},"details":{{"b":[],"a":{{}}}}}},{usage}}}"#),
            format!(r#"{{"state":"failed","fault":{fault},"details":null}},{usage}}}"#),
            format!(r#"{{"state":"timed_out","fault":{fault}{limit}}},{usage}}}"#),
            format!(r#"{{"state":"cancelled","fault":{fault}}},{usage}}}"#),
            format!(r#"{{"state":"interrupted","fault":{fault}}},{usage}}}"#),
        ] {
            let read: Outcome = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(serde_json::to_string(&read).expect("outcomes serialize"), text);
        }
        for bad in [r#"{"type":"text"}"#, r#"{"type":"json"}"#, r#"{"type":"blob","data":""}"#, r#"{"type":"x"}"#] {
            assert!(serde_json::from_str::<Content>(bad).is_err(), "{bad}");
        }
        for state in ["succeeded", "failed"] {
            let missing = format!(r#"{{"state":"{state}",{usage}}}"#);
            assert!(serde_json::from_str::<Outcome>(&missing).is_err(), "{state} with nothing");
        }
    }

    /// A tree would have room for 127 levels with those of the outcome around them.
    #[test]
    fn what_is_as_deep_as_a_result_may_be_is_read_again() {
        let json = Json::parse("[".repeat(127) + &"]".repeat(127)).expect("it may be so deep");
        let outcome = Outcome::without_use(Ending::Succeeded { content: Some(vec![Content::Json { json }]) });
        let text = serde_json::to_string(&outcome).expect("outcomes serialize");
        assert_eq!(serde_json::from_str::<Outcome>(&text).expect("and parse"), outcome);
    }

    #[test]
    fn lists_leave_out_what_is_long() {
        let succeeded = |bytes| {
            let content = Some(vec![Content::Text { text: "x".repeat(bytes) }]);
            Arc::new(Outcome::without_use(Ending::Succeeded { content }))
        };
        let short = succeeded(INLINE_RESULT / 2);
        assert_eq!(short.listed(), short);
        let json = serde_json::to_string(&succeeded(INLINE_RESULT).listed()).expect("outcomes serialize");
        assert!(json.starts_with(r#"{"state":"succeeded","usage":{"#), "{json}");
        // A control character is six bytes of JSON.
        let mut fault = Fault::new(code::TRAP, "\u{1}".repeat(64 * 1024));
        fault.details = Some(Json::parse("[]".into()).expect("it is JSON"));
        let listed = Arc::new(Outcome::without_use(Ending::Failed { fault })).listed();
        let fault = listed.ending.fault().expect("it failed");
        assert_eq!((&*fault.code, &fault.details), (code::TRAP, &None));
        assert!(fault.message.len() < LISTED_MESSAGE + 64 && fault.message.contains("read the call"));
    }
}
