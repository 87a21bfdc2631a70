//! The port to archives: a workspace that nobody uses, packed into one file.
//!
//! Packing is an economy and may fail: an archived task whose workspace could not
//! be packed keeps its directory, and is restored all the same.

use async_trait::async_trait;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::import::Imported;
use super::workspace::WorkspaceError;
use crate::id::{TaskId, TenantId};
use crate::quota::Extent;

/// Where a workspace is. If there are both, the directory counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its directory.
    Directory,
    /// In an archive.
    Archive {
        /// So large.
        bytes: u64,
    },
    /// It is gone.
    Nowhere,
}

/// What came of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The size of the archive.
    pub bytes: u64,
    /// What is in it.
    pub content: Imported,
}

/// Why a workspace was not packed or unpacked. Nothing was changed.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// It can't be packed so that it comes back as it is, or the archive is damaged.
    #[error("{0}")]
    Unfit(String),
    /// More than there is room for.
    #[error("{reason}")]
    NoRoom {
        /// Whether it is entries that there is no room for, and not bytes.
        entries: bool,
        /// What was found.
        reason: String,
    },
    /// It was asked to stop.
    #[error("it was stopped")]
    Stopped,
    /// The file layer.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The host's fault.
    #[error("the child process failed")]
    Io(#[source] std::io::Error),
}

/// Archives. One operation at a time on each task.
#[async_trait]
pub trait Archives: Send + Sync + 'static {
    /// Packs a workspace that nobody writes to, then removes its directory. Can be
    /// stopped until it is packed; never leaves less than one that is whole.
    async fn pack(&self, tenant: TenantId, task: TaskId, stop: &CancellationToken) -> Result<Packed, ArchiveError>;
    /// Makes the directory of what was packed, if it takes no more than `most`. The
    /// archive stays until it is discarded. Where the kernel bounds workspaces, this one
    /// may have `quota`, and a little more.
    async fn unpack(
        &self,
        tenant: TenantId,
        task: TaskId,
        most: Extent,
        quota: Extent,
    ) -> Result<Imported, ArchiveError>;
    /// Where a workspace is.
    async fn place(&self, tenant: TenantId, task: TaskId) -> Result<Place, ArchiveError>;
    /// What lies on the disk: the tasks of the first tenant after this one that has a
    /// directory or an archive; none after the last.
    async fn found(&self, after: Option<TenantId>) -> Result<Option<(TenantId, Vec<TaskId>)>, ArchiveError>;
    /// Removes an archive that no longer counts. Fine if there is none.
    async fn discard(&self, tenant: TenantId, task: TaskId) -> Result<(), ArchiveError>;
}
