//! What the kernel lets the process take, whatever its code says: no core file (it
//! would have others' arguments in it), so many descriptors, so much memory, files of
//! such a size. They can't be raised again: what that takes is given up.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use super::privileges::Namespaces;
use crate::bounds::MAX_FILE_SIZE;

/// Descriptors that the process may have open: a worker's calls' handles share them.
const DESCRIPTORS: u64 = 16 * 1024;

/// The stack of the first thread, as it is by default. `RLIMIT_DATA` does not count it, and
/// a server may be started without a limit.
const STACK: u64 = 8 << 20;

/// Threads of a worker, which makes some five.
pub(crate) const WORKER_THREADS: u64 = 64;

/// Threads of a compiler, which makes one for each core.
pub(crate) const COMPILER_THREADS: u64 = 1_024;

/// Largest file that a child of ours makes: a workspace's, or an artefact.
const FILE: u64 = MAX_FILE_SIZE;

/// Bounds the process, but for its memory. Called before it starts a thread: what a
/// guest writes behind the largest size is refused in all of them, and ends none.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn bound() -> io::Result<()> {
    at_most(Resource::Core, 0)?;
    at_most(Resource::Nofile, DESCRIPTORS)?;
    at_most(Resource::Stack, STACK)?;
    // By default it ends the process, with all calls in it.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    at_most(Resource::Fsize, FILE)
}

/// Bounds one thing, or leaves it where it is if that is lower.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn at_most(resource: Resource, wanted: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let wanted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    Ok(setrlimit(resource, Rlimit { current: Some(wanted), maximum: Some(wanted) })?)
}

/// Has the kernel end this process before any other, the server above all, when the
/// machine runs out of memory: it takes only its own calls along. Raising the score needs
/// no right; lowering it again takes the file, which is out of reach behind the wall.
pub(super) fn go_first() -> bool {
    std::fs::write("/proc/self/oom_score_adj", "1000").is_ok()
}

/// Bounds the threads of a process whose user has no others: that user is `its_own`, or the
/// kernel counts a user's threads by namespace, which Linux does since 5.14. Root may have
/// any number, whatever namespace it is in; of others, processes elsewhere would count.
/// False if it can't be.
pub(super) fn few_threads(threads: u64, its_own: bool, namespaces: Namespaces) -> bool {
    let counted = its_own || (namespaces == Namespaces::OfItsUser && !geteuid().is_root() && is_since(5, 14));
    counted && at_most(Resource::Nproc, threads).is_ok()
}

/// Whether the kernel is of this version or later.
fn is_since(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(|char: char| !char.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    (number(), number()) >= (Some(major), Some(minor))
}

/// Whether the process is bounded, its memory included.
pub(super) fn hold() -> bool {
    let within = |resource, most: u64| getrlimit(resource).maximum.is_some_and(|maximum| maximum <= most);
    let memory = [Resource::Data, Resource::As].into_iter().any(|resource| getrlimit(resource).maximum.is_some());
    let small = within(Resource::Core, 0) && within(Resource::Nofile, DESCRIPTORS) && within(Resource::Stack, STACK);
    small && within(Resource::Fsize, FILE) && memory
}
