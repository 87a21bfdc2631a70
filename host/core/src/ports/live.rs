//! The port to what tells other hosts sooner than the store: of events that were
//! stored, and of streams that are open. An accelerator, never the truth: whatever it
//! loses, the store has.

use std::sync::Arc;

use async_trait::async_trait;

use crate::event::{Event, Seq};
use crate::id::{TaskId, TenantId};
use crate::principal::Owner;

/// What was heard of other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A log has grown up to this number.
    Grown(TenantId, TaskId, Seq),
    /// Something may have been missed of this task: the store knows.
    Look(TaskId),
    /// Something may have been missed of any task.
    LookAtAll,
}

/// Tells and hears of events.
#[async_trait]
pub trait Live: Send + Sync + 'static {
    /// Tells of events that were stored, and keeps them hot for a while. Does not
    /// block; what can't be told now is not.
    fn publish(&self, tenant: TenantId, task: TaskId, events: Vec<Arc<Event>>);

    /// Begins to listen for a task.
    fn watch(&self, tenant: TenantId, task: TaskId);

    /// Listens no longer.
    fn unwatch(&self, tenant: TenantId, task: TaskId);

    /// Events that follow `after` without a gap, as far as they are hot; none: ask the store.
    async fn tail(&self, tenant: TenantId, task: TaskId, after: Seq) -> Vec<Event>;

    /// The next thing that is heard. Cancel-safe.
    async fn heard(&self) -> Heard;

    /// Whether others are heard now.
    fn is_up(&self) -> bool;
}

/// A stream that is open, counted with those on other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Whose.
    pub owner: Owner,
    /// Which, of this host's.
    pub number: u64,
}

/// What became of one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is counted.
    Counted(Connection),
    /// The owner has as many as one may have, on all hosts together.
    Full,
    /// The others can't be asked: it is not counted.
    Unknown,
}

/// Counts connections of all hosts together.
#[async_trait]
pub trait Connections: Send + Sync + 'static {
    /// Counts one more, unless the owner has `most`.
    async fn open(&self, owner: Owner, most: u64) -> Opened;

    /// One less. Does not block.
    fn close(&self, connection: Connection);
}
