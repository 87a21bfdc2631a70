//! A file or directory of a task that another host holds: asked for there by way of that host's
//! own API, with the client's own key or token, as a request that is passed on is. So
//! that host checks who asks and notes it, and the hosts still trust each other in
//! nothing.

use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::ByteStream;
use futures::{StreamExt as _, stream};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::auth::{API_KEY, REASON};
use super::forward::{FORWARDED, Peers, strip, unreachable};
use super::problem::Problem;
use super::wire::url_path;

/// How long the other host may say nothing, before its answer or in its middle.
const SILENCE: Duration = Duration::from_secs(30);

/// Most bytes of an answer that is not a file. A description has a path of 4 KiB in it,
/// each byte of which may take three.
const ANSWER: usize = 64 * 1024;

/// Most bytes of a page of a directory.
const PAGE: usize = PAGE_ENTRIES * 3 * ANSWER_PATH;

/// Entries of a page.
const PAGE_ENTRIES: usize = 200;

/// What a path takes in an answer at most, with what is beside it.
const ANSWER_PATH: usize = 14 * 1024;

/// An entry there.
pub(super) struct There<'a> {
    peers: &'a Peers,
    /// The URL of the task.
    task: String,
    path: WorkspacePath,
    /// What tells who asks.
    who: HeaderMap,
}

/// What a host says of an entry, of which no more is needed here.
#[derive(Debug, Deserialize)]
struct Page {
    entry: Described,
    #[serde(default)]
    entries: Vec<Described>,
    next_after: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Described {
    path: String,
    pub(super) kind: String,
    pub(super) executable: bool,
    target: Option<String>,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
struct Content {
    media_type: String,
}

/// An entry of a directory there.
pub(super) struct Below {
    /// Its name.
    pub(super) name: Vec<u8>,
    pub(super) kind: String,
    pub(super) executable: bool,
    /// Where a link points.
    pub(super) target: Vec<u8>,
}

impl Described {
    /// As one of a directory: of its path only the last name counts. None if it has none.
    fn below(self) -> Option<Below> {
        let path = WorkspacePath::from_text(&self.path).ok().filter(|path| !path.is_root())?;
        let target = self.target.map(|target| percent_decode_str(&target).collect()).unwrap_or_default();
        Some(Below { name: path.name().to_vec(), kind: self.kind, executable: self.executable, target })
    }

    /// Its media type, if a client said one.
    pub(super) fn media_type(self) -> Option<String> {
        self.content.map(|content| content.media_type)
    }
}

impl<'a> There<'a> {
    /// `path` of the task `id`, at the host with this address, for the client that sent
    /// these fields.
    pub(super) fn new(peers: &'a Peers, address: &str, id: &str, path: &WorkspacePath, from: &HeaderMap) -> Self {
        let who = [header::AUTHORIZATION, API_KEY, REASON];
        let who = who.into_iter().filter_map(|name| from.get(&name).cloned().map(|value| (name, value))).collect();
        Self { peers, task: format!("{address}/v1/tasks/{id}"), path: path.clone(), who }
    }

    /// The same for another path of that task.
    pub(super) fn at(&self, path: WorkspacePath) -> There<'a> {
        There { peers: self.peers, task: self.task.clone(), path, who: self.who.clone() }
    }

    /// Its path there.
    pub(super) fn path(&self) -> &WorkspacePath {
        &self.path
    }

    fn url(&self) -> String {
        url_path(self.path.as_bytes())
    }

    /// Describes it.
    ///
    /// # Errors
    /// What the other host answered, if that is a refusal; a problem if it did not answer.
    pub(super) async fn describe(&self) -> Result<Described, Response> {
        self.page("limit=1", ANSWER).await.map(|page| page.entry)
    }

    /// The entries of a directory after this name, and the name that the next begin after.
    ///
    /// # Errors
    /// As of `describe`.
    pub(super) async fn list(&self, after: Option<&str>) -> Result<(Vec<Below>, Option<String>), Response> {
        let mut query = format!("limit={PAGE_ENTRIES}");
        if let Some(after) = after {
            query.push_str("&after=");
            query.extend(utf8_percent_encode(after, NON_ALPHANUMERIC));
        }
        let page = self.page(&query, PAGE).await?;
        let entries: Option<Vec<_>> = page.entries.into_iter().map(Described::below).collect();
        Ok((entries.ok_or_else(not_understood)?, page.next_after))
    }

    async fn page(&self, query: &str, most: usize) -> Result<Page, Response> {
        let answer = self.ask(Method::GET, &format!("entries/{}?{query}", self.url())).await?;
        let body = timeout(SILENCE, to_bytes(Body::new(answer.into_body()), most)).await;
        let page = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Page>(&body).ok());
        page.ok_or_else(not_understood)
    }

    /// Its content, and the fields that came with it.
    ///
    /// # Errors
    /// As of `describe`.
    pub(super) async fn read(&self) -> Result<(HeaderMap, ByteStream), Response> {
        let answer = self.ask(Method::GET, &format!("files/{}", self.url())).await?;
        let (parts, body) = answer.into_parts();
        let chunks = stream::unfold(Some(Body::new(body).into_data_stream()), |chunks| async {
            let mut chunks = chunks?;
            match timeout(SILENCE, chunks.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
                Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
                Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        });
        Ok((parts.headers, Box::pin(StreamReader::new(Box::pin(chunks)))))
    }

    /// Deletes it for good, with all it holds; a file only if it is still what `read` had
    /// this tag of.
    ///
    /// # Errors
    /// As of `describe`.
    pub(super) async fn delete(&self, tag: Option<HeaderValue>) -> Result<(), Response> {
        let recursive = if tag.is_some() { "" } else { "&recursive=true" };
        let condition = tag.map(|tag| (header::IF_MATCH, tag));
        self.ask_if(Method::DELETE, &format!("files/{}?purge=true{recursive}", self.url()), condition).await.map(drop)
    }

    async fn ask(&self, method: Method, what: &str) -> Result<axum::http::Response<Incoming>, Response> {
        self.ask_if(method, what, None).await
    }

    async fn ask_if(
        &self,
        method: Method,
        what: &str,
        condition: Option<(HeaderName, HeaderValue)>,
    ) -> Result<axum::http::Response<Incoming>, Response> {
        let mut request = Request::new(Body::empty());
        let Ok(uri) = format!("{}/{what}", self.task).parse() else {
            return Err(unreachable("the address of the host that holds `from_task` can't be used", 5));
        };
        (*request.uri_mut(), *request.method_mut()) = (uri, method);
        request.headers_mut().extend(self.who.clone());
        request.headers_mut().extend(condition);
        request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
        let answer = match timeout(SILENCE, self.peers.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "another host could not be asked");
                return Err(unreachable("the host that holds `from_task` can't be reached", 1));
            }
            Err(_) => return Err(unreachable("the host that holds `from_task` does not answer", 1)),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        // Why not, in its own words: a problem, whole or not at all.
        let (mut parts, body) = answer.into_parts();
        strip(&mut parts.headers);
        match timeout(SILENCE, to_bytes(Body::new(body), ANSWER)).await {
            Ok(Ok(body)) if parts.status.is_client_error() || parts.status.is_server_error() => {
                Err(Response::from_parts(parts, Body::from(body)))
            }
            _ => Err(not_understood()),
        }
    }
}

fn not_understood() -> Response {
    unreachable("the host that holds `from_task` answered what is not understood", 5)
}

/// What a client is told of what was copied and could not be removed there.
pub(super) fn in_both(refusal: &Response) -> Response {
    let detail = "it was copied; the host that holds `from_task` did not remove it there, so it is in both tasks";
    Problem::new("held_elsewhere", detail).with("answered", refusal.status().as_u16()).into_response()
}

/// Whether the other host has not found it.
pub(super) fn is_gone(refusal: &Response) -> bool {
    refusal.status() == StatusCode::NOT_FOUND
}
