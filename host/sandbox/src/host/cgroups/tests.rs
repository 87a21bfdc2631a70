//! Version 2 in a plain directory, which shows what is written where; version 1
//! for real where this machine lets us, in the test of workers.

use super::*;

const ALLOWANCE: Allowance = Allowance { memory: 300 << 20, pids: 64 };

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn groups(version: Version, directory: &Path) -> Arc<Cgroups> {
    let found = Controller::ALL.map(|controller| {
        let directory = match version {
            Version::One => directory.join(controller.name()),
            Version::Two => directory.to_owned(),
        };
        (controller, Ok(Parent { version, controllers: vec![controller], directory, own: false }))
    });
    Arc::new(Cgroups::within(found, weight(10)))
}

/// What a kernel does by itself when a group is removed.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a group").filter_map(Result::ok) {
        if entry.file_type().expect("a group").is_file() {
            fs::remove_file(entry.path()).expect("a group");
        }
    }
}

#[test]
fn version_two_divides_each_level_and_limits_the_last() {
    let root = tempfile::tempdir().expect("a group");
    let groups = groups(Version::Two, root.path());
    assert_eq!(groups.report().in_force, ["memory", "cpu", "pids"]);
    let server = root.path().join(format!("bulkhead-{}-0", std::process::id()));
    let cell = groups.cell("ten_a", ALLOWANCE).expect("a group");
    cell.put(4_000_000);
    for divided in [root.path(), &server, &server.join("ten_a")] {
        assert_eq!(read(divided.join("cgroup.subtree_control")), "+memory +cpu +pids");
    }
    let own = server.join("ten_a/0");
    assert_eq!(cell.directories, std::slice::from_ref(&own));
    assert_eq!(read(own.join("memory.max")), (300u64 << 20).to_string());
    assert_eq!(read(own.join("pids.max")), "64");
    assert_eq!(read(own.join("cgroup.procs")), "4000000");
    let weight: u64 = read(server.join("cpu.weight")).parse().expect("a group");
    assert!((1..=100 * 256).contains(&weight));
    // Removed with the process, and the owner's with the last of it.
    empty(&own);
    empty(&server.join("ten_a"));
    drop(cell);
    assert!(!server.join("ten_a").exists());
    empty(&server);
    drop(groups);
    assert!(!server.exists());
}

#[test]
fn version_one_writes_to_each_hierarchy() {
    let root = tempfile::tempdir().expect("a group");
    Controller::ALL.iter().for_each(|controller| fs::create_dir(root.path().join(controller.name())).expect("a group"));
    let groups = groups(Version::One, root.path());
    let cell = groups.cell("ten_a", ALLOWANCE).expect("a group");
    cell.put(4_000_000);
    let own = |controller: &str| root.path().join(format!("{controller}/bulkhead-{}-0/ten_a/0", std::process::id()));
    assert_eq!(read(own("memory").join("memory.limit_in_bytes")), (300u64 << 20).to_string());
    assert_eq!(read(own("pids").join("pids.max")), "64");
    assert!(["memory", "cpu", "pids"].iter().all(|name| read(own(name).join("cgroup.procs")) == "4000000"));
}

#[test]
fn what_a_dead_server_left_is_swept_and_nothing_else() {
    let root = tempfile::tempdir().expect("a group");
    for left in ["bulkhead-7-0/ten_a/3", "bulkhead-8-0", "bulkhead-server", "bulkhead-x/a", "other/a"] {
        fs::create_dir_all(root.path().join(left)).expect("a group");
    }
    let living: std::os::fd::OwnedFd = fs::File::open(root.path().join("bulkhead-8-0")).expect("a group").into();
    rustix::fs::flock(&living, rustix::fs::FlockOperation::LockExclusive).expect("a group");
    let _groups = groups(Version::Two, root.path());
    assert!(!root.path().join("bulkhead-7-0").exists());
    for kept in ["bulkhead-8-0", "bulkhead-server", "bulkhead-x/a", "other/a"] {
        assert!(root.path().join(kept).exists(), "{kept}");
    }
}

#[test]
fn what_can_not_be_had_is_said() {
    let groups = Cgroups::set_up(&CgroupParent::Off, Some(10));
    assert_eq!(groups.report().without.len(), 3);
    assert!(groups.cell("ten_a", ALLOWANCE).is_none());
    let root = tempfile::tempdir().expect("a group");
    let groups = self::groups(Version::Two, &root.path().join("absent"));
    assert!(groups.report().in_force.is_empty());
    assert!(groups.report().without[0].contains("memory (no group in "), "{:?}", groups.report());
}

#[test]
fn niceness_becomes_a_weight() {
    assert!(weight(0) >= 1024 && weight(10) < weight(0) && weight(19) > 0);
    assert_eq!(weight(19), weight(200));
}
