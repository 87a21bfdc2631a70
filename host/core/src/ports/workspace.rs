//! The port to workspaces: the task's directory, reached by descriptor only.

use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use thiserror::Error;
use tokio::io::AsyncRead;

use crate::clock::Timestamp;
use crate::conditions::Conditions;
use crate::digest::Digest;
use crate::event::FileChange;
use crate::files::UnknownState;
use crate::id::{DeletedId, TaskId, TenantId, UploadId};
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
    /// What is there is not what the request wants to be there.
    #[error("`{0}` is not as `If-Match` or `If-None-Match` wants it; nothing was changed")]
    Precondition(String),
    /// The content has another digest than was said.
    #[error("the content has the digest `{found}`, not the one that was said; nothing was changed")]
    DigestMismatch {
        /// The digest it has.
        found: Digest,
    },
    /// Another request is adding to the same upload.
    #[error("another request adds to this upload")]
    InUse,
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

impl EntryKind {
    /// The text form, as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Other => "other",
        }
    }
}

impl FromStr for EntryKind {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::File, Self::Directory, Self::Symlink, Self::Other]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
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
    /// Of a file: its entity tag, in quotes; another one when its content is another.
    pub etag: Option<String>,
}

/// A page of a directory, sorted by name as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The name after which the next page begins; absent on the last page.
    pub next_after: Option<Vec<u8>>,
    /// Entries of this page that are not shown, because their path would be too long or
    /// too deep.
    pub unnamed: u64,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether the file is new.
    pub created: bool,
    /// Its size, in bytes.
    pub size: u64,
    /// The SHA-256 of its content, computed by the host.
    pub digest: Digest,
    /// Its entity tag, in quotes.
    pub etag: String,
}

/// How a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Its largest size, in bytes.
    pub max_bytes: u64,
    /// What must be there, or not be there.
    pub conditions: Conditions,
    /// Sets or clears the owner's execute bit; `None` keeps it.
    pub executable: Option<bool>,
    /// The digest that its content must have.
    pub digest: Option<Digest>,
}

/// An entry that was put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutAside {
    /// What it is.
    pub kind: EntryKind,
    /// What it takes, with all that is in it.
    pub extent: Extent,
}

/// What is to be copied from one workspace into another.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The workspace it is in.
    pub from_root: Arc<OwnedFd>,
    /// Its path there.
    pub from: WorkspacePath,
    /// The workspace it comes into.
    pub to_root: Arc<OwnedFd>,
    /// Its path there.
    pub to: WorkspacePath,
    /// Whether a file that is there may be replaced.
    pub replace: bool,
    /// What it may take at most.
    pub room: Extent,
}

/// How an entry is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Whether a directory goes with what it holds; else only if it is empty.
    pub recursive: bool,
    /// What must hold of the file. What is no file has no tag: of it only holds that
    /// something is there.
    pub conditions: Conditions,
}

impl Removal {
    /// With what it holds, whatever it is.
    pub fn recursive() -> Self {
        Self { recursive: true, conditions: Conditions::default() }
    }
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// What the entry is.
    pub kind: EntryKind,
    /// What the copy takes, with all that is in it.
    pub extent: Extent,
    /// Whether nothing was in its place.
    pub created: bool,
    /// Devices, pipes and sockets that were left out.
    pub left_out: u64,
    /// The tag that the file had of which this is a copy; of a file only.
    pub source: Option<String>,
}

/// What became of an addition to an upload.
#[derive(Debug)]
pub struct Added {
    /// How many bytes are there now.
    pub size: u64,
    /// Why not all of the body is among them.
    pub error: Option<WorkspaceError>,
}

/// What a walk found changed since a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Files created or modified since; deleted ones can't be found.
    pub changes: Vec<FileChange>,
    /// True if there were more than asked for.
    pub more: bool,
}

/// A directory that comes into a workspace from elsewhere, entry by entry: where no guest
/// sees it, until it is put in its place as a whole. Dropped before that, it is gone.
///
/// Paths are below it. What is over the room that it was begun with is
/// [`WorkspaceError::OverLimit`] of `the bytes of the copy` or `the entries of the copy`,
/// as for [`Workspaces::copy`].
#[async_trait]
pub trait Arriving: Send {
    /// Makes a directory. Its parent is there.
    async fn directory(&mut self, path: &WorkspacePath) -> Result<(), WorkspaceError>;
    /// Makes a symbolic link.
    async fn link(&mut self, path: &WorkspacePath, target: Vec<u8>) -> Result<(), WorkspaceError>;
    /// Makes a file.
    async fn file(&mut self, path: &WorkspacePath, executable: bool, body: ByteStream) -> Result<(), WorkspaceError>;
    /// What it takes by now.
    fn extent(&self) -> Extent;
    /// Puts it at `to`, where nothing is. `left_out` is said of it.
    async fn put(self: Box<Self>, to: &WorkspacePath, left_out: u64) -> Result<Copied, WorkspaceError>;
}

/// Workspaces.
#[async_trait]
pub trait Workspaces: Send + Sync + 'static {
    /// Makes an empty workspace, owned by tenant and task. Fine if it is there. Where the
    /// kernel bounds workspaces, this one may have `most`, and a little more.
    async fn create(&self, tenant: TenantId, task: TaskId, most: Extent) -> Result<(), WorkspaceError>;
    /// Opens the directory of a workspace.
    async fn open(&self, tenant: TenantId, task: TaskId) -> Result<Arc<OwnedFd>, WorkspaceError>;
    /// Which directory `root` is, for the audit log: a path may name another one later.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn identity(&self, root: &OwnedFd) -> Result<FileId, WorkspaceError>;
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
    /// Writes a file atomically: readers see the old content or the new, and a body
    /// that breaks off, or is not what was said, changes nothing. Parents are made.
    async fn write(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        body: ByteStream,
        options: WriteOptions,
    ) -> Result<Written, WorkspaceError>;
    /// The same with the content of another file, whose blocks are shared where the
    /// filesystem can; never the file itself.
    async fn write_copy(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        source: (Arc<OwnedFd>, &WorkspacePath),
        options: WriteOptions,
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
    /// Deletes a file, a link, or a directory. Returns how many entries went.
    async fn delete(&self, root: Arc<OwnedFd>, path: &WorkspacePath, how: Removal) -> Result<u64, WorkspaceError>;
    /// Moves an entry. Parents are made; refused if `to` exists, unless `replace`.
    async fn rename(
        &self,
        root: Arc<OwnedFd>,
        from: &WorkspacePath,
        to: &WorkspacePath,
        replace: bool,
    ) -> Result<(), WorkspaceError>;
    /// Puts an entry aside, where no guest reaches it, under an id.
    async fn put_aside(
        &self,
        task: (TenantId, TaskId),
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        id: DeletedId,
        how: Removal,
    ) -> Result<PutAside, WorkspaceError>;
    /// What was put aside under an id; none if nothing is there.
    async fn aside(&self, task: (TenantId, TaskId), id: DeletedId) -> Result<Option<PutAside>, WorkspaceError>;
    /// Brings back what was put aside. Parents are made; refused if something is in
    /// the way, unless it is a file and `replace`.
    async fn bring_back(
        &self,
        task: (TenantId, TaskId),
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        id: DeletedId,
        replace: bool,
    ) -> Result<(), WorkspaceError>;
    /// Removes what was put aside for good. Fine if it is gone.
    async fn purge(&self, task: (TenantId, TaskId), id: DeletedId) -> Result<(), WorkspaceError>;
    /// Copies an entry with all it holds; links as links, hard links as files of their
    /// own. Nothing of it is there before all is.
    async fn copy(&self, copy: Copy) -> Result<Copied, WorkspaceError>;
    /// Begins a directory that comes into this workspace from elsewhere; it may take `room`.
    async fn arrive(&self, root: Arc<OwnedFd>, room: Extent) -> Result<Box<dyn Arriving>, WorkspaceError>;

    /// Begins an upload: a file beside the workspaces, empty at first.
    async fn begin_upload(&self, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError>;
    /// How many bytes of an upload are there; none if it is not there.
    async fn upload_size(&self, task: (TenantId, TaskId), id: UploadId) -> Result<Option<u64>, WorkspaceError>;
    /// Adds to an upload of `offset` bytes, at most up to `max_bytes` in all; how many are
    /// there then. What came before a body broke off stays.
    async fn add_to_upload(
        &self,
        task: (TenantId, TaskId),
        id: UploadId,
        offset: u64,
        max_bytes: u64,
        body: ByteStream,
    ) -> Result<Added, WorkspaceError>;
    /// Puts a complete upload in its place.
    async fn finish_upload(
        &self,
        task: (TenantId, TaskId),
        id: UploadId,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        options: WriteOptions,
    ) -> Result<Written, WorkspaceError>;
    /// Removes an upload. Fine if it is gone.
    async fn drop_upload(&self, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError>;
    /// Measures what lies beside a workspace: what was deleted and is kept, and uploads.
    async fn measure_aside(&self, task: (TenantId, TaskId)) -> Result<Extent, WorkspaceError>;

    /// Measures what everything in it takes, also what no path leads to. What has no end,
    /// or changes too fast, is [`WorkspaceError::OverLimit`]: it has no measure.
    async fn measure(&self, root: Arc<OwnedFd>) -> Result<Extent, WorkspaceError>;
    /// Finds what changed since a time, at most `max` entries.
    async fn changed_since(&self, root: Arc<OwnedFd>, since: Timestamp, max: u32) -> Result<Walked, WorkspaceError>;
}
