//! Tools of WASI 0.3: behind a switch, in workers of their own, and within the
//! same limits.

use std::time::Duration;

use bulkhead_core::digest::Digest;
use bulkhead_core::event::{ChangeKind, Stream};
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::sandbox::{Emission, PrepareError, Prepared, Run, Sandbox};
use bulkhead_core::quota::{Extent, Lease};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Bench, Remember, summary, text};

fn switched_on() -> Bench {
    Bench::with(|config| {
        config.wasi_03 = true;
        config.workers_per_tenant = 1;
    })
}

fn fixture() -> Bytes {
    guests::built("fixtures/async.wasm")
}

fn hostile(theme: &str) -> Bytes {
    guests::built(&format!("hostile/async_{theme}.wasm"))
}

/// What a call says, as its `json` part.
fn told(outcome: &Outcome) -> Value {
    match &outcome.ending {
        Ending::Succeeded { content: Some(content) } => match content.as_slice() {
            [Content::Json { json }] => serde_json::from_str(json.text()).unwrap(),
            other => panic!("not one JSON value: {other:?}"),
        },
        other => panic!("not a success: {other:?}"),
    }
}

fn attack(bench: &Bench, prepared: &Prepared, attack: &str) -> Run {
    let arguments = json!({ "attack": attack }).to_string();
    bench.call(prepared, &arguments, WorkspaceAccess::ReadWrite)
}

#[tokio::test]
async fn switched_off_it_is_refused_and_the_switch_is_named() {
    let refused = |error: PrepareError| match error {
        PrepareError::Rejected { code, reason } => {
            assert_eq!(code, "unknown_import");
            assert!(reason.contains("`wasi:cli/environment@0.3.0`"), "{reason}");
            assert!(reason.contains("`experimental.wasi_03`"), "{reason}");
        }
        PrepareError::Sandbox(error) => panic!("{error}"),
    };
    let off = Bench::new();
    refused(off.sandbox.prepare(fixture()).await.unwrap_err());
    // What was made of it while it was on is there, and is not used.
    let on = off.again(|config| config.wasi_03 = true);
    let prepared = on.prepare(&fixture()).await;
    assert_eq!(prepared.manifest.name, "async");
    assert_eq!(on.prepare(&fixture()).await, prepared, "it is prepared once");
    refused(off.sandbox.prepare(fixture()).await.unwrap_err());
    let error = off.run(off.call(&prepared, "{}", WorkspaceAccess::None)).await.unwrap_err();
    assert!(error.to_string().contains("`experimental.wasi_03`"), "{error}");
    assert_eq!(off.sandbox.stats().workers, 0);
}

#[tokio::test]
async fn files_streams_clocks_and_output_are_those_of_the_call() {
    let bench = switched_on();
    let prepared = bench.prepare(&fixture()).await;
    let arguments = json!({"write": "a/b.txt", "text": "hello ", "read": "a/b.txt", "list": ".", "print": 3,
        "wait": [60, 60, 60]});
    let mut run = bench.call(&prepared, &arguments.to_string(), WorkspaceAccess::ReadWrite);
    run.environment = [("NAME".to_owned(), "value".to_owned())].into();
    let sink = Remember::new();
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    let told = told(&outcome);
    assert_eq!(told["read"], "hello hello ");
    assert_eq!(told["listed"], json!(["a"]));
    // Beside each other, not after each other.
    assert!((60..180).contains(&told["waited"].as_u64().unwrap()), "{told}");
    assert!(told["since"].as_u64().unwrap() > 1_700_000_000, "{told}");
    assert_eq!((&told["random"], &told["arguments"], &told["input"]), (&json!(8), &json!([]), &json!([0, true])));
    assert_eq!(told["environment"], json!([["NAME", "value"]]));
    assert_eq!(std::fs::read(bench.workspace.path().join("a/b.txt")).unwrap(), b"hello hello ");
    assert_eq!((sink.text(Stream::Stdout), sink.text(Stream::Stderr)), (b"ooo".to_vec(), b"eee".to_vec()));
    let usage = outcome.usage;
    assert_eq!((usage.read_bytes, usage.written_bytes, usage.output_bytes), (12, 12, 6));
    let changes: Vec<_> = sink.all().into_iter().filter_map(changed).collect();
    assert_eq!(changes, ["a", "a/b.txt"].map(|path| (ChangeKind::Created, path.to_owned())));
}

fn changed(emission: Emission) -> Option<(ChangeKind, String)> {
    match emission {
        Emission::Changed(change) => Some((change.change, change.path)),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_not_granted_is_not_there() {
    let bench = switched_on();
    let prepared = bench.prepare(&fixture()).await;
    let write = json!({"write": "file", "text": "x"}).to_string();
    for (access, code) in [(WorkspaceAccess::None, "NoEntry"), (WorkspaceAccess::Read, "NotPermitted")] {
        let outcome = bench.run(bench.call(&prepared, &write, access)).await.unwrap();
        let message = &outcome.ending.fault().expect("a refusal").message;
        assert!(message.ends_with(code), "{access:?}: {message}");
    }
    assert_eq!(std::fs::read_dir(bench.workspace.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn its_quota_holds_for_streams_and_entries() {
    let bench = switched_on();
    let prepared = bench.prepare(&fixture()).await;
    let write = json!({"write": "d/file", "text": "x".repeat(1_000)}).to_string();
    for (bytes, entries, wanted) in [(2_000, 2, "succeeded"), (1_999, 2, "failed"), (2_000, 1, "failed")] {
        let run = bench.call(&prepared, &write, WorkspaceAccess::ReadWrite);
        let outcome = bench.run(Run { lease: Lease::of_nobody(Extent { bytes, entries }), ..run }).await.unwrap();
        assert_eq!(outcome.ending.state(), wanted, "{outcome:?}");
        if let Some(fault) = outcome.ending.fault() {
            assert!(fault.message.ends_with("Quota"), "{}", fault.message);
        }
        std::fs::remove_dir_all(bench.workspace.path().join("d")).unwrap();
    }
}

#[tokio::test]
async fn its_time_is_limited_and_it_can_be_cancelled() {
    let mut bench = switched_on();
    let (patient, tasks) = (bench.prepare(&fixture()).await, bench.prepare(&hostile("tasks")).await);
    let streams = bench.prepare(&hostile("streams")).await;
    bench.limits.wall_time_ms = 300;
    let waits = bench.call(&patient, r#"{"wait": [60000, 60000]}"#, WorkspaceAccess::None);
    assert_eq!(summary(&bench.run(waits).await.unwrap()), "timed_out/limit.wall_time");
    (bench.limits.wall_time_ms, bench.limits.cpu_time_ms) = (20_000, 100);
    for (attacks, spin) in
        [(&tasks, "spin"), (&tasks, "spin_yielding"), (&tasks, "spin_calling"), (&streams, "endless")]
    {
        let outcome = bench.run(attack(&bench, attacks, spin)).await.unwrap();
        assert_eq!(summary(&outcome), "timed_out/limit.cpu_time", "{spin}");
        assert!(outcome.usage.cpu_us < 400_000, "{spin}: {:?}", outcome.usage);
    }
    let cancel = CancellationToken::new();
    let waits = bench.call(&patient, r#"{"wait": [60000]}"#, WorkspaceAccess::None);
    let waiting = bench.spawn(waits, Remember::new(), cancel.clone());
    bench.until("it runs", |stats| stats.calls == 1).await;
    cancel.cancel();
    let outcome = waiting.await.unwrap().unwrap();
    assert_eq!(outcome.ending.state(), "cancelled");
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn what_it_prints_waits_for_credit_and_is_capped() {
    let mut bench = switched_on();
    bench.limits.stdout_bytes = 2 << 20;
    let prepared = bench.prepare(&fixture()).await;
    let sink = Remember::closed();
    let run = bench.call(&prepared, r#"{"print": 3000000}"#, WorkspaceAccess::None);
    let printing = bench.spawn(run, sink.clone(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!printing.is_finished() && sink.all().is_empty());
    sink.gate.add_permits(100_000);
    let outcome = printing.await.unwrap().unwrap();
    assert_eq!(outcome.ending.state(), "succeeded", "{outcome:?}");
    assert_eq!(outcome.usage.output_bytes, 6_000_000);
    assert_eq!(sink.text(Stream::Stdout).len(), 2 << 20);
    assert!(sink.all().iter().any(|emission| matches!(emission, Emission::Truncated { limit: "stdout_bytes", .. })));
}

#[tokio::test]
async fn flavours_never_share_a_worker() {
    let bench = switched_on();
    let (new, old) = (bench.prepare(&fixture()).await, bench.prepare(&guests::echo()).await);
    let before = bench.sandbox.stats().started;
    for _ in 0..3 {
        assert_eq!(text(&bench.run(bench.call(&old, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
        told(&bench.run(bench.call(&new, "{}", WorkspaceAccess::None)).await.unwrap());
    }
    // Those that described the tools are on their way out, or gone.
    bench.until("two are left", |stats| stats.workers == 2).await;
    let stats = bench.sandbox.stats();
    assert_eq!((stats.started - before, stats.lost), (2, 0));
}

#[tokio::test]
async fn as_many_wait_in_one_worker_as_it_takes_calls() {
    let bench = Bench::with(|config| {
        (config.wasi_03, config.workers_per_tenant, config.calls_per_worker) = (true, 1, 8);
    });
    let prepared = bench.prepare(&fixture()).await;
    let write = |n| json!({"write": format!("{n}"), "text": "x", "print": 10, "wait": [700, 700]}).to_string();
    let calls = (0..8).map(|n| bench.call(&prepared, &write(n), WorkspaceAccess::ReadWrite));
    let waiting: Vec<_> = calls.map(|call| bench.spawn(call, Remember::new(), CancellationToken::new())).collect();
    bench.until("all of them run", |stats| stats.calls == 8).await;
    for call in waiting {
        assert!((700..5_000).contains(&told(&call.await.unwrap().unwrap())["waited"].as_u64().unwrap()));
    }
    assert_eq!((bench.sandbox.stats().workers, bench.sandbox.stats().lost), (1, 0));
}

#[tokio::test]
async fn an_artefact_of_one_flavour_is_never_loaded_by_the_other() {
    let bench = switched_on();
    let flipped = |key: Digest| {
        let mut bytes = *key.as_bytes();
        bytes[31] ^= 1;
        Digest::from_bytes(bytes)
    };
    let file = |key: Digest| bench.config.cache_dir.join(format!("{}.cwasm", key.hex()));
    for component in [fixture(), guests::echo()] {
        let mut prepared = bench.prepare(&component).await;
        let other = flipped(prepared.artifact.key);
        // As if it had been recorded so: its digest is what it was.
        std::fs::copy(file(prepared.artifact.key), file(other)).unwrap();
        prepared.artifact.key = other;
        let error = bench.run(bench.call(&prepared, "{}", WorkspaceAccess::None)).await.unwrap_err();
        assert!(error.to_string().contains("could not load the compiled component"), "{error}");
    }
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn what_the_engine_keeps_for_it_is_bounded_and_neighbours_go_on() {
    let mut bench = switched_on();
    let (tasks, streams) = (bench.prepare(&hostile("tasks")).await, bench.prepare(&hostile("streams")).await);
    let fixture = bench.prepare(&fixture()).await;
    let patient = bench.call(&fixture, r#"{"wait": [1500]}"#, WorkspaceAccess::None);
    let patient = bench.spawn(patient, Remember::new(), CancellationToken::new());
    let many = ["many", "many_futures", "many_outputs", "many_inputs"].map(|name| (&streams, name));
    for (attacks, name) in many.into_iter().chain([(&tasks, "subtasks")]) {
        let outcome = bench.run(attack(&bench, attacks, name)).await.unwrap();
        assert!(["failed/limit.handles", "failed/limit.streams"].contains(&&*summary(&outcome)), "{name}: {outcome:?}");
    }
    for (attacks, name) in [(&tasks, "subtasks_given_up"), (&streams, "many_dropped")] {
        let outcome = bench.run(attack(&bench, attacks, name)).await.unwrap();
        assert_eq!(outcome.ending.state(), "succeeded", "what is dropped gives its place back: {name} {outcome:?}");
    }
    // 400 handles of the guest's, 600 entries of the engine's.
    for (handles, wanted) in [(500, "failed/limit.handles"), (700, "succeeded")] {
        bench.limits.handles = handles;
        assert_eq!(summary(&bench.run(attack(&bench, &streams, "two_hundred")).await.unwrap()), wanted);
    }
    let outcome = bench.run(attack(&bench, &streams, "unread")).await.unwrap();
    assert_eq!(summary(&outcome), "failed/trap");
    assert_eq!(patient.await.unwrap().unwrap().ending.state(), "succeeded");
    assert_eq!((bench.sandbox.stats().workers, bench.sandbox.stats().lost), (1, 0));
}

#[tokio::test]
async fn no_link_is_made_while_a_directory_is_looked_through_for_them() {
    let bench = switched_on();
    let attacks = bench.prepare(&hostile("files")).await;
    let told = told(&bench.run(attack(&bench, &attacks, "links_beside_a_move")).await.unwrap());
    assert_eq!((&told["escaped"], &told["moved"]), (&json!(false), &json!("Ok(())")), "{told}");
    assert_eq!(told["last"], "Err(ErrorCode::Busy)", "the attack came too late: {told}");
    let moved = bench.workspace.path().join("moved");
    assert!(moved.join("first/l0").is_symlink() && !moved.join("trap0").is_symlink());
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_once_its_directory_was_looked_through_is_refused() {
    let bench = switched_on();
    let attacks = bench.prepare(&hostile("files")).await;
    let told = told(&bench.run(attack(&bench, &attacks, "names_beside_a_move")).await.unwrap());
    assert_eq!((&told["escaped"], &told["swapped"]), (&json!(false), &json!("Ok(())")), "{told}");
    assert_eq!(told["moved"], "Err(ErrorCode::Busy)", "the attack came too late: {told}");
    assert_eq!(std::fs::read_dir(bench.workspace.path().join("way")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_copied_without_the_guest_s_code_leaves_turns_to_others() {
    let mut bench = switched_on();
    bench.limits.stdout_bytes = 1_000;
    let (attacks, fixture) = (bench.prepare(&hostile("streams")).await, bench.prepare(&fixture()).await);
    // Warm, so that what follows is measured.
    told(&bench.run(bench.call(&fixture, "{}", WorkspaceAccess::None)).await.unwrap());
    let copying = attack(&bench, &attacks, "file_to_output");
    let copying = bench.spawn(copying, Remember::new(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    let mut beside = 0;
    while !copying.is_finished() {
        told(&bench.run(bench.call(&fixture, "{}", WorkspaceAccess::None)).await.unwrap());
        beside += 1;
    }
    assert_eq!(copying.await.unwrap().unwrap().ending.state(), "succeeded");
    assert!(beside >= 5, "only {beside} calls had their turn");
}
