//! The part of durable storage that is about files: what happened to them, what was
//! deleted and is kept, what is being uploaded, who read and wrote.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::event::NewEvent;
use crate::files::{Access, DeletedFile, DeletedState, FileFacts, HistoryEntry, Place, Upload};
use crate::id::{AccessId, DeletedId, TaskId, UploadId};
use crate::ports::store::{Appended, Page, StoreError};
use crate::principal::Owner;
use crate::quota::Extent;

/// What else is stored with the events of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStep {
    /// Nothing.
    Alone,
    /// A deleted entry, which was on its way, is kept from now on and takes so much.
    Kept(DeletedId, Extent),
    /// A deleted entry is kept no longer: it returned, or is gone for good.
    Gone(DeletedId),
    /// An upload is complete: its file is in its place since then.
    Completed(UploadId, Timestamp),
}

/// Which entries of a history are wanted, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Of this path alone.
    pub path: Option<String>,
    /// Only those before this one.
    pub before: Option<Place>,
    /// At most this many.
    pub limit: u32,
}

/// Where a content was seen: a file that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentPlace {
    /// The task.
    pub task: TaskId,
    /// The path, as text that names it exactly.
    pub path: String,
    /// What is known of it.
    pub facts: FileFacts,
}

/// How long what is known of files is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRetention {
    /// Entries of histories that are older go.
    pub history_before: Timestamp,
    /// A task keeps at most so many, the newest.
    pub history_per_task: u64,
    /// Entries of access logs that are older go.
    pub accesses_before: Timestamp,
}

/// What retention removed of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesRetained {
    /// Entries of histories.
    pub history: u64,
    /// Entries of access logs.
    pub accesses: u64,
}

/// Durable storage of what is known of files.
#[async_trait]
pub trait FileRecords: Send + Sync + 'static {
    /// Appends events to a task's log, with what its workspace takes now, if that is
    /// known, and what else the change was. `None` if there is no such task, or the step
    /// names what is not there; then nothing is stored.
    async fn change_files(
        &self,
        task: TaskId,
        step: FileStep,
        extent: Option<Extent>,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError>;
    /// What happened to files of a task. The entries were stored by whatever appended
    /// the events that tell them.
    async fn file_history(&self, task: TaskId, page: HistoryPage) -> Result<Vec<HistoryEntry>, StoreError>;
    /// Where an owner's clients have put this content, newest first.
    async fn contents(&self, owner: Owner, digest: Digest, limit: u32) -> Result<Vec<ContentPlace>, StoreError>;
    /// Removes what need not be kept any longer, a bounded amount at a time.
    async fn retain_files(&self, retention: FileRetention) -> Result<FilesRetained, StoreError>;

    /// Stores that an entry is on its way out of its workspace. False if its task is
    /// not there.
    async fn put_deleted(&self, file: &DeletedFile) -> Result<bool, StoreError>;
    /// Moves a deleted entry from one state to another, with where it is going; false
    /// if it is in another state, or not there.
    async fn move_deleted(
        &self,
        task: TaskId,
        id: DeletedId,
        from: DeletedState,
        to: DeletedState,
        target: Option<&str>,
    ) -> Result<bool, StoreError>;
    /// A deleted entry of a task.
    async fn deleted(&self, task: TaskId, id: DeletedId) -> Result<Option<DeletedFile>, StoreError>;
    /// The entries of a task that are kept, newest first.
    async fn list_deleted(&self, task: TaskId, page: Page<DeletedId>) -> Result<Vec<DeletedFile>, StoreError>;
    /// Deleted entries of any owner, oldest first, after one: those that were deleted
    /// before a time, and those that are not `kept`. For who finishes and removes.
    async fn deleted_to_tend(
        &self,
        before: Timestamp,
        after: Option<DeletedId>,
        limit: u32,
    ) -> Result<Vec<DeletedFile>, StoreError>;

    /// Stores an upload that begins, unless its task has `most` that are not complete:
    /// then nothing is stored and the answer is false.
    async fn put_upload(&self, upload: &Upload, most: u32) -> Result<bool, StoreError>;
    /// An upload of a task.
    async fn upload(&self, task: TaskId, id: UploadId) -> Result<Option<Upload>, StoreError>;
    /// Forgets an upload. False if it is not there.
    async fn remove_upload(&self, task: TaskId, id: UploadId) -> Result<bool, StoreError>;
    /// Uploads of any owner that expired before a time, oldest first, after one.
    async fn expired_uploads(
        &self,
        before: Timestamp,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>, StoreError>;

    /// Stores entries of access logs. Once more does nothing.
    async fn append_accesses(&self, entries: &[Access]) -> Result<(), StoreError>;
    /// The access log of a task, newest first; of one path, if given.
    async fn list_accesses(
        &self,
        task: TaskId,
        path: Option<&str>,
        page: Page<AccessId>,
    ) -> Result<Vec<Access>, StoreError>;
}
