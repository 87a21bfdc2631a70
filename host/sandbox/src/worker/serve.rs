//! The worker's loop: takes frames, starts calls, sends what they say. One
//! thread; it polls the socket itself, so that a short call costs one wake-up.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bulkhead_core::grants::{MAX_PARTS, SubPath};
use futures::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::Linker;

use super::background::{self, Background};
use super::call::Call;
use super::firsts::Firsts;
use super::http::Exchange;
use super::link::Link;
use super::panics::{contained, vital_task};
use super::run::{Job, Loaded, Shared, run};
use super::state::{Mount, State, Workspace};
use crate::bounds::{MAX_COMPONENTS, MAX_TO_WORKER, MAX_WORKSPACES, TICK};
use crate::walls::Walls;
use crate::wire::{Done, FromWorker, Inbox, Measured, Received, Report, Socket, Start, ToWorker, decode};

/// Why a worker ends.
#[derive(Debug)]
pub(super) enum End {
    /// The host said so, or closed its end.
    Told,
    /// The socket or the protocol failed.
    Failed(String),
}

/// A worker that is bound.
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) linker: Linker<State>,
    pub(super) link: Arc<Link>,
    pub(super) inbox: Inbox,
    pub(super) descriptors: VecDeque<OwnedFd>,
    pub(super) components: HashMap<u32, Arc<Loaded>>,
    pub(super) workspaces: HashMap<u32, Workspace>,
    /// Parts of a workspace for the call that starts next.
    pub(super) parts: Vec<Mount>,
    pub(super) firsts: Firsts<First>,
}

/// A call that had no turn yet.
pub(super) struct First {
    user: u32,
    call: Arc<Call>,
    running: BoxFuture<'static, ()>,
}

impl Server {
    /// Serves until the end.
    pub(super) async fn serve(mut self, socket: OwnedFd, walls: Walls) -> End {
        let socket = match Socket::new(socket) {
            Ok(socket) => socket,
            Err(error) => return End::Failed(format!("the socket can't be watched: {error}")),
        };
        self.link.push(0, &FromWorker::Ready(walls));
        let mut more = true;
        loop {
            if let Err(end) = self.take_frames() {
                return end;
            }
            self.first_turns();
            let sent = self.link.with_outbox(|outbox| socket.send(outbox));
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) => return End::Failed(format!("sending failed: {error}")),
            };
            if !self.firsts.is_empty() {
                // Nor do those wait that had theirs.
                tokio::task::yield_now().await;
            } else if !more && let Err(end) = self.wait(&socket, sent).await {
                return end;
            }
            match socket.recv(&mut self.inbox, Some(&mut self.descriptors)) {
                Ok(Received::Some(there_is_more)) => more = there_is_more,
                Ok(Received::Nothing) => more = false,
                Ok(Received::End) => return End::Told,
                Err(error) => return End::Failed(format!("receiving failed: {error}")),
            }
        }
    }

    /// Waits until there is something to receive or to send.
    async fn wait(&self, socket: &Socket, sent: bool) -> Result<(), End> {
        let failed = |error: std::io::Error| End::Failed(format!("the socket can't be watched: {error}"));
        tokio::select! {
            biased;
            () = self.link.wake.notified() => {}
            ready = socket.readable() => ready.map_err(failed)?,
            ready = socket.writable(), if !sent => ready.map_err(failed)?,
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), End> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let result = loop {
            match inbox.next(|_| MAX_TO_WORKER) {
                Ok(Some((call, body))) => match decode(call, body) {
                    Ok(message) => {
                        if let Err(end) = self.handle(call, message) {
                            break Err(end);
                        }
                    }
                    Err(error) => break Err(End::Failed(error.to_string())),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(End::Failed(error.to_string())),
            }
        };
        self.inbox = inbox;
        result
    }

    fn handle(&mut self, call: u32, message: ToWorker<'_>) -> Result<(), End> {
        match message {
            ToWorker::Bind(_) | ToWorker::Artifacts | ToWorker::Leave | ToWorker::Settled => {
                return Err(End::Failed("bound twice".into()));
            }
            ToWorker::Shutdown => return Err(End::Told),
            ToWorker::Load { component } => {
                let artifact = self.descriptor()?;
                self.load(component, &artifact);
            }
            ToWorker::Unload { component } => {
                self.components.remove(&component);
            }
            ToWorker::Workspace { task } => {
                let directory = self.descriptor()?;
                if self.workspaces.len() < MAX_WORKSPACES {
                    self.workspaces.insert(task, Workspace::new(directory.into()));
                }
            }
            ToWorker::Forget { task } => {
                self.workspaces.remove(&task);
            }
            ToWorker::Part { path, access } => {
                let directory = self.descriptor()?;
                let path = path.parse::<SubPath>().map_err(|why| End::Failed(format!("a part that is none: {why}")))?;
                if self.parts.len() < MAX_PARTS {
                    self.parts.extend(Mount::new(path, directory.into(), access));
                }
            }
            ToWorker::Start(start) => self.start(call, start),
            ToWorker::RunUntil { until_ns } => self.shared.ticker.run_until(until_ns),
            ToWorker::Credit { bytes } => {
                if let Some(call) = self.link.call(call) {
                    call.credited(bytes as usize);
                }
            }
            ToWorker::Cancel => {
                if let Some(call) = self.link.call(call) {
                    call.cancel();
                }
            }
            ToWorker::Withdraw => {
                if let Some(call) = self.link.call(call) {
                    call.withdraw();
                }
            }
            ToWorker::Abort => {
                if let Some(call) = self.link.call(call) {
                    call.abort();
                }
            }
            ToWorker::Deadline { deadline_ns } => {
                if let Some(call) = self.link.call(call) {
                    call.put_off(at(deadline_ns));
                }
            }
            ToWorker::HttpHead { exchange, status, header } => {
                self.exchange(call, exchange, |exchange| exchange.head_came(status, &header));
            }
            ToWorker::HttpBody { exchange, data, last } => {
                self.exchange(call, exchange, |exchange| exchange.piece_came(data, last));
            }
            ToWorker::HttpFailed { exchange, error } => {
                self.exchange(call, exchange, |exchange| exchange.failed(error));
            }
        }
        Ok(())
    }

    /// Tells an exchange what came; one that the guest dropped meanwhile needs no more.
    fn exchange(&self, call: u32, exchange: u32, tell: impl FnOnce(&Exchange)) {
        let exchange = self.link.call(call).and_then(|call| call.exchanges().get(exchange));
        if let Some(exchange) = exchange {
            tell(&exchange);
        }
    }

    /// The descriptor that came with a frame.
    fn descriptor(&mut self) -> Result<OwnedFd, End> {
        self.descriptors.pop_front().ok_or_else(|| End::Failed("a frame came without its descriptor".into()))
    }

    fn load(&mut self, component: u32, artifact: &OwnedFd) {
        let loaded = if self.components.len() < MAX_COMPONENTS {
            // The walls made its own descriptors the working directory.
            super::load::load(&self.linker, Path::new("."), artifact)
        } else {
            Err(wasmtime::format_err!("{MAX_COMPONENTS} components are loaded already"))
        };
        match loaded {
            Ok(loaded) => {
                self.components.insert(component, Arc::new(loaded));
                self.link.push(0, &FromWorker::Loaded { component });
            }
            Err(error) => self.link.push(0, &FromWorker::LoadFailed { component, reason: &format!("{error:#}") }),
        }
    }

    fn start(&mut self, id: u32, start: Start<'_>) {
        let mut mounts = std::mem::take(&mut self.parts);
        let refuse = |reason| {
            let done = Done { report: Report::Refused { reason }, measured: Measured::default() };
            self.link.push(id, &FromWorker::Done(done));
        };
        let Some(loaded) = self.components.get(&start.component) else {
            return refuse("the component is not loaded");
        };
        match start.task.map(|task| self.workspaces.get(&task)) {
            None => {}
            Some(Some(workspace)) => mounts.extend(workspace.with(start.access)),
            Some(None) => return refuse("the workspace is not open"),
        }
        let (link, syncs) = (self.link.clone(), self.shared.syncs.of(start.user));
        let call = Arc::new(Call::new(id, start.limits, start.room, at(start.deadline_ns), link, syncs));
        self.link.begin(&call);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let job = Job {
            entry: start.entry,
            loaded: loaded.clone(),
            mounts,
            environment: start.environment.iter().map(owned).collect(),
            arguments: start.arguments.to_owned(),
            user: start.user,
        };
        let (shared, link) = (self.shared.clone(), self.link.clone());
        shared.heavy.came(start.user, Instant::now());
        let running = call.clone();
        let running = async move {
            contained(&running, run(shared, running.clone(), job)).await;
            link.end(id);
        };
        self.firsts.push(start.user, First { user: start.user, call, running: Box::pin(running) });
    }

    /// Gives calls their first turns, until it is time to look who else has come.
    fn first_turns(&mut self) {
        let begun = Instant::now();
        while let Some(first) = self.firsts.next() {
            if self.shared.heavy.is(first.user, Instant::now()) {
                first.call.takes_long();
            }
            begin(self.shared.background.clone(), first);
            if begun.elapsed() >= TICK {
                return;
            }
        }
    }
}

/// Gives a call its first turn at once, before all that run already: most
/// calls end within it. What is left takes turns with the others, as does one
/// that is to begin in the background.
fn begin(background: Arc<Background>, First { user, call, mut running }: First) {
    // The first turn has no one to wake: the task that follows asks again.
    let mut nobody = Context::from_waker(Waker::noop());
    if call.is_long() || running.as_mut().poll(&mut nobody).is_pending() {
        tokio::spawn(vital_task(background::run(background, user, call, running)));
    }
}

/// A time of the monotonic clock as an instant.
fn at(deadline_ns: u64) -> Instant {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    Instant::now() + Duration::from_nanos(deadline_ns).saturating_sub(now)
}
