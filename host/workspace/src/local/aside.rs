//! What lies beside the workspaces: entries that were deleted and are kept, and
//! uploads that go on over several requests. Outside of every directory that a worker
//! reaches; on their filesystem, so that things come and go by rename.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::id::{DeletedId, TaskId, TenantId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{EntryKind, PutAside, Removal, WorkspaceError};
use bulkhead_core::quota::Extent;
use rustix::fs::{Dir, RenameFlags};
use rustix::io::Errno;

use super::change::{hold, open_parent};
use super::layout::{Beside, Layout, discard};
use super::list::kind_of;
use super::project::{adopt, is_of_another};
use super::{copy, measure as tree};
use crate::{beneath, error, remove};

/// Puts an entry aside under `id`.
pub(super) fn put(
    layout: &Layout,
    task: (TenantId, TaskId),
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    id: DeletedId,
    how: &Removal,
) -> Result<PutAside, WorkspaceError> {
    let parent = open_parent(root, path)?;
    let stat = beneath::stat_at(parent.as_fd(), path.name()).map_err(error::at(path))?;
    if kind_of(&stat) == EntryKind::Directory && !how.recursive && !is_empty(parent.as_fd(), path.name()) {
        return Err(WorkspaceError::NotEmpty(path.to_text()));
    }
    let kept = layout.make_beside(Beside::Deleted, task).map_err(error::host)?;
    let id = id.to_string();
    {
        let _alone = layout.naming();
        hold(parent.as_fd(), path, &how.conditions)?;
        move_out(parent.as_fd(), path.name(), kept.as_fd(), &id).map_err(error::at(path))?;
    }
    rustix::fs::fsync(&kept).map_err(error::host)?;
    rustix::fs::fsync(&parent).map_err(error::host)?;
    look(kept.as_fd(), &id)?.ok_or_else(|| WorkspaceError::NotFound(path.to_text()))
}

/// Moving a directory writes its `..`, which its owner may have forbidden.
fn move_out(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, id: &str) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, id, RenameFlags::NOREPLACE) {
        Err(Errno::ACCESS) => {
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            remove::unlock(from, &name)?;
            rustix::fs::renameat_with(from, &*name, to, id, RenameFlags::NOREPLACE)
        }
        result => result,
    }
}

/// Whether a directory has nothing in it, as far as it can be read.
fn is_empty(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    let Ok(dir) = beneath::open_dir(parent, name) else { return false };
    let Ok(entries) = Dir::read_from(&dir) else { return false };
    entries.map_while(Result::ok).all(|entry| remove::is_dots(entry.file_name()))
}

/// What was put aside under `id`.
pub(super) fn get(
    layout: &Layout,
    task: (TenantId, TaskId),
    id: DeletedId,
) -> Result<Option<PutAside>, WorkspaceError> {
    match layout.open_beside(Beside::Deleted, task) {
        Err(Errno::NOENT) => Ok(None),
        result => look(result.map_err(error::host)?.as_fd(), &id.to_string()),
    }
}

fn look(kept: BorrowedFd<'_>, id: &str) -> Result<Option<PutAside>, WorkspaceError> {
    let stat = match beneath::stat_at(kept, id.as_bytes()) {
        Err(Errno::NOENT) => return Ok(None),
        result => result.map_err(error::host)?,
    };
    let kind = kind_of(&stat);
    let mut extent = Extent { bytes: 0, entries: 1 };
    match kind {
        EntryKind::File => extent.bytes = u64::try_from(stat.st_size).unwrap_or(0),
        EntryKind::Directory => {
            if let Ok(dir) = beneath::open_dir(kept, id.as_bytes()) {
                let inside = tree::measure(dir.as_fd())?;
                extent = Extent { bytes: inside.bytes, entries: inside.entries.saturating_add(1) };
            }
        }
        EntryKind::Symlink | EntryKind::Other => {}
    }
    Ok(Some(PutAside { kind, extent }))
}

/// Brings an entry back to `path`.
pub(super) fn bring_back(
    layout: &Layout,
    task: (TenantId, TaskId),
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    id: DeletedId,
    replace: bool,
) -> Result<(), WorkspaceError> {
    let gone = || WorkspaceError::NotFound(path.to_text());
    let kept = match layout.open_beside(Beside::Deleted, task) {
        Err(Errno::NOENT) => return Err(gone()),
        result => result.map_err(error::host)?,
    };
    let (id_of, id) = (id, id.to_string());
    let stat = beneath::stat_at(kept.as_fd(), id.as_bytes()).map_err(|_| gone())?;
    let parent =
        path.parent().ok_or(WorkspaceError::BadPath { path: String::new(), reason: "it is the workspace itself" })?;
    let dir = beneath::make_dirs(root, parent.as_bytes(), true).map_err(error::making(&parent))?.dir;
    // What was put aside may be of another project: of none, or of one that was packed.
    match kind_of(&stat) {
        EntryKind::File => {
            let kept = beneath::open_file(kept.as_fd(), id.as_bytes());
            // Its owner may have forbidden to open it: then moving it says whether it mattered.
            let _ = kept.and_then(|kept| adopt(dir.as_fd(), kept.file.as_fd()));
        }
        EntryKind::Directory => {
            let from = beneath::open_dir(kept.as_fd(), id.as_bytes());
            if let Ok(from) = from
                && is_of_another(dir.as_fd(), from.as_fd()).map_err(error::host)?
            {
                copy::into(layout, &from, root, path)?;
                return purge(layout, task, id_of);
            }
        }
        EntryKind::Symlink | EntryKind::Other => {}
    }
    {
        let _alone = layout.naming();
        match rustix::fs::renameat_with(&kept, &*id, &dir, path.name(), RenameFlags::NOREPLACE) {
            // A link has no content of its own to be of a project: another is made.
            Err(Errno::XDEV) if kind_of(&stat) == EntryKind::Symlink => {
                let target = rustix::fs::readlinkat(&kept, &*id, Vec::new()).map_err(error::host)?;
                rustix::fs::symlinkat(&*target, &dir, path.name())
                    .and_then(|()| rustix::fs::unlinkat(&kept, &*id, rustix::fs::AtFlags::empty()))
            }
            // A directory is never replaced, nor replaces anything: what it holds would go.
            Err(Errno::EXIST) if replace && kind_of(&stat) != EntryKind::Directory => {
                rustix::fs::renameat(&kept, &*id, &dir, path.name())
            }
            result => result,
        }
        .map_err(error::at(path))?;
    }
    rustix::fs::fsync(&dir).map_err(error::host)?;
    rustix::fs::fsync(&kept).map_err(error::host)
}

/// Removes what was put aside under `id`.
pub(super) fn purge(layout: &Layout, task: (TenantId, TaskId), id: DeletedId) -> Result<(), WorkspaceError> {
    let kept = match layout.open_beside(Beside::Deleted, task) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.map_err(error::host)?,
    };
    match discard(kept.as_fd(), id.to_string().as_bytes(), &layout.trash) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error::host(errno)),
        Ok(bin) => bin.empty().map(drop).map_err(error::host),
    }
}

/// What lies beside a workspace.
pub(super) fn measure(layout: &Layout, task: (TenantId, TaskId)) -> Result<Extent, WorkspaceError> {
    let mut sum = Extent::default();
    for beside in [Beside::Deleted, Beside::Uploads] {
        let dir: OwnedFd = match layout.open_beside(beside, task) {
            Err(Errno::NOENT) => continue,
            result => result.map_err(error::host)?,
        };
        let extent = tree::measure(dir.as_fd())?;
        sum.bytes = sum.bytes.saturating_add(extent.bytes);
        sum.entries = sum.entries.saturating_add(extent.entries);
    }
    Ok(sum)
}
