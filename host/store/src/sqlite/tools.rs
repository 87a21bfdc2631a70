//! Tools and the sets of them that tasks pin.

use bulkhead_core::digest::Digest;
use bulkhead_core::id::{TenantId, ToolId};
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::tool::{Tool, ToolOwner, ToolSet, ToolState};
use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::command::{LARGE, json};
use super::rows::{Reading, ToolRow, all, maybe, owner_text};
use super::{SqliteStore, read_failed};

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

pub(super) async fn create(store: &SqliteStore, tool: &Tool) -> Result<Option<Tool>, StoreError> {
    let tool = tool.clone();
    let existing = store
        .write("tool", move |connection| {
            Box::pin(async move {
                let same = query_as::<_, ToolRow>(select_tool!("tools t WHERE t.tenant_id = ? AND t.digest = ?"))
                    .bind(owner_text(tool.owner))
                    .bind(tool.digest.to_string())
                    .fetch_optional(&mut *connection)
                    .await?;
                match same {
                    Some(row) if row.state != "rejected" => return Ok(Some(row)),
                    Some(row) => delete_row(connection, &row.id).await?,
                    None => {}
                }
                query("INSERT INTO tools (id, tenant_id, digest, size, state, created_at) VALUES (?, ?, ?, ?, ?, ?)")
                    .bind(tool.id.to_string())
                    .bind(owner_text(tool.owner))
                    .bind(tool.digest.to_string())
                    .bind(i64::try_from(tool.size).unwrap_or(i64::MAX))
                    .bind(ToolState::Compiling.name())
                    .bind(tool.created_at.as_millis())
                    .execute(&mut *connection)
                    .await?;
                if tool.state != ToolState::Compiling {
                    set_state(connection, tool.id, &tool.state).await?;
                }
                Ok(None)
            })
        })
        .await?;
    maybe(existing)
}

pub(super) async fn finish(store: &SqliteStore, id: ToolId, state: &ToolState) -> Result<bool, StoreError> {
    let state = state.clone();
    store.write("tool", move |connection| Box::pin(async move { set_state(connection, id, &state).await })).await
}

/// Sets the state of a tool that is compiling; false if it no longer is.
async fn set_state(connection: &mut SqliteConnection, id: ToolId, state: &ToolState) -> Result<bool, sqlx::Error> {
    let (mut name, mut manifest, mut artifact, mut refusal) = (None, None, None, None);
    match state {
        ToolState::Compiling => {}
        ToolState::Ready { manifest: what, artifact: compiled } => {
            (name, manifest, artifact) = (Some(what.name.clone()), Some(json(&**what)), Some(compiled));
        }
        ToolState::Rejected { code, reason } => refusal = Some((code, reason)),
    }
    let mut reference = None;
    if let Some(body) = manifest.take_if(|text| text.len() > LARGE) {
        let insert = "INSERT INTO payloads (id, tenant_id, body)
                      SELECT id || '/manifest', tenant_id, ? FROM tools WHERE id = ? AND state = 'compiling' RETURNING id";
        reference =
            query_scalar::<_, String>(insert).bind(body).bind(id.to_string()).fetch_optional(&mut *connection).await?;
    }
    let done = query(
        "UPDATE tools SET state = ?, name = ?, manifest = ?, manifest_ref = ?, artifact_key = ?, artifact_digest = ?,
                artifact_size = ?, code = ?, reason = ?
         WHERE id = ? AND state = 'compiling'",
    )
    .bind(state.name())
    .bind(name)
    .bind(manifest)
    .bind(reference)
    .bind(artifact.map(|artifact| artifact.key.to_string()))
    .bind(artifact.map(|artifact| artifact.digest.to_string()))
    .bind(artifact.map(|artifact| i64::try_from(artifact.size).unwrap_or(i64::MAX)))
    .bind(refusal.map(|(code, _)| code))
    .bind(refusal.map(|(_, reason)| reason))
    .bind(id.to_string())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

async fn delete_row(connection: &mut SqliteConnection, id: &str) -> Result<(), sqlx::Error> {
    query(
        "DELETE FROM payloads WHERE id = (SELECT manifest_ref FROM tools WHERE id = ?1);
         DELETE FROM tools WHERE id = ?1",
    )
    .bind(id)
    .execute(connection)
    .await
    .map(drop)
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

pub(super) async fn delete(store: &SqliteStore, owner: ToolOwner, id: ToolId) -> Result<bool, StoreError> {
    store
        .write("tool", move |connection| {
            Box::pin(async move {
                // A deleted task runs nothing any more: it pins nothing.
                let free: bool = query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM tools WHERE id = ?1 AND tenant_id = ?2) AND NOT EXISTS
                        (SELECT 1 FROM tool_set_members m JOIN tasks t ON t.tool_set = m.digest
                         WHERE m.tool_id = ?1 AND t.state <> 'deleted')",
                )
                .bind(id.to_string())
                .bind(owner_text(owner))
                .fetch_one(&mut *connection)
                .await?;
                if free {
                    delete_row(connection, &id.to_string()).await?;
                }
                Ok(free)
            })
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
