//! The second wall: what a worker or a compiler can still reach if a guest
//! breaks out of the engine, or hostile bytes take the compiler over. The first
//! wall is the engine; this one is the kernel's, and knows nothing of the first.
//!
//! | part | takes away | needs |
//! |---|---|---|
//! | no new privileges | set-user-id programs | always there |
//! | capabilities | what root may do | always there |
//! | resource limits | core files; more memory, descriptors and larger files than a child of ours needs | always there |
//! | Landlock | every file but those below one directory; TCP; signals and abstract sockets to others | Linux 5.19, enabled |
//! | seccomp | every system call but the listed ones: no socket, no program, no process, no tracing, no mapping that is writable and executable, none that is shared | always there on this architecture |
//! | network namespace | every interface | root, or user namespaces |
//! | no other groups | what the server's supplementary groups may | root, or a server without any |
//! | not dumpable | being traced, or read through `/proc`, by others of the user | always there |
//! | own user | what belongs to the server's user, files above all; being who others are | root with CAP_SYS_ADMIN, user namespaces, and a file system that maps owners |
//! | few threads | threads without end | a user of its own, or a user namespace (Linux 5.14) |
//! | first to go | the server's life, and others', when the machine runs out of memory | `/proc` |
//! | own root directory | the names of all files but those of its own directory | root, or user namespaces |
//!
//! The first five are the minimum. What is left open: the time, how much is
//! computed, and code of one's own in two steps (write it, then make it
//! executable), which a process that loads compiled components can't be denied
//! by seccomp; and, without a root directory of its own, whether a path exists
//! (Landlock does not hide `stat`).
//!
//! Put up while the process is one thread: threads that come later inherit it.

pub(crate) mod apart;
pub(crate) mod bounds;
mod files;
mod inherited;
mod privileges;
mod root;
mod syscalls;

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

pub(crate) use apart::Apart;
pub use inherited::close_inherited;
pub(crate) use privileges::NO_NAMESPACE;
use privileges::Namespaces;
pub(crate) use syscalls::Code;

/// Which parts are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// The process and what it starts never get more rights than it has.
    pub no_new_privs: bool,
    /// No capability is left, whoever the user is.
    pub capabilities: bool,
    /// So much memory, so many descriptors, files of such a size, and no core file.
    pub bounds: bool,
    /// Only files below its directory.
    pub landlock: bool,
    /// Only listed system calls.
    pub seccomp: bool,
    /// No network interface. An extra: seccomp lets no socket be made.
    pub network_namespace: bool,
    /// No group but that of the user. An extra, as are those below.
    pub groups: bool,
    /// Others of its user can neither trace it nor read its memory.
    pub not_dumpable: bool,
    /// Paths begin at its own directory, so that no other file has a name.
    pub own_root: bool,
    /// The kernel ends it before anything else when the machine runs out of memory.
    pub first_to_go: bool,
    /// Its user is not the server's, nor any other process's.
    pub own_user: bool,
    /// No more threads than a worker needs.
    pub few_threads: bool,
}

/// A part of the second wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// See [`Walls::no_new_privs`].
    NoNewPrivs,
    /// See [`Walls::capabilities`].
    Capabilities,
    /// See [`Walls::bounds`].
    Bounds,
    /// See [`Walls::landlock`].
    Landlock,
    /// See [`Walls::seccomp`].
    Seccomp,
    /// See [`Walls::network_namespace`].
    NetworkNamespace,
    /// See [`Walls::groups`].
    Groups,
    /// See [`Walls::not_dumpable`].
    NotDumpable,
    /// See [`Walls::own_root`].
    OwnRoot,
    /// See [`Walls::first_to_go`].
    FirstToGo,
    /// See [`Walls::own_user`].
    OwnUser,
    /// See [`Walls::few_threads`].
    FewThreads,
}

impl Part {
    /// All of them; the extras last.
    pub const ALL: [Self; 12] = [
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Bounds,
        Self::Landlock,
        Self::Seccomp,
        Self::NetworkNamespace,
        Self::Groups,
        Self::NotDumpable,
        Self::OwnRoot,
        Self::FirstToGo,
        Self::OwnUser,
        Self::FewThreads,
    ];

    /// The name of the part, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "no new privileges",
            Self::Capabilities => "no capabilities",
            Self::Bounds => "resource limits",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
            Self::NetworkNamespace => "empty network namespace",
            Self::Groups => "no supplementary groups",
            Self::NotDumpable => "not dumpable",
            Self::OwnRoot => "own root directory",
            Self::FirstToGo => "first to go when memory runs out",
            Self::OwnUser => "a user of its own",
            Self::FewThreads => "few threads",
        }
    }

    /// What it takes, for people who miss it.
    pub fn needs(self) -> &'static str {
        match self {
            Self::NoNewPrivs | Self::Capabilities | Self::Bounds | Self::NotDumpable => {
                "a kernel that lets a process give up rights"
            }
            Self::Landlock => "Linux 5.19 with Landlock switched on",
            Self::Seccomp => "a kernel with seccomp",
            Self::NetworkNamespace => "root with CAP_SYS_ADMIN, or user namespaces",
            Self::Groups => "a server that has none, or is root",
            Self::OwnRoot => "Linux 5.2, and root with CAP_SYS_ADMIN or user namespaces",
            Self::FirstToGo => "`/proc/self/oom_score_adj`, to be written by the user of the server",
            Self::OwnUser => {
                "a server that is root with CAP_SYS_ADMIN, user namespaces, and its data on a file system that maps \
                 owners: ext4, xfs, btrfs"
            }
            Self::FewThreads => "a user of its own, or user namespaces and Linux 5.14",
        }
    }

    /// Whether a worker must not run guests without it.
    pub fn is_required(self) -> bool {
        matches!(self, Self::NoNewPrivs | Self::Capabilities | Self::Bounds | Self::Landlock | Self::Seccomp)
    }
}

impl Walls {
    /// Whether a part is in force.
    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::NoNewPrivs => self.no_new_privs,
            Part::Capabilities => self.capabilities,
            Part::Bounds => self.bounds,
            Part::Landlock => self.landlock,
            Part::Seccomp => self.seccomp,
            Part::NetworkNamespace => self.network_namespace,
            Part::Groups => self.groups,
            Part::NotDumpable => self.not_dumpable,
            Part::OwnRoot => self.own_root,
            Part::FirstToGo => self.first_to_go,
            Part::OwnUser => self.own_user,
            Part::FewThreads => self.few_threads,
        }
    }

    /// The required parts that are missing.
    pub fn missing(&self) -> Vec<Part> {
        Part::ALL.into_iter().filter(|part| part.is_required() && !self.has(*part)).collect()
    }

    /// The extras that are not in force, each with what it takes.
    pub fn without(&self) -> Vec<String> {
        let absent = Part::ALL.into_iter().filter(|part| !part.is_required() && !self.has(*part));
        absent.map(|part| format!("{} (needs {})", part.name(), part.needs())).collect()
    }

    /// The parts in force, by name.
    pub fn names(&self) -> Vec<&'static str> {
        Part::ALL.into_iter().filter(|part| self.has(*part)).map(Part::name).collect()
    }
}

/// Walls that are half up: the engine is made now.
pub(crate) struct Begun {
    walls: Walls,
    /// See [`root::descriptors`].
    descriptors: Option<OwnedFd>,
}

/// Gives up privileges and the network: to be done before the engine is made,
/// which keeps descriptors that are judged by the rights of whoever opened them.
/// Who is `apart` has given up some of it. `threads` is how many it needs at most.
pub(crate) fn give_up(apart: Option<Apart>, threads: u64, without: &[Part]) -> Begun {
    let wanted = |part| !without.contains(&part);
    // Before the rest: later it could not open the file.
    let first_to_go = wanted(Part::FirstToGo) && bounds::go_first();
    // In a user namespace groups can't be given up any more.
    let groups = wanted(Part::Groups) && privileges::leave_groups();
    let namespaces = match apart {
        Some(_) => Namespaces::OfItsUser,
        None if wanted(Part::NetworkNamespace) => privileges::leave_network(),
        None => Namespaces::None,
    };
    let descriptors = root::descriptors(wanted(Part::OwnRoot));
    // What changing the root needs is kept until then, and is of no use for
    // what the engine opens.
    let kept = if descriptors.is_some() { CapabilitySet::SYS_CHROOT } else { CapabilitySet::empty() };
    let walls = Walls {
        first_to_go,
        network_namespace: namespaces != Namespaces::None,
        groups,
        own_user: apart.is_some(),
        few_threads: wanted(Part::FewThreads) && bounds::few_threads(threads, apart.is_some(), namespaces),
        no_new_privs: wanted(Part::NoNewPrivs) && rustix::thread::set_no_new_privs(true).is_ok(),
        capabilities: wanted(Part::Capabilities) && privileges::drop_capabilities(kept),
        ..Walls::default()
    };
    Begun { walls, descriptors }
}

/// What may be done below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// What tools do.
    Workspaces,
    /// Files whose names are known may be read: a name is a digest.
    Artifacts,
}

/// Shuts the process in: from now on it reaches what lies below these
/// directories. Needs [`Walls::no_new_privs`].
pub(crate) fn shut_in<'a>(
    begun: Begun,
    grants: impl IntoIterator<Item = (BorrowedFd<'a>, Reach)>,
    code: Code,
    without: &[Part],
) -> Walls {
    let Begun { walls, descriptors } = begun;
    let wanted = |part| walls.no_new_privs && !without.contains(&part);
    let grants: Vec<_> = grants.into_iter().collect();
    let domain = grants.iter().find(|(_, reach)| *reach == Reach::Workspaces).map(|(directory, _)| *directory);
    Walls {
        // As the kernel has them: they were set before, each child's own.
        bounds: bounds::hold(),
        own_root: descriptors.is_some_and(|descriptors| root::change(domain, &descriptors)),
        capabilities: walls.capabilities && privileges::drop_capabilities(CapabilitySet::empty()),
        // Not before: what the engine opens of its own process would be denied to it.
        not_dumpable: !without.contains(&Part::NotDumpable) && privileges::hide(),
        landlock: wanted(Part::Landlock) && files::restrict(grants),
        seccomp: wanted(Part::Seccomp) && syscalls::restrict(code),
        ..walls
    }
}

/// All of the second wall but the parts named, around this process: for tests
/// that show what each part keeps away.
#[cfg(feature = "probe")]
pub fn put_up(root: BorrowedFd<'_>, without: &[Part]) -> Walls {
    if !without.contains(&Part::Bounds) {
        // The walls tell whether it worked.
        let _ = bounds::bound().and_then(|()| bounds::at_most(rustix::process::Resource::Data, 1 << 30));
    }
    shut_in(give_up(None, bounds::WORKER_THREADS, without), [(root, Reach::Workspaces)], Code::Loaded, without)
}
