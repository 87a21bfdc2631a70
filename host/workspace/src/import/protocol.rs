//! What host and child say to each other: one argument, one line. The child has
//! read hostile input by the time it answers, so the host takes nothing from
//! the answer but numbers, one of the known codes, and a text that it cleans.

use std::net::IpAddr;
use std::path::PathBuf;

use bulkhead_core::ports::import::{ImportError, Imported};
use serde::{Deserialize, Serialize};

use super::{ImportLimits, code};

/// Longest reason that is passed on, in characters.
const MAX_REASON: usize = 500;

/// What the child is to do; its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Fill the workspace from the archive on standard input.
    Archive,
    /// Fill the workspace from a repository.
    Git,
    /// Pack the workspace into the file that is standard input.
    Pack,
    /// Unpack the file that is standard input into the workspace.
    Unpack,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Archive, Self::Git, Self::Pack, Self::Unpack];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Git => "git",
            Self::Pack => "pack",
            Self::Unpack => "unpack",
        }
    }
}

/// How it is to do it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) limits: ImportLimits,
    /// Processor time, in seconds; the host watches the clock on the wall.
    pub(crate) seconds: u64,
    /// The repository, if it is one.
    pub(crate) git: Option<GitJob>,
}

/// A repository to be fetched.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GitJob {
    pub(super) git: PathBuf,
    pub(super) remote: Remote,
    pub(super) reference: Option<String>,
    /// An empty directory for the repository.
    pub(super) staging: PathBuf,
}

/// Where a repository is, checked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Remote {
    /// On another machine.
    Https {
        /// In the normal form, so that every parser reads the same in it.
        url: String,
        host: String,
        port: u16,
        /// The only ones that may be connected to.
        addresses: Vec<IpAddr>,
    },
    /// On this machine, canonical.
    Local { path: PathBuf },
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It is done.
    Done { imported: Imported, confined: bool },
    /// The source's fault.
    Refused { code: String, reason: String, confined: bool },
    /// The host's fault.
    Failed { message: String, confined: bool },
}

impl Report {
    pub(super) fn new(result: Result<Imported, ImportError>, confined: bool) -> Self {
        match result {
            Ok(imported) => Self::Done { imported, confined },
            Err(ImportError::Refused { code, reason }) => Self::Refused { code: code.into(), reason, confined },
            Err(ImportError::Io(error)) => Self::Failed { message: error.to_string(), confined },
        }
    }

    pub(super) fn confined(&self) -> bool {
        match self {
            Self::Done { confined, .. } | Self::Refused { confined, .. } | Self::Failed { confined, .. } => *confined,
        }
    }

    pub(super) fn into_result(self) -> Result<Imported, ImportError> {
        match self {
            Self::Done { imported, .. } => Ok(imported),
            Self::Refused { code, reason, .. } => match code::ALL.into_iter().find(|known| *known == code) {
                Some(code) => Err(ImportError::Refused { code, reason: clean(&reason) }),
                None => Err(ImportError::Io(std::io::Error::other("the import process gave an unknown code"))),
            },
            Self::Failed { message, .. } => Err(ImportError::Io(std::io::Error::other(clean(&message)))),
        }
    }
}

/// One line of plain text: no control characters, of a sensible length.
pub(super) fn clean(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() || is_format(c) { ' ' } else { c });
    plain.take(MAX_REASON).collect::<String>().trim().to_owned()
}

/// Characters that turn text around or hide it.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
