//! What a client of OAuth 2.0 is told about this server (RFC 9728): which
//! issuers it takes tokens of, so that it can get one by itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bulkhead_core::principal::Scopes;
use serde_json::{Value, json};
use url::Url;

use super::Api;
use super::problem::Problem;

/// Where the document is, below the root. A resource with a path has its own below that.
pub(super) const PATH: &str = "/.well-known/oauth-protected-resource";

/// What the document says, and how it is pointed at.
#[derive(Debug)]
pub struct Resource {
    document: Value,
    /// What is added to `WWW-Authenticate`.
    parameter: String,
    /// The path of the document, if the resource has one.
    pub(super) path: Option<String>,
}

impl Resource {
    /// A resource, known to clients by `url`, with its issuers; none if that is no URL.
    pub fn new(url: &str, issuers: Vec<String>) -> Option<Self> {
        let parsed = Url::parse(url).ok()?;
        let own = parsed.path().trim_end_matches('/').to_owned();
        let metadata = format!("{}{PATH}{own}", parsed.origin().ascii_serialization());
        let scopes = Scopes::all().to_string();
        let document = json!({
            "resource": url,
            "resource_name": "Bulkhead",
            "authorization_servers": issuers,
            "scopes_supported": scopes.split(' ').collect::<Vec<_>>(),
            "bearer_methods_supported": ["header"],
        });
        let plain = own.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        let path = (!own.is_empty() && plain).then(|| format!("{PATH}{own}"));
        Some(Self { document, parameter: format!(", resource_metadata=\"{metadata}\""), path })
    }

    /// Adds to a refusal where the document is.
    pub(super) fn point_at(&self, response: &mut Response) {
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return;
        }
        if let Some(value) = response.headers_mut().get_mut(header::WWW_AUTHENTICATE) {
            let whole = [value.as_bytes(), self.parameter.as_bytes()].concat();
            // A URL and what we wrote ourselves: it is a value.
            if let Ok(whole) = HeaderValue::from_bytes(&whole) {
                *value = whole;
            }
        }
    }
}

/// The document; without issuers there is none.
pub async fn metadata(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let none = || Problem::new("no_such_operation", "no tokens of issuers are taken here");
    api.options.resource.as_ref().map(|resource| Json(resource.document.clone())).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lies_where_the_standard_says() {
        for (url, path, metadata) in [
            ("https://tools.example.com", None, "https://tools.example.com/.well-known/oauth-protected-resource"),
            ("https://a.example:8443/", None, "https://a.example:8443/.well-known/oauth-protected-resource"),
            (
                "https://a.example/mcp",
                Some("/.well-known/oauth-protected-resource/mcp"),
                "https://a.example/.well-known/oauth-protected-resource/mcp",
            ),
        ] {
            let resource = Resource::new(url, vec!["https://i.example".into()]).expect("a URL");
            assert_eq!(resource.path.as_deref(), path);
            assert_eq!(resource.parameter, format!(", resource_metadata=\"{metadata}\""));
            assert_eq!(resource.document["resource"], url);
        }
    }
}
