//! Opening a directory that is granted to a call: once, through no link, so
//! that whatever takes its name afterwards is not what the call holds.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{FileId, OpenDir, WorkspaceError};
use rustix::io::Errno;

use crate::{beneath, error};

/// Opens the directory at `path`; where it is missing, makes it and its
/// parents, at most `make` directories, or gives nothing if none may be made.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    make: Option<u64>,
) -> Result<Option<OpenDir>, WorkspaceError> {
    let (directory, made) = match beneath::open_dir(root, path.as_bytes()) {
        Ok(directory) => (directory, 0),
        Err(Errno::NOENT) => {
            let Some(limit) = make else { return Ok(None) };
            if missing(root, path) > limit {
                return Err(WorkspaceError::OverLimit {
                    what: "what the workspace may hold with this directory",
                    limit,
                });
            }
            let made = beneath::make_dirs(root, path.as_bytes(), true).map_err(error::making(path))?;
            (made.dir, made.made)
        }
        Err(errno) => return Err(error::at_directory(path)(errno)),
    };
    let id = identity(directory.as_fd())?;
    Ok(Some(OpenDir { directory: Arc::new(directory), id, made }))
}

/// Which directory it is.
pub(super) fn identity(directory: BorrowedFd<'_>) -> Result<FileId, WorkspaceError> {
    let stat = rustix::fs::fstat(directory).map_err(error::host)?;
    Ok(FileId { device: stat.st_dev, inode: stat.st_ino })
}

/// How many directories of the path are not there.
fn missing(root: BorrowedFd<'_>, path: &WorkspacePath) -> u64 {
    let (mut missing, mut at) = (0, Some(path.clone()));
    while let Some(path) = at.filter(|path| !path.is_root()) {
        if beneath::look(root, path.as_bytes()).is_ok() {
            break;
        }
        missing += 1;
        at = path.parent();
    }
    missing
}
