//! From a component's bytes to something that can be run: compile it, once;
//! ask it what it is, in a worker of nobody's; check what it says.

use std::sync::Arc;

use bulkhead_core::digest::Digest;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::outcome::{Ending, Fault};
use bulkhead_core::pause::Pauses;
use bulkhead_core::ports::sandbox::{PrepareError, Prepared, SandboxError, Stage, Tell};
use bulkhead_core::quota::Lease;
use bulkhead_core::tool::{Artifact, Manifest};
use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Host;
use super::artifacts::Record;
use super::compiler::unexpected;
use super::judge::{Described, Judged};
use super::pool::Place;
use super::run::{Job, Nowhere, run};
use super::worker::Worker;
use crate::bounds::MAX_COMPONENT;
use crate::compile::{Inspection, Mode, Report};
use crate::engine::Flavour;
use crate::walls::Walls;
use crate::wire::Entry;

fn rejected(code: &'static str, reason: impl Into<String>) -> PrepareError {
    PrepareError::Rejected { code, reason: reason.into() }
}

/// Work that blocks, off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SandboxError::new("a blocking task failed", error))
}

impl Host {
    /// Says what a component is without compiling it.
    pub(super) async fn inspect(&self, component: Bytes) -> Result<Inspection, PrepareError> {
        check_size(&component)?;
        // Whether compilers may have namespaces is learned from one without a component.
        self.compiler.fingerprint(self.pool.spawner()).await?;
        match self.compiler.run(self.pool.spawner(), Mode::Inspect, component, None, &|_| {}).await? {
            Report::Inspected(inspection) => Ok(*inspection),
            other => Err(unexpected(&other)),
        }
    }

    /// Compiles and describes a component, or finds that it was.
    pub(super) async fn prepare(self: &Arc<Self>, component: Bytes, tell: Tell<'_>) -> Result<Prepared, PrepareError> {
        if self.pool.stopping() {
            return Err(SandboxError::because("the sandbox is being shut down").into());
        }
        check_size(&component)?;
        let fingerprint = self.compiler.fingerprint(self.pool.spawner()).await?;
        let hashed = component.clone();
        let digest = blocking(move || Digest::of(&hashed)).await?;
        let base = Digest::of(format!("{digest} {fingerprint}").as_bytes());
        // What was made while it was switched on is not used while it is not.
        for flavour in Flavour::ALL.into_iter().filter(|flavour| self.may_run(*flavour)) {
            let (artifacts, key) = (self.artifacts.clone(), flavour.key(base));
            if let Some(record) = blocking(move || artifacts.recorded(key, digest)).await? {
                return Ok(Prepared { manifest: record.manifest, artifact: record.artifact });
            }
        }
        let artifact = self.compile(base, component, tell).await?;
        tell(Stage::Describing);
        let manifest = self.describe(&artifact).await?;
        let record = Record { component: digest, artifact: artifact.clone(), manifest: manifest.clone() };
        let artifacts = self.artifacts.clone();
        let recorded = blocking(move || artifacts.record(&record)).await?;
        recorded.map_err(|error| SandboxError::new("the compiled component could not be recorded", error))?;
        Ok(Prepared { manifest, artifact })
    }

    /// Whether artefacts of this flavour are made and run.
    pub(super) fn may_run(&self, flavour: Flavour) -> bool {
        flavour == Flavour::Wasi02 || self.config.wasi_03
    }

    async fn compile(&self, base: Digest, component: Bytes, tell: Tell<'_>) -> Result<Artifact, PrepareError> {
        let failed = |error| SandboxError::new("the compiled component could not be kept", error);
        let artifacts = self.artifacts.clone();
        let draft = blocking(move || artifacts.draft(base)).await?.map_err(failed)?;
        let flavour = match self.compiler.run(self.pool.spawner(), Mode::Compile, component, Some(&draft), tell).await?
        {
            // A child that lies about it made something that no worker loads.
            Report::Compiled(flavour) if self.may_run(flavour) => flavour,
            other => return Err(unexpected(&other)),
        };
        let (artifacts, key) = (self.artifacts.clone(), flavour.key(base));
        Ok(blocking(move || artifacts.keep(key, draft)).await?.map_err(failed)?)
    }

    /// The walls that a new worker stands behind.
    pub(super) async fn walls_of_a_worker(&self) -> Result<Walls, SandboxError> {
        let worker = Private(self.pool.private_worker(Flavour::Wasi02));
        let ready = tokio::time::timeout(self.config.start_timeout, worker.0.ready()).await;
        ready
            .map_err(|_| SandboxError::because("a worker did not come up in time"))?
            .map_err(|why| SandboxError::because(format!("a worker did not come up: {why}")))?;
        Ok(worker.0.walls())
    }

    /// Asks a component what it is. Its worker runs nothing else, before or after.
    async fn describe(&self, artifact: &Artifact) -> Result<Manifest, PrepareError> {
        // Ended however this ends, also if nobody waits for it any more.
        let worker = Private(self.pool.private_worker(Flavour::of(artifact.key)));
        let place = Place::take(&worker.0);
        let job = Job {
            entry: Entry::Describe,
            user: 0,
            artifact: artifact.key,
            open: &|| self.opening(artifact),
            workspace: None,
            access: WorkspaceAccess::None,
            parts: &[],
            limits: &self.config.describe_limits,
            lease: &Lease::default(),
            environment: &[],
            pauses: &Pauses::default(),
            arguments: "",
            start_timeout: self.config.start_timeout,
            worker_memory: self.config.memory_per_worker,
        };
        let judged = run(place, &job, &Nowhere, &CancellationToken::new(), &|| self.pool.stopping()).await;
        drop(worker);
        match judged {
            Ok(Judged::Described(described)) => manifest(*described),
            Ok(Judged::Outcome(outcome)) => Err(not_described(&outcome.ending)),
            Ok(Judged::Refused(reason)) => Err(SandboxError::because(reason).into()),
            Err(failed) => Err(not_loaded(failed.into())),
        }
    }
}

/// A worker that runs one job.
struct Private(Arc<Worker>);

impl Drop for Private {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

fn check_size(component: &[u8]) -> Result<(), PrepareError> {
    if component.len() > MAX_COMPONENT {
        let text = format!("the component has {} bytes; at most {MAX_COMPONENT} are allowed", component.len());
        return Err(rejected("too_large", text));
    }
    Ok(())
}

fn not_described(ending: &Ending) -> PrepareError {
    match ending {
        Ending::Interrupted { fault } => SandboxError::because(fault.message.clone()).into(),
        other => {
            let why = other.fault().map_or("it returned something else", |fault: &Fault| fault.message.as_str());
            rejected("describe_failed", format!("`describe` failed: {why}"))
        }
    }
}

/// A component that compiles and does not load is one that the pool or the
/// linker refuses: the component's fault.
fn not_loaded(error: SandboxError) -> PrepareError {
    let Some((_, reason)) = error.context.split_once("could not load the compiled component: ") else {
        return error.into();
    };
    let code = if reason.contains("import") || reason.contains("matching implementation") {
        "unknown_import"
    } else if reason.contains("does not export") {
        "missing_export"
    } else {
        "too_complex"
    };
    rejected(code, format!("the component can't be loaded: {reason}"))
}

fn manifest(described: Described) -> Result<Manifest, PrepareError> {
    let invalid = |text: String| rejected("invalid_description", text);
    let schema = |field: &str, text: &str| -> Result<Value, PrepareError> {
        serde_json::from_str(text).map_err(|error| invalid(format!("`{field}` is not JSON: {error}")))
    };
    let manifest = Manifest {
        input_schema: schema("input-schema", &described.input_schema)?,
        output_schema: described.output_schema.as_deref().map(|text| schema("output-schema", text)).transpose()?,
        name: described.name,
        version: described.version,
        description: described.description,
        capabilities: described.capabilities,
        idempotent: described.idempotent,
    };
    manifest.check().map_err(|error| invalid(error.to_string()))?;
    Ok(manifest)
}
