//! `/v1/tasks/{task}/transfers` and `…/contents`: files that need not be sent, because
//! the owner has them already.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::conditions::Conditions;
use bulkhead_core::digest::Digest;
use bulkhead_core::files::AccessKind;
use bulkhead_core::id::TaskId;
use bulkhead_core::service::files::Transfer;
use bulkhead_core::service::hosts::Pinned;

use super::Api;
use super::extract::{Caller, Id, JsonBody, path_from_text};
use super::fetch::fetch;
use super::files::{EDGE, entry_written};
use super::forward::address_of;
use super::problem::Problem;
use super::reach::There;
use super::wire::{EntryBody, PutContentBody, TransferBody, TransferredBody};

/// Copies or moves an entry from another task of the same owner, with all it holds.
/// Links are copied as links. It is whole, or not there at all; what was moved may, if
/// the server dies in the middle, be in both tasks. A file that is changed while it is
/// moved stays where it was, too (409); a directory goes with what is written into it meanwhile. Of a task that another host holds
/// files and directories are transferred; of a link alone there 409 `held_elsewhere` tells.
#[utoipa::path(post, path = "/v1/tasks/{task}/transfers", tag = "files", params(("task" = String, Path)), request_body = TransferBody,
    responses((status = 201, description = "New", body = TransferredBody), (status = 200, description = "Replaced", body = TransferredBody), (status = "4XX", body = Problem)))]
pub async fn transfer(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesTransfer, id).await?;
    let body: TransferBody = body.parse()?;
    let missing = || Problem::new("not_found", "there is no such task here").with("field", "from_task");
    let source: TaskId = body.from_task.parse().map_err(|_| missing())?;
    let source = api.services.access.task(&caller, Operation::FilesTransferFrom, source).await?;
    let (from, to) = (path_from_text("from", &body.from)?, path_from_text("to", &body.to)?);
    let what = Transfer { from: from.clone(), to: to.clone(), remove: body.remove, replace: body.replace };
    let holder = api.services.hosts.holder(&caller, Pinned::Task(source.task().id)).await?;
    if let Some(address) = address_of(holder)? {
        let there = There::new(&api.peers, &address, &source.task().id.to_string(), &from, &headers);
        return Ok(fetch(&api, &caller, &task, &source, &there, what).await?.unwrap_or_else(|refusal| refusal));
    }
    let (files, kind) = (&api.services.files, if body.remove { AccessKind::Move } else { AccessKind::Copy });
    let here = files.accesses().begin(&caller, &task, AccessKind::Write, &to, EDGE).await?;
    let there = files.accesses().begin(&caller, &source, kind, &from, EDGE).await?;
    let copied = files.transfer(&task, &source, what).await.map_err(Problem::from);
    let (problem, bytes) =
        (copied.as_ref().err().map(|problem| problem.code), copied.as_ref().map_or(0, |copied| copied.extent.bytes));
    here.end(problem, bytes);
    there.end(problem, bytes);
    let copied = copied?;
    let entry = files.stat(&task, &to).await?;
    let status = if copied.created { StatusCode::CREATED } else { StatusCode::OK };
    let body = TransferredBody {
        entry: EntryBody::of(&id.to_string(), &entry),
        bytes: copied.extent.bytes,
        entries: copied.extent.entries,
        left_out: copied.left_out,
    };
    Ok((status, Json(body)).into_response())
}

/// Writes a file whose content a client of the same owner has sent before, by its digest
/// alone. If no file of the owner that can be reached has it still, the answer is 404
/// `content_unknown`: send it.
#[utoipa::path(post, path = "/v1/tasks/{task}/contents", tag = "files", params(("task" = String, Path)), request_body = PutContentBody,
    responses((status = 201, description = "New", body = EntryBody), (status = 200, description = "Replaced", body = EntryBody), (status = "4XX", body = Problem)))]
pub async fn put(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::FilesPutContent, id).await?;
    let body: PutContentBody = body.parse()?;
    let digest = digest(&body.digest)?;
    let path = path_from_text("path", &body.path)?;
    let conditions = if body.replace { Conditions::default() } else { Conditions::absent() };
    let noting = api.services.files.accesses().begin(&caller, &task, AccessKind::Write, &path, EDGE).await?;
    let how = (body.executable, body.media_type.as_deref());
    let written = api.services.files.put_content(&task, &path, digest, conditions, how).await.map_err(Problem::from);
    noting.end(written.as_ref().err().map(|problem| problem.code), written.as_ref().map_or(0, |written| written.size));
    entry_written(&api, &task, &path, &written?).await
}

/// A digest as it stands in our JSON.
pub(super) fn digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error| Problem::new("invalid_request", format!("`digest`: {error}")).with("field", "digest"))
}
