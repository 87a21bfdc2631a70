//! Finding what changed since a time, by looking at every entry. Used where no
//! journal is: after a worker was lost in the middle of a call, and for
//! backends that write the directory themselves.
//!
//! What is told are paths, so this goes where a path leads and no further. What lies
//! deeper, or has a longer one, can't be told; that there is more can, and is. It
//! counts in the quota all the same: `super::measure` goes by no path.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::{ChangeKind, FileChange};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{Walked, WorkspaceError};
use rustix::fs::{AtFlags, Dir, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use crate::{beneath, error, remove};

/// The kernel stamps files with the time of its last tick, up to 10 ms ago.
const COARSE_CLOCK_MILLIS: i64 = 10;
/// Entries looked at, in all: some ten seconds' work.
const MAX_LOOKED_AT: u64 = 2_000_000;
/// Bytes of the paths of directories that wait for their turn.
const MAX_WAITING: usize = 16 << 20;

struct Walk<'a> {
    root: BorrowedFd<'a>,
    since: Timestamp,
    max: usize,
    looked_at: u64,
    /// True if there is no point in looking further.
    full: bool,
    found: Walked,
    /// Directories to be read, the next one last.
    waiting: Vec<WorkspacePath>,
    /// What they take of memory.
    waiting_bytes: usize,
}

/// What a path takes of memory.
fn weight(path: &WorkspacePath) -> usize {
    size_of::<WorkspacePath>() + path.as_bytes().len()
}

/// Files created or modified since `since`, directory by directory, each
/// sorted by name; at most `max`.
pub(super) fn changed_since(root: BorrowedFd<'_>, since: Timestamp, max: u32) -> Result<Walked, WorkspaceError> {
    let mut walk = Walk {
        root,
        since: since.plus_millis(-COARSE_CLOCK_MILLIS),
        max: max as usize,
        looked_at: 0,
        full: false,
        found: Walked::default(),
        waiting: vec![WorkspacePath::root()],
        waiting_bytes: weight(&WorkspacePath::root()),
    };
    while let Some(directory) = walk.waiting.pop() {
        walk.waiting_bytes -= weight(&directory);
        match walk.read(&directory) {
            Ok(()) => {}
            // It went, was swapped, or its rights were taken: nothing to tell.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => {}
            Err(errno) => return Err(error::at(&directory)(errno)),
        }
        if walk.full {
            break;
        }
    }
    walk.found.more |= walk.full;
    Ok(walk.found)
}

impl Walk<'_> {
    fn read(&mut self, directory: &WorkspacePath) -> rustix::io::Result<()> {
        let dir = beneath::open_dir(self.root, directory.as_bytes())?;
        // Sorted, and no larger than what may still be told.
        let mut changed: BTreeMap<WorkspacePath, ChangeKind> = BTreeMap::new();
        let (mut below, mut below_bytes) = (Vec::new(), 0);
        let room = self.max - self.found.changes.len();
        let mut entries = Dir::read_from(&dir)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if remove::is_dots(entry.file_name()) {
                continue;
            }
            self.looked_at += 1;
            let Ok(path) = directory.join(entry.file_name().to_bytes()) else {
                // Too deep or too long to be named: it counts as one more.
                self.found.more = true;
                continue;
            };
            let mask = StatxFlags::TYPE | StatxFlags::BTIME | StatxFlags::MTIME | StatxFlags::CTIME;
            let stat = match rustix::fs::statx(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW, mask) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            let kind = FileType::from_raw_mode(stat.stx_mode.into());
            if kind == FileType::Directory {
                below_bytes += weight(&path);
                below.push(path.clone());
            }
            if let Some(change) = self.change(kind, &stat) {
                changed.insert(path, change);
                if changed.len() > room {
                    changed.pop_last();
                    self.full = true;
                }
            }
            if self.looked_at >= MAX_LOOKED_AT || self.waiting_bytes + below_bytes >= MAX_WAITING {
                self.full = true;
                break;
            }
        }
        let told = changed.into_iter().map(|(path, change)| FileChange { path: path.to_text(), change });
        self.found.changes.extend(told);
        below.sort_unstable_by(|a, b| b.cmp(a));
        self.waiting.append(&mut below);
        self.waiting_bytes += below_bytes;
        Ok(())
    }

    fn change(&self, kind: FileType, stat: &Statx) -> Option<ChangeKind> {
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let created = has_birth && self.is_since(&stat.stx_btime);
        let modified = self.is_since(&stat.stx_mtime) || self.is_since(&stat.stx_ctime);
        match kind {
            FileType::Directory | FileType::RegularFile | FileType::Symlink if created => Some(ChangeKind::Created),
            // A directory is modified whenever something in it is, which is told already.
            FileType::RegularFile | FileType::Symlink if modified => Some(ChangeKind::Modified),
            _ => None,
        }
    }

    fn is_since(&self, time: &StatxTimestamp) -> bool {
        let millis = time.tv_sec.saturating_mul(1000).saturating_add(i64::from(time.tv_nsec / 1_000_000));
        millis >= self.since.as_millis()
    }
}
