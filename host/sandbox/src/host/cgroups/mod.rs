//! Control groups: what workers and compilers use together is bounded by the
//! kernel, and the processor is shared between tenants and not between their
//! processes. An extra: where no group may be made, limits of each process and
//! the host's own watch are what there is.
//!
//! ```text
//! <parent>/bulkhead-<pid>-<n>/   the server's: the weight of its workers' niceness, memory
//!     <tenant>/                  weighs as much as every other
//!         <n>/                   one process: memory, threads
//! ```

mod find;
mod group;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use find::CgroupParent;
#[cfg(test)]
use find::Version;
use find::{Controller, Parent, Seen};
pub(super) use group::Allowance;
use group::{Hierarchy, Total};

/// Which control groups hold workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupReport {
    /// What is limited, by the kernel's names: `memory`, `cpu`, `pids`.
    pub in_force: Vec<&'static str>,
    /// What is not, with the reason.
    pub without: Vec<String>,
    /// The memory that workers and compilers may use together, in bytes, if that is limited.
    pub memory: Option<u64>,
}

impl CgroupReport {
    /// What is limited, for people.
    pub fn limited(&self) -> String {
        let show = |name: &&'static str| match self.memory {
            Some(bytes) if *name == "memory" => format!("memory ({} MiB of all together)", bytes >> 20),
            _ => (*name).to_owned(),
        };
        self.in_force.iter().map(show).collect::<Vec<_>>().join(", ")
    }
}

/// The groups of one server.
#[derive(Debug)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    report: CgroupReport,
    next: AtomicU64,
}

impl Cgroups {
    /// Makes what may be made; the processor is shared only with a niceness. All together may
    /// use so much memory, in bytes, or three quarters of what there is.
    pub(super) fn set_up(wanted: &CgroupParent, nice: Option<u8>, memory: Option<u64>) -> Arc<Self> {
        if *wanted == CgroupParent::Off {
            return Arc::new(Self::empty("`workers.cgroup` is off"));
        }
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}"));
        let (Ok(groups), Ok(mounts)) = (read("cgroup"), read("mountinfo")) else {
            return Arc::new(Self::empty("/proc does not tell of them"));
        };
        let seen = Seen { groups: &groups, mounts: &mounts };
        let found = Controller::ALL.map(|controller| {
            let parent = match (controller, nice) {
                (Controller::Cpu, None) => Err("`workers.cgroup_cpu` is off".to_owned()),
                _ => seen.parent(controller, wanted, is_handed_over, is_offered),
            };
            (controller, parent)
        });
        let memory = Total { wanted: memory, machine: machine_memory() };
        Arc::new(Self::within(found, weight(nice.unwrap_or_default()), memory))
    }

    fn empty(why: &str) -> Self {
        let without = Controller::ALL.map(|controller| format!("{} ({why})", controller.name())).to_vec();
        let report = CgroupReport { without, ..CgroupReport::default() };
        Self { hierarchies: Vec::new(), report, next: AtomicU64::default() }
    }

    fn within(found: [(Controller, Result<Parent, String>); 3], weight: u64, memory: Total) -> Self {
        let mut report = CgroupReport::default();
        let mut parents: Vec<Parent> = Vec::new();
        for (controller, found) in found {
            match found {
                Ok(parent) => match parents.iter_mut().find(|other| other.directory == parent.directory) {
                    Some(other) => other.controllers.push(controller),
                    None => parents.push(parent),
                },
                Err(why) => report.without.push(format!("{} ({why})", controller.name())),
            }
        }
        let mut hierarchies = Vec::new();
        for parent in parents {
            let names: Vec<_> = parent.controllers.iter().map(|controller| controller.name()).collect();
            let place = parent.directory.display().to_string();
            match Hierarchy::set_up(parent, weight, memory) {
                Ok(hierarchy) => {
                    report.in_force.extend(names);
                    report.memory = report.memory.or(hierarchy.memory);
                    hierarchies.push(hierarchy);
                }
                Err(error) => {
                    report.without.extend(names.iter().map(|name| format!("{name} (no group in {place}: {error})")));
                }
            }
        }
        Self { hierarchies, report, next: AtomicU64::default() }
    }

    pub(super) fn report(&self) -> &CgroupReport {
        &self.report
    }

    /// Makes a group for one process of an owner. None if there are no groups,
    /// or this one could not be made.
    fn cell(self: &Arc<Self>, owner: &str, allowance: Allowance) -> Option<Cell> {
        if self.hierarchies.is_empty() {
            return None;
        }
        let name = self.next.fetch_add(1, Relaxed).to_string();
        let mut cell = Cell { directories: Vec::new(), _groups: self.clone() };
        for hierarchy in &self.hierarchies {
            match hierarchy.cell(owner, &name, allowance) {
                Ok(directory) => cell.directories.push(directory),
                Err(error) => tracing::warn!(owner, %error, "a process runs outside its control group"),
            }
        }
        Some(cell)
    }

    /// Makes a group for a process that runs, and puts it in.
    pub(super) fn hold(self: &Arc<Self>, owner: &str, allowance: Allowance, pid: Option<u32>) -> Option<Cell> {
        let cell = self.cell(owner, allowance)?;
        // One that was waited for has no id any more, and it may be another's.
        pid.into_iter().for_each(|pid| cell.put(pid));
        Some(cell)
    }
}

/// The groups of one process, removed when this is dropped: after the process
/// has been waited for.
#[derive(Debug)]
pub(super) struct Cell {
    directories: Vec<PathBuf>,
    _groups: Arc<Cgroups>,
}

impl Cell {
    /// Puts a process in, which must not have been waited for. It may block for
    /// some ten milliseconds: the kernel waits until no process is being made.
    fn put(&self, pid: u32) {
        for directory in &self.directories {
            if let Err(error) = group::put(directory, pid) {
                tracing::warn!(pid, %error, "a process runs outside its control group");
            }
        }
    }
}

impl Cell {
    /// Whether the kernel ended its process because memory ran out: that of the process, or of
    /// all together.
    pub(super) fn ran_out(&self) -> bool {
        self.directories.iter().any(|directory| group::ran_out(directory))
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.directories.iter().for_each(|directory| group::remove(directory));
    }
}

/// The share of the processor that all workers have together against the
/// server: that of one niced process on each core, as the kernel weighs them.
fn weight(nice: u8) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let one = (0..nice.min(19)).fold(1024, |weight, _| weight * 4 / 5);
    one * cores
}

fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether a service manager marked a group as ours.
fn is_handed_over(directory: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(directory, *name, &mut value)
            .is_ok_and(|length| value.get(..length).is_some_and(|value| value == b"1"))
    })
}

fn is_offered(directory: &Path, controller: Controller) -> bool {
    fs::read_to_string(directory.join("cgroup.controllers"))
        .is_ok_and(|list| list.split_whitespace().any(|name| name == controller.name()))
}
