//! Writing files: the body goes into a file that no guest sees, is written to
//! the disk, and takes its place by one rename. Readers see the old content or
//! the new; a body that breaks off changes nothing; what was acknowledged
//! survives a crash.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{ByteStream, WorkspaceError, Written};
use bytes::BytesMut;
use rustix::fs::{FileType, RenameFlags, Stat};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;

use crate::gate::Gate;
use crate::scratch::{Scratch, Temporary};
use crate::{beneath, error};

/// Bytes held in memory for one upload; as for reading.
const CHUNK: usize = 256 * 1024;

/// Where a file is to be written, and how.
pub(super) struct Target {
    pub(super) root: Arc<OwnedFd>,
    pub(super) path: WorkspacePath,
    pub(super) replace: bool,
    pub(super) executable: Option<bool>,
}

/// A body on its way.
pub(super) struct Upload {
    file: Arc<OwnedFd>,
    temporary: Temporary,
    size: u64,
}

impl Target {
    /// Refuses what can't succeed before the body is sent, and makes the file
    /// that it goes into. Decides nothing: the rename does.
    pub(super) fn begin(&self, staging: &Arc<Scratch>) -> Result<Upload, WorkspaceError> {
        let Some(parent) = self.path.parent() else {
            return Err(WorkspaceError::BadPath { path: String::new(), reason: "the workspace itself is no file" });
        };
        match beneath::look(self.root.as_fd(), self.path.as_bytes()).and_then(rustix::fs::fstat) {
            Ok(stat) => self.may_replace(&stat)?,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => return Err(WorkspaceError::NotADirectory(parent.to_text())),
            Err(errno) => return Err(error::at(&self.path)(errno)),
        }
        let (file, temporary) = staging.file().map_err(error::host)?;
        Ok(Upload { file: Arc::new(file), temporary, size: 0 })
    }

    fn may_replace(&self, stat: &Stat) -> Result<(), WorkspaceError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Err(WorkspaceError::IsADirectory(self.path.to_text())),
            FileType::RegularFile if self.replace => Ok(()),
            FileType::RegularFile => Err(WorkspaceError::Exists(self.path.to_text())),
            _ => Err(WorkspaceError::NotRegular(self.path.to_text())),
        }
    }

    /// Puts a complete body in its place.
    pub(super) fn finish(&self, upload: Upload) -> Result<Written, WorkspaceError> {
        let parent = self.path.parent().unwrap_or_default();
        upload.set_executable(self.executable.unwrap_or(false))?;
        rustix::fs::fsync(&upload.file).map_err(error::host)?;
        let dir = beneath::make_dirs(self.root.as_fd(), parent.as_bytes(), true).map_err(error::making(&parent))?.dir;
        let created = match upload.move_to(dir.as_fd(), &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => true,
            Err(Errno::EXIST) if self.replace => {
                self.replace_in(dir.as_fd(), &upload)?;
                false
            }
            Err(errno) => return Err(error::at(&self.path)(errno)),
        };
        rustix::fs::fsync(&dir).map_err(error::host)?;
        let size = upload.size;
        upload.temporary.keep();
        Ok(Written { created, size })
    }

    fn replace_in(&self, dir: BorrowedFd<'_>, upload: &Upload) -> Result<(), WorkspaceError> {
        match beneath::stat_at(dir, self.path.name()) {
            Ok(old) => {
                self.may_replace(&old)?;
                if self.executable.is_none() && beneath::is_executable(&old) {
                    upload.set_executable(true)?;
                    rustix::fs::fsync(&upload.file).map_err(error::host)?;
                }
            }
            // It went this moment; nothing stands in the way of the rename.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(error::at(&self.path)(errno)),
        }
        upload.move_to(dir, &self.path, RenameFlags::empty()).map_err(error::at(&self.path))
    }
}

impl Upload {
    /// Takes the whole body, at most `max_bytes`.
    pub(super) async fn fill(
        mut self,
        gate: &Gate,
        mut body: ByteStream,
        max_bytes: u64,
    ) -> Result<Self, WorkspaceError> {
        let mut ended = false;
        while !ended {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            while chunk.len() < CHUNK && !ended {
                let read = body.read_buf(&mut chunk).await.map_err(|_| WorkspaceError::BrokenOff)?;
                ended = read == 0;
                self.size = self.size.saturating_add(read as u64);
                if self.size > max_bytes {
                    return Err(WorkspaceError::OverLimit { what: "the file", limit: max_bytes });
                }
            }
            let file = Arc::clone(&self.file);
            gate.run(move || write_all(file.as_fd(), &chunk).map_err(error::host)).await?;
        }
        Ok(self)
    }

    fn set_executable(&self, executable: bool) -> Result<(), WorkspaceError> {
        let mode = if executable { beneath::EXECUTABLE_MODE } else { beneath::FILE_MODE };
        rustix::fs::fchmod(&self.file, mode).map_err(error::host)
    }

    fn move_to(&self, dir: BorrowedFd<'_>, path: &WorkspacePath, flags: RenameFlags) -> rustix::io::Result<()> {
        let from = &self.temporary;
        rustix::fs::renameat_with(from.directory(), from.name(), dir, path.name(), flags)
    }
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
