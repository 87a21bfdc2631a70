//! A sandbox on this package's own executable, and a sink that remembers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::Stream;
use bulkhead_core::grants::{Grants, WorkspaceAccess};
use bulkhead_core::id::{CallId, TaskId, TenantId, UserId};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::pause::Pauses;
use bulkhead_core::ports::egress::{EgressError, IncomingResponse};
use bulkhead_core::ports::sandbox::{Emission, GuestRequest, Prepared, Run, Sandbox, SandboxError, Sink};
use bulkhead_core::ports::workspace::OneDomain;
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::{Extent, Lease};
use bulkhead_sandbox::{WasmConfig, WasmSandbox};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What comes of a request.
pub(crate) type Answer = Result<IncomingResponse, EgressError>;

/// What answers requests.
type Answering = Box<dyn Fn(GuestRequest) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Emissions in order; takes them as fast as it is let.
pub(crate) struct Remember {
    emissions: Mutex<Vec<Emission>>,
    pub(crate) gate: Semaphore,
    answering: Option<Answering>,
}

impl Remember {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::taking(Semaphore::MAX_PERMITS))
    }

    fn taking(emissions: usize) -> Self {
        Self { emissions: Mutex::default(), gate: Semaphore::new(emissions), answering: None }
    }

    /// One that takes nothing until it is let.
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self::taking(0))
    }

    /// One that answers requests, and takes so many emissions.
    pub(crate) fn answering<F>(
        emissions: usize,
        answer: impl Fn(GuestRequest) -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let answering: Answering = Box::new(move |request| Box::pin(answer(request)));
        Arc::new(Self { answering: Some(answering), ..Self::taking(emissions) })
    }

    pub(crate) fn all(&self) -> Vec<Emission> {
        self.emissions.lock().unwrap().clone()
    }

    pub(crate) fn text(&self, wanted: Stream) -> Vec<u8> {
        let all = self.all();
        let bytes = all.iter().filter_map(|emission| match emission {
            Emission::Output(stream, bytes) if *stream == wanted => Some(bytes.to_vec()),
            _ => None,
        });
        bytes.flatten().collect()
    }
}

#[async_trait]
impl Sink for Remember {
    async fn emit(&self, emission: Emission) {
        self.gate.acquire().await.unwrap().forget();
        self.emissions.lock().unwrap().push(emission);
    }

    async fn send(&self, request: GuestRequest) -> Answer {
        match &self.answering {
            Some(answer) => answer(request).await,
            None => Err(EgressError::Denied),
        }
    }
}

/// A sandbox with a directory of its own.
pub(crate) struct Bench {
    pub(crate) sandbox: Arc<WasmSandbox>,
    pub(crate) config: WasmConfig,
    pub(crate) limits: Limits,
    pub(crate) owner: Owner,
    pub(crate) workspace: tempfile::TempDir,
    _cache: Arc<tempfile::TempDir>,
}

pub(crate) fn child() -> PathBuf {
    env!("CARGO_BIN_EXE_bulkhead-sandbox-child").into()
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut WasmConfig)) -> Self {
        // Shown with the output of a test that fails.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let cache = Arc::new(tempfile::tempdir().unwrap());
        let mut config = WasmConfig::new(child(), cache.path().join("cache"));
        // Unoptimised, on a machine that does other things too.
        config.start_timeout = Duration::from_secs(60);
        config.compile_cpu = Duration::from_secs(120);
        config.describe_limits.wall_time_ms = 20_000;
        config.describe_limits.cpu_time_ms = 5_000;
        config.kill_grace = Duration::from_secs(2);
        change(&mut config);
        Self::on(config, cache)
    }

    /// Another sandbox on the same cache.
    pub(crate) fn again(&self, change: impl FnOnce(&mut WasmConfig)) -> Self {
        let mut config = self.config.clone();
        config.domains = None;
        change(&mut config);
        Self::on(config, self._cache.clone())
    }

    fn on(config: WasmConfig, cache: Arc<tempfile::TempDir>) -> Self {
        let limits = Limits { wall_time_ms: 20_000, cpu_time_ms: 10_000, ..Limits::default() };
        let workspace = tempfile::tempdir().unwrap();
        let directory: OwnedFd = std::fs::File::open(workspace.path()).unwrap().into();
        let mut config = config;
        config.domains.get_or_insert_with(|| Arc::new(OneDomain(Arc::new(directory))));
        Self {
            sandbox: Arc::new(WasmSandbox::new(config.clone()).unwrap()),
            config,
            limits,
            owner: Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) },
            workspace,
            _cache: cache,
        }
    }

    pub(crate) async fn prepare(&self, component: &Bytes) -> Prepared {
        self.sandbox.prepare(component.clone()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A call with the workspace granted as `access`.
    pub(crate) fn call(&self, prepared: &Prepared, arguments: &str, access: WorkspaceAccess) -> Run {
        let directory = std::fs::File::open(self.workspace.path()).unwrap();
        Run {
            call: CallId::from_parts(1, 1),
            owner: self.owner,
            task: TaskId::from_parts(1, 1),
            component: Digest::of(b"unused"),
            artifact: prepared.artifact.clone(),
            workspace: (access != WorkspaceAccess::None).then(|| Arc::new(directory.into())),
            parts: Vec::new(),
            grants: Grants::workspace(access),
            limits: self.limits.clone(),
            lease: Lease::of_nobody(Extent { bytes: 1 << 30, entries: 10_000 }),
            environment: Arc::default(),
            pauses: Pauses::default(),
            arguments: arguments.into(),
        }
    }

    /// Prepares, calls without a workspace, and waits.
    pub(crate) async fn outcome(&self, component: &Bytes, arguments: &str) -> Outcome {
        let prepared = self.prepare(component).await;
        self.run(self.call(&prepared, arguments, WorkspaceAccess::None)).await.unwrap()
    }

    pub(crate) async fn run(&self, run: Run) -> Result<Outcome, SandboxError> {
        self.sandbox.run(run, Remember::new(), CancellationToken::new()).await
    }

    /// Runs in the background.
    pub(crate) fn spawn(
        &self,
        run: Run,
        sink: Arc<Remember>,
        cancel: CancellationToken,
    ) -> tokio::task::JoinHandle<Result<Outcome, SandboxError>> {
        let sandbox = self.sandbox.clone();
        tokio::spawn(async move { sandbox.run(run, sink, cancel).await })
    }

    /// Waits until `condition` holds of the numbers.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(bulkhead_sandbox::WasmStats) -> bool) {
        for _ in 0..3000 {
            if condition(self.sandbox.stats()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?}", self.sandbox.stats());
    }
}

/// `state` or `state/code`.
pub(crate) fn summary(outcome: &Outcome) -> String {
    match outcome.ending.fault() {
        None => outcome.ending.state().into(),
        Some(fault) => format!("{}/{}", outcome.ending.state(), fault.code),
    }
}

/// The text of the only part of a result.
pub(crate) fn text(outcome: &Outcome) -> &str {
    match &outcome.ending {
        Ending::Succeeded { content: Some(content) } => match content.as_slice() {
            [Content::Text { text }] => text,
            other => panic!("not one text: {other:?}"),
        },
        other => panic!("not a success: {other:?}"),
    }
}
