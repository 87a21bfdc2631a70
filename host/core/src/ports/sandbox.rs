//! The port to a backend that runs guests. Small on purpose: what only one
//! backend can do is a capability that the others refuse at `prepare`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::event::{FileChange, LogLevel, Stream};
use crate::grants::{Grants, SubPath, WorkspaceAccess};
use crate::id::{CallId, TaskId, TenantId};
use crate::limits::Limits;
use crate::outcome::{Content, Outcome};
use crate::pause::Pauses;
use crate::ports::egress::{Body, EgressError, IncomingResponse, Scheme};
use crate::principal::Owner;
use crate::quota::Lease;
use crate::tool::{Artifact, Manifest};

/// A component that was compiled and described.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What it said of itself, checked.
    pub manifest: Manifest,
    /// The compiled artefact.
    pub artifact: Artifact,
}

/// How far a component is on its way to being a tool, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Others are prepared before it.
    Queued,
    /// It is being read: what it imports and exports, how much there is of everything.
    Inspecting,
    /// Native code is being made of it.
    Compiling,
    /// It is being asked what it is.
    Describing,
}

impl Stage {
    /// Every one, in order.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Inspecting, Self::Compiling, Self::Describing];

    /// The name of the stage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Inspecting => "inspecting",
            Self::Compiling => "compiling",
            Self::Describing => "describing",
        }
    }
}

/// Is told each stage that a preparation reaches.
pub type Tell<'a> = &'a (dyn Fn(Stage) + Send + Sync);

/// Why a component can't become a tool.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The component's fault, with a stable code and what is missing or wrong:
    /// `not_wasm`, `core_module`, `invalid_wasm`, `too_large`, `too_complex`,
    /// `unknown_import`, `missing_export`, `describe_failed`, `invalid_description`.
    #[error("{reason}")]
    Rejected {
        /// Stable, machine readable.
        code: &'static str,
        /// For the plugin's author.
        reason: String,
    },
    /// The host's fault.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// A fault of the host's side of a sandbox.
#[derive(Debug, Error)]
#[error("{context}")]
pub struct SandboxError {
    /// What was being done.
    pub context: String,
    /// What failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SandboxError {
    /// An error with a source.
    pub fn new(context: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { context: context.into(), source: Some(source.into()) }
    }

    /// An error that is its own reason.
    pub fn because(context: impl Into<String>) -> Self {
        Self { context: context.into(), source: None }
    }
}

/// A part of the workspace, opened.
#[derive(Clone, Debug)]
pub struct RunPart {
    /// Where the guest sees it.
    pub path: SubPath,
    /// What it may do in it.
    pub access: WorkspaceAccess,
    /// The directory.
    pub directory: Arc<OwnedFd>,
}

/// One call, ready to run: everything is decided.
#[derive(Clone, Debug)]
pub struct Run {
    /// The call.
    pub call: CallId,
    /// Whose it is: a worker of its tenant runs it, and it shares that worker's
    /// time with other users.
    pub owner: Owner,
    /// The task whose workspace it sees.
    pub task: TaskId,
    /// Digest of the component.
    pub component: Digest,
    /// The compiled artefact.
    pub artifact: Artifact,
    /// The workspace's directory, opened beneath its root; absent if not granted.
    pub workspace: Option<Arc<OwnedFd>>,
    /// The parts of it that are granted beside, or instead of, the whole.
    pub parts: Vec<RunPart>,
    /// What is granted.
    pub grants: Grants,
    /// What it may use.
    pub limits: Limits,
    /// What it may add to its workspace; the backend says what it did as it goes.
    pub lease: Lease,
    /// Environment variables that it gets.
    pub environment: Arc<[(String, String)]>,
    /// When its wall time stands still.
    pub pauses: Pauses,
    /// The arguments: a JSON object, as text.
    pub arguments: Arc<str>,
}

/// An HTTP request as a guest asked for it: nothing of it is decided.
pub struct GuestRequest {
    /// The method.
    pub method: String,
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// The header, in order.
    pub header: Vec<(String, Bytes)>,
    /// The body, if there is one.
    pub body: Option<Body>,
    /// How long connecting may take, if the guest says.
    pub connect_timeout: Option<Duration>,
    /// How long the head of the response may take, if the guest says.
    pub first_byte_timeout: Option<Duration>,
    /// How long each further piece of it may take, if the guest says.
    pub between_bytes_timeout: Option<Duration>,
}

/// Something a guest sends while it runs. The backend has checked sizes
/// against the call's limits; text is as the guest gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Emission {
    /// Bytes of standard output or error.
    Output(Stream, Bytes),
    /// A part.
    Content(Content),
    /// A stream reached its limit, or something was refused that is over one.
    Truncated {
        /// Its name in the table of limits.
        limit: &'static str,
        /// What was used of it, if the host knows.
        used: Option<u64>,
    },
    /// Progress, validated.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: Option<u64>,
        /// What is being done.
        message: Option<String>,
    },
    /// A log line.
    Log {
        /// Its level.
        level: LogLevel,
        /// Its text.
        message: String,
        /// Its fields.
        fields: Vec<(String, String)>,
    },
    /// A file of the workspace changed.
    Changed(FileChange),
    /// Files changed that are not named, over the cap: how many of each kind.
    ChangedUnnamed(crate::event::ChangeCounts),
    /// The worker was lost: what it changed must be found by a walk.
    ChangesLost,
}

/// What a running call can do to the outside. Waiting in `emit` is
/// backpressure: the guest waits too.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes one emission.
    async fn emit(&self, emission: Emission);

    /// Until when the guest gets no credit for what it said, if it is to be silent for the
    /// sake of others. What it says by credit that it has, and its end, do not wait.
    fn silent_until(&self) -> Option<Instant> {
        None
    }

    /// Decides about a guest's request and sends it, if it may be sent. May
    /// take as long as a person needs to answer. Dropping the future, or the
    /// body of the response, ends the exchange.
    async fn send(&self, request: GuestRequest) -> Result<IncomingResponse, EgressError> {
        // Whoever decides nothing lets nothing out.
        drop(request);
        Err(EgressError::Denied)
    }
}

/// A backend.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// Compiles and describes a component. Cached by content: the same bytes
    /// are compiled once per engine version.
    async fn prepare(&self, component: Bytes) -> Result<Prepared, PrepareError>;

    /// The same, and tells meanwhile how far it is. A backend that does not know says nothing.
    async fn prepare_telling(&self, component: Bytes, tell: Tell<'_>) -> Result<Prepared, PrepareError> {
        let _ = tell;
        self.prepare(component).await
    }

    /// Runs one call in a fresh instance and says how it ended. `cancel` asks
    /// it to end soon. An error is the host's fault: the guest may or may not
    /// have run.
    async fn run(&self, run: Run, sink: Arc<dyn Sink>, cancel: CancellationToken) -> Result<Outcome, SandboxError>;

    /// Forgets what is cached for a task: its workspace is going away.
    async fn forget(&self, tenant: TenantId, task: TaskId);

    /// Kills every guest now, without asking it: their calls are interrupted. Further
    /// calls are run as ever.
    fn kill_guests(&self);

    /// No guest runs after `until`, by whoever runs it and not by this host alone: it may
    /// hang, or be stopped. Said again and again, each time with a later time; a backend
    /// whose guests write to nothing that others may take over need not listen.
    fn run_until(&self, until: Instant) {
        let _ = until;
    }

    /// Ends every guest and worker, and waits until they are gone.
    async fn shutdown(&self);
}
