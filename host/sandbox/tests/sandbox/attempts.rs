//! Each thing that a taken-over worker tries is one that comes through where no wall
//! is: what can't be done anyway shows nothing about a wall.

use bulkhead_sandbox::Part;
use rustix::io::Errno;

use crate::walls::{Reached, attack, is_root};

/// With a group that the attempts look for, if this user may have it.
fn without_any_wall() -> Reached {
    let open = std::thread::spawn(|| {
        if is_root() {
            rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(54_321)]).unwrap();
        }
        attack(&Part::ALL, None)
    });
    open.join().unwrap()
}

/// What takes a capability on some or all systems, wall or not.
const OF_ROOT: [&str; 12] = [
    "others.groups",
    "root.unreadable",
    "file.device",
    "kernel.namespace",
    "kernel.bpf",
    "kernel.perf",
    "kernel.userfaultfd",
    "kernel.mount",
    "kernel.handle",
    // By Yama, and by the seccomp of containers.
    "process.trace",
    "kernel.keys",
    "kernel.io_uring",
];

/// Whether this process has every capability that the kernel knows. In a container root
/// may have few.
fn may_everything() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() == u64::MAX >> (63 - last)
}

#[test]
fn each_attempt_comes_through_where_no_wall_is() {
    let reached = without_any_wall();
    let mut refused = reached.0["refused"].as_object().unwrap().clone();
    if !may_everything() {
        refused.retain(|name, _| !OF_ROOT.contains(&name.as_str()));
    }
    // A kernel without this kind of socket.
    if refused.get("net.vsock").is_some_and(|errno| *errno == Errno::AFNOSUPPORT.raw_os_error()) {
        refused.remove("net.vsock");
    }
    assert!(refused.is_empty(), "{refused:?}; reached: {:?}", reached.names());
    assert!(reached.names().len() >= 50, "{:?}", reached.names());
}
