//! Requests about a task that another host holds: passed on to it as they are, with
//! the client's own key or token, which that host checks again. So hosts need not
//! trust one another, and what a client may do does not depend on whom it asked.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::ports::cluster::Holder;
use bulkhead_core::principal::Principal;
use bulkhead_core::service::hosts::Pinned;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::percent_decode_str;

use super::Api;
use super::problem::Problem;

/// Says that another host has passed the request on: it is not passed on again.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("bulkhead-forwarded");

/// How long a host may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a connection that nobody needs is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks whether the host that does not answer yet still holds the task.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After so many looks that found somebody else the answer is not waited for.
const GONE: u32 = 3;

/// Fields that are about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// The other hosts, as this one reaches them.
#[derive(Clone, Debug)]
pub struct Peers(Client<HttpConnector, Body>);

impl Default for Peers {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self(client)
    }
}

impl Peers {
    /// Sends a request to another host.
    pub(super) fn request(&self, request: Request) -> ResponseFuture {
        self.0.request(request)
    }
}

/// What a request is about that only the holder of its task can answer; none if any
/// host can. What is not named here is the holder's.
pub fn pinned(method: &Method, path: &str) -> Option<Pinned> {
    let mut parts = path.split('/').skip(1);
    if parts.next() != Some("v1") {
        return None;
    }
    let (things, id) = (parts.next()?, parts.next()?);
    let id = percent_decode_str(id).decode_utf8_lossy();
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    match things {
        "calls" => Some(Pinned::Call(id.parse().ok()?)),
        "tasks" => {
            let anywhere = match (first, second) {
                ("" | "tools" | "calls" | "grants" | "audit" | "history" | "accesses", None) => {
                    method == Method::GET || method == Method::HEAD
                }
                ("events", None | Some("ws")) | ("policy", _) | ("tickets", None) => true,
                _ => false,
            };
            (!anywhere).then(|| id.parse().ok().map(Pinned::Task)).flatten()
        }
        _ => None,
    }
}

/// Passes a request on if another host holds what it is about; gives it back if it is
/// this host's to answer.
pub(super) async fn elsewhere(api: &Api, principal: &Principal, request: Request) -> Result<Response, Request> {
    let Some(pinned) = pinned(request.method(), request.uri().path()) else { return Err(request) };
    let holder = match api.services.hosts.holder(principal, pinned).await {
        Ok(holder) => holder,
        Err(error) => return Ok(Problem::from(error).into_response()),
    };
    // What is stored of a call can be read without its workspace.
    if holder == Holder::Nobody && matches!(pinned, Pinned::Call(_)) && request.method() == Method::GET {
        return Err(request);
    }
    let address = match address_of(holder) {
        Ok(Some(address)) => address,
        Ok(None) => return Err(request),
        Err(problem) => return Ok(problem.into_response()),
    };
    if request.headers().contains_key(FORWARDED) {
        return Ok(unreachable("the task is moving between hosts", 1));
    }
    Ok(pass_on(api, principal, pinned, &address, request).await)
}

/// Where a holder is asked; none if that is here. If nobody can be asked, the answer.
pub(super) fn address_of(holder: Holder) -> Result<Option<String>, Problem> {
    let gone = "the host that has the task's workspace is gone; the task goes on when that host is back";
    let silent = "the host that holds the task has not said where it is reached; see `cluster.advertise` there";
    match holder {
        Holder::Here => Ok(None),
        Holder::Nobody => Err(not_there(gone, 5)),
        Holder::Elsewhere { address } if address.is_empty() => Err(not_there(silent, 5)),
        Holder::Elsewhere { address } => Ok(Some(address)),
    }
}

pub(super) fn unreachable(detail: &str, seconds: u32) -> Response {
    not_there(detail, seconds).into_response()
}

fn not_there(detail: &str, seconds: u32) -> Problem {
    Problem::new("host_unreachable", detail).retry_after(seconds)
}

async fn pass_on(api: &Api, principal: &Principal, pinned: Pinned, address: &str, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let Ok(uri) = format!("{address}{path}").parse::<Uri>() else {
        return unreachable(
            "the address of the host that holds the task can't be used; see `cluster.advertise` there",
            5,
        );
    };
    parts.uri = uri;
    parts.extensions = axum::http::Extensions::new();
    strip(&mut parts.headers);
    parts.headers.remove(header::HOST);
    parts.headers.insert(FORWARDED, HeaderValue::from_static("1"));
    let mut answering = std::pin::pin!(api.peers.request(Request::from_parts(parts, body)));
    let mut gone = 0;
    let answered = loop {
        match tokio::time::timeout(LOOK_EVERY, &mut answering).await {
            Ok(answered) => break answered,
            Err(_) => {
                let holder = api.services.hosts.holder(principal, pinned).await;
                // A store that does not answer says nothing.
                let still = match &holder {
                    Ok(Holder::Elsewhere { address: now }) => now == address,
                    Ok(_) => false,
                    Err(_) => true,
                };
                gone = if still { 0 } else { gone + 1 };
                // A call that has just ended is answered there in a moment.
                if gone == GONE {
                    return unreachable(
                        "the host that holds the task went away; what it did of this is not known: look, or ask again with the same Idempotency-Key",
                        1,
                    );
                }
            }
        }
    };
    match answered {
        Ok(answer) => {
            api.metrics.forwarded("answered");
            let (mut parts, body) = answer.into_parts();
            strip(&mut parts.headers);
            // This host says itself who may read it.
            let cors = |name: &HeaderName| name.as_str().starts_with("access-control-") || name == header::VARY;
            let cors: Vec<_> = parts.headers.keys().filter(|name| cors(name)).cloned().collect();
            for name in cors {
                parts.headers.remove(name);
            }
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => {
            api.metrics.forwarded("failed");
            tracing::warn!(address, error = &error as &dyn std::error::Error, "a request could not be passed on");
            let detail = match error.is_connect() {
                true => "the host that holds the task can't be reached",
                false => {
                    "the connection to the host that holds the task broke; what it did of this is not known: look, or ask again with the same Idempotency-Key"
                }
            };
            unreachable(detail, 1)
        }
    }
}

/// Takes away what is about one connection, and what `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_workspace_is_the_holders() {
        let task = "task_01hzzzzzzzzzzzzzzzzzzzzzzz";
        let call = "call_01hzzzzzzzzzzzzzzzzzzzzzzz";
        let is = |method: Method, path: String| pinned(&method, &path).is_some();
        for path in [
            "",
            "/tools",
            "/calls",
            "/events",
            "/events/ws",
            "/grants",
            "/audit",
            "/policy/echo",
            "/history",
            "/accesses",
        ] {
            assert!(!is(Method::GET, format!("/v1/tasks/{task}{path}")), "{path}");
        }
        for path in ["/files/a/b", "/entries", "/entries/a", "/preview", "/deleted", "/uploads/upl_x"] {
            assert!(is(Method::GET, format!("/v1/tasks/{task}{path}")), "{path}");
        }
        for path in [
            "/calls",
            "/archive",
            "/restore",
            "/grants",
            "/moves",
            "/directories",
            "/transfers",
            "/contents",
            "/uploads",
        ] {
            assert!(is(Method::POST, format!("/v1/tasks/{task}{path}")), "{path}");
        }
        assert!(is(Method::DELETE, format!("/v1/tasks/{task}")));
        assert!(is(Method::DELETE, format!("/v1/tasks/{task}/grants/grant_x")));
        assert!(!is(Method::POST, format!("/v1/tasks/{task}/tickets")));
        for (method, path) in [(Method::GET, ""), (Method::POST, "/cancel"), (Method::POST, "/answers")] {
            assert!(is(method, format!("/v1/calls/{call}{path}")));
        }
        for path in ["/v1/tasks", "/v1/tasks/archive", "/v1/sessions/x", "/v1/tools/x", "/healthz", "/"] {
            assert!(!is(Method::POST, path.to_owned()), "{path}");
        }
    }

    #[test]
    fn fields_of_a_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-hop"), ("x-hop", "1"), ("te", "trailers"), ("authorization", "Bearer x")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["authorization"]);
    }
}
