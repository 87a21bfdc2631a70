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
    let memory = Total { wanted: None, machine: Some(8 << 30) };
    Arc::new(Cgroups::within(found, weight(10), memory))
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
    assert_eq!(read(server.join("memory.max")), (6u64 << 30).to_string());
    assert_eq!(groups.report().limited(), "memory (6144 MiB of all together), cpu, pids");
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
    let server = own("memory").ancestors().nth(2).expect("a group").to_owned();
    assert_eq!(read(server.join("memory.limit_in_bytes")), (6u64 << 30).to_string());
    assert!(["memory", "cpu", "pids"].iter().all(|name| read(own(name).join("cgroup.procs")) == "4000000"));
}

#[test]
fn all_together_have_a_part_of_what_there_is() {
    let root = tempfile::tempdir().expect("a group");
    fs::write(root.path().join("memory.max"), "4294967296\n").expect("a group");
    let parent = || Parent {
        version: Version::Two,
        controllers: vec![Controller::Memory],
        directory: root.path().to_owned(),
        own: false,
    };
    let of = |wanted, machine| Hierarchy::set_up(parent(), 1024, Total { wanted, machine }).expect("a group").memory;
    assert_eq!(of(None, Some(16 << 30)), Some(3 << 30), "of the group, which is less than the machine");
    assert_eq!(of(None, Some(2 << 30)), Some(3 << 29), "of the machine, which has less than the group may use");
    assert_eq!(of(Some(1 << 30), Some(16 << 30)), Some(1 << 30), "what is wanted");
    fs::write(root.path().join("memory.max"), "max\n").expect("a group");
    assert_eq!(of(None, None), None, "nothing is known");
}

#[test]
fn what_ended_for_memory_is_told() {
    let root = tempfile::tempdir().expect("a group");
    for (version, file, said) in [
        (Version::Two, "memory.events", "low 0\noom 1\noom_kill "),
        (Version::One, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill "),
    ] {
        let place = root.path().join(file);
        let names = ["memory", "cpu", "pids"];
        names.iter().for_each(|name| fs::create_dir_all(place.join(name)).expect("a group"));
        let groups = groups(version, &place);
        let cell = groups.cell("ten_a", ALLOWANCE).expect("a group");
        assert!(!cell.ran_out());
        for (count, ran_out) in [("0", false), ("1", true)] {
            fs::write(cell.directories[0].join(file), format!("{said}{count}\n")).expect("a group");
            assert_eq!(cell.ran_out(), ran_out, "{file}");
        }
    }
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
    let groups = Cgroups::set_up(&CgroupParent::Off, Some(10), None);
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
