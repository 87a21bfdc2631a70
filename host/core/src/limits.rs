//! Limits: what one call may use. Each has a unit, a default, the most an
//! operator may set, and the reason it exists; all are on by default.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::path::{MAX_DEPTH, MAX_PATH};

/// One row of the table of limits, for documentation and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// The key in configuration and API, and in outcome codes after `limit.`.
    pub name: &'static str,
    /// What the number counts.
    pub unit: &'static str,
    /// Used when nothing is said.
    pub default: u64,
    /// The most that can be set.
    pub max: u64,
    /// What it protects.
    pub reason: &'static str,
    /// What happens when it is reached: the outcome's code, the error in the
    /// guest, or the event.
    pub outcome: &'static str,
    /// What is said then, with what was used or wanted as `{used}`; its value and
    /// how to raise it follow.
    pub told: &'static str,
}

/// A limit asked for that is larger than its ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("limit `{name}` can't be {asked} {unit}: the ceiling here is {ceiling}")]
pub struct LimitTooLarge {
    /// The limit's name.
    pub name: &'static str,
    /// What was asked.
    pub asked: u64,
    /// What is allowed.
    pub ceiling: u64,
    /// The unit of both.
    pub unit: &'static str,
}

macro_rules! limits {
    ($($field:ident: $unit:literal, $default:expr, $max:expr, $reason:literal, $outcome:literal, $told:literal;)*) => {
        /// What one call may use.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Limits {
            $(#[doc = $reason] #[doc = concat!("In ", $unit, ".")] pub $field: u64,)*
        }

        /// Limits asked for by a client: those it does not name stay as they are.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct LimitsPatch {
            $(#[doc = $reason] #[doc = concat!("In ", $unit, ".")]
              #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<u64>,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Limits {
            /// The table of limits.
            pub const SPECS: &'static [LimitSpec] = &[$(LimitSpec {
                name: stringify!($field), unit: $unit, default: $default, max: $max, reason: $reason,
                outcome: $outcome, told: $told,
            },)*];

            /// The most that can be set.
            pub const MAX: Limits = Limits { $($field: $max,)* };

            /// These limits, narrowed by `patch`. A patch can't widen.
            ///
            /// # Errors
            /// Names the first limit that is over its ceiling.
            pub fn narrowed(&self, patch: &LimitsPatch) -> Result<Limits, LimitTooLarge> {
                let mut limits = self.clone();
                $(if let Some(asked) = patch.$field {
                    if asked > self.$field {
                        return Err(LimitTooLarge {
                            name: stringify!($field), asked, ceiling: self.$field, unit: $unit,
                        });
                    }
                    limits.$field = asked;
                })*
                Ok(limits)
            }

            /// Refuses limits over the table's maximum (for configuration).
            ///
            /// # Errors
            /// Names the first limit that is over its maximum.
            pub fn checked(self) -> Result<Limits, LimitTooLarge> {
                $(if self.$field > $max {
                    return Err(LimitTooLarge {
                        name: stringify!($field), asked: self.$field, ceiling: $max, unit: $unit,
                    });
                })*
                Ok(self)
            }
        }
    };
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

limits! {
    wall_time_ms: "milliseconds", 60_000, 24 * 3_600_000,
        "Time from the guest's start to its end; a sleeping guest holds its workspace lane.",
        "The call ends as `timed_out` with `limit.wall_time`.",
        "the call ran for {used} ms";
    cpu_time_ms: "milliseconds", 10_000, 24 * 3_600_000,
        "Processor time of the guest and of host functions on its behalf; a spinning guest starves others.",
        "The call ends as `timed_out` with `limit.cpu_time`.",
        "the call used {used} ms of processor time";
    memory_bytes: "bytes", 256 * MIB, 4096 * MIB,
        "Linear memory, summed over all memories of the call; several memories must not multiply the limit.",
        "Growing fails in the guest; if it ends of that, the call is `failed` with `limit.memory`.",
        "the tool failed after it was refused more memory: it would have had {used} bytes";
    table_elements: "elements", 100_000, 200_000,
        "Elements of all tables together; a worker reserves the maximum for each table of each slot.",
        "Growing fails in the guest; if it ends of that, the call is `failed` with `limit.table`.",
        "the tool failed after its table was refused to grow: it would have had {used} elements";
    result_bytes: "bytes", MIB, 64 * MIB,
        "All parts of the result together; the result is stored and sent whole.",
        "The call is `failed` with `limit.result_bytes`.",
        "the result has {used} bytes";
    stdout_bytes: "bytes", MIB, 1024 * MIB,
        "Standard output that becomes events; more is dropped and counted. Zero means none.",
        "The rest is dropped; the event `call.truncated` says so once.",
        "the tool wrote more to standard output than the {used} bytes that were taken";
    stderr_bytes: "bytes", MIB, 1024 * MIB,
        "Standard error that becomes events; more is dropped and counted. Zero means none.",
        "The rest is dropped; the event `call.truncated` says so once.",
        "the tool wrote more to standard error than the {used} bytes that were taken";
    emit_bytes: "bytes", 4 * MIB, 1024 * MIB,
        "Parts sent while the call runs, each with 64 bytes for its event; more is refused to the guest.",
        "The part is refused to the guest (`limit-reached`); the event `call.truncated` says so once.",
        "the tool sent a part that does not fit beside those of {used} bytes that were taken";
    log_bytes: "bytes", 256 * KIB, 64 * MIB,
        "Text of log lines, fields included; more is dropped and counted.",
        "The line is dropped; the event `call.truncated` says so once.",
        "the tool wrote a log line that does not fit beside those of {used} bytes that were taken";
    log_lines: "lines", 1_000, 1_000_000,
        "Number of log lines; an empty line costs an event too.",
        "The line is dropped; the event `call.truncated` says so once.",
        "the tool wrote more than the {used} log lines that were taken";
    handles: "handles", 1_000, 100_000,
        "Resource handles at once: open files, streams, pollables; each takes host memory or a descriptor.",
        "The call is `failed` with `limit.handles`.",
        "the tool opened {used} handles at once";
    streams: "streams", 256, 100_000,
        "Input and output streams at once: of files, standard streams and HTTP bodies; each buffers on the host.",
        "The call is `failed` with `limit.streams`.",
        "the tool opened {used} streams at once";
    open_files: "files", 256, 1_024,
        "Files, directories and listings open at once; each is a descriptor of the worker, whose calls share 16,384.",
        "Opening fails in the guest (`insufficient-memory`); the event `call.truncated` says so once.",
        "the tool opened one more while {used} files and directories were open";
    poll_list: "pollables", 256, 10_000,
        "Length of the list that one `poll` waits for; the host looks at all of it without a pause.",
        "The call is `failed` with `limit.poll_list`.",
        "the tool waited for {used} things in one poll";
    path_bytes: "bytes", MAX_PATH as u64, MAX_PATH as u64,
        "Length of each path that a guest names, targets of links among them; the kernel takes no longer one.",
        "The operation fails in the guest (`name-too-long`); the event `call.truncated` says so once.",
        "the tool named a path of {used} bytes";
    path_depth: "names", MAX_DEPTH as u64, 2_000,
        "Depth, from the workspace down, of each path that a guest names; below the default nobody else can name it.",
        "The operation fails in the guest (`name-too-long`); the event `call.truncated` says so once.",
        "the tool named a path that is {used} names deep";
    file_bytes: "bytes", 1024 * MIB, 1024 * MIB,
        "Size of each file that a guest makes or makes larger; a sparse one costs nothing to make and everything to copy.",
        "The operation fails in the guest (`file-too-large`); the event `call.truncated` says so once.",
        "the tool wanted a file to have {used} bytes";
    listing_entries: "entries", 100_000, 100_000_000,
        "Entries that one listing of a directory gives; a directory that grows while it is listed may never end.",
        "The listing ends with an error in the guest (`overflow`); the event `call.truncated` says so once.",
        "the tool listed {used} entries of a directory, which has more";
    host_memory_bytes: "bytes", 4 * MIB, 256 * MIB,
        "What one call to a host function may make the host allocate for its arguments (long lists, strings).",
        "The call is `failed` with `limit.host_memory`.",
        "the tool passed {used} bytes to one host function";
    random_bytes: "bytes", 64 * KIB, 64 * MIB,
        "Random bytes per request; they are made on the host and copied.",
        "The call is `failed` with `limit.random_bytes`.",
        "the tool asked for {used} random bytes at once";
    http_requests: "requests", 100, 100_000,
        "Outgoing HTTP requests; each is an event, an audit record and a connection.",
        "The request fails in the guest (`connection-limit-reached`); the event `call.http` says so once.",
        "the tool had sent {used} requests, and wanted to send another";
    http_request_bytes: "bytes", 16 * MIB, 16 * 1024 * MIB,
        "Bodies of outgoing HTTP requests together; more is refused.",
        "The request fails in the guest (`HTTP-request-body-size`); the event `call.http` says so.",
        "the tool wanted to send bodies of {used} bytes";
    http_response_bytes: "bytes", 64 * MIB, 16 * 1024 * MIB,
        "Bodies of the responses to them together; more breaks the response off.",
        "The response breaks off in the guest (`HTTP-response-body-size`); the event `call.http` says so.",
        "bodies of {used} bytes were sent to the tool";
    answer_ms: "milliseconds", 300_000, 24 * 3_600_000,
        "How long a call waits for its owner's answer to one question; then the answer is no. A waiting call holds its slot, and its wall time stands still.",
        "The answer is no; the event `call.answered` says that nobody answered.",
        "nobody answered in {used} ms";
    file_changes: "paths", 1_000, 100_000,
        "Changed files that are named in events; more are counted only.",
        "Further changes are counted in the event `files.changed`, which says so, and not named.",
        "the tool changed {used} paths";
    workspace_bytes: "bytes", 4096 * MIB, 1024 * 1024 * MIB,
        "Files of the task's workspace together, by their sizes; more is refused to whoever writes. A full disk stops everybody.",
        "Writing fails in the guest (`quota`) and the event `call.truncated` says so; clients get 507 `workspace_full`.",
        "the workspace had {used} bytes when the call began, and the tool wanted more room than there was beside";
    workspace_entries: "entries", 500_000, 100_000_000,
        "Files, directories and links of the task's workspace together; more are refused. Each takes an inode, and time when the workspace is walked or removed.",
        "Making it fails in the guest (`quota`) and the event `call.truncated` says so; clients get 507 `workspace_full`.",
        "the workspace had {used} entries when the call began, and the tool wanted more than there was room for beside";
}

/// What a call used, as measured. Every outcome has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time from the guest's start to its end, in microseconds.
    pub wall_us: u64,
    /// Processor time of the guest and of host functions on its behalf, in microseconds. Of a
    /// call that ended with its worker, its share, by wall time, of what the worker had used.
    pub cpu_us: u64,
    /// Largest sum of linear memories, in bytes.
    pub peak_memory_bytes: u64,
    /// Bytes read from files of the workspace.
    pub read_bytes: u64,
    /// Bytes written to files of the workspace.
    pub written_bytes: u64,
    /// Bytes of standard output and error that the guest wrote, kept or not.
    pub output_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_the_maxima_and_narrow_only() {
        let limits = Limits::default().checked().expect("defaults are valid");
        let patch = LimitsPatch { wall_time_ms: Some(5), ..LimitsPatch::default() };
        assert_eq!(limits.narrowed(&patch).expect("narrower").wall_time_ms, 5);
        let patch = LimitsPatch { memory_bytes: Some(limits.memory_bytes + 1), ..LimitsPatch::default() };
        let error = limits.narrowed(&patch).expect_err("wider");
        assert_eq!(error.name, "memory_bytes");
        assert!(error.to_string().contains("268435456"));
    }

    #[test]
    fn unknown_limits_are_refused() {
        assert!(serde_json::from_str::<LimitsPatch>(r#"{"wall_time": 5}"#).is_err());
    }
}
