//! The row of a tool.

use std::sync::Arc;

use bulkhead_core::clock::Timestamp;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::tool::{Artifact, Tool, ToolOwner, ToolState};
use sqlx::FromRow;

use super::Reading;

/// `tools.tenant_id` of a tool that every tenant sees.
const OPERATOR: &str = "operator";

#[derive(FromRow)]
pub(crate) struct ToolRow {
    pub(crate) id: String,
    tenant_id: String,
    digest: String,
    size: i64,
    pub(crate) state: String,
    manifest: Option<String>,
    artifact_key: Option<String>,
    artifact_digest: Option<String>,
    artifact_size: Option<i64>,
    code: Option<String>,
    reason: Option<String>,
    created_at: i64,
}

impl ToolRow {
    /// From the writer's connection, which is another library's.
    pub(crate) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            tenant_id: row.get("tenant_id")?,
            digest: row.get("digest")?,
            size: row.get("size")?,
            state: row.get("state")?,
            manifest: row.get("manifest")?,
            artifact_key: row.get("artifact_key")?,
            artifact_digest: row.get("artifact_digest")?,
            artifact_size: row.get("artifact_size")?,
            code: row.get("code")?,
            reason: row.get("reason")?,
            created_at: row.get("created_at")?,
        })
    }
}

impl TryFrom<ToolRow> for Tool {
    type Error = StoreError;

    fn try_from(row: ToolRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "tools", row: &row.id };
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            owner: match row.tenant_id.as_str() {
                OPERATOR => ToolOwner::Operator,
                tenant => ToolOwner::Tenant(reading.parse("tenant_id", tenant)?),
            },
            digest: reading.parse("digest", &row.digest)?,
            size: reading.number("size", row.size)?,
            state: tool_state(reading, &row)?,
            created_at: Timestamp::from_millis(row.created_at),
        })
    }
}

fn tool_state(reading: Reading<'_>, row: &ToolRow) -> Result<ToolState, StoreError> {
    Ok(match row.state.as_str() {
        "compiling" => ToolState::Compiling,
        "ready" => ToolState::Ready {
            manifest: Arc::new(reading.json("manifest", reading.present("manifest", row.manifest.as_deref())?)?),
            artifact: Artifact {
                key: reading.parse("artifact_key", reading.present("artifact_key", row.artifact_key.as_deref())?)?,
                digest: reading
                    .parse("artifact_digest", reading.present("artifact_digest", row.artifact_digest.as_deref())?)?,
                size: reading.number("artifact_size", reading.present("artifact_size", row.artifact_size)?)?,
            },
        },
        "rejected" => ToolState::Rejected {
            code: reading.present("code", row.code.clone())?,
            reason: reading.present("reason", row.reason.clone())?,
        },
        other => return Err(reading.corrupt("state", format_args!("unknown state `{other}`"))),
    })
}

/// `tools.tenant_id` of an owner.
pub(crate) fn owner_text(owner: ToolOwner) -> String {
    match owner {
        ToolOwner::Operator => OPERATOR.to_owned(),
        ToolOwner::Tenant(tenant) => tenant.to_string(),
    }
}
