//! Tools and the sets of them that tasks pin.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::digest::Digest;
use bulkhead_core::id::{TenantId, ToolId};
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::quota::Extent;
use bulkhead_core::tool::{Tool, ToolOwner, ToolSet, ToolState};
use sqlx::Row as _;

use super::PostgresStore;
use super::audit::recording;
use super::statement::{Statement, Work, unreadable};
use crate::rows::{Reading, ToolRow, json, owner_text};

/// Selects what `ToolRow` has from `tools` or what stands for it; a condition follows.
macro_rules! select_tool {
    ($from:literal) => {
        concat!(
            "SELECT t.id, t.tenant_id, t.digest, t.size, t.state, t.artifact_key, t.artifact_digest, t.artifact_size,
                    t.code, t.reason, t.created_at, t.manifest FROM ",
            $from
        )
    };
}

/// How often a tool is looked for whose like was there and is gone.
const LOOKS: u32 = 4;

pub(super) async fn create(store: &PostgresStore, tool: &Tool, record: NewAudit) -> Result<Option<Tool>, StoreError> {
    const INSERT: &str = "
        WITH made AS (
        INSERT INTO tools AS t (state, name, manifest, artifact_key, artifact_digest, artifact_size, code, reason,
                                id, tenant_id, digest, size, created_at, holder)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT ON CONSTRAINT tools_by_content DO UPDATE
            SET id = excluded.id, size = excluded.size, state = excluded.state, name = excluded.name,
                manifest = excluded.manifest, artifact_key = excluded.artifact_key,
                artifact_digest = excluded.artifact_digest, artifact_size = excluded.artifact_size,
                code = excluded.code, reason = excluded.reason, created_at = excluded.created_at,
                holder = excluded.holder
            WHERE t.state = 'rejected'
        RETURNING t.id)
        SELECT audit_append($15, $16, $17) FROM made";
    for _ in 0..LOOKS {
        let insert = with_state(Statement::new(INSERT), &tool.state)
            .bind_id(tool.id)
            .bind(owner_text(tool.owner))
            .bind_id(tool.digest)
            .bind(i64::try_from(tool.size).unwrap_or(i64::MAX))
            .bind(tool.created_at.as_millis())
            .bind(store.holder());
        let work = Work::write("tool", recording(insert, &record)).recording(&record);
        if !store.write(work).await?.rows.is_empty() {
            return Ok(None);
        }
        let same = Statement::new(select_tool!("tools t WHERE t.tenant_id = $1 AND t.digest = $2"));
        let same = same.bind(owner_text(tool.owner)).bind_id(tool.digest);
        let same: Option<Tool> = store.read(same).await?.maybe::<ToolRow, _>()?;
        if let Some(same) = same.filter(|same| !matches!(same.state, ToolState::Rejected { .. })) {
            // An earlier try of this very write, whose answer was lost.
            return Ok(Some(same).filter(|same| same.id != tool.id));
        }
    }
    Err(StoreError::Unavailable("others were faster each time; retry later".into()))
}

/// Binds `$1` to `$8`: a state with all that belongs to it.
fn with_state(statement: Statement, state: &ToolState) -> Statement {
    let (mut name, mut manifest, mut artifact, mut refusal) = (None, None, None, None);
    match state {
        ToolState::Compiling => {}
        ToolState::Ready { manifest: what, artifact: compiled } => {
            (name, manifest, artifact) = (Some(what.name.to_string()), Some(json(&**what).to_string()), Some(compiled));
        }
        ToolState::Rejected { code, reason } => {
            let plain = |text: &str| text.replace('\0', "\u{fffd}");
            refusal = Some((plain(code), plain(reason)));
        }
    }
    let (code, reason) = refusal.unzip();
    statement
        .bind(state.name())
        .bind(name)
        .bind(manifest)
        .bind(artifact.map(|artifact| artifact.key.to_string()))
        .bind(artifact.map(|artifact| artifact.digest.to_string()))
        .bind(artifact.map(|artifact| i64::try_from(artifact.size).unwrap_or(i64::MAX)))
        .bind(code)
        .bind(reason)
}

pub(super) async fn finish(store: &PostgresStore, id: ToolId, state: &ToolState) -> Result<bool, StoreError> {
    let update = Statement::new(
        "UPDATE tools SET state = $1, name = $2, manifest = $3, artifact_key = $4, artifact_digest = $5,
                artifact_size = $6, code = $7, reason = $8
         WHERE id = $9 AND state = 'compiling' AND (holder IS NULL OR holder = $10)",
    );
    let update = with_state(update, state).bind_id(id).bind(store.holder());
    let answer = store.write(Work::write("tool", update)).await?;
    if answer.affected == 0 && answer.maybe_second {
        // An earlier try, whose answer was lost, has done it, or another writer has.
        return Ok(get(store, None, id).await?.is_some_and(|tool| tool.state == *state));
    }
    Ok(answer.affected > 0)
}

pub(super) async fn get(
    store: &PostgresStore,
    tenant: Option<TenantId>,
    id: ToolId,
) -> Result<Option<Tool>, StoreError> {
    let select = Statement::new(select_tool!(
        "tools t WHERE t.id = $1 AND ($2::text IS NULL OR t.tenant_id IN ($2, 'operator'))"
    ));
    let select = select.bind_id(id).bind(tenant.map(|tenant| tenant.to_string()));
    store.read(select).await?.maybe::<ToolRow, _>()
}

pub(super) async fn list(store: &PostgresStore, tenant: TenantId, page: Page<ToolId>) -> Result<Vec<Tool>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let select = Statement::new(select_tool!(
        "tools t WHERE t.tenant_id IN ($1, 'operator') AND t.id < $2 ORDER BY t.id DESC LIMIT $3"
    ));
    store.read(select.bind_id(tenant).bind(before).bind(i64::from(page.limit))).await?.all::<ToolRow, _>()
}

pub(super) async fn pinnable(store: &PostgresStore, tenant: TenantId) -> Result<Vec<Tool>, StoreError> {
    // The first of each name in this order.
    let select = Statement::new(select_tool!(
        "(SELECT DISTINCT ON (name) * FROM tools WHERE state = 'ready' AND tenant_id IN ($1, 'operator')
          ORDER BY name, (tenant_id = 'operator'), created_at DESC, id DESC) t
         ORDER BY t.name"
    ));
    store.read(select.bind_id(tenant)).await?.all::<ToolRow, _>()
}

pub(super) async fn compiling(store: &PostgresStore) -> Result<Vec<Tool>, StoreError> {
    let select = Statement::new(select_tool!("tools t WHERE t.state = 'compiling' ORDER BY t.id"));
    store.read(select).await?.all::<ToolRow, _>()
}

/// Takes over, and gives, tools that nobody compiles who lives.
pub(super) async fn take_over(store: &PostgresStore, limit: u32) -> Result<Vec<Tool>, StoreError> {
    let take = Statement::new(
        "WITH lost AS (
             SELECT t.id, t.holder FROM tools t LEFT JOIN hosts h ON h.token = t.holder
             WHERE t.state = 'compiling' AND t.holder IS DISTINCT FROM $1 AND (h.token IS NULL OR h.ended_at IS NOT NULL)
             ORDER BY t.id LIMIT $2
         )
         UPDATE tools t SET holder = $1 FROM lost
         WHERE t.id = lost.id AND t.state = 'compiling' AND t.holder IS NOT DISTINCT FROM lost.holder
         RETURNING t.id",
    );
    let answer = store.write(Work::write("tool", take.bind(store.token()).bind(i64::from(limit)))).await?;
    let ids = answer.rows.iter().map(|row| row.try_get("id").map_err(unreadable));
    let ids: Vec<String> = ids.collect::<Result<_, _>>()?;
    let select = Statement::new(select_tool!("tools t WHERE t.id = ANY($1) AND t.state = 'compiling' ORDER BY t.id"));
    store.read(select.bind(ids)).await?.all::<ToolRow, _>()
}

pub(super) async fn delete(
    store: &PostgresStore,
    owner: ToolOwner,
    id: ToolId,
    record: NewAudit,
) -> Result<bool, StoreError> {
    // A deleted task runs nothing any more: it pins nothing.
    let delete = Statement::new(
        "WITH gone AS (
             DELETE FROM tools WHERE id = $1 AND tenant_id = $2 AND NOT EXISTS
                (SELECT 1 FROM tool_set_members m JOIN tasks t ON t.tool_set = m.digest
                 WHERE m.tool_id = $1 AND (t.state <> 'deleted' OR t.kept_until IS NOT NULL)) RETURNING id
         )
         SELECT audit_append($3, $4, $5) FROM gone",
    );
    let delete = recording(delete.bind_id(id).bind(owner_text(owner)), &record);
    Ok(!store.write(Work::once("tool", delete).recording(&record)).await?.rows.is_empty())
}

pub(super) async fn set(store: &PostgresStore, digest: Digest) -> Result<Option<ToolSet>, StoreError> {
    let name = digest.to_string();
    let select = Statement::new("SELECT tools FROM tool_sets WHERE digest = $1").bind(name.clone());
    let tools: Option<String> = store.read(select).await?.get("tools")?;
    let reading = Reading { table: "tool_sets", row: &name };
    tools.map(|tools| Ok(ToolSet { digest, tools: reading.json("tools", &tools)? })).transpose()
}

pub(super) async fn components_of(store: &PostgresStore, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
    let names: Vec<_> = digests.iter().map(ToString::to_string).collect();
    let select = Statement::new("SELECT DISTINCT digest FROM tools WHERE digest = ANY($1)").bind(names);
    let answer = store.read(select).await?;
    let digest = |row: &sqlx::postgres::PgRow| {
        let text: &str = row.try_get("digest").map_err(unreadable)?;
        Reading { table: "tools", row: text }.parse("digest", text)
    };
    answer.rows.iter().map(digest).collect()
}

pub(super) async fn beside(store: &PostgresStore, owner: ToolOwner, component: Digest) -> Result<Extent, StoreError> {
    let select = "SELECT count(*) AS entries, coalesce(sum(size), 0)::bigint AS bytes
                  FROM tools WHERE tenant_id = $1 AND digest <> $2";
    let answer = store.read(Statement::new(select).bind(owner_text(owner)).bind_id(component)).await?;
    let number = |column| Ok::<_, StoreError>(answer.get::<i64>(column)?.unwrap_or(0).unsigned_abs());
    Ok(Extent { bytes: number("bytes")?, entries: number("entries")? })
}
