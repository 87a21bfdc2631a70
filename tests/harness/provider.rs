//! An issuer of tokens as a server: it publishes keys, which a test can change.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::issuer::claims;
use super::origin::{Origin, ok};

/// What tokens are for.
pub const RESOURCE: &str = "https://tools.example.com";

/// What an issuer at `url` answers.
pub fn answer(url: &str, path: &str, keys: &str) -> Vec<u8> {
    match path {
        "/.well-known/openid-configuration" => {
            ok(json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string().as_bytes())
        }
        "/keys" => ok(keys.as_bytes()),
        _ => b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
    }
}

/// An issuer on this machine, whose keys a test changes. None: it is broken.
pub struct Issuer {
    pub origin: Origin,
    keys: Arc<Mutex<Option<String>>>,
}

impl Issuer {
    pub fn start(keys: Option<String>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let published = keys.clone();
        let origin = Origin::start(move |seen| {
            let Some(keys) = published.lock().unwrap().clone() else {
                return b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec();
            };
            let url = format!("http://{}", seen.field("host").unwrap());
            answer(&url, seen.line.split(' ').nth(1).unwrap(), &keys)
        });
        Self { origin, keys }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.origin.port)
    }

    pub fn publish(&self, keys: Option<String>) {
        *self.keys.lock().unwrap() = keys;
    }

    pub fn config(&self, more: Value) -> Value {
        let mut issuer = json!({
            "issuer": self.url(), "audience": RESOURCE, "algorithms": ["RS256", "ES256", "EdDSA"],
            "tenant_claim": "org",
        });
        issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        issuer
    }

    pub fn claims(&self, subject: &str, scope: &str) -> Value {
        let mut claims = claims(&self.url(), subject, scope);
        claims["org"] = "acme".into();
        claims
    }
}
