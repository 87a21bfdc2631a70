//! The writer: owns the only connection that writes, and commits what is
//! queued together. While one commit is under way the next batch gathers, so
//! the more clients there are, the fewer commits each of them costs.
//!
//! Commands of one batch are concurrent: none was acknowledged when the last
//! one arrived. They run in the order of arrival; jobs come after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_core::ports::store::StoreError;
use futures::TryStreamExt as _;
use sqlx::error::ErrorKind;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Either, Executor as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, Done, insert_text};
use super::jobs::Job;

/// Most commands of one transaction: more would make the first wait for too long.
pub(super) const MAX_BATCH: usize = 256;

/// A commit that takes longer is worth a warning.
const SLOW_COMMIT: Duration = Duration::from_millis(100);

/// What can be in the queue.
#[derive(Debug)]
pub(super) enum Message {
    Command(Box<Command>),
    Job(Job),
    Close(oneshot::Sender<()>),
}

/// The writer's connection and what it needs.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    connection: SqliteConnection,
    /// The INSERT of 1, 2, 4, … commands.
    inserts: Vec<Arc<str>>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    /// Connects.
    pub(super) async fn connect(options: SqliteConnectOptions, commits: Arc<AtomicU64>) -> Result<Self, sqlx::Error> {
        let connection = prepare_connection(&options).await?;
        let inserts = (0..=MAX_BATCH.ilog2()).map(|power| insert_text(1 << power).into()).collect();
        Ok(Self { options, connection, inserts, commits })
    }

    /// Works until the queue is closed or asked to close, then empties the log file.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(MAX_BATCH);
        let mut closing = None;
        while closing.is_none() && queue.recv_many(&mut messages, MAX_BATCH).await > 0 {
            let (mut commands, mut jobs) = (Vec::new(), Vec::new());
            for message in messages.drain(..) {
                match message {
                    Message::Command(command) => commands.push(*command),
                    Message::Job(job) => jobs.push(job),
                    Message::Close(reply) => closing = Some(reply),
                }
            }
            if !commands.is_empty() {
                self.commit(commands).await;
            }
            for job in jobs {
                if job.run(&mut self.connection).await {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.reconnect_unless_clean().await;
                }
            }
        }
        queue.close();
        if let Err(error) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(%error, "the last checkpoint failed; the next start does it");
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the database failed");
        }
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    /// Commits a batch and answers. If it fails, each command is tried alone,
    /// so that one bad command does not take the others with it.
    async fn commit(&mut self, commands: Vec<Command>) {
        match self.transaction(&commands).await {
            Ok(done) => {
                for (command, done) in commands.into_iter().zip(done) {
                    // Nobody waits any longer: the write stands all the same.
                    let _ = command.reply.send(Ok(done));
                }
                return;
            }
            Err(Failure { error, undone }) if undone && commands.len() > 1 && !is_busy(&error) => {
                tracing::debug!(%error, commands = commands.len(), "a batch failed; its commands run one by one");
                for command in commands {
                    let result = self.transaction(std::slice::from_ref(&command)).await;
                    let result = result.map(|mut done| done.pop().unwrap_or_default());
                    let what = command.row.what();
                    let _ = command.reply.send(result.map_err(|failure| store_error(what, failure.error)));
                }
            }
            Err(Failure { error, .. }) => {
                let text = error.to_string();
                let mut error = Some(error);
                for command in commands {
                    let error = error.take().unwrap_or_else(|| sqlx::Error::Protocol(text.clone()));
                    let _ = command.reply.send(Err(store_error(command.row.what(), error)));
                }
            }
        }
        self.reconnect_unless_clean().await;
    }

    /// One INSERT, and with it one transaction: all commands or none.
    async fn transaction(&mut self, commands: &[Command]) -> Result<Vec<Done>, Failure> {
        let started = Instant::now();
        let mut arguments = SqliteArguments::default();
        for (ord, command) in commands.iter().enumerate() {
            let bound = command.row.bind(commands.len(), ord, &mut arguments);
            bound.map_err(|error| Failure { error, undone: true })?;
        }
        // The statements have 1, 2, 4, … rows; what is not bound is NULL and does nothing.
        let insert = &self.inserts[commands.len().next_power_of_two().ilog2() as usize];
        let query = sqlx::query_with(AssertSqlSafe(insert.clone()), arguments);
        // First comes the end of the INSERT, which commits by itself, then the answers.
        let mut results = self.connection.fetch_many(query);
        let mut undone = true;
        let done = loop {
            match results.try_next().await {
                Ok(Some(Either::Left(_))) => undone = false,
                Ok(Some(Either::Right(row))) => break Done::all(&row, commands.len()),
                Ok(None) => break Err(sqlx::Error::RowNotFound),
                Err(error) => break Err(error),
            }
        };
        let done = done.map_err(|error| Failure { error, undone })?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        let took = started.elapsed();
        if took > SLOW_COMMIT {
            tracing::warn!(took_ms = took.as_millis() as u64, commands = commands.len(), "slow commit");
        } else {
            tracing::debug!(took_us = took.as_micros() as u64, commands = commands.len(), "commit");
        }
        Ok(done)
    }

    /// After a failure: makes sure that the connection is alive and in no
    /// transaction, for in one the next command would be acknowledged and not
    /// committed.
    async fn reconnect_unless_clean(&mut self) {
        if self.connection.execute("BEGIN; ROLLBACK").await.is_ok() {
            return;
        }
        match prepare_connection(&self.options).await {
            Ok(connection) => self.connection = connection,
            Err(error) => tracing::error!(%error, "the database can't be opened again"),
        }
    }
}

/// A batch that failed. If it was not undone, its fate must not be decided
/// again by another try: it may be committed.
struct Failure {
    error: sqlx::Error,
    undone: bool,
}

async fn prepare_connection(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    connection.execute(include_str!("procedures.sql")).await?;
    Ok(connection)
}

/// SQLite's own code of an error, without its extension.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Somebody else holds the file: each further try would wait as long again.
fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(5 | 6))
}

/// What a failed write means. `what` names what was to be made.
pub(super) fn store_error(what: &'static str, error: sqlx::Error) -> StoreError {
    match error.as_database_error().map(|error| error.kind()) {
        Some(ErrorKind::UniqueViolation) => StoreError::Exists(what),
        Some(ErrorKind::ForeignKeyViolation | ErrorKind::NotNullViolation | ErrorKind::CheckViolation) => {
            StoreError::Corrupt { table: what, row: "to be written".into(), reason: error.to_string() }
        }
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
