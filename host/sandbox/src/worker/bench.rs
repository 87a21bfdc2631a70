//! The cold call as a worker makes it, in process and without its socket, for
//! benchmarks: context, workspace, store, limits, instantiation, call, drop.

use std::future::Future;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::limits::Limits;

use super::call::Call;
use super::limiter::Budget;
use super::link::Link;
use super::load::{linker, load};
use super::meter::Ticker;
use super::run::{Job, Loaded, Shared, run};
use super::state::Workspace;
use super::tally::Tally;
use crate::engine::{Flavour, Pool, compiler, runner};
use crate::wire::{Entry, Outbox};

/// A worker's engine with one component and one workspace.
pub struct ColdCalls {
    shared: Arc<Shared>,
    loaded: Arc<Loaded>,
    link: Arc<Link>,
    workspace: Option<Workspace>,
    runtime: tokio::runtime::Runtime,
    limits: Limits,
}

impl ColdCalls {
    /// Compiles `component` and opens `workspace`. `scratch` is a directory
    /// for the compiled code.
    ///
    /// # Errors
    /// If anything of it fails.
    pub fn new(component: &[u8], workspace: Option<&Path>, scratch: &Path, slots: u32) -> wasmtime::Result<Self> {
        let mut file =
            std::fs::File::options().read(true).write(true).create_new(true).open(scratch.join("bench.cwasm"))?;
        file.write_all(&compiler(Flavour::Wasi02)?.precompile_component(component)?)?;
        file.rewind()?;
        let engine = runner(Pool { flavour: Flavour::Wasi02, slots, pagemap_scan: true })?;
        let loaded = Arc::new(load(&linker(&engine, Flavour::Wasi02)?, Path::new("/proc/self/fd"), &file.into())?);
        let ticker = Arc::new(Ticker::start(engine.clone())?);
        let workspace =
            workspace.map(|path| Ok::<_, std::io::Error>(Workspace::new(std::fs::File::open(path)?))).transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                ticker,
                background: Arc::default(),
                budget: Arc::new(Budget::new(u64::MAX)),
                syncs: Arc::default(),
                heavy: Arc::default(),
                spare: Tally::new(1),
            }),
            loaded,
            link: Arc::default(),
            workspace,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
            limits: Limits::default(),
        })
    }

    /// Makes `count` calls, one after the other.
    pub fn run(&self, count: u32, arguments: &str) {
        self.runtime.block_on(async {
            for _ in 0..count {
                self.call(arguments).await;
            }
        });
    }

    async fn call(&self, arguments: &str) {
        let deadline = Instant::now() + Duration::from_millis(self.limits.wall_time_ms);
        let (link, syncs) = (self.link.clone(), self.shared.syncs.of(1));
        let call = Arc::new(Call::new(1, self.limits.clone(), (u64::MAX, u64::MAX), deadline, link, syncs));
        self.link.begin(&call);
        let root = self.workspace.as_ref().and_then(|workspace| workspace.with(WorkspaceAccess::ReadWrite));
        let job = Job {
            entry: Entry::Call,
            loaded: self.loaded.clone(),
            mounts: root.into_iter().collect(),
            environment: Vec::new(),
            arguments: arguments.to_owned(),
            user: 1,
        };
        let mut running = Box::pin(run(self.shared.clone(), call, job));
        if running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            running.await;
        }
        self.link.end(1);
        self.link.with_outbox(Outbox::clear);
    }
}
