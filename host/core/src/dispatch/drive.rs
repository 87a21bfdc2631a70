//! One call, from its slot to its stored end.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::egress::Broker;
use super::sink::CallSink;
use super::{Inner, Slot, lock};
use crate::call::{Call, CallState};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::grants::WorkspaceAccess;
use crate::outcome::{Content, Ending, Fault, INLINE_RESULT, Outcome, code};
use crate::pause::Pauses;
use crate::ports::sandbox::{Emission, Run, Sink as _};
use crate::ports::store::{Appended, StoreError};
use crate::quota::{Extent, Lease, Room};
use crate::steps;

/// Between two tries to store an end that the store refused.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// So many tries, if nothing says that it will pass; then the call stays as it is and
/// recovery takes it up.
pub(super) const RETRIES: u32 = 150;
/// So many tries to store an end while the store is full or away: two hours.
const PATIENT: u64 = 36_000;
/// Of so many tries in vain one is told in the log.
const TOLD: u64 = 50;

impl Inner {
    /// Starts a call that waited, unless it was cancelled meanwhile.
    pub(super) async fn start_queued(self: Arc<Self>, call: Arc<Call>, slot: Slot) {
        let token = lock(&self.active).get(&call.id).map(|active| active.cancel.clone());
        // Not active any more: it was cancelled in the queue.
        let Some(token) = token else { return };
        if token.is_cancelled() {
            let fault = Fault::new(code::CANCELLED, "cancelled before it started");
            self.end_surely(&call, Outcome::without_use(Ending::Cancelled { fault }), Vec::new(), None).await;
            return;
        }
        let call = self.granted_anew(call).await;
        let at = self.parts.ids.now();
        let body = EventBody::CallStarted { tool: call.tool_name.clone() };
        let events = vec![NewEvent::new(at, Some(call.id), &body)];
        steps::reach("call.starting");
        match self.stored_start(&call, at, &events, &token).await {
            Ok(Some(appended)) => {
                steps::reach("call.started");
                self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
                self.parts.meter.events_appended(1);
                let running =
                    Call { state: CallState::Running { since: at }, attempts: call.attempts + 1, ..(*call).clone() };
                let running = Arc::new(running);
                if let Some(active) = lock(&self.active).get_mut(&call.id) {
                    active.call = running.clone();
                }
                self.drive(running, slot).await;
            }
            Ok(None) => {
                lock(&self.active).remove(&call.id);
            }
            Err(error) => {
                tracing::error!(call = %call.id, %error, "a queued call could not be started");
                let fault = Fault::new(code::HOST_ERROR, "the store failed when the call was to start").retryable();
                self.end_surely(&call, Outcome::without_use(Ending::Interrupted { fault }), Vec::new(), None).await;
            }
        }
    }

    /// Stores that a call starts, trying again while the store can't be reached: what
    /// waited for its turn can wait for that too.
    async fn stored_start(
        &self,
        call: &Call,
        at: Timestamp,
        events: &[NewEvent],
        cancel: &CancellationToken,
    ) -> Result<Option<Appended>, StoreError> {
        loop {
            match self.parts.store.start_call(call.task, call.id, at, &call.grants, events.to_vec()).await {
                Err(error @ (StoreError::Unavailable(_) | StoreError::DiskFull)) => {
                    tracing::debug!(call = %call.id, error = %chain(&error), "a start could not be stored yet");
                }
                done => return done,
            }
            if cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                break;
            }
        }
        self.parts.store.start_call(call.task, call.id, at, &call.grants, events.to_vec()).await
    }

    /// A call that waited, with what it is granted now: the policy may have
    /// changed. Its lane was taken for what it was granted before.
    async fn granted_anew(&self, call: Arc<Call>) -> Arc<Call> {
        match self.granted_now(&call).await {
            Ok((grants, ..)) if grants.most_workspace() <= call.grants.most_workspace() => {
                Arc::new(Call { grants, ..(*call).clone() })
            }
            // Looked at once more before the guest starts.
            _ => call,
        }
    }

    /// Runs a call whose `running` is stored, and stores its end. If this host panics
    /// in the middle, that call ends, and no other.
    pub(super) async fn drive(self: Arc<Self>, call: Arc<Call>, slot: Slot) {
        let sink = OnceLock::new();
        // Large: in a box it is moved once, and not with everything that it is wrapped in.
        let driven = Box::pin(self.clone().drive_on(call.clone(), &sink));
        if AssertUnwindSafe(driven).catch_unwind().await.is_err() {
            tracing::error!(call = %call.id, task = %call.task, "the host panicked while the call ran; it is ended");
            let fault = Fault::new(code::HOST_ERROR, "the server failed in the middle of the call; its log says why");
            let outcome = Outcome::without_use(Ending::Interrupted { fault });
            Box::pin(self.end_panicked(&call, outcome, sink.get())).await;
        }
        drop(slot);
    }

    async fn end_panicked(self: &Arc<Self>, call: &Call, outcome: Outcome, sink: Option<&Arc<CallSink>>) {
        self.parts.quotas.forget(call.task);
        let events = match sink {
            Some(sink) => {
                // What it changed must be looked for, as if its worker had died.
                sink.emit(Emission::ChangesLost).await;
                sink.finish().await
            }
            None => Vec::new(),
        };
        self.end_surely(call, outcome, events, None).await;
    }

    async fn drive_on(self: Arc<Self>, call: Arc<Call>, made: &OnceLock<Arc<CallSink>>) {
        let (pauses, cancel) = (Pauses::default(), self.cancel_of(&call));
        // What is waited for before the guest starts is no time of its own.
        let granted = self.grant(&call, &Pauses::default(), &cancel).await;
        let before = call.clone();
        let call = match &granted {
            // Mostly nothing was asked, and what was recorded is what it gets.
            Ok((grants, _)) if *grants != call.grants => Arc::new(Call { grants: grants.clone(), ..(*call).clone() }),
            _ => call,
        };
        self.pace.note(call.owner.user);
        let sink = made.get_or_init(|| Arc::new(CallSink::new(self.clone(), call.clone())));
        let outcome = match granted {
            Ok(granted) => {
                let broker = Broker::new(self.clone(), call.clone(), granted, pauses, cancel);
                self.run(&call, sink, Arc::new(broker)).await
            }
            Err(fault) => Err(fault),
        };
        let outcome = outcome.unwrap_or_else(|fault| {
            Outcome::without_use(match &*fault.code {
                code::GRANT_REVOKED => Ending::Cancelled { fault },
                code::WORKSPACE_PATH => Ending::Failed { fault },
                _ => Ending::Interrupted { fault },
            })
        });
        let outcome = self.judged(&call, outcome);
        let events = sink.finish().await;
        let extent = self.settle(&call, &outcome, sink);
        if let Some(fault) = self.stopped_for_us(&call, &outcome)
            && Box::pin(self.start_again(&before, fault, &events)).await
        {
            return;
        }
        self.end_surely(&call, outcome, events, extent).await;
    }

    fn cancel_of(&self, call: &Call) -> CancellationToken {
        lock(&self.active).get(&call.id).map(|active| active.cancel.clone()).unwrap_or_default()
    }

    async fn run(&self, call: &Arc<Call>, sink: &Arc<CallSink>, broker: Arc<Broker>) -> Result<Outcome, Fault> {
        let host_fault = |error: &dyn std::error::Error, what: &str| {
            tracing::error!(call = %call.id, task = %call.task, error = %chain(error), "{what}");
            Fault::new(code::HOST_ERROR, format!("{what}; the server's log says why")).retryable()
        };
        let tool = self.tools.get(call.tool).await;
        let tool = tool.map_err(|error| host_fault(&error, "the tool could not be loaded"))?;
        let artifact = match self.cancel_of(call).run_until_cancelled(self.tools.artifact(call.tool, &tool)).await {
            Some(Ok(artifact)) => artifact,
            Some(Err(unusable)) => return Err(unusable.fault(&call.tool_name)),
            None => {
                let fault = Fault::new(code::CANCELLED, "cancelled before it started");
                return Ok(Outcome::without_use(Ending::Cancelled { fault }));
            }
        };
        let access = call.grants.reach().most();
        let workspace = match access {
            WorkspaceAccess::None => None,
            WorkspaceAccess::Read | WorkspaceAccess::ReadWrite => {
                let opened = self.parts.workspaces.open(call.owner.tenant, call.task).await;
                let identified = opened.and_then(|root| Ok((self.parts.workspaces.identity(&root)?, root)));
                let (id, root) = identified.map_err(|error| host_fault(&error, "the workspace could not be opened"))?;
                if let Some(active) = lock(&self.active).get_mut(&call.id) {
                    active.workspace = Some(id);
                }
                Some(root)
            }
        };
        let mut room = Room::default();
        if let Some(root) = workspace.as_ref().filter(|_| access == WorkspaceAccess::ReadWrite) {
            let measured = self.parts.quotas.room(call.owner, call.task, root, &call.limits).await;
            room = measured.map_err(|error| host_fault(&error, "the workspace could not be measured"))?;
            sink.bounded(room, Lease::default());
        }
        let before = room.extent;
        let parts = match &workspace {
            Some(root) => self.open_parts(call, root, sink, &mut room).await?,
            None => Vec::new(),
        };
        let mut lease = Lease::default();
        if access == WorkspaceAccess::ReadWrite {
            let made = Extent { bytes: 0, entries: before.entries.saturating_sub(room.extent.entries) };
            if made != Extent::default() {
                self.parts.quotas.added(call.owner, call.task, made);
            }
            lease = self.parts.quotas.lease(call.owner, call.task, &call.limits, room.extent);
            sink.bounded(room, lease.clone());
        }
        let (environment, pauses, cancel) = broker.for_run();
        // Set once: the sink was made for this run.
        let _ = sink.broker.set(broker);
        let run = Run {
            call: call.id,
            owner: call.owner,
            task: call.task,
            component: call.tool_digest,
            artifact,
            workspace,
            parts,
            grants: call.grants.clone(),
            limits: call.limits.clone(),
            lease,
            environment,
            pauses,
            arguments: call.arguments.clone(),
        };
        // The last look: what suspends a host ends the guests that it finds.
        if self.suspended.load(Ordering::SeqCst) || self.parts.cluster.is_late() {
            return Err(Fault::new(code::HOST_LOST, "the host lost its lease before the guest was started").retryable());
        }
        let ran = self.parts.sandbox.run(run, Arc::new(sink.clone()), cancel).await;
        steps::reach("call.ran");
        ran.map_err(|error| host_fault(&error, "the sandbox failed"))
    }

    /// Notes what a call added to its workspace, as far as it can be told; what
    /// that takes now.
    fn settle(&self, call: &Call, outcome: &Outcome, sink: &CallSink) -> Option<Extent> {
        if call.grants.reach().most() != WorkspaceAccess::ReadWrite {
            return None;
        }
        // What an interrupted call wrote is not known.
        let told = !matches!(outcome.ending, Ending::Interrupted { .. });
        let extent = self.parts.quotas.settle(call.owner, call.task, &sink.lease());
        if !told || sink.changes_lost() {
            self.parts.quotas.forget(call.task);
            return None;
        }
        extent
    }

    /// A call that was stopped because the host stops was interrupted, not
    /// cancelled: no client asked for it.
    fn judged(&self, call: &Call, outcome: Outcome) -> Outcome {
        let cancelled = matches!(outcome.ending, Ending::Cancelled { .. });
        let active = lock(&self.active);
        let (revoked, lost) = match active.get(&call.id) {
            Some(active) => (Some(active.revoked.clone()), active.lost),
            None => (None, false),
        };
        drop(active);
        if let Some(reason) = revoked.as_ref().and_then(|revoked| revoked.get()).filter(|_| cancelled) {
            let fault = Fault::new(code::GRANT_REVOKED, format!("the call was ended: {reason}"));
            return Outcome { ending: Ending::Cancelled { fault }, usage: outcome.usage };
        }
        let killed = cancelled || matches!(outcome.ending, Ending::Interrupted { .. });
        if lost && killed {
            let message =
                "the host lost its lease while the call ran, and stopped it before others could take the task over";
            let fault = Fault::new(code::HOST_LOST, message).retryable();
            return Outcome { ending: Ending::Interrupted { fault }, usage: outcome.usage };
        }
        let stopped = self.stop_now.is_cancelled() && cancelled;
        if !stopped {
            return outcome;
        }
        tracing::info!(call = %call.id, "interrupted by the stop of the host");
        let fault = Fault::new(code::HOST_STOPPED, "the host was stopped while the call ran").retryable();
        Outcome { ending: Ending::Interrupted { fault }, usage: outcome.usage }
    }

    /// Stores an end, trying again while the store refuses: a full disk or a
    /// busy database must not lose a result that is already there.
    pub(super) async fn end_surely(
        &self,
        call: &Call,
        outcome: Outcome,
        events: Vec<NewEvent>,
        extent: Option<Extent>,
    ) {
        let outcome = Arc::new(outcome);
        for attempt in 0_u64.. {
            match self.end(call, outcome.clone(), events.clone(), extent).await {
                Ok(()) => return,
                Err(StoreError::NotHeld(task)) => {
                    tracing::warn!(call = %call.id, %task, "another host holds the task now, and ends the call");
                    break;
                }
                Err(error) => {
                    if attempt.is_multiple_of(TOLD) {
                        let error = chain(&error);
                        tracing::error!(call = %call.id, attempt, error, "the end of a call could not be stored yet");
                    }
                    // For hours, if they pass: nothing else could be stored meanwhile, and
                    // a call whose end is not stored still has its lane.
                    if attempt >= if error.is_passing() { PATIENT } else { RETRIES.into() } {
                        break;
                    }
                }
            }
            if self.stop_now.is_cancelled() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        // Its end is known, and is lost here: whoever takes it up starts nothing.
        self.given_up.insert(call.id, None);
        lock(&self.active).remove(&call.id);
    }
}

/// The event that says how a call ended.
pub(super) fn ended_event(outcome: &Outcome) -> EventBody {
    let content = match &outcome.ending {
        Ending::Succeeded { content } => content.as_ref().filter(|content| size(content) <= INLINE_RESULT).cloned(),
        _ => None,
    };
    EventBody::CallEnded {
        state: outcome.ending.state().into(),
        content,
        fault: outcome.ending.fault().cloned(),
        usage: outcome.usage.clone(),
    }
}

fn size(content: &[Content]) -> usize {
    content.iter().map(Content::size).sum()
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
