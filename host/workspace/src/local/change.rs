//! Making directories, moving and deleting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::conditions::Conditions;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::WorkspaceError;
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::layout::{Layout, discard};
use super::list::etag;
use crate::{beneath, error};

fn refuse(path: &WorkspacePath, reason: &'static str) -> WorkspaceError {
    WorkspaceError::BadPath { path: path.to_text(), reason }
}

/// The directory that `path` is in, opened. The root is in none.
pub(super) fn open_parent(root: BorrowedFd<'_>, path: &WorkspacePath) -> Result<OwnedFd, WorkspaceError> {
    let parent = path.parent().ok_or_else(|| refuse(path, "it is the workspace itself"))?;
    beneath::open_dir(root, parent.as_bytes()).map_err(error::at_entry(path))
}

/// Makes a directory and its parents. True if it is new.
pub(super) fn make_dir(root: BorrowedFd<'_>, path: &WorkspacePath) -> Result<bool, WorkspaceError> {
    beneath::make_dirs(root, path.as_bytes(), true).map(|made| made.made > 0).map_err(|failed| {
        // Below a file there is no directory; in place of a file there is none either.
        let whole = failed.at == path.as_bytes().len();
        if failed.errno == Errno::NOTDIR && whole {
            return WorkspaceError::Exists(path.to_text());
        }
        error::making(path)(failed)
    })
}

/// Refuses what is not as the conditions want it. Nobody else of this host may name
/// anything meanwhile.
pub(super) fn hold(
    parent: BorrowedFd<'_>,
    path: &WorkspacePath,
    conditions: &Conditions,
) -> Result<(), WorkspaceError> {
    if *conditions == Conditions::default() {
        return Ok(());
    }
    let stat = beneath::stat_at(parent, path.name()).map_err(error::at(path))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // Of what has no tag of its own no tag is one.
    let tag = if is_file { etag(&stat) } else { String::new() };
    conditions.hold(Some(&tag)).then_some(()).ok_or_else(|| WorkspaceError::Precondition(path.to_text()))
}

/// Deletes a file, a link or an empty directory.
pub(super) fn delete(
    layout: &Layout,
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    conditions: &Conditions,
) -> Result<u64, WorkspaceError> {
    let parent = open_parent(root, path)?;
    let alone = layout.naming();
    hold(parent.as_fd(), path, conditions)?;
    let gone = match rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(&parent, path.name(), AtFlags::REMOVEDIR),
        result => result,
    };
    drop(alone);
    gone.map_err(error::at(path))?;
    rustix::fs::fsync(&parent).map_err(error::host)?;
    Ok(1)
}

/// Deletes what is at `path`, with what it holds. It is gone at once; the
/// number is of what could be removed of it.
pub(super) fn delete_tree(
    layout: &Layout,
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    conditions: &Conditions,
) -> Result<u64, WorkspaceError> {
    let parent = open_parent(root, path)?;
    let stat = beneath::stat_at(parent.as_fd(), path.name()).map_err(error::at(path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return delete(layout, root, path, conditions);
    }
    let alone = layout.naming();
    hold(parent.as_fd(), path, conditions)?;
    let bin = discard(parent.as_fd(), path.name(), &layout.trash);
    drop(alone);
    let bin = bin.map_err(error::at(path))?;
    rustix::fs::fsync(&parent).map_err(error::host)?;
    bin.empty().map_err(error::host)
}

/// Moves an entry of any kind; a link is moved, not what it points to.
pub(super) fn rename(
    layout: &Layout,
    root: BorrowedFd<'_>,
    from: &WorkspacePath,
    to: &WorkspacePath,
    replace: bool,
) -> Result<(), WorkspaceError> {
    let old = open_parent(root, from)?;
    let to_parent = to.parent().ok_or_else(|| refuse(to, "it is the workspace itself"))?;
    if to.as_bytes().strip_prefix(from.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")) {
        return Err(refuse(to, "a directory can't be moved into itself"));
    }
    // Before parents are made for something that isn't there.
    beneath::stat_at(old.as_fd(), from.name()).map_err(error::at(from))?;
    let new = beneath::make_dirs(root, to_parent.as_bytes(), true).map_err(error::making(&to_parent))?.dir;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let alone = layout.naming();
    let renamed = rustix::fs::renameat_with(&old, from.name(), &new, to.name(), flags);
    drop(alone);
    renamed.map_err(|errno| match errno {
        Errno::NOENT => WorkspaceError::NotFound(from.to_text()),
        // Reached another way than by its path, which a rename beside this one can bring about.
        Errno::INVAL => refuse(to, "a directory can't be moved into itself"),
        errno => error::at(to)(errno),
    })?;
    rustix::fs::fsync(&new).map_err(error::host)?;
    rustix::fs::fsync(&old).map_err(error::host)
}
