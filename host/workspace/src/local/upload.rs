//! Uploads that go on over several requests: a file beside the workspaces, to which
//! each request adds. Its size is the offset: what a crash left of it is where the
//! client goes on. The lock on it is the kernel's, so that also two hosts that reach
//! the same volume never add at once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bulkhead_core::digest::Digest;
use bulkhead_core::id::{TaskId, TenantId, UploadId};
use bulkhead_core::ports::workspace::{Added, ByteStream, WorkspaceError, Written};
use bytes::BytesMut;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;

use super::layout::{Beside, Layout};
use super::write::{CHUNK, Ready, Target, hash_of, write_all};
use crate::gate::Gate;
use crate::{beneath, error};

fn gone() -> WorkspaceError {
    WorkspaceError::NotFound("the upload".into())
}

/// Makes the file, empty.
pub(super) fn begin(layout: &Layout, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError> {
    let dir = layout.make_beside(Beside::Uploads, task).map_err(error::host)?;
    beneath::create_file(dir.as_fd(), id.to_string().as_bytes()).map_err(error::host)?;
    rustix::fs::fsync(&dir).map_err(error::host)
}

/// How many bytes of it are there.
pub(super) fn size(layout: &Layout, task: (TenantId, TaskId), id: UploadId) -> Result<Option<u64>, WorkspaceError> {
    let stat = layout
        .open_beside(Beside::Uploads, task)
        .and_then(|dir| beneath::stat_at(dir.as_fd(), id.to_string().as_bytes()));
    match stat {
        Err(Errno::NOENT) => Ok(None),
        result => Ok(Some(u64::try_from(result.map_err(error::host)?.st_size).unwrap_or(0))),
    }
}

/// An upload that nobody else adds to.
struct Open {
    dir: OwnedFd,
    file: OwnedFd,
    size: u64,
}

fn open(layout: &Layout, task: (TenantId, TaskId), id: UploadId) -> Result<Open, WorkspaceError> {
    let absent = |errno| if errno == Errno::NOENT { gone() } else { error::host(errno) };
    let dir = layout.open_beside(Beside::Uploads, task).map_err(absent)?;
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW;
    let file = beneath::open(dir.as_fd(), id.to_string().as_bytes(), flags, Mode::empty()).map_err(absent)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(WorkspaceError::InUse),
        Err(errno) => return Err(error::host(errno)),
    }
    let stat = rustix::fs::fstat(&file).map_err(error::host)?;
    if stat.st_nlink == 0 {
        // It was completed or dropped while this request waited to open it.
        return Err(gone());
    }
    Ok(Open { dir, file, size: u64::try_from(stat.st_size).unwrap_or(0) })
}

/// Adds a body at `offset`, which must be where the file ends.
pub(super) async fn add(
    layout: Arc<Layout>,
    gate: &Gate,
    (task, id): ((TenantId, TaskId), UploadId),
    offset: u64,
    max_bytes: u64,
    mut body: ByteStream,
) -> Result<Added, WorkspaceError> {
    let open = gate.run(move || open(&layout, task, id)).await?;
    if open.size != offset {
        return Err(WorkspaceError::BadRange { size: open.size });
    }
    let file = Arc::new(open.file);
    let (mut size, mut ended, mut failed) = (offset, false, None);
    while !ended && failed.is_none() {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while chunk.len() < CHUNK && !ended {
            match body.read_buf(&mut chunk).await {
                Ok(read) => ended = read == 0,
                Err(_) => {
                    failed = Some(WorkspaceError::BrokenOff);
                    break;
                }
            }
        }
        let room = usize::try_from(max_bytes.saturating_sub(size)).unwrap_or(usize::MAX);
        if chunk.len() > room {
            chunk.truncate(room);
            failed = Some(WorkspaceError::OverLimit { what: "the file", limit: max_bytes });
        }
        let (to, added) = (Arc::clone(&file), chunk.len() as u64);
        match gate.run(move || write_all(to.as_fd(), &chunk).map_err(error::host)).await {
            Ok(()) => size += added,
            Err(error) => failed = Some(error),
        }
    }
    let written = gate.run(move || {
        rustix::fs::fdatasync(&file).map_err(error::host)?;
        rustix::fs::fstat(&file).map_err(error::host)
    });
    // What is there, also if the last chunk came only in part.
    let size = u64::try_from(written.await?.st_size).unwrap_or(size);
    Ok(Added { size, error: failed })
}

/// Puts a complete upload in its place.
pub(super) fn finish(
    layout: &Layout,
    task: (TenantId, TaskId),
    id: UploadId,
    target: &Target,
) -> Result<Written, WorkspaceError> {
    target.check()?;
    let open = open(layout, task, id)?;
    let hash = hash_of(open.file.as_fd(), open.size).map_err(error::host)?;
    let name = id.to_string();
    let ready = Ready {
        file: open.file.as_fd(),
        at: (open.dir.as_fd(), &name),
        size: open.size,
        digest: Digest::from_bytes(hash.finalize().into()),
    };
    target.finish(layout, &ready)
}

/// Removes an upload.
pub(super) fn remove(layout: &Layout, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError> {
    let removed = layout
        .open_beside(Beside::Uploads, task)
        .and_then(|dir| rustix::fs::unlinkat(&dir, id.to_string(), AtFlags::empty()));
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error::host(errno)),
    }
}
