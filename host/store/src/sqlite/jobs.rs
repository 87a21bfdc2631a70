//! Writes that are too rare to be grouped: keys, sessions, tools, upkeep. A
//! job runs on the writer's connection between two batches, in a transaction
//! of its own.

use std::fmt;

use bulkhead_core::ports::store::StoreError;
use futures::future::BoxFuture;
use sqlx::{Executor as _, SqliteConnection};
use tokio::sync::oneshot;

use super::writer::store_error;

/// What a job does within its transaction.
pub(super) trait Work<T>:
    for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static
{
}

impl<T, F> Work<T> for F where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static
{
}

/// Runs and answers; says whether it committed.
type Run = dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, bool> + Send;

/// A job with its result type hidden: it answers whoever waits for it itself.
pub(super) struct Job(Box<Run>);

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// Makes a job of `work`, and the place where its result will be.
pub(super) fn job<T, W>(what: &'static str, work: W) -> (Job, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    W: Work<T>,
{
    let (reply, answer) = oneshot::channel();
    let run = Job(Box::new(move |connection| {
        Box::pin(async move {
            let result = in_transaction(connection, work).await;
            let committed = result.is_ok();
            // Nobody waits any longer: the write stands all the same.
            let _ = reply.send(result.map_err(|error| store_error(what, error)));
            committed
        })
    }));
    (run, answer)
}

impl Job {
    /// Runs the job; true if it committed.
    pub(super) async fn run(self, connection: &mut SqliteConnection) -> bool {
        (self.0)(connection).await
    }
}

async fn in_transaction<T, W: Work<T>>(connection: &mut SqliteConnection, work: W) -> Result<T, sqlx::Error> {
    connection.execute("BEGIN IMMEDIATE").await?;
    let result = match work(connection).await {
        Ok(value) => connection.execute("COMMIT").await.map(|_| value),
        Err(error) => Err(error),
    };
    if result.is_err() {
        // SQLite has rolled back by itself after some errors; then this one
        // fails, and the connection is clean all the same.
        let _ = connection.execute("ROLLBACK").await;
    }
    result
}
