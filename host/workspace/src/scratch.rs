//! A private directory for what is half made or half removed: uploads,
//! checkouts, trees on their way out. It lies on the filesystem of the
//! workspaces, so that a rename moves things in and out at once, and outside of
//! every workspace, so that no guest sees or touches them.
//!
//! Each process has its own below the common one and holds a lock on it. So a
//! server that starts can remove what crashed ones left behind without touching
//! what one that is still draining needs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode};
use rustix::io::Errno;

use crate::{beneath, remove};

/// How many processes with one number may have left a directory behind.
const NAMES: u32 = 10_000;

/// This process's private directory.
#[derive(Debug)]
pub(crate) struct Scratch {
    common: OwnedFd,
    dir: OwnedFd,
    name: String,
    path: PathBuf,
    next: AtomicU64,
}

impl Scratch {
    /// Makes one below `common`, and removes those of processes that are gone.
    pub(crate) fn open(common: &Path) -> io::Result<Arc<Self>> {
        make_private(common)?;
        let fd = rustix::fs::open(common, beneath_dir_flags(), Mode::empty())?;
        // Held only while directories are made and told apart.
        rustix::fs::flock(&fd, FlockOperation::LockExclusive)?;
        let (name, dir) = make_own(fd.as_fd())?;
        adopt_leftovers(fd.as_fd(), dir.as_fd(), &name)?;
        rustix::fs::flock(&fd, FlockOperation::Unlock)?;
        if let Err(error) = remove::empty(dir.as_fd()) {
            tracing::warn!(%error, directory = %common.display(), "leftovers of an earlier run could not be removed");
        }
        let path = common.join(&name);
        Ok(Arc::new(Self { common: fd, dir, name, path, next: AtomicU64::new(0) }))
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn fresh(&self) -> String {
        format!("x{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A new empty file, readable by nobody else. It goes when dropped.
    pub(crate) fn file(self: &Arc<Self>) -> rustix::io::Result<(OwnedFd, Temporary)> {
        let name = self.fresh();
        let file = beneath::create_file(self.dir(), name.as_bytes())?;
        Ok((file, Temporary { scratch: Arc::clone(self), name, kind: Kind::File }))
    }

    /// A new empty directory. It goes when dropped, with what is in it.
    pub(crate) fn bin(self: &Arc<Self>) -> rustix::io::Result<Temporary> {
        let name = self.fresh();
        rustix::fs::mkdirat(&self.dir, &name, Mode::RWXU)?;
        Ok(Temporary { scratch: Arc::clone(self), name, kind: Kind::Bin })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Fails if something is left in it; then the next start removes it.
        let _ = rustix::fs::unlinkat(&self.common, &self.name, AtFlags::REMOVEDIR);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Bin,
    Gone,
}

/// A file or directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    scratch: Arc<Scratch>,
    name: String,
    kind: Kind,
}

impl Temporary {
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.scratch.dir()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path.join(&self.name)
    }

    /// Forgets it: it was moved away.
    pub(crate) fn keep(mut self) {
        self.kind = Kind::Gone;
    }

    /// Removes what is in a bin now, and says how many entries went.
    pub(crate) fn empty(&self) -> rustix::io::Result<u64> {
        let bin = beneath::open_dir(self.directory(), self.name.as_bytes())?;
        remove::empty(bin.as_fd())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let (scratch, name, kind) = (Arc::clone(&self.scratch), std::mem::take(&mut self.name), self.kind);
        if kind == Kind::Gone {
            return;
        }
        // What can't be removed now is removed by the next start.
        let job = move || {
            let this = Self { scratch, name, kind: Kind::Gone };
            let mut flags = AtFlags::empty();
            if kind == Kind::Bin {
                if let Err(error) = this.empty() {
                    tracing::warn!(%error, "a tree could not be removed; the next start tries again");
                }
                flags = AtFlags::REMOVEDIR;
            }
            let _ = rustix::fs::unlinkat(this.directory(), &this.name, flags);
        };
        // A dropped request is dropped on a thread that must not wait for a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(job)),
            Err(_) => job(),
        }
    }
}

fn beneath_dir_flags() -> rustix::fs::OFlags {
    use rustix::fs::OFlags;
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Makes a directory that only this user can enter; fine if it is there.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn make_own(common: BorrowedFd<'_>) -> rustix::io::Result<(String, OwnedFd)> {
    for n in 0..NAMES {
        let name = format!("{}-{n}", std::process::id());
        match rustix::fs::mkdirat(common, &name, Mode::RWXU) {
            Ok(()) => {
                let dir = beneath::open_dir(common, name.as_bytes())?;
                rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
                return Ok((name, dir));
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

/// Moves what nobody has locked into `own`, to be removed there.
fn adopt_leftovers(common: BorrowedFd<'_>, own: BorrowedFd<'_>, own_name: &str) -> rustix::io::Result<()> {
    let mut names: Vec<CString> = Vec::new();
    let mut entries = Dir::read_from(common)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        if !remove::is_dots(entry.file_name()) && entry.file_name().to_bytes() != own_name.as_bytes() {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        let lock = beneath::open_dir(common, name.to_bytes());
        let taken =
            lock.as_ref().is_ok_and(|dir| rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive).is_err());
        if !taken {
            rustix::fs::renameat(common, &*name, own, &*name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "scratch_tests.rs"]
mod tests;
