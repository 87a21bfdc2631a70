//! Tasks: create, fill, list, follow. What becomes of them is [`super::lifecycle`].

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Ports;
use super::lifecycle::Step;
use super::sessions::check_label;
use super::tools::Tools;
use super::turns::Turns;
use crate::access::{Access, OwnedSession, OwnedTask, Permit};
use crate::activity::Activity;
use crate::audit::{AuditBody, NewAudit};
use crate::clock::NewId as _;
use crate::dispatch::{Dispatcher, chain};
use crate::error::Error;
use crate::event::{ChangeCounts, ChangedBy, EventBody, NewEvent, Seq, StepStatus, TaskStep};
use crate::grants::{Capability, Ceiling};
use crate::hub::{Hub, Subscription};
use crate::id::{SessionId, TaskId};
use crate::limits::{Limits, LimitsPatch};
use crate::ports::import::{Import, ImportError, Imported};
use crate::ports::store::{Page, StoreError};
use crate::ports::workspace::ByteStream;
use crate::principal::By;
use crate::quota::{Extent, Quotas};
use crate::reached::Reached;
use crate::steps;
use crate::task::{Lifetimes, Source, Task, TaskState};
use crate::tool::{MAX_CAPABILITIES, PinnedTool, ToolSet};

/// Most tools that a request may name.
pub const MAX_TOOLS: usize = 256;

/// A task that a client asks for.
pub struct NewTask {
    /// The session it belongs to, checked to be the principal's.
    pub session: Option<OwnedSession>,
    /// A name for people.
    pub label: String,
    /// What its workspace is filled with.
    pub fill: Fill,
    /// Names of tools to pin; every tool that the tenant may use, if absent.
    pub tools: Option<Vec<String>>,
    /// Limits to be narrowed for the task.
    pub limits: LimitsPatch,
    /// What its calls may ever be granted; whatever the policy and the tools
    /// say, if absent.
    pub capabilities: Option<Vec<Capability>>,
    /// How long it may be without use, and live; narrows what the operator configured.
    pub lifetimes: Lifetimes,
}

/// What a workspace is filled with at first.
pub enum Fill {
    /// Nothing.
    Empty,
    /// A git repository.
    Git {
        /// Where it is.
        url: String,
        /// Branch, tag or full commit id.
        reference: Option<String>,
    },
    /// A tar archive that the client sends.
    Archive(ByteStream),
}

/// Between two tries to store that a workspace is filled, and how many: for an hour.
const MOVE_AGAIN: Duration = Duration::from_millis(500);
const MOVES: u32 = 7_200;

/// The tasks whose workspaces are being filled here.
#[derive(Clone, Debug, Default)]
pub(super) struct Filling(Arc<Mutex<HashSet<TaskId>>>);

/// That one is, until it is dropped.
struct IsFilling(Filling, TaskId);

impl Filling {
    fn begin(&self, task: TaskId) -> IsFilling {
        self.lock().insert(task);
        IsFilling(self.clone(), task)
    }

    fn has(&self, task: TaskId) -> bool {
        self.lock().contains(&task)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IsFilling {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// The use cases of tasks.
#[derive(Clone)]
pub struct Tasks {
    pub(super) parts: TaskParts,
    pub(super) tracker: TaskTracker,
}

/// What the use cases of tasks work with.
#[derive(Clone)]
pub(super) struct TaskParts {
    pub(super) ports: Ports,
    pub(super) access: Arc<Access>,
    pub(super) hub: Arc<Hub>,
    pub(super) dispatcher: Dispatcher,
    pub(super) quotas: Arc<Quotas>,
    pub(super) filling: Filling,
    pub(super) tools: Tools,
    /// Of every task's limits.
    pub(super) ceiling: Limits,
    pub(super) activity: Arc<Activity>,
    pub(super) turns: Arc<Turns>,
    /// What the operator configured.
    pub(super) lifetimes: Lifetimes,
    /// How long what was deleted is kept, in milliseconds.
    pub(super) keep_deleted_ms: i64,
}

impl Fill {
    /// What a task tells of it, and the state that it begins in.
    fn begins(&self) -> (Source, TaskState) {
        match self {
            Self::Empty => (Source::Empty, TaskState::Ready),
            Self::Git { url, reference } => {
                (Source::Git { url: url.clone(), reference: reference.clone() }, TaskState::Initializing)
            }
            Self::Archive(_) => (Source::Archive, TaskState::Initializing),
        }
    }
}

impl Tasks {
    pub(super) fn new(parts: TaskParts) -> Self {
        Self { parts, tracker: TaskTracker::new() }
    }

    /// Makes a task. An empty one is ready at once, one from an archive when
    /// this returns; one from git is filled in the background.
    ///
    /// # Errors
    /// If a name, limit or source is not allowed, or the store fails. An
    /// archive that can't be unpacked makes a failed task, not an error.
    pub async fn create(&self, permit: &Permit, new: NewTask) -> Result<Task, Error> {
        check_label(&new.label)?;
        if let Fill::Git { url, .. } = &new.fill {
            self.parts
                .ports
                .importer
                .check_git_url(url)
                .map_err(|error| Error::invalid("source.url", error.to_string()))?;
        }
        let remedy = "the server's; ask for less, or raise it in bulkhead.toml";
        let limits = self.parts.ceiling.narrowed(&new.limits).map_err(|error| Error::over_ceiling(&error, remedy))?;
        let ceiling = ceiling(new.capabilities.as_deref())?;
        check_lifetimes(&new.lifetimes, &self.parts.lifetimes)?;
        let tools = self.pin(permit, new.tools).await?;
        self.parts.quotas.one_more_task(permit.owner()).await?;
        if !matches!(new.fill, Fill::Empty) {
            self.parts.quotas.room_to_fill(permit.owner()).await?;
        }
        let now = self.parts.ports.ids.now();
        let (source, state) = new.fill.begins();
        let mut task = Task {
            id: self.parts.ports.ids.task_id(),
            owner: permit.owner(),
            session: new.session.map(|session| session.session().id),
            label: new.label,
            state,
            failure: None,
            source,
            tool_set: tools.digest,
            limits,
            ceiling,
            created_at: now,
            updated_at: now,
            lifetimes: new.lifetimes,
            kept_until: None,
            last_seq: 0,
            first_seq: 1,
        };
        let begun = Instant::now();
        self.parts.ports.workspaces.create(task.owner.tenant, task.id, Extent::quota(&task.limits)).await?;
        steps::reach("task.placed");
        let made = Step::took(begun).finished(TaskStep::Workspace);
        let mut bodies = vec![EventBody::TaskCreated { source: task.source.clone() }, made];
        if state == TaskState::Ready {
            bodies.extend([backend(), EventBody::TaskReady {}]);
        }
        let events: Vec<_> = bodies.iter().map(|body| NewEvent::new(now, None, body)).collect();
        let body =
            AuditBody::TaskCreated { tools: tools.digest, limits: task.limits.clone(), ceiling: task.ceiling.clone() };
        let record = NewAudit::new(now, task.owner, task.id, None, &body).by(&permit.principal().into());
        task.last_seq = self.parts.ports.store.create_task(&task, &tools, events, record).await?.last;
        steps::reach("task.created");
        self.parts.quotas.begin(task.owner, task.id);
        let fill = match new.fill {
            Fill::Empty => return Ok(task),
            Fill::Git { url, reference } => (Import::Git { url, reference }, false),
            Fill::Archive(stream) => (Import::Archive(stream), true),
        };
        let (import, wait) = fill;
        let (this, filled) = (self.clone(), task.clone());
        // On its own: a client that goes away must not leave it half done.
        let filling = self.tracker.spawn(async move { this.fill(&filled, import).await });
        if wait {
            // A panic in it is logged by the runtime; the record tells the rest.
            let _ = filling.await;
            task = self.parts.ports.store.task(task.owner, task.id).await?.unwrap_or(task);
        }
        Ok(task)
    }

    async fn pin(&self, permit: &Permit, names: Option<Vec<String>>) -> Result<ToolSet, Error> {
        let all = self.parts.tools.pinnable(permit.owner().tenant).await?;
        let all = all.into_iter().filter_map(|tool| {
            let name = tool.manifest()?.name.clone();
            Some(PinnedTool { name, id: tool.id, digest: tool.digest })
        });
        let Some(names) = names else { return Ok(ToolSet::new(all)) };
        if names.len() > MAX_TOOLS {
            return Err(Error::invalid("tools", format!("names more than {MAX_TOOLS} tools")));
        }
        let set = ToolSet::new(all);
        let pinned = names.iter().map(|name| {
            let known = set.get(name).cloned();
            known.ok_or_else(|| Error::invalid("tools", format!("there is no tool `{name}` that is ready")))
        });
        Ok(ToolSet::new(pinned.collect::<Result<Vec<_>, _>>()?))
    }

    async fn fill(&self, task: &Task, import: Import) {
        let _filling = self.parts.filling.begin(task.id);
        self.step(task, TaskStep::Import, StepStatus::Started, Step::default()).await;
        let begun = Instant::now();
        let filled = match self.parts.ports.workspaces.open(task.owner.tenant, task.id).await {
            Ok(root) => {
                let imported = self.parts.ports.importer.import(root.clone(), import).await;
                let told = imported.as_ref().map(|imported| *imported).map_err(ToString::to_string);
                self.stepped(task, TaskStep::Import, begun, told).await;
                let begun = Instant::now();
                let within = self.within_quota(task, &root).await;
                if let Err(error) = &within {
                    self.stepped(task, TaskStep::Quota, begun, Err(error.to_string())).await;
                }
                within.and(imported)
            }
            Err(error) => Err(ImportError::Io(std::io::Error::other(error))),
        };
        let (to, failure, bodies) = match filled {
            Ok(imported) => {
                (TaskState::Ready, None, vec![imported_event(imported), backend(), EventBody::TaskReady {}])
            }
            Err(error) => {
                tracing::warn!(task = %task.id, error = %chain(&error), "a workspace could not be filled");
                let reason = error.to_string();
                (TaskState::Failed, Some(reason.clone()), vec![EventBody::TaskFailed { reason }])
            }
        };
        let mut moved = self.move_to(task, to, failure.as_deref(), &bodies, None).await;
        for _ in 0..MOVES {
            let nothing_stored = matches!(&moved, Err(Error::Store(StoreError::Unavailable(_) | StoreError::DiskFull)));
            if !nothing_stored || self.tracker.is_closed() {
                break;
            }
            tokio::time::sleep(MOVE_AGAIN).await;
            moved = self.move_to(task, to, failure.as_deref(), &bodies, None).await;
        }
        if matches!(moved, Ok(false)) {
            // It was deleted while it was filled.
            self.parts.quotas.end(task.owner, task.id);
        }
        if let Err(error) = moved {
            tracing::error!(task = %task.id, error = %chain(&error), "the state of a task could not be stored");
        }
    }

    /// Measures what was filled in. What makes its user hold too much goes again.
    async fn within_quota(&self, task: &Task, root: &Arc<OwnedFd>) -> Result<(), ImportError> {
        let failed = |error: Error| ImportError::Io(std::io::Error::other(error));
        let quotas = &self.parts.quotas;
        quotas.measured(task.owner, task.id, root).await.map_err(failed)?;
        let Some(over) = quotas.over(task.owner).await.map_err(failed)? else { return Ok(()) };
        // The record stays, and says why; the directory comes again, empty.
        let workspaces = &self.parts.ports.workspaces;
        let emptied = async {
            workspaces.remove(task.owner.tenant, task.id).await?;
            workspaces.create(task.owner.tenant, task.id, Extent::quota(&task.limits)).await
        };
        emptied.await.map_err(|error| failed(error.into()))?;
        quotas.begin(task.owner, task.id);
        let noted = self.parts.ports.store.note_extent(task.id, Extent::default()).await;
        noted.map_err(|error| failed(error.into()))?;
        let Reached { message, .. } = Reached::of(over);
        let reason = format!("the source has more than there is room for: with it, {message}");
        Err(ImportError::Refused { code: "quota", reason })
    }

    pub(super) async fn move_to(
        &self,
        task: &Task,
        to: TaskState,
        failure: Option<&str>,
        bodies: &[EventBody],
        record: Option<(AuditBody, &By)>,
    ) -> Result<bool, Error> {
        let (id, now) = (task.id, self.parts.ports.ids.now());
        let record = record.map(|(body, by)| NewAudit::new(now, task.owner, id, None, &body).by(by));
        let events: Vec<_> = bodies.iter().map(|body| NewEvent::new(now, None, body)).collect();
        let moved = self.parts.ports.store.move_task(id, to, failure, now, events.clone(), record).await?;
        if let Some(appended) = moved {
            self.parts.ports.meter.events_appended(events.len() as u64);
            self.parts.hub.publish(task.owner.tenant, id, appended, events);
        }
        Ok(moved.is_some())
    }

    /// The owner's tasks, newest first; or those that are deleted and `kept`.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(
        &self,
        permit: &Permit,
        session: Option<SessionId>,
        kept: bool,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, Error> {
        Ok(self.parts.ports.store.list_tasks(permit.owner(), session, kept, page).await?)
    }

    /// The tools that a task pins.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn tools(&self, task: &OwnedTask) -> Result<Arc<ToolSet>, Error> {
        self.parts.access.tool_set(task.task()).await
    }

    /// Follows a task's events after a number.
    pub fn follow(&self, task: &OwnedTask, after: Seq) -> Subscription {
        let Task { id, owner, .. } = *task.task();
        self.parts.hub.subscribe(self.parts.ports.store.clone(), (owner.tenant, id), after)
    }

    /// How much is remembered of tasks: of which workspaces are used and measured, what
    /// is frozen, who has its turn, and calls that are open.
    pub fn remembered(&self) -> usize {
        let (measured, _) = self.parts.quotas.remembered();
        let frozen = self.parts.access.remembered() + measured;
        let open = self.parts.dispatcher.active_tasks().len() + self.parts.turns.len() + self.parts.activity.len();
        usize::try_from(frozen).unwrap_or(usize::MAX).saturating_add(open)
    }

    /// How many tasks are being watched.
    pub fn watched(&self) -> usize {
        self.parts.hub.watched()
    }

    /// Ends the tasks whose filling an earlier run left half done.
    pub(super) async fn recover(&self) -> Result<u64, Error> {
        const BATCH: u32 = 100;
        let mut count = 0;
        loop {
            let left = self.parts.ports.cluster.take_over_tasks(TaskState::Initializing, BATCH).await?;
            if left.is_empty() {
                return Ok(count);
            }
            for task in left {
                // It was this host's all the time, whose lease was over meanwhile.
                if self.parts.filling.has(task.id) {
                    continue;
                }
                let reason = "the host stopped while the workspace was being filled".to_owned();
                let body = EventBody::TaskFailed { reason: reason.clone() };
                self.move_to(&task, TaskState::Failed, Some(&reason), &[body], None).await?;
                count += 1;
            }
        }
    }

    /// Asks whoever packs to step back: what is not packed stays as it is.
    pub(super) fn stop_packing(&self) {
        self.parts.turns.stop();
    }

    /// The same for those who pack now: this host has lost its lease, and others may soon
    /// have the workspaces.
    pub(super) fn suspend(&self) {
        self.parts.turns.step_back();
    }

    /// Waits until nothing is being filled, packed or deleted.
    pub(super) async fn shutdown(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// What a task's calls may ever be granted.
fn ceiling(named: Option<&[Capability]>) -> Result<Ceiling, Error> {
    match named {
        None => Ok(Ceiling::OPEN),
        Some(named) if named.len() > MAX_CAPABILITIES => {
            Err(Error::invalid("capabilities", format!("names more than {MAX_CAPABILITIES}")))
        }
        Some(named) => Ceiling::of(named).map_err(|why| Error::invalid("capabilities", why)),
    }
}

/// A task's own times are shorter than what the operator configured, and long enough
/// that a round notices them.
fn check_lifetimes(own: &Lifetimes, most: &Lifetimes) -> Result<(), Error> {
    const LEAST_MS: u64 = 1_000;
    for (name, own, most) in [
        ("archive_idle_ms", own.archive_idle_ms, most.archive_idle_ms),
        ("delete_archived_ms", own.delete_archived_ms, most.delete_archived_ms),
        ("max_age_ms", own.max_age_ms, most.max_age_ms),
    ] {
        let most = most.unwrap_or(u64::MAX >> 8);
        if own.is_some_and(|own| own < LEAST_MS || own > most) {
            let reason = format!("must be {LEAST_MS} to {most} milliseconds");
            return Err(Error::invalid(format!("lifecycle.{name}"), reason));
        }
    }
    Ok(())
}

/// What runs a task's calls: each in a fresh instance of its tool, so there is nothing
/// to be started for the task.
fn backend() -> EventBody {
    Step::named("wasm").finished(TaskStep::Backend)
}

fn imported_event(imported: Imported) -> EventBody {
    let created = imported.files + imported.directories + imported.symlinks;
    let counts = ChangeCounts { created, modified: 0, deleted: 0 };
    EventBody::files_changed(ChangedBy::Import, Vec::new(), counts, true)
}
