//! Another attempt: a call whose guest ended because its host did goes back into its
//! lane, if its tool is declared idempotent. Once: a call that brings hosts down must
//! not bring all of them down.

use std::sync::Arc;

use tokio::sync::watch;

use super::drive::{RETRIES, RETRY, chain};
use super::lanes::Claim;
use super::{Active, Inner, lock};
use crate::call::{Call, CallState, MAX_ATTEMPTS, Step};
use crate::event::{EventBody, NewEvent};
use crate::outcome::{Ending, Fault, Outcome, code};
use crate::ports::store::StoreError;
use crate::steps;
use crate::tool::ToolState;

/// What becomes of a call that may start again.
pub(super) enum Again {
    /// It waits for its turn.
    Queued(Arc<Call>),
    /// It is over, and must have its end.
    Never,
}

impl Inner {
    /// Whether the guest of a call may be started once more.
    ///
    /// # Errors
    /// If the store fails.
    async fn may_start_again(&self, call: &Call) -> Result<bool, StoreError> {
        if call.attempts >= MAX_ATTEMPTS || self.given_up.contains_key(&call.id) {
            return Ok(false);
        }
        // Its row and not the loaded tool: what can't be loaded is told by the call that needs it.
        let tool = match self.parts.store.tool(None, call.tool).await {
            // No reason not to start the host.
            Err(StoreError::Corrupt { .. }) => None,
            tool => tool?,
        };
        let manifest = tool.and_then(|tool| match tool.state {
            ToolState::Ready { manifest, .. } => Some(manifest),
            ToolState::Compiling | ToolState::Rejected { .. } => None,
        });
        Ok(manifest.is_some_and(|manifest| manifest.idempotent))
    }

    /// Stores that a call waits again, if it may, with the events of the attempt that is over.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn requeue(
        &self,
        call: &Call,
        fault: &Fault,
        mut events: Vec<NewEvent>,
    ) -> Result<Again, StoreError> {
        if !self.may_start_again(call).await? {
            return Ok(Again::Never);
        }
        let body = EventBody::CallRequeued { fault: fault.clone() };
        events.push(NewEvent::new(self.parts.ids.now(), Some(call.id), &body));
        steps::reach("call.requeueing");
        let stepped =
            self.parts.store.step_call(call.task, call.id, call.attempts, Step::Requeue, events.clone()).await?;
        steps::reach("call.requeued");
        if let Some(appended) = stepped {
            self.parts.meter.events_appended(events.len() as u64);
            self.parts.meter.call_requeued();
            self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
            return Ok(Again::Queued(Arc::new(Call { state: CallState::Queued, ..call.clone() })));
        }
        // It has ended, its task takes no calls, or it was done before and the answer was lost.
        let now = self.parts.store.call(call.owner, call.id).await?;
        let done = |now: &Call| matches!(now.state, CallState::Queued) && now.attempts == call.attempts;
        Ok(now.filter(done).map_or(Again::Never, |now| Again::Queued(Arc::new(now))))
    }

    /// Puts a call that is stored as queued into its lane. Who waits for it here goes on waiting.
    pub(super) fn enqueue_again(&self, call: Arc<Call>) {
        let claim = Claim { task: call.task, owner: call.owner, access: call.grants.most_workspace() };
        let mut active = lock(&self.active);
        let before = active.remove(&call.id).map(|before| (before.done, before.unwanted, before.cancelled_by));
        let (done, unwanted, by) = before.unwrap_or_else(|| (watch::Sender::new(None), false, None));
        done.send_replace(None);
        let mut again = Active::new(call.clone(), self.stop_now.child_token(), done);
        if unwanted {
            again.give_up(by.as_ref());
            // Asked to end in between: then it ends when its turn comes.
            again.cancel.cancel();
        }
        active.insert(call.id, again);
        drop(active);
        lock(&self.lanes).enqueue_stored(claim, call);
    }

    /// The fault, if this host stopped the guest of a call for its own sake, and nobody wants its end.
    pub(super) fn stopped_for_us<'a>(&self, call: &Call, outcome: &'a Outcome) -> Option<&'a Fault> {
        let Ending::Interrupted { fault } = &outcome.ending else { return None };
        let ours = matches!(&*fault.code, code::HOST_STOPPED | code::HOST_LOST);
        let wanted = |active: &Active| !active.unwanted && active.revoked.get().is_none();
        let wanted = || lock(&self.active).get(&call.id).is_some_and(wanted);
        (ours && wanted()).then_some(fault)
    }

    /// Puts such a call back into its lane, if it may start again; false if it must end.
    /// `call` is as it was before anything was granted for asking. If the store does not
    /// answer, the call stays as it is, and recovery takes it up.
    pub(super) async fn start_again(&self, call: &Call, fault: &Fault, events: &[NewEvent]) -> bool {
        for _ in 0..RETRIES {
            match self.requeue(call, fault, events.to_vec()).await {
                Ok(Again::Queued(queued)) => {
                    tracing::info!(call = %call.id, code = &*fault.code, "goes back into its lane: its tool is idempotent");
                    self.enqueue_again(queued);
                    return true;
                }
                Ok(Again::Never) | Err(StoreError::NotHeld(_)) => return false,
                Err(error) => {
                    tracing::debug!(call = %call.id, error = %chain(&error), "another attempt could not be stored yet");
                }
            }
            if self.stop_now.is_cancelled() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        tracing::error!(call = %call.id, "another attempt could not be stored; recovery makes it");
        lock(&self.active).remove(&call.id);
        true
    }
}
