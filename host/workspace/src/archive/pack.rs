//! Packing, in the child: everything that is in a workspace, exactly, or a
//! reason why not. What can't be brought back as it is, is not packed at all:
//! then the directory stays.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::ports::import::{ImportError, Imported};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{Dir, FileType, SeekFrom, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::format::{self, Entry};
use crate::import::{ImportLimits, code, over_bytes, over_entries, refused};
use crate::{beneath, remove};

const BUFFER: usize = 256 * 1024;
/// Parts between the holes of one file; each is held in memory.
const MAX_PARTS: usize = 1_000_000;
/// `stat` counts the space of a file in these.
const DISK_BLOCK: i64 = 512;

/// Packs what is below `root` into `to`.
///
/// # Errors
/// `unfit` if something can't be packed, `limit_entries`, `limit_bytes`.
pub(crate) fn pack(root: BorrowedFd<'_>, to: impl Write, limits: ImportLimits) -> Result<Imported, ImportError> {
    let out = BufWriter::with_capacity(BUFFER, GzEncoder::new(to, Compression::fast()));
    let mut packer = Packer {
        root,
        out,
        limits,
        done: Imported::default(),
        entries: 0,
        parent: None,
        links: HashMap::new(),
        buffer: vec![0; BUFFER],
    };
    packer.run()?;
    format::end(&mut packer.out).map_err(ImportError::Io)?;
    let gzip = packer.out.into_inner().map_err(|error| ImportError::Io(error.into_error()))?;
    gzip.finish().and_then(|mut to| to.flush()).map_err(ImportError::Io)?;
    Ok(packer.done)
}

/// A directory that is being packed.
struct Frame {
    path: Vec<u8>,
    stat: Stat,
    /// What is in it and not packed yet, the next one last.
    names: Vec<CString>,
}

struct Packer<'a, W: Write> {
    root: BorrowedFd<'a>,
    out: BufWriter<GzEncoder<W>>,
    limits: ImportLimits,
    done: Imported,
    entries: u64,
    /// The directory that was last looked into.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

fn unfit(path: &[u8], why: &str) -> ImportError {
    refused(code::UNFIT, format!("`{}` {why}", bulkhead_core::path::display(path)))
}

/// What it means that something could not be read.
fn unreadable(path: &[u8]) -> impl Fn(Errno) -> ImportError + '_ {
    move |errno| match errno {
        Errno::NAMETOOLONG => unfit(path, "is too deep to be packed"),
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::XDEV | Errno::ACCESS => {
            unfit(path, "can't be read, or changed while it was packed")
        }
        errno => ImportError::Io(errno.into()),
    }
}

impl<W: Write> Packer<'_, W> {
    fn run(&mut self) -> Result<(), ImportError> {
        let root = self.frame(Vec::new(), self.root.try_clone_to_owned().map_err(ImportError::Io)?)?;
        let mut frames = vec![root];
        while let Some(frame) = frames.last_mut() {
            match frame.names.pop() {
                Some(name) => {
                    let path = join(&frame.path, name.to_bytes());
                    let dir = self.directory(&frame.path)?;
                    frames.extend(self.entry(dir, path, &name)?);
                }
                None => {
                    if let Some(Frame { path, stat, .. }) = frames.pop() {
                        self.write(&Entry::of(EntryType::Directory, &path, &stat))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The open directory at `path`.
    fn directory(&mut self, path: &[u8]) -> Result<OwnedFd, ImportError> {
        let dir = match self.parent.take_if(|(cached, _)| cached == path) {
            Some((_, dir)) => dir,
            None => beneath::open_dir(self.root, path).map_err(unreadable(path))?,
        };
        let again = dir.try_clone().map_err(ImportError::Io)?;
        self.parent = Some((path.to_vec(), dir));
        Ok(again)
    }

    fn frame(&self, path: Vec<u8>, dir: OwnedFd) -> Result<Frame, ImportError> {
        let stat = rustix::fs::fstat(&dir).map_err(unreadable(&path))?;
        let mut names = Vec::new();
        let mut entries = Dir::read_from(&dir).map_err(unreadable(&path))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(unreadable(&path))?;
            if remove::is_dots(entry.file_name()) {
                continue;
            }
            names.push(entry.file_name().to_owned());
            if names.len() as u64 > self.limits.max_entries {
                return Err(over_entries(self.limits.max_entries));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Frame { path, stat, names })
    }

    /// Packs one entry, with the rights that it had; a directory is to be gone into.
    fn entry(&mut self, dir: OwnedFd, path: Vec<u8>, name: &CString) -> Result<Option<Frame>, ImportError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(over_entries(self.limits.max_entries));
        }
        let stat = beneath::stat_at(dir.as_fd(), name.to_bytes()).map_err(unreadable(&path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.done.directories += 1;
                self.write(&Entry::of(EntryType::Directory, &path, &stat))?;
                let below = remove::unlocked(dir.as_fd(), name, beneath::open_dir);
                let mut frame = self.frame(path.clone(), below.map_err(unreadable(&path))?)?;
                frame.stat = stat;
                return Ok(Some(frame));
            }
            FileType::RegularFile => self.file(dir.as_fd(), &path, name, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(unreadable(&path))?;
                self.done.symlinks += 1;
                self.write(&Entry { link: target.into_bytes(), ..Entry::of(EntryType::Symlink, &path, &stat) })?;
            }
            _ => return Err(unfit(&path, "is a pipe, a socket or a device")),
        }
        Ok(None)
    }

    fn file(&mut self, dir: BorrowedFd<'_>, path: &[u8], name: &CString, seen: &Stat) -> Result<(), ImportError> {
        let file = remove::unlocked(dir, name, beneath::open_file).map_err(unreadable(path))?;
        let stat = file.stat;
        if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(unfit(path, "changed while it was packed"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.done.files += 1;
        self.done.bytes = self.done.bytes.saturating_add(size);
        if self.done.bytes > self.limits.max_bytes {
            return Err(over_bytes(self.limits.max_bytes));
        }
        let mut entry = Entry { mode: seen.st_mode & 0o777, ..Entry::of(EntryType::Regular, path, &stat) };
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.write(&Entry { kind: EntryType::Link, link: first.clone(), ..entry });
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let has_holes = stat.st_blocks.saturating_mul(DISK_BLOCK) < stat.st_size;
        let parts = if has_holes { parts(file.file.as_fd(), size).map_err(unreadable(path))? } else { None };
        match parts {
            None => {
                entry.size = size;
                self.write(&entry)?;
                self.content(file.file.as_fd(), path, 0, size)?;
            }
            Some(parts) => {
                let map = map(&parts, size);
                entry.size = map.len() as u64 + parts.iter().map(|(_, length)| length).sum::<u64>();
                entry.sparse = Some(size);
                self.write(&entry)?;
                self.out.write_all(&map).map_err(ImportError::Io)?;
                for (at, length) in &parts {
                    self.content(file.file.as_fd(), path, *at, *length)?;
                }
            }
        }
        format::pad(&mut self.out, entry.size).map_err(ImportError::Io)
    }

    fn content(&mut self, file: BorrowedFd<'_>, path: &[u8], at: u64, length: u64) -> Result<(), ImportError> {
        let (mut at, end) = (at, at + length);
        while at < end {
            let room = BUFFER.min(usize::try_from(end - at).unwrap_or(BUFFER));
            let buffer = self.buffer.get_mut(..room).unwrap_or_default();
            let read = match rustix::io::pread(file, &mut *buffer, at) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(ImportError::Io(errno.into())),
                Ok(0) => return Err(unfit(path, "changed while it was packed")),
                Ok(read) => read,
            };
            self.out.write_all(buffer.get(..read).unwrap_or_default()).map_err(ImportError::Io)?;
            at += read as u64;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), ImportError> {
        entry.write(&mut self.out).map_err(ImportError::Io)
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Where a file has content; nothing if the filesystem can't tell, or it is in
/// too many pieces to be worth it.
fn parts(file: BorrowedFd<'_>, size: u64) -> rustix::io::Result<Option<Vec<(u64, u64)>>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < size {
        let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            // From here on there is only a hole.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            from => from?,
        };
        let to = rustix::fs::seek(file, SeekFrom::Hole(from))?.min(size);
        if to <= from || parts.len() >= MAX_PARTS {
            return Ok(None);
        }
        parts.push((from, to - from));
        at = to;
    }
    Ok(Some(parts))
}

/// The map of a file with holes (GNU, sparse format 1.0), padded to a block.
fn map(parts: &[(u64, u64)], size: u64) -> Vec<u8> {
    // The last part has no content and says where the file ends.
    let mut map = format!("{}\n", parts.len() + 1);
    for (at, length) in parts.iter().chain([&(size, 0)]) {
        map.push_str(&format!("{at}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + format::padding(map.len() as u64), 0);
    map
}
