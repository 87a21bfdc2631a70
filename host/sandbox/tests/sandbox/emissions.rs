//! What a guest says while it runs, in order and in time. With real components;
//! the table of attacks runs against a whole server, in `tests/scenarios/hostile.rs`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_core::event::Stream;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::ports::sandbox::{Emission, Sandbox, Sink};
use tokio_util::sync::CancellationToken;

use crate::guests::built as guest;
use crate::harness::{Bench, Remember, summary};

#[tokio::test]
async fn changes_are_named_in_order() {
    let touch = guest("fixtures/touch.wasm");
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
    let ticker = guest("fixtures/ticker.wasm");
    let bench = Bench::new();
    let prepared = bench.prepare(&ticker).await;
    let sink = Remember::new();
    let run = bench.call(&prepared, r#"{"count": 3, "interval_ms": 150}"#, WorkspaceAccess::None);
    let running = bench.spawn(run, sink.clone(), CancellationToken::new());
    for _ in 0..500 {
        if !sink.text(Stream::Stdout).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
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

/// Has the guest be silent for a while after the first that it says.
struct Silence {
    lasts: Duration,
    until: OnceLock<Instant>,
    bytes: AtomicUsize,
}

impl Silence {
    fn of(lasts: Duration) -> Arc<Self> {
        Arc::new(Self { lasts, until: OnceLock::new(), bytes: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Sink for Silence {
    async fn emit(&self, emission: Emission) {
        self.until.get_or_init(|| Instant::now() + self.lasts);
        if let Emission::Output(_, bytes) = emission {
            self.bytes.fetch_add(bytes.len(), Relaxed);
        }
    }

    fn silent_until(&self) -> Option<tokio::time::Instant> {
        self.until.get().copied().map(Into::into)
    }
}

#[tokio::test]
async fn a_guest_that_is_to_be_silent_gets_no_credit_and_its_end_does_not_wait() {
    const LONG: Duration = Duration::from_secs(60);
    let mut bench = Bench::new();
    bench.limits.stdout_bytes = 4 << 20;
    let prepared = bench.prepare(&guest("fixtures/ticker.wasm")).await;
    let says = |lines| format!(r#"{{"count": {lines}, "interval_ms": 0, "channels": ["stdout"], "bytes": 1000}}"#);
    let (few, many) = (says(20), says(2_000));
    let run = |arguments: &str| bench.call(&prepared, arguments, WorkspaceAccess::None);
    let begun = Instant::now();
    // What it has said by its end is within its credit.
    let outcome = bench.sandbox.run(run(&few), Silence::of(LONG), CancellationToken::new()).await.unwrap();
    assert_eq!((summary(&outcome).as_str(), begun.elapsed() < LONG / 2), ("succeeded", true));

    let (sink, cancel) = (Silence::of(LONG), CancellationToken::new());
    let running = tokio::spawn({
        let (sandbox, run, sink, cancel) = (bench.sandbox.clone(), run(&many), sink.clone(), cancel.clone());
        async move { sandbox.run(run, sink, cancel).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let said = sink.bytes.load(Relaxed);
    assert!(!running.is_finished() && (100_000..600_000).contains(&said), "{said} bytes");
    cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap().ending.state(), "cancelled");
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());

    let (begun, short) = (Instant::now(), Duration::from_secs(1));
    let sink = Silence::of(short);
    let outcome = bench.sandbox.run(run(&many), sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded");
    assert!(begun.elapsed() >= short && sink.bytes.load(Relaxed) >= 2_000_000, "then it goes on");
}
