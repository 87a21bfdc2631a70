//! Life among other hosts: where a task is held, whether this host may run what it
//! holds, what others left behind, and what they write.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ports;
use super::tasks::Tasks;
use super::tools::Tools;
use crate::access::Access;
use crate::dispatch::{Dispatcher, Recovered, chain};
use crate::error::Error;
use crate::event::Seq;
use crate::hub::Hub;
use crate::id::{CallId, TaskId, TenantId};
use crate::ports::cluster::{Holder, Lease};
use crate::ports::live::Heard;
use crate::ports::store::Thing;
use crate::principal::{Owner, Principal};

/// Between two looks for what a host that is gone has left.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(2);

/// So many looks later calls are looked for that this host holds and does not run.
const STRAYS_EVERY: u32 = 15;

/// Looks for such calls, one after the other, after a task was taken or the store was away:
/// they are taken up when they were seen twice.
const LOOKS_IN_A_ROW: u32 = 3;

/// So much more seldom the store is looked at while other hosts are heard.
const LOOKS_WHEN_HEARD: u32 = 25;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// A task: its workspace, its calls.
    Task(TaskId),
    /// A call: that it ends, or what it asks.
    Call(CallId),
}

/// The use cases of several hosts.
pub struct Hosts {
    ports: Ports,
    access: Arc<Access>,
    lease: watch::Receiver<Lease>,
}

impl Hosts {
    pub(super) fn new(ports: Ports, access: Arc<Access>) -> Self {
        let lease = ports.cluster.lease();
        Self { ports, access, lease }
    }

    /// Whether there are others at all.
    pub fn is_shared(&self) -> bool {
        self.ports.cluster.is_shared()
    }

    /// Whether this host may run what it holds.
    pub fn lease(&self) -> Lease {
        *self.lease.borrow()
    }

    /// Who holds what a request is about; this host, if it could be had. A thing that
    /// is not there, or not the principal's, or a call that has ended is nobody's
    /// business elsewhere: `Here`, where the use case says so.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn holder(&self, principal: &Principal, pinned: Pinned) -> Result<Holder, Error> {
        let own = principal.owner();
        let task = match self.task_of(own, pinned).await? {
            Some(task) => Some(task),
            None => self.others_task(principal, pinned).await?,
        };
        let Some(task) = task else { return Ok(Holder::Here) };
        Ok(self.ports.cluster.hold(task).await?.unwrap_or(Holder::Here))
    }

    /// The task that a request is about, if it is the owner's, or its call goes on.
    async fn task_of(&self, owner: Owner, pinned: Pinned) -> Result<Option<TaskId>, Error> {
        match pinned {
            Pinned::Task(id) => match self.access.frozen(owner, id).await {
                Ok(task) => Ok(Some(task.id)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            },
            Pinned::Call(id) => {
                let call = self.ports.store.call(owner, id).await?;
                Ok(call.filter(|call| !call.state.is_ended()).map(|call| call.task))
            }
        }
    }

    /// The same of another's, for an administrator who may be told whose it is: to find
    /// its host and for nothing else. There the request is checked like any other. To
    /// all others a thing that is held elsewhere, or by nobody, is none.
    async fn others_task(&self, principal: &Principal, pinned: Pinned) -> Result<Option<TaskId>, Error> {
        let thing = match pinned {
            Pinned::Task(id) => Thing::Task(id),
            Pinned::Call(id) => Thing::Call(id),
        };
        match self.access.whose(principal, thing).await? {
            Some(owner) if owner != principal.owner() => self.task_of(owner, pinned).await,
            _ => Ok(None),
        }
    }
}

/// What goes on all the time where there are other hosts.
pub(super) struct Tending {
    pub(super) ports: Ports,
    pub(super) dispatcher: Dispatcher,
    pub(super) tools: Tools,
    pub(super) tasks: Tasks,
    pub(super) hub: Arc<Hub>,
    pub(super) follow: Duration,
}

impl Tending {
    /// Begins it.
    pub(super) fn start(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let this = Arc::new(self);
        let (obeying, following, telling, taking) = (this.clone(), this.clone(), this.clone(), this);
        let (one, two, three, four) = (stop.clone(), stop.clone(), stop.clone(), stop.clone());
        tracker.spawn(async move { one.run_until_cancelled(obeying.obey()).await });
        tracker.spawn(async move { two.run_until_cancelled(following.follow()).await });
        tracker.spawn(async move { three.run_until_cancelled(taking.take_over()).await });
        tracker.spawn(async move { four.run_until_cancelled(telling.tell()).await });
    }

    /// Stops what runs when the lease is lost, and goes on when it is held again.
    async fn obey(&self) {
        let mut lease = self.ports.cluster.lease();
        let mut before = (Lease::Held, self.ports.cluster.term());
        loop {
            let now = (*lease.borrow_and_update(), self.ports.cluster.term());
            if now.0 == Lease::Lost || now.1 != before.1 {
                self.dispatcher.suspend();
                self.tasks.suspend();
            }
            // If it was lost and renewed so fast that it was not seen, nobody has taken anything.
            if now.0 == Lease::Held && now != before {
                note(self.dispatcher.resume().await, "what was left could not be taken up");
            }
            before = now;
            if lease.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells who runs guests how long they may, should this host hang.
    async fn tell(&self) {
        let mut until = self.ports.cluster.runs_until();
        loop {
            let now = *until.borrow_and_update();
            if let Some(now) = now {
                self.dispatcher.run_until(now);
            }
            if until.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells readers here of what other hosts write: as it is heard, and by looking,
    /// which is seldom needed while others are heard.
    async fn follow(&self) {
        let (mut looked, mut missed) = (Instant::now(), false);
        loop {
            let is_up = self.ports.live.as_ref().is_some_and(|live| live.is_up());
            let every = if is_up { self.follow * LOOKS_WHEN_HEARD } else { self.follow };
            let heard = match &self.ports.live {
                // A little at a time, for it may go down meanwhile.
                Some(live) => tokio::time::timeout(self.follow, live.heard()).await.ok(),
                None => {
                    tokio::time::sleep(self.follow).await;
                    None
                }
            };
            match heard {
                Some(Heard::Grown(tenant, task, last)) => self.grown(tenant, task, last).await,
                Some(Heard::Look(task)) => self.look(&[task]).await,
                Some(Heard::LookAtAll) => missed = true,
                None => {}
            }
            if missed || looked.elapsed() >= every {
                (looked, missed) = (Instant::now(), false);
                self.look(&self.hub.watched_tasks()).await;
            }
        }
    }

    /// What was heard: its events are fetched once for all readers.
    async fn grown(&self, tenant: TenantId, task: TaskId, last: Seq) {
        let Some(known) = self.hub.newest_known(task).filter(|known| *known < last) else { return };
        let events = match &self.ports.live {
            Some(live) if known > 0 => live.tail(tenant, task, known).await,
            _ => Vec::new(),
        };
        let events: Vec<_> = events.into_iter().map(Arc::new).collect();
        self.hub.notice(task, &events, last);
    }

    async fn look(&self, tasks: &[TaskId]) {
        if tasks.is_empty() {
            return;
        }
        match self.ports.cluster.newest(tasks).await {
            Ok(newest) => newest.into_iter().for_each(|(task, last)| self.hub.notice(task, &[], last)),
            Err(error) => tracing::debug!(error = %chain(&error), "the newest events could not be asked for"),
        }
    }

    /// Takes over what hosts that are gone have left.
    async fn take_over(&self) {
        let (mut looks, mut strays) = (Looks::default(), HashSet::new());
        let mut taken = self.ports.cluster.taken();
        loop {
            tokio::time::sleep(TAKE_OVER_EVERY).await;
            if *self.ports.cluster.lease().borrow() == Lease::Lost {
                looks.away = true;
                continue;
            }
            let took = self.dispatcher.take_over().await;
            let answered = took.is_ok();
            note(took, "calls of other hosts could not be taken over");
            if let Err(error) = self.tools.recover().await {
                tracing::warn!(error = %chain(&error), "tools of other hosts could not be taken over");
            }
            match self.tasks.recover().await {
                Ok(0) => {}
                Ok(tasks) => tracing::info!(tasks, "tasks that other hosts were filling have failed"),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "tasks that other hosts were filling could not be ended");
                }
            }
            // What somebody asked for was taken with what waited in it.
            let now = self.ports.cluster.taken();
            if looks.due(std::mem::replace(&mut taken, now) != now, answered) {
                note(self.dispatcher.take_up_strays(&mut strays).await, "open calls could not be looked for");
                if !strays.is_empty() {
                    looks.again();
                }
            }
        }
    }
}

/// When calls are looked for that this host holds and does not run.
#[derive(Debug, Default)]
struct Looks {
    round: u32,
    /// So many rounds more, one after the other.
    more: u32,
    /// The store did not answer in the last round, or this host had no lease.
    away: bool,
}

impl Looks {
    /// Looks in the next round, too: some were seen for the first time.
    fn again(&mut self) {
        self.more = self.more.max(1);
    }

    /// Whether this round looks: seldom, and in a row after a task was `taken` and once the
    /// store has `answered` again, which may have left calls that nobody ends.
    fn due(&mut self, taken: bool, answered: bool) -> bool {
        self.round = self.round.wrapping_add(1);
        if taken || (answered && self.away) {
            self.more = LOOKS_IN_A_ROW;
        }
        self.away = !answered;
        let due = self.more > 0 || self.round.is_multiple_of(STRAYS_EVERY);
        self.more = self.more.saturating_sub(1);
        due
    }
}

fn note(done: Result<Recovered, Error>, failed: &'static str) {
    match done {
        Ok(Recovered { interrupted: 0, requeued: 0 }) => {}
        Ok(Recovered { interrupted, requeued }) => tracing::info!(interrupted, requeued, "took calls over"),
        Err(error) => tracing::warn!(error = %chain(&error), "{failed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_in_a_row_once_the_store_is_back() {
        let mut looks = Looks::default();
        let mut rounds = |taken, answered, count| (0..count).filter(|_| looks.due(taken, answered)).count();
        assert_eq!(rounds(false, true, STRAYS_EVERY), 1, "seldom, else");
        assert_eq!(rounds(false, false, 2), 0, "it is away");
        assert_eq!(rounds(false, true, LOOKS_IN_A_ROW), LOOKS_IN_A_ROW as usize);
        assert_eq!(rounds(false, true, 4), 0);
        assert_eq!(rounds(true, true, 1) + rounds(false, true, 4), LOOKS_IN_A_ROW as usize, "a task was taken");
    }
}
