//! Copying an entry from one workspace into another. What is copied may change
//! meanwhile, and its guest may be hostile: each directory and file is opened below
//! the descriptor of the entry, no link is followed, and nothing that is no file,
//! directory or link is opened. The copy is made where no guest sees it, and comes
//! into its place by one rename.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{Copied, Copy, EntryKind, WorkspaceError};
use bulkhead_core::quota::Extent;
use rustix::fs::{Dir, RenameFlags};
use rustix::io::Errno;

use super::change::open_parent;
use super::layout::Layout;
use super::list::{etag, kind_of};
use super::project::adopt;
use super::write::{CHUNK, write_all};
use crate::beneath::RegularFile;
use crate::{beneath, error, remove};

/// The name under which the copy lies until it is whole.
pub(super) const NAME: &str = "copy";
/// Directories that wait for their turn; each is a path in memory.
const MAX_WAITING: usize = 100_000;

/// Copies what is asked for.
pub(super) fn copy(layout: &Layout, job: &Copy) -> Result<Copied, WorkspaceError> {
    let parent = open_parent(job.from_root.as_fd(), &job.from)?;
    open_parent_is_possible(&job.to)?;
    let staged = layout.staging.bin().map_err(error::host)?;
    let bin = beneath::open_dir(staged.directory(), staged.name().as_bytes()).map_err(error::host)?;
    adopt(job.to_root.as_fd(), bin.as_fd()).map_err(error::host)?;
    let mut copying = Copying { counted: Counted::within(job.room), left_out: 0 };
    let stat = beneath::stat_at(parent.as_fd(), job.from.name()).map_err(error::at(&job.from))?;
    let kind = kind_of(&stat);
    let within = |errno| error::at(&job.from)(errno);
    match kind {
        EntryKind::Other => return Err(WorkspaceError::NotRegular(job.from.to_text())),
        EntryKind::Directory => {
            let source = beneath::open_dir(parent.as_fd(), job.from.name()).map_err(within)?;
            copying.counted.entries(1)?;
            rustix::fs::mkdirat(&bin, NAME, beneath::DIRECTORY_MODE).map_err(error::host)?;
            let target = beneath::open_dir(bin.as_fd(), NAME.as_bytes()).map_err(error::host)?;
            copying.tree(&source, &target)?;
        }
        EntryKind::File | EntryKind::Symlink => {
            copying.one(parent.as_fd(), job.from.name(), bin.as_fd(), NAME.as_bytes(), kind).map_err(|failed| {
                match failed {
                    Failed::Source(errno) => within(errno),
                    Failed::Other(error) => error,
                }
            })?;
        }
    }
    // One call for all that was made, and not one for each of perhaps many small files.
    rustix::fs::syncfs(&bin).map_err(error::host)?;
    let created = put(layout, (job.to_root.as_fd(), &job.to, job.replace), bin.as_fd(), kind)?;
    // Of what was looked at before it was read: who writes meanwhile changes it.
    let source = (kind == EntryKind::File).then(|| etag(&stat));
    Ok(Copied { kind, extent: copying.counted.extent(), created, left_out: copying.left_out, source })
}

/// Copies a directory to a path where nothing is: what was counted before, so it has no
/// bound of its own.
pub(super) fn into(
    layout: &Layout,
    from: &OwnedFd,
    root: BorrowedFd<'_>,
    to: &WorkspacePath,
) -> Result<(), WorkspaceError> {
    let staged = layout.staging.bin().map_err(error::host)?;
    let bin = beneath::open_dir(staged.directory(), staged.name().as_bytes()).map_err(error::host)?;
    adopt(root, bin.as_fd()).map_err(error::host)?;
    let room = Extent { bytes: u64::MAX, entries: u64::MAX };
    let mut copying = Copying { counted: Counted::within(room), left_out: 0 };
    rustix::fs::mkdirat(&bin, NAME, beneath::DIRECTORY_MODE).map_err(error::host)?;
    copying.tree(from, &beneath::open_dir(bin.as_fd(), NAME.as_bytes()).map_err(error::host)?)?;
    rustix::fs::syncfs(&bin).map_err(error::host)?;
    put(layout, (root, to, false), bin.as_fd(), EntryKind::Directory).map(drop)
}

pub(super) fn open_parent_is_possible(to: &WorkspacePath) -> Result<(), WorkspaceError> {
    match to.is_root() {
        true => Err(WorkspaceError::BadPath { path: String::new(), reason: "it is the workspace itself" }),
        false => Ok(()),
    }
}

/// Moves the copy into its place: below a root, at a path, perhaps over a file that is
/// there. Whether nothing was.
pub(super) fn put(
    layout: &Layout,
    (root, to, replace): (BorrowedFd<'_>, &WorkspacePath, bool),
    bin: BorrowedFd<'_>,
    kind: EntryKind,
) -> Result<bool, WorkspaceError> {
    let parent = to.parent().unwrap_or_default();
    let dir = beneath::make_dirs(root, parent.as_bytes(), true).map_err(error::making(&parent))?.dir;
    let created = {
        let _alone = layout.naming();
        match rustix::fs::renameat_with(bin, NAME, &dir, to.name(), RenameFlags::NOREPLACE) {
            Ok(()) => true,
            // A directory is never replaced, nor replaces anything: what it holds would go.
            Err(Errno::EXIST) if replace && kind != EntryKind::Directory => {
                rustix::fs::renameat(bin, NAME, &dir, to.name()).map_err(error::at(to))?;
                false
            }
            Err(errno) => return Err(error::at(to)(errno)),
        }
    };
    rustix::fs::fsync(&dir).map_err(error::host)?;
    Ok(created)
}

/// Why one entry could not be copied.
enum Failed {
    /// It could not be read.
    Source(Errno),
    Other(WorkspaceError),
}

/// What a copy takes, and may take.
pub(super) struct Counted {
    room: Extent,
    extent: Extent,
}

impl Counted {
    /// Nothing yet.
    pub(super) fn within(room: Extent) -> Self {
        Self { room, extent: Extent::default() }
    }

    /// So many entries more.
    pub(super) fn entries(&mut self, entries: u64) -> Result<(), WorkspaceError> {
        self.extent.entries = self.extent.entries.saturating_add(entries);
        if self.extent.entries > self.room.entries {
            return Err(WorkspaceError::OverLimit { what: "the entries of the copy", limit: self.room.entries });
        }
        Ok(())
    }

    /// How many bytes there may be more.
    pub(super) fn bytes_left(&self) -> u64 {
        self.room.bytes.saturating_sub(self.extent.bytes)
    }

    /// So many bytes more, of those that were left.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.extent.bytes = self.extent.bytes.saturating_add(bytes);
    }

    /// It would have been more.
    pub(super) fn over_bytes(&self) -> WorkspaceError {
        WorkspaceError::OverLimit { what: "the bytes of the copy", limit: self.room.bytes }
    }

    /// What it takes.
    pub(super) fn extent(&self) -> Extent {
        self.extent
    }
}

struct Copying {
    counted: Counted,
    left_out: u64,
}

impl Copying {
    /// Copies what is in a directory, directory by directory: none is held open for
    /// those below it, however deep they lie.
    fn tree(&mut self, source: &OwnedFd, target: &OwnedFd) -> Result<(), WorkspaceError> {
        let mut waiting = vec![WorkspacePath::root()];
        while let Some(path) = waiting.pop() {
            let from = match beneath::open_dir(source.as_fd(), path.as_bytes()) {
                // It went, or was swapped for something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                result => result.map_err(error::at(&path))?,
            };
            let to = beneath::open_dir(target.as_fd(), path.as_bytes()).map_err(error::host)?;
            let mut entries = Dir::read_from(&from).map_err(error::at(&path))?;
            while let Some(entry) = entries.read() {
                let entry = entry.map_err(error::at(&path))?;
                if remove::is_dots(entry.file_name()) {
                    continue;
                }
                let name = entry.file_name().to_bytes();
                let full = path.join(name)?;
                if self.entry(from.as_fd(), to.as_fd(), name, &full)? == EntryKind::Directory {
                    waiting.push(full);
                }
                if waiting.len() > MAX_WAITING {
                    let limit = MAX_WAITING as u64;
                    return Err(WorkspaceError::OverLimit { what: "the directories of the copy", limit });
                }
            }
        }
        Ok(())
    }

    /// Copies one entry of a directory; of a directory only itself. What it is.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &WorkspacePath,
    ) -> Result<EntryKind, WorkspaceError> {
        let stat = match beneath::stat_at(from, name) {
            Err(Errno::NOENT) => return Ok(EntryKind::Other),
            result => result.map_err(error::at(path))?,
        };
        let kind = kind_of(&stat);
        match kind {
            EntryKind::Other => self.left_out += 1,
            EntryKind::Directory => {
                self.counted.entries(1)?;
                rustix::fs::mkdirat(to, name, beneath::DIRECTORY_MODE).map_err(error::host)?;
            }
            EntryKind::File | EntryKind::Symlink => match self.one(from, name, to, name, kind) {
                // It went, or was swapped for something else.
                Err(Failed::Source(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::INVAL)) => {}
                Err(Failed::Source(errno)) => return Err(error::at(path)(errno)),
                Err(Failed::Other(error)) => return Err(error),
                Ok(()) => {}
            },
        }
        Ok(kind)
    }

    /// Copies a file or a link.
    fn one(
        &mut self,
        from: BorrowedFd<'_>,
        name: &[u8],
        to: BorrowedFd<'_>,
        as_name: &[u8],
        kind: EntryKind,
    ) -> Result<(), Failed> {
        let host = |errno| Failed::Other(error::host(errno));
        if kind == EntryKind::Symlink {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(Failed::Source)?;
            self.counted.entries(1).map_err(Failed::Other)?;
            return rustix::fs::symlinkat(&*target, to, as_name).map_err(host);
        }
        let found = beneath::open_file(from, name).map_err(Failed::Source)?;
        self.counted.entries(1).map_err(Failed::Other)?;
        let file = beneath::create_file(to, as_name).map_err(host)?;
        let copied = content(&found, file.as_fd(), self.counted.bytes_left()).map_err(|error| {
            Failed::Other(match error {
                WorkspaceError::OverLimit { .. } => self.counted.over_bytes(),
                error => error,
            })
        })?;
        self.counted.add_bytes(copied);
        let executable = beneath::is_executable(&found.stat);
        let mode = if executable { beneath::EXECUTABLE_MODE } else { beneath::FILE_MODE };
        rustix::fs::fchmod(&file, mode).map_err(host)
    }
}

/// Copies the content of a file, as large as it was when it was opened, into an empty
/// one; how large that is. The two share blocks where the filesystem can, and are two
/// files all the same: who writes to one does not change the other.
pub(super) fn content(source: &RegularFile, target: BorrowedFd<'_>, most: u64) -> Result<u64, WorkspaceError> {
    let over = || WorkspaceError::OverLimit { what: "the file", limit: most };
    let size = u64::try_from(source.stat.st_size).unwrap_or(0);
    if size > most {
        return Err(over());
    }
    if rustix::fs::ioctl_ficlone(target, &source.file).is_ok() {
        // It may have grown since it was looked at.
        let size = u64::try_from(rustix::fs::fstat(target).map_err(error::host)?.st_size).unwrap_or(0);
        return if size > most { Err(over()) } else { Ok(size) };
    }
    let mut at = 0;
    let mut buffer = Vec::new();
    while at < size {
        let rest = usize::try_from(size - at).unwrap_or(usize::MAX);
        let mut offset = at;
        match rustix::fs::copy_file_range(&source.file, Some(&mut offset), target, None, rest) {
            // It was cut short meanwhile: what there is.
            Ok(0) => return Ok(at),
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT) => return Err(WorkspaceError::DiskFull),
            // This filesystem, or these two, can't: by hand.
            Err(_) => {
                buffer.resize(CHUNK.min(rest), 0);
                match rustix::io::pread(&source.file, buffer.as_mut_slice(), at) {
                    Ok(0) => return Ok(at),
                    Ok(read) => {
                        write_all(target, buffer.get(..read).unwrap_or_default()).map_err(error::host)?;
                        at += read as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(error::host(errno)),
                }
            }
        }
    }
    Ok(at)
}
