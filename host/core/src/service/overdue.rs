//! Tasks whose time is over: found by the store, a bounded number each round, and
//! archived, deleted or purged by the host that holds them.
//!
//! Use of a task costs no write: calls and changes of files are in its log anyway,
//! and what leaves no trace there (reading, open streams, calls that print
//! nothing) is collected in memory and noted once a round, and seldom more than
//! ten times in the time after which the task would be idle.
//!
//! A clock that jumps must not end what people work with. The time that counts
//! goes on with the monotonic clock from when the host started, and is never
//! ahead of the clock on the wall; a task must be found in two rounds; and each
//! round does so much and no more.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::tasks::Tasks;
use crate::clock::Timestamp;
use crate::dispatch::chain;
use crate::error::Error;
use crate::hub::Hub;
use crate::id::TaskId;
use crate::ports::cluster::{Holder, Lease};
use crate::ports::store::Times;
use crate::task::{Lifetimes, Overdue, Task};

/// Tasks that a round looks at.
const FOUND: u32 = 256;
/// Tasks that a round does something to.
const DONE: usize = 32;
/// Tasks that are noted as used by one write.
const NOTED: usize = 1_000;

/// How long tasks live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeConfig {
    /// Without use, archived, in all.
    pub lifetimes: Lifetimes,
    /// How long what was deleted is kept, in milliseconds; 0: not at all.
    pub keep_deleted_ms: i64,
    /// Between two rounds.
    pub every: Duration,
}

/// The time that goes on evenly.
struct EvenTime {
    began: Timestamp,
    since: Instant,
}

impl EvenTime {
    fn now(&self, wall: Timestamp) -> Timestamp {
        let elapsed = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.began.plus_millis(elapsed).min(wall)
    }
}

/// Looks after tasks whose time is over.
pub(super) struct Overseer {
    tasks: Tasks,
    config: LifeConfig,
    even: EvenTime,
    /// Whether it began by the database's clock, if that has one of its own: what other
    /// hosts stored must not be older here than it is.
    agreed: bool,
    /// Those that the last round found.
    found: HashMap<TaskId, Overdue>,
}

impl Overseer {
    pub(super) fn new(tasks: Tasks, config: LifeConfig) -> Self {
        let even = EvenTime { began: tasks.parts.ports.ids.now(), since: Instant::now() };
        Self { tasks, config, even, agreed: false, found: HashMap::new() }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(self.config.every).await;
            if *self.tasks.parts.ports.cluster.lease().borrow() == Lease::Lost {
                continue;
            }
            if let Err(error) = self.round().await {
                tracing::warn!(error = %chain(&error), "tasks whose time is over could not be looked for");
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        let ports = self.tasks.parts.ports.clone();
        if !self.agreed {
            if let Some(began) = ports.store.clock().await? {
                self.even = EvenTime { began, since: Instant::now() };
            }
            self.agreed = true;
        }
        let times = Times { now: self.even.now(ports.ids.now()), lifetimes: self.config.lifetimes };
        let in_use = self.in_use(&self.tasks.parts.hub);
        let used: Vec<_> = in_use.iter().copied().collect();
        for tasks in used.chunks(NOTED) {
            ports.store.note_active(tasks, times).await?;
        }
        let found = ports.store.overdue_tasks(times, FOUND).await?;
        let before = std::mem::replace(&mut self.found, found.iter().map(|(task, why)| (task.id, *why)).collect());
        let twice = found.into_iter().filter(|(task, why)| before.get(&task.id) == Some(why));
        for (task, why) in twice.take(DONE) {
            if why == Overdue::Idle && in_use.contains(&task.id) {
                continue;
            }
            if let Err(error) = self.end(&task, why).await {
                let why = why.as_str();
                tracing::warn!(task = %task.id, why, error = %chain(&error), "a task whose time is over stays");
            }
        }
        Ok(())
    }

    /// Tasks that are used now, or were since the last round.
    fn in_use(&self, hub: &Hub) -> HashSet<TaskId> {
        let parts = &self.tasks.parts;
        let mut used: HashSet<_> = parts.activity.take_used().into_iter().collect();
        used.extend(hub.watched_tasks());
        used.extend(parts.dispatcher.active_tasks());
        used
    }

    async fn end(&self, task: &Task, why: Overdue) -> Result<(), Error> {
        // By whoever reaches the workspace, and one host alone.
        if self.tasks.parts.ports.cluster.hold(task.id).await? != Some(Holder::Here) {
            return Ok(());
        }
        tracing::info!(task = %task.id, why = why.as_str(), "the time of a task is over");
        let (tasks, task) = (self.tasks.clone(), task.clone());
        let end = async move {
            match why {
                Overdue::Idle => tasks.put_aside(&task, &why.into()).await,
                Overdue::ArchivedLong | Overdue::Age => tasks.remove(&task, false, &why.into()).await,
                Overdue::DeletedLong => tasks.remove(&task, true, &why.into()).await,
            }
        };
        self.tasks.on_its_own(end).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_counts_does_not_jump() {
        let at = Timestamp::from_millis;
        let even = EvenTime { began: at(1_000_000), since: Instant::now() };
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(even.now(at(1_000_500)), at(1_000_500));
        assert_eq!(even.now(at(9_000_000_000)), at(1_000_500), "forwards it goes on evenly");
        assert_eq!(even.now(at(900_000)), at(900_000), "backwards nothing is old");
    }
}
