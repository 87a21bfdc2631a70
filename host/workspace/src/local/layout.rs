//! The data directory: where workspaces lie, how they come and go.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::archive::Place;
use bulkhead_core::ports::workspace::WorkspaceError;
use bulkhead_core::quota::Extent;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::project::{KernelQuota, Projects, keeping};
use crate::scratch::{Scratch, Temporary, make_private};
use crate::{beneath, error, remove};

/// What a tenant's directory may have beside its workspaces, where the kernel bounds
/// them: itself, and workspaces in the moment they are made.
const BESIDE: Extent = Extent { bytes: 64 << 20, entries: 1_024 };

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
pub(crate) struct Layout {
    workspaces: OwnedFd,
    archives: OwnedFd,
    deleted: OwnedFd,
    uploads: OwnedFd,
    /// Held while something gets a name, or loses it, that a condition may be about.
    naming: Mutex<()>,
    /// Uploads that are not complete yet.
    pub(crate) staging: Arc<Scratch>,
    /// What is on its way out.
    pub(super) trash: Arc<Scratch>,
    /// The kernel's quotas, if they are used.
    projects: Option<Projects>,
}

impl Layout {
    pub(super) fn open(root: &Path, kernel_quota: KernelQuota) -> io::Result<Self> {
        make_private(root)?;
        for name in ["workspaces", "archives", "deleted", "uploads"] {
            make_private(&root.join(name))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The operator may have made the data directory a link; that is theirs.
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        let projects = match kernel_quota {
            KernelQuota::Off => None,
            wanted => match (wanted, Projects::of(fd.as_fd())) {
                (_, Ok(projects)) => Some(projects),
                (KernelQuota::Required, Err(why)) => {
                    let why =
                        format!("`quota.kernel` is `required`, and the kernel can't bound workspaces here: {why}");
                    return Err(io::Error::other(why));
                }
                (_, Err(why)) => {
                    tracing::info!(%why, "the kernel bounds no workspace; the server measures them");
                    None
                }
            },
        };
        Ok(Self {
            workspaces: beneath::open_dir(fd.as_fd(), b"workspaces")?,
            archives: beneath::open_dir(fd.as_fd(), b"archives")?,
            deleted: beneath::open_dir(fd.as_fd(), b"deleted")?,
            uploads: beneath::open_dir(fd.as_fd(), b"uploads")?,
            naming: Mutex::default(),
            staging: Scratch::open(&root.join("staging"))?,
            trash: Scratch::open(&root.join("trash"))?,
            projects,
        })
    }

    /// The directory of a tenant's workspaces; made if it is not there.
    pub(super) fn domain(&self, tenant: TenantId) -> Result<OwnedFd, WorkspaceError> {
        let tenant = tenant.to_string();
        make_durable(self.workspaces.as_fd(), &tenant).map_err(error::host)?;
        let domain = beneath::open_dir(self.workspaces.as_fd(), tenant.as_bytes()).map_err(error::host)?;
        if let Some(projects) = &self.projects {
            // A worker reaches it, and makes nothing there that is not a workspace's.
            projects.found(domain.as_fd(), self.workspaces.as_fd(), BESIDE).map_err(error::host)?;
        }
        Ok(domain)
    }

    /// Makes a workspace, which may have `most`.
    pub(super) fn create(&self, tenant: TenantId, task: TaskId, most: Extent) -> Result<(), WorkspaceError> {
        let dir = self.domain(tenant)?;
        make_durable(dir.as_fd(), &task.to_string()).map_err(error::host)?;
        if let Some(projects) = &self.projects {
            let workspace = beneath::open_dir(dir.as_fd(), task.to_string().as_bytes()).map_err(error::host)?;
            projects.found(workspace.as_fd(), dir.as_fd(), most).map_err(error::host)?;
        }
        Ok(())
    }

    /// Whether the kernel bounds workspaces.
    pub(super) fn has_kernel_quota(&self) -> bool {
        self.projects.is_some()
    }

    /// The kernel's bound of what lies here, if it has one.
    #[cfg(test)]
    pub(super) fn bound(&self, of: BorrowedFd<'_>) -> Option<super::project::Bound> {
        self.projects.as_ref()?.bound(of).expect("can be read")
    }

    pub(crate) fn open_workspace(&self, tenant: TenantId, task: TaskId) -> Result<OwnedFd, WorkspaceError> {
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

    /// Removes a workspace, what it was packed into, and what lies beside it.
    pub(super) fn remove(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        // Kept open until nothing needs its project any more.
        let domain = beneath::open_dir(self.workspaces.as_fd(), tenant.to_string().as_bytes());
        let own = self.projects.as_ref().map(|projects| (projects, self.open_workspace(tenant, task), domain));
        for parent in [self.workspaces.as_fd(), self.deleted.as_fd(), self.uploads.as_fd()] {
            self.remove_from(parent, tenant, task)?;
        }
        self.remove_archive(tenant, task)?;
        if let Some((projects, Ok(own), Ok(domain))) = own {
            projects.release(own.as_fd(), domain.as_fd());
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

    /// An empty directory in which a workspace can be made, which may have `most`, and the
    /// bin it is in.
    pub(crate) fn nursery(&self, most: Extent) -> Result<(OwnedFd, Temporary), WorkspaceError> {
        let bin = self.staging.bin().map_err(error::host)?;
        let dir = beneath::open_dir(bin.directory(), bin.name().as_bytes()).map_err(error::host)?;
        rustix::fs::mkdirat(&dir, IN_BIN, Mode::RWXU).map_err(error::host)?;
        let root = beneath::open_dir(dir.as_fd(), IN_BIN.as_bytes()).map_err(error::host)?;
        if let Some(projects) = &self.projects {
            projects.found(root.as_fd(), dir.as_fd(), most).map_err(error::host)?;
        }
        Ok((root, bin))
    }

    /// Makes what lies in a nursery the workspace of a task, which has none.
    pub(crate) fn move_in(&self, tenant: TenantId, task: TaskId, bin: &Temporary) -> Result<(), WorkspaceError> {
        let parent = self.domain(tenant)?;
        let dir = beneath::open_dir(bin.directory(), bin.name().as_bytes()).map_err(error::host)?;
        let name = task.to_string();
        let root = beneath::open_dir(dir.as_fd(), IN_BIN.as_bytes()).map_err(error::host)?;
        let moves = || rustix::fs::renameat_with(&dir, IN_BIN, &parent, &name, RenameFlags::NOREPLACE);
        keeping(parent.as_fd(), root.as_fd(), moves).map_err(error::host)?;
        rustix::fs::fsync(&parent).map_err(error::host)
    }

    /// Makes a file that is whole the archive of a task, then removes the
    /// directory. How many bytes the archive has; none if it was to stop, and nothing
    /// was done: on a volume of several hosts another may have the workspace by then.
    pub(crate) fn keep_archive(
        &self,
        tenant: TenantId,
        task: TaskId,
        file: BorrowedFd<'_>,
        temporary: Temporary,
        stop: &CancellationToken,
    ) -> Result<Option<u64>, WorkspaceError> {
        let workspace = self.open_workspace(tenant, task)?;
        rustix::fs::fsync(file).map_err(error::host)?;
        let stat = rustix::fs::fstat(file).map_err(error::host)?;
        make_durable(self.archives.as_fd(), &tenant.to_string()).map_err(error::host)?;
        let parent = beneath::open_dir(self.archives.as_fd(), tenant.to_string().as_bytes()).map_err(error::host)?;
        let name = archive_name(task);
        if stop.is_cancelled() {
            return Ok(None);
        }
        rustix::fs::renameat(temporary.directory(), temporary.name(), &parent, &name).map_err(error::host)?;
        temporary.keep();
        rustix::fs::fsync(&parent).map_err(error::host)?;
        self.remove_from(self.workspaces.as_fd(), tenant, task)?;
        if let Some(projects) = &self.projects {
            projects.release(workspace.as_fd(), self.domain(tenant)?.as_fd());
        }
        Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
    }

    pub(crate) fn open_archive(&self, tenant: TenantId, task: TaskId) -> Result<OwnedFd, WorkspaceError> {
        let path = format!("{tenant}/{}", archive_name(task));
        let opened = beneath::open_file(self.archives.as_fd(), path.as_bytes());
        opened.map(|opened| opened.file).map_err(error::at(&WorkspacePath::root()))
    }

    pub(crate) fn remove_archive(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        let parent = match beneath::open_dir(self.archives.as_fd(), tenant.to_string().as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            result => result.map_err(error::host)?,
        };
        match rustix::fs::unlinkat(&parent, archive_name(task), AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&parent).map_err(error::host),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error::host(errno)),
        }
    }

    /// What lies here of the first tenant after this one.
    pub(crate) fn found(&self, after: Option<TenantId>) -> Result<Option<(TenantId, Vec<TaskId>)>, WorkspaceError> {
        let mut tenants: BTreeSet<TenantId> = BTreeSet::new();
        for dir in [&self.workspaces, &self.archives, &self.deleted, &self.uploads] {
            tenants.extend(ids::<TenantId>(dir.as_fd(), "").map_err(error::host)?);
        }
        let Some(tenant) = tenants.into_iter().find(|tenant| after.is_none_or(|after| *tenant > after)) else {
            return Ok(None);
        };
        let mut tasks = BTreeSet::new();
        let all = [(&self.workspaces, ""), (&self.archives, ".tar.gz"), (&self.deleted, ""), (&self.uploads, "")];
        for (dir, suffix) in all {
            match beneath::open_dir(dir.as_fd(), tenant.to_string().as_bytes()) {
                Ok(dir) => tasks.extend(ids::<TaskId>(dir.as_fd(), suffix).map_err(error::host)?),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(error::host(errno)),
            }
        }
        Ok(Some((tenant, tasks.into_iter().collect())))
    }

    /// Where a workspace is.
    pub(crate) fn place(&self, tenant: TenantId, task: TaskId) -> Result<Place, WorkspaceError> {
        let is_there = |result: rustix::io::Result<Stat>| match result {
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(error::host(errno)),
        };
        let directory = beneath::look(self.workspaces.as_fd(), format!("{tenant}/{task}").as_bytes());
        if is_there(directory.and_then(rustix::fs::fstat))?.is_some() {
            return Ok(Place::Directory);
        }
        let archive = beneath::look(self.archives.as_fd(), format!("{tenant}/{}", archive_name(task)).as_bytes());
        Ok(match is_there(archive.and_then(rustix::fs::fstat))? {
            Some(bytes) => Place::Archive { bytes },
            None => Place::Nowhere,
        })
    }
}

/// The entries of a directory whose names are ids, with this suffix.
fn ids<T: FromStr>(dir: BorrowedFd<'_>, suffix: &str) -> rustix::io::Result<Vec<T>> {
    let mut ids = Vec::new();
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(suffix));
        // Nothing else is made here; what is there is somebody's who knows why.
        ids.extend(name.and_then(|name| name.parse().ok()));
    }
    Ok(ids)
}

fn archive_name(task: TaskId) -> String {
    format!("{task}.tar.gz")
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
