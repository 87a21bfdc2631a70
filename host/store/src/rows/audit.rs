//! The rows of the audit log.

use bulkhead_core::audit::chain::{ChainState, Columns, Place, Stored};
use bulkhead_core::audit::verify::link;
use bulkhead_core::audit::{Audit, NewAudit};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::ports::store::StoreError;
use sqlx::FromRow;

use super::Reading;

#[derive(FromRow)]
pub(crate) struct AuditRow {
    tenant_id: String,
    number: i64,
    at: i64,
    user_id: Option<String>,
    task_id: Option<String>,
    call_id: Option<String>,
    kind: String,
    data: String,
    hash: Vec<u8>,
}

/// As it is stored, whatever it says.
impl TryFrom<AuditRow> for Stored {
    type Error = StoreError;

    fn try_from(row: AuditRow) -> Result<Self, StoreError> {
        let name = format!("{}/{}", row.tenant_id, row.number);
        let number = Reading { table: "audit", row: &name }.number("number", row.number)?;
        let columns = Columns {
            at: row.at,
            chain: row.tenant_id,
            user: row.user_id,
            task: row.task_id,
            call: row.call_id,
            kind: row.kind,
            data: row.data.into(),
        };
        Ok(Self { number, columns, hash: row.hash })
    }
}

/// As a record of ours.
impl TryFrom<AuditRow> for Audit {
    type Error = StoreError;

    fn try_from(row: AuditRow) -> Result<Self, StoreError> {
        let name = format!("{}/{}", row.tenant_id, row.number);
        let reading = Reading { table: "audit", row: &name };
        let record = NewAudit {
            at: Timestamp::from_millis(row.at),
            chain: reading.parse("tenant_id", &row.tenant_id)?,
            user: row.user_id.as_deref().map(|id| reading.parse("user_id", id)).transpose()?,
            task: row.task_id.as_deref().map(|id| reading.parse("task_id", id)).transpose()?,
            call: row.call_id.as_deref().map(|id| reading.parse("call_id", id)).transpose()?,
            kind: row.kind,
            data: row.data.into(),
        };
        Ok(Self { number: reading.number("number", row.number)?, record })
    }
}

#[derive(FromRow)]
pub(crate) struct ChainRow {
    tenant_id: String,
    number: i64,
    hash: Vec<u8>,
    kept_after: i64,
    kept_hash: Vec<u8>,
}

impl TryFrom<ChainRow> for ChainState {
    type Error = StoreError;

    fn try_from(row: ChainRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "audit_heads", row: &row.tenant_id };
        let place = |column: &str, number: i64, hash: &[u8]| {
            let hash = link(hash).map_err(|error| reading.corrupt(column, error))?;
            Ok::<_, StoreError>(Place { number: reading.number(column, number)?, hash })
        };
        Ok(Self {
            kept_after: place("kept_hash", row.kept_after, &row.kept_hash)?,
            head: place("hash", row.number, &row.hash)?,
            chain: row.tenant_id,
        })
    }
}
