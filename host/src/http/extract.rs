//! Extractors: what a request says, parsed at the edge. Every rejection is a
//! problem of ours, never the framework's plain text.

use std::str::FromStr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bulkhead_core::Error;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::principal::Principal;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::Problem;

/// The authenticated caller; put there by [`super::auth`].
pub struct Caller(pub Principal);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let principal = parts.extensions.get::<Principal>().cloned();
        principal.map(Caller).ok_or_else(|| Problem::new("unauthenticated", "send `Authorization: Bearer <API key>`"))
    }
}

/// The id in the path: what follows `/v1/<things>/`. A text that can't be an id
/// names nothing: 404. Taken from the raw URI, because the framework refuses a
/// whole path if a file's name further on is not UTF-8.
pub struct Id<T>(pub T);

impl<T: FromStr, S: Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.path().split('/').nth(3).unwrap_or_default();
        // A client may encode any character of an id, `_` too (RFC 3986, section 2.1).
        let text = percent_decode_str(text).decode_utf8_lossy();
        text.parse().map(Id).map_err(|_| Problem::new("not_found", "there is no such thing here"))
    }
}

/// What follows the id and one more name in the path: `/v1/<things>/<id>/<name>/<this>`.
pub struct Part(pub String);

impl<S: Sync> FromRequestParts<S> for Part {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.path().split('/').nth(5).unwrap_or_default();
        Ok(Self(percent_decode_str(text).decode_utf8_lossy().into_owned()))
    }
}

/// The path of a file, from the raw URI after `/files/` or `/entries/`: names
/// that are not UTF-8 arrive as percent-encoded bytes.
pub struct FilePath(pub WorkspacePath);

impl<S: Sync> FromRequestParts<S> for FilePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // `/v1/tasks/<task>/<files or entries>/<path>`
        let raw = parts.uri.path().splitn(6, '/').nth(5).unwrap_or_default();
        let bytes: Vec<u8> = percent_decode_str(raw).collect();
        Ok(Self(WorkspacePath::parse(&bytes)?))
    }
}

/// A path as it stands in our JSON: `%XX` for bytes that are not text.
pub fn path_from_text(field: &str, text: &str) -> Result<WorkspacePath, Problem> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    WorkspacePath::parse(&bytes).map_err(|error| Problem::from(error).with("field", field))
}

/// The query string.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = AxumQuery::<T>::from_request_parts(parts, state).await;
        query.map(|AxumQuery(query)| Self(query)).map_err(|rejection| {
            Problem::new("invalid_request", format!("the query string: {}", rejection.body_text()))
        })
    }
}

/// The bytes of a body that says it is JSON; parsed by [`JsonBody::parse`], so
/// that a handler can borrow from them.
pub struct JsonBody(pub Bytes);

impl FromRequest<Arc<Api>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" {
            return Err(Problem::new("unsupported_media_type", "send `Content-Type: application/json`"));
        }
        body(request, api.options.max_body_bytes, "http.max_body_bytes").await.map(Self)
    }
}

impl JsonBody {
    /// Parses the body: an object, as all of ours are. An array would pass for one, its
    /// items for the fields in their order.
    pub fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        if self.0.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::new("malformed_json", "the body must be a JSON object"));
        }
        serde_json::from_slice(&self.0).map_err(|error| Problem::new("malformed_json", format!("the body: {error}")))
    }
}

/// A whole body of at most `limit` bytes, which is set by `key`. Here and not in a layer
/// of the routes: each costs every request a box and a clone of all below it.
pub async fn body(mut request: Request, limit: usize, key: &'static str) -> Result<Bytes, Problem> {
    DefaultBodyLimit::max(limit).apply(&mut request);
    Bytes::from_request(request, &()).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Error::TooLarge { what: "the body", key, limit: limit as u64 }.into()
        } else {
            Problem::new("upload_broken", "the body could not be read to its end")
        }
    })
}
