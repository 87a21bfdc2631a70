//! How many connections there may be at once: in all, of one tenant, and of one user.
//!
//! Who has as many as are left to others gets no more: a tenant beside all others, and a
//! user beside its tenant's. So whoever comes finds some left, however many one wants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_core::id::{TenantId, UserId};
use bulkhead_core::ports::egress::{EgressError, Sharers};
use bulkhead_core::principal::Owner;
use tokio::sync::Notify;

pub(super) struct Connections {
    most: u32,
    most_per_tenant: u32,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Default)]
struct Held {
    all: u32,
    by_tenant: HashMap<TenantId, OfTenant>,
}

#[derive(Default)]
struct OfTenant {
    all: u32,
    by_user: HashMap<UserId, u32>,
}

/// What is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Between whom it is shared.
    pub(super) between: Sharers,
    most: u32,
    used: u32,
}

impl From<Full> for EgressError {
    fn from(Full { between, most, used }: Full) -> Self {
        Self::NoConnection { between, most, used }
    }
}

/// The right to one connection, for as long as it is kept.
pub(super) struct Place {
    connections: Arc<Connections>,
    owner: Owner,
}

impl Connections {
    pub(super) fn new(most: usize, most_per_tenant: usize) -> Arc<Self> {
        let counted = |most| u32::try_from(most).unwrap_or(u32::MAX);
        let (most, most_per_tenant) = (counted(most), counted(most_per_tenant));
        Arc::new(Self { most, most_per_tenant, held: Mutex::default(), freed: Notify::new() })
    }

    pub(super) fn take(self: &Arc<Self>, owner: Owner) -> Result<Place, Full> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = held.by_tenant.get(&owner.tenant);
        let tenants = of_tenant.map_or(0, |of_tenant| of_tenant.all);
        let users = of_tenant.and_then(|of_tenant| of_tenant.by_user.get(&owner.user)).copied().unwrap_or_default();
        if users >= self.most_per_tenant.saturating_sub(tenants) {
            return Err(Full { between: Sharers::Users, most: self.most_per_tenant, used: users });
        }
        if tenants >= self.most.saturating_sub(held.all) {
            return Err(Full { between: Sharers::Tenants, most: self.most, used: tenants });
        }
        held.all += 1;
        let of_tenant = held.by_tenant.entry(owner.tenant).or_default();
        of_tenant.all += 1;
        *of_tenant.by_user.entry(owner.user).or_default() += 1;
        Ok(Place { connections: Arc::clone(self), owner })
    }

    /// Like `take`, but waits a while for somebody to leave.
    pub(super) async fn take_within(self: &Arc<Self>, owner: Owner, patience: Duration) -> Result<Place, Full> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            // Listens before it looks: who leaves in between is heard.
            let freed = self.freed.notified();
            let full = match self.take(owner) {
                Ok(place) => return Ok(place),
                Err(full) => full,
            };
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(full);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.connections.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(of_tenant) = held.by_tenant.get_mut(&self.owner.tenant) {
            of_tenant.all -= 1;
            if let Some(own) = of_tenant.by_user.get_mut(&self.owner.user) {
                *own -= 1;
                if *own == 0 {
                    of_tenant.by_user.remove(&self.owner.user);
                }
            }
            if of_tenant.all == 0 {
                held.by_tenant.remove(&self.owner.tenant);
            }
        }
        drop(held);
        self.connections.freed.notify_waiters();
    }
}
