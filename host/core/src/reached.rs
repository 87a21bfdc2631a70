//! What is said when a limit is reached: which one, its value, what was used of it,
//! and how to raise it. Events, faults and refusals have their words from here, and
//! so has the table of limits in the documentation.

use std::borrow::Cow;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::dispatch::MAX_GRANTS;
use crate::limits::{LimitSpec, Limits};
use crate::ticket::MAX_TICKETS;

/// A limit that a call, or a request, has reached: part of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The limit's name, as in the table of limits.
    pub limit: Cow<'static, str>,
    /// Its value.
    pub value: u64,
    /// What was used of it, if the host knows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// The same in words, and how to raise it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What bounds something: a limit, or a quota of the server, and what is used of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Its name: `workspace_bytes`, `quota.workspace_bytes_per_user`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What is used of it, if that is known.
    pub used: Option<u64>,
}

/// A limit that is a key of the server's configuration, and not of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    /// The key.
    pub name: &'static str,
    /// What the number counts.
    pub unit: &'static str,
    /// What happens when it is reached.
    pub outcome: &'static str,
    /// What is said then, with what was used as `{used}`. Empty: nothing is said.
    pub told: &'static str,
    /// What helps, but for raising it.
    pub remedy: &'static str,
}

/// A limit that is as large for every call, task or user, and no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedLimit {
    /// What it is.
    pub spec: LimitSpec,
    /// Of what there may be so much, or so many.
    pub of: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

const fn fixed(
    name: &'static str,
    unit: &'static str,
    value: u64,
    outcome: &'static str,
    told: &'static str,
    remedy: &'static str,
) -> FixedLimit {
    let spec = LimitSpec { name, unit, default: value, max: value, reason: "It is fixed.", outcome, told };
    FixedLimit { spec, of: "every call", remedy }
}

const DROPPED: &str = "The line is dropped; the event `call.truncated` says so once.";
const NOT_SENT: &str =
    "The request fails in the guest (`HTTP-request-header-section-size`); `call.truncated` says so once.";

/// The stack of a guest: as large for every call, because it is a part of a mapping
/// that is laid out when a worker starts.
pub const STACK: FixedLimit = fixed(
    "stack_bytes",
    "bytes",
    512 * 1024,
    "The call is `failed` with `limit.stack`.",
    "the tool's call stack ran out, all {used} bytes of it: it calls itself too deeply",
    "ask for less at once, or change the tool to call itself less deeply",
);

/// The message of a log line, and the names and values of its fields together: as much each.
pub const LOG_LINE: FixedLimit = fixed(
    "log_line_bytes",
    "bytes",
    8 * 1024,
    DROPPED,
    "the tool wrote a log line with a message, or fields, of {used} bytes",
    "change the tool to write shorter lines, or to emit parts",
);

/// Fields of a log line.
pub const LOG_FIELDS: FixedLimit = fixed(
    "log_fields",
    "fields",
    16,
    DROPPED,
    "the tool wrote a log line with {used} fields",
    "change the tool to write fewer",
);

/// Requests that a call has open at once, from when one is made until its response is dropped.
pub const HTTP_OPEN: FixedLimit = fixed(
    "http_open_requests",
    "requests",
    16,
    "The request fails in the guest (`connection-limit-reached`); the event `call.truncated` says so once.",
    "the tool wanted to send another request while {used} were open",
    "change the tool to read or drop a response before it sends the next request",
);

/// The head of a request: method, authority, target and fields.
pub const HTTP_HEAD: FixedLimit = fixed(
    "http_head_bytes",
    "bytes",
    64 * 1024,
    NOT_SENT,
    "the tool wanted to send a request with a head of {used} bytes",
    "ask for something that takes less, or send it in the body",
);

/// Header fields of a request.
pub const HTTP_FIELDS: FixedLimit = fixed(
    "http_head_fields",
    "fields",
    128,
    NOT_SENT,
    "the tool wanted to send a request with {used} header fields",
    "change the tool to send fewer",
);

/// Resolving a name, connecting and the handshake of TLS; a guest may want less.
pub const HTTP_CONNECT: FixedLimit = fixed(
    "http_connect_ms",
    "milliseconds",
    10_000,
    "The request fails in the guest (`connection-timeout`); the event `call.http` says so.",
    "no connection was made within {used} milliseconds",
    "see that the server can be reached from here, or try again",
);

/// From the sent request to the head of its response, and between two pieces of its body; a
/// guest may want less.
pub const HTTP_ANSWER: FixedLimit = fixed(
    "http_answer_ms",
    "milliseconds",
    60_000,
    "The request fails in the guest (`HTTP-response-timeout`); the event `call.http` says so.",
    "the server sent nothing for {used} milliseconds",
    "ask for something that takes the server less time, or for it to be started and looked for later",
);

/// The head of a response.
pub const HTTP_ANSWER_HEAD: FixedLimit = fixed(
    "http_response_head_bytes",
    "bytes",
    64 * 1024,
    "The request fails in the guest (`HTTP-response-header-section-size`); the event `call.http` says so.",
    "the head of the response has {used} bytes or 128 fields",
    "ask for something that is answered with less",
);

/// Grants of a task that have not ended.
pub const GRANTS: FixedLimit = FixedLimit {
    of: "every task",
    ..fixed(
        "grants_per_task",
        "grants",
        MAX_GRANTS as u64,
        OVER,
        "the task has {used} grants that have not ended",
        "take one back",
    )
};

/// Tickets of a user that were not used.
pub const TICKETS: FixedLimit = FixedLimit {
    of: "every user",
    ..fixed(
        "tickets_per_user",
        "tickets",
        MAX_TICKETS as u64,
        OVER,
        "the user has {used} tickets that were not used yet",
        "use one, or wait until one has expired",
    )
};

/// All that are fixed.
pub const FIXED: &[FixedLimit] = &[
    STACK,
    LOG_LINE,
    LOG_FIELDS,
    HTTP_OPEN,
    HTTP_HEAD,
    HTTP_FIELDS,
    HTTP_CONNECT,
    HTTP_ANSWER,
    HTTP_ANSWER_HEAD,
    GRANTS,
    TICKETS,
];

const WAITS: &str = "The call waits (`queued`); nothing fails.";
const PLACE: &str = "The call waits for a place; its time has not begun, and nothing fails.";
const LARGE: &str = "Registering is refused with 413 `too_large`.";
const TOO_LARGE: &str = "Refused with 413 `too_large`.";
const REFUSED: &str = "The tool is `rejected` with `too_complex`.";
const SMALLER: &str = "Build it for size, or split it into several tools";
const BUSY: &str = "The call is refused with 429 `busy`.";
const FULL: &str = "Clients get 507 `workspace_full`; in the guest as `workspace_bytes` and `workspace_entries`.";
const OVER: &str = "Refused with 422 `over_limit`.";
const RATE: &str = "Refused with 429 `rate_limited`, which says when the next one may come. 0: no limit.";
const FILLED: &str = "The task is `failed`, and its event `task.failed` says why.";
const SLOWER: &str = "Wait as long as `Retry-After` says";
const UNSENT: &str = "The request fails in the guest (`connection-limit-reached`); the event `call.http` says so.";
const LATER: &str = "Wait until some have ended";
const FEWER: &str = "Try again once fewer requests run";
const ROOM: &str = "Delete files, or purge or archive tasks";

const fn limit(
    name: &'static str,
    unit: &'static str,
    outcome: &'static str,
    told: &'static str,
    remedy: &'static str,
) -> ServerLimit {
    ServerLimit { name, unit, outcome, told, remedy }
}

/// Those of the server's limits that calls and their owners meet.
pub const SERVER: &[ServerLimit] = &[
    limit("dispatch.running", "calls", WAITS, "", ""),
    limit("dispatch.running_per_owner", "calls", WAITS, "", ""),
    limit("dispatch.running_per_tenant", "calls", WAITS, "", ""),
    limit("dispatch.queued", "calls", BUSY, "{used} calls wait on this server", LATER),
    limit("dispatch.queued_per_owner", "calls", BUSY, "{used} calls of this user wait", LATER),
    limit("dispatch.queued_per_task", "calls", BUSY, "{used} calls wait in this task", LATER),
    limit(
        "workers.memory_per_worker_bytes",
        "bytes",
        "Growing fails in the guest; if it ends of that, the call is `failed` with `limit.memory`, to be tried again.",
        "the tool failed because its worker has no memory left for it: other calls of the tenant hold it",
        "Try again once fewer calls run",
    ),
    limit("workers.max", "processes", PLACE, "", ""),
    limit("workers.per_tenant", "processes", PLACE, "", ""),
    limit("workers.calls_per_worker", "calls", PLACE, "", ""),
    limit("dispatch.max_arguments_bytes", "bytes", TOO_LARGE, "the arguments have {used} bytes", "Send less"),
    limit("http.max_body_bytes", "bytes", TOO_LARGE, "the body has {used} bytes", "Send less"),
    limit("http.max_upload_bytes", "bytes", TOO_LARGE, "the file has {used} bytes", "Send less, or in several files"),
    limit("tools.max_component_bytes", "bytes", LARGE, "the component has {used} bytes", SMALLER),
    limit(
        "tools.compile_cpu_s",
        "seconds",
        REFUSED,
        "compiling the component took {used} seconds of processor",
        SMALLER,
    ),
    limit("tools.compile_memory_bytes", "bytes", REFUSED, "compiling the component took {used} bytes", SMALLER),
    limit("tools.compile_at_once", "components", "The component waits (`compiling`); nothing fails.", "", ""),
    limit(
        "egress.max_connections",
        "connections",
        UNSENT,
        "no connection was free for the request: the tenant has {used}, as many as are left to others, or more",
        FEWER,
    ),
    limit(
        "egress.max_connections_per_tenant",
        "connections",
        UNSENT,
        "no connection was free for the request: the user has {used}, as many as are left to others of its tenant, or \
         more",
        FEWER,
    ),
    limit("quota.workspace_bytes_per_user", "bytes", FULL, "all workspaces of the user hold {used} bytes", ROOM),
    limit("quota.workspace_entries_per_user", "entries", FULL, "all workspaces of the user hold {used} entries", ROOM),
    limit("quota.tasks_per_user", "tasks", OVER, "the user has {used} tasks, archived ones included", "Delete one"),
    limit("quota.tasks_per_tenant", "tasks", OVER, "the tenant has {used} tasks, archived ones included", "Delete one"),
    limit("quota.tools_per_tenant", "tools", OVER, "the tenant has {used} tools, refused ones included", "Delete one"),
    limit("quota.tool_bytes_per_tenant", "bytes", OVER, "the tenant's components have {used} bytes", "Delete a tool"),
    limit(
        "http.max_concurrent_requests",
        "requests",
        "Refused with 429 `too_many_requests` where one user has half of them, or as many as are left; else with 503.",
        "{used} requests of this user are being answered, as many as one may have beside others'",
        "Try again when one has ended",
    ),
    limit(
        "http.streams_per_user",
        "streams",
        "Refused with 429 `too_many_streams`.",
        "this user has {used} streams open",
        "Close one",
    ),
    limit(
        "rate.requests_per_user",
        "requests a minute",
        RATE,
        "more of this user came than {used} at once, or faster than its rate",
        SLOWER,
    ),
    limit(
        "rate.requests_per_tenant",
        "requests a minute",
        RATE,
        "more of this tenant came than {used} at once, or faster than its rate",
        SLOWER,
    ),
    limit(
        "rate.calls_per_user",
        "calls a minute",
        RATE,
        "more of this user came than {used} at once, or faster than its rate",
        SLOWER,
    ),
    limit(
        "rate.calls_per_tenant",
        "calls a minute",
        RATE,
        "more of this tenant came than {used} at once, or faster than its rate",
        SLOWER,
    ),
    limit("import.max_bytes", "bytes", FILLED, "the import has more bytes", "Import less"),
    limit("import.max_entries", "entries", FILLED, "the import has more files, directories and links", "Import less"),
    limit("import.timeout_ms", "milliseconds", FILLED, "the import took longer", "Import less"),
    limit(
        "files.uploads_per_task",
        "uploads",
        OVER,
        "the task has {used} uploads that are not complete",
        "Finish or cancel one",
    ),
];

/// The limit of a call, or of every call, that is called `name`.
fn spec(name: &str) -> Option<&'static LimitSpec> {
    Limits::SPECS.iter().find(|spec| spec.name == name).or_else(|| fixed_limit(name).map(|limit| &limit.spec))
}

fn fixed_limit(name: &str) -> Option<&'static FixedLimit> {
    FIXED.iter().find(|limit| limit.spec.name == name)
}

fn server(name: &str) -> Option<&'static ServerLimit> {
    SERVER.iter().find(|limit| limit.name == name)
}

/// What the limit called `name` counts.
pub fn unit(name: &str) -> &'static str {
    spec(name).map(|spec| spec.unit).or_else(|| server(name).map(|limit| limit.unit)).unwrap_or_default()
}

/// What an operator may set of limits whose default is that already.
pub const MOST_ARGUMENTS_BYTES: u64 = 1 << 20;
/// The same of a component.
pub const MOST_COMPONENT_BYTES: u64 = 32 << 20;

/// The most that may be set of a limit of which that is soon said.
fn most(name: &str) -> u64 {
    match name {
        "dispatch.max_arguments_bytes" => MOST_ARGUMENTS_BYTES,
        "tools.max_component_bytes" => MOST_COMPONENT_BYTES,
        _ => spec(name).map_or(u64::MAX, |spec| spec.max),
    }
}

/// How the limit called `name` is raised, which is `value`.
fn remedy(name: &str, value: u64) -> String {
    match (server(name), fixed_limit(name)) {
        (Some(limit), _) if value >= most(name) => format!("{}: no server may allow more.", limit.remedy),
        (None, None) if value >= most(name) => "Ask for less: no server may allow more.".into(),
        (Some(limit), _) => format!("{}, or raise it: `{name}` in bulkhead.toml.", limit.remedy),
        (None, Some(limit)) => format!("It can't be raised: {}.", limit.remedy),
        (None, None) => format!(
            "Ask for less, or raise it: `limits.{name}` in the request (up to the task's), in the task (up to the \
             server's), or in bulkhead.toml."
        ),
    }
}

/// A limit, its value and what was used in words, and how to raise it.
pub fn words(name: &str, value: u64, used: impl Display) -> String {
    let told = spec(name).map(|spec| spec.told).or_else(|| server(name).map(|limit| limit.told)).unwrap_or_default();
    let of = match (server(name), fixed_limit(name)) {
        (Some(_), _) => "this server",
        (None, Some(limit)) => limit.of,
        (None, None) => "this call",
    };
    let told = told.replace("{used}", &used.to_string());
    format!("{told}; the limit `{name}` of {of} is {value} {}. {}", unit(name), remedy(name, value))
}

impl Reached {
    /// A limit of which so much is used; or more than there is, if nobody knows.
    pub fn of(Bound { name, value, used }: Bound) -> Self {
        let message = match used {
            Some(used) => words(name, value, used),
            None => words(name, value, format_args!("more than {value}")),
        };
        Self { limit: Cow::Borrowed(name), value, used, message }
    }
}

impl Bound {
    /// What of a workspace's bound is used, and how to have room.
    pub fn in_words(&self) -> String {
        let Self { name, value, used } = *self;
        let used = used.map(|used| format!(", of which {used} are used")).unwrap_or_default();
        let remedy = match server(name) {
            // Deleting a task makes no room for its user at once.
            Some(_) => format!(
                "delete files, archive tasks, or purge some (a deleted task is kept for a while and counts; `DELETE \
                 /v1/tasks/{{id}}?purge=true` removes it at once), or have the operator raise `{name}` in bulkhead.toml"
            ),
            None => format!(
                "delete something first, or make the task with a higher `limits.{name}` (up to the server's, in \
                 bulkhead.toml)"
            ),
        };
        format!("`{name}` is {value} {}{used}; {remedy}", unit(name))
    }
}

impl Limits {
    /// The limit called `name`, of which so much is used.
    pub fn reached(&self, name: &'static str, used: Option<u64>) -> Reached {
        Reached::of(Bound { name, value: self.value_of(name), used })
    }

    /// The value of the limit called `name`; 0 for a name that is not in the table.
    pub fn value_of(&self, name: &str) -> u64 {
        debug_assert!(spec(name).is_some());
        if let Some(limit) = fixed_limit(name) {
            return limit.spec.default;
        }
        serde_json::to_value(self).ok().and_then(|limits| limits.get(name)?.as_u64()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
