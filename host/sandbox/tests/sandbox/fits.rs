//! What can be registered, and how far a client is told it is.

use std::sync::Mutex;

use bulkhead_core::event::{ChangeKind, FileChange, Stream};
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::ports::sandbox::{Emission, PrepareError, Sandbox, Stage};
use bulkhead_core::quota::{Extent, Lease};
use tokio_util::sync::CancellationToken;

use crate::guests::{self, RETURN_ARGUMENTS};
use crate::harness::{Bench, Remember, summary, text};

/// Writes `hi` to standard output as WASI preview 1 does.
const WRITES: &str =
    "(import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))";

#[tokio::test]
async fn a_core_module_is_adapted_and_runs() {
    let bench = Bench::new();
    let body = format!(
        "(i32.store (i32.const 200) (i32.const 208)) (i32.store (i32.const 204) (i32.const 2))
        (i32.store16 (i32.const 208) (i32.const 0x6968))
        (if (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 220)) (then unreachable))
        {RETURN_ARGUMENTS}"
    );
    let module = guests::core_tool(WRITES, &body);
    let prepared = bench.prepare(&module).await;
    let sink = Remember::new();
    let run = bench.call(&prepared, "{}", WorkspaceAccess::None);
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(text(&outcome), "{}");
    assert_eq!(sink.text(Stream::Stdout), b"hi");
    // Cached by what was given, not by what was made of it.
    assert_eq!(bench.prepare(&module).await, prepared);
    assert_ne!(bench.prepare(&guests::echo()).await.artifact, prepared.artifact);
    let inspection = bench.sandbox.inspect(module.clone()).await.unwrap();
    assert!(inspection.adapted && inspection.problem.is_none(), "{inspection:?}");
    assert_eq!(inspection.size, module.len() as u64);
}

#[tokio::test]
async fn a_tool_of_a_compiler_for_preview_1_changes_files_like_its_component() {
    let bench = Bench::new();
    let mut seen = Vec::new();
    for name in ["fixtures/touch_core.wasm", "fixtures/touch.wasm"] {
        let bytes = guests::built(name);
        let is_module = bytes[4..8] == [1, 0, 0, 0];
        assert_eq!(is_module, name.contains("core"));
        let prepared = bench.prepare(&bytes).await;
        let arguments = r#"{"mkdir": ["d"], "create": [{"path": "d/a", "content": "x"}], "modify": [{"path": "d/a", "content": "y"}],
            "rename": [{"from": "d/a", "to": "b"}], "delete": ["d"]}"#;
        let sink = Remember::new();
        let run = bench.call(&prepared, arguments, WorkspaceAccess::ReadWrite);
        let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!(summary(&outcome), "succeeded", "{outcome:?}");
        assert_eq!(std::fs::read(bench.workspace.path().join("b")).unwrap(), b"xy");
        std::fs::remove_file(bench.workspace.path().join("b")).unwrap();
        // The journal sees what an adapter does as what a component does.
        let changes: Vec<Emission> =
            sink.all().into_iter().filter(|emission| matches!(emission, Emission::Changed(_))).collect();
        assert!(
            changes
                .iter()
                .any(|change| matches!(change, Emission::Changed(FileChange { change: ChangeKind::Created, .. })))
        );
        // Nor is there a way past the workspace's walls, or its quota.
        let escape = bench.call(&prepared, r#"{"create": [{"path": "../x"}]}"#, WorkspaceAccess::ReadWrite);
        assert!(summary(&bench.run(escape).await.unwrap()).starts_with("failed/"));
        let mut full =
            bench.call(&prepared, r#"{"create": [{"path": "y", "content": "yyyy"}]}"#, WorkspaceAccess::ReadWrite);
        full.lease = Lease::of_nobody(Extent { bytes: 3, entries: 10_000 });
        assert!(summary(&bench.run(full).await.unwrap()).starts_with("failed/"));
        let reader = bench.call(&prepared, r#"{"mkdir": ["z"]}"#, WorkspaceAccess::Read);
        assert!(summary(&bench.run(reader).await.unwrap()).starts_with("failed/"));
        seen.push((prepared.manifest, changes));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn each_stage_is_told_once_and_in_order() {
    let bench = Bench::new();
    let stages = Mutex::new(Vec::new());
    let tell = |stage| stages.lock().unwrap().push(stage);
    let echo = guests::echo();
    let prepared = bench.sandbox.prepare_telling(echo.clone(), &tell).await.unwrap();
    assert_eq!(*stages.lock().unwrap(), Stage::ALL[1..]);
    // What was prepared has no stages to go through.
    assert_eq!(bench.sandbox.prepare_telling(echo, &tell).await.unwrap(), prepared);
    assert_eq!(stages.lock().unwrap().len(), 3);
    let refused = bench.sandbox.prepare_telling(guests::built("hostile/raw_core_command.wasm"), &tell).await;
    let Err(PrepareError::Rejected { code: "missing_export", reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("bulkhead:tool/guest@0.1.0") && reason.contains("a command"), "{reason}");
    assert_eq!(stages.lock().unwrap()[3..], [Stage::Inspecting]);
}
