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

impl Inner {
    /// Whether the guest of a call may be started once more.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn may_start_again(&self, call: &Call) -> Result<bool, StoreError> {
        if call.attempts >= MAX_ATTEMPTS {
            return Ok(false);
        }
        // Its row and not the loaded tool: what can't be loaded is told by the call that needs it.
        let tool = self.parts.store.tool(None, call.tool).await?;
        let manifest = tool.and_then(|tool| match tool.state {
            ToolState::Ready { manifest, .. } => Some(manifest),
            ToolState::Compiling | ToolState::Rejected { .. } => None,
        });
        Ok(manifest.is_some_and(|manifest| manifest.idempotent))
    }

    /// Stores that a call waits again, with the events of the attempt that is over. `None`
    /// if it does not: it has ended, it is in another attempt, or its task takes no calls.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn requeue(
        &self,
        call: &Call,
        fault: Fault,
        mut events: Vec<NewEvent>,
    ) -> Result<Option<Arc<Call>>, StoreError> {
        let body = EventBody::CallRequeued { fault };
        events.push(NewEvent::new(self.parts.ids.now(), Some(call.id), &body));
        let step = Step::Requeue { attempt: call.attempts };
        steps::reach("call.requeueing");
        let Some(appended) = self.parts.store.step_call(call.task, call.id, step, events.clone()).await? else {
            return Ok(None);
        };
        steps::reach("call.requeued");
        self.parts.meter.events_appended(events.len() as u64);
        self.parts.meter.call_requeued();
        self.parts.hub.publish(call.owner.tenant, call.task, appended, events);
        Ok(Some(Arc::new(Call { state: CallState::Queued, ..call.clone() })))
    }

    /// Puts a call that is stored as queued into its lane. Who waits for it goes on waiting.
    pub(super) fn enqueue_stored(&self, call: Arc<Call>) {
        let claim = Claim { task: call.task, owner: call.owner, access: call.grants.most_workspace() };
        let mut active = lock(&self.active);
        let before = active.remove(&call.id).map(|before| (before.done, before.unwanted));
        let (done, unwanted) = before.unwrap_or_else(|| (watch::Sender::new(None), false));
        done.send_replace(None);
        let again = Active::new(call.clone(), self.stop_now.child_token(), done);
        if unwanted {
            // Asked to end in between: then it ends when its turn comes.
            again.cancel.cancel();
        }
        active.insert(call.id, again);
        drop(active);
        lock(&self.lanes).enqueue_stored(claim, call);
    }

    /// The fault, if this host stopped the guest of a call for its own sake, and no client wants its end.
    pub(super) fn stopped_for_us<'a>(&self, call: &Call, outcome: &'a Outcome) -> Option<&'a Fault> {
        let Ending::Interrupted { fault } = &outcome.ending else { return None };
        let ours = matches!(&*fault.code, code::HOST_STOPPED | code::HOST_LOST);
        let unwanted = || lock(&self.active).get(&call.id).is_none_or(|active| active.unwanted);
        (ours && !unwanted()).then_some(fault)
    }

    /// Puts such a call back into its lane, if it may start again; false if it must end.
    /// The store is asked as often as for an end.
    pub(super) async fn starts_again(&self, call: &Call, fault: &Fault, events: &[NewEvent]) -> bool {
        for _ in 0..RETRIES {
            let again = match self.may_start_again(call).await {
                Ok(true) => self.requeue(call, fault.clone(), events.to_vec()).await,
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match again {
                Ok(Some(queued)) => {
                    tracing::info!(call = %call.id, code = &*fault.code, "goes back into its lane: its tool is idempotent");
                    self.enqueue_stored(queued);
                    return true;
                }
                Ok(None) | Err(StoreError::NotHeld(_)) => return false,
                Err(error) => {
                    tracing::debug!(call = %call.id, error = %chain(&error), "another attempt could not be stored yet");
                }
            }
            if self.stop_now.is_cancelled() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        false
    }
}
