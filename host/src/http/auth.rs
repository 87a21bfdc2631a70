//! Authentication: a key or token becomes a principal, before any handler runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bulkhead_core::id::TaskId;
use bulkhead_core::principal::{Credential, Principal, Reason, Scope};
use ipnet::IpNet;

use super::presence::Presence;
use super::problem::Problem;
use super::{Api, forward, rate};
use crate::tokens::{TokenRefused, Tokens};

/// Another field that may have the API key in it.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why an administrator wants what is another's.
pub(super) const REASON: HeaderName = HeaderName::from_static("bulkhead-reason");

/// Who may call.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Holders of an API key, or of a token of an issuer.
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
    /// The places of these requests.
    pub presence: Arc<Presence>,
}

/// The middleware of every route that needs a principal.
pub async fn authenticate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let resource = gate.api.options.resource.clone();
    let mut response = answer(gate, request, next).await;
    if let Some(resource) = resource {
        resource.point_at(&mut response);
    }
    response
}

async fn answer(gate: Gate, mut request: Request, next: Next) -> Response {
    let mut present = match gate.presence.enter() {
        Ok(present) => present,
        Err(full) => return full.into_response(),
    };
    let ticket = ticket(&request);
    if (ticket.is_some() || !is_known(&gate.api, request.headers()))
        && let Err(many) = present.is_strange()
    {
        return many.into_response();
    }
    let shown = match ticket {
        Some((text, task)) => Box::pin(ticket_holder(&gate.api, text, task)).await,
        None => principal(&gate.api, request.headers()).await,
    };
    let principal = match shown.and_then(|principal| with_reason(principal, request.headers())) {
        Ok(principal) => principal,
        Err(problem) => {
            // What failed for another reason says nothing about who asked.
            // Nor is who holds a key that was good a stranger: it is written down as the owner's.
            let is_known = matches!(problem.code, "expired_key" | "revoked_key");
            if matches!(problem.status, 401 | 403) && !is_known {
                gate.api.services.audit.stranger(problem.code, &source(&request));
            }
            return problem.into_response();
        }
    };
    let owner = principal.owner();
    if let Err(many) = present.is_of(owner) {
        return many.into_response();
    }
    // One middleware for all of this: each costs a box and a clone of all below it.
    if gate.api.services.hosts.is_shared() {
        // Counted where it is answered, once.
        request = match Box::pin(forward::elsewhere(&gate.api, &principal, request)).await {
            Ok(response) => return present.until_sent(response),
            Err(request) => request,
        };
    }
    request.extensions_mut().insert(principal);
    let answer = next.run(request);
    let response = match gate.counted {
        true => rate::count(&gate.api, owner, answer).await,
        false => answer.await,
    };
    present.until_sent(response)
}

/// Whether who asks can be told without waiting for the store behind strangers: with a
/// key that was let in of late, or without any. Tokens are verified, not looked up.
fn is_known(api: &Api, headers: &HeaderMap) -> bool {
    if matches!(api.options.auth, Auth::Off(_)) {
        return true;
    }
    let key = bearer(headers).or_else(|| headers.get(API_KEY)?.to_str().ok());
    key.is_none_or(|key| key.contains('.') || api.services.keys.has_met(key))
}

/// Takes the reason of an administrator. For all others the field means
/// nothing, so that it tells nobody anything.
fn with_reason(mut principal: Principal, headers: &HeaderMap) -> Result<Principal, Problem> {
    let Some(value) = headers.get(REASON) else { return Ok(principal) };
    let administers = |scope| principal.scopes.contains(scope);
    if administers(Scope::Admin) || administers(Scope::OperatorAdmin) {
        let reason = Reason::parse(value.as_bytes());
        principal.reason = Some(reason.ok_or_else(|| {
            let detail = format!("`Bulkhead-Reason` must be 1 to {} printable ASCII characters", Reason::MAX);
            Problem::new("invalid_request", detail).with("field", "Bulkhead-Reason")
        })?);
    }
    Ok(principal)
}

/// The network that a request comes from: so much of an address as one person may
/// have, since a whole one tells no more and would fill the records.
fn source(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical());
    let network = match peer {
        Some(IpAddr::V4(address)) => IpNet::new(address.into(), 24),
        Some(IpAddr::V6(address)) => IpNet::new(address.into(), 48),
        None => return "unknown".into(),
    };
    // Neither prefix is longer than its address.
    network.map(|network| network.trunc().to_string()).unwrap_or_default()
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
    if let (Some(tokens), Some(token)) = (&api.tokens, bearer(headers).filter(|text| text.contains('.'))) {
        return token_holder(api, tokens, token).await;
    }
    let key = bearer(headers).or_else(|| headers.get(API_KEY)?.to_str().ok());
    let Some(key) = key else {
        let detail = "send `Authorization: Bearer <API key>`; `bulkhead keys create` makes one";
        return Err(Problem::new("unauthenticated", detail));
    };
    Ok(api.services.keys.authenticate(key).await?)
}

/// API keys have no dot in them, and are never looked at as tokens.
async fn token_holder(api: &Api, tokens: &Tokens, token: &str) -> Result<Principal, Problem> {
    let holder = tokens.verify(token).await?;
    api.services.keys.admit(holder.owner).await.map_err(bulkhead_core::Error::from)?;
    Ok(Principal::new(holder.owner, holder.scopes, Credential::Token { until: holder.until, id: holder.id }))
}

impl From<TokenRefused> for Problem {
    fn from(refused: TokenRefused) -> Self {
        let text = refused.to_string();
        match refused {
            TokenRefused::Invalid(_) => Self::new("invalid_token", text),
            TokenRefused::Expired(_) => Self::new("expired_token", text),
            TokenRefused::Unavailable => Self::new("issuer_unavailable", text).retry_after(5),
        }
    }
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
