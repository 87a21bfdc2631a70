//! The audit log: read by an owner; its chains, for who checks or signs them; and
//! refusals on their way into it.

use std::sync::Arc;

use super::Ports;
use crate::access::{OwnedTask, Permit};
use crate::audit::chain::{ChainState, Place, Stored};
use crate::audit::refusals::Refusals;
use crate::audit::verify::{Broken, Verifier, Whole};
use crate::audit::{Audit, AuditFilter, AuditPage};
use crate::dispatch::chain;
use crate::error::Error;
use crate::ports::store::{Store, StoreError};

/// Records of an owner that are looked at for one page: some milliseconds. A walk through
/// all that somebody has would hold up those who wait for the database.
const WALK: u32 = 20_000;

/// A page of what was found, which was looked for up to a number.
fn page(records: Vec<Audit>, limit: u32, up_to: Option<u64>) -> AuditPage {
    let last = records.last().map(|audit| audit.number);
    let next_after = if records.len() >= limit as usize { last } else { up_to };
    AuditPage { records, next_after }
}

/// The use cases of the audit log.
#[derive(Clone)]
pub struct AuditLog {
    ports: Ports,
    refusals: Arc<Refusals>,
}

impl AuditLog {
    pub(super) fn new(ports: Ports, refusals: Arc<Refusals>) -> Self {
        Self { ports, refusals }
    }

    /// The owner's records, in order, after a number. Of those that a filter passes over no
    /// more than [`WALK`] are looked at for one page, which may then be empty and not the last.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(
        &self,
        permit: &Permit,
        mut filter: AuditFilter,
        after: u64,
        limit: u32,
    ) -> Result<AuditPage, Error> {
        let (owner, store) = (permit.owner(), &self.ports.store);
        if filter.passes_over() {
            filter.up_to = store.audit_ahead(owner, after, WALK).await?;
        }
        let records = store.list_audit(owner, &filter, after, limit).await?;
        Ok(page(records, limit, filter.up_to))
    }

    /// The records about a task but for the ends of its calls, in order, after a number.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn of_task(&self, task: &OwnedTask, after: u64, limit: u32) -> Result<AuditPage, Error> {
        let task = task.task();
        let filter = AuditFilter { task: Some(task.id), but_ends: true, ..AuditFilter::default() };
        Ok(page(self.ports.store.list_audit(task.owner, &filter, after, limit).await?, limit, None))
    }

    /// A stranger was refused, for a reason (a problem's code), from somewhere.
    pub fn stranger(&self, reason: &'static str, source: &str) {
        self.refusals.stranger(reason, source);
    }

    /// Writes down the refusals that were counted. What can't be written is counted on:
    /// nobody waits for it.
    pub async fn write_refusals(&self) {
        let taken = self.refusals.take(self.ports.ids.now());
        let records = taken.records();
        if records.is_empty() {
            return;
        }
        let count = records.len();
        match self.ports.store.append_audit(records).await {
            Ok(()) => tracing::debug!(count, "refusals were written down"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "refusals could not be written down; they are counted on");
                self.refusals.put_back(taken);
            }
        }
    }

    /// Every chain, with where it ends.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn chains(&self) -> Result<Vec<ChainState>, Error> {
        Ok(self.ports.store.audit_chains().await?)
    }
}

/// Records that are read at once.
const PAGE: u32 = 1_000;

/// What is wrong with a chain.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// It is not whole.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Something of it can't be read, or the store fails.
    #[error("it can't be read after record {after}: {error}")]
    Unreadable {
        /// The last record that was.
        after: u64,
        /// Why.
        #[source]
        error: StoreError,
    },
}

/// Checks a chain as it was when `state` was read, or when retention shortened it since, against heads that were signed. It
/// needs no more than a store, so that the command line does it without building a host.
///
/// # Errors
/// The first thing that is wrong.
pub async fn verify(store: &dyn Store, state: &ChainState, trusted: Vec<Place>) -> Result<Whole, Unverified> {
    let mut state = state.clone();
    loop {
        let found = verify_once(store, &state, trusted.clone()).await;
        // Retention of a running server may have come between: then the beginning has moved.
        let Err(Unverified::Broken(Broken::Gap { .. } | Broken::Ends { .. })) = found else { return found };
        let after = state.kept_after.number;
        let now = store.audit_chains().await.map_err(|error| Unverified::Unreadable { after, error })?;
        match now.into_iter().find(|now| now.chain == state.chain && now.kept_after.number > after) {
            Some(moved) => state = moved,
            None => return found,
        }
    }
}

async fn verify_once(store: &dyn Store, state: &ChainState, trusted: Vec<Place>) -> Result<Whole, Unverified> {
    let mut verifier = Verifier::new(state, trusted)?;
    while verifier.last() < state.head.number {
        let after = verifier.last();
        let page = store.chained_audit(&state.chain, after, PAGE).await;
        let page = page.map_err(|error| Unverified::Unreadable { after, error })?;
        // A running server goes on writing: what came later than the head is not looked at.
        let of_then: Vec<&Stored> = page.iter().take_while(|record| record.number <= state.head.number).collect();
        if of_then.is_empty() {
            break;
        }
        of_then.into_iter().try_for_each(|record| verifier.take(record))?;
    }
    let whole = verifier.end()?;
    let beyond = store.chained_audit(&state.chain, state.head.number, 1).await;
    let beyond = beyond.map_err(|error| Unverified::Unreadable { after: state.head.number, error })?;
    if let Some(record) = beyond.first() {
        // A server went on writing, or the head was set back.
        let now = store.audit_chains().await;
        let now = now.map_err(|error| Unverified::Unreadable { after: state.head.number, error })?;
        if !now.iter().any(|now| now.chain == state.chain && now.head.number >= record.number) {
            return Err(Broken::Beyond { head: state.head.number, found: record.number }.into());
        }
    }
    Ok(whole)
}
