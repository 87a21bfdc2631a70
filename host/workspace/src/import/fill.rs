//! The one writer of imports. Whatever an archive says, a workspace gets only
//! regular files, directories, and links that stay inside; everything else is
//! left out and counted.
//!
//! Links: a target is relative, and `..` stands only at its beginning. Then
//! each `..` counts against the link's own, real directory, and by induction no
//! chain of such links leaves the workspace. (With `..` after a name that rule
//! breaks: `a/b/l -> ../..` and `m -> a/b/l/..` both look harmless.) Hard links
//! become copies, because two names for one file would let a write through one
//! change what the other was checked for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::import::{ImportError, Imported};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::archive::broken;
use super::tar::{Entry, Kind};
use super::{ImportLimits, over_bytes, over_entries};
use crate::beneath;

const BUFFER: usize = 128 * 1024;
/// Longest target of a link, in bytes: the kernel's PATH_MAX, less its NUL.
const MAX_TARGET: usize = 4095;

/// Makes entries below a directory.
pub(super) struct Filler<'a> {
    root: BorrowedFd<'a>,
    limits: ImportLimits,
    done: Imported,
    entries: u64,
    /// Bytes written, those of files that were replaced included.
    written: u64,
    /// The directory that the last entry was made in; archives are sorted.
    parent: Option<(WorkspacePath, OwnedFd)>,
    buffer: Vec<u8>,
}

/// Why an entry was not made.
enum Miss {
    /// It is left out.
    Skip,
    /// The import ends.
    Fail(ImportError),
}

impl From<ImportError> for Miss {
    fn from(error: ImportError) -> Self {
        Self::Fail(error)
    }
}

impl From<Errno> for Miss {
    fn from(errno: Errno) -> Self {
        match errno {
            // The path passes a link or a file, or the filesystem can't have
            // such a name: the archive's doing.
            Errno::LOOP | Errno::NOTDIR | Errno::EXIST | Errno::ISDIR | Errno::NOENT | Errno::XDEV => Self::Skip,
            Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => Self::Skip,
            errno => Self::Fail(ImportError::Io(errno.into())),
        }
    }
}

impl<'a> Filler<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, limits: ImportLimits) -> Self {
        let done = Imported::default();
        Self { root, limits, done, entries: 0, written: 0, parent: None, buffer: vec![0; BUFFER] }
    }

    pub(super) fn finish(self) -> Imported {
        self.done
    }

    /// Makes one entry, or leaves it out.
    pub(super) fn add(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), ImportError> {
        self.count(1)?;
        match self.make(entry, content) {
            Ok(()) => Ok(()),
            Err(Miss::Skip) => {
                self.done.skipped += 1;
                Ok(())
            }
            Err(Miss::Fail(error)) => Err(error),
        }
    }

    fn count(&mut self, entries: u64) -> Result<(), ImportError> {
        self.entries += entries;
        let limit = self.limits.max_entries;
        if self.entries > limit { Err(over_entries(limit)) } else { Ok(()) }
    }

    fn make(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), Miss> {
        let path = self.path(&entry.path)?;
        match entry.kind {
            Kind::Other => Err(Miss::Skip),
            // The archive of `.` begins with itself.
            Kind::Directory if path.is_root() => Ok(()),
            _ if path.is_root() => Err(Miss::Skip),
            Kind::Directory => self.directory(&path),
            Kind::File => self.file(&path, content, entry.size, entry.executable),
            Kind::HardLink => self.copy(&path, &entry.link),
            Kind::Symlink => self.symlink(&path, &entry.link),
        }
    }

    /// The path of an entry, if it is one inside.
    fn path(&self, bytes: &[u8]) -> Result<WorkspacePath, Miss> {
        let path = WorkspacePath::parse(bytes).map_err(|_| Miss::Skip)?;
        let depth = path.as_bytes().split(|byte| *byte == b'/').count();
        if bytes.starts_with(b"/") || depth > self.limits.max_depth as usize { Err(Miss::Skip) } else { Ok(path) }
    }

    fn directory(&mut self, path: &WorkspacePath) -> Result<(), Miss> {
        let made = beneath::make_dirs(self.root, path.as_bytes(), false).map_err(|error| error.errno)?.made;
        self.done.directories += made;
        // Itself is counted as an entry of the archive already.
        Ok(self.count(made.saturating_sub(1))?)
    }

    /// The directory that `path` is to be made in, with nothing in its place.
    fn place(&mut self, path: &WorkspacePath) -> Result<OwnedFd, Miss> {
        let parent = path.parent().ok_or(Miss::Skip)?;
        let cached = self.parent.take_if(|(cached, _)| *cached == parent);
        let dir = match cached {
            Some((_, dir)) => dir,
            None => {
                let made = beneath::make_dirs(self.root, parent.as_bytes(), false).map_err(|error| error.errno)?;
                self.done.directories += made.made;
                self.count(made.made)?;
                made.dir
            }
        };
        self.clear(dir.as_fd(), path.name())?;
        let again = dir.try_clone().map_err(ImportError::Io)?;
        self.parent = Some((parent, dir));
        Ok(again)
    }

    /// Later entries replace earlier ones, but never a directory.
    fn clear(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Miss> {
        let old = match beneath::stat_at(dir, name) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        match FileType::from_raw_mode(old.st_mode) {
            FileType::RegularFile => {
                self.done.files = self.done.files.saturating_sub(1);
                self.done.bytes = self.done.bytes.saturating_sub(u64::try_from(old.st_size).unwrap_or(0));
            }
            FileType::Symlink => self.done.symlinks = self.done.symlinks.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    fn file(&mut self, path: &WorkspacePath, content: &mut impl Read, size: u64, executable: bool) -> Result<(), Miss> {
        // Refused before the disk is filled with what can't be finished.
        if self.written.saturating_add(size) > self.limits.max_bytes {
            return Err(over_bytes(self.limits.max_bytes).into());
        }
        let dir = self.place(path)?;
        let file = beneath::create_file(dir.as_fd(), path.name())?;
        let mut left = size;
        while left > 0 {
            let room = BUFFER.min(usize::try_from(left).unwrap_or(BUFFER));
            let buffer = self.buffer.get_mut(..room).unwrap_or_default();
            let read = match content.read(buffer) {
                Ok(0) => return Err(broken(&io::ErrorKind::UnexpectedEof.into()).into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error).into()),
            };
            write_all(&file, buffer.get(..read).unwrap_or_default())?;
            left -= read as u64;
            self.written += read as u64;
        }
        let mode = if executable { beneath::EXECUTABLE_MODE } else { beneath::FILE_MODE };
        rustix::fs::fchmod(&file, mode)?;
        self.done.files += 1;
        self.done.bytes += size;
        Ok(())
    }

    /// A hard link to a file that is there already, as a copy of it.
    fn copy(&mut self, path: &WorkspacePath, from: &[u8]) -> Result<(), Miss> {
        let from = self.path(from)?;
        if from == *path {
            return Err(Miss::Skip);
        }
        let source = beneath::open_file(self.root, from.as_bytes())?;
        let size = u64::try_from(source.stat.st_size).unwrap_or(u64::MAX);
        let executable = beneath::is_executable(&source.stat);
        self.file(path, &mut std::fs::File::from(source.file), size, executable)
    }

    fn symlink(&mut self, path: &WorkspacePath, target: &[u8]) -> Result<(), Miss> {
        if !stays_inside(path, target) {
            return Err(Miss::Skip);
        }
        let dir = self.place(path)?;
        rustix::fs::symlinkat(target, &dir, path.name())?;
        self.done.symlinks += 1;
        Ok(())
    }
}

fn write_all(file: &OwnedFd, bytes: &[u8]) -> Result<(), ImportError> {
    crate::local::write_all(file.as_fd(), bytes).map_err(|errno| ImportError::Io(errno.into()))
}

/// Whether a link at `path` with this target can't lead out; see the module.
fn stays_inside(path: &WorkspacePath, target: &[u8]) -> bool {
    if target.is_empty() || target.len() > MAX_TARGET || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    // The directories above the link, itself not counted.
    let depth = path.as_bytes().split(|byte| *byte == b'/').count() - 1;
    let names = || target.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let up = names().take_while(|name| *name == b"..").count();
    up <= depth && names().skip(up).all(|name| name != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_links() {
        let inside = |at: &str, target: &str| {
            stays_inside(&WorkspacePath::parse(at.as_bytes()).expect("a path"), target.as_bytes())
        };
        for (at, target) in [("l", "a"), ("l", "a/b"), ("d/l", "../a"), ("d/e/l", "../../a"), ("l", "."), ("l", "./a/")]
        {
            assert!(inside(at, target), "{at} -> {target}");
        }
        for (at, target) in [
            ("l", ".."),
            ("l", "../x"),
            ("d/l", "../../x"),
            ("l", "/etc/passwd"),
            ("l", ""),
            ("d/l", "a/.."),
            ("d/l", "../a/../.."),
            ("d/l", "./../../x"),
            ("l", "a\0b"),
        ] {
            assert!(!inside(at, target), "{at} -> {target}");
        }
    }
}
