//! Authentication: a key becomes a principal, before any handler runs.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bulkhead_core::principal::Principal;

use super::Api;
use super::problem::Problem;

/// Who may call.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Holders of an API key.
    Required,
    /// Everybody, as this principal: for one person on a loopback address.
    Off(Principal),
}

/// The middleware of every route that needs a principal.
pub async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match principal(&api, request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn principal(api: &Api, headers: &HeaderMap) -> Result<Principal, Problem> {
    if let Auth::Off(principal) = &api.options.auth {
        return Ok(principal.clone());
    }
    let key = bearer(headers).or_else(|| headers.get("x-api-key")?.to_str().ok());
    let Some(key) = key else {
        let detail = "send `Authorization: Bearer <API key>`; `bulkhead keys create` makes one";
        return Err(Problem::new("unauthenticated", detail));
    };
    Ok(api.services.keys.authenticate(key).await?)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
