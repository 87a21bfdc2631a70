//! Tools and the sets of them that tasks pin.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::digest::Digest;
use bulkhead_core::id::{TenantId, ToolId};
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::quota::Extent;
use bulkhead_core::tool::{Tool, ToolOwner, ToolSet, ToolState};
use rusqlite::{Connection, OptionalExtension as _, params};
use sqlx::{query_as, query_scalar};

use super::audit::Link;
use super::calls::LARGE;
use super::write::Transaction;
use super::{SqliteStore, read_failed};
use crate::rows::{Reading, ToolRow, all, json, maybe, owner_text};

/// Selects what `ToolRow` has from `tools` or what stands for it; a condition follows.
macro_rules! select_tool {
    ($from:literal) => {
        concat!(
            "SELECT t.id, t.tenant_id, t.digest, t.size, t.state, t.artifact_key, t.artifact_digest, t.artifact_size,
                    t.code, t.reason, t.created_at,
                    coalesce(t.manifest, (SELECT body FROM payloads WHERE id = t.manifest_ref)) AS manifest
             FROM ",
            $from
        )
    };
}

pub(super) async fn create(store: &SqliteStore, tool: &Tool, record: NewAudit) -> Result<Option<Tool>, StoreError> {
    let (tool, link) = (tool.clone(), Link::from(&record));
    let existing = store.write("tool", move |db| insert(db, &tool, &link)).await?;
    maybe(existing)
}

/// Stores a tool, or gives the same one that is there and was not rejected.
fn insert(db: &Transaction<'_>, tool: &Tool, link: &Link) -> rusqlite::Result<Option<ToolRow>> {
    let (id, owner, digest) = (tool.id.to_string(), owner_text(tool.owner), tool.digest.to_string());
    let same = db
        .prepare_cached(select_tool!("tools t WHERE t.tenant_id = ? AND t.digest = ?"))?
        .query_row(params![owner, digest], ToolRow::read)
        .optional()?;
    match same {
        Some(row) if row.state != "rejected" => return Ok(Some(row)),
        Some(row) => delete_row(db, &row.id)?,
        None => {}
    }
    db.prepare_cached("INSERT INTO tools (id, tenant_id, digest, size, state, created_at) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![
            id,
            owner,
            digest,
            i64::try_from(tool.size).unwrap_or(i64::MAX),
            ToolState::Compiling.name(),
            tool.created_at.as_millis(),
        ])?;
    if tool.state != ToolState::Compiling {
        set_state(db, &id, &tool.state)?;
    }
    link.append(db)?;
    Ok(None)
}

pub(super) async fn finish(store: &SqliteStore, id: ToolId, state: &ToolState) -> Result<bool, StoreError> {
    let (id, state) = (id.to_string(), state.clone());
    store.write("tool", move |db| set_state(db, &id, &state)).await
}

/// Sets the state of a tool that is compiling; false if it no longer is.
fn set_state(db: &Connection, id: &str, state: &ToolState) -> rusqlite::Result<bool> {
    let (mut name, mut manifest, mut artifact, mut refusal) = (None, None, None, None);
    match state {
        ToolState::Compiling => {}
        ToolState::Ready { manifest: what, artifact: compiled } => {
            (name, manifest, artifact) = (Some(&what.name), Some(json(&**what)), Some(compiled));
        }
        ToolState::Rejected { code, reason } => refusal = Some((code, reason)),
    }
    let mut reference: Option<String> = None;
    if let Some(body) = manifest.take_if(|text| text.len() > LARGE) {
        let insert = "INSERT INTO payloads (id, tenant_id, body)
                      SELECT id || '/manifest', tenant_id, ? FROM tools WHERE id = ? AND state = 'compiling' RETURNING id";
        reference = db.prepare_cached(insert)?.query_row(params![body, id], |row| row.get(0)).optional()?;
    }
    let done = db
        .prepare_cached(
            "UPDATE tools SET state = ?, name = ?, manifest = ?, manifest_ref = ?, artifact_key = ?,
                    artifact_digest = ?, artifact_size = ?, code = ?, reason = ?
             WHERE id = ? AND state = 'compiling'",
        )?
        .execute(params![
            state.name(),
            name,
            manifest,
            reference,
            artifact.map(|artifact| artifact.key.to_string()),
            artifact.map(|artifact| artifact.digest.to_string()),
            artifact.map(|artifact| i64::try_from(artifact.size).unwrap_or(i64::MAX)),
            refusal.map(|(code, _)| code),
            refusal.map(|(_, reason)| reason),
            id,
        ])?;
    Ok(done > 0)
}

fn delete_row(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM payloads WHERE id = (SELECT manifest_ref FROM tools WHERE id = ?)")?
        .execute([id])?;
    db.prepare_cached("DELETE FROM tools WHERE id = ?")?.execute([id]).map(drop)
}

pub(super) async fn get(store: &SqliteStore, tenant: Option<TenantId>, id: ToolId) -> Result<Option<Tool>, StoreError> {
    let row: Option<ToolRow> =
        query_as(select_tool!("tools t WHERE t.id = ?1 AND (?2 IS NULL OR t.tenant_id IN (?2, 'operator'))"))
            .bind(id.to_string())
            .bind(tenant.map(|tenant| tenant.to_string()))
            .fetch_optional(&store.readers)
            .await
            .map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn list(store: &SqliteStore, tenant: TenantId, page: Page<ToolId>) -> Result<Vec<Tool>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let rows: Vec<ToolRow> =
        query_as(select_tool!("tools t WHERE t.tenant_id IN (?, 'operator') AND t.id < ? ORDER BY t.id DESC LIMIT ?"))
            .bind(tenant.to_string())
            .bind(before)
            .bind(page.limit)
            .fetch_all(&store.readers)
            .await
            .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn pinnable(store: &SqliteStore, tenant: TenantId) -> Result<Vec<Tool>, StoreError> {
    let rows: Vec<ToolRow> = query_as(select_tool!(
        "(SELECT *, row_number() OVER
             (PARTITION BY name ORDER BY tenant_id = 'operator', created_at DESC, id DESC) AS place
          FROM tools WHERE state = 'ready' AND tenant_id IN (?, 'operator')) t
         WHERE t.place = 1 ORDER BY t.name"
    ))
    .bind(tenant.to_string())
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn compiling(store: &SqliteStore) -> Result<Vec<Tool>, StoreError> {
    let rows: Vec<ToolRow> = query_as(select_tool!("tools t WHERE t.state = 'compiling' ORDER BY t.id"))
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn delete(
    store: &SqliteStore,
    owner: ToolOwner,
    id: ToolId,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (id, owner, link) = (id.to_string(), owner_text(owner), Link::from(&record));
    store
        .write("tool", move |db| {
            // A deleted task runs nothing any more: it pins nothing.
            let free = db
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM tools WHERE id = ?1 AND tenant_id = ?2) AND NOT EXISTS
                        (SELECT 1 FROM tool_set_members m JOIN tasks t ON t.tool_set = m.digest
                         WHERE m.tool_id = ?1 AND (t.state <> 'deleted' OR t.kept_until IS NOT NULL))",
                )?
                .query_row([&id, &owner], |row| row.get(0))?;
            if free {
                delete_row(db, &id)?;
                link.append(db)?;
            }
            Ok(free)
        })
        .await
}

pub(super) async fn set(store: &SqliteStore, digest: Digest) -> Result<Option<ToolSet>, StoreError> {
    let name = digest.to_string();
    let tools: Option<String> = query_scalar("SELECT tools FROM tool_sets WHERE digest = ?")
        .bind(&name)
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    let reading = Reading { table: "tool_sets", row: &name };
    tools.map(|tools| Ok(ToolSet { digest, tools: reading.json("tools", &tools)? })).transpose()
}

pub(super) async fn components_of(store: &SqliteStore, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
    let names: Vec<_> = digests.iter().map(ToString::to_string).collect();
    let found: Vec<String> =
        query_scalar("SELECT DISTINCT digest FROM tools WHERE digest IN (SELECT value FROM json_each(?))")
            .bind(json(&names).to_string())
            .fetch_all(&store.readers)
            .await
            .map_err(read_failed)?;
    let digest = |text: &String| Reading { table: "tools", row: text }.parse("digest", text);
    found.iter().map(digest).collect()
}

pub(super) async fn beside(store: &SqliteStore, owner: ToolOwner, component: Digest) -> Result<Extent, StoreError> {
    let (entries, bytes): (i64, i64) =
        query_as("SELECT count(*), coalesce(sum(size), 0) FROM tools WHERE tenant_id = ? AND digest <> ?")
            .bind(owner_text(owner))
            .bind(component.to_string())
            .fetch_one(&store.readers)
            .await
            .map_err(read_failed)?;
    Ok(Extent { bytes: bytes.unsigned_abs(), entries: entries.unsigned_abs() })
}
