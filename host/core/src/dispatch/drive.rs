//! One call, from its slot to its stored end.

use std::sync::Arc;
use std::time::Duration;

use super::sink::CallSink;
use super::{Inner, Slot, lock};
use crate::call::{Call, CallState};
use crate::event::{EventBody, NewEvent};
use crate::grants::WorkspaceAccess;
use crate::outcome::{Content, Ending, Fault, Outcome, code};
use crate::pause::Pauses;
use crate::ports::sandbox::Run;
use crate::quota::Extent;

/// A result up to this size is in the event itself; a larger one is read from the call.
const INLINE_RESULT: usize = 16 * 1024;
/// Between two tries to store an end that the store refused.
const RETRY: Duration = Duration::from_millis(200);
/// So many tries; then the call stays as it is and recovery ends it at the next start.
const RETRIES: u32 = 150;

impl Inner {
    /// Starts a call that waited, unless it was cancelled meanwhile.
    pub(super) async fn start_queued(self: Arc<Self>, call: Arc<Call>, slot: Slot) {
        let token = lock(&self.active).get(&call.id).map(|active| active.cancel.clone());
        // Not active any more: it was cancelled in the queue.
        let Some(token) = token else { return };
        if token.is_cancelled() {
            let fault = Fault::new(code::CANCELLED, "cancelled before it started");
            self.end_surely(&call, Outcome::without_use(Ending::Cancelled { fault }), Vec::new()).await;
            return;
        }
        let at = self.parts.ids.now();
        let body = EventBody::CallStarted { tool: call.tool_name.clone() };
        let events = vec![NewEvent::new(at, Some(call.id), &body)];
        match self.parts.store.start_call(call.task, call.id, at, events.clone()).await {
            Ok(Some(appended)) => {
                self.parts.hub.publish(call.task, appended, events);
                self.parts.meter.events_appended(1);
                let running =
                    Call { state: CallState::Running { since: at }, attempts: call.attempts + 1, ..(*call).clone() };
                self.drive(Arc::new(running), slot).await;
            }
            Ok(None) => {
                lock(&self.active).remove(&call.id);
            }
            Err(error) => {
                tracing::error!(call = %call.id, %error, "a queued call could not be started");
                let fault = Fault::new(code::HOST_ERROR, "the store failed when the call was to start").retryable();
                self.end_surely(&call, Outcome::without_use(Ending::Interrupted { fault }), Vec::new()).await;
            }
        }
    }

    /// Runs a call whose `running` is stored, and stores its end.
    pub(super) async fn drive(self: Arc<Self>, call: Arc<Call>, slot: Slot) {
        let sink = Arc::new(CallSink::new(self.clone(), call.clone()));
        let outcome = match self.run(&call, &sink).await {
            Ok(outcome) => outcome,
            Err(fault) => Outcome::without_use(Ending::Interrupted { fault }),
        };
        let outcome = self.judged(&call, outcome);
        let events = sink.finish().await;
        self.settle(&call, &outcome, &sink);
        self.end_surely(&call, outcome, events).await;
        drop(slot);
    }

    async fn run(&self, call: &Arc<Call>, sink: &Arc<CallSink>) -> Result<Outcome, Fault> {
        let host_fault = |error: &dyn std::error::Error, what: &str| {
            tracing::error!(call = %call.id, task = %call.task, error = %chain(error), "{what}");
            Fault::new(code::HOST_ERROR, format!("{what}; the server's log says why")).retryable()
        };
        let tool =
            self.tools.get(call.tool).await.map_err(|error| host_fault(&error, "the tool could not be loaded"))?;
        let workspace = match call.grants.workspace {
            WorkspaceAccess::None => None,
            WorkspaceAccess::Read | WorkspaceAccess::ReadWrite => {
                let opened = self.parts.workspaces.open(call.owner.tenant, call.task).await;
                Some(opened.map_err(|error| host_fault(&error, "the workspace could not be opened"))?)
            }
        };
        let room = match &workspace {
            Some(root) if call.grants.workspace == WorkspaceAccess::ReadWrite => {
                let room = self.parts.quotas.room(call.task, root, &call.limits).await;
                room.map_err(|error| host_fault(&error, "the workspace could not be measured"))?
            }
            _ => Extent::default(),
        };
        let cancel = lock(&self.active).get(&call.id).map(|active| active.cancel.clone()).unwrap_or_default();
        let run = Run {
            call: call.id,
            tenant: call.owner.tenant,
            task: call.task,
            component: call.tool_digest,
            artifact: tool.artifact.clone(),
            workspace,
            grants: call.grants.clone(),
            limits: call.limits.clone(),
            room,
            environment: Arc::default(),
            pauses: Pauses::default(),
            arguments: call.arguments.clone(),
        };
        let ran = self.parts.sandbox.run(run, Arc::new(sink.clone()), cancel).await;
        ran.map_err(|error| host_fault(&error, "the sandbox failed"))
    }

    /// Notes what a call added to its workspace, as far as it can be told.
    fn settle(&self, call: &Call, outcome: &Outcome, sink: &CallSink) {
        if call.grants.workspace != WorkspaceAccess::ReadWrite {
            return;
        }
        // What an interrupted call wrote is not known.
        let told = !matches!(outcome.ending, Ending::Interrupted { .. });
        match sink.created().filter(|_| told) {
            Some(entries) => {
                self.parts.quotas.added(call.task, Extent { bytes: outcome.usage.written_bytes, entries });
            }
            None => self.parts.quotas.forget(call.task),
        }
    }

    /// A call that was stopped because the host stops was interrupted, not
    /// cancelled: no client asked for it.
    fn judged(&self, call: &Call, outcome: Outcome) -> Outcome {
        let stopped = self.stop_now.is_cancelled() && matches!(outcome.ending, Ending::Cancelled { .. });
        if !stopped {
            return outcome;
        }
        tracing::info!(call = %call.id, "interrupted by the stop of the host");
        let fault = Fault::new(code::HOST_STOPPED, "the host was stopped while the call ran").retryable();
        Outcome { ending: Ending::Interrupted { fault }, usage: outcome.usage }
    }

    /// Stores an end, trying again while the store refuses: a full disk or a
    /// busy database must not lose a result that is already there.
    pub(super) async fn end_surely(&self, call: &Call, outcome: Outcome, events: Vec<NewEvent>) {
        for attempt in 0..RETRIES {
            match self.end(call, outcome.clone(), events.clone()).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(call = %call.id, attempt, error = %chain(&error), "the end of a call could not be stored");
                }
            }
            if self.stop_now.is_cancelled() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        lock(&self.active).remove(&call.id);
    }
}

/// The event that says how a call ended.
pub(super) fn ended_event(outcome: &Outcome) -> EventBody {
    let content = match &outcome.ending {
        Ending::Succeeded { content } if size(content) <= INLINE_RESULT => Some(content.clone()),
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
    content
        .iter()
        .map(|part| match part {
            Content::Text { text } => text.len(),
            Content::Json { json } => json.to_string().len(),
            Content::Blob { data, .. } => data.len(),
        })
        .sum()
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
