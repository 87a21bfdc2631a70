//! Tools: register, list, read, retire. A registered component is stored
//! first, then compiled and described in the background; `compiling` ends in
//! `ready` or `rejected`, also after a restart in between.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{RwLock, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Ports, ServiceConfig};
use crate::access::{Access, Permit};
use crate::audit::chain::Chain;
use crate::audit::{AuditBody, NewAudit};
use crate::clock::{NewId as _, Timestamp};
use crate::digest::Digest;
use crate::dispatch::chain;
use crate::error::Error;
use crate::id::{TenantId, ToolId};
use crate::ports::sandbox::{PrepareError, SandboxError, Stage};
use crate::ports::store::Page;
use crate::principal::{By, Principal, Scope};
use crate::quota::Extent;
use crate::reached::Bound;
use crate::shares::Shares;
use crate::steps;
use crate::tool::{Tool, ToolOwner, ToolState};

/// Tools that are taken up at once; a start takes all.
const RECOVERED: u32 = 100;

/// Between two looks at a tool that is waited for.
const SETTLED_POLL: Duration = Duration::from_secs(1);

/// The use cases of tools.
#[derive(Clone)]
pub struct Tools {
    inner: Arc<Inner>,
}

struct Inner {
    ports: Ports,
    access: Arc<Access>,
    compiling: Arc<Shares<ToolOwner>>,
    /// What a tenant may have.
    most: Extent,
    max_component_bytes: u64,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Counts stages that were reached and preparations that finished, for who waits for one.
    changes: watch::Sender<u64>,
    /// Preparations under way: one entry for each that is queued or runs.
    under_way: Mutex<HashMap<ToolId, Reached>>,
    /// Shared by who registers, between a component and its tool; alone has it who sweeps.
    registering: RwLock<()>,
}

/// The stage that a preparation has reached.
#[derive(Clone, Copy)]
struct Reached {
    stage: Stage,
    /// When it reached it.
    at: Timestamp,
    /// When the preparation was asked for.
    begun: Timestamp,
}

/// How far the preparation of a tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// For how long, in milliseconds.
    pub stage_ms: u64,
    /// How long ago the preparation was asked for, in milliseconds.
    pub elapsed_ms: u64,
}

/// What becomes of one tool.
pub struct Following {
    tools: Tools,
    tenant: TenantId,
    tool: Tool,
    changes: watch::Receiver<u64>,
    /// The last that was told.
    told: Option<(&'static str, Option<Stage>)>,
}

impl Following {
    /// The tool as it was when this began.
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// What it is now, and then each time that its state or stage changes; of stages
    /// that follow each other at once, the last. None once its end was told, it is
    /// gone, or the host stops. Of one that another host compiles only the end is told.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn next(&mut self) -> Result<Option<(Tool, Option<Progress>)>, Error> {
        let inner = &self.tools.inner;
        loop {
            if self.told.is_some_and(|(state, _)| state != ToolState::Compiling.name()) {
                return Ok(None);
            }
            self.changes.borrow_and_update();
            let seen = inner.stage(self.tool.id);
            let Some(tool) = inner.ports.store.tool(Some(self.tenant), self.tool.id).await? else { return Ok(None) };
            let progress = tool.state.is_compiling().then(|| self.tools.progress(tool.id)).flatten();
            let now = (tool.state.name(), progress.map(|progress| progress.stage));
            if self.told != Some(now) {
                self.told = Some(now);
                return Ok(Some((tool, progress)));
            }
            tokio::select! {
                () = inner.stop.cancelled() => return Ok(None),
                () = inner.moved(self.tool.id, seen, &mut self.changes) => {}
            }
        }
    }
}

/// A preparation under way, until it is dropped.
struct UnderWay {
    inner: Arc<Inner>,
    tool: ToolId,
    begun: Timestamp,
}

impl UnderWay {
    fn begin(inner: &Arc<Inner>, tool: ToolId) -> Self {
        let this = Self { inner: inner.clone(), tool, begun: inner.ports.ids.now() };
        this.reach(Stage::Queued);
        this
    }

    fn reach(&self, stage: Stage) {
        let at = self.inner.ports.ids.now();
        self.inner.under_way().insert(self.tool, Reached { stage, at, begun: self.begun });
        self.inner.changes.send_modify(|count| *count += 1);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.inner.under_way().remove(&self.tool);
        self.inner.changes.send_modify(|count| *count += 1);
    }
}

impl Tools {
    pub(super) fn new(ports: Ports, config: &ServiceConfig, access: Arc<Access>) -> Self {
        let inner = Inner {
            ports,
            access,
            compiling: Arc::new(Shares::new(config.compiling.max(1))),
            most: config.tools_quota,
            max_component_bytes: config.max_component_bytes,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            changes: watch::Sender::new(0),
            under_way: Mutex::default(),
            registering: RwLock::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Registers a component for the principal's tenant, or for every tenant
    /// (`operator`, which needs its own scope). The same bytes of the same
    /// owner are the same tool; the flag says if it is new.
    ///
    /// # Errors
    /// If a scope is missing, the component is too large, or the store fails.
    pub async fn register(&self, permit: &Permit, operator: bool, component: Bytes) -> Result<(Tool, bool), Error> {
        let owner = if operator {
            self.for_operator(permit).await?;
            ToolOwner::Operator
        } else {
            ToolOwner::Tenant(permit.owner().tenant)
        };
        if component.is_empty() {
            return Err(Error::invalid("body", "is empty; send the bytes of a WebAssembly component"));
        }
        let (digest, size) = (Digest::of(&component), component.len() as u64);
        self.register_by(Some(permit.principal()), owner, digest, size, || Ok(component)).await
    }

    /// Checks that the principal may change the operator's tools.
    async fn for_operator(&self, permit: &Permit) -> Result<(), Error> {
        if permit.principal().scopes.contains(Scope::OperatorTools) {
            return Ok(());
        }
        Err(self.inner.access.lacking(permit.owner(), Scope::OperatorTools).await)
    }

    /// Registers a component on behalf of the host: the built-in tools. Its bytes are
    /// asked for only if it is not stored yet.
    ///
    /// # Errors
    /// As [`Tools::register`], and if the bytes can't be had.
    pub async fn register_as(
        &self,
        owner: ToolOwner,
        digest: Digest,
        size: u64,
        component: impl FnOnce() -> io::Result<Bytes> + Send,
    ) -> Result<(Tool, bool), Error> {
        self.register_by(None, owner, digest, size, component).await
    }

    async fn register_by(
        &self,
        by: Option<&Principal>,
        owner: ToolOwner,
        digest: Digest,
        size: u64,
        component: impl FnOnce() -> io::Result<Bytes> + Send,
    ) -> Result<(Tool, bool), Error> {
        let inner = &self.inner;
        if size > inner.max_component_bytes {
            return Err(Error::TooLarge {
                what: "the component",
                key: "tools.max_component_bytes",
                limit: inner.max_component_bytes,
            });
        }
        self.room_for(owner, digest, size).await?;
        let _registering = inner.registering.read().await;
        let stored = self.store(digest, component).await;
        stored.map_err(|error| SandboxError::new("the component could not be stored", error))?;
        let (id, created_at) = (inner.ports.ids.tool_id(), inner.ports.ids.now());
        let tool = Tool { id, owner, digest, size, state: ToolState::Compiling, created_at };
        let record = recorded(created_at, owner, by, &AuditBody::ToolRegistered { tool: id, digest, size });
        if let Some(known) = inner.ports.store.create_tool(&tool, record).await? {
            return Ok((known, false));
        }
        self.prepare(tool.clone());
        Ok((tool, true))
    }

    async fn store(&self, digest: Digest, component: impl FnOnce() -> io::Result<Bytes> + Send) -> io::Result<()> {
        let components = &self.inner.ports.components;
        if components.has(digest).await? {
            return Ok(());
        }
        components.put(digest, component()?).await
    }

    /// Refuses a tool to a tenant that has as many as it may. Those that are registered
    /// at the same moment may together be a few more.
    async fn room_for(&self, owner: ToolOwner, component: Digest, size: u64) -> Result<(), Error> {
        let ToolOwner::Tenant(_) = owner else { return Ok(()) };
        let (most, taken) = (self.inner.most, self.inner.ports.store.tools_beside(owner, component).await?);
        let over = |name, value, used| Err(Error::OverQuota(Bound { name, value, used: Some(used) }));
        if taken.entries >= most.entries {
            return over("quota.tools_per_tenant", most.entries, taken.entries);
        }
        if taken.bytes.saturating_add(size) > most.bytes {
            return over("quota.tool_bytes_per_tenant", most.bytes, taken.bytes);
        }
        Ok(())
    }

    /// Removes a component that no tool has, if that is still so.
    pub(super) async fn sweep(&self, digest: Digest) -> Result<bool, Error> {
        let inner = &self.inner;
        // Nobody is between a component that is there already and its tool.
        let _alone = inner.registering.write().await;
        if !inner.ports.store.components_of_tools(&[digest]).await?.is_empty() {
            return Ok(false);
        }
        let removed = inner.ports.components.remove(digest).await;
        removed.map_err(|error| SandboxError::new("a component could not be removed", error))?;
        Ok(true)
    }

    /// Compiles and describes in the background.
    pub(super) fn prepare(&self, tool: Tool) {
        let under_way = UnderWay::begin(&self.inner, tool.id);
        self.inner.tracker.spawn(async move {
            let inner = &under_way.inner;
            tokio::select! {
                // Left compiling; the next start takes it up again.
                () = inner.stop.cancelled() => {}
                () = inner.prepare(&tool, &under_way) => {}
            }
        });
    }

    /// How far the preparation of a tool that is `compiling` is.
    pub fn progress(&self, id: ToolId) -> Option<Progress> {
        let reached = self.inner.under_way().get(&id).copied()?;
        let now = self.inner.ports.ids.now();
        let (stage_ms, elapsed_ms) = (now.millis_since(reached.at), now.millis_since(reached.begun));
        Some(Progress { stage: reached.stage, stage_ms, elapsed_ms })
    }

    /// Follows what becomes of a tool that the tenant may see.
    ///
    /// # Errors
    /// As [`Tools::get`].
    pub async fn follow(&self, permit: &Permit, id: ToolId) -> Result<Following, Error> {
        let changes = self.inner.changes.subscribe();
        let tool = self.get(permit, id).await?;
        Ok(Following { tools: self.clone(), tenant: permit.owner().tenant, tool, changes, told: None })
    }

    /// Waits until a tool is no longer compiling.
    ///
    /// # Errors
    /// If there is no such tool, or the store fails.
    pub async fn settled(&self, id: ToolId) -> Result<Tool, Error> {
        let mut changes = self.inner.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let seen = self.inner.stage(id);
            let tool = self.inner.ports.store.tool(None, id).await?;
            let tool = tool.ok_or_else(|| Error::not_found("tool", id))?;
            if !matches!(tool.state, ToolState::Compiling) {
                return Ok(tool);
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return Err(Error::Stopping),
                () = self.inner.moved(id, seen, &mut changes) => {}
            }
        }
    }

    /// Tools that the tenant may see, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, permit: &Permit, page: Page<ToolId>) -> Result<Vec<Tool>, Error> {
        Ok(self.inner.ports.store.list_tools(permit.owner().tenant, page).await?)
    }

    /// One tool that the tenant may see.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub async fn get(&self, permit: &Permit, id: ToolId) -> Result<Tool, Error> {
        let tool = self.inner.ports.store.tool(Some(permit.owner().tenant), id).await?;
        match tool {
            Some(tool) => Ok(tool),
            None => Err(self.inner.access.absent(permit.owner(), "tool", id.to_string()).await),
        }
    }

    /// Retires a tool that no task pins. The tenant's own, or the operator's
    /// with the scope for it.
    ///
    /// # Errors
    /// If there is none, it is not the principal's, or a task pins it.
    pub async fn delete(&self, permit: &Permit, id: ToolId) -> Result<(), Error> {
        let tool = self.get(permit, id).await?;
        if tool.owner == ToolOwner::Operator {
            self.for_operator(permit).await?;
        }
        let body = AuditBody::ToolDeleted { tool: id, digest: tool.digest };
        let record = recorded(self.inner.ports.ids.now(), tool.owner, Some(permit.principal()), &body);
        if self.inner.ports.store.delete_tool(tool.owner, id, record).await? {
            return Ok(());
        }
        let what = format!("the tool `{id}`");
        Err(Error::WrongState {
            what,
            state: "pinned by a task".into(),
            remedy: "delete the tasks that pin it first".into(),
        })
    }

    /// Tools that a new task of the tenant may pin.
    pub(super) async fn pinnable(&self, tenant: TenantId) -> Result<Vec<Tool>, Error> {
        Ok(self.inner.ports.store.pinnable_tools(tenant).await?)
    }

    /// Takes up what an earlier run left compiling.
    pub(super) async fn recover(&self) -> Result<u64, Error> {
        let left = self.inner.ports.cluster.take_over_tools(RECOVERED).await?;
        let count = left.len() as u64;
        left.into_iter().for_each(|tool| self.prepare(tool));
        Ok(count)
    }

    /// Stops compiling; what is not ready is taken up at the next start.
    pub(super) async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }
}

/// A record about a tool, in the chain of its owner; by the host itself if by nobody.
fn recorded(at: Timestamp, owner: ToolOwner, by: Option<&Principal>, body: &AuditBody) -> NewAudit {
    let chain = match owner {
        ToolOwner::Operator => Chain::Operator,
        ToolOwner::Tenant(tenant) => Chain::Tenant(tenant),
    };
    let record = NewAudit { chain, user: by.map(|by| by.user), ..NewAudit::of_operator(at, body) };
    record.by(&by.map_or(By::HOST, By::from))
}

impl Inner {
    fn under_way(&self) -> MutexGuard<'_, HashMap<ToolId, Reached>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stage of a preparation that is under way here.
    fn stage(&self, tool: ToolId) -> Option<Stage> {
        self.under_way().get(&tool).map(|reached| reached.stage)
    }

    /// Waits until a preparation is at another stage than was `seen`, or has ended; of one
    /// that may be another host's, for a while. What others register wakes nobody for good.
    async fn moved(&self, tool: ToolId, seen: Option<Stage>, changes: &mut watch::Receiver<u64>) {
        let here = async { while self.stage(tool) == seen && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLED_POLL, here).await;
    }

    async fn prepare(&self, tool: &Tool, under_way: &UnderWay) {
        let _turn = self.compiling.take(tool.owner).await;
        let state = match self.prepared(tool, under_way).await {
            Ok(state) => state,
            Err(PrepareError::Rejected { code, reason }) => ToolState::Rejected { code: code.into(), reason },
            Err(PrepareError::Sandbox(error)) => {
                tracing::error!(tool = %tool.id, error = %chain(&error), "a tool could not be prepared");
                let reason = "the host could not prepare it; its log says why. Register it again to retry".into();
                ToolState::Rejected { code: "host_error".into(), reason }
            }
        };
        let name = match &state {
            ToolState::Ready { manifest, .. } => manifest.name.as_str(),
            _ => "?",
        };
        tracing::info!(name, tool = %tool.id, digest = %tool.digest, state = state.name(), "tool prepared");
        steps::reach("tool.prepared");
        if let Err(error) = self.ports.store.finish_tool(tool.id, &state).await {
            tracing::error!(tool = %tool.id, error = %chain(&error), "the state of a tool could not be stored");
        }
    }

    async fn prepared(&self, tool: &Tool, under_way: &UnderWay) -> Result<ToolState, PrepareError> {
        let component = self.ports.components.get(tool.digest).await;
        let component = component.map_err(|error| SandboxError::new("the component could not be read", error))?;
        let prepared = self.ports.sandbox.prepare_telling(component, &|stage| under_way.reach(stage)).await?;
        Ok(ToolState::Ready { manifest: Arc::new(prepared.manifest), artifact: prepared.artifact })
    }
}
