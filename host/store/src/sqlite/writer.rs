//! The writer: a thread that owns the only connection that writes, and commits
//! what is queued together. While one commit is under way the next batch
//! gathers, so the more clients there are, the fewer commits each of them costs.
//!
//! Writes of one batch are concurrent: none was acknowledged when the last one
//! arrived. They run in the order of arrival, but for those of many rows: of these
//! each commit takes a part, so that a flood of events delays nobody's few.

use std::collections::VecDeque;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_core::ports::store::StoreError;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior, ffi};
use tokio::sync::mpsc;

use super::audit;
use super::open::Synchronous;
use super::write::{Transaction, Write};

/// Most writes of one transaction: more would make the first wait for too long.
pub(super) const MAX_BATCH: usize = 256;

/// Rows of many that one transaction writes, unless a single write has more: a few
/// milliseconds' worth.
const MAX_ROWS: usize = 128;

/// A commit that takes longer is worth a warning.
const SLOW_COMMIT: Duration = Duration::from_millis(100);

/// Prepared statements that are kept: more than there are texts.
const STATEMENTS: usize = 64;

/// After how many pages of write-ahead log (4 MiB) a commit copies them into the file:
/// hot pages are then copied once for many commits. Four times as many would cost the
/// writer 3 % less, and hold up the commit that does it for 15 ms instead of 5.
const CHECKPOINT_PAGES: u32 = 1024;

/// What is left of the write-ahead log file after a checkpoint, at most.
const WAL_BYTES: u32 = 64 << 20;

/// What can be in the queue.
pub(super) enum Message {
    /// To be committed with others.
    Write(Box<dyn Write>),
    /// The same, of so many rows: it may have to wait for others that have few.
    Rows(Box<dyn Write>, usize),
    /// To be committed alone, after the others: it takes long.
    Alone(Box<dyn Write>),
    /// Nothing more is to come.
    Close,
}

/// How the writer opens its connection.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) path: PathBuf,
    pub(super) synchronous: Synchronous,
    pub(super) busy_timeout: Duration,
    pub(super) cache_kib: u32,
}

impl Options {
    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.path, flags)?;
        db.busy_timeout(self.busy_timeout)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        db.pragma_update(None, "foreign_keys", true)?;
        db.pragma_update(None, "cache_size", -i64::from(self.cache_kib))?;
        db.pragma_update(None, "temp_store", "memory")?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        db.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
        let synchronous = match self.synchronous {
            Synchronous::Full => "full",
            Synchronous::Off => "off",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        Ok(db)
    }
}

/// The writer's connection and what it needs.
pub(super) struct Writer {
    options: Options,
    db: Connection,
    commits: Arc<AtomicU64>,
}

impl Writer {
    /// Connects.
    pub(super) fn connect(options: Options, commits: Arc<AtomicU64>) -> rusqlite::Result<Self> {
        let db = options.connect()?;
        Ok(Self { options, db, commits })
    }

    /// Makes links of what was recorded by a version without chains, a part at a time,
    /// so that a start that is interrupted goes on where it was.
    pub(super) fn take_over(&mut self) -> rusqlite::Result<()> {
        // Mostly there is nothing: then whoever else writes to the file is not held up.
        while audit::is_to_be_taken_over(&self.db)? {
            let part = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            audit::take_over(&part)?;
            part.commit()?;
        }
        Ok(())
    }

    /// Works until the queue is closed or says so, then empties the log file.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(MAX_BATCH);
        // Bounded by who waits for them: a call has one on its way.
        let mut rows: VecDeque<(Box<dyn Write>, usize)> = VecDeque::new();
        let mut closing = false;
        loop {
            if rows.is_empty() {
                if closing || queue.blocking_recv_many(&mut messages, MAX_BATCH) == 0 {
                    break;
                }
            } else {
                messages.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(MAX_BATCH));
            }
            let (mut together, mut alone) = (Vec::with_capacity(messages.len()), Vec::new());
            for message in messages.drain(..) {
                match message {
                    Message::Write(write) => together.push(write),
                    Message::Rows(write, count) => rows.push_back((write, count)),
                    Message::Alone(write) => alone.push(write),
                    Message::Close => closing = true,
                }
            }
            let mut taken = 0;
            while let Some((write, count)) = rows.pop_front_if(|(_, count)| taken == 0 || taken + *count <= MAX_ROWS) {
                taken += count;
                together.push(write);
            }
            if !together.is_empty() {
                self.commit(together);
            }
            for write in alone {
                self.commit(vec![write]);
            }
        }
        queue.close();
        if let Err(error) = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the last checkpoint failed; the next start does it");
        }
        if let Err((_, error)) = self.db.close() {
            tracing::warn!(%error, "closing the database failed");
        }
    }

    /// Commits a batch and answers. If it fails, each write is tried alone, so
    /// that one bad write does not take the others with it.
    fn commit(&mut self, mut batch: Vec<Box<dyn Write>>) {
        match self.transaction(&mut batch) {
            Ok(()) => batch.into_iter().for_each(Write::committed),
            Err(Failure { error, undone: true }) if batch.len() > 1 && !is_busy(&error) => {
                tracing::debug!(%error, writes = batch.len(), "a batch failed; its writes run one by one");
                for mut write in batch {
                    match self.transaction(std::slice::from_mut(&mut write)) {
                        Ok(()) => write.committed(),
                        Err(failure) => fail(write, failure.error),
                    }
                }
            }
            Err(Failure { error, .. }) => {
                let (text, is_full) = (error.to_string(), is_full(&error));
                let mut error = Some(error);
                for write in batch {
                    match error.take() {
                        Some(error) => fail(write, error),
                        None if is_full => write.failed(StoreError::DiskFull),
                        None => write.failed(StoreError::Unavailable(text.clone().into())),
                    }
                }
            }
        }
    }

    /// All writes or none.
    fn transaction(&mut self, batch: &mut [Box<dyn Write>]) -> Result<(), Failure> {
        let started = Instant::now();
        let run = |text| self.db.prepare_cached(text).and_then(|mut statement| statement.execute([]));
        let mut undone = true;
        let mut done = run("BEGIN IMMEDIATE").map(drop);
        let transaction = Transaction::of(&self.db);
        for write in &mut *batch {
            done = done.and_then(|()| write.attempt(&transaction));
        }
        done = done.and_then(|()| transaction.finish());
        if done.is_ok() {
            undone = false;
            done = run("COMMIT").map(drop);
        }
        if let Err(error) = done {
            self.leave_transaction();
            return Err(Failure { error, undone });
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        let took = started.elapsed();
        if took > SLOW_COMMIT {
            tracing::warn!(took_ms = took.as_millis() as u64, writes = batch.len(), "slow commit");
        } else {
            tracing::debug!(took_us = took.as_micros() as u64, writes = batch.len(), "commit");
        }
        Ok(())
    }

    /// After a failure: makes sure that the connection is in no transaction,
    /// for in one the next write would be acknowledged and not committed.
    fn leave_transaction(&mut self) {
        // SQLite has rolled back by itself after some errors.
        if self.db.is_autocommit() || (self.db.execute_batch("ROLLBACK").is_ok() && self.db.is_autocommit()) {
            return;
        }
        match self.options.connect() {
            Ok(db) => drop(mem::replace(&mut self.db, db)),
            Err(error) => tracing::error!(%error, "the database can't be opened again"),
        }
    }
}

/// A batch that failed. If it was not undone, its fate must not be decided
/// again by another try: it may be committed.
struct Failure {
    error: Error,
    undone: bool,
}

/// Somebody else holds the file: each further try would wait as long again.
fn is_busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// There is no room for it, and SQLite has undone what it began.
fn is_full(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull))
}

fn fail(write: Box<dyn Write>, error: Error) {
    let what = write.what();
    write.failed(store_error(what, error));
}

/// What a failed write means. `what` names what was to be made.
fn store_error(what: &'static str, error: Error) -> StoreError {
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID) => {
            StoreError::Exists(what)
        }
        Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY | ffi::SQLITE_CONSTRAINT_NOTNULL | ffi::SQLITE_CONSTRAINT_CHECK) => {
            StoreError::Corrupt { table: what, row: "to be written".into(), reason: error.to_string() }
        }
        _ if is_full(&error) => StoreError::DiskFull,
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
