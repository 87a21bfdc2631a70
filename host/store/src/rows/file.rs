//! Rows about files.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{ChangeKind, ChangedBy};
use bulkhead_core::files::{Access, DeletedFile, FileFacts, HistoryEntry, Place, Upload};
use bulkhead_core::ports::files::ContentPlace;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::FromRow;

use super::Reading;

/// The text of a value that is one in JSON.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        // Only words are asked for.
        _ => String::new(),
    }
}

fn of_word<T: DeserializeOwned>(reading: Reading<'_>, column: &str, text: String) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text)).map_err(|error| reading.corrupt(column, error))
}

/// A number as the engines have it.
pub(crate) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[derive(FromRow)]
pub(crate) struct HistoryRow {
    task_id: String,
    seq: i64,
    number: i64,
    at: i64,
    actor: String,
    by_user: Option<String>,
    call_id: Option<String>,
    path: String,
    change: String,
    size: Option<i64>,
    digest: Option<String>,
    media_type: Option<String>,
    etag: Option<String>,
}

impl TryFrom<HistoryRow> for HistoryEntry {
    type Error = StoreError;

    fn try_from(row: HistoryRow) -> Result<Self, StoreError> {
        let name = format!("{}/{}.{}", row.task_id, row.seq, row.number);
        let reading = Reading { table: "file_changes", row: &name };
        let facts = match (row.size, row.digest, row.media_type, row.etag) {
            (Some(size), Some(digest), Some(media_type), Some(etag)) => Some(FileFacts {
                size: reading.number("size", size)?,
                digest: reading.parse("digest", &digest)?,
                media_type,
                etag,
            }),
            _ => None,
        };
        Ok(Self {
            place: Place {
                seq: reading.number("seq", row.seq)?,
                number: u32::try_from(row.number).map_err(|error| reading.corrupt("number", error))?,
            },
            at: Timestamp::from_millis(row.at),
            by: of_word::<ChangedBy>(reading, "actor", row.actor)?,
            user: row.by_user.map(|user| reading.parse("by_user", &user)).transpose()?,
            call: row.call_id.map(|call| reading.parse("call_id", &call)).transpose()?,
            path: row.path,
            change: of_word::<ChangeKind>(reading, "change", row.change)?,
            facts,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct ContentRow {
    task_id: String,
    path: String,
    size: i64,
    digest: String,
    media_type: String,
    etag: String,
}

impl TryFrom<ContentRow> for ContentPlace {
    type Error = StoreError;

    fn try_from(row: ContentRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "file_changes", row: &row.task_id };
        let facts = FileFacts {
            size: reading.number("size", row.size)?,
            digest: reading.parse("digest", &row.digest)?,
            media_type: row.media_type,
            etag: row.etag,
        };
        Ok(Self { task: reading.parse("task_id", &row.task_id)?, path: row.path, facts })
    }
}

#[derive(FromRow)]
pub(crate) struct DeletedRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    state: String,
    path: String,
    target: Option<String>,
    kind: String,
    bytes: i64,
    entries: i64,
    at: i64,
}

impl TryFrom<DeletedRow> for DeletedFile {
    type Error = StoreError;

    fn try_from(row: DeletedRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "deleted_files", row: &row.id };
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            task: reading.parse("task_id", &row.task_id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            state: reading.parse("state", &row.state)?,
            kind: reading.parse("kind", &row.kind)?,
            extent: Extent {
                bytes: reading.number("bytes", row.bytes)?,
                entries: reading.number("entries", row.entries)?,
            },
            at: Timestamp::from_millis(row.at),
            path: row.path,
            target: row.target,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct UploadRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    path: String,
    length: i64,
    replace: bool,
    executable: Option<bool>,
    media_type: String,
    digest: Option<String>,
    created_at: i64,
    expires_at: i64,
    completed_at: Option<i64>,
}

impl TryFrom<UploadRow> for Upload {
    type Error = StoreError;

    fn try_from(row: UploadRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "uploads", row: &row.id };
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            task: reading.parse("task_id", &row.task_id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            length: reading.number("length", row.length)?,
            replace: row.replace,
            executable: row.executable,
            digest: row.digest.map(|digest| reading.parse::<Digest>("digest", &digest)).transpose()?,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            completed_at: row.completed_at.map(Timestamp::from_millis),
            path: row.path,
            media_type: row.media_type,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct AccessRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    by_tenant: String,
    by_user: String,
    at: i64,
    kind: String,
    path: String,
    bytes: i64,
    status: String,
    edge: String,
}

impl TryFrom<AccessRow> for Access {
    type Error = StoreError;

    fn try_from(row: AccessRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "file_accesses", row: &row.id };
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            task: reading.parse("task_id", &row.task_id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            by: Owner {
                tenant: reading.parse("by_tenant", &row.by_tenant)?,
                user: reading.parse("by_user", &row.by_user)?,
            },
            at: Timestamp::from_millis(row.at),
            kind: reading.parse("kind", &row.kind)?,
            bytes: reading.number("bytes", row.bytes)?,
            path: row.path,
            status: row.status,
            edge: row.edge,
        })
    }
}
