//! Uploads that go on over several requests, and over restarts of the host: what came
//! of one lies beside the workspace, and its size is where the client goes on.

use super::counted::{counted, not_withdrawn};
use super::{Files, full, too_large};
use crate::access::OwnedTask;
use crate::clock::{NewId as _, Timestamp};
use crate::conditions::Conditions;
use crate::digest::Digest;
use crate::error::Error;
use crate::event::ChangeKind;
use crate::files::{Upload, media_type};
use crate::id::UploadId;
use crate::path::WorkspacePath;
use crate::ports::files::FileStep;
use crate::ports::workspace::{ByteStream, EntryKind, WorkspaceError, WriteOptions};
use crate::reached::Bound;
use crate::steps;

/// An upload that a client begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUpload {
    /// Where the file goes.
    pub path: WorkspacePath,
    /// How large it will be.
    pub length: u64,
    /// Whether it may take the place of another file.
    pub replace: bool,
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
    /// Its media type, as the client says.
    pub media_type: Option<String>,
    /// What its content must be.
    pub digest: Option<Digest>,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadState {
    /// It.
    pub upload: Upload,
    /// How many bytes are there.
    pub offset: u64,
}

fn absent(id: UploadId) -> Error {
    Error::not_found("upload", id)
}

impl Files {
    /// Begins an upload.
    ///
    /// # Errors
    /// If the task is not ready, the file would be too large, or the task has too many.
    pub async fn begin_upload(&self, task: &OwnedTask, new: NewUpload) -> Result<UploadState, Error> {
        let (ports, config) = (&self.parts.ports, &self.parts.config);
        let root = self.root(task).await?;
        let room = self.room(task, &root).await?;
        if new.path.is_root() {
            return Err(Error::invalid("path", "the workspace itself is no file"));
        }
        if new.length > config.max_file_bytes {
            return Err(too_large(config.max_file_bytes));
        }
        if new.length > room.extent.bytes {
            return Err(full(room.bytes_bound, &room));
        }
        let now = ports.ids.now();
        let upload = Upload {
            id: ports.ids.upload_id(),
            task: task.task().id,
            owner: task.task().owner,
            media_type: media_type(new.media_type.as_deref(), new.path.name()),
            path: new.path.to_text(),
            length: new.length,
            replace: new.replace,
            executable: new.executable,
            digest: new.digest,
            created_at: now,
            expires_at: now.plus_millis(config.upload_ms),
            completed_at: None,
        };
        if !ports.store.put_upload(&upload, config.uploads_per_task).await? {
            let value = u64::from(config.uploads_per_task);
            return Err(Error::OverQuota(Bound { name: "files.uploads_per_task", value, used: Some(value) }));
        }
        steps::reach("upload.noted");
        // Its id is told once there is a file: one without is one that was completed.
        ports.workspaces.begin_upload((upload.owner.tenant, upload.task), upload.id).await?;
        Ok(UploadState { upload, offset: 0 })
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// If there is no such one, or it has expired.
    pub async fn upload(&self, task: &OwnedTask, id: UploadId) -> Result<UploadState, Error> {
        let ports = &self.parts.ports;
        let upload = ports.store.upload(task.task().id, id).await?.ok_or_else(|| absent(id))?;
        if upload.completed_at.is_some() {
            return Ok(UploadState { offset: upload.length, upload });
        }
        if upload.expires_at <= ports.ids.now() {
            return Err(absent(id));
        }
        match ports.workspaces.upload_size((upload.owner.tenant, upload.task), id).await? {
            Some(offset) => Ok(UploadState { upload, offset }),
            None => self.found_complete(task, upload).await,
        }
    }

    /// Its file is gone, so it was put in its place, and the host died before it stored
    /// that.
    async fn found_complete(&self, task: &OwnedTask, upload: Upload) -> Result<UploadState, Error> {
        let ports = &self.parts.ports;
        let root = self.root(task).await?;
        let path = WorkspacePath::from_text(&upload.path)?;
        let entry = ports.workspaces.stat(root.dir(), &path).await;
        if !entry.is_ok_and(|entry| entry.kind == EntryKind::File) {
            return Err(absent(upload.id));
        }
        let at = ports.ids.now();
        let told = super::Told {
            step: FileStep::Completed(upload.id, at),
            ..super::Told::of(&path, if upload.replace { ChangeKind::Modified } else { ChangeKind::Created })
        };
        self.changed(task.task(), told).await?;
        Ok(UploadState { offset: upload.length, upload: Upload { completed_at: Some(at), ..upload } })
    }

    /// Adds to an upload from `offset` on. Once all of it is there the file is put in its
    /// place. What came before a body broke off stays.
    ///
    /// # Errors
    /// If there is no such one, it ends elsewhere, another request adds to it, there is no
    /// room, or the whole is not what was said.
    pub async fn add_to_upload(
        &self,
        task: &OwnedTask,
        id: UploadId,
        offset: u64,
        body: ByteStream,
    ) -> Result<UploadState, Error> {
        let UploadState { upload, offset: there } = self.upload(task, id).await?;
        if upload.completed_at.is_some() || offset != there {
            return Err(Error::WrongOffset { offset: there });
        }
        let root = self.root(task).await?;
        let room = self.parts.quotas.room(upload.owner, upload.task, &root.dir, &task.task().limits).await?;
        let most = upload.length.min(there.saturating_add(room.extent.bytes));
        if most == there && upload.length > there {
            return Err(full(room.bytes_bound, &room));
        }
        let place = (upload.owner.tenant, upload.task);
        let lease = self.lease(task.task(), &room);
        let body = counted(body, &lease);
        let added = self.parts.ports.workspaces.add_to_upload(place, id, offset, most, body).await;
        let added = added.map_err(|error| match error {
            WorkspaceError::BadRange { size } => Error::WrongOffset { offset: size },
            WorkspaceError::NotFound(_) => absent(id),
            error => error.into(),
        })?;
        let withdrawn = not_withdrawn(&lease, &room);
        // From here on it counts as what it is.
        drop(lease);
        let grown = crate::quota::Extent { bytes: added.size.saturating_sub(there), entries: 0 };
        let _ = self.parts.quotas.added(upload.owner, upload.task, grown);
        withdrawn?;
        match added.error {
            Some(WorkspaceError::OverLimit { limit, .. }) if limit < upload.length => {
                return Err(full(room.bytes_bound, &room));
            }
            Some(error) => return Err(error.into()),
            None => {}
        }
        if added.size < upload.length {
            return Ok(UploadState { offset: added.size, upload });
        }
        self.complete(task, upload).await
    }

    async fn complete(&self, task: &OwnedTask, upload: Upload) -> Result<UploadState, Error> {
        let root = self.root(task).await?;
        let (this, task) = (self.clone(), task.clone());
        let complete = async move {
            let ports = &this.parts.ports;
            let path = WorkspacePath::from_text(&upload.path)?;
            let options = WriteOptions {
                max_bytes: upload.length,
                conditions: if upload.replace { Conditions::default() } else { Conditions::absent() },
                executable: upload.executable,
                digest: upload.digest,
            };
            let place = (upload.owner.tenant, upload.task);
            this.in_time()?;
            let written = ports.workspaces.finish_upload(place, upload.id, root.dir(), &path, options).await?;
            steps::reach("upload.placed");
            let at: Timestamp = ports.ids.now();
            let step = FileStep::Completed(upload.id, at);
            this.written(&task, &path, &written, Some(&upload.media_type), step).await?;
            // Its bytes counted while it was under way.
            this.parts.quotas.forget(upload.task);
            Ok(UploadState { offset: upload.length, upload: Upload { completed_at: Some(at), ..upload } })
        };
        self.surely(complete).await
    }

    /// Cancels an upload, or forgets one that is complete; its file stays then.
    ///
    /// # Errors
    /// If there is no such one.
    pub async fn cancel_upload(&self, task: &OwnedTask, id: UploadId) -> Result<(), Error> {
        let ports = &self.parts.ports;
        let upload = ports.store.upload(task.task().id, id).await?.ok_or_else(|| absent(id))?;
        ports.workspaces.drop_upload((upload.owner.tenant, upload.task), id).await?;
        ports.store.remove_upload(upload.task, id).await?;
        self.parts.quotas.forget(upload.task);
        Ok(())
    }
}
