//! Recovery: what an earlier run of the host left behind, or another host that is
//! gone, or this one when it was cut off.
//!
//! A call that was queued goes back into its lane, if its workspace is here, and so does
//! one that was running, if its tool is idempotent and this was its first attempt. Any
//! other that was running ends as `interrupted`.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::again::Again;
use super::{Dispatcher, Inner, chain, lock};
use crate::call::{Call, CallState};
use crate::error::Error;
use crate::event::NewEvent;
use crate::grants::WorkspaceAccess;
use crate::id::{CallId, TaskId};
use crate::outcome::{Ending, Fault, Outcome, code};
use crate::ports::cluster::Orphan;
use crate::steps;

/// Tasks whose calls are taken over at once.
const BATCH: u32 = 100;

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Calls that had been running.
    pub interrupted: u64,
    /// Calls that had been queued, or get another attempt.
    pub requeued: u64,
}

impl AddAssign for Recovered {
    fn add_assign(&mut self, other: Self) {
        self.interrupted += other.interrupted;
        self.requeued += other.requeued;
    }
}

impl Dispatcher {
    /// Takes over the calls of an earlier run. To be called before any client is
    /// served, and when a lease that was lost is held again.
    ///
    /// # Errors
    /// If the store fails; then the host must not start.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        let mut recovered = self.take_over().await?;
        for orphan in self.inner.parts.cluster.held_calls().await? {
            recovered += self.inner.take_up(orphan).await?;
        }
        self.inner.pump();
        Ok(recovered)
    }

    /// Takes over the calls that nobody holds who lives.
    ///
    /// # Errors
    /// If the store fails; what is left then is taken by a later look.
    pub async fn take_over(&self) -> Result<Recovered, Error> {
        let mut recovered = Recovered::default();
        loop {
            let orphans = self.inner.parts.cluster.take_over(BATCH).await?;
            if orphans.is_empty() {
                self.inner.pump();
                return Ok(recovered);
            }
            steps::reach("calls.taken");
            for orphan in orphans {
                recovered += self.inner.take_up(orphan).await?;
            }
        }
    }

    /// Takes up calls that this host holds and does not run: their end, or their
    /// taking over, could not be stored. Only those that were `seen` so before, for a
    /// call is stored shortly before it is known here.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn take_up_strays(&self, seen: &mut HashSet<CallId>) -> Result<Recovered, Error> {
        let mut recovered = Recovered::default();
        let mut strays = HashSet::new();
        for orphan in self.inner.parts.cluster.held_calls().await? {
            if self.inner.is_active(orphan.call.id) {
                continue;
            }
            if seen.contains(&orphan.call.id) {
                recovered += self.inner.take_up(orphan).await?;
            } else {
                strays.insert(orphan.call.id);
            }
        }
        *seen = strays;
        self.inner.pump();
        Ok(recovered)
    }

    /// Stops what runs, and starts nothing: this host has lost its lease. What is
    /// queued stays so.
    pub fn suspend(&self) {
        self.inner.suspended.store(true, Ordering::SeqCst);
        let mut active = lock(&self.inner.active);
        for running in active.values_mut().filter(|active| !matches!(active.call.state, CallState::Queued)) {
            running.lost = true;
            running.cancel.cancel();
        }
        // Not asked and waited for: others may soon have the workspaces.
        self.inner.parts.sandbox.kill_guests();
    }

    /// Gives calls that wait to other hosts that reach their workspaces: this one
    /// starts none any more. Those of tasks in which others run wait for their end.
    pub(super) async fn hand_over(&self) {
        // Out of the lanes first: nobody starts them meanwhile.
        let withdrawn = lock(&self.inner.lanes).withdraw();
        let mut waiting: HashMap<TaskId, Vec<_>> = HashMap::new();
        for (claim, call) in withdrawn {
            waiting.entry(claim.task).or_default().push((claim, call));
        }
        if waiting.is_empty() {
            return;
        }
        let mut open: HashMap<TaskId, usize> = HashMap::new();
        for active in lock(&self.inner.active).values() {
            *open.entry(active.call.task).or_default() += 1;
        }
        // All that is open of a task waits: none is being started, and none runs without a workspace.
        let tasks = waiting.iter().filter(|(task, calls)| open.get(task) == Some(&calls.len()));
        let tasks: Vec<_> = tasks.map(|(task, _)| *task).collect();
        let gone = match self.inner.parts.cluster.let_go(&tasks).await {
            Ok(gone) => gone,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "calls that wait could not be given to other hosts yet");
                Vec::new()
            }
        };
        let mut calls = 0_u64;
        for (task, waiting) in waiting {
            for (claim, call) in waiting {
                if gone.contains(&task) {
                    // Who waits for it here is told that it will not end here.
                    lock(&self.inner.active).remove(&call.id);
                    calls += 1;
                } else {
                    lock(&self.inner.lanes).enqueue_stored(claim, call);
                }
            }
        }
        if calls > 0 {
            tracing::info!(calls, tasks = gone.len(), "calls that waited were given to other hosts");
        }
    }

    /// Lets no guest run after `until`, should this host say nothing more.
    pub fn run_until(&self, until: Instant) {
        self.inner.parts.sandbox.run_until(until);
    }

    /// Goes on after [`Dispatcher::suspend`].
    ///
    /// # Errors
    /// If the store fails.
    pub async fn resume(&self) -> Result<Recovered, Error> {
        self.inner.suspended.store(false, Ordering::SeqCst);
        self.recover().await
    }
}

impl Inner {
    /// Whether a call is known here, or is about to be.
    fn is_active(&self, call: CallId) -> bool {
        // In this order: it leaves the one after it has come into the other.
        lock(&self.accepting).contains_key(&call) || lock(&self.active).contains_key(&call)
    }

    /// Ends a call that nobody runs, or puts it back into its lane; nothing if it is known
    /// here. Who looks for such calls may do so beside others: one at a time takes them up.
    async fn take_up(self: &Arc<Self>, Orphan { call, reachable }: Orphan) -> Result<Recovered, Error> {
        let _turn = self.taking_up.lock().await;
        if self.is_active(call.id) {
            return Ok(Recovered::default());
        }
        if matches!(call.state, CallState::Queued) && reachable {
            if self.given_up.contains_key(&call.id) {
                let fault = Fault::new(code::CANCELLED, "cancelled by a client before it started");
                return self.end_lost(&call, Ending::Cancelled { fault }, Vec::new()).await;
            }
            self.enqueue_again(Arc::new(call));
            return Ok(Recovered { requeued: 1, interrupted: 0 });
        }
        let fault = if reachable {
            let message = "the host stopped while the call ran; what it wrote into the workspace is still there";
            Fault::new(code::HOST_STOPPED, message)
        } else {
            let message =
                "the host that has the task's workspace is gone; the workspace is there again when that host is";
            Fault::new(code::HOST_LOST, message)
        };
        let fault = fault.retryable();
        if !reachable {
            return self.end_lost(&call, Ending::Interrupted { fault }, Vec::new()).await;
        }
        let events = self.changes_of(&call).await;
        match self.requeue(&call, &fault, events.clone()).await? {
            Again::Queued(queued) => {
                self.enqueue_again(queued);
                Ok(Recovered { requeued: 1, interrupted: 0 })
            }
            Again::Never => self.end_lost(&call, Ending::Interrupted { fault }, events).await,
        }
    }

    async fn end_lost(&self, call: &Call, ending: Ending, events: Vec<NewEvent>) -> Result<Recovered, Error> {
        self.end(call, Arc::new(Outcome::without_use(ending)), events, None).await?;
        Ok(Recovered { interrupted: 1, requeued: 0 })
    }

    /// What a lost call changed, as far as a walk can tell.
    async fn changes_of(self: &Arc<Self>, call: &Call) -> Vec<NewEvent> {
        if call.grants.most_workspace() != WorkspaceAccess::ReadWrite {
            return Vec::new();
        }
        let sink = super::sink::CallSink::new(self.clone(), Arc::new(call.clone()));
        let sink = Arc::new(sink);
        crate::ports::sandbox::Sink::emit(&sink, crate::ports::sandbox::Emission::ChangesLost).await;
        sink.finish().await
    }
}
