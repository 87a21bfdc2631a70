//! `/v1/tasks/{task}/grants`, `/v1/calls/{call}/answers`, and why a tool gets what
//! it gets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bulkhead_core::access::Operation;
use bulkhead_core::id::{CallId, TaskId};
use bulkhead_core::service::grants::NewGrant;

use super::Api;
use super::extract::{Caller, Id, JsonBody, Part};
use super::problem::Problem;
use super::wire::{AnswerBody, ExplanationBody, GrantBody, Items, NewGrantBody, RevokedBody};

/// Gives a grant to a task, for what the policy wants asked. Needs a scope of
/// its own, so that a key that may only call tools can't widen what they get.
#[utoipa::path(post, path = "/v1/tasks/{task}/grants", tag = "grants", params(("task" = String, Path)),
    request_body = NewGrantBody,
    responses((status = 201, body = GrantBody), (status = "4XX", body = Problem)))]
pub async fn give(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<GrantBody>), Problem> {
    let task = api.services.access.task(&caller, Operation::GrantsGive, id).await?;
    let NewGrantBody { capability, expires_in_s, uses } = body.parse()?;
    let grant = api.services.grants.give(&task, NewGrant { capability, expires_in_s, uses }).await?;
    Ok((StatusCode::CREATED, Json(GrantBody::from(&grant))))
}

/// Lists the newest 1,024 grants of a task, those that ended included.
#[utoipa::path(get, path = "/v1/tasks/{task}/grants", tag = "grants", params(("task" = String, Path)),
    responses((status = 200, body = Items<GrantBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<Json<Items<GrantBody>>, Problem> {
    let task = api.services.access.task(&caller, Operation::GrantsList, id).await?;
    let grants = api.services.grants.list(&task).await?;
    Ok(Json(Items::all(grants.iter().map(GrantBody::from))))
}

/// Takes a grant back, and ends the calls that stand on it.
#[utoipa::path(delete, path = "/v1/tasks/{task}/grants/{grant}", tag = "grants",
    params(("task" = String, Path), ("grant" = String, Path)),
    responses((status = 200, body = RevokedBody), (status = "4XX", body = Problem)))]
pub async fn revoke(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(grant): Part,
) -> Result<Json<RevokedBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::GrantsRevoke, id).await?;
    let grant = grant.parse().map_err(|_| Problem::new("not_found", "there is no such thing here"))?;
    let ended_calls = api.services.grants.revoke(&task, grant).await?;
    Ok(Json(RevokedBody { ended_calls }))
}

/// Answers what a waiting call asks.
#[utoipa::path(post, path = "/v1/calls/{call}/answers", tag = "grants", params(("call" = String, Path)),
    request_body = AnswerBody,
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn answer(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<CallId>,
    body: JsonBody,
) -> Result<StatusCode, Problem> {
    let call = api.services.access.call(&caller, Operation::GrantsAnswer, id).await?;
    let AnswerBody { question, allow, grant } = body.parse()?;
    let invalid = |_| Problem::new("invalid_request", "`question` is not an id").with("field", "question");
    let question = question.parse().map_err(invalid)?;
    let task = api.services.access.task(&caller, Operation::GrantsAnswer, call.call().task).await?;
    let remember = grant.map(|grant| (grant.capability, grant.expires_in_s, grant.uses));
    api.services.grants.answer(&call, question, allow, remember, &task).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says which rule of the policy in force decides what of a tool's wishes.
#[utoipa::path(get, path = "/v1/tasks/{task}/policy/{tool}", tag = "grants",
    params(("task" = String, Path), ("tool" = String, Path, description = "The tool's name in the task")),
    responses((status = 200, body = ExplanationBody), (status = "4XX", body = Problem)))]
pub async fn explain(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Part(tool): Part,
) -> Result<Json<ExplanationBody>, Problem> {
    let task = api.services.access.frozen_task(&caller, Operation::PolicyExplain, id).await?;
    Ok(Json(api.services.grants.explain(&task, &tool).await?.into()))
}
