//! Makes an outcome of a worker's report. The worker says what it saw; the
//! host decides what that is called, by its own clock and its own knowledge of
//! what it asked for.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bulkhead_core::json::Json;
use bulkhead_core::limits::{Limits, Usage};
use bulkhead_core::outcome::{Content, Ending, Fault, Outcome, code};
use bulkhead_core::reached::STACK;

use super::guard::{RawPart, Violation};
use crate::bounds;
use crate::wire::{self, Done, Measured, Report, Stop};
use crate::worker::imports::valid_media_type;
use crate::worker::run::valid_error_code;

/// How far the clocks of the two processes may be apart in their reading.
const CLOCK_SLACK: Duration = Duration::from_millis(5);

/// What the host knows of a call when it ends.
pub(super) struct Known<'a> {
    pub(super) limits: &'a Limits,
    /// What has passed since it began.
    pub(super) elapsed: Duration,
    /// What of that was its own.
    pub(super) wall: Duration,
    /// After how long its wall time is over.
    pub(super) over_after: Duration,
    pub(super) cancelled: bool,
    /// Memory of all calls of its worker together, in bytes.
    pub(super) worker_memory: u64,
}

/// What a report comes to.
pub(super) enum Judged {
    /// The call ended.
    Outcome(Outcome),
    /// The tool described itself.
    Described(Box<Described>),
    /// The worker could not start it.
    Refused(String),
}

/// A description as it came, owned.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: String,
    pub(super) input_schema: String,
    pub(super) output_schema: Option<String>,
    pub(super) capabilities: Vec<bulkhead_core::grants::Capability>,
    pub(super) idempotent: bool,
}

/// Makes a part of the result of one that came.
pub(super) fn content(part: RawPart) -> Result<Content, Violation> {
    Ok(match part {
        RawPart::Text(text) => Content::Text { text },
        RawPart::Json(json) => {
            let json = Json::parse(json).map_err(|_| Violation("a `json` part that does not parse"))?;
            Content::Json { json }
        }
        RawPart::Blob { media_type, data } => {
            if !valid_media_type(&media_type) {
                return Err(Violation("a blob without a media type"));
            }
            Content::Blob { media_type, data: STANDARD.encode(data) }
        }
    })
}

impl Known<'_> {
    /// Judges a report.
    pub(super) fn judge(&self, done: Done<'_>) -> Result<Judged, Violation> {
        let usage = self.usage(&done.measured);
        let ending = match done.report {
            Report::Returned(parts) => self.returned(parts)?,
            Report::ToolError { code, message, retryable, details } => {
                self.failed(tool_fault(code, message, retryable, details)?)
            }
            Report::Faulted { fault, message, stderr } => self.failed(self.fault(fault, message, stderr)?),
            Report::Stopped(stop) => self.stopped(stop, &done.measured)?,
            Report::Described(description) => return Ok(Judged::Described(Box::new(described(description)))),
            // Taken out before: what it changed must be looked for.
            Report::Broke => return Err(Violation("a failure where none is judged")),
            Report::Refused { reason } => return Ok(Judged::Refused(clip(reason, 1024))),
        };
        Ok(Judged::Outcome(Outcome { ending, usage }))
    }

    /// Numbers that can be: one thread, within its limits.
    fn usage(&self, measured: &Measured) -> Usage {
        let microseconds = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Usage {
            wall_us: microseconds(self.wall),
            cpu_us: measured.cpu_us.min(microseconds(self.elapsed)),
            peak_memory_bytes: measured.peak_memory_bytes.min(self.limits.memory_bytes),
            read_bytes: measured.read_bytes,
            written_bytes: measured.written_bytes,
            output_bytes: measured.output_bytes,
        }
    }

    fn returned(&self, parts: Vec<wire::Part<'_>>) -> Result<Ending, Violation> {
        let bytes: usize = parts.iter().map(wire::Part::size).sum();
        if parts.len() > bounds::MAX_RESULT_PARTS || bytes as u64 > self.limits.result_bytes {
            return Err(Violation("a result over its limit"));
        }
        let content = parts.into_iter().map(|part| content(part.into())).collect::<Result<_, _>>()?;
        Ok(Ending::Succeeded { content: Some(content) })
    }

    /// A failure after the call was cancelled is the cancellation taking effect.
    fn failed(&self, fault: Fault) -> Ending {
        if self.cancelled { Ending::Cancelled { fault: cancelled() } } else { Ending::Failed { fault } }
    }

    fn stopped(&self, stop: Stop, measured: &Measured) -> Result<Ending, Violation> {
        match stop {
            Stop::Wall if self.elapsed + CLOCK_SLACK >= self.over_after => Ok(self.overdue()),
            Stop::Cpu if self.elapsed + CLOCK_SLACK >= Duration::from_millis(self.limits.cpu_time_ms) => {
                let used = measured.cpu_us / 1000;
                Ok(Ending::TimedOut { fault: Fault::limit(code::CPU_TIME, "cpu_time_ms", self.limits, used) })
            }
            Stop::Cancelled if self.cancelled => Ok(Ending::Cancelled { fault: cancelled() }),
            Stop::Aborted => Err(Violation("a call was aborted that somebody waits for")),
            _ => Err(Violation("a call was stopped without a reason")),
        }
    }

    /// The end of a call whose wall time is over.
    pub(super) fn overdue(&self) -> Ending {
        if self.cancelled && self.wall < Duration::from_millis(self.limits.wall_time_ms) {
            return Ending::Cancelled { fault: cancelled() };
        }
        let used = self.wall.as_millis();
        Ending::TimedOut { fault: Fault::limit(code::WALL_TIME, "wall_time_ms", self.limits, used) }
    }

    fn fault(&self, fault: wire::Fault, message: &str, stderr: &[u8]) -> Result<Fault, Violation> {
        let quoting = |mut fault: Fault| {
            fault.message = with_stderr(&fault.message, stderr);
            Ok(fault)
        };
        let limit = |code, name, used: &dyn Display| quoting(Fault::limit(code, name, self.limits, used));
        let message = clip(message, 2048);
        match fault {
            wire::Fault::Memory { wanted } => {
                limit(code::MEMORY, "memory_bytes", &at_least(wanted, self.limits.memory_bytes))
            }
            wire::Fault::Table { wanted } => {
                limit(code::TABLE, "table_elements", &at_least(wanted, self.limits.table_elements))
            }
            wire::Fault::Handles => limit(code::HANDLES, "handles", &at_least(0, self.limits.handles)),
            wire::Fault::Streams => limit(code::STREAMS, "streams", &at_least(0, self.limits.streams)),
            wire::Fault::PollList { listed } => {
                limit(code::POLL_LIST, "poll_list", &at_least(listed, self.limits.poll_list))
            }
            wire::Fault::HostMemory => {
                let used = format!("more than {}", self.limits.host_memory_bytes);
                limit(code::HOST_MEMORY, "host_memory_bytes", &used)
            }
            wire::Fault::Random { wanted } => {
                limit(code::RANDOM, "random_bytes", &at_least(wanted, self.limits.random_bytes))
            }
            wire::Fault::ResultBytes { bytes: 0 } => {
                limit(code::RESULT, "result_bytes", &format!("more than {}", self.limits.result_bytes))
            }
            wire::Fault::ResultBytes { bytes } => {
                limit(code::RESULT, "result_bytes", &at_least(bytes, self.limits.result_bytes))
            }
            wire::Fault::WorkerMemory => {
                // How much of it other calls hold the worker does not say.
                let (name, value) = ("workers.memory_per_worker_bytes", self.worker_memory);
                quoting(Fault::over(code::MEMORY, name, value, value).retryable())
            }
            wire::Fault::Stack => {
                quoting(Fault::over(code::STACK, STACK.spec.name, STACK.spec.default, STACK.spec.default))
            }
            wire::Fault::Exit { code: status } => {
                let text = format!("the tool ended itself with exit code {status}; a tool should return from `call`");
                Ok(Fault::new(code::EXIT, with_stderr(&text, stderr)))
            }
            wire::Fault::InvalidResult => Ok(Fault::new(code::INVALID_RESULT, message)),
            wire::Fault::Trap => {
                Ok(Fault::new(code::TRAP, with_stderr(&format!("the tool trapped: {message}"), stderr)))
            }
        }
    }
}

/// The fault of a call that was cancelled.
pub(super) fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "the call was cancelled")
}

/// The fault of a call whose worker died.
pub(super) fn worker_died(why: &str) -> Fault {
    let text =
        format!("the worker process was lost while the call ran ({why}); the call may have done part of its work");
    Fault::new(code::WORKER_DIED, text).retryable()
}

fn tool_fault(code: &str, message: &str, retryable: bool, details: Option<&str>) -> Result<Fault, Violation> {
    if !valid_error_code(code)
        || message.len() > bounds::MAX_ERROR_MESSAGE
        || details.is_some_and(|details| details.len() > bounds::MAX_ERROR_DETAILS)
    {
        return Err(Violation("a tool's error that breaks its rules"));
    }
    let details =
        details.map(|text| Json::parse(text.into())).transpose().map_err(|_| Violation("details that do not parse"))?;
    Ok(Fault {
        code: Cow::Owned(format!("{}{}", code::TOOL_PREFIX, code)),
        message: message.to_owned(),
        retryable,
        limit: None,
        details,
    })
}

/// What a worker says was over a limit was more than that.
fn at_least(said: u64, limit: u64) -> u64 {
    said.max(limit.saturating_add(1))
}

/// At most `max` bytes of a text.
fn clip(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

/// A text with the end of the guest's standard error: its panic message.
fn with_stderr(text: &str, stderr: &[u8]) -> String {
    let tail = &stderr[stderr.len().saturating_sub(bounds::STDERR_TAIL)..];
    let tail = String::from_utf8_lossy(tail);
    match tail.trim() {
        "" => text.to_owned(),
        tail => format!("{}. Its standard error ends with: {tail}", text.trim_end_matches('.')),
    }
}

fn described(from: wire::Description<'_>) -> Described {
    use bulkhead_core::grants::Capability;
    let capability = |wanted| match wanted {
        wire::Wanted::Workspace(access) => access.into(),
        wire::Wanted::Http(host) => Capability::Http(host.into()),
        wire::Wanted::Environment(name) => Capability::Environment(name.into()),
        wire::Wanted::Secret(name) => Capability::Secret(name.into()),
    };
    Described {
        name: from.name.into(),
        version: from.version.into(),
        description: from.description.into(),
        input_schema: from.input_schema.into(),
        output_schema: from.output_schema.map(Into::into),
        capabilities: from.capabilities.into_iter().map(capability).collect(),
        idempotent: from.idempotent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(limits: &Limits, cancelled: bool) -> Known<'_> {
        let (wall, over_after) = (Duration::from_millis(20), Duration::from_millis(limits.wall_time_ms));
        Known { limits, elapsed: wall, wall, over_after, cancelled, worker_memory: 4096 }
    }

    fn judge(known: &Known<'_>, report: Report<'_>) -> Result<Ending, Violation> {
        match known.judge(Done { report, measured: Measured { cpu_us: u64::MAX, ..Measured::default() } })? {
            Judged::Outcome(outcome) => {
                assert_eq!(outcome.usage.cpu_us, 20_000);
                Ok(outcome.ending)
            }
            _ => Err(Violation("not an outcome")),
        }
    }

    #[test]
    fn a_worker_can_not_choose_the_class() {
        let limits = Limits::default();
        for stop in [Stop::Wall, Stop::Cpu, Stop::Cancelled, Stop::Aborted] {
            assert!(judge(&known(&limits, false), Report::Stopped(stop)).is_err(), "{stop:?}");
        }
        let ending = judge(&known(&limits, true), Report::Stopped(Stop::Cancelled)).expect("asked for");
        assert_eq!(ending.state(), "cancelled");
        let limits = Limits { wall_time_ms: 20, ..Limits::default() };
        let ending = judge(&known(&limits, false), Report::Stopped(Stop::Wall)).expect("time is over");
        assert_eq!(ending.state(), "timed_out");
        // Its end was put off.
        let put_off = Known { over_after: Duration::from_secs(60), ..known(&limits, false) };
        assert!(judge(&put_off, Report::Stopped(Stop::Wall)).is_err());
    }

    #[test]
    fn what_is_no_limit_of_the_call_is_named_too() {
        let limits = Limits::default();
        let fault = |fault| {
            let report = Report::Faulted { fault, message: "", stderr: b"deep\n" };
            judge(&known(&limits, false), report).expect("a fault").fault().expect("failed").clone()
        };
        for (fault, code, name, value, remedy) in [
            (fault(wire::Fault::Stack), code::STACK, "stack_bytes", 524_288, "can't be raised"),
            (
                fault(wire::Fault::WorkerMemory),
                code::MEMORY,
                "workers.memory_per_worker_bytes",
                4_096,
                "or raise it: `workers.memory_per_worker_bytes` in bulkhead.toml",
            ),
        ] {
            let limit = fault.limit.expect("a limit");
            assert_eq!((&*fault.code, &*limit.name, limit.value, &*limit.unit), (code, name, value, "bytes"));
            let named = format!("the limit `{name}` of ");
            for words in [&*named, &format!(" is {value} bytes. "), remedy, ". Its standard error ends with: deep"] {
                assert!(fault.message.contains(words), "{}", fault.message);
            }
            assert!(!fault.message.contains(".."), "{}", fault.message);
        }
    }

    #[test]
    fn results_are_checked_again() {
        let limits = Limits { result_bytes: 4, ..Limits::default() };
        let known = known(&limits, false);
        assert!(judge(&known, Report::Returned(vec![wire::Part::Text("12345")])).is_err());
        assert!(judge(&known, Report::Returned(vec![wire::Part::Json("{")])).is_err());
        assert!(judge(&known, Report::Returned(vec![wire::Part::Json("{}")])).is_ok());
    }

    /// A tree of this had ninety times its bytes, in other words, each name once.
    #[test]
    fn json_is_kept_as_its_text_and_costs_its_bytes() {
        let limits = Limits::default();
        let wide = format!("[{}{{\"b\":1.00e1,\"a\":0,\"a\":1}}]", "{\"\":0},".repeat(140_000));
        let spaced = wide.replace(',', " ,\r\n\n");
        assert!(wide.len() as u64 <= limits.result_bytes);
        for text in [&wide, &spaced] {
            let Ok(Content::Json { json }) = content(RawPart::Json(text.clone())) else { panic!("it is JSON") };
            assert!(json.text() == wide, "it is another text");
            let details =
                Report::ToolError { code: "x", message: "m", retryable: false, details: Some("{\"b\":1.0e1}") };
            let ending = judge(&known(&limits, false), details).expect("a tool's error");
            let details = ending.fault().expect("failed").details.as_ref().expect("it has details");
            assert_eq!(details.text(), "{\"b\":1.0e1}");
        }
        let deep = "[".repeat(400_000) + &"]".repeat(400_000);
        assert!(content(RawPart::Json(deep)).is_err());
    }

    #[test]
    fn codes_of_tools_are_their_own() {
        let limits = Limits::default();
        let report = |code, details| Report::ToolError { code, message: "m", retryable: true, details };
        let ending = judge(&known(&limits, false), report("limit.memory", Some("{}"))).expect("a tool's error");
        assert_eq!(ending.fault().expect("failed").code, "tool.limit.memory");
        assert!(judge(&known(&limits, false), report("Not Found\n", None)).is_err());
        assert!(judge(&known(&limits, false), report("x", Some("{"))).is_err());
    }
}
