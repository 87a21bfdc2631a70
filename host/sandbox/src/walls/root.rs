//! A root directory of its own: which names of files there are at all.
//!
//! No mount namespace, because one does not hide what the host's descriptors
//! lead to: a directory that was opened outside is still below the host's root,
//! and `..` climbs to it. A root that is the process's own directory, on the
//! host's mount, stops a path and `..` alike. It holds as long as the process
//! has no descriptor of a directory elsewhere and may not change its root again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{chdir, chroot, fchdir};

/// The process's own descriptors, by number.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Makes the process's own descriptors its working directory, where the engine
/// opens artefacts by number. If a root of its own is `wanted`, it is a copy of
/// that mount which hangs nowhere: `..` leads no further. None if there is none.
pub(super) fn descriptors(wanted: bool) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let detached = wanted.then(|| open_tree(CWD, DESCRIPTORS, flags).ok()).flatten();
    if let Some(detached) = detached
        && fchdir(&detached).is_ok()
    {
        return Some(detached);
    }
    // Without it nothing can be loaded, which is told when it is tried.
    let _ = chdir(DESCRIPTORS);
    None
}

/// Makes `domain` the root; without one the process's own descriptors are.
pub(super) fn change(domain: Option<BorrowedFd<'_>>, descriptors: &OwnedFd) -> bool {
    let changed = fchdir(domain.unwrap_or(descriptors.as_fd())).and_then(|()| chroot("."));
    // Back to where artefacts are opened, whether it worked or not.
    fchdir(descriptors).is_ok() && changed.is_ok()
}
