//! Every attack of `guest-tools/hostile/attacks.toml`, against the sandbox
//! alone. The guests are made by a toolchain of their own; without them this
//! says so and passes, and the tests with guests made of WAT remain.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bulkhead_core::event::Stream;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::sandbox::{Emission, PrepareError, Prepared, Sandbox};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Bench, Remember, summary};

#[derive(Deserialize)]
struct Table {
    attack: Vec<Attack>,
}

#[derive(Deserialize)]
struct Attack {
    name: String,
    component: String,
    phase: String,
    #[serde(default)]
    arguments: String,
    state: String,
    code: Option<String>,
    #[serde(default)]
    or: Vec<String>,
    check: Option<String>,
}

fn guest_tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-tools")
}

fn guest(path: &str) -> Option<bytes::Bytes> {
    let path = guest_tools().join("dist").join(path);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => panic!("{}: {error}; run tools/build-guests", path.display()),
    }
}

impl Attack {
    fn accepts(&self, got: &str) -> bool {
        let code = self.code.as_ref().map_or(String::new(), |code| format!("/{code}"));
        let state = got.split('/').next().unwrap();
        got == format!("{}{code}", self.state)
            || self.or.iter().any(|or| or == got || or == state)
            // A guest's own code is never taken for the host's.
            || (self.name == "result.host_error_code" && got == "failed/tool.limit.memory")
    }
}

/// What the attack `escape.planted` looks for.
fn plant(workspace: &Path) {
    let outside = workspace.parent().unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    symlink("../secret", workspace.join("planted-link")).unwrap();
    symlink("..", workspace.join("planted-dir")).unwrap();
    symlink("/etc/passwd", workspace.join("planted-absolute")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, workspace.join("planted-fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn json(outcome: &Outcome) -> Value {
    match &outcome.ending {
        Ending::Succeeded { content } => content
            .iter()
            .find_map(|part| match part {
                Content::Json { json } => Some(json.clone()),
                _ => None,
            })
            .unwrap_or_default(),
        _ => Value::Null,
    }
}

async fn attack(bench: &Bench, echo: &Prepared, attack: &Attack) -> Result<(), String> {
    let Some(component) = guest(&format!("hostile/{}.wasm", attack.component)) else { return Ok(()) };
    let prepared = match bench.sandbox.prepare(component).await {
        Ok(prepared) => prepared,
        Err(PrepareError::Rejected { .. }) if attack.accepts("refused") => return Ok(()),
        Err(error) => return Err(format!("not prepared: {error:?}")),
    };
    if attack.phase == "register" {
        return if attack.accepts("registered") { Ok(()) } else { Err("it was registered".into()) };
    }
    // In memory where that is possible: removing what `disk` makes takes
    // minutes elsewhere.
    let outside = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let workspace = outside.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    plant(&workspace);
    let mut run = bench.call(
        &prepared,
        if attack.arguments.is_empty() { "{}" } else { &attack.arguments },
        WorkspaceAccess::ReadWrite,
    );
    run.workspace = Some(std::sync::Arc::new(std::fs::File::open(&workspace).unwrap().into()));
    run.task = bulkhead_core::id::TaskId::from_parts(7, u128::from(rustix::fs::stat(&workspace).unwrap().st_ino));
    let task = run.task;
    let sink = Remember::new();
    let running = bench.spawn(run, sink.clone(), CancellationToken::new());
    if attack.check.as_deref() == Some("neighbours") {
        for _ in 0..5 {
            let outcome =
                bench.run(bench.call(echo, "{}", WorkspaceAccess::None)).await.map_err(|error| error.to_string())?;
            if !matches!(outcome.ending, Ending::Succeeded { .. }) {
                return Err(format!("its neighbour: {:?}", outcome.ending));
            }
        }
    }
    let outcome = running.await.unwrap().map_err(|error| error.to_string())?;
    bench.sandbox.forget(bench.tenant, task).await;
    let got = summary(&outcome);
    if !attack.accepts(&got) {
        return Err(format!("{got}: {:?}", outcome.ending));
    }
    if got != attack.state {
        return Ok(());
    }
    let held = match attack.check.as_deref() {
        Some("escaped_false") => json(&outcome)["escaped"] == Value::Bool(false),
        Some("refused") => json(&outcome)["refused"] == Value::Bool(true),
        Some("truncated") => sink.all().iter().any(|emission| matches!(emission, Emission::Truncated(_))),
        _ => true,
    };
    if held { Ok(()) } else { Err(format!("the check failed: {:?}", outcome.ending)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attack_ends_as_it_must() {
    let table = std::fs::read_to_string(guest_tools().join("hostile/attacks.toml")).unwrap();
    let table: Table = toml::from_str(&table).unwrap();
    let mut bench = Bench::with(|config| {
        config.workers_per_tenant = 1;
        config.describe_limits.wall_time_ms = 2_000;
        config.describe_limits.cpu_time_ms = 1_000;
        config.compile_cpu = std::time::Duration::from_secs(20);
    });
    bench.limits = Limits { wall_time_ms: 6_000, cpu_time_ms: 1_500, ..Limits::default() };
    let echo = bench.prepare(&guests::echo()).await;
    let mut failed = Vec::new();
    for entry in &table.attack {
        if let Err(why) = attack(&bench, &echo, entry).await {
            failed.push(format!("{}: {why}", entry.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // None of them took a worker along.
    assert_eq!((bench.sandbox.stats().lost, bench.sandbox.stats().protocol_errors), (0, 0));
    bench.sandbox.shutdown().await;
}

#[tokio::test]
async fn changes_are_named_in_order() {
    let Some(touch) = guest("fixtures/touch.wasm") else { return };
    let bench = Bench::new();
    let prepared = bench.prepare(&touch).await;
    std::fs::write(bench.workspace.path().join("old"), "old").unwrap();
    let arguments = r#"{"mkdir": ["d"], "create": [{"path": "d/a", "content": "x"}, {"path": "old", "content": "y"}],
        "modify": [{"path": "d/a", "content": "z"}], "rename": [{"from": "old", "to": "new"}], "delete": ["d/a"]}"#;
    let sink = Remember::new();
    let run = bench.call(&prepared, arguments, WorkspaceAccess::ReadWrite);
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded", "{:?}", outcome.ending);
    let changes: Vec<_> = sink
        .all()
        .iter()
        .map(|emission| match emission {
            Emission::Changed(change) => format!("{:?} {}", change.change, change.path),
            other => format!("{other:?}"),
        })
        .collect();
    let wanted = ["Created d", "Created d/a", "Modified old", "Deleted old", "Created new", "Deleted d/a"];
    assert_eq!(changes, wanted);
    assert_eq!(outcome.usage.written_bytes, 3);
    // The same with the right to read only changes nothing.
    let sink = Remember::new();
    let run = bench.call(&prepared, r#"{"mkdir": ["e"]}"#, WorkspaceAccess::Read);
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.ending.state(), "failed");
    assert_eq!(sink.all(), []);
    assert!(!bench.workspace.path().join("e").exists());
}

#[tokio::test]
async fn every_channel_arrives_while_the_call_runs() {
    let Some(ticker) = guest("fixtures/ticker.wasm") else { return };
    let bench = Bench::new();
    let prepared = bench.prepare(&ticker).await;
    let sink = Remember::new();
    let run = bench.call(&prepared, r#"{"count": 3, "interval_ms": 150}"#, WorkspaceAccess::None);
    let running = bench.spawn(run, sink.clone(), CancellationToken::new());
    for _ in 0..500 {
        if !sink.text(Stream::Stdout).is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!running.is_finished() && !sink.all().is_empty());
    assert_eq!(summary(&running.await.unwrap().unwrap()), "succeeded");
    let all = sink.all();
    let count = |matches: fn(&Emission) -> bool| all.iter().filter(|emission| matches(emission)).count();
    assert_eq!(count(|emission| matches!(emission, Emission::Content(_))), 3);
    assert_eq!(count(|emission| matches!(emission, Emission::Log { .. })), 3);
    assert!(count(|emission| matches!(emission, Emission::Progress { .. })) >= 2);
    assert!(all.iter().any(|emission| matches!(emission, Emission::Progress { done: 3, .. })));
    assert_eq!(sink.text(Stream::Stdout).iter().filter(|byte| **byte == b'\n').count(), 3);
}
