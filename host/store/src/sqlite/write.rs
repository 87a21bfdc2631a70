//! Writes on their way to the writer: what to do, and who waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;

use bulkhead_core::ports::store::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::audit::{self, Head};

/// A transaction that is under way, which several writes may share: the connection,
/// and where each chain of the audit log ends that one of them has appended to.
/// The heads are stored once, when all writes are done, for in a batch most records
/// are of the same few chains.
pub(super) struct Transaction<'a> {
    db: &'a Connection,
    pub(super) heads: RefCell<BTreeMap<String, Head>>,
}

impl<'a> Transaction<'a> {
    /// Of a connection on which one has begun.
    pub(super) fn of(db: &'a Connection) -> Self {
        Self { db, heads: RefCell::default() }
    }

    /// Stores what is stored once: to be called before it is committed.
    pub(super) fn finish(self) -> rusqlite::Result<()> {
        audit::store_heads(self.db, &self.heads.into_inner())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.db
    }
}

/// What a write does within a transaction that others may share. It is run a
/// second time if another write of the same transaction failed, so it changes
/// nothing but the database.
pub(super) trait Work<T>: Fn(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static {}

impl<T, F> Work<T> for F where F: Fn(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static {}

/// A write in the queue, its result type hidden.
pub(super) trait Write: Send {
    /// What it makes, for an error that says it exists.
    fn what(&self) -> &'static str;
    /// Does the work and keeps the result until it is known to be committed.
    fn attempt(&mut self, db: &Transaction<'_>) -> rusqlite::Result<()>;
    /// Answers with the result.
    fn committed(self: Box<Self>);
    /// Answers that nothing was written.
    fn failed(self: Box<Self>, error: StoreError);
}

struct Pending<T, W> {
    what: &'static str,
    work: W,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Makes a write of `work`, and the place where its result will be.
pub(super) fn write<T, W>(what: &'static str, work: W) -> (Box<dyn Write>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    W: Work<T>,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Pending { what, work, result: None, reply }), answer)
}

impl<T: Send, W: Work<T>> Write for Pending<T, W> {
    fn what(&self) -> &'static str {
        self.what
    }

    fn attempt(&mut self, db: &Transaction<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.work)(db)?);
        Ok(())
    }

    fn committed(self: Box<Self>) {
        // If nobody waits any longer, the write stands all the same.
        if let Some(result) = self.result {
            let _ = self.reply.send(Ok(result));
        }
    }

    fn failed(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}
