//! A user of its own: what the kernel lets this process do with files and other
//! processes is no longer what it lets the server do.
//!
//! Only a server that is root can give one away. The process makes a user namespace in
//! which it is itself; its host (`host/apart.rs`) says who that is outside: a user whom
//! nobody else is, and whose files are none but those that the host shows it as its own.

use rustix::process::{DumpableBehavior, Signal, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

use nix::sched::{CloneFlags, unshare};

use super::bounds;
use super::privileges::{EMPTY, leave_groups};

/// A process that left its user and is nobody yet.
pub(crate) struct Leaving {
    user: Uid,
    group: Gid,
}

/// A process that has a user of its own, and the namespaces that it made with it.
pub(crate) struct Apart(());

/// Leaves the server's user for a namespace in which the process is nobody until its host
/// says who it is. None if the kernel does not let it, and then nothing has changed.
pub(crate) fn leave() -> Option<Leaving> {
    let (user, group) = (geteuid(), getegid());
    // Both take rights that are left behind.
    bounds::go_first();
    leave_groups();
    // With its own mounts, of which a copy may then be made.
    unshare(EMPTY | CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).ok()?;
    Some(Leaving { user, group })
}

impl Leaving {
    /// Becomes who the host said; within the namespace that has the name of whom it left.
    ///
    /// # Errors
    /// If the host did not say.
    pub(crate) fn settle(self) -> rustix::io::Result<Apart> {
        // This thread is the only one.
        set_thread_res_gid(self.group, self.group, self.group)?;
        set_thread_res_uid(self.user, self.user, self.user)?;
        // Who changes its user loses both. Being dumpable is given up again, once what
        // the engine opens of its own process is open.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(Apart(()))
    }
}
