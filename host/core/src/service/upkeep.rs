//! Upkeep: recovery at the start, retention and the records of refusals while the
//! host runs, and an orderly stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::audit::AuditLog;
use super::files::Files;
use super::hosts::Tending;
use super::overdue::{LifeConfig, Overseer};
use super::steady::Steady;
use super::sweep::{SweepConfig, Sweeper};
use super::tasks::Tasks;
use super::tools::Tools;
use super::{Ports, ServiceConfig};
use crate::dispatch::{Dispatcher, Recovered, chain};
use crate::error::Error;
use crate::hub::Hub;
use crate::ports::store::Retention;

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Age of an event, in milliseconds.
    pub events_ms: i64,
    /// Bytes of events per task.
    pub events_bytes_per_task: u64,
    /// Age of a deleted task's record, in milliseconds.
    pub deleted_ms: i64,
    /// Age of an audit record, in milliseconds.
    pub audit_ms: i64,
    /// Between two rounds of retention.
    pub every: Duration,
    /// Between two records of what was refused.
    pub refusals_every: Duration,
}

/// What the start found of an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// Calls.
    pub calls: Recovered,
    /// Tasks whose filling was half done.
    pub tasks_failed: u64,
    /// Tools that were compiling.
    pub tools_compiling: u64,
}

/// Recovery, retention, shutdown.
pub struct Upkeep {
    ports: Ports,
    dispatcher: Dispatcher,
    tools: Tools,
    tasks: Tasks,
    hub: Arc<Hub>,
    audit: AuditLog,
    /// None until it was told.
    files: Option<Files>,
    keep: Keep,
    life: LifeConfig,
    sweep: SweepConfig,
    follow: Duration,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Upkeep {
    pub(super) fn new(
        ports: Ports,
        dispatcher: Dispatcher,
        tools: Tools,
        tasks: Tasks,
        (hub, audit): (Arc<Hub>, AuditLog),
        config: &ServiceConfig,
    ) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let ServiceConfig { keep, life, sweep, follow, .. } = *config;
        let files = None;
        Self { ports, dispatcher, tools, tasks, hub, audit, files, keep, life, sweep, follow, tracker, stop }
    }

    /// Tends files, too.
    pub(super) fn with_files(self, files: Files) -> Self {
        Self { files: Some(files), ..self }
    }

    /// Takes over what an earlier run left, then begins retention. To be
    /// called once, before any client is served.
    ///
    /// # Errors
    /// If the store fails; then the host must not start.
    pub async fn start(&self) -> Result<Restart, Error> {
        let tasks_failed = self.tasks.recover().await?;
        let calls = self.dispatcher.recover().await?;
        let tools_compiling = self.tools.recover().await?;
        if let Some(files) = &self.files {
            files.start(self.keep.every).await?;
        }
        let (ports, keep, stop) = (self.ports.clone(), self.keep, self.stop.clone());
        let mut steady = Steady::new(ports.ids.now(), Instant::now());
        self.tracker.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(keep.every)).await.is_some() {
                if steady.believes(&ports).await {
                    retain(&ports, keep).await;
                }
                ports.rates.tidy();
            }
        });
        let (overseer, stop) = (Overseer::new(self.tasks.clone(), self.life), self.stop.clone());
        self.tracker.spawn(async move { stop.run_until_cancelled(overseer.run()).await });
        let (sweeper, stop) = (Sweeper::new(self.tasks.clone(), self.sweep), self.stop.clone());
        self.tracker.spawn(async move { stop.run_until_cancelled(sweeper.run()).await });
        let (audit, stop) = (self.audit.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(keep.refusals_every)).await.is_some() {
                audit.write_refusals().await;
            }
        });
        if self.ports.cluster.is_shared() {
            let (ports, dispatcher, tools) = (self.ports.clone(), self.dispatcher.clone(), self.tools.clone());
            let tending = Tending {
                ports,
                dispatcher,
                tools,
                tasks: self.tasks.clone(),
                hub: self.hub.clone(),
                follow: self.follow,
            };
            tending.start(&self.tracker, &self.stop);
        }
        Ok(Restart { calls, tasks_failed, tools_compiling })
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.ports.store.ping().await?)
    }

    /// Stops in order: retention, calls, imports, compilations, guests, store.
    /// When it returns nothing is left running and everything is stored.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.tasks.stop_packing();
        self.dispatcher.shutdown().await;
        self.tasks.shutdown().await;
        self.tools.shutdown().await;
        if let Some(files) = &self.files {
            files.shutdown().await;
        }
        self.ports.sandbox.shutdown().await;
        self.audit.write_refusals().await;
        self.ports.store.close().await;
    }
}

/// Bounded removals of one round of retention.
const ROUNDS: u32 = 100;

async fn retain(ports: &Ports, keep: Keep) {
    let now = ports.ids.now();
    let retention = Retention {
        events_before: now.plus_millis(-keep.events_ms),
        events_bytes_per_task: keep.events_bytes_per_task,
        audit_before: now.plus_millis(-keep.audit_ms),
        deleted_before: now.plus_millis(-keep.deleted_ms),
        now,
    };
    // Each call removes a bounded amount, so that the writer is never held up;
    // what a round leaves, the next one takes.
    for _ in 0..ROUNDS {
        match ports.store.retain(retention).await {
            Ok(removed) if removed == Default::default() => return,
            Ok(removed) => tracing::info!(
                events = removed.events,
                idempotency_keys = removed.idempotency_keys,
                tasks = removed.tasks,
                audit = removed.audit,
                "removed what need not be kept"
            ),
            Err(error) => {
                tracing::error!(error = %chain(&error), "retention failed");
                return;
            }
        }
    }
}
