//! The host's side: processes, checks, cache.

mod apart;
mod artifacts;
mod cgroups;
mod clock;
mod compiler;
mod exchange;
mod exchanges;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzzing;
mod guard;
mod judge;
mod kept;
mod pool;
mod prepare;
mod pump;
mod reap;
mod run;
mod spawn;
mod spent;
mod swap;
mod waiting;
mod worker;

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::{TaskId, TenantId, UserId};
use bulkhead_core::outcome::Outcome;
use bulkhead_core::ports::sandbox::{PrepareError, Prepared, Run, Sandbox, SandboxError, Sink, Tell};
use bulkhead_core::tool::Artifact;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use artifacts::Artifacts;
use cgroups::Cgroups;
use compiler::Compiler;
use judge::Judged;
use pool::Pool;
use run::{Failed, Job, Opening};

pub use cgroups::{CgroupParent, CgroupReport};
pub use pool::WasmStats;

use crate::bounds::{MAX_ARGUMENTS, MAX_ENVIRONMENT};
use crate::compile::Inspection;
use crate::config::WasmConfig;
use crate::engine::Flavour;
use crate::walls::Walls;
use crate::wire::Entry;

/// Runs WebAssembly components in worker processes.
pub struct WasmSandbox {
    host: Arc<Host>,
}

/// What the parts of the sandbox share.
struct Host {
    config: Arc<WasmConfig>,
    pool: Arc<Pool>,
    compiler: Compiler,
    artifacts: Arc<Artifacts>,
    cgroups: Arc<Cgroups>,
}

impl Host {
    /// Opens a compiled component, checked, on a thread that may block.
    fn opening(&self, artifact: &Artifact) -> Opening {
        let (artifacts, artifact) = (self.artifacts.clone(), artifact.clone());
        async move {
            let opened = tokio::task::spawn_blocking(move || artifacts.open(&artifact)).await;
            opened.map_err(|error| SandboxError::new("a blocking task failed", error))?
        }
        .boxed()
    }
}

impl WasmSandbox {
    /// A sandbox with no worker yet. Must be called within a tokio runtime,
    /// which must live as long as the sandbox.
    ///
    /// # Errors
    /// If the cache directory can't be used or is not safe to load code from,
    /// or a thread can't be started.
    pub fn new(config: WasmConfig) -> io::Result<Self> {
        let config = Arc::new(config);
        let artifacts = Arc::new(Artifacts::open_at(&config.cache_dir)?);
        let cgroups =
            Cgroups::set_up(&config.cgroup, config.cgroup_cpu.then_some(config.nice), config.memory_of_workers);
        let pool = Pool::new(config.clone(), artifacts.directory()?, cgroups.clone())?;
        let compiler = Compiler::new(config.clone(), cgroups.clone());
        Ok(Self { host: Arc::new(Host { config, pool, compiler, artifacts, cgroups }) })
    }

    /// Says what a component is: what it imports and exports, how large it is,
    /// and what keeps it from being a tool. Reads it in a compile child.
    ///
    /// # Errors
    /// If it is too large to be looked at or the child failed.
    pub async fn inspect(&self, component: Bytes) -> Result<Inspection, PrepareError> {
        self.host.inspect(component).await
    }

    /// Starts a worker that does nothing, to see behind which walls it stands.
    /// Where a network namespace can't be had, workers do without from now on.
    ///
    /// # Errors
    /// If a required part is missing, or no worker comes up.
    pub async fn check_walls(&self) -> Result<Walls, SandboxError> {
        match self.host.walls_of_a_worker().await {
            Err(_) if !self.host.pool.leaves_network() => self.host.walls_of_a_worker().await,
            walls => walls,
        }
    }

    /// Which control groups bound workers and compilers.
    pub fn cgroups(&self) -> &CgroupReport {
        self.host.cgroups.report()
    }

    /// Whose rights to files workers behind these walls have, for people.
    pub fn user_of_workers(walls: &Walls) -> String {
        match rustix::process::geteuid() {
            _ if walls.own_user => "each its own, who owns nothing".into(),
            root if root.is_root() => {
                "root, as the server: without capabilities, but root's own files are its own".into()
            }
            user => format!("{user}, as the server"),
        }
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> WasmStats {
        self.host.pool.stats()
    }
}

impl Drop for WasmSandbox {
    /// Kills what `shutdown` has not ended. Its tasks then end by themselves.
    fn drop(&mut self) {
        self.host.pool.abandon();
    }
}

#[async_trait]
impl Sandbox for WasmSandbox {
    async fn prepare(&self, component: Bytes) -> Result<Prepared, PrepareError> {
        self.host.prepare(component, &|_| {}).await
    }

    async fn prepare_telling(&self, component: Bytes, tell: Tell<'_>) -> Result<Prepared, PrepareError> {
        self.host.prepare(component, tell).await
    }

    async fn run(&self, run: Run, sink: Arc<dyn Sink>, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        if run.arguments.len() > MAX_ARGUMENTS {
            return Err(SandboxError::because(format!(
                "the arguments have {} bytes; at most {MAX_ARGUMENTS} are allowed",
                run.arguments.len()
            )));
        }
        let environment: usize = run.environment.iter().map(|(name, value)| name.len() + value.len()).sum();
        if environment > MAX_ENVIRONMENT {
            return Err(SandboxError::because(format!(
                "the environment has {environment} bytes; at most {MAX_ENVIRONMENT} are allowed"
            )));
        }
        let host = &self.host;
        let flavour = Flavour::of(run.artifact.key);
        if !host.may_run(flavour) {
            return Err(SandboxError::because(
                "the tool needs WASI 0.3, which is switched off (`experimental.wasi_03`)",
            ));
        }
        let access = match &run.workspace {
            Some(_) => run.grants.workspace,
            None => WorkspaceAccess::None,
        };
        let workspace = run.workspace.as_ref().filter(|_| access != WorkspaceAccess::None);
        let job = Job {
            entry: Entry::Call,
            user: number(run.owner.user),
            artifact: run.artifact.key,
            open: &|| host.opening(&run.artifact),
            workspace: workspace.map(|directory| (run.task, directory)),
            access,
            parts: &run.parts,
            limits: &run.limits,
            lease: &run.lease,
            environment: &run.environment,
            pauses: &run.pauses,
            arguments: &run.arguments,
            start_timeout: host.config.start_timeout,
            worker_memory: host.config.memory_per_worker,
        };
        let mut tries = 0;
        let judged = loop {
            let place = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(run::cancelled_before()),
                place = host.pool.place(run.owner.tenant, run.task, flavour) => place?,
            };
            match run::run(place, &job, &*sink, &cancel, &|| host.pool.stopping()).await {
                // The guest never started: this is no retry of a call.
                Err(Failed::NotStarted(_)) if tries == 0 => tries += 1,
                judged => break judged?,
            }
        };
        match judged {
            Judged::Outcome(outcome) => Ok(outcome),
            Judged::Described(_) => Err(SandboxError::because("a worker described a tool that was called")),
            Judged::Refused(reason) => Err(SandboxError::because(reason)),
        }
    }

    async fn forget(&self, tenant: TenantId, task: TaskId) {
        self.host.pool.forget(tenant, task);
    }

    fn kill_guests(&self) {
        self.host.pool.kill_workers();
    }

    fn run_until(&self, until: tokio::time::Instant) {
        self.host.pool.run_until(until.into_std());
    }

    async fn shutdown(&self) {
        self.host.pool.shut_down().await;
    }
}

/// A user among those of a worker. Two that happen to have the same number
/// share one share.
fn number(user: UserId) -> u32 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(user);
    (hash >> 32) as u32
}
