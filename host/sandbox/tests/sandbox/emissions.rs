//! What a guest says while it runs, in order and in time. With real components;
//! the table of attacks runs against a whole server, in `tests/scenarios/hostile.rs`.

use bulkhead_core::event::Stream;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::ports::sandbox::{Emission, Sandbox};
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
