//! Control groups of real workers, where this machine lets the test make some.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::TenantId;
use bulkhead_sandbox::CgroupParent;
use tokio_util::sync::CancellationToken;

use crate::harness::{Bench, Remember};

/// What the kernel says of a process: its group for a controller, as a directory
/// of version 1.
fn group(pid: u32, controller: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let line = text.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
    let path = line.splitn(3, ':').nth(2)?;
    Some(Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
}

fn number(group: &Path, file: &str) -> u64 {
    std::fs::read_to_string(group.join(file)).unwrap().trim().parse().unwrap()
}

/// Whether groups can be made in the topmost group of a hierarchy, asked without
/// the code that is tested.
fn can_be_made(controller: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup").join(controller);
    if group(std::process::id(), controller).is_none_or(|own| own.components().ne(root.components())) {
        return false;
    }
    let tried = root.join(format!("tried-by-a-test-{}", std::process::id()));
    std::fs::create_dir(&tried).and_then(|()| std::fs::remove_dir(&tried)).is_ok()
}

fn workers(argument: &str) -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
    let is = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
    };
    pids.filter(is).collect()
}

#[tokio::test]
async fn a_worker_is_held_by_a_group_of_its_tenant() {
    if !can_be_made("pids") || !can_be_made("cpu") {
        let bench = Bench::new();
        let report = bench.sandbox.cgroups();
        println!("no groups can be made here: {report:?}");
        assert_eq!(report.in_force.len() + report.without.len(), 3, "{report:?}");
        return;
    }
    // What a server that was killed left behind.
    let left = Path::new("/sys/fs/cgroup/pids").join(format!("bulkhead-{}-900/ten_x/1", std::process::id()));
    std::fs::create_dir_all(&left).unwrap();

    // Nobody's workers, which prepare a component, are not among those looked at.
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::spin()).await;
    let bench = honest.again(|config| {
        config.cgroup_cpu = true;
        config.worker_args.push("held-by-a-group".into());
    });
    let server = left.parent().and_then(Path::parent).unwrap();
    assert!(!server.exists(), "{} is swept", server.display());
    let report = bench.sandbox.cgroups().clone();
    for controller in ["pids", "cpu"] {
        assert!(report.in_force.contains(&controller), "{report:?}");
    }
    let cancel = CancellationToken::new();
    let mut calls = Vec::new();
    for tenant in [1, 2] {
        let mut run = bench.call(&prepared, "{}", WorkspaceAccess::ReadWrite);
        run.owner.tenant = TenantId::from_parts(tenant, tenant.into());
        calls.push(bench.spawn(run, Remember::new(), cancel.clone()));
    }
    // In both hierarchies, with the threads that were made since.
    let is_in = |pid: u32, controller| group(pid, controller).is_some_and(|group| group.components().count() > 6);
    let threads = |pid| number(&group(pid, "pids").unwrap(), "pids.current");
    let held = |pid: &u32| is_in(*pid, "cpu") && is_in(*pid, "pids") && threads(*pid) >= 2;
    let mut all = Vec::new();
    for _ in 0..1_000 {
        all = workers("held-by-a-group").into_iter().filter(held).collect();
        if all.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let held = all;
    assert_eq!(held.len(), 2);
    let groups: Vec<PathBuf> = held.iter().map(|pid| group(*pid, "pids").unwrap()).collect();
    for group in &groups {
        assert_eq!(number(group, "pids.max"), 64);
    }
    // A group for each tenant, and they weigh the same.
    let tenants: Vec<PathBuf> =
        held.iter().map(|pid| group(*pid, "cpu").unwrap().parent().unwrap().to_owned()).collect();
    assert_ne!(tenants[0], tenants[1]);
    assert!(tenants.iter().all(|tenant| number(tenant, "cpu.shares") == 1024));
    let server = tenants[0].parent().unwrap().to_owned();
    assert_eq!(tenants[1].parent(), Some(&*server));

    cancel.cancel();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // Removed with the workers, and with the server.
    let sandbox = bench.sandbox.clone();
    bulkhead_core::ports::sandbox::Sandbox::shutdown(&*sandbox).await;
    assert!(groups.iter().chain(&tenants).all(|group| !group.exists()));
    drop((sandbox, bench));
    // Whoever still ends something may hold it for a moment.
    for _ in 0..1_000 {
        if !server.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{} stays", server.display());
}

#[tokio::test]
async fn a_worker_makes_no_more_threads_than_its_group_allows() {
    if !can_be_made("pids") {
        println!("no groups can be made here");
        return;
    }
    // The group's limit, on a process that would make threads for ever.
    let bench = Arc::new(Bench::with(|config| config.worker_args = vec!["false-worker".into(), "threads".into()]));
    let honest = bench.again(|config| config.worker_args = vec!["worker".into()]);
    let prepared = honest.prepare(&crate::guests::echo()).await;
    let run = bench.call(&prepared, "{}", WorkspaceAccess::None);
    let outcome = bench.run(run).await.unwrap();
    // It says by its end whether it was stopped.
    assert_eq!(crate::harness::summary(&outcome), "succeeded", "{outcome:?}");
}

#[tokio::test]
async fn workers_take_no_more_memory_together_than_they_may() {
    // Of either version, and also where this process is in a group below the topmost.
    let root = Path::new("/sys/fs/cgroup");
    let unified = std::fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|all| all.contains("memory"));
    let tried = root.join(if unified { "" } else { "memory" }).join(format!("tried-by-a-test-{}", std::process::id()));
    if std::fs::create_dir(&tried).and_then(|()| std::fs::remove_dir(&tried)).is_err() {
        println!("no groups can be made here");
        return;
    }
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::echo()).await;
    // Each within its own limit, and two over that of all.
    let bench = honest.again(|config| {
        config.worker_args = vec!["false-worker".into(), "memory".into()];
        config.memory_of_workers = Some(500 << 20);
        config.cgroup = CgroupParent::Named("/".into());
    });
    assert_eq!(bench.sandbox.cgroups().memory, Some(500 << 20));
    let mut calls = Vec::new();
    for tenant in [1, 2] {
        let mut run = bench.call(&prepared, "{}", WorkspaceAccess::None);
        run.owner.tenant = TenantId::from_parts(tenant, tenant.into());
        calls.push(bench.spawn(run, Remember::new(), CancellationToken::new()));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let mut ended = Vec::new();
    for call in calls {
        let outcome = call.await.unwrap().unwrap();
        ended.push((crate::harness::summary(&outcome), format!("{outcome:?}")));
    }
    ended.sort();
    let [(died, how), (lived, _)] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!((died.as_str(), lived.as_str()), ("interrupted/worker_died", "succeeded"), "{ended:?}");
    assert!(how.contains("workers.memory_bytes"), "{how}");
    // So that the groups go with it.
    bulkhead_core::ports::sandbox::Sandbox::shutdown(&*bench.sandbox).await;
}

#[tokio::test]
async fn none_are_made_if_they_are_switched_off() {
    // A process that ends is in the root group for the kernel: so not the one that
    // prepares the component, which may still be ending.
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::spin()).await;
    let bench = honest.again(|config| {
        config.cgroup = CgroupParent::Off;
        config.worker_args.push("held-by-none".into());
    });
    assert_eq!(bench.sandbox.cgroups().in_force, Vec::<&str>::new());
    let cancel = CancellationToken::new();
    let call = bench.spawn(bench.call(&prepared, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone());
    let mut seen = Vec::new();
    for _ in 0..1_000 {
        seen = workers("held-by-none");
        if !seen.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let texts = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(texts(seen[0]), texts(std::process::id()));
    cancel.cancel();
    call.await.unwrap().unwrap();
}
