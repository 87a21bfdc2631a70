//! Problems (RFC 9457): the one place where errors become HTTP. Each has a
//! stable code; the table is a snapshot in the tests.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::Error;
use bulkhead_core::ports::rates::Standing;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::ports::workspace::WorkspaceError;
use bulkhead_core::reached::{Bound, unit};
use bulkhead_core::service::keys::KeyRefused;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::rate;

/// An error as a client sees it: `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:bulkhead:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Stable, machine readable.
    pub code: &'static str,
    /// What this code means, always the same.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, and what to do about it.
    pub detail: String,
    /// Whether the same request may succeed later without a change.
    pub retryable: bool,
    /// Further fields of this code.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub more: Map<String, Value>,
    /// In a box, since a problem is the error of most functions here.
    #[serde(skip)]
    later: Option<Box<Later>>,
}

/// What a client should know before it comes again.
#[derive(Clone, Copy, Debug, Default)]
struct Later {
    retry_after_s: Option<u32>,
    standing: Option<Standing>,
}

/// A row of the table of problems.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The code.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What the code means.
    pub title: &'static str,
    /// Whether the same request may succeed later without a change.
    pub retryable: bool,
}

const fn row(code: &'static str, status: u16, title: &'static str) -> Row {
    Row { code, status, title, retryable: false }
}

const fn later(code: &'static str, status: u16, title: &'static str) -> Row {
    Row { code, status, title, retryable: true }
}

/// Every problem that this server sends.
pub const TABLE: &[Row] = &[
    row("invalid_request", 400, "The request is not valid"),
    row("malformed_json", 400, "The body is not the JSON that this operation takes"),
    row("unauthenticated", 401, "An API key or token is needed"),
    row("invalid_key", 401, "The API key is not valid"),
    row("expired_key", 401, "The API key has expired"),
    row("revoked_key", 401, "The API key was revoked"),
    row("invalid_token", 401, "The token is not valid"),
    row("expired_token", 401, "The token has expired"),
    row("invalid_ticket", 401, "The ticket opens nothing"),
    row("missing_scope", 403, "The API key or token lacks a scope"),
    row("forbidden_origin", 403, "Pages of this origin may not call"),
    row("not_found", 404, "There is no such thing here"),
    row("content_unknown", 404, "No file of yours has this content"),
    row("no_such_operation", 404, "There is no such operation"),
    row("method_not_allowed", 405, "This path does not take this method"),
    row("websocket_expected", 426, "This operation is a WebSocket"),
    row("wrong_state", 409, "Its state does not allow this"),
    row("file_exists", 409, "The file exists already"),
    row("not_a_directory", 409, "It is not a directory"),
    row("is_a_directory", 409, "It is a directory"),
    row("directory_not_empty", 409, "The directory is not empty"),
    row("held_elsewhere", 409, "Another host has what is needed"),
    later("upload_in_use", 409, "Another request adds to the upload"),
    row("upload_offset", 409, "The upload goes on elsewhere"),
    row("not_regular", 409, "It is neither a file nor a directory"),
    row("events_expired", 410, "These events are no longer kept"),
    row("events_ahead", 409, "The log ends before this cursor"),
    row("precondition_failed", 412, "What is there is not what the request wants"),
    row("too_large", 413, "The body or a part of it is too large"),
    row("unsupported_media_type", 415, "The body has another media type than this operation takes"),
    row("range_not_satisfiable", 416, "The range lies outside the file"),
    row("arguments_mismatch", 422, "The arguments do not fit the tool's schema"),
    row("unknown_tool", 422, "The task has no tool of this name"),
    row("idempotency_key_reused", 422, "The idempotency key was used with another body"),
    row("invalid_path", 422, "The path is not allowed"),
    row("over_limit", 422, "A limit is reached"),
    later("busy", 429, "Too much waits, or is under way"),
    later("rate_limited", 429, "More than is allowed in a minute"),
    later("too_many_requests", 429, "The user has too many requests at once"),
    later("too_many_streams", 429, "Too many streams are open"),
    row("digest_mismatch", 400, "The content has another digest"),
    later("upload_broken", 400, "The upload broke off"),
    later("internal", 500, "The server failed"),
    later("overloaded", 503, "The server is overloaded"),
    later("stopping", 503, "The server is stopping"),
    later("store_unavailable", 503, "The store is unavailable"),
    later("host_unreachable", 503, "The host that holds the task can't be reached"),
    later("issuer_unavailable", 503, "The keys of the token's issuer are unavailable"),
    row("workspace_full", 507, "The task's workspace is full"),
    later("disk_full", 507, "The server's disk is full"),
];

impl Problem {
    /// A problem of the table.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        const UNKNOWN: Row = later("internal", 500, "The server failed");
        let row = TABLE.iter().find(|row| row.code == code).unwrap_or(&UNKNOWN);
        debug_assert_eq!(row.code, code, "not in the table");
        Self {
            kind: format!("urn:bulkhead:problem:{}", row.code),
            code: row.code,
            title: row.title,
            status: row.status,
            detail: detail.into(),
            retryable: row.retryable,
            more: Map::new(),
            later: None,
        }
    }

    /// The same problem with a further field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.into(), value.into());
        self
    }

    /// The same problem with what is used of a limit, if that is known.
    fn using(self, bound: Bound) -> Self {
        let problem = self.with("unit", unit(bound.name));
        match bound.used {
            Some(used) => problem.with("used", used),
            None => problem,
        }
    }

    /// The same problem with `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.later.get_or_insert_default().retry_after_s = Some(seconds);
        self
    }
}

impl Problem {
    /// What `WWW-Authenticate` says (RFC 6750, section 3): who showed nothing is
    /// told no error. Titles and scopes have no sign in them that must be quoted.
    fn challenge(&self) -> Option<String> {
        let realm = "Bearer realm=\"bulkhead\"";
        let error = |code: &str| format!("{realm}, error=\"{code}\", error_description=\"{}\"", self.title);
        match (self.code, self.status) {
            ("unauthenticated", _) => Some(realm.to_owned()),
            ("missing_scope", _) => {
                let scope = self.more.get("scope").and_then(Value::as_str).unwrap_or_default();
                Some(format!("{}, scope=\"{scope}\"", error("insufficient_scope")))
            }
            (_, 401) => Some(error("invalid_token")),
            _ => None,
        }
    }

    /// The problem of one who asks more often than allowed.
    pub fn rate_limited(text: impl Into<String>, standing: Standing, retry_after: Duration) -> Self {
        let mut problem = Self::new("rate_limited", text)
            .with("limit", standing.key())
            // Rounded up: a client that waits that long is allowed.
            .retry_after(u32::try_from(retry_after.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).max(1));
        problem.later.get_or_insert_default().standing = Some(standing);
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let Later { retry_after_s, standing } = self.later.as_deref().copied().unwrap_or_default();
        let challenge = self.challenge();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(standing) = standing {
            rate::describe(headers, standing);
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110, section 15.5.22: it says to what.
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::MissingScope(scope) => Self::new("missing_scope", text).with("scope", scope.as_str()),
            Error::NotFound { .. } => Self::new("not_found", text),
            Error::Invalid { field, .. } => Self::new("invalid_request", text).with("field", field),
            Error::ArgumentsMismatch { mismatches, .. } => {
                let errors: Vec<_> = mismatches
                    .into_iter()
                    .map(|mismatch| json!({"pointer": mismatch.pointer, "message": mismatch.message}))
                    .collect();
                Self::new("arguments_mismatch", text).with("errors", errors)
            }
            Error::TooLarge { key, limit, .. } => Self::new("too_large", text).with("name", key).with("limit", limit),
            Error::UnknownTool { .. } => Self::new("unknown_tool", text),
            Error::WrongState { state, .. } => Self::new("wrong_state", text).with("state", state),
            Error::WorkspaceFull { bound, aside } => Self::new("workspace_full", text)
                .with("limit", bound.name)
                .with("value", bound.value)
                .using(bound)
                .with("kept_bytes", aside.bytes)
                .with("kept_entries", aside.entries),
            Error::UnknownContent(_) => Self::new("content_unknown", text),
            Error::HeldElsewhere(_) => Self::new("held_elsewhere", text),
            Error::WrongOffset { offset } => Self::new("upload_offset", text).with("offset", offset),
            Error::OverQuota(bound) => {
                Self::new("over_limit", text).with("limit", bound.value).with("name", bound.name).using(bound)
            }
            Error::IdempotencyKeyReused => Self::new("idempotency_key_reused", text),
            Error::Busy { retry_after_s, .. } => Self::new("busy", text).retry_after(retry_after_s),
            Error::RateLimited { standing, retry_after } => Self::rate_limited(text, standing, retry_after),
            Error::EventsExpired { after, first } => {
                Self::new("events_expired", text).with("after", after).with("first", first)
            }
            Error::EventsAhead { after, last } => {
                Self::new("events_ahead", text).with("after", after).with("last", last)
            }
            Error::Workspace(error) => error.into(),
            Error::Store(StoreError::NotHeld(_)) => Self::new("host_unreachable", text).retry_after(1),
            Error::Store(StoreError::DiskFull) => {
                tracing::error!(
                    "the disk of the database is full: make room; reads go on, and nothing acknowledged is lost"
                );
                let detail = "the disk of the server's database is full, so nothing was stored of this; nothing is lost \
                              that had been acknowledged";
                Self::new("disk_full", detail).retry_after(5)
            }
            Error::Store(ref source) => {
                tracing::error!(error = %source, cause = ?std::error::Error::source(source), "the store failed");
                Self::new("store_unavailable", text).retry_after(1)
            }
            Error::Sandbox(ref source) => {
                tracing::error!(error = %source, cause = ?std::error::Error::source(source), "the sandbox failed");
                Self::new("internal", text)
            }
            Error::Stopping => Self::new("stopping", text).retry_after(5),
            other => {
                tracing::error!(error = %other, "an error without a code of its own");
                Self::new("internal", "the server failed; its log says why")
            }
        }
    }
}

impl From<WorkspaceError> for Problem {
    fn from(error: WorkspaceError) -> Self {
        let text = error.to_string();
        let code = match error {
            WorkspaceError::NotFound(_) => "not_found",
            WorkspaceError::Exists(_) => "file_exists",
            WorkspaceError::NotADirectory(_) => "not_a_directory",
            WorkspaceError::IsADirectory(_) => "is_a_directory",
            WorkspaceError::NotEmpty(_) => "directory_not_empty",
            WorkspaceError::NotRegular(_) => "not_regular",
            WorkspaceError::BadPath { .. } => "invalid_path",
            WorkspaceError::BadRange { size } => return Self::new("range_not_satisfiable", text).with("size", size),
            WorkspaceError::OverLimit { what: "the file", limit } => {
                return Self::new("too_large", text).with("limit", limit);
            }
            WorkspaceError::OverLimit { limit, .. } => return Self::new("over_limit", text).with("limit", limit),
            WorkspaceError::Precondition(_) => "precondition_failed",
            WorkspaceError::DigestMismatch { found } => {
                return Self::new("digest_mismatch", text).with("digest", found.to_string());
            }
            WorkspaceError::InUse => return Self::new("upload_in_use", text).retry_after(1),
            WorkspaceError::BrokenOff => "upload_broken",
            WorkspaceError::DiskFull => "disk_full",
            WorkspaceError::Io(ref source) => {
                tracing::error!(error = %source, "a file operation failed");
                "internal"
            }
        };
        Self::new(code, text)
    }
}

impl From<KeyRefused> for Problem {
    fn from(refused: KeyRefused) -> Self {
        let text = refused.to_string();
        match refused {
            KeyRefused::Malformed(_) | KeyRefused::Unknown => Self::new("invalid_key", text),
            KeyRefused::Expired(_) => Self::new("expired_key", text),
            KeyRefused::Revoked(_) => Self::new("revoked_key", text),
            KeyRefused::Store(error) => Error::from(error).into(),
        }
    }
}
