//! The same call without HTTP: the use case that the handler calls, in this
//! process, upon a store and workers of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::components::ComponentFiles;
use bulkhead::config::{Config, Synchronous};
use bulkhead::metrics::{Metrics, Readings};
use bulkhead::system::System;
use bulkhead_core::access::{CallableTask, Operation};
use bulkhead_core::limits::LimitsPatch;
use bulkhead_core::ports::cluster::Alone;
use bulkhead_core::ports::egress::NoEgress;
use bulkhead_core::principal::{Credential, Principal, Scopes};
use bulkhead_core::service::calls::NewCall;
use bulkhead_core::service::tasks::{Fill, NewTask};
use bulkhead_core::service::{Ports, Services};
use bulkhead_sandbox::{WasmConfig, WasmSandbox};
use bulkhead_store::SqliteStore;
use bulkhead_workspace::import::ChildImporter;
use bulkhead_workspace::{KernelQuota, LocalWorkspaces};
use serde_json::value::RawValue;

use super::client::Figures;

/// Calls `echo` from so many tasks of the runtime at once, for each number.
pub fn calls(full: bool, clients: &[usize], span: Duration) -> Vec<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let data = tempfile::tempdir().unwrap();
        let services = Arc::new(services(data.path(), full).await);
        let task = task(&services).await;
        load(&services, &task, 2, Duration::from_millis(500)).await;
        let mut all = Vec::new();
        for clients in clients {
            all.push(load(&services, &task, *clients, span).await);
        }
        services.upkeep.stop().await;
        all
    })
}

async fn services(data: &std::path::Path, full: bool) -> Services {
    let mut config = Config { data: data.to_owned(), ..Config::default() };
    config.store.synchronous = if full { Synchronous::Full } else { Synchronous::Off };
    for directory in [config.components(), config.artifacts()] {
        bulkhead::app::private_directory(&directory).unwrap();
    }
    let exe = std::path::PathBuf::from(env!("CARGO_BIN_EXE_bulkhead"));
    let workspaces = Arc::new(LocalWorkspaces::new(data, KernelQuota::Off).unwrap());
    let wasm = WasmConfig { domains: Some(workspaces.clone()), ..config.wasm(exe.clone(), config.artifacts()) };
    let store = Arc::new(SqliteStore::open(config.sqlite()).await.unwrap());
    let ports = Ports {
        rates: Arc::new(bulkhead::rates::LocalRates::new(Default::default())),
        live: None,
        cluster: Arc::new(Alone::new(store.clone())),
        store,
        sandbox: Arc::new(WasmSandbox::new(wasm).unwrap()),
        archives: Arc::new(workspaces.archiver(config.archiver(exe.clone()))),
        workspaces,
        importer: Arc::new(ChildImporter::new(config.importer(exe)).unwrap()),
        components: Arc::new(ComponentFiles::new(config.components(), None)),
        ids: Arc::new(System),
        meter: Metrics::new(|| Readings {
            store: Default::default(),
            redis: None,
            workers: bulkhead_sandbox::WasmStats::default(),
            policy_failures: 0,
            tokens: Default::default(),
        }),
        egress: Arc::new(NoEgress),
    };
    Services::new(ports, config.service())
}

async fn task(services: &Services) -> Arc<CallableTask> {
    let (owner, _) = services.keys.first_owner().await.unwrap();
    let principal = Principal::new(owner, Scopes::all(), Credential::None);
    let permit = services.access.permit(&principal, Operation::ToolsRegister).await.unwrap();
    let wasm = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tools/dist/fixtures/echo.wasm")).unwrap();
    let (tool, _) = services.tools.register(&permit, false, wasm.into()).await.unwrap();
    assert_eq!(services.tools.settled(tool.id).await.unwrap().state.name(), "ready");
    let permit = services.access.permit(&principal, Operation::TasksCreate).await.unwrap();
    let new = NewTask {
        session: None,
        label: String::new(),
        fill: Fill::Empty,
        tools: None,
        limits: LimitsPatch::default(),
        capabilities: None,
        lifetimes: Default::default(),
    };
    let task = services.tasks.create(&permit, new).await.unwrap();
    Arc::new(services.access.frozen_task(&principal, Operation::CallsCreate, task.id).await.unwrap())
}

async fn load(services: &Arc<Services>, task: &Arc<CallableTask>, clients: usize, span: Duration) -> Figures {
    let begun = Instant::now();
    let loops: Vec<_> = (0..clients)
        .map(|_| {
            let (services, task) = (services.clone(), task.clone());
            tokio::spawn(async move {
                let arguments = RawValue::from_string(r#"{"text":"hello"}"#.into()).unwrap();
                let mut times = Vec::new();
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    let limits = LimitsPatch::default();
                    let new = NewCall { tool: "echo", arguments: &arguments, limits, idempotency: None };
                    let mut submission = services.calls.submit(&task, new).await.unwrap();
                    let ended = submission.ended().await.unwrap();
                    assert_eq!(ended.state.name(), "succeeded");
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for one in loops {
        times.extend(one.await.unwrap());
    }
    Figures::of(times, begun.elapsed())
}
