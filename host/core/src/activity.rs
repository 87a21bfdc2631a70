//! Who uses which workspace right now, beside calls: file operations of clients.
//! Kept in memory, for only the host that holds a task serves its files.
//!
//! It answers two questions: whether a workspace may be packed, so that nothing
//! is written into it unseen; and which tasks are in use although nothing of it
//! is stored, as reading is not.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

use crate::access::not_ready;
use crate::error::Error;
use crate::id::TaskId;
use crate::ports::workspace::ByteStream;
use crate::task::TaskState;

/// Tasks that are remembered as used until the next look; those beyond are not.
const REMEMBERED: usize = 100_000;

/// The workspaces in use.
#[derive(Default)]
pub struct Activity(Mutex<HashMap<TaskId, Use>>);

struct Use {
    /// Operations under way.
    open: watch::Sender<u64>,
    /// Whether none may begin.
    closed: bool,
    /// Whether one ended since the last look.
    used: bool,
}

impl Default for Use {
    fn default() -> Self {
        Self { open: watch::Sender::new(0), closed: false, used: false }
    }
}

impl Activity {
    /// An operation on a task's files begins; it lasts until what is returned is dropped.
    ///
    /// # Errors
    /// If the workspace is being put aside.
    pub fn enter(self: &Arc<Self>, task: TaskId) -> Result<InUse, Error> {
        let mut tasks = self.lock();
        let of_task = tasks.entry(task).or_default();
        if of_task.closed {
            return Err(not_ready(&task, Some(TaskState::Archived)).unwrap_or(Error::Stopping));
        }
        of_task.open.send_modify(|open| *open += 1);
        Ok(InUse { activity: self.clone(), task })
    }

    /// Lets no operation begin, and waits until those under way have ended. They
    /// may begin again when what is returned is dropped.
    pub async fn close(self: &Arc<Self>, task: TaskId) -> Closed {
        let (closed, mut open) = {
            let mut tasks = self.lock();
            let of_task = tasks.entry(task).or_default();
            of_task.closed = true;
            (Closed { activity: self.clone(), task }, of_task.open.subscribe())
        };
        // The sender lives as long as the task is closed.
        let _ = open.wait_for(|open| *open == 0).await;
        closed
    }

    /// The tasks that were used since the last time this was asked, or are.
    pub fn take_used(&self) -> Vec<TaskId> {
        let mut tasks = self.lock();
        let used = tasks.iter_mut().filter_map(|(task, of_task)| {
            let used = std::mem::take(&mut of_task.used) || *of_task.open.borrow() > 0;
            used.then_some(*task)
        });
        let used = used.collect();
        tasks.retain(|_, of_task| of_task.closed || *of_task.open.borrow() > 0);
        used
    }

    /// Of how many tasks something is remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether of none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets that a task was used: it is archived or deleted.
    pub fn forget(&self, task: TaskId) {
        let mut tasks = self.lock();
        if let Some(of_task) = tasks.get_mut(&task) {
            of_task.used = false;
            if !of_task.closed && *of_task.open.borrow() == 0 {
                tasks.remove(&task);
            }
        }
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation under way.
pub struct InUse {
    activity: Arc<Activity>,
    task: TaskId,
}

impl InUse {
    /// A stream that is an operation until it is dropped.
    pub fn until_end_of(self, stream: ByteStream) -> ByteStream {
        Box::pin(Using { stream, _use: self })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut tasks = self.activity.lock();
        let full = tasks.len() > REMEMBERED;
        if let Some(of_task) = tasks.get_mut(&self.task) {
            of_task.used = !full;
            of_task.open.send_modify(|open| *open = open.saturating_sub(1));
            if full && !of_task.closed && *of_task.open.borrow() == 0 {
                tasks.remove(&self.task);
            }
        }
    }
}

/// A workspace in which no operation begins.
pub struct Closed {
    activity: Arc<Activity>,
    task: TaskId,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut tasks = self.activity.lock();
        if let Some(of_task) = tasks.get_mut(&self.task) {
            of_task.closed = false;
            if *of_task.open.borrow() == 0 {
                tasks.remove(&self.task);
            }
        }
    }
}

struct Using {
    stream: ByteStream,
    _use: InUse,
}

impl AsyncRead for Using {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.stream.as_mut().poll_read(cx, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_closed_waits_for_what_is_open_and_nothing_is_left() {
        let (activity, task) = (Arc::new(Activity::default()), TaskId::from_parts(1, 1));
        let writing = activity.enter(task).expect("is open");
        let closing = tokio::spawn({
            let activity = activity.clone();
            async move { activity.close(task).await }
        });
        while activity.enter(task).is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        drop(writing);
        let closed = closing.await.expect("closes");
        assert!(matches!(activity.enter(task), Err(Error::WrongState { .. })));
        drop(closed);
        assert!(activity.is_empty());
        drop(activity.enter(task).expect("is open again"));
        assert_eq!(activity.take_used(), [task]);
        assert_eq!(activity.take_used(), []);
        assert!(activity.is_empty());
    }
}
