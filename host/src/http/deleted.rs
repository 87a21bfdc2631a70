//! `/v1/tasks/{task}/deleted`: what clients deleted and can have back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bulkhead_core::access::Operation;
use bulkhead_core::files::AccessKind;
use bulkhead_core::id::{DeletedId, TaskId};
use bulkhead_core::path::WorkspacePath;

use super::Api;
use super::extract::{Caller, Id, JsonBody, Part, Query, path_from_text};
use super::files::EDGE;
use super::problem::Problem;
use super::sessions::page;
use super::wire::{DeletedBody, EntryBody, Items, PageQuery, PurgedBody, RestoreFileBody};

fn parse(id: &str) -> Result<DeletedId, Problem> {
    id.parse().map_err(|_| Problem::new("not_found", "there is no such deleted file here"))
}

/// Lists what was deleted by clients and is kept, newest first. It counts in the quota.
#[utoipa::path(get, path = "/v1/tasks/{task}/deleted", tag = "files", params(("task" = String, Path), PageQuery),
    responses((status = 200, body = Items<DeletedBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Items<DeletedBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesListDeleted, id).await?;
    let (wanted, limit) = page(&query)?;
    let mut files = api.services.files.deleted(&task, wanted).await?;
    let more = files.len() > limit as usize;
    files.truncate(limit as usize);
    let next_before = files.last().filter(|_| more).map(|file| file.id.to_string());
    let body = |file| DeletedBody::of(file, api.services.files.purged_at(file));
    Ok(Json(Items { items: files.iter().map(body).collect(), next_before }))
}

/// Purges everything of a task that was deleted and is kept.
#[utoipa::path(delete, path = "/v1/tasks/{task}/deleted", tag = "files", params(("task" = String, Path)),
    responses((status = 200, body = PurgedBody), (status = "4XX", body = Problem)))]
pub async fn purge_all(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<Json<PurgedBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesPurge, id).await?;
    let root = WorkspacePath::root();
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Delete, &root, EDGE).await?;
    let purged = api.services.files.purge_all(&task).await.map_err(Problem::from);
    noting.end(purged.as_ref().err().map(|problem| problem.code), 0);
    Ok(Json(PurgedBody { purged: purged? }))
}

/// Purges one deleted entry.
#[utoipa::path(delete, path = "/v1/tasks/{task}/deleted/{deleted}", tag = "files",
    params(("task" = String, Path), ("deleted" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn purge(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(deleted): Part,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesPurge, id).await?;
    let root = WorkspacePath::root();
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Delete, &root, EDGE).await?;
    let purged = match parse(&deleted) {
        Ok(deleted) => api.services.files.purge(&task, deleted).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    noting.end(purged.as_ref().err().map(|problem| problem.code), 0);
    purged.map(|()| StatusCode::NO_CONTENT)
}

/// Brings a deleted entry back, to where it was or to another path. What is in the way
/// is a refusal, unless it is a file and `replace` is said.
#[utoipa::path(post, path = "/v1/tasks/{task}/deleted/{deleted}/restore", tag = "files", request_body = RestoreFileBody,
    params(("task" = String, Path), ("deleted" = String, Path)),
    responses((status = 200, body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn restore(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(deleted): Part,
    body: JsonBody,
) -> Result<Json<EntryBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesRestore, id).await?;
    let body: RestoreFileBody = body.parse()?;
    let to = body.path.map(|path| path_from_text("path", &path)).transpose()?;
    let named = to.clone().unwrap_or_default();
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Restore, &named, EDGE).await?;
    let restored = match parse(&deleted) {
        Ok(deleted) => api.services.files.restore(&task, deleted, to, body.replace).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    noting.end(restored.as_ref().err().map(|problem| problem.code), 0);
    let entry = api.services.files.stat(&task, &restored?).await?;
    Ok(Json(EntryBody::of(&id.to_string(), &entry)))
}
