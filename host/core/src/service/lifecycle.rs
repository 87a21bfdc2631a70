//! The life of a task after it was made: archive, restore, delete, purge.
//!
//! State in the store and place on the disk change in an order in which whatever
//! is left half done can be taken up: a task is `archived` before it is packed,
//! and unpacked before it is `ready`; what is deleted for good goes from the disk
//! before its record says so. Where a workspace is, the disk alone says
//! ([`crate::ports::archive`]).

use tokio::time::Instant;

use super::tasks::Tasks;
use super::turns::Held;
use crate::access::OwnedTask;
use crate::audit::{AuditBody, NewAudit};
use crate::dispatch::chain;
use crate::error::Error;
use crate::event::{EventBody, NewEvent, StepStatus, TaskStep};
use crate::ports::archive::{ArchiveError, Packed, Place};
use crate::ports::import::Imported;
use crate::ports::workspace::WorkspaceError;
use crate::principal::By;
use crate::quota::Extent;
use crate::steps;
use crate::task::{KeptStep, Overdue, Task, TaskState};

/// Why something becomes of a task.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    /// None if somebody asked for it.
    reason: Option<Overdue>,
    by: By,
}

impl Cause {
    fn asked(task: &OwnedTask) -> Self {
        Self { reason: None, by: task.by().clone() }
    }
}

impl From<Overdue> for Cause {
    fn from(reason: Overdue) -> Self {
        Self { reason: Some(reason), by: By::HOST }
    }
}

impl Tasks {
    /// Takes no calls until restored; its workspace is packed once the calls that go
    /// on have ended. Nothing happens to one that is archived.
    ///
    /// # Errors
    /// If the task is neither ready nor archived, or the store fails.
    pub async fn archive(&self, task: &OwnedTask) -> Result<(), Error> {
        let (this, cause, task) = (self.clone(), Cause::asked(task), task.task().clone());
        self.on_its_own(async move { this.put_aside(&task, &cause).await }).await
    }

    /// Takes calls again: one that is archived, or deleted and kept. Its workspace is
    /// unpacked, if it was packed. Nothing happens to one that is ready.
    ///
    /// # Errors
    /// If there is nothing to be restored, no room for it, or the store fails.
    pub async fn restore(&self, task: &OwnedTask) -> Result<(), Error> {
        let (this, by, task) = (self.clone(), task.by().clone(), task.task().clone());
        self.on_its_own(async move { this.bring_back(&task, &by).await }).await
    }

    /// Cancels the task's calls. Its workspace is kept for a while, in which it can be
    /// restored, unless it never was ready or that is not wanted (`purge`); one that is
    /// kept is then removed. Record and events stay until retention.
    ///
    /// # Errors
    /// If the store or the file layer fails.
    pub async fn delete(&self, task: &OwnedTask, purge: bool) -> Result<(), Error> {
        let (this, cause, task) = (self.clone(), Cause::asked(task), task.task().clone());
        self.on_its_own(async move { this.remove(&task, purge, &cause).await }).await
    }

    /// Not undone by a client that goes away in the middle.
    pub(super) async fn on_its_own(
        &self,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<(), Error> {
        self.tracker.spawn(work).await.unwrap_or(Err(Error::Stopping))
    }

    /// The task as it is now.
    async fn now(&self, task: &Task) -> Result<Task, Error> {
        let now = self.parts.ports.store.task(task.owner, task.id).await?;
        now.ok_or_else(|| Error::not_found("task", task.id))
    }

    pub(super) async fn put_aside(&self, task: &Task, cause: &Cause) -> Result<(), Error> {
        let turn = self.parts.turns.take(task.id).await;
        let reason = cause.reason;
        let (event, record) = (EventBody::TaskArchived { reason }, AuditBody::TaskArchived { reason });
        if !self.move_to(task, TaskState::Archived, None, &[event], Some((record, &cause.by))).await? {
            return match self.now(task).await?.state {
                TaskState::Archived => Ok(()),
                state => Err(wrong_state(task, state, "only a ready task can be archived".into())),
            };
        }
        steps::reach("archive.noted");
        self.pack_with(task, turn);
        Ok(())
    }

    /// Packs the workspace of a task that is archived still, once it has its turn.
    pub(super) async fn pack_later(&self, task: &Task) {
        let turn = self.parts.turns.take(task.id).await;
        if self.now(task).await.is_ok_and(|now| now.state == TaskState::Archived) {
            self.pack_with(task, turn);
        }
    }

    fn pack_with(&self, task: &Task, turn: Held) {
        let (this, task) = (self.clone(), task.clone());
        self.tracker.spawn(async move { this.pack(&task, turn).await });
    }

    /// Packs the workspace of an archived task that nobody uses. If it can't be, the
    /// directory stays.
    async fn pack(&self, task: &Task, turn: Held) {
        let Task { id, owner, .. } = *task;
        let unused = async {
            self.parts.dispatcher.idle(id).await;
            self.parts.activity.close(id).await
        };
        let Some(_closed) = turn.stop.run_until_cancelled(unused).await else { return };
        self.forget(task).await;
        self.step(task, TaskStep::Pack, StepStatus::Started, Step::default()).await;
        let begun = Instant::now();
        let packed = self.parts.ports.archives.pack(owner.tenant, id, &turn.stop).await;
        steps::reach("archive.packed");
        let done = match packed {
            Ok(Packed { bytes, content }) => {
                let noted = self.parts.quotas.archived(owner, id, Extent { bytes, entries: 1 }).await;
                if let Err(error) = noted {
                    tracing::warn!(task = %id, error = %chain(&error), "the size of an archive could not be noted");
                }
                Ok(Imported { bytes, ..content })
            }
            Err(error) => {
                if !matches!(error, ArchiveError::Stopped) {
                    tracing::warn!(task = %id, error = %chain(&error), "a workspace could not be packed; it stays");
                }
                Err(public(&error))
            }
        };
        self.stepped(task, TaskStep::Pack, begun, done).await;
    }

    async fn bring_back(&self, task: &Task, by: &By) -> Result<(), Error> {
        let _turn = self.parts.turns.take(task.id).await;
        let mut task = self.now(task).await?;
        let Task { id, owner, .. } = task;
        if task.state == TaskState::Ready {
            return Ok(());
        }
        if task.kept_until.is_some() {
            self.parts.quotas.one_more_task(owner).await?;
            let at = self.parts.ports.ids.now();
            if self.parts.ports.store.step_kept(id, KeptStep::Bring, at, Vec::new(), None).await?.is_some() {
                self.parts.quotas.keep(owner, id, false);
            }
            task = self.now(&task).await?;
        }
        if task.state != TaskState::Archived {
            let remedy = "only a task that is archived, or deleted and kept, can be restored";
            return Err(wrong_state(&task, task.state, remedy.into()));
        }
        let archives = &self.parts.ports.archives;
        match archives.place(owner.tenant, id).await.map_err(|error| self.failed(&task, error))? {
            // Of a host that died in the middle of this, perhaps: its bounds are set as at first.
            Place::Directory => {
                self.parts.ports.workspaces.create(owner.tenant, id, Extent::quota(&task.limits)).await?;
            }
            Place::Archive { .. } => self.unpack(&task).await?,
            Place::Nowhere => {
                return Err(wrong_state(&task, task.state, "its workspace is gone; delete the task".into()));
            }
        }
        let record = Some((AuditBody::TaskRestored {}, by));
        if !self.move_to(&task, TaskState::Ready, None, &[EventBody::TaskReady {}], record).await? {
            let state = self.now(&task).await?.state;
            return Err(wrong_state(&task, state, "it changed in this moment".into()));
        }
        // The directory counts from here on, with or without the archive.
        if let Err(error) = archives.discard(owner.tenant, id).await {
            tracing::warn!(task = %id, error = %chain(&error), "an archive that no longer counts could not be removed");
        }
        let root = self.parts.ports.workspaces.open(owner.tenant, id).await?;
        self.parts.quotas.measured(owner, id, &root).await
    }

    async fn unpack(&self, task: &Task) -> Result<(), Error> {
        let most = self.parts.quotas.room_to_unpack(task.owner, task.id).await?;
        self.step(task, TaskStep::Unpack, StepStatus::Started, Step::default()).await;
        let begun = Instant::now();
        let unpacked =
            self.parts.ports.archives.unpack(task.owner.tenant, task.id, most, Extent::quota(&task.limits)).await;
        steps::reach("restore.unpacked");
        let told = unpacked.as_ref().map(|content| *content).map_err(public);
        self.stepped(task, TaskStep::Unpack, begun, told).await;
        unpacked.map(drop).map_err(|error| match error {
            ArchiveError::NoRoom { entries, .. } => self.parts.quotas.no_room_to_unpack(most, entries),
            error => self.failed(task, error),
        })
    }

    /// What it means to a client that a workspace could not be had.
    fn failed(&self, task: &Task, error: ArchiveError) -> Error {
        match error {
            ArchiveError::Unfit(reason) => {
                wrong_state(task, task.state, format!("its workspace can't be unpacked: {reason}"))
            }
            error => self.failure(error),
        }
    }

    /// The same, of no task in particular.
    pub(super) fn failure(&self, error: ArchiveError) -> Error {
        match error {
            ArchiveError::Stopped => Error::Stopping,
            ArchiveError::Workspace(error) => error.into(),
            ArchiveError::Io(error) => WorkspaceError::Io(error).into(),
            ArchiveError::Unfit(reason) | ArchiveError::NoRoom { reason, .. } => {
                WorkspaceError::Io(std::io::Error::other(reason)).into()
            }
        }
    }

    pub(super) async fn remove(&self, task: &Task, purge: bool, cause: &Cause) -> Result<(), Error> {
        let _turn = self.parts.turns.take(task.id).await;
        let task = self.now(task).await?;
        let Task { id, owner, state, kept_until, .. } = task;
        if state == TaskState::Deleted && (kept_until.is_none() || !purge) {
            return Ok(());
        }
        let Cause { reason, by } = cause;
        let deleting = AuditBody::TaskDeleting { reason: *reason };
        let record = NewAudit::new(self.parts.ports.ids.now(), owner, id, None, &deleting).by(by);
        self.parts.ports.store.append_audit(vec![record]).await?;
        if kept_until.is_some() {
            return self.purge(&task, cause).await;
        }
        // First put aside: from here on no call is accepted. If the host dies in
        // between, the task is archived and can be deleted again.
        self.move_to(&task, TaskState::Archived, None, &[], None).await?;
        self.parts.dispatcher.cancel_task(id).await;
        self.forget(&task).await;
        let keep = self.parts.keep_deleted_ms;
        if purge || keep == 0 || !matches!(state, TaskState::Ready | TaskState::Archived) {
            return self.remove_now(&task, cause).await;
        }
        let at = self.parts.ports.ids.now();
        let until = at.plus_millis(keep);
        let kept_until = Some(until.to_string());
        let event = EventBody::TaskDeleted { reason: *reason, kept_until: kept_until.clone() };
        let record = AuditBody::TaskDeleted { limits: task.limits.clone(), kept_until };
        if self.step_kept(&task, KeptStep::Keep(until), event, (record, by)).await? {
            self.parts.quotas.keep(owner, id, true);
        }
        Ok(())
    }

    /// Notes that a task's workspace is lost. Where a task is archived, failed, or deleted
    /// and kept, nothing was to be had of it but by restoring it, which says so.
    pub(super) async fn give_up(&self, task: &Task, volume: &str, by: &By) -> Result<(), Error> {
        let _turn = self.parts.turns.take(task.id).await;
        let task = self.now(task).await?;
        let Task { id, owner, state, .. } = task;
        let record = AuditBody::TaskWorkspaceLost { volume: volume.into() };
        let event = EventBody::TaskWorkspaceLost {};
        let (to, failure, event) = match state {
            TaskState::Ready => (Some(TaskState::Archived), None, event),
            TaskState::Initializing => {
                let reason = "the host that filled the workspace is lost".to_owned();
                (Some(TaskState::Failed), Some(reason.clone()), EventBody::TaskFailed { reason })
            }
            TaskState::Archived | TaskState::Failed | TaskState::Deleted => (None, None, event),
        };
        let moved = match to {
            Some(to) => self.move_to(&task, to, failure.as_deref(), &[event], Some((record.clone(), by))).await?,
            None => {
                let at = self.parts.ports.ids.now();
                self.parts.ports.store.append_audit(vec![NewAudit::new(at, owner, id, None, &record).by(by)]).await?;
                if state == TaskState::Archived {
                    self.tell(&task, vec![NewEvent::new(at, None, &event)]).await;
                }
                true
            }
        };
        if !moved {
            return Err(wrong_state(&task, state, "it changed in this moment; say it again".into()));
        }
        self.forget(&task).await;
        self.parts.quotas.archived(owner, id, Extent::default()).await
    }

    /// Removes it, and all that is kept of it but record and events.
    async fn remove_now(&self, task: &Task, Cause { reason, by }: &Cause) -> Result<(), Error> {
        let Task { id, owner, .. } = *task;
        self.parts.ports.workspaces.remove(owner.tenant, id).await?;
        // State and last event in one commit: a reader that sees the one has the other.
        let record = AuditBody::TaskDeleted { limits: task.limits.clone(), kept_until: None };
        let event = EventBody::TaskDeleted { reason: *reason, kept_until: None };
        self.move_to(task, TaskState::Deleted, None, &[event], Some((record, by))).await?;
        // What was still being filled in meanwhile.
        self.parts.ports.workspaces.remove(owner.tenant, id).await?;
        self.parts.quotas.end(owner, id);
        Ok(())
    }

    /// Removes what is kept of a deleted task.
    async fn purge(&self, task: &Task, Cause { reason, by }: &Cause) -> Result<(), Error> {
        self.parts.ports.workspaces.remove(task.owner.tenant, task.id).await?;
        let reason = *reason;
        let (event, record) = (EventBody::TaskPurged { reason }, AuditBody::TaskPurged { reason });
        self.step_kept(task, KeptStep::Purge, event, (record, by)).await?;
        self.parts.quotas.end(task.owner, task.id);
        Ok(())
    }

    async fn step_kept(
        &self,
        task: &Task,
        step: KeptStep,
        event: EventBody,
        (record, by): (AuditBody, &By),
    ) -> Result<bool, Error> {
        let (ports, id) = (&self.parts.ports, task.id);
        let at = ports.ids.now();
        let events = vec![NewEvent::new(at, None, &event)];
        let record = NewAudit::new(at, task.owner, id, None, &record).by(by);
        let stepped = ports.store.step_kept(id, step, at, events.clone(), Some(record)).await?;
        if let Some(appended) = stepped {
            ports.meter.events_appended(1);
            self.parts.hub.publish(task.owner.tenant, id, appended, events);
        }
        Ok(stepped.is_some())
    }

    /// Forgets what is remembered of a task that takes no calls.
    async fn forget(&self, task: &Task) {
        self.parts.dispatcher.forget_task(task.owner.tenant, task.id).await;
        self.parts.access.forget(task.owner, task.id);
        self.parts.activity.forget(task.id);
    }

    /// Tells that a step has ended.
    pub(super) async fn stepped(&self, task: &Task, step: TaskStep, begun: Instant, done: Result<Imported, String>) {
        let took = Step::took(begun);
        let (status, said) = match done {
            Ok(Imported { files, directories, symlinks, bytes, .. }) => {
                let entries = Some(files + directories + symlinks);
                (StepStatus::Finished, Step { entries, bytes: Some(bytes), ..took })
            }
            Err(detail) => (StepStatus::Failed, Step { detail: Some(detail), ..took }),
        };
        self.step(task, step, status, said).await;
    }

    /// Tells of a step. It is news, not state: if it can't be stored, the step goes on.
    pub(super) async fn step(&self, task: &Task, step: TaskStep, status: StepStatus, said: Step) {
        let body = said.event(step, status);
        self.tell(task, vec![NewEvent::new(self.parts.ports.ids.now(), None, &body)]).await;
    }

    async fn tell(&self, task: &Task, events: Vec<NewEvent>) {
        let ports = &self.parts.ports;
        match ports.store.append_events(task.id, events.clone()).await {
            Ok(Some(appended)) => {
                ports.meter.events_appended(1);
                self.parts.hub.publish(task.owner.tenant, task.id, appended, events);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(task = %task.id, error = %chain(&error), "a step could not be told"),
        }
    }
}

/// What there is to tell of a step.
#[derive(Default)]
pub(super) struct Step {
    duration_ms: Option<u64>,
    detail: Option<String>,
    entries: Option<u64>,
    bytes: Option<u64>,
}

impl Step {
    pub(super) fn took(begun: Instant) -> Self {
        Self { duration_ms: Some(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)), ..Self::default() }
    }

    pub(super) fn named(detail: &str) -> Self {
        Self { detail: Some(detail.into()), ..Self::default() }
    }

    /// The event that says so.
    pub(super) fn finished(self, step: TaskStep) -> EventBody {
        self.event(step, StepStatus::Finished)
    }

    fn event(self, step: TaskStep, status: StepStatus) -> EventBody {
        let Self { duration_ms, detail, entries, bytes } = self;
        EventBody::TaskStep { step, status, duration_ms, detail, entries, bytes }
    }
}

fn wrong_state(task: &Task, state: TaskState, remedy: String) -> Error {
    Error::WrongState { what: format!("the task `{}`", task.id), state: state.to_string(), remedy: remedy.into() }
}

/// What a client may read of it.
fn public(error: &ArchiveError) -> String {
    match error {
        ArchiveError::Io(_) | ArchiveError::Workspace(WorkspaceError::Io(_)) => {
            "the host failed; its log says why".into()
        }
        error => error.to_string(),
    }
}
