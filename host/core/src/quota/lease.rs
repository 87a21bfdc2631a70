//! Leases: what a call is given of its task's and its user's room while it runs.
//!
//! Each call may take all the room that is left, since nobody knows what it will need;
//! its worker counts what it takes, and says so as it goes. Who takes more when the calls
//! of its user, with all that is there already, hold more than may be has its lease
//! withdrawn, and what it still has to write is refused. So calls in several tasks at once
//! pass a quota by no more than what they write until they are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::{Extent, Quotas};
use crate::id::TaskId;
use crate::principal::Owner;
use crate::reached::Bound;

/// What a call may add to its workspace, as long as it is not withdrawn. Given back when
/// the last copy goes.
#[derive(Clone, Debug, Default)]
pub struct Lease(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    leased: Arc<Leased>,
    owner: Owner,
    quotas: Weak<Quotas>,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) task: TaskId,
    /// What its task may hold.
    pub(super) quota: Extent,
    room: Extent,
    /// Whether a walk over the workspace finds what was added.
    is_found: bool,
    counts: Mutex<Counts>,
    over: OnceLock<Bound>,
    withdrawn: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// What the call has added, by its worker's count.
    taken: Extent,
    /// What of that is in the last measure of the workspace.
    measured: Extent,
}

impl Lease {
    /// So much of nobody's: what it may add where there is no quota.
    pub fn of_nobody(room: Extent) -> Self {
        let owner = Owner { tenant: crate::id::TenantId::from_parts(0, 0), user: crate::id::UserId::from_parts(0, 0) };
        let leased = Leased::new(TaskId::from_parts(0, 0), (Extent::default(), room), true);
        Self(Some(Arc::new(Held { leased: Arc::new(leased), owner, quotas: Weak::new() })))
    }

    /// What it may add in all.
    pub fn room(&self) -> Extent {
        self.0.as_ref().map(|held| held.leased.room).unwrap_or_default()
    }

    /// Notes what it has added by now: nobody is believed to have added more than it may.
    pub fn took(&self, taken: Extent) {
        let Some(held) = &self.0 else { return };
        if !held.leased.is_found && held.leased.withdrawn.is_cancelled() {
            return;
        }
        let taken = taken.min(held.leased.room);
        let before = std::mem::replace(&mut held.leased.counts().taken, taken);
        if !taken.is_within(before)
            && let Some(quotas) = held.quotas.upgrade()
        {
            quotas.look_at(held.owner, &held.leased);
        }
    }

    /// What bounds the rest, once it is withdrawn.
    pub fn over(&self) -> Option<Bound> {
        self.0.as_ref().and_then(|held| held.leased.over.get().copied())
    }

    /// Waits until it is withdrawn: it may add nothing more.
    pub async fn withdrawn(&self) {
        match &self.0 {
            Some(held) => held.leased.withdrawn.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it; what it added that is in no measure yet.
    pub(super) fn end(&self) -> Extent {
        let Some(held) = &self.0 else { return Extent::default() };
        if let Some(quotas) = held.quotas.upgrade() {
            quotas.leases.remove(held);
        }
        held.leased.unmeasured()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(quotas) = self.quotas.upgrade() {
            quotas.leases.remove(self);
        }
    }
}

impl Leased {
    fn new(task: TaskId, (quota, room): (Extent, Extent), is_found: bool) -> Self {
        let (over, withdrawn) = (OnceLock::new(), CancellationToken::new());
        Self { task, quota, room, is_found, counts: Mutex::default(), over, withdrawn }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it added that is in no measure yet.
    pub(super) fn unmeasured(&self) -> Extent {
        let Counts { taken, measured } = *self.counts();
        taken.less(measured)
    }

    pub(super) fn withdraw(&self, bound: Bound) {
        // The first one is the reason.
        let _ = self.over.set(bound);
        self.withdrawn.cancel();
        if !self.is_found {
            // It breaks off, and goes: the next one has its room already.
            self.counts().taken = Extent::default();
        }
    }
}

/// Those that are out.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<Owner, Vec<Arc<Leased>>>>);

/// What leases of a task have added before a walk over its workspace began: that is in
/// what the walk finds.
pub(super) struct Before(Vec<(Arc<Leased>, Extent)>);

impl Before {
    /// The walk is done: that much is measured.
    pub(super) fn measured(self) {
        self.0.into_iter().for_each(|(leased, taken)| leased.counts().measured = taken);
    }
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<Owner, Vec<Arc<Leased>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out what there is room for in a task with this quota.
    pub(super) fn give(quotas: &Arc<Quotas>, owner: Owner, task: TaskId, most: (Extent, Extent)) -> Lease {
        Self::out(quotas, owner, Leased::new(task, most, true))
    }

    /// The same to what comes into the workspace when it is whole.
    pub(super) fn give_aside(quotas: &Arc<Quotas>, owner: Owner, task: TaskId, most: (Extent, Extent)) -> Lease {
        Self::out(quotas, owner, Leased::new(task, most, false))
    }

    fn out(quotas: &Arc<Quotas>, owner: Owner, leased: Leased) -> Lease {
        let leased = Arc::new(leased);
        quotas.leases.all().entry(owner).or_default().push(leased.clone());
        Lease(Some(Arc::new(Held { leased, owner, quotas: Arc::downgrade(quotas) })))
    }

    fn remove(&self, held: &Held) {
        let mut all = self.all();
        if let Some(leases) = all.get_mut(&held.owner) {
            leases.retain(|leased| !Arc::ptr_eq(leased, &held.leased));
            if leases.is_empty() {
                all.remove(&held.owner);
            }
        }
    }

    /// Those of an owner.
    pub(super) fn of(&self, owner: Owner) -> Vec<Arc<Leased>> {
        self.all().get(&owner).cloned().unwrap_or_default()
    }

    /// What the calls of an owner have added, in a task or in all, and is in no measure yet.
    pub(super) fn unmeasured(&self, owner: Owner, task: Option<TaskId>) -> Extent {
        let all = self.all();
        let leases = all.get(&owner).map(Vec::as_slice).unwrap_or_default();
        let leases = leases.iter().filter(|leased| task.is_none_or(|task| task == leased.task));
        leases.fold(Extent::default(), |sum, leased| sum.plus(leased.unmeasured()))
    }

    /// Before a walk over a task's workspace.
    pub(super) fn before(&self, owner: Owner, task: TaskId) -> Before {
        let leases = self.of(owner).into_iter().filter(|leased| leased.task == task && leased.is_found);
        Before(
            leases
                .map(|leased| {
                    let taken = leased.counts().taken;
                    (leased, taken)
                })
                .collect(),
        )
    }

    /// How many are out.
    pub(super) fn len(&self) -> usize {
        self.all().values().map(Vec::len).sum()
    }
}
