//! Dispatch: the only caller of the sandbox. Takes accepted calls, gives them
//! slots, runs them, makes events of what they send, and stores how they end.
//!
//! Order is the point: a call is acknowledged only once stored, its guest
//! starts only once `running` is stored, subscribers see an event only once
//! stored. Completion, timeout, cancel and recovery race through one
//! compare-and-set in the store.

mod again;
mod drive;
mod egress;
mod exchange;
mod granting;
mod lanes;
mod pace;
mod parts;
mod questions;
mod recovery;
mod sink;
mod submit;
mod tools;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use drive::chain;
pub use granting::{GRANTS_LOOKED_AT, MAX_GRANTS};
pub use lanes::LaneLimits;
pub use questions::{Answer, Question};
pub use recovery::Recovered;
pub use submit::{Asked, Submission, Submitted, Waiter};
pub use tools::LoadedTool;

use self::lanes::{Claim, Lanes};
use self::pace::Pace;
use self::questions::Questions;
use self::submit::Done;
use self::tools::LoadedTools;
use crate::access::Access;
use crate::audit::{AuditBody, CancelledBy, NewAudit};
use crate::call::{Call, CallState};
use crate::clock::{Ids, Timestamp};
use crate::error::Error;
use crate::event::NewEvent;
use crate::hub::Hub;
use crate::id::{CallId, GrantId, QuestionId, TaskId, TenantId, ToolId};
use crate::outcome::{Ending, Fault, Outcome, code};
use crate::policy::Policies;
use crate::ports::cluster::Cluster;
use crate::ports::components::Components;
use crate::ports::egress::Egress;
use crate::ports::meter::Meter;
use crate::ports::sandbox::Sandbox;
use crate::ports::store::{EndCall, Store};
use crate::ports::workspace::{FileId, Workspaces};
use crate::quota::{Extent, Quotas};
use crate::steps;

/// Between two looks whether a call on its way into the store has arrived.
const ACCEPTING: Duration = Duration::from_millis(10);

/// Between two looks for calls that wait and can be given to other hosts.
const HAND_OVER_EVERY: Duration = Duration::from_millis(100);

/// Calls that are remembered not to start again; of more the oldest are forgotten.
const GIVEN_UP: u64 = 10_000;

/// Everything that dispatch works with.
#[derive(Clone)]
pub struct DispatchParts {
    /// Where calls and events are stored.
    pub store: Arc<dyn Store>,
    /// Which of them are this host's.
    pub cluster: Arc<dyn Cluster>,
    /// What runs them.
    pub sandbox: Arc<dyn Sandbox>,
    /// Their workspaces.
    pub workspaces: Arc<dyn Workspaces>,
    /// What those may take.
    pub quotas: Arc<Quotas>,
    /// The bytes of components.
    pub components: Arc<dyn Components>,
    /// Who tells subscribers.
    pub hub: Arc<Hub>,
    /// Time and ids.
    pub ids: Arc<dyn Ids>,
    /// Metrics.
    pub meter: Arc<dyn Meter>,
    /// The network, for guests.
    pub egress: Arc<dyn Egress>,
    /// What they may do with it, and with all else.
    pub policies: Arc<Policies>,
    /// What tasks allow.
    pub access: Arc<Access>,
}

/// How dispatch behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchConfig {
    /// How many may run and wait.
    pub lanes: LaneLimits,
    /// How long output is collected before it is stored: one commit for many
    /// small writes.
    pub coalesce: Duration,
    /// How many bytes are collected at most.
    pub coalesce_bytes: usize,
    /// How long running calls may go on once the host is stopping.
    pub drain: Duration,
}

/// The dispatcher.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    parts: DispatchParts,
    config: DispatchConfig,
    tools: LoadedTools,
    lanes: Mutex<Lanes<Arc<Call>>>,
    active: Mutex<HashMap<CallId, Active>>,
    /// Calls on their way into the store: they may be there already, and are no strays. With
    /// their task, if whoever waits for its calls waits for them.
    accepting: Mutex<HashMap<CallId, Option<TaskId>>>,
    /// Calls that are not known here and must not start again: a client asked for their end,
    /// or it could not be stored.
    given_up: Cache<CallId, Option<CancelledBy>>,
    /// One takes up calls that nobody runs.
    taking_up: tokio::sync::Mutex<()>,
    questions: Questions,
    pace: Pace,
    tracker: TaskTracker,
    /// Once set, no call is accepted and none leaves the queue.
    stopping: AtomicBool,
    /// The same while this host has lost its lease.
    suspended: AtomicBool,
    /// Ends running calls when the drain is over.
    stop_now: CancellationToken,
}

/// A call that is queued or runs in this process.
struct Active {
    call: Arc<Call>,
    cancel: CancellationToken,
    done: Done,
    /// The owner's grants that it stands on.
    holds: Vec<GrantId>,
    /// Whether it was stopped because this host lost its lease.
    lost: bool,
    /// Whether a client asked for its end: then it starts no second time.
    unwanted: bool,
    /// Who did first, if not whoever deletes its task.
    cancelled_by: Option<CancelledBy>,
    /// Why it ends, if less is granted now.
    revoked: Arc<OnceLock<String>>,
    /// The directory of its task, once it is opened for its guest.
    workspace: Option<FileId>,
}

impl Active {
    fn new(call: Arc<Call>, cancel: CancellationToken, done: Done) -> Self {
        let revoked = Arc::default();
        Self {
            call,
            cancel,
            done,
            holds: Vec::new(),
            lost: false,
            unwanted: false,
            cancelled_by: None,
            revoked,
            workspace: None,
        }
    }

    /// Notes that a client wants its end; what ends it, and whether it still waits for its turn.
    fn give_up(&mut self, by: Option<&CancelledBy>) -> (CancellationToken, bool) {
        if !self.unwanted {
            self.cancelled_by = by.cloned();
        }
        self.unwanted = true;
        (self.cancel.clone(), matches!(self.call.state, CallState::Queued))
    }
}

/// A slot of the lanes; given back on drop, which starts who waits.
struct Slot {
    inner: Arc<Inner>,
    claim: Claim,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.inner.lanes).release(self.claim);
        self.inner.pump();
    }
}

impl Dispatcher {
    /// A dispatcher without calls; [`Dispatcher::recover`] fetches those of an earlier run.
    pub fn new(parts: DispatchParts, config: DispatchConfig) -> Self {
        let (tracker, stop_now) = (TaskTracker::new(), CancellationToken::new());
        let ports = (parts.store.clone(), parts.components.clone(), parts.sandbox.clone());
        let inner = Inner {
            tools: LoadedTools::new(ports, tracker.clone(), stop_now.clone()),
            lanes: Mutex::new(Lanes::new(config.lanes)),
            active: Mutex::default(),
            accepting: Mutex::default(),
            given_up: Cache::new(GIVEN_UP),
            taking_up: tokio::sync::Mutex::default(),
            questions: Questions::default(),
            pace: Pace::default(),
            tracker,
            stopping: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            stop_now,
            parts,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// A tool that is about to be called.
    ///
    /// # Errors
    /// If it is not ready, or its artefact can't be made, as far as that is known at once.
    pub async fn tool(&self, id: ToolId) -> Result<Arc<LoadedTool>, Error> {
        self.inner.tools.ready(id).await
    }

    /// What a tool says of itself.
    ///
    /// # Errors
    /// If it is not ready.
    pub async fn known_tool(&self, id: ToolId) -> Result<Arc<LoadedTool>, Error> {
        self.inner.tools.get(id).await
    }

    /// Asks a call to end, for somebody. True if it is queued or runs here.
    pub async fn cancel(&self, call: &Call, by: &CancelledBy) -> Result<bool, Error> {
        let given_up = lock(&self.inner.active).get_mut(&call.id).map(|active| active.give_up(Some(by)));
        let Some((token, queued)) = given_up else {
            // Another host ran it, or it is about to be taken up here.
            self.inner.given_up.insert(call.id, Some(by.clone()));
            return Ok(false);
        };
        token.cancel();
        // A queued call has no guest to stop: it ends here and now.
        let fault = Fault::new(code::CANCELLED, "cancelled by a client before it started");
        if queued || matches!(call.state, CallState::Queued) {
            self.inner.end_if_queued(call, Ending::Cancelled { fault }).await?;
        }
        Ok(true)
    }

    /// Cancels every call of a task and waits until they have ended.
    pub async fn cancel_task(&self, task: TaskId) {
        loop {
            // In this order: a call leaves the one after it has come into the other.
            let accepting = lock(&self.inner.accepting).values().any(|of| *of == Some(task));
            let waiting: Vec<_> = lock(&self.inner.active)
                .values_mut()
                .filter(|active| active.call.task == task)
                .map(|active| (active.give_up(None).0, active.done.subscribe()))
                .collect();
            if waiting.is_empty() && !accepting {
                return;
            }
            for (cancel, mut done) in waiting {
                cancel.cancel();
                self.inner.pump();
                let _ = done.wait_for(submit::is_ended).await;
            }
            if accepting {
                // It takes as long as the store does.
                tokio::time::sleep(ACCEPTING).await;
            }
        }
    }

    /// Waits until a task that takes no more calls has none that goes on.
    pub async fn idle(&self, task: TaskId) {
        loop {
            // In this order: a call leaves the one after it has come into the other.
            let accepting = lock(&self.inner.accepting).values().any(|of| *of == Some(task));
            let open: Vec<_> = lock(&self.inner.active)
                .values()
                .filter(|active| active.call.task == task)
                .map(|active| active.done.subscribe())
                .collect();
            if open.is_empty() && !accepting {
                return;
            }
            for mut done in open {
                let _ = done.wait_for(submit::is_ended).await;
            }
            if accepting {
                // It takes as long as the store does.
                tokio::time::sleep(ACCEPTING).await;
            }
        }
    }

    /// The tasks that have calls here.
    pub fn active_tasks(&self) -> Vec<TaskId> {
        lock(&self.inner.active).values().map(|active| active.call.task).collect()
    }

    /// Lets a client wait for the end of a call, if it is in this process.
    pub fn waiter(&self, call: CallId) -> Option<Waiter> {
        lock(&self.inner.active).get(&call).map(|active| Waiter { done: active.done.subscribe() })
    }

    /// The question that a call waits for the answer to.
    pub fn question(&self, call: CallId) -> Option<Question> {
        self.inner.questions.of(call)
    }

    /// Answers a question. False if it is not open: it was answered, or its time is up.
    pub fn answer(&self, call: CallId, question: QuestionId, answer: Answer) -> bool {
        // Before the call goes on: taking the grant back from now on ends it.
        if let (Some(grant), Some(active)) = (answer.grant, lock(&self.inner.active).get_mut(&call)) {
            active.holds.push(grant);
        }
        self.inner.questions.answer(call, question, answer)
    }

    /// How many calls run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        lock(&self.inner.lanes).load()
    }

    /// Forgets what is cached of a task in the sandbox.
    pub async fn forget_task(&self, tenant: TenantId, task: TaskId) {
        self.inner.parts.sandbox.forget(tenant, task).await;
    }

    /// Accepts nothing more, lets running calls end for a while, then ends
    /// them, and waits until their ends are stored. Queued calls stay queued: for
    /// other hosts that reach their workspaces at once, else for the next start.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.inner.tracker.close();
        let drained = async {
            tokio::select! {
                () = self.inner.tracker.wait() => {}
                () = self.keep_handing_over() => {}
            }
        };
        if tokio::time::timeout(self.inner.config.drain, drained).await.is_err() {
            self.inner.stop_now.cancel();
            self.inner.tracker.wait().await;
        }
        // What waited for those that ended last.
        if self.inner.parts.cluster.is_shared() {
            self.hand_over().await;
        }
        lock(&self.inner.active).clear();
    }
}

impl Dispatcher {
    async fn keep_handing_over(&self) {
        if !self.inner.parts.cluster.is_shared() {
            return std::future::pending().await;
        }
        loop {
            self.hand_over().await;
            tokio::time::sleep(HAND_OVER_EVERY).await;
        }
    }
}

impl Inner {
    fn activate(&self, call: &Arc<Call>, done: Done) {
        lock(&self.active).insert(call.id, Active::new(call.clone(), self.stop_now.child_token(), done));
    }

    /// Starts every waiting call that may run now.
    fn pump(self: &Arc<Self>) {
        while !self.stopping.load(Ordering::SeqCst) && !self.suspended.load(Ordering::SeqCst) {
            let Some((claim, call)) = lock(&self.lanes).next() else { return };
            let slot = Slot { inner: self.clone(), claim };
            let inner = self.clone();
            self.tracker.spawn(async move { inner.start_queued(call, slot).await });
        }
    }

    async fn end_if_queued(&self, call: &Call, ending: Ending) -> Result<(), Error> {
        let current = self.parts.store.call(call.owner, call.id).await?;
        if !current.is_some_and(|call| matches!(call.state, CallState::Queued)) {
            return Ok(());
        }
        self.end(call, Arc::new(Outcome::without_use(ending)), Vec::new(), None).await.map_err(Error::from)
    }

    /// What the audit log says of the end of a call.
    async fn record_of_end(&self, call: &Call, outcome: &Outcome, at: Timestamp) -> NewAudit {
        // Mostly from memory. If it can't be had, the record names all limits: a call must end.
        let task = self.parts.access.frozen(call.owner, call.task).await.ok();
        let here = lock(&self.active).get(&call.id).map(|active| (active.workspace, active.cancelled_by.clone()));
        let (workspace, asked) = here.unwrap_or_else(|| (None, self.given_up.get(&call.id).flatten()));
        let body = AuditBody::call_ended(call, outcome, task.as_ref().map(|task| &task.limits), workspace, asked);
        NewAudit::new(at, call.owner, call.task, call.id, &body).by(&call.by)
    }

    /// Stores the end of a call, unless it has one; tells who waits.
    async fn end(
        &self,
        call: &Call,
        outcome: Arc<Outcome>,
        mut events: Vec<NewEvent>,
        extent: Option<Extent>,
    ) -> Result<(), crate::ports::store::StoreError> {
        let at = self.parts.ids.now();
        events.push(NewEvent::new(at, Some(call.id), &drive::ended_event(&outcome)));
        let end = EndCall {
            task: call.task,
            call: call.id,
            at,
            outcome: outcome.clone(),
            events: events.clone(),
            extent,
            audit: self.record_of_end(call, &outcome, at).await,
        };
        steps::reach("call.ending");
        let won = self.parts.store.end_call(end).await?;
        steps::reach("call.ended");
        self.pace.note(call.owner.user);
        let active = lock(&self.active).remove(&call.id);
        self.given_up.invalidate(&call.id);
        let ended = match won {
            Some(appended) => {
                self.parts.meter.events_appended(events.len() as u64);
                self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
                self.parts.meter.call_ended(outcome.ending.state(), &outcome.usage);
                let state = CallState::Ended { since: call.state.since(), at, outcome };
                Some(Call { state, ..call.clone() })
            }
            // Somebody else was first: what is stored is what counts.
            None => self.parts.store.call(call.owner, call.id).await?,
        };
        if let (Some(active), Some(call)) = (active, ended) {
            active.done.send_replace(Some(Arc::new(call)));
        }
        Ok(())
    }
}

/// No code panics while it holds one of these locks; if one did, the data
/// would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
