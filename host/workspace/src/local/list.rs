//! Reading directories and entries.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, BorrowedFd};

use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{Entry, EntryKind, Listing, WorkspaceError};
use rustix::fs::{Dir, FileType, Stat};
use rustix::io::Errno;

use crate::{beneath, error, remove};

/// Most entries of one page: each costs a stat and some 300 bytes.
const MAX_PAGE: u32 = 10_000;

/// One page of the directory at `path`. The kernel gives names in no order, so
/// each page reads them all, but remembers only the smallest that are wanted: a
/// guest's directory of a million names must not become a million strings here.
pub(super) fn list(
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    after: Option<&[u8]>,
    limit: u32,
) -> Result<Listing, WorkspaceError> {
    let dir = beneath::open_dir(root, path.as_bytes()).map_err(error::at_directory(path))?;
    let limit = limit.clamp(1, MAX_PAGE) as usize;
    let mut names = smallest_names(dir.as_fd(), after, limit + 1).map_err(error::at(path))?;
    let next_after = if names.len() > limit {
        names.truncate(limit);
        names.last().cloned()
    } else {
        None
    };
    let (mut entries, mut unnamed) = (Vec::with_capacity(names.len()), 0);
    for name in names {
        // A path that is too deep for the API can't be named, so it isn't.
        let Ok(full) = path.join(&name) else {
            unnamed += 1;
            continue;
        };
        match describe_at(dir.as_fd(), &name, full) {
            Ok(entry) => entries.push(entry),
            // It went since its name was read.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(error::at(path)(errno)),
        }
    }
    Ok(Listing { entries, next_after, unnamed })
}

fn smallest_names(dir: BorrowedFd<'_>, after: Option<&[u8]>, count: usize) -> rustix::io::Result<Vec<Vec<u8>>> {
    // The greatest of the smallest is on top, ready to be thrown out.
    let mut smallest: BinaryHeap<Vec<u8>> = BinaryHeap::with_capacity(count + 1);
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let wanted = after.is_none_or(|after| name > after)
            && (smallest.len() < count || smallest.peek().is_some_and(|greatest| name < greatest.as_slice()));
        if !wanted || remove::is_dots(entry.file_name()) {
            continue;
        }
        smallest.push(name.to_vec());
        if smallest.len() > count {
            smallest.pop();
        }
    }
    Ok(smallest.into_sorted_vec())
}

/// Describes the entry at `path`.
pub(super) fn stat(root: BorrowedFd<'_>, path: &WorkspacePath) -> Result<Entry, WorkspaceError> {
    let found = beneath::look(root, path.as_bytes()).map_err(error::at_entry(path))?;
    let stat = rustix::fs::fstat(&found).map_err(error::at(path))?;
    let mut entry = describe(&stat, path.clone());
    if entry.kind == EntryKind::Symlink {
        entry.target = target(found.as_fd(), b"").map_err(error::at(path))?;
    }
    Ok(entry)
}

fn describe_at(dir: BorrowedFd<'_>, name: &[u8], path: WorkspacePath) -> rustix::io::Result<Entry> {
    let mut entry = describe(&beneath::stat_at(dir, name)?, path);
    if entry.kind == EntryKind::Symlink {
        entry.target = target(dir, name)?;
    }
    Ok(entry)
}

/// Where a link points. None if it was replaced by something else meanwhile.
fn target(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What `stat` says, in the port's words.
pub(super) fn describe(stat: &Stat, path: WorkspacePath) -> Entry {
    let kind = kind_of(stat);
    let size = if kind == EntryKind::Directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) };
    // Guests set times; what doesn't fit is as good as any.
    let millis = i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0);
    let modified_at = Timestamp::from_millis(stat.st_mtime.saturating_mul(1000).saturating_add(millis));
    let etag = (kind == EntryKind::File).then(|| etag(stat));
    Entry { path, kind, size, modified_at, executable: beneath::is_executable(stat), target: None, etag }
}

/// What an entry is.
pub(super) fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

/// The entity tag of a file: of its number, size and times. The time of its last change
/// is the kernel's alone, so a guest can't give an old tag to a new content; but two
/// changes within one tick of the kernel's clock have the same. Hashed, for the numbers
/// are nobody's business.
pub(super) fn etag(stat: &Stat) -> String {
    let words = [
        stat.st_ino,
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let hex = Digest::of(&bytes).hex();
    format!("\"{}\"", hex.get(..32).unwrap_or_default())
}
