//! The port to the other hosts of a database: who holds which task.
//!
//! A task's calls run where its workspace lies. A host *holds* a task while it may
//! run its calls and write to its log; it has a *lease* for all it holds, which it
//! renews. Who can't renew stops what runs before others may believe it gone: no
//! token can fence what a guest writes to a file.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::Call;
use crate::clock::Timestamp;
use crate::event::Seq;
use crate::id::TaskId;
use crate::ports::store::{Store, StoreError};
use crate::task::{Task, TaskState};
use crate::tool::Tool;

/// Who holds a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This host.
    Here,
    /// Another one that lives.
    Elsewhere {
        /// Where hosts reach it: `http://10.0.0.5:8080`; empty if it did not say.
        address: String,
    },
    /// Nobody that lives: the workspace is out of reach until its host is back.
    Nobody,
}

/// Whether this host may run what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It may.
    Held,
    /// It could not renew in time: nothing may run until it is held again.
    Lost,
}

/// A call that nobody runs any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// The call.
    pub call: Call,
    /// Whether its workspace can be reached from here.
    pub reachable: bool,
}

/// A host, as it told the others when it last started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its data directory: `host_…`.
    pub host: String,
    /// Where hosts reach it; empty if it did not say.
    pub address: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Until when it may be believed to live, unless it renews.
    pub lease_until: Timestamp,
    /// When it ended, by itself or because it was late.
    pub ended_at: Option<Timestamp>,
}

/// Where workspaces lie: the data directory of one host, or what several share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `vol_…` if it is shared, else the id of its host.
    pub id: String,
    /// The hosts that reach it, of those that lived within the last day.
    pub hosts: Vec<Member>,
    /// Tasks whose workspaces lie there, or did until they are deleted for good.
    pub tasks: u64,
}

impl Volume {
    /// A host that reaches it and has not ended.
    pub fn reached_by(&self) -> Option<&Member> {
        self.hosts.iter().find(|host| host.ended_at.is_none())
    }
}

/// The other hosts.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Whether there are others at all. One that is alone holds everything.
    fn is_shared(&self) -> bool;

    /// Whether this host may run what it holds, now and as it changes.
    fn lease(&self) -> watch::Receiver<Lease>;

    /// Whether the lease is over by this host's own clock, told of or not.
    fn is_late(&self) -> bool {
        false
    }

    /// Until when what runs here may go on if this host says nothing more: shortly before
    /// others may believe it gone. Nothing if that is never.
    fn runs_until(&self) -> watch::Receiver<Option<Instant>>;

    /// The number of this host's membership: another one once others had ended it, and
    /// may have taken what it held.
    fn term(&self) -> u64;

    /// Holds a task here, if nobody that lives does and its workspace can be
    /// reached; says who holds it. `None` if there is no such task.
    async fn hold(&self, task: TaskId) -> Result<Option<Holder>, StoreError>;

    /// How often [`Cluster::hold`] has taken a task from others, or from nobody: calls may
    /// be open in it.
    fn taken(&self) -> u64;

    /// Holds here up to `limit` tasks with open calls that nobody holds who lives,
    /// and gives those calls: they are this host's to end or to take up again.
    async fn take_over(&self, limit: u32) -> Result<Vec<Orphan>, StoreError>;

    /// Takes nothing from now on, and lets go of those of these tasks that another host
    /// which lives can take over with their workspaces; says which.
    async fn let_go(&self, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError>;

    /// The open calls of tasks that this host holds.
    async fn held_calls(&self) -> Result<Vec<Orphan>, StoreError>;

    /// Holds here up to `limit` tasks in `state` that nobody holds who lives.
    async fn take_over_tasks(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError>;

    /// Takes over up to `limit` tools that nobody compiles who lives.
    async fn take_over_tools(&self, limit: u32) -> Result<Vec<Tool>, StoreError>;

    /// Every volume that a host told of or a task lies on; none if this host is alone.
    async fn volumes(&self) -> Result<Vec<Volume>, StoreError>;

    /// Holds here, and gives, up to `limit` tasks of a volume that no host which lives
    /// reaches, and that is not this host's: those in which no call is open.
    async fn hold_lost(&self, volume: &str, limit: u32) -> Result<Vec<Task>, StoreError>;

    /// The workspaces of those of these tasks of `volume` that this host holds count as
    /// lying here from now on.
    async fn bring_home(&self, volume: &str, tasks: &[TaskId]) -> Result<(), StoreError>;

    /// The number of the newest event of each of these tasks.
    async fn newest(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, Seq)>, StoreError>;
}

/// A host that is alone: it holds everything, always.
pub struct Alone {
    store: Arc<dyn Store>,
    lease: watch::Sender<Lease>,
    until: watch::Sender<Option<Instant>>,
}

impl Alone {
    /// The only host of `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, lease: watch::Sender::new(Lease::Held), until: watch::Sender::new(None) }
    }
}

#[async_trait]
impl Cluster for Alone {
    fn is_shared(&self) -> bool {
        false
    }

    fn lease(&self) -> watch::Receiver<Lease> {
        self.lease.subscribe()
    }

    fn runs_until(&self) -> watch::Receiver<Option<Instant>> {
        self.until.subscribe()
    }

    fn term(&self) -> u64 {
        0
    }

    async fn hold(&self, _: TaskId) -> Result<Option<Holder>, StoreError> {
        Ok(Some(Holder::Here))
    }

    fn taken(&self) -> u64 {
        0
    }

    async fn take_over(&self, _: u32) -> Result<Vec<Orphan>, StoreError> {
        Ok(Vec::new())
    }

    async fn let_go(&self, _: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
        Ok(Vec::new())
    }

    async fn held_calls(&self) -> Result<Vec<Orphan>, StoreError> {
        let calls = self.store.open_calls().await?;
        Ok(calls.into_iter().map(|call| Orphan { call, reachable: true }).collect())
    }

    async fn take_over_tasks(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
        self.store.tasks_in_state(state, limit).await
    }

    async fn take_over_tools(&self, _: u32) -> Result<Vec<Tool>, StoreError> {
        self.store.compiling_tools().await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, StoreError> {
        Ok(Vec::new())
    }

    async fn hold_lost(&self, _: &str, _: u32) -> Result<Vec<Task>, StoreError> {
        Ok(Vec::new())
    }

    async fn bring_home(&self, _: &str, _: &[TaskId]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn newest(&self, _: &[TaskId]) -> Result<Vec<(TaskId, Seq)>, StoreError> {
        Ok(Vec::new())
    }
}
