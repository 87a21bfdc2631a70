//! `/v1/tasks/{task}/calls` and `/v1/calls/{call}`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::digest::Digest;
use bulkhead_core::id::{CallId, TaskId};
use bulkhead_core::ports::store::Idempotency;
use bulkhead_core::principal::Principal;
use bulkhead_core::service::calls::NewCall;

use super::Api;
use super::extract::{Caller, Id, JsonBody, Query};
use super::problem::Problem;
use super::sessions::page;
use super::wire::{CallBody, Items, NewCallBody, PageQuery, QuestionBody, WaitQuery};

/// A call with a small result fits without growing.
const ANSWER_BYTES: usize = 1536;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn wait_of(api: &Api, query: &WaitQuery, default: Duration) -> Result<Duration, Problem> {
    seconds(api, query.wait, default)
}

/// A wait that a request asks for, within what the server allows.
pub(super) fn seconds(api: &Api, wait: Option<f64>, default: Duration) -> Result<Duration, Problem> {
    let Some(seconds) = wait else { return Ok(default) };
    let wait = Duration::try_from_secs_f64(seconds).ok().filter(|wait| *wait <= api.options.wait_max);
    wait.ok_or_else(|| {
        let max = api.options.wait_max.as_secs();
        Problem::new("invalid_request", format!("`wait` must be 0 to {max} seconds")).with("field", "wait")
    })
}

fn idempotency(headers: &HeaderMap, task: TaskId, body: &[u8]) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let invalid = || {
        Problem::new("invalid_request", "`Idempotency-Key` must be printable ASCII").with("field", "Idempotency-Key")
    };
    let key = value.to_str().map_err(|_| invalid())?.to_owned();
    // The task is part of what was asked: the same key for another task is another request.
    let body = Digest::of(&[task.to_string().as_bytes(), b"\0", body].concat());
    Ok(Some(Idempotency { key, operation: "calls.create", body }))
}

fn answer(api: &Api, call: &Call) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    // Strings, numbers and JSON values: serializing them can't fail.
    let _ = serde_json::to_writer(&mut body, &shown(api, call));
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    if call.state.is_ended() {
        return (kind, body).into_response();
    }
    let location = format!("/v1/calls/{}", call.id);
    (StatusCode::ACCEPTED, kind, [(header::LOCATION, location)], body).into_response()
}

/// Calls a tool. Answers with the ended call, or with 202 and `Location` if it
/// has not ended after `wait` seconds, or sooner if it asks its owner something:
/// then it is `waiting` and has a `question`. A client that goes away cancels nothing.
/// With an `Idempotency-Key` the same request is done once in 24 hours.
#[utoipa::path(post, path = "/v1/tasks/{task}/calls", tag = "calls",
    params(("task" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters"), WaitQuery),
    request_body = NewCallBody,
    responses((status = 200, description = "Ended", body = CallBody), (status = 202, description = "Goes on", body = CallBody), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<WaitQuery>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    let task = api.services.access.frozen_task(&caller, Operation::CallsCreate, id).await?;
    let wait = wait_of(&api, &query, api.options.wait_default)?;
    let new: NewCallBody<'_> = body.parse()?;
    let idempotency = idempotency(&headers, id, &body.0)?;
    let new = NewCall { tool: &new.tool, arguments: new.arguments, limits: new.limits, idempotency };
    let mut submission = api.services.calls.submit(&task, new).await?;
    // Who waits for the end is not woken by the acceptance before it.
    if !wait.is_zero()
        && let Ok(Some(call)) = tokio::time::timeout(wait, submission.settled()).await
    {
        return Ok(answer(&api, &call));
    }
    let submitted = submission.accepted().await?;
    // The key stands for another call, which may still run.
    if submitted.call.is_none()
        && let Some(mut waiter) = submitted.waiter
        && let Ok(Some(call)) = tokio::time::timeout(wait, waiter.settled()).await
    {
        return Ok(answer(&api, &call));
    }
    if let Some(call) = submitted.call.filter(|_| wait.is_zero()) {
        return Ok(answer(&api, &call));
    }
    Box::pin(read(&api, &caller, submitted.id)).await
}

async fn read(api: &Api, caller: &Principal, id: CallId) -> Result<Response, Problem> {
    let call = api.services.access.call(caller, Operation::CallsCreate, id).await?;
    Ok(answer(api, call.call()))
}

/// The call as it is shown, with what it asks.
fn shown(api: &Api, call: &Call) -> CallBody {
    let mut body = CallBody::from(call);
    if matches!(call.state, CallState::Waiting { .. }) {
        body.question = api.services.grants.question(call.id).map(QuestionBody::from);
    }
    body
}

/// Lists the calls of a task, newest first. Outcomes of more than 16 KiB are shown
/// without `content`, `fault.details` and the end of `fault.message`; `GET` of the call has them.
#[utoipa::path(get, path = "/v1/tasks/{task}/calls", tag = "calls", params(("task" = String, Path), PageQuery),
    responses((status = 200, body = Items<CallBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Items<CallBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::CallsList, id).await?;
    let (page, limit) = page(&query)?;
    let calls = api.services.calls.list(&task, page).await?;
    Ok(Json(Items::page(calls, limit, |call| call.id.to_string())))
}

/// Reads a call; with `wait`, once it has ended or the time is over.
#[utoipa::path(get, path = "/v1/calls/{call}", tag = "calls", params(("call" = String, Path), WaitQuery),
    responses((status = 200, body = CallBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<CallId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<CallBody>, Problem> {
    let call = api.services.access.call(&caller, Operation::CallsGet, id).await?;
    let wait = wait_of(&api, &query, Duration::ZERO)?;
    if !call.call().state.is_ended()
        && let Some(mut waiter) = api.services.calls.waiter(id)
        && let Ok(Some(ended)) = tokio::time::timeout(wait, waiter.ended()).await
    {
        return Ok(Json(CallBody::from(&*ended)));
    }
    let call = api.services.access.again(&call).await?;
    Ok(Json(shown(&api, call.call())))
}

/// Asks a call to end. One that has ended stays as it ended.
#[utoipa::path(post, path = "/v1/calls/{call}/cancel", tag = "calls", params(("call" = String, Path)),
    responses((status = 202, description = "Asked; read the call to see how it ends", body = CallBody), (status = "4XX", body = Problem)))]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<CallId>,
) -> Result<(StatusCode, Json<CallBody>), Problem> {
    let call = api.services.access.call(&caller, Operation::CallsCancel, id).await?;
    api.services.calls.cancel(&call).await?;
    let call = api.services.access.again(&call).await?;
    Ok((StatusCode::ACCEPTED, Json(CallBody::from(call.call()))))
}
