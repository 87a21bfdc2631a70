//! Tickets for streams: give and take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::access::OwnedTask;
use crate::audit::{AuditBody, NewAudit};
use crate::clock::{Ids, Timestamp};
use crate::error::Error;
use crate::id::TaskId;
use crate::ports::store::{Store, StoreError};
use crate::principal::{Principal, Scope};
use crate::reached::{Bound, TICKETS};
use crate::ticket::{MAX_TICKETS, TICKET_TTL_MS, Ticket, TicketRecord, TicketRefused};

/// Tickets that are looked up at once: who makes them up has this much of the store.
const LOOKED_UP_AT_ONCE: usize = 4;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// The use cases of tickets.
pub struct Tickets {
    store: Arc<dyn Store>,
    ids: Arc<dyn Ids>,
    turns: Semaphore,
}

impl Tickets {
    pub(super) fn new(store: Arc<dyn Store>, ids: Arc<dyn Ids>) -> Self {
        Self { store, ids, turns: Semaphore::new(LOOKED_UP_AT_ONCE) }
    }

    /// Gives a ticket for a task's events, and says until when it can be used.
    ///
    /// # Errors
    /// If the owner has too many, or the store fails.
    pub async fn give(&self, by: &Principal, task: &OwnedTask) -> Result<(Ticket, Timestamp), Error> {
        let ticket = Ticket::generate(&*self.ids);
        let now = self.ids.now();
        let expires_at = now.plus_millis(TICKET_TTL_MS);
        let task = task.task();
        let credential = by.credential.clone();
        let record = TicketRecord { hash: ticket.hash(), owner: task.owner, credential, task: task.id, expires_at };
        let body = AuditBody::TicketGiven { expires_at: expires_at.to_string() };
        let audit = NewAudit::new(now, task.owner, task.id, None, &body).by(&by.into());
        if !self.store.create_ticket(&record, MAX_TICKETS, now, audit).await? {
            let most = MAX_TICKETS.into();
            return Err(Error::OverQuota(Bound { name: TICKETS.spec.name, value: most, used: Some(most) }));
        }
        Ok((ticket, expires_at))
    }

    /// Takes a ticket for a task: whoever shows it may read the task's events,
    /// and nothing else.
    ///
    /// # Errors
    /// If it opens nothing (the inner error), or the store fails.
    pub async fn take(&self, text: &str, task: TaskId) -> Result<Result<Principal, TicketRefused>, Error> {
        let Some(ticket) = Ticket::parse(text) else { return Ok(Err(TicketRefused)) };
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| StoreError::Unavailable("too many tickets are being looked up".into()))?;
        let taken = self.store.take_ticket(ticket.hash(), task, self.ids.now()).await?;
        let scopes = [Scope::TasksRead].into_iter().collect();
        Ok(taken.ok_or(TicketRefused).map(|(owner, credential)| Principal::new(owner, scopes, credential)))
    }
}
