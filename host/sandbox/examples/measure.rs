//! Measures cold calls: in process, and through a worker process.
//!
//! `cargo run --release -p bulkhead-sandbox --features bench --example measure -- <component.wasm> '<arguments>'`

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_core::digest::Digest;
use bulkhead_core::grants::{Grants, WorkspaceAccess};
use bulkhead_core::id::{CallId, TaskId, TenantId, UserId};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::Ending;
use bulkhead_core::pause::Pauses;
use bulkhead_core::ports::sandbox::{Emission, Prepared, Run, Sandbox, Sink};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::{Extent, Lease};
use bulkhead_sandbox::{ColdCalls, WasmConfig, WasmSandbox};
use tokio_util::sync::CancellationToken;

type Failed = Box<dyn std::error::Error>;

struct Nowhere;

#[async_trait::async_trait]
impl Sink for Nowhere {
    async fn emit(&self, _emission: Emission) {}
}

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("expected: <component.wasm> <arguments>")?;
    let arguments = args.next().unwrap_or_else(|| "{}".into());
    let component = std::fs::read(&path)?;
    let scratch = tempfile::tempdir()?;
    in_process(&component, &arguments, scratch.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(through_a_worker(component.into(), &arguments, scratch.path()))
}

fn in_process(component: &[u8], arguments: &str, scratch: &std::path::Path) -> Result<(), Failed> {
    let calls = ColdCalls::new(component, Some(scratch), scratch, 64)?;
    calls.run(2_000, arguments);
    let mut rounds: Vec<f64> = (0..20)
        .map(|_| {
            let began = Instant::now();
            calls.run(1_000, arguments);
            began.elapsed().as_secs_f64() * 1e6 / 1_000.0
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("in process: median {:.2} us, best {:.2} us a call", rounds[10], rounds[0]);
    Ok(())
}

async fn through_a_worker(component: bytes::Bytes, arguments: &str, scratch: &std::path::Path) -> Result<(), Failed> {
    let exe: PathBuf = std::env::current_exe()?;
    let exe = exe.parent().and_then(|examples| examples.parent()).ok_or("no directory")?.join("bulkhead-sandbox-child");
    let mut config = WasmConfig::new(exe, scratch.join("cache"));
    config.workers_per_tenant = 1;
    let sandbox = Arc::new(WasmSandbox::new(config)?);
    let began = Instant::now();
    let prepared = sandbox.prepare(component).await?;
    println!("prepare: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let directory = Arc::new(std::fs::File::open(scratch)?.into());
    let run = |prepared: &Prepared| Run {
        call: CallId::from_parts(1, 1),
        owner: Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) },
        task: TaskId::from_parts(1, 1),
        component: Digest::of(b""),
        artifact: prepared.artifact.clone(),
        workspace: Some(Arc::clone(&directory)),
        parts: Vec::new(),
        grants: Grants::workspace(WorkspaceAccess::ReadWrite),
        limits: Limits::default(),
        lease: Lease::of_nobody(Extent { bytes: u64::MAX, entries: u64::MAX }),
        environment: Arc::default(),
        pauses: Pauses::default(),
        arguments: arguments.into(),
    };
    let began = Instant::now();
    let first = sandbox.run(run(&prepared), Arc::new(Nowhere), CancellationToken::new()).await?;
    println!("first call, with a new worker: {:.2} ms, {}", began.elapsed().as_secs_f64() * 1e3, first.ending.state());
    for outstanding in [1, 16, 64] {
        measure(&sandbox, &run(&prepared), outstanding).await?;
    }
    sandbox.shutdown().await;
    Ok(())
}

async fn measure(sandbox: &Arc<WasmSandbox>, run: &Run, outstanding: usize) -> Result<(), Failed> {
    let calls = 20_000 / outstanding;
    let began = Instant::now();
    let tasks: Vec<_> = (0..outstanding)
        .map(|_| {
            let (sandbox, run) = (sandbox.clone(), run.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(calls);
                for _ in 0..calls {
                    let began = Instant::now();
                    let outcome = sandbox.run(run.clone(), Arc::new(Nowhere), CancellationToken::new()).await;
                    assert!(matches!(outcome, Ok(outcome) if matches!(outcome.ending, Ending::Succeeded { .. })));
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for task in tasks {
        took.extend(task.await?);
    }
    let wall = began.elapsed().as_secs_f64();
    took.sort();
    println!(
        "{outstanding} outstanding: {:.0} calls/s, p50 {:?}, p99 {:?}",
        took.len() as f64 / wall,
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    Ok(())
}
