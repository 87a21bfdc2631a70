//! Quotas: what all files of a workspace together may take, and all workspaces
//! of a user. The truth is the host's own measure, a walk over the directory;
//! between two walks it adds what calls and clients say they wrote.
//!
//! A call is given a [`Lease`] of the room that is left and its worker refuses more;
//! it is withdrawn if the call takes more when all of its user together hold too much.
//! What a worker that was taken over hides is found by the next walk, and a walk comes
//! again after a hundred times its own cost.

mod holdings;
mod lease;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::error::Error;
use crate::id::{TaskId, TenantId};
use crate::limits::Limits;
use crate::ports::store::{HeldTask, Store};
use crate::ports::workspace::Workspaces;
use crate::principal::Owner;
use crate::reached::Bound;

use holdings::Holdings;
pub use lease::Lease;
use lease::{Leased, Leases};

/// Workspaces whose measure is kept in memory.
const KNOWN: u64 = 10_000;
/// A measure is good for so long, however cheap it was.
const FRESH: Duration = Duration::from_secs(1);
/// A walk costs at most a hundredth of the time between two.
const RARER: u32 = 100;

/// How long the tasks of a tenant are as they were counted.
const COUNTED: Duration = Duration::from_secs(2);

/// What bounds all workspaces of a user together.
const USER_BYTES: &str = "quota.workspace_bytes_per_user";
const USER_ENTRIES: &str = "quota.workspace_entries_per_user";

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

    /// The lesser of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), entries: self.entries.min(other.entries) }
    }

    fn half(self) -> Self {
        Self { bytes: self.bytes / 2, entries: self.entries / 2 }
    }
}

#[derive(Clone, Copy)]
struct Known {
    measured: Extent,
    /// What of it lies beside the workspace.
    aside: Extent,
    /// Added since, at most: what was removed is not taken off.
    added: Extent,
    at: Instant,
    cost: Duration,
}

impl Known {
    /// Whether it was measured not long ago.
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH.max(self.cost * RARER)
    }

    /// Whether the estimate is good enough for this quota: not old, and not so
    /// far off that it could refuse what there is room for.
    fn holds(&self, quota: Extent) -> bool {
        self.is_fresh() && self.added.is_within(quota.less(self.measured).half())
    }
}

/// What all tasks of one user may hold together, and how many a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserQuota {
    /// Of all their workspaces.
    pub workspaces: Extent,
    /// Tasks that are not deleted.
    pub tasks: u64,
    /// Of all users of a tenant: an issuer of tokens makes as many users as it likes.
    pub tasks_of_tenant: u64,
}

/// What may be added, and what sets the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// So much.
    pub extent: Extent,
    /// What bounds the bytes.
    pub bytes_bound: Bound,
    /// What bounds the entries.
    pub entries_bound: Bound,
    /// What takes room and is not in the workspace: deleted files that are kept, and uploads.
    pub aside: Extent,
}

/// What the workspaces in use take.
pub struct Quotas {
    workspaces: Arc<dyn Workspaces>,
    store: Arc<dyn Store>,
    user: UserQuota,
    known: Cache<TaskId, Known>,
    held: Cache<Owner, Arc<Mutex<Holdings>>>,
    /// Tasks of tenants, as they were counted lately, and those that were asked for since.
    of_tenants: Cache<TenantId, Arc<AtomicU64>>,
    /// Whether other hosts have tasks of the same users.
    shared: bool,
    leases: Leases,
    copying: Cache<Owner, Arc<tokio::sync::Mutex<()>>>,
}

/// Which of these bounds is passed, if one is.
fn over((bytes, entries): (&'static str, &'static str), most: Extent, used: Extent) -> Option<Bound> {
    let bytes = Bound { name: bytes, value: most.bytes, used: Some(used.bytes) };
    let entries = Bound { name: entries, value: most.entries, used: Some(used.entries) };
    [bytes, entries].into_iter().find(|bound| bound.used > Some(bound.value))
}

fn full(name: &'static str, value: u64, used: Option<u64>) -> Error {
    Error::WorkspaceFull { bound: Bound { name, value, used }, aside: Extent::default() }
}

fn lock(holdings: &Mutex<Holdings>) -> MutexGuard<'_, Holdings> {
    holdings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Quotas {
    /// Of the workspaces of `workspaces`; what `store` remembers is a start.
    /// If they are `shared` with other hosts, that is read again every two seconds.
    pub fn new(workspaces: Arc<dyn Workspaces>, store: Arc<dyn Store>, user: UserQuota, shared: bool) -> Self {
        let of_tenants = Cache::builder().max_capacity(KNOWN).time_to_live(COUNTED).build();
        let (known, held) = (Cache::new(KNOWN), Cache::new(KNOWN));
        let (leases, copying) = (Leases::default(), Cache::new(KNOWN));
        Self { workspaces, store, user, known, held, of_tenants, shared, leases, copying }
    }

    /// What may still be added to a task's workspace.
    ///
    /// # Errors
    /// If it can't be walked, or the store fails.
    pub async fn room(&self, owner: Owner, task: TaskId, root: &Arc<OwnedFd>, limits: &Limits) -> Result<Room, Error> {
        let quota = Extent::quota(limits);
        let known = match self.known.get(&task).filter(|known| known.holds(quota)) {
            Some(known) => known,
            None => self.measure(owner, task, root).await?,
        };
        let running = self.leases.unmeasured(owner, Some(task));
        let used = known.measured.plus(known.added).plus(running);
        let (taken, most) = (self.taken(owner).await?, self.user.workspaces);
        let (of_task, of_user) = (quota.less(used), most.less(taken));
        let bound = |name, value, used| Bound { name, value, used: Some(used) };
        Ok(Room {
            extent: of_task.min(of_user),
            aside: known.aside,
            bytes_bound: if of_task.bytes <= of_user.bytes {
                bound("workspace_bytes", quota.bytes, used.bytes)
            } else {
                bound(USER_BYTES, most.bytes, taken.bytes)
            },
            entries_bound: if of_task.entries <= of_user.entries {
                bound("workspace_entries", quota.entries, used.entries)
            } else {
                bound(USER_ENTRIES, most.entries, taken.entries)
            },
        })
    }

    /// Gives a call the room that is left, until others of its user have taken it.
    pub fn lease(self: &Arc<Self>, owner: Owner, task: TaskId, limits: &Limits, room: Extent) -> Lease {
        Leases::give(self, owner, task, (Extent::quota(limits), room))
    }

    /// The same for what a client sends, which lies beside the workspace until it is whole.
    pub fn lease_aside(self: &Arc<Self>, owner: Owner, task: TaskId, limits: &Limits, room: Extent) -> Lease {
        Leases::give_aside(self, owner, task, (Extent::quota(limits), room))
    }

    /// Waits until nothing is copied of an owner that counts when it is done.
    pub async fn alone(&self, owner: Owner) -> OwnedMutexGuard<()> {
        self.copying.get_with(owner, Arc::default).lock_owned().await
    }

    /// Ends a call's lease, and notes what it added. What the task takes now, as far as
    /// is known.
    pub fn settle(&self, owner: Owner, task: TaskId, lease: &Lease) -> Option<Extent> {
        let added = lease.end();
        (added != Extent::default()).then(|| self.added(owner, task, added)).flatten()
    }

    /// Withdraws a lease of which more was taken, if its user, or its task, then holds
    /// more than may be. Whoever takes nothing more keeps what it has.
    fn look_at(&self, owner: Owner, leased: &Leased) {
        let settled = self.held.get(&owner).map(|held| lock(&held).sum.extent()).unwrap_or_default();
        let all = settled.plus(self.leases.unmeasured(owner, None));
        let known = self.known.get(&leased.task).map(|known| known.measured.plus(known.added)).unwrap_or_default();
        let of_task = known.plus(self.leases.unmeasured(owner, Some(leased.task)));
        let of_user = over((USER_BYTES, USER_ENTRIES), self.user.workspaces, all);
        let bound = of_user.or_else(|| over(("workspace_bytes", "workspace_entries"), leased.quota, of_task));
        if let Some(bound) = bound {
            leased.withdraw(bound);
        }
    }

    /// Refuses a further task to a user who holds as many as may be, or whose tenant does.
    ///
    /// # Errors
    /// If so, or the store fails.
    pub async fn one_more_task(&self, owner: Owner) -> Result<(), Error> {
        // Read anew: a task more is seldom made, and what other hosts made counts.
        let holdings = if self.shared { self.read_holdings(owner).await? } else { self.holdings(owner).await? };
        let live = {
            let holdings = lock(&holdings);
            holdings.tasks.len().saturating_sub(holdings.kept.len()) as u64
        };
        if live >= self.user.tasks {
            let bound = Bound { name: "quota.tasks_per_user", value: self.user.tasks, used: Some(live) };
            return Err(Error::OverQuota(bound));
        }
        self.one_more_of_tenant(owner.tenant).await
    }

    /// Tasks that go, or that other hosts make, count a moment later.
    async fn one_more_of_tenant(&self, tenant: TenantId) -> Result<(), Error> {
        let most = self.user.tasks_of_tenant;
        let counted = match self.of_tenants.get(&tenant) {
            Some(counted) => counted,
            None => {
                let counted = Arc::new(AtomicU64::new(self.store.count_tasks(tenant, most).await?));
                self.of_tenants.insert(tenant, counted.clone());
                counted
            }
        };
        let one_more = |live: u64| (live < most).then_some(live + 1);
        let asked = counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        asked
            .map(drop)
            .map_err(|live| Error::OverQuota(Bound { name: "quota.tasks_per_tenant", value: most, used: Some(live) }))
    }

    /// Refuses to fill a workspace of a user who has no room left.
    ///
    /// # Errors
    /// If so, or the store fails.
    pub async fn room_to_fill(&self, owner: Owner) -> Result<(), Error> {
        let (most, taken) = (self.user.workspaces, self.taken(owner).await?);
        match most.less(taken) {
            Extent { bytes: 0, .. } => Err(full(USER_BYTES, most.bytes, Some(taken.bytes))),
            Extent { entries: 0, .. } => Err(full(USER_ENTRIES, most.entries, Some(taken.entries))),
            _ => Ok(()),
        }
    }

    /// What a user holds more of than may be: then what was filled in last goes.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn over(&self, owner: Owner) -> Result<Option<Bound>, Error> {
        Ok(over((USER_BYTES, USER_ENTRIES), self.user.workspaces, self.taken(owner).await?))
    }

    /// A task is there from now on, and empty.
    pub fn begin(&self, owner: Owner, task: TaskId) {
        self.hold(owner, task, Extent::default());
    }

    /// A task's workspace is gone.
    pub fn end(&self, owner: Owner, task: TaskId) {
        self.known.invalidate(&task);
        if let Some(holdings) = self.held.get(&owner) {
            lock(&holdings).remove(task);
        }
    }

    /// A task is deleted and kept from now on, or no longer.
    pub fn keep(&self, owner: Owner, task: TaskId, kept: bool) {
        self.known.invalidate(&task);
        if let Some(holdings) = self.held.get(&owner) {
            let mut holdings = lock(&holdings);
            if kept {
                holdings.kept.insert(task)
            } else {
                holdings.kept.remove(&task)
            };
        }
    }

    /// A task's workspace is packed, and takes so much.
    ///
    /// # Errors
    /// If the store fails, or what lies beside it can't be walked.
    pub async fn archived(&self, owner: Owner, task: TaskId, extent: Extent) -> Result<(), Error> {
        self.known.invalidate(&task);
        // What its files put aside is beside the archive, as it was beside the directory.
        let extent = extent.plus(self.workspaces.measure_aside((owner.tenant, task)).await?);
        self.hold(owner, task, extent);
        Ok(self.store.note_extent(task, extent).await?)
    }

    /// What the workspace of a packed task may take when it is unpacked.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn room_to_unpack(&self, owner: Owner, task: TaskId) -> Result<Extent, Error> {
        let holdings = self.holdings(owner).await?;
        let others = lock(&holdings).without(task);
        Ok(self.user.workspaces.less(others))
    }

    /// The refusal to unpack more than there was room for: of bytes or of entries.
    pub fn no_room_to_unpack(&self, room: Extent, entries: bool) -> Error {
        let (most, taken) = (self.user.workspaces, self.user.workspaces.less(room));
        if entries {
            full(USER_ENTRIES, most.entries, Some(taken.entries))
        } else {
            full(USER_BYTES, most.bytes, Some(taken.bytes))
        }
    }

    /// How many workspaces and owners are remembered, the latter with leases that are out.
    pub fn remembered(&self) -> (u64, u64) {
        self.known.run_pending_tasks();
        self.held.run_pending_tasks();
        (self.known.entry_count(), self.held.entry_count() + self.leases.len() as u64)
    }

    /// Walks the workspace and remembers what it takes.
    ///
    /// # Errors
    /// If it can't be walked, or the store fails.
    pub async fn measured(&self, owner: Owner, task: TaskId, root: &Arc<OwnedFd>) -> Result<(), Error> {
        self.measure(owner, task, root).await.map(drop)
    }

    async fn measure(&self, owner: Owner, task: TaskId, root: &Arc<OwnedFd>) -> Result<Known, Error> {
        let at = Instant::now();
        let leased = self.leases.before(owner, task);
        let aside = self.workspaces.measure_aside((owner.tenant, task)).await?;
        let measured = self.workspaces.measure(root.clone()).await?.plus(aside);
        leased.measured();
        let known = Known { measured, aside, added: Extent::default(), at, cost: at.elapsed() };
        let changed = self.hold(owner, task, measured) != Some(measured);
        self.known.insert(task, known);
        if changed {
            self.store.note_extent(task, measured).await?;
        }
        Ok(known)
    }

    /// Notes what was added. What the task takes now, as far as is known.
    pub fn added(&self, owner: Owner, task: TaskId, added: Extent) -> Option<Extent> {
        let known = self.known.get(&task)?;
        let added = known.added.plus(added);
        self.known.insert(task, Known { added, ..known });
        let takes = known.measured.plus(added);
        self.hold(owner, task, takes);
        Some(takes)
    }

    /// Something happened that only a walk can tell.
    pub fn forget(&self, task: TaskId) {
        self.known.invalidate(&task);
    }

    /// Notes what a task takes, if its owner's holdings are known; what it was before.
    fn hold(&self, owner: Owner, task: TaskId, extent: Extent) -> Option<Extent> {
        let holdings = self.held.get(&owner)?;
        lock(&holdings).set(task, extent)
    }

    async fn taken(&self, owner: Owner) -> Result<Extent, Error> {
        let holdings = self.holdings(owner).await?;
        let settled = lock(&holdings).sum.extent();
        Ok(settled.plus(self.leases.unmeasured(owner, None)))
    }

    async fn holdings(&self, owner: Owner) -> Result<Arc<Mutex<Holdings>>, Error> {
        match self.held.get(&owner) {
            Some(known) if lock(&known).holds() => Ok(known),
            _ => self.read_holdings(owner).await,
        }
    }

    async fn read_holdings(&self, owner: Owner) -> Result<Arc<Mutex<Holdings>>, Error> {
        let read = self.shared.then(Instant::now);
        let mut fresh = Holdings { read, ..Holdings::default() };
        for HeldTask { task, extent, kept } in self.store.task_extents(owner).await? {
            // Of what is used here more is known than is stored; of what was used here
            // once, and may be another host's now, it is not.
            let known = self.known.get(&task).filter(Known::is_fresh).map(|known| known.measured.plus(known.added));
            fresh.set(task, known.unwrap_or(extent));
            if kept {
                fresh.kept.insert(task);
            }
        }
        let fresh = Arc::new(Mutex::new(fresh));
        if self.shared {
            self.held.insert(owner, fresh.clone());
            return Ok(fresh);
        }
        // Who was first: what was noted meanwhile must not be lost.
        Ok(self.held.get_with(owner, || fresh))
    }
}

#[cfg(test)]
mod tests;
