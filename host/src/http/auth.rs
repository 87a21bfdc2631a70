//! Authentication: a key becomes a principal, before any handler runs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
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
        from_this_machine(headers, &api.options.cors_origins)?;
        return Ok(principal.clone());
    }
    let key = bearer(headers).or_else(|| headers.get("x-api-key")?.to_str().ok());
    let Some(key) = key else {
        let detail = "send `Authorization: Bearer <API key>`; `bulkhead keys create` makes one";
        return Err(Problem::new("unauthenticated", detail));
    };
    Ok(api.services.keys.authenticate(key).await?)
}

/// Without keys a page in this machine's browser is the attacker: one of
/// another origin, or one whose name was made to resolve to loopback.
fn from_this_machine(headers: &HeaderMap, allowed: &[HeaderValue]) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(name, _)| name);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    if name != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        let detail = "without authentication only requests to a loopback address or `localhost` are answered";
        return Err(Problem::new("forbidden_origin", detail));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://") == Some(host));
    if own || allowed.contains(origin) {
        return Ok(());
    }
    Err(Problem::new("forbidden_origin", "pages of this origin may not call; see `http.cors_origins`"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
