//! Health, metrics, the OpenAPI document, and who the caller is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::principal::{Scope, Scopes};
use serde_json::{Value, json};

use super::Api;
use super::extract::Caller;
use super::problem::Problem;
use super::wire::WhoAmI;

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "system", security(()), responses((status = 200, body = Object)))]
pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether it should get traffic: the store answers, and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "system", security(()),
    responses((status = 200, body = Object), (status = 503, body = Problem)))]
pub async fn ready(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    if api.leaving.is_cancelled() {
        return Err(Problem::new("stopping", "the host is stopping").retry_after(5));
    }
    api.services.upkeep.ping().await?;
    Ok(Json(json!({"status": "ready"})))
}

/// Where to read on.
pub async fn index() -> Json<Value> {
    Json(json!({"name": "bulkhead", "version": env!("CARGO_PKG_VERSION"), "openapi": "/v1/openapi.json"}))
}

/// The OpenAPI 3.1 document.
pub async fn openapi() -> Response {
    let json = super::openapi().to_json().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Says whose key this is and what it may do.
#[utoipa::path(get, path = "/v1/whoami", tag = "system",
    responses((status = 200, body = WhoAmI), (status = "4XX", body = Problem)))]
pub async fn whoami(Caller(caller): Caller) -> Json<WhoAmI> {
    let scopes = Scopes::iter(caller.scopes).map(Scope::as_str).collect();
    Json(WhoAmI { tenant: caller.tenant.to_string(), user: caller.user.to_string(), scopes })
}

/// Metrics in the OpenMetrics text format.
pub async fn metrics(State(api): State<Arc<Api>>, Caller(caller): Caller) -> Result<Response, Problem> {
    api.services.access.permit(&caller, Operation::MetricsGet).await?;
    let tasks = &api.services.tasks;
    let text = api.metrics.render(api.services.calls.load(), tasks.watched(), tasks.remembered());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
