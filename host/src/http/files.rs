//! `/v1/tasks/{task}/files/…` (content) and `/v1/tasks/{task}/entries/…`
//! (what is there). Paths are taken from the raw URI, so that names that are
//! not UTF-8 can be said; links are shown and never followed.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::{Operation, OwnedTask};
use bulkhead_core::id::TaskId;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{ByteRange, ByteStream, EntryKind};
use futures::TryStreamExt as _;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};
use utoipa::IntoParams;

use super::Api;
use super::extract::{Caller, FilePath, Id, JsonBody, Query, path_from_text};
use super::problem::Problem;
use super::wire::{DirectoryBody, EntryBody, EntryPage, MoveBody, url_path};

/// Bytes read from disk at a time: a stream of 100 MB holds this much of it.
const CHUNK: usize = 64 * 1024;

/// The body of a request as a stream.
pub fn stream_of(request: Request) -> ByteStream {
    let chunks = request.into_body().into_data_stream().map_err(std::io::Error::other);
    Box::pin(StreamReader::new(chunks))
}

/// Which page of a directory.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only entries whose names come after this one; `%XX` for bytes that are not text.
    pub after: Option<String>,
    /// At most this many: 1 to 1000, 200 if absent.
    pub limit: Option<u32>,
}

/// Describes the workspace's root and lists it.
#[utoipa::path(get, path = "/v1/tasks/{task}/entries", tag = "files", params(("task" = String, Path), ListQuery),
    responses((status = 200, body = EntryPage), (status = "4XX", body = Problem)))]
pub async fn entries_root(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<ListQuery>,
) -> Result<Json<EntryPage>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesList, id).await?;
    entry_page(&api, &task, &WorkspacePath::root(), query).await
}

/// Describes an entry and, if it is a directory, lists it.
#[utoipa::path(get, path = "/v1/tasks/{task}/entries/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), ListQuery),
    responses((status = 200, body = EntryPage), (status = "4XX", body = Problem)))]
pub async fn entries(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    Query(query): Query<ListQuery>,
) -> Result<Json<EntryPage>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesList, id).await?;
    entry_page(&api, &task, &path, query).await
}

async fn entry_page(
    api: &Api,
    task: &OwnedTask,
    path: &WorkspacePath,
    query: ListQuery,
) -> Result<Json<EntryPage>, Problem> {
    let limit = query.limit.unwrap_or(200);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::new("invalid_request", "`limit` must be 1 to 1000").with("field", "limit"));
    }
    let id = task.task().id.to_string();
    let entry = api.services.files.stat(task, path).await?;
    if entry.kind != EntryKind::Directory {
        return Ok(Json(EntryPage { entry: EntryBody::of(&id, &entry), entries: None, next_after: None }));
    }
    let after = query.after.map(|name| percent_decode_str(&name).collect());
    let listing = api.services.files.list(task, path, after, limit).await?;
    Ok(Json(EntryPage {
        entry: EntryBody::of(&id, &entry),
        entries: Some(listing.entries.iter().map(|entry| EntryBody::of(&id, entry)).collect()),
        next_after: listing.next_after.as_deref().map(bulkhead_core::path::display),
    }))
}

/// Reads a file, or one range of it.
#[utoipa::path(get, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), ("Range" = Option<String>, Header, description = "`bytes=first-last`, one range")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 206, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = Problem)))]
pub async fn read(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesRead, id).await?;
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range);
    let file = api.services.files.read(&task, &path, range).await?;
    let (size, offset, length) = (file.entry.size, file.offset, file.length);
    let mut response = Body::from_stream(ReaderStream::with_capacity(file.stream, CHUNK)).into_response();
    let to_header = |text: String| header::HeaderValue::try_from(text).ok();
    let mut set = |name, value: Option<header::HeaderValue>| {
        value.and_then(|value| response.headers_mut().insert(name, value));
    };
    // Never a type that a browser would run: the content is a guest's.
    set(header::CONTENT_TYPE, to_header("application/octet-stream".into()));
    set(header::X_CONTENT_TYPE_OPTIONS, to_header("nosniff".into()));
    set(
        header::CONTENT_DISPOSITION,
        to_header(format!("attachment; filename*=UTF-8''{}", url_path(path.name()).replace('/', "%2F"))),
    );
    set(header::ACCEPT_RANGES, to_header("bytes".into()));
    set(header::CONTENT_LENGTH, to_header(length.to_string()));
    if range.is_some() {
        set(header::CONTENT_RANGE, to_header(format!("bytes {offset}-{}/{size}", (offset + length).saturating_sub(1))));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// One range (RFC 9110 §14.2). Several ranges, or another unit, are ignored:
/// the whole file is then a correct answer.
fn parse_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => last.parse().ok().map(ByteRange::Last),
        (first, "") => first.parse().ok().map(|first| ByteRange::From(first, None)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(ByteRange::From(first, Some(last)))
        }
    }
}

/// How a file is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// Whether its owner may execute it; as it was, if absent.
    pub executable: Option<bool>,
}

/// Writes a file atomically: readers see the old content or the new. Parents
/// are made. `If-None-Match: *` refuses to replace a file.
#[utoipa::path(put, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), ("If-None-Match" = Option<String>, Header), WriteQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "New", body = EntryBody), (status = 200, description = "Replaced", body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn write(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    Query(query): Query<WriteQuery>,
    request: Request,
) -> Result<(StatusCode, Json<EntryBody>), Problem> {
    let task = api.services.access.task(&caller, Operation::FilesWrite, id).await?;
    let replace = request.headers().get(header::IF_NONE_MATCH).is_none_or(|value| value != "*");
    let body = stream_of(request);
    let written = api.services.files.write(&task, &path, body, replace, query.executable).await?;
    let entry = api.services.files.stat(&task, &path).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(EntryBody::of(&id.to_string(), &entry))))
}

/// What of a directory is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Whether a directory goes with what it holds.
    #[serde(default)]
    pub recursive: bool,
}

/// Deletes a file, a link or a directory.
#[utoipa::path(delete, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), DeleteQuery),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesDelete, id).await?;
    api.services.files.delete(&task, &path, query.recursive).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a directory and its parents.
#[utoipa::path(post, path = "/v1/tasks/{task}/directories", tag = "files", params(("task" = String, Path)), request_body = DirectoryBody,
    responses((status = 201, description = "New", body = EntryBody), (status = 200, description = "There already", body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn make_dir(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<EntryBody>), Problem> {
    let task = api.services.access.task(&caller, Operation::FilesMakeDirectory, id).await?;
    let body: DirectoryBody = body.parse()?;
    let path = path_from_text("path", &body.path)?;
    let new = api.services.files.make_dir(&task, &path).await?;
    let entry = api.services.files.stat(&task, &path).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(EntryBody::of(&id.to_string(), &entry))))
}

/// Moves an entry. Parents of the new path are made.
#[utoipa::path(post, path = "/v1/tasks/{task}/moves", tag = "files", params(("task" = String, Path)), request_body = MoveBody,
    responses((status = 200, body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn rename(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    body: JsonBody,
) -> Result<Json<EntryBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesMove, id).await?;
    let body: MoveBody = body.parse()?;
    let (from, to) = (path_from_text("from", &body.from)?, path_from_text("to", &body.to)?);
    api.services.files.rename(&task, &from, &to, body.replace).await?;
    let entry = api.services.files.stat(&task, &to).await?;
    Ok(Json(EntryBody::of(&id.to_string(), &entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=0-99"), Some(ByteRange::From(0, Some(99))));
        assert_eq!(parse_range("bytes=5-"), Some(ByteRange::From(5, None)));
        assert_eq!(parse_range("bytes=-5"), Some(ByteRange::Last(5)));
        for ignored in ["bytes=9-1", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=-"] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
