//! What it costs that a request comes with a token of an issuer, beside an API key.

use std::time::Duration;

use serde_json::json;

use super::client::load;
use super::harness::issuer::{SigningKey, set};
use super::harness::provider::{Issuer, RESOURCE};
use super::host::Host;

const CLIENTS: usize = 64;

pub fn report(span: Duration) {
    println!("\n== GET /v1/whoami by {CLIENTS} clients, with an API key and with tokens");
    let keys: Vec<_> = ["RS256", "ES256", "EdDSA"].iter().map(|name| SigningKey::new(name, name)).collect();
    let issuer = Issuer::start(Some(set(&keys.iter().collect::<Vec<_>>())));
    let issuers = json!([issuer.config(json!({}))]).to_string();
    let host = Host::start(&[("BULKHEAD_TOKENS__ISSUERS", &issuers), ("BULKHEAD_TOKENS__RESOURCE", RESOURCE)]);
    let measure = |request: &[u8]| {
        load(&host.address, request, CLIENTS, span / 4, None);
        let before = host.cpu();
        let figures = load(&host.address, request, CLIENTS, span, None);
        (figures.line(), (host.cpu() - before).as_secs_f64() * 1e6 / figures.count as f64)
    };
    let (line, by_key) = measure(&host.request("GET", "/v1/whoami", "application/json", b""));
    println!("  API key: {line}; {by_key:.1} us CPU a request");
    for key in &keys {
        let token = key.sign(&issuer.claims("user", "tasks:read"));
        let request = host.request_as(&token, "GET", "/v1/whoami", "application/json", b"");
        let (line, by_token) = measure(&request);
        println!("{:>9}: {line}; {by_token:.1} us CPU a request, {:.2}x", key.algorithm(), by_token / by_key);
    }
}
