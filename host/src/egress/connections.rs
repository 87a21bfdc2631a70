//! How many connections there may be at once, in all and of one tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_core::id::TenantId;
use tokio::sync::Notify;

pub(super) struct Connections {
    most: usize,
    most_per_tenant: usize,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_tenant: HashMap<TenantId, usize>,
}

/// What is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// What one tenant may have.
    Tenant,
    /// All there is.
    All,
}

/// The right to one connection, for as long as it is kept.
pub(super) struct Place {
    connections: Arc<Connections>,
    tenant: TenantId,
}

impl Connections {
    pub(super) fn new(most: usize, most_per_tenant: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_tenant, held: Mutex::default(), freed: Notify::new() })
    }

    pub(super) fn take(self: &Arc<Self>, tenant: TenantId) -> Result<Place, Full> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.by_tenant.get(&tenant).is_some_and(|&own| own >= self.most_per_tenant) {
            return Err(Full::Tenant);
        }
        if held.all >= self.most {
            return Err(Full::All);
        }
        held.all += 1;
        *held.by_tenant.entry(tenant).or_default() += 1;
        Ok(Place { connections: Arc::clone(self), tenant })
    }

    /// Like `take`, but waits a while for somebody to leave.
    pub(super) async fn take_within(self: &Arc<Self>, tenant: TenantId, patience: Duration) -> Option<Place> {
        let taken = async {
            loop {
                // Listens before it looks: who leaves in between is heard.
                let freed = self.freed.notified();
                match self.take(tenant) {
                    Ok(place) => return place,
                    Err(_) => freed.await,
                }
            }
        };
        tokio::time::timeout(patience, taken).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.connections.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(own) = held.by_tenant.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                held.by_tenant.remove(&self.tenant);
            }
        }
        drop(held);
        self.connections.freed.notify_waiters();
    }
}
