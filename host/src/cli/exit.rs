//! How a command ends: a code that a script can act on, and a text for the
//! person before it. Small codes say how a call ended; the others are those of
//! sysexits.h.

use std::fmt;
use std::process::ExitCode;

use bulkhead_core::outcome::Ending;
use serde::Serialize;

/// The exit codes, for `--help`.
pub(super) const CODES: &str = "\
Exit codes:
   0  done; the tool succeeded
   1  the tool failed; something required is missing (doctor); the tool was rejected (tools);
      the audit log is not whole (audit)
   2  the command line or the tool's arguments are not valid
   3  a limit was reached: time, memory, size
   4  the call was cancelled or interrupted
  66  a file that was named can't be read
  69  the server can't be reached or refused
  70  the host failed
  78  the configuration is not valid";

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Exit {
    /// Done.
    Ok,
    /// The tool failed, or what was asked for is not so.
    Failed,
    /// The command line is not valid.
    Usage,
    /// A limit was reached.
    Limit,
    /// Cancelled or interrupted.
    Cancelled,
    /// A file can't be read (`EX_NOINPUT`).
    NoInput,
    /// The server can't be reached or refused (`EX_UNAVAILABLE`).
    Unavailable,
    /// The host failed (`EX_SOFTWARE`).
    Host,
    /// The configuration is not valid (`EX_CONFIG`).
    Config,
}

impl Exit {
    /// The code.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Limit => 3,
            Self::Cancelled => 4,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Host => 70,
            Self::Config => 78,
        }
    }

    /// What a call's end means for a script.
    pub(super) fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Succeeded { .. } => Self::Ok,
            Ending::Failed { fault } if fault.limit.is_some() || fault.code.starts_with("limit.") => Self::Limit,
            Ending::Failed { .. } => Self::Failed,
            Ending::TimedOut { .. } => Self::Limit,
            Ending::Cancelled { .. } | Ending::Interrupted { .. } => Self::Cancelled,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The host's fault, with its causes.
    pub(super) fn host(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Some errors have their cause in their text already.
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(Exit::Host, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::limits::Limits;
    use bulkhead_core::outcome::{Fault, code};

    #[test]
    fn every_end_has_its_code() {
        let fault = |code| Fault::new(code, "x");
        let memory = Fault::limit(code::MEMORY, "memory_bytes", &Limits::default(), "more");
        for (ending, expected) in [
            (Ending::Succeeded { content: Some(vec![]) }, 0),
            (Ending::Failed { fault: fault(code::TRAP) }, 1),
            (Ending::Failed { fault: memory }, 3),
            (Ending::Failed { fault: fault(code::STACK) }, 3),
            (Ending::TimedOut { fault: fault(code::WALL_TIME) }, 3),
            (Ending::Cancelled { fault: fault(code::CANCELLED) }, 4),
            (Ending::Interrupted { fault: fault(code::WORKER_DIED) }, 4),
        ] {
            assert_eq!(Exit::of(&ending).code(), expected, "{ending:?}");
        }
    }

    #[test]
    fn every_code_is_in_the_help() {
        use Exit::*;
        for exit in [Ok, Failed, Usage, Limit, Cancelled, NoInput, Unavailable, Host, Config] {
            assert!(CODES.contains(&format!("\n{:>4}  ", exit.code())), "{exit:?}");
        }
    }
}
