//! Unpacking, in the child: what [`super::pack()`] wrote, as it was, into an
//! empty directory. A packer that was taken over can have written anything, so
//! every name is resolved beneath that directory and through no link, and
//! everything counts against limits.

use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::path::MAX_NAME;
use bulkhead_core::ports::import::{ImportError, Imported};
use flate2::read::GzDecoder;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use tar::EntryType;

use super::format::{self, Entry, damaged};
use crate::beneath;
use crate::import::{ImportLimits, code, over_bytes, over_entries, refused};

const BUFFER: usize = 256 * 1024;
/// Longest line of the map of a file with holes: a number of 64 bits.
const MAX_LINE: usize = 20;
/// Longest target of a link, in bytes: the kernel's PATH_MAX, less its NUL.
const MAX_TARGET: usize = 4095;
/// What may stand behind the end.
const MAX_TAIL: u64 = 64 * 1024;

/// Unpacks `archive` into the empty directory `root`.
///
/// # Errors
/// `not_an_archive` if it is damaged, `limit_entries`, `limit_bytes`.
pub(crate) fn unpack(archive: impl Read, root: BorrowedFd<'_>, limits: ImportLimits) -> Result<Imported, ImportError> {
    let reader = BufReader::with_capacity(BUFFER, GzDecoder::new(archive));
    let done = Imported::default();
    let mut unpacker = Unpacker { root, reader, limits, done, entries: 0, parent: None, buffer: vec![0; BUFFER] };
    while let Some(entry) = Entry::read(&mut unpacker.reader).map_err(broken)? {
        unpacker.make(&entry)?;
    }
    // To the end, so that gzip's checksum is checked.
    let tail = io::copy(&mut unpacker.reader.by_ref().take(MAX_TAIL), &mut io::sink()).map_err(broken)?;
    if tail == MAX_TAIL { Err(broken(damaged())) } else { Ok(unpacker.done) }
}

/// What it means that the archive can't be read on.
fn broken(error: io::Error) -> ImportError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            refused(code::NOT_AN_ARCHIVE, "the archive is damaged")
        }
        _ => ImportError::Io(error),
    }
}

/// What it means that an entry can't be made.
fn failed(errno: Errno) -> ImportError {
    match errno {
        // It passes a link or a file, or is there already: no packer writes that.
        Errno::LOOP | Errno::NOTDIR | Errno::EXIST | Errno::ISDIR | Errno::NOENT | Errno::XDEV => broken(damaged()),
        Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL | Errno::ACCESS => broken(damaged()),
        errno => ImportError::Io(errno.into()),
    }
}

struct Unpacker<'a, R: Read> {
    root: BorrowedFd<'a>,
    reader: R,
    limits: ImportLimits,
    done: Imported,
    entries: u64,
    /// The directory that the last entry was made in.
    parent: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
}

impl<R: Read> Unpacker<'_, R> {
    fn make(&mut self, entry: &Entry) -> Result<(), ImportError> {
        if entry.path.is_empty() {
            let same = entry.kind == EntryType::Directory;
            return if same { set_times(self.root, entry).map_err(failed) } else { Err(broken(damaged())) };
        }
        let (parent, name) = split(&entry.path).ok_or_else(|| broken(damaged()))?;
        let dir = self.directory(parent)?;
        match entry.kind {
            EntryType::Directory => self.make_directory(dir.as_fd(), name, entry),
            EntryType::Regular => {
                self.count()?;
                self.file(dir.as_fd(), name, entry)
            }
            EntryType::Link => {
                self.count()?;
                self.hard_link(dir.as_fd(), name, entry)
            }
            EntryType::Symlink => {
                self.count()?;
                self.symlink(dir.as_fd(), name, entry)
            }
            _ => Err(broken(damaged())),
        }
    }

    fn count(&mut self) -> Result<(), ImportError> {
        self.entries += 1;
        let limit = self.limits.max_entries;
        if self.entries > limit { Err(over_entries(limit)) } else { Ok(()) }
    }

    fn count_bytes(&mut self, bytes: u64) -> Result<(), ImportError> {
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        if self.done.bytes > self.limits.max_bytes { Err(over_bytes(self.limits.max_bytes)) } else { Ok(()) }
    }

    fn directory(&mut self, path: &[u8]) -> Result<OwnedFd, ImportError> {
        let dir = match self.parent.take_if(|(cached, _)| cached == path) {
            Some((_, dir)) => dir,
            None => beneath::open_dir(self.root, path).map_err(failed)?,
        };
        let again = dir.try_clone().map_err(ImportError::Io)?;
        self.parent = Some((path.to_vec(), dir));
        Ok(again)
    }

    /// The first entry makes it, the second sets its rights and times.
    fn make_directory(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), ImportError> {
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => {
                self.done.directories += 1;
                self.count()
            }
            Err(Errno::EXIST) => {
                let made = beneath::open_dir(dir, name).map_err(failed)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
                set_times(made.as_fd(), entry).map_err(failed)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), ImportError> {
        let size = entry.sparse.unwrap_or(entry.size);
        // Refused before the disk is filled with what can't be finished.
        self.count_bytes(size)?;
        let file = beneath::create_file(dir, name).map_err(failed)?;
        match entry.sparse {
            None => self.content(file.as_fd(), 0, size)?,
            Some(_) => {
                rustix::fs::ftruncate(&file, size).map_err(failed)?;
                self.parts(file.as_fd(), entry, size)?;
            }
        }
        format::skip(&mut self.reader, format::padding(entry.size)).map_err(broken)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
        self.done.files += 1;
        set_times(file.as_fd(), entry).map_err(failed)
    }

    fn content(&mut self, file: BorrowedFd<'_>, mut at: u64, length: u64) -> Result<(), ImportError> {
        let mut left = length;
        while left > 0 {
            let room = BUFFER.min(usize::try_from(left).unwrap_or(BUFFER));
            let buffer = self.buffer.get_mut(..room).unwrap_or_default();
            self.reader.read_exact(buffer).map_err(broken)?;
            let mut rest = &*buffer;
            while !rest.is_empty() {
                match rustix::io::pwrite(file, rest, at) {
                    Err(Errno::INTR) => {}
                    Ok(0) => return Err(failed(Errno::IO)),
                    Ok(written) => {
                        rest = rest.get(written..).unwrap_or_default();
                        at += written as u64;
                    }
                    Err(errno) => return Err(failed(errno)),
                }
            }
            left -= room as u64;
        }
        Ok(())
    }

    /// The content of a file with holes: a map, then what is between them. The
    /// map is gone over as it is read; what it says is held, a pair for each part.
    fn parts(&mut self, file: BorrowedFd<'_>, entry: &Entry, size: u64) -> Result<(), ImportError> {
        let mut read = 0;
        let count = self.line(&mut read)?;
        let (mut parts, mut last) = (Vec::new(), 0);
        for _ in 0..count {
            let (at, length) = (self.line(&mut read)?, self.line(&mut read)?);
            let end = at.checked_add(length).filter(|end| *end <= size && at >= last && read < entry.size);
            last = end.ok_or_else(|| broken(damaged()))?;
            parts.push((at, length));
        }
        let padding = format::padding(read);
        format::skip(&mut self.reader, padding).map_err(broken)?;
        let content: u64 = parts.iter().map(|(_, length)| *length).sum();
        if read + padding as u64 + content != entry.size {
            return Err(broken(damaged()));
        }
        parts.into_iter().try_for_each(|(at, length)| self.content(file, at, length))
    }

    fn line(&mut self, read: &mut u64) -> Result<u64, ImportError> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            self.reader.read_exact(&mut byte).map_err(broken)?;
            *read += 1;
            match byte {
                [b'\n'] => return format::number(&line).map_err(broken),
                _ if line.len() == MAX_LINE => return Err(broken(damaged())),
                [digit] => line.push(digit),
            }
        }
    }

    fn hard_link(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), ImportError> {
        let (parent, first) = split(&entry.link).ok_or_else(|| broken(damaged()))?;
        let from = beneath::open_dir(self.root, parent).map_err(failed)?;
        let source = beneath::stat_at(from.as_fd(), first).map_err(failed)?;
        self.count_bytes(u64::try_from(source.st_size).unwrap_or(u64::MAX))?;
        if rustix::fs::FileType::from_raw_mode(source.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(broken(damaged()));
        }
        self.done.files += 1;
        rustix::fs::linkat(&from, first, dir, name, AtFlags::empty()).map_err(failed)
    }

    fn symlink(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), ImportError> {
        if entry.link.is_empty() || entry.link.len() > MAX_TARGET || entry.link.contains(&0) {
            return Err(broken(damaged()));
        }
        rustix::fs::symlinkat(&*entry.link, dir, name).map_err(failed)?;
        self.done.symlinks += 1;
        rustix::fs::utimensat(dir, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.seconds, tv_nsec: entry.nanoseconds.into() },
    }
}

fn set_times(file: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
    rustix::fs::futimens(file, &times(entry))
}

/// A path of plain names: its directory, and the last of them.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0);
    if !path.split(|byte| *byte == b'/').all(plain) {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        None => Some((b"", path)),
        Some(at) => Some((path.get(..at)?, path.get(at + 1..)?)),
    }
}
