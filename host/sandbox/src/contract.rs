//! The promises of the port to a backend (`bulkhead_core::ports::sandbox`), to
//! be kept by whoever implements it; and a backend that runs nothing and keeps
//! them, for tests of what lies above.

#![allow(clippy::unwrap_used, reason = "a suite for tests: a panic is the report")]

mod fake;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::digest::Digest;
use bulkhead_core::grants::{Grants, WorkspaceAccess};
use bulkhead_core::id::{CallId, TaskId, TenantId, UserId};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::{Content, Ending, Outcome, code};
use bulkhead_core::pause::Pauses;
use bulkhead_core::ports::egress::{EgressError, IncomingResponse};
use bulkhead_core::ports::sandbox::{Emission, GuestRequest, PrepareError, Prepared, Run, Sandbox, SandboxError, Sink};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Lease;
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use fake::FakeSandbox;

/// A backend, and four components that it runs.
#[derive(Clone)]
pub struct Subject {
    /// The backend.
    pub sandbox: Arc<dyn Sandbox>,
    /// Returns its arguments as one part, a text.
    pub echo: Bytes,
    /// Never ends by itself.
    pub spin: Bytes,
    /// Sends parts for ever, waiting where it is made to wait.
    pub speak: Bytes,
    /// Sends `GET https://contract.test/a?b` and returns once it is answered.
    pub fetch: Bytes,
    /// The arguments to `fetch` that make it do so.
    pub fetching: &'static str,
}

/// Checks every promise, each on a backend of its own.
pub async fn keeps_the_promises<Made: Future<Output = Subject>>(make: impl Fn() -> Made) {
    what_is_prepared_twice_is_the_same(make().await).await;
    what_is_no_component_is_rejected(make().await).await;
    a_call_ends_with_its_result(make().await).await;
    time_runs_out(make().await).await;
    a_cancelled_call_ends(make().await).await;
    a_call_cancelled_before_it_starts_never_runs(make().await).await;
    emissions_arrive_while_it_runs_and_the_sink_sets_the_pace(make().await).await;
    calls_run_beside_each_other(make().await).await;
    a_request_reaches_the_sink_and_ends_with_its_call(make().await).await;
    guests_are_killed_and_others_run_after_them(make().await).await;
    a_stop_interrupts_what_runs_and_takes_nothing_more(make().await).await;
}

/// Keeps what it is given; waits with each as long as it is told to.
#[derive(Default)]
struct Sluggish {
    got: Mutex<Vec<Emission>>,
    wait: Duration,
}

#[async_trait]
impl Sink for Sluggish {
    async fn emit(&self, emission: Emission) {
        tokio::time::sleep(self.wait).await;
        self.got.lock().unwrap().push(emission);
    }
}

impl Sluggish {
    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

impl Subject {
    async fn prepare(&self, component: &Bytes) -> Prepared {
        self.sandbox.prepare(component.clone()).await.unwrap()
    }

    async fn run(&self, component: &Bytes, arguments: &str, wall_time_ms: u64) -> Run {
        Run {
            call: CallId::from_parts(1, 1),
            owner: Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) },
            task: TaskId::from_parts(1, 1),
            component: Digest::of(component),
            artifact: self.prepare(component).await.artifact,
            workspace: None,
            parts: Vec::new(),
            grants: Grants::workspace(WorkspaceAccess::None),
            limits: Limits { wall_time_ms, cpu_time_ms: 60_000, ..Limits::default() },
            lease: Lease::default(),
            environment: Arc::default(),
            pauses: Pauses::default(),
            arguments: arguments.into(),
        }
    }

    fn start(
        &self,
        run: Run,
        sink: Arc<Sluggish>,
        cancel: CancellationToken,
    ) -> JoinHandle<Result<Outcome, SandboxError>> {
        let sandbox = self.sandbox.clone();
        tokio::spawn(async move { sandbox.run(run, sink, cancel).await })
    }
}

fn code_of(outcome: &Outcome) -> &str {
    outcome.ending.fault().map_or("", |fault| &fault.code)
}

async fn what_is_prepared_twice_is_the_same(subject: Subject) {
    let once = subject.prepare(&subject.echo).await;
    assert_eq!(subject.prepare(&subject.echo).await, once);
    assert_ne!(subject.prepare(&subject.spin).await.artifact.key, once.artifact.key);
    once.manifest.check().unwrap();
}

async fn what_is_no_component_is_rejected(subject: Subject) {
    for rubbish in [&b""[..], b"rubbish", b"\0asm\x01\0\0\0"] {
        let refused = subject.sandbox.prepare(Bytes::from_static(rubbish)).await.unwrap_err();
        assert!(matches!(refused, PrepareError::Rejected { reason, .. } if !reason.is_empty()));
    }
}

async fn a_call_ends_with_its_result(subject: Subject) {
    let run = subject.run(&subject.echo, r#"{"text":"hé"}"#, 30_000).await;
    let sink = Arc::new(Sluggish::default());
    let outcome = subject.start(run, sink.clone(), CancellationToken::new()).await.unwrap().unwrap();
    let content = vec![Content::Text { text: r#"{"text":"hé"}"#.into() }];
    assert_eq!(outcome.ending, Ending::Succeeded { content: Some(content) });
    assert_eq!(sink.count(), 0, "a result is no emission");
}

async fn time_runs_out(subject: Subject) {
    let run = subject.run(&subject.spin, "{}", 200).await;
    let outcome = subject.start(run, Arc::default(), CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!((outcome.ending.state(), code_of(&outcome)), ("timed_out", code::WALL_TIME));
    assert!(outcome.usage.wall_us >= 200_000, "{:?}", outcome.usage);
    let hit = outcome.ending.fault().unwrap().limit.clone().unwrap();
    assert_eq!((&*hit.name, hit.value), ("wall_time_ms", 200));
}

async fn a_cancelled_call_ends(subject: Subject) {
    let cancel = CancellationToken::new();
    let run = subject.run(&subject.speak, "{}", 60_000).await;
    let sink = Arc::new(Sluggish::default());
    let call = subject.start(run, sink.clone(), cancel.clone());
    until("it runs", || sink.count() > 0).await;
    cancel.cancel();
    let outcome = call.await.unwrap().unwrap();
    assert_eq!((outcome.ending.state(), code_of(&outcome)), ("cancelled", code::CANCELLED));
}

async fn a_call_cancelled_before_it_starts_never_runs(subject: Subject) {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let run = subject.run(&subject.speak, "{}", 60_000).await;
    let sink = Arc::new(Sluggish::default());
    let outcome = subject.start(run, sink.clone(), cancel).await.unwrap().unwrap();
    assert_eq!(outcome.ending.state(), "cancelled");
    assert_eq!(sink.count(), 0);
}

async fn emissions_arrive_while_it_runs_and_the_sink_sets_the_pace(subject: Subject) {
    let cancel = CancellationToken::new();
    let run = subject.run(&subject.speak, "{}", 60_000).await;
    let sink = Arc::new(Sluggish { wait: Duration::from_millis(100), ..Sluggish::default() });
    let call = subject.start(run, sink.clone(), cancel.clone());
    until("something arrives", || sink.count() > 1).await;
    assert!(!call.is_finished());
    cancel.cancel();
    call.await.unwrap().unwrap();
    let got = sink.count();
    assert!(got < 100, "a guest that sends for ever was let run ahead: {got}");
    // Nothing follows the end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sink.count(), got);
}

async fn calls_run_beside_each_other(subject: Subject) {
    let cancel = CancellationToken::new();
    let spinning = subject.run(&subject.spin, "{}", 60_000).await;
    let spinning = subject.start(spinning, Arc::default(), cancel.clone());
    for _ in 0..3 {
        let run = subject.run(&subject.echo, "{}", 30_000).await;
        let outcome = subject.start(run, Arc::default(), CancellationToken::new()).await.unwrap().unwrap();
        assert_eq!(outcome.ending.state(), "succeeded");
    }
    assert!(!spinning.is_finished());
    cancel.cancel();
    assert_eq!(spinning.await.unwrap().unwrap().ending.state(), "cancelled");
}

/// Notes requests; answers the first, and leaves the others waiting.
#[derive(Default)]
struct Answers {
    asked: Mutex<Vec<String>>,
    gone: AtomicBool,
}

struct Waiting<'a>(&'a AtomicBool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[async_trait]
impl Sink for Answers {
    async fn emit(&self, _emission: Emission) {}

    async fn send(&self, request: GuestRequest) -> Result<IncomingResponse, EgressError> {
        let GuestRequest { method, scheme, authority, target, .. } = request;
        let first = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(format!("{method} {}://{authority}{target}", scheme.as_str()));
            asked.len() == 1
        };
        if !first {
            let _waiting = Waiting(&self.gone);
            std::future::pending::<()>().await;
        }
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let body = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"answer"))]));
        Ok(IncomingResponse { status: 200, header: Vec::new(), address, body })
    }
}

async fn a_request_reaches_the_sink_and_ends_with_its_call(subject: Subject) {
    let sink = Arc::new(Answers::default());
    let run = subject.run(&subject.fetch, subject.fetching, 30_000).await;
    let outcome = subject.sandbox.run(run.clone(), sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.ending.state(), "succeeded", "{:?}", outcome.ending);
    assert_eq!(*sink.asked.lock().unwrap(), ["GET https://contract.test/a?b"]);
    let cancel = CancellationToken::new();
    let (sandbox, waits, cancelled) = (subject.sandbox.clone(), sink.clone(), cancel.clone());
    let call = tokio::spawn(async move { sandbox.run(run, waits, cancelled).await });
    until("it asks again", || sink.asked.lock().unwrap().len() == 2).await;
    assert!(!call.is_finished() && !sink.gone.load(Relaxed));
    cancel.cancel();
    assert_eq!(call.await.unwrap().unwrap().ending.state(), "cancelled");
    assert!(sink.gone.load(Relaxed), "a request outlived its call");
}

async fn guests_are_killed_and_others_run_after_them(subject: Subject) {
    let run = subject.run(&subject.speak, "{}", 60_000).await;
    for _ in 0..2 {
        let sink = Arc::new(Sluggish::default());
        let call = subject.start(run.clone(), sink.clone(), CancellationToken::new());
        until("it runs", || sink.count() > 0).await;
        subject.sandbox.kill_guests();
        let outcome = call.await.unwrap().unwrap();
        assert_eq!((outcome.ending.state(), code_of(&outcome)), ("interrupted", code::WORKER_DIED));
    }
}

async fn a_stop_interrupts_what_runs_and_takes_nothing_more(subject: Subject) {
    let run = subject.run(&subject.speak, "{}", 60_000).await;
    let sink = Arc::new(Sluggish::default());
    let call = subject.start(run.clone(), sink.clone(), CancellationToken::new());
    until("it runs", || sink.count() > 0).await;
    subject.sandbox.shutdown().await;
    let outcome = call.await.unwrap().unwrap();
    assert_eq!((outcome.ending.state(), code_of(&outcome)), ("interrupted", code::HOST_STOPPED));
    assert!(subject.start(run, Arc::default(), CancellationToken::new()).await.unwrap().is_err());
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
