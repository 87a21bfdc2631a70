//! What a worker takes of the machine.

use bulkhead_core::ports::sandbox::Sandbox as _;
use bulkhead_sandbox::Part;

use crate::harness::{Bench, summary};
use crate::walls::{attack, running};

#[test]
fn it_takes_no_more_than_a_worker_needs() {
    let reached = attack(&[Part::Bounds], None);
    reached.assert(&["bounds.descriptors", "bounds.memory", "bounds.file_size", "bounds.sparse_write"]);
    assert_eq!(reached.0["missing"], serde_json::json!(["resource limits"]));
}

/// The limits alone do not keep it from memory that they don't count.
#[test]
fn memory_that_no_limit_counts_is_refused() {
    let uncounted = ["bounds.shared_memory", "bounds.shared_file", "bounds.stack"];
    let behind_all = attack(&[], None);
    assert!(uncounted.iter().all(|name| !behind_all.names().contains(name)), "{:?}", behind_all.names());
    attack(&[Part::Seccomp], None).assert(&uncounted);
}

/// How soon the kernel would end a process when memory runs out.
fn oom_score(pid: impl std::fmt::Display) -> Option<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn a_worker_goes_before_the_server_when_memory_runs_out() {
    // It is not to have it from this process.
    if oom_score("self") == Some(1000) {
        std::fs::write("/proc/self/oom_score_adj", "999").unwrap();
    }
    let bench = Bench::with(|config| config.worker_args.push("first-to-go".into()));
    assert!(bench.sandbox.check_walls().await.unwrap().first_to_go);
    assert_eq!(summary(&bench.outcome(&crate::guests::echo(), "{}").await), "succeeded");
    // The one that ran it rests; one that waits to be a worker may be beside it.
    let scores: Vec<_> = running("first-to-go").into_iter().filter_map(oom_score).collect();
    assert!(scores.contains(&1000), "{scores:?}");
    bench.sandbox.shutdown().await;
}
