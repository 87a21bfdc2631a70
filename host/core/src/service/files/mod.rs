//! Files of workspaces, for clients: each operation needs the proof that the
//! task is the client's, and each change becomes an event, of which the store makes
//! the history of the path.

mod accesses;
mod contents;
mod counted;
mod deleted;
mod held;
mod preview;
mod tend;
mod transfer;
mod uploads;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accesses::{AccessLog, Noting};
pub use preview::{Preview, Shown};
pub use transfer::{Arrival, Transfer};
pub use uploads::{NewUpload, UploadState};

use super::Ports;
use crate::access::OwnedTask;
use crate::activity::{Activity, InUse};
use crate::conditions::Conditions;
use crate::digest::Digest;
use crate::error::Error;
use crate::event::{ChangeCounts, ChangeKind, FileChange, NewEvent};
use crate::files::{FileFacts, HistoryEntry, changed_by_client, media_type};
use crate::hub::Hub;
use crate::id::DeletedId;
use crate::path::WorkspacePath;
use crate::ports::files::{FileStep, HistoryPage};
use crate::ports::workspace::{
    ByteRange, ByteStream, Entry, EntryKind, Listing, OpenFile, WorkspaceError, WriteOptions, Written,
};
use crate::principal::Owner;
use crate::quota::{Extent, Quotas, Room};
use crate::reached::Bound;
use crate::steps;
use crate::task::Task;

/// How files are treated, and what is known of them kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// Largest file that a client may write, in bytes.
    pub max_file_bytes: u64,
    /// How long what clients delete is kept, in milliseconds; 0: not at all.
    pub keep_deleted_ms: i64,
    /// How long an upload may go on, in milliseconds.
    pub upload_ms: i64,
    /// Uploads of one task that are not complete.
    pub uploads_per_task: u32,
    /// Age of an entry of a history, in milliseconds.
    pub history_ms: i64,
    /// Entries of a task's history.
    pub history_per_task: u64,
    /// Age of an entry of an access log, in milliseconds.
    pub accesses_ms: i64,
    /// Entries of access logs that wait to be stored.
    pub accesses_waiting: usize,
}

fn full(bound: Bound, room: &Room) -> Error {
    Error::WorkspaceFull { bound, aside: room.aside }
}

/// A file that is larger than any may be that a client sends.
fn too_large(limit: u64) -> Error {
    Error::TooLarge { what: "the file", key: "http.max_upload_bytes", limit }
}

/// A file that a client sends.
pub struct NewFile {
    /// Its content.
    pub body: ByteStream,
    /// What must be there, or not be there.
    pub conditions: Conditions,
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
    /// Its media type, as the client says.
    pub media_type: Option<String>,
    /// The digest that its content must have.
    pub digest: Option<Digest>,
}

/// The use cases of files.
#[derive(Clone)]
pub struct Files {
    parts: Arc<Parts>,
}

struct Parts {
    ports: Ports,
    hub: Arc<Hub>,
    quotas: Arc<Quotas>,
    activity: Arc<Activity>,
    config: FilesConfig,
    accesses: AccessLog,
    /// Deleted entries that a request is busy with: a look that finishes what was left
    /// leaves them alone.
    busy: Mutex<HashSet<DeletedId>>,
    /// Who has a directory on its way from another host.
    arriving: Mutex<HashSet<Owner>>,
    /// What goes on to its end, whether or not its client waits.
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Files {
    pub(super) fn new(
        ports: Ports,
        hub: Arc<Hub>,
        (quotas, activity): (Arc<Quotas>, Arc<Activity>),
        config: FilesConfig,
    ) -> Self {
        let accesses = AccessLog::new(ports.clone(), config.accesses_waiting);
        let (busy, arriving, tracker, stop) =
            (Mutex::default(), Mutex::default(), TaskTracker::new(), CancellationToken::new());
        let parts = Parts { ports, hub, quotas, activity, config, accesses, busy, arriving, tracker, stop };
        Self { parts: Arc::new(parts) }
    }

    /// The access log.
    pub fn accesses(&self) -> &AccessLog {
        &self.parts.accesses
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<DeletedId>> {
        // No code panics while it holds the lock.
        self.parts.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to its end, also if its client goes away in the middle.
    async fn surely<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        // A panic in it is logged by the runtime.
        self.parts.tracker.spawn(work).await.unwrap_or(Err(Error::Stopping))
    }

    async fn root(&self, task: &OwnedTask) -> Result<Root, Error> {
        let using = self.parts.activity.enter(task.task().id)?;
        let task = task.ready()?;
        let dir = self.parts.ports.workspaces.open(task.owner.tenant, task.id).await?;
        Ok(Root { dir, using })
    }

    /// What may be added to the workspace; an error if that is nothing.
    async fn room(&self, task: &OwnedTask, root: &Root) -> Result<Room, Error> {
        let Task { id, owner, limits, .. } = task.task();
        let room = self.parts.quotas.room(*owner, *id, &root.dir, limits).await?;
        match room.extent {
            Extent { bytes: 0, .. } => Err(full(room.bytes_bound, &room)),
            Extent { entries: 0, .. } => Err(full(room.entries_bound, &room)),
            _ => Ok(room),
        }
    }

    /// The largest file that may be written, and what it means if one is larger.
    fn bounded(&self, room: &Room) -> (u64, impl Fn(WorkspaceError) -> Error) {
        let (largest, room) = (self.parts.config.max_file_bytes, *room);
        let meaning = move |error| match error {
            WorkspaceError::OverLimit { what: "the file", limit } if limit < largest => full(room.bytes_bound, &room),
            WorkspaceError::OverLimit { what: "the file", .. } => too_large(largest),
            error => error.into(),
        };
        (largest.min(room.extent.bytes), meaning)
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
        let root = self.root(task).await?;
        Ok(self.parts.ports.workspaces.list(root.dir(), path, after, limit).await?)
    }

    /// Describes one entry.
    ///
    /// # Errors
    /// If the task is not ready, or nothing is there.
    pub async fn stat(&self, task: &OwnedTask, path: &WorkspacePath) -> Result<Entry, Error> {
        let root = self.root(task).await?;
        Ok(self.parts.ports.workspaces.stat(root.dir(), path).await?)
    }

    /// What is known of the content of an entry: if a client sent it, and it has not
    /// changed since.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn facts(&self, task: &OwnedTask, entry: &Entry) -> Result<Option<FileFacts>, Error> {
        if entry.kind != EntryKind::File {
            return Ok(None);
        }
        let page = HistoryPage { path: Some(entry.path.to_text()), before: None, limit: 1 };
        let last = self.parts.ports.store.file_history(task.task().id, page).await?.pop();
        let facts = last.and_then(|last| last.facts);
        Ok(facts.filter(|facts| entry.etag.as_ref() == Some(&facts.etag)))
    }

    /// What happened to the files of a task, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn history(&self, task: &OwnedTask, page: HistoryPage) -> Result<Vec<HistoryEntry>, Error> {
        Ok(self.parts.ports.store.file_history(task.task().id, page).await?)
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
        let root = self.root(task).await?;
        let file = self.parts.ports.workspaces.read(root.dir(), path, range).await?;
        // Until its last byte is sent, its workspace is in use.
        Ok(OpenFile { stream: root.using.until_end_of(file.stream), ..file })
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// If the task is not ready, the path or size is not allowed, the workspace is
    /// full, a condition does not hold, or the body breaks off or is not what was said.
    pub async fn write(&self, task: &OwnedTask, path: &WorkspacePath, new: NewFile) -> Result<Written, Error> {
        let root = self.root(task).await?;
        let room = self.room(task, &root).await?;
        let (max_bytes, meaning) = self.bounded(&room);
        let NewFile { body, conditions, executable, media_type, digest } = new;
        let options = WriteOptions { max_bytes, conditions, executable, digest };
        let lease = self.lease(task.task(), &room);
        let body = counted::counted(self.while_held(body), &lease);
        let written = self.parts.ports.workspaces.write(root.dir(), path, body, options).await;
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                self.in_time()?;
                counted::not_withdrawn(&lease, &room)?;
                return Err(meaning(error));
            }
        };
        // From here on it counts as what it is.
        drop(lease);
        steps::reach("file.placed");
        self.written(task, path, &written, media_type.as_deref(), FileStep::Alone).await?;
        steps::reach("file.told");
        Ok(written)
    }

    /// Stores that a client has put a file in its place.
    async fn written(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        written: &Written,
        said: Option<&str>,
        step: FileStep,
    ) -> Result<(), Error> {
        let added = Extent { bytes: written.size, entries: u64::from(written.created) };
        let extent = self.parts.quotas.added(task.task().owner, task.task().id, added);
        let change = if written.created { ChangeKind::Created } else { ChangeKind::Modified };
        let facts = FileFacts {
            size: written.size,
            digest: written.digest,
            media_type: media_type(said, path.name()),
            etag: written.etag.clone(),
        };
        self.changed(task.task(), Told { step, extent, content: Some(facts), ..Told::of(path, change) }).await?;
        Ok(())
    }

    /// Makes a directory and its parents. True if it is new.
    ///
    /// # Errors
    /// If the task is not ready, or something else is there.
    pub async fn make_dir(&self, task: &OwnedTask, path: &WorkspacePath) -> Result<bool, Error> {
        let root = self.root(task).await?;
        self.room(task, &root).await?;
        let new = self.parts.ports.workspaces.make_dir(root.dir(), path).await?;
        if new {
            // Its parents may be new, too.
            self.parts.quotas.forget(task.task().id);
            self.changed(task.task(), Told::of(path, ChangeKind::Created)).await?;
        }
        Ok(new)
    }

    /// Moves an entry. What is known of its content goes with it.
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
        let root = self.root(task).await?;
        let workspaces = &self.parts.ports.workspaces;
        let before = workspaces.stat(root.dir(), from).await?;
        let facts = self.facts(task, &before).await?;
        workspaces.rename(root.dir(), from, to, replace).await?;
        let after = workspaces.stat(root.dir(), to).await.ok();
        // The kernel notes the time of the move: a new tag. The content is the same if
        // its size and time are.
        let same = |after: &Entry| (after.size, after.modified_at) == (before.size, before.modified_at);
        let etag = after.filter(same).and_then(|after| after.etag);
        let content = facts.zip(etag).map(|(facts, etag)| FileFacts { etag, ..facts });
        let changes = vec![(from.clone(), ChangeKind::Deleted), (to.clone(), ChangeKind::Created)];
        self.changed(task.task(), Told { changes, content, ..Told::default() }).await?;
        Ok(())
    }

    /// Appends the event of a change, and what else is stored with it. The change itself
    /// is on disk already; if the event can't be stored the client gets an error and may
    /// repeat. False if what the step names is not there, and nothing was stored.
    async fn changed(&self, task: &Task, told: Told) -> Result<bool, Error> {
        let Told { changes, counted, step, extent, content } = told;
        let mut counts = ChangeCounts::default();
        changes.iter().for_each(|(_, change)| counts.add(*change));
        let named = counts;
        if let Some((kind, count)) = counted {
            match kind {
                ChangeKind::Created => counts.created = counts.created.max(count),
                ChangeKind::Modified => counts.modified = counts.modified.max(count),
                ChangeKind::Deleted => counts.deleted = counts.deleted.max(count),
            }
        }
        let incomplete = counts != named;
        let changes: Vec<_> =
            changes.iter().map(|(path, change)| FileChange { path: path.to_text(), change: *change }).collect();
        let ports = &self.parts.ports;
        let events: Vec<_> = (!changes.is_empty())
            .then(|| changed_by_client(task.owner.user, changes, counts, incomplete, content))
            .map(|body| NewEvent::new(ports.ids.now(), None, &body))
            .into_iter()
            .collect();
        let stored = ports.store.change_files(task.id, step, extent, events.clone()).await?;
        let Some(appended) = stored else { return Ok(false) };
        if !events.is_empty() {
            ports.meter.events_appended(events.len() as u64);
            self.parts.hub.publish(task.owner.tenant, task.id, appended, events);
        }
        Ok(true)
    }
}

/// A workspace in use: nothing packs it while this lives.
struct Root {
    dir: Arc<OwnedFd>,
    using: InUse,
}

impl Root {
    fn dir(&self) -> Arc<OwnedFd> {
        self.dir.clone()
    }
}

/// What is told of a change.
struct Told {
    changes: Vec<(WorkspacePath, ChangeKind)>,
    /// How many of a kind there were in all, those that are not named included.
    counted: Option<(ChangeKind, u64)>,
    step: FileStep,
    extent: Option<Extent>,
    content: Option<FileFacts>,
}

impl Default for Told {
    fn default() -> Self {
        Self { changes: Vec::new(), counted: None, step: FileStep::Alone, extent: None, content: None }
    }
}

impl Told {
    fn of(path: &WorkspacePath, change: ChangeKind) -> Self {
        Self { changes: vec![(path.clone(), change)], ..Self::default() }
    }
}
