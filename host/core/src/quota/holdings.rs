//! What the tasks of a user take together.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Extent;
use crate::id::TaskId;

/// How long a host that is not alone goes by what it knows of a user's tasks: others
/// fill and make them, too.
const SHARED: Duration = Duration::from_secs(2);

/// What several tasks take together. Wide enough for any number of them, whatever each
/// is said to take: what is added can be taken off again, and leaves the others as they
/// were. A sum that stops at the most of 64 bits would lose them.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    bytes: u128,
    entries: u128,
}

impl Sum {
    pub(super) fn add(&mut self, extent: Extent) {
        self.bytes += u128::from(extent.bytes);
        self.entries += u128::from(extent.entries);
    }

    /// Takes off what was added before.
    pub(super) fn take_off(&mut self, extent: Extent) {
        self.bytes = self.bytes.saturating_sub(extent.bytes.into());
        self.entries = self.entries.saturating_sub(extent.entries.into());
    }

    /// The same, or as much as can be said: more than there is room for anyway.
    pub(super) fn extent(self) -> Extent {
        let most = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        Extent { bytes: most(self.bytes), entries: most(self.entries) }
    }
}

/// What the tasks of a user take, by the last that is known of each.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) tasks: HashMap<TaskId, Extent>,
    /// Those that are deleted and kept: what they take counts, they themselves don't.
    pub(super) kept: HashSet<TaskId>,
    /// Of all of them.
    pub(super) sum: Sum,
    /// Since when, if others change them as well.
    pub(super) read: Option<Instant>,
}

impl Holdings {
    /// Whether this is still to be gone by.
    pub(super) fn holds(&self) -> bool {
        self.read.is_none_or(|read| read.elapsed() < SHARED)
    }

    pub(super) fn set(&mut self, task: TaskId, extent: Extent) -> Option<Extent> {
        let before = self.tasks.insert(task, extent);
        self.sum.take_off(before.unwrap_or_default());
        self.sum.add(extent);
        before
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        self.kept.remove(&task);
        let before = self.tasks.remove(&task);
        self.sum.take_off(before.unwrap_or_default());
    }

    /// What all take but this one.
    pub(super) fn without(&self, task: TaskId) -> Extent {
        let mut others = self.sum;
        others.take_off(self.tasks.get(&task).copied().unwrap_or_default());
        others.extent()
    }
}
