//! Accepting a call: a place in the lanes, the first commit, and who waits.
//!
//! One task of the dispatcher accepts the call and, if a slot is free, drives
//! it to its end. The client only listens: it may go away at any time, and one
//! that waits for the end is woken once, by the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::lanes::{Admission, Claim};
use super::{Dispatcher, Inner, Slot, lock};
use crate::access::not_ready;
use crate::call::{Call, CallState};
use crate::error::Error;
use crate::event::{EventBody, NewEvent};
use crate::id::{CallId, TaskId};
use crate::outcome::{Ending, Fault, Outcome, code};
use crate::ports::store::{AcceptCall, Accepted, Idempotency, StoreError};
use crate::steps;

/// After this time nothing arrives any more of what was on its way to the store:
/// longer than a store's own limits on time.
const LATE: Duration = Duration::from_secs(10);

/// The ended call, or one that waits for an answer; nothing while it goes on.
pub(super) type Done = watch::Sender<Option<Arc<Call>>>;

/// Lets a client wait for the end of a call. Dropping it cancels nothing.
pub struct Waiter {
    pub(super) done: watch::Receiver<Option<Arc<Call>>>,
}

impl Waiter {
    /// The ended call; `None` if it will not end here: it was never accepted,
    /// or the host stops before.
    pub async fn ended(&mut self) -> Option<Arc<Call>> {
        self.done.wait_for(is_ended).await.ok().and_then(|call| call.clone())
    }

    /// The call once it has ended, or waits for its owner's answer.
    pub async fn settled(&mut self) -> Option<Arc<Call>> {
        self.done.wait_for(Option::is_some).await.ok().and_then(|call| call.clone())
    }
}

pub(super) fn is_ended(call: &Option<Arc<Call>>) -> bool {
    call.as_ref().is_some_and(|call| call.state.is_ended())
}

/// What became of a submitted call.
pub struct Submitted {
    /// The call: new, or the one that the idempotency key stands for.
    pub id: CallId,
    /// The call as it was stored; absent for a replay.
    pub call: Option<Arc<Call>>,
    /// Its end can be waited for; absent if it is not in this process.
    pub waiter: Option<Waiter>,
}

/// A call on its way in. It is accepted whether or not anybody listens.
pub struct Submission {
    waiter: Waiter,
    accepted: oneshot::Receiver<Result<Submitted, Error>>,
}

impl Submission {
    /// The ended call. `None` if it is not this call that is waited for: then
    /// [`Submission::accepted`] says what became of it.
    pub async fn ended(&mut self) -> Option<Arc<Call>> {
        self.waiter.ended().await
    }

    /// The same, but not later than when the call waits for its owner's answer.
    pub async fn settled(&mut self) -> Option<Arc<Call>> {
        self.waiter.settled().await
    }

    /// Waits until the call is stored.
    ///
    /// # Errors
    /// If a queue is full, the task takes no calls, or the store fails.
    pub async fn accepted(self) -> Result<Submitted, Error> {
        self.accepted.await.unwrap_or(Err(Error::Stopping))
    }
}

/// How a call was asked for.
pub struct Asked {
    /// The client's idempotency key.
    pub idempotency: Option<Idempotency>,
    /// Whether the client narrowed the limits of its task.
    pub own_limits: bool,
}

/// A call on its way into the store, until it is known here or was refused; or, if that is
/// not known, until it has ended in case it is there. Nobody takes it up meanwhile.
struct Accepting {
    inner: Arc<Inner>,
    call: CallId,
}

impl Accepting {
    fn begin(inner: &Arc<Inner>, task: TaskId, call: CallId) -> Self {
        lock(&inner.accepting).insert(call, Some(task));
        Self { inner: inner.clone(), call }
    }

    /// Lets nobody wait for it who waits for the calls of its task.
    fn hides(&self) {
        lock(&self.inner.accepting).insert(self.call, None);
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        lock(&self.inner.accepting).remove(&self.call);
    }
}

/// A call that has a slot and may start.
type Start = Option<(Arc<Call>, Slot)>;

impl Dispatcher {
    /// Stores a call and starts or queues it. `call.state` is set here.
    pub fn submit(&self, call: Call, asked: Asked) -> Submission {
        let (done, waiter) = watch::channel(None);
        let (reply, accepted) = oneshot::channel();
        let inner = self.inner.clone();
        // Once a slot or place is taken it must be used or given back, even if
        // the client goes away in the middle: so this runs on its own.
        self.inner.tracker.spawn(async move {
            let (submitted, start) = match inner.accept(call, asked, done).await {
                Ok((submitted, start)) => (Ok(submitted), start),
                Err(error) => (Err(error), None),
            };
            // If nobody listens, the call runs all the same.
            let _ = reply.send(submitted);
            if let Some((call, slot)) = start {
                inner.drive(call, slot).await;
            }
        });
        Submission { waiter: Waiter { done: waiter }, accepted }
    }
}

impl Inner {
    async fn accept(
        self: &Arc<Self>,
        mut call: Call,
        Asked { idempotency, own_limits }: Asked,
        done: Done,
    ) -> Result<(Submitted, Start), Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        if self.suspended.load(Ordering::SeqCst) {
            return Err(
                StoreError::Unavailable("this host has lost its lease; it goes on when it is renewed".into()).into()
            );
        }
        let claim = Claim { task: call.task, owner: call.owner, access: call.grants.most_workspace() };
        let slot = self.place(claim)?;
        let at = call.created_at;
        let tool = call.tool_name.clone();
        let event = if slot.is_some() {
            call.state = CallState::Running { since: at };
            call.attempts = 1;
            EventBody::CallStarted { tool }
        } else {
            call.state = CallState::Queued;
            EventBody::CallQueued { tool }
        };
        let events = vec![NewEvent::new(at, Some(call.id), &event)];
        let call = Arc::new(call);
        let accepting = Accepting::begin(self, call.task, call.id);
        let accept = AcceptCall { call: call.clone(), idempotency, own_limits, events: events.clone() };
        steps::reach("call.accepting");
        let accepted = self.parts.store.accept_call(accept).await;
        steps::reach("call.accepted");
        if slot.is_none() && !matches!(accepted, Ok(Accepted::New(_))) {
            lock(&self.lanes).forsake(claim);
        }
        if matches!(accepted, Err(StoreError::Unsure(_))) {
            self.end_if_stored(call.clone(), accepting);
        }
        match accepted? {
            Accepted::New(appended) => {
                self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
                self.parts.meter.call_accepted(slot.is_none());
                self.parts.meter.events_appended(1);
                Ok(self.admitted(call, claim, slot, done))
            }
            Accepted::Replayed(id) => {
                let waiter = lock(&self.active).get(&id).map(|active| Waiter { done: active.done.subscribe() });
                Ok((Submitted { id, call: None, waiter }, None))
            }
            Accepted::KeyReused => Err(Error::IdempotencyKeyReused),
            Accepted::TaskNotReady(state) => {
                Err(not_ready(&call.task, state).unwrap_or_else(|| Error::not_found("task", call.task)))
            }
        }
    }

    /// Ends a call that nobody runs, should it be stored: its acceptance was not
    /// answered, so the client was told nothing but that. What was on its way to the
    /// store then may arrive a little later, so there is a second look.
    fn end_if_stored(self: &Arc<Self>, call: Arc<Call>, accepting: Accepting) {
        let inner = self.clone();
        self.tracker.spawn(async move {
            // It must not be taken up as one that waits, and run, before its end is stored.
            accepting.hides();
            let message = "the store did not answer when the call was accepted; it was never started";
            let outcome =
                Outcome::without_use(Ending::Interrupted { fault: Fault::new(code::HOST_ERROR, message).retryable() });
            inner.end_surely(&call, outcome.clone(), Vec::new(), None).await;
            if inner.stop_now.run_until_cancelled(tokio::time::sleep(LATE)).await.is_some() {
                inner.end_surely(&call, outcome, Vec::new(), None).await;
            }
            drop(accepting);
        });
    }

    /// A slot, or none and a reserved place in the queue.
    fn place(self: &Arc<Self>, claim: Claim) -> Result<Option<Slot>, Error> {
        let admission = lock(&self.lanes).admit(claim);
        match admission {
            Admission::Slot => Ok(Some(Slot { inner: self.clone(), claim })),
            Admission::Queue => Ok(None),
            Admission::Refused(full) => {
                self.parts.meter.call_refused();
                Err(Error::Busy { what: full.to_string(), retry_after_s: 1 })
            }
        }
    }

    fn admitted(self: &Arc<Self>, call: Arc<Call>, claim: Claim, slot: Option<Slot>, done: Done) -> (Submitted, Start) {
        let waiter = Waiter { done: done.subscribe() };
        self.activate(&call, done);
        let submitted = Submitted { id: call.id, call: Some(call.clone()), waiter: Some(waiter) };
        let start = slot.map(|slot| (call.clone(), slot));
        if start.is_none() {
            lock(&self.lanes).enqueue(claim, call);
            self.pump();
        }
        (submitted, start)
    }
}
