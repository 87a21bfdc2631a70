//! `/v1/tools`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use bulkhead_core::id::ToolId;
use bulkhead_core::principal::Scope;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::extract::{Caller, Id, Query, body};
use super::problem::Problem;
use super::sessions::page;
use super::wire::{Items, PageQuery, ToolBody};

/// Whose a new tool is.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RegisterQuery {
    /// True for a tool that every tenant sees; needs the scope `operator:tools`.
    #[serde(default)]
    pub operator: bool,
}

/// Registers a component. It is `compiling` at first, then `ready` or
/// `rejected`; read it again to see. The same bytes are the same tool.
#[utoipa::path(post, path = "/v1/tools", tag = "tools", params(RegisterQuery),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 202, description = "New: being compiled", body = ToolBody),
              (status = 200, description = "Known already", body = ToolBody), (status = "4XX", body = Problem)))]
pub async fn register(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<RegisterQuery>,
    request: Request,
) -> Result<(StatusCode, [(header::HeaderName, String); 1], Json<ToolBody>), Problem> {
    let permit = api.services.access.permit(&caller, Scope::ToolsWrite)?;
    let component = body(request, &()).await?;
    let (tool, new) = api.services.tools.register(&permit, query.operator, component).await?;
    let status = if new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, format!("/v1/tools/{}", tool.id))], Json(ToolBody::from(&tool))))
}

/// Lists the tools that the tenant may use: its own and the operator's.
#[utoipa::path(get, path = "/v1/tools", tag = "tools", params(PageQuery),
    responses((status = 200, body = Items<ToolBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Items<ToolBody>>, Problem> {
    let permit = api.services.access.permit(&caller, Scope::ToolsRead)?;
    let (page, limit) = page(&query)?;
    let tools = api.services.tools.list(&permit, page).await?;
    Ok(Json(Items::page(tools, limit, |tool| tool.id.to_string())))
}

/// Reads a tool.
#[utoipa::path(get, path = "/v1/tools/{tool}", tag = "tools", params(("tool" = String, Path)),
    responses((status = 200, body = ToolBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<ToolId>,
) -> Result<Json<ToolBody>, Problem> {
    let permit = api.services.access.permit(&caller, Scope::ToolsRead)?;
    Ok(Json(ToolBody::from(&api.services.tools.get(&permit, id).await?)))
}

/// Retires a tool that no task pins.
#[utoipa::path(delete, path = "/v1/tools/{tool}", tag = "tools", params(("tool" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<ToolId>,
) -> Result<StatusCode, Problem> {
    let permit = api.services.access.permit(&caller, Scope::ToolsWrite)?;
    api.services.tools.delete(&permit, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
