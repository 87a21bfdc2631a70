//! Whose turn it is: owners take turns, and the tasks of an owner take turns
//! among themselves. So an owner with a thousand waiting calls in a hundred
//! tasks is asked as often as one with a single call.

use std::collections::{HashMap, VecDeque};

use crate::id::TaskId;
use crate::principal::Owner;

/// Tasks in which calls wait, each once.
#[derive(Default)]
pub(super) struct Turns {
    /// Who waits, in turn: the first is asked next.
    owners: VecDeque<Owner>,
    /// Their tasks, in turn.
    tasks: HashMap<Owner, VecDeque<TaskId>>,
}

impl Turns {
    /// Adds a task, behind the others of its owner.
    pub(super) fn add(&mut self, owner: Owner, task: TaskId) {
        let tasks = self.tasks.entry(owner).or_default();
        if tasks.is_empty() {
            self.owners.push_back(owner);
        }
        tasks.push_back(task);
    }

    /// Takes a task out, if it is there.
    pub(super) fn remove(&mut self, owner: Owner, task: TaskId) {
        let Some(tasks) = self.tasks.get_mut(&owner) else { return };
        tasks.retain(|waiting| *waiting != task);
        if tasks.is_empty() {
            self.tasks.remove(&owner);
            self.owners.retain(|waiting| *waiting != owner);
        }
    }

    /// Takes the first task that fits out, of the first owner that is not
    /// held back and has one. That owner goes behind the others; those passed
    /// over keep their place.
    pub(super) fn take(
        &mut self,
        held_back: impl Fn(Owner) -> bool,
        fits: impl Fn(TaskId) -> bool,
    ) -> Option<(Owner, TaskId)> {
        let (place, owner, index) = self.owners.iter().enumerate().find_map(|(place, owner)| {
            if held_back(*owner) {
                return None;
            }
            let index = self.tasks.get(owner)?.iter().position(|task| fits(*task))?;
            Some((place, *owner, index))
        })?;
        self.owners.remove(place);
        let tasks = self.tasks.get_mut(&owner)?;
        // Those before it go on waiting, and keep their place too.
        let task = tasks.remove(index)?;
        if tasks.is_empty() {
            self.tasks.remove(&owner);
        } else {
            self.owners.push_back(owner);
        }
        Some((owner, task))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.tasks.is_empty()
    }
}
