//! `/v1/tasks/{task}/history`, `…/accesses` and `…/preview`: what is known of files.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bulkhead_core::access::Operation;
use bulkhead_core::files::AccessKind;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::files::HistoryPage;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::extract::{Caller, Id, Query, path_from_text};
use super::files::EDGE;
use super::problem::Problem;
use super::sessions::page;
use super::wire::{AccessBody, HistoryBody, Items, MAX_PAGE, PageQuery, PreviewBody};

/// Which entries of a record.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RecordQuery {
    /// Only those of this path; `%XX` for bytes that are not text.
    pub path: Option<String>,
    /// Only those before this one: `next_before` of the page before.
    pub before: Option<String>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
}

/// Lists what happened to the files of a task, newest first: by clients and by calls, as
/// far as events name it (what a new workspace is filled with is not named). Kept for
/// longer than events (`files.history_hours`).
#[utoipa::path(get, path = "/v1/tasks/{task}/history", tag = "files", params(("task" = String, Path), RecordQuery),
    responses((status = 200, body = Items<HistoryBody>), (status = "4XX", body = Problem)))]
pub async fn history(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<RecordQuery>,
) -> Result<Json<Items<HistoryBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesHistory, id).await?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new("invalid_request", format!("`limit` must be 1 to {MAX_PAGE}")).with("field", "limit"));
    }
    let bad = |error: bulkhead_core::files::BadPlace| {
        Problem::new("invalid_request", format!("`before`: {error}")).with("field", "before")
    };
    let before = query.before.map(|text| text.parse().map_err(bad)).transpose()?;
    let path = query.path.map(|path| path_from_text("path", &path)).transpose()?.map(|path| path.to_text());
    let entries = api.services.files.history(&task, HistoryPage { path, before, limit: limit + 1 }).await?;
    Ok(Json(Items::page(entries, limit, |entry| entry.place.to_string())))
}

/// Lists who read and wrote which file of a task, newest first. An access is here half a
/// second after it ended; a server that is killed loses those of its last moment.
#[utoipa::path(get, path = "/v1/tasks/{task}/accesses", tag = "files", params(("task" = String, Path), RecordQuery),
    responses((status = 200, body = Items<AccessBody>), (status = "4XX", body = Problem)))]
pub async fn accesses(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<RecordQuery>,
) -> Result<Json<Items<AccessBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesAccesses, id).await?;
    let (wanted, limit) = page(&PageQuery { before: query.before, limit: query.limit })?;
    let path = query.path.map(|path| path_from_text("path", &path)).transpose()?.map(|path| path.to_text());
    let entries = api.services.files.accesses().list(&task, path.as_deref(), wanted).await?;
    Ok(Json(Items::page(entries, limit, |entry| entry.id.to_string())))
}

/// What of a file is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PreviewQuery {
    /// The file; `%XX` for bytes that are not text.
    pub path: String,
    /// Bytes of it at most: 1 to 262144, 65536 if absent.
    pub bytes: Option<u32>,
    /// Lines of a text at most: 1 to 10000, 200 if absent.
    pub lines: Option<u32>,
}

/// Shows the beginning of a file: as text, if it is text, else its first bytes. Nothing
/// but characters is parsed; what kind of file it is is not looked for in its bytes.
#[utoipa::path(get, path = "/v1/tasks/{task}/preview", tag = "files", params(("task" = String, Path), PreviewQuery),
    responses((status = 200, body = PreviewBody), (status = "4XX", body = Problem)))]
pub async fn preview(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    query: Result<Query<PreviewQuery>, Problem>,
) -> Result<Json<PreviewBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesPreview, id).await?;
    let Query(query) = query?;
    let path = path_from_text("path", &query.path)?;
    let (bytes, lines) = (query.bytes.unwrap_or(64 << 10), query.lines.unwrap_or(200));
    for (field, value, most) in [("bytes", bytes, 256 << 10), ("lines", lines, 10_000)] {
        if !(1..=most).contains(&value) {
            return Err(Problem::new("invalid_request", format!("`{field}` must be 1 to {most}")).with("field", field));
        }
    }
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Read, &path, EDGE).await?;
    let preview = api.services.files.preview(&task, &path, (bytes, lines)).await.map_err(Problem::from);
    let shown = preview.as_ref().map_or(0, |preview| preview.entry.size.min(u64::from(bytes)));
    noting.end(preview.as_ref().err().map(|problem| problem.code), shown);
    Ok(Json(PreviewBody::of(&id.to_string(), preview?)))
}
