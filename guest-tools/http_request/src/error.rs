//! What a failed exchange is called, and what to do about it.

use bulkhead_client::{Failure, Url};
use bulkhead_tool::ToolError;
use bulkhead_tool::serde_json::json;

/// The error of a request to `url`.
#[cfg_attr(not(any(test, target_arch = "wasm32")), expect(dead_code, reason = "natively nothing is sent"))]
pub(crate) fn of(failure: &Failure, url: &Url) -> ToolError {
    let code = failure.code.as_str();
    let at = format!("{}://{}", url.scheme, url.authority);
    let (name, message, retryable) = match code {
        "HttpRequestDenied" => (
            "http_denied",
            format!(
                "The request to {at} was refused. The operator's policy and the task's grants must allow this host, \
                method and path; ask for that instead of trying again."
            ),
            false,
        ),
        "DestinationIpProhibited" => (
            "http_denied",
            format!("The name of {at} leads to an address that may not be reached, such as one of a private network."),
            false,
        ),
        "DnsError" | "DnsTimeout" => ("http_dns", format!("The host of {at} could not be resolved."), true),
        "ConnectionLimitReached" => {
            ("http_limit", "The call has sent as many requests as it may, or too many at once.".into(), false)
        }
        "TlsCertificateError" => ("http_tls", format!("The certificate of {at} is not valid for it."), false),
        "TlsProtocolError" => ("http_tls", format!("No secure connection to {at} could be made."), false),
        "ConnectionTimeout" | "HttpResponseTimeout" | "ConnectionReadTimeout" => {
            ("http_timeout", format!("{at} did not answer in time."), true)
        }
        "ConnectionRefused" | "DestinationUnavailable" | "DestinationIpUnroutable" | "ConnectionTerminated" => {
            ("http_unreachable", format!("{at} can't be reached, or ended the connection."), true)
        }
        "HttpResponseBodySize" | "HttpResponseHeaderSectionSize" => {
            ("http_too_large", "The response is larger than the host takes.".into(), false)
        }
        "HttpRequestBodySize" | "HttpRequestHeaderSectionSize" => {
            ("http_too_large", "The request is larger than the host takes.".into(), false)
        }
        "HttpRequestUriInvalid" | "HttpRequestMethodInvalid" => {
            ("http_invalid", "That is no request that can be sent: look at the URL and the method.".into(), false)
        }
        other if other.starts_with("HeaderError") => {
            let message = "A header is not valid, or is one that the host sets by itself (`host`, `connection`, …).";
            ("http_invalid", message.into(), false)
        }
        other => ("http_failed", format!("The request to {at} failed: {other}."), false),
    };
    let error = ToolError::new(name, message).details(&json!({ "code": code, "url": at }));
    if retryable { error.retryable() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_denied_learns_what_to_ask_for() {
        let url = Url::parse("https://a.example/x?secret").expect("a URL");
        let error = of(&Failure { code: "HttpRequestDenied".into() }, &url);
        assert_eq!((error.code.as_str(), error.retryable), ("http_denied", false));
        assert!(error.message.contains("policy") && error.message.contains("https://a.example"));
        assert!(!error.message.contains("secret"));
        assert_eq!(of(&Failure { code: "InternalError".into() }, &url).code, "http_failed");
    }
}
