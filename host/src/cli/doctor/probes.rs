//! The checks of `doctor`. They look and change nothing.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_core::ports::sandbox::Sandbox as _;
use bulkhead_sandbox::{CgroupReport, Part, Walls, WasmConfig, WasmSandbox};
use landlock::{ABI, Access as _, AccessFs, LandlockStatus, Ruleset, RulesetAttr as _};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Resource, getrlimit};

use super::super::units::show_bytes;
use super::Check;
use super::Need::{Optional, Recommended, Required};
use crate::builtin;
use crate::config::{Config, Isolation, KernelQuota};

/// Below this a busy server runs out: sockets, workspaces, components.
const DESCRIPTORS: u64 = 4_096;
/// The default of Linux; each waiting guest takes some six mappings.
const MAPPINGS: u64 = 65_530;
/// Below this the disk is full soon.
const FREE: u64 = 1 << 30;
/// A worker, a compiler and the database.
const MEMORY: u64 = 1 << 30;

/// Every check.
pub(super) fn all(config: &Config) -> Vec<Check> {
    let worker = worker(config);
    vec![
        kernel(),
        openat2(),
        landlock(),
        walls(config, worker.as_ref().map(|(walls, _)| walls)),
        extras(worker.as_ref().map(|(walls, _)| walls)),
        user(worker.as_ref().ok().map(|(walls, _)| walls)),
        addresses(),
        mappings(),
        descriptors(),
        swap(),
        machine(),
        cgroups(worker.as_ref().map(|(_, groups)| groups)),
        kvm(),
        git(),
        tools(),
        data(&config.data),
        kernel_quota(config),
    ]
    .into_iter()
    .chain(super::database::checks(config))
    .collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Check {
    let name = rustix::system::uname();
    let found =
        format!("{} {} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy(), std::env::consts::ARCH);
    let known = cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")));
    Check::new("kernel", Required, known, found, "use Linux on x86_64 or aarch64")
}

/// All file access of the host depends on it.
fn openat2() -> Check {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let tried = root.and_then(|root| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(root.as_fd(), ".", flags, Mode::empty(), ResolveFlags::BENEATH)
    });
    let found = tried.as_ref().map_or_else(|errno| format!("refused: {errno}"), |_| "works".into());
    let remedy =
        "use Linux 5.6 or newer; in a container, a seccomp profile that allows openat2 (Docker 20.10 or newer)";
    Check::new("openat2", Required, tried.is_ok(), found, remedy)
}

/// Asked of a thread that ends at once, because asking restricts who asks.
fn landlock() -> Check {
    let asked = std::thread::spawn(|| {
        let ruleset = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).ok()?;
        Some(ruleset.create().ok()?.restrict_self().ok()?.landlock)
    });
    let (ok, found) = match asked.join().ok().flatten() {
        Some(LandlockStatus::Available { effective_abi, kernel_abi }) => {
            (true, kernel_abi.map_or_else(|| format!("ABI {}", effective_abi as i32), |abi| format!("ABI {abi}")))
        }
        Some(LandlockStatus::NotEnabled) => (false, "switched off".into()),
        _ => (false, "not in this kernel".to_owned()),
    };
    let remedy = "use Linux 5.19 or newer and add landlock to the kernel's lsm= list; without it one wall around imports and workers is missing";
    Check::new("landlock", Recommended, ok, found, remedy)
}

/// What the minimum takes, asked of a real worker.
fn walls(config: &Config, worker: Result<&Walls, &String>) -> Check {
    let remedy = "see `landlock`; in a container, a seccomp profile that allows seccomp and prctl; without it the server starts only with `workers.isolation = \"best-effort\"`";
    let required = config.workers.isolation != Isolation::BestEffort;
    let need = if required { Required } else { Recommended };
    match worker {
        Ok(walls) => {
            let missing: Vec<&str> = walls.missing().into_iter().map(Part::name).collect();
            let mut found = walls.names().join(", ");
            if !missing.is_empty() {
                found = format!("{found}; missing: {}", missing.join(", "));
            }
            Check::new("worker walls", need, missing.is_empty(), found, remedy)
        }
        Err(reason) => Check::new("worker walls", need, false, reason, remedy),
    }
}

/// What is tried and not demanded.
fn extras(worker: Result<&Walls, &String>) -> Check {
    let remedy =
        "nothing depends on it; for all of it: a recent kernel, and user namespaces or a server that runs as root";
    let without = worker.map_or_else(|reason| vec![reason.clone()], Walls::without);
    let found = if without.is_empty() { "all in force".into() } else { format!("without: {}", without.join(", ")) };
    Check::new("worker extras", Optional, without.is_empty(), found, remedy)
}

/// A server that is root gives each worker a user of its own, if it can.
fn user(walls: Option<&Walls>) -> Check {
    let remedy = "see `worker extras`, or run the server as a user of its own: then a worker that was taken over owns none of root's files";
    let walls = walls.copied().unwrap_or_default();
    let owns_nothing = walls.own_user || !rustix::process::geteuid().is_root();
    Check::new("worker user", Recommended, owns_nothing, WasmSandbox::user_of_workers(&walls), remedy)
}

/// Asks a real worker, which ends at once.
fn worker(config: &Config) -> Result<(Walls, CgroupReport), String> {
    let say = |error: std::io::Error| error.to_string();
    let exe = std::env::current_exe().map_err(say)?;
    let cache = std::env::temp_dir().join(format!("bulkhead-doctor-{}", std::process::id()));
    let wasm = WasmConfig { isolation: bulkhead_sandbox::Isolation::BestEffort, ..config.wasm(exe, cache.clone()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
    let walls = runtime.block_on(async {
        let sandbox = WasmSandbox::new(wasm).map_err(say)?;
        let walls = sandbox.check_walls().await.map_err(|error| error.to_string());
        let walls = walls.map(|walls| (walls, sandbox.cgroups().clone()));
        sandbox.shutdown().await;
        walls
    });
    // Empty: nothing was compiled.
    let _ = fs::remove_dir(cache);
    walls
}

/// Each memory of a guest reserves 4 GiB of addresses.
fn addresses() -> Check {
    let limit = getrlimit(Resource::As).current;
    let found = limit.map_or_else(|| "unlimited".into(), |limit| format!("limited to {}", show_bytes(limit)));
    let remedy = "lift the limit: ulimit -v unlimited, or LimitAS=infinity of systemd";
    Check::new("address space", Required, limit.is_none(), found, remedy)
}

fn mappings() -> Check {
    let Some(count) = read("/proc/sys/vm/max_map_count").and_then(|text| text.parse::<u64>().ok()) else {
        return Check::new("memory maps", Recommended, false, "unknown", "mount /proc");
    };
    let remedy = "raise it: sysctl vm.max_map_count=262144; workers run out of mappings before they run out of memory";
    Check::new("memory maps", Recommended, count >= MAPPINGS, format!("vm.max_map_count {count}"), remedy)
}

fn descriptors() -> Check {
    let limit = getrlimit(Resource::Nofile);
    let show = |limit: Option<u64>| limit.map_or_else(|| "unlimited".into(), |limit| limit.to_string());
    let found = format!("{} (at most {})", show(limit.current), show(limit.maximum));
    let ok = limit.current.is_none_or(|limit| limit >= DESCRIPTORS);
    Check::new("open files", Recommended, ok, found, "raise it: ulimit -n 65536, or LimitNOFILE=65536 of systemd")
}

/// With swap the fast way of clearing a guest's memory would leave bytes of
/// one guest for the next, so it is not used. A running server looks too.
fn swap() -> Check {
    let swaps = read("/proc/swaps").map(|text| text.lines().skip(1).filter(|line| !line.is_empty()).count());
    let (ok, found) = match swaps {
        Some(0) => {
            (true, "none: memory is cleared by a scan of the page map, until a running server sees swap".to_owned())
        }
        Some(count) => (false, format!("{count} in use: memory is cleared the slow way")),
        None => (false, "unknown: memory is cleared the slow way".into()),
    };
    Check::new("swap", Recommended, ok, found, "switch it off (swapoff -a) if many short calls should be fast")
}

fn machine() -> Check {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let field = |name: &str| {
        let text = read("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB").to_owned();
        line.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (total, free) = (field("MemTotal:"), field("MemAvailable:"));
    let show = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), show_bytes);
    let found = format!("{cores} cores, {} memory, {} of it available", show(total), show(free));
    let remedy = "give it more memory, or lower workers.memory_per_worker_bytes and tools.compile_memory_bytes";
    Check::new("machine", Recommended, total.is_none_or(|total| total >= MEMORY), found, remedy)
}

/// Made and removed again, to see whether it can be.
fn cgroups(worker: Result<&CgroupReport, &String>) -> Check {
    let remedy = "nothing depends on it; let the service manager delegate a group (Delegate=yes of systemd), or name one as `workers.cgroup_parent`";
    let (ok, found) = match worker {
        Ok(report) => {
            let CgroupReport { in_force, without, .. } = report;
            let limited = if in_force.is_empty() { "nothing".to_owned() } else { report.limited() };
            let not = if without.is_empty() { String::new() } else { format!("; not: {}", without.join(", ")) };
            // Sharing the processor is the operator's choice.
            let ok = ["memory", "pids"].iter().all(|name| in_force.contains(name));
            (ok, format!("limit {limited}{not}"))
        }
        Err(reason) => (false, reason.clone()),
    };
    Check::new("cgroups", Optional, ok, found, remedy)
}

fn kvm() -> Check {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let found =
        opened.as_ref().map_or_else(|error| format!("/dev/kvm can't be opened: {error}"), |_| "/dev/kvm opens".into());
    let remedy = "only virtual machine backends would need it, and this version has none";
    Check::new("kvm", Optional, opened.is_ok(), found, remedy)
}

fn git() -> Check {
    let asked = Command::new("git")
        .arg("--version")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output();
    let (ok, found) = match asked {
        Ok(output) if output.status.success() => (true, String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => (false, format!("git --version failed ({})", output.status)),
        Err(error) => (false, format!("git can't be started: {error}")),
    };
    Check::new("git", Recommended, ok, found, "install git; without it no workspace can be filled from a repository")
}

fn tools() -> Check {
    let count = builtin::all().len();
    let found = format!("{count} built in");
    Check::new(
        "tools",
        Recommended,
        count > 0,
        found,
        "this program was built without them; run tools/build-guests and build it again",
    )
}

/// What is not there is made at the start, below the nearest directory that is.
fn nearest(path: &Path) -> (PathBuf, PathBuf) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    (absolute, there)
}

fn kernel_quota(config: &Config) -> Check {
    let need = if config.quota.kernel == KernelQuota::Required { Required } else { Optional };
    let (ok, found) = match bulkhead_workspace::kernel_quota_of(&nearest(&config.workspaces()).1) {
        Ok(()) => (true, "the kernel can bound each workspace".into()),
        Err(why) => (false, format!("the kernel bounds no workspace: {why}")),
    };
    let remedy = "nothing depends on it unless `quota.kernel` is `required`; with ext4 or XFS mounted with `prjquota`, and CAP_SYS_ADMIN, a worker that was taken over fills no disk either";
    Check::new("kernel quota", need, ok, found, remedy)
}

fn data(path: &Path) -> Check {
    let (absolute, there) = nearest(path);
    let there = there.as_path();
    let writable = there.is_dir() && rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    let free = rustix::fs::statvfs(there).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let made = if there == absolute { "" } else { " (will be made)" };
    let can = if writable { "can be written" } else { "can't be written" };
    let found = format!("{}{made} {can}, {} free", path.display(), show_bytes(free));
    let remedy = if writable {
        "make room: below 1 GiB free the server may stop taking calls soon"
    } else {
        "name a directory that this user can write, by --data or BULKHEAD_DATA"
    };
    Check::new("data directory", Required, writable && free >= FREE, found, remedy)
}
