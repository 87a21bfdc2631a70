//! Tools in the memory store, and what retention removes.

use std::collections::BTreeMap;

use bulkhead_core::audit::NewAudit;
use bulkhead_core::id::{TenantId, ToolId};
use bulkhead_core::ports::store::{IDEMPOTENCY_TTL_MS, Retained, Retention, StoreError};
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::{Tool, ToolOwner, ToolState};

use super::state::State;

impl State {
    pub(super) fn create_tool(&mut self, tool: &Tool, audit: NewAudit) -> Result<Option<Tool>, StoreError> {
        let same = self.tools.values().find(|known| known.owner == tool.owner && known.digest == tool.digest);
        match same.map(|same| (same.id, &same.state)) {
            Some((id, ToolState::Rejected { .. })) => {
                self.tools.remove(&id);
            }
            Some((_, ToolState::Compiling | ToolState::Ready { .. })) => return Ok(same.cloned()),
            None => {}
        }
        if self.tools.contains_key(&tool.id) {
            return Err(StoreError::Exists("tool"));
        }
        self.tools.insert(tool.id, tool.clone());
        self.audit.append(audit);
        Ok(None)
    }

    pub(super) fn finish_tool(&mut self, id: ToolId, state: &ToolState) -> bool {
        match self.tools.get_mut(&id) {
            Some(tool) if tool.state == ToolState::Compiling => {
                tool.state = state.clone();
                true
            }
            _ => false,
        }
    }

    pub(super) fn pinnable_tools(&self, tenant: TenantId) -> Vec<Tool> {
        let rank = |tool: &Tool| (tool.owner != ToolOwner::Operator, tool.created_at, tool.id);
        let mut best: BTreeMap<&str, &Tool> = BTreeMap::new();
        for tool in self.tools.values().filter(|tool| tool.owner.visible_to(tenant)) {
            let Some(manifest) = tool.manifest() else { continue };
            let place = best.entry(&manifest.name).or_insert(tool);
            if rank(tool) > rank(place) {
                *place = tool;
            }
        }
        best.into_values().cloned().collect()
    }

    pub(super) fn delete_tool(&mut self, owner: ToolOwner, id: ToolId, audit: NewAudit) -> bool {
        let pinned = self
            .tasks
            .values()
            .filter(|entry| entry.task.state != TaskState::Deleted || entry.task.kept_until.is_some())
            .filter_map(|entry| self.sets.get(&entry.task.tool_set))
            .any(|set| set.tools.iter().any(|tool| tool.id == id));
        let free = !pinned && self.tools.get(&id).is_some_and(|tool| tool.owner == owner);
        if free {
            self.tools.remove(&id);
            self.audit.append(audit);
        }
        free
    }

    /// All at once: this store is small.
    pub(super) fn retain(&mut self, retention: Retention) -> Retained {
        let mut retained = Retained::default();
        let expired = retention.now.plus_millis(-IDEMPOTENCY_TTL_MS);
        retained.idempotency_keys = self.used.extract_if(|_, used| used.at <= expired).count() as u64;
        retained.audit = self.audit.shorten(retention.audit_before);
        let old = |task: &Task| {
            task.state == TaskState::Deleted && task.kept_until.is_none() && task.updated_at < retention.deleted_before
        };
        for (id, entry) in self.tasks.extract_if(.., |_, entry| old(&entry.task)) {
            retained.tasks += 1;
            retained.events += entry.events.len() as u64;
            self.calls.retain(|_, call| call.task != id);
            self.grants.retain(|_, grant| grant.task != id);
            self.deleted.retain(|_, file| file.task != id);
            self.uploads.retain(|_, upload| upload.task != id);
            self.accesses.retain(|_, access| access.task != id);
        }
        let tasks = &self.tasks;
        self.sets.retain(|digest, _| tasks.values().any(|entry| entry.task.tool_set == *digest));
        for entry in self.tasks.values_mut() {
            while let Some(oldest) = entry.events.front() {
                if entry.bytes <= retention.events_bytes_per_task && oldest.body.at >= retention.events_before {
                    break;
                }
                entry.bytes -= oldest.body.size();
                entry.task.first_seq = oldest.seq + 1;
                entry.events.pop_front();
                retained.events += 1;
            }
        }
        retained
    }
}
