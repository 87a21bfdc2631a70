//! Removal of trees that hostile code made: as deep as the disk allows, with
//! directories that nobody may enter, perhaps still being written to.
//!
//! Recursion would let a guest choose the depth of the host's stack, a
//! descriptor per level how many the host has open, and going back up through
//! `..` leads elsewhere once a directory is moved. So a tree is made flat: each
//! directory that is not empty is moved up into the private directory that is
//! being emptied, and waits there for its turn. At any time two descriptors are
//! open, the list of what is to be done is on the disk, and a crash in between
//! leaves nothing that the next start can't remove in the same way.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, RenameFlags};
use rustix::io::{Errno, Result};

use crate::beneath;

/// How often a directory is read again because something was put into it while
/// it was emptied. Whoever writes faster than this is to be stopped first.
const PASSES: usize = 32;

/// Removes everything in `bin`, a directory that guests can't reach, however
/// deep. Returns how many entries went.
///
/// # Errors
/// The last error, if anything had to be left; what could be removed is gone.
pub(crate) fn empty(bin: BorrowedFd<'_>) -> Result<u64> {
    let mut flat = Flat { bin, removed: 0, moved: 0, names: 0 };
    loop {
        let (before, mut last) = (flat.removed + flat.moved, None);
        let mut seen = false;
        let mut entries = Dir::read_from(bin)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if is_dots(entry.file_name()) {
                continue;
            }
            seen = true;
            match flat.remove(entry.file_name()) {
                // Somebody keeps filling it; that must not keep us here for ever.
                Err(Errno::NOTEMPTY) => return Err(Errno::NOTEMPTY),
                Err(error) => last = Some(error),
                Ok(()) => {}
            }
        }
        match last {
            _ if !seen => return Ok(flat.removed),
            Some(error) if before == flat.removed + flat.moved => return Err(error),
            _ => {}
        }
    }
}

pub(crate) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

struct Flat<'a> {
    bin: BorrowedFd<'a>,
    removed: u64,
    moved: u64,
    /// Names given out in the bin.
    names: u64,
}

impl Flat<'_> {
    /// Removes one entry of the bin; what is in its directories moves up.
    fn remove(&mut self, name: &CStr) -> Result<()> {
        if self.unlink(self.bin, name)? {
            return Ok(());
        }
        let directory = open_locked(self.bin, name)?;
        for _ in 0..PASSES {
            self.drain(directory.as_fd())?;
            match rustix::fs::unlinkat(self.bin, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                result => {
                    self.removed += u64::from(result.is_ok());
                    return result;
                }
            }
        }
        Err(Errno::NOTEMPTY)
    }

    /// Unlinks what is no directory, and directories that are empty. False if
    /// it is a directory with something in it, or one that can't be removed yet.
    fn unlink(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        let gone = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR),
            result => result,
        };
        match gone {
            Ok(()) => {
                self.removed += 1;
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Takes everything out of `directory`.
    fn drain(&mut self, directory: BorrowedFd<'_>) -> Result<()> {
        let mut entries = Dir::read_from(directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) || self.unlink(directory, name)? {
                continue;
            }
            self.move_up(directory, name)?;
        }
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let mut unlocked = false;
        loop {
            let fresh = format!("flat-{}", self.names);
            self.names += 1;
            match rustix::fs::renameat_with(directory, name, self.bin, fresh, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.moved += 1;
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                // A name that an earlier removal left behind.
                Err(Errno::EXIST) => {}
                // Moving a directory writes its `..`, which needs the right to.
                Err(Errno::ACCESS) if !unlocked => {
                    unlock(directory, name)?;
                    unlocked = true;
                }
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Opens a directory for emptying, whatever its owner made of its rights.
fn open_locked(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let directory = match beneath::open_dir(parent, name.to_bytes()) {
        Err(Errno::ACCESS) => {
            unlock(parent, name)?;
            beneath::open_dir(parent, name.to_bytes())?
        }
        result => result?,
    };
    // It may be readable but not writable. What fails here fails again below.
    let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

/// Gives the owner all rights of the directory `name`.
pub(crate) fn unlock(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let seen = beneath::look(parent, name.to_bytes())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&seen)?.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    allow(&seen, Mode::RWXU)
}

/// Sets the rights of what was only looked at. The kernel has no `fchmod` for what
/// can't be opened, so it goes through the descriptor's name in /proc, which means
/// this very inode and not what the name means by now.
fn allow(seen: &OwnedFd, mode: Mode) -> Result<()> {
    let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
    rustix::fs::chmodat(rustix::fs::CWD, path, mode, AtFlags::empty())
}

/// Opens what its owner may not read: once more, with the right to. Other rights
/// stay as they are.
pub(crate) fn unlocked<T>(
    parent: BorrowedFd<'_>,
    name: &CStr,
    open: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T>,
) -> Result<T> {
    match open(parent, name.to_bytes()) {
        Err(Errno::ACCESS) => {
            let seen = beneath::look(parent, name.to_bytes())?;
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&seen)?.st_mode & 0o777);
            allow(&seen, mode | Mode::RUSR | Mode::XUSR)?;
            open(parent, name.to_bytes())
        }
        result => result,
    }
}

#[cfg(test)]
#[path = "remove_tests.rs"]
mod tests;
