//! Lanes: who may run now. Within a task one mutating call at a time, readers
//! in parallel, in the order of arrival; over all tasks a cap per owner, per
//! tenant and in total. Pure: no locks, no clock.

mod turns;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use thiserror::Error;

use self::turns::Turns;
use crate::grants::WorkspaceAccess;
use crate::id::{TaskId, TenantId};
use crate::principal::Owner;
use crate::reached::words;

/// How many may run and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Running at once, in total: each holds an instance's memory.
    pub running: usize,
    /// Running at once per owner, so that one leaves room for others.
    pub running_per_owner: usize,
    /// Running at once per tenant, however many users it has.
    pub running_per_tenant: usize,
    /// Waiting at once of one owner, so that one leaves room for others.
    pub queued_per_owner: usize,
    /// Waiting at once in one task.
    pub queued_per_task: usize,
    /// Waiting at once in total: each is a row and an entry in memory.
    pub queued: usize,
}

/// What a call needs to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The task.
    pub task: TaskId,
    /// Whose it is.
    pub owner: Owner,
    /// What it may do with the workspace.
    pub access: WorkspaceAccess,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may run now and holds a slot, to be given back by [`Lanes::release`].
    Slot,
    /// It must wait; a place in the queue is reserved, to be used by
    /// [`Lanes::enqueue`] or given back by [`Lanes::forsake`].
    Queue,
    /// No place to wait either.
    Refused(Full),
}

/// The queue that is full, in words that name its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", words(name, *value as u64, used))]
pub(super) struct Full {
    name: &'static str,
    value: usize,
    used: usize,
}

struct Lane<T> {
    writer: bool,
    readers: usize,
    reserved: usize,
    queue: VecDeque<(Claim, T)>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { writer: false, readers: 0, reserved: 0, queue: VecDeque::new() }
    }
}

impl<T> Lane<T> {
    fn is_idle(&self) -> bool {
        !self.writer && self.readers == 0 && self.reserved == 0 && self.queue.is_empty()
    }

    fn fits(&self, access: WorkspaceAccess) -> bool {
        match access {
            WorkspaceAccess::None => true,
            WorkspaceAccess::Read => !self.writer,
            WorkspaceAccess::ReadWrite => !self.writer && self.readers == 0,
        }
    }
}

/// The lanes of all tasks that have calls; `T` is what waits.
pub(super) struct Lanes<T> {
    limits: LaneLimits,
    lanes: HashMap<TaskId, Lane<T>>,
    /// Tasks with something in their queue, in turn.
    turns: Turns,
    running_by_owner: HashMap<Owner, usize>,
    running_by_tenant: HashMap<TenantId, usize>,
    queued_by_owner: HashMap<Owner, usize>,
    running: usize,
    queued: usize,
}

impl<T> Lanes<T> {
    /// Empty lanes.
    pub(super) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            turns: Turns::default(),
            running_by_owner: HashMap::new(),
            running_by_tenant: HashMap::new(),
            queued_by_owner: HashMap::new(),
            running: 0,
            queued: 0,
        }
    }

    /// How many run and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.running, self.queued)
    }

    /// Admits, queues or refuses a call.
    pub(super) fn admit(&mut self, claim: Claim) -> Admission {
        let capped = self.is_capped(claim.owner);
        let lane = self.lanes.entry(claim.task).or_default();
        let waiting = lane.reserved + lane.queue.len();
        if waiting == 0 && !capped && lane.fits(claim.access) {
            self.take(claim);
            return Admission::Slot;
        }
        let of_owner = self.queued_by_owner.get(&claim.owner).copied().unwrap_or_default();
        let queues = [
            Full { name: "dispatch.queued_per_task", value: self.limits.queued_per_task, used: waiting },
            Full { name: "dispatch.queued_per_owner", value: self.limits.queued_per_owner, used: of_owner },
            Full { name: "dispatch.queued", value: self.limits.queued, used: self.queued },
        ];
        if let Some(reason) = queues.into_iter().find(|queue| queue.used >= queue.value) {
            self.tidy(claim.task);
            return Admission::Refused(reason);
        }
        lane.reserved += 1;
        self.count_queued(claim.owner);
        Admission::Queue
    }

    /// Puts a call into the place that was reserved for it.
    pub(super) fn enqueue(&mut self, claim: Claim, item: T) {
        self.unreserve(claim);
        self.enqueue_stored(claim, item);
    }

    /// Puts a call in without a reservation: it was stored by an earlier run
    /// of the host, and what was accepted is not refused later.
    pub(super) fn enqueue_stored(&mut self, claim: Claim, item: T) {
        self.count_queued(claim.owner);
        let lane = self.lanes.entry(claim.task).or_default();
        lane.queue.push_back((claim, item));
        if lane.queue.len() == 1 {
            self.turns.add(claim.owner, claim.task);
        }
    }

    /// Takes everything that waits out, of tasks of which nothing runs that uses their
    /// workspace and nothing is on its way in.
    pub(super) fn withdraw(&mut self) -> Vec<(Claim, T)> {
        let mut withdrawn = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| !lane.writer && lane.readers == 0 && lane.reserved == 0) {
            withdrawn.extend(lane.queue.drain(..));
        }
        for (claim, _) in &withdrawn {
            self.turns.remove(claim.owner, claim.task);
            self.queued -= 1;
            less(&mut self.queued_by_owner, claim.owner);
            self.tidy(claim.task);
        }
        withdrawn
    }

    /// Gives a reserved place back.
    pub(super) fn forsake(&mut self, claim: Claim) {
        self.unreserve(claim);
        self.tidy(claim.task);
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, claim: Claim) {
        self.running -= 1;
        less(&mut self.running_by_owner, claim.owner);
        less(&mut self.running_by_tenant, claim.owner.tenant);
        if let Some(lane) = self.lanes.get_mut(&claim.task) {
            match claim.access {
                WorkspaceAccess::None => {}
                WorkspaceAccess::Read => lane.readers -= 1,
                WorkspaceAccess::ReadWrite => lane.writer = false,
            }
        }
        self.tidy(claim.task);
    }

    /// Takes the next waiting call that may run now, with a slot for it.
    /// Owners take turns, and so do the tasks of each: a long queue does not
    /// hold up a short one.
    pub(super) fn next(&mut self) -> Option<(Claim, T)> {
        if self.running >= self.limits.running {
            return None;
        }
        let mut turns = std::mem::take(&mut self.turns);
        let first = |task: TaskId| self.lanes.get(&task).and_then(|lane| Some((lane, lane.queue.front()?.0)));
        let fits = |task| first(task).is_some_and(|(lane, claim)| lane.fits(claim.access));
        let turn = turns.take(|owner| self.is_capped(owner), fits);
        self.turns = turns;
        let (owner, task) = turn?;
        let lane = self.lanes.get_mut(&task)?;
        let (claim, item) = lane.queue.pop_front()?;
        if !lane.queue.is_empty() {
            self.turns.add(owner, task);
        }
        self.queued -= 1;
        less(&mut self.queued_by_owner, claim.owner);
        self.take(claim);
        Some((claim, item))
    }

    fn is_capped(&self, owner: Owner) -> bool {
        let (of_owner, of_tenant) = (self.running_by_owner.get(&owner), self.running_by_tenant.get(&owner.tenant));
        self.running >= self.limits.running
            || of_owner.is_some_and(|count| *count >= self.limits.running_per_owner)
            || of_tenant.is_some_and(|count| *count >= self.limits.running_per_tenant)
    }

    fn take(&mut self, claim: Claim) {
        self.running += 1;
        *self.running_by_owner.entry(claim.owner).or_default() += 1;
        *self.running_by_tenant.entry(claim.owner.tenant).or_default() += 1;
        let lane = self.lanes.entry(claim.task).or_default();
        match claim.access {
            WorkspaceAccess::None => {}
            WorkspaceAccess::Read => lane.readers += 1,
            WorkspaceAccess::ReadWrite => lane.writer = true,
        }
    }

    fn count_queued(&mut self, owner: Owner) {
        self.queued += 1;
        *self.queued_by_owner.entry(owner).or_default() += 1;
    }

    fn unreserve(&mut self, claim: Claim) {
        if let Some(lane) = self.lanes.get_mut(&claim.task) {
            lane.reserved -= 1;
            self.queued -= 1;
            less(&mut self.queued_by_owner, claim.owner);
        }
    }

    fn tidy(&mut self, task: TaskId) {
        if self.lanes.get(&task).is_some_and(Lane::is_idle) {
            self.lanes.remove(&task);
        }
    }
}

/// One less of what `key` has; nothing is kept for none.
fn less<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests;
