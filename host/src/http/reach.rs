//! A file or directory of a task that another host holds: asked for there by way of that host's
//! own API, with the client's own key or token, as a request that is passed on is. So
//! that host checks who asks and notes it, and the hosts still trust each other in
//! nothing.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::path::{MAX_NAME, WorkspacePath};
use bulkhead_core::ports::workspace::{ByteStream, WorkspaceError};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use super::auth::{API_KEY, REASON};
use super::files::bytes_of;
use super::forward::{FORWARDED, Peers, unreachable};
use super::problem::Problem;
use super::wire::url_path;

/// How long the other host may say nothing, before its answer or in its middle.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it may take to remove what may be many files.
const REMOVAL: Duration = Duration::from_secs(600);

/// How often something is asked for that is refused for now, because of rates or of what
/// else goes on there.
const TRIES: usize = 10;

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
    #[serde(default)]
    unnamed: u64,
}

/// Of a problem.
#[derive(Debug, Deserialize)]
struct Told {
    code: String,
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
    /// Where a link points; none if it is no link any more.
    pub(super) target: Option<Vec<u8>>,
}

impl Described {
    /// As one of a directory: of its path only the last name counts. None if it has none.
    fn below(self) -> Option<Below> {
        let path = WorkspacePath::from_text(&self.path).ok().filter(|path| !path.is_root())?;
        let target = self.target.map(|target| percent_decode_str(&target).collect());
        Some(Below { name: path.name().to_vec(), kind: self.kind, executable: self.executable, target })
    }

    /// Its media type, if a client said one.
    pub(super) fn media_type(self) -> Option<String> {
        self.content.map(|content| content.media_type)
    }
}

/// What is removed there.
pub(super) enum Removed {
    /// A file, if it is still the one with this tag.
    File(HeaderValue),
    /// A directory, with all it holds.
    Directory,
}

/// A page of a directory there, its names in order.
pub(super) struct Listed {
    pub(super) entries: Vec<Below>,
    /// The name that the next page begins after.
    pub(super) next: Option<Vec<u8>>,
    /// Entries that are not shown, because they can't be named.
    pub(super) unnamed: u64,
}

/// Why there is no answer to go on with.
pub(super) struct Refusal {
    /// What the client is told.
    response: Response,
    /// The code of the problem, if the other host told one.
    code: Option<String>,
}

impl Refusal {
    /// One of this host's.
    fn ours(response: Response) -> Self {
        Self { response, code: None }
    }

    /// What the client is told.
    pub(super) fn into_response(self) -> Response {
        self.response
    }

    /// Whether the other host told this.
    fn says(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the entry that was asked for is not there (or its task is not).
    pub(super) fn is_gone(&self) -> bool {
        self.says("not_found")
    }

    /// Whether the entry that was asked for is another kind of entry by now, or gone.
    pub(super) fn is_swapped(&self) -> bool {
        self.is_gone() || ["not_regular", "is_a_directory", "not_a_directory"].iter().any(|code| self.says(code))
    }

    /// If it is only for now, how long to wait.
    fn wait(&self) -> Option<Duration> {
        let for_now = ["rate_limited", "overloaded"].iter().any(|code| self.says(code));
        let said = self.response.headers().get(header::RETRY_AFTER).filter(|_| for_now)?;
        Some(Duration::from_secs(said.to_str().ok()?.parse().ok()?).min(SILENCE))
    }

    /// What a client is told of what was copied and perhaps not removed there.
    pub(super) fn in_both(&self) -> Response {
        let detail = match self.code {
            Some(_) => "it was copied; the host that holds `from_task` did not remove it there, so it is in both tasks",
            None => {
                "it was copied; the host that holds `from_task` has not said whether it is removed there: look there \
                 before you ask again"
            }
        };
        Problem::new("held_elsewhere", detail).with("answered", self.response.status().as_u16()).into_response()
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
    pub(super) async fn describe(&self) -> Result<Described, Refusal> {
        self.page("limit=1", ANSWER).await.map(|page| page.entry)
    }

    /// The entries of a directory after this name.
    ///
    /// # Errors
    /// As of `describe`; a refusal that is one of what was swapped if it is no directory.
    pub(super) async fn list(&self, after: Option<&[u8]>) -> Result<Listed, Refusal> {
        let mut query = format!("limit={PAGE_ENTRIES}");
        if let Some(after) = after {
            // As text, and that in a query.
            let text = percent_encode(after, NON_ALPHANUMERIC).to_string();
            query.push_str("&after=");
            query.extend(utf8_percent_encode(&text, NON_ALPHANUMERIC));
        }
        let Page { entry, entries, next_after, unnamed } = self.page(&query, PAGE).await?;
        // Anything else is described all the same, with nothing in it.
        if entry.kind != "directory" {
            let response = Problem::from(WorkspaceError::NotADirectory(self.path.to_text())).into_response();
            return Err(Refusal { response, code: Some("not_a_directory".into()) });
        }
        if entries.len() > PAGE_ENTRIES {
            return Err(not_understood());
        }
        let entries: Option<Vec<_>> = entries.into_iter().map(Described::below).collect();
        let entries = entries.ok_or_else(not_understood)?;
        let next: Option<Vec<u8>> = next_after.map(|name| percent_decode_str(&name).collect());
        // In order, or there is no end to it.
        let mut last = after;
        for below in &entries {
            if last.is_some_and(|last| *below.name <= *last) {
                return Err(not_understood());
            }
            last = Some(&below.name);
        }
        let goes_on = |next: &[u8]| after.is_none_or(|after| next > after) && last.is_none_or(|last| next >= last);
        // A name, and no more: it is held for each directory that is gone through.
        if next.as_deref().is_some_and(|next| next.len() > MAX_NAME || !goes_on(next)) {
            return Err(not_understood());
        }
        Ok(Listed { entries, next, unnamed })
    }

    async fn page(&self, query: &str, most: usize) -> Result<Page, Refusal> {
        let answer = self.ask(&format!("entries/{}?{query}", self.url())).await?;
        let body = timeout(SILENCE, to_bytes(Body::new(answer.into_body()), most)).await;
        let page = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Page>(&body).ok());
        page.ok_or_else(not_understood)
    }

    /// Its content, and the fields that came with it.
    ///
    /// # Errors
    /// As of `describe`.
    pub(super) async fn read(&self) -> Result<(HeaderMap, ByteStream), Refusal> {
        let answer = self.ask(&format!("files/{}", self.url())).await?;
        let (parts, body) = answer.into_parts();
        Ok((parts.headers, bytes_of(Body::new(body))))
    }

    /// Deletes it for good. Fine if it is gone.
    ///
    /// # Errors
    /// As of `describe`.
    pub(super) async fn delete(&self, what: Removed) -> Result<(), Refusal> {
        let (recursive, tag) = match what {
            Removed::File(tag) => ("", Some((header::IF_MATCH, tag))),
            Removed::Directory => ("&recursive=true", None),
        };
        let what = format!("files/{}?purge=true{recursive}", self.url());
        let refusal = match self.ask_for(Method::DELETE, &what, tag, REMOVAL).await {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.is_gone() => return Ok(()),
            Err(refusal) if refusal.code.is_some() => return Err(refusal),
            // It may be gone all the same.
            Err(refusal) => refusal,
        };
        match self.describe().await {
            Err(described) if described.is_gone() => Ok(()),
            _ => Err(refusal),
        }
    }

    async fn ask(&self, what: &str) -> Result<axum::http::Response<Incoming>, Refusal> {
        self.ask_for(Method::GET, what, None, SILENCE).await
    }

    /// Asks for something; again, if that is refused only for now, when nothing was done.
    async fn ask_for(
        &self,
        method: Method,
        what: &str,
        condition: Option<(HeaderName, HeaderValue)>,
        patience: Duration,
    ) -> Result<axum::http::Response<Incoming>, Refusal> {
        for _ in 1..TRIES {
            match self.once(method.clone(), what, condition.clone(), patience).await {
                Err(refusal) => match refusal.wait() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(refusal),
                },
                answer => return answer,
            }
        }
        self.once(method, what, condition, patience).await
    }

    async fn once(
        &self,
        method: Method,
        what: &str,
        condition: Option<(HeaderName, HeaderValue)>,
        patience: Duration,
    ) -> Result<axum::http::Response<Incoming>, Refusal> {
        let mut request = Request::new(Body::empty());
        let Ok(uri) = format!("{}/{what}", self.task).parse() else {
            let response = unreachable("the address of the host that holds `from_task` can't be used", 5);
            return Err(Refusal::ours(response));
        };
        (*request.uri_mut(), *request.method_mut()) = (uri, method);
        request.headers_mut().extend(self.who.clone());
        request.headers_mut().extend(condition);
        request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
        let answer = match timeout(patience, self.peers.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "another host could not be asked");
                return Err(Refusal::ours(unreachable("the host that holds `from_task` can't be reached", 1)));
            }
            Err(_) => return Err(Refusal::ours(unreachable("the host that holds `from_task` does not answer", 1))),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        // Why not, in its own words: a problem, whole or not at all.
        let (parts, body) = answer.into_parts();
        match timeout(SILENCE, to_bytes(Body::new(body), ANSWER)).await {
            Ok(Ok(body)) if parts.status.is_client_error() || parts.status.is_server_error() => {
                let told = serde_json::from_slice::<Told>(&body).map(|told| told.code);
                let mut response = (parts.status, body).into_response();
                // Of its fields those that belong to a problem; who may read it, this host says.
                let fields = response.headers_mut();
                fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
                    fields.extend(parts.headers.get(&name).cloned().map(|value| (name, value)));
                }
                Err(Refusal { code: told.ok(), response })
            }
            _ => Err(not_understood()),
        }
    }
}

/// What can't be an answer of one of ours.
pub(super) fn not_understood() -> Refusal {
    Refusal::ours(unreachable("the host that holds `from_task` answered what is not understood", 5))
}
