//! `/v1/tasks/{task}/tickets`: what a browser shows where it can't send a key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bulkhead_core::access::Operation;
use bulkhead_core::id::TaskId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::extract::{Caller, Id};
use super::problem::Problem;

/// A ticket, shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct TicketBody {
    /// To be sent as `?ticket=` to this task's events.
    pub ticket: String,
    /// Until when it can be used.
    pub expires_at: String,
}

/// Gives a ticket: it opens one stream of this task's events, once, within a
/// minute. For `EventSource` and `WebSocket` of browsers, which set no header.
#[utoipa::path(post, path = "/v1/tasks/{task}/tickets", tag = "events", params(("task" = String, Path)),
    responses((status = 201, body = TicketBody), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
) -> Result<(StatusCode, Json<TicketBody>), Problem> {
    let task = api.services.access.task(&caller, Operation::TicketsCreate, id).await?;
    let (ticket, expires_at) = api.services.tickets.give(&caller, &task).await?;
    let body = TicketBody { ticket: ticket.reveal(), expires_at: expires_at.to_string() };
    Ok((StatusCode::CREATED, Json(body)))
}
