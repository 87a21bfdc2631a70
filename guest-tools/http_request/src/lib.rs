//! The tool `http_request`: one HTTP request, and redirects if they are wanted.

mod error;
mod hop;
mod send;

use std::collections::BTreeMap;

use bulkhead_client::Url;
use bulkhead_tool::{Capability, Description, Outcome, Tool, ToolError};

use hop::Hop;

/// Most of a body that is returned if nothing else is said.
const MAX_BYTES: u64 = 256 * 1024;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    max_bytes: Option<u64>,
    #[serde(default)]
    follow: u32,
}

/// The tool.
pub struct HttpRequest;

impl Tool for HttpRequest {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("http_request", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .wants(Capability::Http("https://*:*".into()))
            .wants(Capability::Http("http://*:*".into()))
            .wants(Capability::Secret("*".into()))
    }

    fn run(args: Args) -> Outcome {
        let url = Url::parse(&args.url).map_err(|why| ToolError::invalid("url", why))?;
        let most = args.max_bytes.unwrap_or(MAX_BYTES);
        send::follow(Hop::first(args.method.as_deref(), url, args.headers, args.body), args.follow, most)
    }
}

bulkhead_tool::export!(HttpRequest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<HttpRequest>(
            bulkhead_tool::serde_json::json!({ "url": "https://example.com/" }),
        );
    }
}
