//! `/v1/tools`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::id::ToolId;
use bulkhead_core::service::tools::Following;
use bulkhead_core::tool::Tool;
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::calls::seconds;
use super::events::{LAST_EVENT_ID, SSE, STILL_HERE};
use super::extract::{Caller, Id, Query, body};
use super::problem::Problem;
use super::sessions::page;
use super::streams::{Stream, Waited, Why};
use super::wire::{Items, PageQuery, ProgressBody, ToolBody};

/// Whose a new tool is.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RegisterQuery {
    /// True for a tool that every tenant sees; needs the scope `operator:tools`.
    #[serde(default)]
    pub operator: bool,
}

/// How long to wait for a tool.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ToolQuery {
    /// Seconds to wait until it is `compiling` no more: 0, which is the default, to the server's maximum.
    pub wait: Option<f64>,
}

/// The tool as it is shown, with how far it is.
fn shown(api: &Api, tool: &Tool) -> ToolBody {
    let progress = tool.state.is_compiling().then(|| api.services.tools.progress(tool.id)).flatten();
    ToolBody { progress: progress.map(ProgressBody::from), ..ToolBody::from(tool) }
}

/// Registers a component, or a core module that can be made one. It is
/// `compiling` at first, then `ready` or `rejected`; read it again to see, and
/// meanwhile how far it is. The same bytes are the same tool.
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
    let permit = api.services.access.permit(&caller, Operation::ToolsRegister).await?;
    let component = body(request, api.options.max_component_bytes, "tools.max_component_bytes").await?;
    let (tool, new) = api.services.tools.register(&permit, query.operator, component).await?;
    let status = if new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, format!("/v1/tools/{}", tool.id))], Json(shown(&api, &tool))))
}

/// Lists the tools that the tenant may use: its own and the operator's.
#[utoipa::path(get, path = "/v1/tools", tag = "tools", params(PageQuery),
    responses((status = 200, body = Items<ToolBody>), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Items<ToolBody>>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::ToolsList).await?;
    let (page, limit) = page(&query)?;
    let tools = api.services.tools.list(&permit, page).await?;
    Ok(Json(Items::page(tools, limit, |tool| tool.id.to_string())))
}

/// Reads a tool; with `wait`, once it is `compiling` no more or the time is over.
#[utoipa::path(get, path = "/v1/tools/{tool}", tag = "tools", params(("tool" = String, Path), ToolQuery),
    responses((status = 200, body = ToolBody), (status = "4XX", body = Problem)))]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<ToolId>,
    Query(query): Query<ToolQuery>,
) -> Result<Json<ToolBody>, Problem> {
    let permit = api.services.access.permit(&caller, Operation::ToolsGet).await?;
    let wait = seconds(&api, query.wait, Duration::ZERO)?;
    let tool = api.services.tools.get(&permit, id).await?;
    if !wait.is_zero() && tool.state.is_compiling() {
        // Over or not: what is there then is shown.
        let _ = tokio::time::timeout(wait, api.services.tools.settled(id)).await;
        return Ok(Json(shown(&api, &api.services.tools.get(&permit, id).await?)));
    }
    Ok(Json(shown(&api, &tool)))
}

/// Follows what becomes of a tool: an event `tool.compiling` for what it is doing, one
/// each time that changes, and at last `tool.ready` or `tool.rejected`. Each `data` is
/// the tool. They are states and no log: who comes again is told the present one, and
/// 204 if the last that was told, by `Last-Event-ID`, was the end.
#[utoipa::path(get, path = "/v1/tools/{tool}/events", tag = "tools",
    params(("tool" = String, Path), ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = ToolBody, description = "Each `data` is one of these"),
              (status = 204, description = "Its end was told already"), (status = "4XX", body = Problem)))]
pub async fn follow(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<ToolId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let permit = api.services.access.permit(&caller, Operation::ToolsFollow).await?;
    let following = api.services.tools.follow(&permit, id).await?;
    let state = &following.tool().state;
    let told = headers.get(LAST_EVENT_ID).is_some_and(|told| told.as_bytes() == state.name().as_bytes());
    if told && !state.is_compiling() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stream = api.stream(&caller, following).await?;
    Ok((SSE, Body::from_stream(states(stream))).into_response())
}

/// The body: pulled by the client's connection.
fn states(stream: Stream<Following>) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(stream, async |mut stream| match stream.wait(async |states| states.next().await).await {
        Waited::Over => None,
        Waited::Idle => Some((Ok(Bytes::from_static(STILL_HERE)), stream)),
        Waited::Next(Ok(Some((tool, progress)))) => {
            let state = tool.state.name();
            let tool = ToolBody { progress: progress.map(ProgressBody::from), ..ToolBody::from(&tool) };
            let json = serde_json::to_string(&tool).unwrap_or_default();
            Some((Ok(format!("id: {state}\nevent: tool.{state}\ndata: {json}\n\n").into()), stream))
        }
        Waited::Next(Ok(None)) => {
            stream.end(Why::Over);
            None
        }
        Waited::Next(Err(error)) => {
            tracing::warn!(%error, "a stream of a tool's states ended");
            stream.end(Why::Failed);
            None
        }
    })
}

/// Retires a tool that no task pins.
#[utoipa::path(delete, path = "/v1/tools/{tool}", tag = "tools", params(("tool" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<ToolId>,
) -> Result<StatusCode, Problem> {
    let permit = api.services.access.permit(&caller, Operation::ToolsDelete).await?;
    api.services.tools.delete(&permit, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
