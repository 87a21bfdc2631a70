//! Filling a new workspace from outside: an uploaded archive or a git
//! repository. Both are parsed by code that hostile input reaches first, so it
//! runs in a child process of the same executable, which confines itself
//! (limits, no new privileges, Landlock) before it reads a byte. The host hands
//! it one directory and takes back one line of JSON.
//!
//! One writer (`fill`) with one set of rules makes every entry, whatever it
//! came from: git's tree comes as an archive too, so that git itself never
//! writes a file whose name the remote chose.
//!
//! ```text
//! host:  policy of the URL · names resolved and checked · child, timeout, kill
//! child: limits · Landlock · [git fetch → git archive] → tar → writer → beneath
//! ```

mod address;
mod archive;
mod child;
mod confine;
mod fill;
#[cfg(feature = "fuzz")]
pub mod fuzzing;
mod git;
pub(crate) mod process;
pub(crate) mod protocol;
mod reference;
mod tar;
mod url;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::path::MAX_DEPTH;
use bulkhead_core::ports::import::{Import, ImportError, Imported, Importer};
use bulkhead_core::reached::words;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::scratch::Scratch;
use process::Feed;
use protocol::{GitJob, Kind, Remote, Request};

pub use archive::extract_archive;
pub use child::import_main;
pub use reference::check_reference;

/// What an import may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportLimits {
    /// Bytes of all files; also what is fetched for them.
    pub max_bytes: u64,
    /// Entries of the archive, and directories that they imply.
    pub max_entries: u64,
    /// Names in a path; what is deeper is left out.
    pub max_depth: u32,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, max_entries: 200_000, max_depth: MAX_DEPTH as u32 }
    }
}

/// How imports run.
#[derive(Clone, Debug)]
pub struct ImportConfig {
    /// The executable that calls [`import_main`].
    pub exe: PathBuf,
    /// What it is called with before the importer's own arguments: `["import"]`.
    pub args_prefix: Vec<OsString>,
    /// What an import may make.
    pub limits: ImportLimits,
    /// How long one may take, upload included.
    pub timeout: Duration,
    /// How many run at once; each is a process, and git's may take a gigabyte.
    pub at_once: usize,
    /// Directories below which repositories may be cloned by path. None: none.
    pub local_git_roots: Vec<PathBuf>,
    /// Ports of remotes.
    pub ports: Vec<u16>,
    /// The git to run; a bare name is looked up in `PATH`.
    pub git: PathBuf,
    /// A private directory for what git fetches; nothing else may lie in it.
    pub staging: PathBuf,
}

impl ImportConfig {
    /// The defaults: public repositories over HTTPS, no local ones.
    pub fn new(exe: PathBuf, staging: PathBuf) -> Self {
        Self {
            exe,
            args_prefix: vec!["import".into()],
            limits: ImportLimits::default(),
            timeout: Duration::from_secs(300),
            at_once: 4,
            local_git_roots: Vec::new(),
            ports: vec![443],
            git: "git".into(),
            staging,
        }
    }
}

/// The [`Importer`] that runs each import in a confined child process.
#[derive(Debug)]
pub struct ChildImporter {
    config: ImportConfig,
    policy: url::Policy,
    scratch: Arc<Scratch>,
    permits: Semaphore,
}

impl ChildImporter {
    /// Makes the staging directory, empties it of what a crash left, and
    /// resolves the local roots. Blocks: call it while starting.
    ///
    /// # Errors
    /// If the staging directory can't be made, or a local root isn't there.
    pub fn new(config: ImportConfig) -> std::io::Result<Self> {
        let policy = url::Policy::new(&config.local_git_roots, &config.ports)?;
        let scratch = Scratch::open(&config.staging)?;
        let permits = Semaphore::new(config.at_once);
        Ok(Self { config, policy, scratch, permits })
    }

    fn request(&self, git: Option<GitJob>) -> Request {
        Request { limits: self.config.limits, seconds: self.config.timeout.as_secs().max(1), git }
    }

    async fn remote(&self, url: &str) -> Result<Remote, ImportError> {
        match self.policy.check(url)? {
            url::Source::Local(path) => Ok(Remote::Local { path }),
            url::Source::Https { url, host, port } => {
                let addresses = address::resolve(&host, port).await?;
                Ok(Remote::Https { url, host, port, addresses })
            }
        }
    }

    async fn import_git(
        &self,
        root: Arc<OwnedFd>,
        url: &str,
        reference: Option<String>,
    ) -> Result<Imported, ImportError> {
        if let Some(reference) = &reference {
            check_reference(reference)?;
        }
        let remote = self.remote(url).await?;
        // It goes when dropped, after the processes that write it are gone.
        let staging = self.scratch.bin().map_err(|errno| ImportError::Io(errno.into()))?;
        let job = GitJob { git: self.config.git.clone(), remote, reference, staging: staging.path() };
        process::run(&self.config, Kind::Git, &self.request(Some(job)), root, Feed::Nothing).await
    }
}

#[async_trait]
impl Importer for ChildImporter {
    fn check_git_url(&self, url: &str) -> Result<(), ImportError> {
        self.policy.check(url).map(drop)
    }

    async fn import(&self, root: Arc<OwnedFd>, import: Import) -> Result<Imported, ImportError> {
        let _permit = self.permits.acquire().await.map_err(|error| ImportError::Io(std::io::Error::other(error)))?;
        match import {
            Import::Git { url, reference } => self.import_git(root, &url, reference).await,
            Import::Archive(body) => {
                process::run(&self.config, Kind::Archive, &self.request(None), root, Feed::Body(body)).await
            }
        }
    }
}

/// The codes of [`ImportError::Refused`].
pub(crate) mod code {
    pub(crate) const FORBIDDEN_SOURCE: &str = "forbidden_source";
    pub(crate) const UNREACHABLE: &str = "unreachable";
    pub(crate) const NOT_AN_ARCHIVE: &str = "not_an_archive";
    pub(crate) const LIMIT_ENTRIES: &str = "limit_entries";
    pub(crate) const LIMIT_BYTES: &str = "limit_bytes";
    pub(crate) const LIMIT_TIME: &str = "limit_time";
    pub(crate) const CLONE_FAILED: &str = "clone_failed";
    /// A workspace can't be packed so that it comes back as it is.
    pub(crate) const UNFIT: &str = "unfit";
    pub(super) const ALL: [&str; 8] =
        [FORBIDDEN_SOURCE, UNREACHABLE, NOT_AN_ARCHIVE, LIMIT_ENTRIES, LIMIT_BYTES, LIMIT_TIME, CLONE_FAILED, UNFIT];
}

pub(crate) fn refused(code: &'static str, reason: impl Into<String>) -> ImportError {
    ImportError::Refused { code, reason: reason.into() }
}

pub(crate) fn over_bytes(limit: u64) -> ImportError {
    refused(code::LIMIT_BYTES, words("import.max_bytes", limit, ""))
}

pub(crate) fn over_entries(limit: u64) -> ImportError {
    refused(code::LIMIT_ENTRIES, words("import.max_entries", limit, ""))
}

#[cfg(test)]
mod tests;
