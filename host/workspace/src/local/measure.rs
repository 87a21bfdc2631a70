//! Measuring what a tree takes that hostile code made, and may change meanwhile:
//! as deep and as wide as the disk allows.
//!
//! A path would not do: it has an end, and a guest that moves one tree below
//! another makes one that no path leads to. So the way down is by descriptor,
//! name by name. The lowest few directories are held open; of those above it is
//! remembered which they are and how far they were read, and the way back up is
//! `..`. A directory that was moved meanwhile has another `..`: then the way down
//! is gone again from the top, as far as everything is where it was, and what was
//! moved is read on where it is met.
//!
//! What stays where it is is counted, and once. What is moved during the walk from
//! where it has yet to come to where it has been may be missed, as by every walk;
//! the next one finds it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::WorkspaceError;
use bulkhead_core::quota::Extent;
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, StatxFlags};
use rustix::io::{Errno, Result};

use crate::{beneath, error, remove};

/// Directories that are held open, the lowest on the way down.
const HELD: usize = 32;
/// Directories that are remembered to have been read, some 20 MB of them. Of more
/// than these one that is moved ahead of the walk is counted once more.
const REMEMBERED: usize = 900_000;
/// How often the way down is gone again. Who moves directories faster than this
/// is not measured until there is quiet.
const SEARCHES: u32 = 16;
/// Entries looked at. `limits.workspace_entries` is at most half of it, so nobody
/// comes to this by what may be made.
const MAX_LOOKED_AT: u64 = 200_000_000;

/// What everything in a directory takes.
///
/// # Errors
/// If it has no end, or changes too fast. There is no number for that: a large one
/// would take the room of other tasks of the same user, a small one would give room.
pub(super) fn measure(root: BorrowedFd<'_>) -> std::result::Result<Extent, WorkspaceError> {
    measure_within(root, MAX_LOOKED_AT)
}

fn measure_within(root: BorrowedFd<'_>, most: u64) -> std::result::Result<Extent, WorkspaceError> {
    let path = WorkspacePath::root();
    let meaning = error::at(&path);
    let mut measuring = Measuring::begin(root).map_err(&meaning)?;
    while measuring.step().map_err(&meaning)? {
        if measuring.looked_at > most {
            return Err(WorkspaceError::OverLimit { what: "what is looked at to measure the files", limit: most });
        }
        if measuring.searches > SEARCHES {
            let what = "how often directories are moved while the files are measured";
            return Err(WorkspaceError::OverLimit { what, limit: SEARCHES.into() });
        }
    }
    Ok(measuring.found)
}

/// Device and inode.
type Id = (u64, u64);

fn id_of(directory: BorrowedFd<'_>) -> Result<Id> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// How far a directory was read.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The kernel's own mark of a place in a directory, just before an entry.
    at: i64,
    /// The inode of that entry if there is nothing more to do about it; else zero.
    done: u64,
}

/// A directory on the way down. However deep it is, its maker paid more for it, in
/// an inode and a block of the disk, than is kept of it here.
struct Level {
    id: Id,
    /// Where in it the way leads on; the entry is done when the walk is back.
    place: Place,
}

/// A directory that is held open.
struct Held {
    dir: Dir,
    /// Where the entry is that was read last.
    at: i64,
    /// Where the one after it is.
    next: i64,
    /// As [`Place::done`], until the first entry is read.
    done: u64,
}

impl Held {
    fn read(&mut self) -> Result<Option<DirEntry>> {
        loop {
            let Some(entry) = self.dir.read().transpose()? else { return Ok(None) };
            self.at = self.next;
            self.next = entry.offset();
            if !remove::is_dots(entry.file_name()) && std::mem::take(&mut self.done) != entry.ino() {
                return Ok(Some(entry));
            }
        }
    }
}

struct Measuring<'a> {
    root: BorrowedFd<'a>,
    /// From the root down to the directory that is read.
    levels: Vec<Level>,
    /// The lowest of them.
    held: VecDeque<Held>,
    /// All that were entered. Without it who moves a directory ahead of the walk,
    /// again and again, is measured without end.
    entered: HashSet<Id>,
    /// Those that were not read to their end when the way to them was lost.
    lost: HashMap<Id, Place>,
    found: Extent,
    looked_at: u64,
    searches: u32,
}

impl<'a> Measuring<'a> {
    fn begin(root: BorrowedFd<'a>) -> Result<Self> {
        let mut measuring = Self {
            root,
            levels: Vec::new(),
            held: VecDeque::with_capacity(HELD + 1),
            entered: HashSet::new(),
            lost: HashMap::new(),
            found: Extent::default(),
            looked_at: 0,
            searches: 0,
        };
        measuring.enter(beneath::open_dir(root, b"")?)?;
        // It holds what is counted, and is none of it.
        measuring.found = Extent::default();
        Ok(measuring)
    }

    /// Looks at one entry, or leaves a directory. False once there is nothing left.
    fn step(&mut self) -> Result<bool> {
        let Some(held) = self.held.back_mut() else { return Ok(false) };
        match held.read()? {
            Some(entry) => self.look(&entry)?,
            None => self.leave()?,
        }
        Ok(true)
    }

    fn look(&mut self, entry: &DirEntry) -> Result<()> {
        self.looked_at += 1;
        let Some(Held { dir, at, .. }) = self.held.back() else { return Ok(()) };
        let (dir, name) = (dir.fd()?, entry.file_name());
        let mask = StatxFlags::TYPE | StatxFlags::SIZE;
        let stat = match rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, mask) {
            Err(Errno::NOENT) => return Ok(()),
            // It could be entered a moment ago: its rights were taken meanwhile.
            Err(Errno::ACCESS) => return self.leave(),
            result => result?,
        };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => self.found.bytes = self.found.bytes.saturating_add(stat.stx_size),
            FileType::Directory => {
                // The dot, as looking at what is in it takes the right to pass it, too.
                let open = |dir: BorrowedFd<'_>, name: &[u8]| beneath::open_dir(dir, &[name, b"/."].concat());
                match remove::unlocked(dir, name, open) {
                    Ok(directory) => {
                        if let Some(level) = self.levels.last_mut() {
                            level.place = Place { at: *at, done: entry.ino() };
                        }
                        return self.enter(directory);
                    }
                    Err(Errno::NOENT) => return Ok(()),
                    // It was swapped, or its rights can't be had: it is an entry all the same.
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS | Errno::PERM) => {}
                    Err(errno) => return Err(errno),
                }
            }
            _ => {}
        }
        self.found.entries += 1;
        Ok(())
    }

    /// Counts a directory, and goes on in it; not if that was done already.
    fn enter(&mut self, directory: OwnedFd) -> Result<()> {
        let id = id_of(directory.as_fd())?;
        let place = match self.lost.remove(&id) {
            Some(place) => place,
            None if self.entered.contains(&id) => return Ok(()),
            None => {
                if self.entered.len() < REMEMBERED {
                    self.entered.insert(id);
                }
                self.found.entries += 1;
                Place::default()
            }
        };
        self.levels.push(Level { id, place });
        self.hold(directory, place)
    }

    fn hold(&mut self, directory: OwnedFd, place: Place) -> Result<()> {
        let mut dir = Dir::new(directory)?;
        if place.at != 0 {
            dir.seek(place.at)?;
        }
        self.held.push_back(Held { dir, at: place.at, next: place.at, done: place.done });
        if self.held.len() > HELD {
            self.held.pop_front();
        }
        Ok(())
    }

    /// Goes back to the directory above.
    fn leave(&mut self) -> Result<()> {
        self.levels.pop();
        let left = self.held.pop_back();
        let (Some(Level { id, place }), Some(left)) = (self.levels.last(), left) else { return Ok(()) };
        if !self.held.is_empty() {
            return Ok(());
        }
        // Where it is by now, which may be elsewhere.
        match beneath::open_above(left.dir.fd()?) {
            Ok(above) if id_of(above.as_fd())? == *id => self.hold(above, *place),
            _ => self.search(),
        }
    }

    /// Goes down from the top once more. What is not where it was is read on from where
    /// it was left once it is met.
    fn search(&mut self) -> Result<()> {
        self.searches += 1;
        let lowest = self.levels.len().saturating_sub(1);
        for (depth, Level { id, place }) in self.levels.drain(..).enumerate() {
            // Above the lowest, the entry at this place is the next of them.
            let done = if depth == lowest { place.done } else { 0 };
            self.lost.insert(id, Place { done, ..place });
        }
        self.held.clear();
        self.enter(beneath::open_dir(self.root, b"")?)
    }
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
