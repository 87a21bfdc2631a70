//! The second wall of a whole server, on a machine that lacks a part of it: a
//! filter stands for a kernel that does not know the call.

use std::collections::BTreeMap;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};

use super::crash::{children_of, is_worker};
use crate::harness::{Options, Server};

/// Linux's numbers on every architecture since they are shared (`asm-generic/unistd.h`).
const LANDLOCK_CREATE_RULESET: i64 = 444;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
const OPEN_TREE: i64 = 428;
/// It has a number of its own on each.
const UNSHARE: i64 = if cfg!(target_arch = "x86_64") { 272 } else { 97 };

/// Does `work` on a thread that fails a call with `errno`, and all that it starts.
fn without<T: Send + 'static>(call: i64, errno: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let rules = BTreeMap::from([(call, Vec::new())]);
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).unwrap();
        apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        work()
    });
    thread.join().unwrap()
}

fn bulkhead(arguments: &[&str], data: &std::path::Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(arguments).env_clear().env("BULKHEAD_DATA", data).env("BULKHEAD_LISTEN", "127.0.0.1:0");
    command.output().unwrap()
}

fn doctor() -> Value {
    check("worker walls")
}

fn check(name: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let output = bulkhead(&["doctor", "--json"], directory.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone()
}

fn calls_work(server: &Server) {
    let client = server.client();
    client.register("fixtures/touch");
    let task = client.task();
    let body = json!({"tool": "touch", "arguments": {"create": [{"path": "a", "content": "x"}]}});
    let call = client.post(&format!("/v1/tasks/{task}/calls"), &body).expect(200);
    assert_eq!(call["state"], "succeeded", "{call}");
}

#[test]
fn strict_isolation_gives_each_task_a_worker() {
    let server = Server::start(Options::default().with("BULKHEAD_WORKERS__ISOLATION", "strict"));
    calls_work(&server);
    calls_work(&server);
    let workers = children_of(server.pid()).into_iter().filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|word| word == b"worker")
    });
    assert_eq!(workers.count(), 2);
}

#[test]
fn without_landlock_the_server_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_owned();
    let output = without(LANDLOCK_CREATE_RULESET, ENOSYS, move || bulkhead(&["serve"], &data));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for word in ["Landlock", "bulkhead doctor", "workers.isolation"] {
        assert!(said.contains(word), "{said}");
    }
    let check = without(LANDLOCK_CREATE_RULESET, ENOSYS, doctor);
    assert_eq!((&check["ok"], &check["need"]), (&json!(false), &json!("required")), "{check}");
    assert!(check["found"].as_str().unwrap().contains("missing: Landlock"), "{check}");
    assert_eq!(doctor()["ok"], true);
}

#[test]
fn without_landlock_it_starts_if_that_is_asked_for() {
    let options = Options::default().with("BULKHEAD_WORKERS__ISOLATION", "best-effort");
    calls_work(&without(LANDLOCK_CREATE_RULESET, ENOSYS, || Server::start(options)));
}

#[test]
fn where_no_namespace_can_be_had_workers_do_without() {
    let check = without(UNSHARE, EPERM, doctor);
    assert_eq!(check["ok"], true, "{check}");
    assert!(!check["found"].as_str().unwrap().contains("namespace"), "{check}");
    let extras = without(UNSHARE, EPERM, || self::check("worker extras"));
    assert!(extras["found"].as_str().unwrap().contains("empty network namespace (needs "), "{extras}");
    calls_work(&without(UNSHARE, EPERM, || Server::start(Options::default())));
}

#[test]
fn where_the_root_can_not_be_changed_workers_do_without() {
    let required = without(OPEN_TREE, ENOSYS, doctor);
    assert_eq!(required["ok"], true, "{required}");
    let extras = without(OPEN_TREE, ENOSYS, || check("worker extras"));
    assert_eq!((&extras["ok"], &extras["need"]), (&json!(false), &json!("optional")), "{extras}");
    assert!(extras["found"].as_str().unwrap().contains("own root directory (needs "), "{extras}");
    calls_work(&without(OPEN_TREE, ENOSYS, || Server::start(Options::default())));
}

#[test]
fn doctor_tells_of_control_groups() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(["doctor", "--json"]).env_clear().env("BULKHEAD_DATA", directory.path());
    let output = command.env("BULKHEAD_WORKERS__CGROUP", "off").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let groups = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "cgroups").unwrap();
    assert_eq!(groups["ok"], false, "{groups}");
    assert!(groups["found"].as_str().unwrap().contains("memory (`workers.cgroup` is off)"), "{groups}");
    // Each is told of, in force or not, with the reason.
    let found = check("cgroups");
    for name in ["memory", "cpu", "pids"] {
        assert!(found["found"].as_str().unwrap().contains(name), "{found}");
    }
}

/// As a service is started that has a user of its own. (Of the tests' user, where that is
/// not root: then it is as little.)
#[test]
fn a_server_without_privileges_has_every_required_part() {
    const NOBODY: u32 = 65_534;
    let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    let user = root.then(|| {
        let exe = directory.path().join("bulkhead");
        let built = env!("CARGO_BIN_EXE_bulkhead");
        // Where this user need not reach what was built.
        std::fs::hard_link(built, &exe).or_else(|_| std::fs::copy(built, &exe).map(drop)).unwrap();
        std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        (NOBODY, exe)
    });
    let server = Server::start_below(directory.path(), Options { user, ..Options::default() });
    calls_work(&server);
    let log = server.log();
    let required = "walls=\"no new privileges, no capabilities, resource limits, Landlock, seccomp";
    assert!(log.contains(required), "{log}");
    let workers: Vec<_> = children_of(server.pid()).into_iter().filter(|child| is_worker(*child)).collect();
    assert!(!workers.is_empty());
    for worker in workers {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!((line("CapEff:"), line("NoNewPrivs:"), line("Seccomp:")), ("0".repeat(16), "1".into(), "2".into()));
        if root {
            assert_eq!(line("Uid:"), ["65534"; 4].join("\t"));
            assert_eq!(line("Groups:"), "");
        }
    }
}
