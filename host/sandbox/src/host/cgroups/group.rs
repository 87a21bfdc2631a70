//! Groups as directories: made, filled, removed. Only directories are removed,
//! and only by `rmdir`, which the kernel refuses while a process is in them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::find::{Controller, Parent, SERVER, Version};

/// What names of groups of servers begin with; their process id follows.
const PREFIX: &str = "bulkhead-";
/// Deepest that groups of ours lie: server, owner, process.
const DEPTH: u32 = 3;
/// Tries to make a group that somebody else removes at the same moment.
const TRIES: u32 = 5;

/// The groups of one server in one hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) directory: PathBuf,
    /// What all in it may use together, in bytes, if that is bounded here.
    pub(super) memory: Option<u64>,
    /// Tells others that the server lives.
    _lock: OwnedFd,
}

/// What a group may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// In bytes, with what the kernel keeps for it.
    pub(crate) memory: u64,
    /// Threads and processes.
    pub(crate) pids: u64,
}

/// The memory that all workers and compilers may use together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    /// What the operator wants, in bytes; three quarters of what there is if nothing.
    pub(super) wanted: Option<u64>,
    /// What the machine has, if that can be told.
    pub(super) machine: Option<u64>,
}

impl Total {
    /// In a group that may use so much itself.
    fn within(self, limit: Option<u64>) -> Option<u64> {
        self.wanted.or_else(|| Some(self.machine.into_iter().chain(limit).min()? / 4 * 3))
    }
}

impl Hierarchy {
    /// Takes away what servers left that are gone, and makes a group for this
    /// one, of this weight (1024 is that of one process that is not nice) and this memory.
    pub(super) fn set_up(parent: Parent, weight: u64, memory: Total) -> io::Result<Self> {
        let Parent { version, controllers, directory, own } = parent;
        if version == Version::Two {
            divide(&directory, &controllers, own)?;
        }
        sweep(&directory);
        let memory = controllers.contains(&Controller::Memory).then(|| memory.within(limit_of(&directory, version)));
        let (directory, lock) = make(&directory)?;
        let hierarchy = Self { version, controllers, directory, memory: memory.flatten(), _lock: lock };
        if hierarchy.version == Version::Two {
            divide(&hierarchy.directory, &hierarchy.controllers, false)?;
        }
        if let Some(memory) = hierarchy.memory {
            if version == Version::One {
                // Kernels before 5.11 count what is in groups below only if they are told to.
                drop(write(&hierarchy.directory, "memory.use_hierarchy", 1));
            }
            write(&hierarchy.directory, memory_file(version), memory)?;
        }
        if hierarchy.controllers.contains(&Controller::Cpu) {
            match version {
                Version::One => write(&hierarchy.directory, "cpu.shares", weight.clamp(2, 262_144))?,
                Version::Two => write(&hierarchy.directory, "cpu.weight", (weight * 100 / 1024).clamp(1, 10_000))?,
            }
        }
        Ok(hierarchy)
    }

    /// Makes a group for one process of `owner`. Owners weigh the same.
    pub(super) fn cell(&self, owner: &str, name: &str, allowance: Allowance) -> io::Result<PathBuf> {
        let owners = self.directory.join(owner);
        let cell = owners.join(name);
        let mut tries = 0;
        loop {
            let made = there(fs::create_dir(&owners)).and_then(|()| fs::create_dir(&cell));
            match made {
                // The owner's last process ended, and its group went.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                made => break made?,
            }
        }
        let fill = || -> io::Result<()> {
            if self.version == Version::Two {
                divide(&owners, &self.controllers, false)?;
            }
            for controller in &self.controllers {
                match (controller, self.version) {
                    (Controller::Memory, version) => write(&cell, memory_file(version), allowance.memory)?,
                    (Controller::Pids, _) => write(&cell, "pids.max", allowance.pids)?,
                    // Within an owner all weigh the same, too.
                    (Controller::Cpu, _) => {}
                }
            }
            Ok(())
        };
        fill().inspect_err(|_| remove(&cell))?;
        Ok(cell)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        remove_below(&self.directory, DEPTH);
    }
}

fn memory_file(version: Version) -> &'static str {
    match version {
        Version::One => "memory.limit_in_bytes",
        Version::Two => "memory.max",
    }
}

/// The memory that a group and all in it may use; none if that is not bounded.
fn limit_of(group: &Path, version: Version) -> Option<u64> {
    let text = fs::read_to_string(group.join(memory_file(version))).ok()?;
    text.trim().parse().ok()
}

/// Whether the kernel ended a process of this group because memory ran out.
pub(super) fn ran_out(cell: &Path) -> bool {
    let told = ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(cell.join(file)));
    let mut lines = told.iter().flatten().flat_map(|text| text.lines());
    lines.any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
}

/// Puts a process into a group. It must not have been waited for.
pub(super) fn put(cell: &Path, pid: u32) -> io::Result<()> {
    write(cell, "cgroup.procs", pid.into())
}

/// Removes a process's group, and its owner's if it was the last.
pub(super) fn remove(cell: &Path) {
    let removed = fs::remove_dir(cell).and_then(|()| cell.parent().map_or(Ok(()), fs::remove_dir));
    // The owner has others, or the next server removes it.
    drop(removed);
}

/// Lets groups below use controllers. A group that has processes can't be
/// divided, unless it is the topmost.
fn divide(directory: &Path, controllers: &[Controller], own: bool) -> io::Result<()> {
    let wanted: Vec<String> = controllers.iter().map(|controller| format!("+{}", controller.name())).collect();
    let divided = fs::write(directory.join("cgroup.subtree_control"), wanted.join(" "));
    match divided {
        Err(error) if own && Errno::from_io_error(&error) == Some(Errno::BUSY) => {
            let server = directory.join(SERVER);
            there(fs::create_dir(&server))?;
            put(&server, std::process::id())?;
            fs::write(directory.join("cgroup.subtree_control"), wanted.join(" "))
        }
        divided => divided,
    }
}

fn write(group: &Path, file: &str, value: u64) -> io::Result<()> {
    fs::write(group.join(file), value.to_string())
}

fn there(made: io::Result<()>) -> io::Result<()> {
    made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

/// A group of this server's own, locked.
fn make(parent: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let pid = std::process::id();
    for number in 0..64 {
        // One process may hold several sandboxes, and ids come again in containers.
        let directory = parent.join(format!("{PREFIX}{pid}-{number}"));
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        if let Ok(lock) = lock(&directory)
            && is_same(&lock, &directory)
        {
            return Ok((directory, lock));
        }
    }
    Err(io::Error::other(format!("all names for groups are taken in {}", parent.display())))
}

fn lock(directory: &Path) -> io::Result<OwnedFd> {
    let opened: OwnedFd = fs::File::open(directory)?.into();
    flock(&opened, FlockOperation::NonBlockingLockExclusive)?;
    Ok(opened)
}

/// Whether a group is still there, and not swept between making and locking.
fn is_same(lock: &OwnedFd, directory: &Path) -> bool {
    let held = rustix::fs::fstat(lock).map(|stat| stat.st_ino);
    fs::metadata(directory).is_ok_and(|there| held == Ok(there.ino()))
}

/// Removes the groups of servers that are gone: nobody holds their lock.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let ours = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || c == '-'));
        if ours && let Ok(_lock) = lock(&entry.path()) {
            remove_below(&entry.path(), DEPTH);
        }
    }
}

/// Removes a group and those below. One with a process in it stays.
fn remove_below(directory: &Path, depth: u32) {
    if depth > 1
        && let Ok(entries) = fs::read_dir(directory)
    {
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_below(&entry.path(), depth - 1);
            }
        }
    }
    if let Err(error) = fs::remove_dir(directory) {
        tracing::debug!(group = %directory.display(), %error, "a control group stays");
    }
}
