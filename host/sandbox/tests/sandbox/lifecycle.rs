//! Workers come, are shared by the calls of one tenant, and go.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::sandbox::{Run, Sandbox};
use bulkhead_core::ports::workspace::{Domains, WorkspaceError};
use bulkhead_sandbox::Isolation;
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Bench, Remember, summary, text};

#[tokio::test]
async fn a_short_call_passes_spinning_neighbours() {
    let bench = Bench::with(|config| config.workers_per_tenant = 1);
    let echo = bench.prepare(&guests::echo()).await;
    let spin = bench.prepare(&guests::spin()).await;
    let cancel = CancellationToken::new();
    let spinning: Vec<_> = (0..4)
        .map(|_| bench.spawn(bench.call(&spin, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone()))
        .collect();
    bench.until("they run", |stats| stats.calls == 4).await;
    for _ in 0..20 {
        assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    }
    assert!(spinning.iter().all(|call| !call.is_finished()));
    assert_eq!(bench.sandbox.stats().workers, 1);
    bench.sandbox.shutdown().await;
    for call in spinning {
        assert_eq!(summary(&call.await.unwrap().unwrap()), "interrupted/host_stopped");
    }
    assert!(bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.is_err());
}

#[tokio::test]
async fn tenants_never_share_a_worker_and_idle_ones_leave() {
    let mut bench = Bench::with(|config| {
        config.idle_timeout = Duration::from_millis(300);
        config.workers_per_tenant = 1;
    });
    let echo = bench.prepare(&guests::echo()).await;
    let before = bench.sandbox.stats().started;
    for tenant in 1..=3 {
        bench.owner.tenant = TenantId::from_parts(9, tenant);
        assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    }
    assert_eq!(bench.sandbox.stats().started, before + 3);
    bench.until("idle workers leave", |stats| stats.workers == 0).await;
    assert_eq!(bench.sandbox.stats().lost, 0);
}

/// Remembers who asked for what.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<(TenantId, Option<TaskId>)>>, Option<Arc<OwnedFd>>);

#[async_trait::async_trait]
impl Domains for Asked {
    async fn domain(&self, tenant: TenantId, task: Option<TaskId>) -> Result<Arc<OwnedFd>, WorkspaceError> {
        self.0.lock().unwrap().push((tenant, task));
        Ok(self.1.clone().unwrap())
    }
}

#[tokio::test]
async fn strict_workers_serve_one_task_and_reach_its_workspace_alone() {
    let directory: OwnedFd = std::fs::File::open("/").unwrap().into();
    let asked = Arc::new(Asked(Mutex::default(), Some(Arc::new(directory))));
    let bench = Bench::with(|config| {
        config.isolation = Isolation::Strict;
        config.domains = Some(asked.clone());
    });
    let echo = bench.prepare(&guests::echo()).await;
    let before = bench.sandbox.stats().started;
    let tasks = [1, 2, 1].map(|number| TaskId::from_parts(7, number));
    for task in tasks {
        let run = Run { task, ..bench.call(&echo, "{}", WorkspaceAccess::None) };
        assert_eq!(text(&bench.run(run).await.unwrap()), "{}");
    }
    assert_eq!(bench.sandbox.stats().started, before + 2);
    let wanted = [(bench.owner.tenant, Some(tasks[0])), (bench.owner.tenant, Some(tasks[1]))];
    assert_eq!(*asked.0.lock().unwrap(), wanted);
    // A task that is gone keeps no process.
    bench.sandbox.forget(bench.owner.tenant, tasks[0]).await;
    bench.until("its worker leaves", |stats| stats.workers == 1).await;
}

#[tokio::test]
async fn a_full_house_makes_room_by_ending_an_idle_worker() {
    let mut bench = Bench::with(|config| config.max_workers = 1);
    let echo = bench.prepare(&guests::echo()).await;
    for tenant in 1..=3 {
        bench.owner.tenant = TenantId::from_parts(9, tenant);
        assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    }
    assert!(bench.sandbox.stats().workers <= 1);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_ended() {
    let bench = Bench::with(|config| config.workers_per_tenant = 1);
    let echo = bench.prepare(&guests::echo()).await;
    for guest in [guests::spin(), guests::emits_for_ever()] {
        let prepared = bench.prepare(&guest).await;
        let run = bench.call(&prepared, "{}", WorkspaceAccess::None);
        let running = bench.spawn(run, Remember::closed(), CancellationToken::new());
        bench.until("it runs", |stats| stats.calls == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.abort();
        bench.until("its place is free", |stats| stats.calls == 0).await;
    }
    assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn many_calls_at_once_wait_for_their_turn() {
    let bench = Arc::new(Bench::with(|config| {
        config.calls_per_worker = 2;
        config.workers_per_tenant = 2;
    }));
    let echo = bench.prepare(&guests::echo()).await;
    let calls = (0..40).map(|number| {
        let arguments = format!("{{\"n\":{number}}}");
        let running = bench.spawn(
            bench.call(&echo, &arguments, WorkspaceAccess::None),
            Remember::new(),
            CancellationToken::new(),
        );
        async move { assert_eq!(text(&running.await.unwrap().unwrap()), arguments) }
    });
    futures::future::join_all(calls).await;
    // Also counted: the process that described the tool, until it is gone.
    bench.until("no more workers than allowed", |stats| stats.workers <= 2).await;
}

/// Of those that ended and are still given back there are never more than slots for them.
#[tokio::test]
async fn calls_that_are_stopped_at_once_leave_their_places_to_the_next() {
    let mut bench = Bench::new();
    bench.limits.cpu_time_ms = 1;
    let bench = Arc::new(bench);
    let spin = bench.prepare(&guests::spin()).await;
    let clients = (0..64).map(|_| async {
        for _ in 0..8 {
            let run = bench.call(&spin, "{}", WorkspaceAccess::None);
            let outcome = bench.run(run).await.unwrap();
            assert_eq!(summary(&outcome), "timed_out/limit.cpu_time");
        }
    });
    futures::future::join_all(clients).await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_place_can_be_cancelled() {
    let bench = Bench::with(|config| {
        config.calls_per_worker = 1;
        config.workers_per_tenant = 1;
    });
    let spin = bench.prepare(&guests::spin()).await;
    let call = || bench.call(&spin, "{}", WorkspaceAccess::None);
    let running = bench.spawn(call(), Remember::new(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    let cancel = CancellationToken::new();
    let waiting = bench.spawn(call(), Remember::new(), cancel.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    cancel.cancel();
    assert_eq!(summary(&waiting.await.unwrap().unwrap()), "cancelled/cancelled");
    running.abort();
}

#[tokio::test]
async fn no_worker_that_scans_runs_another_guest_once_there_is_swap() {
    let swaps = tempfile::NamedTempFile::new().unwrap();
    let heading = "Filename Type Size Used Priority\n";
    std::fs::write(swaps.path(), heading).unwrap();
    let mut bench = Bench::with(|config| {
        config.swaps = swaps.path().into();
        config.swap_interval = Duration::from_millis(20);
        config.workers_per_tenant = 1;
        config.idle_timeout = Duration::from_secs(3_600);
    });
    let (echo, spin) = (bench.prepare(&guests::echo()).await, bench.prepare(&guests::until_cancelled()).await);
    let call = |bench: &Bench| bench.call(&echo, "{}", WorkspaceAccess::None);
    assert_eq!(text(&bench.run(call(&bench)).await.unwrap()), "{}");
    bench.until("one worker stays, and scans", |stats| stats.workers == 1 && stats.scanning == 1).await;

    std::fs::write(swaps.path(), format!("{heading}/dev/zram0 partition 1024 0 -2\n")).unwrap();
    bench.until("the idle one is ended", |stats| stats.workers == 0).await;
    assert_eq!(text(&bench.run(call(&bench)).await.unwrap()), "{}");
    let stats = bench.sandbox.stats();
    assert_eq!((stats.workers, stats.scanning, stats.retired, stats.swap), (1, 0, 1, true));

    // Gone again; its worker leaves with the next one that scans.
    std::fs::write(swaps.path(), heading).unwrap();
    bench.until("it is seen", |stats| !stats.swap).await;
    bench.owner.tenant = TenantId::from_parts(2, 2);
    let cancel = CancellationToken::new();
    let busy = bench.spawn(bench.call(&spin, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone());
    bench.until("it runs in one that scans", |stats| stats.calls == 1 && stats.scanning == 1).await;
    std::fs::write(swaps.path(), format!("{heading}/swapfile file 1024 0 -2\n")).unwrap();
    bench.until("the busy one is retired", |stats| stats.retired == 2).await;
    // Not behind the busy one, although the tenant may have one worker only.
    let beside = bench.run(call(&bench)).await.unwrap();
    assert_eq!(text(&beside), "{}");
    assert!(!busy.is_finished(), "what runs may end");
    cancel.cancel();
    assert_eq!(summary(&busy.await.unwrap().unwrap()), "succeeded");
    bench.until("it leaves once it is idle", |stats| stats.scanning == 0).await;
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn an_old_worker_is_followed_by_another_and_ends_with_its_last_call() {
    let bench = Bench::with(|config| {
        config.workers_per_tenant = 1;
        config.idle_timeout = Duration::from_secs(3_600);
        config.max_age = Duration::from_secs(2);
    });
    let (echo, spin) = (bench.prepare(&guests::echo()).await, bench.prepare(&guests::until_cancelled()).await);
    let cancel = CancellationToken::new();
    let before = bench.sandbox.stats().started;
    let busy = bench.spawn(bench.call(&spin, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone());
    bench.until("it is old", |stats| stats.recycled == 1).await;
    // Not behind the busy one, although the tenant may have one worker only.
    let beside = bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap();
    assert_eq!(text(&beside), "{}");
    assert_eq!(bench.sandbox.stats().started, before + 2);
    // That one gets old as well, and stays: one of a home leaves at a time.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    assert_eq!(bench.sandbox.stats().recycled, 1);
    assert!(!busy.is_finished(), "what runs may end");
    cancel.cancel();
    assert_eq!(summary(&busy.await.unwrap().unwrap()), "succeeded");
    bench.until("both are gone", |stats| stats.workers == 0 && stats.recycled == 2).await;
    assert_eq!(bench.sandbox.stats().lost, 0);
}

#[tokio::test]
async fn a_tampered_artefact_is_never_loaded() {
    let bench = Bench::new();
    let echo = bench.prepare(&guests::echo()).await;
    let path = bench.config.cache_dir.join(format!("{}.cwasm", echo.artifact.key.hex()));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.expect_err("forged");
    assert!(error.to_string().contains("must be prepared again"), "{error}");
    // Preparing again makes it anew.
    let echo = bench.prepare(&guests::echo()).await;
    assert_eq!(text(&bench.run(bench.call(&echo, "{}", WorkspaceAccess::None)).await.unwrap()), "{}");
}
