//! Recovery: what an earlier run of the host left behind.
//!
//! A call that was running has had its one attempt: it ends as `interrupted`.
//! A call that was queued goes back into its lane.

use std::sync::Arc;

use tokio::sync::watch;

use super::lanes::Claim;
use super::{Dispatcher, lock};
use crate::call::CallState;
use crate::error::Error;
use crate::event::NewEvent;
use crate::grants::WorkspaceAccess;
use crate::outcome::{Ending, Fault, Outcome, code};

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Calls that had been running.
    pub interrupted: u64,
    /// Calls that had been queued.
    pub requeued: u64,
}

impl Dispatcher {
    /// Takes over the calls of an earlier run. To be called once, before any
    /// client is served.
    ///
    /// # Errors
    /// If the store fails; then the host must not start.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        let mut recovered = Recovered::default();
        for call in self.inner.parts.store.open_calls().await? {
            if matches!(call.state, CallState::Queued) {
                recovered.requeued += 1;
                let call = Arc::new(call);
                let claim = Claim { task: call.task, owner: call.owner, access: call.grants.most_workspace() };
                self.inner.activate(&call, watch::Sender::new(None));
                lock(&self.inner.lanes).enqueue_stored(claim, call);
                continue;
            }
            recovered.interrupted += 1;
            let message = "the host stopped while the call ran; what it wrote into the workspace is still there";
            let fault = Fault::new(code::HOST_STOPPED, message).retryable();
            let events = self.changes_of(&call).await;
            self.inner.end(&call, Outcome::without_use(Ending::Interrupted { fault }), events, None).await?;
        }
        self.inner.pump();
        Ok(recovered)
    }

    /// What a lost call changed, as far as a walk can tell.
    async fn changes_of(&self, call: &crate::call::Call) -> Vec<NewEvent> {
        if call.grants.most_workspace() != WorkspaceAccess::ReadWrite {
            return Vec::new();
        }
        let sink = super::sink::CallSink::new(self.inner.clone(), Arc::new(call.clone()));
        let sink = Arc::new(sink);
        crate::ports::sandbox::Sink::emit(&sink, crate::ports::sandbox::Emission::ChangesLost).await;
        sink.finish().await
    }
}
