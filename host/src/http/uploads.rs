//! `/v1/tasks/{task}/uploads`: uploads that go on over several requests. The fields are
//! those of draft-ietf-httpbis-resumable-upload; the file's path, length and digest are
//! said at the beginning.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::files::AccessKind;
use bulkhead_core::id::{TaskId, UploadId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::service::files::{NewUpload, UploadState};

use super::Api;
use super::contents::digest;
use super::extract::{Caller, Id, JsonBody, Part, path_from_text};
use super::files::{EDGE, stream_of};
use super::problem::Problem;
use super::wire::{NewUploadBody, UploadBody};

/// Where the upload goes on.
pub const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
/// Whether it is complete: `?1` or `?0`.
pub const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
/// How large it will be.
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
/// The media type of a piece.
const PIECE: &str = "application/partial-upload";

fn parse(id: &str) -> Result<UploadId, Problem> {
    id.parse().map_err(|_| Problem::new("not_found", "there is no such upload here"))
}

fn told(status: StatusCode, state: &UploadState) -> Response {
    let mut response = (status, Json(UploadBody::from(state))).into_response();
    let complete = if state.upload.completed_at.is_some() { "?1" } else { "?0" };
    let headers = response.headers_mut();
    headers.insert(OFFSET, HeaderValue::from(state.offset));
    headers.insert(LENGTH, HeaderValue::from(state.upload.length));
    headers.insert(COMPLETE, HeaderValue::from_static(complete));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Begins an upload; `Location` is where its bytes are sent, by `PATCH`. It counts in the
/// quota as it grows, and survives a restart of the server.
#[utoipa::path(post, path = "/v1/tasks/{task}/uploads", tag = "files", params(("task" = String, Path)), request_body = NewUploadBody,
    responses((status = 201, body = UploadBody), (status = "4XX", body = Problem)))]
pub async fn begin(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesUpload, id).await?;
    let body: NewUploadBody = body.parse()?;
    let new = NewUpload {
        path: path_from_text("path", &body.path)?,
        length: body.length,
        replace: body.replace,
        executable: body.executable,
        media_type: body.media_type,
        digest: body.digest.as_deref().map(digest).transpose()?,
    };
    let state = api.services.files.begin_upload(&task, new).await?;
    let mut response = told(StatusCode::CREATED, &state);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/tasks/{id}/uploads/{}", state.upload.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Says how far an upload is, also by `HEAD`: in `Upload-Offset`, `Upload-Length` and
/// `Upload-Complete`.
#[utoipa::path(get, path = "/v1/tasks/{task}/uploads/{upload}", tag = "files", params(("task" = String, Path), ("upload" = String, Path)),
    responses((status = 200, body = UploadBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(upload): Part,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesUpload, id).await?;
    let state = api.services.files.upload(&task, parse(&upload)?).await?;
    Ok(told(StatusCode::OK, &state))
}

/// Adds to an upload, from `Upload-Offset` on, which must be where it ends. What came
/// before a connection broke stays. With the last byte the file takes its place; a file
/// that is not what was said at the beginning does not.
#[utoipa::path(patch, path = "/v1/tasks/{task}/uploads/{upload}", tag = "files",
    params(("task" = String, Path), ("upload" = String, Path), ("Upload-Offset" = u64, Header)),
    request_body(content = Vec<u8>, content_type = "application/partial-upload"),
    responses((status = 200, body = UploadBody), (status = "4XX", body = Problem)))]
pub async fn add(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(upload): Part,
    request: Request,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesUpload, id).await?;
    let upload = parse(&upload)?;
    let before = api.services.files.upload(&task, upload).await?;
    let path = WorkspacePath::from_text(&before.upload.path)?;
    let offset = offset(request.headers())?;
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Write, &path, EDGE).await?;
    let added = api.services.files.add_to_upload(&task, upload, offset, stream_of(request)).await;
    let added = added.map_err(Problem::from);
    let taken = added.as_ref().map_or(0, |state| state.offset.saturating_sub(offset));
    noting.end(added.as_ref().err().map(|problem| problem.code), taken);
    Ok(told(StatusCode::OK, &added?))
}

fn offset(headers: &HeaderMap) -> Result<u64, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind != PIECE {
        return Err(Problem::new("unsupported_media_type", format!("send `Content-Type: {PIECE}`")));
    }
    let offset = headers.get(OFFSET).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    offset.ok_or_else(|| {
        let detail = "`Upload-Offset` must be the number of bytes that are there, see `GET` of the upload";
        Problem::new("invalid_request", detail).with("field", "upload-offset")
    })
}

/// Cancels an upload; of one that is complete only the record goes.
#[utoipa::path(delete, path = "/v1/tasks/{task}/uploads/{upload}", tag = "files", params(("task" = String, Path), ("upload" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(upload): Part,
) -> Result<StatusCode, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesUpload, id).await?;
    api.services.files.cancel_upload(&task, parse(&upload)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
