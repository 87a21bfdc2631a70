//! Who read and wrote which file, and when. A read must not cost a commit: entries
//! wait in a bounded buffer and are stored together, four times a second or when there
//! are many. Who finds the buffer full waits; nothing is dropped while the host lives.
//! A host that is killed loses those of its last moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::Ports;
use crate::access::OwnedTask;
use crate::clock::NewId as _;
use crate::dispatch::chain;
use crate::error::Error;
use crate::files::{Access, AccessKind};
use crate::id::{AccessId, TaskId};
use crate::path::WorkspacePath;
use crate::ports::store::{Page, StoreError};
use crate::principal::{Owner, Principal};

/// How long an entry waits for others at most.
const GATHER: Duration = Duration::from_millis(250);
/// So many are stored at once.
const BATCH: usize = 512;
/// How long who finds the buffer full waits; then the store can't keep up.
const WAIT: Duration = Duration::from_secs(2);
/// Between two tries to store a batch.
const RETRY: Duration = Duration::from_millis(500);
/// Tries to store a batch; while they last, the buffer fills, and requests wait.
const TRIES: u32 = 240;
/// Tries of the last ones, when the host stops.
const LAST_TRIES: u32 = 4;

/// The access log.
#[derive(Clone)]
pub struct AccessLog {
    ports: Ports,
    queue: mpsc::Sender<Access>,
    /// Taken by who stores them.
    waiting: Arc<Mutex<Option<mpsc::Receiver<Access>>>>,
    closing: tokio_util::sync::CancellationToken,
}

/// An access that is under way, with its place in the buffer.
pub struct Noting {
    ids: Arc<dyn crate::clock::Ids>,
    place: Option<mpsc::OwnedPermit<Access>>,
    task: TaskId,
    owner: Owner,
    by: Owner,
    kind: AccessKind,
    path: String,
    edge: &'static str,
}

impl Noting {
    /// It has ended: with the code of a problem, or well.
    pub fn end(mut self, problem: Option<&str>, bytes: u64) {
        self.note(problem.unwrap_or("ok"), bytes);
    }

    fn note(&mut self, status: &str, bytes: u64) {
        let Some(place) = self.place.take() else { return };
        place.send(Access {
            id: self.ids.access_id(),
            task: self.task,
            owner: self.owner,
            by: self.by,
            at: self.ids.now(),
            kind: self.kind,
            path: std::mem::take(&mut self.path),
            bytes,
            status: status.to_owned(),
            edge: self.edge.to_owned(),
        });
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        // Its client went away before there was an answer.
        self.note("cancelled", 0);
    }
}

impl AccessLog {
    pub(super) fn new(ports: Ports, waiting: usize) -> Self {
        let (queue, receiver) = mpsc::channel(waiting.max(1));
        let waiting = Arc::new(Mutex::new(Some(receiver)));
        Self { ports, queue, waiting, closing: tokio_util::sync::CancellationToken::new() }
    }

    /// Begins to note an access, once there is a place for it.
    ///
    /// # Errors
    /// If the buffer stays full: the store can't keep up.
    pub async fn begin(
        &self,
        by: &Principal,
        task: &OwnedTask,
        kind: AccessKind,
        path: &WorkspacePath,
        edge: &'static str,
    ) -> Result<Noting, Error> {
        let full = || Error::Store(StoreError::Unavailable("its buffer of accesses is full; retry later".into()));
        let place = tokio::time::timeout(WAIT, self.queue.clone().reserve_owned()).await.map_err(|_| full())?;
        Ok(Noting {
            ids: self.ports.ids.clone(),
            place: Some(place.map_err(|_| Error::Stopping)?),
            task: task.task().id,
            owner: task.task().owner,
            by: by.owner(),
            kind,
            path: path.to_text(),
            edge,
        })
    }

    /// The access log of a task, newest first; of one path, if given.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, task: &OwnedTask, path: Option<&str>, page: Page<AccessId>) -> Result<Vec<Access>, Error> {
        Ok(self.ports.store.list_accesses(task.task().id, path, page).await?)
    }

    /// Begins to store what is noted.
    pub(super) fn start(&self, tracker: &TaskTracker) {
        let receiver = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(receiver) = receiver else { return };
        let this = self.clone();
        tracker.spawn(async move { this.store_all(receiver).await });
    }

    /// What is noted by now is stored, and no more.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    async fn store_all(&self, mut waiting: mpsc::Receiver<Access>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let first = tokio::select! {
                first = waiting.recv() => first,
                () = self.closing.cancelled() => break,
            };
            let Some(first) = first else { return };
            batch.push(first);
            let until = tokio::time::Instant::now() + GATHER;
            while batch.len() < BATCH {
                let next = tokio::select! {
                    next = tokio::time::timeout_at(until, waiting.recv()) => next,
                    () = self.closing.cancelled() => break,
                };
                match next {
                    Ok(Some(next)) => batch.push(next),
                    Ok(None) | Err(_) => break,
                }
            }
            self.store(&mut batch).await;
        }
        waiting.close();
        // Of those that have a place and have not ended yet, nothing is known.
        while let Ok(next) = waiting.try_recv() {
            batch.push(next);
            if batch.len() >= BATCH {
                self.store(&mut batch).await;
            }
        }
        self.store(&mut batch).await;
    }

    async fn store(&self, batch: &mut Vec<Access>) {
        if batch.is_empty() {
            return;
        }
        let mut tries = 0;
        while let Err(error) = self.ports.store.append_accesses(batch).await {
            tries += 1;
            let most = if self.closing.is_cancelled() { LAST_TRIES } else { TRIES };
            if tries >= most {
                tracing::error!(count = batch.len(), error = %chain(&error), "entries of the access log are lost");
                self.ports.meter.accesses_lost(batch.len() as u64);
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        batch.clear();
    }
}
