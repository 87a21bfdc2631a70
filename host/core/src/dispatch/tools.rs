//! Tools as dispatch needs them: manifest, compiled schema, artefact. Loaded
//! on first use and kept; a tool never changes, so neither does its entry.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::error::Error;
use crate::id::ToolId;
use crate::ports::components::Components;
use crate::ports::sandbox::{PrepareError, Sandbox, SandboxError};
use crate::ports::store::Store;
use crate::schema::Schema;
use crate::tool::{Artifact, Manifest, ToolState};

/// Tools kept in memory: a manifest and a compiled schema each.
const LOADED: u64 = 1_000;
/// Tools not used for this long are dropped.
const IDLE: Duration = Duration::from_secs(3_600);

/// A tool, ready to be called.
#[derive(Debug)]
pub struct LoadedTool {
    /// What it says of itself.
    pub manifest: Arc<Manifest>,
    /// Its input schema, compiled.
    pub input: Schema,
    /// Its artefact, checked to fit this host's engine.
    pub artifact: Artifact,
}

pub(super) struct LoadedTools {
    store: Arc<dyn Store>,
    components: Arc<dyn Components>,
    sandbox: Arc<dyn Sandbox>,
    loaded: Cache<ToolId, Arc<LoadedTool>>,
    /// One load at a time: two requests for a new tool must not compile it twice.
    loading: Semaphore,
}

impl LoadedTools {
    pub(super) fn new(store: Arc<dyn Store>, components: Arc<dyn Components>, sandbox: Arc<dyn Sandbox>) -> Self {
        let loaded = Cache::builder().max_capacity(LOADED).time_to_idle(IDLE).build();
        Self { store, components, sandbox, loaded, loading: Semaphore::new(1) }
    }

    pub(super) async fn get(&self, id: ToolId) -> Result<Arc<LoadedTool>, Error> {
        if let Some(tool) = self.loaded.get(&id) {
            return Ok(tool);
        }
        let _turn = self.loading.acquire().await.map_err(|_| Error::Stopping)?;
        if let Some(tool) = self.loaded.get(&id) {
            return Ok(tool);
        }
        let tool = Arc::new(self.load(id).await?);
        self.loaded.insert(id, tool.clone());
        Ok(tool)
    }

    /// Prepares the component again: cheap if its artefact is cached, and the
    /// remedy if the cache was emptied or the engine is another version.
    async fn load(&self, id: ToolId) -> Result<LoadedTool, Error> {
        let tool = self.store.tool(None, id).await?.ok_or_else(|| Error::not_found("tool", id))?;
        let ToolState::Ready { manifest, .. } = &tool.state else {
            let state = tool.state.name().into();
            return Err(Error::WrongState {
                what: format!("the tool `{id}`"),
                state,
                remedy: "it can't be called".into(),
            });
        };
        let bytes = self
            .components
            .get(tool.digest)
            .await
            .map_err(|error| SandboxError::new(format!("the component of {id} could not be read"), error))?;
        let prepared = self.sandbox.prepare(bytes).await.map_err(|error| match error {
            PrepareError::Sandbox(error) => Error::Sandbox(error),
            // An operator switched off what it needs, or this host is another version.
            PrepareError::Rejected { reason, .. } => Error::WrongState {
                what: format!("the tool `{id}`"),
                state: "no longer accepted".into(),
                remedy: reason.into(),
            },
        })?;
        let input = Schema::compile(&manifest.input_schema)
            .map_err(|error| SandboxError::new(format!("the input schema of {id}"), error))?;
        Ok(LoadedTool { manifest: manifest.clone(), input, artifact: prepared.artifact })
    }
}
