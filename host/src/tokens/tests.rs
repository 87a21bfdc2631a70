//! Tokens against an issuer that does as it is told: what is taken, what is
//! refused, and how keys come and go.

#![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
#![allow(dead_code, unreachable_pub, reason = "the harness is shared with the tests of whole servers")]

mod checks;
mod fetching;
#[path = "../../../tests/harness/issuer.rs"]
mod issuer;
mod scopes;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::clock::{Clock, Timestamp};
use bulkhead_core::ports::egress::{Egress, EgressError, IncomingResponse, OutgoingRequest};
use bytes::Bytes;
use serde_json::{Value, json};

use self::issuer::{SigningKey, claims, now, set};
use super::{Holder, Issuer, TokenRefused, Tokens, TokensConfig};

const ISSUER: &str = "https://login.example.com";

/// What the network answers.
#[derive(Clone)]
enum Answer {
    Ok(String),
    Status(u16),
    Fails,
    Never,
    /// A body without an end, in pieces of 64 KiB.
    Endless,
}

/// A network with one path for the document and one for the keys.
struct Web {
    document: Mutex<Answer>,
    keys: Mutex<Answer>,
    asked: AtomicUsize,
    /// Hosts and schemes that were asked, and whether private networks were open.
    seen: Mutex<Vec<(String, bool)>>,
}

impl Web {
    fn new(keys: Answer) -> Arc<Self> {
        let document = json!({"issuer": ISSUER, "jwks_uri": "https://login.example.com/keys"}).to_string();
        Arc::new(Self {
            document: Mutex::new(Answer::Ok(document)),
            keys: Mutex::new(keys),
            asked: AtomicUsize::new(0),
            seen: Mutex::default(),
        })
    }

    fn publish(&self, keys: Answer) {
        *self.keys.lock().unwrap() = keys;
    }

    fn fetches(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Egress for Web {
    async fn send(&self, request: OutgoingRequest) -> Result<IncomingResponse, EgressError> {
        let url = format!("{}://{}{}", request.scheme.as_str(), request.host, request.target);
        self.seen.lock().unwrap().push((url, !request.private.is_empty()));
        let is_document = request.target.ends_with("/.well-known/openid-configuration");
        let answer = if is_document {
            self.document.lock().unwrap().clone()
        } else {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.keys.lock().unwrap().clone()
        };
        let respond =
            |status, body| Ok(IncomingResponse { status, header: vec![], address: [127, 0, 0, 1].into(), body });
        match answer {
            Answer::Ok(text) => respond(200, Box::pin(futures::stream::iter([Ok(Bytes::from(text))]))),
            Answer::Status(status) => respond(status, Box::pin(futures::stream::empty())),
            Answer::Fails => Err(EgressError::ConnectionRefused),
            Answer::Never => std::future::pending().await,
            Answer::Endless => {
                let piece = Bytes::from(vec![b' '; 64 * 1024]);
                respond(200, Box::pin(futures::stream::repeat_with(move || Ok(piece.clone()))))
            }
        }
    }
}

/// A clock that a test moves.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// An issuer as configurations have it, with further fields.
fn configured(more: Value) -> Issuer {
    let mut value = json!({
        "issuer": ISSUER, "audience": "https://tools.example.com",
        "algorithms": ["RS256", "ES256", "EdDSA"], "tenant_claim": "org",
    });
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    if value["tenant"].is_string() {
        value.as_object_mut().unwrap().remove("tenant_claim");
    }
    super::issuer::issuers(&json!([value])).unwrap().remove(0)
}

struct Setting {
    tokens: Tokens,
    web: Arc<Web>,
    clock: Arc<Hand>,
}

impl Setting {
    fn of(issuers: Vec<Issuer>, keys: Answer) -> Self {
        let web = Web::new(keys);
        let clock = Arc::new(Hand(AtomicI64::new(now() * 1_000)));
        let config = TokensConfig {
            issuers,
            refresh: Duration::from_secs(600),
            keep: Duration::from_secs(3_600),
            again: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        };
        let tokens = Tokens::new(config, web.clone(), clock.clone()).unwrap();
        tokens.start();
        Self { tokens, web, clock }
    }

    fn with(keys: &[&SigningKey]) -> Self {
        Self::of(vec![configured(json!({}))], Answer::Ok(set(keys)))
    }

    async fn verify(&self, token: &str) -> Result<Holder, TokenRefused> {
        self.tokens.verify(token).await
    }

    /// Why a token is refused, in words.
    async fn refusal(&self, token: &str) -> String {
        self.verify(token).await.expect_err("is refused").to_string()
    }
}

/// Claims of a user of an organisation.
fn alice() -> Value {
    let mut claims = claims(ISSUER, "alice", "tasks:read calls:run");
    claims["org"] = "acme".into();
    claims
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}
