//! Why a policy can't be used.

use std::path::PathBuf;

use bulkhead_core::policy::PolicyFault;
use thiserror::Error;

/// Why a policy can't be used. Each names the file and what to do about it.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A file can't be read.
    #[error("{} can't be read: {error}; name a file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is too large.
    #[error("{} is larger than {most} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        most: u64,
    },
    /// A file has another form.
    #[error("{} is not a policy: {error}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        error: String,
    },
    /// What it says is not valid.
    #[error("{} is not a valid policy:\n{}", path.display(), listed(faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        faults: Vec<PolicyFault>,
    },
    /// A secret's variable is not set.
    #[error("secrets.{secret}: the server's environment has no `{variable}`; set it, or name a `file`")]
    NoVariable {
        /// The secret.
        secret: String,
        /// The variable.
        variable: String,
    },
    /// A secret has no source, or two.
    #[error("secrets.{secret}: name exactly one of `file` and `variable`")]
    NoSource {
        /// The secret.
        secret: String,
    },
}

fn listed(faults: &[PolicyFault]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}
