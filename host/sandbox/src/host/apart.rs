//! A user of its own for each worker (decision 0040).
//!
//! A server that is root has workers whose files are root's; what keeps them from all
//! others is Landlock and a root directory. With a user of its own a worker owns nothing.
//! So that workspaces are still its own, and stay the server's on the disk, it gets them
//! through mounts of its own that map one owner to the other (`mount_setattr(2)`,
//! `MOUNT_ATTR_IDMAP`): of the directory that it may reach, and of the artefacts, which
//! it can only read. Neither hangs in any tree of files; what a worker is sent is opened
//! through them, and `..` leads out of none.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags, ResolveFlags, fcntl_getfl, fstat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{getegid, geteuid};

use super::pool::Pool;
use super::waiting::Process;
use crate::bounds::MAX_CONTROL;
use crate::wire::{FromWorker, Inbox, Outbox, Received, Socket, ToWorker, decode};

/// The first of the users that workers may be; a worker's process id is added, of which
/// Linux has four millions. Nobody gives these out: they lie beyond what systemd has for
/// containers, 1879048191 (its "Users, Groups, UIDs and GIDs").
const FIRST: u32 = 1_879_048_192;

/// Whether workers have users of their own.
pub(super) struct Apart {
    wanted: AtomicBool,
    /// One had: where it can be, it can be.
    worked: AtomicBool,
}

/// The user of one worker: its namespace, in which it has the server's name.
#[derive(Debug)]
pub(super) struct OwnUser(OwnedFd);

impl Apart {
    /// Only root can give users away.
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted: AtomicBool::new(wanted && geteuid().is_root()), worked: AtomicBool::new(false) }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Notes that a worker could not be given one. Where none ever could, no other is tried;
    /// what went wrong once takes it from that worker alone.
    fn failed(&self, error: &io::Error) {
        if self.worked.load(Relaxed) {
            tracing::warn!(%error, "a worker has the server's user: it could not be given its own");
        } else if self.wanted.swap(false, Relaxed) {
            tracing::info!(%error, "workers have the server's user from now on: they can't be given their own");
        }
    }

    /// Gives a process that was just started a user of its own; false if it is of no use any more.
    pub(super) async fn give(&self, process: &mut Process, timeout: Duration) -> bool {
        self.settle(process, timeout).await.inspect_err(|error| self.failed(error)).is_ok()
    }

    /// Gives a process that was just started a user of its own. One that can't leave the
    /// server's stays as it was, and so does one that ended: who binds it will see.
    ///
    /// # Errors
    /// If it left that user for none: then it is of no use.
    async fn settle(&self, process: &mut Process, timeout: Duration) -> io::Result<()> {
        let Some(pid) = process.child.id() else { return Ok(()) };
        let socket = Socket::new(process.socket.try_clone()?)?;
        let mut outbox = Outbox::default();
        outbox.push(0, &ToWorker::Leave);
        socket.send(&mut outbox)?;
        match tokio::time::timeout(timeout, left(&socket)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                self.failed(&io::Error::other("a process of this server can't make a user namespace"));
                return Ok(());
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        process.user = Some(OwnUser::give(pid)?);
        outbox.push(0, &ToWorker::Settled);
        socket.send(&mut outbox)?;
        Ok(())
    }
}

/// Waits until a worker says whether it left its user, which is all it may say.
async fn left(socket: &Socket) -> io::Result<bool> {
    let mut inbox = Inbox::default();
    loop {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        if let Some((call, body)) = inbox.next(|_| MAX_CONTROL).map_err(|error| invalid(error.to_string()))? {
            return match decode(call, body).map_err(|error| invalid(error.to_string()))? {
                FromWorker::Left(left) => Ok(left),
                _ => Err(invalid("it says something else".into())),
            };
        }
        socket.readable().await?;
        // A worker sends no descriptor.
        if let Received::End = socket.recv(&mut inbox, None)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl OwnUser {
    /// Says who a process is that is in a user namespace of its own.
    fn give(pid: u32) -> io::Result<Self> {
        let user = FIRST.checked_add(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let of = |name: &str| format!("/proc/{pid}/{name}");
        // One write each: the kernel takes no second.
        let map = |name: &str, inside: u32| {
            File::options().write(true).open(of(name))?.write_all(format!("{inside} {user} 1").as_bytes())
        };
        map("uid_map", geteuid().as_raw())?;
        map("gid_map", getegid().as_raw())?;
        Ok(Self(File::open(of("ns/user"))?.into()))
    }
}

/// How a worker with a user of its own sees files.
pub(super) struct View {
    artifacts: Mapped,
    domain: Option<Mapped>,
}

/// A directory, and the same one in a mount that says it is a worker's.
struct Mapped {
    path: PathBuf,
    root: Arc<OwnedFd>,
}

/// Whether a worker with a user of its own could write to a directory: what is somebody
/// else's, or of another group, is so in its view, too.
///
/// # Errors
/// If not, and why.
pub(super) fn is_ours(directory: &OwnedFd) -> io::Result<()> {
    let found = fstat(directory)?;
    let (owner, group) = (geteuid().as_raw(), getegid().as_raw());
    if (found.st_uid, found.st_gid) == (owner, group) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} belongs to user {} and group {}, not to the server's, {owner} and {group}",
        path_of(directory.as_fd())?.display(),
        found.st_uid,
        found.st_gid
    )))
}

impl View {
    /// # Errors
    /// If the kernel or the file system can't map owners.
    pub(super) fn new(user: &OwnUser, artifacts: &OwnedFd, domain: Option<&Arc<OwnedFd>>) -> io::Result<Self> {
        Ok(Self {
            artifacts: Mapped::new(artifacts, user, libc::MOUNT_ATTR_RDONLY)?,
            domain: domain.map(|domain| Mapped::new(domain, user, libc::MOUNT_ATTR_NOEXEC)).transpose()?,
        })
    }

    /// The directory of artefacts and the one that it may reach.
    pub(super) fn roots(&self) -> (Arc<OwnedFd>, Option<Arc<OwnedFd>>) {
        (self.artifacts.root.clone(), self.domain.as_ref().map(|domain| domain.root.clone()))
    }

    /// A file or directory as the worker sees it: the very same. What lies outside of all
    /// that it may reach is what it was, and of no use to it.
    pub(super) fn of(&self, file: &Arc<OwnedFd>) -> Arc<OwnedFd> {
        let seen = path_of(file.as_fd()).and_then(|path| {
            let inside = std::iter::once(&self.artifacts).chain(&self.domain);
            let mapped = inside.filter_map(|mapped| Some((mapped, path.strip_prefix(&mapped.path).ok()?))).next();
            let (mapped, below) = mapped.ok_or(io::ErrorKind::NotFound)?;
            mapped.open(below, file)
        });
        seen.map_or_else(
            |error| {
                tracing::debug!(%error, "a worker is sent what it can't reach");
                file.clone()
            },
            Arc::new,
        )
    }
}

impl Mapped {
    fn new(directory: &OwnedFd, user: &OwnUser, attributes: u64) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(directory, "", flags)?;
        map_owner(root.as_fd(), user.0.as_fd(), attributes)?;
        Ok(Self { path: path_of(directory.as_fd())?, root: Arc::new(root) })
    }

    /// Opens what lies at a path below, if it is `file`.
    fn open(&self, below: &Path, file: &OwnedFd) -> io::Result<OwnedFd> {
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let flags = fcntl_getfl(file)? & (OFlags::PATH | OFlags::RWMODE | OFlags::DIRECTORY);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&self.root, below, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)?;
        let (ours, theirs) = (fstat(file)?, fstat(&opened)?);
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
            Ok(opened)
        } else {
            Err(io::Error::other("another file has its name by now"))
        }
    }
}

impl Pool {
    /// A process, and how it sees the directories that it may reach if its user is not ours.
    pub(super) async fn process_for(
        self: &Arc<Self>,
        domain: Option<&Arc<OwnedFd>>,
    ) -> io::Result<(Process, Option<View>)> {
        if self.apart.is_wanted()
            && let Some(Err(error)) = domain.map(|domain| is_ours(domain))
        {
            tracing::warn!(%error, "a worker has the server's user: with its own it could write nothing there");
            return Ok((self.spawn_process(false).await?, None));
        }
        let process = self.process().await?;
        let Some(user) = &process.user else { return Ok((process, None)) };
        match View::new(user, &self.artifacts, domain) {
            Ok(view) => {
                self.apart.worked.store(true, Relaxed);
                Ok((process, Some(view)))
            }
            Err(error) => {
                self.apart.failed(&error);
                // It has nothing of anybody's yet.
                Ok((self.spawn_process(false).await?, None))
            }
        }
    }
}

/// Where a file lies, for this process.
fn path_of(file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Says that what is the server's in a mount is a user's (`mount_setattr(2)`).
#[expect(unsafe_code, reason = "no library has a wrapper of this call; the proof is beside it")]
fn map_owner(mount: BorrowedFd<'_>, user: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let no_special = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let wanted = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | no_special | attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user.as_raw_fd()).map_err(io::Error::other)?,
    };
    // SAFETY: the call reads a string that ends with zero and a structure of the size that
    // it is told, both of which live longer, and writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of_val(&wanted),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_once_is_taken_from_no_other() {
        let apart = Apart { wanted: AtomicBool::new(true), worked: AtomicBool::new(true) };
        apart.failed(&io::ErrorKind::TimedOut.into());
        assert!(apart.is_wanted());
        apart.worked.store(false, Relaxed);
        apart.failed(&io::ErrorKind::TimedOut.into());
        assert!(!apart.is_wanted());
    }
}
