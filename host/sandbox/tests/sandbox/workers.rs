//! Workers that were taken over: whatever they say, the host stays itself.

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::ports::sandbox::Sandbox;
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Bench, Remember, summary, text};

async fn with_false_worker(bench: &Bench, how: &str) -> (String, bulkhead_sandbox::WasmStats) {
    let prepared = bench.prepare(&guests::echo()).await;
    let mut taken = bench.again(|config| {
        config.worker_args = vec!["false-worker".into(), how.into()];
        config.kill_grace = std::time::Duration::from_millis(40);
    });
    // One takes a while to make the host say so much.
    taken.limits.wall_time_ms = if how == "http-never-reads" { 60_000 } else { 300 };
    taken.limits.stdout_bytes = 64 << 20;
    let run = taken.call(&prepared, "{}", WorkspaceAccess::None);
    // A sink that takes nothing: no credit is ever given back.
    let sink = match how {
        "over-credit" => Remember::closed(),
        "http-over-credit" => Remember::answering(0, |request| async move {
            let _kept = request;
            std::future::pending().await
        }),
        _ => Remember::new(),
    };
    let running = taken.spawn(run, sink.clone(), CancellationToken::new());
    if how == "over-credit" {
        taken.until("it is killed", |stats| stats.protocol_errors == 1).await;
        sink.gate.add_permits(1000);
    }
    let outcome = running.await.unwrap().unwrap();
    if !how.ends_with("behave") {
        taken.until("it is buried", |stats| stats.workers == 0).await;
    }
    let stats = taken.sandbox.stats();
    taken.sandbox.shutdown().await;
    (summary(&outcome), stats)
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_is_killed() {
    let bench = Bench::new();
    for how in ["behave", "http-behave"] {
        let (outcome, stats) = with_false_worker(&bench, how).await;
        assert_eq!((outcome.as_str(), stats.protocol_errors), ("succeeded", 0), "{how}");
    }
    let lies = [
        "other-call",
        "huge-frame",
        "unknown-kind",
        "empty-frame",
        "left-over",
        "over-credit",
        "false-timeout",
        "false-cancel",
        "bad-json",
        "false-change",
        "false-take",
        "control-as-call",
        "call-as-control",
        "http-other-number",
        "http-number-again",
        "http-too-many",
        "http-forbidden-field",
        "http-no-method",
        "http-piece-of-none",
        "http-piece-without-body",
        "http-piece-after-last",
        "http-piece-too-large",
        "http-failed-of-none",
        "http-took-too-much",
        "http-dropped-twice",
        "http-over-credit",
        "http-never-reads",
    ];
    for how in lies {
        let (outcome, stats) = with_false_worker(&bench, how).await;
        assert_eq!(outcome, "interrupted/worker_died", "{how}");
        assert_eq!((stats.protocol_errors, stats.calls), (1, 0), "{how}");
    }
    // The call itself had ended rightly.
    for how in ["done-twice", "after-done"] {
        let (outcome, stats) = with_false_worker(&bench, how).await;
        assert_eq!(outcome, "succeeded", "{how}");
        assert_eq!(stats.protocol_errors, 1, "{how}");
    }
}

#[tokio::test]
async fn a_worker_that_is_silent_or_dies_takes_only_its_calls_along() {
    let bench = Bench::new();
    assert_eq!(with_false_worker(&bench, "silent").await.0, "timed_out/limit.wall_time");
    for how in ["die", "leave"] {
        let (outcome, stats) = with_false_worker(&bench, how).await;
        assert_eq!(outcome, "interrupted/worker_died", "{how}");
        assert_eq!(stats.protocol_errors, 0, "{how}");
    }
    // One that hangs up and goes on is killed at once: nobody would watch its time.
    let hung = with_false_worker(&bench, "hang-up");
    let hung = tokio::time::timeout(std::time::Duration::from_secs(30), hung).await.expect("it is killed");
    assert_eq!(hung.0, "interrupted/worker_died");
}

#[tokio::test]
async fn calls_that_were_to_end_too_have_when_their_worker_is_killed() {
    let bench = Bench::new();
    let prepared = bench.prepare(&guests::echo()).await;
    let mut taken = bench.again(|config| {
        config.worker_args = vec!["false-worker".into(), "silent".into()];
        config.workers_per_tenant = 1;
        config.kill_grace = std::time::Duration::from_secs(1);
    });
    let mut running = Vec::new();
    // The grace of the first ends when the second's goes on, and the third has time left.
    for wall_time_ms in [300, 800, 60_000] {
        taken.limits.wall_time_ms = wall_time_ms;
        let run = taken.call(&prepared, "{}", WorkspaceAccess::None);
        running.push(taken.spawn(run, Remember::new(), CancellationToken::new()));
    }
    // Its own grace is two seconds longer.
    let cancel = CancellationToken::new();
    let run = taken.call(&prepared, "{}", WorkspaceAccess::None);
    running.push(taken.spawn(run, Remember::new(), cancel.clone()));
    taken.until("all run", |stats| stats.calls == 4).await;
    cancel.cancel();
    let mut ends = Vec::new();
    for call in running {
        ends.push(summary(&call.await.unwrap().unwrap()));
    }
    assert_eq!(
        ends,
        ["timed_out/limit.wall_time", "timed_out/limit.wall_time", "interrupted/worker_died", "cancelled/cancelled"]
    );
    taken.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_does_not_leave_is_killed() {
    let bench = Bench::new();
    let prepared = bench.prepare(&guests::echo()).await;
    let taken = bench.again(|config| {
        config.worker_args = vec!["false-worker".into(), "behave".into()];
        config.idle_timeout = std::time::Duration::from_millis(50);
    });
    let outcome = taken.run(taken.call(&prepared, "{}", WorkspaceAccess::None)).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded");
    taken.until("it is killed", |stats| stats.workers == 0).await;
}

/// Kills the workers of this process that have `argument`.
fn kill_worker(argument: &str) {
    let mut killed = 0;
    for process in std::fs::read_dir("/proc").unwrap() {
        let process = process.unwrap();
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|each| each == argument.as_bytes()) {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
            killed += 1;
        }
    }
    assert_eq!(killed, 1);
}

#[tokio::test]
async fn a_killed_worker_is_replaced() {
    let bench = Bench::with(|config| {
        config.workers_per_tenant = 1;
        config.worker_args.push("to-be-killed".into());
    });
    let echo = bench.prepare(&guests::echo()).await;
    let spin = bench.prepare(&guests::spin()).await;
    let sink = Remember::new();
    let running =
        bench.spawn(bench.call(&spin, "{}", WorkspaceAccess::ReadWrite), sink.clone(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    // Its neighbour answers, so it runs.
    assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    assert!(!running.is_finished());
    kill_worker("to-be-killed");
    let outcome = running.await.unwrap().unwrap();
    assert_eq!(summary(&outcome), "interrupted/worker_died");
    // Nobody told what it used, but the kernel did.
    assert!((1..=outcome.usage.wall_us).contains(&outcome.usage.cpu_us), "{:?}", outcome.usage);
    assert_eq!(sink.all(), [bulkhead_core::ports::sandbox::Emission::ChangesLost]);
    assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    bench.sandbox.shutdown().await;
}
