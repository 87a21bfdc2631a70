//! The row of a grant.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::grants::Grant;
use bulkhead_core::ports::store::StoreError;
use sqlx::FromRow;

use super::Reading;

#[derive(FromRow)]
pub(crate) struct GrantRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    capability: String,
    expires_at: Option<i64>,
    uses_left: Option<i64>,
    created_at: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<GrantRow> for Grant {
    type Error = StoreError;

    fn try_from(row: GrantRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "grants", row: &row.id };
        let uses = row.uses_left.map(u32::try_from).transpose().map_err(|error| reading.corrupt("uses_left", error))?;
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            task: reading.parse("task_id", &row.task_id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            capability: reading.json("capability", &row.capability)?,
            expires_at: row.expires_at.map(Timestamp::from_millis),
            uses_left: uses,
            created_at: Timestamp::from_millis(row.created_at),
            revoked_at: row.revoked_at.map(Timestamp::from_millis),
        })
    }
}
