//! Files of workspaces, for clients: each operation needs the proof that the
//! task is the client's, and each change becomes an event.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Ports, ServiceConfig};
use crate::access::OwnedTask;
use crate::activity::Activity;
use crate::error::Error;
use crate::event::{ChangeCounts, ChangeKind, ChangedBy, EventBody, FileChange, NewEvent};
use crate::hub::Hub;
use crate::path::WorkspacePath;
use crate::ports::workspace::{ByteRange, ByteStream, Entry, Listing, OpenFile, WorkspaceError, Written};
use crate::quota::{Extent, Quotas, Room};
use crate::task::Task;

fn full((limit, value): (&'static str, u64)) -> Error {
    Error::WorkspaceFull { limit, value }
}

/// The use cases of files.
pub struct Files {
    ports: Ports,
    hub: Arc<Hub>,
    quotas: Arc<Quotas>,
    activity: Arc<Activity>,
    max_file_bytes: u64,
}

impl Files {
    pub(super) fn new(
        ports: Ports,
        hub: Arc<Hub>,
        (quotas, activity): (Arc<Quotas>, Arc<Activity>),
        config: &ServiceConfig,
    ) -> Self {
        Self { ports, hub, quotas, activity, max_file_bytes: config.max_file_bytes }
    }

    async fn root(&self, task: &OwnedTask) -> Result<Arc<OwnedFd>, Error> {
        let task = task.ready()?;
        Ok(self.ports.workspaces.open(task.owner.tenant, task.id).await?)
    }

    /// What may be added to the workspace; an error if that is nothing.
    async fn room(&self, task: &OwnedTask, root: &Arc<OwnedFd>) -> Result<Room, Error> {
        let Task { id, owner, limits, .. } = task.task();
        let room = self.quotas.room(*owner, *id, root, limits).await?;
        match room.extent {
            Extent { bytes: 0, .. } => Err(full(room.bytes_bound)),
            Extent { entries: 0, .. } => Err(full(room.entries_bound)),
            _ => Ok(room),
        }
    }

    /// Lists a directory, by pages.
    ///
    /// # Errors
    /// If the task is not ready, or there is no such directory.
    pub async fn list(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<Listing, Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        Ok(self.ports.workspaces.list(root, path, after, limit).await?)
    }

    /// Describes one entry.
    ///
    /// # Errors
    /// If the task is not ready, or nothing is there.
    pub async fn stat(&self, task: &OwnedTask, path: &WorkspacePath) -> Result<Entry, Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        Ok(self.ports.workspaces.stat(root, path).await?)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// If the task is not ready, or there is no such file.
    pub async fn read(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        range: Option<ByteRange>,
    ) -> Result<OpenFile, Error> {
        let using = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        let OpenFile { entry, offset, length, stream } = self.ports.workspaces.read(root, path, range).await?;
        Ok(OpenFile { entry, offset, length, stream: using.until_end_of(stream) })
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// If the task is not ready, the path or size is not allowed, the workspace is
    /// full, or the body breaks off.
    pub async fn write(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        body: ByteStream,
        replace: bool,
        executable: Option<bool>,
    ) -> Result<Written, Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        let room = self.room(task, &root).await?;
        let max = self.max_file_bytes.min(room.extent.bytes);
        let written = self.ports.workspaces.write(root, path, body, max, replace, executable).await;
        let written = written.map_err(|error| match error {
            WorkspaceError::OverLimit { what: "the file", limit } if limit < self.max_file_bytes => {
                full(room.bytes_bound)
            }
            error => error.into(),
        })?;
        let added = Extent { bytes: written.size, entries: u64::from(written.created) };
        let extent = self.quotas.added(task.task().owner, task.task().id, added);
        if let Some(extent) = extent {
            self.ports.store.note_extent(task.task().id, extent).await?;
        }
        let change = if written.created { ChangeKind::Created } else { ChangeKind::Modified };
        self.changed(task, vec![(path, change)], None).await?;
        Ok(written)
    }

    /// Makes a directory and its parents. True if it is new.
    ///
    /// # Errors
    /// If the task is not ready, or something else is there.
    pub async fn make_dir(&self, task: &OwnedTask, path: &WorkspacePath) -> Result<bool, Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        self.room(task, &root).await?;
        let new = self.ports.workspaces.make_dir(root, path).await?;
        if new {
            // Its parents may be new, too.
            self.quotas.forget(task.task().id);
            self.changed(task, vec![(path, ChangeKind::Created)], None).await?;
        }
        Ok(new)
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// If the task is not ready, nothing is there, or a directory is not empty.
    pub async fn delete(&self, task: &OwnedTask, path: &WorkspacePath, recursive: bool) -> Result<u64, Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        let count = self.ports.workspaces.delete(root, path, recursive).await?;
        self.quotas.forget(task.task().id);
        self.changed(task, vec![(path, ChangeKind::Deleted)], Some(count)).await?;
        Ok(count)
    }

    /// Moves an entry.
    ///
    /// # Errors
    /// If the task is not ready, nothing is there, or something is in the way.
    pub async fn rename(
        &self,
        task: &OwnedTask,
        from: &WorkspacePath,
        to: &WorkspacePath,
        replace: bool,
    ) -> Result<(), Error> {
        let _use = self.activity.enter(task.task().id)?;
        let root = self.root(task).await?;
        self.ports.workspaces.rename(root, from, to, replace).await?;
        self.changed(task, vec![(from, ChangeKind::Deleted), (to, ChangeKind::Created)], None).await
    }

    /// Appends the event of a change. The change itself is on disk already; if
    /// the event can't be stored the client gets an error and may repeat.
    async fn changed(
        &self,
        task: &OwnedTask,
        changes: Vec<(&WorkspacePath, ChangeKind)>,
        deleted: Option<u64>,
    ) -> Result<(), Error> {
        let mut counts = ChangeCounts::default();
        changes.iter().for_each(|(_, change)| counts.add(*change));
        let incomplete = deleted.is_some_and(|count| count > counts.deleted);
        counts.deleted = deleted.unwrap_or(counts.deleted);
        let changes =
            changes.iter().map(|(path, change)| FileChange { path: path.to_text(), change: *change }).collect();
        let body = EventBody::FilesChanged { by: ChangedBy::Http, changes, counts, incomplete };
        let events = vec![NewEvent::new(self.ports.ids.now(), None, &body)];
        let id = task.task().id;
        if let Some(appended) = self.ports.store.append_events(id, events.clone()).await? {
            self.ports.meter.events_appended(1);
            self.hub.publish(task.task().owner.tenant, id, appended, events);
        }
        Ok(())
    }
}
