//! How the child gives up what it does not need, before it reads a byte that
//! others wrote: resource limits, the way to more privileges, and with Landlock
//! every file but the workspace (and, for git, its own program, the system's
//! certificates and one port). Where the kernel has no Landlock the rest still
//! stands, and the report says so.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};

use super::protocol::{GitJob, Kind, Remote, Request};

/// What is wanted of the kernel; it gives what it has.
const WANTED: ABI = ABI::V6;
/// Open files: git's packs and pipes.
const DESCRIPTORS: u64 = 256;
/// Address space: a decompressor and buffers, or git's maps of a pack.
const MEMORY_ARCHIVE: u64 = 1 << 30;
const MEMORY_GIT: u64 = 4 << 30;
/// A pack is a little larger than what it holds.
const FILE_OVERHEAD: u64 = 64 << 20;
/// An archive has headers for each entry, with its path.
const ENTRY_OVERHEAD: u64 = 8 << 10;

/// Where programs lie that git consists of.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"];
/// What name lookups and TLS read.
const SYSTEM: &[&str] = &[
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gnutls",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/dev/urandom",
    "/dev/zero",
];

/// Added to the niceness of this process and of those it starts.
const NICE: i32 = 10;

/// Sets the limits of this process and of those it starts.
pub(super) fn limit(kind: Kind, request: &Request) -> rustix::io::Result<()> {
    // When the machine runs out of memory the kernel is to end this, and git, before the
    // server. One that can't say so does its work all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // Nor is it to take the processor from the server.
    rustix::process::nice(NICE)?;
    let git = request.git.is_some();
    let headers = if kind == Kind::Pack { request.limits.max_entries.saturating_mul(ENTRY_OVERHEAD) } else { 0 };
    let file = request.limits.max_bytes.saturating_add(FILE_OVERHEAD).saturating_add(headers);
    for (resource, value) in [
        (Resource::Core, 0),
        (Resource::Cpu, request.seconds),
        (Resource::Fsize, file),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::As, if git { MEMORY_GIT } else { MEMORY_ARCHIVE }),
    ] {
        // Never more than what this process was given.
        let hard = rustix::process::getrlimit(resource).maximum;
        let value = hard.map_or(value, |hard| hard.min(value));
        rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    rustix::thread::set_no_new_privs(true)
}

/// Confines this thread, and those it starts. False if the kernel can't.
pub(super) fn confine(root: BorrowedFd<'_>, kind: Kind, git: Option<&GitJob>) -> bool {
    let confined = match (kind, git) {
        (_, Some(job)) => confine_git(root, job),
        // Nothing is written but the open file, which no rule is about.
        (Kind::Pack, None) => confine_to(root, AccessFs::ReadFile | AccessFs::ReadDir),
        // A hard link in another directory than the first name.
        (Kind::Unpack, None) => confine_to(root, fill_access() | AccessFs::Refer),
        (Kind::Archive | Kind::Git, None) => confine_to(root, fill_access()),
    };
    confined.is_ok_and(|confined| confined)
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()
}

fn enforce(rules: RulesetCreated) -> Result<bool, RulesetError> {
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// What the writer of a workspace does there; it runs nothing in it.
fn fill_access() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
}

fn confine_to(root: BorrowedFd<'_>, access: BitFlags<AccessFs>) -> Result<bool, RulesetError> {
    enforce(ruleset()?.add_rule(PathBeneath::new(root, access))?)
}

fn confine_git(root: BorrowedFd<'_>, job: &GitJob) -> Result<bool, RulesetError> {
    let execute = AccessFs::from_read(WANTED);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = ruleset()?.add_rule(PathBeneath::new(root, fill_access()))?;
    for path in PROGRAMS.iter().map(PathBuf::from).chain(prefix(&job.git)) {
        rules = allow(rules, &path, execute)?;
    }
    for path in SYSTEM {
        rules = allow(rules, Path::new(path), read)?;
    }
    rules = allow(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    rules = allow(rules, &job.staging, AccessFs::from_all(WANTED) & !AccessFs::Execute)?;
    match &job.remote {
        Remote::Local { path } => rules = allow(rules, path, read)?,
        Remote::Https { port, .. } => rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?,
    }
    enforce(rules)
}

/// Where a git lies that the operator named by path: `<prefix>/bin/git`.
fn prefix(git: &Path) -> Option<PathBuf> {
    let prefix = git.is_absolute().then(|| git.parent()?.parent().map(Path::to_owned))??;
    // A git in /bin must not open everything.
    (prefix != Path::new("/")).then_some(prefix)
}

/// Allows what is there; what isn't needs no rule.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(fd) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
    rules.add_rule(PathBeneath::new(fd, access))
}
