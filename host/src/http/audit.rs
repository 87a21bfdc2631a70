//! `/v1/audit` and `/v1/tasks/{task}/audit`: an owner reads its part of the audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bulkhead_core::access::Operation;
use bulkhead_core::id::TaskId;

use super::Api;
use super::extract::{Caller, Id, Query};
use super::problem::Problem;
use super::wire::{AuditPageBody, AuditQuery, MAX_PAGE, TaskAuditQuery};

/// Lists the caller's audit records, oldest first: of all its tasks, those deleted
/// included, and of its keys, tools and refusals. With a filter a page may be empty and not
/// the last: of what is passed over some is looked at for each.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = AuditPageBody), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPageBody>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::AuditListOwn).await?;
    let (limit, filter) = (limit(query.limit)?, query.filter()?);
    let page = api.services.audit.list(&permit, filter, query.after.unwrap_or(0), limit).await?;
    Ok(Json(AuditPageBody::from(&page)))
}

/// Lists the audit records of a task, oldest first: what was decided, asked and granted. The
/// ends of its calls are with the calls, and in `/v1/audit`.
#[utoipa::path(get, path = "/v1/tasks/{task}/audit", tag = "audit", params(("task" = String, Path), TaskAuditQuery),
    responses((status = 200, body = AuditPageBody), (status = "4XX", body = Problem)))]
pub async fn of_task(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<TaskAuditQuery>,
) -> Result<Json<AuditPageBody>, Problem> {
    let task = api.services.access.task(&caller, Operation::AuditList, id).await?;
    let page = api.services.audit.of_task(&task, query.after.unwrap_or(0), limit(query.limit)?).await?;
    Ok(Json(AuditPageBody::from(&page)))
}

fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(50);
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new("invalid_request", format!("`limit` must be 1 to {MAX_PAGE}")).with("field", "limit"))
}
