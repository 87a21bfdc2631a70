//! The second wall: what code of an attacker inside a worker's process still
//! reaches, and that each part of the wall keeps something away.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::sandbox::{Run, Sandbox as _};
use bulkhead_core::ports::workspace::{Domains, OneDomain, WorkspaceError};
use bulkhead_sandbox::{CgroupParent, Isolation, Part};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::harness::{Bench, Remember, child, summary};

/// What a taken-over worker reached without some parts of the wall.
pub(crate) struct Reached(pub(crate) Value);

impl Reached {
    pub(crate) fn names(&self) -> Vec<&str> {
        self.0["reached"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    }

    pub(crate) fn assert(&self, names: &[&str]) {
        let reached = self.names();
        let missed: Vec<_> = names.iter().filter(|name| !reached.contains(name)).collect();
        assert!(missed.is_empty(), "not reached: {missed:?}; reached: {reached:?}");
    }
}

/// How a part is called among the walls.
fn field(part: Part) -> &'static str {
    match part {
        Part::NoNewPrivs => "no_new_privs",
        Part::Capabilities => "capabilities",
        Part::Bounds => "bounds",
        Part::Landlock => "landlock",
        Part::Seccomp => "seccomp",
        Part::NetworkNamespace => "network_namespace",
        Part::Groups => "groups",
        Part::NotDumpable => "not_dumpable",
        Part::OwnRoot => "own_root",
        Part::FirstToGo => "first_to_go",
        Part::OwnUser => "own_user",
        Part::FewThreads => "few_threads",
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this process is root and may make mounts and namespaces.
pub(crate) fn may_administer() -> bool {
    let own = rustix::thread::capabilities(None).unwrap().effective;
    is_root() && own.contains(rustix::thread::CapabilitySet::SYS_ADMIN)
}

/// Runs the attacks in a process of this user or, as root, of another.
pub(crate) fn attack(without: &[Part], user: Option<u32>) -> Reached {
    let home = tempfile::tempdir().unwrap();
    let (own, other) = (home.path().join("tenant_a"), home.path().join("tenant_b"));
    for directory in [&own, &other] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::write(other.join("secret"), "secret").unwrap();
    std::fs::write(other.join("other"), "other").unwrap();
    let unreadable = own.join("unreadable");
    std::fs::write(&unreadable, "unreadable").unwrap();
    std::fs::set_permissions(&unreadable, PermissionsExt::from_mode(0o0)).unwrap();
    // The executable may lie where another user has no way to.
    let exe = home.path().join("child");
    std::fs::copy(child(), &exe).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let names: Vec<&str> = without.iter().map(|part| part.name()).collect();
    let mut command = Command::new(exe);
    command.arg("pwned").arg(&own).arg(other.join("secret"));
    command.arg(listener.local_addr().unwrap().port().to_string()).arg(names.join(","));
    if let Some(user) = user {
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for path in [own.clone(), unreadable, other.clone(), other.join("secret"), other.join("other")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
        command.uid(user).gid(user);
    }
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    // A process that another test starts at this moment holds the copy open for
    // writing until it runs a program of its own.
    let output = (0..500).find_map(|_| match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
            std::thread::sleep(std::time::Duration::from_millis(10));
            None
        }
        output => Some(output.unwrap()),
    });
    let output = output.expect("the copy can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    Reached(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {:?}", output.status)))
}

/// Open by nature, as the threat model says: a process that loads code can make
/// code.
const OPEN: [&str; 1] = ["memory.two_steps"];

/// Which files there are: open where a worker can't have a root of its own.
const NAMES: [&str; 9] = [
    "name.absolute",
    "name.system",
    "name.climb",
    "name.climb_far",
    "name.relative",
    "name.symlink",
    "name.link",
    "name.process",
    "name.path",
];

/// What is open behind these walls, in the order of the attempts.
fn open(reached: &Reached) -> Vec<&'static str> {
    let has = |part: &str| reached.0["walls"][part] == true;
    let names: &[&str] = if has("own_root") { &[] } else { &NAMES };
    let threads: &[&str] = if has("few_threads") { &[] } else { &["bounds.threads"] };
    names.iter().chain(&OPEN).chain(threads).copied().collect()
}

/// What a process that puts its wall up by itself, as root, can't have: its host gives it.
const OF_A_HOST: [Part; 2] = [Part::OwnUser, Part::FewThreads];

/// Whether this kernel lets `user` have namespaces of its own: asked without
/// any of the code that is tested.
pub(crate) fn has_namespaces(user: Option<u32>) -> bool {
    let mut command = Command::new("unshare");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let asked = command.args(["--user", "--map-root-user", "--mount", "--net", "true"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// This user and, as root, somebody without any rights.
fn users() -> Vec<Option<u32>> {
    if is_root() { vec![None, Some(65_534)] } else { vec![None] }
}

#[test]
fn a_worker_that_was_taken_over_reaches_nothing() {
    for user in users() {
        let reached = attack(&[], user);
        assert_eq!(reached.0["missing"], serde_json::json!([]), "as {user:?}");
        assert_eq!(reached.names(), open(&reached), "as {user:?}");
        // The extras are in force wherever they can be.
        if has_namespaces(user) {
            let absent = |part: &Part| reached.0["walls"][field(*part)] != true;
            let absent: Vec<_> = Part::ALL.into_iter().filter(absent).collect();
            let given: &[Part] = if is_root() && user.is_none() { &OF_A_HOST } else { &OF_A_HOST[..1] };
            assert_eq!(absent, given, "as {user:?}");
        } else {
            println!("as {user:?} there are no namespaces: {}", reached.0["without"]);
        }
    }
}

/// Tenants' directories, and those of their tasks, as [`attack`] lays them out.
#[derive(Debug)]
pub(crate) struct Laid(pub(crate) std::path::PathBuf);

#[async_trait::async_trait]
impl Domains for Laid {
    async fn domain(&self, _: TenantId, task: Option<TaskId>) -> Result<Arc<OwnedFd>, WorkspaceError> {
        let own = self.0.join("tenant_a");
        let own = if task.is_some() { own.join("task_1") } else { own };
        Ok(Arc::new(std::fs::File::open(own).unwrap().into()))
    }
}

/// The host's own: nothing of the wall is put up by the test. Another tenant's files
/// are out of reach, and with strict isolation those of another task.
#[tokio::test]
async fn a_worker_that_the_host_started_and_that_was_taken_over_reaches_nothing() {
    for (isolation, own, other) in
        [(Isolation::Required, "tenant_a", "tenant_b"), (Isolation::Strict, "tenant_a/task_1", "tenant_a/task_2")]
    {
        let home = tempfile::tempdir().unwrap();
        let (own, other) = (home.path().join(own), home.path().join(other));
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("secret"), "secret").unwrap();
        std::fs::write(other.join("other"), "other").unwrap();
        std::fs::write(own.join("unreadable"), "unreadable").unwrap();
        std::fs::set_permissions(own.join("unreadable"), PermissionsExt::from_mode(0o0)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bench = Bench::with(|config| {
            let (own, secret) = (own.to_str().unwrap().into(), other.join("secret").to_str().unwrap().into());
            let port = listener.local_addr().unwrap().port().to_string();
            config.worker_args = vec!["pwned-worker".into(), own, secret, port];
            config.isolation = isolation;
            // Would bound threads, too.
            config.cgroup = CgroupParent::Off;
            config.domains = Some(Arc::new(Laid(home.path().into())));
        });
        // It serves on as if nothing had happened.
        assert_eq!(summary(&bench.outcome(&crate::guests::echo(), "{}").await), "succeeded");
        let text = std::fs::read_to_string(own.join("reached.json")).unwrap();
        let reached = Reached(serde_json::from_str(&text).unwrap());
        assert_eq!(reached.0["missing"], serde_json::json!([]), "{isolation:?}: {text}");
        assert_eq!(reached.names(), open(&reached), "{isolation:?}");
        assert_eq!(std::fs::read_to_string(other.join("secret")).unwrap(), "secret");
        let mut left: Vec<_> = std::fs::read_dir(&other).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "secret"], "{isolation:?}");
    }
}

#[test]
fn the_extras_are_not_what_it_stands_on() {
    let extras: Vec<Part> = Part::ALL.into_iter().filter(|part| !part.is_required()).collect();
    for user in users() {
        let reached = attack(&extras, user);
        assert_eq!(reached.0["missing"], serde_json::json!([]), "as {user:?}");
        assert_eq!(reached.names(), [&NAMES[..], &OPEN, &["bounds.threads"]].concat(), "as {user:?}");
    }
}

#[test]
fn a_root_of_its_own_hides_every_other_file() {
    for user in users().into_iter().filter(|user| user.is_none() && is_root() || has_namespaces(*user)) {
        attack(&[Part::OwnRoot], user).assert(&NAMES);
        // And keeps files away by itself, if Landlock fails.
        let reached = attack(&[Part::Landlock], user);
        let still: Vec<_> = reached.names().into_iter().filter(|name| name.starts_with("name.")).collect();
        assert!(still.is_empty(), "as {user:?}: {still:?}");
        for name in ["file.absolute", "file.system", "file.list", "file.climb", "file.symlink", "file.rename_out"] {
            assert!(!reached.names().contains(&name), "as {user:?}: {name}");
        }
    }
}

#[test]
fn others_of_its_user_can_not_trace_it() {
    for user in users() {
        assert!(!attack(&[Part::Seccomp], user).names().contains(&"others.trace"), "as {user:?}");
        attack(&[Part::Seccomp, Part::NotDumpable], user).assert(&["others.trace"]);
    }
}

#[test]
fn supplementary_groups_stay_behind() {
    if !may_administer() {
        // It has what it was started with, and may give none of it up; or a namespace in
        // which no group has a name.
        return;
    }
    let with_group = |without: &'static [Part]| {
        // Of this thread alone, and of what it starts.
        let thread = std::thread::spawn(move || {
            rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(54_321)]).unwrap();
            attack(without, None)
        });
        thread.join().unwrap()
    };
    assert!(!with_group(&[Part::Seccomp]).names().contains(&"others.groups"));
    let kept = with_group(&[Part::Seccomp, Part::Groups]);
    kept.assert(&["others.groups"]);
    assert_eq!(kept.0["walls"]["groups"], false);
}

#[test]
fn landlock_keeps_files_away() {
    // Each of the others keeps some of it away too.
    let without = [Part::Landlock, Part::OwnRoot, Part::NotDumpable, Part::NetworkNamespace];
    for user in users() {
        attack(&without, user).assert(&[
            "file.absolute",
            "file.system",
            "file.list",
            "file.climb",
            "file.climb_trailing_slash",
            "file.symlink",
            "file.symlink_trailing_slash",
            "file.rename_race",
            "file.hard_link",
            "file.create",
            "file.rename_out",
            "file.rename_in",
            "file.truncate",
            "file.through_proc",
            "file.own_memory",
            "file.executable",
        ]);
    }
}

#[test]
fn seccomp_keeps_system_calls_away() {
    for user in users() {
        attack(&[Part::Seccomp, Part::OwnRoot], user).assert(&[
            "net.inet",
            "net.udp",
            "net.unix",
            "net.netlink",
            "net.pair",
            "process.descriptor",
            "memory.executable",
            "memory.file",
            "kernel.io_uring",
            "kernel.keys",
            "file.times",
            "kernel.mode",
        ]);
    }
    // Both keep these away.
    let neither = [Part::Seccomp, Part::Landlock, Part::OwnRoot];
    attack(&neither, None).assert(&["process.run", "process.signal", "file.fifo"]);
}

#[test]
fn the_network_namespace_keeps_hosts_away() {
    let others = [Part::Seccomp, Part::Landlock];
    assert!(!attack(&others, None).names().contains(&"net.connect"));
    attack(&[Part::Seccomp, Part::Landlock, Part::NetworkNamespace], None).assert(&["net.connect"]);
}

#[test]
fn without_capabilities_root_is_nobody() {
    if !is_root() {
        // There are none to give up: nothing to show.
        return;
    }
    assert!(!attack(&[Part::Seccomp], None).names().contains(&"root.unreadable"));
    attack(&[Part::Capabilities, Part::Seccomp], None).assert(&["root.unreadable"]);
}

#[test]
fn the_rest_stands_on_no_new_privileges() {
    let reached = attack(&[Part::NoNewPrivs], Some(65_534).filter(|_| is_root()));
    let missing = serde_json::json!(["no new privileges", "Landlock", "seccomp"]);
    assert_eq!(reached.0["missing"], missing);
}

/// A line of the status of each thread of a process.
fn statuses(pid: u32, name: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let texts = threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let line = |text: String| text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    texts.filter_map(line).collect()
}

/// The same of its first thread.
pub(crate) fn status(pid: u32, name: &str) -> String {
    statuses(pid, name).swap_remove(0)
}

/// Whether it is there, and has more threads than its first.
fn has_threads(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Processes of this test's sandbox, by what they were started as.
pub(crate) fn running(what: &str) -> Vec<u32> {
    let is = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == what.as_bytes()))
    };
    children().into_iter().filter(is).collect()
}

fn assert_shut_in(pid: u32) {
    assert!(statuses(pid, "NoNewPrivs:").iter().all(|value| value == "1"));
    assert!(statuses(pid, "Seccomp:").iter().all(|value| value == "2"), "{:?}", statuses(pid, "Seccomp:"));
    for set in ["CapInh:", "CapPrm:", "CapEff:"] {
        assert!(statuses(pid, set).iter().all(|value| value.trim_matches('0').is_empty()), "{set}");
    }
}

#[tokio::test]
async fn real_workers_stand_behind_it() {
    // An argument of its own tells this test's workers from those of others.
    let bench = Bench::with(|config| config.worker_args.push("seen-by-walls".into()));
    let walls = bench.sandbox.check_walls().await.unwrap();
    assert_eq!(walls.missing(), []);
    let prepared = bench.prepare(&crate::guests::spin()).await;
    let cancel = CancellationToken::new();
    let run = bench.call(&prepared, "{}", WorkspaceAccess::ReadWrite);
    let call = bench.spawn(run, Remember::new(), cancel.clone());
    let (mut workers, mut alike) = (Vec::new(), 0);
    for _ in 0..1_000 {
        let before = std::mem::replace(&mut workers, running("seen-by-walls"));
        // The one that described the tool is nobody's, and may not be gone yet: then it
        // goes, or another one comes beside it.
        let may_be = bench.sandbox.stats().calls == 1 && workers.len() == 1 && has_threads(workers[0]);
        alike = if may_be && workers == before { alike + 1 } else { 0 };
        if alike == 40 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let [worker] = workers[..] else { panic!("{workers:?}") };
    assert_shut_in(worker);
    // Nobody else may look at what is not dumpable.
    if is_root() {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_eq!(namespace(&worker.to_string()) != namespace("self"), walls.network_namespace);
        // Its root is its tenant's directory: the host sees it as that.
        let root = std::fs::metadata(format!("/proc/{worker}/root/.")).unwrap();
        let own = std::fs::metadata(bench.workspace.path()).unwrap();
        assert_eq!((root.dev(), root.ino()) == (own.dev(), own.ino()), walls.own_root);
        assert_eq!(status(worker, "Groups:"), "");
    }
    cancel.cancel();
    call.await.unwrap().unwrap();
}

/// The first wall grants what it is told: a directory that the worker's own
/// wall does not know is of no use.
#[tokio::test]
async fn a_real_worker_reaches_its_domain_and_no_further() {
    let touch = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tools/dist/fixtures/touch.wasm"));
    let touch = touch.expect("run tools/build-guests").into();
    let create = r#"{"create": [{"path": "a", "content": "x"}]}"#;
    let inside = Bench::new();
    let prepared = inside.prepare(&touch).await;
    let outcome = inside.run(inside.call(&prepared, create, WorkspaceAccess::ReadWrite)).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded", "{outcome:?}");

    let elsewhere = tempfile::tempdir().unwrap();
    let directory = std::fs::File::open(elsewhere.path()).unwrap();
    let domain = Arc::new(OneDomain(Arc::new(directory.into())));
    let outside = inside.again(|config| config.domains = Some(domain));
    let outcome = outside.run(outside.call(&prepared, create, WorkspaceAccess::ReadWrite)).await.unwrap();
    assert_eq!(outcome.ending.state(), "failed", "{outcome:?}");
    assert!(!outside.workspace.path().join("a").exists());

    // Artefacts may be read, and nothing else be done where they lie.
    let run = inside.call(&prepared, create, WorkspaceAccess::ReadWrite);
    let cache: OwnedFd = std::fs::File::open(&inside.config.cache_dir).unwrap().into();
    let run = Run { workspace: Some(Arc::new(cache)), task: TaskId::from_parts(3, 3), ..run };
    assert_eq!(inside.run(run).await.unwrap().ending.state(), "failed");
    assert!(!inside.config.cache_dir.join("a").exists());
}

/// Of a process's first thread; field 19 of its `stat` (proc_pid_stat(5)).
fn niceness(process: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[test]
fn the_compiler_stands_behind_it() {
    // It waits for a component, with the walls up.
    let mut compiler = Command::new(child())
        .args(["compile", "inspect", "10", "1000000000", "required", "wasi-0.2", "namespaces"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..1_000 {
        if status(compiler.id(), "Seccomp:") == "2" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_shut_in(compiler.id());
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", compiler.id())).unwrap();
    assert_eq!(score.trim(), "1000", "it goes before the server when memory runs out");
    assert_eq!(niceness(compiler.id()), (niceness(std::process::id()) + 10).min(19), "the server comes before it");
    if may_administer() && has_namespaces(None) {
        // Its root is empty but for its own descriptors; the numbers are those of any process.
        let root = std::fs::read_dir(format!("/proc/{}/root/", compiler.id())).unwrap();
        let names: Vec<_> = root.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.parse::<u32>().is_ok()), "{names:?}");
    }
    drop(compiler.stdin.take());
    let output = compiler.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// As on systems that let anybody make a user namespace and nobody work in it.
#[tokio::test]
async fn a_worker_that_is_stuck_in_a_namespace_is_followed_by_ones_without() {
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::echo()).await;
    for look_first in [true, false] {
        let stuck = honest.again(|config| config.worker_args = vec!["false-worker".into(), "no-namespace".into()]);
        if look_first {
            assert_eq!(stuck.sandbox.check_walls().await.unwrap().missing(), []);
        }
        let run = stuck.call(&prepared, "{}", WorkspaceAccess::None);
        let outcome = stuck.sandbox.run(run, Remember::new(), CancellationToken::new()).await.unwrap();
        assert_eq!(summary(&outcome), "succeeded");
        assert_eq!(stuck.sandbox.stats().lost, 0);
    }
}

/// Said by a guest that broke out, it would take walls from every later worker.
#[tokio::test]
async fn a_worker_that_ran_a_guest_is_not_believed_to_be_stuck() {
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::echo()).await;
    let late = honest.again(|config| config.worker_args = vec!["false-worker".into(), "late-no-namespace".into()]);
    let outcome = late.run(late.call(&prepared, "{}", WorkspaceAccess::None)).await.unwrap();
    assert_eq!(outcome.ending.state(), "interrupted", "{outcome:?}");
    late.until("it counts as lost", |stats| stats.lost == 1).await;
}

#[tokio::test]
async fn a_compiler_that_is_stuck_in_a_namespace_is_followed_by_one_without() {
    let stuck = Bench::with(|config| config.compile_args = vec!["stuck-compile".into()]);
    let outcome = stuck.outcome(&crate::guests::echo(), "{}").await;
    assert_eq!(summary(&outcome), "succeeded");
}

#[tokio::test]
async fn a_worker_that_lacks_a_part_runs_nothing() {
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::echo()).await;
    let unwalled = honest.again(|config| config.worker_args = vec!["false-worker".into(), "unwalled".into()]);
    let error = unwalled.sandbox.check_walls().await.unwrap_err();
    assert!(error.to_string().contains("Landlock"), "{error}");
    let run = unwalled.call(&prepared, "{}", WorkspaceAccess::None);
    let error = unwalled.sandbox.run(run, Remember::new(), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("it runs no guest without: Landlock"), "{error}");

    let asked = unwalled.again(|config| config.isolation = Isolation::BestEffort);
    assert_eq!(asked.sandbox.check_walls().await.unwrap().missing(), [Part::Landlock]);
    let run = asked.call(&prepared, "{}", WorkspaceAccess::None);
    let outcome = asked.sandbox.run(run, Remember::new(), CancellationToken::new()).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded");
}
