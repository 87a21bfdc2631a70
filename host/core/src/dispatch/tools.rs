//! Tools as dispatch needs them. What a tool says of itself is in the store; what this
//! host's engine runs is made of its component, at once if it was made before, else for
//! as long as a compiler takes: a call is accepted meanwhile. A tool never changes, so
//! neither does what is kept of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{chain, lock};
use crate::digest::Digest;
use crate::error::Error;
use crate::id::ToolId;
use crate::outcome::{Fault, code};
use crate::ports::components::Components;
use crate::ports::sandbox::{PrepareError, Sandbox, SandboxError};
use crate::ports::store::Store;
use crate::schema::Schema;
use crate::tool::{Artifact, Manifest, ToolState};

/// Tools kept in memory: a manifest and a compiled schema each.
const LOADED: u64 = 1_000;
/// Tools not used for this long are dropped.
const IDLE: Duration = Duration::from_secs(3_600);
/// How long a component that this host's engine refused is not tried again.
const REFUSED: Duration = Duration::from_secs(60);
/// How long a call waits for its artefact before it is accepted.
const PATIENCE: Duration = Duration::from_millis(250);

/// What a tool says of itself.
#[derive(Debug)]
pub struct LoadedTool {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its input schema, compiled.
    pub input: Schema,
    component: Digest,
}

/// Why there is no artefact.
#[derive(Clone, Debug)]
pub(super) enum Unusable {
    /// This host's engine does not take the component, or not any more.
    Refused(Arc<str>),
    /// The host failed; its log says why.
    Failed,
}

impl Unusable {
    /// What ends a call that was accepted before this was known.
    pub(super) fn fault(&self, tool: &str) -> Fault {
        match self {
            Self::Refused(reason) => {
                Fault::new(code::HOST_ERROR, format!("the tool `{tool}` is no longer accepted here: {reason}"))
            }
            Self::Failed => {
                let message = "the tool could not be loaded; the server's log says why";
                Fault::new(code::HOST_ERROR, message).retryable()
            }
        }
    }

    fn of(self, id: ToolId) -> Error {
        match self {
            Self::Refused(reason) => Error::WrongState {
                what: format!("the tool `{id}`"),
                state: "no longer accepted".into(),
                remedy: reason.as_ref().to_owned().into(),
            },
            Self::Failed => SandboxError::because(format!("the artefact of {id} could not be made")).into(),
        }
    }
}

type Made = Result<Artifact, Unusable>;

pub(super) struct LoadedTools {
    store: Arc<dyn Store>,
    components: Arc<dyn Components>,
    sandbox: Arc<dyn Sandbox>,
    known: Cache<ToolId, Arc<LoadedTool>>,
    made: Cache<ToolId, Artifact>,
    refused: Cache<ToolId, Arc<str>>,
    /// What is being made: whoever wants the same waits for that.
    making: Arc<Mutex<HashMap<ToolId, watch::Receiver<Option<Made>>>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// That an artefact is being made, until dropped.
struct Making(Arc<Mutex<HashMap<ToolId, watch::Receiver<Option<Made>>>>>, ToolId);

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

impl LoadedTools {
    /// Artefacts are made in tasks of `tracker`, until `stop`.
    pub(super) fn new(
        (store, components, sandbox): (Arc<dyn Store>, Arc<dyn Components>, Arc<dyn Sandbox>),
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let kept = || Cache::builder().max_capacity(LOADED).time_to_idle(IDLE);
        let (known, made) = (kept().build(), Cache::builder().max_capacity(LOADED).time_to_idle(IDLE).build());
        let refused = Cache::builder().max_capacity(LOADED).time_to_live(REFUSED).build();
        Self { store, components, sandbox, known, made, refused, making: Arc::default(), tracker, stop }
    }

    /// What a tool says of itself.
    pub(super) async fn get(&self, id: ToolId) -> Result<Arc<LoadedTool>, Error> {
        if let Some(tool) = self.known.get(&id) {
            return Ok(tool);
        }
        let tool = self.store.tool(None, id).await?.ok_or_else(|| Error::not_found("tool", id))?;
        let ToolState::Ready { manifest, .. } = &tool.state else {
            let state = tool.state.name().into();
            return Err(Error::WrongState {
                what: format!("the tool `{id}`"),
                state,
                remedy: "it can't be called".into(),
            });
        };
        let input = Schema::compile(&manifest.input_schema)
            .map_err(|error| SandboxError::new(format!("the input schema of {id}"), error))?;
        let tool = Arc::new(LoadedTool { manifest: manifest.clone(), input, component: tool.digest });
        self.known.insert(id, tool.clone());
        Ok(tool)
    }

    /// The same of one that is about to be called: its artefact is made on the way, and
    /// waited for a moment, which is all it takes unless it must be compiled.
    ///
    /// # Errors
    /// If it is known by then that it can't be called, too.
    pub(super) async fn ready(&self, id: ToolId) -> Result<Arc<LoadedTool>, Error> {
        let tool = self.get(id).await?;
        match tokio::time::timeout(PATIENCE, self.artifact(id, &tool)).await {
            Ok(Err(unusable)) => Err(unusable.of(id)),
            Ok(Ok(_)) | Err(_) => Ok(tool),
        }
    }

    /// What this host's engine runs of a tool.
    pub(super) async fn artifact(&self, id: ToolId, tool: &LoadedTool) -> Made {
        if let Some(artifact) = self.made.get(&id) {
            return Ok(artifact);
        }
        if let Some(reason) = self.refused.get(&id) {
            return Err(Unusable::Refused(reason));
        }
        let mut making = self.make(id, tool.component);
        match making.wait_for(Option::is_some).await {
            Ok(made) => made.clone().unwrap_or(Err(Unusable::Failed)),
            // It panicked.
            Err(_) => Err(Unusable::Failed),
        }
    }

    /// Makes it, if nobody does yet: cheap if its artefact is cached, and the remedy if the
    /// cache was emptied, the engine is another version, or another host has it.
    fn make(&self, id: ToolId, component: Digest) -> watch::Receiver<Option<Made>> {
        let mut making = lock(&self.making);
        if let Some(made) = making.get(&id) {
            return made.clone();
        }
        let (tell, told) = watch::channel(None);
        making.insert(id, told.clone());
        let is_making = Making(self.making.clone(), id);
        let (components, sandbox, stop) = (self.components.clone(), self.sandbox.clone(), self.stop.clone());
        let (cache, refused) = (self.made.clone(), self.refused.clone());
        self.tracker.spawn(async move {
            let made = async {
                let bytes = components.get(component).await.map_err(|error| {
                    SandboxError::new(format!("the component {component} could not be read"), error)
                })?;
                sandbox.prepare(bytes).await
            };
            let made = match stop.run_until_cancelled(made).await {
                Some(Ok(prepared)) => {
                    cache.insert(id, prepared.artifact.clone());
                    Ok(prepared.artifact)
                }
                // An operator switched off what it needs, or this host is another version.
                Some(Err(PrepareError::Rejected { reason, .. })) => {
                    let reason: Arc<str> = reason.into();
                    refused.insert(id, reason.clone());
                    Err(Unusable::Refused(reason))
                }
                Some(Err(PrepareError::Sandbox(error))) => {
                    tracing::error!(tool = %id, error = %chain(&error), "the artefact of a tool could not be made");
                    Err(Unusable::Failed)
                }
                None => Err(Unusable::Failed),
            };
            // Whoever comes between finds it in a cache, or begins anew.
            drop(is_making);
            let _ = tell.send(Some(made));
        });
        told
    }
}
