//! Grants in memory.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::grants::Grant;
use bulkhead_core::id::GrantId;
use bulkhead_core::ports::store::StoreError;

use super::state::State;

impl State {
    pub(super) fn create_grant(&mut self, grant: &Grant, most: u32, audit: NewAudit) -> Result<bool, StoreError> {
        if self.grants.contains_key(&grant.id) {
            return Err(StoreError::Exists("grant"));
        }
        let live = |known: &&Grant| known.task == grant.task && known.is_live(grant.created_at);
        if self.grants.values().filter(live).count() >= most as usize {
            return Ok(false);
        }
        self.grants.insert(grant.id, grant.clone());
        self.audit.append(audit);
        Ok(true)
    }

    pub(super) fn use_grant(&mut self, id: GrantId, now: Timestamp) -> bool {
        let Some(grant) = self.grants.get_mut(&id).filter(|grant| grant.is_live(now)) else { return false };
        grant.uses_left = grant.uses_left.map(|uses| uses.saturating_sub(1));
        true
    }
}
