//! What makes a process more than others of its user.

use rustix::process::{DumpableBehavior, getegid, geteuid, getgroups, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups};

use nix::sched::{CloneFlags, unshare};

/// Namespaces that a worker has no use for, each new and empty.
pub(super) const EMPTY: CloneFlags =
    CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWIPC).union(CloneFlags::CLONE_NEWUTS);

/// The exit status of a worker that is stuck in a user namespace without a user;
/// where this happens, the host's workers do without from then on.
pub(crate) const NO_NAMESPACE: i32 = 77;

/// Which namespaces the process made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// None could be made.
    None,
    /// Empty ones, among them none of users.
    Empty,
    /// Those, and one of users, by which the kernel counts what a user has.
    OfItsUser,
}

/// Moves into an empty network namespace: as root, or by a user namespace in
/// which this user is itself and nobody else is anybody.
pub(super) fn leave_network() -> Namespaces {
    if unshare(EMPTY).is_ok() {
        return Namespaces::Empty;
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // With its own mounts, of which a copy may then be made.
    if unshare(EMPTY | CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).is_err() {
        return Namespaces::None;
    }
    // Unmapped, the process could make no file in a workspace.
    let write = |name: &str, text: String| std::fs::write(format!("/proc/self/{name}"), text);
    let mapped = write("setgroups", "deny".into())
        .and_then(|()| write("uid_map", format!("{user} {user} 1")))
        .and_then(|()| write("gid_map", format!("{group} {group} 1")));
    if mapped.is_err() {
        // There is no way back out of the namespace, and none to work in it.
        std::process::exit(NO_NAMESPACE);
    }
    Namespaces::OfItsUser
}

/// Gives every capability up but those `kept`, of which none is gained, for
/// good: with no new privileges none comes back.
pub(super) fn drop_capabilities(kept: CapabilitySet) -> bool {
    let kept = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted.intersection(kept));
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).is_ok()
}

/// Leaves every group but that of the user. False if one is left.
pub(super) fn leave_groups() -> bool {
    // Only root may. This thread is the only one.
    let _ = set_thread_groups(&[]);
    getgroups().is_ok_and(|groups| groups.iter().all(|group| *group == getegid()))
}

/// Lets nobody else of this user trace this process or read its memory.
pub(super) fn hide() -> bool {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}
