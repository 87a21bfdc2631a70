//! What lies on the disk and belongs to nobody: after a crash between two steps,
//! or of a database that was restored from an older backup.
//!
//! Nothing is removed on first sight: another host may be just making it. What
//! belongs to nobody for all of the grace time, by the monotonic clock, is looked
//! up once more, in its turn, and goes. If the database knows less than half of
//! what lies there, it is more likely the wrong one than all of that garbage:
//! then nothing goes, and an error says so. Components that no tool has go likewise.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::tasks::Tasks;
use crate::digest::Digest;
use crate::dispatch::chain;
use crate::error::Error;
use crate::id::{TaskId, TenantId};
use crate::ports::archive::Place;
use crate::ports::cluster::{Holder, Lease};
use crate::ports::sandbox::SandboxError;
use crate::task::{Task, TaskState};

/// Tasks that are looked up at once.
const LOOKED_UP: usize = 500;
/// Strays that a round removes.
const REMOVED: usize = 100;
/// So many strays are no sign of a wrong database.
const FEW: usize = 8;

/// How what belongs to nobody is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepConfig {
    /// Between two rounds; none: never.
    pub every: Option<Duration>,
    /// How long something must belong to nobody.
    pub grace: Duration,
}

/// Sweeps.
pub(super) struct Sweeper {
    tasks: Tasks,
    config: SweepConfig,
    /// Since when they are known to belong to nobody.
    strays: HashMap<(TenantId, TaskId), Instant>,
    /// The same of components that no tool has.
    components: HashMap<Digest, Instant>,
}

/// What a round saw.
#[derive(Default)]
struct Seen {
    known: usize,
    strays: HashSet<(TenantId, TaskId)>,
    archived: Vec<Task>,
}

impl Sweeper {
    pub(super) fn new(tasks: Tasks, config: SweepConfig) -> Self {
        Self { tasks, config, strays: HashMap::new(), components: HashMap::new() }
    }

    pub(super) async fn run(mut self) {
        let Some(every) = self.config.every else { return };
        loop {
            tokio::time::sleep(every).await;
            if *self.tasks.parts.ports.cluster.lease().borrow() == Lease::Lost {
                continue;
            }
            // A store that does not answer knows nothing, and so does this round.
            let swept = async {
                self.round().await?;
                self.components().await
            };
            if let Err(error) = swept.await {
                tracing::warn!(error = %chain(&error), "what belongs to nobody could not be looked for");
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        let seen = self.look().await?;
        self.tasks.parts.ports.meter.strays(seen.strays.len() as u64);
        if seen.strays.len() > FEW.max(seen.known) {
            self.strays.clear();
            tracing::error!(
                known = seen.known,
                unknown = seen.strays.len(),
                "the database does not know most of the workspaces that lie here; is it the right one? Nothing is removed"
            );
            return Ok(());
        }
        let now = Instant::now();
        self.strays.retain(|stray, _| seen.strays.contains(stray));
        for stray in seen.strays {
            self.strays.entry(stray).or_insert_with(|| {
                tracing::info!(tenant = %stray.0, task = %stray.1, "a workspace belongs to no task");
                now
            });
        }
        let due = self.strays.iter().filter(|(_, since)| since.elapsed() >= self.config.grace);
        let due: Vec<_> = due.map(|(stray, _)| *stray).take(REMOVED).collect();
        for (tenant, task) in due {
            self.strays.remove(&(tenant, task));
            let tasks = self.tasks.clone();
            self.tasks.on_its_own(async move { tasks.sweep(tenant, task).await }).await?;
        }
        for task in seen.archived {
            self.pack_again(task).await?;
        }
        Ok(())
    }

    /// Removes components that no tool has. A database that knows none of many is the
    /// wrong one.
    async fn components(&mut self) -> Result<(), Error> {
        let ports = &self.tasks.parts.ports;
        let found = ports.components.found().await;
        let found = found.map_err(|error| SandboxError::new("components could not be listed", error))?;
        let mut unknown: HashSet<_> = found.iter().copied().collect();
        for digests in found.chunks(LOOKED_UP) {
            for digest in ports.store.components_of_tools(digests).await? {
                unknown.remove(&digest);
            }
        }
        if unknown.len() == found.len() && unknown.len() > FEW {
            self.components.clear();
            tracing::error!(
                unknown = unknown.len(),
                "the database knows none of the components that lie here; is it the right one?"
            );
            return Ok(());
        }
        self.components.retain(|digest, _| unknown.contains(digest));
        let now = Instant::now();
        for digest in unknown {
            self.components.entry(digest).or_insert(now);
        }
        let due = self.components.iter().filter(|(_, since)| since.elapsed() >= self.config.grace);
        let due: Vec<_> = due.map(|(digest, _)| *digest).take(REMOVED).collect();
        for digest in due {
            self.components.remove(&digest);
            if self.tasks.parts.tools.sweep(digest).await? {
                tracing::info!(%digest, "removed a component that no tool has");
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<Seen, Error> {
        let ports = &self.tasks.parts.ports;
        let (mut seen, mut after) = (Seen::default(), None);
        while let Some((tenant, found)) =
            ports.archives.found(after).await.map_err(|error| self.tasks.failure(error))?
        {
            after = Some(tenant);
            for ids in found.chunks(LOOKED_UP) {
                let rows = ports.store.tasks_of(ids).await?;
                let mut owners: HashMap<_, _> = rows.into_iter().map(|task| (task.id, task)).collect();
                for id in ids {
                    match owners.remove(id).filter(|task| task.owner.tenant == tenant && owns(task)) {
                        Some(task) => {
                            seen.known += 1;
                            seen.archived.extend(Some(task).filter(|task| task.state == TaskState::Archived));
                        }
                        None => {
                            seen.strays.insert((tenant, *id));
                        }
                    }
                }
            }
        }
        Ok(seen)
    }

    /// Packs what an earlier run, or a failure, left in its directory.
    async fn pack_again(&self, task: Task) -> Result<(), Error> {
        let ports = &self.tasks.parts.ports;
        let place = ports.archives.place(task.owner.tenant, task.id).await;
        if place.map_err(|error| self.tasks.failure(error))? != Place::Directory
            || self.tasks.parts.turns.is_taken(task.id)
            || ports.cluster.hold(task.id).await? != Some(Holder::Here)
        {
            return Ok(());
        }
        self.tasks.pack_later(&task).await;
        Ok(())
    }
}

/// Whether there may be a workspace of a task.
fn owns(task: &Task) -> bool {
    task.state != TaskState::Deleted || task.kept_until.is_some()
}

impl Tasks {
    /// Removes a workspace that belongs to nobody, if that is still so.
    async fn sweep(&self, tenant: TenantId, task: TaskId) -> Result<(), Error> {
        let _turn = self.parts.turns.take(task).await;
        let ports = &self.parts.ports;
        if ports.store.tasks_of(&[task]).await?.iter().any(owns) {
            return Ok(());
        }
        ports.workspaces.remove(tenant, task).await?;
        ports.meter.stray_swept();
        tracing::warn!(%tenant, %task, "removed a workspace that belonged to no task");
        Ok(())
    }
}
