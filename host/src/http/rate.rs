//! Counting requests, and telling clients where they stand: the fields
//! `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bulkhead_core::ports::rates::{Counted, Standing, Taken};
use bulkhead_core::principal::Owner;

use super::Api;
use super::problem::Problem;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Counts a request of an owner, and answers it if it may be answered.
pub(super) async fn count(api: &Api, owner: Owner, answer: impl Future<Output = Response>) -> Response {
    match api.services.calls.rates().take(Counted::Requests, owner).await {
        Taken::Unlimited => answer.await,
        Taken::Allowed(standing) => {
            let mut response = answer.await;
            // What was refused for another rate says where it stands by itself.
            if !response.headers().contains_key(RATE_LIMIT) {
                describe(response.headers_mut(), standing);
            }
            response
        }
        Taken::Refused { standing, retry_after } => {
            Problem::from(bulkhead_core::Error::RateLimited { standing, retry_after }).into_response()
        }
    }
}

/// Says in header fields where a principal stands.
pub(super) fn describe(headers: &mut HeaderMap, standing: Standing) {
    let Standing { rate, counted, of, remaining, reset } = standing;
    let name = format!("{}-per-{}", counted.name(), of.name());
    let fields = [
        (RATE_LIMIT_POLICY, format!("\"{name}\";q={};w=60", rate.per_minute)),
        (RATE_LIMIT, format!("\"{name}\";r={remaining};t={}", reset.as_secs_f64().ceil() as u64)),
    ];
    for (field, text) in fields {
        // Letters, digits and signs that a field may have.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(field, value);
        }
    }
}
