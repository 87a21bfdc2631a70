//! The data directory: where workspaces lie, how they come and go.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::WorkspaceError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::scratch::{Scratch, Temporary, make_private};
use crate::{beneath, error, remove};

/// The name under which a tree lies in its bin.
const IN_BIN: &str = "tree";

/// What may lie beside a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// What was deleted and is kept.
    Deleted,
    /// What is being uploaded.
    Uploads,
}

/// The open data directory.
#[derive(Debug)]
pub(super) struct Layout {
    workspaces: OwnedFd,
    deleted: OwnedFd,
    uploads: OwnedFd,
    /// Held while something gets a name, or loses it, that a condition may be about.
    naming: Mutex<()>,
    /// Uploads that are not complete yet.
    pub(super) staging: Arc<Scratch>,
    /// What is on its way out.
    pub(super) trash: Arc<Scratch>,
}

impl Layout {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        make_private(root)?;
        for name in ["workspaces", "deleted", "uploads"] {
            make_private(&root.join(name))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The operator may have made the data directory a link; that is theirs.
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        Ok(Self {
            workspaces: beneath::open_dir(fd.as_fd(), b"workspaces")?,
            deleted: beneath::open_dir(fd.as_fd(), b"deleted")?,
            uploads: beneath::open_dir(fd.as_fd(), b"uploads")?,
            naming: Mutex::default(),
            staging: Scratch::open(&root.join("staging"))?,
            trash: Scratch::open(&root.join("trash"))?,
        })
    }

    /// The directory of a tenant's workspaces; made if it is not there.
    pub(super) fn domain(&self, tenant: TenantId) -> Result<OwnedFd, WorkspaceError> {
        let tenant = tenant.to_string();
        make_durable(self.workspaces.as_fd(), &tenant).map_err(error::host)?;
        beneath::open_dir(self.workspaces.as_fd(), tenant.as_bytes()).map_err(error::host)
    }

    pub(super) fn create(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        let dir = self.domain(tenant)?;
        make_durable(dir.as_fd(), &task.to_string()).map_err(error::host)
    }

    pub(super) fn open_workspace(&self, tenant: TenantId, task: TaskId) -> Result<OwnedFd, WorkspaceError> {
        let path = format!("{tenant}/{task}");
        beneath::open_dir(self.workspaces.as_fd(), path.as_bytes()).map_err(error::at(&WorkspacePath::root()))
    }

    /// Waits until nobody else names anything. It is held for a rename or two, which the
    /// kernel does one after the other anyway.
    pub(super) fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beside(&self, beside: Beside) -> BorrowedFd<'_> {
        match beside {
            Beside::Deleted => self.deleted.as_fd(),
            Beside::Uploads => self.uploads.as_fd(),
        }
    }

    /// What of a task lies beside its workspace.
    pub(super) fn open_beside(&self, beside: Beside, task: (TenantId, TaskId)) -> rustix::io::Result<OwnedFd> {
        let (tenant, task) = task;
        beneath::open_dir(self.beside(beside), format!("{tenant}/{task}").as_bytes())
    }

    /// The same; made if it is not there.
    pub(super) fn make_beside(&self, beside: Beside, task: (TenantId, TaskId)) -> rustix::io::Result<OwnedFd> {
        match self.open_beside(beside, task) {
            Err(Errno::NOENT) => {
                let (tenant, id) = (task.0.to_string(), task.1.to_string());
                make_durable(self.beside(beside), &tenant)?;
                let parent = beneath::open_dir(self.beside(beside), tenant.as_bytes())?;
                make_durable(parent.as_fd(), &id)?;
                self.open_beside(beside, task)
            }
            result => result,
        }
    }

    /// Removes the workspace of a task, and what lies beside it.
    pub(super) fn remove(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        for parent in [self.workspaces.as_fd(), self.deleted.as_fd(), self.uploads.as_fd()] {
            self.remove_from(parent, tenant, task)?;
        }
        Ok(())
    }

    fn remove_from(&self, all: BorrowedFd<'_>, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        let parent = match beneath::open_dir(all, tenant.to_string().as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            result => result.map_err(error::host)?,
        };
        match discard(parent.as_fd(), task.to_string().as_bytes(), &self.trash) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error::host(errno)),
            Ok(bin) => {
                rustix::fs::fsync(&parent).map_err(error::host)?;
                bin.empty().map(drop).map_err(error::host)
            }
        }
    }
}

fn make_durable(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(parent),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Moves a tree out of sight at once, into a bin that removes it when dropped.
pub(super) fn discard(parent: BorrowedFd<'_>, name: &[u8], trash: &Arc<Scratch>) -> rustix::io::Result<Temporary> {
    let bin = trash.bin()?;
    let dir = beneath::open_dir(bin.directory(), bin.name().as_bytes())?;
    let moved = match rustix::fs::renameat(parent, name, &dir, IN_BIN) {
        // Moving a directory writes its `..`, which its owner may have forbidden.
        Err(Errno::ACCESS) => {
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            remove::unlock(parent, &name)?;
            rustix::fs::renameat(parent, &*name, &dir, IN_BIN)
        }
        result => result,
    };
    moved.map(|()| bin)
}
