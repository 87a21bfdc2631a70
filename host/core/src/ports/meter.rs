//! The port for metrics: what happened, as numbers. Gauges are read from
//! [`crate::dispatch::Dispatcher::load`] instead of being counted twice.

use crate::limits::Usage;

/// Receives what is counted. Must not block.
pub trait Meter: Send + Sync + 'static {
    /// A call was accepted; `queued` if it had to wait.
    fn call_accepted(&self, queued: bool);
    /// A call ended in `state` after using `usage`.
    fn call_ended(&self, state: &'static str, usage: &Usage);
    /// A call waits for another attempt: its host failed.
    fn call_requeued(&self);
    /// A call was refused because a queue was full.
    fn call_refused(&self);
    /// Events were appended to a log.
    fn events_appended(&self, count: u64);
    /// Something was let through that `rule` of the door would refuse.
    fn access_would_refuse(&self, rule: &'static str);
    /// Entries of access logs could not be stored.
    fn accesses_lost(&self, count: u64);
    /// So many workspaces lie on the disk that belong to no task.
    fn strays(&self, count: u64);
    /// One of them was removed.
    fn stray_swept(&self);
    /// An administrator was given another's thing.
    fn admin_accessed(&self);
}
