//! The port to workspaces: the task's directory, reached by descriptor only.

use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use thiserror::Error;
use tokio::io::AsyncRead;

use crate::clock::Timestamp;
use crate::event::FileChange;
use crate::id::{TaskId, TenantId};
use crate::path::WorkspacePath;
use crate::quota::Extent;

/// What workers may reach at all, whatever a guest in them does.
#[async_trait]
pub trait Domains: fmt::Debug + Send + Sync + 'static {
    /// The workspace of a task, or the directory below which all workspaces of
    /// the tenant lie.
    async fn domain(&self, tenant: TenantId, task: Option<TaskId>) -> Result<Arc<OwnedFd>, WorkspaceError>;
}

/// One directory for whoever asks: of a process that serves one workspace.
#[derive(Debug)]
pub struct OneDomain(pub Arc<OwnedFd>);

#[async_trait]
impl Domains for OneDomain {
    async fn domain(&self, _tenant: TenantId, _task: Option<TaskId>) -> Result<Arc<OwnedFd>, WorkspaceError> {
        Ok(self.0.clone())
    }
}

/// Why a file operation was refused or failed. `Display` is public.
#[derive(Debug, Error)]
pub enum WorkspaceError {
    /// Nothing is there.
    #[error("`{0}` does not exist")]
    NotFound(String),
    /// Something is there already.
    #[error("`{0}` exists already")]
    Exists(String),
    /// A directory was wanted.
    #[error("`{0}` is not a directory")]
    NotADirectory(String),
    /// A file was wanted.
    #[error("`{0}` is a directory")]
    IsADirectory(String),
    /// Only an empty directory can be deleted this way.
    #[error("the directory `{0}` is not empty; pass `recursive=true` to delete it with what it holds")]
    NotEmpty(String),
    /// A symbolic link, device, pipe or socket: neither file nor directory.
    #[error("`{0}` is neither a file nor a directory (or its path passes a symbolic link), so it is not served")]
    NotRegular(String),
    /// The path leads out of the workspace, or is not a path.
    #[error("the path `{path}` is not allowed: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The range lies outside the file.
    #[error("the range lies outside the file, which has {size} bytes")]
    BadRange {
        /// Size of the file.
        size: u64,
    },
    /// A limit was reached (size of an upload, number of entries, depth).
    #[error("{what} is over the limit of {limit}")]
    OverLimit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The sender of a body broke off; nothing was changed.
    #[error("the upload broke off; nothing was changed")]
    BrokenOff,
    /// The disk is full.
    #[error("the disk is full; nothing was changed")]
    DiskFull,
    /// The host's fault.
    #[error("a file operation failed")]
    Io(#[source] std::io::Error),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; never followed.
    Symlink,
    /// A device, pipe or socket; never opened.
    Other,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: WorkspacePath,
    /// What it is.
    pub kind: EntryKind,
    /// Its size, in bytes (0 for a directory).
    pub size: u64,
    /// When its content was last changed.
    pub modified_at: Timestamp,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Where a symbolic link points: shown, never followed. Raw bytes.
    pub target: Option<Vec<u8>>,
}

/// A page of a directory, sorted by name as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The name after which the next page begins; absent on the last page.
    pub next_after: Option<Vec<u8>>,
}

/// Which object of the machine a directory is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The filesystem.
    pub device: u64,
    /// The object in it.
    pub inode: u64,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// A directory that was opened.
#[derive(Debug)]
pub struct OpenDir {
    /// It.
    pub directory: Arc<OwnedFd>,
    /// Which one it is.
    pub id: FileId,
    /// How many directories were made for it, itself included.
    pub made: u64,
}

/// A stream of bytes to be stored or sent.
pub type ByteStream = Pin<Box<dyn AsyncRead + Send>>;

/// A file being read.
pub struct OpenFile {
    /// What it is.
    pub entry: Entry,
    /// First byte that is sent.
    pub offset: u64,
    /// Number of bytes that are sent.
    pub length: u64,
    /// They.
    pub stream: ByteStream,
}

/// A part of a file: as in an HTTP `Range` of one interval (RFC 9110 §14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first to the last byte, both included; to the end if absent.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether the file is new.
    pub created: bool,
    /// Its size, in bytes.
    pub size: u64,
}

/// What a walk found changed since a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Files created or modified since; deleted ones can't be found.
    pub changes: Vec<FileChange>,
    /// True if there were more than asked for.
    pub more: bool,
}

/// Workspaces.
#[async_trait]
pub trait Workspaces: Send + Sync + 'static {
    /// Makes an empty workspace, owned by tenant and task. Fine if it is there.
    async fn create(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError>;
    /// Opens the directory of a workspace.
    async fn open(&self, tenant: TenantId, task: TaskId) -> Result<Arc<OwnedFd>, WorkspaceError>;
    /// Removes a workspace with all it holds. Fine if it is gone.
    async fn remove(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError>;

    /// Lists a directory: at most `limit` entries, names after `after`.
    async fn list(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<Listing, WorkspaceError>;
    /// Describes one entry, without following it.
    async fn stat(&self, root: Arc<OwnedFd>, path: &WorkspacePath) -> Result<Entry, WorkspaceError>;
    /// Opens a regular file for reading.
    async fn read(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        range: Option<ByteRange>,
    ) -> Result<OpenFile, WorkspaceError>;
    /// Writes a file atomically: readers see the old content or the new, and
    /// a body that breaks off changes nothing. Parents are made. `executable`
    /// sets or clears the owner's execute bit; `None` keeps it.
    async fn write(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        body: ByteStream,
        max_bytes: u64,
        replace: bool,
        executable: Option<bool>,
    ) -> Result<Written, WorkspaceError>;
    /// Opens the directory at `path`, through no link. Where it is missing it is
    /// made with its parents, at most `make` directories; with none, nothing is
    /// opened.
    async fn open_dir(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        make: Option<u64>,
    ) -> Result<Option<OpenDir>, WorkspaceError>;
    /// Makes a directory and its parents. True if it is new.
    async fn make_dir(&self, root: Arc<OwnedFd>, path: &WorkspacePath) -> Result<bool, WorkspaceError>;
    /// Deletes a file, a link, or a directory (with what it holds, if `recursive`).
    /// Returns how many entries went.
    async fn delete(&self, root: Arc<OwnedFd>, path: &WorkspacePath, recursive: bool) -> Result<u64, WorkspaceError>;
    /// Moves an entry. Parents are made; refused if `to` exists, unless `replace`.
    async fn rename(
        &self,
        root: Arc<OwnedFd>,
        from: &WorkspacePath,
        to: &WorkspacePath,
        replace: bool,
    ) -> Result<(), WorkspaceError>;
    /// Measures what everything in it takes.
    async fn measure(&self, root: Arc<OwnedFd>) -> Result<Extent, WorkspaceError>;
    /// Finds what changed since a time, at most `max` entries.
    async fn changed_since(&self, root: Arc<OwnedFd>, since: Timestamp, max: u32) -> Result<Walked, WorkspaceError>;
}
