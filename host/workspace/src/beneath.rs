//! Access below a directory descriptor, resolved by the kernel.
//!
//! A guest can swap a directory for a link at any moment, so a path that was
//! checked is a path that may have changed since. `openat2` closes the gap: one
//! system call resolves the whole path and refuses to leave the directory, to
//! pass a link of any kind, or to enter another mount.
//!
//! Files are looked at (`O_PATH`, which runs no code of a driver and waits for
//! no peer) before they are opened, because opening alone can hang (pipes) or
//! act (devices). The open itself is non-blocking, and what was opened is looked
//! at again: it may be another regular file than before, never anything else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};

/// How often an `openat2` that lost a race in the kernel is repeated. A race is
/// lost once in thousands of tries; a guest that makes more of them is refused.
const TRIES: usize = 64;

/// Rights of a directory that is made for a guest.
pub const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Rights of a file that a guest may not execute.
pub const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// Rights of a file that a guest may execute.
pub const EXECUTABLE_MODE: Mode = Mode::from_raw_mode(0o755);

/// The rule of every resolution; see the module.
fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
}

/// Opens `path` below `root`; the empty path is `root` itself.
///
/// # Errors
/// Those of `openat2(2)`: `ELOOP` if the path passes a link, `EXDEV` if it
/// leaves the directory or its mount.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve()) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// A descriptor that only names the entry at `path`, which may be of any kind,
/// also a link.
///
/// # Errors
/// As [`open`].
pub fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the directory at `path`, so that it can be read.
///
/// # Errors
/// As [`open`]; `ENOTDIR` if it is none.
pub fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory that `directory` is in by now. The one way up, and it may lead
/// anywhere, as a directory can be moved at any moment: whoever goes it must look
/// whether it is the directory that was meant before reading it.
///
/// # Errors
/// Those of `openat(2)`.
pub fn open_above(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, "..", flags, Mode::empty())
}

/// A regular file that was opened for reading, and what it is.
#[derive(Debug)]
pub struct RegularFile {
    /// The file.
    pub file: OwnedFd,
    /// What `fstat` says of it.
    pub stat: Stat,
}

/// Opens the regular file at `path` for reading. Never waits, never opens a
/// device.
///
/// # Errors
/// As [`open`]; `EISDIR` if it is a directory, `ELOOP` if it is anything else.
pub fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<RegularFile> {
    let seen = rustix::fs::fstat(look(root, path)?)?;
    regular(&seen)?;
    let file = open(root, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    regular(&stat)?;
    Ok(RegularFile { file, stat })
}

fn regular(stat: &Stat) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::LOOP),
    }
}

/// Makes a new regular file `name` in `directory`; fails if anything is there.
///
/// # Errors
/// Those of `openat2(2)`.
pub fn create_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    open(directory, name, flags, Mode::RUSR | Mode::WUSR)
}

/// A directory that was opened or made, and how many had to be made for it.
#[derive(Debug)]
pub struct MadeDir {
    /// The directory.
    pub dir: OwnedFd,
    /// How many directories were made, itself included.
    pub made: u64,
}

/// Why a directory could not be made: what, and where in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MakeError {
    /// What went wrong.
    pub errno: Errno,
    /// The length of the prefix of the path at which it did.
    pub at: usize,
}

/// Opens the directory at `path`, and makes it and its parents where they are
/// missing. `durable` writes each new name to the disk.
///
/// # Errors
/// As [`open_dir`], with the part of the path that is to blame.
pub fn make_dirs(root: BorrowedFd<'_>, path: &[u8], durable: bool) -> std::result::Result<MadeDir, MakeError> {
    // Mostly it is there: one system call for the whole path.
    if let Ok(dir) = open_dir(root, path) {
        return Ok(MadeDir { dir, made: 0 });
    }
    let fail = |at: usize| move |errno: Errno| MakeError { errno, at };
    let mut dir = open_dir(root, b"").map_err(fail(0))?;
    let (mut made, mut end) = (0, 0);
    for name in path.split(|byte| *byte == b'/') {
        end += name.len();
        match rustix::fs::mkdirat(&dir, name, DIRECTORY_MODE) {
            Ok(()) => {
                made += 1;
                if durable {
                    rustix::fs::fsync(&dir).map_err(fail(end))?;
                }
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(MakeError { errno, at: end }),
        }
        dir = open_dir(dir.as_fd(), name).map_err(fail(end))?;
        end += 1;
    }
    Ok(MadeDir { dir, made })
}

/// What `name` in `directory` is, without following it.
///
/// # Errors
/// Those of `fstatat(2)`.
pub fn stat_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether its owner may execute it.
pub fn is_executable(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o100 != 0
}

#[cfg(test)]
#[path = "beneath_tests.rs"]
mod tests;
