//! The quota of a workspace: what all of its files together may take. The truth
//! is the host's own measure, a walk over the directory; between two walks it
//! adds what calls and clients say they wrote.
//!
//! A call is given the room that is left and its worker refuses more. What a
//! worker that was taken over hides is found by the next walk, and a walk comes
//! again after a hundred times its own cost.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::id::TaskId;
use crate::limits::Limits;
use crate::ports::workspace::{WorkspaceError, Workspaces};

/// Workspaces whose measure is kept in memory.
const KNOWN: u64 = 10_000;
/// A measure is good for so long, however cheap it was.
const FRESH: Duration = Duration::from_secs(1);
/// A walk costs at most a hundredth of the time between two.
const RARER: u32 = 100;

/// What files take, or may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, by the sizes of files; each hard link counts.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Extent {
    /// The quota that limits set.
    pub fn quota(limits: &Limits) -> Self {
        Self { bytes: limits.workspace_bytes, entries: limits.workspace_entries }
    }

    fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), entries: self.entries.saturating_sub(other.entries) }
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), entries: self.entries.saturating_add(other.entries) }
    }

    fn is_within(self, other: Self) -> bool {
        self.bytes <= other.bytes && self.entries <= other.entries
    }

    fn half(self) -> Self {
        Self { bytes: self.bytes / 2, entries: self.entries / 2 }
    }
}

#[derive(Clone, Copy)]
struct Known {
    measured: Extent,
    /// Written since, at most: what was overwritten counts as new.
    added: Extent,
    at: Instant,
    cost: Duration,
}

impl Known {
    /// Whether the estimate is good enough for this quota: not old, and not so
    /// far off that it could refuse what there is room for.
    fn holds(&self, quota: Extent) -> bool {
        let fresh = self.at.elapsed() < FRESH.max(self.cost * RARER);
        fresh && self.added.is_within(quota.less(self.measured).half())
    }
}

/// What the workspaces in use take.
pub struct Quotas {
    workspaces: Arc<dyn Workspaces>,
    known: Cache<TaskId, Known>,
}

impl Quotas {
    /// Of the workspaces of `workspaces`; nothing is known yet.
    pub fn new(workspaces: Arc<dyn Workspaces>) -> Self {
        Self { workspaces, known: Cache::new(KNOWN) }
    }

    /// What may still be added to a task's workspace.
    ///
    /// # Errors
    /// If it can't be walked.
    pub async fn room(&self, task: TaskId, root: &Arc<OwnedFd>, limits: &Limits) -> Result<Extent, WorkspaceError> {
        let quota = Extent::quota(limits);
        let known = match self.known.get(&task).filter(|known| known.holds(quota)) {
            Some(known) => known,
            None => self.measure(task, root).await?,
        };
        Ok(quota.less(known.measured).less(known.added))
    }

    async fn measure(&self, task: TaskId, root: &Arc<OwnedFd>) -> Result<Known, WorkspaceError> {
        let at = Instant::now();
        let measured = self.workspaces.measure(root.clone()).await?;
        let known = Known { measured, added: Extent::default(), at, cost: at.elapsed() };
        self.known.insert(task, known);
        Ok(known)
    }

    /// Notes what was added.
    pub fn added(&self, task: TaskId, added: Extent) {
        if let Some(known) = self.known.get(&task) {
            self.known.insert(task, Known { added: known.added.plus(added), ..known });
        }
    }

    /// Something happened that only a walk can tell.
    pub fn forget(&self, task: TaskId) {
        self.known.invalidate(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_estimate_is_not_kept_when_it_may_be_wrong() {
        let extent = |bytes, entries| Extent { bytes, entries };
        let known =
            |added| Known { measured: extent(60, 10), added, at: Instant::now(), cost: Duration::from_millis(50) };
        let quota = extent(100, 20);
        assert!(known(extent(20, 5)).holds(quota));
        assert!(!known(extent(21, 0)).holds(quota), "half of the room may be an overestimate");
        assert!(!known(extent(0, 6)).holds(quota));
        let old = known(extent(0, 0));
        tokio::time::advance(Duration::from_millis(4_900)).await;
        assert!(old.holds(quota), "the walk took 50 ms");
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!old.holds(quota));
    }

    #[test]
    fn room_is_never_negative() {
        let full = Extent { bytes: 5, entries: 5 }.less(Extent { bytes: 9, entries: 1 });
        assert_eq!(full, Extent { bytes: 0, entries: 4 });
    }
}
