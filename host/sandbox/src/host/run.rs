//! Runs one call in a worker: finds a place, starts it, passes on what it
//! emits, and judges how it ended.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_core::digest::Digest;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::id::TaskId;
use bulkhead_core::limits::{Limits, Usage};
use bulkhead_core::outcome::{Ending, Fault, Outcome, code};
use bulkhead_core::pause::Pauses;
use bulkhead_core::ports::sandbox::{Emission, RunPart, SandboxError, Sink};
use bulkhead_core::quota::Lease;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::clock::{Clock, monotonic_ns};
use super::exchange::Line;
use super::exchanges::Exchanges;
use super::guard::Violation;
use super::judge::{self, Judged, Known};
use super::pool::Place;
use super::worker::{Happened, Loading, Started, Wanted, Why, Worker};
use crate::bounds::WINDOW;
use crate::wire::{Done, Entry, FromWorker, Report, Start, ToWorker, decode};

/// Credit is given back at least in pieces of this size.
const CREDIT: usize = WINDOW / 4;

/// A call, as a worker needs it.
pub(super) struct Job<'a> {
    pub(super) entry: Entry,
    /// Whose it is among the users of a worker.
    pub(super) user: u32,
    pub(super) artifact: Digest,
    /// Opens the compiled component, checked; asked only if it is not loaded.
    pub(super) open: &'a (dyn Fn() -> Opening + Sync),
    pub(super) workspace: Option<(TaskId, &'a Arc<OwnedFd>)>,
    /// What it may do with the whole of it.
    pub(super) access: WorkspaceAccess,
    pub(super) parts: &'a [RunPart],
    pub(super) limits: &'a Limits,
    pub(super) lease: &'a Lease,
    pub(super) environment: &'a [(String, String)],
    pub(super) pauses: &'a Pauses,
    pub(super) arguments: &'a str,
    pub(super) start_timeout: Duration,
    /// Memory of all calls of its worker together, in bytes.
    pub(super) worker_memory: u64,
}

/// The opening of a compiled component.
pub(super) type Opening = futures::future::BoxFuture<'static, Result<Arc<OwnedFd>, SandboxError>>;

/// A call that runs; aborted if whoever waits for it goes away.
struct Running {
    worker: Arc<Worker>,
    call: u32,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.worker.abort(self.call);
        }
    }
}

/// Runs the job in `place`.
pub(super) async fn run(
    place: Place,
    job: &Job<'_>,
    sink: &dyn Sink,
    cancel: &CancellationToken,
    stopping: &(dyn Fn() -> bool + Sync),
) -> Result<Judged, Failed> {
    let started = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(Judged::Outcome(cancelled_before())),
        started = tokio::time::timeout(job.start_timeout, start(place, job)) => started,
    };
    let Ok(started) = started else {
        let text = format!("a worker did not take the call within {:?}", job.start_timeout);
        return Err(Failed::Sandbox(SandboxError::because(text)));
    };
    let (running, happens, since) = started?;
    let clock = Clock::new(since, Duration::from_millis(job.limits.wall_time_ms), job.pauses);
    let exchanges = Exchanges::default();
    let follow =
        Follow { running, happens, clock, job, sink, exchanges, cancel, cancelled: false, withdrawn: false, owed: 0 };
    Ok(follow.until_the_end(stopping).await?)
}

/// The outcome of a call that was cancelled before it started.
pub(super) fn cancelled_before() -> Outcome {
    Outcome::without_use(Ending::Cancelled { fault: judge::cancelled() })
}

/// Why a call has no outcome.
#[derive(Debug)]
pub(super) enum Failed {
    /// Its worker was gone before it started: another may take it.
    NotStarted(SandboxError),
    /// The sandbox failed.
    Sandbox(SandboxError),
}

impl From<SandboxError> for Failed {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox(error)
    }
}

impl From<Failed> for SandboxError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotStarted(error) | Failed::Sandbox(error) => error,
        }
    }
}

/// Starts the job once the worker is up and has its component.
async fn start(place: Place, job: &Job<'_>) -> Result<(Running, UnboundedReceiver<Happened>, Instant), Failed> {
    let gone = |why: &str| {
        let text = format!("the worker was gone before the call started: {why}");
        Failed::NotStarted(SandboxError::because(text))
    };
    let worker = place.worker.clone();
    worker.ready().await.map_err(|why| gone(&why))?;
    loop {
        let since = Instant::now();
        let (start, deadline) = message(job, since);
        let Job { artifact, workspace, parts, lease, .. } = *job;
        let wanted = Wanted { artifact, workspace, parts, lease, start, deadline };
        match worker.start(wanted) {
            Started::Running(call, happens) => {
                let worker = place.started();
                return Ok((Running { worker, call, ended: false }, happens, since));
            }
            Started::Unloaded => worker.load(job.artifact, &(job.open)().await?),
            Started::Loading(mut loading) => {
                let settled = loading.wait_for(|loading| !matches!(loading, Loading::Underway)).await;
                if let Ok(Loading::Failed(reason)) = settled.as_deref() {
                    let text = format!("the worker could not load the compiled component: {reason}");
                    return Err(Failed::Sandbox(SandboxError::because(text)));
                }
            }
            Started::Gone => return Err(gone("it ended")),
        }
        // A worker that dies while it loads tells nobody but by its phase.
        worker.ready().await.map_err(|why| gone(&why))?;
    }
}

/// The message that starts the job now.
fn message<'a>(job: &Job<'a>, now: Instant) -> (Start<'a>, Instant) {
    let deadline = now + Duration::from_millis(job.limits.wall_time_ms);
    let room = job.lease.room();
    let start = Start {
        entry: job.entry,
        user: job.user,
        component: 0,
        task: None,
        access: job.access,
        limits: job.limits.clone(),
        room: (room.bytes, room.entries),
        deadline_ns: monotonic_ns(deadline),
        environment: job.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        arguments: job.arguments,
    };
    (start, deadline)
}

/// A call that is followed to its end.
struct Follow<'a> {
    running: Running,
    happens: UnboundedReceiver<Happened>,
    clock: Clock,
    job: &'a Job<'a>,
    sink: &'a dyn Sink,
    exchanges: Exchanges<'a>,
    cancel: &'a CancellationToken,
    cancelled: bool,
    withdrawn: bool,
    /// Stored bytes that are not credited yet.
    owed: usize,
}

impl Follow<'_> {
    async fn until_the_end(mut self, stopping: &(dyn Fn() -> bool + Sync)) -> Result<Judged, SandboxError> {
        loop {
            self.credit();
            let happened = self.next().await;
            match happened {
                Some(Happened::Emitted(emissions, cost)) => {
                    for emission in emissions {
                        self.emit(emission).await;
                    }
                    self.owed += cost;
                }
                Some(Happened::Part(part, cost)) => match judge::content(part) {
                    Ok(part) => {
                        self.emit(Emission::Content(part)).await;
                        self.owed += cost;
                    }
                    Err(violation) => return Ok(self.violated(violation).await),
                },
                Some(Happened::Asked(asked, cost)) => {
                    let line = Line { worker: self.running.worker.clone(), call: self.running.call };
                    self.exchanges.begin(*asked, self.sink, line);
                    self.owed += cost;
                }
                Some(Happened::Done(body)) => return self.done(&body).await,
                Some(Happened::Lost { why, cpu }) => {
                    let ending = self.end_of_lost(&why, stopping());
                    return Ok(self.lost(ending, cpu).await);
                }
                None => {
                    let fault = judge::worker_died("it is gone");
                    return Ok(self.lost(Ending::Interrupted { fault }, Duration::ZERO).await);
                }
            }
        }
    }

    /// How a call ended whose worker did.
    fn end_of_lost(&self, why: &Why, stopping: bool) -> Ending {
        let fault = match why {
            Why::Overdue => return self.known().overdue(),
            Why::Gone(_) if stopping => {
                Fault::new(code::HOST_STOPPED, "the host was stopped while the call ran").retryable()
            }
            Why::Gone(why) => judge::worker_died(why),
        };
        Ending::Interrupted { fault }
    }

    /// The next thing that happens to the call.
    async fn next(&mut self) -> Option<Happened> {
        loop {
            let silent = self.silent_until().filter(|_| self.owed > 0);
            tokio::select! {
                biased;
                happened = self.happens.recv() => return happened,
                () = self.cancel.cancelled(), if !self.cancelled => self.ask_to_end(),
                deadline = self.clock.moved() => self.put_off(deadline),
                () = self.job.lease.withdrawn(), if !self.withdrawn => self.withdraw(),
                () = self.exchanges.one_done() => {}
                () = tokio::time::sleep_until(silent.unwrap_or_else(Instant::now).into()), if silent.is_some() => {
                    self.credit();
                }
            }
        }
    }

    /// Stores an emission; meanwhile the call can still be cancelled, its end be
    /// moved, and its exchanges go on.
    async fn emit(&mut self, emission: Emission) {
        let sink = self.sink;
        let mut stored = sink.emit(emission);
        loop {
            tokio::select! {
                biased;
                () = &mut stored => return,
                () = self.cancel.cancelled(), if !self.cancelled => self.ask_to_end(),
                deadline = self.clock.moved() => self.put_off(deadline),
                () = self.job.lease.withdrawn(), if !self.withdrawn => self.withdraw(),
                () = self.exchanges.one_done() => {}
            }
        }
    }

    fn withdraw(&mut self) {
        self.withdrawn = true;
        self.running.worker.tell(self.running.call, &ToWorker::Withdraw);
    }

    fn put_off(&mut self, deadline: Instant) {
        self.running.worker.put_off(self.running.call, deadline);
    }

    fn ask_to_end(&mut self) {
        self.cancelled = true;
        self.running.worker.cancel(self.running.call);
    }

    /// Gives credit back, but not for a call that has nothing more to say, or is to be silent.
    fn credit(&mut self) {
        if (self.owed >= CREDIT || (self.owed > 0 && self.happens.is_empty())) && self.silent_until().is_none() {
            self.running.worker.credit(self.running.call, std::mem::take(&mut self.owed));
        }
    }

    fn silent_until(&self) -> Option<Instant> {
        self.sink.silent_until().map(Into::into).filter(|until| *until > Instant::now())
    }

    fn known(&self) -> Known<'_> {
        Known {
            limits: self.job.limits,
            elapsed: self.clock.elapsed(),
            wall: self.clock.own(),
            over_after: self.clock.over_after(),
            cancelled: self.cancelled,
            worker_memory: self.job.worker_memory,
        }
    }

    async fn done(mut self, body: &[u8]) -> Result<Judged, SandboxError> {
        self.running.ended = true;
        self.exchanges = Exchanges::default();
        let judged = match decode(self.running.call, body) {
            Ok(FromWorker::Done(Done { report: Report::Broke, measured })) => {
                let fault = judge::worker_died("it failed in the middle of the call");
                return Ok(self.lost(Ending::Interrupted { fault }, Duration::from_micros(measured.cpu_us)).await);
            }
            Ok(FromWorker::Done(done)) => self.known().judge(done),
            _ => Err(Violation("the end of a call that does not decode")),
        };
        match judged {
            Ok(Judged::Refused(reason)) => {
                Err(SandboxError::because(format!("the worker could not start the call: {reason}")))
            }
            Ok(judged) => Ok(judged),
            Err(violation) => Ok(self.violated(violation).await),
        }
    }

    /// The worker said what it must not: it is killed, the call is lost.
    async fn violated(self, violation: Violation) -> Judged {
        self.running.worker.condemn(violation.0);
        let fault = judge::worker_died("it broke the protocol and was killed");
        self.lost(Ending::Interrupted { fault }, Duration::ZERO).await
    }

    /// The call is gone with its worker: what it changed must be found.
    async fn lost(mut self, ending: Ending, cpu: Duration) -> Judged {
        self.running.ended = true;
        self.exchanges = Exchanges::default();
        let parts = self.job.parts.iter().map(|part| part.access);
        if parts.fold(self.job.access, Ord::max) == WorkspaceAccess::ReadWrite {
            self.emit(Emission::ChangesLost).await;
        }
        let microseconds = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let cpu_us = microseconds(cpu.min(self.clock.elapsed()));
        let usage = Usage { wall_us: microseconds(self.clock.own()), cpu_us, ..Usage::default() };
        Judged::Outcome(Outcome { ending, usage })
    }
}

/// Passes nothing on: for `describe`, whose limits allow no emission.
pub(super) struct Nowhere;

#[async_trait::async_trait]
impl Sink for Nowhere {
    async fn emit(&self, _emission: Emission) {}
}
