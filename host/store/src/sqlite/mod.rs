//! The durable store: one SQLite file in WAL mode.
//!
//! One writer, many readers. All writes go through a bounded queue to the thread
//! in [`writer`], which owns the only connection that writes and commits
//! whatever is queued together. Reads use a small pool of connections that
//! can't write. What is read is what was committed; nothing is kept in memory.

mod audit;
mod calls;
mod events;
mod files;
mod grants;
mod keys;
mod life;
mod log;
mod open;
mod port;
mod retention;
mod sessions;
mod tasks;
#[cfg(test)]
mod tests;
mod tickets;
mod tools;
mod write;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulkhead_core::ports::store::StoreError;
use sqlx::SqlitePool;
use tokio::sync::{Mutex, mpsc, oneshot};

pub use open::{OpenError, SqliteConfig, Synchronous};

use write::{Work, write};
use writer::Message;

/// How long a command waits for a place in the queue. Longer would only hide
/// from the client that the store can't keep up.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// Rows that nobody need wait for.
const FEW_ROWS: usize = 16;

/// How long `close` waits for the writer to finish what is queued.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Durable storage in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    queue: mpsc::Sender<Message>,
    readers: SqlitePool,
    commits: Arc<AtomicU64>,
    /// Told when the writer has ended; taken by whoever closes the store.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl SqliteStore {
    /// Opens the file, makes it if it is not there, brings its schema up to
    /// date, and starts the writer.
    ///
    /// # Errors
    /// If the file is not ours, damaged, or made by a newer version; each
    /// error names the file and what to do.
    pub fn open(config: SqliteConfig) -> impl Future<Output = Result<SqliteStore, OpenError>> + Send {
        open::open(config)
    }

    /// How many transactions were committed: with calls, how well commands are grouped.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Runs `work` on the writer's connection, committed with what else is
    /// queued; answers once it is. `what` names the row if it exists already.
    async fn write<T, W>(&self, what: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Work<T>,
    {
        let (write, answer) = write(what, work);
        self.send(Message::Write(write)).await?;
        answer.await.map_err(|_| closed())?
    }

    /// The same for work that writes so many rows: if they are many, others need not wait
    /// for all of them.
    async fn write_rows<T, W>(&self, what: &'static str, rows: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Work<T>,
    {
        let (write, answer) = write(what, work);
        self.send(if rows > FEW_ROWS { Message::Rows(write, rows) } else { Message::Write(write) }).await?;
        answer.await.map_err(|_| closed())?
    }

    /// The same in a transaction of its own, for work that takes long.
    async fn write_alone<T, W>(&self, what: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Work<T>,
    {
        let (write, answer) = write(what, work);
        self.send(Message::Alone(write)).await?;
        answer.await.map_err(|_| closed())?
    }

    async fn send(&self, message: Message) -> Result<(), StoreError> {
        let message = match self.queue.try_send(message) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(closed()),
            Err(mpsc::error::TrySendError::Full(message)) => message,
        };
        self.queue.send_timeout(message, QUEUE_WAIT).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Closed(_) => closed(),
            mpsc::error::SendTimeoutError::Timeout(_) => {
                StoreError::Unavailable("its queue of writes is full; retry later".into())
            }
        })
    }

    async fn close(&self) {
        let Some(ended) = self.ended.lock().await.take() else { return };
        // Readers first: while one is open, the last checkpoint can't empty the log file.
        let finish = async {
            self.readers.close().await;
            let _ = self.queue.send(Message::Close).await;
            let _ = ended.await;
        };
        if tokio::time::timeout(CLOSE_WAIT, finish).await.is_err() {
            tracing::warn!("the store did not finish in time; what was acknowledged is safe");
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

/// A read that failed: by timeout of the pool, or by the file.
fn read_failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
