//! What clients delete is put aside for a while and can be had back.
//!
//! Each step is a row first, then the move on the disk, then the event together with
//! the row's next state. Whatever dies in between, the row says what was meant and the
//! disk how far it came: [`super::tend`] finishes it.

use super::{Files, Told};
use crate::access::OwnedTask;
use crate::clock::NewId as _;
use crate::error::Error;
use crate::event::ChangeKind;
use crate::files::{DeletedFile, DeletedState};
use crate::id::{DeletedId, TaskId};
use crate::path::WorkspacePath;
use crate::ports::files::FileStep;
use crate::ports::store::Page;
use crate::ports::workspace::{Removal, WorkspaceError};
use crate::principal::Owner;
use crate::quota::Extent;
use crate::steps;
use crate::task::Task;

/// Most entries of a page that is purged at once.
const PAGE: u32 = 100;

/// An entry that a request is busy with, for as long as this lives.
pub(super) struct Busy {
    files: Files,
    id: DeletedId,
}

impl Busy {
    /// None if another is busy with it.
    pub(super) fn with(files: &Files, id: DeletedId) -> Option<Self> {
        files.busy().insert(id).then(|| Self { files: files.clone(), id })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.files.busy().remove(&self.id);
    }
}

fn absent(id: DeletedId) -> Error {
    Error::not_found("deleted file", id)
}

impl Files {
    /// Deletes an entry: it is put aside, and its id given, unless `purge` or nothing is
    /// kept at all.
    ///
    /// # Errors
    /// If the task is not ready, nothing is there, a directory is not empty, or a
    /// condition does not hold.
    pub async fn delete(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        how: Removal,
        purge: bool,
    ) -> Result<Option<DeletedId>, Error> {
        let root = self.root(task).await?;
        let (this, task, path) = (self.clone(), task.task().clone(), path.clone());
        if purge || self.parts.config.keep_deleted_ms == 0 {
            let purge = async move {
                let count = this.parts.ports.workspaces.delete(root.dir(), &path, how).await?;
                this.parts.quotas.forget(task.id);
                let counted = Some((ChangeKind::Deleted, count));
                this.changed(&task, Told { counted, ..Told::of(&path, ChangeKind::Deleted) }).await?;
                Ok(None)
            };
            return self.surely(purge).await;
        }
        let delete = async move {
            let ports = &this.parts.ports;
            // Nothing is stored for what is not there.
            let entry = ports.workspaces.stat(root.dir(), &path).await?;
            let file = DeletedFile {
                id: ports.ids.deleted_id(),
                task: task.id,
                owner: task.owner,
                state: DeletedState::Leaving,
                path: path.to_text(),
                target: None,
                kind: entry.kind,
                extent: Extent::default(),
                at: ports.ids.now(),
            };
            let _busy = Busy::with(&this, file.id);
            if !ports.store.put_deleted(&file).await? {
                return Err(Error::not_found("task", task.id));
            }
            steps::reach("delete.noted");
            let place = (task.owner.tenant, task.id);
            match ports.workspaces.put_aside(place, root.dir(), &path, file.id, how).await {
                Ok(aside) => {
                    steps::reach("delete.moved");
                    // What it takes counts as before, but beside the workspace.
                    this.parts.quotas.forget(task.id);
                    let step = FileStep::Kept(file.id, aside.extent);
                    let counted = Some((ChangeKind::Deleted, aside.extent.entries));
                    this.changed(&task, Told { step, counted, ..Told::of(&path, ChangeKind::Deleted) }).await?;
                    Ok(Some(file.id))
                }
                Err(error) => {
                    // It may have left all the same.
                    this.settle(&task, &file).await?;
                    Err(error.into())
                }
            }
        };
        self.surely(delete).await
    }

    /// What of a task was deleted and is kept, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn deleted(&self, task: &OwnedTask, page: Page<DeletedId>) -> Result<Vec<DeletedFile>, Error> {
        Ok(self.parts.ports.store.list_deleted(task.task().id, page).await?)
    }

    /// When a deleted entry is purged.
    pub fn purged_at(&self, file: &DeletedFile) -> crate::clock::Timestamp {
        file.at.plus_millis(self.parts.config.keep_deleted_ms)
    }

    /// Brings a deleted entry back to where it was, or to another place. Where it is then.
    ///
    /// # Errors
    /// If there is no such one, the task is not ready, or something is in the way.
    pub async fn restore(
        &self,
        task: &OwnedTask,
        id: DeletedId,
        to: Option<WorkspacePath>,
        replace: bool,
    ) -> Result<WorkspacePath, Error> {
        let root = self.root(task).await?;
        let (this, task) = (self.clone(), task.task().clone());
        let restore = async move {
            let ports = &this.parts.ports;
            let _busy = Busy::with(&this, id).ok_or_else(|| absent(id))?;
            let file = ports.store.deleted(task.id, id).await?.ok_or_else(|| absent(id))?;
            let to = match to {
                Some(to) => to,
                None => WorkspacePath::from_text(&file.path)?,
            };
            let (kept, returning) = (DeletedState::Kept, DeletedState::Returning);
            if !ports.store.move_deleted(task.id, id, kept, returning, Some(&to.to_text())).await? {
                return Err(absent(id));
            }
            steps::reach("undelete.noted");
            let returning = DeletedFile { state: returning, target: Some(to.to_text()), ..file };
            let place = (task.owner.tenant, task.id);
            let back = ports.workspaces.bring_back(place, root.dir(), &to, id, replace).await;
            steps::reach("undelete.moved");
            if let Err(WorkspaceError::NotFound(_)) = back
                && ports.workspaces.aside(place, id).await?.is_none()
            {
                // It is gone without anybody having said so: data were restored without it.
                this.changed(&task, Told { step: FileStep::Gone(id), ..Told::default() }).await?;
                return Err(absent(id));
            }
            // Whether or not it came, the disk says so.
            this.settle(&task, &returning).await?;
            this.parts.quotas.forget(task.id);
            back?;
            Ok(to)
        };
        self.surely(restore).await
    }

    /// Removes a deleted entry for good.
    ///
    /// # Errors
    /// If there is no such one.
    pub async fn purge(&self, task: &OwnedTask, id: DeletedId) -> Result<(), Error> {
        let (this, task) = (self.clone(), task.task().clone());
        let purge = async move { this.purge_one(task.owner, task.id, id).await };
        if self.surely(purge).await? { Ok(()) } else { Err(absent(id)) }
    }

    /// Removes everything of a task that was deleted, for good. How many entries.
    ///
    /// # Errors
    /// If the store or the file layer fails.
    pub async fn purge_all(&self, task: &OwnedTask) -> Result<u64, Error> {
        let (mut count, mut before) = (0, None);
        loop {
            let page = self.deleted(task, Page { before, limit: PAGE }).await?;
            let Some(last) = page.last() else { return Ok(count) };
            before = Some(last.id);
            for file in page {
                let (this, task) = (self.clone(), task.task().clone());
                let purge = async move { this.purge_one(task.owner, task.id, file.id).await };
                count += u64::from(self.surely(purge).await?);
            }
        }
    }

    /// False if it is not there, or somebody else is busy with it.
    pub(super) async fn purge_one(&self, owner: Owner, task: TaskId, id: DeletedId) -> Result<bool, Error> {
        let ports = &self.parts.ports;
        let Some(_busy) = Busy::with(self, id) else { return Ok(false) };
        if !ports.store.move_deleted(task, id, DeletedState::Kept, DeletedState::Purging, None).await? {
            return Ok(false);
        }
        steps::reach("purge.noted");
        ports.workspaces.purge((owner.tenant, task), id).await?;
        steps::reach("purge.removed");
        ports.store.change_files(task, FileStep::Gone(id), None, Vec::new()).await?;
        self.parts.quotas.forget(task);
        Ok(true)
    }

    /// Finishes what was begun with an entry, by what is on the disk.
    pub(super) async fn settle(&self, task: &Task, file: &DeletedFile) -> Result<(), Error> {
        let ports = &self.parts.ports;
        let place = (task.owner.tenant, task.id);
        let aside = ports.workspaces.aside(place, file.id).await?;
        let gone = FileStep::Gone(file.id);
        match (file.state, aside) {
            (DeletedState::Kept, _) => {}
            (DeletedState::Leaving, Some(aside)) => {
                let path = WorkspacePath::from_text(&file.path)?;
                let step = FileStep::Kept(file.id, aside.extent);
                let counted = Some((ChangeKind::Deleted, aside.extent.entries));
                self.changed(task, Told { step, counted, ..Told::of(&path, ChangeKind::Deleted) }).await?;
            }
            (DeletedState::Leaving, None) => {
                self.changed(task, Told { step: gone, ..Told::default() }).await?;
            }
            (DeletedState::Returning, Some(_)) => {
                let (returning, kept) = (DeletedState::Returning, DeletedState::Kept);
                ports.store.move_deleted(task.id, file.id, returning, kept, None).await?;
            }
            (DeletedState::Returning, None) => {
                let path = WorkspacePath::from_text(file.target.as_deref().unwrap_or(&file.path))?;
                let counted = Some((ChangeKind::Created, file.extent.entries));
                let root = match ports.workspaces.open(task.owner.tenant, task.id).await {
                    // It is packed; what came back with it is told when it is restored.
                    Err(WorkspaceError::NotFound(_)) => return Ok(()),
                    root => root?,
                };
                let told = match ports.workspaces.stat(root, &path).await {
                    Ok(_) => Told { step: gone, counted, ..Told::of(&path, ChangeKind::Created) },
                    Err(_) => Told { step: gone, ..Told::default() },
                };
                self.changed(task, told).await?;
            }
            (DeletedState::Purging, _) => {
                ports.workspaces.purge(place, file.id).await?;
                self.changed(task, Told { step: gone, ..Told::default() }).await?;
            }
        }
        Ok(())
    }
}
