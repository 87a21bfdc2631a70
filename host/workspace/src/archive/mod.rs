//! Archives: the workspace of a task that takes no calls, as one file.
//!
//! ```text
//! <root>/workspaces/<tenant>/<task>/        the workspace, or
//! <root>/archives/<tenant>/<task>.tar.gz    what it is packed into
//! ```
//!
//! **The directory, if it is there, is the truth; an archive counts only where
//! there is none.** Both come by rename of something that is whole and on the
//! disk, and the directory goes by rename before anything in it is removed: so
//! whenever the machine stops, one of them is complete, and which is plain to
//! see. Without a record of it elsewhere nothing can contradict the disk.
//!
//! Guests wrote what is packed, and a packer that was taken over could have
//! written the archive: both are read by a confined child ([`super::import`]),
//! which has one directory and one open file and nothing else.

mod format;
mod pack;
#[cfg(feature = "fuzz")]
pub(crate) mod seeds;
mod unpack;

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::archive::{ArchiveError, Archives, Packed, Place};
use bulkhead_core::ports::import::{ImportError, Imported};
use bulkhead_core::ports::workspace::WorkspaceError;
use bulkhead_core::quota::Extent;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use pack::pack;
pub(crate) use unpack::unpack;

use crate::gate::Gate;
use crate::import::process::{self, Feed};
use crate::import::protocol::{Kind, Request};
use crate::import::{ImportConfig, ImportLimits, code};
use crate::local::Layout;

/// So much longer may unpacking take than packing: what was packed must come back.
const UNPACK_FACTOR: u32 = 4;

/// The [`Archives`] below a data directory, packed by child processes.
#[derive(Debug)]
pub struct ChildArchiver {
    layout: Arc<Layout>,
    gate: Gate,
    config: ImportConfig,
    permits: Semaphore,
}

impl ChildArchiver {
    /// Of the data directory of `layout`. Of `config` count the program, the
    /// limits, how long packing may take, and how many children there are at once.
    pub(crate) fn new(layout: Arc<Layout>, gate: Gate, config: ImportConfig) -> Self {
        let permits = Semaphore::new(config.at_once);
        Self { layout, gate, config, permits }
    }

    async fn run<T, F>(&self, job: F) -> Result<T, ArchiveError>
    where
        T: Send + 'static,
        F: FnOnce(&Layout) -> Result<T, WorkspaceError> + Send + 'static,
    {
        let layout = Arc::clone(&self.layout);
        self.gate.run(move || job(&layout)).await.map_err(ArchiveError::from)
    }

    async fn child(
        &self,
        kind: Kind,
        limits: ImportLimits,
        root: Arc<OwnedFd>,
        file: Stdio,
    ) -> Result<Imported, ArchiveError> {
        let mut config = ImportConfig { limits, ..self.config.clone() };
        if kind == Kind::Unpack {
            config.timeout *= UNPACK_FACTOR;
        }
        let request = Request { limits, seconds: config.timeout.as_secs().max(1), git: None };
        process::run(&config, kind, &request, root, Feed::File(file)).await.map_err(meaning)
    }
}

fn meaning(error: ImportError) -> ArchiveError {
    match error {
        ImportError::Refused { code: code @ (code::LIMIT_BYTES | code::LIMIT_ENTRIES), reason } => {
            ArchiveError::NoRoom { entries: code == code::LIMIT_ENTRIES, reason }
        }
        ImportError::Refused { code: code::LIMIT_TIME, .. } => ArchiveError::Unfit("it takes too long".into()),
        ImportError::Refused { reason, .. } => ArchiveError::Unfit(reason),
        ImportError::Io(error) => ArchiveError::Io(error),
    }
}

#[async_trait]
impl Archives for ChildArchiver {
    async fn pack(&self, tenant: TenantId, task: TaskId, stop: &CancellationToken) -> Result<Packed, ArchiveError> {
        let permit = tokio::select! {
            permit = self.permits.acquire() => permit.map_err(|error| ArchiveError::Io(std::io::Error::other(error)))?,
            () = stop.cancelled() => return Err(ArchiveError::Stopped),
        };
        let begin = move |layout: &Layout| {
            let root = layout.open_workspace(tenant, task)?;
            let (file, temporary) = layout.staging.file().map_err(crate::error::host)?;
            let again = file.try_clone().map_err(WorkspaceError::Io)?;
            Ok((root, file, again, temporary))
        };
        let (root, file, again, temporary) = self.run(begin).await?;
        let packing = self.child(Kind::Pack, self.config.limits, Arc::new(root), again.into());
        let content = tokio::select! {
            packed = packing => packed?,
            // The child ends with what waits for it.
            () = stop.cancelled() => return Err(ArchiveError::Stopped),
        };
        let stop = stop.clone();
        let keep = move |layout: &Layout| layout.keep_archive(tenant, task, file.as_fd(), temporary, &stop);
        let bytes = self.run(keep).await?;
        drop(permit);
        Ok(Packed { bytes: bytes.ok_or(ArchiveError::Stopped)?, content })
    }

    async fn unpack(
        &self,
        tenant: TenantId,
        task: TaskId,
        most: Extent,
        quota: Extent,
    ) -> Result<Imported, ArchiveError> {
        let permit = self.permits.acquire().await.map_err(|error| ArchiveError::Io(std::io::Error::other(error)))?;
        let begin = move |layout: &Layout| {
            let archive = layout.open_archive(tenant, task)?;
            let (root, bin) = layout.nursery(quota)?;
            Ok((archive, root, bin))
        };
        let (archive, root, bin) = self.run(begin).await?;
        let limits = ImportLimits { max_bytes: most.bytes, max_entries: most.entries, ..self.config.limits };
        let content = self.child(Kind::Unpack, limits, Arc::new(root), archive.into()).await?;
        self.run(move |layout| layout.move_in(tenant, task, &bin)).await?;
        drop(permit);
        Ok(content)
    }

    async fn place(&self, tenant: TenantId, task: TaskId) -> Result<Place, ArchiveError> {
        self.run(move |layout| layout.place(tenant, task)).await
    }

    async fn found(&self, after: Option<TenantId>) -> Result<Option<(TenantId, Vec<TaskId>)>, ArchiveError> {
        self.run(move |layout| layout.found(after)).await
    }

    async fn discard(&self, tenant: TenantId, task: TaskId) -> Result<(), ArchiveError> {
        self.run(move |layout| layout.remove_archive(tenant, task)).await
    }
}

#[cfg(test)]
mod tests;
