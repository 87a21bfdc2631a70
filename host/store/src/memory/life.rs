//! The life of tasks in memory.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::{Appended, HeldTask, Times};
use bulkhead_core::principal::Owner;
use bulkhead_core::task::{KeptStep, Overdue, Task, TaskState};

use super::state::{Entry, State};

impl State {
    pub(super) fn extents(&self, owner: Owner) -> Vec<HeldTask> {
        let of_owner = self.tasks.values().filter(|entry| entry.task.owner == owner);
        let held = of_owner.filter(|entry| entry.task.state != TaskState::Deleted || entry.task.kept_until.is_some());
        let held = held.map(|entry| HeldTask {
            task: entry.task.id,
            extent: entry.extent,
            kept: entry.task.kept_until.is_some(),
        });
        held.collect()
    }

    pub(super) fn step_kept(
        &mut self,
        id: TaskId,
        step: KeptStep,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Option<Appended> {
        let entry = self.tasks.get_mut(&id)?;
        let Task { state, kept_until, .. } = &mut entry.task;
        match (step, *state, *kept_until) {
            (KeptStep::Keep(until), TaskState::Ready | TaskState::Archived, None) => {
                (*state, *kept_until) = (TaskState::Deleted, Some(until));
            }
            (KeptStep::Bring, TaskState::Deleted, Some(_)) => {
                (*state, *kept_until) = (TaskState::Archived, None);
                entry.aged_from = at;
            }
            (KeptStep::Purge, TaskState::Deleted, Some(_)) => *kept_until = None,
            _ => return None,
        }
        entry.task.updated_at = at;
        let appended = entry.append(events);
        if let Some(audit) = audit {
            self.audit.append(audit);
        }
        Some(appended)
    }

    pub(super) fn note_active(&mut self, tasks: &[TaskId], times: Times) {
        for task in tasks {
            if let Some(entry) = self.tasks.get_mut(task)
                && entry.used_at() < times.now.plus_millis(-entry.times(times)[0] / 10)
            {
                entry.active_at = times.now;
            }
        }
    }

    pub(super) fn overdue(&self, times: Times, limit: u32) -> Vec<(Task, Overdue)> {
        let overdue = self.tasks.values().filter_map(|entry| Some((entry.task.clone(), entry.overdue(times)?)));
        overdue.take(limit as usize).collect()
    }
}

impl Entry {
    fn used_at(&self) -> Timestamp {
        self.task.updated_at.max(self.active_at)
    }

    /// Idle, archived and age, in milliseconds.
    fn times(&self, times: Times) -> [i64; 3] {
        let own = Times { lifetimes: self.task.lifetimes, ..times }.configured();
        let [idle, archived, age] = times.configured();
        [idle.min(own[0]), archived.min(own[1]), age.min(own[2])]
    }

    fn overdue(&self, times: Times) -> Option<Overdue> {
        let [idle, archived, age] = self.times(times);
        let is_over = |since: Timestamp, time: i64| since < times.now.plus_millis(-time);
        let last = self.events.back().map_or(Timestamp::default(), |event| event.body.at);
        match self.task.state {
            TaskState::Deleted => {
                self.task.kept_until.filter(|until| *until <= times.now).map(|_| Overdue::DeletedLong)
            }
            TaskState::Initializing => None,
            _ if is_over(self.task.created_at.max(self.aged_from), age) => Some(Overdue::Age),
            TaskState::Ready => is_over(self.used_at().max(last), idle).then_some(Overdue::Idle),
            TaskState::Archived | TaskState::Failed => {
                is_over(self.task.updated_at, archived).then_some(Overdue::ArchivedLong)
            }
        }
    }
}
