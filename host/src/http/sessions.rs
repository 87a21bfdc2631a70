//! `/v1/sessions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bulkhead_core::access::Operation;
use bulkhead_core::id::SessionId;
use bulkhead_core::ports::store::Page;

use super::Api;
use super::extract::{Caller, Id, JsonBody, Query};
use super::problem::Problem;
use super::wire::{Items, MAX_PAGE, NewSession, PageQuery, SessionBody};

/// The page that a query asks for, and one more to see whether there is more.
pub fn page<T: std::str::FromStr>(query: &PageQuery) -> Result<(Page<T>, u32), Problem> {
    let limit = query.limit.unwrap_or(50);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new("invalid_request", format!("`limit` must be 1 to {MAX_PAGE}")).with("field", "limit"));
    }
    let before = query.before.as_deref().map(str::parse).transpose();
    let before =
        before.map_err(|_| Problem::new("invalid_request", "`before` is not an id").with("field", "before"))?;
    Ok((Page { before, limit: limit + 1 }, limit))
}

/// Makes a session: a label that groups tasks.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = NewSession,
    responses((status = 201, body = SessionBody), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    body: JsonBody,
) -> Result<(StatusCode, Json<SessionBody>), Problem> {
    let permit = api.services.access.permit(&caller, Operation::SessionsCreate).await?;
    let new: NewSession = body.parse()?;
    let session = api.services.sessions.create(&permit, new.label).await?;
    Ok((StatusCode::CREATED, Json(SessionBody::from(&session))))
}

/// Lists own sessions.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(PageQuery),
    responses((status = 200, body = Items<SessionBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Items<SessionBody>>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::SessionsList).await?;
    let (page, limit) = page(&query)?;
    let sessions = api.services.sessions.list(&permit, page).await?;
    Ok(Json(Items::page(sessions, limit, |session| session.id.to_string())))
}

/// Reads a session.
#[utoipa::path(get, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path)),
    responses((status = 200, body = SessionBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionBody>, Problem> {
    let session = api.services.access.session(&caller, Operation::SessionsGet, id).await?;
    Ok(Json(SessionBody::from(session.session())))
}

/// Deletes a session; its tasks stay, without it.
#[utoipa::path(delete, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<SessionId>,
) -> Result<StatusCode, Problem> {
    let session = api.services.access.session(&caller, Operation::SessionsDelete, id).await?;
    api.services.sessions.delete(&session).await?;
    Ok(StatusCode::NO_CONTENT)
}
