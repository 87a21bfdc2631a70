//! The port that fills a new workspace: clone, archive and unpack run in a
//! confined child process, which sees only that workspace.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use super::workspace::ByteStream;

/// What a workspace is filled with.
pub enum Import {
    /// A git repository.
    Git {
        /// Where it is.
        url: String,
        /// Branch, tag or full commit id.
        reference: Option<String>,
    },
    /// A tar archive, plain or compressed with gzip.
    Archive(ByteStream),
}

/// What was filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Imported {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, all of which point inside.
    pub symlinks: u64,
    /// Entries left out: special files, links that point outside, names that are too long.
    pub skipped: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a workspace could not be filled.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The source's fault: `forbidden_source`, `unreachable`, `not_an_archive`,
    /// `limit_entries`, `limit_bytes`, `limit_time`, `clone_failed`.
    #[error("{reason}")]
    Refused {
        /// Stable, machine readable.
        code: &'static str,
        /// For the client.
        reason: String,
    },
    /// The host's fault.
    #[error("the import could not be run")]
    Io(#[source] std::io::Error),
}

/// Fills workspaces.
#[async_trait]
pub trait Importer: Send + Sync + 'static {
    /// Refuses a source that policy does not allow, before anything is stored.
    fn check_git_url(&self, url: &str) -> Result<(), ImportError>;
    /// Fills the workspace. On an error it may hold a part.
    async fn import(&self, root: Arc<OwnedFd>, import: Import) -> Result<Imported, ImportError>;
}
