//! The second wall: what a worker or a compiler can still reach if a guest
//! breaks out of the engine, or hostile bytes take the compiler over. The first
//! wall is the engine; this one is the kernel's, and knows nothing of the first.
//!
//! | part | takes away | needs |
//! |---|---|---|
//! | no new privileges | set-user-id programs | always there |
//! | capabilities | what root may do | always there |
//! | Landlock | every file but those below one directory; TCP; signals and abstract sockets to others | Linux 5.19, enabled |
//! | seccomp | every system call but the listed ones: no socket, no program, no process, no tracing, no mapping that is writable and executable | always there on this architecture |
//! | network namespace | every interface | root, or user namespaces |
//!
//! The first four are the minimum. What is left open: whether a path exists
//! (Landlock does not hide `stat`), the time, how much is computed, and code of
//! one's own in two steps (write it, then make it executable), which a process
//! that loads compiled components can't be denied by seccomp.
//!
//! Put up while the process is one thread: threads that come later inherit it.

mod files;
mod privileges;
mod syscalls;

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

pub(crate) use privileges::NO_NAMESPACE;
pub(crate) use syscalls::Code;

/// Which parts are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// The process and what it starts never get more rights than it has.
    pub no_new_privs: bool,
    /// No capability is left, whoever the user is.
    pub capabilities: bool,
    /// Only files below its directory.
    pub landlock: bool,
    /// Only listed system calls.
    pub seccomp: bool,
    /// No network interface. An extra: seccomp lets no socket be made.
    pub network_namespace: bool,
}

/// A part of the second wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// See [`Walls::no_new_privs`].
    NoNewPrivs,
    /// See [`Walls::capabilities`].
    Capabilities,
    /// See [`Walls::landlock`].
    Landlock,
    /// See [`Walls::seccomp`].
    Seccomp,
    /// See [`Walls::network_namespace`].
    NetworkNamespace,
}

impl Part {
    /// All of them; the extras last.
    pub const ALL: [Self; 5] =
        [Self::NoNewPrivs, Self::Capabilities, Self::Landlock, Self::Seccomp, Self::NetworkNamespace];

    /// The name of the part, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "no new privileges",
            Self::Capabilities => "no capabilities",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
            Self::NetworkNamespace => "empty network namespace",
        }
    }

    /// Whether a worker must not run guests without it.
    pub fn is_required(self) -> bool {
        self != Self::NetworkNamespace
    }
}

impl Walls {
    /// Whether a part is in force.
    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::NoNewPrivs => self.no_new_privs,
            Part::Capabilities => self.capabilities,
            Part::Landlock => self.landlock,
            Part::Seccomp => self.seccomp,
            Part::NetworkNamespace => self.network_namespace,
        }
    }

    /// The required parts that are missing.
    pub fn missing(&self) -> Vec<Part> {
        Part::ALL.into_iter().filter(|part| part.is_required() && !self.has(*part)).collect()
    }

    /// The parts in force, by name.
    pub fn names(&self) -> Vec<&'static str> {
        Part::ALL.into_iter().filter(|part| self.has(*part)).map(Part::name).collect()
    }
}

/// Gives up privileges and the network: to be done before the engine is made,
/// which keeps descriptors that are judged by the rights of whoever opened them.
pub(crate) fn give_up(without: &[Part]) -> Walls {
    let wanted = |part| !without.contains(&part);
    Walls {
        network_namespace: wanted(Part::NetworkNamespace) && privileges::leave_network(),
        no_new_privs: wanted(Part::NoNewPrivs) && rustix::thread::set_no_new_privs(true).is_ok(),
        capabilities: wanted(Part::Capabilities) && privileges::drop_capabilities(),
        ..Walls::default()
    }
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
    walls: Walls,
    grants: impl IntoIterator<Item = (BorrowedFd<'a>, Reach)>,
    code: Code,
    without: &[Part],
) -> Walls {
    let wanted = |part| walls.no_new_privs && !without.contains(&part);
    Walls {
        landlock: wanted(Part::Landlock) && files::restrict(grants),
        seccomp: wanted(Part::Seccomp) && syscalls::restrict(code),
        ..walls
    }
}

/// All of the second wall but the parts named, around this process: for tests
/// that show what each part keeps away.
#[cfg(feature = "probe")]
pub fn put_up(root: BorrowedFd<'_>, without: &[Part]) -> Walls {
    shut_in(give_up(without), [(root, Reach::Workspaces)], Code::Loaded, without)
}
