//! `/v1/tasks/{task}/files/…` (content) and `/v1/tasks/{task}/entries/…`
//! (what is there). Paths are taken from the raw URI, so that names that are
//! not UTF-8 can be said; links are shown and never followed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::{Operation, OwnedTask};
use bulkhead_core::conditions::Conditions;
use bulkhead_core::files::{AccessKind, FileFacts};
use bulkhead_core::id::TaskId;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{
    ByteRange, ByteStream, Entry, EntryKind, OpenFile, Removal, WorkspaceError, Written,
};
use bulkhead_core::service::files::{NewFile, Noting};
use futures::{StreamExt as _, stream};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;
use tokio_util::io::{ReaderStream, StreamReader};
use utoipa::IntoParams;

use super::Api;
use super::conditions::{REPR_DIGEST, conditions, digest, digest_value, is_in_range};
use super::extract::{Caller, FilePath, Id, JsonBody, Query, path_from_text};
use super::problem::Problem;
use super::wire::{DirectoryBody, EntryBody, EntryPage, MoveBody, url_path};

/// What this edge is called in access logs.
pub(super) const EDGE: &str = "http";

/// Bytes read from disk at a time: a stream of 100 MB holds this much of it.
const CHUNK: usize = 64 * 1024;

/// How long nothing of a body may come that was begun: its request has a place among
/// those of all, and what is written a place on the disk.
const SILENCE: Duration = Duration::from_secs(30);

/// The body of a request as a stream.
pub fn stream_of(request: Request) -> ByteStream {
    bytes_of(request.into_body())
}

/// A body as a stream, while something comes of it.
pub(super) fn bytes_of(body: Body) -> ByteStream {
    let chunks = stream::unfold(Some(body.into_data_stream()), |chunks| async {
        let mut chunks = chunks?;
        match timeout(SILENCE, chunks.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    });
    Box::pin(StreamReader::new(Box::pin(chunks)))
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
        let facts = api.services.files.facts(task, &entry).await?;
        return Ok(Json(EntryPage {
            entry: EntryBody::known(&id, &entry, facts),
            entries: None,
            next_after: None,
            unnamed: 0,
        }));
    }
    let after = query.after.map(|name| percent_decode_str(&name).collect());
    let listing = api.services.files.list(task, path, after, limit).await?;
    Ok(Json(EntryPage {
        entry: EntryBody::of(&id, &entry),
        entries: Some(listing.entries.iter().map(|entry| EntryBody::of(&id, entry)).collect()),
        next_after: listing.next_after.as_deref().map(bulkhead_core::path::display),
        unnamed: listing.unnamed,
    }))
}

/// Reads a file, or one range of it.
#[utoipa::path(get, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), ("Range" = Option<String>, Header, description = "`bytes=first-last`, one range"),
        ("If-Range" = Option<String>, Header), ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "It is the one of `If-None-Match`"), (status = "4XX", body = Problem)))]
pub async fn read(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesRead, id).await?;
    let conditions = conditions(&headers)?;
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Read, &path, EDGE).await?;
    let opened = open(&api, &task, &path, &headers, &conditions).await;
    let (file, range, facts) = match opened {
        Ok(opened) => opened,
        Err(problem) => {
            noting.end(Some(problem.code), 0);
            return Err(problem);
        }
    };
    let etag = file.entry.etag.clone();
    if !conditions.is_news(etag.as_deref()) {
        noting.end(None, 0);
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(&mut response, &file.entry, facts.as_ref());
        return Ok(response);
    }
    let (size, offset, length) = (file.entry.size, file.offset, file.length);
    let mut response = if method == Method::HEAD {
        noting.end(None, 0);
        Response::new(Body::empty())
    } else {
        let stream = Noted { stream: file.stream, sent: 0, length, noting: Some(noting) };
        Body::from_stream(ReaderStream::with_capacity(stream, CHUNK)).into_response()
    };
    describe(&mut response, &file.entry, facts.as_ref());
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

/// Opens a file if the conditions hold: it, which range of it, and what is known of it.
async fn open(
    api: &Api,
    task: &OwnedTask,
    path: &WorkspacePath,
    headers: &HeaderMap,
    conditions: &Conditions,
) -> Result<(OpenFile, Option<ByteRange>, Option<FileFacts>), Problem> {
    let files = &api.services.files;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range);
    let conditional = asked.is_some() && headers.contains_key(header::IF_RANGE);
    // The range is of the file that the client has a part of, or there is none.
    let mut range = if conditional { None } else { asked };
    let mut file = files.read(task, path, range).await?;
    if conditional && is_in_range(headers, file.entry.etag.as_deref()) {
        let part = files.read(task, path, asked).await?;
        if part.entry.etag == file.entry.etag {
            (file, range) = (part, asked);
        }
    }
    if !conditions.matches(file.entry.etag.as_deref()) {
        return Err(WorkspaceError::Precondition(path.to_text()).into());
    }
    let facts = files.facts(task, &file.entry).await?;
    Ok((file, range, facts))
}

/// What is said of a file: its tag, and its digest if that is known.
fn describe(response: &mut Response, entry: &Entry, facts: Option<&FileFacts>) {
    let etag = entry.etag.as_ref().and_then(|etag| header::HeaderValue::try_from(etag).ok());
    let fields = [
        (header::ETAG, etag),
        (REPR_DIGEST, facts.and_then(|facts| digest_value(&facts.digest))),
        (header::CACHE_CONTROL, Some(header::HeaderValue::from_static("private, no-cache"))),
    ];
    for (name, value) in fields {
        value.and_then(|value| response.headers_mut().insert(name, value));
    }
}

/// A file on its way to a client; noted once it is over.
struct Noted {
    stream: ByteStream,
    sent: u64,
    length: u64,
    noting: Option<Noting>,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = self.stream.as_mut().poll_read(context, to);
        self.sent += (to.filled().len() - before) as u64;
        read
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        // What was read of it: a client that went away may not have got the last of that.
        let status = (self.sent < self.length).then_some("broken_off");
        if let Some(noting) = self.noting.take() {
            noting.end(status, self.sent);
        }
    }
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
/// are made. `If-Match` writes only over what the client knows, `If-None-Match: *` only
/// where nothing is; a body whose digest is not the one in `Content-Digest` or
/// `Repr-Digest` (`sha-256`) changes nothing. `Content-Type` is kept with it.
#[utoipa::path(put, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header),
        ("Content-Digest" = Option<String>, Header), ("Repr-Digest" = Option<String>, Header), WriteQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "New", body = EntryBody), (status = 200, description = "Replaced", body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn write(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    Query(query): Query<WriteQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesWrite, id).await?;
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Write, &path, EDGE).await?;
    let written = write_file(&api, &task, &path, query, request).await;
    noting.end(written.as_ref().err().map(|problem| problem.code), written.as_ref().map_or(0, |written| written.size));
    entry_written(&api, &task, &path, &written?).await
}

async fn write_file(
    api: &Api,
    task: &OwnedTask,
    path: &WorkspacePath,
    query: WriteQuery,
    request: Request,
) -> Result<Written, Problem> {
    let headers = request.headers();
    // A part of a file can't be told from the whole here.
    if headers.contains_key(header::CONTENT_RANGE) {
        let detail = "a file is written whole; for one in parts see `POST /v1/tasks/{task}/uploads`";
        return Err(Problem::new("invalid_request", detail).with("field", "content-range"));
    }
    let new = NewFile {
        conditions: conditions(headers)?,
        executable: query.executable,
        media_type: headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned),
        digest: digest(headers)?,
        body: stream_of(request),
    };
    Ok(api.services.files.write(task, path, new).await?)
}

/// What a client is told of a file that it has put in its place.
pub(super) async fn entry_written(
    api: &Api,
    task: &OwnedTask,
    path: &WorkspacePath,
    written: &Written,
) -> Result<Response, Problem> {
    let entry = api.services.files.stat(task, path).await?;
    let facts = api.services.files.facts(task, &entry).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(EntryBody::known(&task.task().id.to_string(), &entry, facts))).into_response();
    // The tag of what was written, whatever a guest has made of it since.
    if let Ok(etag) = header::HeaderValue::try_from(&written.etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// What of a directory is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Whether a directory goes with what it holds.
    #[serde(default)]
    pub recursive: bool,
    /// Whether it goes for good, at once, instead of being kept for a while.
    #[serde(default)]
    pub purge: bool,
}

/// Deletes a file, a link or a directory. It is kept for a while, if the server is set
/// so (`files.keep_deleted_ms`): `Location` then says where it can be had back. Until
/// then it counts in the quota. With `If-Match` only the file that the client knows goes.
#[utoipa::path(delete, path = "/v1/tasks/{task}/files/{*path}", tag = "files",
    params(("task" = String, Path), ("path" = String, Path), DeleteQuery, ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    FilePath(path): FilePath,
    Query(query): Query<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesDelete, id).await?;
    let how = Removal { recursive: query.recursive, conditions: super::conditions::conditions(&headers)? };
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Delete, &path, EDGE).await?;
    let deleted = api.services.files.delete(&task, &path, how, query.purge).await.map_err(Problem::from);
    noting.end(deleted.as_ref().err().map(|problem| problem.code), 0);
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(deleted) = deleted?
        && let Ok(location) = header::HeaderValue::try_from(format!("/v1/tasks/{id}/deleted/{deleted}"))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
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
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Move, &from, EDGE).await?;
    let moved = api.services.files.rename(&task, &from, &to, body.replace).await.map_err(Problem::from);
    noting.end(moved.as_ref().err().map(|problem| problem.code), 0);
    moved?;
    let entry = api.services.files.stat(&task, &to).await?;
    let facts = api.services.files.facts(&task, &entry).await?;
    Ok(Json(EntryBody::known(&id.to_string(), &entry, facts)))
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
