//! One operation: leave of the breaker, a connection, the statements; and again
//! where that is safe.
//!
//! What a failure says decides what may follow. The server *refused*: the
//! statement was undone, its fate is known. It *never got it*: so is that. The
//! answer was *lost*: it may be done. Then only what is harmless when done twice is
//! sent again, and whoever asked is told that an earlier try may have succeeded.

use std::time::{Duration, Instant};

use bulkhead_core::ports::store::StoreError;
use futures::TryStreamExt as _;
use sqlx::{Connection as _, Either, Executor as _, PgConnection};

use super::Shared;
use super::breaker::Leave;
use super::pool::{Lease, NoConnection};
use super::statement::{Again, Answer, Statement, Work};

/// Most tries of one operation whose fate is known.
const TRIES: u32 = 5;

/// How long a fate that is not known is asked for, in timeouts of one try: longer than a
/// database takes to start, or another to take its place. Those that wait so are few:
/// each was under way on a connection that broke.
const UNSURE: u32 = 6;

/// Before the second try; doubled for each further one, up to `LONGEST`.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(200);

/// Why an operation failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: StoreError,
    /// An earlier try, whose answer was lost, may have been done.
    pub(super) maybe_second: bool,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Why one try failed.
#[derive(Debug)]
enum Failure {
    /// The server said no; nothing was done.
    Refused(sqlx::Error),
    /// It lost against others and was undone; the next try may win.
    Conflict(sqlx::Error),
    /// It never reached the server.
    Unsent(Box<dyn std::error::Error + Send + Sync>),
    /// It may have been done.
    Lost(sqlx::Error),
}

impl Shared {
    /// Does the work, in several tries if that is safe and of use.
    pub(super) async fn attempt_all(&self, work: &Work) -> Result<Answer, Failed> {
        let begun = Instant::now();
        let (mut nth, mut maybe_second) = (0, false);
        loop {
            nth += 1;
            let failure = match self.attempt(work).await {
                Ok(answer) => return Ok(Answer { maybe_second, ..answer }),
                Err(failure) => failure,
            };
            let over = if maybe_second {
                begun.elapsed() >= self.config.timeout * UNSURE
            } else {
                nth >= TRIES || begun.elapsed() >= self.config.timeout * 2
            };
            let error = match failure {
                Failure::Conflict(_) if !over => None,
                Failure::Conflict(error) => Some(StoreError::Unavailable(Box::new(error))),
                Failure::Refused(error) => Some(refusal(work.what, error)),
                // A fate that is not known is worth waiting for, a server that is not there is not.
                Failure::Unsent(_) if maybe_second && !over => None,
                Failure::Unsent(error) => Some(StoreError::Unavailable(error)),
                Failure::Lost(_) if work.again != Again::Never && !over => {
                    maybe_second |= work.again != Again::Reads;
                    None
                }
                Failure::Lost(error) if work.again == Again::Reads => Some(StoreError::Unavailable(Box::new(error))),
                Failure::Lost(error) => Some(StoreError::Unsure(Box::new(error))),
            };
            if let Some(error) = error {
                // That this try did nothing says nothing about an earlier one.
                let error = match error {
                    StoreError::Unavailable(reason) if maybe_second => StoreError::Unsure(reason),
                    StoreError::DiskFull if maybe_second => StoreError::Unsure(Box::new(StoreError::DiskFull)),
                    error => error,
                };
                return Err(Failed { error, maybe_second });
            }
            tokio::time::sleep((PAUSE * 2_u32.pow(nth.min(TRIES) - 1)).min(LONGEST)).await;
        }
    }

    async fn attempt(&self, work: &Work) -> Result<Answer, Failure> {
        let Some(leave) = self.breaker.enter(Instant::now()) else {
            return Err(Failure::Unsent("the database does not answer; it is tried again shortly".into()));
        };
        let mut lease = match self.pool.acquire().await {
            Ok(lease) => lease,
            Err(NoConnection::Unreachable(error)) => {
                leave.failed(Instant::now());
                return Err(Failure::Unsent(Box::new(error)));
            }
            Err(NoConnection::Busy) => {
                leave.unused();
                return Err(Failure::Unsent("all its connections are busy; retry later".into()));
            }
            Err(NoConnection::Closed) => {
                leave.unused();
                return Err(Failure::Unsent("it is closed".into()));
            }
        };
        let sent = tokio::time::timeout(self.config.timeout, send(&mut lease.connection, work)).await;
        match sent {
            Ok(Ok(answer)) => {
                leave.answered();
                self.pool.release(lease);
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.judge(error, lease, leave)),
            Err(_) => {
                leave.failed(Instant::now());
                self.pool.distrust();
                Err(Failure::Lost(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
            }
        }
    }

    /// What an error of the driver or server means.
    fn judge(&self, error: sqlx::Error, lease: Lease, leave: Leave) -> Failure {
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        let Some(code) = code else {
            leave.failed(Instant::now());
            self.pool.distrust();
            return match error {
                // Never sent: an argument or the text was bad.
                sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => Failure::Refused(error),
                error => Failure::Lost(error),
            };
        };
        match code.as_str() {
            // Serialization failure, deadlock.
            "40001" | "40P01" => {
                leave.answered();
                self.pool.release(lease);
                Failure::Conflict(error)
            }
            // The statement took too long, and was undone: as good as no answer, but its fate is known.
            "57014" => {
                leave.failed(Instant::now());
                self.pool.release(lease);
                Failure::Refused(error)
            }
            // The connection is ended, the server stops or starts, or what was committed is not known.
            "40003" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
                leave.failed(Instant::now());
                self.pool.distrust();
                Failure::Lost(error)
            }
            code if code.starts_with("08") => {
                leave.failed(Instant::now());
                self.pool.distrust();
                Failure::Lost(error)
            }
            _ => {
                leave.answered();
                self.pool.release(lease);
                Failure::Refused(error)
            }
        }
    }
}

/// Sends the statements: one is a transaction by itself.
async fn send(connection: &mut PgConnection, work: &Work) -> sqlx::Result<Answer> {
    if let [statement] = work.statements.as_slice() {
        return one(connection, statement).await;
    }
    let mut transaction = connection.begin().await?;
    let mut done = Ok(Answer::default());
    for statement in &work.statements {
        done = one(&mut transaction, statement).await;
        if done.is_err() {
            break;
        }
    }
    match done {
        Ok(_) => transaction.commit().await?,
        // Now, not with the next statement: until then it would hold its locks.
        Err(_) => transaction.rollback().await?,
    }
    done
}

async fn one(connection: &mut PgConnection, statement: &Statement) -> sqlx::Result<Answer> {
    if let Some(error) = &statement.broken {
        return Err(sqlx::Error::Encode(error.clone().into()));
    }
    let mut answer = Answer::default();
    let mut parts = connection.fetch_many(sqlx::query_with(statement.text, statement.arguments.clone()));
    while let Some(part) = parts.try_next().await? {
        match part {
            Either::Left(done) => answer.affected += done.rows_affected(),
            Either::Right(row) => answer.rows.push(row),
        }
    }
    Ok(answer)
}

/// What it means that the server refused. `what` names what was to be made.
fn refusal(what: &'static str, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    match code.as_deref() {
        Some("23505") => StoreError::Exists(what),
        // `disk_full`.
        Some("53100") => StoreError::DiskFull,
        Some(code) if code.starts_with("23") || code.starts_with("22") => {
            StoreError::Corrupt { table: what, row: "to be written".into(), reason: error.to_string() }
        }
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
