//! Writing files: the body goes into a file that no guest sees, is written to
//! the disk, and takes its place by one rename. Readers see the old content or
//! the new; a body that breaks off, or is not what was said, changes nothing; what
//! was acknowledged survives a crash.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bulkhead_core::digest::Digest;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{ByteStream, WorkspaceError, WriteOptions, Written};
use bytes::BytesMut;
use rustix::fs::{FileType, RenameFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;

use super::layout::Layout;
use super::list::etag;
use super::project::adopt;
use crate::gate::Gate;
use crate::scratch::{Scratch, Temporary};
use crate::{beneath, error};

/// Bytes held in memory for one upload; as for reading.
pub(super) const CHUNK: usize = 256 * 1024;

/// Where a file is to be written, and how.
pub(super) struct Target {
    pub(super) root: Arc<OwnedFd>,
    pub(super) path: WorkspacePath,
    pub(super) options: WriteOptions,
}

/// A whole content, outside of what guests see, that is to take its place.
pub(super) struct Ready<'a> {
    /// It.
    pub(super) file: BorrowedFd<'a>,
    /// The directory that it lies in, and its name there.
    pub(super) at: (BorrowedFd<'a>, &'a str),
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// A body on its way.
pub(super) struct Upload {
    file: Arc<OwnedFd>,
    temporary: Temporary,
    size: u64,
    hash: Sha256,
}

impl Target {
    /// Refuses what can't succeed before the body is sent. Decides nothing: the
    /// rename does.
    pub(super) fn check(&self) -> Result<(), WorkspaceError> {
        let Some(parent) = self.path.parent() else {
            return Err(WorkspaceError::BadPath { path: String::new(), reason: "the workspace itself is no file" });
        };
        match beneath::look(self.root.as_fd(), self.path.as_bytes()).and_then(rustix::fs::fstat) {
            Ok(stat) => self.may_replace(&stat),
            Err(Errno::NOENT) => self.hold(None),
            Err(Errno::NOTDIR) => Err(WorkspaceError::NotADirectory(parent.to_text())),
            Err(errno) => Err(error::at(&self.path)(errno)),
        }
    }

    /// The same, and makes the file that the body goes into.
    pub(super) fn begin(&self, staging: &Arc<Scratch>) -> Result<Upload, WorkspaceError> {
        self.check()?;
        let (file, temporary) = staging.file().map_err(error::host)?;
        Ok(Upload { file: Arc::new(file), temporary, size: 0, hash: Sha256::new() })
    }

    fn may_replace(&self, stat: &Stat) -> Result<(), WorkspaceError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Err(WorkspaceError::IsADirectory(self.path.to_text())),
            FileType::RegularFile => self.hold(Some(stat)),
            _ => Err(WorkspaceError::NotRegular(self.path.to_text())),
        }
    }

    fn hold(&self, current: Option<&Stat>) -> Result<(), WorkspaceError> {
        let current = current.map(etag);
        let refused = || WorkspaceError::Precondition(self.path.to_text());
        self.options.conditions.hold(current.as_deref()).then_some(()).ok_or_else(refused)
    }

    /// Puts a complete content in its place.
    pub(super) fn finish(&self, layout: &Layout, ready: &Ready<'_>) -> Result<Written, WorkspaceError> {
        if self.options.digest.is_some_and(|said| said != ready.digest) {
            return Err(WorkspaceError::DigestMismatch { found: ready.digest });
        }
        let parent = self.path.parent().unwrap_or_default();
        set_executable(ready.file, self.options.executable.unwrap_or(false))?;
        rustix::fs::fsync(ready.file).map_err(error::host)?;
        let dir = beneath::make_dirs(self.root.as_fd(), parent.as_bytes(), true).map_err(error::making(&parent))?.dir;
        adopt(dir.as_fd(), ready.file).map_err(error::host)?;
        let created = {
            // Nobody else of this host names anything between the look and the rename.
            let _alone = layout.naming();
            self.put(dir.as_fd(), ready)?
        };
        rustix::fs::fsync(&dir).map_err(error::host)?;
        // The rename is in it; what a guest has changed since, too.
        let stat = rustix::fs::fstat(ready.file).map_err(error::host)?;
        Ok(Written { created, size: ready.size, digest: ready.digest, etag: etag(&stat) })
    }

    /// Whether it is new.
    fn put(&self, dir: BorrowedFd<'_>, ready: &Ready<'_>) -> Result<bool, WorkspaceError> {
        let (from, name) = ready.at;
        let flags = match beneath::stat_at(dir, self.path.name()) {
            Ok(old) => {
                self.may_replace(&old)?;
                if self.options.executable.is_none() && beneath::is_executable(&old) {
                    set_executable(ready.file, true)?;
                    rustix::fs::fsync(ready.file).map_err(error::host)?;
                }
                RenameFlags::empty()
            }
            Err(Errno::NOENT) => {
                self.hold(None)?;
                RenameFlags::NOREPLACE
            }
            Err(errno) => return Err(error::at(&self.path)(errno)),
        };
        match rustix::fs::renameat_with(from, name, dir, self.path.name(), flags) {
            Ok(()) => Ok(flags.contains(RenameFlags::NOREPLACE)),
            // A guest was faster: what it made is looked at like any other.
            Err(Errno::EXIST) => {
                let old = beneath::stat_at(dir, self.path.name()).map_err(error::at(&self.path))?;
                self.may_replace(&old)?;
                let renamed = rustix::fs::renameat(from, name, dir, self.path.name());
                renamed.map(|()| false).map_err(error::at(&self.path))
            }
            Err(errno) => Err(error::at(&self.path)(errno)),
        }
    }
}

impl Upload {
    /// Takes the whole body, at most `max_bytes`.
    pub(super) async fn fill(mut self, gate: &Gate, body: ByteStream, max_bytes: u64) -> Result<Self, WorkspaceError> {
        (self.size, self.hash) = pour(gate, &self.file, body, max_bytes).await?;
        Ok(self)
    }

    /// Takes the content of another file, at most `max_bytes`, and hashes what it got:
    /// the other one may be a guest's, this one is not.
    pub(super) fn fill_from(
        mut self,
        source: (BorrowedFd<'_>, &WorkspacePath),
        max_bytes: u64,
    ) -> Result<Self, WorkspaceError> {
        let (root, path) = source;
        let found = beneath::open_file(root, path.as_bytes()).map_err(error::at_entry(path))?;
        self.size = super::copy::content(&found, self.file.as_fd(), max_bytes)?;
        self.hash = hash_of(self.file.as_fd(), self.size).map_err(error::host)?;
        Ok(self)
    }

    /// Puts it in its place.
    pub(super) fn finish(self, target: &Target, layout: &Layout) -> Result<Written, WorkspaceError> {
        let ready = Ready {
            file: self.file.as_fd(),
            at: (self.temporary.directory(), self.temporary.name()),
            size: self.size,
            digest: Digest::from_bytes(self.hash.finalize().into()),
        };
        let written = target.finish(layout, &ready)?;
        self.temporary.keep();
        Ok(written)
    }
}

/// Writes a whole body, at most `max_bytes`, into an empty file. How large it is, and
/// its hash.
pub(super) async fn pour(
    gate: &Gate,
    file: &Arc<OwnedFd>,
    mut body: ByteStream,
    max_bytes: u64,
) -> Result<(u64, Sha256), WorkspaceError> {
    let (mut size, mut hash, mut ended) = (0_u64, Sha256::new(), false);
    while !ended {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while chunk.len() < CHUNK && !ended {
            let read = body.read_buf(&mut chunk).await.map_err(|_| WorkspaceError::BrokenOff)?;
            ended = read == 0;
            size = size.saturating_add(read as u64);
            if size > max_bytes {
                return Err(WorkspaceError::OverLimit { what: "the file", limit: max_bytes });
            }
        }
        let file = Arc::clone(file);
        let added = gate.run(move || {
            hash.update(&chunk);
            write_all(file.as_fd(), &chunk).map_err(error::host).map(|()| hash)
        });
        hash = added.await?;
    }
    Ok((size, hash))
}

pub(super) fn set_executable(file: BorrowedFd<'_>, executable: bool) -> Result<(), WorkspaceError> {
    let mode = if executable { beneath::EXECUTABLE_MODE } else { beneath::FILE_MODE };
    rustix::fs::fchmod(file, mode).map_err(error::host)
}

/// Hashes the first `size` bytes of a file.
pub(super) fn hash_of(file: BorrowedFd<'_>, size: u64) -> rustix::io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let most = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        let read = match rustix::io::pread(file, buffer.get_mut(..most).unwrap_or_default(), at) {
            Ok(0) => return Err(Errno::IO),
            Err(Errno::INTR) => continue,
            result => result?,
        };
        hash.update(buffer.get(..read).unwrap_or_default());
        at += read as u64;
    }
    Ok(hash)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
