//! What becomes of single calls.

use std::time::{Duration, Instant};

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::UserId;
use bulkhead_core::limits::Limits;
use bulkhead_core::ports::sandbox::{Emission, PrepareError, Run, Sandbox};
use bulkhead_core::principal::Owner;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::guests::{self, RETURN_ARGUMENTS, tool, tool_with};
use crate::harness::{Bench, Remember, summary, text};

#[tokio::test]
async fn a_tool_is_described_and_answers() {
    let bench = Bench::new();
    let prepared = bench.prepare(&guests::echo()).await;
    assert_eq!((prepared.manifest.name.as_str(), prepared.manifest.version.as_str()), ("wat", "1.0.0"));
    assert_eq!(bench.prepare(&guests::echo()).await, prepared);
    for arguments in ["{}", "{\"text\": \"hé\"}"] {
        let outcome = bench.run(bench.call(&prepared, arguments, WorkspaceAccess::None)).await.unwrap();
        assert_eq!(text(&outcome), arguments);
        assert!(outcome.usage.wall_us > 0 && outcome.usage.cpu_us <= outcome.usage.wall_us);
        assert_eq!(outcome.usage.peak_memory_bytes, 2 * 65536);
    }
    bench.sandbox.shutdown().await;
    assert_eq!(bench.sandbox.stats().workers, 0);
    // What is recorded outlives the process that compiled it.
    let again = bench.again(|_| {});
    assert_eq!(again.prepare(&guests::echo()).await, prepared);
    assert_eq!(again.sandbox.stats().started, 0);
}

#[tokio::test]
async fn a_spinning_guest_is_stopped_by_its_processor_time() {
    let mut bench = Bench::new();
    bench.limits.cpu_time_ms = 50;
    let outcome = bench.outcome(&guests::spin(), "{}").await;
    assert_eq!(summary(&outcome), "timed_out/limit.cpu_time");
    assert!((50_000..100_000).contains(&outcome.usage.cpu_us), "{:?}", outcome.usage);
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn a_waiting_guest_is_stopped_by_its_wall_time() {
    let mut bench = Bench::new();
    bench.limits.wall_time_ms = 100;
    let prepared = bench.prepare(&guests::emits_for_ever()).await;
    let run = bench.call(&prepared, "{}", WorkspaceAccess::None);
    let waiting = bench.spawn(run, Remember::closed(), CancellationToken::new());
    // The sink takes nothing, so the end can't be told either; once it does,
    // the outcome is there.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    waiting.abort();
    let spinning = bench.prepare(&guests::spin()).await;
    let outcome = bench.run(bench.call(&spinning, "{}", WorkspaceAccess::None)).await.unwrap();
    assert_eq!(summary(&outcome), "timed_out/limit.wall_time");
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn each_fault_has_its_name() {
    let bench = Bench::new();
    let cases: Vec<(&str, Bytes)> = vec![
        ("failed/trap", tool("", "unreachable")),
        ("failed/limit.stack", tool("", "(call $call (local.get $ptr) (local.get $len))")),
        (
            "failed/limit.memory",
            tool("", "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"),
        ),
        (
            "failed/limit.table",
            tool_with(
                "(table $t 1 funcref)",
                "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
            ),
        ),
        ("failed/limit.result_bytes", tool("", &result_of(2 << 20))),
        // More than may be copied out of a guest at all.
        ("failed/limit.result_bytes", tool("", &result_of(40 << 20))),
        ("failed/limit.host_memory", tool(EMIT, &emit_of(40 << 20))),
        ("failed/invalid_result", tool("", &RETURN_ARGUMENTS.replacen("i32.const 0)", "i32.const 1)", 1))),
    ];
    for (wanted, component) in cases {
        let arguments = if wanted == "failed/invalid_result" { "{\"a\":" } else { "{}" };
        let outcome = bench.outcome(&component, arguments).await;
        assert_eq!(summary(&outcome), wanted, "{:?}", outcome.ending);
    }
    assert_eq!(bench.sandbox.stats().lost, 0);
}

const EMIT: &str = "(import \"bulkhead:tool/output@0.1.0\" \"emit\" (func $emit (param i32 i32 i32 i32 i32 i32)))";

fn grown(size: u32) -> String {
    format!("(drop (memory.grow (i32.const {})))", size / 65536 + 1)
}

fn result_of(size: u32) -> String {
    let body = RETURN_ARGUMENTS.replace("(local.get $len)", &format!("(i32.const {size})"));
    format!("{} (local.set $ptr (i32.const 70000)) {body}", grown(size))
}

fn emit_of(size: u32) -> String {
    let emit = format!(
        "(call $emit (i32.const 0) (i32.const 70000) (i32.const {size}) (i32.const 0) (i32.const 0) (i32.const 512))"
    );
    format!("{} {emit} {RETURN_ARGUMENTS}", grown(size))
}

#[tokio::test]
async fn parts_are_capped_and_a_large_one_passes() {
    let mut bench = Bench::new();
    bench.limits = Limits { emit_bytes: 1 << 20, ..bench.limits };
    let twice = format!("{} {}", emit_of(600 << 10), emit_of(600 << 10).replace(RETURN_ARGUMENTS, ""));
    let twice = format!("{} {RETURN_ARGUMENTS}", twice.replace(RETURN_ARGUMENTS, ""));
    let prepared = bench.prepare(&tool(EMIT, &twice)).await;
    let sink = Remember::new();
    let run = bench.call(&prepared, "{}", WorkspaceAccess::None);
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(text(&outcome), "{}");
    let kinds: Vec<_> =
        sink.all().iter().map(|emission| matches!(emission, Emission::Truncated { limit: "emit_bytes", .. })).collect();
    assert_eq!(kinds, [false, true]);
}

/// Raising `log_bytes` would not help: so it is told by its own name.
#[tokio::test]
async fn a_log_line_that_no_call_may_write_is_told_as_such() {
    let mut bench = Bench::new();
    bench.limits.host_memory_bytes = 64 << 20;
    for (component, attack, told) in [
        ("hostile/hostmem.wasm", "log", ("log_line_bytes", 48 << 20)),
        ("hostile/flood.wasm", "log_fields", ("log_fields", 64)),
    ] {
        let prepared = bench.prepare(&guests::built(component)).await;
        let sink = Remember::new();
        let run = bench.call(&prepared, &format!(r#"{{"attack": "{attack}"}}"#), WorkspaceAccess::None);
        let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!(summary(&outcome), "succeeded", "{attack}");
        assert_eq!(sink.all(), [Emission::Truncated { limit: told.0, used: Some(told.1) }]);
    }
}

#[tokio::test]
async fn a_cancelled_call_may_end_by_itself_or_is_stopped() {
    let mut bench = Bench::new();
    bench.limits.cpu_time_ms = 60_000;
    let polite = bench.prepare(&guests::until_cancelled()).await;
    let spin = bench.prepare(&guests::spin()).await;
    let hypocrite = bench.prepare(&guests::looks_and_spins_on()).await;
    // Which does not look, and uses nothing.
    let sleeps = bench.prepare(&guests::built("fixtures/sleeper.wasm")).await;
    let stopped = "cancelled/cancelled";
    for (prepared, wanted) in [(&polite, "succeeded"), (&spin, stopped), (&hypocrite, stopped), (&sleeps, stopped)] {
        let cancel = CancellationToken::new();
        let run = bench.call(prepared, r#"{"ms":60000,"honour_cancel":false}"#, WorkspaceAccess::None);
        let running = bench.spawn(run, Remember::new(), cancel.clone());
        bench.until("it runs", |stats| stats.calls == 1).await;
        // Long enough for the polite one to have looked for the first time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
        let cancelled = Instant::now();
        let outcome = running.await.unwrap().unwrap();
        assert_eq!(summary(&outcome), wanted);
        // There is no grace for who does not look, and next to none for who works on: two
        // seconds, otherwise.
        assert!(cancelled.elapsed() < Duration::from_secs(1), "{wanted}: {:?}", cancelled.elapsed());
    }
    let cancel = CancellationToken::new();
    cancel.cancel();
    let run = bench.call(&spin, "{}", WorkspaceAccess::None);
    let outcome = bench.sandbox.run(run, Remember::new(), cancel).await.unwrap();
    assert_eq!(summary(&outcome), "cancelled/cancelled");
}

#[tokio::test]
async fn what_can_not_be_a_tool_is_refused_by_name() {
    let bench = Bench::new();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not_wasm", b"#!/bin/sh".to_vec()),
        ("core_module", wat::parse_str("(module)").unwrap()),
        ("missing_export", wat::parse_str("(component)").unwrap()),
        ("unknown_import", wat::parse_str("(component (import \"wasi:keyvalue/store@0.2.0\" (instance)))").unwrap()),
        ("too_large", vec![0; (32 << 20) + 1]),
        ("describe_failed", tool_with("(func $f unreachable) (start $f)", "unreachable").to_vec()),
    ];
    for (wanted, bytes) in cases {
        match bench.sandbox.prepare(bytes.into()).await {
            Err(PrepareError::Rejected { code, reason }) => assert_eq!(code, wanted, "{reason}"),
            other => panic!("{wanted}: {other:?}"),
        }
    }
    let inspection = bench.sandbox.inspect(guests::echo()).await.unwrap();
    assert_eq!(inspection.problem, None);
    assert_eq!(inspection.exports, ["bulkhead:tool/guest@0.1.0"]);
}

#[tokio::test]
async fn one_user_s_calls_leave_memory_to_another_s() {
    let bench = Bench::with(|config| config.workers_per_tenant = 1);
    let (echo, hoards) = (bench.prepare(&guests::echo()).await, bench.prepare(&guests::hoards()).await);
    let (cancel, mut sinks) = (CancellationToken::new(), Vec::new());
    let mut start = |run: Run| {
        sinks.push(Remember::closed());
        bench.spawn(run, sinks[sinks.len() - 1].clone(), cancel.clone())
    };
    let running: Vec<_> = (0..24).map(|_| start(bench.call(&hoards, "{}", WorkspaceAccess::None))).collect();
    // Of 4 GiB those of one user get three quarters.
    bench.until("twelve hold what they have", |stats| stats.calls == 12).await;
    let of_another = |run: Run| Run { owner: Owner { user: UserId::from_parts(2, 2), ..run.owner }, ..run };
    let run = of_another(bench.call(&echo, "{}", WorkspaceAccess::None));
    assert_eq!(text(&bench.run(run).await.unwrap()), "{}");
    let large = start(of_another(bench.call(&hoards, "{}", WorkspaceAccess::None)));
    bench.until("another's gets as much as one of theirs", |stats| stats.calls == 13).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!large.is_finished());
    cancel.cancel();
    sinks.iter().for_each(|sink| sink.gate.add_permits(1_000));
    let mut refused = 0;
    for call in running {
        refused += usize::from(summary(&call.await.unwrap().unwrap()) == "failed/limit.memory");
    }
    assert_eq!(refused, 12);
    bench.sandbox.shutdown().await;
}

/// As many as a component may have, of each call that one user may have running here.
#[tokio::test]
async fn tables_of_many_calls_leave_some_to_the_next() {
    let mut bench = Bench::with(|config| config.calls_per_worker = 8);
    bench.limits.cpu_time_ms = 60_000;
    let full = bench.prepare(&guests::full_of_tables()).await;
    let echo = bench.prepare(&guests::echo()).await;
    let cancel = CancellationToken::new();
    let mut running = Vec::new();
    for _ in 0..7 {
        running.push(bench.spawn(bench.call(&full, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone()));
    }
    bench.until("they run", |stats| stats.calls == 7).await;
    let run = bench.call(&echo, "{}", WorkspaceAccess::None);
    let outcome = bench.sandbox.run(run, Remember::new(), CancellationToken::new()).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded");
    cancel.cancel();
    for one in running {
        assert_eq!(summary(&one.await.unwrap().unwrap()), "cancelled/cancelled");
    }
}
