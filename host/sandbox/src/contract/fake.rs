//! A backend without guests: its components are names of what it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_core::digest::Digest;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::limits::Usage;
use bulkhead_core::outcome::{Content, Ending, Fault, Outcome, code};
use bulkhead_core::ports::egress::Scheme;
use bulkhead_core::ports::sandbox::{Emission, GuestRequest, PrepareError, Prepared, Run, Sandbox, SandboxError, Sink};
use bulkhead_core::tool::{Artifact, Manifest};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// What a component of the fake begins with.
const MARK: &str = "fake component: ";

/// What a component does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Echo,
    Spin,
    Speak,
    Fetch,
    Panic,
}

/// Runs nothing, and behaves as if it did.
#[derive(Debug, Default)]
pub struct FakeSandbox {
    known: Mutex<HashMap<Digest, Does>>,
    stop: CancellationToken,
    /// Ends what runs now.
    now: Mutex<CancellationToken>,
}

impl FakeSandbox {
    /// The component that does this: `echo`, `spin`, `speak`, `fetch` or `panic`.
    pub fn component(name: &str) -> Bytes {
        format!("{MARK}{name}").into()
    }

    async fn act(does: Does, run: &Run, sink: &dyn Sink) -> Ending {
        match does {
            Does::Echo => Ending::Succeeded { content: Some(vec![Content::Text { text: run.arguments.to_string() }]) },
            Does::Spin => std::future::pending().await,
            Does::Panic => panic!("on purpose"),
            Does::Speak => loop {
                sink.emit(Emission::Content(Content::Text { text: "again".into() })).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            },
            Does::Fetch => {
                let text = match sink.send(request()).await {
                    Ok(response) => response.status.to_string(),
                    Err(error) => error.to_string(),
                };
                Ending::Succeeded { content: Some(vec![Content::Text { text }]) }
            }
        }
    }
}

/// What `fetch` sends.
fn request() -> GuestRequest {
    GuestRequest {
        method: "GET".into(),
        scheme: Scheme::Https,
        authority: "contract.test".into(),
        target: "/a?b".into(),
        header: Vec::new(),
        body: None,
        connect_timeout: None,
        first_byte_timeout: None,
        between_bytes_timeout: None,
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn prepare(&self, component: Bytes) -> Result<Prepared, PrepareError> {
        let name = std::str::from_utf8(&component).ok().and_then(|text| text.strip_prefix(MARK));
        let does = match name {
            Some("echo") => Does::Echo,
            Some("spin") => Does::Spin,
            Some("speak") => Does::Speak,
            Some("fetch") => Does::Fetch,
            Some("panic") => Does::Panic,
            _ => return Err(PrepareError::Rejected { code: "not_wasm", reason: "it is no fake component".into() }),
        };
        let key = Digest::of(&component);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, does);
        let manifest = Manifest {
            name: name.unwrap_or_default().into(),
            version: "1.0.0".into(),
            description: "Does what it is called.".into(),
            input_schema: serde_json::json!({"type": "object"}),
            output_schema: None,
            capabilities: Vec::new(),
            idempotent: name == Some("echo"),
        };
        let size = component.len() as u64;
        Ok(Prepared { manifest, artifact: Artifact { key, digest: key, size } })
    }

    async fn run(&self, run: Run, sink: Arc<dyn Sink>, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        if self.stop.is_cancelled() {
            return Err(SandboxError::because("the fake is shut down"));
        }
        let does = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&run.artifact.key).copied();
        let does = does.ok_or_else(|| SandboxError::because("it was never prepared"))?;
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = Instant::now();
        let wall = Duration::from_millis(run.limits.wall_time_ms);
        let ending = tokio::select! {
            biased;
            () = cancel.cancelled() => Ending::Cancelled { fault: Fault::new(code::CANCELLED, "cancelled") },
            () = now.cancelled() => Ending::Interrupted { fault: Fault::new(code::WORKER_DIED, "killed") },
            () = self.stop.cancelled() => Ending::Interrupted { fault: Fault::new(code::HOST_STOPPED, "stopped") },
            () = tokio::time::sleep(wall) => Ending::TimedOut {
                fault: Fault::limit(code::WALL_TIME, "wall_time_ms", &run.limits, run.limits.wall_time_ms),
            },
            ending = Self::act(does, &run, &*sink) => ending,
        };
        let wall_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(Outcome { ending, usage: Usage { wall_us, ..Usage::default() } })
    }

    async fn forget(&self, _tenant: TenantId, _task: TaskId) {}

    fn kill_guests(&self) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *now).cancel();
    }

    async fn shutdown(&self) {
        self.stop.cancel();
    }
}
