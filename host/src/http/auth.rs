//! Authentication: a key becomes a principal, before any handler runs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bulkhead_core::id::TaskId;
use bulkhead_core::principal::Principal;

use super::problem::Problem;
use super::{Api, forward, rate};

/// Who may call.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Holders of an API key.
    Required,
    /// Everybody, as this principal: for one person on a loopback address.
    Off(Principal),
}

/// What stands before routes that need a principal.
#[derive(Clone)]
pub struct Gate {
    /// Knows keys and rates.
    pub api: Arc<Api>,
    /// Whether requests are counted against the principal's rate.
    pub counted: bool,
}

/// The middleware of every route that needs a principal.
pub async fn authenticate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let shown = match ticket(&request) {
        Some((text, task)) => ticket_holder(&gate.api, text, task).await,
        None => principal(&gate.api, request.headers()).await,
    };
    let principal = match shown {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
    };
    let owner = principal.owner();
    // One middleware for all of this: each costs a box and a clone of all below it.
    let answer = async {
        if gate.api.services.hosts.is_shared() {
            request = match forward::elsewhere(&gate.api, &principal, request).await {
                Ok(response) => return response,
                Err(request) => request,
            };
        }
        request.extensions_mut().insert(principal);
        next.run(request).await
    };
    match gate.counted {
        true => rate::count(&gate.api, owner, answer).await,
        false => answer.await,
    }
}

/// The ticket of a request for a task's events, if it shows one.
fn ticket(request: &Request) -> Option<(String, TaskId)> {
    let path = request.uri().path();
    let task = path.strip_prefix("/v1/tasks/")?;
    let task = task.strip_suffix("/events").or_else(|| task.strip_suffix("/events/ws"))?;
    let query = url::form_urlencoded::parse(request.uri().query()?.as_bytes());
    let text = query.into_iter().find(|(name, _)| name == "ticket")?.1.into_owned();
    // A text that names no task is refused like a ticket that opens nothing.
    Some((text, task.parse().unwrap_or(TaskId::from_parts(0, 0))))
}

async fn ticket_holder(api: &Api, text: String, task: TaskId) -> Result<Principal, Problem> {
    let taken = api.services.tickets.take(&text, task).await?;
    taken.map_err(|refused| Problem::new("invalid_ticket", refused.to_string()))
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
